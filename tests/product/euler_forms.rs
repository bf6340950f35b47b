//! Euler as the first choice: whole captures in each schema version and as TikTok's own frames
//! give the events that the same messages give over TikTok's own socket.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use anyhow::ensure;
use serde_json::Value;
use upstream::{Capture, Creator, Form, Pace, Provider, Script};

use crate::{
    daemon::{Daemon, PATIENCE},
    expected,
    faults::ms,
    product::{Product, fixtures},
    stores::{Stores, until},
    watch::{Raw, check, lived, raw},
};

const CAPTURE: &str = "room-a";
const KEY: &str = "a-key-for-tests";

/// How each daemon asks for it: as whom, and the settings.
const WAYS: [(&str, [(&str, &str); 2]); 5] = [
    (
        "v1",
        [
            ("EULER_SCHEMA_VERSION", "v1"),
            ("EULER_RAW_MESSAGES", "off"),
        ],
    ),
    (
        "v2",
        [
            ("EULER_SCHEMA_VERSION", "v2"),
            ("EULER_RAW_MESSAGES", "off"),
        ],
    ),
    (
        "v3",
        [
            ("EULER_SCHEMA_VERSION", "auto"),
            ("EULER_RAW_MESSAGES", "off"),
        ],
    ),
    (
        "frames",
        [
            ("EULER_SCHEMA_VERSION", "auto"),
            ("EULER_RAW_MESSAGES", "on"),
        ],
    ),
    (
        "direct",
        [("INGEST_PROVIDER", "direct"), ("INGEST_FALLBACK", "off")],
    ),
];

/// What the stand-in does not say in v3.
const UNSAID: [&str; 3] = [
    "WebcastGoalUpdateMessage/payload/decoded/contributors/*/avatarUrl is missing",
    "WebcastGoalUpdateMessage/payload/decoded/subGoals/*/giftImageUrl is missing",
    "WebcastGoalUpdateMessage/payload/decoded/subGoals/*/giftName is missing",
];

/// What does not depend on the room and on how the message came.
fn content(event: &Value) -> Value {
    let mut payload = event["payload"].clone();
    let fields = payload.as_object_mut().expect("an object");
    // The form in which it came.
    fields.remove("raw");
    if let Some(streak) = fields.get_mut("streak").and_then(Value::as_object_mut) {
        // Named after the room.
        streak.remove("id");
    }
    serde_json::json!({
        "eventType": event["eventType"],
        "user": event["user"]["userId"],
        "name": event["user"]["username"],
        "roles": event["user"]["roles"],
        "payload": payload,
    })
}

fn kind(event: &Value) -> String {
    let kind = event["payload"]["rawType"].as_str();
    kind.unwrap_or_default().to_owned()
}

fn get<'a>(fields: &'a serde_json::Map<String, Value>, name: &str) -> &'a Value {
    fields.get(name).unwrap_or(&Value::Null)
}

/// Where an event differs from the one that is wanted, `*` for any place in a list.
fn compare(path: &str, wanted: &Value, found: &Value, unlike: &mut BTreeSet<String>) {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => {
            for name in wanted.keys().chain(found.keys()) {
                let path = format!("{path}/{name}");
                compare(&path, get(wanted, name), get(found, name), unlike);
            }
        }
        (Value::Array(wanted), Value::Array(found)) if wanted.len() == found.len() => {
            for (wanted, found) in wanted.iter().zip(found) {
                compare(&format!("{path}/*"), wanted, found, unlike);
            }
        }
        _ if wanted == found => {}
        (_, Value::Null) => drop(unlike.insert(format!("{path} is missing"))),
        _ => drop(unlike.insert(format!("{path}: {found} for {wanted}"))),
    }
}

/// The events of one creator by the message they came from.
async fn events(
    product: &Product,
    envelopes: &[Arc<Raw>],
    creator: &str,
) -> anyhow::Result<HashMap<usize, Value>> {
    let room = product.upstream.sent();
    let room: Vec<_> = room.iter().filter(|sent| sent.creator == creator).collect();
    let lines: HashMap<_, _> = room
        .iter()
        .filter_map(|sent| Some((sent.msg_id, sent.line?)))
        .collect();
    let stream = room
        .first()
        .map(|sent| sent.room_id.to_string())
        .unwrap_or_default();
    let numbers: HashMap<_, _> = envelopes
        .iter()
        .filter(|entry| entry.room == stream)
        .filter_map(|entry| Some((entry.seq_no, entry.msg_id?)))
        .collect();
    let mut found = HashMap::new();
    for entry in product.stores.entries("ttlc:events").await? {
        let event: Value = serde_json::from_str(&entry["event"])?;
        let seq_no = event["seqNo"].as_u64().expect("a number");
        if event["streamId"] != stream.as_str()
            || event["payload"]["rawType"] == "GiftStreakTimeout"
        {
            continue;
        }
        if let Some(line) = numbers.get(&seq_no).and_then(|id| lines.get(id)) {
            let twice = found.insert(*line, event);
            ensure!(twice.is_none(), "line {line} twice: {twice:?}");
        }
    }
    Ok(found)
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_captures_arrive_in_every_schema_version_and_as_frames() {
    let capture = Capture::read(&fixtures().join(format!("captures/{CAPTURE}.ndjson"))).unwrap();
    let mut script = WAYS.iter().fold(Script::new(), |script, (name, _)| {
        script.creator(Creator::plays(name, capture.clone()))
    });
    // Envelopes, single messages, lists, as text and as binary, in turn.
    script.euler.form = Form::Mixed;
    // What has no id in v1 is told apart by its content and Euler's time, in milliseconds.
    script.pace = Pace::Every(ms(15));
    script.euler.keys = vec![KEY.to_owned()];
    let settings = [("INGEST_PROVIDER", "euler"), ("EULER_API_KEY", KEY)];
    let stores = Stores::redis_only().await;
    let mut product = Product::prepare(script, stores, &[], &settings).await;
    let daemons: Vec<Daemon> = WAYS
        .iter()
        .map(|(name, settings)| {
            let settings = [&[("TIKTOK_UNIQUE_ID", *name)], settings.as_slice()].concat();
            product.another("ingest", &settings).0
        })
        .collect();
    for (name, _) in WAYS {
        product.played(name).await;
        let (provider, end) = match name {
            "direct" => ("direct", "DISCONNECTED closed"),
            _ => ("euler", "DISCONNECTED stream_end"),
        };
        let life = lived(&product, name, &["CONNECTED start", end]).await;
        for (_, says, _) in life {
            assert_eq!(says["provider"], provider, "{name}");
        }
    }
    // From here on entries are trimmed once they are normalized.
    let envelopes = raw(&product.stores).await.unwrap();
    check(&envelopes);
    product.start_stage("normalizer");
    until(PATIENCE, async || {
        let groups = product.stores.groups("ttlc:raw").await?;
        ensure!(
            groups
                .iter()
                .any(|group| group.pending == 0 && group.lag == Some(0)),
            "{groups:?}"
        );
        Ok(())
    })
    .await;

    let facts = expected::of_capture(CAPTURE);
    let wanted = events(&product, &envelopes, "direct").await.unwrap();
    assert_eq!(wanted.len(), 241, "all of it came directly");
    let sent = product.upstream.sent();
    for (name, _) in &WAYS[..4] {
        // Of what has no id in its version it only counts how many there are.
        let found = events(&product, &envelopes, name).await.unwrap();
        let mut unlike = BTreeSet::new();
        for (line, event) in &found {
            let (found, wanted) = (content(event), content(&wanted[line]));
            if ["v3", "frames"].contains(name) {
                compare(&kind(event), &wanted, &found, &mut unlike);
            } else {
                // Older versions leave fields out; what they say is the same.
                for key in ["eventType", "user"] {
                    assert_eq!(found[key], wanted[key], "{name} line {line}");
                }
                for key in ["message", "giftId", "giftCount", "coins", "count"] {
                    let (found, wanted) = (&found["payload"][key], &wanted["payload"][key]);
                    assert_eq!(found, wanted, "{key} of {name} line {line}");
                }
            }
        }
        let unlike: Vec<_> = unlike.iter().map(String::as_str).collect();
        let known = if *name == "v3" {
            UNSAID.as_slice()
        } else {
            &[]
        };
        assert_eq!(unlike, known, "{name}");
        let mut delivered: BTreeMap<&str, usize> = BTreeMap::new();
        let mut ids = HashSet::new();
        for one in product.upstream.deliveries() {
            if one.creator == *name && ids.insert(one.msg_id) {
                assert_eq!(one.provider, Provider::Euler);
                let line = sent
                    .iter()
                    .find(|sent| sent.creator == *name && sent.msg_id == one.msg_id);
                let line = line.and_then(|sent| sent.line).expect("a line");
                *delivered
                    .entry(expected::event_type(&facts[line]))
                    .or_default() += 1;
            }
        }
        let room = sent
            .iter()
            .find(|sent| sent.creator == *name)
            .unwrap()
            .room_id
            .to_string();
        let own = ["ControlEvent", "GiftStreakTimeout"];
        let mut became: BTreeMap<String, usize> = BTreeMap::new();
        for entry in product.stores.entries("ttlc:events").await.unwrap() {
            let event: Value = serde_json::from_str(&entry["event"]).unwrap();
            let kind = event["payload"]["rawType"].as_str().unwrap();
            if event["streamId"] == room.as_str() && !own.iter().any(|name| kind.starts_with(name))
            {
                let kind = event["eventType"].as_str().unwrap().to_owned();
                *became.entry(kind).or_default() += 1;
            }
        }
        let became: BTreeMap<_, _> = became
            .iter()
            .map(|(kind, count)| (kind.as_str(), *count))
            .collect();
        if *name == "v1" {
            // The capture has two equal viewer counts in one frame, and nothing in v1 tells that
            // they are two.
            let count = delivered.get_mut("ROOM_USER").expect("viewer counts");
            *count = became["ROOM_USER"].max(*count - 1).min(*count);
        }
        assert_eq!(became, delivered, "{name}");
        let total: usize = delivered.values().sum();
        let least = match *name {
            "frames" => 241,
            "v1" => 120,
            _ => 165,
        };
        assert!(total >= least, "{name}: {total} of {least}");
    }
    let letters = product.stores.entries("ttlc:dlq").await.unwrap();
    assert!(letters.is_empty(), "{letters:?}");
    assert!(product.upstream.arrived(KEY));
    for daemon in daemons {
        assert!(daemon.stop().unwrap().success());
    }
    product.stop();
}
