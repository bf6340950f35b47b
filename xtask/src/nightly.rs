//! `cargo xtask nightly`: what takes too long for every change.
//!
//! In: the checkout and how long each fuzz target may run. Out: an error when anything fails, with
//! the file that makes a target crash. First the property tests with many more cases, optimised, so
//! that their bound of 50 ms is exact; they also write the seeds, from the fixtures. Then each
//! target of `fuzz/` in turn, on what earlier runs have found (`fuzz/corpus`). Needs nothing
//! beside the project's toolchain and a C++ compiler: the targets are built as `cargo fuzz run
//! --sanitizer none` builds them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result, anyhow, bail};

use crate::{
    processes::{self, Process, Sink},
    progress, project,
};

/// What the user asked for.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How long each target runs.
    pub seconds: u32,
    /// How many cases each property is tried on; 0 leaves them, and the seeds, out.
    pub cases: u32,
}

/// The targets, and the longest input that each makes up, in bytes. Long inputs are slow and find
/// little: the tests try those.
const TARGETS: [(&str, u32); 4] = [
    ("frame", 32_768),
    ("inflate", 32_768),
    ("protobuf_event", 16_384),
    ("json_event", 16_384),
];

/// What `cargo fuzz` gives to the compiler: count every branch and comparison.
const RUSTFLAGS: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing \
    -Cllvm-args=-simplifycfg-branch-fold-threshold=0 -Ccodegen-units=1";

/// Runs everything; what fails does not stop the next.
pub fn run(options: Options) -> Result<()> {
    let mut failures = Vec::new();
    let mut note = |result: Result<()>| -> Result<()> {
        if let Err(error) = result {
            processes::check_stopping()?;
            progress::line(&format!("{} {error:#}", progress::paint(31, "✗")));
            failures.push(format!("{error:#}"));
        }
        Ok(())
    };
    let corpus = project::root().join("fuzz/corpus");
    if options.cases > 0 {
        let what = format!("trying each property on {} cases", options.cases);
        note(progress::step(&what, || properties(options.cases, &corpus)))?;
    }
    let built = progress::step("building the fuzz targets", build);
    match built {
        Ok(programs) => {
            for (target, longest) in TARGETS {
                let what = format!("fuzzing {target} for {} s", options.seconds);
                note(progress::step(&what, || {
                    fuzz(&programs, &corpus, target, longest, options.seconds)
                }))?;
            }
        }
        Err(error) => note(Err(error))?,
    }
    if failures.is_empty() {
        return Ok(());
    }
    Err(anyhow!("{}", failures.join("\n")))
}

/// The property tests, optimised; they write the seeds of the targets into `corpus`.
fn properties(cases: u32, corpus: &Path) -> Result<()> {
    for chosen in [
        &["--test", "untrusted"][..],
        &["--lib", "normalizer::", "ingest::direct::frame::"],
    ] {
        let (kind, names) = chosen.split_at(if chosen[0] == "--lib" { 1 } else { 2 });
        let mut tests = Command::new(project::cargo());
        tests
            .args(["test", "--release", "--package", "daemon"])
            .args(kind)
            .arg("--")
            .args(names)
            .current_dir(project::root())
            .env("PROPTEST_CASES", cases.to_string())
            .env("TTLC_FUZZ_SEEDS", corpus);
        run_shown("test", tests, processes::shown("test"))?;
    }
    Ok(())
}

/// Builds the targets; the folder that they are in.
fn build() -> Result<PathBuf> {
    let host = host()?;
    let target_dir = project::target().join("fuzz");
    let mut cargo = Command::new(project::cargo());
    cargo
        // With a target named, what runs while building is built without these flags.
        .args(["build", "--release", "--target", &host])
        .arg("--target-dir")
        .arg(&target_dir)
        .current_dir(project::root().join("fuzz"))
        .env("RUSTFLAGS", RUSTFLAGS)
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    processes::run("cargo", cargo)?;
    Ok(target_dir.join(host).join("release"))
}

/// The name of this kind of machine, as the compiler says it.
fn host() -> Result<String> {
    let rustc = project::cargo().with_file_name("rustc");
    let rustc = if project::is_program(&rustc) {
        rustc
    } else {
        PathBuf::from("rustc")
    };
    let output = Command::new(rustc)
        .arg("-vV")
        .output()
        .context("rustc -vV")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not say its host")?.to_owned())
}

/// Runs one target; an error names the input that makes it crash.
fn fuzz(programs: &Path, corpus: &Path, target: &str, longest: u32, seconds: u32) -> Result<()> {
    let artifacts = project::root().join("fuzz/artifacts").join(target);
    let corpus = corpus.join(target);
    for folder in [&artifacts, &corpus] {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    let program = programs.join(target);
    let mut command = Command::new(&program);
    command
        .arg(&corpus)
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={longest}"))
        // A hang, or a leak over many inputs; one input alone is held to less by the target.
        .args(["-timeout=10", "-rss_limit_mb=1024", "-print_final_stats=1"])
        .current_dir(project::root());
    let written = Arc::new(Mutex::new(None));
    let seen = Arc::clone(&written);
    let show = processes::shown(target);
    let sink: Sink = Box::new(move |line| {
        if let Some((_, path)) = line.split_once("Test unit written to ") {
            *seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(path.trim().to_owned());
        }
        if is_worth_showing(line) {
            show(line);
        }
    });
    let result = run_shown(target, command, sink);
    let written = written
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    match (result, written) {
        (Ok(()), None) => Ok(()),
        (Err(error), None) => Err(error),
        (_, Some(input)) => bail!(
            "{target} crashes on {input}; again: {} {input}",
            program.display()
        ),
    }
}

/// Progress now and then, the end, and what went wrong; not each new input.
fn is_worth_showing(line: &str) -> bool {
    line.starts_with("stat::")
        || [
            "INITED",
            "pulse",
            "DONE",
            "panicked",
            "ERROR",
            "Test unit",
            "takes",
        ]
        .iter()
        .any(|word| line.contains(word))
}

fn run_shown(name: &str, command: Command, sink: Sink) -> Result<()> {
    let mut process = Process::start(name, command, sink)?;
    let status = process.wait(None)?;
    if !status.success() {
        bail!("{name} failed ({status})");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_of_the_fuzz_package_is_run() {
        let folder = project::root().join("fuzz/fuzz_targets");
        let mut files: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|file| {
                file.unwrap()
                    .path()
                    .file_stem()
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned()
            })
            .collect();
        files.sort();
        let mut targets = TARGETS.map(|(target, _)| target);
        targets.sort_unstable();
        assert_eq!(files, targets);
    }

    #[test]
    fn the_host_is_known() {
        assert!(host().unwrap().contains('-'));
    }
}
