//! What Postgres would take and no reader could read again, or the other way round.
//!
//! In: an event's JSON. Out: nothing, or why it is refused. The normalizer makes none of these;
//! an entry that has one comes from elsewhere, and is a dead letter before it can spoil a batch.
//!
//! - U+0000 and lone surrogates: JSON has them, Postgres has not.
//! - Numbers beyond a 64-bit float, such as `1e400`: `jsonb` takes them (and writes `1e100000`
//!   out in 100,001 digits), JSON libraries refuse them.
//! - More than 127 levels: `jsonb` goes deeper, `serde_json` does not.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// Refuses an event that cannot be stored and read again.
pub(super) fn check(json: &str) -> Result<(), serde_json::Error> {
    serde_json::from_str::<Storable>(json).map(|Storable| ())
}

/// Any JSON value of which nothing is kept.
struct Storable;

impl<'de> Deserialize<'de> for Storable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Storable {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self, E> {
        if text.contains('\0') {
            return Err(E::custom("a text holds U+0000"));
        }
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self, A::Error> {
        while items.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self, A::Error> {
        while entries.next_entry::<Self, Self>()?.is_some() {}
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_json_passes() {
        for good in [
            r#"{"a":[1,-1,1.5,18446744073709551615,1e308,-0,true,null,"x\u0001\ud83d\ude00"]}"#,
            &format!("{}1{}", "[".repeat(127), "]".repeat(127)),
        ] {
            check(good).unwrap();
        }
    }

    #[test]
    fn what_no_store_and_no_reader_agree_on_is_refused() {
        for (bad, why) in [
            (r#"{"a":"b\u0000"}"#.to_owned(), "U+0000"),
            (r#"{"a\u0000":1}"#.to_owned(), "U+0000"),
            (r#"["\ud800"]"#.to_owned(), "surrogate"),
            (r#"["\ud800x"]"#.to_owned(), "surrogate"),
            (r#"["\udc00\ud800"]"#.to_owned(), "surrogate"),
            ("[1e400]".to_owned(), "number out of range"),
            ("[-1e100000]".to_owned(), "number out of range"),
            (
                format!("{}1{}", "[".repeat(128), "]".repeat(128)),
                "recursion limit",
            ),
            (
                format!("{}1{}", "{\"a\":".repeat(20_000), "}".repeat(20_000)),
                "recursion limit",
            ),
        ] {
            let error = check(&bad).unwrap_err().to_string();
            assert!(
                error.contains(why) || (why == "surrogate" && error.contains("hex escape")),
                "{error}"
            );
        }
    }
}
