//! Records from the disk: what did not fit into the window, and what was published.
//!
//! In: a position. Out: the records from there on, and how many damaged places lie between them.
//! Damage is passed over up to the next record whose checksum is right; a file that is gone or too
//! short is damage as well. Errors of the disk are the caller's: it tries again.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use bytes::Bytes;
use metrics::counter;

use super::{Item, Kept, Log, OVERHEAD, Segment, State};
use crate::ingest::spool::record;
use crate::metrics as names;

/// Read back from the disk at a time.
const CHUNK: u64 = 2 * 1024 * 1024;

/// What was read, and where to go on.
#[derive(Debug, Default)]
pub(in crate::ingest) struct Read {
    pub(in crate::ingest) items: Vec<Item>,
    pub(in crate::ingest) end: u64,
    /// Places between, before or behind them that are no record.
    pub(in crate::ingest) damages: u64,
}

impl Read {
    fn nothing(end: u64) -> Self {
        Self {
            end,
            ..Self::default()
        }
    }
}

impl Log {
    /// Brings the next records from the disk into the window. Blocks.
    pub(in crate::ingest) fn read_back(&self) -> io::Result<()> {
        let from = self.state().window_end;
        let read = self.read(from, u64::MAX)?;
        let mut state = self.state();
        let before = state.damages;
        if read.damages > 0 {
            state.damages += read.damages;
            counter!(names::SPOOL_DAMAGED).increment(read.damages);
            tracing::error!(
                stage = "ingest",
                position = from,
                "the spool is damaged, going on behind it"
            );
        }
        for item in read.items {
            let damages = before + item.damages;
            state.window_bytes += item.record.len() + OVERHEAD;
            state.window.push_back(Kept {
                item: Item { damages, ..item },
                place: None,
            });
        }
        state.window_end = read.end;
        if state.window.is_empty() {
            state.published = read.end; // nothing but damage
        }
        Ok(())
    }

    /// Records from a position on, up to `until`: about [`CHUNK`] bytes of one segment, or what is
    /// pending. Blocks.
    pub(in crate::ingest) fn read(&self, from: u64, until: u64) -> io::Result<Read> {
        let (segment, at) = {
            let state = self.state();
            match state
                .segments
                .iter()
                .find(|segment| segment.end() > from && segment.length > 0)
            {
                Some(segment) => (*segment, from.max(segment.start)),
                None => return Ok(state.read_pending(from, until, self.limits.memory / 4)),
            }
        };
        if at >= until {
            return Ok(Read::nothing(until));
        }
        let Some(slot) = &self.slot else {
            return Ok(Read::nothing(segment.end()));
        };
        let file = match File::open(slot.segment(segment.start)) {
            // Somebody has removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Read {
                    damages: 1,
                    ..Read::nothing(segment.end().min(until))
                });
            }
            file => file?,
        };
        read_records(&file, segment, at, until)
    }

    /// Where the oldest record on the disk is, and until where all is published.
    pub(in crate::ingest) fn published_range(&self) -> (u64, u64) {
        let state = self.state();
        let first = state
            .segments
            .front()
            .map_or(state.written, |segment| segment.start);
        (first.min(state.published), state.published)
    }
}

impl State {
    fn read_pending(&self, from: u64, until: u64, bytes: usize) -> Read {
        let mut read = Read::nothing(from);
        let mut left = bytes;
        let first = self.pending.partition_point(|kept| kept.item.start < from);
        for kept in self.pending.iter().skip(first) {
            if left == 0 || kept.item.start >= until {
                break;
            }
            left = left.saturating_sub(kept.item.record.len());
            read.end = kept.item.end;
            read.items.push(kept.item.clone());
        }
        if read.items.is_empty() {
            read.end = until.min(self.end);
        }
        read
    }
}

/// Records of a segment's file from `at` on.
pub(in crate::ingest::spool) fn read_records(
    file: &File,
    segment: Segment,
    at: u64,
    until: u64,
) -> io::Result<Read> {
    let stop = segment.end().min(until);
    let mut wanted = CHUNK.min(stop - at);
    loop {
        let mut bytes = vec![0; usize::try_from(wanted).unwrap_or(usize::MAX)];
        let length = read_up_to(file, &mut bytes, at - segment.start)?;
        bytes.truncate(length);
        // A file that is shorter than it was is torn as well.
        let whole = at + wanted >= stop;
        let bytes = Bytes::from(bytes);
        let mut read = Read::nothing(at);
        let mut offset = 0;
        // The last record of a chunk may go on behind it; nothing inside it is a record.
        let cut = |rest: &[u8]| {
            !whole && record::claimed_length(rest).is_some_and(|claimed| claimed > rest.len())
        };
        while !cut(&bytes[offset..])
            && let Some((skipped, length)) = record::next(&bytes[offset..])
        {
            read.damages += u64::from(skipped > 0);
            let start = at + (offset + skipped) as u64;
            offset += skipped + length;
            read.end = at + offset as u64;
            read.items.push(Item {
                start,
                end: read.end,
                record: bytes.slice(offset - length..offset),
                damages: read.damages,
            });
        }
        let rest = &bytes[offset..];
        if whole {
            read.damages += u64::from(!rest.is_empty() || (length as u64) < wanted);
            read.end = stop;
            return Ok(read);
        }
        if !read.items.is_empty() && (cut(rest) || rest.len() < record::HEADER) {
            return Ok(read);
        }
        // One long record, or damage up to the end of the chunk: look at all that there is.
        wanted = stop - at;
    }
}

fn read_up_to(file: &File, bytes: &mut [u8], mut at: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], at) {
            Ok(0) => break,
            Ok(count) => {
                done += count;
                at += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
