//! `Relay`: the Durable Object that brings live events from Redis to the hubs, one per shard.
//!
//! Comes in: entries of `ttlc:events`, read by group `api` under a fixed consumer name. Goes out:
//! events of live sessions to the `StreamHub` of their room, in order. An entry is acknowledged
//! only after its hub has taken it; whatever happens in between, it comes again, and the hub drops
//! what it had. An entry that fails five times is let go: clients get it from the database.
//!
//! The loop runs in `wait_until`, never inside `alarm()`: a panic anywhere in the isolate would
//! leave the alarm running for ever. The alarm is only the watchdog that starts the loop again,
//! every 10 s. Without Redis it tries again for ever, at most 3 s apart. A loop that was left
//! behind in a former instance is cut off by closing its connection at Redis.

#![allow(
    missing_docs,
    reason = "the attribute `durable_object` adds methods without"
)]

pub(crate) mod batch;

use std::cell::{Cell, RefCell};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join_all;
use shared::api::{RelayHealth, RelayState};
use shared::streams::{GROUP_API, StreamNames};
use shared::time::Timestamp;
use worker::wasm_bindgen::JsValue;
use worker::{
    Delay, DurableObject, Env, Method, Request, RequestInit, Response, State, durable_object,
};

use self::batch::{Batch, batches};
use crate::bus::{self, Address, Connection, Entry, Error, delivered_often, entries};
use crate::config;
use crate::log;
use crate::wait::{Signal, within};

/// The watchdog's period.
const WATCHDOG: Duration = Duration::from_secs(10);
/// How long a read waits for entries.
const BLOCK: Duration = Duration::from_secs(5);
/// Shortest and longest wait before the next attempt to connect.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(3));
/// Deliveries after which an entry is let go.
const MAX_DELIVERIES: i64 = 5;
/// Entries that one read takes at most.
const MAX_COUNT: usize = 256;
/// Bytes that one read should take at most.
const READ_BYTES: usize = 2 * 1024 * 1024;
/// A hub that has not taken a batch by then is asked again, with the next connection.
const HUB_TIME: Duration = Duration::from_secs(10);
/// How long `/status` waits for a relay that has just started.
const START_TIME: Duration = Duration::from_millis(1_500);

/// The Durable Object. Its name is `relay-{shard}`.
#[durable_object(alarm)]
pub struct Relay {
    reader: Rc<Reader>,
}

// All state of a relay is in Redis; the loop starts again from there.
impl UnwindSafe for Relay {}
impl RefUnwindSafe for Relay {}

impl DurableObject for Relay {
    fn new(state: State, env: Env) -> Self {
        Self {
            reader: Rc::new(Reader {
                state,
                env,
                shard: Cell::new(None),
                running: Cell::new(false),
                status: RefCell::new(Status::new()),
                changed: Signal::default(),
            }),
        }
    }

    /// `/start` and `/status`, both with `?shard=`: starts the loop; the second answers how it is.
    async fn fetch(&self, request: Request) -> worker::Result<Response> {
        let url = request.url()?;
        let shard = url
            .query_pairs()
            .find(|(key, _)| key == "shard")
            .and_then(|(_, value)| value.parse::<u32>().ok());
        let Some(shard) = shard else {
            return Response::error("no shard", 400);
        };
        if self.reader.shard.replace(Some(shard)).is_none() {
            let storage = self.reader.state.storage();
            storage.put("shard", shard).await?;
            storage.set_alarm(WATCHDOG).await?;
        }
        self.reader.start();
        if url.path() == "/status" {
            let settled = async {
                loop {
                    let changed = self.reader.changed.wait();
                    if self.reader.status.borrow().state != RelayState::Starting {
                        return;
                    }
                    changed.await;
                }
            };
            let _ = within(START_TIME, settled).await;
            return Response::from_json(&self.reader.health(shard));
        }
        Response::empty()
    }

    async fn alarm(&self) -> worker::Result<Response> {
        let storage = self.reader.state.storage();
        storage.set_alarm(WATCHDOG).await?;
        if self.reader.shard.get().is_none() {
            self.reader.shard.set(storage.get("shard").await?);
        }
        self.reader.start();
        Response::empty()
    }
}

/// How the loop is doing.
#[derive(Debug)]
struct Status {
    state: RelayState,
    since: Timestamp,
    delivered: u64,
    connections: u64,
    last_answer_at: Option<Timestamp>,
    last_entry_at: Option<Timestamp>,
    reason: Option<String>,
}

impl Status {
    fn new() -> Self {
        Self {
            state: RelayState::Starting,
            since: crate::now(),
            delivered: 0,
            connections: 0,
            last_answer_at: None,
            last_entry_at: None,
            reason: None,
        }
    }
}

/// Why a connection was given up.
enum Failure {
    Redis(Error),
    Hub,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Redis(error)
    }
}

impl Failure {
    fn reason(&self) -> String {
        match self {
            Self::Redis(error) => error.to_string(),
            Self::Hub => "a hub did not take its events".to_owned(),
        }
    }
}

/// The loop and what it needs.
struct Reader {
    state: State,
    env: Env,
    shard: Cell<Option<u32>>,
    running: Cell<bool>,
    status: RefCell<Status>,
    changed: Signal,
}

impl Reader {
    /// Starts the loop unless it runs.
    fn start(self: &Rc<Self>) {
        let Some(shard) = self.shard.get() else {
            return;
        };
        if self.running.replace(true) {
            return;
        }
        let reader = Rc::clone(self);
        self.state.wait_until(async move {
            reader.run(shard).await;
            reader.running.set(false);
        });
    }

    fn set_state(&self, state: RelayState, reason: Option<String>) {
        let mut status = self.status.borrow_mut();
        if status.state != state {
            status.state = state;
            status.since = crate::now();
        }
        status.reason = reason;
        drop(status);
        self.changed.raise();
    }

    fn health(&self, shard: u32) -> RelayHealth {
        let status = self.status.borrow();
        RelayHealth {
            shard,
            state: status.state,
            since: status.since,
            delivered: status.delivered,
            connections: status.connections,
            last_answer_at: status.last_answer_at,
            last_entry_at: status.last_entry_at,
            reason: status.reason.clone(),
        }
    }

    /// Connects, reads until something fails, and again. Ends only when the configuration is
    /// unusable; the watchdog looks at it again.
    async fn run(&self, shard: u32) {
        let shard_text = shard.to_string();
        let names = StreamNames::new(config::shards(&self.env));
        let address = config::redis_url(&self.env)
            .ok_or(Error::Address("is not set"))
            .and_then(|url| Address::parse(&url));
        let address = match address {
            Ok(address) if shard < names.shards() => address,
            Ok(_) => {
                // STREAM_SHARDS went down: this relay is one of the former.
                self.set_state(
                    RelayState::Misconfigured,
                    Some("there are fewer shards".to_owned()),
                );
                return;
            }
            Err(error) => {
                log::error(
                    "the relay can't start",
                    &[("shard", &shard_text), ("reason", &error.to_string())],
                );
                self.set_state(RelayState::Misconfigured, Some(error.to_string()));
                return;
            }
        };
        let source = Source {
            stream: names.events(shard),
            consumer: format!("edge-{shard}"),
            name: format!("ttlc-relay-{shard}"),
        };
        let (shortest, longest) = BACKOFF;
        let mut delay = shortest;
        loop {
            let connections = self.status.borrow().connections;
            let failure = match self.read(&address, &source).await {
                Ok(never) => match never {},
                Err(failure) => failure,
            };
            if self.status.borrow().connections != connections {
                delay = shortest;
            }
            let reason = failure.reason();
            // Once, not with every attempt.
            if self.status.borrow().reason.as_ref() != Some(&reason) {
                log::warn(
                    "the relay lost its source and tries again",
                    &[("shard", &shard_text), ("reason", &reason)],
                );
            }
            self.set_state(RelayState::Retrying, Some(reason));
            Delay::from(delay).await;
            delay = longest.min(delay * 2);
        }
    }

    /// One connection: first what is pending from before, then what is new.
    async fn read(
        &self,
        address: &Address,
        source: &Source,
    ) -> Result<std::convert::Infallible, Failure> {
        let mut redis = Connection::open(address).await?;
        self.fence(&mut redis, source).await?;
        self.create_group(&mut redis, source).await?;
        let mut count = 64;
        loop {
            self.drop_poison(&mut redis, source).await?;
            let mut pending = true;
            let mut rounds_without_entries = 0;
            // A former connection may have been given entries that nobody will handle: when it is
            // quiet, what is pending is looked through again.
            while rounds_without_entries < 2 {
                // What is pending failed once: one by one, so that one bad entry does not take
                // others with it when it is let go.
                let (from, most) = if pending { ("0", 1) } else { (">", count) };
                let found = match self.fetch(&mut redis, source, from, most).await {
                    Err(error) if error.is("NOGROUP") => {
                        // Redis lost its data. From the beginning: hubs drop what they had.
                        self.create_group(&mut redis, source).await?;
                        pending = true;
                        continue;
                    }
                    other => other?,
                };
                self.answered(found.len());
                if let Some(size) = redis.last_size.checked_div(found.len()) {
                    count = (READ_BYTES / size.max(1)).clamp(1, MAX_COUNT);
                }
                if found.is_empty() {
                    if pending {
                        pending = false;
                    } else {
                        rounds_without_entries += 1;
                    }
                    continue;
                }
                rounds_without_entries = 0;
                self.deliver(&found).await?;
                acknowledge(&mut redis, source, &found).await?;
            }
        }
    }

    /// Ends the connection of a loop that may still run in a former instance of this object, so
    /// that it swallows no entries.
    async fn fence(&self, redis: &mut Connection, source: &Source) -> Result<(), Failure> {
        let storage = self.state.storage();
        let former: Option<i64> = storage.get("client").await.ok().flatten();
        if let Some(former) = former {
            let id = former.to_string();
            // Ids begin anew with the server: only a connection of our name is ours.
            let ours = match redis.ask(&["CLIENT", "LIST", "ID", &id]).await {
                Ok(reply) => reply
                    .into_text()
                    .is_ok_and(|text| text.contains(&format!(" name={} ", source.name))),
                // Not every hosted Redis has the command.
                Err(Error::Refused(_)) => false,
                Err(error) => return Err(error.into()),
            };
            if ours {
                match redis.ask(&["CLIENT", "KILL", "ID", &id]).await {
                    Ok(_) | Err(Error::Refused(_)) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        for command in [
            &["CLIENT", "SETNAME", &source.name][..],
            &["CLIENT", "ID"][..],
        ] {
            match redis.ask(command).await {
                Ok(bus::Reply::Number(id)) => {
                    // A failure here only means one fence less.
                    let _ = storage.put("client", id).await;
                }
                Ok(_) | Err(Error::Refused(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn create_group(&self, redis: &mut Connection, source: &Source) -> Result<(), Error> {
        let created = redis
            .ask(&[
                "XGROUP",
                "CREATE",
                &source.stream,
                GROUP_API,
                "0",
                "MKSTREAM",
            ])
            .await;
        match created {
            Err(error) if !error.is("BUSYGROUP") => Err(error),
            _ => Ok(()),
        }
    }

    /// Lets go what failed too often.
    async fn drop_poison(&self, redis: &mut Connection, source: &Source) -> Result<(), Error> {
        let limit = MAX_COUNT.to_string();
        let pending = redis
            .ask(&[
                "XPENDING",
                &source.stream,
                GROUP_API,
                "-",
                "+",
                &limit,
                &source.consumer,
            ])
            .await;
        let ids = match pending {
            Ok(reply) => delivered_often(reply, MAX_DELIVERIES)?,
            Err(error) if error.is("NOGROUP") => return Ok(()),
            Err(error) => return Err(error),
        };
        if ids.is_empty() {
            return Ok(());
        }
        log::error(
            "entries failed too often and were let go",
            &[("count", &ids.len().to_string()), ("first", &ids[0])],
        );
        let mut command = vec!["XACK", source.stream.as_str(), GROUP_API];
        command.extend(ids.iter().map(String::as_str));
        redis.ask(&command).await.map(|_| ())
    }

    async fn fetch(
        &self,
        redis: &mut Connection,
        source: &Source,
        from: &str,
        count: usize,
    ) -> Result<Vec<Entry>, Error> {
        let reply = redis
            .ask_within(
                &[
                    "XREADGROUP",
                    "GROUP",
                    GROUP_API,
                    &source.consumer,
                    "COUNT",
                    &count.to_string(),
                    "BLOCK",
                    &BLOCK.as_millis().to_string(),
                    "STREAMS",
                    &source.stream,
                    from,
                ],
                BLOCK,
            )
            .await?;
        entries(reply)
    }

    fn answered(&self, count: usize) {
        let now = crate::now();
        let mut status = self.status.borrow_mut();
        status.last_answer_at = Some(now);
        if count > 0 {
            status.last_entry_at = Some(now);
        }
        if status.state != RelayState::Reading {
            status.connections += 1;
            drop(status);
            log::info("the relay reads", &[]);
            self.set_state(RelayState::Reading, None);
        }
    }

    /// Gives each hub its events, all hubs at once; within a room the order stays.
    async fn deliver(&self, found: &[Entry]) -> Result<(), Failure> {
        let (batches, unreadable) = batches(found);
        if unreadable > 0 {
            log::error(
                "entries without a readable event were dropped",
                &[("count", &unreadable.to_string())],
            );
        }
        let results = join_all(batches.iter().map(|batch| self.hand_over(batch))).await;
        if results.iter().any(|taken| !taken) {
            return Err(Failure::Hub);
        }
        self.status.borrow_mut().delivered += found.len() as u64;
        Ok(())
    }

    async fn hand_over(&self, batch: &Batch) -> bool {
        let asking = async {
            let stub = self
                .env
                .durable_object("STREAM_HUB")?
                .get_by_name(&batch.stream_id)?;
            let mut init = RequestInit::new();
            init.with_method(Method::Post)
                .with_body(Some(JsValue::from_str(&batch.lines)));
            let url = format!("http://hub/ingest?stream={}", batch.stream_id);
            stub.fetch_with_request(Request::new_with_init(&url, &init)?)
                .await
        };
        match within(HUB_TIME, asking).await {
            Ok(Ok(response)) => response.status_code() == 200,
            Ok(Err(_)) | Err(_) => false,
        }
    }
}

async fn acknowledge(
    redis: &mut Connection,
    source: &Source,
    found: &[Entry],
) -> Result<(), Error> {
    let mut command = vec!["XACK", source.stream.as_str(), GROUP_API];
    command.extend(found.iter().map(|entry| entry.id.as_str()));
    redis.ask(&command).await.map(|_| ())
}

/// What the loop reads, and under which names.
struct Source {
    stream: String,
    consumer: String,
    name: String,
}
