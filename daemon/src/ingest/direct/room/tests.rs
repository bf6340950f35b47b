//! The outcome table of the protocol sheet, row by row, and the order of asking.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use rustls_platform_verifier::ConfigVerifierExt as _;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::ingest::socket::Dialer;

const ROOM: &str = "7301234567890123456";

fn live_info(status: &Value, room_id: &str) -> Value {
    json!({
        "user": { "id": "6801", "roomId": room_id, "uniqueId": "Alice", "nickname": "Alice A.", "status": 4 },
        "liveRoom": { "status": status, "title": "Hello", "startTime": 1_763_800_000 },
    })
}

fn page(state: &str) -> String {
    format!(
        "<html><script nonce=x id=\"SIGI_STATE\" type=\"application/json\">{state}</script></html>"
    )
}

fn page_of(info: &Value) -> String {
    page(&json!({ "LiveRoom": { "liveRoomUserInfo": info } }).to_string())
}

fn api_of(info: &Value) -> String {
    json!({ "statusCode": 0, "message": "", "data": info }).to_string()
}

fn room() -> Room {
    Room {
        id: ROOM.to_owned(),
        unique_id: Some("Alice".to_owned()),
        owner_id: Some("6801".to_owned()),
        owner_nickname: Some("Alice A.".to_owned()),
        title: Some("Hello".to_owned()),
        started_at: Some(Timestamp::from_millis(1_763_800_000_000)),
        paused: false,
    }
}

#[test]
fn a_status_has_its_meaning() {
    let judged = |status| judge(account(&live_info(&status, ROOM)));
    assert_eq!(judged(json!(2)), Ok(Sighting::Live(room())));
    assert_eq!(judged(json!("2")), Ok(Sighting::Live(room())));
    assert_eq!(
        judged(json!(3)),
        Ok(Sighting::Live(Room {
            paused: true,
            ..room()
        }))
    );
    assert_eq!(judged(json!(4)), Ok(Sighting::Offline));
    assert_eq!(
        judged(json!(1)),
        Ok(Sighting::Live(room())),
        "anything but 4 may be live"
    );
    assert_eq!(
        judged(Value::Null),
        Ok(Sighting::Offline),
        "then the user's own status counts"
    );
    for none in ["", "0"] {
        assert_eq!(
            judge(account(&live_info(&json!(2), none))),
            Ok(Sighting::NeverLive)
        );
    }
    let without = json!({ "user": { "roomId": ROOM } });
    assert!(
        matches!(judge(account(&without)), Err(Fault::Unclear(_))),
        "unknown is not offline"
    );
    assert!(matches!(
        judge(account(&live_info(&json!(2), "../x"))),
        Err(Fault::Unclear(_))
    ));
}

#[test]
fn a_page_is_read_or_blocked() {
    let ok = StatusCode::OK;
    let live = page_of(&live_info(&json!(2), ROOM));
    assert_eq!(read_page(ok, &live).unwrap().unwrap().room, room());
    assert_eq!(
        read_page(ok, &page("{\"UserPage\":{}}")),
        Ok(None),
        "unknown, or never live"
    );
    assert_eq!(read_page(StatusCode::NOT_FOUND, "<html>"), Ok(None));
    for (status, body) in [
        (ok, "<html>Verify to continue</html>".to_owned()),
        (ok, page("not json")),
        (StatusCode::FORBIDDEN, String::new()),
        (StatusCode::FOUND, String::new()),
        (StatusCode::TOO_MANY_REQUESTS, String::new()),
    ] {
        assert!(
            matches!(read_page(status, &body), Err(Fault::Blocked(_))),
            "{status} {body}"
        );
    }
    assert!(matches!(
        read_page(StatusCode::BAD_GATEWAY, ""),
        Err(Fault::Unreachable(_))
    ));
}

#[test]
fn an_api_answer_is_read_or_blocked() {
    let ok = StatusCode::OK;
    let read = |body: &str| read_api(ok, body);
    assert_eq!(
        read(&api_of(&live_info(&json!(2), ROOM))),
        Ok(Sighting::Live(room()))
    );
    assert_eq!(
        read(&api_of(&live_info(&json!(4), ROOM))),
        Ok(Sighting::Offline)
    );
    assert_eq!(
        read(&api_of(&live_info(&json!(4), ""))),
        Ok(Sighting::NeverLive)
    );
    let unknown = r#"{"statusCode":19881007,"message":"user_not_found","data":null}"#;
    assert_eq!(read(unknown), Ok(Sighting::UnknownUser));
    assert_eq!(
        read(r#"{"statusCode":0,"message":"","data":null}"#),
        Ok(Sighting::UnknownUser)
    );
    let refused = read(r#"{"statusCode":10201,"message":"params_error","data":null}"#);
    assert_eq!(
        refused,
        Err(Fault::Refused("status 10201 params_error".to_owned()))
    );
    for blocked in ["", "  ", "<html>captcha</html>"] {
        assert!(
            matches!(read(blocked), Err(Fault::Blocked(_))),
            "{blocked:?}"
        );
    }
    assert!(matches!(
        read_api(StatusCode::FORBIDDEN, "{}"),
        Err(Fault::Blocked(_))
    ));
    assert!(matches!(read("[]"), Err(Fault::Refused(_))));
}

#[test]
fn a_room_info_tells_what_is_kept_from_us() {
    let read = |body: &str| read_info(StatusCode::OK, body);
    assert_eq!(
        read(r#"{"status_code":4003110,"data":{"message":"adults"}}"#),
        Ok(Info::Restricted)
    );
    assert_eq!(
        read(r#"{"status_code":0,"data":{"prompts":"adults","a":1,"b":2}}"#),
        Ok(Info::Restricted)
    );
    assert_eq!(
        read(r#"{"status_code":0,"data":{"a":1}}"#),
        Ok(Info::Restricted)
    );
    let Ok(Info::Room {
        status,
        title,
        started_at,
    }) = read(
        r#"{"status_code":0,"data":{"status":4,"title":"T","create_time":1763800000,"owner":{}}}"#,
    )
    else {
        panic!("not read as a room")
    };
    assert_eq!((status, title.as_deref()), (Some(ENDED), Some("T")));
    assert_eq!(started_at, Some(Timestamp::from_millis(1_763_800_000_000)));
    let refused =
        read(r#"{"status_code":4003003,"data":{"message":"room not found","prompts":""}}"#);
    assert_eq!(
        refused,
        Err(Fault::Refused("status 4003003 room not found".to_owned()))
    );
    assert!(matches!(read("<html>"), Err(Fault::Blocked(_))));
}

/// Answers by path, in a server of its own; returns also the paths that were asked for.
async fn look(answers: &[(&'static str, u16, String)]) -> (Result<Sighting, Error>, Vec<String>) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base: Url = format!("http://{}/", listener.local_addr().unwrap())
        .parse()
        .unwrap();
    let answers: HashMap<_, _> = answers
        .iter()
        .map(|(path, status, body)| ((*path).to_owned(), (*status, body.clone())))
        .collect();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let server = tokio::spawn({
        let asked = asked.clone();
        async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(stream.read_u8().await.unwrap());
                }
                let request = String::from_utf8(request).unwrap();
                let target = request.split(' ').nth(1).unwrap();
                let path = target.split('?').next().unwrap().to_owned();
                let (status, body) = answers.get(&path).cloned().unwrap_or((500, String::new()));
                asked.lock().unwrap().push(path);
                let answer = format!(
                    "HTTP/1.1 {status} X\r\nlocation: /login\r\nset-cookie: ttwid=abc; Path=/\r\n\
                     content-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    });
    let device = Arc::new(Device::new());
    let dialer = Dialer {
        proxy: None,
        tls: Arc::new(rustls::ClientConfig::with_platform_verifier().unwrap()),
    };
    let http = http::web_client(&device, &dialer).unwrap();
    let host = Host {
        url: base,
        budget: Budget::new("test", 6_000, 100),
    };
    let lookout = Lookout {
        urgency: Urgency::Poll,
        http: &http,
        device: &device,
        web: &host,
        webcast: &host,
    };
    let sighting = lookout.look("alice").await;
    server.abort();
    assert_eq!(device.socket_cookies(), "ttwid=abc", "cookies are kept");
    let asked = asked.lock().unwrap().clone();
    (sighting, asked)
}

const PAGE: &str = "/@alice/live";
const API: &str = "/api-live/user/room/";
const INFO: &str = "/webcast/room/info/";

fn info(status: i64) -> String {
    json!({ "status_code": 0, "data": { "status": status, "title": "T", "owner": {} } }).to_string()
}

#[tokio::test]
async fn a_live_page_is_enough_and_is_confirmed_by_the_room() {
    let page = page_of(&live_info(&json!(2), ROOM));
    let (sighting, asked) = look(&[(PAGE, 200, page), (INFO, 200, info(2))]).await;
    assert_eq!(sighting, Ok(Sighting::Live(room())));
    assert_eq!(asked, [PAGE, INFO]);
}

#[tokio::test]
async fn the_api_is_asked_when_the_page_is_blocked() {
    let api = api_of(&live_info(&json!(2), ROOM));
    let (sighting, asked) = look(&[(PAGE, 200, "captcha".to_owned()), (API, 200, api)]).await;
    assert_eq!(
        sighting,
        Ok(Sighting::Live(room())),
        "the room info failed, which does not matter"
    );
    assert_eq!(asked, [PAGE, API, INFO]);
}

#[tokio::test]
async fn a_page_without_a_room_is_checked_by_the_api() {
    let unknown = r#"{"statusCode":19881007,"message":"user_not_found","data":null}"#.to_owned();
    let (sighting, _) = look(&[(PAGE, 200, page("{}")), (API, 200, unknown)]).await;
    assert_eq!(sighting, Ok(Sighting::UnknownUser));
    let never = page_of(&live_info(&json!(4), ""));
    let (sighting, asked) = look(&[(PAGE, 200, never), (API, 403, String::new())]).await;
    assert_eq!(sighting, Ok(Sighting::NeverLive));
    assert_eq!(asked, [PAGE, API]);
}

#[tokio::test]
async fn two_failures_are_told_together_and_are_not_offline() {
    let (sighting, _) = look(&[(PAGE, 302, String::new()), (API, 200, String::new())]).await;
    let error = sighting.unwrap_err();
    assert_eq!(error.reason(), "blocked");
    assert_eq!(
        error.to_string(),
        "page: blocked by TikTok (a redirect to a login or verification page); \
         api: blocked by TikTok (an empty answer)"
    );
    let (sighting, _) = look(&[]).await;
    assert_eq!(sighting.unwrap_err().reason(), "unresolved");
}

#[tokio::test]
async fn the_room_itself_has_the_last_word() {
    let page = page_of(&live_info(&json!(2), ROOM));
    let (sighting, _) = look(&[(PAGE, 200, page.clone()), (INFO, 200, info(4))]).await;
    assert_eq!(sighting, Ok(Sighting::Offline));
    let adults = r#"{"status_code":4003110,"data":{}}"#.to_owned();
    let (sighting, _) = look(&[(PAGE, 200, page), (INFO, 200, adults)]).await;
    let error = sighting.unwrap_err();
    assert_eq!(
        (error.reason(), error),
        ("age_restricted", Error::AgeRestricted(ROOM.to_owned()))
    );
}
