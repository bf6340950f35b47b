//! The spool with a real Redis that goes away, forgets, or gives a room to somebody else.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use redis::Value;
use secrecy::SecretString;
use shared::raw::{Envelope, control};
use shared::streams::StreamNames;
use xtask::processes::TemporaryFolder;
use xtask::servers::{Durability, PrivateRedis};

use super::super::Spool;
use super::super::log::Limits;
use super::rig::{Process, envelope, small};
use crate::bus::{Bus, Claim, Owner, RoomBatch};
use crate::ingest::lease::Leases;
use crate::ingest::outbox::{Outbox, Raw};

const ROOM: &str = "7301234567890123456";
const GIFT: &str = "WebcastGiftMessage";

fn bus(url: &str) -> Bus {
    Bus::new(&SecretString::from(url.to_owned()), StreamNames::new(1)).unwrap()
}

/// As the daemon starts: with the identity that is in the spool.
fn start(folder: &TemporaryFolder, url: &str, limits: Limits) -> Process<Raw> {
    let spool = Spool::open_in(folder.path(), limits).unwrap();
    let bus = bus(url);
    let sink = Raw {
        leases: Leases::new(bus.clone(), spool.owner()),
        bus,
    };
    let log = spool.log.clone();
    let outbox = Outbox::new(sink.clone(), spool);
    Process {
        outlet: outbox.outlet(),
        outbox,
        log,
        sink,
    }
}

async fn connection(url: &str) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(url).unwrap();
    // Not the client's half a second, which a busy machine takes.
    let patient = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(Some(Duration::from_secs(30)))
        .set_response_timeout(Some(Duration::from_secs(30)));
    client
        .get_multiplexed_async_connection_with_config(&patient)
        .await
        .unwrap()
}

async fn ask<T: redis::FromRedisValue>(url: &str, words: &[&str]) -> T {
    let mut command = redis::cmd(words[0]);
    for word in &words[1..] {
        command.arg(*word);
    }
    command
        .query_async(&mut connection(url).await)
        .await
        .unwrap()
}

/// Room, number and type of all entries, in the order of the stream.
async fn stream(url: &str) -> Vec<(String, u64, String)> {
    let mut entries: Vec<(String, Vec<String>)> = Vec::new();
    loop {
        let from = entries
            .last()
            .map_or("-".to_owned(), |(id, _)| format!("({id}"));
        let page: Vec<(String, Vec<String>)> =
            ask(url, &["XRANGE", "ttlc:raw", &from, "+", "COUNT", "500"]).await;
        if page.is_empty() {
            break;
        }
        entries.extend(page);
    }
    let field = |words: &[String], name: &str| {
        let at = words
            .iter()
            .step_by(2)
            .position(|word| word == name)
            .unwrap();
        words[2 * at + 1].clone()
    };
    entries
        .into_iter()
        .map(|(_, words)| {
            let number = field(&words, "seqNo").parse().unwrap();
            (field(&words, "streamId"), number, field(&words, "type"))
        })
        .collect()
}

async fn of_room(url: &str, room: &str) -> Vec<u64> {
    let all = stream(url).await;
    all.into_iter()
        .filter(|(of, _, _)| of == room)
        .map(|(_, number, _)| number)
        .collect()
}

fn messages(room: &str, from: u64, count: u64, bytes: usize) -> Vec<Envelope> {
    (from..from + count)
        .map(|number| envelope(room, 1, number, GIFT, bytes))
        .collect()
}

async fn eventually(mut check: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !check().await {
        assert!(begun.elapsed() < Duration::from_secs(40), "too long");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_beyond_memory_is_caught_up_in_order() {
    let server = PrivateRedis::temporary(Durability::Fast).unwrap();
    let url = server.url();
    let folder = TemporaryFolder::new("spool").unwrap();
    let limits = Limits {
        memory: 1024 * 1024,
        ..Limits::default()
    };
    let process = start(&folder, &url, limits);
    for room in ["71", "72"] {
        process.sink.leases.claim(room).await.unwrap().unwrap();
    }
    process.say(messages("71", 0, 10, 100)).await;
    process.settled().await;
    let stopped = tokio::task::spawn_blocking(move || server.stop(false))
        .await
        .unwrap()
        .unwrap();
    // 12 MB: neither memory nor the 32 MiB of places would hold it twice.
    for number in 0..2_500 {
        process.say(messages("71", 10 + number, 1, 2_400)).await;
        process.say(messages("72", number, 1, 2_400)).await;
    }
    assert!(process.log.must_read_back() || process.log.backlog() > 10_000_000);
    let _server = tokio::task::spawn_blocking(move || stopped.start_again())
        .await
        .unwrap()
        .unwrap();
    process.say(messages("71", 2_510, 5, 100)).await;
    process.settled().await;
    assert_eq!(of_room(&url, "71").await, (0..2_515).collect::<Vec<_>>());
    assert_eq!(of_room(&url, "72").await, (0..2_500).collect::<Vec<_>>());
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_process_had_received_is_published_by_the_next_one() {
    let server = PrivateRedis::temporary(Durability::Fast).unwrap();
    let url = server.url();
    let folder = TemporaryFolder::new("spool").unwrap();
    let process = start(&folder, &url, small());
    process.sink.leases.claim(ROOM).await.unwrap().unwrap();
    process.say(messages(ROOM, 100, 5, 100)).await;
    process.settled().await;
    let stopped = tokio::task::spawn_blocking(move || server.stop(true))
        .await
        .unwrap()
        .unwrap();
    process.say(messages(ROOM, 105, 300, 100)).await;
    process.written().await;
    let owner = process.sink.leases.owner();
    assert!(process.kill().await.is_empty());

    let process = start(&folder, &url, small());
    assert_eq!(process.sink.leases.owner(), owner);
    let known = process.outlet.remembered(ROOM);
    assert_eq!(known.floor, Some(404), "the next session begins above");
    assert_eq!(known.seen.last().unwrap().1, format!("{ROOM}404"));
    let _server = tokio::task::spawn_blocking(move || stopped.start_again())
        .await
        .unwrap()
        .unwrap();
    process.settled().await;
    assert_eq!(of_room(&url, ROOM).await, (100..405).collect::<Vec<_>>());
    process.stop().await;

    // Once is enough, whatever the mark says.
    std::fs::write(folder.path().join("0/mark"), b"damaged").unwrap();
    let process = start(&folder, &url, small());
    process.settled().await;
    process.stop().await;
    assert_eq!(of_room(&url, ROOM).await.len(), 305);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_redis_is_filled_again() {
    let server = PrivateRedis::temporary(Durability::Fast).unwrap();
    let url = server.url();
    let folder = TemporaryFolder::new("spool").unwrap();
    let process = start(&folder, &url, small());
    for room in [ROOM, "72"] {
        process.sink.leases.claim(room).await.unwrap().unwrap();
    }
    process.say(messages(ROOM, 100, 50, 100)).await;
    process.say(messages("72", 5, 5, 100)).await;
    process.settled().await;
    process.sink.leases.release("72").await;
    let _: Value = ask(&url, &["FLUSHALL"]).await;
    // What comes next is refused, for nobody owns the room any more; nothing of it is lost, and
    // nothing stands before what was there.
    process.say(messages(ROOM, 150, 5, 100)).await;
    eventually(async || of_room(&url, ROOM).await.len() >= 55).await;
    assert_eq!(of_room(&url, ROOM).await, (100..155).collect::<Vec<_>>());
    // A room in which nothing happens any more is looked after, too.
    eventually(async || of_room(&url, "72").await.len() >= 5).await;
    assert_eq!(of_room(&url, "72").await, (5..10).collect::<Vec<_>>());
    process.stop().await;
}

/// What is told as lost is all that the room gave out and the spool has no more, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_spool_has_no_more_is_told_as_lost() {
    let server = PrivateRedis::temporary(Durability::Fast).unwrap();
    let url = server.url();
    let folder = TemporaryFolder::new("spool").unwrap();
    // Long enough for the loss to be noticed, and for the rest to be there still.
    let limits = Limits {
        keep: Duration::from_secs(10),
        ..small()
    };
    let process = start(&folder, &url, limits);
    process.sink.leases.claim(ROOM).await.unwrap().unwrap();
    let say = async |parts: std::ops::Range<u64>| {
        for part in parts {
            process.say(messages(ROOM, 100 + part * 5, 5, 1_000)).await;
            process.settled().await;
            process.written().await;
        }
    };
    say(0..5).await;
    eventually(async || super::rig::segments(&folder).is_empty()).await;
    say(5..10).await;
    let _: Value = ask(&url, &["FLUSHALL"]).await;
    eventually(async || {
        let all = stream(&url).await;
        all.last().is_some_and(|(_, number, _)| *number == 149)
    })
    .await;
    let all = stream(&url).await;
    let (_, last_lost, kind) = &all[0];
    assert_eq!(kind, control::GAP);
    assert_eq!(*last_lost, 124, "{all:?}");
    let again: Vec<u64> = all[1..].iter().map(|(_, number, _)| *number).collect();
    assert_eq!(again, (last_lost + 1..150).collect::<Vec<_>>());
    let entries: Vec<(String, HashMap<String, String>)> =
        ask(&url, &["XRANGE", "ttlc:raw", "-", "+", "COUNT", "1"]).await;
    let data: serde_json::Value = serde_json::from_str(&entries[0].1["data"]).unwrap();
    assert_eq!(data["fromSeq"], 100);
    assert_eq!(data["toSeq"], *last_lost);
    assert_eq!(data["reason"], "redis_lost");

    // A second time it is told again, and what came meanwhile is whole.
    process.say(messages(ROOM, 150, 5, 100)).await;
    process.settled().await;
    let _: Value = ask(&url, &["FLUSHALL"]).await;
    eventually(async || {
        let all = stream(&url).await;
        all.last().is_some_and(|(_, number, _)| *number == 154)
    })
    .await;
    let all = stream(&url).await;
    let gaps = all.iter().filter(|(_, _, kind)| kind == control::GAP);
    assert!(gaps.count() >= 1, "{all:?}");
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_has_lost_its_last_seconds_is_filled_again() {
    let keep = TemporaryFolder::new("redis").unwrap();
    let quiet = || xtask::processes::silent();
    let server = PrivateRedis::kept(keep.path(), Durability::Safe, quiet()).unwrap();
    let url = server.url();
    let folder = TemporaryFolder::new("spool").unwrap();
    let process = start(&folder, &url, small());
    process.sink.leases.claim(ROOM).await.unwrap().unwrap();
    for part in 0..40 {
        process.say(messages(ROOM, 100 + part * 5, 5, 400)).await;
        process.settled().await;
    }
    let stopped = tokio::task::spawn_blocking(move || server.stop(false))
        .await
        .unwrap()
        .unwrap();
    // Cut 30 % of the append-only file, as a power cut may.
    let aof = find(keep.path(), ".incr.aof").expect("an append-only file");
    let length = std::fs::metadata(&aof).unwrap().len();
    let file = std::fs::OpenOptions::new().write(true).open(&aof).unwrap();
    file.set_len(length / 10 * 7).unwrap();
    let server = tokio::task::spawn_blocking(move || stopped.start_again())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(server.url(), url);
    let kept = of_room(&url, ROOM).await.len();
    assert!(kept > 5 && kept < 200, "{kept}");
    process.say(messages(ROOM, 300, 5, 400)).await;
    eventually(async || of_room(&url, ROOM).await.len() >= 205).await;
    assert_eq!(of_room(&url, ROOM).await, (100..305).collect::<Vec<_>>());
    process.stop().await;
}

fn find(folder: &std::path::Path, end: &str) -> Option<std::path::PathBuf> {
    std::fs::read_dir(folder).unwrap().find_map(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            find(&path, end)
        } else {
            path.to_string_lossy().ends_with(end).then_some(path)
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fenced_out_daemon_publishes_later_what_nobody_else_has() {
    let server = PrivateRedis::temporary(Durability::Fast).unwrap();
    let url = server.url();
    let folder = TemporaryFolder::new("spool").unwrap();
    let process = start(&folder, &url, small());
    process.sink.leases.claim(ROOM).await.unwrap().unwrap();
    process.say(messages(ROOM, 100, 5, 100)).await;
    process.settled().await;

    // Another daemon takes the room and reads two of the messages that we read, too.
    let _: Value = ask(&url, &["DEL", &format!("ttlc:lease:{ROOM}")]).await;
    let (other, them) = (bus(&url), Owner::new());
    let Claim::Held(memory) = other.claim_room(ROOM, them).await.unwrap() else {
        panic!("taken");
    };
    let theirs: Vec<Envelope> = (0..4)
        .map(|index| Envelope {
            msg_id: Some(format!("{ROOM}{}", 107 + index)),
            ..envelope(ROOM, 9, 5_000 + index, GIFT, 100)
        })
        .collect();
    let batch = RoomBatch {
        stream_id: ROOM,
        token: memory.token,
        late: false,
        after: None,
        envelopes: theirs.iter().take(2).collect(),
    };
    other.publish(them, &[batch]).await.unwrap();
    process.say(messages(ROOM, 105, 5, 100)).await;
    process.settled().await;
    assert_eq!(
        process.sink.leases.token(ROOM),
        None,
        "we know that it is lost"
    );
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(of_room(&url, ROOM).await.len(), 7, "nothing of the loser's");

    // They survive a restart, and are published when the room is free.
    process.stop().await;
    let process = start(&folder, &url, small());
    assert_eq!(process.outlet.remembered(ROOM).floor, Some(109));
    other.release_room(ROOM, them).await.unwrap();
    eventually(async || of_room(&url, ROOM).await.len() >= 11).await;
    let all = stream(&url).await;
    let late: Vec<(u64, &str)> = all[7..]
        .iter()
        .map(|(_, number, kind)| (*number, kind.as_str()))
        .collect();
    assert_eq!(
        late,
        [(105, GIFT), (106, GIFT), (109, GIFT), (107, control::GAP)],
        "without what the other one has published"
    );
    assert_eq!(
        std::fs::read_dir(folder.path().join("0/orphans"))
            .unwrap()
            .count(),
        0
    );
    // The room is given back.
    eventually(async || !ask::<bool>(&url, &["EXISTS", &format!("ttlc:lease:{ROOM}")]).await).await;
    process.stop().await;
}

#[expect(clippy::cast_precision_loss, reason = "numbers for people")]
fn rate(messages: u64, begun: Instant) -> f64 {
    messages as f64 / begun.elapsed().as_secs_f64()
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        / 1024
}

/// 500 messages a second for ten minutes while Redis is away, in one go. Run it alone, in release:
/// `cargo test --release -p daemon --lib ten_minutes -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a gigabyte and a minute"]
async fn ten_minutes_without_redis() {
    const MESSAGES: u64 = 300_000;
    const ROOMS: u64 = 20;
    let rooms: Vec<String> = (0..ROOMS).map(|room| (71_000 + room).to_string()).collect();
    let server = PrivateRedis::temporary(Durability::Fast).unwrap();
    let url = server.url();

    for spooled in [false, true] {
        let folder = TemporaryFolder::new("spool").unwrap();
        let process = if spooled {
            start(&folder, &url, Limits::default())
        } else {
            let spool = Spool::memory(Limits::default());
            let bus = bus(&url);
            let leases = Leases::new(bus.clone(), spool.owner());
            let log = spool.log.clone();
            let sink = Raw { bus, leases };
            let outbox = Outbox::new(sink.clone(), spool);
            let outlet = outbox.outlet();
            Process {
                outbox,
                outlet,
                log,
                sink,
            }
        };
        let _: Value = ask(&url, &["FLUSHALL"]).await;
        for room in &rooms {
            process.sink.leases.claim(room).await.unwrap().unwrap();
        }
        let begun = Instant::now();
        for number in 0..60_000 / ROOMS {
            for room in &rooms {
                process.say(messages(room, number, 1, 2_400)).await;
            }
        }
        process.settled().await;
        println!(
            "spool {spooled}: {:.0} messages/s through the outbox to redis",
            rate(60_000, begun)
        );
        process.stop().await;
    }

    let folder = TemporaryFolder::new("spool").unwrap();
    let _: Value = ask(&url, &["FLUSHALL"]).await;
    let process = start(&folder, &url, Limits::default());
    for room in &rooms {
        process.sink.leases.claim(room).await.unwrap().unwrap();
    }
    let stopped = tokio::task::spawn_blocking(move || server.stop(true))
        .await
        .unwrap()
        .unwrap();
    let (begun, mut most) = (Instant::now(), 0);
    for number in 0..MESSAGES / ROOMS {
        for room in &rooms {
            process.say(messages(room, number, 1, 2_400)).await;
        }
        if number % 100 == 0 {
            most = most.max(resident_mib());
        }
    }
    println!(
        "taken in during the outage: {:.0} messages/s",
        rate(MESSAGES, begun)
    );
    process.written().await;
    println!(
        "on the disk after {:?}, {} MiB resident at most",
        begun.elapsed(),
        most.max(resident_mib())
    );
    let _server = tokio::task::spawn_blocking(move || stopped.start_again())
        .await
        .unwrap()
        .unwrap();
    let begun = Instant::now();
    while !process.log.is_empty() {
        most = most.max(resident_mib());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!(
        "drained at {:.0} messages/s, {most} MiB resident at most",
        rate(MESSAGES, begun)
    );
    assert!(most <= 256, "{most} MiB");
    let begun = Instant::now();
    process.stop().await;
    println!("stopped in {:?}", begun.elapsed());
    assert_eq!(ask::<u64>(&url, &["XLEN", "ttlc:raw"]).await, MESSAGES);
    let mut next = vec![0; rooms.len()];
    let mut from = "-".to_owned();
    loop {
        let part: Vec<(String, Vec<String>)> =
            ask(&url, &["XRANGE", "ttlc:raw", &from, "+", "COUNT", "1000"]).await;
        let Some((last, _)) = part.last() else { break };
        from = format!("({last}");
        for (_, words) in &part {
            let room: u64 = words[3].parse().unwrap();
            let at = &mut next[usize::try_from(room - 71_000).unwrap()];
            assert_eq!(words[11], at.to_string(), "room {room}");
            *at += 1;
        }
    }
    assert_eq!(next, vec![MESSAGES / ROOMS; rooms.len()]);
}
