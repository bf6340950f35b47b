//! One room's streaks, message by message.

use shared::event::{Coins, SchemaVersion, Streak};
use shared::raw::Source;
use shared::time::Timestamp;
use uuid::Uuid;

use super::*;

const START: i64 = 1_763_800_000_000;

/// A room: its streaks, its clock, and how many messages it has had.
struct Room {
    streaks: Streaks,
    clock: i64,
    seq_no: u64,
}

/// What an event says of its streak: `(id, state, count, coins)`.
type Said = (String, StreakState, u64, u64);

impl Room {
    fn new() -> Self {
        Self {
            streaks: Streaks::default(),
            clock: START,
            seq_no: 0,
        }
    }

    fn event(&mut self, group: &str, count: u64, ends: bool) -> UnifiedEvent {
        self.seq_no += 1;
        let state = if ends {
            StreakState::Final
        } else {
            StreakState::Progress
        };
        let raw_type = "WebcastGiftMessage".to_owned();
        UnifiedEvent {
            schema_version: SchemaVersion::V1,
            event_id: EventId::new("73", self.seq_no, &raw_type),
            source: Source::Live,
            stream_id: "73".into(),
            session_id: Uuid::from_u128(1),
            seq_no: self.seq_no,
            timestamp: Timestamp::from_millis(self.clock - 500),
            ingested_at: Timestamp::from_millis(self.clock),
            backlog: false,
            replay_of: None,
            user: None,
            payload: Payload::Gift(Box::new(Gift {
                raw_type,
                gift_id: "5".into(),
                gift_name: Some("Rose".into()),
                gift_count: count,
                coins: Coins {
                    unit: 2,
                    total: 2 * count,
                },
                image_url: None,
                streak: Streak {
                    id: format!("9-5-{group}"),
                    state,
                    inferred: false,
                },
                recipient: None,
            })),
        }
    }

    /// What becomes of a message, and what it concludes.
    fn take(&mut self, group: &str, count: u64, ends: bool) -> (Said, Vec<UnifiedEvent>) {
        let mut event = self.event(group, count, ends);
        let mut concluded = self.streaks.apply(&mut event, self.clock, Instant::now());
        concluded.extend(self.streaks.pass(self.clock));
        (said(&event), concluded)
    }

    /// What becomes of a message that concludes nothing else.
    fn say(&mut self, group: &str, count: u64, ends: bool) -> Said {
        let (said, concluded) = self.take(group, count, ends);
        assert_eq!(concluded, []);
        said
    }

    fn wait(&mut self, ms: i64) -> Vec<UnifiedEvent> {
        self.clock += ms;
        self.streaks.pass(self.clock)
    }
}

fn said(event: &UnifiedEvent) -> Said {
    let gift = gift_of(event).unwrap();
    assert_eq!(gift.coins.total, gift.coins.unit * gift.gift_count);
    (
        gift.streak.id.clone(),
        gift.streak.state,
        gift.gift_count,
        gift.coins.total,
    )
}

fn progress(group: &str, count: u64) -> Said {
    let id = format!("9-5-{group}");
    (id, StreakState::Progress, count, count * 2)
}

fn done(group: &str, count: u64) -> Said {
    let id = format!("9-5-{group}");
    (id, StreakState::Final, count, count * 2)
}

#[test]
fn a_streak_grows_and_ends_once() {
    let mut room = Room::new();
    for count in [1, 3, 7, 10, 11] {
        assert_eq!(room.say("1", count, false), progress("1", count));
    }
    assert_eq!(room.say("1", 11, true), done("1", 11));
    assert_eq!(room.say("1", 11, true), progress("1", 11), "a second end");
    assert_eq!(room.say("1", 10, false), progress("1", 10), "late");
    assert_eq!(
        room.say("1", 20, false),
        progress("1", 20),
        "late and wrong"
    );
    assert_eq!(room.streaks.open(), 0);
    assert_eq!(room.wait(60_000), []);
}

#[test]
fn counts_out_of_order_never_go_back() {
    let mut room = Room::new();
    let totals = [13, 15, 14, 17, 16].map(|count| room.say("1", count, false).2);
    assert_eq!(totals, [13, 15, 15, 17, 17]);
    assert_eq!(room.say("1", 16, true), done("1", 17), "a low end mark");
}

#[test]
fn streaks_go_on_beside_each_other() {
    let mut room = Room::new();
    room.say("1", 4, false);
    room.say("2", 9, false);
    assert_eq!(room.say("1", 5, true), done("1", 5));
    assert_eq!(room.say("2", 9, true), done("2", 9));
}

#[test]
fn an_end_alone_is_a_streak() {
    let mut room = Room::new();
    assert_eq!(room.say("1", 30, true), done("1", 30));
    assert_eq!(room.say("1", 30, true), progress("1", 30));
}

#[test]
fn a_streak_without_an_end_is_concluded_at_its_last_message() {
    let mut room = Room::new();
    room.say("1", 2, false);
    room.clock += 3_000;
    room.say("1", 6, false);
    room.say("1", 5, false);
    assert_eq!(room.wait(10_000), [], "not yet");
    let concluded = room.wait(1);
    let [timeout] = concluded.as_slice() else {
        panic!("{concluded:?}")
    };
    assert_eq!(said(timeout), done("1", 6));
    let gift = gift_of(timeout).unwrap();
    assert!(gift.streak.inferred);
    assert_eq!(gift.raw_type, "GiftStreakTimeout");
    assert_eq!(timeout.seq_no, 3, "of the last message");
    assert_eq!(timeout.ingested_at.as_millis(), START + 3_000);
    assert_eq!(timeout.event_id, EventId::new("73", 3, "GiftStreakTimeout"));
    assert_eq!(
        room.say("1", 8, true),
        progress("1", 8),
        "the end after all"
    );
    assert_eq!(room.wait(60_000), []);
}

#[test]
fn its_own_message_saves_a_streak_however_late() {
    let mut room = Room::new();
    room.say("1", 2, false);
    room.say("2", 1, false);
    room.clock += 15_000;
    let (last, concluded) = room.take("1", 3, true);
    assert_eq!(last, done("1", 3));
    let concluded: Vec<Said> = concluded.iter().map(said).collect();
    assert_eq!(concluded, [done("2", 1)]);
}

#[test]
fn a_message_without_its_gift_takes_the_price_of_the_streak() {
    let mut room = Room::new();
    room.say("1", 2, false);
    let mut end = room.event("1", 4, true);
    let Payload::Gift(gift) = &mut end.payload else {
        unreachable!()
    };
    gift.gift_name = None;
    gift.coins = Coins::default();
    assert_eq!(room.streaks.apply(&mut end, room.clock, Instant::now()), []);
    assert_eq!(said(&end), done("1", 4));
    assert_eq!(gift_of(&end).unwrap().gift_name.as_deref(), Some("Rose"));
}

#[test]
fn a_late_message_with_a_lower_number_does_not_move_the_last_place() {
    let mut room = Room::new();
    let mut early = room.event("1", 9, false);
    room.say("1", 2, false);
    room.streaks.apply(&mut early, room.clock, Instant::now());
    let concluded = room.wait(20_000);
    assert_eq!((concluded[0].seq_no, said(&concluded[0]).2), (2, 9));
}

#[test]
fn streaks_without_a_name_are_told_apart() {
    let mut room = Room::new();
    assert_eq!(room.say("0", 1, false), progress("0-1", 1));
    assert_eq!(room.say("0", 3, false), progress("0-1", 3));
    assert_eq!(room.say("0", 3, true), done("0-1", 3));
    assert_eq!(room.say("0", 2, false), progress("0-1", 2), "late");
    assert_eq!(room.say("0", 3, true), progress("0-1", 3), "again");
    room.clock += 2_001;
    assert_eq!(room.say("0", 1, false), progress("0-6", 1), "another");
    assert_eq!(room.say("0", 2, true), done("0-6", 2));
    room.clock += 2_001;
    assert_eq!(room.say("0", 5, true), done("0-8", 5), "its end alone");

    // One whose end is lost, and the next one begins.
    room.clock += 2_001;
    room.say("0", 4, false);
    room.clock += 2_001;
    let (next, concluded) = room.take("0", 1, false);
    assert_eq!(next, progress("0-10", 1));
    assert_eq!(said(&concluded[0]), done("0-9", 4));

    // One that was concluded too early, and its end comes.
    assert_eq!(said(&room.wait(10_001)[0]), done("0-10", 1));
    assert_eq!(room.say("0", 1, true), progress("0-10", 1));
}

#[test]
fn what_is_over_is_remembered_and_then_forgotten() {
    let mut room = Room::new();
    room.say("1", 4, true);
    room.wait(REMEMBERED);
    assert_eq!(room.say("1", 4, true), progress("1", 4), "still known");
    room.streaks.changes();
    room.wait(1);
    assert_eq!(room.streaks.changes(), [("9-5-1".to_owned(), None)]);
    assert_eq!(room.streaks.keys().count(), 0);
}

#[test]
fn the_oldest_makes_room_and_is_concluded() {
    let mut room = Room::new();
    for group in 1..=MAX_OPEN {
        room.say(&group.to_string(), 1, false);
        room.clock += 1;
    }
    let (_, concluded) = room.take("x", 1, false);
    let concluded: Vec<Said> = concluded.iter().map(said).collect();
    assert_eq!(concluded, [done("1", 1)]);
    assert_eq!(room.streaks.open(), MAX_OPEN);

    for group in 0..2 * MAX_OVER {
        room.say(&format!("e{group}"), 1, true);
    }
    assert!(room.streaks.over.len() <= MAX_OVER);
    let written = room.streaks.changes();
    assert_eq!(
        written.iter().filter(|(_, text)| text.is_some()).count(),
        room.streaks.keys().count()
    );
}

#[test]
fn only_what_changed_is_written() {
    let mut room = Room::new();
    room.say("1", 1, false);
    room.say("1", 2, false);
    room.say("2", 1, true);
    let keys: Vec<String> = room
        .streaks
        .changes()
        .into_iter()
        .map(|(key, _)| key)
        .collect();
    assert_eq!(keys, ["9-5-1", "9-5-2"]);
    assert!(!room.streaks.is_changed());
    room.say("2", 1, true);
    assert!(!room.streaks.is_changed(), "a repeat changes nothing");
    room.streaks.all_changed();
    assert_eq!(room.streaks.changes().len(), 2);
}

#[test]
fn what_cannot_be_read_is_refused() {
    let mut streaks = Streaks::default();
    for text in ["", "{}", "null", r#"{"open":{"at":1}}"#] {
        assert!(!streaks.restore("k", text), "{text}");
    }
    assert_eq!(streaks.keys().count(), 0);
}
