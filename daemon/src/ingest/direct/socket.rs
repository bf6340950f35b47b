//! The life of one WebSocket connection to a room, from entering to its end.
//!
//! In: an open connection. Out: the room's messages as parcels in the outbox, and an [`End`] that
//! says why it is over. On receipt a frame is acknowledged, then handed on: an acknowledgement
//! confirms receipt, not processing. While the outbox is full reading pauses and heartbeats go on.
//! A frame that cannot be read goes to the dead letters, and the next one is read. Frames that
//! arrived before a close are processed, since all is read in order (protocol sheet §3, §4).

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use tokio_util::sync::CancellationToken;

use super::frame::{self, Malformed};
use super::http::tame;
use crate::ingest::outbox::{Outlet, Parcel};
use crate::ingest::provider::End;
use crate::ingest::session::Session;
use crate::ingest::socket::{
    AFTER_END, Held, admitted, close, dead_letter, failed, hold, now, write,
};

const HEARTBEAT: Duration = Duration::from_secs(10);

/// An open connection.
#[derive(Debug)]
pub(in crate::ingest) struct Connection<S = MaybeTlsStream<TcpStream>> {
    /// Boxed, for it is large and handed from future to future, each of which has room for it.
    socket: Box<WebSocketStream<S>>,
    room_id: i64,
    beats: i64,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// A connection whose handshake is done.
    pub(super) fn new(socket: WebSocketStream<S>, room_id: i64) -> Self {
        Self {
            socket: Box::new(socket),
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
        close(&mut self.socket).await;
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
        let mut held = Some(Held::new(outlet, first));
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
                () = stop.cancelled() => break End::of("shutdown"),
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
                    break End::of("silent");
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
                        None => break End::lost(None),
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
        write(&mut self.socket, Message::Binary(frame), stop).await
    }
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

#[cfg(test)]
mod tests;
