//! Who is followed: one task for each creator, started and stopped while the daemon runs.
//!
//! In: the creators of `TIKTOK_UNIQUE_ID`, and what was decided since ([`Bus::tracked`], looked at
//! every 2 s, so that every daemon sees it). Out: running tasks, for (setting ∪ tracked) − untracked.
//! Nothing is started before Redis has told what was decided, for somebody may have been untracked;
//! while Redis is away later, all goes on as it was. A task that panics is started again after a
//! pause, and takes no other one with it. Names that cannot be TikTok's are passed over.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use metrics::counter;
use shared::control::creator_name;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, timeout_at};
use tokio_util::sync::CancellationToken;

use super::creator::Stop;
use super::status::Board;
use crate::bus::{self, Bus, Tracked};
use crate::metrics::TASKS_RESTARTED;

/// Between two looks at what was decided.
const POLL: Duration = Duration::from_secs(2);
/// Before a task that has failed is started again.
const RESTART_PAUSE: Duration = Duration::from_secs(5);

/// All tasks, by the creators' names in lower case. `begin` makes the task of a name.
pub(super) struct Roster<B> {
    settings: Vec<String>,
    begin: B,
    board: Board,
    tasks: JoinSet<()>,
    running: HashMap<String, Running>,
    by_task: HashMap<Id, String>,
    /// Whose task has failed, and when it may be started again.
    failed: HashMap<String, Instant>,
}

struct Running {
    name: String,
    stop: Stop,
}

impl<B, T> Roster<B>
where
    B: Fn(&str, Stop) -> Result<T, String>,
    T: Future<Output = ()> + Send + 'static,
{
    /// Nobody is followed yet.
    pub(super) fn new(settings: Vec<String>, board: Board, begin: B) -> Self {
        Self {
            settings,
            begin,
            board,
            tasks: JoinSet::new(),
            running: HashMap::new(),
            by_task: HashMap::new(),
            failed: HashMap::new(),
        }
    }

    /// Follows who is to be followed, until `stop`; then waits for the tasks until `deadline` after.
    pub(super) async fn keep(mut self, bus: Bus, stop: CancellationToken, deadline: Duration) {
        let mut ticks = tokio::time::interval(POLL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failures = 0_u32;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ended) = self.tasks.join_next_with_id() => self.ended(ended),
                _ = ticks.tick() => {
                    let Some(decided) = stop.run_until_cancelled(bus.tracked()).await else { break };
                    self.look(decided, &mut failures, &stop);
                }
            }
        }
        let deadline = Instant::now() + deadline;
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if timeout_at(deadline, all).await.is_err() {
            tracing::warn!(stage = "ingest", "not all connections were closed in time");
        }
    }

    fn look(
        &mut self,
        decided: Result<Vec<Tracked>, bus::Error>,
        failures: &mut u32,
        stop: &CancellationToken,
    ) {
        match decided {
            Ok(decided) => {
                *failures = 0;
                self.follow(wanted(&self.settings, &decided), stop);
            }
            Err(error) => {
                *failures += 1;
                if failures.is_power_of_two() {
                    tracing::warn!(stage = "ingest", %error, failures,
                        "cannot ask redis whom to follow, going on as before");
                }
            }
        }
    }

    /// Starts and stops tasks, so that these are followed. Who is to be followed again while the
    /// task still ends is started by the next look.
    fn follow(&mut self, wanted: BTreeMap<String, String>, stop: &CancellationToken) {
        for (key, running) in &self.running {
            if !wanted.contains_key(key) && !running.stop.this.is_cancelled() {
                tracing::info!(stage = "ingest", creator = running.name, "followed no more");
                running.stop.this.cancel();
            }
        }
        for (key, name) in wanted {
            let pausing = self.failed.get(&key).is_some_and(|&at| at > Instant::now());
            if self.running.contains_key(&key) || pausing {
                continue;
            }
            self.failed.remove(&key);
            let stop = Stop::one(stop);
            match (self.begin)(&name, stop.clone()) {
                Ok(task) => self.start(key, Running { name, stop }, task),
                Err(error) => {
                    tracing::error!(
                        stage = "ingest",
                        creator = name,
                        error,
                        "cannot be followed, trying again"
                    );
                    self.failed.insert(key, Instant::now() + RESTART_PAUSE);
                }
            }
        }
    }

    fn start(&mut self, key: String, running: Running, task: T) {
        tracing::info!(stage = "ingest", creator = running.name, "following");
        let task = self.tasks.spawn(task);
        self.by_task.insert(task.id(), key.clone());
        self.running.insert(key, running);
    }

    fn ended(&mut self, ended: Result<(Id, ()), JoinError>) {
        let (id, error) = match ended {
            Ok((id, ())) => (id, None),
            Err(error) => (error.id(), Some(error)),
        };
        let Some(key) = self.by_task.remove(&id) else {
            return;
        };
        let Some(Running { name, stop }) = self.running.remove(&key) else {
            return;
        };
        if let Some(error) = error {
            counter!(TASKS_RESTARTED).increment(1);
            tracing::error!(stage = "ingest", creator = name, %error,
                "the creator's task has failed, it is started again");
            self.failed.insert(key, Instant::now() + RESTART_PAUSE);
        }
        if stop.this.is_cancelled() {
            self.board.remove(&name);
        }
    }
}

/// Who is to be followed: names by themselves in lower case.
fn wanted(settings: &[String], decided: &[Tracked]) -> BTreeMap<String, String> {
    let mut wanted: BTreeMap<String, String> = settings
        .iter()
        .map(|name| (name.to_lowercase(), name.clone()))
        .collect();
    for decision in decided {
        let Some(name) = creator_name(&decision.unique_id) else {
            continue;
        };
        let key = name.to_lowercase();
        if decision.follow {
            wanted.entry(key).or_insert_with(|| name.to_owned());
        } else {
            wanted.remove(&key);
        }
    }
    wanted
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use metrics_exporter_prometheus::PrometheusBuilder;
    use shared::time::Timestamp;
    use tokio::time::{advance, timeout};

    use super::*;

    fn decision(name: &str, follow: bool) -> Tracked {
        Tracked {
            unique_id: name.to_owned(),
            follow,
            since: Timestamp::from_millis(0),
        }
    }

    #[test]
    fn decisions_add_to_the_setting_and_outweigh_it() {
        let settings = ["Alice".to_owned(), "bob".to_owned()];
        let decided = [
            decision("carol", true),
            decision("ALICE", false),
            decision("BOB", true),
            decision("dave", false),
            decision("no name", true),
        ];
        let wanted = wanted(&settings, &decided);
        let names: Vec<_> = wanted.values().map(String::as_str).collect();
        assert_eq!(names, ["bob", "carol"]);
    }

    /// How often the tasks of two creators were begun, and how often Bob's has done something.
    #[derive(Default)]
    struct Tally {
        alice: AtomicU32,
        bob: AtomicU32,
        beats: AtomicU32,
    }

    impl Tally {
        fn now(&self) -> (u32, u32) {
            let count = |counter: &AtomicU32| counter.load(Ordering::SeqCst);
            (count(&self.alice), count(&self.bob))
        }
    }

    /// Alice's first task panics as soon as it runs; Bob's does something each second.
    async fn task(tally: &Tally, name: &str, stop: Stop) {
        if name == "Alice" {
            let before = tally.alice.fetch_add(1, Ordering::SeqCst);
            assert!(before > 0, "a defect of Alice's task");
            stop.this.cancelled().await;
            return;
        }
        tally.bob.fetch_add(1, Ordering::SeqCst);
        let second = || tokio::time::sleep(Duration::from_secs(1));
        while stop.this.run_until_cancelled(second()).await.is_some() {
            tally.beats.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_ends_one_task_only_and_that_is_begun_again_after_a_pause() {
        let tally = Arc::new(Tally::default());
        let beats = || tally.beats.load(Ordering::SeqCst);
        let recorder = PrometheusBuilder::new().build_recorder();
        let settings = vec!["Alice".to_owned(), "bob".to_owned()];
        let mut roster = Roster::new(settings.clone(), Board::default(), |name: &str, stop| {
            let (tally, name) = (tally.clone(), name.to_owned());
            Ok(async move { task(&tally, &name, stop).await })
        });
        let stop = CancellationToken::new();
        let everybody = || wanted(&settings, &[]);

        roster.follow(everybody(), &stop);
        let ended = roster.tasks.join_next_with_id().await.unwrap();
        assert!(ended.as_ref().is_err_and(JoinError::is_panic), "{ended:?}");
        metrics::with_local_recorder(&recorder, || roster.ended(ended));
        let counted = format!("{TASKS_RESTARTED} 1");
        let shown = recorder.handle().render();
        assert!(shown.lines().any(|line| line == counted), "{shown}");

        roster.follow(everybody(), &stop);
        assert_eq!(roster.running.len(), 1, "not at once, or it would spin");
        let before = beats();
        for _ in 0..RESTART_PAUSE.as_secs() {
            advance(Duration::from_secs(1)).await;
            tokio::task::yield_now().await;
        }
        assert!(beats() > before, "bob's goes on meanwhile");
        roster.follow(everybody(), &stop);
        assert_eq!(roster.running.len(), 2);
        let none = timeout(Duration::from_secs(10), roster.tasks.join_next()).await;
        assert!(none.is_err(), "both run on");
        assert_eq!(tally.now(), (2, 1));

        stop.cancel();
        while let Some(ended) = roster.tasks.join_next_with_id().await {
            assert!(ended.is_ok(), "{ended:?}");
            roster.ended(ended);
        }
        assert!(roster.running.is_empty() && roster.by_task.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_cannot_be_begun_is_tried_again_after_a_pause() {
        let tries = AtomicU32::new(0);
        let mut roster = Roster::new(Vec::new(), Board::default(), |_: &str, _| {
            match tries.fetch_add(1, Ordering::SeqCst) {
                0 => Err("no certificates".to_owned()),
                _ => Ok(std::future::pending()),
            }
        });
        let stop = CancellationToken::new();
        let alice = || wanted(&["alice".to_owned()], &[]);
        roster.follow(alice(), &stop);
        roster.follow(alice(), &stop);
        assert_eq!((tries.load(Ordering::SeqCst), roster.running.len()), (1, 0));
        advance(RESTART_PAUSE).await;
        roster.follow(alice(), &stop);
        assert_eq!((tries.load(Ordering::SeqCst), roster.running.len()), (2, 1));
    }
}
