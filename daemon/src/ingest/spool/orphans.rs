//! Records of rooms that somebody else has: they wait for the room in a file of their own.
//!
//! In: records that Redis has refused, and what processes have left that are gone. Out: the same,
//! room by room, when the room can be had again. A crash in between publishes them again, which
//! Redis recognises. Without a disk they wait in memory. Of what is too much for that, and of what
//! has waited for a day, only the gaps are left.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use shared::identity::is_stream_id;
use shared::raw::Envelope;

use super::log::{Item, Segment, read_records};
use super::record::{self, Content};
use super::slot::replace;
use super::worth::{Run, reason};

/// Longer than any broadcast is away.
const EXPIRES: Duration = Duration::from_hours(24);
/// For all rooms, of what no disk takes.
const MEMORY: usize = 8 * 1024 * 1024;

/// Rooms with records that wait for them.
#[derive(Debug)]
pub(in crate::ingest) struct Orphans {
    dir: Option<PathBuf>,
    rooms: HashMap<String, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    /// In the file.
    bytes: u64,
    /// Behind that, not in the file.
    memory: Vec<Bytes>,
    since: SystemTime,
}

impl Orphans {
    /// Those that a former process has left in `dir`.
    pub(super) fn open(dir: Option<PathBuf>) -> io::Result<Self> {
        let mut rooms = HashMap::new();
        for entry in dir
            .iter()
            .map(fs::read_dir)
            .collect::<Result<Vec<_>, _>>()?
        {
            for entry in entry {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                if is_stream_id(&name) {
                    let metadata = entry.metadata()?;
                    let waiting = Waiting {
                        bytes: metadata.len(),
                        memory: Vec::new(),
                        // When the last was added; a day counts from there.
                        since: metadata.modified()?,
                    };
                    rooms.insert(name, waiting);
                }
            }
        }
        Ok(Self { dir, rooms })
    }

    /// None, and no disk for them.
    pub(super) fn none() -> Self {
        Self {
            dir: None,
            rooms: HashMap::new(),
        }
    }

    /// All messages that wait. Blocks.
    pub(super) fn for_each(&self, mut take: impl FnMut(Envelope)) -> io::Result<()> {
        for room in self.rooms.keys() {
            let mut at = 0;
            loop {
                let (items, next) = self.read(room, at)?;
                if items.is_empty() {
                    break;
                }
                at = next;
                for item in items {
                    if let Some(Content::Envelope(_, envelope)) = record::decode(&item.record) {
                        take(envelope);
                    }
                }
            }
        }
        Ok(())
    }

    pub(in crate::ingest) fn rooms(&self) -> Vec<String> {
        self.rooms.keys().cloned().collect()
    }

    pub(in crate::ingest) fn has(&self, room: &str) -> bool {
        self.rooms.contains_key(room)
    }

    /// On the disk and in memory.
    pub(in crate::ingest) fn bytes(&self) -> u64 {
        self.rooms
            .values()
            .map(|waiting| waiting.bytes + memory(waiting))
            .sum()
    }

    /// Takes records of a room in, behind those that are there. Blocks.
    pub(in crate::ingest) fn add(&mut self, room: &str, records: Vec<Bytes>) {
        let in_memory: u64 = self.rooms.values().map(memory).sum();
        let waiting = self
            .rooms
            .entry(room.to_owned())
            .or_insert_with(|| Waiting {
                bytes: 0,
                memory: Vec::new(),
                since: SystemTime::now(),
            });
        let path = self.dir.as_ref().map(|dir| dir.join(room));
        if let Some(path) = path
            && waiting.memory.is_empty()
        {
            match append(&path, waiting.bytes, &records) {
                Ok(bytes) => {
                    waiting.bytes = bytes;
                    return;
                }
                Err(error) => tracing::error!(
                    stage = "ingest",
                    stream_id = room,
                    %error,
                    "messages that wait for their room are only in memory"
                ),
            }
        }
        waiting.memory.extend(records);
        if in_memory > MEMORY as u64 {
            self.give_up(room);
        }
    }

    /// Records of a room from a position on, and where to go on; empty at the end. Blocks.
    pub(in crate::ingest) fn read(&self, room: &str, from: u64) -> io::Result<(Vec<Item>, u64)> {
        let Some(waiting) = self.rooms.get(room) else {
            return Ok((Vec::new(), from));
        };
        let mut at = from;
        while at < waiting.bytes {
            let Some(dir) = &self.dir else { break };
            let segment = Segment {
                start: 0,
                length: waiting.bytes,
                done: None,
            };
            let read = read_records(&File::open(dir.join(room))?, segment, at, u64::MAX)?;
            if read.damages > 0 {
                tracing::error!(
                    stage = "ingest",
                    stream_id = room,
                    "messages that waited for their room are damaged"
                );
            }
            at = read.end;
            if !read.items.is_empty() {
                return Ok((read.items, at));
            }
        }
        let mut start = waiting.bytes;
        let mut items = Vec::new();
        for record in &waiting.memory {
            let end = start + record.len() as u64;
            if start >= at {
                items.push(Item {
                    start,
                    end,
                    record: record.clone(),
                    damages: 0,
                });
            }
            start = end;
        }
        Ok((items, start))
    }

    /// They are published. Blocks.
    pub(in crate::ingest) fn remove(&mut self, room: &str) {
        if let Some(waiting) = self.rooms.remove(room)
            && waiting.bytes > 0
            && let Some(dir) = &self.dir
            && let Err(error) = fs::remove_file(dir.join(room))
        {
            tracing::warn!(stage = "ingest", stream_id = room, %error, "cannot remove a part of the spool");
        }
    }

    /// Of what has waited for a day leaves only the gaps. Blocks.
    pub(in crate::ingest) fn expire(&mut self) {
        let old: Vec<String> = self
            .rooms
            .iter()
            .filter(|(_, waiting)| waiting.since.elapsed().is_ok_and(|age| age > EXPIRES))
            .map(|(room, _)| room.clone())
            .collect();
        for room in old {
            self.give_up(&room);
        }
    }

    /// Replaces the records of a room by the gaps that they will leave.
    fn give_up(&mut self, room: &str) {
        let mut runs: Vec<Run> = Vec::new();
        let mut at = 0;
        while let Ok((items, next)) = self.read(room, at)
            && !items.is_empty()
        {
            at = next;
            for item in items {
                let Some(Content::Envelope(token, envelope)) = record::decode(&item.record) else {
                    continue;
                };
                if !runs.last_mut().is_some_and(|run| run.extend(&envelope)) {
                    runs.push(Run::new(token, &envelope));
                }
            }
        }
        let messages: u64 = runs.iter().map(|run| run.to - run.from + 1).sum();
        tracing::error!(
            stage = "ingest",
            stream_id = room,
            messages,
            "messages are dropped that waited for their room"
        );
        let gaps: Vec<Bytes> = runs
            .iter()
            .map(|run| record::encode(Content::Envelope(run.token, run.gap(reason::ORPHANED))))
            .collect();
        let Some(waiting) = self.rooms.get_mut(room) else {
            return;
        };
        waiting.since = SystemTime::now();
        let on_disk = self.dir.as_ref().filter(|_| waiting.bytes > 0);
        if let Some(dir) = on_disk
            && replace(&dir.join(room), &gaps.concat()).is_ok()
        {
            waiting.bytes = gaps.iter().map(|gap| gap.len() as u64).sum();
            waiting.memory.clear();
        } else if waiting.bytes == 0 {
            waiting.memory = gaps;
        }
    }
}

fn memory(waiting: &Waiting) -> u64 {
    waiting
        .memory
        .iter()
        .map(|record| record.len() as u64)
        .sum()
}

/// Adds records to a file of a known length, and syncs it; its new length.
fn append(path: &std::path::Path, length: u64, records: &[Bytes]) -> io::Result<u64> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    // What a failed attempt has left is cut off.
    file.set_len(length)?;
    let bytes = records.concat();
    file.write_all(&bytes)?;
    file.sync_data()?;
    if length == 0 {
        super::slot::sync_folder(path)?;
    }
    Ok(length + bytes.len() as u64)
}
