//! The circuit breaker of the destination, which all rooms share.
//!
//! In: how each request ended. Out: when the next one may be made. Closed, every room sends as it
//! likes. It opens after [`FAILURES`] failures in a row, with no success of any room between them,
//! when they are failures to be reached at all, or come from more than one room: one room with a
//! message that the destination chokes on opens it for nobody. Open, one request at a time goes
//! through as a probe, after 1 s, then twice as long, up to 30 s; a probe costs its event no retry.
//! The first success closes it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// Failures in a row that open it.
pub(super) const FAILURES: u32 = 5;
/// Until the first probe, and at most between two.
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);

/// See the head of the file.
pub(super) struct Breaker {
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    /// Failures since the last success.
    failures: u32,
    /// Whether all of them were failures to be reached.
    unreachable: bool,
    /// The room of the first one, and whether another one failed too.
    room: Option<String>,
    others: bool,
    /// When the first one was, and when the last success.
    since: Option<Instant>,
    succeeded: Option<Instant>,
    /// Set while it is open.
    open: Option<Open>,
}

#[derive(Clone, Copy)]
struct Open {
    /// When the next probe is due.
    due: Instant,
    /// The wait after the next failure.
    wait: Duration,
    /// Whether a probe is under way.
    probing: bool,
}

/// How a request ended, as far as the destination goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// It answers: took something, or refused it for good.
    Well,
    /// It says that it cannot.
    Ill,
    /// It cannot be reached, or is not there for anybody.
    Away,
}

/// The right to make one request.
pub(super) struct Turn<'a> {
    breaker: &'a Breaker,
    /// Whether it is a probe.
    pub(super) probe: bool,
    reported: bool,
}

impl Breaker {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                failures: 0,
                unreachable: true,
                room: None,
                others: false,
                since: None,
                succeeded: None,
                open: None,
            }),
            changed: Notify::new(),
        }
    }

    /// Waits until a request may be made.
    pub(super) async fn turn(&self) -> Turn<'_> {
        loop {
            // Registered before the look, so that a change after it is not missed.
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let due = {
                let mut state = self.lock();
                match &mut state.open {
                    None => return self.give(false),
                    Some(open) if open.probing => None,
                    Some(open) if open.due <= Instant::now() => {
                        open.probing = true;
                        return self.give(true);
                    }
                    Some(open) => Some(open.due),
                }
            };
            match due {
                Some(due) => tokio::select! { () = changed => {}, () = sleep_until(due) => {} },
                None => changed.await,
            }
        }
    }

    fn give(&self, probe: bool) -> Turn<'_> {
        Turn {
            breaker: self,
            probe,
            reported: false,
        }
    }

    /// Since when nothing has succeeded; `None` while all is well.
    pub(super) fn failing_since(&self) -> Option<Instant> {
        self.lock().since
    }

    /// Whether anything has succeeded after that moment.
    pub(super) fn succeeded_after(&self, moment: Instant) -> bool {
        self.lock().succeeded.is_some_and(|last| last > moment)
    }

    /// 0 closed, 1 open, 2 with a probe under way.
    pub(super) fn state(&self) -> u8 {
        self.lock()
            .open
            .map_or(0, |open| 1 + u8::from(open.probing))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn<'_> {
    /// How the request of `room` ended. `wait`: the destination asked for so much time.
    pub(super) fn report(mut self, room: &str, sign: Sign, wait: Option<Duration>) {
        self.reported = true;
        let now = Instant::now();
        let mut state = self.breaker.lock();
        if sign == Sign::Well {
            if state.open.is_some() {
                tracing::info!(stage = super::STAGE, "the destination answers again");
            }
            *state = State {
                failures: 0,
                unreachable: true,
                room: None,
                others: false,
                since: None,
                succeeded: Some(now),
                open: None,
            };
        } else {
            state.failures = state.failures.saturating_add(1);
            state.unreachable &= sign == Sign::Away;
            state.since.get_or_insert(now);
            match &state.room {
                None => state.room = Some(room.to_owned()),
                Some(first) => state.others |= first != room,
            }
            let failures = state.failures;
            match state.open {
                Some(open) if self.probe => {
                    let pause = jittered(open.wait).max(wait.unwrap_or_default());
                    let wait = (open.wait * 2).min(LONGEST);
                    state.open = Some(Open {
                        due: now + pause,
                        wait,
                        probing: false,
                    });
                }
                None if failures >= FAILURES && (state.unreachable || state.others) => {
                    tracing::warn!(
                        stage = super::STAGE,
                        failures,
                        "the destination does not take events: waiting, with one probe at a time"
                    );
                    let pause = jittered(FIRST).max(wait.unwrap_or_default());
                    state.open = Some(Open {
                        due: now + pause,
                        wait: FIRST * 2,
                        probing: false,
                    });
                }
                // Closed still, or sent before it opened.
                _ => {}
            }
        }
        drop(state);
        self.breaker.changed.notify_waiters();
    }
}

/// A probe that was cut off says nothing: the next one is due.
impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.probe && !self.reported {
            if let Some(open) = &mut self.breaker.lock().open {
                open.probing = false;
            }
            self.breaker.changed.notify_waiters();
        }
    }
}

/// ± 20 %, so that many do not come back at once.
pub(super) fn jittered(delay: Duration) -> Duration {
    delay.mul_f64(rand::random_range(0.8..1.2))
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    async fn fail(breaker: &Breaker, room: &str, sign: Sign) {
        breaker.turn().await.report(room, sign, None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_unreachable_destination_opens_it_and_one_probe_closes_it() {
        let breaker = Breaker::new();
        for _ in 0..FAILURES {
            assert_eq!(breaker.state(), 0);
            fail(&breaker, "1", Sign::Away).await;
        }
        assert_eq!(breaker.state(), 1);
        let begun = Instant::now();
        let probe = breaker.turn().await;
        assert!(probe.probe && begun.elapsed() >= FIRST.mul_f64(0.8));
        assert_eq!(breaker.state(), 2);
        assert!(breaker.turn().now_or_never().is_none(), "one at a time");
        drop(probe);
        let probe = breaker.turn().await;
        assert!(probe.probe, "one that was cut off is replaced");
        probe.report("1", Sign::Away, None);
        let begun = Instant::now();
        breaker
            .turn()
            .await
            .report("1", Sign::Away, Some(Duration::from_secs(7)));
        assert!(begun.elapsed() >= FIRST.mul_f64(1.6), "twice as long");
        let begun = Instant::now();
        let probe = breaker.turn().await;
        assert!(
            begun.elapsed() >= Duration::from_secs(7),
            "as long as it asked for"
        );
        let waiting = breaker.turn();
        probe.report("1", Sign::Well, None);
        assert!(!waiting.await.probe);
        assert!(breaker.failing_since().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn the_pauses_have_a_limit() {
        let breaker = Breaker::new();
        for _ in 0..FAILURES + 20 {
            fail(&breaker, "1", Sign::Away).await;
        }
        let begun = Instant::now();
        fail(&breaker, "1", Sign::Away).await;
        assert!(begun.elapsed() <= LONGEST.mul_f64(1.2));
    }

    #[tokio::test(start_paused = true)]
    async fn one_room_that_fails_opens_it_for_nobody() {
        let breaker = Breaker::new();
        for _ in 0..100 {
            fail(&breaker, "1", Sign::Ill).await;
        }
        assert_eq!(breaker.state(), 0);
        fail(&breaker, "2", Sign::Ill).await;
        assert_eq!(breaker.state(), 1, "two without a success between them do");

        let breaker = Breaker::new();
        for _ in 0..100 {
            fail(&breaker, "1", Sign::Away).await;
            fail(&breaker, "2", Sign::Well).await;
        }
        assert_eq!(breaker.state(), 0);
    }
}
