//! The whole product: from TikTok's frames to Postgres, and from TikTok's socket to a live viewer.
//!
//! Recorded messages are played by the stand-in, in this process. A run that loses a message is no
//! result but an error.

use std::{
    process::Stdio,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, ensure};
use clap::Args;
use tokio::process::{Child, Command};
use tokio_postgres::NoTls;
use upstream::{Capture, Creator, Pace, Record, Script, Upstream, capture::Line};

use crate::{Common, feed::Feed, recorded};

#[derive(Args)]
pub(crate) struct Settings {
    /// Messages of the throughput run
    #[arg(long, env = "BENCH_MESSAGES", default_value_t = 30_000, value_parser = clap::value_parser!(u32).range(100..=5_000_000))]
    messages: u32,
    /// Messages in a frame of the throughput run
    #[arg(long, env = "BENCH_FRAME_MESSAGES", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=20))]
    frame_messages: u32,
    /// Messages per second of the latency run, each in a frame of its own
    #[arg(long, env = "BENCH_RATE", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=2_000))]
    rate: u32,
    /// Seconds of the latency run
    #[arg(long, env = "BENCH_SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    seconds: u32,
    /// Postgres, migrated
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: String,
    /// The Worker
    #[arg(long, env = "API_URL")]
    api_url: String,
    #[command(flatten)]
    common: Common,
}

/// No step takes longer than this.
const PATIENCE: Duration = Duration::from_mins(10);

/// Measures and prints both.
pub(crate) async fn run(settings: &Settings) -> anyhow::Result<()> {
    let source = recorded::messages()?;
    println!(
        "frame → Postgres:    {}",
        throughput(settings, &source).await?
    );
    println!("socket → SSE client: {}", latency(settings, &source).await?);
    println!(
        "repeat: cargo xtask bench (BENCH_MESSAGES, BENCH_FRAME_MESSAGES, BENCH_RATE, BENCH_SECONDS)"
    );
    Ok(())
}

/// As many messages as the database can take.
async fn throughput(settings: &Settings, source: &[Line]) -> anyhow::Result<String> {
    let count = settings.messages;
    let capture = recorded::repeat(source, count, settings.frame_messages);
    let bytes: usize = capture.lines.iter().map(|line| line.payload.len()).sum();
    let stage = Stage::start(
        settings,
        "bench-throughput",
        capture,
        Pace::AsFastAsPossible,
    )
    .await?;
    let stored = stage.stored(count).await?;
    let begun = stage
        .upstream
        .sent()
        .first()
        .context("nothing was sent")?
        .at;
    let took = stored.duration_since(begun)?.as_secs_f64();
    stage.check(count).await?;
    let megabytes = f64::from(u32::try_from(bytes / 1000)?) / 1000.0;
    Ok(format!(
        "{count} messages ({megabytes:.1} MB) in {took:.2} s = {:.0} messages/s",
        f64::from(count) / took
    ))
}

/// A room of modest size, watched by one viewer.
async fn latency(settings: &Settings, source: &[Line]) -> anyhow::Result<String> {
    let count = settings.rate * settings.seconds;
    let capture = recorded::repeat(source, count, 1);
    let pace = Pace::Every(Duration::from_secs(1) / settings.rate);
    let stage = Stage::start(settings, "bench-latency", capture, pace).await?;
    let stream = &stage.stream_id;
    stage.stored(1).await?;
    let url = format!("{}/streams/{stream}/events?after=start", settings.api_url);
    let mut feed = Feed::open(&url, None).await?;
    // The first event is our own: connected.
    feed.read_to(count as usize + 1, Duration::from_mins(1))
        .await?;
    stage.check(count).await?;

    // In one connection messages are numbered in the order they were sent.
    let mut received: Vec<_> = feed
        .events
        .iter()
        .filter(|event| {
            !matches!(
                event.data["eventType"].as_str(),
                Some("CONNECTED" | "DISCONNECTED")
            )
        })
        .collect();
    received.sort_by_key(|event| event.data["seqNo"].as_u64());
    let sent = stage.upstream.sent();
    ensure!(
        received.len() == sent.len(),
        "{} of {} reached the viewer",
        received.len(),
        sent.len()
    );
    // Those from before the viewer came were read from the database: not what is measured.
    let live = sent.len() / 10;
    let mut waits = sent
        .iter()
        .zip(&received)
        .skip(live)
        .map(|(sent, received)| Ok(received.at.duration_since(sent.at)?))
        .collect::<anyhow::Result<Vec<Duration>>>()?;
    waits.sort_unstable();
    let at = |percent: usize| waits[(waits.len() - 1) * percent / 100].as_secs_f64() * 1000.0;
    Ok(format!(
        "{} messages at {}/s: p50 {:.0} ms, p90 {:.0} ms, p99 {:.0} ms, max {:.0} ms",
        waits.len(),
        settings.rate,
        at(50),
        at(90),
        at(99),
        at(100)
    ))
}

/// A stand-in and a daemon that follows its one creator.
struct Stage {
    upstream: Upstream,
    database: tokio_postgres::Client,
    stream_id: String,
    // Killed when dropped: what it has not stored was not to be stored.
    _daemon: Child,
}

impl Stage {
    async fn start(
        settings: &Settings,
        name: &str,
        capture: Capture,
        pace: Pace,
    ) -> anyhow::Result<Self> {
        let mut script = Script::new().creator(Creator::plays(name, capture));
        script.pace = pace;
        script.record = Record::Ids;
        let upstream = Upstream::start(script).await?;
        let stream_id = upstream.room_id(name).context("not live")?.to_string();
        let (database, connection) = tokio_postgres::connect(&settings.database_url, NoTls).await?;
        tokio::spawn(connection);
        let base = upstream.base_url();
        let daemon = Command::new(&settings.common.ttlc_program)
            .arg("run")
            .env("TIKTOK_UNIQUE_ID", name)
            .env("TIKTOK_WEB_URL", &base)
            .env("TIKTOK_WEBCAST_URL", &base)
            .env("EULER_API_URL", &base)
            .env("REDIS_URL", &settings.common.redis_url)
            .env("DATABASE_URL", &settings.database_url)
            .env("LOG_LEVEL", "warn")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("can't start {}", settings.common.ttlc_program.display()))?;
        Ok(Self {
            upstream,
            database,
            stream_id,
            _daemon: daemon,
        })
    }

    /// When so many messages of the room were found in Postgres.
    async fn stored(&self, count: u32) -> anyhow::Result<SystemTime> {
        let begun = Instant::now();
        loop {
            // The writer counts in the transaction that inserts; and there is our own CONNECTED.
            let stored: Option<i64> = self
                .database
                .query_one(
                    "SELECT sum(event_count)::bigint FROM sessions WHERE stream_id = $1",
                    &[&self.stream_id],
                )
                .await?
                .get(0);
            if stored.unwrap_or(0) > i64::from(count) {
                return Ok(SystemTime::now());
            }
            ensure!(
                begun.elapsed() < PATIENCE,
                "{stored:?} of {count} messages are stored"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Every message is there once, and the stand-in has nothing to complain about.
    async fn check(&self, count: u32) -> anyhow::Result<()> {
        self.stored(count).await?;
        let row = self
            .database
            .query_one(
                "SELECT count(*), count(DISTINCT raw_hash) FROM events \
                 WHERE stream_id = $1 AND raw_format = 'protobuf'",
                &[&self.stream_id],
            )
            .await?;
        let (rows, messages): (i64, i64) = (row.get(0), row.get(1));
        ensure!(
            rows == i64::from(count) && messages == rows,
            "{count} messages were sent, {rows} rows of {messages} messages are stored"
        );
        let violations = self.upstream.violations();
        ensure!(
            violations.is_empty(),
            "the daemon did something wrong: {violations:#?}"
        );
        Ok(())
    }
}
