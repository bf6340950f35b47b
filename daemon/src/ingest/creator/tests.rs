//! Being told to stop, in every phase of an attempt, against servers that never answer.

use std::sync::{Arc, Mutex};

use clap::Parser as _;
use prost::Message as _;
use secrecy::SecretString;
use serde_json::json;
use shared::streams::StreamNames;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use xtask::servers::{Durability, PrivateRedis};

use super::*;
use crate::bus::{Bus, Owner};
use crate::ingest::budget::Budget;
use crate::ingest::direct;
use crate::ingest::options::{Options, Settings};
use crate::ingest::outbox::{Outbox, Raw};
use crate::ingest::spool::{self, Spool};
use crate::proto::frames::FetchResult;

const ROOM: &str = "7301234567890123456";

#[derive(clap::Parser)]
struct Command {
    #[command(flatten)]
    options: Options,
}

/// TikTok and the sign server in one, until it is asked for `hangs_at`: that is never answered.
struct Server {
    base: String,
    asked: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start(hangs_at: &'static str, live: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = asked.clone();
        let task = tokio::spawn(async move {
            let mut hanging = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(stream.read_u8().await.unwrap());
                }
                let request = String::from_utf8(request).unwrap();
                let target = request.split(' ').nth(1).unwrap();
                let path = target.split('?').next().unwrap().to_owned();
                seen.lock().unwrap().push(path.clone());
                if path.contains(hangs_at) {
                    hanging.push(stream);
                    continue;
                }
                let (headers, body) = answer(&path, live, &address.to_string());
                let head = format!(
                    "HTTP/1.1 200 OK\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                stream.write_all(head.as_bytes()).await.unwrap();
                stream.write_all(&body).await.unwrap();
            }
        });
        Self {
            base: format!("http://{address}"),
            asked,
            task,
        }
    }

    async fn was_asked(&self, path: &str) {
        let asked = async {
            while !self
                .asked
                .lock()
                .unwrap()
                .iter()
                .any(|it| it.contains(path))
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let asked = tokio::time::timeout(Duration::from_secs(20), asked).await;
        assert!(asked.is_ok(), "never asked for {path}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn answer(path: &str, live: bool, address: &str) -> (&'static str, Vec<u8>) {
    let status = if live { 2 } else { 4 };
    if path.ends_with("/live") {
        let state = json!({"LiveRoom": {"liveRoomUserInfo": {
            "user": {"id": "1", "roomId": ROOM, "uniqueId": "alice", "nickname": "A", "status": status},
            "liveRoom": {"status": status, "title": "T"},
        }}});
        let page = format!("<script id=\"SIGI_STATE\" type=\"application/json\">{state}</script>");
        ("", page.into_bytes())
    } else if path.contains("room/info") {
        let info =
            json!({"status_code": 0, "data": {"id_str": ROOM, "status": status, "title": "T"}});
        ("", info.to_string().into_bytes())
    } else {
        let result = FetchResult {
            cursor: "c".to_owned(),
            push_server: format!("ws://{address}/socket"),
            ..FetchResult::default()
        };
        (
            "x-set-tt-cookie: ttwid=1; Path=/\r\n",
            result.encode_to_vec(),
        )
    }
}

/// What a creator's task needs, with Redis at `redis`.
fn parts(server: &Server, redis: &str) -> (Parts, Outbox) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let base = server.base.as_str();
    let command = Command::parse_from([
        "ttlc",
        "--tiktok-web-url",
        base,
        "--tiktok-webcast-url",
        base,
        "--euler-api-url",
        base,
    ]);
    let Settings {
        upstream,
        policy,
        limits,
        preference,
        ..
    } = command.options.check().unwrap();
    let account = Arc::new(Budget::new("test", 600, 600));
    let direct = direct::Shared::new(&upstream, limits, account).unwrap();
    let bus = Bus::new(&SecretString::from(redis), StreamNames::new(1)).unwrap();
    let spool = Spool::memory(spool::log::Limits::default());
    let leases = Leases::new(bus.clone(), spool.owner());
    let sink = Raw {
        bus,
        leases: leases.clone(),
    };
    let outbox = Outbox::new(sink, spool);
    let parts = Parts {
        providers: Providers {
            direct: Arc::new(direct),
            euler: None,
        },
        leases,
        outlet: outbox.outlet(),
        board: Board::default(),
        policy,
        preference,
    };
    (parts, outbox)
}

/// Runs a creator's task until the server was asked for `path`, and a moment longer; then stops it.
async fn stops_soon(server: &Server, redis: &str, path: &str) {
    let (parts, _outbox) = parts(server, redis);
    let all = CancellationToken::new();
    let stop = Stop::one(&all);
    let creator = Creator::new("alice".to_owned(), parts).unwrap();
    let task = tokio::spawn(creator.run(stop));
    server.was_asked(path).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!task.is_finished(), "{path}: it ended by itself");
    let begun = Instant::now();
    all.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(5), task).await;
    ended.expect("it does not stop").expect("it panicked");
    assert!(begun.elapsed() < Duration::from_secs(1), "{path}");
}

#[tokio::test]
async fn it_stops_within_a_second_whatever_it_waits_for() {
    let redis = PrivateRedis::temporary(Durability::Fast).unwrap();
    for path in ["/live", "room/info", "/connect", "/socket"] {
        let server = Server::start(path, true).await;
        stops_soon(&server, &redis.url(), path).await;
    }
    // The pause before another look at somebody offline.
    let server = Server::start("nowhere", false).await;
    stops_soon(&server, &redis.url(), "/live").await;
    // Redis away: the claim of a room that is live.
    let server = Server::start("nowhere", true).await;
    stops_soon(&server, "redis://127.0.0.1:1", "room/info").await;
}

#[tokio::test]
async fn it_stops_within_a_second_while_another_daemon_reads_the_room() {
    let redis = PrivateRedis::temporary(Durability::Fast).unwrap();
    let bus = Bus::new(&SecretString::from(redis.url()), StreamNames::new(1)).unwrap();
    bus.claim_room(ROOM, Owner::new()).await.unwrap();
    let server = Server::start("nowhere", true).await;
    stops_soon(&server, &redis.url(), "room/info").await;
    let asked = server.asked.lock().unwrap().clone();
    let signed = asked.iter().any(|path| path.contains("connect"));
    assert!(!signed, "a standby signs nothing: {asked:?}");
}
