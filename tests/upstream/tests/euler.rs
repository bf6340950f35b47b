//! Euler's WebSocket and REST routes as a client meets them.

use std::collections::HashSet;

use base64::{Engine, prelude::BASE64_STANDARD};
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio_tungstenite::tungstenite::{self, Message};

use super::{
    capture, script,
    visitor::{Client, Got, Socket, Visitor, WEB_PARAMS},
};
use crate::*;

async fn open(upstream: &Upstream, query: &str) -> Result<Socket, tungstenite::Error> {
    let url = format!("{}/?{query}", upstream.euler_ws_url());
    let (socket, _) = tokio_tungstenite::connect_async(url).await?;
    Ok(socket)
}

/// Everything that comes, as messages; and how it ended.
async fn drain(socket: &mut Socket) -> (Vec<Value>, Option<(u16, String)>) {
    let mut all = Vec::new();
    loop {
        let next = tokio::time::timeout(Duration::from_secs(10), socket.next());
        let text = match next.await.expect("something within 10 s") {
            Some(Ok(Message::Text(text))) => text.to_string(),
            Some(Ok(Message::Binary(bytes))) => String::from_utf8(bytes.to_vec()).unwrap(),
            Some(Ok(Message::Close(Some(frame)))) => {
                return (all, Some((frame.code.into(), frame.reason.to_string())));
            }
            Some(Ok(_)) => continue,
            None | Some(Err(_)) => return (all, None),
        };
        match serde_json::from_str(&text).unwrap() {
            Value::Array(messages) => all.extend(messages),
            bare if bare["type"].is_string() => all.push(bare),
            envelope => {
                assert!(envelope["timestamp"].is_i64());
                all.extend(envelope["messages"].as_array().cloned().unwrap_or_default());
            }
        }
    }
}

async fn end_of(upstream: &Upstream, query: &str) -> (u16, String) {
    let mut socket = open(upstream, query).await.unwrap();
    drain(&mut socket).await.1.expect("a close code")
}

fn ids(messages: &[Value], header: &str) -> Vec<String> {
    let room = messages
        .iter()
        .filter(|one| one["type"].as_str().unwrap().starts_with("Webcast"));
    room.map(|one| {
        one["data"][header]["msgId"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    })
    .collect()
}

#[tokio::test]
async fn a_capture_plays_as_json_with_the_ids_of_the_ledger() {
    for (version, at_least) in [("v3", 40), ("v2", 40), ("v1", 10)] {
        let upstream = Upstream::start(script("room-d")).await.unwrap();
        let room = upstream.room_id("room-d").unwrap().to_string();
        let query = format!("uniqueId=@ROOM-D&apiKey=k-{version}&features.schemaVersion={version}");
        let mut socket = open(&upstream, &query).await.unwrap();
        let (messages, end) = drain(&mut socket).await;
        assert_eq!(end, Some((4005, "STREAM_END".into())));
        let kinds: Vec<_> = messages
            .iter()
            .map(|one| one["type"].as_str().unwrap())
            .collect();
        assert_eq!(kinds[..3], ["workerInfo", "roomInfo", "tiktok.connect"]);
        assert_eq!(messages[0]["data"]["schemaVersion"], version);
        assert_eq!(messages[1]["data"]["roomInfo"]["id"], room.as_str());
        assert_eq!(messages[1]["data"]["user"]["uniqueId"], "room-d");

        let delivered = upstream.deliveries();
        assert!(
            delivered
                .iter()
                .all(|one| one.provider == Provider::Euler && !one.again)
        );
        assert_eq!(delivered.len(), messages.len() - 3, "{version}");
        assert!(
            delivered.len() >= at_least,
            "{version}: {}",
            delivered.len()
        );
        let unknown = usize::try_from(upstream.counts().euler_unknown).unwrap();
        assert_eq!(delivered.len() + unknown, 50);
        let sent: HashSet<_> = upstream
            .sent()
            .iter()
            .map(|one| one.msg_id.to_string())
            .collect();
        let header = if version == "v1" { "event" } else { "common" };
        let said = ids(&messages, header);
        assert!(
            said.iter()
                .filter(|id| !id.is_empty())
                .all(|id| sent.contains(id))
        );
        assert!(said.iter().filter(|id| !id.is_empty()).count() >= at_least);
        assert!(upstream.arrived(&format!("k-{version}")) && !upstream.arrived("k-other"));
        assert!(
            upstream
                .sent()
                .iter()
                .all(|one| one.via == [Provider::Euler])
        );
        assert_eq!(upstream.violations(), []);
    }
}

#[tokio::test]
async fn both_providers_show_the_same_broadcast() {
    let mut script = script("room-d");
    script.pace = Pace::Every(Duration::from_millis(20));
    let upstream = Upstream::start(script).await.unwrap();
    let visitor = Visitor::new(&upstream);
    let room = visitor.room_id("room-d").await;
    let mut direct = visitor.connect(&room).await;
    let query = "uniqueId=room-d&apiKey=k&features.schemaVersion=v3";
    let mut euler = open(&upstream, query).await.unwrap();
    direct.enter().await;
    let ((over_direct, _), (over_euler, _)) = tokio::join!(direct.drain(), drain(&mut euler));
    let direct: HashSet<_> = over_direct
        .iter()
        .map(|one| one.msg_id.to_string())
        .collect();
    let euler = ids(&over_euler, "common");
    let both = euler.iter().filter(|id| direct.contains(*id)).count();
    assert!(both > 30, "{both}");
    let sent = upstream.sent();
    assert!(
        sent.iter()
            .any(|one| one.via == [Provider::Direct, Provider::Euler])
    );
    for provider in [Provider::Direct, Provider::Euler] {
        assert!(
            upstream
                .deliveries()
                .iter()
                .any(|one| one.provider == provider)
        );
    }
}

#[tokio::test]
async fn every_form_of_envelope_holds_the_same() {
    for form in [
        Form::Envelope,
        Form::Binary,
        Form::Bare,
        Form::Array,
        Form::Mixed,
    ] {
        for bundle in ["true", "0"] {
            let mut script = script("room-d");
            script.euler.form = form;
            let upstream = Upstream::start(script).await.unwrap();
            let query = format!(
                "uniqueId=room-d&apiKey=k&features.schemaVersion=v3&features.bundleEvents={bundle}"
            );
            let mut socket = open(&upstream, &query).await.unwrap();
            let (messages, _) = drain(&mut socket).await;
            assert_eq!(messages.len() - 3, upstream.deliveries().len(), "{form:?}");
        }
    }
}

#[tokio::test]
async fn raw_messages_are_push_frames_that_want_acks() {
    let upstream = Upstream::start(script("room-d")).await.unwrap();
    let query = "uniqueId=room-d&apiKey=k&features.rawMessages=1";
    let mut client = Client {
        socket: open(&upstream, query).await.unwrap(),
        room_id: upstream.room_id("room-d").unwrap(),
        beats: 0,
        history: vec![],
    };
    for kind in ["workerInfo", "roomInfo"] {
        match client.next().await {
            Got::Text(text) => assert!(text.contains(kind), "{text}"),
            other => panic!("{other:?}"),
        }
    }
    let (messages, end) = client.drain().await;
    assert_eq!(end, Some((4005, "STREAM_END".into())));
    assert_eq!(messages.len(), 50);
    assert_eq!(upstream.counts().euler_unknown, 0);
    let counts = upstream.counts();
    assert!(
        counts.acks > 0 && counts.acks <= counts.acks_wanted,
        "{counts:?}"
    );
    assert_eq!(upstream.violations(), []);
}

#[tokio::test]
async fn raw_bytes_come_along_when_wanted() {
    let upstream = Upstream::start(script("room-d")).await.unwrap();
    let query = "uniqueId=room-d&apiKey=k&features.includeRawBytes=true&features.schemaVersion=v3";
    let mut socket = open(&upstream, query).await.unwrap();
    let (messages, _) = drain(&mut socket).await;
    let bytes = |text: &Value| BASE64_STANDARD.decode(text.as_str().unwrap()).unwrap();
    let mut raw = 0;
    for message in &messages[3..] {
        if message["type"] == "tiktok.rawBytes" {
            let frame = bytes(&message["data"]["raw"]);
            let (_, result) = wire::read_server_frame(&frame, 1 << 20).unwrap();
            raw += result.unwrap().messages.len();
        } else {
            assert_eq!(
                patch::header(&bytes(&message["raw"]))
                    .unwrap()
                    .msg_id
                    .to_string(),
                message["data"]["common"]["msgId"].as_str().unwrap()
            );
        }
    }
    assert_eq!(raw, 50);
}

#[tokio::test]
async fn refusals_are_close_codes_or_statuses() {
    let mut script = script("room-d").creator(Creator::new("asleep", Show::Offline));
    script.euler.keys = vec!["good".into()];
    script.euler.tokens = vec![Token {
        jwt: "pass".into(),
        creators: vec!["asleep".into()],
    }];
    script.euler.sockets = 2;
    script.pace = Pace::Every(Duration::from_millis(200));
    let upstream = Upstream::start(script).await.unwrap();
    for (query, code) in [
        ("uniqueId=room-d&apiKey=bad", 4401),
        ("uniqueId=room-d", 4401),
        ("uniqueId=room-d&jwtKey=other", 4401),
        ("uniqueId=room-d&jwtKey=pass", 4403),
        ("uniqueId=asleep&jwtKey=pass", 4404),
        ("uniqueId=nobody&apiKey=good", 4404),
        ("uniqueId=asleep&apiKey=good", 4404),
        ("apiKey=good", 4400),
        (
            "uniqueId=room-d&apiKey=good&features.schemaVersion=v9",
            4400,
        ),
        (
            "uniqueId=room-d&apiKey=good&features.bundleEvents=maybe",
            4400,
        ),
        (
            "uniqueId=room-d&apiKey=good&features.closeInactiveWebSocketAfter=5",
            4400,
        ),
    ] {
        assert_eq!(end_of(&upstream, query).await.0, code, "{query}");
    }
    let good = "uniqueId=room-d&apiKey=good";
    let one = open(&upstream, good).await.unwrap();
    let two = open(&upstream, good).await.unwrap();
    assert_eq!(
        end_of(&upstream, good).await,
        (4429, "TOO_MANY_CONNECTIONS".into())
    );
    drop((one, two));

    for code in [1011, 4006, 4429, 4500, 4555, 4556, 4557] {
        let fault = format!(r#"{{"eulerClose": {{"times": 1, "code": {code}}}}}"#);
        upstream.fault("room-d", serde_json::from_str(&fault).unwrap());
        // The sockets of before may not be gone yet.
        let (got, reason) = loop {
            let end = end_of(&upstream, good).await;
            if end.0 != 4429 || code == 4429 {
                break end;
            }
        };
        assert_eq!(got, code);
        assert_eq!(reason, crate::euler::close_name(code));
    }
    let fault = r#"{"http": {"place": "eulerSocket", "times": 1, "trouble":
        {"status": {"status": 429, "retryAfter": 7, "label": "rate_limit_account_day"}}}}"#;
    upstream.fault("room-d", serde_json::from_str(fault).unwrap());
    let by_url = good.replace("room-d", "https%3A%2F%2Fwww.tiktok.com%2F%40room-d%2Flive");
    match open(&upstream, &by_url).await.unwrap_err() {
        tungstenite::Error::Http(answer) => {
            assert_eq!(answer.status(), 429);
            assert_eq!(answer.headers()["retry-after"], "7");
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn silence_age_and_pings_have_their_times() {
    let idle = || Script::new().load(1, &Load::new(1, 0.0));
    let query = "uniqueId=load-0&apiKey=k";
    let mut script = idle();
    script.euler.inactive_after = Some(Duration::from_millis(200));
    script.euler.ping_every = Duration::from_millis(50);
    let upstream = Upstream::start(script).await.unwrap();
    assert_eq!(end_of(&upstream, query).await.0, 4006);
    assert!(upstream.counts().pongs > 0);
    let mut script = idle();
    script.euler.lifetime = Duration::from_millis(200);
    let upstream = Upstream::start(script).await.unwrap();
    assert_eq!(
        end_of(&upstream, query).await,
        (4555, "MAX_LIFETIME_EXCEEDED".into())
    );
}

#[tokio::test]
async fn faults_can_be_meant_for_one_provider() {
    let mut script = script("room-d");
    script.pace = Pace::Every(Duration::from_millis(10));
    let upstream = Upstream::start(script).await.unwrap();
    let visitor = Visitor::new(&upstream);
    let mut direct = visitor.enter("room-d").await;
    let mut euler = open(&upstream, "uniqueId=room-d&apiKey=k").await.unwrap();
    for text in [
        r#"{"timestamp": 1, "messages": [{"type": "SyntheticJoinMessage", "data": {}}]}"#,
        r#"[{"type": "WebcastChatMessage", "data": {"comment": 7}}]"#,
    ] {
        let act = Act::Text { text: text.into() };
        let fault = Fault::On {
            provider: Provider::Euler,
            after_frames: 3,
            act,
        };
        upstream.fault("room-d", fault);
    }
    let close = Act::Close {
        code: 4500,
        reason: String::new(),
    };
    let fault = Fault::On {
        provider: Provider::Euler,
        after_frames: 8,
        act: close,
    };
    upstream.fault("room-d", fault);
    let ((over_direct, end), (over_euler, euler_end)) =
        tokio::join!(direct.drain(), drain(&mut euler));
    assert_eq!(end, Some((1000, String::new())));
    assert_eq!(over_direct.iter().filter(|one| !one.is_history).count(), 50);
    assert_eq!(euler_end, Some((4500, "TIKTOK_CLOSED_CONNECTION".into())));
    assert!(
        over_euler
            .iter()
            .any(|one| one["type"] == "SyntheticJoinMessage")
    );
    assert!(over_euler.iter().any(|one| one["data"]["comment"] == 7));
}

#[tokio::test]
async fn who_speaks_to_euler_is_written_down_and_who_comes_back_gets_history() {
    let mut script = script("room-d");
    script.pace = Pace::Every(Duration::from_millis(20));
    let upstream = Upstream::start(script).await.unwrap();
    let query = "uniqueId=room-d&apiKey=k&features.schemaVersion=v3";
    let mut socket = open(&upstream, query).await.unwrap();
    socket.send(Message::text("hello")).await.unwrap();
    let drop = Fault::Playback {
        after_frames: 10,
        act: Act::Drop,
    };
    upstream.fault("room-d", drop);
    let (before, end) = drain(&mut socket).await;
    assert_eq!(end, None);
    let mut socket = open(&upstream, query).await.unwrap();
    let (after, _) = drain(&mut socket).await;
    let (before, after) = (ids(&before, "common"), ids(&after, "common"));
    let deliveries = upstream.deliveries();
    let again = deliveries.iter().filter(|one| one.again).count();
    // Of the last six, those that v3 knows.
    assert!((1..=6).contains(&again));
    assert_eq!(before[before.len() - again..], after[..again]);
    assert!(upstream.violations()[0].what.contains("said something"));
}

#[tokio::test]
async fn rest_routes_know_keys_plans_and_limits() {
    let mut script = script("room-d");
    script.euler.keys = vec!["good".into()];
    script.euler.limits.hour = 3;
    script.euler.plan = Plan::Community;
    let upstream = Upstream::start(script).await.unwrap();
    let visitor = Visitor::new(&upstream);
    let status = async |path: &str| visitor.get(path).await.status().as_u16();
    assert_eq!(status("/webcast/gifts").await, 401);
    assert_eq!(status("/webcast/gifts?apiKey=bad").await, 401);
    assert_eq!(
        status("/webcast/anchors/room-d/room_id?apiKey=good").await,
        403
    );
    let gifts = visitor.json("/webcast/gifts?apiKey=good").await;
    let gifts = gifts["response"]["data"]["gifts"].as_array().unwrap();
    assert!(
        gifts
            .iter()
            .any(|gift| gift["name"] == "Rose" && gift["diamond_count"] == 1)
    );
    let room = visitor.room_id("room-d").await;
    visitor.sign(&room).await.unwrap();
    visitor.sign(&room).await.unwrap();
    let path = format!("/webcast/rooms/{room}/connect?client=x&user_agent=Mozilla/5");
    let refused = visitor.get(&path).await;
    assert_eq!(refused.status(), 429);
    let wait: u32 = refused.headers()["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((3_500..=3_600).contains(&wait));
    assert!(refused.headers().contains_key("x-ratelimit-reset"));
    let body: Value = refused.json().await.unwrap();
    assert_eq!(
        (&body["code"], &body["limit_label"]),
        (&429.into(), &"rate_limit_account_hour".into())
    );
    let limits = visitor.json("/accounts/me/rate_limits?type=WEBCAST").await;
    assert_eq!(
        (&limits["hour"]["max"], &limits["hour"]["remaining"]),
        (&3.into(), &0.into())
    );
    assert_eq!(limits["minute"]["remaining"], 999_997);

    let list = format!("/webcast/gift/list/?{WEB_PARAMS}&room_id={room}");
    assert_eq!(visitor.get(&list).await.text().await.unwrap(), "");
    let list = visitor.json(&format!("{list}&X-Bogus=1")).await;
    assert!(list["data"]["gifts"].as_array().unwrap().len() > 3);
    let leak = format!("/webcast/room/info/?{WEB_PARAMS}&room_id={room}&apiKey=good");
    visitor.get(&leak).await;
    let violations = upstream.violations();
    assert!(
        violations
            .iter()
            .any(|one| one.what.contains("key of Euler's")),
        "{violations:?}"
    );
    assert_eq!(capture("room-d").lines.len(), 50);
}
