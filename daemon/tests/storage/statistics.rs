//! The numbers beside the events: always equal to a recount of these.

use serde_json::{Value, json};

use super::rig::{Event, Rig, Room, noon};

/// Counts everything again from `events` and compares it with what the writer kept.
pub(crate) async fn assert_statistics_equal_a_recount(rig: &Rig) {
    let recount = include_str!("../../../tests/fixtures/recount.sql");
    for row in rig.client().await.query(recount, &[]).await.unwrap() {
        let (table, differ): (&str, i64) = (row.get(0), row.get(1));
        assert_eq!(differ, 0, "{table} differs from a recount");
    }
}

/// A show with everything that counts, and everything that does not.
fn show() -> (Room, Vec<Event>) {
    let mut room = Room::new("7301", "ann", 1, noon());
    let events = vec![
        room.connected(),
        room.watched_by(10),
        room.chat(1),
        room.gift(1, 1, "progress"),
        room.gift(1, 2, "progress"),
        room.gift(1, 7, "final"),
        room.gift(2, 1, "single"),
        room.gift(3, 4, "progress"),
        room.gift_timeout(3, 4),
        // The real end, after the time-out.
        room.gift(3, 6, "progress"),
        room.like(2, 15),
        room.like(2, 3),
        room.watched_by(30),
        room.watched_by(20),
        room.disconnected("closed"),
    ];
    (room, events)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gift_counts_once_however_many_steps_its_streak_has() {
    let rig = Rig::new().await;
    let (room, events) = show();
    rig.store(rig.options(), &events).await;
    assert!(rig.dead_letters().await.is_empty());

    let stats: Value = rig
        .one(
            "SELECT jsonb_object_agg(event_type, jsonb_build_array(events, coins, gifts, likes, peak_viewers))
             FROM session_stats",
        )
        .await;
    assert_eq!(
        stats,
        json!({
            "CONNECTED": [1, 0, 0, 0, null],
            "CHAT": [1, 0, 0, 0, null],
            // 7 + 1 + 4 items at 5 coins.
            "GIFT": [7, 60, 12, 0, null],
            "LIKE": [2, 0, 0, 18, null],
            "ROOM_USER": [3, 0, 0, 0, 30],
            "DISCONNECTED": [1, 0, 0, 0, null],
        })
    );
    let viewers: Value = rig
        .one("SELECT jsonb_object_agg(user_id, jsonb_build_array(events, coins, gifts, likes)) FROM session_users")
        .await;
    assert_eq!(
        viewers,
        json!({"1": [4, 35, 7, 0], "2": [3, 5, 1, 18], "3": [3, 20, 4, 0]})
    );
    let session: uuid::Uuid = rig
        .one("SELECT DISTINCT session_id FROM session_users")
        .await;
    assert_eq!(session, room.session);
    assert_statistics_equal_a_recount(&rig).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn minutes_are_those_of_reception() {
    let rig = Rig::new().await;
    let mut room = Room::new("7301", "ann", 1, noon());
    // One a second: 12:00:00 to 12:02:29, as TikTok's clock an hour earlier.
    let events: Vec<Event> = (0..150)
        .map(|_| {
            let event = room.like(1, 2);
            let early = event.json["timestamp"]
                .as_str()
                .unwrap()
                .replace("T12", "T11");
            event.with("/timestamp", json!(early))
        })
        .collect();
    let mut options = rig.options();
    options.storage_batch_size = 40;
    rig.store(options, &events).await;
    let minutes: Value = rig
        .one(
            "SELECT jsonb_agg(jsonb_build_array(to_char(minute AT TIME ZONE 'UTC', 'HH24:MI:SS'), events, likes)
                ORDER BY minute) FROM stream_minute_stats",
        )
        .await;
    assert_eq!(
        minutes,
        json!([
            ["12:00:00", 60, 120],
            ["12:01:00", 60, 120],
            ["12:02:00", 30, 60]
        ])
    );
    assert_statistics_equal_a_recount(&rig).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_stored_before_is_counted_by_the_migration() {
    let rig = Rig::new().await;
    let (_, events) = show();
    rig.store(rig.options(), &events).await;
    let before = rig.snapshot().await;

    let client = rig.client().await;
    client
        .batch_execute("DROP TABLE session_stats, stream_minute_stats, session_users")
        .await
        .unwrap();
    let migration = include_str!("../../../migrations/0003_create_statistics.sql");
    client
        .batch_execute(&format!("BEGIN; {migration} COMMIT"))
        .await
        .unwrap();
    assert_eq!(rig.snapshot().await, before);
    assert!(before["minutes"].as_array().unwrap().len() >= 6);
}
