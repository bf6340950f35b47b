//! Every message of every capture arrives exactly once, with the content it had.

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::ensure;
use upstream::{Script, Sent};

use crate::{
    expected,
    product::{Product, creator},
    rows::{Row, check_all, messages},
};

/// Plays captures, one creator each, all at once and as fast as it goes.
async fn play(names: &[&str]) -> (Product, Vec<Row>) {
    let script = names
        .iter()
        .fold(Script::new(), |script, name| script.creator(creator(name)));
    let mut product = Product::start(script).await;
    for name in names {
        product.played(name).await;
    }
    let wanted = unique(&product.upstream.sent()).len();
    let broadcasts = rooms(&product.upstream.sent()).len();
    let rows = product
        .settled(|rows| {
            ensure!(
                messages(rows) >= wanted,
                "{} of {wanted} messages",
                messages(rows)
            );
            let goodbyes = rows
                .iter()
                .filter(|row| row.event_type == "DISCONNECTED")
                .count();
            ensure!(
                goodbyes >= broadcasts,
                "{goodbyes} of {broadcasts} broadcasts are over"
            );
            Ok(())
        })
        .await;
    (product, rows)
}

/// What was sent, without what was sent again.
fn unique(sent: &[Sent]) -> Vec<&Sent> {
    let mut seen = HashSet::new();
    sent.iter()
        .filter(|sent| seen.insert((sent.room_id, sent.msg_id)))
        .collect()
}

fn rooms(sent: &[Sent]) -> HashSet<i64> {
    sent.iter().map(|sent| sent.room_id).collect()
}

/// Each message has its row, each row its message, and their contents agree.
fn check_messages(names: &[&str], sent: &[Sent], rows: &[Row]) {
    let expected: HashMap<_, _> = names
        .iter()
        .map(|&name| (name, expected::of_capture(name)))
        .collect();
    let by_raw: HashMap<_, _> = rows
        .iter()
        .filter(|row| row.is_message())
        .map(|row| ((row.stream_id.clone(), row.raw.clone()), row))
        .collect();
    let sent = unique(sent);
    let mut pairs: Vec<_> = sent
        .iter()
        .map(|sent| {
            let key = (sent.room_id.to_string(), sent.payload.to_vec());
            let row = by_raw.get(&key);
            let row = row.unwrap_or_else(|| panic!("no row for {} {:?}", sent.creator, sent.line));
            (*row, sent)
        })
        .collect();
    pairs.sort_by_key(|(row, _)| row.seq_no);
    let mut memory = expected::Memory::default();
    for (row, sent) in pairs {
        let line = sent.line.expect("a line of the capture");
        let expected = &expected[sent.creator.as_str()][line];
        expected::check(row, sent, expected, &mut memory);
    }
    assert_eq!(messages(rows), sent.len(), "nothing but what was sent");
}

/// Counts of each event type, from the rows and from the fixtures.
fn check_types(name: &str, sent: &[Sent], rows: &[Row]) {
    let rooms: HashSet<_> = sent
        .iter()
        .filter(|sent| sent.creator == name)
        .map(|sent| sent.room_id.to_string())
        .collect();
    let mut stored: BTreeMap<&str, usize> = BTreeMap::new();
    for row in rows
        .iter()
        .filter(|row| row.is_message() && rooms.contains(&row.stream_id))
    {
        *stored.entry(&row.event_type).or_default() += 1;
    }
    let mut ids = HashSet::new();
    let mut expected: BTreeMap<&str, usize> = BTreeMap::new();
    for line in expected::of_capture(name) {
        let id = line["common"]["msgId"]
            .as_str()
            .expect("all have one")
            .to_owned();
        if ids.insert(id) {
            *expected.entry(expected::event_type(&line)).or_default() += 1;
        }
    }
    assert_eq!(stored, expected, "{name}");
}

#[tokio::test(flavor = "multi_thread")]
async fn four_rooms_arrive_whole_and_once() {
    let names = ["room-a", "room-b", "room-c", "room-d"];
    let (product, rows) = play(&names).await;
    check_all(&rows);
    let sent = product.upstream.sent();
    check_messages(&names, &sent, &rows);
    for (name, count) in [
        ("room-a", 241),
        ("room-b", 210),
        ("room-c", 199),
        ("room-d", 49),
    ] {
        check_types(name, &sent, &rows);
        let room = sent
            .iter()
            .find(|sent| sent.creator == name)
            .unwrap()
            .room_id
            .to_string();
        let stored = rows
            .iter()
            .filter(|row| row.is_message() && row.stream_id == room)
            .count();
        assert_eq!(stored, count, "{name}");
    }
    // One connection each: said hello, said good-bye.
    for kind in ["CONNECTED", "DISCONNECTED"] {
        assert_eq!(
            rows.iter().filter(|row| row.event_type == kind).count(),
            4,
            "{kind}"
        );
    }
    check_tables(&product, &rows).await;
    let counts = product.upstream.counts();
    assert_eq!((counts.connections, counts.signs), (4, 4), "{counts:?}");
    assert_eq!(
        counts.acks, counts.acks_wanted,
        "every frame that wants an ack has one"
    );
    assert!(product.stores.entries("ttlc:dlq").await.unwrap().is_empty());
    product.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_there_is_arrives_over_three_broadcasts() {
    let (product, rows) = play(&["mixed"]).await;
    check_all(&rows);
    let sent = product.upstream.sent();
    check_messages(&["mixed"], &sent, &rows);
    check_types("mixed", &sent, &rows);
    assert_eq!(messages(&rows), 429);

    let mut per_room: BTreeMap<&str, usize> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.is_message()) {
        *per_room.entry(&row.stream_id).or_default() += 1;
    }
    // Room ids rise with time: these are the three broadcasts in order.
    assert_eq!(
        per_room.values().copied().collect::<Vec<_>>(),
        [236, 15, 178]
    );
    let database = product.stores.database().await.unwrap();
    let streams = database
        .query(
            "SELECT end_reason, username FROM streams ORDER BY stream_id",
            &[],
        )
        .await
        .unwrap();
    let ends: Vec<Option<&str>> = streams.iter().map(|row| row.get(0)).collect();
    assert_eq!(ends[..2], [Some("creator"), Some("creator")], "{ends:?}");
    assert!(
        streams
            .iter()
            .all(|row| row.get::<_, Option<&str>>(1) == Some("mixed"))
    );
    check_tables(&product, &rows).await;
    assert!(product.stores.entries("ttlc:dlq").await.unwrap().is_empty());
    product.stop();
}

/// The small tables agree with the events.
async fn check_tables(product: &Product, rows: &[Row]) {
    let database = product.stores.database().await.unwrap();
    let sessions = database
        .query(
            "SELECT session_id, stream_id, first_seq_no, last_seq_no, event_count, \
                 ended_at IS NOT NULL, provider FROM sessions",
            &[],
        )
        .await
        .unwrap();
    let ids: HashSet<_> = rows.iter().map(|row| row.session_id).collect();
    assert_eq!(sessions.len(), ids.len());
    for session in &sessions {
        let id: uuid::Uuid = session.get(0);
        let of_session: Vec<_> = rows.iter().filter(|row| row.session_id == id).collect();
        assert_eq!(
            session.get::<_, i64>(4),
            i64::try_from(of_session.len()).unwrap()
        );
        assert!(
            of_session
                .iter()
                .all(|row| row.stream_id == session.get::<_, &str>(1))
        );
        let numbers = || of_session.iter().map(|row| row.seq_no);
        assert_eq!(session.get::<_, Option<i64>>(2), numbers().min());
        assert_eq!(session.get::<_, Option<i64>>(3), numbers().max());
        assert!(session.get::<_, bool>(5), "the session is over");
        assert_eq!(session.get::<_, Option<&str>>(6), Some("direct"));
    }
    let streams: i64 = database
        .query_one("SELECT count(*) FROM streams", &[])
        .await
        .unwrap()
        .get(0);
    let rooms: HashSet<_> = rows.iter().map(|row| row.stream_id.as_str()).collect();
    assert_eq!(usize::try_from(streams).unwrap(), rooms.len());
    let unknown: i64 = database
        .query_one(
            "SELECT count(*) FROM (SELECT user_id FROM events WHERE user_id IS NOT NULL \
             EXCEPT SELECT user_id FROM users) AS missing",
            &[],
        )
        .await
        .unwrap()
        .get(0);
    assert_eq!(unknown, 0, "everybody who did something is in users");
}
