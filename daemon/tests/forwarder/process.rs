//! The program: what it refuses, how it stops, what it never tells.

use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::rig::{Reply, Rig, chats, poll};

fn ttlc(arguments: &[String]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ttlc"));
    command
        .env_clear()
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// What it said, and whether it ended well.
fn end(mut child: Child) -> (String, bool) {
    let mut said = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    (said, child.wait().unwrap().success())
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

#[test]
fn a_setting_that_cannot_work_is_refused_by_name() {
    for (arguments, name) in [
        (&["--forward-secret=whsec_hunter2"][..], "FORWARD_SECRET"),
        (&["--forward-token=hunter2"], "FORWARD_TOKEN"),
        (&["--forward-url=http://example.com/hunter2"], "FORWARD_URL"),
        (
            &["--forward-url=https://example.com/hunter2"],
            "DATABASE_URL",
        ),
        (
            &[
                "--forward-url=https://example.com/hunter2",
                "--forward-batch=5",
            ],
            "FORWARD_BATCH",
        ),
        (&["--forward-format=hunter2x"], "--forward-format"),
    ] {
        for command in ["forwarder", "run"] {
            let mut all = vec![command.to_owned()];
            all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
            let (said, well) = end(ttlc(&all).spawn().unwrap());
            assert!(
                !well && said.contains(name),
                "{command} {arguments:?}: {said}"
            );
            assert!(
                !said.contains("hunter2") || said.contains("hunter2x"),
                "{said}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_address_it_waits_and_forwards_nothing() {
    let rig = Rig::new().await;
    rig.publish(&chats(1, 1..=1)).await;
    let child = ttlc(&[
        "forwarder".into(),
        format!("--redis-url={}", rig.redis_url),
        "--forward-url=".into(),
    ])
    .spawn()
    .unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(rig.open().await, None, "no group holds the stream back");
    signal(&child, rustix::process::Signal::TERM);
    let (said, well) = end(child);
    assert!(well && said.contains("FORWARD_URL is not set"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_a_request_it_sends_the_same_again() {
    let rig = Rig::new().await;
    rig.server.script(|_| Reply::Hang);
    rig.publish(&chats(1, 1..=3)).await;
    let arguments = rig.arguments(&[]);
    let mut child = ttlc(&arguments).spawn().unwrap();
    poll("it is sent", async || {
        (!rig.server.seen().is_empty()).then_some(())
    })
    .await;
    child.kill().unwrap();
    end(child);
    rig.server.script(|_| Reply::Status(200));
    let child = ttlc(&arguments).spawn().unwrap();
    // As soon as the lease of the dead one has lapsed.
    rig.settled().await;
    signal(&child, rustix::process::Signal::INT);
    assert!(end(child).1);
    let seen = rig.server.seen();
    assert_eq!(seen.len(), 4);
    assert_eq!(
        (seen[0].key(), &seen[0].body),
        (seen[1].key(), &seen[1].body)
    );
    assert_eq!(rig.server.taken(1), [1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_stops_soon_and_finishes_what_is_under_way() {
    let rig = Rig::new().await;
    rig.server
        .script(|_| Reply::Slow(200, Duration::from_millis(700)));
    rig.publish(&chats(1, 1..=50)).await;
    let child = ttlc(&rig.arguments(&[])).spawn().unwrap();
    poll("it is sent", async || {
        (rig.server.seen().len() == 2).then_some(())
    })
    .await;
    let begun = Instant::now();
    signal(&child, rustix::process::Signal::TERM);
    let (said, well) = tokio::task::spawn_blocking(|| end(child)).await.unwrap();
    assert!(
        well && begun.elapsed() < Duration::from_secs(4),
        "{:?} {said}",
        begun.elapsed()
    );
    assert_eq!(rig.server.seen().len(), 2, "nothing new is begun");
    assert_eq!(rig.count("forwarded").await, 2);
    assert_eq!(rig.open().await, Some((48, 0)), "the rest is pending");

    // During an outage too: of the destination, which hangs.
    rig.server.script(|_| Reply::Hang);
    let child = ttlc(&rig.arguments(&[])).spawn().unwrap();
    poll("it is sent", async || {
        (rig.server.seen().len() == 3).then_some(())
    })
    .await;
    let begun = Instant::now();
    signal(&child, rustix::process::Signal::TERM);
    let (said, well) = tokio::task::spawn_blocking(|| end(child)).await.unwrap();
    assert!(
        well && begun.elapsed() < Duration::from_secs(4),
        "{:?} {said}",
        begun.elapsed()
    );
    assert_eq!(rig.open().await, Some((48, 0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_told() {
    let rig = Rig::new().await;
    let mut times = 0;
    rig.server.script(move |seen| {
        times += 1;
        match times {
            1 => Reply::Close,
            2 => Reply::Status(500),
            _ => Reply::Status(if seen.events()[0].1 == 2 { 400 } else { 200 }),
        }
    });
    rig.publish(&chats(1, 1..=3)).await;
    let canary = "kAnArY0123456789";
    let mut arguments = rig.arguments(&[
        &format!("--forward-url={}/{canary}?key={canary}", rig.server.url()),
        &format!("--forward-token={canary}"),
        "--forward-secret=whsec_a0FuQXJZMDEyMzQ1Njc4OWtBbkFyWTAxMjM0NTY3ODk=", // secret-scan: allow, made up here
    ]);
    arguments.insert(0, "--log-level=debug".to_owned());
    let child = ttlc(&arguments).spawn().unwrap();
    rig.settled().await;
    signal(&child, rustix::process::Signal::TERM);
    let (said, well) = end(child);
    assert!(well && said.contains("FORWARD_REJECTED"), "{said}");
    assert!(
        !said.contains(canary) && !said.contains("a0FuQXJZ"),
        "{said}"
    );
    let kept: String = rig
        .one("SELECT coalesce(string_agg(d::text, ''), '') || (SELECT string_agg(f::text, '') FROM forward_log f) FROM dead_letters d")
        .await;
    assert!(!kept.contains(canary), "{kept}");
    assert_eq!(rig.server.taken(1), [1, 3]);
}
