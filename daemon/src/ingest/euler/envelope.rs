//! Euler's envelopes: text from the socket to messages.
//!
//! In: one WebSocket message with JSON in it, `{"timestamp", "messages": [{"type", "data"}]}` or
//! one of the other forms that are seen: a single `{"type", "data"}`, a list, a flat
//! `{"type", …}`. Out: its messages in their order. The text comes from a stranger: its length is
//! bounded by the socket, its depth by the parser, and what it would become in memory is estimated
//! before it is parsed. Text that cannot be read is [`Malformed`] as a whole; an item of a wrong
//! shape is one item of the result and costs none of the others (fact sheet §2).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Map, Value};

use crate::ingest::direct::frame::MESSAGES_LIMIT;
use crate::ingest::session::{field, integer};
use crate::proto::{self, in_millis};

/// What a text may become in memory, in bytes, by [`weight`].
const WEIGHT_LIMIT: usize = 16 * 1024 * 1024;
/// The longest type name; TikTok's longest has some 50 letters.
const KIND_LIMIT: usize = 100;
/// What our own messages are called; nobody else may call theirs so.
const OURS: &str = "ControlEvent";

/// Why a text cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum Malformed {
    /// It is no JSON, or nested too deeply.
    #[error("no JSON: {0}")]
    Json(String),
    /// It would take too much memory.
    #[error("JSON that takes more than {WEIGHT_LIMIT} bytes in memory")]
    Heavy,
    /// More messages than any envelope has.
    #[error("more than {MESSAGES_LIMIT} messages in one envelope")]
    Messages,
}

/// An item that is no message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Misshapen {
    /// The item as JSON.
    pub(super) json: String,
    /// What is wrong with it.
    pub(super) error: &'static str,
}

/// One message.
#[derive(Debug, PartialEq)]
pub(super) struct Item {
    /// `type`.
    pub(super) kind: String,
    /// `data`, or what stands beside `type`.
    pub(super) data: Map<String, Value>,
    /// The same message as protobuf, where it is given.
    pub(super) raw: Option<Bytes>,
}

/// What an envelope says.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Envelope {
    /// Euler's clock, in Unix milliseconds.
    pub(super) sent_ms: Option<i64>,
    /// In their order.
    pub(super) items: Vec<Result<Item, Misshapen>>,
}

/// Whether bytes are meant to be JSON: no push frame begins like this.
pub(super) fn is_json(bytes: &[u8]) -> bool {
    matches!(bytes.trim_ascii_start().first(), Some(b'{' | b'['))
}

/// Reads the text of one WebSocket message.
pub(super) fn read(text: &str) -> Result<Envelope, Malformed> {
    if weight(text) > WEIGHT_LIMIT {
        return Err(Malformed::Heavy);
    }
    let value = serde_json::from_str(text).map_err(|error| Malformed::Json(error.to_string()))?;
    let mut envelope = Envelope::default();
    unpack(value, &mut envelope)?;
    Ok(envelope)
}

/// About as many bytes as the parsed text takes. A list doubles as it grows, an object has room
/// for eleven fields from the first one on, and each text has a place of its own.
fn weight(text: &str) -> usize {
    let mut bytes = text.bytes();
    let mut weight = text.len();
    while let Some(byte) = bytes.next() {
        weight += match byte {
            b'{' => 650,
            b'[' | b',' => 100,
            b'"' => {
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'\\' => drop(bytes.next()),
                        b'"' => break,
                        _ => {}
                    }
                }
                24
            }
            _ => 0,
        };
    }
    weight
}

fn unpack(value: Value, envelope: &mut Envelope) -> Result<(), Malformed> {
    match value {
        Value::Array(items) => append(items, envelope),
        Value::Object(mut object) => {
            if let Some(Value::Array(items)) = object.remove("messages") {
                envelope.sent_ms = object
                    .get("timestamp")
                    .and_then(integer)
                    .filter(|&time| time > 0)
                    .map(in_millis)
                    .or(envelope.sent_ms);
                append(items, envelope)
            } else if object.contains_key("type") || !object.contains_key("timestamp") {
                append(vec![Value::Object(object)], envelope)
            } else {
                // A sign of life without messages.
                Ok(())
            }
        }
        other => append(vec![other], envelope),
    }
}

fn append(items: Vec<Value>, envelope: &mut Envelope) -> Result<(), Malformed> {
    if envelope.items.len() + items.len() > MESSAGES_LIMIT {
        return Err(Malformed::Messages);
    }
    for item in items {
        match item {
            // A list of envelopes. Parsing has bounded how deep they can lie in each other.
            Value::Object(object) if object.contains_key("messages") => {
                unpack(Value::Object(object), envelope)?;
            }
            item => envelope.items.push(message(item)),
        }
    }
    if envelope.items.len() > MESSAGES_LIMIT {
        return Err(Malformed::Messages);
    }
    Ok(())
}

fn message(item: Value) -> Result<Item, Misshapen> {
    let wrong = |item: &Value, error| {
        Err(Misshapen {
            json: item.to_string(),
            error,
        })
    };
    let Value::Object(mut object) = item else {
        return wrong(&item, "an item that is no object");
    };
    let kind = match object.get("type") {
        Some(Value::String(kind)) if is_kind(kind) => kind.clone(),
        Some(_) => return wrong(&Value::Object(object), "a message whose type is no name"),
        None => return wrong(&Value::Object(object), "a message without a type"),
    };
    let (data, beside) = match object.remove("data") {
        Some(Value::Object(data)) => (data, Some(object)),
        Some(Value::Null) => (Map::new(), Some(object)),
        None => {
            object.remove("type");
            (object, None)
        }
        Some(other) => {
            object.insert("data".to_owned(), other);
            return wrong(&Value::Object(object), "a message whose data is no object");
        }
    };
    Ok(with_raw(kind, data, beside.as_ref()))
}

fn is_kind(name: &str) -> bool {
    (1..=KIND_LIMIT).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_graphic())
        && !name.starts_with(OURS)
}

/// A message with its original bytes, where they are given beside its data or in it: they hold
/// what the schema version leaves out.
fn with_raw(
    kind: String,
    mut data: Map<String, Value>,
    beside: Option<&Map<String, Value>>,
) -> Item {
    let bytes = |object: &Map<String, Value>| {
        let bytes = STANDARD.decode(object.get("raw")?.as_str()?).ok()?;
        let header = proto::header(&bytes)?;
        Some((Bytes::from(bytes), header.msg_id))
    };
    let inside = bytes(&data);
    if inside.is_some() && !kind.starts_with("tiktok.") {
        data.remove("raw");
    }
    let common = ["common", "event"]
        .iter()
        .find_map(|name| field(&data, name)?.as_object());
    let told = common.and_then(|header| integer(field(header, "msgId")?));
    // Bytes of another message would be worse than none.
    let raw = inside
        .or_else(|| bytes(beside?))
        .filter(|(_, msg_id)| told.is_none_or(|told| told == 0 || Some(told) == *msg_id))
        .map(|(bytes, _)| bytes);
    Item { kind, data, raw }
}

#[cfg(test)]
mod tests;
