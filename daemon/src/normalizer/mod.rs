//! Placeholder until the part lands.
/// Options.
#[derive(clap::Args)]
pub struct Options {}
/// Runs.
pub async fn run(_: Options, _: crate::bus::Bus, _: tokio_util::sync::CancellationToken) -> anyhow::Result<()> { Ok(()) }
