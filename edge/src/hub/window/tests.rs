use super::*;

pub(crate) const ROOM: &str = "7301234567890123456";

/// A chat message of session `session` with this number.
pub(crate) fn chat(session: u128, seq_no: u64) -> String {
    event(session, seq_no, "WebcastChatMessage")
}

fn event(session: u128, seq_no: u64, kind: &str) -> String {
    serde_json::json!({
        "eventId": EventId::new(ROOM, seq_no, kind),
        "sessionId": Uuid::from_u128(session),
        "seqNo": seq_no,
        "payload": {"rawType": kind, "message": "hi"},
    })
    .to_string()
}

/// The places of all that a reader would get from the entry with this number on.
fn places(window: &Window, from: u64) -> Vec<(u64, u32)> {
    (from..window.next_number())
        .map(|number| {
            let place = window.get(number).unwrap().place;
            (place.seq_no, place.nth)
        })
        .collect()
}

#[test]
fn events_keep_their_order_and_repeats_are_dropped() {
    let mut window = Window::new(ROOM);
    for seq_no in [5, 6, 7] {
        assert_eq!(window.offer(&chat(1, seq_no), true), Offer::Taken);
    }
    // The relay delivers at least once.
    for seq_no in [5, 6, 7] {
        assert_eq!(window.offer(&chat(1, seq_no), true), Offer::Repeat);
    }
    assert_eq!(window.offer(&chat(1, 8), true), Offer::Taken);
    // A new connection begins far above; that is no hole.
    assert_eq!(window.offer(&chat(2, 1_000), true), Offer::Taken);
    assert_eq!(
        places(&window, 0),
        [(5, 0), (6, 0), (7, 0), (8, 0), (1_000, 0)]
    );
    assert_eq!(window.offer("{\"seqNo\":9}", true), Offer::Unreadable);
    assert_eq!(window.offer("", true), Offer::Unreadable);
}

#[test]
fn an_inferred_streak_end_keeps_its_own_turn() {
    let mut window = Window::new(ROOM);
    for seq_no in [5, 6, 7] {
        window.offer(&chat(1, seq_no), true);
    }
    let late = event(1, 5, STREAK_TIMEOUT);
    assert_eq!(window.offer(&late, true), Offer::Taken);
    assert_eq!(window.offer(&late, true), Offer::Repeat);
    assert_eq!(window.offer(&chat(1, 8), true), Offer::Taken);
    assert_eq!(places(&window, 0), [(5, 0), (6, 0), (7, 0), (7, 1), (8, 0)]);
    // Who has 7 still lacks it; who has it too does not.
    assert_eq!(window.join(Place::at(7)), Some(3));
    assert_eq!(window.join(Place { seq_no: 7, nth: 1 }), Some(4));
}

#[test]
fn a_hole_is_closed_from_the_database_in_order() {
    let mut window = Window::new(ROOM);
    window.offer(&chat(1, 5), true);
    assert_eq!(window.offer(&chat(1, 9), true), Offer::Hole);
    assert_eq!(window.offer(&chat(1, 10), true), Offer::Taken);
    assert_eq!(places(&window, 0), [(5, 0)], "nothing overtakes");
    assert_eq!(
        window.hole(),
        Some(Hole {
            from: Place::at(5),
            to: 9
        })
    );

    assert!(!window.fill(&[(6, chat(1, 6))]), "not stored up to 9 yet");
    assert_eq!(places(&window, 0), [(5, 0), (6, 0)]);
    assert_eq!(window.hole().unwrap().from, Place::at(6));
    // 7 was a dead letter: it is nowhere, and 9 is stored.
    assert!(window.fill(&[(8, chat(1, 8)), (9, chat(1, 9))]));
    assert_eq!(window.hole(), None);
    assert_eq!(
        places(&window, 0),
        [(5, 0), (6, 0), (8, 0), (9, 0), (10, 0)]
    );
    assert_eq!(window.offer(&chat(1, 9), true), Offer::Repeat);
}

#[test]
fn a_second_hole_waits_for_the_first() {
    let mut window = Window::new(ROOM);
    window.offer(&chat(1, 5), true);
    window.offer(&chat(1, 7), true);
    window.offer(&chat(1, 8), true);
    window.offer(&chat(1, 12), true);
    window.offer(&chat(1, 13), true);
    assert!(window.fill(&[(6, chat(1, 6)), (7, chat(1, 7))]));
    assert_eq!(places(&window, 0), [(5, 0), (6, 0), (7, 0), (8, 0)]);
    assert_eq!(
        window.hole(),
        Some(Hole {
            from: Place::at(8),
            to: 12
        })
    );
    window.give_up(GapReason::NotStored);
    assert_eq!(
        places(&window, 4),
        [(8, 1), (12, 0), (13, 0)],
        "the gap has its own turn"
    );
    let gap = window.get(4).unwrap();
    assert_eq!(gap.event_id, None);
    assert_eq!(
        gap.frame,
        "event: gap\ndata: {\"from\":8,\"to\":12,\"reason\":\"not_stored\"}\n\n"
    );
}

#[test]
fn a_hole_does_not_hold_without_bound() {
    let mut window = Window::new(ROOM);
    window.max_bytes = 4_000;
    window.offer(&chat(1, 5), true);
    for seq_no in 10..30 {
        window.offer(&chat(1, seq_no), true);
    }
    assert_eq!(window.hole(), None, "given up");
    assert_eq!(window.last(), Some(Place::at(29)));
    assert_eq!(window.held_bytes, 0);
}

#[test]
fn without_readers_the_window_begins_anew_behind_a_hole() {
    let mut window = Window::new(ROOM);
    window.offer(&chat(1, 5), false);
    assert_eq!(window.offer(&chat(1, 9), false), Offer::Taken);
    assert_eq!(window.front(), Some(Place::at(9)));
    assert_eq!(
        window.join(Place::at(5)),
        None,
        "6 to 8 are in the database"
    );
    assert_eq!(window.join(Place::at(8)), Some(1));
}

#[test]
fn memory_is_bounded_in_bytes() {
    let mut window = Window::new(ROOM);
    window.max_bytes = 3_000;
    for seq_no in 1..100 {
        window.offer(&chat(1, seq_no), true);
    }
    let held: usize = window.entries.iter().map(|entry| entry.frame.len()).sum();
    assert!(held <= 3_000, "{held}");
    assert!(window.entries.len() > 5);
    assert_eq!(window.next_number(), 99);
    assert_eq!(window.get(0).map(|entry| entry.place), None);
    assert_eq!(window.bytes_from(window.first_number()), held as u64);

    // One event larger than the bound is kept all the same: somebody must get it.
    let large = chat(1, 100).replace("hi", &"x".repeat(5_000));
    window.offer(&large, true);
    assert_eq!(window.entries.len(), 1);
}

#[test]
fn a_reader_joins_where_nothing_can_be_missing() {
    let mut window = Window::new(ROOM);
    assert_eq!(window.join(Place::at(1)), None);
    window.offer(&chat(1, 5), true);
    window.offer(&chat(1, 6), true);
    assert_eq!(window.join(Place::at(3)), None, "4 may have been");
    assert_eq!(window.join(Place::at(4)), Some(0));
    assert_eq!(window.join(Place::at(5)), Some(1));
    assert_eq!(window.join(Place::at(6)), Some(2));
    assert_eq!(window.join(Place::at(9)), Some(2), "ahead of the relay");

    // What fell out is known to be followed by what is here, over a session's border too.
    let mut window = Window::new(ROOM);
    window.max_bytes = 700;
    window.offer(&chat(1, 5), true);
    window.offer(&chat(2, 500), true);
    window.offer(&chat(2, 501), true);
    window.offer(&chat(2, 502), true);
    assert!(window.first_number() > 0);
    let floor = window.floor.unwrap();
    assert_eq!(window.join(floor), Some(window.first_number()));
}
