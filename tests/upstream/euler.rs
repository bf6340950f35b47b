//! Euler's side: its WebSocket API and the REST routes beside signing.
//!
//! In: a creator's name, a key and options, all in the query of `GET /`. Out: the same running
//! broadcast that TikTok's socket shows, with the same message ids, as JSON in the wanted schema
//! version or as raw push frames; refusals and ends as close codes. `options` reads and judges the
//! query, `socket` plays, `rest` answers over HTTP, `quota` counts requests.

pub(crate) mod options;
pub(crate) mod quota;
pub(crate) mod rest;
pub(crate) mod socket;

use std::time::Duration;

/// How Euler's side behaves.
#[derive(Clone, Debug)]
pub struct Euler {
    /// API keys that are good; empty: every key is. Sockets always need one, signing works
    /// without.
    pub keys: Vec<String>,
    /// JWTs that are good; empty: every one is, for every creator.
    pub tokens: Vec<Token>,
    /// What the account's plan allows.
    pub plan: Plan,
    /// So many sockets may be open at a time.
    pub sockets: usize,
    /// A socket lives no longer than this.
    pub lifetime: Duration,
    /// A socket without messages is closed after this time; `None`: what the client asks for.
    pub inactive_after: Option<Duration>,
    /// How often we ping.
    pub ping_every: Duration,
    /// How envelopes look.
    pub form: Form,
    /// Requests that the account may make; connecting a socket is one.
    pub limits: Limits,
}

/// A JWT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its text.
    pub jwt: String,
    /// Whom it may watch.
    pub creators: Vec<String>,
}

/// Which routes an account may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// PUBLIC routes only: looking up a room by name is refused.
    Community,
    /// PRO routes, too.
    Business,
}

/// How messages are wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Text, `{"timestamp", "messages": [{type, data}]}`.
    Envelope,
    /// The same as a binary WebSocket message.
    Binary,
    /// Text, `{type, data}` alone, one message each.
    Bare,
    /// Text, an array of `{type, data}`.
    Array,
    /// All of these in turn, and between them envelopes without `messages`.
    Mixed,
}

/// So many requests in a minute, an hour, a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// In a minute.
    pub minute: u32,
    /// In an hour.
    pub hour: u32,
    /// In a day.
    pub day: u32,
}

impl Default for Euler {
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            tokens: Vec::new(),
            plan: Plan::Business,
            sockets: 10_000,
            lifetime: Duration::from_hours(8),
            inactive_after: None,
            ping_every: Duration::from_secs(20),
            form: Form::Envelope,
            limits: Limits {
                minute: 1_000_000,
                hour: 1_000_000,
                day: 1_000_000,
            },
        }
    }
}

/// The name of a close code, as the API gives it for a reason.
pub(crate) fn close_name(code: u16) -> &'static str {
    match code {
        1011 => "INTERNAL_SERVER_ERROR",
        4005 => "STREAM_END",
        4006 => "NO_MESSAGES_TIMEOUT",
        4400 => "INVALID_OPTIONS",
        4401 => "INVALID_AUTH",
        4403 => "NO_PERMISSION",
        4404 => "NOT_LIVE",
        4429 => "TOO_MANY_CONNECTIONS",
        4500 => "TIKTOK_CLOSED_CONNECTION",
        4555 => "MAX_LIFETIME_EXCEEDED",
        4556 => "WEBCAST_FETCH_ERROR",
        4557 => "ROOM_INFO_FETCH_ERROR",
        _ => "",
    }
}
