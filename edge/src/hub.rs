//! `StreamHub`: the Durable Object of one room. It takes live events from the relay and lets any
//! number of clients follow them over server-sent events.
//!
//! Comes in: `POST /ingest` (one event's JSON per line, from the relay) and `GET /feed` (a client,
//! from the Worker). Goes out: `text/event-stream`. A client is subscribed before its history is
//! read, so nothing can fall between the two. A repeat is dropped by the window. A crash or an
//! eviction forgets window and clients; clients come back with their cursors and the database
//! tells them what they missed.

#![allow(
    missing_docs,
    reason = "the attribute `durable_object` adds methods without"
)]

pub(crate) mod feed;
mod pace;
pub(crate) mod sse;
pub(crate) mod window;

use std::cell::{Cell, OnceCell, RefCell};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::rc::Rc;
use std::time::Duration;

use futures_util::stream;
use shared::api::{Cursor, Gap, GapReason};
use shared::identity::is_stream_id;
use worker::{Delay, DurableObject, Env, Method, Request, Response, State, durable_object};

use self::feed::{Feed, Start, Step};
use self::pace::{GATHER_MS, Pace};
use self::window::{Offer, Window};
use crate::db::{self, SharedDb};
use crate::log;
use crate::problem::Problem;
use crate::wait::{self, Signal};

/// A heartbeat every so many seconds, while there are clients.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long a hole may stay open before clients are told of it, in milliseconds.
const HOLE_PATIENCE_MS: i64 = 3_000;
/// Time between two looks for what closes it.
const HOLE_RETRY: Duration = Duration::from_millis(250);
/// Stored events that are read at once.
const PAGE: u32 = 200;
/// Clients of one hub; each costs the memory of a connection.
const MAX_CLIENTS: u64 = 5_000;

/// The Durable Object. Its name is the stream id.
#[durable_object]
pub struct StreamHub {
    state: Rc<State>,
    env: Env,
    room: OnceCell<Rc<Room>>,
}

// A caught panic leaves nothing half-done that the next request relies on: window and clients can
// be lost at any time anyway.
impl UnwindSafe for StreamHub {}
impl RefUnwindSafe for StreamHub {}

impl DurableObject for StreamHub {
    fn new(state: State, env: Env) -> Self {
        Self {
            state: Rc::new(state),
            env,
            room: OnceCell::new(),
        }
    }

    async fn fetch(&self, mut request: Request) -> worker::Result<Response> {
        let url = request.url()?;
        let parameter = |name: &str| {
            url.query_pairs()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.into_owned())
        };
        let Some(stream_id) = parameter("stream").filter(|id| is_stream_id(id)) else {
            return Problem::internal().to_worker();
        };
        let room = self.room.get_or_init(|| {
            Rc::new(Room::new(
                &stream_id,
                Rc::clone(&self.state),
                self.env.clone(),
            ))
        });
        match (request.method(), url.path()) {
            (Method::Post, "/ingest") => {
                room.ingest(&request.text().await?);
                Response::empty()
            }
            (Method::Get, "/feed") => {
                let start = match parameter("after").as_deref() {
                    None => Start::Now,
                    Some("start") => Start::First,
                    Some(text) => match text.parse::<Cursor>() {
                        Ok(cursor) => Start::After((&cursor).into()),
                        Err(_) => return Problem::internal().to_worker(),
                    },
                };
                let notice = parameter("left").and_then(|text| {
                    Some(Gap {
                        from: text.parse().ok()?,
                        to: 0,
                        reason: GapReason::NewBroadcast,
                    })
                });
                room.open(start, notice).await
            }
            _ => Problem::internal().to_worker(),
        }
    }
}

/// What a hub keeps in memory.
struct Room {
    stream_id: String,
    state: Rc<State>,
    window: RefCell<Window>,
    database: Rc<SharedDb>,
    /// Wakes the clients.
    moved: Signal,
    heartbeat: Cell<u64>,
    heartbeat_runs: Cell<bool>,
    clients: Cell<u64>,
    pace: RefCell<Pace>,
    gathering: Cell<bool>,
    closing_hole: Cell<bool>,
}

impl Room {
    fn new(stream_id: &str, state: Rc<State>, env: Env) -> Self {
        Self {
            stream_id: stream_id.to_owned(),
            database: Rc::new(SharedDb::new(
                env,
                db::Background::Object(Rc::clone(&state)),
            )),
            state,
            window: RefCell::new(Window::new(stream_id)),
            moved: Signal::default(),
            heartbeat: Cell::new(0),
            heartbeat_runs: Cell::new(false),
            clients: Cell::new(0),
            pace: RefCell::default(),
            gathering: Cell::new(false),
            closing_hole: Cell::new(false),
        }
    }

    /// Takes events from the relay, which acknowledges them once this has returned.
    fn ingest(self: &Rc<Self>, lines: &str) {
        let clients = self.clients.get();
        let mut unreadable = 0_u64;
        {
            let mut window = self.window.borrow_mut();
            for line in lines.lines() {
                if window.offer(line, clients > 0) == Offer::Unreadable {
                    unreadable += 1;
                }
            }
        }
        if unreadable > 0 {
            log::warn(
                "events without a readable head were dropped",
                &[
                    ("streamId", &self.stream_id),
                    ("count", &unreadable.to_string()),
                ],
            );
        }
        self.close_hole();
        if clients > 0 {
            self.announce(clients);
        }
    }

    /// Wakes the clients, now or soon.
    fn announce(self: &Rc<Self>, clients: u64) {
        if !self
            .pace
            .borrow_mut()
            .gathers(crate::now().as_millis(), clients)
        {
            self.moved.raise();
        } else if !self.gathering.replace(true) {
            let room = Rc::clone(self);
            self.state.wait_until(async move {
                Delay::from(Duration::from_millis(GATHER_MS.into())).await;
                room.gathering.set(false);
                room.moved.raise();
            });
        }
    }

    /// Closes the window's hole from the database, in the background, if there is one.
    fn close_hole(self: &Rc<Self>) {
        if self.window.borrow().hole().is_none() || self.closing_hole.replace(true) {
            return;
        }
        let room = Rc::clone(self);
        self.state.wait_until(async move {
            while room.window.borrow().hole().is_some() {
                room.close_one_hole().await;
            }
            room.closing_hole.set(false);
        });
    }

    async fn close_one_hole(self: &Rc<Self>) {
        let began = crate::now().as_millis();
        let to = self.window.borrow().hole().map(|hole| hole.to);
        loop {
            let Some(hole) = self.window.borrow().hole() else {
                return;
            };
            if Some(hole.to) != to {
                return;
            }
            let waited = crate::now().as_millis() - began >= HOLE_PATIENCE_MS;
            let rows = self
                .database
                .stream_events(&self.stream_id, Some(hole.from), PAGE)
                .await;
            let reason = match rows {
                Ok(rows) => {
                    if self.window.borrow_mut().fill(&rows) {
                        self.moved.raise();
                        return;
                    }
                    if !rows.is_empty() {
                        self.moved.raise();
                        continue;
                    }
                    GapReason::NotStored
                }
                Err(_) => GapReason::DatabaseDown,
            };
            if waited {
                log::warn(
                    "events are missing in the live feed",
                    &[
                        ("streamId", &self.stream_id),
                        ("from", &hole.from.seq_no.to_string()),
                        ("to", &hole.to.to_string()),
                    ],
                );
                self.window.borrow_mut().give_up(reason);
                self.moved.raise();
                return;
            }
            Delay::from(HOLE_RETRY).await;
        }
    }

    /// Opens a client's feed, or says why not.
    async fn open(self: &Rc<Self>, start: Start, notice: Option<Gap>) -> worker::Result<Response> {
        if self.clients.get() >= MAX_CLIENTS {
            return Problem::unavailable("live feed of this stream").to_worker();
        }
        // From here on nothing that arrives is missed.
        let client = Client::subscribe(self, start, notice);
        if self.window.borrow().is_empty() {
            match self.database.stream_exists(&self.stream_id).await {
                Ok(true) => {}
                Ok(false) if !self.window.borrow().is_empty() => {}
                Ok(false) => {
                    return Problem::not_found(format!("no stream has the id {}", self.stream_id))
                        .to_worker();
                }
                Err(_) => return Problem::unavailable("database").to_worker(),
            }
        }
        let chunks = stream::unfold(client, |mut client| async move {
            let chunk = client.next_chunk().await?;
            Some((Ok::<_, worker::Error>(chunk.into_bytes()), client))
        });
        let response = Response::from_stream(chunks)?;
        response
            .headers()
            .set("content-type", "text/event-stream; charset=utf-8")?;
        Ok(response)
    }

    /// Heartbeats as long as there are clients.
    fn start_heartbeat(self: &Rc<Self>) {
        if self.heartbeat_runs.replace(true) {
            return;
        }
        let room = Rc::clone(self);
        self.state.wait_until(async move {
            while room.clients.get() > 0 {
                Delay::from(HEARTBEAT).await;
                room.heartbeat.set(room.heartbeat.get() + 1);
                room.moved.raise();
            }
            room.heartbeat_runs.set(false);
        });
    }
}

/// A client's feed; dropping it is how a client leaves.
struct Client {
    room: Rc<Room>,
    feed: Feed,
}

impl Client {
    fn subscribe(room: &Rc<Room>, start: Start, notice: Option<Gap>) -> Self {
        room.clients.set(room.clients.get() + 1);
        room.start_heartbeat();
        Self {
            room: Rc::clone(room),
            feed: Feed::new(
                &room.stream_id,
                start,
                notice,
                &room.window.borrow(),
                room.heartbeat.get(),
            ),
        }
    }

    /// The next bytes to write; none when the client is cut.
    async fn next_chunk(&mut self) -> Option<String> {
        loop {
            let moved = self.room.moved.wait();
            let step = self.feed.step(
                &self.room.window.borrow(),
                self.room.heartbeat.get(),
                crate::now().as_millis(),
            );
            match step {
                Step::Write(chunk) => return Some(chunk),
                Step::Read(after) => {
                    let rows = self
                        .room
                        .database
                        .stream_events(&self.room.stream_id, after, PAGE)
                        .await;
                    let now = crate::now().as_millis();
                    match rows {
                        Ok(rows) => {
                            if let Some(chunk) = self.feed.rows(&rows, now) {
                                return Some(chunk);
                            }
                        }
                        Err(_) => self.feed.failed(now),
                    }
                }
                Step::Wait => moved.await,
                Step::WaitFor(ms) => {
                    let _ = wait::within(Duration::from_millis(ms.into()), moved).await;
                }
                Step::Cut => {
                    log::warn(
                        "a client was too slow and was cut",
                        &[("streamId", &self.room.stream_id)],
                    );
                    return None;
                }
            }
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.room.clients.set(self.room.clients.get() - 1);
    }
}
