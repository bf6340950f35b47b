//! A viewer is erased while events wait to be forwarded: theirs are never sent, and it is recorded.

use clap::Parser as _;
use daemon::storage::erasure;
use serde_json::{Value, json};

use super::rig::{Reply, Rig, chat, chats, poll};

const ID: &str = "6812345678901234567";
const HANDLE: &str = "zoe.quartz_9";

/// What `ttlc erase` does; it does not wait for what the forwarder has still to read.
async fn erase(rig: &Rig) {
    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        options: erasure::Options,
    }
    let cli = Cli::parse_from([
        "erase",
        ID,
        "--name",
        HANDLE,
        "--wait=0",
        &format!("--database-url={}", rig.database),
        &format!("--redis-url={}", rig.redis_url),
    ]);
    let mut out = Vec::new();
    let done = erasure::execute(&cli.options, &mut out).await;
    let out = String::from_utf8(out).unwrap();
    assert!(out.contains("events removed"), "{out} {done:?}");
}

/// Two comments of the viewer, one about them, and one of somebody else.
fn events() -> Vec<Value> {
    let mut events = chats(1, 1..=4);
    for own in [0, 2] {
        events[own]["user"]["userId"] = json!(ID);
        events[own]["user"]["username"] = json!(HANDLE);
    }
    events[1]["payload"]["message"] = json!(format!("hi @{HANDLE}"));
    events
}

#[tokio::test(flavor = "multi_thread")]
async fn queued_events_of_an_erased_viewer_are_dropped_and_recorded() {
    let rig = Rig::new().await;
    rig.server.script(|_| Reply::Status(503));
    rig.publish(&events()).await;
    // With more attempts than there is time for.
    let running = rig.start(&["--forward-max-retries=100"]);
    poll("they are in the queue", async || {
        (!rig.server.seen().is_empty()).then_some(())
    })
    .await;
    erase(&rig).await;
    poll("they are dropped", async || {
        (rig.count("rejected").await == 2).then_some(())
    })
    .await;
    rig.server.script(|_| Reply::Status(200));
    rig.settled().await;
    assert_eq!(rig.server.taken(1), [2, 4]);
    let sent: Vec<String> = rig
        .server
        .seen()
        .into_iter()
        .filter(|seen| seen.status == 200)
        .map(|seen| seen.body)
        .collect();
    let text = sent.join("\n");
    assert!(text.contains("hi @[erased]"), "{text}");
    assert!(!text.contains(ID) && !text.contains(HANDLE), "{text}");
    let log = rig.log("1").await;
    let states: Vec<_> = log
        .iter()
        .map(|row| (row.0, row.1.as_str(), row.2.as_deref()))
        .collect();
    assert_eq!(
        states,
        [
            (1, "rejected", Some("erased")),
            (2, "forwarded", None),
            (3, "rejected", Some("erased")),
            (4, "forwarded", None),
        ]
    );
    assert_eq!(rig.one::<i64>("SELECT count(*) FROM dead_letters").await, 0);

    // Who comes back is new.
    let mut back = chat(1, 5);
    back["user"]["userId"] = json!(ID);
    rig.publish(&[back]).await;
    rig.settled().await;
    running.stop().await;
    assert_eq!(rig.server.taken(1), [2, 4, 5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_of_an_erased_viewer_are_not_sent_when_the_destination_is_back() {
    let rig = Rig::new().await;
    rig.server.away(true);
    rig.publish(&events()).await;
    let running = rig.start(&["--forward-max-age=2"]);
    poll("all are put aside", async || {
        (rig.count("dead_lettered").await == 4).then_some(())
    })
    .await;
    erase(&rig).await;
    // Of letters nothing is rewritten: the one about the viewer goes, too.
    assert_eq!(rig.one::<i64>("SELECT count(*) FROM dead_letters").await, 1);
    rig.server.away(false);
    poll("the other one is sent", async || {
        (rig.log("1").await[3].1 == "forwarded").then_some(())
    })
    .await;
    running.stop().await;
    let log = rig.log("1").await;
    for own in [0, 2] {
        assert_eq!(
            (log[own].1.as_str(), log[own].2.as_deref()),
            ("rejected", Some("erased")),
            "{log:?}"
        );
    }
    // The one about them goes with its letter, or was in memory and is sent without them.
    let taken = rig.server.taken(1);
    assert!(taken == [4] || taken == [2, 4], "{taken:?}");
    for seen in rig.server.seen() {
        assert!(
            !seen.body.contains(ID) && !seen.body.contains(HANDLE),
            "{}",
            seen.body
        );
    }
    let kept: String = rig
        .one("SELECT coalesce(string_agg(d::text, ''), '') || (SELECT string_agg(f::text, '') FROM forward_log f) FROM dead_letters d")
        .await;
    assert!(!kept.contains(ID) && !kept.contains(HANDLE), "{kept}");
}
