//! The forwarder: hands every event to an HTTP endpoint of the operator's, each room in its order.
//!
//! In: entries of `ttlc:events` (group `forwarder`). Out: requests, and for each event a row of
//! `forward_log`. Read in the order an event takes: [`options`] says where to and how, [`shard`] reads and
//! acknowledges, [`lane`] sends the events of a room one after the other, [`format`] and [`sign`] write a
//! request, [`destination`] makes it and reads its answer, [`breaker`] holds everybody back while there
//! is none, [`recorder`] and [`ledger`] write down what became of it. [`queues`] is what these share.
//!
//! - **Crash**: an entry is acknowledged after its row is committed. What was sent and not recorded is
//!   sent again under the same idempotency key: at least once.
//! - **Bad input**: an event that the destination refuses (4xx), or an entry without a readable event,
//!   becomes a dead letter; the next one of its room goes on.
//! - **Outage** of the destination: events wait in Redis. Those that wait longer than `FORWARD_MAX_AGE`
//!   become dead letters, and are sent first, in their order, when it answers again. Outage of Redis
//!   or Postgres: waits for ever.
//! - **Twice**: one process per shard forwards, who holds its lease; others stand by.

mod breaker;
mod destination;
mod format;
mod item;
mod lane;
mod ledger;
mod options;
mod queues;
mod recorder;
mod shard;
mod sign;

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::breaker::Breaker;
use self::destination::Destination;
use self::options::Settings;
use crate::bus::{Bus, Owner};
use crate::storage::{self, DatabaseOptions};

pub(crate) use self::destination::retry_after;
pub use self::options::{Format, Options, Refused};

/// Name of this stage in logs and dead letters.
const STAGE: &str = "forwarder";

/// What the stage cannot work with; outages are none of these, they are waited for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting cannot work.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The settings of the database, which the forwarder needs for its record.
    #[error(transparent)]
    Database(#[from] storage::Error),
    /// No HTTP client can be made.
    #[error("cannot make an HTTP client: {0}")]
    Client(#[from] reqwest::Error),
}

/// The destination, and what all shards and rooms share of it.
struct Outlet {
    settings: Settings,
    destination: Destination,
    breaker: Breaker,
    permits: Semaphore,
}

/// Forwards events until told to stop, and then finishes requests that are under way, for about a second.
///
/// The migrations must have been applied, see [`storage::migrate`].
///
/// # Errors
/// At the start, for settings that cannot work.
pub async fn run(
    options: Options,
    database: DatabaseOptions,
    bus: Bus,
    stop: CancellationToken,
) -> Result<(), Error> {
    let settings = options.settings()?;
    let database = database.open()?;
    tracing::info!(stage = STAGE, destination = settings.origin, format = ?settings.format, "the destination of events");
    let outlet = Arc::new(Outlet {
        destination: Destination::new(settings.clone())?,
        breaker: Breaker::new(),
        permits: Semaphore::new(settings.concurrency),
        settings,
    });
    let mut shards = JoinSet::new();
    for number in 0..bus.names().shards() {
        let shard = shard::Shard {
            number,
            bus: bus.clone(),
            outlet: outlet.clone(),
            database: database.clone(),
            owner: Owner::new(),
        };
        shards.spawn(shard.run(stop.clone()));
    }
    while let Some(ended) = shards.join_next().await {
        // None of them returns an error; a panic is a defect and goes up to the supervisor.
        if let Err(error) = ended {
            std::panic::resume_unwind(error.into_panic());
        }
    }
    Ok(())
}
