//! The lane of one room: its events reach the destination one after the other, in their order.
//!
//! In: the room's queue, and before it the dead letters that waited for the destination. Out: each
//! item is settled (taken, refused, or among the dead letters) before the next one is sent. A lane that
//! waits holds up no other: it has no request under way. Crash: what is not settled is pending in Redis
//! and is sent again under the same key.
//!
//! - A failure is repeated after 0.5 s, then twice as long, up to 30 s (±20 %), or when `Retry-After`
//!   says; a request that is repeated carries the same events, unless the destination answered with an
//!   error: then half of them, down to the one it cannot take.
//! - What fails more than `FORWARD_MAX_RETRIES` times, or is refused, becomes a dead letter, and so does
//!   what is older than `FORWARD_MAX_AGE` while the destination has been unreachable for as long.
//! - Dead letters of a destination that took nothing from anybody are redriven from here, before anything
//!   newer. One that keeps failing while newer events pass is left to the operator.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, histogram};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::STAGE;
use super::breaker::{FAILURES, jittered};
use super::destination::Answer;
use super::format::{Head, message};
use super::item::{Item, Origin, age};
use super::ledger::{Outcome, UNREACHABLE};
use super::queues::{Shared, Slot, locked};
use crate::failpoint;
use crate::metrics::{FORWARD_REQUEST, FORWARD_RETRIED};

/// The wait before the first repetition, and the longest.
const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(30);
/// How often a lane that waits looks at the age of its events.
const LOOK: Duration = Duration::from_secs(1);
/// How long a request that is under way may go on after the stop.
pub(super) const GRACE: Duration = Duration::from_millis(1_200);
/// How many events a lane takes out of its queue at a time, at least.
const FILL: usize = 16;
/// A dead letter's error is no longer than this.
const ERROR_CHARS: usize = 300;

/// Dead letters: refused for good.
const REJECTED: &str = "FORWARD_REJECTED";
/// Dead letters: it failed too often while others passed.
const EXHAUSTED: &str = "FORWARD_EXHAUSTED";
/// Dead letters: no event.
pub(super) const UNREADABLE: &str = "FORWARD_UNREADABLE";

/// See the head of the file.
struct Lane {
    room: String,
    shared: Arc<Shared>,
    stop: CancellationToken,
    letters: VecDeque<Item>,
    live: VecDeque<Item>,
    /// Events in a request at most, at the moment.
    part: usize,
    /// How many the request that is to be repeated has.
    repeat: Option<usize>,
    delay: Duration,
    due: Instant,
    /// Since when the first letter has been tried in vain, or a newer event was last let past it.
    stuck: Option<Instant>,
}

/// Runs until the room has nothing left, or to stop.
pub(super) async fn run(room: String, shared: Arc<Shared>, stop: CancellationToken) {
    let mut lane = Lane {
        part: shared.outlet.settings.batch,
        room,
        shared,
        stop,
        letters: VecDeque::new(),
        live: VecDeque::new(),
        repeat: None,
        delay: FIRST,
        due: Instant::now(),
        stuck: None,
    };
    while lane.step().await.is_some() {}
}

impl Lane {
    /// One wait or one request; `None` at the end.
    async fn step(&mut self) -> Option<()> {
        if self.stop.is_cancelled() {
            return None;
        }
        self.load_letters().await?;
        self.fill().await?;
        if self.letters.is_empty() && self.live.is_empty() {
            return self.shared.leave(&self.room).then_some(());
        }
        if self.erase().await? || self.expire().await? {
            return Some(());
        }
        let now = Instant::now();
        if self.due > now {
            return self
                .stop
                .run_until_cancelled(sleep((self.due - now).min(LOOK)))
                .await;
        }
        self.attempt().await
    }

    /// The dead letters that go first.
    async fn load_letters(&mut self) -> Option<()> {
        if !self.letters.is_empty() || !self.shared.has_letters(&self.room) {
            return Some(());
        }
        let found = self.shared.ledger.letters(&self.room, &self.stop).await?;
        if found.is_empty() {
            self.shared.no_letters(&self.room);
            return Some(());
        }
        let mut items = Vec::new();
        for (id, payload) in found {
            let fields: HashMap<String, String> =
                serde_json::from_str(&payload).unwrap_or_default();
            if let Ok(head) = Head::of(&fields) {
                items.push(Item::new(
                    Origin::Letter(id),
                    format!("dead_letters/{id}"),
                    Some(head),
                    fields,
                ));
            } else {
                tracing::error!(
                    stage = STAGE,
                    dead_letter = id,
                    "a dead letter has no readable event"
                );
                self.shared
                    .ledger
                    .close(id, Some(UNREADABLE), &self.stop)
                    .await?;
            }
        }
        let ids: Vec<_> = items
            .iter()
            .filter_map(|item| Some(item.head.as_ref()?.event_id))
            .collect();
        let known = self.shared.ledger.known(&ids, &self.stop).await?;
        for item in items {
            let state = item
                .head
                .as_ref()
                .and_then(|head| known.get(&head.event_id))
                .map(|(state, _)| state.as_str());
            if let (Some("forwarded"), Origin::Letter(id)) = (state, &item.origin) {
                self.shared.ledger.close(*id, None, &self.stop).await?;
            } else {
                self.letters.push_back(item);
            }
        }
        self.repeat = None;
        // Whatever was repeated before them: each event has its own schedule.
        self.delay = FIRST;
        Some(())
    }

    /// The next events of the queue.
    async fn fill(&mut self) -> Option<()> {
        let wanted = self.shared.outlet.settings.batch.max(FILL);
        if self.live.len() >= self.shared.outlet.settings.batch {
            return Some(());
        }
        let slots = self
            .shared
            .take(&self.room, wanted - self.live.len().min(wanted));
        let parked: Vec<String> = slots.iter().filter_map(Slot::parked).collect();
        let mut found = self.shared.fetch(&parked, &self.stop).await?.into_iter();
        for slot in slots {
            match slot {
                Slot::Held(item) => self.live.push_back(*item),
                Slot::Parked(_) => {
                    let Some(entry) = found.next() else { continue };
                    if entry.fields.is_empty() {
                        self.shared.gone(&entry.id, &self.stop).await?;
                    } else {
                        self.live.push_back(Item::of(&self.shared.stream, entry));
                    }
                }
            }
        }
        Some(())
    }

    /// Drops what is of viewers who were erased since it was read, and takes them out of the rest:
    /// whether there was something to drop.
    async fn erase(&mut self) -> Option<bool> {
        let tombstones = locked(&self.shared.erased).clone();
        let mut gone = Vec::new();
        for queue in [&mut self.letters, &mut self.live] {
            let mut kept = VecDeque::with_capacity(queue.len());
            for mut item in queue.drain(..) {
                if item.is_erased(&tombstones) {
                    gone.push((item, Outcome::Erased));
                } else {
                    kept.push_back(item);
                }
            }
            *queue = kept;
        }
        if gone.is_empty() {
            return Some(false);
        }
        self.repeat = None;
        self.settle(gone).await?;
        Some(true)
    }

    /// Puts aside what no request can help: whether there was some.
    async fn expire(&mut self) -> Option<bool> {
        let max_age = self.shared.outlet.settings.max_age;
        let away = self
            .shared
            .outlet
            .breaker
            .failing_since()
            .is_some_and(|since| since.elapsed() >= max_age);
        let mut aside = Vec::new();
        while let Some(item) = self.live.front() {
            let dead = match &item.head {
                None => Outcome::Dead {
                    reason: UNREADABLE,
                    error: Head::of(&item.fields).err().unwrap_or_default(),
                },
                Some(_) if away && age(item.queued) >= max_age => Outcome::Dead {
                    reason: UNREACHABLE,
                    error: format!(
                        "the destination has been unreachable for {} s: {}",
                        max_age.as_secs(),
                        item.trouble
                    ),
                },
                Some(_) => break,
            };
            aside.extend(self.live.pop_front().map(|item| (item, dead)));
        }
        if aside.is_empty() {
            return Some(false);
        }
        self.repeat = None;
        self.delay = FIRST;
        self.settle(aside).await?;
        Some(true)
    }

    /// Sends the next events, when it is their turn.
    async fn attempt(&mut self) -> Option<()> {
        let shared = self.shared.clone();
        let outlet = &shared.outlet;
        let max_age = outlet.settings.max_age;
        let waiting = timeout(LOOK, outlet.breaker.turn());
        let Ok(turn) = self.stop.run_until_cancelled(waiting).await? else {
            return Some(());
        };
        let Ok(permit) = self
            .stop
            .run_until_cancelled(outlet.permits.acquire())
            .await?
        else {
            return None;
        };
        if !shared.lease_holds() {
            // About to be told; whoever has it now sends these.
            return self.stop.run_until_cancelled(sleep(LOOK)).await;
        }
        // A letter that was tried for so long lets one newer event go first: does that one pass?
        let past =
            !self.live.is_empty() && self.stuck.is_some_and(|since| since.elapsed() >= max_age);
        let redrive = !self.letters.is_empty() && !past;
        let queue = if redrive {
            &mut self.letters
        } else {
            &mut self.live
        };
        let count = if past {
            1
        } else {
            self.repeat.unwrap_or(self.part)
        }
        .min(self.part)
        .min(queue.len())
        .max(1);
        // An entry without an event is put aside when it is the first.
        let count = queue
            .iter()
            .take(count)
            .take_while(|item| item.head.is_some())
            .count();
        let request = message(
            outlet.settings.format,
            queue
                .iter()
                .take(count)
                .filter_map(|item| Some((item.head.as_ref()?, &item.fields))),
        );
        let begun = (Instant::now(), jiff::Timestamp::now());
        let cut_off = async {
            self.stop.cancelled().await;
            sleep(GRACE).await;
        };
        let (answer, took) = tokio::select! {
            sent = outlet.destination.send(&request) => sent,
            () = cut_off => return None,
        };
        drop(permit);
        histogram!(FORWARD_REQUEST).record(took.as_secs_f64());
        let probe = turn.probe;
        let wait = match &answer {
            Answer::Later { wait, .. } => *wait,
            _ => None,
        };
        turn.report(&self.room, answer.sign(), wait);
        for item in queue.iter_mut().take(count) {
            item.attempts += 1;
            item.burned += u32::from(!probe);
            item.first.get_or_insert(begun);
            item.status = answer.status();
            item.key = Some(request.key.clone());
            item.took = Some(took);
        }
        match answer {
            Answer::Taken(_) => {
                failpoint::reach("after_http_2xx");
                let sent: Vec<_> = queue
                    .drain(..count)
                    .map(|item| (item, Outcome::Forwarded))
                    .collect();
                if past {
                    self.give_up_letter().await?;
                } else if redrive {
                    self.stuck = None;
                }
                self.part = (self.part * 2).min(outlet.settings.batch);
                self.at_once();
                self.settle(sent).await
            }
            Answer::Refused(_) if count > 1 => {
                self.part = count / 2;
                self.at_once();
                Some(())
            }
            Answer::Refused(status) => {
                let dead = Outcome::Dead {
                    reason: REJECTED,
                    error: format!("the destination refuses it: status {status}"),
                };
                let refused: Vec<_> = queue
                    .drain(..count)
                    .map(|item| (item, dead.clone()))
                    .collect();
                self.at_once();
                self.settle(refused).await
            }
            Answer::Later {
                status,
                reason,
                wait,
            } => {
                counter!(FORWARD_RETRIED, "reason" => reason).increment(1);
                let room = &self.room;
                tracing::debug!(
                    stage = STAGE,
                    stream_id = room,
                    reason,
                    status,
                    probe,
                    "not taken, trying again"
                );
                for item in queue.iter_mut().take(count) {
                    item.trouble = reason;
                }
                let spent = queue.front().is_some_and(|item| {
                    let retries = outlet.settings.max_retries;
                    // Enough for the breaker to see that it is not the letter's fault.
                    item.burned
                        > if redrive {
                            retries.max(FAILURES)
                        } else {
                            retries
                        }
                });
                if status.is_some() && count > 1 {
                    self.part = count.div_ceil(2);
                    self.repeat = None;
                } else {
                    self.repeat = (!past).then_some(count);
                }
                // The pauses between probes are the breaker's.
                let pause = if probe {
                    Duration::ZERO
                } else {
                    jittered(self.delay).min(LONGEST)
                };
                if !probe {
                    self.delay = (self.delay * 2).min(LONGEST);
                }
                self.due = Instant::now() + pause.max(wait.unwrap_or_default());
                if past {
                    self.stuck = Some(Instant::now());
                } else if redrive {
                    self.stuck.get_or_insert(begun.0);
                }
                if spent {
                    self.spend(redrive, status, reason).await
                } else {
                    Some(())
                }
            }
        }
    }

    /// The first event was tried too often.
    async fn spend(&mut self, redrive: bool, status: Option<u16>, trouble: &str) -> Option<()> {
        let queue = if redrive {
            &mut self.letters
        } else {
            &mut self.live
        };
        let Some(item) = queue.pop_front() else {
            return Some(());
        };
        let passed = item
            .first
            .is_some_and(|first| self.shared.outlet.breaker.succeeded_after(first.0));
        let reason = if redrive || passed {
            EXHAUSTED
        } else {
            UNREACHABLE
        };
        let status = status.map_or_else(String::new, |status| format!(", status {status}"));
        let error = format!("not taken in {} attempts: {trouble}{status}", item.attempts);
        self.at_once();
        if redrive {
            self.stuck = None;
        }
        self.settle(vec![(item, Outcome::Dead { reason, error })])
            .await
    }

    /// Newer events pass and the first letter does not: it is the operator's.
    async fn give_up_letter(&mut self) -> Option<()> {
        self.stuck = None;
        let Some(item) = self.letters.pop_front() else {
            return Some(());
        };
        let error = format!(
            "not taken in {} attempts, while newer ones are: {}",
            item.attempts, item.trouble
        );
        self.settle(vec![(
            item,
            Outcome::Dead {
                reason: EXHAUSTED,
                error,
            },
        )])
        .await
    }

    fn at_once(&mut self) {
        self.repeat = None;
        self.delay = FIRST;
        self.due = Instant::now();
    }

    /// Has outcomes recorded, and waits until they are.
    async fn settle(&mut self, outcomes: Vec<(Item, Outcome)>) -> Option<()> {
        let put_aside = outcomes.iter().any(|(item, outcome)| {
            matches!((&item.origin, outcome), (Origin::Entry(_), Outcome::Dead { reason, .. }) if *reason == UNREACHABLE)
        });
        let outcomes = outcomes.into_iter().map(|(item, outcome)| {
            let outcome = match outcome {
                Outcome::Dead { reason, error } => Outcome::Dead {
                    reason,
                    error: error.chars().take(ERROR_CHARS).collect(),
                },
                other @ (Outcome::Forwarded | Outcome::Erased) => other,
            };
            (item, outcome)
        });
        self.shared.settle(outcomes.collect()).await?;
        if put_aside {
            self.shared.put_aside(&self.room);
        }
        Some(())
    }
}
