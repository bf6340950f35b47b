//! What an operator's monitoring sees: every documented metric is one that a daemon exports, and
//! the other way round, and the signs of life follow Redis and Postgres.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, ensure};
use upstream::Script;

use crate::daemon::PATIENCE;
use crate::product::{Product, creator};
use crate::stores::{Stores, blocking, until};
use crate::watch::free_address;

/// A metric of `daemon/src/metrics.rs`.
struct Documented {
    kind: &'static str,
    /// That its comment names, or none.
    labels: bool,
}

fn source(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    std::fs::read_to_string(root.join(path)).expect(path)
}

/// By name, as the comments above the constants say.
fn documented() -> BTreeMap<String, Documented> {
    let source = source("daemon/src/metrics.rs");
    let mut found = BTreeMap::new();
    let mut comment = String::new();
    for line in source.lines() {
        if let Some(more) = line.strip_prefix("/// ") {
            comment.push_str(more);
            comment.push(' ');
        } else {
            let name = line.split_once(": &str = \"").map(|(_, rest)| rest);
            if let Some(name) = name.and_then(|rest| rest.strip_suffix("\";")) {
                let kinds = ["Counter", "Gauge", "Histogram"];
                let kind = kinds.into_iter().find(|kind| comment.starts_with(kind));
                let kind = kind.unwrap_or_else(|| panic!("{name} is of no kind: {comment}"));
                let labels = comment.contains('`');
                found.insert(name.to_owned(), Documented { kind, labels });
            }
            comment.clear();
        }
    }
    assert!(found.len() > 50, "{} metrics", found.len());
    found
}

#[test]
fn alarms_are_about_metrics_that_exist() {
    let documented = documented();
    let page = source("docs/operations.md");
    let named: BTreeSet<&str> = page
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("ttlc_"))
        .collect();
    assert!(named.len() > 25, "{named:?}");
    for name in named {
        assert!(documented.contains_key(name), "nobody exports {name}");
    }
}

async fn ask(address: &str, path: &str) -> anyhow::Result<(u16, String)> {
    let answer = reqwest::get(format!("http://{address}/{path}")).await?;
    Ok((answer.status().as_u16(), answer.text().await?))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_daemon_exports_what_is_documented_and_says_when_a_server_is_away() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let documented = documented();
    let health = free_address();
    let script = Script::new().creator(creator("room-d"));
    let settings = [("HEALTH_ADDR", health.as_str())];
    let mut product = Product::start_with(script, Stores::own().await, &[], &settings).await;
    product.played("room-d").await;
    product
        .settled(|rows| {
            ensure!(!rows.is_empty(), "nothing is stored");
            Ok(())
        })
        .await;

    // The list: rates, lag, pending, dead letters, gaps, reconnects, spool, round trips, build.
    let wanted = [
        "ttlc_build_info",
        "ttlc_resident_memory_bytes",
        "ttlc_ingest_messages_total",
        "ttlc_ingest_connects_total",
        "ttlc_ingest_published_total",
        "ttlc_normalizer_events_total",
        "ttlc_storage_events_total",
        "ttlc_group_lag",
        "ttlc_group_pending",
        "ttlc_stream_length",
        "ttlc_storage_default_partition_total",
        "ttlc_spool_bytes",
        "ttlc_redis_round_trip_seconds",
        "ttlc_postgres_round_trip_seconds",
    ];
    let text = until(PATIENCE, async || {
        let (_, text) = ask(&health, "metrics").await?;
        for name in wanted {
            ensure!(text.contains(&format!("# TYPE {name} ")), "no {name} yet");
        }
        Ok(text)
    })
    .await;
    let mut seen = BTreeSet::new();
    for line in text.lines() {
        if let Some((name, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|it| it.split_once(' '))
        {
            let known = documented.get(name);
            let known = known.unwrap_or_else(|| panic!("{name} is not in metrics.rs"));
            assert_eq!(kind, known.kind.to_lowercase(), "{name}");
            assert!(
                text.contains(&format!("# HELP {name} ")),
                "{name} is not described"
            );
            seen.insert(name);
        } else if let Some((series, _)) = line.rsplit_once(' ').filter(|_| !line.starts_with('#')) {
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let name = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| {
                    name.strip_suffix(end)
                        .filter(|it| documented.contains_key(*it))
                })
                .unwrap_or(name);
            let known = documented.get(name).unwrap_or_else(|| panic!("{line}"));
            let labels = labels.trim_end_matches('}');
            let other = labels
                .split(',')
                .any(|label| !label.is_empty() && !label.starts_with("le="));
            assert!(
                known.labels || !other,
                "the labels of {name} are not documented: {line}"
            );
            // Categories are short words: no room, no creator, no viewer.
            for digits in labels.split(|c: char| !c.is_ascii_digit()) {
                assert!(digits.len() < 10, "{line}");
            }
            assert!(!labels.contains("room-d"), "{line}");
        }
    }
    assert!(seen.len() > 35, "{seen:?}");

    let ready = async |status: u16, word: &str| {
        until(PATIENCE, async || {
            let (found, text) = ask(&health, "readyz").await?;
            ensure!(found == status && text.contains(word), "{found} {text}");
            Ok(())
        })
        .await;
    };
    ready(200, "ready").await;
    let postgres = product.stores.postgres.take().unwrap();
    let stopped = blocking(move || postgres.stop(false)).await;
    ready(503, "postgres: ").await;
    let (status, _) = ask(&health, "livez").await.unwrap();
    assert_eq!(status, 200, "it lives, and waits");
    product.stores.postgres = Some(blocking(move || stopped.start_again()).await);
    ready(200, "ready").await;
    let redis = product.stores.redis.take().unwrap();
    let stopped = blocking(move || redis.stop(false)).await;
    ready(503, "redis: ").await;
    product.stores.redis = Some(blocking(move || stopped.start_again()).await);
    ready(200, "ready").await;
    let (_, text) = ask(&health, "metrics").await.unwrap();
    for server in ["redis", "postgres"] {
        let series = format!("ttlc_server_failures_total{{server=\"{server}\"}}");
        text.lines()
            .find(|line| line.starts_with(&series))
            .with_context(|| format!("no {series} in {text}"))
            .unwrap();
    }
    product.stop();
}
