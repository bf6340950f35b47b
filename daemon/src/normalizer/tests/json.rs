//! JSON against protobuf: the same content gives the same event, whichever way it came.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use shared::raw::{Envelope, RawData};

use super::fixtures::{ROOMS, capture, encoded, euler};
use crate::normalizer::decode::{Kind, SHAPES, shape_of};
use crate::normalizer::{Contract, normalize};
use crate::proto::{Value as Part, Wire};

/// The published event without `raw`, which keeps the form in which the message came.
fn event(contract: &Contract, envelope: &Envelope) -> Value {
    let event = normalize(envelope).unwrap();
    let mut event: Value = serde_json::from_str(&contract.json(&event).unwrap()).unwrap();
    event["payload"].as_object_mut().unwrap().remove("raw");
    event
}

/// Where two values differ: the way to it, with `*` for any place in a list, and how.
fn differences(path: &str, wanted: &Value, found: &Value, all: &mut BTreeSet<String>) {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => {
            let names: BTreeSet<&String> = wanted.keys().chain(found.keys()).collect();
            for name in names {
                let path = format!("{path}/{name}");
                match (wanted.get(name), found.get(name)) {
                    (Some(wanted), Some(found)) => differences(&path, wanted, found, all),
                    (Some(_), None) => drop(all.insert(format!("{path} is missing"))),
                    _ => drop(all.insert(format!("{path} is too much"))),
                }
            }
        }
        (Value::Array(wanted), Value::Array(found)) if wanted.len() == found.len() => {
            for (wanted, found) in wanted.iter().zip(found) {
                differences(&format!("{path}/*"), wanted, found, all);
            }
        }
        // The same picture on another of TikTok's servers.
        (Value::String(wanted), Value::String(found))
            if wanted.replace("//p16-", "//p19-") == *found && wanted != found =>
        {
            all.insert(format!("{path}: p19-sign for p16-sign"));
        }
        _ if wanted != found => drop(all.insert(format!("{path}: {found} for {wanted}"))),
        _ => {}
    }
}

/// How the events of a version's JSON differ from those of the same content as protobuf.
fn differences_of(version: u8) -> BTreeSet<String> {
    let contract = Contract::new().unwrap();
    let payloads = encoded();
    let mut all = BTreeSet::new();
    let messages = euler(&format!("encoded-v{version}.ndjson"));
    assert!(messages.len() > 20, "{}", messages.len());
    for (mut json, fixture) in messages {
        let fixture = fixture.unwrap();
        let case = payloads.iter().find(|case| case.name == fixture).unwrap();
        json.seq_no = case.envelope.seq_no;
        assert_eq!(json.kind, case.envelope.kind);
        let wanted = event(&contract, &case.envelope);
        let name = fixture
            .strip_prefix("payload-")
            .unwrap()
            .strip_suffix(".bin")
            .unwrap();
        differences(name, &wanted, &event(&contract, &json), &mut all);
    }
    all
}

/// Fails on a difference that is not in the list, and on a line of the list that is none (any more).
fn are(found: &BTreeSet<String>, known: &[&str]) {
    let known: BTreeSet<String> = known.iter().map(|&line| line.to_owned()).collect();
    let news: Vec<_> = found.difference(&known).collect();
    let gone: Vec<_> = known.difference(found).collect();
    assert!(
        news.is_empty() && gone.is_empty(),
        "new: {news:#?}, gone: {gone:#?}"
    );
}

#[test]
fn version_3_gives_the_same_events() {
    are(&differences_of(3), &[]);
}

#[test]
fn version_2_lacks_only_what_its_schema_lacks() {
    are(
        &differences_of(2),
        &[
            // Field 50 is not in it.
            "barrage-superfan-joined/user is missing",
            // Emotes have one address, and the last one of the list stays.
            "chat-emotes/payload/emotes/*/imageUrl: p19-sign for p16-sign",
            // The schema takes it for a number.
            "room-message/payload/decoded/scene is missing",
        ],
    );
}

#[test]
fn version_1_lacks_only_what_its_schema_lacks() {
    are(
        &differences_of(1),
        &[
            // Armies: points per side and who gave; nothing about the battle.
            "armies/payload/battleId is missing",
            "armies/payload/durationSeconds is missing",
            "armies/payload/startedAt is missing",
            "armies/payload/sides/*/contributors/*/avatarUrl is missing",
            "armies/payload/sides/*/contributors/*/score: 0 for 250",
            "armies/payload/sides/*/contributors/*/score: 0 for 95",
            // Barrage: `msgType` and `content`.
            "barrage-grade-join/payload/banner/level is missing",
            "barrage-grade-join/user is missing",
            "barrage-superfan-joined/payload/banner/displayType is missing",
            "barrage-superfan-joined/payload/banner/kind: \"other\" for \"superFanJoined\"",
            "barrage-superfan-joined/payload/banner/text is missing",
            "barrage-superfan-joined/user is missing",
            // Battle: the hosts.
            "battle-open/payload/battleId is missing",
            "battle-open/payload/durationSeconds is missing",
            "battle-open/payload/startedAt is missing",
            "battle-open/payload/status: \"other\" for \"started\"",
            // Pictures have one address, and the last one of the list stays.
            "chat-emotes/payload/emotes/*/imageUrl: p19-sign for p16-sign",
            "emote/payload/emotes/*/imageUrl: p19-sign for p16-sign",
            "gift-single-type4/payload/imageUrl: p19-sign for p16-sign",
            "gift-streak-1/payload/imageUrl: p19-sign for p16-sign",
            "gift-streak-5/payload/imageUrl: p19-sign for p16-sign",
            "gift-streak-5-end/payload/imageUrl: p19-sign for p16-sign",
            // Control: `action`.
            "control-pause/payload/decoded/source is missing",
            // Emote: no standing of the sender; what the account itself says differs here.
            "emote/user/friend is too much",
            "emote/user/roles/follower: true for false",
            "emote/user/roles/subscriber: false for true",
            // Treasure box: coins, openers and time; no header.
            "envelope/payload/decoded/businessType: 0 for 1",
            "envelope/payload/decoded/display: 0 for 1",
            "envelope/payload/decoded/displayText is missing",
            "envelope/payload/decoded/displayType is missing",
            "envelope/payload/decoded/envelopeId is missing",
            "envelope/payload/decoded/sendUserId is missing",
            "envelope/payload/decoded/sendUserName is missing",
            "member-join/payload/memberCount: 0 for 1629",
            "question/payload/decoded/createdAt is missing",
            "question/payload/decoded/questionId is missing",
            "room-user-seq/payload/anonymousViewers is missing",
            "room-user-seq/payload/totalViewers: 0 for 20481",
            // Social: the display type; no numbers, and texts without their pieces.
            "social-follow/payload/followCount is missing",
            "social-repost/payload/decoded/action: 0 for 4",
            "social-repost/payload/decoded/displayText: \"{0:user} reposted\" for \"Viewer 48 reposted\"",
            "social-share/payload/shareCount is missing",
            "social-share/payload/shareTarget is missing",
        ],
    );
}

/// A message as the newest schema's JSON, made of its bytes by the table alone: names folded,
/// numbers as texts.
fn as_json(bytes: &[u8], shape: usize) -> Map<String, Value> {
    let shape = &SHAPES[shape];
    let mut object = Map::new();
    let mut wire = Wire(bytes);
    while let Some((number, value)) = wire.field() {
        let Some(place) = shape
            .fields
            .iter()
            .position(|field| u64::from(field.number) == number)
        else {
            continue;
        };
        let field = &shape.fields[place];
        let values = match (&field.kind, value) {
            (Kind::Number, Part::Number(number)) => {
                vec![Value::from(number.cast_signed().to_string())]
            }
            (Kind::Number, Part::Bytes(packed)) if field.repeated => {
                let mut numbers = Vec::new();
                let mut packed = Wire(packed);
                while let Some(number) = packed.number() {
                    numbers.push(Value::from(number.cast_signed().to_string()));
                }
                numbers
            }
            (Kind::Bytes, Part::Bytes(text)) => vec![String::from_utf8_lossy(text).into()],
            (Kind::Message(inner), Part::Bytes(bytes)) => {
                vec![Value::Object(as_json(bytes, *inner))]
            }
            _ => continue,
        };
        let (name, ..) = shape
            .names
            .iter()
            .find(|name| (name.1, name.2) == (place, 0))
            .unwrap();
        if field.repeated {
            let list = object.entry(*name).or_insert_with(|| json!([]));
            list.as_array_mut().unwrap().extend(values);
        } else if let Some(value) = values.into_iter().next_back() {
            object.insert((*name).to_owned(), value);
        }
    }
    object
}

#[test]
fn every_captured_message_is_the_same_as_json() {
    let contract = Contract::new().unwrap();
    let mut compared = 0;
    for room in ROOMS {
        for case in capture(room) {
            let kind = &case.envelope.kind;
            let Some(shape) = shape_of(kind.strip_prefix("Webcast").unwrap_or(kind)) else {
                continue;
            };
            let mut as_json_too = case.envelope.clone();
            as_json_too.data = RawData::Json(as_json(case.payload(), shape));
            let wanted = event(&contract, &case.envelope);
            assert_eq!(event(&contract, &as_json_too), wanted, "{}", case.name);
            compared += 1;
        }
    }
    assert!(compared > 900, "{compared}");
}
