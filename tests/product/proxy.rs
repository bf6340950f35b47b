//! A TCP proxy between a client and a server, on which the link's faults can be switched.
//!
//! In: the address of a server (`redis://…`, `postgres://…`, `http://…`: its host and port are
//! replaced, the rest stays) and a [`Mode`], at any time. Out: an address for the client. It has a
//! thread of its own, so a test that blocks does not slow it down; dropping it ends that and every
//! connection. Bounded: [`CONNECTIONS`] at a time, the rest wait in the queue of the listener, and
//! each way of each holds [`CHUNKS`] pieces of [`PIECE`] bytes before it stops reading.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::Context;
use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Semaphore, mpsc, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use url::Url;

/// At the same time.
const CONNECTIONS: usize = 256;
/// Of one way of one connection, on its way through.
const CHUNKS: usize = 64;
/// At most so many bytes are read at once.
const PIECE: usize = 16 * 1024;
/// A reply is over when nothing came for so long.
const QUIET: Duration = Duration::from_millis(30);
/// On a connection that is never quiet it is over then.
const REPLY: Duration = Duration::from_millis(500);

/// What the link does to all of its connections, old and new.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mode {
    /// Nothing.
    Pass,
    /// Everything arrives so much later, in both directions.
    Delay(Duration),
    /// Each piece that passes resets its connection with this probability (0 to 1).
    Reset(f64),
    /// Nothing arrives, in neither direction, and nobody is told. A new connection is taken. What
    /// was under way arrives when that is over, if the connection is still there.
    BlackHole,
    /// Connections are reset, new ones too, as by a host where nobody listens.
    Refuse,
}

/// The proxy of one server.
pub(crate) struct Proxy {
    url: String,
    link: Arc<Link>,
    thread: Option<JoinHandle<()>>,
}

struct Link {
    server: SocketAddr,
    mode: watch::Sender<Mode>,
    /// Whose reply is dropped, and how often.
    drops: Mutex<Drops>,
    random: AtomicU64,
    /// Replaced by each [`Proxy::cut`].
    cut: Mutex<CancellationToken>,
    end: CancellationToken,
    accepted: AtomicU64,
    resets: AtomicU64,
    dropped: AtomicU64,
    places: Arc<Semaphore>,
}

#[derive(Default)]
struct Drops {
    request: Vec<u8>,
    left: u32,
}

impl Proxy {
    /// Stands before the server of this address, and lets everything pass.
    pub(crate) fn before(url: &str) -> anyhow::Result<Self> {
        let mut url = Url::parse(url).context("an address")?;
        let host = url.host_str().context("a host")?.to_owned();
        let port = url.port_or_known_default().context("a port")?;
        let mut found = std::net::ToSocketAddrs::to_socket_addrs(&(host.as_str(), port))?;
        let server = found.next().context("the host has no address")?;

        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let here = listener.local_addr()?;
        url.set_host(Some("127.0.0.1")).context("an address")?;
        anyhow::ensure!(url.set_port(Some(here.port())).is_ok(), "an address");

        let link = Arc::new(Link {
            server,
            mode: watch::Sender::new(Mode::Pass),
            drops: Mutex::default(),
            random: AtomicU64::new(0x5eed),
            cut: Mutex::default(),
            end: CancellationToken::new(),
            accepted: AtomicU64::new(0),
            resets: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            places: Arc::new(Semaphore::new(CONNECTIONS)),
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let shared = link.clone();
        let thread = std::thread::Builder::new()
            .name("proxy".to_owned())
            .spawn(move || runtime.block_on(serve(listener, shared)))?;
        Ok(Self {
            // An address without a path gets none.
            url: url.as_str().trim_end_matches('/').to_owned(),
            link,
            thread: Some(thread),
        })
    }

    /// The server's address, through here.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// From now on, for what is under way too.
    pub(crate) fn set(&self, mode: Mode) {
        self.link.mode.send_replace(mode);
    }

    /// The server gets the next request that holds these bytes, and the client never gets the
    /// reply: its connection is reset instead. So often. What else is on its way to the client on
    /// that connection is lost, too.
    pub(crate) fn drop_replies(&self, request: &[u8], times: u32) {
        assert!(!request.is_empty());
        *self.link.drops() = Drops {
            request: request.to_owned(),
            left: times,
        };
    }

    /// Resets all connections there are.
    pub(crate) fn cut(&self) {
        let old = {
            let mut cut = self.link.cut.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *cut)
        };
        old.cancel();
    }

    /// How many replies were dropped.
    pub(crate) fn dropped(&self) -> u64 {
        self.link.dropped.load(Ordering::Relaxed)
    }

    /// How many connections were reset by [`Mode::Reset`].
    pub(crate) fn resets(&self) -> u64 {
        self.link.resets.load(Ordering::Relaxed)
    }

    /// How many connections there were.
    pub(crate) fn accepted(&self) -> u64 {
        self.link.accepted.load(Ordering::Relaxed)
    }

    /// How many connections there are.
    pub(crate) fn open(&self) -> usize {
        CONNECTIONS - self.link.places.available_permits()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.link.end.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Link {
    fn drops(&self) -> std::sync::MutexGuard<'_, Drops> {
        self.drops.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the reply to this is to be dropped; each one that is counts.
    fn is_to_drop(&self, bytes: &[u8]) -> bool {
        let mut drops = self.drops();
        let found = drops.left > 0
            && bytes
                .windows(drops.request.len())
                .any(|window| window == drops.request);
        drops.left -= u32::from(found);
        found
    }

    /// A number from 0 to 1: the same ones in every run (`SplitMix64`).
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    fn chance(&self) -> f64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self
            .random
            .fetch_add(STEP, Ordering::Relaxed)
            .wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Waits until a piece that came at `came` may go on; `false`: its connection is reset.
    async fn may_pass(&self, came: Instant) -> bool {
        let mut mode = self.mode.subscribe();
        loop {
            let now = *mode.borrow_and_update();
            let changed = match now {
                Mode::Pass => return true,
                Mode::Delay(by) => {
                    tokio::select! {
                        () = sleep_until(came + by) => return true,
                        changed = mode.changed() => changed,
                    }
                }
                Mode::Reset(probability) => {
                    let passes = self.chance() >= probability;
                    self.resets.fetch_add(u64::from(!passes), Ordering::Relaxed);
                    return passes;
                }
                Mode::BlackHole => mode.changed().await,
                Mode::Refuse => return false,
            };
            if changed.is_err() {
                return false;
            }
        }
    }
}

async fn serve(listener: std::net::TcpListener, link: Arc<Link>) {
    let listener = TcpListener::from_std(listener).expect("a listener");
    loop {
        let place = link.places.clone().acquire_owned().await;
        let accepted = tokio::select! {
            () = link.end.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((client, _)) = accepted else {
            tokio::time::sleep(QUIET).await;
            continue;
        };
        link.accepted.fetch_add(1, Ordering::Relaxed);
        let link = link.clone();
        tokio::spawn(async move {
            connection(client, &link).await;
            drop(place);
        });
    }
}

/// Carries one connection to its end.
async fn connection(client: TcpStream, link: &Arc<Link>) {
    let cut = link
        .cut
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let _ = client.set_nodelay(true);
    // Without that, closing would be gentle.
    let _ = client.set_zero_linger();
    if *link.mode.borrow() == Mode::Refuse {
        return;
    }
    let Ok(server) = TcpStream::connect(link.server).await else {
        return;
    };
    let _ = server.set_nodelay(true);
    let dropping = AtomicBool::new(false);
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let both = async {
        tokio::select! {
            // A way that ended in peace leaves the other one open.
            Err(Reset) = request_way(from_client, to_server, link, &dropping) => {}
            Err(Reset) = reply_way(from_server, to_client, link, &dropping) => {}
            else => {}
        }
    };
    let mode = async {
        let mut mode = link.mode.subscribe();
        let _ = mode.wait_for(|mode| *mode == Mode::Refuse).await;
    };
    tokio::select! {
        () = both => {}
        () = mode => {}
        () = cut.cancelled() => {}
        () = link.end.cancelled() => {}
    }
}

/// The connection is to be reset.
struct Reset;

/// From the client to the server; looks for requests whose reply is to be dropped.
async fn request_way(
    from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    link: &Link,
    dropping: &AtomicBool,
) -> Result<(), Reset> {
    let (sender, mut pieces) = mpsc::channel(CHUNKS);
    let give = async {
        // A request may lie in two pieces.
        let mut tail: Vec<u8> = Vec::new();
        while let Some((came, piece)) = pieces.recv().await {
            let piece: Bytes = piece;
            if !link.may_pass(came).await {
                return Err(Reset);
            }
            tail.extend_from_slice(&piece);
            if link.is_to_drop(&tail) {
                dropping.store(true, Ordering::Release);
                tail.clear();
            }
            let keep = link.drops().request.len().saturating_sub(1);
            let cut = tail.len().saturating_sub(keep);
            tail.drain(..cut);
            to.write_all(&piece).await.map_err(|_| Reset)?;
        }
        let _ = to.shutdown().await;
        Ok(())
    };
    until_given(take(from, sender), give).await
}

/// From the server to the client, unless the reply is to be dropped.
async fn reply_way(
    from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    link: &Link,
    dropping: &AtomicBool,
) -> Result<(), Reset> {
    let (sender, mut pieces) = mpsc::channel(CHUNKS);
    let give = async {
        while let Some((came, piece)) = pieces.recv().await {
            let piece: Bytes = piece;
            if !link.may_pass(came).await {
                return Err(Reset);
            }
            if dropping.load(Ordering::Acquire) {
                // To the end of the reply: the server has done all that it was told.
                let last = Instant::now() + REPLY;
                while Instant::now() < last
                    && let Ok(Some(_)) = timeout(QUIET, pieces.recv()).await
                {}
                link.dropped.fetch_add(1, Ordering::Relaxed);
                return Err(Reset);
            }
            to.write_all(&piece).await.map_err(|_| Reset)?;
        }
        let _ = to.shutdown().await;
        Ok(())
    };
    until_given(take(from, sender), give).await
}

/// Reads beside giving, and is done when that is: its end does not wait for the other side.
async fn until_given(
    take: impl Future<Output = ()>,
    give: impl Future<Output = Result<(), Reset>>,
) -> Result<(), Reset> {
    let take = async {
        take.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        given = give => given,
        () = take => Ok(()),
    }
}

/// Reads until the end, as far as the other side keeps up.
async fn take(mut from: OwnedReadHalf, to: mpsc::Sender<(Instant, Bytes)>) {
    let mut buffer = vec![0; PIECE];
    while let Ok(size) = from.read(&mut buffer).await
        && size > 0
    {
        let piece = Bytes::copy_from_slice(&buffer[..size]);
        if to.send((Instant::now(), piece)).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers each line with itself.
    async fn echo() -> String {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.into_split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        format!("echo://{address}")
    }

    async fn connect(proxy: &Proxy) -> TcpStream {
        TcpStream::connect(proxy.url().trim_start_matches("echo://"))
            .await
            .unwrap()
    }

    async fn say(stream: &mut TcpStream, text: &str) -> std::io::Result<String> {
        stream.write_all(text.as_bytes()).await?;
        let mut reply = vec![0; text.len()];
        stream.read_exact(&mut reply).await?;
        Ok(String::from_utf8(reply).unwrap())
    }

    #[tokio::test]
    async fn the_proxy_does_what_it_is_told_while_it_runs() {
        let proxy = Proxy::before(&echo().await).unwrap();
        let (mut first, mut second) = (connect(&proxy).await, connect(&proxy).await);
        assert_eq!(say(&mut first, "one").await.unwrap(), "one");
        assert_eq!(say(&mut second, "two").await.unwrap(), "two");
        assert_eq!((proxy.accepted(), proxy.open()), (2, 3), "and one place");

        let begun = Instant::now();
        proxy.set(Mode::Delay(Duration::from_millis(200)));
        assert_eq!(say(&mut first, "three").await.unwrap(), "three");
        assert!(begun.elapsed() >= Duration::from_millis(400));

        proxy.set(Mode::BlackHole);
        let asked = timeout(Duration::from_millis(200), say(&mut first, "four")).await;
        assert!(asked.is_err(), "{asked:?}");
        let mut late = connect(&proxy).await;
        let asked = timeout(Duration::from_millis(200), say(&mut late, "four")).await;
        assert!(asked.is_err(), "{asked:?}");
        proxy.set(Mode::Pass);
        let mut four = [0; 4];
        first.read_exact(&mut four).await.unwrap();
        assert_eq!(&four, b"four");

        // Only the one that asks loses its reply, and so often as it was said.
        proxy.drop_replies(b"five", 1);
        assert_eq!(say(&mut second, "six").await.unwrap(), "six");
        first.write_all(b"fi").await.unwrap();
        let mut start = [0; 2];
        first.read_exact(&mut start).await.unwrap();
        assert!(say(&mut first, "ve").await.is_err());
        assert_eq!(proxy.dropped(), 1);
        assert_eq!(say(&mut second, "five").await.unwrap(), "five");

        proxy.set(Mode::Reset(1.0));
        assert!(say(&mut second, "seven").await.is_err());
        assert_eq!(proxy.resets(), 1);
        proxy.set(Mode::Reset(0.0));
        let mut third = connect(&proxy).await;
        assert_eq!(say(&mut third, "eight").await.unwrap(), "eight");

        proxy.cut();
        assert!(say(&mut third, "nine").await.is_err());
        let mut fourth = connect(&proxy).await;
        assert_eq!(say(&mut fourth, "ten").await.unwrap(), "ten");
        proxy.set(Mode::Refuse);
        assert!(say(&mut fourth, "eleven").await.is_err());
        // Refused already while it connects, or as soon as it speaks.
        let fifth = async {
            let mut fifth = TcpStream::connect(proxy.url().trim_start_matches("echo://")).await?;
            say(&mut fifth, "twelve").await
        };
        assert!(fifth.await.is_err());
    }

    #[test]
    fn the_address_stays_but_for_host_and_port() {
        let proxy = Proxy::before("postgres://me:word@127.0.0.1:5432/base").unwrap();
        assert!(proxy.url().starts_with("postgres://me:word@127.0.0.1:"));
        assert!(proxy.url().ends_with("/base"));
        assert!(!proxy.url().contains(":5432"));
        let proxy = Proxy::before("redis://localhost:6379").unwrap();
        assert!(proxy.url().starts_with("redis://127.0.0.1:"));
        assert!(!proxy.url().ends_with('/'));
    }
}
