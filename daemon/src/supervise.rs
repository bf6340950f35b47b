//! The one place that spawns stages, watches them and stops them.
//!
//! A stage runs until it is told to stop; one that ends by itself, with an error or a panic, is a
//! defect or a setting that cannot work: it is logged, the others are stopped in order, and the
//! process exits with an error for whoever supervises it to see.
//!
//! Stopping is a courtesy: every stage is safe to kill at any line. On SIGTERM or SIGINT stages
//! stop in the order an event takes, so that what ingest still holds passes through, within
//! [`DEADLINE`] altogether; stragglers are named and abandoned. A second signal exits at once.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// For stopping everything; shorter than the grace of the platforms we run on (Fly gives 5 s).
pub const DEADLINE: Duration = Duration::from_secs(4);

/// The running stages, in the order they stop.
pub struct Stages {
    order: Vec<(&'static str, CancellationToken)>,
    tasks: JoinSet<anyhow::Result<()>>,
    names: HashMap<Id, &'static str>,
}

impl Stages {
    /// None yet.
    #[expect(
        clippy::new_without_default,
        reason = "an empty set of stages is a beginning, not a default"
    )]
    pub fn new() -> Self {
        Self {
            order: Vec::new(),
            tasks: JoinSet::new(),
            names: HashMap::new(),
        }
    }

    /// Starts a stage; those started first are stopped first.
    pub fn spawn<F, E>(&mut self, name: &'static str, stage: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<anyhow::Error>,
    {
        let stop = CancellationToken::new();
        let running = stage(stop.clone());
        let task = self
            .tasks
            .spawn(async move { running.await.map_err(Into::into) });
        self.names.insert(task.id(), name);
        self.order.push((name, stop));
        tracing::info!(stage = name, "stage started");
    }

    /// Waits for a signal or for a stage that fails, then stops all.
    ///
    /// # Errors
    /// When a stage ended by itself; the signal alone is success.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
        let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        let failed = tokio::select! {
            _ = interrupt.recv() => { tracing::info!("SIGINT: stopping"); None }
            _ = terminate.recv() => { tracing::info!("SIGTERM: stopping"); None }
            Some(ended) = self.tasks.join_next_with_id() => Some(self.ended(ended)),
        };
        tokio::select! {
            () = self.stop() => {}
            () = second_signal(&mut interrupt, &mut terminate) => tracing::warn!("second signal: exiting at once"),
        }
        match failed {
            Some(name) => bail!("stage {name} ended by itself"),
            None => Ok(()),
        }
    }

    async fn stop(&mut self) {
        let deadline = Instant::now() + DEADLINE;
        for (name, stop) in std::mem::take(&mut self.order) {
            stop.cancel();
            while self.names.values().any(|running| *running == name) {
                match timeout_at(deadline, self.tasks.join_next_with_id()).await {
                    Ok(Some(ended)) => {
                        self.ended(ended);
                    }
                    Ok(None) => break,
                    Err(_) => {
                        tracing::warn!(stage = name, "still running at the deadline, abandoned");
                        self.names.retain(|_, running| *running != name);
                    }
                }
            }
        }
        self.tasks.abort_all();
    }

    /// Logs how a stage ended and strikes it off; returns its name.
    fn ended(&mut self, ended: Result<(Id, anyhow::Result<()>), JoinError>) -> &'static str {
        let (id, outcome) = match ended {
            Ok((id, outcome)) => (id, outcome),
            Err(error) => (error.id(), Err(anyhow::anyhow!("panicked: {error}"))),
        };
        let name = self.names.remove(&id).unwrap_or("unknown");
        match outcome {
            Ok(()) => tracing::info!(stage = name, "stage stopped"),
            Err(error) => {
                tracing::error!(stage = name, error = format!("{error:#}"), "stage failed");
            }
        }
        name
    }
}

async fn second_signal(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    fn stage(
        log: &Arc<Mutex<Vec<&'static str>>>,
        name: &'static str,
    ) -> impl FnOnce(
        CancellationToken,
    ) -> std::pin::Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>> {
        let log = log.clone();
        move |stop| {
            Box::pin(async move {
                stop.cancelled().await;
                log.lock().unwrap().push(name);
                Ok(())
            })
        }
    }

    #[tokio::test]
    async fn a_failing_stage_stops_the_others_in_order() {
        let log = Arc::new(Mutex::new(Vec::new()));
        let mut stages = Stages::new();
        stages.spawn("first", stage(&log, "first"));
        stages.spawn("broken", |_| async {
            Err::<(), _>(anyhow::anyhow!("out of luck"))
        });
        stages.spawn("last", stage(&log, "last"));
        let error = stages.run().await.unwrap_err();
        assert_eq!(error.to_string(), "stage broken ended by itself");
        assert_eq!(*log.lock().unwrap(), ["first", "last"]);
    }

    #[tokio::test]
    async fn a_panic_is_a_failure() {
        let mut stages = Stages::new();
        stages.spawn("frail", |_| async {
            assert!(std::hint::black_box(false), "as expected by the test");
            anyhow::Ok(())
        });
        assert!(stages.run().await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_straggler_is_abandoned_at_the_deadline() {
        let log = Arc::new(Mutex::new(Vec::new()));
        let mut stages = Stages::new();
        stages.spawn("stubborn", |_| std::future::pending::<anyhow::Result<()>>());
        stages.spawn("last", stage(&log, "last"));
        let begun = Instant::now();
        stages.stop().await;
        assert!(begun.elapsed() >= DEADLINE && begun.elapsed() < DEADLINE * 2);
    }
}
