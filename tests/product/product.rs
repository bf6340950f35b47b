//! Stand-in, stores and daemon together: what nearly every test starts with.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, ensure};
use shared::streams::StreamNames;
use upstream::{Capture, Creator, Script, Upstream};
use xtask::processes::TemporaryFolder;

use crate::{
    daemon::{Daemon, Log, PATIENCE},
    rows::Row,
    stores::{Stores, until},
};

/// Everything that runs in a test.
pub(crate) struct Product {
    pub(crate) upstream: Upstream,
    pub(crate) stores: Stores,
    pub(crate) log: Log,
    settings: Vec<(String, String)>,
    /// By subcommand.
    running: Vec<(&'static str, Daemon)>,
    shards: u32,
    pub(crate) spool: TemporaryFolder,
}

pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// A creator who plays the capture of the same name.
pub(crate) fn creator(name: &str) -> Creator {
    let path = fixtures().join(format!("captures/{name}.ndjson"));
    Creator::plays(name, Capture::read(&path).expect("a capture"))
}

/// The bytes of an encoded fixture.
pub(crate) fn encoded(file: &str) -> bytes::Bytes {
    std::fs::read(fixtures().join("encoded").join(file))
        .expect("a fixture")
        .into()
}

/// What every daemon under test is told, unless its test says otherwise.
pub(crate) fn own_settings(
    upstream: &Upstream,
    stores: &Stores,
    spool: &TemporaryFolder,
    creators: &[String],
) -> [(&'static str, String); 12] {
    let base = upstream.base_url();
    [
        ("TIKTOK_UNIQUE_ID", creators.join(",")),
        ("TIKTOK_WEB_URL", base.clone()),
        ("TIKTOK_WEBCAST_URL", base.clone()),
        ("EULER_API_URL", base),
        ("EULER_WS_URL", upstream.euler_ws_url()),
        ("REDIS_URL", stores.redis_url().to_owned()),
        ("DATABASE_URL", stores.database_url().to_owned()),
        ("SPOOL_DIR", spool.path().display().to_string()),
        ("OFFLINE_POLL_SECONDS", "1".to_owned()),
        ("SIGN_REQUESTS_PER_MINUTE", "600".to_owned()),
        ("TIKTOK_REQUESTS_PER_MINUTE", "6000".to_owned()),
        ("LOG_FORMAT", "json".to_owned()),
    ]
}

impl Product {
    /// Plays the script to a daemon that follows every creator of it.
    pub(crate) async fn start(script: Script) -> Self {
        Self::start_with(script, Stores::start().await, &[], &[]).await
    }

    /// The same with given stores, more creators, and settings that replace the tests' own.
    pub(crate) async fn start_with(
        script: Script,
        stores: Stores,
        others: &[&str],
        settings: &[(&str, &str)],
    ) -> Self {
        let mut product = Self::prepare(script, stores, others, settings).await;
        product.start_daemon();
        product
    }

    /// The same without the daemon.
    pub(crate) async fn prepare(
        script: Script,
        stores: Stores,
        others: &[&str],
        settings: &[(&str, &str)],
    ) -> Self {
        let mut creators: Vec<_> = script.creators.iter().map(|one| one.name.clone()).collect();
        creators.extend(others.iter().map(|&name| name.to_owned()));
        let upstream = Upstream::start(script).await.expect("the stand-in starts");
        let spool = TemporaryFolder::new("spool").expect("a folder");
        let own = own_settings(&upstream, &stores, &spool, &creators);
        let shards = settings.iter().find(|(name, _)| *name == "STREAM_SHARDS");
        let shards = shards.map_or(1, |(_, count)| count.parse().expect("a number"));
        let settings = own
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .filter(|(name, _)| !settings.iter().any(|(other, _)| other == name))
            .chain(settings.iter().copied())
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        Self {
            upstream,
            stores,
            log: Log::default(),
            settings,
            running: Vec::new(),
            shards,
            spool,
        }
    }

    /// Makes the tables, as the first start of a daemon would.
    pub(crate) fn migrate(&self) {
        let migrated = Daemon::migrate(&self.settings, &self.log).expect("it migrates");
        assert!(
            migrated.success(),
            "{migrated}: {}",
            self.log.lines().join("\n")
        );
    }

    /// Starts the daemon (again), all stages in one process.
    pub(crate) fn start_daemon(&mut self) {
        self.start_stage("run");
    }

    /// Kills the daemon as a crash would.
    pub(crate) fn kill_daemon(&mut self) {
        self.kill_stage("run");
    }

    /// Starts `ttlc SUBCOMMAND`.
    pub(crate) fn start_stage(&mut self, subcommand: &'static str) {
        assert!(
            self.running.iter().all(|(name, _)| *name != subcommand),
            "it runs already"
        );
        let daemon = Daemon::start(&self.settings, &self.log, subcommand).expect("it starts");
        self.running.push((subcommand, daemon));
    }

    /// One more daemon with the same settings but these, and a log of its own.
    pub(crate) fn another(&self, subcommand: &str, changes: &[(&str, &str)]) -> (Daemon, Log) {
        let mut settings = self.settings.clone();
        settings.retain(|(name, _)| changes.iter().all(|(other, _)| name != other));
        settings.extend(
            changes
                .iter()
                .map(|&(name, value)| (name.into(), value.into())),
        );
        let log = Log::default();
        let daemon = Daemon::start(&settings, &log, subcommand).expect("it starts");
        (daemon, log)
    }

    /// Kills it as a crash would.
    pub(crate) fn kill_stage(&mut self, subcommand: &str) {
        let at = self
            .running
            .iter()
            .position(|(name, _)| *name == subcommand);
        self.running.remove(at.expect("it runs")).1.kill();
    }

    /// Waits until the last lap of this creator has been played.
    pub(crate) async fn played(&mut self, creator: &str) {
        until(PATIENCE, async || {
            self.check_daemon();
            ensure!(
                self.upstream.finished(creator),
                "{creator} has not been played to the end: {:?}; the daemon's log:\n{}",
                self.upstream.counts(),
                self.log.lines().join("\n")
            );
            Ok(())
        })
        .await;
    }

    /// Waits until nothing is on its way from ingest to Postgres any more, and returns all rows.
    ///
    /// `enough` says which rows must be there by then, so that a pause is not taken for the end.
    pub(crate) async fn settled(
        &mut self,
        enough: impl Fn(&[Row]) -> anyhow::Result<()>,
    ) -> Vec<Row> {
        until(PATIENCE, async || {
            self.check_daemon();
            let log = || format!("the daemon's log:\n{}", self.log.lines().join("\n"));
            enough(&Row::all(&self.stores).await?).with_context(log)?;
            let names = StreamNames::new(self.shards);
            let hops = (0..self.shards).flat_map(|shard| {
                [
                    (names.raw(shard), "normalizer"),
                    (names.events(shard), "storage"),
                ]
            });
            for (stream, name) in hops {
                let groups = self.stores.groups(&stream).await?;
                let group = groups.iter().find(|group| group.name == name);
                let group =
                    group.with_context(|| format!("group {name} of {stream}: {groups:?}"))?;
                ensure!(
                    group.pending == 0 && group.lag == Some(0),
                    "{group:?} has work to do"
                );
            }
            Row::all(&self.stores).await
        })
        .await
    }

    /// SIGTERM: it has to end by itself, with success and within this time.
    pub(crate) fn stop_stage(&mut self, subcommand: &str, within: Duration) {
        let at = self
            .running
            .iter()
            .position(|(name, _)| *name == subcommand);
        let (_, daemon) = self.running.remove(at.expect("it runs"));
        daemon.stop_within(within);
    }

    fn check_daemon(&mut self) {
        for (name, daemon) in &mut self.running {
            if let Some(status) = daemon.ended() {
                panic!(
                    "ttlc {name} ended ({status}); the log:\n{}",
                    self.log.lines().join("\n")
                );
            }
        }
    }

    /// Stops the daemon gently, in the order of the data: it has to end by itself and with success.
    pub(crate) fn stop(self) {
        for (name, daemon) in self.running {
            let status = daemon.stop().expect("it stops");
            assert!(
                status.success(),
                "{name}: {status}; the log:\n{}",
                self.log.lines().join("\n")
            );
        }
        assert_eq!(
            self.upstream.violations(),
            [],
            "what the daemon did wrong at the stand-in"
        );
    }
}
