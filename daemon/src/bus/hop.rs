//! The hop from raw entries to events, and the lease of who makes it.
//!
//! Comes in: what became of a batch of raw entries, and what the normalizer has to remember. Goes
//! out, in one script: events and dead letters, the acknowledgements, and the memory. So a crash or
//! a race can never publish twice or forget half. Batches are numbered and each must follow the one
//! before: a repeat after a lost reply changes nothing, and neither does a normalizer that has lost
//! its lease or whose memory is not the one that is written here. Entries are taken in their order:
//! a batch waits when an older entry is unfinished, as one that a stopped rival was given. A hop
//! renews the lease.

use std::collections::HashMap;
use std::time::Duration;

use redis::Script;
use shared::streams::events;
use shared::time::Timestamp;

use super::rooms::RELEASE;
use super::{Bus, Class, Consumer, DeadLetter, Error, FUSE, Owner};

/// How long a role is held without a sign of life. Short: after a crash nothing is normalized for
/// so long, also where the next process is there at once.
pub const ROLE_LEASE: Duration = Duration::from_secs(4);
/// How often its holder renews it.
pub const ROLE_RENEW: Duration = Duration::from_secs(1);

/// KEYS: raw, events, dlq, lease, state. ARGV: group, consumer, owner, the lease's life in ms, the
/// batch's number, the first raw entry's id or an empty text, how many fields of the state, the last
/// raw entry's id or an empty text, how many raw entries, the fuse, the names of the three fields of
/// an event; for each field of the state its name and value (an empty value removes it); then per
/// raw entry its id (or an empty text for what no entry causes), how many outcomes it has, and for
/// each either an empty text and the values of an event's three fields, or how many words a dead
/// letter has, and these: what XADD takes after the key.
/// Which entries are pending is asked for all of them at once. Redis spends more time on words than
/// on what they say, so what is the same for each event is said once.
/// Returns how many entries were still pending, 0 for a batch that was done before, or why nothing
/// was done: -1 the lease is not ours, -2 the batch does not follow the last one, -3 there is no
/// last one, -4 an entry before the first is unfinished.
const HOP: &str = r"
local number, first = tonumber(ARGV[5]), ARGV[6]
if redis.call('GET', KEYS[4]) ~= ARGV[3] then return -1 end
local last = redis.call('HGET', KEYS[5], 'batch')
if not last and number > 1 then return -3 end
last = tonumber(last or '0')
if number == last then return 0 end
if number ~= last + 1 then return -2 end
if first ~= '' then
  local oldest = redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2])[1]
  if oldest then
    local ms, n = string.match(oldest[1], '(%d+)-(%d+)')
    local first_ms, first_n = string.match(first, '(%d+)-(%d+)')
    ms, n, first_ms, first_n = tonumber(ms), tonumber(n), tonumber(first_ms), tonumber(first_n)
    if ms < first_ms or (ms == first_ms and n < first_n) then return -4 end
  end
end
redis.call('HSET', KEYS[5], 'batch', ARGV[5])
redis.call('PEXPIRE', KEYS[4], ARGV[4])
local fuse, event, at, raw, i = ARGV[10], ARGV[11], ARGV[12], ARGV[13], 14
for _ = 1, tonumber(ARGV[7]) do
  if ARGV[i + 1] == '' then redis.call('HDEL', KEYS[5], ARGV[i])
  else redis.call('HSET', KEYS[5], ARGV[i], ARGV[i + 1]) end
  i = i + 2
end
local done, pending = 0, {}
if first ~= '' then
  for _, entry in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], first, ARGV[8], ARGV[9])) do
    pending[entry[1]] = true
  end
end
while i <= #ARGV do
  local id, outcomes = ARGV[i], tonumber(ARGV[i + 1])
  local due = id == '' or pending[id] or #redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1) > 0
  i = i + 2
  for _ = 1, outcomes do
    if ARGV[i] == '' then
      if due then
        redis.call('XADD', KEYS[2], 'MAXLEN', '~', fuse, '*',
          event, ARGV[i + 1], at, ARGV[i + 2], raw, ARGV[i + 3])
      end
      i = i + 4
    else
      local words = tonumber(ARGV[i])
      if due then redis.call('XADD', KEYS[3], unpack(ARGV, i + 1, i + words)) end
      i = i + 1 + words
    end
  end
  if due and id ~= '' then
    redis.call('XACK', KEYS[1], ARGV[1], id)
    pending[id] = nil
    done = done + 1
  end
end
return done";

/// KEYS: lease. ARGV: owner, its life in ms. Takes or renews it, or returns 0. Renewing works also
/// when the memory is full: who reads and acknowledges makes room.
const HOLD: &str = r"
local holder = redis.call('GET', KEYS[1])
if holder == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return 1
end
if holder then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1";

/// The field of the state that holds the number of the last batch; also in [`HOP`].
const BATCH: &str = "batch";

/// The scripts of this file, prepared once.
#[derive(Clone)]
pub(super) struct Scripts {
    hop: Script,
    hold: Script,
    let_go: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            hop: Script::new(HOP),
            hold: Script::new(HOLD),
            let_go: Script::new(RELEASE),
        }
    }
}

/// What is published of a raw entry.
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

/// What one raw entry becomes; or, without an entry, what time has brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The entry's id in the raw stream. It decides: one that is no longer pending publishes nothing.
    pub raw_id: Option<String>,
    /// In the order in which they are published.
    pub outcomes: Vec<Outcome>,
}

/// What is published and remembered at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// One above that of the batch before, [`State::batch`] first of all: a batch is done once.
    pub number: u64,
    /// In the order of the raw stream.
    pub hops: Vec<Hop>,
    /// What the normalizer remembers of the rooms: field and value; `None` forgets it.
    pub state: Vec<(String, Option<String>)>,
}

/// What became of a [`Batch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hopped {
    /// It is done, now or before: so many of its entries were still pending now.
    Done(usize),
    /// Nothing: the lease of [`Role::Normalizer`] is somebody else's, or nobody's.
    NotOurs,
    /// Nothing: the batch does not follow the last one, or an older entry is unfinished. What is
    /// remembered here has to be read again, and the unfinished entries.
    OutOfStep,
    /// Nothing: no batch is known, as when Redis was wiped. The next is number 1 again.
    Forgotten,
}

/// What the normalizer of a shard remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The number of the last batch.
    pub batch: u64,
    /// As the batches wrote it; no field is called `batch`.
    pub fields: HashMap<String, String>,
}

/// A task of which there is one in the whole system, or one per shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Reads a shard's raw stream.
    Normalizer(u32),
    /// Forwards a shard's events.
    Forwarder(u32),
    /// Obeys the control stream.
    Control,
    /// Reads a shard's events as consumer `storage-{slot}`.
    Storage {
        /// The shard.
        shard: u32,
        /// The number in the name.
        slot: u32,
    },
    /// Reads a shard's dead letters as consumer `ops-{slot}`.
    Ops {
        /// The shard.
        shard: u32,
        /// The number in the name.
        slot: u32,
    },
}

impl Bus {
    /// Takes or renews the lease of a role for `life`; `false`: another process has it.
    pub async fn hold(&self, role: Role, owner: Owner, life: Duration) -> Result<bool, Error> {
        let mut call = self.scripts.hop.hold.prepare_invoke();
        call.key(self.role_key(role))
            .arg(owner.to_string())
            .arg(u64::try_from(life.as_millis()).unwrap_or(u64::MAX));
        Ok(call.invoke_async(&mut self.manager.clone()).await?)
    }

    /// Frees the lease of a role at once, if it is ours.
    pub async fn let_go(&self, role: Role, owner: Owner) -> Result<(), Error> {
        let mut call = self.scripts.hop.let_go.prepare_invoke();
        call.key(self.role_key(role)).arg(owner.to_string());
        Ok(call.invoke_async(&mut self.manager.clone()).await?)
    }

    /// All that the normalizer of a shard remembers.
    pub async fn normalizer_state(&self, shard: u32) -> Result<State, Error> {
        let mut fields: HashMap<String, String> = redis::cmd("HGETALL")
            .arg(self.shard_key("ttlc:normalizer", shard))
            .query_async(&mut self.manager.clone())
            .await?;
        let batch = fields.remove(BATCH).and_then(|number| number.parse().ok());
        Ok(State {
            batch: batch.unwrap_or(0),
            fields,
        })
    }

    pub(super) fn role_key(&self, role: Role) -> String {
        let slot = |what, shard, slot| format!("{}:{slot}", self.shard_key(what, shard));
        match role {
            Role::Storage {
                shard,
                slot: number,
            } => slot("ttlc:lease:storage", shard, number),
            Role::Ops {
                shard,
                slot: number,
            } => slot("ttlc:lease:ops", shard, number),
            Role::Normalizer(shard) => self.shard_key("ttlc:lease:normalizer", shard),
            Role::Forwarder(shard) => self.shard_key("ttlc:lease:forwarder", shard),
            Role::Control => "ttlc:lease:control".to_owned(),
        }
    }
}

impl Consumer {
    /// Publishes what became of raw entries, takes these off the pending list and remembers, in one
    /// script, for `owner`, who holds the lease of [`Role::Normalizer`]. After an error the same
    /// batch may be tried again.
    ///
    /// The consumer must be one of the shard's raw stream.
    pub async fn hop(&mut self, shard: u32, owner: Owner, batch: &Batch) -> Result<Hopped, Error> {
        let names = self.bus.names;
        let mut call = self.bus.scripts.hop.hop.prepare_invoke();
        call.key(&self.stream)
            .key(names.events(shard))
            .key(names.dlq(shard))
            .key(self.bus.role_key(Role::Normalizer(shard)))
            .key(self.bus.shard_key("ttlc:normalizer", shard));
        let mut ids = batch.hops.iter().filter_map(|hop| hop.raw_id.as_deref());
        let first = ids.next();
        let last = ids.next_back().or(first);
        call.arg(self.group)
            .arg(&self.name)
            .arg(owner.to_string())
            .arg(u64::try_from(ROLE_LEASE.as_millis()).unwrap_or(u64::MAX))
            .arg(batch.number)
            .arg(first.unwrap_or_default())
            .arg(batch.state.len())
            .arg(last.unwrap_or_default())
            .arg(batch.hops.len())
            .arg(FUSE)
            .arg(events::EVENT)
            .arg(events::NORMALIZED_AT)
            .arg(events::RAW);
        for (field, value) in &batch.state {
            call.arg(field).arg(value.as_deref().unwrap_or_default());
        }
        for hop in &batch.hops {
            call.arg(hop.raw_id.as_deref().unwrap_or_default())
                .arg(hop.outcomes.len());
            for outcome in &hop.outcomes {
                match outcome {
                    Outcome::Event {
                        json,
                        normalized_at,
                        raw,
                    } => {
                        call.arg("")
                            .arg(json)
                            .arg(normalized_at.to_string())
                            .arg(raw);
                    }
                    Outcome::DeadLetter(letter) => {
                        let words = letter.words();
                        call.arg(words.len());
                        for word in &words {
                            call.arg(word.as_ref());
                        }
                    }
                }
            }
        }
        let reply: Result<i64, _> = call.invoke_async(&mut self.bus.manager.clone()).await;
        match reply {
            Ok(-1) => Ok(Hopped::NotOurs),
            Ok(-2 | -4) => Ok(Hopped::OutOfStep),
            Ok(-3) => Ok(Hopped::Forgotten),
            Ok(done) => {
                self.forget_begun(&batch.hops);
                Ok(Hopped::Done(usize::try_from(done).unwrap_or(0)))
            }
            Err(error) => {
                // A wiped stream; the group is made again here, for nobody reads at the moment.
                if Class::of(&error) == Class::NoGroup {
                    self.make_group(&mut self.bus.manager.clone()).await?;
                }
                Err(error.into())
            }
        }
    }
}
