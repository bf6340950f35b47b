//! From a creator's name to an open socket at Euler's.
//!
//! In: a name and the settings. Out: the socket, or why there is none. The key stands in the
//! address, which is therefore a secret as a whole (fact sheet §1, §2).

use percent_encoding::utf8_percent_encode;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::close::{Error, Mask, refusal};
use super::options::Settings;
use crate::ingest::direct::dial::ESCAPED;
use crate::ingest::socket::{Dialer, NotOpened};

/// Seconds of silence in the room after which Euler closes (4006). Its own default of 60 would
/// cost a request a minute in a quiet room.
const INACTIVE_AFTER: &str = "300";

/// The address of a creator's socket, with the key in it.
pub(super) fn address(
    settings: &Settings,
    key: &SecretString,
    name: &str,
    schema: &str,
) -> SecretString {
    let raw = if settings.raw { "true" } else { "false" };
    let params = [
        ("uniqueId", name),
        ("apiKey", key.expose_secret()),
        ("features.schemaVersion", schema),
        ("features.bundleEvents", "true"),
        ("features.rawMessages", raw),
        ("features.closeInactiveWebSocketAfter", INACTIVE_AFTER),
    ];
    let query: Vec<_> = params
        .iter()
        .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, ESCAPED)))
        .collect();
    SecretString::from(format!("{}?{}", settings.url, query.join("&")))
}

/// Opens the socket.
pub(super) async fn open(
    dialer: &Dialer,
    address: &SecretString,
    mask: &Mask,
) -> Result<WebSocketStream<MaybeTlsStream<TcpStream>>, Error> {
    let mut request = address
        .expose_secret()
        .into_client_request()
        .map_err(|_| Error::Unreachable("the address cannot be used".to_owned()))?;
    let agent = HeaderValue::from_static(concat!("ttlc/", env!("CARGO_PKG_VERSION")));
    request.headers_mut().insert("user-agent", agent);
    dialer.open(request).await.map_err(|error| match error {
        NotOpened::Refused(response) => refusal(&response, mask),
        NotOpened::Unreachable(why) => Error::Unreachable(why),
    })
}
