//! Why Euler's socket was not opened, or closed, and what is to be done about it.
//!
//! In: HTTP answers and close codes. Out: an [`Error`] or an [`End`] with a category, a text
//! without secrets, and a [`Retry`]: the fact sheet's table (§2), row by row.

use std::borrow::Cow;
use std::time::Duration;

use percent_encoding::utf8_percent_encode;
use secrecy::{ExposeSecret as _, SecretString};
use tokio_tungstenite::tungstenite::http::Response;

use crate::ingest::direct::dial::ESCAPED;
use crate::ingest::direct::http::tame;
use crate::ingest::direct::sign::{UNTOLD_WAIT, told_wait, unix_now};
use crate::ingest::failure::Retry;
use crate::ingest::provider::End;

/// The least wait after Euler could not get at TikTok.
const UPSTREAM_WAIT: Duration = Duration::from_secs(10);
/// A shorter key would be found in any text.
const SHORTEST_SECRET: usize = 8;

/// `STREAM_END`: the broadcast is over.
pub(super) const STREAM_END: u16 = 4005;
/// `INVALID_OPTIONS`: an option that the server does not know.
pub(super) const INVALID_OPTIONS: u16 = 4400;
/// `NOT_LIVE`.
pub(super) const NOT_LIVE: u16 = 4404;

/// Why there is no connection.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(in crate::ingest) enum Error {
    /// Too many requests for this account (429), now or since a while.
    #[error("Euler is asked too often ({label}), waiting {} s", wait.as_secs())]
    Limited {
        /// How long to wait.
        wait: Duration,
        /// Which limit.
        label: String,
    },
    /// The account may not do this (400 to 403): no use in trying again.
    #[error(
        "Euler refuses with status {status}: {message}; check EULER_API_KEY and the account's plan"
    )]
    Refused {
        /// The HTTP status.
        status: u16,
        /// What the server says.
        message: String,
    },
    /// The server failed, or is none of Euler's.
    #[error("Euler answered with status {status}: {message}")]
    Failed {
        /// The HTTP status.
        status: u16,
        /// What the server says.
        message: String,
        /// When it wants to be asked again.
        wait: Option<Duration>,
    },
    /// It opened the socket and closed it before it told the room.
    #[error("Euler closed the socket with {code} ({}){}", name(*code), .message.as_ref().map(|text| format!(": {text}")).unwrap_or_default())]
    Closed {
        /// The close code; 1006 for a connection that broke off.
        code: u16,
        /// What the server says.
        message: Option<String>,
    },
    /// It did not tell the room.
    #[error("Euler did not say which room it is: {0}")]
    NoRoom(String),
    /// Between looking and entering the creator began another broadcast.
    #[error("the room is not {asked} any more, but {found}")]
    Moved {
        /// The room that was to be entered.
        asked: String,
        /// The room there is.
        found: String,
    },
    /// As many sockets are open as are allowed.
    #[error("all {0} sockets of EULER_MAX_SOCKETS are in use")]
    Sockets(usize),
    /// No answer.
    #[error("Euler cannot be reached: {0}")]
    Unreachable(String),
}

impl Error {
    /// The category for events and logs.
    pub(in crate::ingest) fn reason(&self) -> &'static str {
        match self {
            Self::Limited { .. } => "euler_limited",
            Self::Refused { .. } => "euler_refused",
            Self::Failed { .. } | Self::NoRoom(_) => "euler_failed",
            Self::Closed { code, .. } => match code {
                4400 | 4401 | 4403 => "euler_refused",
                4429 => "euler_sockets",
                4556 => "sign_failed",
                _ => "euler_failed",
            },
            Self::Moved { .. } => "room_changed",
            Self::Sockets(_) => "euler_sockets",
            Self::Unreachable(_) => "unreachable",
        }
    }

    /// The close code, if the socket was open.
    pub(in crate::ingest) fn close_code(&self) -> Option<u16> {
        match self {
            Self::Closed { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// When to try again.
    pub(in crate::ingest) fn retry(&self) -> Retry {
        match self {
            Self::Limited { wait, .. }
            | Self::Failed {
                wait: Some(wait), ..
            } => Retry::AtLeast(*wait),
            Self::Refused { .. } => Retry::Never,
            Self::Closed { code, .. } => retry_after(*code),
            Self::Sockets(_) => Retry::Poll,
            Self::Moved { .. } | Self::Failed { .. } | Self::NoRoom(_) | Self::Unreachable(_) => {
                Retry::Policy
            }
        }
    }
}

/// What a close code asks for.
pub(in crate::ingest) fn retry_after(code: u16) -> Retry {
    match code {
        STREAM_END | NOT_LIVE => Retry::Poll,
        INVALID_OPTIONS | 4401 | 4403 => Retry::Never,
        4429 => Retry::Long,
        4556 | 4557 => Retry::AtLeast(UPSTREAM_WAIT),
        // 1006, 1011, 4006 (look whether it is still live: the next attempt does), 4500, 4555, and
        // what is not in the table. 1000 is an answer to our own good-bye: from Euler it is none.
        _ => Retry::Policy,
    }
}

/// The end of a connection by a close frame.
pub(super) fn end(code: u16, detail: Option<String>) -> End {
    End {
        reason: match code {
            STREAM_END | NOT_LIVE => "stream_end",
            INVALID_OPTIONS | 4401 | 4403 => "refused",
            4429 => "limited",
            4555 => "renewed",
            _ => "closed",
        },
        close_code: Some(code),
        detail,
    }
}

/// What Euler calls a close code.
fn name(code: u16) -> &'static str {
    match code {
        1000 => "normal",
        1006 => "connection lost",
        1011 => "internal error",
        STREAM_END => "STREAM_END",
        4006 => "NO_MESSAGES_TIMEOUT",
        INVALID_OPTIONS => "INVALID_OPTIONS: check EULER_SCHEMA_VERSION and EULER_RAW_MESSAGES",
        4401 => "INVALID_AUTH: check EULER_API_KEY",
        4403 => "NO_PERMISSION",
        NOT_LIVE => "NOT_LIVE",
        4429 => "TOO_MANY_CONNECTIONS of the account: check EULER_MAX_SOCKETS",
        4500 => "TIKTOK_CLOSED_CONNECTION",
        4555 => "MAX_LIFETIME_EXCEEDED",
        4556 => "WEBCAST_FETCH_ERROR",
        4557 => "ROOM_INFO_FETCH_ERROR",
        _ => "unknown",
    }
}

/// Reads an answer that is no upgrade.
pub(super) fn refusal(response: &Response<Option<Vec<u8>>>, mask: &Mask) -> Error {
    let status = response.status().as_u16();
    let body = response.body().as_deref().unwrap_or_default();
    let json: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |name: &str| json[name].as_str().map(|text| tame(&mask.hide(text)));
    let message = text("message")
        .or_else(|| text("error"))
        .unwrap_or_else(|| "no message".to_owned());
    let wait = told_wait(response.headers(), unix_now());
    match status {
        429 => Error::Limited {
            wait: wait.unwrap_or(UNTOLD_WAIT),
            label: text("limit_label").unwrap_or(message),
        },
        400..=403 => Error::Refused { status, message },
        _ => Error::Failed {
            status,
            message,
            wait,
        },
    }
}

/// Strikes the key out of whatever upstream says: it stands in the address, and servers like to
/// repeat addresses.
#[derive(Clone, Debug)]
pub(super) struct Mask {
    /// The key as it is and as it stands in an address.
    forms: Vec<SecretString>,
}

impl Mask {
    pub(super) fn new(key: &SecretString) -> Self {
        let plain = key.expose_secret();
        let encoded = utf8_percent_encode(plain, ESCAPED).to_string();
        let mut forms = vec![plain.to_owned(), encoded];
        forms.dedup();
        forms.retain(|form| form.len() >= SHORTEST_SECRET);
        Self {
            forms: forms.into_iter().map(SecretString::from).collect(),
        }
    }

    /// The text without the key.
    pub(super) fn hide<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut clean = Cow::Borrowed(text);
        for form in &self.forms {
            if clean.contains(form.expose_secret()) {
                clean = Cow::Owned(clean.replace(form.expose_secret(), "…"));
            }
        }
        clean
    }
}

#[cfg(test)]
mod tests;
