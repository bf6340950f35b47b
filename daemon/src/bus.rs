//! All that the daemon knows of Redis: connections, keys, groups, scripts, who trims.
//!
//! **Streams** (names and fields: [`shared::streams`]): `ttlc:raw` is written by ingest and read
//! by group `normalizer`; `ttlc:events` is written by the normalizer's hop and read by groups
//! `storage`, `api` and later `forwarder`; `ttlc:dlq` takes what no stage can process.
//!
//! **Keys beside the streams**, none of which is needed to keep an event:
//!
//! | key | value | lives |
//! |---|---|---|
//! | `ttlc:seq:{room}` | the highest `seqNo` given out in the room | 30 days after the last message |
//! | `ttlc:seen:{room}` | the latest messages of the room, by `seqNo`: what TikTok may send again | 1 hour after the last message |
//! | `ttlc:status:{creator}` | [`CreatorStatus`] as JSON | 90 s after the last refresh |
//!
//! With more than one shard a room's keys are `ttlc:seq:{k}:{room}` and so on, in its stream's slot.
//!
//! **What can happen.** Every [`Error`] here is *infrastructure*: Redis is away, loading, full or
//! read-only. Callers wait and retry for ever; nothing reaches the dead letters for it. A reply
//! that was lost makes the caller repeat: a repeated `publish_raw` writes an envelope twice with
//! the same `eventId` (deduplicated downstream), a repeated hop finds its entries no longer
//! pending and writes nothing. A read whose reply was lost leaves entries pending under our own
//! name: after every (re)connect a [`Consumer`] reads its own history first. A stream that was
//! wiped loses its groups: they are made again from the start of the stream, never from its end.
//!
//! **Trimming.** Entries that every group has processed are dropped by [`Bus::trim`] (`MINID` at
//! the smallest position any group still needs). [`FUSE`] bounds a stream if no reader ever comes.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig, MultiplexedConnection};
use redis::{AsyncConnectionConfig, Client, Script, Value};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use shared::raw::Envelope;
use shared::streams::{StreamNames, dlq, events};
use shared::time::Timestamp;

/// No command takes longer than this, but for the time a read is told to wait.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
/// No connection takes longer to make.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// `MAXLEN ~` of raw and events: a fuse far above what trimming leaves, about 2.5 GB of messages.
const FUSE: u64 = 1_000_000;
/// How long a room's highest sequence number is remembered, in seconds.
const SEQ_TTL: u64 = 30 * 24 * 3600;
/// How many messages of a room are remembered, and for how many seconds after the last: TikTok
/// sends a few dozen again at each connect, seconds to minutes old.
const SEEN: isize = 1_000;
const SEEN_TTL: u64 = 3600;
/// How long a creator's status is believed without a refresh, in seconds.
const STATUS_TTL: u64 = 90;

/// Publishes the outcomes of raw entries and acknowledges these, all or nothing per entry: an
/// entry that is no longer pending (a rival was faster, or this is a repeat) publishes nothing.
///
/// KEYS: raw, events, dlq. ARGV: group, then per raw entry its id, the number of the key that its
/// outcome goes to, how many words the outcome has, and these: what `XADD` takes after the key.
const HOP: &str = r"
local done = 0
local i = 2
while i <= #ARGV do
  local id, target, words = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  if #redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1) > 0 then
    redis.call('XADD', KEYS[target], unpack(ARGV, i + 3, i + 2 + words))
    redis.call('XACK', KEYS[1], ARGV[1], id)
    done = done + 1
  end
  i = i + 3 + words
end
return done";

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
    /// `waiting`, `connecting`, `live` or `error`.
    pub state: &'static str,
    /// The room, while one is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_id: Option<String>,
    /// Who delivers.
    pub provider: &'static str,
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
    /// What is wrong, free of secrets.
    pub error: String,
    /// The original entry: all its fields as a JSON object.
    pub payload: String,
    /// When.
    pub failed_at: Timestamp,
}

impl DeadLetter {
    /// What `XADD` takes after the stream.
    fn words(&self) -> Vec<Cow<'_, str>> {
        vec![
            "*".into(),
            dlq::STAGE.into(),
            self.stage.into(),
            dlq::REASON.into(),
            self.reason.into(),
            dlq::ERROR.into(),
            self.error.as_str().into(),
            dlq::PAYLOAD.into(),
            self.payload.as_str().into(),
            dlq::FAILED_AT.into(),
            self.failed_at.to_string().into(),
        ]
    }
}

/// What becomes of a raw entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is published.
    Event {
        /// The UnifiedEvent as JSON.
        json: String,
        /// When it was made.
        normalized_at: Timestamp,
        /// The envelope's `data`, untouched.
        raw: String,
    },
    /// It goes to the dead letters.
    DeadLetter(DeadLetter),
}

impl Outcome {
    /// The number of the key in [`HOP`] that it goes to, and what `XADD` takes after that key.
    fn target_and_words(&self) -> (usize, Vec<Cow<'_, str>>) {
        match self {
            Self::Event {
                json,
                normalized_at,
                raw,
            } => {
                let words = vec![
                    "MAXLEN".into(),
                    "~".into(),
                    FUSE.to_string().into(),
                    "*".into(),
                    events::EVENT.into(),
                    json.as_str().into(),
                    events::NORMALIZED_AT.into(),
                    normalized_at.to_string().into(),
                    events::RAW.into(),
                    raw.as_str().into(),
                ];
                (2, words)
            }
            Self::DeadLetter(letter) => (3, letter.words()),
        }
    }
}

/// The outcome of one raw entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The entry's id in the raw stream.
    pub raw_id: String,
    /// What becomes of it.
    pub outcome: Outcome,
}

/// The connection to Redis that all stages share; cheap to clone, reconnects by itself.
#[derive(Clone)]
pub struct Bus {
    client: Client,
    manager: ConnectionManager,
    names: StreamNames,
    hop: Script,
}

impl Bus {
    /// Prepares a connection; the first command makes it. Fails only for an unreadable address.
    pub fn new(url: &SecretString, names: StreamNames) -> Result<Self, Error> {
        let client = Client::open(url.expose_secret()).map_err(|_| Error::Address)?;
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(0) // the callers retry, and can be cancelled meanwhile
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT));
        let manager = ConnectionManager::new_lazy_with_config(client.clone(), config)?;
        Ok(Self {
            client,
            manager,
            names,
            hop: Script::new(HOP),
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

    // ---- ingest

    /// The highest `seqNo` given out in this room, if remembered.
    pub async fn seq_floor(&self, stream_id: &str) -> Result<Option<u64>, Error> {
        Ok(redis::cmd("GET")
            .arg(self.room_key("seq", stream_id))
            .query_async(&mut self.manager.clone())
            .await?)
    }

    /// The latest messages of this room, as [`Envelope::kind`] and message id, oldest first: what
    /// TikTok may send again, also to a process that has just started.
    pub async fn seen(&self, stream_id: &str) -> Result<Vec<(String, String)>, Error> {
        let mut command = redis::cmd("ZRANGE");
        command.arg(self.room_key("seen", stream_id)).arg(0).arg(-1);
        let members: Vec<String> = command.query_async(&mut self.manager.clone()).await?;
        Ok(members
            .iter()
            .filter_map(|member| member.split_once(' '))
            .map(|(msg_id, kind)| (kind.to_owned(), msg_id.to_owned()))
            .collect())
    }

    /// Publishes envelopes in order, all or none per shard, and remembers in the same transaction
    /// each room's highest `seqNo` and its latest message ids.
    pub async fn publish_raw(&self, envelopes: &[Envelope]) -> Result<(), Error> {
        for shard in 0..self.names.shards() {
            let mut pipeline = redis::pipe();
            pipeline.atomic();
            let stream = self.names.raw(shard);
            let mut rooms: HashMap<&str, Room> = HashMap::new();
            for envelope in envelopes
                .iter()
                .filter(|e| self.names.shard_of(&e.stream_id) == shard)
            {
                let command = pipeline
                    .cmd("XADD")
                    .arg(&stream)
                    .arg("MAXLEN")
                    .arg("~")
                    .arg(FUSE)
                    .arg("*");
                for (field, value) in envelope.to_fields() {
                    command.arg(field).arg(value.as_ref());
                }
                command.ignore();
                let room = rooms.entry(&envelope.stream_id).or_default();
                room.highest = envelope.seq_no.max(room.highest);
                if let Some(msg_id) = &envelope.msg_id {
                    room.seen
                        .push((envelope.seq_no, format!("{msg_id} {}", envelope.kind)));
                }
            }
            if rooms.is_empty() {
                continue;
            }
            for (stream_id, room) in rooms {
                // One owner writes a room and its numbers only rise, so the last write is the highest.
                let seq = self.room_key("seq", stream_id);
                pipeline
                    .cmd("SET")
                    .arg(seq)
                    .arg(room.highest)
                    .arg("EX")
                    .arg(SEQ_TTL)
                    .ignore();
                if !room.seen.is_empty() {
                    let seen = self.room_key("seen", stream_id);
                    pipeline.cmd("ZADD").arg(&seen).arg(room.seen).ignore();
                    pipeline
                        .cmd("ZREMRANGEBYRANK")
                        .arg(&seen)
                        .arg(0)
                        .arg(-1 - SEEN)
                        .ignore();
                    pipeline.cmd("EXPIRE").arg(&seen).arg(SEEN_TTL).ignore();
                }
            }
            pipeline.exec_async(&mut self.manager.clone()).await?;
        }
        Ok(())
    }

    /// Tells the API how a creator's connection is; forgotten when not refreshed.
    pub async fn set_status(&self, creator: &str, status: &CreatorStatus) -> Result<(), Error> {
        let json = serde_json::to_string(status).map_err(|_| Error::Reply("SET"))?;
        let key = format!("ttlc:status:{creator}");
        Ok(redis::cmd("SET")
            .arg(key)
            .arg(json)
            .arg("EX")
            .arg(STATUS_TTL)
            .exec_async(&mut self.manager.clone())
            .await?)
    }

    fn room_key(&self, what: &str, stream_id: &str) -> String {
        if self.names.shards() == 1 {
            format!("ttlc:{what}:{stream_id}")
        } else {
            format!(
                "ttlc:{what}:{{{}}}:{stream_id}",
                self.names.shard_of(stream_id)
            )
        }
    }

    // ---- every stage

    /// Writes a dead letter to the first shard's stream.
    pub async fn dead_letter(&self, letter: &DeadLetter) -> Result<(), Error> {
        let mut command = redis::cmd("XADD");
        command.arg(self.names.dlq(0));
        for word in letter.words() {
            command.arg(word.as_ref());
        }
        Ok(command.exec_async(&mut self.manager.clone()).await?)
    }

    /// A reader of `stream` for `group` under a fixed `name`: the same name finds its own
    /// unfinished entries again after a crash. Two processes must not use one name at a time.
    pub fn consumer(&self, stream: String, group: &'static str, name: &str) -> Consumer {
        Consumer {
            bus: self.clone(),
            stream,
            group,
            name: name.to_owned(),
            connection: None,
            client_id: None,
            history: None,
        }
    }

    /// Drops the entries of `stream` that every group has processed; returns how many went.
    ///
    /// A stream without groups is left alone: nobody has said what they need.
    pub async fn trim(&self, stream: &str) -> Result<u64, Error> {
        let mut connection = self.manager.clone();
        let groups: redis::streams::StreamInfoGroupsReply = match redis::cmd("XINFO")
            .arg("GROUPS")
            .arg(stream)
            .query_async(&mut connection)
            .await
        {
            Ok(groups) => groups,
            // No stream yet.
            Err(error) if error.code() == Some("ERR") => return Ok(0),
            Err(error) => return Err(error.into()),
        };
        let mut needed: Option<EntryId> = None;
        for group in &groups.groups {
            let mut position =
                EntryId::parse(&group.last_delivered_id).ok_or(Error::Reply("XINFO"))?;
            if group.pending > 0 {
                let summary: Value = redis::cmd("XPENDING")
                    .arg(stream)
                    .arg(&group.name)
                    .query_async(&mut connection)
                    .await?;
                if let Value::Array(parts) = &summary
                    && let Some(oldest) = parts
                        .get(1)
                        .and_then(text)
                        .as_deref()
                        .and_then(EntryId::parse)
                {
                    position = position.min(oldest);
                }
            }
            needed = Some(needed.map_or(position, |smallest| smallest.min(position)));
        }
        let Some(EntryId(ms, seq)) = needed else {
            return Ok(0);
        };
        Ok(redis::cmd("XTRIM")
            .arg(stream)
            .arg("MINID")
            .arg("~")
            .arg(format!("{ms}-{seq}"))
            .query_async(&mut connection)
            .await?)
    }
}

/// What a batch says of one room.
#[derive(Default)]
struct Room {
    highest: u64,
    /// `seqNo` and member of the set of seen messages.
    seen: Vec<(u64, String)>,
}

/// A stream entry's id, in the order of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct EntryId(u64, u64);

impl EntryId {
    fn parse(text: &str) -> Option<Self> {
        let (ms, seq) = text.split_once('-')?;
        Some(Self(ms.parse().ok()?, seq.parse().ok()?))
    }
}

/// One stream entry as a group member received it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its id in the stream.
    pub id: String,
    /// Its fields. Empty when the entry was trimmed away while it was still pending.
    pub fields: HashMap<String, String>,
}

impl Entry {
    /// A field by its name.
    pub fn get(&self, field: &str) -> Option<&str> {
        self.fields.get(field).map(String::as_str)
    }

    /// All fields as a JSON object: the payload of a dead letter.
    pub fn to_json(&self) -> String {
        // A map of strings always has a JSON form.
        serde_json::to_string(&self.fields).unwrap_or_default()
    }
}

/// A member of a consumer group, on a connection of its own (a waiting read blocks it).
pub struct Consumer {
    bus: Bus,
    stream: String,
    group: &'static str,
    name: String,
    connection: Option<MultiplexedConnection>,
    /// Redis' number of the last connection, to end it before the next one reads.
    client_id: Option<u64>,
    /// The own history is read after this id; `None` once it is done.
    history: Option<String>,
}

impl Consumer {
    /// The next entries, at most `count`: own unfinished ones first, then new ones, waiting up to
    /// `wait` for these. Empty when there are none. After an error, and after a call that was
    /// dropped before its end, the next call reconnects.
    ///
    /// Entries stay pending until [`Consumer::ack`] or [`Consumer::hop`] takes them; a caller that
    /// fails must retry what it holds, since only a reconnect brings them again.
    pub async fn read(&mut self, count: usize, wait: Duration) -> Result<Vec<Entry>, Error> {
        // Put back only after a whole reply: half a one would be taken for the next call's.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect(wait).await?,
        };
        match self.read_from(&mut connection, count, wait).await {
            Ok(entries) => {
                self.connection = Some(connection);
                Ok(entries)
            }
            // The stream was wiped with its groups; the reconnect makes them again.
            Err(Error::Redis(error)) if error.code() == Some("NOGROUP") => {
                tracing::warn!(stream = %self.stream, group = self.group, "group is gone, it is made again");
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }

    async fn read_from(
        &mut self,
        connection: &mut MultiplexedConnection,
        count: usize,
        wait: Duration,
    ) -> Result<Vec<Entry>, Error> {
        if let Some(after) = &self.history {
            let entries = read_group(
                connection,
                &self.stream,
                self.group,
                &self.name,
                count,
                None,
                after,
            )
            .await?;
            if let Some(last) = entries.last() {
                self.history = Some(last.id.clone());
                return Ok(entries);
            }
            self.history = None;
        }
        read_group(
            connection,
            &self.stream,
            self.group,
            &self.name,
            count,
            Some(wait),
            ">",
        )
        .await
    }

    async fn connect(&mut self, wait: Duration) -> Result<MultiplexedConnection, Error> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT + wait));
        let mut connection = self
            .bus
            .client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        if let Some(old) = self.client_id.take() {
            // A read that still waits over there would take entries into our history after we have
            // read it. That the old connection is gone already is the usual case and no error.
            let kill = redis::cmd("CLIENT")
                .arg("KILL")
                .arg("ID")
                .arg(old)
                .exec_async(&mut connection)
                .await;
            if let Err(error) = kill {
                tracing::debug!(stream = %self.stream, group = self.group, %error, "cannot end the old connection");
            }
        }
        // Some managed servers hide it; then there is nothing to end later.
        self.client_id = redis::cmd("CLIENT")
            .arg("ID")
            .query_async(&mut connection)
            .await
            .ok();
        let made = redis::cmd("XGROUP")
            .arg("CREATE")
            .arg(&self.stream)
            .arg(self.group)
            .arg("0")
            .arg("MKSTREAM")
            .exec_async(&mut connection)
            .await;
        match made {
            Ok(()) => {}
            Err(error) if error.code() == Some("BUSYGROUP") => {}
            Err(error) => return Err(error.into()),
        }
        self.history = Some("0".to_owned());
        Ok(connection)
    }

    /// Takes entries off the pending list, once their effect is durable.
    pub async fn ack(&mut self, ids: &[String]) -> Result<(), Error> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut command = redis::cmd("XACK");
        command.arg(&self.stream).arg(self.group).arg(ids);
        Ok(command.exec_async(&mut self.bus.manager.clone()).await?)
    }

    /// Publishes what became of raw entries and takes these off the pending list, in one script:
    /// a crash or a race can never publish twice. Returns how many were still ours to publish.
    ///
    /// The consumer must be one of a raw stream.
    pub async fn hop(&mut self, shard: u32, hops: &[Hop]) -> Result<usize, Error> {
        if hops.is_empty() {
            return Ok(0);
        }
        let names = self.bus.names;
        let mut call = self.bus.hop.prepare_invoke();
        call.key(&self.stream)
            .key(names.events(shard))
            .key(names.dlq(shard));
        call.arg(self.group);
        for hop in hops {
            let (target, words) = hop.outcome.target_and_words();
            call.arg(&hop.raw_id).arg(target).arg(words.len());
            for word in &words {
                call.arg(word.as_ref());
            }
        }
        Ok(call.invoke_async(&mut self.bus.manager.clone()).await?)
    }
}

async fn read_group(
    connection: &mut MultiplexedConnection,
    stream: &str,
    group: &str,
    name: &str,
    count: usize,
    wait: Option<Duration>,
    after: &str,
) -> Result<Vec<Entry>, Error> {
    let mut command = redis::cmd("XREADGROUP");
    command
        .arg("GROUP")
        .arg(group)
        .arg(name)
        .arg("COUNT")
        .arg(count);
    if let Some(wait) = wait {
        // 0 would wait for ever.
        command
            .arg("BLOCK")
            .arg(u64::try_from(wait.as_millis().max(1)).unwrap_or(u64::MAX));
    }
    command.arg("STREAMS").arg(stream).arg(after);
    let reply: Value = command.query_async(connection).await?;
    entries(reply).ok_or(Error::Reply("XREADGROUP"))
}

/// Reads `[[stream, [[id, [field, value, …] or nil], …]]]`, or nil for nothing.
fn entries(reply: Value) -> Option<Vec<Entry>> {
    let Value::Array(streams) = reply else {
        return matches!(reply, Value::Nil).then(Vec::new);
    };
    let mut found = Vec::new();
    for stream in streams {
        let Value::Array(mut parts) = stream else {
            return None;
        };
        let Value::Array(list) = parts.pop()? else {
            return None;
        };
        for entry in list {
            let Value::Array(mut parts) = entry else {
                return None;
            };
            let values = parts.pop()?;
            let id = parts.pop().as_ref().and_then(text)?;
            let mut fields = HashMap::new();
            if let Value::Array(values) = values {
                let mut values = values.into_iter();
                while let (Some(field), Some(value)) = (values.next(), values.next()) {
                    fields.insert(text(&field)?, into_text(value)?);
                }
            }
            found.push(Entry { id, fields });
        }
    }
    Some(found)
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
