//! All that the daemon knows of Redis: connections, keys, groups, scripts, who trims.
//!
//! Here: the connection, statuses, dead letters. In `bus/`: [`rooms`](self::rooms) (who
//! may publish a room, and publishing), [`consumer`](self::consumer) (reading a stream),
//! [`hop`](self::hop) (from raw entries to events), [`redrive`](self::redrive) (dead letters back),
//! [`replay`](self::replay) (showing stored sessions again), [`erased`](self::erased) (who is to be
//! forgotten), [`member`](self::member) (several that share a stream's entries),
//! [`control`](self::control) (who is followed), [`trim`](self::trim) (what leaves the streams),
//! [`incarnation`](self::incarnation) (whether it is the same Redis), [`failure`](self::failure) (what an
//! error means), `link` (the connection), `round_trips` (how long it
//! takes), `safety` (settings of Redis that lose events).
//!
//! **Streams** (names and fields: [`shared::streams`]): `ttlc:raw` is written by ingest and read
//! by group `normalizer`; `ttlc:events` is written by the normalizer's hop and read by groups
//! `storage`, `api` and, where one runs, `forwarder`; `ttlc:control` is written by the API and read by group
//! `ingest`; `ttlc:dlq` takes what no stage can process.
//!
//! **Keys beside the streams**:
//!
//! | key | value | lives |
//! |---|---|---|
//! | `ttlc:lease:{room}` | the [`Owner`] that reads the room | 10 s after the last renewal |
//! | `ttlc:fence:{room}` | the last owner, and a number that rises with each new one | 30 days after the last claim |
//! | `ttlc:seq:{room}` | the highest `seqNo` given out in the room | 30 days after the last message |
//! | `ttlc:seen:{room}` | the latest messages of the room, by `seqNo`: what TikTok may send again | 1 hour after the last message |
//! | `ttlc:late:{room}` | the batches of the room that a former owner published late, by their first `seqNo` | 1 hour after the last one |
//! | `ttlc:redrive:{mark}` | the entry that a dead letter became when it was put back | 30 days |
//! | `ttlc:status:{creator}` | [`CreatorStatus`] as JSON, with the [`Owner`] that wrote it as `daemon` | 35 s after the last refresh |
//! | `ttlc:incarnation` | a random text, by which a Redis that was wiped is known | for ever |
//! | `ttlc:tracked` | by creator, whether to follow them ([`Tracked`] as JSON) | for ever |
//! | `ttlc:lease:normalizer`, `ttlc:lease:forwarder`, `ttlc:lease:control` | the [`Owner`] that has the [`Role`] | as its holder says |
//! | `ttlc:lease:storage:{slot}`, `ttlc:lease:ops:{slot}` | the [`Owner`] that reads as consumer `storage-{slot}` or `ops-{slot}` ([`Member`]) | 4 s after the last renewal |
//! | `ttlc:parked:{entry}` | the fields, as JSON, of an entry of `ttlc:dlq` that Postgres cannot take | as long as events are kept, or until somebody is erased whom it names |
//! | `ttlc:normalizer` | what the normalizer remembers: gift streaks, totals of likes, prices of gifts; and the number of its last batch | an hour after a room's last message |
//! | `ttlc:replay:{replay}` | how far a replay is ([`shared::replay::Progress`]), who shows it (`owner`, `until`) and whether it shall end (`cancel`) | 7 days after its end |
//! | `ttlc:replays` | the replays that have not ended, by when they were asked for | for ever |
//! | `ttlc:replayed:{replay}` | what was published of a replay, in the slot of its room | 30 days after the last batch |
//! | `ttlc:replayers` | that an ingest process with a database runs | 10 s after the last one said so |
//! | `ttlc:erased` | by hash, each tombstone of an erased viewer as JSON; and `version`, the number of the last change | for ever |
//! | `ttlc:gifts` | by gift id, its name and price as JSON, from the provider's list | a week after it was last fetched |
//!
//! With more than one shard a room's keys are `ttlc:seq:{k}:{room}` and so on, in its stream's slot,
//! and so are those of roles and slots: `ttlc:lease:storage:{k}:{slot}`.
//!
//! **What can happen.** Every [`Error`] here is *infrastructure*: Redis is away, loading, full,
//! read-only, being replaced; which of these, says its [`Class`]. Callers wait and retry for ever;
//! nothing reaches the dead letters for it. Every command has a time-out. A reply
//! that was lost makes the caller repeat: a repeated [`Bus::publish`] finds that the room has those
//! numbers already, a repeated hop that its batch was done; neither writes anything. A read whose reply was lost leaves entries pending under our own
//! name: after every (re)connect a [`Consumer`] reads its own history first. A stream that was
//! wiped loses its groups: they are made again from the start of the stream, never from its end. What
//! it had accepted and lost, ingest publishes again from its spool, or tells as a gap.
//!
//! **Trimming** is [`trim`](self::trim)'s: `MINID` at the smallest position any group still needs. [`FUSE`]
//! bounds a stream if no reader ever comes.

pub mod consumer;
pub mod control;
pub mod erased;
pub mod failure;
pub mod hop;
pub mod incarnation;
mod link;
pub mod member;
pub mod redrive;
pub mod replay;
pub mod rooms;
mod round_trips;
mod safety;
pub mod trim;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use redis::{Client, Script, Value};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use shared::dead_letter::{redact_error, redact_payload};
use shared::streams::{StreamNames, dlq};
use shared::time::Timestamp;

use self::link::Link;
use self::round_trips::Timed;

pub use self::consumer::{Consumer, Entry, POISON};
pub use self::control::Tracked;
pub use self::failure::{Class, note};
pub use self::hop::{Batch, Hop, Hopped, Outcome, ROLE_LEASE, ROLE_RENEW, Role, State};
pub use self::incarnation::{Change, Incarnation};
pub use self::member::{Member, Seats};
pub use self::rooms::{Claim, LEASE, Memory, Owner, Published, RENEW, RoomBatch};

/// No command takes longer than this, but for the time a read is told to wait.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
/// No connection takes longer to make.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// `MAXLEN ~` of raw and events: a fuse far above what trimming leaves, about 2.5 GB of messages.
const FUSE: u64 = 1_000_000;
/// How long a creator's status is believed without a refresh, in seconds.
const STATUS_TTL: u64 = 35;

/// KEYS: a creator's status. ARGV: who writes, the status with its writer, its state, its life in s.
/// A daemon on standby says so only where nobody else says anything, and nobody but its reader says
/// that a live room is something else.
const SET_STATUS: &str = r"
local known = redis.call('GET', KEYS[1])
if known then
  local readable, status = pcall(cjson.decode, known)
  if readable and status.daemon and status.daemon ~= ARGV[1]
    and (ARGV[3] == 'standby' or (status.state == 'live' and ARGV[3] ~= 'live')) then return end
end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[4])";

/// What begins the keys of what Postgres cannot take.
const PARKED: &str = "ttlc:parked";
/// The list of gifts, for all shards.
const GIFTS: &str = "ttlc:gifts";
/// How long it is kept, in seconds: it is fetched anew every day.
const GIFTS_TTL: i64 = 7 * 24 * 3600;

/// Redis did not do what it was asked. Always infrastructure: wait and retry.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be read. Its text is not repeated: it may hold a password.
    #[error(
        "REDIS_URL is not a Redis address: use redis://[user:password@]host:port[/db] or rediss://…"
    )]
    Address,
    /// A command or a connection failed.
    #[error("redis: {0}")]
    Redis(#[from] redis::RedisError),
    /// The reply has a form that the command does not have.
    #[error("redis: unexpected reply to {0}")]
    Reply(&'static str),
}

/// The state of one creator, for the API: why there are, or are no, events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreatorStatus {
    /// `waiting`, `connecting`, `standby` (another daemon reads the room), `live` or `error`.
    pub state: &'static str,
    /// The room, while one is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_id: Option<String>,
    /// Who delivers.
    pub provider: &'static str,
    /// Whether that is not the provider of the first choice.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fallback: bool,
    /// A category, as in the lifecycle events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// More about it, free of secrets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// How many attempts in a row have failed.
    pub attempt: u32,
    /// Since when the state holds.
    pub since: Timestamp,
    /// When the next attempt is due.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Timestamp>,
}

/// Something that cannot be processed, with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The stage that gives up.
    pub stage: &'static str,
    /// The category, such as `PARSE_ERROR`.
    pub reason: &'static str,
    /// What is wrong.
    pub error: String,
    /// The original entry: all its fields as a JSON object.
    pub payload: String,
    /// When.
    pub failed_at: Timestamp,
}

impl DeadLetter {
    /// What `XADD` takes after the stream: free of secrets, whoever made the letter and whatever
    /// its entry held.
    fn words(&self) -> Vec<Cow<'_, str>> {
        vec![
            "*".into(),
            dlq::STAGE.into(),
            self.stage.into(),
            dlq::REASON.into(),
            self.reason.into(),
            dlq::ERROR.into(),
            redact_error(&self.error),
            dlq::PAYLOAD.into(),
            redact_payload(&self.payload),
            dlq::FAILED_AT.into(),
            self.failed_at.to_string().into(),
        ]
    }
}

/// The connection to Redis that all stages share; cheap to clone, reconnects by itself.
#[derive(Clone)]
pub struct Bus {
    client: Client,
    manager: Timed<Link>,
    names: StreamNames,
    /// Shared: their texts are many times the rest, and every creator has a clone.
    scripts: Arc<Scripts>,
}

/// Scripts, prepared once.
struct Scripts {
    rooms: rooms::Scripts,
    hop: hop::Scripts,
    replays: replay::Scripts,
    status: Script,
}

impl Bus {
    /// Prepares a connection; the first command makes it. Fails only for an unreadable address.
    pub fn new(url: &SecretString, names: StreamNames) -> Result<Self, Error> {
        let client = Client::open(url.expose_secret()).map_err(|_| Error::Address)?;
        let manager = Link::new(client.clone())?;
        Ok(Self {
            client,
            manager: Timed(manager),
            names,
            scripts: Arc::new(Scripts {
                rooms: rooms::Scripts::new(),
                hop: hop::Scripts::new(),
                replays: replay::Scripts::new(),
                status: Script::new(SET_STATUS),
            }),
        })
    }

    /// The names of the streams.
    pub fn names(&self) -> StreamNames {
        self.names
    }

    /// Asks Redis for a sign of life.
    pub async fn ping(&self) -> Result<(), Error> {
        Ok(redis::cmd("PING")
            .exec_async(&mut self.manager.clone())
            .await?)
    }

    /// Tells the API how a creator's connection is; forgotten when not refreshed. Where two daemons
    /// follow the same creator, the one that reads the room is heard.
    pub async fn set_status(
        &self,
        creator: &str,
        status: &CreatorStatus,
        by: Owner,
    ) -> Result<(), Error> {
        let mut json = serde_json::to_value(status).map_err(|_| Error::Reply("SET"))?;
        json["daemon"] = by.to_string().into();
        let mut call = self.scripts.status.prepare_invoke();
        call.key(status_key(creator))
            .arg(by.to_string())
            .arg(json.to_string())
            .arg(status.state)
            .arg(STATUS_TTL);
        Ok(call.invoke_async(&mut self.manager.clone()).await?)
    }

    /// A creator is followed no more.
    pub async fn remove_status(&self, creator: &str) -> Result<(), Error> {
        Ok(redis::cmd("DEL")
            .arg(status_key(creator))
            .exec_async(&mut self.manager.clone())
            .await?)
    }

    /// Puts a list of gifts by their ids in place of the last one, for the normalizer: each as
    /// JSON `{name, coins, imageUrl}`. Forgotten a week after it was last put.
    pub async fn put_gifts(&self, gifts: &[(String, String)]) -> Result<(), Error> {
        let mut commands = redis::pipe();
        commands.atomic().del(GIFTS).ignore();
        if !gifts.is_empty() {
            commands.hset_multiple(GIFTS, gifts).ignore();
            commands.expire(GIFTS, GIFTS_TTL).ignore();
        }
        Ok(commands.exec_async(&mut self.manager.clone()).await?)
    }

    /// The list of gifts by their ids, as it was put; empty when there is none.
    pub async fn gifts(&self) -> Result<HashMap<String, String>, Error> {
        Ok(redis::cmd("HGETALL")
            .arg(GIFTS)
            .query_async(&mut self.manager.clone())
            .await?)
    }

    /// A key of a room, in the slot of its shard.
    fn room_key(&self, what: &str, stream_id: &str) -> String {
        let key = self.shard_key(&format!("ttlc:{what}"), self.names.shard_of(stream_id));
        format!("{key}:{stream_id}")
    }

    /// A key of a shard, in its slot.
    fn shard_key(&self, key: &str, shard: u32) -> String {
        if self.names.shards() == 1 {
            key.to_owned()
        } else {
            format!("{key}:{{{shard}}}")
        }
    }

    // ---- every stage

    /// Writes a dead letter to the first shard's stream.
    pub async fn dead_letter(&self, letter: &DeadLetter) -> Result<(), Error> {
        self.dead_letter_entry(letter).await.map(|_| ())
    }

    /// The same, for who needs to know the id of its entry.
    pub async fn dead_letter_entry(&self, letter: &DeadLetter) -> Result<String, Error> {
        let mut command = redis::cmd("XADD");
        command.arg(self.names.dlq(0));
        for word in letter.words() {
            command.arg(word.as_ref());
        }
        Ok(command.query_async(&mut self.manager.clone()).await?)
    }

    /// Keeps what no table can take, under a key of its own, for `life` or for ever; returns the key.
    pub async fn park(
        &self,
        shard: u32,
        entry: &str,
        json: &str,
        life: Option<Duration>,
    ) -> Result<String, Error> {
        let key = format!("{}:{entry}", self.shard_key(PARKED, shard));
        let mut command = redis::cmd("SET");
        command.arg(&key).arg(json);
        if let Some(life) = life {
            command.arg("EX").arg(life.as_secs());
        }
        command.exec_async(&mut self.manager.clone()).await?;
        Ok(key)
    }

    /// A reader of `stream` for `group` under a fixed `name`: the same name finds its own
    /// unfinished entries again after a crash. Two processes must not use one name at a time.
    pub fn consumer(&self, stream: String, group: &'static str, name: &str) -> Consumer {
        Consumer::new(self.clone(), stream, group, name)
    }
}

fn status_key(creator: &str) -> String {
    format!("ttlc:status:{creator}")
}

fn text(value: &Value) -> Option<String> {
    into_text(value.clone())
}

/// A string reply; bytes that are not UTF-8 are replaced, for our own fields always are.
fn into_text(value: Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => Some(
            String::from_utf8(bytes)
                .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()),
        ),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}
