//! From a signed answer to an open WebSocket.
//!
//! In: the sign server's answer and the visitor's cookies. Out: a [`Connection`], or why there is
//! none. A signed address is used once; its query holds secrets and is never logged (protocol
//! sheet §3).

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rand::Rng as _;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::{HeaderMap, HeaderValue};
use url::Url;

use super::device::{BROWSER, USER_AGENT, browser_name_and_version};
use super::http::tame;
use super::socket::Connection;
use crate::ingest::socket::{Dialer, NotOpened};
use crate::proto::frames::FetchResult;

/// Nothing but letters, digits and `-_.~` stays as it is.
pub(in crate::ingest) const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// Why there is no connection.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(in crate::ingest) enum Error {
    /// The server answered with something else than an upgrade.
    #[error("handshake refused with status {status}: {message}")]
    Refused {
        /// HTTP status; 200, as a rule.
        status: u16,
        /// `Handshake-Msg`, such as `DEVICE_BLOCKED`.
        message: String,
    },
    /// The signed address cannot be used.
    #[error("the signed address is no good: {0}")]
    Address(&'static str),
    /// No answer.
    #[error("the room's server cannot be reached: {0}")]
    Unreachable(String),
}

impl Error {
    /// The category for events and logs.
    pub(in crate::ingest) fn reason(&self) -> &'static str {
        match self {
            Self::Refused { .. } => "handshake_refused",
            Self::Address(_) => "sign_failed",
            Self::Unreachable(_) => "unreachable",
        }
    }
}

/// The address of a room's socket: what the sign server gave, with everything percent-encoded.
pub(super) fn address(
    room_id: &str,
    result: &FetchResult,
    encrypted: bool,
) -> Result<String, Error> {
    let server = Url::parse(&result.push_server).map_err(|_| Error::Address("it is no address"))?;
    match server.scheme() {
        "wss" => {}
        // The cookie must not travel in the clear, but towards a stand-in.
        "ws" if !encrypted => {}
        _ => return Err(Error::Address("it is not encrypted")),
    }
    if server.host_str().is_none_or(str::is_empty)
        || server.query().is_some()
        || server.fragment().is_some()
    {
        return Err(Error::Address("it is not just a server and a path"));
    }
    let (name, version) = browser_name_and_version();
    let rtt = rand::rng().random_range(100..=200).to_string();
    let mut params: Vec<(&str, &str)> = vec![("version_code", "180800")];
    params.extend(BROWSER);
    params.extend([
        ("browser_name", name),
        ("browser_version", version),
        ("device_platform", "web"),
        ("User-Agent", USER_AGENT),
        ("compress", "gzip"),
        ("identity", "audience"),
        ("live_id", "12"),
        ("ws_direct", "0"),
        ("sup_ws_ds_opt", "1"),
        ("update_version_code", "2.0.0"),
        ("did_rule", "3"),
        ("heartbeat_duration", "0"),
        ("resp_content_type", "protobuf"),
        ("history_comment_count", "6"),
        ("client_enter", "1"),
        ("last_rtt", &rtt),
        ("room_id", room_id),
        ("internal_ext", &result.internal_ext),
        ("cursor", &result.cursor),
    ]);
    let routes = result
        .route_params
        .iter()
        .filter(|(_, value)| !value.is_empty());
    params.extend(routes.map(|(name, value)| (name.as_str(), value.as_str())));
    // Once more: TikTok's own client sends it twice.
    params.push(("version_code", "270000"));

    let escaped = |text| utf8_percent_encode(text, ESCAPED);
    let query: Vec<_> = params
        .iter()
        .map(|(name, value)| format!("{}={}", escaped(name), escaped(value)))
        .collect();
    Ok(format!("{server}?{}", query.join("&")))
}

/// Opens a socket.
pub(super) async fn dial(
    dialer: &Dialer,
    address: &str,
    cookies: &str,
    room_id: i64,
) -> Result<Connection, Error> {
    let mut request = address
        .into_client_request()
        .map_err(|_| Error::Address("it is no address"))?;
    let headers = request.headers_mut();
    headers.insert("user-agent", HeaderValue::from_static(USER_AGENT));
    if let Ok(cookies) = HeaderValue::from_str(cookies) {
        headers.insert("cookie", cookies);
    }
    match dialer.open(request).await {
        Ok(socket) => Ok(Connection::new(socket, room_id)),
        Err(NotOpened::Refused(response)) => {
            Err(refused(response.status().as_u16(), response.headers()))
        }
        Err(NotOpened::Unreachable(why)) => Err(Error::Unreachable(why)),
    }
}

/// TikTok refuses with HTTP 200 or 400 and says why in two headers.
fn refused(status: u16, headers: &HeaderMap) -> Error {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(tame)
    };
    let message = match (text("handshake-msg"), text("handshake-status")) {
        (Some(message), Some(number)) => format!("{message} ({number})"),
        (Some(message), None) => message,
        (None, Some(number)) => number,
        (None, None) => "no reason given".to_owned(),
    };
    Error::Refused { status, message }
}

#[cfg(test)]
mod tests;
