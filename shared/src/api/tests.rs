use serde_json::json;

use super::*;

const ROOM: &str = "7301234567890123456";

#[test]
fn a_cursor_comes_back_from_its_text() {
    for (seq_no, nth) in [(0, 0), (28_640_000_000_123, 0), (MAX_SEQ_NO, 3)] {
        let cursor = Cursor {
            stream_id: ROOM.into(),
            seq_no,
            nth,
        };
        let text = cursor.to_string();
        assert!(text.len() <= MAX_CURSOR_LENGTH);
        assert!(
            text.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'),
            "fits into a header and a query as it is: {text}"
        );
        assert_eq!(text.parse::<Cursor>().unwrap(), cursor);
        assert_eq!(serde_json::to_value(&cursor).unwrap(), json!(text));
        assert_eq!(
            serde_json::from_value::<Cursor>(json!(text)).unwrap(),
            cursor
        );
    }
}

/// Clients keep cursors over an update of the server: the form may not change under them.
#[test]
fn the_text_of_a_cursor_is_pinned() {
    assert_eq!(
        Cursor::new(ROOM, 28_640_000_000_123).to_string(),
        "MS43MzAxMjM0NTY3ODkwMTIzNDU2LjI4NjQwMDAwMDAwMTIz"
    );
}

#[test]
fn what_is_no_cursor_is_refused() {
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    for bad in [
        String::new(),
        "start".into(),
        "!".into(),
        encode("1.7301"),
        encode("2.7301.5"),
        encode("1.room.5"),
        encode("1.7301.-5"),
        encode("1.7301.+5"),
        encode("1.7301.05"),
        encode("1.7301.5.0"),
        encode("1.7301.5.1.1"),
        encode("1.7301.9007199254740992"),
        encode(&format!("1.7301.5{}", " ".repeat(200))),
        format!("{}=", encode("1.7301.5")),
        URL_SAFE_NO_PAD.encode([0xff, 0xfe]),
        encode("1s.5.7301"),
    ] {
        assert_eq!(bad.parse::<Cursor>(), Err(InvalidCursor), "{bad}");
    }
}

#[test]
fn a_list_cursor_is_good_for_its_list_only() {
    let streams = ListCursor {
        list: List::Streams,
        micros: 1_763_800_000_250_001,
        id: ROOM.into(),
    };
    let sessions = ListCursor {
        list: List::Sessions,
        micros: -1,
        id: Uuid::from_u128(7).to_string(),
    };
    for (cursor, other) in [(streams, List::Sessions), (sessions, List::Streams)] {
        let text = cursor.to_string();
        assert_eq!(ListCursor::parse(&text, cursor.list).unwrap(), cursor);
        assert_eq!(ListCursor::parse(&text, other), Err(InvalidCursor));
        assert_eq!(text.parse::<Cursor>(), Err(InvalidCursor));
    }
    for bad in [
        "1s.5.room",
        "1c.5.7301",
        "1s.x.7301",
        "1s.5",
        "1x.5.7301",
        "1s.05.7301",
    ] {
        let text = URL_SAFE_NO_PAD.encode(bad);
        assert_eq!(text.parse::<ListCursor>(), Err(InvalidCursor), "{bad}");
    }
}

#[test]
fn documents_leave_absent_fields_out() {
    let page = StreamPage {
        items: vec![StreamSummary {
            stream_id: ROOM.into(),
            username: Some("alice".into()),
            display_name: None,
            title: None,
            status: StreamStatus::Live,
            started_at: Timestamp::from_millis(1_763_800_000_250),
            ended_at: None,
            end_reason: None,
            last_event_at: Timestamp::from_millis(1_763_800_000_900),
            event_count: 0,
        }],
        next: None,
    };
    assert_eq!(
        serde_json::to_value(&page).unwrap(),
        json!({"items": [{
            "streamId": ROOM,
            "username": "alice",
            "status": "live",
            "startedAt": "2025-11-22T08:26:40.250Z",
            "lastEventAt": "2025-11-22T08:26:40.900Z",
            "eventCount": 0,
        }]})
    );
    let problem = Problem {
        kind: "urn:ttlc:problem:bad-parameter".into(),
        title: "bad parameter".into(),
        status: 400,
        detail: "limit is 1 to 200".into(),
        field: Some("limit".into()),
    };
    assert_eq!(
        serde_json::to_value(&problem).unwrap(),
        json!({
            "type": "urn:ttlc:problem:bad-parameter",
            "title": "bad parameter",
            "status": 400,
            "detail": "limit is 1 to 200",
            "field": "limit",
        })
    );
}

#[test]
fn every_status_has_one_name() {
    for status in StreamStatus::ALL {
        assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
        assert_eq!(StreamStatus::from_name(status.as_str()), Some(status));
    }
    assert_eq!(StreamStatus::from_name("LIVE"), None);
}

/// The committed contract is what the types say. After a change on purpose run
/// `UPDATE_CONTRACTS=1 cargo test -p shared` and commit the result.
#[test]
fn the_committed_schema_is_current() {
    crate::schema::assert_current("api.v1.schema.json", &json_schema());
}

#[test]
fn the_schema_holds_every_document_and_no_null() {
    let schema = json_schema();
    for name in [
        "Health",
        "StreamSummary",
        "StreamPage",
        "Session",
        "SessionPage",
        "EventPage",
        "UnifiedEvent",
        "Problem",
        "Heartbeat",
        "Gap",
    ] {
        assert!(schema["$defs"][name].is_object(), "{name}");
    }
    assert!(!schema.to_string().contains("\"null\""));
}
