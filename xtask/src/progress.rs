//! What the user sees: steps with their time, lines of children with the name of their part.
//!
//! Every call writes whole lines, so that steps running side by side stay readable.

use std::{
    env,
    io::{IsTerminal, Write, stdout},
    process::Command,
    sync::OnceLock,
    time::{Duration, Instant},
};

use anyhow::Result;

/// Colours of the parts, in ANSI numbers.
const PALETTE: [u8; 6] = [36, 35, 33, 34, 32, 96];

/// Runs one step and says how long it took. A failed step says so and passes the error on.
pub fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    line(&format!("{} {what}", paint(90, "…")));
    let started = Instant::now();
    let result = work();
    let took = paint(90, &format!("({})", seconds(started.elapsed())));
    match &result {
        Ok(_) => line(&format!("{} {what} {took}", paint(32, "✓"))),
        Err(_) => line(&format!("{} {what} {took}", paint(31, "✗"))),
    }
    result
}

/// One line to the user.
pub fn line(text: &str) {
    let mut out = stdout().lock();
    // A closed terminal or pipe must not stop the clean-up that is going on.
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}

/// One line of a child, marked with the part's name in the part's colour.
pub fn part(name: &str, text: &str) {
    let sum: usize = name.bytes().map(usize::from).sum();
    let colour = PALETTE[sum % PALETTE.len()];
    line(&format!(
        "{} {text}",
        paint(colour, &format!("{name:>9} │"))
    ));
}

/// A warning line.
pub fn warn(text: &str) {
    line(&format!("{} {text}", paint(33, "!")));
}

/// Seconds as people read them: `0.4 s`, `12.3 s`, `3 min 05 s`.
pub fn seconds(time: Duration) -> String {
    let tenths = time.as_millis() / 100;
    if tenths >= 600 {
        let whole = tenths / 10;
        format!("{} min {:02} s", whole / 60, whole % 60)
    } else {
        format!("{}.{} s", tenths / 10, tenths % 10)
    }
}

/// Text in an ANSI colour when a terminal reads it and `NO_COLOR` is not set.
pub fn paint(colour: u8, text: &str) -> String {
    if colours() {
        format!("\u{1b}[{colour}m{text}\u{1b}[0m")
    } else {
        text.to_owned()
    }
}

/// Tells a child not to colour its lines when ours are not: it writes into a pipe and can't know.
pub fn apply_colours(command: &mut Command) {
    if !colours() {
        command.env("NO_COLOR", "1");
    }
}

fn colours() -> bool {
    static COLOURS: OnceLock<bool> = OnceLock::new();
    *COLOURS.get_or_init(|| stdout().is_terminal() && env::var_os("NO_COLOR").is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_well() {
        assert_eq!(seconds(Duration::from_millis(449)), "0.4 s");
        assert_eq!(seconds(Duration::from_millis(12_345)), "12.3 s");
        assert_eq!(seconds(Duration::from_secs(185)), "3 min 05 s");
    }
}
