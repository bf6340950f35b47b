//! The provider `euler`: rooms by way of Euler Stream's WebSocket API.
//!
//! In the order of a connection: [`dial`] opens the socket of a creator, [`room`] reads which room
//! it shows, [`socket`] reads it with [`envelope`]; [`close`] says what refusals and close codes
//! mean, [`options`] where Euler is and how it is asked. Every connect counts against the account's
//! limits, as every signature of the direct provider does, so both take from one budget.
//!
//! **Which schema** is asked for: v3, since it keeps most types and fields (v2 delivers no
//! `WebcastSubNotifyMessage`), and v2, which is the default there and what has been observed, once
//! the server refuses v3. Whatever comes is taken. Bytes beside the JSON are not asked for: TikTok's
//! own frames (`EULER_RAW_MESSAGES`) tell the same for less; where bytes are given all the same,
//! and are the message's, they are preferred.

mod close;
mod dial;
mod envelope;
mod options;
mod room;
mod socket;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::Semaphore;
use tokio::time::Instant;

pub(super) use self::close::{Error, retry_after};
use self::close::{INVALID_OPTIONS, Mask};
pub(super) use self::options::Settings;
pub use self::options::{Invalid, Options, SchemaVersion};
pub(super) use self::socket::Connection;
use super::budget::{Budget, Held, Urgency};
use super::failure::Failure;
use super::provider::{Room, Sighting, Source};
use super::socket::Dialer;

/// An open socket that nobody has entered is good for so long: it is not read meanwhile.
const KEPT_FOR: Duration = Duration::from_secs(20);

/// What all creators share: settings, the account's key and budget, the sockets that may be open.
pub(super) struct Shared {
    settings: Settings,
    key: SecretString,
    mask: Mask,
    dialer: Dialer,
    budget: Arc<Budget>,
    sockets: Arc<Semaphore>,
    /// The server does not know v3.
    only_v2: AtomicBool,
}

impl Shared {
    /// Prepares the way; nothing connects yet. `budget` is the account's, the same as the sign
    /// server's.
    pub(super) fn new(
        settings: Settings,
        key: SecretString,
        dialer: Dialer,
        budget: Arc<Budget>,
    ) -> Self {
        Self {
            mask: Mask::new(&key),
            sockets: Arc::new(Semaphore::new(settings.max_sockets)),
            settings,
            key,
            dialer,
            budget,
            only_v2: AtomicBool::new(false),
        }
    }

    /// Sockets that are open at present.
    pub(super) fn open_sockets(&self) -> usize {
        self.settings
            .max_sockets
            .saturating_sub(self.sockets.available_permits())
    }
}

/// One creator's way to Euler.
pub(super) struct Euler {
    shared: Arc<Shared>,
    kept: Option<Kept>,
}

/// A socket that was opened to look, and may be entered.
struct Kept {
    name: String,
    room: Room,
    connection: Connection,
    since: Instant,
}

impl Euler {
    /// Nothing is open yet.
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, kept: None }
    }

    /// The room of a creator who is live.
    async fn find(&mut self, name: &str, urgency: Urgency) -> Result<Option<Room>, Error> {
        if let Some(kept) = &self.kept
            && kept.since.elapsed() < KEPT_FOR
            && kept.name == name
        {
            return Ok(Some(kept.room.clone()));
        }
        self.leave();
        let Some((room, connection)) = self.connect(name, urgency).await? else {
            return Ok(None);
        };
        self.kept = Some(Kept {
            name: name.to_owned(),
            room: room.clone(),
            connection,
            since: Instant::now(),
        });
        Ok(Some(room))
    }

    /// The socket to this room.
    async fn open(&mut self, name: &str, room: &Room) -> Result<Connection, Error> {
        let Some(found) = self.find(name, Urgency::Room).await? else {
            return Err(Error::Closed {
                code: close::NOT_LIVE,
                message: None,
            });
        };
        match self.kept.take_if(|kept| kept.room.id == room.id) {
            Some(kept) => Ok(kept.connection),
            None => Err(Error::Moved {
                asked: room.id.clone(),
                found: found.id,
            }),
        }
    }

    /// Closes the socket of a look that nobody entered.
    pub(super) fn leave(&mut self) {
        self.kept = None;
    }

    /// Connects with the schema version that the server knows.
    async fn connect(
        &self,
        name: &str,
        urgency: Urgency,
    ) -> Result<Option<(Room, Connection)>, Error> {
        let shared = &self.shared;
        let schema = match shared.settings.schema {
            SchemaVersion::V1 => "v1",
            SchemaVersion::V2 => "v2",
            SchemaVersion::Auto if shared.only_v2.load(Ordering::Relaxed) => "v2",
            SchemaVersion::Auto | SchemaVersion::V3 => "v3",
        };
        let found = self.connect_with(name, schema, urgency).await;
        let (SchemaVersion::Auto, "v3", Err(error)) = (shared.settings.schema, schema, &found)
        else {
            return found;
        };
        if !is_about_options(error) {
            return found;
        }
        let again = self.connect_with(name, "v2", urgency).await;
        if !again.as_ref().is_err_and(is_about_options)
            && !shared.only_v2.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(stage = "ingest", %error, "Euler refuses schema v3, asking for v2 from now on");
        }
        again
    }

    async fn connect_with(
        &self,
        name: &str,
        schema: &str,
        urgency: Urgency,
    ) -> Result<Option<(Room, Connection)>, Error> {
        let shared = &self.shared;
        let permit = shared
            .sockets
            .clone()
            .try_acquire_owned()
            .map_err(|_| Error::Sockets(shared.settings.max_sockets))?;
        if let Err(Held(wait)) = shared.budget.take(urgency).await {
            let label = "told to wait before".to_owned();
            return Err(Error::Limited { wait, label });
        }
        let address = dial::address(&shared.settings, &shared.key, name, schema);
        let socket = match dial::open(&shared.dialer, &address, &shared.mask).await {
            Ok(socket) => socket,
            Err(error) => {
                if let Error::Limited { wait, label } = &error {
                    shared.budget.hold(*wait, label);
                }
                return Err(error);
            }
        };
        let mut connection = Connection::new(socket, shared.mask.clone(), Some(permit));
        match connection.introduce().await {
            Ok(Some(room)) => Ok(Some((room, connection))),
            Ok(None) => Ok(None),
            Err(error) => {
                if let Error::Closed { code: 4429, .. } = &error {
                    let sockets = shared.open_sockets();
                    tracing::warn!(
                        stage = "ingest",
                        sockets,
                        "the account has too many open sockets"
                    );
                }
                Err(error)
            }
        }
    }
}

impl Source for Euler {
    type Connection = Connection;

    /// The only way to see a broadcast is to connect, so the socket stays open for
    /// [`Source::enter`] for a moment; a look right after a look costs nothing.
    async fn look(&mut self, name: &str, urgency: Urgency) -> Result<Sighting, Failure> {
        match self.find(name, urgency).await {
            Ok(Some(room)) => Ok(Sighting::Live(room)),
            Ok(None) => Ok(Sighting::Offline),
            Err(error) => Err(Failure::to_euler(&error, None)),
        }
    }

    /// The socket of the look with what has come already, or a new one if that is too old.
    async fn enter(&mut self, name: &str, room: &Room) -> Result<Connection, Failure> {
        let opened = self.open(name, room).await;
        opened.map_err(|error| Failure::to_euler(&error, Some(room)))
    }
}

/// Whether the server does not like what it was asked for.
fn is_about_options(error: &Error) -> bool {
    matches!(
        error,
        Error::Closed {
            code: INVALID_OPTIONS,
            ..
        } | Error::Refused { status: 400, .. }
    )
}

#[cfg(test)]
mod tests;
