//! Entries of the events stream, gathered by room.
//!
//! Comes in: entries in the order of the stream. Goes out: for each room one body, an event's JSON
//! per line, in the same order. Replays are left out: a live feed shows what is live. An entry
//! without a readable event is counted and left out; there is nothing to retry.

use std::collections::HashMap;

use serde::Deserialize;
use shared::identity::is_stream_id;
use shared::raw::Source;
use shared::streams::events;

use crate::bus::Entry;

/// The events of one room.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    /// The room.
    pub(crate) stream_id: String,
    /// One event's JSON per line.
    pub(crate) lines: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    stream_id: String,
    source: Source,
}

/// The batches, and how many entries had no readable event.
pub(crate) fn batches(entries: &[Entry]) -> (Vec<Batch>, u64) {
    let mut batches: Vec<Batch> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut unreadable = 0;
    for entry in entries {
        // Trimmed while it was pending: nothing to bring, and no fault of the entry.
        if entry.is_trimmed() {
            continue;
        }
        let Some((head, json)) = entry.field(events::EVENT).and_then(|json| {
            let head: Head = serde_json::from_str(json).ok()?;
            is_stream_id(&head.stream_id).then_some((head, json))
        }) else {
            unreadable += 1;
            continue;
        };
        if head.source != Source::Live {
            continue;
        }
        let place = *places.entry(head.stream_id).or_insert_with_key(|room| {
            batches.push(Batch {
                stream_id: room.clone(),
                lines: String::new(),
            });
            batches.len() - 1
        });
        let lines = &mut batches[place].lines;
        if json.contains(['\n', '\r']) {
            // White space between tokens: inside a JSON string a line break is escaped.
            lines.push_str(&json.replace(['\n', '\r'], " "));
        } else {
            lines.push_str(json);
        }
        lines.push('\n');
    }
    (batches, unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(event: &str) -> Entry {
        Entry::of("1-1", &[("event", event), ("raw", "x")])
    }

    fn live(room: &str, seq_no: u32) -> String {
        format!(r#"{{"streamId":"{room}","source":"live","seqNo":{seq_no}}}"#)
    }

    #[test]
    fn rooms_are_gathered_and_keep_their_order() {
        let (batches, unreadable) = batches(&[
            entry(&live("71", 1)),
            entry(&live("72", 1)),
            entry(&live("71", 2)),
            entry(&live("71", 3).replace("live", "replay")),
        ]);
        assert_eq!(unreadable, 0);
        assert_eq!(
            batches,
            [
                Batch {
                    stream_id: "71".into(),
                    lines: format!("{}\n{}\n", live("71", 1), live("71", 2)),
                },
                Batch {
                    stream_id: "72".into(),
                    lines: format!("{}\n", live("72", 1)),
                },
            ]
        );
    }

    #[test]
    fn an_event_is_one_line_however_it_was_written() {
        let pretty = "{\r\n\"streamId\": \"71\",\n\"source\": \"live\"\n}";
        let (batches, _) = batches(&[entry(pretty)]);
        assert_eq!(batches[0].lines.lines().count(), 1);
    }

    #[test]
    fn bad_entries_are_counted_and_trimmed_ones_are_not() {
        let (batches, unreadable) = batches(&[
            Entry::of("1-1", &[]),
            Entry::of("1-2", &[("other", "x")]),
            entry("not json"),
            entry(r#"{"streamId":"../x","source":"live"}"#),
            entry(r#"{"streamId":"71","source":"tape"}"#),
            entry(r#"{"source":"live"}"#),
        ]);
        assert_eq!(batches, []);
        assert_eq!(unreadable, 5);
    }
}
