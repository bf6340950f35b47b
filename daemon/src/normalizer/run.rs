//! The normalizer as a stage: from `ttlc:raw` to `ttlc:events`, one entry after the other.
//!
//! Comes in: entries of the raw stream, in order, as group `normalizer` under one fixed name per
//! shard. Goes out: per batch one script that publishes the outcomes and acknowledges the entries.
//! Killed anywhere: entries that were not acknowledged come again, and give the same events. Redis
//! away: waits and tries the same batch again, for ever; nothing becomes a dead letter for that.
//! An entry that is no envelope, a message that cannot be read or an event that breaks the
//! contract becomes a dead letter at its place in the order.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use shared::raw::Envelope;
use shared::streams::GROUP_NORMALIZER;
use shared::time::Timestamp;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Contract, Reason, Rejection, SchemaError, normalize};
use crate::bus::{
    self, Batch, Bus, Consumer, DeadLetter, Entry, Hop, LEASE, Outcome, Owner, RENEW, Role,
};

/// Name of this stage in logs and dead letters.
const STAGE: &str = "normalizer";
/// Name inside the group: fixed, so that the next process finds what this one left unfinished.
const CONSUMER: &str = "normalizer";
/// How long a read waits for entries; also how late a stop may be noticed.
const READ_WAIT: Duration = Duration::from_secs(1);
/// How often a standby asks whether the lease is free.
const STANDBY: Duration = Duration::from_secs(1);
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
    for shard in 0..bus.names().shards() {
        let stream = bus.names().raw(shard);
        let normalizer = Shard {
            number: shard,
            consumer: bus.consumer(stream, GROUP_NORMALIZER, CONSUMER),
            contract: Contract::new()?,
            batch: options.normalizer_batch.into(),
            counts: Counts::new(),
            bus: bus.clone(),
            owner: Owner::new(),
            done: 0,
        };
        shards.spawn(normalizer.run(stop.clone()));
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
    contract: Contract,
    batch: usize,
    counts: Counts,
    bus: Bus,
    owner: Owner,
    /// The number of the last batch.
    done: u64,
}

impl Shard {
    async fn run(mut self, stop: CancellationToken) {
        while self.hold(&stop).await.is_some() {
            self.work(&stop).await;
        }
        self.counts.report(self.number);
        let role = Role::Normalizer(self.number);
        if let Err(error) = self.bus.let_go(role, self.owner).await {
            tracing::debug!(stage = STAGE, shard = self.number, %error, "the lease lapses by itself");
        }
    }

    /// Waits for the lease of the shard, and for what its last holder remembered; `None` to stop.
    async fn hold(&mut self, stop: &CancellationToken) -> Option<()> {
        let mut delays = delays();
        loop {
            let role = Role::Normalizer(self.number);
            let taken = async {
                if !self.bus.hold(role, self.owner, LEASE).await? {
                    return Ok(None);
                }
                self.bus.normalizer_state(self.number).await.map(Some)
            };
            match stop.run_until_cancelled(taken).await? {
                Ok(Some(state)) => {
                    self.done = state.batch;
                    self.consumer.read_history_again();
                    return Some(());
                }
                Ok(None) => {
                    stop.run_until_cancelled(tokio::time::sleep(STANDBY))
                        .await?;
                }
                Err(error) => wait(self.number, &error, &mut delays, stop).await?,
            }
        }
    }

    /// Normalizes as long as the lease is ours.
    async fn work(&mut self, stop: &CancellationToken) {
        let mut renewed = Instant::now();
        while let Some(entries) = self.read(stop).await {
            let hops: Vec<Hop> = entries.iter().map(|entry| self.hop(entry)).collect();
            if !hops.is_empty() && !self.publish(&hops, stop).await {
                return;
            }
            self.counts.add(self.number, &hops);
            if renewed.elapsed() > RENEW {
                match self
                    .bus
                    .hold(Role::Normalizer(self.number), self.owner, LEASE)
                    .await
                {
                    Ok(true) => renewed = Instant::now(),
                    Ok(false) => return,
                    Err(error) => tracing::debug!(stage = STAGE, %error, "cannot renew the lease"),
                }
            }
        }
    }

    /// The next entries, perhaps none; `None` to stop. Stops between batches at once.
    async fn read(&mut self, stop: &CancellationToken) -> Option<Vec<Entry>> {
        let mut delays = delays();
        loop {
            let read = tokio::select! {
                read = self.consumer.read(self.batch, READ_WAIT) => read,
                () = stop.cancelled() => return None,
            };
            match read {
                Ok(entries) => return Some(entries),
                Err(error) => wait(self.number, &error, &mut delays, stop).await?,
            }
        }
    }

    /// Publishes a batch; `false` to stop. A batch in flight is finished before a stop.
    async fn publish(&mut self, hops: &[Hop], stop: &CancellationToken) -> bool {
        let mut delays = delays();
        self.done += 1;
        let batch = Batch {
            number: self.done,
            hops: hops.to_vec(),
            state: Vec::new(),
        };
        loop {
            match self.consumer.hop(self.number, self.owner, &batch).await {
                Ok(None) => return false,
                Ok(Some(published)) => {
                    if published < hops.len() {
                        let others = hops.len() - published;
                        tracing::debug!(stage = STAGE, others, "entries were published before");
                    }
                    return true;
                }
                Err(error) => {
                    if wait(self.number, &error, &mut delays, stop).await.is_none() {
                        return false;
                    }
                }
            }
        }
    }

    fn hop(&self, entry: &Entry) -> Hop {
        let outcome = self.event(entry).unwrap_or_else(|rejection| {
            tracing::warn!(
                stage = STAGE,
                raw_id = entry.id,
                stream_id = entry.get("streamId"),
                session_id = entry.get("sessionId"),
                kind = entry.get("type"),
                reason = rejection.reason.as_str(),
                error = rejection.error,
                "message goes to the dead letters"
            );
            Outcome::DeadLetter(DeadLetter {
                stage: STAGE,
                reason: rejection.reason.as_str(),
                error: rejection.error,
                payload: entry.to_json(),
                failed_at: now(),
            })
        });
        Hop {
            raw_id: Some(entry.id.clone()),
            outcomes: vec![outcome],
        }
    }

    fn event(&self, entry: &Entry) -> Result<Outcome, Rejection> {
        if entry.fields.is_empty() {
            return Err(unreadable(&"the entry was trimmed before it was read"));
        }
        guarded(|| {
            let envelope =
                Envelope::from_fields(|field| entry.get(field)).map_err(|e| unreadable(&e))?;
            let event = normalize(&envelope)?;
            Ok(Outcome::Event {
                json: self.contract.json(&event)?,
                normalized_at: now(),
                // As it came: the exact text is what a replay normalizes again.
                raw: entry.get("data").unwrap_or_default().to_owned(),
            })
        })
    }
}

fn unreadable(error: &dyn std::fmt::Display) -> Rejection {
    Rejection {
        reason: Reason::ParseError,
        error: error.to_string(),
    }
}

/// Turns a panic into a rejection. There should be none; but the message that causes one would
/// come again after every restart, and nothing behind it would ever be read.
fn guarded<T>(work: impl FnOnce() -> Result<T, Rejection>) -> Result<T, Rejection> {
    // Nothing is changed by the work that somebody could see half done.
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(unreadable(&"the normalizer panicked on it")))
}

/// Waits after a failure of Redis; `None` to stop.
async fn wait(
    shard: u32,
    error: &bus::Error,
    delays: &mut impl Iterator<Item = Duration>,
    stop: &CancellationToken,
) -> Option<()> {
    let delay = delays.next().unwrap_or(MAX_DELAY);
    tracing::warn!(
        stage = STAGE,
        shard,
        %error,
        retry_in_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
        "redis does not answer as it should, trying again"
    );
    stop.run_until_cancelled(tokio::time::sleep(delay)).await
}

const MAX_DELAY: Duration = Duration::from_secs(5);

/// 100 ms, doubling to 5 s, with jitter, without end.
fn delays() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(MAX_DELAY)
        .with_jitter()
        .without_max_times()
        .build()
        .map(|delay| delay.min(MAX_DELAY))
}

fn now() -> Timestamp {
    jiff::Timestamp::now().into()
}

/// What has been done since the last report.
struct Counts {
    events: u64,
    parse_errors: u64,
    validation_errors: u64,
    since: Instant,
}

impl Counts {
    fn new() -> Self {
        Self {
            events: 0,
            parse_errors: 0,
            validation_errors: 0,
            since: Instant::now(),
        }
    }

    fn add(&mut self, shard: u32, hops: &[Hop]) {
        for outcome in hops.iter().flat_map(|hop| &hop.outcomes) {
            match outcome {
                Outcome::Event { .. } => self.events += 1,
                Outcome::DeadLetter(letter) if letter.reason == Reason::ParseError.as_str() => {
                    self.parse_errors += 1;
                }
                Outcome::DeadLetter(_) => self.validation_errors += 1,
            }
        }
        if self.since.elapsed() >= REPORT_INTERVAL {
            self.report(shard);
        }
    }

    fn report(&mut self, shard: u32) {
        if self.events + self.parse_errors + self.validation_errors > 0 {
            tracing::info!(
                stage = STAGE,
                shard,
                events = self.events,
                parse_errors = self.parse_errors,
                validation_errors = self.validation_errors,
                seconds = self.since.elapsed().as_secs(),
                "normalized"
            );
        }
        *self = Self::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_rejection() {
        let rejection = guarded(|| -> Result<(), _> { panic!("as expected by the test") });
        assert_eq!(rejection.unwrap_err().reason, Reason::ParseError);
        assert_eq!(guarded(|| Ok(7)), Ok(7));
    }

    #[test]
    fn delays_grow_to_their_limit_and_never_end() {
        let delays: Vec<Duration> = delays().take(1_000).collect();
        assert!(delays[0] < Duration::from_secs(1));
        assert!(delays.iter().all(|delay| *delay <= MAX_DELAY));
        assert_eq!(delays.last(), Some(&MAX_DELAY));
    }
}
