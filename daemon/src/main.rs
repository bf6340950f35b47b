//! `ttlc`: reads the settings, wires the stages of the chosen command and supervises them.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use daemon::bus::Bus;
use daemon::config::{Cli, Command, Common};
use daemon::metrics::Metrics;
use daemon::supervise::Stages;
use daemon::{http, ingest, normalizer, storage, telemetry};
use tokio_util::sync::CancellationToken;

/// How often processed entries are dropped from the streams.
const TRIM_INTERVAL: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    telemetry::init(cli.telemetry);
    // One TLS implementation for all clients; a second call would mean that somebody was faster.
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        tracing::warn!("a TLS provider was installed already");
    }
    match execute(cli.command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "ttlc ends with an error");
            ExitCode::FAILURE
        }
    }
}

async fn execute(command: Command) -> anyhow::Result<()> {
    let mut stages = Stages::new();
    match command {
        Command::Run(options) => {
            storage::migrate(&options.storage.database).await?;
            let bus = begin(&mut stages, &options.common)?;
            spawn_ingest(&mut stages, &bus, options.ingest);
            spawn_normalizer(&mut stages, &bus, options.normalizer);
            spawn_storage(&mut stages, &bus, options.storage);
        }
        Command::Ingest(options) => {
            let bus = begin(&mut stages, &options.common)?;
            spawn_ingest(&mut stages, &bus, options.ingest);
        }
        Command::Normalizer(options) => {
            let bus = begin(&mut stages, &options.common)?;
            spawn_normalizer(&mut stages, &bus, options.normalizer);
        }
        Command::StorageWriter(options) => {
            storage::migrate(&options.storage.database).await?;
            let bus = begin(&mut stages, &options.common)?;
            spawn_storage(&mut stages, &bus, options.storage);
        }
        Command::Migrate(database) => return Ok(storage::migrate(&database).await?),
        Command::Healthcheck { health_addr } => return http::check(health_addr).await,
    }
    stages.run().await
}

fn begin(stages: &mut Stages, common: &Common) -> anyhow::Result<Bus> {
    let bus = Bus::new(&common.redis_url, common.names())?;
    if let Some(address) = common.health_addr {
        // Nothing is counted where nobody can ask.
        let metrics = Metrics::install()?;
        tokio::spawn(metrics.clone().upkeep());
        let bus = bus.clone();
        stages.spawn("health", |stop| http::run(address, bus, metrics, stop));
    }
    Ok(bus)
}

fn spawn_ingest(stages: &mut Stages, bus: &Bus, options: ingest::Options) {
    let bus = bus.clone();
    stages.spawn("ingest", |stop| ingest::run(options, bus, stop));
}

fn spawn_normalizer(stages: &mut Stages, bus: &Bus, options: normalizer::Options) {
    let trimmed = bus.clone();
    let bus = bus.clone();
    stages.spawn("normalizer", |stop| normalizer::run(options, bus, stop));
    stages.spawn("trimmer", |stop| trim(trimmed, stop));
}

fn spawn_storage(stages: &mut Stages, bus: &Bus, options: storage::Options) {
    let bus = bus.clone();
    stages.spawn("storage-writer", |stop| storage::run(options, bus, stop));
}

/// Drops from the streams what every group has processed, beside the normalizer: it is the one
/// stage that there is exactly one of.
async fn trim(bus: Bus, stop: CancellationToken) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(TRIM_INTERVAL);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        for shard in 0..bus.names().shards() {
            for stream in [bus.names().raw(shard), bus.names().events(shard)] {
                match stop.run_until_cancelled(bus.trim(&stream)).await {
                    Some(Ok(dropped)) => tracing::debug!(%stream, dropped, "trimmed"),
                    Some(Err(error)) => {
                        tracing::warn!(%stream, %error, "cannot trim, trying again later");
                    }
                    None => return Ok(()),
                }
            }
        }
    }
    Ok(())
}
