//! Redis is away for longer than memory holds: the rest waits on the disk, nothing is lost, and
//! the order of each room stays.

use std::time::Duration;

use anyhow::ensure;
use upstream::{Creator, Load, Record, Script, Show};

use crate::{
    daemon::PATIENCE,
    product::Product,
    stores::{Stores, blocking, until},
    watch::{all_arrived, check, free_address, metric, raw, sent},
};

/// What the daemon keeps in memory at most.
const MEMORY: u64 = 32 * 1024 * 1024;
const ROOMS: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn more_than_memory_holds_waits_on_the_disk_and_arrives_in_order() {
    let load = Load {
        size: 30_000,
        ..Load::new(5, 60.0)
    };
    let names: Vec<_> = (0..ROOMS).map(|index| format!("loud-{index}")).collect();
    let mut script = names.iter().fold(Script::new(), |script, name| {
        script.creator(Creator::new(name, Show::Generated(load.clone())))
    });
    script.record = Record::Ids;
    let health = free_address();
    let settings = [("HEALTH_ADDR", health.as_str())];
    let stores = Stores::redis_only().await;
    let mut product = Product::prepare(script, stores, &[], &settings).await;
    product.start_stage("ingest");
    for name in &names {
        sent(&product.upstream, name, 10).await;
    }
    let redis = product.stores.redis.take().unwrap();
    let stopped = blocking(move || redis.stop(true)).await;
    let more = async |name: &str| metric(&health, name, &[]).await;
    let waiting = until(PATIENCE, async || {
        let waiting = more("ttlc_spool_backlog_bytes").await?;
        ensure!(waiting > MEMORY + MEMORY / 5, "{waiting} bytes wait");
        Ok(waiting)
    })
    .await;
    let disk: u64 = walk(product.spool.path());
    assert!(disk >= waiting, "{disk} bytes on the disk for {waiting}");
    product.stores.redis = Some(blocking(move || stopped.start_again()).await);

    // It goes on while the old is drained, and what is live comes after it.
    for name in &names {
        let begun = product
            .upstream
            .sent()
            .iter()
            .filter(|sent| &sent.creator == name)
            .count();
        sent(&product.upstream, name, begun + 20).await;
    }
    for name in &names {
        assert!(product.upstream.end_broadcast(name));
        until(PATIENCE, async || {
            ensure!(product.upstream.room_id(name).is_none(), "{name} is live");
            Ok(())
        })
        .await;
    }
    for name in &names {
        all_arrived(&product.stores, &product.upstream, name).await;
    }
    let entries = raw(&product.stores).await.unwrap();
    check(&entries);
    let gaps = entries
        .iter()
        .filter(|entry| entry.control() == Some("GAP"));
    assert_eq!(gaps.count(), 0);
    assert_eq!(
        product.upstream.counts().connections,
        ROOMS as u64,
        "no room noticed"
    );
    until(PATIENCE, async || {
        let waiting = more("ttlc_spool_backlog_bytes").await?;
        ensure!(waiting == 0, "{waiting} bytes wait");
        Ok(())
    })
    .await;
    product.stop_stage("ingest", Duration::from_secs(4));
    product.stop();
}

/// Bytes of all files in a folder.
fn walk(folder: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(folder).expect("a folder");
    entries
        .map(|entry| {
            let entry = entry.expect("an entry");
            let data = entry.metadata().expect("metadata");
            if data.is_dir() {
                walk(&entry.path())
            } else {
                data.len()
            }
        })
        .sum()
}
