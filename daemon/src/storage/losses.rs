//! Unknown loss made known: numbers that Redis lost before they were stored.
//!
//! In: the ranges of numbers that this process has stored, by room. Out: rows of `gaps` with reason
//! `trimmed`, for numbers inside a session that are neither events nor dead letters nor known gaps
//! and that nothing can bring any more. Entries are lost when a stream's fuse burns, when somebody
//! trims or wipes Redis, when it comes back with less than it had.
//!
//! A number that is late is not lost. A room is published in its order, so what is missing below a
//! stored number came before it in the stream, or never. A hole is recorded when, in this order:
//! it was seen; group `storage` has finished everything that the stream held then, so also what
//! other writers had and what was claimed from a dead one; group `ops` has copied every dead letter
//! written until then; and the hole is still there. In between [`PATIENCE`] passes, for what ingest
//! publishes again to a Redis that has lost it. What is stored after all stays beside its gap.
//!
//! - **Crash**: at start the sessions of the last day are looked at again.
//! - **Several processes** find the same hole, and one records it: the last look and the row are one
//!   step, one at a time for each room.
//! - **Outage**: tried again with the next round. Nothing here holds the writer up.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::counter;
use shared::raw::Source;
use shared::streams::{GROUP_OPS, GROUP_STORAGE};
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::types::Type;
use tokio_util::sync::CancellationToken;

use super::database::{Database, Failure, Kept};
use super::row::Row;
use crate::bus::trim::Mark;
use crate::bus::{self, Bus};
use crate::metrics::STORAGE_LOST;

/// Between two rounds.
const ROUND: Duration = Duration::from_secs(5);
/// How long a hole must have been there at least.
const PATIENCE: Duration = Duration::from_secs(10);
/// After so long a round is given up, and tried again.
const TIMEOUT: Duration = Duration::from_mins(1);
/// Inside a transaction, since a pooler would lose those of a session.
const LIMITS: &str = "SET LOCAL statement_timeout = '30s'; SET LOCAL lock_timeout = '10s'";

/// By room, the first and last number that was stored and not looked at.
type Ranges = BTreeMap<String, (i64, i64)>;

/// What a writer has stored, for [`Losses`] to look at.
#[derive(Clone, Default)]
pub(super) struct Seen(Arc<Mutex<Ranges>>);

impl Seen {
    /// Takes note of rows that are committed.
    pub(super) fn note(&self, rows: &[Row<'_>]) {
        let mut rooms = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for row in rows.iter().filter(|row| row.source == Source::Live) {
            match rooms.get_mut(row.stream_id.as_ref()) {
                Some((first, last)) => {
                    *first = row.seq_no.min(*first);
                    *last = row.seq_no.max(*last);
                }
                None => {
                    rooms.insert(row.stream_id.to_string(), (row.seq_no, row.seq_no));
                }
            }
        }
    }

    fn take(&self) -> Ranges {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What could not be looked at yet.
    fn put_back(&self, ranges: Ranges) {
        let mut rooms = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (room, (from, to)) in ranges {
            let (first, last) = rooms.entry(room).or_insert((from, to));
            *first = from.min(*first);
            *last = to.max(*last);
        }
    }
}

/// Numbers that are missing, and what must be finished before they are lost.
#[derive(Debug)]
struct Hole {
    stream_id: String,
    first: i64,
    last: i64,
    since: Instant,
    /// The end of the events when it was seen.
    events: Mark,
    /// The ends of the dead letters when the events were finished.
    letters: Option<Vec<(String, Mark)>>,
}

/// What stands in the way of a round.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Postgres(#[from] Failure),
    #[error(transparent)]
    Redis(#[from] bus::Error),
}

impl From<tokio_postgres::Error> for Trouble {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Postgres(error.into())
    }
}

/// Looks for losses in one shard.
pub(super) struct Losses {
    bus: Bus,
    shard: u32,
    seen: Seen,
    holes: Vec<Hole>,
    connection: Kept,
    begun: bool,
}

impl Losses {
    /// None are known.
    pub(super) fn new(database: Database, bus: Bus, shard: u32) -> Self {
        Self {
            connection: Kept::new(database),
            bus,
            shard,
            seen: Seen::default(),
            holes: Vec::new(),
            begun: false,
        }
    }

    /// Where a writer notes what it stores.
    pub(super) fn seen(&self) -> Seen {
        self.seen.clone()
    }

    /// Until told to stop.
    pub(super) async fn watch(mut self, stop: CancellationToken) {
        while stop.run_until_cancelled(sleep(ROUND)).await.is_some() {
            let round = timeout(TIMEOUT, self.round());
            let outcome = match stop.run_until_cancelled(round).await {
                None => return,
                Some(Ok(outcome)) => outcome,
                Some(Err(_)) => Err(Failure::Timeout(TIMEOUT).into()),
            };
            if let Err(trouble) = outcome {
                // The writer meets the same, and says so.
                tracing::debug!(shard = self.shard, error = %trouble, "cannot look for losses yet");
                self.connection.close();
            }
        }
    }

    async fn round(&mut self) -> Result<(), Trouble> {
        if !self.begun {
            let recent = self.recent().await?;
            self.seen.put_back(recent);
            self.begun = true;
        }
        let ranges = self.seen.take();
        if !ranges.is_empty() {
            // What is found twice is one hole.
            match self.look(&ranges).await {
                Ok(found) => self.add(found),
                Err(trouble) => {
                    self.seen.put_back(ranges);
                    return Err(trouble);
                }
            }
        }
        for hole in std::mem::take(&mut self.holes) {
            let (hole, settled) = match self.settle(hole).await {
                Ok(settled) => settled,
                Err((hole, trouble)) => {
                    self.holes.push(hole);
                    return Err(trouble);
                }
            };
            if !settled {
                self.holes.push(hole);
            }
        }
        Ok(())
    }

    fn add(&mut self, found: Vec<Hole>) {
        for hole in found {
            let known = self.holes.iter().any(|known| {
                known.stream_id == hole.stream_id
                    && known.first <= hole.first
                    && known.last >= hole.last
            });
            if !known {
                tracing::debug!(stream_id = %hole.stream_id, from_seq_no = hole.first, to_seq_no = hole.last,
                    "numbers are missing, perhaps only late");
                self.holes.push(hole);
            }
        }
    }

    /// What may not have been looked at before the last process ended.
    async fn recent(&mut self) -> Result<Ranges, Trouble> {
        let (names, shard) = (self.bus.names(), self.shard);
        let (client, rights) = self.connection.client().await?;
        let transaction = client.transaction().await?;
        transaction
            .batch_execute(&format!("{LIMITS}; {}", rights.begin()))
            .await?;
        let rows = transaction
            .query_typed(
                "SELECT stream_id, min(first_seq_no), max(last_seq_no) FROM sessions
                 WHERE source = 'live' AND started_at > now() - interval '7 days'
                    AND last_event_at > now() - interval '1 day'
                 GROUP BY 1",
                &[],
            )
            .await?;
        transaction.commit().await?;
        Ok(rows
            .iter()
            .map(|row| (row.get::<_, String>(0), (row.get(1), row.get(2))))
            .filter(|(room, _)| names.shard_of(room) == shard)
            .collect())
    }

    /// The holes in ranges, each with the place that the stream has reached by then.
    async fn look(&mut self, ranges: &Ranges) -> Result<Vec<Hole>, Trouble> {
        let mut found = Vec::new();
        let (client, rights) = self.connection.client().await?;
        for (room, (first, last)) in ranges {
            let transaction = client.transaction().await?;
            transaction
                .batch_execute(&format!("{LIMITS}; {}", rights.begin()))
                .await?;
            let rows = transaction
                .query_typed(
                    "SELECT from_seq_no, to_seq_no FROM unaccounted($1, $2, $3)",
                    &[(room, Type::TEXT), (first, Type::INT8), (last, Type::INT8)],
                )
                .await?;
            transaction.commit().await?;
            found.extend(
                rows.iter()
                    .map(|row| (room.clone(), row.get(0), row.get(1))),
            );
        }
        if found.is_empty() {
            return Ok(Vec::new());
        }
        // After the look: whatever is below the numbers that were seen is before this place.
        let events = self.bus.end(&self.bus.names().events(self.shard)).await?;
        let since = Instant::now();
        Ok(found
            .into_iter()
            .map(|(stream_id, first, last)| Hole {
                stream_id,
                first,
                last,
                since,
                events,
                letters: None,
            })
            .collect())
    }

    /// Goes on with a hole as far as it can; whether there is nothing more to do about it.
    async fn settle(&mut self, mut hole: Hole) -> Result<(Hole, bool), (Hole, Trouble)> {
        match self.advance(&mut hole).await {
            Ok(settled) => Ok((hole, settled)),
            Err(trouble) => Err((hole, trouble)),
        }
    }

    async fn advance(&mut self, hole: &mut Hole) -> Result<bool, Trouble> {
        if hole.since.elapsed() < PATIENCE {
            return Ok(false);
        }
        let names = self.bus.names();
        if hole.letters.is_none() {
            let events = names.events(self.shard);
            if !self
                .bus
                .is_past(&events, GROUP_STORAGE, hole.events)
                .await?
            {
                return Ok(false);
            }
            // The normalizer's are in the shard's stream, all others' in the first.
            let mut letters = Vec::new();
            for shard in if self.shard == 0 {
                vec![0]
            } else {
                vec![0, self.shard]
            } {
                let stream = names.dlq(shard);
                let end = self.bus.end(&stream).await?;
                letters.push((stream, end));
            }
            hole.letters = Some(letters);
        }
        for (stream, end) in hole.letters.iter().flatten() {
            if !self.bus.is_past(stream, GROUP_OPS, *end).await? {
                return Ok(false);
            }
        }
        let lost = self.record(hole).await?;
        if lost > 0 {
            counter!(STORAGE_LOST).increment(u64::try_from(lost).unwrap_or(0));
            tracing::error!(
                stream_id = %hole.stream_id, from_seq_no = hole.first, to_seq_no = hole.last,
                events = lost, reason = "trimmed",
                "redis lost events before they were stored"
            );
        }
        Ok(true)
    }

    /// Writes rows for what is still missing of a hole; returns how many numbers.
    async fn record(&mut self, hole: &Hole) -> Result<i64, Trouble> {
        let (client, rights) = self.connection.client().await?;
        let transaction = client.transaction().await?;
        transaction
            .batch_execute(&format!("{LIMITS}; {}", rights.begin()))
            .await?;
        let lost = transaction
            .query_typed_one(
                "SELECT record_trimmed($1, $2, $3)",
                &[
                    (&hole.stream_id, Type::TEXT),
                    (&hole.first, Type::INT8),
                    (&hole.last, Type::INT8),
                ],
            )
            .await?
            .get(0);
        transaction.commit().await?;
        Ok(lost)
    }
}
