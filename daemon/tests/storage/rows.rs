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

/// Rows get into the table by a COPY where all of a batch are new, and one by one where some are not.
#[tokio::test(flavor = "multi_thread")]
async fn both_ways_of_storing_leave_the_same() {
    let mut room = Room::new("7301", "ann", 1, noon());
    let mut events = vec![room.connected()];
    for user in 0..50 {
        events.push(room.chat(user % 7));
        events.push(room.gift(user % 7, 3, "final"));
        events.push(room.like(user % 5, 15));
        events.push(room.watched_by(user));
    }
    events.push(room.gap(1, 5, "spool_full"));
    events.push(room.stream_end(3));
    // As of a day without a partition.
    events.push(
        room.chat(3)
            .with("/ingestedAt", json!("2020-01-01T00:00:00.000Z")),
    );

    let (new, mixed) = (Rig::new().await, Rig::new().await);
    new.store(new.options(), &events).await;
    // A batch of its own for the one in the middle, and then all of them.
    let known = std::slice::from_ref(&events[100]);
    mixed.store(mixed.options(), known).await;
    mixed.store(mixed.options(), &events).await;

    for rig in [&new, &mixed] {
        let stored: i64 = rig.one("SELECT count(*) FROM events").await;
        assert_eq!(usize::try_from(stored).unwrap(), events.len());
        assert!(rig.dead_letters().await.is_empty());
    }
    assert_eq!(new.snapshot().await, mixed.snapshot().await);
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
        (17, "U+0000"),
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

/// What Postgres takes and readers refuse, or the other way round: only that row goes.
#[tokio::test(flavor = "multi_thread")]
async fn what_parsers_disagree_on_is_a_dead_letter_and_the_rest_is_stored() {
    let rig = Rig::new().await;
    let mut room = Room::new("7301", "ann", 1, noon());
    let deep = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
    let traps = [
        ("\"\\ud800\"".to_owned(), "hex escape"),
        ("\"a\\u0000\"".to_owned(), "U+0000"),
        ("1e400".to_owned(), "number out of range"),
        ("-1e100000".to_owned(), "number out of range"),
        (deep(200), "recursion limit"),
        (deep(20_000), "recursion limit"),
        ("1,}".to_owned(), "trailing comma"),
    ];
    let mut events = Vec::new();
    for (value, _) in &traps {
        events.extend((0..9).map(|user| room.chat(user)));
        let bad = room.chat(1).with("/payload/trap", json!("TRAP"));
        let text = bad.json.to_string().replace("\"TRAP\"", value);
        events.push(Event {
            text: Some(text),
            ..bad
        });
    }
    // Fine for all: the largest and the smallest numbers, an escaped zero that is none.
    let fine = room.chat(1).with(
        "/payload/odd",
        json!([i64::MIN, u64::MAX, 1e308, "\\u0000"]),
    );
    events.push(fine.clone());
    rig.store(rig.options(), &events).await;

    let good = i64::try_from(events.len() - traps.len()).unwrap();
    assert_eq!(rig.one::<i64>("SELECT count(*) FROM events").await, good);
    assert_eq!(
        rig.one::<i64>("SELECT event_count FROM sessions").await,
        good
    );
    super::statistics::assert_statistics_equal_a_recount(&rig).await;
    let odd: Value = rig
        .one("SELECT event #> '{payload,odd}' FROM events ORDER BY seq_no DESC LIMIT 1")
        .await;
    assert_eq!(odd, fine.json["payload"]["odd"]);
    let letters = rig.dead_letters().await;
    assert_eq!(letters.len(), traps.len());
    for ((_, why), (reason, error, _)) in traps.iter().zip(&letters) {
        assert_eq!(reason, "STORAGE_REJECTED");
        assert!(error.contains(why), "{error}, not {why}");
    }
}

/// Rows that only Postgres can refuse are found by halving the batch.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_batch_is_halved_down_to_its_bad_rows() {
    let rig = Rig::new().await;
    rig.client()
        .await
        .batch_execute("ALTER TABLE events ADD CONSTRAINT no_thirteen CHECK (user_id <> '13')")
        .await
        .unwrap();
    let mut room = Room::new("7301", "ann", 1, noon());
    let events: Vec<Event> = (0..200).map(|n| room.chat(n % 100)).collect();
    rig.store(rig.options(), &events).await;
    assert_eq!(rig.one::<i64>("SELECT count(*) FROM events").await, 198);
    assert_eq!(
        rig.one::<i64>("SELECT event_count FROM sessions").await,
        198
    );
    super::statistics::assert_statistics_equal_a_recount(&rig).await;
    let letters = rig.dead_letters().await;
    assert_eq!(letters.len(), 2, "{letters:?}");
    assert!(
        letters
            .iter()
            .all(|(_, error, _)| error.contains("no_thirteen")),
        "{letters:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ingest_lost_is_recorded_once() {
    let rig = Rig::new().await;
    let mut room = Room::new("7301", "ann", 1, noon());
    let mut events = vec![room.connected(), room.chat(1)];
    let from = room.seq_no;
    room.seq_no += 40;
    events.push(room.gap(from, from + 39, "spool_full"));
    room.seq_no += 5;
    events.push(room.gap(from + 41, from + 45, "restart"));
    // Says nothing that could be recorded.
    let mut wrong = room.gap(9, 9, "x");
    wrong.raw = json!({"fromSeq": 9, "toSeq": 3, "reason": "x"}).to_string();
    events.push(wrong);
    // Only speaks of it.
    let talk = room
        .chat(2)
        .with("/payload/message", json!("ControlEvent.GAP"));
    events.push(talk);
    rig.store(rig.options(), &events).await;
    let before = rig.snapshot().await;
    assert_eq!(
        before["gaps"],
        json!([
            {"stream_id": "7301", "from_seq_no": from, "to_seq_no": from + 39, "reason": "spool_full",
                "lost": 40, "session_id": room.session},
            {"stream_id": "7301", "from_seq_no": from + 41, "to_seq_no": from + 45, "reason": "restart",
                "lost": 5, "session_id": room.session},
        ])
    );
    let letters = rig.dead_letters().await;
    assert_eq!(letters.len(), 1);
    assert!(letters[0].1.contains("no range"), "{letters:?}");

    rig.redeliver().await;
    rig.store(rig.options(), &events).await;
    assert_eq!(rig.snapshot().await, before);
}

/// Every number of a session is an event, a dead letter or a known loss; what is none is found.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_lost_unnoticed_is_found() {
    const DAY: i64 = 24 * 3600 * 1000;
    let rig = Rig::new().await;
    let mut room = Room::new("7301", "ann", 1, noon() - DAY);
    let first = room.seq_no;
    let mut events: Vec<Event> = vec![room.connected()];
    room.seq_no += 3; // 1..=3: told below
    events.push(room.gap(first + 1, first + 3, "spool_full"));
    room.seq_no += 1; // 5: a dead letter
    events.push(room.chat(1));
    room.seq_no += 2; // 7 and 8: nobody says a word
    events.push(room.chat(2));
    // No goodbye, and a new session; the numbers between them are nobody's.
    let mut next = Room::new("7301", "ann", 2, noon() - DAY + 60_000);
    events.extend([next.connected(), next.disconnected("closed")]);
    rig.store(rig.options(), &events).await;
    let lost = "SELECT jsonb_agg(jsonb_build_array(session_id, from_seq_no, to_seq_no)) FROM unaccounted('7301')";
    assert_eq!(
        rig.one::<Value>(lost).await,
        json!([
            [room.session, first + 5, first + 5],
            [room.session, first + 7, first + 8]
        ])
    );

    let client = rig.client().await;
    client
        .batch_execute(&format!(
            "INSERT INTO dead_letters
                (letter_key, stage, reason, error, payload, redacted, stream_id, seq_no, first_failed_at, failed_at, entries)
             VALUES (sha256('x'), 'normalizer', 'x', '', '', false, '7301', {}, now(), now(), '{{}}')",
            first + 5
        ))
        .await
        .unwrap();
    assert_eq!(
        rig.one::<Value>(lost).await,
        json!([[room.session, first + 7, first + 8]])
    );

    // An hour after it was stored, the writer notes that the end of the first session is unknown,
    // and does so once.
    assert_eq!(rig.one::<i64>("SELECT record_unknown_tails()").await, 0);
    client
        .batch_execute("UPDATE events SET stored_at = stored_at - interval '61 minutes'")
        .await
        .unwrap();
    for _ in 0..2 {
        let running = rig.start(rig.options());
        super::rig::poll("noted", async || {
            let tail: Option<Value> = rig
                .one(
                    "SELECT jsonb_agg(jsonb_build_array(session_id, from_seq_no, to_seq_no, lost))
                     FROM gaps WHERE reason = 'unknown_tail'",
                )
                .await;
            tail.map(|tail| {
                assert_eq!(
                    tail,
                    json!([[room.session, first + 10, first + 1609, null]])
                );
            })
        })
        .await;
        running.stop().await;
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

    // Days of the past, too.
    let mut old = Room::new("7303", "cid", 3, noon() - 5 * DAY);
    rig.store(rig.options(), &[old.chat(1)]).await;
    // The writer may have made it at its start, after it stored the event.
    assert!(rig.one::<i32>("SELECT ensure_event_partitions(20)").await <= 1);
    assert_eq!(
        rig.one::<i64>("SELECT count(*) FROM events_default").await,
        0
    );

    // Still the same facts, still unique.
    rig.redeliver().await;
    rig.store(rig.options(), &[far.chat(3)]).await;
    assert_eq!(rig.one::<i64>("SELECT count(*) FROM events").await, 5);
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
    // The normalizer adds the end of a streak that never came, and the replay its own end.
    let made = [room.gift_timeout(1, 3), room.replay_end("done")];
    let mut shown: Vec<Event> = events
        .iter()
        .chain(&made)
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
    let mut gone = pruned
        .chat(77)
        .with("/source", json!("replay"))
        .with("/sessionId", json!(replay))
        .with("/replayOf", json!(room.session));
    gone.normalized_at = "2026-11-30T10:00:03.000Z".to_owned();
    // In whichever order they are committed.
    let end = shown.pop().unwrap();
    rig.store(rig.options(), &shown[3..]).await;
    rig.store(rig.options(), &[end]).await;
    rig.store(rig.options(), &shown[..3]).await;
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
    let at = |text: &Value| -> jiff::Timestamp { text.as_str().unwrap().parse().unwrap() };
    assert_eq!(at(&row["started_at"]), at(&json!("2026-11-30T10:00:00Z")));
    assert_eq!(at(&row["ended_at"]), at(&json!("2026-11-30T10:00:05Z")));
    assert_eq!(row["end_reason"], json!("done"));
    assert_eq!(before["events"].take(), after["events"].take());
    assert_eq!(before, after);
}
