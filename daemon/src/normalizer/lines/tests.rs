use std::sync::{Arc, Mutex};

use super::*;

const CHAT: &str = r#""type":"WebcastChatMessage","data":"GgVoZWxsbw==""#;

/// A line that becomes an event, with these members instead of the usual ones.
fn line(members: &str) -> String {
    format!(
        r#"{{"schemaVersion":"raw.v1","streamId":"7301","sessionId":"01980000-0000-7000-8000-000000000001","source":"live","timestamp":"2026-11-22T15:04:05.678Z","ingestedAt":"2026-11-22T15:04:05.678Z",{members}}}"#
    )
}

fn answer(line: &str) -> Value {
    serde_json::from_str(&Lines::new().unwrap().answer(line.as_bytes())).unwrap()
}

#[test]
fn numbers_and_texts_mean_the_same() {
    let wanted = answer(&line(&format!(r#""seqNo":"7","backlog":"true",{CHAT}"#)));
    assert_eq!(wanted["payload"]["message"], "hello");
    assert_eq!(wanted["seqNo"], 7);
    for members in [
        format!(r#""seqNo":7,"backlog":true,{CHAT}"#),
        format!(r#""seqNo":7,"backlog":true,"msgId":null,"unknown":[1],{CHAT}"#),
    ] {
        assert_eq!(answer(&line(&members)), wanted, "{members}");
    }
}

#[test]
fn json_data_may_be_an_object_or_its_text() {
    let object = r#""seqNo":1,"type":"WebcastNewMessage","data":{"a":[1,"x"]}"#;
    let text = r#""seqNo":1,"type":"WebcastNewMessage","data":"{\"a\":[1,\"x\"]}""#;
    let event = answer(&line(object));
    assert_eq!(event["payload"]["raw"], json!({"a": [1, "x"]}));
    assert_eq!(answer(&line(text)), event);
}

#[test]
fn what_is_wrong_is_said_in_the_line_s_place() {
    for (bad, wanted) in [
        ("not json".to_owned(), "the line is no JSON object"),
        ("[1]".to_owned(), "the line is no JSON object"),
        ("{}".to_owned(), "field `schemaVersion` is missing"),
        (line(&format!(r#""seqNo":1.5,{CHAT}"#)), "field `seqNo`"),
        (line(&format!(r#""seqNo":[1],{CHAT}"#)), "field `seqNo`"),
        (line(r#""seqNo":1,"type":"X","data":[]"#), "field `data`"),
        (
            line(r#""seqNo":1,"type":"WebcastChatMessage","data":"/w==""#),
            "WebcastChatMessage: ",
        ),
        (
            line(r#""seqNo":1,"type":"ControlEvent.ERROR","data":{}"#),
            "ControlEvent.ERROR: ",
        ),
    ] {
        let answer = answer(&bad);
        assert_eq!(answer["error"]["reason"], "PARSE_ERROR", "{bad}");
        let error = answer["error"]["error"].as_str().unwrap();
        assert!(error.starts_with(wanted), "{bad}: {error}");
    }
}

#[test]
fn each_line_is_answered_in_its_place() {
    let good = |seq_no: u64| line(&format!(r#""seqNo":{seq_no},{CHAT}"#));
    let mut input = Vec::new();
    input.extend(good(1).bytes());
    input.extend(b"\r\n\n  \n");
    input.extend([0xff, b'{', b'\n']);
    input.extend(vec![b' '; LINE_LIMIT]);
    input.extend(b"{}\n");
    input.extend(good(2).bytes()); // without an end
    let mut output = Vec::new();
    let mut lines = Lines::new().unwrap();
    lines.run(&input[..], &mut output).unwrap();
    assert_eq!((lines.events(), lines.rejections()), (2, 2));

    let output = String::from_utf8(output).unwrap();
    assert!(output.ends_with('\n'));
    let answers: Vec<Value> = output
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(answers.len(), 4);
    assert_eq!(answers[0]["seqNo"], 1);
    assert!(
        answers[1]["error"]["error"]
            .as_str()
            .unwrap()
            .contains("no JSON")
    );
    assert!(
        answers[2]["error"]["error"]
            .as_str()
            .unwrap()
            .contains("bytes")
    );
    assert_eq!(answers[3]["seqNo"], 2);
}

/// Shows what has been flushed, not only written.
#[derive(Clone, Default)]
struct Screen {
    written: Vec<u8>,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.written.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.shown.lock().unwrap().append(&mut self.written);
        Ok(())
    }
}

/// Gives a line at a time, and notes how many answers are visible when it is asked for the next.
struct Typist {
    lines: Vec<String>,
    shown: Arc<Mutex<Vec<u8>>>,
    seen: Arc<Mutex<Vec<usize>>>,
}

impl Read for Typist {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let shown = self.shown.lock().unwrap();
        let answers = shown.split(|byte| *byte == b'\n').count() - 1;
        self.seen.lock().unwrap().push(answers);
        let Some(line) = self.lines.pop() else {
            return Ok(0);
        };
        buffer[..line.len()].copy_from_slice(line.as_bytes());
        Ok(line.len())
    }
}

#[test]
fn an_answer_is_shown_before_the_next_line_is_waited_for() {
    let screen = Screen::default();
    let seen = Arc::default();
    let typist = Typist {
        lines: vec!["{}\n".to_owned(), "{}\n{}\n".to_owned(), "{}\n".to_owned()],
        shown: Arc::clone(&screen.shown),
        seen: Arc::clone(&seen),
    };
    Lines::new().unwrap().run(typist, screen).unwrap();
    assert_eq!(*seen.lock().unwrap(), [0, 1, 3, 4]);
}
