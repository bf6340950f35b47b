//! F22: SIGTERM, SIGINT, both, and each of them in the middle of an outage.
//!
//! The process has to end by itself, with success and in time, and what it leaves unfinished is
//! taken up by the next one.

use std::time::Duration;

use super::{Receiver, Rig, Show, number, receiver::HANG, report};

/// What the product promises, and what a busy machine may add.
const PROMISED: Duration = Duration::from_secs(4);
const MARGIN: Duration = Duration::from_secs(3);

/// What is away while the signal comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Away {
    Nothing,
    Redis,
    Postgres,
    Both,
    /// The port refuses.
    Destination,
    /// It takes requests and never answers.
    Answers,
}

/// Stops `ttlc run` and starts it again; returns how long the stop took.
async fn stop(rig: &mut Rig, signals: &[&str], away: Away) -> Duration {
    let mut receiver = rig.receiver.take().expect("there is a destination");
    match away {
        Away::Nothing => {}
        Away::Redis => rig.stop_redis(false).await,
        Away::Postgres => rig.stop_postgres(false).await,
        Away::Both => {
            rig.stop_redis(false).await;
            rig.stop_postgres(false).await;
        }
        Away::Destination => receiver.leave().await,
        Away::Answers => receiver.answers(HANG),
    }
    // Something has come in since, and is under way.
    rig.sends_more(30).await;
    let said = rig.log.lines().len();
    for signal in signals {
        rig.services.signal("run", signal, true);
    }
    let (status, took) = rig.services.ended("run", PROMISED + 4 * MARGIN).await;
    assert!(status.success(), "{signals:?} {away:?}: {status}");
    assert!(took < PROMISED + MARGIN, "{signals:?} {away:?}: {took:?}");
    // Who does not make it in time is named.
    let lines = rig.log.lines();
    let named = lines[said..].iter().any(|line| line.contains("abandoned"));
    assert!(
        took < PROMISED || named,
        "{signals:?} {away:?}: {took:?}, and nobody is named"
    );

    match away {
        Away::Nothing => {}
        Away::Redis => rig.start_redis().await,
        Away::Postgres => rig.start_postgres().await,
        Away::Both => {
            rig.start_redis().await;
            rig.start_postgres().await;
        }
        Away::Destination => receiver.come_back().await,
        Away::Answers => receiver.answers(200),
    }
    rig.receiver = Some(receiver);
    rig.services.resume("run");
    rig.stores_more(30).await;
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn f22_signals_end_it_in_time_and_lose_nothing() {
    let mut rig = Rig::prepare(Show::default()).await;
    rig.forward_to(Receiver::start().await);
    rig.start("run");
    rig.stores_more(20).await;
    let cases: [(&str, &[&str], Away); 8] = [
        ("SIGTERM", &["TERM"], Away::Nothing),
        ("SIGINT", &["INT"], Away::Nothing),
        ("both", &["TERM", "INT"], Away::Nothing),
        ("SIGTERM without Redis", &["TERM"], Away::Redis),
        ("SIGINT without Postgres", &["INT"], Away::Postgres),
        ("SIGTERM without both", &["TERM"], Away::Both),
        (
            "SIGTERM without the destination",
            &["TERM"],
            Away::Destination,
        ),
        (
            "SIGTERM while the destination hangs",
            &["TERM"],
            Away::Answers,
        ),
    ];
    let mut times = Vec::new();
    for _ in 0..number("FAULTS_REPETITIONS", 1, 5) {
        for (name, signals, away) in cases {
            times.push((name, stop(&mut rig, signals, away).await));
        }
    }
    rig.proof().await.lossless();
    for (name, took) in &times {
        eprintln!("F22: {name}: ended after {:.1} s", took.as_secs_f64());
    }
    report(
        "F22",
        "signals, also during outages (time to the end)",
        times.len(),
        &times,
    );
}

/// As Compose stops them: each stage in its own process, all at once, and nothing there to talk to.
#[tokio::test(flavor = "multi_thread")]
async fn f22_every_stage_ends_in_time_with_all_servers_away() {
    let mut rig = super::kills::stages(Show {
        rate: 5.0,
        ..Show::default()
    })
    .await;
    rig.stores_more(20).await;
    let mut receiver = rig.receiver.take().expect("there is a destination");
    receiver.leave().await;
    rig.stop_redis(false).await;
    rig.stop_postgres(false).await;
    rig.sends_more(30).await;
    let stages = rig.services.names();
    for stage in &stages {
        rig.services.signal(stage, "TERM", true);
    }
    let mut times = Vec::new();
    for stage in &stages {
        // All were asked at the same moment: who is waited for last has had the longest time.
        let (status, took) = rig.services.ended(stage, PROMISED + 4 * MARGIN).await;
        assert!(status.success(), "{stage}: {status}");
        times.push((stage.as_str(), took));
    }
    let all: Duration = times.iter().map(|(_, took)| *took).sum();
    assert!(all < PROMISED + MARGIN, "{times:?}");
    rig.start_redis().await;
    rig.start_postgres().await;
    receiver.come_back().await;
    rig.receiver = Some(receiver);
    for stage in &stages {
        rig.services.resume(stage);
    }
    rig.stores_more(30).await;
    rig.proof().await.lossless();
    report(
        "F22",
        "SIGTERM to every stage, all servers away (time to the end)",
        1,
        &[("all", all)],
    );
}
