//! Several that share a stream: slots, what others left, what ends processes, what is handed back.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use daemon::bus::{Entry, Member, POISON, Seats};
use redis::streams::StreamInfoConsumersReply;

use super::rig::Redis;

const STREAM: &str = "ttlc:events";
const PATIENCE: Duration = Duration::from_secs(30);

impl Redis {
    async fn add(&self, entries: usize) -> Vec<String> {
        let mut ids = Vec::new();
        for number in 0..entries {
            ids.push(self.ask(&format!("XADD {STREAM} * event {number}")).await);
        }
        ids
    }

    fn writer(&self) -> Member {
        self.bus.member(Seats::Storage, 0)
    }

    /// Consumers and how many entries each has pending.
    async fn consumers(&self) -> Vec<(String, usize)> {
        let reply: StreamInfoConsumersReply =
            self.ask(&format!("XINFO CONSUMERS {STREAM} storage")).await;
        reply
            .consumers
            .into_iter()
            .map(|consumer| (consumer.name, consumer.pending))
            .collect()
    }

    async fn age(&self, consumer: &str, idle_ms: u64) {
        let pending: Vec<(String, String, u64, u64)> = self
            .ask(&format!("XPENDING {STREAM} storage - + 1000 {consumer}"))
            .await;
        for (id, _, _, count) in pending {
            let _: redis::Value = self
                .ask(&format!(
                    "XCLAIM {STREAM} storage {consumer} 0 {id} IDLE {idle_ms} RETRYCOUNT {count} JUSTID"
                ))
                .await;
        }
    }
}

async fn read(member: &mut Member, count: usize) -> Vec<Entry> {
    member.read(count, Duration::from_millis(20)).await.unwrap()
}

fn ids(entries: &[Entry]) -> Vec<String> {
    entries.iter().map(|entry| entry.id.clone()).collect()
}

/// Reads until it has so many entries.
async fn read_until(member: &mut Member, count: usize) -> Vec<Entry> {
    let begun = Instant::now();
    let mut all = Vec::new();
    while all.len() < count {
        assert!(begun.elapsed() < PATIENCE, "{} of {count}", all.len());
        all.extend(read(member, 100).await);
    }
    all
}

#[tokio::test]
async fn each_member_has_a_name_of_its_own_and_no_entry_is_given_twice() {
    let redis = Redis::start();
    redis.add(30).await;
    let mut members: Vec<Member> = (0..3).map(|_| redis.writer()).collect();
    let mut seen = HashSet::new();
    for member in &mut members {
        for id in ids(&read(member, 10).await) {
            assert!(seen.insert(id));
        }
    }
    assert_eq!(seen.len(), 30);
    let names: Vec<_> = members.iter().filter_map(Member::name).collect();
    assert_eq!(names, ["storage-0", "storage-1", "storage-2"]);
    let left: i64 = redis.ask("PTTL ttlc:lease:storage:2").await;
    assert!((1..=4_000).contains(&left), "{left} ms");

    // A name that was given back is the next one's.
    members.remove(1).leave().await.unwrap();
    let mut fourth = redis.writer();
    assert_eq!(read(&mut fourth, 10).await.len(), 10, "what that one left");
    assert_eq!(fourth.name().as_deref(), Some("storage-1"));
}

#[tokio::test]
async fn what_a_dead_member_had_is_claimed_within_seconds_and_its_name_goes() {
    let redis = Redis::start();
    redis.add(250).await;
    let mut dead = redis.writer();
    let had = ids(&read(&mut dead, 250).await);
    assert_eq!(had.len(), 250);
    drop(dead); // as kill -9 does: nothing is given back
    let died = Instant::now();
    let mut other = redis.writer();
    redis.add(1).await;
    assert_eq!(
        read_until(&mut other, 1).await.len(),
        1,
        "new ones meanwhile"
    );
    assert_eq!(other.name().as_deref(), Some("storage-1"));
    let claimed = read_until(&mut other, 250).await;
    assert!(
        died.elapsed() < Duration::from_secs(10),
        "{:?}",
        died.elapsed()
    );
    assert_eq!(ids(&claimed), had, "in their order");
    assert!(
        claimed
            .iter()
            .all(|entry| entry.deliveries == 1 && entry.get("event").is_some())
    );
    other.ack(&had).await.unwrap();
    assert_eq!(redis.consumers().await[0], ("storage-0".to_owned(), 0));
}

#[tokio::test]
async fn a_member_that_works_keeps_what_it_has() {
    let redis = Redis::start();
    redis.add(10).await;
    let mut working = redis.writer();
    let held = ids(&read(&mut working, 10).await);
    let beat = tokio::spawn(working.beat(held.clone()));
    // Older than any lease, and than what is claimed from whoever is silent.
    let mut other = redis.writer();
    redis.age("storage-0", 22_500).await;
    let until = Instant::now() + Duration::from_secs(9);
    while Instant::now() < until {
        assert!(read(&mut other, 10).await.is_empty());
    }
    let idle: Vec<(String, String, u64, u64)> = redis
        .ask(&format!("XPENDING {STREAM} storage - + 10"))
        .await;
    assert!(
        idle.iter()
            .all(|(_, name, idle, count)| name == "storage-0" && *idle < 10_000 && *count == 1),
        "{idle:?}"
    );
    beat.abort();
    working.ack(&held).await.unwrap();
}

#[tokio::test]
async fn what_somebody_left_for_long_is_claimed_whoever_it_was() {
    let redis = Redis::start();
    redis.add(300).await;
    let _: redis::Value = redis
        .ask(&format!("XGROUP CREATE {STREAM} storage 0"))
        .await;
    // A name of an older release, which has no slot.
    let _: redis::Value = redis
        .ask(&format!(
            "XREADGROUP GROUP storage writer-0 COUNT 300 STREAMS {STREAM} >"
        ))
        .await;
    let mut member = redis.writer();
    assert!(read(&mut member, 100).await.is_empty(), "not idle for long");
    redis.age("writer-0", 31_000).await;
    let claimed = read_until(&mut member, 300).await;
    assert_eq!(claimed.len(), 300);
    member.ack(&ids(&claimed)).await.unwrap();
    assert_eq!(redis.ask::<i64>(&format!("XLEN {STREAM}")).await, 300);
}

#[tokio::test]
async fn what_is_handed_back_is_taken_up_at_once_and_counts_for_nothing() {
    let redis = Redis::start();
    redis.add(20).await;
    let mut leaving = redis.writer();
    let mut other = redis.writer();
    assert_eq!(read(&mut leaving, 20).await.len(), 20);
    assert!(read(&mut other, 20).await.is_empty());
    leaving.leave().await.unwrap();
    let begun = Instant::now();
    let taken = read_until(&mut other, 20).await;
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );
    assert!(taken.iter().all(|entry| entry.deliveries == 0), "{taken:?}");
    // From now on it counts.
    other.begin(&taken).await.unwrap();
    let pending: Vec<(String, String, u64, u64)> = redis
        .ask(&format!("XPENDING {STREAM} storage - + 20"))
        .await;
    assert!(
        pending.iter().all(|(_, _, _, count)| *count == 1),
        "{pending:?}"
    );
}

#[tokio::test]
async fn every_process_that_dies_on_an_entry_is_counted_and_outages_are_not() {
    let redis = Redis::start();
    redis.add(1).await;
    for died in 0..POISON {
        let mut member = redis.writer();
        let entries = read_until(&mut member, 1).await;
        assert_eq!(entries[0].deliveries, died);
        member.begin(&entries).await.unwrap();
        let ids: Vec<&str> = entries.iter().map(|entry| entry.id.as_str()).collect();
        for _ in 0..3 {
            member.survived(&ids).await.unwrap();
            member.begin_again(&ids).await.unwrap();
        }
        drop(member);
        let _: i64 = redis.ask("DEL ttlc:lease:storage:0").await; // it lapses
    }
    let mut last = redis.writer();
    assert_eq!(read_until(&mut last, 1).await[0].deliveries, POISON);

    // Postgres was away each time that a process ended: no attempt.
    let redis = Redis::start();
    redis.add(1).await;
    for _ in 0..10 {
        let mut member = redis.writer();
        let entries = read_until(&mut member, 1).await;
        assert!(entries[0].deliveries <= 1, "{entries:?}");
        member.begin(&entries).await.unwrap();
        member.survived(&[entries[0].id.as_str()]).await.unwrap();
        drop(member);
        let _: i64 = redis.ask("DEL ttlc:lease:storage:0").await;
    }
}

#[tokio::test]
async fn pending_entries_that_were_trimmed_come_without_fields() {
    let redis = Redis::start();
    let added = redis.add(4).await;
    let mut dead = redis.writer();
    assert_eq!(read(&mut dead, 4).await.len(), 4);
    drop(dead);
    let _: i64 = redis
        .ask(&format!("XDEL {STREAM} {} {}", added[0], added[2]))
        .await;
    let _: i64 = redis.ask("DEL ttlc:lease:storage:0").await;
    let mut other = redis.writer();
    let mut found = read_until(&mut other, 4).await;
    found.sort_by(|a, b| a.id.cmp(&b.id));
    let gone: Vec<bool> = found.iter().map(|entry| entry.fields.is_empty()).collect();
    assert_eq!(gone, [true, false, true, false], "each is told");

    // The same where another one claims it.
    drop(other);
    let _: i64 = redis.ask(&format!("XDEL {STREAM} {}", added[1])).await;
    let _: redis::Value = redis.ask("SET ttlc:lease:storage:0 somebody PX 1500").await;
    let mut third = redis.writer();
    let claimed = read_until(&mut third, 2).await;
    assert_eq!(third.name().as_deref(), Some("storage-1"));
    let gone = claimed.iter().filter(|entry| entry.fields.is_empty());
    assert_eq!(gone.map(|entry| &entry.id).collect::<Vec<_>>(), [&added[1]]);
    third.ack(&ids(&claimed)).await.unwrap();
    let left: (i64, redis::Value, redis::Value, redis::Value) =
        redis.ask(&format!("XPENDING {STREAM} storage")).await;
    assert_eq!(left.0, 0);
}

#[tokio::test]
async fn a_full_memory_keeps_nobody_from_reading() {
    let redis = Redis::start();
    redis.add(20).await;
    let mut member = redis.writer();
    assert_eq!(read(&mut member, 5).await.len(), 5);
    let _: redis::Value = redis.ask("CONFIG SET maxmemory 1").await;
    tokio::time::sleep(Duration::from_millis(1_100)).await; // its lease is to be renewed
    let more = read_until(&mut member, 5).await;
    member.ack(&ids(&more)).await.unwrap();
    // One that starts now cannot take a lease, and reads all the same.
    let mut late = redis.writer();
    assert!(!read_until(&mut late, 1).await.is_empty());
    let _: redis::Value = redis.ask("CONFIG SET maxmemory 0").await;
}
