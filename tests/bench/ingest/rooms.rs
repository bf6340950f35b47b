//! What a room costs: resident memory and processor time of one ingest process, by its rooms.
//!
//! A process for each number of rooms, connected to made-up rooms of the stand-in, over loopback
//! and without TLS; memory per room is the slope of a line through the points, so that what the
//! process needs by itself is not in it. Idle rooms answer heartbeats only. Busy ones send so many
//! events per second and then end; every one of them has to be in Redis once.

use std::{path::Path, time::Duration};

use anyhow::ensure;
use tokio::time::{Instant, sleep};
use upstream::{Load, Record, Script, Upstream};

use super::{
    Settings, Table,
    daemon::{Daemon, until},
    float,
    redis::Redis,
};

/// KiB per idle room.
const AIM_IDLE: f64 = 64.0;
/// After the last room was entered, until memory is looked at.
const SETTLE: Duration = Duration::from_secs(4);
/// The window in which processor time of idle rooms is counted: whole heartbeats.
const WINDOW: Duration = Duration::from_secs(10);

/// Rooms and what their process needs.
struct Point {
    rooms: u32,
    /// KiB.
    resident: u64,
    /// Of one core.
    processor: f64,
    /// From the start of the process until all rooms were entered.
    entered_in: Duration,
    /// Messages published; all that were sent.
    messages: u64,
}

pub(super) async fn measure(settings: &Settings, table: &mut Table) -> anyhow::Result<()> {
    let most = settings.rooms;
    let mut idle_costs = Vec::new();
    for (mark, program) in settings.programs() {
        let mut idle = Vec::new();
        for rooms in [0, most / 10, most / 2, most] {
            idle.push(point(settings, program, mark, rooms, 0).await?);
        }
        let mut busy = vec![];
        for rooms in [most / 4, most] {
            busy.push(point(settings, program, mark, rooms, settings.room_rate).await?);
        }
        let cost = slope(&idle)?;
        idle_costs.push(cost);
        table.aimed(
            format!("memory of an idle room{mark}"),
            format!("{cost:.1} KiB"),
            &format!("under {AIM_IDLE} KiB"),
            cost < AIM_IDLE,
        );
        table.add(
            format!("memory of a busy room{mark}"),
            format!(
                "{:.1} KiB at {} events/s",
                slope(idle.iter().take(1).chain(&busy))?,
                settings.room_rate
            ),
        );
        for point in idle.iter().chain(&busy) {
            table.add(format!("  {}{mark}", name(point)), point.to_string());
        }
    }
    if let [after, before] = idle_costs[..] {
        table.add(
            "  idle room, to the baseline",
            format!("{:.2}", after / before),
        );
    }
    Ok(())
}

fn name(point: &Point) -> String {
    let kind = if point.messages > 0 { "busy" } else { "idle" };
    format!("{} {kind} rooms", point.rooms)
}

impl std::fmt::Display for Point {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:6.1} MiB, {:.1} % of a core",
            f64::from(u32::try_from(self.resident).unwrap_or(u32::MAX)) / 1024.0,
            self.processor * 100.0
        )?;
        if self.rooms > 0 {
            write!(f, ", entered in {:.1} s", self.entered_in.as_secs_f64())?;
        }
        if self.messages > 0 {
            write!(f, ", {0} sent = {0} published", self.messages)?;
        }
        Ok(())
    }
}

/// One process with so many rooms; `rate` 0: idle ones.
async fn point(
    settings: &Settings,
    program: &Path,
    mark: &str,
    rooms: u32,
    rate: u32,
) -> anyhow::Result<Point> {
    let kind = if rate == 0 { "idle" } else { "busy" };
    println!("… {rooms} {kind} rooms{mark}");
    let mut redis = Redis::empty(&settings.common.redis_url).await?;
    let load = Load {
        events: (rate > 0).then(|| u64::from(rate * settings.room_seconds)),
        ..Load::new(settings.seed, f64::from(rate))
    };
    let mut script = Script::new().load(rooms as usize, &load);
    script.record = Record::Counts;
    let creators: Vec<String> = script
        .creators
        .iter()
        .map(|creator| creator.name.clone())
        .collect();
    let upstream = Upstream::start(script).await?;
    let begun = Instant::now();
    let daemon = Daemon::start(settings, program, &upstream, &creators, true)?;
    until("all rooms to be entered", async || {
        Ok((upstream.counts().enters >= u64::from(rooms)).then_some(()))
    })
    .await?;
    let entered_in = begun.elapsed();
    let window = if rate == 0 {
        WINDOW
    } else {
        // Until shortly before the first rooms end.
        let spent = entered_in + SETTLE + Duration::from_secs(1);
        let left = Duration::from_secs(u64::from(settings.room_seconds)).saturating_sub(spent);
        ensure!(
            left > Duration::from_secs(3),
            "entering {rooms} rooms took {} s: set BENCH_ROOM_SECONDS higher",
            entered_in.as_secs()
        );
        left
    };
    sleep(SETTLE).await;
    let (used, from) = (daemon.processor()?, Instant::now());
    sleep(window).await;
    let processor = (daemon.processor()? - used) / from.elapsed().as_secs_f64();
    let resident = daemon.resident()?;
    let connected = upstream.counts();
    ensure!(
        connected.connections == u64::from(rooms),
        "{rooms} rooms took {} connections",
        connected.connections
    );
    let messages = if rate == 0 {
        0
    } else {
        everything_published(&upstream, &creators, &mut redis).await?
    };
    daemon.stop().await?;
    let violations = upstream.violations();
    ensure!(
        violations.is_empty(),
        "the daemon did something wrong: {:#?}",
        &violations[..violations.len().min(5)]
    );
    upstream.stop().await;
    Ok(Point {
        rooms,
        resident,
        processor,
        entered_in,
        messages,
    })
}

/// Waits until all rooms have ended, and compares what was sent with what is in Redis.
async fn everything_published(
    upstream: &Upstream,
    creators: &[String],
    redis: &mut Redis,
) -> anyhow::Result<u64> {
    until("all rooms to end", async || {
        let over = creators.iter().all(|name| upstream.finished(name));
        Ok(over.then_some(()))
    })
    .await?;
    let totals = creators.iter().filter_map(|name| upstream.totals(name));
    let sent: u64 = totals.map(|totals| totals.messages).sum();
    // For each room its end, and our own CONNECTED and DISCONNECTED.
    let expected = sent + 3 * creators.len() as u64;
    until("all messages in Redis", async || {
        Ok((redis.length().await? >= expected).then_some(()))
    })
    .await?;
    let published = redis.published().await?;
    ensure!(
        published.messages == sent && published.repeats == 0,
        "{sent} messages were sent, {published:?}"
    );
    Ok(sent)
}

/// KiB per room: the slope of the line that fits the points best (least squares).
fn slope<'a>(points: impl IntoIterator<Item = &'a Point>) -> anyhow::Result<f64> {
    let points = points
        .into_iter()
        .map(|point| Ok((f64::from(point.rooms), float(point.resident)?)))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let count = float(points.len() as u64)?;
    let mean_x = points.iter().map(|(x, _)| x).sum::<f64>() / count;
    let mean_y = points.iter().map(|(_, y)| y).sum::<f64>() / count;
    let both: f64 = points
        .iter()
        .map(|(x, y)| (x - mean_x) * (y - mean_y))
        .sum();
    let spread: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    Ok(both / spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_is_what_a_room_adds() {
        let point = |rooms, resident| Point {
            rooms,
            resident,
            processor: 0.0,
            entered_in: Duration::ZERO,
            messages: 0,
        };
        let line = [point(0, 20_000), point(100, 24_000), point(1_000, 60_000)];
        assert!((slope(&line).unwrap() - 40.0).abs() < 1e-9);
        let noisy = [point(0, 20_100), point(500, 40_000), point(1_000, 59_900)];
        assert!((slope(&noisy).unwrap() - 39.8).abs() < 1e-9);
    }
}
