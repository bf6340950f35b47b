//! Rooms: who may publish one, what was published in it, and publishing.
//!
//! Comes in: envelopes of rooms that this process has claimed. Goes out: entries of the raw
//! stream, each room's highest number and latest messages, all in one script per shard.
//!
//! A room has one owner at a time. The lease says who, and lapses [`LEASE`] after the owner was
//! last heard of. The *fence* outlives it: a number that rises whenever the room changes hands. A
//! script publishes only for the owner whose number is the highest, so a process that was away and
//! has lost the room publishes nothing, whatever it still holds.
//!
//! Publishing again after a lost reply changes nothing: a number that is not above the room's
//! highest was published before. What a former owner publishes late (from its spool, after it has
//! the room again) comes with lower numbers; there the memory of messages tells what the other
//! owner has published meanwhile, and late batches are remembered as such. What comes again in
//! other batches (after a crash, or when the reply was lost just before the room changed hands) is
//! recognised by message id only; what has none is published twice then, with the same `eventId`,
//! by which storage knows it.

use std::collections::HashMap;
use std::time::Duration;

use redis::{Script, Value};
use shared::raw::Envelope;
use uuid::Uuid;

use super::{Bus, Error, FUSE, text};

/// How long a lease holds without being renewed.
pub const LEASE: Duration = Duration::from_secs(10);
/// How often a holder renews its leases: thrice before one lapses.
pub const RENEW: Duration = Duration::from_secs(3);

/// How long a room's highest sequence number is remembered, in seconds.
const SEQ_TTL: u64 = 30 * 24 * 3600;
/// How many messages of a room, and how many late batches, are remembered, and for how many seconds after the last: TikTok
/// sends a few dozen again at each connect, seconds to minutes old.
const SEEN: u64 = 1_000;
const SEEN_TTL: u64 = 3600;

/// KEYS: lease, fence, seq, seen. ARGV: owner, lease in ms, the fence's life in s.
/// Returns the holder as a text, or the token, the highest number and the latest messages.
const CLAIM: &str = r"
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return holder end
local fence = redis.call('HMGET', KEYS[2], 'owner', 'token')
local token = tonumber(fence[2] or '0')
if fence[1] ~= ARGV[1] then
  token = token + 1
  redis.call('HSET', KEYS[2], 'owner', ARGV[1], 'token', token)
end
redis.call('EXPIRE', KEYS[2], ARGV[3])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {token, redis.call('GET', KEYS[3]) or '', redis.call('ZRANGE', KEYS[4], 0, -1)}";

/// KEYS: lease and fence of each room. ARGV: owner, lease in ms, then each room's token.
/// Returns 1 for each room that is still ours, else 0.
const RENEW_ROOMS: &str = r"
local kept = {}
for r = 1, #KEYS / 2 do
  local lease, fence = KEYS[2 * r - 1], KEYS[2 * r]
  local holder = redis.call('GET', lease)
  local last = redis.call('HMGET', fence, 'owner', 'token')
  if (not holder or holder == ARGV[1]) and last[1] == ARGV[1] and last[2] == ARGV[2 + r] then
    redis.call('SET', lease, ARGV[1], 'PX', ARGV[2])
    kept[r] = 1
  else
    kept[r] = 0
  end
end
return kept";

/// KEYS: lease. ARGV: owner. Frees what is ours.
pub(super) const RELEASE: &str = r"
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0";

/// KEYS: raw, then fence, seq, seen and late of each room. ARGV: owner, the fuse, the life of
/// seq, how many messages are remembered and for how long, then for each room: token,
/// the name of a late batch or an empty text, a number that must be known or an empty text, how
/// many envelopes, and for each of these its number, its member of seen
/// or an empty text, how many words, and these: what XADD takes.
/// Returns two lists: the numbers of refused rooms, and pairs of room and sequence number of late
/// messages that the room had seen under another number.
const PUBLISH: &str = r"
local owner, maxlen, refused, repeats, behind, i = ARGV[1], ARGV[2], {}, {}, {}, 6
for r = 1, (#KEYS - 1) / 4 do
  local fence, seq, seen, done = KEYS[4 * r - 2], KEYS[4 * r - 1], KEYS[4 * r], KEYS[4 * r + 1]
  local last = redis.call('HMGET', fence, 'owner', 'token')
  local ours = last[1] == owner and last[2] == ARGV[i]
  local name, after, count = ARGV[i + 1], tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
  local highest_known = redis.call('GET', seq)
  local floor = tonumber(highest_known or '-1')
  if not ours then
    refused[#refused + 1] = r
  elseif after and floor < after then
    ours = false
    behind[#behind + 1] = r
    behind[#behind + 1] = highest_known or ''
  end
  local late = name ~= ''
  local again = ours and late and redis.call('ZSCORE', done, name)
  if ours and late and not again then
    redis.call('ZADD', done, ARGV[i + 4], name)
    redis.call('ZREMRANGEBYRANK', done, 0, -1 - tonumber(ARGV[4]))
    redis.call('EXPIRE', done, ARGV[5])
  end
  local top, highest, remember = floor, nil, {}
  i = i + 4
  for _ = 1, count do
    local number, member, words = tonumber(ARGV[i]), ARGV[i + 1], tonumber(ARGV[i + 2])
    if ours then
      local publish = late and not again or not late and number > floor
      if late and member ~= '' then
        local known = redis.call('ZSCORE', seen, member)
        if known then
          publish = false
          if tonumber(known) ~= number then
            repeats[#repeats + 1] = r
            repeats[#repeats + 1] = ARGV[i]
          end
        end
      end
      if publish then
        redis.call('XADD', KEYS[1], 'MAXLEN', '~', maxlen, '*', unpack(ARGV, i + 3, i + 2 + words))
        if number > top then top, highest = number, ARGV[i] end
        if member ~= '' then
          remember[#remember + 1] = ARGV[i]
          remember[#remember + 1] = member
        end
      end
    end
    i = i + 3 + words
  end
  if ours then
    if highest then redis.call('SET', seq, highest, 'EX', ARGV[3]) end
    if #remember > 0 then
      redis.call('ZADD', seen, unpack(remember))
      redis.call('ZREMRANGEBYRANK', seen, 0, -1 - tonumber(ARGV[4]))
      redis.call('EXPIRE', seen, ARGV[5])
    end
  end
end
return {refused, repeats, behind}";

/// The scripts of this file, prepared once.
#[derive(Clone)]
pub(super) struct Scripts {
    claim: Script,
    renew: Script,
    release: Script,
    publish: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            claim: Script::new(CLAIM),
            renew: Script::new(RENEW_ROOMS),
            release: Script::new(RELEASE),
            publish: Script::new(PUBLISH),
        }
    }
}

/// Who holds leases: one per process and its spool, the same again after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner(Uuid);

impl Owner {
    /// One that never was.
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }
}

impl Default for Owner {
    fn default() -> Self {
        Self::new()
    }
}

impl From<Uuid> for Owner {
    fn from(id: Uuid) -> Self {
        Self(id)
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Whether a room is ours now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is, with what Redis remembers of it.
    Held(Memory),
    /// Another process has it; its [`Owner`] as a text.
    Taken(String),
}

/// What Redis remembers of a room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Rises by one whenever the room changes hands: another token than last time means that
    /// somebody else has had it meanwhile.
    pub token: u64,
    /// The highest `seqNo` given out.
    pub floor: Option<u64>,
    /// The latest messages, as [`Envelope::kind`] and message id, oldest first: what TikTok may
    /// send again, also to a process that has just started.
    pub seen: Vec<(String, String)>,
}

/// Envelopes of one room, in order.
#[derive(Clone, Debug)]
pub struct RoomBatch<'a> {
    /// The room.
    pub stream_id: &'a str,
    /// From [`Memory::token`].
    pub token: u64,
    /// The room has changed hands since they were numbered.
    pub late: bool,
    /// A number of the room that Redis must know, for it was published before. With the envelopes
    /// left out this only asks.
    pub after: Option<u64>,
    /// In their order.
    pub envelopes: Vec<&'a Envelope>,
}

/// What became of batches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// Indexes of the batches whose room is no longer ours: nothing of them was published.
    pub refused: Vec<usize>,
    /// Late envelopes that the room has seen under another number, as index of the batch and
    /// `seqNo`: they were not published, and their numbers are holes.
    pub repeats: Vec<(usize, u64)>,
    /// Indexes of the batches whose [`RoomBatch::after`] Redis has lost, with the highest number
    /// that it still knows: nothing of them was published.
    pub behind: Vec<(usize, Option<u64>)>,
}

impl Bus {
    /// Takes a room, or finds that it is ours already. Holds for [`LEASE`] unless renewed.
    pub async fn claim_room(&self, stream_id: &str, owner: Owner) -> Result<Claim, Error> {
        let mut call = self.scripts.rooms.claim.prepare_invoke();
        for key in ["lease", "fence", "seq", "seen"] {
            call.key(self.room_key(key, stream_id));
        }
        call.arg(owner.to_string()).arg(millis(LEASE)).arg(SEQ_TTL);
        let reply: Value = call.invoke_async(&mut self.manager.clone()).await?;
        claimed(reply).ok_or(Error::Reply("the claim of a room"))
    }

    /// Renews the leases of rooms with their tokens; also of those that have lapsed and that
    /// nobody else has taken. `false`: the room is no longer ours.
    pub async fn renew_rooms(
        &self,
        owner: Owner,
        rooms: &[(&str, u64)],
    ) -> Result<Vec<bool>, Error> {
        let mut kept = vec![false; rooms.len()];
        for shard in 0..self.names.shards() {
            let ours: Vec<usize> = (0..rooms.len())
                .filter(|&index| self.names.shard_of(rooms[index].0) == shard)
                .collect();
            // A script blocks the server; a few hundred rooms are well under a millisecond.
            for chunk in ours.chunks(500) {
                let mut call = self.scripts.rooms.renew.prepare_invoke();
                call.arg(owner.to_string()).arg(millis(LEASE));
                for &index in chunk {
                    let (stream_id, token) = rooms[index];
                    call.key(self.room_key("lease", stream_id))
                        .key(self.room_key("fence", stream_id))
                        .arg(token);
                }
                let reply: Vec<u8> = call.invoke_async(&mut self.manager.clone()).await?;
                for (&index, still) in chunk.iter().zip(reply) {
                    kept[index] = still == 1;
                }
            }
        }
        Ok(kept)
    }

    /// Frees a room for others at once, if it is ours.
    pub async fn release_room(&self, stream_id: &str, owner: Owner) -> Result<(), Error> {
        let mut call = self.scripts.rooms.release.prepare_invoke();
        call.key(self.room_key("lease", stream_id))
            .arg(owner.to_string());
        Ok(call.invoke_async(&mut self.manager.clone()).await?)
    }

    /// Publishes envelopes, all or none per shard, and remembers in the same script each room's
    /// highest `seqNo` and its latest message ids. A room in two batches is published in order.
    ///
    /// After an error the same call may be repeated: what was published before is not again.
    pub async fn publish(
        &self,
        owner: Owner,
        batches: &[RoomBatch<'_>],
    ) -> Result<Published, Error> {
        let mut published = Published::default();
        for shard in 0..self.names.shards() {
            let ours: Vec<usize> = (0..batches.len())
                .filter(|&index| self.names.shard_of(batches[index].stream_id) == shard)
                .collect();
            if ours.is_empty() {
                continue;
            }
            let mut call = self.scripts.rooms.publish.prepare_invoke();
            call.key(self.names.raw(shard));
            call.arg(owner.to_string())
                .arg(FUSE)
                .arg(SEQ_TTL)
                .arg(SEEN)
                .arg(SEEN_TTL);
            for &index in &ours {
                let batch = &batches[index];
                for key in ["fence", "seq", "seen", "late"] {
                    call.key(self.room_key(key, batch.stream_id));
                }
                call.arg(batch.token)
                    .arg(late_name(batch))
                    .arg(
                        batch
                            .after
                            .map(|number| number.to_string())
                            .unwrap_or_default(),
                    )
                    .arg(batch.envelopes.len());
                for envelope in &batch.envelopes {
                    let fields = envelope.to_fields();
                    call.arg(envelope.seq_no)
                        .arg(member(envelope))
                        .arg(fields.len() * 2);
                    for (field, value) in &fields {
                        call.arg(*field).arg(value.as_ref());
                    }
                }
            }
            let (refused, repeats, behind): (Vec<usize>, Vec<u64>, Vec<Value>) =
                call.invoke_async(&mut self.manager.clone()).await?;
            let index_of = |number: usize| {
                ours.get(number.wrapping_sub(1))
                    .copied()
                    .ok_or(Error::Reply("publishing"))
            };
            for number in refused {
                published.refused.push(index_of(number)?);
            }
            for pair in repeats.chunks_exact(2) {
                let number = usize::try_from(pair[0]).map_err(|_| Error::Reply("publishing"))?;
                published.repeats.push((index_of(number)?, pair[1]));
            }
            for pair in behind.chunks_exact(2) {
                let Value::Int(number) = pair[0] else {
                    return Err(Error::Reply("publishing"));
                };
                let number = usize::try_from(number).map_err(|_| Error::Reply("publishing"))?;
                let floor = text(&pair[1]).and_then(|floor| floor.parse().ok());
                published.behind.push((index_of(number)?, floor));
            }
        }
        Ok(published)
    }
}

/// How a late batch is remembered; empty for another, and for one that is empty. Numbers do not
/// repeat in a room, but a gap may have that of the message it stands for.
fn late_name(batch: &RoomBatch<'_>) -> String {
    match batch.envelopes.as_slice() {
        [first, .., last] if batch.late => format!(
            "{}-{} {} {}",
            first.seq_no,
            last.seq_no,
            batch.envelopes.len(),
            first.kind
        ),
        [only] if batch.late => format!("{} {}", only.seq_no, only.kind),
        _ => String::new(),
    }
}

/// How a message is remembered; empty for one without an id.
fn member(envelope: &Envelope) -> String {
    envelope
        .msg_id
        .as_ref()
        .map(|msg_id| format!("{msg_id} {}", envelope.kind))
        .unwrap_or_default()
}

fn claimed(reply: Value) -> Option<Claim> {
    let Value::Array(parts) = reply else {
        return text(&reply).map(Claim::Taken);
    };
    let [Value::Int(token), floor, Value::Array(seen)] = parts.as_slice() else {
        return None;
    };
    let seen: Option<Vec<String>> = seen.iter().map(text).collect();
    Some(Claim::Held(Memory {
        token: (*token).try_into().ok()?,
        floor: text(floor)?.parse().ok(),
        seen: seen?
            .iter()
            .filter_map(|member| member.split_once(' '))
            .map(|(msg_id, kind)| (kind.to_owned(), msg_id.to_owned()))
            .collect(),
    }))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Batches of envelopes by room, each room's in order, for callers that hold one token per room.
pub fn by_room<'a>(
    envelopes: impl IntoIterator<Item = &'a Envelope>,
    token: impl Fn(&str) -> u64,
) -> Vec<RoomBatch<'a>> {
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut batches: Vec<RoomBatch<'a>> = Vec::new();
    for envelope in envelopes {
        let stream_id = envelope.stream_id.as_str();
        let place = *places.entry(stream_id).or_insert_with(|| {
            batches.push(RoomBatch {
                stream_id,
                token: token(stream_id),
                late: false,
                after: None,
                envelopes: Vec::new(),
            });
            batches.len() - 1
        });
        batches[place].envelopes.push(envelope);
    }
    batches
}
