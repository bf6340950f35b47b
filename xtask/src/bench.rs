//! `cargo xtask bench`: throughput and latency of the whole product; `cargo xtask bench ingest`:
//! normalizing, and what a room costs; `cargo xtask bench pipeline`: each stage beside its bare
//! limit, the whole beside the same in Node. Optimised builds.
//!
//! In: what to measure, and arguments for the bench program (`tests/bench`), passed on as they are.
//! Out: its report. This module brings what it measures: a private Redis (and Postgres) that waits
//! for the disk as in production, for the product also the migrated tables and the Worker built
//! with link-time optimisation, for ingest and pipeline what they are compared with in Node. The
//! bench program starts the daemon and the stand-in itself, because it controls their load, and for
//! the pipeline the servers too, because it stops them.

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

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Subject {
    /// From TikTok's frames to Postgres, and to a live viewer
    Product,
    /// Decoding and normalizing, memory per room, from the socket to Redis
    Ingest,
    /// Each stage beside the bare limit of Redis and Postgres, the whole beside the same in Node,
    /// memory in outages
    Pipeline,
    /// All of these
    All,
}

/// Runs it once.
pub fn run(subject: Subject, arguments: &[String]) -> Result<()> {
    if subject == Subject::All && !arguments.is_empty() {
        bail!("each bench has arguments of its own: name one");
    }
    let mut build = Command::new(project::cargo());
    build
        .args([
            "build",
            "--release",
            "--package",
            "daemon",
            "--package",
            "bench",
        ])
        .args(["--bin", "ttlc", "--bin", "bench"])
        .current_dir(project::root());
    progress::step("building for measuring (release)", || {
        processes::run("cargo", build)
    })?;
    node::install_edge_tools()?;
    if matches!(subject, Subject::Ingest | Subject::All) {
        ingest(arguments)?;
    }
    if matches!(subject, Subject::Pipeline | Subject::All) {
        pipeline(arguments)?;
    }
    if matches!(subject, Subject::Product | Subject::All) {
        product(arguments)?;
    }
    Ok(())
}

fn ingest(arguments: &[String]) -> Result<()> {
    node::install_bench()?;
    let redis = PrivateRedis::temporary(Durability::Safe)?;
    let mut bench = Command::new(release("bench"));
    bench
        .arg("ingest")
        .env("BENCH_NODE", node::node())
        .env("REDIS_URL", redis.url());
    start(bench, arguments)
}

fn pipeline(arguments: &[String]) -> Result<()> {
    node::install_bench()?;
    let mut bench = Command::new(release("bench"));
    bench.arg("pipeline").env("BENCH_NODE", node::node());
    start(bench, arguments)
}

fn product(arguments: &[String]) -> Result<()> {
    ui::build()?;
    edge::build(edge::Profile::Release)?;

    let redis = PrivateRedis::temporary(Durability::Safe)?;
    let postgres = PrivatePostgres::temporary(Durability::Safe)?;
    let mut migrate = stack::ttlc(&release("ttlc"), &redis.url(), &postgres.url());
    migrate.arg("migrate");
    processes::run_silently("migrate", migrate)?;
    let worker = Worker::start(WorkerOptions::new(redis.url(), postgres.url()))?;

    let mut bench = Command::new(release("bench"));
    bench
        .arg("product")
        .env("DATABASE_URL", postgres.url())
        .env("API_URL", worker.url())
        .env("REDIS_URL", redis.url());
    start(bench, arguments)
}

/// Runs the bench program to its end.
fn start(mut bench: Command, arguments: &[String]) -> Result<()> {
    let spool = TemporaryFolder::new("spool")?;
    bench
        .args(arguments)
        .current_dir(project::root())
        .env("TTLC_PROGRAM", release("ttlc"))
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
