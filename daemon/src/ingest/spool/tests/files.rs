//! Real files: torn, full, locked, left behind.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use shared::raw::control;
use xtask::processes::TemporaryFolder;

use super::super::log::Limits;
use super::super::{Options, Spool};
use super::rig::{Fake, Process, envelope, gaps, numbers, segments, small, until};
use crate::bus::DeadLetter;
use crate::ingest::outbox::Parcel;

const ROOM: &str = "7301234567890123456";
const CHAT: &str = "WebcastChatMessage";

fn messages(from: u64, count: u64) -> Vec<shared::raw::Envelope> {
    (from..from + count)
        .map(|number| envelope(ROOM, 1, number, CHAT, 200))
        .collect()
}

/// A process that has taken in numbers 100 to 399 while Redis was away, and was killed.
async fn killed(folder: &TemporaryFolder) -> Fake {
    let fake = Fake::default();
    let process = Process::start(folder, fake.clone(), small());
    fake.hold(ROOM);
    fake.server().away = true;
    for number in 0..60 {
        process.say(messages(100 + 5 * number, 5)).await;
    }
    process.written().await;
    assert!(process.kill().await.is_empty());
    fake.server().away = false;
    fake
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_end_costs_one_record() {
    let folder = TemporaryFolder::new("spool").unwrap();
    let fake = killed(&folder).await;
    let files = segments(&folder);
    assert!(files.len() > 1, "{files:?}");
    let last = files.last().unwrap();
    let length = std::fs::metadata(last).unwrap().len();
    let file = std::fs::OpenOptions::new().write(true).open(last).unwrap();
    file.set_len(length - 7).unwrap();

    let process = Process::start(&folder, fake.restarted(), small());
    process.sink.hold(ROOM);
    process.settled().await;
    process.say(vec![envelope(ROOM, 2, 500, CHAT, 9)]).await;
    process.stop().await;
    let mut expected: Vec<u64> = (100..399).collect();
    expected.push(500);
    assert_eq!(numbers(&fake.entries(ROOM)), expected);
    assert_eq!(gaps(&fake.entries(ROOM)), [], "nobody knows what was torn");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_is_a_gap_of_one() {
    let folder = TemporaryFolder::new("spool").unwrap();
    let fake = killed(&folder).await;
    let first = &segments(&folder)[0];
    let mut bytes = std::fs::read(first).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(first, bytes).unwrap();

    let process = Process::start(&folder, fake.restarted(), small());
    process.settled().await;
    process.stop().await;
    let entries = fake.entries(ROOM);
    assert_eq!(numbers(&entries), (100..400).collect::<Vec<_>>());
    let gaps = gaps(&entries);
    assert!(
        matches!(gaps[..], [(from, to)] if from == to),
        "exactly the damaged one: {gaps:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_segment_is_a_gap_of_its_numbers() {
    let folder = TemporaryFolder::new("spool").unwrap();
    let fake = killed(&folder).await;
    let files = segments(&folder);
    let lost = std::fs::read(&files[1]).unwrap();
    std::fs::write(&files[1], vec![0; lost.len()]).unwrap();
    let process = Process::start(&folder, fake.restarted(), small());
    process.settled().await;
    process.stop().await;
    let entries = fake.entries(ROOM);
    assert_eq!(numbers(&entries), (100..400).collect::<Vec<_>>());
    assert_eq!(gaps(&entries).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn published_segments_go_after_their_time() {
    let folder = TemporaryFolder::new("spool").unwrap();
    let fake = Fake::default();
    let limits = Limits {
        keep: Duration::from_millis(1_500),
        ..small()
    };
    let process = Process::start(&folder, fake.clone(), limits);
    fake.hold(ROOM);
    for number in 0..100 {
        process.say(messages(5 * number, 5)).await;
    }
    process.written().await;
    process.settled().await;
    assert!(segments(&folder).len() > 5, "kept for a while");
    // Also the last one, of which nobody knows whether more will come.
    until(|| segments(&folder).is_empty()).await;
    process.say(messages(500, 5)).await;
    process.written().await;
    process.settled().await;
    assert_eq!(segments(&folder).len(), 1, "what came last stays a while");
    process.stop().await;
    assert_eq!(numbers(&fake.entries(ROOM)), (0..505).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_spool_drops_likes_first_and_tells_each_run() {
    let folder = TemporaryFolder::new("spool").unwrap();
    let fake = Fake::default();
    let limits = Limits {
        disk: 100_000,
        ..small()
    };
    let process = Process::start(&folder, fake.clone(), limits);
    fake.hold(ROOM);
    fake.server().away = true;
    let kinds = ["WebcastLikeMessage", CHAT, "WebcastGiftMessage"];
    for number in 0..900_u64 {
        let kind = kinds[usize::try_from(number % 3).unwrap()];
        let bytes = if kind == CHAT { 100 } else { 10 };
        process
            .say(vec![envelope(ROOM, 1, number, kind, bytes)])
            .await;
    }
    fake.server().away = false;
    process.settled().await;
    process.stop().await;
    let entries = fake.entries(ROOM);
    assert_eq!(numbers(&entries), (0..900).collect::<Vec<_>>(), "each once");
    let there = |kind: &str| entries.iter().filter(|(_, _, of)| of == kind).count();
    let (likes, chats, gifts) = (there(kinds[0]), there(CHAT), there(kinds[2]));
    assert!(likes < chats && chats < gifts, "{likes} {chats} {gifts}");
    assert!(likes > 50 && there(control::GAP) > 10, "{likes}");
    let on_disk: u64 = segments(&folder)
        .iter()
        .map(|file| std::fs::metadata(file).unwrap().len())
        .sum();
    assert!(on_disk < 110_000, "{on_disk}");
}

/// A small file system of its own; `None` where we may not make one.
struct Tmpfs(TemporaryFolder);

impl Tmpfs {
    fn new(bytes: u64) -> Option<Self> {
        let folder = TemporaryFolder::new("tmpfs").unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"])
            .arg(folder.path())
            .output()
            .is_ok_and(|output| output.status.success());
        if !mounted {
            eprintln!("skipped: no permission to mount a tmpfs");
        }
        mounted.then_some(Self(folder))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_without_space_means_memory_and_back_pressure() {
    let Some(disk) = Tmpfs::new(256 * 1024) else {
        return;
    };
    let fake = Fake::default();
    let process = Process::start(&disk.0, fake.clone(), small());
    fake.hold(ROOM);
    fake.server().away = true;
    let mut next = 0;
    let minute = Duration::from_secs(2);
    // The disk is full after 256 KiB, and then 32 MiB of places.
    loop {
        let big = vec![envelope(ROOM, 1, next, CHAT, 100_000)];
        if tokio::time::timeout(minute, process.say(big))
            .await
            .is_err()
        {
            break;
        }
        next += 1;
        assert!(next < 1_000, "no bound");
    }
    assert!(next > 100, "{next}");
    assert!(process.log.state().broken);
    fake.server().away = false;
    process.settled().await;
    assert_eq!(numbers(&fake.entries(ROOM)), (0..next).collect::<Vec<_>>());

    // Published segments made space: the disk is taken again.
    process.say(messages(next, 5)).await;
    until(|| !process.log.state().broken).await;
    process.say(messages(next + 5, 5)).await;
    process.written().await;
    process.stop().await;
    assert_eq!(
        numbers(&fake.entries(ROOM)),
        (0..next + 10).collect::<Vec<_>>()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_during_an_outage_leaves_everything_in_the_spool() {
    let folder = TemporaryFolder::new("spool").unwrap();
    let fake = Fake::default();
    let process = Process::start(&folder, fake.clone(), small());
    fake.hold(ROOM);
    fake.server().away = true;
    process.say(messages(0, 50)).await;
    process.outlet.send_now(Parcel {
        dead_letters: vec![DeadLetter {
            stage: "ingest",
            reason: "FRAME_ERROR",
            error: String::new(),
            payload: "{}".to_owned(),
            failed_at: shared::time::Timestamp::from_millis(0),
        }],
        ..Parcel::default()
    });
    let begun = std::time::Instant::now();
    process.stop().await;
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    fake.server().away = false;
    let process = Process::start(&folder, fake.restarted(), small());
    process.stop().await;
    assert_eq!(numbers(&fake.entries(ROOM)), (0..50).collect::<Vec<_>>());
    assert_eq!(fake.server().letters, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_share_a_folder_and_inherit_from_each_other() {
    let folder = TemporaryFolder::new("spool").unwrap();
    let fake = Fake::default();
    let first = Process::start(&folder, fake.clone(), small());
    let second = Process::start(&folder, fake.restarted(), small());
    assert!(folder.path().join("1/lock").exists());
    fake.hold(ROOM);
    fake.server().away = true;
    second.say(messages(0, 50)).await;
    second.written().await;
    second.kill().await;
    first.stop().await;

    // A minute later, for whoever was killed may come back.
    let aged = |slot: &str| {
        let old = SystemTime::now() - Duration::from_mins(2);
        for entry in std::fs::read_dir(folder.path().join(slot)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let file = std::fs::File::options().write(true).open(path).unwrap();
                file.set_modified(old).unwrap();
            } else {
                std::fs::File::open(path)
                    .unwrap()
                    .set_modified(old)
                    .unwrap();
            }
        }
    };
    aged("1");
    fake.server().away = false;
    let first = Process::start(&folder, fake.restarted(), small());
    until(|| fake.entries(ROOM).len() == 50).await;
    until(|| !folder.path().join("1").exists()).await;
    first.stop().await;
    assert_eq!(numbers(&fake.entries(ROOM)), (0..50).collect::<Vec<_>>());
}

#[test]
fn an_unusable_folder_is_refused_with_its_name() {
    let folder = TemporaryFolder::new("spool").unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let options = |dir: &Path| Options {
        spool_dir: Some(dir.to_owned()),
        spool_max_bytes: 64 * 1024 * 1024,
        spool_keep_seconds: 60,
    };
    let error = Spool::open(&options(&file)).err().unwrap().to_string();
    assert!(
        error.starts_with("SPOOL_DIR: ") && error.contains("file"),
        "{error}"
    );
    let off = Spool::open(&options(Path::new("off"))).unwrap();
    assert!(off.log.keeps().is_none());
    let missing = folder.path().join("a/b");
    assert!(Spool::open(&options(&missing)).is_ok(), "made when missing");
}
