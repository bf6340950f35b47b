//! Frames of `text/event-stream` (WHATWG HTML, "Server-sent events").
//!
//! Comes in: an event's JSON, a gap, the time. Goes out: the bytes of one frame. A line break
//! inside the data (LF, CR or both, which all end a line of the format) becomes a further `data:`
//! line, so that no text can forge a field or a frame.

use shared::api::{Cursor, Gap, Heartbeat};
use shared::time::Timestamp;

/// How long a client waits before it reconnects, in milliseconds.
const RETRY_MS: u32 = 2_000;

/// What every feed begins with.
pub(crate) fn greeting() -> String {
    format!("retry: {RETRY_MS}\n\n")
}

/// An event: unnamed, so that `onmessage` gets it.
pub(crate) fn event(cursor: &Cursor, json: &str) -> String {
    let mut frame = format!("id: {cursor}\n");
    push_data(&mut frame, json);
    frame
}

/// What could not be delivered. It has no `id:`, so a client resumes before the gap.
pub(crate) fn gap(gap: &Gap) -> String {
    named("gap", &serde_json::to_string(gap).unwrap_or_default())
}

/// A sign of life. A comment would do for the network but is invisible to `EventSource`.
pub(crate) fn heartbeat(at: Timestamp) -> String {
    named(
        "heartbeat",
        &serde_json::to_string(&Heartbeat { at }).unwrap_or_default(),
    )
}

fn named(name: &str, json: &str) -> String {
    let mut frame = format!("event: {name}\n");
    push_data(&mut frame, json);
    frame
}

fn push_data(frame: &mut String, text: &str) {
    frame.reserve(text.len() + 8);
    // `\r\n` is one line break.
    for line in text.replace("\r\n", "\n").split(['\n', '\r']) {
        frame.push_str("data: ");
        frame.push_str(line);
        frame.push('\n');
    }
    frame.push('\n');
}

#[cfg(test)]
mod tests {
    use shared::api::GapReason;

    use super::*;

    #[test]
    fn an_event_is_one_frame_with_its_cursor() {
        let cursor = Cursor::new("7301", 5);
        assert_eq!(
            event(&cursor, r#"{"a":1}"#),
            format!("id: {cursor}\ndata: {{\"a\":1}}\n\n")
        );
    }

    #[test]
    fn no_text_can_forge_a_field() {
        let cursor = Cursor::new("7301", 5);
        for text in ["{\nid: x\n}", "{\rid: x\r}", "{\r\nid: x\r\n}"] {
            assert_eq!(
                event(&cursor, text),
                format!("id: {cursor}\ndata: {{\ndata: id: x\ndata: }}\n\n"),
                "{text:?}"
            );
        }
        // An empty line would end the frame early.
        assert_eq!(
            event(&cursor, "a\n\r\rb"),
            format!("id: {cursor}\ndata: a\ndata: \ndata: \ndata: b\n\n")
        );
    }

    #[test]
    fn heartbeat_and_gap_are_named_and_have_no_id() {
        assert_eq!(
            heartbeat(Timestamp::from_millis(1_763_800_000_250)),
            "event: heartbeat\ndata: {\"at\":\"2025-11-22T08:26:40.250Z\"}\n\n"
        );
        assert_eq!(
            gap(&Gap {
                from: 3,
                to: 9,
                reason: GapReason::NotStored
            }),
            "event: gap\ndata: {\"from\":3,\"to\":9,\"reason\":\"not_stored\"}\n\n"
        );
        assert_eq!(greeting(), "retry: 2000\n\n");
    }
}
