//! What becomes of entries: rows, repeats, dead letters.

use serde_json::{Value, json};
use tokio_postgres::types::Json;

use super::rig::{Event, Rig, Room, noon};

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_stored_as_it_is() {
    let rig = Rig::new().await;
    let mut room = Room::new("7301", "ann", 1, noon());
    let chat = room
        .chat(5)
        .with("/payload/message", json!("a \"quoted\" \u{1f600}"));
    let connected = room.connected();
    rig.store(rig.options(), &[chat.clone(), connected.clone()])
        .await;

    let rows = rig
        .client()
        .await
        .query(
            "SELECT *, (ingested_at AT TIME ZONE 'UTC')::date AS day FROM events ORDER BY seq_no",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(rows.len(), 2);
    let row = &rows[0];
    assert_eq!(row.get::<_, Vec<u8>>("event_id"), chat.id().as_bytes());
    assert_eq!(
        row.get::<_, jiff::civil::Date>("part_day"),
        row.get::<_, jiff::civil::Date>("day")
    );
    assert_eq!(row.get::<_, String>("stream_id"), "7301");
    assert_eq!(row.get::<_, uuid::Uuid>("session_id"), room.session);
    assert_eq!(row.get::<_, i64>("seq_no"), noon() * 16);
    assert_eq!(row.get::<_, String>("event_type"), "CHAT");
    assert_eq!(row.get::<_, String>("source"), "live");
    assert_eq!(
        row.get::<_, jiff::Timestamp>("occurred_at")
            .as_millisecond(),
        noon()
    );
    assert_eq!(
        row.get::<_, jiff::Timestamp>("ingested_at")
            .as_millisecond(),
        noon()
    );
    assert_eq!(
        row.get::<_, Option<String>>("user_id").as_deref(),
        Some("5")
    );
    assert_eq!(row.get::<_, Json<Value>>("event").0, chat.json);
    assert_eq!(row.get::<_, String>("raw_format"), "protobuf");
    let raw = format!("WebcastChatMessage 7301 {}", noon() * 16);
    assert_eq!(row.get::<_, Vec<u8>>("raw"), raw.as_bytes());

    let row = &rows[1];
    assert_eq!(row.get::<_, Option<String>>("user_id"), None);
    assert_eq!(row.get::<_, String>("raw_format"), "json");
    assert_eq!(row.get::<_, Vec<u8>>("raw"), connected.raw.as_bytes());
    assert!(rig.dead_letters().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_stored_goes_to_the_dead_letters_and_the_rest_is_stored() {
    let rig = Rig::new().await;
    let mut room = Room::new("7301", "ann", 1, noon());
    let mut events: Vec<Event> = vec![room.connected()];
    events.extend((0..99).map(|user| room.chat(user)));
    // Postgres has no U+0000; JSON has.
    events[17] = events[17]
        .clone()
        .with("/payload/message", json!("before \u{0} after"));
    // Not a moment that exists.
    events[18] = events[18]
        .clone()
        .with("/ingestedAt", json!("2026-02-30T00:00:00.000Z"));
    events[40].text = Some("{\"eventId\":".into());
    events[41].raw = "%%%".into();
    // Too long for the index of users.
    let long: String = (0..200_000_u32)
        .map(|n| char::from(b'0' + u8::try_from(n.wrapping_mul(2_654_435_761) >> 28).unwrap() % 10))
        .collect();
    events[99] = events[99].clone().with("/user/userId", json!(long));
    rig.store(rig.options(), &events).await;

    assert_eq!(rig.one::<i64>("SELECT count(*) FROM events").await, 95);
    assert_eq!(rig.one::<i64>("SELECT event_count FROM sessions").await, 95);
    assert_eq!(
        rig.one::<i64>("SELECT count(*) FROM users").await,
        94 + 1,
        "and the creator"
    );
    let letters = rig.dead_letters().await;
    assert_eq!(letters.len(), 5, "{letters:?}");
    assert!(
        letters
            .iter()
            .all(|(reason, ..)| reason == "STORAGE_REJECTED")
    );
    for (place, said) in [
        (17, "Unicode escape"),
        (18, "point in time"),
        (40, "EOF"),
        (41, "field `raw`"),
        (99, "index row size"),
    ] {
        let payload = serde_json::to_value(events[place].json.to_string()).unwrap();
        let (_, error, letter) = letters
            .iter()
            .find(|(_, error, _)| error.contains(said))
            .unwrap_or_else(|| {
                panic!(
                    "{said}: {:?}",
                    letters.iter().map(|letter| &letter.1).collect::<Vec<_>>()
                )
            });
        assert!(error.len() <= 500 && !error.contains('\n'), "{error}");
        let letter: Value = serde_json::from_str(letter).unwrap();
        assert_eq!(
            letter["raw"],
            json!(events[place].raw),
            "the original entry"
        );
        if events[place].text.is_none() {
            assert_eq!(letter["event"], payload);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_message_with_the_same_id_is_a_collision() {
    let rig = Rig::new().await;
    let mut room = Room::new("7301", "ann", 1, noon());
    let first = room.chat(1);
    let other = room.chat(2);
    rig.store(
        rig.options(),
        &[first.clone(), other.clone(), first.clone()],
    )
    .await;
    assert!(rig.dead_letters().await.is_empty(), "a repeat is none");

    let mut later = first.clone();
    later.raw = "AAAA".into();
    let mut same_batch = room.chat(3);
    let good = same_batch.clone();
    same_batch.raw = "BBBB".into();
    rig.store(rig.options(), &[later, other, good, same_batch])
        .await;
    let letters = rig.dead_letters().await;
    assert_eq!(letters.len(), 2, "{letters:?}");
    assert!(
        letters.iter().all(|(reason, ..)| reason == "id_collision"),
        "{letters:?}"
    );
    assert!(
        letters
            .iter()
            .any(|(_, error, _)| error.contains(&first.id().to_string()))
    );
    assert_eq!(rig.one::<i64>("SELECT count(*) FROM events").await, 3);
    assert_eq!(rig.one::<i64>("SELECT event_count FROM sessions").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_without_a_partition_is_kept_and_moved_when_the_partition_comes() {
    const DAY: i64 = 24 * 3600 * 1000;
    let rig = Rig::new().await;
    let mut today = Room::new("7301", "ann", 1, noon());
    let mut far = Room::new("7302", "bob", 2, noon() + 20 * DAY);
    let events = [today.chat(1), far.chat(1), far.chat(2)];
    rig.store(rig.options(), &events).await;
    assert_eq!(rig.one::<i64>("SELECT count(*) FROM events").await, 3);
    assert_eq!(
        rig.one::<i64>("SELECT count(*) FROM events_default").await,
        2
    );

    // Once to the day before it, once to the day itself.
    assert_eq!(
        rig.one::<i32>("SELECT ensure_event_partitions(19)").await,
        5
    );
    assert_eq!(
        rig.one::<i64>("SELECT count(*) FROM events_default").await,
        2
    );
    assert_eq!(
        rig.one::<i32>("SELECT ensure_event_partitions(20)").await,
        1
    );
    assert_eq!(
        rig.one::<i64>("SELECT count(*) FROM events_default").await,
        0
    );
    assert_eq!(
        rig.one::<i32>("SELECT ensure_event_partitions(20)").await,
        0
    );

    // Still the same facts, still unique.
    rig.redeliver().await;
    rig.store(rig.options(), &[far.chat(3)]).await;
    assert_eq!(rig.one::<i64>("SELECT count(*) FROM events").await, 4);
    assert_eq!(
        rig.one::<i64>("SELECT count(*) FROM events_default").await,
        0
    );
    assert!(rig.dead_letters().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_stores_its_session_and_nothing_else() {
    let rig = Rig::new().await;
    let mut room = Room::new("7301", "ann", 1, noon());
    let events = [
        room.connected(),
        room.chat(1),
        room.chat(2),
        room.disconnected("stream_end"),
    ];
    rig.store(rig.options(), &events).await;
    let mut before = rig.snapshot().await;

    let replay = uuid::Uuid::from_u128(99);
    let shown: Vec<Event> = events
        .iter()
        .enumerate()
        .map(|(number, event)| {
            let mut event = event
                .clone()
                .with("/source", json!("replay"))
                .with("/sessionId", json!(replay))
                .with("/replayOf", json!(room.session));
            event.normalized_at = format!("2026-11-30T10:00:0{number}.000Z");
            event
        })
        .collect();
    // An event of a day that has been pruned must not come back either.
    let mut pruned = Room::new("7200", "zoe", 50, noon());
    let gone = pruned
        .chat(77)
        .with("/source", json!("replay"))
        .with("/sessionId", json!(replay))
        .with("/replayOf", json!(room.session));
    rig.store(rig.options(), &shown).await;
    rig.redeliver().await;
    rig.store(rig.options(), &[gone]).await;

    let mut after = rig.snapshot().await;
    let rows = after["sessions"].as_array_mut().unwrap();
    assert_eq!(rows.len(), 2);
    let row = rows.remove(1);
    assert_eq!(row["session_id"], json!(replay));
    assert_eq!(row["stream_id"], json!("7301"));
    assert_eq!(row["source"], json!("replay"));
    assert_eq!(row["replay_of"], json!(room.session));
    assert_eq!(row["event_count"], json!(0));
    assert_eq!(row["first_seq_no"], Value::Null);
    assert_eq!(before["events"].take(), after["events"].take());
    assert_eq!(before, after);
}
