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

pub(super) use self::close::{Error, Retry, retry_after_end};
use self::close::{INVALID_OPTIONS, Mask};
pub(super) use self::options::Settings;
pub use self::options::{Invalid, Options, SchemaVersion, Switch};
pub(super) use self::socket::Connection;
use super::budget::Budget;
use super::direct::room::{Room, Sighting};
use super::socket::Dialer;

/// The name of this provider in events and statuses.
pub(super) const NAME: &str = "euler";

/// A limit that lasts longer is told instead of waited for.
const PATIENCE: Duration = Duration::from_secs(10);
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

impl Kept {
    fn is_fresh(&self) -> bool {
        self.since.elapsed() < KEPT_FOR
    }
}

impl Euler {
    /// Nothing is open yet.
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, kept: None }
    }

    /// Whether and where a creator is live. The only way to see it is to connect, so the socket is
    /// kept open for [`Euler::enter`] for a moment; a look right after a look costs nothing.
    pub(super) async fn look(&mut self, name: &str) -> Result<Sighting, Error> {
        if let Some(kept) = self
            .kept
            .take_if(|kept| kept.is_fresh() && kept.name == name)
        {
            let room = kept.room.clone();
            self.kept = Some(kept);
            return Ok(Sighting::Live(room));
        }
        self.leave().await;
        let Some((room, connection)) = self.connect(name).await? else {
            return Ok(Sighting::Offline);
        };
        self.kept = Some(Kept {
            name: name.to_owned(),
            room: room.clone(),
            connection,
            since: Instant::now(),
        });
        Ok(Sighting::Live(room))
    }

    /// The connection to a room that a look at `name` has shown: the socket of that look with
    /// what has come already, or a new one if that is too old.
    pub(super) async fn enter(&mut self, name: &str, room: &Room) -> Result<Connection, Error> {
        let found = match self.look(name).await? {
            Sighting::Live(found) => found,
            _ => {
                return Err(Error::Closed {
                    code: close::NOT_LIVE,
                    message: None,
                });
            }
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
    pub(super) async fn leave(&mut self) {
        if let Some(kept) = self.kept.take() {
            kept.connection.leave().await;
        }
    }

    /// Connects with the schema version that the server knows.
    async fn connect(&self, name: &str) -> Result<Option<(Room, Connection)>, Error> {
        let shared = &self.shared;
        let schema = match shared.settings.schema {
            SchemaVersion::V1 => "v1",
            SchemaVersion::V2 => "v2",
            SchemaVersion::Auto if shared.only_v2.load(Ordering::Relaxed) => "v2",
            SchemaVersion::Auto | SchemaVersion::V3 => "v3",
        };
        let found = self.connect_with(name, schema).await;
        let (SchemaVersion::Auto, "v3", Err(error)) = (shared.settings.schema, schema, &found)
        else {
            return found;
        };
        if !is_about_options(error) {
            return found;
        }
        let again = self.connect_with(name, "v2").await;
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
    ) -> Result<Option<(Room, Connection)>, Error> {
        let shared = &self.shared;
        let permit = shared
            .sockets
            .clone()
            .try_acquire_owned()
            .map_err(|_| Error::Sockets(shared.settings.max_sockets))?;
        shared
            .budget
            .take_within(PATIENCE)
            .await
            .map_err(|wait| Error::Limited {
                wait,
                label: "the account's limit".to_owned(),
            })?;
        let address = dial::address(&shared.settings, &shared.key, name, schema);
        let socket = match dial::open(&shared.dialer, &address, &shared.mask).await {
            Ok(socket) => socket,
            Err(error) => {
                if let Error::Limited { wait, .. } = &error {
                    shared.budget.hold(*wait);
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
