//! Places where a test makes the process die, to see that dying there does no harm.
//!
//! In: `FAILPOINT=NAME:abort@N` (the N-th time it is reached; without `@N` the first) or
//! `FAILPOINT=NAME:abort=TEXT` (when what is at hand holds this text). Out: the process is gone, as
//! after `kill -9`: nothing is flushed, nothing is tidied up. With `freeze` in the place of `abort` it
//! stops as by SIGSTOP, until somebody sends SIGCONT. Only builds with debug assertions know
//! of it; in others the calls are no code at all. The suite that uses it is described in
//! `docs/testing.md`.
//!
//! | Name | Where |
//! |---|---|
//! | `after_ws_read` | ingest: a frame was read and its messages have their numbers; nothing has been handed to the spool |
//! | `after_spool` | ingest: records are written and synced, perhaps not yet published |
//! | `after_xadd_raw` | ingest: records are published, and the spool has not yet noted it |
//! | `normalizing` | normalizer: an entry is about to be normalized; for what would kill the process there |
//! | `before_hop` | normalizer: a batch is normalized, nothing of it is published |
//! | `after_hop` | normalizer: a batch is published, acknowledged and remembered |
//! | `before_commit` | storage writer: all rows of a batch are written, the transaction is open |
//! | `after_commit_before_ack` | storage writer: a batch is committed, its entries are still pending |
//! | `after_claim` | storage writer: entries are ours, nothing has been done with them |
//! | `after_http_sent` | forwarder: the destination has answered, and nobody has looked at the answer |
//! | `after_http_2xx` | forwarder: the destination has taken it, and it is not recorded |
//! | `after_dlq_commit` | storage writer and forwarder: a dead letter is committed, its entry is still pending |

#[cfg(debug_assertions)]
pub use armed::{check, reach, reach_with};

/// Nothing, in a build without debug assertions.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub const fn reach(_: &'static str) {}

/// Nothing, in a build without debug assertions.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn reach_with(_: &'static str, _: impl FnOnce(&str) -> bool) {}

/// Nothing, in a build without debug assertions.
///
/// # Errors
/// Never.
#[cfg(not(debug_assertions))]
pub const fn check() -> Result<(), std::convert::Infallible> {
    Ok(())
}

#[cfg(debug_assertions)]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    const NAMES: [&str; 12] = [
        "after_ws_read",
        "after_spool",
        "after_xadd_raw",
        "normalizing",
        "before_hop",
        "after_hop",
        "before_commit",
        "after_commit_before_ack",
        "after_claim",
        "after_http_sent",
        "after_http_2xx",
        "after_dlq_commit",
    ];

    /// What happens.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Act {
        /// The process is gone.
        Abort,
        /// It stops until SIGCONT.
        Freeze,
    }

    impl Act {
        fn happen(self) {
            match self {
                Self::Abort => std::process::abort(),
                Self::Freeze => {
                    let id = std::process::id().to_string();
                    let frozen = std::process::Command::new("kill")
                        .args(["-STOP", &id])
                        .status();
                    tracing::warn!(?frozen, "going on after the fail point");
                }
            }
        }
    }

    /// When it happens.
    #[derive(Debug, PartialEq, Eq)]
    enum When {
        /// The so many-th time.
        Time(u64),
        /// With this text at hand.
        Text(String),
    }

    #[derive(Debug, PartialEq, Eq)]
    struct FailPoint {
        name: &'static str,
        act: Act,
        when: When,
    }

    /// What `FAILPOINT` says cannot be used.
    #[derive(Debug, PartialEq, Eq, thiserror::Error)]
    #[error(
        "FAILPOINT={0}: use NAME:abort, NAME:abort@N or NAME:abort=TEXT (or freeze) with one of {NAMES:?}"
    )]
    pub struct NoFailPoint(String);

    impl FailPoint {
        fn read(text: &str) -> Result<Self, NoFailPoint> {
            let wrong = || NoFailPoint(text.to_owned());
            let (name, act) = text.split_once(':').ok_or_else(wrong)?;
            let name = NAMES.into_iter().find(|known| *known == name);
            let (act, rest) = [("abort", Act::Abort), ("freeze", Act::Freeze)]
                .into_iter()
                .find_map(|(word, known)| Some((known, act.strip_prefix(word)?)))
                .ok_or_else(wrong)?;
            let when = match rest.split_at_checked(1) {
                None => When::Time(1),
                Some(("@", time)) => When::Time(time.parse().map_err(|_| wrong())?),
                Some(("=", text)) if !text.is_empty() => When::Text(text.to_owned()),
                Some(_) => return Err(wrong()),
            };
            Ok(Self {
                name: name.ok_or_else(wrong)?,
                act,
                when,
            })
        }
    }

    static ARMED: OnceLock<Option<FailPoint>> = OnceLock::new();
    static REACHED: AtomicU64 = AtomicU64::new(0);

    /// Reads `FAILPOINT`; call it at the start, so that a wrong value is no silent success of a test.
    ///
    /// # Errors
    /// When it is set to what is no fail point.
    pub fn check() -> Result<(), NoFailPoint> {
        let armed = match std::env::var("FAILPOINT") {
            Ok(text) if !text.is_empty() => Some(FailPoint::read(&text)?),
            _ => None,
        };
        if let Some(point) = ARMED.get_or_init(|| armed) {
            tracing::warn!(?point, "a fail point is armed");
        }
        Ok(())
    }

    /// The process may die here.
    pub fn reach(name: &'static str) {
        reach_with(name, |_| false);
    }

    /// The same where `holds` says whether what is at hand holds a text.
    pub fn reach_with(name: &'static str, holds: impl FnOnce(&str) -> bool) {
        debug_assert!(NAMES.contains(&name), "{name} is not in the list");
        let Some(Some(point)) = ARMED.get() else {
            return;
        };
        if point.name != name {
            return;
        }
        let due = match &point.when {
            When::Time(time) => REACHED.fetch_add(1, Ordering::Relaxed) + 1 == *time,
            When::Text(text) => holds(text),
        };
        if due {
            tracing::warn!(name, act = ?point.act, "at the fail point");
            point.act.happen();
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_fail_point_has_a_name_and_a_time() {
            let read = |text| FailPoint::read(text).map(|point| (point.name, point.when));
            assert_eq!(read("before_hop:abort"), Ok(("before_hop", When::Time(1))));
            assert_eq!(read("after_hop:abort@7"), Ok(("after_hop", When::Time(7))));
            let text = When::Text("a@b=c".to_owned());
            assert_eq!(read("before_hop:abort=a@b=c"), Ok(("before_hop", text)));
            let frozen = FailPoint::read("before_commit:freeze@2").unwrap();
            assert_eq!((frozen.act, frozen.when), (Act::Freeze, When::Time(2)));
            for wrong in [
                "before_hop",
                "before_hop:",
                "before_hop:panic",
                "before_hop:abort7",
                "before_hop:abort@x",
                "before_hop:abort=",
                "nowhere:abort",
            ] {
                assert!(read(wrong).is_err(), "{wrong}");
            }
        }
    }
}
