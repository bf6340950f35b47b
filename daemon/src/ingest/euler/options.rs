//! Settings of the provider `euler`, checked before anything connects.
//!
//! In: environment variables or flags. Out: [`Settings`]. A value that cannot work is refused at
//! start with its name and the reason. Addresses are never repeated in that reason: people put
//! keys into them.

use clap::ValueEnum;
use url::{Host, Url};

use crate::config::Switch;

/// The settings as the environment says them.
#[derive(clap::Args)]
#[group(skip)] // several parts have `Options`; a group would be named after the type
pub struct Options {
    /// Where Euler's WebSocket API is; ws:// only on this machine, for the key stands in the address
    #[arg(
        long,
        env = "EULER_WS_URL",
        default_value = "wss://ws.eulerstream.com",
        hide_env_values = true
    )]
    pub euler_ws_url: String,
    /// In which naming Euler writes its JSON; auto: v3, which keeps most fields, else v2
    #[arg(long, env = "EULER_SCHEMA_VERSION", default_value = "auto")]
    pub euler_schema_version: SchemaVersion,
    /// Have Euler pass TikTok's own frames on instead of JSON
    #[arg(long, env = "EULER_RAW_MESSAGES", default_value = "off")]
    pub euler_raw_messages: Switch,
    /// Sockets to Euler that may be open at a time, over all rooms; the account's plan says how many
    #[arg(long, env = "EULER_MAX_SOCKETS", default_value = "25", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub euler_max_sockets: u32,
}

/// `EULER_SCHEMA_VERSION`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SchemaVersion {
    /// v3; v2 from then on where the server refuses it.
    Auto,
    /// The naming of the oldest clients.
    V1,
    /// What the server sends by itself.
    V2,
    /// The newest: it has most types and most fields.
    V3,
}

/// Settings that were checked.
#[derive(Clone, Debug)]
pub(in crate::ingest) struct Settings {
    pub(super) url: Url,
    pub(super) schema: SchemaVersion,
    pub(super) raw: bool,
    /// At least 1.
    pub(super) max_sockets: usize,
}

/// Why `EULER_WS_URL` cannot work.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("EULER_WS_URL: {0}")]
pub struct Invalid(&'static str);

impl Options {
    /// Checks the settings.
    pub(in crate::ingest) fn check(&self) -> Result<Settings, Invalid> {
        let url = Url::parse(self.euler_ws_url.trim())
            .map_err(|_| Invalid("no address, use wss://host"))?;
        let loopback = match url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        match url.scheme() {
            "wss" => {}
            "ws" if loopback => {}
            "ws" => return Err(Invalid("use wss://, the key would travel in the clear")),
            _ => return Err(Invalid("use wss://")),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Invalid("no user or password in the address"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(Invalid("no `?` or `#` in the address"));
        }
        Ok(Settings {
            url,
            schema: self.euler_schema_version,
            raw: self.euler_raw_messages == Switch::On,
            max_sockets: usize::try_from(self.euler_max_sockets).unwrap_or(usize::MAX),
        })
    }
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
        let words = [&["ttlc"], arguments].concat();
        let command = Command::try_parse_from(words).map_err(|error| error.to_string())?;
        command.options.check().map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_are_the_fact_sheets() {
        let settings = check(&[]).unwrap();
        assert_eq!(settings.url.as_str(), "wss://ws.eulerstream.com/");
        assert_eq!(settings.schema, SchemaVersion::Auto);
        assert_eq!((settings.raw, settings.max_sockets), (false, 25));
    }

    #[test]
    fn the_key_never_travels_in_the_clear_but_on_this_machine() {
        for good in [
            "ws://127.0.0.1:9",
            "ws://localhost/x",
            "ws://[::1]:9",
            "wss://x.example/",
        ] {
            assert!(check(&["--euler-ws-url", good]).is_ok(), "{good}");
        }
        for bad in ["ws://10.0.0.1", "ws://localhost.example", "ws://x"] {
            let error = check(&["--euler-ws-url", bad]).unwrap_err();
            assert!(error.contains("in the clear"), "{error}");
        }
    }

    #[test]
    fn wrong_values_are_refused_without_repeating_an_address() {
        for (arguments, reason) in [
            (["--euler-ws-url", "hunter2"], "EULER_WS_URL: no address"),
            (
                ["--euler-ws-url", "https://hunter2"],
                "EULER_WS_URL: use wss",
            ),
            (
                ["--euler-ws-url", "wss://x/?apiKey=hunter2"],
                "EULER_WS_URL: no `?`",
            ),
            (
                ["--euler-ws-url", "wss://me:hunter2@x"],
                "EULER_WS_URL: no user",
            ),
            (["--euler-schema-version", "v4"], "--euler-schema-version"),
            (["--euler-raw-messages", "maybe"], "--euler-raw-messages"),
            (["--euler-max-sockets", "0"], "--euler-max-sockets"),
        ] {
            let error = check(&arguments).unwrap_err();
            assert!(error.contains(reason), "{arguments:?}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
