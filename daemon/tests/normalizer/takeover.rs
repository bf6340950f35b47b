//! Several normalizers on one stream: one works, in order, and another takes over.

use std::collections::HashSet;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use shared::raw::{Envelope, RawData, Source};
use shared::time::Timestamp;
use tokio::time::{Instant, sleep};
use uuid::Uuid;
use xtask::processes::{pause, resume};
use xtask::servers::{Durability, PrivateRedis};

use super::rig::{PATIENCE, ROOM, Stage, ask, entries, length, publish, until_done};

fn messages(numbers: std::ops::Range<u64>) -> Vec<Envelope> {
    numbers
        .map(|seq_no| Envelope {
            stream_id: ROOM.to_owned(),
            session_id: Uuid::from_u128(7),
            source: Source::Live,
            kind: "WebcastFutureMessage".to_owned(),
            seq_no,
            timestamp: Timestamp::from_millis(1_763_800_000_000),
            ingested_at: Timestamp::from_millis(1_763_800_000_000),
            data: RawData::Protobuf(vec![8, 1]),
            msg_id: None,
            backlog: false,
            replay_of: None,
        })
        .collect()
}

/// All numbers, each once, in order.
async fn holds(server: &PrivateRedis, numbers: std::ops::Range<u64>) {
    let events = entries(server, "ttlc:events").await;
    let found: Vec<u64> = events
        .iter()
        .map(|entry| {
            let event: Value = serde_json::from_str(&entry["event"]).unwrap();
            event["seqNo"].as_u64().unwrap()
        })
        .collect();
    assert_eq!(found, numbers.collect::<Vec<_>>());
}

async fn holder(server: &PrivateRedis) -> Option<String> {
    ask(server, &["GET", "ttlc:lease:normalizer"])
        .await
        .unwrap()
}

async fn until_held(server: &PrivateRedis) -> String {
    let begun = Instant::now();
    loop {
        if let Some(holder) = holder(server).await {
            return holder;
        }
        assert!(begun.elapsed() < PATIENCE);
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_standby_takes_over_at_once_from_one_that_stops_and_soon_from_one_that_dies() {
    let server = PrivateRedis::temporary(Durability::Fast).unwrap();
    let first = Stage::start(&server, 1, "128");
    let owner = until_held(&server).await;
    let second = Stage::start(&server, 1, "128");
    publish(&server, 1, &messages(0..50)).await;
    until_done(&server, 50).await;
    assert_eq!(holder(&server).await.as_ref(), Some(&owner));

    first.stop().await;
    let begun = Instant::now();
    publish(&server, 1, &messages(50..60)).await;
    until_done(&server, 60).await;
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );

    let third = Stage::start(&server, 1, "128");
    second.kill().await;
    let begun = Instant::now();
    publish(&server, 1, &messages(60..70)).await;
    until_done(&server, 70).await;
    assert!(
        begun.elapsed() < Duration::from_secs(15),
        "{:?}",
        begun.elapsed()
    );
    third.stop().await;
    holds(&server, 0..70).await;
}

#[tokio::test]
async fn an_idle_normalizer_keeps_its_lease() {
    let server = PrivateRedis::temporary(Durability::Fast).unwrap();
    let stage = Stage::start(&server, 1, "128");
    let owner = until_held(&server).await;
    let rival = Stage::start(&server, 1, "128");
    for _ in 0..12 {
        sleep(Duration::from_secs(1)).await;
        assert_eq!(holder(&server).await.as_ref(), Some(&owner));
        let left: i64 = ask(&server, &["PTTL", "ttlc:lease:normalizer"])
            .await
            .unwrap();
        assert!(left > 1_500, "{left} of 4,000 ms, renewed each second");
    }
    stage.stop().await;
    rival.stop().await;
}

/// Leases that lapse all the time, as no system would do it.
#[tokio::test]
async fn rivals_that_take_turns_keep_the_order_and_publish_once() {
    let server = PrivateRedis::temporary(Durability::Fast).unwrap();
    let stages: Vec<Stage> = (0..3).map(|_| Stage::start(&server, 1, "7")).collect();
    let mut owners = HashSet::new();
    let mut sent = 0;
    for _ in 0..30 {
        publish(&server, 1, &messages(sent..sent + 100)).await;
        sent += 100;
        owners.extend(holder(&server).await);
        // Nobody's for a moment, and then whoever asks first.
        let nobody = ["SET", "ttlc:lease:normalizer", "nobody", "PX", "150"];
        let _: String = ask(&server, &nobody).await.unwrap();
        sleep(Duration::from_millis(400)).await;
    }
    owners.remove("nobody");
    until_done(&server, usize::try_from(sent).unwrap()).await;
    for stage in stages {
        stage.stop().await;
    }
    assert!(owners.len() > 1, "the lease must change hands");
    holds(&server, 0..sent).await;
}

/// `ttlc normalizer`, a process that can be stopped in the middle.
struct Process(Child);

impl Process {
    fn start(server: &PrivateRedis) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_ttlc"))
            .args(["normalizer", "--redis-url", &server.url()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_process_that_was_paused_and_comes_back_publishes_nothing() {
    let server = PrivateRedis::temporary(Durability::Fast).unwrap();
    let process = Process::start(&server);
    let paused = until_held(&server).await;
    publish(&server, 1, &messages(0..20)).await;
    until_done(&server, 20).await;
    pause(process.0.id()).unwrap();
    // Its waiting read is given the first of these.
    publish(&server, 1, &messages(20..30)).await;
    sleep(Duration::from_millis(1_200)).await;
    assert_eq!(length(&server, "ttlc:events").await, 20);

    let stage = Stage::start(&server, 1, "128");
    until_done(&server, 30).await;
    let owner = until_held(&server).await;
    assert_ne!(owner, paused);
    resume(process.0.id()).unwrap();
    for batch in 0..20 {
        publish(&server, 1, &messages(30 + batch * 10..40 + batch * 10)).await;
        sleep(Duration::from_millis(100)).await;
    }
    until_done(&server, 230).await;
    assert_eq!(holder(&server).await, Some(owner), "it stands by");
    stage.stop().await;
    holds(&server, 0..230).await;
}
