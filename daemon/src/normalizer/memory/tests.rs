//! Rooms over time: any order, any loss, any restart.

use std::collections::BTreeMap;

use proptest::prelude::*;
use shared::event::{Coins, Gift, Like, SchemaVersion, Streak, StreamEnd};
use shared::raw::RawData;
use shared::time::Timestamp;
use uuid::Uuid;

use super::*;

const START: i64 = 1_763_800_000_000;

fn envelope(room: &str, source: Source, session: u128, seq_no: u64, at: i64) -> Envelope {
    Envelope {
        stream_id: room.into(),
        session_id: Uuid::from_u128(session),
        source,
        kind: "WebcastGiftMessage".into(),
        seq_no,
        timestamp: Timestamp::from_millis(START + at),
        ingested_at: Timestamp::from_millis(START + at),
        data: RawData::Protobuf(Vec::new()),
        msg_id: None,
        backlog: false,
        replay_of: None,
    }
}

fn event(envelope: &Envelope, payload: Payload) -> UnifiedEvent {
    UnifiedEvent {
        schema_version: SchemaVersion::V1,
        event_id: envelope.event_id(),
        source: envelope.source,
        stream_id: envelope.stream_id.clone(),
        session_id: envelope.session_id,
        seq_no: envelope.seq_no,
        timestamp: envelope.timestamp,
        ingested_at: envelope.ingested_at,
        backlog: false,
        replay_of: None,
        user: None,
        payload,
    }
}

fn gift(group: &str, count: u64, state: StreakState) -> Payload {
    Payload::Gift(Box::new(Gift {
        raw_type: "WebcastGiftMessage".into(),
        gift_id: "5".into(),
        gift_name: Some("Rose".into()),
        gift_count: count,
        coins: Coins {
            unit: 3,
            total: 3 * count,
        },
        image_url: None,
        streak: Streak {
            id: format!("9-5-{group}"),
            state,
            inferred: false,
        },
        recipient: None,
    }))
}

fn like(total: u64) -> Payload {
    Payload::Like(Like {
        raw_type: "WebcastLikeMessage".into(),
        count: 3,
        total,
    })
}

/// Memory and what is written down of it.
struct Written {
    memory: Memory,
    fields: HashMap<String, String>,
    now: Instant,
}

impl Written {
    fn new() -> Self {
        Self {
            memory: Memory::default(),
            fields: HashMap::new(),
            now: Instant::now(),
        }
    }

    fn take(&mut self, envelope: &Envelope, payload: Payload) -> (UnifiedEvent, Vec<UnifiedEvent>) {
        let mut event = event(envelope, payload);
        let concluded = self.memory.apply(envelope, Some(&mut event), self.now);
        (event, concluded)
    }

    fn write(&mut self) {
        for (field, text) in self.memory.changes() {
            match text {
                Some(text) => self.fields.insert(field, text),
                None => self.fields.remove(&field),
            };
        }
    }

    /// Another process goes on, with what was written down.
    fn restart(&mut self) {
        self.memory = Memory::restore(&self.fields, self.now);
    }

    fn likes(&mut self, envelope: &Envelope, total: u64) -> u64 {
        match self.take(envelope, like(total)).0.payload {
            Payload::Like(like) => like.total,
            _ => unreachable!(),
        }
    }
}

fn state_of(event: &UnifiedEvent) -> (StreakState, u64) {
    match &event.payload {
        Payload::Gift(gift) => (gift.streak.state, gift.gift_count),
        _ => panic!("{event:?}"),
    }
}

#[test]
fn a_total_of_likes_never_goes_back() {
    let mut room = Written::new();
    let live = |seq| envelope("73", Source::Live, 1, seq, 0);
    assert_eq!(room.likes(&live(1), 3_001_310), 3_001_310);
    assert_eq!(room.likes(&live(2), 1_919_972), 3_001_310);
    room.write();
    room.restart();
    assert_eq!(room.likes(&live(3), 0), 3_001_310);
    assert_eq!(room.likes(&live(4), 3_001_311), 3_001_311);
    let other = envelope("74", Source::Live, 1, 1, 0);
    assert_eq!(room.likes(&other, 5), 5);
    let replay = envelope("73", Source::Replay, 2, 1, 0);
    assert_eq!(room.likes(&replay, 7), 7, "a replay counts for itself");
    assert_eq!(room.likes(&live(5), 8), 3_001_311);
}

#[test]
fn a_replay_does_not_touch_the_live_room_nor_another_showing() {
    let mut rooms = Written::new();
    let live = envelope("73", Source::Live, 1, 1, 0);
    rooms.take(&live, gift("1", 5, StreakState::Progress));
    for session in [2, 3] {
        let replay = envelope("73", Source::Replay, session, 1, 60_000);
        let (end, concluded) = rooms.take(&replay, gift("1", 7, StreakState::Final));
        assert_eq!(state_of(&end), (StreakState::Final, 7));
        assert_eq!(concluded, [], "its clock is its own");
    }
    let live = envelope("73", Source::Live, 1, 2, 1_000);
    let (end, _) = rooms.take(&live, gift("1", 5, StreakState::Final));
    assert_eq!(state_of(&end), (StreakState::Final, 5));
}

#[test]
fn the_end_of_a_showing_concludes_a_whole_one_and_forgets_every_one() {
    for (source, state, concluded, forgotten) in [
        (Source::Replay, "done", 1, true),
        (Source::Replay, "cancelled", 0, true),
        // Only a replay has such an end.
        (Source::Live, "done", 0, false),
    ] {
        let mut rooms = Memory::default();
        let first = envelope("73", source, 2, 1, 0);
        let mut step = event(&first, gift("1", 5, StreakState::Progress));
        rooms.apply(&first, Some(&mut step), Instant::now());
        let mut end = envelope("73", source, 2, 2, 1);
        end.kind = control::REPLAY_END.to_owned();
        let data = serde_json::json!({"state": state});
        end.data = RawData::Json(data.as_object().unwrap().clone());
        let ends = rooms.apply(&end, None, Instant::now());
        assert_eq!(ends.len(), concluded, "{source:?} {state}");
        assert_eq!(rooms.open() == 0, forgotten, "{source:?} {state}");
        let removed = rooms
            .changes()
            .iter()
            .any(|(field, text)| field.starts_with("room") && text.is_none());
        assert_eq!(removed, forgotten, "{source:?} {state}");
    }
}

#[test]
fn a_time_out_is_the_same_after_a_restart() {
    let timeout = |restarts: bool| {
        let mut room = Written::new();
        let first = envelope("73", Source::Live, 1, 1, 0);
        room.take(&first, gift("1", 5, StreakState::Progress));
        if restarts {
            room.write();
            room.restart();
        }
        let other = envelope("73", Source::Live, 2, 9, 10_001);
        room.take(&other, like(1)).1
    };
    assert_eq!(timeout(true), timeout(false));
    assert_eq!(timeout(true).len(), 1);
}

#[test]
fn any_message_moves_the_clock_also_one_that_is_rejected() {
    let mut room = Written::new();
    let first = envelope("73", Source::Live, 1, 1, 0);
    room.take(&first, gift("1", 5, StreakState::Progress));
    let garbage = envelope("73", Source::Live, 1, 2, 10_001);
    let concluded = room.memory.apply(&garbage, None, room.now);
    assert_eq!(concluded.len(), 1);
}

#[test]
fn a_silent_room_is_concluded_by_the_wall_clock_and_then_forgotten() {
    let mut rooms = Written::new();
    let silent = |source, session| envelope("73", source, session, 1, 0);
    rooms.take(
        &silent(Source::Live, 1),
        gift("1", 5, StreakState::Progress),
    );
    rooms.take(
        &silent(Source::Replay, 2),
        gift("1", 5, StreakState::Progress),
    );
    let ended = envelope("74", Source::Live, 3, 1, 0);
    rooms.take(&ended, gift("1", 5, StreakState::Progress));
    let end = StreamEnd {
        raw_type: "WebcastControlMessage".into(),
        action: 3,
        message: None,
    };
    rooms.take(&ended, Payload::StreamEnd(end));
    rooms.write();

    let after = |rooms: &mut Written, seconds| {
        rooms.now += Duration::from_secs(seconds);
        let concluded = rooms.memory.pass(rooms.now);
        let names = concluded.iter().map(|event| {
            assert!(matches!(state_of(event), (StreakState::Final, 5)));
            (event.stream_id.clone(), event.source)
        });
        names.collect::<Vec<_>>()
    };
    assert_eq!(after(&mut rooms, 10), []);
    assert_eq!(after(&mut rooms, 1), [("74".into(), Source::Live)]);
    rooms.memory.interrupted(rooms.now);
    assert_eq!(after(&mut rooms, 60), [], "nothing could arrive before");
    assert_eq!(after(&mut rooms, 1), [("73".into(), Source::Live)]);
    assert_eq!(rooms.memory.open(), 1);
    assert_eq!(after(&mut rooms, 600), [("73".into(), Source::Replay)]);
    rooms.write();
    assert_eq!(rooms.fields.len(), 7, "{:?}", rooms.fields.keys());
    assert_eq!(after(&mut rooms, 3_600), []);
    rooms.write();
    let left: Vec<&String> = rooms.fields.keys().collect();
    assert_eq!(left, ["gift 5"], "only the price");
}

#[test]
fn what_cannot_be_read_is_removed() {
    let mut rooms = Written::new();
    let first = envelope("73", Source::Live, 1, 1, 0);
    rooms.take(&first, gift("1", 5, StreakState::Progress));
    rooms.write();
    assert_eq!(rooms.fields.len(), 3);
    for field in [
        "room 74",
        "streak 75 9-5-1",
        "streak 73 9-5-2",
        "gift 6",
        "old",
        "",
    ] {
        rooms.fields.insert(field.into(), "what?".into());
    }
    rooms.restart();
    rooms.write();
    assert_eq!(rooms.fields.len(), 3);
    assert_eq!(rooms.memory.open(), 1);
}

#[test]
fn a_clock_that_once_was_ahead_stops_no_streak_early() {
    let mut room = Written::new();
    let ahead = envelope("73", Source::Live, 1, 1, 3_600_000);
    room.take(&ahead, like(1));
    for (seq_no, at) in [(2, 0), (3, 4_000), (4, 8_000)] {
        let right = envelope("73", Source::Live, 2, seq_no, at);
        let (_, concluded) = room.take(&right, gift("1", seq_no, StreakState::Progress));
        assert_eq!(concluded, []);
    }
}

#[test]
fn rooms_and_streaks_are_bounded_and_nothing_is_lost() {
    let (max_rooms, max_open) = (20, 7);
    let mut rooms = Written::new();
    rooms.memory = Memory::bounded(max_rooms, max_open);
    let mut concluded = 0;
    let count = 50;
    for number in 1..=count {
        rooms.now += Duration::from_millis(1);
        let room = envelope(&number.to_string(), Source::Live, 1, 1, 0);
        let (_, timeouts) = rooms.take(&room, gift("1", 5, StreakState::Progress));
        concluded += timeouts.len();
    }
    assert_eq!(rooms.memory.rooms.len(), max_rooms);
    assert_eq!(rooms.memory.open(), max_open);
    assert_eq!(concluded + max_open, count);
    rooms.write();
    rooms.restart();
    assert_eq!(rooms.memory.rooms.len(), max_rooms);
    assert_eq!(rooms.memory.open(), max_open);
}

/// A streak as it was sent: its counts, and whether its end was.
fn streak() -> impl Strategy<Value = (Vec<u64>, bool)> {
    (prop::collection::btree_set(1_u64..40, 1..8), any::<bool>())
        .prop_map(|(counts, ends)| (counts.into_iter().collect(), ends))
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    streak: usize,
    count: u64,
    ends: bool,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Several streaks at a time, in any order, with losses; written down and restarted anywhere.
    #[test]
    fn every_streak_is_final_once_and_costs_its_highest_count(
        streaks in prop::collection::vec(streak(), 1..6),
        order in prop::collection::vec(any::<u32>(), 64),
        lost in prop::collection::vec(prop::bool::weighted(0.2), 64),
        pauses in prop::collection::vec(prop_oneof![5 => 0..2_000_i64, 1 => 9_000..25_000_i64], 64),
        restarts in prop::collection::vec(prop::bool::weighted(0.2), 64),
        batch in 1..7_usize,
        punctual in any::<bool>(),
    ) {
        let mut sent: Vec<Sent> = Vec::new();
        for (streak, (counts, ends)) in streaks.iter().enumerate() {
            let message = |count: &u64, ends| Sent { streak, count: *count, ends };
            sent.extend(counts.iter().map(|count| message(count, false)));
            if *ends {
                sent.extend(counts.last().map(|count| message(count, true)));
            }
        }
        // Any order is one that losses and late arrivals can make.
        let mut keyed: Vec<(u32, Sent)> = order.iter().copied().zip(sent).collect();
        keyed.sort_by_key(|(key, _)| *key);
        let received: Vec<Sent> = keyed
            .into_iter()
            .zip(&lost)
            .filter(|(_, lost)| !**lost)
            .map(|((_, sent), _)| sent)
            .collect();

        let mut room = Written::new();
        let mut at = 0;
        let mut finals: BTreeMap<String, Vec<(u64, u64)>> = BTreeMap::new();
        let mut highest: BTreeMap<String, u64> = BTreeMap::new();
        let mut published: Vec<UnifiedEvent> = Vec::new();
        let numbered: Vec<(u64, Sent)> = (1..).zip(received).collect();
        for (number, messages) in numbered.chunks(batch).enumerate() {
            let mut pending: Vec<UnifiedEvent> = Vec::new();
            // A process that dies in a batch has published and written nothing of it.
            let times = if restarts[number % restarts.len()] { 2 } else { 1 };
            let began = at;
            for _ in 0..times {
                room.restart();
                pending.clear();
                at = began;
                for (seq_no, sent) in messages {
                    if !punctual {
                        at += pauses[usize::try_from(*seq_no).unwrap() % pauses.len()];
                    }
                    let state = if sent.ends { StreakState::Final } else { StreakState::Progress };
                    let envelope = envelope("73", Source::Live, 1, *seq_no, at);
                    let (event, concluded) =
                        room.take(&envelope, gift(&(sent.streak + 1).to_string(), sent.count, state));
                    pending.extend(concluded);
                    pending.push(event);
                }
            }
            room.write();
            for (_, sent) in messages {
                let known = highest.entry(format!("9-5-{}", sent.streak + 1)).or_default();
                *known = (*known).max(sent.count);
            }
            published.append(&mut pending);
        }
        room.restart();
        room.now += Duration::from_secs(61);
        published.extend(room.memory.pass(room.now));
        prop_assert_eq!(room.memory.open(), 0);

        let mut ids = std::collections::HashSet::new();
        for event in &published {
            prop_assert!(ids.insert(event.event_id), "an id comes twice");
            let Payload::Gift(gift) = &event.payload else { unreachable!() };
            prop_assert_eq!(gift.coins.total, 3 * gift.gift_count);
            if gift.streak.state == StreakState::Final {
                let ends = finals.entry(gift.streak.id.clone()).or_default();
                ends.push((gift.gift_count, gift.coins.total));
            }
        }
        prop_assert_eq!(
            finals.keys().collect::<Vec<_>>(),
            highest.keys().collect::<Vec<_>>(),
            "each streak ends"
        );
        for (id, ends) in &finals {
            prop_assert_eq!(ends.len(), 1, "{} ends once", id);
            prop_assert!(ends[0].0 <= highest[id]);
        }
        // Where nothing was silent for long and no end came before its streak's last counts, the
        // highest count is the final one. An end mark has the highest count itself.
        if punctual {
            for (id, ends) in &finals {
                prop_assert_eq!(ends[0], (highest[id], 3 * highest[id]));
            }
        }
    }
}
