//! The query parameters of a request.
//!
//! Comes in: the raw query. Goes out: checked values. A name that the path does not know, a name
//! that stands twice, or a value that does not fit is a problem that names the parameter; nothing
//! is guessed or cut to size.

use shared::api::{Cursor, List, ListCursor, StreamStatus};
use shared::event::EventType;
use url::form_urlencoded;
use uuid::Uuid;

use crate::problem::Problem;

/// Items of a list, unless the client says how many.
const DEFAULT_ITEMS: u32 = 50;
/// Items of a list at most.
const MAX_ITEMS: u32 = 200;
/// Events of a page, unless the client says how many.
const DEFAULT_EVENTS: u32 = 200;
/// Events of a page at most.
const MAX_EVENTS: u32 = 1_000;

/// The parameters of a query, each at most once.
#[derive(Debug)]
pub(crate) struct Params(Vec<(String, String)>);

impl Params {
    /// Reads a query; `known` are the names that its path knows.
    pub(crate) fn parse(query: Option<&str>, known: &[&str]) -> Result<Self, Problem> {
        let mut params: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            if !known.contains(&name.as_ref()) {
                let known = if known.is_empty() {
                    "none".to_owned()
                } else {
                    known.join(", ")
                };
                return Err(Problem::bad_parameter(
                    &name,
                    format!("unknown parameter; known here: {known}"),
                ));
            }
            if params.iter().any(|(other, _)| *other == name) {
                return Err(Problem::bad_parameter(&name, "stands more than once"));
            }
            params.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self(params))
    }

    /// The value of a parameter.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(other, _)| other == name)
            .map(|(_, value)| value.as_str())
    }

    /// `limit` of a list.
    pub(crate) fn items(&self) -> Result<u32, Problem> {
        self.limit(DEFAULT_ITEMS, MAX_ITEMS)
    }

    /// `limit` of a page of events.
    pub(crate) fn events(&self) -> Result<u32, Problem> {
        self.limit(DEFAULT_EVENTS, MAX_EVENTS)
    }

    fn limit(&self, default: u32, max: u32) -> Result<u32, Problem> {
        match self.get("limit") {
            None => Ok(default),
            Some(text) => match text.parse() {
                Ok(limit) if (1..=max).contains(&limit) => Ok(limit),
                _ => Err(Problem::bad_parameter(
                    "limit",
                    format!("limit is a number from 1 to {max}"),
                )),
            },
        }
    }

    /// `after` of a list.
    pub(crate) fn list_cursor(&self, list: List) -> Result<Option<ListCursor>, Problem> {
        self.get("after")
            .map(|text| {
                ListCursor::parse(text, list).map_err(|_| {
                    Problem::bad_parameter("after", "after is the `next` of a former page")
                })
            })
            .transpose()
    }

    /// `status` of a list of broadcasts.
    pub(crate) fn status(&self) -> Result<Option<StreamStatus>, Problem> {
        self.get("status")
            .map(|text| {
                StreamStatus::from_name(text).ok_or_else(|| {
                    let names = StreamStatus::ALL.map(StreamStatus::as_str).join(", ");
                    Problem::bad_parameter("status", format!("status is one of: {names}"))
                })
            })
            .transpose()
    }

    /// `username` of a list of broadcasts, with or without the @.
    pub(crate) fn username(&self) -> Result<Option<String>, Problem> {
        self.get("username")
            .map(|text| {
                let name = text.strip_prefix('@').unwrap_or(text);
                if is_username(name) {
                    Ok(name.to_owned())
                } else {
                    Err(Problem::bad_parameter("username", "not a creator's name"))
                }
            })
            .transpose()
    }

    /// `type` of a page of events: names of event types, separated by commas.
    pub(crate) fn types(&self) -> Result<Option<Vec<&'static str>>, Problem> {
        self.get("type")
            .map(|text| {
                text.split(',')
                    .map(|name| {
                        EventType::from_name(name)
                            .map(EventType::as_str)
                            .ok_or_else(|| {
                                let names = EventType::ALL.map(EventType::as_str).join(", ");
                                Problem::bad_parameter(
                                    "type",
                                    format!(
                                        "type is one or more, separated by commas, of: {names}"
                                    ),
                                )
                            })
                    })
                    .collect()
            })
            .transpose()
    }
}

/// Where a reader of events is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// Before the first stored event.
    Start,
    /// After this one.
    Cursor(Cursor),
}

impl After {
    /// Reads the value of the parameter or header `field`.
    pub(crate) fn parse(field: &str, text: &str) -> Result<Self, Problem> {
        if text == "start" {
            return Ok(Self::Start);
        }
        text.parse().map(Self::Cursor).map_err(|_| {
            Problem::bad_parameter(
                field,
                format!("{field} is the id of an event of this stream, or start"),
            )
        })
    }

    /// Refuses a cursor of another stream.
    pub(crate) fn of_stream(&self, field: &str, stream_id: &str) -> Result<(), Problem> {
        match self {
            Self::Cursor(cursor) if cursor.stream_id != stream_id => Err(Problem::bad_parameter(
                field,
                format!("{field} is a place in another stream"),
            )),
            _ => Ok(()),
        }
    }
}

/// The id of a session; what is none is the id of nothing.
pub(crate) fn session_id(text: &str) -> Result<Uuid, Problem> {
    // The form with hyphens only: an id has one text.
    Uuid::parse_str(text)
        .ok()
        .filter(|id| id.to_string().eq_ignore_ascii_case(text))
        .ok_or_else(|| no_session(text))
}

/// No session has this id.
pub(crate) fn no_session(text: &str) -> Problem {
    let shown: String = text.chars().take(64).collect();
    Problem::not_found(format!("no session has the id {shown}"))
}

/// Whether a text can be a creator's @name.
pub(crate) fn is_username(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;
    use http::StatusCode;

    use super::*;

    const KNOWN: [&str; 5] = ["limit", "after", "status", "username", "type"];

    fn params(query: &str) -> Params {
        Params::parse(Some(query), &KNOWN).unwrap()
    }

    /// The parameter that a problem names.
    fn field(problem: Problem) -> String {
        assert_eq!(problem.status(), StatusCode::BAD_REQUEST);
        let body = axum::body::to_bytes(problem.into_response().into_body(), 10_000);
        let body = futures_util::FutureExt::now_or_never(body)
            .unwrap()
            .unwrap();
        let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
        json["field"].as_str().unwrap().to_owned()
    }

    #[test]
    fn unknown_and_repeated_names_are_refused() {
        let error = Params::parse(Some("limit=5&colour=red"), &KNOWN).unwrap_err();
        assert_eq!(field(error), "colour");
        let error = Params::parse(Some("limit=5&limit=6"), &KNOWN).unwrap_err();
        assert_eq!(field(error), "limit");
        assert!(Params::parse(None, &[]).is_ok());
        assert!(Params::parse(Some(""), &[]).is_ok());
    }

    #[test]
    fn limits_have_a_range() {
        assert_eq!(params("").items(), Ok(50));
        assert_eq!(params("limit=1").items(), Ok(1));
        assert_eq!(params("limit=200").items(), Ok(200));
        assert_eq!(params("limit=1000").events(), Ok(1_000));
        for bad in ["0", "201", "-1", "1.5", "", "x", "99999999999"] {
            let error = params(&format!("limit={bad}")).items().unwrap_err();
            assert_eq!(field(error), "limit", "{bad}");
        }
        assert!(params("limit=1001").events().is_err());
    }

    #[test]
    fn filters_name_what_is_wrong() {
        assert_eq!(params("status=live").status(), Ok(Some(StreamStatus::Live)));
        assert_eq!(field(params("status=LIVE").status().unwrap_err()), "status");
        assert_eq!(
            params("username=@room-a").username(),
            Ok(Some("room-a".into()))
        );
        assert_eq!(
            field(params("username=a%20b").username().unwrap_err()),
            "username"
        );
        assert_eq!(
            params("type=CHAT,ROOM_USER").types(),
            Ok(Some(vec!["CHAT", "ROOM_USER"]))
        );
        assert_eq!(params("").types(), Ok(None));
        for bad in ["type=chat", "type=CHAT,", "type=", "type=CHAT%27"] {
            assert_eq!(field(params(bad).types().unwrap_err()), "type", "{bad}");
        }
        assert_eq!(
            field(params("after=x").list_cursor(List::Streams).unwrap_err()),
            "after"
        );
    }

    #[test]
    fn places_are_start_or_a_cursor_of_the_stream() {
        assert_eq!(After::parse("after", "start"), Ok(After::Start));
        let cursor = Cursor::new("7301", 5);
        let after = After::parse("after", &cursor.to_string()).unwrap();
        assert_eq!(after, After::Cursor(cursor));
        assert_eq!(after.of_stream("after", "7301"), Ok(()));
        assert_eq!(
            field(after.of_stream("after", "7302").unwrap_err()),
            "after"
        );
        let error = After::parse("Last-Event-ID", "nonsense").unwrap_err();
        assert_eq!(field(error), "Last-Event-ID");
    }

    #[test]
    fn session_ids_have_one_text() {
        let id = "019ac5d8-0000-7000-8000-000000000001";
        assert_eq!(session_id(id).unwrap().to_string(), id);
        assert!(session_id(&id.to_uppercase()).is_ok());
        for bad in [
            "",
            "7",
            "019ac5d8000070008000000000000001",
            "{019ac5d8-0000-7000-8000-000000000001}",
        ] {
            let problem = session_id(bad).unwrap_err();
            assert_eq!(problem.status(), StatusCode::NOT_FOUND, "{bad}");
        }
    }
}
