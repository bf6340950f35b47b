//! A Redis and a Postgres for one test, and looking into them.
//!
//! Each test has its own Redis and its own database. The Postgres server is shared by the tests
//! of this process, except where a test wants to restart it.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use redis::AsyncCommands;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_postgres::NoTls;
use url::Url;
use xtask::servers::{Durability, PrivatePostgres, PrivateRedis};

static SHARED: OnceLock<PrivatePostgres> = OnceLock::new();
static DATABASES: AtomicU32 = AtomicU32::new(0);
/// `cargo test` runs all tests of this process at once: more than two whole products are too much
/// for a small machine.
static SEATS: Semaphore = Semaphore::const_new(2);

/// The stores of one test.
pub(crate) struct Stores {
    /// `None` while it is stopped.
    pub(crate) redis: Option<PrivateRedis>,
    /// Only where the test owns the server.
    pub(crate) postgres: Option<PrivatePostgres>,
    redis_url: String,
    database_url: String,
    /// What has been read of `ttlc:raw`.
    pub(crate) seen: tokio::sync::Mutex<Seen>,
    _seat: SemaphorePermit<'static>,
}

/// What has been read of a stream, and how far: long streams are read once, and trimming makes
/// nothing unseen.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) last: Option<String>,
    pub(crate) entries: Vec<Arc<crate::watch::Raw>>,
}

/// An entry of a Redis stream.
pub(crate) type Entry = std::collections::HashMap<String, String>;

/// How far a consumer group is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) pending: u64,
    pub(crate) lag: Option<u64>,
}

impl Stores {
    /// An empty Redis, and an empty database in the shared Postgres.
    pub(crate) async fn start() -> Self {
        let seat = SEATS.acquire().await.expect("never closed");
        let (redis, server_url) = blocking(|| {
            let redis = PrivateRedis::temporary(Durability::Fast)?;
            let shared = SHARED.get_or_init(|| {
                PrivatePostgres::temporary(Durability::Fast).expect("a private Postgres")
            });
            Ok((redis, shared.url()))
        })
        .await;
        let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        let database = database(&server_url)
            .await
            .expect("the private Postgres answers");
        database
            .batch_execute(&format!("CREATE DATABASE {name}"))
            .await
            .expect("a new database");
        let mut url = Url::parse(&server_url).expect("an address");
        url.set_path(&name);
        let redis_url = redis.url();
        Self {
            redis: Some(redis),
            postgres: None,
            redis_url,
            database_url: url.into(),
            seen: tokio::sync::Mutex::default(),
            _seat: seat,
        }
    }

    /// A Redis of its own that keeps what it says it keeps, and no Postgres: for tests of ingest
    /// and normalizer alone, which know of none.
    pub(crate) async fn redis_only() -> Self {
        let seat = SEATS.acquire().await.expect("never closed");
        let redis = blocking(|| PrivateRedis::temporary(Durability::Safe)).await;
        let redis_url = redis.url();
        Self {
            redis: Some(redis),
            postgres: None,
            redis_url,
            database_url: "postgres://nobody@127.0.0.1:1/none".to_owned(),
            seen: tokio::sync::Mutex::default(),
            _seat: seat,
        }
    }

    /// Servers of its own for a test that stops and kills them; what they say is kept, they keep.
    pub(crate) async fn own() -> Self {
        let seat = SEATS.acquire().await.expect("never closed");
        let (redis, postgres) = blocking(|| {
            Ok((
                PrivateRedis::temporary(Durability::Safe)?,
                PrivatePostgres::temporary(Durability::Safe)?,
            ))
        })
        .await;
        let (redis_url, database_url) = (redis.url(), postgres.url());
        Self {
            redis: Some(redis),
            postgres: Some(postgres),
            redis_url,
            database_url,
            seen: tokio::sync::Mutex::default(),
            _seat: seat,
        }
    }

    /// From now on Redis wants this password, and its address holds it.
    pub(crate) async fn guard_redis(&mut self, password: &str) {
        let mut redis = self.redis().await.expect("Redis answers");
        let set: redis::RedisResult<()> = redis::cmd("CONFIG")
            .arg("SET")
            .arg("requirepass")
            .arg(password)
            .query_async(&mut redis)
            .await;
        set.expect("a password");
        let mut url = Url::parse(&self.redis_url).expect("an address");
        url.set_password(Some(password)).expect("a host");
        self.redis_url = url.into();
    }

    /// Another Redis in place of the one there is.
    pub(crate) fn use_redis(&mut self, redis: PrivateRedis) {
        self.redis_url = redis.url();
        self.redis = Some(redis);
    }

    pub(crate) fn redis_url(&self) -> &str {
        &self.redis_url
    }

    pub(crate) fn database_url(&self) -> &str {
        &self.database_url
    }

    /// A new connection to the database.
    pub(crate) async fn database(&self) -> anyhow::Result<tokio_postgres::Client> {
        database(&self.database_url).await
    }

    /// A new connection to Redis.
    pub(crate) async fn redis(&self) -> anyhow::Result<redis::aio::MultiplexedConnection> {
        let client = redis::Client::open(self.redis_url.as_str())?;
        // Not the client's half a second, which a busy machine takes.
        let patient = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(Duration::from_secs(10)))
            .set_response_timeout(Some(Duration::from_secs(10)));
        Ok(client
            .get_multiplexed_async_connection_with_config(&patient)
            .await?)
    }

    /// All entries that are in a stream now.
    pub(crate) async fn entries(&self, stream: &str) -> anyhow::Result<Vec<Entry>> {
        let entries = self.entries_after(stream, "-", usize::MAX >> 1).await?;
        Ok(entries.into_iter().map(|(_, fields)| fields).collect())
    }

    /// So many entries from here on, with their ids; `(id` for what comes after that one.
    pub(crate) async fn entries_after(
        &self,
        stream: &str,
        from: &str,
        count: usize,
    ) -> anyhow::Result<Vec<(String, Entry)>> {
        let entries = redis::cmd("XRANGE")
            .arg(stream)
            .arg(from)
            .arg("+")
            .arg("COUNT")
            .arg(count)
            .query_async(&mut self.redis().await?)
            .await?;
        Ok(entries)
    }

    /// The groups of a stream; none when there is no such stream.
    pub(crate) async fn groups(&self, stream: &str) -> anyhow::Result<Vec<Group>> {
        let mut redis = self.redis().await?;
        if !redis.exists::<_, bool>(stream).await? {
            return Ok(Vec::new());
        }
        let reply: redis::streams::StreamInfoGroupsReply = redis.xinfo_groups(stream).await?;
        Ok(reply
            .groups
            .into_iter()
            .map(|group| Group {
                name: group.name,
                pending: group.pending as u64,
                lag: group.lag.map(|lag| lag as u64),
            })
            .collect())
    }

    /// A key's JSON.
    pub(crate) async fn json(&self, key: &str) -> anyhow::Result<Option<serde_json::Value>> {
        let text: Option<String> = self.redis().await?.get(key).await?;
        text.map(|text| serde_json::from_str(&text).context("not JSON"))
            .transpose()
    }
}

async fn database(url: &str) -> anyhow::Result<tokio_postgres::Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(async move {
        // Ends with the client, or with the server when a test stops it.
        let _ = connection.await;
    });
    Ok(client)
}

/// Runs what blocks (starting servers) beside the runtime.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> T {
    tokio::task::spawn_blocking(work)
        .await
        .expect("no panic")
        .expect("it starts")
}

/// Asks again and again until the answer is `Ok`, and panics with the last error after `limit`.
pub(crate) async fn until<T>(
    limit: Duration,
    mut ask: impl AsyncFnMut() -> anyhow::Result<T>,
) -> T {
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) if tokio::time::Instant::now() > deadline => {
                panic!("not within {} s: {error:#}", limit.as_secs())
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(25)).await,
        }
    }
}
