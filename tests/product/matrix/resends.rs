//! F27: the rooms send the last minute again whenever somebody connects.

use std::time::Duration;

use upstream::{Act, History};

use super::{Rig, Show, number, report};
use crate::{daemon::PATIENCE, faults::at, stores::until};

#[tokio::test(flavor = "multi_thread")]
async fn f27_a_minute_of_history_is_stored_once_over_reconnects_and_crashes() {
    let show = Show {
        history: History::Last(Duration::from_mins(1)),
        ..Show::default()
    };
    let rooms = show.rooms as u64;
    let mut rig = Rig::run(show).await;
    let repetitions = number("FAULTS_REPETITIONS", 2, 20);
    for round in 1..=repetitions {
        rig.stores_more(100).await;
        let before = rig.upstream.counts();
        if round % 2 == 1 {
            for creator in &rig.creators {
                rig.upstream.fault(creator, at(0, Act::Drop));
            }
        } else {
            rig.kill("run");
        }
        until(PATIENCE, async || {
            let now = rig.upstream.counts();
            anyhow::ensure!(now.connections >= before.connections + rooms, "{now:?}");
            Ok(())
        })
        .await;
        let again = rig.upstream.counts().history - before.history;
        assert!(again >= 100, "{again} messages came again");
    }
    rig.stores_more(30).await;
    let history = rig.upstream.counts().history;
    // The proof knows each message by its own id: one that is stored twice under two numbers fails.
    let proof = rig.proof().await.lossless();
    assert_eq!(rig.upstream.violations(), []);
    report(
        "F27",
        &format!("history again: {history} of {} messages", proof.sent),
        usize::try_from(repetitions).expect("few"),
        &[],
    );
}
