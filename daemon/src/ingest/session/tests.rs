use shared::raw::control;

use super::*;

/// A message's header as the wire has it.
#[derive(Clone, PartialEq, prost::Message)]
struct Header {
    #[prost(string, tag = "1")]
    method: String,
    #[prost(int64, tag = "2")]
    msg_id: i64,
    #[prost(int64, tag = "4")]
    create_time: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WithHeader {
    #[prost(message, optional, tag = "1")]
    common: Option<Header>,
}

const NOW: i64 = 1_763_800_000_000;

fn at(ms: i64) -> Timestamp {
    Timestamp::from_millis(ms)
}

fn session() -> Session {
    Session::new("7301".to_owned(), None, at(NOW))
}

fn message(msg_id: i64, payload: Vec<u8>) -> BaseMessage {
    BaseMessage {
        method: "WebcastChatMessage".to_owned(),
        msg_id,
        payload: payload.into(),
        ..BaseMessage::default()
    }
}

/// A payload with a header; 0 is absent, as on the wire.
fn payload(msg_id: i64, create_time: i64) -> Vec<u8> {
    let common = Header {
        method: "WebcastChatMessage".to_owned(),
        msg_id,
        create_time,
    };
    WithHeader {
        common: Some(common),
    }
    .encode_to_vec()
}

fn control_message(action: i32) -> BaseMessage {
    let payload = ControlMessage {
        action,
        ..ControlMessage::default()
    }
    .encode_to_vec();
    BaseMessage {
        method: CONTROL.to_owned(),
        msg_id: i64::from(action) + 1,
        payload: payload.into(),
        ..BaseMessage::default()
    }
}

#[test]
fn numbers_are_contiguous_in_a_session_and_rise_over_all() {
    let mut session = session();
    let first = session.lifecycle(control::CONNECTED, &Lifecycle::default(), at(NOW));
    let second = session.take(message(1, vec![]), false, at(NOW)).unwrap();
    assert!(
        session.take(message(1, vec![]), false, at(NOW)).is_none(),
        "a repeat gets no number"
    );
    let third = session.take(message(2, vec![]), false, at(NOW)).unwrap();
    let base = u64::try_from(NOW).unwrap() * 16;
    assert_eq!(
        [first.seq_no, second.seq_no, third.seq_no],
        [base, base + 1, base + 2]
    );
    assert_eq!(first.session_id, third.session_id);

    // The clock went back a day: the numbers do not.
    session.renew(at(NOW - 86_400_000));
    assert_eq!(
        session.id(),
        first.session_id,
        "failed attempts are part of the session they begin"
    );
    assert!(!session.is_again());
    session.close();
    session.renew(at(NOW - 86_400_000));
    assert!(session.is_again());
    let next = session.lifecycle(control::CONNECTED, &Lifecycle::default(), at(NOW));
    assert_eq!(next.seq_no, base + 3);
    assert_ne!(next.session_id, first.session_id);
    session.close();
    session.renew(at(NOW + 1_000));
    assert_eq!(
        session
            .lifecycle(control::ERROR, &Lifecycle::default(), at(NOW))
            .seq_no,
        base + 16_000
    );

    let after_crash = Session::new("7301".to_owned(), Some(base + 20_000), at(NOW)).next_seq;
    assert_eq!(after_crash, base + 20_001, "what Redis remembers counts");
}

#[test]
fn a_repeat_is_dropped_also_after_a_reconnect() {
    let mut session = session();
    assert!(session.take(message(1, vec![1]), false, at(NOW)).is_some());
    session.close();
    session.renew(at(NOW));
    assert!(session.take(message(1, vec![1]), true, at(NOW)).is_none());
    assert_eq!(
        session.counts(),
        Counts {
            repeats: 1,
            ..Counts::default()
        }
    );
    let other_method = BaseMessage {
        method: "WebcastLikeMessage".to_owned(),
        ..message(1, vec![1])
    };
    assert!(
        session.take(other_method, false, at(NOW)).is_some(),
        "an id belongs to its method"
    );
}

#[test]
fn what_an_earlier_process_has_seen_is_a_repeat_too() {
    let mut session = session();
    session.remember(vec![("WebcastChatMessage".to_owned(), "5".to_owned())]);
    let mut is_new = |message| session.take(message, true, at(NOW)).is_some();
    assert!(!is_new(message(5, vec![])));
    assert!(!is_new(message(0, payload(5, 0))), "also by its header");
    assert!(is_new(message(6, vec![])));
}

#[test]
fn the_id_is_the_wrappers_else_the_headers_else_the_content() {
    let mut session = session();
    let mut id = |message| {
        session
            .take(message, false, at(NOW))
            .map(|envelope| envelope.msg_id)
    };
    assert_eq!(id(message(5, payload(6, 0))), Some(Some("5".to_owned())));
    assert_eq!(id(message(0, payload(6, 0))), Some(Some("6".to_owned())));
    assert_eq!(
        id(message(0, payload(6, 7))),
        None,
        "the same by its header"
    );
    assert_eq!(id(message(0, b"garbage".to_vec())), Some(None));
    assert_eq!(
        id(message(0, b"garbage".to_vec())),
        None,
        "the same by its content"
    );
    assert_eq!(id(message(0, b"other".to_vec())), Some(None));
}

#[test]
fn the_time_is_the_messages_own_within_a_day() {
    let mut session = session();
    let mut msg_id = 0;
    let mut time = |create_time| {
        msg_id += 1;
        session
            .take(message(msg_id, payload(0, create_time)), false, at(NOW))
            .unwrap()
            .timestamp
            .as_millis()
    };
    assert_eq!(time(NOW - 1_500), NOW - 1_500);
    assert_eq!(time(NOW + 300), NOW + 300, "upstream's clock may be ahead");
    assert_eq!(time(NOW / 1_000 - 5), NOW - 5_000, "seconds");
    assert_eq!(time(0), NOW, "none");
    assert_eq!(time(1), NOW - CLOCK_TOLERANCE, "1970");
    assert_eq!(time(i64::MAX), NOW + CLOCK_TOLERANCE);
    assert_eq!(time(i64::MIN), NOW - CLOCK_TOLERANCE);
    let unreadable = session
        .take(message(99, vec![0xff; 9]), false, at(NOW))
        .unwrap();
    assert_eq!(
        (unreadable.timestamp, unreadable.ingested_at),
        (at(NOW), at(NOW))
    );
}

#[test]
fn backlog_is_what_was_sent_before() {
    let mut session = session();
    assert!(
        !session
            .take(message(1, vec![]), false, at(NOW))
            .unwrap()
            .backlog
    );
    assert!(
        session
            .take(message(2, vec![]), true, at(NOW))
            .unwrap()
            .backlog
    );
    let history = BaseMessage {
        is_history: true,
        ..message(3, vec![])
    };
    assert!(session.take(history, false, at(NOW)).unwrap().backlog);
}

#[test]
fn only_the_end_actions_end_a_broadcast() {
    for action in [0, 1, 2, 5, 99] {
        let mut session = session();
        session
            .take(control_message(action), false, at(NOW))
            .unwrap();
        assert!(!session.has_ended(), "{action}");
    }
    for action in [3, 4] {
        let mut session = session();
        session
            .take(control_message(action), true, at(NOW))
            .unwrap();
        assert!(!session.has_ended(), "an end from before is over");
        let mut session = Session::new("7301".to_owned(), None, at(NOW));
        session
            .take(control_message(action), false, at(NOW))
            .unwrap();
        assert!(session.has_ended(), "{action}");
        session.close();
        session.renew(at(NOW));
        assert!(!session.has_ended());
    }
}

fn json(kind: &str, data: &serde_json::Value, sent_ms: i64) -> JsonMessage {
    let data = data.as_object().unwrap().clone();
    JsonMessage::new(kind.to_owned(), data, Some(sent_ms))
}

#[test]
fn a_message_is_the_same_by_way_of_json_and_of_protobuf() {
    let mut session = session();
    let chat = "WebcastChatMessage";
    let five = json(chat, &serde_json::json!({"common": {"msgId": "5"}}), NOW);
    let six = json(chat, &serde_json::json!({"event": {"msgId": 6}}), NOW);
    assert!(session.take(message(5, vec![]), false, at(NOW)).is_some());
    assert!(session.take_json(five, false, at(NOW)).is_none());
    let envelope = session.take_json(six, false, at(NOW)).unwrap();
    assert_eq!(envelope.msg_id.as_deref(), Some("6"));
    assert!(matches!(&envelope.data, RawData::Json(data) if data.contains_key("event")));
    assert!(session.take(message(6, vec![]), false, at(NOW)).is_none());
    session.close();
    session.renew(at(NOW));
    session.remember(vec![(chat.to_owned(), "7".to_owned())]);
    let seven = json(chat, &serde_json::json!({"msg_id": "7"}), NOW);
    assert!(session.take_json(seven, true, at(NOW)).is_none());
}

#[test]
fn json_without_an_id_is_told_apart_by_content_and_time() {
    let mut session = session();
    let mut is_new = |data: serde_json::Value, sent| {
        let message = json("WebcastEmoteChatMessage", &data, sent);
        session.take_json(message, false, at(NOW)).is_some()
    };
    let emote = serde_json::json!({"user": {"userId": "1"}, "emote": {"id": "a"}});
    assert!(is_new(emote.clone(), NOW));
    assert!(!is_new(emote.clone(), NOW), "the same frame again");
    assert!(is_new(emote.clone(), NOW + 1), "the same emote once more");
    let timed = serde_json::json!({"event": {"createTime": NOW}, "emote": {"id": "a"}});
    assert!(is_new(timed.clone(), NOW));
    assert!(
        !is_new(timed, NOW + 30_000),
        "sent again, with its own time"
    );
}

#[test]
fn the_time_of_json_is_its_own_else_the_senders_else_ours() {
    let mut session = session();
    let mut id = 0;
    let mut time = |create_time: serde_json::Value, sent| {
        id += 1;
        let data = serde_json::json!({"common": {"msgId": id, "createTime": create_time}});
        let data = data.as_object().unwrap().clone();
        let message = JsonMessage::new("X".to_owned(), data, sent);
        let envelope = session.take_json(message, false, at(NOW)).unwrap();
        envelope.timestamp.as_millis()
    };
    assert_eq!(time((NOW - 900).into(), Some(NOW - 100)), NOW - 900);
    assert_eq!(time((NOW / 1000 - 5).to_string().into(), None), NOW - 5_000);
    assert_eq!(time("0".into(), Some(NOW - 100)), NOW - 100);
    assert_eq!(time("0".into(), None), NOW);
    assert_eq!(time(1.into(), None), NOW - CLOCK_TOLERANCE);
    assert_eq!(time(i64::MAX.into(), None), NOW + CLOCK_TOLERANCE);
}

#[test]
fn json_ends_the_broadcast_and_tells_history_too() {
    let control = |action: i32, more: serde_json::Value| {
        let mut data = serde_json::json!({"action": action});
        data["isHistory"] = more;
        json(CONTROL, &data, NOW)
    };
    for (action, history, ended) in [(1, false, false), (3, true, false), (3, false, true)] {
        let mut session = session();
        let message = control(action, history.into());
        let envelope = session.take_json(message, false, at(NOW)).unwrap();
        assert_eq!(envelope.backlog, history);
        assert_eq!(session.has_ended(), ended, "{action} {history}");
    }
    let mut session = session();
    let elsewhere = json(
        "WebcastSocialMessage",
        &serde_json::json!({"action": 3}),
        NOW,
    );
    session.take_json(elsewhere, false, at(NOW)).unwrap();
    assert!(!session.has_ended(), "3 is a share there");
}

#[test]
fn lifecycle_data_leaves_out_what_is_absent() {
    let data = Lifecycle {
        unique_id: "alice".to_owned(),
        provider: "direct",
        attempt: 1,
        reason: "closed",
        close_code: Some(1006),
        started_at: Some(at(NOW)),
        ..Lifecycle::default()
    };
    let envelope = session().lifecycle(control::DISCONNECTED, &data, at(NOW));
    let RawData::Json(object) = envelope.data else {
        panic!("not JSON")
    };
    assert_eq!(
        serde_json::Value::Object(object),
        serde_json::json!({
            "uniqueId": "alice", "provider": "direct", "attempt": 1, "reason": "closed",
            "closeCode": 1006, "startedAt": "2025-11-22T08:26:40.000Z",
        })
    );
    assert_eq!(envelope.kind, "ControlEvent.DISCONNECTED");
}

#[tokio::test(start_paused = true)]
async fn the_memory_is_bounded_in_number_and_in_time() {
    let mut seen = Seen::default();
    let key = |number: usize| {
        let mut key = Key::default();
        key[..8].copy_from_slice(&number.to_be_bytes());
        key
    };
    for number in 0..REMEMBERED + 10 {
        assert!(seen.is_new(key(number)));
    }
    assert_eq!(
        (seen.keys.len(), seen.order.len()),
        (REMEMBERED, REMEMBERED)
    );
    assert!(!seen.is_new(key(REMEMBERED + 9)) && !seen.is_new(key(100)));
    assert!(seen.is_new(key(0)), "the oldest are forgotten first");
    tokio::time::advance(REMEMBERED_FOR + Duration::from_secs(1)).await;
    assert!(seen.is_new(key(REMEMBERED + 9)));
    assert_eq!((seen.keys.len(), seen.order.len()), (1, 1));
}
