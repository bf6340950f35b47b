//! Two daemons that follow the same creators: one reads each room, the other takes over.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use anyhow::ensure;
use serde_json::Value;
use upstream::{Pace, Script};
use xtask::processes::TemporaryFolder;

use crate::{
    daemon::{Log, PATIENCE},
    product::{Product, creator},
    stores::{Entry, Stores, until},
};

const ROOMS: usize = 2;
/// Within this a standby has taken over.
const TAKE_OVER: Duration = Duration::from_secs(15);

/// How often a daemon has said something, as the message of a record.
fn said(log: &Log, message: &str) -> usize {
    let records = log.records().unwrap();
    let of = |record: &&serde_json::Value| {
        record["message"] == message || record["fields"]["message"] == message
    };
    records.iter().filter(of).count()
}

async fn heard(log: &Log, message: &str, times: usize, limit: Duration) {
    until(limit, async || {
        let count = said(log, message);
        ensure!(
            count >= times,
            "{message:?} {count} of {times} times; the log:\n{}",
            log.lines().join("\n")
        );
        Ok(())
    })
    .await;
}

/// What must hold of the raw stream whoever wrote it: no number and no message twice, and each
/// session whole and in order. A gap names the numbers up to its end.
pub(crate) fn check(entries: &[Entry]) {
    let (mut ids, mut messages) = (HashSet::new(), HashSet::new());
    let mut sessions: HashMap<&str, u64> = HashMap::new();
    for entry in entries {
        let room = entry["streamId"].as_str();
        let seq_no: u64 = entry["seqNo"].parse().unwrap();
        assert!(ids.insert((room, seq_no)), "number twice: {entry:?}");
        if let Some(id) = entry.get("msgId") {
            let new = messages.insert((room, entry["type"].as_str(), id));
            assert!(new, "message twice: {entry:?}");
        }
        let gap: Value = match entry["type"].as_str() {
            "ControlEvent.GAP" => serde_json::from_str(&entry["data"]).unwrap(),
            _ => Value::Null,
        };
        let last = gap["toSeq"].as_u64().unwrap_or(seq_no);
        let before = sessions.insert(&entry["sessionId"], last);
        assert!(
            before.is_none_or(|it| it + 1 == seq_no),
            "a hole in a session: {entry:?}"
        );
    }
}

/// The sessions of each room, in the order in which they were published.
fn sessions(entries: &[Entry]) -> HashMap<String, Vec<String>> {
    let mut sessions: HashMap<String, Vec<String>> = HashMap::new();
    for entry in entries {
        let list = sessions.entry(entry["streamId"].clone()).or_default();
        if list.last() != Some(&entry["sessionId"]) {
            list.push(entry["sessionId"].clone());
        }
    }
    sessions
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_reads_a_room_and_the_other_takes_over_when_it_is_gone() {
    let mut script = Script::new()
        .creator(creator("room-a"))
        .creator(creator("room-b"));
    // A broadcast of more than two minutes.
    script.pace = Pace::Every(Duration::from_millis(900));
    script.heartbeat_timeout = Duration::from_mins(2);
    script.history = 30;
    let product = Product::prepare(script, Stores::start().await, &[], &[]).await;
    let spools = ["one", "two"].map(|name| TemporaryFolder::new(name).unwrap());
    let spool = |index: usize| spools[index].path().to_str().unwrap();

    let (first, first_log) = product.another("ingest", &[("SPOOL_DIR", spool(0))]);
    heard(&first_log, "connected", ROOMS, PATIENCE).await;
    let (second, second_log) = product.another("ingest", &[("SPOOL_DIR", spool(1))]);
    let standing_by = "another daemon reads the room, standing by";
    heard(&second_log, standing_by, ROOMS, PATIENCE).await;
    assert_eq!(said(&second_log, "connected"), 0);
    assert_eq!(
        product.upstream.counts().signs,
        2,
        "a standby signs nothing"
    );
    let status = product.stores.json("ttlc:status:room-a").await.unwrap();
    assert_eq!(status.unwrap()["state"], "live", "the reader is heard");

    // The holder dies.
    first.kill();
    let begun = Instant::now();
    heard(&second_log, "connected", ROOMS, TAKE_OVER).await;
    let took = begun.elapsed();
    assert!(took <= TAKE_OVER, "{took:?}");

    // The holder is away for a while, and comes back when somebody else has its rooms.
    let (third, third_log) = product.another("ingest", &[("SPOOL_DIR", spool(0))]);
    heard(&third_log, standing_by, ROOMS, PATIENCE).await;
    second.hold(true);
    heard(&third_log, "connected", ROOMS, TAKE_OVER).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = product.stores.entries("ttlc:raw").await.unwrap();
    let begun = Instant::now();
    second.hold(false);
    heard(
        &second_log,
        "another daemon has taken the room",
        ROOMS,
        PATIENCE,
    )
    .await;
    heard(&second_log, standing_by, ROOMS + ROOMS, PATIENCE).await;
    assert!(begun.elapsed() < Duration::from_secs(10), "it notices soon");
    tokio::time::sleep(Duration::from_secs(2)).await;

    let entries = product.stores.entries("ttlc:raw").await.unwrap();
    assert!(entries.len() > before.len(), "the room goes on");
    check(&entries);
    for (room, sessions) in sessions(&entries) {
        // One of each daemon in its turn; the loser's does not come up again.
        assert_eq!(sessions.len(), 3, "{room}: {sessions:?}");
    }

    // A gentle end frees the rooms at once.
    let begun = Instant::now();
    assert!(third.stop().unwrap().success());
    heard(&second_log, "connected", ROOMS + ROOMS, PATIENCE).await;
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );
    check(&product.stores.entries("ttlc:raw").await.unwrap());
    assert!(second.stop().unwrap().success());
    assert_eq!(product.upstream.violations(), []);
}
