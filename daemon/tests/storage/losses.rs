//! What Redis loses becomes a row of `gaps`; what is merely late never does.

use std::time::Duration;

use daemon::bus::Seats;
use daemon::storage::verify::{Options, verify};
use serde_json::json;
use shared::streams::GROUP_OPS;

use super::rig::{Event, Rig, Room, noon, poll};

const ID: &str = "7301234567890123456";

impl Rig {
    /// Rows of `gaps` as (first, last, reason, lost), by number.
    async fn gaps(&self) -> Vec<(i64, i64, String, i64)> {
        let rows = self
            .client()
            .await
            .query(
                "SELECT from_seq_no, to_seq_no, reason, lost FROM gaps ORDER BY 1",
                &[],
            )
            .await
            .unwrap();
        rows.iter()
            .map(|row| (row.get(0), row.get(1), row.get(2), row.get(3)))
            .collect()
    }

    async fn is_whole(&self) -> bool {
        let options = Options {
            stream: vec![ID.to_owned()],
            database: self.options().database,
        };
        verify(&options)
            .await
            .unwrap()
            .iter()
            .all(daemon::storage::verify::Verdict::is_whole)
    }
}

fn chats(room: &mut Room, count: usize) -> Vec<Event> {
    (0..count).map(|_| room.chat(7)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_trimmed_unread_is_recorded_once_by_several_writers() {
    let rig = Rig::new().await;
    let mut room = Room::new(ID, "ann", 1, noon());
    let mut events = vec![room.connected()];
    events.extend(chats(&mut room, 50));
    rig.publish(&events).await;
    let writers = [rig.start(rig.options()), rig.start(rig.options())];
    rig.settled().await;

    // Two holes: one of a single entry, one of many.
    let first = room.seq_no;
    chats(&mut room, 30);
    rig.publish(&chats(&mut room, 5)).await;
    let second = room.seq_no;
    chats(&mut room, 1);
    rig.publish(&chats(&mut room, 5)).await;
    rig.settled().await;
    assert!(!rig.is_whole().await);
    poll("both holes are known", async || {
        (rig.gaps().await.len() == 2).then_some(())
    })
    .await;
    let number = |seq_no: u64| i64::try_from(seq_no).unwrap();
    let wanted = [
        (number(first), number(first) + 29, "trimmed".to_owned(), 30),
        (number(second), number(second), "trimmed".to_owned(), 1),
    ];
    assert_eq!(rig.gaps().await, wanted);
    assert!(rig.is_whole().await);

    // It stays at that, also after a restart.
    for writer in writers {
        writer.stop().await;
    }
    let again = rig.start(rig.options());
    tokio::time::sleep(Duration::from_secs(17)).await;
    assert_eq!(rig.gaps().await, wanted);
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_writer_still_has_is_late_and_not_lost() {
    let rig = Rig::new().await;
    let mut room = Room::new(ID, "ann", 1, noon());
    let mut events = vec![room.connected()];
    events.extend(chats(&mut room, 20));
    rig.publish(&events).await;
    let running = rig.start(rig.options());
    rig.settled().await;

    // Somebody else was given the next ones and takes half a minute; a dead letter waits for its
    // copier, who is gone; and what ingest dropped it tells before the next message.
    let bus = rig.bus();
    let mut slow = bus.member(Seats::Storage, 0);
    let held = poll("it has them", async || {
        // The writer has waited for longer and is given the first ones; while it stores these, the
        // next ones are the other's.
        let publishing = async {
            for _ in 0..5 {
                rig.publish(&chats(&mut room, 3)).await;
            }
        };
        let reading = slow.read(10, Duration::from_millis(500));
        let (entries, ()) = tokio::join!(reading, publishing);
        Some(entries.unwrap()).filter(|entries| !entries.is_empty())
    })
    .await;
    let ids: Vec<String> = held.iter().map(|entry| entry.id.clone()).collect();
    let beat = tokio::spawn(slow.beat(ids.clone()));
    let dropped = room.seq_no;
    chats(&mut room, 4);
    rig.publish(&[room.gap(dropped, dropped + 3, "spool_full")])
        .await;
    rig.publish(&chats(&mut room, 20)).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    let gaps = rig.gaps().await;
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert_eq!(gaps[0].2, "spool_full");
    beat.abort();
    slow.leave().await.unwrap();
    rig.settled().await;
    tokio::time::sleep(Duration::from_secs(17)).await;
    assert_eq!(rig.gaps().await, gaps);
    assert!(rig.is_whole().await);
    running.stop().await;
}

/// What the copier itself cannot store is kept, said and passed over.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_that_kills_its_copiers_is_parked_and_the_next_ones_are_copied() {
    let rig = Rig::new().await;
    let mut redis = rig.redis().await;
    let payload = json!({"streamId": ID, "seqNo": "1"}).to_string();
    let add = |number: &str| {
        redis::cmd("XADD")
            .arg(&[
                "ttlc:dlq",
                "*",
                "stage",
                "normalizer",
                "reason",
                "PARSE_ERROR",
            ])
            .arg(&["error", number, "payload", &payload])
            .to_owned()
    };
    let killer: String = add("one").query_async(&mut redis).await.unwrap();
    let _: redis::Value = redis::cmd("XGROUP")
        .arg(&["CREATE", "ttlc:dlq", GROUP_OPS, "0"])
        .query_async(&mut redis)
        .await
        .unwrap();
    let _: redis::Value = redis::cmd("XREADGROUP")
        .arg(&["GROUP", GROUP_OPS, "ops-5", "STREAMS", "ttlc:dlq", ">"])
        .query_async(&mut redis)
        .await
        .unwrap();
    // Five processes died on it.
    let _: redis::Value = redis::cmd("XCLAIM")
        .arg(&[
            "ttlc:dlq",
            GROUP_OPS,
            "ops-5",
            "0",
            &killer,
            "RETRYCOUNT",
            "5",
            "JUSTID",
        ])
        .query_async(&mut redis)
        .await
        .unwrap();
    let _: String = add("two").query_async(&mut redis).await.unwrap();
    let running = rig.start(rig.options());
    rig.acknowledged("ttlc:dlq", GROUP_OPS).await;
    running.stop().await;
    let letters: serde_json::Value = rig
        .one("SELECT jsonb_agg(jsonb_build_array(stage, reason, payload) ORDER BY stage) FROM dead_letters")
        .await;
    let key = format!("ttlc:parked:{killer}");
    let place = json!({"parked": key, "entry": format!("ttlc:dlq/{killer}")}).to_string();
    let stored: serde_json::Value = serde_json::from_str(letters[1][2].as_str().unwrap()).unwrap();
    assert_eq!(letters[0][1], "PARSE_ERROR");
    assert_eq!(letters[1][1], "PARKED");
    assert_eq!(
        stored,
        serde_json::from_str::<serde_json::Value>(&place).unwrap()
    );
    let kept: String = redis::cmd("GET")
        .arg(&key)
        .query_async(&mut redis)
        .await
        .unwrap();
    let kept: serde_json::Value = serde_json::from_str(&kept).unwrap();
    assert_eq!(
        (&kept["error"], &kept["payload"]),
        (&json!("one"), &json!(payload))
    );
    let days: i64 = redis::cmd("TTL")
        .arg(&key)
        .query_async(&mut redis)
        .await
        .unwrap();
    assert!((89 * 86_400..=90 * 86_400).contains(&days), "{days} s");
}

/// An event that ends every process that touches it goes to the dead letters; the others are stored.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_kills_writers_is_a_dead_letter_and_the_others_are_stored() {
    let rig = Rig::new().await;
    let mut room = Room::new(ID, "ann", 1, noon());
    let mut events = vec![room.connected()];
    events.extend(chats(&mut room, 20));
    rig.publish(&events).await;
    let mut redis = rig.redis().await;
    let _: redis::Value = redis::cmd("XGROUP")
        .arg(&["CREATE", "ttlc:events", "storage", "0"])
        .query_async(&mut redis)
        .await
        .unwrap();
    let given: redis::streams::StreamReadReply = redis::cmd("XREADGROUP")
        .arg(&[
            "GROUP",
            "storage",
            "storage-3",
            "COUNT",
            "10",
            "STREAMS",
            "ttlc:events",
            ">",
        ])
        .query_async(&mut redis)
        .await
        .unwrap();
    // All of a batch were there when three processes died, and one of them alone twice more.
    for (place, entry) in given.keys[0].ids.iter().enumerate() {
        let count = if place == 4 { "5" } else { "3" };
        let _: redis::Value = redis::cmd("XCLAIM")
            .arg(&["ttlc:events", "storage", "storage-3", "0", &entry.id])
            .arg(&["RETRYCOUNT", count, "JUSTID"])
            .query_async(&mut redis)
            .await
            .unwrap();
    }
    let running = rig.start(rig.options());
    rig.settled().await;
    rig.acknowledged("ttlc:dlq", GROUP_OPS).await;
    assert_eq!(rig.one::<i64>("SELECT count(*) FROM events").await, 20);
    let letter: String = rig
        .one("SELECT stage || ' ' || reason || ' ' || seq_no FROM dead_letters")
        .await;
    assert_eq!(
        letter,
        format!("storage POISON {}", events[4].json["seqNo"])
    );
    assert!(rig.is_whole().await);
    running.stop().await;
}
