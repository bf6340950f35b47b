//! How long to wait before the next attempt.
//!
//! In: how attempts end. Out: pauses of 1 s, doubled at each failure in a row up to 60 s, with a
//! jitter of ±20 %, so that rooms that fell together do not come back together. Only messages that
//! arrive start the count anew: a connection that opens and stays empty is a failure, too.

use std::time::Duration;

use rand::Rng as _;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_mins(1);
const JITTER: f64 = 0.2;

/// Failures in a row of one creator.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reconnect {
    failures: u32,
    max: u32,
}

impl Reconnect {
    /// Gives up after `max` failures in a row; 0: never.
    pub(super) fn new(max: u32) -> Self {
        Self { failures: 0, max }
    }

    /// Failures in a row so far.
    pub(super) fn failures(self) -> u32 {
        self.failures
    }

    /// Messages arrived: all is well.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// An attempt failed: the pause before the next one, or `None` to give up.
    pub(super) fn failed(&mut self) -> Option<Duration> {
        self.failures = self.failures.saturating_add(1);
        if self.max > 0 && self.failures >= self.max {
            return None;
        }
        Some(self.pause(FIRST, LONGEST))
    }

    /// The pause after a connection that had worked.
    pub(super) fn dropped(&mut self) -> Duration {
        self.reset();
        jittered(FIRST)
    }

    /// A pause for the present number of failures, between `first` and `longest`.
    pub(super) fn pause(self, first: Duration, longest: Duration) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(16);
        jittered((first * 2_u32.pow(doublings)).min(longest)).min(longest)
    }
}

/// Up to a fifth more or less.
pub(super) fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(1.0 - JITTER..=1.0 + JITTER))
}

/// Up to a fifth more, never less: for pauses that somebody asked for.
pub(super) fn at_least(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(1.0..=1.0 + JITTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute() {
        let mut reconnect = Reconnect::new(0);
        for expected in [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0] {
            let pause = reconnect.failed().unwrap().as_secs_f64();
            assert!(
                (expected * 0.8..=expected * 1.2).contains(&pause) && pause <= 60.0,
                "{pause} for {expected}"
            );
        }
        for _ in 0..1_000 {
            assert!(reconnect.failed().unwrap() >= LONGEST.mul_f64(0.8));
        }
        assert!(reconnect.dropped() <= FIRST.mul_f64(1.2));
        assert_eq!(reconnect.failures(), 0);
        assert!(
            reconnect.failed().unwrap() <= FIRST.mul_f64(1.2),
            "starts anew"
        );
    }

    #[test]
    fn it_gives_up_after_as_many_failures_as_allowed() {
        let mut reconnect = Reconnect::new(3);
        assert!(reconnect.failed().is_some() && reconnect.failed().is_some());
        assert!(reconnect.failed().is_none());
        reconnect.reset();
        assert!(reconnect.failed().is_some());
    }

    #[test]
    fn jitter_spreads_and_an_asked_pause_is_never_cut() {
        let second = Duration::from_secs(1);
        let (mut early, mut late) = (0, 0);
        for _ in 0..1_000 {
            if jittered(second) < second {
                early += 1;
            } else {
                late += 1;
            }
            assert!(at_least(second) >= second && at_least(second) <= second.mul_f64(1.2));
        }
        assert!(early > 300 && late > 300, "{early} early, {late} late");
    }
}
