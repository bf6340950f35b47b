//! Reads recorded rooms.
//!
//! In: an NDJSON file of `tests/fixtures/captures`: one message a line, in order of arrival. Out:
//! the lines, cut into broadcasts (a recorded end of stream ends one) and into frames (lines that
//! arrived within [`SAME_FRAME_MS`] of each other travelled, as far as we can tell, together).
//! Nothing is invented and nothing left out. A file that is not readable is an error at start, not
//! in the middle of a playback.

use std::{ops::Range, path::Path};

use anyhow::{Context, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde::Deserialize;

use crate::patch;

/// Lines that arrived within this many milliseconds of the first of a frame share it.
pub const SAME_FRAME_MS: i64 = 120;
/// A frame holds at most this many messages.
pub const FRAME_MESSAGES: usize = 20;

/// One recorded message.
#[derive(Clone, Debug)]
pub struct Line {
    /// When it arrived, unix ms.
    pub at: i64,
    /// Its method name.
    pub method: String,
    /// Its bytes.
    pub payload: Bytes,
}

/// One recorded room, or several in one file.
#[derive(Clone, Debug, Default)]
pub struct Capture {
    /// In order of arrival.
    pub lines: Vec<Line>,
}

#[derive(Deserialize)]
struct Record {
    at: String,
    #[serde(rename = "type")]
    method: String,
    payload: String,
}

impl Capture {
    /// Reads a capture file.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("can't read the capture {}", path.display()))?;
        let lines = text
            .lines()
            .enumerate()
            .map(|(index, text)| {
                let record: Record = serde_json::from_str(text)
                    .with_context(|| format!("line {} of {}", index + 1, path.display()))?;
                let payload = BASE64_STANDARD.decode(&record.payload)?;
                let at: jiff::Timestamp = record.at.parse()?;
                Ok(Line {
                    at: at.as_millisecond(),
                    method: record.method,
                    payload: payload.into(),
                })
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        ensure!(!lines.is_empty(), "the capture {} is empty", path.display());
        Ok(Self { lines })
    }

    /// The broadcasts, as ranges of lines: each ends with its own end control or with the file.
    pub fn broadcasts(&self) -> Vec<Range<usize>> {
        let mut broadcasts = Vec::new();
        let mut start = 0;
        for (index, line) in self.lines.iter().enumerate() {
            if ends_broadcast(line) {
                broadcasts.push(start..index + 1);
                start = index + 1;
            }
        }
        if start < self.lines.len() {
            broadcasts.push(start..self.lines.len());
        }
        broadcasts
    }

    /// The frames of a broadcast, as ranges of lines.
    pub fn frames(&self, broadcast: Range<usize>) -> Vec<Range<usize>> {
        let mut frames: Vec<Range<usize>> = Vec::new();
        for index in broadcast {
            if let Some(frame) = frames.last_mut()
                && frame.len() < FRAME_MESSAGES
                && self.lines[index].at - self.lines[frame.start].at <= SAME_FRAME_MS
            {
                frame.end = index + 1;
            } else {
                frames.push(index..index + 1);
            }
        }
        frames
    }
}

/// Whether the message says that the broadcast is over: `WebcastControlMessage` with action
/// (field 2) 3 (ended) or 4 (ended by TikTok).
fn ends_broadcast(line: &Line) -> bool {
    line.method == "WebcastControlMessage"
        && patch::varint_field(&line.payload, 2).is_some_and(|action| matches!(action, 3 | 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str) -> Capture {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/captures/{name}"));
        Capture::read(&path).unwrap()
    }

    #[test]
    fn mixed_holds_three_broadcasts_and_the_rooms_one_each() {
        let mixed = read("mixed.ndjson");
        assert_eq!(mixed.lines.len(), 429);
        assert_eq!(mixed.broadcasts(), [0..236, 236..251, 251..429]);
        for (name, lines) in [
            ("room-a", 241),
            ("room-b", 210),
            ("room-c", 199),
            ("room-d", 50),
        ] {
            let broadcasts = read(&format!("{name}.ndjson")).broadcasts();
            assert_eq!(
                (broadcasts.len(), &broadcasts[0]),
                (1, &(0..lines)),
                "{name}"
            );
        }
    }

    #[test]
    fn frames_cover_a_broadcast_in_order_and_share_only_what_arrived_together() {
        let capture = read("room-a.ndjson");
        let frames = capture.frames(0..capture.lines.len());
        let mut next = 0;
        for frame in &frames {
            assert_eq!(frame.start, next);
            next = frame.end;
            let span = capture.lines[frame.end - 1].at - capture.lines[frame.start].at;
            assert!(
                span <= SAME_FRAME_MS && frame.len() <= FRAME_MESSAGES,
                "{frame:?}"
            );
        }
        assert_eq!(next, capture.lines.len());
        assert!(frames.iter().any(|frame| frame.len() > 1));
        assert!(frames.len() > 20);
    }
}
