//! F1, F2: `kill -9` at the worst moments, and at any moment.

use super::{Rig, Show};

#[tokio::test(flavor = "multi_thread")]
async fn f02_killed_at_any_moment_nothing_is_lost() {
    let mut rig = Rig::run(Show::default()).await;
    for _ in 0..3 {
        rig.stores_more(30).await;
        rig.kill("run");
    }
    rig.stores_more(30).await;
    let proof = rig.proof().await.lossless();
    assert!(proof.sent > 100, "{proof:?}");
}
