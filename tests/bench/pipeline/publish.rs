//! Publishing raw entries: the script of ingest beside a raw pipeline of XADD, same entries, same
//! batches, one connection each.

use anyhow::ensure;
use daemon::bus::{Bus, Claim, Owner, rooms::by_room};
use shared::streams::StreamNames;

use super::{
    Settings,
    processes::{COST, median, median_ratio, timed},
    servers::{Servers, Sync},
    traffic::{Traffic, add_raw},
};
use crate::table::Table;

/// As many as ingest publishes at a time.
const BATCH: usize = 500;

pub(super) async fn measure(settings: &Settings, table: &mut Table) -> anyhow::Result<()> {
    let traffic = Traffic::new(settings.messages)?;
    let count = traffic.envelopes.len();
    let mut servers = Servers::start(settings).await?;
    for sync in Sync::ALL {
        println!("… publishing raw entries, appendfsync {}", sync.name());
        servers.sync(sync).await?;
        let (mut bare, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..settings.turns {
            servers.clear().await?;
            let mut redis = servers.redis().await?;
            bare.push(
                timed(&mut servers, count, async {
                    for batch in traffic.envelopes.chunks(BATCH) {
                        add_raw(&mut redis, batch).await?;
                    }
                    Ok(())
                })
                .await?,
            );
            servers.clear().await?;
            let bus = Bus::new(&servers.redis_url.clone().into(), StreamNames::new(1))?;
            let owner = Owner::new();
            let mut tokens = std::collections::HashMap::new();
            for envelope in &traffic.envelopes {
                let room = envelope.stream_id.as_str();
                if !tokens.contains_key(room) {
                    match bus.claim_room(room, owner).await? {
                        Claim::Held(memory) => tokens.insert(room, memory.token),
                        Claim::Taken(by) => anyhow::bail!("{room} is taken by {by}"),
                    };
                }
            }
            ours.push(
                timed(&mut servers, count, async {
                    for batch in traffic.envelopes.chunks(BATCH) {
                        let rooms = by_room(batch, |room| tokens.get(room).copied().unwrap_or(0));
                        let published = bus.publish(owner, &rooms).await?;
                        ensure!(published.refused.is_empty(), "a room is not ours");
                    }
                    Ok(())
                })
                .await?,
            );
            let length: usize = redis::cmd("XLEN")
                .arg(StreamNames::new(1).raw(0))
                .query_async(&mut redis)
                .await?;
            ensure!(length == count, "{length} of {count} entries are there");
        }
        let name = format!("publish, appendfsync {}", sync.name());
        table.add(
            format!("{name}: ours to a raw XADD pipeline"),
            format!("{:.2}", median_ratio(&ours, &bare)?),
        );
        for (what, runs) in [("raw XADD pipeline", bare), ("the script of ingest", ours)] {
            let run = median(runs)?;
            table.add(format!("  {what}"), format!("{:.0}/s", run.rate()));
            table.add(format!("    {COST}"), run.cost());
        }
    }
    Ok(())
}
