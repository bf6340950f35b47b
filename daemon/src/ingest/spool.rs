//! The spool: what was received is on the disk before long, whatever becomes of Redis and of us.
//!
//! In: parcels from all connections, as they come. Out: the same records in the same order, for the
//! publisher of the outbox. In the order of the data: `worth` says what is dropped when the spool
//! is full, `record` is the form on the disk, `log` keeps the order, `writer` is the thread that
//! writes, `slot` is the folder; `orphans` are records whose room another daemon has.
//!
//! **Crash**: what came in the last 100 ms (or 256 KiB) may be lost; it was acknowledged to TikTok
//! and not synced. The rest is there at the next start, before anything new: what was published
//! already is recognised by Redis. **Redis away**: memory holds 32 MiB, the disk the rest.
//! **Redis lost something**: what was published stays here for a minute, to be published again;
//! `spans` says what there was before.
//! **Full**: messages are dropped by their worth, and each run of dropped numbers is a gap.
//! **Damage**: a record whose checksum is wrong is skipped; what is missing of a session becomes a
//! gap. **Disk refuses**: messages stay in memory, and reading pauses when that is full.

pub(super) mod log;
pub(super) mod orphans;
pub(super) mod record;
mod slot;
pub(super) mod spans;
pub(super) mod worth;
pub(super) mod writer;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use self::log::{Item, Limits, Log, Remembered, Segment, read_records};
use self::orphans::Orphans;
use self::record::Content;
use self::slot::Slot;
use self::spans::Spans;
use self::worth::last_number;
use self::writer::Writer;
use super::outbox::Parcel;
use crate::bus::Owner;

/// Message ids of a room that are remembered from before a restart: more than TikTok sends again.
const SEEN: usize = 300;

/// Where messages wait while Redis is away.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
#[expect(clippy::struct_field_names, reason = "the names of the settings")]
pub struct Options {
    /// Folder where messages wait while Redis is away, one for each Redis; `off`: only in memory
    /// [default: ttlc/spool in the user's state folder]
    #[arg(long, env = "SPOOL_DIR", value_parser = folder)]
    pub spool_dir: Option<PathBuf>,
    /// The most that may wait there, in bytes; beyond it likes go first and gifts last
    #[arg(long, env = "SPOOL_MAX_BYTES", default_value = "2147483648", value_parser = clap::value_parser!(u64).range(64 * 1024 * 1024..))]
    pub spool_max_bytes: u64,
    /// How long published messages stay there, in case Redis loses them, in seconds
    #[arg(long, env = "SPOOL_KEEP_SECONDS", default_value = "60", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub spool_keep_seconds: u64,
}

fn folder(text: &str) -> Result<PathBuf, String> {
    if text.trim().is_empty() {
        return Err("name a folder, or `off`".to_owned());
    }
    Ok(PathBuf::from(text))
}

impl Options {
    /// The folder; `None` when it is off.
    fn folder(&self) -> Option<PathBuf> {
        match &self.spool_dir {
            Some(off) if off == Path::new("off") => None,
            Some(folder) => Some(folder.clone()),
            None => Some(state_folder().join("ttlc").join("spool")),
        }
    }
}

/// Where programs of this user keep what must outlive them; here when there is no user.
fn state_folder() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    match (variable("XDG_STATE_HOME"), variable("HOME")) {
        (Some(state), _) => PathBuf::from(state),
        (None, Some(home)) => PathBuf::from(home).join(".local").join("state"),
        (None, None) => PathBuf::from("."),
    }
}

/// The folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("SPOOL_DIR: {} cannot be used: {error}; name a folder that can be written, or `off`", folder.display())]
pub struct Unusable {
    folder: PathBuf,
    #[source]
    error: io::Error,
}

/// What is known of a room whose records were published.
#[derive(Clone, Debug)]
pub(super) struct Last {
    pub(super) token: u64,
    /// The numbers that are accounted for.
    pub(super) spans: Spans,
    /// The highest number that was published.
    pub(super) floor: u64,
}

/// The spool as it was found, for the outbox to go on with.
pub(super) struct Spool {
    pub(super) log: Arc<Log>,
    pub(super) orphans: Orphans,
    /// The last records before the mark, by room.
    pub(super) lasts: HashMap<String, Last>,
    owner: Owner,
}

impl Spool {
    /// Takes a folder, and finds what was left there. Reads all of it once.
    ///
    /// # Errors
    /// When the folder cannot be used at all.
    pub(super) fn open(options: &Options) -> Result<Self, Unusable> {
        let limits = Limits {
            disk: options.spool_max_bytes,
            keep: Duration::from_secs(options.spool_keep_seconds),
            ..Limits::default()
        };
        match options.folder() {
            None => Ok(Self::memory(limits)),
            Some(folder) => {
                Self::open_in(&folder, limits).map_err(|error| Unusable { folder, error })
            }
        }
    }

    /// Without a disk.
    pub(super) fn memory(limits: Limits) -> Self {
        Self {
            log: Arc::new(Log::new(None, limits, &[], 0, HashMap::new())),
            orphans: Orphans::none(),
            lasts: HashMap::new(),
            owner: Owner::new(),
        }
    }

    pub(super) fn open_in(folder: &Path, limits: Limits) -> io::Result<Self> {
        let slot = Slot::take(folder)?;
        let owner = Owner::from(slot.owner());
        let segments = slot.segments()?;
        let first = segments.first().map_or(0, |(start, _)| *start);
        let mark = slot.mark().unwrap_or(first);
        let mut lasts: HashMap<String, Last> = HashMap::new();
        let mut rooms = HashMap::new();
        let mut waiting = 0_u64;
        for_each(&slot, &segments, 0, |item| {
            waiting += u64::from(item.start >= mark);
            let Some(Content::Envelope(token, envelope)) = record::decode(&item.record) else {
                return;
            };
            let number = last_number(&envelope);
            if item.start < mark {
                let last = lasts
                    .entry(envelope.stream_id.clone())
                    .or_insert_with(|| Last {
                        token,
                        spans: Spans::default(),
                        floor: envelope.seq_no,
                    });
                (last.token, last.floor) = (token, envelope.seq_no);
                last.spans
                    .note(envelope.session_id, envelope.seq_no, number);
            }
            remember(&mut rooms, envelope);
        })?;
        let orphans = Orphans::open(Some(slot.orphans()))?;
        orphans.for_each(|envelope| remember(&mut rooms, envelope))?;
        tracing::info!(stage = "ingest", folder = %slot.dir().display(), waiting, "spool opened");
        let log = Log::new(Some(slot), limits, &segments, mark, rooms);
        log.set_orphans(orphans.bytes());
        Ok(Self {
            log: Arc::new(log),
            orphans,
            lasts,
            owner,
        })
    }

    /// Who holds the leases of the rooms in here: the same after a restart.
    pub(super) fn owner(&self) -> Owner {
        self.owner
    }
}

/// Starts the thread that writes; it ends when the log is closing.
pub(super) fn start_writer(log: &Arc<Log>) -> io::Result<Option<thread::JoinHandle<()>>> {
    if log.slot.is_none() {
        return Ok(None);
    }
    let writer = Writer::new(log.clone());
    thread::Builder::new()
        .name("spool".to_owned())
        .spawn(move || writer.run())
        .map(Some)
}

/// Tells the writer to write what is there and to end.
pub(super) fn close(log: &Log) {
    log.state().closing = true;
    log.wake.notify_all();
}

/// Takes in what processes have left that shared the folder and are gone. Blocks.
pub(super) fn adopt(log: &Log, orphans: &mut Orphans) -> io::Result<()> {
    let Some(ours) = &log.slot else {
        return Ok(());
    };
    for slot in ours.abandoned()? {
        let segments = slot.segments()?;
        let first = segments.first().map_or(0, |(start, _)| *start);
        let mark = slot.mark().unwrap_or(first);
        let mut rooms: HashMap<String, Vec<bytes::Bytes>> = HashMap::new();
        let mut records = 0;
        let theirs = Orphans::open(Some(slot.orphans()))?;
        for room in theirs.rooms() {
            let mut at = 0;
            loop {
                let (items, next) = theirs.read(&room, at)?;
                if items.is_empty() {
                    break;
                }
                records += items.len();
                orphans.add(&room, items.into_iter().map(|item| item.record).collect());
                at = next;
            }
        }
        for_each(&slot, &segments, mark, |item| {
            records += 1;
            match record::decode(&item.record) {
                Some(Content::Envelope(_, envelope)) => {
                    let waiting = rooms.entry(envelope.stream_id.clone()).or_default();
                    waiting.push(item.record);
                    if waiting.len() >= 500 {
                        orphans.add(&envelope.stream_id, std::mem::take(waiting));
                    }
                }
                Some(Content::Letter(letter)) => log.append(
                    Parcel {
                        dead_letters: vec![letter],
                        ..Parcel::default()
                    },
                    None,
                    |_| None,
                ),
                None => {}
            }
        })?;
        for (room, records) in rooms.into_iter().filter(|(_, records)| !records.is_empty()) {
            orphans.add(&room, records);
        }
        tracing::info!(stage = "ingest", folder = %slot.dir().display(), records,
            "took over what an ended process has left in the spool");
        slot.remove()?;
        log.set_orphans(orphans.bytes());
    }
    Ok(())
}

/// All whole records of segments from a position on, in order.
fn for_each(
    slot: &Slot,
    segments: &[(u64, u64)],
    from: u64,
    mut take: impl FnMut(Item),
) -> io::Result<()> {
    for &(start, length) in segments {
        let segment = Segment {
            start,
            length,
            done: None,
        };
        if length == 0 || segment.end() <= from {
            continue;
        }
        let file = File::open(slot.segment(start))?;
        let mut at = start.max(from);
        while at < segment.end() {
            let read = read_records(&file, segment, at, u64::MAX)?;
            at = read.end;
            read.items.into_iter().for_each(&mut take);
        }
    }
    Ok(())
}

fn remember(rooms: &mut HashMap<String, Remembered>, envelope: shared::raw::Envelope) {
    let number = last_number(&envelope);
    let room = rooms.entry(envelope.stream_id).or_default();
    room.floor = room.floor.max(Some(number));
    if let Some(msg_id) = envelope.msg_id {
        if room.seen.len() >= 2 * SEEN {
            room.seen.drain(..SEEN);
        }
        room.seen.push((envelope.kind, msg_id));
    }
}

#[cfg(test)]
mod tests;
