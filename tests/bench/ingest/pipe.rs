//! How many messages one ingest process brings from the socket to `ttlc:raw`.
//!
//! Recorded messages of one room, ten in a frame, as fast as they are read; with the spool and
//! without. From the first one being sent to the last one being in Redis, which waits for its disk.
//! Every message has to be there once.

use std::time::SystemTime;

use anyhow::{Context, ensure};
use upstream::{Capture, Creator, Pace, Record, Script, Upstream};

use super::{
    Settings, Table,
    daemon::{Daemon, until},
    redis::Redis,
};
use crate::recorded;

const ROOM: &str = "bench-pipe";
const IN_A_FRAME: u32 = 10;
/// Runs of each kind; the fastest counts.
const TURNS: u32 = 2;

pub(super) async fn measure(settings: &Settings, table: &mut Table) -> anyhow::Result<()> {
    let source = recorded::messages()?;
    for (mark, program) in settings.programs() {
        let [mut with, mut without] = [(0.0, 0.0); 2];
        for turn in 1..=TURNS {
            for (spool, best) in [(true, &mut with), (false, &mut without)] {
                let name = if spool { "with" } else { "without" };
                println!("… socket → Redis{mark}, {name} spool, turn {turn} of {TURNS}");
                let capture = recorded::repeat(&source, settings.messages, IN_A_FRAME);
                let found = run(settings, program, capture, spool).await?;
                if found.0 > best.0 {
                    *best = found;
                }
            }
        }
        for (name, (rate, share)) in [("with the spool", with), ("SPOOL_DIR=off", without)] {
            table.add(
                format!("socket → ttlc:raw, {name}{mark}"),
                format!("{rate:.0} messages/s, {share:.1} µs of processor each"),
            );
        }
        table.add(
            format!("  with the spool to without{mark}"),
            format!("{:.2}", with.0 / without.0),
        );
    }
    Ok(())
}

/// Messages per second, and µs of processor time for each.
async fn run(
    settings: &Settings,
    program: &std::path::Path,
    capture: Capture,
    spool: bool,
) -> anyhow::Result<(f64, f64)> {
    let count = u64::from(settings.messages);
    let mut redis = Redis::empty(&settings.common.redis_url).await?;
    let mut script = Script::new().creator(Creator::plays(ROOM, capture));
    script.pace = Pace::AsFastAsPossible;
    script.record = Record::Ids;
    let upstream = Upstream::start(script).await?;
    let creators = [ROOM.to_owned()];
    let daemon = Daemon::start(settings, program, &upstream, &creators, spool)?;
    let at_end = until("all messages in Redis", async || {
        // And our own CONNECTED.
        let there = redis.length().await? > count;
        Ok(there.then(SystemTime::now))
    })
    .await?;
    let processor = daemon.processor()?;
    let sent = upstream.sent();
    let begun = sent.first().context("nothing was sent")?.at;
    daemon.stop().await?;
    let published = redis.published().await?;
    ensure!(
        published.messages == count && published.repeats == 0,
        "{count} messages were sent, {published:?}"
    );
    let violations = upstream.violations();
    ensure!(
        violations.is_empty(),
        "the daemon did something wrong: {violations:#?}"
    );
    let took = at_end.duration_since(begun)?.as_secs_f64();
    let count = f64::from(settings.messages);
    Ok((count / took, processor * 1e6 / count))
}
