//! Random histories: nothing is lost, nothing comes twice, and each room's order is kept.

use std::collections::{BTreeSet, HashMap};

use proptest::prelude::*;
use xtask::processes::TemporaryFolder;

use super::rig::{Fake, Process, envelope, gaps, numbers, segments, small};

const KINDS: [&str; 3] = [
    "WebcastLikeMessage",
    "WebcastChatMessage",
    "WebcastGiftMessage",
];

#[derive(Clone, Debug)]
enum Step {
    /// So many messages of one room, in parcels of up to five.
    Say(usize, usize, usize),
    Away,
    Back,
    Settle,
    Stop,
    Kill,
    /// While it is stopped, flips a bit somewhere in the newest files.
    KillAndFlip(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0_usize..3, 1_usize..60, 0_usize..3).prop_map(|(room, count, kind)| Step::Say(room, count, kind)),
        2 => Just(Step::Away),
        2 => Just(Step::Back),
        2 => Just(Step::Settle),
        1 => Just(Step::Stop),
        1 => Just(Step::Kill),
        1 => any::<usize>().prop_map(Step::KillAndFlip),
    ]
}

/// Every message of a room ever said.
#[derive(Default)]
struct Said {
    /// By number, the session.
    sessions: HashMap<u64, u128>,
    lost: BTreeSet<u64>,
    next: u64,
    session: u128,
}

async fn history(steps: Vec<Step>, full: bool) {
    let folder = TemporaryFolder::new("spool").unwrap();
    let mut limits = small();
    if full {
        limits.disk = 40 * 1024;
    }
    let fake = Fake::default();
    let mut process = Process::start(&folder, fake.clone(), limits);
    let mut rooms: Vec<Said> = (0..3).map(|_| Said::default()).collect();
    let mut flipped = false;
    let begin = |process: &Process, rooms: &mut Vec<Said>| {
        for (index, said) in rooms.iter_mut().enumerate() {
            let room = index.to_string();
            let floor = process.sink.hold(&room).floor;
            let known = process.outlet.remembered(&room).floor;
            said.next = said
                .next
                .max(1000 * (u64::try_from(said.session).unwrap() + 1));
            if let Some(floor) = floor.max(known) {
                said.next = said.next.max(floor + 1);
            }
            said.session += 1;
        }
    };
    begin(&process, &mut rooms);
    for step in steps {
        match step {
            Step::Say(room, count, kind) => {
                let said = &mut rooms[room];
                for _ in 0..count.div_ceil(5) {
                    let mut parcel = Vec::new();
                    for _ in 0..5 {
                        said.sessions.insert(said.next, said.session);
                        parcel.push(envelope(
                            &room.to_string(),
                            said.session,
                            said.next,
                            KINDS[kind],
                            100 + kind * 100,
                        ));
                        said.next += 1;
                    }
                    process.say(parcel).await;
                }
            }
            Step::Away => fake.server().away = true,
            Step::Back => fake.server().away = false,
            Step::Settle => {
                if !fake.server().away {
                    process.settled().await;
                }
            }
            Step::Stop => {
                process.stop().await;
                process = Process::start(&folder, fake.restarted(), limits);
                begin(&process, &mut rooms);
            }
            Step::Kill | Step::KillAndFlip(_) => {
                for lost in process.kill().await {
                    let room: usize = lost.stream_id.parse().unwrap();
                    rooms[room]
                        .lost
                        .extend(lost.seq_no..=super::super::worth::last_number(&lost));
                }
                // Runs of dropped numbers that were not told yet are lost, too.
                if full {
                    for (index, said) in rooms.iter_mut().enumerate() {
                        let last = numbers(&fake.entries(&index.to_string())).last().copied();
                        let session = said.session;
                        let unknown = said
                            .sessions
                            .iter()
                            .filter(|(number, of)| **of == session && Some(**number) > last);
                        let unknown: Vec<u64> = unknown.map(|(number, _)| *number).collect();
                        said.lost.extend(unknown);
                    }
                }
                if let Step::KillAndFlip(at) = step
                    && let Some(file) = segments(&folder).last()
                {
                    let mut bytes = std::fs::read(file).unwrap();
                    if !bytes.is_empty() {
                        let at = at % (bytes.len() * 8);
                        bytes[at / 8] ^= 1 << (at % 8);
                        std::fs::write(file, bytes).unwrap();
                        flipped = true;
                    }
                }
                process = Process::start(&folder, fake.restarted(), limits);
                begin(&process, &mut rooms);
            }
        }
    }
    fake.server().away = false;
    process.settled().await;
    process.stop().await;

    for (index, said) in rooms.iter().enumerate() {
        let entries = fake.entries(&index.to_string());
        let there = numbers(&entries);
        assert!(
            there.windows(2).all(|pair| pair[0] < pair[1]),
            "room {index} is out of order or twice: {there:?}"
        );
        let there: BTreeSet<u64> = there.into_iter().collect();
        for (number, session) in &said.sessions {
            if there.contains(number) || said.lost.contains(number) {
                continue;
            }
            // What a flipped bit takes from the end of a session nobody can know.
            let later = said
                .sessions
                .iter()
                .any(|(other, of)| of == session && other > number && there.contains(other));
            let earlier = said
                .sessions
                .iter()
                .any(|(other, of)| of == session && other < number && there.contains(other));
            assert!(
                flipped && !(earlier && later),
                "room {index}: {number} is lost, {entries:?}"
            );
        }
        if !full && !flipped {
            assert_eq!(gaps(&entries), [], "nothing was dropped");
        }
    }
}

fn run(steps: Vec<Step>, full: bool) {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(history(steps, full));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_or_doubled(steps in proptest::collection::vec(step(), 1..25)) {
        run(steps, false);
    }

    #[test]
    fn what_a_full_spool_drops_is_told(steps in proptest::collection::vec(step(), 1..25)) {
        run(steps, true);
    }
}
