//! Copies `ttlc:dlq` into `dead_letters`, and finishes what somebody began to put back.
//!
//! Every entry counts once, by its id; it is acknowledged after the commit, and the trimmer drops
//! what is acknowledged. A letter that fails again after it was put back is open again.

use std::time::Duration;

use metrics::counter;
use shared::streams::GROUP_OPS;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Transaction};
use tokio_util::sync::CancellationToken;

use super::letter::Letter;
use super::redrive;
use crate::bus::{Bus, Entry};
use crate::failpoint;
use crate::metrics::DEAD_LETTERS;
use crate::storage::database::{Database, Failure, Rights};
use crate::storage::outage::Outage;

/// How many entries a transaction copies.
const BATCH: usize = 64;
/// How long a read waits, and so how soon unfinished redrives are looked for.
const IDLE_WAIT: Duration = Duration::from_secs(2);
const TIMEOUT: Duration = Duration::from_mins(1);

/// Copies one shard's dead letters until told to stop.
pub(crate) async fn keep(
    database: Database,
    bus: Bus,
    shard: u32,
    name: String,
    stop: CancellationToken,
) {
    let stream = bus.names().dlq(shard);
    let mut consumer = bus.consumer(stream.clone(), GROUP_OPS, &name);
    let mut client: Option<(Client, Rights)> = None;
    let mut redis = Outage::new("redis");
    let mut postgres = Outage::new("postgres");
    while !stop.is_cancelled() {
        let Some(read) = stop
            .run_until_cancelled(consumer.read(BATCH, IDLE_WAIT))
            .await
        else {
            return;
        };
        let entries = match read {
            Ok(entries) => entries,
            Err(error) => {
                if !redis.wait(&error, &stop).await {
                    return;
                }
                continue;
            }
        };
        redis.over();

        // Until it is copied; the entries are ours and nobody else's.
        let copied = loop {
            let attempt = async {
                let (client, rights) = match client.take().filter(|open| !open.0.is_closed()) {
                    Some(open) => client.insert(open),
                    None => client.insert(database.connect_as_writer().await?),
                };
                let copied = copy(client, *rights, &stream, &entries).await?;
                // One of the shards' copiers is enough.
                if shard == 0 {
                    redrive::finish(client, &bus).await?;
                }
                Ok::<_, redrive::Trouble>(copied)
            };
            let Some(attempt) = stop.run_until_cancelled(attempt).await else {
                return;
            };
            match attempt {
                Ok(copied) => break copied,
                Err(redrive::Trouble::Redis(error)) => {
                    if !redis.wait(&error, &stop).await {
                        return;
                    }
                }
                Err(redrive::Trouble::Postgres(failure)) => {
                    client = None;
                    if !postgres.wait(&failure, &stop).await {
                        return;
                    }
                }
            }
        };
        postgres.over();
        if !copied.is_empty() {
            failpoint::reach("after_dlq_commit");
        }
        while let Err(error) = consumer.ack(&copied).await {
            if !redis.wait(&error, &stop).await {
                return;
            }
        }
        redis.over();
    }
}

/// Copies entries; returns the ids of those that need not be kept in Redis any longer.
async fn copy(
    client: &mut Client,
    rights: Rights,
    stream: &str,
    entries: &[Entry],
) -> Result<Vec<String>, Failure> {
    // A pending entry that was trimmed away has nothing to copy.
    let letters: Vec<(&str, Letter)> = entries
        .iter()
        .filter(|entry| !entry.fields.is_empty())
        .map(|entry| (entry.id.as_str(), Letter::read(stream, entry)))
        .collect();
    let mut done: Vec<String> = entries
        .iter()
        .filter(|entry| entry.fields.is_empty())
        .map(|entry| {
            tracing::error!(%stream, entry = %entry.id, "a dead letter was trimmed before it was copied");
            entry.id.clone()
        })
        .collect();
    match insert(client, rights, &letters).await {
        Ok(()) => done.extend(letters.iter().map(|(id, _)| (*id).to_owned())),
        Err(failure) if failure.is_bad_data() => {
            for letter in letters {
                match insert(client, rights, std::slice::from_ref(&letter)).await {
                    Ok(()) => done.push(letter.0.to_owned()),
                    // It stays in Redis, pending, where it can be looked at.
                    Err(failure) if failure.is_bad_data() => {
                        tracing::error!(%stream, entry = %letter.0, error = %failure, "a dead letter cannot be stored");
                    }
                    Err(failure) => return Err(failure),
                }
            }
        }
        Err(failure) => return Err(failure),
    }
    Ok(done)
}

async fn insert(
    client: &mut Client,
    rights: Rights,
    letters: &[(&str, Letter)],
) -> Result<(), Failure> {
    if letters.is_empty() {
        return Ok(());
    }
    let inserting = async {
        let transaction = client.transaction().await?;
        transaction.batch_execute(rights.begin()).await?;
        let letters: Vec<&Letter> = letters.iter().map(|(_, letter)| letter).collect();
        let counted = insert_in(&transaction, &letters).await?;
        transaction.commit().await?;
        for letter in counted {
            counter!(DEAD_LETTERS, "stage" => stage_label(&letter.stage)).increment(1);
            tracing::warn!(
                stage = %letter.stage, reason = %letter.reason, stream_id = letter.stream_id, seq_no = letter.seq_no,
                error = %letter.error, "a dead letter"
            );
        }
        Ok(())
    };
    match tokio::time::timeout(TIMEOUT, inserting).await {
        Ok(inserted) => inserted,
        Err(_) => Err(Failure::Timeout(TIMEOUT)),
    }
}

/// Adds letters, or the failure more to those that are known; returns those that were news.
pub(crate) async fn insert_in<'a>(
    transaction: &Transaction<'_>,
    letters: &[&'a Letter],
) -> Result<Vec<&'a Letter>, tokio_postgres::Error> {
    let mut counted = Vec::new();
    for &letter in letters {
        let parameters: [(&(dyn ToSql + Sync), Type); 13] = [
            (&letter.key.as_slice(), Type::BYTEA),
            (&letter.stage, Type::TEXT),
            (&letter.reason, Type::TEXT),
            (&letter.error, Type::TEXT),
            (&letter.payload, Type::TEXT),
            (&letter.redacted, Type::BOOL),
            (&letter.stream_id, Type::TEXT),
            (&letter.seq_no, Type::INT8),
            (&letter.session_id, Type::UUID),
            (
                &letter.target.map(super::letter::Target::as_str),
                Type::TEXT,
            ),
            (&letter.failed_at, Type::TIMESTAMPTZ),
            (&letter.entry, Type::TEXT),
            (&letter.added_ms, Type::INT8),
        ];
        let changed = transaction
            .execute_typed(
                // What failed again after it was put back is open again; a second copy of the
                // failure before that is not. Both times are in the ids, by Redis' clock.
                "INSERT INTO dead_letters AS known
                    (letter_key, stage, reason, error, payload, redacted, stream_id, seq_no, session_id, target,
                        first_failed_at, failed_at, entries)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11, ARRAY[$12])
                 ON CONFLICT (letter_key) DO UPDATE SET
                    reason = CASE WHEN excluded.failed_at >= known.failed_at THEN excluded.reason ELSE known.reason END,
                    error = CASE WHEN excluded.failed_at >= known.failed_at THEN excluded.error ELSE known.error END,
                    attempts = known.attempts + 1,
                    first_failed_at = least(known.first_failed_at, excluded.first_failed_at),
                    failed_at = greatest(known.failed_at, excluded.failed_at),
                    entries = known.entries || excluded.entries,
                    state = CASE WHEN known.state = 'redriven' AND $13 <
                            split_part(split_part(known.redriven_entry, '/', 2), '-', 1)::bigint
                        THEN known.state ELSE 'open' END
                 WHERE NOT known.entries @> excluded.entries",
                &parameters,
            )
            .await?;
        if changed > 0 {
            counted.push(letter);
        }
    }
    Ok(counted)
}

/// A label has few values, whatever an entry says.
fn stage_label(stage: &str) -> &'static str {
    ["ingest", "normalizer", "storage", "forwarder", "actions"]
        .into_iter()
        .find(|known| *known == stage)
        .unwrap_or("other")
}
