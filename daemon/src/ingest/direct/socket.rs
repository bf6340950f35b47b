//! One WebSocket connection to a room, from the handshake to its end.
//!
//! In: a signed address. Out: the room's messages as parcels in the outbox, and an [`End`] that
//! says why it is over. On receipt a frame is acknowledged, then handed on: an acknowledgement
//! confirms receipt, not processing. While the outbox is full reading pauses and heartbeats go on.
//! A frame that cannot be read goes to the dead letters, and the next one is read. Frames that
//! arrived before a close are processed, since all is read in order (protocol sheet §3, §4).

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use jiff::Timestamp as Clock;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rand::Rng as _;
use shared::time::Timestamp;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::http::{HeaderMap, HeaderValue};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream, client_async_tls_with_config};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::device::{BROWSER, USER_AGENT, browser_name_and_version};
use super::frame::{self, Malformed};
use super::http::tame;
use super::proxy::Proxy;
use crate::bus::DeadLetter;
use crate::ingest::outbox::{Outlet, Parcel, Place};
use crate::ingest::session::Session;
use crate::proto::frames::FetchResult;

/// From the name to the end of the handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);
const HEARTBEAT: Duration = Duration::from_secs(10);
/// A peer that takes longer to accept a few bytes is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// For the closing handshake; then the connection is dropped.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);
/// What is still on its way after the end of the broadcast has this long to arrive.
const AFTER_END: Duration = Duration::from_secs(1);
const MESSAGE_LIMIT: usize = 2 * 1024 * 1024;
const FRAME_LIMIT: usize = 1024 * 1024;
/// Frames of one session that become dead letters; further ones are only counted.
const DEAD_LETTERS: u64 = 100;

/// Nothing but letters, digits and `-_.~` stays as it is.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// Why there is no connection.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(in crate::ingest) enum Error {
    /// The server answered with something else than an upgrade.
    #[error("handshake refused with status {status}: {message}")]
    Refused {
        /// HTTP status; 200, as a rule.
        status: u16,
        /// `Handshake-Msg`, such as `DEVICE_BLOCKED`.
        message: String,
    },
    /// The signed address cannot be used.
    #[error("the signed address is no good: {0}")]
    Address(&'static str),
    /// No answer.
    #[error("the room's server cannot be reached: {0}")]
    Unreachable(String),
}

impl Error {
    /// The category for events and logs.
    pub(in crate::ingest) fn reason(&self) -> &'static str {
        match self {
            Self::Refused { .. } => "handshake_refused",
            Self::Address(_) => "sign_failed",
            Self::Unreachable(_) => "unreachable",
        }
    }
}

/// Why a connection is over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::ingest) struct End {
    /// `stream_end`, `closed`, `lost`, `silent`, `protocol` or `shutdown`.
    pub(in crate::ingest) reason: &'static str,
    /// WebSocket close code; 1006 for a connection that broke off.
    pub(in crate::ingest) close_code: Option<u16>,
    /// More about it, free of secrets.
    pub(in crate::ingest) detail: Option<String>,
}

/// The address of a room's socket: what the sign server gave, with everything percent-encoded.
pub(super) fn address(
    room_id: &str,
    result: &FetchResult,
    encrypted: bool,
) -> Result<String, Error> {
    let server = Url::parse(&result.push_server).map_err(|_| Error::Address("it is no address"))?;
    match server.scheme() {
        "wss" => {}
        // The cookie must not travel in the clear, but towards a stand-in.
        "ws" if !encrypted => {}
        _ => return Err(Error::Address("it is not encrypted")),
    }
    if server.host_str().is_none_or(str::is_empty)
        || server.query().is_some()
        || server.fragment().is_some()
    {
        return Err(Error::Address("it is not just a server and a path"));
    }
    let (name, version) = browser_name_and_version();
    let rtt = rand::rng().random_range(100..=200).to_string();
    let mut params: Vec<(&str, &str)> = vec![("version_code", "180800")];
    params.extend(BROWSER);
    params.extend([
        ("browser_name", name),
        ("browser_version", version),
        ("device_platform", "web"),
        ("User-Agent", USER_AGENT),
        ("compress", "gzip"),
        ("identity", "audience"),
        ("live_id", "12"),
        ("ws_direct", "0"),
        ("sup_ws_ds_opt", "1"),
        ("update_version_code", "2.0.0"),
        ("did_rule", "3"),
        ("heartbeat_duration", "0"),
        ("resp_content_type", "protobuf"),
        ("history_comment_count", "6"),
        ("client_enter", "1"),
        ("last_rtt", &rtt),
        ("room_id", room_id),
        ("internal_ext", &result.internal_ext),
        ("cursor", &result.cursor),
    ]);
    let routes = result
        .route_params
        .iter()
        .filter(|(_, value)| !value.is_empty());
    params.extend(routes.map(|(name, value)| (name.as_str(), value.as_str())));
    // Once more: TikTok's own client sends it twice.
    params.push(("version_code", "270000"));

    let escaped = |text| utf8_percent_encode(text, ESCAPED);
    let query: Vec<_> = params
        .iter()
        .map(|(name, value)| format!("{}={}", escaped(name), escaped(value)))
        .collect();
    Ok(format!("{server}?{}", query.join("&")))
}

/// How sockets are opened: the operator's proxy and the system's certificates.
#[derive(Clone, Debug)]
pub(super) struct Dialer {
    pub(super) proxy: Option<Proxy>,
    pub(super) tls: Arc<rustls::ClientConfig>,
}

impl Dialer {
    /// Opens a socket.
    pub(super) async fn dial(
        &self,
        address: &str,
        cookies: &str,
        room_id: i64,
    ) -> Result<Connection, Error> {
        match timeout(HANDSHAKE_TIMEOUT, self.handshake(address, cookies)).await {
            Ok(Ok(socket)) => Ok(Connection {
                socket,
                room_id,
                beats: 0,
            }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::Unreachable("timed out".to_owned())),
        }
    }

    async fn handshake(
        &self,
        address: &str,
        cookies: &str,
    ) -> Result<WebSocketStream<MaybeTlsStream<TcpStream>>, Error> {
        let mut request = address
            .into_client_request()
            .map_err(|_| Error::Address("it is no address"))?;
        let headers = request.headers_mut();
        headers.insert("user-agent", HeaderValue::from_static(USER_AGENT));
        if let Ok(cookies) = HeaderValue::from_str(cookies) {
            headers.insert("cookie", cookies);
        }
        let encrypted = request.uri().scheme_str() == Some("wss");
        let host = request
            .uri()
            .host()
            .unwrap_or_default()
            .trim_matches(['[', ']'])
            .to_owned();
        let port = request
            .uri()
            .port_u16()
            .unwrap_or(if encrypted { 443 } else { 80 });
        let stream = match &self.proxy {
            Some(proxy) => proxy.connect(&host, port).await,
            None => TcpStream::connect((host.as_str(), port)).await,
        };
        let stream = stream.map_err(|error| Error::Unreachable(error.to_string()))?;
        // Acks and heartbeats are small and shall not wait for each other. Without it all works, too.
        let _ = stream.set_nodelay(true);
        let limits = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_LIMIT))
            .max_frame_size(Some(FRAME_LIMIT));
        let connector = Connector::Rustls(self.tls.clone());
        match client_async_tls_with_config(request, stream, Some(limits), Some(connector)).await {
            Ok((socket, _)) => Ok(socket),
            Err(tungstenite::Error::Http(response)) => {
                Err(refused(response.status().as_u16(), response.headers()))
            }
            Err(error) => Err(Error::Unreachable(describe(&error))),
        }
    }
}

/// TikTok refuses with HTTP 200 or 400 and says why in two headers.
fn refused(status: u16, headers: &HeaderMap) -> Error {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(tame)
    };
    let message = match (text("handshake-msg"), text("handshake-status")) {
        (Some(message), Some(number)) => format!("{message} ({number})"),
        (Some(message), None) => message,
        (None, Some(number)) => number,
        (None, None) => "no reason given".to_owned(),
    };
    Error::Refused { status, message }
}

/// An error of the WebSocket library, without what the peer may have repeated in it.
fn describe(error: &tungstenite::Error) -> String {
    match error {
        tungstenite::Error::Io(error) => error.to_string(),
        tungstenite::Error::Tls(error) => format!("tls: {error}"),
        tungstenite::Error::Capacity(error) => error.to_string(),
        tungstenite::Error::Protocol(error) => error.to_string(),
        tungstenite::Error::Url(_) | tungstenite::Error::HttpFormat(_) => {
            "the address cannot be used".to_owned()
        }
        _ => "the connection failed".to_owned(),
    }
}

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
                            let malformed = Malformed::Encoding("a text message".to_owned());
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
