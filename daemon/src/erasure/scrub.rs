//! A value of an event without erased viewers; the function `erasure_scrub` of the database does the
//! same.
//!
//! An object that has the id of one is about them: all its texts go. Elsewhere what names them goes. The
//! form stays what it was: texts stay texts, numbers numbers.

use serde_json::{Map, Value};

use super::{MARK, Tombstones};

/// A shorter id is one only where the name of the field says so.
const ID_DIGITS: usize = 6;
/// Texts of ours beside an id: they say what something is.
const OURS: [&str; 5] = ["result", "teamId", "type", "kind", "status"];

/// Whether there was anything.
pub(super) fn scrub(tombstones: &Tombstones, value: &mut Value, at: i64) -> bool {
    match value {
        Value::Object(object) => {
            let about = !object.contains_key("rawType")
                && object.iter().any(|(name, value)| {
                    let id = match value {
                        Value::String(text) => text.clone(),
                        Value::Number(number) => number.to_string(),
                        _ => return false,
                    };
                    is_id(name, &id) && tombstones.own(&id, at)
                });
            let mut changed = false;
            let mut clean = Map::new();
            for (name, mut value) in std::mem::take(object) {
                if about && value.is_string() && !OURS.contains(&name.as_str()) {
                    changed |= value != MARK;
                    value = MARK.into();
                } else if name != "rawType" {
                    changed |= scrub(tombstones, &mut value, at);
                }
                let renamed = replaced(tombstones, &name, at);
                changed |= renamed.is_some();
                clean.insert(renamed.unwrap_or(name), value);
            }
            *object = clean;
            changed
        }
        Value::Array(items) => items
            .iter_mut()
            .fold(false, |changed, item| scrub(tombstones, item, at) | changed),
        Value::String(text) => match replaced(tombstones, text, at) {
            Some(clean) => {
                *text = clean;
                true
            }
            None => false,
        },
        Value::Number(number) => {
            let text = number.to_string();
            let is_one = text.len() >= ID_DIGITS && is_id("", &text) && tombstones.own(&text, at);
            if is_one {
                *value = 0.into();
            }
            is_one
        }
        Value::Bool(_) | Value::Null => false,
    }
}

fn is_id(name: &str, text: &str) -> bool {
    let name = name.to_ascii_lowercase();
    (1..=20).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_digit())
        && (text.len() >= ID_DIGITS
            || name
                .find("user")
                .is_some_and(|place| name.ends_with("id") && place + 6 <= name.len()))
}

/// A text without what names them; `None` when there is nothing.
fn replaced(tombstones: &Tombstones, text: &str, at: i64) -> Option<String> {
    let found = tombstones.traces.in_text(text, at);
    if found.is_empty() {
        return None;
    }
    let mut clean = String::with_capacity(text.len());
    let mut from = 0;
    for place in found {
        // The bytes of a trace are a text of their own: its ends are ends of characters here too.
        clean.push_str(text.get(from..place.start).unwrap_or_default());
        clean.push_str(MARK);
        from = place.end;
    }
    clean.push_str(text.get(from..).unwrap_or_default());
    Some(clean)
}
