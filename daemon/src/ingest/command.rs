//! Obeys the control stream: who is to be followed from now on, and what is to be shown again.
//!
//! In: the entries of `ttlc:control` ([`Command`]), read by one daemon at a time as group `ingest`.
//! Out: the tracked set and the list of replays in Redis, which all daemons look at; an entry is acknowledged after that. A
//! crash in between lets it be obeyed again, which changes nothing. What is no command becomes a
//! dead letter, and the next one is obeyed. While Redis is away, commands wait in it.

use std::time::Duration;

use jiff::Timestamp as Clock;
use metrics::counter;
use shared::control::{COMMAND, Command};
use shared::streams::GROUP_INGEST;
use shared::time::Timestamp;
use tokio_util::sync::CancellationToken;

use super::reconnect::jittered;
use crate::bus::{self, Bus, Consumer, DeadLetter, Entry, Owner, Role, Tracked};
use crate::metrics::COMMANDS;
use crate::replay;

/// How long the role of the reader holds, and how long others wait before they ask for it.
const LEASE: Duration = Duration::from_secs(10);
const STANDBY_POLL: Duration = Duration::from_secs(3);
/// How long one read waits, over all shards.
const WAIT: Duration = Duration::from_secs(1);
/// Commands taken at a time.
const BATCH: usize = 100;
/// After Redis has failed.
const RETRY: Duration = Duration::from_secs(1);

/// Obeys commands until `stop`, whenever no other daemon does.
pub(super) async fn obey(bus: Bus, owner: Owner, stop: CancellationToken) {
    let working = work(&bus, owner);
    if stop.run_until_cancelled(working).await.is_none()
        && let Err(error) = bus.let_go(Role::Control, owner).await
    {
        tracing::debug!(stage = "ingest", %error, "the role lapses by itself");
    }
}

async fn work(bus: &Bus, owner: Owner) {
    let mut readers: Vec<Consumer> = (0..bus.names().shards())
        .map(|shard| bus.consumer(bus.names().control(shard), GROUP_INGEST, "control"))
        .collect();
    let (mut holding, mut failures) = (false, 0_u32);
    loop {
        match turn(bus, owner, &mut readers, &mut holding).await {
            Ok(()) => {
                failures = 0;
                if !holding {
                    tokio::time::sleep(jittered(STANDBY_POLL)).await;
                }
            }
            Err(error) => {
                failures += 1;
                if failures.is_power_of_two() {
                    tracing::warn!(stage = "ingest", %error, failures, "cannot read commands, trying again");
                }
                // What was read and not obeyed is read again.
                for reader in &mut readers {
                    reader.read_history_again();
                }
                tokio::time::sleep(jittered(RETRY)).await;
            }
        }
    }
}

/// One look at every stream, if the role is ours.
async fn turn(
    bus: &Bus,
    owner: Owner,
    readers: &mut [Consumer],
    holding: &mut bool,
) -> Result<(), bus::Error> {
    let held = bus.hold(Role::Control, owner, LEASE).await?;
    if held && !*holding {
        tracing::info!(stage = "ingest", "obeying the control stream");
        for reader in readers.iter_mut() {
            reader.read_history_again();
        }
    }
    *holding = held;
    if !held {
        return Ok(());
    }
    let wait = WAIT / u32::try_from(readers.len()).unwrap_or(1).max(1);
    for (shard, reader) in (0..).zip(readers) {
        let stream = bus.names().control(shard);
        for entry in reader.read(BATCH, wait).await? {
            take(bus, &stream, &entry).await?;
            reader.ack(&[entry.id]).await?;
        }
    }
    Ok(())
}

async fn take(bus: &Bus, stream: &str, entry: &Entry) -> Result<(), bus::Error> {
    let now = Clock::now().into();
    match Command::parse(entry.get(COMMAND).unwrap_or_default()) {
        Ok(Command::Track { unique_id }) => follow(bus, unique_id, true, now).await,
        Ok(Command::Untrack { unique_id }) => follow(bus, unique_id, false, now).await,
        Ok(Command::ReplayStart {
            session_id,
            replay_id,
            speed,
        }) => {
            counter!(COMMANDS, "command" => "replay.start").increment(1);
            let replay_id = replay_id.unwrap_or_else(|| replay::derived_id(stream, &entry.id));
            replay::ask_for(bus, replay_id, session_id, speed, now).await
        }
        Ok(Command::ReplayCancel { replay_id }) => {
            counter!(COMMANDS, "command" => "replay.cancel").increment(1);
            let cancelled = bus.cancel_replay(replay_id, now).await?;
            tracing::info!(stage = "ingest", %replay_id, ?cancelled, command = "replay.cancel", "obeying");
            Ok(())
        }
        Err(error) => {
            counter!(COMMANDS, "command" => "bad").increment(1);
            tracing::warn!(stage = "ingest", entry = entry.id, %error, reason = "COMMAND_ERROR",
                "cannot obey a command");
            let letter = DeadLetter {
                stage: "ingest",
                reason: "COMMAND_ERROR",
                error: error.to_string(),
                payload: entry.to_json(),
                failed_at: now,
            };
            bus.dead_letter(&letter).await
        }
    }
}

async fn follow(
    bus: &Bus,
    unique_id: String,
    follow: bool,
    now: Timestamp,
) -> Result<(), bus::Error> {
    let command = if follow { "track" } else { "untrack" };
    counter!(COMMANDS, "command" => command).increment(1);
    tracing::info!(stage = "ingest", creator = unique_id, command, "obeying");
    bus.track(&Tracked {
        unique_id,
        follow,
        since: now,
    })
    .await
}
