//! What a room sends again is dropped and counted, over reconnects and over restarts; what it
//! sent before we came is kept and marked.

use std::collections::{HashMap, HashSet};

use anyhow::ensure;
use serde_json::Value;
use upstream::{Act, History, Script};
use xtask::{
    processes::TemporaryFolder,
    servers::{Durability, PrivateRedis},
};

use crate::{
    daemon::PATIENCE,
    faults::{at, chatty},
    product::Product,
    stores::{Stores, blocking, until},
    watch::{check, free_address, lived, metric, raw, sent},
};

const HISTORY: usize = 25;

#[tokio::test(flavor = "multi_thread")]
async fn history_is_new_once_and_never_again() {
    let creator = chatty("ann", 10.0).history(History::Messages(HISTORY));
    let script = Script::new().creator(creator);
    let health = free_address();
    let settings = [("HEALTH_ADDR", health.as_str())];
    let stores = Stores::redis_only().await;
    let mut product = Product::prepare(script, stores, &[], &settings).await;

    // Somebody else watches the room before us: a daemon that knows nothing of ours.
    let theirs = blocking(|| PrivateRedis::temporary(Durability::Fast)).await;
    let spool = TemporaryFolder::new("theirs").unwrap();
    let (url, folder) = (theirs.url(), spool.path().display().to_string());
    let address = free_address();
    let changes = [
        ("REDIS_URL", url.as_str()),
        ("SPOOL_DIR", &folder),
        ("HEALTH_ADDR", &address),
    ];
    let (audience, _) = product.another("ingest", &changes);
    sent(&product.upstream, "ann", HISTORY + 20).await;
    let before: HashSet<_> = product
        .upstream
        .sent()
        .iter()
        .map(|sent| sent.msg_id)
        .collect();

    // New to us: kept and marked, in the envelope and in the event.
    product.start_stage("ingest");
    until(PATIENCE, async || {
        let live = raw(&product.stores).await?;
        let live = live
            .iter()
            .filter(|entry| entry.msg_id.is_some() && !entry.backlog);
        ensure!(live.count() >= 20);
        Ok(())
    })
    .await;
    audience.kill();
    let first = raw(&product.stores).await.unwrap();
    let marked: Vec<_> = first.iter().filter(|entry| entry.backlog).collect();
    assert!(
        marked.len() >= HISTORY,
        "{} of {HISTORY} are marked",
        marked.len()
    );
    // One who came before us and is not marked would fire rules.
    for entry in &first {
        let old = entry.msg_id.is_some_and(|id| before.contains(&id));
        assert!(entry.backlog || !old, "{entry:?}");
    }

    // Over a reconnect.
    product.upstream.fault("ann", at(0, Act::Drop));
    let story = [
        "CONNECTED start",
        "DISCONNECTED lost",
        "CONNECTED reconnect",
    ];
    lived(&product, "ann", &story).await;
    let repeats = async || {
        metric(
            &health,
            "ttlc_ingest_repeats_total",
            &["provider=\"direct\""],
        )
        .await
    };
    until(PATIENCE, async || {
        let count = repeats().await?;
        ensure!(count >= HISTORY as u64, "{count} repeats");
        Ok(())
    })
    .await;
    let second = raw(&product.stores).await.unwrap();
    check(&second);
    // Of what was lost with the connection a little is new; it is marked as what it is.
    let news = second.iter().filter(|entry| entry.backlog).count() - marked.len();
    assert!(news <= 8, "{news} more are marked");

    // Over a restart, and over a crash.
    for gentle in [true, false] {
        if gentle {
            product.stop_stage("ingest", std::time::Duration::from_secs(4));
        } else {
            product.kill_stage("ingest");
        }
        let entries = raw(&product.stores).await.unwrap().len();
        product.start_stage("ingest");
        until(PATIENCE, async || {
            let count = repeats().await?;
            ensure!(count >= HISTORY as u64, "{count} repeats");
            let now = raw(&product.stores).await?.len();
            ensure!(now > entries + 20, "{now} entries");
            Ok(())
        })
        .await;
        check(&raw(&product.stores).await.unwrap());
    }
    let last = raw(&product.stores).await.unwrap();
    let news = last.iter().filter(|entry| entry.backlog).count() - marked.len();
    assert!(news <= 3 * 8, "{news} more are marked");

    // The mark is in the events.
    assert!(product.upstream.end_broadcast("ann"));
    lived(&product, "ann", &story).await;
    until(PATIENCE, async || {
        let end = raw(&product.stores).await?;
        ensure!(
            end.last()
                .is_some_and(|entry| entry.control() == Some("DISCONNECTED"))
        );
        Ok(())
    })
    .await;
    let all = raw(&product.stores).await.unwrap();
    let elsewhere = free_address();
    let (normalizer, _) = product.another("normalizer", &[("HEALTH_ADDR", &elsewhere)]);
    let events = until(PATIENCE, async || {
        let events = product.stores.entries("ttlc:events").await?;
        let events: Vec<Value> = events
            .iter()
            .map(|one| serde_json::from_str(&one["event"]).unwrap())
            .collect();
        let events: HashMap<u64, Value> = events
            .into_iter()
            .filter(|event| event["payload"]["rawType"] != "GiftStreakTimeout")
            .map(|event| (event["seqNo"].as_u64().unwrap(), event))
            .collect();
        ensure!(
            events.len() >= all.len(),
            "{} of {} events",
            events.len(),
            all.len()
        );
        Ok(events)
    })
    .await;
    for entry in &all {
        let mark = events[&entry.seq_no]["backlog"].as_bool();
        assert_eq!(mark, entry.backlog.then_some(true), "{entry:?}");
    }
    assert!(normalizer.stop().unwrap().success());
    product.stop();
}
