use proptest::prelude::*;
use serde_json::json;

use super::*;

const ID: &str = "6812345678901234567";
const AT: i64 = 1_763_800_000_000;

/// As the function `erasure_trace` of the database makes it; a test of the storage writer holds the two
/// against each other.
fn trace(kind: &str, wanted: &[u8]) -> Trace {
    let roll = wanted.iter().fold(0_u64, |roll, byte| {
        (roll * 257 + u64::from(*byte)) % 2_147_483_647
    });
    Trace {
        kind: kind.into(),
        bytes: wanted.len(),
        roll: u32::try_from(roll).unwrap(),
        hash: hex::encode(Sha256::digest(wanted)),
    }
}

fn erased(traces: &[(&str, &[u8])]) -> Tombstones {
    let one = Tombstone {
        user_hash: hex::encode(user_hash(ID)),
        erased_at: Timestamp::from_millis(AT),
        traces: traces
            .iter()
            .map(|(kind, wanted)| trace(kind, wanted))
            .collect(),
    };
    Tombstones::new(1, &[one])
}

fn zoe() -> Tombstones {
    erased(&[
        ("id", ID.as_bytes()),
        ("word", b"zoe_9"),
        ("word", "zoë".as_bytes()),
        ("at", b"@al"),
        ("plain", b"tos-avt/f00d"),
        ("bytes", &[0x87, 0x96, 0xa5, 0xb4]),
    ])
}

fn entry(user: &str, payload: &Value, raw: &str) -> HashMap<String, String> {
    let event = json!({"schemaVersion": "unified-event.v1", "eventId": EventId::new("7301", 5, "X").to_string(),
        "eventType": "CHAT", "source": "live", "streamId": "7301", "seqNo": 5,
        "sessionId": "00000000-0000-0000-0000-000000000007",
        "timestamp": Timestamp::from_millis(AT), "ingestedAt": Timestamp::from_millis(AT + 5),
        "user": {"userId": user, "roles": {}}, "payload": payload});
    HashMap::from([
        ("event".to_owned(), event.to_string()),
        ("raw".to_owned(), raw.to_owned()),
    ])
}

#[test]
fn a_text_loses_the_viewer_and_nothing_else() {
    for (text, clean) in [
        ("hi @Zoe_9!", "hi @[erased]!"),
        ("ZOE_9 zoe_9", "[erased] [erased]"),
        ("zoe_99 xzoe_9 zoe_9x", "zoe_99 xzoe_9 zoe_9x"),
        ("Zoë", "[erased]"),
        ("al @al @alice", "al [erased] @alice"),
        (
            "https://a.b/tos-avt/f00d~c5.webp?x=1",
            "https://a.b/[erased]~c5.webp?x=1",
        ),
        ("6812345678901234567:5655", "[erased]:5655"),
        ("16812345678901234567", "16812345678901234567"),
        ("日本zoe_9日本", "日本[erased]日本"),
        ("", ""),
    ] {
        let mut value = json!([text]);
        let changed = zoe().scrub(&mut value, AT);
        assert_eq!(value, json!([clean]));
        assert_eq!(changed, text != clean, "{text}");
    }
}

#[test]
fn an_object_with_the_id_is_about_the_viewer() {
    let mut value = json!({"sides": [
        {"userId": ID, "displayName": "Q", "result": "win", "score": 3, "contributors": [{"userId": "5", "displayName": "Q"}]},
        {"userId": "6", "displayName": "Q"}]});
    assert!(zoe().scrub(&mut value, AT));
    assert_eq!(
        value,
        json!({"sides": [
            {"userId": "[erased]", "displayName": "[erased]", "result": "win", "score": 3,
                "contributors": [{"userId": "5", "displayName": "Q"}]},
            {"userId": "6", "displayName": "Q"}]})
    );
    assert!(!zoe().scrub(&mut value, AT), "twice is like once");
}

#[test]
fn what_is_later_is_not_looked_at() {
    let tombstones = zoe();
    assert!(tombstones.concern(AT) && !tombstones.concern(AT + 1));
    assert!(tombstones.own(ID, AT) && !tombstones.own(ID, AT + 1) && !tombstones.own("5", AT));
    assert!(!tombstones.in_text("zoe_9", AT + 1));
    assert!(!Tombstones::default().concern(i64::MIN));
}

#[test]
fn raw_data_is_searched_as_bytes_and_as_json() {
    let tombstones = zoe();
    for (data, named) in [
        (STANDARD.encode(b"\x12\x05zoe_92"), true),
        (STANDARD.encode([0x10, 0x87, 0x96, 0xa5, 0xb4, 0x01]), true),
        (STANDARD.encode([0x10, 0x87, 0x96, 0xa5, 0xb5, 0x01]), false),
        (r#"{"who":"zo\u00eb"}"#.to_owned(), true),
        (r#"{"who":"zo"}"#.to_owned(), false),
        (r#"{"who":6812345678901234567}"#.to_owned(), true),
        ("not base64, zoe_9".to_owned(), true),
    ] {
        assert_eq!(tombstones.in_data(&data, AT), named, "{data}");
    }
}

#[test]
fn an_own_event_becomes_a_gap_and_anothers_is_rewritten() {
    let tombstones = zoe();
    let say = |text: &str| json!({"rawType": "X", "message": text});
    let Verdict::Own(gap) = tombstones.judge(&entry(ID, &say("secret"), "AAEC")) else {
        panic!("their own")
    };
    let event: Value = serde_json::from_str(&gap.event).unwrap();
    assert_eq!(event["payload"]["rawType"], "ControlEvent.GAP");
    assert_eq!(event["payload"]["raw"]["reason"], "erased");
    assert_eq!(event["seqNo"], 5);
    assert_eq!(event.get("user"), None);
    assert_eq!(
        gap.raw,
        r#"{"count":1,"fromSeq":5,"reason":"erased","toSeq":5}"#
    );
    assert!(!gap.event.contains("secret"));

    let Verdict::Named(clean) = tombstones.judge(&entry("5", &say("hi zoe_9"), "AAEC")) else {
        panic!("names the viewer")
    };
    assert!(clean.event.contains("hi [erased]"));
    assert_eq!(clean.raw, NO_RAW);
    assert_eq!(
        tombstones.judge(&entry("5", &say("hi"), "AAEC")),
        Verdict::Clean
    );
    assert_eq!(tombstones.judge(&HashMap::new()), Verdict::Clean);
    let broken = HashMap::from([
        ("event".to_owned(), "{".to_owned()),
        ("raw".to_owned(), String::new()),
    ]);
    assert_eq!(tombstones.judge(&broken), Verdict::Clean);
}

#[test]
fn letters_are_searched_through_all_their_layers() {
    let tombstones = zoe();
    let raw = STANDARD.encode(b"\x12\x05zoe_92");
    let nested = json!({"event": json!({"a": "zo\u{eb}"}).to_string(), "raw": "AAEC"}).to_string();
    for (payload, named) in [
        (json!({"data": raw}).to_string(), true),
        (json!({"event": "{}", "raw": raw}).to_string(), true),
        (nested, true),
        (json!({"frame": "H4sI"}).to_string(), true),
        (
            json!({"data": "AAECAwQFBgc=", "seqNo": "5"}).to_string(),
            false,
        ),
        ("[1]".to_owned(), false),
    ] {
        let found = tombstones.in_fields([("payload", payload.as_str())], AT);
        assert_eq!(found, named, "{payload}");
    }
}

proptest! {
    /// Whatever stands around: a plain trace is found wherever it is, and its place is right.
    #[test]
    fn a_trace_is_found_wherever_it_is(before in ".{0,40}", after in ".{0,40}", wanted in "[a-z0-9é✨]{1,24}") {
        let tombstones = erased(&[("plain", wanted.as_bytes())]);
        let text = format!("{before}{wanted}{after}");
        let mut value = Value::String(text);
        prop_assert!(tombstones.scrub(&mut value, AT));
        let clean = value.as_str().unwrap().to_ascii_lowercase();
        prop_assert!(!clean.replace(MARK, "\0").contains(&wanted), "{clean}");
        let bytes = STANDARD.encode(format!("{before}{wanted}{after}"));
        prop_assert!(tombstones.in_data(&bytes, AT));
    }

    /// Nothing is found where nothing is, and no text makes it fail.
    #[test]
    fn what_is_not_there_is_not_found(text in ".{0,200}") {
        let tombstones = erased(&[("word", b"zzqqxx"), ("id", ID.as_bytes())]);
        prop_assume!(!text.to_ascii_lowercase().contains("zzqqxx"));
        let mut value = Value::String(text.clone());
        prop_assert!(!tombstones.scrub(&mut value, AT));
        prop_assert_eq!(value, Value::String(text));
    }
}
