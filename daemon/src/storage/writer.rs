//! The loop of one shard: gather a batch, store it, acknowledge it.
//!
//! In: entries of the shard's events, as a [`Member`] of those that share them: what others left,
//! own unfinished ones, new ones. An attempt is counted before the work on it, and taken back when
//! Postgres or Redis was the reason that nothing came of it; what has ended five processes goes to
//! the dead letters unread. Every entry that was read is either stored, or known to be stored already, or in the dead
//! letters, before it is acknowledged. A dead letter may be written twice when a crash comes
//! between it and the acknowledgement; an event row never.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, histogram};
use shared::streams::events;
use shared::time::Timestamp;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::Options;
use super::batch::{Course, Stored, store};
use super::database::{Database, Failure, Rights};
use super::erasure::list;
use super::losses::Seen;
use super::row::Row;
use crate::bus::consumer::parts;
use crate::bus::{Bus, DeadLetter, Entry, Member, POISON, Seats};
use crate::erasure::{Tombstones, Verdict};
use crate::failpoint;
use crate::metrics::{
    ERASED_DROPPED, ERASED_REWRITTEN, STORAGE_BATCH, STORAGE_DEFAULT_PARTITION, STORAGE_DUPLICATES,
    STORAGE_EVENTS, STORAGE_REJECTED, STORAGE_REPLAYED, STORAGE_TRIMMED,
};
use crate::outage::Outage;

/// How long a read waits when the stream is empty.
const IDLE_WAIT: Duration = Duration::from_secs(2);
/// A transaction carries at most about this much, however large its events are.
const BATCH_BYTES: usize = 8 << 20;
/// How long after the stop a transaction may take, and how long the rest is drained.
const STOP_GRACE: Duration = Duration::from_secs(1);
/// Handing back what is unfinished may take so long.
const LEAVE: Duration = Duration::from_millis(500);
/// A dead letter's error is cut to this many characters.
const ERROR_CHARS: usize = 500;

const STAGE: &str = "storage";
const REJECTED: &str = "STORAGE_REJECTED";
const POISONED: &str = "POISON";
const COLLISION: &str = "id_collision";

/// Bad entries: their places, reasons and errors.
type Letters = Vec<(usize, &'static str, String)>;

/// Told to stop before the work was done; what is unfinished stays pending.
struct Stopped;

/// Writes what one shard's stream holds.
pub(super) struct Writer {
    bus: Bus,
    stream: String,
    member: Member,
    session: Session,
    batch_size: usize,
    batch_age: Duration,
    seen: Seen,
}

impl Writer {
    pub(super) fn new(
        options: &Options,
        database: Database,
        bus: Bus,
        shard: u32,
        seen: Seen,
        statistics: bool,
    ) -> Self {
        Self {
            member: bus.member(Seats::Storage, shard),
            stream: bus.names().events(shard),
            bus,
            session: Session {
                database,
                client: None,
                erased: Arc::default(),
                course: Course::new(statistics),
            },
            batch_size: options.batch_size(),
            batch_age: options.batch_age(),
            seen,
        }
    }

    /// Until told to stop.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        self.work(&stop).await;
        let leaving = self.member.leave();
        if !matches!(timeout(LEAVE, leaving).await, Ok(Ok(()))) {
            tracing::debug!(stream = %self.stream, "the slot lapses by itself");
        }
    }

    async fn work(&mut self, stop: &CancellationToken) {
        let mut redis = Outage::new("redis");
        while !stop.is_cancelled() {
            let Some(read) = stop.run_until_cancelled(self.gather()).await else {
                break;
            };
            match read {
                Ok(entries) => {
                    redis.over();
                    if self.settle(entries, stop).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    if !redis.wait_for_redis(STAGE, &error, stop).await {
                        break;
                    }
                }
            }
        }
        // The earlier stages have stopped by now; what they published last is stored as well. The
        // read that was cut off may have been answered: a new connection, which every cut-off read
        // brings, begins with the history.
        self.member.read_own_again();
        let deadline = Instant::now() + STOP_GRACE;
        while Instant::now() < deadline {
            let reading = self.member.read(self.batch_size, Duration::from_millis(1));
            match timeout(STOP_GRACE, reading).await {
                Ok(Ok(entries)) if !entries.is_empty() => {
                    if self.settle(entries, stop).await.is_err() {
                        return;
                    }
                }
                _ => return,
            }
        }
    }

    /// Waits for entries, then for more until the batch is full or old enough.
    async fn gather(&mut self) -> Result<Vec<Entry>, crate::bus::Error> {
        let mut entries = self.member.read(self.batch_size, IDLE_WAIT).await?;
        let deadline = Instant::now() + self.batch_age;
        while !entries.is_empty() && entries.len() < self.batch_size && self.member.reads_new() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left < Duration::from_millis(1) {
                break;
            }
            match self
                .member
                .more(self.batch_size - entries.len(), left)
                .await
            {
                Ok(more) => entries.extend(more),
                // What we hold comes first; the next read meets the same error.
                Err(_) => break,
            }
        }
        Ok(entries)
    }

    /// Settles entries, those alone that have ended processes before; others see meanwhile that we work.
    async fn settle(
        &mut self,
        entries: Vec<Entry>,
        stop: &CancellationToken,
    ) -> Result<(), Stopped> {
        if entries.is_empty() {
            return Ok(());
        }
        let ids = entries.iter().map(|entry| entry.id.clone()).collect();
        let beat = self.member.beat(ids);
        let settling = async {
            for part in parts(entries) {
                self.settle_part(&part, stop).await?;
            }
            Ok(())
        };
        tokio::select! {
            settled = settling => settled,
            () = beat => Ok(()),
        }
    }

    /// Stores entries, or what is bad of them as dead letters, and acknowledges them.
    async fn settle_part(
        &mut self,
        entries: &[Entry],
        stop: &CancellationToken,
    ) -> Result<(), Stopped> {
        // Not an attempt yet: the entries are not looked at.
        self.session.open(stop).await?;
        let mut redis = Outage::new("redis");
        while let Err(error) = self.member.begin(entries).await {
            if !redis.wait_for_redis(STAGE, &error, stop).await {
                return Err(Stopped);
            }
        }
        redis.over();
        failpoint::reach("after_claim");
        let begun = Instant::now();
        let mut total = Stored::default();
        let letters = loop {
            let erased = self.session.erased.clone();
            let clean = without_erased(entries, &erased);
            if let Some(letters) = self.store_all(&clean, &mut total, stop).await? {
                break letters;
            }
        };
        self.finish(entries, &total, letters, begun, stop).await
    }

    /// Stores what entries hold; returns the letters that the bad ones become, as their places, reasons
    /// and errors. `None` when viewers were erased meanwhile: then all is to be done again, and what is
    /// stored already comes as repeats.
    async fn store_all(
        &mut self,
        entries: &[Cow<'_, Entry>],
        total: &mut Stored,
        stop: &CancellationToken,
    ) -> Result<Option<Letters>, Stopped> {
        let now = jiff::Timestamp::now();
        let mut places = Vec::with_capacity(entries.len());
        let mut rows = Vec::with_capacity(entries.len());
        let mut letters = Vec::new();
        for (place, entry) in entries.iter().enumerate() {
            if entry.fields.is_empty() {
                // It was trimmed away while it was pending. The room is unknown by now; the number
                // that is missing is found by `losses`.
                counter!(STORAGE_TRIMMED).increment(1);
                tracing::error!(stream = %self.stream, entry = %entry.id, "a pending entry was trimmed: its event is lost, unless another writer holds it");
                continue;
            }
            if entry.deliveries >= POISON {
                let error = format!("{} processes have died on it", entry.deliveries);
                letters.push((place, POISONED, error));
                continue;
            }
            match Row::read(entry, now) {
                Ok(row) => {
                    places.push(place);
                    rows.push(row);
                }
                Err(rejection) => letters.push((place, REJECTED, rejection.to_string())),
            }
        }

        let ids: Vec<&str> = entries.iter().map(|entry| entry.id.as_str()).collect();
        let mut collisions = Vec::new();
        // Parts still to be stored, the next one last. A part that holds a bad row is halved until
        // the row stands alone.
        let mut parts = chunks(&rows);
        parts.reverse();
        while let Some((from, to)) = parts.pop() {
            match self.store(&rows[from..to], &ids, stop).await? {
                Ok(stored) if stored.stale => return Ok(None),
                Ok(stored) => {
                    total.erased += stored.erased;
                    total.inserted += stored.inserted;
                    total.duplicates += stored.duplicates;
                    total.replayed += stored.replayed;
                    total.in_default += stored.in_default;
                    collisions.extend(stored.collisions.iter().map(|place| from + place));
                }
                Err(_) if to - from > 1 => {
                    let middle = from + (to - from) / 2;
                    parts.push((middle, to));
                    parts.push((from, middle));
                }
                Err(refused) => letters.push((places[from], REJECTED, refused.to_string())),
            }
        }
        for place in collisions {
            let row = &rows[place];
            tracing::error!(
                event_id = %row.event_id, stream_id = %row.stream_id, session_id = %row.session_id, seq_no = row.seq_no,
                reason = COLLISION, "two messages have one event id"
            );
            let error = format!("event {} is stored with another payload", row.event_id);
            letters.push((places[place], COLLISION, error));
        }
        Ok(Some(letters))
    }

    /// Counts, writes the dead letters, and acknowledges.
    async fn finish(
        &mut self,
        entries: &[Entry],
        total: &Stored,
        letters: Letters,
        begun: Instant,
        stop: &CancellationToken,
    ) -> Result<(), Stopped> {
        let count = |name: &'static str, number: usize| {
            counter!(name).increment(u64::try_from(number).unwrap_or(u64::MAX));
        };
        count(STORAGE_EVENTS, total.inserted);
        count(STORAGE_DUPLICATES, total.duplicates);
        count(STORAGE_REPLAYED, total.replayed);
        count(STORAGE_DEFAULT_PARTITION, total.in_default);
        if total.in_default > 0 {
            tracing::warn!(
                events = total.in_default,
                "events of a day without a partition went to events_default: see whether partitions can be made"
            );
        }

        for (place, reason, error) in letters {
            let entry = &entries[place];
            tracing::warn!(stream = %self.stream, entry = %entry.id, reason, %error, "to the dead letters");
            counter!(STORAGE_REJECTED, "reason" => reason).increment(1);
            let letter = DeadLetter {
                stage: STAGE,
                reason,
                error: error.chars().take(ERROR_CHARS).collect(),
                payload: entry.to_json(),
                failed_at: Timestamp::from(jiff::Timestamp::now()),
            };
            let mut redis = Outage::new("redis");
            while let Err(error) = self.bus.dead_letter(&letter).await {
                if !redis.wait_for_redis(STAGE, &error, stop).await {
                    return Err(Stopped);
                }
            }
            redis.over();
        }

        failpoint::reach("after_commit_before_ack");
        let ids: Vec<String> = entries.iter().map(|entry| entry.id.clone()).collect();
        let mut redis = Outage::new("redis");
        while let Err(error) = self.member.ack(&ids).await {
            if !redis.wait_for_redis(STAGE, &error, stop).await {
                return Err(Stopped);
            }
        }
        redis.over();
        histogram!(STORAGE_BATCH).record(begun.elapsed());
        tracing::debug!(
            stream = %self.stream,
            entries = entries.len(),
            inserted = total.inserted,
            duplicates = total.duplicates,
            replayed = total.replayed,
            ms = begun.elapsed().as_millis(),
            "batch settled"
        );
        Ok(())
    }

    /// Stores rows of the entries `ids`, however long Postgres is away. The inner error is a refusal
    /// of the data.
    async fn store(
        &mut self,
        rows: &[Row<'_>],
        ids: &[&str],
        stop: &CancellationToken,
    ) -> Result<Result<Stored, Failure>, Stopped> {
        let mut outage = Outage::new("postgres");
        loop {
            let failure = match self.session.attempt(rows, stop).await? {
                Ok(stored) => {
                    outage.over();
                    if !stored.stale {
                        self.seen.note(rows);
                    }
                    return Ok(Ok(stored));
                }
                Err(failure) if failure.is_bad_data() => {
                    outage.over();
                    return Ok(Err(failure));
                }
                Err(failure) => failure,
            };
            // The entries are not the reason: should the process end now, it is not on their account.
            if let Err(error) = self.member.survived(ids).await {
                tracing::debug!(stream = %self.stream, %error, "the attempt stays counted");
            }
            if !outage.wait(&failure, stop).await {
                return Err(Stopped);
            }
            self.session.open(stop).await?;
            if let Err(error) = self.member.begin_again(ids).await {
                tracing::debug!(stream = %self.stream, %error, "the attempt is not counted");
            }
        }
    }
}

/// Until a while after the stop.
async fn grace(stop: &CancellationToken) {
    stop.cancelled().await;
    sleep(STOP_GRACE).await;
}

/// Entries without viewers who were erased: what was theirs is a gap.
fn without_erased<'a>(entries: &'a [Entry], erased: &Tombstones) -> Vec<Cow<'a, Entry>> {
    let clean = |entry: &'a Entry| {
        let (kind, replaced) = match erased.judge(&entry.fields) {
            Verdict::Clean => return Cow::Borrowed(entry),
            Verdict::Own(gap) => (ERASED_DROPPED, gap),
            Verdict::Named(clean) => (ERASED_REWRITTEN, clean),
        };
        counter!(kind, "stage" => STAGE).increment(1);
        let mut entry = entry.clone();
        entry
            .fields
            .insert(events::EVENT.to_owned(), replaced.event);
        entry.fields.insert(events::RAW.to_owned(), replaced.raw);
        Cow::Owned(entry)
    };
    entries.iter().map(clean).collect()
}

/// Cuts rows into parts of about [`BATCH_BYTES`], at least one row each.
fn chunks(rows: &[Row<'_>]) -> Vec<(usize, usize)> {
    let mut parts = Vec::new();
    let mut from = 0;
    let mut size = 0;
    for (place, row) in rows.iter().enumerate() {
        if size > 0 && size + row.size() > BATCH_BYTES {
            parts.push((from, place));
            from = place;
            size = 0;
        }
        size += row.size();
    }
    if from < rows.len() {
        parts.push((from, rows.len()));
    }
    parts
}

/// The writer's own connection to Postgres, made again whenever it broke.
struct Session {
    database: Database,
    client: Option<(Client, Rights)>,
    /// Viewers who were erased, as far as this writer knows: each transaction asks whether there is more.
    erased: Arc<Tombstones>,
    course: Course,
}

impl Session {
    /// Connects, however long Postgres is away.
    async fn open(&mut self, stop: &CancellationToken) -> Result<(), Stopped> {
        if self
            .client
            .as_ref()
            .is_some_and(|(client, _)| !client.is_closed())
        {
            return Ok(());
        }
        let mut outage = Outage::new("postgres");
        loop {
            let connecting = self.database.connect_as_writer();
            let connected = tokio::select! {
                connected = connecting => connected,
                () = grace(stop) => return Err(Stopped),
            };
            match connected {
                Ok(client) => {
                    outage.over();
                    self.client = Some(client);
                    return Ok(());
                }
                Err(failure) => {
                    if !outage.wait(&failure, stop).await {
                        return Err(Stopped);
                    }
                }
            }
        }
    }

    /// One transaction. After a failure that is not the data's the connection is another one:
    /// that also gets rid of whatever state the failure left behind.
    async fn attempt(
        &mut self,
        rows: &[Row<'_>],
        stop: &CancellationToken,
    ) -> Result<Result<Stored, Failure>, Stopped> {
        self.open(stop).await?;
        let Some((client, rights)) = &mut self.client else {
            return Err(Stopped);
        };
        let (erased, course) = (&mut self.erased, &mut self.course);
        let storing = async {
            let stored = store(client, *rights, rows, erased.version, course).await?;
            if stored.stale {
                let transaction = client.transaction().await?;
                transaction.batch_execute(rights.begin()).await?;
                let (version, list) = list(&transaction).await?;
                transaction.commit().await?;
                *erased = Arc::new(Tombstones::new(version, &list));
            }
            Ok::<_, Failure>(stored)
        };
        let outcome = tokio::select! {
            outcome = storing => outcome,
            // A transaction that is cut off is rolled back, or comes again as repeats.
            () = grace(stop) => {
                self.client = None;
                return Err(Stopped);
            }
        };
        if let Err(failure) = &outcome
            && !failure.is_bad_data()
        {
            self.client = None;
        }
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use shared::identity::EventId;
    use shared::raw::Source;
    use uuid::Uuid;

    use super::*;

    fn row(bytes: usize) -> Row<'static> {
        Row {
            event_id: EventId::from_bytes([0; 32]),
            part_day: jiff::civil::date(2026, 11, 22),
            stream_id: "1".into(),
            session_id: Uuid::nil(),
            seq_no: 0,
            event_type: "CHAT".into(),
            source: Source::Live,
            replay_of: None,
            occurred_at: jiff::Timestamp::UNIX_EPOCH,
            ingested_at: jiff::Timestamp::UNIX_EPOCH,
            shown_at: jiff::Timestamp::UNIX_EPOCH,
            user: None,
            turn: None,
            amounts: crate::storage::row::Amounts::default(),
            gap: None,
            replay_end: None,
            event: "{}",
            raw: Some(Cow::Owned(vec![0; bytes])),
            raw_format: "protobuf",
            raw_hash: [0; 32],
        }
    }

    #[test]
    fn large_rows_are_cut_into_several_transactions() {
        assert!(chunks(&[]).is_empty());
        let small: Vec<_> = (0..500).map(|_| row(2_400)).collect();
        assert_eq!(chunks(&small), [(0, 500)]);
        let large = [
            row(5 << 20),
            row(2 << 20),
            row(2 << 20),
            row(20 << 20),
            row(1),
        ];
        assert_eq!(chunks(&large), [(0, 2), (2, 3), (3, 4), (4, 5)]);
    }
}
