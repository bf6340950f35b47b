//! A Redis that knows less than was published: rolled back, or wiped.
//!
//! In: what was published of each room, every two seconds; and what Redis says of itself. Out: what
//! it has lost, published again from what the spool keeps, in order, and before it a
//! `ControlEvent.GAP` of reason `redis_lost` for the numbers that the spool has no more. Storage
//! takes of such a gap what it has not stored: most of it has gone all the way long ago. So what is
//! lost is known, and never more than is.
//!
//! A room of which another daemon has published in the meantime gets the same as orphans do: late,
//! without what it knows by message id. Redis away, or a crash: all of it is found out again.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use metrics::counter;
use shared::raw::Envelope;
use shared::time::Timestamp;
use tokio::time::Instant;

use super::{BATCH, Entry, Publisher, Sink, Stopped, decode_envelopes};
use crate::bus::{Change, RoomBatch};
use crate::ingest::spool::spans::Span;
use crate::ingest::spool::worth::{Run, last_number, reason};
use crate::metrics as names;

/// Rooms of which nothing was published for so long are not looked after any more.
const FORGOTTEN: Duration = Duration::from_hours(24);
/// So many rooms at most, but for those of the last minute.
const ROOMS: usize = 20_000;

/// What is to be done about a room of which Redis has lost something.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lost {
    /// The highest number that Redis knows.
    pub(super) floor: Option<u64>,
    /// Our token now; `None` when somebody else has had the room meanwhile.
    pub(super) token: Option<u64>,
}

/// What becomes of one room.
struct Filling {
    lost: Lost,
    /// Everything up to here is known to Redis, or on its way there.
    done: Option<u64>,
    /// What was published before.
    until: u64,
    written_under: u64,
    messages: u64,
    gone: u64,
}

impl<S: Sink> Publisher<S> {
    /// Asks Redis whether it still knows what was published of late; and of every room, when it is
    /// not the one that it was.
    pub(super) async fn probe(&mut self) -> Result<(), Stopped> {
        let keep = self.log.keep();
        let many = self.rooms.len() > ROOMS;
        self.rooms.retain(|_, done| {
            let since = done.since.elapsed();
            since < keep || (!many && since < FORGOTTEN)
        });
        let Ok(now) = self.sink.incarnation().await else {
            return Ok(()); // at the next tick
        };
        let change = self
            .incarnation
            .as_ref()
            .and_then(|before| now.since(before));
        // From a former process we know rooms, and not what Redis was.
        let everything = change.is_some() || self.incarnation.is_none();
        if let Some(change) = change {
            tracing::warn!(
                stage = "ingest",
                reason = "redis_lost",
                change = change.name(),
                "redis is not what it was: it is asked what it still knows of the rooms"
            );
            for done in self.rooms.values_mut() {
                done.in_doubt = done.floor.is_some();
            }
        }
        let batches: Vec<RoomBatch<'_>> = self
            .rooms
            .iter()
            .filter(|(_, done)| done.floor.is_some())
            .filter(|(_, done)| everything || done.since.elapsed() < keep)
            .map(|(room, done)| RoomBatch {
                stream_id: room,
                token: self.sink.token(room).unwrap_or(done.token),
                late: false,
                after: done.floor,
                envelopes: Vec::new(),
            })
            .collect();
        let mut behind = HashMap::new();
        let mut refused = Vec::new();
        for part in batches.chunks(BATCH) {
            let Ok(published) = self.sink.publish(part).await else {
                return Ok(()); // at the next tick
            };
            let of = |index: usize| part[index].stream_id.to_owned();
            refused.extend(published.refused.into_iter().map(of));
            for (index, floor) in published.behind {
                let token = Some(part[index].token);
                behind.insert(of(index), Lost { floor, token });
            }
        }
        drop(batches);
        self.incarnation = Some(now);
        if change != Some(Change::Wiped) {
            // What Redis knows of these is what we know of them.
            let unclear: HashSet<&String> = refused.iter().chain(behind.keys()).collect();
            for (room, done) in &mut self.rooms {
                done.in_doubt &= unclear.contains(room);
            }
        }
        self.doubtful.extend(refused);
        for room in &self.doubtful {
            self.sink.lose(room);
        }
        self.refill(behind).await
    }

    /// Publishes again what Redis has lost of rooms, from what the spool keeps, and tells what is
    /// gone.
    pub(super) async fn refill(&mut self, rooms: HashMap<String, Lost>) -> Result<(), Stopped> {
        let mut rooms: HashMap<String, Filling> = rooms
            .into_iter()
            .filter_map(|(room, lost)| {
                let done = self.rooms.get(&room)?;
                let filling = Filling {
                    done: lost.floor.filter(|_| lost.token.is_some()),
                    until: done.floor?,
                    written_under: done.token,
                    lost,
                    messages: 0,
                    gone: 0,
                };
                Some((room, filling))
            })
            .collect();
        if rooms.is_empty() {
            return Ok(());
        }
        let mut refused = HashSet::new();
        let (mut at, until) = self.log.published_range();
        while at < until {
            let log = self.log.clone();
            let read = tokio::task::spawn_blocking(move || log.read(at, until)).await;
            let Ok(Ok(read)) = read else {
                tracing::error!(stage = "ingest", "cannot read what redis has lost");
                break;
            };
            at = read.end.max(at + 1);
            let mut entries = Vec::new();
            for entry in decode_envelopes(&read.items) {
                let room = &entry.envelope.stream_id;
                let Some(filling) = rooms.get_mut(room).filter(|it| it.lacks(&entry)) else {
                    continue;
                };
                if let Some(before) = entry.envelope.seq_no.checked_sub(1) {
                    entries.extend(self.gone(room, filling, before));
                }
                filling.done = Some(last_number(&entry.envelope));
                filling.messages += 1;
                entries.push(entry);
            }
            refused.extend(self.put_back(&rooms, entries).await?);
        }
        let mut entries = Vec::new();
        for (room, filling) in &mut rooms {
            let until = filling.until;
            entries.extend(self.gone(room, filling, until));
        }
        refused.extend(self.put_back(&rooms, entries).await?);
        self.refilled(&rooms, &refused);
        Ok(())
    }

    /// The gaps for what a room lacks up to a number and the spool does not have.
    fn gone(&self, room: &str, filling: &mut Filling, to: u64) -> Vec<Entry> {
        let from = filling.done.map_or(0, |done| done + 1);
        let spans = self
            .rooms
            .get(room)
            .map(|done| done.spans.between(from, to));
        let spans = spans.unwrap_or_default();
        filling.done = filling.done.max(Some(to));
        spans
            .into_iter()
            .map(|span| {
                filling.gone += span.last - span.first + 1;
                Entry {
                    token: filling.written_under,
                    envelope: gap(room, span),
                }
            })
            .collect()
    }

    /// Publishes entries, or lets them wait where the room is somebody else's. Returns the rooms
    /// that were taken meanwhile.
    async fn put_back(
        &mut self,
        rooms: &HashMap<String, Filling>,
        entries: Vec<Entry>,
    ) -> Result<Vec<String>, Stopped> {
        let (ours, theirs): (Vec<Entry>, Vec<Entry>) = entries.into_iter().partition(|entry| {
            let room = &entry.envelope.stream_id;
            rooms[room].lost.token.is_some()
        });
        let mut refused = Vec::new();
        for chunk in ours.chunks(BATCH) {
            let envelopes = chunk.iter().map(|entry| &entry.envelope);
            let token = |room: &str| rooms[room].lost.token.unwrap_or(0);
            let batches = crate::bus::rooms::by_room(envelopes, token);
            let published = self.insist(&batches).await?;
            let of = |index: usize| batches[index].stream_id.to_owned();
            refused.extend(published.refused.into_iter().map(of));
        }
        self.orphan(theirs).await;
        Ok(refused)
    }

    /// Notes what Redis must know now, and says what was done.
    fn refilled(&mut self, rooms: &HashMap<String, Filling>, refused: &HashSet<String>) {
        let mut messages = 0;
        for (room, filling) in rooms {
            messages += filling.messages;
            if refused.contains(room) {
                // As often as it takes: the floor is what it was.
                self.doubtful.insert(room.clone());
                continue;
            }
            if let Some(done) = self.rooms.get_mut(room) {
                done.in_doubt = false;
                match filling.lost.token {
                    Some(token) => (done.token, done.floor) = (token, Some(filling.until)),
                    None => done.floor = None,
                }
            }
            if filling.gone > 0 {
                counter!(names::REDIS_LOST).increment(1);
                tracing::error!(
                    stage = "ingest",
                    stream_id = room,
                    reason = reason::REDIS_LOST,
                    numbers = filling.gone,
                    "redis has lost numbers of the room that are not in the spool: what is not stored is a gap"
                );
            }
        }
        counter!(names::REFILLED).increment(messages);
        tracing::warn!(
            stage = "ingest",
            rooms = rooms.len(),
            messages,
            "redis has lost messages, published them again"
        );
    }
}

impl Filling {
    /// Whether a record is one that Redis had and has lost.
    fn lacks(&self, entry: &Entry) -> bool {
        let number = entry.envelope.seq_no;
        if self.done.is_some_and(|done| number <= done) || number > self.until {
            return false;
        }
        // A former owner's messages were not published under this token; but a token that has
        // fallen means that Redis has forgotten the owners, too.
        match self.lost.token {
            Some(token) => entry.token >= token.min(self.written_under),
            None => entry.token == self.written_under,
        }
    }
}

/// Numbers that are lost unless they are stored. Its own is the last of them: a later loss tells
/// others.
fn gap(room: &str, span: Span) -> Envelope {
    let run = Run {
        token: 0,
        stream_id: room.to_owned(),
        session_id: span.session_id,
        from: span.first,
        to: span.last,
        since: std::time::Instant::now(),
        at: Timestamp::from(jiff::Timestamp::now()),
    };
    Envelope {
        seq_no: span.last,
        ..run.gap(reason::REDIS_LOST)
    }
}

/// The last that was published of a room.
pub(super) struct Done {
    pub(super) token: u64,
    pub(super) spans: crate::ingest::spool::spans::Spans,
    pub(super) damages: u64,
    /// What Redis must know.
    pub(super) floor: Option<u64>,
    pub(super) since: Instant,
    /// Redis is not what it was, and was not asked about the room since.
    pub(super) in_doubt: bool,
}
