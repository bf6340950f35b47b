//! The storage writer beside a bare COPY of the same rows into the same table.
//!
//! The writer is given a stream that holds all events already. "Everything on" is `ttlc
//! storage-writer` as it is. "Statistics off" is the same stage called as a library, without the
//! three statistics tables; no setting of the product does that.

use anyhow::ensure;
use daemon::{
    bus::Bus,
    storage::{self, DatabaseOptions, Options, RetentionOptions},
};
use shared::streams::{GROUP_STORAGE, StreamNames};
use tokio_util::sync::CancellationToken;

use super::{
    Settings,
    copying::Rows,
    processes::{COST, Measured, Run, median, median_ratio, watched},
    servers::Servers,
    traffic::Traffic,
};
use crate::table::Table;

const AIM_ON: f64 = 0.40;
const AIM_OFF: f64 = 0.60;
/// The writer's default.
const BATCH: u16 = 2_000;

pub(super) async fn measure(settings: &Settings, table: &mut Table) -> anyhow::Result<()> {
    println!("… events → Postgres");
    let traffic = Traffic::new(settings.messages)?;
    let mut servers = Servers::start(settings).await?;
    let mut rows = None;
    let (mut whole, mut parts, mut off) = (Vec::new(), Vec::new(), Vec::new());
    let mut on = vec![Vec::new(); settings.programs().len()];
    for _ in 0..settings.turns {
        for (runs, (_, program)) in on.iter_mut().zip(settings.programs()) {
            fill(&servers, &traffic).await?;
            runs.push(process(&mut servers, program, &traffic).await?);
        }
        if rows.is_none() {
            rows = Some(Rows::stored(&servers).await?);
        }
        let Some(rows) = &rows else { continue };
        servers.clear().await?;
        whole.push(rows.copy(&mut servers, rows.len()).await?);
        servers.clear().await?;
        parts.push(rows.copy(&mut servers, BATCH.into()).await?);
        fill(&servers, &traffic).await?;
        off.push(library(&mut servers, &traffic).await?);
    }
    for (runs, (mark, _)) in on.iter().zip(settings.programs()) {
        let ratio = median_ratio(runs, &whole)?;
        table.aimed(
            format!("storage writer, everything on, to one bare COPY{mark}"),
            format!("{ratio:.2}"),
            &format!("{AIM_ON}"),
            ratio >= AIM_ON,
        );
        table.add(
            format!("  to a bare COPY in transactions of {BATCH}{mark}"),
            format!("{:.2}", median_ratio(runs, &parts)?),
        );
        table.add(
            format!("  by the time of Postgres' processor, to one bare COPY{mark}"),
            format!(
                "{:.2}",
                median(whole.clone())?.postgres() / median(runs.clone())?.postgres()
            ),
        );
    }
    let ratio = median_ratio(&off, &whole)?;
    table.aimed(
        "storage writer, statistics off, to one bare COPY",
        format!("{ratio:.2}"),
        &format!("{AIM_OFF}"),
        ratio >= AIM_OFF,
    );
    table.add(
        format!("  to a bare COPY in transactions of {BATCH}"),
        format!("{:.2}", median_ratio(&off, &parts)?),
    );
    table.add(
        "  by the time of Postgres' processor, to one bare COPY",
        format!(
            "{:.2}",
            median(whole.clone())?.postgres() / median(off.clone())?.postgres()
        ),
    );
    let mut sides = vec![
        ("one bare COPY".to_owned(), whole),
        (format!("bare COPY in transactions of {BATCH}"), parts),
        (
            "storage writer, statistics off (in this process)".to_owned(),
            off,
        ),
    ];
    for (runs, (mark, _)) in on.into_iter().zip(settings.programs()) {
        sides.push((format!("ttlc storage-writer{mark}"), runs));
    }
    for (what, runs) in sides {
        let run = median(runs)?;
        table.add(format!("  {what}"), format!("{:.0}/s", run.rate()));
        table.add(format!("    {COST}"), run.cost());
    }
    Ok(())
}

/// Empty tables, and a stream that nobody has read.
async fn fill(servers: &Servers, traffic: &Traffic) -> anyhow::Result<()> {
    servers.clear().await?;
    traffic.publish_events(&mut servers.redis().await?).await
}

/// The stage as a process.
async fn process(
    servers: &mut Servers,
    program: &std::path::Path,
    traffic: &Traffic,
) -> anyhow::Result<Run> {
    let writer = Measured::start(servers.command(program, "storage-writer"))?;
    let run = until_stored(servers, &[&writer], traffic).await?;
    let status = writer.stop().await?;
    ensure!(status.success(), "the writer ended with {status}");
    Ok(run)
}

/// The stage as a library, without statistics.
async fn library(servers: &mut Servers, traffic: &Traffic) -> anyhow::Result<Run> {
    let options = Options {
        database: DatabaseOptions {
            database_url: Some(servers.database_url.clone().into()),
            database_migration_url: None,
            database_ca_file: None,
        },
        retention: RetentionOptions {
            event_retention_days: 90,
            pseudonym_key: None,
        },
        storage_batch_size: BATCH,
        storage_batch_ms: 50,
    };
    let bus = Bus::new(&servers.redis_url.clone().into(), StreamNames::new(1))?;
    let stop = CancellationToken::new();
    let stage = tokio::spawn(storage::run_without_statistics(options, bus, stop.clone()));
    let run = until_stored(servers, &[], traffic).await?;
    stop.cancel();
    stage.await??;
    Ok(run)
}

async fn until_stored(
    servers: &mut Servers,
    stages: &[&Measured],
    traffic: &Traffic,
) -> anyhow::Result<Run> {
    let mut redis = servers.redis().await?;
    let stream = StreamNames::new(1).events(0);
    let count = traffic.events.len() as u64;
    let run = watched(servers, stages, count, async || {
        Servers::acknowledged(&mut redis, &stream, GROUP_STORAGE).await
    })
    .await?;
    let stored: i64 = servers
        .postgres()
        .await?
        .query_one("SELECT count(*) FROM events", &[])
        .await?
        .get(0);
    ensure!(
        u64::try_from(stored)? == count,
        "{stored} of {count} events are stored"
    );
    Ok(run)
}
