//! The rows of `events`, and what must hold for any set of them.

use std::collections::{HashMap, HashSet};

use serde_json::Value;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::stores::Stores;

/// One stored event.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) event_id: String,
    pub(crate) stream_id: String,
    pub(crate) session_id: Uuid,
    pub(crate) seq_no: i64,
    pub(crate) event_type: String,
    pub(crate) user_id: Option<String>,
    pub(crate) event: Value,
    pub(crate) raw: Vec<u8>,
    pub(crate) raw_format: String,
}

impl Row {
    /// All rows, by room and place in it.
    pub(crate) async fn all(stores: &Stores) -> anyhow::Result<Vec<Self>> {
        let rows = stores
            .database()
            .await?
            .query(
                "SELECT encode(event_id, 'hex'), stream_id, session_id, seq_no, event_type, \
                 user_id, event, raw, raw_format FROM events ORDER BY stream_id, seq_no",
                &[],
            )
            .await?;
        Ok(rows
            .iter()
            .map(|row| Self {
                event_id: row.get(0),
                stream_id: row.get(1),
                session_id: row.get(2),
                seq_no: row.get(3),
                event_type: row.get(4),
                user_id: row.get(5),
                event: row.get(6),
                raw: row.get(7),
                raw_format: row.get(8),
            })
            .collect())
    }

    /// Whether it came from the room, not from our own connection.
    pub(crate) fn is_message(&self) -> bool {
        self.raw_format == "protobuf"
    }

    /// `payload` of the event.
    pub(crate) fn payload(&self) -> &Value {
        &self.event["payload"]
    }

    fn text(&self, key: &str) -> &str {
        self.event[key].as_str().unwrap_or_default()
    }
}

/// How many rows came from rooms.
pub(crate) fn messages(rows: &[Row]) -> usize {
    rows.iter().filter(|row| row.is_message()).count()
}

/// What holds for all rows of any run: the form, the ids, the numbering.
pub(crate) fn check_all(rows: &[Row]) {
    check_all_but(rows, &[]);
}

/// The same where these messages (room, number) are known to be dead letters.
pub(crate) fn check_all_but(rows: &[Row], dead: &[(String, i64)]) {
    let schema =
        std::fs::read(xtask::project::root().join("docs/contracts/unified-event.v1.schema.json"))
            .expect("the committed schema");
    let schema: Value = serde_json::from_slice(&schema).expect("JSON");
    let schema = jsonschema::validator_for(&schema).expect("a schema");

    let mut ids = HashSet::new();
    let mut message_ids = HashSet::new();
    let mut sessions: HashMap<(Uuid, &str), Vec<i64>> = HashMap::new();
    for row in rows {
        let event = &row.event;
        let errors: Vec<_> = schema
            .iter_errors(event)
            .map(|error| error.to_string())
            .collect();
        assert!(errors.is_empty(), "{errors:#?} in {event:#}");
        assert_eq!(first_null(event), None, "null in {event:#}");
        assert_eq!(event["schemaVersion"], "unified-event.v1");
        assert_eq!(event["source"], "live");
        assert_eq!(event["eventId"], row.event_id.as_str());
        assert_eq!(event["eventType"], row.event_type.as_str());
        assert_eq!(event["streamId"], row.stream_id.as_str());
        assert_eq!(event["sessionId"], row.session_id.to_string());
        assert_eq!(event["seqNo"], row.seq_no);
        assert_eq!(event["user"]["userId"].as_str(), row.user_id.as_deref());
        let raw_type = row.payload()["rawType"].as_str().unwrap_or_default();
        let id = Sha256::digest(format!("{}:{}:{raw_type}", row.stream_id, row.seq_no));
        assert_eq!(row.event_id, hex::encode(id), "eventId of {event:#}");
        for key in ["timestamp", "ingestedAt"] {
            let time = row.text(key);
            assert!(time.len() == 24 && time.ends_with('Z'), "{key} is {time}");
        }
        assert!(ids.insert(row.event_id.clone()), "stored twice: {event:#}");
        if let Some(id) = message_id(row) {
            let unique = message_ids.insert((row.stream_id.clone(), id));
            assert!(unique, "message {id} is there twice: {event:#}");
        }
        if raw_type == "GiftStreakTimeout" {
            continue; // has the number of its streak's last message
        }
        sessions
            .entry((row.session_id, &row.stream_id))
            .or_default()
            .push(row.seq_no);
    }
    for ((session, room), mut numbers) in sessions {
        let known = numbers.iter().min().copied()..=numbers.iter().max().copied();
        let dead = dead
            .iter()
            .filter(|(of, _)| of == room)
            .map(|(_, number)| *number);
        numbers.extend(dead.filter(|number| known.contains(&Some(*number))));
        numbers.sort_unstable();
        let contiguous = numbers.windows(2).all(|pair| pair[1] == pair[0] + 1);
        assert!(
            contiguous,
            "seqNo of session {session} has holes or repeats: {numbers:?}"
        );
    }
}

/// TikTok's own id of a stored message, where it has one.
pub(crate) fn message_id(row: &Row) -> Option<i64> {
    if !row.is_message() {
        return None;
    }
    upstream::patch::header(&row.raw)
        .map(|header| header.msg_id)
        .filter(|id| *id != 0)
}

fn first_null(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some(String::new()),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .find_map(|(index, item)| first_null(item).map(|path| format!("[{index}]{path}"))),
        Value::Object(fields) => fields
            .iter()
            .find_map(|(key, item)| first_null(item).map(|path| format!(".{key}{path}"))),
        _ => None,
    }
}
