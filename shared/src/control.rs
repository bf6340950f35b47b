//! What the API asks of ingest: the entries of `ttlc:control`.
//!
//! An entry has one field, [`COMMAND`], which holds a [`Command`] as JSON:
//! `{"command": "track", "uniqueId": "alice"}`. Written by the edge, read by group `ingest`. A
//! command may be obeyed twice, which changes nothing. What is no command becomes a dead letter of
//! stage `ingest` with reason `COMMAND_ERROR`; those behind it are obeyed all the same.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The field of an entry that holds the command.
pub const COMMAND: &str = "command";

/// One thing that ingest shall do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "command",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum Command {
    /// Follow a creator from now on, also after a restart.
    Track {
        /// The creator's name; [`creator_name`] says which spellings are taken.
        unique_id: String,
    },
    /// Follow a creator no more, also one that `TIKTOK_UNIQUE_ID` names.
    Untrack {
        /// As in [`Command::Track`].
        unique_id: String,
    },
}

/// Why a text is no command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadCommand {
    /// Not a JSON object.
    NotAnObject,
    /// It does not say what to do.
    Missing,
    /// Nothing that ingest can do; at most 40 characters of it.
    Unknown(String),
    /// Without a creator, or with something that is no creator's name.
    Creator,
}

impl std::fmt::Display for BadCommand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotAnObject => f.write_str("the command is no JSON object"),
            Self::Missing => f.write_str("the object has no `command`"),
            Self::Unknown(name) => write!(f, "unknown command {name:?}, use `track` or `untrack`"),
            Self::Creator => write!(
                f,
                "`uniqueId` is no creator's name: letters, digits, `_`, `.` and `-`, at most {NAME_LENGTH}"
            ),
        }
    }
}

impl std::error::Error for BadCommand {}

impl Command {
    /// Reads a command; `type` is taken for `command`, and the name in any of its spellings.
    pub fn parse(json: &str) -> Result<Self, BadCommand> {
        let Ok(Value::Object(object)) = serde_json::from_str(json) else {
            return Err(BadCommand::NotAnObject);
        };
        let what = object.get("command").or_else(|| object.get("type"));
        let what = what.and_then(Value::as_str).ok_or(BadCommand::Missing)?;
        let unique_id = || {
            let text = object.get("uniqueId").and_then(Value::as_str);
            let name = text.and_then(creator_name).ok_or(BadCommand::Creator)?;
            Ok(name.to_owned())
        };
        match what {
            "track" => Ok(Self::Track {
                unique_id: unique_id()?,
            }),
            "untrack" => Ok(Self::Untrack {
                unique_id: unique_id()?,
            }),
            other => Err(BadCommand::Unknown(other.chars().take(40).collect())),
        }
    }
}

/// The longest name that is taken; TikTok's own have 24 characters at most.
const NAME_LENGTH: usize = 64;

/// The bare name in `name`, `@name` or `https://www.tiktok.com/@name/live?…`; `None` if there is
/// none. TikTok does not tell upper from lower case; the spelling is kept.
pub fn creator_name(text: &str) -> Option<&str> {
    let text = text.trim();
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let path = match rest.split_once('/') {
        Some((host, path)) if is_tiktok(host) => path,
        _ => rest,
    };
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let path = path.trim_end_matches('/');
    let path = path.strip_suffix("/live").unwrap_or(path);
    let name = path.strip_prefix('@').unwrap_or(path).trim();
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    ((1..=NAME_LENGTH).contains(&name.len()) && name.bytes().all(good)).then_some(name)
}

fn is_tiktok(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    host == "tiktok.com" || host.ends_with(".tiktok.com")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_what_it_is_written_as() {
        let track = Command::Track {
            unique_id: "alice".to_owned(),
        };
        let json = serde_json::to_string(&track).unwrap();
        assert_eq!(json, r#"{"command":"track","uniqueId":"alice"}"#);
        assert_eq!(Command::parse(&json), Ok(track));
        let untrack = Command::Untrack {
            unique_id: "Bob_1".to_owned(),
        };
        let json =
            r#"{"type":"untrack","uniqueId":"https://www.tiktok.com/@Bob_1/live?lang=en","by":1}"#;
        assert_eq!(Command::parse(json), Ok(untrack));
    }

    #[test]
    fn what_is_no_command_says_why() {
        for (json, reason) in [
            ("", "no JSON object"),
            ("[]", "no JSON object"),
            ("{}", "no `command`"),
            (r#"{"command":7}"#, "no `command`"),
            (
                r#"{"command":"dance","uniqueId":"a"}"#,
                "unknown command \"dance\"",
            ),
            (r#"{"command":"track"}"#, "`uniqueId`"),
            (r#"{"command":"untrack","uniqueId":"a b"}"#, "`uniqueId`"),
            (r#"{"command":"track","uniqueId":7}"#, "`uniqueId`"),
        ] {
            let error = Command::parse(json).unwrap_err().to_string();
            assert!(error.contains(reason), "{json}: {error}");
        }
        let long = format!(r#"{{"command":"{}"}}"#, "x".repeat(10_000));
        assert!(Command::parse(&long).unwrap_err().to_string().len() < 100);
    }

    #[test]
    fn names_come_in_many_spellings() {
        for (text, name) in [
            ("alice", "alice"),
            (" @Bob ", "Bob"),
            ("https://www.tiktok.com/@carol.x/live?lang=en", "carol.x"),
            ("tiktok.com/@dave_1/", "dave_1"),
            ("room-a", "room-a"),
        ] {
            assert_eq!(creator_name(text), Some(name));
        }
        for bad in [
            "",
            "a b",
            "https://example.org/@alice",
            "https://eviltiktok.com/@alice",
            "@",
            "a/b",
            "ä",
            &"x".repeat(65),
        ] {
            assert_eq!(creator_name(bad), None, "{bad}");
        }
    }
}
