//! One client's way through history into the live window: what to do next, without doing it.
//!
//! Comes in: where the client was, the window, rows of the database or its failure, the time.
//! Goes out: a [`Step`]. The client pulls: nothing is kept for it but its place, so a client that
//! stops reading costs a few bytes, and one that falls too far behind is cut and resumes from the
//! database. History is read until it touches the window; what is not stored yet is waited for,
//! for a bounded time, and then said as a gap.

use std::collections::HashSet;

use shared::api::{Gap, GapReason};
use shared::identity::EventId;
use shared::time::Timestamp;

use super::sse;
use super::window::{Head, Place, Window};

/// How far behind the window's end a client may be, in bytes, before it is cut.
pub(crate) const MAX_LAG_BYTES: u64 = 2 * 1024 * 1024;
/// The size of one write, in bytes; one larger event goes alone.
const CHUNK_BYTES: usize = 64 * 1024;
/// How long an event that is live already may take to be stored, in milliseconds.
const PATIENCE_MS: i64 = 5_000;
/// Time between two looks for it, in milliseconds.
const RETRY_MS: i64 = 300;

/// Where a feed begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// With what comes from now on.
    Now,
    /// With the first stored event of the room.
    First,
    /// After this place.
    After(Place),
}

/// What to do next for a client.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Write these bytes.
    Write(String),
    /// Read stored events after this place (none: from the first) and hand them to
    /// [`Feed::rows`], or call [`Feed::failed`].
    Read(Option<Place>),
    /// Ask again when the window or the heartbeat moved.
    Wait,
    /// Ask again after so many milliseconds, or when the window moved.
    WaitFor(u32),
    /// Close: the client is too slow. It resumes with its cursor.
    Cut,
}

/// One client of a room.
#[derive(Debug)]
pub(crate) struct Feed {
    stream_id: String,
    at: Option<Place>,
    /// Number of the next entry of the window; none while history is read.
    next: Option<u64>,
    heartbeat: u64,
    /// What to say before anything else.
    notice: Option<Gap>,
    greeted: bool,
    /// The last look into the database found nothing more, or failed: when, and which.
    looked: Option<(i64, Look)>,
    /// Since when the window waits for rows that are not there.
    waiting_since: Option<i64>,
    /// Stored inferred streak ends that were sent: the window has them at another place.
    sent_late: HashSet<EventId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Nothing,
    Failed,
}

impl Feed {
    /// A feed that has heard the hub's `heartbeat`th heartbeat. `notice` is a gap to begin with.
    pub(crate) fn new(
        stream_id: &str,
        start: Start,
        notice: Option<Gap>,
        window: &Window,
        heartbeat: u64,
    ) -> Self {
        let (at, next) = match start {
            Start::Now => (window.last(), Some(window.next_number())),
            Start::First => (None, None),
            Start::After(place) => (Some(place), None),
        };
        Self {
            stream_id: stream_id.to_owned(),
            at,
            next,
            heartbeat,
            notice,
            greeted: false,
            looked: None,
            waiting_since: None,
            sent_late: HashSet::new(),
        }
    }

    /// What to do next. `heartbeat` counts the hub's heartbeats, `now_ms` is its clock.
    pub(crate) fn step(&mut self, window: &Window, heartbeat: u64, now_ms: i64) -> Step {
        let mut out = String::new();
        if !self.greeted {
            self.greeted = true;
            out.push_str(&sse::greeting());
            out.push_str(&sse::heartbeat(Timestamp::from_millis(now_ms)));
            if let Some(gap) = self.notice.take() {
                out.push_str(&sse::gap(&gap));
            }
        }
        if self.heartbeat != heartbeat {
            self.heartbeat = heartbeat;
            out.push_str(&sse::heartbeat(Timestamp::from_millis(now_ms)));
        }
        if self.next.is_none() {
            self.next = self.at.and_then(|at| window.join(at));
        }
        if self.next.is_none() && !out.is_empty() {
            return Step::Write(out);
        }
        if self.next.is_none() {
            match self.look(window, now_ms) {
                Ok(gap) => out.push_str(&sse::gap(&gap)),
                Err(step) => return step,
            }
        }
        let Some(next) = self.next else {
            return Step::Wait;
        };
        let lost = next < window.first_number();
        if lost || window.bytes_from(next) > MAX_LAG_BYTES {
            return Step::Cut;
        }
        self.live(window, next, &mut out);
        if out.is_empty() {
            Step::Wait
        } else {
            Step::Write(out)
        }
    }

    /// Writes what the window has for this client, up to the size of a chunk.
    fn live(&mut self, window: &Window, mut next: u64, out: &mut String) {
        while let Some(entry) = window.get(next) {
            if !out.is_empty() && out.len() + entry.frame.len() > CHUNK_BYTES {
                break;
            }
            next += 1;
            // A client from the database can be ahead of the relay.
            let known = self.at.is_some_and(|at| entry.place <= at)
                || entry
                    .event_id
                    .is_some_and(|id| self.sent_late.contains(&id));
            if !known {
                out.push_str(&entry.frame);
                self.at = Some(entry.place);
            }
        }
        self.next = Some(next);
    }

    /// History has not touched the window: look again, wait, or give up and say so (`Ok`).
    fn look(&mut self, window: &Window, now_ms: i64) -> Result<Gap, Step> {
        let Some((looked_at, look)) = self.looked else {
            return Err(Step::Read(self.at));
        };
        if window.is_empty() && look == Look::Nothing {
            // All that there is was sent. The first live event tells whether it follows.
            self.waiting_since = None;
            return Err(Step::Wait);
        }
        let since = *self.waiting_since.get_or_insert(now_ms);
        if now_ms - since >= PATIENCE_MS {
            self.waiting_since = None;
            self.looked = None;
            self.next = Some(window.first_number());
            return Ok(Gap {
                from: self.at.map_or(0, |at| at.seq_no),
                to: window.front().map_or(0, |first| first.seq_no),
                reason: match look {
                    Look::Nothing => GapReason::NotStored,
                    Look::Failed => GapReason::DatabaseDown,
                },
            });
        }
        let rest = looked_at + RETRY_MS - now_ms;
        match u32::try_from(rest) {
            Ok(rest) if rest > 0 => Err(Step::WaitFor(rest)),
            _ => Err(Step::Read(self.at)),
        }
    }

    /// Takes stored events (number and JSON, in order) and answers what to write; nothing when
    /// there are none.
    pub(crate) fn rows(&mut self, rows: &[(u64, String)], now_ms: i64) -> Option<String> {
        if rows.is_empty() {
            self.looked = Some((now_ms, Look::Nothing));
            return None;
        }
        self.looked = None;
        self.waiting_since = None;
        let mut out = String::new();
        for (seq_no, json) in rows {
            let place = Place::after(self.at, *seq_no);
            if place.nth > 0
                && let Ok(head) = serde_json::from_str::<Head>(json)
            {
                self.sent_late.insert(head.event_id);
            }
            out.push_str(&sse::event(&place.cursor(&self.stream_id), json));
            self.at = Some(place);
        }
        Some(out)
    }

    /// The database did not answer.
    pub(crate) fn failed(&mut self, now_ms: i64) {
        self.looked = Some((now_ms, Look::Failed));
        self.waiting_since.get_or_insert(now_ms);
    }
}

#[cfg(test)]
mod tests;
