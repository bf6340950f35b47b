//! From raw entries to events: each once, by the one who holds the lease, with what it remembers.

use std::collections::HashMap;
use std::time::Duration;

use daemon::bus::{Batch, Hop, Hopped, Role};
use redis::Value;

use super::rig::{ROOM, Redis, an_event, batch, dead, envelope, event, owner, read};

const LIFE: Duration = Duration::from_mins(1);

/// A Redis with raw entries, and a normalizer that holds the lease.
async fn with_entries(count: u64) -> Redis {
    let redis = Redis::start();
    let sent: Vec<_> = (1..=count).map(|seq| envelope(ROOM, seq)).collect();
    redis.publish(&sent).await;
    assert!(hold(&redis, 1).await);
    redis
}

async fn hold(redis: &Redis, number: u128) -> bool {
    let role = Role::Normalizer(0);
    redis.bus.hold(role, owner(number), LIFE).await.unwrap()
}

#[tokio::test]
async fn a_hop_publishes_each_entry_once_whoever_repeats_it() {
    let redis = with_entries(3).await;
    let mut consumer = redis.normalizer();
    let ids = read(&mut consumer).await;
    let hops = [event(&ids[0]), dead(&ids[1]), event(&ids[2])];
    let first = batch(1, &hops);
    assert_eq!(
        consumer.hop(0, owner(1), &first).await.unwrap(),
        Hopped::Done(3)
    );
    assert_eq!(
        consumer.hop(0, owner(1), &first).await.unwrap(),
        Hopped::Done(0),
        "the batch was done"
    );
    let again = batch(2, &hops);
    assert_eq!(
        consumer.hop(0, owner(1), &again).await.unwrap(),
        Hopped::Done(0),
        "nothing is pending"
    );
    assert_eq!(redis.ask::<u64>("XLEN ttlc:events").await, 2);
    assert_eq!(redis.ask::<u64>("XLEN ttlc:dlq").await, 1);
    assert!(
        read(&mut redis.normalizer()).await.is_empty(),
        "acknowledged"
    );
}

#[tokio::test]
async fn only_the_holder_of_the_lease_hops() {
    let redis = with_entries(2).await;
    assert!(!hold(&redis, 2).await, "it is taken");
    assert!(hold(&redis, 1).await, "it is renewed");
    let mut consumer = redis.normalizer();
    let ids = read(&mut consumer).await;
    let mut first = batch(1, &[event(&ids[0])]);
    first.state.push(("a".into(), Some("1".into())));
    assert_eq!(
        consumer.hop(0, owner(2), &first).await.unwrap(),
        Hopped::NotOurs
    );
    assert_eq!(redis.ask::<u64>("XLEN ttlc:events").await, 0);
    let state = redis.bus.normalizer_state(0).await.unwrap();
    assert_eq!((state.batch, state.fields.len()), (0, 0));

    let role = Role::Normalizer(0);
    redis.bus.let_go(role, owner(2)).await.unwrap();
    assert!(!hold(&redis, 2).await, "nobody frees another's");
    redis.bus.let_go(role, owner(1)).await.unwrap();
    assert_eq!(
        consumer.hop(0, owner(1), &first).await.unwrap(),
        Hopped::NotOurs,
        "not without the lease, even if it is free"
    );
    assert!(hold(&redis, 2).await);
    assert_eq!(
        consumer.hop(0, owner(1), &first).await.unwrap(),
        Hopped::NotOurs
    );
    assert_eq!(
        consumer.hop(0, owner(2), &first).await.unwrap(),
        Hopped::Done(1)
    );
    assert!(
        redis.bus.hold(Role::Control, owner(1), LIFE).await.unwrap(),
        "another role"
    );
}

#[tokio::test]
async fn a_lease_lapses() {
    let redis = Redis::start();
    let role = Role::Normalizer(0);
    let short = Duration::from_millis(30);
    assert!(redis.bus.hold(role, owner(1), short).await.unwrap());
    let begun = std::time::Instant::now();
    while !hold(&redis, 2).await {
        assert!(begun.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_is_remembered_is_written_with_what_is_published() {
    let redis = with_entries(2).await;
    let mut consumer = redis.normalizer();
    let ids = read(&mut consumer).await;
    let remembered = |fields: &[(&str, Option<&str>)]| {
        fields
            .iter()
            .map(|(field, value)| ((*field).to_owned(), value.map(str::to_owned)))
            .collect::<Vec<_>>()
    };
    let first = Batch {
        number: 1,
        hops: vec![event(&ids[0])],
        state: remembered(&[("a", Some("1")), ("b", Some("2"))]),
    };
    assert_eq!(
        consumer.hop(0, owner(1), &first).await.unwrap(),
        Hopped::Done(1)
    );
    // Time alone brings an event, and there is something to forget.
    let of_time = Batch {
        number: 2,
        hops: vec![Hop {
            raw_id: None,
            outcomes: vec![an_event(), an_event()],
        }],
        state: remembered(&[("a", None), ("b", Some("3"))]),
    };
    assert_eq!(
        consumer.hop(0, owner(1), &of_time).await.unwrap(),
        Hopped::Done(0)
    );
    assert_eq!(redis.ask::<u64>("XLEN ttlc:events").await, 3);
    // The same again, after a lost reply.
    assert_eq!(
        consumer.hop(0, owner(1), &of_time).await.unwrap(),
        Hopped::Done(0)
    );
    assert_eq!(
        consumer.hop(0, owner(1), &first).await.unwrap(),
        Hopped::OutOfStep
    );
    assert_eq!(redis.ask::<u64>("XLEN ttlc:events").await, 3);

    let state = redis.bus.normalizer_state(0).await.unwrap();
    assert_eq!(state.batch, 2);
    let expected = HashMap::from([("b".to_owned(), "3".to_owned())]);
    assert_eq!(state.fields, expected);
}

#[tokio::test]
async fn rivals_on_the_same_entries_publish_each_once() {
    let redis = with_entries(500).await;
    let ids = redis
        .normalizer()
        .read(1_000, Duration::from_millis(20))
        .await
        .unwrap();
    let hops: Vec<_> = ids.iter().map(|entry| event(&entry.id)).collect();
    // Four of one name, as if the lease had let them all through.
    let rivals = (0..4).map(|_| {
        let mut consumer = redis.normalizer();
        let hops = hops.clone();
        tokio::spawn(async move {
            let mut done = 0;
            for (number, hops) in (1..).zip(hops.chunks(37)) {
                let batch = batch(number, hops);
                match consumer.hop(0, owner(1), &batch).await.unwrap() {
                    Hopped::Done(published) => done += published,
                    // Another one is ahead.
                    Hopped::OutOfStep => {}
                    refused => panic!("{refused:?}"),
                }
            }
            done
        })
    });
    let done: usize = futures_util::future::join_all(rivals)
        .await
        .into_iter()
        .map(Result::unwrap)
        .sum();
    assert_eq!(done, 500);
    assert_eq!(redis.ask::<u64>("XLEN ttlc:events").await, 500);
}

#[tokio::test]
async fn a_full_redis_refuses_the_whole_hop_and_nothing_is_lost() {
    let redis = with_entries(1).await;
    let mut consumer = redis.normalizer();
    let ids = read(&mut consumer).await;
    let mut first = batch(1, &[event(&ids[0])]);
    first.state.push(("a".into(), Some("1".into())));
    let _: Value = redis.ask("CONFIG SET maxmemory 1").await;
    assert!(consumer.hop(0, owner(1), &first).await.is_err());
    let _: Value = redis.ask("CONFIG SET maxmemory 0").await;
    let state = redis.bus.normalizer_state(0).await.unwrap();
    assert_eq!((state.batch, state.fields.len()), (0, 0), "not half of it");
    assert_eq!(
        consumer.hop(0, owner(1), &first).await.unwrap(),
        Hopped::Done(1)
    );
    assert_eq!(redis.ask::<u64>("XLEN ttlc:events").await, 1);
}

#[tokio::test]
async fn a_full_redis_refuses_messages_and_takes_them_later() {
    let redis = Redis::start();
    redis.publish(&[envelope(ROOM, 1)]).await;
    let sent = envelope(ROOM, 2);
    let batches = [daemon::bus::RoomBatch {
        stream_id: ROOM,
        token: 1,
        late: false,
        after: None,
        envelopes: vec![&sent],
    }];
    let _: Value = redis.ask("CONFIG SET maxmemory 1").await;
    assert!(redis.bus.publish(owner(1), &batches).await.is_err());
    let _: Value = redis.ask("CONFIG SET maxmemory 0").await;
    assert_eq!(redis.raw_numbers().await, [1]);
    redis.bus.publish(owner(1), &batches).await.unwrap();
    assert_eq!(redis.raw_numbers().await, [1, 2]);
}

#[tokio::test]
async fn a_batch_follows_the_one_before_or_is_refused() {
    let redis = with_entries(3).await;
    let mut consumer = redis.normalizer();
    let ids = read(&mut consumer).await;
    let hop = |number: u64, entry: usize| batch(number, &[event(&ids[entry])]);
    let unknown = hop(2, 0);
    assert_eq!(
        consumer.hop(0, owner(1), &unknown).await.unwrap(),
        Hopped::Forgotten,
        "nothing is known of batch 1"
    );
    for (number, expected) in [
        (1, Hopped::Done(1)),
        (3, Hopped::OutOfStep),
        (2, Hopped::Done(1)),
        (1, Hopped::OutOfStep),
    ] {
        let entry = usize::try_from(number - 1).unwrap();
        let hopped = consumer.hop(0, owner(1), &hop(number, entry)).await;
        assert_eq!(hopped.unwrap(), expected, "{number}");
    }
    assert_eq!(redis.ask::<u64>("XLEN ttlc:events").await, 2);
    let _: i64 = redis.ask("DEL ttlc:normalizer").await;
    assert_eq!(
        consumer.hop(0, owner(1), &hop(3, 2)).await.unwrap(),
        Hopped::Forgotten
    );
    assert_eq!(
        consumer.hop(0, owner(1), &hop(1, 2)).await.unwrap(),
        Hopped::Done(1)
    );
    assert_eq!(redis.ask::<u64>("XLEN ttlc:events").await, 3);
}

/// A rival of the same name that was stopped while it waited may be given entries; what came after
/// them must not overtake them.
#[tokio::test]
async fn a_batch_waits_for_older_entries_that_are_unfinished() {
    let redis = with_entries(2).await;
    let rival = read(&mut redis.normalizer()).await;
    redis.publish(&[envelope(ROOM, 3), envelope(ROOM, 4)]).await;
    let mut consumer = redis.normalizer();
    assert_eq!(read(&mut consumer).await, rival, "its own history");
    let new = read(&mut consumer).await;
    let early = batch(1, &[event(&new[0])]);
    assert_eq!(
        consumer.hop(0, owner(1), &early).await.unwrap(),
        Hopped::OutOfStep
    );
    assert_eq!(redis.ask::<u64>("XLEN ttlc:events").await, 0);
    let all: Vec<Hop> = rival.iter().chain(&new).map(|id| event(id)).collect();
    let whole = batch(1, &all);
    assert_eq!(
        consumer.hop(0, owner(1), &whole).await.unwrap(),
        Hopped::Done(4)
    );
}

#[tokio::test]
async fn a_hop_renews_the_lease() {
    let redis = with_entries(1).await;
    let role = Role::Normalizer(0);
    let short = Duration::from_secs(2);
    assert!(redis.bus.hold(role, owner(1), short).await.unwrap());
    let mut consumer = redis.normalizer();
    let ids = read(&mut consumer).await;
    let first = batch(1, &[event(&ids[0])]);
    consumer.hop(0, owner(1), &first).await.unwrap();
    let left = redis.ask::<i64>("PTTL ttlc:lease:normalizer").await;
    assert!(left > 3_000, "{left} of 4,000 ms, for it had 2,000 before");
}
