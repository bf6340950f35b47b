//! Against frames made by an independent encoder (`tests/fixtures/encoded`), and against noise.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/encoded")
}

fn fixture(name: &str) -> Bytes {
    std::fs::read(fixtures().join(name)).unwrap().into()
}

fn index(kind: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(fixtures().join("index.json")).unwrap();
    let entries: Vec<Value> = serde_json::from_str(&text).unwrap();
    let chosen: Vec<_> = entries
        .into_iter()
        .filter(|entry| entry["kind"] == kind)
        .collect();
    assert!(!chosen.is_empty(), "no fixtures of kind {kind}");
    chosen
}

/// What the fixture's index says about a message, read from ours.
fn described(message: &Result<BaseMessage, Damaged>) -> Value {
    let message = message.as_ref().unwrap();
    serde_json::json!({
        "method": message.method,
        "msgId": message.msg_id.to_string(),
        "isHistory": message.is_history,
        "bytes": message.payload.len(),
    })
}

#[test]
fn every_fixture_frame_reads_as_its_encoder_says() {
    for entry in index("push-frame") {
        let (file, expected) = (entry["file"].as_str().unwrap(), &entry["expected"]);
        let read = read(&fixture(file));
        if expected["error"] == true {
            assert!(read.is_err(), "{file} was taken");
            continue;
        }
        let frame = read.unwrap_or_else(|error| panic!("{file}: {error}"));
        assert_eq!(
            frame.ack.map(hex::encode).as_deref(),
            expected["ackHex"].as_str(),
            "{file}"
        );
        let messages: Vec<_> = frame.messages.iter().map(described).collect();
        let wanted = expected["fetch"]["messages"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        assert_eq!(messages, wanted, "{file}");
    }
}

#[test]
fn what_we_send_is_what_the_encoder_sends() {
    for entry in index("client-frame") {
        let (file, input) = (entry["file"].as_str().unwrap(), &entry["input"]);
        let number = |name: &str| match &input[name] {
            Value::String(text) => text.parse().unwrap(),
            other => other.as_i64().unwrap(),
        };
        let sent = match file {
            "client-heartbeat-1.bin" => heartbeat(number("roomId"), number("sendPacketSeqId")),
            "client-enter-room.bin" => enter_room(number("roomId")),
            "client-ack.bin" => {
                let internal_ext = input["internalExt"].as_str().unwrap().to_owned();
                let result = FetchResult {
                    need_ack: true,
                    internal_ext,
                    ..FetchResult::default()
                };
                ack(number("logId"), &result).unwrap()
            }
            other => panic!("{other} is new: test it"),
        };
        assert_eq!(hex::encode(&sent), entry["hex"], "{file}");
        assert_eq!(sent, fixture(file), "{file}");
    }
}

#[test]
fn the_sign_servers_answer_reads_as_its_encoder_says() {
    for entry in index("fetch-result") {
        let result = read_result(&fixture(entry["file"].as_str().unwrap())).unwrap();
        let expected = &entry["expected"];
        assert_eq!(result.cursor, expected["cursor"]);
        assert_eq!(result.internal_ext, expected["internalExt"]);
        assert_eq!(result.push_server, expected["pushServer"]);
        assert_eq!(
            serde_json::to_value(&result.route_params).unwrap(),
            expected["routeParams"]
        );
        let messages: Vec<_> = messages(&result).iter().map(described).collect();
        assert_eq!(Value::from(messages), expected["messages"]);
    }
}

#[test]
fn a_bomb_is_refused_where_it_exceeds_a_limit() {
    // 49 kB may become 4 MiB and no more: the other 44 MiB are never made.
    let bomb = fixture("frame-gzip-bomb-48mib.bin");
    assert_eq!(read(&bomb), Err(Malformed::Bomb(INFLATED_LIMIT)));
    // Shorter ones are refused by their ratio.
    for (length, limit) in [(1_000_000, RATIO_FREE), (2_000_000, 100 * RATIO_LIMIT)] {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&vec![0; length]).unwrap();
        let Err(Malformed::Bomb(refused_at)) = inflate(encoder.finish().unwrap().into()) else {
            panic!("not refused as a bomb")
        };
        assert!(
            limit <= refused_at && refused_at < length / 4,
            "{refused_at}"
        );
    }
}

#[test]
fn a_false_promise_of_length_changes_nothing() {
    let text = vec![b'x'; RATIO_FREE];
    let true_one = gzip(&text);
    // The length stands in the last four bytes of the format, so a false one is damage. What
    // follows the end is passed over, and then the last bytes promise anything.
    for tail in [[0; 4], [1, 0, 0, 0], [0xff; 4], 40_000_u32.to_le_bytes()] {
        let mut payload = true_one.to_vec();
        payload.extend(tail);
        assert_eq!(inflate(payload.into()).unwrap(), text, "{tail:?}");
        let mut payload = true_one.to_vec();
        payload.truncate(true_one.len() - 4);
        payload.extend(tail);
        assert!(matches!(
            inflate(payload.into()),
            Err(Malformed::Inflate(_))
        ));
    }
}

#[test]
fn a_payload_may_be_as_long_as_the_limit_and_no_longer() {
    // Noise, so that it is the size that counts and not the ratio.
    let mut state = 1_u32;
    let noise: Vec<u8> = (0..=INFLATED_LIMIT)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        })
        .collect();
    assert_eq!(
        inflate(gzip(&noise[..INFLATED_LIMIT])).unwrap(),
        noise[..INFLATED_LIMIT]
    );
    assert_eq!(
        inflate(gzip(&noise)).unwrap_err(),
        Malformed::Bomb(INFLATED_LIMIT)
    );
}

#[test]
fn half_a_compressed_payload_is_malformed() {
    let whole = gzip(b"some text that is long enough to be cut in two");
    let half = whole.slice(..whole.len() / 2);
    assert!(matches!(inflate(half), Err(Malformed::Inflate(_))));
}

#[test]
fn too_many_messages_are_refused_before_they_are_made() {
    let empty = [0x0a, 0x00];
    let at_limit = msg_frame(&empty.repeat(MESSAGES_LIMIT));
    assert_eq!(read(&at_limit).unwrap().messages.len(), MESSAGES_LIMIT);
    let beyond = msg_frame(&empty.repeat(MESSAGES_LIMIT + 1));
    assert_eq!(read(&beyond).unwrap_err(), Malformed::Messages);
    let parameters = msg_frame(&[0x3a, 0x00].repeat(FIELDS_LIMIT + 1));
    assert_eq!(
        read(&parameters).unwrap_err(),
        Malformed::Fields("the fetch result")
    );
    let headers: Bytes = [0x2a, 0x00].repeat(FIELDS_LIMIT + 1).into();
    assert_eq!(
        read(&headers).unwrap_err(),
        Malformed::Fields("the push frame")
    );
}

#[test]
fn a_frame_may_be_as_long_as_the_limit_and_no_longer() {
    let long = vec![0x3a; SIZE_LIMIT + 1];
    assert_eq!(read(&long.into()), Err(Malformed::Size(SIZE_LIMIT + 1)));
    let mut payload = vec![0x12]; // a cursor of some length
    prost::encoding::encode_varint(SIZE_LIMIT as u64 - 100, &mut payload);
    payload.resize(SIZE_LIMIT - 50, b'x');
    let frame = msg_frame(&payload[..payload.len() - 46]);
    assert!(frame.len() <= SIZE_LIMIT, "{}", frame.len());
    assert_eq!(read(&frame).unwrap().messages, []);
}

#[test]
fn messages_behind_a_group_are_counted_too() {
    // The decoder skips an unknown group and reads on.
    let mut payload = vec![0x7b, 0x7c];
    payload.extend([0x0a, 0x00].repeat(MESSAGES_LIMIT + 1));
    assert_eq!(read(&msg_frame(&payload)), Err(Malformed::Messages));
}

#[test]
fn a_message_longer_than_any_costs_none_of_the_others() {
    let message = |method: &str, length: usize| BaseMessage {
        method: method.to_owned(),
        payload: vec![1; length].into(),
        ..BaseMessage::default()
    };
    let messages = [
        message("A", MESSAGE_LIMIT),
        message("A", MESSAGE_LIMIT + 1),
        message(&"A".repeat(METHOD_LIMIT), 1),
        message(&"A".repeat(METHOD_LIMIT + 1), 1),
    ];
    let result = FetchResult {
        messages: messages
            .iter()
            .map(|message| message.encode_to_vec().into())
            .collect(),
        ..FetchResult::default()
    };
    let read = super::messages(&result);
    let fine: Vec<bool> = read.iter().map(Result::is_ok).collect();
    assert_eq!(fine, [true, false, true, false]);
}

#[test]
fn a_damaged_message_costs_none_of_the_others() {
    let good = BaseMessage {
        method: "WebcastChatMessage".to_owned(),
        msg_id: 7,
        ..BaseMessage::default()
    };
    // A method name that is no UTF-8.
    let bad: Bytes = vec![0x0a, 0x01, 0xff].into();
    let result = FetchResult {
        messages: vec![
            good.encode_to_vec().into(),
            bad.clone(),
            good.encode_to_vec().into(),
        ],
        ..FetchResult::default()
    };
    let frame = read(&msg_frame(&result.encode_to_vec())).unwrap();
    assert_eq!(frame.messages[0].as_ref().unwrap(), &good);
    assert_eq!(frame.messages[1].as_ref().unwrap_err().bytes, bad);
    assert_eq!(frame.messages[2].as_ref().unwrap(), &good);
}

#[test]
fn no_ack_without_its_content() {
    let result = |need_ack, internal_ext: &str| FetchResult {
        need_ack,
        internal_ext: internal_ext.to_owned(),
        ..FetchResult::default()
    };
    assert!(ack(1, &result(true, "ext")).is_some());
    assert!(ack(0, &result(true, "ext")).is_none());
    assert!(ack(1, &result(false, "ext")).is_none());
    assert!(ack(1, &result(true, "")).is_none());
}

#[test]
fn another_encoding_is_not_guessed_at() {
    let frame = PushFrame {
        payload_encoding: "json".to_owned(),
        payload_type: "msg".to_owned(),
        ..PushFrame::default()
    };
    assert_eq!(
        read(&frame.encode_to_vec().into()),
        Err(Malformed::Encoding("json".to_owned()))
    );
}

fn msg_frame(payload: &[u8]) -> Bytes {
    client_frame(1, "msg", Bytes::copy_from_slice(payload))
}

fn gzip(bytes: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::none());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap().into()
}

fn within_limits(bytes: &Bytes) {
    if let Ok(frame) = read(bytes) {
        assert!(frame.messages.len() <= MESSAGES_LIMIT);
        let size: usize = frame
            .messages
            .iter()
            .map(|message| {
                message
                    .as_ref()
                    .map_or_else(|bad| bad.bytes.len(), |good| good.payload.len())
            })
            .sum();
        assert!(size <= INFLATED_LIMIT.max(bytes.len()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..4_000)) {
        within_limits(&bytes.into());
    }

    #[test]
    fn noise_in_a_frame_never_panics(payload in prop::collection::vec(any::<u8>(), 0..4_000), zip: bool) {
        within_limits(&msg_frame(&if zip { gzip(&payload) } else { payload.into() }));
    }

    #[test]
    fn a_damaged_frame_never_panics(at in 0_usize..1_154, byte: u8) {
        let mut bytes = fixture("frame-gzip-4-messages.bin").to_vec();
        let place = at % bytes.len();
        bytes[place] = byte;
        within_limits(&bytes.into());
    }
}
