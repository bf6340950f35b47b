//! The trimmer against a real Redis: what a group needs stays, and what is lost is counted.

use std::time::Duration;

use daemon::bus::Bus;
use daemon::bus::trim::Trimmer;
use redis::Value;
use redis::aio::MultiplexedConnection;
use secrecy::SecretString;
use shared::streams::{GROUP_NORMALIZER, StreamNames};
use xtask::servers::{Durability, PrivateRedis};

const STREAM: &str = "ttlc:raw";

struct Redis {
    _server: PrivateRedis,
    bus: Bus,
    connection: MultiplexedConnection,
}

impl Redis {
    async fn start() -> Self {
        let server = PrivateRedis::temporary(Durability::Fast).unwrap();
        let bus = Bus::new(&SecretString::from(server.url()), StreamNames::new(1)).unwrap();
        let client = redis::Client::open(server.url()).unwrap();
        // Not the client's half a second, which a busy machine takes.
        let patient = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(Duration::from_secs(30)))
            .set_response_timeout(Some(Duration::from_secs(30)));
        let connection = client
            .get_multiplexed_async_connection_with_config(&patient)
            .await
            .unwrap();
        Self {
            _server: server,
            bus,
            connection,
        }
    }

    async fn ask<T: redis::FromRedisValue>(&mut self, command: &str) -> T {
        let mut words = command.split(' ');
        let mut asked = redis::cmd(words.next().unwrap());
        for word in words {
            asked.arg(word);
        }
        asked.query_async(&mut self.connection).await.unwrap()
    }

    async fn add(&mut self, entries: usize) {
        let mut pipeline = redis::pipe();
        for number in 0..entries {
            pipeline.xadd(STREAM, "*", &[("n", number)]).ignore();
        }
        pipeline.exec_async(&mut self.connection).await.unwrap();
    }

    /// Reads as a group, and acknowledges all but the last `keep`.
    async fn read(&mut self, group: &str, entries: usize, keep: usize) -> usize {
        let reply: redis::streams::StreamReadReply = self
            .ask(&format!(
                "XREADGROUP GROUP {group} me COUNT {entries} STREAMS {STREAM} >"
            ))
            .await;
        let ids: Vec<String> = reply
            .keys
            .into_iter()
            .flat_map(|key| key.ids)
            .map(|entry| entry.id)
            .collect();
        let done = &ids[..ids.len() - keep];
        if !done.is_empty() {
            let () = redis::cmd("XACK")
                .arg(STREAM)
                .arg(group)
                .arg(done)
                .exec_async(&mut self.connection)
                .await
                .unwrap();
        }
        ids.len()
    }

    async fn trim(&self, trimmer: &mut Trimmer) -> u64 {
        trimmer.trim("raw", STREAM, GROUP_NORMALIZER).await.unwrap()
    }
}

#[tokio::test]
async fn what_a_group_still_needs_stays() {
    let mut redis = Redis::start().await;
    let mut trimmer = Trimmer::new(redis.bus.clone(), 100_000);
    redis.add(1_000).await;
    assert_eq!(
        redis.trim(&mut trimmer).await,
        0,
        "the normalizer, which has not started yet, needs them all"
    );
    assert_eq!(redis.read(GROUP_NORMALIZER, 1_000, 0).await, 1_000);
    let _: Value = redis.ask(&format!("XGROUP CREATE {STREAM} other 0")).await;
    redis.read("other", 900, 100).await;
    let dropped = redis.trim(&mut trimmer).await;
    assert!(
        (700..=800).contains(&dropped),
        "whole nodes below the oldest unfinished entry: {dropped}"
    );
    let left: usize = redis.ask(&format!("XLEN {STREAM}")).await;
    assert_eq!(left as u64, 1_000 - dropped);
    assert_eq!(
        redis.read("other", 1_000, 0).await,
        100,
        "the unread ones are there"
    );
}

#[tokio::test]
async fn who_can_catch_up_elsewhere_holds_nobody_back_for_ever() {
    let mut redis = Redis::start().await;
    let mut trimmer = Trimmer::new(redis.bus.clone(), 1_000);
    let _: Value = redis
        .ask(&format!("XGROUP CREATE {STREAM} api 0 MKSTREAM"))
        .await;
    redis.trim(&mut trimmer).await;
    redis.add(900).await;
    redis.read(GROUP_NORMALIZER, 10_000, 0).await;
    assert_eq!(redis.trim(&mut trimmer).await, 0, "not far behind yet");
    redis.add(900).await;
    redis.read(GROUP_NORMALIZER, 10_000, 0).await;
    assert!(redis.trim(&mut trimmer).await > 1_500);

    // The one that must read all holds it back, however far it is behind.
    redis.add(5_000).await;
    assert_eq!(redis.trim(&mut trimmer).await, 0);
    assert_eq!(redis.read(GROUP_NORMALIZER, 10_000, 0).await, 5_000);
}

#[tokio::test]
async fn what_was_trimmed_unread_is_counted() {
    let metrics = daemon::metrics::Metrics::install().unwrap();
    let lost = || {
        metrics
            .render()
            .lines()
            .find(|line| line.starts_with("ttlc_stream_unread_lost_total{"))
            .and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .unwrap_or(0)
    };
    let mut redis = Redis::start().await;
    let mut trimmer = Trimmer::new(redis.bus.clone(), 100_000);
    redis.add(10).await;
    redis.trim(&mut trimmer).await;
    assert_eq!(redis.read(GROUP_NORMALIZER, 5, 0).await, 5);
    redis.add(990).await;
    redis.trim(&mut trimmer).await;
    assert_eq!(lost(), 0);
    let _: Value = redis.ask(&format!("XTRIM {STREAM} MAXLEN 100")).await; // as the fuse does
    redis.trim(&mut trimmer).await;
    assert_eq!(lost(), 895);
    redis.trim(&mut trimmer).await;
    assert_eq!(lost(), 895, "counted once");
    // The group jumps over the hole, reads on, and is trimmed as usual.
    assert_eq!(redis.read(GROUP_NORMALIZER, 1_000, 0).await, 100);
    redis.add(200).await;
    redis.read(GROUP_NORMALIZER, 1_000, 0).await;
    redis.trim(&mut trimmer).await;
    redis.add(50).await;
    redis.read(GROUP_NORMALIZER, 1_000, 0).await;
    redis.trim(&mut trimmer).await;
    assert_eq!(lost(), 895);
}

#[tokio::test]
async fn a_loss_is_seen_also_after_the_group_has_jumped_over_it() {
    let mut redis = Redis::start().await;
    let mut trimmer = Trimmer::new(redis.bus.clone(), 100_000);
    redis.trim(&mut trimmer).await;
    redis.add(1_000).await;
    redis.read(GROUP_NORMALIZER, 100, 0).await;
    let _: Value = redis.ask(&format!("XTRIM {STREAM} MAXLEN 300")).await;
    redis.read(GROUP_NORMALIZER, 1_000, 0).await;
    redis.trim(&mut trimmer).await;
    assert_eq!(trimmer.lost(STREAM, GROUP_NORMALIZER), 600);
}
