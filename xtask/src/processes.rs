//! Child processes that never outlive us.
//!
//! In: a command. Out: its lines to whoever wants them, and its end. Each child leads a process
//! group of its own, so that what it starts (wrangler's workerd) is stopped with it. It is stopped
//! gently, then killed, when its [`Process`] is dropped: at a normal end, an error, a panic, Ctrl-C
//! or SIGTERM. When we ourselves die without a chance to do so (`kill -9`), a watchdog, a small
//! shell that holds the other end of a pipe, does it instead (`watch.sh`).

mod table;

use std::{
    collections::VecDeque,
    fmt,
    io::{BufRead, BufReader, Read, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

pub use self::table::{command_line, is_alive};
use crate::progress;

/// How long a child may take to stop by itself.
const GRACE: Duration = Duration::from_secs(8);
/// How often a waiting loop looks again.
pub(crate) const TICK: Duration = Duration::from_millis(20);
/// How many of its last lines a process keeps for an error message.
const TAIL: usize = 40;

/// Set by the first Ctrl-C or SIGTERM.
static STOPPING: OnceLock<Arc<AtomicBool>> = OnceLock::new();
/// Set by [`cancel`].
static CANCELLED: AtomicBool = AtomicBool::new(false);

/// From here on Ctrl-C and SIGTERM ask every loop here to stop, instead of ending the program at
/// once. A second one ends it at once, and the watchdog cleans up.
pub fn stop_on_signals() -> Result<()> {
    let flag = STOPPING.get_or_init(Arc::default);
    for signal in [
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGTERM,
        signal_hook::consts::SIGHUP,
    ] {
        signal_hook::flag::register_conditional_default(signal, Arc::clone(flag))?;
        signal_hook::flag::register(signal, Arc::clone(flag))?;
    }
    Ok(())
}

/// How long a process may take until none of its threads runs any more.
const PAUSE: Duration = Duration::from_secs(20);

/// Holds a process (SIGSTOP), and returns when none of its threads runs any more: on a busy machine
/// the signal alone takes a moment, in which the process goes on working. Where the system does not
/// tell, it returns at once.
///
/// # Errors
/// When there is no such process, or it does not stop.
pub fn pause(pid: u32) -> Result<()> {
    kill_process(self::pid(pid)?, Signal::STOP)?;
    let begun = Instant::now();
    while let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) {
        let runs = threads.flatten().any(|thread| {
            // "pid (name) state …"; a thread that has just ended has none.
            let line = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            let state = line
                .rsplit_once(") ")
                .and_then(|(_, rest)| rest.chars().next());
            state.is_some_and(|state| state != 'T')
        });
        if !runs {
            break;
        }
        if begun.elapsed() > PAUSE {
            bail!("process {pid} does not stop");
        }
        thread::sleep(TICK);
    }
    Ok(())
}

/// Lets a process go on that was held.
///
/// # Errors
/// When there is no such process.
pub fn resume(pid: u32) -> Result<()> {
    Ok(kill_process(self::pid(pid)?, Signal::CONT)?)
}

fn pid(pid: u32) -> Result<Pid> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.context("no number of a process")
}

/// Whether the user asked to stop, or one of several things done side by side has failed.
pub fn stopping() -> bool {
    CANCELLED.load(Ordering::Relaxed)
        || STOPPING
            .get()
            .is_some_and(|flag| flag.load(Ordering::Relaxed))
}

/// Ends everything that is being waited for, for good: one of several things done side by side has
/// failed.
pub fn cancel() {
    CANCELLED.store(true, Ordering::Relaxed);
}

/// An error once the user asked to stop; waiting loops call it.
pub fn check_stopping() -> Result<()> {
    if stopping() {
        return Err(Stopped.into());
    }
    Ok(())
}

/// The user asked to stop (Ctrl-C, SIGTERM).
#[derive(Debug, Clone, Copy)]
pub struct Stopped;

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("stopped")
    }
}

impl std::error::Error for Stopped {}

/// Which signal asks a process to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// SIGTERM, for nearly everything.
    Term,
    /// SIGINT: Postgres then stops at once without waiting for its clients ("fast shutdown").
    Int,
}

impl Ask {
    fn signal(self) -> Signal {
        match self {
            Self::Term => Signal::TERM,
            Self::Int => Signal::INT,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Term => "TERM",
            Self::Int => "INT",
        }
    }
}

/// Takes a process's output line by line (standard output and error together).
pub type Sink = Box<dyn Fn(&str) + Send + Sync>;

/// Shows each line under the part's name.
pub fn shown(part: impl Into<String>) -> Sink {
    let part = part.into();
    Box::new(move |line| progress::part(&part, line))
}

/// Shows nothing; the last lines are still kept for an error message.
pub fn silent() -> Sink {
    Box::new(|_| ())
}

/// A running child and all that it starts.
pub struct Process {
    name: String,
    child: Child,
    group: Pid,
    ask: Ask,
    ended: Option<ExitStatus>,
    tail: Arc<Mutex<VecDeque<String>>>,
    readers: Vec<JoinHandle<()>>,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("name", &self.name)
            .field("id", &self.child.id())
            .finish_non_exhaustive()
    }
}

impl Process {
    /// Starts a child that SIGTERM stops. It gets no standard input.
    pub fn start(name: &str, command: Command, sink: Sink) -> Result<Self> {
        Self::start_with(name, command, sink, Ask::Term)
    }

    /// Starts a child that the given signal stops.
    pub fn start_with(name: &str, mut command: Command, sink: Sink, ask: Ask) -> Result<Self> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = command
            .spawn()
            .with_context(|| format!("can't start {}", command.get_program().display()))?;
        let group = i32::try_from(child.id())
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| anyhow!("process id {} is out of range", child.id()))?;
        let tail = Arc::default();
        let sink = Arc::new(sink);
        let streams: [Option<Box<dyn Read + Send>>; 2] = [
            child.stdout.take().map(|stream| Box::new(stream) as _),
            child.stderr.take().map(|stream| Box::new(stream) as _),
        ];
        let readers = streams
            .into_iter()
            .flatten()
            .map(|stream| read_lines(stream, Arc::clone(&sink), Arc::clone(&tail)))
            .collect();
        // From here on a drop cleans up, so nothing that can fail may stand before.
        let process = Self {
            name: name.to_owned(),
            child,
            group,
            ask,
            ended: None,
            tail,
            readers,
        };
        Watchdog::tell(&format!("add {} {}", group.as_raw_nonzero(), ask.name()))?;
        Ok(process)
    }

    /// The name it was started with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, when it has. What it left behind in its group is stopped then.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none()
            && let Ok(Some(status)) = self.child.try_wait()
        {
            self.ended = Some(status);
            self.stop_group();
            self.finish_reading();
        }
        self.ended
    }

    /// Waits for its end, or stops it when the user asks to stop or `limit` is over.
    pub fn wait(&mut self, limit: Option<Duration>) -> Result<ExitStatus> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            if let Err(stopped) = check_stopping() {
                self.stop();
                return Err(stopped);
            }
            if let Some(limit) = limit
                && started.elapsed() > limit
            {
                self.stop();
                bail!(
                    "{} took longer than {}{}",
                    self.name,
                    progress::seconds(limit),
                    self.last_words()
                );
            }
            thread::sleep(TICK);
        }
    }

    /// Stops it and all that it started: gently, then by force. Does nothing when it has ended.
    pub fn stop(&mut self) {
        if self.ended().is_some() {
            return;
        }
        self.stop_group();
        self.ended = self.child.wait().ok();
        self.finish_reading();
    }

    /// Kills it and all that it started without giving it a chance to tidy up: for tests of a
    /// crash.
    pub fn kill(&mut self) {
        if self.ended().is_none() {
            let _ = kill_process_group(self.group, Signal::KILL);
            self.stop();
        }
    }

    /// Its last lines, indented under a line break, for the end of an error message.
    pub fn last_words(&self) -> String {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.iter()
            .fold(String::new(), |text, line| text + "\n    " + line)
    }

    fn stop_group(&mut self) {
        let group = self.group;
        let _ = kill_process_group(group, self.ask.signal());
        let asked = Instant::now();
        let mut killed = false;
        loop {
            // Reaps the leader: as a zombie it would count as alive.
            if self.ended.is_none()
                && let Ok(Some(status)) = self.child.try_wait()
            {
                self.ended = Some(status);
            }
            if self.ended.is_some() && !table::is_group_alive(group) {
                break;
            }
            if !killed && asked.elapsed() > GRACE {
                let _ = kill_process_group(group, Signal::KILL);
                killed = true;
            }
            // Nothing resists a kill but a process that hangs in the kernel.
            if asked.elapsed() > GRACE + Duration::from_secs(2) {
                break;
            }
            thread::sleep(TICK);
        }
        let _ = Watchdog::tell(&format!("del {}", group.as_raw_nonzero()));
    }

    /// The last lines may still be on their way; a stranger who holds the pipe must not block us.
    fn finish_reading(&mut self) {
        let started = Instant::now();
        for reader in self.readers.drain(..) {
            while !reader.is_finished() && started.elapsed() < Duration::from_millis(500) {
                thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Runs a command to its end; an error holds its last lines when nobody saw them.
pub fn run(name: &str, command: Command) -> Result<()> {
    run_into(name, command, shown(name), false)
}

/// Runs a command without showing its output unless it fails.
pub fn run_silently(name: &str, command: Command) -> Result<()> {
    run_into(name, command, silent(), true)
}

/// Runs a command and hands its lines to `sink`.
pub fn run_into(name: &str, command: Command, sink: Sink, say_last_words: bool) -> Result<()> {
    let mut process = Process::start(name, command, sink)?;
    let status = process.wait(None)?;
    if status.success() {
        return Ok(());
    }
    let words = if say_last_words {
        process.last_words()
    } else {
        String::new()
    };
    bail!("{name} failed ({status}){words}")
}

/// What a short command prints on standard output, trimmed. For questions such as `--version`.
pub fn answer(mut command: Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("can't start {}", command.get_program().display()))?;
    if !output.status.success() {
        bail!(
            "{} failed ({}): {}",
            command.get_program().display(),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Ends a process that an earlier run of ours left behind: gently, then by force.
pub fn end_leftover(id: u32, ask: Ask) {
    let Some(pid) = i32::try_from(id).ok().and_then(Pid::from_raw) else {
        return;
    };
    let _ = rustix::process::kill_process(pid, ask.signal());
    let asked = Instant::now();
    while is_alive(id) && asked.elapsed() < GRACE {
        thread::sleep(TICK);
    }
    if is_alive(id) {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
        while is_alive(id) && asked.elapsed() < GRACE + Duration::from_secs(2) {
            thread::sleep(TICK);
        }
    }
}

fn read_lines(
    stream: Box<dyn Read + Send>,
    sink: Arc<Sink>,
    tail: Arc<Mutex<VecDeque<String>>>,
) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut bytes = Vec::new();
        // Bytes, not `lines()`: a line that is no UTF-8 must not end the reading.
        while let Ok(1..) = reader.read_until(b'\n', &mut bytes) {
            let text = String::from_utf8_lossy(&bytes);
            // A progress bar redraws its line; the last drawing counts.
            let line = text.trim_end().rsplit('\r').next().unwrap_or_default();
            {
                let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
                if tail.len() == TAIL {
                    tail.pop_front();
                }
                tail.push_back(line.to_owned());
            }
            sink(line);
            bytes.clear();
        }
    })
}

/// A folder of our own in the system's temporary folder, removed when dropped, and by the watchdog
/// when we die first.
#[derive(Debug)]
pub struct TemporaryFolder(tempfile::TempDir);

impl TemporaryFolder {
    /// Makes `ttlc-NAME-RANDOM`, for our user only.
    pub fn new(name: &str) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix(&format!("ttlc-{name}-"))
            .tempdir()
            .context("can't make a temporary folder")?;
        Watchdog::tell(&format!("dir {}", folder.path().display()))?;
        Ok(Self(folder))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        let path: PathBuf = self.0.path().to_path_buf();
        // A server that has just ended may leave files of another user (root may remove them).
        let _ = std::fs::remove_dir_all(&path);
        let _ = Watchdog::tell(&format!("undir {}", path.display()));
    }
}

/// The shell that outlives us for a moment.
struct Watchdog {
    pipe: ChildStdin,
    /// Kept: dropping it does not end the shell, the closed pipe does.
    _shell: Child,
}

impl Watchdog {
    fn tell(message: &str) -> Result<()> {
        static WATCHDOG: Mutex<Option<Watchdog>> = Mutex::new(None);
        let mut guard = WATCHDOG.lock().unwrap_or_else(PoisonError::into_inner);
        if guard.is_none() {
            *guard = Some(Self::start()?);
        }
        if let Some(watchdog) = guard.as_mut() {
            writeln!(watchdog.pipe, "{message}").context("the watchdog process is gone")?;
        }
        Ok(())
    }

    fn start() -> Result<Self> {
        let mut shell = Command::new("/bin/sh")
            .args(["-c", include_str!("watch.sh"), "ttlc-watchdog"])
            .current_dir("/")
            .stdin(Stdio::piped())
            // Nothing of ours may stay open in it: a reader of our output would wait for it.
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("can't start /bin/sh")?;
        let pipe = shell.stdin.take().context("the watchdog has no pipe")?;
        Ok(Self {
            pipe,
            _shell: shell,
        })
    }
}

#[cfg(test)]
mod tests;
