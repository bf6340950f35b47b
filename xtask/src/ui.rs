//! The page: builds, checks and tests `ui/` with the npm scripts of its own package.
//!
//! In: `ui/` and the contracts that its types come from. Out: `ui/dist/`, which the Worker serves.
//! Nothing is built when no input changed.

use std::{env, process::Command};

use anyhow::Result;

use crate::{node, processes, progress, project, stamp::Stamp, tools};

/// Installs the packages and builds `ui/dist/`.
pub fn build() -> Result<()> {
    node::install_ui()?;
    let root = project::root();
    let _one_at_a_time = tools::lock(&project::target().join("xtask/ui.lock"))?;
    let stamp = Stamp::of(
        project::target().join("xtask/ui.stamp"),
        &[root.join("ui"), root.join("docs/contracts")],
        &["vite build"],
    )?;
    if stamp.is_fresh(&[root.join("ui/dist/index.html")]) {
        return Ok(());
    }
    progress::step("building the page", || {
        processes::run("ui", npm_run("build")?)
    })?;
    stamp.write()
}

/// Types and lint.
pub fn check() -> Result<()> {
    node::install_ui()?;
    processes::run("ui", npm_run("check")?)
}

/// Unit tests; returns what `npm test` was run as, for a caller that counts its lines.
pub fn test_command() -> Result<Command> {
    node::install_ui()?;
    npm_run("test")
}

fn npm_run(script: &str) -> Result<Command> {
    let mut command = node::npm(&project::root().join("ui"))?;
    command.args(["run", "--silent", script]);
    // The same Node everywhere: that of the root package, where it is installed.
    if let Some(folder) = node::node().parent()
        && folder.is_dir()
    {
        let path = env::var_os("PATH").unwrap_or_default();
        let folders = [folder.to_path_buf()]
            .into_iter()
            .chain(env::split_paths(&path));
        command.env("PATH", env::join_paths(folders)?);
    }
    Ok(command)
}
