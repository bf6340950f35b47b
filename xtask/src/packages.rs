//! System packages. On Debian and its kin as root: installs what is missing. Elsewhere: one line
//! that names the package to install.

use std::{path::Path, process::Command};

use anyhow::{Result, anyhow, bail};

use crate::{processes, progress, project, tools};

/// Calls `find`, installs the Debian `packages` when it finds nothing, and calls it again.
pub fn find_or_install<T>(
    what: &str,
    packages: &[&str],
    find: impl Fn() -> Option<T>,
) -> Result<T> {
    if let Some(found) = find() {
        return Ok(found);
    }
    install(what, packages)?;
    find().ok_or_else(|| {
        anyhow!(
            "{what} not found, although {} is installed",
            packages.join(", ")
        )
    })
}

/// Installs Debian packages, or says which to install.
fn install(what: &str, packages: &[&str]) -> Result<()> {
    let names = packages.join(" ");
    let Some(apt) = project::in_path("apt-get") else {
        bail!(
            "{what} not found: install it with your package manager (Debian: {names}; Homebrew: {})",
            homebrew(packages)
        );
    };
    if !rustix::process::geteuid().is_root() {
        bail!("{what} not found: run `sudo apt-get install {names}`");
    }
    let _one_at_a_time = tools::lock(&project::cache().join("apt.lock"))?;
    progress::step(&format!("installing {names} (apt-get)"), || {
        let apt_get = |arguments: &[&str]| {
            let mut command = Command::new(&apt);
            command
                .args(["-q", "-y", "-o", "DPkg::Lock::Timeout=300"])
                .args(arguments)
                .env("DEBIAN_FRONTEND", "noninteractive");
            processes::run("apt-get", command)
        };
        let mut arguments = vec!["install", "--no-install-recommends"];
        arguments.extend(packages);
        let known = Path::new("/var/lib/apt/lists")
            .read_dir()
            .is_ok_and(|mut lists| {
                lists.any(|file| {
                    file.is_ok_and(|file| file.file_name().to_string_lossy().contains("Packages"))
                })
            });
        if known && apt_get(&arguments).is_ok() {
            return Ok(());
        }
        // No list of packages yet, or one that is too old.
        apt_get(&["update"])?;
        apt_get(&arguments)
    })
}

fn homebrew(packages: &[&str]) -> String {
    let names: Vec<_> = packages
        .iter()
        .map(|package| match *package {
            "redis-server" => "redis",
            "postgresql" => "postgresql@17",
            "npm" | "nodejs" => "node",
            other => other,
        })
        .collect();
    names.join(" ")
}
