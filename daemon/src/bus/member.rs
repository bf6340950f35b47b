//! One of several that share the entries of a stream: storage writers, and copiers of dead letters.
//!
//! In: a stream and its group. Out: entries, as a [`Consumer`] gives them, of which each is some
//! member's to finish, whoever died in between.
//!
//! - **Slots**: a member reads as `storage-0`, `storage-1` … (`ops-0` … for dead letters): the first
//!   name that nobody holds. It is leased in Redis, so a name outlives its process and there are no
//!   more names than members at a time. More than [`SLOTS`] members: the last ones stand by.
//! - **What others left** is looked for every [`LOOK`]: at once where the slot's lease is gone (the
//!   process died, was stopped or hangs), and by `XAUTOCLAIM` after [`IDLE`] whoever has it, so also
//!   what consumers of other names left. A claim does not count as an attempt; [`Member::begin`] does.
//!   Whoever works longer says so every [`BEAT`] ([`Member::beat`]), also while Postgres is away, so
//!   that nobody takes an entry from a member that waits.
//! - **Crash**: the lease lapses after 4 s, and another member claims what was pending.
//!   A member that comes back after that, as from a suspended machine, finishes what it has: that
//!   is done twice, which changes nothing, and takes a slot anew.
//! - **Ordered stop**: [`Member::leave`] hands back what is unfinished, claimable at once, and frees
//!   the slot.
//! - **Trimmed entries**: pending ones that are gone come without fields, and are the caller's to
//!   count and to acknowledge.
//! - **Old consumers** that have nothing pending and that nobody leases are removed, in a script that
//!   looks at both: removing one with pending entries would lose these.

use std::time::Duration;

use redis::Script;
use shared::streams::{GROUP_OPS, GROUP_STORAGE};
use tokio::time::Instant;

use super::{Bus, Class, Consumer, Entry, Error, Owner, ROLE_LEASE, ROLE_RENEW, Role};

/// Members of a group at a time.
pub const SLOTS: u32 = 32;
/// How often it is looked for what others left.
const LOOK: Duration = Duration::from_secs(2);
/// How often own entries are looked for that nobody holds, as those of a lost reply.
const LOOK_AT_OWN: Duration = Duration::from_secs(10);
/// How often a member says that it still works on its entries: its time-out as a handler.
const BEAT: Duration = Duration::from_secs(5);
/// Entries that are idle for longer have been left by whoever had them: three times more than any
/// member is silent for that works, two beats late included.
const IDLE: Duration = Duration::from_secs(30);
/// How long an entry that is handed back seems to have been idle: more than [`IDLE`].
const HANDED_BACK_MS: u64 = 3_600_000;
/// Consumers that were silent for so long may be removed.
const OLD: Duration = Duration::from_mins(1);

/// KEYS: stream, lease of the other. ARGV: group, consumer, the other one, how many. Takes what
/// the other has pending, if nobody holds its lease. Returns ids and delivery counts; entries that
/// were trimmed away stay where they are, for a claim would take them off the list untold.
const TAKE_OVER: &str = r"
local found = {}
if redis.call('EXISTS', KEYS[2]) == 1 then return found end
for _, entry in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', ARGV[4], ARGV[3])) do
  if #redis.call('XRANGE', KEYS[1], entry[1], entry[1]) > 0 then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, entry[1], 'JUSTID')
  end
  found[#found + 1] = {entry[1], entry[4]}
end
return found";

/// KEYS: stream, perhaps the lease of the other. ARGV: group, the other one. Removes a consumer that has
/// nothing pending and that nobody leases.
const REMOVE: &str = r"
if KEYS[2] and redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) > 0 then return 0 end
redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
return 1";

/// KEYS: stream. ARGV: group, consumer, how long the entries seem idle in ms, then their ids, each with
/// its delivery count or an empty text. Only what is still ours, and not what was trimmed: a claim
/// would take that off the list.
const TOUCH: &str = r"
for i = 4, #ARGV, 2 do
  local id = ARGV[i]
  if #redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1, ARGV[2]) > 0
    and #redis.call('XRANGE', KEYS[1], id, id) > 0 then
    if ARGV[i + 1] == '' then
      redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, 'IDLE', ARGV[3], 'JUSTID')
    else
      redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, 'IDLE', ARGV[3], 'RETRYCOUNT', ARGV[i + 1], 'JUSTID')
    end
  end
end";

/// Who shares a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seats {
    /// Storage writers share a shard's events.
    Storage,
    /// Copiers share a shard's dead letters.
    Ops,
}

impl Seats {
    fn group(self) -> &'static str {
        match self {
            Self::Storage => GROUP_STORAGE,
            Self::Ops => GROUP_OPS,
        }
    }

    fn role(self, shard: u32, slot: u32) -> Role {
        match self {
            Self::Storage => Role::Storage { shard, slot },
            Self::Ops => Role::Ops { shard, slot },
        }
    }

    /// The consumer's name.
    fn name(self, slot: u32) -> String {
        format!("{}-{slot}", self.group())
    }

    /// The slot of a consumer's name; `None` for a name of somebody else's.
    fn slot(self, name: &str) -> Option<u32> {
        let slot = name.strip_prefix(self.group())?.strip_prefix('-')?;
        let slot = slot.parse().ok().filter(|slot| *slot < SLOTS)?;
        (self.name(slot) == name).then_some(slot)
    }
}

/// A member of a group that has several; see the module.
pub struct Member {
    bus: Bus,
    seats: Seats,
    shard: u32,
    stream: String,
    owner: Owner,
    slot: Option<u32>,
    consumer: Consumer,
    /// When the lease was last taken or renewed.
    renewed: Instant,
    /// When it was last looked for what others left, and for own entries that nobody holds.
    looked: Option<Instant>,
    looked_at_own: Instant,
    /// Where `XAUTOCLAIM` goes on.
    cursor: String,
    told: bool,
}

impl Bus {
    /// A member of those that share a shard's stream; it takes a slot with its first read.
    pub fn member(&self, seats: Seats, shard: u32) -> Member {
        let stream = match seats {
            Seats::Storage => self.names.events(shard),
            Seats::Ops => self.names.dlq(shard),
        };
        Member {
            consumer: self.consumer(stream.clone(), seats.group(), &seats.name(0)),
            bus: self.clone(),
            seats,
            shard,
            stream,
            owner: Owner::new(),
            slot: None,
            renewed: Instant::now(),
            looked: None,
            looked_at_own: Instant::now(),
            cursor: "0-0".to_owned(),
            told: false,
        }
    }
}

impl Member {
    /// The next entries, at most `count`: what others left, own unfinished ones, then new ones,
    /// waiting up to `wait` for these. Empty when there are none, or no slot is free. For callers that hold no
    /// entries; with some in hand, [`Member::more`].
    ///
    /// # Errors
    /// Whatever Redis meets; the next call tries again.
    pub async fn read(&mut self, count: usize, wait: Duration) -> Result<Vec<Entry>, Error> {
        if !self.sit().await? {
            tokio::time::sleep(wait.min(ROLE_RENEW)).await;
            return Ok(Vec::new());
        }
        if self.looked.is_none_or(|looked| looked.elapsed() >= LOOK) {
            let left = self.left_by_others(count).await?;
            if !left.is_empty() {
                return Ok(left);
            }
            self.looked = Some(Instant::now());
        }
        if self.looked_at_own.elapsed() >= LOOK_AT_OWN {
            self.looked_at_own = Instant::now();
            self.consumer.read_history_again();
        }
        self.consumer.read(count, wait.min(ROLE_RENEW)).await
    }

    /// More entries to those in hand, waiting up to `wait`, which is short; only while
    /// [`Member::reads_new`], or what is in hand may come again.
    ///
    /// # Errors
    /// Whatever Redis meets.
    pub async fn more(&mut self, count: usize, wait: Duration) -> Result<Vec<Entry>, Error> {
        self.consumer.read(count, wait.min(ROLE_RENEW)).await
    }

    /// Whether the next entries are new ones: what is unfinished was read before, or is in hand.
    pub fn reads_new(&self) -> bool {
        self.consumer.reads_new()
    }

    /// Makes the next [`Member::read`] look for own unfinished entries first, as after a read that was cut
    /// off. For callers that hold none.
    pub fn read_own_again(&mut self) {
        self.consumer.read_history_again();
    }

    /// The consumer's name while there is a slot.
    pub fn name(&self) -> Option<String> {
        self.slot.map(|slot| self.seats.name(slot))
    }

    /// Takes or renews a slot; `false` when none is free. While the memory of Redis is full no lease can
    /// be made: then the last slot is used without one, for reading makes room. Who shares it by that
    /// may do some work twice, which changes nothing.
    async fn sit(&mut self) -> Result<bool, Error> {
        if let Some(slot) = self.slot {
            if self.renewed.elapsed() < ROLE_RENEW {
                return Ok(true);
            }
            match self.hold(slot).await {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(error) if error.class() == Class::Memory => {
                    self.renewed = Instant::now();
                    return Ok(true);
                }
                Err(error) => return Err(error),
            }
            tracing::warn!(stream = %self.stream, consumer = self.seats.name(slot), "the slot was taken over");
            self.slot = None;
        }
        for slot in 0..SLOTS {
            match self.hold(slot).await {
                Ok(true) => {
                    self.take(slot);
                    return Ok(true);
                }
                Ok(false) => {}
                Err(error) if error.class() == Class::Memory => {
                    self.take(SLOTS - 1);
                    self.renewed = Instant::now();
                    return Ok(true);
                }
                Err(error) => return Err(error),
            }
        }
        if !std::mem::replace(&mut self.told, true) {
            tracing::warn!(stream = %self.stream, slots = SLOTS, "no slot is free, standing by");
        }
        Ok(false)
    }

    fn take(&mut self, slot: u32) {
        let name = self.seats.name(slot);
        tracing::info!(stream = %self.stream, consumer = name, "reading");
        let stream = self.stream.clone();
        self.consumer = self.bus.consumer(stream, self.seats.group(), &name);
        self.slot = Some(slot);
        self.told = false;
    }

    async fn hold(&mut self, slot: u32) -> Result<bool, Error> {
        let began = Instant::now();
        let role = self.seats.role(self.shard, slot);
        let held = self.bus.hold(role, self.owner, ROLE_LEASE).await?;
        if held {
            self.renewed = began;
        }
        Ok(held)
    }

    /// Claims what nobody works on any more, at most `count` entries.
    async fn left_by_others(&mut self, count: usize) -> Result<Vec<Entry>, Error> {
        let mut connection = self.bus.manager.clone();
        self.consumer.make_group(&mut connection).await?;
        let group = self.seats.group();
        let mut claimed: Vec<(String, u64)> = Vec::new();
        let consumers: redis::streams::StreamInfoConsumersReply = redis::cmd("XINFO")
            .arg("CONSUMERS")
            .arg(&self.stream)
            .arg(group)
            .query_async(&mut connection)
            .await?;
        let ours = self.name();
        for other in consumers.consumers {
            if Some(&other.name) == ours.as_ref() {
                continue;
            }
            let lease = self.seats.slot(&other.name).map(|slot| {
                let role = self.seats.role(self.shard, slot);
                self.bus.role_key(role)
            });
            if other.pending == 0 {
                if Duration::from_millis(other.idle as u64) > OLD {
                    self.remove(&other.name, lease.as_deref()).await?;
                }
            } else if let Some(lease) = lease
                && claimed.len() < count
            {
                let script = Script::new(TAKE_OVER);
                let mut call = script.prepare_invoke();
                call.key(&self.stream).key(&lease);
                call.arg(group)
                    .arg(ours.as_deref().unwrap_or_default())
                    .arg(&other.name)
                    .arg(count - claimed.len());
                let taken: Vec<(String, u64)> = call.invoke_async(&mut connection).await?;
                if !taken.is_empty() {
                    tracing::info!(stream = %self.stream, from = other.name, entries = taken.len(),
                        "claimed what a member left that is gone");
                }
                claimed.extend(taken);
            }
        }
        if claimed.len() < count {
            let idle = self.idle(count - claimed.len()).await?;
            claimed.extend(idle);
        }
        self.consumer.with_fields(&mut connection, claimed).await
    }

    /// Claims what has been idle for long, whoever had it. A page may be empty and not the last.
    async fn idle(&mut self, count: usize) -> Result<Vec<(String, u64)>, Error> {
        let mut connection = self.bus.manager.clone();
        let mut claimed: Vec<(String, u64)> = Vec::new();
        loop {
            let (next, ids, trimmed): (String, Vec<String>, Vec<String>) = redis::cmd("XAUTOCLAIM")
                .arg(&self.stream)
                .arg(self.seats.group())
                .arg(self.name())
                .arg(u64::try_from(IDLE.as_millis()).unwrap_or(u64::MAX))
                .arg(&self.cursor)
                .arg("COUNT")
                .arg(count)
                .arg("JUSTID")
                .query_async(&mut connection)
                .await?;
            // Redis has taken these off the list: they are not seen again.
            claimed.extend(trimmed.into_iter().map(|id| (id, 0)));
            if !ids.is_empty() {
                tracing::info!(stream = %self.stream, entries = ids.len(), "claimed what was idle for long");
            }
            for id in ids {
                let known: Vec<(String, String, u64, u64)> = redis::cmd("XPENDING")
                    .arg(&self.stream)
                    .arg(self.seats.group())
                    .arg(&id)
                    .arg(&id)
                    .arg(1)
                    .query_async(&mut connection)
                    .await?;
                // Gone when somebody has finished it meanwhile.
                if let Some((id, _, _, deliveries)) = known.into_iter().next() {
                    claimed.push((id, deliveries));
                }
            }
            self.cursor = next;
            if self.cursor == "0-0" || claimed.len() >= count {
                return Ok(claimed);
            }
        }
    }

    async fn remove(&self, name: &str, lease: Option<&str>) -> Result<(), Error> {
        let script = Script::new(REMOVE);
        let mut call = script.prepare_invoke();
        call.key(&self.stream);
        if let Some(lease) = lease {
            call.key(lease);
        }
        call.arg(self.seats.group()).arg(name);
        let removed: bool = call.invoke_async(&mut self.bus.manager.clone()).await?;
        if removed {
            tracing::info!(stream = %self.stream, consumer = name, "removed a consumer that nobody is");
        }
        Ok(())
    }

    /// Keeps the slot and the entries `ids` ours while the caller works on them: to be polled
    /// beside that work; it never ends. While Redis is away it tries again.
    pub fn beat(&self, ids: Vec<String>) -> impl Future<Output = ()> + use<> {
        let bus = self.bus.clone();
        let (stream, group) = (self.stream.clone(), self.seats.group());
        let (owner, name) = (self.owner, self.name().unwrap_or_default());
        let role = self.slot.map(|slot| self.seats.role(self.shard, slot));
        async move {
            let mut touched = Instant::now();
            loop {
                tokio::time::sleep(ROLE_RENEW).await;
                if let Some(role) = role
                    && let Err(error) = bus.hold(role, owner, ROLE_LEASE).await
                {
                    tracing::debug!(%stream, %error, "cannot renew the slot");
                }
                if touched.elapsed() < BEAT {
                    continue;
                }
                touched = Instant::now();
                let held = ids.iter().map(|id| (id.as_str(), None));
                if let Err(error) = bus.touch(&stream, group, &name, 0, held).await {
                    tracing::debug!(%stream, %error, "cannot say that work goes on");
                }
            }
        }
    }

    /// Hands back what is unfinished, without the attempt, and frees the slot: another member
    /// takes it up at once.
    ///
    /// # Errors
    /// Whatever Redis meets; then both lapse by themselves.
    pub async fn leave(self) -> Result<(), Error> {
        let (Some(slot), Some(name)) = (self.slot, self.name()) else {
            return Ok(());
        };
        let held = self.consumer.held();
        let counted = held.iter().map(|(id, count)| (id.as_str(), Some(*count)));
        let group = self.seats.group();
        self.bus
            .touch(&self.stream, group, &name, HANDED_BACK_MS, counted)
            .await?;
        self.bus
            .let_go(self.seats.role(self.shard, slot), self.owner)
            .await
    }

    /// Counts an attempt on entries that others have begun before; see [`Consumer::begin`].
    ///
    /// # Errors
    /// Whatever Redis meets.
    pub async fn begin(&mut self, entries: &[Entry]) -> Result<(), Error> {
        self.consumer.begin(entries).await
    }

    /// Takes an attempt back; see [`Consumer::survived`].
    ///
    /// # Errors
    /// Whatever Redis meets.
    pub async fn survived(&mut self, ids: &[&str]) -> Result<(), Error> {
        self.consumer.survived(ids).await
    }

    /// Counts it again; see [`Consumer::begin_again`].
    ///
    /// # Errors
    /// Whatever Redis meets.
    pub async fn begin_again(&mut self, ids: &[&str]) -> Result<(), Error> {
        self.consumer.begin_again(ids).await
    }

    /// Takes entries off the pending list, once their effect is durable.
    ///
    /// # Errors
    /// Whatever Redis meets.
    pub async fn ack(&mut self, ids: &[String]) -> Result<(), Error> {
        self.consumer.ack(ids).await
    }
}

impl Bus {
    /// Sets how long entries of a consumer seem to have been idle, and their delivery counts where
    /// these are given.
    async fn touch(
        &self,
        stream: &str,
        group: &str,
        name: &str,
        idle_ms: u64,
        entries: impl Iterator<Item = (&str, Option<u64>)>,
    ) -> Result<(), Error> {
        let script = Script::new(TOUCH);
        let mut call = script.prepare_invoke();
        call.key(stream).arg(group).arg(name).arg(idle_ms);
        for (id, count) in entries {
            call.arg(id)
                .arg(count.map_or_else(String::new, |count| count.to_string()));
        }
        Ok(call.invoke_async(&mut self.manager.clone()).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_names_have_slots() {
        for slot in [0, 7, 31] {
            let name = Seats::Storage.name(slot);
            assert_eq!(Seats::Storage.slot(&name), Some(slot), "{name}");
            assert_eq!(Seats::Ops.slot(&name), None, "{name}");
        }
        for name in [
            "writer-0",
            "storage",
            "storage-",
            "storage-00",
            "storage-32",
            "storage--1",
        ] {
            assert_eq!(Seats::Storage.slot(name), None, "{name}");
        }
    }
}
