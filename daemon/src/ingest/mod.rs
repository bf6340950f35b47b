//! Ingest: from TikTok's sockets to `ttlc:raw`.
//!
//! In: creators' names, and what TikTok sends. Out: raw envelopes in Redis, one per message, in
//! the order of each room; dead letters for frames that cannot be read; each creator's status.
//! Ingest interprets nothing but what its own work needs, and never writes to Postgres.
//!
//! In the order of the data: `options` says whom to follow, `command` and `tracked` change that
//! while the daemon runs, `creator` is one task for each, `provider` is the seam behind which rooms
//! are read and `choice` says by whom, `direct` speaks TikTok's protocol and `euler` Euler Stream's,
//! `session` numbers the messages, `spool` brings them to the disk and `outbox` to Redis. Beside:
//! `lease` (whose a room is), `status` (what the API shows), `budget`, `failure` and `reconnect` (how
//! often upstream is asked), `socket` (what both providers do with one), `catalogue` (the list of
//! gifts, for the normalizer).
//!
//! On a crash the messages of the last 100 ms may be lost (they were acknowledged on receipt, as
//! TikTok expects it), and nothing is doubled: numbers never repeat. While Redis is away, sockets
//! are read on, and messages wait in the spool.

mod budget;
mod catalogue;
mod choice;
mod command;
mod creator;
mod direct;
mod euler;
mod failure;
mod lease;
mod options;
mod outbox;
mod provider;
mod reconnect;
mod session;
mod socket;
mod spool;
mod status;
mod tracked;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use self::budget::Budget;
pub use self::choice::Which;
use self::creator::{Creator, Parts};
pub use self::direct::frames::{Frames, Taken};
pub use self::euler::{Invalid as EulerInvalid, Options as EulerOptions, SchemaVersion};
use self::lease::Leases;
use self::options::Settings;
pub use self::options::{Invalid, Options, SignPath};
use self::outbox::{Outbox, Raw};
use self::provider::{Providers, Sources};
use self::spool::Spool;
use self::status::Board;
use self::tracked::Roster;
use crate::bus::Bus;
use crate::config::Switch;

/// For closing sockets and publishing what is in hand, from the moment of being told to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(3);
/// The part of it for closing sockets.
const CLOSE_DEADLINE: Duration = Duration::from_millis(1500);

/// Why ingest cannot work at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting is wrong.
    #[error(transparent)]
    Settings(#[from] Invalid),
    /// The spool's folder cannot be used.
    #[error(transparent)]
    Spool(#[from] spool::Unusable),
    /// The network clients cannot be made, as without any certificates on the system.
    #[error("{0}")]
    Client(String),
}

/// What is not as it should be, for `/readyz`; ingest works all the same.
pub fn warning() -> Option<&'static str> {
    spool::writer::disk_refuses()
        .then_some("the spool's disk refuses messages: they are only in memory")
}

/// Follows all creators until `stop`; network and Redis failures are retried for ever.
///
/// Needs a process-wide TLS provider (`rustls`) to be installed.
pub async fn run(options: Options, bus: Bus, stop: CancellationToken) -> Result<(), Error> {
    let fetches_gifts = options.gift_catalogue == Switch::On;
    let settings = options.check()?;
    announce(&settings);
    let Settings {
        creators,
        upstream,
        policy,
        limits,
        preference,
        euler,
        spool,
    } = settings;
    let spool = Spool::open(&spool)?;
    let gifts = if fetches_gifts {
        let http = direct::client(&upstream).map_err(Error::Client)?;
        Some((http, upstream.sign.clone(), upstream.key.clone()))
    } else {
        None
    };
    // A minute's worth at once: who starts with many live rooms reads them at once.
    let account = Arc::new(Budget::new(
        "euler",
        limits.euler_per_minute,
        limits.euler_per_minute,
    ));
    let direct = direct::Shared::new(&upstream, limits, account.clone()).map_err(Error::Client)?;
    let euler = upstream
        .key
        .map(|key| euler::Shared::new(euler, key, direct.dialer(), account));
    let providers = Providers {
        euler: euler.map(Arc::new),
        direct: Arc::new(direct),
    };
    // Whether clients can be made shows here, and not in each creator's task.
    Sources::new(providers.clone()).map_err(Error::Client)?;
    let owner = spool.owner();
    let leases = Leases::new(bus.clone(), owner);
    let raw = Raw {
        bus: bus.clone(),
        leases: leases.clone(),
    };
    let outbox = Outbox::new(raw, spool);
    let board = Board::default();
    if let Some((http, base, key)) = gifts {
        tokio::spawn(catalogue::keep(http, base, key, bus.clone(), stop.clone()));
    }
    let after = CancellationToken::new();
    let leases_task = {
        let (leases, after) = (leases.clone(), after.clone());
        tokio::spawn(leases.keep(after))
    };
    let commands_task = tokio::spawn(command::obey(bus.clone(), owner, stop.clone()));
    let board_stop = CancellationToken::new();
    let board_task = tokio::spawn(
        board
            .clone()
            .publish(bus.clone(), owner, board_stop.clone()),
    );

    let parts = Parts {
        providers,
        leases,
        outlet: outbox.outlet(),
        board,
        policy,
        preference,
    };
    let board = parts.board.clone();
    let begin = move |name: &str, stop| {
        let creator = Creator::new(name.to_owned(), parts.clone())?;
        Ok(creator.run(stop))
    };
    Roster::new(creators, board, begin)
        .keep(bus, stop, CLOSE_DEADLINE)
        .await;

    let deadline = Instant::now() + STOP_DEADLINE - CLOSE_DEADLINE;
    board_stop.cancel();
    outbox.close(deadline).await;
    after.cancel();
    let rest = async { tokio::join!(leases_task, commands_task, board_task) };
    if timeout_at(deadline, rest).await.is_err() {
        tracing::debug!(stage = "ingest", "leases and statuses lapse by themselves");
    }
    Ok(())
}

/// Says once what the settings mean.
fn announce(settings: &Settings) {
    if settings.creators.is_empty() {
        tracing::info!(
            stage = "ingest",
            "TIKTOK_UNIQUE_ID is empty: following who was tracked, and waiting for commands"
        );
    }
    if settings.upstream.key.is_none() {
        tracing::info!(
            stage = "ingest",
            "EULER_API_KEY is not set: the sign server allows few requests without it, and provider \
             euler cannot take over when direct fails"
        );
    } else if !settings.preference.fallback {
        tracing::info!(
            stage = "ingest",
            provider = settings.preference.first.name(),
            "no other provider takes over when this one fails (INGEST_FALLBACK)"
        );
    }
}
