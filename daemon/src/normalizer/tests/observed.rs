//! What Euler really sent in 2026: every message as an event in `snapshots/`, and the facts that
//! matter, written by hand.

use serde_json::{Value, json};
use shared::raw::Envelope;

use super::fixtures::euler;
use crate::normalizer::{Contract, normalize};

fn events() -> Vec<(Envelope, Value)> {
    let contract = Contract::new().unwrap();
    let messages = euler("observed-v2.ndjson")
        .into_iter()
        .map(|(envelope, _)| {
            let event = normalize(&envelope).unwrap();
            let event = serde_json::from_str(&contract.json(&event).unwrap()).unwrap();
            (envelope, event)
        });
    messages.collect()
}

#[test]
fn every_observed_message_is_an_event() {
    let events = events();
    assert_eq!(events.len(), 19);
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.set_snapshot_path("snapshots/observed");
    settings.bind(|| {
        for (envelope, mut event) in events {
            let shown = event.as_object_mut().unwrap();
            // The same in all of them.
            for name in [
                "eventId",
                "ingestedAt",
                "schemaVersion",
                "seqNo",
                "sessionId",
            ] {
                shown.remove(name).unwrap();
            }
            for name in ["source", "streamId", "timestamp"] {
                shown.remove(name).unwrap();
            }
            // The object that came in.
            if let Some(raw) = shown["payload"].as_object_mut().unwrap().remove("raw") {
                assert_eq!(raw.to_string(), envelope.data.to_text());
            }
            let kind = envelope
                .kind
                .strip_prefix("Webcast")
                .unwrap_or(&envelope.kind);
            insta::assert_json_snapshot!(format!("{:02}_{kind}", envelope.seq_no), event);
        }
    });
}

#[test]
fn the_facts_are_those_that_were_sent() {
    let events = events();
    let fact = |number: usize, pointer: &str| events[number].1.pointer(pointer).cloned();
    for (number, pointer, wanted) in [
        (1, "/eventType", json!("CHAT")),
        (
            1,
            "/payload/message",
            json!("1-year warranty covers most parts; message seller Aovopro for assistance"),
        ),
        (1, "/user/userId", json!("7707048738676809447")),
        (1, "/user/username", json!("ldhhkot468")),
        (1, "/user/roles/moderator", json!(true)),
        (1, "/user/roles/follower", json!(true)),
        // `repeatEnd` is a flag here, ids and counts are texts, and the gift has no price.
        (2, "/payload/streak/state", json!("final")),
        (2, "/payload/giftId", json!("5655")),
        (2, "/payload/giftName", json!("Rose")),
        (2, "/payload/giftCount", json!(1)),
        // And here numbers.
        (3, "/payload/streak/state", json!("progress")),
        (
            3,
            "/payload/streak/id",
            json!("6225481683204970871-5655-1773511422618"),
        ),
        (3, "/payload/giftId", json!("5655")),
        (3, "/payload/coins", json!({"unit": 1, "total": 1})),
        (4, "/payload/decoded/subGoals/0/progress", json!(14)),
        (4, "/payload/decoded/subGoals/0/target", json!(15)),
        (4, "/payload/decoded/contributors/0/score", json!(2151)),
        (6, "/eventType", json!("LIKE")),
        (6, "/payload/count", json!(15)),
        (6, "/payload/total", json!(48_523)),
        (
            7,
            "/payload/decoded/channelId",
            json!("7870633037671117806"),
        ),
        (8, "/payload/kind", json!("armies")),
        (8, "/payload/status", json!("scores")),
        (8, "/payload/battleId", json!("7617174402200554261")),
        (8, "/payload/sides/0/userId", json!("6896776054679886794")),
        (8, "/payload/sides/0/score", json!(259)),
        (8, "/payload/sides/0/contributors/1/score", json!(64)),
        (8, "/payload/sides/1/score", json!(268)),
        (9, "/payload/status", json!("started")),
        (9, "/payload/durationSeconds", json!(301)),
        (9, "/payload/sides/1/username", json!("qdi.trjs.kl")),
        (10, "/payload/decoded/reason", json!(1)),
        (11, "/payload/decoded/totalLinkMicFanTicket", json!(57)),
        (
            11,
            "/payload/decoded/userFanTicketList/0",
            json!({"userId": "7612976771521641557", "fanTicket": 57}),
        ),
        (12, "/eventType", json!("JOIN")),
        (12, "/payload/memberCount", json!(1629)),
        (13, "/payload/viewerCount", json!(1629)),
        (14, "/eventType", json!("RAW")),
        (14, "/payload/decoded/action", json!(4)),
        (15, "/eventType", json!("FOLLOW")),
        (15, "/payload/followCount", json!(36_845)),
        (16, "/payload/raw/roomInfo/id", json!("7164879801181075400")),
        (17, "/payload/raw/agentId", json!("sign-agent-14")),
        (18, "/payload/raw/schemaVersion", json!("v2")),
    ] {
        assert_eq!(fact(number, pointer), Some(wanted), "{number} {pointer}");
    }
    // The one who leads has a name but no id: nobody that could be told apart.
    assert_eq!(fact(13, "/payload/topViewers"), None);
}
