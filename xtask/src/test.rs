//! `cargo xtask test`: sets up everything and runs every test there is.
//!
//! In: the checkout, perhaps a filter. Out: the tests' own output and, as the last line, how many
//! passed and failed; an error when one failed. A step that fails does not stop the next, so that
//! one run shows everything, but nothing is run on what could not be built.

use std::{
    process::Command,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Result, anyhow, bail};

use crate::{
    check, edge, faults, node,
    processes::{self, Process, Sink},
    progress, project,
    servers::{Durability, PrivatePostgres, PrivateRedis},
    stack, tools, ui,
};

/// What the user asked for.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Only Rust tests whose name contains this; without the page's tests and without `check`.
    pub filter: Option<String>,
    /// Leave out `check`.
    pub no_check: bool,
    /// Only the fault matrix, in its long form.
    pub faults: bool,
}

/// Sets up and tests.
pub fn run(options: &Options) -> Result<()> {
    if options.faults {
        return run_faults(options.filter.as_deref());
    }
    let mut counts = Counts::default();
    let mut failures = Vec::new();
    let mut note = |result: Result<()>| -> Result<()> {
        if let Err(error) = result {
            processes::check_stopping()?;
            progress::line(&format!("{} {error:#}", progress::paint(31, "✗")));
            failures.push(format!("{error:#}"));
        }
        Ok(())
    };

    set_up()?;
    if options.filter.is_none() {
        if !options.no_check {
            note(check::run())?;
        }
        note(progress::step("testing the page", || {
            counted("ui", ui::test_command()?, &mut counts)
        }))?;
    }
    note(progress::step("testing the Rust workspace", || {
        test_rust(options.filter.as_deref(), &mut counts)
    }))?;
    if failures.is_empty() && counts.passed == 0 {
        failures.push("no test has that name".to_owned());
    }

    for failure in &failures {
        progress::line(&format!(
            "failed: {}",
            failure.lines().next().unwrap_or_default()
        ));
    }
    progress::line(&format!(
        "{} passed, {} failed, {} skipped",
        counts.passed, counts.failed, counts.skipped
    ));
    if failures.is_empty() && counts.failed == 0 {
        Ok(())
    } else {
        Err(anyhow!("the tests failed"))
    }
}

/// The fault matrix alone: neither the Worker nor the page nor a browser is part of it.
fn run_faults(filter: Option<&str>) -> Result<()> {
    stack::build_programs()?;
    try_servers()?;
    let mut command = Command::new(project::cargo());
    command.current_dir(project::root());
    // The whole workspace chooses the features, as for the programs.
    let matrix = [PACKAGES[0], &["--test", "product"]].concat();
    if project::in_path("cargo-nextest").is_some() {
        // What rows report is read from their output.
        let arguments = [
            "nextest",
            "run",
            "--profile",
            "faults",
            "--success-output",
            "immediate",
        ];
        let row = filter.unwrap_or_default();
        let rows = format!("test(/^{}.*{}/)", faults::MODULE, regex_lite::escape(row));
        command.args(arguments).args(&matrix).args(["-E", &rows]);
    } else {
        command.arg("test").args(&matrix).arg(faults::MODULE);
        command.args(["--", "--show-output"]);
        if std::env::var_os("RUST_TEST_THREADS").is_none() {
            command.env("RUST_TEST_THREADS", "2");
        }
    }
    faults::long(&mut command);
    let table = Arc::default();
    let sink = faults::hears(&table, processes::shown("faults"));
    let outcome = progress::step("doing what goes wrong in production", || {
        counted_into("faults", command, sink, &mut Counts::default())
    });
    let table = table.lock().unwrap_or_else(PoisonError::into_inner);
    table.show();
    // Each test is counted once, though its runner and the test itself tell of it.
    let (passed, failed) = table.counts();
    progress::line(&format!("{passed} passed, {failed} failed"));
    outcome?;
    if passed + failed == 0 {
        bail!("no row has that name");
    }
    Ok(())
}

/// Everything that tests need is installed and built before the first starts: two of them must not
/// install the same thing at once.
fn set_up() -> Result<()> {
    node::install_edge_tools()?;
    stack::build_programs()?;
    ui::build()?;
    edge::build(edge::Profile::Dev)?;
    tools::chromium()?;
    try_servers()
}

fn try_servers() -> Result<()> {
    progress::step("trying the private servers", || {
        drop(PrivateRedis::temporary(Durability::Fast)?);
        drop(PrivatePostgres::temporary(Durability::Fast)?);
        Ok(())
    })
}

/// The workspace, and the Worker's unit tests, which run natively; by themselves, because the
/// Worker's features are for another target.
const PACKAGES: [&[&str]; 2] = [
    &["--workspace", "--exclude", "edge"],
    &["--package", "edge"],
];

/// By cargo-nextest where it is installed (each test in a process of its own), else by `cargo
/// test`. Both must pass.
fn test_rust(filter: Option<&str>, counts: &mut Counts) -> Result<()> {
    let nextest = project::in_path("cargo-nextest").is_some();
    let cargo = |arguments: &[&str], packages: &[&str]| {
        let mut command = Command::new(project::cargo());
        command
            .current_dir(project::root())
            .args(arguments)
            .args(packages);
        command
    };
    let mut failed = None;
    for packages in PACKAGES {
        let mut command = if nextest {
            // With a filter, most packages have nothing to run.
            cargo(
                &["nextest", "run", "--no-fail-fast", "--no-tests", "pass"],
                packages,
            )
        } else {
            let mut command = cargo(&["test", "--no-fail-fast"], packages);
            // Whole products side by side, each with a browser, are too much for a small machine.
            if std::env::var_os("RUST_TEST_THREADS").is_none() {
                command.env("RUST_TEST_THREADS", "2");
            }
            command
        };
        command.args(filter);
        if let Err(error) = counted("test", command, counts) {
            processes::check_stopping()?;
            failed = failed.or(Some(error));
        }
    }
    if nextest && filter.is_none() {
        // nextest leaves out the examples in the documentation.
        let examples = cargo(&["test", "--quiet", "--doc"], PACKAGES[0]);
        if let Err(error) = counted("doc", examples, counts) {
            processes::check_stopping()?;
            failed = failed.or(Some(error));
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Runs a test command, shows its lines and adds up what it says.
fn counted(name: &str, command: Command, counts: &mut Counts) -> Result<()> {
    counted_into(name, command, processes::shown(name), counts)
}

/// The same with lines shown by `show`.
fn counted_into(name: &str, mut command: Command, show: Sink, counts: &mut Counts) -> Result<()> {
    command.env("NO_COLOR", "1");
    let shared: Arc<Mutex<Counts>> = Arc::default();
    let sum = Arc::clone(&shared);
    let sink: Sink = Box::new(move |line| {
        show(line);
        sum.lock().unwrap_or_else(PoisonError::into_inner).add(line);
    });
    let mut process = Process::start(name, command, sink)?;
    let status = process.wait(None)?;
    let found = *shared.lock().unwrap_or_else(PoisonError::into_inner);
    counts.passed += found.passed;
    counts.failed += found.failed;
    counts.skipped += found.skipped;
    if !status.success() {
        bail!("{name}: tests failed ({status})");
    }
    Ok(())
}

/// What test runners say at their end.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Counts {
    /// Adds a closing line of nextest (`Summary [ 1.2s] 3 tests run: 2 passed, 1 failed, 0
    /// skipped`), of `cargo test` (`test result: ok. 2 passed; 0 failed; 1 ignored; …`) or of
    /// vitest (`Tests  1 failed | 4 passed (5)`); other lines say nothing.
    fn add(&mut self, line: &str) {
        let line = line.trim();
        let numbers = if let Some(rest) = line.strip_prefix("Summary [") {
            rest.split_once("run:").map(|(_, numbers)| numbers)
        } else if let Some(rest) = line.strip_prefix("test result: ") {
            rest.split_once(". ").map(|(_, numbers)| numbers)
        } else {
            line.strip_prefix("Tests  ")
        };
        for number in numbers.unwrap_or_default().split([',', ';', '|', '(']) {
            let mut words = number.split_whitespace();
            let Some(count) = words.next().and_then(|word| word.parse::<u64>().ok()) else {
                continue;
            };
            match words.next() {
                Some("passed") => self.passed += count,
                // "timed out" and "exec failed" are failures as well.
                Some("failed" | "timed" | "exec") => self.failed += count,
                Some("skipped" | "ignored" | "todo") => self.skipped += count,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_of_every_runner_are_added_up() {
        let mut counts = Counts::default();
        for line in [
            "     Summary [  21.650s] 22 tests run: 21 passed (1 slow), 1 failed, 3 skipped",
            "test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.01s",
            "      Tests  1 failed | 4 passed | 2 skipped (7)",
            " Test Files  1 failed | 4 passed (5)",
            "test it::works ... ok",
            "        PASS [   0.005s] (1/2) xtask test result: ok",
        ] {
            counts.add(line);
        }
        assert_eq!(
            counts,
            Counts {
                passed: 27,
                failed: 3,
                skipped: 6
            }
        );
        let mut late = Counts::default();
        late.add(
            "     Summary [ 9.0s] 3 tests run: 1 passed, 1 timed out, 1 exec failed, 0 skipped",
        );
        assert_eq!(
            late,
            Counts {
                passed: 1,
                failed: 2,
                skipped: 0
            }
        );
    }
}
