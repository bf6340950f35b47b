//! What the API asks of ingest: the entries of `ttlc:control`.
//!
//! An entry has one field, [`COMMAND`], which holds a [`Command`] as JSON:
//! `{"command": "track", "uniqueId": "alice"}`, or
//! `{"command": "replay.start", "sessionId": "…", "replayId": "…", "speed": 1}`. Written by the edge,
//! read by group `ingest`. A command may be obeyed twice, which changes nothing. What is no command becomes a dead letter of
//! stage `ingest` with reason `COMMAND_ERROR`; those behind it are obeyed all the same.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::replay::{BadSpeed, Speed};

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
    /// Show a stored session again. Its progress is in [`crate::replay::key`].
    #[serde(rename = "replay.start")]
    ReplayStart {
        /// The session to be shown; for that of a replay, its original is.
        session_id: Uuid,
        /// The id of the showing, a uuid v7: its `sessionId`. Made from the entry when left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        replay_id: Option<Uuid>,
        /// 1 when left out.
        speed: Speed,
    },
    /// End a replay that has not ended.
    #[serde(rename = "replay.cancel")]
    ReplayCancel {
        /// The id of the showing.
        replay_id: Uuid,
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
    /// Without the id of a session, or with something that is none.
    Session,
    /// Without the id of a replay, or with something that can be none.
    Replay,
    /// A speed that there is not.
    Speed,
}

impl std::fmt::Display for BadCommand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotAnObject => f.write_str("the command is no JSON object"),
            Self::Missing => f.write_str("the object has no `command`"),
            Self::Unknown(name) => write!(
                f,
                "unknown command {name:?}, use `track`, `untrack`, `replay.start` or `replay.cancel`"
            ),
            Self::Creator => write!(
                f,
                "`uniqueId` is no creator's name: letters, digits, `_`, `.` and `-`, at most {NAME_LENGTH}"
            ),
            Self::Session => f.write_str("`sessionId` is no session's id: a uuid"),
            Self::Replay => f.write_str(
                "`replayId` is no replay's id: a uuid of version 7, another than the session's",
            ),
            Self::Speed => BadSpeed.fmt(f),
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
        let id = |name: &str, wrong: BadCommand| match object.get(name) {
            None => Ok(None),
            Some(id) => Uuid::parse_str(id.as_str().unwrap_or_default())
                .map(Some)
                .map_err(|_| wrong),
        };
        // A v7 as the ids of all sessions: they sort by time.
        let replay_id = || match id("replayId", BadCommand::Replay)? {
            Some(id) if id.get_version_num() != 7 => Err(BadCommand::Replay),
            id => Ok(id),
        };
        match what {
            "replay.start" => {
                let session = id("sessionId", BadCommand::Session)?;
                let session_id = session.ok_or(BadCommand::Session)?;
                let replay_id = replay_id()?;
                if replay_id == Some(session_id) {
                    return Err(BadCommand::Replay);
                }
                Ok(Self::ReplayStart {
                    session_id,
                    replay_id,
                    speed: speed(&object)?,
                })
            }
            "replay.cancel" => Ok(Self::ReplayCancel {
                replay_id: replay_id()?.ok_or(BadCommand::Replay)?,
            }),
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

fn speed(object: &Map<String, Value>) -> Result<Speed, BadCommand> {
    match object.get("speed") {
        None => Ok(Speed::ORIGINAL),
        Some(speed) => Speed::deserialize(speed).map_err(|_| BadCommand::Speed),
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
        assert!(Command::parse(&long).unwrap_err().to_string().len() < 160);
    }

    #[test]
    fn replays_are_asked_for_and_ended() {
        let session = "018f2c3e-5b7a-7c3d-9e10-000000000001";
        let replay = "018f2c3e-5b7a-7c3d-9e10-000000000002";
        let start = Command::ReplayStart {
            session_id: session.parse().unwrap(),
            replay_id: Some(replay.parse().unwrap()),
            speed: Speed::Max,
        };
        let json = serde_json::to_string(&start).unwrap();
        assert_eq!(
            json,
            format!(
                r#"{{"command":"replay.start","sessionId":"{session}","replayId":"{replay}","speed":"max"}}"#
            )
        );
        assert_eq!(Command::parse(&json), Ok(start));
        // Any uuid can be a session's; without more it is shown as it was.
        let short = r#"{"command":"replay.start","sessionId":"936DA01F9ABD4D9D80C702AF85C822A8"}"#; // secret-scan: allow, an id that we made up
        let Ok(Command::ReplayStart {
            replay_id, speed, ..
        }) = Command::parse(short)
        else {
            panic!("{:?}", Command::parse(short))
        };
        assert_eq!((replay_id, speed), (None, Speed::ORIGINAL));
        let cancel = Command::ReplayCancel {
            replay_id: replay.parse().unwrap(),
        };
        let json = serde_json::to_string(&cancel).unwrap();
        assert_eq!(Command::parse(&json), Ok(cancel));

        let v4 = "936da01f-9abd-4d9d-80c7-02af85c822a8";
        for (more, reason) in [
            (String::new(), "`sessionId`"),
            (r#","sessionId":"x""#.to_owned(), "`sessionId`"),
            (r#","sessionId":null"#.to_owned(), "`sessionId`"),
            (
                format!(r#","sessionId":"{session}","replayId":"{v4}""#),
                "`replayId`",
            ),
            (
                format!(r#","sessionId":"{session}","replayId":7"#),
                "`replayId`",
            ),
            (
                format!(r#","sessionId":"{session}","replayId":"{session}""#),
                "`replayId`",
            ),
            (format!(r#","sessionId":"{session}","speed":0"#), "`speed`"),
            (
                format!(r#","sessionId":"{session}","speed":"fast""#),
                "`speed`",
            ),
            (
                format!(r#","sessionId":"{session}","speed":null"#),
                "`speed`",
            ),
        ] {
            let json = format!(r#"{{"command":"replay.start"{more}}}"#);
            let error = Command::parse(&json).unwrap_err().to_string();
            assert!(error.contains(reason), "{json}: {error}");
        }
        for json in [
            r#"{"command":"replay.cancel"}"#,
            r#"{"command":"replay.cancel","replayId":"x"}"#,
        ] {
            assert_eq!(Command::parse(json), Err(BadCommand::Replay), "{json}");
        }
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
