//! The seam behind which rooms are read: what every provider does for one creator.
//!
//! In, in the order of an attempt: a name to [`Source::look`] for, the room to [`Source::enter`]
//! (the creator has claimed it and opened its session in between), and a connection to
//! [`Delivery::run`] to its end. Out: a [`Sighting`], parcels in the outbox, an [`End`]; or a
//! [`Failure`], which says itself when to try again. All futures here may be dropped at any await:
//! that is how an attempt is cancelled, and it closes what was opened.
//!
//! TikTok's own look costs nothing, so it comes first whoever delivers; a provider with a look of
//! its own is asked only when TikTok says that there is a broadcast, or cannot tell. Which of the
//! two delivers is the business of `choice`.

use std::sync::Arc;
use std::time::Duration;

use shared::time::Timestamp;
use tokio_util::sync::CancellationToken;

use super::budget::Urgency;
use super::choice::Which;
use super::direct::{self, Direct, Entered};
use super::euler::{self, Euler};
use super::failure::Failure;
use super::outbox::{Outlet, Parcel};
use super::session::Session;

/// A room with a broadcast.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Room {
    /// TikTok's room id: the `streamId`.
    pub(super) id: String,
    /// The creator's name in TikTok's spelling.
    pub(super) unique_id: Option<String>,
    pub(super) owner_id: Option<String>,
    pub(super) owner_nickname: Option<String>,
    pub(super) title: Option<String>,
    pub(super) started_at: Option<Timestamp>,
    /// The creator is away for a moment.
    pub(super) paused: bool,
}

/// What a look at a creator shows. What it cannot tell is a [`Failure`], never "offline".
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sighting {
    /// Broadcasting.
    Live(Room),
    /// Not now.
    Offline,
    /// Never so far: there is no room.
    NeverLive,
    /// Nobody has this name.
    UnknownUser,
}

/// Why a connection is over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct End {
    /// `stream_end`, `closed`, `lost`, `silent`, `protocol` or `shutdown` (told to stop). A provider
    /// whose close codes say more has more specific ones.
    pub(super) reason: &'static str,
    /// WebSocket close code; 1006 for a connection that broke off.
    pub(super) close_code: Option<u16>,
    /// More about it, free of secrets.
    pub(super) detail: Option<String>,
}

/// One creator's way through a provider.
pub(super) trait Source: Send {
    /// What [`Source::enter`] opens.
    type Connection: Delivery;

    /// Whether and where the creator is live. What it opens for that stays open inside until
    /// [`Source::enter`] hands it out, the next look, or the drop. Requests go through the budget of
    /// their host, with that urgency.
    fn look(
        &mut self,
        name: &str,
        urgency: Urgency,
    ) -> impl Future<Output = Result<Sighting, Failure>> + Send;

    /// Opens the connection to a room of the creator, the one that the last look has shown.
    fn enter(
        &mut self,
        name: &str,
        room: &Room,
    ) -> impl Future<Output = Result<Self::Connection, Failure>> + Send;
}

/// An open connection to a room.
pub(super) trait Delivery: Send {
    /// The room that it is good for: upstream may know better than the look.
    fn room_id(&self) -> &str;

    /// What came with opening it, without what came before: it goes ahead of all that is read,
    /// and is no sign that the connection works.
    fn backlog(&mut self, session: &mut Session) -> Parcel;

    /// Reads the connection until its end; hands `first` on ahead of all that is read. Returns
    /// with reason `shutdown` within a second of `stop`.
    fn run(
        self,
        session: &mut Session,
        first: Parcel,
        outlet: &Outlet,
        silence: Duration,
        stop: &CancellationToken,
    ) -> impl Future<Output = End> + Send;
}

/// What both providers need, shared by all creators.
#[derive(Clone)]
pub(super) struct Providers {
    pub(super) direct: Arc<direct::Shared>,
    /// Only with a key.
    pub(super) euler: Option<Arc<euler::Shared>>,
}

/// One creator's ways to its rooms.
pub(super) struct Sources {
    direct: Direct,
    euler: Option<Euler>,
}

impl Sources {
    /// Visitors whom nobody has seen. Fails where no HTTP client can be made.
    pub(super) fn new(providers: Providers) -> Result<Self, String> {
        Ok(Self {
            direct: Direct::new(providers.direct)?,
            euler: providers.euler.map(Euler::new),
        })
    }

    /// TikTok's own look, which costs nothing.
    pub(super) async fn look(&mut self, name: &str, urgency: Urgency) -> Result<Sighting, Failure> {
        self.direct.look(name, urgency).await
    }

    /// The look of a provider, after what TikTok's own has `seen`.
    pub(super) async fn look_by(
        &mut self,
        which: Which,
        name: &str,
        seen: Result<Sighting, Failure>,
    ) -> Result<Sighting, Failure> {
        let (Which::Euler, Some(euler)) = (which, &mut self.euler) else {
            return seen;
        };
        let known = match seen {
            Ok(Sighting::Live(room)) => room,
            Err(_) => Room::default(),
            Ok(other) => return Ok(other),
        };
        Ok(match euler.look(name, Urgency::Room).await? {
            Sighting::Live(room) if room.id == known.id => Sighting::Live(Room {
                unique_id: room.unique_id.or(known.unique_id),
                owner_id: room.owner_id.or(known.owner_id),
                owner_nickname: room.owner_nickname.or(known.owner_nickname),
                title: room.title.or(known.title),
                started_at: room.started_at.or(known.started_at),
                ..room
            }),
            other => other,
        })
    }

    /// Opens the connection to a room.
    pub(super) async fn enter(
        &mut self,
        which: Which,
        name: &str,
        room: &Room,
    ) -> Result<Connection, Failure> {
        match (which, &mut self.euler) {
            (Which::Euler, Some(euler)) => {
                let connection = euler.enter(name, room).await?;
                Ok(Connection::Euler(Box::new(connection)))
            }
            // Without a key there is no other way.
            (Which::Direct | Which::Euler, _) => {
                let entered = self.direct.enter(name, room).await?;
                Ok(Connection::Direct(Box::new(entered)))
            }
        }
    }

    /// The whole way to a room that is being read by the other provider already.
    pub(super) async fn join(
        &mut self,
        which: Which,
        name: &str,
        room: &Room,
    ) -> Result<Connection, Failure> {
        let seen = self.look(name, Urgency::Poll).await;
        match self.look_by(which, name, seen).await? {
            Sighting::Live(found) if found.id == room.id => self.enter(which, name, &found).await,
            _ => Err(Failure::elsewhere(room)),
        }
    }

    /// Closes what a look has opened and nobody has entered.
    pub(super) fn leave(&mut self) {
        if let Some(euler) = &mut self.euler {
            euler.leave();
        }
    }
}

/// A connection of any provider.
pub(super) enum Connection {
    Direct(Box<Entered>),
    Euler(Box<euler::Connection>),
}

impl Delivery for Connection {
    fn room_id(&self) -> &str {
        match self {
            Self::Direct(connection) => connection.room_id(),
            Self::Euler(connection) => connection.room_id(),
        }
    }

    fn backlog(&mut self, session: &mut Session) -> Parcel {
        match self {
            Self::Direct(connection) => connection.backlog(session),
            Self::Euler(connection) => connection.backlog(session),
        }
    }

    async fn run(
        self,
        session: &mut Session,
        first: Parcel,
        outlet: &Outlet,
        silence: Duration,
        stop: &CancellationToken,
    ) -> End {
        // Boxed: a room shall not have room for both.
        match self {
            Self::Direct(connection) => {
                Box::pin(connection.run(session, first, outlet, silence, stop)).await
            }
            Self::Euler(connection) => {
                Box::pin(connection.run(session, first, outlet, silence, stop)).await
            }
        }
    }
}
