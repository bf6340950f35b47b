//! Every way in which Redis refuses: named, waited out, nothing in the dead letters, everything
//! stored exactly once afterwards.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use daemon::metrics::Metrics;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use xtask::processes::TemporaryFolder;

use super::faults::{assert_complete, show};
use super::rig::{Rig, poll};

/// How often the storage writer met a class of failure.
fn met(class: &str) -> u64 {
    static METRICS: OnceLock<Metrics> = OnceLock::new();
    let metrics = METRICS.get_or_init(|| Metrics::install().unwrap());
    let line = format!("ttlc_redis_errors_total{{stage=\"storage\",class=\"{class}\"}} ");
    let shown = metrics.render();
    shown
        .lines()
        .find_map(|shown| shown.strip_prefix(&line)?.parse().ok())
        .unwrap_or(0)
}

async fn meets(class: &str) {
    let before = met(class);
    poll(class, async || (met(class) > before).then_some(())).await;
}

impl Rig {
    async fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query_async(&mut self.redis().await).await.unwrap()
    }
}

/// The group goes, then everything.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_is_gone_is_made_again_from_the_start() {
    let rig = Rig::new().await;
    met("any");
    let events = show(2, 300);
    let running = rig.start(rig.options());
    rig.publish(&events[..100]).await;
    rig.settled().await;
    let destroyed: i64 = rig
        .ask(&["XGROUP", "DESTROY", "ttlc:events", "storage"])
        .await;
    assert_eq!(destroyed, 1);
    rig.publish(&events[100..200]).await;
    rig.settled().await;
    let _: String = rig.ask(&["FLUSHALL"]).await;
    rig.publish(&events[200..]).await;
    rig.settled().await;
    running.stop().await;
    assert_complete(&rig, &events).await;
}

/// Reading and acknowledging go on, and what was published is stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_memory_is_drained() {
    let rig = Rig::new().await;
    let events = show(2, 600);
    rig.publish(&events).await;
    let _: String = rig.ask(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let full = redis::cmd("SET")
        .arg(&["a", "b"])
        .exec_async(&mut rig.redis().await)
        .await
        .unwrap_err();
    assert_eq!(full.code(), Some("OOM"));
    // It starts while nothing can be written: no group, no lease.
    met("memory");
    let running = rig.start(rig.options());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let _: String = rig.ask(&["CONFIG", "SET", "maxmemory", "0"]).await;
    poll("some are stored", async || {
        (rig.one::<i64>("SELECT count(*) FROM events").await > 0).then_some(())
    })
    .await;
    let _: String = rig.ask(&["CONFIG", "SET", "maxmemory", "1"]).await;
    rig.settled().await;
    running.stop().await;
    let running = rig.start(rig.options());
    rig.settled().await;
    let _: String = rig.ask(&["CONFIG", "SET", "maxmemory", "0"]).await;
    running.stop().await;
    assert_complete(&rig, &events).await;
}

/// No snapshot can be written, as on a full disk: Redis refuses every write, reading for a group too.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_refuses_is_waited_for() {
    let rig = Rig::new().await;
    let events = show(2, 300);
    let running = rig.start(rig.options());
    rig.publish(&events).await;
    let folder: Vec<String> = rig.ask(&["CONFIG", "GET", "dir"]).await;
    // In the way of the snapshot, whoever runs the test.
    let obstacle = std::path::Path::new(&folder[1]).join("dump.rdb");
    std::fs::create_dir(&obstacle).unwrap();
    let _: String = rig.ask(&["CONFIG", "SET", "save", "3600 1"]).await;
    let _: String = rig.ask(&["BGSAVE"]).await;
    meets("disk").await;
    std::fs::remove_dir(&obstacle).unwrap();
    let _: String = rig.ask(&["BGSAVE"]).await;
    rig.settled().await;
    running.stop().await;
    assert_complete(&rig, &events).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_waited_for_until_it_is_the_primary() {
    let rig = Rig::new().await;
    let events = show(2, 300);
    met("read_only");
    let running = rig.start(rig.options());
    rig.publish(&events[..150]).await;
    rig.settled().await;
    let _: String = rig.ask(&["REPLICAOF", "127.0.0.1", "1"]).await;
    meets("read_only").await;
    let _: String = rig.ask(&["REPLICAOF", "NO", "ONE"]).await;
    rig.publish(&events[150..]).await;
    rig.settled().await;
    running.stop().await;
    assert_complete(&rig, &events).await;
}

/// What is no outage is waited out too, and said at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_another_type_is_a_defect_and_loses_nothing() {
    let rig = Rig::new().await;
    let events = show(1, 100);
    let _: String = rig.ask(&["SET", "ttlc:events", "not a stream"]).await;
    met("defect");
    let running = rig.start(rig.options());
    meets("defect").await;
    let _: i64 = rig.ask(&["DEL", "ttlc:events"]).await;
    rig.publish(&events).await;
    rig.settled().await;
    running.stop().await;
    assert_complete(&rig, &events).await;
}

/// A `redis-server` with settings of the test's own.
struct Server {
    process: Child,
    port: u16,
    _folder: TemporaryFolder,
}

impl Server {
    async fn start(settings: &[&str]) -> Self {
        let folder = TemporaryFolder::new("redis").unwrap();
        let port = xtask::ports::free().unwrap();
        let process = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--port"])
            .arg(port.to_string())
            .arg("--dir")
            .arg(folder.path())
            .args(settings)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self {
            process,
            port,
            _folder: folder,
        };
        poll("it answers", async || {
            let mut redis = server.connect().await.ok()?;
            redis::cmd("PING").exec_async(&mut redis).await.ok()
        })
        .await;
        server
    }

    fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    async fn connect(&self) -> redis::RedisResult<redis::aio::MultiplexedConnection> {
        let client = redis::Client::open(format!("redis://{}", self.address()))?;
        let patient = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(Duration::from_secs(20)))
            .set_response_timeout(Some(Duration::from_secs(20)));
        client
            .get_multiplexed_async_connection_with_config(&patient)
            .await
    }

    async fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query_async(&mut self.connect().await?).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn loading_is_waited_for() {
    let mut rig = Rig::new().await;
    // It looks around while it loads, and loads slowly.
    let server = Server::start(&[
        "--enable-debug-command",
        "yes",
        "--loading-process-events-interval-bytes",
        "1024",
    ])
    .await;
    rig.use_redis(&format!("redis://{}", server.address()));
    let events = show(2, 400);
    met("loading");
    let running = rig.start(rig.options());
    rig.publish(&events[..200]).await;
    rig.settled().await;
    let mut pipe = redis::pipe();
    for number in 0..300 {
        pipe.cmd("SET").arg(number).arg("x".repeat(1_000)).ignore();
    }
    pipe.exec_async(&mut server.connect().await.unwrap())
        .await
        .unwrap();
    rig.publish(&events[200..]).await;
    let _: String = server
        .ask(&["CONFIG", "SET", "key-load-delay", "10000"])
        .await
        .unwrap();
    let port = server.address();
    let reload = tokio::spawn(async move {
        let client = redis::Client::open(format!("redis://{port}")).unwrap();
        let patient =
            redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_mins(1)));
        let mut redis = client
            .get_multiplexed_async_connection_with_config(&patient)
            .await
            .unwrap();
        let _: redis::RedisResult<String> = redis::cmd("DEBUG")
            .arg("RELOAD")
            .query_async(&mut redis)
            .await;
    });
    meets("loading").await;
    reload.await.unwrap();
    rig.settled().await;
    running.stop().await;
    assert_complete(&rig, &events).await;
}

/// An address behind which the server changes.
struct Forwarder {
    port: u16,
    target: Arc<AtomicU16>,
    cut: watch::Sender<u32>,
}

impl Forwarder {
    async fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let target = Arc::new(AtomicU16::new(to));
        let (cut, cutting) = watch::channel(0);
        let to = target.clone();
        tokio::spawn(async move {
            while let Ok((mut inside, _)) = listener.accept().await {
                let (to, mut cutting) = (to.load(Ordering::SeqCst), cutting.clone());
                cutting.mark_unchanged();
                tokio::spawn(async move {
                    if let Ok(mut outside) = TcpStream::connect(("127.0.0.1", to)).await {
                        tokio::select! {
                            _ = tokio::io::copy_bidirectional(&mut inside, &mut outside) => {}
                            _ = cutting.changed() => {}
                        }
                    }
                });
            }
        });
        Self { port, target, cut }
    }
}

/// The replica is promoted and the address moves; connections to the old primary, which is a replica
/// now, stay open in the first round and break in the second.
#[tokio::test(flavor = "multi_thread")]
async fn a_failover_is_followed() {
    let mut rig = Rig::new().await;
    let (one, two) = (Server::start(&[]).await, Server::start(&[]).await);
    let forwarder = Forwarder::start(one.port).await;
    rig.use_redis(&format!("redis://127.0.0.1:{}", forwarder.port));
    let events = show(2, 600);
    met("read_only");
    let running = rig.start(rig.options());
    let mut published = 0;
    for (round, (primary, replica)) in [(&one, &two), (&two, &one)].into_iter().enumerate() {
        let _: String = replica
            .ask(&["REPLICAOF", "127.0.0.1", &primary.port.to_string()])
            .await
            .unwrap();
        rig.publish(&events[published..published + 200]).await;
        published += 200;
        poll("the replica has all", async || {
            let copied: i64 = replica.ask(&["XLEN", "ttlc:events"]).await.ok()?;
            let sent: i64 = primary.ask(&["XLEN", "ttlc:events"]).await.ok()?;
            let link: String = replica.ask(&["INFO", "replication"]).await.ok()?;
            (copied == sent && copied > 0 && link.contains("master_link_status:up")).then_some(())
        })
        .await;
        forwarder.target.store(replica.port, Ordering::SeqCst);
        let _: String = replica.ask(&["REPLICAOF", "NO", "ONE"]).await.unwrap();
        let _: String = primary
            .ask(&["REPLICAOF", "127.0.0.1", &replica.port.to_string()])
            .await
            .unwrap();
        if round == 1 {
            forwarder.cut.send_modify(|cuts| *cuts += 1);
        }
        // Published to the new primary: only who has followed finds it.
        rig.publish(&events[published..published + 50]).await;
        published += 50;
        rig.settled().await;
    }
    assert!(
        met("read_only") > 0,
        "a connection to the old primary was met"
    );
    rig.publish(&events[published..]).await;
    rig.settled().await;
    running.stop().await;
    assert_complete(&rig, &events).await;
}
