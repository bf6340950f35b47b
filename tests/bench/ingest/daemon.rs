//! The daemon as a process: started, looked at from outside, ended.
//!
//! In: its program and whom it follows. Out: its resident memory and the processor time it used, as
//! the system counts them. It is killed when dropped.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use tokio::process::{Child, Command};
use upstream::Upstream;

use super::Settings;

/// No step takes longer than this.
pub(super) const PATIENCE: Duration = Duration::from_mins(3);
const POLL: Duration = Duration::from_millis(50);

pub(super) struct Daemon {
    child: Child,
    id: u32,
    _spool: Option<Spool>,
}

/// A spool's folder of its own for each daemon: Redis is emptied between them, and a spool would
/// publish again what Redis has lost.
struct Spool(PathBuf);

impl Drop for Spool {
    fn drop(&mut self) {
        // What is left of it goes with the folder that holds it.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Daemon {
    /// Starts `ttlc ingest` for these creators.
    pub(super) fn start(
        settings: &Settings,
        program: &Path,
        upstream: &Upstream,
        creators: &[String],
        spool: bool,
    ) -> anyhow::Result<Self> {
        let spool = spool.then(|| {
            Spool(
                settings
                    .spool_dir
                    .join(upstream.base_url().replace([':', '/'], "")),
            )
        });
        let base = upstream.base_url();
        let mut command = Command::new(program);
        command
            .arg("ingest")
            .env("TIKTOK_UNIQUE_ID", creators.join(","))
            .env("TIKTOK_WEB_URL", &base)
            .env("TIKTOK_WEBCAST_URL", &base)
            .env("EULER_API_URL", &base)
            .env("REDIS_URL", &settings.common.redis_url)
            // What TikTok and the sign server allow is not what is measured.
            .env("TIKTOK_REQUESTS_PER_MINUTE", "60000")
            .env("SIGN_REQUESTS_PER_MINUTE", "6000")
            .env("OFFLINE_POLL_SECONDS", "3600")
            .env("LOG_LEVEL", "warn")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        match &spool {
            Some(Spool(folder)) => command.env("SPOOL_DIR", folder),
            None => command.env("SPOOL_DIR", "off"),
        };
        let child = command
            .spawn()
            .with_context(|| format!("can't start {}", program.display()))?;
        let id = child.id().context("it has ended already")?;
        Ok(Self {
            child,
            id,
            _spool: spool,
        })
    }

    /// Resident memory in KiB.
    pub(super) fn resident(&self) -> anyhow::Result<u64> {
        let text = self.read("status")?;
        let line = text.lines().find(|line| line.starts_with("VmRSS:"));
        let field = line.and_then(|line| line.split_whitespace().nth(1));
        Ok(field.context("no VmRSS")?.parse()?)
    }

    /// Processor time used so far, in seconds.
    pub(super) fn processor(&self) -> anyhow::Result<f64> {
        let text = self.read("stat")?;
        // After the name, which may hold anything: state is the first field, times are the 12th
        // and 13th, in hundredths of a second on every Linux there is.
        let (_, fields) = text.rsplit_once(')').context("no name")?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let ticks = |index: usize| -> anyhow::Result<f64> {
            Ok(fields.get(index).context("too few fields")?.parse()?)
        };
        Ok((ticks(11)? + ticks(12)?) / 100.0)
    }

    fn read(&self, file: &str) -> anyhow::Result<String> {
        let path = format!("/proc/{}/{file}", self.id);
        std::fs::read_to_string(&path)
            .with_context(|| format!("reading {path}: has the daemon ended? (Linux only)"))
    }

    /// Tells it to stop and waits for its end.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        let told = Command::new("kill")
            .arg(self.id.to_string())
            .status()
            .await?;
        ensure!(told.success(), "kill failed");
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await??;
        ensure!(status.success(), "the daemon ended with {status}");
        Ok(())
    }
}

/// Waits until something is so; says what was waited for when it never is.
pub(super) async fn until<T>(
    what: &str,
    mut look: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        ensure!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
        tokio::time::sleep(POLL).await;
    }
}
