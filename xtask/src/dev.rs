//! `cargo xtask dev`: sets up and runs the whole product on this machine.
//!
//! In: settings from the environment and `.env`. Out: the API and the page on `API_PORT`, logs of
//! all parts, until Ctrl-C. Redis and Postgres are private ones under `.data/` unless `REDIS_URL`
//! or `DATABASE_URL` name others, which are used and never stopped. When a part dies, it says so
//! with that part's last lines, stops everything else and fails. However it ends, nothing of it
//! stays behind (see [`processes`]); the data does, for the next start.

use std::{
    fs::{self, File},
    io::{Read, Write},
    path::Path,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};

use crate::{
    edge, node, ports,
    processes::{self, Process, Sink, Stopped},
    progress, project,
    servers::{self, Durability, PrivatePostgres, PrivateRedis},
    settings::Settings,
    stack::{self, Daemon, StandIn, Worker, WorkerOptions},
    ui,
};

/// Captures have holes of days; the stand-in cuts them to this.
const MAX_GAP: Duration = Duration::from_secs(2);

/// What the user asked for.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Start from empty data.
    pub reset: bool,
    /// Show wrangler's own lines and those of the servers too.
    pub verbose: bool,
}

/// Runs until Ctrl-C (then it returns normally) or until a part dies.
pub fn run(options: Options) -> Result<()> {
    let started = Instant::now();
    let data = project::data();
    let _only_one = lock(&data)?;
    let settings = Settings::read(&project::root())?;
    let port = settings.api_port()?;
    if ports::taken(port) {
        bail!(
            "port {port} is taken by another program: set API_PORT, for example `API_PORT={} cargo xtask dev`",
            port.saturating_add(1)
        );
    }
    if options.reset {
        reset(&data)?;
    }
    let result = prepare().and_then(|()| {
        let mut running = Running::start(&settings, port, &data, options.verbose)?;
        progress::line(&format!(
            "{} after {}: open {}   {}",
            progress::paint(32, "ready"),
            progress::seconds(started.elapsed()),
            progress::paint(1, &format!("http://localhost:{port}")),
            progress::paint(90, "(Ctrl-C stops everything)"),
        ));
        let result = running.watch();
        progress::line("stopping");
        result
    });
    match result {
        Err(error) if error.is::<Stopped>() => {
            progress::line("stopped");
            Ok(())
        }
        other => other,
    }
}

/// Builds everything, native and wasm side by side, and stops all when one fails.
fn prepare() -> Result<()> {
    let first_error = Mutex::new(None);
    let attempt = |work: &dyn Fn() -> Result<()>| {
        if let Err(error) = work() {
            processes::cancel();
            let mut first = first_error
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            // The others then end as "stopped", which is not the reason.
            if first.is_none() {
                *first = Some(error);
            }
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| attempt(&|| stack::build_programs()));
        scope.spawn(|| {
            attempt(&|| {
                node::install_edge_tools()?;
                ui::build()?;
                edge::build(edge::Profile::Dev)
            });
        });
    });
    first_error
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .map_or(Ok(()), Err)
}

/// All parts. They stop in this order: first those that read, last the servers that keep.
struct Running {
    worker: Worker,
    daemon: Daemon,
    stand_in: Option<StandIn>,
    postgres: Option<PrivatePostgres>,
    redis: Option<PrivateRedis>,
}

impl Running {
    fn start(settings: &Settings, port: u16, data: &Path, verbose: bool) -> Result<Self> {
        let server_sink = |name: &'static str| -> Sink {
            if verbose {
                processes::shown(name)
            } else {
                processes::silent()
            }
        };
        let redis = match settings.get("REDIS_URL") {
            Some(_) => None,
            None => Some(progress::step("starting a private Redis", || {
                // What the daemon has acknowledged must survive a crash of this machine.
                PrivateRedis::kept(&data.join("redis"), Durability::Safe, server_sink("redis"))
            })?),
        };
        let postgres = match settings.get("DATABASE_URL") {
            Some(_) => None,
            None => Some(progress::step("starting a private Postgres", || {
                PrivatePostgres::kept(
                    &data.join("postgres"),
                    Durability::Safe,
                    server_sink("postgres"),
                )
            })?),
        };
        let url = |name: &str, private: Option<String>| {
            settings
                .get(name)
                .or(private)
                .with_context(|| format!("{name} is not set"))
        };
        let redis_url = url("REDIS_URL", redis.as_ref().map(PrivateRedis::url))?;
        let database_url = url("DATABASE_URL", postgres.as_ref().map(PrivatePostgres::url))?;

        let ttlc = || {
            let mut command = stack::ttlc(&project::program("ttlc"), &redis_url, &database_url);
            settings.apply(&mut command);
            command
                .env("REDIS_URL", &redis_url)
                .env("DATABASE_URL", &database_url);
            if settings.get("SPOOL_DIR").is_none() {
                // Beside the private Redis: what waits belongs to that one.
                command.env("SPOOL_DIR", data.join("spool"));
            }
            if settings.get("LOG_FORMAT").is_none() {
                command.env("LOG_FORMAT", "text");
            }
            progress::apply_colours(&mut command);
            command
        };
        progress::step("applying the migrations", || {
            let mut migrate = ttlc();
            migrate.arg("migrate");
            processes::run("migrate", migrate)
        })?;

        let stand_in = match settings.get("TIKTOK_UNIQUE_ID") {
            Some(_) => None,
            None => Some(progress::step(
                "starting the stand-in for TikTok (TIKTOK_UNIQUE_ID is not set)",
                || {
                    StandIn::start(
                        &project::program("upstream"),
                        MAX_GAP,
                        processes::shown("tiktok"),
                    )
                },
            )?),
        };
        let mut command = ttlc();
        if let Some(stand_in) = &stand_in {
            stand_in.apply(&mut command);
        }
        let daemon = Daemon::start(command, processes::shown("daemon"))?;

        let mut vars = Vec::new();
        for name in ["STREAM_SHARDS", "LOG_LEVEL"] {
            vars.extend(settings.get(name).map(|value| (name.to_owned(), value)));
        }
        let worker = progress::step("starting the Worker (wrangler dev)", || {
            Worker::start(WorkerOptions {
                port: Some(port),
                state: Some(data.join("worker")),
                vars,
                sink: Box::new(move |line| {
                    if verbose || stack::matters(line) {
                        progress::part("worker", line);
                    }
                }),
                ..WorkerOptions::new(redis_url, database_url)
            })
        })?;
        Ok(Self {
            worker,
            daemon,
            stand_in,
            postgres,
            redis,
        })
    }

    /// Returns when the user stops it, and fails when a part ends by itself.
    fn watch(&mut self) -> Result<()> {
        loop {
            let parts: [Option<&mut Process>; 5] = [
                Some(self.worker.process()),
                Some(self.daemon.process()),
                self.stand_in.as_mut().map(StandIn::process),
                self.postgres.as_mut().map(PrivatePostgres::process),
                self.redis.as_mut().map(PrivateRedis::process),
            ];
            for part in parts.into_iter().flatten() {
                if let Some(status) = part.ended() {
                    // Ctrl-C in a terminal may reach a part before it reaches us.
                    processes::check_stopping()?;
                    return Err(anyhow!(
                        "{} has ended by itself ({status}); its last lines:{}",
                        part.name(),
                        part.last_words()
                    ));
                }
            }
            processes::check_stopping()?;
            thread::sleep(Duration::from_millis(100));
        }
    }
}

/// One `dev` per checkout. The lock ends with us, however we end.
fn lock(data: &Path) -> Result<File> {
    fs::create_dir_all(data).with_context(|| format!("making {}", data.display()))?;
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(data.join(LOCK))?;
    if file.try_lock().is_err() {
        let mut holder = String::new();
        file.read_to_string(&mut holder)?;
        bail!(
            "`cargo xtask dev` already runs in this checkout (process {}): stop that one first",
            holder.trim()
        );
    }
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}

/// Name of the lock file in the data folder.
const LOCK: &str = "dev.lock";

/// Removes all data but the lock that we hold.
fn reset(data: &Path) -> Result<()> {
    progress::step("removing the data of earlier runs", || {
        servers::remove_kept(&data.join("redis"))?;
        servers::remove_kept(&data.join("postgres"))?;
        for entry in fs::read_dir(data)?.flatten() {
            if entry.file_name() == LOCK {
                continue;
            }
            let path = entry.path();
            if path.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            }
            .with_context(|| format!("removing {}", path.display()))?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_start_names_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let first = lock(folder.path()).unwrap();
        let error = lock(folder.path()).unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        drop(first);
        lock(folder.path()).unwrap();
    }

    #[test]
    fn reset_leaves_the_lock_alone() {
        let folder = tempfile::tempdir().unwrap();
        let _lock = lock(folder.path()).unwrap();
        fs::create_dir_all(folder.path().join("redis/appendonlydir")).unwrap();
        fs::write(folder.path().join("other"), "").unwrap();
        reset(folder.path()).unwrap();
        let left: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, [LOCK]);
    }
}
