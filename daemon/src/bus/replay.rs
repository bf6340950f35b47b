//! Replays in Redis: how far each is, who shows it, and publishing what it shows.
//!
//! Comes in: stored messages of a room with the id of a showing. Goes out: entries of the raw stream,
//! and in the same script how far the showing is ([`Position`], `ttlc:replayed:{replay}`, in the slot
//! of the room). A batch is published only where the last one ended: so neither a crash, a lost
//! reply nor a second daemon shows an event twice or leaves one out. Nothing here touches the room's
//! lease, numbers or memory of messages: those are ingest's.
//!
//! Beside it, for everybody to see, the progress (`ttlc:replay:{replay}`, [`shared::replay`]), with
//! who shows it and until when that holds: by the clock of Redis, a few seconds after the last sign
//! of life. Whose lease has lapsed is replaced; the position decides, not the lease. A wiped Redis
//! forgets replays; a daemon that shows one at that moment writes it down again and goes on.

use std::collections::HashMap;
use std::time::Duration;

use redis::Script;
use shared::identity::EventId;
use shared::replay::{KEPT_SECONDS, Progress, State, UNFINISHED, key};
use shared::streams::{GROUP_NORMALIZER, GROUP_STORAGE};
use shared::time::Timestamp;
use uuid::Uuid;

use super::{Bus, Error, FUSE, Owner};

/// How long a daemon that shows a replay is believed to do so without a sign of life.
pub const REPLAY_LEASE: Duration = Duration::from_secs(5);
/// How long the position of a replay is kept after its last batch, in seconds.
const POSITION_TTL: u64 = 30 * 24 * 3600;
/// Says that there is an ingest process with a database, and for how many seconds that is believed.
const SHOWERS: &str = "ttlc:replayers";
const SHOWERS_TTL: u64 = 10;
/// Replays that are looked at.
const LOOK: isize = 2_000;

/// KEYS: progress. ARGV: the lease's life in ms or 0 for nobody's, then fields and values.
/// Returns the state that it has already, or an empty text.
const ADD: &str = r"
local state = redis.call('HGET', KEYS[1], 'state')
if state then return state end
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
if ARGV[1] ~= '0' then
  local now = redis.call('TIME')
  redis.call('HSET', KEYS[1], 'until', now[1] * 1000 + math.floor(now[2] / 1000) + ARGV[1])
end
return ''";

/// KEYS: progress. ARGV: owner, the lease's life in ms. Returns all fields when it is ours now.
const CLAIM: &str = r"
local held = redis.call('HMGET', KEYS[1], 'state', 'owner', 'until')
if not held[1] or held[1] == 'done' or held[1] == 'cancelled' or held[1] == 'failed' then return {} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if held[2] and held[2] ~= ARGV[1] and tonumber(held[3] or '0') > now then return {} end
redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'until', now + ARGV[2])
return redis.call('HGETALL', KEYS[1])";

/// KEYS: progress. ARGV: owner, the lease's life in ms, then fields and values. Renews the lease and
/// writes them, also where Redis has lost all. Returns 0, 1 when it shall end, 2 when it was lost, -1
/// when it is another's.
const REFRESH: &str = r"
local held = redis.call('HMGET', KEYS[1], 'state', 'owner', 'until', 'cancel')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if held[1] == 'done' or held[1] == 'cancelled' or held[1] == 'failed' then return -1 end
if held[2] and held[2] ~= ARGV[1] and tonumber(held[3] or '0') > now then return -1 end
redis.call('HSET', KEYS[1], 'until', now + ARGV[2], unpack(ARGV, 3))
if not held[1] then return 2 end
if held[4] then return 1 end
return 0";

/// KEYS: progress. ARGV: owner, the state. Gives it back unfinished.
const RELEASE: &str = r"
if redis.call('HGET', KEYS[1], 'owner') == ARGV[1] then
  redis.call('HSET', KEYS[1], 'state', ARGV[2])
  redis.call('HDEL', KEYS[1], 'owner', 'until')
end";

/// KEYS: progress. ARGV: owner, how long it is kept, then fields and values. Ends it for good, if it
/// is ours or nobody's; a repeat changes nothing.
const FINISH: &str = r"
local owner = redis.call('HGET', KEYS[1], 'owner')
if owner and owner ~= ARGV[1] then return end
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
redis.call('HDEL', KEYS[1], 'until', 'cancel', 'owner')
redis.call('EXPIRE', KEYS[1], ARGV[2])";

/// KEYS: progress. ARGV: now, how long it is kept. What nobody has begun ends at once; what is shown
/// is marked for its daemon. Returns 0 for an unknown or ended one, 1 for marked, 2 for ended.
const CANCEL: &str = r"
local held = redis.call('HMGET', KEYS[1], 'state', 'owner', 'startedAt')
if not held[1] or held[1] == 'done' or held[1] == 'cancelled' or held[1] == 'failed' then return 0 end
if held[1] == 'waiting' and not held[2] and not held[3] then
  redis.call('HSET', KEYS[1], 'state', 'cancelled', 'finishedAt', ARGV[1], 'updatedAt', ARGV[1])
  redis.call('EXPIRE', KEYS[1], ARGV[2])
  return 2
end
redis.call('HSET', KEYS[1], 'cancel', '1')
return 1";

/// KEYS: progress. Returns the state or an empty text, 1 when nobody has it, 1 when it shall end, 1
/// when it was begun before.
const LOOK_AT: &str = r"
local held = redis.call('HMGET', KEYS[1], 'state', 'owner', 'until', 'cancel', 'startedAt')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local free = not held[2] or tonumber(held[3] or '0') <= now
return {held[1] or '', free and 1 or 0, held[4] and 1 or 0, held[5] and 1 or 0}";

/// KEYS: raw, position. ARGV: where the last batch must have ended or an empty text, where this one
/// ends, how many were sent and skipped until then, how it has ended or an empty text, the position's
/// life in s, the fuse; then for each entry how many words it has, and these: what XADD takes.
/// Returns 1, or 0 when nothing was done.
const SHOW: &str = r"
local known = redis.call('HMGET', KEYS[2], 'at', 'end')
if known[2] or (known[1] and known[1] ~= ARGV[1]) then return 0 end
local i = 8
while i <= #ARGV do
  local words = tonumber(ARGV[i])
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[7], '*', unpack(ARGV, i + 1, i + words))
  i = i + 1 + words
end
redis.call('HSET', KEYS[2], 'at', ARGV[2], 'sent', ARGV[3], 'skipped', ARGV[4])
if ARGV[5] ~= '' then redis.call('HSET', KEYS[2], 'end', ARGV[5]) end
redis.call('EXPIRE', KEYS[2], ARGV[6])
return 1";

/// The scripts of this file, prepared once.
#[derive(Clone)]
pub(super) struct Scripts {
    add: Script,
    claim: Script,
    refresh: Script,
    release: Script,
    finish: Script,
    cancel: Script,
    look_at: Script,
    show: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            add: Script::new(ADD),
            claim: Script::new(CLAIM),
            refresh: Script::new(REFRESH),
            release: Script::new(RELEASE),
            finish: Script::new(FINISH),
            cancel: Script::new(CANCEL),
            look_at: Script::new(LOOK_AT),
            show: Script::new(SHOW),
        }
    }
}

/// A place between two events of a session, in the order in which it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The number of the last event before it.
    pub seq_no: u64,
    /// The id of that event.
    pub event_id: EventId,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.seq_no, self.event_id)
    }
}

impl std::str::FromStr for Place {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let read = || {
            let (seq_no, event_id) = text.split_once(' ')?;
            Some(Self {
                seq_no: seq_no.parse().ok()?,
                event_id: event_id.parse().ok()?,
            })
        };
        read().ok_or(Error::Reply("the position of a replay"))
    }
}

/// What was published of a replay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Up to here; `None` before the first batch.
    pub at: Option<Place>,
    /// How many events were sent.
    pub sent: u64,
    /// How many were skipped.
    pub skipped: u64,
    /// How it has ended, once its closing message is published.
    pub end: Option<State>,
}

/// What is published of a replay at once: entries, and where that leads.
#[derive(Debug)]
pub struct Step<'a> {
    /// The room.
    pub stream_id: &'a str,
    /// The showing.
    pub replay_id: Uuid,
    /// Where it was before.
    pub from: Option<Place>,
    /// What it is after; [`Position::at`] is some.
    pub to: Position,
    /// What `XADD` takes, as field and value.
    pub entries: Vec<Vec<(&'static str, String)>>,
}

/// How an unfinished replay is, for those who look for work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// The showing.
    pub replay_id: Uuid,
    /// Nobody shows it.
    pub free: bool,
    /// It shall end.
    pub cancelled: bool,
    /// Somebody has begun it.
    pub begun: bool,
}

/// What a sign of life was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refreshed {
    /// It is ours.
    Ours,
    /// It is ours and shall end.
    Cancelled,
    /// Somebody else has it, or has ended it.
    Lost,
}

/// What became of the wish to end a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// There is no such replay, or it has ended.
    Nothing,
    /// Its daemon ends it, within a second.
    Soon,
    /// It is over: nobody had begun it.
    Now,
}

/// How far a group of a stream is behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// The group.
    pub group: String,
    /// Whether nothing may be lost to it.
    pub required: bool,
    /// Entries of the raw stream, or of the events.
    pub raw: bool,
    /// Not read, or not acknowledged.
    pub entries: u64,
    /// How many it has ever read, to see whether it goes on.
    pub read: u64,
}

impl Bus {
    /// Puts a replay on the list, unless it is known; held by `owner` from the start where one is
    /// given. Returns the state that it has by now: a repeat finds the first one's.
    pub async fn add_replay(
        &self,
        progress: &Progress,
        owner: Option<Owner>,
    ) -> Result<State, Error> {
        let mut progress = progress.clone();
        progress.owner = owner.map(|owner| owner.to_string());
        let mut call = self.scripts.replays.add.prepare_invoke();
        call.key(key(progress.replay_id))
            .arg(owner.map_or(0, |_| millis(REPLAY_LEASE)));
        words(&mut call, &progress.to_fields());
        let known: String = call.invoke_async(&mut self.manager.clone()).await?;
        let state = match known.as_str() {
            "" => progress.state,
            "waiting" => State::Waiting,
            "running" => State::Running,
            "done" => State::Done,
            "cancelled" => State::Cancelled,
            _ => State::Failed,
        };
        if state.is_end() {
            redis::cmd("EXPIRE")
                .arg(key(progress.replay_id))
                .arg(KEPT_SECONDS)
                .exec_async(&mut self.manager.clone())
                .await?;
        } else {
            self.list(progress.replay_id, progress.requested_at).await?;
        }
        Ok(state)
    }

    async fn list(&self, replay_id: Uuid, since: Timestamp) -> Result<(), Error> {
        Ok(redis::cmd("ZADD")
            .arg(UNFINISHED)
            .arg("NX")
            .arg(since.as_millis())
            .arg(replay_id.to_string())
            .exec_async(&mut self.manager.clone())
            .await?)
    }

    /// How many replays have not ended.
    pub async fn unfinished_replays(&self) -> Result<u64, Error> {
        Ok(redis::cmd("ZCARD")
            .arg(UNFINISHED)
            .query_async(&mut self.manager.clone())
            .await?)
    }

    /// How far a replay is; `None` for an unknown one, or one whose hash cannot be read.
    pub async fn replay(&self, replay_id: Uuid) -> Result<Option<Progress>, Error> {
        let fields: HashMap<String, String> = redis::cmd("HGETALL")
            .arg(key(replay_id))
            .query_async(&mut self.manager.clone())
            .await?;
        Ok(progress(&fields))
    }

    /// The replays that have not ended, the oldest first. What is on the list and has ended, or is
    /// not known any more, leaves it.
    pub async fn look_at_replays(&self) -> Result<Vec<Look>, Error> {
        let listed: Vec<String> = redis::cmd("ZRANGE")
            .arg(UNFINISHED)
            .arg(0)
            .arg(LOOK - 1)
            .query_async(&mut self.manager.clone())
            .await?;
        let mut looks = Vec::with_capacity(listed.len());
        for name in listed {
            let Ok(replay_id) = name.parse() else {
                self.unlist(&name).await?;
                continue;
            };
            let mut call = self.scripts.replays.look_at.prepare_invoke();
            let (state, free, cancelled, begun): (String, u8, u8, u8) = call
                .key(key(replay_id))
                .invoke_async(&mut self.manager.clone())
                .await?;
            match state.as_str() {
                "waiting" | "running" => looks.push(Look {
                    replay_id,
                    free: free == 1,
                    cancelled: cancelled == 1,
                    begun: begun == 1,
                }),
                _ => self.unlist(&name).await?,
            }
        }
        Ok(looks)
    }

    async fn unlist(&self, name: &str) -> Result<(), Error> {
        Ok(redis::cmd("ZREM")
            .arg(UNFINISHED)
            .arg(name)
            .exec_async(&mut self.manager.clone())
            .await?)
    }

    /// Takes a replay that nobody shows; `None` when it is another's, or over.
    pub async fn claim_replay(
        &self,
        replay_id: Uuid,
        owner: Owner,
    ) -> Result<Option<Progress>, Error> {
        let mut call = self.scripts.replays.claim.prepare_invoke();
        call.key(key(replay_id))
            .arg(owner.to_string())
            .arg(millis(REPLAY_LEASE));
        let fields: HashMap<String, String> = call.invoke_async(&mut self.manager.clone()).await?;
        Ok(progress(&fields))
    }

    /// Writes how far a replay of ours is, and that we go on with it.
    pub async fn refresh_replay(
        &self,
        progress: &Progress,
        owner: Owner,
    ) -> Result<Refreshed, Error> {
        let mut call = self.scripts.replays.refresh.prepare_invoke();
        call.key(key(progress.replay_id))
            .arg(owner.to_string())
            .arg(millis(REPLAY_LEASE));
        let mut progress = progress.clone();
        progress.owner = Some(owner.to_string());
        words(&mut call, &progress.to_fields());
        let answer: i64 = call.invoke_async(&mut self.manager.clone()).await?;
        Ok(match answer {
            0 => Refreshed::Ours,
            1 => Refreshed::Cancelled,
            2 => {
                self.list(progress.replay_id, progress.requested_at).await?;
                Refreshed::Ours
            }
            _ => Refreshed::Lost,
        })
    }

    /// Leaves a replay of ours to others, unfinished.
    pub async fn release_replay(&self, replay_id: Uuid, owner: Owner) -> Result<(), Error> {
        let mut call = self.scripts.replays.release.prepare_invoke();
        call.key(key(replay_id))
            .arg(owner.to_string())
            .arg(State::Waiting.as_str());
        Ok(call.invoke_async(&mut self.manager.clone()).await?)
    }

    /// Writes how a replay has ended.
    pub async fn finish_replay(&self, progress: &Progress, owner: Owner) -> Result<(), Error> {
        let mut progress = progress.clone();
        progress.owner = None;
        let mut call = self.scripts.replays.finish.prepare_invoke();
        call.key(key(progress.replay_id))
            .arg(owner.to_string())
            .arg(KEPT_SECONDS);
        words(&mut call, &progress.to_fields());
        call.invoke_async::<()>(&mut self.manager.clone()).await?;
        self.unlist(&progress.replay_id.to_string()).await
    }

    /// Ends a replay, whoever shows it.
    pub async fn cancel_replay(&self, replay_id: Uuid, now: Timestamp) -> Result<Cancelled, Error> {
        let mut call = self.scripts.replays.cancel.prepare_invoke();
        call.key(key(replay_id))
            .arg(now.to_string())
            .arg(KEPT_SECONDS);
        let answer: u8 = call.invoke_async(&mut self.manager.clone()).await?;
        Ok(match answer {
            0 => Cancelled::Nothing,
            1 => Cancelled::Soon,
            _ => {
                self.unlist(&replay_id.to_string()).await?;
                Cancelled::Now
            }
        })
    }

    // ---- what is shown

    /// What was published of a replay of a room.
    pub async fn replay_position(
        &self,
        stream_id: &str,
        replay_id: Uuid,
    ) -> Result<Position, Error> {
        let fields: HashMap<String, String> = redis::cmd("HGETALL")
            .arg(self.position_key(stream_id, replay_id))
            .query_async(&mut self.manager.clone())
            .await?;
        let count = |name: &str| {
            fields
                .get(name)
                .and_then(|text| text.parse().ok())
                .unwrap_or(0)
        };
        Ok(Position {
            at: fields.get("at").map(|text| text.parse()).transpose()?,
            sent: count("sent"),
            skipped: count("skipped"),
            end: fields.get("end").map(|state| match state.as_str() {
                "done" => State::Done,
                "cancelled" => State::Cancelled,
                _ => State::Failed,
            }),
        })
    }

    /// Publishes a step, if the one before was published and the replay is not over; `false`: it is
    /// not there. After an error or a `false`, [`Bus::replay_position`] tells what was published.
    pub async fn show(&self, step: &Step<'_>) -> Result<bool, Error> {
        let mut call = self.scripts.replays.show.prepare_invoke();
        let text = |place: Option<Place>| place.map(|place| place.to_string()).unwrap_or_default();
        call.key(self.names.raw(self.names.shard_of(step.stream_id)))
            .key(self.position_key(step.stream_id, step.replay_id))
            .arg(text(step.from))
            .arg(text(step.to.at))
            .arg(step.to.sent)
            .arg(step.to.skipped)
            .arg(step.to.end.map_or("", State::as_str))
            .arg(POSITION_TTL)
            .arg(FUSE);
        for entry in &step.entries {
            call.arg(entry.len() * 2);
            words(&mut call, entry);
        }
        Ok(call.invoke_async(&mut self.manager.clone()).await?)
    }

    fn position_key(&self, stream_id: &str, replay_id: Uuid) -> String {
        let key = self.shard_key("ttlc:replayed", self.names.shard_of(stream_id));
        format!("{key}:{replay_id}")
    }

    /// How far the groups of a room's streams are behind. A group that is not made yet has all of
    /// its stream before it; a stream that is not made yet has nothing.
    pub async fn replay_backlog(&self, stream_id: &str) -> Result<Vec<Backlog>, Error> {
        let shard = self.names.shard_of(stream_id);
        let mut found = Vec::new();
        for (raw, stream, required) in [
            (true, self.names.raw(shard), GROUP_NORMALIZER),
            (false, self.names.events(shard), GROUP_STORAGE),
        ] {
            let length: u64 = redis::cmd("XLEN")
                .arg(&stream)
                .query_async(&mut self.manager.clone())
                .await?;
            if length == 0 {
                continue;
            }
            let groups = self.groups(&stream).await?;
            if groups.iter().all(|group| group.name != required) {
                found.push(Backlog {
                    group: required.to_owned(),
                    required: true,
                    raw,
                    entries: length,
                    read: 0,
                });
            }
            found.extend(groups.into_iter().map(|group| Backlog {
                required: group.name == required,
                raw,
                // Where Redis does not know, no more than there is.
                entries: group.lag.map_or(length, |lag| lag as u64) + group.pending as u64,
                read: group.entries_read.unwrap_or(0) as u64,
                group: group.name,
            }));
        }
        Ok(found)
    }

    // ---- who can show

    /// Says that this process can show replays; believed for 10 s.
    pub async fn can_replay(&self) -> Result<(), Error> {
        Ok(redis::cmd("SET")
            .arg(SHOWERS)
            .arg(1)
            .arg("EX")
            .arg(SHOWERS_TTL)
            .exec_async(&mut self.manager.clone())
            .await?)
    }

    /// Whether any process can.
    pub async fn anybody_replays(&self) -> Result<bool, Error> {
        Ok(redis::cmd("EXISTS")
            .arg(SHOWERS)
            .query_async(&mut self.manager.clone())
            .await?)
    }
}

fn words(call: &mut redis::ScriptInvocation<'_>, fields: &[(&'static str, String)]) {
    for (field, value) in fields {
        call.arg(*field).arg(value);
    }
}

fn progress(fields: &HashMap<String, String>) -> Option<Progress> {
    if fields.is_empty() {
        return None;
    }
    Progress::from_fields(|name| fields.get(name).map(String::as_str))
        .inspect_err(|error| {
            tracing::warn!(replay_id = fields.get("replayId"), %error, "a replay cannot be read");
        })
        .ok()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
