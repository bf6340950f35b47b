//! How fast it is, and how much memory it takes: `cargo xtask bench` runs this.
//!
//! `product`: from TikTok's frames to Postgres, and to a live viewer. `ingest`: decoding and
//! normalizing, memory per room, from the socket to Redis. `pipeline`: each stage beside the bare
//! limit of what it stands on, all of them beside the same in Node, memory in an outage. xtask says
//! where Redis, the daemon's program and the rest are; `pipeline` has servers of its own. The stand-in plays in this process; the figures hold for the machine
//! they were taken on, with everything on it at once.

#[path = "../product/feed.rs"]
#[expect(dead_code, reason = "the product tests use the rest")]
mod feed;
mod ingest;
mod pipeline;
mod product;
mod recorded;
mod table;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Measures the product; started by `cargo xtask bench`")]
struct Cli {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// Throughput and latency of the whole product
    Product(product::Settings),
    /// Decoding and normalizing, memory per room, from the socket to Redis
    Ingest(ingest::Settings),
    /// Each stage beside its bare limit, the whole beside the same in Node
    Pipeline(pipeline::Settings),
}

#[derive(Args)]
struct Common {
    /// Redis, empty
    #[arg(long, env = "REDIS_URL", hide_env_values = true)]
    redis_url: String,
    /// The daemon's program
    #[arg(long, env = "TTLC_PROGRAM")]
    ttlc_program: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Cli::parse().bench {
        Bench::Product(settings) => product::run(&settings).await,
        Bench::Ingest(settings) => ingest::run(&settings).await,
        Bench::Pipeline(settings) => pipeline::run(&settings).await,
    }
}
