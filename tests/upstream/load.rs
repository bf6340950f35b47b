//! Made-up rooms for measurements: the same events for the same seed, and their exact totals.
//!
//! In: a [`Load`] and a room's name. Out: a plan of events in the room's own time: chat, likes,
//! joins, follows, viewer counts and gifts with their streaks, in the proportions of the [`Mix`]
//! and about the sizes that real ones have. What is said and given by whom depends on the seed,
//! the room's name and nothing else; message ids and times are new in every run, for the daemon
//! remembers those it has seen. Nothing of a capture is held, so that a thousand rooms cost little.

mod dice;
pub(crate) mod messages;

use std::time::Duration;

use serde::Serialize;

pub(crate) use self::messages::Stamp;
use self::{
    dice::Dice,
    messages::{GIFTS, Gift, Person},
};

/// So many people are in a room.
const PEOPLE: u32 = 500;
/// Distance of events when they go as fast as clients read, in the room's own time.
const FASTEST: Duration = Duration::from_millis(1);
/// No more streaks run at a time.
const STREAKS: usize = 8;

/// What rooms of made-up events do.
#[derive(Clone, Debug)]
pub struct Load {
    /// The same seed makes the same events.
    pub seed: u64,
    /// Events per second and room. 0: an idle room, in which only heartbeats are answered.
    /// Infinite: as fast as clients read.
    pub rate: f64,
    /// A broadcast ends after so many events (and the ends of the streaks that are open then);
    /// `None`: never.
    pub events: Option<u64>,
    /// Average size of a message, bytes.
    pub size: usize,
    /// How often what happens.
    pub mix: Mix,
}

/// How often what happens, as weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mix {
    /// `WebcastChatMessage`
    pub chat: u32,
    /// `WebcastLikeMessage`
    pub like: u32,
    /// `WebcastMemberMessage`
    pub join: u32,
    /// Gifts and streaks; each streak is several `WebcastGiftMessage`s.
    pub gift: u32,
    /// `WebcastSocialMessage`: follows.
    pub follow: u32,
    /// `WebcastRoomUserSeqMessage`
    pub viewers: u32,
}

/// What a room has sent, exactly; repeats are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Totals {
    /// All messages.
    pub messages: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// Chat messages.
    pub chats: u64,
    /// Like messages.
    pub like_messages: u64,
    /// Likes in them.
    pub likes: u64,
    /// Joins.
    pub joins: u64,
    /// Follows.
    pub follows: u64,
    /// Viewer counts.
    pub viewers: u64,
    /// Gift messages.
    pub gift_messages: u64,
    /// Gifts that are final: ended streaks and single gifts.
    pub gifts: u64,
    /// Coins of those, each streak counted once.
    pub coins: u64,
    /// Streaks that have not ended (the broadcast was cut off).
    pub open_streaks: u64,
}

impl Load {
    /// A rate and a seed; sizes and proportions of a real room, without end.
    pub fn new(seed: u64, rate: f64) -> Self {
        Self {
            seed,
            rate,
            events: None,
            size: 2_400,
            mix: Mix::default(),
        }
    }

    fn gap(&self) -> Duration {
        if self.rate.is_finite() && self.rate > 0.0 {
            Duration::from_secs_f64(1.0 / self.rate)
        } else {
            FASTEST
        }
    }
}

impl Default for Mix {
    fn default() -> Self {
        Self {
            chat: 22,
            like: 38,
            join: 26,
            gift: 3,
            follow: 2,
            viewers: 4,
        }
    }
}

/// An event that will happen.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    /// Since the broadcast began.
    pub(crate) at: Duration,
    pub(crate) event: Event,
}

/// What happens.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Chat {
        who: Person,
        text: String,
    },
    Like {
        who: Person,
        count: u32,
        total: u64,
    },
    Join {
        who: Person,
        present: u64,
    },
    Follow {
        who: Person,
        followers: u64,
    },
    Viewers {
        present: u64,
        total: u64,
        ranks: [Person; 3],
    },
    Gift(GiftEvent),
}

/// One gift message.
#[derive(Clone, Debug)]
pub(crate) struct GiftEvent {
    pub(crate) who: Person,
    pub(crate) gift: Gift,
    pub(crate) repeat: u32,
    /// Names the streak, 0 for gifts that cannot streak.
    pub(crate) group: u64,
    pub(crate) end: bool,
}

#[derive(Clone, Debug)]
struct Streak {
    next: Duration,
    steps_left: u32,
    event: GiftEvent,
}

/// A room's events, one after the other.
#[derive(Debug)]
pub(crate) struct Plan {
    load: Load,
    dice: Dice,
    /// When the next ordinary event is due.
    slot: Duration,
    streaks: Vec<Streak>,
    groups: u64,
    likes: u64,
    followers: u64,
    present: u64,
    entered: u64,
    pub(crate) planned: u64,
}

impl Plan {
    pub(crate) fn new(load: &Load, room: &str, lap: u32) -> Self {
        let mut dice = Dice::new(load.seed, room, lap);
        let gap = load.gap();
        // Rooms do not beat in time with each other.
        let slot = gap.mul_f64(dice.share());
        let present = 20 + u64::from(dice.below(400));
        Self {
            load: load.clone(),
            dice,
            slot,
            streaks: Vec::new(),
            groups: 0,
            likes: 0,
            followers: 1_000,
            present,
            entered: present,
            planned: 0,
        }
    }

    /// The next event; `None` when the broadcast is over.
    pub(crate) fn next(&mut self) -> Option<Planned> {
        let over = self
            .load
            .events
            .is_some_and(|events| self.planned >= events);
        let streak = (0..self.streaks.len()).min_by_key(|&index| self.streaks[index].next);
        if let Some(index) = streak
            && (over || self.streaks[index].next <= self.slot)
        {
            self.planned += 1;
            // It takes the place of an ordinary event.
            self.slot += self.load.gap();
            return Some(self.step(index));
        }
        if over {
            return None;
        }
        let at = self.slot;
        self.slot += self.load.gap();
        self.planned += 1;
        let event = self.event(at);
        Some(Planned { at, event })
    }

    fn event(&mut self, at: Duration) -> Event {
        let mix = self.load.mix;
        let weights = [
            mix.chat,
            mix.like,
            mix.join,
            mix.gift,
            mix.follow,
            mix.viewers,
        ];
        let who = Person(self.dice.below(PEOPLE));
        match self.dice.choose(&weights) {
            0 => Event::Chat {
                who,
                text: self.dice.sentence(),
            },
            1 => {
                let count = 1 + self.dice.below(15);
                self.likes += u64::from(count);
                let total = self.likes;
                Event::Like { who, count, total }
            }
            2 => {
                self.entered += 1;
                self.present += 1;
                let present = self.present;
                Event::Join { who, present }
            }
            3 => self.gift(who, at),
            4 => {
                self.followers += 1;
                let followers = self.followers;
                Event::Follow { who, followers }
            }
            _ => {
                self.present -= u64::from(self.dice.below(10)).min(self.present - 1);
                Event::Viewers {
                    present: self.present,
                    total: self.entered,
                    ranks: [0, 1, 2].map(|_| Person(self.dice.below(PEOPLE))),
                }
            }
        }
    }

    fn gift(&mut self, who: Person, at: Duration) -> Event {
        let gift = GIFTS[self.dice.choose(&GIFTS.map(|gift| gift.weight))];
        let full = self.streaks.len() >= STREAKS;
        let gift = if full && gift.streaks {
            GIFTS[GIFTS.len() - 1]
        } else {
            gift
        };
        let mut event = GiftEvent {
            who,
            gift,
            repeat: 1,
            group: 0,
            end: false,
        };
        if gift.streaks {
            self.groups += 1;
            event.group = self.groups;
            let streak = Streak {
                next: at + self.pause(200, 900),
                steps_left: self.dice.below(5),
                event: event.clone(),
            };
            self.streaks.push(streak);
        }
        Event::Gift(event)
    }

    /// A streak grows, numbers being skipped, or ends with the count it has.
    fn step(&mut self, index: usize) -> Planned {
        let at = self.streaks[index].next;
        if self.streaks[index].steps_left == 0 {
            let mut event = self.streaks.swap_remove(index).event;
            event.end = true;
            return Planned {
                at,
                event: Event::Gift(event),
            };
        }
        let grows = 1 + self.dice.below(3);
        let last = self.streaks[index].steps_left == 1;
        let pause = if last {
            self.pause(1_300, 4_000)
        } else {
            self.pause(200, 900)
        };
        let streak = &mut self.streaks[index];
        streak.steps_left -= 1;
        streak.next = at + pause;
        streak.event.repeat += grows;
        let event = Event::Gift(streak.event.clone());
        Planned { at, event }
    }

    fn pause(&mut self, from: u32, to: u32) -> Duration {
        Duration::from_millis(u64::from(from + self.dice.below(to - from)))
    }
}

impl Event {
    /// The message's method and bytes.
    pub(crate) fn encode(&self, stamp: &Stamp, size: usize) -> (&'static str, Vec<u8>) {
        messages::encode(self, stamp, size)
    }
}

impl Totals {
    /// Counts one message that was sent.
    pub(crate) fn add(&mut self, event: &Event, bytes: usize) {
        self.messages += 1;
        self.bytes += bytes as u64;
        match event {
            Event::Chat { .. } => self.chats += 1,
            Event::Like { count, .. } => {
                self.like_messages += 1;
                self.likes += u64::from(*count);
            }
            Event::Join { .. } => self.joins += 1,
            Event::Follow { .. } => self.follows += 1,
            Event::Viewers { .. } => self.viewers += 1,
            Event::Gift(gift) => {
                self.gift_messages += 1;
                let single = gift.group == 0;
                if single || gift.end {
                    self.gifts += 1;
                    self.coins += u64::from(gift.gift.coins) * u64::from(gift.repeat);
                }
                if !single && gift.end {
                    self.open_streaks -= 1;
                } else if !single && gift.repeat == 1 {
                    self.open_streaks += 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
