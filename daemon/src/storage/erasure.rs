//! Erasing viewers: the list of tombstones, its mirror in Redis, and the work until nothing is left.
//!
//! In: the table `erased_users`, whose rows the function `erase_user` makes; also for `DELETE
//! /users/{id}`, which only begins an erasure. Out: the list for the storage writer, which looks in each
//! of its transactions whether it has all of it; its mirror `ttlc:erased` for all others; erasures that
//! somebody began and left; copies in Redis that nobody needs any more. `command` is `ttlc erase`.
//!
//! - **Crash**: each part of an erasure is a transaction that says where the next one begins.
//! - **Outage** of Postgres or Redis: waits and tries again for ever. A flushed Redis gets the list
//!   again within [`LOOK`].
//! - A **restored database** knows less than the mirror: what it lacks is put back into it, and the
//!   viewers are erased again, before anything of them is served for long; `ttlc erase --all` does it
//!   at once.

mod command;

use std::sync::Arc;
use std::time::Duration;

use metrics::gauge;
use tokio::time::Instant;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, GenericClient, SimpleQueryMessage, Transaction};
use tokio_util::sync::CancellationToken;

use super::database::{Database, Failure, Rights};
use crate::bus::Bus;
use crate::erasure::{Tombstone, Tombstones};
use crate::metrics::{ERASED_OPEN, ERASED_USERS};
use crate::outage::Outage;

pub use command::{Options, execute};

/// How often the list and its mirror are compared.
const LOOK: Duration = Duration::from_secs(1);
/// How often copies in Redis are looked for, as long as there are some, and for [`LATE`] after a change:
/// what comes from a spool or a replay is in a quiet stream until something newer comes, for trimming
/// leaves the last ones.
const PURGE: Duration = Duration::from_secs(10);
/// For so long copies are expected to come late.
const LATE: Duration = Duration::from_mins(10);
/// How often after that: there may be a longer replay, and dead letters that are parked unread.
const SELDOM: Duration = Duration::from_hours(1);
/// How many events a part of an erasure looks at.
const PART: i32 = 5_000;
/// After so long without an answer the connection is given up.
const TIMEOUT: Duration = Duration::from_mins(5);
/// What each transaction that stores something begins with, after it has taken on its role: nobody is
/// erased while it lasts, and whoever was erased before is in the list.
pub(super) const LOOK_AT_LIST: &str = "SELECT pg_advisory_xact_lock_shared(hashtextextended('ttlc.erased_users', 0)); \
    SELECT coalesce(max(change_no), 0) FROM erased_users";

/// The number that [`LOOK_AT_LIST`] told last.
pub(super) fn version(answer: &[SimpleQueryMessage]) -> i64 {
    let last = answer.iter().rev().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    last.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The list.
pub(super) async fn list(
    client: &impl GenericClient,
) -> Result<(i64, Vec<Tombstone>), tokio_postgres::Error> {
    let rows = client
        .query_typed(
            "SELECT change_no, encode(user_hash, 'hex'), erased_at, traces FROM erased_users ORDER BY change_no",
            &[],
        )
        .await?;
    let version = rows.last().map_or(0, |row| row.get(0));
    let list = rows
        .iter()
        .map(|row| Tombstone {
            user_hash: row.get(1),
            erased_at: row.get::<_, jiff::Timestamp>(2).into(),
            traces: serde_json::from_value(row.get(3)).unwrap_or_default(),
        })
        .collect();
    Ok((version, list))
}

/// The list, if it is not the one that is known.
pub(super) async fn refreshed(
    transaction: &Transaction<'_>,
    known: &mut Arc<Tombstones>,
    version: i64,
) -> Result<bool, tokio_postgres::Error> {
    if known.version == version {
        return Ok(false);
    }
    let (version, rows) = list(transaction).await?;
    *known = Arc::new(Tombstones::new(version, &rows));
    Ok(true)
}

/// Keeps the mirror, and finishes what was begun, until told to stop.
pub(super) async fn keep(database: Database, bus: Bus, stop: CancellationToken) {
    let mut keeper = Keeper {
        database,
        bus,
        client: None,
        mirrored: -1,
        changed: Instant::now(),
        purging: Instant::now(),
        erased: Arc::default(),
    };
    let mut outage = Outage::new("postgres or redis");
    while let Some(round) = stop.run_until_cancelled(keeper.round()).await {
        let go_on = match round {
            Ok(()) => {
                outage.over();
                stop.run_until_cancelled(tokio::time::sleep(LOOK))
                    .await
                    .is_some()
            }
            Err(trouble) => {
                keeper.client = None;
                outage.wait(&trouble, &stop).await
            }
        };
        if !go_on {
            return;
        }
    }
}

/// What stands in the way; to be tried again later.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("postgres: {0}")]
    Postgres(#[from] Failure),
    #[error(transparent)]
    Redis(#[from] crate::bus::Error),
}

impl From<tokio_postgres::Error> for Trouble {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Postgres(error.into())
    }
}

struct Keeper {
    database: Database,
    bus: Bus,
    client: Option<(Client, Rights)>,
    /// The number of the last change that was written to Redis.
    mirrored: i64,
    /// When the list was last found to be another one.
    changed: Instant,
    /// When copies in Redis are looked for.
    purging: Instant,
    erased: Arc<Tombstones>,
}

impl Keeper {
    async fn round(&mut self) -> Result<(), Trouble> {
        let mut open = match self.client.take().filter(|open| !open.0.is_closed()) {
            Some(open) => open,
            None => self.database.connect_as_writer().await?,
        };
        match tokio::time::timeout(TIMEOUT, self.look(&mut open)).await {
            Ok(done) => done?,
            Err(_) => return Err(Failure::Timeout(TIMEOUT).into()),
        }
        self.client = Some(open);
        Ok(())
    }

    async fn look(&mut self, (client, rights): &mut (Client, Rights)) -> Result<(), Trouble> {
        let transaction = begin(client, *rights).await?;
        let row = transaction
            .query_typed_one(
                "SELECT coalesce(max(change_no), 0), count(*), count(*) FILTER (WHERE search IS NOT NULL) FROM erased_users",
                &[],
            )
            .await?;
        let (version, users, unfinished): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
        #[expect(clippy::cast_precision_loss, reason = "metrics are floats")]
        {
            gauge!(ERASED_USERS).set(users as f64);
            gauge!(ERASED_OPEN).set(unfinished as f64);
        }
        if version != self.mirrored || self.bus.erased_change().await? != Some(version) {
            let (number, rows) = list(&transaction).await?;
            transaction.commit().await?;
            self.erased = Arc::new(Tombstones::new(number, &rows));
            if adopt(client, *rights, &self.bus, &rows).await? > 0 {
                // The next round has them.
                return Ok(());
            }
            self.bus.put_erased(number, &rows).await?;
            self.mirrored = number;
            self.changed = Instant::now();
            self.purging = self.changed;
        } else {
            transaction.commit().await?;
        }
        if unfinished > 0 {
            find(client, *rights).await?;
            self.go_on(client, *rights).await?;
        } else if self.erased.len() > 0 && self.purging <= Instant::now() {
            let purged = self.bus.purge(&self.erased).await?;
            tracing::debug!(
                deleted = purged.deleted,
                left = purged.left,
                "looked for copies of erased viewers in redis"
            );
            let soon = purged.left > 0 || self.changed.elapsed() < LATE;
            self.purging = Instant::now() + if soon { PURGE } else { SELDOM };
        }
        Ok(())
    }

    /// One part of each erasure that is not finished.
    async fn go_on(&self, client: &mut Client, rights: Rights) -> Result<(), Trouble> {
        let transaction = begin(client, rights).await?;
        let open = transaction
            .query_typed(
                "SELECT user_hash FROM erased_users WHERE search ? 'viewer' ORDER BY change_no",
                &[],
            )
            .await?;
        transaction.commit().await?;
        for row in open {
            let progress = go_on(client, rights, row.get(0)).await?;
            if progress.finished {
                tracing::info!(
                    events = progress.events,
                    rewritten = progress.rewritten,
                    dead_letters = progress.dead_letters,
                    "a viewer is erased"
                );
            }
        }
        Ok(())
    }
}

/// How far an erasure is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Progress {
    finished: bool,
    events: i64,
    rewritten: i64,
    session_users: i64,
    dead_letters: i64,
}

/// What the functions return of a row, after their name.
const COLUMNS: &str = "finished_at IS NOT NULL, events, rewritten, session_users, dead_letters";

impl Progress {
    fn of(row: &tokio_postgres::Row) -> Self {
        Self {
            finished: row.get(0),
            events: row.get(1),
            rewritten: row.get(2),
            session_users: row.get(3),
            dead_letters: row.get(4),
        }
    }
}

async fn begin(client: &mut Client, rights: Rights) -> Result<Transaction<'_>, Failure> {
    let transaction = client.transaction().await?;
    transaction
        .batch_execute(&format!(
            "SET LOCAL statement_timeout = '4min'; {}",
            rights.begin()
        ))
        .await?;
    Ok(transaction)
}

/// The next part of an erasure that goes on.
async fn go_on(client: &mut Client, rights: Rights, hash: Vec<u8>) -> Result<Progress, Failure> {
    let transaction = begin(client, rights).await?;
    let row = transaction
        .query_typed_one(
            &format!("SELECT {COLUMNS} FROM continue_erasure($1, $2)"),
            &[(&hash, Type::BYTEA), (&PART, Type::INT4)],
        )
        .await?;
    transaction.commit().await?;
    Ok(Progress::of(&row))
}

/// Puts tombstones into the database that only the mirror has: it was restored from an older copy.
async fn adopt(
    client: &mut Client,
    rights: Rights,
    bus: &Bus,
    known: &[Tombstone],
) -> Result<usize, Trouble> {
    let lacking: Vec<Tombstone> = bus
        .erased()
        .await?
        .into_iter()
        .filter(|one| !known.iter().any(|known| known.user_hash == one.user_hash))
        .collect();
    if !lacking.is_empty() {
        tracing::warn!(
            viewers = lacking.len(),
            reason = "restored",
            "the database does not know of viewers who were erased: it was restored from an older copy, they are erased again"
        );
        restore(client, rights, &lacking).await?;
    }
    Ok(lacking.len())
}

/// Adds tombstones from elsewhere; returns how many were news.
async fn restore(
    client: &mut Client,
    rights: Rights,
    tombstones: &[Tombstone],
) -> Result<usize, Failure> {
    let transaction = begin(client, rights).await?;
    let mut news = 0;
    for one in tombstones {
        let added: bool = transaction
            .query_typed_one(
                "SELECT restore_tombstone(decode($1, 'hex'), $2, $3)",
                &[
                    (&one.user_hash, Type::TEXT),
                    (&one.erased_at.to_jiff(), Type::TIMESTAMPTZ),
                    (
                        &serde_json::to_value(&one.traces).unwrap_or_default(),
                        Type::JSONB,
                    ),
                ],
            )
            .await?
            .get(0);
        news += usize::from(added);
    }
    transaction.commit().await?;
    Ok(news)
}

/// Finds the viewers of tombstones that came back without their ids, and begins to erase them again;
/// returns how many.
async fn find(client: &mut Client, rights: Rights) -> Result<usize, Failure> {
    let transaction = begin(client, rights).await?;
    let waiting: Vec<Vec<u8>> = transaction
        .query_typed(
            "SELECT user_hash FROM erased_users WHERE search ->> 'phase' = 'find'",
            &[],
        )
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect();
    if waiting.is_empty() {
        return Ok(0);
    }
    let found = transaction
        .query_typed("SELECT viewer, until FROM find_erased()", &[])
        .await?;
    for row in &found {
        let (viewer, until): (String, jiff::Timestamp) = (row.get(0), row.get(1));
        transaction
            .query_typed(
                "SELECT erase_user($1, until => $2)",
                &[(&viewer, Type::TEXT), (&until, Type::TIMESTAMPTZ)],
            )
            .await?;
    }
    transaction
        .query_typed(
            "SELECT settle_tombstones($1)",
            &[(&waiting, Type::BYTEA_ARRAY)],
        )
        .await?;
    transaction.commit().await?;
    Ok(found.len())
}
