//! F1 and F2: death at the worst moments, and at any moment.
//!
//! Each stage runs in a process of its own, so that one dies and the others go on; F2 also kills all
//! of them at once, as one process.

use std::{
    os::unix::process::ExitStatusExt as _,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, ensure};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use upstream::History;

use super::{Receiver, Rig, Show, number};
use crate::{daemon::PATIENCE, stores::until};

/// `abort()` on Unix.
const SIGABRT: i32 = 6;
/// The reference wants 10 s, and what is measured is printed; a busy machine may take longer.
const RECOVERY: Duration = Duration::from_secs(30);
/// Reached only with a dead letter, of which there are none by themselves.
const RARE: &str = "after_dlq_commit";
/// The stages, and where each may die.
const POINTS: [(&str, &[&str]); 4] = [
    (
        "ingest",
        &["after_ws_read", "after_spool", "after_xadd_raw"],
    ),
    ("normalizer", &["before_hop", "after_hop"]),
    (
        "storage-writer",
        &[
            "before_commit",
            "after_commit_before_ack",
            "after_claim",
            RARE,
        ],
    ),
    ("forwarder", &["after_http_sent", "after_http_2xx", RARE]),
];

/// Every stage in a process of its own, and a destination.
pub(super) async fn stages(show: Show) -> Rig {
    let mut rig = Rig::prepare(show).await;
    rig.forward_to(Receiver::start().await);
    for (stage, _) in POINTS {
        rig.start(stage);
    }
    rig.stores_more(1).await;
    rig
}

/// Lets a stage die at each of its points, one life after the other. Returns how long it took after
/// each until the stage worked again.
async fn die_at_each(
    rig: &Rig,
    (stage, points): (&str, &'static [&'static str]),
    times: &[u64],
) -> Vec<(&'static str, Duration)> {
    let mut recoveries = Vec::new();
    let first = rig.services.lives(stage).len();
    for (point, time) in points.iter().zip(times) {
        let armed = format!("{point}:abort@{time}");
        rig.tell_once(stage, &[("FAILPOINT", &armed)]);
    }
    rig.kill(stage);
    for (index, point) in points.iter().enumerate() {
        let mut asked = false;
        let (ended, next) = until(PATIENCE, async || {
            let lives = rig.services.lives(stage);
            let armed = lives.get(first + index).context("it is not started yet")?;
            if *point == RARE && !std::mem::replace(&mut asked, true) {
                rig.not_an_event().await;
            }
            let (_, ended) = armed
                .ended
                .with_context(|| format!("{point} is not reached"))?;
            let next = lives.get(first + index + 1);
            Ok((ended, next.context("it is not started again")?.began))
        })
        .await;
        assert_eq!(ended.signal(), Some(SIGABRT), "{point}: {ended}");
        recoveries.push((*point, rig.recovered(stage, next).await));
    }
    recoveries
}

#[tokio::test(flavor = "multi_thread")]
async fn f01_dying_at_each_fail_point_loses_nothing() {
    let repetitions = number("FAULTS_REPETITIONS", 1, 20);
    let show = show_to_forward();
    let mut dice = StdRng::seed_from_u64(show.seed);
    let mut rig = stages(show).await;
    let mut times = Vec::new();
    for _ in 0..repetitions {
        let mut when = |points: &[&str]| -> Vec<u64> {
            let one = |point: &&str| {
                if *point == RARE {
                    1
                } else {
                    dice.random_range(3..12)
                }
            };
            points.iter().map(one).collect()
        };
        let [ingest, normalizer, storage, forwarder] = POINTS.map(|stage| (stage, when(stage.1)));
        // Forwarding does not depend on storing.
        let (sent, stored) = tokio::join!(die_at_each(&rig, forwarder.0, &forwarder.1), async {
            let mut recoveries = die_at_each(&rig, ingest.0, &ingest.1).await;
            recoveries.extend(die_at_each(&rig, storage.0, &storage.1).await);
            recoveries
        });
        times.extend(sent);
        times.extend(stored);
        times.extend(die_at_each(&rig, normalizer.0, &normalizer.1).await);
    }
    let proof = rig.proof().await;
    // What is no event is a dead letter of each group that reads it, once: dying between or not.
    let rare = POINTS.iter().flat_map(|(_, points)| *points);
    let letters =
        rare.filter(|point| **point == RARE).count() * usize::try_from(repetitions).unwrap();
    for stage in ["forwarder", "storage"] {
        let count = proof.dead_letters.iter().filter(|letter| letter.2 == stage);
        assert_eq!(count.count(), letters, "{stage}: {:?}", proof.dead_letters);
    }
    assert!(
        proof.gaps.is_empty() && proof.stored == proof.sent,
        "{proof:#?}"
    );
    super::report("F1", "killed at each fail point", times.len(), &times);
    let late = times.iter().filter(|(_, took)| *took > RECOVERY);
    assert_eq!(late.count(), 0, "{times:?}");
}

/// Kills one of these every 0.5 to 3 s.
async fn kill_at_random(rig: &Rig, victims: &[&str], time: Duration, seed: u64) -> usize {
    let mut dice = StdRng::seed_from_u64(seed);
    let begun = Instant::now();
    let mut kills = 0;
    while begun.elapsed() < time {
        tokio::time::sleep(Duration::from_millis(dice.random_range(500..3_000))).await;
        rig.kill(victims[dice.random_range(0..victims.len())]);
        kills += 1;
    }
    kills
}

/// Forwarding takes a request and a commit for each event, room by room: not more than that on a slow
/// machine after it was away.
fn show_to_forward() -> Show {
    Show {
        rate: 5.0,
        ..Show::default()
    }
}

fn show_to_kill() -> Show {
    // With every reconnect history comes again: in the long form as little as a kill can lose.
    let rate = if super::long() { 5.0 } else { 10.0 };
    Show {
        rate,
        history: History::Last(Duration::from_secs(20)),
        ..Show::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f02_killed_at_any_moment_one_process_loses_nothing() {
    let show = show_to_kill();
    let seed = show.seed;
    let mut rig = Rig::run(show).await;
    let time = Duration::from_secs(number("FAULTS_SECONDS", 15, 1_800));
    let kills = kill_at_random(&rig, &["run"], time, seed).await;
    let began = rig.services.began("run");
    let last = rig.recovered("run", began).await;
    rig.proof().await.lossless();
    super::report(
        "F2",
        "kill -9 of one process at random",
        kills,
        &[("last", last)],
    );
    assert!(last < RECOVERY, "{last:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn f02_killed_at_any_moment_the_stages_lose_nothing() {
    let show = show_to_kill();
    let seed = show.seed;
    let mut rig = stages(show).await;
    let time = Duration::from_secs(number("FAULTS_SECONDS", 15, 1_800));
    let victims = POINTS.map(|(stage, _)| stage);
    let kills = kill_at_random(&rig, &victims, time, seed).await;
    let since = SystemTime::now();
    rig.stores_more(20).await;
    let last = since.elapsed().unwrap_or_default();
    rig.proof().await.lossless();
    super::report(
        "F2",
        "kill -9 of stages at random",
        kills,
        &[("last", last)],
    );
    assert!(last < RECOVERY, "{last:?}");
}
