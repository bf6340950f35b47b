//! The recorded messages, as often as a run needs them.
//!
//! In: the captures of `tests/fixtures`. Out: their messages, and captures of any length made of
//! them, each message with an id of its own, since the daemon drops what it has seen.

use std::path::{Path, PathBuf};

use upstream::{
    Capture,
    capture::Line,
    fresh,
    patch::{self, Header},
};

/// Where the captures are.
pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/captures")
}

/// The messages of three recorded rooms, without controls.
pub(crate) fn messages() -> anyhow::Result<Vec<Line>> {
    let folder = folder();
    let mut lines = Vec::new();
    for name in ["room-a", "room-b", "room-c"] {
        lines.extend(Capture::read(&folder.join(format!("{name}.ndjson")))?.lines);
    }
    lines.retain(|line| line.method != "WebcastControlMessage");
    Ok(lines)
}

/// So many messages, recorded ones over and over, each with an id of its own; `frame` of them
/// arrive together.
pub(crate) fn repeat(source: &[Line], count: u32, frame: u32) -> Capture {
    let first = source.first().map_or(0, |line| line.at);
    let lines = source
        .iter()
        .cycle()
        .zip(0..count)
        .map(|(line, index)| {
            let old = patch::header(&line.payload).unwrap_or_default();
            let at = first + i64::from(index / frame) * 1000;
            // As old as it was when it was recorded.
            let create_time = if old.create_time == 0 { 0 } else { at - 1000 };
            let new = Header {
                msg_id: fresh::id(),
                create_time,
                ..old
            };
            let payload = patch::patch(&line.payload, new).into();
            Line {
                at,
                method: line.method.clone(),
                payload,
            }
        })
        .collect();
    Capture { lines }
}
