//! The stand-in as a client meets it: one that does all of it right unless a test tells it
//! otherwise.

mod broadcasts;
mod euler;
mod troubles;
mod visitor;

use std::path::Path;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use prost::Message as _;
use tokio_tungstenite::tungstenite::{self, Message};

use self::visitor::{AGENT, Client, Got, Visitor, WEB_PARAMS};
use super::*;
use crate::wire::{FetchResult, RoomMessage};

pub(super) fn capture(name: &str) -> Capture {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/captures");
    Capture::read(&folder.join(format!("{name}.ndjson"))).unwrap()
}

pub(super) fn script(name: &str) -> Script {
    Script::new().creator(Creator::plays(name, capture(name)))
}

#[tokio::test]
async fn a_right_client_gets_the_whole_capture_and_no_reproach() {
    let upstream = Upstream::start(script("room-d")).await.unwrap();
    let visitor = Visitor::new(&upstream);
    let page = visitor
        .get(&format!("/@room-d/live?{WEB_PARAMS}"))
        .await
        .text()
        .await
        .unwrap();
    let state = page
        .split("type=\"application/json\">")
        .nth(1)
        .unwrap()
        .split("</script>");
    let state: serde_json::Value = serde_json::from_str({ state }.next().unwrap()).unwrap();
    let info = &state["LiveRoom"]["liveRoomUserInfo"];
    assert_eq!(info["user"]["status"], 2);
    assert_eq!(
        info["user"]["roomId"],
        upstream.room_id("room-d").unwrap().to_string()
    );

    let mut client = visitor.enter("ROOM-D").await;
    let (messages, end) = client.drain().await;
    assert_eq!(end, Some((1000, String::new())));
    let lines = capture("room-d").lines;
    assert_eq!(messages.len(), lines.len());
    let now = fresh::now_ms();
    for (message, line) in messages.iter().zip(&lines) {
        assert_eq!(message.method, line.method);
        let (old, new) = (
            patch::header(&line.payload).unwrap(),
            patch::header(&message.payload),
        );
        let new = new.unwrap();
        assert_eq!(new.msg_id, message.msg_id);
        assert_eq!(new.room_id != 0, old.room_id != 0);
        assert!(new.room_id == 0 || new.room_id == client.room_id);
        assert_eq!(new.create_time == 0, old.create_time == 0);
        let age = now - new.create_time;
        assert!(
            new.create_time == 0 || (-10_000..120_000).contains(&age),
            "{age} ms old"
        );
    }
    let ids: std::collections::HashSet<_> = messages.iter().map(|message| message.msg_id).collect();
    assert_eq!(ids.len(), 49, "one message is in the capture twice");

    let sent = upstream.sent();
    assert!(
        sent.iter()
            .map(|sent| &sent.payload)
            .eq(messages.iter().map(|m| &m.payload))
    );
    assert!(sent.iter().map(|sent| sent.line).eq((0..50).map(Some)));
    assert!(upstream.finished("room-d"));
    assert_eq!(upstream.violations(), []);
    // The last acks may still be on their way.
    while upstream.counts().acks < upstream.counts().acks_wanted {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let counts = upstream.counts();
    assert!(counts.acks > 0 && counts.acks < counts.frames, "{counts:?}");
    assert_eq!((counts.messages, counts.history, counts.signs), (50, 0, 1));

    let api = format!("/api-live/user/room/?{WEB_PARAMS}&uniqueId=room-d&sourceType=54");
    assert_eq!(
        visitor.json(&api).await["data"]["user"]["status"],
        4,
        "it is over"
    );
    assert_eq!(
        visitor.sign(&client.room_id.to_string()).await.unwrap_err(),
        404
    );
}

#[tokio::test]
async fn each_broadcast_of_a_capture_has_its_own_room() {
    let mut script = script("mixed");
    script.offline_pause = Duration::from_millis(20);
    script.laps = Some(2);
    let upstream = Upstream::start(script).await.unwrap();
    let visitor = Visitor::new(&upstream);
    let mut broadcasts = Vec::new();
    while !upstream.finished("mixed") {
        if upstream.room_id("mixed").is_none() {
            tokio::time::sleep(Duration::from_millis(2)).await;
            continue;
        }
        let mut client = visitor.enter("mixed").await;
        let (messages, _) = client.drain().await;
        broadcasts.push((client.room_id, messages.len()));
    }
    let lengths: Vec<_> = broadcasts.iter().map(|(_, length)| *length).collect();
    assert_eq!(lengths, [236, 15, 178, 236, 15, 178]);
    broadcasts.dedup_by_key(|(room, _)| *room);
    assert_eq!(broadcasts.len(), 6);
    assert_eq!(upstream.violations(), []);
}

#[tokio::test]
async fn who_drops_and_comes_back_goes_on_where_it_was_and_gets_some_history() {
    let upstream = Upstream::start(script("room-d")).await.unwrap();
    let drop = Fault::Playback {
        after_frames: 5,
        act: Act::Drop,
    };
    assert!(
        upstream.fault("room-d", drop)
            && !upstream.fault("nobody", Fault::Captcha { skip: 0, times: 1 })
    );
    let visitor = Visitor::new(&upstream);
    let mut client = visitor.enter("room-d").await;
    let room = client.room_id;
    let (before, end) = client.drain().await;
    assert_eq!(end, None, "no close frame");
    let mut client = visitor.enter("room-d").await;
    assert_eq!(client.room_id, room, "the same broadcast");
    let repeated: Vec<_> = client
        .history
        .iter()
        .map(|message| message.msg_id)
        .collect();
    assert!(client.history.iter().all(|message| message.is_history));
    let tail: Vec<_> = before[before.len() - 6..]
        .iter()
        .map(|message| message.msg_id)
        .collect();
    assert_eq!(repeated, tail);
    let (after, _) = client.drain().await;
    assert!(
        after[..6].iter().all(|message| message.is_history),
        "again in the first frame"
    );
    assert_eq!(before.len() + after.len() - 6, 50);
    assert_eq!(upstream.counts().history, 12);
    assert_eq!(upstream.violations(), []);
}

#[tokio::test]
async fn several_clients_get_the_same() {
    let mut script = script("room-d");
    script.pace = Pace::Every(Duration::from_millis(20));
    let upstream = Upstream::start(script).await.unwrap();
    let visitor = Visitor::new(&upstream);
    let room = visitor.room_id("room-d").await;
    let (mut one, mut two) = (visitor.connect(&room).await, visitor.connect(&room).await);
    one.enter().await;
    assert_eq!(one.next().await, Got::Reply("im_enter_room_resp".into()));
    two.enter().await;
    let ((one, _), (two, _)) = tokio::join!(one.drain(), two.drain());
    assert_eq!(one.len(), 50);
    let ids = |messages: &[RoomMessage]| {
        let mut ids: Vec<_> = messages.iter().map(|message| message.msg_id).collect();
        ids.dedup();
        ids
    };
    assert!(ids(&one).ends_with(&ids(&two)) || ids(&two).len() > 40);
}

#[tokio::test]
async fn trouble_comes_as_ordered() {
    let frame = Bytes::from_static(b"\xffgarbage");
    let at = |after_frames, act| Fault::Playback { after_frames, act };
    let message = Act::Message {
        method: "WebcastChatMessage".into(),
        payload: frame.clone(),
    };
    let creator = Creator::plays("room-d", capture("room-d"))
        .fault(at(
            1,
            Act::Frame {
                bytes: frame.clone(),
            },
        ))
        .fault(at(
            2,
            Act::Text {
                text: "hello".into(),
            },
        ))
        .fault(at(3, message))
        .fault(at(
            6,
            Act::Close {
                code: 1011,
                reason: "oops".into(),
            },
        ))
        .fault(at(8, Act::Hang))
        .fault(Fault::Sign {
            skip: 1,
            times: 1,
            refusal: Refusal::Status {
                status: 429,
                retry_after: Some(3),
            },
        })
        .fault(Fault::Handshake {
            skip: 1,
            times: 1,
            message: "DEVICE_BLOCKED".into(),
            status: 415,
        });
    let upstream = Upstream::start(Script::new().creator(creator))
        .await
        .unwrap();
    let visitor = Visitor::new(&upstream);
    let mut client = visitor.enter("room-d").await;
    let mut got = Vec::new();
    loop {
        match client.next().await {
            Got::Reply(_) => {}
            Got::Closed(how) => break assert_eq!(how, Some((1011, "oops".into()))),
            other => got.push(other),
        }
    }
    assert_eq!(got[1], Got::Binary(frame.clone()));
    assert_eq!(got[3], Got::Text("hello".into()));
    let Got::Messages(with_bad) = &got[5] else {
        panic!("{:?}", got[5])
    };
    assert!(
        with_bad
            .iter()
            .any(|message| message.payload == frame && message.msg_id != 0)
    );

    let room = visitor.room_id("room-d").await;
    let answer = visitor
        .get(&format!(
            "/webcast/rooms/{room}/connect?client=x&user_agent=Mozilla/5"
        ))
        .await;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["retry-after"]),
        (429, &"3".parse().unwrap())
    );
    let signed = visitor.sign(&room).await.unwrap();
    match visitor.open(&room, &signed, |url| url).await.unwrap_err() {
        tungstenite::Error::Http(answer) => {
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.headers()["handshake-msg"], "DEVICE_BLOCKED");
            assert_eq!(answer.headers()["handshake-status"], "415");
        }
        other => panic!("{other}"),
    }

    let mut client = visitor.enter("room-d").await;
    let mut replies = 0;
    let silence = async {
        loop {
            match client.next().await {
                Got::Reply(_) => replies += 1,
                Got::Messages(_) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    tokio::time::timeout(Duration::from_millis(500), silence)
        .await
        .unwrap_err();
    assert_eq!(replies, 2);
    client.beat().await;
    let quiet = tokio::time::timeout(Duration::from_millis(300), client.socket.next()).await;
    assert!(quiet.is_err(), "a hung server answers no heartbeat");
    drop(client);
    let (rest, _) = visitor.enter("room-d").await.drain().await;
    let lines = rest.iter().filter(|message| !message.is_history).count();
    assert_eq!(upstream.sent().len(), 51, "{lines} after the silence");
}

#[tokio::test]
async fn refusals_name_what_is_wrong_with_a_signing_or_a_look_up() {
    let script = script("room-d")
        .creator(Creator::new("asleep", Show::Offline))
        .creator(Creator::new("shy", Show::NeverLive))
        .creator(Creator::new("guarded", Show::Captcha));
    let upstream = Upstream::start(script).await.unwrap();
    let visitor = Visitor::new(&upstream);
    let api =
        |name: &str| format!("/api-live/user/room/?{WEB_PARAMS}&uniqueId={name}&sourceType=54");
    assert_eq!(visitor.json(&api("nobody")).await["statusCode"], 19_881_007);
    assert_eq!(
        visitor.json(&api("asleep")).await["data"]["user"]["status"],
        4
    );
    assert_eq!(
        visitor.json(&api("shy")).await["data"]["user"]["roomId"],
        ""
    );
    assert_eq!(visitor.get(&api("guarded")).await.text().await.unwrap(), "");
    let page = |name: &str| format!("/@{name}/live?{WEB_PARAMS}");
    let text = visitor.get(&page("guarded")).await.text().await.unwrap();
    assert!(!text.contains("SIGI_STATE"));
    let text = visitor.get(&page("nobody")).await.text().await.unwrap();
    assert!(text.contains("SIGI_STATE") && !text.contains("LiveRoom"));
    assert_eq!(
        visitor.json("/api-live/user/room/").await["message"],
        "params_error"
    );

    let room = visitor.room_id("room-d").await;
    let info = format!("/webcast/room/info/?{WEB_PARAMS}&room_id={room}");
    assert_eq!(
        visitor.json(&info).await["data"]["owner"]["display_id"],
        "room-d"
    );
    let alive = format!("/webcast/room/check_alive/?{WEB_PARAMS}&room_ids={room},1");
    let alive = visitor.json(&alive).await;
    assert_eq!(
        (&alive["data"][0]["alive"], &alive["data"][1]["alive"]),
        (&true.into(), &false.into())
    );
    let anonymous = visitor.get("/webcast/anchors/room-d/room_id").await;
    assert_eq!(anonymous.status(), 401);
    let by_name = visitor
        .json("/webcast/anchors/room-d/room_id?apiKey=any")
        .await;
    assert_eq!(by_name["room_id"], room.as_str());
    assert_eq!(visitor.sign("1234").await.unwrap_err(), 404);
    for refusal in [
        Refusal::MissingCookie,
        Refusal::MissingCursor,
        Refusal::Garbage,
    ] {
        upstream.fault(
            "room-d",
            Fault::Sign {
                skip: 0,
                times: 1,
                refusal: refusal.clone(),
            },
        );
        let answer = visitor
            .get(&format!(
                "/webcast/fetch?room_id={room}&client=x&user_agent=Mozilla/5"
            ))
            .await;
        assert_eq!(answer.status(), 200);
        assert_eq!(
            answer.headers().contains_key("x-set-tt-cookie"),
            !matches!(refusal, Refusal::MissingCookie)
        );
        let result = FetchResult::decode(answer.bytes().await.unwrap());
        match refusal {
            Refusal::Garbage => assert!(result.is_err()),
            Refusal::MissingCursor => assert_eq!(result.unwrap().cursor, ""),
            _ => assert_ne!(result.unwrap().cursor, ""),
        }
    }
    assert_eq!(upstream.violations(), []);
    assert_eq!(upstream.counts().signs_refused, 4);
}

#[tokio::test]
async fn what_a_client_does_wrong_is_written_down() {
    let mut script = script("room-d");
    script.heartbeat_timeout = Duration::from_millis(300);
    script.pace = Pace::Every(Duration::from_millis(50));
    let upstream = Upstream::start(script).await.unwrap();
    let visitor = Visitor::new(&upstream);
    let found = |part: &str| {
        let all = upstream.violations();
        assert!(
            all.iter().any(|violation| violation.what.contains(part)),
            "{part}: {all:#?}"
        );
    };

    visitor.get("/@room-d/live?aid=1").await;
    found("parameter aid is \"1\"");
    found("parameter device_id is missing");
    let room = visitor.room_id("room-d").await;
    visitor
        .get(&format!("/webcast/rooms/{room}/connect?session_id=secret"))
        .await;
    found("parameter client is missing");
    found("session cookie was sent to the sign server");

    let signed = visitor.sign(&room).await.unwrap();
    let mut socket = visitor
        .open(&room, &signed, |url| {
            let agent: String = url::form_urlencoded::byte_serialize(AGENT.as_bytes()).collect();
            assert!(url.contains(&agent));
            url.replace("device_platform=web&", "device_platform=web_pc&")
                .replace("%2B%2F%3D%26", "+%2F%3D%26")
                .replace("&version_code=270000", "&empty=")
        })
        .await
        .unwrap();
    found("parameter device_platform is \"web_pc\"");
    found("parameter imprp is Some(\" /=&");
    found("parameter empty is Some");
    found("version_code is [\"180800\"]");
    let again = visitor.open(&room, &signed, |url| url).await;
    assert!(matches!(again, Err(tungstenite::Error::Http(_))));
    found("the signed address was used before");
    let unsigned = visitor.sign(&room).await.unwrap();
    let other = visitor
        .open(&room, &unsigned, |url| url.replace("wrds_v", "wrds_w"))
        .await;
    assert!(matches!(other, Err(tungstenite::Error::Http(_))));
    found("internal_ext is none that was signed");

    socket
        .send(Message::Binary(Bytes::from_static(b"\xff")))
        .await
        .unwrap();
    socket.send(Message::text("hello")).await.unwrap();
    let mut client = Client {
        socket,
        room_id: room.parse().unwrap(),
        beats: 4,
        history: vec![],
    };
    client.enter().await;
    client.say("ack", 77, vec![]).await;
    client.beat().await;
    let (_, end) = client.drain().await;
    assert_eq!(end, Some((1000, "payload_handler_hb".into())));
    found("not a push frame");
    found("sent a text message");
    found("heartbeat number 5, expected 1");
    found("heartbeats come too fast");
    found("ack for 77, which wants none or has one");
    found("sent no heartbeat in time");
}

#[tokio::test]
async fn an_address_grows_old() {
    let mut script = script("room-d");
    script.signed_life = Duration::from_millis(30);
    let upstream = Upstream::start(script).await.unwrap();
    let visitor = Visitor::new(&upstream);
    let room = visitor.room_id("room-d").await;
    let signed = visitor.sign(&room).await.unwrap();
    tokio::time::sleep(Duration::from_millis(60)).await;
    let late = visitor.open(&room, &signed, |url| url).await;
    assert!(matches!(late, Err(tungstenite::Error::Http(_))));
    assert_eq!(
        upstream.violations()[0].what,
        "the signed address is too old"
    );
}

#[tokio::test]
async fn stopping_frees_the_port_and_ends_connections() {
    let upstream = Upstream::start(script("room-d")).await.unwrap();
    let visitor = Visitor::new(&upstream);
    let room = visitor.room_id("room-d").await;
    let mut client = visitor.connect(&room).await;
    let address = upstream.base_url().replace("http://", "");
    upstream.stop().await;
    assert_eq!(client.next().await, Got::Closed(None));
    let mut script = script("room-d");
    script.listen = address.parse().unwrap();
    let restarted = Upstream::start(script).await.unwrap();
    assert_ne!(restarted.room_id("room-d").unwrap().to_string(), room);
}
