//! Placeholder until the part lands.
/// Options.
#[derive(clap::Args)]
pub struct Options {
    /// Where.
    #[command(flatten)]
    pub database: DatabaseOptions,
}
/// Where.
#[derive(clap::Args)]
pub struct DatabaseOptions {}
/// Migrates.
pub async fn migrate(_: &DatabaseOptions) -> anyhow::Result<()> { Ok(()) }
/// Runs.
pub async fn run(_: Options, _: crate::bus::Bus, _: tokio_util::sync::CancellationToken) -> anyhow::Result<()> { Ok(()) }
