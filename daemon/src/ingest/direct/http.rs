//! The HTTP clients: what all requests to TikTok and to the sign server have in common.
//!
//! In: an address. Out: a status and a bounded body. Errors are described without the address,
//! since parameters and proxies may hold secrets. Redirects are followed inside TikTok only, and
//! not to its login and verification pages: that is how it shows a captcha.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, ClientBuilder, Response};
use rustls::client::Resumption;

use super::device::{self, Device};
use super::proxy::Proxy;
use crate::ingest::socket::Dialer;

/// For one request, with its body.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Servers whose TLS sessions a visitor can resume; TikTok's web and webcast hosts, and a spare.
const HOSTS: usize = 4;
/// Connections kept open to a host after their use.
const IDLE: usize = 2;
/// More hops than any honest page needs.
const REDIRECTS: usize = 5;

/// A client for TikTok's web hosts, with the headers and cookies of one visitor. All visitors share
/// the system's certificates: a client that read them by itself would hold them in memory for each
/// creator.
pub(super) fn web_client(device: &Arc<Device>, dialer: &Dialer) -> Result<Client, String> {
    let mut tls = rustls::ClientConfig::clone(&dialer.tls);
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // But not the tickets, by which a server would see that two visitors are one.
    tls.resumption = Resumption::in_memory_sessions(HOSTS);
    build(
        Client::builder()
            .tls_backend_preconfigured(tls)
            .default_headers(device::web_headers())
            .cookie_provider(device.clone())
            .redirect(Policy::custom(inside_tiktok)),
        dialer.proxy.as_ref(),
    )
}

/// A client for the sign server: no cookies, no redirects.
pub(super) fn sign_client(proxy: Option<&Proxy>) -> Result<Client, String> {
    let user_agent = concat!("ttlc/", env!("CARGO_PKG_VERSION"));
    build(
        Client::builder()
            .user_agent(user_agent)
            .redirect(Policy::none()),
        proxy,
    )
}

fn build(builder: ClientBuilder, proxy: Option<&Proxy>) -> Result<Client, String> {
    // `no_proxy`: only our own setting counts, or HTTP would take another way than WebSockets.
    let mut builder = builder
        .timeout(TIMEOUT)
        .connect_timeout(TIMEOUT)
        .pool_max_idle_per_host(IDLE)
        .no_proxy();
    if let Some(proxy) = proxy {
        builder = builder.proxy(proxy.for_http().map_err(|error| describe(&error))?);
    }
    builder.build().map_err(|error| match error.source() {
        Some(cause) => format!("cannot make an HTTP client: {cause}"),
        None => "cannot make an HTTP client".to_owned(),
    })
}

fn inside_tiktok(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let from = attempt
        .previous()
        .last()
        .and_then(|url| url.host_str())
        .unwrap_or_default();
    let to = attempt.url().host_str().unwrap_or_default();
    let path = attempt.url().path();
    let home = to == from || to.ends_with(".tiktok.com");
    if home && !is_wall(path) && attempt.previous().len() <= REDIRECTS {
        attempt.follow()
    } else {
        attempt.stop()
    }
}

/// Whether a page asks to prove something instead of showing something.
fn is_wall(path: &str) -> bool {
    ["/login", "/verify", "/captcha"]
        .iter()
        .any(|wall| path.contains(wall))
}

/// The body, as long as it is within `limit` bytes after decompression.
pub(super) async fn body(mut response: Response, limit: usize) -> Result<Bytes, String> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| describe(&error))? {
        if body.len() + chunk.len() > limit {
            return Err(format!("the answer is longer than {limit} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// What went wrong with a request: the kind and, where the system said something, its words.
pub(super) fn describe(error: &reqwest::Error) -> String {
    let kind = if error.is_timeout() {
        "timed out"
    } else if error.is_connect() {
        "cannot connect"
    } else if error.is_decode() {
        "the answer cannot be decompressed"
    } else if error.is_body() {
        "the answer broke off"
    } else {
        "the request failed"
    };
    let mut cause = error.source();
    while let Some(error) = cause {
        // Only the system's own words: other layers may repeat an address.
        if let Some(error) = error.downcast_ref::<std::io::Error>()
            && error.raw_os_error().is_some()
        {
            return format!("{kind}: {error}");
        }
        cause = error.source();
    }
    kind.to_owned()
}

/// A text from upstream, fit for a log line and an event: printable, short, without addresses.
pub(in crate::ingest) fn tame(text: &str) -> String {
    let words = text
        .split_whitespace()
        .map(|word| if word.contains("://") { "…" } else { word });
    let line = words.collect::<Vec<_>>().join(" ");
    line.chars()
        .filter(|character| !character.is_control())
        .take(200)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_from_upstream_are_tamed() {
        assert_eq!(
            tame(" DEVICE_BLOCKED\r\n\u{1b}[31m "),
            "DEVICE_BLOCKED [31m"
        );
        assert_eq!(tame("see https://x/?apiKey=secret now"), "see … now");
        assert_eq!(tame(&"x".repeat(1_000)).len(), 200);
    }

    #[test]
    fn walls_are_told_from_pages() {
        assert!(
            is_wall("/login/phone") && is_wall("/captcha/verify") && is_wall("/security/verify")
        );
        assert!(!is_wall("/@alice/live"));
    }

    #[tokio::test]
    async fn an_error_does_not_tell_the_address() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = sign_client(None).unwrap();
        let error = client
            .get("http://127.0.0.1:1/path?key=secret")
            .send()
            .await
            .unwrap_err();
        let text = describe(&error);
        assert!(
            text.starts_with("cannot connect: ") && !text.contains("secret"),
            "{text}"
        );
    }
}
