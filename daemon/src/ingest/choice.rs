//! Which of the two providers delivers a creator's room: the first choice, or the other one.
//!
//! In: how attempts went. Out: who makes the next one. The other takes over after [`PATIENCE`]
//! failures in a row, and at once after a refusal for good or one that lasts long; an offline
//! creator, an unknown name or an age limit is nobody's failure. When the first choice is tried
//! again, [`Choice::due`] says so: ten minutes later by default, doubled after each trial that
//! failed up to an hour, with a jitter. While the other delivers, the first choice is connected
//! beside it and takes over only once it is in the room: nothing is lost between them but what
//! comes in the milliseconds of the change, and that TikTok sends again and the room's memory of
//! messages knows. If it then delivers nothing, one failure is enough to go back.
//!
//! Each creator has a choice of its own, and a new one after a restart.

use std::time::Duration;

use tokio::time::Instant;

use super::failure::{Failure, Retry};
use super::reconnect::jittered;

/// Failures in a row after which the other provider takes over.
const PATIENCE: u32 = 3;
/// Who is told to wait for longer than this lets the other one try.
const LONG: Duration = Duration::from_mins(1);
/// Between two trials of the first choice, at most.
const LONGEST_PAUSE: Duration = Duration::from_hours(1);

/// A provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Which {
    /// TikTok's webcast protocol, spoken by ourselves.
    Direct,
    /// Euler Stream's WebSocket API.
    Euler,
}

impl Which {
    fn other(self) -> Self {
        match self {
            Self::Direct => Self::Euler,
            Self::Euler => Self::Direct,
        }
    }

    /// In events, statuses and labels of metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Euler => "euler",
        }
    }
}

/// What was set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Preference {
    pub(super) first: Which,
    /// Whether the other one may take over.
    pub(super) fallback: bool,
    /// Until the first choice is tried again for the first time.
    pub(super) hand_back: Duration,
}

/// What a failure leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The same provider goes on.
    Stay,
    /// The other one takes over.
    Change,
    /// There is no use in trying again.
    GiveUp,
}

/// The state of the choice for one creator.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice {
    preference: Preference,
    current: Which,
    /// In a row, of the current one.
    failures: u32,
    /// Refused for good: the first choice, the other one.
    refused: [bool; 2],
    /// The first choice is on again and has delivered nothing yet.
    on_trial: bool,
    pause: Duration,
    due: Option<Instant>,
}

impl Choice {
    pub(super) fn new(preference: Preference) -> Self {
        Self {
            preference,
            current: preference.first,
            failures: 0,
            refused: [false; 2],
            on_trial: false,
            pause: preference.hand_back,
            due: None,
        }
    }

    /// Who makes the next attempt.
    pub(super) fn current(&self) -> Which {
        self.current
    }

    /// The first choice, whoever delivers.
    pub(super) fn first(&self) -> Which {
        self.preference.first
    }

    /// Whether it is not the first choice.
    pub(super) fn is_fallback(&self) -> bool {
        self.current != self.preference.first
    }

    /// When the first choice is to be tried again; `None` while it is on, or refused for good.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Messages arrived.
    pub(super) fn delivered(&mut self) {
        self.failures = 0;
        if !self.is_fallback() {
            self.on_trial = false;
            self.pause = self.preference.hand_back;
        }
    }

    /// An attempt failed.
    pub(super) fn failed(&mut self, failure: &Failure) -> Verdict {
        let for_good = failure.retry == Retry::Never;
        if !failure.blames_provider() {
            return if for_good {
                Verdict::GiveUp
            } else {
                Verdict::Stay
            };
        }
        self.failures += 1;
        if for_good {
            self.refused[usize::from(self.is_fallback())] = true;
        }
        let other_works =
            self.preference.fallback && !self.refused[usize::from(!self.is_fallback())];
        if !other_works {
            return if for_good {
                Verdict::GiveUp
            } else {
                Verdict::Stay
            };
        }
        let long = match failure.retry {
            Retry::AtLeast(wait) => wait > LONG,
            Retry::Long => true,
            _ => false,
        };
        if !(for_good || long || self.on_trial || self.failures >= PATIENCE) {
            return Verdict::Stay;
        }
        if self.is_fallback() {
            self.due = None;
        } else {
            self.postpone();
        }
        self.current = self.current.other();
        self.failures = 0;
        self.on_trial = false;
        Verdict::Change
    }

    /// The first choice takes over again.
    pub(super) fn hand_back(&mut self) {
        self.current = self.preference.first;
        self.failures = 0;
        self.on_trial = true;
        self.due = None;
        // What the next failure waits before another trial.
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    /// The first choice was tried while the other delivers, and failed.
    pub(super) fn hand_back_failed(&mut self, failure: &Failure) {
        if failure.retry == Retry::Never {
            self.refused[0] = true;
        }
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        self.postpone();
    }

    fn postpone(&mut self) {
        self.due = (!self.refused[0]).then(|| Instant::now() + jittered(self.pause));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTES: Duration = Duration::from_mins(10);

    fn choice(fallback: bool) -> Choice {
        Choice::new(Preference {
            first: Which::Direct,
            fallback,
            hand_back: MINUTES,
        })
    }

    fn failure(reason: &'static str, retry: Retry) -> Failure {
        Failure {
            close_code: None,
            reason,
            detail: String::new(),
            stream_id: None,
            retry,
        }
    }

    fn soft() -> Failure {
        failure("unreachable", Retry::Policy)
    }

    fn in_about(choice: &Choice, minutes: u64) {
        let wait = choice.due().expect("a trial is due") - Instant::now();
        let expected = Duration::from_mins(minutes);
        assert!(
            wait >= expected.mul_f64(0.8) && wait <= expected.mul_f64(1.2),
            "{wait:?} for {minutes} min"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn three_failures_in_a_row_hand_over_and_messages_start_the_count_anew() {
        let mut choice = choice(true);
        assert_eq!(choice.failed(&soft()), Verdict::Stay);
        assert_eq!(choice.failed(&soft()), Verdict::Stay);
        choice.delivered();
        assert_eq!(choice.failed(&soft()), Verdict::Stay);
        assert_eq!(choice.failed(&soft()), Verdict::Stay);
        assert_eq!(choice.failed(&soft()), Verdict::Change);
        assert_eq!(choice.current(), Which::Euler);
        assert!(choice.is_fallback());
        in_about(&choice, 10);
        // The other one fails as well: the first is tried again, without a trial's severity.
        for _ in 0..2 {
            assert_eq!(choice.failed(&soft()), Verdict::Stay);
        }
        assert_eq!(choice.failed(&soft()), Verdict::Change);
        assert_eq!((choice.current(), choice.due()), (Which::Direct, None));
        assert_eq!(choice.failed(&soft()), Verdict::Stay);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_blamed_for_the_creator() {
        let mut choice = choice(true);
        for reason in ["unknown_user", "age_restricted"] {
            for _ in 0..10 {
                let failure = failure(reason, Retry::Poll);
                assert_eq!(choice.failed(&failure), Verdict::Stay);
            }
        }
        assert!(!choice.is_fallback());
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_and_long_waits_hand_over_at_once() {
        for retry in [
            Retry::Never,
            Retry::Long,
            Retry::AtLeast(Duration::from_mins(30)),
        ] {
            let mut choice = choice(true);
            let failure = failure("sign_refused", retry);
            assert_eq!(choice.failed(&failure), Verdict::Change, "{retry:?}");
            assert_eq!(choice.due().is_none(), retry == Retry::Never);
        }
        let short = failure("sign_limited", Retry::AtLeast(Duration::from_secs(5)));
        assert_eq!(choice(true).failed(&short), Verdict::Stay);
        let never = failure("sign_refused", Retry::Never);
        assert_eq!(choice(false).failed(&never), Verdict::GiveUp);
        for _ in 0..10 {
            assert_eq!(choice(false).failed(&soft()), Verdict::Stay);
        }
        // Both refused: nothing is left.
        let mut choice = choice(true);
        assert_eq!(choice.failed(&never), Verdict::Change);
        assert_eq!(choice.failed(&soft()), Verdict::Stay);
        assert_eq!(choice.failed(&never), Verdict::GiveUp);
    }

    #[tokio::test(start_paused = true)]
    async fn trials_come_later_each_time_until_one_delivers() {
        let mut choice = choice(true);
        for _ in 0..3 {
            choice.failed(&soft());
        }
        in_about(&choice, 10);
        choice.hand_back_failed(&soft());
        in_about(&choice, 20);
        choice.hand_back();
        assert_eq!((choice.current(), choice.due()), (Which::Direct, None));
        assert_eq!(choice.failed(&soft()), Verdict::Change, "it is on trial");
        in_about(&choice, 40);
        choice.delivered();
        choice.hand_back_failed(&soft());
        in_about(&choice, 60);
        choice.hand_back();
        choice.delivered();
        for _ in 0..2 {
            assert_eq!(choice.failed(&soft()), Verdict::Stay);
        }
        assert_eq!(choice.failed(&soft()), Verdict::Change);
        in_about(&choice, 10);
        choice.hand_back_failed(&failure("sign_refused", Retry::Never));
        assert_eq!(choice.due(), None, "never again");
    }
}
