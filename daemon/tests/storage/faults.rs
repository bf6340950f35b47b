//! Crashes, repeats, outages, rivals.

use std::time::Duration;

use super::rig::{Event, Rig, Room, noon, poll};
use super::statistics::assert_statistics_equal_a_recount;

/// A few rooms with everything in them.
pub(crate) fn show(rooms: u64, events: u64) -> Vec<Event> {
    let mut rooms: Vec<Room> = (0..rooms)
        .map(|n| {
            let username = format!("creator{n}");
            Room::new(
                &format!("73{n:02}"),
                &username,
                u128::from(n) + 1,
                noon() + i64::try_from(n).unwrap(),
            )
        })
        .collect();
    let mut all: Vec<Event> = rooms.iter_mut().map(Room::connected).collect();
    for number in 0..events {
        let room = usize::try_from(number).unwrap() % rooms.len();
        let room = &mut rooms[room];
        let viewer = number % 37;
        all.push(match number % 10 {
            0..4 => room.chat(viewer),
            4 => room.like(viewer, number % 15 + 1),
            5 => room.gift(viewer, 3, "progress"),
            // Five streaks of six come to their end; of the others the last step is known.
            6 if number % 60 != 6 => room.gift(viewer, 9, "final"),
            6 => room.gift_timeout(viewer, 3),
            7 => room.gift(viewer, 1, "single"),
            8 => room.watched_by(number * 7_919 % 1_000),
            _ => room.like(viewer, 1),
        });
    }
    all.extend(rooms.iter_mut().map(|room| room.stream_end(3)));
    all.extend(rooms.iter_mut().map(|room| room.disconnected("stream_end")));
    all
}

/// Stored exactly once, and every count follows from the events.
pub(crate) async fn assert_complete(rig: &Rig, events: &[Event]) {
    let ids: Vec<Vec<u8>> = events
        .iter()
        .map(|event| event.id().as_bytes().to_vec())
        .collect();
    let client = rig.client().await;
    let stored: i64 = client
        .query_one(
            "SELECT count(*) FROM events WHERE event_id = ANY($1)",
            &[&ids],
        )
        .await
        .unwrap()
        .get(0);
    assert_eq!(stored, i64::try_from(ids.len()).unwrap());
    assert_eq!(
        rig.one::<i64>("SELECT count(*) FROM events").await,
        stored,
        "nothing else"
    );
    let wrong: i64 = rig
        .one(
            "SELECT count(*) FROM (
                SELECT session_id, count(*) AS event_count, min(seq_no) AS first_seq_no, max(seq_no) AS last_seq_no,
                    min(ingested_at) AS started_at, max(ingested_at) AS last_event_at
                FROM events GROUP BY session_id) AS recount
             FULL JOIN sessions USING (session_id, event_count, first_seq_no, last_seq_no, started_at, last_event_at)
             WHERE recount IS NULL OR sessions.stream_id IS NULL",
        )
        .await;
    assert_eq!(wrong, 0, "sessions equal a recount");
    let wrong: i64 = rig
        .one(
            "SELECT count(*) FROM (
                SELECT user_id, min(ingested_at) AS first_seen_at, max(ingested_at) AS last_seen_at
                FROM events WHERE user_id IS NOT NULL GROUP BY user_id) AS recount
             LEFT JOIN users USING (user_id, first_seen_at, last_seen_at)
             WHERE users.profile_at IS NULL",
        )
        .await;
    assert_eq!(wrong, 0, "users equal a recount");
    assert_statistics_equal_a_recount(rig).await;
    assert!(rig.dead_letters().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn redelivery_changes_nothing() {
    let rig = Rig::new().await;
    let events = show(3, 1_000);
    rig.store(rig.options(), &events).await;
    assert_complete(&rig, &events).await;
    let before = rig.snapshot().await;

    let mut options = rig.options();
    for batch in [500, 17] {
        rig.redeliver().await;
        options.storage_batch_size = batch;
        rig.store(options.clone(), &[]).await;
        assert!(rig.snapshot().await == before, "in batches of {batch}");
    }
    assert!(rig.dead_letters().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_the_commit_and_the_acknowledgement_counts_once() {
    let rig = Rig::new().await;
    let events = show(3, 300);
    // It has read them and cannot store them yet.
    let lock = rig.client().await;
    lock.batch_execute("BEGIN; LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    rig.publish(&events).await;
    let running = rig.start(rig.options());
    poll("all are read", async || {
        (rig.pending().await == events.len()).then_some(())
    })
    .await;
    // It can store them and cannot acknowledge them.
    let mut redis = rig.redis().await;
    let client = |words: &[&str]| redis::cmd("CLIENT").arg(words).to_owned();
    client(&["PAUSE", "60000", "WRITE"])
        .exec_async(&mut redis)
        .await
        .unwrap();
    lock.batch_execute("COMMIT").await.unwrap();
    poll("all are stored", async || {
        let stored: i64 = rig.one("SELECT count(*) FROM events").await;
        (usize::try_from(stored).unwrap() == events.len()).then_some(())
    })
    .await;
    running.crash().await;
    client(&["KILL", "TYPE", "normal", "SKIPME", "yes"])
        .exec_async(&mut redis)
        .await
        .unwrap();
    client(&["UNPAUSE"]).exec_async(&mut redis).await.unwrap();
    assert_eq!(rig.pending().await, events.len(), "none is acknowledged");

    let before = rig.snapshot().await;
    let running = rig.start(rig.options());
    rig.settled().await;
    running.stop().await;
    assert!(rig.snapshot().await == before);
    assert_complete(&rig, &events).await;
}

/// Pending entries of a crashed writer are taken up by the same name.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_anywhere_loses_nothing_and_counts_nothing_twice() {
    let rig = Rig::new().await;
    let events = show(3, 2_000);
    rig.publish(&events).await;
    let mut options = rig.options();
    options.storage_batch_size = 20;
    let mut stored = 0;
    for round in 0..30_u64 {
        let running = rig.start(options.clone());
        tokio::time::sleep(Duration::from_millis(40 + round * 7 % 23)).await;
        running.crash().await;
        let now: i64 = rig.one("SELECT count(*) FROM events").await;
        assert!(now >= stored);
        stored = now;
    }
    let running = rig.start(rig.options());
    rig.settled().await;
    running.stop().await;
    assert_complete(&rig, &events).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_side_by_side_agree() {
    let rig = Rig::new().await;
    // Every event twice and backwards, so that they often insert the same at the same time.
    let events = show(3, 3_000);
    let mut twice = events.clone();
    twice.extend(events.iter().rev().cloned());
    rig.publish(&twice).await;
    let writers: Vec<_> = (0..4)
        .map(|_| {
            let mut options = rig.options();
            options.storage_batch_size = 100;
            rig.start(options)
        })
        .collect();
    rig.settled().await;
    for writer in writers {
        writer.stop().await;
    }
    assert_complete(&rig, &events).await;
    let open: i64 = rig
        .one("SELECT count(*) FROM streams WHERE status <> 'ended' OR end_reason <> 'creator'")
        .await;
    assert_eq!(open, 0);
    // They lock everything in one order.
    let deadlocks: i64 = rig
        .one("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        .await;
    assert_eq!(deadlocks, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_postgres_is_waited_for() {
    let mut rig = Rig::new().await;
    let mut options = rig.options();
    options.storage_batch_size = 50;
    let running = rig.start(options);
    let events = show(2, 4_000);

    // Killed while it stores, and started again.
    rig.publish(&events[..2_000]).await;
    poll("some are stored", async || {
        (rig.one::<i64>("SELECT count(*) FROM events").await > 100).then_some(())
    })
    .await;
    let postgres = rig.postgres.take().unwrap();
    let stopped = tokio::task::spawn_blocking(move || postgres.stop(false).unwrap())
        .await
        .unwrap();
    rig.publish(&events[2_000..3_000]).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    rig.postgres = Some(
        tokio::task::spawn_blocking(|| stopped.start_again().unwrap())
            .await
            .unwrap(),
    );
    rig.settled().await;

    // Read-only, as a standby is.
    let client = rig.client().await;
    client
        .batch_execute("ALTER SYSTEM SET default_transaction_read_only = on")
        .await
        .unwrap();
    client
        .batch_execute("SELECT pg_reload_conf()")
        .await
        .unwrap();
    poll("read-only", async || {
        (rig.one::<String>("SHOW transaction_read_only").await == "on").then_some(())
    })
    .await;
    rig.publish(&events[3_000..3_500]).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(rig.one::<i64>("SELECT count(*) FROM events").await, 3_000);
    client
        .batch_execute("ALTER SYSTEM RESET default_transaction_read_only")
        .await
        .unwrap();
    client
        .batch_execute("SELECT pg_reload_conf()")
        .await
        .unwrap();
    rig.settled().await;

    // Its connection is cut again and again.
    rig.publish(&events[3_500..]).await;
    for _ in 0..10 {
        client
            .batch_execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE application_name = 'ttlc' AND backend_type = 'client backend'",
            )
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    rig.settled().await;
    running.stop().await;
    assert_complete(&rig, &events).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_redis_is_waited_for() {
    let mut rig = Rig::new().await;
    let running = rig.start(rig.options());
    let events = show(2, 1_000);
    rig.publish(&events[..500]).await;
    rig.settled().await;
    let redis = rig.redis.take().unwrap();
    let stopped = tokio::task::spawn_blocking(move || redis.stop(true).unwrap())
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    rig.redis = Some(
        tokio::task::spawn_blocking(|| stopped.start_again().unwrap())
            .await
            .unwrap(),
    );
    rig.publish(&events[500..]).await;
    rig.settled().await;
    running.stop().await;
    assert_complete(&rig, &events).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_stops_soon_even_in_an_outage_and_goes_on_later() {
    let mut rig = Rig::new().await;
    let events = show(2, 500);
    let running = rig.start(rig.options());
    rig.publish(&events[..100]).await;
    rig.settled().await;
    let postgres = rig.postgres.take().unwrap();
    let stopped = tokio::task::spawn_blocking(move || postgres.stop(false).unwrap())
        .await
        .unwrap();
    rig.publish(&events[100..]).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    running.stop().await;

    // Postgres comes back only after the writer was started.
    let running = rig.start(rig.options());
    tokio::time::sleep(Duration::from_millis(200)).await;
    rig.postgres = Some(
        tokio::task::spawn_blocking(|| stopped.start_again().unwrap())
            .await
            .unwrap(),
    );
    rig.settled().await;
    running.stop().await;
    assert_complete(&rig, &events).await;
}

/// What was published before the stop is stored by the stop.
#[tokio::test(flavor = "multi_thread")]
async fn the_stream_is_drained_on_stop() {
    let rig = Rig::new().await;
    let mut options = rig.options();
    options.storage_batch_ms = 2_000;
    let running = rig.start(options);
    let events = show(1, 50);
    rig.publish(&events[..10]).await;
    // It has taken the first ones and waits for more.
    poll("taken", async || (rig.pending().await == 10).then_some(())).await;
    rig.publish(&events[10..]).await;
    running.stop().await;
    assert_complete(&rig, &events).await;
}
