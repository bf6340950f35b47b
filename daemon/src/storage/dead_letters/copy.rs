//! Copies `ttlc:dlq` into `dead_letters`, and finishes what somebody began to put back.
//!
//! Several may copy: each has a slot and takes up what another left ([`Member`]). Every entry counts
//! once, by its id; it is acknowledged after the commit, and the trimmer drops what is acknowledged.
//! A letter that fails again after it was put back is open again.
//!
//! A dead letter has no dead letters to go to. One that Postgres refuses, or that has ended five
//! processes, is **parked**: its fields go to `ttlc:parked:{entry}` in Redis, untouched, and a row of
//! reason [`PARKED`] says where they are. It is retried by nobody, holds nothing up, and stays as
//! long as events do.

use std::sync::Arc;
use std::time::Duration;

use metrics::counter;
use tokio::time::timeout;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Transaction};
use tokio_util::sync::CancellationToken;

use super::letter::Letter;
use super::redrive;
use crate::bus::consumer::parts;
use crate::bus::{Bus, Entry, Member, POISON, Seats};
use crate::erasure::{REASON, Tombstones};
use crate::failpoint;
use crate::metrics::{DEAD_LETTERS, ERASED_DROPPED};
use crate::outage::Outage;
use crate::storage::database::{Database, Failure, Kept, Rights, timed};
use crate::storage::erasure::{LOOK_AT_LIST, refreshed, version};

/// How many entries a transaction copies.
const BATCH: usize = 64;
/// How long a read waits, and so how soon unfinished redrives are looked for.
const IDLE_WAIT: Duration = Duration::from_secs(2);
const TIMEOUT: Duration = Duration::from_mins(1);
/// Inside a transaction, since a pooler would lose those of a session.
const LIMITS: &str = "SET LOCAL statement_timeout = '30s'; SET LOCAL lock_timeout = '10s'";
/// Handing back what is unfinished may take so long.
const LEAVE: Duration = Duration::from_millis(500);
/// The reason of a letter whose payload is in Redis.
const PARKED: &str = "PARKED";
const STAGE: &str = "dead-letters";

/// Told to stop before the work was done; what is unfinished stays pending.
struct Stopped;

/// Copies one shard's dead letters until told to stop. What is parked is kept for so many `days`; 0 = for
/// ever.
pub(crate) async fn keep(
    database: Database,
    bus: Bus,
    shard: u32,
    days: u32,
    stop: CancellationToken,
) {
    let mut copier = Copier {
        stream: bus.names().dlq(shard),
        member: bus.member(Seats::Ops, shard),
        connection: Kept::new(database),
        bus,
        shard,
        days,
        erased: Arc::default(),
        stop,
    };
    while !copier.stop.is_cancelled() {
        if copier.round().await.is_err() {
            break;
        }
    }
    let stream = copier.stream;
    if !matches!(timeout(LEAVE, copier.member.leave()).await, Ok(Ok(()))) {
        tracing::debug!(%stream, "the slot lapses by itself");
    }
}

struct Copier {
    bus: Bus,
    shard: u32,
    days: u32,
    stream: String,
    member: Member,
    connection: Kept,
    /// Whose letters are not kept, as far as is known; each transaction looks whether that is all.
    erased: Arc<Tombstones>,
    stop: CancellationToken,
}

impl Copier {
    /// Reads entries, perhaps none, copies them and acknowledges them.
    async fn round(&mut self) -> Result<(), Stopped> {
        let stop = self.stop.clone();
        let mut redis = Outage::new("redis");
        let entries = loop {
            let reading = self.member.read(BATCH, IDLE_WAIT);
            match stop.run_until_cancelled(reading).await {
                None => return Err(Stopped),
                Some(Ok(entries)) => break entries,
                Some(Err(error)) => {
                    if !redis.wait_for_redis(STAGE, &error, &stop).await {
                        return Err(Stopped);
                    }
                }
            }
        };
        redis.over();
        let ids = entries.iter().map(|entry| entry.id.clone()).collect();
        let beat = self.member.beat(ids);
        let copying = async {
            for part in parts(entries) {
                let done = self.settle(&part).await?;
                if !done.is_empty() {
                    failpoint::reach("after_dlq_commit");
                }
                self.acknowledge(&done).await?;
            }
            // One of the shards' copiers is enough.
            if self.shard == 0 {
                self.finish().await?;
            }
            Ok(())
        };
        tokio::select! {
            copied = copying => copied,
            () = beat => Ok(()),
        }
    }

    /// Copies a part, however long Postgres or Redis is away; returns the ids that need not be kept.
    async fn settle(&mut self, part: &[Entry]) -> Result<Vec<String>, Stopped> {
        let stop = self.stop.clone();
        let ids: Vec<&str> = part.iter().map(|entry| entry.id.as_str()).collect();
        let (mut redis, mut postgres) = (Outage::new("redis"), Outage::new("postgres"));
        self.open().await?;
        while let Err(error) = self.member.begin(part).await {
            if !redis.wait_for_redis(STAGE, &error, &stop).await {
                return Err(Stopped);
            }
        }
        loop {
            let attempt = async {
                let poisoned = part.first().is_some_and(|entry| entry.deliveries >= POISON);
                if poisoned {
                    let why = "processes have died on it";
                    return self.park(&part[0], why).await.map(|id| vec![id]);
                }
                self.copy(part).await
            };
            match stop.run_until_cancelled(attempt).await {
                None => return Err(Stopped),
                Some(Ok(done)) => {
                    redis.over();
                    postgres.over();
                    return Ok(done);
                }
                Some(Err(trouble)) => {
                    if let Err(error) = self.member.survived(&ids).await {
                        tracing::debug!(stream = %self.stream, %error, "the attempt stays counted");
                    }
                    self.wait(trouble, &mut redis, &mut postgres).await?;
                    self.open().await?;
                    if let Err(error) = self.member.begin_again(&ids).await {
                        tracing::debug!(stream = %self.stream, %error, "the attempt is not counted");
                    }
                }
            }
        }
    }

    async fn wait(
        &mut self,
        trouble: redrive::Trouble,
        redis: &mut Outage,
        postgres: &mut Outage,
    ) -> Result<(), Stopped> {
        let go_on = match trouble {
            redrive::Trouble::Redis(error) => redis.wait_for_redis(STAGE, &error, &self.stop).await,
            redrive::Trouble::Postgres(failure) => {
                self.connection.close();
                postgres.wait(&failure, &self.stop).await
            }
        };
        if go_on { Ok(()) } else { Err(Stopped) }
    }

    /// Connects, however long Postgres is away.
    async fn open(&mut self) -> Result<(), Stopped> {
        let mut postgres = Outage::new("postgres");
        let stop = self.stop.clone();
        loop {
            let Some(open) = stop.run_until_cancelled(self.connection.client()).await else {
                return Err(Stopped);
            };
            let Err(failure) = open else {
                postgres.over();
                return Ok(());
            };
            if !postgres.wait(&failure, &stop).await {
                return Err(Stopped);
            }
        }
    }

    async fn acknowledge(&mut self, done: &[String]) -> Result<(), Stopped> {
        let mut redis = Outage::new("redis");
        while let Err(error) = self.member.ack(done).await {
            if !redis.wait_for_redis(STAGE, &error, &self.stop).await {
                return Err(Stopped);
            }
        }
        redis.over();
        Ok(())
    }

    /// Finishes what somebody claimed to put back.
    async fn finish(&mut self) -> Result<(), Stopped> {
        let stop = self.stop.clone();
        let (mut redis, mut postgres) = (Outage::new("redis"), Outage::new("postgres"));
        loop {
            self.open().await?;
            let bus = self.bus.clone();
            let finishing = async {
                let (client, _) = self.connection.client().await?;
                match timeout(TIMEOUT, redrive::finish(client, &bus)).await {
                    Ok(finished) => finished,
                    Err(_) => Err(Failure::Timeout(TIMEOUT).into()),
                }
            };
            match stop.run_until_cancelled(finishing).await {
                None => return Err(Stopped),
                Some(Ok(())) => return Ok(()),
                Some(Err(trouble)) => self.wait(trouble, &mut redis, &mut postgres).await?,
            }
        }
    }

    /// Copies entries; returns the ids of those that need not be kept in Redis any longer.
    async fn copy(&mut self, entries: &[Entry]) -> Result<Vec<String>, redrive::Trouble> {
        let stream = self.stream.clone();
        // A pending entry that was trimmed away has nothing to copy.
        let letters: Vec<(&Entry, Letter)> = entries
            .iter()
            .filter(|entry| !entry.fields.is_empty())
            .map(|entry| (entry, Letter::read(&stream, entry)))
            .collect();
        let mut done: Vec<String> = entries
            .iter()
            .filter(|entry| entry.fields.is_empty())
            .map(|entry| {
                tracing::error!(%stream, entry = %entry.id, "a dead letter was trimmed before it was copied");
                entry.id.clone()
            })
            .collect();
        let all: Vec<&Letter> = letters.iter().map(|(_, letter)| letter).collect();
        match self.insert(&all).await {
            Ok(()) => done.extend(letters.iter().map(|(entry, _)| entry.id.clone())),
            Err(failure) if failure.is_bad_data() => {
                for (entry, letter) in letters {
                    match self.insert(&[&letter]).await {
                        Ok(()) => done.push(entry.id.clone()),
                        Err(failure) if failure.is_bad_data() => {
                            let why = failure.to_string();
                            done.push(self.park(entry, &why).await?);
                        }
                        Err(failure) => return Err(failure.into()),
                    }
                }
            }
            Err(failure) => return Err(failure.into()),
        }
        Ok(done)
    }

    async fn insert(&mut self, letters: &[&Letter]) -> Result<(), Failure> {
        let (client, rights) = self.connection.client().await?;
        insert(client, rights, letters, &mut self.erased).await
    }

    /// Keeps an entry in Redis, with a row that says where; returns its id. Twice is like once.
    async fn park(&mut self, entry: &Entry, why: &str) -> Result<String, redrive::Trouble> {
        let life = match self.days {
            0 => None,
            days => Some(Duration::from_hours(24) * days),
        };
        let key = self
            .bus
            .park(self.shard, &entry.id, &entry.to_json(), life)
            .await?;
        tracing::error!(stream = %self.stream, entry = %entry.id, key, reason = PARKED, error = why,
            "a dead letter cannot be stored: its fields stay in redis");
        let letter = Letter::parked(&self.stream, &entry.id, &key, PARKED, why);
        match self.insert(&[&letter]).await {
            // Without even that row the entry is in Redis all the same, and the log said where.
            Err(failure) if !failure.is_bad_data() => Err(failure.into()),
            _ => Ok(entry.id.clone()),
        }
    }
}

async fn insert(
    client: &mut Client,
    rights: Rights,
    letters: &[&Letter],
    erased: &mut Arc<Tombstones>,
) -> Result<(), Failure> {
    if letters.is_empty() {
        return Ok(());
    }
    let inserting = async {
        let transaction = client.transaction().await?;
        let answer = transaction
            .simple_query(&format!("{LIMITS}; {}; {LOOK_AT_LIST}", rights.begin()))
            .await?;
        refreshed(&transaction, erased, version(&answer)).await?;
        let (gone, letters): (Vec<&Letter>, Vec<&Letter>) = letters
            .iter()
            .partition(|letter| letter.names_erased(erased));
        drop_erased(&transaction, &gone).await?;
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
    match tokio::time::timeout(TIMEOUT, timed("dead_letters", inserting)).await {
        Ok(inserted) => inserted,
        Err(_) => Err(Failure::Timeout(TIMEOUT)),
    }
}

/// What is kept of letters that name a viewer who was erased: that their numbers are accounted for.
async fn drop_erased(
    transaction: &Transaction<'_>,
    letters: &[&Letter],
) -> Result<(), tokio_postgres::Error> {
    let (rooms, numbers): (Vec<&str>, Vec<i64>) = letters
        .iter()
        .filter_map(|letter| letter.stream_id.as_deref().zip(letter.seq_no))
        .unzip();
    if !rooms.is_empty() {
        transaction
            .execute_typed(
                "INSERT INTO gaps (stream_id, from_seq_no, to_seq_no, reason, lost)
                 SELECT DISTINCT stream_id, seq_no, seq_no, $3, 1 FROM unnest($1, $2) AS letter (stream_id, seq_no)
                 WHERE NOT EXISTS (SELECT FROM events
                    WHERE events.stream_id = letter.stream_id AND events.seq_no = letter.seq_no)
                 ON CONFLICT (stream_id, from_seq_no, to_seq_no, reason) DO NOTHING",
                &[
                    (&rooms, Type::TEXT_ARRAY),
                    (&numbers, Type::INT8_ARRAY),
                    (&REASON, Type::TEXT),
                ],
            )
            .await?;
    }
    counter!(ERASED_DROPPED, "stage" => "dead_letters")
        .increment(u64::try_from(letters.len()).unwrap_or(u64::MAX));
    Ok(())
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
