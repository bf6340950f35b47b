//! `kill -9` in the middle of an outage of Redis: what had been received is stored all the same.

use std::time::{Duration, SystemTime};

use anyhow::ensure;
use upstream::{Pace, Script};

use crate::{
    daemon::PATIENCE,
    product::{Product, creator},
    rows::{Row, check_all, messages},
    stores::{Stores, blocking, until},
};

/// Of what was received longer ago than this nothing may be lost; the promise is 100 ms, and the
/// machine may be busy.
const SAFE: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_redis_is_away_it_publishes_what_it_had_received() {
    let mut script = Script::new()
        .creator(creator("room-a"))
        .creator(creator("room-c"));
    script.pace = Pace::Every(Duration::from_millis(150));
    // What is lost does not come again: only the spool has it.
    script.history = 0;
    let mut product = Product::start_with(script, Stores::own().await, &[], &[]).await;
    until(PATIENCE, async || {
        let stored = messages(&Row::all(&product.stores).await?);
        ensure!(stored >= 40, "{stored} of 40 messages are stored");
        Ok(())
    })
    .await;
    let redis = product.stores.redis.take().unwrap();
    let stopped = blocking(move || redis.stop(false)).await;
    let away = product.upstream.sent().len();
    until(PATIENCE, async || {
        let sent = product.upstream.sent().len() - away;
        ensure!(sent >= 60, "{sent} of 60 messages while redis is away");
        Ok(())
    })
    .await;
    tokio::time::sleep(SAFE).await;
    let killed = SystemTime::now();
    product.kill_daemon();
    product.stores.redis = Some(blocking(move || stopped.start_again()).await);
    product.start_daemon();

    product.played("room-a").await;
    product.played("room-c").await;
    let rows = product
        .settled(|rows| {
            ensure!(messages(rows) >= 200, "{} messages", messages(rows));
            Ok(())
        })
        .await;
    check_all(&rows);
    let stored: std::collections::HashSet<_> = rows
        .iter()
        .filter(|row| row.is_message())
        .map(|row| row.raw.as_slice())
        .collect();
    let sent = product.upstream.sent();
    let safe: Vec<_> = sent.iter().filter(|sent| sent.at + SAFE < killed).collect();
    assert!(safe.len() >= away + 50, "{} of {}", safe.len(), sent.len());
    let lost: Vec<_> = safe
        .iter()
        .filter(|sent| !stored.contains(sent.payload.as_ref()))
        .collect();
    assert!(lost.is_empty(), "{} were lost: {lost:?}", lost.len());
    assert!(product.stores.entries("ttlc:dlq").await.unwrap().is_empty());
    product.stop();
}
