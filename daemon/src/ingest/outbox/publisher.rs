//! Publishes the spool's records, in order, for ever.
//!
//! In: records of the log. Out: the same in Redis. Whatever fails here is Redis, not the record: it
//! is tried again. A room that Redis refuses is somebody else's: its records become orphans, which
//! are tried every two seconds and published before anything newer of their room (`taken`). A room
//! of which Redis knows less than was published has been rolled back or wiped: what the spool still
//! has of it is published again, first (`loss`). What is published twice after a crash is
//! recognised by Redis.

mod loss;
mod taken;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use metrics::{counter, gauge, histogram};
use shared::raw::Envelope;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::loss::{Done, Lost};
use super::Sink;
use crate::bus::{DeadLetter, Error, Incarnation, Published, RoomBatch};
use crate::failpoint;
use crate::ingest::reconnect::jittered;
use crate::ingest::spool::log::{Item, Log};
use crate::ingest::spool::orphans::Orphans;
use crate::ingest::spool::record::{self, Content};
use crate::ingest::spool::spans::Spans;
use crate::ingest::spool::worth::{Run, last_number, reason};
use crate::ingest::spool::{self, Spool};
use crate::metrics as names;

/// Published in one go: envelopes, and bytes.
pub(super) const BATCH: usize = 500;
const BATCH_BYTES: usize = 2 * 1024 * 1024;
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(5);
/// How often rooms of others are asked for, and Redis whether it still knows what was published.
const TICK: Duration = Duration::from_secs(2);
/// How often it is looked for folders that ended processes have left.
const ADOPT: Duration = Duration::from_secs(30);
/// How often it is looked whether all outlets are gone, at the end.
const END_POLL: Duration = Duration::from_millis(10);

/// A message with the token under which it got its number.
struct Entry {
    token: u64,
    envelope: Envelope,
}

/// Why publishing stopped: we are closing, and Redis is away.
struct Stopped;

pub(super) struct Publisher<S> {
    sink: S,
    log: Arc<Log>,
    orphans: Arc<Mutex<Orphans>>,
    rooms: HashMap<String, Done>,
    /// Rooms that Redis has refused and that may have been wiped rather than taken.
    doubtful: HashSet<String>,
    /// Which Redis it was when it was last asked.
    incarnation: Option<Incarnation>,
    closing: CancellationToken,
    outlets: Weak<()>,
    next_tick: Instant,
    next_adoption: Instant,
}

impl<S: Sink> Publisher<S> {
    pub(super) fn new(
        sink: S,
        spool: Spool,
        closing: CancellationToken,
        outlets: Weak<()>,
    ) -> Self {
        let now = Instant::now();
        let rooms = spool.lasts.into_iter().map(|(room, last)| {
            let done = Done {
                token: last.token,
                spans: last.spans,
                damages: 0,
                floor: Some(last.floor),
                since: now,
                in_doubt: false,
            };
            (room, done)
        });
        Self {
            sink,
            log: spool.log,
            orphans: Arc::new(Mutex::new(spool.orphans)),
            rooms: rooms.collect(),
            doubtful: HashSet::new(),
            incarnation: None,
            closing,
            outlets,
            next_tick: now,
            next_adoption: now,
        }
    }

    /// Until it is closing and nothing is left, or Redis fails then.
    pub(super) async fn run(mut self) {
        loop {
            if self.log.must_read_back() {
                self.read_back().await;
            }
            if Instant::now() >= self.next_tick {
                if self.tick().await.is_err() {
                    return;
                }
                self.next_tick = Instant::now() + TICK;
            }
            let items = self.log.next(BATCH, BATCH_BYTES);
            if !items.is_empty() {
                if self.publish(&items).await.is_err() {
                    return;
                }
                self.log.advance(items.len());
                continue;
            }
            if !self.log.is_empty() {
                continue;
            }
            if self.closing.is_cancelled() {
                if self.outlets.strong_count() == 0 {
                    return;
                }
                tokio::time::sleep(END_POLL).await;
                continue;
            }
            tokio::select! {
                () = self.log.more.notified() => {}
                () = self.closing.cancelled() => {}
                () = tokio::time::sleep_until(self.next_tick) => {}
            }
        }
    }

    async fn read_back(&self) {
        let log = self.log.clone();
        let read = tokio::task::spawn_blocking(move || log.read_back()).await;
        let error = match read {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(error) => std::io::Error::other(error),
        };
        tracing::error!(stage = "ingest", %error, "cannot read the spool, trying again");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }

    // ---- records in their order

    async fn publish(&mut self, items: &[Item]) -> Result<(), Stopped> {
        let mut entries = Vec::with_capacity(items.len());
        let mut letters = Vec::new();
        for item in items {
            match record::decode(&item.record) {
                Some(Content::Envelope(token, envelope)) => {
                    entries.extend(self.hole(item.damages, token, &envelope));
                    self.note(item.damages, token, &envelope);
                    entries.push(Entry { token, envelope });
                }
                Some(Content::Letter(letter)) => letters.push(letter),
                None => {
                    counter!(names::SPOOL_DAMAGED).increment(1);
                    tracing::error!(
                        stage = "ingest",
                        position = item.start,
                        "a record of the spool is not understood"
                    );
                }
            }
        }
        if let Some(entry) = entries.first() {
            let now = jiff::Timestamp::now().as_millisecond();
            let age = now.saturating_sub(entry.envelope.ingested_at.as_millis());
            gauge!(names::SPOOL_AGE).set(Duration::from_millis(age.max(0).unsigned_abs()));
        }
        let entries = self.without_orphans(entries).await?;
        self.send(entries).await?;
        for letter in &letters {
            self.send_letter(letter).await?;
        }
        Ok(())
    }

    /// The gap before a record, where damage has cut its session.
    fn hole(&self, damages: u64, token: u64, envelope: &Envelope) -> Option<Entry> {
        let done = self.rooms.get(&envelope.stream_id)?;
        let last = done.spans.latest()?;
        let cut = done.damages != damages
            && last.session_id == envelope.session_id
            && envelope.seq_no > last.last + 1;
        cut.then(|| {
            let mut run = Run::new(token, envelope);
            (run.from, run.to) = (last.last + 1, envelope.seq_no - 1);
            tracing::error!(
                stage = "ingest",
                stream_id = run.stream_id,
                from_seq = run.from,
                to_seq = run.to,
                "messages are lost by damage of the spool"
            );
            Entry {
                token,
                envelope: run.gap(reason::DAMAGED),
            }
        })
    }

    fn note(&mut self, damages: u64, token: u64, envelope: &Envelope) {
        let (first, last) = (envelope.seq_no, last_number(envelope));
        let since = Instant::now();
        if let Some(done) = self.rooms.get_mut(&envelope.stream_id) {
            if done.token != token {
                (done.token, done.floor) = (token, None);
            }
            done.spans.note(envelope.session_id, first, last);
            (done.damages, done.since) = (damages, since);
            return;
        }
        let mut spans = Spans::default();
        spans.note(envelope.session_id, first, last);
        let done = Done {
            token,
            spans,
            damages,
            floor: None,
            since,
            in_doubt: false,
        };
        self.rooms.insert(envelope.stream_id.clone(), done);
    }

    /// Entries whose room has none waiting; the others wait behind these.
    async fn without_orphans(&mut self, entries: Vec<Entry>) -> Result<Vec<Entry>, Stopped> {
        let waiting: HashSet<String> = {
            let orphans = self.orphans.lock().unwrap_or_else(PoisonError::into_inner);
            entries
                .iter()
                .map(|entry| &entry.envelope.stream_id)
                .filter(|room| orphans.has(room))
                .cloned()
                .collect()
        };
        if waiting.is_empty() {
            return Ok(entries);
        }
        let ours = waiting
            .iter()
            .filter(|room| self.sink.token(room).is_some())
            .cloned()
            .collect();
        let regained = self.regain(ours).await?;
        let (blocked, free) = entries.into_iter().partition(|entry| {
            let room = &entry.envelope.stream_id;
            waiting.contains(room) && !regained.contains(room)
        });
        self.orphan(blocked).await;
        Ok(free)
    }

    /// Publishes entries in their order. Of rooms that are refused they become orphans.
    async fn send(&mut self, mut entries: Vec<Entry>) -> Result<(), Stopped> {
        while !entries.is_empty() {
            let (batches, batch_of) = self.batches(&entries);
            let published = self.insist(&batches).await?;
            let tokens: HashMap<String, u64> = batches
                .iter()
                .map(|batch| (batch.stream_id.to_owned(), batch.token))
                .collect();
            let refused: HashSet<usize> = published.refused.iter().copied().collect();
            let mut behind = HashMap::new();
            for (index, floor) in &published.behind {
                behind.insert(batches[*index].stream_id.to_owned(), *floor);
            }
            let held: HashSet<usize> = published.behind.iter().map(|(index, _)| *index).collect();
            let gaps = repeats(&batches, &published);
            let lates: Vec<bool> = batches.iter().map(|batch| batch.late).collect();
            drop(batches);

            let (mut again, mut lost) = (Vec::new(), Vec::new());
            for (entry, batch) in entries.into_iter().zip(batch_of) {
                if refused.contains(&batch) {
                    lost.push(entry);
                } else if held.contains(&batch) {
                    again.push(entry);
                } else {
                    counter!(names::PUBLISHED).increment(1);
                    if !lates[batch]
                        && let Some(done) = self.rooms.get_mut(&entry.envelope.stream_id)
                        && done.token == entry.token
                    {
                        done.floor = done.floor.max(Some(entry.envelope.seq_no));
                    }
                }
            }
            self.send_gaps(gaps).await?;
            let rooms: HashSet<String> = lost
                .iter()
                .map(|entry: &Entry| entry.envelope.stream_id.clone())
                .collect();
            self.orphan(lost).await;
            for room in rooms {
                self.sink.lose(&room);
                // It may have been wiped rather than taken: then it is ours again at once.
                self.next_tick = Instant::now();
            }
            let behind = behind
                .into_iter()
                .map(|(room, floor)| {
                    let token = tokens.get(&room).copied();
                    (room, Lost { floor, token })
                })
                .collect();
            self.refill(behind).await?;
            entries = again;
        }
        Ok(())
    }

    /// Entries by room and token, each in order, and for each entry the index of its batch.
    fn batches<'a>(&self, entries: &'a [Entry]) -> (Vec<RoomBatch<'a>>, Vec<usize>) {
        let mut last: HashMap<&str, usize> = HashMap::new();
        let mut written_under: Vec<u64> = Vec::new();
        let mut batches: Vec<RoomBatch<'a>> = Vec::new();
        let mut batch_of = Vec::with_capacity(entries.len());
        for entry in entries {
            let room = entry.envelope.stream_id.as_str();
            let index = match last.get(room) {
                Some(&index) if written_under[index] == entry.token => index,
                before => {
                    let first = before.is_none();
                    let token = self.sink.token(room).unwrap_or(entry.token);
                    let late = token != entry.token;
                    let after = self
                        .rooms
                        .get(room)
                        .filter(|done| first && !late && done.token == entry.token)
                        .and_then(|done| done.floor);
                    batches.push(RoomBatch {
                        stream_id: room,
                        token,
                        late,
                        after,
                        envelopes: Vec::new(),
                    });
                    written_under.push(entry.token);
                    last.insert(room, batches.len() - 1);
                    batches.len() - 1
                }
            };
            batches[index].envelopes.push(&entry.envelope);
            batch_of.push(index);
        }
        (batches, batch_of)
    }

    /// Gaps in the place of messages that the room has under other numbers.
    async fn send_gaps(&self, gaps: Vec<(u64, Envelope)>) -> Result<(), Stopped> {
        for (token, envelope) in &gaps {
            let batch = RoomBatch {
                stream_id: &envelope.stream_id,
                token: *token,
                late: true,
                after: None,
                envelopes: vec![envelope],
            };
            self.insist(&[batch]).await?;
        }
        Ok(())
    }

    // ---- every two seconds

    /// Looks for what others have left, asks Redis what it still knows, and tries the rooms of others.
    async fn tick(&mut self) -> Result<(), Stopped> {
        if self.closing.is_cancelled() {
            return Ok(());
        }
        if Instant::now() >= self.next_adoption {
            self.next_adoption = Instant::now() + ADOPT;
            let log = self.log.clone();
            let adopted = self.with_orphans(move |orphans| {
                orphans.expire();
                spool::adopt(&log, orphans)
            });
            if let Some(Err(error)) = adopted.await {
                tracing::warn!(stage = "ingest", %error, "cannot take over what others have left");
            }
        }
        if self.log.is_empty() {
            gauge!(names::SPOOL_AGE).set(0.0);
        }
        self.probe().await?;
        let mut wanted: HashSet<String> = {
            let orphans = self.orphans.lock().unwrap_or_else(PoisonError::into_inner);
            orphans.rooms().into_iter().collect()
        };
        wanted.extend(std::mem::take(&mut self.doubtful));
        self.regain(wanted).await?;
        Ok(())
    }

    // ---- Redis

    /// Tries until it succeeds: what fails here is Redis, not the message.
    async fn insist(&self, batches: &[RoomBatch<'_>]) -> Result<Published, Stopped> {
        let begun = std::time::Instant::now();
        let published = self.try_for_ever(|| self.sink.publish(batches)).await?;
        failpoint::reach("after_xadd_raw");
        histogram!(names::PUBLISH).record(begun.elapsed());
        Ok(published)
    }

    async fn send_letter(&self, letter: &DeadLetter) -> Result<(), Stopped> {
        self.try_for_ever(|| self.sink.dead_letter(letter)).await
    }

    async fn try_for_ever<T, F: Future<Output = Result<T, Error>>>(
        &self,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, Stopped> {
        let mut wait = FIRST_RETRY;
        let mut failures = 0_u32;
        loop {
            match attempt().await {
                Ok(done) => {
                    if failures > 0 {
                        tracing::info!(stage = "ingest", failures, "publishing again");
                    }
                    return Ok(done);
                }
                // It is in the spool.
                Err(_) if self.closing.is_cancelled() && self.log.keeps().is_some() => {
                    return Err(Stopped);
                }
                Err(error) => {
                    failures += 1;
                    crate::bus::note("ingest", &error);
                    if failures.is_power_of_two() {
                        tracing::warn!(stage = "ingest", %error, failures, "cannot publish, trying again");
                    }
                }
            }
            let pause = tokio::time::sleep(jittered(wait));
            if self.log.keeps().is_some() {
                // One more try at the end, at once.
                self.closing.run_until_cancelled(pause).await;
            } else {
                pause.await;
            }
            wait = (wait * 2).min(LAST_RETRY);
        }
    }
}

fn decode_envelopes(items: &[Item]) -> Vec<Entry> {
    items
        .iter()
        .filter_map(|item| match record::decode(&item.record) {
            Some(Content::Envelope(token, envelope)) => Some(Entry { token, envelope }),
            _ => None,
        })
        .collect()
}

/// The gaps that repeats leave, with the token to publish them under.
fn repeats(batches: &[RoomBatch<'_>], published: &Published) -> Vec<(u64, Envelope)> {
    let mut runs: Vec<Run> = Vec::new();
    for (index, number) in &published.repeats {
        let batch = &batches[*index];
        let Some(envelope) = batch
            .envelopes
            .iter()
            .find(|envelope| envelope.seq_no == *number)
        else {
            continue;
        };
        let follows = runs
            .last_mut()
            .is_some_and(|run| run.stream_id == batch.stream_id && run.extend(envelope));
        if !follows {
            runs.push(Run::new(batch.token, envelope));
        }
    }
    runs.iter()
        .map(|run| (run.token, run.gap(reason::REPEAT)))
        .collect()
}
