//! Who is followed changes while the daemon runs, and is not forgotten by a restart.

use std::time::Duration;

use anyhow::{Context, ensure};
use redis::AsyncCommands;
use serde_json::Value;
use upstream::{Pace, Script};

use crate::{
    daemon::PATIENCE,
    product::{Product, creator},
    stores::{Entry, Stores, until},
};

async fn command(product: &Product, json: &str) {
    let mut redis = product.stores.redis().await.unwrap();
    let _: String = redis
        .xadd("ttlc:control", "*", &[("command", json)])
        .await
        .unwrap();
}

/// Waits for a creator's state; "" for none.
async fn state(product: &Product, name: &str, wanted: &str) {
    until(PATIENCE, async || {
        let status = product.stores.json(&format!("ttlc:status:{name}")).await?;
        let status = status.unwrap_or_default();
        let state = status["state"].as_str().unwrap_or_default();
        ensure!(
            state == wanted,
            "{name}: {status}; the log:\n{}",
            product.log.lines().join("\n")
        );
        Ok(())
    })
    .await;
}

/// Lifecycle entries of a creator.
async fn life(product: &Product, name: &str, kind: &str) -> anyhow::Result<Vec<Value>> {
    let entries: Vec<Entry> = product.stores.entries("ttlc:raw").await?;
    let kind = format!("ControlEvent.{kind}");
    Ok(entries
        .iter()
        .filter(|entry| entry["type"] == kind)
        .map(|entry| serde_json::from_str(&entry["data"]).expect("JSON"))
        .filter(|data: &Value| data["uniqueId"] == name)
        .collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn creators_are_tracked_and_untracked_at_run_time_and_it_outlives_a_crash() {
    let mut script = Script::new()
        .creator(creator("room-a"))
        .creator(creator("room-b"))
        .creator(creator("room-c"));
    script.pace = Pace::Every(Duration::from_millis(300));
    script.laps = None;
    let settings = [("TIKTOK_UNIQUE_ID", "room-c")];
    let stores = Stores::start().await;
    let mut product = Product::prepare(script, stores, &[], &settings).await;
    product.start_stage("ingest");
    state(&product, "room-c", "live").await;

    // Any spelling, the other key, and what is no command in between.
    command(&product, r#"{"command":"track","uniqueId":"@room-a"}"#).await;
    command(&product, "dance").await;
    command(&product, r#"{"command":"track"}"#).await;
    command(
        &product,
        r#"{"type":"track","uniqueId":"https://www.tiktok.com/@Room-B/live"}"#,
    )
    .await;
    state(&product, "room-a", "live").await;
    state(&product, "Room-B", "live").await;
    let letters = product.stores.entries("ttlc:dlq").await.unwrap();
    let reasons: Vec<_> = letters
        .iter()
        .map(|letter| (letter["stage"].as_str(), letter["reason"].as_str()))
        .collect();
    assert_eq!(reasons, [("ingest", "COMMAND_ERROR"); 2], "{letters:?}");
    assert!(letters[0]["payload"].contains("dance"), "{letters:?}");
    assert!(letters[1]["error"].contains("uniqueId"), "{letters:?}");
    until(PATIENCE, async || {
        let groups = product.stores.groups("ttlc:control").await?;
        let group = groups.first().context("no group")?;
        ensure!(group.name == "ingest" && group.pending == 0 && group.lag == Some(0));
        Ok(())
    })
    .await;

    product.kill_stage("ingest");
    product.start_stage("ingest");
    until(PATIENCE, async || {
        let again = life(&product, "room-a", "CONNECTED").await?.len();
        ensure!(again >= 2, "{again} connections of room-a");
        Ok(())
    })
    .await;

    for (name, least) in [("Room-B", 2), ("room-c", 2)] {
        until(PATIENCE, async || {
            let again = life(&product, name, "CONNECTED").await?.len();
            let again = again
                + life(&product, &name.to_lowercase(), "CONNECTED")
                    .await?
                    .len();
            ensure!(again >= least, "{again} connections of {name}");
            Ok(())
        })
        .await;
    }

    // One that the setting names, too.
    let connections = product.upstream.counts().connections;
    command(&product, r#"{"command":"untrack","uniqueId":"ROOM-A"}"#).await;
    command(&product, r#"{"command":"untrack","uniqueId":"room-c"}"#).await;
    for name in ["room-a", "room-c"] {
        let goodbye = until(PATIENCE, async || {
            let ends = life(&product, name, "DISCONNECTED").await?;
            let last = ends.last().context("not disconnected")?;
            ensure!(last["reason"] == "untracked", "{last}");
            Ok(last.clone())
        })
        .await;
        assert_eq!(goodbye["provider"], "direct");
        state(&product, name, "").await;
    }
    let leases: Vec<String> = product
        .stores
        .redis()
        .await
        .unwrap()
        .keys("ttlc:lease:7*")
        .await
        .unwrap();
    assert_eq!(leases.len(), 1, "the others are free: {leases:?}");

    product.kill_stage("ingest");
    product.start_stage("ingest");
    until(PATIENCE, async || {
        let again = life(&product, "Room-B", "CONNECTED").await?.len();
        let again = again + life(&product, "room-b", "CONNECTED").await?.len();
        ensure!(again >= 3, "{again} connections of room-b");
        Ok(())
    })
    .await;
    state(&product, "room-a", "").await;
    let now = product.upstream.counts().connections;
    assert_eq!(now, connections + 1, "nobody else was connected to");
    product.stop();
}
