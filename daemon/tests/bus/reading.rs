//! Reading a stream as a group member: nothing is lost in crashes, restarts and wiped streams.

use std::time::Duration;

use redis::Value;
use shared::streams::{GROUP_API, GROUP_NORMALIZER, GROUP_STORAGE};

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

#[tokio::test]
async fn trimming_keeps_what_any_group_still_needs() {
    let redis = Redis::start();
    let sent: Vec<_> = (0..1_000).map(|seq| envelope(ROOM, seq)).collect();
    redis.publish(&sent).await;
    assert_eq!(
        redis.bus.trim("ttlc:raw").await.unwrap(),
        0,
        "nobody has said what they need"
    );
    assert_eq!(redis.bus.trim("ttlc:nothing").await.unwrap(), 0);

    // One group has read and acknowledged all, the second holds an entry, the third has read none.
    let mut fast = redis
        .bus
        .consumer("ttlc:raw".into(), GROUP_NORMALIZER, "slot-0");
    let ids = fast.read(1_000, Duration::from_millis(20)).await.unwrap();
    fast.ack(&ids.iter().map(|entry| entry.id.clone()).collect::<Vec<_>>())
        .await
        .unwrap();
    let mut holding = redis
        .bus
        .consumer("ttlc:raw".into(), GROUP_STORAGE, "slot-0");
    let held = holding.read(900, Duration::from_millis(20)).await.unwrap();
    let mut idle = redis.bus.consumer("ttlc:raw".into(), GROUP_API, "slot-0");
    idle.read(1, Duration::from_millis(20)).await.unwrap();
    assert_eq!(
        redis.bus.trim("ttlc:raw").await.unwrap(),
        0,
        "the third needs them all"
    );

    let first = idle.read(1, Duration::from_millis(20)).await.unwrap();
    assert_eq!(first.len(), 1);
    let _: Value = redis.ask("XGROUP DESTROY ttlc:raw api").await;
    holding
        .ack(
            &held[..800]
                .iter()
                .map(|entry| entry.id.clone())
                .collect::<Vec<_>>(),
        )
        .await
        .unwrap();
    let dropped = redis.bus.trim("ttlc:raw").await.unwrap();
    assert!(
        (500..=800).contains(&dropped),
        "whole nodes below the oldest pending entry: {dropped}"
    );
    let mut again = redis
        .bus
        .consumer("ttlc:raw".into(), GROUP_STORAGE, "slot-0");
    assert_eq!(
        read(&mut again).await.len(),
        100,
        "the held ones are still there"
    );
}
