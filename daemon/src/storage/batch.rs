//! One transaction: the events of a batch and everything that follows from them.
//!
//! Rows that are stored already are skipped by the key (`event_id`, `part_day`), and only rows
//! really inserted count for the other tables. So a batch may come twice, in parts, or mixed with
//! another one: the tables end up the same. On any error nothing of the batch is stored.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use shared::raw::Source;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Transaction};

use super::database::{Failure, Rights};
use super::gaps::Gaps;
use super::rooms::Rooms;
use super::row::Row;
use super::statistics::Statistics;
use super::users::Users;
use crate::failpoint;

/// After so long without an answer the connection is given up. Longer than what the server
/// allows each statement, so that normally the server's reason is seen.
const TIMEOUT: Duration = Duration::from_mins(1);
/// The limits are set inside the transaction: a pooler would lose those of a session. Durability
/// is asked for by name, since entries are acknowledged after the commit; a server that is set to
/// more than `on` keeps it. A writer that is frozen in the middle of its transaction is cut off
/// before the others give up on the rows that it holds.
const LIMITS: &str = "SET LOCAL statement_timeout = '30s'; SET LOCAL lock_timeout = '10s'; \
    SET LOCAL idle_in_transaction_session_timeout = '5s'; \
    SELECT set_config('synchronous_commit', 'on', true) \
    WHERE current_setting('synchronous_commit') IN ('off', 'local')";

/// What became of a batch.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Stored {
    /// New rows.
    pub(super) inserted: usize,
    /// Rows that were there already, or came twice in the batch.
    pub(super) duplicates: usize,
    /// Rows shown by a replay: they are stored as part of the original session.
    pub(super) replayed: usize,
    /// New rows of a day that has no partition.
    pub(super) in_default: usize,
    /// Places in the batch of rows whose id belongs to another message.
    pub(super) collisions: Vec<usize>,
}

/// Stores `rows` in one transaction.
pub(super) async fn store(
    client: &mut Client,
    rights: Rights,
    rows: &[Row<'_>],
) -> Result<Stored, Failure> {
    match tokio::time::timeout(TIMEOUT, transact(client, rights, rows)).await {
        Ok(stored) => Ok(stored?),
        Err(_) => Err(Failure::Timeout(TIMEOUT)),
    }
}

async fn transact(
    client: &mut Client,
    rights: Rights,
    rows: &[Row<'_>],
) -> Result<Stored, tokio_postgres::Error> {
    let mut stored = Stored::default();

    // A replay shows events of the past; they are stored, and storing changes nothing. Not even
    // trying keeps that true when the original has been pruned or erased since.
    let mut fresh: HashMap<_, usize> = HashMap::with_capacity(rows.len());
    let mut live = Vec::with_capacity(rows.len());
    for (place, row) in rows.iter().enumerate() {
        if row.source == Source::Replay {
            stored.replayed += 1;
            continue;
        }
        match fresh.entry((row.event_id, row.part_day)) {
            Entry::Vacant(free) => {
                free.insert(place);
                live.push(place);
            }
            Entry::Occupied(first) => {
                if rows[*first.get()].raw_hash == row.raw_hash {
                    stored.duplicates += 1;
                } else {
                    stored.collisions.push(place);
                }
            }
        }
    }

    // One order for all writers: two that insert the same events never wait for each other in a
    // circle. This order also keeps a room's events together.
    live.sort_unstable_by(|&a, &b| {
        let (a, b) = (&rows[a], &rows[b]);
        (&a.stream_id, a.seq_no, a.event_id).cmp(&(&b.stream_id, b.seq_no, b.event_id))
    });

    let transaction = client.transaction().await?;
    transaction
        .batch_execute(&format!("{LIMITS}; {}", rights.begin()))
        .await?;

    let mut rooms = Rooms::default();
    let mut users = Users::default();
    let mut statistics = Statistics::default();
    let mut gaps = Gaps::default();
    for row in rows.iter().filter(|row| row.source == Source::Replay) {
        rooms.note_replay(row);
    }
    if !live.is_empty() {
        let inserted = insert(&transaction, rows, &live, &mut stored).await?;
        let mut known = Vec::new();
        for &place in &live {
            let row = &rows[place];
            if inserted.contains(row.event_id.as_bytes().as_slice()) {
                stored.inserted += 1;
                rooms.note(row);
                users.note(row);
                statistics.note(row);
                gaps.note(row);
            } else {
                known.push(place);
            }
        }
        if !known.is_empty() {
            compare(&transaction, rows, &known, &mut stored).await?;
        }
    }
    rooms.apply(&transaction).await?;
    users.apply(&transaction).await?;
    statistics.apply(&transaction).await?;
    gaps.apply(&transaction).await?;
    failpoint::reach("before_commit");
    transaction.commit().await?;
    Ok(stored)
}

/// Inserts the rows at `live`; returns the ids of those that were not there.
async fn insert(
    transaction: &Transaction<'_>,
    rows: &[Row<'_>],
    live: &[usize],
    stored: &mut Stored,
) -> Result<HashSet<Vec<u8>>, tokio_postgres::Error> {
    fn column<'a, T>(
        rows: &'a [Row<'a>],
        live: &[usize],
        value: impl Fn(&'a Row<'a>) -> T,
    ) -> Vec<T> {
        live.iter().map(|&place| value(&rows[place])).collect()
    }
    let parameters: [(&(dyn ToSql + Sync), Type); 14] = [
        (
            &column(rows, live, |row| row.event_id.as_bytes().as_slice()),
            Type::BYTEA_ARRAY,
        ),
        (&column(rows, live, |row| row.part_day), Type::DATE_ARRAY),
        (
            &column(rows, live, |row| row.stream_id.as_ref()),
            Type::TEXT_ARRAY,
        ),
        (&column(rows, live, |row| row.session_id), Type::UUID_ARRAY),
        (&column(rows, live, |row| row.seq_no), Type::INT8_ARRAY),
        (
            &column(rows, live, |row| row.event_type.as_ref()),
            Type::TEXT_ARRAY,
        ),
        (
            &column(rows, live, |row| row.source.as_str()),
            Type::TEXT_ARRAY,
        ),
        (
            &column(rows, live, |row| row.occurred_at),
            Type::TIMESTAMPTZ_ARRAY,
        ),
        (
            &column(rows, live, |row| row.ingested_at),
            Type::TIMESTAMPTZ_ARRAY,
        ),
        (
            &column(rows, live, |row| {
                row.user.as_ref().map(|user| user.user_id.as_ref())
            }),
            Type::TEXT_ARRAY,
        ),
        (&column(rows, live, |row| row.event), Type::TEXT_ARRAY),
        (
            &column(rows, live, |row| row.raw.as_ref()),
            Type::BYTEA_ARRAY,
        ),
        (&column(rows, live, |row| row.raw_format), Type::TEXT_ARRAY),
        (
            &column(rows, live, |row| row.raw_hash.as_slice()),
            Type::BYTEA_ARRAY,
        ),
    ];
    let inserted = transaction
        .query_typed(
            "INSERT INTO events (event_id, part_day, stream_id, session_id, seq_no, event_type, source,
                occurred_at, ingested_at, user_id, event, raw, raw_format, raw_hash)
             SELECT event_id, part_day, stream_id, session_id, seq_no, event_type, source,
                occurred_at, ingested_at, user_id, event::jsonb, raw, raw_format, raw_hash
             FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
                AS new (event_id, part_day, stream_id, session_id, seq_no, event_type, source,
                    occurred_at, ingested_at, user_id, event, raw, raw_format, raw_hash)
             ON CONFLICT (event_id, part_day) DO NOTHING
             RETURNING event_id, tableoid = 'events_default'::regclass",
            &parameters,
        )
        .await?;
    stored.in_default = inserted.iter().filter(|row| row.get(1)).count();
    Ok(inserted.iter().map(|row| row.get(0)).collect())
}

/// Tells repeats from other messages with the same id among the rows at `known`.
async fn compare(
    transaction: &Transaction<'_>,
    rows: &[Row<'_>],
    known: &[usize],
    stored: &mut Stored,
) -> Result<(), tokio_postgres::Error> {
    let ids: Vec<&[u8]> = known
        .iter()
        .map(|&place| rows[place].event_id.as_bytes().as_slice())
        .collect();
    let days: Vec<_> = known.iter().map(|&place| rows[place].part_day).collect();
    let hashes: HashMap<Vec<u8>, Vec<u8>> = transaction
        .query_typed(
            "SELECT event_id, raw_hash FROM events
             JOIN unnest($1, $2) AS known (event_id, part_day) USING (event_id, part_day)",
            &[(&ids, Type::BYTEA_ARRAY), (&days, Type::DATE_ARRAY)],
        )
        .await?
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    for &place in known {
        let row = &rows[place];
        match hashes.get(row.event_id.as_bytes().as_slice()) {
            Some(hash) if hash != &row.raw_hash => stored.collisions.push(place),
            // Gone again means that it is as old as the retention: a repeat as well.
            _ => stored.duplicates += 1,
        }
    }
    Ok(())
}
