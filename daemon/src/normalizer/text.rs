//! Upstream bytes to text that every consumer can keep.
//!
//! Comes in: a text field as it was on the wire. Goes out: UTF-8 without U+0000, at most
//! [`MAX_BYTES`] long; an empty one counts as absent. Bytes that are not UTF-8 become U+FFFD, the
//! rest of the text stays. The untouched bytes are always in the event's `raw`.

use serde_json::{Map, Value};

use crate::proto::webcast;

/// Longest text that goes into an event, in bytes; a chat line has at most some hundred.
pub(super) const MAX_BYTES: usize = 64 * 1024;

/// Longest text that is put together from a pattern and pieces, in bytes; the app shows a line. Few
/// bytes can become many here, and a message may hold many patterns.
const MAX_RENDERED: usize = 4 * 1024;
/// Longest place in a pattern, such as `{0:user}`, in bytes.
const MAX_PLACE: usize = 64;

/// Stands where something could not be kept; U+0000 is refused by Postgres' `jsonb`.
const REPLACEMENT: &str = "\u{fffd}";

/// The text of a field, `None` when it is empty.
pub(super) fn text(bytes: &[u8]) -> Option<String> {
    (!bytes.is_empty()).then(|| any_text(bytes))
}

/// The text of a field that may be empty.
pub(super) fn any_text(bytes: &[u8]) -> String {
    // One byte can become three.
    let read = &bytes[..bytes.len().min(MAX_BYTES)];
    let mut text = without_nul(&String::from_utf8_lossy(read));
    if read.len() < bytes.len() && text.ends_with(REPLACEMENT) {
        // The cut went through a character.
        text.truncate(text.trim_end_matches(REPLACEMENT).len());
    }
    if text.len() > MAX_BYTES {
        let cut = text.floor_char_boundary(MAX_BYTES);
        text.truncate(cut);
    }
    text
}

/// The same text with U+0000 replaced.
pub(super) fn without_nul(text: &str) -> String {
    text.replace('\0', REPLACEMENT)
}

/// The same JSON with U+0000 replaced in every text and name.
pub(super) fn json_without_nul(value: Value) -> Value {
    match value {
        Value::String(text) if text.contains('\0') => Value::String(without_nul(&text)),
        Value::Array(items) => items.into_iter().map(json_without_nul).collect(),
        Value::Object(object) => Value::Object(object_without_nul(object)),
        other => other,
    }
}

/// The same object with U+0000 replaced in every text and name.
pub(super) fn object_without_nul(object: Map<String, Value>) -> Map<String, Value> {
    object
        .into_iter()
        .map(|(name, value)| {
            let name = if name.contains('\0') {
                without_nul(&name)
            } else {
                name
            };
            (name, json_without_nul(value))
        })
        .collect()
}

/// An upstream id as text; 0 counts as absent.
pub(super) fn id(number: i64) -> Option<String> {
    (number != 0).then(|| number.to_string())
}

/// A count; TikTok's are signed, but less than nothing is nothing.
pub(super) fn count(number: impl TryInto<u64>) -> u64 {
    number.try_into().unwrap_or(0)
}

/// The address of a picture.
pub(super) fn image_url(image: Option<&webcast::Image>) -> Option<String> {
    image?.url_list.iter().find_map(|url| text(url))
}

/// The display type, which chooses what the app shows.
pub(super) fn display_type(common: Option<&webcast::Header>) -> Option<String> {
    text(&common?.display_text.as_ref()?.key)
}

/// What the app would show: the pattern with its places (`{0:user}`) filled from the pieces.
/// A place without a piece that is text, a user or a gift stays as it is.
pub(super) fn rendered(shown: Option<&webcast::Text>) -> Option<String> {
    let shown = shown?;
    let pattern = text(&shown.default_pattern)?;
    let mut result = String::with_capacity(pattern.len().min(MAX_RENDERED));
    let mut rest = pattern.as_str();
    while let Some(open) = rest.find('{') {
        let (before, place) = rest.split_at(open);
        result.push_str(before);
        let end = place.bytes().take(MAX_PLACE).position(|byte| byte == b'}');
        let filled = end.and_then(|close| {
            let number = place[1..close].split(':').next()?;
            let piece = shown.pieces.get(number.parse::<usize>().ok()?)?;
            Some((piece_text(piece)?, close))
        });
        rest = if let Some((piece, close)) = filled {
            result.push_str(&piece);
            &place[close + 1..]
        } else {
            result.push('{');
            &place[1..]
        };
        if result.len() > MAX_RENDERED {
            break;
        }
    }
    result.push_str(rest);
    result.truncate(result.floor_char_boundary(MAX_RENDERED));
    Some(result)
}

fn piece_text(piece: &webcast::TextPiece) -> Option<String> {
    let user = || piece.user_value.as_ref()?.user.as_ref();
    let gift = || piece.gift_value.as_ref()?.name_ref.as_ref();
    text(&piece.string_value)
        .or_else(|| text(&user()?.nickname))
        .or_else(|| text(&user()?.display_id))
        .or_else(|| text(&gift()?.default_pattern))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_can_be_kept() {
        assert_eq!(text(b""), None);
        assert_eq!(text(b"a\0b").unwrap(), "a\u{fffd}b");
        assert_eq!(text(b"a\xffb").unwrap(), "a\u{fffd}b");
        assert_eq!(
            text("مرحبا 🌹\u{202e}".as_bytes()).unwrap(),
            "مرحبا 🌹\u{202e}"
        );
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        for character in ["a", "é", "€", "🌹"] {
            for shift in 0..5 {
                let long = "-".repeat(shift) + &character.repeat(MAX_BYTES);
                let cut = text(long.as_bytes()).unwrap();
                assert!(cut.len() <= MAX_BYTES && cut.len() > MAX_BYTES - 4);
                assert!(long.starts_with(&cut), "{character} {shift}");
            }
        }
        // Each of these bytes grows to three.
        let cut = text(&vec![0xff; 2 * MAX_BYTES]).unwrap();
        assert!(cut.len() <= MAX_BYTES);
    }

    #[test]
    fn json_keeps_everything_but_nul() {
        let odd = serde_json::json!({"a\0": ["\0", {"b": 1, "c": null}], "d": "x"});
        assert_eq!(
            json_without_nul(odd),
            serde_json::json!({"a\u{fffd}": ["\u{fffd}", {"b": 1, "c": null}], "d": "x"})
        );
    }

    #[test]
    fn places_are_filled_from_the_pieces() {
        let piece = |text: &'static str| webcast::TextPiece {
            string_value: text.into(),
            ..Default::default()
        };
        let shown = |pattern: &'static str| {
            rendered(Some(&webcast::Text {
                default_pattern: pattern.into(),
                pieces: vec![piece("Ann"), piece("3"), webcast::TextPiece::default()],
                ..Default::default()
            }))
        };
        assert_eq!(
            shown("{0:user} is No. {1:string}!").unwrap(),
            "Ann is No. 3!"
        );
        for odd in [
            "{9:user}",
            "{2:image}",
            "{",
            "{x",
            "{}",
            "}{",
            "{0",
            "a {:} b",
        ] {
            assert_eq!(shown(odd).unwrap(), odd);
        }
        assert_eq!(shown(""), None);
        assert_eq!(rendered(None), None);
    }
}
