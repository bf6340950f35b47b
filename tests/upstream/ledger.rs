//! What happened, for tests to read: every message sent, everything a client did wrong, counts.
//!
//! Append-only, in the order things happened, behind one lock that is never held across an await.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use axum::extract::Request;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use url::form_urlencoded;

use crate::load::Totals;

/// So many violations are kept; the first ones tell the story.
const VIOLATIONS: usize = 1_000;
/// So many signing times are kept.
const SIGNS: usize = 1_000;

/// So many attempts to connect are kept.
const ATTEMPTS: usize = 10_000;
/// So many requests are kept.
const REQUESTS: usize = 5_000;

/// Which way messages reach a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Provider {
    /// TikTok's own socket.
    Direct,
    /// Euler's.
    Euler,
}

/// One message as one connection got it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Whose room.
    pub creator: String,
    /// Over which socket.
    pub provider: Provider,
    /// The room id at that time.
    pub room_id: i64,
    /// Which message: as in [`Sent`].
    pub msg_id: i64,
    /// Whether it was sent again: as history, or by a fault.
    pub again: bool,
    /// When.
    pub at: SystemTime,
}

/// One request as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// Without the query.
    pub path: String,
    /// Everything of it that can hold a secret, decoded: query parameters and headers, cookies
    /// included.
    pub values: Vec<(String, String)>,
}

/// One message that was sent to a room's clients; what is sent again as history is only counted.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Whose room.
    pub creator: String,
    /// The broadcast's room id.
    pub room_id: i64,
    /// Method name.
    pub method: String,
    /// The message id, as in the header and the wrapper.
    pub msg_id: i64,
    /// The payload as sent, after patching; empty when the script says so.
    pub payload: Bytes,
    /// Line of the capture, from 0; `None` for what a fault put in.
    pub line: Option<usize>,
    /// Lap of the capture, from 0.
    pub lap: u32,
    /// When it was handed to the sockets.
    pub at: SystemTime,
    /// Whose sockets were there to take it. What Euler's took, in whose schema version it could be
    /// said, is in [`crate::Upstream::deliveries`].
    pub via: Vec<Provider>,
}

/// What a client did that TikTok's web client does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Where: `web`, `sign`, `address`, `socket`.
    pub place: &'static str,
    /// The creator or room concerned, when known.
    pub room: String,
    /// What was wrong.
    pub what: String,
}

/// How often things happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Requests for the page or the web API.
    pub lookups: u64,
    /// Signing requests, refused ones too.
    pub signs: u64,
    /// Signing requests that were refused.
    pub signs_refused: u64,
    /// WebSocket connections that were accepted.
    pub connections: u64,
    /// WebSocket handshakes that were refused.
    pub handshakes_refused: u64,
    /// Enter-room frames.
    pub enters: u64,
    /// Heartbeats.
    pub heartbeats: u64,
    /// Frames with messages, over all connections.
    pub frames: u64,
    /// Frames that asked for an ack, over all connections.
    pub acks_wanted: u64,
    /// Right acks.
    pub acks: u64,
    /// Messages, counted once however many clients got them.
    pub messages: u64,
    /// Messages that were sent again as history, with a signing answer or in a first frame.
    pub history: u64,
    /// Messages that a fault sent again, counted once however many clients got them.
    pub resent: u64,
    /// WebSocket connections to Euler that were accepted, those closed at once included.
    pub euler_connections: u64,
    /// Messages for which a schema version of Euler's JSON has no form.
    pub euler_unknown: u64,
    /// Answers to Euler's WebSocket pings.
    pub pongs: u64,
    /// HTTP answers that went wrong because a fault said so.
    pub troubles: u64,
}

#[derive(Debug, Default)]
struct Book {
    sent: Vec<Sent>,
    violations: Vec<Violation>,
    signs: Vec<(String, SystemTime)>,
    counts: Counts,
    deliveries: Vec<Delivery>,
    requests: Vec<Arrived>,
    attempts: Vec<(String, Provider, SystemTime)>,
    totals: HashMap<String, Totals>,
}

/// The record of a run.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<Book>);

impl Ledger {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything sent so far.
    pub fn sent(&self) -> Vec<Sent> {
        self.book().sent.clone()
    }

    /// Everything clients did wrong so far.
    pub fn violations(&self) -> Vec<Violation> {
        self.book().violations.clone()
    }

    /// When this creator's rooms were to be signed, refused or not; the first thousand times.
    pub fn sign_times(&self, creator: &str) -> Vec<SystemTime> {
        let book = self.book();
        book.signs
            .iter()
            .filter(|(name, _)| name == creator)
            .map(|(_, at)| *at)
            .collect()
    }

    /// The counts so far.
    pub fn counts(&self) -> Counts {
        self.book().counts
    }

    /// Every message as every connection got it.
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.book().deliveries.clone()
    }

    /// The first requests that arrived.
    pub fn requests(&self) -> Vec<Arrived> {
        self.book().requests.clone()
    }

    /// What a room of made-up events has sent.
    pub fn totals(&self, creator: &str) -> Option<Totals> {
        self.book().totals.get(creator).copied()
    }

    pub(crate) fn record_totals(&self, creator: &str, totals: Totals) {
        let book = &mut *self.book();
        if let Some(known) = book.totals.get_mut(creator) {
            *known = totals;
        } else {
            book.totals.insert(creator.to_owned(), totals);
        }
    }

    pub(crate) fn record_deliveries(&self, deliveries: impl IntoIterator<Item = Delivery>) {
        self.book().deliveries.extend(deliveries);
    }

    pub(crate) fn record_request(&self, request: &Request) {
        let query = request.uri().query().unwrap_or_default();
        let headers = request.headers().iter().map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes());
            (name.to_string(), value.into_owned())
        });
        let values = form_urlencoded::parse(query.as_bytes())
            .into_owned()
            .chain(headers)
            .collect();
        let arrived = Arrived {
            path: request.uri().path().to_owned(),
            values,
        };
        let requests = &mut self.book().requests;
        if requests.len() < REQUESTS {
            requests.push(arrived);
        }
    }

    pub(crate) fn record_sent(&self, sent: impl IntoIterator<Item = Sent>) {
        self.book().sent.extend(sent);
    }

    pub(crate) fn violation(&self, place: &'static str, room: &str, what: impl Into<String>) {
        let violation = Violation {
            place,
            room: room.to_owned(),
            what: what.into(),
        };
        tracing::warn!(
            place,
            room,
            what = violation.what,
            "client did something wrong"
        );
        let violations = &mut self.book().violations;
        if violations.len() < VIOLATIONS {
            violations.push(violation);
        }
    }

    pub(crate) fn record_sign(&self, creator: &str) {
        let book = &mut *self.book();
        if book.signs.len() < SIGNS {
            book.signs.push((creator.to_owned(), SystemTime::now()));
        }
    }

    /// When WebSockets to this creator were asked for, refused or not.
    pub fn attempts(&self, creator: &str, provider: Provider) -> Vec<SystemTime> {
        let book = self.book();
        book.attempts
            .iter()
            .filter(|(name, over, _)| name == creator && *over == provider)
            .map(|(_, _, at)| *at)
            .collect()
    }

    pub(crate) fn record_attempt(&self, creator: &str, provider: Provider) {
        let attempts = &mut self.book().attempts;
        if attempts.len() < ATTEMPTS {
            attempts.push((creator.to_owned(), provider, SystemTime::now()));
        }
    }

    pub(crate) fn count(&self, update: impl FnOnce(&mut Counts)) {
        update(&mut self.book().counts);
    }
}
