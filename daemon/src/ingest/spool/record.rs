//! One record of the spool: an envelope or a dead letter as bytes that prove themselves.
//!
//! Comes in: what a room said. Goes out: a mark, a length, a checksum, then a protobuf message
//! (so that a later build can add fields). Bad input: [`next`] says how far the nearest record
//! that is whole is away; what lies before it is damaged.

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use shared::raw::{Envelope, RawData, Source};
use shared::time::Timestamp;
use uuid::Uuid;

use crate::bus::DeadLetter;

/// Each record begins so, to be found again behind damage.
const MARK: [u8; 4] = *b"ttl\x01";
/// Mark, length and checksum.
pub(super) const HEADER: usize = 12;
/// Far above any frame that ingest reads.
const LONGEST: usize = 32 * 1024 * 1024;
/// False beginnings looked at behind damage before the rest of a segment is given up: content
/// that imitates marks must not cost more than this.
const FALSE_STARTS: usize = 1_000;

/// What a record holds.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::ingest) enum Content {
    /// A message, with the room's token when it got its number.
    Envelope(u64, Envelope),
    /// What could not be read.
    Letter(DeadLetter),
}

#[derive(Clone, PartialEq, prost::Message)]
struct Stored {
    #[prost(uint64, tag = "1")]
    token: u64,
    #[prost(string, tag = "2")]
    stream_id: String,
    #[prost(bytes = "vec", tag = "3")]
    session_id: Vec<u8>,
    #[prost(bool, tag = "4")]
    replay: bool,
    #[prost(string, tag = "5")]
    kind: String,
    #[prost(uint64, tag = "6")]
    seq_no: u64,
    #[prost(sint64, tag = "7")]
    timestamp: i64,
    #[prost(sint64, tag = "8")]
    ingested_at: i64,
    #[prost(bytes = "vec", tag = "9")]
    protobuf: Vec<u8>,
    #[prost(string, optional, tag = "10")]
    json: Option<String>,
    #[prost(string, optional, tag = "11")]
    msg_id: Option<String>,
    #[prost(bool, tag = "12")]
    backlog: bool,
    #[prost(bytes = "vec", tag = "13")]
    replay_of: Vec<u8>,
    #[prost(message, optional, tag = "14")]
    letter: Option<StoredLetter>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StoredLetter {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    error: String,
    #[prost(string, tag = "3")]
    payload: String,
    #[prost(sint64, tag = "4")]
    failed_at: i64,
}

/// A record as bytes.
pub(in crate::ingest) fn encode(content: Content) -> Bytes {
    let stored = match content {
        Content::Envelope(token, envelope) => {
            let (protobuf, json) = match envelope.data {
                RawData::Protobuf(bytes) => (bytes, None),
                data @ RawData::Json(_) => (Vec::new(), Some(data.to_text())),
            };
            Stored {
                token,
                stream_id: envelope.stream_id,
                session_id: envelope.session_id.as_bytes().to_vec(),
                replay: envelope.source == Source::Replay,
                kind: envelope.kind,
                seq_no: envelope.seq_no,
                timestamp: envelope.timestamp.as_millis(),
                ingested_at: envelope.ingested_at.as_millis(),
                protobuf,
                json,
                msg_id: envelope.msg_id,
                backlog: envelope.backlog,
                replay_of: envelope
                    .replay_of
                    .map(|id| id.as_bytes().to_vec())
                    .unwrap_or_default(),
                letter: None,
            }
        }
        Content::Letter(letter) => Stored {
            letter: Some(StoredLetter {
                reason: letter.reason.to_owned(),
                error: letter.error,
                payload: letter.payload,
                failed_at: letter.failed_at.as_millis(),
            }),
            ..Stored::default()
        },
    };
    let length = stored.encoded_len();
    let mut bytes = BytesMut::with_capacity(HEADER + length);
    bytes.extend_from_slice(&MARK);
    // Frames are far below 4 GiB.
    bytes.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    stored.encode_raw(&mut bytes);
    let sum = checksum(&bytes);
    bytes[8..HEADER].copy_from_slice(&sum.to_le_bytes());
    bytes.freeze()
}

/// Over the length and the message.
fn checksum(record: &[u8]) -> u32 {
    let mut hash = crc32fast::Hasher::new();
    hash.update(&record[4..8]);
    hash.update(&record[HEADER..]);
    hash.finalize()
}

/// Reads a record that [`next`] or [`encode`] has given; `None` for one that this build cannot
/// understand though it is whole.
pub(in crate::ingest) fn decode(record: &[u8]) -> Option<Content> {
    let stored = Stored::decode(record.get(HEADER..)?).ok()?;
    if let Some(letter) = stored.letter {
        return Some(Content::Letter(DeadLetter {
            stage: "ingest",
            reason: known_reason(&letter.reason),
            error: letter.error,
            payload: letter.payload,
            failed_at: Timestamp::from_millis(letter.failed_at),
        }));
    }
    let data = match stored.json {
        Some(json) => RawData::from_text(&json).ok()?,
        None => RawData::Protobuf(stored.protobuf),
    };
    let replay_of = match stored.replay_of.as_slice() {
        [] => None,
        id => Some(Uuid::from_slice(id).ok()?),
    };
    Some(Content::Envelope(
        stored.token,
        Envelope {
            stream_id: stored.stream_id,
            session_id: Uuid::from_slice(&stored.session_id).ok()?,
            source: if stored.replay {
                Source::Replay
            } else {
                Source::Live
            },
            kind: stored.kind,
            seq_no: stored.seq_no,
            timestamp: Timestamp::from_millis(stored.timestamp),
            ingested_at: Timestamp::from_millis(stored.ingested_at),
            data,
            msg_id: stored.msg_id,
            backlog: stored.backlog,
            replay_of,
        },
    ))
}

/// The categories that ingest gives its dead letters.
fn known_reason(reason: &str) -> &'static str {
    ["FRAME_ERROR", "PARSE_ERROR", "VALIDATION_ERROR"]
        .into_iter()
        .find(|known| *known == reason)
        .unwrap_or("UNKNOWN")
}

/// Where the first whole record of `bytes` begins, and how long it is. `None`: there is none, as
/// behind a torn end.
pub(in crate::ingest) fn next(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut at = 0;
    for _ in 0..FALSE_STARTS {
        at += find_mark(bytes.get(at..)?)?;
        if let Some(length) = whole(&bytes[at..]) {
            return Some((at, length));
        }
        at += 1;
    }
    None
}

/// The length of the record at the beginning, when it is whole.
fn whole(bytes: &[u8]) -> Option<usize> {
    let length = claimed_length(bytes)?;
    let record = bytes.get(..length)?;
    let sum = u32::from_le_bytes(record[8..HEADER].try_into().ok()?);
    (sum == checksum(record)).then_some(length)
}

/// How long the record at the beginning says it is, header included.
pub(in crate::ingest) fn claimed_length(bytes: &[u8]) -> Option<usize> {
    let header = bytes.get(..HEADER).filter(|header| header[..4] == MARK)?;
    let length = u32::from_le_bytes(header[4..8].try_into().ok()?);
    let length = usize::try_from(length).ok()?;
    (length <= LONGEST).then_some(HEADER + length)
}

fn find_mark(bytes: &[u8]) -> Option<usize> {
    bytes.windows(MARK.len()).position(|bytes| bytes == MARK)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn envelope(data: RawData) -> Envelope {
        Envelope {
            stream_id: "7301234567890123456".into(),
            session_id: Uuid::from_u128(7),
            source: Source::Live,
            kind: "WebcastChatMessage".into(),
            seq_no: 28_640_000_000_123,
            timestamp: Timestamp::from_millis(-5),
            ingested_at: Timestamp::from_millis(1_763_800_000_900),
            data,
            msg_id: Some("7301234600000065537".into()),
            backlog: true,
            replay_of: None,
        }
    }

    #[test]
    fn records_come_back() {
        let json = serde_json::json!({"a": 1}).as_object().unwrap().clone();
        let mut other = envelope(RawData::Json(json));
        (other.msg_id, other.backlog) = (None, false);
        (other.source, other.replay_of) = (Source::Replay, Some(Uuid::from_u128(8)));
        let letter = DeadLetter {
            stage: "ingest",
            reason: "FRAME_ERROR",
            error: "no".into(),
            payload: "{}".into(),
            failed_at: Timestamp::from_millis(9),
        };
        for content in [
            Content::Envelope(3, envelope(RawData::Protobuf(vec![0, 255]))),
            Content::Envelope(0, other),
            Content::Letter(letter),
        ] {
            let bytes = encode(content.clone());
            assert_eq!(next(&bytes), Some((0, bytes.len())));
            assert_eq!(decode(&bytes), Some(content));
        }
    }

    proptest! {
        /// Every flipped bit and every cut is noticed, and the record behind is found.
        #[test]
        fn damage_is_noticed(at in 0_usize..200, bit in 0_u8..8, cut in any::<bool>()) {
            let first = encode(Content::Envelope(1, envelope(RawData::Protobuf(vec![9; 60]))));
            let second = encode(Content::Envelope(2, envelope(RawData::Protobuf(vec![8; 60]))));
            let at = at % first.len();
            let mut damaged = first.to_vec();
            if cut {
                damaged.truncate(at);
            } else {
                damaged[at] ^= 1 << bit;
            }
            let before = damaged.len();
            prop_assert_eq!(next(&damaged), None);
            damaged.extend_from_slice(&second);
            prop_assert_eq!(next(&damaged), Some((before, second.len())));
        }

        #[test]
        fn any_bytes_are_safe(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = next(&bytes);
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn imitated_marks_cost_little() {
        let mut bytes = Vec::new();
        while bytes.len() < 8 * 1024 * 1024 {
            bytes.extend_from_slice(&MARK);
            bytes.extend_from_slice(&1_000_000_u32.to_le_bytes());
        }
        let begun = std::time::Instant::now();
        assert_eq!(next(&bytes), None);
        assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
    }
}
