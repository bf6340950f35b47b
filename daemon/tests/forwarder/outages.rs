//! Outages: of the destination, of Postgres, of the forwarder itself.

use std::time::{Duration, Instant};

use super::rig::{Reply, Rig, chat, chats, poll};

#[tokio::test(flavor = "multi_thread")]
async fn f16_an_outage_makes_no_dead_letter_and_burns_no_retry() {
    let rig = Rig::new().await;
    rig.server.away(true);
    rig.publish(&chats(1, 1..=3)).await;
    rig.publish(&chats(2, 1..=3)).await;
    // Without the breaker the fourth failure would be one too many.
    let running = rig.start(&["--forward-max-retries=5"]);
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert_eq!(rig.one::<i64>("SELECT count(*) FROM dead_letters").await, 0);
    assert!(rig.server.seen().is_empty());
    rig.server.away(false);
    rig.settled().await;
    running.stop().await;
    for room in [1, 2] {
        assert_eq!(rig.server.taken(room), [1, 2, 3]);
    }
    assert_eq!(rig.count("forwarded").await, 6);
    assert_eq!(rig.one::<i64>("SELECT count(*) FROM dead_letters").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn f16_what_waits_too_long_is_put_aside_and_sent_first_when_the_destination_is_back() {
    let rig = Rig::new().await;
    rig.server.away(true);
    rig.publish(&chats(1, 1..=40)).await;
    rig.publish(&chats(2, 1..=40)).await;
    let running = rig.start(&["--forward-max-age=3"]);
    poll("all are put aside", async || {
        (rig.count("dead_lettered").await == 80).then_some(())
    })
    .await;
    let reasons: i64 = rig
        .one("SELECT count(*) FROM dead_letters WHERE reason = 'FORWARD_UNREACHABLE' AND state = 'open' AND stage = 'forwarder'")
        .await;
    assert_eq!(reasons, 80);
    let in_redis: usize = redis::cmd("XLEN")
        .arg("ttlc:dlq")
        .query_async(&mut rig.redis().await)
        .await
        .unwrap();
    assert_eq!(in_redis, 80);
    rig.settled().await;
    // A room with newer events, and one without.
    rig.publish(&chats(1, 41..=45)).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    rig.server.away(false);
    poll("all are sent", async || {
        (rig.count("forwarded").await == 85).then_some(())
    })
    .await;
    rig.settled().await;
    assert_eq!(rig.server.taken(1), (1..=45).collect::<Vec<_>>());
    assert_eq!(rig.server.taken(2), (1..=40).collect::<Vec<_>>());
    let open: i64 = rig.one("SELECT count(*) FROM dead_letters WHERE state <> 'redriven' OR redriven_by <> 'forwarder'").await;
    assert_eq!(open, 0);
    // All is as before: what comes now goes through.
    rig.publish(&[chat(2, 41)]).await;
    rig.settled().await;
    assert_eq!(rig.server.taken(2).last(), Some(&41));
    running.stop().await;
}

/// Put aside by one process, sent by the next; and by an outage that answers.
#[tokio::test(flavor = "multi_thread")]
async fn f16_what_was_put_aside_survives_the_process() {
    let rig = Rig::new().await;
    rig.server.script(|_| Reply::Status(503));
    rig.publish(&chats(1, 1..=3)).await;
    let running = rig.start(&["--forward-max-retries=1", "--forward-max-age=2"]);
    poll("all are put aside", async || {
        (rig.count("dead_lettered").await == 3).then_some(())
    })
    .await;
    running.stop().await;
    rig.server.script(|_| Reply::Status(200));
    rig.publish(&[chat(1, 4)]).await;
    let running = rig.start(&[]);
    poll("all are sent", async || {
        (rig.count("forwarded").await == 4).then_some(())
    })
    .await;
    running.stop().await;
    assert_eq!(rig.server.taken(1), [1, 2, 3, 4]);
}

/// The one room's event makes the destination hang: it must not stand in the way for ever.
#[tokio::test(flavor = "multi_thread")]
async fn f16_a_dead_letter_that_chokes_the_destination_lets_newer_events_past() {
    let rig = Rig::new().await;
    rig.server.script(|seen| {
        if seen.events()[0].1 == 1 {
            Reply::Close
        } else {
            Reply::Status(200)
        }
    });
    rig.publish(&chats(1, 1..=1)).await;
    let running = rig.start(&["--forward-max-age=2", "--forward-max-retries=100"]);
    poll("it is put aside", async || {
        (rig.count("dead_lettered").await == 1).then_some(())
    })
    .await;
    for number in 2..=40 {
        rig.publish(&[chat(1, number)]).await;
        if !rig.server.taken(1).is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    rig.settled().await;
    let reason: String = rig
        .one("SELECT reason FROM forward_log WHERE seq_no = 1")
        .await;
    assert_eq!(reason, "FORWARD_EXHAUSTED");
    rig.publish(&[chat(1, 100)]).await;
    rig.settled().await;
    assert_eq!(rig.server.taken(1).last(), Some(&100));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f15_a_tls_handshake_that_fails_is_an_outage() {
    let rig = Rig::new().await;
    rig.publish(&chats(1, 1..=1)).await;
    // TLS against a server that speaks none.
    let running = rig.start(&[
        &format!("--forward-url=https://127.0.0.1:{}/", rig.server.port()),
        "--forward-max-age=2",
    ]);
    poll("it is put aside", async || {
        (rig.count("dead_lettered").await == 1).then_some(())
    })
    .await;
    running.stop().await;
    let error: String = rig.one("SELECT error FROM dead_letters").await;
    assert!(error.contains("connect"), "{error}");
    assert!(rig.server.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_acknowledged_without_its_record() {
    let mut rig = Rig::new().await;
    let running = rig.start(&[]);
    rig.publish(&chats(1, 1..=1)).await;
    rig.settled().await;
    let stopped = rig.postgres.take().unwrap().stop(false).unwrap();
    rig.publish(&chats(1, 2..=5)).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (pending, lag) = rig.open().await.unwrap();
    assert_eq!(pending + lag, 4, "not sent, or sent and not recorded");
    assert!(rig.server.seen().len() <= 2, "at most one of the room");
    rig.postgres = Some(
        tokio::task::spawn_blocking(|| stopped.start_again().unwrap())
            .await
            .unwrap(),
    );
    rig.settled().await;
    running.stop().await;
    let mut taken = rig.server.taken(1);
    taken.dedup();
    assert_eq!(taken, [1, 2, 3, 4, 5]);
    assert_eq!(rig.count("forwarded").await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over() {
    let rig = Rig::new().await;
    rig.server
        .script(|_| Reply::Slow(200, Duration::from_millis(10)));
    let first = rig.start(&[]);
    rig.publish(&chats(1, 1..=10)).await;
    rig.settled().await;
    let second = rig.start(&[]);
    rig.publish(&chats(1, 11..=200)).await;
    poll("some are sent", async || {
        (rig.server.seen().len() > 30).then_some(())
    })
    .await;
    assert_eq!(
        rig.server.taken(1),
        (1..=rig.server.taken(1).len() as u64).collect::<Vec<_>>(),
        "one sends"
    );
    let begun = Instant::now();
    first.crash().await;
    rig.settled().await;
    assert!(
        begun.elapsed() > Duration::from_secs(2),
        "not before the lease lapses"
    );
    let mut taken = rig.server.taken(1);
    assert!(taken.len() <= 201, "only what was under way is sent twice");
    taken.dedup();
    assert_eq!(taken, (1..=200).collect::<Vec<_>>());
    // Given back: the next one need not wait.
    let third = rig.start(&[]);
    second.stop().await;
    let begun = Instant::now();
    rig.publish(&chats(1, 201..=201)).await;
    rig.settled().await;
    assert!(begun.elapsed() < Duration::from_secs(5));
    third.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_trimmed_unread_is_recorded() {
    let rig = Rig::new().await;
    rig.publish(&chats(1, 1..=10)).await;
    let running = rig.start(&[]);
    rig.settled().await;
    running.stop().await;
    rig.publish(&chats(1, 11..=30)).await;
    redis::cmd("XTRIM")
        .arg(&["ttlc:events", "MAXLEN", "5"])
        .exec_async(&mut rig.redis().await)
        .await
        .unwrap();
    let running = rig.start(&[]);
    let lost: i64 = poll("the loss is recorded", async || {
        let rows = rig
            .client()
            .await
            .query(
                "SELECT entries FROM forward_gaps WHERE kind = 'unread'",
                &[],
            )
            .await
            .unwrap();
        rows.first().map(|row| row.get(0))
    })
    .await;
    assert_eq!(lost, 15);
    running.stop().await;
    assert_eq!(rig.server.taken(1).last(), Some(&30));
    // Told once, also by the next process.
    let running = rig.start(&[]);
    tokio::time::sleep(Duration::from_secs(6)).await;
    running.stop().await;
    assert_eq!(
        rig.one::<i64>("SELECT sum(entries)::bigint FROM forward_gaps")
            .await,
        15
    );
}

/// Records go with the retention; the last gap stays, since the next loss is counted from it.
#[tokio::test(flavor = "multi_thread")]
async fn old_records_are_pruned() {
    let rig = Rig::new().await;
    rig.publish(&chats(1, 1..=3)).await;
    let running = rig.start(&[]);
    rig.settled().await;
    running.stop().await;
    rig.client()
        .await
        .batch_execute(
            "UPDATE forward_log SET settled_at = now() - interval '100 days' WHERE seq_no < 3;
             INSERT INTO forward_gaps (stream, kind, entries, counted, from_entry, to_entry, recorded_at)
             SELECT 'ttlc:events', 'unread', 1, n, n::text, n::text, now() - interval '100 days' FROM generate_series(1, 2) AS n",
        )
        .await
        .unwrap();
    let retention = daemon::storage::RetentionOptions {
        event_retention_days: 90,
        pseudonym_key: None,
    };
    let pruned = daemon::storage::prune(&rig.options(&[]).database, &retention)
        .await
        .unwrap();
    assert_eq!(pruned.forward_log, 3);
    assert_eq!(rig.log("1").await.len(), 1);
    assert_eq!(
        rig.one::<i64>("SELECT max(counted) FROM forward_gaps")
            .await,
        2
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_trimmed_while_it_waits_is_recorded() {
    let rig = Rig::new().await;
    rig.server.script(|_| Reply::Hang);
    rig.publish(&chats(1, 1..=3)).await;
    let running = rig.start(&[]);
    poll("it is sent", async || {
        (!rig.server.seen().is_empty()).then_some(())
    })
    .await;
    running.crash().await;
    redis::cmd("DEL")
        .arg(&["ttlc:lease:forwarder"])
        .exec_async(&mut rig.redis().await)
        .await
        .unwrap();
    redis::cmd("XTRIM")
        .arg(&["ttlc:events", "MAXLEN", "1"])
        .exec_async(&mut rig.redis().await)
        .await
        .unwrap();
    rig.server.script(|_| Reply::Status(200));
    let running = rig.start(&[]);
    rig.settled().await;
    running.stop().await;
    assert_eq!(rig.server.taken(1), [3]);
    assert_eq!(
        rig.one::<i64>("SELECT count(*) FROM forward_gaps WHERE kind = 'pending'")
            .await,
        2
    );
}
