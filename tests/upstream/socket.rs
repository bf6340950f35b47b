//! The room's WebSocket: handshake, enter-room, heartbeats, acks, messages.
//!
//! In: a signed address and a client's frames. Out: what [`crate::playback`] tells, as push frames
//! of this connection (own sequence, log ids and `internalExt`); answers to heartbeats and
//! enter-room; violations for what a client does wrong or leaves out. Reading and writing run side
//! by side: a client that is busy writing acks is still read from, else both would wait for ever.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::AsyncWriteExt,
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self,
        handshake::derive_accept_key,
        protocol::{CloseFrame, Role, WebSocketConfig},
    },
};

use crate::{
    Stage,
    address::{self, Refused},
    fresh,
    request::text,
    room::{Entered, Room, Tell},
    sign::Signed,
    wire::{self, ClientFrame, FetchResult},
};

type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

/// A client has this long to enter the room.
const ENTER_WITHIN: Duration = Duration::from_secs(10);
/// Heartbeats closer than this are a client gone wild.
const HEARTBEATS_APART: Duration = Duration::from_secs(2);
/// How long a client may take to notice that we are done.
const PARTING: Duration = Duration::from_secs(5);
/// Payloads from here on are compressed; so both kinds occur.
const COMPRESS_FROM: usize = 512;
/// A fault's frame that inflates to more is not one that a client should read.
const FAULT_LIMIT: u64 = 1 << 20;
/// Every so-manieth frame wants no ack.
const NO_ACK_EVERY: i64 = 5;

/// `GET /webcast/im/ws_proxy/ws_reuse_supplement/`
pub(crate) async fn handshake(State(stage): State<Arc<Stage>>, mut request: Request) -> Response {
    let key = text(request.headers(), "sec-websocket-key").to_owned();
    if key.is_empty() {
        return StatusCode::BAD_REQUEST.into_response();
    }
    let signed = match address::redeem(&stage, request.uri(), request.headers()) {
        Ok(signed) => signed,
        Err(refused) => return refuse(&stage, &refused),
    };
    let upgrade = hyper::upgrade::on(&mut request);
    let connected = stage.clone();
    stage.spawn(async move {
        match upgrade.await {
            Ok(io) => serve(&connected, io, signed).await,
            Err(error) => tracing::warn!(%error, "handshake was not completed"),
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(
        "handshake-options",
        HeaderValue::from_static("ping-interval=10"),
    );
    if let Ok(accept) = derive_accept_key(key.as_bytes()).parse() {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}

/// TikTok refuses with HTTP 200 and the reason in two headers.
fn refuse(stage: &Stage, refused: &Refused) -> Response {
    stage.ledger.count(|counts| counts.handshakes_refused += 1);
    let mut response = StatusCode::OK.into_response();
    let headers = response.headers_mut();
    if let Ok(message) = refused.message.parse() {
        headers.insert("handshake-msg", message);
    }
    headers.insert("handshake-status", refused.status.into());
    response
}

async fn serve(stage: &Stage, io: hyper::upgrade::Upgraded, signed: Signed) {
    stage.ledger.count(|counts| counts.connections += 1);
    let room = signed.room.clone();
    tracing::info!(
        creator = room.name,
        room_id = signed.room_id,
        "client connected"
    );
    let limits = WebSocketConfig::default().max_message_size(Some(1 << 20));
    let socket =
        WebSocketStream::from_raw_socket(TokioIo::new(io), Role::Server, Some(limits)).await;
    let (mut writer, mut reader) = socket.split();
    let (say, mut said) = mpsc::channel(16);
    let connection = Connection {
        stage,
        room: &room,
        room_id: signed.room_id,
        unconfirmed: Mutex::new(HashMap::new()),
        entered: AtomicU64::new(0),
        say,
    };
    let end = tokio::select! {
        () = connection.read(&mut reader) => None,
        end = connection.write(&mut writer, &mut said) => Some(end),
    };
    room.leave(connection.entered.load(Ordering::Relaxed));
    if let Some(end) = end
        && let Ok(socket) = writer.reunite(reader)
    {
        connection.part(socket, end).await;
    }
    tracing::info!(creator = room.name, room_id = signed.room_id, "client gone");
}

/// How we end a connection.
enum End {
    Close { code: u16, reason: String },
    Drop,
}

/// What the reading half asks the writing half to do.
enum Say {
    Entered(Entered),
    Frame(Vec<u8>),
    Close { code: u16, reason: String },
}

struct Connection<'a> {
    stage: &'a Stage,
    room: &'a Room,
    room_id: i64,
    /// `internalExt` of each frame that wants an ack and has none yet.
    unconfirmed: Mutex<HashMap<i64, String>>,
    /// The room's number for this client; 0 before it enters.
    entered: AtomicU64,
    say: mpsc::Sender<Say>,
}

impl Connection<'_> {
    fn wrong(&self, what: impl Into<String>) {
        self.stage.ledger.violation("socket", &self.room.name, what);
    }

    fn has_entered(&self) -> bool {
        self.entered.load(Ordering::Relaxed) != 0
    }

    /// Reads until the client is gone.
    async fn read(&self, reader: &mut SplitStream<Socket>) {
        let mut client = ClientState::default();
        let mut deadline = Instant::now() + ENTER_WITHIN;
        loop {
            let message = match tokio::time::timeout_at(deadline, reader.next()).await {
                Ok(Some(Ok(message))) => message,
                // Gone, with or without a close frame: not ours to judge.
                Ok(Some(Err(_)) | None) => break,
                Err(_) if !self.has_entered() => {
                    self.wrong("did not enter the room in time");
                    let _ = self
                        .say
                        .send(Say::Close {
                            code: 1000,
                            reason: String::new(),
                        })
                        .await;
                    return std::future::pending().await;
                }
                Err(_) => {
                    self.wrong("sent no heartbeat in time");
                    let reason = "payload_handler_hb".to_owned();
                    let _ = self.say.send(Say::Close { code: 1000, reason }).await;
                    return std::future::pending().await;
                }
            };
            match message {
                tungstenite::Message::Binary(bytes) => match wire::read_client_frame(&bytes) {
                    Ok(frame) => {
                        if self.take(frame, &mut client).await {
                            deadline = Instant::now() + self.stage.script.heartbeat_timeout;
                        }
                    }
                    Err(error) => self.wrong(error),
                },
                tungstenite::Message::Text(_) => self.wrong("sent a text message"),
                // TikTok does not answer pings; neither side needs them.
                _ => {}
            }
        }
    }

    /// Takes one frame; true when it is a sign of life.
    async fn take(&self, frame: ClientFrame, client: &mut ClientState) -> bool {
        let counts = |update: fn(&mut crate::Counts)| self.stage.ledger.count(update);
        match frame {
            ClientFrame::EnterRoom(enter) => {
                counts(|counts| counts.enters += 1);
                self.check_enter(&enter);
                if self.has_entered() {
                    self.wrong("entered twice");
                    return true;
                }
                let say = match self.room.enter(self.room_id, self.stage.script.history) {
                    Some(entered) => {
                        self.entered.store(entered.id, Ordering::Relaxed);
                        Say::Entered(entered)
                    }
                    // The broadcast ended between signing and entering.
                    None => Say::Close {
                        code: 1000,
                        reason: String::new(),
                    },
                };
                let _ = self.say.send(say).await;
                true
            }
            ClientFrame::HeartBeat(beat) => {
                counts(|counts| counts.heartbeats += 1);
                if beat.room_id != self.room_id {
                    self.wrong(format!(
                        "heartbeat for room {}, not {}",
                        beat.room_id, self.room_id
                    ));
                }
                let expected = client.heartbeats + 1;
                if beat.send_packet_seq_id != expected {
                    let got = beat.send_packet_seq_id;
                    self.wrong(format!("heartbeat number {got}, expected {expected}"));
                }
                client.heartbeats = beat.send_packet_seq_id;
                let now = Instant::now();
                if client
                    .last_beat
                    .is_some_and(|last| now - last < HEARTBEATS_APART)
                {
                    self.wrong("heartbeats come too fast");
                }
                client.last_beat = Some(now);
                let _ = self
                    .say
                    .send(Say::Frame(wire::reply_frame("hb", fresh::id())))
                    .await;
                true
            }
            ClientFrame::Ack {
                log_id,
                internal_ext,
            } => {
                self.take_ack(log_id, &internal_ext);
                false
            }
        }
    }

    fn check_enter(&self, enter: &wire::EnterRoom) {
        let expected = wire::EnterRoom {
            room_id: self.room_id,
            live_id: 12,
            identity: "audience".to_owned(),
            filter_welcome_msg: "0".to_owned(),
            // Random or 0: the client's choice.
            enter_unique_id: enter.enter_unique_id,
            ..wire::EnterRoom::default()
        };
        if *enter != expected || enter.enter_unique_id < 0 {
            self.wrong(format!("enter-room is {enter:?}, expected {expected:?}"));
        }
    }

    fn take_ack(&self, log_id: i64, internal_ext: &Bytes) {
        let mut unconfirmed = self
            .unconfirmed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match unconfirmed.remove(&log_id) {
            None => self.wrong(format!("ack for {log_id}, which wants none or has one")),
            Some(expected) if expected.as_bytes() == internal_ext => {
                self.stage.ledger.count(|counts| counts.acks += 1);
            }
            Some(expected) => self.wrong(format!(
                "ack carries {:?}, expected {expected:?}",
                String::from_utf8_lossy(internal_ext)
            )),
        }
    }

    /// Writes until we are done with this client.
    async fn write(
        &self,
        writer: &mut SplitSink<Socket, tungstenite::Message>,
        said: &mut mpsc::Receiver<Say>,
    ) -> End {
        let mut tells: Option<mpsc::Receiver<Tell>> = None;
        let mut sequence = 0_i64;
        loop {
            let message = tokio::select! {
                biased;
                Some(say) = said.recv() => match say {
                    Say::Entered(entered) => {
                        tells = Some(entered.tells);
                        binary(wire::reply_frame("im_enter_room_resp", fresh::id()))
                    }
                    Say::Frame(frame) => binary(frame),
                    Say::Close { code, reason } => return End::Close { code, reason },
                },
                Some(tell) = next_tell(&mut tells) => match tell {
                    Tell::Messages(messages) => {
                        sequence += 1;
                        let again = messages.iter().filter(|message| message.is_history).count();
                        self.stage.ledger.count(|counts| counts.history += again as u64);
                        binary(self.frame(sequence, &messages))
                    }
                    Tell::Raw(bytes) => {
                        self.expect_ack_of(&bytes);
                        tungstenite::Message::Binary(bytes)
                    }
                    Tell::Text(text) => tungstenite::Message::Text(text.into()),
                    Tell::Close { code, reason } => return End::Close { code, reason },
                    Tell::Drop => return End::Drop,
                    // Reading goes on, nothing is answered, until the client gives up.
                    Tell::Hang => loop {
                        if said.recv().await.is_none() {
                            return End::Drop;
                        }
                    },
                },
            };
            if writer.send(message).await.is_err() {
                // The reading half notices, too, and ends the connection.
                return std::future::pending().await;
            }
        }
    }

    /// Messages as a frame of this connection.
    fn frame(&self, sequence: i64, messages: &[wire::RoomMessage]) -> Vec<u8> {
        let log_id = fresh::id();
        let now = fresh::now_ms();
        let result = FetchResult {
            messages: messages.to_vec(),
            cursor: format!("t-{now}_r-1_d-1_u-1_h-{sequence}"),
            fetch_interval: 1000,
            now,
            internal_ext: format!(
                "internal_src:dim|wss_push_room_id:{}|fetch_time:{now}|seq:{sequence}|\
                 wss_info:0-{now}-0-0|wrds_v:{log_id}",
                self.room_id
            ),
            need_ack: sequence % NO_ACK_EVERY != 0,
            ..FetchResult::default()
        };
        self.stage.ledger.count(|counts| {
            counts.frames += 1;
            counts.acks_wanted += u64::from(result.need_ack);
        });
        if result.need_ack {
            let mut unconfirmed = self
                .unconfirmed
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            unconfirmed.insert(log_id, result.internal_ext.clone());
        }
        let size: usize = messages.iter().map(|message| message.payload.len()).sum();
        wire::msg_frame(sequence, log_id, &result, size >= COMPRESS_FROM)
    }

    /// A fault's frame may be a good one, which a right client acknowledges.
    fn expect_ack_of(&self, bytes: &[u8]) {
        if let Ok((frame, Some(result))) = wire::read_server_frame(bytes, FAULT_LIMIT)
            && result.need_ack
            && frame.log_id != 0
        {
            self.stage.ledger.count(|counts| counts.acks_wanted += 1);
            let mut unconfirmed = self
                .unconfirmed
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            unconfirmed.insert(frame.log_id, result.internal_ext);
        }
    }

    /// Says good-bye and takes the acks that are still on their way.
    async fn part(&self, mut socket: Socket, end: End) {
        let farewell = async {
            match end {
                End::Close { code, reason } => {
                    let frame = CloseFrame {
                        code: code.into(),
                        reason: reason.into(),
                    };
                    let _ = socket.close(Some(frame)).await;
                }
                // The write side is shut before the socket is dropped: a reset could take with it
                // what the client has not read yet.
                End::Drop => {
                    let _ = socket.get_mut().shutdown().await;
                }
            }
            while let Some(Ok(message)) = socket.next().await {
                if let tungstenite::Message::Binary(bytes) = message
                    && let Ok(ClientFrame::Ack {
                        log_id,
                        internal_ext,
                    }) = wire::read_client_frame(&bytes)
                {
                    self.take_ack(log_id, &internal_ext);
                }
            }
        };
        let _ = timeout(PARTING, farewell).await;
    }
}

#[derive(Default)]
struct ClientState {
    heartbeats: i64,
    last_beat: Option<Instant>,
}

async fn next_tell(tells: &mut Option<mpsc::Receiver<Tell>>) -> Option<Tell> {
    match tells {
        Some(receiver) => receiver.recv().await,
        None => std::future::pending().await,
    }
}

fn binary(bytes: Vec<u8>) -> tungstenite::Message {
    tungstenite::Message::Binary(bytes.into())
}
