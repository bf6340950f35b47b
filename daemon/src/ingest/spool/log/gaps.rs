//! What a full spool drops, and how that is told.
//!
//! In: messages that have no room any more. Out: a gap record for each run of their numbers, before
//! the next message of the room, or after a second. A crash may leave the last runs untold: their
//! numbers are missing, and nothing says so.

use std::time::Duration;

use bytes::Bytes;
use metrics::counter;
use shared::raw::Envelope;

use super::{Log, note};
use crate::ingest::spool::record::{self, Content};
use crate::ingest::spool::worth::{Run, Worth, last_number, reason};
use crate::metrics as names;

/// A run of dropped numbers is told after this time.
const TELL_GAPS: Duration = Duration::from_secs(1);

/// The same when not even gaps should take space.
const TELL_GAPS_FULL: Duration = Duration::from_mins(1);

impl Log {
    /// Notes that a message is dropped; the gap of the run before, if it does not belong to that.
    pub(super) fn drop_one(&self, token: u64, worth: Worth, envelope: &Envelope) -> Option<Bytes> {
        counter!(names::SPOOL_DROPPED, "class" => worth.name()).increment(1);
        let mut state = self.state();
        note(
            &mut state.rooms,
            &envelope.stream_id,
            last_number(envelope),
            token,
        );
        if let Some(run) = state.runs.get_mut(&envelope.stream_id)
            && run.extend(envelope)
        {
            return None;
        }
        let run = Run::new(token, envelope);
        let before = state.runs.insert(envelope.stream_id.clone(), run);
        before.as_ref().map(gap_record)
    }

    /// Tells runs of dropped numbers that are older than a second, or all of them.
    pub(in crate::ingest) fn tell_gaps(&self, all: bool) {
        let mut state = self.state();
        if state.runs.is_empty() {
            return;
        }
        let used = state.end - state.published + state.orphans;
        let patience = if Worth::Money.fits(used, self.limits.disk) {
            TELL_GAPS
        } else {
            TELL_GAPS_FULL
        };
        let due: Vec<String> = state
            .runs
            .iter()
            .filter(|(_, run)| all || run.since.elapsed() >= patience)
            .map(|(room, _)| room.clone())
            .collect();
        for room in due {
            if let Some(run) = state.runs.remove(&room) {
                self.push(&mut state, gap_record(&run), None);
            }
        }
        drop(state);
        self.more.notify_one();
    }
}

pub(super) fn gap_record(run: &Run) -> Bytes {
    tracing::warn!(
        stage = "ingest",
        stream_id = run.stream_id,
        from_seq = run.from,
        to_seq = run.to,
        "the spool is full: messages are dropped"
    );
    record::encode(Content::Envelope(run.token, run.gap(reason::FULL)))
}
