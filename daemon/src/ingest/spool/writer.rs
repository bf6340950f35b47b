//! The thread that brings records to the disk, and takes from it what is no longer needed.
//!
//! In: pending records of the log. Out: segments that are synced at most 100 ms after a record came,
//! or as soon as 256 KiB are there; the mark; fewer old segments. A disk that refuses (full, broken,
//! read-only) is an alarm: records stay in memory, and it is tried again every second, in a new
//! segment, since nobody knows what the failed write has left in the old one.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use metrics::{counter, histogram};

use super::log::{Item, Log, Segment};
use super::slot::{Slot, sync_folder};
use crate::failpoint;
use crate::metrics as names;

/// How often old segments and gaps are looked at, and a disk that refused is tried again.
const TICK: Duration = Duration::from_secs(1);
/// A segment is written to for so long: what is in it shall not stay because more comes.
const SEGMENT_AGE: Duration = Duration::from_mins(1);
/// Written in one go.
const WRITE: usize = 4 * 1024 * 1024;

/// For `/readyz`, which knows nothing of stages: a process has one spool.
static REFUSED: AtomicBool = AtomicBool::new(false);

/// Whether the disk has refused the last write.
pub(in crate::ingest) fn disk_refuses() -> bool {
    REFUSED.load(Ordering::Relaxed)
}

/// The segment that is being written.
struct Open {
    file: File,
    segment: Segment,
    since: Instant,
}

pub(super) struct Writer {
    log: Arc<Log>,
    open: Option<Open>,
    mark: u64,
    tidied: Instant,
}

impl Writer {
    pub(super) fn new(log: Arc<Log>) -> Self {
        Self {
            log,
            open: None,
            mark: u64::MAX,
            tidied: Instant::now(),
        }
    }

    /// Works until the log is closing and everything is written, or cannot be.
    pub(super) fn run(mut self) {
        let log = self.log.clone();
        let Some(slot) = &log.slot else {
            return;
        };
        loop {
            let (closing, broken) = self.wait();
            #[cfg(test)]
            if self.log.state().crashed {
                return;
            }
            if self.tidied.elapsed() >= TICK || closing {
                self.log.tell_gaps(closing);
                self.tidy(slot);
            }
            if !broken || self.tidied.elapsed() < Duration::from_millis(50) {
                self.write(slot);
            }
            self.write_mark(slot);
            if closing {
                return;
            }
        }
    }

    /// Until there is something to write long enough, or a tick is over. Says whether the log is
    /// closing, and whether the disk has refused the last write.
    fn wait(&self) -> (bool, bool) {
        let limits = self.log.limits;
        let mut state = self.log.state();
        loop {
            let to_tick = TICK.saturating_sub(self.tidied.elapsed());
            let to_sync = match state.pending_since {
                Some(_) if state.broken => to_tick,
                Some(_) if state.pending_bytes >= limits.batch => Duration::ZERO,
                Some(since) => limits.sync_after.saturating_sub(since.elapsed()),
                None if self.mark != state.published() => limits.sync_after,
                None => to_tick,
            };
            let pause = to_sync.min(to_tick);
            if pause.is_zero() || state.closing {
                return (state.closing, state.broken);
            }
            let mark_only = state.pending_since.is_none();
            let (next, waited) = self
                .log
                .wake
                .wait_timeout(state, pause)
                .unwrap_or_else(PoisonError::into_inner);
            state = next;
            if waited.timed_out() && mark_only && state.pending_since.is_none() {
                return (state.closing, state.broken);
            }
        }
    }

    /// Writes and syncs what is pending now.
    fn write(&mut self, slot: &Slot) {
        loop {
            // A disk that is nearly full may take a little.
            let broken = self.log.state().broken;
            let size = if broken { self.log.limits.batch } else { WRITE };
            let items = self.log.to_write(size);
            let Some(last) = items.last().map(|item| item.end) else {
                if broken && try_disk(slot).is_ok() {
                    self.sound_again();
                }
                return;
            };
            let begun = Instant::now();
            match self.write_items(slot, &items) {
                Ok(segments) => {
                    histogram!(names::SPOOL_SYNC).record(begun.elapsed());
                    self.log.state().has_written(&segments, last);
                    failpoint::reach("after_spool");
                    if broken {
                        self.sound_again();
                    }
                }
                Err(error) => {
                    self.failed(slot, &error);
                    return;
                }
            }
        }
    }

    fn write_items(&mut self, slot: &Slot, items: &[Item]) -> io::Result<Vec<Segment>> {
        let mut segments = Vec::new();
        let mut bytes = Vec::with_capacity(items.iter().map(|item| item.record.len()).sum());
        for item in items {
            let end = |open: &Open| open.segment.end() + bytes.len() as u64;
            let fits = self.open.as_ref().is_some_and(|open| {
                end(open) == item.start
                    && open.since.elapsed() < SEGMENT_AGE
                    && item.end - open.segment.start <= self.log.limits.segment.max(1)
            });
            if !fits {
                segments.extend(self.finish(&mut bytes)?);
                self.open = Some(Open {
                    file: create(slot, item.start)?,
                    segment: Segment {
                        start: item.start,
                        length: 0,
                        done: None,
                    },
                    since: Instant::now(),
                });
            }
            bytes.extend_from_slice(&item.record);
        }
        segments.extend(self.finish(&mut bytes)?);
        Ok(segments)
    }

    /// Writes `bytes` to the open segment and syncs it.
    fn finish(&mut self, bytes: &mut Vec<u8>) -> io::Result<Option<Segment>> {
        let Some(open) = self.open.as_mut().filter(|_| !bytes.is_empty()) else {
            return Ok(None);
        };
        open.file.write_all(bytes)?;
        open.file.sync_data()?;
        open.segment.length += bytes.len() as u64;
        bytes.clear();
        Ok(Some(open.segment))
    }

    fn sound_again(&self) {
        self.log.state().broken = false;
        REFUSED.store(false, Ordering::Relaxed);
        tracing::info!(stage = "ingest", "the spool's disk takes messages again");
    }

    fn failed(&mut self, slot: &Slot, error: &io::Error) {
        counter!(names::SPOOL_DISK_ERRORS).increment(1);
        // What was written of it is cut off where that is possible. If not, the next segment's
        // beginning says where this one ends.
        let _ = match self.open.take() {
            Some(open) if open.segment.length == 0 => {
                std::fs::remove_file(slot.segment(open.segment.start))
            }
            Some(open) => open.file.set_len(open.segment.length),
            None => Ok(()),
        };
        let first = {
            let mut state = self.log.state();
            state.drop_published_pending();
            !std::mem::replace(&mut state.broken, true)
        };
        REFUSED.store(true, Ordering::Relaxed);
        if first {
            tracing::error!(stage = "ingest", %error,
                "the spool's disk refuses messages: they are only in memory, trying again");
        } else {
            tracing::debug!(stage = "ingest", %error, "the spool's disk still refuses messages");
        }
        self.tidied = Instant::now();
    }

    /// Removes segments that are published long enough, or as soon as space is short; the one that is
    /// being written only when nothing has come for so long.
    fn tidy(&mut self, slot: &Slot) {
        self.tidied = Instant::now();
        let writing = self.open.as_ref().map(|open| open.segment.start);
        let gone: Vec<Segment> = {
            let mut state = self.log.state();
            let published = state.published();
            let mut bytes: u64 = state.segments.iter().map(|segment| segment.length).sum();
            let mut gone = Vec::new();
            let (scarce, broken) = (self.log.limits.disk / 100 * 75, state.broken);
            let all_published = |segment: &Segment| segment.end() <= published;
            for segment in &mut state.segments {
                if all_published(segment) {
                    segment.done.get_or_insert_with(Instant::now);
                }
            }
            for segment in &state.segments {
                let keep = self.log.limits.keep;
                let old = segment.done.is_some_and(|since| since.elapsed() >= keep);
                let pressed = (broken || bytes > scarce) && Some(segment.start) != writing;
                if !all_published(segment) || !(old || pressed) {
                    break;
                }
                bytes -= segment.length;
                gone.push(*segment);
            }
            state.segments.drain(..gone.len());
            gone
        };
        for segment in gone {
            if Some(segment.start) == writing {
                self.open = None;
            }
            if let Err(error) = std::fs::remove_file(slot.segment(segment.start)) {
                tracing::warn!(stage = "ingest", %error, "cannot remove a part of the spool");
            }
        }
        self.log.measure();
    }

    fn write_mark(&mut self, slot: &Slot) {
        // Never ahead of the disk: after a crash positions go on from what is there.
        let mark = {
            let state = self.log.state();
            state.published().min(state.written)
        };
        if mark != self.mark && slot.set_mark(mark).is_ok() {
            self.mark = mark;
        }
    }
}

/// Whether the disk takes anything, when there is nothing to write.
fn try_disk(slot: &Slot) -> io::Result<()> {
    let path = slot.dir().join("try");
    let mut file = File::create(&path)?;
    let tried = file
        .write_all(&vec![0; 64 * 1024])
        .and_then(|()| file.sync_data());
    std::fs::remove_file(&path)?;
    tried
}

fn create(slot: &Slot, start: u64) -> io::Result<File> {
    let path = slot.segment(start);
    let file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .open(&path)?;
    sync_folder(&path)?;
    Ok(file)
}
