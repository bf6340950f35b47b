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
            "after_dlq_commit",
        ],
    ),
    (
        "forwarder",
        &["after_http_sent", "after_http_2xx", "after_dlq_commit"],
    ),
];

/// Every stage in a process of its own, and a destination.
async fn stages(show: Show) -> Rig {
    let mut rig = Rig::prepare(show).await;
    rig.forward_to(Receiver::start().await);
    for (stage, _) in POINTS {
        rig.start(stage);
    }
    rig.stores_more(1).await;
    rig
}

#[tokio::test(flavor = "multi_thread")]
async fn f01_dying_at_each_fail_point_loses_nothing() {
    let repetitions = number("FAULTS_REPETITIONS", 1, 20);
    let show = Show::default();
    let mut dice = StdRng::seed_from_u64(show.seed);
    let mut rig = stages(show).await;
    let mut letters = 0;
    let mut times = Vec::new();
    for _ in 0..repetitions {
        for (stage, points) in POINTS {
            for point in points {
                // Dead letters are few: the first one has to do.
                let rare = *point == "after_dlq_commit";
                let time = if rare { 1 } else { dice.random_range(5..20) };
                rig.tell_once(stage, &[("FAILPOINT", &format!("{point}:abort@{time}"))]);
                rig.kill(stage);
                let lives = rig.services.lives(stage).len();
                if rare {
                    rig.not_an_event(letters).await;
                    letters += 1;
                }
                let ended = until(PATIENCE, async || {
                    // The killed one, the one with the fail point, and the one after it.
                    let lives_now = rig.services.lives(stage);
                    let armed = lives_now.get(lives).context("it is not started yet")?;
                    let (_, ended) = armed
                        .ended
                        .with_context(|| format!("{point} is not reached"))?;
                    ensure!(lives_now.len() > lives + 1, "it is not started again");
                    Ok(ended)
                })
                .await;
                assert_eq!(ended.signal(), Some(SIGABRT), "{point}: {ended}");
                times.push((*point, rig.recovered(stage).await));
            }
        }
    }
    let proof = rig.proof().await;
    // Each is one for the storage writer, and one for the forwarder; died between or not.
    let mut dead = proof.dead_letters.clone();
    dead.sort();
    let stages = dead.iter().map(|letter| letter.2.as_str());
    for stage in ["forwarder", "storage"] {
        let count = stages.clone().filter(|one| *one == stage).count();
        assert_eq!(count, letters, "{stage}: {dead:?}");
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

fn show_to_kill() -> Show {
    // With every reconnect history comes again: in the long form as little as a kill can lose.
    let rate = if super::long() { 5.0 } else { 15.0 };
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
    let last = rig.recovered("run").await;
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
