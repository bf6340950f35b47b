//! One creator as the outside sees it: live or not, who is connected, which faults are armed.
//!
//! [`crate::playback`] moves it on, [`crate::web`] and [`crate::sign`] ask it, [`crate::socket`]
//! and [`crate::euler`] enter and leave it. One lock, never held across an await; a watch channel
//! tells the playback when somebody is there, a notification when somebody wants something of it.

mod faults;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, watch};

use crate::{
    fault::Fault,
    fresh,
    ledger::Provider,
    script::{Creator, History, Show},
    wire::RoomMessage,
};

/// How many frames wait for one connection before playback waits for it: little, so that what a
/// killed client has not read is little too.
const QUEUE: usize = 4;
/// How many messages a room that plays a capture remembers; rooms of made-up events, of which
/// there can be many, remember what new clients get and no more.
const REMEMBERED: usize = 512;

/// What the playback tells a connection, in order.
#[derive(Clone, Debug)]
pub(crate) enum Tell {
    /// Messages for one frame.
    Messages(Arc<Vec<RoomMessage>>),
    /// Messages that were sent before.
    Again(Arc<Vec<RoomMessage>>),
    /// One binary message as it is.
    Raw(Bytes),
    /// One text message.
    Text(String),
    /// Answer no heartbeat from now on.
    Deaf,
    /// The next frame's compress header is wrong.
    WrongHeader,
    /// The broadcast is over: close as usual.
    Over,
    /// Close properly.
    Close { code: u16, reason: String },
    /// End without a close frame.
    Drop,
    /// End with a TCP reset.
    Reset,
    /// Write half of a frame, then say nothing any more.
    HalfFrame,
    /// Say nothing any more.
    Hang,
}

/// What a person or a test wants of the playback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    End,
    Start,
}

/// A running broadcast.
#[derive(Clone, Debug)]
pub(crate) struct Broadcast {
    pub(crate) room_id: i64,
    pub(crate) title: String,
    /// Unix seconds.
    pub(crate) started: i64,
    pub(crate) paused: bool,
}

/// A connection that has entered.
pub(crate) struct Entered {
    pub(crate) id: u64,
    pub(crate) tells: mpsc::Receiver<Tell>,
}

#[derive(Debug)]
struct Client {
    id: u64,
    provider: Provider,
    tell: mpsc::Sender<Tell>,
}

#[derive(Debug, Default)]
struct Scene {
    live: Option<Broadcast>,
    /// The broadcast that will go on after an interruption.
    interrupted: Option<Broadcast>,
    last_room: Option<i64>,
    clients: Vec<Client>,
    last_client: u64,
    recent: VecDeque<(Instant, RoomMessage)>,
    faults: Vec<Fault>,
    order: Option<Order>,
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
    history: History,
    remembered: usize,
    scene: Mutex<Scene>,
    present: watch::Sender<usize>,
    called: Notify,
}

impl Room {
    /// An account; `history` is what clients get again unless the creator has an own rule.
    pub(crate) fn new(creator: Creator, history: History) -> Self {
        let scene = Scene {
            // Somebody offline has been live before.
            last_room: matches!(creator.show, Show::Offline).then(fresh::id),
            ..Scene::default()
        };
        let history = creator.history.unwrap_or(history);
        let remembered = match (&creator.show, history) {
            (Show::Generated(_), History::Messages(count)) => count,
            (_, History::Messages(count)) => count.max(REMEMBERED),
            (_, History::Last(_)) => 4 * REMEMBERED,
        };
        let room = Self {
            name: creator.name,
            show: creator.show,
            owner_id: fresh::id(),
            history,
            remembered,
            scene: Mutex::new(scene),
            present: watch::Sender::new(0),
            called: Notify::new(),
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
        let live = scene.live.as_ref().map(|live| live.room_id);
        live.or(scene.last_room)
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

    /// Whose sockets are here.
    pub(crate) fn providers(&self) -> Vec<Provider> {
        let scene = self.scene();
        let mut providers: Vec<_> = scene.clients.iter().map(|client| client.provider).collect();
        providers.sort_unstable();
        providers.dedup();
        providers
    }

    // What clients do.

    /// Joins the broadcast `room_id`; `None` when that is not running. What was sent before comes
    /// first, flagged as history.
    pub(crate) fn enter(&self, room_id: i64, provider: Provider) -> Option<Entered> {
        let scene = &mut *self.scene();
        if scene.live.as_ref()?.room_id != room_id {
            return None;
        }
        let (tell, tells) = mpsc::channel(QUEUE);
        let again = self.again(scene);
        if !again.is_empty() {
            // The queue is empty: there is room for one.
            let _ = tell.try_send(Tell::Again(Arc::new(again)));
        }
        scene.last_client += 1;
        let id = scene.last_client;
        let client = Client { id, provider, tell };
        scene.clients.push(client);
        self.present.send_replace(scene.clients.len());
        Some(Entered { id, tells })
    }

    /// Leaves; playback pauses when nobody is left.
    pub(crate) fn leave(&self, id: u64) {
        let scene = &mut *self.scene();
        scene.clients.retain(|client| client.id != id);
        self.present.send_replace(scene.clients.len());
    }

    /// What a client that connects gets again, flagged as history.
    pub(crate) fn history(&self) -> Vec<RoomMessage> {
        self.again(&self.scene())
    }

    fn again(&self, scene: &Scene) -> Vec<RoomMessage> {
        let count = match self.history {
            History::Messages(count) => count,
            History::Last(time) => {
                let old = |(at, _): &&(Instant, RoomMessage)| at.elapsed() <= time;
                scene.recent.iter().rev().take_while(old).count()
            }
        };
        last(&scene.recent, count, true)
    }

    // What the playback does.

    /// Goes live with a new room id.
    pub(crate) fn begin(&self, title: String) -> i64 {
        let room_id = fresh::id();
        let scene = &mut *self.scene();
        scene.recent.clear();
        // What was wanted of the broadcast before is no longer wanted.
        scene.order = None;
        scene.live = Some(Broadcast {
            room_id,
            title,
            started: fresh::now_ms() / 1000,
            paused: false,
        });
        scene.last_room = Some(room_id);
        scene.finished = false;
        room_id
    }

    /// Goes offline and closes all connections.
    pub(crate) async fn end(&self) {
        self.scene().live = None;
        self.tell_and_forget(&Tell::Over, None).await;
        self.scene().recent.clear();
    }

    /// Drops all connections and is offline until [`Self::resume`].
    pub(crate) async fn interrupt(&self) {
        {
            let scene = &mut *self.scene();
            scene.interrupted = scene.live.take();
        }
        self.tell_and_forget(&Tell::Drop, None).await;
    }

    /// The same room goes on.
    pub(crate) fn resume(&self) {
        let scene = &mut *self.scene();
        scene.live = scene.interrupted.take().or(scene.live.take());
    }

    /// Shows the broadcast as paused or not.
    pub(crate) fn pause(&self, paused: bool) {
        if let Some(live) = &mut self.scene().live {
            live.paused = paused;
        }
    }

    /// There will be no other broadcast, unless somebody orders one.
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

    /// Waits until a fault was armed or an order given.
    pub(crate) async fn called(&self) {
        self.called.notified().await;
    }

    /// Sends one frame's messages to everybody who is here.
    pub(crate) async fn send(&self, messages: Arc<Vec<RoomMessage>>) {
        {
            let scene = &mut *self.scene();
            scene.frames += 1;
            if self.remembered > 0 {
                let now = Instant::now();
                let recent = messages.iter().map(|message| (now, message.clone()));
                scene.recent.extend(recent);
                let surplus = scene.recent.len().saturating_sub(self.remembered);
                scene.recent.drain(..surplus);
            }
        }
        self.tell(&Tell::Messages(messages), None).await;
    }

    /// The last messages once more.
    pub(crate) fn last(&self, count: usize, flagged: bool) -> Vec<RoomMessage> {
        last(&self.scene().recent, count, flagged)
    }

    /// Tells everybody who is here, or only those of one provider.
    pub(crate) async fn tell(&self, tell: &Tell, only: Option<Provider>) {
        let clients: Vec<_> = self
            .scene()
            .clients
            .iter()
            .filter(|client| only.is_none_or(|only| client.provider == only))
            .map(|client| client.tell.clone())
            .collect();
        for client in clients {
            // An error means that the connection is gone.
            let _ = client.send(tell.clone()).await;
        }
    }

    /// Tells them, and counts them as gone.
    pub(crate) async fn tell_and_forget(&self, tell: &Tell, only: Option<Provider>) {
        let gone: Vec<_> = {
            let scene = &mut *self.scene();
            let leaves = |client: &mut Client| only.is_none_or(|only| client.provider == only);
            let gone = scene.clients.extract_if(.., leaves).collect();
            self.present.send_replace(scene.clients.len());
            gone
        };
        for client in gone {
            let _ = client.tell.send(tell.clone()).await;
        }
    }

    // Orders.

    /// Wants the broadcast to end, or one to begin; false when that is so already or cannot be.
    pub(crate) fn order(&self, order: Order) -> bool {
        let scene = &mut *self.scene();
        let live = scene.live.is_some() || scene.interrupted.is_some();
        let plays = !matches!(self.show, Show::Offline | Show::NeverLive | Show::Captcha);
        if !plays || live != (order == Order::End) {
            return false;
        }
        scene.order = Some(order);
        self.called.notify_one();
        true
    }

    /// Takes this order when it was given.
    pub(crate) fn take_order(&self, order: Order) -> bool {
        let scene = &mut *self.scene();
        let given = scene.order == Some(order);
        if given {
            scene.order = None;
        }
        given
    }
}

fn last(
    recent: &VecDeque<(Instant, RoomMessage)>,
    count: usize,
    flagged: bool,
) -> Vec<RoomMessage> {
    let skip = recent.len().saturating_sub(count);
    let recent = recent.iter().skip(skip);
    recent
        .map(|(_, message)| RoomMessage {
            is_history: flagged,
            ..message.clone()
        })
        .collect()
}
