//! What the stages are given: raw entries made of recorded messages, and the events they become.
//!
//! Twenty rooms, each with its CONNECTED, in turns, fifty messages a second in each, the last one a
//! moment ago. Every message has an id and a number of its own; people are those of the recordings.

use std::time::SystemTime;

use anyhow::Context;
use daemon::normalizer::Normalizer;
use redis::aio::MultiplexedConnection;
use shared::{
    identity::first_seq_no,
    raw::{Envelope, RawData, Source},
    streams::{StreamNames, events},
    time::Timestamp,
};
use uuid::Uuid;

use crate::recorded;

const ROOMS: u64 = 20;
/// Messages a second in each room.
const RATE: i64 = 50;
/// Entries sent to Redis at a time, when it is only about having them there.
const LOT: usize = 1_000;

/// An entry of the events stream.
pub(super) struct Event {
    pub(super) json: String,
    pub(super) normalized_at: String,
    pub(super) raw: String,
}

impl Event {
    pub(super) fn fields(&self) -> [(&'static str, &str); 3] {
        [
            (events::EVENT, &self.json),
            (events::NORMALIZED_AT, &self.normalized_at),
            (events::RAW, &self.raw),
        ]
    }
}

pub(super) struct Traffic {
    pub(super) envelopes: Vec<Envelope>,
    pub(super) events: Vec<Event>,
}

impl Traffic {
    /// So many messages.
    pub(super) fn new(messages: u32) -> anyhow::Result<Self> {
        let source = recorded::messages()?;
        let capture = recorded::repeat(&source, messages, 1);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        let now = i64::try_from(now.as_millis())?;
        let lasts = i64::from(messages) * 1_000 / (RATE * i64::try_from(ROOMS)?);
        let begin = now - lasts;
        let mut envelopes = Vec::with_capacity(capture.lines.len());
        let sessions: Vec<Uuid> = (0..ROOMS)
            .map(|room| Uuid::from_u128(0x0198 << 112 | u128::from(room)))
            .collect();
        let mut numbers = vec![first_seq_no(None, begin); sessions.len()];
        for (index, line) in (0_i64..).zip(&capture.lines) {
            let room = usize::try_from(index)? % sessions.len();
            let at = begin + index * 1_000 / (RATE * i64::try_from(ROOMS)?);
            let mut envelope = |kind: &str, data, msg_id| {
                let seq_no = numbers[room];
                numbers[room] += 1;
                Envelope {
                    stream_id: format!("73012345678901{room:05}"),
                    session_id: sessions[room],
                    source: Source::Live,
                    kind: kind.to_owned(),
                    seq_no,
                    timestamp: Timestamp::from_millis(at),
                    ingested_at: Timestamp::from_millis(at),
                    data,
                    msg_id,
                    backlog: false,
                    replay_of: None,
                }
            };
            if usize::try_from(index)? < sessions.len() {
                let connected = serde_json::json!({
                    "uniqueId": format!("creator{room}"), "provider": "direct", "attempt": 1, "reason": "start",
                });
                let connected = connected.as_object().context("an object")?.clone();
                envelopes.push(envelope(
                    shared::raw::control::CONNECTED,
                    RawData::Json(connected),
                    None,
                ));
            }
            let msg_id =
                upstream::patch::header(&line.payload).map(|header| header.msg_id.to_string());
            envelopes.push(envelope(
                &line.method,
                RawData::Protobuf(line.payload.to_vec()),
                msg_id,
            ));
        }
        let events = normalized(&envelopes)?;
        Ok(Self { envelopes, events })
    }

    /// Puts all raw entries into Redis.
    pub(super) async fn publish(&self, redis: &mut MultiplexedConnection) -> anyhow::Result<()> {
        for lot in self.envelopes.chunks(LOT) {
            add_raw(redis, lot).await?;
        }
        Ok(())
    }

    /// Puts all events into Redis.
    pub(super) async fn publish_events(
        &self,
        redis: &mut MultiplexedConnection,
    ) -> anyhow::Result<()> {
        let stream = StreamNames::new(1).events(0);
        for lot in self.events.chunks(LOT) {
            let mut pipe = redis::pipe();
            for event in lot {
                pipe.cmd("XADD")
                    .arg(&stream)
                    .arg("*")
                    .arg(&event.fields())
                    .ignore();
            }
            pipe.exec_async(redis).await?;
        }
        Ok(())
    }
}

/// Adds raw entries by a plain pipeline.
pub(super) async fn add_raw(
    redis: &mut MultiplexedConnection,
    envelopes: &[Envelope],
) -> anyhow::Result<()> {
    let stream = StreamNames::new(1).raw(0);
    let mut pipe = redis::pipe();
    for envelope in envelopes {
        pipe.cmd("XADD").arg(&stream).arg("*");
        for (field, value) in envelope.to_fields() {
            pipe.arg(field).arg(value.as_ref());
        }
        pipe.ignore();
    }
    Ok(pipe.exec_async(redis).await?)
}

fn normalized(envelopes: &[Envelope]) -> anyhow::Result<Vec<Event>> {
    let mut normalizer = Normalizer::new()?;
    let mut events = Vec::with_capacity(envelopes.len());
    for envelope in envelopes {
        let taken = normalizer.take(envelope);
        let normalized_at = envelope.ingested_at.to_string();
        for timeout in taken.timeouts {
            events.push(Event {
                json: timeout.json,
                normalized_at: normalized_at.clone(),
                raw: "{}".to_owned(),
            });
        }
        events.push(Event {
            json: taken.event.map_err(anyhow::Error::msg)?.json,
            normalized_at,
            raw: envelope.data.to_text(),
        });
    }
    Ok(events)
}
