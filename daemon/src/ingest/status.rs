//! The state of each creator, for the API: why there are, or are no, events.
//!
//! In: what the creators' tasks say of themselves. Out: `ttlc:status:{creator}` in Redis, written
//! at each change and refreshed before it lapses, deleted for who is followed no more; and how many
//! creators are in which state, as a metric. A lost write is made good by the next refresh; after a
//! crash the keys lapse by themselves.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::gauge;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::bus::{Bus, CreatorStatus, Owner};
use crate::metrics::CREATORS;

/// Well within the 35 s that a key lives.
const REFRESH: Duration = Duration::from_secs(10);
/// Redis may not hold up the refresh of the others, nor the end.
const WRITE_TIMEOUT: Duration = Duration::from_millis(500);

/// What all creators say of themselves; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Board {
    entries: Arc<Mutex<BTreeMap<String, Entry>>>,
    changed: Arc<Notify>,
}

#[derive(Clone, Debug)]
struct Entry {
    /// `None`: followed no more.
    status: Option<CreatorStatus>,
    written: bool,
}

/// All that a creator can be in.
const STATES: [&str; 5] = ["waiting", "connecting", "standby", "live", "error"];

impl Board {
    /// Sets a creator's status. `since` stays while the state does.
    pub(super) fn set(&self, creator: &str, mut status: CreatorStatus) {
        let mut entries = self.entries();
        if let Some(before) = entries.get(creator).and_then(|entry| entry.status.as_ref())
            && before.state == status.state
            && before.stream_id == status.stream_id
        {
            status.since = before.since;
        }
        entries.insert(
            creator.to_owned(),
            Entry {
                status: Some(status),
                written: false,
            },
        );
        self.changed.notify_one();
    }

    /// A creator is followed no more.
    pub(super) fn remove(&self, creator: &str) {
        if let Some(entry) = self.entries().get_mut(creator) {
            *entry = Entry {
                status: None,
                written: false,
            };
        }
        self.changed.notify_one();
    }

    /// Keeps Redis up to date until `stop`, and writes the last changes then.
    pub(super) async fn publish(self, bus: Bus, by: Owner, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(REFRESH);
        loop {
            let refresh = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = ticks.tick() => true,
                () = self.changed.notified() => false,
            };
            self.write(&bus, by, refresh).await;
        }
        self.write(&bus, by, false).await;
    }

    async fn write(&self, bus: &Bus, by: Owner, all: bool) {
        self.count();
        let due: Vec<(String, Option<CreatorStatus>)> = self
            .entries()
            .iter()
            .filter(|(_, entry)| all || !entry.written)
            .map(|(creator, entry)| (creator.clone(), entry.status.clone()))
            .collect();
        for (creator, status) in due {
            let writing = async {
                match &status {
                    Some(status) => bus.set_status(&creator, status, by).await,
                    None => bus.remove_status(&creator).await,
                }
            };
            match tokio::time::timeout(WRITE_TIMEOUT, writing).await {
                Ok(Ok(())) => {
                    let mut entries = self.entries();
                    if let Some(entry) = entries.get_mut(&creator)
                        && entry.status == status
                    {
                        entry.written = true;
                        if status.is_none() {
                            entries.remove(&creator);
                        }
                    }
                }
                // Tried again with the next refresh; the publisher says that Redis is away.
                Ok(Err(error)) => tracing::debug!(creator, %error, "cannot write the status"),
                Err(_) => return,
            }
        }
    }

    fn count(&self) {
        let entries = self.entries();
        for state in STATES {
            let count = entries
                .values()
                .filter(|entry| entry.status.as_ref().is_some_and(|it| it.state == state))
                .count();
            gauge!(CREATORS, "state" => state).set(u32::try_from(count).unwrap_or(u32::MAX));
        }
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use shared::time::Timestamp;

    use super::*;

    fn status(state: &'static str, since: i64) -> CreatorStatus {
        CreatorStatus {
            state,
            stream_id: None,
            provider: "direct",
            fallback: false,
            reason: None,
            detail: None,
            attempt: 0,
            since: Timestamp::from_millis(since),
            retry_at: None,
        }
    }

    #[test]
    fn since_stays_while_the_state_does() {
        let board = Board::default();
        let since = || {
            let status = board.entries()["alice"].status.clone();
            status.unwrap().since.as_millis()
        };
        board.set("alice", status("waiting", 1));
        board.set("alice", status("waiting", 2));
        assert_eq!(since(), 1);
        board.set("alice", status("live", 3));
        assert_eq!(since(), 3);
        let other_room = CreatorStatus {
            stream_id: Some("7".to_owned()),
            ..status("live", 4)
        };
        board.set("alice", other_room);
        assert_eq!(since(), 4);
    }
}
