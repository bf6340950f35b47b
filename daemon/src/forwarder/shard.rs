//! The forwarder of one shard: reads its stream, hands each event to the lane of its room, and
//! acknowledges what is recorded.
//!
//! In: entries of `ttlc:events` (group `forwarder`, one fixed name), own unfinished ones first. Out:
//! lanes, and what became of their events in batches to the [`Recorder`], then the acknowledgement. Who
//! holds the lease of the shard does this alone; others stand by. Memory is bounded: past
//! [`HELD_BYTES`], or [`HELD_EVENTS`] of a room, only the ids of entries are kept and their lane reads
//! them again; past [`PARKED`] ids nothing more is read. Killed anywhere: what is not acknowledged comes
//! again, and what is recorded already is then acknowledged and not sent.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metrics::{counter, gauge};
use shared::raw::Source;
use shared::streams::{GROUP_FORWARDER, StreamNames};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::item::{Item, age};
use super::lane::{self, GRACE};
use super::ledger::Ledger;
use super::queues::{Shared, Slot, entry_id, locked};
use super::recorder::Recorder;
use super::{Outlet, STAGE};
use crate::bus::erased::Followed;
use crate::bus::{self, Bus, Consumer, Entry, Owner, ROLE_LEASE, ROLE_RENEW, Role};
use crate::metrics::{
    FORWARD_ACTIVE, FORWARD_BREAKER, FORWARD_LAG, FORWARD_LANES, FORWARD_LOST, FORWARD_SKIPPED,
};
use crate::outage::Outage;
use crate::storage::database::Database;

/// Name inside the group: fixed, so that the next process finds what this one left unfinished.
const CONSUMER: &str = "forwarder";
/// Entries read at a time, and how long a read waits; also how late an acknowledgement may be.
const READ: usize = 256;
const READ_WAIT: Duration = Duration::from_millis(200);
/// How often a standby asks whether the lease is free.
const STANDBY: Duration = Duration::from_secs(1);
/// How often losses, rooms with dead letters and gauges are looked at.
const ROUND: Duration = Duration::from_secs(5);
/// How much is kept in memory, over all rooms and of one.
const HELD_BYTES: usize = 32 << 20;
const HELD_EVENTS: usize = 256;
/// How many ids are kept of events that are not.
const PARKED: usize = 1_000_000;
/// Outcomes recorded in one transaction, and lanes that may wait for theirs.
pub(super) const BATCH: usize = 256;
/// After the stop, for recording what lanes have finished, and for acknowledging it.
const LAST_RECORD: Duration = Duration::from_millis(700);
const LAST_ACK: Duration = Duration::from_millis(500);

/// The forwarder of one shard.
pub(super) struct Shard {
    pub(super) number: u32,
    pub(super) bus: Bus,
    pub(super) outlet: Arc<Outlet>,
    pub(super) database: Database,
    pub(super) owner: Owner,
}

impl Shard {
    /// Forwards whenever the lease is ours, until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        let active = gauge!(FORWARD_ACTIVE, "shard" => self.number.to_string());
        active.set(0.0);
        let renewed = Arc::new(Mutex::new(Instant::now()));
        let mut outage = Outage::new("redis");
        let mut told = false;
        loop {
            match stop.run_until_cancelled(self.take_lease(&renewed)).await {
                None => break,
                Some(Err(error)) => {
                    bus::note(STAGE, &error);
                    if !outage.wait(&error, &stop).await {
                        break;
                    }
                }
                Some(Ok(false)) => {
                    outage.over();
                    if !std::mem::replace(&mut told, true) {
                        tracing::info!(
                            stage = STAGE,
                            shard = self.number,
                            "another process forwards, standing by"
                        );
                    }
                    if stop.run_until_cancelled(sleep(STANDBY)).await.is_none() {
                        break;
                    }
                }
                Some(Ok(true)) => {
                    outage.over();
                    told = false;
                    active.set(1.0);
                    tracing::info!(stage = STAGE, shard = self.number, "forwarding");
                    let finished = tokio::select! {
                        () = self.work(&renewed, &stop) => true,
                        () = self.lease_lost(&renewed) => false,
                    };
                    active.set(0.0);
                    if finished {
                        break;
                    }
                    tracing::warn!(stage = STAGE, shard = self.number, "not forwarding for now");
                }
            }
        }
        let let_go = self.bus.let_go(Role::Forwarder(self.number), self.owner);
        if !matches!(timeout(LAST_ACK, let_go).await, Ok(Ok(()))) {
            tracing::debug!(stage = STAGE, "the lease lapses by itself");
        }
    }

    async fn take_lease(&self, renewed: &Mutex<Instant>) -> Result<bool, bus::Error> {
        let began = Instant::now();
        let ours = self
            .bus
            .hold(Role::Forwarder(self.number), self.owner, ROLE_LEASE)
            .await?;
        if ours {
            *locked(renewed) = began;
        }
        Ok(ours)
    }

    /// Renews the lease in time, until it is lost. While Redis is away nobody else can have it.
    async fn lease_lost(&self, renewed: &Mutex<Instant>) {
        let mut due = *locked(renewed) + ROLE_RENEW;
        loop {
            sleep_until(due).await;
            match self.take_lease(renewed).await {
                Ok(true) => due = *locked(renewed) + ROLE_RENEW,
                Ok(false) => return,
                Err(error) => {
                    tracing::debug!(stage = STAGE, %error, "cannot renew the lease");
                    due = Instant::now() + STANDBY;
                }
            }
        }
    }

    /// Reads, forwards and records; returns after `stop`, when what was under way is finished. Dropped
    /// when the lease is lost.
    async fn work(&self, renewed: &Arc<Mutex<Instant>>, stop: &CancellationToken) {
        let stream = self.bus.names().events(self.number);
        let (outcomes, to_record) = mpsc::channel(BATCH);
        let shared = Arc::new(Shared {
            outlet: self.outlet.clone(),
            stream: stream.clone(),
            ledger: Ledger::new(self.database.clone()),
            bus: self.bus.clone(),
            rooms: Mutex::default(),
            outcomes,
            renewed: renewed.clone(),
            erased: Mutex::default(),
        });
        // Longer than the lanes: what these have finished is recorded after the stop.
        let last = CancellationToken::new();
        let recorder = Recorder {
            ledger: Ledger::new(self.database.clone()),
            bus: self.bus.clone(),
            rooms: Arc::downgrade(&shared),
            origin: self.outlet.settings.origin.clone(),
            stop: last.clone(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(recorder.run(to_record));
        let mut reader = Reader {
            shard: self.number,
            names: self.bus.names(),
            consumer: self.bus.consumer(stream, GROUP_FORWARDER, CONSUMER),
            shared,
            lanes: JoinSet::new(),
            round: Instant::now(),
            erased: Followed::new(self.bus.clone()),
            stop: stop.clone(),
        };
        reader.run().await;
        let _ = timeout(GRACE + LAST_RECORD, async {
            while reader.lanes.join_next().await.is_some() {}
        })
        .await;
        reader.lanes.shutdown().await;
        let Reader {
            mut consumer,
            shared,
            ..
        } = reader;
        last.cancel();
        tasks.shutdown().await;
        let done = std::mem::take(&mut locked(&shared.rooms).done);
        if !matches!(timeout(LAST_ACK, consumer.ack(&done)).await, Ok(Ok(()))) {
            tracing::debug!(
                stage = STAGE,
                entries = done.len(),
                "recorded, to be acknowledged by the next process"
            );
        }
    }
}

/// Reads the stream and feeds the lanes.
struct Reader {
    shard: u32,
    names: StreamNames,
    consumer: Consumer,
    shared: Arc<Shared>,
    lanes: JoinSet<()>,
    round: Instant,
    erased: Followed,
    stop: CancellationToken,
}

impl Reader {
    async fn run(&mut self) {
        let mut outage = Outage::new("redis");
        if self.look_around(true).await.is_none() {
            return;
        }
        while !self.stop.is_cancelled() {
            match self.step().await {
                Some(Ok(())) => outage.over(),
                Some(Err(error)) => {
                    bus::note(STAGE, &error);
                    if !outage.wait(&error, &self.stop).await {
                        return;
                    }
                }
                None => return,
            }
        }
    }

    /// Acknowledges what is recorded, then reads on. `None` to stop.
    async fn step(&mut self) -> Option<Result<(), bus::Error>> {
        while let Some(ended) = self.lanes.try_join_next() {
            if let Err(error) = ended
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
        let stop = self.stop.clone();
        if let Err(error) = stop.run_until_cancelled(self.acknowledge()).await? {
            return Some(Err(error));
        }
        // Before anything is read: who was erased is not forwarded.
        match stop.run_until_cancelled(self.erased.refresh()).await? {
            Ok(true) => *locked(&self.shared.erased) = self.erased.current().clone(),
            Ok(false) => {}
            Err(error) => return Some(Err(error)),
        }
        if self.round.elapsed() > ROUND {
            self.look_around(false).await?;
        }
        if locked(&self.shared.rooms).parked > PARKED {
            self.stop.run_until_cancelled(sleep(READ_WAIT)).await?;
            return Some(Ok(()));
        }
        // What a read that is cut off was given is pending, for the next process.
        match stop
            .run_until_cancelled(self.consumer.read(READ, READ_WAIT))
            .await?
        {
            Ok(entries) => self.hand_out(entries).await.map(Ok),
            Err(error) => Some(Err(error)),
        }
    }

    async fn acknowledge(&mut self) -> Result<(), bus::Error> {
        let done = locked(&self.shared.rooms).done.clone();
        if done.is_empty() {
            return Ok(());
        }
        // Off the list afterwards: a repeat does no harm, and what is forgotten comes again.
        self.consumer.ack(&done).await?;
        let mut rooms = locked(&self.shared.rooms);
        rooms.done.drain(..done.len());
        for id in done.iter().filter_map(|id| entry_id(id)) {
            rooms.ours.remove(&id);
        }
        Ok(())
    }

    /// Gives entries to the lanes of their rooms, but for those that need not be sent.
    async fn hand_out(&mut self, entries: Vec<Entry>) -> Option<()> {
        let mut items = Vec::new();
        for entry in entries {
            let Some(id) = entry_id(&entry.id) else {
                continue;
            };
            // After a reconnect what is unfinished is read again, also what is in a lane.
            if !locked(&self.shared.rooms).ours.insert(id) {
                continue;
            }
            if entry.fields.is_empty() {
                self.shared.gone(&entry.id, &self.stop).await?;
                continue;
            }
            items.push((id, Item::of(&self.shared.stream, entry)));
        }
        let ids: Vec<_> = items
            .iter()
            .filter_map(|(_, item)| Some(item.head.as_ref()?.event_id))
            .collect();
        let known = self.shared.ledger.known(&ids, &self.stop).await?;
        for (id, item) in items {
            let settings = &self.shared.outlet.settings;
            let skipped = item
                .head
                .as_ref()
                .and_then(|head| match known.get(&head.event_id) {
                    _ if head.source == Source::Replay && !settings.replays => Some("replay"),
                    Some((_, entry)) if *entry == item.entry => Some("known"),
                    // Of another entry: as when a dead letter of the storage writer was put back. A
                    // replay shows on purpose what was forwarded before.
                    Some((state, _)) if state == "forwarded" && head.source == Source::Live => {
                        Some("known")
                    }
                    _ if settings
                        .types
                        .as_ref()
                        .is_some_and(|types| !types.contains(&head.event_type)) =>
                    {
                        Some("type")
                    }
                    _ => None,
                });
            if let Some(reason) = skipped {
                counter!(FORWARD_SKIPPED, "reason" => reason).increment(1);
                locked(&self.shared.rooms)
                    .done
                    .push(format!("{}-{}", id.0, id.1));
                continue;
            }
            // What has no readable event has no room either; one lane is enough for all of it.
            let room = item
                .head
                .as_ref()
                .map_or_else(String::new, |head| head.stream_id.clone());
            let mut rooms = locked(&self.shared.rooms);
            let queue_is_long = rooms
                .queues
                .get(&room)
                .is_some_and(|queue| queue.len() >= HELD_EVENTS);
            let slot = if queue_is_long || rooms.bytes + item.size > HELD_BYTES {
                rooms.parked += 1;
                Slot::Parked(id)
            } else {
                rooms.bytes += item.size;
                Slot::Held(Box::new(item))
            };
            let new = !rooms.queues.contains_key(&room);
            rooms
                .queues
                .entry(room.clone())
                .or_default()
                .push_back(slot);
            drop(rooms);
            if new {
                self.lanes
                    .spawn(lane::run(room, self.shared.clone(), self.stop.clone()));
            }
        }
        Some(())
    }

    /// Looks for losses and for rooms with dead letters, and shows how things are.
    async fn look_around(&mut self, first: bool) -> Option<()> {
        self.round = Instant::now();
        // With the group made by the first read.
        if !first {
            let looking = self.shared.bus.lost(&self.shared.stream, GROUP_FORWARDER);
            match self.stop.run_until_cancelled(looking).await? {
                Ok(Some(lost)) if lost.entries > 0 => {
                    let news = self
                        .shared
                        .ledger
                        .lost(&self.shared.stream, &lost, &self.stop)
                        .await?;
                    if news > 0 {
                        counter!(FORWARD_LOST, "kind" => "unread").increment(news);
                        tracing::error!(stage = STAGE, stream = %self.shared.stream, entries = news, reason = "trimmed",
                            after = lost.last_read, before = lost.first,
                            "entries were trimmed before they were forwarded");
                    }
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(stage = STAGE, %error, "cannot look for losses"),
            }
        }
        for room in self.shared.ledger.rooms(&self.stop).await? {
            if self.names.shard_of(&room) != self.shard {
                continue;
            }
            let mut rooms = locked(&self.shared.rooms);
            rooms.letters.insert(room.clone());
            if !rooms.queues.contains_key(&room) {
                rooms.queues.insert(room.clone(), VecDeque::new());
                drop(rooms);
                self.lanes
                    .spawn(lane::run(room, self.shared.clone(), self.stop.clone()));
            }
        }
        let rooms = locked(&self.shared.rooms);
        let shard = self.shard.to_string();
        let oldest = rooms.ours.first().and_then(|id| {
            let added = jiff::Timestamp::from_millisecond(i64::try_from(id.0).ok()?).ok()?;
            Some(age(added))
        });
        gauge!(FORWARD_LAG, "shard" => shard.clone()).set(oldest.unwrap_or_default().as_secs_f64());
        gauge!(FORWARD_LANES, "shard" => shard).set(f64::from(
            u32::try_from(rooms.queues.len()).unwrap_or(u32::MAX),
        ));
        gauge!(FORWARD_BREAKER).set(f64::from(self.shared.outlet.breaker.state()));
        Some(())
    }
}
