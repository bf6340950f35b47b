//! Secrets never leave: canaries go in as every secret there is, and come out nowhere.
//!
//! The stand-in repeats what it was asked in refusals, close reasons and messages, as servers do.
//! What is looked through: each line that the daemon writes (`LOG_LEVEL=debug`, `RUST_LOG=trace`),
//! its health addresses, everything in Redis, every row in Postgres. First it is made sure that the
//! canaries went where they belong, or the rest would prove nothing.

use std::sync::{Arc, Mutex};

use anyhow::{Context, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use redis::AsyncCommands as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
};
use upstream::{Act, Creator, Fault, Place, Provider, RetryAfter, Script, Trouble};
use url::Url;
use xtask::ports;

use crate::{
    daemon::{Daemon, Log, PATIENCE},
    product::{Product, creator},
    stores::{Stores, until},
};

const KEY: &str = "canary-euler-key+0a1b2c3d/4e5f";
const REDIS_PASSWORD: &str = "canary-redis-password-6789";
const PROXY_USER: &str = "canary-proxy-user";
const PROXY_PASSWORD: &str = "canary-proxy-password-1234";
/// Of the stand-in's page, and of its signatures.
const COOKIES: [&str; 2] = ["from-the-page", "1%7Cstand-in-"];

/// A SOCKS5 proxy that wants a login, with the logins it was given.
struct Proxy {
    url: String,
    logins: Arc<Mutex<Vec<(String, String)>>>,
}

impl Proxy {
    /// Takes everybody, or nobody.
    async fn start(open: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let logins = Arc::new(Mutex::new(Vec::new()));
        let given = logins.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let given = given.clone();
                // Who goes away in the middle ends only its own connection.
                tokio::spawn(async move { pass(client, open, &given).await.ok() });
            }
        });
        Self {
            url: format!("socks5://{PROXY_USER}:{PROXY_PASSWORD}@127.0.0.1:{port}"),
            logins,
        }
    }
}

async fn text(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut bytes = vec![0; stream.read_u8().await?.into()];
    stream.read_exact(&mut bytes).await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// RFC 1928 and 1929, as far as two clients need it.
async fn pass(
    mut client: TcpStream,
    open: bool,
    logins: &Mutex<Vec<(String, String)>>,
) -> std::io::Result<()> {
    client.read_u8().await?;
    text(&mut client).await?;
    client.write_all(&[5, 2]).await?;
    client.read_u8().await?;
    let login = (text(&mut client).await?, text(&mut client).await?);
    logins.lock().expect("no panic").push(login);
    client.write_all(&[1, u8::from(!open)]).await?;
    if !open {
        return Ok(());
    }
    let mut head = [0; 4];
    client.read_exact(&mut head).await?;
    let host = match head[3] {
        1 => {
            let mut address = [0; 4];
            client.read_exact(&mut address).await?;
            std::net::Ipv4Addr::from(address).to_string()
        }
        _ => text(&mut client).await?,
    };
    let port = client.read_u16().await?;
    let mut server = TcpStream::connect((host.as_str(), port)).await?;
    client.write_all(&[5, 0, 0, 1, 127, 0, 0, 1, 0, 0]).await?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

/// The password in an address.
fn password(url: &str) -> String {
    let url = Url::parse(url).expect("an address");
    url.password().expect("a password").to_owned()
}

/// All that is secret, in the forms in which it may be written.
fn needles(database_url: &str) -> Vec<String> {
    let mut needles = vec![
        KEY.to_owned(),
        KEY.replace('+', "%2B").replace('/', "%2F"),
        REDIS_PASSWORD.to_owned(),
        PROXY_USER.to_owned(),
        PROXY_PASSWORD.to_owned(),
        password(database_url),
    ];
    needles.extend(COOKIES.map(str::to_owned));
    needles.push(COOKIES[1].replace("%7C", "|"));
    let hex: Vec<_> = needles.iter().map(hex::encode).collect();
    needles.extend(hex);
    needles
}

fn check(what: &str, text: &str, needles: &[String]) {
    if let Some(needle) = needles.iter().find(|needle| text.contains(*needle)) {
        panic!("{needle} in {what}: {text}");
    }
}

/// Everything in Redis, as text.
async fn redis_content(stores: &Stores) -> anyhow::Result<Vec<(String, String)>> {
    let mut redis = stores.redis().await?;
    let keys: Vec<String> = redis.keys("*").await?;
    let mut found = Vec::new();
    for key in keys {
        let kind: String = redis::cmd("TYPE").arg(&key).query_async(&mut redis).await?;
        let read = match kind.as_str() {
            "string" => redis::cmd("GET").arg(&key).to_owned(),
            "hash" => redis::cmd("HGETALL").arg(&key).to_owned(),
            "set" => redis::cmd("SMEMBERS").arg(&key).to_owned(),
            "zset" => redis::cmd("ZRANGE").arg(&key).arg(0).arg(-1).to_owned(),
            "list" => redis::cmd("LRANGE").arg(&key).arg(0).arg(-1).to_owned(),
            "stream" => redis::cmd("XRANGE").arg(&key).arg("-").arg("+").to_owned(),
            // Gone meanwhile: a lease, a status.
            _ => continue,
        };
        let value: redis::Value = read.query_async(&mut redis).await?;
        found.push((key, flat(&value)));
    }
    Ok(found)
}

/// All texts in a reply, base64 decoded where it is that.
fn flat(value: &redis::Value) -> String {
    match value {
        redis::Value::BulkString(bytes) => {
            let mut text = String::from_utf8_lossy(bytes).into_owned();
            let frame = serde_json::from_str::<serde_json::Value>(&text).ok();
            let frame = frame.and_then(|json| json["frame"].as_str().map(str::to_owned));
            for coded in [Some(text.clone()), frame].into_iter().flatten() {
                if let Ok(bytes) = BASE64_STANDARD.decode(coded) {
                    text.push_str(&String::from_utf8_lossy(&bytes));
                }
            }
            text
        }
        redis::Value::Array(items) => items.iter().map(flat).collect::<Vec<_>>().join("\n"),
        redis::Value::Map(pairs) => {
            let texts = pairs
                .iter()
                .map(|(key, value)| flat(key) + "\n" + &flat(value));
            texts.collect::<Vec<_>>().join("\n")
        }
        other => format!("{other:?}"),
    }
}

/// Every row of every table, as text.
async fn postgres_content(stores: &Stores) -> anyhow::Result<Vec<(String, String)>> {
    let database = stores.database().await?;
    let tables = database
        .query(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables \
             WHERE schemaname NOT IN ('pg_catalog', 'information_schema')",
            &[],
        )
        .await?;
    let mut found = Vec::new();
    for table in tables {
        let table: String = table.get(0);
        let rows = database
            .query(&format!("SELECT row_to_json(t)::text FROM {table} t"), &[])
            .await?;
        let texts: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        found.push((table, texts.join("\n")));
    }
    Ok(found)
}

/// Looks through everything that the daemon has written anywhere.
async fn check_everything(product: &Product, health: &str) {
    let needles = needles(product.stores.database_url());
    for path in ["metrics", "livez", "readyz"] {
        let answer = reqwest::get(format!("http://{health}/{path}")).await;
        let answer = answer.expect("it answers").text().await.expect("a body");
        check(path, &answer, &needles);
    }
    let redis = redis_content(&product.stores).await.expect("Redis answers");
    assert!(redis.iter().any(|(key, _)| key == "ttlc:raw"));
    assert!(redis.iter().any(|(key, _)| key.starts_with("ttlc:status:")));
    let tables = postgres_content(&product.stores)
        .await
        .expect("Postgres answers");
    assert!(
        tables
            .iter()
            .any(|(name, rows)| name.contains("events") && !rows.is_empty())
    );
    for (name, content) in redis.iter().chain(&tables) {
        check(name, content, &needles);
    }
    check_log(&product.log, &needles);
}

fn check_log(log: &Log, needles: &[String]) {
    let lines = log.lines();
    assert!(!lines.is_empty());
    for line in lines {
        check("the log", &line, needles);
        assert!(!line.contains("internal_src"), "a signed parameter: {line}");
    }
}

fn http(place: Place, status: u16) -> Fault {
    let said = format!("no use, wss://x/?uniqueId=a&apiKey={KEY} or {KEY}");
    Fault::Http {
        place,
        skip: 0,
        times: 1,
        trouble: Trouble::Status {
            status,
            retry_after: Some(RetryAfter::Seconds(1)),
            label: None,
            body: Some(
                serde_json::json!({"code": status, "message": said, "limit_label": KEY})
                    .to_string(),
            ),
        },
    }
}

fn reset(place: Place) -> Fault {
    let (skip, times, trouble) = (0, 1, Trouble::Reset);
    Fault::Http {
        place,
        skip,
        times,
        trouble,
    }
}

/// Canaries in, the whole way with all its troubles.
async fn play(provider: &str, troubled: Creator, refused: Creator) {
    let proxy = Proxy::start(true).await;
    let mut stores = Stores::start().await;
    stores.guard_redis(REDIS_PASSWORD).await;
    let health = format!("127.0.0.1:{}", ports::free().expect("a port"));
    let names = (troubled.name.clone(), refused.name.clone());
    let mut script = Script::new().creator(troubled).creator(refused);
    script.euler.keys = vec![KEY.to_owned()];
    let redis_url = stores.redis_url().to_owned();
    let settings = [
        ("INGEST_PROVIDER", provider),
        ("INGEST_FALLBACK", "off"),
        ("EULER_API_KEY", KEY),
        ("UPSTREAM_PROXY", &proxy.url),
        ("REDIS_URL", &redis_url),
        ("HEALTH_ADDR", &health),
        ("LOG_LEVEL", "debug"),
        ("RUST_LOG", "trace"),
        ("RUST_BACKTRACE", "full"),
    ];
    let mut product = Product::start_with(script, stores, &[], &settings).await;
    product.played(&names.0).await;
    let status = format!("ttlc:status:{}", names.1);
    until(PATIENCE, async || {
        let status = product.stores.json(&status).await?.context("no status")?;
        ensure!(status["state"] == "error", "{status}");
        Ok(())
    })
    .await;
    product
        .settled(|rows| {
            let ended = rows.iter().any(|row| {
                let data = row.payload();
                row.event_type == "DISCONNECTED"
                    && (data["reason"] == "stream_end" || data["closeCode"] == 1000)
            });
            ensure!(ended, "the broadcast is not over in {} rows", rows.len());
            Ok(())
        })
        .await;

    assert!(product.upstream.arrived(KEY), "the key");
    let logins = proxy.logins.lock().unwrap().clone();
    let login = (PROXY_USER.to_owned(), PROXY_PASSWORD.to_owned());
    assert!(logins.len() > 3 && logins.iter().all(|given| *given == login));
    if provider == "direct" {
        assert!(
            product.upstream.arrived(COOKIES[1]),
            "the cookie of the signature"
        );
    }
    check_everything(&product, &health).await;
    product.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn direct_keeps_its_secrets() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let at = |after_frames, act| Fault::Playback { after_frames, act };
    let close = Act::Close {
        code: 1011,
        reason: format!("see wss://x/?k={KEY}"),
    };
    let troubled = creator("room-d")
        .fault(http(Place::Page, 403))
        .fault(http(Place::Sign, 429))
        .fault(http(Place::Sign, 500))
        .fault(reset(Place::Sign))
        .fault(http(Place::Socket, 403))
        .fault(reset(Place::Socket))
        .fault(at(3, Act::Reset))
        .fault(at(6, close));
    let refused = Creator {
        name: "forbidden".to_owned(),
        ..creator("room-d")
    };
    let refused = refused.fault(http(Place::Sign, 401));
    play("direct", troubled, refused).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn euler_keeps_its_secrets() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let on = |after_frames, act| Fault::On {
        provider: Provider::Euler,
        after_frames,
        act,
    };
    let text = format!("{{\"type\":\"Echo\",\"data\":{{\"url\":\"/?apiKey={KEY}\"}}}}");
    let troubled = creator("room-d")
        .fault(http(Place::EulerSocket, 429))
        .fault(http(Place::EulerSocket, 500))
        .fault(reset(Place::EulerSocket))
        .fault(Fault::EulerClose {
            skip: 0,
            times: 1,
            code: 4500,
            reason: format!("bad wss://x?apiKey={KEY} {KEY}"),
        })
        .fault(on(2, Act::Text { text }))
        .fault(on(
            3,
            Act::Text {
                text: format!("no JSON {KEY}"),
            },
        ))
        .fault(on(4, Act::Reset))
        .fault(on(
            7,
            Act::Close {
                code: 1011,
                reason: format!("for {KEY}"),
            },
        ));
    let refused = Creator {
        name: "forbidden".to_owned(),
        ..creator("room-d")
    };
    let refused = refused.fault(http(Place::EulerSocket, 401));
    play("euler", troubled, refused).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_refuses_us_is_told_without_the_password() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut stores = Stores::start().await;
    let needles = {
        let mut needles = needles(stores.database_url());
        needles.push("canary-wrong".to_owned());
        needles
    };
    let wrong = |url: &str| {
        let mut url = Url::parse(url).expect("an address");
        url.set_password(Some("canary-wrong-password"))
            .expect("a host");
        String::from(url)
    };
    let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let levels = [setting("LOG_LEVEL", "debug"), setting("RUST_LOG", "trace")];
    let log = Log::default();
    for url in [
        wrong(stores.database_url()),
        "postgres://me:canary-wrong@127.0.0.1:1:1/x".to_owned(),
    ] {
        let settings = [&levels[..], &[setting("DATABASE_URL", &url)]].concat();
        let ended = Daemon::migrate(&settings, &log).expect("it starts");
        assert!(!ended.success());
    }
    check_log(&log, &needles);

    // A proxy that takes nobody, and a Redis that wants another password.
    let proxy = Proxy::start(false).await;
    stores.guard_redis(REDIS_PASSWORD).await;
    let upstream = upstream::Upstream::start(Script::new().creator(creator("room-d")));
    let upstream = upstream.await.expect("the stand-in starts");
    let base = upstream.base_url();
    for (redis_url, proxy_url, wanted) in [
        (
            stores.redis_url().to_owned(),
            proxy.url.clone(),
            "cannot connect",
        ),
        (wrong(stores.redis_url()), String::new(), "redis"),
    ] {
        let log = Log::default();
        let settings = [
            &levels[..],
            &[
                setting("TIKTOK_UNIQUE_ID", "room-d"),
                setting("TIKTOK_WEB_URL", &base),
                setting("TIKTOK_WEBCAST_URL", &base),
                setting("EULER_API_URL", &base),
                setting("EULER_WS_URL", &upstream.euler_ws_url()),
                setting("EULER_API_KEY", KEY),
                // Without a proxy it would bring the key to the stand-in, as it should.
                setting("GIFT_CATALOGUE", "off"),
                setting("REDIS_URL", &redis_url),
                setting("UPSTREAM_PROXY", &proxy_url),
            ],
        ]
        .concat();
        let daemon = Daemon::start(&settings, &log, "ingest").expect("it starts");
        until(PATIENCE, async || {
            let lines = log.lines();
            let said = lines
                .iter()
                .any(|line| line.contains("WARN") && line.contains(wanted));
            ensure!(said, "{lines:#?}");
            Ok(())
        })
        .await;
        daemon.stop().expect("it stops");
        check_log(&log, &needles);
    }
    assert!(!proxy.logins.lock().unwrap().is_empty());
    assert!(!upstream.arrived(KEY), "nothing went around the proxy");
}
