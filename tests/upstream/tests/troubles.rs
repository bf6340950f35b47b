//! HTTP answers and sockets that go wrong, each as ordered and for as long.

use std::time::Instant;

use futures_util::StreamExt;
use tokio_tungstenite::tungstenite;

use super::{
    script,
    visitor::{Got, Visitor, WEB_PARAMS},
};
use crate::*;

fn arm(upstream: &Upstream, json: &str) {
    let fault = serde_json::from_str(json).unwrap_or_else(|error| panic!("{json}: {error}"));
    assert!(upstream.fault("room-d", fault));
}

fn trouble(upstream: &Upstream, place: &str, trouble: &str) {
    arm(
        upstream,
        &format!(r#"{{"http": {{"place": "{place}", "times": 1, "trouble": {trouble}}}}}"#),
    );
}

#[tokio::test]
async fn every_place_can_answer_anything_once() {
    let upstream = Upstream::start(script("room-d")).await.unwrap();
    let visitor = Visitor::new(&upstream);
    let room = visitor.room_id("room-d").await;
    let places = [
        ("page", format!("/@room-d/live?{WEB_PARAMS}")),
        (
            "api",
            format!("/api-live/user/room/?{WEB_PARAMS}&uniqueId=Room-D&sourceType=54"),
        ),
        (
            "roomInfo",
            format!("/webcast/room/info/?{WEB_PARAMS}&room_id={room}"),
        ),
        (
            "sign",
            format!("/webcast/rooms/{room}/connect?client=x&user_agent=Mozilla/5"),
        ),
        (
            "sign",
            format!("/webcast/fetch?room_id={room}&client=x&user_agent=Mozilla/5"),
        ),
        (
            "roomId",
            "/webcast/anchors/room-d/room_id?apiKey=k".to_owned(),
        ),
    ];
    for (place, path) in &places {
        for status in [401, 402, 403, 404, 420, 429, 500, 503] {
            trouble(
                &upstream,
                place,
                &format!(r#"{{"status": {{"status": {status}}}}}"#),
            );
            let answer = visitor.get(path).await;
            assert_eq!(answer.status(), status, "{place}");
            let body: serde_json::Value = answer.json().await.unwrap();
            assert_eq!(body["code"], status);
            assert_eq!(body["limit_label"].is_string(), status == 429);
        }
        trouble(&upstream, place, r#""empty""#);
        let answer = visitor.get(path).await;
        assert_eq!(
            (answer.status().as_u16(), answer.text().await.unwrap().len()),
            (200, 0)
        );
        trouble(&upstream, place, r#""html""#);
        assert!(
            visitor
                .get(path)
                .await
                .text()
                .await
                .unwrap()
                .contains("<!doctype html>")
        );
        trouble(&upstream, place, r#""verify""#);
        let page = visitor.get(path).await;
        assert!(page.url().path() == "/verify" && page.text().await.unwrap().contains("captcha"));
        trouble(&upstream, place, r#""brokenJson""#);
        assert!(
            visitor
                .get(path)
                .await
                .json::<serde_json::Value>()
                .await
                .is_err()
        );
        assert!(
            visitor.get(path).await.status().is_success(),
            "and then it is over"
        );
    }
    let counts = upstream.counts();
    assert_eq!(counts.troubles, 6 * 12);
    assert_eq!(counts.signs, 2 * 13);
    assert_eq!(upstream.sign_times("room-d").len(), 2 * 13);
    assert_eq!(upstream.violations(), []);
}

#[tokio::test]
async fn limits_are_told_in_seconds_or_as_a_date() {
    let upstream = Upstream::start(script("room-d")).await.unwrap();
    let visitor = Visitor::new(&upstream);
    let room = visitor.room_id("room-d").await;
    let path = format!("/webcast/rooms/{room}/connect?client=x&user_agent=Mozilla/5");
    let limit = |after: &str| {
        format!(
            r#"{{"status": {{"status": 429, "retryAfter": {after}, "label": "rate_limit_account_day"}}}}"#
        )
    };
    trouble(&upstream, "sign", &limit("90"));
    let answer = visitor.get(&path).await;
    assert_eq!(answer.headers()["retry-after"], "90");
    assert_eq!(answer.headers()["x-ratelimit-remaining"], "0");
    assert!(
        answer
            .text()
            .await
            .unwrap()
            .contains("rate_limit_account_day")
    );
    trouble(&upstream, "sign", &limit(r#"{"date": 90}"#));
    let answer = visitor.get(&path).await;
    let date = answer.headers()["retry-after"].to_str().unwrap();
    let at = jiff::fmt::rfc2822::parse(date).unwrap().timestamp();
    let wait = at.as_second() - fresh::now_ms() / 1000;
    assert!((85..=90).contains(&wait) && date.ends_with("GMT"), "{date}");
}

#[tokio::test]
async fn answers_stall_drip_and_break_off() {
    let upstream = Upstream::start(script("room-d")).await.unwrap();
    let visitor = Visitor::new(&upstream);
    let path = format!("/api-live/user/room/?{WEB_PARAMS}&uniqueId=room-d&sourceType=54");
    trouble(&upstream, "api", r#""stall""#);
    let stalled = tokio::time::timeout(Duration::from_millis(300), visitor.get(&path)).await;
    assert!(stalled.is_err());
    trouble(&upstream, "api", r#"{"slow": {"ms": 1}}"#);
    let started = Instant::now();
    let slow = visitor.json(&path).await;
    assert_eq!(slow["statusCode"], 0);
    assert!(started.elapsed() > Duration::from_millis(200));
    trouble(&upstream, "api", r#""reset""#);
    let cut = visitor.get(&path).await.bytes().await.unwrap_err();
    let error = format!("{cut:?}");
    assert!(error.contains("reset"), "{error}");
}

#[tokio::test]
async fn handshakes_are_refused_or_left_hanging() {
    let upstream = Upstream::start(script("room-d")).await.unwrap();
    let visitor = Visitor::new(&upstream);
    let room = visitor.room_id("room-d").await;
    for status in [400, 403, 500] {
        trouble(
            &upstream,
            "socket",
            &format!(r#"{{"status": {{"status": {status}}}}}"#),
        );
        let signed = visitor.sign(&room).await.unwrap();
        match visitor.open(&room, &signed, |url| url).await.unwrap_err() {
            tungstenite::Error::Http(answer) => assert_eq!(answer.status(), status),
            other => panic!("{other}"),
        }
    }
    trouble(&upstream, "socket", r#""stall""#);
    let signed = visitor.sign(&room).await.unwrap();
    let stalled = visitor.open(&room, &signed, |url| url);
    assert!(
        tokio::time::timeout(Duration::from_millis(300), stalled)
            .await
            .is_err()
    );
    assert!(visitor.open(&room, &signed, |url| url).await.is_ok());
    assert_eq!(upstream.attempts("room-d", Provider::Direct).len(), 5);
    assert!(upstream.attempts("room-d", Provider::Euler).is_empty());
    assert_eq!(upstream.counts().handshakes_refused, 4);
}

#[tokio::test]
async fn streams_are_reset_halved_and_left_unanswered() {
    let mut script = script("room-d");
    script.pace = Pace::Every(Duration::from_millis(20));
    let upstream = Upstream::start(script).await.unwrap();
    let visitor = Visitor::new(&upstream);

    let mut client = visitor.enter("room-d").await;
    arm(
        &upstream,
        r#"{"playback": {"afterFrames": 2, "act": "reset"}}"#,
    );
    let error = loop {
        match client.socket.next().await {
            Some(Ok(_)) => {}
            Some(Err(error)) => break error.to_string(),
            None => panic!("closed"),
        }
    };
    assert!(error.to_lowercase().contains("reset"), "{error}");

    let mut client = visitor.enter("room-d").await;
    arm(
        &upstream,
        r#"{"playback": {"afterFrames": 2, "act": "halfFrame"}}"#,
    );
    let silence = async { while !matches!(client.next().await, Got::Closed(_)) {} };
    let waited = tokio::time::timeout(Duration::from_millis(500), silence).await;
    assert!(waited.is_err(), "neither a frame nor an end");
    drop(client);

    let mut client = visitor.enter("room-d").await;
    while !matches!(client.next().await, Got::Messages(_)) {}
    arm(&upstream, r#"{"playback": {"act": "deaf"}}"#);
    arm(&upstream, r#"{"playback": {"act": "wrongHeader"}}"#);
    arm(
        &upstream,
        r#"{"playback": {"act": {"gzipBomb": {"mebibytes": 32}}}}"#,
    );
    let mut bombs = 0;
    let mut messages = 0;
    let mut replies = 0;
    for _ in 0..20 {
        match client.next().await {
            Got::Messages(some) => messages += some.len(),
            Got::Binary(bytes) => {
                let error = wire::read_server_frame(&bytes, 1 << 24).unwrap_err();
                assert!(error.contains("inflates to more"), "{error}");
                assert!(bytes.len() < 100_000);
                bombs += 1;
                client.beat().await;
            }
            Got::Reply(_) => replies += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((bombs, messages > 10), (1, true));
    assert!(replies <= 1, "no heartbeat is answered after");
}

#[tokio::test]
async fn messages_come_again_and_streaks_in_any_order() {
    let mut script = script("room-d");
    script.pace = Pace::Every(Duration::from_millis(20));
    let upstream = Upstream::start(script).await.unwrap();
    let visitor = Visitor::new(&upstream);
    let mut client = visitor.enter("room-d").await;
    arm(
        &upstream,
        r#"{"playback": {"afterFrames": 8, "act": {"resend": {"count": 5}}}}"#,
    );
    arm(
        &upstream,
        r#"{"playback": {"afterFrames": 8, "act": {"resend": {"count": 3, "history": true}}}}"#,
    );
    arm(
        &upstream,
        r#"{"playback": {"afterFrames": 9, "act":
            {"streak": {"coins": 7, "counts": [1, 4, 2, 6, 5], "ended": true}}}}"#,
    );
    arm(
        &upstream,
        r#"{"playback": {"afterFrames": 9, "act": {"control": {"action": 9}}}}"#,
    );
    let (messages, _) = client.drain().await;
    assert_eq!(upstream.counts().resent, 8);
    assert_eq!(
        upstream.deliveries().iter().filter(|one| one.again).count(),
        8
    );
    assert_eq!(messages.iter().filter(|one| one.is_history).count(), 3);
    assert_eq!(messages.len(), 50 + 8 + 6 + 1);
    assert_eq!(
        upstream.sent().len(),
        50 + 6 + 1,
        "a repeat is not sent anew"
    );
    let at = messages
        .iter()
        .position(|one| patch::varint_field(&one.payload, 2) == Some(9_000_007));
    let streak = &messages[at.unwrap()..][..6];
    let field = |number| -> Vec<_> {
        let field = |one: &wire::RoomMessage| patch::varint_field(&one.payload, number);
        streak.iter().map(|one| field(one).unwrap_or(0)).collect()
    };
    assert_eq!(field(5), [1, 4, 2, 6, 5, 6]);
    assert_eq!(field(9), [0, 0, 0, 0, 0, 1]);
    assert_eq!(upstream.violations(), []);
}

#[test]
fn faults_are_read_from_json() {
    let fault = |json: &str| serde_json::from_str::<Fault>(json);
    assert!(matches!(
        fault(r#"{"playback": {"act": "drop"}}"#),
        Ok(Fault::Playback {
            after_frames: 0,
            act: Act::Drop
        })
    ));
    assert!(matches!(
        fault(r#"{"sign": {"times": 2, "refusal": {"status": {"status": 429, "retryAfter": 3}}}}"#),
        Ok(Fault::Sign {
            refusal: Refusal::Status {
                status: 429,
                retry_after: Some(3)
            },
            ..
        })
    ));
    match fault(r#"{"playback": {"afterFrames": 3, "act": {"frame": {"bytes": "/w=="}}}}"#) {
        Ok(Fault::Playback {
            after_frames: 3,
            act: Act::Frame { bytes },
        }) => {
            assert_eq!(bytes.as_ref(), b"\xff");
        }
        other => panic!("{other:?}"),
    }
    assert!(fault(r#"{"playback": {"act": "dance"}}"#).is_err());
}

#[test]
fn every_example_is_a_fault() {
    for (json, _) in fault::EXAMPLES {
        let fault = serde_json::from_str::<Fault>(json);
        assert!(fault.is_ok(), "{json}: {fault:?}");
    }
}
