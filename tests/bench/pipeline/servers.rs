//! A Redis and a Postgres of our own, which wait for their disks as in production.
//!
//! Redis' append-only file is not rewritten while they run: a rewrite would hit one side of a
//! comparison and not the other. All else is as `cargo xtask dev` has it.

use anyhow::Context;
use redis::aio::MultiplexedConnection;
use tokio::process::Command;
use tokio_postgres::{Client, NoTls};
use xtask::servers::{Durability, PrivatePostgres, PrivateRedis};

use super::{Settings, processes::processor_of_family};

/// When Redis' append-only file is synced: before each reply, or every second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sync {
    Always,
    EverySecond,
}

impl Sync {
    pub(super) const ALL: [Self; 2] = [Self::Always, Self::EverySecond];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::EverySecond => "everysec",
        }
    }
}

pub(super) struct Servers {
    // Taken out only while one is away.
    redis: Option<PrivateRedis>,
    postgres: Option<PrivatePostgres>,
    pub(super) redis_url: String,
    pub(super) database_url: String,
}

impl Servers {
    /// Starts both, empty; the tables are made by the daemon.
    pub(super) async fn start(settings: &Settings) -> anyhow::Result<Self> {
        let (redis, postgres) = tokio::task::block_in_place(|| {
            anyhow::Ok((
                PrivateRedis::temporary(Durability::Safe)?,
                PrivatePostgres::temporary(Durability::Safe)?,
            ))
        })?;
        let servers = Self {
            redis_url: redis.url(),
            database_url: postgres.url(),
            redis: Some(redis),
            postgres: Some(postgres),
        };
        let migrated = servers
            .command(&settings.ttlc_program, "migrate")
            .status()
            .await
            .context("can't start the daemon's program")?;
        anyhow::ensure!(migrated.success(), "migrate failed");
        servers.sync(Sync::Always).await?;
        Ok(servers)
    }

    /// A command of the daemon that uses them.
    pub(super) fn command(&self, program: &std::path::Path, stage: &str) -> Command {
        let mut command = Command::new(program);
        command
            .arg(stage)
            .env("REDIS_URL", &self.redis_url)
            .env("DATABASE_URL", &self.database_url)
            .env("LOG_LEVEL", "warn");
        command
    }

    /// Sets when the append-only file is synced.
    pub(super) async fn sync(&self, sync: Sync) -> anyhow::Result<()> {
        let mut redis = self.redis().await?;
        for (name, value) in [
            ("appendfsync", sync.name()),
            ("auto-aof-rewrite-percentage", "0"),
        ] {
            redis::cmd("CONFIG")
                .arg(&["SET", name, value])
                .exec_async(&mut redis)
                .await?;
        }
        Ok(())
    }

    pub(super) async fn redis(&self) -> anyhow::Result<MultiplexedConnection> {
        let patient = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(super::processes::PATIENCE))
            .set_response_timeout(Some(super::processes::PATIENCE));
        redis::Client::open(self.redis_url.as_str())?
            .get_multiplexed_async_connection_with_config(&patient)
            .await
            .context("can't connect to Redis")
    }

    pub(super) async fn postgres(&self) -> anyhow::Result<Client> {
        let (client, connection) = tokio_postgres::connect(&self.database_url, NoTls)
            .await
            .context("can't connect to Postgres")?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Removes everything from both, and lets Postgres write down what it still owes the disk.
    pub(super) async fn clear(&self) -> anyhow::Result<()> {
        redis::cmd("FLUSHALL")
            .exec_async(&mut self.redis().await?)
            .await?;
        self.clear_tables().await
    }

    pub(super) async fn clear_tables(&self) -> anyhow::Result<()> {
        let client = self.postgres().await?;
        client
            .batch_execute(
                "TRUNCATE events, creators, streams, sessions, users, session_stats,
                    stream_minute_stats, session_users, gaps, dead_letters;
                 CHECKPOINT",
            )
            .await?;
        Ok(())
    }

    /// Processor seconds of Redis and of Postgres so far.
    pub(super) fn processor(&mut self) -> anyhow::Result<[f64; 2]> {
        let redis = match &mut self.redis {
            Some(redis) => processor_of_family(redis.process().id())?,
            None => 0.0,
        };
        let postgres = match &mut self.postgres {
            Some(postgres) => processor_of_family(postgres.process().id())?,
            None => 0.0,
        };
        Ok([redis, postgres])
    }

    /// Does something while Postgres is away.
    pub(super) async fn without_postgres<T>(
        &mut self,
        work: impl AsyncFnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let postgres = self.postgres.take().context("it is away")?;
        let stopped = tokio::task::block_in_place(|| postgres.stop(false))?;
        let done = work().await;
        let again = tokio::task::block_in_place(|| stopped.start_again())?;
        self.postgres = Some(again);
        done
    }

    /// Does something while Redis is away.
    pub(super) async fn without_redis<T>(
        &mut self,
        work: impl AsyncFnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let redis = self.redis.take().context("it is away")?;
        let stopped = tokio::task::block_in_place(|| redis.stop(false))?;
        let done = work().await;
        let again = tokio::task::block_in_place(|| stopped.start_again())?;
        self.redis = Some(again);
        done
    }

    /// How many entries a group has read and acknowledged.
    pub(super) async fn acknowledged(
        redis: &mut MultiplexedConnection,
        stream: &str,
        group: &str,
    ) -> anyhow::Result<u64> {
        let groups: Result<Vec<std::collections::HashMap<String, redis::Value>>, _> =
            redis::cmd("XINFO")
                .arg(&["GROUPS", stream])
                .query_async(redis)
                .await;
        // No stream and no group yet.
        let Ok(groups) = groups else { return Ok(0) };
        for known in groups {
            let number = |name: &str| match known.get(name) {
                Some(redis::Value::Int(number)) => u64::try_from(*number).unwrap_or(0),
                _ => 0,
            };
            let is_it = matches!(known.get("name"), Some(redis::Value::BulkString(name)) if name == group.as_bytes());
            if is_it {
                return Ok(number("entries-read").saturating_sub(number("pending")));
            }
        }
        Ok(0)
    }
}
