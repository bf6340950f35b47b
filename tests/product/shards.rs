//! `STREAM_SHARDS=4` through the whole product: names, rooms, commands, dead letters, two storage
//! writers of which one dies.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use anyhow::ensure;
use redis::AsyncCommands;
use shared::streams::StreamNames;
use upstream::{Capture, Creator, Pace, Script};

use crate::{
    daemon::PATIENCE,
    product::{Product, fixtures},
    rows::{Row, check_all, messages},
    stores::{Stores, until},
};

const SHARDS: u32 = 4;
const ROOMS: usize = 10;

#[tokio::test(flavor = "multi_thread")]
async fn four_shards_carry_every_message_once() {
    let capture = fixtures().join("captures/room-d.ndjson");
    let capture = || Capture::read(&capture).expect("a capture");
    let name = |number: usize| format!("shard-{number}");
    let mut script = (0..ROOMS).fold(Script::new(), |script, number| {
        script.creator(Creator::plays(&name(number), capture()))
    });
    script.pace = Pace::Every(Duration::from_millis(40));
    let settings = [("STREAM_SHARDS", "4"), ("TIKTOK_UNIQUE_ID", "shard-0")];
    let mut product = Product::prepare(script, Stores::start().await, &[], &settings).await;
    product.migrate();
    for stage in ["ingest", "normalizer", "storage-writer"] {
        product.start_stage(stage);
    }
    let (other, other_log) = product.another("storage-writer", &[]);

    // Commands come in through any shard.
    let mut redis = product.stores.redis().await.unwrap();
    for number in 1..ROOMS {
        let stream = format!("ttlc:control:{{{}}}", number % 4);
        let command = format!(r#"{{"command":"track","uniqueId":"{}"}}"#, name(number));
        let _: String = redis
            .xadd(&stream, "*", &[("command", command)])
            .await
            .unwrap();
    }
    // What is no envelope, in each shard.
    for shard in 0..SHARDS {
        let stream = format!("ttlc:raw:{{{shard}}}");
        let _: String = redis
            .xadd(&stream, "*", &[("odd", shard.to_string())])
            .await
            .unwrap();
    }

    // One of the writers dies in the middle, with whatever it had.
    until(PATIENCE, async || {
        let stored = messages(&Row::all(&product.stores).await?);
        ensure!(stored >= 30, "{stored} stored before the kill");
        Ok(())
    })
    .await;
    product.kill_stage("storage-writer");
    for number in 0..ROOMS {
        product.played(&name(number)).await;
    }
    // What a room sends again is no other message.
    let mut ids = HashSet::new();
    let sent = product.upstream.sent();
    let sent = sent
        .iter()
        .filter(|sent| match upstream::patch::header(&sent.payload) {
            Some(header) if header.msg_id != 0 => ids.insert(header.msg_id),
            _ => true,
        })
        .count();
    assert!(sent > 100, "{sent}");
    let rows = product
        .settled(|rows| {
            ensure!(messages(rows) >= sent, "{} of {sent}", messages(rows));
            Ok(())
        })
        .await;
    check_all(&rows);
    assert_eq!(messages(&rows), sent, "every message once");
    let names = StreamNames::new(SHARDS);
    let rooms: BTreeSet<&str> = rows.iter().map(|row| row.stream_id.as_str()).collect();
    assert_eq!(rooms.len(), ROOMS);
    let used: BTreeSet<u32> = rooms.iter().map(|room| names.shard_of(room)).collect();
    assert!(used.len() >= 2, "rooms of several shards: {used:?}");

    // Each room's entries are in its shard's streams and no other's.
    for shard in 0..SHARDS {
        let stream = format!("ttlc:events:{{{shard}}}");
        for entry in product.stores.entries(&stream).await.unwrap() {
            let event: serde_json::Value = serde_json::from_str(&entry["event"]).unwrap();
            let room = event["streamId"].as_str().unwrap();
            assert_eq!(names.shard_of(room), shard, "{room} in {stream}");
        }
    }
    // The names are those of the contract, and no others.
    let keys: Vec<String> = redis.keys("ttlc:*").await.unwrap();
    for what in ["raw", "events", "control", "dlq"] {
        for shard in 0..SHARDS {
            let stream = format!("ttlc:{what}:{{{shard}}}");
            assert!(keys.contains(&stream), "{stream} of {keys:?}");
        }
        assert!(!keys.contains(&format!("ttlc:{what}")), "{keys:?}");
    }
    // The writer that is left has a slot of each shard: the first or the second, as they came.
    until(PATIENCE, async || {
        let keys: Vec<String> = product.stores.redis().await?.keys("ttlc:lease:*").await?;
        for group in ["storage", "ops"] {
            for shard in 0..SHARDS {
                let lease = |slot| format!("ttlc:lease:{group}:{{{shard}}}:{slot}");
                let held = (0..2).any(|slot| keys.contains(&lease(slot)));
                ensure!(held, "nobody has {}: {keys:?}", lease(0));
            }
        }
        Ok(())
    })
    .await;

    // A dead letter of each shard.
    let letters = until(PATIENCE, async || {
        let rows = product
            .stores
            .database()
            .await?
            .query("SELECT stage, reason, payload FROM dead_letters", &[])
            .await?;
        ensure!(rows.len() == 4, "{} dead letters", rows.len());
        let letter = |row: &tokio_postgres::Row| {
            let payload: String = row.get(2);
            (payload, (row.get::<_, String>(0), row.get::<_, String>(1)))
        };
        Ok(rows.iter().map(letter).collect::<BTreeMap<_, _>>())
    })
    .await;
    let wanted: Vec<String> = (0..SHARDS)
        .map(|shard| format!(r#"{{"odd":"{shard}"}}"#))
        .collect();
    assert_eq!(letters.keys().cloned().collect::<Vec<_>>(), wanted);
    assert!(
        letters.values().all(|(stage, _)| stage == "normalizer"),
        "{letters:?}"
    );

    // And the ledger says so.
    let (mut verify, verified) = product.another("verify", &[]);
    let status = until(PATIENCE, async || {
        verify.ended().ok_or_else(|| anyhow::anyhow!("it verifies"))
    })
    .await;
    assert!(status.success(), "{}", verified.lines().join("\n"));
    let lines = verified.lines();
    assert_eq!(
        lines.iter().filter(|line| line.contains(": whole")).count(),
        ROOMS,
        "{lines:?}"
    );
    let status = other.stop().unwrap();
    assert!(status.success(), "{}", other_log.lines().join("\n"));
    product.stop();
}
