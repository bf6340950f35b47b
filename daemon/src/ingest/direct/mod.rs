//! The provider `direct`: TikTok's webcast protocol, spoken by ourselves.
//!
//! In the order of a connection: [`room`] finds the room of a name, [`sign`] has it signed,
//! [`dial`] opens the connection, [`socket`] reads it with [`frame`]. [`device`] is the browser that we
//! are towards TikTok; [`http`] and [`proxy`] are the ways there.

mod device;
pub(super) mod dial;
mod frame;
mod http;
pub(super) mod proxy;
pub(super) mod room;
pub(super) mod sign;
pub(super) mod socket;

use std::sync::Arc;

use reqwest::Client;
use rustls_platform_verifier::ConfigVerifierExt as _;
use url::Url;

use self::device::Device;
use self::dial::Dialer;
use self::proxy::Proxy;
use self::room::{Lookout, Room, Sighting};
use self::sign::{Signed, Signer};
use self::socket::Connection;
use super::options::Upstream;
use super::outbox::Parcel;
use super::session::Session;

/// The name of this provider in events and statuses.
pub(super) const NAME: &str = "direct";

/// A client for requests to the sign server, by the proxy if there is one.
pub(super) fn client(upstream: &Upstream) -> Result<Client, String> {
    http::sign_client(upstream.proxy.as_ref())
}

/// What all creators share: the sign server's budget, settings, certificates.
pub(super) struct Shared {
    web: Url,
    webcast: Url,
    proxy: Option<Proxy>,
    signer: Signer,
    tls: Arc<rustls::ClientConfig>,
}

impl Shared {
    /// Prepares the clients; nothing connects yet.
    pub(super) fn new(upstream: &Upstream, signs_per_minute: u32) -> Result<Self, String> {
        let tls = rustls::ClientConfig::with_platform_verifier()
            .map_err(|error| format!("cannot read the system's certificates: {error}"))?;
        Ok(Self {
            web: upstream.web.clone(),
            webcast: upstream.webcast.clone(),
            proxy: upstream.proxy.clone(),
            signer: Signer::new(upstream, signs_per_minute)?,
            tls: Arc::new(tls),
        })
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
        let http = http::web_client(&device, shared.proxy.as_ref())?;
        Ok(Self {
            shared,
            device,
            http,
        })
    }

    /// Whether and where a creator is live.
    pub(super) async fn look(&self, name: &str) -> Result<Sighting, room::Error> {
        let (web, webcast) = (&self.shared.web, &self.shared.webcast);
        Lookout {
            http: &self.http,
            device: &self.device,
            web,
            webcast,
        }
        .look(name)
        .await
    }

    /// Has a room signed, as soon as the shared budget allows it. The answer may name another
    /// room than was asked for: the room that it is good for comes with it.
    pub(super) async fn sign(&self, room: &Room) -> Result<Pass, sign::Error> {
        let signed = self.shared.signer.sign(&room.id).await?;
        let room_id = signed.room_id.clone().unwrap_or_else(|| room.id.clone());
        Ok(Pass { room_id, signed })
    }

    /// Opens the connection; a pass is good for one.
    pub(super) async fn connect(&self, pass: &Pass) -> Result<Connection, dial::Error> {
        if !self.device.set_cookie(&pass.signed.cookie) {
            return Err(dial::Error::Address("its cookie is none"));
        }
        let room_id = pass
            .room_id
            .parse()
            .map_err(|_| dial::Error::Address("its room id is too large"))?;
        let encrypted = self.shared.signer.is_encrypted();
        let address = dial::address(&pass.room_id, &pass.signed.result, encrypted)?;
        let dialer = Dialer {
            proxy: self.shared.proxy.clone(),
            tls: self.shared.tls.clone(),
        };
        dialer
            .dial(&address, &self.device.socket_cookies(), room_id)
            .await
    }
}

/// The right to open one connection, and the room's recent messages.
pub(super) struct Pass {
    pub(super) room_id: String,
    signed: Signed,
}

impl Pass {
    /// What was said in the room just before, unless it came already.
    pub(super) fn backlog(&self, session: &mut Session) -> Parcel {
        socket::parcel(frame::messages(&self.signed.result), session, true)
    }
}
