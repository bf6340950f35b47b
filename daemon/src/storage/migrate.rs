//! Brings the database to the schema of this build: the files of `migrations/`, in order.
//!
//! Several processes may start at once: an advisory lock lets one apply, the others then find
//! nothing to do. Each migration is one transaction together with its entry in the history table,
//! so a crash leaves a whole number of them. While Postgres cannot be reached it waits.

use std::time::Duration;

use refinery::{Migration, Runner};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::Error;
use super::database::{DatabaseOptions, Failure};
use crate::outage::Outage;

/// The files of `migrations/`, in order. A name is a number, a verb and what it is about.
const FILES: [(&str, &str); 14] = [
    (
        "0001_create_rooms",
        include_str!("../../../migrations/0001_create_rooms.sql"),
    ),
    (
        "0002_create_events",
        include_str!("../../../migrations/0002_create_events.sql"),
    ),
    (
        "0003_create_statistics",
        include_str!("../../../migrations/0003_create_statistics.sql"),
    ),
    (
        "0004_create_gaps",
        include_str!("../../../migrations/0004_create_gaps.sql"),
    ),
    (
        "0005_create_dead_letters",
        include_str!("../../../migrations/0005_create_dead_letters.sql"),
    ),
    (
        "0006_grant_rights",
        include_str!("../../../migrations/0006_grant_rights.sql"),
    ),
    (
        "0007_add_pruning",
        include_str!("../../../migrations/0007_add_pruning.sql"),
    ),
    (
        "0008_add_ledger",
        include_str!("../../../migrations/0008_add_ledger.sql"),
    ),
    (
        "0009_create_forward_log",
        include_str!("../../../migrations/0009_create_forward_log.sql"),
    ),
    (
        "0010_prune_without_blocking",
        include_str!("../../../migrations/0010_prune_without_blocking.sql"),
    ),
    (
        "0011_add_erasure",
        include_str!("../../../migrations/0011_add_erasure.sql"),
    ),
    (
        "0012_describe_replays",
        include_str!("../../../migrations/0012_describe_replays.sql"),
    ),
    (
        "0013_record_trimmed",
        include_str!("../../../migrations/0013_record_trimmed.sql"),
    ),
    (
        "0014_name_reasons_of_gaps",
        include_str!("../../../migrations/0014_name_reasons_of_gaps.sql"),
    ),
];

/// What was applied when, kept by the migration library.
const HISTORY: &str = "schema_history";
/// The advisory lock: the bytes of `ttlc`.
const LOCK: i64 = 0x7474_6c63;
/// How often a process that waits for the lock asks again.
const LOCK_POLL: Duration = Duration::from_millis(250);

/// Applies what the database lacks. Waits for ever for a server that cannot be reached, and
/// refuses a database that a newer build has migrated.
pub async fn migrate(options: &DatabaseOptions) -> Result<(), Error> {
    // Events go to the other address: a mistake in it is found now, not after the migration.
    options.open()?;
    let database = options.open_for_migrations()?;
    let never = CancellationToken::new();
    let mut outage = Outage::new("postgres");
    let mut client = loop {
        match database.connect().await {
            Ok(client) => break client,
            Err(failure) if failure.is_refusal() => {
                return Err(Error::Refused {
                    variable: database.variable,
                    why: failure.to_string(),
                });
            }
            Err(failure) if failure.is_distrust() => {
                return Err(Error::Distrusted {
                    variable: database.variable,
                    why: failure.to_string(),
                });
            }
            Err(failure) => outage.wait(&failure, &never).await,
        };
    };
    outage.over();

    let failed = |error: tokio_postgres::Error| Error::Migration(Failure::from(error).to_string());
    let mut waiting = false;
    // The lock goes with the connection, however that ends.
    while !client
        .query_typed_one(
            "SELECT pg_try_advisory_lock($1)",
            &[(&LOCK, tokio_postgres::types::Type::INT8)],
        )
        .await
        .map_err(failed)?
        .get::<_, bool>(0)
    {
        if !waiting {
            tracing::info!("another process is migrating the database, waiting for it");
            waiting = true;
        }
        tokio::time::sleep(LOCK_POLL).await;
    }
    apply(&mut client).await
}

async fn apply(client: &mut Client) -> Result<(), Error> {
    let migrations = FILES
        .iter()
        .map(|(name, sql)| migration(name, sql))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Error::Migration(error.to_string()))?;
    let mut runner = Runner::new(&migrations)
        .set_abort_divergent(true)
        .set_abort_missing(true);
    runner.set_migration_table_name(HISTORY);
    let report = runner
        .run_async(client)
        .await
        .map_err(|error| match error.kind() {
            refinery::error::Kind::MissingVersion(migration) => Error::Newer(migration.to_string()),
            _ => Error::Migration(explain(&error)),
        })?;
    for applied in report.applied_migrations() {
        tracing::info!(migration = %applied, "migration applied");
    }
    grant(client).await
}

/// Gives the roles their rights: also on what a migration has just made, and to roles that the
/// operator has made since.
async fn grant(client: &Client) -> Result<(), Error> {
    let missing: Vec<String> = client
        .query_typed_one("SELECT grant_rights()", &[])
        .await
        .map_err(|error| Error::Migration(Failure::from(error).to_string()))?
        .get(0);
    for role in missing {
        tracing::warn!(
            role,
            "this user may not make roles: stages work with the rights of their own users; make it with \
             CREATE ROLE … NOLOGIN, grant it to the stage's user, and migrate again"
        );
    }
    Ok(())
}

/// From the name of the file: `0001_create_rooms` is the library's `V1__create_rooms`.
fn migration(file: &str, sql: &str) -> Result<Migration, refinery::Error> {
    let (number, name) = file.split_once('_').unwrap_or((file, ""));
    Migration::unapplied(&format!("V{number}__{name}"), sql)
}

/// The library's words and the database's.
fn explain(error: &refinery::Error) -> String {
    use std::error::Error as _;
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = match error
            .downcast_ref::<tokio_postgres::Error>()
            .and_then(|error| error.as_db_error())
        {
            Some(db) => format!("{} ({})", db.message(), db.code().code()),
            None => error.to_string(),
        };
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_embedded_in_order() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter_map(|name| name.strip_suffix(".sql").map(str::to_owned))
            .collect();
        files.sort();
        assert_eq!(files, FILES.map(|(name, _)| name));
        let mut last = 0;
        for (name, sql) in FILES {
            let version = migration(name, sql).unwrap().version();
            assert!(version > last, "{name}");
            last = version;
        }
    }
}
