//! The ledger of a room: whole, or what is missing, doubled or wrong.

use daemon::storage::verify::{Options, Verdict, verify};

use super::rig::{Event, Rig, Room, noon};

const ID: &str = "7301234567890123456";

async fn verdict(rig: &Rig) -> Verdict {
    let options = Options {
        stream: vec![ID.to_owned()],
        database: rig.options().database,
    };
    let mut verdicts = verify(&options).await.unwrap();
    assert_eq!(verdicts.len(), 1);
    verdicts.remove(0)
}

/// A session with a streak that time has ended, and a known gap.
fn show() -> Vec<Event> {
    let mut room = Room::new(ID, "ann", 1, noon());
    let mut events = vec![room.connected(), room.chat(7), room.gift(7, 3, "progress")];
    events.push(room.gift_timeout(7, 3));
    let lost = room.seq_no;
    events.push(room.gap(lost, lost + 4, "spool_full"));
    room.seq_no = lost + 5;
    events.extend([room.like(7, 5), room.disconnected("closed")]);
    events
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_of_which_nothing_is_missing_is_whole() {
    let rig = Rig::new().await;
    rig.store(rig.options(), &show()).await;
    let verdict = verdict(&rig).await;
    assert!(verdict.is_whole(), "{verdict}");
    assert_eq!(
        (verdict.sessions, verdict.gaps, verdict.dead_letters),
        (1, 1, 0)
    );
    assert_eq!(
        verdict.events, 6,
        "the inferred end has no number of its own"
    );
    assert_eq!(verdict.numbers, 10);

    let all = Options {
        stream: Vec::new(),
        database: rig.options().database,
    };
    assert_eq!(verify(&all).await.unwrap(), [verdict]);
    let unknown = Options {
        stream: vec!["42".to_owned()],
        ..all
    };
    let error = verify(&unknown).await.unwrap_err().to_string();
    assert!(error.contains("no room 42 is known"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_doubled_or_wrong_is_named() {
    let rig = Rig::new().await;
    let mut events = show();
    let hole = events.remove(1);
    rig.store(rig.options(), &events).await;
    let found = verdict(&rig).await;
    assert_eq!(found.missing.len(), 1, "{found}");
    let (_, from, to) = &found.missing[0];
    let number = hole.json["seqNo"].as_i64().unwrap();
    assert_eq!((*from, *to), (number, number));
    assert!(!found.is_whole());
    assert!(found.to_string().contains("missing: "), "{found}");

    rig.store(rig.options(), &[hole]).await;
    assert!(verdict(&rig).await.is_whole());
    // As nothing of ours can: by hand, as the owner.
    rig.client()
        .await
        .batch_execute(
            "INSERT INTO events SELECT event_id, part_day + 1, stream_id, session_id, seq_no, event_type, source,
                occurred_at, ingested_at + interval '1 day', stored_at, user_id, event, raw, raw_format, raw_hash
             FROM events WHERE event_type = 'CHAT';
             UPDATE events SET event_id = sha256('x') WHERE event_type = 'LIKE'",
        )
        .await
        .unwrap();
    let found = verdict(&rig).await;
    assert_eq!(
        (
            found.doubled.len(),
            found.wrong_ids.len(),
            found.miscounted.len()
        ),
        (1, 1, 1),
        "{found}"
    );
}
