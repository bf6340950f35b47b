//! The product's running parts: the Worker under `wrangler dev`, the daemon, the stand-in for
//! TikTok.
//!
//! In: what is built already, and the URLs of Redis and Postgres. Out: processes that are ready,
//! with the address they answer at. Each stops when dropped. Several stacks can run side by side:
//! ports are free ones and all state is in the stack's own folders.

use std::{
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    edge, http, node, ports,
    processes::{self, Process, Sink, TemporaryFolder},
    progress, project,
};

/// How long the Worker may take to answer.
const WORKER_START: Duration = Duration::from_secs(90);
/// How long the stand-in may take to listen.
const STAND_IN_START: Duration = Duration::from_secs(30);

/// How to start the Worker.
pub struct WorkerOptions {
    /// Where to listen on 127.0.0.1; a free port when `None`.
    pub port: Option<u16>,
    /// Redis with the streams.
    pub redis_url: String,
    /// Postgres with the tables.
    pub database_url: String,
    /// Where Durable Objects keep their storage; a temporary folder when `None`.
    pub state: Option<PathBuf>,
    /// More variables for the Worker, such as `STREAM_SHARDS`.
    pub vars: Vec<(String, String)>,
    /// Who gets its lines.
    pub sink: Sink,
}

impl WorkerOptions {
    /// With a free port, temporary state, no output.
    pub fn new(redis_url: impl Into<String>, database_url: impl Into<String>) -> Self {
        Self {
            port: None,
            redis_url: redis_url.into(),
            database_url: database_url.into(),
            state: None,
            vars: Vec::new(),
            sink: processes::silent(),
        }
    }
}

/// The Worker, ready when started: `/health` has answered.
#[derive(Debug)]
pub struct Worker {
    // Dropped first, before its folder goes.
    process: Process,
    port: u16,
    _private: TemporaryFolder,
}

impl Worker {
    /// Serves what [`edge::build`] made, by `wrangler dev`, on 127.0.0.1.
    pub fn start(options: WorkerOptions) -> Result<Self> {
        let main = edge::main_module();
        if !main.is_file() {
            bail!("the Worker is not built: run `cargo xtask edge`");
        }
        let private = TemporaryFolder::new("worker")?;
        let port = options.port.map_or_else(ports::free, Ok)?;
        let command = worker_command(&options, port, private.path())?;
        let mut worker = Self {
            process: Process::start("worker", command, options.sink)?,
            port,
            _private: private,
        };
        worker.wait_ready()?;
        Ok(worker)
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The process, to watch its end.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    fn wait_ready(&mut self) -> Result<()> {
        let started = Instant::now();
        loop {
            let answer = http::get(self.port, "/health");
            if let Ok((200, _)) = answer {
                return Ok(());
            }
            if let Some(status) = self.process.ended() {
                bail!(
                    "the Worker ended at once ({status}){}",
                    self.process.last_words()
                );
            }
            if started.elapsed() > WORKER_START {
                let said = match answer {
                    Ok((_, text)) => text,
                    Err(error) => error.to_string(),
                };
                bail!(
                    "the Worker is not ready after {} s, /health says: {said}{}",
                    WORKER_START.as_secs(),
                    self.process.last_words()
                );
            }
            processes::check_stopping()?;
            thread::sleep(Duration::from_millis(100));
        }
    }
}

fn worker_command(options: &WorkerOptions, port: u16, private: &Path) -> Result<Command> {
    let state = options
        .state
        .clone()
        .unwrap_or_else(|| private.join("state"));
    fs::create_dir_all(&state).with_context(|| format!("making {}", state.display()))?;
    let config = private.join("config");
    fs::create_dir_all(&config)?;

    let mut vars = vec![("REDIS_URL".to_owned(), options.redis_url.clone())];
    vars.extend(options.vars.iter().cloned());
    // A file for us alone: a command line is there for everybody to read.
    let file = private.join("vars.env");
    let mut text = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&file)?;
    for (name, value) in &vars {
        writeln!(text, "{name}='{}'", literal(value))?;
    }

    let mut command = Command::new(node::node());
    command
        .arg(node::script("wrangler/bin/wrangler.js"))
        .args(["dev", "--local", "--ip", "127.0.0.1"])
        .args(["--port", &port.to_string()])
        .args(["--inspector-port", &ports::free()?.to_string()])
        .arg("--persist-to")
        .arg(&state)
        .arg("--env-file")
        .arg(&file)
        .args(["--show-interactive-dev-session", "false"])
        .current_dir(project::root())
        // Logs, telemetry consent and the registry of running Workers would go to the home folder.
        .env("XDG_CONFIG_HOME", &config)
        .env("WRANGLER_LOG_PATH", private.join("logs"))
        .env("WRANGLER_REGISTRY_PATH", private.join("registry"))
        .env("WRANGLER_SEND_METRICS", "false")
        .env("WRANGLER_SEND_ERROR_REPORTS", "false")
        .env("WRANGLER_HIDE_BANNER", "true")
        // Else it asks Cloudflare for sample data of `request.cf`.
        .env("CLOUDFLARE_CF_FETCH_ENABLED", "false")
        .env(
            "CLOUDFLARE_HYPERDRIVE_LOCAL_CONNECTION_STRING_HYPERDRIVE",
            &options.database_url,
        )
        .env("CI", "1")
        // On CI it colours its lines whatever reads them.
        .env("NO_COLOR", "1")
        .env("FORCE_COLOR", "0")
        .env_remove("CLOUDFLARE_API_TOKEN")
        .env_remove("CLOUDFLARE_ACCOUNT_ID");
    Ok(command)
}

/// A value inside single quotes that wrangler's reader gives back unchanged. What quotes and `$`
/// would become is written in the way URLs allow.
fn literal(value: &str) -> String {
    value
        .replace('$', "%24")
        .replace('\'', "%27")
        .replace(['\n', '\r'], "")
}

/// Lines of wrangler that matter: what the Worker logs, warnings and errors. The rest is the banner,
/// the table of bindings and a line for each request. Cron not firing locally is known: the relay
/// is started by requests too.
pub fn matters(line: &str) -> bool {
    let line = line.trim();
    if line.contains("Scheduled Workers are not automatically triggered") {
        return false;
    }
    line.starts_with('{')
        || line.contains("✘")
        || line.contains("▲")
        || ["error", "Error", "ERROR", "WARN", "panicked", "Uncaught"]
            .iter()
            .any(|word| line.contains(word))
}

/// The daemon, all stages in one process.
#[derive(Debug)]
pub struct Daemon {
    process: Process,
}

impl Daemon {
    /// Starts `ttlc run`. `command` must be [`ttlc`] with the environment it shall have.
    pub fn start(mut command: Command, sink: Sink) -> Result<Self> {
        command.arg("run");
        Ok(Self {
            process: Process::start("daemon", command, sink)?,
        })
    }

    /// The process, to watch its end.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// The daemon's program with its two servers, still without a subcommand.
pub fn ttlc(program: &Path, redis_url: &str, database_url: &str) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(project::root())
        .env("REDIS_URL", redis_url)
        .env("DATABASE_URL", database_url);
    command
}

/// The stand-in for TikTok's and Euler's servers, playing the recorded captures.
#[derive(Debug)]
pub struct StandIn {
    process: Process,
    url: String,
}

impl StandIn {
    /// The creators it knows.
    pub const CREATORS: &str = "room-a,room-b,room-c,room-d,mixed";
    /// The key that its Euler side takes. No secret: it opens nothing but the stand-in.
    const EULER_KEY: &str = "stand-in";

    /// Starts it on a free port. Holes in the captures are cut to `max_gap`.
    pub fn start(program: &Path, max_gap: Duration, sink: Sink) -> Result<Self> {
        let mut command = Command::new(program);
        command
            .args(["--listen", "127.0.0.1:0", "--captures"])
            .arg(project::root().join("tests/fixtures/captures"))
            .args(["--max-gap-ms", &max_gap.as_millis().to_string()])
            .args(["--euler-key", Self::EULER_KEY])
            .current_dir(project::root());
        progress::apply_colours(&mut command);
        let (tell, told) = mpsc::channel();
        let sink: Sink = Box::new(move |line| {
            if let Some((_, url)) = line.split_once("listening on ") {
                let _ = tell.send(url.trim().to_owned());
            }
            sink(line);
        });
        let mut process = Process::start("tiktok", command, sink)?;
        let started = Instant::now();
        loop {
            if let Ok(url) = told.recv_timeout(Duration::from_millis(50)) {
                return Ok(Self { process, url });
            }
            if let Some(status) = process.ended() {
                bail!(
                    "the stand-in ended at once ({status}){}",
                    process.last_words()
                );
            }
            if started.elapsed() > STAND_IN_START {
                bail!("the stand-in does not listen{}", process.last_words());
            }
            processes::check_stopping()?;
        }
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Points the daemon at it.
    pub fn apply(&self, daemon: &mut Command) {
        for name in ["TIKTOK_WEB_URL", "TIKTOK_WEBCAST_URL", "EULER_API_URL"] {
            daemon.env(name, &self.url);
        }
        daemon
            .env("EULER_WS_URL", self.url.replacen("http", "ws", 1))
            // The user's own key is none of its business.
            .env("EULER_API_KEY", Self::EULER_KEY)
            .env("TIKTOK_UNIQUE_ID", Self::CREATORS)
            // Its creators are offline for seconds, not for hours.
            .env("OFFLINE_POLL_SECONDS", "2")
            // Meant for TikTok, not for a neighbour on this machine.
            .env_remove("UPSTREAM_PROXY");
    }

    /// The process, to watch its end.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// Builds the daemon and the stand-in. Cargo does nothing when nothing changed.
pub fn build_programs() -> Result<()> {
    let mut command = Command::new(project::cargo());
    command
        // The whole workspace chooses the features, as for the tests: else half would be compiled
        // twice.
        .args(["build", "--workspace", "--exclude", "edge"])
        .args(["--bin", "ttlc", "--bin", "upstream"])
        .current_dir(project::root());
    progress::step("building the daemon and the stand-in", || {
        processes::run("cargo", command)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_survives_the_variables_file() {
        assert_eq!(literal("redis://u:a$b'c@h:1"), "redis://u:a%24b%27c@h:1");
    }

    #[test]
    fn logs_matter_and_the_banner_does_not() {
        assert!(matters(r#"{"level":"INFO","message":"relay connected"}"#));
        assert!(matters("✘ [ERROR] no such module"));
        assert!(!matters("[wrangler:info] GET /health 200 OK (3ms)"));
        assert!(!matters(
            "  env.RELAY (Relay)      Durable Object      local"
        ));
    }
}
