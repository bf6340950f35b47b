//! Reading a stream as a group member: nothing is lost in crashes, restarts and wiped streams.

use std::time::Duration;

use daemon::bus::Consumer;
use redis::Value;

use super::rig::{ROOM, Redis, envelope, read};

#[tokio::test]
async fn a_consumer_that_crashed_finds_its_own_entries_first() {
    let redis = Redis::start();
    redis.publish(&[envelope(ROOM, 1), envelope(ROOM, 2)]).await;
    let first = read(&mut redis.normalizer()).await;
    assert_eq!(first.len(), 2);

    redis.publish(&[envelope(ROOM, 3)]).await;
    let mut again = redis.normalizer(); // the same name after a crash
    assert_eq!(read(&mut again).await, first);
    let rest = read(&mut again).await;
    assert_eq!(rest.len(), 1);
    again.ack(&first).await.unwrap();
    again.ack(&rest).await.unwrap();
    assert!(read(&mut redis.normalizer()).await.is_empty());
}

/// A read that was given up goes on waiting on the server, and would take the next entry with it.
#[tokio::test]
async fn a_given_up_read_takes_nothing_with_it() {
    let redis = Redis::start();
    let mut consumer = redis.normalizer();
    assert!(read(&mut consumer).await.is_empty());
    let waiting = consumer.read(10, Duration::from_secs(30));
    assert!(
        tokio::time::timeout(Duration::from_millis(200), waiting)
            .await
            .is_err()
    );
    assert!(read(&mut consumer).await.is_empty());
    redis.publish(&[envelope(ROOM, 1)]).await;
    assert_eq!(read(&mut consumer).await.len(), 1);
}

#[tokio::test]
async fn a_wiped_stream_is_read_from_its_new_start() {
    let redis = Redis::start();
    redis.publish(&[envelope(ROOM, 1)]).await;
    let mut consumer = redis.normalizer();
    assert_eq!(read(&mut consumer).await.len(), 1);
    let _: Value = redis.ask("FLUSHALL").await;
    redis.publish(&[envelope(ROOM, 2)]).await;
    let mut found = read(&mut consumer).await; // finds the group gone
    if found.is_empty() {
        found = read(&mut consumer).await;
    }
    assert_eq!(
        found.len(),
        1,
        "the new entry, though it came before the group"
    );
}

#[tokio::test]
async fn a_restart_of_redis_costs_errors_but_no_entry() {
    let redis = Redis::start();
    redis.publish(&[envelope(ROOM, 1), envelope(ROOM, 2)]).await;
    let mut consumer = redis.normalizer();
    let held = read(&mut consumer).await;
    let Redis { server, bus } = redis;
    let stopped = server.stop(true).unwrap();
    assert!(bus.ping().await.is_err());
    assert!(consumer.read(10, Duration::from_millis(20)).await.is_err());
    let _server = stopped.start_again().unwrap();

    let mut attempts = 0;
    let again = loop {
        match consumer.read(10, Duration::from_millis(20)).await {
            Ok(entries) => break entries,
            Err(error) => assert!(attempts < 50, "still {error}"),
        }
        attempts += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(
        again.into_iter().map(|entry| entry.id).collect::<Vec<_>>(),
        held,
        "pending ones come again"
    );
}

/// How many processes are thought to have died on each unfinished entry.
async fn deaths(consumer: &mut Consumer) -> Vec<u64> {
    let entries = consumer.read(100, Duration::from_millis(20)).await.unwrap();
    entries.iter().map(|entry| entry.deliveries).collect()
}

#[tokio::test]
async fn only_processes_that_end_count_against_an_entry() {
    let redis = Redis::start();
    redis.publish(&[envelope(ROOM, 1), envelope(ROOM, 2)]).await;
    let mut consumer = redis.normalizer();
    assert_eq!(deaths(&mut consumer).await, [0, 0], "new");
    for _ in 0..6 {
        consumer.read_history_again();
        assert_eq!(deaths(&mut consumer).await, [0, 0], "looking is no attempt");
    }
    // Reconnects after outages are none either.
    for _ in 0..3 {
        let _: i64 = redis.ask("CLIENT KILL TYPE normal").await;
        while consumer.read(100, Duration::from_millis(20)).await.is_err() {}
        consumer.read_history_again();
        assert_eq!(deaths(&mut consumer).await, [0, 0]);
    }

    while redis.bus.ping().await.is_err() {}

    for died in 1..=5 {
        let mut next = redis.normalizer();
        let found = next.read(100, Duration::from_millis(20)).await.unwrap();
        assert_eq!(found[0].deliveries, died);
        // It begins the first only, and dies.
        next.begin(&found[..1]).await.unwrap();
        next.begin(&found[..1]).await.unwrap();
        next.read_history_again();
        assert_eq!(deaths(&mut next).await, [died, 1]);
    }
    assert_eq!(deaths(&mut redis.normalizer()).await, [6, 1]);
}

#[tokio::test]
async fn work_that_was_done_and_not_taken_does_not_count() {
    let redis = Redis::start();
    redis.publish(&[envelope(ROOM, 1)]).await;
    let mut first = redis.normalizer();
    let ids = read(&mut first).await;
    first.survived(&[&ids[0]]).await.unwrap();
    assert_eq!(deaths(&mut redis.normalizer()).await, [0]);
    for _ in 0..3 {
        let mut next = redis.normalizer();
        let found = next.read(100, Duration::from_millis(20)).await.unwrap();
        next.begin(&found).await.unwrap();
        next.survived(&[&ids[0]]).await.unwrap();
    }
    assert_eq!(deaths(&mut redis.normalizer()).await, [0]);
}

/// A claim takes trimmed entries off the pending list, and nobody would hear of them.
#[tokio::test]
async fn a_trimmed_entry_stays_unfinished_when_it_is_begun() {
    let redis = Redis::start();
    redis.publish(&[envelope(ROOM, 1)]).await;
    let ids = read(&mut redis.normalizer()).await;
    let _: i64 = redis.ask(&format!("XDEL ttlc:raw {}", ids[0])).await;
    let mut next = redis.normalizer();
    let found = next.read(100, Duration::from_millis(20)).await.unwrap();
    assert!(found[0].fields.is_empty());
    next.begin(&found).await.unwrap();
    next.survived(&[&ids[0]]).await.unwrap();
    assert_eq!(read(&mut redis.normalizer()).await, ids);
}
