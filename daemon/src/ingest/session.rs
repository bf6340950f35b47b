//! Messages of a room become envelopes: who they are, in which order, and which came before.
//!
//! In: messages of one connection, and its own begin and end. Out: [`Envelope`]s whose `seqNo`
//! never repeats in the room, whatever restarts, and is contiguous within a session. A message
//! that TikTok sends again (it does so at each connect) is counted and dropped before it gets a
//! number; what was seen is remembered across reconnects, and by Redis across restarts.

mod json;

use std::collections::{HashSet, VecDeque};
use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use metrics::{Counter, counter};
use prost::Message as _;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use shared::identity::{MAX_SEQ_NO, first_seq_no};
use shared::raw::{Envelope, RawData, Source};
use shared::time::Timestamp;
use tokio::time::Instant;
use uuid::Uuid;

pub(super) use self::json::{JsonMessage, field, integer, json_size};
use crate::metrics::{MALFORMED, MESSAGES, REPEATS};
use crate::proto;
use crate::proto::frames::BaseMessage;
use crate::proto::webcast::ControlMessage;

/// TikTok's clock is believed this far from ours, in milliseconds.
const CLOCK_TOLERANCE: i64 = 24 * 3600 * 1000;
/// Messages remembered per room, and for how long.
const REMEMBERED: usize = 20_000;
const REMEMBERED_FOR: Duration = Duration::from_mins(30);

const CONTROL: &str = "WebcastControlMessage";
/// `action` of a control message: ended by the creator, ended by moderation. No other one ends.
const END_ACTIONS: [i32; 2] = [3, 4];

/// What the lifecycle envelopes say, as their `data`.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Lifecycle {
    pub(super) unique_id: String,
    pub(super) provider: &'static str,
    /// From 1.
    pub(super) attempt: u32,
    pub(super) reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) close_code: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) detail: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) title: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) owner_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) owner_nickname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) started_at: Option<Timestamp>,
}

/// What happened to the messages of one session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Published.
    pub(super) messages: u64,
    /// Sent again by TikTok, dropped.
    pub(super) repeats: u64,
    /// Frames and messages that could not be read.
    pub(super) malformed: u64,
}

/// One connection to a room, and what outlives it: the numbering and the memory of the room.
#[derive(Debug)]
pub(super) struct Session {
    stream_id: String,
    id: Uuid,
    next_seq: u64,
    seen: Seen,
    counts: Counts,
    ended: bool,
    /// The connection is over.
    closed: bool,
    /// There was a connection to this room before.
    again: bool,
    meters: Option<Meters>,
}

/// What happens to messages, as metrics of a provider.
#[derive(Clone)]
struct Meters {
    messages: Counter,
    repeats: Counter,
    malformed: Counter,
}

impl std::fmt::Debug for Meters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meters")
    }
}

impl Session {
    /// The first session of a room in this process. `floor` is the highest number that Redis
    /// remembers for the room.
    pub(super) fn new(stream_id: String, floor: Option<u64>, now: Timestamp) -> Self {
        Self {
            stream_id,
            id: Uuid::now_v7(),
            next_seq: first_seq_no(floor, now.as_millis()),
            seen: Seen::default(),
            counts: Counts::default(),
            ended: false,
            closed: false,
            again: false,
            meters: None,
        }
    }

    /// Counts for this provider from now on.
    pub(super) fn count_for(&mut self, provider: &'static str) {
        self.meters = Some(Meters {
            messages: counter!(MESSAGES, "provider" => provider),
            repeats: counter!(REPEATS, "provider" => provider),
            malformed: counter!(MALFORMED, "provider" => provider),
        });
    }

    /// Takes over what an earlier process has seen in the room: types and ids of messages.
    pub(super) fn remember(&mut self, seen: Vec<(String, String)>) {
        for (method, msg_id) in seen {
            self.seen.is_new(key(&method, 0, msg_id.as_bytes()));
        }
    }

    /// Makes this the next session of the same room, if the connection of the last one is over.
    /// Attempts that fail belong to the session that they are to begin.
    pub(super) fn renew(&mut self, now: Timestamp) {
        if !self.closed {
            return;
        }
        self.id = Uuid::now_v7();
        // Our own last number counts even if it has not reached Redis yet.
        self.next_seq = first_seq_no(self.next_seq.checked_sub(1), now.as_millis());
        self.counts = Counts::default();
        self.ended = false;
        self.closed = false;
        self.again = true;
    }

    /// The highest number given out, for a successor that must not repeat it.
    pub(super) fn last_seq(&self) -> Option<u64> {
        self.next_seq.checked_sub(1)
    }

    /// The connection is over.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    /// Whether there was a connection to this room before.
    pub(super) fn is_again(&self) -> bool {
        self.again
    }

    pub(super) fn id(&self) -> Uuid {
        self.id
    }

    pub(super) fn stream_id(&self) -> &str {
        &self.stream_id
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether the room has said that the broadcast is over.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Counts what could not be read.
    pub(super) fn count_malformed(&mut self) {
        self.counts.malformed += 1;
        if let Some(meters) = &self.meters {
            meters.malformed.increment(1);
        }
    }

    /// A message as an envelope; `None` for one that came before. `backlog` says that it was sent
    /// before we connected, as the message itself may say, too.
    pub(super) fn take(
        &mut self,
        message: BaseMessage,
        backlog: bool,
        now: Timestamp,
    ) -> Option<Envelope> {
        let header = proto::header(&message.payload).unwrap_or_default();
        let msg_id = Some(message.msg_id)
            .filter(|&id| id != 0)
            .or(header.msg_id)
            .map(|id| id.to_string());
        let key = match &msg_id {
            Some(id) => key(&message.method, 0, id.as_bytes()),
            None => key(&message.method, 1, &message.payload),
        };
        if !self.is_new(key) {
            return None;
        }
        let backlog = backlog || message.is_history;
        if !backlog && message.method == CONTROL && is_end(&message.payload) {
            self.ended = true;
        }
        let timestamp = header.create_time_ms.map_or(now, |time| clamp(time, now));
        let data = RawData::Protobuf(message.payload.into());
        Some(Envelope {
            msg_id,
            backlog,
            ..self.envelope(message.method, timestamp, now, data)
        })
    }

    /// Counts a message, and says whether it is to be published.
    fn is_new(&mut self, key: Key) -> bool {
        let new = self.seen.is_new(key);
        let meters = self.meters.as_ref();
        if new {
            self.counts.messages += 1;
        } else {
            self.counts.repeats += 1;
        }
        if let Some(meters) = meters {
            let meter = if new {
                &meters.messages
            } else {
                &meters.repeats
            };
            meter.increment(1);
        }
        new
    }

    /// The same for a message with a JSON body. A message that came by way of protobuf before is
    /// a repeat, and the other way round: TikTok's id is the same in both.
    ///
    /// Without an id its content tells a message apart, together with the provider's time where
    /// it has none of its own: schemas that leave out the header write the second of two equal
    /// emotes like the first.
    pub(super) fn take_json(
        &mut self,
        message: JsonMessage,
        backlog: bool,
        now: Timestamp,
    ) -> Option<Envelope> {
        let key = match &message.msg_id {
            Some(id) => key(&message.kind, 0, id.as_bytes()),
            None => content_key(&message),
        };
        if !self.is_new(key) {
            return None;
        }
        let backlog = backlog || message.is_history;
        if !backlog && message.kind == CONTROL && message.is_end() {
            self.ended = true;
        }
        let timestamp = message
            .created_ms
            .or(message.sent_ms)
            .map_or(now, |time| clamp(time, now));
        let data = RawData::Json(message.data);
        Some(Envelope {
            msg_id: message.msg_id,
            backlog,
            ..self.envelope(message.kind, timestamp, now, data)
        })
    }

    /// An event in the life of the connection, one of [`shared::raw::control`].
    pub(super) fn lifecycle(&mut self, kind: &str, data: &Lifecycle, now: Timestamp) -> Envelope {
        let object = match serde_json::to_value(data) {
            Ok(serde_json::Value::Object(object)) => object,
            // A struct of texts and numbers is always an object.
            _ => serde_json::Map::new(),
        };
        self.envelope(kind.to_owned(), now, now, RawData::Json(object))
    }

    fn envelope(
        &mut self,
        kind: String,
        timestamp: Timestamp,
        now: Timestamp,
        data: RawData,
    ) -> Envelope {
        let seq_no = self.next_seq;
        self.next_seq = (seq_no + 1).min(MAX_SEQ_NO);
        Envelope {
            stream_id: self.stream_id.clone(),
            session_id: self.id,
            source: Source::Live,
            kind,
            seq_no,
            timestamp,
            ingested_at: now,
            data,
            msg_id: None,
            backlog: false,
            replay_of: None,
        }
    }
}

/// TikTok's time, as long as it is within a day of ours.
fn clamp(time: i64, now: Timestamp) -> Timestamp {
    let now = now.as_millis();
    Timestamp::from_millis(time.clamp(now - CLOCK_TOLERANCE, now + CLOCK_TOLERANCE))
}

fn is_end(payload: &Bytes) -> bool {
    ControlMessage::decode(payload.clone())
        .is_ok_and(|control| END_ACTIONS.contains(&control.action))
}

/// What tells messages apart: TikTok's id, else the content.
type Key = [u8; 16];

fn key(method: &str, kind: u8, id_or_content: &[u8]) -> Key {
    let mut hash = begin_key(method, kind);
    hash.update(id_or_content);
    end_key(hash)
}

/// The key of a JSON message without an id.
fn content_key(message: &JsonMessage) -> Key {
    let mut hash = begin_key(&message.kind, 2);
    if message.created_ms.is_none() {
        hash.update(message.sent_ms.unwrap_or_default().to_be_bytes());
    }
    // Keys are sorted in a map, and neither a map nor a hash can fail to be written.
    let _ = serde_json::to_writer(Hashed(&mut hash), &message.data);
    end_key(hash)
}

/// Hashes what is written.
struct Hashed<'a>(&'a mut Sha256);

impl Write for Hashed<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn begin_key(method: &str, kind: u8) -> Sha256 {
    let mut hash = Sha256::new();
    hash.update(method.as_bytes());
    // No method name has such a byte, so that the two parts cannot be confused.
    hash.update([kind]);
    hash
}

fn end_key(hash: Sha256) -> Key {
    let mut key = Key::default();
    key.copy_from_slice(&hash.finalize()[..16]);
    key
}

/// The messages of a room that have come already: the latest ones, for a while.
#[derive(Debug, Default)]
struct Seen {
    keys: HashSet<Key>,
    order: VecDeque<(Instant, Key)>,
}

impl Seen {
    /// Remembers a message; `false` if it is remembered already.
    fn is_new(&mut self, key: Key) -> bool {
        let now = Instant::now();
        while let Some((since, oldest)) = self.order.front()
            && (self.order.len() >= REMEMBERED || now.duration_since(*since) > REMEMBERED_FOR)
        {
            self.keys.remove(oldest);
            self.order.pop_front();
        }
        let new = self.keys.insert(key);
        if new {
            self.order.push_back((now, key));
        }
        new
    }
}

#[cfg(test)]
mod tests;
