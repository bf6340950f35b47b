//! One entry of `ttlc:dlq`, as `dead_letters` keeps it.
//!
//! Bad input: nothing is refused. What a field does not say is left empty, and an entry without a
//! payload is its own payload.

use std::collections::{BTreeMap, HashMap};

use sha2::{Digest as _, Sha256};
use shared::dead_letter::{REDACTED, redact_error, redact_payload};
use shared::identity::{MAX_SEQ_NO, is_stream_id};
use shared::raw::Envelope;
use shared::streams::{StreamNames, dlq, events};
use shared::time::Timestamp;
use uuid::Uuid;

use crate::bus::Entry;
use crate::erasure::{Tombstones, moment};

/// A stage or a reason is a category; a longer text is cut.
const CATEGORY_CHARS: usize = 64;
/// An error is cut to this many characters.
const ERROR_CHARS: usize = 2_000;

/// Where an entry came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Raw,
    Events,
    Actions,
}

impl Target {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Events => "events",
            Self::Actions => "actions",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        [Self::Raw, Self::Events, Self::Actions]
            .into_iter()
            .find(|target| target.as_str() == name)
    }

    /// The stream of a shard.
    pub(super) fn stream(self, names: StreamNames, shard: u32) -> String {
        match self {
            Self::Raw => names.raw(shard),
            Self::Events => names.events(shard),
            Self::Actions => names.actions(shard),
        }
    }
}

/// A row of `dead_letters` to be.
#[derive(Debug)]
pub(crate) struct Letter {
    pub(super) key: [u8; 32],
    pub(super) stage: String,
    pub(super) reason: String,
    pub(super) error: String,
    pub(super) payload: String,
    pub(super) redacted: bool,
    pub(super) stream_id: Option<String>,
    pub(super) seq_no: Option<i64>,
    pub(super) session_id: Option<Uuid>,
    pub(super) target: Option<Target>,
    pub(super) failed_at: jiff::Timestamp,
    /// The entry that it was read from, as `stream/id`.
    pub(super) entry: String,
    /// When that was added, in Unix milliseconds by Redis' clock.
    pub(super) added_ms: i64,
}

impl Letter {
    /// Reads an entry of the dead-letter stream `stream`.
    pub(crate) fn read(stream: &str, entry: &Entry) -> Self {
        let field = |name| entry.get(name).unwrap_or_default();
        let stage = category(field(dlq::STAGE));
        let original = entry
            .get(dlq::PAYLOAD)
            .map_or_else(|| without_nul(&entry.to_json()), without_nul);
        let payload = redact_payload(&original);
        let fields = fields(&payload);
        let place = fields.as_ref().map(Place::of).unwrap_or_default();
        Self {
            key: key(&stage, &payload, fields.as_ref()),
            target: fields.as_ref().and_then(|fields| target(&stage, fields)),
            reason: category(field(dlq::REASON)),
            error: redact_error(&without_nul(field(dlq::ERROR)))
                .chars()
                .take(ERROR_CHARS)
                .collect(),
            // Here, or by the stage that wrote it.
            redacted: payload.contains(REDACTED),
            payload: payload.into_owned(),
            stream_id: place.stream_id,
            seq_no: place.seq_no,
            session_id: place.session_id,
            failed_at: field(dlq::FAILED_AT).parse::<Timestamp>().map_or_else(
                |_| Timestamp::from_millis(added_ms(&entry.id)).to_jiff(),
                Timestamp::to_jiff,
            ),
            added_ms: added_ms(&entry.id),
            entry: format!("{stream}/{}", entry.id),
            stage,
        }
    }

    /// The letter in place of one that cannot be stored itself: `key` in Redis has its fields.
    pub(super) fn parked(stream: &str, id: &str, parked: &str, reason: &str, why: &str) -> Self {
        let payload = serde_json::json!({"parked": parked, "entry": format!("{stream}/{id}")});
        let payload = payload.to_string();
        let failed_at = jiff::Timestamp::from_millisecond(added_ms(id)).unwrap_or_default();
        Self {
            key: key("ops", &payload, None),
            stage: "ops".to_owned(),
            reason: reason.to_owned(),
            error: redact_error(&without_nul(why))
                .chars()
                .take(ERROR_CHARS)
                .collect(),
            payload,
            redacted: false,
            stream_id: None,
            seq_no: None,
            session_id: None,
            target: None,
            failed_at,
            entry: format!("{stream}/{id}"),
            added_ms: added_ms(id),
        }
    }
}

impl Letter {
    /// Whether it holds something of a viewer who was erased, from before that.
    pub(super) fn names_erased(&self, erased: &Tombstones) -> bool {
        names_erased(&self.payload, self.failed_at.as_millisecond(), erased)
    }
}

/// The same of a payload that failed at that time.
pub(super) fn names_erased(payload: &str, failed_at: i64, erased: &Tombstones) -> bool {
    let texts: HashMap<String, String> = serde_json::from_str(payload).unwrap_or_default();
    let at = moment(&texts, failed_at);
    erased.concern(at) && erased.in_fields([("payload", payload)], at)
}

/// The fields of an entry, when the payload is one.
pub(crate) fn fields(payload: &str) -> Option<BTreeMap<String, String>> {
    serde_json::from_str(payload)
        .ok()
        .filter(|fields: &BTreeMap<_, _>| !fields.is_empty())
}

/// Which event an entry is about.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) stream_id: Option<String>,
    pub(super) seq_no: Option<i64>,
    pub(super) session_id: Option<Uuid>,
}

impl Place {
    /// An entry of the raw stream says it in its fields, one of the others in its event.
    pub(super) fn of(fields: &BTreeMap<String, String>) -> Self {
        let event = fields
            .get(events::EVENT)
            .and_then(|event| serde_json::from_str::<serde_json::Value>(event).ok());
        let said = |name: &str| -> Option<String> {
            let inside = event
                .as_ref()
                .and_then(|event| event.get(name))
                .map(|value| {
                    value
                        .as_str()
                        .map_or_else(|| value.to_string(), str::to_owned)
                });
            inside.or_else(|| fields.get(name).cloned())
        };
        Self {
            stream_id: said("streamId").filter(|id| is_stream_id(id)),
            seq_no: said("seqNo")
                .and_then(|number| number.parse::<u64>().ok())
                .filter(|number| *number <= MAX_SEQ_NO)
                .and_then(|number| i64::try_from(number).ok()),
            session_id: said("sessionId").and_then(|id| id.parse().ok()),
        }
    }
}

/// The same entry failing again is the same letter, in whatever order its fields are written.
fn key(stage: &str, payload: &str, fields: Option<&BTreeMap<String, String>>) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut add = |text: &str| {
        hash.update(u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(text);
    };
    add(stage);
    match fields {
        Some(fields) => {
            for (name, value) in fields {
                add(name);
                add(value);
            }
        }
        None => add(payload),
    }
    hash.finalize().into()
}

fn target(stage: &str, fields: &BTreeMap<String, String>) -> Option<Target> {
    match stage {
        // Whatever the normalizer read; a newer one may read it.
        "normalizer" => Some(Target::Raw),
        // Mostly a frame, which no stream has.
        "ingest" => Envelope::from_fields(|name| fields.get(name).map(String::as_str))
            .is_ok()
            .then_some(Target::Raw),
        "storage" | "forwarder" => fields.contains_key(events::EVENT).then_some(Target::Events),
        "actions" => fields.contains_key("action").then_some(Target::Actions),
        _ => None,
    }
}

fn category(text: &str) -> String {
    let text: String = text
        .chars()
        .filter(|c| !c.is_control())
        .take(CATEGORY_CHARS)
        .collect();
    if text.is_empty() {
        "unknown".to_owned()
    } else {
        text
    }
}

/// Postgres has no U+0000 in a text. JSON writes it as an escape, so that a payload has none.
fn without_nul(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// When an entry was added, from its id.
fn added_ms(id: &str) -> i64 {
    id.split('-')
        .next()
        .and_then(|ms| ms.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(fields: &[(&str, &str)]) -> Entry {
        Entry {
            id: "1763800000000-3".into(),
            deliveries: 0,
            fields: fields
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    fn letter(stage: &str, payload: &str) -> Letter {
        let entry = entry(&[
            ("stage", stage),
            ("reason", "PARSE_ERROR"),
            ("error", "no\u{0}thing"),
            ("payload", payload),
            ("failedAt", "2026-11-22T15:04:05.678Z"),
        ]);
        Letter::read("ttlc:dlq", &entry)
    }

    #[test]
    fn a_raw_entry_is_known_and_goes_back_to_raw() {
        let payload = json!({"streamId": "7301", "seqNo": "12", "type": "X", "data": "AA",
            "sessionId": Uuid::from_u128(7).to_string()})
        .to_string();
        let letter = letter("normalizer", &payload);
        assert_eq!(letter.stream_id.as_deref(), Some("7301"));
        assert_eq!(letter.seq_no, Some(12));
        assert_eq!(letter.session_id, Some(Uuid::from_u128(7)));
        assert_eq!(letter.target, Some(Target::Raw));
        assert_eq!(letter.failed_at.to_string(), "2026-11-22T15:04:05.678Z");
        assert_eq!(letter.entry, "ttlc:dlq/1763800000000-3");
        assert_eq!(letter.error, "no\u{fffd}thing");
        assert!(!letter.redacted);
    }

    #[test]
    fn an_event_is_known_and_goes_back_to_the_events() {
        let event = json!({"streamId": "7301", "seqNo": 12, "sessionId": Uuid::from_u128(7)});
        let payload = json!({"event": event.to_string(), "raw": "AA"}).to_string();
        for stage in ["storage", "forwarder"] {
            let letter = letter(stage, &payload);
            assert_eq!(letter.seq_no, Some(12));
            assert_eq!(letter.session_id, Some(Uuid::from_u128(7)));
            assert_eq!(letter.target, Some(Target::Events));
        }
    }

    #[test]
    fn what_is_no_entry_cannot_be_put_back() {
        for (stage, payload) in [
            ("ingest", r#"{"frame":"AAEC","streamId":"7301"}"#),
            ("storage", r#"{"raw":"AA"}"#),
            ("normalizer", "[1]"),
            ("normalizer", "not json"),
            ("normalizer", "{}"),
            ("somebody", r#"{"streamId":"7301"}"#),
        ] {
            assert_eq!(letter(stage, payload).target, None, "{stage} {payload}");
        }
    }

    #[test]
    fn the_order_of_fields_makes_no_other_letter() {
        let one = letter("normalizer", r#"{"a":"1","b":"2"}"#);
        let other = letter("normalizer", r#"{"b":"2","a":"1"}"#);
        assert_eq!(one.key, other.key);
        for different in [
            letter("storage", r#"{"a":"1","b":"2"}"#),
            letter("normalizer", r#"{"a":"1b","b":"2"}"#),
            letter("normalizer", r#"{"a":"12","":"b"}"#),
        ] {
            assert_ne!(one.key, different.key);
        }
    }

    #[test]
    fn an_entry_without_fields_is_a_letter_too() {
        let letter = Letter::read("ttlc:dlq", &entry(&[("odd", "thing")]));
        assert_eq!(
            (letter.stage.as_str(), letter.reason.as_str()),
            ("unknown", "unknown")
        );
        assert_eq!(letter.payload, r#"{"odd":"thing"}"#);
        assert_eq!(letter.failed_at.as_millisecond(), 1_763_800_000_000);
        assert_eq!(letter.target, None);
    }
}
