//! The state of each creator, for the API: why there are, or are no, events.
//!
//! In: what the creators' tasks say of themselves. Out: `ttlc:status:{creator}` in Redis, written
//! at each change and refreshed before it lapses. A lost write is made good by the next refresh;
//! after a crash the keys lapse by themselves.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::bus::{Bus, CreatorStatus};

/// Well within the 90 s that a key lives.
const REFRESH: Duration = Duration::from_secs(30);
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
    status: CreatorStatus,
    written: bool,
}

impl Board {
    /// Sets a creator's status. `since` stays while the state does.
    pub(super) fn set(&self, creator: &str, mut status: CreatorStatus) {
        let mut entries = self.entries();
        if let Some(before) = entries.get(creator).map(|entry| &entry.status)
            && before.state == status.state
            && before.stream_id == status.stream_id
        {
            status.since = before.since;
        }
        entries.insert(
            creator.to_owned(),
            Entry {
                status,
                written: false,
            },
        );
        self.changed.notify_one();
    }

    /// Keeps Redis up to date until `stop`, and writes the last changes then.
    pub(super) async fn publish(self, bus: Bus, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(REFRESH);
        loop {
            let refresh = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = ticks.tick() => true,
                () = self.changed.notified() => false,
            };
            self.write(&bus, refresh).await;
        }
        self.write(&bus, false).await;
    }

    async fn write(&self, bus: &Bus, all: bool) {
        let due: Vec<(String, CreatorStatus)> = self
            .entries()
            .iter()
            .filter(|(_, entry)| all || !entry.written)
            .map(|(creator, entry)| (creator.clone(), entry.status.clone()))
            .collect();
        for (creator, status) in due {
            match tokio::time::timeout(WRITE_TIMEOUT, bus.set_status(&creator, &status)).await {
                Ok(Ok(())) => {
                    if let Some(entry) = self.entries().get_mut(&creator)
                        && entry.status == status
                    {
                        entry.written = true;
                    }
                }
                // Tried again with the next refresh; the publisher says that Redis is away.
                Ok(Err(error)) => tracing::debug!(creator, %error, "cannot write the status"),
                Err(_) => return,
            }
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
        let since = || board.entries()["alice"].status.since.as_millis();
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
