//! Waiting for a server that is away: longer each time, cancellable, with few log lines.

use std::fmt::Display;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use tokio_util::sync::CancellationToken;

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
        if self.attempts.is_power_of_two() || self.attempts.is_multiple_of(QUIET) {
            tracing::warn!(server = self.server, attempt = self.attempts, %error, "waiting for the server");
        }
        let delay = self.delays.next().unwrap_or(LONGEST);
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

    /// It answers again.
    pub(crate) fn over(&mut self) {
        if self.attempts > 0 {
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
