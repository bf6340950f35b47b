//! The provider `direct`: TikTok's webcast protocol, spoken by ourselves.
//!
//! In the order of a connection: [`room`] finds the room of a name, [`sign`] has it signed,
//! [`dial`] opens the connection, [`socket`] reads it with [`frame`]. [`device`] is the browser that we
//! are towards TikTok; [`http`] and [`proxy`] are the ways there.

mod device;
pub(super) mod dial;
pub(super) mod frame;
pub(super) mod frames;
pub(super) mod http;
pub(super) mod proxy;
pub(super) mod room;
pub(super) mod sign;
pub(super) mod socket;

use std::sync::Arc;
use std::time::Duration;

use reqwest::Client;
use rustls_platform_verifier::ConfigVerifierExt as _;
use tokio_util::sync::CancellationToken;

use self::device::Device;
use self::room::{Host, Lookout};
use self::sign::Signer;
use super::budget::{Budget, Urgency};
use super::failure::Failure;
use super::options::{Limits, Upstream};
use super::outbox::{Outlet, Parcel};
use super::provider::{Delivery, End, Room, Sighting, Source};
use super::session::Session;
use super::socket::Dialer;
use crate::proto::frames::FetchResult;

/// A client for requests to the sign server, by the proxy if there is one.
pub(super) fn client(upstream: &Upstream) -> Result<Client, String> {
    http::sign_client(upstream.proxy.as_ref())
}

/// What all creators share: hosts with their budgets, settings, certificates.
pub(super) struct Shared {
    web: Host,
    webcast: Host,
    signer: Signer,
    dialer: Dialer,
}

impl Shared {
    /// Prepares the clients; nothing connects yet. `account` is the budget at Euler Stream.
    pub(super) fn new(
        upstream: &Upstream,
        limits: Limits,
        account: Arc<Budget>,
    ) -> Result<Self, String> {
        let tls = rustls::ClientConfig::with_platform_verifier()
            .map_err(|error| format!("cannot read the system's certificates: {error}"))?;
        let host = |name, url: &url::Url| Host {
            url: url.clone(),
            budget: Budget::new(name, limits.tiktok_per_minute, limits.tiktok_at_once()),
        };
        Ok(Self {
            web: host("tiktok_web", &upstream.web),
            webcast: host("tiktok_webcast", &upstream.webcast),
            signer: Signer::new(upstream, account)?,
            dialer: Dialer {
                proxy: upstream.proxy.clone(),
                tls: Arc::new(tls),
            },
        })
    }

    /// The way out.
    pub(super) fn dialer(&self) -> Dialer {
        self.dialer.clone()
    }
}

/// One creator's way to TikTok: a visitor of its own.
pub(super) struct Direct {
    shared: Arc<Shared>,
    device: Arc<Device>,
    http: Client,
}

impl Direct {
    /// A visitor whom TikTok has never seen.
    pub(super) fn new(shared: Arc<Shared>) -> Result<Self, String> {
        let device = Arc::new(Device::new());
        let http = http::web_client(&device, &shared.dialer)?;
        Ok(Self {
            shared,
            device,
            http,
        })
    }

    /// Opens the connection; a signed address is good for one.
    async fn dial(
        &self,
        room_id: &str,
        cookie: &str,
        result: &FetchResult,
    ) -> Result<socket::Connection, dial::Error> {
        if !self.device.set_cookie(cookie) {
            return Err(dial::Error::Address("its cookie is none"));
        }
        let number = room_id
            .parse()
            .map_err(|_| dial::Error::Address("its room id is too large"))?;
        let encrypted = self.shared.signer.is_encrypted();
        let address = dial::address(room_id, result, encrypted)?;
        let cookies = self.device.socket_cookies();
        dial::dial(&self.shared.dialer, &address, &cookies, number).await
    }

    /// Closes what the look has left open: nobody asks while the room is read, and a connection
    /// takes as much memory as all the rest of a room. The visitor stays the same.
    fn hang_up(&mut self) {
        if let Ok(http) = http::web_client(&self.device, &self.shared.dialer) {
            self.http = http;
        }
    }

    /// TikTok has blocked this visitor: come again as another one.
    fn renew_visitor(&mut self, error: &dial::Error) {
        if let dial::Error::Refused { message, .. } = error
            && message.contains("DEVICE_BLOCKED")
            && let Ok(direct) = Self::new(self.shared.clone())
        {
            *self = direct;
        }
    }
}

impl Source for Direct {
    type Connection = Entered;

    async fn look(&mut self, name: &str, urgency: Urgency) -> Result<Sighting, Failure> {
        let (web, webcast) = (&self.shared.web, &self.shared.webcast);
        Lookout {
            urgency,
            http: &self.http,
            device: &self.device,
            web,
            webcast,
        }
        .look(name)
        .await
        .map_err(|error| Failure::to_look(&error))
    }

    /// Has the room signed, as soon as the shared budget allows it, and connects. The sign
    /// server's answer may name another room than was asked for.
    async fn enter(&mut self, _name: &str, room: &Room) -> Result<Entered, Failure> {
        let signed = match self.shared.signer.sign(&room.id).await {
            Ok(signed) => signed,
            Err(error) => return Err(Failure::to_sign(&error, room)),
        };
        let room_id = signed.room_id.unwrap_or_else(|| room.id.clone());
        match self.dial(&room_id, &signed.cookie, &signed.result).await {
            Ok(connection) => {
                self.hang_up();
                Ok(Entered {
                    room_id,
                    result: signed.result,
                    connection,
                })
            }
            Err(error) => {
                self.renew_visitor(&error);
                Err(Failure::to_dial(&error, room_id))
            }
        }
    }
}

/// An open connection, and the room's recent messages that came with its address.
pub(super) struct Entered {
    room_id: String,
    result: FetchResult,
    connection: socket::Connection,
}

impl Delivery for Entered {
    fn room_id(&self) -> &str {
        &self.room_id
    }

    fn backlog(&mut self, session: &mut Session) -> Parcel {
        let result = std::mem::take(&mut self.result);
        socket::parcel(frame::messages(&result), session, true)
    }

    async fn run(
        self,
        session: &mut Session,
        first: Parcel,
        outlet: &Outlet,
        silence: Duration,
        stop: &CancellationToken,
    ) -> End {
        self.connection
            .run(session, first, outlet, silence, stop)
            .await
    }
}
