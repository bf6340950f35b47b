//! npm packages and the Node.js that comes as one of them.
//!
//! The system's npm (any Node from 20) installs what the lock file says, wrangler among it, and
//! wrangler then runs under the `node` package's own Node 22. `npm ci` runs only when a
//! `package.json` or lock file changed since it last succeeded; after a crash in its middle it
//! runs again.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{packages, processes, progress, project, stamp::Stamp, tools};

/// Installs the root `package.json`: wrangler, Node 22, esbuild, binaryen.
pub fn install_edge_tools() -> Result<()> {
    install(&project::root(), "edge")?;
    let node = node();
    if !project::is_program(&node) {
        // npm that does not know `allowScripts` and was told to ignore scripts.
        bail!(
            "npm installed no Node 22: allow install scripts (`npm config get ignore-scripts` must be false)"
        );
    }
    Ok(())
}

/// Installs the packages of the UI.
pub fn install_ui() -> Result<()> {
    install(&project::root().join("ui"), "ui")
}

/// Installs what the benches of ingest and the pipeline compare with.
pub fn install_bench() -> Result<()> {
    install(&project::root().join("tests/bench/node"), "bench")
}

/// Node 22 of the root `package.json`.
pub fn node() -> PathBuf {
    project::root().join("node_modules/node/bin/node")
}

/// A program of a root npm package that is a script for Node.
pub fn script(path: &str) -> PathBuf {
    project::root().join("node_modules").join(path)
}

/// `npm` with what keeps it quiet and alike everywhere.
pub fn npm(folder: &Path) -> Result<Command> {
    let npm = packages::find_or_install("npm", &["npm"], || project::in_path("npm"))?;
    let mut command = Command::new(npm);
    command
        .current_dir(folder)
        .env("NPM_CONFIG_FUND", "false")
        .env("NPM_CONFIG_AUDIT", "false")
        .env("NPM_CONFIG_UPDATE_NOTIFIER", "false");
    Ok(command)
}

fn install(folder: &Path, name: &str) -> Result<()> {
    let modules = folder.join("node_modules");
    // Not in `node_modules`, which npm removes.
    let _one_at_a_time = tools::lock(&project::target().join(format!("xtask/npm-{name}.lock")))?;
    let stamp = Stamp::of(
        modules.join(".ttlc-stamp"),
        &[
            folder.join("package.json"),
            folder.join("package-lock.json"),
        ],
        &["npm ci"],
    )?;
    if stamp.is_fresh(&[modules.join(".package-lock.json")]) {
        return Ok(());
    }
    progress::step(&format!("npm ci ({name})"), || {
        let mut command = npm(folder)?;
        command.args(["ci", "--no-progress", "--loglevel=error"]);
        processes::run("npm", command)
    })
    .with_context(|| format!("in {}", folder.display()))?;
    stamp.write()
}
