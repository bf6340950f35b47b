//! What goes when it is old, and what stays.

use std::sync::Arc;

use daemon::storage::{self, Pruned, RetentionOptions, verify};
use serde_json::{Value, json};
use tokio_postgres::IsolationLevel;
use tokio_util::sync::CancellationToken;

use super::rig::{Event, Rig, Room, noon};

const DAY: i64 = 24 * 3600 * 1000;
const DAYS: u32 = 30;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_old_goes_and_its_statistics_stay() {
    let rig = Rig::new().await;
    // Before the retention, on its last day, and today; viewer 7 is in all of them.
    let show = |id: &str, session: u128, at: i64| -> Vec<Event> {
        let mut room = Room::new(id, "ann", session, at);
        let mut events: Vec<Event> = vec![
            room.connected(),
            room.chat(7),
            room.gift(session.try_into().unwrap(), 3, "final"),
        ];
        room.seq_no += 10; // a hole
        events.extend([room.like(7, 5), room.disconnected("closed")]);
        events
    };
    let days = i64::from(DAYS);
    let old = show("7301", 1, noon() - (days + 1) * DAY);
    let kept = show("7302", 2, noon() - days * DAY);
    let new = show("7303", 3, noon());
    let mut options = rig.options();
    options.retention.event_retention_days = 0;
    for events in [&old, &kept, &new] {
        rig.store(options.clone(), events).await;
    }
    rig.client()
        .await
        .batch_execute(&format!(
            "INSERT INTO dead_letters
                (letter_key, stage, reason, error, payload, redacted, stream_id, seq_no, first_failed_at, failed_at, entries)
             SELECT sha256(age::text::bytea), 'normalizer', 'x', '', '{{}}', false, '7301', age,
                now() - make_interval(days => age), now() - make_interval(days => age), '{{}}'
             FROM unnest(ARRAY[1, {DAYS} + 2]) AS age"
        ))
        .await
        .unwrap();
    let stats =
        "SELECT jsonb_agg(to_jsonb(s) ORDER BY session_id, event_type) FROM session_stats s";
    let before: Value = rig.one(stats).await;

    let retention = RetentionOptions {
        event_retention_days: DAYS,
        pseudonym_key: Some("Jefe".into()),
    };
    let prune = async || {
        storage::prune(&rig.options().database, &retention)
            .await
            .unwrap()
    };
    let (one, other) = tokio::join!(prune(), prune());
    let both = |of: fn(&Pruned) -> i64| of(&one) + of(&other);
    assert_eq!(
        one.days + other.days,
        1,
        "old days in the default partition, too"
    );
    assert_eq!(
        both(|pruned| pruned.users),
        1,
        "viewer 1; the others came again"
    );
    assert_eq!(both(|pruned| pruned.session_users), 2);
    assert_eq!(both(|pruned| pruned.dead_letters), 1);
    assert_eq!(prune().await, Pruned::default(), "twice is once");

    let left: Value = rig
        .one("SELECT jsonb_agg(DISTINCT stream_id ORDER BY stream_id) FROM events")
        .await;
    assert_eq!(left, json!(["7302", "7303"]));
    let first = old[0].json["seqNo"].as_i64().unwrap();
    let gaps: Value = rig
        .one("SELECT jsonb_agg(jsonb_build_array(stream_id, from_seq_no, to_seq_no, reason, lost) ORDER BY from_seq_no) FROM gaps")
        .await;
    let letter = i64::from(DAYS) + 2;
    assert_eq!(
        gaps,
        json!([
            ["7301", letter, letter, "pruned", 1],
            ["7301", first, first + 2, "pruned", 3],
            ["7301", first + 13, first + 14, "pruned", 2],
        ])
    );
    assert_eq!(
        rig.one::<Value>(stats).await,
        before,
        "statistics outlive the events"
    );
    // HMAC-SHA256 of 7 and 1 under the key.
    let viewers: Value = rig
        .one(
            "SELECT jsonb_agg(jsonb_build_array(user_id, events, coins, likes) ORDER BY coins)
             FROM session_users WHERE session_id = '00000000-0000-0000-0000-000000000001'",
        )
        .await;
    let name = |place: usize| viewers[place][0].as_str().unwrap().to_owned();
    assert_eq!(viewers[0], json!([name(0), 2, 0, 5]));
    assert_eq!(viewers[1], json!([name(1), 1, 15, 0]));
    assert!(name(0).starts_with("hmac:") && name(0).len() == 5 + 64);
    assert_ne!(name(0), name(1));
    let plain: i64 = rig
        .one("SELECT count(*) FROM session_users WHERE user_id NOT LIKE 'hmac:%'")
        .await;
    assert_eq!(plain, 4, "of the other sessions");

    // Late events of the pruned day count into the same pseudonym, and go as well.
    let mut late = Room::new("7301", "ann", 1, noon() - (days + 1) * DAY + 1_000_000);
    rig.store(options, &[late.chat(7)]).await;
    assert_eq!(prune().await.days, 1);
    let merged: Value = rig
        .one(
            "SELECT jsonb_agg(jsonb_build_array(user_id, events) ORDER BY coins) FROM session_users
             WHERE session_id = '00000000-0000-0000-0000-000000000001'",
        )
        .await;
    assert_eq!(merged, json!([[name(0), 3], [name(1), 1]]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_writer_prunes_by_itself_unless_told_to_keep() {
    let rig = Rig::new().await;
    let mut room = Room::new("7301", "ann", 1, noon() - 100 * DAY);
    let mut options = rig.options();
    options.retention.event_retention_days = 0;
    rig.store(options.clone(), &[room.chat(1)]).await;
    let running = rig.start(options.clone());
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    running.stop().await;
    assert_eq!(rig.one::<i64>("SELECT count(*) FROM events").await, 1);
    let none = storage::prune(&options.database, &options.retention).await;
    assert_eq!(none.unwrap(), Pruned::default());

    options.retention.event_retention_days = 90;
    let running = rig.start(options);
    super::rig::poll("it is gone", async || {
        (rig.one::<i64>("SELECT count(*) FROM events").await == 0).then_some(())
    })
    .await;
    running.stop().await;
    assert_eq!(rig.one::<String>("SELECT reason FROM gaps").await, "pruned");
}

/// Readers, the ledger, writers of old and of new days, and two that prune, all at once: each of
/// them takes the table before its partitions, so that nobody waits in a circle.
#[tokio::test(flavor = "multi_thread")]
async fn pruning_meets_neither_readers_nor_writers_in_a_circle() {
    let rig = Arc::new(Rig::new().await);
    let mut options = rig.options();
    options.retention.event_retention_days = 0;
    let room = |number: i64| {
        let id = (7300 + number).to_string();
        let at = noon() - if number == 0 { 0 } else { (100 + number) * DAY };
        Room::new(&id, "ann", u128::try_from(number + 1).unwrap(), at)
    };
    let mut rooms: Vec<Room> = (0..9).map(room).collect();
    let shows = rooms
        .iter_mut()
        .flat_map(|room| [room.connected(), room.chat(1), room.gift(2, 1, "single")].into_iter());
    let shows: Vec<Event> = shows.collect();
    rig.store(options.clone(), &shows).await;

    let over = CancellationToken::new();
    let mut tasks = tokio::task::JoinSet::new();
    for reader in 0..3 {
        let (rig, over) = (rig.clone(), over.clone());
        tasks.spawn(async move {
            let mut client = rig.client().await;
            while !over.is_cancelled() {
                let begin = client.build_transaction().read_only(true);
                let begin = if reader == 0 {
                    begin.isolation_level(IsolationLevel::RepeatableRead)
                } else {
                    begin
                };
                let transaction = begin.start().await.unwrap();
                for sql in [
                    "SELECT count(*) FROM events WHERE stream_id = '7301'",
                    "SELECT count(*) FROM events WHERE user_id = '1' AND part_day < now()::date",
                ] {
                    transaction.query_one(sql, &[]).await.unwrap();
                }
                transaction.commit().await.unwrap();
            }
        });
    }
    let (ledger, until) = (rig.clone(), over.clone());
    tasks.spawn(async move {
        while !until.is_cancelled() {
            // Rooms to which nothing is added: two writers commit the others' batches in any order.
            let options = verify::Options {
                stream: (7301..=7304).map(|room| room.to_string()).collect(),
                database: ledger.options().database,
            };
            for verdict in verify::verify(&options).await.unwrap() {
                assert!(verdict.is_whole(), "{verdict}");
            }
        }
    });
    let (feed, until) = (rig.clone(), over.clone());
    tasks.spawn(async move {
        while !until.is_cancelled() {
            let quiet = 1..=4;
            let others = rooms.iter_mut().enumerate();
            let batch: Vec<Event> = others
                .filter(|(number, _)| !quiet.contains(number))
                .map(|(_, room)| room.chat(3))
                .collect();
            feed.publish(&batch).await;
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    });
    let writers = [rig.start(options.clone()), rig.start(options)];

    let retention = RetentionOptions {
        event_retention_days: DAYS,
        pseudonym_key: None,
    };
    let prune = async || {
        let mut days = 0;
        for _ in 0..6 {
            let pruned = storage::prune(&rig.options().database, &retention).await;
            days += pruned.unwrap().days;
        }
        days
    };
    let (one, two) = tokio::join!(prune(), prune());
    over.cancel();
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    assert!(
        one + two >= 8,
        "each old day went at least once: {one} + {two}"
    );
    rig.settled().await;
    for writer in writers {
        writer.stop().await;
    }
    storage::prune(&rig.options().database, &retention)
        .await
        .unwrap();
    let left: i64 = rig.one("SELECT count(DISTINCT part_day) FROM events").await;
    assert_eq!(left, 1, "today");
    assert_whole(&rig).await;
    // Whoever was in a circle has told so when its connection ended; the writers try again, and
    // would hide it.
    let circles: i64 = rig
        .one("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        .await;
    assert_eq!(circles, 0);
}

async fn assert_whole(rig: &Rig) {
    let options = verify::Options {
        stream: Vec::new(),
        database: rig.options().database,
    };
    for verdict in verify::verify(&options).await.unwrap() {
        assert!(verdict.is_whole(), "{verdict}");
    }
}

/// A crash between the two transactions: the day is out of the events and not in the gaps yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_day_that_a_crash_left_half_pruned_is_accounted_for_and_finished() {
    let rig = Rig::new().await;
    let mut options = rig.options();
    options.retention.event_retention_days = 0;
    let mut room = Room::new("7301", "ann", 1, noon() - 100 * DAY);
    rig.store(options.clone(), &[room.connected(), room.chat(1)])
        .await;
    // Of that day too, after the crash.
    let late = room.chat(1);
    let owner = rig.client().await;
    owner
        .batch_execute(
            "SELECT ensure_event_partitions(14);
             SELECT detach_event_partition(current_date - 30)",
        )
        .await
        .unwrap();
    assert_eq!(rig.one::<i64>("SELECT count(*) FROM events").await, 0);
    assert_eq!(rig.one::<i64>("SELECT count(*) FROM gaps").await, 0);
    assert_whole(&rig).await;
    rig.store(options.clone(), &[late]).await;
    assert_whole(&rig).await;
    assert_eq!(
        rig.one::<i64>("SELECT count(*) FROM events_default").await,
        1
    );

    options.retention.event_retention_days = DAYS;
    let pruned = storage::prune(&options.database, &options.retention).await;
    assert_eq!(pruned.unwrap().days, 2, "what was left, and what came late");
    assert_whole(&rig).await;
    let gaps: Value = rig
        .one("SELECT jsonb_agg(jsonb_build_array(reason, lost) ORDER BY from_seq_no) FROM gaps")
        .await;
    assert_eq!(gaps, json!([["pruned", 2], ["pruned", 1]]));
    let left: i64 = rig
        .one("SELECT count(*) FROM pg_class WHERE relname LIKE 'pruned_events\\__%' OR relname ~ '^events_20.*' AND relispartition AND to_date(substr(relname, 8), 'YYYY_MM_DD') < current_date - 30")
        .await;
    assert_eq!(left, 0);
}
