//! Keeps the daily partitions of `events` made ahead of time, and notes the sessions whose end
//! may be lost.
//!
//! At start and every hour. Any number of processes may do it at once. When it fails for days,
//! rows land in the default partition: nothing is lost, the writer warns about each batch.

use std::time::Duration;

use tokio_postgres::types::Type;
use tokio_util::sync::CancellationToken;

use super::database::{Database, Failure, timed};
use crate::outage::Outage;

/// How many days ahead partitions exist.
const DAYS_AHEAD: i32 = 14;
const INTERVAL: Duration = Duration::from_hours(1);
/// Making a partition waits for whoever reads the default one.
const TIMEOUT: Duration = Duration::from_mins(1);

/// Makes what is missing, now and every hour, until told to stop.
///
/// The writers do not wait for it: what they store meanwhile is moved when its partition comes.
pub(super) async fn keep(database: Database, stop: CancellationToken) {
    let mut outage = Outage::new("postgres");
    while let Some(made) = stop.run_until_cancelled(make(&database)).await {
        let go_on = match made {
            Ok(made) => {
                outage.over();
                if made > 0 {
                    tracing::info!(partitions = made, "partitions made");
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

async fn make(database: &Database) -> Result<i32, Failure> {
    let (mut client, rights) = database.connect_as_writer().await?;
    let making = async {
        let transaction = client.transaction().await?;
        // A long reader of the default partition must not make every later one wait behind us.
        transaction
            .batch_execute(&format!(
                "SET LOCAL lock_timeout = '2s'; {}",
                rights.begin()
            ))
            .await?;
        let made = transaction
            .query_typed_one(
                "SELECT ensure_event_partitions($1)",
                &[(&DAYS_AHEAD, Type::INT4)],
            )
            .await?
            .get(0);
        transaction.commit().await?;
        // On its own: readers of the default partition wait for the end of the first one.
        let transaction = client.transaction().await?;
        transaction.batch_execute(rights.begin()).await?;
        let tails: i64 = transaction
            .query_typed_one("SELECT record_unknown_tails()", &[])
            .await?
            .get(0);
        transaction.commit().await?;
        if tails > 0 {
            tracing::warn!(
                sessions = tails,
                reason = "unknown_tail",
                "sessions never said goodbye: what they received last may be lost"
            );
        }
        Ok(made)
    };
    match tokio::time::timeout(TIMEOUT, timed("partitions", making)).await {
        Ok(made) => made,
        Err(_) => Err(Failure::Timeout(TIMEOUT)),
    }
}
