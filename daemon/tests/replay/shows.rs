//! What a replay shows, and when.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shared::replay::State;

use super::rig::{Rig, Session, poll};

/// An event but for what names the showing.
fn fact(event: &Value) -> Value {
    let mut event = event.clone();
    let object = event.as_object_mut().unwrap();
    for name in ["sessionId", "source", "replayOf"] {
        object.remove(name);
    }
    event
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_shown_as_it_was_and_stored_nowhere() {
    let rig = Rig::new().await;
    let mut session = Session::new(1, 10);
    let mut live = session.whole(600);
    live.pop();
    // A gift that stands alone, and a streak that its silence concludes; then comes its real end.
    live.push(session.gift("single-type4"));
    live.push(session.gift("streak-1"));
    live.push(session.gift("streak-5"));
    session.pause(60_000);
    let mut late = session.other();
    late.backlog = true;
    live.push(late);
    live.push(session.gift("streak-5-end"));
    live.push(session.lifecycle("DISCONNECTED", "stream_end"));
    rig.live(&live).await;
    rig.settled().await;
    let before = rig.snapshot().await;
    let stored: i64 = rig.one("SELECT count(*) FROM events").await;

    let running = rig.start(&[]);
    let replay = rig.ask(session.id, "max").await;
    let progress = rig.over(replay).await;
    assert_eq!(progress.state, State::Done, "{progress:?}");
    assert_eq!(progress.total, Some(stored.unsigned_abs()));
    assert_eq!(progress.sent, live.len() as u64);
    assert_eq!(progress.sent + progress.skipped, stored.unsigned_abs());
    assert_eq!(progress.seq_no, progress.until_seq_no);
    assert_eq!(progress.session_id, session.id);
    assert!(progress.started_at >= Some(progress.requested_at));
    assert!(progress.finished_at >= progress.started_at);
    assert_eq!((progress.error, progress.owner), (None, None));
    rig.assert_shown(replay, &live, State::Done).await;

    rig.settled().await;
    let original = rig.events(session.id).await;
    let mut shown = rig.events(replay).await;
    let (end, _) = shown.pop().unwrap();
    assert_eq!(end["payload"]["rawType"], "ControlEvent.REPLAY_END");
    assert_eq!(original.len(), shown.len());
    assert_eq!(original.len() as u64, stored.unsigned_abs());
    for ((original, raw), (shown, shown_raw)) in original.iter().zip(&shown) {
        assert_eq!(fact(original), fact(shown));
        assert_eq!(raw, shown_raw);
        assert_eq!(shown["source"], "replay");
        assert_eq!(shown["replayOf"], json!(session.id));
    }
    let inferred = |event: &Value| event["payload"]["streak"]["inferred"] == true;
    let made = shown.iter().filter(|(event, _)| inferred(event)).count();
    assert_eq!((made as u64, progress.skipped), (1, 1), "not twice");

    assert!(
        rig.snapshot().await == before,
        "storing it again changes nothing"
    );
    let row = rig.row(replay).await;
    assert_eq!(row["source"], "replay");
    assert_eq!(row["replay_of"], json!(session.id));
    assert_eq!(row["event_count"], 0);
    assert_eq!(row["end_reason"], "done");
    assert_ne!(row["ended_at"], Value::Null);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streaks_that_are_open_at_the_end_are_concluded_there() {
    let rig = Rig::new().await;
    let mut session = Session::new(1, 10);
    let live = vec![session.chat("a"), session.gift("streak-1")];
    rig.live(&live).await;
    let running = rig.start(&[]);
    let replay = rig.ask(session.id, "max").await;
    rig.over(replay).await;
    rig.settled().await;
    let kinds = |events: &[(Value, String)]| -> Vec<String> {
        let kinds = events.iter().map(|(event, _)| &event["payload"]["rawType"]);
        kinds
            .map(|kind| kind.as_str().unwrap().to_owned())
            .collect()
    };
    let shown = rig.events(replay).await;
    let expected = [
        "WebcastChatMessage",
        "WebcastGiftMessage",
        "GiftStreakTimeout",
        "ControlEvent.REPLAY_END",
    ];
    assert_eq!(kinds(&shown), expected);
    // And nothing is remembered of it.
    let remembered: Vec<String> = redis::cmd("HKEYS")
        .arg("ttlc:normalizer")
        .query_async(&mut rig.redis().await)
        .await
        .unwrap();
    let of_replay = remembered
        .iter()
        .filter(|field| field.contains(&replay.to_string()));
    assert_eq!(of_replay.count(), 0, "{remembered:?}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pace_is_that_of_the_original() {
    let rig = Rig::new().await;
    let mut session = Session::new(1, 100);
    let live = session.whole(40);
    rig.live(&live).await;
    let running = rig.start(&[]);
    // 41 steps of 100 ms.
    let mut took = Vec::new();
    for speed in ["1", "4", "max"] {
        let begun = Instant::now();
        let replay = rig.ask(session.id, speed).await;
        rig.sent(replay, live.len() as u64 + 1).await;
        took.push(begun.elapsed());
        rig.over(replay).await;
        rig.assert_shown(replay, &live, State::Done).await;
    }
    assert!(took[0] >= Duration::from_millis(4_100), "{took:?}");
    assert!(took[1] >= Duration::from_millis(1_025), "{took:?}");
    assert!(took[1] < took[0] && took[2] < took[0], "{took:?}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_session_is_shown_up_to_its_last_stored_event() {
    let rig = Rig::new().await;
    let mut session = Session::new(1, 50);
    let live = session.whole(60);
    let (first, rest) = live.split_at(40);
    rig.live(first).await;
    let running = rig.start(&[]);
    let replay = rig.ask(session.id, "1").await;
    rig.sent(replay, 3).await;
    // The broadcast goes on meanwhile.
    rig.live(rest).await;
    let progress = rig.over(replay).await;
    assert_eq!(progress.state, State::Done);
    assert_eq!(progress.total, Some(40));
    rig.assert_shown(replay, first, State::Done).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_run_at_once_and_the_others_wait_for_their_turn() {
    let rig = Rig::new().await;
    let mut sessions: Vec<_> = (0..3).map(|room| Session::new(room, 20)).collect();
    let mut lives = Vec::new();
    for session in &mut sessions {
        let live = session.whole(50);
        rig.live(&live).await;
        lives.push(live);
    }
    let mut replays = Vec::new();
    for number in 0..9 {
        replays.push(rig.ask(sessions[number % 3].id, "1").await);
    }
    let running = [
        rig.start(&["--replay-max-parallel=2"]),
        rig.start(&["--replay-max-parallel=1"]),
    ];
    let mut most = 0;
    poll("all are over", async || {
        let mut states = Vec::new();
        for &replay in &replays {
            states.push(rig.progress(replay).await.state);
        }
        let now = states.iter().filter(|state| **state == State::Running);
        most = most.max(now.count());
        states.iter().all(|state| state.is_end()).then_some(())
    })
    .await;
    assert_eq!(most, 3, "two here and one there");
    let mut starts = Vec::new();
    for (number, &replay) in replays.iter().enumerate() {
        rig.assert_shown(replay, &lives[number % 3], State::Done)
            .await;
        starts.push(rig.progress(replay).await.started_at.unwrap());
    }
    // The oldest goes first: who was asked for three turns later has begun later.
    assert!(
        starts
            .iter()
            .zip(&starts[3..])
            .all(|(one, later)| one < later),
        "{starts:?}"
    );
    for one in running {
        one.stop().await;
    }
    assert_eq!(rig.bus().unfinished_replays().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_without_raw_data_are_left_out_and_counted() {
    let rig = Rig::new().await;
    let mut session = Session::new(1, 10);
    let live = session.whole(10);
    rig.live(&live).await;
    let erased = live[4].seq_no;
    rig.client()
        .await
        .execute(
            "UPDATE events SET raw = '' WHERE seq_no = $1",
            &[&i64::try_from(erased).unwrap()],
        )
        .await
        .unwrap();
    let running = rig.start(&[]);
    let replay = rig.ask(session.id, "max").await;
    let progress = rig.over(replay).await;
    assert_eq!((progress.sent, progress.skipped), (11, 1));
    let rest: Vec<_> = live
        .into_iter()
        .filter(|envelope| envelope.seq_no != erased)
        .collect();
    rig.assert_shown(replay, &rest, State::Done).await;
    running.stop().await;
}
