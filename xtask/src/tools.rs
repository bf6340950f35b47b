//! Finds or installs each tool; its version stands here and nowhere else (npm tools: in
//! `package.json`).
//!
//! What cargo installs goes to the per-user cache, one folder per tool and version, so a second
//! checkout or a newer version never disturbs the first. A crash in the middle leaves no program
//! in the folder, and the next run installs again.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{packages, processes, progress, project};

/// Must be the version of the `wasm-bindgen` crate in `Cargo.lock`; [`wasm_bindgen`] checks.
pub const WASM_BINDGEN: &str = "0.2.129";
/// Belongs to the `worker` crate of the same version.
pub const WORKER_BUILD: &str = "0.8.7";
/// Licences, sources and advisories of dependencies.
pub const CARGO_DENY: &str = "0.20.2";

/// The `wasm-bindgen` program.
pub fn wasm_bindgen() -> Result<PathBuf> {
    let lock = fs::read_to_string(project::root().join("Cargo.lock")).unwrap_or_default();
    if let Some(locked) = locked_version(&lock, "wasm-bindgen")
        && locked != WASM_BINDGEN
    {
        bail!(
            "Cargo.lock has wasm-bindgen {locked}, xtask/src/tools.rs has {WASM_BINDGEN}: they must be the same"
        );
    }
    from_cargo("wasm-bindgen-cli", WASM_BINDGEN, "wasm-bindgen")
}

/// The `worker-build` program.
pub fn worker_build() -> Result<PathBuf> {
    from_cargo("worker-build", WORKER_BUILD, "worker-build")
}

/// The `cargo-deny` program.
pub fn cargo_deny() -> Result<PathBuf> {
    from_cargo("cargo-deny", CARGO_DENY, "cargo-deny")
}

/// A Chromium or Chrome that can run headless.
pub fn chromium() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("CHROME_BIN").map(PathBuf::from) {
        if project::is_program(&named) {
            return Ok(named);
        }
        bail!("CHROME_BIN names no program: {}", named.display());
    }
    let find = || {
        [
            "chromium",
            "chromium-browser",
            "google-chrome",
            "google-chrome-stable",
        ]
        .into_iter()
        .find_map(project::in_path)
        .or_else(|| {
            [
                "/Applications/Chromium.app/Contents/MacOS/Chromium",
                "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
            ]
            .into_iter()
            .map(PathBuf::from)
            .find(|file| project::is_program(file))
        })
    };
    packages::find_or_install("a Chromium browser", &["chromium"], find)
}

/// Installs a program with the project's native toolchain, once per version.
fn from_cargo(package: &str, version: &str, program: &str) -> Result<PathBuf> {
    let tools = project::cache().join("tools");
    let folder = tools.join(format!("{package}-{version}"));
    let file = folder.join("bin").join(program);
    if project::is_program(&file) {
        return Ok(file);
    }
    let _one_at_a_time = lock(&tools.join("lock"))?;
    if project::is_program(&file) {
        return Ok(file);
    }
    progress::step(
        &format!("installing {package} {version} (once per user)"),
        || {
            let mut cargo = Command::new(project::cargo());
            cargo
                .args(["install", "--locked", "--version"])
                .arg(format!("={version}"))
                .arg("--root")
                .arg(&folder)
                // The tools share dependencies.
                .arg("--target-dir")
                .arg(tools.join("target"))
                .arg(package)
                // Not the project's folder: its cargo configuration is none of theirs.
                .current_dir(&tools)
                // They run for a second at a time and should not take minutes to build.
                .env("CARGO_PROFILE_RELEASE_LTO", "off")
                .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
                .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
                .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
                .env_remove("RUSTFLAGS")
                .env_remove("CARGO_TARGET_DIR");
            processes::run(package, cargo)
        },
    )?;
    if !project::is_program(&file) {
        bail!(
            "cargo install {package} left no program at {}",
            file.display()
        );
    }
    Ok(file)
}

/// A lock between several of us at once, held until dropped (also by a crash). Says so when it has
/// to wait.
pub(crate) fn lock(file: &Path) -> Result<File> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    let handle = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(file)
        .with_context(|| format!("opening {}", file.display()))?;
    if handle.try_lock().is_err() {
        progress::line("waiting for another cargo xtask of yours");
        handle
            .lock()
            .with_context(|| format!("locking {}", file.display()))?;
    }
    Ok(handle)
}

/// The version of a package in the text of a `Cargo.lock`.
fn locked_version<'a>(lock: &'a str, package: &str) -> Option<&'a str> {
    let name = format!("name = \"{package}\"");
    let mut lines = lock.lines().skip_while(|line| *line != name);
    lines
        .nth(1)?
        .strip_prefix("version = \"")?
        .strip_suffix('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_locked_version_is_that_of_the_very_package() {
        let lock = "[[package]]\nname = \"wasm-bindgen-futures\"\nversion = \"0.4.1\"\n\n[[package]]\nname = \"wasm-bindgen\"\nversion = \"0.2.129\"\n";
        assert_eq!(locked_version(lock, "wasm-bindgen"), Some("0.2.129"));
        assert_eq!(locked_version(lock, "wasm"), None);
    }
}
