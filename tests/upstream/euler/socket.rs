//! Euler's WebSocket: `workerInfo`, `roomInfo`, `tiktok.connect`, then the room's messages.
//!
//! In: a handshake whatever its query says, for refusals come as close codes after it. Out: what
//! [`crate::playback`] tells, as envelopes of JSON or, with `rawMessages`, as push frames that
//! want acks; pings; a close code at every end. A client of the JSON has nothing to say: what it
//! sends all the same is a violation.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use axum::{
    extract::{Request, State},
    response::Response,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::time::{Instant, interval_at, sleep_until, timeout};
use tokio_tungstenite::tungstenite::Message;

use super::{Form, close_name, options::Options};
use crate::{
    Stage,
    acks::Frames,
    door::Cut,
    fresh, json,
    ledger::Provider,
    request::Query,
    room::{Broadcast, Entered, Room, Tell},
    trouble,
    upgrade::{self, End, Socket, binary, record_delivery},
    wire::{self, ClientFrame, RoomMessage},
};

/// How long a client may take to notice that we are done.
const PARTING: Duration = Duration::from_secs(5);

/// `GET /?uniqueId=…`
pub(crate) async fn handshake(State(stage): State<Arc<Stage>>, request: Request) -> Response {
    let query = Query::of(request.uri());
    let judged = Options::read(&stage.script.euler, &query, request.headers());
    if let Err(exceeded) = stage.quota.take(&stage.script.euler.limits) {
        let wait = Some(crate::fault::RetryAfter::Seconds(exceeded.wait));
        return trouble::refuse(429, wait, Some(exceeded.label), None);
    }
    let connected = stage.clone();
    upgrade::accept(&stage, request, move |socket, cut| async move {
        let ledger = &connected.ledger;
        ledger.count(|counts| counts.euler_connections += 1);
        let open = connected.euler_sockets.fetch_add(1, Ordering::Relaxed) + 1;
        serve(&connected, socket, judged, open, cut).await;
        connected.euler_sockets.fetch_sub(1, Ordering::Relaxed);
    })
}

async fn serve(
    stage: &Stage,
    mut socket: Socket,
    judged: Result<Options, u16>,
    open: usize,
    cut: Cut,
) {
    let end = match admit(stage, judged, open) {
        Ok((options, room)) => perform(stage, &mut socket, options, &room).await,
        Err((code, reason)) => Some(End::Close { code, reason }),
    };
    let Some(end) = end else { return };
    let endless = matches!(end, End::HalfFrame);
    let at_once = matches!(end, End::Reset);
    let farewell = async {
        upgrade::part(&mut socket, end, &cut).await;
        while !at_once && let Some(Ok(_)) = socket.next().await {}
    };
    if endless {
        farewell.await;
    } else {
        let _ = timeout(PARTING, farewell).await;
    }
}

type Refusal = (u16, String);

fn admit(
    stage: &Stage,
    judged: Result<Options, u16>,
    open: usize,
) -> Result<(Options, Arc<Room>), Refusal> {
    let refuse = |code: u16| (code, close_name(code).to_owned());
    let options = judged.map_err(refuse)?;
    if open > stage.script.euler.sockets {
        return Err(refuse(4429));
    }
    let room = stage.room(&options.name).ok_or_else(|| refuse(4404))?;
    if let Some((code, reason)) = room.euler_close_due() {
        let named = reason.is_empty().then(|| close_name(code).to_owned());
        return Err((code, named.unwrap_or(reason)));
    }
    Ok((options, room))
}

/// Plays the room; `None` when the client is gone.
async fn perform(stage: &Stage, socket: &mut Socket, options: Options, room: &Room) -> Option<End> {
    let close = |code: u16| End::Close {
        code,
        reason: close_name(code).to_owned(),
    };
    let mut session = Session {
        stage,
        room,
        room_id: 0,
        options,
        turn: 0,
        id: fresh::id(),
    };
    socket
        .send(session.wrap(&[session.worker_info()]))
        .await
        .ok()?;
    let Some(live) = room.live() else {
        return Some(close(4404));
    };
    session.room_id = live.room_id;
    socket
        .send(session.wrap(&[session.room_info(&live)]))
        .await
        .ok()?;
    if !session.options.raw {
        socket
            .send(session.wrap(&[session.connected()]))
            .await
            .ok()?;
    }
    let Some(Entered { id, mut tells }) = room.enter(live.room_id, Provider::Euler) else {
        return Some(close(4404));
    };
    tracing::info!(
        creator = room.name,
        room_id = live.room_id,
        "euler client connected"
    );
    let end = session.play(socket, &mut tells).await;
    room.leave(id);
    tracing::info!(
        creator = room.name,
        room_id = live.room_id,
        "euler client gone"
    );
    match end {
        Some(Ended::Code(code)) => Some(close(code)),
        Some(Ended::As(end)) => Some(end),
        None => None,
    }
}

enum Ended {
    Code(u16),
    As(End),
}

struct Session<'a> {
    stage: &'a Stage,
    room: &'a Room,
    room_id: i64,
    options: Options,
    /// Which form is next when they are mixed.
    turn: usize,
    id: i64,
}

impl Session<'_> {
    async fn play(
        &mut self,
        socket: &mut Socket,
        tells: &mut tokio::sync::mpsc::Receiver<Tell>,
    ) -> Option<Ended> {
        let euler = &self.stage.script.euler;
        let frames = Frames {
            stage: self.stage,
            room: &self.room.name,
            room_id: self.room_id,
            compress: false,
            unconfirmed: Mutex::new(HashMap::new()),
        };
        let started = Instant::now();
        let asked = Duration::from_secs(self.options.inactive);
        let inactive = euler.inactive_after.unwrap_or(asked);
        let mut silent_since = started;
        let mut pings = interval_at(started + euler.ping_every, euler.ping_every);
        let mut sequence = 0;
        let mut lying = false;
        loop {
            let mut out = Vec::new();
            tokio::select! {
                heard = socket.next() => self.hear(&frames, heard?.ok()?),
                () = sleep_until(started + euler.lifetime) => return Some(Ended::Code(4555)),
                () = sleep_until(silent_since + inactive) => return Some(Ended::Code(4006)),
                _ = pings.tick() => out.push(Message::Ping(Vec::new().into())),
                tell = tells.recv() => match tell? {
                    tell @ (Tell::Messages(_) | Tell::Again(_)) => {
                        let again = matches!(tell, Tell::Again(_));
                        let (Tell::Messages(messages) | Tell::Again(messages)) = tell else {
                            continue;
                        };
                        silent_since = Instant::now();
                        sequence += 1;
                        if self.options.raw {
                            let lying = std::mem::take(&mut lying);
                            self.record(&messages, again);
                            out.push(binary(frames.frame(sequence, &messages, lying)));
                        } else {
                            self.tell(sequence, &messages, again, &mut out);
                        }
                    }
                    Tell::Raw(bytes) => {
                        if self.options.raw {
                            frames.expect_ack_of(&bytes);
                        }
                        out.push(binary(bytes));
                    }
                    Tell::Text(text) => out.push(Message::Text(text.into())),
                    Tell::WrongHeader => lying = true,
                    // There are no heartbeats here.
                    Tell::Deaf => {}
                    Tell::Over => return Some(Ended::Code(4005)),
                    Tell::Close { code, reason } => {
                        let named = if reason.is_empty() { close_name(code).to_owned() } else { reason };
                        return Some(Ended::As(End::Close { code, reason: named }));
                    }
                    Tell::Drop => return Some(Ended::As(End::Drop)),
                    Tell::Reset => return Some(Ended::As(End::Reset)),
                    Tell::HalfFrame => return Some(Ended::As(End::HalfFrame)),
                    // Reading would answer the client's pings: not even that.
                    Tell::Hang => std::future::pending().await,
                },
            }
            for message in out {
                socket.send(message).await.ok()?;
            }
        }
    }

    fn hear(&self, frames: &Frames<'_>, message: Message) {
        let wrong = |what: &str| self.stage.ledger.violation("euler", &self.room.name, what);
        match message {
            Message::Pong(_) => self.stage.ledger.count(|counts| counts.pongs += 1),
            Message::Ping(_) | Message::Close(_) | Message::Frame(_) => {}
            Message::Binary(bytes) if self.options.raw => match wire::read_client_frame(&bytes) {
                Ok(ClientFrame::Ack {
                    log_id,
                    internal_ext,
                }) => frames.take_ack(log_id, &internal_ext),
                // Needless, and no harm.
                Ok(ClientFrame::HeartBeat(_)) => {}
                Ok(ClientFrame::EnterRoom(_)) => wrong("entered a room where that is not done"),
                Err(error) => wrong(&error),
            },
            Message::Binary(_) | Message::Text(_) => wrong("said something to Euler's socket"),
        }
    }

    fn record(&self, messages: &[RoomMessage], again: bool) {
        let provider = Provider::Euler;
        record_delivery(
            self.stage,
            self.room,
            self.room_id,
            provider,
            messages,
            again,
        );
    }

    /// Messages as JSON, as far as the schema version has them.
    fn tell(
        &mut self,
        sequence: i64,
        messages: &[RoomMessage],
        again: bool,
        out: &mut Vec<Message>,
    ) {
        let mut known = Vec::new();
        let mut spoken = Vec::new();
        for message in messages {
            let (method, payload) = (&message.method, &message.payload);
            let Some(data) = json::encode(method, payload, self.options.naming) else {
                self.stage.ledger.count(|counts| counts.euler_unknown += 1);
                continue;
            };
            let mut said = json!({ "type": method, "data": data });
            if self.options.raw_bytes {
                said["raw"] = json!(BASE64_STANDARD.encode(payload));
            }
            known.push(message.clone());
            spoken.push(said);
        }
        if self.options.raw_bytes {
            let result = wire::FetchResult {
                messages: messages.to_vec(),
                now: fresh::now_ms(),
                ..wire::FetchResult::default()
            };
            let frame = wire::msg_frame(sequence, fresh::id(), &result, false);
            let raw = BASE64_STANDARD.encode(frame);
            spoken.push(json!({ "type": "tiktok.rawBytes", "data": { "raw": raw } }));
        }
        self.record(&known, again);
        if spoken.is_empty() {
            return;
        }
        if self.stage.script.euler.form == Form::Mixed {
            self.turn += 1;
            if self.turn.is_multiple_of(5) {
                let empty = json!({ "timestamp": fresh::now_ms() });
                out.push(Message::Text(empty.to_string().into()));
            }
        }
        let bare = self.form() == Form::Bare;
        if self.options.bundle && !bare {
            out.push(self.wrap(&spoken));
        } else {
            out.extend(
                spoken
                    .iter()
                    .map(|one| self.wrap(std::slice::from_ref(one))),
            );
        }
    }

    fn form(&self) -> Form {
        let forms = [Form::Envelope, Form::Binary, Form::Bare, Form::Array];
        match self.stage.script.euler.form {
            Form::Mixed => forms[self.turn % forms.len()],
            form => form,
        }
    }

    fn wrap(&self, messages: &[Value]) -> Message {
        let envelope = || json!({ "timestamp": fresh::now_ms(), "messages": messages }).to_string();
        match self.form() {
            Form::Binary => binary(envelope()),
            Form::Bare if messages.len() == 1 => Message::Text(messages[0].to_string().into()),
            Form::Array => Message::Text(json!(messages).to_string().into()),
            Form::Bare | Form::Envelope | Form::Mixed => Message::Text(envelope().into()),
        }
    }

    fn worker_info(&self) -> Value {
        json!({
            "type": "workerInfo",
            "data": {
                "webSocketId": format!("ws-{}", self.id),
                "agentId": "stand-in",
                "schemaVersion": self.options.naming.name(),
                "features": self.options.features(),
                "isLoggedIn": false,
            },
        })
    }

    fn room_info(&self, live: &Broadcast) -> Value {
        json!({
            "type": "roomInfo",
            "data": {
                "uniqueId": self.room.name,
                "roomInfo": {
                    "id": live.room_id.to_string(),
                    "status": if live.paused { 3 } else { 2 },
                    "isLive": true,
                    "currentViewers": 17,
                    "totalViewers": 170,
                    "title": live.title,
                    "startTime": live.started,
                },
                "user": {
                    "uniqueId": self.room.name,
                    "nickname": format!("{} (stand-in)", self.room.name),
                    "numericUid": self.room.owner_id.to_string(),
                    "secUid": format!("MS4wLjABAAAA{}", self.room.owner_id),
                    "avatarUrl": "",
                    "followers": 1234,
                    "following": 12,
                },
            },
        })
    }

    /// Seen in both shapes: so every other socket gets the flat one.
    fn connected(&self) -> Value {
        if self.id % 2 == 0 {
            json!({ "type": "tiktok.connect", "data": { "agentId": "stand-in" } })
        } else {
            json!({ "type": "tiktok.connect", "agentId": "stand-in" })
        }
    }
}
