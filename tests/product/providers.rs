//! One provider takes over from the other, and gives the room back.

use std::time::Duration;

use anyhow::ensure;
use serde_json::Value;
use upstream::{Fault, Pace, Refusal, Script};

use crate::{
    daemon::PATIENCE,
    leases::check,
    product::{Product, creator},
    stores::{Stores, until},
};

/// What the lifecycle of a creator's room says, in order: kind, provider, reason.
async fn life(product: &Product, name: &str) -> anyhow::Result<Vec<(String, String, String)>> {
    let entries = product.stores.entries("ttlc:raw").await?;
    Ok(entries
        .iter()
        .filter_map(|entry| {
            let kind = entry["type"].strip_prefix("ControlEvent.")?;
            let data: Value = serde_json::from_str(&entry["data"]).expect("JSON");
            let text = |key: &str| data[key].as_str().unwrap_or_default().to_owned();
            (data["uniqueId"] == name).then(|| (kind.to_owned(), text("provider"), text("reason")))
        })
        .collect())
}

fn refused(times: u32, status: u16) -> Fault {
    Fault::Sign {
        skip: 0,
        times,
        refusal: Refusal::Status {
            status,
            retry_after: None,
        },
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn euler_takes_over_from_a_failing_sign_server_and_direct_comes_back() {
    let mut script = Script::new()
        .creator(creator("room-a").fault(refused(3, 500)))
        .creator(creator("room-b").fault(refused(1_000, 403)));
    script.pace = Pace::Every(Duration::from_millis(400));
    let settings = [
        ("EULER_API_KEY", "key-of-the-test"),
        ("INGEST_HANDBACK_SECONDS", "8"),
    ];
    let mut product = Product::prepare(script, Stores::start().await, &[], &settings).await;
    product.start_stage("ingest");

    // Failures: three of them, then the other one, then back without a pause in between.
    let wanted = [
        ("ERROR", "direct", "sign_failed"),
        ("ERROR", "direct", "sign_failed"),
        ("ERROR", "direct", "sign_failed"),
        ("CONNECTED", "euler", "start"),
        ("DISCONNECTED", "euler", "hand_back"),
        ("CONNECTED", "direct", "reconnect"),
    ];
    until(PATIENCE, async || {
        let life = life(&product, "room-a").await?;
        let seen: Vec<_> = life
            .iter()
            .map(|(kind, provider, reason)| (kind.as_str(), provider.as_str(), reason.as_str()))
            .collect();
        ensure!(
            seen == wanted,
            "{seen:?}; the log:\n{}",
            product.log.lines().join("\n")
        );
        Ok(())
    })
    .await;

    // A refusal for good: at once, and it is not asked again.
    until(PATIENCE, async || {
        let status = product.stores.json("ttlc:status:room-b").await?;
        let status = status.unwrap_or_default();
        ensure!(
            status["state"] == "live" && status["provider"] == "euler",
            "{status}"
        );
        ensure!(status["fallback"] == true, "{status}");
        Ok(())
    })
    .await;
    assert_eq!(product.upstream.sign_times("room-b").len(), 1);
    tokio::time::sleep(Duration::from_secs(2)).await;
    check(&product.stores.entries("ttlc:raw").await.unwrap());
    product.stop();
}
