//! A spool in a folder of its own, an outbox on it, and a Redis that does as the test says.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use shared::raw::{Envelope, RawData, Source, control};
use shared::time::Timestamp;
use uuid::Uuid;
use xtask::processes::TemporaryFolder;

use super::super::Spool;
use super::super::log::{Limits, Log};
use super::super::record::{self, Content};
use super::super::worth::last_number;
use crate::bus::{DeadLetter, Error, Incarnation, Memory, Published, RoomBatch};
use crate::ingest::outbox::{Outbox, Outlet, Parcel, Sink};

/// What a room's key and stream hold.
#[derive(Clone, Default)]
pub(super) struct Room {
    pub(super) owner: u8,
    pub(super) token: u64,
    pub(super) floor: Option<u64>,
    pub(super) seen: BTreeMap<String, u64>,
    /// First and last number, and type, in the order of the stream.
    pub(super) entries: Vec<(u64, u64, String)>,
}

#[derive(Default)]
pub(super) struct Server {
    pub(super) away: bool,
    pub(super) rooms: HashMap<String, Room>,
    pub(super) letters: usize,
    /// How often everything was forgotten.
    pub(super) wiped: u32,
}

/// Redis as the publisher sees it, by the rules of the real scripts (which have their own tests).
#[derive(Clone, Default)]
pub(super) struct Fake {
    pub(super) server: Arc<Mutex<Server>>,
    /// The rooms that this process reads.
    pub(super) held: Arc<Mutex<HashMap<String, u64>>>,
}

/// Who we are; anybody else is another number.
pub(super) const US: u8 = 1;

impl Fake {
    pub(super) fn server(&self) -> MutexGuard<'_, Server> {
        self.server.lock().unwrap()
    }

    pub(super) fn claim_as(&self, room: &str, owner: u8) -> Memory {
        let mut server = self.server();
        let room = server.rooms.entry(room.to_owned()).or_default();
        if room.owner != owner {
            room.owner = owner;
            room.token += 1;
        }
        Memory {
            token: room.token,
            floor: room.floor,
            seen: Vec::new(),
        }
    }

    /// Begins to read a room.
    pub(super) fn hold(&self, room: &str) -> Memory {
        let memory = self.claim_as(room, US);
        self.held
            .lock()
            .unwrap()
            .insert(room.to_owned(), memory.token);
        memory
    }

    pub(super) fn entries(&self, room: &str) -> Vec<(u64, u64, String)> {
        self.server()
            .rooms
            .get(room)
            .map(|room| room.entries.clone())
            .unwrap_or_default()
    }

    /// The process is another one.
    pub(super) fn restarted(&self) -> Self {
        Self {
            server: self.server.clone(),
            held: Arc::default(),
        }
    }
}

impl Sink for Fake {
    fn token(&self, stream_id: &str) -> Option<u64> {
        self.held.lock().unwrap().get(stream_id).copied()
    }

    async fn publish(&self, batches: &[RoomBatch<'_>]) -> Result<Published, Error> {
        tokio::task::yield_now().await;
        let mut server = self.server();
        if server.away {
            return Err(Error::Address);
        }
        let mut published = Published::default();
        for (index, batch) in batches.iter().enumerate() {
            let room = server.rooms.entry(batch.stream_id.to_owned()).or_default();
            if room.owner != US || room.token != batch.token {
                published.refused.push(index);
                continue;
            }
            let floor = room.floor;
            if batch.after.is_some() && floor < batch.after {
                published.behind.push((index, floor));
                continue;
            }
            for envelope in &batch.envelopes {
                let number = envelope.seq_no;
                let mut publish = batch.late || Some(number) > floor;
                let known = envelope
                    .msg_id
                    .as_ref()
                    .and_then(|id| room.seen.get(id))
                    .copied();
                if batch.late
                    && let Some(known) = known
                {
                    publish = false;
                    if known != number {
                        published.repeats.push((index, number));
                    }
                }
                if publish {
                    let entry = (number, last_number(envelope), envelope.kind.clone());
                    room.entries.push(entry);
                    room.floor = room.floor.max(Some(number));
                    if let Some(id) = &envelope.msg_id {
                        room.seen.insert(id.clone(), number);
                    }
                }
            }
        }
        Ok(published)
    }

    async fn dead_letter(&self, _: &DeadLetter) -> Result<(), Error> {
        let mut server = self.server();
        if server.away {
            return Err(Error::Address);
        }
        server.letters += 1;
        Ok(())
    }

    async fn claim(&self, stream_id: &str) -> Result<Option<Memory>, Error> {
        {
            let server = self.server();
            if server.away {
                return Err(Error::Address);
            }
            let owner = server.rooms.get(stream_id).map_or(0, |room| room.owner);
            if owner > US {
                return Ok(None);
            }
        }
        Ok(Some(self.claim_as(stream_id, US)))
    }

    async fn release(&self, _: &str) {}

    async fn incarnation(&self) -> Result<Incarnation, Error> {
        let server = self.server();
        if server.away {
            return Err(Error::Address);
        }
        Ok(Incarnation {
            id: server.wiped.to_string(),
            run: String::new(),
        })
    }

    fn lose(&self, stream_id: &str) {
        self.held.lock().unwrap().remove(stream_id);
    }
}

pub(super) fn envelope(
    room: &str,
    session: u128,
    seq_no: u64,
    kind: &str,
    bytes: usize,
) -> Envelope {
    let now = Timestamp::from_millis(1_763_800_000_000);
    Envelope {
        stream_id: room.to_owned(),
        session_id: Uuid::from_u128(session),
        source: Source::Live,
        kind: kind.to_owned(),
        seq_no,
        timestamp: now,
        ingested_at: now,
        data: RawData::Protobuf(vec![7; bytes]),
        msg_id: Some(format!("{room}{seq_no}")),
        backlog: false,
        replay_of: None,
    }
}

/// A process with its spool.
pub(super) struct Process<S = Fake> {
    pub(super) outbox: Outbox,
    pub(super) outlet: Outlet,
    pub(super) log: Arc<Log>,
    pub(super) sink: S,
}

pub(super) fn small() -> Limits {
    Limits {
        memory: 16 * 1024,
        disk: 64 * 1024 * 1024,
        segment: 16 * 1024,
        sync_after: Duration::from_millis(2),
        batch: 8 * 1024,
        keep: Duration::from_mins(1),
    }
}

impl<S: Sink> Process<S> {
    pub(super) fn start(folder: &TemporaryFolder, sink: S, limits: Limits) -> Self {
        let spool = Spool::open_in(folder.path(), limits).unwrap();
        let log = spool.log.clone();
        let outbox = Outbox::new(sink.clone(), spool);
        Self {
            outlet: outbox.outlet(),
            outbox,
            log,
            sink,
        }
    }

    /// Takes messages as a connection does.
    pub(super) async fn say(&self, envelopes: Vec<Envelope>) {
        let parcel = Parcel {
            envelopes,
            dead_letters: Vec::new(),
        };
        let place = self.outlet.admit(&parcel).await;
        self.outlet.send(parcel, place);
    }

    /// SIGTERM.
    pub(super) async fn stop(self) {
        let Self {
            outbox,
            outlet,
            log,
            ..
        } = self;
        drop(outlet);
        outbox
            .close(tokio::time::Instant::now() + Duration::from_secs(20))
            .await;
        gone(log).await;
    }

    /// SIGKILL; the messages that were not written, published or not.
    pub(super) async fn kill(self) -> Vec<Envelope> {
        let Self {
            outbox,
            outlet,
            log,
            ..
        } = self;
        drop(outlet);
        let lost = log.crash();
        outbox.crash().await;
        gone(log).await;
        lost.iter()
            .filter_map(|item| match record::decode(&item.record) {
                Some(Content::Envelope(_, envelope)) => Some(envelope),
                _ => None,
            })
            .collect()
    }

    /// Until everything is published that can be.
    pub(super) async fn settled(&self) {
        until(|| self.log.is_empty()).await;
    }

    pub(super) async fn written(&self) {
        until(|| self.log.state().pending_since.is_none()).await;
    }
}

/// The lock is free when the last of it is gone.
async fn gone(log: Arc<Log>) {
    let log = {
        let weak = Arc::downgrade(&log);
        drop(log);
        weak
    };
    until(|| log.strong_count() == 0).await;
}

pub(super) async fn until(mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(40), "too long");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The segments' files, oldest first.
pub(super) fn segments(folder: &TemporaryFolder) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder.path().join("0"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "log"))
        .collect();
    files.sort();
    files
}

/// Every number that entries account for, once each.
pub(super) fn numbers(entries: &[(u64, u64, String)]) -> Vec<u64> {
    entries
        .iter()
        .flat_map(|(from, to, _)| *from..=*to)
        .collect()
}

pub(super) fn gaps(entries: &[(u64, u64, String)]) -> Vec<(u64, u64)> {
    entries
        .iter()
        .filter(|(_, _, kind)| kind == control::GAP)
        .map(|(from, to, _)| (*from, *to))
        .collect()
}
