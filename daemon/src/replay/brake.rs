//! Live goes first: a replay waits while the pipeline is behind.
//!
//! In: how far the groups of the room's streams are behind. Out: whether the next batch may be
//! published. So a replay, however fast, never puts more than [`RAW`] messages before a live one,
//! never comes near the fuse of a stream, and never pushes a slow consumer over the edge at which
//! the trimmer leaves it behind. Consumers that can do without (`api`, `forwarder`) are waited for
//! only while they move: one that was switched off for good does not hold replays up for ever.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::bus::replay::Backlog;

/// Entries of the raw stream that the normalizer may be behind: less than a second of its work.
const RAW: u64 = 2_000;
/// Entries of the events that a group may be behind.
const EVENTS: u64 = 10_000;
/// How long a group that can do without is waited for while it does not move.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked at while it is on.
pub(super) const LOOK: Duration = Duration::from_millis(50);

/// What is known of the groups that are behind.
#[derive(Debug, Default)]
pub(super) struct Brake {
    /// Who is too far behind: what it had read when it last moved, and since when.
    behind: HashMap<String, (u64, Instant)>,
}

impl Brake {
    /// Whether the next batch has to wait.
    pub(super) fn is_on(&mut self, groups: &[Backlog], now: Instant) -> bool {
        let mut on = false;
        for group in groups {
            let limit = if group.raw { RAW } else { EVENTS };
            if group.entries < limit {
                self.behind.remove(&group.group);
                continue;
            }
            let seen = self.behind.entry(group.group.clone());
            let (read, since) = seen.or_insert((group.read, now));
            if *read != group.read {
                (*read, *since) = (group.read, now);
            }
            on |= group.required || now.saturating_duration_since(*since) < PATIENCE;
        }
        on
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(name: &str, raw: bool, entries: u64, read: u64) -> Backlog {
        Backlog {
            group: name.to_owned(),
            required: matches!(name, "normalizer" | "storage"),
            raw,
            entries,
            read,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_behind_is_waited_for() {
        let (mut brake, now) = (Brake::default(), Instant::now());
        assert!(!brake.is_on(&[], now));
        let idle = [
            group("normalizer", true, RAW - 1, 5),
            group("storage", false, EVENTS - 1, 5),
        ];
        assert!(!brake.is_on(&idle, now));
        for busy in [
            group("normalizer", true, RAW, 5),
            group("storage", false, EVENTS, 5),
            group("api", false, EVENTS, 5),
        ] {
            assert!(brake.is_on(&[idle[0].clone(), busy], now));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_group_that_must_see_all_is_waited_for_without_end() {
        let (mut brake, begun) = (Brake::default(), Instant::now());
        let later = begun + PATIENCE;
        let behind = |name, read| [group(name, false, EVENTS * 2, read)];
        assert!(brake.is_on(&behind("forwarder", 5), begun));
        assert!(brake.is_on(&behind("forwarder", 6), later), "it moves");
        assert!(
            !brake.is_on(&behind("forwarder", 6), later + PATIENCE),
            "it is dead"
        );
        assert!(
            brake.is_on(&behind("forwarder", 7), later + PATIENCE),
            "it is back"
        );
        assert!(brake.is_on(&behind("storage", 5), begun));
        assert!(brake.is_on(&behind("storage", 5), begun + PATIENCE * 100));
    }
}
