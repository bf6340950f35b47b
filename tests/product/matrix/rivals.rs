//! F21: two daemons on the same rooms, killed and paused in turn.
//!
//! `FAULTS_RIVAL_ROUNDS` says how often. Each pause is longer than a lease lasts.

use std::time::Duration;

use tokio::time::sleep;
use xtask::processes::TemporaryFolder;

use super::{Rig, Show, number};

/// Longer than a lease.
const PAUSE: Duration = Duration::from_secs(13);

#[tokio::test(flavor = "multi_thread")]
async fn f21_two_daemons_read_the_same_rooms() {
    let mut rig = Rig::prepare(Show::default()).await;
    let spools = ["one", "two"].map(|name| TemporaryFolder::new(name).expect("a folder"));
    let names = ["one", "two"];
    for (name, spool) in names.iter().zip(&spools) {
        let spool = spool.path().to_str().expect("text");
        rig.start_as(name, "run", &[("SPOOL_DIR", spool)], &[]);
    }
    rig.stores_more(20).await;
    for round in 0..number("FAULTS_RIVAL_ROUNDS", 2, 40) {
        let name = names[usize::try_from(round % 2).expect("small")];
        rig.services.signal(name, "STOP", false);
        sleep(PAUSE).await;
        rig.services.signal(name, "CONT", false);
        rig.stores_more(20).await;
        rig.kill(name);
        rig.stores_more(20).await;
    }
    let proof = rig.proof().await;
    assert_eq!(proof.stored, proof.sent, "{proof:?}");
    assert!(proof.dead_letters.is_empty(), "{proof:?}");
    // What both have read has two numbers, and one of them is a gap.
    let known = proof.gaps.iter().all(|gap| gap.3 == "repeat");
    assert!(known, "{:?}", proof.gaps);
}
