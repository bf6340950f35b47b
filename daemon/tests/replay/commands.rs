//! The control stream, obeyed by the program itself.

use serde_json::{Value, json};
use shared::replay::{Failure, State};
use uuid::Uuid;

use super::program::{signal, ttlc};
use super::rig::{Rig, Session, poll};

impl Rig {
    async fn command(&self, command: &Value) {
        let () = redis::cmd("XADD")
            .arg(&["ttlc:control", "*", "command"])
            .arg(command.to_string())
            .query_async(&mut self.redis().await)
            .await
            .unwrap();
    }

    /// All replays that Redis knows.
    async fn replays(&self) -> Vec<Uuid> {
        let keys: Vec<String> = redis::cmd("KEYS")
            .arg("ttlc:replay:*")
            .query_async(&mut self.redis().await)
            .await
            .unwrap();
        keys.iter()
            .map(|key| key["ttlc:replay:".len()..].parse().unwrap())
            .collect()
    }

    async fn obeyed(&self) {
        poll("all commands are obeyed", async || {
            let groups: redis::streams::StreamInfoGroupsReply = redis::cmd("XINFO")
                .arg(&["GROUPS", "ttlc:control"])
                .query_async(&mut self.redis().await)
                .await
                .ok()?;
            let group = groups.groups.first()?;
            (group.pending == 0 && group.lag == Some(0)).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_start_and_cancel_replays_and_a_repeat_changes_nothing() {
    let rig = Rig::new().await;
    let mut session = Session::new(1, 50);
    let live = session.whole(400);
    rig.live(&live).await;
    let mut daemon = ttlc(&rig, &["ingest"]);

    let (named, slow) = (Uuid::now_v7(), Uuid::now_v7());
    let start = json!({"command": "replay.start", "sessionId": session.id, "replayId": named, "speed": "max"});
    rig.command(&start).await;
    rig.command(&start).await;
    rig.command(&json!({"command": "replay.start", "sessionId": session.id, "speed": 100}))
        .await;
    rig.command(&json!({"command": "replay.start", "sessionId": session.id, "replayId": slow}))
        .await;
    for bad in [
        json!({"command": "replay.start", "sessionId": "7301"}),
        json!({"command": "replay.start", "sessionId": session.id, "speed": 0.01}),
        json!({"command": "replay.cancel"}),
    ] {
        rig.command(&bad).await;
    }
    rig.obeyed().await;
    // As after a crash between obeying and acknowledging.
    let () = redis::cmd("XGROUP")
        .arg(&["SETID", "ttlc:control", "ingest", "0"])
        .query_async(&mut rig.redis().await)
        .await
        .unwrap();
    rig.obeyed().await;

    let replays = rig.replays().await;
    assert_eq!(replays.len(), 3, "{replays:?}");
    let unnamed = replays.iter().find(|id| **id != named && **id != slow);
    let unnamed = *unnamed.unwrap();
    assert_eq!(unnamed.get_version_num(), 7);
    for replay in [named, unnamed] {
        assert_eq!(rig.over(replay).await.state, State::Done);
        rig.assert_shown(replay, &live, State::Done).await;
    }
    let letters = rig.entries("ttlc:dlq").await;
    assert_eq!(letters.len(), 6, "each of three, twice");
    assert!(
        letters
            .iter()
            .all(|letter| letter["reason"] == "COMMAND_ERROR"),
        "{letters:?}"
    );

    // Killed in the middle, it goes on after the next start.
    rig.sent(slow, 40).await;
    signal(&daemon, rustix::process::Signal::KILL);
    daemon.wait().unwrap();
    let before = rig.shown(slow).await.len() as u64;
    assert!(before < live.len() as u64, "it was in the middle");
    let mut daemon = ttlc(&rig, &["ingest"]);
    rig.sent(slow, before + 10).await;
    rig.command(&json!({"command": "replay.cancel", "replayId": slow}))
        .await;
    assert_eq!(rig.over(slow).await.state, State::Cancelled);
    rig.assert_shown(slow, &live, State::Cancelled).await;
    signal(&daemon, rustix::process::Signal::TERM);
    assert!(daemon.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_without_a_database_says_so() {
    let rig = Rig::new().await;
    let mut daemon = ttlc(&rig, &["ingest", "--database-url="]);
    let replay = Uuid::now_v7();
    rig.command(
        &json!({"command": "replay.start", "sessionId": Uuid::now_v7(), "replayId": replay}),
    )
    .await;
    let progress = rig.over(replay).await;
    assert_eq!(progress.error, Some(Failure::NoDatabase));
    signal(&daemon, rustix::process::Signal::TERM);
    assert!(daemon.wait().unwrap().success());
}
