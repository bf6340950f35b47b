//! TikTok's push frames: bytes from the socket to messages, and what we send back.
//!
//! In: one binary WebSocket message. Out: the room's messages in their order, and the
//! acknowledgement that is due. Frames come from a stranger: every size is bounded before anything
//! is allocated for it. A frame that cannot be read is [`Malformed`] as a whole; a message that
//! cannot be read is one item of the result and costs none of the others (protocol sheet §4).

use std::io::Read as _;

use bytes::Bytes;
use flate2::bufread::GzDecoder;
use prost::Message as _;

use crate::proto::frames::{BaseMessage, EnterRoom, FetchResult, Heartbeat, PushFrame};

/// An inflated payload is no longer than this, in bytes.
pub(super) const INFLATED_LIMIT: usize = 8 * 1024 * 1024;
/// A payload grows by no more than this when inflated.
const RATIO_LIMIT: usize = 100;
/// Up to here any ratio is fine, in bytes: little text compresses as it likes.
const RATIO_FREE: usize = 64 * 1024;
/// Messages in one frame.
pub(in crate::ingest) const MESSAGES_LIMIT: usize = 5_000;
/// Other fields, among them headers and route parameters.
const FIELDS_LIMIT: usize = 1_000;

const ENCODING: &str = "pb";
/// The field of a fetch result that holds the messages.
const MESSAGES_FIELD: u64 = 1;

/// Why a frame cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(in crate::ingest) enum Malformed {
    /// The bytes are no protobuf of this form.
    #[error("{what} is no protobuf: {why}")]
    Protobuf {
        /// Which part.
        what: &'static str,
        /// What the decoder says.
        why: String,
    },
    /// Compressed, and not well.
    #[error("cannot inflate: {0}")]
    Inflate(String),
    /// It would grow beyond the limit.
    #[error("inflates to more than {0} bytes")]
    Bomb(usize),
    /// More messages than any frame has.
    #[error("more than {MESSAGES_LIMIT} messages in one frame")]
    Messages,
    /// More headers or parameters than any frame has.
    #[error("{0} has more than {FIELDS_LIMIT} fields")]
    Fields(&'static str),
    /// TikTok never sends text.
    #[error("a text message")]
    Text,
    /// Not protobuf.
    #[error("payload encoding {0:?}")]
    Encoding(String),
}

/// A message inside a frame that cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::ingest) struct Damaged {
    /// Its bytes.
    pub(in crate::ingest) bytes: Bytes,
    /// What is wrong with them.
    pub(in crate::ingest) error: String,
}

/// What a frame says.
#[derive(Debug, Default, PartialEq)]
pub(in crate::ingest) struct Frame {
    /// The frame to send back at once, if the server wants one.
    pub(in crate::ingest) ack: Option<Bytes>,
    /// In their order.
    pub(in crate::ingest) messages: Vec<Result<BaseMessage, Damaged>>,
}

/// Reads one binary WebSocket message. Frames that carry no room messages, such as the answer to
/// a heartbeat, are empty.
pub(in crate::ingest) fn read(bytes: &Bytes) -> Result<Frame, Malformed> {
    limit_fields(bytes, "the push frame", None)?;
    let frame = PushFrame::decode(bytes.clone()).map_err(protobuf("the push frame"))?;
    if frame.payload_type != "msg" {
        return Ok(Frame::default());
    }
    if frame.payload_encoding != ENCODING {
        return Err(Malformed::Encoding(
            frame.payload_encoding.chars().take(40).collect(),
        ));
    }
    let result = read_result(&inflate(frame.payload)?)?;
    Ok(Frame {
        ack: ack(frame.log_id, &result),
        messages: messages(&result),
    })
}

/// Reads a fetch result, from a frame or from the sign server.
pub(super) fn read_result(bytes: &Bytes) -> Result<FetchResult, Malformed> {
    limit_fields(bytes, "the fetch result", Some(MESSAGES_FIELD))?;
    FetchResult::decode(bytes.clone()).map_err(protobuf("the fetch result"))
}

/// The messages of a fetch result, each on its own.
pub(super) fn messages(result: &FetchResult) -> Vec<Result<BaseMessage, Damaged>> {
    let read = |bytes: &Bytes| {
        BaseMessage::decode(bytes.clone()).map_err(|error| Damaged {
            bytes: bytes.clone(),
            error: error.to_string(),
        })
    };
    result.messages.iter().map(read).collect()
}

/// The payload, inflated if its first bytes say that it is compressed. The header that should
/// say so is not looked at: it may lie both ways.
pub(in crate::ingest) fn inflate(payload: Bytes) -> Result<Bytes, Malformed> {
    if !payload.starts_with(&[0x1f, 0x8b, 0x08]) {
        return Ok(payload);
    }
    let limit = payload
        .len()
        .saturating_mul(RATIO_LIMIT)
        .clamp(RATIO_FREE, INFLATED_LIMIT);
    let mut inflated = Vec::new();
    // One byte more than allowed tells "exactly at the limit" from "beyond it".
    let mut counted = GzDecoder::new(&payload[..]).take(limit as u64 + 1);
    counted
        .read_to_end(&mut inflated)
        .map_err(|error| Malformed::Inflate(error.to_string()))?;
    if inflated.len() > limit {
        Err(Malformed::Bomb(limit))
    } else {
        Ok(inflated.into())
    }
}

/// Counts top-level fields without decoding them: a megabyte of two-byte fields would become
/// half a million items in memory.
fn limit_fields(
    bytes: &[u8],
    what: &'static str,
    messages_field: Option<u64>,
) -> Result<(), Malformed> {
    let (mut messages, mut others) = (0, 0);
    let mut rest = bytes;
    while !rest.is_empty() {
        // What this walk cannot read, the decoder cannot either, and says why.
        let Some((field, after)) = skip_field(rest) else {
            break;
        };
        rest = after;
        if Some(field) == messages_field {
            messages += 1;
        } else {
            others += 1;
        }
        if messages > MESSAGES_LIMIT {
            return Err(Malformed::Messages);
        }
        if others > FIELDS_LIMIT {
            return Err(Malformed::Fields(what));
        }
    }
    Ok(())
}

/// The number of the first field, and what follows it.
fn skip_field(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (tag, rest) = varint(bytes)?;
    let rest = match tag & 7 {
        0 => varint(rest)?.1,
        1 => rest.get(8..)?,
        2 => {
            let (length, rest) = varint(rest)?;
            rest.get(usize::try_from(length).ok()?..)?
        }
        5 => rest.get(4..)?,
        _ => return None,
    };
    Some((tag >> 3, rest))
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0;
    for (index, &byte) in bytes.iter().enumerate().take(10) {
        number |= u64::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            return Some((number, &bytes[index + 1..]));
        }
    }
    None
}

fn protobuf(what: &'static str) -> impl Fn(prost::DecodeError) -> Malformed {
    move |error| Malformed::Protobuf {
        what,
        why: error.to_string(),
    }
}

/// Confirms receipt: with the frame's log id and the fetch result's `internalExt`. Without
/// either there is nothing to confirm.
fn ack(log_id: i64, result: &FetchResult) -> Option<Bytes> {
    if !result.need_ack || log_id == 0 || result.internal_ext.is_empty() {
        return None;
    }
    let payload = Bytes::copy_from_slice(result.internal_ext.as_bytes());
    Some(client_frame(log_id, "ack", payload))
}

/// The frame that enters a room: the first that a client sends.
pub(super) fn enter_room(room_id: i64) -> Bytes {
    let enter = EnterRoom {
        room_id,
        live_id: 12,
        identity: "audience".to_owned(),
        filter_welcome_msg: "0".to_owned(),
        ..EnterRoom::default()
    };
    client_frame(0, "im_enter_room", enter.encode_to_vec().into())
}

/// The frame that keeps a connection; `number` is 1, 2, 3 … per connection.
pub(super) fn heartbeat(room_id: i64, number: i64) -> Bytes {
    let beat = Heartbeat {
        room_id,
        send_packet_seq_id: number,
    };
    client_frame(0, "hb", beat.encode_to_vec().into())
}

fn client_frame(log_id: i64, payload_type: &str, payload: Bytes) -> Bytes {
    let frame = PushFrame {
        log_id,
        payload_encoding: ENCODING.to_owned(),
        payload_type: payload_type.to_owned(),
        payload,
        ..PushFrame::default()
    };
    frame.encode_to_vec().into()
}

#[cfg(test)]
mod tests;
