//! Whether this Postgres answers, and keeps what it commits: for `/readyz`, and reported at start.
//!
//! In: the server's settings. Out: one sentence for each that can lose committed events, after which
//! their entries are acknowledged and gone. None of them stops the daemon. While Postgres is away
//! nothing is known, and nothing is said.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio_postgres::Client;

use super::Error;
use super::database::{Database, DatabaseOptions, Failure, timed};

/// An answer comes within this, or not: whoever asks waits for it.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The settings that must not be off.
const SETTINGS: [(&str, &str); 3] = [
    (
        "fsync",
        "a crash of the machine may destroy the whole database",
    ),
    (
        "full_page_writes",
        "a crash in the middle of a write may destroy tables",
    ),
    (
        "synchronous_commit",
        "a crash of postgres may lose what it committed last; the storage writer asks for more in its own transactions, others do not",
    ),
];

/// A database that is asked for signs of life and for its settings, on one connection that is kept.
#[derive(Clone)]
pub struct Watched {
    database: Database,
    client: Arc<Mutex<Option<Client>>>,
}

impl Watched {
    /// The database of these options; connects when it is first asked.
    ///
    /// # Errors
    /// When there is no address, or it cannot be read.
    pub fn new(options: &DatabaseOptions) -> Result<Self, Error> {
        Ok(Self {
            database: options.open()?,
            client: Arc::default(),
        })
    }

    /// Whether it answers, within 2 s.
    ///
    /// # Errors
    /// In words, free of secrets, when it does not.
    pub async fn answers(&self) -> Result<(), String> {
        self.ask(async |client| {
            timed("ping", client.simple_query("SELECT 1")).await?;
            Ok(())
        })
        .await
    }

    /// What is unsafe about this Postgres, in sentences for the operator; empty when all is well.
    ///
    /// # Errors
    /// When it does not answer, in words.
    pub async fn unsafe_settings(&self) -> Result<Vec<String>, String> {
        let values = self.ask(async |client| {
            let mut values = Vec::new();
            for (name, _) in SETTINGS {
                let rows = client.query_typed(&format!("SHOW {name}"), &[]).await?;
                values.push(rows.first().map(|row| row.get(0)).unwrap_or_default());
            }
            Ok(values)
        });
        values.await.map(|values| judge(&values))
    }

    async fn ask<T>(
        &self,
        question: impl AsyncFnOnce(&Client) -> Result<T, Failure>,
    ) -> Result<T, String> {
        let asking = async {
            let mut kept = self.client.lock().await;
            // Put back only after its answer: one that was cut off is not asked again.
            let client = match kept.take().filter(|client| !client.is_closed()) {
                Some(client) => client,
                None => self.database.connect().await?,
            };
            let answer = question(&client).await?;
            *kept = Some(client);
            Ok::<_, Failure>(answer)
        };
        match tokio::time::timeout(TIMEOUT, asking).await {
            Ok(answer) => answer.map_err(|failure| failure.to_string()),
            Err(_) => Err(Failure::Timeout(TIMEOUT).to_string()),
        }
    }
}

fn judge(values: &[String]) -> Vec<String> {
    SETTINGS
        .iter()
        .zip(values)
        .filter(|(_, value)| *value == "off")
        .map(|((name, what), _)| format!("postgres: {name} is off: {what}; set it on"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_lose_commits_is_named() {
        let judged = |values: [&str; 3]| judge(&values.map(str::to_owned));
        assert!(judged(["on", "on", "on"]).is_empty());
        assert!(judged(["on", "on", "remote_apply"]).is_empty());
        assert!(judged(["on", "on", "local"]).is_empty());
        let all = judged(["off", "off", "off"]);
        assert_eq!(all.len(), 3);
        assert!(all[0].contains("fsync is off"), "{all:?}");
    }
}
