//! What the edge answers: the REST documents, the messages of the live feed, and the cursors.
//! `docs/contracts/api.v1.schema.json` is generated from these types.
//!
//! Comes in: a cursor that a client hands back. Goes out: JSON in camel case, absent fields left
//! out, ids as strings. Bad input: a text that is no cursor of ours is an [`InvalidCursor`], which
//! the edge answers with a problem document that names the parameter.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;
use uuid::Uuid;

use crate::event::UnifiedEvent;
use crate::identity::{MAX_SEQ_NO, is_stream_id};
use crate::raw::Source;
use crate::time::Timestamp;

/// `GET /health`: 200 when everything is up, else 503 with the same document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// `ok` when every part below is up.
    pub status: HealthStatus,
    /// The version of the edge.
    pub version: String,
    /// When it was looked at.
    pub at: Timestamp,
    /// Postgres, asked just now.
    pub database: DatabaseHealth,
    /// The relays that bring live events from Redis, one per shard.
    pub relays: Vec<RelayHealth>,
}

/// Whether all is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// Every part is up.
    Ok,
    /// At least one is not; what does not need it goes on working.
    Degraded,
}

/// Whether Postgres answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseHealth {
    /// It answered a query.
    pub up: bool,
    /// A category when it did not: `unreachable`, `refused`, `not_migrated`, `failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How one relay is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RelayHealth {
    /// Which shard it reads, from 0.
    pub shard: u32,
    /// What it is doing.
    pub state: RelayState,
    /// Since when it has been doing that.
    pub since: Timestamp,
    /// Entries handed on since it woke up.
    pub delivered: u64,
    /// Connections made since it woke up.
    pub connections: u64,
    /// When Redis last answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_answer_at: Option<Timestamp>,
    /// When the last entry came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_entry_at: Option<Timestamp>,
    /// Why it is not reading, free of secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What a relay is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RelayState {
    /// On its way to Redis for the first time.
    Starting,
    /// Reads; this is the only good state.
    Reading,
    /// Redis is away or refused; it tries again.
    Retrying,
    /// It can't work as it is configured.
    Misconfigured,
}

/// One broadcast of a creator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StreamSummary {
    /// TikTok's room id: new for every broadcast.
    #[schemars(regex(pattern = "^[0-9]{1,20}$"))]
    pub stream_id: String,
    /// The creator's @name, without the @.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The creator's shown name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// The title of the broadcast.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// How it stands.
    pub status: StreamStatus,
    /// When it began, as TikTok says; when TikTok did not say, our first event of it.
    pub started_at: Timestamp,
    /// When we learned that it is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// How it ended: `creator`, `moderation`, `offline` (found to be over) or `superseded` (the
    /// creator's next broadcast began).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_reason: Option<String>,
    /// When we received its newest stored event.
    pub last_event_at: Timestamp,
    /// Events stored.
    pub event_count: u64,
}

/// How a broadcast stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StreamStatus {
    /// We are connected to it.
    Live,
    /// It is not known to be over, and we are not connected.
    Disconnected,
    /// It is over.
    Ended,
}

impl StreamStatus {
    /// Every status, in the order of the contract.
    pub const ALL: [Self; 3] = [Self::Live, Self::Disconnected, Self::Ended];

    /// Its name in JSON and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Disconnected => "disconnected",
            Self::Ended => "ended",
        }
    }

    /// The status with this exact name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }
}

/// One connection to a room, or one replay of such.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    /// Its id (uuid v7).
    pub session_id: Uuid,
    /// The room.
    #[schemars(regex(pattern = "^[0-9]{1,20}$"))]
    pub stream_id: String,
    /// The creator's @name, without the @.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Live, or a stored session shown again.
    pub source: Source,
    /// The original session, for a replay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay_of: Option<Uuid>,
    /// Who delivers: `direct` or `euler`; left out for a replay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// When we received its first event; for a replay, when that was shown.
    pub started_at: Timestamp,
    /// When we received its newest event.
    pub last_event_at: Timestamp,
    /// When it was over; left out while it lasts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// Why it was over, such as `stream_end`, `closed`, `silent`, `lost`; of a replay `done`, `cancelled`, `failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_reason: Option<String>,
    /// The WebSocket close code, when there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub close_code: Option<i32>,
    /// Its first `seqNo`, once an event is stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_seq_no: Option<u64>,
    /// Its last `seqNo`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seq_no: Option<u64>,
    /// Events stored under it; a replay stores none.
    pub event_count: u64,
}

/// `GET /streams`: newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StreamPage {
    /// The streams.
    pub items: Vec<StreamSummary>,
    /// `after` of the next page; left out on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<ListCursor>,
}

/// `GET /sessions`: newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SessionPage {
    /// The sessions.
    pub items: Vec<Session>,
    /// `after` of the next page; left out on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<ListCursor>,
}

/// `GET /sessions/{id}/events`: in the order of the room.
///
/// `E` is the form of an event: the edge passes the stored JSON on without reading it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "EventPage")]
pub struct EventPage<E = UnifiedEvent> {
    /// The events.
    pub items: Vec<E>,
    /// `after` of the next page; left out when there is no event yet after these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Cursor>,
}

/// An answer that is an error: RFC 9457, `application/problem+json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// Stable name of the kind of problem, such as `urn:ttlc:problem:not-found`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind in words; the same for each problem of the kind.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong this time.
    pub detail: String,
    /// The parameter that is wrong, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}

/// `data` of the live feed's `event: heartbeat`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Heartbeat {
    /// The server's time.
    pub at: Timestamp,
}

/// `data` of the live feed's `event: gap`: what could not be delivered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Gap {
    /// `seqNo` of the last event before the gap; 0 when there was none.
    pub from: u64,
    /// `seqNo` of the first event after it; 0 when that is not known yet.
    pub to: u64,
    /// Why.
    pub reason: GapReason,
}

/// Why events are missing in a live feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GapReason {
    /// They were not in the database in time; `GET /sessions/{id}/events` has them later.
    NotStored,
    /// The database did not answer.
    DatabaseDown,
    /// The cursor belongs to a former broadcast of the creator (`@name` only).
    NewBroadcast,
}

/// A place in a room's order: the SSE `id:`, `Last-Event-ID`, `?after=` and `next`.
///
/// Opaque to clients. Inside it is `1.{streamId}.{seqNo}` (or `….{nth}`) in unpadded base64url.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// The room.
    pub stream_id: String,
    /// The last `seqNo` that was delivered.
    pub seq_no: u64,
    /// How many more events were delivered at that place: an inferred end of a gift streak has
    /// the `seqNo` of the streak's last message. 0 nearly always.
    pub nth: u32,
}

/// A place in a list that is ordered by time, newest first.
///
/// Opaque to clients. Inside it is `1{list}.{micros}.{id}` in unpadded base64url.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ListCursor {
    /// Which list.
    pub list: List,
    /// Microseconds since the Unix epoch, as exact as the database orders.
    pub micros: i64,
    /// The id of the last item, which decides between items of one microsecond.
    pub id: String,
}

/// The lists that have a [`ListCursor`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum List {
    /// `GET /streams`.
    Streams,
    /// `GET /sessions`.
    Sessions,
}

/// A text that is no cursor, or the cursor of something else.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor of this API")]
pub struct InvalidCursor;

/// Longer than any cursor: nothing above it is decoded.
const MAX_CURSOR_LENGTH: usize = 128;

impl Cursor {
    /// The place of the first event with this number.
    pub fn new(stream_id: &str, seq_no: u64) -> Self {
        Self {
            stream_id: stream_id.to_owned(),
            seq_no,
            nth: 0,
        }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            stream_id,
            seq_no,
            nth,
        } = self;
        let text = match nth {
            0 => format!("1.{stream_id}.{seq_no}"),
            nth => format!("1.{stream_id}.{seq_no}.{nth}"),
        };
        f.write_str(&URL_SAFE_NO_PAD.encode(text))
    }
}

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let inside = open(text)?;
        let mut parts = inside.split('.');
        let (Some("1"), Some(stream_id), Some(seq_no)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(InvalidCursor);
        };
        let nth = parts.next();
        if parts.next().is_some() || !is_stream_id(stream_id) {
            return Err(InvalidCursor);
        }
        let cursor = Self {
            stream_id: stream_id.to_owned(),
            seq_no: seq_no.parse().map_err(|_| InvalidCursor)?,
            nth: nth.map_or(Ok(0), str::parse).map_err(|_| InvalidCursor)?,
        };
        // One place has one text: whatever we did not write ourselves is refused.
        if cursor.seq_no > MAX_SEQ_NO || cursor.to_string() != text {
            return Err(InvalidCursor);
        }
        Ok(cursor)
    }
}

impl List {
    fn letter(self) -> char {
        match self {
            Self::Streams => 's',
            Self::Sessions => 'c',
        }
    }
}

impl ListCursor {
    /// Reads a cursor of this list; a cursor of another list is refused.
    pub fn parse(text: &str, list: List) -> Result<Self, InvalidCursor> {
        let cursor: Self = text.parse()?;
        if cursor.list == list {
            Ok(cursor)
        } else {
            Err(InvalidCursor)
        }
    }
}

impl fmt::Display for ListCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("1{}.{}.{}", self.list.letter(), self.micros, self.id);
        f.write_str(&URL_SAFE_NO_PAD.encode(text))
    }
}

impl FromStr for ListCursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let inside = open(text)?;
        let mut parts = inside.splitn(3, '.');
        let (Some(head), Some(micros), Some(id)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(InvalidCursor);
        };
        let list = match head {
            "1s" if is_stream_id(id) => List::Streams,
            "1c" if Uuid::parse_str(id).is_ok() => List::Sessions,
            _ => return Err(InvalidCursor),
        };
        let cursor = Self {
            list,
            micros: micros.parse().map_err(|_| InvalidCursor)?,
            id: id.to_owned(),
        };
        if cursor.to_string() != text {
            return Err(InvalidCursor);
        }
        Ok(cursor)
    }
}

/// The text inside a cursor.
fn open(text: &str) -> Result<String, InvalidCursor> {
    if text.len() > MAX_CURSOR_LENGTH {
        return Err(InvalidCursor);
    }
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidCursor)?;
    String::from_utf8(bytes).map_err(|_| InvalidCursor)
}

impl Serialize for Cursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cursor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl Serialize for ListCursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ListCursor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Cursor {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Cursor".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        cursor_schema("A place in a room's order; opaque")
    }
}

impl JsonSchema for ListCursor {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ListCursor".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        cursor_schema("A place in a list; opaque")
    }
}

fn cursor_schema(description: &str) -> Schema {
    json_schema!({
        "type": "string",
        "description": description,
        "pattern": "^[A-Za-z0-9_-]+$",
        "maxLength": MAX_CURSOR_LENGTH,
    })
}

/// Every document of the API, so that one schema holds them all: one property for each.
#[derive(JsonSchema)]
#[schemars(rename = "Api", rename_all = "camelCase")]
#[expect(dead_code, reason = "never made: only its schema is used")]
struct Documents {
    health: Health,
    stream: StreamSummary,
    streams: StreamPage,
    session: Session,
    sessions: SessionPage,
    events: EventPage,
    problem: Problem,
    heartbeat: Heartbeat,
    gap: Gap,
}

/// The JSON Schema of all documents, as committed under `docs/contracts/`.
pub fn json_schema() -> Value {
    crate::schema::of::<Documents>("api.v1")
}

#[cfg(test)]
mod tests;
