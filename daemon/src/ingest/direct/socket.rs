//! The life of one WebSocket connection to a room, from entering to its end.
//!
//! In: an open connection. Out: the room's messages as parcels in the outbox, and an [`End`] that
//! says why it is over. On receipt a frame is acknowledged, then handed on: an acknowledgement
//! confirms receipt, not processing. While the outbox is full reading pauses and heartbeats go on.
//! A frame that cannot be read goes to the dead letters, and the next one is read. Frames that
//! arrived before a close are processed, since all is read in order (protocol sheet §3, §4).

use std::pin::Pin;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use jiff::Timestamp as Clock;
use shared::time::Timestamp;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use tokio_util::sync::CancellationToken;

use super::dial::describe;
use super::frame::{self, Malformed};
use super::http::tame;
use crate::bus::DeadLetter;
use crate::ingest::outbox::{Outlet, Parcel, Place};
use crate::ingest::provider::End;
use crate::ingest::session::Session;

const HEARTBEAT: Duration = Duration::from_secs(10);
/// A peer that takes longer to accept a few bytes is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// For the closing handshake; then the connection is dropped.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);
/// What is still on its way after the end of the broadcast has this long to arrive.
const AFTER_END: Duration = Duration::from_secs(1);
/// Frames of one session that become dead letters; further ones are only counted.
const DEAD_LETTERS: u64 = 100;

/// An open connection.
#[derive(Debug)]
pub(in crate::ingest) struct Connection<S = MaybeTlsStream<TcpStream>> {
    socket: WebSocketStream<S>,
    room_id: i64,
    beats: i64,
}

/// A parcel that waits for its place in the outbox.
struct Held {
    parcel: Parcel,
    place: Pin<Box<dyn Future<Output = Place> + Send>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// A connection whose handshake is done.
    pub(super) fn new(socket: WebSocketStream<S>, room_id: i64) -> Self {
        Self {
            socket,
            room_id,
            beats: 0,
        }
    }

    /// Enters the room and reads it until the end. `first` goes ahead of all that is read.
    pub(in crate::ingest) async fn run(
        mut self,
        session: &mut Session,
        first: Parcel,
        outlet: &Outlet,
        silence: Duration,
        stop: &CancellationToken,
    ) -> End {
        let end = self.converse(session, first, outlet, silence, stop).await;
        // The peer may be gone already; what matters has been read.
        let _ = timeout(CLOSE_TIMEOUT, self.socket.close(None)).await;
        if session.has_ended() && end.reason != "shutdown" {
            End {
                reason: "stream_end",
                ..end
            }
        } else {
            end
        }
    }

    async fn converse(
        &mut self,
        session: &mut Session,
        first: Parcel,
        outlet: &Outlet,
        silence: Duration,
        stop: &CancellationToken,
    ) -> End {
        let mut held = Some(Held {
            place: Box::pin(outlet.admit(&first)),
            parcel: first,
        });
        if let Err(end) = self.send(frame::enter_room(self.room_id), stop).await {
            outlet.send_now(held.map(|held| held.parcel).unwrap_or_default());
            return end;
        }
        let mut beat = interval(HEARTBEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut alive_until = Instant::now() + silence;
        let mut over_at: Option<Instant> = None;

        let end = loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break End { reason: "shutdown", ..End::default() },
                _ = beat.tick() => {
                    self.beats += 1;
                    if let Err(end) = self.send(frame::heartbeat(self.room_id, self.beats), stop).await {
                        break end;
                    }
                }
                place = admitted(&mut held), if held.is_some() => {
                    if let Some(held) = held.take() {
                        outlet.send(held.parcel, place);
                    }
                    // We did not listen meanwhile: silence counts from now.
                    alive_until = Instant::now() + silence;
                }
                () = sleep_until(over_at.unwrap_or(alive_until)), if held.is_none() => {
                    break End { reason: "silent", ..End::default() };
                }
                message = self.socket.next(), if held.is_none() => {
                    alive_until = Instant::now() + silence;
                    let bytes = match message {
                        Some(Ok(Message::Binary(bytes))) => bytes,
                        Some(Ok(Message::Text(text))) => {
                            let malformed = Malformed::Text;
                            let letter = dead_letter(session, &malformed.to_string(), text.as_bytes());
                            held = hold(outlet, Parcel { dead_letters: letter, ..Parcel::default() });
                            continue;
                        }
                        Some(Ok(Message::Close(frame))) => {
                            let detail = frame.as_ref().map(|frame| tame(&frame.reason));
                            break End {
                                reason: "closed",
                                close_code: Some(frame.map_or(1005, |frame| frame.code.into())),
                                detail: detail.filter(|text| !text.is_empty()),
                            };
                        }
                        // Pings are answered by the library.
                        Some(Ok(_)) => continue,
                        Some(Err(error)) => break failed(&error),
                        None => break End { reason: "lost", close_code: Some(1006), detail: None },
                    };
                    match self.take(&bytes, session, stop).await {
                        Ok(parcel) => held = hold(outlet, parcel),
                        Err((parcel, end)) => {
                            held = hold(outlet, parcel);
                            break end;
                        }
                    }
                    if session.has_ended() && over_at.is_none() {
                        over_at = Some(Instant::now() + AFTER_END);
                    }
                }
            }
        };
        if let Some(held) = held {
            outlet.send_now(held.parcel);
        }
        end
    }

    /// Reads one frame, acknowledges it and makes a parcel of it, also when the acknowledgement
    /// finds the connection broken.
    async fn take(
        &mut self,
        bytes: &Bytes,
        session: &mut Session,
        stop: &CancellationToken,
    ) -> Result<Parcel, (Parcel, End)> {
        let frame = match frame::read(bytes) {
            Ok(frame) => frame,
            Err(error) => {
                let letter = dead_letter(session, &error.to_string(), bytes);
                return Ok(Parcel {
                    dead_letters: letter,
                    ..Parcel::default()
                });
            }
        };
        let acked = match frame.ack {
            Some(ack) => self.send(ack, stop).await,
            None => Ok(()),
        };
        let parcel = parcel(frame.messages, session, false);
        match acked {
            Ok(()) => Ok(parcel),
            Err(end) => Err((parcel, end)),
        }
    }

    async fn send(&mut self, frame: Bytes, stop: &CancellationToken) -> Result<(), End> {
        let sending = timeout(WRITE_TIMEOUT, self.socket.send(Message::Binary(frame)));
        match stop.run_until_cancelled(sending).await {
            None => Err(End {
                reason: "shutdown",
                ..End::default()
            }),
            Some(Ok(Ok(()))) => Ok(()),
            Some(Ok(Err(error))) => Err(failed(&error)),
            Some(Err(_)) => Err(End {
                reason: "lost",
                close_code: Some(1006),
                detail: Some("writing timed out".to_owned()),
            }),
        }
    }
}

async fn admitted(held: &mut Option<Held>) -> Place {
    match held {
        Some(held) => held.place.as_mut().await,
        None => std::future::pending().await,
    }
}

fn hold(outlet: &Outlet, parcel: Parcel) -> Option<Held> {
    (!parcel.is_empty()).then(|| Held {
        place: Box::pin(outlet.admit(&parcel)),
        parcel,
    })
}

/// Messages in their order, without those that came before.
pub(in crate::ingest) fn parcel(
    messages: Vec<Result<crate::proto::frames::BaseMessage, frame::Damaged>>,
    session: &mut Session,
    backlog: bool,
) -> Parcel {
    let now = now();
    let mut parcel = Parcel::default();
    for message in messages {
        match message {
            Ok(message) => parcel.envelopes.extend(session.take(message, backlog, now)),
            Err(damaged) => {
                let error = format!("a message of the frame: {}", damaged.error);
                parcel
                    .dead_letters
                    .extend(dead_letter(session, &error, &damaged.bytes));
            }
        }
    }
    parcel
}

/// What cannot be read, as a dead letter with its bytes; none once there are too many.
fn dead_letter(session: &mut Session, error: &str, bytes: &[u8]) -> Vec<DeadLetter> {
    session.count_malformed();
    let count = session.counts().malformed;
    if count <= DEAD_LETTERS || count.is_power_of_two() {
        tracing::warn!(
            stage = "ingest",
            stream_id = session.stream_id(),
            session_id = %session.id(),
            reason = "FRAME_ERROR",
            error,
            bytes = bytes.len(),
            count,
            "cannot read a frame"
        );
    }
    if count > DEAD_LETTERS {
        return Vec::new();
    }
    let failed_at = now();
    let payload = serde_json::json!({
        "streamId": session.stream_id(),
        "sessionId": session.id(),
        "ingestedAt": failed_at,
        "frame": STANDARD.encode(bytes),
    });
    vec![DeadLetter {
        stage: "ingest",
        reason: "FRAME_ERROR",
        error: tame(error),
        payload: payload.to_string(),
        failed_at,
    }]
}

fn failed(error: &tungstenite::Error) -> End {
    let lost = End {
        reason: "lost",
        close_code: Some(1006),
        detail: Some(tame(&describe(error))),
    };
    match error {
        tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => lost,
        tungstenite::Error::Protocol(_)
        | tungstenite::Error::Capacity(_)
        | tungstenite::Error::Utf8(_) => End {
            reason: "protocol",
            close_code: None,
            ..lost
        },
        _ => lost,
    }
}

fn now() -> Timestamp {
    Clock::now().into()
}

#[cfg(test)]
mod tests;
