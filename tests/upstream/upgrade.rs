//! From a request to a WebSocket, and how one ends badly. Both providers' sockets are made here.
//!
//! In: a handshake. Out: 101 and a task that serves the socket, or 400 when it is no handshake.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{ConnectInfo, Request},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::StreamExt;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::derive_accept_key,
        protocol::{CloseFrame, Role, WebSocketConfig},
    },
};

use crate::{
    Stage, door::Cut, ledger::Delivery, ledger::Provider, room::Room, script::Record,
    wire::RoomMessage,
};

/// A WebSocket of ours.
pub(crate) type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

/// How we end a connection.
pub(crate) enum End {
    Close {
        code: u16,
        reason: String,
    },
    /// Without a close frame.
    Drop,
    /// With a TCP reset.
    Reset,
    /// In the middle of a frame; and then nothing any more until the client gives up.
    HalfFrame,
}

/// Takes the handshake and has `serve` look after the socket.
pub(crate) fn accept<F>(
    stage: &Arc<Stage>,
    mut request: Request,
    serve: impl FnOnce(Socket, Cut) -> F + Send + 'static,
) -> Response
where
    F: Future<Output = ()> + Send,
{
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY);
    let Some(accept) = key.and_then(|key| derive_accept_key(key.as_bytes()).parse().ok()) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let cut = request.extensions().get::<ConnectInfo<Cut>>();
    let cut = cut.map(|ConnectInfo(cut)| cut.clone()).unwrap_or_default();
    let upgrade = hyper::upgrade::on(&mut request);
    stage.spawn(async move {
        match upgrade.await {
            Ok(io) => {
                let limits = WebSocketConfig::default().max_message_size(Some(1 << 20));
                let io = TokioIo::new(io);
                let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(limits));
                serve(socket.await, cut).await;
            }
            Err(error) => tracing::warn!(%error, "handshake was not completed"),
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    response
}

/// Says good-bye, or not.
pub(crate) async fn part(socket: &mut Socket, end: End, cut: &Cut) {
    match end {
        End::Close { code, reason } => {
            let frame = CloseFrame {
                code: code.into(),
                reason: reason.into(),
            };
            let _ = socket.close(Some(frame)).await;
        }
        // The write side is shut before the socket is dropped: a reset could take with it what the
        // client has not read yet.
        End::Drop => {
            let _ = socket.get_mut().shutdown().await;
        }
        End::Reset => cut.pull(),
        End::HalfFrame => {
            // A binary message of 1,000 bytes, of which 100 come.
            let mut half = vec![0x82, 126, 0x03, 0xe8];
            half.resize(104, 0x0a);
            let _ = socket.get_mut().write_all(&half).await;
            let _ = socket.get_mut().flush().await;
            while let Some(Ok(_)) = socket.next().await {}
        }
    }
}

/// Writes down that this connection gets these messages now.
pub(crate) fn record_delivery(
    stage: &Stage,
    room: &Room,
    room_id: i64,
    provider: Provider,
    messages: &[RoomMessage],
    again: bool,
) {
    let flagged = messages.iter().filter(|message| message.is_history).count();
    stage
        .ledger
        .count(|counts| counts.history += flagged as u64);
    if stage.script.record == Record::Counts {
        return;
    }
    let at = std::time::SystemTime::now();
    stage
        .ledger
        .record_deliveries(messages.iter().map(|message| Delivery {
            creator: room.name.clone(),
            provider,
            room_id,
            msg_id: message.msg_id,
            again,
            at,
        }));
}

/// Bytes as a WebSocket message.
pub(crate) fn binary(bytes: impl Into<Bytes>) -> tokio_tungstenite::tungstenite::Message {
    tokio_tungstenite::tungstenite::Message::Binary(bytes.into())
}
