//! Retention: what is older than `EVENT_RETENTION_DAYS` goes.
//!
//! In: the age. Out: partitions of `events` are dropped, whole days, and leave `gaps` rows; users
//! and dead letters of that age are removed; statistics stay, with an HMAC in place of a viewer's
//! id. At start and every six hours, and by `ttlc prune`.
//!
//! It works as the owner of the tables, whose address the migrations use: the writer's role can't
//! remove an event. A partition leaves `events` in one short transaction and is counted and dropped
//! in the next, when no reader can meet it any more; what a crash leaves between the two is
//! finished first of all. Twice, or by several processes at once, is like once. An outage is waited
//! for, and so is whoever reads the events for long.

use std::fmt;
use std::time::Duration;

use jiff::civil::Date;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};
use tokio_util::sync::CancellationToken;

use super::database::{Database, DatabaseOptions, Failure, timed};
use super::{Error, given};
use crate::outage::Outage;

const INTERVAL: Duration = Duration::from_hours(6);
/// Of one statement. Long: a day of many rooms is counted before it goes.
const TIMEOUT: Duration = Duration::from_mins(15);
/// A little before that, so that normally the server's reason is seen.
const LIMITS: &str = "SET LOCAL statement_timeout = '14min'";
/// For what takes a lock that readers of `events` wait behind: a long one of them must not make
/// all others wait for long.
const SHORT_LOCKS: &str = "SET LOCAL lock_timeout = '2s'; SET LOCAL statement_timeout = '14min'";
/// After such a lock was not free: the others go on meanwhile.
const CONFLICT_PAUSE: Duration = Duration::from_secs(3);
/// Of SHA-256, in bytes.
const BLOCK: usize = 64;

/// How long events are kept.
#[derive(Clone, Debug, clap::Args)]
pub struct RetentionOptions {
    /// Days that events, users and dead letters are kept; 0 = for ever
    #[arg(long, env = "EVENT_RETENTION_DAYS", default_value = "90", value_parser = clap::value_parser!(u32).range(0..=36_500))]
    pub event_retention_days: u32,
    /// Key of the pseudonyms that stay in the statistics after that; without it each round draws
    /// one and forgets it, so that nobody can tell a viewer in two rounds
    #[arg(long, env = "PSEUDONYM_KEY", hide_env_values = true)]
    pub pseudonym_key: Option<SecretString>,
}

/// What a round removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Days of events.
    pub days: u64,
    /// Users.
    pub users: i64,
    /// Viewers of a session whose id became an HMAC.
    pub session_users: i64,
    /// Dead letters.
    pub dead_letters: i64,
    /// Records of the forwarder.
    pub forward_log: i64,
}

impl fmt::Display for Pruned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::default() {
            return write!(f, "nothing is older than EVENT_RETENTION_DAYS");
        }
        write!(
            f,
            "removed: {} days of events, {} users, {} dead letters, {} records of the forwarder · \
             {} viewers of sessions are pseudonyms now",
            self.days, self.users, self.dead_letters, self.forward_log, self.session_users
        )
    }
}

/// One round, as `ttlc prune`.
pub async fn prune(
    database: &DatabaseOptions,
    options: &RetentionOptions,
) -> Result<Pruned, Error> {
    database.open()?;
    round(&database.open_for_migrations()?, options)
        .await
        .map_err(|failure| Error::Prune(failure.to_string()))
}

/// Rounds until told to stop.
pub(super) async fn keep(database: Database, options: RetentionOptions, stop: CancellationToken) {
    if options.event_retention_days == 0 {
        return stop.cancelled().await;
    }
    let mut outage = Outage::new("postgres");
    while let Some(pruned) = stop.run_until_cancelled(round(&database, &options)).await {
        let go_on = match pruned {
            Ok(pruned) => {
                outage.over();
                if pruned != Pruned::default() {
                    tracing::info!(
                        days = pruned.days,
                        users = pruned.users,
                        session_users = pruned.session_users,
                        dead_letters = pruned.dead_letters,
                        forward_log = pruned.forward_log,
                        "pruned what is older than the retention"
                    );
                }
                stop.run_until_cancelled(tokio::time::sleep(INTERVAL))
                    .await
                    .is_some()
            }
            Err(failure) => outage.wait(&failure, &stop).await,
        };
        if !go_on {
            return;
        }
    }
}

async fn round(database: &Database, options: &RetentionOptions) -> Result<Pruned, Failure> {
    let days = i64::from(options.event_retention_days);
    if days == 0 {
        return Ok(Pruned::default());
    }
    let key = match given(options.pseudonym_key.as_ref()) {
        Some(key) => key.clone(),
        None => format!("{:x}{:x}", rand::random::<u128>(), rand::random::<u128>()).into(),
    };
    let mut client = database.connect().await?;
    let client = &mut client;
    let mut pruned = Pruned::default();
    // Old days that lie in the default partition get their own.
    patiently(client, "SELECT ensure_event_partitions(14)", &[]).await?;
    // By the database's clock, at midnight UTC: users go with the last day that has them.
    let row = within(
        client,
        LIMITS,
        "SELECT day, day::timestamp AT TIME ZONE 'UTC' FROM (SELECT (now() AT TIME ZONE 'UTC')::date - $1::int4 AS day) AS first",
        &[(&i32::try_from(days).unwrap_or(i32::MAX), Type::INT4)],
    )
    .await?;
    let first_day: Date = row.get(0);
    let before: jiff::Timestamp = row.get(1);
    loop {
        while within(client, LIMITS, "SELECT drop_pruned_events()", &[])
            .await?
            .get::<_, Option<Date>>(0)
            .is_some()
        {
            pruned.days += 1;
        }
        let detached: Option<Date> = patiently(
            client,
            "SELECT detach_event_partition($1)",
            &[(&first_day, Type::DATE)],
        )
        .await?
        .get(0);
        if detached.is_none() {
            break;
        }
    }
    let (inner, outer) = pads(key.expose_secret().as_bytes());
    let row = within(
        client,
        LIMITS,
        "SELECT users, session_users, dead_letters FROM prune_viewers($1, $2, $3)",
        &[
            (&before, Type::TIMESTAMPTZ),
            (&inner.as_slice(), Type::BYTEA),
            (&outer.as_slice(), Type::BYTEA),
        ],
    )
    .await?;
    pruned.users = row.get(0);
    pruned.session_users = row.get(1);
    pruned.dead_letters = row.get(2);
    let row = within(
        client,
        LIMITS,
        "SELECT prune_forward_log($1)",
        &[(&before, Type::TIMESTAMPTZ)],
    )
    .await?;
    pruned.forward_log = row.get(0);
    Ok(pruned)
}

/// One statement in a transaction of its own, tried again for a while when others are in its way.
async fn patiently(
    client: &mut Client,
    sql: &str,
    parameters: &[(&(dyn ToSql + Sync), Type)],
) -> Result<Row, Failure> {
    let begun = Instant::now();
    loop {
        match within(client, SHORT_LOCKS, sql, parameters).await {
            Err(failure) if failure.is_conflict() && begun.elapsed() < TIMEOUT => {
                tracing::debug!(%failure, "others are using the events, trying again");
                tokio::time::sleep(CONFLICT_PAUSE).await;
            }
            other => return other,
        }
    }
}

/// One statement in a transaction of its own.
async fn within(
    client: &mut Client,
    limits: &str,
    sql: &str,
    parameters: &[(&(dyn ToSql + Sync), Type)],
) -> Result<Row, Failure> {
    let transacting = async {
        let transaction = client.transaction().await?;
        transaction.batch_execute(limits).await?;
        let row = transaction.query_typed_one(sql, parameters).await?;
        transaction.commit().await?;
        Ok(row)
    };
    match tokio::time::timeout(TIMEOUT, timed("prune", transacting)).await {
        Ok(row) => row,
        Err(_) => Err(Failure::Timeout(TIMEOUT)),
    }
}

/// What stands for a viewer in the statistics after the retention; `None` without a key, for then
/// nobody can tell.
pub(super) fn pseudonym(options: &RetentionOptions, user_id: &str) -> Option<String> {
    let key = given(options.pseudonym_key.as_ref())?;
    let (inner, outer) = pads(key.expose_secret().as_bytes());
    let hash = Sha256::digest([inner.as_slice(), user_id.as_bytes()].concat());
    let hash = Sha256::digest([outer.as_slice(), hash.as_slice()].concat());
    Some(format!("hmac:{}", hex::encode(hash)))
}

/// What HMAC-SHA256 puts before its two hashes (RFC 2104); the database does the rest.
fn pads(key: &[u8]) -> ([u8; BLOCK], [u8; BLOCK]) {
    let mut padded = [0; BLOCK];
    if key.len() > BLOCK {
        padded[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        padded[..key.len()].copy_from_slice(key);
    }
    (
        padded.map(|byte| byte ^ 0x36),
        padded.map(|byte| byte ^ 0x5c),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Test cases 2 and 6 of RFC 4231.
    #[test]
    fn the_pads_make_an_hmac() {
        let hmac = |key: &[u8], data: &[u8]| {
            let (inner, outer) = pads(key);
            let hash = Sha256::digest([inner.as_slice(), data].concat());
            hex::encode(Sha256::digest([outer.as_slice(), hash.as_slice()].concat()))
        };
        assert_eq!(
            hmac(b"Jefe", b"what do ya want for nothing?"),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert_eq!(
            hmac(
                &[0xaa; 131],
                b"Test Using Larger Than Block-Size Key - Hash Key First"
            ),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
    }
}
