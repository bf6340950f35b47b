use super::super::window::tests::{ROOM, chat};
use super::*;

/// A client that reads from a database and a window, and remembers the ids it saw.
struct Client {
    feed: Feed,
    seen: Vec<u64>,
    gaps: Vec<String>,
}

impl Client {
    fn new(start: Start, window: &Window) -> Self {
        Self {
            feed: Feed::new(ROOM, start, None, window, 0),
            seen: Vec::new(),
            gaps: Vec::new(),
        }
    }

    /// Takes steps until there is nothing to do; answers the last one.
    fn run(&mut self, window: &Window, database: Option<&[u64]>, now_ms: i64) -> Step {
        loop {
            match self.feed.step(window, 0, now_ms) {
                Step::Write(text) => self.take(&text),
                Step::Read(after) => match database {
                    None => self.feed.failed(now_ms),
                    Some(stored) => {
                        let rows: Vec<(u64, String)> = stored
                            .iter()
                            .filter(|seq_no| after.is_none_or(|after| **seq_no > after.seq_no))
                            .take(2)
                            .map(|seq_no| (*seq_no, chat(1, *seq_no)))
                            .collect();
                        if let Some(text) = self.feed.rows(&rows, now_ms) {
                            self.take(&text);
                        }
                    }
                },
                other => return other,
            }
        }
    }

    fn take(&mut self, text: &str) {
        for frame in text.split("\n\n").filter(|frame| !frame.is_empty()) {
            if let Some(gap) = frame.strip_prefix("event: gap\ndata: ") {
                self.gaps.push(gap.to_owned());
            }
            let Some(rest) = frame.strip_prefix("id: ") else {
                continue;
            };
            let (id, data) = rest.split_once("\ndata: ").unwrap();
            let cursor: shared::api::Cursor = id.parse().unwrap();
            let json: serde_json::Value = serde_json::from_str(data).unwrap();
            assert_eq!(json["seqNo"], cursor.seq_no);
            self.seen.push(cursor.seq_no);
        }
    }
}

fn window(seq_nos: impl IntoIterator<Item = u64>) -> Window {
    let mut window = Window::new(ROOM);
    for seq_no in seq_nos {
        window.offer(&chat(1, seq_no), true);
    }
    window
}

#[test]
fn a_new_client_hears_something_at_once() {
    let window = window([]);
    let mut feed = Feed::new(ROOM, Start::Now, None, &window, 7);
    let Step::Write(text) = feed.step(&window, 7, 0) else {
        panic!("greets first");
    };
    assert!(
        text.starts_with("retry: 2000\n\nevent: heartbeat\n"),
        "{text}"
    );
    assert_eq!(feed.step(&window, 7, 0), Step::Wait);
    let Step::Write(text) = feed.step(&window, 8, 15_000) else {
        panic!("the heartbeat is due");
    };
    assert_eq!(
        text,
        "event: heartbeat\ndata: {\"at\":\"1970-01-01T00:00:15.000Z\"}\n\n"
    );
}

#[test]
fn from_now_on_means_no_history() {
    let mut window = window(1..=5);
    let mut client = Client::new(Start::Now, &window);
    assert_eq!(client.run(&window, None, 0), Step::Wait);
    window.offer(&chat(1, 6), true);
    window.offer(&chat(1, 7), true);
    assert_eq!(client.run(&window, None, 0), Step::Wait);
    assert_eq!(client.seen, [6, 7]);
}

/// Wherever the seam between stored and live is, and wherever the client was: each event once.
#[test]
fn history_and_window_join_without_gap_or_repeat() {
    for stored_up_to in 1..=10_u64 {
        for window_from in 1..=stored_up_to + 1 {
            for at in 0..=10_u64 {
                let mut window = window(window_from..=10);
                let stored: Vec<u64> = (1..=stored_up_to).collect();
                let start = if at == 0 {
                    Start::First
                } else {
                    Start::After(Place::at(at))
                };
                let mut client = Client::new(start, &window);
                assert_eq!(client.run(&window, Some(&stored), 0), Step::Wait);
                window.offer(&chat(1, 11), true);
                assert_eq!(client.run(&window, Some(&stored), 1), Step::Wait);
                let expected: Vec<u64> = (at + 1..=11).collect();
                assert_eq!(
                    client.seen, expected,
                    "stored to {stored_up_to}, window from {window_from}, at {at}"
                );
                assert!(client.gaps.is_empty());
            }
        }
    }
}

#[test]
fn what_is_live_and_not_stored_yet_is_waited_for() {
    let window = window(8..=9);
    let mut client = Client::new(Start::After(Place::at(3)), &window);
    assert_eq!(
        client.run(&window, Some(&[1, 2, 3, 4, 5]), 0),
        Step::WaitFor(300)
    );
    assert_eq!(client.seen, [4, 5]);
    assert_eq!(client.run(&window, Some(&[4, 5]), 100), Step::WaitFor(200));
    assert_eq!(client.run(&window, Some(&[4, 5, 6, 7]), 300), Step::Wait);
    assert_eq!(client.seen, [4, 5, 6, 7, 8, 9]);
    assert!(client.gaps.is_empty());
}

#[test]
fn what_is_never_stored_becomes_a_gap() {
    let window = window(8..=9);
    let mut client = Client::new(Start::After(Place::at(3)), &window);
    assert_eq!(client.run(&window, Some(&[3, 4]), 0), Step::WaitFor(300));
    assert_eq!(
        client.run(&window, Some(&[3, 4]), 4_900),
        Step::WaitFor(300)
    );
    assert_eq!(client.run(&window, Some(&[3, 4]), 5_000), Step::Wait);
    assert_eq!(client.seen, [4, 8, 9]);
    assert_eq!(client.gaps, [r#"{"from":4,"to":8,"reason":"not_stored"}"#]);
}

/// 6 and 7 are dead letters: once 8 is stored it is clear that they will not come.
#[test]
fn a_number_that_is_nowhere_is_no_gap() {
    let window = window(8..=9);
    let mut client = Client::new(Start::After(Place::at(3)), &window);
    assert_eq!(client.run(&window, Some(&[3, 4, 5, 8]), 0), Step::Wait);
    assert_eq!(client.seen, [4, 5, 8, 9]);
    assert!(client.gaps.is_empty());
}

#[test]
fn a_client_at_the_end_of_history_waits_for_the_first_live_event() {
    let mut window = window([]);
    let mut client = Client::new(Start::First, &window);
    assert_eq!(client.run(&window, Some(&[1, 2, 3]), 0), Step::Wait);
    assert_eq!(client.seen, [1, 2, 3]);
    // Much later, and not what follows directly: the database is asked again.
    window.offer(&chat(1, 6), true);
    assert_eq!(
        client.run(&window, Some(&[1, 2, 3, 4, 5]), 60_000),
        Step::Wait
    );
    assert_eq!(client.seen, [1, 2, 3, 4, 5, 6]);
    assert!(client.gaps.is_empty());
}

#[test]
fn without_a_database_the_live_part_goes_on_behind_a_gap() {
    let window = window(8..=9);
    let mut client = Client::new(Start::After(Place::at(3)), &window);
    assert_eq!(client.run(&window, None, 0), Step::WaitFor(300));
    assert_eq!(client.run(&window, None, 5_000), Step::Wait);
    assert_eq!(client.seen, [8, 9]);
    assert_eq!(
        client.gaps,
        [r#"{"from":3,"to":8,"reason":"database_down"}"#]
    );

    // What the window covers needs no database.
    let mut client = Client::new(Start::After(Place::at(8)), &window);
    assert_eq!(client.run(&window, None, 0), Step::Wait);
    assert_eq!(client.seen, [9]);
    assert!(client.gaps.is_empty());
}

#[test]
fn a_client_ahead_of_the_relay_gets_nothing_twice() {
    let mut window = window([]);
    let mut client = Client::new(Start::First, &window);
    client.run(&window, Some(&[1, 2, 3, 4]), 0);
    for seq_no in 1..=5 {
        window.offer(&chat(1, seq_no), true);
    }
    assert_eq!(client.run(&window, Some(&[1, 2, 3, 4]), 1), Step::Wait);
    assert_eq!(client.seen, [1, 2, 3, 4, 5]);
}

#[test]
fn a_slow_client_is_cut_by_bytes() {
    let large = |seq_no| chat(1, seq_no).replace("hi", &"x".repeat(100_000));
    let mut window = Window::new(ROOM);
    window.offer(&large(1), true);
    let mut client = Client::new(Start::Now, &window);
    assert_eq!(client.run(&window, None, 0), Step::Wait);
    for seq_no in 2..=20 {
        window.offer(&large(seq_no), true);
    }
    // 1.9 MB behind: allowed, in chunks of one large event.
    let Step::Write(chunk) = client.feed.step(&window, 0, 0) else {
        panic!("still within the bound");
    };
    assert!(chunk.len() < 110_000);
    for seq_no in 21..=30 {
        window.offer(&large(seq_no), true);
    }
    assert_eq!(client.feed.step(&window, 0, 0), Step::Cut);

    // Behind the window's front as well.
    let mut client = Client::new(Start::Now, &window);
    client.run(&window, None, 0);
    for seq_no in 31..=90 {
        window.offer(&large(seq_no), true);
    }
    assert_eq!(client.feed.step(&window, 0, 0), Step::Cut);
}

#[test]
fn chunks_gather_small_events_and_stay_small() {
    let mut window = window([1]);
    let mut feed = Feed::new(ROOM, Start::After(Place::at(1)), None, &window, 0);
    while matches!(feed.step(&window, 0, 0), Step::Write(_)) {}
    for seq_no in 2..=1_000 {
        window.offer(&chat(1, seq_no), true);
    }
    let mut writes = 0;
    let mut events = 0;
    while let Step::Write(text) = feed.step(&window, 0, 0) {
        assert!(text.len() <= CHUNK_BYTES);
        events += text.matches("\ndata: ").count();
        writes += 1;
    }
    assert_eq!(events, 999);
    assert!((3..=8).contains(&writes), "{writes}");
}

#[test]
fn a_notice_comes_before_everything() {
    let window = window(1..=2);
    let notice = Gap {
        from: 99,
        to: 0,
        reason: GapReason::NewBroadcast,
    };
    let mut feed = Feed::new(ROOM, Start::First, Some(notice), &window, 0);
    let Step::Write(text) = feed.step(&window, 0, 0) else {
        panic!("greets first");
    };
    assert!(
        text.ends_with("event: gap\ndata: {\"from\":99,\"to\":0,\"reason\":\"new_broadcast\"}\n\n")
    );
}

#[test]
fn an_inferred_streak_end_that_came_from_the_database_is_not_sent_again() {
    let late = serde_json::json!({
        "eventId": EventId::new(ROOM, 5, "GiftStreakTimeout"),
        "sessionId": "00000000-0000-0000-0000-000000000001",
        "seqNo": 5,
        "payload": {"rawType": "GiftStreakTimeout"},
    })
    .to_string();
    let mut window = window(5..=7);
    window.offer(&late, true);
    let mut feed = Feed::new(ROOM, Start::First, None, &window, 0);
    assert!(matches!(feed.step(&window, 0, 0), Step::Write(_)));
    assert_eq!(feed.step(&window, 0, 0), Step::Read(None));
    let text = feed
        .rows(&[(5, chat(1, 5)), (5, late.clone()), (6, chat(1, 6))], 0)
        .unwrap();
    assert_eq!(text.matches("GiftStreakTimeout").count(), 1);
    let Step::Write(text) = feed.step(&window, 0, 0) else {
        panic!("7 is left");
    };
    assert_eq!(text.matches("\ndata: ").count(), 1, "{text}");
    assert_eq!(feed.step(&window, 0, 0), Step::Wait);
}
