//! A stand-in for TikTok's web and webcast servers, for the sign server and for Euler's API.
//!
//! A real server speaking the real wire protocols: the daemon under test runs unchanged, only its
//! base URLs point here. It plays recorded rooms as live broadcasts ([`capture`], `playback`) and
//! makes up rooms by the thousand ([`load`]), watches that its clients behave as TikTok's own web
//! client does ([`Violation`]) and misbehaves on request ([`Fault`]). Read in the order a client
//! meets it: `door` and `trouble` (every request), `web` (from a name to a room), `sign` (from a
//! room to a signed address), `address`, `upgrade` and `socket` (TikTok's WebSocket), [`euler`]
//! (Euler's, with [`json`]), `room` and `playback` (who is live with what), [`ledger`] (what
//! happened). Both providers' sockets show the same running broadcast with the same message ids.
//!
//! It shares no code with the daemon: the schemas in [`wire`] and [`json`] are written a second
//! time on purpose. On a crash nothing is kept; after a restart all broadcasts are new ones.
//!
//! ```no_run
//! use std::{path::Path, time::Duration};
//! use upstream::{Act, Capture, Creator, Fault, Provider, Script, Upstream};
//!
//! # async fn example() -> anyhow::Result<()> {
//! let capture = Capture::read(Path::new("fixtures/captures/room-d.ndjson"))?;
//! let mut script = Script::new().creator(Creator::plays("room-d", capture));
//! script.euler.keys = vec!["canary-key".to_owned()];
//! script.euler.inactive_after = Some(Duration::from_secs(1));
//! let upstream = Upstream::start(script).await?;
//! // TIKTOK_WEB_URL, TIKTOK_WEBCAST_URL, EULER_API_URL; EULER_WS_URL
//! println!("{} {}", upstream.base_url(), upstream.euler_ws_url());
//! // TikTok's sockets fall silent after ten frames, Euler's go on.
//! let (provider, act) = (Provider::Direct, Act::Hang);
//! upstream.fault("room-d", Fault::On { provider, after_frames: 10, act });
//! // … later: which message went which way, and did the key arrive?
//! let over_euler = upstream.deliveries().into_iter().filter(|one| one.provider == Provider::Euler);
//! println!("{} {}", over_euler.count(), upstream.arrived("canary-key"));
//! # Ok(())
//! # }
//! ```

mod acks;
mod address;
pub mod capture;
mod control;
mod door;
pub mod euler;
pub mod fault;
pub mod fresh;
pub mod json;
pub mod ledger;
pub mod load;
pub mod patch;
mod playback;
mod request;
mod room;
pub mod script;
mod sign;
mod socket;
mod trouble;
mod upgrade;
mod web;
pub mod wire;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicUsize},
    time::{Duration, SystemTime},
};

use anyhow::Context;
use axum::{
    Router,
    middleware::from_fn_with_state,
    routing::{get, post},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use crate::{
    capture::Capture,
    euler::{Euler, Form, Limits, Plan, Token},
    fault::{Act, Fault, Place, Refusal, RetryAfter, Trouble},
    json::Naming,
    ledger::{Arrived, Counts, Delivery, Provider, Sent, Violation},
    load::{Load, Mix, Totals},
    script::{Creator, History, Pace, Record, Script, Show},
};
use crate::{
    door::{Cut, Door},
    euler::quota::Quota,
    ledger::Ledger,
    room::{Order, Room},
    sign::Signed,
};

/// A running stand-in; dropping it ends all connections and frees the port.
#[derive(Debug)]
pub struct Upstream {
    stage: Arc<Stage>,
}

/// What the parts share.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) script: Script,
    /// `host:port` we listen on.
    pub(crate) authority: String,
    pub(crate) ledger: Ledger,
    rooms: HashMap<String, Arc<Room>>,
    /// By `internalExt`.
    signed: Mutex<HashMap<String, Signed>>,
    /// Open ones.
    pub(crate) euler_sockets: AtomicUsize,
    pub(crate) quota: Quota,
    tasks: TaskTracker,
    over: CancellationToken,
}

impl Stage {
    /// The creator with this name, in any case.
    pub(crate) fn room(&self, name: &str) -> Option<Arc<Room>> {
        self.rooms.get(&name.to_lowercase()).cloned()
    }

    /// The creator whose current or last broadcast has this id.
    pub(crate) fn room_by_id(&self, id: &str) -> Option<Arc<Room>> {
        let id: i64 = id.parse().ok()?;
        self.rooms
            .values()
            .find(|room| room.shown_room() == Some(id))
            .cloned()
    }

    pub(crate) fn rooms(&self) -> Vec<Arc<Room>> {
        let mut rooms: Vec<_> = self.rooms.values().cloned().collect();
        rooms.sort_by(|a, b| a.name.cmp(&b.name));
        rooms
    }

    fn signed_book(&self) -> MutexGuard<'_, HashMap<String, Signed>> {
        self.signed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn signed(&self, internal_ext: &str) -> Option<Signed> {
        self.signed_book().get(internal_ext).cloned()
    }

    pub(crate) fn keep_signed(&self, internal_ext: String, signed: Signed) {
        // Old entries stay for a while, so that their late use is called by its name.
        let keep = self.script.signed_life * 10;
        let mut book = self.signed_book();
        book.retain(|_, signed| signed.at.elapsed() < keep);
        book.insert(internal_ext, signed);
    }

    /// Runs a task until it ends or the stand-in is stopped.
    pub(crate) fn spawn(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks
            .spawn(self.over.clone().run_until_cancelled_owned(task));
    }
}

impl Upstream {
    /// Listens and begins to play.
    pub async fn start(script: Script) -> anyhow::Result<Self> {
        let listener = tokio::net::TcpListener::bind(script.listen)
            .await
            .with_context(|| format!("can't listen on {}: is the port taken?", script.listen))?;
        let authority = listener.local_addr()?.to_string();
        let rooms = script
            .creators
            .iter()
            .map(|creator| {
                (
                    creator.name.to_lowercase(),
                    Arc::new(Room::new(
                        creator.clone(),
                        History::Messages(script.history),
                    )),
                )
            })
            .collect();
        let stage = Arc::new(Stage {
            script,
            authority,
            ledger: Ledger::default(),
            rooms,
            signed: Mutex::default(),
            euler_sockets: AtomicUsize::new(0),
            quota: Quota::default(),
            tasks: TaskTracker::new(),
            over: CancellationToken::new(),
        });
        for room in stage.rooms() {
            stage.spawn(playback::play(stage.clone(), room));
        }
        let router = router(stage.clone()).into_make_service_with_connect_info::<Cut>();
        let over = stage.over.clone();
        stage.spawn(async move {
            let served =
                axum::serve(Door(listener), router).with_graceful_shutdown(over.cancelled_owned());
            if let Err(error) = served.await {
                tracing::error!(%error, "the listener failed");
            }
        });
        Ok(Self { stage })
    }

    /// `http://host:port`: what `TIKTOK_WEB_URL`, `TIKTOK_WEBCAST_URL` and `EULER_API_URL` shall
    /// be.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.stage.authority)
    }

    /// `ws://host:port`: what `EULER_WS_URL` shall be.
    pub fn euler_ws_url(&self) -> String {
        format!("ws://{}", self.stage.authority)
    }

    /// Everything sent so far, in order.
    pub fn sent(&self) -> Vec<Sent> {
        self.stage.ledger.sent()
    }

    /// Everything clients did wrong so far.
    pub fn violations(&self) -> Vec<Violation> {
        self.stage.ledger.violations()
    }

    /// How often things happened so far.
    pub fn counts(&self) -> Counts {
        self.stage.ledger.counts()
    }

    /// Every message as every connection got it, of both providers.
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.stage.ledger.deliveries()
    }

    /// The first 5,000 requests that arrived, with all that can hold a secret.
    pub fn requests(&self) -> Vec<Arrived> {
        self.stage.ledger.requests()
    }

    /// Whether this text arrived in a query parameter or a header (a cookie is one).
    pub fn arrived(&self, text: &str) -> bool {
        let holds = |(_, value): &(String, String)| value.contains(text);
        let requests = self.requests();
        requests
            .iter()
            .any(|request| request.values.iter().any(holds))
    }

    /// What a room of made-up events has sent so far.
    pub fn totals(&self, creator: &str) -> Option<Totals> {
        self.stage.ledger.totals(creator)
    }

    /// When this creator's rooms were to be signed, refused or not.
    pub fn sign_times(&self, creator: &str) -> Vec<SystemTime> {
        self.stage.ledger.sign_times(creator)
    }

    /// When WebSockets to this creator were asked for over this provider, refused or not.
    pub fn attempts(&self, creator: &str, provider: Provider) -> Vec<SystemTime> {
        self.stage.ledger.attempts(creator, provider)
    }

    /// Arms a fault; counted from now on. False when there is no such creator.
    pub fn fault(&self, creator: &str, fault: Fault) -> bool {
        let room = self.stage.room(creator);
        room.inspect(|room| room.arm(fault)).is_some()
    }

    /// Ends the running broadcast as its host does: announced, then closed. The creator stays
    /// offline until [`Self::start_broadcast`]. False when nothing is running.
    pub fn end_broadcast(&self, creator: &str) -> bool {
        let room = self.stage.room(creator);
        room.is_some_and(|room| room.order(Order::End))
    }

    /// Begins a broadcast, with a new room id: what is left of the capture, or one more lap when
    /// all are over. False when one is running or there is nothing to play.
    pub fn start_broadcast(&self, creator: &str) -> bool {
        let room = self.stage.room(creator);
        room.is_some_and(|room| room.order(Order::Start))
    }

    /// Whether this creator's last lap is over; false for those who play nothing.
    pub fn finished(&self, creator: &str) -> bool {
        self.stage.room(creator).is_some_and(|room| room.finished())
    }

    /// The room id of the creator's running broadcast.
    pub fn room_id(&self, creator: &str) -> Option<i64> {
        self.stage.room(creator)?.live().map(|live| live.room_id)
    }

    /// Stops playing, ends all connections, and waits until that is done.
    pub async fn stop(self) {
        self.stage.over.cancel();
        self.stage.tasks.close();
        // Nothing of ours runs longer once it is told to stop.
        let _ = tokio::time::timeout(Duration::from_secs(5), self.stage.tasks.wait()).await;
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stage.over.cancel();
    }
}

fn router(stage: Arc<Stage>) -> Router {
    Router::new()
        .route("/{handle}/live", get(web::live_page))
        .route("/api-live/user/room/", get(web::user_room))
        .route("/webcast/room/info/", get(web::room_info))
        .route("/webcast/room/check_alive/", get(web::check_alive))
        .route("/webcast/rooms/{room_id}/connect", get(sign::connect))
        .route(
            "/webcast/anchors/{unique_id}/room_id",
            get(euler::rest::room_id_of),
        )
        .route("/webcast/fetch", get(sign::fetch))
        .route("/webcast/gifts", get(euler::rest::gifts))
        .route("/webcast/gift/list/", get(euler::rest::gift_list))
        .route("/accounts/me/rate_limits", get(euler::rest::rate_limits))
        .route("/webcast/rate_limits", get(euler::rest::rate_limits))
        .route("/", get(euler::socket::handshake))
        .route("/verify", get(trouble::verify))
        .route(sign::SOCKET_PATH, get(socket::handshake))
        .layer(from_fn_with_state(stage.clone(), trouble::pass))
        .route("/stand-in/state", get(control::state))
        .route("/stand-in/faults/{creator}", post(control::arm))
        .route("/stand-in/broadcasts/{creator}/end", post(control::end))
        .route("/stand-in/broadcasts/{creator}/start", post(control::start))
        .with_state(stage)
}

#[cfg(test)]
mod tests;
