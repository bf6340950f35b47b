//! All settings of the daemon: environment variables, or flags of the same meaning.
//!
//! A wrong value is refused at start with its name and the reason. Secrets are [`SecretString`]s,
//! whose value no log or error shows. The table of all variables is in the README.

use std::net::SocketAddr;

use clap::{Args, Parser, Subcommand};
use secrecy::SecretString;
use shared::replay::Speed;
use shared::streams::StreamNames;
use uuid::Uuid;

use crate::bus::trim;
use crate::{actions, forwarder, ingest, normalizer, replay, storage, telemetry};

/// Connects to TikTok LIVE rooms, turns every message into one stable event and stores it.
///
/// Unofficial: not affiliated with TikTok or Euler Stream.
#[derive(Parser)]
#[command(name = "ttlc", version, about)]
pub struct Cli {
    /// Log settings.
    #[command(flatten)]
    pub telemetry: telemetry::Options,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the binary does.
#[derive(Subcommand)]
pub enum Command {
    /// All stages in one process
    Run(Box<RunOptions>),
    /// Connect to rooms and publish raw envelopes
    Ingest(Box<IngestOptions>),
    /// Turn raw envelopes into unified events
    Normalizer(NormalizerOptions),
    /// Store unified events
    StorageWriter(StorageOptions),
    /// Hand unified events on to an HTTP endpoint
    Forwarder(Box<ForwarderOptions>),
    /// Normalize lines: raw.v1 envelopes as NDJSON on standard input, for each the event or its
    /// rejection on standard output; without Redis
    Normalize,
    /// Apply the database migrations and exit
    Migrate(storage::DatabaseOptions),
    /// Remove what is older than the retention, and exit
    Prune {
        /// Where it is.
        #[command(flatten)]
        database: storage::DatabaseOptions,
        /// What goes.
        #[command(flatten)]
        retention: storage::RetentionOptions,
    },
    /// Remove a viewer everywhere, and keep what comes late from bringing them back
    Erase(Box<storage::erasure::Options>),
    /// Prove that nothing of a room was lost or doubled unnoticed; fails when something was
    Verify(storage::verify::Options),
    /// Look at what could not be processed, and put it back
    DeadLetters {
        /// What to do.
        #[command(subcommand)]
        command: storage::dead_letters::Command,
    },
    /// Say whether a webhook may go to an address, and which IP addresses it would connect to; fails
    /// when it may not. Nothing is sent
    CheckWebhook(actions::CheckOptions),
    /// Ask a running process whether it is ready, for container health checks
    Healthcheck {
        /// Where it answers
        #[arg(long, env = "HEALTH_ADDR", default_value = "127.0.0.1:9090")]
        health_addr: SocketAddr,
    },
}

/// Something that is used or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Switch {
    /// Used.
    On,
    /// Not used.
    Off,
}

/// What every stage needs.
#[derive(Debug, Args)]
pub struct Common {
    /// Redis, `redis://[user:password@]host:port[/db]`, or `rediss://…` for TLS
    #[arg(
        long,
        env = "REDIS_URL",
        default_value = "redis://localhost:6379",
        hide_env_values = true,
        hide_default_value = false
    )]
    pub redis_url: SecretString,
    /// How many shards the streams have; the same for every process, daemon and edge
    #[arg(long, env = "STREAM_SHARDS", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub stream_shards: u32,
    /// Where to answer /livez, /readyz and /metrics, such as 127.0.0.1:9090; nowhere when not set
    #[arg(long, env = "HEALTH_ADDR")]
    pub health_addr: Option<SocketAddr>,
}

impl Common {
    /// The names of the streams.
    pub fn names(&self) -> StreamNames {
        StreamNames::new(self.stream_shards)
    }
}

/// Options of `run`.
#[derive(Args)]
pub struct RunOptions {
    /// What every stage needs.
    #[command(flatten)]
    pub common: Common,
    /// Rooms and providers.
    #[command(flatten)]
    pub ingest: ingest::Options,
    /// Showing sessions again.
    #[command(flatten)]
    pub replay: replay::Options,
    /// Normalizing.
    #[command(flatten)]
    pub normalizer: normalizer::Options,
    /// Trimming the streams.
    #[command(flatten)]
    pub trim: trim::Options,
    /// Storing.
    #[command(flatten)]
    pub storage: storage::Options,
    /// Forwarding; only when `FORWARD_URL` is set.
    #[command(flatten)]
    pub forwarder: forwarder::Options,
}

/// Options of `ingest`.
#[derive(Args)]
pub struct IngestOptions {
    /// What every stage needs.
    #[command(flatten)]
    pub common: Common,
    /// Rooms and providers.
    #[command(flatten)]
    pub ingest: ingest::Options,
    /// Where sessions that are shown again are stored; without it there are no replays.
    #[command(flatten)]
    pub database: storage::DatabaseOptions,
    /// Showing sessions again.
    #[command(flatten)]
    pub replay: replay::Options,
    /// Show this stored session again and end, without following anybody
    #[arg(long, value_name = "SESSION ID")]
    pub replay_session: Option<Uuid>,
    /// How fast: 0.1 to 100 times as fast as it was, or `max`
    #[arg(long, default_value = "1", requires = "replay_session")]
    pub speed: Speed,
}

/// Options of `normalizer`.
#[derive(Args)]
pub struct NormalizerOptions {
    /// What every stage needs.
    #[command(flatten)]
    pub common: Common,
    /// Normalizing.
    #[command(flatten)]
    pub normalizer: normalizer::Options,
    /// Trimming the streams.
    #[command(flatten)]
    pub trim: trim::Options,
}

/// Options of `storage-writer`.
#[derive(Args)]
pub struct StorageOptions {
    /// What every stage needs.
    #[command(flatten)]
    pub common: Common,
    /// Storing.
    #[command(flatten)]
    pub storage: storage::Options,
}

/// Options of `forwarder`.
#[derive(Args)]
pub struct ForwarderOptions {
    /// What every stage needs.
    #[command(flatten)]
    pub common: Common,
    /// Where what becomes of each event is recorded.
    #[command(flatten)]
    pub database: storage::DatabaseOptions,
    /// Where to, and how.
    #[command(flatten)]
    pub forwarder: forwarder::Options,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
    /// The README's table and `.env.example` name every variable, and none that does not exist.
    #[test]
    fn every_variable_is_documented() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
        let example = std::fs::read_to_string(root.join(".env.example")).unwrap();
        let mut known = std::collections::BTreeSet::new();
        let cli = Cli::command();
        for command in std::iter::once(&cli).chain(cli.get_subcommands()) {
            for variable in command.get_arguments().filter_map(clap::Arg::get_env) {
                known.insert(variable.to_str().unwrap().to_owned());
            }
        }
        assert!(known.len() > 15, "{known:?}");
        for variable in &known {
            assert!(
                readme.contains(&format!("| `{variable}` |")),
                "README.md lacks {variable}"
            );
            assert!(
                example.contains(&format!("\n#{variable}=")),
                ".env.example lacks {variable}"
            );
        }
        let documented = readme
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
        for (variable, _) in
            documented.filter(|(name, _)| name.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
        {
            assert!(
                known.contains(variable),
                "README.md names {variable}, which nobody reads"
            );
        }
    }
}
