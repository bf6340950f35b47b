//! The life of a connection against a scripted server.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::{Compression, write::GzEncoder};
use futures_util::SinkExt as _;
use prost::Message as _;
use secrecy::SecretString;
use serde_json::json;
use shared::raw::{RawData, control};
use tokio::io::DuplexStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::introduction::{READY_TIMEOUT, ROOM_TIMEOUT};
use super::*;
use crate::ingest::euler::close::Error;
use crate::ingest::outbox::Outbox;
use crate::ingest::provider::Room;
use crate::ingest::session::Lifecycle;
use crate::ingest::socket::tape::Tape;
use crate::ingest::socket::{DEAD_LETTERS, FRAME_LIMIT, limits};
use crate::proto::frames::{FetchResult, PushFrame};

const ROOM: &str = "7301234567890123456";
const KEY: &str = "euler-canary-key";
const SILENCE: Duration = Duration::from_mins(1);

/// How a connection went.
struct Story {
    seen: Result<Option<Room>, Error>,
    end: End,
    session: Session,
}

/// A connection whose server is the test.
struct Stage {
    server: WebSocketStream<DuplexStream>,
    client: tokio::task::JoinHandle<Story>,
    redis_away: watch::Sender<bool>,
    tape: Tape,
    stop: CancellationToken,
    /// Kept so that the publisher goes on.
    _outbox: Outbox,
}

impl Stage {
    /// A server that has said nothing yet.
    async fn silent() -> Self {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let socket = WebSocketStream::from_raw_socket(ours, Role::Client, Some(limits())).await;
        let server = WebSocketStream::from_raw_socket(theirs, Role::Server, None).await;
        let (tape, outbox, redis_away) = Tape::new();
        let (outlet, stop) = (outbox.outlet(), CancellationToken::new());
        let told = stop.clone();
        let client = tokio::spawn(async move {
            let mask = Mask::new(&SecretString::from(KEY));
            let mut connection = Connection::new(socket, mask, None);
            let mut session = Session::new(ROOM.to_owned(), None, now());
            let seen = connection.introduce().await;
            let mut end = End::default();
            if let Ok(Some(_)) = &seen {
                let connected = session.lifecycle(control::CONNECTED, &Lifecycle::default(), now());
                end = connection
                    .run(&mut session, connected.into(), &outlet, SILENCE, &told)
                    .await;
            }
            Story { seen, end, session }
        });
        Self {
            server,
            client,
            redis_away,
            tape,
            stop,
            _outbox: outbox,
        }
    }

    /// A server that has shown the room.
    async fn new() -> Self {
        let mut stage = Self::silent().await;
        stage
            .say(&bundle(&[worker(), room_info(), connect()]))
            .await;
        stage
    }

    async fn say(&mut self, value: &Value) {
        self.send(Message::Text(value.to_string().into())).await;
    }

    async fn send(&mut self, message: Message) {
        self.server.send(message).await.unwrap();
    }

    async fn close(&mut self, code: u16, reason: &str) {
        let frame = CloseFrame {
            code: code.into(),
            reason: reason.to_owned().into(),
        };
        self.server.close(Some(frame)).await.unwrap();
    }

    /// The ids of messages that have been published, once there are so many beside `CONNECTED`.
    async fn published(&self, count: usize) -> Vec<String> {
        let envelopes = self.tape.wait_for(count + 1).await;
        assert_eq!(envelopes[0].kind, control::CONNECTED);
        let first = envelopes[0].seq_no;
        for (envelope, seq_no) in envelopes.iter().zip(first..) {
            assert_eq!(envelope.seq_no, seq_no);
        }
        let ids = envelopes[1..].iter();
        ids.map(|envelope| envelope.msg_id.clone().unwrap_or_default())
            .collect()
    }

    async fn story(self) -> Story {
        self.client.await.unwrap()
    }
}

fn bundle(messages: &[Value]) -> Value {
    json!({"timestamp": now().as_millis(), "messages": messages})
}

fn worker() -> Value {
    json!({"type": "workerInfo", "data": {"webSocketId": "w", "schemaVersion": "v3"}})
}

fn room_info() -> Value {
    json!({"type": "roomInfo", "data": {"uniqueId": "ada", "roomInfo": {"id": ROOM, "isLive": true}}})
}

fn connect() -> Value {
    json!({"type": "tiktok.connect", "agentId": "a"})
}

/// A chat message of just now.
fn chat(msg_id: u64) -> Value {
    chat_of(msg_id, now().as_millis())
}

fn chat_of(msg_id: u64, created_ms: i64) -> Value {
    let common =
        json!({"msgId": msg_id.to_string(), "roomId": ROOM, "createTime": created_ms.to_string()});
    json!({"type": "WebcastChatMessage", "data": {"common": common, "content": "hello"}})
}

fn push_frame(log_id: i64, msg_ids: &[i64]) -> Bytes {
    let message = |&msg_id: &i64| {
        let message = BaseMessage {
            method: "WebcastChatMessage".to_owned(),
            msg_id,
            payload: vec![0xff; 10].into(),
            ..BaseMessage::default()
        };
        message.encode_to_vec().into()
    };
    let result = FetchResult {
        messages: msg_ids.iter().map(message).collect(),
        internal_ext: format!("ext-{log_id}"),
        need_ack: true,
        ..FetchResult::default()
    };
    PushFrame {
        log_id,
        payload_encoding: "pb".to_owned(),
        payload_type: "msg".to_owned(),
        payload: result.encode_to_vec().into(),
        ..PushFrame::default()
    }
    .encode_to_vec()
    .into()
}

fn gzip(bytes: &[u8]) -> Bytes {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap().into()
}

#[tokio::test(start_paused = true)]
async fn what_comes_before_the_room_is_known_is_not_lost() {
    let mut stage = Stage::silent().await;
    stage.say(&bundle(&[worker(), chat(1)])).await;
    stage.send(Message::Text("not yet".into())).await;
    stage.say(&bundle(&[chat(2), room_info(), chat(3)])).await;
    stage.say(&chat(4)).await;
    assert_eq!(stage.published(4).await, ["1", "2", "3", "4"]);
    assert_eq!(stage.tape.wait_for_letters(1).await.len(), 1);
    stage.stop.cancel();
    let story = stage.story().await;
    assert_eq!(story.end, End::of("shutdown"));
    assert_eq!(story.session.counts().messages, 4);
    let room = story.seen.unwrap().unwrap();
    assert_eq!(
        (room.id.as_str(), room.unique_id.as_deref()),
        (ROOM, Some("ada"))
    );
}

#[tokio::test(start_paused = true)]
async fn every_form_of_an_envelope_is_read() {
    let mut stage = Stage::new().await;
    stage.say(&bundle(&[chat(1), chat(2)])).await;
    stage.say(&chat(3)).await;
    stage.say(&json!([chat(4), chat(5)])).await;
    let bytes = |value: Value| Bytes::from(value.to_string().into_bytes());
    stage.send(Message::Binary(bytes(bundle(&[chat(6)])))).await;
    stage.send(Message::Binary(gzip(&bytes(chat(7))))).await;
    stage.send(Message::Binary(push_frame(1, &[8, 9]))).await;
    stage
        .send(Message::Binary(gzip(&push_frame(2, &[10]))))
        .await;
    stage
        .say(&json!({"type": "tiktok.disconnect", "data": {"reason": "bye"}}))
        .await;
    stage
        .say(&json!({"type": "tiktok.rawBytes", "data": {"raw": "AAAA"}}))
        .await;
    stage
        .say(&json!({"type": "SyntheticJoinMessage", "data": {"user": {"userId": "1"}}}))
        .await;
    stage
        .say(&json!({"type": "tiktok.novelty", "more": 1}))
        .await;
    let ids = stage.published(12).await;
    assert_eq!(
        ids[..10],
        ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10"]
    );
    let envelopes = stage.tape.wait_for(13).await;
    let kinds: Vec<_> = envelopes[11..]
        .iter()
        .map(|one| one.kind.as_str())
        .collect();
    assert_eq!(
        kinds,
        ["SyntheticJoinMessage", "tiktok.novelty"],
        "unknown is kept"
    );
    assert!(matches!(&envelopes[1].data, RawData::Json(data) if data["content"] == "hello"));
    assert!(matches!(&envelopes[8].data, RawData::Protobuf(bytes) if bytes.len() == 10));
    // Frames want to be confirmed; JSON does not.
    for log_id in [1, 2] {
        let ack = loop {
            if let Message::Binary(bytes) = stage.server.next().await.unwrap().unwrap() {
                break PushFrame::decode(bytes).unwrap();
            }
        };
        assert_eq!((ack.payload_type.as_str(), ack.log_id), ("ack", log_id));
        assert_eq!(ack.payload, format!("ext-{log_id}"));
    }
    stage.close(4500, "").await;
    let end = stage.story().await.end;
    assert_eq!(end.detail.as_deref(), Some("bye"), "TikTok's last words");
}

#[tokio::test(start_paused = true)]
async fn a_repeat_is_dropped_whichever_way_it_comes() {
    let mut stage = Stage::new().await;
    stage.say(&bundle(&[chat(1), chat(1)])).await;
    stage.send(Message::Binary(push_frame(1, &[1, 2]))).await;
    stage
        .say(&json!({"type": "WebcastChatMessage", "data": {"event": {"msgId": 2}}}))
        .await;
    stage.say(&chat(3)).await;
    assert_eq!(stage.published(3).await, ["1", "2", "3"]);
    stage.stop.cancel();
    let counts = stage.story().await.session.counts();
    assert_eq!((counts.messages, counts.repeats), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn close_codes_end_it_with_their_reason_after_what_came_before() {
    for (code, reason) in [
        (1000, "closed"),
        (1011, "closed"),
        (4005, "stream_end"),
        (4006, "closed"),
        (4400, "refused"),
        (4401, "refused"),
        (4403, "refused"),
        (4404, "stream_end"),
        (4429, "limited"),
        (4500, "closed"),
        (4555, "renewed"),
        (4556, "closed"),
        (4557, "closed"),
    ] {
        let mut stage = Stage::new().await;
        for id in 1..=5 {
            stage.say(&chat(id)).await;
        }
        stage
            .close(code, &format!("see wss://x?apiKey={KEY} or {KEY}"))
            .await;
        assert_eq!(stage.published(5).await.len(), 5);
        let end = stage.story().await.end;
        assert_eq!((end.reason, end.close_code), (reason, Some(code)));
        assert_eq!(end.detail.as_deref(), Some("see … or …"));
    }
    let mut stage = Stage::new().await;
    stage.published(0).await;
    stage.server.close(None).await.unwrap();
    assert_eq!(stage.story().await.end.close_code, Some(1005));
    let stage = Stage::new().await;
    stage.published(0).await;
    let Stage { server, client, .. } = stage;
    drop(server);
    let end = client.await.unwrap().end;
    assert_eq!((end.reason, end.close_code), ("lost", Some(1006)));
}

#[tokio::test(start_paused = true)]
async fn a_close_before_the_room_is_known_says_why_or_that_there_is_no_broadcast() {
    for code in [
        1000, 1011, 4006, 4400, 4401, 4403, 4429, 4500, 4555, 4556, 4557,
    ] {
        let mut stage = Stage::silent().await;
        stage.close(code, &format!("key {KEY}")).await;
        let message = Some("key …".to_owned());
        let error = stage.story().await.seen.unwrap_err();
        assert_eq!(error, Error::Closed { code, message });
    }
    for code in [4404, 4005] {
        let mut stage = Stage::silent().await;
        stage.say(&bundle(&[worker()])).await;
        stage.close(code, "").await;
        assert_eq!(stage.story().await.seen, Ok(None));
    }
    let mut stage = Stage::silent().await;
    let over = json!({"type": "roomInfo", "data": {"roomInfo": {"id": ROOM, "isLive": false}}});
    stage.say(&over).await;
    assert_eq!(stage.story().await.seen, Ok(None));
    let stage = Stage::silent().await;
    drop(stage.server);
    let error = stage.client.await.unwrap().seen.unwrap_err();
    assert_eq!(error.close_code(), Some(1006));
}

#[tokio::test(start_paused = true)]
async fn the_wait_for_the_room_is_bounded() {
    let mut stage = Stage::silent().await;
    let begun = Instant::now();
    stage.say(&bundle(&[worker(), chat(1)])).await;
    let error = stage.story().await.seen.unwrap_err();
    assert!(matches!(error, Error::NoRoom(_)), "{error}");
    assert_eq!(begun.elapsed(), ROOM_TIMEOUT);

    // A room without a word from TikTok's side is read all the same.
    let mut stage = Stage::silent().await;
    let begun = Instant::now();
    stage.say(&bundle(&[worker(), room_info()])).await;
    stage.published(0).await;
    assert_eq!(begun.elapsed(), READY_TIMEOUT);

    let mut stage = Stage::silent().await;
    let filler = json!({"type": "X", "data": {"x": "x".repeat(500_000)}});
    for _ in 0..10 {
        let _ = timeout(
            Duration::from_secs(1),
            stage.server.send(Message::Text(filler.to_string().into())),
        )
        .await;
    }
    let error = stage.story().await.seen.unwrap_err();
    assert_eq!(error, Error::NoRoom("too much came before it".to_owned()));

    let mut stage = Stage::silent().await;
    stage
        .say(&json!({"type": "roomInfo", "data": {"roomInfo": {"id": "x"}}}))
        .await;
    let error = stage.story().await.seen.unwrap_err();
    assert!(matches!(error, Error::NoRoom(_)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_quiet_room_lives_as_long_as_pings_are_answered() {
    let mut stage = Stage::new().await;
    stage.published(0).await;
    let begun = Instant::now();
    let mut pings = 0;
    // Reading is what answers pings.
    while begun.elapsed() < Duration::from_mins(30) {
        match timeout(Duration::from_mins(1), stage.server.next()).await {
            Ok(Some(Ok(Message::Ping(_)))) => pings += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!((85..=95).contains(&pings), "{pings}");
    // From here on nobody answers.
    let quiet = Instant::now();
    let end = stage.story().await.end;
    assert_eq!(end.reason, "silent");
    assert!(quiet.elapsed() <= SILENCE, "{:?}", quiet.elapsed());
}

#[tokio::test(start_paused = true)]
async fn it_leaves_before_euler_closes_it() {
    let mut stage = Stage::new().await;
    let begun = Instant::now();
    let mut server = stage.server;
    tokio::spawn(async move { while let Some(Ok(_)) = server.next().await {} });
    let end = (&mut stage.client).await.unwrap().end;
    assert_eq!(end.reason, "renewed");
    let lived = begun.elapsed();
    assert!(
        lived <= LIFETIME && lived + LIFETIME_JITTER >= LIFETIME,
        "{lived:?}"
    );
    assert!(lived < Duration::from_hours(8));
}

#[tokio::test(start_paused = true)]
async fn while_redis_is_away_it_stops_reading_and_loses_nothing() {
    let mut stage = Stage::new().await;
    stage.published(0).await;
    stage.redis_away.send_replace(true);
    // More than the buffer of 32 MiB and the pipe hold.
    let mut said = 0;
    loop {
        said += 1;
        let mut big = chat(said);
        big["data"]["content"] = "x".repeat(700_000).into();
        let sending = stage.server.send(Message::Text(big.to_string().into()));
        if timeout(Duration::from_secs(5), sending).await.is_err() {
            break;
        }
        assert!(
            said < 100,
            "no back-pressure: JSON takes no room in the buffer"
        );
    }
    tokio::time::sleep(Duration::from_mins(5)).await;
    stage.redis_away.send_replace(false);
    let mut server = stage.server;
    let reading = tokio::spawn(async move {
        server.flush().await.unwrap();
        while let Some(Ok(_)) = server.next().await {}
    });
    let count = usize::try_from(said).unwrap();
    assert_eq!(stage.tape.wait_for(count + 1).await.len(), count + 1);
    reading.abort();
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_broadcast_ends_the_session_after_what_is_on_its_way() {
    for action in [json!(3), json!("4"), json!("CONTROL_ACTION_STREAM_ENDED")] {
        let mut stage = Stage::new().await;
        let control = json!({"type": "WebcastControlMessage", "data": {"common": {"msgId": "2"}, "action": action}});
        stage.say(&bundle(&[chat(1), control, chat(3)])).await;
        stage.say(&chat(4)).await;
        assert_eq!(stage.published(4).await, ["1", "2", "3", "4"]);
        let begun = Instant::now();
        let end = stage.story().await.end;
        assert_eq!(end.reason, "stream_end");
        assert!(begun.elapsed() <= AFTER_END + Duration::from_millis(500));
    }
}

#[tokio::test(start_paused = true)]
async fn history_is_backlog_at_the_beginning_only() {
    let mut stage = Stage::new().await;
    stage.published(0).await;
    let ago = |seconds: i64| now().as_millis() - seconds * 1000;
    let mut said = chat_of(6, ago(0));
    said["data"]["isHistory"] = true.into();
    let old = [
        chat_of(1, ago(30)),
        chat_of(2, ago(8)),
        chat_of(3, ago(2)),
        chat_of(4, ago(100_000)),
    ];
    stage.say(&bundle(&old)).await;
    stage
        .say(&json!({"type": "WebcastChatMessage", "data": {"common": {"msgId": "5"}}}))
        .await;
    stage.say(&said).await;
    stage.published(6).await;
    let mut server = stage.server;
    let (say, mut said) = tokio::sync::mpsc::channel::<Value>(1);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                value = said.recv() => match value {
                    Some(value) => server.send(Message::Text(value.to_string().into())).await.unwrap(),
                    None => break,
                },
                _ = server.next() => {}
            }
        }
    });
    tokio::time::sleep(HISTORY_WINDOW).await;
    say.send(chat_of(7, ago(30))).await.unwrap();
    let envelopes = stage.tape.wait_for(8).await;
    let backlog: Vec<_> = envelopes[1..].iter().map(|one| one.backlog).collect();
    assert_eq!(
        backlog,
        [true, true, false, false, false, true, false],
        "a delay, a wrong clock and no time are no history"
    );
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_a_dead_letter_without_the_key_and_costs_nothing_else() {
    let mut stage = Stage::new().await;
    stage
        .send(Message::Text(format!("no JSON but {KEY}").into()))
        .await;
    let cookie = "kAnArY0123456789";
    stage
        .send(Message::Text(
            format!("no JSON but sessionid={cookie}").into(),
        ))
        .await;
    stage
        .send(Message::Binary(Bytes::from_static(b"\xff\xff\xff garbage")))
        .await;
    stage
        .send(Message::Binary(Bytes::from_static(b"{\"a\":\"\xff\"}")))
        .await;
    stage
        .send(Message::Binary(Bytes::from_static(b"\x1f\x8b\x08 no gzip")))
        .await;
    stage
        .say(&bundle(&[
            json!(5),
            chat(1),
            json!({"type": "X", "data": 7}),
        ]))
        .await;
    stage.say(&json!({"type": "Echo", "data": {"common": {"msgId": "2"}, "url": format!("/?apiKey={KEY}")}})).await;
    assert_eq!(stage.published(2).await, ["1", "2"]);
    let letters = stage.tape.wait_for_letters(7).await;
    assert_eq!(letters.len(), 7);
    for letter in &letters {
        assert_eq!((letter.stage, letter.reason), ("ingest", "FRAME_ERROR"));
        let payload: Value = serde_json::from_str(&letter.payload).unwrap();
        let bytes = STANDARD.decode(payload["frame"].as_str().unwrap()).unwrap();
        let frame = String::from_utf8_lossy(&bytes);
        assert!(!frame.contains(KEY) && !frame.contains(cookie), "{frame}");
        assert!(!format!("{letter:?}").contains(KEY));
    }
    let envelopes = stage.tape.wait_for(3).await;
    assert!(!envelopes[2].data.to_text().contains(KEY));

    for _ in 0..DEAD_LETTERS + 20 {
        stage.send(Message::Text("{".into())).await;
    }
    stage.say(&chat(3)).await;
    stage.published(3).await;
    let letters = stage.tape.letters.borrow().len() as u64;
    assert_eq!(
        letters, DEAD_LETTERS,
        "garbage does not flood the dead letters"
    );
    stage.stop.cancel();
    assert_eq!(
        stage.story().await.session.counts().malformed,
        DEAD_LETTERS + 27
    );
}

#[tokio::test(start_paused = true)]
async fn big_messages_are_read_and_too_big_ones_end_the_connection() {
    let mut stage = Stage::new().await;
    let mut big = chat(1);
    big["data"]["content"] = "x".repeat(FRAME_LIMIT - 1_000).into();
    stage.say(&big).await;
    stage.published(1).await;
    let text = "x".repeat(FRAME_LIMIT + 1);
    let _ = timeout(
        Duration::from_secs(5),
        stage.server.send(Message::Text(text.into())),
    )
    .await;
    assert_eq!(stage.story().await.end.reason, "protocol");
}

#[tokio::test(start_paused = true)]
async fn another_room_on_the_same_socket_is_another_connection() {
    let mut stage = Stage::new().await;
    let mut elsewhere = chat(2);
    elsewhere["data"]["common"]["roomId"] = "7777".into();
    stage.say(&bundle(&[chat(1), elsewhere, room_info()])).await;
    let mut moved = room_info();
    moved["data"]["roomInfo"]["id"] = "7999".into();
    stage.say(&bundle(&[chat(3), moved])).await;
    assert_eq!(
        stage.published(3).await,
        ["1", "2", "3"],
        "a header's room is not believed"
    );
    let end = stage.story().await.end;
    assert_eq!(end.reason, "room_changed");
    assert_eq!(end.detail.as_deref(), Some("now in room 7999"));
}
