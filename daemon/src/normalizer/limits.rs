//! How much of a message is read at all: its size and its parts, counted before anything is built.
//!
//! Comes in: the untouched data of a message. Goes out: nothing, or the limit that it exceeds. A
//! decoder makes hundreds of bytes of two (an empty list item), so a small message of a stranger
//! could fill the memory; here nothing is allocated. Together the limits keep one message below
//! 16 MiB and 50 ms from its text to its event's text (`tests/untrusted.rs` holds us to it).
//!
//! What is beyond them: a message of a type with an event of its own is a parse error, and its
//! dead letter keeps it whole; of any other type it goes through as `RAW`, untouched, without
//! `decoded`. The numbers are far above what TikTok sends: of 1,300 captured messages the longest
//! has 42 kB (10 kB among the types with an event), the fullest 56 parts and 164 fields.

use prost::DecodeError;
use shared::raw::Envelope;

use super::decode::{Kind, SHAPES};
use super::{Reason, Rejection};
use crate::proto::{MESSAGE_LIMIT, Value, Wire};

/// A message that is decoded has no more bytes.
pub(super) const DECODED_LIMIT: usize = 256 * 1024;
/// List items and nested messages in one message. Some are compared with each other, so that
/// twice as many may take four times as long.
pub(super) const PARTS_LIMIT: usize = 2_000;
/// Fields that we read, in one message and all that it holds.
pub(super) const FIELDS_LIMIT: usize = 20_000;
/// Deeper than any message; the same limit as the decoder's.
const MAX_DEPTH: u32 = 100;

/// What a JSON text may take in memory when read, roughly, in bytes beside its own length.
pub(super) const JSON_COST_LIMIT: usize = 3 * 1024 * 1024;
/// An object: its first node has room for eleven members.
const OBJECT_COST: usize = 720;
/// Any other value.
const VALUE_COST: usize = 64;
/// A text this short cannot exceed the cost: `{"":0}` and a comma are the dearest for their length.
const JSON_FREE: usize = JSON_COST_LIMIT / (OBJECT_COST + 2 * VALUE_COST) * 7;

/// The limit that a message exceeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Exceeded {
    /// Too long to be kept.
    #[error("has {0} bytes, more than {MESSAGE_LIMIT}")]
    Size(usize),
    /// Too long to be decoded.
    #[error("has {0} bytes, more than the {DECODED_LIMIT} that are decoded")]
    Decoded(usize),
    /// Too many list items and nested messages.
    #[error("has more than {PARTS_LIMIT} parts")]
    Parts,
    /// Too many fields.
    #[error("has more than {FIELDS_LIMIT} fields")]
    Fields,
    /// Too many objects and values.
    #[error("is JSON of too many values")]
    Values,
}

/// Why the bytes of a message are not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    /// They are too many.
    #[error(transparent)]
    Limit(#[from] Exceeded),
    /// They are no such message.
    #[error(transparent)]
    Protobuf(#[from] DecodeError),
}

/// Reads the fields of a stream entry whose `data` is within the limits.
///
/// # Errors
/// [`Reason::ParseError`] with the field that is missing, wrong or too large.
pub(super) fn envelope<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Result<Envelope, Rejection> {
    let reject = |error: String| Rejection {
        reason: Reason::ParseError,
        error,
    };
    if let Some(text) = get("data") {
        data(text).map_err(|exceeded| reject(format!("field `data` {exceeded}")))?;
    }
    Envelope::from_fields(get).map_err(|error| reject(error.to_string()))
}

/// The text of the field `data`, before it is read: base64, or a JSON object.
fn data(text: &str) -> Result<(), Exceeded> {
    if text.starts_with('{') {
        if text.len() > MESSAGE_LIMIT {
            return Err(Exceeded::Size(text.len()));
        }
        return json(text.as_bytes(), JSON_COST_LIMIT);
    }
    let bytes = text.len() / 4 * 3;
    // The last four characters may stand for one to three bytes.
    if bytes > MESSAGE_LIMIT + 2 {
        return Err(Exceeded::Size(bytes));
    }
    Ok(())
}

/// The values of a JSON text, by a look at its punctuation alone. What is no JSON may pass: the
/// parser refuses it, and has not allocated more for what came before.
pub(super) fn json(text: &[u8], limit: usize) -> Result<(), Exceeded> {
    if text.len() <= JSON_FREE {
        return Ok(());
    }
    let (mut cost, mut quoted, mut escaped) = (0_usize, false, false);
    for &byte in text {
        if quoted {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => quoted = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => quoted = true,
            b'{' => cost += OBJECT_COST,
            b'[' | b',' | b':' => cost += VALUE_COST,
            _ => {}
        }
        if cost > limit {
            return Err(Exceeded::Values);
        }
    }
    Ok(())
}

/// The parts of a protobuf message of a known shape.
pub(super) fn protobuf(payload: &[u8], shape: usize) -> Result<(), Exceeded> {
    if payload.len() > DECODED_LIMIT {
        return Err(Exceeded::Decoded(payload.len()));
    }
    // A part takes one byte at least: most messages cannot have too many.
    if payload.len() <= PARTS_LIMIT {
        return Ok(());
    }
    Count::default().message(payload, shape, MAX_DEPTH)
}

#[derive(Default)]
struct Count {
    parts: usize,
    fields: usize,
}

impl Count {
    fn message(&mut self, payload: &[u8], shape: usize, depth: u32) -> Result<(), Exceeded> {
        let (Some(depth), Some(shape)) = (depth.checked_sub(1), SHAPES.get(shape)) else {
            return Ok(());
        };
        let mut wire = Wire(payload);
        while !wire.0.is_empty() {
            let before = wire.0.len();
            let Some((number, value)) = wire.field() else {
                // The decoder skips a group, whose begin and end are each a tag alone, and reads
                // on: so do we. Anything else is an error that it will find here, too.
                if wire.0.len() == before {
                    break;
                }
                continue;
            };
            let Some(field) = (shape.fields.iter()).find(|field| u64::from(field.number) == number)
            else {
                continue;
            };
            self.fields += 1;
            match (&field.kind, value) {
                (Kind::Message(inner), Value::Bytes(bytes)) => {
                    self.parts += 1;
                    self.message(bytes, *inner, depth)?;
                }
                (Kind::Number, Value::Number(_)) if field.repeated => self.parts += 1,
                // The last byte of each packed number has its first bit clear.
                (Kind::Number, Value::Bytes(bytes)) if field.repeated => {
                    self.parts += bytes.iter().filter(|byte| **byte < 0x80).count();
                }
                _ => {}
            }
            if self.parts > PARTS_LIMIT {
                return Err(Exceeded::Parts);
            }
            if self.fields > FIELDS_LIMIT {
                return Err(Exceeded::Fields);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
