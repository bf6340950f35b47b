//! Bytes that nobody would send on purpose: nothing may panic, and every message ends as an event
//! that keeps the contract, or as a parse error.

use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use shared::event::{EventType, Payload};
use shared::raw::{RawData, control};

use super::fixtures::{Case, capture, encoded, envelope, payload};
use crate::normalizer::{Contract, Reason, normalize};
use crate::proto;

pub(super) static CONTRACT: LazyLock<Contract> = LazyLock::new(|| Contract::new().unwrap());
static ENCODED: LazyLock<Vec<Case>> = LazyLock::new(encoded);

/// Types with an event of their own: these may be refused, all others must pass.
const MAPPED: [&str; 12] = [
    "WebcastChatMessage",
    "WebcastGiftMessage",
    "WebcastLikeMessage",
    "WebcastMemberMessage",
    "WebcastSocialMessage",
    "WebcastSubNotifyMessage",
    "WebcastEmoteChatMessage",
    "WebcastLinkMicBattle",
    "WebcastLinkMicArmies",
    "WebcastBarrageMessage",
    "WebcastRoomUserSeqMessage",
    "WebcastControlMessage",
];

/// The outcome of any message is one of the two; returns whether it is an event.
pub(super) fn survives(kind: &str, bytes: Vec<u8>) -> bool {
    proto::header(&bytes);
    match normalize(&envelope(kind, RawData::Protobuf(bytes), 1)) {
        Ok(event) => {
            let json = CONTRACT.json(&event).unwrap();
            assert!(!json.contains("\\u0000"), "{json}");
            true
        }
        Err(rejection) => {
            assert_eq!(rejection.reason, Reason::ParseError);
            assert!(
                MAPPED.contains(&kind),
                "{kind} must pass as RAW: {rejection}"
            );
            false
        }
    }
}

pub(super) fn any_type() -> impl Strategy<Value = String> {
    let known: Vec<String> = ENCODED
        .iter()
        .map(|case| case.envelope.kind.clone())
        .collect();
    prop_oneof![
        4 => proptest::sample::select(known),
        2 => proptest::sample::select(MAPPED.map(str::to_owned).to_vec()),
        1 => "[A-Za-z0-9.\\PC]{1,40}".prop_filter("lifecycle is not protobuf", |kind| !kind.starts_with("ControlEvent.")),
    ]
}

proptest! {
    #[test]
    fn any_bytes_of_any_type(kind in any_type(), bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        survives(&kind, bytes);
    }

    #[test]
    fn a_damaged_message(
        index in any::<prop::sample::Index>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        keep in any::<prop::sample::Index>(),
        kind in prop::option::of(any_type()),
    ) {
        let case = index.get(&ENCODED);
        let mut bytes = case.payload().to_vec();
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        bytes.truncate(keep.index(bytes.len() + 1));
        survives(kind.as_ref().unwrap_or(&case.envelope.kind), bytes);
    }

    #[test]
    fn any_json_of_any_type(kind in "[A-Z][A-Za-z]{1,20}", text in any::<String>(), number in any::<f64>()) {
        let object = json!({&text: [number, &text, {"\0": null}]});
        let envelope = envelope(&kind, RawData::Json(object.as_object().unwrap().clone()), 1);
        let event = normalize(&envelope).unwrap();
        prop_assert!(!CONTRACT.json(&event).unwrap().contains("\\u0000"));
    }
}

#[test]
fn every_truncation_of_a_captured_message() {
    let cases = capture("room-b");
    let chat = cases
        .iter()
        .find(|case| case.envelope.kind == "WebcastChatMessage")
        .unwrap();
    let whole = chat.payload();
    let read = (0..whole.len())
        .filter(|&length| survives(&chat.envelope.kind, whole[..length].to_vec()))
        .count();
    assert!(
        read < whole.len() / 2,
        "most truncated messages are refused, not {read} read"
    );
}

#[test]
fn broken_text_costs_neither_the_message_nor_the_database() {
    let mut bytes = payload("payload-chat-plain.bin").payload().to_vec();
    let place = bytes.windows(5).position(|part| part == b"hello").unwrap();
    bytes[place] = 0xff;
    bytes[place + 1] = 0;
    let event = normalize(&envelope("WebcastChatMessage", RawData::Protobuf(bytes), 1)).unwrap();
    let Payload::Chat(chat) = &event.payload else {
        panic!("{event:?}")
    };
    assert_eq!(chat.message, "\u{fffd}\u{fffd}llo from the chat");
}

#[test]
fn numbers_below_nothing_are_nothing() {
    use prost::Message as _;
    let message = proto::webcast::RoomUserSeqMessage {
        total: -5,
        total_user: i64::MIN,
        anonymous: -1,
        ..Default::default()
    };
    let data = RawData::Protobuf(message.encode_to_vec());
    let event = normalize(&envelope("WebcastRoomUserSeqMessage", data, 1)).unwrap();
    let json: Value = serde_json::from_str(&CONTRACT.json(&event).unwrap()).unwrap();
    assert_eq!(
        json["payload"],
        json!({"rawType": "WebcastRoomUserSeqMessage", "viewerCount": 0, "totalViewers": 0})
    );
}

// ---- our own messages

fn lifecycle(kind: &str, data: &Value) -> Result<Value, Reason> {
    let object = data.as_object().cloned().unwrap_or_else(Map::new);
    match normalize(&envelope(kind, RawData::Json(object), 1)) {
        Ok(event) => Ok(serde_json::from_str(&CONTRACT.json(&event).unwrap()).unwrap()),
        Err(rejection) => Err(rejection.reason),
    }
}

#[test]
fn lifecycle_messages_become_their_events() {
    let connected = lifecycle(
        control::CONNECTED,
        &json!({
            "uniqueId": "ada.live", "provider": "direct", "attempt": 1, "reason": "start",
            "title": "Hello\0", "ownerId": "69", "ownerNickname": "Ada",
            "startedAt": "2026-11-22T15:00:00.000Z", "unknown": [1],
        }),
    )
    .unwrap();
    assert_eq!(connected["eventType"], "CONNECTED");
    assert_eq!(
        connected["payload"],
        json!({
            "rawType": "ControlEvent.CONNECTED",
            "uniqueId": "ada.live", "provider": "direct", "attempt": 1, "reason": "start",
            "title": "Hello\u{fffd}", "ownerId": "69", "ownerNickname": "Ada",
            "startedAt": "2026-11-22T15:00:00.000Z",
        })
    );
    let closed = json!({"provider": "direct", "attempt": 3, "reason": "closed", "closeCode": 1006, "detail": "reset"});
    let disconnected = lifecycle(control::DISCONNECTED, &closed).unwrap();
    assert_eq!(disconnected["eventType"], "DISCONNECTED");
    assert_eq!(disconnected["payload"]["closeCode"], 1006);
    assert_eq!(
        lifecycle(control::ERROR, &closed).unwrap()["eventType"],
        "ERROR"
    );
}

#[test]
fn a_gap_is_raw_and_says_what_is_missing() {
    let gap = lifecycle(
        control::GAP,
        &json!({"fromSeq": 5, "toSeq": 9, "reason": "spool_full", "count": 5}),
    )
    .unwrap();
    assert_eq!(gap["eventType"], EventType::Raw.as_str());
    assert_eq!(
        gap["payload"]["decoded"],
        json!({"from": 5, "to": 9, "reason": "spool_full", "count": 5})
    );
    assert_eq!(gap["payload"]["raw"]["fromSeq"], 5);
}

#[test]
fn a_lifecycle_message_without_its_fields_is_refused() {
    let bad = json!({"provider": "direct", "attempt": "first", "reason": "start"});
    assert_eq!(lifecycle(control::CONNECTED, &bad), Err(Reason::ParseError));
    assert_eq!(
        lifecycle(control::ERROR, &json!({})),
        Err(Reason::ParseError)
    );
    let bytes = envelope(control::GAP, RawData::Protobuf(vec![]), 1);
    assert_eq!(normalize(&bytes).unwrap_err().reason, Reason::ParseError);
}
