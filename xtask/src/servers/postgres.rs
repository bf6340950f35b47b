//! A private Postgres: its own cluster, 127.0.0.1 only, a generated password.
//!
//! Postgres refuses to run as root, so as root it runs as the user `postgres`, with its folder where
//! that user can reach it.

use std::{
    fs,
    io::Write,
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use sha2::{Digest, Sha256};

use super::{Durability, Folder, PORTS, wait_ready};
use crate::{
    packages, ports,
    processes::{self, Ask, Process, Sink, TemporaryFolder},
    progress, project,
};

/// Role and database.
const NAME: &str = "ttlc";
/// The server's log says it so when somebody else has taken the port.
const PORT_TAKEN: &str = "Address already in use";
/// And so when processes of a killed server are still there.
const STILL_IN_USE: &str = "is still in use";

/// A running Postgres of our own.
#[derive(Debug)]
pub struct PrivatePostgres {
    // Dropped first, before its folder goes.
    pub(super) process: Process,
    port: u16,
    pub(super) password: String,
    durability: Durability,
    pub(super) folder: Folder,
}

impl PrivatePostgres {
    /// Starts one with a new cluster in a temporary folder.
    pub fn temporary(durability: Durability) -> Result<Self> {
        let folder = TemporaryFolder::new("postgres")?;
        let user = Runner::find()?;
        if !user.reaches(folder.path()) {
            bail!(
                "the user postgres can't reach {}: set TMPDIR to a folder that all users can enter",
                folder.path().display()
            );
        }
        Self::start(
            Folder::Temporary(folder),
            durability,
            None,
            processes::silent(),
        )
    }

    /// Starts one whose data stays in `folder`, or, where the user `postgres` can't reach that
    /// (root's home folder), in the folder of [`elsewhere`].
    pub fn kept(folder: &Path, durability: Durability, sink: Sink) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let mut folder = folder
            .canonicalize()
            .with_context(|| format!("finding {}", folder.display()))?;
        if !Runner::find()?.reaches(&folder) {
            folder = elsewhere(&folder);
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o711)
                .create(&folder)
                .with_context(|| format!("making {}", folder.display()))?;
        }
        end_leftover(&folder.join("data"));
        Self::start(Folder::Kept(folder), durability, None, sink)
    }

    /// `postgres://ttlc:PASSWORD@127.0.0.1:PORT/ttlc`, for the owner of everything in it.
    pub fn url(&self) -> String {
        format!(
            "postgres://{NAME}:{}@127.0.0.1:{}/{NAME}",
            self.password, self.port
        )
    }

    /// The port it listens on; the same after a [`restart`](Self::restart).
    pub fn port(&self) -> u16 {
        self.port
    }

    /// All of the database as SQL, as `pg_dump` writes it.
    pub fn dump(&self) -> Result<Vec<u8>> {
        let mut dump = Command::new(Programs::find(None)?.beside("pg_dump")?);
        dump.arg(self.url()).stderr(Stdio::piped());
        let dumped = dump.output().context("cannot start pg_dump")?;
        ensure!(
            dumped.status.success(),
            "pg_dump: {}",
            String::from_utf8_lossy(&dumped.stderr)
        );
        Ok(dumped.stdout)
    }

    /// Puts what [`Self::dump`] wrote in place of all that the database has.
    pub fn restore(&self, dump: &[u8]) -> Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        fs::write(&file, dump)?;
        let url = self.url();
        let other = url
            .strip_suffix(NAME)
            .map(|server| format!("{server}postgres"))
            .context("the address has no database")?;
        let psql = |url: &str, what: &[&std::ffi::OsStr]| -> Result<()> {
            let mut psql = Command::new(Programs::find(None)?.beside("psql")?);
            psql.arg(url)
                .args(["--quiet", "--no-psqlrc", "--set", "ON_ERROR_STOP=1"])
                .args(what);
            let done = psql.output().context("cannot start psql")?;
            let said = String::from_utf8_lossy(&done.stderr);
            ensure!(done.status.success(), "psql: {said}");
            Ok(())
        };
        for command in [
            format!("DROP DATABASE {NAME} WITH (FORCE)"),
            format!("CREATE DATABASE {NAME}"),
        ] {
            psql(&other, &["--command".as_ref(), command.as_ref()])?;
        }
        psql(&url, &["--file".as_ref(), file.path().as_os_str()])
    }

    /// The server process, to watch its end.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Stops it (`gently`, or as a crash would) and starts it again with the same data and port.
    pub fn restart(self, gently: bool) -> Result<Self> {
        self.stop(gently)?.start_again()
    }

    /// Stops it (`gently`, or as a crash would); its data and port stay for
    /// [`StoppedPostgres::start_again`].
    pub fn stop(mut self, gently: bool) -> Result<StoppedPostgres> {
        if gently {
            self.process.stop();
        } else {
            self.process.kill();
        }
        Ok(StoppedPostgres {
            folder: self.folder,
            durability: self.durability,
            port: self.port,
        })
    }

    fn start(
        folder: Folder,
        durability: Durability,
        port: Option<u16>,
        sink: Sink,
    ) -> Result<Self> {
        let runner = Runner::find()?;
        let data = folder.path().join("data");
        let programs = Programs::find(made_by(&data).as_deref())?;
        let password = cluster(&runner, &programs, folder.path(), durability)?;
        clear_stale_lock(&data);
        let sink = Arc::new(sink);
        let mut tries = 0;
        loop {
            tries += 1;
            let chosen = port.map_or_else(ports::free, Ok)?;
            let sink = Arc::clone(&sink);
            let mut command = runner.command(&programs.postgres);
            command.arg("-D").arg(&data);
            for setting in settings(durability, chosen) {
                command.arg("-c").arg(setting);
            }
            let mut process = Process::start_with(
                "postgres",
                command,
                Box::new(move |line| sink(line)),
                Ask::Int,
            )?;
            match wait_ready(&mut process, |process| is_ready(&data, process.id())) {
                Ok(()) => {
                    return Ok(Self {
                        process,
                        port: chosen,
                        password,
                        durability,
                        folder,
                    });
                }
                Err(error) => {
                    let words = process.last_words();
                    let taken = words.contains(PORT_TAKEN);
                    // After a kill the old server's children take a moment to notice.
                    let lingering = words.contains(STILL_IN_USE);
                    if !(taken && tries < PORTS || lingering && tries < 50) {
                        return Err(error);
                    }
                    if lingering {
                        thread::sleep(Duration::from_millis(100));
                    }
                }
            }
        }
    }
}

/// A Postgres that was stopped and can start again.
#[derive(Debug)]
pub struct StoppedPostgres {
    folder: Folder,
    durability: Durability,
    port: u16,
}

impl StoppedPostgres {
    /// Starts it again with the same data on the same port.
    pub fn start_again(self) -> Result<PrivatePostgres> {
        PrivatePostgres::start(
            self.folder,
            self.durability,
            Some(self.port),
            processes::silent(),
        )
    }
}

/// Where the data of `folder` is when the user `postgres` can't reach `folder` itself: under
/// `/var/tmp`, per user and per checkout.
pub(super) fn elsewhere(folder: &Path) -> PathBuf {
    let hash = hex::encode(Sha256::digest(folder.as_os_str().as_bytes()));
    PathBuf::from(format!(
        "/var/tmp/ttlc-{}/{}",
        rustix::process::geteuid().as_raw(),
        &hash[..16]
    ))
}

fn settings(durability: Durability, port: u16) -> Vec<String> {
    let mut settings = vec![
        "listen_addresses=127.0.0.1".to_owned(),
        format!("port={port}"),
        // No socket file: its folder would have to exist, and its path may be too long.
        "unix_socket_directories=".to_owned(),
        "password_encryption=scram-sha-256".to_owned(),
        "timezone=UTC".to_owned(),
        "log_timezone=UTC".to_owned(),
        "logging_collector=off".to_owned(),
        "log_min_messages=warning".to_owned(),
    ];
    if durability == Durability::Fast {
        settings.extend(
            [
                "fsync=off",
                "synchronous_commit=off",
                "full_page_writes=off",
                "shared_buffers=64MB",
            ]
            .map(str::to_owned),
        );
    }
    settings
}

/// Makes the cluster unless it is there, and returns its password.
fn cluster(
    runner: &Runner,
    programs: &Programs,
    folder: &Path,
    durability: Durability,
) -> Result<String> {
    let data = folder.join("data");
    let password_file = folder.join("password");
    if data.join("PG_VERSION").is_file() {
        return fs::read_to_string(&password_file)
            .map(|text| text.trim().to_owned())
            .with_context(|| format!("reading {}", password_file.display()));
    }
    let mut random = [0; 24];
    getrandom::fill(&mut random).map_err(|error| anyhow!("no random numbers: {error}"))?;
    let password = hex::encode(random);
    let _ = fs::remove_file(&password_file);
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&password_file)
        .and_then(|mut file| writeln!(file, "{password}"))
        .with_context(|| format!("writing {}", password_file.display()))?;
    runner.own(folder)?;
    runner.own(&password_file)?;

    // Whole or not at all: a crash in the middle leaves `new`, which is made again.
    let new = folder.join("new");
    if new.exists() {
        fs::remove_dir_all(&new)?;
    }
    let mut initdb = runner.command(&programs.initdb);
    initdb
        .arg("-D")
        .arg(&new)
        .args(["-U", NAME, "-E", "UTF8", "--locale=C", "--no-instructions"])
        .arg("--auth=scram-sha-256")
        .arg(format!("--pwfile={}", password_file.display()));
    if durability == Durability::Fast {
        initdb.arg("--no-sync");
    }
    processes::run_silently("initdb", initdb)?;
    let mut single = runner.command(&programs.postgres);
    single
        .args(["--single", "-j", "-D"])
        .arg(&new)
        .arg("postgres")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut single = single.spawn().context("can't start postgres --single")?;
    if let Some(mut input) = single.stdin.take() {
        write!(input, "CREATE DATABASE {NAME};\n\n")?;
    }
    let output = single.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "postgres --single failed ({}): {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    if data.exists() {
        // No PG_VERSION in it: never a cluster.
        fs::remove_dir_all(&data)?;
    }
    fs::rename(&new, &data)?;
    Ok(password)
}

/// The major version that made a cluster.
fn made_by(data: &Path) -> Option<String> {
    fs::read_to_string(data.join("PG_VERSION"))
        .ok()
        .map(|text| text.trim().to_owned())
}

/// The lock file says "ready" in its eighth line, and is our process's own.
fn is_ready(data: &Path, id: u32) -> bool {
    let Ok(text) = fs::read_to_string(data.join("postmaster.pid")) else {
        return false;
    };
    let mut lines = text.lines();
    lines.next().and_then(|line| line.parse().ok()) == Some(id)
        && lines.nth(6).is_some_and(|line| line.trim() == "ready")
}

fn lock_holder(data: &Path) -> Option<u32> {
    let text = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    text.lines().next()?.trim().parse().ok()
}

/// Whether the process is a Postgres on this very folder.
fn serves(id: u32, data: &Path) -> bool {
    let line = processes::command_line(id);
    line.contains("postgres") && line.contains(&*data.to_string_lossy())
}

/// Ends a Postgres that an earlier run started on this very folder and could not stop.
fn end_leftover(data: &Path) {
    if let Some(id) = lock_holder(data)
        && serves(id, data)
    {
        progress::warn(&format!(
            "stopping a Postgres left behind by an earlier run (process {id})"
        ));
        processes::end_leftover(id, Ask::Int);
    }
}

/// After a crash the lock file may name a process id that somebody else has by now; Postgres would
/// then refuse to start.
fn clear_stale_lock(data: &Path) {
    if let Some(id) = lock_holder(data)
        && !serves(id, data)
    {
        let _ = fs::remove_file(data.join("postmaster.pid"));
    }
}

/// The server's programs.
#[derive(Debug)]
struct Programs {
    initdb: PathBuf,
    postgres: PathBuf,
}

impl Programs {
    /// Those of the given major version, else the newest there are.
    fn find(version: Option<&str>) -> Result<Self> {
        let packages: &[&str] = &["postgresql"];
        if let Some(version) = version {
            return Self::folders()
                .into_iter()
                .filter_map(|folder| Self::within(&folder))
                .find(|programs| programs.major().is_some_and(|major| major == version))
                .ok_or_else(|| {
                    anyhow!(
                        "the data was made by Postgres {version}, which is not installed: install postgresql-{version}, or start anew with `cargo xtask dev --reset`"
                    )
                });
        }
        packages::find_or_install("Postgres", packages, || {
            Self::folders()
                .into_iter()
                .find_map(|folder| Self::within(&folder))
        })
    }

    fn within(folder: &Path) -> Option<Self> {
        let programs = Self {
            initdb: folder.join("initdb"),
            postgres: folder.join("postgres"),
        };
        (project::is_program(&programs.initdb) && project::is_program(&programs.postgres))
            .then_some(programs)
    }

    /// Another program of the same installation.
    fn beside(&self, name: &str) -> Result<PathBuf> {
        let server = fs::canonicalize(&self.postgres)?;
        let program = server.with_file_name(name);
        ensure!(
            project::is_program(&program),
            "{} is not there: install Postgres' client programs",
            program.display()
        );
        Ok(program)
    }

    fn major(&self) -> Option<String> {
        let mut command = Command::new(&self.postgres);
        command.arg("--version");
        // "postgres (PostgreSQL) 15.18 (Debian …)"
        let answer = processes::answer(command).ok()?;
        let version = answer.split(' ').nth(2)?;
        let digits = version.find(|c: char| !c.is_ascii_digit());
        Some(version[..digits.unwrap_or(version.len())].to_owned())
    }

    /// Where they may be: `PATH`, Debian's folders, Homebrew's; the newest version first.
    fn folders() -> Vec<PathBuf> {
        let mut folders: Vec<PathBuf> = std::env::var_os("PATH")
            .map(|path| std::env::split_paths(&path).collect())
            .unwrap_or_default();
        let mut versions: Vec<(u32, PathBuf)> = Vec::new();
        for (parent, prefix) in [
            ("/usr/lib/postgresql", ""),
            ("/opt/homebrew/opt", "postgresql@"),
            ("/usr/local/opt", "postgresql@"),
        ] {
            for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
                let name = entry.file_name();
                let number = name.to_str().and_then(|name| name.strip_prefix(prefix));
                if let Some(version) = number.and_then(|number| number.parse().ok()) {
                    versions.push((version, entry.path().join("bin")));
                }
            }
        }
        versions.sort();
        folders.extend(versions.into_iter().rev().map(|(_, folder)| folder));
        folders
    }
}

/// As whom the server runs.
#[derive(Debug)]
struct Runner {
    /// `setpriv` and the user's and group's ids when we are root.
    other: Option<(PathBuf, u32, u32)>,
}

impl Runner {
    fn find() -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self { other: None });
        }
        // The package makes the user.
        Programs::find(None)?;
        let setpriv =
            packages::find_or_install("setpriv", &["util-linux"], || project::in_path("setpriv"))
                .context("Postgres refuses to run as root, and needs setpriv to run as postgres")?;
        let id = |option: &str| -> Result<u32> {
            let mut command = Command::new("id");
            command.args([option, "postgres"]);
            Ok(processes::answer(command)
                .context("Postgres refuses to run as root, and there is no user postgres")?
                .parse()?)
        };
        Ok(Self {
            other: Some((setpriv, id("-u")?, id("-g")?)),
        })
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = match &self.other {
            None => Command::new(program),
            Some((setpriv, user, group)) => {
                let mut command = Command::new(setpriv);
                command
                    .arg(format!("--reuid={user}"))
                    .arg(format!("--regid={group}"))
                    .arg("--clear-groups")
                    .arg(program);
                command
            }
        };
        command.current_dir("/").env("LC_ALL", "C");
        command
    }

    /// Gives a file or folder to the server's user.
    fn own(&self, path: &Path) -> Result<()> {
        if let Some((_, user, group)) = self.other {
            chown(path, Some(user), Some(group))
                .with_context(|| format!("giving {} to postgres", path.display()))?;
        }
        let mode = if path.is_dir() { 0o700 } else { 0o600 };
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        Ok(())
    }

    /// Whether the server's user can enter every folder above `folder`.
    fn reaches(&self, folder: &Path) -> bool {
        let Some((_, user, _)) = &self.other else {
            return true;
        };
        // `folder` itself will be given to that user.
        let Some(parent) = folder.parent() else {
            return false;
        };
        if folder.metadata().is_ok_and(|meta| meta.uid() == *user) {
            return self.enters(folder);
        }
        self.enters(parent)
    }

    fn enters(&self, folder: &Path) -> bool {
        let mut test = self.command(Path::new("/usr/bin/test"));
        test.arg("-x").arg(folder);
        processes::answer(test).is_ok()
    }
}
