//! Puts an entry back to the stream that it came from, once.
//!
//! Comes in: the fields of an entry, and a mark that names this redrive. Goes out: a new entry at
//! the end of the stream. The mark (`ttlc:redrive:{mark}`, 30 days) is set in the same script and
//! holds the new entry's id, so a repeat after a crash or a lost reply adds nothing and answers
//! the same.

use std::collections::BTreeMap;

use redis::Script;

use super::{Bus, Error, FUSE};

/// How long a mark is remembered, in seconds.
const MARK_TTL: u64 = 30 * 24 * 3600;

/// KEYS: stream, mark. ARGV: how long the mark lives, the fuse, then fields and values.
const REDRIVE: &str = r"
local done = redis.call('GET', KEYS[2])
if done then return done end
local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', unpack(ARGV, 3))
redis.call('SET', KEYS[2], id, 'EX', ARGV[1])
return id";

impl Bus {
    /// Adds `fields` to `stream`, which belongs to `shard`, unless this was done under `mark`
    /// before. Returns the id of the entry.
    pub async fn redrive(
        &self,
        stream: &str,
        shard: u32,
        mark: &str,
        fields: &BTreeMap<String, String>,
    ) -> Result<String, Error> {
        let script = Script::new(REDRIVE);
        let mut call = script.prepare_invoke();
        let mark = format!("{}:{mark}", self.shard_key("ttlc:redrive", shard));
        call.key(stream).key(mark).arg(MARK_TTL).arg(FUSE);
        for (field, value) in fields {
            call.arg(field).arg(value);
        }
        Ok(call.invoke_async(&mut self.manager.clone()).await?)
    }
}
