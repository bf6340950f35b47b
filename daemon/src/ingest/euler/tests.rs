//! The provider against servers on real sockets.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use clap::Parser as _;
use futures_util::{SinkExt as _, StreamExt as _};
use rustls_platform_verifier::ConfigVerifierExt as _;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use shared::raw::{Envelope, RawData};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::ingest::direct::proxy::Proxy;
use crate::ingest::failure::Retry;
use crate::ingest::outbox::Parcel;
use crate::ingest::provider::{Delivery as _, End};
use crate::ingest::session::Session;
use crate::ingest::socket::now;
use crate::ingest::socket::tape::Tape;

const KEY: &str = "canary key+/=4711";
const ROOM: &str = "7301234567890123456";

/// What the server does with a connection.
#[derive(Clone)]
enum Act {
    /// Answers the request with this status, these headers, and a body that repeats the address.
    Refuse(u16, &'static str),
    /// Opens, and closes at once.
    Close(u16),
    /// Opens, shows the room, says these texts, and closes with 4005.
    Play(Vec<String>),
    /// Opens, shows the room, and waits.
    Wait,
    /// Takes the connection and says nothing.
    Stall,
    /// Breaks off.
    Reset,
}

/// A server of Euler's kind, with what it was asked.
struct Server {
    url: String,
    queries: Arc<Mutex<Vec<HashMap<String, String>>>>,
    open: Arc<AtomicUsize>,
}

impl Server {
    /// Does the acts in their order, the last one again and again.
    async fn start(acts: Vec<Act>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        let queries = Arc::new(Mutex::new(Vec::new()));
        let open = Arc::new(AtomicUsize::new(0));
        let (asked, count) = (queries.clone(), open.clone());
        tokio::spawn(async move {
            for number in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                let act = acts[number.min(acts.len() - 1)].clone();
                let (asked, count) = (asked.clone(), count.clone());
                tokio::spawn(async move {
                    count.fetch_add(1, Ordering::SeqCst);
                    serve(stream, act, &asked).await;
                    count.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { url, queries, open }
    }

    fn queries(&self) -> Vec<HashMap<String, String>> {
        self.queries.lock().unwrap().clone()
    }

    /// Waits until the server has nothing open.
    async fn all_closed(&self) {
        tokio::time::timeout(Duration::from_secs(10), async {
            while self.open.load(Ordering::SeqCst) > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("a socket stays open");
    }
}

#[allow(clippy::result_large_err, reason = "the library's signature")]
async fn serve(stream: TcpStream, act: Act, asked: &Mutex<Vec<HashMap<String, String>>>) {
    let mut stream = stream;
    match act {
        Act::Reset => {
            let mut request = [0; 64];
            let _ = stream.read(&mut request).await;
            return;
        }
        Act::Stall => {
            let mut sink = Vec::new();
            let _ = stream.read_to_end(&mut sink).await;
            return;
        }
        _ => {}
    }
    let refusal = match &act {
        Act::Refuse(status, header) => Some((*status, *header)),
        _ => None,
    };
    let callback = |request: &Request, response: Response| {
        let address = format!("ws://x{}", request.uri());
        let url = url::Url::parse(&address).unwrap();
        let query: HashMap<_, _> = url.query_pairs().into_owned().collect();
        asked.lock().unwrap().push(query.clone());
        let Some((status, header)) = refusal else {
            return Ok(response);
        };
        let said = format!("{address} with {}", query["apiKey"]);
        let mut refused =
            ErrorResponse::new(Some(json!({"code": status, "message": said}).to_string()));
        *refused.status_mut() = status.try_into().unwrap();
        if let Some((name, value)) = header.split_once(": ") {
            refused.headers_mut().insert(name, value.parse().unwrap());
        }
        Err(refused)
    };
    let Ok(mut socket) = tokio_tungstenite::accept_hdr_async(stream, callback).await else {
        return;
    };
    match act {
        Act::Close(code) => close(&mut socket, code).await,
        Act::Play(texts) => {
            show(&mut socket).await;
            for text in texts {
                socket.send(Message::Text(text.into())).await.unwrap();
            }
            close(&mut socket, 4005).await;
        }
        _ => show(&mut socket).await,
    }
    while let Some(Ok(_)) = socket.next().await {}
}

async fn show(socket: &mut WebSocketStream<TcpStream>) {
    for message in [
        json!({"type": "workerInfo", "data": {"schemaVersion": "v3"}}),
        json!({"type": "roomInfo", "data": {"uniqueId": "Ada", "roomInfo": {"id": ROOM, "title": "Quiz"}}}),
        json!({"type": "tiktok.connect", "data": {"agentId": "a"}}),
    ] {
        let envelope = json!({"timestamp": now().as_millis(), "messages": [message]});
        socket
            .send(Message::Text(envelope.to_string().into()))
            .await
            .unwrap();
    }
}

async fn close(socket: &mut WebSocketStream<TcpStream>, code: u16) {
    let frame = CloseFrame {
        code: code.into(),
        reason: "that is it".into(),
    };
    socket.close(Some(frame)).await.unwrap();
}

#[derive(clap::Parser)]
struct Command {
    #[command(flatten)]
    options: Options,
}

fn shared_with(url: &str, proxy: Option<&str>, arguments: &[&str]) -> Arc<Shared> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let words = [&["ttlc", "--euler-ws-url", url], arguments].concat();
    let settings = Command::try_parse_from(words)
        .unwrap()
        .options
        .check()
        .unwrap();
    let dialer = Dialer {
        proxy: proxy.map(|text| Proxy::parse(&SecretString::from(text)).unwrap()),
        tls: Arc::new(rustls::ClientConfig::with_platform_verifier().unwrap()),
    };
    let budget = Arc::new(Budget::new("euler", 6_000, 6_000));
    Arc::new(Shared::new(
        settings,
        SecretString::from(KEY),
        dialer,
        budget,
    ))
}

fn shared(server: &Server, arguments: &[&str]) -> Arc<Shared> {
    shared_with(&server.url, None, arguments)
}

fn no_key(text: &str) {
    assert!(!text.contains("canary"), "{text}");
}

/// Looks, enters, and reads to the end.
async fn play(euler: &mut Euler, session: &mut Session) -> (End, Vec<Envelope>) {
    let Some(room) = euler.find("ada", Urgency::Room).await.unwrap() else {
        panic!("not live")
    };
    let connection = euler.open("ada", &room).await.unwrap();
    let (tape, outbox, _redis) = Tape::new();
    let stop = CancellationToken::new();
    let outlet = outbox.outlet();
    let silence = Duration::from_secs(20);
    let end = connection
        .run(session, Parcel::default(), &outlet, silence, &stop)
        .await;
    let count = usize::try_from(session.counts().messages).unwrap();
    (end, tape.wait_for(count).await)
}

#[tokio::test]
async fn it_asks_for_what_the_fact_sheet_says_and_keeps_the_socket_for_entering() {
    let server = Server::start(vec![Act::Wait]).await;
    let shared = shared(&server, &[]);
    let mut euler = Euler::new(shared.clone());
    let Some(room) = euler.find("ada.live", Urgency::Room).await.unwrap() else {
        panic!("not live")
    };
    assert_eq!(
        (room.id.as_str(), room.title.as_deref()),
        (ROOM, Some("Quiz"))
    );
    assert_eq!(shared.open_sockets(), 1);
    euler.find("ada.live", Urgency::Room).await.unwrap();
    let _connection = euler.open("ada.live", &room).await.unwrap();
    let queries = server.queries();
    assert_eq!(queries.len(), 1, "one request for all of that");
    let expected = [
        ("uniqueId", "ada.live"),
        ("apiKey", KEY),
        ("features.schemaVersion", "v3"),
        ("features.bundleEvents", "true"),
        ("features.rawMessages", "false"),
        ("features.closeInactiveWebSocketAfter", "300"),
    ];
    let expected: HashMap<_, _> = expected
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    assert_eq!(queries[0], expected);
    let address = dial::address(&shared.settings, &shared.key, "a", "v1");
    no_key(&format!("{address:?}"));
    assert!(
        address
            .expose_secret()
            .contains("apiKey=canary%20key%2B%2F%3D4711&")
    );
}

#[tokio::test]
async fn a_socket_that_nobody_entered_is_closed() {
    let server = Server::start(vec![Act::Wait]).await;
    let shared = shared(&server, &[]);
    let mut euler = Euler::new(shared.clone());
    euler.find("ada", Urgency::Room).await.unwrap();
    euler.find("bob", Urgency::Room).await.unwrap();
    assert_eq!(shared.open_sockets(), 1, "the first one is gone");
    euler.leave();
    assert_eq!(shared.open_sockets(), 0);
    server.all_closed().await;
    euler.find("ada", Urgency::Room).await.unwrap();
    drop(euler);
    assert_eq!(shared.open_sockets(), 0);
    server.all_closed().await;
}

#[tokio::test]
async fn another_room_than_was_seen_is_not_entered() {
    let server = Server::start(vec![Act::Wait]).await;
    let mut euler = Euler::new(shared(&server, &[]));
    let asked = Room {
        id: "7".to_owned(),
        ..Room::default()
    };
    // Nobody has looked: the way from another provider's look.
    let error = euler.open("ada", &asked).await.unwrap_err();
    assert!(matches!(error, Error::Moved { found, .. } if found == ROOM));
    assert!(matches!(
        euler.find("ada", Urgency::Room).await,
        Ok(Some(_))
    ));
    assert_eq!(
        server.queries().len(),
        1,
        "the socket is still good for its own room"
    );
}

#[tokio::test]
async fn recorded_messages_become_envelopes() {
    for (file, count, ids) in [
        ("encoded-v1", 23, 15),
        ("encoded-v2", 31, 31),
        ("encoded-v3", 33, 33),
        ("observed-v2", 16, 1),
    ] {
        let path = format!(
            "{}/../tests/fixtures/euler-ws/{file}.ndjson",
            env!("CARGO_MANIFEST_DIR")
        );
        let lines: Vec<String> = std::fs::read_to_string(path)
            .unwrap()
            .lines()
            // The observed room has another id; its own line about it is a test of its own.
            .filter(|line| !line.contains("\"roomInfo\""))
            .map(str::to_owned)
            .collect();
        let server = Server::start(vec![Act::Play(lines.clone())]).await;
        let mut euler = Euler::new(shared(&server, &[]));
        let mut session = Session::new(ROOM.to_owned(), None, now());
        let (end, envelopes) = play(&mut euler, &mut session).await;
        assert_eq!(
            (end.reason, end.close_code),
            ("stream_end", Some(4005)),
            "{file}"
        );
        assert_eq!(envelopes.len(), count, "{file}");
        assert_eq!(session.counts().malformed, 0);
        let known = envelopes.iter().filter(|one| one.msg_id.is_some());
        assert_eq!(known.count(), ids, "{file}");

        let sent = lines.iter().flat_map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            let messages = line["messages"].as_array().unwrap().clone();
            messages.into_iter().filter(|one| {
                !matches!(one["type"].as_str(), Some("tiktok.connect" | "workerInfo"))
            })
        });
        let first = envelopes[0].seq_no;
        for ((envelope, message), seq_no) in envelopes.iter().zip(sent).zip(first..) {
            assert_eq!(
                (envelope.seq_no, envelope.stream_id.as_str()),
                (seq_no, ROOM)
            );
            assert_eq!(envelope.kind, message["type"]);
            let RawData::Json(data) = &envelope.data else {
                panic!("{file}: not JSON")
            };
            assert_eq!(Value::Object(data.clone()), message["data"]);
            let data = &message["data"];
            let header = data.get("common").or_else(|| data.get("event"));
            let msg_id = header.and_then(|header| header["msgId"].as_str());
            assert_eq!(envelope.msg_id.as_deref(), msg_id);
        }

        // The same socket once more, as after a reconnect: what has an id is recognised.
        session.close();
        session.renew(now());
        let before = session.counts();
        let (_, again) = play(&mut euler, &mut session).await;
        let fresh = again.iter().filter(|one| one.msg_id.is_some());
        assert_eq!(fresh.count(), 0, "{file}");
        assert!(session.counts().repeats >= before.repeats + ids as u64);
    }
}

#[tokio::test]
async fn refusals_and_closes_tell_no_key_and_hold_the_account_when_limited() {
    for (act, retry) in [
        (Act::Refuse(401, ""), Retry::Never),
        (Act::Refuse(403, ""), Retry::Never),
        (Act::Refuse(500, ""), Retry::Policy),
        (
            Act::Refuse(301, "location: http://127.0.0.1:1/?apiKey=canary"),
            Retry::Policy,
        ),
        (Act::Reset, Retry::Policy),
        (Act::Close(4401), Retry::Never),
        (Act::Close(4429), Retry::Long),
        (Act::Close(4556), Retry::AtLeast(Duration::from_secs(10))),
    ] {
        let server = Server::start(vec![act]).await;
        let shared = shared(&server, &[]);
        let error = Euler::new(shared.clone())
            .find("ada", Urgency::Room)
            .await
            .unwrap_err();
        assert_eq!(error.retry(), retry, "{error}");
        no_key(&format!("{error} {error:?}"));
        assert_eq!(shared.open_sockets(), 0);
    }

    let server = Server::start(vec![Act::Refuse(429, "retry-after: 700")]).await;
    let shared = shared(&server, &[]);
    let (mut one, mut other) = (Euler::new(shared.clone()), Euler::new(shared));
    let error = one.find("ada", Urgency::Room).await.unwrap_err();
    no_key(&format!("{error} {error:?}"));
    assert_eq!(error.retry(), Retry::AtLeast(Duration::from_secs(700)));
    let error = other.find("bob", Urgency::Room).await.unwrap_err();
    assert!(
        matches!(error, Error::Limited { wait, .. } if wait > Duration::from_secs(690)),
        "{error}"
    );
    assert_eq!(server.queries().len(), 1, "the limit is the account's");
}

#[tokio::test]
async fn who_is_offline_is_no_error() {
    let server = Server::start(vec![Act::Close(4404)]).await;
    let shared = shared(&server, &[]);
    assert_eq!(
        Euler::new(shared.clone()).find("ada", Urgency::Room).await,
        Ok(None)
    );
    assert_eq!(shared.open_sockets(), 0);
}

#[tokio::test]
async fn v2_is_asked_for_where_v3_is_refused() {
    for refusal in [Act::Close(4400), Act::Refuse(400, "")] {
        let server = Server::start(vec![refusal, Act::Wait]).await;
        let shared = shared(&server, &[]);
        assert!(matches!(
            Euler::new(shared.clone()).find("ada", Urgency::Room).await,
            Ok(Some(_))
        ));
        assert!(matches!(
            Euler::new(shared).find("bob", Urgency::Room).await,
            Ok(Some(_))
        ));
        let asked: Vec<_> = server
            .queries()
            .iter()
            .map(|query| query["features.schemaVersion"].clone())
            .collect();
        assert_eq!(
            asked,
            ["v3", "v2", "v2"],
            "once refused, it is not asked for again"
        );
    }
    // What was chosen stays chosen, and a refusal of everything is final.
    let server = Server::start(vec![Act::Close(4400)]).await;
    for arguments in [
        &["--euler-schema-version", "v3"][..],
        &["--euler-raw-messages", "on"],
    ] {
        let error = Euler::new(shared(&server, arguments))
            .find("ada", Urgency::Room)
            .await
            .unwrap_err();
        assert_eq!(error.retry(), Retry::Never);
    }
    let asked: Vec<_> = server
        .queries()
        .iter()
        .map(|query| {
            (
                query["features.schemaVersion"].clone(),
                query["features.rawMessages"].clone(),
            )
        })
        .collect();
    let asked: Vec<_> = asked
        .iter()
        .map(|(schema, raw)| (schema.as_str(), raw.as_str()))
        .collect();
    assert_eq!(asked, [("v3", "false"), ("v3", "true"), ("v2", "true")]);
}

#[tokio::test]
async fn no_more_sockets_are_open_than_are_allowed() {
    let server = Server::start(vec![Act::Wait]).await;
    let shared = shared(&server, &["--euler-max-sockets", "1"]);
    let (mut one, mut other) = (Euler::new(shared.clone()), Euler::new(shared));
    one.find("ada", Urgency::Room).await.unwrap();
    assert_eq!(
        other.find("bob", Urgency::Room).await,
        Err(Error::Sockets(1))
    );
    one.leave();
    assert!(other.find("bob", Urgency::Room).await.is_ok());
    assert_eq!(server.queries().len(), 2);
}

#[tokio::test]
async fn it_can_be_stopped_in_every_phase() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let unread = format!("ws://{}", listener.local_addr().unwrap());
    let stalled = Server::start(vec![Act::Stall]).await;
    for url in [&unread, &stalled.url] {
        let shared = shared_with(url, None, &[]);
        let mut euler = Euler::new(shared.clone());
        let looking =
            tokio::time::timeout(Duration::from_millis(200), euler.find("ada", Urgency::Room));
        assert!(looking.await.is_err(), "it waits");
        assert_eq!(shared.open_sockets(), 0, "and gives back what it had");
    }

    let server = Server::start(vec![Act::Wait]).await;
    let shared = shared(&server, &[]);
    let mut euler = Euler::new(shared.clone());
    let Ok(Some(room)) = euler.find("ada", Urgency::Room).await else {
        panic!("not live")
    };
    let connection = euler.open("ada", &room).await.unwrap();
    let (_tape, outbox, _redis) = Tape::new();
    let (outlet, stop) = (outbox.outlet(), CancellationToken::new());
    let mut session = Session::new(ROOM.to_owned(), None, now());
    let stopping = stop.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(50)).await;
        stopping.cancel();
    });
    let silence = Duration::from_mins(1);
    let reading = connection.run(&mut session, Parcel::default(), &outlet, silence, &stop);
    let end = tokio::time::timeout(Duration::from_secs(5), reading)
        .await
        .unwrap();
    assert_eq!(end, End::of("shutdown"));
    assert_eq!(shared.open_sockets(), 0);
    server.all_closed().await;
}

#[tokio::test]
async fn the_proxy_is_the_only_way() {
    let server = Server::start(vec![Act::Wait]).await;
    let target = server.url.trim_start_matches("ws://").to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = format!("http://me:canary-pass@{}", listener.local_addr().unwrap());
    let tunnel = tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            asked.push(client.read_u8().await.unwrap());
        }
        let asked = String::from_utf8(asked).unwrap();
        let mut far = TcpStream::connect(asked.split(' ').nth(1).unwrap())
            .await
            .unwrap();
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut far).await });
        asked
    });
    let mut euler = Euler::new(shared_with(&server.url, Some(&proxy), &[]));
    assert!(matches!(
        euler.find("ada", Urgency::Room).await,
        Ok(Some(_))
    ));
    let asked = tunnel.await.unwrap();
    assert!(
        asked.starts_with(&format!("CONNECT {target} HTTP/1.1\r\n")),
        "{asked}"
    );

    let gone = "http://me:canary-pass@127.0.0.1:1";
    let error = Euler::new(shared_with(&server.url, Some(gone), &[]))
        .find("ada", Urgency::Room)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Unreachable(_)), "{error}");
    no_key(&format!("{error} {error:?}"));
    assert_eq!(server.queries().len(), 1, "never around the proxy");
}
