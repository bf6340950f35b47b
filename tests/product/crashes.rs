//! `kill -9` in the middle of a stream: what was published is stored once, whatever was going on.

use std::time::Duration;

use anyhow::ensure;
use upstream::{Pace, Script};

use crate::{
    daemon::PATIENCE,
    product::{Product, creator},
    rows::{Row, check_all, messages},
    stores::{Stores, until},
};

#[tokio::test(flavor = "multi_thread")]
async fn killed_again_and_again_it_stores_every_published_message_once() {
    let mut script = Script::new()
        .creator(creator("room-a"))
        .creator(creator("room-c"));
    // Slow enough for three kills, each with the seconds that the normalizer's lease needs to lapse.
    script.pace = Pace::Every(Duration::from_millis(120));
    // What a killed client has not read is sent again when it comes back.
    script.history = 60;
    let mut product = Product::start(script).await;
    for kill_at in [40, 120, 200] {
        until(PATIENCE, async || {
            let stored = messages(&Row::all(&product.stores).await?);
            ensure!(
                stored >= kill_at,
                "{stored} of {kill_at} before the next kill"
            );
            Ok(())
        })
        .await;
        product.kill_daemon();
        product.start_daemon();
    }
    product.played("room-a").await;
    product.played("room-c").await;
    let rows = product
        .settled(|rows| {
            // Little may be lost on the wire: far less than the history that comes again.
            ensure!(messages(rows) >= 440 - 20, "{} messages", messages(rows));
            Ok(())
        })
        .await;
    // Contiguous seqNo in each session: nothing that got a number is missing. No message twice.
    check_all(&rows);
    let sent = product.upstream.sent();
    let stored: std::collections::HashSet<_> = rows
        .iter()
        .filter(|row| row.is_message())
        .map(|row| row.raw.as_slice())
        .collect();
    let missing: Vec<_> = sent
        .iter()
        .filter(|sent| !stored.contains(sent.payload.as_ref()))
        .collect();
    assert!(
        missing.is_empty(),
        "{} messages never arrived: {missing:?}",
        missing.len()
    );
    assert!(
        product.upstream.counts().history > 0,
        "{:?}",
        product.upstream.counts()
    );
    assert!(product.stores.entries("ttlc:dlq").await.unwrap().is_empty());
    let connections = product.upstream.counts().connections;
    assert!(
        connections >= 2 + 3,
        "every kill hit a room in mid-stream: {connections} connections"
    );
    product.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_stage_in_a_process_of_its_own_may_die_at_any_time() {
    let names = ["room-a", "room-b", "room-c", "room-d"];
    let mut script = names
        .iter()
        .fold(Script::new(), |script, name| script.creator(creator(name)));
    script.pace = Pace::Every(Duration::from_millis(60));
    // With two shards the streams have other names, and a room's order is kept in its own.
    let settings = [("STREAM_SHARDS", "2")];
    let mut product = Product::prepare(script, Stores::start().await, &[], &settings).await;
    for stage in ["ingest", "normalizer", "storage-writer"] {
        product.start_stage(stage);
    }
    for (kill_at, stage) in [
        (50, "normalizer"),
        (100, "storage-writer"),
        (150, "normalizer"),
        (200, "storage-writer"),
        (250, "normalizer"),
    ] {
        until(PATIENCE, async || {
            let stored = messages(&Row::all(&product.stores).await?);
            ensure!(
                stored >= kill_at,
                "{stored} of {kill_at} before {stage} is killed"
            );
            Ok(())
        })
        .await;
        product.kill_stage(stage);
        product.start_stage(stage);
    }
    for name in names {
        product.played(name).await;
    }
    let rows = product
        .settled(|rows| {
            ensure!(messages(rows) >= 699, "{} of 699", messages(rows));
            Ok(())
        })
        .await;
    // Ingest lived on, so not one message may be missing.
    check_all(&rows);
    assert_eq!(messages(&rows), 699);
    assert_eq!(product.upstream.counts().connections, 4);
    for shard in ["ttlc:dlq:{0}", "ttlc:dlq:{1}"] {
        assert!(product.stores.entries(shard).await.unwrap().is_empty());
    }
    let used = ["ttlc:raw:{0}", "ttlc:raw:{1}"];
    for stream in used {
        let groups = product.stores.groups(stream).await.unwrap();
        assert!(!groups.is_empty(), "{stream} has a reader");
    }
    product.stop();
}
