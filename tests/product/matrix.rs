//! The fault matrix: what goes wrong in production, done to the real thing, row by row.
//!
//! In: a show of made-up rooms, played to the real daemon with a Redis and a Postgres of its own,
//! and a fault. Out: [`Rig::proof`], the same after every row: nothing that the rooms said is
//! missing, doubled or out of order, all numbers are accounted for, no entry is left behind, the
//! statistics equal a recount, and no secret was logged. Rows are named after the reference (`f04`);
//! `docs/testing.md` has the table.
//!
//! Each row has a short form for every run, and a long one (`FAULTS=long`, which
//! `cargo xtask test --faults` sets) with the numbers of the reference; both can be bounded by the
//! environment. A row that fails prints what its processes did and said.

#![allow(dead_code, unused_imports, reason = "the other groups of rows use it")]

mod destinations;
mod doubts;
mod endpoint;
mod erasure;
mod kills;
mod links;
mod pauses;
mod poison;
mod postgres;
mod proof;
mod receiver;
mod redis;
mod resends;
mod rivals;
mod services;
mod signals;
mod spool;

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, SystemTime},
};

use ::redis::AsyncCommands as _;
use anyhow::{Context, ensure};
use shared::streams::StreamNames;
use upstream::{Creator, History, Load, Script, Show as Plays, Upstream};
use url::Url;
use xtask::{
    processes::TemporaryFolder,
    servers::{StoppedPostgres, StoppedRedis},
};

pub(crate) use self::{proof::Proof, receiver::Receiver, services::Services};
use crate::{
    daemon::{Log, PATIENCE},
    product::own_settings,
    stores::{Stores, blocking, until},
};

/// Secrets that every process is given; none may be in a log.
const KEY: &str = "canary-faults-euler-key-5d0c";
const REDIS_PASSWORD: &str = "canary-faults-redis-2b71";
/// So much of a log is shown when a row fails.
const LAST_LINES: usize = 300;

/// Whether the numbers of the reference are wanted, and not a quick look.
pub(crate) fn long() -> bool {
    std::env::var("FAULTS").is_ok_and(|form| form == "long")
}

/// A number of a row: `short` or `long` by the form, or what the environment says.
pub(crate) fn number(variable: &str, short: u64, long_form: u64) -> u64 {
    let default = if long() { long_form } else { short };
    std::env::var(variable).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is no number"))
    })
}

/// One line of the table that `cargo xtask test --faults` shows at its end.
pub(crate) fn report(row: &str, what: &str, repetitions: usize, times: &[(&str, Duration)]) {
    let mut took: Vec<_> = times.iter().map(|(_, took)| *took).collect();
    took.sort_unstable();
    let at = |share: usize| took.get((took.len() * share / 100).min(took.len().saturating_sub(1)));
    let seconds = |took: Option<&Duration>| {
        took.map_or_else(
            || "–".to_owned(),
            |took| format!("{:.1} s", took.as_secs_f64()),
        )
    };
    for (name, took) in times {
        eprintln!("{row}: recovered {:.1} s after {name}", took.as_secs_f64());
    }
    println!(
        "ROW | {row} | {what} | {repetitions} | {} | {}",
        seconds(at(50)),
        seconds(took.last())
    );
}

/// What is played: rooms that talk until the proof ends them.
#[derive(Clone, Debug)]
pub(crate) struct Show {
    pub(crate) rooms: usize,
    /// Messages per second and room.
    pub(crate) rate: f64,
    /// Bytes of a message, on average.
    pub(crate) size: usize,
    pub(crate) seed: u64,
    /// What a client that connects gets again: by default more than any kill can lose.
    pub(crate) history: History,
}

impl Default for Show {
    fn default() -> Self {
        Self {
            rooms: 3,
            rate: 15.0,
            size: 600,
            seed: number("FAULTS_SEED", 1, 1),
            history: History::Last(Duration::from_mins(1)),
        }
    }
}

/// Everything that runs in a row.
pub(crate) struct Rig {
    pub(crate) upstream: Upstream,
    pub(crate) stores: Stores,
    pub(crate) log: Log,
    pub(crate) services: Services,
    pub(crate) spool: TemporaryFolder,
    /// Who plays.
    pub(crate) creators: Vec<String>,
    /// How long the proof waits for the pipeline to become quiet.
    pub(crate) patience: Duration,
    /// After a loss of Redis' memory, what rooms send again may be stored under a second number.
    pub(crate) repeats_allowed: bool,
    pub(crate) began: SystemTime,
    /// Where the forwarder sends to, if it does.
    pub(crate) receiver: Option<Receiver>,
    settings: Vec<(String, String)>,
    /// How many entries were put in that are no events.
    strangers: AtomicUsize,
    stopped_redis: Option<StoppedRedis>,
    stopped_postgres: Option<StoppedPostgres>,
}

impl Rig {
    /// The show on stage and the stores, and nothing of ours yet.
    pub(crate) async fn prepare(show: Show) -> Self {
        let load = Load {
            size: show.size,
            ..Load::new(show.seed, show.rate)
        };
        let creators: Vec<_> = (0..show.rooms).map(|room| format!("room-{room}")).collect();
        let mut script = creators.iter().fold(Script::new(), |script, name| {
            let creator = Creator::new(name, Plays::Generated(load.clone()));
            script.creator(creator.history(show.history))
        });
        script.euler.keys = vec![KEY.to_owned()];
        let upstream = Upstream::start(script).await.expect("the stand-in starts");
        let stores = Stores::own().await;
        let spool = TemporaryFolder::new("spool").expect("a folder");
        let own = own_settings(&upstream, &stores, &spool, &creators);
        let log = Log::default();
        let mut rig = Self {
            settings: own.map(|(name, value)| (name.to_owned(), value)).to_vec(),
            services: Services::new(&log),
            upstream,
            stores,
            log,
            spool,
            creators,
            patience: Duration::from_secs(number(
                "FAULTS_PATIENCE",
                PATIENCE.as_secs(),
                PATIENCE.as_secs(),
            )),
            repeats_allowed: false,
            began: SystemTime::now(),
            receiver: None,
            strangers: AtomicUsize::new(0),
            stopped_redis: None,
            stopped_postgres: None,
        };
        let redis = Self::redis_url(&rig.redis_address());
        rig.set("REDIS_URL", &redis);
        rig.set("EULER_API_KEY", KEY);
        // Its JSON is not what the stand-in counts; see `Rig::stored`.
        rig.set("EULER_RAW_MESSAGES", "on");
        eprintln!("seed {}", show.seed);
        rig
    }

    /// The same with `ttlc run`, when it stores.
    pub(crate) async fn run(show: Show) -> Self {
        let rig = Self::prepare(show).await;
        rig.start("run");
        rig.stores_more(1).await;
        rig
    }

    /// A setting of every process that is started from now on.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.settings.retain(|(other, _)| other != name);
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    /// Events are forwarded, and the proof covers that.
    pub(crate) fn forward_to(&mut self, receiver: Receiver) {
        self.set("FORWARD_URL", &receiver.url());
        self.receiver = Some(receiver);
    }

    /// What every process is told.
    pub(crate) fn settings(&self) -> &[(String, String)] {
        &self.settings
    }

    /// `127.0.0.1:PORT` of Redis, for a proxy.
    pub(crate) fn redis_address(&self) -> String {
        address(self.stores.redis_url())
    }

    /// `127.0.0.1:PORT` of Postgres, for a proxy.
    pub(crate) fn postgres_address(&self) -> String {
        address(self.stores.database_url())
    }

    /// `REDIS_URL` with Redis at this address. It holds a password, which Redis accepts as any.
    pub(crate) fn redis_url(address: &str) -> String {
        format!("redis://default:{REDIS_PASSWORD}@{address}")
    }

    /// `DATABASE_URL` with Postgres at this address.
    pub(crate) fn database_url(&self, address: &str) -> String {
        let direct = self.postgres_address();
        self.stores.database_url().replace(&direct, address)
    }

    // ---- processes

    /// Starts `ttlc SUBCOMMAND` under its own name, and keeps it running.
    pub(crate) fn start(&self, subcommand: &str) {
        self.start_as(subcommand, subcommand, &[], &[]);
    }

    /// Starts `ttlc SUBCOMMAND` under a name, with changed settings; each of `once` is what one of
    /// its first starts is told besides.
    pub(crate) fn start_as(
        &self,
        name: &str,
        subcommand: &str,
        changes: &[(&str, &str)],
        once: &[&[(&str, &str)]],
    ) {
        let own = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
        let mut settings = self.settings.clone();
        settings.retain(|(name, _)| changes.iter().all(|(other, _)| name != other));
        settings.extend(changes.iter().map(own));
        let once: VecDeque<Vec<_>> = once
            .iter()
            .map(|start| start.iter().map(own).collect())
            .collect();
        self.services.start(name, subcommand, settings, once);
    }

    /// Kills a process; it is started again by itself.
    pub(crate) fn kill(&self, name: &str) {
        self.services.kill(name);
    }

    /// What the next start of a process is told besides.
    pub(crate) fn tell_once(&self, name: &str, settings: &[(&str, &str)]) {
        let own = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
        self.services
            .tell_once(name, settings.iter().map(own).collect());
    }

    /// Waits until a start of a process shows: the storage writer has stored something, the forwarder
    /// has forwarded something, or (of the others) something that was received after it is stored.
    /// Returns how long that took from the start.
    pub(crate) async fn recovered(&self, name: &str, began: SystemTime) -> Duration {
        let at = until(PATIENCE, async || {
            let database = self.stores.database().await?;
            let first = match name {
                "forwarder" => "SELECT min(settled_at) FROM forward_log WHERE settled_at > $1",
                "storage-writer" => "SELECT min(stored_at) FROM events WHERE stored_at > $1",
                _ => "SELECT min(stored_at) FROM events WHERE ingested_at > $1",
            };
            let at: Option<SystemTime> = database.query_one(first, &[&began]).await?.get(0);
            at.with_context(|| format!("nothing has come through since {name} was started"))
        })
        .await;
        at.duration_since(began).unwrap_or_default()
    }

    /// Puts into `ttlc:events` what is none: a dead letter of each group that reads it.
    pub(crate) async fn not_an_event(&self) {
        let mut redis = self.stores.redis().await.expect("Redis answers");
        let number = self.strangers.fetch_add(1, Ordering::Relaxed);
        let fields = [("event", format!("no event {number}"))];
        let added: ::redis::RedisResult<String> = redis.xadd("ttlc:events", "*", &fields).await;
        added.expect("it is added");
    }

    // ---- stores

    pub(crate) async fn stop_redis(&mut self, gently: bool) {
        let redis = self.stores.redis.take().expect("it runs");
        self.stopped_redis = Some(blocking(move || redis.stop(gently)).await);
    }

    pub(crate) async fn start_redis(&mut self) {
        let redis = self.stopped_redis.take().expect("it was stopped");
        self.stores.redis = Some(blocking(move || redis.start_again()).await);
    }

    pub(crate) async fn stop_postgres(&mut self, gently: bool) {
        let postgres = self.stores.postgres.take().expect("it runs");
        self.stopped_postgres = Some(blocking(move || postgres.stop(gently)).await);
    }

    pub(crate) async fn start_postgres(&mut self) {
        let postgres = self.stopped_postgres.take().expect("it was stopped");
        self.stores.postgres = Some(blocking(move || postgres.start_again()).await);
    }

    // ---- what has come so far

    /// How many messages of rooms are stored, without those that came as JSON, which the proof cannot
    /// compare; 0 before there is a table.
    pub(crate) async fn stored(&self) -> anyhow::Result<i64> {
        let database = self.stores.database().await?;
        let there = "SELECT to_regclass('events') IS NOT NULL";
        if !database.query_one(there, &[]).await?.get::<_, bool>(0) {
            return Ok(0);
        }
        let count = "SELECT count(*) FROM events WHERE raw_format = 'protobuf'";
        Ok(database.query_one(count, &[]).await?.get(0))
    }

    /// Waits until so many more messages are stored than now.
    pub(crate) async fn stores_more(&self, count: i64) {
        let before = until(PATIENCE, async || self.stored().await).await;
        until(PATIENCE, async || {
            let stored = self.stored().await? - before;
            ensure!(stored >= count, "{stored} of {count} more are stored");
            Ok(())
        })
        .await;
    }

    /// Waits until so many more messages are sent than now.
    pub(crate) async fn sends_more(&self, count: usize) {
        let before = self.upstream.sent().len();
        until(PATIENCE, async || {
            let sent = self.upstream.sent().len() - before;
            ensure!(sent >= count, "{sent} of {count} more are sent");
            Ok(())
        })
        .await;
    }

    /// The names of the streams, by the settings.
    pub(crate) fn names(&self) -> StreamNames {
        let shards = self
            .settings
            .iter()
            .find(|(name, _)| name == "STREAM_SHARDS");
        StreamNames::new(shards.map_or(1, |(_, count)| count.parse().expect("a number")))
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for name in self.services.names() {
            for life in self.services.lives(&name) {
                let at = life.began.duration_since(self.began).unwrap_or_default();
                eprintln!(
                    "{name} began at {:.1} s, {:?}",
                    at.as_secs_f64(),
                    life.ended
                );
            }
        }
        let lines = self.log.lines();
        let skip = lines.len().saturating_sub(LAST_LINES);
        eprintln!("the log, without its first {skip} lines:");
        for line in &lines[skip..] {
            eprintln!("{line}");
        }
    }
}

/// `host:port` of an address.
fn address(url: &str) -> String {
    let url = Url::parse(url).expect("an address");
    let host = url.host_str().expect("a host");
    format!("{host}:{}", url.port().expect("a port"))
}
