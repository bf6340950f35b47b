//! What the normalizer costs per message, over the captured rooms.
//!
//! `cargo bench -p daemon --bench normalize`. The counter of each benchmark is messages, so the
//! figures are messages per second of one thread. The figures that the project aims at, the whole
//! way with validation and without, are `cargo xtask bench ingest`'s.

use std::path::Path;

use daemon::normalizer::{Contract, normalize};
use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use shared::event::UnifiedEvent;
use shared::raw::{Envelope, RawData, Source};
use shared::time::Timestamp;

fn main() {
    divan::main();
}

fn captured() -> Vec<Envelope> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/captures");
    let mut envelopes = Vec::new();
    for room in ["room-a", "room-b", "room-c", "room-d", "mixed"] {
        let lines = std::fs::read_to_string(folder.join(format!("{room}.ndjson")))
            .expect("the captures are in tests/fixtures");
        for line in lines.lines() {
            let line: serde_json::Value = serde_json::from_str(line).expect("a JSON line");
            let text = |field: &str| line[field].as_str().expect("a text").to_owned();
            let at: Timestamp = text("at").parse().expect("a time");
            envelopes.push(Envelope {
                stream_id: "7301234567890123456".to_owned(),
                session_id: uuid::Uuid::from_u128(7),
                source: Source::Live,
                kind: text("type"),
                seq_no: envelopes.len() as u64,
                timestamp: at,
                ingested_at: at,
                data: RawData::from_text(&text("payload")).expect("base64"),
                msg_id: None,
                backlog: false,
                replay_of: None,
            });
        }
    }
    envelopes
}

fn events() -> Vec<UnifiedEvent> {
    let envelopes = captured();
    envelopes
        .iter()
        .map(|envelope| normalize(envelope).expect("every capture is an event"))
        .collect()
}

/// What Euler sends, in one of its schema versions.
fn euler(version: u8) -> Vec<Envelope> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!(
        "../tests/fixtures/euler-ws/encoded-v{version}.ndjson"
    ));
    let lines = std::fs::read_to_string(path).expect("they are in tests/fixtures");
    let any = captured().swap_remove(0);
    let mut envelopes = Vec::new();
    for line in lines.lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect("a JSON line");
        let message = &line["messages"][0];
        envelopes.push(Envelope {
            kind: message["type"].as_str().expect("a type").to_owned(),
            data: RawData::Json(message["data"].as_object().expect("an object").clone()),
            ..any.clone()
        });
    }
    envelopes
}

/// JSON of a message to its event; reading the text is not in it.
#[divan::bench(args = [1, 2, 3])]
fn normalizing_json(bencher: Bencher, version: u8) {
    let envelopes = euler(version);
    bencher
        .counter(ItemsCount::new(envelopes.len()))
        .bench_local(|| {
            for envelope in &envelopes {
                black_box(normalize(black_box(envelope)).is_ok());
            }
        });
}

/// Bytes of a message to its event.
#[divan::bench]
fn normalizing(bencher: Bencher) {
    let envelopes = captured();
    bencher
        .counter(ItemsCount::new(envelopes.len()))
        .bench_local(|| {
            for envelope in &envelopes {
                black_box(normalize(black_box(envelope)).is_ok());
            }
        });
}

/// An event to its JSON, without a look at the schema: the cost that validation adds to.
#[divan::bench]
fn serializing(bencher: Bencher) {
    let events = events();
    bencher
        .counter(ItemsCount::new(events.len()))
        .bench_local(|| {
            for event in &events {
                black_box(serde_json::to_string(black_box(event)).is_ok());
            }
        });
}

/// An event to its JSON, validated.
#[divan::bench]
fn validating(bencher: Bencher) {
    let contract = Contract::new().expect("the schema compiles");
    let events = events();
    bencher
        .counter(ItemsCount::new(events.len()))
        .bench_local(|| {
            for event in &events {
                black_box(contract.json(black_box(event)).is_ok());
            }
        });
}

/// The same by the schema as it is published, whose fifteen forms are tried one after the other:
/// what compiling a schema for each event type saves.
#[divan::bench]
fn validating_by_the_published_schema(bencher: Bencher) {
    let schema = jsonschema::validator_for(&shared::event::json_schema()).expect("compiles");
    let events = events();
    bencher
        .counter(ItemsCount::new(events.len()))
        .bench_local(|| {
            for event in &events {
                let value = serde_json::to_value(black_box(event)).expect("an object");
                assert!(schema.is_valid(&value));
                black_box(value.to_string());
            }
        });
}

/// An event to a JSON value: the part of validation that is no validation.
#[divan::bench]
fn converting(bencher: Bencher) {
    let events = events();
    bencher
        .counter(ItemsCount::new(events.len()))
        .bench_local(|| {
            for event in &events {
                black_box(serde_json::to_value(black_box(event)).is_ok());
            }
        });
}
