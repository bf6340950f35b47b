//! One transaction: the events of a batch and everything that follows from them.
//!
//! Two ways lead into `events`. The short one takes the rows for new and copies them ([`copying`]);
//! it stores all or nothing. When Postgres refuses, the batch goes the careful way, and so do the
//! next ones: what is delivered again comes in a row. On the careful way rows that are stored already are skipped by the key (`event_id`, `part_day`), and only rows
//! really inserted count for the other tables, on either way. So a batch may come twice, in parts, or mixed with
//! another one: the tables end up the same. On any error nothing of the batch is stored.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use futures_util::future::{try_join, try_join3};
use jiff::civil::Date;
use shared::raw::Source;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Transaction};

use super::copying;
use super::database::{Failure, Rights, timed};
use super::erasure::{LOOK_AT_LIST, version};
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
    /// Rows that stand for a message of a viewer who was erased: gaps, and no events.
    pub(super) erased: usize,
    /// Nothing was stored: the list of erased viewers has changed since the rows were held against it.
    pub(super) stale: bool,
    /// Places in the batch of rows whose id belongs to another message.
    pub(super) collisions: Vec<usize>,
}

/// After a refusal so many batches go the careful way.
const CAREFUL: u32 = 20;

/// How the next batches are stored, as the last ones told.
#[derive(Debug)]
pub(super) struct Course {
    /// How many batches are still to go the careful way.
    careful: u32,
    /// Whether the statistics are kept. They always are, but where it is measured what they cost.
    statistics: bool,
}

impl Course {
    pub(super) fn new(statistics: bool) -> Self {
        Self {
            careful: 0,
            statistics,
        }
    }
}

/// How rows get into `events`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// All at once: they are taken for new.
    Short,
    /// Each for itself.
    Careful,
}

/// Stores `rows` in one transaction. They were held against the list of erased viewers up to its
/// change `erased`.
pub(super) async fn store(
    client: &mut Client,
    rights: Rights,
    rows: &[Row<'_>],
    erased: i64,
    course: &mut Course,
) -> Result<Stored, Failure> {
    if course.careful == 0 {
        match attempt(client, rights, rows, erased, course, Way::Short).await {
            // Something is stored already, or is bad, or the server copies into no such table.
            Err(failure) if failure.is_bad_data() || failure.is_unsupported() => {
                tracing::debug!(%failure, "a batch goes the careful way");
                course.careful = CAREFUL;
            }
            outcome => return outcome,
        }
    }
    let stored = attempt(client, rights, rows, erased, course, Way::Careful).await?;
    course.careful -= 1;
    if stored.duplicates + stored.collisions.len() > 0 {
        course.careful = CAREFUL;
    }
    Ok(stored)
}

async fn attempt(
    client: &mut Client,
    rights: Rights,
    rows: &[Row<'_>],
    erased: i64,
    course: &Course,
    way: Way,
) -> Result<Stored, Failure> {
    let storing = timed("store", transact(client, rights, rows, erased, course, way));
    match tokio::time::timeout(TIMEOUT, storing).await {
        Ok(stored) => stored,
        Err(_) => Err(Failure::Timeout(TIMEOUT)),
    }
}

async fn transact(
    client: &mut Client,
    rights: Rights,
    rows: &[Row<'_>],
    erased: i64,
    course: &Course,
    way: Way,
) -> Result<Stored, Failure> {
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
        if row.is_erased() {
            stored.erased += 1;
            continue;
        }
        match fresh.entry((row.event_id, row.part_day)) {
            Entry::Vacant(free) => {
                free.insert(place);
                live.push(place);
            }
            Entry::Occupied(first) => {
                if same(&rows[*first.get()], row) {
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
    let answer = transaction
        .simple_query(&format!("{LIMITS}; {}; {LOOK_AT_LIST}", rights.begin()))
        .await?;
    if version(&answer) != erased {
        stored = Stored {
            stale: true,
            ..Stored::default()
        };
        transaction.rollback().await?;
        return Ok(stored);
    }

    let mut rooms = Rooms::default();
    let mut users = Users::default();
    let mut statistics = Statistics::default();
    let mut gaps = Gaps::default();
    for row in rows.iter().filter(|row| row.source == Source::Replay) {
        rooms.note_replay(row);
    }
    for row in rows.iter().filter(|row| row.is_erased()) {
        rooms.note_erased(row);
        gaps.note(row);
    }
    if !live.is_empty() {
        let new = match way {
            Way::Short => copy(&transaction, rows, &live, &mut stored).await?,
            Way::Careful => insert(&transaction, rows, &live, &mut stored).await?,
        };
        for &place in &new {
            let row = &rows[place];
            rooms.note(row);
            users.note(row);
            if course.statistics {
                statistics.note(row);
            }
            gaps.note(row);
        }
        stored.inserted += new.len();
    }
    let rest = try_join3(
        users.apply(&transaction),
        statistics.apply(&transaction),
        gaps.apply(&transaction),
    );
    if rooms.is_turned() {
        rooms.apply(&transaction).await?;
        rest.await?;
    } else {
        // All statements are sent at once. Postgres does them one after the other, in this order.
        try_join(rooms.touch(&transaction), rest).await?;
    }
    failpoint::reach("before_commit");
    transaction.commit().await?;
    Ok(stored)
}

/// Whether two rows with one id are the same message.
fn same(one: &Row<'_>, other: &Row<'_>) -> bool {
    one.raw_hash == other.raw_hash || one.raw.is_none() || other.raw.is_none()
}

/// Copies the rows at `live`, all of which are new then; returns them.
async fn copy(
    transaction: &Transaction<'_>,
    rows: &[Row<'_>],
    live: &[usize],
    stored: &mut Stored,
) -> Result<Vec<usize>, Failure> {
    let days: BTreeSet<Date> = live.iter().map(|&place| rows[place].part_day).collect();
    let days: Vec<Date> = days.into_iter().collect();
    let parameters: [(&(dyn ToSql + Sync), Type); 1] = [(&days, Type::DATE_ARRAY)];
    let (without, count) = try_join(
        transaction.query_typed(
            "SELECT day FROM unnest($1) AS day WHERE to_regclass(to_char(day, '\"events_\"YYYY_MM_DD')) IS NULL",
            &parameters,
        ),
        copying::copy(transaction, live.iter().map(|&place| &rows[place])),
    )
    .await?;
    if count != live.len() as u64 {
        return Err(Failure::Miscounted);
    }
    let without: Vec<Date> = without.iter().map(|row| row.get(0)).collect();
    let in_default = |&&place: &&usize| without.contains(&rows[place].part_day);
    stored.in_default = live.iter().filter(in_default).count();
    Ok(live.to_vec())
}

/// Inserts the rows at `live` that are not there, and compares the others with what is; returns
/// those that were not there.
async fn insert(
    transaction: &Transaction<'_>,
    rows: &[Row<'_>],
    live: &[usize],
    stored: &mut Stored,
) -> Result<Vec<usize>, Failure> {
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
            &column(rows, live, |row| row.raw.as_deref()),
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
    let inserted: HashSet<&[u8]> = inserted.iter().map(|row| row.get(0)).collect();
    let is_new = |&place: &usize| inserted.contains(rows[place].event_id.as_bytes().as_slice());
    let (new, known): (Vec<usize>, Vec<usize>) = live.iter().partition(|place| is_new(place));
    if !known.is_empty() {
        compare(transaction, rows, &known, stored).await?;
    }
    Ok(new)
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
    let hashes: HashMap<Vec<u8>, (Vec<u8>, bool)> = transaction
        .query_typed(
            "SELECT event_id, raw_hash, raw IS NULL FROM events
             JOIN unnest($1, $2) AS known (event_id, part_day) USING (event_id, part_day)",
            &[(&ids, Type::BYTEA_ARRAY), (&days, Type::DATE_ARRAY)],
        )
        .await?
        .iter()
        .map(|row| (row.get(0), (row.get(1), row.get(2))))
        .collect();
    for &place in known {
        let row = &rows[place];
        match hashes.get(row.event_id.as_bytes().as_slice()) {
            // Of what was rewritten for an erasure, one may be as it came and the other not.
            Some((hash, false)) if row.raw.is_some() && hash != &row.raw_hash => {
                stored.collisions.push(place);
            }
            // Gone again means that it is as old as the retention: a repeat as well.
            _ => stored.duplicates += 1,
        }
    }
    Ok(())
}
