//! Ids that no earlier run has handed out, and the time.
//!
//! Room, message and log ids of TikTok are 19-digit numbers, and the daemon remembers those it has
//! seen across restarts. So ours come from the clock: unix seconds with 32 binary digits after the
//! point, which gives 19 digits from 1977 to 2038, four thousand million ids a second, and
//! never the same one again after a restart, unless somebody turns the clock back.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

static LAST: AtomicI64 = AtomicI64::new(0);

/// An id that was not used before, in this run or an earlier one.
pub fn id() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let fraction = (u64::from(since.subsec_nanos()) << 32) / 1_000_000_000;
    let now = ((since.as_secs() << 32) | fraction).cast_signed();
    let next = |last: i64| Some(now.max(last + 1));
    LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
        .map_or(now, |last| now.max(last + 1))
}

/// Now, unix ms.
pub fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_19_digits_and_never_repeat() {
        let mut ids: Vec<i64> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..5_000).map(|_| id()).collect::<Vec<_>>()))
                .collect();
            threads
                .into_iter()
                .flat_map(|thread| thread.join().unwrap())
                .collect()
        });
        assert!(ids.iter().all(|id| id.to_string().len() == 19));
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 20_000);
    }
}
