//! Which rooms are ours: two daemons may follow the same creators, one of them reads each room.
//!
//! Comes in: rooms to claim. Goes out: tokens that let messages be published, and a notice when a
//! room is lost. Leases are renewed while Redis answers; while it is away we go on as before, for
//! whoever else would take the room waits a whole lease after Redis has come back. What a process
//! that has lost a room still holds is refused by the publishing script, not by anything here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::counter;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::bus::{self, Bus, Claim, Memory, Owner, RENEW};
use crate::metrics::LEASES_LOST;

/// The rooms of this process; cheap to clone.
#[derive(Clone)]
pub(super) struct Leases {
    bus: Bus,
    owner: Owner,
    rooms: Arc<Mutex<HashMap<String, Held>>>,
}

struct Held {
    token: u64,
    lost: CancellationToken,
    /// Given back, and when. The token is kept, for what is still on its way to Redis.
    released: Option<Instant>,
}

/// How long a given-back room's token is kept.
const KEPT: Duration = Duration::from_hours(1);

/// A room that is ours.
pub(super) struct Lease {
    /// What Redis remembers of the room.
    pub(super) memory: Memory,
    /// Cancelled when somebody else has taken the room.
    pub(super) lost: CancellationToken,
}

impl Leases {
    /// None yet, for this owner.
    pub(super) fn new(bus: Bus, owner: Owner) -> Self {
        Self {
            bus,
            owner,
            rooms: Arc::default(),
        }
    }

    /// Takes a room; `None` while another process has it.
    pub(super) async fn claim(&self, stream_id: &str) -> Result<Option<Lease>, bus::Error> {
        let Claim::Held(memory) = self.bus.claim_room(stream_id, self.owner).await? else {
            return Ok(None);
        };
        let mut rooms = self.rooms();
        let held = rooms.entry(stream_id.to_owned()).or_insert_with(|| Held {
            token: memory.token,
            lost: CancellationToken::new(),
            released: None,
        });
        held.released = None;
        if held.token != memory.token {
            // It was lost and is ours again; whoever counted on it in between has to know.
            held.lost.cancel();
            *held = Held {
                token: memory.token,
                lost: CancellationToken::new(),
                released: None,
            };
        }
        let lost = held.lost.clone();
        drop(rooms);
        Ok(Some(Lease { memory, lost }))
    }

    /// The token of a room that is ours, as far as we know.
    pub(super) fn token(&self, stream_id: &str) -> Option<u64> {
        self.rooms().get(stream_id).map(|held| held.token)
    }

    /// A room is not ours any more.
    pub(super) fn lose(&self, stream_id: &str) {
        if let Some(held) = self.rooms().remove(stream_id) {
            counter!(LEASES_LOST).increment(1);
            tracing::warn!(
                stage = "ingest",
                stream_id,
                "another daemon has taken the room"
            );
            held.lost.cancel();
        }
    }

    /// Gives a room back, for others to take at once. What is still on its way to Redis is published
    /// all the same, unless somebody takes the room before.
    pub(super) async fn release(&self, stream_id: &str) {
        let ours = match self.rooms().get_mut(stream_id) {
            Some(held) if held.released.is_none() => {
                held.released = Some(Instant::now());
                true
            }
            _ => false,
        };
        if ours && let Err(error) = self.bus.release_room(stream_id, self.owner).await {
            tracing::debug!(stage = "ingest", stream_id, %error, "the lease lapses by itself");
        }
    }

    /// Whether Redis answers.
    pub(super) async fn ping(&self) -> bool {
        self.bus.ping().await.is_ok()
    }

    /// Renews all leases until `stop`, and gives them back then.
    pub(super) async fn keep(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(RENEW);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            self.renew().await;
        }
        let all: Vec<String> = self.rooms().keys().cloned().collect();
        for stream_id in all {
            self.release(&stream_id).await;
        }
    }

    async fn renew(&self) {
        self.rooms()
            .retain(|_, held| held.released.is_none_or(|since| since.elapsed() < KEPT));
        let rooms: Vec<(String, u64)> = self
            .rooms()
            .iter()
            .filter(|(_, held)| held.released.is_none())
            .map(|(stream_id, held)| (stream_id.clone(), held.token))
            .collect();
        let asked: Vec<(&str, u64)> = rooms
            .iter()
            .map(|(stream_id, token)| (stream_id.as_str(), *token))
            .collect();
        match self.bus.renew_rooms(self.owner, &asked).await {
            Ok(kept) => {
                for ((stream_id, token), _) in asked.iter().zip(kept).filter(|(_, kept)| !kept) {
                    // It may have been claimed anew meanwhile.
                    if self.token(stream_id) == Some(*token) {
                        self.lose(stream_id);
                    }
                }
            }
            Err(error) => tracing::debug!(stage = "ingest", %error, "cannot renew the leases"),
        }
    }

    /// Who we are.
    pub(super) fn owner(&self) -> Owner {
        self.owner
    }

    fn rooms(&self) -> MutexGuard<'_, HashMap<String, Held>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
