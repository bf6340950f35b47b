//! Ingest's settings: what the environment says, checked as a whole before anything connects.
//!
//! In: environment variables or flags. Out: [`Settings`]. A value that cannot work is refused at
//! start, with the variable's name and the reason; secrets are never repeated in that reason, nor
//! are addresses: people put passwords and keys into them.

use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use shared::control::creator_name;
use url::Url;

use super::choice::{Preference, Which};
use super::direct::proxy::Proxy;
use super::euler;
use super::spool;
use crate::config::Switch;

/// TikTok is asked no more often than this whether a creator is live.
const POLITE_POLL: u64 = 30;
/// TikTok answers a heartbeat every 10 s: a shorter silence than this proves nothing.
const PROVEN_SILENCE: u64 = 20;

/// Ingest's settings as the environment says them.
#[derive(clap::Args)]
#[group(skip)] // several stages have `Options`; a group would be named after the type
pub struct Options {
    /// Creators to connect to, separated by commas: names, @names or live addresses; without any,
    /// commands on the control stream add them
    #[arg(
        long,
        env = "TIKTOK_UNIQUE_ID",
        default_value = "",
        hide_default_value = true
    )]
    pub tiktok_unique_id: String,
    /// How rooms are read, as a first choice
    #[arg(long, env = "INGEST_PROVIDER", default_value = "direct")]
    pub ingest_provider: Which,
    /// Whether the other provider takes over when the first choice keeps failing
    #[arg(long, env = "INGEST_FALLBACK", default_value = "on")]
    pub ingest_fallback: Switch,
    /// Seconds until the first choice is tried again for the first time
    #[arg(long, env = "INGEST_HANDBACK_SECONDS", default_value = "600", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub ingest_handback_seconds: u64,
    /// Which of the sign server's addresses is used
    #[arg(long, env = "SIGN_PATH", default_value = "connect")]
    pub sign_path: SignPath,
    /// Key for Euler Stream's sign server; raises its limits
    #[arg(long, env = "EULER_API_KEY", hide_env_values = true)]
    pub euler_api_key: Option<SecretString>,
    /// Where TikTok's website is
    #[arg(
        long,
        env = "TIKTOK_WEB_URL",
        default_value = "https://www.tiktok.com",
        hide_env_values = true
    )]
    pub tiktok_web_url: String,
    /// Where TikTok's webcast API is
    #[arg(
        long,
        env = "TIKTOK_WEBCAST_URL",
        default_value = "https://webcast.tiktok.com",
        hide_env_values = true
    )]
    pub tiktok_webcast_url: String,
    /// Where the sign server is
    #[arg(
        long,
        env = "EULER_API_URL",
        default_value = "https://api.eulerstream.com",
        hide_env_values = true
    )]
    pub euler_api_url: String,
    /// Euler's sockets
    #[command(flatten)]
    pub euler: euler::Options,
    /// Give a creator up after this many failed attempts in a row; 0 = never
    #[arg(long, env = "RECONNECT_MAX_ATTEMPTS", default_value = "0")]
    pub reconnect_max_attempts: u32,
    /// Seconds between two looks at a creator who is offline; 30 or more against TikTok
    #[arg(long, env = "OFFLINE_POLL_SECONDS", default_value = "60", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub offline_poll_seconds: u64,
    /// Seconds without any frame after which a connection counts as dead; 20 or more against TikTok
    #[arg(long, env = "SILENT_SOCKET_SECONDS", default_value = "60", value_parser = clap::value_parser!(u64).range(1..=600))]
    pub silent_socket_seconds: u64,
    /// Requests to Euler Stream per minute (signing, and opening its sockets), over all rooms
    #[arg(long, env = "SIGN_REQUESTS_PER_MINUTE", default_value = "20", value_parser = clap::value_parser!(u32).range(1..=6000))]
    pub sign_requests_per_minute: u32,
    /// Whether to fetch the list of gifts from the sign server once a day, for messages that do not
    /// say what a gift is: on or off
    #[arg(long, env = "GIFT_CATALOGUE", default_value = "on")]
    pub gift_catalogue: Switch,
    /// Requests to each of TikTok's hosts per minute, over all creators
    #[arg(long, env = "TIKTOK_REQUESTS_PER_MINUTE", default_value = "240", value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub tiktok_requests_per_minute: u32,
    /// Proxy for everything sent to TikTok, the sign server and Euler's sockets: <http://host:port> or <socks5://host:port>
    #[arg(long, env = "UPSTREAM_PROXY", hide_env_values = true)]
    pub upstream_proxy: Option<SecretString>,
    /// Where messages wait while Redis is away.
    #[command(flatten)]
    pub spool: spool::Options,
}

/// The address of the sign server's fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SignPath {
    /// `/webcast/rooms/{room}/connect`
    Connect,
    /// `/webcast/fetch?room_id={room}`, the older one
    Fetch,
}

/// Settings that were checked and fit together.
pub(super) struct Settings {
    /// Creators' names, each once; maybe none.
    pub(super) creators: Vec<String>,
    pub(super) upstream: Upstream,
    pub(super) policy: Policy,
    pub(super) limits: Limits,
    pub(super) preference: Preference,
    pub(super) euler: euler::Settings,
    pub(super) spool: spool::Options,
}

/// How often upstream is asked, by all creators together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// To each of TikTok's hosts, at least 1.
    pub(super) tiktok_per_minute: u32,
    /// To Euler Stream's account, at least 1.
    pub(super) euler_per_minute: u32,
}

impl Limits {
    /// Requests to TikTok that may come together: a few seconds' worth, so that a thousand
    /// creators do not begin with a storm.
    pub(super) fn tiktok_at_once(self) -> u32 {
        (self.tiktok_per_minute / 12).max(5)
    }
}

/// Where TikTok and its sign server are, and how they are reached.
#[derive(Clone)]
pub(super) struct Upstream {
    pub(super) web: Url,
    pub(super) webcast: Url,
    pub(super) sign: Url,
    pub(super) sign_path: SignPath,
    pub(super) key: Option<SecretString>,
    pub(super) proxy: Option<Proxy>,
}

/// How patient ingest is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Policy {
    /// 0 = unlimited.
    pub(super) max_attempts: u32,
    pub(super) poll: Duration,
    pub(super) silence: Duration,
}

/// Settings that cannot work.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    /// One of the names is none.
    #[error(
        "TIKTOK_UNIQUE_ID: {0:?} is no creator's name: letters, digits, `_`, `.` and `-`, at most 64"
    )]
    Creator(String),
    /// Too often for TikTok.
    #[error(
        "OFFLINE_POLL_SECONDS: {0} is too often, TikTok is asked every {POLITE_POLL} s at most"
    )]
    Poll(u64),
    /// Too nervous for TikTok.
    #[error(
        "SILENT_SOCKET_SECONDS: {0} is too short, a living connection may be silent for {PROVEN_SILENCE} s"
    )]
    Silence(u64),
    /// An upstream's address cannot be used; it is not repeated, for it may hold a password.
    #[error("{0}: {1}")]
    Address(&'static str, &'static str),
    /// The proxy's address cannot be used; it is not repeated, for it may hold a password.
    #[error("UPSTREAM_PROXY: {0}")]
    Proxy(&'static str),
    /// The key would be readable on its way.
    #[error(
        "EULER_API_URL: with EULER_API_KEY only https:// or a loopback address, the key would travel in the clear"
    )]
    KeyInClear,
    /// The key cannot be sent.
    #[error("EULER_API_KEY: not a key, it has characters that no header may have")]
    Key,
    /// Euler's socket cannot be reached like this.
    #[error(transparent)]
    Euler(#[from] euler::Invalid),
    /// The provider needs a key.
    #[error("EULER_API_KEY is empty: provider `euler` needs one (INGEST_PROVIDER)")]
    NoKey,
}

impl Options {
    /// Checks the settings as a whole.
    pub(super) fn check(self) -> Result<Settings, Invalid> {
        let web = base_url("TIKTOK_WEB_URL", &self.tiktok_web_url)?;
        let webcast = base_url("TIKTOK_WEBCAST_URL", &self.tiktok_webcast_url)?;
        let sign = base_url("EULER_API_URL", &self.euler_api_url)?;
        let real = is_tiktok(&web) || is_tiktok(&webcast);
        if real && self.offline_poll_seconds < POLITE_POLL {
            return Err(Invalid::Poll(self.offline_poll_seconds));
        }
        if real && self.silent_socket_seconds < PROVEN_SILENCE {
            return Err(Invalid::Silence(self.silent_socket_seconds));
        }
        let filled = |secret: &SecretString| !secret.expose_secret().trim().is_empty();
        let key = self.euler_api_key.filter(filled);
        if let Some(key) = &key
            && !key
                .expose_secret()
                .bytes()
                .all(|byte| byte.is_ascii_graphic())
        {
            return Err(Invalid::Key);
        }
        if key.is_some() && !is_private(&sign) {
            return Err(Invalid::KeyInClear);
        }
        if key.is_none() && self.ingest_provider == Which::Euler {
            return Err(Invalid::NoKey);
        }
        let preference = Preference {
            first: self.ingest_provider,
            // Direct always can; Euler's sockets cannot do without a key.
            fallback: self.ingest_fallback == Switch::On && key.is_some(),
            hand_back: Duration::from_secs(self.ingest_handback_seconds),
        };
        let proxy = self.upstream_proxy.filter(filled);
        Ok(Settings {
            creators: creators(&self.tiktok_unique_id)?,
            upstream: Upstream {
                web,
                webcast,
                sign,
                sign_path: self.sign_path,
                key,
                proxy: proxy
                    .as_ref()
                    .map(Proxy::parse)
                    .transpose()
                    .map_err(Invalid::Proxy)?,
            },
            policy: Policy {
                max_attempts: self.reconnect_max_attempts,
                poll: Duration::from_secs(self.offline_poll_seconds),
                silence: Duration::from_secs(self.silent_socket_seconds),
            },
            limits: Limits {
                tiktok_per_minute: self.tiktok_requests_per_minute,
                euler_per_minute: self.sign_requests_per_minute,
            },
            preference,
            euler: self.euler.check()?,
            spool: self.spool,
        })
    }
}

fn is_tiktok(url: &Url) -> bool {
    url.host_str()
        .is_some_and(|host| host == "tiktok.com" || host.ends_with(".tiktok.com"))
}

/// Whether nobody can read along on the way.
fn is_private(url: &Url) -> bool {
    let loopback = match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    url.scheme() == "https" || loopback
}

/// An address that paths are appended to.
fn base_url(name: &'static str, text: &str) -> Result<Url, Invalid> {
    let wrong = |reason| Err(Invalid::Address(name, reason));
    let Ok(mut url) = Url::parse(text.trim()) else {
        return wrong("no address, use https://host");
    };
    if !matches!(url.scheme(), "http" | "https") {
        return wrong("use http:// or https://");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return wrong("no user or password in the address");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return wrong("no `?` or `#` in the address");
    }
    if !url.path().ends_with('/') {
        // `join` replaces what follows the last slash.
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Ok(url)
}

/// The names in a list, each once. TikTok does not tell upper from lower case.
fn creators(list: &str) -> Result<Vec<String>, Invalid> {
    let mut names: Vec<String> = Vec::new();
    for entry in list
        .split(',')
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
    {
        let Some(name) = creator_name(entry) else {
            return Err(Invalid::Creator(entry.chars().take(100).collect()));
        };
        if !names.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        options: Options,
    }

    fn check(arguments: &[&str]) -> Result<Settings, String> {
        let words = ["ttlc"].iter().chain(arguments);
        let command = Command::try_parse_from(words).map_err(|error| error.to_string())?;
        command.options.check().map_err(|error| error.to_string())
    }

    #[test]
    fn names_come_in_many_spellings_and_are_taken_once() {
        let list = " alice,@Bob , https://www.tiktok.com/@carol.x/live?lang=en,tiktok.com/@dave_1/,ALICE,,room-a ";
        assert_eq!(
            creators(list).unwrap(),
            ["alice", "Bob", "carol.x", "dave_1", "room-a"]
        );
        assert_eq!(creators(" , ").unwrap(), [""; 0], "commands name them");
        for bad in [
            "a b",
            "https://example.org/@alice",
            "@",
            "a/b",
            "ä",
            &"x".repeat(65),
        ] {
            assert!(matches!(creators(bad), Err(Invalid::Creator(_))), "{bad}");
        }
    }

    #[test]
    fn wrong_values_are_refused_with_the_reason() {
        for (arguments, reason) in [
            (&["--ingest-provider", "euler"][..], "EULER_API_KEY"),
            (&["--ingest-provider", "magic"], "ingest-provider"),
            (&["--ingest-fallback", "maybe"], "ingest-fallback"),
            (
                &["--ingest-handback-seconds", "0"],
                "ingest-handback-seconds",
            ),
            (&["--sign-path", "other"], "sign-path"),
            (
                &["--tiktok-requests-per-minute", "0"],
                "tiktok-requests-per-minute",
            ),
            (&["--offline-poll-seconds", "29"], "OFFLINE_POLL_SECONDS"),
            (&["--offline-poll-seconds", "0"], "offline-poll-seconds"),
            (&["--silent-socket-seconds", "19"], "SILENT_SOCKET_SECONDS"),
            (
                &["--sign-requests-per-minute", "0"],
                "sign-requests-per-minute",
            ),
            (&["--reconnect-max-attempts=-1"], "reconnect-max-attempts"),
            (&["--gift-catalogue", "maybe"], "gift-catalogue"),
            (&["--spool-dir", " "], "spool-dir"),
            (&["--spool-max-bytes", "67108863"], "spool-max-bytes"),
            (&["--tiktok-unique-id", "a b"], "TIKTOK_UNIQUE_ID"),
            (
                &["--upstream-proxy", "ftp://hunter2@x:1"],
                "UPSTREAM_PROXY: ",
            ),
            (
                &[
                    "--euler-api-key",
                    "x",
                    "--euler-api-url",
                    "http://sign.example",
                ],
                "EULER_API_URL",
            ),
            (&["--euler-api-key", "two words"], "EULER_API_KEY"),
        ] {
            let error = check(arguments)
                .err()
                .unwrap_or_else(|| panic!("{arguments:?} was taken"));
            assert!(error.contains(reason), "{arguments:?}: {error}");
            assert!(
                !error.contains("hunter2") && !error.contains("two words"),
                "{error}"
            );
        }
    }

    #[test]
    fn addresses_are_refused_without_being_repeated() {
        for (flag, name) in [
            ("--tiktok-web-url", "TIKTOK_WEB_URL"),
            ("--tiktok-webcast-url", "TIKTOK_WEBCAST_URL"),
            ("--euler-api-url", "EULER_API_URL"),
        ] {
            for (address, reason) in [
                ("hunter2", "no address"),
                ("https://me:hunter2@x:port", "no address"),
                ("ftp://hunter2", "use http:// or https://"),
                ("https://hunter2@x", "no user or password"),
                ("https://me:hunter2@x", "no user or password"),
                ("https://x/?apiKey=hunter2", "no `?`"),
                ("https://x/#hunter2", "no `?`"),
                ("", "no address"),
            ] {
                let error = check(&[flag, address])
                    .err()
                    .unwrap_or_else(|| panic!("{flag} {address:?} was taken"));
                assert!(error.starts_with(&format!("{name}: {reason}")), "{error}");
                assert!(!error.contains("hunter2"), "{error}");
            }
        }
    }

    #[test]
    fn impatience_is_allowed_against_a_stand_in_only() {
        let stand_in = [
            "--tiktok-web-url",
            "http://127.0.0.1:1",
            "--tiktok-webcast-url",
            "http://127.0.0.1:1",
        ];
        let eager = [
            "--offline-poll-seconds",
            "1",
            "--silent-socket-seconds",
            "1",
        ];
        let settings = check(&[&stand_in[..], &eager].concat()).unwrap();
        assert_eq!(settings.policy.poll, Duration::from_secs(1));
        assert!(
            check(&[&stand_in[..2], &eager].concat()).is_err(),
            "one of the two is TikTok's"
        );
    }

    #[test]
    fn empty_secrets_are_absent() {
        let settings = check(&["--euler-api-key", "", "--upstream-proxy", " "]).unwrap();
        assert!(settings.upstream.key.is_none() && settings.upstream.proxy.is_none());
        assert_eq!(
            settings.upstream.web.join("@x/live").unwrap().as_str(),
            "https://www.tiktok.com/@x/live"
        );
    }
}
