//! Redis and Postgres go away in the middle of a stream and come back: everything arrives.

use std::time::Duration;

use anyhow::ensure;
use upstream::{Pace, Script};

use crate::{
    daemon::PATIENCE,
    product::{Product, creator},
    rows::{Row, check_all, messages},
    stores::{Stores, blocking, until},
};

/// Long enough that clients notice and time out at least once.
const AWAY: Duration = Duration::from_secs(3);

async fn stored(product: &Product, count: usize) {
    until(PATIENCE, async || {
        let stored = messages(&Row::all(&product.stores).await?);
        ensure!(stored >= count, "{stored} of {count} messages are stored");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_arrives_though_redis_and_postgres_go_away_for_a_while() {
    let mut script = Script::new()
        .creator(creator("room-a"))
        .creator(creator("room-b"));
    script.pace = Pace::Every(Duration::from_millis(150));
    let mut product = Product::start_with(script, Stores::own().await, &[], &[]).await;
    stored(&product, 30).await;

    let postgres = product.stores.postgres.take().unwrap();
    let stopped = blocking(move || postgres.stop(false)).await;
    tokio::time::sleep(AWAY).await;
    product.stores.postgres = Some(blocking(move || stopped.start_again()).await);
    stored(&product, 100).await;

    let redis = product.stores.redis.take().unwrap();
    let stopped = blocking(move || redis.stop(false)).await;
    tokio::time::sleep(AWAY).await;
    product.stores.redis = Some(blocking(move || stopped.start_again()).await);
    stored(&product, 200).await;

    // Gently, too, and both at once.
    let (redis, postgres) = (
        product.stores.redis.take().unwrap(),
        product.stores.postgres.take().unwrap(),
    );
    let (redis, postgres) =
        blocking(move || Ok((redis.restart(true)?, postgres.restart(true)?))).await;
    (product.stores.redis, product.stores.postgres) = (Some(redis), Some(postgres));

    product.played("room-a").await;
    product.played("room-b").await;
    let rows = product
        .settled(|rows| {
            ensure!(messages(rows) >= 451, "{} of 451", messages(rows));
            Ok(())
        })
        .await;
    check_all(&rows);
    assert_eq!(messages(&rows), 451);
    assert!(
        product.stores.entries("ttlc:dlq").await.unwrap().is_empty(),
        "outages are no bad input"
    );
    assert_eq!(
        product.upstream.counts().connections,
        2,
        "the rooms never noticed"
    );
    product.stop();
}
