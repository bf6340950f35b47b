//! The most memory that the daemon takes: under load, while Postgres is away, while Redis is away.
//!
//! Twenty made-up rooms of the stand-in, `ttlc run` with its spool. After each outage what waited has
//! to arrive: nothing is lost for it.

use std::time::Duration;

use anyhow::ensure;
use tokio::time::{Instant, sleep};
use upstream::{Load, Record, Script, Upstream};

use super::{
    Settings,
    processes::{Measured, PATIENCE},
    servers::Servers,
    whole::run_command,
};
use crate::table::Table;

const ROOMS: u32 = 20;
const AIM_LOAD: f64 = 128.0;
const AIM_OUTAGE: f64 = 256.0;
const SETTLE: Duration = Duration::from_secs(3);

pub(super) async fn measure(settings: &Settings, table: &mut Table) -> anyhow::Result<()> {
    let rate = settings.room_rate;
    println!("… memory: {ROOMS} rooms with {rate} messages/s each");
    let outage = Duration::from_secs(settings.outage.into());
    let mut servers = Servers::start(settings).await?;
    // Until all is over, with time to catch up in between.
    let seconds = settings.outage * 5 + 20;
    let load = Load {
        events: Some(u64::from(rate * seconds)),
        ..Load::new(1, f64::from(rate))
    };
    let mut script = Script::new().load(ROOMS as usize, &load);
    script.record = Record::Counts;
    let names: Vec<String> = script
        .creators
        .iter()
        .map(|creator| creator.name.clone())
        .collect();
    let upstream = Upstream::start(script).await?;
    let mut command = run_command(settings, &servers, &upstream, &names);
    // That a server is away is no news here.
    command.env("LOG_LEVEL", "error");
    let daemon = Measured::start(command)?;

    caught_up(&servers, &upstream, &names, 1).await?;
    sleep(outage).await;
    let mut peaks = vec![("under load", daemon.peak()?, AIM_LOAD)];
    daemon.forget_peak()?;
    servers
        .without_postgres(async || {
            sleep(outage).await;
            Ok(())
        })
        .await?;
    let sent = sent(&upstream, &names);
    caught_up(&servers, &upstream, &names, sent).await?;
    peaks.push((
        "while Postgres was away, and after it",
        daemon.peak()?,
        AIM_OUTAGE,
    ));
    daemon.forget_peak()?;
    servers
        .without_redis(async || {
            sleep(outage).await;
            Ok(())
        })
        .await?;
    let sent = self::sent(&upstream, &names);
    caught_up(&servers, &upstream, &names, sent).await?;
    sleep(SETTLE).await;
    peaks.push((
        "while Redis was away, and after it",
        daemon.peak()?,
        AIM_OUTAGE,
    ));

    for (what, peak, aim) in peaks {
        table.aimed(
            format!("memory of ttlc run {what}, {} messages/s", ROOMS * rate),
            format!("{peak:.0} MiB at most"),
            &format!("{aim:.0} MiB"),
            peak <= aim,
        );
    }
    let status = daemon.stop().await?;
    ensure!(status.success(), "the daemon ended with {status}");
    upstream.stop().await;
    Ok(())
}

/// How many messages the stand-in has sent.
fn sent(upstream: &Upstream, names: &[String]) -> u64 {
    names
        .iter()
        .filter_map(|name| upstream.totals(name))
        .map(|totals| totals.messages)
        .sum()
}

/// Waits until so many messages are stored.
async fn caught_up(
    servers: &Servers,
    upstream: &Upstream,
    names: &[String],
    goal: u64,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    let client = servers.postgres().await?;
    loop {
        let stored: i64 = client
            .query_one(
                "SELECT coalesce(sum(events), 0)::bigint FROM session_stats
                 WHERE event_type NOT IN ('CONNECTED', 'DISCONNECTED', 'STREAM_END')",
                &[],
            )
            .await?
            .get(0);
        if u64::try_from(stored)? >= goal {
            return Ok(());
        }
        ensure!(
            begun.elapsed() < PATIENCE,
            "{stored} of {goal} messages are stored, {} were sent",
            sent(upstream, names)
        );
        sleep(Duration::from_millis(100)).await;
    }
}
