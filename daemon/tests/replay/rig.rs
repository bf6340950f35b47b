//! Servers of a test's own, sessions that are stored in the way of live ones, and replays of them.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use clap::Parser as _;
use daemon::bus::Bus;
use daemon::config::{Cli, Command, IngestOptions};
use daemon::storage::{self, DatabaseOptions};
use daemon::{normalizer, replay};
use serde_json::{Map, Value, json};
use shared::raw::{Envelope, RawData, Source};
use shared::replay::{Progress, Speed, State};
use shared::streams::StreamNames;
use shared::time::Timestamp;
use tokio::task::JoinHandle;
use tokio_postgres::types::FromSqlOwned;
use tokio_postgres::{Client, NoTls};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use xtask::servers::{Durability, PrivatePostgres, PrivateRedis};

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) struct Rig {
    pub(crate) postgres: Option<PrivatePostgres>,
    pub(crate) redis: Option<PrivateRedis>,
    pub(crate) database: String,
    pub(crate) redis_url: String,
    pipeline: Option<Pipeline>,
}

/// Normalizer and storage writer.
struct Pipeline {
    stop: CancellationToken,
    normalizer: JoinHandle<Result<(), normalizer::Error>>,
    storage: JoinHandle<Result<(), storage::Error>>,
}

#[derive(clap::Parser)]
struct Stages {
    #[command(flatten)]
    normalizer: normalizer::Options,
    #[command(flatten)]
    storage: storage::Options,
}

impl Rig {
    pub(crate) async fn new() -> Self {
        Self::with(Durability::Fast).await
    }

    /// With servers that keep what they say they keep.
    pub(crate) async fn with(durability: Durability) -> Self {
        let _ = tracing_subscriber::fmt()
            .with_env_filter("warn,daemon=debug")
            .with_test_writer()
            .try_init();
        let (postgres, redis) = tokio::task::spawn_blocking(move || {
            (
                PrivatePostgres::temporary(durability).unwrap(),
                PrivateRedis::temporary(durability).unwrap(),
            )
        })
        .await
        .unwrap();
        let mut rig = Self {
            database: postgres.url(),
            redis_url: redis.url(),
            postgres: Some(postgres),
            redis: Some(redis),
            pipeline: None,
        };
        storage::migrate(&rig.database()).await.unwrap();
        rig.start_pipeline();
        rig
    }

    pub(crate) fn database(&self) -> DatabaseOptions {
        DatabaseOptions {
            database_url: Some(self.database.clone().into()),
            database_migration_url: None,
            database_ca_file: None,
        }
    }

    pub(crate) fn bus(&self) -> Bus {
        Bus::new(&self.redis_url.clone().into(), StreamNames::new(1)).unwrap()
    }

    pub(crate) fn start_pipeline(&mut self) {
        let stages = Stages::parse_from([
            "test",
            "--storage-batch-ms=5",
            &format!("--database-url={}", self.database),
        ]);
        let stop = CancellationToken::new();
        let normalizer = normalizer::run(stages.normalizer, self.bus(), stop.clone());
        let storage = storage::run(stages.storage, self.bus(), stop.clone());
        self.pipeline = Some(Pipeline {
            stop,
            normalizer: tokio::spawn(normalizer),
            storage: tokio::spawn(storage),
        });
    }

    /// Nothing is normalized and stored until [`Rig::start_pipeline`].
    pub(crate) async fn stop_pipeline(&mut self) {
        let Some(pipeline) = self.pipeline.take() else {
            return;
        };
        pipeline.stop.cancel();
        pipeline.normalizer.await.unwrap().unwrap();
        pipeline.storage.await.unwrap().unwrap();
    }

    pub(crate) fn options(&self, more: &[&str]) -> IngestOptions {
        let own = [
            "ttlc".to_owned(),
            "ingest".to_owned(),
            format!("--redis-url={}", self.redis_url),
            format!("--database-url={}", self.database),
        ];
        let given = |one: &String| {
            let name = one.split('=').next().unwrap_or_default();
            name.starts_with("--") && more.iter().any(|other| other.starts_with(name))
        };
        let all = own
            .into_iter()
            .filter(|one| !given(one))
            .chain(more.iter().map(|&one| one.to_owned()));
        match Cli::try_parse_from(all).unwrap().command {
            Command::Ingest(options) => *options,
            _ => unreachable!("the arguments say ingest"),
        }
    }

    /// The stage that shows replays.
    pub(crate) fn start(&self, more: &[&str]) -> Running {
        let options = self.options(more);
        let stop = CancellationToken::new();
        let task = replay::run(options.replay, options.database, self.bus(), stop.clone());
        Running {
            stop,
            task: tokio::spawn(task),
        }
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

    /// Entries of a stream, oldest first.
    pub(crate) async fn entries(&self, stream: &str) -> Vec<HashMap<String, String>> {
        let reply: redis::streams::StreamRangeReply = redis::cmd("XRANGE")
            .arg(&[stream, "-", "+"])
            .query_async(&mut self.redis().await)
            .await
            .unwrap();
        let entries = reply.ids.into_iter();
        entries
            .map(|entry| {
                let fields = entry.map.into_iter();
                fields
                    .map(|(name, value)| (name, redis::from_redis_value(value).unwrap()))
                    .collect()
            })
            .collect()
    }

    /// Plays a session as ingest does, and waits until all of it is stored.
    pub(crate) async fn live(&self, envelopes: &[Envelope]) {
        self.publish(envelopes).await;
        let ids: Vec<Vec<u8>> = envelopes
            .iter()
            .map(|one| one.event_id().as_bytes().to_vec())
            .collect();
        let client = self.client().await;
        poll("all is stored", async || {
            let sql = "SELECT count(*) FROM events WHERE event_id = ANY ($1)";
            let stored: i64 = client.query_one(sql, &[&ids]).await.ok()?.get(0);
            (usize::try_from(stored) == Ok(ids.len())).then_some(())
        })
        .await;
    }

    pub(crate) async fn publish(&self, envelopes: &[Envelope]) {
        let mut pipe = redis::pipe();
        for envelope in envelopes {
            pipe.cmd("XADD").arg("ttlc:raw").arg("*");
            for (name, value) in envelope.to_fields() {
                pipe.arg(name).arg(value.as_ref());
            }
            pipe.ignore();
        }
        pipe.exec_async(&mut self.redis().await).await.unwrap();
    }

    /// Asks for a replay as the command does; returns its id.
    pub(crate) async fn ask(&self, session_id: Uuid, speed: &str) -> Uuid {
        let speed: Speed = speed.parse().unwrap();
        let now = jiff::Timestamp::now().into();
        let progress = Progress::new(Uuid::now_v7(), session_id, speed, now);
        let state = self.bus().add_replay(&progress, None).await.unwrap();
        assert_eq!(state, State::Waiting);
        progress.replay_id
    }

    pub(crate) async fn progress(&self, replay_id: Uuid) -> Progress {
        let progress = self.bus().replay(replay_id).await.unwrap();
        progress.expect("the replay is known")
    }

    /// Waits until a replay is over.
    pub(crate) async fn over(&self, replay_id: Uuid) -> Progress {
        poll("the replay is over", async || {
            let progress = self.bus().replay(replay_id).await.ok()??;
            progress.state.is_end().then_some(progress)
        })
        .await
    }

    /// Waits until a replay has sent so many events.
    pub(crate) async fn sent(&self, replay_id: Uuid, events: u64) {
        poll("so many are sent", async || {
            let sent = self.shown(replay_id).await.len() as u64;
            (sent >= events).then_some(())
        })
        .await;
    }

    /// The envelopes of a showing in the raw stream, in its order.
    pub(crate) async fn shown(&self, replay_id: Uuid) -> Vec<Envelope> {
        let entries = self.entries("ttlc:raw").await;
        let read = entries
            .iter()
            .map(|entry| Envelope::from_fields(|name| entry.get(name).map(String::as_str)));
        read.map(Result::unwrap)
            .filter(|envelope| envelope.session_id == replay_id)
            .collect()
    }

    /// The events of a session or showing in the events stream, in its order, with their raw data.
    pub(crate) async fn events(&self, session_id: Uuid) -> Vec<(Value, String)> {
        let entries = self.entries("ttlc:events").await;
        let events = entries.into_iter().map(|entry| {
            let event: Value = serde_json::from_str(&entry["event"]).unwrap();
            (event, entry["raw"].clone())
        });
        events
            .filter(|(event, _)| event["sessionId"] == session_id.to_string())
            .collect()
    }

    /// Waits until nothing is on its way any more.
    pub(crate) async fn settled(&self) {
        for (stream, group) in [("ttlc:raw", "normalizer"), ("ttlc:events", "storage")] {
            poll("all is processed", async || {
                let groups: redis::streams::StreamInfoGroupsReply = redis::cmd("XINFO")
                    .arg(&["GROUPS", stream])
                    .query_async(&mut self.redis().await)
                    .await
                    .ok()?;
                let group = groups.groups.iter().find(|known| known.name == group)?;
                (group.pending == 0 && group.lag == Some(0)).then_some(())
            })
            .await;
        }
    }

    /// All that storage keeps but for the sessions of replays.
    pub(crate) async fn snapshot(&self) -> Value {
        self.one(
            "SELECT json_build_object(
                'events', (SELECT json_agg(to_jsonb(e) ORDER BY stream_id, seq_no, event_id) FROM events e),
                'creators', (SELECT json_agg(to_jsonb(c) ORDER BY username) FROM creators c),
                'streams', (SELECT json_agg(to_jsonb(s) ORDER BY stream_id) FROM streams s),
                'sessions', (SELECT json_agg(to_jsonb(s) ORDER BY session_id) FROM sessions s WHERE source = 'live'),
                'users', (SELECT json_agg(to_jsonb(u) ORDER BY user_id) FROM users u),
                'session_stats', (SELECT json_agg(to_jsonb(s) ORDER BY session_id, event_type) FROM session_stats s),
                'minutes', (SELECT json_agg(to_jsonb(m) ORDER BY stream_id, minute, event_type) FROM stream_minute_stats m),
                'session_users', (SELECT json_agg(to_jsonb(v) ORDER BY session_id, user_id) FROM session_users v),
                'gaps', (SELECT json_agg(to_jsonb(g) ORDER BY stream_id, from_seq_no) FROM gaps g),
                'dead_letters', (SELECT count(*) FROM dead_letters))",
        )
        .await
    }

    /// The session row of a replay.
    pub(crate) async fn row(&self, replay_id: Uuid) -> Value {
        let sql = format!("SELECT to_jsonb(s) FROM sessions s WHERE session_id = '{replay_id}'");
        poll("the replay has a row", async || {
            let client = self.client().await;
            Some(client.query_opt(&sql, &[]).await.ok()??.get(0))
        })
        .await
    }

    /// Holds a showing against its original: each message once, in order, as it was; then the end.
    pub(crate) async fn assert_shown(&self, replay_id: Uuid, original: &[Envelope], state: State) {
        let mut shown = self.shown(replay_id).await;
        let end = shown.pop().expect("it was shown");
        assert_eq!(end.kind, "ControlEvent.REPLAY_END");
        let RawData::Json(data) = &end.data else {
            panic!("{end:?}")
        };
        assert_eq!(data["state"], state.as_str());
        assert_eq!(data["sent"], shown.len());
        let numbers = |envelopes: &[Envelope]| -> Vec<u64> {
            envelopes.iter().map(|envelope| envelope.seq_no).collect()
        };
        assert_eq!(numbers(&shown), numbers(&original[..shown.len()]));
        if state == State::Done {
            assert_eq!(shown.len(), original.len());
        }
        for (shown, original) in shown.iter().zip(original) {
            let as_it_was = Envelope {
                session_id: original.session_id,
                source: Source::Live,
                replay_of: None,
                msg_id: original.msg_id.clone(),
                ..shown.clone()
            };
            assert_eq!(&as_it_was, original);
            assert_eq!(shown.source, Source::Replay);
            assert_eq!(shown.replay_of, Some(original.session_id));
            assert!(shown.ingested_at == original.ingested_at && end.seq_no > shown.seq_no);
        }
    }
}

/// A stage that runs.
pub(crate) struct Running {
    stop: CancellationToken,
    task: JoinHandle<Result<(), replay::Error>>,
}

impl Running {
    /// Stops it and checks that it ends well and soon.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(4), self.task)
            .await
            .expect("it stops within the supervisor's deadline")
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

/// A session in a room, which hands out its messages in order.
pub(crate) struct Session {
    pub(crate) id: Uuid,
    stream_id: String,
    seq_no: u64,
    at_ms: i64,
    /// Between two messages.
    step_ms: i64,
}

impl Session {
    /// A session of room `room`, with a message each `step_ms`.
    pub(crate) fn new(room: u64, step_ms: i64) -> Self {
        let at_ms = jiff::Timestamp::now().as_millisecond() - 3_600_000;
        Self {
            id: Uuid::now_v7(),
            stream_id: (7_301_000_000_000_000_000 + room).to_string(),
            seq_no: u64::try_from(at_ms).unwrap() * 16,
            at_ms,
            step_ms,
        }
    }

    pub(crate) fn message(&mut self, kind: &str, data: RawData) -> Envelope {
        let envelope = Envelope {
            stream_id: self.stream_id.clone(),
            session_id: self.id,
            source: Source::Live,
            kind: kind.to_owned(),
            seq_no: self.seq_no,
            // TikTok's clock is not ours.
            timestamp: Timestamp::from_millis(self.at_ms - 700),
            ingested_at: Timestamp::from_millis(self.at_ms),
            data,
            msg_id: Some((self.seq_no * 3).to_string()),
            backlog: false,
            replay_of: None,
        };
        self.seq_no += 1;
        self.at_ms += self.step_ms;
        envelope
    }

    /// Nothing happens for so long.
    pub(crate) fn pause(&mut self, ms: i64) {
        self.at_ms += ms;
    }

    pub(crate) fn chat(&mut self, text: &str) -> Envelope {
        // Blanks and order as nobody would write them: they must stay.
        let json = format!(
            r#"{{"user": {{"id": "68",  "nickname":"Alice"}}, "content":{}}}"#,
            json!(text)
        );
        let data: Map<String, Value> = serde_json::from_str(&json).unwrap();
        self.message("WebcastChatMessage", RawData::Json(data))
    }

    pub(crate) fn other(&mut self) -> Envelope {
        let bytes = self.seq_no.to_le_bytes().to_vec();
        self.message("WebcastFutureMessage", RawData::Protobuf(bytes))
    }

    /// A step of a gift streak: `first` … `end`.
    pub(crate) fn gift(&mut self, name: &str) -> Envelope {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/encoded");
        let file = format!("payload-gift-{name}.bin");
        let bytes = std::fs::read(folder.join(file)).unwrap();
        self.message("WebcastGiftMessage", RawData::Protobuf(bytes))
    }

    pub(crate) fn lifecycle(&mut self, what: &str, reason: &str) -> Envelope {
        let data = json!({"uniqueId": format!("creator{}", self.stream_id), "provider": "direct",
            "attempt": 1, "reason": reason});
        let Value::Object(data) = data else {
            unreachable!("it is an object")
        };
        let kind = format!("ControlEvent.{what}");
        self.message(&kind, RawData::Json(data))
    }

    /// Connected, so many messages, and disconnected.
    pub(crate) fn whole(&mut self, messages: usize) -> Vec<Envelope> {
        let mut all = vec![self.lifecycle("CONNECTED", "start")];
        for number in 0..messages {
            all.push(match number % 3 {
                0 => self.chat(&format!("number {number}")),
                _ => self.other(),
            });
        }
        all.push(self.lifecycle("DISCONNECTED", "stream_end"));
        all
    }
}
