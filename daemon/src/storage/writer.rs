//! The loop of one shard: gather a batch, store it, acknowledge it.
//!
//! Every entry that was read is either stored, or known to be stored already, or in the dead
//! letters, before it is acknowledged. A dead letter may be written twice when a crash comes
//! between it and the acknowledgement; an event row never.

use std::time::Duration;

use metrics::{counter, histogram};
use shared::streams::GROUP_STORAGE;
use shared::time::Timestamp;
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::Options;
use super::batch::{Stored, store};
use super::database::{Database, Failure, Rights};
use super::outage::Outage;
use super::row::Row;
use crate::bus::{Bus, Consumer, DeadLetter, Entry};
use crate::failpoint;
use crate::metrics::{
    STORAGE_BATCH, STORAGE_DEFAULT_PARTITION, STORAGE_DUPLICATES, STORAGE_EVENTS, STORAGE_REJECTED,
    STORAGE_REPLAYED, STORAGE_TRIMMED,
};

/// How long a read waits when the stream is empty.
const IDLE_WAIT: Duration = Duration::from_secs(2);
/// A transaction carries at most about this much, however large its events are.
const BATCH_BYTES: usize = 8 << 20;
/// How long after the stop a transaction may take, and how long the rest is drained.
const STOP_GRACE: Duration = Duration::from_secs(1);
/// A dead letter's error is cut to this many characters.
const ERROR_CHARS: usize = 500;

const STAGE: &str = "storage";
const REJECTED: &str = "STORAGE_REJECTED";
const COLLISION: &str = "id_collision";

/// Told to stop before the work was done; what is unfinished stays pending.
struct Stopped;

/// Writes what one shard's stream holds.
pub(super) struct Writer {
    bus: Bus,
    stream: String,
    name: String,
    consumer: Consumer,
    session: Session,
    batch_size: usize,
    batch_age: Duration,
}

impl Writer {
    pub(super) fn new(options: &Options, database: Database, bus: Bus, shard: u32) -> Self {
        let stream = bus.names().events(shard);
        let name = options.storage_consumer.clone();
        Self {
            consumer: bus.consumer(stream.clone(), GROUP_STORAGE, &name),
            bus,
            stream,
            name,
            session: Session {
                database,
                client: None,
            },
            batch_size: options.batch_size(),
            batch_age: options.batch_age(),
        }
    }

    /// Until told to stop.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut redis = Outage::new("redis");
        while !stop.is_cancelled() {
            let Some(read) = stop.run_until_cancelled(self.gather()).await else {
                break;
            };
            match read {
                Ok(entries) => {
                    redis.over();
                    if self.settle(&entries, &stop).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    if !redis.wait(&error, &stop).await {
                        break;
                    }
                }
            }
        }
        // The earlier stages have stopped by now; what they published last is stored as well. On
        // a connection of its own: the read that was cut off may still be answered on the other.
        // What that one was given is in the history, with which a new connection begins.
        self.consumer = self
            .bus
            .consumer(self.stream.clone(), GROUP_STORAGE, &self.name);
        let deadline = Instant::now() + STOP_GRACE;
        while Instant::now() < deadline {
            match self
                .consumer
                .read(self.batch_size, Duration::from_millis(1))
                .await
            {
                Ok(entries) if !entries.is_empty() => {
                    if self.settle(&entries, &stop).await.is_err() {
                        return;
                    }
                }
                _ => return,
            }
        }
    }

    /// Waits for entries, then for more until the batch is full or old enough.
    async fn gather(&mut self) -> Result<Vec<Entry>, crate::bus::Error> {
        let mut entries = self.consumer.read(self.batch_size, IDLE_WAIT).await?;
        let deadline = Instant::now() + self.batch_age;
        while !entries.is_empty() && entries.len() < self.batch_size {
            let left = deadline.saturating_duration_since(Instant::now());
            if left < Duration::from_millis(1) {
                break;
            }
            match self
                .consumer
                .read(self.batch_size - entries.len(), left)
                .await
            {
                Ok(more) => entries.extend(more),
                // What we hold comes first; the next read meets the same error.
                Err(_) => break,
            }
        }
        Ok(entries)
    }

    /// Stores entries, or what is bad of them as dead letters, and acknowledges them.
    async fn settle(&mut self, entries: &[Entry], stop: &CancellationToken) -> Result<(), Stopped> {
        if entries.is_empty() {
            return Ok(());
        }
        failpoint::reach("after_claim");
        let begun = Instant::now();
        let now = jiff::Timestamp::now();
        let mut places = Vec::with_capacity(entries.len());
        let mut rows = Vec::with_capacity(entries.len());
        let mut letters = Vec::new();
        for (place, entry) in entries.iter().enumerate() {
            if entry.fields.is_empty() {
                // It was trimmed away while it was ours. The room is unknown by now.
                counter!(STORAGE_TRIMMED).increment(1);
                tracing::error!(stream = %self.stream, entry = %entry.id, "an unread entry was trimmed: an event is lost");
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

        let mut total = Stored::default();
        // Parts still to be stored, the next one last. A part that holds a bad row is halved until
        // the row stands alone.
        let mut parts = chunks(&rows);
        parts.reverse();
        while let Some((from, to)) = parts.pop() {
            match self.session.store(&rows[from..to], stop).await? {
                Ok(stored) => {
                    total.inserted += stored.inserted;
                    total.duplicates += stored.duplicates;
                    total.replayed += stored.replayed;
                    total.in_default += stored.in_default;
                    total
                        .collisions
                        .extend(stored.collisions.iter().map(|place| from + place));
                }
                Err(_) if to - from > 1 => {
                    let middle = from + (to - from) / 2;
                    parts.push((middle, to));
                    parts.push((from, middle));
                }
                Err(refused) => letters.push((places[from], REJECTED, refused.to_string())),
            }
        }
        for &place in &total.collisions {
            let row = &rows[place];
            tracing::error!(
                event_id = %row.event_id, stream_id = %row.stream_id, session_id = %row.session_id, seq_no = row.seq_no,
                reason = COLLISION, "two messages have one event id"
            );
            let error = format!("event {} is stored with another payload", row.event_id);
            letters.push((places[place], COLLISION, error));
        }
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
                if !redis.wait(&error, stop).await {
                    return Err(Stopped);
                }
            }
            redis.over();
        }

        failpoint::reach("after_commit_before_ack");
        let ids: Vec<String> = entries.iter().map(|entry| entry.id.clone()).collect();
        let mut redis = Outage::new("redis");
        while let Err(error) = self.consumer.ack(&ids).await {
            if !redis.wait(&error, stop).await {
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
}

impl Session {
    /// Stores rows, however long Postgres is away. The inner error is a refusal of the data.
    async fn store(
        &mut self,
        rows: &[Row<'_>],
        stop: &CancellationToken,
    ) -> Result<Result<Stored, Failure>, Stopped> {
        let mut outage = Outage::new("postgres");
        loop {
            let attempt = async {
                let open = self.client.take().filter(|open| !open.0.is_closed());
                let open = match open {
                    Some(open) => open,
                    None => self.database.connect_as_writer().await?,
                };
                let (client, rights) = self.client.insert(open);
                store(client, *rights, rows).await
            };
            let outcome = tokio::select! {
                outcome = attempt => outcome,
                // A transaction that is cut off is rolled back, or comes again as repeats.
                () = async { stop.cancelled().await; sleep(STOP_GRACE).await } => return Err(Stopped),
            };
            match outcome {
                Ok(stored) => {
                    outage.over();
                    return Ok(Ok(stored));
                }
                Err(failure) if failure.is_bad_data() => {
                    outage.over();
                    return Ok(Err(failure));
                }
                Err(failure) => {
                    // A fresh connection also gets rid of whatever state the failure left behind.
                    self.client = None;
                    if !outage.wait(&failure, stop).await {
                        return Err(Stopped);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

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
            event: "{}",
            raw: Cow::Owned(vec![0; bytes]),
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
