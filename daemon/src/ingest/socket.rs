//! What the WebSockets of both providers have in common.
//!
//! In: a request with its address and headers, later what arrives. Out: an open socket through the
//! operator's proxy, parcels that wait for their place in the outbox, dead letters for what cannot
//! be read (so many per session, the rest is counted), and an [`End`] that says why it is over.
//! Addresses and answers hold secrets: errors name neither.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::SinkExt as _;
use jiff::Timestamp as Clock;
use shared::dead_letter::redact_payload;
use shared::time::Timestamp;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::handshake::client::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream, client_async_tls_with_config};
use tokio_util::sync::CancellationToken;

use super::direct::http::tame;
use super::direct::proxy::Proxy;
use super::outbox::{Outlet, Parcel, Place};
use super::provider::End;
use super::session::Session;
use crate::bus::DeadLetter;
use crate::failpoint;

/// The largest WebSocket message and frame that is taken, in bytes.
const MESSAGE_LIMIT: usize = 2 * 1024 * 1024;
pub(super) const FRAME_LIMIT: usize = 1024 * 1024;
/// What a connection is read with, in bytes: the library allocates so much for each and fills it
/// with zeros at every read; a longer frame gets room for itself. Its own 128 KiB would be most of
/// what an idle room costs.
const READ_BUFFER: usize = 4 * 1024;
/// From the name to the end of the handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);
/// A peer that takes longer to accept a few bytes is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// For the closing handshake; then the connection is dropped.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);
/// What is still on its way after the end of the broadcast has this long to arrive.
pub(super) const AFTER_END: Duration = Duration::from_secs(1);
/// Frames of one session that become dead letters; further ones are only counted.
pub(super) const DEAD_LETTERS: u64 = 100;

impl End {
    /// An end of our own making.
    pub(super) fn of(reason: &'static str) -> Self {
        Self {
            reason,
            ..Self::default()
        }
    }

    /// The peer is gone.
    pub(super) fn lost(detail: Option<String>) -> Self {
        Self {
            reason: "lost",
            close_code: Some(1006),
            detail,
        }
    }
}

/// How sockets are opened: the operator's proxy and the system's certificates.
#[derive(Clone, Debug)]
pub(super) struct Dialer {
    pub(super) proxy: Option<Proxy>,
    pub(super) tls: Arc<rustls::ClientConfig>,
}

/// Why a socket was not opened.
pub(super) enum NotOpened {
    /// The server answered with something else than an upgrade. It may repeat the address.
    Refused(Box<tungstenite::http::Response<Option<Vec<u8>>>>),
    /// No answer; the text is free of secrets.
    Unreachable(String),
}

impl Dialer {
    /// Opens a socket, within 20 s.
    pub(super) async fn open(
        &self,
        request: Request,
    ) -> Result<WebSocketStream<MaybeTlsStream<TcpStream>>, NotOpened> {
        match timeout(HANDSHAKE_TIMEOUT, self.handshake(request)).await {
            Ok(Ok((socket, _))) => Ok(socket),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(NotOpened::Unreachable("timed out".to_owned())),
        }
    }

    async fn handshake(
        &self,
        request: Request,
    ) -> Result<(WebSocketStream<MaybeTlsStream<TcpStream>>, Response), NotOpened> {
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
        let stream = stream.map_err(|error| NotOpened::Unreachable(error.to_string()))?;
        // Acks and heartbeats are small and shall not wait for each other. Without it all works, too.
        let _ = stream.set_nodelay(true);
        let connector = Connector::Rustls(self.tls.clone());
        client_async_tls_with_config(request, stream, Some(limits()), Some(connector))
            .await
            .map_err(|error| match error {
                tungstenite::Error::Http(response) => NotOpened::Refused(response),
                error => NotOpened::Unreachable(describe(&error)),
            })
    }
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

/// Of the messages that we take; the library's own limits are 64 and 16 MiB.
pub(super) fn limits() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .max_message_size(Some(MESSAGE_LIMIT))
        .max_frame_size(Some(FRAME_LIMIT))
}

/// Why reading or writing failed.
pub(super) fn failed(error: &tungstenite::Error) -> End {
    let lost = End::lost(Some(tame(&describe(error))));
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

/// Writes one message.
pub(super) async fn write<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
    message: Message,
    stop: &CancellationToken,
) -> Result<(), End> {
    let sending = timeout(WRITE_TIMEOUT, socket.send(message));
    match stop.run_until_cancelled(sending).await {
        None => Err(End::of("shutdown")),
        Some(Ok(Ok(()))) => Ok(()),
        Some(Ok(Err(error))) => Err(failed(&error)),
        Some(Err(_)) => Err(End::lost(Some("writing timed out".to_owned()))),
    }
}

/// Says good-bye. The peer may be gone already; what matters has been read.
pub(super) async fn close<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut WebSocketStream<S>) {
    let _ = timeout(CLOSE_TIMEOUT, socket.close(None)).await;
}

/// A parcel that waits for its place in the outbox.
pub(super) struct Held {
    pub(super) parcel: Parcel,
    place: Pin<Box<dyn Future<Output = Place> + Send>>,
}

impl Held {
    /// Asks for a place, also for a parcel with nothing in it.
    pub(super) fn new(outlet: &Outlet, parcel: Parcel) -> Self {
        if !parcel.is_empty() {
            failpoint::reach("after_ws_read");
        }
        Self {
            place: Box::pin(outlet.admit(&parcel)),
            parcel,
        }
    }
}

/// Asks for a place, if there is anything to hand over.
pub(super) fn hold(outlet: &Outlet, parcel: Parcel) -> Option<Held> {
    (!parcel.is_empty()).then(|| Held::new(outlet, parcel))
}

/// When what is held has its place; never, if nothing is.
pub(super) async fn admitted(held: &mut Option<Held>) -> Place {
    match held {
        Some(held) => held.place.as_mut().await,
        None => std::future::pending().await,
    }
}

/// What cannot be read, as a dead letter with its bytes; none once there are too many.
pub(super) fn dead_letter(session: &mut Session, error: &str, bytes: &[u8]) -> Vec<DeadLetter> {
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
    // A text may repeat our key, and nobody would see it in base64.
    let clean = std::str::from_utf8(bytes).map(redact_payload);
    let bytes = clean.as_ref().map_or(bytes, |text| text.as_bytes());
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

pub(super) fn now() -> Timestamp {
    Clock::now().into()
}

#[cfg(test)]
pub(super) mod tape;
