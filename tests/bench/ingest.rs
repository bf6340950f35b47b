//! Ingest and normalizer: messages per second of a core, memory per room, from the socket to Redis.
//!
//! In the order of running: `normalizing` (beside a decoder in Node), `pipe` (socket → `ttlc:raw`,
//! with the spool and without), `rooms` (memory and processor per room). The daemon is the real one,
//! with its default settings but for the budgets of requests. The end is a table with the aims; an
//! aim that is missed is shown as missed and is no failure, a message that is missing is one.

mod daemon;
mod normalizing;
mod pipe;
mod redis;
mod rooms;

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::{
    Common,
    table::{Table, float},
};

#[derive(Args)]
pub(crate) struct Settings {
    /// Only these parts
    #[arg(long, env = "BENCH_PARTS", value_enum, value_delimiter = ',')]
    parts: Vec<Part>,
    /// Node.js, to compare with; none: not compared. It finds protobufjs beside `node/decode.mjs`
    #[arg(long, env = "BENCH_NODE")]
    node: Option<PathBuf>,
    /// Another build of the daemon, measured in turn with the first: before and after
    #[arg(long, env = "BENCH_BASELINE")]
    baseline: Option<PathBuf>,
    /// Messages from the socket to Redis
    #[arg(long, env = "BENCH_INGEST_MESSAGES", default_value_t = 30_000, value_parser = clap::value_parser!(u32).range(100..=5_000_000))]
    messages: u32,
    /// Rooms
    #[arg(long, env = "BENCH_ROOMS", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(10..=10_000))]
    rooms: u32,
    /// Events per second in each busy room
    #[arg(long, env = "BENCH_ROOM_RATE", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=50))]
    room_rate: u32,
    /// How long a busy room lasts, seconds
    #[arg(long, env = "BENCH_ROOM_SECONDS", default_value_t = 25, value_parser = clap::value_parser!(u32).range(5..=3_600))]
    room_seconds: u32,
    /// What made-up events are made of
    #[arg(long, env = "BENCH_SEED", default_value_t = 1)]
    seed: u64,
    /// Where the daemons' spools are made
    #[arg(long, env = "SPOOL_DIR")]
    spool_dir: PathBuf,
    #[command(flatten)]
    common: Common,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Normalizing,
    Pipe,
    Rooms,
}

/// Measures all parts, or those that are wanted, and prints the table.
pub(crate) async fn run(settings: &Settings) -> anyhow::Result<()> {
    let wanted = |part| settings.parts.is_empty() || settings.parts.contains(&part);
    let mut table = Table::default();
    if wanted(Part::Normalizing) {
        normalizing::measure(settings, &mut table)?;
    }
    if wanted(Part::Pipe) {
        pipe::measure(settings, &mut table).await?;
    }
    if wanted(Part::Rooms) {
        rooms::measure(settings, &mut table).await?;
    }
    table.print();
    println!(
        "repeat: cargo xtask bench ingest (BENCH_PARTS, BENCH_ROOMS, BENCH_ROOM_RATE, \
         BENCH_ROOM_SECONDS, BENCH_INGEST_MESSAGES, BENCH_SEED, BENCH_BASELINE)"
    );
    Ok(())
}

impl Settings {
    /// The daemon's programs, each with what its rows are marked with.
    fn programs(&self) -> Vec<(&'static str, &PathBuf)> {
        let mut programs = vec![("", &self.common.ttlc_program)];
        programs.extend(self.baseline.iter().map(|program| (" (baseline)", program)));
        programs
    }
}
