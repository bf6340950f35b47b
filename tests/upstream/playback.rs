//! Plays a creator's capture as broadcasts.
//!
//! In: the recorded lines. Out: messages to everybody who is connected, and to the ledger.
//!
//! - Each lap of a capture is a new broadcast: a fresh room id, fresh message ids and times that
//!   keep the age each message had when it was recorded. The same recorded message id stays one
//!   id within a lap, so that a repeat in the capture is a repeat on the wire.
//! - A recorded end of stream ends the broadcast: it is sent, the sockets are closed, the creator
//!   is offline for a pause, and what follows in the capture is the next broadcast. The end of
//!   the capture does the same without a message, for none was recorded.
//! - A broadcast waits for its first client, pauses when the last one leaves and goes on where it
//!   stands: a client that stays connected misses nothing, and one that drops and comes back
//!   misses nothing but what was on its way to it (of which it gets the last few again).

use std::{
    collections::HashMap,
    ops::Range,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;

use crate::{
    Stage,
    capture::{Capture, Line},
    fresh,
    ledger::Sent,
    patch::{self, Header},
    room::{Room, Tell},
    script::{Act, Pace, Record},
    wire::RoomMessage,
};

/// Times below this are seconds, not milliseconds.
const SECONDS_BELOW: i64 = 100_000_000_000;

/// Raises the curtain of the first broadcast; the rest is for the returned task.
pub(crate) fn play(
    stage: Arc<Stage>,
    room: Arc<Room>,
    capture: Capture,
) -> impl Future<Output = ()> + Send {
    let first = begin(&room, 0);
    play_laps(stage, room, capture, first)
}

fn begin(room: &Room, lap: u32) -> i64 {
    let room_id = room.begin(format!("{} live, lap {}", room.name, lap + 1));
    tracing::info!(creator = room.name, room_id, lap, "broadcast begins");
    room_id
}

async fn play_laps(stage: Arc<Stage>, room: Arc<Room>, capture: Capture, first: i64) {
    let mut lap = 0;
    let mut room_id = first;
    while stage.script.laps.is_none_or(|laps| lap < laps) {
        let mut ids = Ids::default();
        for (number, broadcast) in capture.broadcasts().into_iter().enumerate() {
            if lap > 0 || number > 0 {
                tokio::time::sleep(stage.script.offline_pause).await;
                room_id = begin(&room, lap);
            }
            play_broadcast(&stage, &room, &capture, broadcast, room_id, lap, &mut ids).await;
            room.end().await;
            tracing::info!(creator = room.name, room_id, lap, "broadcast ends");
        }
        lap += 1;
    }
    room.finish();
    tracing::info!(creator = room.name, "the last lap is over");
}

async fn play_broadcast(
    stage: &Stage,
    room: &Room,
    capture: &Capture,
    broadcast: Range<usize>,
    room_id: i64,
    lap: u32,
    ids: &mut Ids,
) {
    let mut before: Option<i64> = None;
    for frame in capture.frames(broadcast) {
        let at = capture.lines[frame.start].at;
        if let Some(before) = before {
            tokio::time::sleep(gap(stage.script.pace, at - before)).await;
        }
        before = Some(at);
        room.somebody().await;

        let mut extra = Vec::new();
        for act in room.acts_due() {
            tracing::info!(creator = room.name, ?act, "fault");
            match act {
                Act::Drop => room.tell_and_forget(&Tell::Drop).await,
                Act::Hang => room.tell_and_forget(&Tell::Hang).await,
                Act::Close { code, reason } => {
                    room.tell_and_forget(&Tell::Close { code, reason }).await;
                }
                Act::Frame { bytes } => room.tell(&Tell::Raw(bytes)).await,
                Act::Text { text } => room.tell(&Tell::Text(text)).await,
                Act::Message { method, payload } => extra.push((method, payload)),
            }
        }
        room.somebody().await;

        let now = fresh::now_ms();
        let mut messages: Vec<(Option<usize>, RoomMessage)> = capture.lines[frame.clone()]
            .iter()
            .zip(frame)
            .map(|(line, index)| (Some(index), ids.renew(line, room_id, now)))
            .collect();
        for (method, payload) in extra {
            let msg_id = fresh::id();
            let message = RoomMessage {
                method,
                payload,
                msg_id,
                ..RoomMessage::default()
            };
            messages.insert(messages.len() / 2, (None, message));
        }
        stage
            .ledger
            .count(|counts| counts.messages += messages.len() as u64);
        if stage.script.record != Record::Counts {
            let at = SystemTime::now();
            stage
                .ledger
                .record_sent(messages.iter().map(|(line, message)| Sent {
                    creator: room.name.clone(),
                    room_id,
                    method: message.method.clone(),
                    msg_id: message.msg_id,
                    payload: match stage.script.record {
                        Record::Everything => message.payload.clone(),
                        _ => Bytes::new(),
                    },
                    line: *line,
                    lap,
                    at,
                }));
        }
        room.send(Arc::new(
            messages.into_iter().map(|(_, message)| message).collect(),
        ))
        .await;
    }
}

/// How long to wait where the recording waited `recorded` milliseconds.
fn gap(pace: Pace, recorded: i64) -> Duration {
    match pace {
        Pace::AsFastAsPossible => Duration::ZERO,
        Pace::Every(gap) => gap,
        Pace::Recorded { max_gap, speed } => {
            let recorded = Duration::from_millis(u64::try_from(recorded).unwrap_or(0));
            recorded.min(max_gap).div_f64(speed)
        }
    }
}

/// The new header of each recorded message id of a lap.
#[derive(Default)]
struct Ids(HashMap<i64, (i64, i64)>);

impl Ids {
    /// The recorded line as a message of today.
    fn renew(&mut self, line: &Line, room_id: i64, now: i64) -> RoomMessage {
        let old = patch::header(&line.payload).unwrap_or_default();
        let fresh = || (fresh::id(), shift(old.create_time, line.at, now));
        let (msg_id, create_time) = match old.msg_id {
            0 => fresh(),
            // A message that is sent again is the same message: same id, same time.
            id => *self.0.entry(id).or_insert_with(fresh),
        };
        let new = Header {
            msg_id,
            room_id,
            create_time,
        };
        RoomMessage {
            method: line.method.clone(),
            payload: patch::patch(&line.payload, new).into(),
            msg_id,
            ..RoomMessage::default()
        }
    }
}

/// A recorded time moved so that the message is as old now as it was when it arrived. 0 stays 0,
/// seconds stay seconds.
fn shift(recorded: i64, arrived: i64, now: i64) -> i64 {
    match recorded {
        0 => 0,
        seconds if seconds < SECONDS_BELOW => (seconds * 1000 - arrived + now) / 1000,
        millis => millis - arrived + now,
    }
}

#[cfg(test)]
mod tests;
