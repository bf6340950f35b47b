//! The mirror of the tombstones in Redis, and what Redis still holds of erased viewers.
//!
//! `ttlc:erased` is written by the storage writer, from Postgres: by hash, each tombstone as JSON;
//! `change`, the number of the last change there; and `version`, which rises with each writing. All
//! others read it: [`Followed`] keeps up with it.
//! Nothing is ever taken out of it: it is also what is left of erasures that a database restored from
//! an older copy no longer knows. A flushed Redis gets it again within seconds; until then the readers
//! go on with what they know, and the storage writer asks Postgres.
//!
//! [`Bus::purge`] deletes entries that every group has finished and that name an erased viewer. What a
//! group still has to read stays: the stages replace it when they come to it. What was parked, nobody
//! reads any more: it goes at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use shared::streams::dlq;
use shared::time::Timestamp;
use tokio::time::Instant;

use super::consumer::entries;
use super::{Bus, Entry, Error, PARKED};
use crate::erasure::{Tombstone, Tombstones, moment};

const KEY: &str = "ttlc:erased";
const VERSION: &str = "version";
const CHANGE: &str = "change";
/// How often a reader asks whether something has changed.
const REFRESH: Duration = Duration::from_secs(1);
/// How many entries are looked at at a time.
const PAGE: usize = 200;
/// How many keys.
const SCANNED: usize = 1_000;

/// What a purge found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// Entries and remembered texts that were deleted.
    pub deleted: u64,
    /// Entries that a group has still to read or to finish.
    pub left: u64,
}

impl Bus {
    /// Writes tombstones into the mirror, as they are after a change of the list; what it has beside
    /// them stays.
    pub async fn put_erased(&self, change: i64, list: &[Tombstone]) -> Result<(), Error> {
        let mut fields = vec![(CHANGE.to_owned(), change.to_string())];
        for one in list {
            let json = serde_json::to_string(one).map_err(|_| Error::Reply("HSET"))?;
            fields.push((one.user_hash.clone(), json));
        }
        let mut commands = redis::pipe();
        commands.atomic();
        commands.cmd("HSET").arg(KEY).arg(fields).ignore();
        commands
            .cmd("HINCRBY")
            .arg(KEY)
            .arg(VERSION)
            .arg(1)
            .ignore();
        Ok(commands.exec_async(&mut self.manager.clone()).await?)
    }

    /// The number of the list's last change that is in the mirror; `None` when there is no mirror.
    pub async fn erased_change(&self) -> Result<Option<i64>, Error> {
        self.erased_number(CHANGE).await
    }

    async fn erased_number(&self, field: &str) -> Result<Option<i64>, Error> {
        let number: Option<String> = redis::cmd("HGET")
            .arg(KEY)
            .arg(field)
            .query_async(&mut self.manager.clone())
            .await?;
        Ok(number.and_then(|text| text.parse().ok()))
    }

    /// All that the mirror has; what this build cannot read of it is left out.
    pub async fn erased(&self) -> Result<Vec<Tombstone>, Error> {
        Ok(self.erased_and_version().await?.1)
    }

    async fn erased_and_version(&self) -> Result<(i64, Vec<Tombstone>), Error> {
        let mut fields: HashMap<String, String> = redis::cmd("HGETALL")
            .arg(KEY)
            .query_async(&mut self.manager.clone())
            .await?;
        fields.remove(CHANGE);
        let version = fields.remove(VERSION).and_then(|text| text.parse().ok());
        let mut list = Vec::new();
        for (hash, json) in fields {
            match serde_json::from_str::<Tombstone>(&json) {
                Ok(one) if one.user_hash == hash => list.push(one),
                _ => tracing::warn!(
                    reason = "bad_tombstone",
                    "a tombstone in redis cannot be read"
                ),
            }
        }
        list.sort_by(|one, other| one.user_hash.cmp(&other.user_hash));
        Ok((version.unwrap_or(0), list))
    }

    /// Deletes what Redis still holds of erased viewers and nobody needs any more.
    pub(crate) async fn purge(&self, tombstones: &Tombstones) -> Result<Purged, Error> {
        let mut purged = Purged::default();
        for shard in 0..self.names.shards() {
            for stream in [
                self.names.raw(shard),
                self.names.events(shard),
                self.names.dlq(shard),
                self.names.actions(shard),
            ] {
                self.purge_stream(tombstones, &stream, &mut purged).await?;
            }
            self.purge_memory(tombstones, shard, &mut purged).await?;
        }
        // Last: what was parked meanwhile was pending in its stream before.
        purged.deleted += self.purge_parked(tombstones).await?;
        Ok(purged)
    }

    /// Deletes parked dead letters that name an erased viewer, of all shards and also of those that there
    /// were with another `STREAM_SHARDS`; returns how many.
    async fn purge_parked(&self, tombstones: &Tombstones) -> Result<u64, Error> {
        let mut deleted = 0;
        let mut cursor = "0".to_owned();
        loop {
            let (next, keys): (String, Vec<String>) = redis::cmd("SCAN")
                .arg(&cursor)
                .arg(&["MATCH", &format!("{PARKED}:*"), "TYPE", "string", "COUNT"])
                .arg(SCANNED)
                .query_async(&mut self.manager.clone())
                .await?;
            for key in keys {
                let json: Option<String> = redis::cmd("GET")
                    .arg(&key)
                    .query_async(&mut self.manager.clone())
                    .await?;
                // The same key may come twice.
                let Some(json) = json else { continue };
                if parked_names_erased(tombstones, &key, &json) {
                    deleted += redis::cmd("DEL")
                        .arg(&key)
                        .query_async::<u64>(&mut self.manager.clone())
                        .await?;
                }
            }
            if next == "0" {
                return Ok(deleted);
            }
            cursor = next;
        }
    }

    async fn purge_stream(
        &self,
        tombstones: &Tombstones,
        stream: &str,
        purged: &mut Purged,
    ) -> Result<(), Error> {
        let Some(finished) = self.finished(stream).await? else {
            return Ok(());
        };
        let mut from = "-".to_owned();
        loop {
            let reply: Value = redis::cmd("XRANGE")
                .arg(stream)
                .arg(&from)
                .arg("+")
                .arg("COUNT")
                .arg(PAGE)
                .query_async(&mut self.manager.clone())
                .await?;
            let reply = Value::Array(vec![Value::Array(vec![Value::Nil, reply])]);
            let page = entries(reply).ok_or(Error::Reply("XRANGE"))?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            from = format!("({}", last.id);
            let mut gone = Vec::new();
            for entry in &page {
                if !names_erased(tombstones, entry) {
                    continue;
                }
                if finished.contains(&entry.id) {
                    gone.push(entry.id.as_str());
                } else {
                    purged.left += 1;
                }
            }
            if !gone.is_empty() {
                let deleted: u64 = redis::cmd("XDEL")
                    .arg(stream)
                    .arg(&gone)
                    .query_async(&mut self.manager.clone())
                    .await?;
                purged.deleted += deleted;
            }
        }
    }

    /// What the normalizer remembers: it forgets it by itself; where none runs it is done here.
    async fn purge_memory(
        &self,
        tombstones: &Tombstones,
        shard: u32,
        purged: &mut Purged,
    ) -> Result<(), Error> {
        let state = self.normalizer_state(shard).await?;
        let named: Vec<&String> = state
            .fields
            .iter()
            .filter(|(field, text)| remembers_erased(tombstones, field, text))
            .map(|(field, _)| field)
            .collect();
        if !named.is_empty() {
            let deleted: u64 = redis::cmd("HDEL")
                .arg(self.shard_key("ttlc:normalizer", shard))
                .arg(named)
                .query_async(&mut self.manager.clone())
                .await?;
            purged.deleted += deleted;
        }
        Ok(())
    }
}

/// Whether an entry names a viewer who is erased up to when it happened. A dead letter says when in its
/// payload, and may have failed long after that.
fn names_erased(tombstones: &Tombstones, entry: &Entry) -> bool {
    let added = entry.id.split('-').next().and_then(|ms| ms.parse().ok());
    let letter: HashMap<String, String> = entry
        .fields
        .get(dlq::PAYLOAD)
        .and_then(|payload| serde_json::from_str(payload).ok())
        .unwrap_or_default();
    let at = moment(&entry.fields, moment(&letter, added.unwrap_or(0)));
    tombstones.concern(at)
        && tombstones.in_fields(
            entry
                .fields
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str())),
            at,
        )
}

/// The same of a dead letter that was parked: under the id of its entry, its fields as JSON.
fn parked_names_erased(tombstones: &Tombstones, key: &str, json: &str) -> bool {
    let id = key.rsplit(':').next().unwrap_or_default().to_owned();
    match serde_json::from_str(json) {
        Ok(fields) => {
            let deliveries = 0;
            names_erased(
                tombstones,
                &Entry {
                    id,
                    fields,
                    deliveries,
                },
            )
        }
        // Not as it was written: rather too much than too little.
        Err(_) => tombstones.concern(0) && tombstones.in_text(json, 0),
    }
}

/// Whether what the normalizer wrote down names an erased viewer: by the time that it has.
pub(crate) fn remembers_erased(tombstones: &Tombstones, field: &str, text: &str) -> bool {
    #[derive(serde::Deserialize)]
    struct At {
        at: i64,
    }
    let at = serde_json::from_str::<HashMap<String, serde_json::Value>>(text)
        .ok()
        .and_then(|one| one.into_values().next())
        .and_then(|inner| serde_json::from_value::<At>(inner).ok())
        .map_or(0, |inner| inner.at);
    tombstones.concern(at) && (tombstones.in_text(field, at) || tombstones.in_text(text, at))
}

/// The mirror as a reader knows it.
pub(crate) struct Followed {
    bus: Bus,
    list: HashMap<String, Tombstone>,
    current: Arc<Tombstones>,
    looked: Option<Instant>,
}

impl Followed {
    /// Nothing is known yet.
    pub(crate) fn new(bus: Bus) -> Self {
        Self {
            bus,
            list: HashMap::new(),
            current: Arc::default(),
            looked: None,
        }
    }

    /// What is known.
    pub(crate) fn current(&self) -> &Arc<Tombstones> {
        &self.current
    }

    /// Asks whether something has changed, once a second at most; `true` when it has. A mirror that is
    /// gone, or has less than what is known, takes nothing away: nobody is erased less.
    pub(crate) async fn refresh(&mut self) -> Result<bool, Error> {
        if self.looked.is_some_and(|looked| looked.elapsed() < REFRESH) {
            return Ok(false);
        }
        let version = self.bus.erased_number(VERSION).await?;
        if version.is_none_or(|version| version == self.current.version) {
            self.looked = Some(Instant::now());
            return Ok(false);
        }
        let (version, news) = self.bus.erased_and_version().await?;
        self.looked = Some(Instant::now());
        for one in news {
            let known = self
                .list
                .entry(one.user_hash.clone())
                .or_insert_with(|| one.clone());
            if one.erased_at >= known.erased_at {
                *known = one;
            }
        }
        let list: Vec<Tombstone> = self.list.values().cloned().collect();
        self.current = Arc::new(Tombstones::new(version, &list));
        tracing::info!(
            viewers = self.current.len(),
            version,
            "the list of erased viewers has changed"
        );
        Ok(true)
    }

    /// A time in milliseconds as far as a message tells it: the earlier of its two.
    pub(crate) fn moment(timestamp: Timestamp, ingested_at: Timestamp) -> i64 {
        timestamp.min(ingested_at).as_millis()
    }
}
