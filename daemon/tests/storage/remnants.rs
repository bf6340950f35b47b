//! What of an erased viewer lies where nobody looks any more: parked letters, days about to be dropped;
//! and that pruning leaves alone what is of nobody.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use daemon::bus::Bus;
use daemon::storage;
use serde_json::{Value, json};
use shared::streams::StreamNames;
use shared::time::Timestamp;

use super::erasure::{HANDLE, ID, NUMBER, SAID, Story as _, earlier, found, told, varint};
use super::rig::{Rig, Room};

const DAY: i64 = 24 * 3600 * 1000;

#[tokio::test(flavor = "multi_thread")]
async fn parked_letters_of_the_viewer_go_in_all_shards_and_others_stay() {
    let rig = Rig::new().await;
    let mut room = Room::new("7301", "ann", 1, earlier());
    told(&rig, &mut room).await;
    let at = |ms| Timestamp::from_millis(ms).to_string();
    let fields = |payload: Value| {
        json!({"stage": "normalizer", "reason": "PARSE_ERROR", "error": "no", "payload": payload.to_string()})
            .to_string()
    };
    let message = |bytes: &[u8], time: String| {
        fields(json!({"data": STANDARD.encode(bytes), "timestamp": time, "ingestedAt": time}))
    };
    let own = room.own().remove(0);
    let of_viewer = [
        message(&varint(NUMBER), at(earlier())),
        message(HANDLE.to_uppercase().as_bytes(), at(earlier())),
        fields(json!({"event": own.json.to_string(), "raw": own.raw})),
        // It may be compressed: nobody looks into it.
        fields(json!({"frame": "H4sI", "ingestedAt": at(earlier())})),
    ];
    // Of somebody else; and of the viewer, tomorrow.
    let others = [
        message(b"nobody", at(earlier())),
        message(&varint(NUMBER), at(earlier() + DAY)),
    ];
    let many = Bus::new(&rig.redis_url().to_owned().into(), StreamNames::new(4)).unwrap();
    let now = jiff::Timestamp::now().as_millisecond();
    let park = async |texts: &[String], from: i64| {
        for (number, text) in (from..).zip(texts) {
            let entry = format!("{}-{number}", earlier());
            rig.bus().park(0, &entry, text, None).await.unwrap();
            many.park(2, &entry, text, None).await.unwrap();
        }
    };
    park(&of_viewer, 0).await;
    park(&others, 100).await;
    assert!(found(&rig.all_of_redis().await).contains("base64 of varint"));
    let parked = async || {
        let mut keys: Vec<String> = redis::cmd("KEYS")
            .arg("ttlc:parked:*")
            .query_async(&mut rig.redis().await)
            .await
            .unwrap();
        keys.sort();
        keys
    };
    assert_eq!(parked().await.len(), 12);
    rig.erase(&[ID]).await.unwrap();
    let kept = parked().await;
    assert_eq!(kept.len(), 4, "{kept:?}");
    assert!(
        kept.iter()
            .all(|key| key.ends_with("-100") || key.ends_with("-101")),
        "{kept:?}"
    );

    // One that failed, and was parked, only after that.
    let late = format!("{}-0", now + DAY);
    rig.bus().park(0, &late, &of_viewer[0], None).await.unwrap();
    rig.bus().park(0, "no-id", "no json", None).await.unwrap();
    rig.erase(&[ID]).await.unwrap();
    assert_eq!(parked().await.len(), 5, "{:?}", parked().await);
    redis::cmd("DEL")
        .arg(parked().await)
        .exec_async(&mut rig.redis().await)
        .await
        .unwrap();
    rig.nothing_is_left().await;
}

/// As after a crash of retention between its two transactions.
#[tokio::test(flavor = "multi_thread")]
async fn days_that_retention_left_are_gone_when_an_erasure_is_finished() {
    let rig = Rig::new().await;
    let client = rig.client().await;
    let mut options = rig.options();
    options.retention.event_retention_days = 0;
    let mut counted = 0;
    for (session, days) in [(1, 3), (2, 2), (3, 0)] {
        let mut room = Room::new("7301", "ann", session, earlier() - days * DAY);
        room.seq_no += u64::try_from(session).unwrap() * 1_000;
        let mut events = vec![room.connected()];
        events.extend(room.own());
        events.extend(room.of_others());
        counted += i64::try_from(events.len()).unwrap();
        rig.store(options.clone(), &events).await;
    }
    client
        .batch_execute("SELECT ensure_event_partitions(1)")
        .await
        .unwrap();
    for _ in 0..2 {
        client
            .batch_execute("SELECT detach_event_partition(current_date - 1)")
            .await
            .unwrap();
    }
    let there = "SELECT count(*) FROM pruned_events";
    assert!(rig.one::<i64>(there).await > 0);
    assert!(found(&rig.all_of_postgres()).contains(SAID));
    rig.erase(&[ID]).await.unwrap();
    assert_eq!(rig.one::<i64>(there).await, 0);
    let left: i64 = rig
        .one("SELECT count(*) FROM pg_inherits WHERE inhparent = 'pruned_events'::regclass")
        .await;
    assert_eq!(left, 0);
    assert_eq!(found(&rig.all_of_postgres()), BTreeSet::new());
    rig.whole().await;
    let accounted: i64 = rig
        .one("SELECT (SELECT count(*) FROM events) + (SELECT sum(lost)::bigint FROM gaps WHERE reason IN ('erased', 'pruned'))")
        .await;
    assert_eq!(accounted, counted);

    // While retention is at it, an erasure is not finished.
    let mut room = Room::new("7302", "bob", 9, earlier() - 2 * DAY);
    let mut events = vec![room.connected()];
    events.extend(room.own());
    rig.store(options.clone(), &events).await;
    client
        .batch_execute("SELECT ensure_event_partitions(1)")
        .await
        .unwrap();
    client
        .batch_execute("SELECT detach_event_partition(current_date - 1)")
        .await
        .unwrap();
    client
        .batch_execute(
            "BEGIN; SELECT pg_advisory_xact_lock(hashtextextended('ttlc.prune_events', 0))",
        )
        .await
        .unwrap();
    let other = rig.client().await;
    other
        .batch_execute(&format!("SET ROLE ttlc_writer; SELECT erase_user('{ID}')"))
        .await
        .unwrap();
    let part = format!("SELECT continue_erasure(erased_hash('{ID}'))");
    let refused = loop {
        if let Err(error) = other.batch_execute(&part).await {
            break error;
        }
    };
    assert_eq!(refused.code().unwrap().code(), "55P03", "{refused}");
    let open = "SELECT finished_at IS NULL FROM erased_users";
    assert!(rig.one::<bool>(open).await);
    client.batch_execute("COMMIT").await.unwrap();
    for _ in 0..2 {
        other.batch_execute(&part).await.unwrap();
    }
    assert!(!rig.one::<bool>(open).await);
    assert_eq!(found(&rig.all_of_postgres()), BTreeSet::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn pruning_leaves_the_row_of_those_who_were_erased_alone() {
    let rig = Rig::new().await;
    let mut room = Room::new("7301", "ann", 1, earlier() - 40 * DAY);
    let mut options = rig.options();
    options.retention.event_retention_days = 0;
    let mut events = vec![room.connected(), room.chat(1)];
    events.extend(room.own());
    rig.store(options.clone(), &events).await;
    rig.erase(&[ID]).await.unwrap();
    let totals = rig.totals().await;
    options.retention.event_retention_days = 30;
    let pruned = storage::prune(&options.database, &options.retention)
        .await
        .unwrap();
    assert_eq!(pruned.session_users, 1, "viewer 1");
    let names: Value = rig
        .one("SELECT json_agg(left(user_id, 5) || events ORDER BY user_id) FROM session_users")
        .await;
    assert_eq!(names, json!(["erase3", "hmac:1"]));
    assert_eq!(rig.totals().await, totals);
    let again = storage::prune(&options.database, &options.retention).await;
    assert_eq!(again.unwrap().session_users, 0, "twice is once");
}
