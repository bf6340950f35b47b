//! The trimmer: what every group has processed leaves the streams, and nothing else does.
//!
//! Comes in: how far each group has read and acknowledged. Goes out: `XTRIM MINID` at the smallest
//! position that a group still needs, and the sizes and lags as metrics. Groups that must never
//! miss an entry are made here before anything is trimmed, so that a stage which has not started yet
//! finds all. The groups of consumers that can catch up from Postgres (`api`, `forwarder`) hold
//! trimming back only while they are less than `GROUP_MAX_LAG` entries behind: past it they lose
//! what is trimmed, which is logged and counted, and storage never starves for them.
//!
//! `MAXLEN` on every write is a fuse, and no one reads what it burns: entries that a group has not
//! read and that are gone are counted here, as soon as the trimmer looks. Trimming twice, at the
//! same time or after a crash, changes nothing. While Redis is away there is nothing to trim.

use std::collections::HashMap;
use std::time::Duration;

use metrics::{counter, gauge};
use redis::Value;
use redis::streams::{StreamInfoGroup, StreamInfoGroupsReply};
use shared::streams::{GROUP_INGEST, GROUP_NORMALIZER, GROUP_OPS, GROUP_STORAGE};
use tokio_util::sync::CancellationToken;

use super::consumer::create_group;
use super::{Bus, Error, FUSE, text};
use crate::metrics::{
    GROUP_LAG, GROUP_PENDING, GROUP_SKIPPED, STREAM_LENGTH, STREAM_TRIMMED, STREAM_UNREAD_LOST,
};

/// How often the streams are trimmed.
const INTERVAL: Duration = Duration::from_secs(10);
/// Above this share of the fuse an operator should know: entries will be lost if it goes on.
const ALARM: u64 = FUSE / 2;

/// The trimmer's settings.
#[derive(Clone, Copy, Debug, clap::Args)]
#[group(skip)] // several stages have `Options`; a group would be named after the type
pub struct Options {
    /// How many entries a consumer of events that can catch up from Postgres may be behind before
    /// the streams are trimmed without it
    #[arg(long, env = "GROUP_MAX_LAG", default_value = "100000", value_parser = clap::value_parser!(u64).range(1000..=FUSE))]
    pub group_max_lag: u64,
}

/// Trims all streams every few seconds until `stop`.
///
/// # Errors
/// None: what fails is tried again with the next round.
pub async fn run(options: Options, bus: Bus, stop: CancellationToken) -> Result<(), Error> {
    let mut trimmer = Trimmer {
        bus,
        max_lag: options.group_max_lag,
        lost: HashMap::new(),
    };
    let mut ticks = tokio::time::interval(INTERVAL);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        for (what, stream, required) in trimmer.streams() {
            let trimming = trimmer.trim(what, &stream, required);
            match stop.run_until_cancelled(trimming).await {
                Some(Ok(dropped)) => tracing::debug!(%stream, dropped, "trimmed"),
                Some(Err(error)) => {
                    tracing::warn!(%stream, %error, "cannot trim, trying again later");
                }
                None => return Ok(()),
            }
        }
    }
    Ok(())
}

/// Trims the streams of one Redis.
pub struct Trimmer {
    bus: Bus,
    max_lag: u64,
    /// What each group of each stream has lost, as it was counted last.
    lost: HashMap<(String, String), u64>,
}

impl Trimmer {
    /// A trimmer that lets `api` and `forwarder` fall behind by `max_lag` entries.
    pub fn new(bus: Bus, max_lag: u64) -> Self {
        Self {
            bus,
            max_lag,
            lost: HashMap::new(),
        }
    }

    /// All streams: what they are, for metrics; their name; the group that must read all of it.
    fn streams(&self) -> Vec<(&'static str, String, &'static str)> {
        let names = self.bus.names();
        (0..names.shards())
            .flat_map(|shard| {
                [
                    ("raw", names.raw(shard), GROUP_NORMALIZER),
                    ("events", names.events(shard), GROUP_STORAGE),
                    ("dlq", names.dlq(shard), GROUP_OPS),
                    ("control", names.control(shard), GROUP_INGEST),
                ]
            })
            .collect()
    }

    /// Drops the entries of `stream` that no group needs; returns how many went. `required` is the
    /// group that must read all; it is made if it is not there. `what` names the stream in metrics.
    pub async fn trim(
        &mut self,
        what: &'static str,
        stream: &str,
        required: &str,
    ) -> Result<u64, Error> {
        create_group(&mut self.bus.manager.clone(), stream, required).await?;
        let groups = self.bus.groups(stream).await?;
        let size = self.bus.size(stream).await?;
        let length = size.length;
        gauge!(STREAM_LENGTH, "stream" => what).set(float(length));
        if length > ALARM {
            tracing::error!(%stream, length, fuse = FUSE,
                "the stream grows towards its fuse: unread entries will be lost; see which group is behind");
        }
        let mut needed: Option<EntryId> = None;
        for group in &groups {
            let lag = group.lag.map_or(length, |lag| lag as u64);
            let name = label(&group.name);
            gauge!(GROUP_LAG, "stream" => what, "group" => name).set(float(lag));
            gauge!(GROUP_PENDING, "stream" => what, "group" => name)
                .set(float(group.pending as u64));
            self.count_lost(what, stream, group, &size);
            let optional = group.name != required;
            if optional && lag.saturating_add(group.pending as u64) > self.max_lag {
                tracing::warn!(%stream, group = name, lag, "too far behind, trimmed without it");
                counter!(GROUP_SKIPPED, "group" => name).increment(1);
                continue;
            }
            let position = self.bus.position(stream, group).await?;
            needed = Some(needed.map_or(position, |smallest| smallest.min(position)));
        }
        let Some(EntryId(ms, seq)) = needed else {
            return Ok(0);
        };
        let dropped: u64 = redis::cmd("XTRIM")
            .arg(stream)
            .arg("MINID")
            .arg("~")
            .arg(format!("{ms}-{seq}"))
            .query_async(&mut self.bus.manager.clone())
            .await?;
        counter!(STREAM_TRIMMED, "stream" => what).increment(dropped);
        Ok(dropped)
    }

    /// How many entries this trimmer has seen a group lose.
    pub fn lost(&self, stream: &str, group: &str) -> u64 {
        let key = (stream.to_owned(), group.to_owned());
        self.lost.get(&key).copied().unwrap_or(0)
    }

    /// Counts what is gone and was never read. Redis counts what a group has read, and never what
    /// was taken from under it: so what is gone must have been read, and for a group that has
    /// nothing left to read, all there ever was.
    fn count_lost(
        &mut self,
        what: &'static str,
        stream: &str,
        group: &StreamInfoGroup,
        size: &Size,
    ) {
        let Some(read) = group.entries_read.map(|read| read as u64) else {
            return;
        };
        let lost = unread_lost(group, read, size);
        let counted = self
            .lost
            .entry((stream.to_owned(), group.name.clone()))
            .or_default();
        if lost > *counted {
            let (group, entries) = (label(&group.name), lost - *counted);
            tracing::error!(
                %stream,
                group,
                entries,
                "entries were trimmed before they were read"
            );
            counter!(STREAM_UNREAD_LOST, "stream" => what, "group" => group).increment(entries);
        }
        *counted = lost.max(*counted);
    }
}

impl Bus {
    /// What a group has lost unread; `None` when it is not known (no group, or an old Redis).
    pub async fn lost(&self, stream: &str, group: &str) -> Result<Option<Lost>, Error> {
        let size = self.size(stream).await?;
        let groups = self.groups(stream).await?;
        let Some(group) = groups.iter().find(|known| known.name == group) else {
            return Ok(None);
        };
        Ok(group.entries_read.map(|read| Lost {
            entries: unread_lost(group, read as u64, &size),
            last_read: group.last_delivered_id.clone(),
            first: size.first.clone().unwrap_or_else(|| size.last.clone()),
        }))
    }

    /// Where a stream ends now, to ask later whether a group is past it.
    pub async fn end(&self, stream: &str) -> Result<Mark, Error> {
        let end = self.size(stream).await?.last;
        EntryId::parse(&end).map(Mark).ok_or(Error::Reply("XINFO"))
    }

    /// Whether a group has finished all entries up to a mark: it needs none of them any more, or has
    /// nothing left to read. Also when the stream was wiped since and all of the new one is done.
    pub async fn is_past(&self, stream: &str, group: &str, mark: Mark) -> Result<bool, Error> {
        let groups = self.groups(stream).await?;
        let Some(known) = groups.iter().find(|known| known.name == group) else {
            return Ok(false);
        };
        let position = self.position(stream, known).await?;
        if known.pending == 0 && position >= mark.0 {
            return Ok(true);
        }
        let at_the_end =
            known.pending == 0 && known.last_delivered_id == self.size(stream).await?.last;
        Ok(at_the_end || position > mark.0)
    }

    pub(super) async fn groups(&self, stream: &str) -> Result<Vec<StreamInfoGroup>, Error> {
        let reply: StreamInfoGroupsReply = redis::cmd("XINFO")
            .arg("GROUPS")
            .arg(stream)
            .query_async(&mut self.manager.clone())
            .await?;
        Ok(reply.groups)
    }

    async fn size(&self, stream: &str) -> Result<Size, Error> {
        let facts: HashMap<String, Value> = redis::cmd("XINFO")
            .arg("STREAM")
            .arg(stream)
            .query_async(&mut self.manager.clone())
            .await?;
        let number = |name| match facts.get(name) {
            Some(Value::Int(number)) => u64::try_from(*number).ok(),
            _ => None,
        };
        let length = number("length").ok_or(Error::Reply("XINFO"))?;
        // Redis before 7 does not count them: then no loss can be told.
        Ok(Size {
            length,
            added: number("entries-added").unwrap_or(length),
            first: match facts.get("first-entry") {
                Some(Value::Array(entry)) => entry.first().and_then(text),
                _ => None,
            },
            last: facts
                .get("last-generated-id")
                .and_then(text)
                .unwrap_or_default(),
        })
    }

    /// What every group of a stream has finished; `None` when there is no such stream.
    pub(super) async fn finished(&self, stream: &str) -> Result<Option<Finished>, Error> {
        let there: bool = redis::cmd("EXISTS")
            .arg(stream)
            .query_async(&mut self.manager.clone())
            .await?;
        if !there {
            return Ok(None);
        }
        let mut groups = Vec::new();
        for group in self.groups(stream).await? {
            let read = EntryId::parse(&group.last_delivered_id).ok_or(Error::Reply("XINFO"))?;
            let mut pending = Vec::new();
            if group.pending > 0 {
                let reply: Vec<(String, String, u64, u64)> = redis::cmd("XPENDING")
                    .arg(stream)
                    .arg(&group.name)
                    .arg(&["-", "+"])
                    .arg(PENDING)
                    .query_async(&mut self.manager.clone())
                    .await?;
                pending.extend(reply.iter().filter_map(|(id, ..)| EntryId::parse(id)));
            }
            groups.push((read, pending));
        }
        Ok(Some(Finished(groups)))
    }

    /// The first entry that a group still needs: its oldest unfinished one, or what it read last.
    async fn position(&self, stream: &str, group: &StreamInfoGroup) -> Result<EntryId, Error> {
        let read = EntryId::parse(&group.last_delivered_id).ok_or(Error::Reply("XINFO"))?;
        if group.pending == 0 {
            return Ok(read);
        }
        let summary: Value = redis::cmd("XPENDING")
            .arg(stream)
            .arg(&group.name)
            .query_async(&mut self.manager.clone())
            .await?;
        let Value::Array(parts) = summary else {
            return Err(Error::Reply("XPENDING"));
        };
        let oldest = parts.get(1).and_then(text);
        Ok(oldest
            .as_deref()
            .and_then(EntryId::parse)
            .map_or(read, |oldest| oldest.min(read)))
    }
}

/// How many unfinished entries of a group are told apart; what comes after them counts as unfinished.
const PENDING: usize = 10_000;

/// Of each group, what it was given last, and what of this it has not finished.
pub(super) struct Finished(Vec<(EntryId, Vec<EntryId>)>);

impl Finished {
    /// Whether every group is done with an entry. Where there is no group, nobody is.
    pub(super) fn contains(&self, id: &str) -> bool {
        let Some(id) = EntryId::parse(id) else {
            return false;
        };
        let done = |(read, pending): &(EntryId, Vec<EntryId>)| {
            let cut = pending.len() >= PENDING && pending.last().is_none_or(|last| id > *last);
            id <= *read && !cut && !pending.contains(&id)
        };
        !self.0.is_empty() && self.0.iter().all(done)
    }
}

/// What was gone before a group read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// How many entries, since the group was made.
    pub entries: u64,
    /// What the group was given last.
    pub last_read: String,
    /// The first entry that the stream still has; the last it ever had when it is empty.
    pub first: String,
}

fn unread_lost(group: &StreamInfoGroup, read: u64, size: &Size) -> u64 {
    let gone_or_read = if group.last_delivered_id == size.last {
        size.added
    } else {
        size.added - size.length.min(size.added)
    };
    gone_or_read.saturating_sub(read)
}

/// How many entries a stream has and ever had, and the id of its last one.
struct Size {
    length: u64,
    added: u64,
    last: String,
    first: Option<String>,
}

/// A place in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(EntryId);

/// A stream entry's id, in the order of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EntryId(u64, u64);

impl EntryId {
    fn parse(text: &str) -> Option<Self> {
        let (ms, seq) = text.split_once('-')?;
        Some(Self(ms.parse().ok()?, seq.parse().ok()?))
    }
}

/// The group as a label: one of ours, or any other.
fn label(group: &str) -> &'static str {
    use shared::streams::{GROUP_ACTIONS, GROUP_API, GROUP_FORWARDER};
    [
        GROUP_NORMALIZER,
        GROUP_STORAGE,
        GROUP_API,
        GROUP_FORWARDER,
        GROUP_OPS,
        GROUP_ACTIONS,
        GROUP_INGEST,
    ]
    .into_iter()
    .find(|ours| *ours == group)
    .unwrap_or("other")
}

#[expect(
    clippy::cast_precision_loss,
    reason = "metrics are floats; streams are far shorter than 2^53"
)]
fn float(number: u64) -> f64 {
    number as f64
}
