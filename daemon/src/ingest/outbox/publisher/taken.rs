//! Rooms that are somebody else's, and what waits for them.
//!
//! In: records that Redis has refused, and those behind them. Out: the same as orphans on the disk,
//! and in Redis once the room can be taken. A crash leaves them where they are; what is published
//! twice is recognised by Redis.

use std::collections::{HashMap, HashSet};
use std::sync::PoisonError;

use metrics::counter;

use super::loss::Lost;
use super::{BATCH, Entry, Publisher, Sink, Stopped, decode_envelopes, repeats};
use crate::bus::RoomBatch;
use crate::ingest::spool::orphans::Orphans;
use crate::ingest::spool::record::{self, Content};
use crate::metrics as names;

impl<S: Sink> Publisher<S> {
    pub(super) async fn orphan(&self, entries: Vec<Entry>) {
        if entries.is_empty() {
            return;
        }
        let mut rooms: HashMap<String, Vec<bytes::Bytes>> = HashMap::new();
        for entry in entries {
            let room = entry.envelope.stream_id.clone();
            let content = Content::Envelope(entry.token, entry.envelope);
            rooms.entry(room).or_default().push(record::encode(content));
        }
        for (stream_id, records) in &rooms {
            let messages = records.len();
            tracing::warn!(
                stage = "ingest",
                stream_id,
                messages,
                "the room is not ours: its messages wait in the spool"
            );
        }
        self.with_orphans(move |orphans| {
            for (room, records) in rooms {
                orphans.add(&room, records);
            }
        })
        .await;
    }

    /// Works with the orphans where blocking is allowed.
    pub(super) async fn with_orphans<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Orphans) -> T + Send + 'static,
    ) -> Option<T> {
        let (orphans, log) = (self.orphans.clone(), self.log.clone());
        let done = tokio::task::spawn_blocking(move || {
            let mut orphans = orphans.lock().unwrap_or_else(PoisonError::into_inner);
            let result = work(&mut orphans);
            log.set_orphans(orphans.bytes());
            result
        });
        match done.await {
            Ok(result) => Some(result),
            Err(error) => {
                tracing::error!(stage = "ingest", %error, "the spool's orphans failed");
                None
            }
        }
    }

    /// Takes rooms, as far as nobody else has them, and publishes what waits for them. Returns
    /// those that nothing waits for any more.
    pub(super) async fn regain(
        &mut self,
        rooms: HashSet<String>,
    ) -> Result<HashSet<String>, Stopped> {
        let mut ours = HashMap::new();
        let mut behind = HashMap::new();
        for room in rooms {
            match self.sink.claim(&room).await {
                Ok(Some(memory)) => {
                    if let Some(done) = self.rooms.get(&room) {
                        let floor = memory.floor;
                        if done.floor > floor {
                            let token = Some(memory.token);
                            behind.insert(room.clone(), Lost { floor, token });
                        } else if done.in_doubt && done.floor.is_some() {
                            // Somebody else has had it since.
                            behind.insert(room.clone(), Lost { floor, token: None });
                        }
                    }
                    ours.insert(room, memory.token);
                }
                Ok(None) => match self.rooms.get_mut(&room) {
                    // Redis was wiped, or may have lost its last seconds, before it was taken.
                    Some(done) if done.in_doubt && done.floor.is_some() => {
                        let (floor, token) = (None, None);
                        behind.insert(room, Lost { floor, token });
                    }
                    // What Redis knows of it is the other one's business.
                    Some(done) => done.floor = None,
                    None => {}
                },
                Err(error) => {
                    tracing::debug!(stage = "ingest", stream_id = room, %error, "cannot claim");
                    self.doubtful.insert(room);
                }
            }
        }
        self.refill(behind).await?;
        let mut free = HashSet::new();
        for (room, token) in ours {
            if self.drain(&room, token).await? {
                free.insert(room.clone());
            }
            self.sink.release(&room).await;
        }
        Ok(free)
    }

    /// Publishes what waits for a room; `false` if it was taken meanwhile.
    async fn drain(&mut self, room: &str, token: u64) -> Result<bool, Stopped> {
        let mut at = 0;
        let mut messages = 0;
        loop {
            let name = room.to_owned();
            let read = self.with_orphans(move |orphans| orphans.read(&name, at));
            let (items, next) = match read.await {
                Some(Ok(read)) => read,
                Some(Err(error)) => {
                    tracing::error!(stage = "ingest", stream_id = room, %error, "cannot read what waits for the room");
                    return Ok(false);
                }
                None => return Ok(false),
            };
            if items.is_empty() {
                break;
            }
            at = next;
            messages += items.len();
            let entries = decode_envelopes(&items);
            for entries in entries.chunks(BATCH) {
                let late = |entry: &Entry| entry.token != token;
                for same in entries.chunk_by(|a, b| late(a) == late(b)) {
                    let batch = RoomBatch {
                        stream_id: room,
                        token,
                        late: late(&same[0]),
                        after: None,
                        envelopes: same.iter().map(|entry| &entry.envelope).collect(),
                    };
                    let batches = [batch];
                    let published = self.insist(&batches).await?;
                    if !published.refused.is_empty() {
                        return Ok(false);
                    }
                    counter!(names::PUBLISHED).increment(same.len() as u64);
                    self.send_gaps(repeats(&batches, &published)).await?;
                }
            }
            // The lease is not renewed while we only visit.
            if self.sink.token(room).is_none()
                && !matches!(self.sink.claim(room).await, Ok(Some(_)))
            {
                return Ok(false);
            }
        }
        if messages > 0 {
            tracing::info!(
                stage = "ingest",
                stream_id = room,
                messages,
                "published what waited for the room"
            );
            let name = room.to_owned();
            self.with_orphans(move |orphans| orphans.remove(&name))
                .await;
        }
        Ok(true)
    }
}
