//! Watching a daemon from outside: what creators' statuses say, what stands in `ttlc:raw`, what
//! `/metrics` shows.

use std::{
    collections::{HashMap, HashSet},
    net::TcpListener,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, ensure};
use jiff::Timestamp;
use redis::AsyncCommands;
use serde_json::Value;
use upstream::Upstream;

use crate::{
    daemon::{Log, PATIENCE},
    product::Product,
    stores::{Entry, Stores, until},
};

/// Entries that are read at a time: messages can be large.
const PART: usize = 200;

/// An entry of `ttlc:raw`.
#[derive(Clone, Debug)]
pub(crate) struct Raw {
    /// `WebcastChatMessage`, `ControlEvent.CONNECTED`.
    pub(crate) kind: String,
    pub(crate) room: String,
    pub(crate) session: String,
    pub(crate) seq_no: u64,
    pub(crate) msg_id: Option<i64>,
    pub(crate) backlog: bool,
    pub(crate) ingested_at: Timestamp,
    data: String,
}

impl Raw {
    fn of(entry: &Entry) -> Self {
        let text = |name: &str| entry.get(name).cloned().unwrap_or_default();
        Self {
            kind: text("type"),
            room: text("streamId"),
            session: text("sessionId"),
            seq_no: text("seqNo").parse().expect("a number"),
            msg_id: entry.get("msgId").map(|id| id.parse().expect("a number")),
            backlog: entry.contains_key("backlog"),
            ingested_at: text("ingestedAt").parse().expect("a time"),
            // Only what is read by us: rooms say a lot.
            data: text(if text("type").starts_with("ControlEvent") {
                "data"
            } else {
                ""
            }),
        }
    }

    /// `CONNECTED`, `DISCONNECTED`, `ERROR` or `GAP`.
    pub(crate) fn control(&self) -> Option<&str> {
        self.kind.strip_prefix("ControlEvent.")
    }

    /// What a lifecycle entry says.
    pub(crate) fn says(&self) -> Value {
        serde_json::from_str(&self.data).expect("JSON")
    }
}

/// All that has been in `ttlc:raw` so far.
pub(crate) async fn raw(stores: &Stores) -> anyhow::Result<Vec<Arc<Raw>>> {
    let mut seen = stores.seen.lock().await;
    loop {
        let from = seen.last.as_ref().map(|last| format!("({last}"));
        let from = from.as_deref().unwrap_or("-");
        let entries = stores.entries_after("ttlc:raw", from, PART).await?;
        let whole = entries.len() < PART;
        for (id, entry) in entries {
            seen.last = Some(id);
            seen.entries.push(Arc::new(Raw::of(&entry)));
        }
        if whole {
            break;
        }
    }
    Ok(seen.entries.clone())
}

/// A creator's life: `"CONNECTED start"` and so on, each with what it says and its entry.
pub(crate) async fn life(
    stores: &Stores,
    creator: &str,
) -> anyhow::Result<Vec<(String, Value, Arc<Raw>)>> {
    let all = raw(stores).await?;
    let life = all.into_iter().filter_map(|entry| {
        let kind = entry.control()?.to_owned();
        let says = entry.says();
        let reason = says["reason"].as_str().unwrap_or_default();
        (says["uniqueId"] == creator).then(|| (format!("{kind} {reason}"), says.clone(), entry))
    });
    Ok(life.collect())
}

/// Waits until a creator's life has come so far, and returns it; more of the end may be there.
pub(crate) async fn lived(
    product: &Product,
    creator: &str,
    wanted: &[&str],
) -> Vec<(String, Value, Arc<Raw>)> {
    until(PATIENCE, async || {
        let life = life(&product.stores, creator).await?;
        let so_far: Vec<_> = life.iter().map(|(what, _, _)| what.as_str()).collect();
        ensure!(
            so_far.starts_with(wanted),
            "{creator}: {so_far:?} for {wanted:?}; the log:\n{}",
            product.log.lines().join("\n")
        );
        Ok(life)
    })
    .await
}

/// A creator's status now; `Null` for none.
pub(crate) async fn status(stores: &Stores, creator: &str) -> anyhow::Result<Value> {
    let key = format!("ttlc:status:{creator}");
    Ok(stores.json(&key).await?.unwrap_or_default())
}

/// Waits for a creator's state and its reason ("": any), and returns the whole status.
pub(crate) async fn shows(product: &Product, creator: &str, state: &str, reason: &str) -> Value {
    until(PATIENCE, async || {
        let status = status(&product.stores, creator).await?;
        ensure!(
            status["state"] == state && (reason.is_empty() || status["reason"] == reason),
            "{creator}: {status} for {state} {reason}; the log:\n{}",
            product.log.lines().join("\n")
        );
        Ok(status)
    })
    .await
}

/// A time in a status.
pub(crate) fn time(value: &Value) -> Timestamp {
    let text = value.as_str().unwrap_or_default();
    text.parse()
        .unwrap_or_else(|error| panic!("{value}: {error}"))
}

/// Records of the log with this message and, where given, about this creator.
pub(crate) fn said(log: &Log, message: &str, creator: &str) -> Vec<Value> {
    let field = |record: &Value, name: &str| {
        let nested = &record["fields"][name];
        let found = if nested.is_null() {
            &record[name]
        } else {
            nested
        };
        found.as_str().unwrap_or_default().to_owned()
    };
    let mut records = log.records().expect("JSON");
    records.retain(|record| {
        field(record, "message") == message
            && (creator.is_empty() || field(record, "creator") == creator)
    });
    records
}

/// An address for `HEALTH_ADDR` that nobody listens on.
pub(crate) fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").to_string()
}

/// The sum of a metric's values, without fractions, whose labels hold all of these (`host="euler"`).
pub(crate) async fn metric(address: &str, name: &str, labels: &[&str]) -> anyhow::Result<u64> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let url = format!("http://{address}/metrics");
    let text = reqwest::get(url).await?.error_for_status()?.text().await?;
    let values = text.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (found, of) = series.split_once('{').unwrap_or((series, ""));
        let fits = found == name && labels.iter().all(|label| of.contains(label));
        fits.then(|| {
            let whole = value.split('.').next().unwrap_or(value);
            whole.parse::<u64>().expect("a number")
        })
    });
    let values: Vec<_> = values.collect();
    ensure!(!values.is_empty(), "no {name} {labels:?} in:\n{text}");
    Ok(values.iter().sum())
}

/// A command of the control stream.
pub(crate) async fn command(stores: &Stores, command: &str, creator: &str) {
    let json = serde_json::json!({ "command": command, "uniqueId": creator }).to_string();
    let mut redis = stores.redis().await.unwrap();
    let fields = [("command", json)];
    let _: String = redis.xadd("ttlc:control", "*", &fields).await.unwrap();
}

/// What must hold of the raw stream whatever happened: no number and no message twice, numbers
/// rise in a room and have no hole in a session.
pub(crate) fn check(entries: &[Arc<Raw>]) {
    let mut messages = HashSet::new();
    let mut rooms: HashMap<&str, u64> = HashMap::new();
    let mut sessions: HashMap<&str, u64> = HashMap::new();
    for entry in entries {
        if let Some(id) = entry.msg_id {
            assert!(messages.insert((&entry.room, id)), "twice: {entry:?}");
        }
        let before = rooms.insert(&entry.room, entry.seq_no);
        assert!(
            before.is_none_or(|it| it < entry.seq_no),
            "order: {entry:?}"
        );
        let before = sessions.insert(&entry.session, entry.seq_no);
        assert!(
            before.is_none_or(|it| it + 1 == entry.seq_no),
            "a hole: {entry:?}"
        );
    }
}

/// Waits until all that this creator's room has sent is in `ttlc:raw`; each once, in its order.
pub(crate) async fn all_arrived(stores: &Stores, upstream: &Upstream, creator: &str) {
    until(PATIENCE, async || {
        let sent: Vec<_> = upstream
            .sent()
            .iter()
            .filter(|sent| sent.creator == creator)
            .map(|sent| sent.msg_id)
            .collect();
        let known: HashSet<_> = sent.iter().copied().collect();
        let entries = raw(stores).await?;
        check(&entries);
        let came: Vec<_> = entries.iter().filter_map(|entry| entry.msg_id).collect();
        let came: Vec<_> = came.into_iter().filter(|id| known.contains(id)).collect();
        let there: HashSet<_> = came.iter().copied().collect();
        let lost = sent.iter().filter(|id| !there.contains(id)).count();
        ensure!(lost == 0, "{creator}: {lost} of {} are missing", sent.len());
        ensure!(came == sent, "{creator}: another order");
        Ok(())
    })
    .await;
}

/// How long ago.
pub(crate) fn since(at: std::time::SystemTime) -> Duration {
    at.elapsed().unwrap_or_default()
}

/// Waits until this many messages of a creator have been sent.
pub(crate) async fn sent(upstream: &Upstream, creator: &str, count: usize) {
    until(PATIENCE, async || {
        let sent = upstream.sent();
        let sent = sent.iter().filter(|sent| sent.creator == creator).count();
        let context = || format!("{creator}: {sent} of {count} messages are sent");
        (sent >= count).then_some(()).with_context(context)
    })
    .await;
}
