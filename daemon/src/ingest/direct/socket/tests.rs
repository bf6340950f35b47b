//! The life of a connection against a scripted server.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::SinkExt as _;
use prost::Message as _;
use shared::raw::RawData;
use tokio::io::DuplexStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use super::*;
use crate::ingest::outbox::Outbox;
use crate::ingest::socket::tape::Tape;
use crate::ingest::socket::{CLOSE_TIMEOUT, DEAD_LETTERS, FRAME_LIMIT, limits};
use crate::proto::frames::{BaseMessage, EnterRoom, FetchResult, Heartbeat, PushFrame};
use crate::proto::webcast::ControlMessage;

const ROOM: i64 = 7_301_234_567_890_123_456;

/// A connection whose server is the test.
struct Stage {
    server: WebSocketStream<DuplexStream>,
    client: tokio::task::JoinHandle<(End, Session)>,
    redis_away: watch::Sender<bool>,
    tape: Tape,
    stop: CancellationToken,
    /// Kept so that the publisher goes on.
    _outbox: Outbox,
}

impl Stage {
    async fn new(first: Parcel) -> Self {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let socket = WebSocketStream::from_raw_socket(ours, Role::Client, Some(limits())).await;
        let server = WebSocketStream::from_raw_socket(theirs, Role::Server, None).await;
        let (tape, outbox, redis_away) = Tape::new();
        let (outlet, stop) = (outbox.outlet(), CancellationToken::new());
        let told = stop.clone();
        let client = tokio::spawn(async move {
            let mut session = Session::new(ROOM.to_string(), None, now());
            let connection = Connection {
                socket: Box::new(socket),
                room_id: ROOM,
                beats: 0,
            };
            let end = connection
                .run(&mut session, first, &outlet, Duration::from_mins(1), &told)
                .await;
            (end, session)
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

    /// The next frame of the client.
    async fn heard(&mut self) -> PushFrame {
        loop {
            match self.server.next().await.unwrap().unwrap() {
                Message::Binary(bytes) => return PushFrame::decode(bytes).unwrap(),
                Message::Close(_) => panic!("closed"),
                _ => {}
            }
        }
    }

    /// The next frame that is not a heartbeat.
    async fn heard_but_heartbeats(&mut self) -> PushFrame {
        loop {
            let frame = self.heard().await;
            if frame.payload_type != "hb" {
                return frame;
            }
        }
    }

    async fn say(&mut self, frame: Bytes) {
        self.server.send(Message::Binary(frame)).await.unwrap();
    }

    async fn say_chat(&mut self, msg_id: i64) {
        self.say(frame_of(msg_id, &[chat(msg_id, 10)])).await;
    }

    /// The ids that have been published, once there are `count`.
    async fn published(&self, count: usize) -> Vec<String> {
        let mut envelopes = self.tape.envelopes.subscribe();
        let all = envelopes.wait_for(|all| all.len() >= count).await.unwrap();
        all.iter()
            .filter_map(|envelope| envelope.msg_id.clone())
            .collect()
    }

    async fn end(self) -> (End, Session) {
        self.client.await.unwrap()
    }
}

fn chat(msg_id: i64, bytes: usize) -> BaseMessage {
    BaseMessage {
        method: "WebcastChatMessage".to_owned(),
        msg_id,
        payload: vec![0xff; bytes].into(),
        ..BaseMessage::default()
    }
}

fn frame_of(log_id: i64, messages: &[BaseMessage]) -> Bytes {
    let result = FetchResult {
        messages: messages
            .iter()
            .map(|message| message.encode_to_vec().into())
            .collect(),
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

#[tokio::test(start_paused = true)]
async fn it_enters_beats_and_acknowledges() {
    let mut stage = Stage::new(Parcel::default()).await;
    let enter = stage.heard().await;
    assert_eq!(enter.payload_type, "im_enter_room");
    assert_eq!(EnterRoom::decode(enter.payload).unwrap().room_id, ROOM);
    let begun = Instant::now();
    for number in 1..=4 {
        let beat = stage.heard().await;
        assert_eq!(beat.payload_type, "hb");
        assert_eq!(
            Heartbeat::decode(beat.payload).unwrap(),
            Heartbeat {
                room_id: ROOM,
                send_packet_seq_id: number
            }
        );
        assert_eq!(
            begun.elapsed().as_secs(),
            u64::try_from(number - 1).unwrap() * 10
        );
    }
    stage.say_chat(7).await;
    let ack = stage.heard_but_heartbeats().await;
    assert_eq!((ack.payload_type.as_str(), ack.log_id), ("ack", 7));
    assert_eq!(ack.payload, "ext-7");
    assert_eq!(stage.published(1).await, ["7"]);
    stage.stop.cancel();
    let (end, session) = stage.end().await;
    assert_eq!(
        end,
        End {
            reason: "shutdown",
            ..End::default()
        }
    );
    assert_eq!(session.counts().messages, 1);
}

#[tokio::test(start_paused = true)]
async fn while_redis_is_away_it_beats_and_stops_reading_and_loses_nothing() {
    let mut stage = Stage::new(Parcel::default()).await;
    stage.redis_away.send_replace(true);
    // 100 messages of 500 kB are more than the buffer of 32 MiB and the pipe hold.
    let mut said = 0;
    loop {
        said += 1;
        let frame = frame_of(said, &[chat(said, 500_000)]);
        let sending = stage.server.send(Message::Binary(frame));
        if timeout(Duration::from_secs(5), sending).await.is_err() {
            break;
        }
        assert!(said < 100, "no back-pressure");
    }
    assert!(said > 40, "the buffer is smaller than told: {said}");
    // Reading has stopped for minutes, and heartbeats go on.
    let begun = Instant::now();
    let mut beats = 0;
    while begun.elapsed() < Duration::from_mins(5) {
        beats += u32::from(stage.heard().await.payload_type == "hb");
    }
    assert!(beats >= 29, "{beats}");
    stage.redis_away.send_replace(false);
    stage.server.flush().await.unwrap();
    let expected: Vec<_> = (1..=said).map(|id| id.to_string()).collect();
    assert_eq!(stage.published(expected.len()).await, expected);
}

#[tokio::test(start_paused = true)]
async fn silence_of_a_minute_is_the_end() {
    let mut stage = Stage::new(Parcel::default()).await;
    stage.say_chat(1).await;
    tokio::time::sleep(Duration::from_secs(50)).await;
    // Any frame is a sign of life, also an answer to a heartbeat.
    let answer = PushFrame {
        payload_type: "hb".to_owned(),
        ..PushFrame::default()
    };
    stage.say(answer.encode_to_vec().into()).await;
    let begun = Instant::now();
    let (end, _) = stage.end().await;
    assert_eq!((end.reason, begun.elapsed().as_secs()), ("silent", 60));
}

#[tokio::test(start_paused = true)]
async fn what_came_before_a_close_is_published() {
    let mut stage = Stage::new(Parcel::default()).await;
    for id in 1..=20 {
        stage.say_chat(id).await;
    }
    let frame = CloseFrame {
        code: 1011.into(),
        reason: "payload_handler_hb".into(),
    };
    stage.server.close(Some(frame)).await.unwrap();
    assert_eq!(stage.published(20).await.len(), 20);
    let (end, _) = stage.end().await;
    let detail = Some("payload_handler_hb".to_owned());
    assert_eq!(
        end,
        End {
            reason: "closed",
            close_code: Some(1011),
            detail
        }
    );
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_breaks_off_is_lost() {
    let mut stage = Stage::new(Parcel::default()).await;
    stage.heard().await;
    let Stage { server, client, .. } = stage;
    drop(server);
    let (end, _) = client.await.unwrap();
    assert_eq!((end.reason, end.close_code), ("lost", Some(1006)));
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_broadcast_ends_the_session_after_what_is_on_its_way() {
    let mut stage = Stage::new(Parcel::default()).await;
    let end = ControlMessage {
        action: 3,
        ..ControlMessage::default()
    };
    let control = BaseMessage {
        method: "WebcastControlMessage".to_owned(),
        msg_id: 2,
        payload: end.encode_to_vec().into(),
        ..BaseMessage::default()
    };
    stage
        .say(frame_of(1, &[chat(1, 10), control, chat(3, 10)]))
        .await;
    stage.say_chat(4).await;
    assert_eq!(stage.published(4).await, ["1", "2", "3", "4"]);
    let begun = Instant::now();
    let (end, _) = stage.end().await;
    assert_eq!(end.reason, "stream_end");
    assert!(begun.elapsed() <= AFTER_END + CLOSE_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_becomes_a_dead_letter_and_the_next_frame_is_read() {
    let mut stage = Stage::new(Parcel::default()).await;
    stage.say(Bytes::from_static(b"\xff\xff\xff garbage")).await;
    stage.server.send(Message::text("{}")).await.unwrap();
    stage.say_chat(1).await;
    assert_eq!(stage.published(1).await, ["1"]);
    let letters = stage.tape.letters.borrow().clone();
    assert_eq!(letters.len(), 2);
    for letter in &letters {
        assert_eq!((letter.stage, letter.reason), ("ingest", "FRAME_ERROR"));
        let payload: serde_json::Value = serde_json::from_str(&letter.payload).unwrap();
        assert_eq!(payload["streamId"], ROOM.to_string());
    }
    let payload: serde_json::Value = serde_json::from_str(&letters[0].payload).unwrap();
    assert_eq!(
        STANDARD.decode(payload["frame"].as_str().unwrap()).unwrap(),
        b"\xff\xff\xff garbage"
    );

    for _ in 0..DEAD_LETTERS + 20 {
        stage.say(Bytes::from_static(b"\xff")).await;
    }
    stage.say_chat(2).await;
    stage.published(2).await;
    assert_eq!(
        stage.tape.letters.borrow().len() as u64,
        DEAD_LETTERS,
        "garbage does not flood the dead letters"
    );
    stage.stop.cancel();
    assert_eq!(stage.end().await.1.counts().malformed, DEAD_LETTERS + 22);
}

#[tokio::test(start_paused = true)]
async fn a_message_beyond_the_limit_ends_the_connection() {
    let mut stage = Stage::new(Parcel::default()).await;
    let _ = timeout(
        Duration::from_secs(5),
        stage
            .server
            .send(Message::Binary(vec![0; FRAME_LIMIT + 1].into())),
    )
    .await;
    let (end, _) = stage.end().await;
    assert_eq!(end.reason, "protocol");
}

#[tokio::test(start_paused = true)]
async fn what_goes_ahead_is_published_ahead() {
    let mut session = Session::new("1".to_owned(), None, now());
    let messages = vec![Ok(chat(1, 1)), Ok(chat(2, 1)), Ok(chat(1, 1))];
    let first = parcel(messages, &mut session, true);
    assert_eq!(first.envelopes.len(), 2, "a repeat is left out");
    assert!(first.envelopes.iter().all(|envelope| envelope.backlog));
    assert!(matches!(first.envelopes[0].data, RawData::Protobuf(_)));
    let mut stage = Stage::new(first).await;
    stage.say_chat(3).await;
    assert_eq!(stage.published(3).await, ["1", "2", "3"]);
}
