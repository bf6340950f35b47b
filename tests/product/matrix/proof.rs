//! The proof after each row: what the rooms said against what is stored.
//!
//! In: a rig whose fault is over. The broadcasts are ended, the pipeline becomes quiet, and then
//! all of this must hold, or the test fails and says which of it does not:
//!
//! - **I1, the ledger**: `ttlc verify` finds every room whole, and every message that the stand-in
//!   sent is an event, or there are as many known losses in its room (gaps, dead letters).
//! - **I2**: no event id and no message of a room is stored twice. **I3**: no id collision.
//! - **I4, I14**: by sequence number, a room's messages are in the order in which it sent them.
//! - **I5, I12**: every group of every stream has read everything and left nothing pending.
//! - The statistics equal a recount from the events.
//! - **I18**: no log line holds one of the secrets that the processes were given.

use std::{
    collections::{HashMap, HashSet},
    fmt::Write as _,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, bail, ensure};
use redis::AsyncCommands as _;
use tokio_postgres::Client;
use upstream::patch;

use super::{KEY, REDIS_PASSWORD, Rig};
use crate::{
    daemon::{Daemon, Log, PATIENCE},
    stores::until,
};

/// What the proof found.
#[derive(Debug, Default)]
pub(crate) struct Proof {
    /// Messages that the rooms sent.
    pub(crate) sent: usize,
    /// Of them, stored.
    pub(crate) stored: usize,
    /// Rows of `gaps`: room, first and last number, reason.
    pub(crate) gaps: Vec<(String, i64, i64, String)>,
    /// Dead letters that are still open: room, number, stage, reason.
    pub(crate) dead_letters: Vec<(Option<String>, Option<i64>, String, String)>,
    /// How long after each start of a process (the first ones are no recovery) something was stored
    /// that had been received after it.
    pub(crate) recoveries: Vec<(String, Duration)>,
}

impl Proof {
    /// Nothing was lost, not even knowingly.
    pub(crate) fn lossless(self) -> Self {
        assert!(
            self.gaps.is_empty() && self.dead_letters.is_empty() && self.stored == self.sent,
            "{self:#?}"
        );
        self
    }

    /// The longest recovery.
    pub(crate) fn slowest(&self) -> Duration {
        let times = self.recoveries.iter().map(|(_, took)| *took);
        times.max().unwrap_or_default()
    }
}

/// One stored message.
struct Stored {
    room: String,
    id: i64,
}

impl Rig {
    /// Proves that the row did no harm; see above. Panics when it did.
    pub(crate) async fn proof(&mut self) -> Proof {
        // While the rooms still talk: what comes later must not hide what is missing now.
        let sent = self.upstream.sent().len();
        self.patiently(async || self.arrived(sent).await).await;
        for creator in &self.creators {
            self.upstream.end_broadcast(creator);
        }
        until(PATIENCE, async || {
            let over = |name: &&String| self.upstream.room_id(name).is_some();
            let playing: Vec<_> = self.creators.iter().filter(over).collect();
            ensure!(playing.is_empty(), "{playing:?} do not end");
            Ok(())
        })
        .await;
        let proof = self.patiently(async || self.check().await).await;
        let took: Vec<_> = proof
            .recoveries
            .iter()
            .map(|(name, took)| format!("{name} {:.1} s", took.as_secs_f64()))
            .collect();
        eprintln!(
            "proved: {} sent, {} stored, {} gaps, {} dead letters, {} restarts {took:?}",
            proof.sent,
            proof.stored,
            proof.gaps.len(),
            proof.dead_letters.len(),
            took.len(),
        );
        proof
    }

    /// Asks again and again as long as work goes on, and panics when nothing has been stored or
    /// forwarded for [`Rig::patience`]: a slow machine is no defect.
    async fn patiently<T>(&self, mut ask: impl AsyncFnMut() -> anyhow::Result<T>) -> T {
        let (mut most, mut since) = (-1, Instant::now());
        loop {
            let error = match ask().await {
                Ok(answer) => return answer,
                Err(error) => error,
            };
            let done = self.done().await.unwrap_or(most);
            if done > most {
                (most, since) = (done, Instant::now());
            }
            let patience = self.patience;
            assert!(since.elapsed() < patience, "for {patience:?}: {error:#}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// How much has been stored and forwarded.
    async fn done(&self) -> anyhow::Result<i64> {
        let database = self.stores.database().await?;
        let count = "SELECT (SELECT count(*) FROM events) + (SELECT count(*) FROM forward_log)
            + (SELECT count(*) FROM dead_letters) + (SELECT count(*) FROM gaps)";
        Ok(database.query_one(count, &[]).await?.get(0))
    }

    /// One look at everything; what does not hold (yet) is an error.
    pub(crate) async fn check(&self) -> anyhow::Result<Proof> {
        let sent = self.upstream.sent().len();
        self.arrived(sent).await?;
        self.is_quiet().await?;
        let database = self.stores.database().await?;
        let mut proof = self.ledger(&database).await?;
        self.is_whole()?;
        ensure_unique(&database).await?;
        ensure_counted(&database).await?;
        self.is_forwarded(&database).await?;
        self.keeps_secrets()?;
        proof.recoveries = self.recoveries(&database).await?;
        Ok(proof)
    }

    /// Whether about so many messages are stored or known to be lost: a quick look before the
    /// thorough one.
    async fn arrived(&self, sent: usize) -> anyhow::Result<()> {
        let stored = self.stored().await?;
        let database = self.stores.database().await?;
        let lost = "SELECT (SELECT coalesce(sum(to_seq_no - from_seq_no + 1), 0)::bigint FROM gaps)
            + (SELECT count(*) FROM dead_letters WHERE state <> 'redriven')";
        let lost: i64 = database.query_one(lost, &[]).await?.get(0);
        ensure!(
            usize::try_from(stored + lost)? >= sent,
            "of {sent} messages {stored} are stored and {lost} known to be lost"
        );
        Ok(())
    }

    /// I5, I12: everything was read, nothing is pending. The edge is not part of the matrix.
    pub(super) async fn is_quiet(&self) -> anyhow::Result<()> {
        let names = self.names();
        let mut redis = self.stores.redis().await?;
        let mut streams = vec!["ttlc:control".to_owned()];
        for shard in 0..names.shards() {
            streams.extend([names.raw(shard), names.events(shard), names.dlq(shard)]);
        }
        for stream in streams {
            if !redis.exists::<_, bool>(&stream).await? {
                continue;
            }
            let info: redis::streams::StreamInfoStreamReply = redis.xinfo_stream(&stream).await?;
            let groups: redis::streams::StreamInfoGroupsReply = redis.xinfo_groups(&stream).await?;
            for group in groups.groups.iter().filter(|group| group.name != "api") {
                ensure!(
                    group.pending == 0,
                    "I12: group {} of {stream} has {} entries pending",
                    group.name,
                    group.pending
                );
                ensure!(
                    info.length == 0 || group.last_delivered_id == info.last_generated_id,
                    "group {} of {stream} has not read everything: {} of {}",
                    group.name,
                    group.last_delivered_id,
                    info.last_generated_id
                );
            }
        }
        Ok(())
    }

    /// I1, I4: the stand-in's own record against the rows.
    pub(super) async fn ledger(&self, database: &Client) -> anyhow::Result<Proof> {
        let rows = database
            .query(
                "SELECT stream_id, raw FROM events WHERE raw_format = 'protobuf' ORDER BY stream_id, seq_no",
                &[],
            )
            .await?;
        let mut stored = Vec::with_capacity(rows.len());
        for row in &rows {
            let header =
                patch::header(row.get::<_, &[u8]>(1)).context("a message without a header")?;
            let room = row.get(0);
            stored.push(Stored {
                room,
                id: header.msg_id,
            });
        }
        let gaps = "SELECT stream_id, from_seq_no, to_seq_no, reason FROM gaps ORDER BY 1, 2";
        let gaps = database.query(gaps, &[]).await?;
        let dead = "SELECT stream_id, seq_no, stage, reason FROM dead_letters WHERE state <> 'redriven' ORDER BY 1, 2";
        let dead = database.query(dead, &[]).await?;
        let mut proof = Proof {
            gaps: gaps
                .iter()
                .map(|row| (row.get(0), row.get(1), row.get(2), row.get(3)))
                .collect(),
            dead_letters: dead
                .iter()
                .map(|row| (row.get(0), row.get(1), row.get(2), row.get(3)))
                .collect(),
            ..Proof::default()
        };

        let sent = self.upstream.sent();
        proof.sent = sent.len();
        let mut place: HashMap<(String, i64), usize> = HashMap::with_capacity(sent.len());
        for (index, message) in sent.iter().enumerate() {
            place.insert((message.room_id.to_string(), message.msg_id), index);
        }
        let mut seen = HashSet::new();
        let mut last: HashMap<&str, usize> = HashMap::new();
        for row in &stored {
            let Some(&index) = place.get(&(row.room.clone(), row.id)) else {
                bail!("message {} of room {} was never sent", row.id, row.room);
            };
            if !seen.insert(index) {
                ensure!(
                    self.repeats_allowed,
                    "I2: message {} of room {} is stored twice",
                    row.id,
                    row.room
                );
                continue;
            }
            let before = last.insert(&row.room, index);
            ensure!(
                before.is_none_or(|before| before < index) || self.repeats_allowed,
                "I4: message {} of room {} is stored after one that was sent later",
                row.id,
                row.room
            );
        }
        proof.stored = seen.len();

        let mut missing: HashMap<String, Vec<i64>> = HashMap::new();
        for (index, message) in sent.iter().enumerate() {
            if !seen.contains(&index) {
                let room = message.room_id.to_string();
                missing.entry(room).or_default().push(message.msg_id);
            }
        }
        for (room, messages) in missing {
            let gaps = proof.gaps.iter().filter(|gap| gap.0 == room);
            let gone: i64 = gaps.map(|gap| gap.2 - gap.1 + 1).sum();
            let dead = proof
                .dead_letters
                .iter()
                .filter(|letter| letter.0.as_ref() == Some(&room));
            let known = usize::try_from(gone)? + dead.count();
            ensure!(
                messages.len() <= known,
                "I1: {} messages of room {room} are missing and only {known} known to be: {messages:?}",
                messages.len()
            );
        }
        Ok(proof)
    }

    /// I1, I2, I3 as an operator proves them.
    pub(super) fn is_whole(&self) -> anyhow::Result<()> {
        let log = Log::default();
        let mut verify = Daemon::start(self.settings(), &log, "verify")?;
        let status = verify.wait(PATIENCE)?;
        ensure!(
            status.success(),
            "I1: ttlc verify: {status}\n{}",
            log.lines().join("\n")
        );
        Ok(())
    }

    /// I5 of the forwarder: each event reached the destination before it was acknowledged, and has
    /// its record.
    async fn is_forwarded(&self, database: &Client) -> anyhow::Result<()> {
        let Some(receiver) = &self.receiver else {
            return Ok(());
        };
        let rows = database
            .query(
                "SELECT encode(event_id, 'hex'), state FROM events LEFT JOIN forward_log USING (event_id)",
                &[],
            )
            .await?;
        let taken = receiver.times();
        for row in rows {
            let (event, state): (String, Option<String>) = (row.get(0), row.get(1));
            ensure!(
                state.is_some(),
                "I5: event {event} has no record in forward_log"
            );
            ensure!(
                state.as_deref() != Some("forwarded") || taken.contains_key(&event),
                "I5: event {event} is recorded as forwarded, and the destination has never seen it"
            );
        }
        Ok(())
    }

    /// I18.
    pub(super) fn keeps_secrets(&self) -> anyhow::Result<()> {
        let database = url::Url::parse(self.stores.database_url())?;
        let password = database.password().context("a password")?;
        let secrets = [KEY, REDIS_PASSWORD, password];
        for line in self.log.lines() {
            for secret in secrets {
                ensure!(
                    !line.contains(secret),
                    "I18: {secret} is in the log: {line}"
                );
            }
        }
        Ok(())
    }

    /// By the clock of Postgres, which is ours.
    async fn recoveries(&self, database: &Client) -> anyhow::Result<Vec<(String, Duration)>> {
        let mut recoveries = Vec::new();
        for name in self.services.names() {
            let lives = self.services.lives(&name);
            for life in lives.iter().skip(1) {
                // A life that was too short to do anything is part of the outage.
                let from = life.began;
                let until = life.ended.map_or_else(SystemTime::now, |(at, _)| at);
                let first = "SELECT min(stored_at) FROM events WHERE ingested_at > $1 AND stored_at > $1 AND stored_at < $2";
                let first: Option<SystemTime> =
                    database.query_one(first, &[&from, &until]).await?.get(0);
                if let Some(first) = first {
                    recoveries.push((name.clone(), first.duration_since(from)?));
                }
            }
        }
        Ok(recoveries)
    }
}

/// I2, whatever partition a row is in.
async fn ensure_unique(database: &Client) -> anyhow::Result<()> {
    let counts = "SELECT count(*), count(DISTINCT event_id) FROM events";
    let row = database.query_one(counts, &[]).await?;
    let (rows, ids): (i64, i64) = (row.get(0), row.get(1));
    ensure!(rows == ids, "I2: {rows} rows have {ids} ids");
    Ok(())
}

async fn ensure_counted(database: &Client) -> anyhow::Result<()> {
    let recount = include_str!("../../fixtures/recount.sql");
    let mut wrong = String::new();
    for row in database.query(recount, &[]).await? {
        let (table, differ): (&str, i64) = (row.get(0), row.get(1));
        if differ != 0 {
            write!(wrong, " {table} in {differ} rows")?;
        }
    }
    ensure!(
        wrong.is_empty(),
        "the statistics differ from a recount:{wrong}"
    );
    Ok(())
}
