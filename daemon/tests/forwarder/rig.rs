//! Servers of a test's own, events to forward, and a destination with a script.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clap::Parser as _;
use daemon::bus::Bus;
use daemon::config::{Cli, Command, ForwarderOptions};
use daemon::{forwarder, storage};
use serde_json::{Value, json};
use shared::identity::EventId;
use shared::streams::{GROUP_FORWARDER, StreamNames};
use shared::time::Timestamp;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_postgres::types::FromSqlOwned;
use tokio_postgres::{Client, NoTls};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use xtask::servers::{Durability, PrivatePostgres, PrivateRedis};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) struct Rig {
    pub(crate) postgres: Option<PrivatePostgres>,
    _redis: PrivateRedis,
    pub(crate) database: String,
    pub(crate) redis_url: String,
    pub(crate) server: Server,
}

impl Rig {
    pub(crate) async fn new() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let _ = tracing_subscriber::fmt()
            .with_env_filter("warn,daemon=debug")
            .with_test_writer()
            .try_init();
        let (postgres, redis) = tokio::task::spawn_blocking(|| {
            (
                PrivatePostgres::temporary(Durability::Fast).unwrap(),
                PrivateRedis::temporary(Durability::Fast).unwrap(),
            )
        })
        .await
        .unwrap();
        let rig = Self {
            database: postgres.url(),
            redis_url: redis.url(),
            postgres: Some(postgres),
            _redis: redis,
            server: Server::start().await,
        };
        storage::migrate(&rig.options(&[]).database).await.unwrap();
        rig
    }

    /// As the command line of `ttlc forwarder`.
    pub(crate) fn arguments(&self, more: &[&str]) -> Vec<String> {
        let mut arguments = vec![
            "forwarder".to_owned(),
            format!("--redis-url={}", self.redis_url),
            format!("--database-url={}", self.database),
        ];
        if !more
            .iter()
            .any(|argument| argument.starts_with("--forward-url"))
        {
            arguments.push(format!("--forward-url={}", self.server.url()));
        }
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        arguments
    }

    pub(crate) fn options(&self, more: &[&str]) -> ForwarderOptions {
        let arguments = self.arguments(more);
        let cli = Cli::try_parse_from(std::iter::once("ttlc".to_owned()).chain(arguments)).unwrap();
        match cli.command {
            Command::Forwarder(options) => *options,
            _ => unreachable!("the arguments say forwarder"),
        }
    }

    pub(crate) fn bus(&self) -> Bus {
        Bus::new(&self.redis_url.clone().into(), StreamNames::new(1)).unwrap()
    }

    pub(crate) fn start(&self, more: &[&str]) -> Running {
        let options = self.options(more);
        let stop = CancellationToken::new();
        let task = tokio::spawn(forwarder::run(
            options.forwarder,
            options.database,
            self.bus(),
            stop.clone(),
        ));
        Running { stop, task }
    }

    pub(crate) async fn client(&self) -> Client {
        let (client, connection) = tokio_postgres::connect(&self.database, NoTls)
            .await
            .unwrap();
        tokio::spawn(connection);
        client
    }

    pub(crate) async fn one<T: FromSqlOwned>(&self, sql: &str) -> T {
        self.client()
            .await
            .query_one(sql, &[])
            .await
            .unwrap()
            .get(0)
    }

    pub(crate) async fn redis(&self) -> redis::aio::MultiplexedConnection {
        let patient = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE));
        redis::Client::open(self.redis_url.as_str())
            .unwrap()
            .get_multiplexed_async_connection_with_config(&patient)
            .await
            .unwrap()
    }

    /// Publishes events as the normalizer does.
    pub(crate) async fn publish(&self, events: &[Value]) {
        let mut pipe = redis::pipe();
        for event in events {
            pipe.cmd("XADD")
                .arg(&["ttlc:events", "*", "event"])
                .arg(event.to_string());
            pipe.arg(&["normalizedAt", "2026-11-22T15:04:05.678Z", "raw", "AAEC"])
                .ignore();
        }
        pipe.exec_async(&mut self.redis().await).await.unwrap();
    }

    /// Read and not acknowledged, and not read: by the group of the forwarder.
    pub(crate) async fn open(&self) -> Option<(usize, usize)> {
        let groups: redis::streams::StreamInfoGroupsReply = redis::cmd("XINFO")
            .arg(&["GROUPS", "ttlc:events"])
            .query_async(&mut self.redis().await)
            .await
            .ok()?;
        let group = groups
            .groups
            .iter()
            .find(|group| group.name == GROUP_FORWARDER)?;
        Some((group.pending, group.lag.unwrap_or(0)))
    }

    /// Waits until every event is acknowledged.
    pub(crate) async fn settled(&self) {
        poll("every event is acknowledged", async || {
            (self.open().await? == (0, 0)).then_some(())
        })
        .await;
    }

    /// The record as (number in the room, state, reason, attempts), in the order of the room.
    pub(crate) async fn log(&self, room: &str) -> Vec<(i64, String, Option<String>, i32)> {
        let rows = self
            .client()
            .await
            .query("SELECT seq_no, state, reason, attempts FROM forward_log WHERE stream_id = $1 ORDER BY seq_no", &[&room])
            .await
            .unwrap();
        rows.iter()
            .map(|row| (row.get(0), row.get(1), row.get(2), row.get(3)))
            .collect()
    }

    /// How many events have this state.
    pub(crate) async fn count(&self, state: &str) -> i64 {
        self.one(&format!(
            "SELECT count(*) FROM forward_log WHERE state = '{state}'"
        ))
        .await
    }
}

pub(crate) struct Running {
    stop: CancellationToken,
    task: JoinHandle<Result<(), forwarder::Error>>,
}

impl Running {
    /// Stops it and checks that it ends well and soon.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(4), self.task)
            .await
            .expect("the forwarder stops within the supervisor's deadline")
            .unwrap()
            .unwrap();
    }

    /// Ends it between two of its lines, as a crash does.
    pub(crate) async fn crash(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// Asks until there is an answer.
pub(crate) async fn poll<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "not after {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The comment number `seq_no` of a room.
pub(crate) fn chat(room: u64, seq_no: u64) -> Value {
    let at = Timestamp::from(jiff::Timestamp::now());
    json!({
        "schemaVersion": "unified-event.v1",
        "eventId": EventId::new(&room.to_string(), seq_no, "WebcastChatMessage"),
        "eventType": "CHAT",
        "source": "live",
        "streamId": room.to_string(),
        "sessionId": Uuid::from_u128(room.into()),
        "seqNo": seq_no,
        "timestamp": at,
        "ingestedAt": at,
        "user": {"userId": "68", "username": "alice", "displayName": "Alice",
            "roles": {"moderator": false, "subscriber": false, "follower": true, "topGifter": false, "anchor": false}},
        "payload": {"rawType": "WebcastChatMessage", "message": format!("number {seq_no}")},
    })
}

/// Comments of a room.
pub(crate) fn chats(room: u64, numbers: std::ops::RangeInclusive<u64>) -> Vec<Value> {
    numbers.map(|number| chat(room, number)).collect()
}

/// A request that came in.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) at: Instant,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: String,
    /// What it was answered: 0 for none.
    pub(crate) status: u16,
}

impl Seen {
    /// Rooms and numbers of the events in it, whatever its form.
    pub(crate) fn events(&self) -> Vec<(u64, u64)> {
        let body: Value = serde_json::from_str(&self.body).unwrap();
        let all = match &body {
            Value::Array(batch) => batch.iter().map(|event| event["data"].clone()).collect(),
            body if body.get("messages").is_some() => {
                let messages = body["messages"].as_array().unwrap();
                messages
                    .iter()
                    .map(|message| message["data"]["unifiedEvent"].clone())
                    .collect()
            }
            body => vec![body.clone()],
        };
        all.iter()
            .map(|event| {
                (
                    event["streamId"].as_str().unwrap().parse().unwrap(),
                    event["seqNo"].as_u64().unwrap(),
                )
            })
            .collect()
    }

    pub(crate) fn key(&self) -> &str {
        &self.headers["idempotency-key"]
    }
}

/// What the destination does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    Status(u16),
    /// With this `Retry-After`.
    After(u16, String),
    /// The same after a while.
    Slow(u16, Duration),
    /// A status, and a body that never ends.
    Dripping(u16),
    /// No answer.
    Hang,
    /// The connection is closed once the request has been read.
    Close,
}

type Script = Box<dyn FnMut(&Seen) -> Reply + Send>;

/// The destination.
#[derive(Clone)]
pub(crate) struct Server {
    port: u16,
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    script: Script,
    away: bool,
    seen: Vec<Seen>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            port: listener.local_addr().unwrap().port(),
            inner: Arc::new(Mutex::new(Inner {
                script: Box::new(|_| Reply::Status(200)),
                away: false,
                seen: Vec::new(),
            })),
        };
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let server = serving.clone();
                tokio::spawn(async move { server.serve(socket).await });
            }
        });
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/in", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn script(&self, script: impl FnMut(&Seen) -> Reply + Send + 'static) {
        self.inner.lock().unwrap().script = Box::new(script);
    }

    /// Whether connections are cut off before anything is read.
    pub(crate) fn away(&self, away: bool) {
        self.inner.lock().unwrap().away = away;
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.inner.lock().unwrap().seen.clone()
    }

    /// The numbers of a room that were taken, in the order of their arrival.
    pub(crate) fn taken(&self, room: u64) -> Vec<u64> {
        let seen = self.seen();
        let taken = seen.iter().filter(|seen| (200..300).contains(&seen.status));
        taken
            .flat_map(Seen::events)
            .filter(|event| event.0 == room)
            .map(|event| event.1)
            .collect()
    }

    async fn serve(&self, mut socket: TcpStream) -> Option<()> {
        loop {
            let mut bytes = Vec::new();
            let end = loop {
                // TLS, which it does not speak.
                if bytes.first() == Some(&0x16) {
                    socket.write_all(b"HTTP/1.1 400 x\r\n\r\n").await.ok()?;
                    return None;
                }
                if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                    break end + 4;
                }
                if socket.read_buf(&mut bytes).await.ok()? == 0 || self.inner.lock().unwrap().away {
                    return None;
                }
            };
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let headers: HashMap<String, String> = head
                .lines()
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                .collect();
            let length: usize = headers.get("content-length")?.parse().ok()?;
            while bytes.len() < end + length {
                if socket.read_buf(&mut bytes).await.ok()? == 0 {
                    return None;
                }
            }
            let body = String::from_utf8(bytes[end..end + length].to_vec()).unwrap();
            let reply = {
                let mut inner = self.inner.lock().unwrap();
                if inner.away {
                    return None;
                }
                let mut seen = Seen {
                    at: Instant::now(),
                    headers,
                    body,
                    status: 0,
                };
                let reply = (inner.script)(&seen);
                seen.status = match &reply {
                    Reply::Status(status)
                    | Reply::After(status, _)
                    | Reply::Slow(status, _)
                    | Reply::Dripping(status) => *status,
                    Reply::Hang | Reply::Close => 0,
                };
                inner.seen.push(seen);
                reply
            };
            let drips = matches!(reply, Reply::Dripping(_));
            let (status, more) = match reply {
                Reply::Status(status) => (
                    status,
                    "content-length: 2\r\nlocation: http://127.0.0.1:1/\r\n\r\nok".to_owned(),
                ),
                Reply::After(status, text) => (
                    status,
                    format!("retry-after: {text}\r\ncontent-length: 0\r\n\r\n"),
                ),
                Reply::Slow(status, pause) => {
                    tokio::time::sleep(pause).await;
                    (status, "content-length: 0\r\n\r\n".to_owned())
                }
                Reply::Dripping(status) => {
                    (status, "content-length: 100000000\r\n\r\nsome".to_owned())
                }
                Reply::Close => return None,
                Reply::Hang => std::future::pending().await,
            };
            socket
                .write_all(format!("HTTP/1.1 {status} x\r\n{more}").as_bytes())
                .await
                .ok()?;
            if drips {
                std::future::pending::<()>().await;
            }
        }
    }
}
