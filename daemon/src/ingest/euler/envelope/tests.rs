//! Every form of an envelope, and what is none.

use serde_json::json;

use super::*;

fn kinds(text: &str) -> Vec<String> {
    let items = read(text).unwrap().items;
    items.into_iter().map(|item| item.unwrap().kind).collect()
}

fn object(value: Value) -> Map<String, Value> {
    let Value::Object(object) = value else {
        panic!("no object")
    };
    object
}

#[test]
fn every_form_is_read() {
    let bundle = read(r#"{"timestamp":1773511423909,"messages":[{"type":"A","data":{"x":1}},{"type":"B","data":{}}]}"#).unwrap();
    assert_eq!(bundle.sent_ms, Some(1_773_511_423_909));
    assert_eq!(bundle.items.len(), 2);
    let first = bundle.items[0].as_ref().unwrap();
    assert_eq!(
        (first.kind.as_str(), &first.data),
        ("A", &object(json!({"x": 1})))
    );

    let written = read(r#"{"timestamp":"1773511423","messages":[]}"#).unwrap();
    assert_eq!(written.sent_ms, Some(1_773_511_423_000));
    assert!(written.items.is_empty());

    assert_eq!(kinds(r#"{"type":"A","data":{"x":1}}"#), ["A"]);
    assert_eq!(
        kinds(r#"[{"type":"A","data":{}},{"type":"B"}]"#),
        ["A", "B"]
    );
    assert_eq!(
        kinds(r#"[{"messages":[{"type":"A"}]},{"messages":[{"type":"B"},{"type":"C"}]}]"#),
        ["A", "B", "C"]
    );
    let flat = read(r#"{"type":"tiktok.connect","agentId":"a-1"}"#).unwrap();
    let connect = flat.items[0].as_ref().unwrap();
    assert_eq!(connect.data, object(json!({"agentId": "a-1"})));
    let empty = read(r#"{"type":"A","data":null}"#).unwrap();
    assert!(empty.items[0].as_ref().unwrap().data.is_empty());
    for quiet in [
        "[]",
        r#"{"timestamp":5}"#,
        r#"{"timestamp":5,"messages":null}"#,
    ] {
        assert!(read(quiet).unwrap().items.is_empty(), "{quiet}");
    }
}

#[test]
fn one_bad_item_costs_none_of_the_others() {
    let text = r#"{"messages":[{"type":"A"},5,null,"x",{"data":{}},{"type":7},{"type":""},
        {"type":"B","data":[1]},{"type":"C","data":"x"},{"type":"two words"},
        {"type":"ControlEvent.CONNECTED","data":{}},{"type":"Z","data":{"deep":[{}]}}]}"#;
    let items = read(text).unwrap().items;
    let good: Vec<_> = items.iter().filter_map(|item| item.as_ref().ok()).collect();
    assert_eq!(good.len(), 2);
    let bad: Vec<_> = items
        .iter()
        .filter_map(|item| item.as_ref().err())
        .collect();
    assert_eq!(bad.len(), 10);
    assert_eq!(bad[6].json, r#"{"data":[1],"type":"B"}"#);
    assert_eq!(bad[6].error, "a message whose data is no object");
    assert!(
        bad[9].json.contains("CONNECTED"),
        "nobody else speaks for us"
    );
    for lone in ["5", "null", r#""x""#, "{}", r#"{"x":1}"#] {
        assert!(read(lone).unwrap().items[0].is_err(), "{lone}");
    }
    let long = format!(r#"{{"type":"{}"}}"#, "x".repeat(KIND_LIMIT + 1));
    assert!(read(&long).unwrap().items[0].is_err());
}

#[test]
fn text_that_is_no_json_is_refused_without_repeating_it() {
    for bad in [
        "",
        "hello",
        "{",
        r#"{"type":"A""#,
        "[1,]",
        "{\"a\":\"\u{1}\"}",
    ] {
        let error = read(bad).unwrap_err();
        assert!(matches!(error, Malformed::Json(_)), "{bad}: {error}");
    }
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    assert!(matches!(read(&deep), Err(Malformed::Json(_))));
    let (open, shut) = (r#"{"messages":["#.repeat(60), "]}".repeat(60));
    let deep = format!("{open}{shut}");
    assert!(
        read(&deep).unwrap().items.is_empty(),
        "and within the stack"
    );
}

#[test]
fn what_would_grow_in_memory_is_refused_before_it_is_parsed() {
    let many = |item: &str, count: usize| format!("[{}]", vec![item; count].join(","));
    assert_eq!(read(&many("{\"\":0}", 100_000)), Err(Malformed::Heavy));
    assert_eq!(read(&many("0", 500_000)), Err(Malformed::Heavy));
    assert_eq!(read(&many("[]", 300_000)), Err(Malformed::Heavy));
    assert_eq!(
        read(&many(r#"{"type":"A"}"#, MESSAGES_LIMIT + 1)),
        Err(Malformed::Messages)
    );
    assert_eq!(
        kinds(&many(r#"{"type":"A"}"#, MESSAGES_LIMIT)).len(),
        MESSAGES_LIMIT
    );
    // Brackets in texts weigh nothing, and an escaped quote does not end one.
    let text = json!({"type": "A", "data": {"x": "{[,\"\\".repeat(100_000)}}).to_string();
    assert_eq!(kinds(&text), ["A"]);
}

#[test]
fn real_messages_are_far_below_the_limit() {
    for file in ["encoded-v1", "encoded-v2", "encoded-v3", "observed-v2"] {
        let path = format!(
            "{}/../tests/fixtures/euler-ws/{file}.ndjson",
            env!("CARGO_MANIFEST_DIR")
        );
        for line in std::fs::read_to_string(path).unwrap().lines() {
            assert!(
                weight(line) < 30 * line.len(),
                "{} for {}",
                weight(line),
                line.len()
            );
            assert!(
                read(line).unwrap().items.iter().all(Result::is_ok),
                "{line}"
            );
        }
    }
}

#[test]
fn numbers_are_exact() {
    let text = r#"{"type":"A","data":{"a":18446744073709551615,"b":-9223372036854775808,"c":7301234600000065537,"d":0.5}}"#;
    let envelope = read(text).unwrap();
    let written = Value::Object(envelope.items[0].as_ref().unwrap().data.clone());
    assert_eq!(
        written.to_string(),
        r#"{"a":18446744073709551615,"b":-9223372036854775808,"c":7301234600000065537,"d":0.5}"#
    );
}

#[test]
fn original_bytes_are_taken_if_they_are_the_messages() {
    let path = format!(
        "{}/../tests/fixtures/encoded/payload-chat-plain.bin",
        env!("CARGO_MANIFEST_DIR")
    );
    let bytes = std::fs::read(path).unwrap();
    let raw = STANDARD.encode(&bytes);
    let id = "7301234600000065537";
    let item = |value: Value| read(&value.to_string()).unwrap().items.remove(0).unwrap();

    let beside = item(json!({"type": "A", "data": {"common": {"msgId": id}}, "raw": raw}));
    assert_eq!(beside.raw.as_deref(), Some(&bytes[..]));
    let inside = item(json!({"type": "A", "data": {"comment": "x", "raw": raw}}));
    assert_eq!(inside.raw.as_deref(), Some(&bytes[..]));
    assert!(!inside.data.contains_key("raw"));

    let other = item(json!({"type": "A", "data": {"common": {"msgId": "5"}}, "raw": raw}));
    assert_eq!(other.raw, None, "another message's");
    let text = item(json!({"type": "A", "data": {"raw": "meat"}}));
    assert_eq!(text.raw, None);
    assert_eq!(
        text.data,
        object(json!({"raw": "meat"})),
        "a field of its own"
    );
}

#[test]
fn json_is_told_from_frames() {
    assert!(is_json(b" \n{\"a\":1}") && is_json(b"[]"));
    for bytes in [
        &b""[..],
        b"hello",
        b"\x12\x05",
        b"\x1f\x8b\x08",
        b"\x08\x01",
    ] {
        assert!(!is_json(bytes), "{bytes:?}");
    }
}
