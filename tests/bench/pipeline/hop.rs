//! The normalizer's hop: the stage as a process beside a bare loop that reads, adds, acknowledges.
//!
//! The bare loop copies: it adds what the stage would publish of each entry, made beforehand, in
//! batches of the same size. It neither decodes nor validates, and is not atomic.

use anyhow::{Context, ensure};
use redis::streams::StreamReadReply;
use shared::streams::{GROUP_NORMALIZER, StreamNames};

use super::{
    Settings,
    processes::{COST, Measured, Run, median, median_ratio, timed, watched},
    servers::{Servers, Sync},
    traffic::Traffic,
};
use crate::table::Table;

const AIM: f64 = 0.55;
/// Entries at a time: the daemon's default, which is what it runs with here.
const BATCH: usize = 128;

pub(super) async fn measure(settings: &Settings, table: &mut Table) -> anyhow::Result<()> {
    let traffic = Traffic::new(settings.messages)?;
    let mut servers = Servers::start(settings).await?;
    for sync in Sync::ALL {
        println!("… raw → events, appendfsync {}", sync.name());
        servers.sync(sync).await?;
        let mut bare = Vec::new();
        let mut ours = vec![Vec::new(); settings.programs().len()];
        for _ in 0..settings.turns {
            servers.clear().await?;
            traffic.publish(&mut servers.redis().await?).await?;
            bare.push(copy(&mut servers, &traffic).await?);
            for (runs, (_, program)) in ours.iter_mut().zip(settings.programs()) {
                servers.clear().await?;
                traffic.publish(&mut servers.redis().await?).await?;
                runs.push(stage(&mut servers, program, &traffic).await?);
            }
        }
        let name = format!("raw → events, appendfsync {}", sync.name());
        for (runs, (mark, _)) in ours.iter().zip(settings.programs()) {
            let ratio = median_ratio(runs, &bare)?;
            table.aimed(
                format!("{name}: normalizer to bare copy{mark}"),
                format!("{ratio:.2}"),
                &format!("{AIM}"),
                ratio >= AIM,
            );
        }
        let bare = median(bare)?;
        table.add(
            "  bare XREADGROUP → XADD → XACK",
            format!("{:.0}/s", bare.rate()),
        );
        table.add(format!("    {COST}"), bare.cost());
        for (runs, (mark, _)) in ours.into_iter().zip(settings.programs()) {
            let run = median(runs)?;
            table.add(
                format!("  ttlc normalizer{mark}"),
                format!("{:.0}/s", run.rate()),
            );
            table.add(format!("    {COST}"), run.cost());
        }
    }
    Ok(())
}

/// The bare loop.
async fn copy(servers: &mut Servers, traffic: &Traffic) -> anyhow::Result<Run> {
    const GROUP: &str = "copy";
    let names = StreamNames::new(1);
    let (from, to) = (names.raw(0), names.events(0));
    let mut redis = servers.redis().await?;
    redis::cmd("XGROUP")
        .arg(&["CREATE", &from, GROUP, "0"])
        .exec_async(&mut redis)
        .await?;
    let count = traffic.envelopes.len();
    let run = timed(servers, count, async {
        let mut events = traffic.events.iter();
        let mut left = count;
        while left > 0 {
            let reply: StreamReadReply = redis::cmd("XREADGROUP")
                .arg(&["GROUP", GROUP, "one", "COUNT"])
                .arg(BATCH)
                .arg(&["STREAMS", &from, ">"])
                .query_async(&mut redis)
                .await?;
            let entries = &reply.keys.first().context("no entries")?.ids;
            left -= entries.len();
            let mut pipe = redis::pipe();
            for _ in entries {
                let event = events.next().context("too few events")?;
                pipe.cmd("XADD")
                    .arg(&to)
                    .arg("*")
                    .arg(&event.fields())
                    .ignore();
            }
            pipe.cmd("XACK").arg(&from).arg(GROUP);
            for entry in entries {
                pipe.arg(&entry.id);
            }
            pipe.exec_async(&mut redis).await?;
        }
        Ok(())
    })
    .await?;
    let length: usize = redis::cmd("XLEN").arg(&to).query_async(&mut redis).await?;
    ensure!(length == count, "{length} of {count} entries were copied");
    Ok(run)
}

/// The stage.
async fn stage(
    servers: &mut Servers,
    program: &std::path::Path,
    traffic: &Traffic,
) -> anyhow::Result<Run> {
    let names = StreamNames::new(1);
    let raw = names.raw(0);
    let normalizer = Measured::start(servers.command(program, "normalizer"))?;
    let mut redis = servers.redis().await?;
    let count = traffic.envelopes.len();
    let run = watched(servers, &[&normalizer], count as u64, async || {
        Servers::acknowledged(&mut redis, &raw, GROUP_NORMALIZER).await
    })
    .await?;
    normalizer.stop().await?;
    let lengths: (usize, usize) = redis::pipe()
        .cmd("XLEN")
        .arg(names.events(0))
        .cmd("XLEN")
        .arg(names.dlq(0))
        .query_async(&mut redis)
        .await?;
    ensure!(
        lengths.0 >= count && lengths.1 == 0,
        "{count} entries became {} events and {} dead letters",
        lengths.0,
        lengths.1
    );
    Ok(run)
}
