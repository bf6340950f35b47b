//! Logs: structured, one line per fact, secrets never among them.
//!
//! The level of the clients below us is fixed at `warn` and cannot be raised from outside: at
//! TRACE they would print request lines, and those may hold keys.

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// `LOG_LEVEL`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Level {
    /// Everything, for developers.
    Debug,
    /// What an operator wants to know.
    Info,
    /// What may need a look.
    Warn,
    /// What needs one.
    Error,
}

/// `LOG_FORMAT`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Format {
    /// One JSON object a line, for collectors.
    Json,
    /// For people.
    Text,
}

/// Log settings.
#[derive(Clone, Copy, Debug, clap::Args)]
#[group(skip)] // several stages have `Options`; a group would be named after the type
pub struct Options {
    /// How much to log
    #[arg(long, env = "LOG_LEVEL", default_value = "info", global = true)]
    pub log_level: Level,
    /// How to write it
    #[arg(long, env = "LOG_FORMAT", default_value = "json", global = true)]
    pub log_format: Format,
}

/// Starts logging to standard error. Call once, first of all.
pub fn init(options: Options) {
    let level = match options.log_level {
        Level::Debug => "debug",
        Level::Info => "info",
        Level::Warn => "warn",
        Level::Error => "error",
    };
    let filter = EnvFilter::new(format!("warn,daemon={level},ttlc={level}"));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match options.log_format {
        Format::Json => logs
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .init(),
        Format::Text => logs.with_target(false).init(),
    }
}
