//! All of it: both stages at once beside the same two in Node; and from TikTok's frames to Postgres.
//!
//! Beside Node the two stages are two processes on either side, and are given the same raw entries,
//! all of them there from the start. From frames the stand-in plays four rooms as fast as they are
//! read, and `ttlc run` does everything; what counts begins after the warm-up and ends with the last
//! message stored.

use std::{path::Path, time::Instant};

use anyhow::{Context, ensure};
use shared::streams::{GROUP_STORAGE, StreamNames};
use tokio::process::Command;
use upstream::{Creator, Pace, Record, Script, Upstream};

use super::{
    Settings,
    processes::{COST, Measured, PATIENCE, Run, median, median_ratio, watched},
    servers::Servers,
    traffic::Traffic,
};
use crate::{
    recorded,
    table::{Table, float},
};

const AIM: f64 = 5.0;
/// What two such stages in Node did on another machine, with the captures, Redis and Postgres on
/// the same two cores.
const REFERENCE: f64 = 5_100.0;
const ROOMS: u32 = 4;
const IN_A_FRAME: u32 = 10;
/// This share of the messages is the warm-up.
const WARM_UP: f64 = 0.1;

pub(super) async fn measure(settings: &Settings, table: &mut Table) -> anyhow::Result<()> {
    let mut servers = Servers::start(settings).await?;
    stages(settings, &mut servers, table).await?;
    // A first guess; what it takes longer is no harm.
    let mut messages = settings.messages * 2;
    println!("… frames → Postgres");
    let run = loop {
        servers.clear().await?;
        let run = from_frames(settings, &mut servers, messages).await?;
        if run.seconds >= f64::from(settings.sustained) || messages >= 4_000_000 {
            break run;
        }
        let wanted = f64::from(settings.sustained) * run.rate() * 1.2 / (1.0 - WARM_UP);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "in range"
        )]
        let wanted = wanted.clamp(1_000.0, 4_000_000.0) as u32;
        messages = wanted.max(messages + messages / 4);
    };
    table.add(
        "frames → Postgres, ttlc run, the stand-in on the same machine",
        format!("{:.0}/s over {:.0} s", run.rate(), run.seconds),
    );
    table.add(format!("  {COST}"), run.cost());
    Ok(())
}

/// raw → events → Postgres.
async fn stages(
    settings: &Settings,
    servers: &mut Servers,
    table: &mut Table,
) -> anyhow::Result<()> {
    println!("… raw → events → Postgres");
    let traffic = Traffic::new(settings.messages)?;
    let mut ours = vec![Vec::new(); settings.programs().len()];
    let mut node = Vec::new();
    for _ in 0..settings.turns {
        for (runs, (_, program)) in ours.iter_mut().zip(settings.programs()) {
            fill(servers, &traffic).await?;
            let normalizer = servers.command(program, "normalizer");
            let writer = servers.command(program, "storage-writer");
            runs.push(both(servers, normalizer, writer, &traffic).await?);
        }
        if let Some(program) = &settings.node {
            fill(servers, &traffic).await?;
            let normalizer = in_node(servers, program, "normalizer");
            let writer = in_node(servers, program, "storage");
            node.push(both(servers, normalizer, writer, &traffic).await?);
        }
    }
    for (runs, (mark, _)) in ours.iter().zip(settings.programs()) {
        if !node.is_empty() {
            let ratio = median_ratio(runs, &node)?;
            table.aimed(
                format!("raw → events → Postgres, to the same in Node{mark}"),
                format!("{ratio:.2} ×"),
                &format!("{AIM} ×"),
                ratio >= AIM,
            );
        }
        let rate = median(runs.clone())?.rate();
        table.add(
            format!("  to the {REFERENCE}/s of Node elsewhere{mark}"),
            format!("{:.2} ×", rate / REFERENCE),
        );
    }
    let mut sides: Vec<(String, Vec<Run>)> = ours
        .into_iter()
        .zip(settings.programs())
        .map(|(runs, (mark, _))| (format!("ttlc normalizer, ttlc storage-writer{mark}"), runs))
        .collect();
    if !node.is_empty() {
        sides.push(("Node with ioredis, pg and batching".to_owned(), node));
    }
    for (what, runs) in sides {
        let run = median(runs)?;
        table.add(format!("  {what}"), format!("{:.0}/s", run.rate()));
        table.add(format!("    {COST}"), run.cost());
    }
    Ok(())
}

async fn fill(servers: &Servers, traffic: &Traffic) -> anyhow::Result<()> {
    servers.clear().await?;
    traffic.publish(&mut servers.redis().await?).await
}

fn in_node(servers: &Servers, program: &Path, stage: &str) -> Command {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(program);
    command
        .arg(here.join("node/pipeline.mjs"))
        .arg(stage)
        .arg(here.join("../../daemon/proto/webcast.proto"))
        .env("REDIS_URL", &servers.redis_url)
        .env("DATABASE_URL", &servers.database_url);
    command
}

/// Two stages as processes, until the last event is stored and acknowledged.
async fn both(
    servers: &mut Servers,
    normalizer: Command,
    writer: Command,
    traffic: &Traffic,
) -> anyhow::Result<Run> {
    let writer = Measured::start(writer)?;
    let normalizer = Measured::start(normalizer)?;
    let mut redis = servers.redis().await?;
    let stream = StreamNames::new(1).events(0);
    let count = traffic.envelopes.len();
    let run = watched(servers, &[&normalizer, &writer], count as u64, async || {
        Servers::acknowledged(&mut redis, &stream, GROUP_STORAGE).await
    })
    .await?;
    normalizer.stop().await?;
    writer.stop().await?;
    let stored: i64 = servers
        .postgres()
        .await?
        .query_one("SELECT count(*) FROM events", &[])
        .await?
        .get(0);
    ensure!(
        usize::try_from(stored)? >= count,
        "{stored} of {count} events are stored"
    );
    Ok(run)
}

/// `ttlc run` with the stand-in's rooms, all at once.
async fn from_frames(
    settings: &Settings,
    servers: &mut Servers,
    messages: u32,
) -> anyhow::Result<Run> {
    let capture = recorded::repeat(&recorded::messages()?, messages / ROOMS, IN_A_FRAME);
    let names: Vec<String> = (0..ROOMS)
        .map(|room| format!("bench-frames-{room}"))
        .collect();
    let mut script = Script::new();
    for name in &names {
        script = script.creator(Creator::plays(name, capture.clone()));
    }
    script.pace = Pace::AsFastAsPossible;
    script.record = Record::Counts;
    let upstream = Upstream::start(script).await?;
    let daemon = Measured::start(run_command(settings, servers, &upstream, &names))?;

    let client = servers.postgres().await?;
    let goal = u64::from(messages / ROOMS * ROOMS);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "in range"
    )]
    let warm = (f64::from(messages) * WARM_UP) as u64;
    let begun = Instant::now();
    let mut at_warm = None;
    let run = loop {
        // The writer counts in the transaction that inserts; there is our own CONNECTED too, and
        // at the end DISCONNECTED.
        let stored: i64 = client
            .query_one(
                "SELECT coalesce(sum(events), 0)::bigint FROM session_stats
                 WHERE event_type NOT IN ('CONNECTED', 'DISCONNECTED', 'STREAM_END')",
                &[],
            )
            .await?
            .get(0);
        let stored = u64::try_from(stored)?;
        let now = (stored, Instant::now(), cost(servers, &daemon)?);
        if at_warm.is_none() && stored >= warm {
            at_warm = Some(now);
        }
        if stored >= goal {
            let (first, from, before) = at_warm.context("no warm-up")?;
            break Run {
                events: float(stored - first)?,
                seconds: (now.1 - from).as_secs_f64(),
                processor: [0, 1, 2].map(|part| now.2[part] - before[part]),
            };
        }
        ensure!(
            begun.elapsed() < PATIENCE,
            "{stored} of {goal} messages are stored"
        );
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    let status = daemon.stop().await?;
    ensure!(status.success(), "the daemon ended with {status}");
    // The ends of streaks that time brings are events without a message.
    let (rows, twice): (i64, i64) = {
        let row = client
            .query_one(
                "SELECT count(*), count(*) - count(DISTINCT (stream_id, raw_hash)) FROM events
                 WHERE raw_format = 'protobuf' AND event_type <> 'STREAM_END'",
                &[],
            )
            .await?;
        (row.get(0), row.get(1))
    };
    ensure!(
        u64::try_from(rows)? == goal && twice == 0,
        "{goal} messages were sent, {rows} are stored, {twice} of them twice"
    );
    let violations = upstream.violations();
    ensure!(
        violations.is_empty(),
        "the daemon did something wrong: {:#?}",
        &violations[..violations.len().min(5)]
    );
    upstream.stop().await;
    Ok(run)
}

fn cost(servers: &mut Servers, daemon: &Measured) -> anyhow::Result<[f64; 3]> {
    let [redis, postgres] = servers.processor()?;
    Ok([daemon.processor()?, redis, postgres])
}

/// `ttlc run` for creators of the stand-in.
pub(super) fn run_command(
    settings: &Settings,
    servers: &Servers,
    upstream: &Upstream,
    names: &[String],
) -> Command {
    let base = upstream.base_url();
    let mut command = servers.command(&settings.ttlc_program, "run");
    command
        .env("TIKTOK_UNIQUE_ID", names.join(","))
        .env("TIKTOK_WEB_URL", &base)
        .env("TIKTOK_WEBCAST_URL", &base)
        .env("EULER_API_URL", &base)
        .env(
            "SPOOL_DIR",
            settings.spool_dir.join(base.replace([':', '/'], "")),
        )
        // What TikTok and the sign server allow is not what is measured.
        .env("TIKTOK_REQUESTS_PER_MINUTE", "60000")
        .env("SIGN_REQUESTS_PER_MINUTE", "6000")
        .env("OFFLINE_POLL_SECONDS", "3600");
    command
}
