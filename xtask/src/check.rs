//! `cargo xtask check`: everything that can be said about the code without running it.
//!
//! In: the checkout. Out: a table of steps with verdict and time; an error when one failed. Every
//! step runs, whatever the one before said, so that one run shows everything.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    node,
    processes::{self, Process, shown, silent},
    progress, project, secret_scan, tools, ui,
    wasm::{self, Toolchain},
};

/// The advisory database comes from far away.
const FETCH: Duration = Duration::from_secs(90);

type Step = (&'static str, fn() -> Result<()>);

const STEPS: [Step; 9] = [
    ("format", format),
    ("secrets", || secret_scan::run(&project::root())),
    ("lock files", lock_files),
    ("clippy, native", clippy_native),
    ("clippy, wasm32: shared alone", || clippy_wasm("shared")),
    ("clippy, wasm32: edge", || clippy_wasm("edge")),
    ("documentation", documentation),
    ("cargo-deny", deny),
    ("page: types and lint", page),
];

/// Runs all steps and prints the table.
pub fn run() -> Result<()> {
    let mut table = Vec::new();
    for (name, step) in STEPS {
        let started = Instant::now();
        let result = progress::step(name, step);
        if let Err(error) = &result {
            processes::check_stopping()?;
            progress::line(&format!("{error:#}"));
        }
        table.push((name, result.is_ok(), started.elapsed()));
    }
    progress::line("");
    for (name, passed, time) in &table {
        let verdict = if *passed {
            progress::paint(32, "ok    ")
        } else {
            progress::paint(31, "FAILED")
        };
        progress::line(&format!(
            "{verdict} {name:<30} {:>12}",
            progress::seconds(*time)
        ));
    }
    let failed: Vec<_> = table
        .iter()
        .filter(|(_, passed, _)| !passed)
        .map(|(name, ..)| *name)
        .collect();
    if !failed.is_empty() {
        bail!("check failed: {}", failed.join("; "));
    }
    Ok(())
}

fn cargo() -> Command {
    let mut command = Command::new(project::cargo());
    command.current_dir(project::root());
    command
}

fn format() -> Result<()> {
    let mut command = cargo();
    command.args(["fmt", "--all", "--check", "--", "--color", "never"]);
    processes::run("fmt", command)
}

fn clippy_native() -> Result<()> {
    clippy_of(&["--workspace", "--exclude", "edge"])?;
    // Its unit tests run natively too. By itself: its features are for another target.
    clippy_of(&["--package", "edge"])
}

fn clippy_of(packages: &[&str]) -> Result<()> {
    let mut command = cargo();
    command
        .args(["clippy", "--locked", "--all-targets"])
        .args(packages)
        .args(["--", "-D", "warnings"]);
    processes::run("clippy", command)
}

/// Alone, so that no other package's features hide what is missing.
fn clippy_wasm(package: &str) -> Result<()> {
    let toolchain = Toolchain::prepare()?;
    toolchain.prepare_clippy()?;
    let mut command = toolchain.cargo();
    command
        .current_dir(project::root())
        .args([
            "clippy",
            "--locked",
            "--package",
            package,
            "--target",
            wasm::TARGET,
        ])
        .args(["--", "-D", "warnings"]);
    processes::run("clippy", command)
}

/// Links that lead nowhere. Those to private items are for who reads the code.
fn documentation() -> Result<()> {
    let mut command = cargo();
    command
        .args(["doc", "--locked", "--no-deps", "--workspace"])
        // Its features are for another target.
        .args(["--exclude", "edge"])
        .env(
            "RUSTDOCFLAGS",
            "-D warnings -A rustdoc::private_intra_doc_links -A rustdoc::redundant_explicit_links",
        );
    processes::run("doc", command)
}

/// Licences, duplicate and banned packages, sources; advisories where their database can be had.
fn deny() -> Result<()> {
    let program = tools::cargo_deny()?;
    let deny = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command
            .current_dir(project::root())
            .args(["--workspace", "--all-features", "--locked"])
            .args(arguments);
        command
    };
    processes::run("deny", deny(&["check", "licenses", "bans", "sources"]))?;
    let mut fetch = Process::start("deny", deny(&["fetch", "db"]), silent())?;
    match fetch.wait(Some(FETCH)) {
        Ok(status) if status.success() => processes::run_into(
            "deny",
            deny(&["check", "--disable-fetch", "advisories"]),
            shown("deny"),
            false,
        ),
        _ => {
            processes::check_stopping()?;
            progress::warn("advisories not checked: their database can't be fetched from here");
            Ok(())
        }
    }
}

fn page() -> Result<()> {
    node::install_edge_tools()?;
    ui::check()
}

/// A lock file names packages and hashes, not the server that somebody downloaded them from.
fn lock_files() -> Result<()> {
    let root = project::root();
    for file in [
        "package-lock.json",
        "tests/bench/node/package-lock.json",
        "ui/package-lock.json",
    ] {
        let text =
            fs::read_to_string(root.join(file)).with_context(|| format!("reading {file}"))?;
        if let Some(line) = first_address(&text) {
            bail!(
                "{file}:{line} has a download address: remove every \"resolved\" line (npm does not write them with `omit-lockfile-registry-resolved=true`)"
            );
        }
    }
    let text = fs::read_to_string(root.join("Cargo.lock")).context("reading Cargo.lock")?;
    if let Some((index, line)) = text.lines().enumerate().find(|(_, line)| {
        line.starts_with("source = ")
            && *line != "source = \"registry+https://github.com/rust-lang/crates.io-index\""
    }) {
        bail!(
            "Cargo.lock:{} has a source other than crates.io: {line}",
            index + 1
        );
    }
    Ok(())
}

/// Line number of the first `resolved` field, counted from 1.
fn first_address(lock: &str) -> Option<usize> {
    lock.lines()
        .position(|line| line.trim_start().starts_with("\"resolved\""))
        .map(|index| index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_download_address_is_found() {
        let clean = "{\n  \"node_modules/a\": {\n    \"version\": \"1.0.0\"\n  }\n}\n";
        assert_eq!(first_address(clean), None);
        let dirty = clean.replace(
            "\"version\"",
            "\"resolved\": \"https://x/a.tgz\",\n    \"version\"",
        );
        assert_eq!(first_address(&dirty), Some(3));
    }
}
