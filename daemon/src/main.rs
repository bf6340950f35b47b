//! `ttlc`: reads the settings, wires the stages of the chosen command and supervises them.

use std::io::{self, BufWriter, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use daemon::bus::{Bus, incarnation, trim};
use daemon::config::{Cli, Command, Common};
use daemon::metrics::Metrics;
use daemon::storage::safety::Watched;
use daemon::supervise::Stages;
use daemon::{actions, failpoint, forwarder, http, ingest, normalizer, replay, storage, telemetry};

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
    failpoint::check()?;
    let mut stages = Stages::new();
    match command {
        Command::Run(options) => {
            options.forwarder.check()?;
            storage::migrate(&options.storage.database).await?;
            let watched = Watched::new(&options.storage.database)?;
            let bus = begin(&mut stages, &options.common, Some(watched))?;
            let database = options.storage.database.clone();
            spawn_ingest(&mut stages, &bus, options.ingest);
            spawn_replays(&mut stages, &bus, options.replay, database.clone());
            spawn_normalizer(&mut stages, &bus, options.normalizer, options.trim);
            spawn_storage(&mut stages, &bus, options.storage);
            if options.forwarder.enabled() {
                spawn_forwarder(&mut stages, &bus, options.forwarder, database);
            }
        }
        Command::Forwarder(options) => {
            if !options.forwarder.enabled() {
                options.forwarder.check()?;
                return idle(stages, &options.common).await;
            }
            options.forwarder.check()?;
            storage::migrate(&options.database).await?;
            let watched = Watched::new(&options.database)?;
            let bus = begin(&mut stages, &options.common, Some(watched))?;
            spawn_forwarder(&mut stages, &bus, options.forwarder, options.database);
        }
        Command::Ingest(options) => {
            if let Some(session) = options.replay_session {
                let bus = Bus::new(&options.common.redis_url, options.common.names())?;
                return Ok(replay::show(session, options.speed, &options.database, bus).await?);
            }
            let bus = begin(&mut stages, &options.common, None)?;
            spawn_ingest(&mut stages, &bus, options.ingest);
            spawn_replays(&mut stages, &bus, options.replay, options.database);
        }
        Command::Normalizer(options) => {
            let bus = begin(&mut stages, &options.common, None)?;
            spawn_normalizer(&mut stages, &bus, options.normalizer, options.trim);
        }
        Command::StorageWriter(options) => {
            storage::migrate(&options.storage.database).await?;
            let watched = Watched::new(&options.storage.database)?;
            let bus = begin(&mut stages, &options.common, Some(watched))?;
            spawn_storage(&mut stages, &bus, options.storage);
        }
        Command::Normalize => return tokio::task::block_in_place(normalize_lines),
        Command::Migrate(database) => return Ok(storage::migrate(&database).await?),
        Command::Prune {
            database,
            retention,
        } => {
            let pruned = storage::prune(&database, &retention).await?;
            writeln!(io::stdout(), "{pruned}")?;
            return Ok(());
        }
        Command::Erase(options) => {
            return Ok(storage::erasure::execute(&options, &mut io::stdout()).await?);
        }
        Command::Verify(options) => return verify(&options).await,
        Command::DeadLetters { command } => {
            let mut out = std::io::stdout();
            return Ok(storage::dead_letters::execute(command, &mut out).await?);
        }
        Command::CheckWebhook(options) => {
            let verdict = actions::check(options).await.map_err(anyhow::Error::from);
            let possible = verdict.is_ok();
            let said = verdict.unwrap_or_else(|failure| format!("not possible: {failure:#}"));
            writeln!(io::stdout(), "{said}")?;
            anyhow::ensure!(possible, "no webhook can go there");
            return Ok(());
        }
        Command::Healthcheck { health_addr } => return http::check(health_addr).await,
    }
    stages.run().await
}

/// Prints the verdict about each room.
async fn verify(options: &storage::verify::Options) -> anyhow::Result<()> {
    let verdicts = storage::verify::verify(options).await?;
    let mut out = BufWriter::new(io::stdout().lock());
    for verdict in &verdicts {
        writeln!(out, "{verdict}")?;
    }
    out.flush()?;
    let broken = verdicts
        .iter()
        .filter(|verdict| !verdict.is_whole())
        .count();
    anyhow::ensure!(
        broken == 0,
        "{broken} of {} rooms are not whole",
        verdicts.len()
    );
    Ok(())
}

/// Answers the lines of standard input. A reader that has gone away is no failure.
fn normalize_lines() -> anyhow::Result<()> {
    let mut lines = normalizer::Lines::new()?;
    let output = BufWriter::new(io::stdout().lock());
    match lines.run(io::stdin().lock(), output) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error.into()),
        _ => {}
    }
    tracing::info!(
        events = lines.events(),
        rejections = lines.rejections(),
        "normalized"
    );
    Ok(())
}

/// Connects, and serves signs of life; `database` when a stage of this process needs it.
fn begin(stages: &mut Stages, common: &Common, database: Option<Watched>) -> anyhow::Result<Bus> {
    let bus = Bus::new(&common.redis_url, common.names())?;
    tokio::spawn(report_unsafe_redis(bus.clone()));
    if let Some(database) = database.clone() {
        tokio::spawn(report_unsafe_postgres(database));
    }
    tokio::spawn(incarnation::watch(bus.clone()));
    if let Some(address) = common.health_addr {
        // Nothing is counted where nobody can ask.
        let metrics = Metrics::install()?;
        tokio::spawn(metrics.clone().upkeep());
        let servers = http::Servers::new(bus.clone(), database);
        stages.spawn("health", |stop| http::run(address, servers, metrics, stop));
    }
    Ok(bus)
}

fn spawn_ingest(stages: &mut Stages, bus: &Bus, options: ingest::Options) {
    let bus = bus.clone();
    stages.spawn("ingest", |stop| ingest::run(options, bus, stop));
}

fn spawn_replays(
    stages: &mut Stages,
    bus: &Bus,
    options: replay::Options,
    database: storage::DatabaseOptions,
) {
    let bus = bus.clone();
    stages.spawn("replay", |stop| replay::run(options, database, bus, stop));
}

/// With the trimmer beside it: every deployment has a normalizer, and trimming twice does no harm.
fn spawn_normalizer(
    stages: &mut Stages,
    bus: &Bus,
    options: normalizer::Options,
    trim: trim::Options,
) {
    let trimmed = bus.clone();
    let bus = bus.clone();
    stages.spawn("normalizer", |stop| normalizer::run(options, bus, stop));
    stages.spawn("trimmer", |stop| trim::run(trim, trimmed, stop));
}

fn spawn_storage(stages: &mut Stages, bus: &Bus, options: storage::Options) {
    let bus = bus.clone();
    stages.spawn("storage-writer", |stop| storage::run(options, bus, stop));
}

fn spawn_forwarder(
    stages: &mut Stages,
    bus: &Bus,
    options: forwarder::Options,
    database: storage::DatabaseOptions,
) {
    let bus = bus.clone();
    stages.spawn("forwarder", |stop| {
        forwarder::run(options, database, bus, stop)
    });
}

/// Without a destination there is nothing to do, and that is no failure: Compose starts every service.
async fn idle(mut stages: Stages, common: &Common) -> anyhow::Result<()> {
    begin(&mut stages, common, None)?;
    tracing::info!(
        stage = "forwarder",
        "FORWARD_URL is not set: nothing is forwarded"
    );
    stages.spawn("forwarder", |stop| async move {
        stop.cancelled().await;
        anyhow::Ok(())
    });
    stages.run().await
}

/// Says once what can lose events in this Redis, as soon as it answers.
async fn report_unsafe_redis(bus: Bus) {
    let found = loop {
        match bus.unsafe_settings().await {
            Ok(found) => break found,
            Err(error) => tracing::debug!(%error, "cannot ask redis for its settings yet"),
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
    };
    for sentence in found {
        tracing::warn!(reason = "unsafe_redis", "{sentence}");
    }
}

/// The same for Postgres.
async fn report_unsafe_postgres(database: Watched) {
    let found = loop {
        match database.unsafe_settings().await {
            Ok(found) => break found,
            Err(error) => tracing::debug!(error, "cannot ask postgres for its settings yet"),
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
    };
    for sentence in found {
        tracing::warn!(reason = "unsafe_postgres", "{sentence}");
    }
}
