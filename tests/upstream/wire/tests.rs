//! Our schema against frames that another encoder made, in both directions.

use std::{fs, path::Path};

use serde_json::Value;

use super::*;

fn fixture(file: &str) -> Vec<u8> {
    fs::read(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fixtures/encoded")
            .join(file),
    )
    .unwrap()
}

fn index(kind: &str) -> Vec<(String, Value)> {
    let index: Vec<Value> = serde_json::from_slice(&fixture("index.json")).unwrap();
    index
        .into_iter()
        .filter(|entry| entry["kind"] == kind)
        .map(|entry| (entry["file"].as_str().unwrap().to_owned(), entry))
        .collect()
}

fn describe(result: &FetchResult) -> Value {
    let messages: Vec<Value> = result
        .messages
        .iter()
        .map(|message| {
            serde_json::json!({
                "method": message.method,
                "msgId": message.msg_id.to_string(),
                "isHistory": message.is_history,
                "bytes": message.payload.len(),
            })
        })
        .collect();
    serde_json::json!({
        "cursor": result.cursor,
        "internalExt": result.internal_ext,
        "needAck": result.need_ack,
        "pushServer": result.push_server,
        "routeParams": result.route_params,
        "fetchInterval": result.fetch_interval.to_string(),
        "now": result.now.to_string(),
        "heartbeatDuration": result.heartbeat_duration.to_string(),
        "isFirst": result.is_first,
        "messages": messages,
    })
}

#[test]
fn push_frames_read_as_the_index_says() {
    let frames = index("push-frame");
    assert_eq!(frames.len(), 9);
    for (file, entry) in frames {
        let expected = &entry["expected"];
        let read = read_server_frame(&fixture(&file), 1 << 20);
        if expected["error"] == true {
            assert!(read.unwrap_err().contains("inflates to more"), "{file}");
            continue;
        }
        let (frame, result) = read.unwrap_or_else(|error| panic!("{file}: {error}"));
        let headers: serde_json::Map<String, Value> = frame
            .headers
            .iter()
            .map(|header| (header.key.clone(), header.value.clone().into()))
            .collect();
        assert_eq!(frame.seq_id.to_string(), expected["seqId"], "{file}");
        assert_eq!(frame.log_id.to_string(), expected["logId"], "{file}");
        assert_eq!(frame.service.to_string(), expected["service"], "{file}");
        assert_eq!(frame.method.to_string(), expected["method"], "{file}");
        assert_eq!(
            frame.payload_encoding, expected["payloadEncoding"],
            "{file}"
        );
        assert_eq!(frame.payload_type, expected["payloadType"], "{file}");
        assert_eq!(Value::from(headers), expected["headers"], "{file}");
        let fetch = result.as_ref().map_or(Value::Null, describe);
        assert_eq!(fetch, expected["fetch"], "{file}");

        // The ack that a right client sends is the one that we take for right.
        if let Some(ack) = expected["ackHex"].as_str() {
            let ack = read_client_frame(&hex::decode(ack).unwrap()).unwrap();
            let internal_ext = Bytes::from(result.unwrap().internal_ext);
            assert_eq!(
                ack,
                ClientFrame::Ack {
                    log_id: frame.log_id,
                    internal_ext
                },
                "{file}"
            );
        }
    }
}

#[test]
fn our_frames_are_the_fixtures_own_bytes() {
    for (file, gzip) in [
        ("frame-plain.bin", false),
        ("frame-gzip-4-messages.bin", true),
    ] {
        let bytes = fixture(file);
        let (frame, result) = read_server_frame(&bytes, 1 << 20).unwrap();
        let result = result.unwrap();
        let ours = msg_frame(frame.seq_id, frame.log_id, &result, gzip);
        if !gzip {
            assert_eq!(hex::encode(&ours), hex::encode(&bytes), "{file}");
        }
        // Compressors differ in their bytes; what is inside, and the rest of the frame, does not.
        let (our_frame, our_result) = read_server_frame(&ours, 1 << 20).unwrap();
        assert_eq!(our_result, Some(result), "{file}");
        assert_eq!(
            PushFrame {
                payload: Bytes::new(),
                ..our_frame
            },
            PushFrame {
                payload: Bytes::new(),
                ..frame
            },
            "{file}"
        );
    }
    let reply = fixture("frame-heartbeat-reply.bin");
    let (frame, _) = read_server_frame(&reply, 0).unwrap();
    assert_eq!(reply_frame("hb", frame.log_id), reply);
}

#[test]
fn the_signing_answer_reads_and_writes_as_the_index_says() {
    for (file, entry) in index("fetch-result") {
        let bytes = fixture(&file);
        let result = FetchResult::decode(bytes.as_slice()).unwrap();
        assert_eq!(describe(&result), entry["expected"], "{file}");
        assert_eq!(
            FetchResult::decode(result.encode_to_vec().as_slice()).unwrap(),
            result
        );
        assert_eq!(result.encoded_len(), bytes.len(), "{file}");
    }
}

#[test]
fn client_frames_read_as_the_index_says() {
    let frames = index("client-frame");
    assert_eq!(frames.len(), 3);
    for (file, entry) in frames {
        let bytes = fixture(&file);
        assert_eq!(hex::encode(&bytes), entry["hex"], "{file}");
        let input = &entry["input"];
        let number = |key: &str| input[key].as_str().unwrap().parse::<i64>().unwrap();
        match read_client_frame(&bytes).unwrap() {
            ClientFrame::HeartBeat(beat) => {
                assert_eq!(beat.room_id, number("roomId"));
                assert_eq!(beat.send_packet_seq_id, input["sendPacketSeqId"]);
            }
            ClientFrame::EnterRoom(enter) => {
                assert_eq!(enter.room_id, number("roomId"));
                assert_eq!(enter.live_id, input["liveId"]);
                assert_eq!(enter.identity, input["identity"]);
                assert_eq!(enter.enter_unique_id, input["enterUniqueId"]);
                assert_eq!(enter.filter_welcome_msg, input["filterWelcomeMsg"]);
            }
            ClientFrame::Ack {
                log_id,
                internal_ext,
            } => {
                assert_eq!(log_id, number("logId"));
                assert_eq!(internal_ext, input["internalExt"].as_str().unwrap());
            }
        }
    }
}

#[test]
fn what_is_no_client_frame_is_named() {
    let error = |bytes: &[u8]| read_client_frame(bytes).unwrap_err();
    assert!(error(b"\xff\xff\xff").contains("not a push frame"));
    assert!(error(&reply_frame("msg", 1)).contains("unknown payload type"));
    let frame = PushFrame {
        payload_type: "hb".into(),
        ..PushFrame::default()
    };
    assert!(error(&frame.encode_to_vec()).contains("payload encoding"));
}
