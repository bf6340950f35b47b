//! What a core makes of the captures: from a message's bytes to the text of its event.
//!
//! With validation and without, in turns, and beside them a decoder in Node by the same schema. Of
//! each the fastest turn counts, since whatever else the machine does can only slow a turn down.
//! A message without an event ends the run.

use std::{
    hint::black_box,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use ::daemon::normalizer::{Contract, Normalizer, normalize};
use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use shared::{
    raw::{Envelope, RawData, Source},
    time::Timestamp,
};

use super::{Settings, Table, float};
use crate::recorded;

/// A decoder in JavaScript on such captures, messages a second of one core, as it was measured once
/// on another machine.
const REFERENCE: f64 = 19_200.0;
const AIM_VALIDATED: f64 = 5.0;
const AIM_UNVALIDATED: f64 = 8.0;
/// Turns of each kind.
const TURNS: u32 = 41;
const CAPTURES: [&str; 5] = ["room-a", "room-b", "room-c", "room-d", "mixed"];

/// What the decoder in Node says, messages a second.
#[derive(Deserialize)]
struct Node {
    version: String,
    messages: usize,
    /// To objects.
    objects: f64,
    /// And on to their JSON.
    json: f64,
}

pub(super) fn measure(settings: &Settings, table: &mut Table) -> anyhow::Result<()> {
    let envelopes = captured()?;
    println!("… normalizing {} recorded messages", envelopes.len());
    let contract = Contract::new()?;
    let [mut without, mut with, mut stage] = [Duration::MAX; 3];
    for _ in 0..TURNS {
        without = without.min(turn(&envelopes, |envelope| {
            Ok(serde_json::to_string(&normalize(envelope)?)?)
        })?);
        with = with.min(turn(&envelopes, |envelope| {
            Ok(contract.json(&normalize(envelope)?)?)
        })?);
        let mut normalizer = Normalizer::new()?;
        stage = stage.min(turn(&envelopes, |envelope| {
            Ok(normalizer.take(envelope).event?.json)
        })?);
    }
    let count = float(envelopes.len() as u64)?;
    let rate = |time: Duration| count / time.as_secs_f64();
    let bytes: usize = envelopes.iter().map(bytes).sum();
    table.add(
        "recorded messages",
        format!("{count} of {} bytes", bytes / envelopes.len()),
    );
    let node = settings
        .node
        .as_ref()
        .map(|node| decode_in_node(node, envelopes.len()))
        .transpose()?;
    for (what, time, aim) in [
        ("bytes → event, validated → text", with, AIM_VALIDATED),
        ("bytes → event → text", without, AIM_UNVALIDATED),
    ] {
        let rate = rate(time);
        let ratio = rate / REFERENCE;
        table.aimed(
            what,
            format!("{rate:.0}/s of a core, {ratio:.1} × {REFERENCE}"),
            &format!("{aim} ×"),
            ratio >= aim,
        );
        if let Some(node) = &node {
            table.add(
                format!("  to Node {} here, now, our schema", node.version),
                format!(
                    "{:.2} × its {:.0}/s to JSON, {:.2} × its {:.0}/s to objects",
                    rate / node.json,
                    node.json,
                    rate / node.objects,
                    node.objects
                ),
            );
        }
    }
    table.add(
        "the stage's (with streaks, totals, battles)",
        format!("{:.0}/s of a core, validated", rate(stage)),
    );
    let share = with.saturating_sub(without);
    table.add(
        "validation",
        format!(
            "{:.1} µs a message, {:.0} % of the way",
            share.as_secs_f64() * 1e6 / count,
            share.as_secs_f64() / with.as_secs_f64() * 100.0
        ),
    );
    Ok(())
}

/// How long all of them take.
fn turn(
    envelopes: &[Envelope],
    mut work: impl FnMut(&Envelope) -> anyhow::Result<String>,
) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    for envelope in envelopes {
        black_box(work(black_box(envelope))?);
    }
    Ok(begun.elapsed())
}

fn decode_in_node(program: &Path, expected: usize) -> anyhow::Result<Node> {
    println!("… decoding them in Node");
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(program)
        .arg(here.join("node/decode.mjs"))
        .arg(here.join("../../daemon/proto/webcast.proto"))
        .args(CAPTURES.map(|name| recorded::folder().join(format!("{name}.ndjson"))))
        .output()
        .with_context(|| format!("can't start {}", program.display()))?;
    if !output.status.success() {
        bail!(
            "node/decode.mjs failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let node: Node = serde_json::from_slice(&output.stdout)?;
    ensure!(
        node.messages == expected,
        "Node decoded {} messages of {expected}",
        node.messages
    );
    Ok(node)
}

fn bytes(envelope: &Envelope) -> usize {
    match &envelope.data {
        RawData::Protobuf(bytes) => bytes.len(),
        RawData::Json(_) => 0,
    }
}

/// One line of a capture.
#[derive(Deserialize)]
struct Line {
    at: Timestamp,
    #[serde(rename = "type")]
    kind: String,
    payload: String,
}

fn captured() -> anyhow::Result<Vec<Envelope>> {
    let mut envelopes = Vec::new();
    for name in CAPTURES {
        let path = recorded::folder().join(format!("{name}.ndjson"));
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("reading {}", path.display()))?;
        for line in text.lines() {
            let line: Line = serde_json::from_str(line)?;
            envelopes.push(Envelope {
                stream_id: "7301234567890123456".to_owned(),
                session_id: uuid::Uuid::from_u128(7),
                source: Source::Live,
                kind: line.kind,
                seq_no: envelopes.len() as u64,
                timestamp: line.at,
                ingested_at: line.at,
                data: RawData::from_text(&line.payload).map_err(anyhow::Error::msg)?,
                msg_id: None,
                backlog: false,
                replay_of: None,
            });
        }
    }
    Ok(envelopes)
}
