//! F26: a message that kills the normalizer whenever it is normalized.
//!
//! No input is known that does: a fail point plays its part, and aborts the process whenever this
//! message is normalized. A supervisor starts it again and again. The attempts are counted before
//! the work, the message is soon tried alone, and after five deaths it is a dead letter.

use anyhow::Context;

use super::{Rig, Show, report};
use crate::{daemon::PATIENCE, stores::until, watch};

/// As many deaths as it may cause, with those that its neighbours share.
const DEATHS: usize = 5;

#[tokio::test(flavor = "multi_thread")]
async fn f26_what_kills_the_process_is_a_dead_letter_after_five_deaths() {
    let mut rig = Rig::prepare(Show::default()).await;
    rig.start("ingest");
    rig.start("storage-writer");
    // One in the middle of others that wait.
    let poison = until(PATIENCE, async || {
        let entries = watch::raw(&rig.stores).await?;
        let mut messages = entries.iter().filter(|entry| entry.msg_id.is_some());
        messages.nth(60).cloned().context("not yet")
    })
    .await;
    let id = poison.msg_id.expect("it has one");
    let armed = format!("normalizing:abort={id}");
    rig.start_as("normalizer", "normalizer", &[("FAILPOINT", &armed)], &[]);
    rig.stores_more(100).await;
    let deaths = rig.services.lives("normalizer");
    let deaths = deaths.iter().filter(|life| life.ended.is_some()).count();
    assert_eq!(deaths, DEATHS, "it has killed the process that often");

    let proof = rig.proof().await;
    let room = Some(poison.room.clone());
    let number = i64::try_from(poison.seq_no).ok();
    let dead = (room, number, "normalizer".to_owned(), "POISON".to_owned());
    assert_eq!(proof.dead_letters, [dead], "it alone");
    assert_eq!(proof.stored + 1, proof.sent, "all others are stored");
    assert!(proof.gaps.is_empty(), "{proof:?}");
    let lives = rig.services.lives("normalizer").len();
    assert_eq!(lives, DEATHS + 1, "and it kills no more");
    report("F26", "a message that aborts the normalizer", deaths, &[]);
}
