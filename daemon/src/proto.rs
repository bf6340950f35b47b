//! TikTok's protobuf messages: the generated types, and the reading of a message's header.
//!
//! Comes in: bytes from the network. Goes out: frames ([`frames`], for ingest), message bodies
//! ([`webcast`], for the normalizer), or the [`Header`] alone. Bad input: decoding returns an
//! error, [`header`] returns `None`; nothing here panics or allocates more than it was given.

/// The WebSocket's envelope, from `proto/frames.proto`.
#[allow(
    missing_docs,
    clippy::pedantic,
    reason = "generated; documented in the .proto file"
)]
pub mod frames {
    include!(concat!(env!("OUT_DIR"), "/webcast.frames.rs"));
}

/// The messages' bodies, from `proto/webcast.proto`.
#[allow(
    missing_docs,
    clippy::pedantic,
    reason = "generated; documented in the .proto file"
)]
pub mod webcast {
    include!(concat!(env!("OUT_DIR"), "/webcast.rs"));
}

/// What nearly every message says about itself, in its field 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// TikTok's id of the message: the key for repeats.
    pub msg_id: Option<i64>,
    /// The room it belongs to.
    pub room_id: Option<i64>,
    /// When it was made, in Unix milliseconds.
    pub create_time_ms: Option<i64>,
}

/// Reads the header of any message, also of types that nobody knows.
///
/// Works on the wire format alone and looks only at field 1. `None` when field 1 is no header:
/// some types have a number there, and a damaged message has anything. A value of 0 counts as
/// absent; a time below 10^11 is in seconds and is converted.
pub fn header(payload: &[u8]) -> Option<Header> {
    let mut reader = Wire(payload);
    let body = loop {
        match reader.field()? {
            (1, Value::Bytes(body)) => break body,
            (1, Value::Number(_) | Value::Fixed) => return None,
            _ => {}
        }
    };

    let mut found = Header::default();
    let mut reader = Wire(body);
    while !reader.0.is_empty() {
        match reader.field()? {
            // The method name: a sign that this is a header at all.
            (1, Value::Bytes(name)) if name.iter().all(u8::is_ascii_graphic) => {}
            (1, _) => return None,
            (2, Value::Number(id)) => found.msg_id = non_zero(id),
            (3, Value::Number(id)) => found.room_id = non_zero(id),
            (4, Value::Number(time)) => found.create_time_ms = non_zero(time).map(in_millis),
            _ => {}
        }
    }
    Some(found)
}

/// A time of TikTok's in Unix milliseconds, whether it was in milliseconds or in seconds.
pub fn in_millis(time: i64) -> i64 {
    const SMALLEST_IN_MILLIS: u64 = 100_000_000_000; // March 1973; as seconds, the year 5138
    if time.unsigned_abs() < SMALLEST_IN_MILLIS {
        time.saturating_mul(1_000)
    } else {
        time
    }
}

fn non_zero(number: u64) -> Option<i64> {
    (number != 0).then_some(number.cast_signed())
}

/// A value as the wire tells it, without a schema.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value<'a> {
    /// A varint.
    Number(u64),
    /// Text, bytes, a message or packed numbers.
    Bytes(&'a [u8]),
    /// A number of 4 or 8 bytes, which none of our fields is.
    Fixed,
}

/// What is left of a message.
pub(crate) struct Wire<'a>(pub(crate) &'a [u8]);

impl<'a> Wire<'a> {
    /// The next field; `None` at the end and where the bytes are no protobuf.
    pub(crate) fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let tag = self.number()?;
        let value = match tag & 7 {
            0 => Value::Number(self.number()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let length = usize::try_from(self.number()?).ok()?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            _ => return None, // groups, which proto3 does not have
        };
        Some((tag >> 3, value))
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for (index, &byte) in self.0.iter().enumerate().take(10) {
            number |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                self.0 = &self.0[index + 1..];
                return Some(number);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
}
