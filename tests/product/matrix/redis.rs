//! F4 to F8: Redis dies, forgets, is full.
//!
//! `FAULTS_REDIS_TIMES` says how often each happens.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::ensure;
use redis::AsyncCommands as _;
use xtask::{
    processes::{TemporaryFolder, silent},
    servers::{Durability, PrivateRedis},
};

use super::{Rig, Show, number};
use crate::{
    daemon::PATIENCE,
    stores::{Entry, blocking, until},
};

/// How often it happens.
fn times() -> u64 {
    number("FAULTS_REDIS_TIMES", 3, 20)
}

/// Waits until a group has read all of a stream and has nothing left to do.
async fn drained(rig: &Rig, stream: &str, group: &str) {
    until(PATIENCE, async || {
        let groups = rig.stores.groups(stream).await?;
        let found = groups.iter().find(|it| it.name == group);
        ensure!(
            found.is_some_and(|it| it.pending == 0 && it.lag == Some(0)),
            "{stream}: {groups:?}"
        );
        Ok(())
    })
    .await;
}

async fn length(rig: &Rig, stream: &str) -> anyhow::Result<u64> {
    Ok(rig.stores.redis().await?.xlen(stream).await?)
}

async fn configure(rig: &Rig, name: &str, value: &str) {
    let mut redis = rig.stores.redis().await.expect("redis answers");
    redis::cmd("CONFIG")
        .arg("SET")
        .arg(name)
        .arg(value)
        .exec_async(&mut redis)
        .await
        .unwrap_or_else(|error| panic!("{name}: {error}"));
}

async fn dead_letters(rig: &Rig) -> Vec<Entry> {
    let letters = rig.stores.entries("ttlc:dlq").await;
    letters.expect("redis answers")
}

#[tokio::test(flavor = "multi_thread")]
async fn f04_redis_is_killed_and_comes_back() {
    let mut rig = Rig::run(Show::default()).await;
    for _ in 0..times() {
        rig.stores_more(20).await;
        rig.stop_redis(false).await;
        rig.sends_more(40).await;
        rig.start_redis().await;
    }
    rig.stores_more(20).await;
    rig.proof().await.lossless();
}

#[tokio::test(flavor = "multi_thread")]
async fn f05_a_power_cut_takes_the_end_of_what_redis_wrote() {
    let mut rig = Rig::run(Show::default()).await;
    for time in 0..times() {
        rig.stores_more(40).await;
        rig.stop_redis(false).await;
        // A part of what was acknowledged, 1 to 30 %.
        let part = [10, 1, 30, 20, 5][usize::try_from(time % 5).expect("small")];
        let folder = rig.stopped_redis.as_ref().expect("it is stopped").folder();
        let aof = incremental_file(folder);
        let length = fs::metadata(&aof).expect("a file").len();
        let file = fs::OpenOptions::new().write(true).open(&aof);
        let file = file.expect("the append-only file");
        file.set_len(length / 100 * (100 - part))
            .expect("it is cut");
        rig.sends_more(20).await;
        rig.start_redis().await;
        let refilled = format!("{part} %");
        until(PATIENCE, async || {
            let lines = rig.log.lines();
            let told = lines
                .iter()
                .filter(|line| line.contains("published them again"));
            ensure!(
                told.count() as u64 > time,
                "{refilled}: nothing was refilled"
            );
            Ok(())
        })
        .await;
    }
    rig.stores_more(40).await;
    rig.proof().await.lossless();
}

/// The newest part of the append-only file.
fn incremental_file(folder: &Path) -> PathBuf {
    let parts = fs::read_dir(folder.join("appendonlydir")).expect("a folder");
    let mut parts: Vec<PathBuf> = parts.map(|entry| entry.expect("an entry").path()).collect();
    parts.retain(|path| path.to_string_lossy().ends_with(".incr.aof"));
    parts.sort();
    parts.pop().expect("an incremental file")
}

#[tokio::test(flavor = "multi_thread")]
async fn f06_redis_forgets_everything() {
    let mut rig = Rig::run(Show::default()).await;
    for time in 0..times() {
        rig.stores_more(40).await;
        if time % 2 == 0 {
            let mut redis = rig.stores.redis().await.unwrap();
            let _: () = redis::cmd("FLUSHALL")
                .query_async(&mut redis)
                .await
                .unwrap();
        } else {
            rig.stop_redis(true).await;
            let folder = rig.stopped_redis.as_ref().expect("it is stopped").folder();
            fs::remove_dir_all(folder.join("appendonlydir")).expect("its data");
            rig.start_redis().await;
        }
        rig.sends_more(20).await;
    }
    rig.stores_more(40).await;
    rig.log.find("ERROR", &["redis was wiped"]).unwrap();
    rig.log.find("WARN", &["published them again"]).unwrap();
    rig.proof().await.lossless();
}

/// What was published longer ago than the spool keeps it, and not stored, is gone with Redis: the
/// ledger must say so, to the number.
#[tokio::test(flavor = "multi_thread")]
async fn f06_what_nobody_can_refill_is_a_recorded_gap() {
    let mut rig = Rig::prepare(Show::default()).await;
    rig.set("SPOOL_KEEP_SECONDS", "1");
    rig.start("storage-writer");
    rig.start("normalizer");
    rig.start("ingest");
    rig.stores_more(40).await;
    // Nothing is stored any more.
    rig.services.signal("storage-writer", "TERM", true);
    rig.services.ended("storage-writer", PATIENCE).await;
    rig.sends_more(60).await;
    // The next process writes a new part of the spool, and lets the old one go.
    let parts = || {
        let files = fs::read_dir(rig.spool.path().join("0")).expect("a spool");
        let mut names: Vec<_> = files.map(|it| it.expect("a file").file_name()).collect();
        names.retain(|name| name.to_string_lossy().ends_with(".log"));
        names.sort();
        names
    };
    let old = parts();
    // Gently: a crash may lose 100 ms of the spool as well, and nobody can know of these.
    rig.services.signal("ingest", "TERM", false);
    until(PATIENCE, async || {
        let now = parts();
        let kept: Vec<_> = now.iter().filter(|name| old.contains(name)).collect();
        ensure!(kept.is_empty() && !now.is_empty(), "still there: {kept:?}");
        Ok(())
    })
    .await;
    let mut redis = rig.stores.redis().await.unwrap();
    let _: () = redis::cmd("FLUSHALL")
        .query_async(&mut redis)
        .await
        .unwrap();
    rig.sends_more(20).await;
    rig.services.remove("storage-writer");
    rig.start("storage-writer");
    rig.stores_more(40).await;
    let proof = rig.proof().await;
    assert!(
        proof.gaps.iter().any(|gap| gap.3 == "redis_lost"),
        "{:?}",
        proof.gaps
    );
    let known: i64 = proof.gaps.iter().map(|gap| gap.2 - gap.1 + 1).sum();
    let missing = i64::try_from(proof.sent - proof.stored).unwrap();
    assert!(missing > 0, "something was really lost");
    // Each room's connection says a word or two of its own, which is lost with the rest.
    let own = i64::try_from(4 * rig.creators.len()).unwrap();
    assert!(
        (missing..=missing + own).contains(&known),
        "{known} numbers for {missing} messages"
    );
    assert!(proof.dead_letters.is_empty(), "{:?}", proof.dead_letters);
}

#[tokio::test(flavor = "multi_thread")]
async fn f07_redis_is_out_of_memory() {
    let mut rig = Rig::run(Show::default()).await;
    rig.stores_more(120).await;
    for _ in 0..times().min(5) {
        configure(&rig, "maxmemory", "1mb").await;
        let raw = length(&rig, "ttlc:raw").await.unwrap();
        rig.sends_more(40).await;
        rig.log.find("WARN", &["cannot publish", "OOM"]).unwrap();
        // What is there is stored and leaves, nothing is added.
        drained(&rig, "ttlc:events", "storage").await;
        assert!(length(&rig, "ttlc:raw").await.unwrap() <= raw + 2);
        assert_eq!(dead_letters(&rig).await, [], "an outage is no bad input");
        configure(&rig, "maxmemory", "0").await;
        rig.stores_more(60).await;
    }
    rig.proof().await.lossless();
}

/// At the limit entries must still leave the streams, or it would never end by itself.
#[tokio::test(flavor = "multi_thread")]
async fn f07_out_of_memory_streams_are_trimmed_all_the_same() {
    let mut rig = Rig::run(Show::default()).await;
    until(PATIENCE, async || {
        let events = length(&rig, "ttlc:events").await?;
        ensure!(events >= 150, "{events} events");
        Ok(())
    })
    .await;
    configure(&rig, "maxmemory", "1mb").await;
    until(PATIENCE, async || {
        let events = length(&rig, "ttlc:events").await?;
        ensure!(events < 150, "{events} events");
        Ok(())
    })
    .await;
    configure(&rig, "maxmemory", "0").await;
    rig.stores_more(20).await;
    rig.proof().await.lossless();
}

/// A disk of its own for Redis; gone when dropped, after Redis.
struct SmallDisk {
    folder: TemporaryFolder,
}

impl SmallDisk {
    /// `None`, said aloud, where mounting is not permitted.
    fn mount(mebibytes: u32) -> Option<Self> {
        let folder = TemporaryFolder::new("disk").expect("a folder");
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"])
            .arg(folder.path())
            .output();
        match done {
            Ok(output) if output.status.success() => Some(Self { folder }),
            Ok(output) => {
                let why = String::from_utf8_lossy(&output.stderr).into_owned();
                eprintln!(
                    "SKIPPED: F8 needs root and a tmpfs of its own, and mounting fails: {why}"
                );
                None
            }
            Err(error) => {
                eprintln!("SKIPPED: F8 needs the program `mount`: {error}");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    /// Takes all but so many bytes.
    fn fill(&self, leave: u64) {
        let free = Command::new("df")
            .args(["--output=avail", "-B1"])
            .arg(self.path())
            .output();
        let free = String::from_utf8(free.expect("df").stdout).expect("text");
        let free: u64 = free.lines().last().unwrap().trim().parse().unwrap();
        let mut left = free.saturating_sub(leave);
        // Redis writes meanwhile: what does not fit any more need not.
        let mut filler = fs::File::create(self.filler()).expect("a file");
        let piece = [0; 16 * 1024];
        while left > 0 && filler.write_all(&piece).is_ok() {
            left = left.saturating_sub(piece.len() as u64);
        }
    }

    fn free(&self) {
        fs::remove_file(self.filler()).expect("it was filled");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path()).status();
    }
}

/// A rig whose Redis has this disk.
async fn on(disk: &SmallDisk, durability: Durability) -> Rig {
    let mut rig = Rig::prepare(Show::default()).await;
    let data = disk.path().join("data");
    let redis = blocking(move || PrivateRedis::kept(&data, durability, silent())).await;
    let address = format!("127.0.0.1:{}", redis.port());
    rig.stores.use_redis(redis);
    rig.set("REDIS_URL", &Rig::redis_url(&address));
    rig.start("run");
    rig.stores_more(1).await;
    rig
}

#[tokio::test(flavor = "multi_thread")]
async fn f08_the_disk_of_redis_is_full_and_it_refuses() {
    let Some(disk) = SmallDisk::mount(24) else {
        return;
    };
    let mut rig = on(&disk, Durability::Fast).await;
    for _ in 0..times().min(2) {
        rig.stores_more(20).await;
        disk.fill(64 * 1024);
        until(PATIENCE, async || {
            rig.log
                .find("WARN", &["cannot publish", "MISCONF"])
                .map(|_| ())
        })
        .await;
        rig.sends_more(60).await;
        disk.free();
        rig.stores_more(60).await;
    }
    assert_eq!(dead_letters(&rig).await, [], "a full disk is no bad input");
    rig.proof().await.lossless();
    drop(rig);
}

#[tokio::test(flavor = "multi_thread")]
async fn f08_the_disk_of_redis_is_full_and_it_exits() {
    let Some(disk) = SmallDisk::mount(24) else {
        return;
    };
    let mut rig = on(&disk, Durability::Safe).await;
    for _ in 0..times().min(2) {
        rig.stores_more(20).await;
        disk.fill(64 * 1024);
        until(PATIENCE, async || {
            let redis = rig.stores.redis.as_mut().expect("it was started");
            ensure!(redis.process().ended().is_some(), "redis runs still");
            Ok(())
        })
        .await;
        rig.sends_more(60).await;
        disk.free();
        // As a supervisor does.
        rig.stop_redis(false).await;
        rig.start_redis().await;
        rig.stores_more(60).await;
    }
    assert_eq!(dead_letters(&rig).await, [], "a full disk is no bad input");
    rig.proof().await.lossless();
    drop(rig);
}
