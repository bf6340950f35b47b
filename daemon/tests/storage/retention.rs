//! What goes when it is old, and what stays.

use daemon::storage::{self, Pruned, RetentionOptions};
use serde_json::{Value, json};

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
