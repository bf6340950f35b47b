//! Replays that are ended, and such as cannot begin.

use std::time::{Duration, Instant};

use daemon::bus::replay::Cancelled;
use shared::replay::{Failure, Progress, Speed, State};
use uuid::Uuid;

use super::rig::{Rig, Session};

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_is_ended_from_anywhere() {
    let rig = Rig::new().await;
    let mut session = Session::new(1, 20);
    let mut live = session.whole(30);
    live.pop();
    // Nobody waits for this.
    session.pause(3_600_000);
    live.push(session.lifecycle("DISCONNECTED", "stream_end"));
    rig.live(&live).await;
    let running = rig.start(&["--replay-max-parallel=1"]);
    let replay = rig.ask(session.id, "1").await;
    rig.sent(replay, live.len() as u64 - 1).await;
    let waiting = rig.ask(session.id, "1").await;

    // One whose turn has not come, by another process.
    let now = jiff::Timestamp::now().into();
    let cancelled = rig.bus().cancel_replay(waiting, now).await.unwrap();
    assert_eq!(cancelled, Cancelled::Now);
    let progress = rig.progress(waiting).await;
    assert_eq!(
        (progress.state, progress.started_at),
        (State::Cancelled, None)
    );
    assert!(rig.shown(waiting).await.is_empty());

    // One in the middle of its pause.
    let begun = Instant::now();
    let cancelled = rig.bus().cancel_replay(replay, now).await.unwrap();
    assert_eq!(cancelled, Cancelled::Soon);
    let progress = rig.over(replay).await;
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(progress.state, State::Cancelled);
    assert_eq!(progress.sent, live.len() as u64 - 1);
    assert!(progress.finished_at.is_some());
    rig.assert_shown(replay, &live, State::Cancelled).await;
    rig.settled().await;
    assert_eq!(rig.row(replay).await["end_reason"], "cancelled");

    // What is over stays as it is.
    for id in [replay, waiting, Uuid::now_v7()] {
        let again = rig.bus().cancel_replay(id, now).await.unwrap();
        assert_eq!(again, Cancelled::Nothing);
    }
    let ttl: i64 = redis::cmd("TTL")
        .arg(shared::replay::key(replay))
        .query_async(&mut rig.redis().await)
        .await
        .unwrap();
    assert!((600_000..=604_800).contains(&ttl), "a week: {ttl}");
    assert_eq!(rig.bus().unfinished_replays().await.unwrap(), 0);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_nobody_shows_any_more_is_ended_without_a_place() {
    let rig = Rig::new().await;
    let mut session = Session::new(1, 50);
    let live = session.whole(100);
    rig.live(&live).await;
    let replay = rig.ask(session.id, "1").await;
    let running = rig.start(&[]);
    rig.sent(replay, 10).await;
    running.stop().await;
    // The one place is taken.
    let mut other = Session::new(2, 60_000);
    rig.live(&other.whole(5)).await;
    let now = jiff::Timestamp::now().into();
    let cancelled = rig.bus().cancel_replay(replay, now).await.unwrap();
    assert_eq!(cancelled, Cancelled::Soon);
    let running = rig.start(&["--replay-max-parallel=1"]);
    let long = rig.ask(other.id, "0.1").await;
    assert_eq!(rig.over(replay).await.state, State::Cancelled);
    rig.assert_shown(replay, &live, State::Cancelled).await;
    rig.sent(long, 1).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_shown_says_why() {
    let rig = Rig::new().await;
    let mut session = Session::new(1, 20);
    let live = session.whole(5);
    rig.live(&live).await;
    let mut pruned = Session::new(2, 20);
    rig.live(&pruned.whole(5)).await;
    rig.client()
        .await
        .execute("DELETE FROM events WHERE session_id = $1", &[&pruned.id])
        .await
        .unwrap();
    let running = rig.start(&[]);

    let unknown = Uuid::now_v7();
    for (asked, error, words) in [
        (
            unknown,
            Failure::UnknownSession,
            format!("no session {unknown} is stored"),
        ),
        (pruned.id, Failure::NoEvents, "no event".to_owned()),
    ] {
        let replay = rig.ask(asked, "max").await;
        let progress = rig.over(replay).await;
        assert_eq!(
            (progress.state, progress.error),
            (State::Failed, Some(error))
        );
        assert!(
            progress.detail.as_ref().unwrap().contains(&words),
            "{progress:?}"
        );
        assert!(progress.finished_at.is_some());
        assert!(rig.shown(replay).await.is_empty());
    }
    // An id that is a session's would mix the two.
    let now = jiff::Timestamp::now().into();
    let taken = Progress::new(session.id, pruned.id, Speed::Max, now);
    rig.bus().add_replay(&taken, None).await.unwrap();
    assert_eq!(rig.over(session.id).await.error, Some(Failure::IdTaken));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_of_a_replay_shows_its_original() {
    let rig = Rig::new().await;
    let mut session = Session::new(1, 50);
    let live = session.whole(30);
    rig.live(&live).await;
    let running = rig.start(&[]);
    let first = rig.ask(session.id, "1").await;
    rig.sent(first, 2).await;
    // Known to Redis, perhaps not yet to Postgres; and later to both.
    let fresh = rig.ask(first, "max").await;
    rig.over(first).await;
    rig.settled().await;
    rig.row(first).await;
    let later = rig.ask(first, "max").await;
    for replay in [fresh, later] {
        let progress = rig.over(replay).await;
        assert_eq!((progress.state, progress.error), (State::Done, None));
        assert_eq!(
            (progress.session_id, progress.asked_for),
            (session.id, Some(first))
        );
        rig.assert_shown(replay, &live, State::Done).await;
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_database_a_replay_is_refused_unless_another_process_has_one() {
    let rig = Rig::new().await;
    let mut session = Session::new(1, 10);
    let live = session.whole(5);
    rig.live(&live).await;
    let blind = rig.start(&["--database-url="]);
    let refused = rig.ask(session.id, "max").await;
    let progress = rig.over(refused).await;
    assert_eq!(progress.error, Some(Failure::NoDatabase));
    assert!(progress.detail.unwrap().contains("DATABASE_URL"));

    let seeing = rig.start(&[]);
    let shown = rig.ask(session.id, "max").await;
    assert_eq!(rig.over(shown).await.state, State::Done);
    rig.assert_shown(shown, &live, State::Done).await;
    blind.stop().await;
    seeing.stop().await;
}
