//! `ttlc ingest --replay-session ID`: this replay and nothing else.
//!
//! In: a session's id and a speed. Out: the replay, its progress as log lines, and success when all
//! of it was sent. What cannot be shown is said at once, before anything is written. SIGINT and
//! SIGTERM cancel it; a daemon that shows replays goes on with it after a crash.

use std::time::Duration;

use shared::replay::{Progress, Speed, State};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::showing::{Outcome, Shared, Showing, locked};
use super::source::{Found, Reader};
use super::{Error, STAGE};
use crate::bus::{Bus, Owner};
use crate::outage::Outage;
use crate::storage::DatabaseOptions;

/// How often the progress is logged.
const REPORT: Duration = Duration::from_secs(5);
/// How long the end may take to be written after a signal.
const LAST: Duration = Duration::from_secs(3);

/// Shows `session_id` again, and returns when it is over.
///
/// # Errors
/// When it cannot be shown, or was ended before its end.
pub async fn show(
    session_id: Uuid,
    speed: Speed,
    database: &DatabaseOptions,
    bus: Bus,
) -> Result<(), Error> {
    let database = database.open()?;
    let cancel = CancellationToken::new();
    let stop = CancellationToken::new();
    let signals = listen(cancel.clone(), stop.clone())?;
    let mut reader = Reader::new(database.clone());
    let mut outage = Outage::new("postgres");
    loop {
        match reader.find(session_id).await {
            Ok(Found::Unknown) => {
                // A replay that has begun just now is known in Redis only.
                if bus.replay(session_id).await?.is_none() {
                    return Err(Error::UnknownSession(session_id));
                }
                break;
            }
            Ok(Found::Empty) => return Err(Error::NoEvents(session_id)),
            Ok(Found::Session(_) | Found::Replay(_)) => break,
            Err(error) if error.is_refusal() || error.is_no_table() => {
                return Err(Error::Refused(error.to_string()));
            }
            Err(error) => {
                if !outage.wait(&error, &cancel).await {
                    return Err(Error::NotBegun);
                }
            }
        }
    }
    drop(reader);

    let (owner, replay_id) = (Owner::new(), Uuid::now_v7());
    let now = jiff::Timestamp::now().into();
    let progress = Progress::new(replay_id, session_id, speed, now);
    let mut outage = Outage::new("redis");
    while let Err(error) = bus.add_replay(&progress, Some(owner)).await {
        if !outage.wait(&error, &cancel).await {
            return Err(Error::NotBegun);
        }
    }
    let mut showing = Showing::new(bus, owner, database, progress, stop);
    showing.cancel = cancel;
    let progress = showing.progress.clone();
    let reports = tokio::spawn(report(progress.clone()));
    let outcome = showing.run().await;
    reports.abort();
    signals.abort();
    let progress = locked(&progress);
    match (outcome, progress.state) {
        (Outcome::Ended, State::Done) => Ok(()),
        (Outcome::Ended, State::Cancelled) => Err(Error::Cancelled(replay_id)),
        (Outcome::Ended, _) => {
            let detail = progress.detail.clone().unwrap_or_default();
            Err(Error::Failed(replay_id, detail))
        }
        (Outcome::Stopped, _) => Err(Error::Unfinished(replay_id)),
        (Outcome::Lost, _) => Err(Error::Lost(replay_id)),
    }
}

/// A signal cancels the replay; a second one, or three seconds later, ends the process as it is.
fn listen(cancel: CancellationToken, stop: CancellationToken) -> Result<JoinHandle<()>, Error> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signal)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signal)?;
    Ok(tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tracing::info!(stage = STAGE, "cancelling the replay");
        cancel.cancel();
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            () = tokio::time::sleep(LAST) => {}
        }
        stop.cancel();
    }))
}

async fn report(progress: Shared) {
    loop {
        tokio::time::sleep(REPORT).await;
        let progress = locked(&progress);
        tracing::info!(
            stage = STAGE, replay_id = %progress.replay_id, session_id = %progress.session_id,
            state = progress.state.as_str(), sent = progress.sent, skipped = progress.skipped,
            total = progress.total, seq_no = progress.seq_no, "replaying"
        );
    }
}
