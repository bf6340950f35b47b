use serde_json::json;

use super::*;

fn gift() -> UnifiedEvent {
    UnifiedEvent {
        schema_version: SchemaVersion::V1,
        event_id: EventId::new(
            "7301234567890123456",
            28_640_000_000_123,
            "WebcastGiftMessage",
        ),
        source: Source::Live,
        stream_id: "7301234567890123456".into(),
        session_id: Uuid::from_u128(1),
        seq_no: 28_640_000_000_123,
        timestamp: Timestamp::from_millis(1_763_800_000_250),
        ingested_at: Timestamp::from_millis(1_763_800_000_900),
        backlog: false,
        replay_of: None,
        user: Some(User {
            user_id: "6812345678901234567".into(),
            username: Some("alice".into()),
            ..User::default()
        }),
        payload: Payload::Gift(Box::new(Gift {
            raw_type: "WebcastGiftMessage".into(),
            gift_id: "5655".into(),
            gift_name: Some("Rose".into()),
            gift_count: 11,
            coins: Coins { unit: 1, total: 11 },
            image_url: None,
            streak: Streak {
                id: "6812345678901234567-5655-1".into(),
                state: StreakState::Final,
                inferred: false,
            },
            recipient: None,
        })),
    }
}

#[test]
fn json_has_the_shape_of_the_contract() {
    let event = gift();
    let json = serde_json::to_value(&event).unwrap();
    assert_eq!(
        json,
        json!({
            "schemaVersion": "unified-event.v1",
            "eventId": event.event_id.to_string(),
            "eventType": "GIFT",
            "source": "live",
            "streamId": "7301234567890123456",
            "sessionId": "00000000-0000-0000-0000-000000000001",
            "seqNo": 28_640_000_000_123_u64,
            "timestamp": "2025-11-22T08:26:40.250Z",
            "ingestedAt": "2025-11-22T08:26:40.900Z",
            "user": {
                "userId": "6812345678901234567",
                "username": "alice",
                "roles": {"moderator": false, "subscriber": false, "follower": false, "topGifter": false, "anchor": false},
            },
            "payload": {
                "rawType": "WebcastGiftMessage",
                "giftId": "5655",
                "giftName": "Rose",
                "giftCount": 11,
                "coins": {"unit": 1, "total": 11},
                "streak": {"id": "6812345678901234567-5655-1", "state": "final", "inferred": false},
            },
        })
    );
    assert_eq!(serde_json::from_value::<UnifiedEvent>(json).unwrap(), event);
}

#[test]
fn every_event_type_has_one_name() {
    for kind in EventType::ALL {
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        assert_eq!(EventType::from_name(kind.as_str()), Some(kind));
    }
    assert_eq!(EventType::from_name("chat"), None);
    assert_eq!(gift().payload.event_type(), EventType::Gift);
}

/// A reader of today must understand tomorrow's additive fields.
#[test]
fn unknown_fields_are_ignored() {
    let mut json = serde_json::to_value(gift()).unwrap();
    json["payload"]["sparkle"] = json!(true);
    json["shinyNewField"] = json!(1);
    assert_eq!(
        serde_json::from_value::<UnifiedEvent>(json).unwrap(),
        gift()
    );
}

/// The committed contract is what the types say. After a change on purpose run
/// `UPDATE_CONTRACTS=1 cargo test -p shared` and commit the result.
#[test]
fn the_committed_schema_is_current() {
    crate::schema::assert_current("unified-event.v1.schema.json", &json_schema());
}

#[test]
fn the_schema_knows_no_null() {
    let text = json_schema().to_string();
    assert!(
        !text.contains("\"null\""),
        "absent fields are left out, never null"
    );
}
