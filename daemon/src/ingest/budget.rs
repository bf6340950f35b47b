//! How often a server may be asked, over all rooms together.
//!
//! In: requests that want to be made, and what the server says about its limits. Out: the moment
//! at which each may be made. A minute's worth goes out at once, then evenly; who asks first is
//! served first. A server that says "too many" for one room holds all rooms back, for its limits
//! are per account. Nothing is kept over a restart: the server says it again.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::header::HeaderMap;
use tokio::time::Instant;

/// No server is believed that wants longer: quotas are per day at most.
pub(super) const LONGEST_WAIT: Duration = Duration::from_hours(25);

/// Spreads requests over time.
#[derive(Debug)]
pub(super) struct Budget {
    per_request: Duration,
    /// When the budget would be full again. Held while waiting, which makes the queue.
    spent_until: tokio::sync::Mutex<Instant>,
    /// Nobody asks before this.
    held_until: Mutex<Instant>,
}

impl Budget {
    /// As many requests a minute on average, at least 1.
    pub(super) fn new(per_minute: u32) -> Self {
        Self {
            per_request: Duration::from_mins(1) / per_minute.max(1),
            spent_until: tokio::sync::Mutex::new(Instant::now()),
            held_until: Mutex::new(Instant::now()),
        }
    }

    /// Waits until a request may be made, however long that is.
    pub(super) async fn take(&self) {
        while let Err(wait) = self.take_within(Duration::MAX).await {
            tokio::time::sleep(wait).await;
        }
    }

    /// Waits until a request may be made, unless the server holds all back for longer than
    /// `patience`: then says at once how long that will be, and takes nothing.
    pub(super) async fn take_within(&self, patience: Duration) -> Result<(), Duration> {
        let mut spent_until = self.spent_until.lock().await;
        loop {
            let now = Instant::now();
            let full_at = (*spent_until).max(now) + self.per_request;
            let by_rate = full_at.checked_sub(Duration::from_mins(1)).unwrap_or(now);
            let held_until = *self.held();
            let held_for = held_until.saturating_duration_since(now);
            if held_for > patience {
                return Err(held_for);
            }
            let ready = by_rate.max(held_until);
            if ready <= now {
                *spent_until = full_at;
                return Ok(());
            }
            tokio::time::sleep_until(ready).await;
        }
    }

    /// Nobody makes a request for so long.
    pub(super) fn hold(&self, wait: Duration) {
        let mut held_until = self.held();
        *held_until = (*held_until).max(Instant::now() + wait);
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Instant> {
        self.held_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long the server wants us to wait: `Retry-After` in seconds, else until a reset time.
pub(super) fn told_wait(headers: &HeaderMap, unix_now: u64) -> Option<Duration> {
    let number = |name: &str| -> Option<u64> {
        let text = headers.get(name)?.to_str().ok()?;
        text.trim().parse().ok()
    };
    // Older servers give seconds from now under `RateLimit-Reset`, newer ones a point in time.
    let until = |reset: u64| {
        if reset > 1_000_000_000 {
            reset.saturating_sub(unix_now)
        } else {
            reset
        }
    };
    let seconds = number("retry-after")
        .or_else(|| number("x-ratelimit-reset").map(until))
        .or_else(|| number("ratelimit-reset").map(until))?;
    Some(Duration::from_secs(seconds.max(1)).min(LONGEST_WAIT))
}

/// Seconds since 1970.
pub(super) fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_spreads_requests_over_the_minute() {
        let budget = Budget::new(6);
        let begun = Instant::now();
        for _ in 0..6 {
            budget.take().await;
        }
        assert_eq!(begun.elapsed().as_secs(), 0, "a minute's worth at once");
        for request in 1..=4_u64 {
            budget.take().await;
            assert_eq!(begun.elapsed().as_secs(), request * 10);
        }
        tokio::time::sleep(Duration::from_mins(10)).await;
        let later = Instant::now();
        for _ in 0..7 {
            budget.take().await;
        }
        assert_eq!(
            later.elapsed().as_secs(),
            10,
            "idle time is not saved up beyond a minute"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_holds_back_everybody_also_those_who_wait_already() {
        let budget = Arc::new(Budget::new(1));
        budget.take().await;
        let begun = Instant::now();
        let waiting = tokio::spawn({
            let budget = budget.clone();
            async move { budget.take().await }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        budget.hold(Duration::from_secs(100));
        waiting.await.unwrap();
        assert_eq!(begun.elapsed().as_secs(), 101);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_no_patience_hears_how_long_it_will_be() {
        let budget = Budget::new(60);
        let patience = Duration::from_secs(10);
        budget.hold(Duration::from_secs(9));
        let begun = Instant::now();
        assert_eq!(budget.take_within(patience).await, Ok(()));
        assert_eq!(begun.elapsed().as_secs(), 9, "that much is waited");
        budget.hold(Duration::from_hours(1));
        assert_eq!(
            budget.take_within(patience).await,
            Err(Duration::from_hours(1))
        );
        assert_eq!(begun.elapsed().as_secs(), 9, "at once");
    }
}
