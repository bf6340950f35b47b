//! Our JSON against JSON that another encoder made from the same bytes.

use std::{fs, path::Path};

use super::*;

fn fixtures() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// Everything we say, the other says too; lists the differences.
fn within(ours: &Value, theirs: Option<&Value>, path: &str, wrong: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(ours), Some(Value::Object(theirs))) => {
            for (key, value) in ours {
                within(value, theirs.get(key), &format!("{path}.{key}"), wrong);
            }
        }
        (Value::Array(ours), Some(Value::Array(theirs))) if ours.len() == theirs.len() => {
            for (ours, theirs) in ours.iter().zip(theirs) {
                within(ours, Some(theirs), &format!("{path}[]"), wrong);
            }
        }
        (ours, Some(theirs)) if ours == theirs => {}
        (ours, theirs) => wrong.push(format!("{path}: {ours} is {theirs:?}")),
    }
}

fn compare(naming: Naming) -> (usize, Vec<String>) {
    let file = fixtures().join(format!("euler-ws/encoded-{}.ndjson", naming.name()));
    let mut wrong = Vec::new();
    let mut compared = 0;
    for line in fs::read_to_string(file).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let message = &line["messages"][0];
        let (method, fixture) = (
            message["type"].as_str().unwrap(),
            line["fixture"].as_str().unwrap(),
        );
        let payload = fs::read(fixtures().join("encoded").join(fixture)).unwrap();
        let Some(ours) = encode(method, &payload, naming) else {
            continue;
        };
        compared += 1;
        within(
            &ours,
            Some(&message["data"]),
            &format!("{} {method}", naming.name()),
            &mut wrong,
        );
    }
    wrong.sort();
    wrong.dedup();
    (compared, wrong)
}

#[test]
fn what_we_write_is_what_another_encoder_writes() {
    let mut all = Vec::new();
    for (naming, at_least) in [(Naming::V3, 30), (Naming::V2, 29), (Naming::V1, 20)] {
        let (compared, wrong) = compare(naming);
        all.extend(wrong);
        if compared < at_least {
            all.push(format!("{naming:?}: only {compared} compared"));
        }
    }
    assert!(all.is_empty(), "{}", all.join("\n"));
}

/// No message loses a field that another encoder found worth saying.
#[test]
fn what_another_encoder_says_we_say_too() {
    let mut lacking = Vec::new();
    for naming in [Naming::V3, Naming::V2] {
        let file = fixtures().join(format!("euler-ws/encoded-{}.ndjson", naming.name()));
        for line in fs::read_to_string(file).unwrap().lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let message = &line["messages"][0];
            let (method, fixture) = (
                message["type"].as_str().unwrap(),
                line["fixture"].as_str().unwrap(),
            );
            let payload = fs::read(fixtures().join("encoded").join(fixture)).unwrap();
            let Some(ours) = encode(method, &payload, naming) else {
                continue;
            };
            for (key, value) in message["data"].as_object().unwrap() {
                let said = match value {
                    Value::Null => false,
                    Value::Bool(value) => *value,
                    Value::Number(value) => value.as_i64() != Some(0),
                    Value::String(value) => !value.is_empty() && value != "0",
                    Value::Array(value) => !value.is_empty(),
                    Value::Object(value) => !value.is_empty(),
                };
                if said && ours.get(key).is_none() {
                    lacking.push(format!("{} {method}.{key}", naming.name()));
                }
            }
        }
    }
    lacking.sort();
    lacking.dedup();
    assert!(lacking.is_empty(), "{}", lacking.join("\n"));
}
