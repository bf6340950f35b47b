//! The parts of a message's JSON that ingest needs, and how its names and numbers are read.
//!
//! Comes in: a message as the provider `euler` delivers it, in the names of any schema version.
//! Goes out: its header, the number of a control message. Bad input: what is missing or of another
//! type counts as absent.

use serde_json::{Map, Value};

use super::{Header, in_millis};

/// Reads the header of a message: `common`, in the oldest schema `event`, else the message itself
/// (flat recordings). A value of 0 counts as absent, a time in seconds is converted.
pub fn json_header(message: &Map<String, Value>) -> Header {
    let inner = ["common", "event"]
        .into_iter()
        .find_map(|name| get(message, name)?.as_object());
    let field = |name| {
        let found = get(inner.unwrap_or(message), name).and_then(number)?;
        (found != 0).then_some(found)
    };
    Header {
        msg_id: field("msgid"),
        room_id: field("roomid"),
        create_time_ms: field("createtime").map(in_millis),
    }
}

/// The number of a `WebcastControlMessage`: 3 and 4 end the broadcast.
pub fn json_control_action(message: &Map<String, Value>) -> Option<i32> {
    i32::try_from(number(get(message, "action")?)?).ok()
}

/// The value of a name that is given folded.
fn get<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    object.get(name).or_else(|| {
        let known = object
            .iter()
            .find(|(key, _)| Folded::of(key).is_some_and(|key| key.as_bytes() == name.as_bytes()));
        known.map(|(_, value)| value)
    })
}

/// A name without underscores and in lower case: `msgId`, `MsgId` and `msg_id` are one.
pub(crate) struct Folded {
    bytes: [u8; Self::LONGEST],
    length: usize,
}

impl Folded {
    /// No field of ours has a longer name.
    const LONGEST: usize = 48;

    /// `None` when it is longer than any name we know.
    pub(crate) fn of(name: &str) -> Option<Self> {
        let mut folded = Self {
            bytes: [0; Self::LONGEST],
            length: 0,
        };
        for byte in name.bytes().filter(|&byte| byte != b'_') {
            *folded.bytes.get_mut(folded.length)? = byte.to_ascii_lowercase();
            folded.length += 1;
        }
        Some(folded)
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// Enumerations are numbers in JSON; some writers put TikTok's names.
const ENUM_NAMES: [(&str, i64); 6] = [
    ("CONTROL_ACTION_STREAM_PAUSED", 1),
    ("CONTROL_ACTION_STREAM_UNPAUSED", 2),
    ("CONTROL_ACTION_STREAM_ENDED", 3),
    ("CONTROL_ACTION_STREAM_SUSPENDED", 4),
    ("SUB_SUCCESS", 0),
    ("ANCHOR_REMINDER", 1),
];

/// A number, flag or enumeration, whichever way it is written. Numbers of 64 bits are texts as a
/// rule and never go through floating point; unsigned ones keep their bits, as in protobuf.
pub(crate) fn number(value: &Value) -> Option<i64> {
    const LARGEST_EXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Bool(flag) => Some(i64::from(*flag)),
        Value::Number(number) => number
            .as_i64()
            .or_else(|| number.as_u64().map(u64::cast_signed))
            .or_else(|| {
                let float = number.as_f64()?;
                let exact = float.fract() == 0.0 && float.abs() <= LARGEST_EXACT;
                #[expect(clippy::cast_possible_truncation, reason = "a whole number below 2^53")]
                exact.then_some(float as i64)
            }),
        Value::String(text) => match text.as_str() {
            "true" => Some(1),
            "false" => Some(0),
            digits => digits
                .parse()
                .ok()
                .or_else(|| digits.parse().ok().map(u64::cast_signed))
                .or_else(|| {
                    let known = ENUM_NAMES.iter().find(|(name, _)| *name == digits);
                    known.map(|(_, number)| *number)
                }),
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: &Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn the_header_is_found_in_every_naming() {
        let wanted = Header {
            msg_id: Some(7_301_234_600_000_065_537),
            room_id: Some(7_301_234_567_890_123_456),
            create_time_ms: Some(1_763_800_000_000),
        };
        for message in [
            json!({"common": {"msgId": "7301234600000065537", "roomId": "7301234567890123456", "createTime": "1763800000000"}}),
            json!({"common": {"msg_id": 7_301_234_600_000_065_537_u64, "room_id": 7_301_234_567_890_123_456_u64, "create_time": 1_763_800_000}}),
            json!({"event": {"msgId": "7301234600000065537", "roomId": "7301234567890123456", "createTime": "1763800000"}}),
            json!({"msgId": "7301234600000065537", "roomId": "7301234567890123456", "createTime": "1763800000000", "user": {"createTime": "5"}}),
            // A barrage has both; its `event` is something else.
            json!({"common": {"msgId": "7301234600000065537", "roomId": "7301234567890123456", "createTime": "1763800000000"}, "event": {"eventName": "x", "msgId": "1"}}),
        ] {
            assert_eq!(json_header(&object(&message)), wanted, "{message}");
        }
    }

    #[test]
    fn what_is_absent_zero_or_odd_is_no_header() {
        for message in [
            json!({}),
            json!({"common": {}}),
            json!({"common": {"msgId": "0", "roomId": 0, "createTime": "0"}}),
            json!({"common": {"msgId": "x", "roomId": [], "createTime": {}}, "msgId": "5"}),
            json!({"common": null, "event": 3}),
        ] {
            assert_eq!(json_header(&object(&message)), Header::default());
        }
    }

    #[test]
    fn a_control_action_is_a_number_a_text_or_a_name() {
        for (action, wanted) in [
            (json!(3), Some(3)),
            (json!("4"), Some(4)),
            (json!("CONTROL_ACTION_STREAM_ENDED"), Some(3)),
            (json!("CONTROL_ACTION_2027"), None),
            (json!(1_u64 << 40), None),
            (json!(null), None),
        ] {
            let message = object(&json!({ "action": action }));
            assert_eq!(json_control_action(&message), wanted, "{action}");
        }
        assert_eq!(json_control_action(&object(&json!({}))), None);
    }

    #[test]
    fn numbers_of_64_bits_are_exact() {
        for (value, wanted) in [
            (json!("9223372036854775807"), Some(i64::MAX)),
            (json!(u64::MAX), Some(-1)),
            (json!("18446744073709551615"), Some(-1)),
            (json!(-3), Some(-3)),
            (json!(1629.0), Some(1629)),
            (json!(true), Some(1)),
            (json!("false"), Some(0)),
            (json!(1.5), None),
            (json!(1e300), None),
            (json!(""), None),
            (json!("12a"), None),
            (json!(["1"]), None),
        ] {
            assert_eq!(number(&value), wanted, "{value}");
        }
    }
}
