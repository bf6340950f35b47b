//! F9, F10: links that lose a reply, are slow, cut, or black holes.
//!
//! Every process and every server has a link of its own, through the proxy. `FAULTS_LINK_SECONDS`
//! says how long one is bad. After a black hole nobody helps: a client that hung has to come back by
//! itself.
//!
//! Where the rooms are is a link, too, once with each provider as the first choice. What a room told
//! a dead socket it tells again to the next one, as TikTok does; that must neither be missing nor be
//! stored twice or out of order. The proof compares messages as they are, which Euler sends only when
//! asked (`EULER_RAW_MESSAGES`): its JSON would count as lost.

use std::time::{Duration, SystemTime};

use anyhow::ensure;
use tokio::time::{Instant, sleep};
use upstream::{Delivery, History};

use super::{Rig, Show, long, number, receiver::Receiver};
use crate::{
    daemon::PATIENCE,
    proxy::{Mode, Proxy},
    stores::until,
};

/// What a process may take in memory in any outage, in MiB.
const MEMORY: u64 = 256;
/// No client has more connections than this to one server, however often it tries.
const CONNECTIONS: usize = 48;
/// How often memory and connections are looked at.
const LOOK: Duration = Duration::from_millis(250);
/// After so long both ends know that a connection was cut.
const CUT: Duration = Duration::from_secs(1);

fn redis_link(rig: &Rig) -> Proxy {
    let url = Rig::redis_url(&rig.redis_address());
    Proxy::before(&url).expect("a proxy")
}

/// Redis does what it is told, and its client never hears of it.
#[tokio::test(flavor = "multi_thread")]
async fn f09_replies_are_lost_on_the_way_back() {
    let rig = &mut Rig::prepare(Show::default()).await;
    let ingest = redis_link(rig);
    let normalizer = redis_link(rig);
    let storage = redis_link(rig);
    for (name, link) in [
        ("ingest", &ingest),
        ("normalizer", &normalizer),
        ("storage-writer", &storage),
    ] {
        rig.start_as(name, name, &[("REDIS_URL", link.url())], &[]);
    }
    rig.stores_more(20).await;
    let times = u32::try_from(number("FAULTS_REPLIES", 2, 20)).expect("small");
    // By a key, or the name of a command.
    let requests: [(&Proxy, &[u8], &str); 8] = [
        (&ingest, b"ttlc:raw", "publishing"),
        (&ingest, b"ttlc:lease:", "leases"),
        (&normalizer, b"XREADGROUP", "reading"),
        (&normalizer, b"ttlc:normalizer", "the hop"),
        (&normalizer, b"ttlc:lease:normalizer", "its lease"),
        (&normalizer, b"XTRIM", "trimming"),
        (&storage, b"XREADGROUP", "reading"),
        (&storage, b"XACK", "acknowledging"),
    ];
    for (link, request, what) in requests {
        let before = link.dropped();
        link.drop_replies(request, times);
        until(PATIENCE, async || {
            let dropped = link.dropped() - before;
            ensure!(
                dropped >= u64::from(times),
                "{what}: {dropped} of {times} replies were dropped"
            );
            Ok(())
        })
        .await;
        rig.stores_more(20).await;
    }
    rig.proof().await.lossless();
}

/// How a link is bad, and for how long.
fn faults() -> Vec<(Mode, Duration)> {
    let seconds =
        |short, long_form| Duration::from_secs(number("FAULTS_LINK_SECONDS", short, long_form));
    vec![
        // Longer than any command may take.
        (Mode::BlackHole, seconds(8, 600)),
        (Mode::Delay(Duration::from_secs(2)), seconds(6, 60)),
        (
            Mode::Reset(if long() { 0.01 } else { 0.05 }),
            seconds(6, 120),
        ),
    ]
}

/// A rig of which `run` is told that this setting is this link.
async fn rig(forwarded: bool) -> (Rig, Option<Receiver>) {
    // What a room says while nobody hears it, it says again.
    let bad: Duration = faults().iter().map(|(_, time)| *time).sum();
    let history = History::Last(bad + Duration::from_mins(5));
    let mut rig = Rig::prepare(Show {
        history,
        ..Show::default()
    })
    .await;
    rig.patience = PATIENCE.max(Duration::from_secs(number("FAULTS_PATIENCE", 90, 600)));
    let receiver = if forwarded {
        Some(Receiver::start().await)
    } else {
        None
    };
    (rig, receiver)
}

/// Makes a link bad in each way, one after the other, and watches what it does to the process.
async fn suffer(rig: &mut Rig, name: &str, link: &Proxy) {
    let (mut most, mut threads, mut open) = (0, 0, 0);
    for (mode, time) in faults() {
        link.set(mode);
        let begun = Instant::now();
        while begun.elapsed() < time {
            let id = rig.services.id(name).expect("it runs");
            let (memory, count) = uses(id);
            most = most.max(memory);
            threads = threads.max(count);
            open = open.max(link.open());
            sleep(LOOK).await;
        }
        link.set(Mode::Pass);
        rig.stores_more(20).await;
        assert_eq!(rig.services.lives(name).len(), 1, "{mode:?}: it went on");
    }
    eprintln!("{most} MiB at most, {threads} threads, {open} connections");
    assert!(most <= MEMORY, "{most} MiB");
    assert!(threads <= 64, "{threads} threads");
    assert!(open <= CONNECTIONS, "{open} connections");
}

/// Resident memory in MiB, and threads.
fn uses(id: u32) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let number = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let word = line.and_then(|line| line.split_whitespace().next());
        word.and_then(|word| word.parse::<u64>().ok()).unwrap_or(0)
    };
    (number("VmRSS:") / 1024, number("Threads:"))
}

#[tokio::test(flavor = "multi_thread")]
async fn f10_the_link_to_redis_is_bad() {
    let (mut rig, _) = rig(false).await;
    let link = redis_link(&rig);
    rig.start_as("run", "run", &[("REDIS_URL", link.url())], &[]);
    rig.stores_more(20).await;
    suffer(&mut rig, "run", &link).await;
    rig.proof().await.lossless();
}

#[tokio::test(flavor = "multi_thread")]
async fn f10_the_link_to_postgres_is_bad() {
    let (mut rig, _) = rig(false).await;
    let link = Proxy::before(rig.stores.database_url()).expect("a proxy");
    rig.start_as("run", "run", &[("DATABASE_URL", link.url())], &[]);
    rig.stores_more(20).await;
    suffer(&mut rig, "run", &link).await;
    rig.proof().await.lossless();
}

/// A bad link to where the rooms are, of which this provider is the first choice.
async fn upstream_is_bad(provider: &str) {
    let (mut rig, _) = rig(false).await;
    let link = Proxy::before(&rig.upstream.base_url()).expect("a proxy");
    let euler = link.url().replacen("http", "ws", 1);
    let changes = [
        ("INGEST_PROVIDER", provider),
        ("TIKTOK_WEB_URL", link.url()),
        ("TIKTOK_WEBCAST_URL", link.url()),
        ("EULER_API_URL", link.url()),
        // The other provider takes over after a few failures, and its link is the same.
        ("EULER_WS_URL", &euler),
    ];
    rig.start_as("run", "run", &changes, &[]);
    rig.stores_more(20).await;
    assert!(link.accepted() > 0, "it goes through the proxy");
    suffer(&mut rig, "run", &link).await;
    // A room to which nobody is connected says its last word to nobody, and never again: each one
    // has to have a listener, who was told what had been missed. Sockets from before are gone then.
    link.cut();
    let gone = SystemTime::now() + CUT;
    until(rig.patience, async || {
        let told = rig.upstream.deliveries();
        for creator in &rig.creators {
            let listens = |one: &Delivery| one.creator == *creator && one.at > gone;
            ensure!(told.iter().any(listens), "nobody listens to {creator}");
        }
        Ok(())
    })
    .await;
    rig.proof().await.lossless();
}

#[tokio::test(flavor = "multi_thread")]
async fn f10_the_link_to_tiktok_is_bad() {
    upstream_is_bad("direct").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f10_the_link_to_euler_is_bad() {
    upstream_is_bad("euler").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f10_the_link_to_the_destination_is_bad() {
    let (mut rig, receiver) = rig(true).await;
    let receiver = receiver.expect("it was started");
    let link = Proxy::before(&receiver.url()).expect("a proxy");
    rig.forward_to(receiver);
    rig.set("FORWARD_URL", link.url());
    rig.set("FORWARD_TIMEOUT", "3");
    rig.start("run");
    rig.stores_more(20).await;
    until(PATIENCE, async || {
        ensure!(link.accepted() > 0, "nothing is forwarded");
        Ok(())
    })
    .await;
    suffer(&mut rig, "run", &link).await;
    rig.proof().await.lossless();
}
