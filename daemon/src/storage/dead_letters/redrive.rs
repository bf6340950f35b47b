//! Puts a dead letter back, once.
//!
//! Three steps: the row is claimed (`redriving`, with a number that rises); the entry is added to
//! its stream, once per claim, by a mark in Redis; the row says so (`redriven`). Two who claim at
//! once: one wins, the other is told. Whoever dies in between leaves a claim; [`finish`] takes the
//! second and third step again, and the mark makes that the same as the first time.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use super::letter::{Place, Target, fields, names_erased};
use crate::bus::Bus;
use crate::erasure::Tombstones;
use crate::storage::database::Failure;
use crate::storage::erasure::list;

/// A claim that is older has been left by somebody who died.
const ABANDONED_SECONDS: f64 = 5.0;
/// How many abandoned claims are finished at a time.
const BATCH: i64 = 100;

/// What stands in the way; both mean to try again later.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error(transparent)]
    Postgres(#[from] Failure),
    #[error(transparent)]
    Redis(#[from] crate::bus::Error),
}

impl From<tokio_postgres::Error> for Trouble {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Postgres(error.into())
    }
}

/// What became of the wish to put a letter back.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is the entry `stream/id` now.
    Done(String),
    /// It was put back before, and has not failed since.
    Already {
        by: String,
        entry: Option<String>,
        at: Option<jiff::Timestamp>,
    },
    /// It holds something of a viewer who was erased, and stays where it is until it is removed.
    Erased,
    /// It has no stream to go back to.
    NoEntry,
    /// There is no such letter.
    Unknown,
}

/// Puts the letter `id` back in the name of `by`.
pub(super) async fn redrive(
    client: &Client,
    bus: &Bus,
    id: i64,
    by: &str,
) -> Result<Outcome, Trouble> {
    if is_erased(client, id).await? {
        return Ok(Outcome::Erased);
    }
    let claimed = client
        .query_typed(
            "UPDATE dead_letters
             SET state = 'redriving', redriving_at = now(), redriven_by = $2, redrives = redrives + 1
             WHERE dead_letter_id = $1 AND state = 'open' AND target IS NOT NULL
             RETURNING dead_letter_id, letter_key, redrives, target, payload",
            &[(&id, Type::INT8), (&by, Type::TEXT)],
        )
        .await?;
    if let Some(row) = claimed.first() {
        return deliver(client, bus, row).await;
    }
    let known = client
        .query_typed(
            "SELECT state, redriven_by, redriven_entry, redriven_at FROM dead_letters WHERE dead_letter_id = $1",
            &[(&id, Type::INT8)],
        )
        .await?;
    Ok(match known.first() {
        None => Outcome::Unknown,
        Some(row) if row.get::<_, &str>(0) == "open" => Outcome::NoEntry,
        Some(row) => Outcome::Already {
            by: row.get::<_, Option<String>>(1).unwrap_or_default(),
            entry: row.get(2),
            at: row.get(3),
        },
    })
}

/// Whether a letter holds something of a viewer who was erased: as in a database that was restored
/// from an older copy. The stages would drop it as well.
async fn is_erased(client: &Client, id: i64) -> Result<bool, Failure> {
    let (version, list) = list(client).await?;
    let rows = client
        .query_typed(
            "SELECT payload, failed_at FROM dead_letters WHERE dead_letter_id = $1",
            &[(&id, Type::INT8)],
        )
        .await?;
    let erased = Tombstones::new(version, &list);
    Ok(rows.first().is_some_and(|row| {
        let failed_at: jiff::Timestamp = row.get(1);
        names_erased(row.get(0), failed_at.as_millisecond(), &erased)
    }))
}

/// Finishes what was claimed and not put back, in the order of the letters.
pub(super) async fn finish(client: &Client, bus: &Bus) -> Result<(), Trouble> {
    let abandoned = client
        .query_typed(
            "SELECT dead_letter_id, letter_key, redrives, target, payload FROM dead_letters
             WHERE state = 'redriving' AND redriving_at < now() - make_interval(secs => $1)
             ORDER BY dead_letter_id LIMIT $2",
            &[(&ABANDONED_SECONDS, Type::FLOAT8), (&BATCH, Type::INT8)],
        )
        .await?;
    for row in &abandoned {
        let id: i64 = row.get(0);
        let outcome = deliver(client, bus, row).await?;
        tracing::info!(
            dead_letter = id,
            ?outcome,
            "an unfinished redrive is finished"
        );
    }
    Ok(())
}

/// The second and third step, for a row of `dead_letter_id, letter_key, redrives, target, payload`.
async fn deliver(client: &Client, bus: &Bus, row: &Row) -> Result<Outcome, Trouble> {
    let id: i64 = row.get(0);
    let key: Vec<u8> = row.get(1);
    let redrives: i32 = row.get(2);
    let entry = Target::from_name(row.get(3)).zip(fields(row.get(4)));
    let Some((target, fields)) = entry else {
        client
            .execute_typed(
                "UPDATE dead_letters SET state = 'open' WHERE dead_letter_id = $1 AND state = 'redriving'",
                &[(&id, Type::INT8)],
            )
            .await?;
        return Ok(Outcome::NoEntry);
    };
    let entry = add(bus, target, &key, redrives, &fields).await?;
    client
        .execute_typed(
            // It may have failed again by now and be open.
            "UPDATE dead_letters
             SET state = CASE WHEN state = 'redriving' THEN 'redriven' ELSE state END,
                redriven_at = now(), redriven_entry = $3
             WHERE dead_letter_id = $1 AND redrives = $2",
            &[
                (&id, Type::INT8),
                (&redrives, Type::INT4),
                (&entry, Type::TEXT),
            ],
        )
        .await?;
    Ok(Outcome::Done(entry))
}

/// Adds the entry, unless this claim has done it. Returns it as `stream/id`.
async fn add(
    bus: &Bus,
    target: Target,
    key: &[u8],
    redrives: i32,
    fields: &BTreeMap<String, String>,
) -> Result<String, crate::bus::Error> {
    let shard = Place::of(fields)
        .stream_id
        .map_or(0, |room| bus.names().shard_of(&room));
    let stream = target.stream(bus.names(), shard);
    let mark = format!("{}:{redrives}", URL_SAFE_NO_PAD.encode(key));
    let id = bus.redrive(&stream, shard, &mark, fields).await?;
    Ok(format!("{stream}/{id}"))
}
