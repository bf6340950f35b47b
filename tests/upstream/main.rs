//! The stand-in as a program, for `cargo xtask dev` and for trying things by hand.
//!
//! Plays every capture of a folder, each as the creator named like its file, for ever, or any
//! number of rooms with made-up events, or both; over TikTok's socket and Euler's. Says
//! `listening on http://…` on standard output when it does; logs go to standard error. Ends with
//! status 0 on SIGTERM and SIGINT.

use std::{io::Write, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::ensure;
use clap::{Parser, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use upstream::{Fault, Load, Pace, Record, Script, Upstream, fault};

const HELP: &str = "\
Set TIKTOK_WEB_URL, TIKTOK_WEBCAST_URL and EULER_API_URL to the address that is printed, \
EULER_WS_URL to the same with ws://. GET /stand-in/state shows what goes on; \
POST /stand-in/broadcasts/CREATOR/end and …/start end a broadcast and begin the next one.

Faults are JSON, for --fault and for POST /stand-in/faults/CREATOR:
";

fn help() -> String {
    let examples = fault::EXAMPLES.map(|(json, meaning)| format!("  {json}\n      {meaning}"));
    format!("{HELP}{}", examples.join("\n"))
}

#[derive(Parser)]
#[command(
    name = "upstream",
    about = "A stand-in for TikTok's webcast servers and Euler's that plays captures and makes load",
    after_help = help()
)]
struct Arguments {
    /// Where to listen; port 0 picks a free one
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Folder of the captures: one creator for each NAME.ndjson
    #[arg(long, required_unless_present = "rooms")]
    captures: Option<PathBuf>,
    /// Rooms with made-up events: the creators load-0, load-1 and so on
    #[arg(long, default_value_t = 0)]
    rooms: usize,
    /// Events per second in each of them; 0: idle rooms, in which heartbeats are answered only
    #[arg(long, default_value_t = 5.0, allow_negative_numbers = true)]
    rate: f64,
    /// The same seed makes the same events
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Average size of a made-up message, bytes
    #[arg(long, default_value_t = 2400)]
    size: usize,
    /// A made-up broadcast ends after so many events; without it, never
    #[arg(long)]
    events: Option<u64>,
    /// What Euler's side takes for a good API key; without it any key is good
    #[arg(long)]
    euler_key: Option<String>,
    /// No recorded pause plays longer than this
    #[arg(long, default_value_t = 2000)]
    max_gap_ms: u64,
    /// How long a creator is offline between two broadcasts
    #[arg(long, default_value_t = 3000)]
    offline_pause_ms: u64,
    /// 2 plays at double speed, 0 as fast as clients read
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    speed: f64,
    /// Play each capture that often instead of for ever
    #[arg(long)]
    laps: Option<u32>,
    /// Something that shall go wrong: CREATOR=JSON (see `POST /stand-in/faults/{creator}`)
    #[arg(long = "fault", value_name = "CREATOR=JSON", value_parser = parse_fault)]
    faults: Vec<(String, Fault)>,
    /// How logs look
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    ensure!(
        arguments.speed.is_finite() && arguments.speed >= 0.0,
        "--speed must be 0 or more, not {}",
        arguments.speed
    );
    ensure!(
        arguments.rate.is_finite() && arguments.rate >= 0.0,
        "--rate must be 0 or more, not {}",
        arguments.rate
    );
    log_to_stderr(arguments.log_format);
    let mut script = Script::new();
    if let Some(captures) = &arguments.captures {
        script = script.captures(captures)?;
    }
    let load = Load {
        size: arguments.size,
        events: arguments.events,
        ..Load::new(arguments.seed, arguments.rate)
    };
    script = script.load(arguments.rooms, &load);
    script.euler.keys.extend(arguments.euler_key);
    ensure!(
        !script.creators.is_empty(),
        "--rooms 0 without --captures leaves nobody to play"
    );
    script.listen = arguments.listen;
    script.laps = arguments.laps;
    script.offline_pause = Duration::from_millis(arguments.offline_pause_ms);
    // It may run for ever.
    script.record = Record::Counts;
    script.pace = if arguments.speed == 0.0 {
        Pace::AsFastAsPossible
    } else {
        Pace::Recorded {
            max_gap: Duration::from_millis(arguments.max_gap_ms),
            speed: arguments.speed,
        }
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let upstream = Upstream::start(script).await?;
    for (creator, fault) in arguments.faults {
        ensure!(
            upstream.fault(&creator, fault),
            "--fault names an unknown creator: {creator}"
        );
    }
    // Whoever started us may have closed the pipe: that is no reason to end.
    let _ = writeln!(std::io::stdout(), "listening on {}", upstream.base_url());
    let _ = std::io::stdout().flush();
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    upstream.stop().await;
    Ok(())
}

fn parse_fault(text: &str) -> Result<(String, Fault), String> {
    let (creator, json) = text.split_once('=').ok_or("expected CREATOR=JSON")?;
    let fault = serde_json::from_str(json).map_err(|error| error.to_string())?;
    Ok((creator.to_owned(), fault))
}

fn log_to_stderr(format: LogFormat) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => logs.init(),
        LogFormat::Json => logs.json().flatten_event(true).init(),
    }
}
