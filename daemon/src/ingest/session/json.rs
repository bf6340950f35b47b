//! What a JSON message says of itself, whatever naming its provider uses.
//!
//! In: the `data` of a message of Euler's. Out: the facts that ingest needs: its id, its time, its
//! room, whether it is history, whether it ends the broadcast. The header is `common` in schemas
//! v2 and v3, `event` in v1, and its fields stand at the top where there is neither (protocol
//! sheet §8); keys are found in camel, snake and Pascal case. The same field is a number in one
//! message and a text in another; ids go through no floating point. What is not there, or is of
//! another kind, is absent: nothing here is an error.

use bytes::Bytes;
use serde_json::{Map, Value};

use super::END_ACTIONS;
use crate::proto::frames::BaseMessage;
use crate::proto::in_millis;

/// A message with a JSON body.
#[derive(Clone, Debug)]
pub(in crate::ingest) struct JsonMessage {
    /// Its type, as TikTok's method name.
    pub(super) kind: String,
    pub(super) data: Map<String, Value>,
    /// Its id in TikTok's decimal form, as protobuf has it.
    pub(super) msg_id: Option<String>,
    /// When it was made, in Unix milliseconds.
    pub(in crate::ingest) created_ms: Option<i64>,
    /// When the provider sent it, in Unix milliseconds.
    pub(super) sent_ms: Option<i64>,
    /// The room that it names.
    pub(in crate::ingest) room_id: Option<String>,
    /// It says that it is history.
    pub(super) is_history: bool,
}

impl JsonMessage {
    /// Reads the header. `sent_ms` is the provider's clock, in Unix milliseconds.
    pub(in crate::ingest) fn new(
        kind: String,
        data: Map<String, Value>,
        sent_ms: Option<i64>,
    ) -> Self {
        let header = ["common", "event"]
            .iter()
            .find_map(|name| field(&data, name)?.as_object())
            .unwrap_or(&data);
        let flag = |object| field(object, "isHistory").is_some_and(is_true);
        Self {
            msg_id: field(header, "msgId").and_then(id),
            created_ms: field(header, "createTime")
                .and_then(integer)
                .filter(|&time| time != 0)
                .map(in_millis),
            room_id: field(header, "roomId").and_then(id),
            is_history: flag(header) || flag(&data),
            kind,
            data,
            sent_ms,
        }
    }

    /// The same message by its protobuf body, with what the JSON says about it.
    pub(in crate::ingest) fn with_body(self, payload: Bytes) -> BaseMessage {
        BaseMessage {
            method: self.kind,
            msg_id: self.msg_id.and_then(|id| id.parse().ok()).unwrap_or(0),
            is_history: self.is_history,
            payload,
            ..BaseMessage::default()
        }
    }

    /// Whether a control message with this body ends the broadcast: `action` 3 or 4, or their names
    /// in TikTok's enumeration.
    pub(super) fn is_end(&self) -> bool {
        let Some(action) = field(&self.data, "action") else {
            return false;
        };
        match action {
            Value::String(name) if name.bytes().any(|byte| byte.is_ascii_alphabetic()) => {
                let name = name.to_ascii_uppercase();
                ["STREAM_ENDED", "STREAM_SUSPENDED"]
                    .iter()
                    .any(|end| name.ends_with(end))
            }
            number => integer(number)
                .is_some_and(|number| END_ACTIONS.iter().any(|&end| i64::from(end) == number)),
        }
    }
}

/// A field by its name in camel case, also where it is written otherwise.
pub(in crate::ingest) fn field<'a>(
    object: &'a Map<String, Value>,
    name: &str,
) -> Option<&'a Value> {
    object.get(name).or_else(|| {
        object
            .iter()
            .find_map(|(key, value)| is_spelling_of(key, name).then_some(value))
    })
}

fn is_spelling_of(key: &str, name: &str) -> bool {
    let mut letters = key.bytes().filter(|&byte| byte != b'_');
    let equal = name.bytes().all(|byte| {
        letters
            .next()
            .is_some_and(|other| other.eq_ignore_ascii_case(&byte))
    });
    equal && letters.next().is_none()
}

/// About as many bytes as an object takes when it is written, without writing it.
pub(in crate::ingest) fn json_size(object: &Map<String, Value>) -> usize {
    let fields = object
        .iter()
        .map(|(name, value)| name.len() + 4 + value_size(value));
    2 + fields.sum::<usize>()
}

fn value_size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) => 5,
        Value::Number(_) => 12,
        Value::String(text) => text.len() + 3,
        Value::Array(items) => 2 + items.iter().map(value_size).sum::<usize>(),
        Value::Object(object) => json_size(object),
    }
}

/// A 64-bit id in decimal, as number or text; 0 is none.
fn id(value: &Value) -> Option<String> {
    let number = match value {
        Value::Number(number) => number.as_i64()?,
        Value::String(text) => text.trim().parse::<i64>().ok()?,
        _ => return None,
    };
    (number != 0).then(|| number.to_string())
}

/// A whole number, also one that is written as text.
pub(in crate::ingest) fn integer(value: &Value) -> Option<i64> {
    value
        .as_i64()
        .or_else(|| value.as_str()?.trim().parse().ok())
}

/// A flag, in any of its spellings.
fn is_true(value: &Value) -> bool {
    match value {
        Value::Bool(flag) => *flag,
        Value::String(text) => text.eq_ignore_ascii_case("true") || text == "1",
        other => other.as_i64() == Some(1),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn message(kind: &str, data: Value) -> JsonMessage {
        let Value::Object(data) = data else {
            panic!("no object")
        };
        JsonMessage::new(kind.to_owned(), data, Some(7))
    }

    #[test]
    fn the_header_is_found_in_every_naming() {
        let id = "7301234600000065537";
        let time = 1_763_800_000_250_i64;
        for data in [
            json!({"common": {"msgId": id, "createTime": "1763800000250", "roomId": "7"}}),
            json!({"common": {"msgId": 7_301_234_600_000_065_537_i64, "createTime": time, "roomId": 7}}),
            json!({"Common": {"MsgId": id, "CreateTime": time, "RoomId": "7"}}),
            json!({"common": {"msg_id": id, "create_time": time, "room_id": "7"}}),
            json!({"event": {"msgId": id, "createTime": "1763800000250", "roomId": "7"}}),
            json!({"msgId": id, "createTime": time, "roomId": "7"}),
            json!({"msg_id": id, "create_time": "1763800000250", "room_id": 7}),
        ] {
            let message = message("X", data.clone());
            assert_eq!(message.msg_id.as_deref(), Some(id), "{data}");
            assert_eq!(message.created_ms, Some(time), "{data}");
            assert_eq!(message.room_id.as_deref(), Some("7"), "{data}");
        }
    }

    #[test]
    fn ids_beyond_53_bits_are_exact_and_what_is_none_is_absent() {
        let read = |text: &str| {
            let data = serde_json::from_str(text).unwrap();
            message("X", data).msg_id
        };
        assert_eq!(
            read(r#"{"common":{"msgId":9223372036854775807}}"#).as_deref(),
            Some("9223372036854775807")
        );
        assert_eq!(
            read(r#"{"common":{"msgId":" 0012 "}}"#).as_deref(),
            Some("12"),
            "as protobuf has it"
        );
        for none in [
            r#"{"common":{"msgId":0}}"#,
            r#"{"common":{"msgId":"0"}}"#,
            r#"{"common":{"msgId":""}}"#,
            r#"{"common":{"msgId":7.3e18}}"#,
            r#"{"common":{"msgId":"x"}}"#,
            r#"{"common":{"msgId":null}}"#,
            r#"{"common":{},"msgId":"5"}"#,
            r#"{"common":7}"#,
            "{}",
        ] {
            assert_eq!(read(none), None, "{none}");
        }
        let seconds = message("X", json!({"common": {"createTime": "1773508034"}}));
        assert_eq!(seconds.created_ms, Some(1_773_508_034_000));
        assert_eq!(
            message("X", json!({"common": {"createTime": "0"}})).created_ms,
            None
        );
    }

    #[test]
    fn history_is_believed_wherever_it_is_said() {
        for data in [
            json!({"isHistory": true}),
            json!({"common": {"is_history": 1}}),
            json!({"common": {}, "IsHistory": "true"}),
        ] {
            assert!(message("X", data.clone()).is_history, "{data}");
        }
        for data in [
            json!({"isHistory": false}),
            json!({"isHistory": "0"}),
            json!({}),
        ] {
            assert!(!message("X", data.clone()).is_history, "{data}");
        }
    }

    #[test]
    fn only_the_end_actions_end_a_broadcast() {
        for action in [
            json!(3),
            json!(4),
            json!("3"),
            json!("CONTROL_ACTION_STREAM_ENDED"),
            json!("ControlAction.STREAM_SUSPENDED"),
        ] {
            assert!(
                message("X", json!({"action": action.clone()})).is_end(),
                "{action}"
            );
        }
        for action in [
            json!(1),
            json!(2),
            json!("CONTROL_ACTION_STREAM_PAUSED"),
            json!("34"),
            json!(3.5),
            json!(null),
            json!([3]),
        ] {
            assert!(
                !message("X", json!({"action": action.clone()})).is_end(),
                "{action}"
            );
        }
        assert!(message("X", json!({"Action": 3})).is_end());
        assert!(!message("X", json!({})).is_end());
    }

    #[test]
    fn sizes_are_about_what_is_written() {
        for file in ["encoded-v1", "encoded-v3", "observed-v2"] {
            let path = format!(
                "{}/../tests/fixtures/euler-ws/{file}.ndjson",
                env!("CARGO_MANIFEST_DIR")
            );
            for line in std::fs::read_to_string(path).unwrap().lines() {
                let object: Map<String, Value> = serde_json::from_str(line).unwrap();
                let (size, written) = (json_size(&object), line.len());
                assert!(
                    size * 4 > written * 3 && size * 3 < written * 4,
                    "{size} for {written}"
                );
            }
        }
    }
}
