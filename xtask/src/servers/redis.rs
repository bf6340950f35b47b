//! A private Redis: append-only file, never evicts, 127.0.0.1 only.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};

use super::{Durability, Folder, PORTS, wait_ready};
use crate::{
    packages, ports,
    processes::{self, Ask, Process, Sink, TemporaryFolder},
    progress, project,
};

/// A running Redis of our own.
#[derive(Debug)]
pub struct PrivateRedis {
    // Dropped first, before its folder goes.
    pub(super) process: Process,
    port: u16,
    durability: Durability,
    pub(super) folder: Folder,
}

impl PrivateRedis {
    /// Starts one with an empty temporary folder.
    pub fn temporary(durability: Durability) -> Result<Self> {
        let folder = Folder::Temporary(TemporaryFolder::new("redis")?);
        Self::start(folder, durability, None, processes::silent())
    }

    /// Starts one whose data stays in `folder`.
    pub fn kept(folder: &Path, durability: Durability, sink: Sink) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let folder = folder
            .canonicalize()
            .with_context(|| format!("finding {}", folder.display()))?;
        end_leftover(&folder);
        Self::start(Folder::Kept(folder), durability, None, sink)
    }

    /// `redis://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The port it listens on; the same after a [`restart`](Self::restart).
    pub fn port(&self) -> u16 {
        self.port
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
    /// [`StoppedRedis::start_again`].
    pub fn stop(mut self, gently: bool) -> Result<StoppedRedis> {
        if gently {
            self.process.stop();
        } else {
            self.process.kill();
        }
        Ok(StoppedRedis {
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
        let server = server()?;
        let sink = Arc::new(sink);
        let mut tries = 0;
        loop {
            tries += 1;
            let chosen = port.map_or_else(ports::free, Ok)?;
            let sink = Arc::clone(&sink);
            let mut process = Process::start(
                "redis",
                command(&server, folder.path(), durability, chosen),
                Box::new(move |line| sink(line)),
            )?;
            match wait_ready(&mut process, |_| answers(chosen)) {
                Ok(()) => {
                    fs::write(
                        folder.path().join(PID_FILE),
                        format!("{} {chosen}\n", process.id()),
                    )?;
                    return Ok(Self {
                        process,
                        port: chosen,
                        durability,
                        folder,
                    });
                }
                Err(error) => {
                    let taken = process.last_words().contains("already in use");
                    if !taken || tries == PORTS {
                        return Err(error);
                    }
                }
            }
        }
    }
}

/// A Redis that was stopped and can start again.
#[derive(Debug)]
pub struct StoppedRedis {
    folder: Folder,
    durability: Durability,
    port: u16,
}

impl StoppedRedis {
    /// Where its data is.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts it again with the same data on the same port.
    pub fn start_again(self) -> Result<PrivateRedis> {
        PrivateRedis::start(
            self.folder,
            self.durability,
            Some(self.port),
            processes::silent(),
        )
    }
}

/// Holds "PROCESS PORT" of the last start: how a leftover is recognised.
const PID_FILE: &str = "ttlc-redis.pid";

fn server() -> Result<PathBuf> {
    packages::find_or_install("redis-server", &["redis-server"], || {
        project::in_path("redis-server").or_else(|| {
            [
                "/opt/homebrew/bin/redis-server",
                "/usr/local/bin/redis-server",
            ]
            .into_iter()
            .map(PathBuf::from)
            .find(|file| project::is_program(file))
        })
    })
}

fn command(server: &Path, folder: &Path, durability: Durability, port: u16) -> Command {
    let mut command = Command::new(server);
    command.current_dir(folder);
    let fsync = match durability {
        Durability::Safe => "always",
        Durability::Fast => "everysec",
    };
    for (name, value) in [
        ("--bind", "127.0.0.1"),
        ("--port", &port.to_string()),
        ("--dir", &folder.to_string_lossy()),
        ("--daemonize", "no"),
        ("--appendonly", "yes"),
        ("--appendfsync", fsync),
        // The append-only file is enough: no snapshots beside it.
        ("--save", ""),
        ("--maxmemory-policy", "noeviction"),
        // A file cut short by a crash loads up to the cut.
        ("--aof-load-truncated", "yes"),
        ("--loglevel", "warning"),
    ] {
        command.arg(name).arg(value);
    }
    command
}

/// Whether a Redis on this port is up and has loaded its data.
fn answers(port: u16) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let limit = Duration::from_millis(500);
    let Ok(mut stream) = TcpStream::connect_timeout(&address, limit) else {
        return false;
    };
    let mut reply = [0; 7];
    stream.set_read_timeout(Some(limit)).is_ok()
        && stream.write_all(b"PING\r\n").is_ok()
        && stream.read_exact(&mut reply).is_ok()
        && &reply == b"+PONG\r\n"
}

/// Ends a Redis that an earlier run started on this very folder and could not stop.
fn end_leftover(folder: &Path) {
    let file = folder.join(PID_FILE);
    let Ok(text) = fs::read_to_string(&file) else {
        return;
    };
    if let Some((id, port)) = text.trim().split_once(' ')
        && let Ok(id) = id.parse::<u32>()
        // Redis shows its address as its command line; the id alone may be somebody else's by now.
        && processes::command_line(id).contains(&format!("redis-server 127.0.0.1:{port}"))
    {
        progress::warn(&format!(
            "stopping a Redis left behind by an earlier run (process {id})"
        ));
        processes::end_leftover(id, Ask::Term);
    }
    let _ = fs::remove_file(file);
}
