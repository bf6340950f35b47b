//! What the forwarder keeps in Postgres: what became of each event, and what waits to be sent later.
//!
//! In: outcomes, in batches. Out: rows of `forward_log`, `dead_letters` and `forward_gaps`, committed
//! before the entries are acknowledged. What is written twice after a crash or a lost reply changes
//! nothing: an outcome is known by its moment, `forwarded` stays. Outage: every call waits and tries
//! again for ever, until it is told to stop.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use metrics::counter;
use shared::identity::EventId;
use shared::streams::dlq;
use tokio::sync::Mutex;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Transaction};
use tokio_util::sync::CancellationToken;

use super::STAGE;
use super::item::{Item, Origin};
use crate::bus::trim::Lost;
use crate::bus::{Bus, Entry};
use crate::erasure::REASON;
use crate::metrics::DEAD_LETTERS;
use crate::outage::Outage;
use crate::storage::database::{Database, Failure, Rights, timed};
use crate::storage::dead_letters::{insert_in, letter};

/// The dead letters that are redriven by themselves.
pub(super) const UNREACHABLE: &str = "FORWARD_UNREACHABLE";
/// How many dead letters of a room are looked at at a time.
const LETTERS: i64 = 16;
/// After so long without an answer the connection is given up.
const TIMEOUT: Duration = Duration::from_secs(40);
/// As in the storage writer: durable before it is acknowledged.
const LIMITS: &str = "SET LOCAL statement_timeout = '30s'; SET LOCAL lock_timeout = '10s'; \
    SELECT set_config('synchronous_commit', 'on', true) \
    WHERE current_setting('synchronous_commit') IN ('off', 'local')";

/// What became of an item.
pub(super) struct Settled {
    pub(super) item: Item,
    pub(super) outcome: Outcome,
    /// When; with the event it names this outcome.
    pub(super) at: jiff::Timestamp,
    /// The dead letter's entry, once it is written.
    pub(super) letter: Option<Entry>,
}

/// The end of an item, for now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The destination has it.
    Forwarded,
    /// It is of a viewer who was erased, and was dropped.
    Erased,
    /// It is among the dead letters.
    Dead {
        /// The category.
        reason: &'static str,
        /// What was wrong.
        error: String,
    },
}

/// A connection for one kind of work, made again whenever it broke.
pub(super) struct Ledger {
    database: Database,
    client: Mutex<Option<(Client, Rights)>>,
}

impl Ledger {
    pub(super) fn new(database: Database) -> Self {
        Self {
            database,
            client: Mutex::new(None),
        }
    }

    /// What is known of events: their state and the entry that it is about. `None` to stop.
    pub(super) async fn known(
        &self,
        ids: &[EventId],
        stop: &CancellationToken,
    ) -> Option<HashMap<EventId, (String, String)>> {
        if ids.is_empty() {
            return Some(HashMap::new());
        }
        let ids: Vec<&[u8]> = ids.iter().map(|id| id.as_bytes().as_slice()).collect();
        let mut outage = Outage::new("postgres");
        loop {
            let asking = async {
                let (mut open, mut held) = self.open().await?;
                let rows = read(
                    &mut open,
                    "SELECT event_id, state, entry FROM forward_log WHERE event_id = ANY($1)",
                    &[(&ids, Type::BYTEA_ARRAY)],
                )
                .await?;
                *held = Some(open);
                Ok(rows)
            };
            if let Some(rows) = patient(asking, &mut outage, stop).await? {
                let known = rows.iter().filter_map(|row| {
                    let id: [u8; 32] = row.get::<_, Vec<u8>>(0).try_into().ok()?;
                    Some((EventId::from_bytes(id), (row.get(1), row.get(2))))
                });
                return Some(known.collect());
            }
        }
    }

    /// The rooms that have dead letters to be redriven.
    pub(super) async fn rooms(&self, stop: &CancellationToken) -> Option<Vec<String>> {
        let mut outage = Outage::new("postgres");
        loop {
            let asking = async {
                let (mut open, mut held) = self.open().await?;
                let rows = read(
                    &mut open,
                    "SELECT DISTINCT stream_id FROM dead_letters
                    WHERE state = 'open' AND stage = $1 AND reason = $2 AND stream_id IS NOT NULL",
                    &[(&STAGE, Type::TEXT), (&UNREACHABLE, Type::TEXT)],
                )
                .await?;
                *held = Some(open);
                Ok(rows)
            };
            if let Some(rows) = patient(asking, &mut outage, stop).await? {
                return Some(rows.iter().map(|row| row.get(0)).collect());
            }
        }
    }

    /// The first dead letters of a room, in its order: number and payload.
    pub(super) async fn letters(
        &self,
        room: &str,
        stop: &CancellationToken,
    ) -> Option<Vec<(i64, String)>> {
        let mut outage = Outage::new("postgres");
        loop {
            let asking = async {
                let (mut open, mut held) = self.open().await?;
                let rows = read(
                    &mut open,
                    "SELECT dead_letter_id, payload FROM dead_letters
                    WHERE stream_id = $3 AND state = 'open' AND stage = $1 AND reason = $2
                    ORDER BY seq_no, dead_letter_id LIMIT $4",
                    &[
                        (&STAGE, Type::TEXT),
                        (&UNREACHABLE, Type::TEXT),
                        (&room, Type::TEXT),
                        (&LETTERS, Type::INT8),
                    ],
                )
                .await?;
                *held = Some(open);
                Ok(rows)
            };
            if let Some(rows) = patient(asking, &mut outage, stop).await? {
                return Some(rows.iter().map(|row| (row.get(0), row.get(1))).collect());
            }
        }
    }

    /// Closes or changes a letter about whose event nothing is to be written: it was forwarded before,
    /// or cannot be read (`reason`).
    pub(super) async fn close(
        &self,
        letter: i64,
        reason: Option<&str>,
        stop: &CancellationToken,
    ) -> Option<()> {
        let mut outage = Outage::new("postgres");
        loop {
            let asking = async {
                let (mut open, mut held) = self.open().await?;
                let transaction = begin(&mut open).await?;
                match reason {
                    None => redriven(&transaction, &[letter]).await?,
                    Some(reason) => {
                        transaction
                            .execute_typed(
                                "UPDATE dead_letters SET reason = $2 WHERE dead_letter_id = $1",
                                &[(&letter, Type::INT8), (&reason, Type::TEXT)],
                            )
                            .await?;
                    }
                }
                transaction.commit().await?;
                *held = Some(open);
                Ok(())
            };
            if let Some(()) = patient(asking, &mut outage, stop).await? {
                return Some(());
            }
        }
    }

    /// Records outcomes in one transaction. The inner error is a refusal of the data.
    pub(super) async fn settle(
        &self,
        settled: &[Settled],
        bus: &Bus,
        origin: &str,
        stop: &CancellationToken,
    ) -> Option<Result<(), Failure>> {
        let mut outage = Outage::new("postgres");
        loop {
            let asking = async {
                let (mut open, mut held) = self.open().await?;
                let done = record(&mut open, settled, &bus.names().dlq(0), origin).await;
                match done {
                    Ok(()) => *held = Some(open),
                    Err(failure) if failure.is_bad_data() => return Ok(Err(failure)),
                    Err(failure) => return Err(failure),
                }
                Ok(Ok(()))
            };
            if let Some(done) = patient(asking, &mut outage, stop).await? {
                return Some(done);
            }
        }
    }

    /// Records what the group has lost unread since the last record; returns how much.
    pub(super) async fn lost(
        &self,
        stream: &str,
        lost: &Lost,
        stop: &CancellationToken,
    ) -> Option<u64> {
        let total = i64::try_from(lost.entries).unwrap_or(i64::MAX);
        let mut outage = Outage::new("postgres");
        loop {
            let asking = async {
                let (mut open, mut held) = self.open().await?;
                let transaction = begin(&mut open).await?;
                // Less than what was counted: the group was made again and counts from 0.
                let row = transaction.query_typed(
                    "WITH last AS (SELECT counted FROM forward_gaps WHERE stream = $1 AND kind = 'unread' ORDER BY gap_id DESC LIMIT 1),
                        news AS (SELECT $2 - coalesce((SELECT CASE WHEN counted > $2 THEN 0 ELSE counted END FROM last), 0) AS entries)
                     INSERT INTO forward_gaps AS known (stream, kind, entries, counted, from_entry, to_entry)
                     SELECT $1, 'unread', entries, $2, $3, $4 FROM news WHERE entries > 0
                     ON CONFLICT (stream, kind, from_entry, to_entry) DO NOTHING
                     RETURNING entries",
                    &[(&stream, Type::TEXT), (&total, Type::INT8), (&lost.last_read, Type::TEXT), (&lost.first, Type::TEXT)],
                ).await?;
                let news = row.first().map_or(0, |row| row.get::<_, i64>(0));
                transaction.commit().await?;
                *held = Some(open);
                Ok(news)
            };
            if let Some(news) = patient(asking, &mut outage, stop).await? {
                return Some(u64::try_from(news).unwrap_or(0));
            }
        }
    }

    /// Records an entry that was trimmed while it was ours.
    pub(super) async fn lost_pending(
        &self,
        stream: &str,
        id: &str,
        stop: &CancellationToken,
    ) -> Option<()> {
        let mut outage = Outage::new("postgres");
        loop {
            let asking = async {
                let (mut open, mut held) = self.open().await?;
                let transaction = begin(&mut open).await?;
                transaction.execute_typed(
                    "INSERT INTO forward_gaps (stream, kind, entries, counted, from_entry, to_entry)
                     VALUES ($1, 'pending', 1, 0, $2, $2)
                     ON CONFLICT (stream, kind, from_entry, to_entry) DO NOTHING",
                    &[(&stream, Type::TEXT), (&id, Type::TEXT)],
                ).await?;
                transaction.commit().await?;
                *held = Some(open);
                Ok(())
            };
            if let Some(()) = patient(asking, &mut outage, stop).await? {
                return Some(());
            }
        }
    }

    /// The connection, taken out of its place: whoever succeeds puts it back.
    async fn open(
        &self,
    ) -> Result<
        (
            (Client, Rights),
            tokio::sync::MutexGuard<'_, Option<(Client, Rights)>>,
        ),
        Failure,
    > {
        let mut held = self.client.lock().await;
        let open = match held.take().filter(|open| !open.0.is_closed()) {
            Some(open) => open,
            None => self.database.connect_as_writer().await?,
        };
        Ok((open, held))
    }
}

/// One attempt: `Some(Some(…))` when it succeeded, `Some(None)` to try again, `None` to stop.
async fn patient<T>(
    asking: impl Future<Output = Result<T, Failure>>,
    outage: &mut Outage,
    stop: &CancellationToken,
) -> Option<Option<T>> {
    let asked = tokio::time::timeout(TIMEOUT, timed("forward", asking));
    let failure = match stop.run_until_cancelled(asked).await? {
        Ok(Ok(answer)) => {
            outage.over();
            return Some(Some(answer));
        }
        Ok(Err(failure)) => failure,
        Err(_) => Failure::Timeout(TIMEOUT),
    };
    outage.wait(&failure, stop).await.then_some(None)
}

async fn begin(open: &mut (Client, Rights)) -> Result<Transaction<'_>, Failure> {
    let (client, rights) = open;
    let transaction = client.transaction().await?;
    transaction
        .batch_execute(&format!("{LIMITS}; {}", rights.begin()))
        .await?;
    Ok(transaction)
}

async fn read(
    open: &mut (Client, Rights),
    sql: &str,
    parameters: &[(&(dyn ToSql + Sync), Type)],
) -> Result<Vec<tokio_postgres::Row>, Failure> {
    let transaction = begin(open).await?;
    let rows = transaction.query_typed(sql, parameters).await?;
    transaction.commit().await?;
    Ok(rows)
}

async fn redriven(
    transaction: &Transaction<'_>,
    letters: &[i64],
) -> Result<(), tokio_postgres::Error> {
    transaction
        .execute_typed(
            "UPDATE dead_letters SET state = 'redriven', redriving_at = now(), redriven_at = now(),
                redriven_by = $2, redriven_entry = NULL, redrives = redrives + 1
             WHERE dead_letter_id = ANY($1) AND state <> 'redriven'",
            &[(&letters, Type::INT8_ARRAY), (&STAGE, Type::TEXT)],
        )
        .await?;
    Ok(())
}

/// In one transaction; one that fails is rolled back when it is dropped.
async fn record(
    open: &mut (Client, Rights),
    settled: &[Settled],
    dlq: &str,
    origin: &str,
) -> Result<(), Failure> {
    let transaction = begin(open).await?;
    let letters = write(&transaction, settled, dlq, origin).await?;
    transaction.commit().await?;
    counter!(DEAD_LETTERS, "stage" => STAGE).increment(letters);
    Ok(())
}

/// Returns how many dead letters are news.
async fn write(
    transaction: &Transaction<'_>,
    settled: &[Settled],
    dlq: &str,
    origin: &str,
) -> Result<u64, tokio_postgres::Error> {
    // A statement may not change a row twice: an event that is here twice begins another one.
    let mut from = 0;
    let mut seen = HashSet::new();
    for (place, one) in settled.iter().enumerate() {
        let Some(head) = &one.item.head else { continue };
        if !seen.insert(head.event_id) {
            log(transaction, &settled[from..place], origin).await?;
            from = place;
            seen = HashSet::from([head.event_id]);
        }
    }
    log(transaction, &settled[from..], origin).await?;

    let letters: Vec<letter::Letter> = settled
        .iter()
        .filter_map(|one| one.letter.as_ref())
        .map(|entry| letter::Letter::read(dlq, entry))
        .collect();
    let news = insert_in(transaction, &letters.iter().collect::<Vec<_>>()).await?;
    let news = u64::try_from(news.len()).unwrap_or(u64::MAX);
    let mut sent = Vec::new();
    for one in settled {
        match (&one.item.origin, &one.outcome) {
            (Origin::Letter(id), Outcome::Forwarded) => sent.push(*id),
            (Origin::Letter(id), Outcome::Dead { reason, error }) => {
                transaction
                    .execute_typed(
                        "UPDATE dead_letters SET reason = $2, error = $3, attempts = attempts + 1, failed_at = $4
                         WHERE dead_letter_id = $1 AND failed_at < $4",
                        &[(id, Type::INT8), (reason, Type::TEXT), (error, Type::TEXT), (&one.at, Type::TIMESTAMPTZ)],
                    )
                    .await?;
            }
            // Its letter is removed by the erasure; until then it is none that is sent again.
            (Origin::Letter(id), Outcome::Erased) => {
                transaction
                    .execute_typed(
                        "UPDATE dead_letters SET reason = $2 WHERE dead_letter_id = $1",
                        &[(id, Type::INT8), (&REASON, Type::TEXT)],
                    )
                    .await?;
            }
            (Origin::Entry(_), _) => {}
        }
    }
    if !sent.is_empty() {
        redriven(transaction, &sent).await?;
    }
    Ok(news)
}

/// Rows of `forward_log`. An entry without a readable event has none.
async fn log(
    transaction: &Transaction<'_>,
    settled: &[Settled],
    origin: &str,
) -> Result<(), tokio_postgres::Error> {
    let rows: Vec<_> = settled
        .iter()
        .filter_map(|one| Some((one, one.item.head.as_ref()?)))
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    macro_rules! column {
        (|$one:ident, $head:ident| $value:expr) => {
            &rows.iter().map(|($one, $head)| $value).collect::<Vec<_>>()
        };
    }
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    transaction
        .execute_typed(
            "INSERT INTO forward_log AS known (event_id, stream_id, seq_no, session_id, event_type, state, reason, attempts,
                status, idempotency_key, destination, entry, queued_at, first_attempt_at, request_ms, settled_at)
             SELECT event_id, stream_id, seq_no, session_id, event_type, CASE WHEN reason IS NULL THEN 'forwarded'
                    WHEN reason IN ('FORWARD_REJECTED', 'erased') THEN 'rejected' ELSE 'dead_lettered' END, reason, attempts,
                status, idempotency_key, $15, entry, queued_at, first_attempt_at, request_ms, settled_at
             FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
                AS new (event_id, stream_id, seq_no, session_id, event_type, reason, attempts, status, idempotency_key,
                    entry, queued_at, first_attempt_at, request_ms, settled_at)
             ON CONFLICT (event_id) DO UPDATE SET
                state = excluded.state, reason = excluded.reason, attempts = known.attempts + excluded.attempts,
                status = excluded.status, idempotency_key = excluded.idempotency_key, destination = excluded.destination,
                entry = excluded.entry, first_attempt_at = coalesce(known.first_attempt_at, excluded.first_attempt_at),
                request_ms = excluded.request_ms, settled_at = excluded.settled_at
             WHERE known.state <> 'forwarded' AND known.settled_at <> excluded.settled_at",
            &[
                (column!(|_one, head| head.event_id.as_bytes().as_slice()), Type::BYTEA_ARRAY),
                (column!(|_one, head| head.stream_id.as_str()), Type::TEXT_ARRAY),
                (column!(|_one, head| number(head.seq_no)), Type::INT8_ARRAY),
                (column!(|_one, head| head.session_id), Type::UUID_ARRAY),
                (column!(|_one, head| head.event_type.as_str()), Type::TEXT_ARRAY),
                (column!(|one, _head| match &one.outcome {
                    Outcome::Forwarded => None,
                    Outcome::Erased => Some(REASON),
                    Outcome::Dead { reason, .. } => Some(*reason),
                }), Type::TEXT_ARRAY),
                (column!(|one, _head| i32::try_from(one.item.attempts).unwrap_or(i32::MAX)), Type::INT4_ARRAY),
                (column!(|one, _head| one.item.status.map(i32::from)), Type::INT4_ARRAY),
                (column!(|one, _head| one.item.key.as_deref()), Type::TEXT_ARRAY),
                (column!(|one, _head| one.item.entry.as_str()), Type::TEXT_ARRAY),
                (column!(|one, _head| one.item.queued), Type::TIMESTAMPTZ_ARRAY),
                (column!(|one, _head| one.item.first.map(|first| first.1)), Type::TIMESTAMPTZ_ARRAY),
                (column!(|one, _head| one.item.took.map(|took| i32::try_from(took.as_millis()).unwrap_or(i32::MAX))),
                    Type::INT4_ARRAY),
                (column!(|one, _head| one.at), Type::TIMESTAMPTZ_ARRAY),
                (&origin, Type::TEXT),
            ],
        )
        .await?;
    Ok(())
}

/// The entry of `ttlc:dlq` that a letter becomes, as the copy of it will read it.
pub(super) fn as_entry(id: String, letter: &crate::bus::DeadLetter) -> Entry {
    let fields = [
        (dlq::STAGE, letter.stage.to_owned()),
        (dlq::REASON, letter.reason.to_owned()),
        (dlq::ERROR, letter.error.clone()),
        (dlq::PAYLOAD, letter.payload.clone()),
        (dlq::FAILED_AT, letter.failed_at.to_string()),
    ];
    Entry {
        id,
        fields: fields
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
        deliveries: 0,
    }
}
