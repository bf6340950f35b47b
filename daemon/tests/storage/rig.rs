//! Servers of a test's own, a writer to start and stop, and events to feed it.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use daemon::bus::Bus;
use daemon::config::Common;
use daemon::storage::{self, DatabaseOptions, Options, RetentionOptions};
use serde_json::{Value, json};
use shared::identity::EventId;
use shared::streams::{GROUP_STORAGE, StreamNames};
use shared::time::Timestamp;
use tokio::task::JoinHandle;
use tokio_postgres::types::FromSqlOwned;
use tokio_postgres::{Client, NoTls};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use xtask::servers::{Durability, PrivatePostgres, PrivateRedis};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(40);

pub(crate) struct Rig {
    pub(crate) postgres: Option<PrivatePostgres>,
    pub(crate) redis: Option<PrivateRedis>,
    pub(crate) database: String,
    redis_url: String,
}

impl Rig {
    /// Servers with the migrated tables.
    pub(crate) async fn new() -> Self {
        let rig = Self::unmigrated().await;
        storage::migrate(&rig.options().database).await.unwrap();
        rig
    }

    pub(crate) async fn unmigrated() -> Self {
        // Shown by the test runner when the test fails.
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
        Self {
            database: postgres.url().clone(),
            redis_url: redis.url().clone(),
            postgres: Some(postgres),
            redis: Some(redis),
        }
    }

    /// Another Redis instead of its own.
    pub(crate) fn use_redis(&mut self, url: &str) {
        self.redis = None;
        url.clone_into(&mut self.redis_url);
    }

    pub(crate) fn options(&self) -> Options {
        Options {
            database: DatabaseOptions {
                database_url: Some(self.database.clone().into()),
                database_migration_url: None,
                database_ca_file: None,
            },
            retention: RetentionOptions {
                event_retention_days: 90,
                pseudonym_key: None,
            },
            storage_batch_size: 500,
            storage_batch_ms: 10,
        }
    }

    pub(crate) fn redis_url(&self) -> &str {
        &self.redis_url
    }

    pub(crate) fn bus(&self) -> Bus {
        Bus::new(&self.redis_url.clone().into(), StreamNames::new(1)).unwrap()
    }

    pub(crate) fn common(&self) -> Common {
        Common {
            redis_url: self.redis_url.clone().into(),
            stream_shards: 1,
            health_addr: None,
        }
    }

    pub(crate) fn start(&self, options: Options) -> Running {
        let stop = CancellationToken::new();
        let task = tokio::spawn(storage::run(options, self.bus(), stop.clone()));
        Running { stop, task }
    }

    pub(crate) async fn client(&self) -> Client {
        let (client, connection) = tokio_postgres::connect(&self.database, NoTls)
            .await
            .unwrap();
        tokio::spawn(connection);
        client
    }

    /// The first column of the first row.
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
    pub(crate) async fn publish(&self, events: &[Event]) {
        if events.is_empty() {
            return;
        }
        let mut pipe = redis::pipe();
        for event in events {
            pipe.cmd("XADD").arg("ttlc:events").arg("*");
            for (field, value) in event.fields() {
                pipe.arg(field).arg(value);
            }
            pipe.ignore();
        }
        pipe.exec_async(&mut self.redis().await).await.unwrap();
    }

    /// Makes the group start over: every entry is delivered again, as after a crash between the
    /// commit and the acknowledgement.
    pub(crate) async fn redeliver(&self) {
        redis::cmd("XGROUP")
            .arg(&["DESTROY", "ttlc:events", GROUP_STORAGE])
            .exec_async(&mut self.redis().await)
            .await
            .unwrap();
    }

    /// How many entries are read and not acknowledged.
    pub(crate) async fn pending(&self) -> usize {
        let groups: Result<redis::streams::StreamInfoGroupsReply, _> = redis::cmd("XINFO")
            .arg(&["GROUPS", "ttlc:events"])
            .query_async(&mut self.redis().await)
            .await;
        groups.map_or(0, |groups| {
            groups.groups.iter().map(|group| group.pending).sum()
        })
    }

    /// Waits until the writer has acknowledged every event.
    pub(crate) async fn settled(&self) {
        self.acknowledged("ttlc:events", GROUP_STORAGE).await;
    }

    /// Waits until the group has acknowledged every entry of the stream.
    pub(crate) async fn acknowledged(&self, stream: &str, group: &str) {
        poll("every entry is acknowledged", async || {
            let mut redis = self.redis().await;
            let groups: redis::streams::StreamInfoGroupsReply = redis::cmd("XINFO")
                .arg(&["GROUPS", stream])
                .query_async(&mut redis)
                .await
                .ok()?;
            let last: redis::streams::StreamRangeReply = redis::cmd("XREVRANGE")
                .arg(&[stream, "+", "-", "COUNT", "1"])
                .query_async(&mut redis)
                .await
                .ok()?;
            let group = groups.groups.iter().find(|known| known.name == group)?;
            (group.pending == 0 && group.last_delivered_id == last.ids.first()?.id).then_some(())
        })
        .await;
    }

    /// Publishes and waits until all is stored.
    pub(crate) async fn store(&self, options: Options, events: &[Event]) {
        self.publish(events).await;
        let running = self.start(options);
        self.settled().await;
        running.stop().await;
    }

    /// The dead letters as (reason, error, payload).
    pub(crate) async fn dead_letters(&self) -> Vec<(String, String, String)> {
        let reply: redis::streams::StreamRangeReply = redis::cmd("XRANGE")
            .arg(&["ttlc:dlq", "-", "+"])
            .query_async(&mut self.redis().await)
            .await
            .unwrap();
        reply
            .ids
            .iter()
            .map(|entry| {
                let field = |name| entry.get::<String>(name).unwrap();
                assert_eq!(field("stage"), "storage");
                (field("reason"), field("error"), field("payload"))
            })
            .collect()
    }

    /// All that the writer keeps, but for the moment of storing.
    pub(crate) async fn snapshot(&self) -> Value {
        self.one(
            "SELECT json_build_object(
                'events', (SELECT json_agg(to_jsonb(e) - 'stored_at' ORDER BY stream_id, seq_no, event_id) FROM events e),
                'creators', (SELECT json_agg(to_jsonb(c) - 'added_at' ORDER BY username) FROM creators c),
                'streams', (SELECT json_agg(to_jsonb(s) ORDER BY stream_id) FROM streams s),
                'sessions', (SELECT json_agg(to_jsonb(s) ORDER BY session_id) FROM sessions s),
                'users', (SELECT json_agg(to_jsonb(u) ORDER BY user_id) FROM users u),
                'session_stats', (SELECT json_agg(to_jsonb(s) ORDER BY session_id, event_type) FROM session_stats s),
                'minutes', (SELECT json_agg(to_jsonb(m) ORDER BY stream_id, minute, event_type) FROM stream_minute_stats m),
                'session_users', (SELECT json_agg(to_jsonb(v) ORDER BY session_id, user_id) FROM session_users v),
                'gaps', (SELECT json_agg(to_jsonb(g) - 'recorded_at' ORDER BY stream_id, from_seq_no, to_seq_no) FROM gaps g))",
        )
        .await
    }
}

/// A writer that runs.
pub(crate) struct Running {
    stop: CancellationToken,
    task: JoinHandle<Result<(), storage::Error>>,
}

impl Running {
    /// Stops it and checks that it ends well and soon.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(4), self.task)
            .await
            .expect("the writer stops within the supervisor's deadline")
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

/// An event of the stream, to be changed at will before it is published.
#[derive(Clone)]
pub(crate) struct Event {
    pub(crate) json: Value,
    pub(crate) raw: String,
    pub(crate) normalized_at: String,
    /// Instead of the JSON.
    pub(crate) text: Option<String>,
}

impl Event {
    fn fields(&self) -> [(&'static str, String); 3] {
        [
            (
                "event",
                self.text.clone().unwrap_or_else(|| self.json.to_string()),
            ),
            ("normalizedAt", self.normalized_at.clone()),
            ("raw", self.raw.clone()),
        ]
    }

    pub(crate) fn with(mut self, pointer: &str, value: Value) -> Self {
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        self.json.pointer_mut(parent).unwrap()[name] = value;
        self
    }

    pub(crate) fn id(&self) -> EventId {
        self.json["eventId"].as_str().unwrap().parse().unwrap()
    }
}

/// A session in a room, which hands out events in order, a second apart.
pub(crate) struct Room {
    pub(crate) stream_id: String,
    pub(crate) session: Uuid,
    pub(crate) username: String,
    pub(crate) seq_no: u64,
    pub(crate) at_ms: i64,
}

impl Room {
    /// A room of a creator; its first event is received at `at_ms`.
    pub(crate) fn new(stream_id: &str, username: &str, session: u128, at_ms: i64) -> Self {
        Self {
            stream_id: stream_id.into(),
            session: Uuid::from_u128(session),
            username: username.into(),
            seq_no: u64::try_from(at_ms).unwrap() * 16,
            at_ms,
        }
    }

    fn event(&mut self, kind: &str, event_type: &str, payload: &Value, raw: String) -> Event {
        let at = Timestamp::from_millis(self.at_ms);
        let event = Event {
            json: json!({
                "schemaVersion": "unified-event.v1",
                "eventId": EventId::new(&self.stream_id, self.seq_no, kind),
                "eventType": event_type,
                "source": "live",
                "streamId": self.stream_id,
                "sessionId": self.session,
                "seqNo": self.seq_no,
                "timestamp": at,
                "ingestedAt": at,
                "payload": payload,
            }),
            raw,
            normalized_at: at.to_string(),
            text: None,
        };
        self.seq_no += 1;
        self.at_ms += 1_000;
        event
    }

    /// A comment of viewer `user`.
    pub(crate) fn chat(&mut self, user: u64) -> Event {
        let payload =
            json!({"rawType": "WebcastChatMessage", "message": format!("number {}", self.seq_no)});
        self.by(user, "CHAT", &payload)
    }

    /// A step of a gift streak of viewer `user`, `count` items so far at 5 coins each.
    pub(crate) fn gift(&mut self, user: u64, count: u64, state: &str) -> Event {
        let payload = json!({
            "rawType": "WebcastGiftMessage", "giftId": "5655", "giftName": "Rose", "giftCount": count,
            "coins": {"unit": 5, "total": 5 * count},
            "streak": {"id": format!("{user}:5655:1"), "state": state, "inferred": false},
        });
        self.by(user, "GIFT", &payload)
    }

    /// A streak that is closed because its end did not come: it has the number of the streak's
    /// last step, which is handed out just before.
    pub(crate) fn gift_timeout(&mut self, user: u64, count: u64) -> Event {
        self.seq_no -= 1;
        let payload = json!({
            "rawType": "GiftStreakTimeout", "giftId": "5655", "giftName": "Rose", "giftCount": count,
            "coins": {"unit": 5, "total": 5 * count},
            "streak": {"id": format!("{user}:5655:1"), "state": "final", "inferred": true},
        });
        self.by(user, "GIFT", &payload)
    }

    /// `count` likes of viewer `user`.
    pub(crate) fn like(&mut self, user: u64, count: u64) -> Event {
        let payload =
            json!({"rawType": "WebcastLikeMessage", "count": count, "total": self.seq_no});
        self.by(user, "LIKE", &payload)
    }

    /// So many are watching.
    pub(crate) fn watched_by(&mut self, viewers: u64) -> Event {
        let payload = json!({"rawType": "WebcastRoomUserSeqMessage", "viewerCount": viewers, "totalViewers": viewers});
        let mut event = self.by(0, "ROOM_USER", &payload);
        event.json.as_object_mut().unwrap().remove("user");
        event
    }

    /// Messages of ours that were dropped, `from` and `to` included.
    pub(crate) fn gap(&mut self, from: u64, to: u64, reason: &str) -> Event {
        let raw = json!({"fromSeq": from, "toSeq": to, "reason": reason, "count": to - from + 1});
        let payload = json!({"rawType": "ControlEvent.GAP", "raw": raw,
            "decoded": {"from": from, "to": to, "reason": reason, "count": to - from + 1}});
        self.event("ControlEvent.GAP", "RAW", &payload, raw.to_string())
    }

    /// A showing of the room has ended.
    pub(crate) fn replay_end(&mut self, state: &str) -> Event {
        let raw = json!({"state": state, "sent": 4, "skipped": 0});
        let payload = json!({"rawType": "ControlEvent.REPLAY_END", "raw": raw});
        self.event("ControlEvent.REPLAY_END", "RAW", &payload, raw.to_string())
    }

    /// Something that viewer `user` did.
    fn by(&mut self, user: u64, event_type: &str, payload: &Value) -> Event {
        let kind = payload["rawType"].as_str().unwrap();
        let raw = STANDARD.encode(format!("{kind} {} {}", self.stream_id, self.seq_no));
        let mut event = self.event(kind, event_type, payload, raw);
        event.json["user"] = json!({
            "userId": user.to_string(),
            "username": format!("viewer{user}"),
            "displayName": format!("Viewer {user}"),
            "avatarUrl": format!("https://example.com/{user}.webp"),
            "roles": {"moderator": false, "subscriber": false, "follower": true, "topGifter": false, "anchor": false},
        });
        event
    }

    pub(crate) fn lifecycle(&mut self, event_type: &str, reason: &str, more: &Value) -> Event {
        let kind = format!("ControlEvent.{event_type}");
        let mut payload = json!({
            "rawType": kind, "uniqueId": self.username, "provider": "direct", "attempt": 1, "reason": reason,
        });
        payload
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        self.event(&kind, event_type, &payload, more.to_string())
    }

    pub(crate) fn connected(&mut self) -> Event {
        let more = json!({
            "title": format!("{} live", self.username),
            "ownerId": format!("900{}", self.username.len()),
            "ownerNickname": self.username.to_uppercase(),
            "startedAt": "2026-11-20T10:00:00.000Z",
        });
        self.lifecycle("CONNECTED", "start", &more)
    }

    pub(crate) fn disconnected(&mut self, reason: &str) -> Event {
        self.lifecycle("DISCONNECTED", reason, &json!({"closeCode": 1006}))
    }

    pub(crate) fn stream_end(&mut self, action: i64) -> Event {
        self.event(
            "WebcastControlMessage",
            "STREAM_END",
            &json!({"rawType": "WebcastControlMessage", "action": action}),
            "AAEC".into(),
        )
    }
}

/// Noon of today, UTC: far enough from both its ends.
pub(crate) fn noon() -> i64 {
    let day = jiff::Timestamp::now()
        .to_zoned(jiff::tz::TimeZone::UTC)
        .date();
    day.at(12, 0, 0, 0)
        .to_zoned(jiff::tz::TimeZone::UTC)
        .unwrap()
        .timestamp()
        .as_millisecond()
}
