//! The forwarder's settings, and what of them cannot work.
//!
//! In: environment variables. Out: [`Settings`], or the name of the setting that is wrong and why.
//! Off when `FORWARD_URL` is not set; then no other of them but those with a default may be.

use crate::config::Switch;
use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use clap::ValueEnum;
use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret as _, SecretString};
use shared::event::EventType;
use url::{Host, Url};

use super::sign::Signer;

/// The forwarder's settings.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)] // several stages have `Options`; a group would be named after the type
pub struct Options {
    /// Where events are forwarded to, <https://host/path>; nowhere when not set. Its path and query
    /// may hold a secret
    #[arg(long, env = "FORWARD_URL", hide_env_values = true)]
    pub forward_url: Option<SecretString>,
    /// Whether `FORWARD_URL` may be http:// on another machine than this one
    #[arg(long, env = "FORWARD_ALLOW_HTTP", default_value = "off")]
    pub forward_allow_http: Switch,
    /// Sent as `Authorization: Bearer …`
    #[arg(long, env = "FORWARD_TOKEN", hide_env_values = true)]
    pub forward_token: Option<SecretString>,
    /// Signs requests by the Standard Webhooks scheme: `whsec_…`, several separated by spaces
    #[arg(long, env = "FORWARD_SECRET", hide_env_values = true)]
    pub forward_secret: Option<SecretString>,
    /// In which form
    #[arg(long, env = "FORWARD_FORMAT", default_value = "unified")]
    pub forward_format: Format,
    /// How many events of a room a request may carry; `unified` carries one
    #[arg(long, env = "FORWARD_BATCH", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=100))]
    pub forward_batch: u16,
    /// Only events of these types, separated by commas, such as `CHAT,GIFT`; all when not set
    #[arg(long, env = "FORWARD_EVENT_TYPES")]
    pub forward_event_types: Option<String>,
    /// Whether replays are forwarded too
    #[arg(long, env = "FORWARD_REPLAYS", default_value = "off")]
    pub forward_replays: Switch,
    /// How often a request is repeated while the destination takes others
    #[arg(long, env = "FORWARD_MAX_RETRIES", default_value = "20", value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub forward_max_retries: u32,
    /// How many seconds an event waits for a destination that is unreachable, before it is put aside
    #[arg(long, env = "FORWARD_MAX_AGE", default_value = "900", value_parser = clap::value_parser!(u64).range(1..=604_800))]
    pub forward_max_age: u64,
    /// How many seconds a request may take
    #[arg(long, env = "FORWARD_TIMEOUT", default_value = "10", value_parser = clap::value_parser!(u64).range(1..=120))]
    pub forward_timeout: u64,
    /// How many requests may be under way at a time, one a room
    #[arg(long, env = "FORWARD_CONCURRENCY", default_value = "16", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub forward_concurrency: u16,
}

/// What a request looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One UnifiedEvent as JSON.
    Unified,
    /// A batch of `CloudEvents` 1.0.
    Cloudevents,
    /// The envelope of Euler Stream's WebSocket API.
    Euler,
}

/// A setting that cannot work. Values are not repeated: they may hold secrets.
#[derive(Debug, thiserror::Error)]
#[error("{name}: {why}")]
pub struct Refused {
    name: &'static str,
    why: String,
}

fn refused<T>(name: &'static str, why: impl Into<String>) -> Result<T, Refused> {
    let why = why.into();
    Err(Refused { name, why })
}

/// Settings that can work.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) url: Url,
    /// Scheme, host and port: what may be shown.
    pub(super) origin: String,
    pub(super) authorization: Option<HeaderValue>,
    pub(super) signer: Option<Signer>,
    pub(super) format: Format,
    pub(super) batch: usize,
    /// `None`: all.
    pub(super) types: Option<HashSet<EventType>>,
    pub(super) replays: bool,
    pub(super) max_retries: u32,
    pub(super) max_age: Duration,
    pub(super) timeout: Duration,
    pub(super) concurrency: usize,
}

impl Options {
    /// Whether there is something to forward to.
    pub fn enabled(&self) -> bool {
        given(self.forward_url.as_ref()).is_some()
    }

    /// Says what cannot work, also where nothing is forwarded.
    ///
    /// # Errors
    /// The setting, and why.
    pub fn check(&self) -> Result<(), Refused> {
        if self.enabled() {
            return self.settings().map(|_| ());
        }
        let alone: [(&'static str, bool); 4] = [
            (
                "FORWARD_SECRET",
                given(self.forward_secret.as_ref()).is_some(),
            ),
            (
                "FORWARD_TOKEN",
                given(self.forward_token.as_ref()).is_some(),
            ),
            (
                "FORWARD_EVENT_TYPES",
                listed(self.forward_event_types.as_ref()).is_some(),
            ),
            ("FORWARD_REPLAYS", self.forward_replays == Switch::On),
        ];
        match alone.iter().find(|(_, set)| *set) {
            Some((name, _)) => refused(
                name,
                "is set and FORWARD_URL is not: nothing would be forwarded",
            ),
            None => Ok(()),
        }
    }

    pub(super) fn settings(&self) -> Result<Settings, Refused> {
        let Some(text) = given(self.forward_url.as_ref()) else {
            return refused(
                "FORWARD_URL",
                "is not set: where should events be forwarded to?",
            );
        };
        let url = address(text, self.forward_allow_http == Switch::On)?;
        let authorization = match given(self.forward_token.as_ref()) {
            None => None,
            Some(token) => match HeaderValue::from_str(&format!("Bearer {}", token.trim())) {
                Ok(mut value) if !token.trim().contains(char::is_whitespace) => {
                    value.set_sensitive(true);
                    Some(value)
                }
                _ => return refused("FORWARD_TOKEN", "has characters that no header may have"),
            },
        };
        let signer = match given(self.forward_secret.as_ref()) {
            None => None,
            Some(secrets) => match Signer::new(secrets) {
                Ok(signer) => Some(signer),
                Err(why) => return refused("FORWARD_SECRET", why),
            },
        };
        if self.forward_format == Format::Unified && self.forward_batch > 1 {
            return refused(
                "FORWARD_BATCH",
                "is more than 1, and FORWARD_FORMAT unified carries one event a request: use cloudevents or euler",
            );
        }
        Ok(Settings {
            origin: url.origin().ascii_serialization(),
            url,
            authorization,
            signer,
            format: self.forward_format,
            batch: self.forward_batch.into(),
            types: types(self.forward_event_types.as_ref())?,
            replays: self.forward_replays == Switch::On,
            max_retries: self.forward_max_retries,
            max_age: Duration::from_secs(self.forward_max_age),
            timeout: Duration::from_secs(self.forward_timeout),
            concurrency: self.forward_concurrency.into(),
        })
    }
}

fn address(text: &str, allow_http: bool) -> Result<Url, Refused> {
    const NAME: &str = "FORWARD_URL";
    let Ok(url) = text.trim().parse::<Url>() else {
        return refused(NAME, "is not an address: use https://host/path");
    };
    if !url.username().is_empty() || url.password().is_some() {
        return refused(NAME, "holds a user or a password: use FORWARD_TOKEN");
    }
    if url.fragment().is_some() {
        return refused(NAME, "has a fragment (#…), which is never sent");
    }
    let here = match url.host() {
        Some(Host::Ipv4(ip)) => IpAddr::V4(ip).is_loopback(),
        Some(Host::Ipv6(ip)) => IpAddr::V6(ip).is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => return refused(NAME, "names no host"),
    };
    match url.scheme() {
        "https" => Ok(url),
        "http" if here || allow_http => Ok(url),
        "http" => refused(
            NAME,
            "is http:// to another machine: use https://, or FORWARD_ALLOW_HTTP=on inside a private network",
        ),
        _ => refused(NAME, "is neither https:// nor http://"),
    }
}

fn types(list: Option<&String>) -> Result<Option<HashSet<EventType>>, Refused> {
    let Some(list) = listed(list) else {
        return Ok(None);
    };
    let mut types = HashSet::new();
    for name in list
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
    {
        let Some(kind) = EventType::from_name(&name.to_ascii_uppercase()) else {
            let known = EventType::ALL.map(EventType::as_str).join(", ");
            return refused(
                "FORWARD_EVENT_TYPES",
                format!("there is no such type in {known}"),
            );
        };
        types.insert(kind);
    }
    if types.is_empty() {
        return refused("FORWARD_EVENT_TYPES", "names no type");
    }
    Ok(Some(types))
}

fn listed(list: Option<&String>) -> Option<&str> {
    list.map(|list| list.trim()).filter(|list| !list.is_empty())
}

/// A secret setting, `None` when it is empty: Compose passes unset variables as empty ones.
fn given(secret: Option<&SecretString>) -> Option<&str> {
    secret
        .map(SecretString::expose_secret)
        .filter(|text| !text.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    fn options(arguments: &[&str]) -> Options {
        let all = std::iter::once("ttlc").chain(arguments.iter().copied());
        Cli::try_parse_from(all).unwrap().options
    }

    #[test]
    fn off_by_default_and_fine() {
        let options = options(&[]);
        assert!(!options.enabled());
        options.check().unwrap();
        assert!(
            options.settings().is_err(),
            "the subcommand needs an address"
        );
    }

    #[test]
    fn half_a_configuration_is_refused_by_name_without_its_values() {
        let url = "--forward-url=https://example.com/canary";
        for (arguments, name) in [
            (&["--forward-secret=whsec_canary"][..], "FORWARD_SECRET"),
            (&["--forward-token=canary"], "FORWARD_TOKEN"),
            (&["--forward-event-types=CHAT"], "FORWARD_EVENT_TYPES"),
            (&["--forward-replays=on"], "FORWARD_REPLAYS"),
            (&["--forward-url=canary"], "FORWARD_URL"),
            (&["--forward-url=ftp://canary/"], "FORWARD_URL"),
            (&["--forward-url=http://canary.example/"], "FORWARD_URL"),
            (&["--forward-url=http://10.0.0.1/canary"], "FORWARD_URL"),
            (
                &["--forward-url=https://user:canary@example.com/"],
                "FORWARD_URL",
            ),
            (
                &["--forward-url=https://example.com/#canary"],
                "FORWARD_URL",
            ),
            (&[url, "--forward-token=can ary"], "FORWARD_TOKEN"),
            (&[url, "--forward-token=canary\nx"], "FORWARD_TOKEN"),
            (&[url, "--forward-secret=canary"], "FORWARD_SECRET"),
            (&[url, "--forward-secret=whsec_Y2FuYXJ5"], "FORWARD_SECRET"),
            (&[url, "--forward-batch=2"], "FORWARD_BATCH"),
            (
                &[url, "--forward-event-types=CHAT,CANARY"],
                "FORWARD_EVENT_TYPES",
            ),
            (&[url, "--forward-event-types=,"], "FORWARD_EVENT_TYPES"),
        ] {
            let error = options(arguments).check().unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("{name}: ")),
                "{arguments:?}: {error}"
            );
            assert!(
                !error.contains("canary") && !error.contains("CANARY"),
                "{error}"
            );
        }
        for wrong in [
            "--forward-format=xml",
            "--forward-batch=0",
            "--forward-max-age=0",
            "--forward-replays=yes",
        ] {
            assert!(Cli::try_parse_from(["ttlc", wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_can_work_is_taken() {
        for url in [
            "https://example.com/x?key=1",
            "http://127.0.0.1:9/",
            "http://localhost/",
            "http://[::1]:9/",
        ] {
            options(&[&format!("--forward-url={url}")]).check().unwrap();
        }
        let settings = options(&[
            "--forward-url=http://collector:8080/in?key=canary",
            "--forward-allow-http=on",
            "--forward-format=cloudevents",
            "--forward-batch=100",
            "--forward-event-types=chat, GIFT",
        ]);
        assert!(!format!("{settings:?}").contains("canary"));
        let settings = settings.settings().unwrap();
        assert_eq!(settings.origin, "http://collector:8080");
        assert_eq!(
            settings.types,
            Some(HashSet::from([EventType::Chat, EventType::Gift]))
        );
    }
}
