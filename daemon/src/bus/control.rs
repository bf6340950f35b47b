//! Which creators are followed, as it was decided while the daemon ran.
//!
//! Comes in: what a command on the control stream has decided. Goes out: one hash that every
//! daemon looks at, and that survives restarts of all of them. Writing the same again changes
//! nothing. If Redis loses it, only the creators of `TIKTOK_UNIQUE_ID` are followed.

use serde::{Deserialize, Serialize};
use shared::time::Timestamp;

use super::{Bus, Error};

/// The hash of all that was decided.
const TRACKED: &str = "ttlc:tracked";

/// What was decided about one creator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tracked {
    /// The name, in the spelling of the command.
    pub unique_id: String,
    /// Whether to follow; `false` outweighs `TIKTOK_UNIQUE_ID`.
    pub follow: bool,
    /// When it was decided.
    pub since: Timestamp,
}

impl Bus {
    /// All that was decided. An entry that cannot be read is left out, with a warning.
    pub async fn tracked(&self) -> Result<Vec<Tracked>, Error> {
        let entries: Vec<(String, String)> = redis::cmd("HGETALL")
            .arg(TRACKED)
            .query_async(&mut self.manager.clone())
            .await?;
        Ok(entries
            .into_iter()
            .filter_map(|(name, json)| {
                serde_json::from_str(&json)
                    .inspect_err(|error| {
                        tracing::warn!(key = TRACKED, name, %error, "an entry cannot be read");
                    })
                    .ok()
            })
            .collect())
    }

    /// Decides about one creator; the last decision counts. Names differ by more than case.
    pub async fn track(&self, decision: &Tracked) -> Result<(), Error> {
        let json = serde_json::to_string(decision).map_err(|_| Error::Reply("HSET"))?;
        Ok(redis::cmd("HSET")
            .arg(TRACKED)
            .arg(decision.unique_id.to_lowercase())
            .arg(json)
            .exec_async(&mut self.manager.clone())
            .await?)
    }
}
