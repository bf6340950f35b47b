//! Who an event is: its id, and the numbers the id is made of.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};

/// The largest `seqNo`: above it a JSON number is no longer exact in every reader.
pub const MAX_SEQ_NO: u64 = (1 << 53) - 1;

/// Sequence numbers given per millisecond of a room's life before they could run ahead of the
/// clock: room for 16,000 messages a second.
const SEQ_PER_MS: u64 = 16;

/// The idempotency key of one event: `sha256(streamId ":" seqNo ":" type)`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId([u8; 32]);

/// A text that is not 64 lower-case hexadecimal digits.
#[derive(Debug, thiserror::Error)]
#[error("an event id has 64 hexadecimal digits")]
pub struct InvalidEventId;

impl EventId {
    /// The id of the message `kind` (raw type) with this `seq_no` in this room.
    ///
    /// Unambiguous because a `streamId` holds digits only (see [`is_stream_id`]).
    pub fn new(stream_id: &str, seq_no: u64, kind: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(stream_id.as_bytes());
        hash.update(b":");
        hash.update(seq_no.to_string().as_bytes());
        hash.update(b":");
        hash.update(kind.as_bytes());
        Self(hash.finalize().into())
    }

    /// From its 32 bytes, as Postgres stores it.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its 32 bytes, as Postgres stores it.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; 64];
        hex::encode_to_slice(self.0, &mut text).map_err(|_| fmt::Error)?;
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for EventId {
    type Err = InvalidEventId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| InvalidEventId)?;
        Ok(Self(bytes))
    }
}

impl Serialize for EventId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EventId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for EventId {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "EventId".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "hex(sha256(streamId + \":\" + seqNo + \":\" + type)): the idempotency key",
            "pattern": "^[0-9a-f]{64}$",
        })
    }
}

/// The first `seqNo` of a session: above everything the room has used before.
///
/// `last_known` is the highest number remembered for the room, if any; `now_ms` is the clock.
/// A wiped memory is survived by the clock, a clock that went back by the memory.
pub fn first_seq_no(last_known: Option<u64>, now_ms: i64) -> u64 {
    let by_clock = u64::try_from(now_ms)
        .unwrap_or(0)
        .saturating_mul(SEQ_PER_MS);
    let by_memory = last_known.map_or(0, |last| last.saturating_add(1));
    by_clock.max(by_memory).min(MAX_SEQ_NO)
}

/// Whether a text can be a TikTok room id: 1 to 20 decimal digits and not just zeroes.
pub fn is_stream_id(text: &str) -> bool {
    (1..=20).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_digit())
        && text.bytes().any(|byte| byte != b'0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_id_is_the_published_formula() {
        // echo -n '7301234567890123456:28640000000123:WebcastGiftMessage' | sha256sum
        let id = EventId::new(
            "7301234567890123456",
            28_640_000_000_123,
            "WebcastGiftMessage",
        );
        assert_eq!(
            id.to_string(),
            "dc3bb37f9064ccd0f49e1367edb5efcc12ac79e09a29244ab9a16e3b08004079"
        );
        assert_eq!(id.to_string().parse::<EventId>().unwrap(), id);
        assert!("9f2c".parse::<EventId>().is_err());
    }

    #[test]
    fn a_session_starts_above_memory_and_clock() {
        assert_eq!(first_seq_no(None, 1_000), 16_000);
        assert_eq!(first_seq_no(Some(20_000), 1_000), 20_001);
        assert_eq!(first_seq_no(Some(3), 1_000), 16_000);
        assert_eq!(first_seq_no(None, -5), 0);
        assert_eq!(first_seq_no(Some(u64::MAX), 0), MAX_SEQ_NO);
        // Good for a long while: the year 2255 in milliseconds still fits.
        assert!(first_seq_no(None, 9_000_000_000_000) < MAX_SEQ_NO);
    }

    #[test]
    fn stream_ids_are_digits() {
        assert!(is_stream_id("7301234567890123456"));
        for bad in ["", "0", "000", "73a", "7:3", "123456789012345678901", "-7"] {
            assert!(!is_stream_id(bad), "{bad}");
        }
    }
}
