//! The normalizer as a stage: from `ttlc:raw` to `ttlc:events`, one entry after the other.
//!
//! Comes in: entries of the raw stream, in order, as group `normalizer` under one fixed name per
//! shard. Goes out: per batch one script that publishes the outcomes, acknowledges the entries and
//! writes down what is remembered. Killed anywhere: entries that were not acknowledged come again,
//! and give the same events. Redis away: waits and tries the same batch again, for ever; nothing
//! becomes a dead letter for that. An entry that is no envelope, a message that cannot be read or
//! an event that breaks the contract becomes a dead letter at its place in the order.
//!
//! Each shard has one normalizer at a time: who holds its lease. Others stand by and take over when
//! it is given back or has lapsed, with what is written down; what the last holder has not
//! published was not remembered either. One that was stopped in the middle and comes back is
//! refused by the script. What becomes of each entry is `entry`'s business, who holds the lease
//! `lease`'s.

use std::time::Duration;

use metrics::{gauge, histogram};
use shared::streams::GROUP_NORMALIZER;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::entry::{hop, timeout};
use super::lease::{Lease, STANDBY};
use super::{Known, Normalizer, SchemaError};
use crate::bus::erased::Followed;
use crate::bus::{self, Batch, Bus, Consumer, Entry, Hop, Hopped, Outcome, ROLE_LEASE};
use crate::failpoint;
use crate::metrics::{NORMALIZER_ACTIVE, NORMALIZER_HOP, NORMALIZER_MESSAGE, NORMALIZER_STREAKS};
use crate::outage::Outage;

/// Name of this stage in logs and dead letters.
pub(super) const STAGE: &str = "normalizer";
/// Name inside the group: fixed, so that the next process finds what this one left unfinished.
const CONSUMER: &str = "normalizer";
/// How long a read waits for entries; also how late a stop may be noticed.
const READ_WAIT: Duration = Duration::from_secs(1);
/// How often unfinished entries are looked for when there are no others: a rival that was stopped
/// while it waited may have been given some.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// How often it is asked what time has brought.
const PASS: Duration = Duration::from_secs(1);
/// How often the list of gifts is read again.
const GIFTS: Duration = Duration::from_hours(1);
/// How often the counts are logged, when there is something to tell.
const REPORT_INTERVAL: Duration = Duration::from_mins(1);
/// The normalizer's settings.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)] // several stages have `Options`; a group would be named after the type
pub struct Options {
    /// How many raw entries are normalized and published at a time
    #[arg(long, env = "NORMALIZER_BATCH", default_value = "128", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub normalizer_batch: u16,
}

/// Why the stage ended without being told to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The build is broken.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// The task of a shard panicked or was killed.
    #[error("the task of a shard ended: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// Runs the normalizer of every shard until `stop`; waits out every failure of Redis.
///
/// # Errors
/// Only for defects of the program; see [`Error`].
pub async fn run(options: Options, bus: Bus, stop: CancellationToken) -> Result<(), Error> {
    let mut shards = JoinSet::new();
    for number in 0..bus.names().shards() {
        let stream = bus.names().raw(number);
        let shard = Shard {
            number,
            consumer: bus.consumer(stream, GROUP_NORMALIZER, CONSUMER),
            normalizer: Normalizer::new()?,
            batch: options.normalizer_batch.into(),
            counts: Counts::new(),
            lease: Lease::new(bus.clone(), number),
            erased: Followed::new(bus.clone()),
            bus: bus.clone(),
            done: 0,
            looked: Instant::now(),
            passed: Instant::now(),
            listed: None,
        };
        shards.spawn(shard.run(stop.clone()));
    }
    while let Some(ended) = shards.join_next().await {
        ended?;
    }
    Ok(())
}

/// The normalizer of one shard: the only one, since the order of a room matters.
struct Shard {
    number: u32,
    consumer: Consumer,
    normalizer: Normalizer,
    batch: usize,
    counts: Counts,
    lease: Lease,
    bus: Bus,
    /// Viewers who were erased.
    erased: Followed,
    /// The number of the last batch.
    done: u64,
    /// When unfinished entries were last looked for.
    looked: Instant,
    /// When it was last asked what time has brought.
    passed: Instant,
    /// When the list of gifts was last read.
    listed: Option<Instant>,
}

/// Why work goes on no longer.
enum Left {
    /// To stop.
    Stop,
    /// The lease is not ours any more, or what is remembered is not what Redis has.
    Lost,
}

impl Shard {
    async fn run(mut self, stop: CancellationToken) {
        let active = gauge!(NORMALIZER_ACTIVE, "shard" => self.number.to_string());
        active.set(0.0);
        while self.hold(&stop).await.is_some() {
            active.set(1.0);
            tracing::info!(stage = STAGE, shard = self.number, "normalizing");
            let left = self.work(&stop).await;
            active.set(0.0);
            match left {
                Left::Stop => break,
                Left::Lost => {
                    tracing::warn!(
                        stage = STAGE,
                        shard = self.number,
                        "not normalizing for now"
                    );
                }
            }
        }
        self.counts.report(self.number);
        self.lease.let_go().await;
    }

    /// Waits for the lease of the shard, and for what its last holder remembered; `None` to stop.
    async fn hold(&mut self, stop: &CancellationToken) -> Option<()> {
        let mut outage = Outage::new("redis");
        let mut told = false;
        loop {
            let taken = async {
                if !self.lease.take().await? {
                    return Ok(None);
                }
                // Before anything is taken: who was erased stays so.
                if self.erased.refresh().await? {
                    self.normalizer.set_erased(self.erased.current().clone());
                }
                self.bus.normalizer_state(self.number).await.map(Some)
            };
            match stop.run_until_cancelled(taken).await? {
                Ok(Some(state)) => {
                    outage.over();
                    if state.batch == 0 && self.done > 0 {
                        // Redis was wiped: what we remember is all there is.
                        self.normalizer.all_changed();
                    } else {
                        self.normalizer.restore(&state.fields);
                    }
                    self.done = state.batch;
                    self.consumer.read_history_again();
                    return Some(());
                }
                Ok(None) => {
                    outage.over();
                    if !std::mem::replace(&mut told, true) {
                        tracing::info!(
                            stage = STAGE,
                            shard = self.number,
                            "another process normalizes, standing by"
                        );
                    }
                    stop.run_until_cancelled(sleep(STANDBY)).await?;
                }
                Err(error) => wait(&error, &mut outage, stop).await?,
            }
        }
    }

    /// Normalizes as long as the lease is ours.
    async fn work(&mut self, stop: &CancellationToken) -> Left {
        loop {
            if let Err(left) = self.round(stop).await {
                return left;
            }
        }
    }

    /// Reads entries, perhaps none, and publishes what becomes of them.
    async fn round(&mut self, stop: &CancellationToken) -> Result<(), Left> {
        self.list_gifts().await;
        self.list_erased().await;
        let entries = self.read(stop).await?;
        if entries.is_empty() && self.looked.elapsed() > LOOK_AGAIN {
            self.consumer.read_history_again();
            self.looked = Instant::now();
        }
        for entries in bus::consumer::parts(entries) {
            self.begin(&entries, stop).await?;
            let began = Instant::now();
            let hops: Vec<Hop> = entries
                .iter()
                .map(|entry| hop(&mut self.normalizer, entry))
                .collect();
            #[expect(clippy::cast_precision_loss, reason = "at most a thousand")]
            let mean = began.elapsed().as_secs_f64() / hops.len() as f64;
            histogram!(NORMALIZER_MESSAGE).record(mean);
            failpoint::reach("before_hop");
            self.publish(hops, stop).await?;
            failpoint::reach("after_hop");
        }
        if self.consumer.is_drained() && self.passed.elapsed() > PASS {
            self.passed = Instant::now();
            self.pass(stop).await?;
        }
        Ok(())
    }

    /// The next entries, perhaps none. Stops between batches at once.
    async fn read(&mut self, stop: &CancellationToken) -> Result<Vec<Entry>, Left> {
        let mut outage = Outage::new("redis");
        loop {
            if self.lease.renewed.elapsed() > ROLE_LEASE {
                return Err(Left::Lost); // as after an outage, or a sleep of the machine
            }
            let read = tokio::select! {
                read = self.consumer.read(self.batch, READ_WAIT) => read,
                () = self.lease.lost() => return Err(Left::Lost),
                () = stop.cancelled() => return Err(Left::Stop),
            };
            match read {
                Ok(entries) => {
                    outage.over();
                    return Ok(entries);
                }
                Err(error) => self.interrupted(&error, &mut outage, stop).await?,
            }
        }
    }

    /// Counts an attempt on entries that other processes did not finish.
    async fn begin(&mut self, entries: &[Entry], stop: &CancellationToken) -> Result<(), Left> {
        let mut outage = Outage::new("redis");
        while let Err(error) = self.consumer.begin(entries).await {
            self.interrupted(&error, &mut outage, stop).await?;
        }
        outage.over();
        Ok(())
    }

    /// What time alone has brought.
    async fn pass(&mut self, stop: &CancellationToken) -> Result<(), Left> {
        let timeouts = self.normalizer.pass(Instant::now());
        gauge!(NORMALIZER_STREAKS, "shard" => self.number.to_string())
            .set(u32::try_from(self.normalizer.open_streaks()).unwrap_or(u32::MAX));
        let mut hops = Vec::new();
        if !timeouts.is_empty() {
            hops.push(Hop {
                raw_id: None,
                outcomes: timeouts.into_iter().map(timeout).collect(),
            });
        }
        self.publish(hops, stop).await
    }

    /// Publishes a batch, with what has changed in the memory. A batch in flight is finished before
    /// a stop.
    async fn publish(&mut self, hops: Vec<Hop>, stop: &CancellationToken) -> Result<(), Left> {
        let mut batch = Batch {
            number: self.done + 1,
            hops,
            state: self.normalizer.changes(),
        };
        if batch.hops.is_empty() && batch.state.is_empty() {
            return Ok(());
        }
        let mut outage = Outage::new("redis");
        loop {
            let began = Instant::now();
            let hopped = tokio::select! {
                hopped = self.consumer.hop(self.number, self.lease.owner, &batch) => hopped,
                // It may have been done all the same; then what it wrote is read again.
                () = self.lease.lost() => return Err(Left::Lost),
            };
            match hopped {
                Ok(Hopped::Done(published)) => {
                    outage.over();
                    self.lease.renewed = began;
                    self.done = batch.number;
                    histogram!(NORMALIZER_HOP).record(began.elapsed().as_secs_f64());
                    tracing::trace!(stage = STAGE, published, "batch published");
                    self.counts.add(self.number, &batch.hops);
                    return Ok(());
                }
                Ok(Hopped::NotOurs | Hopped::OutOfStep) => return Err(Left::Lost),
                Ok(Hopped::Forgotten) => {
                    tracing::warn!(
                        stage = STAGE,
                        shard = self.number,
                        "redis has lost what is remembered of the rooms, it is written again"
                    );
                    self.normalizer.all_changed();
                    batch.state = self.normalizer.changes();
                    batch.number = 1;
                }
                Err(error) => {
                    let ids: Vec<&str> = batch
                        .hops
                        .iter()
                        .filter_map(|hop| hop.raw_id.as_deref())
                        .collect();
                    if let Err(error) = self.consumer.survived(&ids).await {
                        tracing::debug!(stage = STAGE, %error, "the attempt stays counted");
                    }
                    self.interrupted(&error, &mut outage, stop).await?;
                }
            }
        }
    }

    /// Waits after a failure of Redis.
    async fn interrupted(
        &mut self,
        error: &bus::Error,
        outage: &mut Outage,
        stop: &CancellationToken,
    ) -> Result<(), Left> {
        let waited = wait(error, outage, stop).await;
        self.normalizer.interrupted(Instant::now());
        waited.ok_or(Left::Stop)
    }

    /// Looks whether somebody was erased. Without an answer the list stays what it was: the storage
    /// writer checks again, against the database.
    async fn list_erased(&mut self) {
        match self.erased.refresh().await {
            Ok(true) => self.normalizer.set_erased(self.erased.current().clone()),
            Ok(false) => {}
            Err(error) => {
                tracing::debug!(stage = STAGE, %error, "cannot read who was erased");
            }
        }
    }

    /// Reads the list of gifts when it is time; without it gifts that do not say what they are
    /// have no name.
    async fn list_gifts(&mut self) {
        if self.listed.is_some_and(|listed| listed.elapsed() < GIFTS) {
            return;
        }
        self.listed = Some(Instant::now());
        match self.bus.gifts().await {
            Ok(gifts) => {
                let listed = gifts.into_iter().filter_map(|(id, json)| {
                    Some((id, serde_json::from_str::<Known>(&json).ok()?))
                });
                self.normalizer.list_gifts(listed.collect());
            }
            Err(error) => {
                tracing::debug!(stage = STAGE, %error, "cannot read the list of gifts");
                self.listed = None;
            }
        }
    }
}

/// Waits after a failure of Redis; `None` to stop.
async fn wait(error: &bus::Error, outage: &mut Outage, stop: &CancellationToken) -> Option<()> {
    outage
        .wait_for_redis(STAGE, error, stop)
        .await
        .then_some(())
}

/// What has been done since the last report.
struct Counts {
    events: u64,
    rejected: u64,
    since: Instant,
}

impl Counts {
    fn new() -> Self {
        Self {
            events: 0,
            rejected: 0,
            since: Instant::now(),
        }
    }

    fn add(&mut self, shard: u32, hops: &[Hop]) {
        for outcome in hops.iter().flat_map(|hop| &hop.outcomes) {
            match outcome {
                Outcome::Event { .. } => self.events += 1,
                Outcome::DeadLetter(_) => self.rejected += 1,
            }
        }
        if self.since.elapsed() >= REPORT_INTERVAL {
            self.report(shard);
        }
    }

    fn report(&mut self, shard: u32) {
        if self.events + self.rejected > 0 {
            tracing::info!(
                stage = STAGE,
                shard,
                events = self.events,
                rejected = self.rejected,
                seconds = self.since.elapsed().as_secs(),
                "normalized"
            );
        }
        *self = Self::new();
    }
}
