//! Every raw entry becomes exactly one event or one dead letter, in order, whatever stops in
//! between.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use shared::raw::{Envelope, RawData, Source, control};
use shared::streams::StreamNames;
use shared::time::Timestamp;
use tokio::time::{Instant, sleep};
use uuid::Uuid;
use xtask::servers::{Durability, PrivateRedis};

use super::rig::{PATIENCE, ROOM, Stage, ask, bus, entries, length, publish, until_done};

/// All captured messages as one room, with a garbage message after every hundredth, and our own
/// lifecycle messages around them.
pub(super) fn room() -> Vec<Envelope> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/captures");
    let connection = serde_json::json!({"provider": "direct", "attempt": 1, "reason": "start"});
    let connection = RawData::Json(connection.as_object().unwrap().clone());
    let mut messages = vec![(control::CONNECTED.to_owned(), connection.clone())];
    for name in ["room-a", "room-b", "room-c", "room-d", "mixed"] {
        let lines = std::fs::read_to_string(folder.join(format!("{name}.ndjson"))).unwrap();
        for line in lines.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let data = RawData::from_text(line["payload"].as_str().unwrap()).unwrap();
            messages.push((line["type"].as_str().unwrap().to_owned(), data));
            if messages.len() % 100 == 0 {
                let garbage = RawData::Protobuf(vec![0xff; 40]);
                messages.push(("WebcastChatMessage".to_owned(), garbage));
            }
        }
    }
    messages.push((control::DISCONNECTED.to_owned(), connection));
    messages
        .into_iter()
        .enumerate()
        .map(|(number, (kind, data))| Envelope {
            stream_id: ROOM.to_owned(),
            session_id: Uuid::from_u128(7),
            source: Source::Live,
            kind,
            seq_no: 1_000 + number as u64,
            timestamp: Timestamp::from_millis(1_763_800_000_250),
            ingested_at: Timestamp::from_millis(1_763_800_000_900),
            data,
            msg_id: None,
            backlog: false,
            replay_of: None,
        })
        .collect()
}

pub(super) fn is_garbage(envelope: &Envelope) -> bool {
    envelope.data == RawData::Protobuf(vec![0xff; 40])
}

/// Every envelope once, in order, at the place where it belongs.
async fn holds_exactly(server: &PrivateRedis, sent: &[Envelope]) {
    let good: Vec<&Envelope> = sent
        .iter()
        .filter(|envelope| !is_garbage(envelope))
        .collect();
    let events = entries(server, "ttlc:events").await;
    assert_eq!(events.len(), good.len());
    for (entry, envelope) in events.iter().zip(good) {
        let event: shared::event::UnifiedEvent = serde_json::from_str(&entry["event"]).unwrap();
        assert_eq!(event.event_id, envelope.event_id());
        assert_eq!(event.seq_no, envelope.seq_no);
        assert_eq!(entry["raw"], envelope.data.to_text());
        entry["normalizedAt"].parse::<Timestamp>().unwrap();
    }
    let bad: Vec<&Envelope> = sent
        .iter()
        .filter(|envelope| is_garbage(envelope))
        .collect();
    let letters = entries(server, "ttlc:dlq").await;
    assert_eq!(letters.len(), bad.len());
    for (letter, envelope) in letters.iter().zip(bad) {
        assert_eq!(
            (&*letter["stage"], &*letter["reason"]),
            ("normalizer", "PARSE_ERROR")
        );
        assert!(
            letter["error"].contains("WebcastChatMessage"),
            "{}",
            letter["error"]
        );
        let payload: HashMap<String, String> = serde_json::from_str(&letter["payload"]).unwrap();
        let original =
            Envelope::from_fields(|field| payload.get(field).map(String::as_str)).unwrap();
        assert_eq!(&original, envelope);
    }
    let pending: Vec<redis::Value> = ask(server, &["XPENDING", "ttlc:raw", "normalizer"])
        .await
        .unwrap();
    assert_eq!(pending[0], redis::Value::Int(0));
}

#[tokio::test]
async fn every_entry_has_one_outcome_in_order() {
    let server = PrivateRedis::temporary(Durability::Fast).unwrap();
    let sent = room();
    // Half of it is there before the stage, half comes while it runs.
    let (before, after) = sent.split_at(sent.len() / 2);
    publish(&server, 1, before).await;
    let stage = Stage::start(&server, 1, "128");
    publish(&server, 1, after).await;
    until_done(&server, sent.len()).await;
    stage.stop().await;
    holds_exactly(&server, &sent).await;
}

#[tokio::test]
async fn an_entry_that_is_no_envelope_goes_to_the_dead_letters() {
    let server = PrivateRedis::temporary(Durability::Fast).unwrap();
    let stage = Stage::start(&server, 1, "128");
    let _: String = ask(
        &server,
        &[
            "XADD",
            "ttlc:raw",
            "*",
            "schemaVersion",
            "raw.v9",
            "data",
            "x",
        ],
    )
    .await
    .unwrap();
    let sent = &room()[..3];
    publish(&server, 1, sent).await;
    until_done(&server, 4).await;
    stage.stop().await;
    let letters = entries(&server, "ttlc:dlq").await;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0]["reason"], "PARSE_ERROR");
    assert_eq!(
        letters[0]["error"],
        "field `schemaVersion` is wrong: this build reads raw.v1, not raw.v9"
    );
    let payload: Value = serde_json::from_str(&letters[0]["payload"]).unwrap();
    assert_eq!(payload["data"], "x");
}

#[tokio::test]
async fn killed_again_and_again_it_publishes_everything_once() {
    let server = PrivateRedis::temporary(Durability::Fast).unwrap();
    let sent = room();
    publish(&server, 1, &sent).await;
    let mut seen = 0;
    for _ in 0..7 {
        let stage = Stage::start(&server, 1, "3");
        let begun = Instant::now();
        while length(&server, "ttlc:events").await == seen {
            assert!(begun.elapsed() < PATIENCE);
        }
        stage.kill().await;
        // As if its time were over.
        let _: u64 = ask(&server, &["DEL", "ttlc:lease:normalizer"])
            .await
            .unwrap();
        seen = length(&server, "ttlc:events").await;
    }
    assert!(seen < sent.len(), "the kills must fall into the work");
    let stage = Stage::start(&server, 1, "128");
    until_done(&server, sent.len()).await;
    stage.stop().await;
    holds_exactly(&server, &sent).await;
}

#[tokio::test]
async fn an_outage_of_redis_is_waited_out() {
    let server = PrivateRedis::temporary(Durability::Safe).unwrap();
    let sent = room();
    publish(&server, 1, &sent).await;
    let stage = Stage::start(&server, 1, "5");
    let begun = Instant::now();
    while length(&server, "ttlc:events").await == 0 {
        assert!(begun.elapsed() < PATIENCE);
        sleep(Duration::from_millis(1)).await;
    }
    let stopped = server.stop(false).unwrap();
    sleep(Duration::from_millis(300)).await;
    assert!(!stage.task.is_finished(), "it waits");
    let server = stopped.start_again().unwrap();
    assert!(
        length(&server, "ttlc:events").await < sent.len(),
        "the outage must fall into the work"
    );
    until_done(&server, sent.len()).await;
    stage.stop().await;
    holds_exactly(&server, &sent).await;
}

#[tokio::test]
async fn it_stops_soon_while_redis_is_away() {
    let server = PrivateRedis::temporary(Durability::Fast).unwrap();
    let stage = Stage::start(&server, 1, "5");
    let begun = Instant::now();
    while ask::<Vec<redis::Value>>(&server, &["XINFO", "GROUPS", "ttlc:raw"])
        .await
        .is_err()
    {
        assert!(begun.elapsed() < PATIENCE);
        sleep(Duration::from_millis(5)).await;
    }
    let _stopped = server.stop(false).unwrap();
    sleep(Duration::from_millis(200)).await;
    stage.stop().await;
}

#[tokio::test]
async fn each_shard_is_worked_on() {
    let server = PrivateRedis::temporary(Durability::Fast).unwrap();
    let names = StreamNames::new(3);
    let sent: Vec<Envelope> = room()
        .into_iter()
        .filter(|envelope| !is_garbage(envelope))
        .take(60)
        .map(|mut envelope| {
            envelope.stream_id = (7_301_234_567_890_000_000 + envelope.seq_no).to_string();
            envelope
        })
        .collect();
    let stage = Stage::start(&server, 3, "128");
    publish(&server, 3, &sent).await;
    let begun = Instant::now();
    for shard in 0..3 {
        let expected = sent
            .iter()
            .filter(|envelope| names.shard_of(&envelope.stream_id) == shard)
            .count();
        assert!(expected > 0);
        while length(&server, &names.events(shard)).await < expected {
            assert!(begun.elapsed() < PATIENCE);
            sleep(Duration::from_millis(10)).await;
        }
    }
    stage.stop().await;
}

#[tokio::test]
async fn an_entry_that_was_trimmed_away_is_told_and_passed() {
    let server = PrivateRedis::temporary(Durability::Fast).unwrap();
    let sent = &room()[..3];
    publish(&server, 1, sent).await;
    // A process before us read them and died; then the first went.
    let mut before = bus(&server, 1).consumer("ttlc:raw".into(), "normalizer", "normalizer");
    let read = before.read(10, Duration::from_millis(50)).await.unwrap();
    assert_eq!(read.len(), 3);
    let _: u64 = ask(&server, &["XDEL", "ttlc:raw", &read[0].id])
        .await
        .unwrap();
    let stage = Stage::start(&server, 1, "128");
    until_done(&server, 3).await;
    stage.stop().await;
    let letters = entries(&server, "ttlc:dlq").await;
    assert_eq!(
        letters[0]["error"],
        "the entry was trimmed before it was read"
    );
    assert_eq!(length(&server, "ttlc:events").await, 2);
}
