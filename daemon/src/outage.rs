//! Waiting for a server that is away: longer each time, cancellable, with few log lines.
//!
//! Comes in: failures of Redis or Postgres, from whichever stage meets them. Goes out: pauses, for
//! ever, until it answers or the stage is told to stop; what was held is then tried again. Each
//! failure and each return is counted.

use std::fmt::Display;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use metrics::counter;
use tokio_util::sync::CancellationToken;

use crate::metrics::{RECONNECTS, SERVER_FAILURES};

/// The first pause, and the longest: work goes on within 5 s of the server's return.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);
/// After the first lines, one of so many attempts is logged.
const QUIET: u32 = 12;

/// One server's absence, from the first failure to the next success.
pub(crate) struct Outage {
    server: &'static str,
    delays: ExponentialBackoff,
    attempts: u32,
    since: Instant,
}

impl Outage {
    /// None yet. `server` names it in the log.
    pub(crate) fn new(server: &'static str) -> Self {
        let delays = ExponentialBuilder::default()
            .with_min_delay(FIRST)
            .with_max_delay(LONGEST)
            .with_factor(2.0)
            .with_jitter()
            .without_max_times()
            .build();
        Self {
            server,
            delays,
            attempts: 0,
            since: Instant::now(),
        }
    }

    /// Waits before the next attempt; `false` when told to stop meanwhile.
    pub(crate) async fn wait(&mut self, error: &impl Display, stop: &CancellationToken) -> bool {
        if self.attempts == 0 {
            self.since = Instant::now();
        }
        self.attempts += 1;
        counter!(SERVER_FAILURES, "server" => self.server).increment(1);
        if self.attempts.is_power_of_two() || self.attempts.is_multiple_of(QUIET) {
            tracing::warn!(server = self.server, attempt = self.attempts, %error, "waiting for the server");
        }
        let delay = self.pause();
        stop.run_until_cancelled(tokio::time::sleep(delay))
            .await
            .is_some()
    }

    /// The same for Redis: what it met is counted by its class.
    pub(crate) async fn wait_for_redis(
        &mut self,
        stage: &'static str,
        error: &crate::bus::Error,
        stop: &CancellationToken,
    ) -> bool {
        crate::bus::note(stage, error);
        self.wait(error, stop).await
    }

    fn pause(&mut self) -> Duration {
        // Jitter may double it.
        self.delays.next().unwrap_or(LONGEST).min(LONGEST)
    }

    /// It answers again.
    pub(crate) fn over(&mut self) {
        if self.attempts > 0 {
            counter!(RECONNECTS, "server" => self.server).increment(1);
            tracing::info!(
                server = self.server,
                attempts = self.attempts,
                seconds = self.since.elapsed().as_secs(),
                "the server is back"
            );
            *self = Self::new(self.server);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_their_limit_and_never_end() {
        let mut outage = Outage::new("test");
        assert!(outage.pause() < Duration::from_secs(1));
        for _ in 0..1_000 {
            assert!(outage.pause() <= LONGEST);
        }
        assert_eq!(outage.pause(), LONGEST);
    }

    #[tokio::test(start_paused = true)]
    async fn it_waits_until_told_to_stop() {
        let stop = CancellationToken::new();
        let mut outage = Outage::new("test");
        assert!(outage.wait(&"away", &stop).await);
        outage.over();
        assert_eq!(outage.attempts, 0);
        stop.cancel();
        assert!(!outage.wait(&"away", &stop).await);
    }
}
