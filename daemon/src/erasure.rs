//! Erased viewers: what of them may still arrive, and how it is known without having it.
//!
//! In: the list of tombstones, from Postgres (the storage writer) or from its mirror in Redis (all
//! others), and what passes by: events, raw data, dead letters. Out: whether it is of an erased viewer
//! and from before the erasure; of others' events a copy without the viewer. [`traces`] knows ids,
//! names and pictures again by their hashes, [`scrub`] is the copy.
//!
//! What happened after the erasure is new, and is not looked at: as long as nothing old arrives this
//! costs a comparison of two times. Bad input: what is no event is left as it is; whoever reads it
//! refuses it. Nothing here does I/O.
//!
//! The function `erase_user` does the same to what is stored already, in SQL.

mod scrub;
mod traces;

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use shared::identity::EventId;
use shared::raw::control;
use shared::streams::events;
use shared::time::Timestamp;

use self::traces::Traces;

/// The reason of the gaps that stand for what is dropped.
pub(crate) const REASON: &str = "erased";
/// What stands in place of a text of an erased viewer.
pub(crate) const MARK: &str = "[erased]";
/// What stands in the field `raw` of an entry whose raw data held something of an erased viewer.
pub(crate) const NO_RAW: &str = r#"{"erased":true}"#;

/// One tombstone, as the table and the mirror have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tombstone {
    /// sha256 of `ttlc.erased:` and the user id, in hexadecimal.
    pub user_hash: String,
    /// What happened up to here is erased.
    pub erased_at: Timestamp,
    /// How to know the id, the names and the pictures again.
    pub traces: Vec<Trace>,
}

/// What knows some bytes again without having them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// What may stand beside them: `id`, `word`, `at`, `plain`; or `bytes`, in raw data only.
    pub kind: String,
    /// How many bytes.
    pub bytes: usize,
    /// Their rolling hash, see the function `erasure_trace` of the database.
    pub roll: u32,
    /// Their sha256 in hexadecimal.
    pub hash: String,
}

/// What the database and the mirror keep of a user id.
pub(crate) fn user_hash(user_id: &str) -> [u8; 32] {
    Sha256::digest(format!("ttlc.erased:{user_id}")).into()
}

/// All tombstones.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tombstones {
    /// The number of the last change that is in here.
    pub(crate) version: i64,
    /// Up to when a viewer is erased, in Unix milliseconds.
    users: HashMap<[u8; 32], i64>,
    traces: Traces,
    latest: Option<i64>,
}

/// What an entry of the events stream holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing of an erased viewer.
    Clean,
    /// It is the viewer's own: this gap stands for it.
    Own(Replaced),
    /// It is somebody else's and names the viewer: this is it without.
    Named(Replaced),
}

/// The fields of an entry anew.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Replaced {
    pub(crate) event: String,
    pub(crate) raw: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    stream_id: String,
    seq_no: u64,
    timestamp: Timestamp,
    ingested_at: Timestamp,
    #[serde(default)]
    user: Option<Who>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Who {
    user_id: String,
}

impl Tombstones {
    /// From what the table or the mirror has; what cannot be read of it is left out.
    pub(crate) fn new(version: i64, list: &[Tombstone]) -> Self {
        let mut all = Self {
            version,
            ..Self::default()
        };
        for one in list {
            let until = one.erased_at.as_millis();
            let mut hash = [0; 32];
            if hex::decode_to_slice(&one.user_hash, &mut hash).is_err() {
                tracing::warn!(
                    reason = "bad_tombstone",
                    "a tombstone cannot be read and is left out"
                );
                continue;
            }
            let known = all.users.entry(hash).or_insert(until);
            *known = until.max(*known);
            all.latest = all.latest.max(Some(until));
            for trace in &one.traces {
                all.traces.add(trace, until);
            }
        }
        all
    }

    /// How many viewers.
    pub(crate) fn len(&self) -> usize {
        self.users.len()
    }

    /// Whether anything of a time can be of an erased viewer.
    pub(crate) fn concern(&self, at: i64) -> bool {
        self.latest.is_some_and(|latest| at <= latest)
    }

    /// Whether what this viewer did at a time is erased.
    pub(crate) fn own(&self, user_id: &str, at: i64) -> bool {
        self.users
            .get(&user_hash(user_id))
            .is_some_and(|until| at <= *until)
    }

    /// Whether a text names a viewer who is erased up to that time.
    pub(crate) fn in_text(&self, text: &str, at: i64) -> bool {
        !self.traces.in_text(text, at).is_empty()
    }

    /// Whether the field `data` or `raw` does: base64, or a JSON object.
    pub(crate) fn in_data(&self, data: &str, at: i64) -> bool {
        if data.starts_with('{') {
            // JSON may write any character as an escape.
            return match serde_json::from_str::<Value>(data) {
                Ok(mut value) => self.scrub(&mut value, at),
                Err(_) => self.in_text(data, at),
            };
        }
        match STANDARD.decode(data) {
            Ok(bytes) => self.traces.in_bytes(&bytes, at),
            Err(_) => self.in_text(data, at),
        }
    }

    /// Whether a dead letter does, or an entry of any stream. A frame of ingest may be compressed and
    /// is not looked into: it counts as one that does.
    pub(crate) fn in_fields<'a>(
        &self,
        fields: impl IntoIterator<Item = (&'a str, &'a str)>,
        at: i64,
    ) -> bool {
        fields.into_iter().any(|(name, value)| {
            name == "frame"
                || self.in_text(value, at)
                || serde_json::from_str::<HashMap<String, Value>>(value).is_ok_and(|inner| {
                    inner.iter().any(|(name, value)| match value {
                        Value::String(text) => self.in_fields([(name.as_str(), text.as_str())], at),
                        other => self.scrub(&mut other.clone(), at),
                    })
                })
                || (value.len() >= 8
                    && STANDARD
                        .decode(value)
                        .is_ok_and(|bytes| self.traces.in_bytes(&bytes, at)))
        })
    }

    /// Takes the viewers out of a value of an event; whether there was anything.
    pub(crate) fn scrub(&self, value: &mut Value, at: i64) -> bool {
        scrub::scrub(self, value, at)
    }

    /// Looks at an entry of the events stream.
    pub(crate) fn judge(&self, fields: &HashMap<String, String>) -> Verdict {
        if self.latest.is_none() {
            return Verdict::Clean;
        }
        let (Some(text), Some(raw)) = (fields.get(events::EVENT), fields.get(events::RAW)) else {
            return Verdict::Clean;
        };
        let Ok(head) = serde_json::from_str::<Head>(text) else {
            return Verdict::Clean;
        };
        let at = head.timestamp.min(head.ingested_at).as_millis();
        if !self.concern(at) {
            return Verdict::Clean;
        }
        let Ok(mut event) = serde_json::from_str::<Value>(text) else {
            return Verdict::Clean;
        };
        if head.user.is_some_and(|who| self.own(&who.user_id, at)) {
            return Verdict::Own(gap(&event, &head.stream_id, head.seq_no));
        }
        let in_raw = self.in_data(raw, at);
        let mut named = in_raw;
        for part in ["user", "payload"] {
            if let Some(part) = event.get_mut(part) {
                named |= self.scrub(part, at);
            }
        }
        if !named {
            return Verdict::Clean;
        }
        forget_undecoded(&mut event);
        Verdict::Named(Replaced {
            event: event.to_string(),
            raw: NO_RAW.to_owned(),
        })
    }
}

/// What could not be decoded is in the event a second time.
pub(crate) fn forget_undecoded(event: &mut Value) {
    if let Some(raw @ Value::String(_)) = event.pointer_mut("/payload/raw") {
        *raw = MARK.into();
    }
}

/// When what an entry of any stream is about happened, in Unix milliseconds; `otherwise` when it does
/// not say.
pub(crate) fn moment(fields: &HashMap<String, String>, otherwise: i64) -> i64 {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Times {
        timestamp: Option<Timestamp>,
        ingested_at: Option<Timestamp>,
    }
    let field = |name: &str| fields.get(name).and_then(|text| text.parse().ok());
    let inside: Times = fields
        .get(events::EVENT)
        .and_then(|event| serde_json::from_str(event).ok())
        .unwrap_or_default();
    [
        field("timestamp"),
        field("ingestedAt"),
        inside.timestamp,
        inside.ingested_at,
    ]
    .into_iter()
    .flatten()
    .map(Timestamp::as_millis)
    .min()
    .unwrap_or(otherwise)
}

/// The gap that stands for one message, as data of a `ControlEvent.GAP`.
pub(crate) fn gap_data(seq_no: u64) -> Value {
    json!({"fromSeq": seq_no, "toSeq": seq_no, "reason": REASON, "count": 1})
}

/// The same as an event in its place.
fn gap(event: &Value, stream_id: &str, seq_no: u64) -> Replaced {
    let data = gap_data(seq_no);
    let mut gap = json!({
        "eventId": EventId::new(stream_id, seq_no, control::GAP).to_string(),
        "eventType": "RAW",
        "payload": {
            "rawType": control::GAP,
            "raw": &data,
            "decoded": {"from": seq_no, "to": seq_no, "reason": REASON, "count": 1},
        },
    });
    for same in [
        "schemaVersion",
        "source",
        "streamId",
        "sessionId",
        "seqNo",
        "timestamp",
        "ingestedAt",
        "backlog",
        "replayOf",
    ] {
        if let Some(value) = event.get(same) {
            gap[same] = value.clone();
        }
    }
    Replaced {
        event: gap.to_string(),
        raw: data.to_string(),
    }
}

#[cfg(test)]
mod tests;
