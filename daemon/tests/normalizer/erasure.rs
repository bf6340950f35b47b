//! Captured rooms, normalized when a viewer of them is erased already: their events become gaps, those
//! of others lose them, and everything else is as it would have been.

use std::collections::{BTreeMap, HashMap};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use daemon::erasure::{Tombstone, Trace};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use shared::raw::Envelope;
use shared::time::Timestamp;
use xtask::servers::{Durability, PrivateRedis};

use super::entries::{is_garbage, room};
use super::rig::{Stage, ask, bus, entries, publish, until_done};

/// As the function `erasure_trace` of the database.
fn trace(kind: &str, bytes: &[u8]) -> Trace {
    let roll = bytes.iter().fold(0_u64, |roll, byte| {
        (roll * 257 + u64::from(*byte)) % 2_147_483_647
    });
    Trace {
        kind: kind.to_owned(),
        bytes: bytes.len(),
        roll: roll.try_into().unwrap(),
        hash: hex::encode(Sha256::digest(bytes)),
    }
}

/// As protobuf writes a number.
fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 128 {
        bytes.push(u8::try_from(number % 128).unwrap() | 128);
        number /= 128;
    }
    bytes.push(u8::try_from(number).unwrap());
    bytes
}

/// The events of these messages, with this viewer erased; by room number.
async fn normalized(
    sent: &[Envelope],
    erased: &[Tombstone],
) -> BTreeMap<u64, HashMap<String, String>> {
    let server = PrivateRedis::temporary(Durability::Fast).unwrap();
    bus(&server, 1).put_erased(1, erased).await.unwrap();
    publish(&server, 1, sent).await;
    let stage = Stage::start(&server, 1, "64");
    until_done(&server, sent.len()).await;
    stage.stop().await;
    assert!(entries(&server, "ttlc:dlq").await.is_empty());
    let remembered: Vec<String> = ask(&server, &["HGETALL", "ttlc:normalizer"]).await.unwrap();
    let remembered = remembered.join("\n");
    for one in erased
        .iter()
        .filter(|one| one.erased_at > sent[0].timestamp)
    {
        assert!(!remembered.contains(&one.user_hash));
    }
    entries(&server, "ttlc:events")
        .await
        .into_iter()
        .map(|mut entry| {
            entry.remove("normalizedAt");
            let event: Value = serde_json::from_str(&entry["event"]).unwrap();
            (event["seqNo"].as_u64().unwrap(), entry)
        })
        .collect()
}

#[tokio::test]
async fn an_erased_viewer_is_dropped_and_taken_out_of_events_of_others() {
    let sent: Vec<Envelope> = room().into_iter().filter(|one| !is_garbage(one)).collect();
    let plain = normalized(&sent, &[]).await;
    let event = |entry: &HashMap<String, String>| -> Value {
        serde_json::from_str(&entry["event"]).unwrap()
    };
    // Whoever is named most by others, and has said something too.
    let mut said: HashMap<String, (Value, usize)> = HashMap::new();
    for entry in plain.values() {
        let event = event(entry);
        if event.pointer("/user/username").is_some()
            && let Some(id) = event.pointer("/user/userId").and_then(Value::as_str)
        {
            said.entry(id.to_owned())
                .or_insert((event["user"].clone(), 0))
                .1 += 1;
        }
    }
    let named = |id: &str| {
        let quoted = format!("\"{id}\"");
        let all = plain.values();
        all.filter(|entry| entry["event"].contains(&quoted)).count()
    };
    let (id, (user, own)) = said
        .into_iter()
        .filter(|(id, _)| id.len() >= 8)
        .max_by_key(|(id, (_, own))| (named(id) - own, id.clone()))
        .unwrap();
    assert!(named(&id) > own, "somebody is named by others");
    let name = user["username"].as_str().unwrap().to_lowercase();
    let number = varint(id.parse().unwrap());
    let tombstone = |erased_at| Tombstone {
        user_hash: hex::encode(Sha256::digest(format!("ttlc.erased:{id}"))),
        erased_at,
        traces: vec![
            trace("id", id.as_bytes()),
            trace("word", name.as_bytes()),
            trace("bytes", &number),
        ],
    };

    let now = Timestamp::from(jiff::Timestamp::now());
    let erased = normalized(&sent, &[tombstone(now)]).await;
    assert_eq!(erased.len(), plain.len());
    let has = |bytes: &[u8]| bytes.windows(number.len()).any(|part| part == number);
    let (mut gaps, mut rewritten) = (0, 0);
    for (seq_no, after) in &erased {
        let before = &plain[seq_no];
        let new = event(after);
        if event(before)
            .pointer("/user/userId")
            .and_then(Value::as_str)
            == Some(&id)
        {
            gaps += 1;
            assert_eq!(new["payload"]["rawType"], "ControlEvent.GAP");
            assert_eq!(new["payload"]["raw"]["reason"], "erased");
            assert_eq!(new["payload"]["raw"]["fromSeq"], *seq_no);
            assert!(new.get("user").is_none());
        } else if after != before {
            rewritten += 1;
            assert_eq!(after["raw"], r#"{"erased":true}"#);
            for same in ["eventId", "eventType", "seqNo", "timestamp", "sessionId"] {
                assert_eq!(new[same], event(before)[same]);
            }
        }
        for text in after.values() {
            assert!(!text.contains(&id), "{text}");
            assert!(!STANDARD.decode(text).is_ok_and(|bytes| has(&bytes)));
        }
    }
    assert_eq!(gaps, own);
    assert!(rewritten >= named(&id) - own, "{rewritten}");
    assert!(rewritten + gaps < plain.len() / 2, "others stay");

    // What happens after the erasure is new.
    let before = Timestamp::from_millis(sent[0].timestamp.as_millis() - 1);
    assert_eq!(normalized(&sent, &[tombstone(before)]).await, plain);
}
