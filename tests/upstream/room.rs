//! One creator as the outside sees it: live or not, who is connected, which faults are armed.
//!
//! [`crate::playback`] moves it on, [`crate::web`] and [`crate::sign`] ask it, [`crate::socket`]
//! enters and leaves it. One lock, never held across an await; a watch channel tells the playback
//! when somebody is there.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use crate::{
    fresh,
    script::{Act, Creator, Fault, Refusal, Show},
    wire::RoomMessage,
};

/// How many frames wait for one connection before playback waits for it: little, so that what a
/// killed client has not read is little too.
const QUEUE: usize = 4;
/// How many messages a room remembers for clients that connect.
const REMEMBERED: usize = 64;

/// What the playback tells a connection, in order.
#[derive(Clone, Debug)]
pub(crate) enum Tell {
    /// Messages for one frame.
    Messages(Arc<Vec<RoomMessage>>),
    /// One binary message as it is.
    Raw(Bytes),
    /// One text message.
    Text(String),
    /// Close properly.
    Close { code: u16, reason: String },
    /// End without a close frame.
    Drop,
    /// Say nothing any more.
    Hang,
}

/// A running broadcast.
#[derive(Clone, Debug)]
pub(crate) struct Broadcast {
    pub(crate) room_id: i64,
    pub(crate) title: String,
    /// Unix seconds.
    pub(crate) started: i64,
}

/// A connection that has entered.
pub(crate) struct Entered {
    pub(crate) id: u64,
    pub(crate) tells: mpsc::Receiver<Tell>,
}

#[derive(Debug)]
struct Client {
    id: u64,
    tell: mpsc::Sender<Tell>,
}

#[derive(Debug, Default)]
struct Scene {
    live: Option<Broadcast>,
    last_room: Option<i64>,
    clients: Vec<Client>,
    last_client: u64,
    recent: VecDeque<RoomMessage>,
    faults: Vec<Fault>,
    /// Frames sent over all broadcasts.
    frames: u64,
    finished: bool,
}

/// One creator.
#[derive(Debug)]
pub(crate) struct Room {
    pub(crate) name: String,
    pub(crate) show: Show,
    pub(crate) owner_id: i64,
    scene: Mutex<Scene>,
    present: watch::Sender<usize>,
}

impl Room {
    pub(crate) fn new(creator: Creator) -> Self {
        let scene = Scene {
            // Somebody offline has been live before.
            last_room: matches!(creator.show, Show::Offline).then(fresh::id),
            ..Scene::default()
        };
        let room = Self {
            name: creator.name,
            show: creator.show,
            owner_id: fresh::id(),
            scene: Mutex::new(scene),
            present: watch::Sender::new(0),
        };
        for fault in creator.faults {
            room.arm(fault);
        }
        room
    }

    fn scene(&self) -> MutexGuard<'_, Scene> {
        self.scene.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The running broadcast.
    pub(crate) fn live(&self) -> Option<Broadcast> {
        self.scene().live.clone()
    }

    /// The id that pages show: of the running broadcast, else of the last one.
    pub(crate) fn shown_room(&self) -> Option<i64> {
        let scene = self.scene();
        scene
            .live
            .as_ref()
            .map(|live| live.room_id)
            .or(scene.last_room)
    }

    /// Whether the last lap is over.
    pub(crate) fn finished(&self) -> bool {
        self.scene().finished
    }

    /// Frames sent so far and clients present, for the state page.
    pub(crate) fn progress(&self) -> (u64, usize) {
        let scene = self.scene();
        (scene.frames, scene.clients.len())
    }

    // What clients do.

    /// Joins the broadcast `room_id`; `None` when that is not running. What was sent before comes
    /// first, flagged as history, at most `history` messages.
    pub(crate) fn enter(&self, room_id: i64, history: usize) -> Option<Entered> {
        let scene = &mut *self.scene();
        if scene.live.as_ref()?.room_id != room_id {
            return None;
        }
        let (tell, tells) = mpsc::channel(QUEUE);
        let again = last(&scene.recent, history);
        if !again.is_empty() {
            // The queue is empty: there is room for one.
            let _ = tell.try_send(Tell::Messages(Arc::new(again)));
        }
        scene.last_client += 1;
        let id = scene.last_client;
        scene.clients.push(Client { id, tell });
        self.present.send_replace(scene.clients.len());
        Some(Entered { id, tells })
    }

    /// Leaves; playback pauses when nobody is left.
    pub(crate) fn leave(&self, id: u64) {
        let scene = &mut *self.scene();
        scene.clients.retain(|client| client.id != id);
        self.present.send_replace(scene.clients.len());
    }

    /// The last messages of the running broadcast, flagged as history.
    pub(crate) fn history(&self, count: usize) -> Vec<RoomMessage> {
        last(&self.scene().recent, count)
    }

    // What the playback does.

    /// Goes live with a new room id.
    pub(crate) fn begin(&self, title: String) -> i64 {
        let room_id = fresh::id();
        let scene = &mut *self.scene();
        scene.recent.clear();
        scene.live = Some(Broadcast {
            room_id,
            title,
            started: fresh::now_ms() / 1000,
        });
        scene.last_room = Some(room_id);
        room_id
    }

    /// Goes offline and closes all connections.
    pub(crate) async fn end(&self) {
        self.scene().live = None;
        self.tell_and_forget(&Tell::Close {
            code: 1000,
            reason: String::new(),
        })
        .await;
        self.scene().recent.clear();
    }

    /// There will be no other broadcast.
    pub(crate) fn finish(&self) {
        self.scene().finished = true;
    }

    /// Waits until somebody is connected.
    pub(crate) async fn somebody(&self) {
        // The sender lives as long as `self`: no error.
        let _ = self
            .present
            .subscribe()
            .wait_for(|&present| present > 0)
            .await;
    }

    /// Sends one frame's messages to everybody who is here.
    pub(crate) async fn send(&self, messages: Arc<Vec<RoomMessage>>) {
        {
            let scene = &mut *self.scene();
            scene.frames += 1;
            scene.recent.extend(messages.iter().cloned());
            let surplus = scene.recent.len().saturating_sub(REMEMBERED);
            scene.recent.drain(..surplus);
        }
        self.tell(&Tell::Messages(messages)).await;
    }

    /// Tells everybody who is here.
    pub(crate) async fn tell(&self, tell: &Tell) {
        let clients: Vec<_> = self
            .scene()
            .clients
            .iter()
            .map(|client| client.tell.clone())
            .collect();
        for client in clients {
            // An error means that the connection is gone.
            let _ = client.send(tell.clone()).await;
        }
    }

    /// Tells everybody who is here, and counts them as gone.
    pub(crate) async fn tell_and_forget(&self, tell: &Tell) {
        let clients = std::mem::take(&mut self.scene().clients);
        self.present.send_replace(0);
        for client in clients {
            let _ = client.tell.send(tell.clone()).await;
        }
    }

    // Faults.

    /// Arms a fault.
    pub(crate) fn arm(&self, mut fault: Fault) {
        let scene = &mut *self.scene();
        if let Fault::Playback { after_frames, .. } = &mut fault {
            *after_frames += scene.frames;
        }
        scene.faults.push(fault);
    }

    /// Whether this look-up shall get a captcha.
    pub(crate) fn captcha_due(&self) -> bool {
        let scene = &mut *self.scene();
        scene.faults.iter_mut().any(|fault| match fault {
            Fault::Captcha { skip, times } => due(skip, times),
            _ => false,
        })
    }

    /// How this signing request shall be refused.
    pub(crate) fn refusal_due(&self) -> Option<Refusal> {
        let scene = &mut *self.scene();
        scene.faults.iter_mut().find_map(|fault| match fault {
            Fault::Sign {
                skip,
                times,
                refusal,
            } => due(skip, times).then(|| refusal.clone()),
            _ => None,
        })
    }

    /// With what message and status this handshake shall be refused.
    pub(crate) fn handshake_refusal_due(&self) -> Option<(String, u32)> {
        let scene = &mut *self.scene();
        scene.faults.iter_mut().find_map(|fault| match fault {
            Fault::Handshake {
                skip,
                times,
                message,
                status,
            } => due(skip, times).then(|| (message.clone(), *status)),
            _ => None,
        })
    }

    /// What shall happen in the stream before the next frame.
    pub(crate) fn acts_due(&self) -> Vec<Act> {
        let scene = &mut *self.scene();
        let sent = scene.frames;
        let mut acts = Vec::new();
        scene.faults.retain(|fault| match fault {
            Fault::Playback { after_frames, act } if *after_frames <= sent => {
                acts.push(act.clone());
                false
            }
            _ => true,
        });
        acts
    }
}

/// Counts one request against a fault; true when it is hit.
fn due(skip: &mut u32, times: &mut u32) -> bool {
    if *times == 0 {
        false
    } else if *skip > 0 {
        *skip -= 1;
        false
    } else {
        *times -= 1;
        true
    }
}

fn last(recent: &VecDeque<RoomMessage>, count: usize) -> Vec<RoomMessage> {
    let skip = recent.len().saturating_sub(count);
    recent
        .iter()
        .skip(skip)
        .map(|message| RoomMessage {
            is_history: true,
            ..message.clone()
        })
        .collect()
}
