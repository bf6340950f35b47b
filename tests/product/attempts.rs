//! When it is tried again: 1 s, 2 s, 4 s … after failures, anew only after messages, and not for
//! ever when that is not wanted.

use std::time::SystemTime;

use anyhow::ensure;
use upstream::{Act, Provider, Script};

use crate::{
    daemon::PATIENCE,
    faults::{at, chatty, unsigned},
    product::Product,
    stores::{Stores, until},
    watch::{command, free_address, life, lived, metric, said, shows},
};

/// Between two moments lies what the policy says; more where the machine is busy, but not as much
/// as the next step.
fn near(from: SystemTime, to: SystemTime, seconds: f64) {
    let waited = to.duration_since(from).unwrap_or_default().as_secs_f64();
    let most = (seconds * 1.2 + 2.0).max(seconds * 1.5);
    assert!(
        (seconds * 0.8..most).contains(&waited),
        "{waited} s for {seconds} s"
    );
}

async fn attempted(product: &Product, creator: &str, times: usize) -> SystemTime {
    until(PATIENCE, async || {
        let attempts = product.upstream.attempts(creator, Provider::Direct);
        ensure!(attempts.len() >= times, "{} of {times}", attempts.len());
        Ok(attempts[times - 1])
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_come_later_each_time_until_messages_come_or_it_is_enough() {
    let script = Script::new()
        .creator(chatty("unsigned", 8.0).fault(unsigned(100, 500)))
        .creator(chatty("refused", 8.0).fault(unsigned(1, 403)))
        .creator(chatty("quiet", 0.0));
    let health = free_address();
    let settings = [
        ("RECONNECT_MAX_ATTEMPTS", "4"),
        ("HEALTH_ADDR", health.as_str()),
    ];
    let stores = Stores::redis_only().await;
    let mut product = Product::prepare(script, stores, &[], &settings).await;
    product.start_stage("ingest");

    // Connections on which nothing comes are failures, too.
    let mut wait = 1.0;
    for attempt in 1..=3 {
        until(PATIENCE, async || {
            let life = life(&product.stores, "quiet").await?;
            let hellos = life
                .iter()
                .filter(|(what, ..)| what.starts_with("CONNECTED"));
            ensure!(hellos.count() == attempt, "{life:?}");
            Ok(())
        })
        .await;
        let dropped = SystemTime::now();
        product.upstream.fault("quiet", at(0, Act::Drop));
        near(
            dropped,
            attempted(&product, "quiet", attempt + 1).await,
            wait,
        );
        wait *= 2.0;
    }
    let quiet = lived(
        &product,
        "quiet",
        &[
            "CONNECTED start",
            "DISCONNECTED lost",
            "CONNECTED reconnect",
            "DISCONNECTED lost",
            "CONNECTED reconnect",
            "DISCONNECTED lost",
            "CONNECTED reconnect",
        ],
    );
    let story = quiet.await;
    let attempts: Vec<_> = story
        .iter()
        .map(|(_, says, _)| says["attempt"].as_u64().unwrap())
        .collect();
    assert_eq!(attempts, [1, 1, 2, 2, 3, 3, 4], "{story:?}");
    // One message, and the count begins anew: four failures would have been the end.
    product
        .upstream
        .fault("quiet", at(0, Act::Control { action: 9 }));
    until(PATIENCE, async || {
        let came = metric(&health, "ttlc_ingest_messages_total", &["direct"]).await?;
        ensure!(came >= 1, "{came} messages");
        Ok(())
    })
    .await;
    let dropped = SystemTime::now();
    product.upstream.fault("quiet", at(0, Act::Drop));
    near(dropped, attempted(&product, "quiet", 5).await, 1.0);

    // Enough is enough.
    let status = shows(&product, "unsigned", "error", "sign_failed").await;
    assert_eq!(
        (&status["attempt"], &status["retryAt"]),
        (&4.into(), &serde_json::Value::Null)
    );
    let signs = product.upstream.sign_times("unsigned");
    for (pair, seconds) in signs.windows(2).zip([1.0, 2.0, 4.0]) {
        near(pair[0], pair[1], seconds);
    }
    let last = "giving up until restarted, or untracked and tracked again";
    for name in ["unsigned", "refused"] {
        let records = said(&product.log, last, name);
        assert_eq!(records.len(), 1, "{name}: {records:?}");
        assert_eq!(records[0]["level"], "ERROR");
    }
    // Where another configuration is needed there is one attempt, and another once it is wanted.
    let status = shows(&product, "refused", "error", "sign_refused").await;
    assert_eq!(
        (&status["attempt"], &status["retryAt"]),
        (&1.into(), &serde_json::Value::Null)
    );
    assert_eq!(product.upstream.sign_times("refused").len(), 1);
    command(&product.stores, "untrack", "refused").await;
    shows_nothing(&product, "refused").await;
    command(&product.stores, "track", "refused").await;
    shows(&product, "refused", "live", "start").await;
    assert_eq!(product.upstream.sign_times("refused").len(), 2);
    assert_eq!(product.upstream.sign_times("unsigned").len(), 4, "given up");
    let failed = "ttlc_ingest_attempts_failed_total";
    assert_eq!(
        metric(&health, failed, &["reason=\"sign_failed\""])
            .await
            .unwrap(),
        4
    );
    product.stop();
}

async fn shows_nothing(product: &Product, creator: &str) {
    until(PATIENCE, async || {
        let status = crate::watch::status(&product.stores, creator).await?;
        ensure!(status.is_null(), "{status}");
        Ok(())
    })
    .await;
}
