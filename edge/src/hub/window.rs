//! The recent events of one room, framed and in order.
//!
//! Comes in: what the relay delivers, at least once, and rows of the database that close a hole.
//! Goes out: entries, each once, to any number of readers, which keep their own place. Repeats
//! are dropped by `seqNo`; an event that comes late by design (the inferred end of a gift streak
//! has the `seqNo` of the streak's last message) keeps its own turn. A hole inside a session is
//! noticed: entries behind it are held until it is closed or given up. Memory is bounded in bytes;
//! what falls out at the front is in the database. A crash loses it all, and readers come back
//! with their cursors.

use std::collections::VecDeque;
use std::rc::Rc;

use serde::Deserialize;
use shared::api::{Cursor, Gap, GapReason};
use shared::identity::EventId;
use uuid::Uuid;

use super::sse;

/// Framed bytes that a window keeps. Many rooms share one isolate of 128 MB.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// The raw type of an event that concludes a gift streak whose end never came.
const STREAK_TIMEOUT: &str = "GiftStreakTimeout";

/// A place in the order of a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// The highest `seqNo` up to here.
    pub(crate) seq_no: u64,
    /// How many more entries came at that number.
    pub(crate) nth: u32,
}

impl Place {
    /// The place of the first entry with this number.
    pub(crate) fn at(seq_no: u64) -> Self {
        Self { seq_no, nth: 0 }
    }

    /// The place of an entry with this number that comes right after `before`.
    pub(crate) fn after(before: Option<Self>, seq_no: u64) -> Self {
        match before {
            Some(before) if before.seq_no == seq_no => Self {
                seq_no,
                nth: before.nth + 1,
            },
            _ => Self::at(seq_no),
        }
    }

    /// It as clients see it.
    pub(crate) fn cursor(self, stream_id: &str) -> Cursor {
        Cursor {
            stream_id: stream_id.to_owned(),
            seq_no: self.seq_no,
            nth: self.nth,
        }
    }
}

impl From<&Cursor> for Place {
    fn from(cursor: &Cursor) -> Self {
        Self {
            seq_no: cursor.seq_no,
            nth: cursor.nth,
        }
    }
}

/// What the window reads of an event.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Head {
    /// The idempotency key.
    pub(crate) event_id: EventId,
    session_id: Uuid,
    seq_no: u64,
    payload: PayloadHead,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PayloadHead {
    raw_type: String,
}

/// Something for readers.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Its place; rises with every entry.
    pub(crate) place: Place,
    /// The event's id; none for a gap.
    pub(crate) event_id: Option<EventId>,
    /// The bytes to write.
    pub(crate) frame: String,
    /// Framed bytes of all entries before it since the window was made.
    offset: u64,
}

/// A hole in the numbers of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hole {
    /// The last place before it.
    pub(crate) from: Place,
    /// The first number after it.
    pub(crate) to: u64,
}

/// What became of an event that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offer {
    /// Readers can have it, or will once a hole is closed.
    Taken,
    /// It begins behind a new hole, which somebody must close.
    Hole,
    /// It was here before.
    Repeat,
    /// It is no event.
    Unreadable,
}

/// The recent events of one room.
#[derive(Debug)]
pub(crate) struct Window {
    stream_id: String,
    max_bytes: u64,
    entries: VecDeque<Rc<Entry>>,
    /// Number of the first entry, counted since the window was made.
    first: u64,
    /// Framed bytes of all entries so far.
    offset: u64,
    /// The place of the entry that fell out last: all after it are here.
    floor: Option<Place>,
    /// The last place and the session of its event.
    mark: Option<(Place, Uuid)>,
    hole: Option<Hole>,
    held: VecDeque<(Head, String)>,
    held_bytes: u64,
}

impl Window {
    /// An empty window of a room.
    pub(crate) fn new(stream_id: &str) -> Self {
        Self {
            stream_id: stream_id.to_owned(),
            max_bytes: MAX_BYTES,
            entries: VecDeque::new(),
            first: 0,
            offset: 0,
            floor: None,
            mark: None,
            hole: None,
            held: VecDeque::new(),
            held_bytes: 0,
        }
    }

    /// Takes an event from the relay. With `readers` a hole before it is kept open to be closed
    /// in order; without, the window begins anew behind it.
    pub(crate) fn offer(&mut self, json: &str, readers: bool) -> Offer {
        let Ok(head) = serde_json::from_str::<Head>(json) else {
            return Offer::Unreadable;
        };
        if self.hole.is_none() {
            return self.take(head, json, readers);
        }
        self.held_bytes += json.len() as u64;
        self.held.push_back((head, json.to_owned()));
        if self.held_bytes > self.max_bytes / 2 {
            self.give_up(GapReason::NotStored);
        }
        Offer::Taken
    }

    fn take(&mut self, head: Head, json: &str, readers: bool) -> Offer {
        let seq_no = head.seq_no;
        if let Some((mark, session)) = self.mark {
            if seq_no <= mark.seq_no {
                let late = head.payload.raw_type == STREAK_TIMEOUT && !self.has(&head.event_id);
                if !late {
                    return Offer::Repeat;
                }
                let place = Place::after(Some(mark), mark.seq_no);
                self.push_event(place, session, head.event_id, json);
                return Offer::Taken;
            }
            if head.session_id == session && seq_no > mark.seq_no + 1 {
                if readers {
                    self.hole = Some(Hole {
                        from: mark,
                        to: seq_no,
                    });
                    self.held_bytes += json.len() as u64;
                    self.held.push_back((head, json.to_owned()));
                    return Offer::Hole;
                }
                self.forget();
            }
        }
        self.push_event(Place::at(seq_no), head.session_id, head.event_id, json);
        Offer::Taken
    }

    /// The hole that is open.
    pub(crate) fn hole(&self) -> Option<Hole> {
        self.hole
    }

    /// Puts stored events (number and JSON, in order) into the open hole; those behind it are
    /// left to the relay. Answers whether they reach its end, which closes it. `true` as well when
    /// there is no hole (any more).
    pub(crate) fn fill(&mut self, rows: &[(u64, String)]) -> bool {
        let Some(hole) = self.hole else {
            return true;
        };
        for (seq_no, json) in rows {
            if *seq_no >= hole.to {
                self.close();
                return true;
            }
            let Ok(head) = serde_json::from_str::<Head>(json) else {
                continue;
            };
            let place = Place::after(self.mark.map(|(mark, _)| mark), *seq_no);
            self.push_event(place, head.session_id, head.event_id, json);
            if let (Some(hole), Some((mark, _))) = (&mut self.hole, self.mark) {
                hole.from = mark;
            }
        }
        false
    }

    /// Says the rest of the hole as a gap and goes on behind it.
    pub(crate) fn give_up(&mut self, reason: GapReason) {
        let (Some(hole), Some((mark, session))) = (self.hole, self.mark) else {
            return;
        };
        let gap = Gap {
            from: mark.seq_no,
            to: hole.to,
            reason,
        };
        self.push(
            Place::after(Some(mark), mark.seq_no),
            session,
            None,
            sse::gap(&gap),
        );
        self.close();
    }

    /// Lets in what was held, up to the next hole.
    fn close(&mut self) {
        // What is held begins right behind the hole: not a hole again.
        if let (Some(hole), Some((mark, _))) = (self.hole.take(), self.mark.as_mut()) {
            let before = Place::at(hole.to.saturating_sub(1));
            *mark = before.max(*mark);
        }
        while self.hole.is_none() {
            let Some((head, json)) = self.held.pop_front() else {
                return;
            };
            self.held_bytes -= json.len() as u64;
            if self.take(head, &json, true) == Offer::Hole {
                // It went to the back; it is the first that is held.
                self.held.rotate_right(1);
            }
        }
    }

    fn has(&self, id: &EventId) -> bool {
        self.entries
            .iter()
            .any(|entry| entry.event_id.as_ref() == Some(id))
    }

    fn push_event(&mut self, place: Place, session: Uuid, id: EventId, json: &str) {
        let frame = sse::event(&place.cursor(&self.stream_id), json);
        self.push(place, session, Some(id), frame);
    }

    fn push(&mut self, place: Place, session: Uuid, event_id: Option<EventId>, frame: String) {
        let size = frame.len() as u64;
        self.entries.push_back(Rc::new(Entry {
            place,
            event_id,
            frame,
            offset: self.offset,
        }));
        self.offset += size;
        self.mark = Some((place, session));
        while self
            .entries
            .front()
            .is_some_and(|oldest| self.offset - oldest.offset > self.max_bytes)
            && self.entries.len() > 1
        {
            if let Some(oldest) = self.entries.pop_front() {
                self.first += 1;
                self.floor = Some(oldest.place);
            }
        }
    }

    /// Drops all entries: there is something unknown between them and what comes.
    fn forget(&mut self) {
        self.first += self.entries.len() as u64;
        self.entries.clear();
        self.floor = None;
    }

    /// Whether nothing is here.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The place of the last entry.
    pub(crate) fn last(&self) -> Option<Place> {
        self.entries.back().map(|entry| entry.place)
    }

    /// The place of the first entry.
    pub(crate) fn front(&self) -> Option<Place> {
        self.entries.front().map(|entry| entry.place)
    }

    /// The number of the first entry that is here.
    pub(crate) fn first_number(&self) -> u64 {
        self.first
    }

    /// The number that the next entry will get.
    pub(crate) fn next_number(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// The entry with this number.
    pub(crate) fn get(&self, number: u64) -> Option<&Rc<Entry>> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.entries.get(index)
    }

    /// Bytes from the entry with this number to the end.
    pub(crate) fn bytes_from(&self, number: u64) -> u64 {
        self.get(number)
            .map_or(0, |entry| self.offset - entry.offset)
    }

    /// The number of the entry from which on a reader who has everything up to `at` finds all
    /// that it lacks; none when there may be events between `at` and what is here.
    pub(crate) fn join(&self, at: Place) -> Option<u64> {
        let first = self.front()?;
        let covered = at >= first
            || self.floor.is_some_and(|floor| at >= floor)
            || at.seq_no + 1 == first.seq_no;
        covered.then(|| {
            let behind = self.entries.partition_point(|entry| entry.place <= at);
            self.first + behind as u64
        })
    }
}

#[cfg(test)]
pub(super) mod tests;
