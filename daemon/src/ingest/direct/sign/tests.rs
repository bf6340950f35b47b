//! The status table of the protocol sheet, row by row, and the key.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

const NOW: u64 = 1_763_800_000;

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
        .collect()
}

fn refused(status: u16, pairs: &[(&'static str, &str)], body: &str) -> Error {
    refusal(status, &headers(pairs), body.as_bytes(), NOW)
}

#[test]
fn a_limit_is_waited_out_as_told() {
    let body = r#"{"code":429,"message":"slow down","limit_label":"rate_limit_account_hour"}"#;
    let wait = |pairs: &[(&'static str, &str)]| match refused(429, pairs, body) {
        Error::Limited { wait, label } => {
            assert_eq!(label, "rate_limit_account_hour");
            wait.as_secs()
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(
        wait(&[("retry-after", "7"), ("x-ratelimit-reset", "1763809999")]),
        7
    );
    assert_eq!(wait(&[("x-ratelimit-reset", "1763800090")]), 90);
    assert_eq!(
        wait(&[("x-ratelimit-reset", "1763700000")]),
        1,
        "a reset in the past"
    );
    assert_eq!(wait(&[("ratelimit-reset", "30")]), 30);
    assert_eq!(wait(&[]), UNTOLD_WAIT.as_secs());
    assert_eq!(wait(&[("retry-after", "soon")]), UNTOLD_WAIT.as_secs());
    assert_eq!(
        wait(&[("retry-after", "99999999999")]),
        LONGEST_WAIT.as_secs()
    );
}

#[test]
fn every_status_has_its_meaning() {
    let message = r#"{"message":"because"}"#;
    for status in [401, 402, 403] {
        let error = refused(status, &[], message);
        assert_eq!(
            error,
            Error::Refused {
                status,
                message: "because".to_owned()
            }
        );
        assert_eq!(error.reason(), "sign_refused");
    }
    assert_eq!(
        refused(404, &[], message),
        Error::UnknownRoom("because".to_owned())
    );
    assert_eq!(refused(420, &[], "<html>"), Error::Blocked);
    for status in [500, 503, 418, 302, 204] {
        let error = refused(status, &[("retry-after", "3")], r#"{"error":"broken"}"#);
        let wait = Some(Duration::from_secs(3));
        assert_eq!(
            error,
            Error::Failed {
                status,
                message: "broken".to_owned(),
                wait
            }
        );
        assert_eq!(error.reason(), "sign_failed");
    }
    assert!(
        refused(500, &[], "no json")
            .to_string()
            .ends_with("no message")
    );
}

#[test]
fn a_good_answer_is_taken_and_an_incomplete_one_is_not() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/encoded/fetch-initial.bin");
    let body = Bytes::from(std::fs::read(path).unwrap());
    let cookie = ("x-set-tt-cookie", "ttwid=1%7Cx; Path=/");

    let signed = accept(&headers(&[cookie, ("x-room-id", "7301")]), &body).unwrap();
    assert_eq!(signed.cookie, "ttwid=1%7Cx; Path=/");
    assert_eq!(signed.room_id.as_deref(), Some("7301"));
    assert_eq!(signed.result.messages.len(), 2);
    let strange = accept(&headers(&[cookie, ("x-room-id", "../7301")]), &body).unwrap();
    assert_eq!(strange.room_id, None, "no room id");

    let error = accept(&headers(&[("handshake-msg", "DEVICE_BLOCKED")]), &body).unwrap_err();
    assert_eq!(error, Error::NoCookie(Some("DEVICE_BLOCKED".to_owned())));
    assert_eq!(
        error.to_string(),
        "the sign server gave no cookie: DEVICE_BLOCKED"
    );

    let whole = FetchResult::decode(body.clone()).unwrap();
    let without_cursor = FetchResult {
        cursor: String::new(),
        ..whole.clone()
    };
    let without_address = FetchResult {
        push_server: String::new(),
        ..whole
    };
    for (bad, why) in [
        (Bytes::from(without_cursor.encode_to_vec()), "no cursor"),
        (Bytes::from(without_address.encode_to_vec()), "no address"),
        (
            Bytes::from_static(b"\xff\xff\xff no fetch result"),
            "no protobuf",
        ),
        (Bytes::new(), "no cursor"),
    ] {
        let error = accept(&headers(&[cookie]), &bad).unwrap_err();
        assert!(
            matches!(&error, Error::Invalid(text) if text.contains(why)),
            "{error}"
        );
    }
}

#[test]
fn a_repeated_key_is_struck_out() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let signer = Signer {
        http: http::sign_client(None).unwrap(),
        base: "https://sign.example".parse().unwrap(),
        path: SignPath::Connect,
        key: Some(SecretString::from("hunter2")),
        budget: Arc::new(Budget::new("euler", 1, 1)),
    };
    let error = refused(401, &[], r#"{"message":"key hunter2 is unknown"}"#);
    let text = signer.without_key(error).to_string();
    assert!(
        text.contains("key … is unknown") && !text.contains("hunter2"),
        "{text}"
    );
}

/// Signs room 7301 against a server that takes one request; its request line and headers.
async fn request(path: SignPath, key: Option<&str>) -> (Url, Vec<String>) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base: Url = format!("http://{}/euler/", listener.local_addr().unwrap())
        .parse()
        .unwrap();
    let signer = Signer {
        http: http::sign_client(None).unwrap(),
        base: base.clone(),
        path,
        key: key.map(SecretString::from),
        budget: Arc::new(Budget::new("euler", 1, 1)),
    };
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.unwrap());
        }
        let answer = "HTTP/1.1 404 Not Found\r\ncontent-length: 20\r\nconnection: close\r\n\r\n{\"message\":\"no one\"}";
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(request).unwrap()
    };
    let (answer, request) = tokio::join!(signer.sign("7301"), server);
    assert_eq!(
        answer.unwrap_err(),
        Error::UnknownRoom("no one".to_owned()),
        "the answers are the same on both paths"
    );
    let mut lines = request.lines().map(str::to_lowercase);
    let words = request.lines().next().unwrap().split(' ');
    let words: Vec<&str> = words.collect();
    assert_eq!((words[0], words[2]), ("GET", "HTTP/1.1"));
    lines.next();
    (base.join(words[1]).unwrap(), lines.collect())
}

#[tokio::test]
async fn both_paths_ask_as_the_protocol_sheet_says() {
    let of_a_room = [("room_id", "7301")];
    let (connect, fetch) = ("/euler/webcast/rooms/7301/connect", "/euler/webcast/fetch");
    for (path, target, room) in [
        (SignPath::Connect, connect, &of_a_room[..0]),
        (SignPath::Fetch, fetch, &of_a_room[..]),
    ] {
        for key in [None, Some("canary-key")] {
            let (url, headers) = request(path, key).await;
            assert_eq!(url.path(), target);
            let mut wanted = room.to_vec();
            wanted.extend([
                ("client", "ttlive-other"),
                ("user_agent", device::USER_AGENT),
                ("client_enter", "true"),
                ("platform", "web"),
            ]);
            let query: Vec<(String, String)> = url.query_pairs().into_owned().collect();
            let query: Vec<(&str, &str)> = query
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect();
            assert_eq!(query, wanted, "and no key in the address");
            let accept = "accept: application/protobuf, application/json";
            assert!(headers.iter().any(|line| line == accept), "{headers:?}");
            let keys: Vec<&String> = headers.iter().filter(|line| line.contains("key")).collect();
            match key {
                None => assert!(keys.is_empty(), "{keys:?}"),
                Some(_) => assert_eq!(keys, ["x-api-key: canary-key"]),
            }
        }
    }
}
