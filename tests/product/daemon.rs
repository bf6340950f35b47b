//! The daemon as a child process, with its log in hand.

use std::{
    process::{Command, ExitStatus},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{bail, ensure};
use serde_json::Value;
use xtask::{
    processes::{Process, pause, resume},
    project,
};

/// A running `ttlc`; dropping it stops it.
pub(crate) struct Daemon {
    process: Process,
    log: Log,
}

/// Everything the daemon has logged, over restarts.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub(crate) fn push(&self, line: &str) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(line.to_owned());
    }

    /// The lines so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The lines so far as JSON; what is none is an error.
    pub(crate) fn records(&self) -> anyhow::Result<Vec<Value>> {
        self.lines()
            .iter()
            .map(|line| match serde_json::from_str(line) {
                Ok(record) => Ok(record),
                Err(_) => bail!("the daemon logged a line that is no JSON: {line}"),
            })
            .collect()
    }

    /// The first record of at least this level that mentions all of these words anywhere.
    pub(crate) fn find(&self, level: &str, words: &[&str]) -> anyhow::Result<Value> {
        let levels = ["DEBUG", "INFO", "WARN", "ERROR"];
        let rank = |level: &str| levels.iter().position(|name| *name == level);
        let wanted = rank(level);
        let found = self.records()?.into_iter().find(|record| {
            let text = record.to_string().to_lowercase();
            record["level"].as_str().and_then(rank) >= wanted
                && words.iter().all(|word| text.contains(&word.to_lowercase()))
        });
        found.ok_or_else(|| {
            anyhow::anyhow!(
                "no log line ({level}) with {words:?}; the log:\n{}",
                self.lines().join("\n")
            )
        })
    }
}

impl Daemon {
    /// Starts `ttlc SUBCOMMAND` with exactly these settings; the log goes on where it is.
    pub(crate) fn start(
        settings: &[(String, String)],
        log: &Log,
        subcommand: &str,
    ) -> anyhow::Result<Self> {
        let process = start(settings, log, subcommand)?;
        Ok(Self {
            process,
            log: log.clone(),
        })
    }

    /// Runs `ttlc migrate` to its end.
    pub(crate) fn migrate(settings: &[(String, String)], log: &Log) -> anyhow::Result<ExitStatus> {
        start(settings, log, "migrate")?.wait(Some(PATIENCE))
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        self.process.wait(Some(limit))
    }

    /// How it ended, when it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.process.ended()
    }

    /// Holds it (SIGSTOP), or lets it go on (SIGCONT).
    pub(crate) fn hold(&self, hold: bool) {
        let pid = self.process.id();
        let done = if hold { pause(pid) } else { resume(pid) };
        done.expect("it runs");
    }

    /// Sends it a signal (`TERM`); how it takes it is its own business.
    pub(crate) fn signal(&self, name: &str) {
        let done = Command::new("kill")
            .args([&format!("-{name}"), &self.process.id().to_string()])
            .status();
        assert!(done.expect("kill runs").success(), "{name}");
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// SIGTERM; how it ended, and whether in time.
    pub(crate) fn stop(mut self) -> anyhow::Result<ExitStatus> {
        self.process.stop();
        match self.process.ended() {
            Some(status) => Ok(status),
            None => bail!(
                "the daemon does not stop; its log:\n{}",
                self.log.lines().join("\n")
            ),
        }
    }

    /// SIGTERM: it has to end by itself, with success and within this time.
    pub(crate) fn stop_within(self, within: Duration) {
        let (log, begun) = (self.log.clone(), Instant::now());
        let status = self.stop().expect("it stops");
        let took = begun.elapsed();
        assert!(
            status.success() && took < within,
            "{status} after {took:?}; the log:\n{}",
            log.lines().join("\n")
        );
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.process.kill();
    }

    /// The same, and how it ended: it may have been faster.
    pub(crate) fn kill_and_tell(&mut self) -> ExitStatus {
        self.process.kill();
        self.process.ended().expect("nothing survives a kill")
    }
}

fn start(settings: &[(String, String)], log: &Log, subcommand: &str) -> anyhow::Result<Process> {
    let program = project::program("ttlc");
    ensure!(
        project::is_program(&program),
        "{} is not built: cargo build -p daemon -p tests --bins",
        program.display()
    );
    let mut command = Command::new(program);
    // Nothing from the developer's own environment may change a test.
    command
        .env_clear()
        // Unless the settings say so: no user's folder is ours.
        .env("SPOOL_DIR", "off")
        .envs(settings.iter().cloned())
        .arg(subcommand);
    let sink = log.clone();
    Process::start("ttlc", command, Box::new(move |line| sink.push(line)))
}

/// How long a whole capture may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
