//! Signing: a room id becomes an address that is good for one WebSocket, for about 30 s.
//!
//! In: a room id. Out: the fetch result with the address and the room's recent messages, and the
//! cookie for the socket. Every request counts against an account's quota, so all rooms share one
//! [`Signer`] with one budget, and a 429 for one room holds all of them back. The key travels in
//! a header only (protocol sheet §2).

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::header::HeaderMap;
use reqwest::{Client, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use shared::identity::is_stream_id;
use url::Url;

use super::http::{self, tame};
use super::{device, frame};
use crate::ingest::budget::{Budget, Held, Urgency};
use crate::ingest::options::{SignPath, Upstream};
use crate::proto::frames::FetchResult;

/// A fetch result with its history is some 10 kB.
const BODY_LIMIT: usize = 2 * 1024 * 1024;
/// The wait after a 429 that does not say how long.
pub(in crate::ingest) const UNTOLD_WAIT: Duration = Duration::from_mins(1);
/// No server is believed that wants longer: quotas are per day at most.
const LONGEST_WAIT: Duration = Duration::from_hours(25);

/// A signed address, to be used once.
#[derive(Debug)]
pub(super) struct Signed {
    /// Holds the address, its parameters and recent messages.
    pub(super) result: FetchResult,
    /// The `Set-Cookie` value that belongs onto the socket.
    pub(super) cookie: String,
    /// The room that was signed, when the server names another than we asked for.
    pub(super) room_id: Option<String>,
}

/// Why a room was not signed.
#[derive(Debug, thiserror::Error, PartialEq)]
pub(in crate::ingest) enum Error {
    /// Too many requests for this account (429).
    #[error("the sign server is asked too often ({label}), waiting {} s", wait.as_secs())]
    Limited {
        /// How long to wait.
        wait: Duration,
        /// Which limit.
        label: String,
    },
    /// The account may not do this (401, 402, 403): no use in trying again.
    #[error(
        "the sign server refuses with status {status}: {message}; check EULER_API_KEY and the account's plan"
    )]
    Refused {
        /// The HTTP status.
        status: u16,
        /// What the server says.
        message: String,
    },
    /// Blocked in front of the sign server (420).
    #[error("blocked in front of the sign server (status 420)")]
    Blocked,
    /// The room is not there any more (404).
    #[error("the sign server does not know the room: {0}")]
    UnknownRoom(String),
    /// An answer without the cookie that the socket needs.
    #[error("the sign server gave no cookie{}", .0.as_ref().map(|why| format!(": {why}")).unwrap_or_default())]
    NoCookie(Option<String>),
    /// An answer that is none.
    #[error("the sign server's answer is invalid: {0}")]
    Invalid(String),
    /// The server failed.
    #[error("the sign server failed with status {status}: {message}")]
    Failed {
        /// The HTTP status.
        status: u16,
        /// What the server says.
        message: String,
        /// When it wants to be asked again.
        wait: Option<Duration>,
    },
    /// No answer.
    #[error("the sign server cannot be reached: {0}")]
    Unreachable(String),
}

impl Error {
    /// The category for events and logs.
    pub(in crate::ingest) fn reason(&self) -> &'static str {
        match self {
            Self::Limited { .. } => "sign_limited",
            Self::Refused { .. } => "sign_refused",
            Self::Blocked => "sign_blocked",
            Self::UnknownRoom(_) => "room_gone",
            _ => "sign_failed",
        }
    }
}

/// The client of the sign server, one for all rooms.
pub(in crate::ingest) struct Signer {
    http: Client,
    base: Url,
    path: SignPath,
    key: Option<SecretString>,
    budget: Arc<Budget>,
}

impl Signer {
    /// A signer whose requests go through the account's budget.
    pub(in crate::ingest) fn new(upstream: &Upstream, budget: Arc<Budget>) -> Result<Self, String> {
        Ok(Self {
            http: http::sign_client(upstream.proxy.as_ref())?,
            base: upstream.sign.clone(),
            path: upstream.sign_path,
            key: upstream.key.clone(),
            budget,
        })
    }

    /// Whether signed addresses have to be encrypted: wherever the sign server itself is.
    pub(super) fn is_encrypted(&self) -> bool {
        self.base.scheme() == "https"
    }

    /// Signs a room, as soon as the budget allows it.
    pub(super) async fn sign(&self, room_id: &str) -> Result<Signed, Error> {
        let path = match self.path {
            SignPath::Connect => format!("webcast/rooms/{room_id}/connect"),
            SignPath::Fetch => "webcast/fetch".to_owned(),
        };
        let mut url = self
            .base
            .join(&path)
            .map_err(|error| Error::Invalid(error.to_string()))?;
        if self.path == SignPath::Fetch {
            url.query_pairs_mut().append_pair("room_id", room_id);
        }
        url.query_pairs_mut()
            .append_pair("client", "ttlive-other")
            .append_pair("user_agent", device::USER_AGENT)
            .append_pair("client_enter", "true")
            .append_pair("platform", "web");
        let mut request = self
            .http
            .get(url)
            .header("accept", "application/protobuf, application/json");
        if let Some(key) = &self.key {
            request = request.header("x-api-key", key.expose_secret());
        }
        if let Err(Held(wait)) = self.budget.take(Urgency::Room).await {
            let label = "told to wait before".to_owned();
            return Err(Error::Limited { wait, label });
        }
        let response = request
            .send()
            .await
            .map_err(|error| Error::Unreachable(http::describe(&error)))?;
        let (status, headers) = (response.status(), response.headers().clone());
        tracing::debug!(
            stage = "ingest",
            stream_id = room_id,
            status = status.as_u16(),
            request_id = text(&headers, "x-request-id").map(tame),
            agent_id = text(&headers, "x-agent-id").map(tame),
            "sign server answered"
        );
        let body = http::body(response, BODY_LIMIT)
            .await
            .map_err(Error::Unreachable)?;
        let answer = if status == StatusCode::OK {
            accept(&headers, &body)
        } else {
            Err(refusal(status.as_u16(), &headers, &body, unix_now()))
        };
        if let Err(Error::Limited { wait, label }) = &answer {
            self.budget.hold(*wait, label);
        }
        answer.map_err(|error| self.without_key(error))
    }

    /// An error whose text does not hold the key, should the server repeat it.
    fn without_key(&self, error: Error) -> Error {
        let Some(key) = &self.key else { return error };
        let clean = |text: String| text.replace(key.expose_secret(), "…");
        match error {
            Error::Limited { wait, label } => Error::Limited {
                wait,
                label: clean(label),
            },
            Error::Refused { status, message } => Error::Refused {
                status,
                message: clean(message),
            },
            Error::UnknownRoom(message) => Error::UnknownRoom(clean(message)),
            Error::NoCookie(message) => Error::NoCookie(message.map(clean)),
            Error::Failed {
                status,
                message,
                wait,
            } => Error::Failed {
                status,
                message: clean(message),
                wait,
            },
            other => other,
        }
    }
}

/// Reads an answer with status 200.
fn accept(headers: &HeaderMap, body: &bytes::Bytes) -> Result<Signed, Error> {
    let Some(cookie) = text(headers, "x-set-tt-cookie").filter(|cookie| cookie.contains('='))
    else {
        return Err(Error::NoCookie(text(headers, "handshake-msg").map(tame)));
    };
    let result = frame::read_result(body).map_err(|error| Error::Invalid(error.to_string()))?;
    if result.cursor.is_empty() {
        return Err(Error::Invalid("it has no cursor".to_owned()));
    }
    if result.push_server.is_empty() {
        return Err(Error::Invalid("it has no address".to_owned()));
    }
    let room_id = text(headers, "x-room-id")
        .filter(|id| is_stream_id(id))
        .map(str::to_owned);
    Ok(Signed {
        result,
        cookie: cookie.to_owned(),
        room_id,
    })
}

/// Reads an answer with any other status.
fn refusal(status: u16, headers: &HeaderMap, body: &[u8], unix_now: u64) -> Error {
    let json: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let field = |name: &str| json[name].as_str().map(tame);
    let message = field("message")
        .or_else(|| field("error"))
        .unwrap_or_else(|| "no message".to_owned());
    match status {
        429 => Error::Limited {
            wait: told_wait(headers, unix_now).unwrap_or(UNTOLD_WAIT),
            label: field("limit_label").unwrap_or(message),
        },
        401..=403 => Error::Refused { status, message },
        404 => Error::UnknownRoom(message),
        420 => Error::Blocked,
        _ => Error::Failed {
            status,
            message,
            wait: told_wait(headers, unix_now),
        },
    }
}

/// How long the server wants us to wait: `Retry-After` in seconds, else until a reset time.
pub(in crate::ingest) fn told_wait(headers: &HeaderMap, unix_now: u64) -> Option<Duration> {
    let number = |name| text(headers, name)?.trim().parse::<u64>().ok();
    // Older servers give seconds from now under `RateLimit-Reset`, newer ones a point in time.
    let until = |reset: u64| {
        if reset > 1_000_000_000 {
            reset.saturating_sub(unix_now)
        } else {
            reset
        }
    };
    let seconds = number("retry-after")
        .or_else(|| number("x-ratelimit-reset").map(until))
        .or_else(|| number("ratelimit-reset").map(until))?;
    Some(Duration::from_secs(seconds.max(1)).min(LONGEST_WAIT))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get(name)?
        .to_str()
        .ok()
        .filter(|text| !text.is_empty())
}

pub(in crate::ingest) fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
