//! What an event must say, by what another decoder reads from the same bytes.
//!
//! In: a stored row, the message it came from, and the line of `*.expected.ndjson` for that
//! message. Out: nothing, or a panic that names the difference. The table of event types is
//! written here a second time, from the design and not from the daemon.

use std::collections::{BTreeMap, HashMap};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::Value;
use upstream::{Sent, patch};

use crate::{product::fixtures, rows::Row};

/// The expected lines of a capture.
pub(crate) fn of_capture(name: &str) -> Vec<Value> {
    let path = fixtures().join(format!("captures/{name}.expected.ndjson"));
    let text = std::fs::read_to_string(path).expect("expected values");
    text.lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

/// The event type that a message must get.
pub(crate) fn event_type(expected: &Value) -> &'static str {
    let facts = &expected["facts"];
    match expected["type"].as_str().unwrap_or_default() {
        "WebcastChatMessage" => "CHAT",
        "WebcastGiftMessage" => "GIFT",
        "WebcastLikeMessage" => "LIKE",
        "WebcastMemberMessage" => "JOIN",
        "WebcastEmoteChatMessage" => "EMOTE",
        "WebcastLinkMicBattle" | "WebcastLinkMicArmies" | "WebcastBarrageMessage" => "BATTLE",
        "WebcastRoomUserSeqMessage" => "ROOM_USER",
        "WebcastSubNotifyMessage" => "SUBSCRIBE",
        "WebcastControlMessage" if matches!(number(&facts["action"]), 3 | 4) => "STREAM_END",
        "WebcastSocialMessage" => {
            let key = expected["common"]["textKey"].as_str().unwrap_or_default();
            match (key, number(&facts["action"])) {
                (key, _) if key.contains("follow") => "FOLLOW",
                (key, _) if key.contains("share") => "SHARE",
                (key, _) if key.contains("subscribe") => "SUBSCRIBE",
                ("", 1) => "FOLLOW",
                ("", 3) => "SHARE",
                _ => "RAW",
            }
        }
        _ => "RAW",
    }
}

/// What the messages of all rooms have said so far, as far as later ones depend on it.
#[derive(Default)]
pub(crate) struct Memory {
    /// The highest total of likes of a room.
    likes: HashMap<String, i64>,
    /// By room, sender, gift and group: the highest count, and whether the streak is over.
    streaks: HashMap<[String; 4], (i64, bool)>,
}

/// Checks one row against the message it came from; each room's in their order.
pub(crate) fn check(row: &Row, sent: &Sent, expected: &Value, memory: &mut Memory) {
    let context = format!("{} line {:?}: {:#}", sent.creator, sent.line, row.event);
    assert_eq!(
        expected["type"],
        sent.method.as_str(),
        "the fixture's lines match: {context}"
    );
    assert_eq!(
        row.raw, sent.payload,
        "the payload is kept as it came: {context}"
    );
    assert_eq!(row.stream_id, sent.room_id.to_string(), "{context}");
    assert_eq!(row.event_type, event_type(expected), "{context}");
    assert_eq!(row.payload()["rawType"], sent.method.as_str(), "{context}");
    check_time(row, sent, &context);
    check_user(row, &expected["user"], &context);
    check_payload(row, sent, expected, memory, &context);
}

fn check_time(row: &Row, sent: &Sent, context: &str) {
    let time = |key: &str| -> i64 {
        let text = row.event[key].as_str().unwrap_or_default();
        text.parse::<jiff::Timestamp>()
            .expect("RFC 3339")
            .as_millisecond()
    };
    let created = patch::header(&sent.payload).unwrap_or_default().create_time;
    match created {
        0 => assert_eq!(
            time("timestamp"),
            time("ingestedAt"),
            "no time of its own: {context}"
        ),
        seconds if seconds < 100_000_000_000 => {
            assert_eq!(time("timestamp"), seconds * 1000, "{context}");
        }
        millis => assert_eq!(time("timestamp"), millis, "{context}"),
    }
}

fn check_user(row: &Row, expected: &Value, context: &str) {
    let user = &row.event["user"];
    let id = expected["userId"].as_str().unwrap_or("0");
    if id == "0" {
        assert!(
            user.is_null() || row.event_type == "RAW",
            "nobody did it: {context}"
        );
        return;
    }
    if user.is_null() {
        // Where a type without an event type of its own keeps its user is its own business.
        assert_eq!(row.event_type, "RAW", "user is missing: {context}");
        return;
    }
    assert_eq!(user["userId"], id, "{context}");
    for key in ["username", "displayName", "avatarUrl"] {
        assert_eq!(
            text(&user[key]),
            text(&expected[key]),
            "user.{key}: {context}"
        );
    }
    for key in ["followerCount", "followingCount"] {
        assert_eq!(
            number(&user[key]),
            number(&expected[key]),
            "user.{key}: {context}"
        );
    }
    for role in ["moderator", "subscriber"] {
        assert_eq!(
            user["roles"][role], expected[role],
            "user.roles.{role}: {context}"
        );
    }
    let badges = |value: &Value| -> BTreeMap<i64, i64> {
        let mut highest = BTreeMap::new();
        for badge in list(value) {
            let level = highest.entry(number(&badge["scene"])).or_default();
            *level = number(&badge["level"]).max(*level);
        }
        highest
    };
    assert_eq!(
        badges(&user["badges"]),
        badges(&expected["badges"]),
        "user.badges: {context}"
    );
}

fn check_payload(row: &Row, sent: &Sent, expected: &Value, memory: &mut Memory, context: &str) {
    let payload = row.payload();
    let facts = &expected["facts"];
    let same_number = |key: &str, fact: &Value| {
        assert_eq!(
            number(&payload[key]),
            number(fact),
            "payload.{key}: {context}"
        );
    };
    let same_text = |key: &str, fact: &Value| {
        assert_eq!(text(&payload[key]), text(fact), "payload.{key}: {context}");
    };
    match row.event_type.as_str() {
        "CHAT" => {
            same_text("message", &facts["content"]);
            same_text("language", &facts["contentLanguage"]);
            let ids = |emotes: &Value| -> Vec<String> {
                list(emotes)
                    .iter()
                    .map(|emote| text(&emote["emoteId"]).to_owned())
                    .collect()
            };
            assert_eq!(ids(&payload["emotes"]), ids(&facts["emotes"]), "{context}");
        }
        "GIFT" => {
            let key = [
                row.stream_id.as_str(),
                text(&expected["user"]["userId"]),
                text(&facts["giftId"]),
                text(&facts["groupId"]),
            ];
            let streak = memory.streaks.entry(key.map(str::to_owned)).or_default();
            check_gift(payload, facts, streak, context);
        }
        "LIKE" => {
            same_number("count", &facts["count"]);
            // Upstream it jumps back and forth.
            let total = memory.likes.entry(row.stream_id.clone()).or_default();
            *total = number(&facts["total"]).max(*total);
            assert_eq!(number(&payload["total"]), *total, "{context}");
        }
        "JOIN" => {
            same_number("memberCount", &facts["memberCount"]);
            same_number("action", &facts["action"]);
        }
        "FOLLOW" => same_number("followCount", &facts["followCount"]),
        "SHARE" => same_number("shareCount", &facts["shareCount"]),
        "EMOTE" => {
            let emotes = |value: &Value| -> Vec<(String, String)> {
                let both = |emote: &Value| {
                    (
                        text(&emote["emoteId"]).to_owned(),
                        text(&emote["imageUrl"]).to_owned(),
                    )
                };
                list(value).iter().map(both).collect()
            };
            assert!(!list(&payload["emotes"]).is_empty(), "{context}");
            assert_eq!(
                emotes(&payload["emotes"]),
                emotes(&facts["emotes"]),
                "{context}"
            );
        }
        "ROOM_USER" => {
            same_number("viewerCount", &facts["total"]);
            same_number("totalViewers", &facts["totalUser"]);
            let ranks = |value: &Value, score: &str| -> Vec<(i64, i64, String, String)> {
                let one = |rank: &Value| {
                    let (id, name) = (text(&rank["userId"]), text(&rank["username"]));
                    (
                        number(&rank["rank"]),
                        number(&rank[score]),
                        id.to_owned(),
                        name.to_owned(),
                    )
                };
                list(value).iter().map(one).collect()
            };
            assert_eq!(
                ranks(&payload["topViewers"], "coins"),
                ranks(&facts["ranks"], "score"),
                "{context}"
            );
        }
        "BATTLE" if sent.method != "WebcastBarrageMessage" => {
            same_text("battleId", &facts["battleId"]);
            check_sides(payload, facts, context);
        }
        "BATTLE" => {
            assert_eq!(payload["kind"], "barrage", "{context}");
            let banner = &payload["banner"];
            assert_eq!(
                number(&banner["number"]),
                number(&facts["msgType"]),
                "{context}"
            );
            assert_eq!(
                text(&banner["displayType"]),
                text(&facts["contentKey"]),
                "{context}"
            );
        }
        "STREAM_END" => same_number("action", &facts["action"]),
        "RAW" => {
            assert_eq!(
                payload["raw"],
                BASE64_STANDARD.encode(&sent.payload),
                "{context}"
            );
        }
        other => panic!("no capture holds {other}: {context}"),
    }
}

fn check_gift(payload: &Value, facts: &Value, streak: &mut (i64, bool), context: &str) {
    let said = number(&facts["repeatCount"]).max(1) * number(&facts["groupCount"]).max(1);
    let can_streak = number(&facts["gift"]["type"]) == 1;
    let (highest, over) = streak;
    // Counts come out of order; what comes after the end says only what it says.
    let (count, state) = match (can_streak, *over, number(&facts["repeatEnd"])) {
        (false, ..) => (said, "single"),
        (true, true, _) => (said, "progress"),
        (true, false, end) => {
            *highest = said.max(*highest);
            *over = end == 1;
            (*highest, if end == 1 { "final" } else { "progress" })
        }
    };
    let gift = &facts["gift"];
    assert_eq!(
        text(&payload["giftId"]),
        text(&facts["giftId"]),
        "{context}"
    );
    assert_eq!(text(&payload["giftName"]), text(&gift["name"]), "{context}");
    assert_eq!(
        text(&payload["imageUrl"]),
        text(&gift["imageUrl"]),
        "{context}"
    );
    assert_eq!(number(&payload["giftCount"]), count, "{context}");
    assert_eq!(
        number(&payload["coins"]["unit"]),
        number(&gift["diamondCount"]),
        "{context}"
    );
    let total = number(&gift["diamondCount"]) * count;
    assert_eq!(number(&payload["coins"]["total"]), total, "{context}");
    assert_eq!(payload["streak"]["state"], state, "{context}");
    assert_eq!(payload["streak"]["inferred"], false, "{context}");
}

/// Hosts with their scores, whichever of the three places of a battle message has them.
fn check_sides(payload: &Value, facts: &Value, context: &str) {
    let mut expected: BTreeMap<String, i64> = BTreeMap::new();
    if let Some(armies) = facts["armies"].as_object() {
        expected.extend(
            armies
                .iter()
                .map(|(id, army)| (id.clone(), number(&army["score"]))),
        );
    }
    for army in list(&facts["armies"]) {
        expected.insert(text(&army["key"]).to_owned(), number(&army["score"]));
    }
    if let Some(result) = facts["result"].as_object() {
        expected.extend(
            result
                .iter()
                .map(|(id, side)| (id.clone(), number(&side["score"]))),
        );
    }
    // In a team battle each side has its own score and the fixtures have the team's.
    let sides = list(&payload["sides"]);
    let score = |host: &str| -> Option<i64> {
        let side = sides.iter().find(|side| side["userId"] == host)?;
        let team = &side["teamId"];
        let mates = sides
            .iter()
            .filter(|mate| mate["userId"] == host || (!team.is_null() && mate["teamId"] == *team));
        Some(mates.map(|mate| number(&mate["score"])).sum())
    };
    for (host, expected) in expected {
        assert_eq!(score(&host), Some(expected), "score of {host}: {context}");
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A text; absent is empty.
fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A number, as the fixtures write it (64 bits as a string); absent is 0.
fn number(value: &Value) -> i64 {
    match value {
        Value::String(digits) => digits.parse().expect("a number"),
        Value::Bool(yes) => i64::from(*yes),
        other => other.as_i64().unwrap_or_default(),
    }
}
