//! What follows from events: creators, streams, sessions, users.

use serde_json::{Value, json};

use super::rig::{Event, Rig, Room, noon};

fn row<'a>(snapshot: &'a Value, table: &str, key: &str, value: &str) -> &'a Value {
    snapshot[table]
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row[key] == value)
        .unwrap_or_else(|| panic!("no {table} row {value}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broadcast_from_connect_to_end() {
    let rig = Rig::new().await;
    let mut room = Room::new("7301", "ann", 1, noon());
    let events = [room.connected(), room.chat(1)];
    rig.store(rig.options(), &events).await;
    let snapshot = rig.snapshot().await;
    let stream = row(&snapshot, "streams", "stream_id", "7301");
    assert_eq!(stream["status"], "live");
    assert_eq!(stream["username"], "ann");
    assert_eq!(stream["title"], "ann live");
    assert_eq!(stream["owner_user_id"], "9003");
    assert_eq!(stream["owner_name"], "ANN");
    assert!(
        stream["started_at"]
            .as_str()
            .unwrap()
            .starts_with("2026-11-20T10:00:00")
    );
    let creator = row(&snapshot, "creators", "username", "ann");
    assert_eq!(
        (&creator["user_id"], &creator["display_name"]),
        (&json!("9003"), &json!("ANN"))
    );
    assert_eq!(
        (&creator["state"], &creator["added_by"]),
        (&json!("tracked"), &json!("config"))
    );
    assert_eq!(
        row(&snapshot, "users", "user_id", "9003")["username"],
        "ann",
        "the creator is a user"
    );

    // The connection breaks and comes back in another session.
    let lost = room.disconnected("closed");
    rig.store(rig.options(), &[lost]).await;
    let snapshot = rig.snapshot().await;
    assert_eq!(
        row(&snapshot, "streams", "stream_id", "7301")["status"],
        "interrupted"
    );
    let session = &snapshot["sessions"][0];
    assert_eq!(
        (&session["end_reason"], &session["close_code"]),
        (&json!("closed"), &json!(1006))
    );
    assert_eq!(
        (&session["event_count"], &session["provider"]),
        (&json!(3), &json!("direct"))
    );
    assert_eq!(session["first_seq_no"], json!(noon() * 16));
    assert_eq!(session["last_seq_no"], json!(noon() * 16 + 2));

    room.session = uuid::Uuid::from_u128(2);
    let back = [
        room.connected(),
        room.chat(2),
        room.stream_end(3),
        room.disconnected("stream_end"),
    ];
    rig.store(rig.options(), &back[..2]).await;
    assert_eq!(
        row(&rig.snapshot().await, "streams", "stream_id", "7301")["status"],
        "live"
    );
    rig.store(rig.options(), &back[2..]).await;
    let snapshot = rig.snapshot().await;
    let stream = row(&snapshot, "streams", "stream_id", "7301");
    assert_eq!(
        (&stream["status"], &stream["end_reason"]),
        (&json!("ended"), &json!("creator"))
    );
    assert_eq!(snapshot["sessions"][1]["end_reason"], "stream_end");
    assert_eq!(snapshot["sessions"].as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_broadcast_ends_the_older_ones_of_its_creator_only() {
    let rig = Rig::new().await;
    let hour = 3_600_000;
    let mut old = Room::new("7301", "ann", 1, noon() - 3 * hour);
    let mut middle = Room::new("7302", "ann", 2, noon() - 2 * hour);
    let mut new = Room::new("7303", "ann", 3, noon() - hour);
    let mut other = Room::new("7304", "bob", 4, noon() - 4 * hour);
    let new_at = noon() - hour;
    let events = [
        other.connected(),
        old.connected(),
        old.chat(1),
        old.stream_end(4),
        middle.connected(),
        middle.chat(1),
        new.connected(),
    ];
    rig.store(rig.options(), &events).await;
    let snapshot = rig.snapshot().await;
    let reason =
        |stream: &str| row(&snapshot, "streams", "stream_id", stream)["end_reason"].clone();
    assert_eq!(reason("7301"), "moderation", "a seen end stays");
    assert_eq!(reason("7302"), "superseded");
    assert_eq!(reason("7303"), Value::Null);
    assert_eq!(reason("7304"), Value::Null);
    let ended: jiff::Timestamp = rig
        .one("SELECT ended_at FROM streams WHERE stream_id = '7302'")
        .await;
    assert_eq!(ended.as_millisecond(), new_at);
    // Sessions that never said goodbye ended with their last event.
    let lost: i64 = rig
        .one("SELECT count(*) FROM sessions WHERE end_reason = 'lost' AND ended_at = last_event_at")
        .await;
    assert_eq!(lost, 2);
    let open: i64 = rig
        .one("SELECT count(*) FROM sessions WHERE ended_at IS NULL")
        .await;
    assert_eq!(open, 2, "the new one, and bob's");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_attempt_is_no_open_session() {
    let rig = Rig::new().await;
    let mut room = Room::new("7301", "ann", 1, noon());
    let refused = room.lifecycle("ERROR", "sign_refused", &json!({"detail": "429"}));
    rig.store(rig.options(), &[refused]).await;
    let snapshot = rig.snapshot().await;
    assert_eq!(snapshot["sessions"][0]["end_reason"], "sign_refused");
    assert_eq!(snapshot["streams"][0]["status"], "interrupted");
    assert_eq!(snapshot["streams"][0]["username"], "ann");

    // The same session succeeds after all.
    let events = [room.connected(), room.chat(1)];
    rig.store(rig.options(), &events).await;
    let snapshot = rig.snapshot().await;
    assert_eq!(snapshot["sessions"][0]["ended_at"], Value::Null);
    assert_eq!(snapshot["sessions"][0]["end_reason"], Value::Null);
    assert_eq!(snapshot["streams"][0]["status"], "live");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_follow_the_newest_event_and_are_never_emptied() {
    let rig = Rig::new().await;
    let mut room = Room::new("7301", "ann", 1, noon());
    let named = |event: Event, name: &str| {
        event
            .with("/user/username", json!(name))
            .with("/user/displayName", json!(name.to_uppercase()))
    };
    let first = named(room.chat(5), "first");
    let second = named(room.chat(5), "second");
    let empty = room
        .chat(5)
        .with("/user/username", json!(""))
        .with("/user/displayName", json!(""))
        .with("/user/avatarUrl", json!(""));
    let bare = room.chat(5).with("/user", json!({"userId": "5"}));
    let nameless = room.chat(6).with("/user", json!({"userId": "6"}));

    // One at a time, the older name last.
    let mut options = rig.options();
    options.storage_batch_size = 1;
    rig.store(options, &[second, empty, bare, first, nameless])
        .await;
    let snapshot = rig.snapshot().await;
    let user = row(&snapshot, "users", "user_id", "5");
    assert_eq!(user["username"], "second");
    assert_eq!(user["display_name"], "SECOND");
    assert_eq!(user["avatar_url"], "https://example.com/5.webp");
    let (first_seen, last_seen): (jiff::Timestamp, jiff::Timestamp) = (
        rig.one("SELECT first_seen_at FROM users WHERE user_id = '5'")
            .await,
        rig.one("SELECT last_seen_at FROM users WHERE user_id = '5'")
            .await,
    );
    assert_eq!(
        (first_seen.as_millisecond(), last_seen.as_millisecond()),
        (noon(), noon() + 3_000)
    );
    assert_eq!(
        row(&snapshot, "users", "user_id", "6")["username"],
        Value::Null
    );
}

/// Writers may commit batches in any order: the tables must not depend on it.
#[tokio::test(flavor = "multi_thread")]
async fn any_order_of_batches_gives_the_same_tables() {
    let rig = Rig::new().await;
    let mut options = rig.options();
    options.storage_batch_size = 1;
    let orders: [&[usize]; 8] = [
        &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        &[9, 8, 7, 6, 5, 4, 3, 2, 1, 0],
        &[5, 0, 6, 1, 7, 2, 8, 3, 9, 4],
        &[3, 2, 1, 0, 9, 8, 7, 6, 5, 4],
        &[1, 3, 5, 7, 9, 0, 2, 4, 6, 8],
        &[4, 9, 0, 8, 3, 7, 1, 6, 2, 5],
        &[7, 3, 0, 9, 5, 1, 8, 6, 4, 2],
        &[6, 2, 9, 4, 1, 8, 0, 5, 3, 7],
    ];
    let mut expected: Option<Value> = None;
    for (order, places) in orders.into_iter().enumerate() {
        let mut first = Room::new("7301", "ann", 1, noon());
        let mut second = Room::new("7301", "ann", 2, noon() + 60_000);
        let mut third = Room::new("7302", "ann", 3, noon() + 120_000);
        let mut events = vec![first.connected(), first.chat(1), first.chat(2)]; // no goodbye
        events.extend([
            second.connected(),
            second.chat(1),
            second.stream_end(3),
            second.disconnected("stream_end"),
        ]);
        events.extend([
            third.connected(),
            third.chat(2),
            third.disconnected("closed"),
        ]);
        assert_eq!(events.len(), places.len());
        let shuffled: Vec<Event> = places.iter().map(|&place| events[place].clone()).collect();
        rig.client()
            .await
            .batch_execute("TRUNCATE events, creators, streams, sessions, users, session_stats, stream_minute_stats, session_users")
            .await
            .unwrap();
        rig.store(options.clone(), &shuffled).await;
        let snapshot = rig.snapshot().await;
        match &expected {
            None => {
                assert_eq!(snapshot["streams"][0]["status"], "ended");
                assert_eq!(snapshot["streams"][1]["status"], "interrupted");
                assert_eq!(snapshot["sessions"][0]["end_reason"], "lost");
                expected = Some(snapshot);
            }
            Some(expected) => assert_eq!(&snapshot, expected, "order {order}"),
        }
    }
}
