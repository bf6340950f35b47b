//! Requests that all creators share: what a host allows per minute, and in which order.
//!
//! In: who wants to make a request. Out: the moment when it may be made. First come, first served;
//! only that looking for broadcasts gives way to rooms that were being read a moment ago, for these
//! lose events while they wait. A host that says when it wants to be asked again holds everybody
//! back until then. Nothing is kept over a restart: a new process begins with a small burst.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use metrics::{counter, gauge, histogram};
use tokio::time::Instant;

use crate::metrics::{BUDGET_LEFT, BUDGET_WAIT, UPSTREAM_LIMITED};

const MINUTE: Duration = Duration::from_mins(1);
/// Whom a host holds back for longer than this goes away and comes back later, so that the
/// creator's status says why, and another provider may take over.
const WORTH_WAITING: Duration = MINUTE;

/// The host wants no request for so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held(pub(super) Duration);

/// How much a request matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urgency {
    /// A room that was being read, or one that is known to be live.
    Room,
    /// A look at somebody who may well be offline.
    Poll,
}

/// The requests to one host, or of one account.
#[derive(Debug)]
pub(super) struct Budget {
    /// Label of the metrics.
    host: &'static str,
    per_request: Duration,
    /// As much as may be used at once, as the time in which it comes back.
    burst: Duration,
    /// Looks queue here first, so that only one of them is in the queue of all.
    polls: tokio::sync::Mutex<()>,
    /// When the budget would be full again. Held while waiting, which makes the queue.
    spent_until: tokio::sync::Mutex<Instant>,
    /// Nobody asks before this.
    held_until: Mutex<Instant>,
}

impl Budget {
    /// `per_minute` requests a minute, of which `at_once` (at least one) may come together.
    pub(super) fn new(host: &'static str, per_minute: u32, at_once: u32) -> Self {
        let per_request = MINUTE / per_minute.max(1);
        gauge!(BUDGET_LEFT, "host" => host).set(f64::from(at_once.max(1)));
        Self {
            host,
            per_request,
            burst: per_request * at_once.max(1),
            polls: tokio::sync::Mutex::new(()),
            spent_until: tokio::sync::Mutex::new(Instant::now()),
            held_until: Mutex::new(Instant::now()),
        }
    }

    /// Waits until a request may be made; an error where the host has told us to wait long. Dropped
    /// while waiting, it has used nothing.
    pub(super) async fn take(&self, urgency: Urgency) -> Result<(), Held> {
        let begun = Instant::now();
        let _turn = match urgency {
            Urgency::Poll => Some(self.polls.lock().await),
            Urgency::Room => None,
        };
        let mut spent_until = self.spent_until.lock().await;
        loop {
            let now = Instant::now();
            let held = self.held_until().saturating_duration_since(now);
            if held > WORTH_WAITING {
                return Err(Held(held));
            }
            let full_at = (*spent_until).max(now) + self.per_request;
            let by_rate = full_at.checked_sub(self.burst).unwrap_or(now);
            let ready = by_rate.max(now + held);
            if ready <= now {
                *spent_until = full_at;
                let left = (now + self.burst).saturating_duration_since(full_at);
                gauge!(BUDGET_LEFT, "host" => self.host)
                    .set((left.as_secs_f64() / self.per_request.as_secs_f64()).round());
                histogram!(BUDGET_WAIT, "host" => self.host).record(begun.elapsed().as_secs_f64());
                return Ok(());
            }
            tokio::time::sleep_until(ready).await;
        }
    }

    /// The host has refused for the limit called `label` (its own word): nobody makes a request
    /// for so long.
    pub(super) fn hold(&self, wait: Duration, label: &str) {
        let label = known(label);
        counter!(UPSTREAM_LIMITED, "host" => self.host, "label" => label).increment(1);
        gauge!(BUDGET_LEFT, "host" => self.host).set(0.0);
        tracing::warn!(
            stage = "ingest",
            host = self.host,
            label,
            seconds = wait.as_secs(),
            "asked too often, holding all requests back"
        );
        let mut held_until = self
            .held_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *held_until = (*held_until).max(Instant::now() + wait);
    }

    fn held_until(&self) -> Instant {
        *self
            .held_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of a few labels: upstream's own text must not become a series.
fn known(label: &str) -> &'static str {
    ["minute", "hour", "day"]
        .into_iter()
        .find(|period| label.contains(period))
        .unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const ROOM: Urgency = Urgency::Room;

    #[tokio::test(start_paused = true)]
    async fn requests_are_spread_over_the_minute() {
        let budget = Budget::new("test", 6, 6);
        let begun = Instant::now();
        for _ in 0..6 {
            budget.take(ROOM).await.unwrap();
        }
        assert_eq!(begun.elapsed().as_secs(), 0, "a minute's worth at once");
        for request in 1..=4_u64 {
            budget.take(ROOM).await.unwrap();
            assert_eq!(begun.elapsed().as_secs(), request * 10);
        }
        tokio::time::sleep(Duration::from_mins(10)).await;
        let later = Instant::now();
        for _ in 0..7 {
            budget.take(ROOM).await.unwrap();
        }
        assert_eq!(later.elapsed().as_secs(), 10, "idle time is not saved up");
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_holds_back_everybody_also_those_who_wait_already() {
        let budget = Arc::new(Budget::new("test", 1, 1));
        budget.take(ROOM).await.unwrap();
        let begun = Instant::now();
        let waiting = tokio::spawn({
            let budget = budget.clone();
            async move { budget.take(ROOM).await }
        });
        tokio::time::sleep(Duration::from_secs(30)).await;
        budget.hold(Duration::from_secs(50), "rate_limit_account_minute");
        waiting.await.unwrap().unwrap();
        assert_eq!(begun.elapsed().as_secs(), 80);
        budget.hold(Duration::from_hours(2), "rate_limit_account_day");
        assert_eq!(
            budget.take(ROOM).await,
            Err(Held(Duration::from_hours(2))),
            "nobody sits in a queue for hours"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn rooms_go_before_looks_and_looks_keep_their_order() {
        let budget = Arc::new(Budget::new("test", 60, 1));
        budget.take(ROOM).await.unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        let mut queue = |name: &'static str, urgency| {
            let (budget, order) = (budget.clone(), order.clone());
            tasks.push(tokio::spawn(async move {
                budget.take(urgency).await.unwrap();
                order.lock().unwrap().push(name);
            }));
        };
        for name in ["look 1", "look 2", "look 3", "look 4"] {
            queue(name, Urgency::Poll);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        queue("room", ROOM);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(
            *order.lock().unwrap(),
            ["look 1", "room", "look 2", "look 3", "look 4"],
            "one look was ahead in the queue of all"
        );
    }
}
