//! TikTok's protobuf messages: the generated types, and the reading of a message's header.
//!
//! Comes in: bytes from the network. Goes out: frames ([`frames`], for ingest), message bodies
//! ([`webcast`], for the normalizer), or the [`Header`] alone, which [`json`] reads as well. Bad input: decoding returns an
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

pub mod json;
/// The longest message of a room that is taken, in bytes, without its frame; as JSON, the longest
/// text. The longest captured one has 42 kB.
pub const MESSAGE_LIMIT: usize = 1024 * 1024;

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

    pub(crate) fn number(&mut self) -> Option<u64> {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    /// A message whose header has the given fields; field 3 stands for its content.
    fn message(header: &[u8]) -> Vec<u8> {
        let mut bytes = vec![
            0x1a,
            2,
            b'h',
            b'i',
            0x0a,
            u8::try_from(header.len()).unwrap(),
        ];
        bytes.extend_from_slice(header);
        bytes
    }

    fn varint(field: u8, mut number: u64) -> Vec<u8> {
        let mut bytes = vec![field << 3];
        while number >= 0x80 {
            bytes.push(number.to_le_bytes()[0] | 0x80);
            number >>= 7;
        }
        bytes.push(number.to_le_bytes()[0]);
        bytes
    }

    #[test]
    fn a_header_is_found_wherever_it_stands() {
        let fields = [
            vec![0x0a, 3, b'a', b'.', b'B'],
            varint(2, 7_301_234_600_000_065_537),
            varint(3, 7_301_234_567_890_123_456),
            varint(4, 1_763_800_000_250),
            varint(6, 1),
        ];
        assert_eq!(
            header(&message(&fields.concat())),
            Some(Header {
                msg_id: Some(7_301_234_600_000_065_537),
                room_id: Some(7_301_234_567_890_123_456),
                create_time_ms: Some(1_763_800_000_250),
            })
        );
    }

    #[test]
    fn zero_is_absent_and_seconds_are_converted() {
        let fields = [varint(2, 0), varint(4, 1_696_446_719)];
        let found = header(&message(&fields.concat())).unwrap();
        assert_eq!(found.msg_id, None);
        assert_eq!(found.create_time_ms, Some(1_696_446_719_000));
        assert_eq!(header(&message(&[])), Some(Header::default()));
    }

    #[test]
    fn what_is_no_header_is_not_taken_for_one() {
        assert_eq!(header(&[]), None);
        // Field 1 is a number, as in `WebcastWeeklyRankRewardMessage`.
        assert_eq!(header(&varint(1, 5)), None);
        // Field 1 is a message whose field 1 is no method name.
        assert_eq!(header(&message(&varint(1, 5))), None);
        assert_eq!(header(&message(&[0x0a, 2, 0, 1])), None);
        // It ends in the middle.
        let whole = message(&varint(2, 7_301_234_600_000_065_537));
        for length in 0..whole.len() {
            assert_eq!(header(&whole[..length]), None);
        }
    }

    #[test]
    fn times_below_the_limit_are_seconds() {
        assert_eq!(in_millis(99_999_999_999), 99_999_999_999_000);
        assert_eq!(in_millis(100_000_000_000), 100_000_000_000);
        assert_eq!(in_millis(i64::MIN), i64::MIN);
    }

    #[test]
    fn one_bad_message_does_not_cost_the_frame() {
        let good = frames::BaseMessage {
            method: "WebcastChatMessage".into(),
            ..Default::default()
        };
        let fetch = frames::FetchResult {
            messages: vec![good.encode_to_vec().into(), vec![0x0a, 1, 0xff].into()],
            ..Default::default()
        };
        let read = frames::FetchResult::decode(fetch.encode_to_vec().as_slice()).unwrap();
        let read: Vec<_> = read
            .messages
            .into_iter()
            .map(|message| frames::BaseMessage::decode(message).ok())
            .collect();
        assert_eq!(read, [Some(good), None]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            header(&bytes);
            header(&message(&bytes[..bytes.len().min(100)]));
        }
    }
}
