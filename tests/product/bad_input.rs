//! What comes in wrong costs itself and nothing else, and is called by its name.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use upstream::{Act, Creator, Fault, Refusal, Script, Show};

use crate::{
    daemon::PATIENCE,
    product::{Product, creator, encoded},
    rows::{check_all, check_all_but, messages},
    stores::until,
};

fn at(after_frames: u64, act: Act) -> Fault {
    Fault::Playback { after_frames, act }
}

fn message(method: &str, file: &str) -> Act {
    Act::Message {
        method: method.to_owned(),
        payload: encoded(file),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_frames_and_messages_cost_nothing_but_themselves() {
    let troubled = creator("room-a")
        .fault(at(
            2,
            Act::Frame {
                bytes: bytes::Bytes::from_static(b"\xff\xff\xffno frame"),
            },
        ))
        .fault(at(
            4,
            Act::Text {
                text: "no frame either".to_owned(),
            },
        ))
        .fault(at(
            6,
            Act::Frame {
                bytes: encoded("frame-one-bad-among-good.bin"),
            },
        ))
        .fault(at(
            8,
            message("WebcastAISummaryMessage", "payload-odd-future-type.bin"),
        ))
        .fault(at(
            10,
            Act::Frame {
                bytes: encoded("frame-gzip-bomb-48mib.bin"),
            },
        ))
        .fault(at(
            12,
            message("WebcastChatMessage", "payload-odd-garbage.bin"),
        ))
        .fault(at(
            14,
            Act::Frame {
                bytes: encoded("frame-duplicate-message.bin"),
            },
        ))
        .fault(at(
            16,
            Act::Frame {
                bytes: encoded("frame-unknown-payload-type.bin"),
            },
        ))
        .fault(at(
            18,
            Act::Frame {
                bytes: encoded("frame-gzip-no-header.bin"),
            },
        ))
        .fault(at(
            20,
            Act::Frame {
                bytes: encoded("frame-needack-without-logid.bin"),
            },
        ));
    let script = Script::new().creator(troubled).creator(creator("room-d"));
    let mut product = Product::start(script).await;
    product.played("room-a").await;
    product.played("room-d").await;
    let room = product
        .upstream
        .sent()
        .iter()
        .find(|sent| sent.creator == "room-a")
        .unwrap()
        .room_id;
    let room = room.to_string();
    // The capture; two good ones of three; the unknown type; one of a message twice; two frames.
    let wanted = 241 + 2 + 1 + 1 + 2;
    let rows = product
        .settled(|rows| {
            let stored = messages(rows);
            ensure!(stored >= wanted + 49, "{stored} of {}", wanted + 49);
            Ok(())
        })
        .await;
    let letters = product.stores.entries("ttlc:dlq").await.unwrap();
    let of_messages: Vec<_> = letters
        .iter()
        .filter(|letter| letter["stage"] == "normalizer")
        .collect();
    let dead: Vec<(String, i64)> = of_messages
        .iter()
        .map(|letter| {
            let original: Value =
                serde_json::from_str(&letter["payload"]).expect("the entry as JSON");
            let field = |name: &str| original[name].as_str().expect("a field").to_owned();
            (field("streamId"), field("seqNo").parse().expect("a number"))
        })
        .collect();
    check_all_but(&rows, &dead);
    let stored: Vec<_> = rows
        .iter()
        .filter(|row| row.is_message() && row.stream_id == room)
        .collect();
    assert_eq!(stored.len(), wanted);
    let future = stored
        .iter()
        .find(|row| row.payload()["rawType"] == "WebcastAISummaryMessage");
    assert_eq!(future.unwrap().event_type, "RAW");

    assert_eq!(of_messages.len(), 2, "{letters:#?}");
    for letter in of_messages {
        assert_eq!(letter["reason"], "PARSE_ERROR");
        assert!(!letter["error"].is_empty() && !letter["failedAt"].is_empty());
        let original: Value = serde_json::from_str(&letter["payload"]).expect("the entry as JSON");
        assert_eq!(original["type"], "WebcastChatMessage");
        assert_eq!(original["streamId"], room.as_str());
    }
    let of_frames: Vec<_> = letters
        .iter()
        .filter(|letter| letter["stage"] == "ingest")
        .collect();
    assert_eq!(of_frames.len(), 3, "garbage, text, bomb: {letters:#?}");
    assert!(
        of_frames
            .iter()
            .all(|letter| letter["reason"] == "FRAME_ERROR")
    );
    product
        .log
        .find("WARN", &[&room, "inflates to more"])
        .unwrap();
    product.log.find("WARN", &[&room, "no protobuf"]).unwrap();
    product.log.find("WARN", &[&room, "dead letters"]).unwrap();
    let counts = product.upstream.counts();
    assert_eq!(counts.connections, 2, "nobody had to reconnect");
    assert_eq!(counts.acks, counts.acks_wanted);
    product.stop();
}

/// Waits for a creator's status that satisfies `check`.
async fn status(product: &Product, name: &str, words: &[&str]) -> Value {
    until(PATIENCE, async || {
        let status = product.stores.json(&format!("ttlc:status:{name}")).await?;
        let status = status.with_context(|| format!("{name} has no status"))?;
        let text = status.to_string().to_lowercase();
        ensure!(
            words.iter().all(|word| text.contains(word)),
            "{words:?} are not in {name}'s {text}"
        );
        Ok(status)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn creators_without_a_room_say_why_and_hold_up_nobody() {
    let script = Script::new()
        .creator(Creator::new("asleep", Show::Offline))
        .creator(Creator::new("shy", Show::NeverLive))
        .creator(Creator::new("guarded", Show::Captcha))
        .creator(creator("room-d"));
    let stores = crate::stores::Stores::start().await;
    let mut product = Product::start_with(script, stores, &["nobody"], &[]).await;
    product.played("room-d").await;
    let rows = product
        .settled(|rows| {
            ensure!(messages(rows) >= 49, "{} of 49", messages(rows));
            Ok(())
        })
        .await;
    check_all(&rows);
    for (name, words) in [
        ("asleep", "offline"),
        ("shy", "never"),
        ("nobody", "unknown"),
        ("guarded", "blocked"),
        ("room-d", "offline"),
    ] {
        let status = status(&product, name, &[words]).await;
        assert!(status["streamId"].is_null(), "no room is known: {status}");
        assert_ne!(status["state"], "live", "{status}");
        product.log.find("INFO", &[name, words]).unwrap();
    }
    // No room, no lifecycle event: there is only room-d's.
    let rooms: std::collections::HashSet<_> = rows.iter().map(|row| &row.stream_id).collect();
    assert_eq!(rooms.len(), 1);
    product.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_signing_is_reported_and_asked_again_as_told() {
    let sign = |times, refusal| Fault::Sign {
        skip: 0,
        times,
        refusal,
    };
    let limited = Refusal::Status {
        status: 429,
        retry_after: Some(3),
    };
    let forbidden = Refusal::Status {
        status: 403,
        retry_after: None,
    };
    let broken = Refusal::Status {
        status: 500,
        retry_after: None,
    };
    let named = |name: &str, faults: Vec<Fault>| Creator {
        name: name.to_owned(),
        faults,
        ..creator("room-d")
    };
    let blocked = Fault::Handshake {
        skip: 0,
        times: 1,
        message: "DEVICE_BLOCKED".to_owned(),
        status: 415,
    };
    let script = Script::new()
        .creator(named("limited", vec![sign(1, limited)]))
        .creator(named("forbidden", vec![sign(1000, forbidden)]))
        .creator(named(
            "flaky",
            vec![
                sign(1, broken),
                sign(1, Refusal::MissingCookie),
                sign(1, Refusal::Garbage),
            ],
        ))
        .creator(named("blocked", vec![blocked]));
    let mut product = Product::start(script).await;
    for name in ["limited", "flaky", "blocked"] {
        product.played(name).await;
    }
    let rows = product
        .settled(|rows| {
            ensure!(messages(rows) >= 3 * 49, "{} of {}", messages(rows), 3 * 49);
            Ok(())
        })
        .await;
    check_all(&rows);

    let times = product.upstream.sign_times("limited");
    let waited = times[1].duration_since(times[0]).unwrap();
    assert!(
        waited >= Duration::from_secs(3),
        "asked again after {waited:?}"
    );
    product
        .log
        .find("WARN", &["limited", "429"])
        .or_else(|_| product.log.find("WARN", &["limited", "too often"]))
        .unwrap();
    product
        .log
        .find("WARN", &["blocked", "DEVICE_BLOCKED"])
        .unwrap();
    product.log.find("WARN", &["flaky", "500"]).unwrap();
    product.log.find("WARN", &["flaky", "cookie"]).unwrap();
    product.log.find("WARN", &["forbidden", "403"]).unwrap();
    let status = status(&product, "forbidden", &["sign_refused"]).await;
    assert_eq!(status["state"], "error", "{status}");

    // The room was known in all these cases, so each room's own history says what happened.
    let errors = |name: &str| -> Vec<&Value> {
        rows.iter()
            .filter(|row| row.event_type == "ERROR" && row.payload()["uniqueId"] == name)
            .map(crate::rows::Row::payload)
            .collect()
    };
    assert_eq!(errors("limited")[0]["reason"], "sign_limited");
    assert_eq!(errors("forbidden")[0]["reason"], "sign_refused");
    assert_eq!(errors("flaky").len(), 3);
    assert_eq!(errors("blocked").len(), 1);
    assert!(
        product.upstream.sign_times("forbidden").len() <= 2,
        "403 is final for this account"
    );
    product.stop();
}
