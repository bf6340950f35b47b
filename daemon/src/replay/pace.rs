//! When the next event is due.
//!
//! In: when each event of the original was received, in the order of the room. Out: when it is to be
//! sent. Not by the event's own time: that is TikTok's, of a message that came late or was sent again
//! at connect, or wrong by a day; what a viewer saw is the moment of reception, by our clock. Where
//! that clock was put back, events come at once until it is where it was. A pause of the original is
//! a pause of the replay, however long.

use std::time::Duration;

use tokio::time::Instant;

/// A pause of more than a year is as good as one of a year, and cannot overflow.
const LONGEST: f64 = 366.0 * 24.0 * 3600.0;

/// The clock of a showing.
#[derive(Debug)]
pub(super) struct Pace {
    factor: Option<f64>,
    /// When an event was due, and when it had been received, in Unix ms.
    base: Option<(Instant, i64)>,
    latest: i64,
}

impl Pace {
    /// So many times as fast as life; `None` does not wait at all.
    pub(super) fn new(factor: Option<f64>) -> Self {
        Self {
            factor,
            base: None,
            latest: i64::MIN,
        }
    }

    /// When an event that was received at `received` (Unix ms) is due. The first one is at once.
    pub(super) fn due(&mut self, received: i64, now: Instant) -> Instant {
        let Some(factor) = self.factor else {
            return now;
        };
        self.latest = self.latest.max(received);
        let (since, first) = *self.base.get_or_insert((now, self.latest));
        #[expect(
            clippy::cast_precision_loss,
            reason = "milliseconds of a session are far below 2^53"
        )]
        let life = self.latest.saturating_sub(first) as f64 / 1_000.0;
        since + Duration::from_secs_f64((life / factor).clamp(0.0, LONGEST))
    }

    /// Something was in the way for so long: all that follows is that much later.
    pub(super) fn delayed(&mut self, by: Duration) {
        if let Some((since, _)) = &mut self.base {
            *since += by;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long after the first one each is due.
    fn waits(factor: f64, received: &[i64]) -> Vec<u128> {
        let now = Instant::now();
        let mut pace = Pace::new(Some(factor));
        let due = received.iter().map(|&at| pace.due(at, now));
        due.map(|due| (due - now).as_millis()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_are_those_of_the_original_by_the_speed() {
        let received = [1_000, 1_250, 1_250, 61_000];
        assert_eq!(waits(1.0, &received), [0, 250, 250, 60_000]);
        assert_eq!(waits(2.0, &received), [0, 125, 125, 30_000]);
        assert_eq!(waits(0.1, &received), [0, 2_500, 2_500, 600_000]);
        assert_eq!(waits(100.0, &received), [0, 2, 2, 600]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_was_put_back_is_waited_for_and_never_runs_backwards() {
        assert_eq!(waits(1.0, &[5_000, 2_000, 4_999, 6_000]), [0, 0, 0, 1_000]);
        let far = waits(0.1, &[0, i64::MAX]);
        assert_eq!(far[1], Duration::from_secs_f64(LONGEST).as_millis());
        assert_eq!(waits(1.0, &[i64::MIN, i64::MIN]), [0, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn as_fast_as_possible_waits_for_nothing() {
        let now = Instant::now();
        let mut pace = Pace::new(None);
        assert_eq!(pace.due(0, now), now);
        assert_eq!(pace.due(1_000_000, now), now);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_in_the_way_is_not_made_up_for() {
        let now = Instant::now();
        let mut pace = Pace::new(Some(1.0));
        assert_eq!(pace.due(0, now), now);
        pace.delayed(Duration::from_secs(30));
        let due = pace.due(1_000, now + Duration::from_secs(30));
        assert_eq!(due - now, Duration::from_secs(31));
    }
}
