//! A Redis that knows less than was published: rolled back, or wiped.
//!
//! In: what was published of late, by room. Out: what Redis has lost of it, published again from
//! what the spool keeps. What is older than that is lost with Redis.

use std::collections::HashMap;

use metrics::counter;

use super::{BATCH, Entry, Publisher, Sink, Stopped, decode_envelopes};
use crate::bus::RoomBatch;
use crate::metrics as names;

impl<S: Sink> Publisher<S> {
    /// Asks Redis whether it still knows what was published of late.
    pub(super) async fn probe(&mut self) -> Result<(), Stopped> {
        let Some(keep) = self.log.keeps() else {
            return Ok(());
        };
        self.rooms.retain(|_, done| done.since.elapsed() < keep);
        let batches: Vec<RoomBatch<'_>> = self
            .rooms
            .iter()
            .filter(|(_, done)| done.floor.is_some())
            .map(|(room, done)| RoomBatch {
                stream_id: room,
                token: self.sink.token(room).unwrap_or(done.token),
                late: false,
                after: done.floor,
                envelopes: Vec::new(),
            })
            .collect();
        let Ok(published) = self.sink.publish(&batches).await else {
            return Ok(()); // at the next tick
        };
        for index in published.refused {
            self.doubtful.insert(batches[index].stream_id.to_owned());
        }
        let behind = published
            .behind
            .iter()
            .map(|(index, floor)| {
                let batch = &batches[*index];
                (batch.stream_id.to_owned(), (*floor, batch.token))
            })
            .collect();
        drop(batches);
        for room in &self.doubtful {
            self.sink.lose(room);
        }
        self.refill(behind).await
    }

    /// Publishes again what Redis has lost of rooms, from what the spool keeps. By room: the
    /// highest number that Redis knows, and our token now.
    pub(super) async fn refill(
        &mut self,
        rooms: HashMap<String, (Option<u64>, u64)>,
    ) -> Result<(), Stopped> {
        if rooms.is_empty() {
            return Ok(());
        }
        let (mut at, until) = self.log.published_range();
        let mut messages = 0_u64;
        while at < until {
            let log = self.log.clone();
            let read = tokio::task::spawn_blocking(move || log.read(at, until)).await;
            let Ok(Ok(read)) = read else {
                tracing::error!(stage = "ingest", "cannot read what redis has lost");
                break;
            };
            at = read.end.max(at + 1);
            // A former owner's messages were not published under this token; but a token that has
            // fallen means that Redis has forgotten the owners, too.
            let lost = decode_envelopes(&read.items).into_iter().filter(|entry| {
                rooms
                    .get(&entry.envelope.stream_id)
                    .is_some_and(|(floor, token)| {
                        Some(entry.envelope.seq_no) > *floor && entry.token >= *token
                    })
            });
            let lost: Vec<Entry> = lost.collect();
            messages += lost.len() as u64;
            for chunk in lost.chunks(BATCH) {
                let envelopes = chunk.iter().map(|entry| &entry.envelope);
                let batches = crate::bus::rooms::by_room(envelopes, |room| rooms[room].1);
                self.insist(&batches).await?;
            }
        }
        for (room, (_, token)) in &rooms {
            if let Some(done) = self.rooms.get_mut(room) {
                done.floor = None; // until the next message: it may be older than what is kept
                done.token = *token;
            }
        }
        counter!(names::REFILLED).increment(messages);
        tracing::warn!(
            stage = "ingest",
            rooms = rooms.len(),
            messages,
            "redis has lost messages, published them again"
        );
        Ok(())
    }
}
