//! TikTok's push frames: bytes from the socket to messages, and what we send back.
//!
//! In: one binary WebSocket message. Out: the room's messages in their order, and the
//! acknowledgement that is due. Frames come from a stranger: every size is bounded before anything
//! is allocated for it, so that no frame takes more than 16 MiB or 50 ms. A frame that cannot be
//! read is [`Malformed`] as a whole; a message that cannot be read, or is longer than any, is one
//! item of the result and costs none of the others (protocol sheet §4).

use std::io::Read as _;

use bytes::Bytes;
use flate2::bufread::GzDecoder;
use prost::Message as _;

use crate::proto::frames::{BaseMessage, EnterRoom, FetchResult, Heartbeat, PushFrame};
use crate::proto::{MESSAGE_LIMIT, Wire};

/// A frame is no longer than this, in bytes: as long as the socket lets a message of several
/// WebSocket frames be. TikTok's have some ten kB.
pub(super) const SIZE_LIMIT: usize = 2 * 1024 * 1024;
/// An inflated payload is no longer than this, in bytes: a hundred times the longest captured
/// message. Inflating it, hashing it and writing it down as a dead letter stays in the bounds.
pub(super) const INFLATED_LIMIT: usize = 4 * 1024 * 1024;
/// A payload grows by no more than this when inflated; TikTok's grow by three to six.
const RATIO_LIMIT: usize = 100;
/// Up to here any ratio is fine, in bytes: little text compresses as it likes.
const RATIO_FREE: usize = 64 * 1024;
/// Messages in one frame; a busy room has some ten, the first fetch some hundred.
pub(in crate::ingest) const MESSAGES_LIMIT: usize = 5_000;
/// Other fields, among them headers and route parameters.
const FIELDS_LIMIT: usize = 1_000;

/// The name of a message's type, in bytes; what is longer is no envelope (`shared::raw`).
const METHOD_LIMIT: usize = 200;

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
    /// Longer than any frame.
    #[error("{0} bytes, more than {SIZE_LIMIT}")]
    Size(usize),
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
    if bytes.len() > SIZE_LIMIT {
        return Err(Malformed::Size(bytes.len()));
    }
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
    result.messages.iter().map(message).collect()
}

fn message(bytes: &Bytes) -> Result<BaseMessage, Damaged> {
    let damaged = |error: String| Damaged {
        bytes: bytes.clone(),
        error,
    };
    let message = BaseMessage::decode(bytes.clone()).map_err(|error| damaged(error.to_string()))?;
    // Also the type's name goes into every part of the product.
    if message.payload.len() > MESSAGE_LIMIT || message.method.len() > METHOD_LIMIT {
        return Err(damaged(format!(
            "longer than any: {} bytes, its type's name {}",
            message.payload.len(),
            message.method.len()
        )));
    }
    Ok(message)
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
    // One byte more than allowed tells "exactly at the limit" from "beyond it".
    let mut counted = GzDecoder::new(&payload[..]).take(limit as u64 + 1);
    let mut inflated = Vec::with_capacity(promised(&payload).min(limit) + 1);
    loop {
        let room = inflated.capacity() - inflated.len();
        let read = (&mut counted).take(room as u64).read_to_end(&mut inflated);
        match read.map_err(|error| Malformed::Inflate(error.to_string()))? {
            _ if inflated.len() > limit => return Err(Malformed::Bomb(limit)),
            read if read < room => return Ok(inflated.into()),
            // More than promised. Left to itself, the buffer could grow to twice the limit.
            _ => inflated.reserve_exact(inflated.len().min(limit + 1 - inflated.len())),
        }
    }
}

/// What the end of a compressed payload says about its length, true or not.
fn promised(payload: &[u8]) -> usize {
    let length = payload
        .last_chunk()
        .map_or(0, |&last| u32::from_le_bytes(last));
    usize::try_from(length).unwrap_or(usize::MAX)
}

/// Counts top-level fields without decoding them: a megabyte of two-byte fields would become
/// half a million items in memory.
fn limit_fields(
    bytes: &[u8],
    what: &'static str,
    messages_field: Option<u64>,
) -> Result<(), Malformed> {
    let (mut messages, mut others) = (0, 0);
    let mut wire = Wire(bytes);
    while !wire.0.is_empty() {
        let before = wire.0.len();
        match wire.field() {
            Some((field, _)) if Some(field) == messages_field => messages += 1,
            Some(_) => others += 1,
            // The decoder skips a group, whose begin and end are each a tag alone, and reads on:
            // so do we. Anything else is an error that it will find here, too.
            None if wire.0.len() < before => others += 1,
            None => break,
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
