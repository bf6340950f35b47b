//! Replay: stored sessions, shown again.
//!
//! In: replays that were asked for (`replay.start` on `ttlc:control`, or `ttlc ingest
//! --replay-session`), and the stored events of their sessions. Out: raw envelopes with the original's
//! room, numbers and times, `source=replay` and the showing's own `sessionId`, which go the way of live
//! ones; and how far each is ([`shared::replay`]). In the order of the data: [`source`](self) reads the
//! events, [`pace`](self) says when each is due, [`brake`](self) whether the pipeline has room, and
//! `showing` is the life of one replay. This file decides which of them run here.
//!
//! - **Crash**: whose daemon is gone for 5 s is taken over by another ingest process, or by the same
//!   one after its restart, and goes on where it was: no event twice, none left out.
//! - **Stop** (SIGTERM): it is given back at once and waits for the next process.
//! - **Outage** of Postgres or Redis: it waits, for ever.
//! - **Redelivery** of a command changes nothing. What cannot be shown fails with a reason.
//!
//! It never writes to Postgres: storage learns of a replay from its events, and of its end from the
//! last one of them.

mod brake;
mod command;
mod pace;
mod showing;
mod source;

use std::collections::HashMap;
use std::time::Duration;

use metrics::{counter, gauge};
use sha2::{Digest as _, Sha256};
use shared::replay::{Failure, Progress, Speed, State};
use shared::time::Timestamp;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use self::command::show;
use self::showing::{Outcome, Showing};
use crate::bus::replay::Look;
use crate::bus::{self, Bus, Owner};
use crate::metrics::{REPLAYS_ENDED, REPLAYS_RUNNING};
use crate::storage::database::Database;
use crate::storage::{self, DatabaseOptions};

/// Name of this stage in logs and metrics.
const STAGE: &str = "replay";
/// How often replays to be shown are looked for.
const LOOK: Duration = Duration::from_millis(500);
/// After the stop, for giving back what is shown.
const LAST: Duration = Duration::from_secs(2);
/// How long a process without a database waits for one that has it, before it refuses replays.
const OTHERS: Duration = Duration::from_secs(3);
/// Replays that may wait or run at a time, in all processes.
const MAX_UNFINISHED: u64 = 1_000;

/// Settings of the stage.
#[derive(Clone, Copy, Debug, clap::Args)]
#[group(skip)] // several stages have `Options`; a group would be named after the type
pub struct Options {
    /// How many replays this process shows at a time; others wait, the oldest goes first
    #[arg(long, env = "REPLAY_MAX_PARALLEL", default_value = "8", value_parser = clap::value_parser!(u16).range(1..=100))]
    pub replay_max_parallel: u16,
}

/// Why a replay, or the stage, ends with an error.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting is wrong.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// Redis cannot be asked.
    #[error(transparent)]
    Redis(#[from] bus::Error),
    /// Nothing is stored under this id.
    #[error("no session {0} is stored: GET /sessions lists those that are")]
    UnknownSession(Uuid),
    /// The session's events are gone.
    #[error("no event of session {0} is stored any more")]
    NoEvents(Uuid),
    /// Postgres answers, and refuses.
    #[error("DATABASE_URL: postgres refuses: {0}")]
    Refused(String),
    /// Ended before there was anything to end.
    #[error("cancelled before it began")]
    NotBegun,
    /// Somebody has ended it.
    #[error("the replay {0} was cancelled")]
    Cancelled(Uuid),
    /// It cannot be shown.
    #[error("the replay {0} failed: {1}")]
    Failed(Uuid, String),
    /// Its end could not be written.
    #[error(
        "the replay {0} was stopped, and redis could not be told: a daemon will go on with it, \
         end it by `replay.cancel`"
    )]
    Unfinished(Uuid),
    /// Another process shows it.
    #[error("another process goes on with the replay {0}: this one was not heard of for 5 s")]
    Lost(Uuid),
    /// Signals cannot be heard.
    #[error("cannot listen for signals: {0}")]
    Signal(std::io::Error),
}

/// The id of a replay whose command gave none: made of the command's entry, so that a command that
/// comes twice starts one replay. A uuid v7 of the entry's time.
pub(crate) fn derived_id(stream: &str, entry: &str) -> Uuid {
    let millis = entry.split('-').next().and_then(|ms| ms.parse().ok());
    let hash = Sha256::digest(format!("{stream} {entry}"));
    let mut random = [0; 10];
    random.copy_from_slice(&hash[..10]);
    uuid::Builder::from_unix_timestamp_millis(millis.unwrap_or(0), &random).into_uuid()
}

/// Puts a replay on the list; obeys `replay.start`. A repeat changes nothing.
pub(crate) async fn ask_for(
    bus: &Bus,
    replay_id: Uuid,
    session_id: Uuid,
    speed: Speed,
    now: Timestamp,
) -> Result<(), bus::Error> {
    let mut progress = Progress::new(replay_id, session_id, speed, now);
    if bus.unfinished_replays().await? >= MAX_UNFINISHED {
        progress.state = State::Failed;
        progress.finished_at = Some(now);
        progress.error = Some(Failure::Busy);
        progress.detail = Some(format!("{MAX_UNFINISHED} replays wait or run already"));
        tracing::warn!(stage = STAGE, %replay_id, %session_id, reason = "busy", "refusing a replay");
    }
    let state = bus.add_replay(&progress, None).await?;
    tracing::info!(stage = STAGE, %replay_id, %session_id, %speed, state = state.as_str(), "a replay is asked for");
    Ok(())
}

/// Shows replays until `stop`; without a database it refuses them, unless another process has one.
///
/// # Errors
/// When the settings are wrong.
pub async fn run(
    options: Options,
    database: DatabaseOptions,
    bus: Bus,
    stop: CancellationToken,
) -> Result<(), Error> {
    let database = match database.open() {
        Ok(database) => Some(database),
        Err(storage::Error::NoDatabase) => {
            tracing::info!(
                stage = STAGE,
                "DATABASE_URL is not set: this process shows no replays"
            );
            None
        }
        Err(error) => return Err(error.into()),
    };
    let stage = Stage {
        places: options.replay_max_parallel.into(),
        owner: Owner::new(),
        bus,
        stop: stop.clone(),
        tasks: JoinSet::new(),
        shown: HashMap::new(),
        begun: Instant::now(),
    };
    stage.keep(database, stop).await;
    Ok(())
}

/// What runs here.
struct Stage {
    places: usize,
    owner: Owner,
    bus: Bus,
    /// Told to each replay.
    stop: CancellationToken,
    tasks: JoinSet<(Outcome, State)>,
    shown: HashMap<Id, Progress>,
    begun: Instant,
}

impl Stage {
    async fn keep(mut self, database: Option<Database>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failures = 0_u32;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ended) = self.tasks.join_next_with_id() => self.ended(ended).await,
                _ = ticks.tick() => {
                    let looking = self.look(database.as_ref());
                    match stop.clone().run_until_cancelled(looking).await {
                        None => break,
                        Some(Ok(())) => failures = 0,
                        Some(Err(error)) => {
                            failures += 1;
                            bus::note(STAGE, &error);
                            if failures.is_power_of_two() {
                                tracing::warn!(stage = STAGE, %error, failures, "cannot look for replays, trying again");
                            }
                        }
                    }
                }
            }
            gauge!(REPLAYS_RUNNING).set(f64::from(u32::try_from(self.shown.len()).unwrap_or(0)));
        }
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(LAST, all).await.is_err() {
            tracing::debug!(stage = STAGE, "what is shown lapses by itself");
        }
        gauge!(REPLAYS_RUNNING).set(0.0);
    }

    /// Takes what nobody shows, the oldest first, as long as there is room.
    async fn look(&mut self, database: Option<&Database>) -> Result<(), bus::Error> {
        let Some(database) = database else {
            return self.refuse().await;
        };
        self.bus.can_replay().await?;
        let looks = self.bus.look_at_replays().await?;
        let ours = |look: &Look, shown: &HashMap<Id, Progress>| {
            shown.values().any(|one| one.replay_id == look.replay_id)
        };
        for look in looks {
            if !look.free || ours(&look, &self.shown) {
                continue;
            }
            // To end one takes a moment: that needs no place.
            if self.shown.len() >= self.places && !look.cancelled {
                continue;
            }
            if let Some(progress) = self.bus.claim_replay(look.replay_id, self.owner).await? {
                self.start(database, progress, look.cancelled);
            }
        }
        Ok(())
    }

    fn start(&mut self, database: &Database, progress: Progress, cancelled: bool) {
        let showing = Showing::new(
            self.bus.clone(),
            self.owner,
            database.clone(),
            progress.clone(),
            self.stop.clone(),
        );
        if cancelled {
            showing.cancel.cancel();
        }
        let shared = showing.progress.clone();
        let task = self.tasks.spawn(async move {
            let outcome = showing.run().await;
            let state = showing::locked(&shared).state;
            (outcome, state)
        });
        self.shown.insert(task.id(), progress);
    }

    /// Without a database: fails what nobody has begun and nobody can.
    async fn refuse(&mut self) -> Result<(), bus::Error> {
        if self.begun.elapsed() < OTHERS {
            return Ok(());
        }
        let looks = self.bus.look_at_replays().await?;
        let waiting = looks.iter().filter(|look| look.free && !look.begun);
        for look in waiting {
            if self.bus.anybody_replays().await? {
                return Ok(());
            }
            if let Some(progress) = self.bus.claim_replay(look.replay_id, self.owner).await? {
                let detail =
                    "DATABASE_URL is not set for ingest, and replays are read from Postgres";
                self.fail(progress, Failure::NoDatabase, detail).await?;
            }
        }
        Ok(())
    }

    async fn fail(
        &self,
        mut progress: Progress,
        error: Failure,
        detail: &str,
    ) -> Result<(), bus::Error> {
        let now = jiff::Timestamp::now().into();
        progress.state = State::Failed;
        (progress.updated_at, progress.finished_at) = (now, Some(now));
        (progress.error, progress.detail) = (Some(error), Some(detail.to_owned()));
        tracing::warn!(
            stage = STAGE, replay_id = %progress.replay_id, session_id = %progress.session_id,
            reason = error.as_str(), "cannot show a replay: {detail}"
        );
        counter!(REPLAYS_ENDED, "outcome" => State::Failed.as_str()).increment(1);
        self.bus.finish_replay(&progress, self.owner).await
    }

    async fn ended(&mut self, ended: Result<(Id, (Outcome, State)), JoinError>) {
        let (id, outcome) = match ended {
            Ok((id, outcome)) => (id, Ok(outcome)),
            Err(error) => (error.id(), Err(error)),
        };
        let Some(progress) = self.shown.remove(&id) else {
            return;
        };
        match outcome {
            Ok((Outcome::Ended, state)) => {
                counter!(REPLAYS_ENDED, "outcome" => state.as_str()).increment(1);
            }
            Ok(_) => {}
            // It would panic again wherever it is taken up.
            Err(error) => {
                tracing::error!(stage = STAGE, replay_id = %progress.replay_id, %error, "a replay's task has failed");
                let failing = self.fail(
                    progress,
                    Failure::Defect,
                    "a defect of the daemon: see its log",
                );
                if let Err(error) = failing.await {
                    tracing::warn!(stage = STAGE, %error, "the replay is tried again");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_comes_twice_has_one_replay() {
        let id = derived_id("ttlc:control", "1763800000250-3");
        assert_eq!(id, derived_id("ttlc:control", "1763800000250-3"));
        assert_eq!(id.get_version_num(), 7);
        let (seconds, nanos) = id.get_timestamp().unwrap().to_unix();
        assert_eq!((seconds, nanos), (1_763_800_000, 250_000_000));
        for (stream, entry) in [
            ("ttlc:control", "1763800000250-4"),
            ("ttlc:control:{1}", "1763800000250-3"),
        ] {
            assert_ne!(id, derived_id(stream, entry));
        }
    }
}
