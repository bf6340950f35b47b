//! Crashes, rivals, outages, and a pipeline that is behind.

use std::time::{Duration, Instant};

use shared::raw::Envelope;
use shared::replay::State;
use uuid::Uuid;
use xtask::servers::Durability;

use super::rig::{Rig, Session, poll};

/// A stored session of two seconds and more, so that something can happen in its middle.
async fn stored(rig: &Rig, messages: usize) -> (Uuid, Vec<Envelope>) {
    let mut session = Session::new(1, 20);
    let live = session.whole(messages);
    rig.live(&live).await;
    (session.id, live)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_crashes_is_replaced_and_nothing_is_shown_twice() {
    let rig = Rig::new().await;
    let (session, live) = stored(&rig, 150).await;
    let replay = rig.ask(session, "1").await;
    for sent in [20, 60] {
        let running = rig.start(&[]);
        rig.sent(replay, sent).await;
        running.crash().await;
        // Inside one process a task may still hear of the end and give the replay back; `kill -9`
        // has a test of its own.
        let state = rig.progress(replay).await.state;
        assert!(!state.is_end(), "{state:?}");
    }
    let running = rig.start(&[]);
    let begun = Instant::now();
    rig.sent(replay, 100).await;
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(rig.over(replay).await.state, State::Done);
    rig.assert_shown(replay, &live, State::Done).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_gives_it_back_at_once() {
    let rig = Rig::new().await;
    let (session, live) = stored(&rig, 100).await;
    let replay = rig.ask(session, "1").await;
    let running = rig.start(&[]);
    rig.sent(replay, 20).await;
    running.stop().await;
    let left = rig.progress(replay).await;
    assert_eq!((left.state, left.owner), (State::Waiting, None));
    let running = rig.start(&[]);
    let begun = Instant::now();
    let sent = left.sent;
    poll("it goes on", async || {
        let progress = rig.progress(replay).await;
        (progress.state == State::Running && progress.sent > sent).then_some(())
    })
    .await;
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "no lease to wait for"
    );
    rig.over(replay).await;
    rig.assert_shown(replay, &live, State::Done).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_show_the_same_replay_show_it_once() {
    let rig = Rig::new().await;
    let (session, live) = stored(&rig, 150).await;
    let replay = rig.ask(session, "2").await;
    let running = [rig.start(&[]), rig.start(&[])];
    let key = shared::replay::key(replay);
    // As when its daemon was held for a while: the other one takes it, and the first one wakes up.
    for sent in [20, 40, 60, 80] {
        rig.sent(replay, sent).await;
        let () = redis::cmd("HDEL")
            .arg(&[&key, "owner", "until"])
            .query_async(&mut rig.redis().await)
            .await
            .unwrap();
    }
    rig.over(replay).await;
    rig.assert_shown(replay, &live, State::Done).await;
    for one in running {
        one.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_and_redis_may_go_away_and_come_back() {
    let mut rig = Rig::with(Durability::Safe).await;
    // More than a page, so that Postgres is asked again.
    let (session, live) = stored(&rig, 500).await;
    let running = rig.start(&[]);
    let replay = rig.ask(session, "2").await;
    rig.sent(replay, 100).await;

    let postgres = rig.postgres.take().unwrap();
    let stopped = tokio::task::spawn_blocking(move || postgres.stop(false).unwrap());
    let stopped = stopped.await.unwrap();
    rig.sent(replay, 256).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(rig.shown(replay).await.len(), 256, "the first page");
    assert_eq!(rig.progress(replay).await.state, State::Running);
    let again = tokio::task::spawn_blocking(move || stopped.start_again().unwrap());
    rig.postgres = Some(again.await.unwrap());
    rig.sent(replay, 300).await;

    let redis = rig.redis.take().unwrap();
    let restarted = tokio::task::spawn_blocking(move || {
        let stopped = redis.stop(false).unwrap();
        std::thread::sleep(Duration::from_millis(1_500));
        stopped.start_again().unwrap()
    });
    rig.redis = Some(restarted.await.unwrap());
    let progress = rig.over(replay).await;
    assert_eq!(progress.state, State::Done);
    rig.assert_shown(replay, &live, State::Done).await;
    rig.settled().await;
    assert_eq!(rig.row(replay).await["end_reason"], "done");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_redis_forgets_what_was_shown_and_the_rest_follows() {
    let rig = Rig::new().await;
    let (session, live) = stored(&rig, 150).await;
    let running = rig.start(&[]);
    let replay = rig.ask(session, "1").await;
    rig.sent(replay, 30).await;
    let () = redis::cmd("FLUSHALL")
        .query_async(&mut rig.redis().await)
        .await
        .unwrap();
    let progress = poll("it is known again, and over", async || {
        let progress = rig.bus().replay(replay).await.ok()??;
        progress.state.is_end().then_some(progress)
    })
    .await;
    assert_eq!(progress.state, State::Done);
    assert_eq!(progress.sent, live.len() as u64);
    let mut shown = rig.shown(replay).await;
    assert_eq!(shown.pop().unwrap().kind, "ControlEvent.REPLAY_END");
    let numbers =
        |envelopes: &[Envelope]| -> Vec<u64> { envelopes.iter().map(|one| one.seq_no).collect() };
    let rest = &live[live.len() - shown.len()..];
    assert!(
        shown.len() < live.len() - 20 && shown.len() > 50,
        "{}",
        shown.len()
    );
    assert_eq!(
        numbers(&shown),
        numbers(rest),
        "all that had not been shown"
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_waits_for_a_pipeline_that_is_behind() {
    let mut rig = Rig::new().await;
    let mut session = Session::new(1, 1);
    let live: Vec<_> = (0..4_000).map(|_| session.other()).collect();
    rig.live(&live).await;
    rig.stop_pipeline().await;
    let running = rig.start(&[]);
    let replay = rig.ask(session.id, "max").await;
    rig.sent(replay, 2_000).await;
    // It could send thousands in that time.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let ahead = rig.shown(replay).await.len();
    assert!((2_000..2_000 + 128).contains(&ahead), "{ahead}");
    assert_eq!(rig.progress(replay).await.state, State::Running);
    rig.start_pipeline();
    rig.over(replay).await;
    rig.assert_shown(replay, &live, State::Done).await;
    running.stop().await;
}
