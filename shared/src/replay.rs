//! How far a replay is: what the daemon writes beside the streams and the edge reads.
//!
//! Comes in: the fields of the hash [`key`], all texts. Goes out: a [`Progress`]. Written by the
//! daemon that shows the replay, about twice a second; kept for [`KEPT_SECONDS`] after its end.
//! [`UNFINISHED`] names those that have not ended. A hash that cannot be read says which field is
//! wrong; unknown fields are ignored.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::Uuid;

use crate::time::Timestamp;

/// The sorted set of the replays that have not ended, by when they were asked for (Unix ms).
pub const UNFINISHED: &str = "ttlc:replays";
/// How long the progress is kept after the end, in seconds: 7 days.
pub const KEPT_SECONDS: u64 = 7 * 24 * 3600;

/// The hash that holds the progress of a replay.
pub fn key(replay_id: Uuid) -> String {
    format!("ttlc:replay:{replay_id}")
}

/// How fast a replay goes, by the times at which the original was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speed {
    /// So many thousandths of life: 100 to 100,000.
    Thousandths(u32),
    /// As fast as the pipeline takes it.
    Max,
}

/// A text or number that is no [`Speed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`speed` is a number from 0.1 to 100, or `max`")]
pub struct BadSpeed;

impl Speed {
    /// As it was.
    pub const ORIGINAL: Self = Self::Thousandths(1_000);

    /// So many times as fast as life, 0.1 to 100; more than three decimals are rounded.
    pub fn times(factor: f64) -> Result<Self, BadSpeed> {
        if !(0.1..=100.0).contains(&factor) {
            return Err(BadSpeed);
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 100 and 100,000"
        )]
        Ok(Self::Thousandths((factor * 1_000.0).round() as u32))
    }

    /// How many times as fast as life; `None` without a limit.
    pub fn factor(self) -> Option<f64> {
        match self {
            Self::Thousandths(thousandths) => Some(f64::from(thousandths) / 1_000.0),
            Self::Max => None,
        }
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.factor() {
            Some(factor) => factor.fmt(f),
            None => f.write_str("max"),
        }
    }
}

impl FromStr for Speed {
    type Err = BadSpeed;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "max" => Ok(Self::Max),
            number => Self::times(number.parse().map_err(|_| BadSpeed)?),
        }
    }
}

impl Serialize for Speed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Self::Thousandths(whole) if whole.is_multiple_of(1_000) => {
                serializer.serialize_u32(whole / 1_000)
            }
            Self::Thousandths(part) => serializer.serialize_f64(f64::from(part) / 1_000.0),
            Self::Max => serializer.serialize_str("max"),
        }
    }
}

impl<'de> Deserialize<'de> for Speed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(f64),
            Text(String),
        }
        match Written::deserialize(deserializer).map_err(|_| de::Error::custom(BadSpeed))? {
            Written::Number(factor) => Self::times(factor),
            Written::Text(text) => text.parse(),
        }
        .map_err(de::Error::custom)
    }
}

/// Where a replay stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nobody shows it at the moment: its turn has not come, or its daemon has stopped.
    Waiting,
    /// It is being shown.
    Running,
    /// All of it was sent.
    Done,
    /// Somebody has ended it.
    Cancelled,
    /// It cannot be shown; [`Progress::error`] says why.
    Failed,
}

impl State {
    /// As in the hash.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }

    /// Whether nothing comes after it.
    pub fn is_end(self) -> bool {
        matches!(self, Self::Done | Self::Cancelled | Self::Failed)
    }

    fn from_name(name: &str) -> Option<Self> {
        [
            Self::Waiting,
            Self::Running,
            Self::Done,
            Self::Cancelled,
            Self::Failed,
        ]
        .into_iter()
        .find(|state| state.as_str() == name)
    }
}

/// Why a replay cannot be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// No such session is stored.
    UnknownSession,
    /// The session is known and none of its events is stored any more.
    NoEvents,
    /// The replay's id is the id of a session already.
    IdTaken,
    /// No ingest process has a `DATABASE_URL`.
    NoDatabase,
    /// Too many replays wait.
    Busy,
    /// The daemon failed on it: a defect.
    Defect,
}

impl Failure {
    /// As in the hash.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownSession => "unknown_session",
            Self::NoEvents => "no_events",
            Self::IdTaken => "id_taken",
            Self::NoDatabase => "no_database",
            Self::Busy => "busy",
            Self::Defect => "defect",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [
            Self::UnknownSession,
            Self::NoEvents,
            Self::IdTaken,
            Self::NoDatabase,
            Self::Busy,
            Self::Defect,
        ]
        .into_iter()
        .find(|failure| failure.as_str() == name)
    }
}

/// How far a replay is. In the hash each field stands under its name in camel case; absent ones are
/// left out. The hash has fields of the daemon's own beside these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// The showing: the `sessionId` of its events (uuid v7).
    pub replay_id: Uuid,
    /// The original session. Where a replay was to be shown again, that one's original.
    pub session_id: Uuid,
    /// The session that was asked for, where that was a replay itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_for: Option<Uuid>,
    /// The room, as soon as it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_id: Option<String>,
    /// Where it stands.
    pub state: State,
    /// How fast it goes.
    pub speed: Speed,
    /// How many events of the session were stored when the replay began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// How many were sent.
    pub sent: u64,
    /// How many were not: what the normalizer makes by itself (ends of gift streaks that never came),
    /// and what has no raw data any more.
    pub skipped: u64,
    /// The number in the room of the last one that was sent or skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq_no: Option<u64>,
    /// The last number that will be sent: the last one stored when the replay began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_seq_no: Option<u64>,
    /// When it was asked for.
    pub requested_at: Timestamp,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When this was written.
    pub updated_at: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// The same in words, free of secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The daemon that shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

/// A field of the hash that is missing or wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("field `{0}` of the replay is missing or wrong")]
pub struct BadProgress(pub &'static str);

impl Progress {
    /// One that waits for its turn.
    pub fn new(replay_id: Uuid, session_id: Uuid, speed: Speed, now: Timestamp) -> Self {
        Self {
            replay_id,
            session_id,
            asked_for: None,
            stream_id: None,
            state: State::Waiting,
            speed,
            total: None,
            sent: 0,
            skipped: 0,
            seq_no: None,
            until_seq_no: None,
            requested_at: now,
            started_at: None,
            updated_at: now,
            finished_at: None,
            error: None,
            detail: None,
            owner: None,
        }
    }

    /// The fields of its hash; absent ones are left out.
    pub fn to_fields(&self) -> Vec<(&'static str, String)> {
        let mut fields = vec![
            ("replayId", self.replay_id.to_string()),
            ("sessionId", self.session_id.to_string()),
            ("state", self.state.as_str().to_owned()),
            ("speed", self.speed.to_string()),
            ("sent", self.sent.to_string()),
            ("skipped", self.skipped.to_string()),
            ("requestedAt", self.requested_at.to_string()),
            ("updatedAt", self.updated_at.to_string()),
        ];
        let text = |value: Option<String>| value;
        let number = |value: Option<u64>| value.map(|value| value.to_string());
        let time = |value: Option<Timestamp>| value.map(|value| value.to_string());
        let optional = [
            ("askedFor", self.asked_for.map(|id| id.to_string())),
            ("streamId", text(self.stream_id.clone())),
            ("total", number(self.total)),
            ("seqNo", number(self.seq_no)),
            ("untilSeqNo", number(self.until_seq_no)),
            ("startedAt", time(self.started_at)),
            ("finishedAt", time(self.finished_at)),
            ("error", self.error.map(|error| error.as_str().to_owned())),
            ("detail", text(self.detail.clone())),
            ("owner", text(self.owner.clone())),
        ];
        fields.extend(
            optional
                .into_iter()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        fields
    }

    /// Reads the hash; `get` looks a field up by its name.
    ///
    /// # Errors
    /// The first field that is missing or wrong.
    pub fn from_fields<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Result<Self, BadProgress> {
        fn read<T: FromStr>(text: Option<&str>, name: &'static str) -> Result<T, BadProgress> {
            text.and_then(|text| text.parse().ok())
                .ok_or(BadProgress(name))
        }
        fn maybe<T: FromStr>(
            text: Option<&str>,
            name: &'static str,
        ) -> Result<Option<T>, BadProgress> {
            text.map(|text| text.parse().map_err(|_| BadProgress(name)))
                .transpose()
        }
        let state = get("state").and_then(State::from_name);
        let error = get("error").map(|name| Failure::from_name(name).ok_or(BadProgress("error")));
        Ok(Self {
            replay_id: read(get("replayId"), "replayId")?,
            session_id: read(get("sessionId"), "sessionId")?,
            asked_for: maybe(get("askedFor"), "askedFor")?,
            stream_id: get("streamId").map(str::to_owned),
            state: state.ok_or(BadProgress("state"))?,
            speed: read(get("speed"), "speed")?,
            total: maybe(get("total"), "total")?,
            sent: read(get("sent"), "sent")?,
            skipped: read(get("skipped"), "skipped")?,
            seq_no: maybe(get("seqNo"), "seqNo")?,
            until_seq_no: maybe(get("untilSeqNo"), "untilSeqNo")?,
            requested_at: read(get("requestedAt"), "requestedAt")?,
            started_at: maybe(get("startedAt"), "startedAt")?,
            updated_at: read(get("updatedAt"), "updatedAt")?,
            finished_at: maybe(get("finishedAt"), "finishedAt")?,
            error: error.transpose()?,
            detail: get("detail").map(str::to_owned),
            owner: get("owner").map(str::to_owned),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn full() -> Progress {
        Progress {
            asked_for: Some(Uuid::from_u128(3)),
            stream_id: Some("7301".into()),
            state: State::Failed,
            total: Some(9),
            sent: 5,
            skipped: 1,
            seq_no: Some(28_640_000_000_123),
            until_seq_no: Some(28_640_000_000_200),
            started_at: Some(Timestamp::from_millis(2)),
            finished_at: Some(Timestamp::from_millis(3)),
            error: Some(Failure::NoEvents),
            detail: Some("nothing is left".into()),
            owner: Some("me".into()),
            ..Progress::new(
                Uuid::from_u128(1),
                Uuid::from_u128(2),
                Speed::Max,
                Timestamp::from_millis(1),
            )
        }
    }

    #[test]
    fn a_hash_is_what_it_was_written_from() {
        let new = Progress::new(
            Uuid::from_u128(1),
            Uuid::from_u128(2),
            Speed::ORIGINAL,
            Timestamp::from_millis(0),
        );
        for progress in [full(), new] {
            let fields: HashMap<_, _> = progress.to_fields().into_iter().collect();
            let read = |name: &str| fields.get(name).map(String::as_str);
            assert_eq!(Progress::from_fields(read), Ok(progress.clone()));
            let json = serde_json::to_value(&progress).unwrap();
            // The same names and, where they are texts, the same texts.
            for (name, text) in &fields {
                let value = &json[name];
                let shown = value.as_str().map_or(value.to_string(), str::to_owned);
                assert_eq!(&shown, text, "{name}");
            }
            assert_eq!(json.as_object().unwrap().len(), fields.len());
            assert_eq!(serde_json::from_value::<Progress>(json).unwrap(), progress);
        }
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let fields: HashMap<_, _> = full().to_fields().into_iter().collect();
        for name in ["replayId", "state", "sent", "updatedAt"] {
            let read = |field: &str| {
                fields
                    .get(field)
                    .map(String::as_str)
                    .filter(|_| field != name)
            };
            assert_eq!(Progress::from_fields(read), Err(BadProgress(name)));
        }
        for name in ["speed", "error", "seqNo", "finishedAt", "askedFor", "state"] {
            let read = |field: &str| match field {
                field if field == name => Some("nonsense"),
                field => fields.get(field).map(String::as_str),
            };
            assert_eq!(Progress::from_fields(read), Err(BadProgress(name)));
        }
    }

    #[test]
    fn speeds_have_bounds() {
        for (text, factor) in [("1", 1.0), ("0.1", 0.1), ("100", 100.0), ("2.5", 2.5)] {
            let speed: Speed = text.parse().unwrap();
            assert_eq!(speed.factor(), Some(factor));
            assert_eq!(speed.to_string(), text);
            assert_eq!(serde_json::to_string(&speed).unwrap(), text);
            assert_eq!(serde_json::from_str::<Speed>(text).unwrap(), speed);
        }
        assert_eq!("max".parse(), Ok(Speed::Max));
        assert_eq!(
            serde_json::from_str::<Speed>("\"max\"").unwrap(),
            Speed::Max
        );
        for bad in ["0", "0.09", "100.1", "-1", "NaN", "inf", "", "fast", "1x"] {
            assert_eq!(bad.parse::<Speed>(), Err(BadSpeed), "{bad}");
        }
        assert!(serde_json::from_str::<Speed>("true").is_err());
    }
}
