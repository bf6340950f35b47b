//! `ttlc normalize`: the normalizer for lines of text, without Redis.
//!
//! Comes in: `raw.v1` envelopes as NDJSON, one JSON object a line with the fields of a raw stream
//! entry. All are texts there; here `seqNo` may be a number, `backlog` a truth value and `data` a
//! JSON object, `null` counts as absent, and unknown fields are ignored. Goes out: for each line,
//! in order, one line: the UnifiedEvent, or `{"error": {"reason", "error"}}`. Lines of nothing but
//! white space are no envelopes and are passed over. Gift streaks and likes are remembered from
//! line to line as the stage does; the end of a streak that time concludes has no line of its own.
//!
//! Bad input: a line that cannot be read is one error and costs none of the others; one longer than
//! 4 MiB is thrown away without being held in memory. Crash: there is nothing to lose.

use std::io::{self, BufRead as _, BufReader, Read, Write};

use serde_json::{Map, Value, json};
use shared::raw::Envelope;

use super::take::guarded;
use super::{Normalizer, Reason, Rejection, SchemaError, limits};
use crate::proto::MESSAGE_LIMIT;

/// A line has no more bytes: the longest `data` as a text of JSON with every character escaped.
const LINE_LIMIT: usize = 4 * MESSAGE_LIMIT;
/// What the fields beside `data` may add to the cost of its JSON (see `limits`).
const FIELDS_COST: usize = 16 * 1024;

/// Normalizes lines, one after the other, and counts them.
pub struct Lines {
    normalizer: Normalizer,
    events: u64,
    rejections: u64,
}

impl Lines {
    /// With nothing read yet.
    ///
    /// # Errors
    /// When the build is broken.
    pub fn new() -> Result<Self, SchemaError> {
        Ok(Self {
            normalizer: Normalizer::new()?,
            events: 0,
            rejections: 0,
        })
    }

    /// How many lines became an event.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// How many did not.
    pub fn rejections(&self) -> u64 {
        self.rejections
    }

    /// Answers every line of `input` on `output`, until its end. What is answered is written out
    /// before more input is waited for, so that somebody may type.
    ///
    /// # Errors
    /// When `input` or `output` fails.
    pub fn run(&mut self, input: impl Read, mut output: impl Write) -> io::Result<()> {
        let mut input = BufReader::new(input);
        let mut line = Vec::new();
        while read_line(&mut input, &mut line, &mut output)? {
            if line.trim_ascii().is_empty() {
                continue;
            }
            let answer = self.answer(&line);
            output.write_all(answer.as_bytes())?;
            output.write_all(b"\n")?;
        }
        output.flush()
    }

    /// The answer to one line, without its end.
    pub fn answer(&mut self, line: &[u8]) -> String {
        let answered = guarded(|| envelope(line))
            .and_then(|envelope| self.normalizer.take(&envelope).event)
            .map(|checked| checked.json);
        match answered {
            Ok(json) => {
                self.events += 1;
                json
            }
            Err(rejection) => {
                self.rejections += 1;
                let reason = rejection.reason.as_str();
                json!({"error": {"reason": reason, "error": rejection.error}}).to_string()
            }
        }
    }
}

/// Reads a line without its end into `line`; one that is too long up to one byte beyond the limit,
/// and the rest of it goes nowhere. `false` at the end of the input.
fn read_line(
    input: &mut BufReader<impl Read>,
    line: &mut Vec<u8>,
    output: &mut impl Write,
) -> io::Result<bool> {
    line.clear();
    let mut begun = false;
    loop {
        if input.buffer().is_empty() {
            output.flush()?;
        }
        let arrived = match input.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            arrived => arrived?,
        };
        if arrived.is_empty() {
            return Ok(begun);
        }
        begun = true;
        let end = arrived.iter().position(|byte| *byte == b'\n');
        let part = &arrived[..end.unwrap_or(arrived.len())];
        let room = LINE_LIMIT + 1 - line.len();
        line.extend_from_slice(&part[..part.len().min(room)]);
        let used = end.map_or(arrived.len(), |end| end + 1);
        input.consume(used);
        if end.is_some() {
            return Ok(true);
        }
    }
}

/// The envelope that a line holds.
fn envelope(line: &[u8]) -> Result<Envelope, Rejection> {
    if line.len() > LINE_LIMIT {
        return Err(unreadable(&format_args!(
            "the line has more than {LINE_LIMIT} bytes"
        )));
    }
    limits::json(line, limits::JSON_COST_LIMIT + FIELDS_COST)
        .map_err(|exceeded| unreadable(&format_args!("the line {exceeded}")))?;
    let fields: Map<String, Value> = serde_json::from_slice(line)
        .map_err(|error| unreadable(&format_args!("the line is no JSON object: {error}")))?;
    let texts = fields
        .into_iter()
        .filter_map(|(name, value)| Some((name, field_text(value)?)))
        .collect::<Vec<_>>();
    limits::envelope(|field| {
        let (_, text) = texts.iter().find(|(name, _)| name == field)?;
        Some(text)
    })
}

/// A field as a stream entry has it; `None` where it is absent. A list is as wrong there as its
/// text is.
fn field_text(value: Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text),
        other => Some(other.to_string()),
    }
}

fn unreadable(error: &dyn std::fmt::Display) -> Rejection {
    Rejection {
        reason: Reason::ParseError,
        error: error.to_string(),
    }
}

#[cfg(test)]
mod tests;
