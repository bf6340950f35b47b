//! `ttlc normalize` as its users run it: the program, its input, its output and its exit code.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;

use daemon::normalizer::{Contract, normalize};
use serde_json::{Value, json};
use shared::raw::Envelope;

const CHAT: &str = r#"{"schemaVersion":"raw.v1","streamId":"7301","sessionId":"01980000-0000-7000-8000-000000000001","source":"live","type":"WebcastChatMessage","seqNo":1,"timestamp":"2026-11-22T15:04:05.678Z","ingestedAt":"2026-11-22T15:04:05.678Z","data":"GgVoZWxsbw=="}"#;

/// The program with an empty environment: no Redis, no creator, nothing.
fn start() -> Child {
    Command::new(env!("CARGO_BIN_EXE_ttlc"))
        .arg("normalize")
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

struct Said {
    status: ExitStatus,
    answers: Vec<Value>,
    log: String,
}

fn run(input: Vec<u8>) -> Said {
    let mut child = start();
    let mut stdin = child.stdin.take().unwrap();
    let writer = thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    Said {
        status: output.status,
        answers: text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect(),
        log: String::from_utf8(output.stderr).unwrap(),
    }
}

#[test]
fn the_captures_become_their_events() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/captures");
    let (mut input, mut wanted) = (String::new(), Vec::new());
    let contract = Contract::new().unwrap();
    for room in ["room-b", "room-d", "mixed"] {
        let text = std::fs::read_to_string(folder.join(format!("{room}.ndjson"))).unwrap();
        for line in text.lines() {
            let sent: Value = serde_json::from_str(line).unwrap();
            let number = wanted.len();
            let fields = json!({
                "schemaVersion": "raw.v1", "streamId": "7301234567890123456", "source": "live",
                "sessionId": "01980000-0000-7000-8000-000000000001", "type": sent["type"],
                // Both ways to write it.
                "seqNo": if number % 2 == 0 { json!(number) } else { json!(number.to_string()) },
                "timestamp": sent["at"], "ingestedAt": sent["at"], "data": sent["payload"],
                "backlog": number % 3 == 0,
            });
            input += &fields.to_string();
            input.push('\n');
            let texts = fields.as_object().unwrap().iter().map(|(name, value)| {
                let text = value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned);
                (name.as_str(), text)
            });
            let texts: Vec<_> = texts.collect();
            let envelope = Envelope::from_fields(|field| {
                let (_, text) = texts.iter().find(|(name, _)| *name == field)?;
                Some(text)
            });
            let event = normalize(&envelope.unwrap()).unwrap();
            let event: Value = serde_json::from_str(&contract.json(&event).unwrap()).unwrap();
            wanted.push(event);
        }
    }
    let said = run(input.into_bytes());
    assert!(said.status.success());
    assert_eq!(said.answers.len(), wanted.len());
    for (answer, wanted) in said.answers.iter().zip(&wanted) {
        assert_eq!(answer["seqNo"], wanted["seqNo"], "out of order");
        assert_eq!(answer["eventId"], wanted["eventId"]);
        assert_eq!(answer["eventType"], wanted["eventType"]);
        assert_eq!(answer["user"], wanted["user"]);
    }
    assert!(
        said.log.contains(&format!("\"events\":{}", wanted.len()))
            && said.log.contains("\"rejections\":0"),
        "{}",
        said.log
    );
}

#[test]
fn bad_lines_are_answered_in_their_places_and_counted() {
    let mut input = CHAT.as_bytes().to_vec();
    input.extend(b"\nnot json\n\n\xff\xfe{}\n{\"schemaVersion\":\"raw.v2\"}\n{\"a\":\"");
    input.extend(vec![b'x'; 40_000_000]);
    input.extend(b"\"}\r\n");
    input.extend(CHAT.replace("\"seqNo\":1", "\"seqNo\":\"2\"").bytes()); // no end of the line
    let said = run(input);
    assert!(said.status.success());
    let [first, bad @ .., last] = said.answers.as_slice() else {
        panic!("{:?}", said.answers)
    };
    assert_eq!((&first["seqNo"], &last["seqNo"]), (&json!(1), &json!(2)));
    assert_eq!(first["payload"]["message"], "hello");
    let errors: Vec<&str> = bad
        .iter()
        .map(|answer| {
            assert_eq!(answer["error"]["reason"], "PARSE_ERROR", "{answer}");
            assert_eq!(answer.as_object().unwrap().len(), 1);
            answer["error"]["error"].as_str().unwrap()
        })
        .collect();
    let [no_json, no_text, version, long] = errors.as_slice() else {
        panic!("{errors:?}")
    };
    assert!(no_json.contains("no JSON object") && no_text.contains("no JSON object"));
    assert!(version.contains("raw.v1, not raw.v2"), "{version}");
    assert!(long.contains("more than 4194304 bytes"), "{long}");
    assert!(
        said.log.contains("\"events\":2") && said.log.contains("\"rejections\":4"),
        "{}",
        said.log
    );
}

#[test]
fn nothing_in_nothing_out() {
    let said = run(Vec::new());
    assert!(said.status.success());
    assert_eq!(said.answers, [Value::Null; 0]);
}

#[test]
fn each_answer_comes_before_the_next_question() {
    let mut child = start();
    let mut stdin = child.stdin.take().unwrap();
    let mut answers = BufReader::new(child.stdout.take().unwrap());
    for _ in 0..3 {
        stdin.write_all(CHAT.as_bytes()).unwrap();
        stdin.write_all(b"\n").unwrap();
        let mut answer = String::new();
        answers.read_line(&mut answer).unwrap(); // or it hangs
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(answer["eventType"], "CHAT");
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let mut child = start();
    let mut stdin = child.stdin.take().unwrap();
    drop(child.stdout.take());
    // As `head` does: the program may leave while it is still being written to.
    let line = format!("{CHAT}\n");
    for _ in 0..10_000 {
        if stdin.write_all(line.as_bytes()).is_err() {
            break;
        }
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
    let mut log = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut log)
        .unwrap();
    assert!(!log.contains("ERROR") && !log.contains("panicked"), "{log}");
}
