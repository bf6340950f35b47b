//! `ttlc ingest --replay-session`: what it says, and how it ends.

use std::io::Read as _;
use std::process::{Child, Command, Stdio};

use shared::raw::Source;
use shared::replay::State;
use uuid::Uuid;

use super::rig::{Rig, Session, poll};

pub(super) fn ttlc(rig: &Rig, arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_ttlc"))
        .env_clear()
        .env("REDIS_URL", &rig.redis_url)
        .env("DATABASE_URL", &rig.database)
        .env("SPOOL_DIR", "off")
        .env("GIFT_CATALOGUE", "off")
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What it said, and how it ended.
fn end(mut child: Child) -> (String, Option<i32>) {
    let mut said = String::new();
    let mut out = child.stdout.take().unwrap();
    let mut err = child.stderr.take().unwrap();
    out.read_to_string(&mut said).unwrap();
    err.read_to_string(&mut said).unwrap();
    (said, child.wait().unwrap().code())
}

pub(super) fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// The one replay that the raw stream shows.
async fn replay_of(rig: &Rig, session: Uuid) -> Uuid {
    poll("a replay is shown", async || {
        let entries = rig.entries("ttlc:raw").await;
        let shown = entries.iter().find(|entry| {
            entry["source"] == Source::Replay.as_str() && entry["replayOf"] == session.to_string()
        })?;
        shown["sessionId"].parse().ok()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn it_shows_one_session_and_ends() {
    let rig = Rig::new().await;
    let mut session = Session::new(1, 20);
    let live = session.whole(100);
    rig.live(&live).await;
    // Beside a daemon that shows replays: it leaves this one alone.
    let running = rig.start(&[]);
    let id = session.id.to_string();
    let (said, code) = end(ttlc(
        &rig,
        &["ingest", "--replay-session", &id, "--speed", "2.5"],
    ));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("the replay is over"), "{said}");
    let replay = replay_of(&rig, session.id).await;
    rig.assert_shown(replay, &live, State::Done).await;
    let progress = rig.progress(replay).await;
    assert_eq!(
        (progress.state, progress.sent),
        (State::Done, live.len() as u64)
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_cancels_it_and_says_so() {
    let rig = Rig::new().await;
    let mut session = Session::new(1, 50);
    let live = session.whole(1_000);
    rig.live(&live).await;
    let id = session.id.to_string();
    let child = ttlc(&rig, &["ingest", "--replay-session", &id]);
    let replay = replay_of(&rig, session.id).await;
    rig.sent(replay, 5).await;
    signal(&child, rustix::process::Signal::INT);
    let (said, code) = end(child);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("was cancelled"), "{said}");
    assert_eq!(rig.progress(replay).await.state, State::Cancelled);
    rig.assert_shown(replay, &live, State::Cancelled).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_shown_is_an_error() {
    let rig = Rig::new().await;
    let unknown = Uuid::now_v7().to_string();
    for (arguments, code, words) in [
        (
            &["--replay-session", &unknown][..],
            1,
            &["no session", &unknown[..]][..],
        ),
        (&["--replay-session", "7301"], 2, &["--replay-session"]),
        (
            &["--replay-session", &unknown, "--speed", "1000"],
            2,
            &["0.1 to 100"],
        ),
        (&["--speed", "2"], 2, &["--replay-session"]),
        (
            &["--replay-session", &unknown, "--database-url="],
            1,
            &["DATABASE_URL"],
        ),
        (
            &["--replay-session", &unknown, "--database-url=hunter2"],
            1,
            &["DATABASE_URL"],
        ),
    ] {
        let all: Vec<_> = ["ingest"].iter().chain(arguments).copied().collect();
        let (said, ended) = end(ttlc(&rig, &all));
        assert_eq!(ended, Some(code), "{arguments:?}: {said}");
        assert!(
            words.iter().all(|word| said.contains(word)),
            "{arguments:?}: {said}"
        );
        assert!(!said.contains("hunter2"), "{said}");
    }
    assert!(rig.entries("ttlc:raw").await.is_empty());
    // A database that was never migrated.
    rig.client()
        .await
        .batch_execute("CREATE DATABASE bare")
        .await
        .unwrap();
    let mut bare = url::Url::parse(&rig.database).unwrap();
    bare.set_path("/bare");
    let bare = format!("--database-url={bare}");
    let (said, code) = end(ttlc(&rig, &["ingest", "--replay-session", &unknown, &bare]));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("sessions"), "{said}");
}
