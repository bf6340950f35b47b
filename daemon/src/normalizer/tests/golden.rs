//! Golden triples: a push frame, the envelope that ingest makes of it, the event that the
//! normalizer makes of that; for every message of the captures and of the encoded set.
//!
//! All are held against what the fixtures expect; one of each type is shown in
//! `snapshots/golden/`. The frames are made here, plain and compressed in turn, except the encoded
//! ones, which are taken as they are.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message as _;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use shared::raw::{Envelope, RawData};
use shared::time::Timestamp;

use super::captured::says_what_was_sent;
use super::fixtures::{Case, ROOMS, bytes, capture, encoded, index};
use crate::ingest::{Frames, Taken};
use crate::normalizer::{Contract, normalize};
use crate::proto::frames::{BaseMessage, FetchResult, PushFrame};
use crate::proto::header;

const ROOM: &str = "7301234567890123456";
/// When frames arrive whose messages have no time.
const NOW: i64 = 1_763_800_000_900;

/// A push frame with these messages.
fn frame(messages: &[&Case], compressed: bool) -> Bytes {
    let messages = messages.iter().map(|case| {
        let message = BaseMessage {
            method: case.envelope.kind.clone(),
            payload: Bytes::copy_from_slice(case.payload()),
            ..BaseMessage::default()
        };
        message.encode_to_vec().into()
    });
    let result = FetchResult {
        messages: messages.collect(),
        ..FetchResult::default()
    };
    push_frame(&result.encode_to_vec(), compressed)
}

fn push_frame(payload: &[u8], compressed: bool) -> Bytes {
    let payload = if compressed {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(payload).unwrap();
        encoder.finish().unwrap()
    } else {
        payload.to_vec()
    };
    let frame = PushFrame {
        log_id: 1,
        payload_encoding: "pb".to_owned(),
        payload_type: "msg".to_owned(),
        payload: payload.into(),
        ..PushFrame::default()
    };
    frame.encode_to_vec().into()
}

/// Shortly after the message was made.
fn arrival(payload: &[u8]) -> Timestamp {
    let made = header(payload).and_then(|header| header.create_time_ms);
    Timestamp::from_millis(made.map_or(NOW, |made| made + 650))
}

/// What TikTok tells messages apart by; `None` where it says nothing.
fn id(case: &Case) -> Option<String> {
    Some(header(case.payload())?.msg_id?.to_string())
}

#[test]
fn every_captured_message_through_a_frame() {
    let contract = Contract::new().unwrap();
    let mut repeats = 0;
    for room in ROOMS {
        let cases = capture(room);
        let mut frames = Frames::new(ROOM, None, Timestamp::from_millis(NOW));
        let mut known = HashSet::new();
        let mut next = None;
        for (number, some) in cases.chunks(7).enumerate() {
            let bytes = frame(&some.iter().collect::<Vec<_>>(), number % 2 == 0);
            let now = arrival(some[0].payload());
            let taken = frames.take(&bytes, now).unwrap();
            assert_eq!(taken.damaged, [""; 0], "{room} {number}");
            let mut envelopes = taken.envelopes.into_iter();
            for case in some {
                // A message without an id is told apart by its content.
                let key = id(case).unwrap_or_else(|| hex::encode(case.payload()));
                if !known.insert((case.envelope.kind.clone(), key)) {
                    repeats += 1;
                    continue;
                }
                let envelope = envelopes.next().unwrap();
                assert_eq!(envelope.seq_no, next.unwrap_or(envelope.seq_no));
                next = Some(envelope.seq_no + 1);
                holds(&contract, case, envelope);
            }
            assert_eq!(envelopes.next(), None, "{room} {number}");
        }
    }
    assert!(repeats < 100, "{repeats} of the messages were not compared");
}

#[test]
fn every_encoded_payload_through_a_frame() {
    let contract = Contract::new().unwrap();
    for case in encoded() {
        for compressed in [false, true] {
            let mut frames = Frames::new(ROOM, None, Timestamp::from_millis(NOW));
            let now = arrival(case.payload());
            let taken = frames.take(&frame(&[&case], compressed), now).unwrap();
            let [envelope] = <[Envelope; 1]>::try_from(taken.envelopes).unwrap();
            holds(&contract, &case, envelope);
        }
    }
}

/// The envelope is the message, and its event says what the message said.
fn holds(contract: &Contract, case: &Case, envelope: Envelope) -> Option<Value> {
    let name = &case.name;
    assert_eq!(envelope.kind, case.envelope.kind, "{name}");
    assert_eq!(envelope.data, case.envelope.data, "{name}");
    assert_eq!(envelope.msg_id, id(case), "{name}");
    let read = |field: &str| -> String {
        let (_, text) = envelope
            .to_fields()
            .into_iter()
            .find(|(name, _)| *name == field)
            .unwrap();
        text.into_owned()
    };
    assert_eq!(
        RawData::from_text(&read("data")).unwrap(),
        envelope.data,
        "{name}"
    );
    let case = Case {
        name: name.clone(),
        envelope,
        expected: case.expected.clone(),
    };
    let event = says_what_was_sent(contract, &case)?;
    for (field, wanted) in [
        ("streamId", json!(ROOM)),
        ("seqNo", json!(case.envelope.seq_no)),
        ("sessionId", json!(case.envelope.session_id)),
        ("timestamp", json!(case.envelope.timestamp)),
        ("eventId", json!(case.envelope.event_id())),
        ("source", json!("live")),
    ] {
        assert_eq!(event[field], wanted, "{name} {field}");
    }
    Some(event)
}

/// The frames as an independent encoder made them.
#[test]
fn every_encoded_frame() {
    let contract = Contract::new().unwrap();
    let mut kinds = BTreeSet::new();
    for entry in index() {
        let kind = entry["kind"].as_str().unwrap().to_owned();
        let file = entry["file"].as_str().unwrap();
        let (frame, fetch) = match kind.as_str() {
            "push-frame" => (bytes(file), &entry["expected"]["fetch"]),
            // The sign server's answer comes without a frame around it.
            "fetch-result" => (push_frame(&bytes(file), true), &entry["expected"]),
            // `every_encoded_payload_through_a_frame`, and the tests of `ingest::direct::frame`.
            "payload" | "client-frame" => {
                kinds.insert(kind);
                continue;
            }
            other => panic!("{file}: nobody tests what is of kind {other}"),
        };
        kinds.insert(kind);
        let now = Timestamp::from_millis(NOW);
        let taken = Frames::new(ROOM, None, now).take(&frame, now);
        if entry["expected"]["error"] == true {
            taken.unwrap_err();
            continue;
        }
        let taken = taken.unwrap();
        if let Some(wanted) = entry["expected"].get("ackHex") {
            let ack = taken.ack.as_ref().map(hex::encode);
            assert_eq!(json!(ack), *wanted, "{file}");
        }
        let mut wanted = fetch["messages"].as_array().cloned().unwrap_or_default();
        wanted.dedup();
        let found: Vec<Value> = taken.envelopes.iter().map(described).collect();
        assert_eq!(found, wanted, "{file}");

        let events: Vec<Value> = taken
            .envelopes
            .iter()
            .map(|envelope| outcome(&contract, envelope))
            .collect();
        let refused = events.iter().filter(|event| event.get("error").is_some());
        let bad = u32::from(file == "frame-one-bad-among-good.bin");
        let refused = refused.count();
        assert_eq!(refused, bad as usize, "{file}");
        if let Some(wanted) = entry["expected"]["events"].as_u64() {
            assert_eq!((events.len() - refused) as u64, wanted, "{file}");
        }
        shows(
            file.trim_end_matches(".bin"),
            &json!({"frame": summary(&frame), "taken": shown(&taken), "events": events}),
        );
    }
    assert_eq!(
        kinds.iter().map(String::as_str).collect::<Vec<_>>(),
        ["client-frame", "fetch-result", "payload", "push-frame"]
    );
}

fn described(envelope: &Envelope) -> Value {
    let RawData::Protobuf(payload) = &envelope.data else {
        panic!("frames hold protobuf")
    };
    json!({
        "method": envelope.kind,
        "msgId": envelope.msg_id,
        "isHistory": envelope.backlog,
        "bytes": payload.len(),
    })
}

/// One triple of each type: the shortest captured message, and all encoded ones.
#[test]
fn one_of_each_type() {
    let contract = Contract::new().unwrap();
    let mut shortest: BTreeMap<String, Case> = BTreeMap::new();
    for case in ROOMS.into_iter().flat_map(capture) {
        let kind = &case.envelope.kind;
        let length = case.payload().len();
        if shortest
            .get(kind)
            .is_none_or(|known| length < known.payload().len())
        {
            shortest.insert(kind.clone(), case);
        }
    }
    let mut types: BTreeMap<String, Vec<Case>> = BTreeMap::new();
    for case in shortest.into_values().chain(encoded()) {
        types
            .entry(case.envelope.kind.clone())
            .or_default()
            .push(case);
    }
    assert!(types.len() > 40, "{}", types.len());
    for (kind, cases) in types {
        let triples: Vec<Value> = cases
            .iter()
            .map(|case| {
                let frame = frame(&[case], false);
                let now = arrival(case.payload());
                let taken = Frames::new(ROOM, None, now).take(&frame, now).unwrap();
                json!({
                    "message": case.name,
                    "frame": summary(&frame),
                    "envelope": shown(&taken)[0],
                    "event": outcome(&contract, &taken.envelopes[0]),
                })
            })
            .collect();
        shows(&kind, &Value::Array(triples));
    }
}

// ---- snapshots

fn shows(name: &str, value: &Value) {
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.set_snapshot_path("snapshots/golden");
    settings.bind(|| insta::assert_json_snapshot!(name, value));
}

/// Bytes as a reader can compare them.
fn summary(bytes: &[u8]) -> Value {
    let hash = hex::encode(Sha256::digest(bytes));
    json!(format!("{} bytes, sha256 {}", bytes.len(), &hash[..16]))
}

/// The fields of the envelopes, without what is random.
fn shown(taken: &Taken) -> Value {
    let envelopes = taken.envelopes.iter().map(|envelope| {
        let fields = envelope.to_fields().into_iter().map(|(name, text)| {
            let value = match name {
                "sessionId" => json!("of this connection"),
                "data" => match &envelope.data {
                    RawData::Protobuf(bytes) => summary(bytes),
                    RawData::Json(object) => Value::Object(object.clone()),
                },
                _ => json!(text),
            };
            (name.to_owned(), value)
        });
        Value::Object(fields.collect::<Map<_, _>>())
    });
    envelopes.collect()
}

/// The event of an envelope, or its rejection.
fn outcome(contract: &Contract, envelope: &Envelope) -> Value {
    let published = normalize(envelope).and_then(|event| contract.json(&event));
    let mut event: Value = match published {
        Ok(json) => serde_json::from_str(&json).unwrap(),
        Err(rejection) => {
            return json!({"error": {"reason": rejection.reason.as_str(), "error": rejection.error}});
        }
    };
    event["sessionId"] = json!("of this connection");
    if let (RawData::Protobuf(bytes), Some(raw)) =
        (&envelope.data, event.pointer_mut("/payload/raw"))
    {
        assert_eq!(
            RawData::from_text(raw.as_str().unwrap()).unwrap(),
            envelope.data
        );
        *raw = summary(bytes);
    }
    event
}
