//! Private Redis and Postgres servers: started, used and stopped by us alone.
//!
//! In: a folder (kept between runs, or temporary). Out: a URL on 127.0.0.1 with a free port. They
//! stop when dropped, and with us however we end. Data in a kept folder survives that, a `kill -9`
//! too; what a crash left behind (a lock file, a server that still runs on this very folder) is
//! recognised as ours and cleared at the next start. Any other server on the machine is left
//! alone.

mod postgres;
mod redis;

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

pub use self::{
    postgres::{PrivatePostgres, StoppedPostgres},
    redis::{PrivateRedis, StoppedRedis},
};
use crate::processes::{self, Process, TemporaryFolder};

/// How careful a server is with what it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// What was acknowledged is on disk: for data that is kept, and for tests of a crash.
    Safe,
    /// No waiting for the disk: for tests.
    Fast,
}

/// Where a server keeps its data.
#[derive(Debug)]
enum Folder {
    Kept(PathBuf),
    Temporary(TemporaryFolder),
}

impl Folder {
    fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Temporary(folder) => folder.path(),
        }
    }
}

/// Removes the data of a kept server whose folder is given, wherever it really is. It must have
/// been stopped.
pub fn remove_kept(folder: &Path) -> Result<()> {
    for path in [folder.to_path_buf(), postgres::elsewhere(folder)] {
        if path.exists() {
            fs::remove_dir_all(&path).with_context(|| format!("removing {}", path.display()))?;
        }
    }
    Ok(())
}

/// How long a server may take to answer after its start; a recovery after a crash included.
const START: Duration = Duration::from_mins(1);
/// Somebody else may take a free port before the server does.
const PORTS: usize = 5;

/// Waits until `ready` says so; an error when the process ends or takes too long.
fn wait_ready(process: &mut Process, mut ready: impl FnMut(&Process) -> bool) -> Result<()> {
    let started = Instant::now();
    while !ready(process) {
        if let Some(status) = process.ended() {
            bail!(
                "{} ended at once ({status}){}",
                process.name(),
                process.last_words()
            );
        }
        if started.elapsed() > START {
            bail!(
                "{} is not ready after {} s{}",
                process.name(),
                START.as_secs(),
                process.last_words()
            );
        }
        processes::check_stopping()?;
        thread::sleep(processes::TICK);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
