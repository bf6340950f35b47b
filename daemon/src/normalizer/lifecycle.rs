//! Our own messages about the connection: connected, disconnected, failed, dropped.
//!
//! Comes in: the JSON that ingest wrote. Goes out: the event of the same name, or `RAW` for a
//! gap. A message without its required fields is a parse error: only ingest writes these.

use serde_json::{Map, Value, json};
use shared::event::{Connection, Payload, Raw};
use shared::raw::control;

use super::text::object_without_nul;

/// The payload of a lifecycle message; `None` for a type that is none.
pub(super) fn lifecycle(
    raw_type: &str,
    data: &Map<String, Value>,
) -> Option<Result<Payload, serde_json::Error>> {
    let connection = || {
        let mut data = object_without_nul(data.clone());
        data.insert("rawType".to_owned(), raw_type.into());
        serde_json::from_value::<Connection>(Value::Object(data))
    };
    Some(match raw_type {
        control::CONNECTED => connection().map(Payload::Connected),
        control::DISCONNECTED => connection().map(Payload::Disconnected),
        control::ERROR => connection().map(Payload::Error),
        control::GAP => Ok(Payload::Raw(gap(raw_type, data))),
        _ => return None,
    })
}

/// What ingest had to drop; the contract's names beside the untouched data.
fn gap(raw_type: &str, data: &Map<String, Value>) -> Raw {
    let data = object_without_nul(data.clone());
    let mut decoded = Map::new();
    for (from, to) in [
        ("fromSeq", "from"),
        ("toSeq", "to"),
        ("reason", "reason"),
        ("count", "count"),
    ] {
        if let Some(value) = data.get(from).filter(|value| !value.is_null()) {
            decoded.insert(to.to_owned(), value.clone());
        }
    }
    Raw {
        raw_type: raw_type.to_owned(),
        raw: json!(data),
        decoded: Some(Value::Object(decoded)),
    }
}
