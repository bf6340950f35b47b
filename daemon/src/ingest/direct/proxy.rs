//! The way out through the operator's proxy, the same for HTTP requests and WebSockets.
//!
//! In: `UPSTREAM_PROXY`. Out: connections that go through it. Names are resolved by the proxy, so
//! that no DNS query shows what we connect to. A proxy that refuses or vanishes is an error like
//! an unreachable server; nothing ever falls back to a direct connection. User and password are
//! never shown.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_socks::tcp::Socks5Stream;
use url::Url;

/// The answer to `CONNECT` is a few lines; a longer one is none.
const ANSWER_LIMIT: usize = 8 * 1024;

/// An HTTP or SOCKS5 proxy.
#[derive(Clone, Debug)]
pub(in crate::ingest) struct Proxy {
    kind: Kind,
    host: String,
    port: u16,
    login: Option<(SecretString, SecretString)>,
    /// For the HTTP client.
    url: SecretString,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Http,
    Socks5,
}

impl Proxy {
    /// Reads `http://[user:password@]host:port` or `socks5://…` (`socks5h` means the same here).
    pub(in crate::ingest) fn parse(text: &SecretString) -> Result<Self, &'static str> {
        let mut url = Url::parse(text.expose_secret().trim())
            .map_err(|_| "no address, use http://host:port or socks5://host:port")?;
        let (kind, default_port) = match url.scheme() {
            "http" => (Kind::Http, 80),
            "socks5" | "socks5h" => (Kind::Socks5, 1080),
            _ => return Err("use http://host:port or socks5://host:port"),
        };
        let host = match url.host_str() {
            Some(host) if !host.is_empty() => host.trim_matches(['[', ']']).to_owned(),
            _ => return Err("has no host"),
        };
        let decoded = |text| {
            percent_decode_str(text)
                .decode_utf8()
                .map(String::from)
                .map_err(|_| "user or password is not UTF-8")
        };
        let login = match (url.username(), url.password()) {
            ("", None) => None,
            (user, password) => Some((
                SecretString::from(decoded(user)?),
                SecretString::from(decoded(password.unwrap_or_default())?),
            )),
        };
        let port = url.port().unwrap_or(default_port);
        if kind == Kind::Socks5 && url.set_scheme("socks5h").is_err() {
            return Err("use http://host:port or socks5://host:port");
        }
        Ok(Self {
            kind,
            host,
            port,
            login,
            url: SecretString::from(String::from(url)),
        })
    }

    /// The same for the HTTP client.
    pub(super) fn for_http(&self) -> Result<reqwest::Proxy, reqwest::Error> {
        reqwest::Proxy::all(self.url.expose_secret())
    }

    /// A connection to `host:port` through the proxy.
    pub(in crate::ingest) async fn connect(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        match self.kind {
            Kind::Http => self.tunnel(stream, host, port).await,
            Kind::Socks5 => {
                let connected = match &self.login {
                    None => Socks5Stream::connect_with_socket(stream, (host, port)).await,
                    Some((user, password)) => {
                        Socks5Stream::connect_with_password_and_socket(
                            stream,
                            (host, port),
                            user.expose_secret(),
                            password.expose_secret(),
                        )
                        .await
                    }
                };
                connected
                    .map(Socks5Stream::into_inner)
                    .map_err(|error| io::Error::other(format!("socks: {error}")))
            }
        }
    }

    /// HTTP `CONNECT` (RFC 9110 §9.3.6).
    async fn tunnel(&self, mut stream: TcpStream, host: &str, port: u16) -> io::Result<TcpStream> {
        let authority = if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        };
        let mut request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n");
        if let Some((user, password)) = &self.login {
            let login = STANDARD.encode(format!(
                "{}:{}",
                user.expose_secret(),
                password.expose_secret()
            ));
            request.push_str("Proxy-Authorization: Basic ");
            request.push_str(&login);
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await?;

        // Byte by byte: what follows the empty line belongs to the tunnel.
        let mut answer = Vec::with_capacity(256);
        while !answer.ends_with(b"\r\n\r\n") {
            if answer.len() >= ANSWER_LIMIT {
                return Err(io::Error::other("the proxy's answer has no end"));
            }
            answer.push(stream.read_u8().await?);
        }
        let line = String::from_utf8_lossy(
            answer
                .split(|&byte| byte == b'\r')
                .next()
                .unwrap_or_default(),
        )
        .into_owned();
        match line
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse::<u16>().ok())
        {
            Some(200..=299) if line.starts_with("HTTP/1.") => Ok(stream),
            Some(status) => Err(io::Error::other(format!(
                "the proxy refused with status {status}"
            ))),
            None => Err(io::Error::other("the proxy does not speak HTTP")),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn proxy(text: &str) -> Result<Proxy, &'static str> {
        Proxy::parse(&SecretString::from(text.to_owned()))
    }

    #[test]
    fn addresses_are_read_and_passwords_stay_hidden() {
        let found = proxy("http://hunter:p%40ss@proxy.example").unwrap();
        assert_eq!(
            (found.kind, found.host.as_str(), found.port),
            (Kind::Http, "proxy.example", 80)
        );
        assert_eq!(found.login.as_ref().unwrap().1.expose_secret(), "p@ss");
        assert!(!format!("{found:?}").contains("hunter") && !format!("{found:?}").contains("p@ss"));
        let socks = proxy("socks5://[::1]:9").unwrap();
        assert_eq!(
            (socks.kind, socks.host.as_str(), socks.port),
            (Kind::Socks5, "::1", 9)
        );
        assert!(
            socks.url.expose_secret().starts_with("socks5h://"),
            "the proxy resolves names"
        );
        assert!(found.for_http().is_ok() && socks.for_http().is_ok());
        for bad in ["", "proxy:3128", "https://x", "socks4://x", "http://"] {
            assert!(proxy(bad).is_err(), "{bad}");
        }
    }

    async fn through(answer: &'static [u8]) -> (io::Result<TcpStream>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 1024];
            let length = stream.read(&mut request).await.unwrap();
            stream.write_all(answer).await.unwrap();
            String::from_utf8(request[..length].to_vec()).unwrap()
        });
        let result = proxy(&format!("http://me:secret@127.0.0.1:{port}"))
            .unwrap()
            .connect("far.example", 443)
            .await;
        (result, server.await.unwrap())
    }

    #[tokio::test]
    async fn a_tunnel_is_asked_for_by_name_and_starts_after_the_empty_line() {
        let (stream, request) = through(b"HTTP/1.1 200 OK\r\nx: y\r\n\r\nfirst bytes").await;
        assert!(
            request.starts_with("CONNECT far.example:443 HTTP/1.1\r\nHost: far.example:443\r\n")
        );
        assert!(request.contains("Proxy-Authorization: Basic bWU6c2VjcmV0\r\n"));
        let mut rest = [0; 11];
        stream.unwrap().read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"first bytes");
    }

    #[tokio::test]
    async fn a_refusal_is_an_error() {
        let error = through(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            .await
            .0
            .unwrap_err();
        assert_eq!(error.to_string(), "the proxy refused with status 407");
        assert!(through(b"SSH-2.0-OpenSSH\r\n\r\n").await.0.is_err());
        assert!(through(b"").await.0.is_err());
    }

    #[tokio::test]
    async fn socks_asks_for_the_name_too() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut greeting = [0; 3];
            stream.read_exact(&mut greeting).await.unwrap();
            stream.write_all(&[5, 0]).await.unwrap();
            let mut request = [0; 5 + 11 + 2];
            stream.read_exact(&mut request).await.unwrap();
            stream
                .write_all(&[5, 0, 0, 1, 127, 0, 0, 1, 0, 9, b'!'])
                .await
                .unwrap();
            request
        });
        let mut stream = proxy(&format!("socks5://127.0.0.1:{port}"))
            .unwrap()
            .connect("far.example", 443)
            .await
            .unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'!');
        let request = server.await.unwrap();
        assert_eq!(&request[..5], &[5, 1, 0, 3, 11]);
        assert_eq!(&request[5..16], b"far.example");
    }
}
