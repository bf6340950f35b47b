//! Whether this Postgres keeps what it commits: reported at start, and in `/readyz`.
//!
//! In: the server's settings. Out: one sentence for each that can lose committed events, after which
//! their entries are acknowledged and gone. None of them stops the daemon. While Postgres is away
//! nothing is known, and nothing is said.

use std::time::Duration;

use super::Error;
use super::database::{Database, DatabaseOptions, Failure};

/// `/readyz` does not wait for a Postgres that is away, nor says anything about it.
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

/// A database whose settings are watched.
#[derive(Clone)]
pub struct Watched(Database);

impl Watched {
    /// The database of these options.
    ///
    /// # Errors
    /// When the address cannot be read.
    pub fn new(options: &DatabaseOptions) -> Result<Self, Error> {
        options.open().map(Self)
    }

    /// What is unsafe about this Postgres, in sentences for the operator; empty when all is well.
    ///
    /// # Errors
    /// When it does not answer, in words.
    pub async fn unsafe_settings(&self) -> Result<Vec<String>, String> {
        let asking = async {
            let client = self.0.connect().await?;
            let mut values = Vec::new();
            for (name, _) in SETTINGS {
                let row = client
                    .query_typed(&format!("SHOW {name}"), &[])
                    .await?
                    .into_iter()
                    .next();
                values.push(row.map(|row| row.get::<_, String>(0)).unwrap_or_default());
            }
            Ok::<_, Failure>(values)
        };
        match tokio::time::timeout(TIMEOUT, asking).await {
            Ok(values) => values
                .map(|values| judge(&values))
                .map_err(|failure| failure.to_string()),
            Err(_) => Err(format!("no answer within {TIMEOUT:?}")),
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
