//! The first words of a socket: which room it shows.
//!
//! In: an open socket. Out: the room, or that there is no broadcast. What comes before that is kept,
//! and read again when somebody enters. Takes 25 s and 4 MiB at most.

use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::tungstenite::Message;

use super::{Connection, HISTORY_AGE};
use crate::ingest::direct::frame;
use crate::ingest::direct::http::tame;
use crate::ingest::euler::close::{Error, Mask, NOT_LIVE, STREAM_END};
use crate::ingest::euler::envelope::{self, Envelope};
use crate::ingest::euler::room::{self, News};
use crate::ingest::provider::Room;
use crate::ingest::socket::failed;

/// How long the room may take to be told.
pub(super) const ROOM_TIMEOUT: Duration = Duration::from_secs(20);

/// How long TikTok's side may take to be connected after that; then reading begins all the same.
pub(super) const READY_TIMEOUT: Duration = Duration::from_secs(5);

/// What may come before the room is known, in bytes and in frames.
const EARLY_BYTES: usize = 4 * 1024 * 1024;

const EARLY_FRAMES: usize = 1_000;

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Listens until the room is told and TikTok's side is connected; `None`: there is no
    /// broadcast. Takes 25 s at most.
    pub(in crate::ingest::euler) async fn introduce(&mut self) -> Result<Option<Room>, Error> {
        let mut room: Option<Room> = None;
        let mut ready = false;
        let mut until = self.opened + ROOM_TIMEOUT;
        let mut bytes = 0;
        loop {
            if ready && room.is_some() {
                return Ok(room);
            }
            let Ok(message) = timeout_at(until, self.socket.next()).await else {
                return match room {
                    Some(room) => Ok(Some(room)),
                    None => Err(Error::NoRoom("it took too long".to_owned())),
                };
            };
            let message = match message {
                Some(Ok(Message::Close(frame))) => {
                    return match self.parting(frame) {
                        (STREAM_END | NOT_LIVE, _) => Ok(None),
                        (code, message) => Err(Error::Closed { code, message }),
                    };
                }
                Some(Ok(message)) if message.is_text() || message.is_binary() => message,
                Some(Ok(_)) => continue,
                Some(Err(error)) => {
                    let end = failed(&error);
                    return Err(match end.close_code {
                        Some(code) => Error::Closed {
                            code,
                            message: end.detail,
                        },
                        None => Error::NoRoom(end.detail.unwrap_or_default()),
                    });
                }
                None => {
                    return Err(Error::Closed {
                        code: 1006,
                        message: None,
                    });
                }
            };
            bytes += message.len();
            if bytes > EARLY_BYTES || self.early.len() >= EARLY_FRAMES {
                return Err(Error::NoRoom("too much came before it".to_owned()));
            }
            if let Some(envelope) = peek(&message, &self.mask) {
                // Euler's clock rather than ours, since it is compared with TikTok's.
                if let Some(theirs) = envelope.sent_ms
                    && self.early.is_empty()
                    && HISTORY_AGE.end > self.began_ms.abs_diff(theirs).cast_signed()
                {
                    self.began_ms = theirs;
                }
                for item in envelope.items.iter().filter_map(|item| item.as_ref().ok()) {
                    match item.kind.as_str() {
                        "workerInfo" => self.log_worker(&item.data),
                        "roomInfo" => match room::read(&item.data) {
                            Ok(News::Live(found)) => {
                                self.room_id.clone_from(&found.id);
                                room = Some(found);
                                until = Instant::now() + READY_TIMEOUT;
                            }
                            Ok(News::Offline) => return Ok(None),
                            Err(why) => return Err(Error::NoRoom(why)),
                        },
                        "tiktok.disconnect" => {}
                        _ => ready = true,
                    }
                }
            } else {
                ready |= message.is_binary();
            }
            self.early.push_back(message);
        }
    }

    fn log_worker(&self, worker: &Map<String, Value>) {
        let text = |name: &str| Some(tame(&self.mask.hide(worker.get(name)?.as_str()?)));
        tracing::debug!(
            stage = "ingest",
            web_socket_id = text("webSocketId"),
            schema_version = text("schemaVersion"),
            "Euler's worker answered"
        );
    }
}

/// A message as JSON, if it is that and can be read.
fn peek(message: &Message, mask: &Mask) -> Option<Envelope> {
    let bytes = match message {
        Message::Text(text) => text.clone().into(),
        Message::Binary(bytes) => frame::inflate(bytes.clone()).ok()?,
        _ => return None,
    };
    let text = std::str::from_utf8(&bytes).ok()?;
    envelope::is_json(&bytes).then(|| envelope::read(&mask.hide(text)).ok())?
}
