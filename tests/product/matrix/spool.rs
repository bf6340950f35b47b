//! F20: the spool is full, or its files are torn and changed.

use std::{fs, time::Duration};

use anyhow::ensure;
use tokio::time::sleep;
use upstream::History;

use super::{Rig, Show, number};
use crate::{
    daemon::PATIENCE,
    stores::until,
    watch::{free_address, metric},
};

/// The least that `SPOOL_MAX_BYTES` may be.
const SMALL: u64 = 64 * 1024 * 1024;

/// Likes and joins go first, and every one of them is known.
#[tokio::test(flavor = "multi_thread")]
async fn f20_a_full_spool_drops_by_worth_and_records_it() {
    let mut rig = Rig::prepare(Show {
        rooms: 4,
        rate: 60.0,
        size: 30_000,
        history: History::Messages(0),
        ..Show::default()
    })
    .await;
    let health = free_address();
    rig.set("SPOOL_MAX_BYTES", &SMALL.to_string());
    rig.set("HEALTH_ADDR", &health);
    rig.patience = Duration::from_secs(number("FAULTS_PATIENCE", 180, 600));
    rig.start("run");
    rig.stores_more(1).await;
    rig.stop_redis(true).await;
    let dropped = async |class: &str| metric(&health, "ttlc_spool_dropped_total", &[class]).await;
    until(PATIENCE, async || {
        let dropped = dropped("crowd").await?;
        ensure!(dropped > 100, "{dropped} are dropped");
        Ok(())
    })
    .await;
    let gifts = dropped("money").await.unwrap_or(0);
    assert_eq!(gifts, 0, "gifts go last");
    rig.start_redis().await;
    let proof = rig.proof().await;
    assert!(proof.dead_letters.is_empty(), "{:?}", proof.dead_letters);
    let reasons: Vec<_> = proof.gaps.iter().map(|gap| gap.3.as_str()).collect();
    assert!(
        !reasons.is_empty() && reasons.iter().all(|it| *it == "spool_full"),
        "{reasons:?}"
    );
    let known: i64 = proof.gaps.iter().map(|gap| gap.2 - gap.1 + 1).sum();
    let missing = i64::try_from(proof.sent - proof.stored).unwrap();
    // What our own connection says of itself has a number, too, and is no message of a room.
    let own = i64::try_from(4 * rig.creators.len()).unwrap();
    assert!(
        (missing..=missing + own).contains(&known),
        "{known} numbers for {missing} messages"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn f20_what_is_damaged_in_the_spool_is_skipped_and_known() {
    let mut rig = Rig::run(Show::default()).await;
    // What is lost in the file, the rooms send again when we come back: as new messages.
    rig.repeats_allowed = true;
    rig.stores_more(20).await;
    rig.stop_redis(false).await;
    rig.sends_more(120).await;
    // All of it is on the disk by then.
    sleep(Duration::from_secs(1)).await;
    rig.services.remove("run");
    let folder = rig.spool.path().join("0");
    let mut files: Vec<_> = fs::read_dir(&folder)
        .expect("a spool")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|end| end == "log"))
        .collect();
    files.sort();
    let file = files.pop().expect("a part of the spool");
    let mut bytes = fs::read(&file).expect("it can be read");
    // A flipped bit in each of three places of what waits, and a torn end.
    let length = bytes.len();
    for place in [length / 2, length / 4 * 3, length / 8 * 7] {
        bytes[place] ^= 0x10;
    }
    bytes.truncate(length - 7);
    fs::write(&file, bytes).expect("it is damaged");
    rig.start_redis().await;
    rig.start("run");
    rig.stores_more(20).await;
    rig.log.find("ERROR", &["the spool is damaged"]).unwrap();
    let proof = rig.proof().await;
    assert_eq!(proof.stored, proof.sent, "sent again, and stored");
    assert!(
        proof.gaps.iter().any(|gap| gap.3 == "spool_damaged"),
        "{:?}",
        proof.gaps
    );
    assert!(proof.dead_letters.is_empty(), "{:?}", proof.dead_letters);
}
