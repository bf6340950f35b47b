//! `cargo xtask bench`: throughput and latency of the whole product, optimised builds.
//!
//! In: arguments for the bench program of the `tests` package, passed on as they are. Out: its
//! report. This module brings what it measures: a private Redis and Postgres that wait for the
//! disk as in production, the migrated tables, the Worker built with link-time optimisation. The
//! bench program starts the daemon and the stand-in itself, because it controls their load. It
//! reads `REDIS_URL`, `DATABASE_URL`, `API_URL` (the Worker) and `TTLC_PROGRAM` (the daemon's
//! program).

use std::{path::PathBuf, process::Command};

use anyhow::{Result, bail};

use crate::{
    edge, node,
    processes::{self, Process, Sink, TemporaryFolder},
    progress, project,
    servers::{Durability, PrivatePostgres, PrivateRedis},
    stack::{self, Worker, WorkerOptions},
    ui,
};

/// Runs it once.
pub fn run(arguments: &[String]) -> Result<()> {
    let mut build = Command::new(project::cargo());
    build
        .args([
            "build",
            "--release",
            "--package",
            "daemon",
            "--package",
            "tests",
        ])
        .args(["--bin", "ttlc", "--bin", "bench"])
        .current_dir(project::root());
    progress::step("building for measuring (release)", || {
        processes::run("cargo", build)
    })?;
    node::install_edge_tools()?;
    ui::build()?;
    edge::build(edge::Profile::Release)?;

    let redis = PrivateRedis::temporary(Durability::Safe)?;
    let postgres = PrivatePostgres::temporary(Durability::Safe)?;
    let program = release("ttlc");
    let mut migrate = stack::ttlc(&program, &redis.url(), &postgres.url());
    migrate.arg("migrate");
    processes::run_silently("migrate", migrate)?;
    let worker = Worker::start(WorkerOptions::new(redis.url(), postgres.url()))?;

    let spool = TemporaryFolder::new("spool")?;
    let mut bench = Command::new(release("bench"));
    bench
        .args(arguments)
        .current_dir(project::root())
        .env("REDIS_URL", redis.url())
        .env("DATABASE_URL", postgres.url())
        .env("API_URL", worker.url())
        .env("TTLC_PROGRAM", program)
        .env("SPOOL_DIR", spool.path());
    let plain: Sink = Box::new(progress::line);
    let mut process = Process::start("bench", bench, plain)?;
    let status = process.wait(None)?;
    if !status.success() {
        bail!("bench failed ({status})");
    }
    Ok(())
}

fn release(name: &str) -> PathBuf {
    project::target().join("release").join(name)
}
