//! Reads `tests/fixtures` of the workspace.

use std::path::PathBuf;

use serde_json::Value;
use shared::raw::{Envelope, RawData, Source};
use shared::time::Timestamp;
use uuid::Uuid;

pub(in crate::normalizer) const ROOMS: [&str; 5] =
    ["room-a", "room-b", "room-c", "room-d", "mixed"];

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fixtures")
        .join(name)
}

fn json_lines(name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(path(name)).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// A message and what an independent decoder reads from it.
pub(in crate::normalizer) struct Case {
    /// Where it is, for failures.
    pub(in crate::normalizer) name: String,
    pub(in crate::normalizer) envelope: Envelope,
    pub(in crate::normalizer) expected: Value,
}

impl Case {
    pub(in crate::normalizer) fn payload(&self) -> &[u8] {
        match &self.envelope.data {
            RawData::Protobuf(bytes) => bytes,
            RawData::Json(_) => &[],
        }
    }
}

/// The messages of one capture.
pub(in crate::normalizer) fn capture(room: &str) -> Vec<Case> {
    let sent = json_lines(&format!("captures/{room}.ndjson"));
    let expected = json_lines(&format!("captures/{room}.expected.ndjson"));
    assert_eq!(sent.len(), expected.len());
    sent.into_iter()
        .zip(expected)
        .map(|(sent, expected)| {
            assert_eq!(sent["i"], expected["i"]);
            let kind = sent["type"].as_str().unwrap();
            let data = RawData::from_text(sent["payload"].as_str().unwrap()).unwrap();
            Case {
                name: format!("{room} {} {kind}", sent["i"]),
                envelope: envelope(kind, data, sent["i"].as_u64().unwrap()),
                expected,
            }
        })
        .collect()
}

/// What the encoded set says about its files.
pub(super) fn index() -> Vec<Value> {
    let index = std::fs::read_to_string(path("encoded/index.json")).unwrap();
    serde_json::from_str(&index).unwrap()
}

/// A file of the encoded set.
pub(super) fn bytes(file: &str) -> bytes::Bytes {
    std::fs::read(path("encoded").join(file)).unwrap().into()
}

/// The payloads that an independent encoder made.
pub(in crate::normalizer) fn encoded() -> Vec<Case> {
    index()
        .into_iter()
        .filter(|entry| entry["kind"] == "payload")
        .enumerate()
        .map(|(number, entry)| {
            let file = entry["file"].as_str().unwrap();
            let bytes = bytes(file).to_vec();
            let kind = entry["method"].as_str().unwrap();
            Case {
                name: file.to_owned(),
                envelope: envelope(kind, RawData::Protobuf(bytes), number as u64),
                expected: entry["expected"].clone(),
            }
        })
        .collect()
}

/// The messages of a file of Euler's envelopes, each with the file of its protobuf, where it has one.
pub(super) fn euler(file: &str) -> Vec<(Envelope, Option<String>)> {
    let mut messages = Vec::new();
    for line in json_lines(&format!("euler-ws/{file}")) {
        for message in line["messages"].as_array().unwrap() {
            let data = RawData::Json(message["data"].as_object().unwrap().clone());
            let kind = message["type"].as_str().unwrap();
            let number = messages.len() as u64;
            let fixture = line["fixture"].as_str().map(str::to_owned);
            messages.push((envelope(kind, data, number), fixture));
        }
    }
    messages
}

/// One encoded payload by its file name.
pub(in crate::normalizer) fn payload(file: &str) -> Case {
    encoded()
        .into_iter()
        .find(|case| case.name == file)
        .unwrap()
}

pub(in crate::normalizer) fn envelope(kind: &str, data: RawData, seq_no: u64) -> Envelope {
    Envelope {
        stream_id: "7301234567890123456".into(),
        session_id: Uuid::from_u128(0x0198_0000_0000_7000_8000_0000_0000_0001),
        source: Source::Live,
        kind: kind.to_owned(),
        seq_no,
        timestamp: Timestamp::from_millis(1_763_800_000_250),
        ingested_at: Timestamp::from_millis(1_763_800_000_900),
        data,
        msg_id: None,
        backlog: false,
        replay_of: None,
    }
}
