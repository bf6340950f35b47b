//! `raw.v1`: what ingest publishes for each message of a room, and its form as Redis fields.
//!
//! Comes in: one message as a provider delivered it. Goes out: string fields of a stream entry.
//! Bad input: [`Envelope::from_fields`] names the field that is missing or wrong; the caller
//! sends such an entry to the dead letters and goes on.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::identity::{EventId, MAX_SEQ_NO, is_stream_id};
use crate::time::Timestamp;

/// The value of the field `schemaVersion`.
pub const SCHEMA_VERSION: &str = "raw.v1";

/// Raw types of the messages that the product itself writes.
pub mod control {
    /// A provider delivers the room.
    pub const CONNECTED: &str = "ControlEvent.CONNECTED";
    /// The connection is over.
    pub const DISCONNECTED: &str = "ControlEvent.DISCONNECTED";
    /// An attempt failed while the room was known.
    pub const ERROR: &str = "ControlEvent.ERROR";
    /// Messages that ingest had to drop.
    pub const GAP: &str = "ControlEvent.GAP";
    /// A replay is over: `{state, sent, skipped}`. The last message of its session.
    pub const REPLAY_END: &str = "ControlEvent.REPLAY_END";
}

/// `reason` of a [`control::GAP`] whose range Redis has lost after it was published: of it, what is
/// not stored is lost.
pub const REDIS_LOST: &str = "redis_lost";

/// Where a message comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A running broadcast.
    Live,
    /// A stored session, shown again.
    Replay,
}

impl Source {
    /// `live` or `replay`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Replay => "replay",
        }
    }
}

/// The payload of a message as its provider delivered it.
#[derive(Clone, Debug, PartialEq)]
pub enum RawData {
    /// Bytes of a protobuf message (provider `direct`); base64 in Redis.
    Protobuf(Vec<u8>),
    /// A JSON object (provider `euler`, and our own lifecycle messages).
    Json(serde_json::Map<String, serde_json::Value>),
}

impl RawData {
    /// Its text in the field `data`: base64, or the JSON object.
    pub fn to_text(&self) -> String {
        match self {
            Self::Protobuf(bytes) => STANDARD.encode(bytes),
            // A map with string keys always has a JSON form.
            Self::Json(object) => serde_json::to_string(object).unwrap_or_else(|_| "{}".to_owned()),
        }
    }

    /// Reads the field `data`. A text that starts with `{` is JSON, since base64 has no brace.
    pub fn from_text(text: &str) -> Result<Self, String> {
        if text.starts_with('{') {
            serde_json::from_str(text)
                .map(Self::Json)
                .map_err(|error| error.to_string())
        } else {
            STANDARD
                .decode(text)
                .map(Self::Protobuf)
                .map_err(|error| error.to_string())
        }
    }
}

/// One message of a room, before anybody has interpreted it.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope {
    /// TikTok's room id: new for every broadcast.
    pub stream_id: String,
    /// New at each connect, reconnect and replay start (uuid v7).
    pub session_id: Uuid,
    /// Live or replay.
    pub source: Source,
    /// TikTok's method name, such as `WebcastChatMessage`, or one of [`control`].
    pub kind: String,
    /// Place in the room's order; never repeats for a room (see [`crate::identity::first_seq_no`]).
    pub seq_no: u64,
    /// When it happened: the message's own time if it has one, else `ingested_at`.
    pub timestamp: Timestamp,
    /// When ingest received it.
    pub ingested_at: Timestamp,
    /// The payload.
    pub data: RawData,
    /// TikTok's own message id.
    pub msg_id: Option<String>,
    /// Sent before we connected.
    pub backlog: bool,
    /// The original session, for a replay.
    pub replay_of: Option<Uuid>,
}

/// An entry of the raw stream that is no envelope.
#[derive(Debug, thiserror::Error)]
pub enum RawError {
    /// A field of the contract is not there.
    #[error("field `{0}` is missing")]
    Missing(&'static str),
    /// A field is there and unreadable.
    #[error("field `{field}` is wrong: {why}")]
    Invalid {
        /// Its name.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

impl Envelope {
    /// The id of the event this message becomes.
    pub fn event_id(&self) -> EventId {
        EventId::new(&self.stream_id, self.seq_no, &self.kind)
    }

    /// The fields of its stream entry, in the contract's order; absent ones are left out.
    pub fn to_fields(&self) -> Vec<(&'static str, Cow<'_, str>)> {
        let mut fields: Vec<(&'static str, Cow<'_, str>)> = vec![
            ("schemaVersion", SCHEMA_VERSION.into()),
            ("streamId", self.stream_id.as_str().into()),
            ("sessionId", self.session_id.to_string().into()),
            ("source", self.source.as_str().into()),
            ("type", self.kind.as_str().into()),
            ("seqNo", self.seq_no.to_string().into()),
            ("timestamp", self.timestamp.to_string().into()),
            ("ingestedAt", self.ingested_at.to_string().into()),
            ("data", self.data.to_text().into()),
        ];
        if let Some(msg_id) = &self.msg_id {
            fields.push(("msgId", msg_id.as_str().into()));
        }
        if self.backlog {
            fields.push(("backlog", "true".into()));
        }
        if let Some(original) = self.replay_of {
            fields.push(("replayOf", original.to_string().into()));
        }
        fields
    }

    /// Reads the fields of a stream entry; unknown ones are ignored.
    ///
    /// `get` looks a field up by its name.
    pub fn from_fields<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Result<Self, RawError> {
        let required = |field: &'static str| get(field).ok_or(RawError::Missing(field));
        let invalid = |field, why: &dyn std::fmt::Display| RawError::Invalid {
            field,
            why: why.to_string(),
        };

        let version = required("schemaVersion")?;
        if version != SCHEMA_VERSION {
            return Err(invalid(
                "schemaVersion",
                &format_args!("this build reads {SCHEMA_VERSION}, not {version}"),
            ));
        }
        let stream_id = required("streamId")?;
        if !is_stream_id(stream_id) {
            return Err(invalid("streamId", &"not a room id"));
        }
        let kind = required("type")?;
        if kind.is_empty() || kind.len() > 200 {
            return Err(invalid("type", &"has 1 to 200 bytes"));
        }
        let seq_no: u64 = required("seqNo")?
            .parse()
            .map_err(|error| invalid("seqNo", &error))?;
        if seq_no > MAX_SEQ_NO {
            return Err(invalid("seqNo", &"above 2^53 - 1"));
        }
        let uuid =
            |field, text: &str| Uuid::parse_str(text).map_err(|error| invalid(field, &error));
        let time = |field| {
            required(field)?
                .parse()
                .map_err(|error| invalid(field, &error))
        };

        Ok(Self {
            stream_id: stream_id.to_owned(),
            session_id: uuid("sessionId", required("sessionId")?)?,
            source: match required("source")? {
                "live" => Source::Live,
                "replay" => Source::Replay,
                other => {
                    return Err(invalid(
                        "source",
                        &format_args!("`{other}` is neither live nor replay"),
                    ));
                }
            },
            kind: kind.to_owned(),
            seq_no,
            timestamp: time("timestamp")?,
            ingested_at: time("ingestedAt")?,
            data: RawData::from_text(required("data")?).map_err(|why| invalid("data", &why))?,
            msg_id: get("msgId").map(str::to_owned),
            backlog: match get("backlog") {
                None | Some("false") => false,
                Some("true") => true,
                Some(other) => {
                    return Err(invalid("backlog", &format_args!("`{other}` is not true")));
                }
            },
            replay_of: get("replayOf")
                .map(|text| uuid("replayOf", text))
                .transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope() -> Envelope {
        Envelope {
            stream_id: "7301234567890123456".into(),
            session_id: Uuid::from_u128(7),
            source: Source::Replay,
            kind: "WebcastChatMessage".into(),
            seq_no: 28_640_000_000_123,
            timestamp: Timestamp::from_millis(1_763_800_000_250),
            ingested_at: Timestamp::from_millis(1_763_800_000_900),
            data: RawData::Protobuf(vec![0, 255, 10, 3]),
            msg_id: Some("7301234600000065537".into()),
            backlog: true,
            replay_of: Some(Uuid::from_u128(8)),
        }
    }

    fn read(fields: &[(&'static str, Cow<'_, str>)]) -> Result<Envelope, RawError> {
        Envelope::from_fields(|name| {
            fields
                .iter()
                .find(|(field, _)| *field == name)
                .map(|(_, value)| value.as_ref())
        })
    }

    #[test]
    fn fields_come_back_as_the_same_envelope() {
        let mut envelope = envelope();
        assert_eq!(read(&envelope.to_fields()).unwrap(), envelope);

        envelope.source = Source::Live;
        envelope.msg_id = None;
        envelope.backlog = false;
        envelope.replay_of = None;
        envelope.data = RawData::Json(
            serde_json::json!({"reason": "start"})
                .as_object()
                .unwrap()
                .clone(),
        );
        let fields = envelope.to_fields();
        assert_eq!(fields.len(), 9, "absent fields are left out: {fields:?}");
        assert_eq!(read(&fields).unwrap(), envelope);
    }

    #[test]
    fn every_missing_or_wrong_field_is_named() {
        let original = envelope();
        let fields = original.to_fields();
        for (index, (name, _)) in fields.iter().enumerate().take(9) {
            let mut without = fields.clone();
            without.remove(index);
            assert_eq!(
                read(&without).unwrap_err().to_string(),
                format!("field `{name}` is missing")
            );
        }
        for (name, bad) in [
            ("schemaVersion", "raw.v2"),
            ("streamId", "room"),
            ("sessionId", "7"),
            ("source", "tape"),
            ("type", ""),
            ("seqNo", "-1"),
            ("seqNo", "9007199254740992"),
            ("timestamp", "now"),
            ("ingestedAt", "1763800000"),
            ("data", "not base64!"),
            ("data", "{\"half\":"),
            ("backlog", "yes"),
            ("replayOf", "x"),
        ] {
            let mut wrong = fields.clone();
            wrong
                .iter_mut()
                .find(|(field, _)| *field == name)
                .unwrap()
                .1 = bad.into();
            let error = read(&wrong).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("field `{name}` is wrong")),
                "{name}={bad}: {error}"
            );
        }
    }
}
