//! The pipeline: each stage beside the bare limit of what it stands on, the whole beside Node.
//!
//! In the order of running: `publish` (beside a raw XADD pipeline), `hop` (the normalizer beside a
//! bare XREADGROUP → XADD → XACK copy), `storage` (the writer beside a bare binary COPY into the
//! same table), `whole` (both stages beside the same two in Node; and from TikTok's frames to
//! Postgres), `memory` (of the daemon under load, without Postgres, without Redis). Entries are made
//! of the recorded messages. Of each pair both sides run in turn, right after each other, on the
//! same servers with the same settings, and the median of the ratios counts: the machine's other
//! work hits both. A run that loses an event is an error and no result; an aim that is missed is
//! shown as missed.

mod copying;
mod hop;
mod memory;
mod processes;
mod publish;
mod servers;
mod storage;
mod traffic;
mod whole;

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::table::Table;

#[derive(Args)]
pub(crate) struct Settings {
    /// Only these parts
    #[arg(long, env = "BENCH_PARTS", value_enum, value_delimiter = ',')]
    parts: Vec<Part>,
    /// Messages of each run
    #[arg(long, env = "BENCH_PIPELINE_MESSAGES", default_value_t = 30_000, value_parser = clap::value_parser!(u32).range(1_000..=1_000_000))]
    messages: u32,
    /// Runs of each pair; the median counts
    #[arg(long, env = "BENCH_TURNS", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    turns: u32,
    /// From frames to Postgres: at least so many seconds after the warm-up
    #[arg(long, env = "BENCH_SUSTAINED_SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u32).range(2..=3_600))]
    sustained: u32,
    /// How long Postgres and then Redis is away while messages come, seconds
    #[arg(long, env = "BENCH_OUTAGE_SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u32).range(2..=3_600))]
    outage: u32,
    /// Messages per second and room while memory is looked at; there are 20 rooms
    #[arg(long, env = "BENCH_ROOM_RATE", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    room_rate: u32,
    /// Node.js, to compare with; none: not compared. Its packages are beside `node/*.mjs`
    #[arg(long, env = "BENCH_NODE")]
    node: Option<PathBuf>,
    /// Another build of the daemon, measured in turn with the first: before and after
    #[arg(long, env = "BENCH_BASELINE")]
    baseline: Option<PathBuf>,
    /// Where the daemons' spools are made
    #[arg(long, env = "SPOOL_DIR")]
    spool_dir: PathBuf,
    /// The daemon's program
    #[arg(long, env = "TTLC_PROGRAM")]
    ttlc_program: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Publish,
    Hop,
    Storage,
    Whole,
    Memory,
}

/// Measures all parts, or those that are wanted, and prints the table.
pub(crate) async fn run(settings: &Settings) -> anyhow::Result<()> {
    let wanted = |part| settings.parts.is_empty() || settings.parts.contains(&part);
    let mut table = Table::default();
    table.add("load of the machine before", processes::load()?);
    if wanted(Part::Publish) {
        publish::measure(settings, &mut table).await?;
    }
    if wanted(Part::Hop) {
        hop::measure(settings, &mut table).await?;
    }
    if wanted(Part::Storage) {
        storage::measure(settings, &mut table).await?;
    }
    if wanted(Part::Whole) {
        whole::measure(settings, &mut table).await?;
    }
    if wanted(Part::Memory) {
        memory::measure(settings, &mut table).await?;
    }
    table.add("load of the machine after", processes::load()?);
    table.print();
    println!(
        "repeat: cargo xtask bench pipeline (BENCH_PARTS, BENCH_PIPELINE_MESSAGES, BENCH_TURNS, \
         BENCH_SUSTAINED_SECONDS, BENCH_OUTAGE_SECONDS, BENCH_ROOM_RATE, BENCH_BASELINE)"
    );
    Ok(())
}

impl Settings {
    /// The daemon's programs, each with what its rows are marked with.
    fn programs(&self) -> Vec<(&'static str, &PathBuf)> {
        let mut programs = vec![("", &self.ttlc_program)];
        programs.extend(self.baseline.iter().map(|program| (" (baseline)", program)));
        programs
    }
}
