//! The room's WebSocket: handshake, enter-room, heartbeats, acks, messages.
//!
//! In: a signed address and a client's frames. Out: what [`crate::playback`] tells, as push frames
//! of this connection (own sequence, log ids and `internalExt`); answers to heartbeats and
//! enter-room; violations for what a client does wrong or leaves out. Reading and writing run side
//! by side: a client that is busy writing acks is still read from, else both would wait for ever.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    extract::{Request, State},
    http::{HeaderValue, StatusCode},
    response::{IntoResponse, Response},
};
use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_tungstenite::tungstenite;

use crate::{
    Stage,
    acks::Frames,
    address::{self, Refused},
    door::Cut,
    fresh,
    ledger::Provider,
    request::text,
    room::{Entered, Room, Tell},
    sign::Signed,
    upgrade::{self, End, Socket, binary, record_delivery},
    wire::{self, ClientFrame},
};

/// A client has this long to enter the room.
const ENTER_WITHIN: Duration = Duration::from_secs(10);
/// Heartbeats closer than this are a client gone wild.
const HEARTBEATS_APART: Duration = Duration::from_secs(2);
/// How long a client may take to notice that we are done.
const PARTING: Duration = Duration::from_secs(5);

/// `GET /webcast/im/ws_proxy/ws_reuse_supplement/`
pub(crate) async fn handshake(State(stage): State<Arc<Stage>>, request: Request) -> Response {
    if text(request.headers(), "sec-websocket-key").is_empty() {
        return StatusCode::BAD_REQUEST.into_response();
    }
    let signed = match address::redeem(&stage, request.uri(), request.headers()) {
        Ok(signed) => signed,
        Err(refused) => return refuse(&stage, &refused),
    };
    let connected = stage.clone();
    let mut response = upgrade::accept(&stage, request, move |socket, cut| async move {
        serve(&connected, socket, signed, cut).await;
    });
    response.headers_mut().insert(
        "handshake-options",
        HeaderValue::from_static("ping-interval=10"),
    );
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

async fn serve(stage: &Stage, socket: Socket, signed: Signed, cut: Cut) {
    stage.ledger.count(|counts| counts.connections += 1);
    let room = signed.room.clone();
    tracing::info!(
        creator = room.name,
        room_id = signed.room_id,
        "client connected"
    );
    let (mut writer, mut reader) = socket.split();
    let (say, mut said) = mpsc::channel(16);
    let connection = Connection {
        stage,
        room: &room,
        room_id: signed.room_id,
        frames: Frames {
            stage,
            room: &room.name,
            room_id: signed.room_id,
            compress: true,
            unconfirmed: Mutex::new(HashMap::new()),
        },
        entered: AtomicU64::new(0),
        deaf: AtomicBool::new(false),
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
        connection.part(socket, end, &cut).await;
    }
    tracing::info!(creator = room.name, room_id = signed.room_id, "client gone");
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
    frames: Frames<'a>,
    /// The room's number for this client; 0 before it enters.
    entered: AtomicU64,
    /// Whether heartbeats stay unanswered.
    deaf: AtomicBool,
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
                let say = match self.room.enter(self.room_id, Provider::Direct) {
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
                if !self.deaf.load(Ordering::Relaxed) {
                    let answer = wire::reply_frame("hb", fresh::id());
                    let _ = self.say.send(Say::Frame(answer)).await;
                }
                true
            }
            ClientFrame::Ack {
                log_id,
                internal_ext,
            } => {
                self.frames.take_ack(log_id, &internal_ext);
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

    /// Writes until we are done with this client.
    async fn write(
        &self,
        writer: &mut SplitSink<Socket, tungstenite::Message>,
        said: &mut mpsc::Receiver<Say>,
    ) -> End {
        let mut tells: Option<mpsc::Receiver<Tell>> = None;
        let mut sequence = 0_i64;
        let mut lying = false;
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
                        self.frame_of(&mut sequence, &messages, false, &mut lying)
                    }
                    Tell::Again(messages) => {
                        self.frame_of(&mut sequence, &messages, true, &mut lying)
                    }
                    Tell::Raw(bytes) => {
                        self.frames.expect_ack_of(&bytes);
                        tungstenite::Message::Binary(bytes)
                    }
                    Tell::Text(text) => tungstenite::Message::Text(text.into()),
                    Tell::Deaf => {
                        self.deaf.store(true, Ordering::Relaxed);
                        continue;
                    }
                    Tell::WrongHeader => {
                        lying = true;
                        continue;
                    }
                    Tell::Over => return End::Close { code: 1000, reason: String::new() },
                    Tell::Close { code, reason } => return End::Close { code, reason },
                    Tell::Drop => return End::Drop,
                    Tell::Reset => return End::Reset,
                    Tell::HalfFrame => return End::HalfFrame,
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

    fn frame_of(
        &self,
        sequence: &mut i64,
        messages: &[wire::RoomMessage],
        again: bool,
        lying: &mut bool,
    ) -> tungstenite::Message {
        *sequence += 1;
        let provider = Provider::Direct;
        record_delivery(
            self.stage,
            self.room,
            self.room_id,
            provider,
            messages,
            again,
        );
        let lying = std::mem::take(lying);
        binary(self.frames.frame(*sequence, messages, lying))
    }

    /// Says good-bye and takes the acks that are still on their way.
    async fn part(&self, mut socket: Socket, end: End, cut: &Cut) {
        let endless = matches!(end, End::HalfFrame);
        let at_once = matches!(end, End::Reset);
        let farewell = async {
            upgrade::part(&mut socket, end, cut).await;
            while !at_once && let Some(Ok(message)) = socket.next().await {
                if let tungstenite::Message::Binary(bytes) = message
                    && let Ok(ClientFrame::Ack {
                        log_id,
                        internal_ext,
                    }) = wire::read_client_frame(&bytes)
                {
                    self.frames.take_ack(log_id, &internal_ext);
                }
            }
        };
        if endless {
            farewell.await;
        } else {
            let _ = timeout(PARTING, farewell).await;
        }
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
