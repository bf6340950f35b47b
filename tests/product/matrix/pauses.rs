//! F3 and F19: a process that is frozen and comes back, and a clock that is wrong.
//!
//! Who is frozen holds what it held: a lease, entries, a transaction. The others must go on without
//! it, and what it does late must change nothing. A wrong clock may put wrong times into events; the
//! numbers go on, and leases, which Redis keeps by its own clock, stay where they are.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use anyhow::ensure;
use xtask::packages;

use super::{Rig, Show, long, number, report};
use crate::{
    daemon::{Daemon, Log, PATIENCE},
    stores::until,
};

/// Long enough for every lease, and for Postgres to give up a frozen transaction.
fn pause() -> Duration {
    Duration::from_secs(number("FAULTS_PAUSE", 14, 90))
}

/// Freezes a process for the pause, while the others go on; returns how long it took until they did.
async fn freeze(rig: &Rig, name: &str) -> Duration {
    let frozen = SystemTime::now();
    rig.services.signal(name, "STOP", false);
    go_on_without(rig, frozen).await
}

async fn go_on_without(rig: &Rig, frozen: SystemTime) -> Duration {
    let again = rig.recovered("others", frozen).await;
    rig.stores_more(30).await;
    let left = pause().saturating_sub(frozen.elapsed().unwrap_or_default());
    tokio::time::sleep(left).await;
    again
}

#[tokio::test(flavor = "multi_thread")]
async fn f03_another_normalizer_takes_over_from_a_frozen_one() {
    let mut rig = Rig::prepare(Show::default()).await;
    rig.start("ingest");
    rig.start("storage-writer");
    rig.start_as("first", "normalizer", &[], &[]);
    rig.stores_more(10).await;
    rig.start_as("second", "normalizer", &[], &[]);
    until(PATIENCE, async || rig.log.find("INFO", &["standing by"])).await;
    let again = freeze(&rig, "first").await;
    rig.services.signal("first", "CONT", false);
    // It finds its lease gone, and what it still wants to publish refused.
    until(PATIENCE, async || {
        rig.log.find("WARN", &["not normalizing for now"])
    })
    .await;
    rig.stores_more(30).await;
    rig.proof().await.lossless();
    report("F3", "a normalizer frozen", 1, &[("others", again)]);
    assert!(again < pause(), "{again:?}");
}

/// Two writers share the stream; the first is frozen with a transaction open, its rows locked.
#[tokio::test(flavor = "multi_thread")]
async fn f03_another_storage_writer_goes_on_without_a_frozen_one() {
    let mut rig = Rig::prepare(Show::default()).await;
    rig.start("ingest");
    rig.start("normalizer");
    let name = |name| [("STORAGE_CONSUMER", name)];
    rig.start_as("second", "storage-writer", &name("writer-1"), &[]);
    rig.stores_more(10).await;
    let frozen = [("FAILPOINT", "before_commit:freeze@5")];
    rig.start_as("first", "storage-writer", &name("writer-0"), &[&frozen]);
    until(PATIENCE, async || {
        rig.log
            .find("WARN", &["at the fail point", "before_commit"])
    })
    .await;
    let again = go_on_without(&rig, SystemTime::now()).await;
    // Late: its transaction has been given up, and it stores (or finds stored) what it held.
    rig.services.signal("first", "CONT", false);
    until(PATIENCE, async || {
        rig.log.find("WARN", &["going on after the fail point"])
    })
    .await;
    rig.stores_more(30).await;
    rig.proof().await.lossless();
    report(
        "F3",
        "a storage writer frozen in its transaction",
        1,
        &[("others", again)],
    );
    assert!(again < pause(), "{again:?}");
}

/// libfaketime, which is only put before the daemon here and linked with nothing.
fn faketime() -> anyhow::Result<PathBuf> {
    packages::find_or_install("libfaketime", &["faketime"], || {
        let folders = ["/usr/lib", "/usr/local/lib", "/usr/lib64"].map(PathBuf::from);
        let inner = folders.iter().filter_map(|folder| folder.read_dir().ok());
        let inner = inner.flatten().filter_map(|entry| Some(entry.ok()?.path()));
        let all: Vec<PathBuf> = inner.chain(folders.iter().cloned()).collect();
        all.iter()
            .map(|folder| folder.join("faketime/libfaketimeMT.so.1"))
            .find(|file| file.is_file())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn f19_a_wrong_clock_doubles_no_number_and_frees_no_lease() {
    let library = tokio::task::spawn_blocking(faketime).await.unwrap();
    let library = library.expect("libfaketime").display().to_string();
    let show = Show::default();
    let rooms = show.rooms as u64;
    let mut rig = Rig::prepare(show).await;
    let clock = rig.spool.path().with_extension("clock");
    let set = |time: &str| {
        // Whole or not at all: it is read at every look at the clock.
        let new = clock.with_extension("new");
        std::fs::write(&new, time).expect("a file");
        std::fs::rename(&new, &clock).expect("a file");
    };
    set("+0");
    let file = clock.display().to_string();
    let fake = [
        ("LD_PRELOAD", library.as_str()),
        ("FAKETIME_TIMESTAMP_FILE", &file),
        ("FAKETIME_NO_CACHE", "1"),
        // Only what the wall says: timers go on.
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
    ];
    rig.start_as("run", "run", &fake, &[]);
    rig.stores_more(10).await;
    // Who would take over at once, if a lease lapsed.
    let silent = Log::default();
    let rivals = ["ingest", "normalizer"]
        .map(|stage| Daemon::start(rig.settings(), &silent, stage).expect("it starts"));
    until(PATIENCE, async || silent.find("INFO", &["standing by"])).await;

    let connections = || rig.upstream.counts().connections;
    let still = jiff::Timestamp::now()
        .strftime("%Y-%m-%d %H:%M:%S")
        .to_string();
    let steps = ["+3600", "-3600", "+86400", "-86400", &still, "+0"];
    for time in steps {
        set(time);
        rig.stores_more(40).await;
        tokio::time::sleep(Duration::from_secs(number("FAULTS_CLOCK", 1, 30))).await;
        assert_eq!(connections(), rooms, "{time}: a room was taken over");
        for word in ["normalizing", "connected"] {
            let taken = silent.records().unwrap();
            let taken = taken.iter().find(|record| record["message"] == word);
            assert!(taken.is_none(), "{time}: a lease was taken: {taken:?}");
        }
    }
    for rival in rivals {
        assert!(rival.stop().unwrap().success());
    }
    // New sessions, by each clock.
    let restarts = if long() {
        &steps[..]
    } else {
        &["+86400", "-86400", "+0"]
    };
    for time in restarts {
        set(time);
        let before = connections();
        rig.kill("run");
        until(PATIENCE, async || {
            ensure!(connections() >= before + rooms, "not connected again");
            Ok(())
        })
        .await;
        rig.stores_more(30).await;
    }
    let database = rig.stores.database().await.unwrap();
    let days = "SELECT count(DISTINCT part_day) FROM events";
    let days: i64 = database.query_one(days, &[]).await.unwrap().get(0);
    assert_eq!(days, 3, "the clock was really wrong");
    rig.proof().await.lossless();
    let _ = std::fs::remove_file(&clock);
    report(
        "F19",
        "the clock off by an hour, a day, and still",
        steps.len() + restarts.len(),
        &[],
    );
}
