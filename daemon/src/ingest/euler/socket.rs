//! The life of one WebSocket to Euler, from its first words to its end.
//!
//! In: an open socket. Out: the room that it shows, then the room's messages as parcels in the
//! outbox, and an [`End`] that says why it is over. What comes before the room is known is kept and
//! read again when somebody enters (`introduction`). Messages come as JSON, or, when asked for, as
//! TikTok's own frames, which the direct provider's decoder reads; whichever comes is taken.
//! Euler's own talk (`workerInfo`, `roomInfo`, `tiktok.connect`, `.disconnect`, `.rawBytes`) is
//! about the connection and stays here; everything else goes on, known or not. What cannot be read
//! goes to the dead letters, and the next one is read. There is no cursor and no resume: what is
//! sent while no socket is open is lost (fact sheet §2).

mod introduction;

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use rand::Rng as _;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use tokio_util::sync::CancellationToken;

use super::close::{self, Mask};
use super::envelope::{self, Item};
use super::room::{self, News};
use crate::ingest::direct::frame;
use crate::ingest::direct::http::tame;
use crate::ingest::outbox::{Outlet, Parcel};
use crate::ingest::provider::{Delivery, End};
use crate::ingest::session::{JsonMessage, Session};
use crate::ingest::socket::{AFTER_END, Held, admitted, dead_letter, failed, hold, now, write};
use crate::proto;
use crate::proto::frames::BaseMessage;

/// Euler closes a socket after 8 h (4555). We go before, each socket at a moment of its own.
const LIFETIME: Duration = Duration::from_mins(7 * 60 + 30);
const LIFETIME_JITTER: Duration = Duration::from_mins(20);
/// TikTok sends recent messages again at the beginning of a connection: so long.
const HISTORY_WINDOW: Duration = Duration::from_mins(1);
/// A message that is so much older than the connection, in milliseconds, was sent before it:
/// usual delays are 0.5–1.6 s, history is 11 s old and more. Beyond a day its clock is wrong.
const HISTORY_AGE: std::ops::Range<i64> = 5_000..24 * 3600 * 1000;

/// An open socket.
#[derive(Debug)]
pub(in crate::ingest) struct Connection<S = MaybeTlsStream<TcpStream>> {
    socket: WebSocketStream<S>,
    mask: Mask,
    opened: Instant,
    /// When it was opened, in Unix milliseconds, by Euler's clock as soon as that is known.
    began_ms: i64,
    renew_at: Instant,
    /// What came before anybody entered.
    early: VecDeque<Message>,
    room_id: String,
    /// What TikTok's side said when it went.
    last_words: Option<String>,
    /// Messages that name another room.
    foreign: u64,
    /// One of the sockets that may be open.
    _permit: Option<OwnedSemaphorePermit>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// A socket whose handshake is done.
    pub(super) fn new(
        socket: WebSocketStream<S>,
        mask: Mask,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Self {
        let opened = Instant::now();
        let jitter = rand::rng().random_range(0.0..1.0);
        Self {
            socket,
            mask,
            opened,
            began_ms: now().as_millis(),
            renew_at: opened + LIFETIME - LIFETIME_JITTER.mul_f64(jitter),
            early: VecDeque::new(),
            room_id: String::new(),
            last_words: None,
            foreign: 0,
            _permit: permit,
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
        // Nothing has to be sent, and a quiet room sends nothing: pings tell it from a dead socket.
        let mut pings = interval((silence / 3).max(Duration::from_millis(100)));
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        pings.reset();
        let mut alive_until = Instant::now() + silence;
        let mut over_at: Option<Instant> = None;

        let end = loop {
            let (deadline, reason) = match over_at {
                Some(over_at) => (over_at, "stream_end"),
                None if self.renew_at < alive_until => (self.renew_at, "renewed"),
                None => (alive_until, "silent"),
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => break End::of("shutdown"),
                _ = pings.tick() => {
                    let ping = Message::Ping(Bytes::new());
                    if let Err(end) = write(&mut self.socket, ping, stop).await {
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
                () = sleep_until(deadline), if held.is_none() => break End::of(reason),
                message = next(&mut self.early, &mut self.socket), if held.is_none() => {
                    alive_until = Instant::now() + silence;
                    let message = match message {
                        Some(Ok(Message::Close(frame))) => {
                            let (code, detail) = self.parting(frame);
                            break close::end(code, detail.or(self.last_words.take()));
                        }
                        Some(Ok(message)) => message,
                        Some(Err(error)) => break failed(&error),
                        None => break End::lost(None),
                    };
                    match self.take(message, session, stop).await {
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

    /// Reads one WebSocket message and makes a parcel of it, also when it is the last one.
    async fn take(
        &mut self,
        message: Message,
        session: &mut Session,
        stop: &CancellationToken,
    ) -> Result<Parcel, (Parcel, End)> {
        match message {
            Message::Text(text) => self.take_json(&text, session),
            Message::Binary(bytes) => {
                let bytes = match frame::inflate(bytes.clone()) {
                    Ok(inflated) => inflated,
                    Err(error) => return Ok(self.unread(&error.to_string(), &bytes, session)),
                };
                if !envelope::is_json(&bytes) {
                    return self.take_frame(&bytes, session, stop).await;
                }
                match std::str::from_utf8(&bytes) {
                    Ok(text) => self.take_json(text, session),
                    Err(_) => Ok(self.unread("JSON that is no UTF-8", &bytes, session)),
                }
            }
            // Pings are answered by the library; they and pongs are signs of life.
            _ => Ok(Parcel::default()),
        }
    }

    /// A frame of TikTok's, as it is.
    async fn take_frame(
        &mut self,
        bytes: &Bytes,
        session: &mut Session,
        stop: &CancellationToken,
    ) -> Result<Parcel, (Parcel, End)> {
        let frame = match frame::read(bytes) {
            Ok(frame) => frame,
            Err(error) => return Ok(self.unread(&error.to_string(), bytes, session)),
        };
        let acked = match frame.ack {
            Some(ack) => write(&mut self.socket, Message::Binary(ack), stop).await,
            None => Ok(()),
        };
        let mut parcel = Parcel::default();
        for message in frame.messages {
            match message {
                Ok(message) => self.publish_raw(message, session, &mut parcel),
                Err(damaged) => {
                    let error = format!("a message of the frame: {}", damaged.error);
                    let letter = dead_letter(session, &error, &damaged.bytes);
                    parcel.dead_letters.extend(letter);
                }
            }
        }
        match acked {
            Ok(()) => Ok(parcel),
            Err(end) => Err((parcel, end)),
        }
    }

    fn take_json(&mut self, text: &str, session: &mut Session) -> Result<Parcel, (Parcel, End)> {
        let mask = self.mask.clone();
        let text = mask.hide(text);
        let envelope = match envelope::read(&text) {
            Ok(envelope) => envelope,
            Err(error) => return Ok(self.unread(&error.to_string(), text.as_bytes(), session)),
        };
        let mut parcel = Parcel::default();
        let mut moved = None;
        for item in envelope.items {
            match item {
                Ok(item) => {
                    moved = moved.or(self.sort(item, envelope.sent_ms, session, &mut parcel));
                }
                Err(misshapen) => {
                    let letter = dead_letter(session, misshapen.error, misshapen.json.as_bytes());
                    parcel.dead_letters.extend(letter);
                }
            }
        }
        match moved {
            None => Ok(parcel),
            Some(room) => {
                let detail = Some(format!("now in room {room}"));
                Err((
                    parcel,
                    End {
                        detail,
                        ..End::of("room_changed")
                    },
                ))
            }
        }
    }

    /// Euler's own talk stays here, all else goes on. The room that the socket shows now, if that
    /// is another one.
    fn sort(
        &mut self,
        item: Item,
        sent_ms: Option<i64>,
        session: &mut Session,
        parcel: &mut Parcel,
    ) -> Option<String> {
        match item.kind.as_str() {
            // The last one repeats, unasked, as bytes what comes as JSON, too.
            "workerInfo" | "tiktok.connect" | "tiktok.rawBytes" => {}
            "tiktok.disconnect" => {
                let reason = item.data.get("reason").and_then(Value::as_str);
                self.last_words = reason.map(tame);
            }
            "roomInfo" => {
                if let Ok(News::Live(room)) = room::read(&item.data)
                    && room.id != self.room_id
                {
                    return Some(room.id);
                }
            }
            _ => self.publish(item, sent_ms, session, parcel),
        }
        None
    }

    fn publish(
        &mut self,
        item: Item,
        sent_ms: Option<i64>,
        session: &mut Session,
        parcel: &mut Parcel,
    ) {
        let message = JsonMessage::new(item.kind, item.data, sent_ms);
        if let Some(payload) = item.raw {
            let message = message.with_body(payload);
            return self.publish_raw(message, session, parcel);
        }
        self.count_foreign(message.room_id.as_deref());
        let backlog = self.is_history(message.created_ms);
        parcel
            .envelopes
            .extend(session.take_json(message, backlog, now()));
    }

    fn publish_raw(&mut self, message: BaseMessage, session: &mut Session, parcel: &mut Parcel) {
        let header = proto::header(&message.payload).unwrap_or_default();
        self.count_foreign(header.room_id.map(|id| id.to_string()).as_deref());
        let backlog = self.is_history(header.create_time_ms);
        parcel
            .envelopes
            .extend(session.take(message, backlog, now()));
    }

    /// Real rooms get messages that name another one (co-hosts' and recommended rooms), and reduced
    /// headers name any: what the socket of a creator brings is the creator's.
    fn count_foreign(&mut self, room_id: Option<&str>) {
        if room_id.is_some_and(|id| id != self.room_id) {
            self.foreign += 1;
        }
    }

    /// Whether a message of this time was sent before the socket was opened.
    fn is_history(&self, created_ms: Option<i64>) -> bool {
        self.opened.elapsed() < HISTORY_WINDOW
            && created_ms
                .is_some_and(|time| HISTORY_AGE.contains(&self.began_ms.saturating_sub(time)))
    }

    fn unread(&self, error: &str, bytes: &[u8], session: &mut Session) -> Parcel {
        let text = String::from_utf8_lossy(bytes);
        let clean = self.mask.hide(&text);
        // The bytes as they came, unless the key is among them.
        let bytes = if clean == text {
            bytes
        } else {
            clean.as_bytes()
        };
        Parcel {
            dead_letters: dead_letter(session, error, bytes),
            ..Parcel::default()
        }
    }

    /// Code and words of a close frame.
    fn parting(&self, frame: Option<CloseFrame>) -> (u16, Option<String>) {
        let Some(frame) = frame else {
            return (1005, None);
        };
        let words = tame(&self.mask.hide(&frame.reason));
        (
            frame.code.into(),
            Some(words).filter(|words| !words.is_empty()),
        )
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Delivery for Connection<S> {
    fn room_id(&self) -> &str {
        &self.room_id
    }

    /// Nothing: what came early is read with the rest, and is a sign that the socket works.
    fn backlog(&mut self, _session: &mut Session) -> Parcel {
        Parcel::default()
    }

    async fn run(
        mut self,
        session: &mut Session,
        first: Parcel,
        outlet: &Outlet,
        silence: Duration,
        stop: &CancellationToken,
    ) -> End {
        let end = self.converse(session, first, outlet, silence, stop).await;
        crate::ingest::socket::close(&mut self.socket).await;
        if self.foreign > 0 {
            let (stream_id, messages) = (session.stream_id(), self.foreign);
            tracing::info!(stage = "ingest", stream_id, messages, "named another room");
        }
        if session.has_ended() && end.reason != "shutdown" {
            End {
                reason: "stream_end",
                ..end
            }
        } else {
            end
        }
    }
}

/// What came early, then what comes.
async fn next<S: AsyncRead + AsyncWrite + Unpin>(
    early: &mut VecDeque<Message>,
    socket: &mut WebSocketStream<S>,
) -> Option<Result<Message, tokio_tungstenite::tungstenite::Error>> {
    match early.pop_front() {
        Some(message) => Some(Ok(message)),
        None => socket.next().await,
    }
}

#[cfg(test)]
mod tests;
