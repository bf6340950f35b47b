//! Gift streaks of one room: which message concludes one, and when one is over without.
//!
//! Comes in: the room's gift events, each as its message alone says it, and the room's clock.
//! Goes out: the same events with their place in the streak put right, and the ends that never
//! came ([`TIMEOUT_TYPE`]). Of all events of a streak exactly one is `final`, whatever is lost,
//! late or out of order, and its coins are the price times the highest count seen:
//!
//! - counts arrive out of order: a running total never goes back, and a lower one is no new streak;
//! - the end mark makes the event `final`, also when it is all that we see of the streak;
//! - after the end, or after the time-out, everything else of the streak is `progress`;
//! - without an end mark the streak is over [`SILENCE`] after its last message, by the room's
//!   clock: the event of the time-out has the place (`seqNo`, session, times) of that message, so
//!   every normalizer gives it the same id. A real end that comes still later is `progress`.
//!
//! A streak that TikTok has not named (group 0) is told from the next one by its count: after its
//! end, or where the count falls back, another begins, with an id of its own.
//!
//! All of it can be written down ([`Streaks::changes`]) and read again ([`Streaks::restore`]): a
//! normalizer that takes over goes on where the last one stopped. Bounded: [`MAX_OPEN`] streaks at
//! a time, the oldest is concluded for a new one; what is over is remembered for [`REMEMBERED`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shared::event::{Gift, Payload, StreakState, UnifiedEvent};
use shared::identity::EventId;
use tokio::time::Instant;

/// The raw type of the event that concludes a streak whose end never came.
pub const TIMEOUT_TYPE: &str = "GiftStreakTimeout";

/// How long a streak is silent before it is over, by the room's clock. TikTok sends the end mark
/// 1.3 to 4 s after the last count.
const SILENCE: i64 = 10_000;
/// How long a streak that is over is remembered, by the room's clock: so long may a message of it
/// be late.
const REMEMBERED: i64 = 10 * 60_000;
/// How long after the end of a streak without a name its late messages may come: those of one
/// batch arrive together.
const GRACE: i64 = 2_000;
/// How long after its time-out the end mark of a streak without a name is taken for its own.
const LATE_END: i64 = 60_000;
/// Open streaks of a room.
const MAX_OPEN: usize = 500;
/// Remembered streaks of a room.
const MAX_OVER: usize = 5_000;

/// The streaks of one room, or of one showing of it.
#[derive(Debug, Default)]
pub(super) struct Streaks {
    open: BTreeMap<String, Open>,
    over: BTreeMap<String, Over>,
    /// Keys of `over`, oldest first; also of some that are not there any more.
    order: VecDeque<(i64, String)>,
    /// Nothing is due before this time of the room's clock.
    next: Option<i64>,
    /// Keys that differ from what was written down.
    changed: BTreeSet<String>,
}

/// A streak that goes on.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Open {
    /// The room's clock at its last message.
    at: i64,
    /// Its last message, with the highest count and all that is known of the gift.
    last: UnifiedEvent,
    /// When this process heard of it; for rooms whose clock stands still.
    #[serde(skip, default = "Instant::now")]
    heard: Instant,
}

/// A streak that is over.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Over {
    /// The room's clock at its end.
    at: i64,
    /// The streak's id in events.
    id: String,
    count: u64,
    inferred: bool,
}

/// How a streak is written down.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Written {
    Open(Box<Open>),
    Over(Over),
}

impl Streaks {
    /// Puts a gift event right, and concludes what it shows to be over. `clock` is the room's,
    /// this event included.
    pub(super) fn apply(
        &mut self,
        event: &mut UnifiedEvent,
        clock: i64,
        now: Instant,
    ) -> Vec<UnifiedEvent> {
        let seq_no = event.seq_no;
        let Payload::Gift(gift) = &mut event.payload else {
            return Vec::new();
        };
        if gift.streak.state == StreakState::Single {
            return Vec::new();
        }
        let key = gift.streak.id.clone();
        let nameless = key.ends_with("-0");
        let ends = gift.streak.state == StreakState::Final;

        if let Some(over) = self.over.get(&key) {
            let late_end = over.inferred
                && ends
                && gift.gift_count == over.count
                && clock - over.at <= LATE_END;
            let late = clock - over.at <= GRACE && gift.gift_count <= over.count;
            if !nameless || late || late_end {
                gift.streak.id.clone_from(&over.id);
                gift.streak.state = StreakState::Progress;
                return Vec::new();
            }
            self.over.remove(&key);
            self.changed.insert(key.clone());
        }

        let mut concluded = Vec::new();
        if nameless
            && let Some(open) = self.open.get(&key)
            && clock - open.at > GRACE
            && gift_of(&open.last).is_some_and(|known| gift.gift_count < known.gift_count)
        {
            concluded.extend(self.conclude(&key, clock));
            self.over.remove(&key);
        }
        match self.open.get(&key).and_then(|open| gift_of(&open.last)) {
            Some(known) => complete(gift, known),
            None if nameless => gift.streak.id = format!("{key}-{seq_no}"),
            None => {}
        }
        self.changed.insert(key.clone());
        if ends {
            self.open.remove(&key);
            let over = Over {
                at: clock,
                id: gift.streak.id.clone(),
                count: gift.gift_count,
                inferred: false,
            };
            self.bury(key, over);
            return concluded;
        }
        let last = match self.open.remove(&key) {
            // It came late: the last message stays the last.
            Some(open) if open.last.seq_no > seq_no => UnifiedEvent {
                payload: event.payload.clone(),
                ..open.last
            },
            _ => event.clone(),
        };
        let open = Open {
            at: clock,
            last,
            heard: now,
        };
        self.open.insert(key, open);
        let due = clock + SILENCE + 1;
        self.next = Some(self.next.map_or(due, |next| next.min(due)));
        if self.open.len() > MAX_OPEN {
            concluded.extend(self.conclude_oldest(clock));
        }
        concluded
    }

    /// Concludes what is silent for too long by the room's clock, and forgets what is long over.
    pub(super) fn pass(&mut self, clock: i64) -> Vec<UnifiedEvent> {
        while let Some((at, key)) = self.order.front()
            && clock - at > REMEMBERED
        {
            if self.over.get(key).is_some_and(|over| over.at == *at) {
                self.over.remove(key);
                self.changed.insert(key.clone());
            }
            self.order.pop_front();
        }
        if self.next.is_none_or(|next| clock < next) {
            return Vec::new();
        }
        let concluded = self.conclude_all(clock, |open| clock - open.at > SILENCE);
        self.next = self.open.values().map(|open| open.at + SILENCE + 1).min();
        concluded
    }

    /// Concludes what this process has not heard of for `wait`.
    pub(super) fn pass_silent(
        &mut self,
        clock: i64,
        now: Instant,
        wait: Duration,
    ) -> Vec<UnifiedEvent> {
        self.conclude_all(clock, |open| {
            now.saturating_duration_since(open.heard) > wait
        })
    }

    /// Concludes the streak that has been silent for longest.
    pub(super) fn conclude_oldest(&mut self, clock: i64) -> Option<UnifiedEvent> {
        let oldest = self
            .open
            .iter()
            .min_by_key(|(_, open)| (open.at, open.last.seq_no))?
            .0
            .clone();
        self.conclude(&oldest, clock)
    }

    /// How long the most silent streak is silent: the time of its last message.
    pub(super) fn oldest(&self) -> Option<i64> {
        self.open.values().map(|open| open.at).min()
    }

    /// Forgets what a test says of its key and its text as it is written down, with nothing in its
    /// place: neither is it concluded.
    pub(super) fn forget(&mut self, test: impl Fn(&str, &str) -> bool) {
        let keys: Vec<String> = self
            .keys()
            .filter(|key| test(key, &self.text(key).unwrap_or_default()))
            .cloned()
            .collect();
        for key in keys {
            self.open.remove(&key);
            self.over.remove(&key);
            self.changed.insert(key);
        }
    }

    /// How many are open.
    pub(super) fn open(&self) -> usize {
        self.open.len()
    }

    /// Counts silence from now on: what was on its way could not arrive.
    pub(super) fn heard(&mut self, now: Instant) {
        for open in self.open.values_mut() {
            open.heard = now;
        }
    }

    fn conclude_all(&mut self, clock: i64, due: impl Fn(&Open) -> bool) -> Vec<UnifiedEvent> {
        let keys: Vec<String> = self
            .open
            .iter()
            .filter(|(_, open)| due(open))
            .map(|(key, _)| key.clone())
            .collect();
        let mut concluded: Vec<_> = keys
            .iter()
            .filter_map(|key| self.conclude(key, clock))
            .collect();
        concluded.sort_by_key(|event| event.seq_no);
        concluded
    }

    /// The end of a streak that has none.
    fn conclude(&mut self, key: &str, clock: i64) -> Option<UnifiedEvent> {
        let mut event = self.open.remove(key)?.last;
        event.event_id = EventId::new(&event.stream_id, event.seq_no, TIMEOUT_TYPE);
        let Payload::Gift(gift) = &mut event.payload else {
            return None;
        };
        TIMEOUT_TYPE.clone_into(&mut gift.raw_type);
        gift.streak.state = StreakState::Final;
        gift.streak.inferred = true;
        let over = Over {
            at: clock,
            id: gift.streak.id.clone(),
            count: gift.gift_count,
            inferred: true,
        };
        self.changed.insert(key.to_owned());
        self.bury(key.to_owned(), over);
        Some(event)
    }

    fn bury(&mut self, key: String, over: Over) {
        self.order.push_back((over.at, key.clone()));
        self.over.insert(key, over);
        while self.order.len() > MAX_OVER {
            if let Some((at, key)) = self.order.pop_front()
                && self.over.get(&key).is_some_and(|over| over.at == at)
            {
                self.over.remove(&key);
                self.changed.insert(key);
            }
        }
    }

    // ---- what is written down

    /// What has changed since the last call: key and text, or none for what is forgotten.
    pub(super) fn changes(&mut self) -> Vec<(String, Option<String>)> {
        std::mem::take(&mut self.changed)
            .into_iter()
            .map(|key| {
                let text = self.text(&key);
                (key, text)
            })
            .collect()
    }

    /// Whether [`Streaks::changes`] would return anything.
    pub(super) fn is_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Marks everything as not written down.
    pub(super) fn all_changed(&mut self) {
        self.changed.extend(self.open.keys().cloned());
        self.changed.extend(self.over.keys().cloned());
    }

    fn text(&self, key: &str) -> Option<String> {
        let written = match (self.open.get(key), self.over.get(key)) {
            (Some(open), _) => Written::Open(Box::new(open.clone())),
            (None, Some(over)) => Written::Over(over.clone()),
            (None, None) => return None,
        };
        serde_json::to_string(&written).ok()
    }

    /// Takes what was written down; `false` for what this build cannot read.
    pub(super) fn restore(&mut self, key: &str, text: &str) -> bool {
        match serde_json::from_str(text) {
            Ok(Written::Open(open)) => {
                let due = open.at + SILENCE + 1;
                self.next = Some(self.next.map_or(due, |next| next.min(due)));
                self.open.insert(key.to_owned(), *open);
            }
            Ok(Written::Over(over)) => {
                self.order.push_back((over.at, key.to_owned()));
                self.over.insert(key.to_owned(), over);
            }
            Err(_) => return false,
        }
        true
    }

    /// To be called after the last [`Streaks::restore`].
    pub(super) fn restored(&mut self) {
        self.order.make_contiguous().sort();
    }

    /// All keys that are written down.
    pub(super) fn keys(&self) -> impl Iterator<Item = &String> {
        let over = self.over.keys().filter(|key| !self.open.contains_key(*key));
        self.open.keys().chain(over)
    }
}

fn gift_of(event: &UnifiedEvent) -> Option<&Gift> {
    match &event.payload {
        Payload::Gift(gift) => Some(gift),
        _ => None,
    }
}

/// What the streak has shown before and this message does not say, or says too low.
fn complete(gift: &mut Gift, known: &Gift) {
    gift.streak.id.clone_from(&known.streak.id);
    gift.gift_count = gift.gift_count.max(known.gift_count);
    if gift.coins.unit == 0 {
        gift.coins.unit = known.coins.unit;
    }
    gift.coins.total = gift.coins.unit.saturating_mul(gift.gift_count);
    if gift.gift_name.is_none() {
        gift.gift_name.clone_from(&known.gift_name);
    }
    if gift.image_url.is_none() {
        gift.image_url.clone_from(&known.image_url);
    }
    if gift.recipient.is_none() {
        gift.recipient.clone_from(&known.recipient);
    }
}

#[cfg(test)]
mod tests;
