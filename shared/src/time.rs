//! Points in time as the contract writes them: RFC 3339, UTC, exactly three decimals.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Milliseconds since the Unix epoch, UTC; written as `2026-11-22T15:04:05.678Z`.
///
/// Between the years 0 and 9999: every value has one text form, and text sorts like time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(jiff::Timestamp);

/// Why a text or a number is no [`Timestamp`].
#[derive(Debug, thiserror::Error)]
#[error("not a point in time: {0}")]
pub struct InvalidTimestamp(String);

const MIN_MS: i64 = -62_167_219_200_000; // 0000-01-01T00:00:00.000Z

impl Timestamp {
    /// From Unix milliseconds; out of range values are clamped to the range, since the numbers
    /// come from upstream and a wrong clock there must not stop an event.
    pub fn from_millis(ms: i64) -> Self {
        let max = jiff::Timestamp::MAX.as_millisecond();
        // In range after the clamp: the fallback is never taken.
        Self(
            jiff::Timestamp::from_millisecond(ms.clamp(MIN_MS, max))
                .unwrap_or(jiff::Timestamp::MAX),
        )
    }

    /// Unix milliseconds.
    pub fn as_millis(self) -> i64 {
        self.0.as_millisecond()
    }

    /// The instant as the calendar library's type, for databases and formatting.
    pub fn to_jiff(self) -> jiff::Timestamp {
        self.0
    }
}

impl From<jiff::Timestamp> for Timestamp {
    /// Cuts to whole milliseconds.
    fn from(value: jiff::Timestamp) -> Self {
        Self::from_millis(value.as_millisecond())
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.0)
    }
}

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<jiff::Timestamp>()
            .map(Self::from)
            .map_err(|error| InvalidTimestamp(error.to_string()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Timestamp {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Timestamp".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "RFC 3339, UTC, milliseconds",
            "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_three_decimals_and_comes_back() {
        for ms in [0, 1, 999, 1_763_800_000_000, 1_763_800_000_250, -1] {
            let time = Timestamp::from_millis(ms);
            assert_eq!(time.to_string().parse::<Timestamp>().unwrap(), time);
            assert_eq!(time.as_millis(), ms);
        }
        assert_eq!(
            Timestamp::from_millis(1_763_800_000_250).to_string(),
            "2025-11-22T08:26:40.250Z"
        );
        assert_eq!(
            Timestamp::from_millis(0).to_string(),
            "1970-01-01T00:00:00.000Z"
        );
    }

    #[test]
    fn other_offsets_and_precisions_are_read_and_normalized() {
        let time: Timestamp = "2026-11-22T16:04:05.678912+01:00".parse().unwrap();
        assert_eq!(time.to_string(), "2026-11-22T15:04:05.678Z");
        assert!("yesterday".parse::<Timestamp>().is_err());
    }

    #[test]
    fn absurd_numbers_are_clamped() {
        assert!(
            Timestamp::from_millis(i64::MAX)
                .to_string()
                .starts_with("9999-12-")
        );
        assert_eq!(
            Timestamp::from_millis(i64::MIN).to_string(),
            "0000-01-01T00:00:00.000Z"
        );
    }
}
