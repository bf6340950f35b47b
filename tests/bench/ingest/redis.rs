//! What has arrived in Redis.
//!
//! In: the stream `ttlc:raw`. Out: how long it is, and which of TikTok's messages are in it.

use std::collections::HashSet;

use anyhow::Context;
use redis::{AsyncCommands, aio::MultiplexedConnection, streams::StreamRangeReply};
use shared::streams::StreamNames;

/// Entries read at a time.
const PAGE: usize = 2_000;

pub(super) struct Redis {
    connection: MultiplexedConnection,
    raw: String,
}

/// TikTok's messages in the stream, without its control messages and without our own.
#[derive(Debug, Default)]
pub(super) struct Published {
    pub(super) messages: u64,
    /// Those that are there more than once.
    pub(super) repeats: u64,
}

impl Redis {
    /// Connects and removes everything: it is a Redis of our own.
    pub(super) async fn empty(url: &str) -> anyhow::Result<Self> {
        let client = redis::Client::open(url)?;
        let mut connection = client
            .get_multiplexed_async_connection()
            .await
            .context("can't connect to Redis")?;
        let () = redis::cmd("FLUSHALL").query_async(&mut connection).await?;
        Ok(Self {
            connection,
            raw: StreamNames::new(1).raw(0),
        })
    }

    /// Entries, of whatever kind.
    pub(super) async fn length(&mut self) -> anyhow::Result<u64> {
        Ok(self.connection.xlen(&self.raw).await?)
    }

    /// Counts what is there.
    pub(super) async fn published(&mut self) -> anyhow::Result<Published> {
        let mut published = Published::default();
        let mut seen: HashSet<(String, String)> = HashSet::new();
        let mut from = "-".to_owned();
        loop {
            let page: StreamRangeReply = self
                .connection
                .xrange_count(&self.raw, &from, "+", PAGE)
                .await?;
            for entry in &page.ids {
                let text = |name: &str| entry.get::<String>(name).unwrap_or_default();
                let kind = text("type");
                if kind.starts_with("ControlEvent.") || kind == "WebcastControlMessage" {
                    continue;
                }
                published.messages += 1;
                if !seen.insert((text("streamId"), text("msgId"))) {
                    published.repeats += 1;
                }
            }
            match page.ids.last() {
                Some(last) => from = format!("({}", last.id),
                None => return Ok(published),
            }
        }
    }
}
