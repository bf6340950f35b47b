//! `cargo xtask …`: the project's own commands. See `cargo xtask --help`.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use xtask::{bench, check, dev, edge, nightly, node, processes, progress, test};

#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about,
    disable_help_subcommand = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Set up and run the product, until Ctrl-C
    Dev {
        /// Start from empty data
        #[arg(long)]
        reset: bool,
        /// Show all lines of wrangler, Redis and Postgres
        #[arg(long)]
        verbose: bool,
    },
    /// Set up everything and run all checks and tests
    Test {
        /// Only Rust tests whose name contains this; no check then
        filter: Option<String>,
        /// Leave out `check`
        #[arg(long)]
        no_check: bool,
        /// Only the fault matrix, in its long form (an hour and more; docs/testing.md says how to
        /// bound it), and its table; with FILTER only rows of this name (`f04`)
        #[arg(long)]
        faults: bool,
    },
    /// Format, lints for native and wasm32, licences, secrets, lock files, types of the page
    Check,
    /// Measure the product (throughput, latency), or ingest (normalizing, memory per room)
    Bench {
        /// What to measure
        #[arg(value_enum, default_value_t = bench::Subject::Product)]
        subject: bench::Subject,
        /// For the bench program; `-- --help` lists what it takes
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Fuzz, and try the properties on many more cases
    Nightly {
        /// How long each fuzz target runs, in seconds
        #[arg(long, default_value = "60", value_parser = clap::value_parser!(u32).range(1..))]
        seconds: u32,
        /// How many cases each property is tried on; 0 leaves them out
        #[arg(long, default_value = "5000")]
        cases: u32,
    },
    /// Build the Worker and print its size
    Edge {
        /// Optimised as for production (link-time optimisation, wasm-opt)
        #[arg(long)]
        release: bool,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<processes::Stopped>() => {
            progress::line("stopped");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    processes::stop_on_signals()?;
    match command {
        Command::Dev { reset, verbose } => dev::run(dev::Options { reset, verbose }),
        Command::Test {
            filter,
            no_check,
            faults,
        } => test::run(&test::Options {
            filter,
            no_check,
            faults,
        }),
        Command::Check => check::run(),
        Command::Bench { subject, arguments } => bench::run(subject, &arguments),
        Command::Nightly { seconds, cases } => nightly::run(nightly::Options { seconds, cases }),
        Command::Edge { release } => {
            node::install_edge_tools()?;
            edge::build(if release {
                edge::Profile::Release
            } else {
                edge::Profile::Dev
            })?;
            let (raw, gzipped) = edge::sizes()?;
            progress::line(&format!("wasm: {raw} bytes, {gzipped} gzipped"));
            Ok(())
        }
    }
}
