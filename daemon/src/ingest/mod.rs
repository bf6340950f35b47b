//! Ingest: from TikTok's sockets to `ttlc:raw`.
//!
//! In: creators' names, and what TikTok sends. Out: raw envelopes in Redis, one per message, in
//! the order of each room; dead letters for frames that cannot be read; each creator's status.
//! Ingest interprets nothing but what its own work needs, and never writes to Postgres.
//!
//! In the order of the data: `options` says whom to follow, `creator` is one task for each,
//! `direct` speaks TikTok's protocol, `session` numbers the messages, `outbox` publishes
//! them; `failure`, `reconnect` and `status` beside.
//!
//! On a crash the messages of the last moments are lost (they were acknowledged on receipt, as
//! TikTok expects it), and nothing is doubled: numbers never repeat. While Redis is away, sockets
//! stay open and reading pauses when the buffer is full.

mod catalogue;
mod creator;
mod direct;
mod failure;
mod lease;
mod options;
mod outbox;
mod reconnect;
mod session;
mod status;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use self::creator::Creator;
use self::lease::Leases;
use self::options::Settings;
pub use self::options::{Invalid, Options};
use self::outbox::{Outbox, Raw};
use self::status::Board;
use crate::bus::{Bus, Owner};

/// For closing sockets and publishing what is in hand, from the moment of being told to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(3);

/// Why ingest cannot work at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting is wrong.
    #[error(transparent)]
    Settings(#[from] Invalid),
    /// The network clients cannot be made, as without any certificates on the system.
    #[error("{0}")]
    Client(String),
}

/// Follows all creators until `stop`; network and Redis failures are retried for ever.
///
/// Needs a process-wide TLS provider (`rustls`) to be installed.
pub async fn run(options: Options, bus: Bus, stop: CancellationToken) -> Result<(), Error> {
    let fetches_gifts = options.gift_catalogue;
    let Settings {
        creators,
        upstream,
        policy,
        signs_per_minute,
    } = options.check()?;
    let shared = Arc::new(direct::Shared::new(&upstream, signs_per_minute).map_err(Error::Client)?);
    if upstream.key.is_none() {
        tracing::info!(
            stage = "ingest",
            "EULER_API_KEY is not set: the sign server allows few requests without it"
        );
    }
    let leases = Leases::new(bus.clone(), Owner::new());
    let leases_stop = CancellationToken::new();
    let leases_task = tokio::spawn(leases.clone().keep(leases_stop.clone()));
    let outbox = Outbox::new(Raw {
        bus: bus.clone(),
        leases: leases.clone(),
    });
    let board = Board::default();
    let mut tasks = JoinSet::new();
    for name in creators {
        let creator = Creator::new(
            name,
            shared.clone(),
            leases.clone(),
            outbox.outlet(),
            board.clone(),
            policy,
        )
        .map_err(Error::Client)?;
        tasks.spawn(creator.run(stop.clone()));
    }
    if fetches_gifts {
        let http = direct::client(&upstream).map_err(Error::Client)?;
        let (base, key) = (upstream.sign.clone(), upstream.key.clone());
        tasks.spawn(catalogue::keep(http, base, key, bus.clone(), stop.clone()));
    }
    let board_stop = CancellationToken::new();
    let board_task = tokio::spawn(board.publish(bus, board_stop.clone()));

    // A task ends before `stop` only by a panic, a defect of ours: then the whole stage ends with
    // it rather than following all but one.
    tokio::select! {
        () = stop.cancelled() => {}
        Some(Err(error)) = tasks.join_next() => {
            if error.is_panic() {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }
    let deadline = Instant::now() + STOP_DEADLINE;
    let all = async { while tasks.join_next().await.is_some() {} };
    if timeout_at(deadline, all).await.is_err() {
        tracing::warn!(stage = "ingest", "not all connections were closed in time");
    }
    board_stop.cancel();
    outbox.close(deadline).await;
    leases_stop.cancel();
    if timeout_at(deadline, leases_task).await.is_err() {
        tracing::debug!(stage = "ingest", "the leases lapse by themselves");
    }
    if timeout_at(deadline, board_task).await.is_err() {
        tracing::debug!(stage = "ingest", "the last statuses were not written");
    }
    Ok(())
}
