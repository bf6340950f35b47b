//! The stage, a private Redis, and what the tests put into it.

use std::collections::HashMap;
use std::time::Duration;

use clap::Parser as _;
use daemon::bus::rooms::by_room;
use daemon::bus::{Bus, Claim, Owner, Published};
use daemon::normalizer::{self, Options};
use secrecy::SecretString;
use shared::raw::Envelope;
use shared::streams::StreamNames;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use xtask::servers::PrivateRedis;

pub(super) const ROOM: &str = "7301234567890123456";
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

#[derive(clap::Parser)]
pub(super) struct Cli {
    #[command(flatten)]
    normalizer: Options,
}

/// The stage, running.
pub(super) struct Stage {
    pub(super) stop: CancellationToken,
    pub(super) task: JoinHandle<Result<(), normalizer::Error>>,
}

impl Stage {
    pub(super) fn start(redis: &PrivateRedis, shards: u32, batch: &str) -> Self {
        let options = Cli::parse_from(["test", "--normalizer-batch", batch]).normalizer;
        let stop = CancellationToken::new();
        let bus = bus(redis, shards);
        let task = tokio::spawn(normalizer::run(options, bus, stop.clone()));
        Self { stop, task }
    }

    pub(super) async fn stop(self) {
        self.stop.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(2), self.task).await;
        ended.expect("stops soon").unwrap().unwrap();
    }

    /// As a crash would: wherever it is.
    pub(super) async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

pub(super) fn bus(redis: &PrivateRedis, shards: u32) -> Bus {
    Bus::new(&SecretString::from(redis.url()), StreamNames::new(shards)).unwrap()
}

/// Publishes envelopes as ingest does, for one owner of all rooms.
pub(super) async fn publish(server: &PrivateRedis, shards: u32, sent: &[Envelope]) {
    let (bus, owner) = (bus(server, shards), Owner::from(Uuid::from_u128(1)));
    let mut tokens = HashMap::new();
    for envelope in sent {
        if !tokens.contains_key(&envelope.stream_id) {
            let claim = bus.claim_room(&envelope.stream_id, owner).await.unwrap();
            let Claim::Held(memory) = claim else {
                panic!("{claim:?}")
            };
            tokens.insert(envelope.stream_id.clone(), memory.token);
        }
    }
    let batches = by_room(sent, |stream_id| tokens[stream_id]);
    let published = bus.publish(owner, &batches).await.unwrap();
    assert_eq!(published, Published::default());
}

pub(super) async fn ask<T: redis::FromRedisValue>(
    server: &PrivateRedis,
    words: &[&str],
) -> redis::RedisResult<T> {
    let client = redis::Client::open(server.url())?;
    // Not the client's half a second, which a busy machine takes.
    let patient = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(Some(PATIENCE))
        .set_response_timeout(Some(PATIENCE));
    let mut connection = client
        .get_multiplexed_async_connection_with_config(&patient)
        .await?;
    redis::cmd(words[0])
        .arg(&words[1..])
        .query_async(&mut connection)
        .await
}

pub(super) async fn length(server: &PrivateRedis, stream: &str) -> usize {
    ask(server, &["XLEN", stream]).await.unwrap_or(0)
}

pub(super) async fn until_done(server: &PrivateRedis, total: usize) {
    let begun = Instant::now();
    loop {
        let done = length(server, "ttlc:events").await + length(server, "ttlc:dlq").await;
        assert!(done <= total, "{done} outcomes of {total} entries");
        if done == total {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{done} of {total}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// The entries of a stream, oldest first.
pub(super) async fn entries(server: &PrivateRedis, stream: &str) -> Vec<HashMap<String, String>> {
    let reply: redis::streams::StreamRangeReply =
        ask(server, &["XRANGE", stream, "-", "+"]).await.unwrap();
    reply
        .ids
        .into_iter()
        .map(|entry| {
            let fields = entry.map.into_iter();
            fields
                .map(|(field, value)| (field, redis::from_redis_value(value).unwrap()))
                .collect()
        })
        .collect()
}
