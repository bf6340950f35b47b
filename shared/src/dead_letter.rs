//! What both sides know of dead letters: where one can be put back, and what one never holds.
//!
//! Comes in: an error's text, or the original entry as JSON. Goes out: the same without secrets.
//! An error loses the query and the user part of every address, and every value that stands with
//! the name of a secret. The original entry must stay what it was, so that it can be processed
//! again: it loses only keys and cookies by their unmistakable names, and the queries of
//! addresses of Euler Stream.

use std::borrow::Cow;

/// What stands in place of a secret.
pub const REDACTED: &str = "[redacted]";

/// Names that stand before a secret, in lower case.
const SECRET_NAMES: [&str; 12] = [
    "x-api-key",
    "api-key",
    "api_key",
    "apikey",
    "jwt_key",
    "jwtkey",
    "sessionid_ss",
    "sessionid",
    "sid_guard",
    "sid_tt",
    "mstoken",
    "ttwid",
];
/// More of them, where an ordinary text is not to be kept.
const ERROR_NAMES: [&str; 6] = [
    "authorization",
    "password",
    "access_token",
    "token",
    "secret",
    "cookie",
];
/// In an original entry a shorter value is no key.
const KEY_CHARS: usize = 8;
/// Keys of Euler Stream begin so.
const EULER_KEY: &str = "euler_";
/// Hosts whose addresses hold our keys.
const UPSTREAM: &str = "eulerstream.com";

/// An error's text, free of secrets.
pub fn redact_error(text: &str) -> Cow<'_, str> {
    let cut = cut_addresses(text, |_| true);
    let cut = then(cut, |text| {
        mask_values(text, &SECRET_NAMES, &[":", "=", "%3d"], 1)
    });
    let cut = then(cut, |text| mask_values(text, &ERROR_NAMES, &[":", "="], 1));
    then(cut, mask_euler_keys)
}

/// The original entry as JSON, free of our secrets and otherwise as it was.
pub fn redact_payload(payload: &str) -> Cow<'_, str> {
    let cut = cut_addresses(payload, |host| host.ends_with(UPSTREAM));
    let cut = then(cut, |text| {
        mask_values(text, &SECRET_NAMES, &["=", "%3d"], KEY_CHARS)
    });
    // As a field of an object; `sessionId` is a field of ours and no secret.
    let cut = then(cut, |text| {
        mask_values(text, &SECRET_NAMES[..6], &[":"], KEY_CHARS)
    });
    then(cut, mask_euler_keys)
}

/// Applies one more step, and copies only when it changes something.
fn then(text: Cow<'_, str>, step: impl Fn(&str) -> Cow<'_, str>) -> Cow<'_, str> {
    match step(&text) {
        Cow::Borrowed(_) => text,
        Cow::Owned(changed) => Cow::Owned(changed),
    }
}

/// Takes the user part and the query out of the addresses whose host is chosen.
fn cut_addresses(text: &str, choose: impl Fn(&str) -> bool) -> Cow<'_, str> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(found) = rest.find("://") {
        let begin = found + 3;
        let length = rest[begin..]
            .find(|c: char| c.is_whitespace() || c.is_control() || "\"'<>`|{}\\".contains(c))
            .unwrap_or(rest.len() - begin);
        let address = &rest[begin..begin + length];
        let authority_end = address.find(['/', '?', '#', '\\']).unwrap_or(address.len());
        let (authority, tail) = address.split_at(authority_end);
        let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
        let name = host.split(':').next().unwrap_or(host).to_ascii_lowercase();
        out.push_str(&rest[..begin]);
        if choose(&name) {
            if !user.is_empty() {
                out.push_str(REDACTED);
                out.push('@');
            }
            out.push_str(host);
            match tail.find(['?', '#']) {
                Some(query) => {
                    out.push_str(&tail[..=query]);
                    out.push_str(REDACTED);
                }
                None => out.push_str(tail),
            }
        } else {
            out.push_str(address);
        }
        rest = &rest[begin + length..];
    }
    out.push_str(rest);
    if out == text {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(out)
    }
}

/// Masks what stands behind one of `names` and one of `signs`, when it is long enough.
fn mask_values<'a>(text: &'a str, names: &[&str], signs: &[&str], at_least: usize) -> Cow<'a, str> {
    // The same length as the text, byte by byte.
    let lower = text.to_ascii_lowercase();
    // In an original entry a blank ends what belongs together.
    let blanks = at_least < KEY_CHARS;
    let mut values: Vec<(usize, usize)> = Vec::new();
    for name in names {
        for (place, _) in lower.match_indices(name) {
            let after = place + name.len();
            let after = after + skip(&lower[after..], blanks);
            let Some(sign) = signs.iter().find(|sign| lower[after..].starts_with(**sign)) else {
                continue;
            };
            let mut begin = after + sign.len();
            begin += skip(&lower[begin..], blanks);
            if lower[begin..].starts_with("bearer ") {
                begin += "bearer ".len();
            }
            let length = text[begin..]
                .find(|c: char| !(c.is_ascii_alphanumeric() || "_.%+/=~-".contains(c)))
                .unwrap_or(text.len() - begin);
            if length >= at_least {
                values.push((begin, begin + length));
            }
        }
    }
    mask(text, values)
}

/// How many bytes of quotes, escapes and perhaps blanks a text begins with.
fn skip(text: &str, blanks: bool) -> usize {
    let skipped = |c: char| matches!(c, '"' | '\'' | '\\') || (blanks && c == ' ');
    text.len() - text.trim_start_matches(skipped).len()
}

fn mask_euler_keys(text: &str) -> Cow<'_, str> {
    let values = text
        .match_indices(EULER_KEY)
        .map(|(place, _)| {
            let length = text[place..]
                .find(|c: char| !(c.is_ascii_alphanumeric() || "_-".contains(c)))
                .unwrap_or(text.len() - place);
            (place, place + length)
        })
        .filter(|(begin, end)| end - begin >= EULER_KEY.len() + 16)
        .collect();
    mask(text, values)
}

/// Replaces the ranges, which may overlap.
fn mask(text: &str, mut ranges: Vec<(usize, usize)>) -> Cow<'_, str> {
    if ranges.is_empty() {
        return Cow::Borrowed(text);
    }
    ranges.sort_unstable();
    let mut out = String::with_capacity(text.len());
    let mut from = 0;
    for (begin, end) in ranges {
        if begin < from {
            from = from.max(end);
            continue;
        }
        out.push_str(&text[from..begin]);
        out.push_str(REDACTED);
        from = end;
    }
    out.push_str(&text[from..]);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CANARY: &str = "kAnArY0123456789";

    #[test]
    fn an_error_holds_no_secret() {
        for text in [
            format!("GET https://api.eulerstream.com/webcast/fetch?room_id=7&apiKey={CANARY}: 403"),
            format!("GET https://example.com/a?x={CANARY} failed"),
            format!("redis://:{CANARY}@localhost:6379/0 is away"),
            format!("postgres://user:{CANARY}@host/db"),
            format!("header x-api-key: {CANARY}"),
            format!("{{\"apiKey\":\"{CANARY}\"}}"),
            format!("cookie sessionid={CANARY}; other"),
            format!("sessionid_ss={CANARY}"),
            format!("authorization: Bearer {CANARY}"),
            format!("password = {CANARY}"),
            format!("a%26apiKey%3D{CANARY}"),
            format!("key euler_{CANARY}abcdefgh is refused"),
        ] {
            let redacted = redact_error(&text);
            assert!(!redacted.contains(CANARY), "{text} became {redacted}");
            assert!(redacted.contains(REDACTED), "{redacted}");
            assert_eq!(redact_error(&redacted), redacted, "twice is once");
        }
    }

    #[test]
    fn an_ordinary_error_stays() {
        for text in [
            "field `event` is wrong: EOF while parsing at line 1 column 20",
            "index row size 5,000 exceeds maximum (54000)",
            "GET https://api.eulerstream.com/webcast/fetch: 403 Forbidden",
            "",
        ] {
            assert!(matches!(redact_error(text), Cow::Borrowed(same) if same == text));
        }
    }

    #[test]
    fn a_payload_keeps_all_but_our_keys() {
        let ours = r#"{"sessionId":"0198b1c2-0000-7000-8000-000000000000","data":"{\"avatar\":\"https://p16.tiktokcdn.com/a.webp?x-expires=1&x-signature=AbCdEfGh%3D\",\"comment\":\"apiKey=abc sessionid= token=12345678\"}"}"#;
        assert!(matches!(redact_payload(ours), Cow::Borrowed(same) if same == ours));
        for text in [
            format!(r#"{{"data":"wss://ws.eulerstream.com?uniqueId=a&apiKey={CANARY}"}}"#),
            format!(r#"{{"data":"https://elsewhere.example/?a=1\u0026apiKey={CANARY}"}}"#),
            format!(r#"{{"data":"{{\"apiKey\":\"{CANARY}\"}}"}}"#),
            format!(r#"{{"data":"{{\"url\":\"wss://ws.eulerstream.com/?apiKey={CANARY}\"}}"}}"#),
            format!(r#"{{"data":"sessionid={CANARY}; tt-target-idc=x"}}"#),
            format!(r#"{{"data":"euler_{CANARY}"}}"#),
        ] {
            let redacted = redact_payload(&text);
            assert!(!redacted.contains(CANARY), "{text} became {redacted}");
            serde_json::from_str::<serde_json::Value>(&redacted).expect("still JSON");
        }
    }
}
