//! One try of a webhook.
//!
//! In: an address that a rule names, headers and a body. Out: the status of the answer, or a
//! [`Failure`]. The name is looked up once, the try is given up when any of its addresses is not public,
//! and the connection is made to one of those that were looked at: a second answer of DNS has nobody who
//! asks for it. TLS and `Host` name the host. No redirect is followed and no proxy is used: a proxy
//! would look the name up itself, where nobody sees the address. Of the answer at most 64 KiB are read
//! and none is kept or shown. A try ends after 10 s whatever happens; a crash is a try that the caller
//! has to make again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HOST, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls_platform_verifier::ConfigVerifierExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::task::AbortOnDropHandle;
use url::Host;

use super::address::special;
use super::guard::{Guard, Refusal, Target, literal};
use super::network::Network;
use crate::forwarder::retry_after;

/// For everything.
const TOTAL: Duration = Duration::from_secs(10);
/// For a connection to one address.
const CONNECT: Duration = Duration::from_secs(3);
/// How many addresses of a name are tried.
const ADDRESSES: usize = 4;
/// How much of an answer is read: of its head, of its body, and for how long.
const HEAD_BYTES: usize = 64 << 10;
const BODY_BYTES: usize = 64 << 10;
const BODY_TIME: Duration = Duration::from_secs(1);

/// Why a try failed. Its text is for the operator; who writes rules is shown [`Failure::reason`] only.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It may not go there, now or ever: trying again is of no use before something has changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// DNS does not answer.
    #[error("the host could not be looked up")]
    LookUp(#[source] std::io::Error),
    /// Nobody is there.
    #[error("no connection")]
    Connect(#[source] std::io::Error),
    /// Somebody else is there.
    #[error("no trusted connection")]
    Tls(#[source] std::io::Error),
    /// This machine's certificates or TLS settings are unusable.
    #[error("this machine cannot speak TLS")]
    NoTls(#[source] rustls::Error),
    /// It answers no HTTP, or not to its end.
    #[error("the connection broke")]
    Broken(#[source] hyper::Error),
    /// Our own request is impossible.
    #[error("the request cannot be written")]
    Request(#[source] hyper::http::Error),
    /// It points elsewhere, which is not followed.
    #[error("it answers with a redirect ({0}), which is not followed")]
    Redirect(u16),
    /// It took more than 10 s.
    #[error("no answer within {} s", TOTAL.as_secs())]
    TimedOut,
}

impl Failure {
    /// The same in one word, which says nothing about the network around this machine.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.reason(),
            Self::LookUp(_) => "look_up",
            Self::Connect(_) => "connect",
            Self::Tls(_) | Self::NoTls(_) => "tls",
            Self::Broken(_) => "broken",
            Self::Request(_) => "request",
            Self::Redirect(_) => "redirect",
            Self::TimedOut => "timeout",
        }
    }
}

/// What came back: all that is ever known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Any but 3xx.
    pub status: u16,
    /// How long it asks to wait, at most an hour.
    pub retry_after: Option<Duration>,
}

/// Where a try would go.
#[derive(Clone, Debug)]
pub struct Route {
    /// What the text says.
    pub target: Target,
    /// What it stands for, in the order in which a connection is tried; all public, at least one.
    pub addresses: Vec<SocketAddr>,
}

/// Sends webhooks.
pub struct Webhooks<N> {
    guard: Guard,
    network: N,
    tls: TlsConnector,
}

impl<N: Network> Webhooks<N> {
    /// Trusting whom this machine trusts.
    ///
    /// # Errors
    /// [`Failure::NoTls`].
    pub fn new(guard: Guard, network: N) -> Result<Self, Failure> {
        let tls = rustls::ClientConfig::with_platform_verifier().map_err(Failure::NoTls)?;
        Ok(Self::trusting(guard, network, tls))
    }

    /// With TLS settings of one's own.
    pub fn trusting(guard: Guard, network: N, mut tls: rustls::ClientConfig) -> Self {
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self {
            guard,
            network,
            tls: TlsConnector::from(Arc::new(tls)),
        }
    }

    /// Looks at the address, and its name up.
    ///
    /// # Errors
    /// Why no webhook can go there.
    pub async fn route(&self, url: &str) -> Result<Route, Failure> {
        let target = self.guard.check(url)?;
        let mut found = match (&target.host, literal(&target.host)) {
            (_, Some(address)) => vec![address],
            (Host::Domain(name), _) => {
                let found = timeout(TOTAL, self.network.look_up(name)).await;
                found
                    .map_err(|_| Failure::TimedOut)?
                    .map_err(Failure::LookUp)?
            }
            _ => Vec::new(),
        };
        // One that is not public spoils them all: whoever mixes them wants to be lucky.
        for &address in &found {
            if let Some(what) = special(address) {
                return Err(Refusal::Address { address, what }.into());
            }
        }
        if found.is_empty() {
            return Err(Refusal::NoAddress.into());
        }
        // Where there is no IPv6, trying it first would cost each webhook a time-out.
        found.sort_by_key(std::net::IpAddr::is_ipv6);
        found.dedup();
        found.truncate(ADDRESSES);
        let addresses = found
            .into_iter()
            .map(|address| SocketAddr::new(address, target.port))
            .collect();
        Ok(Route { target, addresses })
    }

    /// Sends the body once.
    ///
    /// # Errors
    /// Why there is no answer, or none that counts.
    pub async fn post(
        &self,
        url: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Answer, Failure> {
        match timeout(TOTAL, self.attempt(url, headers, body)).await {
            Ok(end) => end,
            Err(_) => Err(Failure::TimedOut),
        }
    }

    async fn attempt(&self, url: &str, headers: HeaderMap, body: Bytes) -> Result<Answer, Failure> {
        let route = self.route(url).await?;
        let request = request(&route.target, headers, body)?;
        let stream = self.connect(&route).await?;
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(HEAD_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(Failure::Broken)?;
        // Gone with this try, whatever the other side does.
        let _driver = AbortOnDropHandle::new(tokio::spawn(connection));
        let response = sender
            .send_request(request)
            .await
            .map_err(Failure::Broken)?;
        let status = response.status();
        let retry_after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok())
            .and_then(retry_after);
        if status.is_redirection() {
            return Err(Failure::Redirect(status.as_u16()));
        }
        // So that it is not cut off while it writes; the status counts, whatever follows.
        let _ = timeout(BODY_TIME, pass_over(response.into_body())).await;
        Ok(Answer {
            status: status.as_u16(),
            retry_after,
        })
    }

    async fn connect(&self, route: &Route) -> Result<TlsStream<TcpStream>, Failure> {
        let mut last = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
        for &address in &route.addresses {
            match timeout(CONNECT, self.network.connect(address)).await {
                Ok(Ok(stream)) => {
                    let _ = stream.set_nodelay(true);
                    let name = match &route.target.host {
                        Host::Domain(name) => ServerName::try_from(name.clone())
                            .map_err(|error| Failure::Tls(std::io::Error::other(error)))?,
                        Host::Ipv4(address) => ServerName::IpAddress((*address).into()),
                        Host::Ipv6(address) => ServerName::IpAddress((*address).into()),
                    };
                    return self.tls.connect(name, stream).await.map_err(Failure::Tls);
                }
                Ok(Err(error)) => last = error,
                Err(_) => last = std::io::ErrorKind::TimedOut.into(),
            }
        }
        Err(Failure::Connect(last))
    }
}

fn request(
    target: &Target,
    mut headers: HeaderMap,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, Failure> {
    let host = HeaderValue::from_str(&target.authority())
        .map_err(|error| Failure::Request(error.into()))?;
    headers.insert(HOST, host);
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    let ours = HeaderValue::from_static(concat!("ttlc/", env!("CARGO_PKG_VERSION")));
    headers.insert(USER_AGENT, ours);
    let path = match target.url.query() {
        Some(query) => format!("{}?{query}", target.url.path()),
        None => target.url.path().to_owned(),
    };
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .body(Full::new(body))
        .map_err(Failure::Request)?;
    *request.headers_mut() = headers;
    Ok(request)
}

async fn pass_over(mut body: Incoming) {
    let mut read = 0;
    while let Some(Ok(frame)) = body.frame().await {
        read += frame.data_ref().map_or(0, Bytes::len);
        if read >= BODY_BYTES {
            return;
        }
    }
}
