//! The storage writer: the one stage that persists canonical events.
//!
//! In: entries of `ttlc:events` (group `storage`, a slot per shard). Out: rows of `events`,
//! and what follows from them in `creators`, `streams`, `sessions`, `users` and the statistics;
//! every table is described in `docs/contracts/storage.md`. Read in the order an entry takes:
//! [`row`] reads it, [`writer`] gathers a batch and settles it, [`batch`] is the transaction
//! (and [`copying`] its short way into `events`),
//! [`rooms`], [`users`], [`statistics`] and [`gaps`] are what it keeps up to date beside the events.
//! [`dead_letters`] keeps what no stage could process, [`erasure`] removes viewers. [`database`] connects, [`migrate`] and [`partitions`] prepare the tables.
//!
//! - **Crash**: the transaction commits before the entries are acknowledged. What was committed
//!   and not acknowledged comes again and changes nothing: rows that exist are skipped, and
//!   everything else is derived from the rows really inserted.
//! - **Bad input**: an entry that cannot be read, or a row that Postgres refuses, goes to the dead
//!   letters; the rest of its batch is stored.
//! - **Outage** of Postgres or Redis: the batch waits and is tried again for ever, until it is
//!   stored or the stage is told to stop.
//! - **Poison**: an entry that ends one process after the other is taken alone in the end, and given
//!   up after five ([`bus::POISON`](crate::bus::POISON)). Outages never count.
//! - **Order**: several writers may run, each in a slot of its own ([`bus::member`](crate::bus::member));
//!   what one leaves another takes up, and no result depends on which of two batches is committed first.
//! - **Loss**: what was gone from Redis before it was stored is found by its missing numbers, and
//!   recorded in `gaps` ([`losses`]).

mod batch;
mod check;
mod copying;
pub(crate) mod database;
pub mod dead_letters;
pub mod erasure;
mod gaps;
mod losses;
mod migrate;
mod partitions;
mod retention;
mod rooms;
mod row;
pub mod safety;
mod statistics;
mod users;
pub mod verify;
mod writer;

use std::time::Duration;

use secrecy::SecretString;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::bus::Bus;

pub use database::DatabaseOptions;
pub use migrate::migrate;
pub use retention::{Pruned, RetentionOptions, prune};

/// Settings of the storage writer.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)] // several stages have `Options`; a group would be named after the type
pub struct Options {
    /// Where to store.
    #[command(flatten)]
    pub database: DatabaseOptions,
    /// How long what is stored is kept.
    #[command(flatten)]
    pub retention: RetentionOptions,
    /// How many events a transaction holds at most
    #[arg(long, env = "STORAGE_BATCH_SIZE", default_value = "2000", value_parser = clap::value_parser!(u16).range(1..=5_000))]
    pub storage_batch_size: u16,
    /// How long the first event of a batch waits for more, in milliseconds
    #[arg(long, env = "STORAGE_BATCH_MS", default_value = "50", value_parser = clap::value_parser!(u16).range(0..=5_000))]
    pub storage_batch_ms: u16,
}

impl Options {
    fn batch_size(&self) -> usize {
        usize::from(self.storage_batch_size)
    }

    fn batch_age(&self) -> Duration {
        Duration::from_millis(u64::from(self.storage_batch_ms))
    }
}

/// What the stage cannot work with; outages are none of these, they are waited for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `DATABASE_URL` is not set, or empty.
    #[error(
        "DATABASE_URL is not set: events are stored in Postgres, postgres://user:password@host:5432/database"
    )]
    NoDatabase,
    /// An address cannot be read. Its text is not repeated: it may hold a password.
    #[error(
        "{0} is not a Postgres address: use postgres://user:password@host:5432/database, with ?sslmode=require for TLS"
    )]
    Address(&'static str),
    /// The file of `DATABASE_CA_FILE` cannot be used.
    #[error("DATABASE_CA_FILE {path}: {why}")]
    CaFile {
        /// As it was given.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// The server answers and refuses us: password, database name, rights.
    #[error("{variable}: postgres refuses: {why}")]
    Refused {
        /// The setting to look at.
        variable: &'static str,
        /// The server's words.
        why: String,
    },
    /// The server's certificate is not signed by an authority we know, or not for this name.
    #[error("{variable}: {why}; DATABASE_CA_FILE can name the authority")]
    Distrusted {
        /// The setting to look at.
        variable: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The database has a migration that this build does not know.
    #[error(
        "the database has {0}, which this build does not have: run the ttlc that made it, or a newer one"
    )]
    Newer(String),
    /// Pruning failed; what it had finished stays done.
    #[error("prune: {0}")]
    Prune(String),
    /// A viewer could not be erased; what is done stays done.
    #[error("erase: {0}")]
    Erase(String),
    /// A room could not be verified.
    #[error("verify: {0}")]
    Verify(String),
    /// A migration failed, or differs from the one that was applied.
    #[error("migration: {0}")]
    Migration(String),
}

/// Stores events until told to stop.
///
/// The migrations must have been applied, see [`migrate`]. On `stop` what the stream still holds
/// is stored too, for at most a second; the rest waits in Redis.
pub async fn run(options: Options, bus: Bus, stop: CancellationToken) -> Result<(), Error> {
    stage(options, bus, stop, true).await
}

/// The same without `session_stats`, `stream_minute_stats` and `session_users`: what is stored is
/// not the product's any more. For `cargo xtask bench pipeline`; no setting leads here.
#[doc(hidden)]
pub async fn run_without_statistics(
    options: Options,
    bus: Bus,
    stop: CancellationToken,
) -> Result<(), Error> {
    stage(options, bus, stop, false).await
}

async fn stage(
    options: Options,
    bus: Bus,
    stop: CancellationToken,
    statistics: bool,
) -> Result<(), Error> {
    let database = options.database.open()?;
    let mut tasks = JoinSet::new();
    tasks.spawn(partitions::keep(database.clone(), stop.clone()));
    tasks.spawn(erasure::keep(database.clone(), bus.clone(), stop.clone()));
    tasks.spawn(retention::keep(
        options.database.open_for_migrations()?,
        options.retention.clone(),
        stop.clone(),
    ));
    for shard in 0..bus.names().shards() {
        tasks.spawn(dead_letters::keep(
            database.clone(),
            bus.clone(),
            shard,
            options.retention.event_retention_days,
            stop.clone(),
        ));
        let losses = losses::Losses::new(database.clone(), bus.clone(), shard);
        let writer = writer::Writer::new(
            &options,
            database.clone(),
            bus.clone(),
            shard,
            losses.seen(),
            statistics,
        );
        tasks.spawn(losses.watch(stop.clone()));
        tasks.spawn(writer.run(stop.clone()));
    }
    while let Some(ended) = tasks.join_next().await {
        // None of them returns an error; a panic is a defect and goes up to the supervisor.
        if let Err(error) = ended {
            std::panic::resume_unwind(error.into_panic());
        }
    }
    Ok(())
}

/// A secret setting, `None` when it is empty: Compose passes unset variables as empty ones.
fn given(secret: Option<&SecretString>) -> Option<&SecretString> {
    use secrecy::ExposeSecret as _;
    secret.filter(|secret| !secret.expose_secret().trim().is_empty())
}
