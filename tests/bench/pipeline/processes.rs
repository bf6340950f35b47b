//! What processes use, as the system counts it: processor time, memory. Linux only.

use std::{
    path::Path,
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use tokio::process::{Child, Command};

use super::servers::Servers;

/// No step takes longer than this.
pub(super) const PATIENCE: Duration = Duration::from_mins(5);
/// How often progress is looked at.
const POLL: Duration = Duration::from_millis(10);

/// The machine's load averages.
pub(super) fn load() -> anyhow::Result<String> {
    let text = std::fs::read_to_string("/proc/loadavg")?;
    let averages: Vec<&str> = text.split_whitespace().take(3).collect();
    Ok(averages.join(" "))
}

/// A process that is measured; killed when dropped.
pub(super) struct Measured {
    child: Child,
    id: u32,
}

impl Measured {
    pub(super) fn start(mut command: Command) -> anyhow::Result<Self> {
        let program = command.as_std().get_program().to_owned();
        let child = command
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("can't start {}", Path::new(&program).display()))?;
        let id = child.id().context("it has ended already")?;
        Ok(Self { child, id })
    }

    /// Processor time used so far, in seconds.
    pub(super) fn processor(&self) -> anyhow::Result<f64> {
        Ok(times(self.id)?.own)
    }

    /// The most resident memory since the start or since [`Measured::forget_peak`], in MiB.
    pub(super) fn peak(&self) -> anyhow::Result<f64> {
        let text = read(self.id, "status")?;
        let line = text.lines().find(|line| line.starts_with("VmHWM:"));
        let field = line.and_then(|line| line.split_whitespace().nth(1));
        Ok(field.context("no VmHWM")?.parse::<f64>()? / 1024.0)
    }

    /// From here on the peak is counted anew.
    pub(super) fn forget_peak(&self) -> anyhow::Result<()> {
        Ok(std::fs::write(
            format!("/proc/{}/clear_refs", self.id),
            "5",
        )?)
    }

    /// Tells it to stop and waits for its end.
    pub(super) async fn stop(mut self) -> anyhow::Result<ExitStatus> {
        let told = Command::new("kill")
            .arg(self.id.to_string())
            .status()
            .await?;
        ensure!(told.success(), "kill failed");
        Ok(tokio::time::timeout(PATIENCE, self.child.wait()).await??)
    }
}

/// Processor seconds of a process, and of its children that have ended.
struct Times {
    own: f64,
    ended_children: f64,
    parent: u32,
}

fn times(id: u32) -> anyhow::Result<Times> {
    let text = read(id, "stat")?;
    // After the name, which may hold anything: state is the first field, the parent the second,
    // times are from the 12th on, in hundredths of a second on every Linux there is.
    let (_, fields) = text.rsplit_once(')').context("no name")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |index: usize| -> anyhow::Result<f64> {
        Ok(fields
            .get(index)
            .context("too few fields")?
            .parse::<f64>()?
            / 100.0)
    };
    Ok(Times {
        own: ticks(11)? + ticks(12)?,
        ended_children: ticks(13)? + ticks(14)?,
        parent: fields.get(1).context("too few fields")?.parse()?,
    })
}

/// Processor time of a process and of all that it has started, in seconds.
pub(super) fn processor_of_family(id: u32) -> anyhow::Result<f64> {
    let parent = times(id)?;
    let mut sum = parent.own + parent.ended_children;
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(other) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // One that ends meanwhile is no error: its parent knows its time then.
        if let Ok(child) = times(other)
            && child.parent == id
        {
            sum += child.own;
        }
    }
    Ok(sum)
}

fn read(id: u32, file: &str) -> anyhow::Result<String> {
    let path = format!("/proc/{id}/{file}");
    std::fs::read_to_string(&path)
        .with_context(|| format!("reading {path}: has the process ended? (Linux only)"))
}

/// What was done in which time, and what it cost.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Run {
    pub(super) events: f64,
    pub(super) seconds: f64,
    /// Processor seconds of the stages, of Redis, of Postgres.
    pub(super) processor: [f64; 3],
}

impl Run {
    /// Events per second.
    pub(super) fn rate(&self) -> f64 {
        self.events / self.seconds
    }

    /// Seconds of Postgres' processor for an event.
    pub(super) fn postgres(&self) -> f64 {
        self.processor[2] / self.events
    }

    /// What a thousand events cost, in milliseconds of a processor.
    pub(super) fn cost(&self) -> String {
        let [stages, redis, postgres] = self.processor.map(|time| time * 1e6 / self.events);
        format!("{stages:.0} + {redis:.0} + {postgres:.0} ms")
    }
}

/// What [`Run::cost`] is called in the table.
pub(super) const COST: &str = "processor per 1,000 events: stages + Redis + Postgres";

/// The one in the middle by its rate.
pub(super) fn median(mut runs: Vec<Run>) -> anyhow::Result<Run> {
    runs.sort_by(|a, b| a.rate().total_cmp(&b.rate()));
    runs.get(runs.len() / 2).copied().context("no runs")
}

/// The ratio in the middle of those of each turn.
pub(super) fn median_ratio(ours: &[Run], bare: &[Run]) -> anyhow::Result<f64> {
    let mut ratios: Vec<f64> = ours
        .iter()
        .zip(bare)
        .map(|(ours, bare)| ours.rate() / bare.rate())
        .collect();
    ratios.sort_by(f64::total_cmp);
    ratios.get(ratios.len() / 2).copied().context("no runs")
}

/// Times some work of our own.
pub(super) async fn timed(
    servers: &mut Servers,
    events: usize,
    work: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<Run> {
    let before = servers.processor()?;
    let begun = Instant::now();
    work.await?;
    let seconds = begun.elapsed().as_secs_f64();
    let after = servers.processor()?;
    Ok(Run {
        events: crate::table::float(events as u64)?,
        seconds,
        processor: [0.0, after[0] - before[0], after[1] - before[1]],
    })
}

/// Watches processes until `done` events are done: from the first that is, so that their start
/// does not count.
pub(super) async fn watched(
    servers: &mut Servers,
    stages: &[&Measured],
    goal: u64,
    mut done: impl AsyncFnMut() -> anyhow::Result<u64>,
) -> anyhow::Result<Run> {
    let begun = Instant::now();
    let mut look = async |least: u64| {
        loop {
            let now = done().await?;
            if now >= least {
                return anyhow::Ok((now, Instant::now()));
            }
            ensure!(
                begun.elapsed() < PATIENCE,
                "{now} of {goal} events are done"
            );
            tokio::time::sleep(POLL).await;
        }
    };
    let used = |servers: &mut Servers| {
        let mut sum = 0.0;
        for stage in stages {
            sum += stage.processor()?;
        }
        let [redis, postgres] = servers.processor()?;
        anyhow::Ok([sum, redis, postgres])
    };
    let (first, from) = look(1).await?;
    let before = used(servers)?;
    let (last, to) = look(goal).await?;
    let after = used(servers)?;
    ensure!(
        first < last,
        "all was done at the first look: more messages are needed"
    );
    Ok(Run {
        events: crate::table::float(last - first)?,
        seconds: (to - from).as_secs_f64(),
        processor: [0, 1, 2].map(|part| after[part] - before[part]),
    })
}
