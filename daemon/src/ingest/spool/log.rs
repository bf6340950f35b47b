//! The records in their order: a window of them in memory, all of them on their way to the disk.
//!
//! In: parcels as records, from any task. Out: the same in the same order, to one publisher. A
//! record has a position: the bytes before it since the spool began. In memory are
//!
//! - *pending*: what is not written yet; the writer's thread takes it from there;
//! - the *window*: what the publisher takes next. When it is full the newest records are only
//!   pending or on the disk, and `read` brings them in when the window has room.
//!
//! Without a folder there is only the window; without a disk that works, pending records stay until
//! they are published. Either way the places of the parcels are given back only then, so that
//! whoever admits parcels stops when memory is full. What a full spool drops is told by `gaps`.

mod gaps;
mod read;

use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use metrics::{counter, gauge};
use tokio::sync::Notify;

use self::gaps::gap_record;
pub(super) use self::read::read_records;
use super::record::{self, Content};
use super::slot::Slot;
use super::worth::{Run, Worth, last_number};
use crate::ingest::outbox::{Parcel, Place};
use crate::metrics as names;

/// What a record takes in memory beside its bytes.
const OVERHEAD: usize = 160;
/// Rooms whose highest number is remembered.
const ROOMS: usize = 20_000;

/// Bounds of the spool.
#[derive(Clone, Copy, Debug)]
pub(in crate::ingest) struct Limits {
    /// Of the window, in bytes.
    pub(in crate::ingest) memory: usize,
    /// On the disk, in bytes.
    pub(in crate::ingest) disk: u64,
    /// A segment is closed when it has so many bytes.
    pub(in crate::ingest) segment: u64,
    /// Nothing waits longer for the disk, nor more than `batch` bytes.
    pub(in crate::ingest) sync_after: Duration,
    pub(in crate::ingest) batch: usize,
    /// Published records stay so long, in case Redis loses them.
    pub(in crate::ingest) keep: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: 32 * 1024 * 1024,
            disk: 2 * 1024 * 1024 * 1024,
            segment: 8 * 1024 * 1024,
            sync_after: Duration::from_millis(100),
            batch: 256 * 1024,
            keep: Duration::from_mins(1),
        }
    }
}

/// A record for the publisher.
#[derive(Clone, Debug)]
pub(in crate::ingest) struct Item {
    pub(in crate::ingest) start: u64,
    pub(in crate::ingest) end: u64,
    pub(in crate::ingest) record: Bytes,
    /// How many damaged places there were before it.
    pub(in crate::ingest) damages: u64,
}

/// Records in memory, with the place of their parcel.
struct Kept {
    item: Item,
    place: Option<Place>,
}

/// A file of records.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) start: u64,
    pub(super) length: u64,
    /// Since when all of it is published.
    pub(super) done: Option<Instant>,
}

impl Segment {
    pub(super) fn end(&self) -> u64 {
        self.start + self.length
    }
}

/// What one room has in here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::ingest) struct Remembered {
    /// The highest number given out.
    pub(in crate::ingest) floor: Option<u64>,
    /// The latest messages that Redis may not know yet, as type and message id, oldest first.
    pub(in crate::ingest) seen: Vec<(String, String)>,
}

/// A room that has said something.
struct Room {
    /// The highest number given out.
    number: u64,
    token: u64,
    since: Instant,
}

#[derive(Default)]
pub(super) struct State {
    window: VecDeque<Kept>,
    window_bytes: usize,
    /// Where the window ends; `end` when it has all.
    window_end: u64,
    end: u64,
    published: u64,
    pending: VecDeque<Kept>,
    pub(super) pending_bytes: usize,
    pub(super) pending_since: Option<Instant>,
    pub(super) segments: VecDeque<Segment>,
    /// Bytes of records whose room somebody else has.
    orphans: u64,
    /// The disk does not take anything.
    pub(super) broken: bool,
    pub(super) closing: bool,
    /// As if the process were gone: nothing is written any more.
    #[cfg(test)]
    pub(super) crashed: bool,
    damages: u64,
    rooms: HashMap<String, Room>,
    /// From before the start; given away once.
    remembered: HashMap<String, Remembered>,
    runs: HashMap<String, Run>,
    pub(super) written: u64,
}

/// The records, shared by all who write and the one who publishes.
pub(in crate::ingest) struct Log {
    state: Mutex<State>,
    pub(super) slot: Option<Slot>,
    pub(super) limits: Limits,
    /// For the publisher: there is more.
    pub(in crate::ingest) more: Notify,
    /// For the writer's thread.
    pub(super) wake: Condvar,
}

impl Log {
    /// With what was found on the disk: segments, how far they are published, and rooms.
    pub(super) fn new(
        slot: Option<Slot>,
        limits: Limits,
        segments: &[(u64, u64)],
        published: u64,
        remembered: HashMap<String, Remembered>,
    ) -> Self {
        let end = segments
            .last()
            .map_or(0, |(start, length)| start + length)
            .max(published);
        let segments = segments.iter().map(|&(start, length)| Segment {
            start,
            length,
            done: None,
        });
        let now = Instant::now();
        let floors = remembered.iter().filter_map(|(room, known)| {
            let number = known.floor?;
            let known = Room {
                number,
                token: 0,
                since: now,
            };
            Some((room.clone(), known))
        });
        Self {
            state: Mutex::new(State {
                segments: segments.collect(),
                rooms: floors.collect(),
                remembered,
                window_end: published,
                end,
                written: end,
                published,
                ..State::default()
            }),
            slot,
            limits,
            more: Notify::new(),
            wake: Condvar::new(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a parcel in. `token` tells a room's token; when the room was lost meanwhile, its last
    /// one counts: that is the one its messages got their numbers under.
    pub(in crate::ingest) fn append(
        &self,
        parcel: Parcel,
        mut place: Option<Place>,
        token: impl Fn(&str) -> Option<u64>,
    ) {
        let full = {
            let state = self.state();
            let bounded = self.slot.is_some() && !state.broken;
            bounded.then(|| state.end - state.published + state.orphans)
        };
        let mut records = Vec::with_capacity(parcel.envelopes.len() + parcel.dead_letters.len());
        for envelope in parcel.envelopes {
            let token = self.token(&envelope.stream_id, token(&envelope.stream_id));
            let worth = Worth::of(&envelope.kind);
            if full.is_some_and(|used| !worth.fits(used, self.limits.disk)) {
                records.extend(self.drop_one(token, worth, &envelope));
                continue;
            }
            {
                let mut state = self.state();
                let run = state.runs.remove(&envelope.stream_id);
                records.extend(run.as_ref().map(gap_record));
                let number = last_number(&envelope);
                note(&mut state.rooms, &envelope.stream_id, number, token);
            }
            records.push(record::encode(Content::Envelope(token, envelope)));
        }
        for letter in parcel.dead_letters {
            if full.is_none_or(|used| Worth::Talk.fits(used, self.limits.disk)) {
                records.push(record::encode(Content::Letter(letter)));
            } else {
                counter!(names::SPOOL_DROPPED, "class" => "dead_letter").increment(1);
            }
        }
        counter!(names::SPOOL_RECORDS).increment(records.len() as u64);
        // The place is given back with the last of them.
        let last = records.pop();
        let mut state = self.state();
        for record in records {
            self.push(&mut state, record, None);
        }
        if let Some(record) = last {
            self.push(&mut state, record, place.take());
        }
        drop(state);
        self.more.notify_one();
    }

    fn token(&self, room: &str, now: Option<u64>) -> u64 {
        let mut state = self.state();
        let Some(known) = state.rooms.get_mut(room) else {
            let token = now.unwrap_or(0);
            note(&mut state.rooms, room, 0, token);
            return token;
        };
        known.token = now.unwrap_or(known.token);
        known.token
    }

    fn push(&self, state: &mut State, record: Bytes, place: Option<Place>) {
        let length = record.len();
        let item = Item {
            start: state.end,
            end: state.end + length as u64,
            record,
            damages: state.damages,
        };
        state.end = item.end;
        let size = length + OVERHEAD;
        let in_memory_only = self.slot.is_none();
        let fits = in_memory_only || state.window_bytes + size <= self.limits.memory;
        if state.window_end == item.start && fits {
            state.window_end = item.end;
            state.window_bytes += size;
            state.window.push_back(Kept {
                item: item.clone(),
                place: None,
            });
        }
        if in_memory_only {
            if let Some(kept) = state.window.back_mut() {
                kept.place = place;
            }
            return;
        }
        state.pending.push_back(Kept { item, place });
        let before = state.pending_bytes;
        state.pending_bytes += size;
        state.pending_since.get_or_insert_with(Instant::now);
        if before == 0 || (before < self.limits.batch && state.pending_bytes >= self.limits.batch) {
            self.wake.notify_all();
        }
    }

    // ---- the publisher

    /// The next records, at most so many and so many bytes (at least one, if there is one). They
    /// stay until [`Log::advance`].
    pub(in crate::ingest) fn next(&self, most: usize, bytes: usize) -> Vec<Item> {
        let state = self.state();
        let mut left = bytes;
        let mut items = Vec::new();
        for kept in state.window.iter().take(most) {
            let length = kept.item.record.len();
            if length > left && !items.is_empty() {
                break;
            }
            left = left.saturating_sub(length);
            items.push(kept.item.clone());
        }
        items
    }

    /// The first so many records of the window are published, or wait elsewhere.
    pub(in crate::ingest) fn advance(&self, count: usize) {
        let mut state = self.state();
        for _ in 0..count {
            if let Some(kept) = state.window.pop_front() {
                state.window_bytes -= kept.item.record.len() + OVERHEAD;
                state.published = kept.item.end;
            }
        }
        if state.window.is_empty() && state.window_end == state.end {
            state.published = state.end;
        }
        if state.broken {
            state.drop_published_pending();
        }
    }

    /// How long Redis is asked for what was published.
    pub(in crate::ingest) fn keep(&self) -> Duration {
        self.limits.keep
    }

    /// Whether published records stay for a while.
    pub(in crate::ingest) fn keeps(&self) -> Option<Duration> {
        self.slot.as_ref().map(|_| self.limits.keep)
    }

    /// Whether records wait that are not in the window, and it has room for them.
    pub(in crate::ingest) fn must_read_back(&self) -> bool {
        let state = self.state();
        state.window_end < state.end && state.window_bytes < self.limits.memory / 4
    }

    /// Bytes that are not published.
    pub(in crate::ingest) fn backlog(&self) -> u64 {
        let state = self.state();
        state.end - state.published
    }

    /// Whether everything is published.
    pub(in crate::ingest) fn is_empty(&self) -> bool {
        let state = self.state();
        state.window.is_empty() && state.window_end == state.end
    }

    // ---- others

    /// The highest number of a room, and once what was found of it at the start.
    pub(in crate::ingest) fn remembered(&self, room: &str) -> Remembered {
        let mut state = self.state();
        let floor = state
            .rooms
            .get(room)
            .map(|known| known.number)
            .filter(|&number| number > 0);
        let known = state.remembered.remove(room).unwrap_or_default();
        Remembered {
            floor: floor.max(known.floor),
            ..known
        }
    }

    /// Records that wait for their room take so many bytes.
    pub(in crate::ingest) fn set_orphans(&self, bytes: u64) {
        self.state().orphans = bytes;
    }

    /// What waits to be written, up to about `bytes`.
    pub(super) fn to_write(&self, bytes: usize) -> Vec<Item> {
        let state = self.state();
        let mut left = bytes;
        let mut items = Vec::new();
        for kept in &state.pending {
            if left == 0 {
                break;
            }
            left = left.saturating_sub(kept.item.record.len());
            items.push(kept.item.clone());
        }
        items
    }

    /// As a crash does: the writer ends at once. Returns what is lost by it.
    #[cfg(test)]
    pub(in crate::ingest) fn crash(&self) -> Vec<Item> {
        let mut state = self.state();
        (state.closing, state.crashed) = (true, true);
        let lost = state.pending.iter().map(|kept| kept.item.clone()).collect();
        drop(state);
        self.wake.notify_all();
        lost
    }

    /// Tells how things are.
    #[expect(clippy::cast_precision_loss, reason = "metrics are floats")]
    pub(super) fn measure(&self) {
        let state = self.state();
        let disk: u64 = state.segments.iter().map(|segment| segment.length).sum();
        gauge!(names::SPOOL_BYTES).set((disk + state.orphans) as f64);
        gauge!(names::SPOOL_BACKLOG).set((state.end - state.published) as f64);
        gauge!(names::SPOOL_ORPHANS).set(state.orphans as f64);
        gauge!(names::SPOOL_BROKEN).set(f64::from(u8::from(state.broken)));
    }
}

impl State {
    pub(super) fn published(&self) -> u64 {
        self.published
    }

    /// All up to `end` is on the disk, in these segments beside those that are known.
    pub(super) fn has_written(&mut self, segments: &[Segment], end: u64) {
        for segment in segments {
            match self.segments.back_mut() {
                Some(last) if last.start == segment.start => {
                    last.length = segment.length;
                    // What came last stays as long as anything.
                    last.done = None;
                }
                _ => self.segments.push_back(*segment),
            }
        }
        while let Some(kept) = self.pending.front()
            && kept.item.end <= end
        {
            self.pending_bytes -= kept.item.record.len() + OVERHEAD;
            self.pending.pop_front();
        }
        self.written = end;
        self.pending_since = (!self.pending.is_empty()).then(Instant::now);
    }

    /// Without a disk, what is published need not be written any more.
    pub(super) fn drop_published_pending(&mut self) {
        while let Some(kept) = self.pending.front()
            && kept.item.end <= self.published
        {
            self.pending_bytes -= kept.item.record.len() + OVERHEAD;
            self.pending.pop_front();
        }
        if self.pending.is_empty() {
            self.pending_since = None;
        }
    }
}

fn note(rooms: &mut HashMap<String, Room>, room: &str, number: u64, token: u64) {
    let since = Instant::now();
    if let Some(known) = rooms.get_mut(room) {
        known.number = known.number.max(number);
        known.since = since;
        return;
    }
    if rooms.len() >= ROOMS {
        rooms.retain(|_, known| known.since.elapsed() < Duration::from_hours(1));
    }
    let known = Room {
        number,
        token,
        since,
    };
    rooms.insert(room.to_owned(), known);
}
