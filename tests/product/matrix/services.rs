//! The daemon's processes, watched as Compose watches them: what ends is started again.
//!
//! In: subcommands with their settings. Out: when each was started and how each start ended. A
//! process that is stopped on purpose stays down; one that is killed, aborts or exits by itself is
//! started again after a moment, with the same settings.

use std::{
    collections::{BTreeMap, VecDeque},
    process::ExitStatus,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use tokio::task::JoinHandle;

use crate::daemon::{Daemon, Log};

/// How long a supervisor waits before it starts a process again.
const PAUSE: Duration = Duration::from_millis(100);
const TICK: Duration = Duration::from_millis(20);

/// One life of a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Life {
    pub(crate) began: SystemTime,
    /// When and how it ended, if it has.
    pub(crate) ended: Option<(SystemTime, ExitStatus)>,
}

#[derive(Default)]
struct Service {
    subcommand: String,
    settings: Vec<(String, String)>,
    /// What the next starts are told besides, one start each.
    once: VecDeque<Vec<(String, String)>>,
    daemon: Option<Daemon>,
    /// Whether it is to run.
    wanted: bool,
    lives: Vec<Life>,
}

impl Service {
    fn start(&mut self, log: &Log) {
        let mut settings = self.settings.clone();
        for (name, value) in self.once.pop_front().unwrap_or_default() {
            settings.retain(|(other, _)| *other != name);
            settings.push((name, value));
        }
        let began = SystemTime::now();
        let daemon = Daemon::start(&settings, log, &self.subcommand).expect("it starts");
        self.daemon = Some(daemon);
        self.lives.push(Life { began, ended: None });
    }

    fn note_end(&mut self, status: ExitStatus) {
        if let Some(life) = self.lives.last_mut() {
            life.ended = Some((SystemTime::now(), status));
        }
    }
}

/// All processes of a test.
pub(crate) struct Services {
    all: Arc<Mutex<BTreeMap<String, Service>>>,
    log: Log,
    supervisor: JoinHandle<()>,
}

impl Services {
    pub(crate) fn new(log: &Log) -> Self {
        let all: Arc<Mutex<BTreeMap<String, Service>>> = Arc::default();
        let (watched, sink) = (all.clone(), log.clone());
        let supervisor = tokio::spawn(async move {
            loop {
                tokio::time::sleep(TICK).await;
                let mut all = watched.lock().unwrap_or_else(PoisonError::into_inner);
                for service in all.values_mut() {
                    watch(service, &sink);
                }
            }
        });
        Self {
            all,
            log: log.clone(),
            supervisor,
        }
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Service>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, name: &str, act: impl FnOnce(&mut Service) -> T) -> T {
        let mut all = self.all();
        let known = all.keys().cloned().collect::<Vec<_>>();
        let service = all.get_mut(name);
        act(service.unwrap_or_else(|| panic!("{name} is none of {known:?}")))
    }

    /// Starts a process and keeps it running. `once`: what its first starts are told besides.
    pub(crate) fn start(
        &self,
        name: &str,
        subcommand: &str,
        settings: Vec<(String, String)>,
        once: VecDeque<Vec<(String, String)>>,
    ) {
        let mut service = Service {
            subcommand: subcommand.to_owned(),
            settings,
            once,
            wanted: true,
            ..Service::default()
        };
        service.start(&self.log);
        let before = self.all().insert(name.to_owned(), service);
        assert!(before.is_none(), "{name} runs already");
    }

    /// Ends it as a crash does; it is started again by itself.
    pub(crate) fn kill(&self, name: &str) {
        self.with(name, |service| {
            // Between two lives there is nothing to kill.
            if let Some(mut daemon) = service.daemon.take() {
                let status = daemon.kill_and_tell();
                service.note_end(status);
            }
        });
    }

    /// Ends it as a crash does, for good; [`Self::start`] may take its name again.
    pub(crate) fn remove(&self, name: &str) {
        self.with(name, |service| service.wanted = false);
        self.kill(name);
        self.all().remove(name);
    }

    /// What its next start is told besides.
    pub(crate) fn tell_once(&self, name: &str, settings: Vec<(String, String)>) {
        self.with(name, |service| service.once.push_back(settings));
    }

    /// Sends it a signal. With `for_good` it is not started again when it ends.
    pub(crate) fn signal(&self, name: &str, signal: &str, for_good: bool) {
        self.with(name, |service| {
            if for_good {
                service.wanted = false;
            }
            let daemon = service.daemon.as_ref();
            daemon.expect("it runs").signal(signal);
        });
    }

    /// Starts again what was stopped for good.
    pub(crate) fn resume(&self, name: &str) {
        self.with(name, |service| service.wanted = true);
    }

    /// The process id, if it runs at the moment.
    pub(crate) fn id(&self, name: &str) -> Option<u32> {
        self.with(name, |service| service.daemon.as_ref().map(Daemon::id))
    }

    /// Its lives so far, the running one too.
    pub(crate) fn lives(&self, name: &str) -> Vec<Life> {
        self.with(name, |service| service.lives.clone())
    }

    /// When it was started last.
    pub(crate) fn began(&self, name: &str) -> SystemTime {
        self.with(name, |service| {
            service.lives.last().expect("it was started").began
        })
    }

    /// The names of all.
    pub(crate) fn names(&self) -> Vec<String> {
        self.all().keys().cloned().collect()
    }

    /// Waits for the end of one that is not to be started again, and returns how it ended and how
    /// long it took from now.
    pub(crate) async fn ended(&self, name: &str, limit: Duration) -> (ExitStatus, Duration) {
        let begun = Instant::now();
        loop {
            let ended = self.with(name, |service| {
                watch(service, &self.log);
                let running = service.daemon.is_some();
                let last = service.lives.last().and_then(|life| life.ended);
                last.filter(|_| !running)
            });
            if let Some((_, status)) = ended {
                return (status, begun.elapsed());
            }
            assert!(begun.elapsed() < limit, "{name} runs still after {limit:?}");
            tokio::time::sleep(TICK).await;
        }
    }
}

/// Notes an end, and starts again what is to run.
fn watch(service: &mut Service, log: &Log) {
    if let Some(status) = service.daemon.as_mut().and_then(Daemon::ended) {
        service.daemon = None;
        service.note_end(status);
    }
    let last = service.lives.last().and_then(|life| life.ended);
    if service.wanted
        && service.daemon.is_none()
        && last.is_none_or(|(at, _)| at.elapsed().unwrap_or_default() >= PAUSE)
    {
        service.start(log);
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        self.supervisor.abort();
        for service in self.all().values_mut() {
            if let Some(daemon) = service.daemon.take() {
                daemon.kill();
            }
        }
    }
}
