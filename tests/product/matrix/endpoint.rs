//! The operator's endpoint with a script: what the forwarder sends to, in a row.
//!
//! In: a script that answers each request by what it carries. Out: what came in, and when. It can be
//! switched off, so that nobody listens at its address, and on again.

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

/// What is done with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reply {
    Status(u16),
    /// With `Retry-After` in seconds.
    After(u16, u64),
    /// A status, and a body that never ends.
    Drip(u16),
    /// No answer.
    Hang,
    /// The connection is closed once the request has been read.
    Close,
}

/// A request that came in.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) at: Instant,
    pub(crate) key: String,
    pub(crate) room: String,
    pub(crate) seq_no: u64,
    /// Made by the normalizer long after the message whose number it has.
    pub(crate) belated: bool,
    /// From the ingest of its message to here.
    pub(crate) age: Duration,
    /// How often this key came before.
    pub(crate) before: usize,
    pub(crate) reply: Reply,
}

impl Seen {
    pub(crate) fn taken(&self) -> bool {
        matches!(self.reply, Reply::Status(status) | Reply::Drip(status) if status < 300)
    }
}

type Script = Box<dyn FnMut(&Seen) -> Reply + Send>;

struct Inner {
    script: Script,
    seen: Vec<Seen>,
    times: HashMap<String, usize>,
}

/// The endpoint.
pub(crate) struct Endpoint {
    port: u16,
    inner: Arc<Mutex<Inner>>,
    listening: Option<JoinHandle<()>>,
}

impl Endpoint {
    pub(crate) async fn start(script: impl FnMut(&Seen) -> Reply + Send + 'static) -> Self {
        let inner = Inner {
            script: Box::new(script),
            seen: Vec::new(),
            times: HashMap::new(),
        };
        let mut endpoint = Self {
            port: 0,
            inner: Arc::new(Mutex::new(inner)),
            listening: None,
        };
        endpoint.on().await;
        endpoint
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/in", self.port)
    }

    pub(crate) fn script(&self, script: impl FnMut(&Seen) -> Reply + Send + 'static) {
        self.inner().script = Box::new(script);
    }

    /// What came in so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.inner().seen.clone()
    }

    /// What was taken, by room, in the order in which it was.
    pub(crate) fn taken(&self) -> HashMap<String, Vec<Seen>> {
        let mut rooms: HashMap<String, Vec<Seen>> = HashMap::new();
        for seen in self.seen().into_iter().filter(Seen::taken) {
            rooms.entry(seen.room.clone()).or_default().push(seen);
        }
        rooms
    }

    /// Nobody listens any more, and all connections end.
    pub(crate) async fn off(&mut self) {
        if let Some(listening) = self.listening.take() {
            listening.abort();
            let _ = listening.await;
        }
    }

    /// At the same address as before.
    pub(crate) async fn on(&mut self) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).await;
        let listener = listener.expect("its port is free");
        self.port = listener.local_addr().expect("an address").port();
        let inner = self.inner.clone();
        self.listening = Some(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                connections.spawn(serve(socket, inner.clone()));
                while connections.try_join_next().is_some() {}
            }
        }));
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        if let Some(listening) = &self.listening {
            listening.abort();
        }
    }
}

/// One connection: requests one after the other.
async fn serve(mut socket: TcpStream, inner: Arc<Mutex<Inner>>) -> Option<()> {
    let mut bytes = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            if socket.read_buf(&mut bytes).await.ok()? == 0 {
                return None;
            }
        };
        let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
        let field = |name: &str| {
            let mut lines = head.lines();
            lines.find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(": ")?.to_owned()))
        };
        let length: usize = field("content-length")?.parse().ok()?;
        while bytes.len() < end + length {
            if socket.read_buf(&mut bytes).await.ok()? == 0 {
                return None;
            }
        }
        let event: Value = serde_json::from_slice(&bytes[end..end + length]).ok()?;
        bytes.drain(..end + length);
        let reply = take(
            &mut inner.lock().unwrap_or_else(PoisonError::into_inner),
            field("idempotency-key")?,
            &event,
        )?;
        let (status, rest) = match reply {
            Reply::Status(status) => (status, "content-length: 0\r\n\r\n".to_owned()),
            Reply::After(status, seconds) => (
                status,
                format!("retry-after: {seconds}\r\ncontent-length: 0\r\n\r\n"),
            ),
            Reply::Drip(status) => (status, "content-length: 100000000\r\n\r\nsome".to_owned()),
            Reply::Hang => std::future::pending().await,
            Reply::Close => return None,
        };
        let answer = format!("HTTP/1.1 {status} x\r\n{rest}");
        socket.write_all(answer.as_bytes()).await.ok()?;
        if matches!(reply, Reply::Drip(_)) {
            // Until the forwarder has enough of it.
            while socket.read_buf(&mut bytes).await.ok()? > 0 {}
            return None;
        }
    }
}

fn take(inner: &mut Inner, key: String, event: &Value) -> Option<Reply> {
    let ingested: jiff::Timestamp = event["ingestedAt"].as_str()?.parse().ok()?;
    let age = SystemTime::now().duration_since(SystemTime::from(ingested));
    let times = inner.times.entry(key.clone()).or_default();
    let mut seen = Seen {
        at: Instant::now(),
        key,
        room: event["streamId"].as_str()?.to_owned(),
        seq_no: event["seqNo"].as_u64()?,
        belated: event["payload"]["rawType"] == "GiftStreakTimeout",
        age: age.unwrap_or_default(),
        before: *times,
        reply: Reply::Hang,
    };
    *times += 1;
    seen.reply = (inner.script)(&seen);
    let reply = seen.reply;
    inner.seen.push(seen);
    Some(reply)
}
