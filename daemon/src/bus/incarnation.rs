//! Which Redis this is: the one that we know, one that has started again, or an empty one.
//!
//! In: `ttlc:incarnation`, a random text that whoever first finds none writes, and the id of the
//! server's run. Out: [`Incarnation`]. Another text means that all was wiped; another run with the
//! same text, that the server was started again or another one took its place, and may have lost
//! what it accepted last. Redis away: an error, ask again. Crash: the text is written once and for
//! all (`NX`), so two that find none agree on one.

use std::time::Duration;

use metrics::counter;
use uuid::Uuid;

use super::{Bus, Error};
use crate::metrics::REDIS_LOST_MEMORY;

/// The text; of all shards, since they are one Redis.
const KEY: &str = "ttlc:incarnation";
/// How often [`watch`] asks.
const INTERVAL: Duration = Duration::from_secs(5);

/// Who answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incarnation {
    /// The same for as long as nothing is wiped.
    pub id: String,
    /// Of this run of the server; empty where it hides that.
    pub run: String,
}

/// What has become of Redis since it was last asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It has forgotten everything.
    Wiped,
    /// It was started again: it may have forgotten what it accepted last.
    Restarted,
}

impl Change {
    /// As a label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Wiped => "wiped",
            Self::Restarted => "restarted",
        }
    }
}

impl Incarnation {
    /// What has become of Redis since it was `before`.
    pub fn since(&self, before: &Self) -> Option<Change> {
        if self.id != before.id {
            Some(Change::Wiped)
        } else if self.run != before.run {
            Some(Change::Restarted)
        } else {
            None
        }
    }
}

impl Bus {
    /// Which Redis answers. Gives one that has no name a new one.
    pub async fn incarnation(&self) -> Result<Incarnation, Error> {
        let mut connection = self.manager.clone();
        let mut id: Option<String> = redis::cmd("GET")
            .arg(KEY)
            .query_async(&mut connection)
            .await?;
        if id.is_none() {
            // Somebody else may be faster.
            let (_, now): (Option<String>, Option<String>) = redis::pipe()
                .cmd("SET")
                .arg(KEY)
                .arg(Uuid::now_v7().to_string())
                .arg("NX")
                .cmd("GET")
                .arg(KEY)
                .query_async(&mut connection)
                .await?;
            id = now;
        }
        // Some managed servers hide it.
        let about: String = redis::cmd("INFO")
            .arg("server")
            .query_async(&mut connection)
            .await
            .unwrap_or_default();
        Ok(Incarnation {
            id: id.ok_or(Error::Reply("GET"))?,
            run: run_id(&about).unwrap_or_default().to_owned(),
        })
    }
}

fn run_id(about: &str) -> Option<&str> {
    let line = about.lines().find_map(|line| line.strip_prefix("run_id:"));
    line.map(str::trim)
}

/// Says for this process, for ever, when Redis has lost its memory or may have.
pub async fn watch(bus: Bus) {
    let mut before: Option<Incarnation> = None;
    loop {
        match bus.incarnation().await {
            Ok(now) => {
                match before.as_ref().and_then(|before| now.since(before)) {
                    Some(change @ Change::Wiped) => {
                        counter!(REDIS_LOST_MEMORY, "kind" => change.name()).increment(1);
                        tracing::error!(
                            reason = "redis_lost",
                            "redis was wiped: what was in it and not stored is published again from the spool, or a gap"
                        );
                    }
                    Some(change @ Change::Restarted) => {
                        counter!(REDIS_LOST_MEMORY, "kind" => change.name()).increment(1);
                        tracing::warn!("redis has started again");
                    }
                    None => {}
                }
                before = Some(now);
            }
            Err(error) => tracing::debug!(%error, "cannot ask redis who it is"),
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wipe_is_told_from_a_restart() {
        let of = |id: &str, run: &str| Incarnation {
            id: id.to_owned(),
            run: run.to_owned(),
        };
        assert_eq!(of("a", "1").since(&of("a", "1")), None);
        assert_eq!(of("a", "2").since(&of("a", "1")), Some(Change::Restarted));
        assert_eq!(of("b", "1").since(&of("a", "1")), Some(Change::Wiped));
        assert_eq!(of("b", "2").since(&of("a", "1")), Some(Change::Wiped));
        assert_eq!(run_id("# Server\r\nrun_id:abc\r\nhz:10\r\n"), Some("abc"));
        assert_eq!(run_id(""), None);
    }
}
