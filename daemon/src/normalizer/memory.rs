//! What the normalizer remembers of rooms: gift streaks, the likes so far, the room's clock.
//!
//! Comes in: each message's envelope and event, and from time to time that time has passed. Goes
//! out: the event put right, and ends of gift streaks that never came. The clock of a room is the
//! latest `ingestedAt` seen in it, so the same messages give the same events, today and in a
//! month. A replay is a room of its own for each showing: it touches nothing of the live one, and
//! its last message (`ControlEvent.REPLAY_END`) concludes and forgets it.
//!
//! Where a room's clock stands still (nothing is said any more) the wall clock helps: a streak of
//! which nothing was heard for [`SILENT`] is over, though only while nothing can be on its way:
//! the caller says so, and calls [`Memory::interrupted`] after every trouble.
//!
//! Written down with the events, in the same script, as texts by field: `room {scope}`,
//! `streak {scope} {key}`, `gift {id}`; only what changed. Bounded: [`MAX_ROOMS`], [`MAX_OPEN`]
//! streaks; who makes room is concluded, not lost. A room of which nothing was heard for
//! [`FORGOTTEN`] is forgotten.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shared::event::{Payload, StreakState, UnifiedEvent};
use shared::raw::{Envelope, RawData, Source, control};
use tokio::time::Instant;

use super::catalogue::Catalogue;
use super::streaks::Streaks;

/// How long nothing is heard of a streak before it is over, by the wall clock.
const SILENT: Duration = Duration::from_mins(1);
/// The same when the broadcast is over.
const SILENT_AT_THE_END: Duration = Duration::from_secs(10);
/// The same for replays, which may be a tenth as fast as life.
const SILENT_REPLAY: Duration = Duration::from_mins(10);
/// How long a room is remembered after its last message.
const FORGOTTEN: Duration = Duration::from_hours(1);
/// Rooms that are remembered.
const MAX_ROOMS: usize = 20_000;
/// Open streaks of all rooms together, about 1.5 kB each.
const MAX_OPEN: usize = 10_000;
/// How far a room's clock may be ahead of what is written of it, in milliseconds.
const CLOCK_STEP: i64 = 1_000;

const ROOM: &str = "room";
const STREAK: &str = "streak";
const GIFT: &str = "gift";

/// All that is remembered of a shard's rooms.
#[derive(Debug)]
pub(super) struct Memory {
    /// At most this many rooms and open streaks.
    max: (usize, usize),
    rooms: HashMap<String, Room>,
    pub(super) catalogue: Catalogue,
    /// Open streaks of all rooms.
    open: usize,
    /// Rooms that differ from what was written down.
    changed: BTreeSet<String>,
    /// Fields to remove.
    removed: BTreeSet<String>,
}

#[derive(Debug)]
struct Room {
    clock: i64,
    likes: u64,
    ended: bool,
    replay: bool,
    streaks: Streaks,
    /// When this process heard of it.
    heard: Instant,
    /// The clock that was written down.
    written: i64,
}

/// How a room is written down.
#[derive(Serialize, Deserialize)]
struct Written {
    clock: i64,
    #[serde(default, skip_serializing_if = "is_zero")]
    likes: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    ended: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Default for Memory {
    fn default() -> Self {
        Self::bounded(MAX_ROOMS, MAX_OPEN)
    }
}

impl Memory {
    fn bounded(rooms: usize, open: usize) -> Self {
        Self {
            max: (rooms, open),
            rooms: HashMap::new(),
            catalogue: Catalogue::default(),
            open: 0,
            changed: BTreeSet::new(),
            removed: BTreeSet::new(),
        }
    }

    /// Takes a message: puts its event right, if it has one, and returns what the message shows to
    /// be over, in the order of the rooms' numbers.
    pub(super) fn apply(
        &mut self,
        envelope: &Envelope,
        event: Option<&mut UnifiedEvent>,
        now: Instant,
    ) -> Vec<UnifiedEvent> {
        let scope = scope(envelope);
        if let Some(whole) = replay_end(envelope) {
            let mut concluded = self.forget(&scope);
            concluded.sort_by_key(|event| event.seq_no);
            // Where the showing was broken off, nothing has come to its end.
            return if whole { concluded } else { Vec::new() };
        }
        let remembers = match event.as_deref().map(|event| &event.payload) {
            Some(Payload::Gift(gift)) => gift.streak.state != StreakState::Single,
            Some(Payload::Like(_)) => true,
            _ => false,
        };
        let mut event = event;
        if let Some(Payload::Gift(gift)) = event.as_mut().map(|event| &mut event.payload) {
            self.catalogue.complete(gift);
        }
        let mut concluded = Vec::new();
        if !self.rooms.contains_key(&scope) {
            if !remembers {
                return concluded;
            }
            concluded.extend(self.make_room());
            let clock = envelope.ingested_at.as_millis();
            let replay = envelope.source == Source::Replay;
            let room = Room::new(clock, replay, now);
            self.rooms.insert(scope.clone(), room);
        }
        concluded.extend(self.apply_in(&scope, envelope, event, now));
        while self.open > self.max.1 {
            let Some(event) = self.conclude_oldest() else {
                break;
            };
            concluded.push(event);
        }
        concluded
    }

    fn apply_in(
        &mut self,
        scope: &str,
        envelope: &Envelope,
        event: Option<&mut UnifiedEvent>,
        now: Instant,
    ) -> Vec<UnifiedEvent> {
        let Some(room) = self.rooms.get_mut(scope) else {
            return Vec::new();
        };
        room.heard = now;
        room.clock = room.clock.max(envelope.ingested_at.as_millis());
        let open = room.streaks.open();
        let mut concluded = Vec::new();
        let mut changed = open > 0 && room.clock - room.written >= CLOCK_STEP;
        if let Some(event) = event {
            match &mut event.payload {
                Payload::Gift(_) => {
                    // Before the clock is looked at: its own message saves a streak.
                    concluded = room.streaks.apply(event, room.clock, now);
                    changed |= room.streaks.open() != open;
                }
                Payload::Like(like) => {
                    changed |= like.total > room.likes;
                    room.likes = room.likes.max(like.total);
                    like.total = room.likes;
                }
                Payload::StreamEnd(_) => {
                    changed |= !room.ended;
                    room.ended = true;
                }
                _ => {}
            }
        }
        concluded.extend(room.streaks.pass(room.clock));
        concluded.sort_by_key(|event| event.seq_no);
        self.open = self.open - open + room.streaks.open();
        if changed || room.streaks.is_changed() {
            self.changed.insert(scope.to_owned());
        }
        concluded
    }

    /// Concludes and forgets what time has brought, while nothing can be on its way.
    pub(super) fn pass(&mut self, now: Instant) -> Vec<UnifiedEvent> {
        let mut concluded = Vec::new();
        let mut forgotten = Vec::new();
        for (scope, room) in &mut self.rooms {
            let silent = match (room.replay, room.ended) {
                (true, _) => SILENT_REPLAY,
                (false, true) => SILENT_AT_THE_END,
                (false, false) => SILENT,
            };
            concluded.extend(room.streaks.pass_silent(room.clock, now, silent));
            if room.streaks.is_changed() {
                self.changed.insert(scope.clone());
            }
            if now.saturating_duration_since(room.heard) > FORGOTTEN {
                forgotten.push(scope.clone());
            }
        }
        for scope in forgotten {
            concluded.extend(self.forget(&scope));
        }
        self.open = self.rooms.values().map(|room| room.streaks.open()).sum();
        concluded.sort_by(|one, other| {
            (&one.stream_id, one.seq_no).cmp(&(&other.stream_id, other.seq_no))
        });
        concluded
    }

    /// Forgets streaks that a test says so of, by their text as it is written down.
    pub(super) fn forget_streaks(&mut self, test: impl Fn(&str, &str) -> bool) {
        for (scope, room) in &mut self.rooms {
            room.streaks.forget(&test);
            if room.streaks.is_changed() {
                self.changed.insert(scope.clone());
            }
        }
        self.open = self.rooms.values().map(|room| room.streaks.open()).sum();
    }

    /// Something was in the way of messages: silence counts from now on.
    pub(super) fn interrupted(&mut self, now: Instant) {
        for room in self.rooms.values_mut() {
            room.streaks.heard(now);
        }
    }

    /// How many streaks are open.
    pub(super) fn open(&self) -> usize {
        self.open
    }

    /// Drops the room of which nothing was heard for longest, when there are too many.
    fn make_room(&mut self) -> Vec<UnifiedEvent> {
        if self.rooms.len() < self.max.0 {
            return Vec::new();
        }
        let oldest = self
            .rooms
            .iter()
            .min_by(|(a, one), (b, other)| (one.heard, a).cmp(&(other.heard, b)));
        let Some(scope) = oldest.map(|(scope, _)| scope.clone()) else {
            return Vec::new();
        };
        self.forget(&scope)
    }

    fn forget(&mut self, scope: &str) -> Vec<UnifiedEvent> {
        let Some(mut room) = self.rooms.remove(scope) else {
            return Vec::new();
        };
        self.open -= room.streaks.open();
        let mut concluded = Vec::new();
        while let Some(event) = room.streaks.conclude_oldest(room.clock) {
            concluded.push(event);
        }
        self.removed.insert(format!("{ROOM} {scope}"));
        // Also what was forgotten already and not yet written down as such.
        for (key, _) in room.streaks.changes() {
            self.removed.insert(format!("{STREAK} {scope} {key}"));
        }
        for key in room.streaks.keys() {
            self.removed.insert(format!("{STREAK} {scope} {key}"));
        }
        self.changed.remove(scope);
        concluded
    }

    fn conclude_oldest(&mut self) -> Option<UnifiedEvent> {
        let scope = self
            .rooms
            .iter()
            .filter_map(|(scope, room)| Some((room.streaks.oldest()?, scope)))
            .min()?
            .1
            .clone();
        let room = self.rooms.get_mut(&scope)?;
        let event = room.streaks.conclude_oldest(room.clock)?;
        self.open -= 1;
        self.changed.insert(scope);
        Some(event)
    }

    // ---- what is written down

    /// What has changed since the last call: field and text, or none for what is forgotten.
    pub(super) fn changes(&mut self) -> Vec<(String, Option<String>)> {
        let mut changes: Vec<(String, Option<String>)> = std::mem::take(&mut self.removed)
            .into_iter()
            .map(|field| (field, None))
            .collect();
        for scope in std::mem::take(&mut self.changed) {
            let Some(room) = self.rooms.get_mut(&scope) else {
                continue;
            };
            room.written = room.clock;
            let written = Written {
                clock: room.clock,
                likes: room.likes,
                ended: room.ended,
            };
            let text = serde_json::to_string(&written).ok();
            changes.push((format!("{ROOM} {scope}"), text));
            let streaks = room.streaks.changes().into_iter();
            changes.extend(streaks.map(|(key, text)| (format!("{STREAK} {scope} {key}"), text)));
        }
        changes.extend(
            self.catalogue
                .changes()
                .into_iter()
                .map(|(id, text)| (format!("{GIFT} {id}"), text)),
        );
        changes
    }

    /// Makes the next [`Memory::changes`] return everything.
    pub(super) fn all_changed(&mut self) {
        for (scope, room) in &mut self.rooms {
            self.changed.insert(scope.clone());
            room.streaks.all_changed();
        }
        self.catalogue.all_changed();
    }

    /// From what was written down. What this build cannot read is left out and removed.
    pub(super) fn restore(fields: &HashMap<String, String>, now: Instant) -> Self {
        let mut memory = Self::default();
        let mut streaks = Vec::new();
        for (field, text) in fields {
            let mut words = field.splitn(3, ' ');
            let read = match (words.next(), words.next(), words.next()) {
                (Some(ROOM), Some(scope), None) => memory.restore_room(scope, text, now),
                (Some(STREAK), Some(scope), Some(key)) => {
                    streaks.push((field, scope, key, text));
                    true
                }
                (Some(GIFT), Some(id), None) => memory.catalogue.restore(id, text),
                _ => false,
            };
            if !read {
                memory.unreadable(field);
            }
        }
        for (field, scope, key, text) in streaks {
            let room = memory.rooms.get_mut(scope);
            if !room.is_some_and(|room| room.streaks.restore(key, text)) {
                memory.unreadable(field);
            }
        }
        for room in memory.rooms.values_mut() {
            room.streaks.restored();
            memory.open += room.streaks.open();
        }
        memory
    }

    fn restore_room(&mut self, scope: &str, text: &str, now: Instant) -> bool {
        let Ok(written) = serde_json::from_str::<Written>(text) else {
            return false;
        };
        let room = Room {
            likes: written.likes,
            ended: written.ended,
            written: written.clock,
            ..Room::new(written.clock, scope.contains('/'), now)
        };
        self.rooms.insert(scope.to_owned(), room);
        true
    }

    fn unreadable(&mut self, field: &str) {
        tracing::warn!(
            stage = "normalizer",
            field,
            "what was remembered cannot be read by this build and is forgotten"
        );
        self.removed.insert(field.to_owned());
    }
}

impl Room {
    fn new(clock: i64, replay: bool, now: Instant) -> Self {
        Self {
            clock,
            likes: 0,
            ended: false,
            replay,
            streaks: Streaks::default(),
            heard: now,
            written: clock,
        }
    }
}

/// The name of a room's memory: the room, or the showing of it.
fn scope(envelope: &Envelope) -> String {
    match envelope.source {
        Source::Live => envelope.stream_id.clone(),
        Source::Replay => format!("{}/{}", envelope.stream_id, envelope.session_id),
    }
}

/// Whether a message ends a showing, and if so whether all of it was shown.
fn replay_end(envelope: &Envelope) -> Option<bool> {
    let RawData::Json(data) = &envelope.data else {
        return None;
    };
    let ends = envelope.source == Source::Replay && envelope.kind == control::REPLAY_END;
    ends.then(|| data.get("state").and_then(|state| state.as_str()) == Some("done"))
}

#[cfg(test)]
mod tests;
