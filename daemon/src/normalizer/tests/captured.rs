//! Every message of the fixtures against what an independent decoder reads.

use std::collections::BTreeSet;

use prost::Message as _;
use serde_json::{Value, json};
use shared::raw::RawData;

use super::check::Check;
use super::fixtures::{Case, ROOMS, capture, encoded};
use crate::normalizer::{Contract, normalize};
use crate::proto::header;
use crate::proto::webcast::ChatMessage;

#[test]
fn every_captured_message_says_what_was_sent() {
    let contract = Contract::new().unwrap();
    let mut types = BTreeSet::new();
    for room in ROOMS {
        for case in capture(room) {
            let event = says_what_was_sent(&contract, &case).unwrap();
            types.insert(event["eventType"].as_str().unwrap().to_owned());
        }
    }
    // All but those that only we send, and subscriptions, of which nobody has a capture.
    let seen: Vec<&str> = types.iter().map(String::as_str).collect();
    assert_eq!(
        seen,
        [
            "BATTLE",
            "CHAT",
            "EMOTE",
            "FOLLOW",
            "GIFT",
            "JOIN",
            "LIKE",
            "RAW",
            "ROOM_USER",
            "SHARE",
            "STREAM_END"
        ]
    );
}

#[test]
fn every_encoded_payload_says_what_was_sent() {
    let contract = Contract::new().unwrap();
    for case in encoded() {
        says_what_was_sent(&contract, &case);
    }
}

/// Holds what becomes of a message against everything that the fixtures expect of it; its event,
/// if it is to have one.
pub(super) fn says_what_was_sent(contract: &Contract, case: &Case) -> Option<Value> {
    if case.expected["error"] == true {
        let rejection = normalize(&case.envelope).unwrap_err();
        assert_eq!(rejection.reason.as_str(), "PARSE_ERROR", "{}", case.name);
        return None;
    }
    let event = event(contract, case);
    if case.expected.get("facts").is_some() {
        Check::new(&case.name, &case.expected, &event).all(case);
    }
    for (hint, pointer, words) in [
        (
            "streak",
            "/payload/streak/state",
            &[
                ("progress", json!("progress")),
                ("final", json!("final")),
                ("single", json!("single")),
            ][..],
        ),
        (
            "social",
            "/eventType",
            &[
                ("follow", json!("FOLLOW")),
                ("share", json!("SHARE")),
                ("other", json!("RAW")),
            ],
        ),
        ("battle", "/payload/status", &[("open", json!("started"))]),
        (
            "superFan",
            "/payload/banner/kind",
            &[("join", json!("superFanJoined"))],
        ),
    ] {
        if let Some(hint) = case.expected.get(hint) {
            let (_, wanted) = words.iter().find(|(word, _)| hint == word).unwrap();
            assert_eq!(event.pointer(pointer), Some(wanted), "{}", case.name);
        }
    }
    if let Some(end) = case.expected.get("end") {
        assert_eq!(
            event["eventType"] == "STREAM_END",
            end == true,
            "{}",
            case.name
        );
    }
    Some(event)
}

#[test]
fn unknown_fields_change_nothing() {
    let contract = Contract::new().unwrap();
    let mut case = super::fixtures::payload("payload-odd-unknown-fields.bin");
    let with = event(&contract, &case);
    assert_eq!(with["payload"]["message"], "intact");
    assert_eq!(with["user"]["username"], "viewer_90");

    let known = ChatMessage::decode(case.payload()).unwrap().encode_to_vec();
    assert!(known.len() < case.payload().len());
    case.envelope.data = RawData::Protobuf(known);
    assert_eq!(event(&contract, &case), with);
}

#[test]
fn a_field_of_another_kind_does_not_cost_the_content() {
    let contract = Contract::new().unwrap();
    let case = super::fixtures::payload("payload-odd-wrong-wire-type.bin");
    let event = event(&contract, &case);
    assert_eq!(event["eventType"], "RAW");
    assert_eq!(event["payload"]["decoded"]["content"], "x");
}

#[test]
fn a_future_type_goes_through_raw_and_keeps_its_header() {
    let contract = Contract::new().unwrap();
    let case = super::fixtures::payload("payload-odd-future-type.bin");
    let event = event(&contract, &case);
    assert_eq!(event["eventType"], "RAW");
    assert_eq!(event["payload"]["rawType"], "WebcastAISummaryMessage");
    assert_eq!(event["payload"].get("decoded"), None);
    assert!(header(case.payload()).unwrap().msg_id.is_some());
}

/// Types whose facts the independent decoder leaves out; the values were read from the bytes.
#[test]
fn types_without_facts_are_decoded_too() {
    let contract = Contract::new().unwrap();
    let mixed = capture("mixed");
    let find = |number: i64| {
        mixed
            .iter()
            .find(|case| case.expected["i"] == number)
            .unwrap()
    };
    for (number, wanted) in [
        (
            280,
            json!({
                "totalLinkMicFanTicket": 661,
                "userFanTicketList": [{"userId": "6119506789669673155", "fanTicket": 661}],
            }),
        ),
        (
            195,
            json!({
                "battleId": "7286182985540389665", "channelId": "7286178276739926817",
                "opUid": "99329617381933185", "reason": 1, "startedAt": "2023-10-04T19:11:33.389Z",
            }),
        ),
        (266, json!({"taskMessageType": 1})),
        (
            209,
            json!({
                "battleId": "7286183620304538401", "msgType": 2, "anchorId": "6736685278408431907",
                "cardName": "pm_mt_boost_crit_name", "text": "Ydmqp sent 1 boosting glove",
                "sentAt": "2023-10-04T19:18:24.000Z", "effectSeconds": 30,
                "sendUserId": "7324744573622560111", "sendUserName": "Ydmqp",
            }),
        ),
        (
            71,
            json!({"actionType": 1, "operatorUserId": "7820086191820387810"}),
        ),
        (
            153,
            json!({"winners": [{
                "userId": "7678937695261667571",
                "text": "Congratulations! .bckokk_kcc just became the No. 1 LIVE creator of the last hour.",
            }]}),
        ),
    ] {
        let event = event(&contract, find(number));
        assert_eq!(event["payload"]["decoded"], wanted, "{number}");
    }
    let banner = event(&contract, find(301));
    let data = banner["payload"]["decoded"]["data"].as_str().unwrap();
    assert!(serde_json::from_str::<Value>(data).unwrap().is_object());

    let toast = event(&contract, &super::fixtures::payload("payload-toast.bin"));
    assert_eq!(
        toast["payload"]["decoded"],
        json!({
            "displayType": "pm_mt_toast", "displayText": "Be nice",
            "displayDuration": 3000, "delay": 0, "scene": "room",
        })
    );
}

/// The published JSON of a case.
fn event(contract: &Contract, case: &Case) -> Value {
    let event = normalize(&case.envelope).unwrap_or_else(|error| panic!("{}: {error}", case.name));
    let json = contract
        .json(&event)
        .unwrap_or_else(|error| panic!("{}: {error}", case.name));
    let event = serde_json::from_str(&json).unwrap();
    assert!(!has_null(&event), "{}: {json}", case.name);
    event
}

/// Absent fields are left out.
fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.iter().any(has_null),
        Value::Object(object) => object.values().any(has_null),
        _ => false,
    }
}
