//! What the reader, the lanes and the recorder of a shard share: the queue of each room, and which
//! entries are ours.
//!
//! In: events from the reader. Out: events for the lanes, and ids to be acknowledged. Memory is bounded
//! by who fills it ([`super::shard`]); nothing here outlives the lease.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::counter;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::item::Item;
use super::ledger::{Ledger, Outcome, Settled};
use super::{Outlet, STAGE};
use crate::bus::{Bus, Entry, ROLE_LEASE};
use crate::erasure::Tombstones;
use crate::metrics::FORWARD_LOST;
use crate::outage::Outage;

/// A place in the queue of a room.
pub(super) enum Slot {
    /// The event itself.
    Held(Box<Item>),
    /// Only its entry's id.
    Parked(EntryId),
}

/// An entry's id as its two numbers: in the order of the stream.
pub(super) type EntryId = (u64, u64);

impl Slot {
    pub(super) fn parked(&self) -> Option<String> {
        match self {
            Self::Held(_) => None,
            Self::Parked((ms, number)) => Some(format!("{ms}-{number}")),
        }
    }
}

/// What the reader, the lanes and the recorder of a shard share, for as long as the lease is held.
pub(super) struct Shared {
    pub(super) outlet: Arc<Outlet>,
    pub(super) stream: String,
    pub(super) ledger: Ledger,
    pub(super) bus: Bus,
    pub(super) rooms: Mutex<Rooms>,
    pub(super) outcomes: mpsc::Sender<(Vec<Settled>, oneshot::Sender<()>)>,
    pub(super) renewed: Arc<Mutex<Instant>>,
    /// Viewers who were erased.
    pub(super) erased: Mutex<Arc<Tombstones>>,
}

#[derive(Default)]
pub(super) struct Rooms {
    /// The queue of each room that has a lane.
    pub(super) queues: HashMap<String, VecDeque<Slot>>,
    /// Entries that are in a lane, or recorded and not acknowledged.
    pub(super) ours: BTreeSet<EntryId>,
    /// To be acknowledged.
    pub(super) done: Vec<String>,
    /// Rooms with dead letters to be redriven.
    pub(super) letters: HashSet<String>,
    pub(super) bytes: usize,
    pub(super) parked: usize,
}

/// A lock whose holder panicked is as good as any: its tasks are about to end.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Takes up to `count` events off the room's queue.
    pub(super) fn take(&self, room: &str, count: usize) -> Vec<Slot> {
        let mut rooms = locked(&self.rooms);
        let Some(queue) = rooms.queues.get_mut(room) else {
            return Vec::new();
        };
        let count = count.min(queue.len());
        let taken: Vec<Slot> = queue.drain(..count).collect();
        rooms.parked -= taken.iter().filter(|slot| slot.parked().is_some()).count();
        taken
    }

    /// The end of a lane, unless there is something left: then `true`.
    pub(super) fn leave(&self, room: &str) -> bool {
        let mut rooms = locked(&self.rooms);
        let more = rooms.letters.contains(room)
            || rooms
                .queues
                .get(room)
                .is_some_and(|queue| !queue.is_empty());
        if !more {
            rooms.queues.remove(room);
        }
        more
    }

    pub(super) fn has_letters(&self, room: &str) -> bool {
        locked(&self.rooms).letters.contains(room)
    }

    pub(super) fn no_letters(&self, room: &str) {
        locked(&self.rooms).letters.remove(room);
    }

    /// The room has an event among the dead letters that goes first from now on.
    pub(super) fn put_aside(&self, room: &str) {
        locked(&self.rooms).letters.insert(room.to_owned());
    }

    /// Reads entries of the stream again.
    pub(super) async fn fetch(
        &self,
        ids: &[String],
        stop: &CancellationToken,
    ) -> Option<Vec<Entry>> {
        let mut outage = Outage::new("redis");
        loop {
            match stop
                .run_until_cancelled(self.bus.entries(&self.stream, ids))
                .await?
            {
                Ok(entries) => {
                    outage.over();
                    return Some(entries);
                }
                Err(error) => outage.wait(&error, stop).await.then_some(())?,
            }
        }
    }

    /// An entry was trimmed while it was ours.
    pub(super) async fn gone(&self, id: &str, stop: &CancellationToken) -> Option<()> {
        tracing::error!(stage = STAGE, stream = %self.stream, entry = id, reason = "trimmed",
            "an entry was trimmed before it was forwarded");
        self.ledger.lost_pending(&self.stream, id, stop).await?;
        counter!(FORWARD_LOST, "kind" => "pending").increment(1);
        locked(&self.rooms).done.push(id.to_owned());
        Some(())
    }

    /// Has outcomes recorded, and waits for it; `None` when that is not possible any more.
    pub(super) async fn settle(&self, outcomes: Vec<(Item, Outcome)>) -> Option<()> {
        let at = jiff::Timestamp::now();
        let settled = outcomes.into_iter().map(|(item, outcome)| Settled {
            item,
            outcome,
            at,
            letter: None,
        });
        let (done, recorded) = oneshot::channel();
        self.outcomes.send((settled.collect(), done)).await.ok()?;
        recorded.await.ok()
    }

    /// Whether the lease was renewed in time.
    pub(super) fn lease_holds(&self) -> bool {
        locked(&self.renewed).elapsed() < ROLE_LEASE
    }
}

/// Reads an entry's id.
pub(super) fn entry_id(text: &str) -> Option<EntryId> {
    let (ms, number) = text.split_once('-')?;
    Some((ms.parse().ok()?, number.parse().ok()?))
}
