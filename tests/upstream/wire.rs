//! TikTok's envelopes on the wire, both directions, as the server sees them.
//!
//! In: bytes of a client's push frame. Out: bytes of the push frames and of the fetch result that
//! the server sends. The schema is written here a second time, by hand and from the protocol's
//! description, on purpose: a stand-in that shared the daemon's schema would agree with any
//! mistake in it. What these structs say is checked against frames made by a third encoder
//! (`tests/fixtures/encoded`).
//!
//! Bad input: [`read_client_frame`] answers with a text that goes into the list of violations;
//! nothing here panics on what a client sends.

use std::io::{Read, Write};

use bytes::Bytes;
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use prost::Message;

/// One binary WebSocket message, either way.
#[derive(Clone, PartialEq, Message)]
pub struct PushFrame {
    /// Counts up per connection; only the server sets it.
    #[prost(int64, tag = "1")]
    pub seq_id: i64,
    /// What an ack refers to; 0 when none is possible.
    #[prost(int64, tag = "2")]
    pub log_id: i64,
    /// Always 1 for `msg`.
    #[prost(int64, tag = "3")]
    pub service: i64,
    /// Always 8 for `msg`.
    #[prost(int64, tag = "4")]
    pub method: i64,
    /// `compress_type` and others.
    #[prost(message, repeated, tag = "5")]
    pub headers: Vec<PushHeader>,
    /// `pb`.
    #[prost(string, tag = "6")]
    pub payload_encoding: String,
    /// `msg`, `hb`, `im_enter_room_resp`; from clients `hb`, `ack`, `im_enter_room`.
    #[prost(string, tag = "7")]
    pub payload_type: String,
    /// What the type says, perhaps compressed.
    #[prost(bytes = "bytes", tag = "8")]
    pub payload: Bytes,
}

/// One header of a push frame.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PushHeader {
    /// Name.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Value.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// Payload of a `msg` frame, and body of the signing answer.
#[derive(Clone, PartialEq, Message)]
pub struct FetchResult {
    /// The room's messages, in order.
    #[prost(message, repeated, tag = "1")]
    pub messages: Vec<RoomMessage>,
    /// Where the client stands.
    #[prost(string, tag = "2")]
    pub cursor: String,
    /// Milliseconds; only for HTTP polling.
    #[prost(int64, tag = "3")]
    pub fetch_interval: i64,
    /// The server's clock, unix ms.
    #[prost(int64, tag = "4")]
    pub now: i64,
    /// Opaque; goes into the socket's address and into acks.
    #[prost(string, tag = "5")]
    pub internal_ext: String,
    /// Unused here.
    #[prost(int32, tag = "6")]
    pub fetch_type: i32,
    /// Goes into the socket's address where the value is not empty.
    #[prost(btree_map = "string, string", tag = "7")]
    pub route_params: std::collections::BTreeMap<String, String>,
    /// Milliseconds.
    #[prost(int64, tag = "8")]
    pub heartbeat_duration: i64,
    /// Whether the client shall acknowledge.
    #[prost(bool, tag = "9")]
    pub need_ack: bool,
    /// The socket's address; only in the signing answer.
    #[prost(string, tag = "10")]
    pub push_server: String,
    /// First answer: its messages are history.
    #[prost(bool, tag = "11")]
    pub is_first: bool,
}

/// One message of the room.
#[derive(Clone, PartialEq, Message)]
pub struct RoomMessage {
    /// Chooses the schema of the payload, such as `WebcastChatMessage`.
    #[prost(string, tag = "1")]
    pub method: String,
    /// The message itself.
    #[prost(bytes = "bytes", tag = "2")]
    pub payload: Bytes,
    /// The same id as in the payload's header, where it has one.
    #[prost(int64, tag = "3")]
    pub msg_id: i64,
    /// Unused here.
    #[prost(int32, tag = "4")]
    pub msg_type: i32,
    /// Unused here.
    #[prost(int64, tag = "5")]
    pub offset: i64,
    /// Sent before this client connected.
    #[prost(bool, tag = "6")]
    pub is_history: bool,
}

/// Payload of a client's `hb`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct HeartBeat {
    /// The room.
    #[prost(int64, tag = "1")]
    pub room_id: i64,
    /// 1, 2, 3 … per connection; 0 from older clients, which send no payload.
    #[prost(int64, tag = "2")]
    pub send_packet_seq_id: i64,
}

/// Payload of a client's `im_enter_room`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct EnterRoom {
    /// The room.
    #[prost(int64, tag = "1")]
    pub room_id: i64,
    /// Empty.
    #[prost(string, tag = "2")]
    pub room_tag: String,
    /// Empty.
    #[prost(string, tag = "3")]
    pub live_region: String,
    /// 12.
    #[prost(int64, tag = "4")]
    pub live_id: i64,
    /// `audience`.
    #[prost(string, tag = "5")]
    pub identity: String,
    /// Empty.
    #[prost(string, tag = "6")]
    pub cursor: String,
    /// 0.
    #[prost(int64, tag = "7")]
    pub account_type: i64,
    /// Random, or 0.
    #[prost(int64, tag = "8")]
    pub enter_unique_id: i64,
    /// `0`.
    #[prost(string, tag = "9")]
    pub filter_welcome_msg: String,
    /// False for viewers.
    #[prost(bool, tag = "10")]
    pub is_anchor_continue_keep_msg: bool,
}

/// What a client said.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientFrame {
    /// A sign of life.
    HeartBeat(HeartBeat),
    /// Wants the room's messages.
    EnterRoom(EnterRoom),
    /// Confirms a frame.
    Ack {
        /// Which frame.
        log_id: i64,
        /// That frame's `internal_ext`, as the client read it.
        internal_ext: Bytes,
    },
}

/// Reads a client's frame; the error says what is wrong with it.
pub fn read_client_frame(bytes: &[u8]) -> Result<ClientFrame, String> {
    let frame = PushFrame::decode(bytes).map_err(|error| format!("not a push frame: {error}"))?;
    if frame.payload_encoding != "pb" {
        return Err(format!(
            "payload encoding is {:?}, not \"pb\"",
            frame.payload_encoding
        ));
    }
    match frame.payload_type.as_str() {
        "hb" => HeartBeat::decode(frame.payload)
            .map(ClientFrame::HeartBeat)
            .map_err(|error| format!("heartbeat does not decode: {error}")),
        "im_enter_room" => EnterRoom::decode(frame.payload)
            .map(ClientFrame::EnterRoom)
            .map_err(|error| format!("enter-room does not decode: {error}")),
        "ack" => Ok(ClientFrame::Ack {
            log_id: frame.log_id,
            internal_ext: frame.payload,
        }),
        other => Err(format!("unknown payload type {other:?}")),
    }
}

/// A server frame that carries a fetch result. `gzip` compresses the payload and says so in the
/// header, together with the cursor and `internal_ext`, as TikTok does.
pub fn msg_frame(seq_id: i64, log_id: i64, result: &FetchResult, gzip: bool) -> Vec<u8> {
    let plain = result.encode_to_vec();
    let (payload, headers) = if gzip {
        let header = |key: &str, value: &str| PushHeader {
            key: key.into(),
            value: value.into(),
        };
        let headers = vec![
            header("compress_type", "gzip"),
            header("im-cursor", &result.cursor),
            header("im-internal_ext", &result.internal_ext),
        ];
        (compress(&plain), headers)
    } else {
        (plain, Vec::new())
    };
    PushFrame {
        seq_id,
        log_id,
        service: 1,
        method: 8,
        headers,
        payload_encoding: "pb".into(),
        payload_type: "msg".into(),
        payload: payload.into(),
    }
    .encode_to_vec()
}

/// A good frame but for the header about its compression, which says the contrary.
pub fn lying_frame(seq_id: i64, log_id: i64, result: &FetchResult, gzip: bool) -> Vec<u8> {
    let plain = result.encode_to_vec();
    let (payload, says) = if gzip {
        (compress(&plain), "none")
    } else {
        (plain, "gzip")
    };
    PushFrame {
        seq_id,
        log_id,
        service: 1,
        method: 8,
        headers: vec![PushHeader {
            key: "compress_type".into(),
            value: says.into(),
        }],
        payload_encoding: "pb".into(),
        payload_type: "msg".into(),
        payload: payload.into(),
    }
    .encode_to_vec()
}

/// A small frame whose payload inflates to this many MiB of zeros.
pub fn gzip_bomb(mebibytes: u32) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let zeros = vec![0; 1 << 20];
    for _ in 0..mebibytes {
        in_memory(encoder.write_all(&zeros));
    }
    PushFrame {
        log_id: 1,
        headers: vec![PushHeader {
            key: "compress_type".into(),
            value: "gzip".into(),
        }],
        payload_encoding: "pb".into(),
        payload_type: "msg".into(),
        payload: in_memory(encoder.finish()).into(),
        ..PushFrame::default()
    }
    .encode_to_vec()
}

/// The answers `hb` and `im_enter_room_resp`: their payload names the type again and holds nothing
/// that a client needs.
pub fn reply_frame(payload_type: &str, log_id: i64) -> Vec<u8> {
    let inner = PushFrame {
        payload_type: payload_type.into(),
        ..PushFrame::default()
    };
    PushFrame {
        log_id,
        payload_encoding: "pb".into(),
        payload_type: payload_type.into(),
        payload: inner.encode_to_vec().into(),
        ..PushFrame::default()
    }
    .encode_to_vec()
}

/// Reads the fetch result out of a server frame, inflating at most `limit` bytes. `None` for the
/// frames that hold none. The stand-in itself never reads server frames; tests of it do.
pub fn read_server_frame(
    bytes: &[u8],
    limit: u64,
) -> Result<(PushFrame, Option<FetchResult>), String> {
    let frame = PushFrame::decode(bytes).map_err(|error| format!("not a push frame: {error}"))?;
    if frame.payload_type != "msg" {
        return Ok((frame, None));
    }
    let plain = if frame.payload.starts_with(&[0x1f, 0x8b, 0x08]) {
        let mut plain = Vec::new();
        GzDecoder::new(frame.payload.as_ref())
            .take(limit + 1)
            .read_to_end(&mut plain)
            .map_err(|error| format!("does not inflate: {error}"))?;
        if plain.len() as u64 > limit {
            return Err(format!("inflates to more than {limit} bytes"));
        }
        Bytes::from(plain)
    } else {
        frame.payload.clone()
    };
    let result =
        FetchResult::decode(plain).map_err(|error| format!("not a fetch result: {error}"))?;
    Ok((frame, Some(result)))
}

fn compress(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    in_memory(encoder.write_all(plain));
    in_memory(encoder.finish())
}

fn in_memory<T>(written: std::io::Result<T>) -> T {
    written.unwrap_or_else(|error| unreachable!("writing into memory does not fail: {error}"))
}

#[cfg(test)]
mod tests;
