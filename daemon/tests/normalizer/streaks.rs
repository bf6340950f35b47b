//! What is remembered between messages, over crashes of the stage.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use shared::identity::EventId;
use shared::raw::{Envelope, RawData, Source};
use shared::time::Timestamp;
use uuid::Uuid;
use xtask::servers::{Durability, PrivateRedis};

use super::rig::{ROOM, Stage, ask, bus, entries, length, publish, until_done};

const START: i64 = 1_763_800_000_000;

fn fixture(name: &str) -> RawData {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/encoded");
    RawData::Protobuf(std::fs::read(folder.join(name)).unwrap())
}

/// A message of the room, `at` milliseconds after its start.
fn message(seq_no: u64, at: i64, kind: &str, data: RawData) -> Envelope {
    Envelope {
        stream_id: ROOM.to_owned(),
        session_id: Uuid::from_u128(7),
        source: Source::Live,
        kind: kind.to_owned(),
        seq_no,
        timestamp: Timestamp::from_millis(START + at),
        ingested_at: Timestamp::from_millis(START + at),
        data,
        msg_id: None,
        backlog: false,
        replay_of: None,
    }
}

fn gift(seq_no: u64, at: i64, name: &str) -> Envelope {
    let data = fixture(&format!("payload-gift-streak-{name}.bin"));
    message(seq_no, at, "WebcastGiftMessage", data)
}

fn other(seq_no: u64, at: i64) -> Envelope {
    let data = RawData::Protobuf(vec![8, 1]);
    message(seq_no, at, "WebcastFutureMessage", data)
}

/// `(raw type, seqNo, state, count, coins)` of each gift event, in order.
async fn gifts(server: &PrivateRedis) -> Vec<(String, u64, String, u64, u64)> {
    let events = entries(server, "ttlc:events").await;
    let events = events
        .iter()
        .map(|entry| serde_json::from_str::<Value>(&entry["event"]).unwrap());
    events
        .filter(|event| event["eventType"] == "GIFT")
        .map(|event| {
            let payload = &event["payload"];
            (
                payload["rawType"].as_str().unwrap().to_owned(),
                event["seqNo"].as_u64().unwrap(),
                payload["streak"]["state"].as_str().unwrap().to_owned(),
                payload["giftCount"].as_u64().unwrap(),
                payload["coins"]["total"].as_u64().unwrap(),
            )
        })
        .collect()
}

fn said(kind: &str, seq_no: u64, state: &str, count: u64) -> (String, u64, String, u64, u64) {
    (kind.to_owned(), seq_no, state.to_owned(), count, count)
}

/// The stage dies, and its lease with it.
async fn dies(server: &PrivateRedis, stage: Stage) {
    stage.kill().await;
    let _: u64 = ask(server, &["DEL", "ttlc:lease:normalizer"])
        .await
        .unwrap();
}

#[tokio::test]
async fn a_streak_ends_once_though_the_stage_dies_after_every_message() {
    let server = PrivateRedis::temporary(Durability::Fast).unwrap();
    let sent = [
        gift(1, 0, "5"),
        gift(2, 1_000, "1"),
        gift(3, 2_000, "5-end"),
        gift(4, 2_100, "5-end"),
        gift(5, 2_200, "5"),
    ];
    for (number, envelope) in (1..).zip(sent) {
        let stage = Stage::start(&server, 1, "128");
        publish(&server, 1, &[envelope]).await;
        until_done(&server, number).await;
        dies(&server, stage).await;
    }
    let kind = "WebcastGiftMessage";
    let expected = [
        said(kind, 1, "progress", 5),
        said(kind, 2, "progress", 5),
        said(kind, 3, "final", 5),
        said(kind, 4, "progress", 5),
        said(kind, 5, "progress", 5),
    ];
    assert_eq!(gifts(&server).await, expected);
}

#[tokio::test]
async fn a_streak_without_an_end_is_concluded_by_the_next_process() {
    let server = PrivateRedis::temporary(Durability::Fast).unwrap();
    let stage = Stage::start(&server, 1, "128");
    publish(&server, 1, &[gift(1, 0, "1"), gift(2, 900, "5")]).await;
    until_done(&server, 2).await;
    dies(&server, stage).await;

    let stage = Stage::start(&server, 1, "128");
    publish(&server, 1, &[other(3, 10_900), other(4, 10_901)]).await;
    publish(&server, 1, &[gift(5, 11_000, "5-end")]).await;
    until_done(&server, 6).await;
    stage.stop().await;
    let expected = [
        said("WebcastGiftMessage", 1, "progress", 1),
        said("WebcastGiftMessage", 2, "progress", 5),
        said("GiftStreakTimeout", 2, "final", 5),
        said("WebcastGiftMessage", 5, "progress", 5),
    ];
    assert_eq!(gifts(&server).await, expected);

    let events = entries(&server, "ttlc:events").await;
    let timeout: Value = serde_json::from_str(&events[3]["event"]).unwrap();
    let id = EventId::new(ROOM, 2, "GiftStreakTimeout").to_string();
    assert_eq!(timeout["eventId"], id, "before the message that shows it");
    assert_eq!(timeout["payload"]["streak"]["inferred"], true);
    assert_eq!(timeout["ingestedAt"], "2025-11-22T08:26:40.900Z");
    assert_eq!(events[3]["raw"], "{}");
}

#[tokio::test]
async fn a_wiped_memory_is_written_again() {
    let server = PrivateRedis::temporary(Durability::Fast).unwrap();
    let stage = Stage::start(&server, 1, "128");
    publish(&server, 1, &[gift(1, 0, "5-end")]).await;
    until_done(&server, 1).await;
    let _: u64 = ask(&server, &["DEL", "ttlc:normalizer"]).await.unwrap();
    publish(&server, 1, &[other(2, 10)]).await;
    until_done(&server, 2).await;
    dies(&server, stage).await;

    let stage = Stage::start(&server, 1, "128");
    publish(&server, 1, &[gift(3, 20, "5-end")]).await;
    until_done(&server, 3).await;
    stage.stop().await;
    let states: Vec<String> = gifts(&server)
        .await
        .into_iter()
        .map(|gift| gift.2)
        .collect();
    assert_eq!(states, ["final", "progress"]);
}

#[tokio::test]
async fn a_gift_that_does_not_say_what_it_is_is_looked_up() {
    let server = PrivateRedis::temporary(Durability::Fast).unwrap();
    let rose = r#"{"name":"Rose","coins":7,"imageUrl":"https://x.example/rose.webp"}"#;
    let listed = [("5655", rose), ("6", "what?")];
    let listed = listed.map(|(id, json)| (id.to_owned(), json.to_owned()));
    bus(&server, 1).put_gifts(&listed).await.unwrap();
    assert_eq!(bus(&server, 1).gifts().await.unwrap().len(), 2);
    // giftId 5655, repeatCount 3, and nothing else.
    let bare = RawData::Protobuf(vec![0x10, 0x97, 0x2c, 0x28, 3]);
    let stage = Stage::start(&server, 1, "128");
    publish(&server, 1, &[message(1, 0, "WebcastGiftMessage", bare)]).await;
    until_done(&server, 1).await;
    stage.stop().await;
    let events = entries(&server, "ttlc:events").await;
    let event: Value = serde_json::from_str(&events[0]["event"]).unwrap();
    assert_eq!(event["payload"]["giftName"], "Rose");
    assert_eq!(event["payload"]["coins"]["total"], 21);
    bus(&server, 1).put_gifts(&listed[..1]).await.unwrap();
    assert_eq!(bus(&server, 1).gifts().await.unwrap().len(), 1, "replaced");
}

/// What ends the process cannot be caught in it; it is known by the processes that ended.
#[tokio::test]
async fn a_message_that_ends_every_process_is_given_up_and_no_other() {
    let server = PrivateRedis::temporary(Durability::Fast).unwrap();
    let sent: Vec<Envelope> = (1..=4).map(|seq_no| other(seq_no, 0)).collect();
    publish(&server, 1, &sent).await;
    let died = || bus(&server, 1).consumer("ttlc:raw".into(), "normalizer", "normalizer");
    // The second is the bad one: two processes die with all of them in hand, the rest when they
    // have come to it alone.
    let wait = Duration::from_millis(50);
    assert_eq!(died().read(10, wait).await.unwrap().len(), 4);
    for together in [true, true, false, false] {
        let mut process = died();
        let found = process.read(10, wait).await.unwrap();
        let begun = if together { &found[..] } else { &found[1..2] };
        process.begin(begun).await.unwrap();
    }
    let stage = Stage::start(&server, 1, "128");
    until_done(&server, 4).await;
    stage.stop().await;
    assert_eq!(length(&server, "ttlc:events").await, 3);
    let letters = entries(&server, "ttlc:dlq").await;
    assert_eq!(letters[0]["reason"], "POISON");
    assert_eq!(letters[0]["error"], "5 processes have died on it");
    let payload: Value = serde_json::from_str(&letters[0]["payload"]).unwrap();
    assert_eq!(payload["seqNo"], "2");
}
