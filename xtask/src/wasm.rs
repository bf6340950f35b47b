//! A Rust toolchain that compiles for wasm32, from what the machine has.
//!
//! In order: the project's own toolchain when it has the target; `rustup target add` where rustup
//! may install (`RUSTUP_AUTO_INSTALL` is not 0); Debian's packages of rustc, its sources and lld,
//! from which the target's standard library is built once into the per-user cache. The last way
//! uses the distribution's compiler for the edge only; everything native stays with the project's
//! toolchain. A crash in the middle leaves no finished sysroot, and the next run builds it again.

use std::{
    env,
    ffi::OsStr,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, anyhow, bail};

use crate::{packages, processes, progress, project, tools};

/// The target of Workers.
pub const TARGET: &str = "wasm32-unknown-unknown";

/// Debian's packages: compiler, cargo, the standard library's sources, and a linker.
const DEBIAN: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "lld-19"];

/// A toolchain with the wasm32 target.
#[derive(Debug, Clone)]
pub enum Toolchain {
    /// The project's own toolchain has the target.
    Own,
    /// The distribution's compiler with a sysroot that we built.
    Distribution {
        /// Holds `rustc` and `cargo` and must be first in `PATH`.
        bin: PathBuf,
        /// What `rustc --sysroot` gets.
        sysroot: PathBuf,
        /// The compiler's version, an input of what it builds.
        version: String,
    },
}

impl Toolchain {
    /// Finds, installs or builds one.
    pub fn prepare() -> Result<Self> {
        if own_has_target() {
            return Ok(Self::Own);
        }
        let may_install = env::var("RUSTUP_AUTO_INSTALL").map_or(true, |value| value != "0");
        if may_install && let Some(rustup) = project::in_path("rustup") {
            let added = progress::step(&format!("rustup target add {TARGET}"), || {
                let mut command = Command::new(rustup);
                command.args(["target", "add", TARGET]);
                processes::run("rustup", command)
            });
            if added.is_ok() && own_has_target() {
                return Ok(Self::Own);
            }
            processes::check_stopping()?;
        }
        distribution()
    }

    /// A name that changes when the compiler does.
    pub fn version(&self) -> String {
        match self {
            Self::Own => ask_version(Path::new("rustc")).unwrap_or_default(),
            Self::Distribution { version, .. } => version.clone(),
        }
    }

    /// Makes `command` (cargo, worker-build) use this toolchain. What it builds goes to
    /// `target-wasm/`: another compiler in the same folder would rebuild everything by turns.
    pub fn apply(&self, command: &mut Command) {
        if let Self::Distribution { bin, sysroot, .. } = self {
            // Our own cargo has told its children about itself.
            for (name, _) in env::vars_os() {
                if belongs_to_another_toolchain(&name.to_string_lossy()) {
                    command.env_remove(&name);
                }
            }
            let path = env::var_os("PATH").unwrap_or_default();
            let folders = [bin.clone()].into_iter().chain(env::split_paths(&path));
            if let Ok(path) = env::join_paths(folders) {
                command.env("PATH", path);
            }
            // Clippy runs the compiler inside itself and does not see the wrapper's argument.
            command.env("SYSROOT", sysroot);
        }
        command.env("CARGO_TARGET_DIR", project::root().join("target-wasm"));
    }

    /// The `cargo` of this toolchain.
    pub fn cargo(&self) -> Command {
        let mut command = match self {
            Self::Own => Command::new(project::cargo()),
            Self::Distribution { bin, .. } => Command::new(bin.join("cargo")),
        };
        self.apply(&mut command);
        command
    }

    /// Makes sure that `cargo clippy` works with this toolchain.
    pub fn prepare_clippy(&self) -> Result<()> {
        match self {
            Self::Own => Ok(()),
            Self::Distribution { .. } => {
                packages::find_or_install("Debian's clippy", &["rust-web-clippy"], || {
                    project::is_program(Path::new("/usr/bin/clippy-driver")).then_some(())
                })
            }
        }
    }
}

/// Variables that another toolchain set or that change what is built. Registry, network and home
/// settings of cargo stay: they are the user's.
fn belongs_to_another_toolchain(name: &str) -> bool {
    const KEPT: [&str; 5] = [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTR",
        "CARGO_SOURCE_",
    ];
    if name == "LD_LIBRARY_PATH" || name == "SYSROOT" {
        return true;
    }
    (name.starts_with("CARGO") && !KEPT.iter().any(|kept| name.starts_with(kept)))
        || (name.starts_with("RUST") && !matches!(name, "RUSTUP_AUTO_INSTALL" | "RUSTUP_HOME"))
}

fn own_has_target() -> bool {
    let mut rustc = Command::new("rustc");
    rustc.args(["--print", "target-libdir", "--target", TARGET]);
    processes::answer(rustc).is_ok_and(|folder| Path::new(&folder).is_dir())
}

fn ask_version(rustc: &Path) -> Result<String> {
    let mut command = Command::new(rustc);
    command.arg("-vV");
    clean(&mut command);
    processes::answer(command)
}

fn clean(command: &mut Command) {
    for (name, _) in env::vars_os() {
        if belongs_to_another_toolchain(&name.to_string_lossy()) {
            command.env_remove(&name);
        }
    }
}

/// What Debian installs, at fixed places: `PATH` may have rustup's programs first.
struct Distribution {
    rustc: PathBuf,
    cargo: PathBuf,
    lld: PathBuf,
}

impl Distribution {
    fn find() -> Option<Self> {
        let rustc = PathBuf::from("/usr/bin/rustc");
        let cargo = PathBuf::from("/usr/bin/cargo");
        let source = Path::new("/usr/lib/rustlib/src/rust/library/std/Cargo.toml");
        let lld = newest_lld()?;
        (project::is_program(&rustc) && project::is_program(&cargo) && source.is_file())
            .then_some(Self { rustc, cargo, lld })
    }
}

/// The newest `lld-19` or later: an older linker can't read what the compiler writes.
fn newest_lld() -> Option<PathBuf> {
    fs::read_dir("/usr/bin")
        .ok()?
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let version: u32 = name.strip_prefix("lld-")?.parse().ok()?;
            (version >= 19).then(|| (version, entry.path()))
        })
        .max()
        .map(|(_, file)| file)
}

fn distribution() -> Result<Toolchain> {
    let found = packages::find_or_install(
        &format!("a Rust toolchain for {TARGET} (rustup target add {TARGET}, or Debian's)"),
        &DEBIAN,
        Distribution::find,
    )?;
    let version = ask_version(&found.rustc)?;
    let field = |name: &str| {
        version
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .map(str::trim)
            .ok_or_else(|| anyhow!("rustc -vV has no line {name}"))
    };
    let (release, host) = (field("release:")?, field("host:")?);
    let commit: String = field("commit-hash:")?.chars().take(9).collect();
    let folder = project::cache()
        .join("wasm-toolchain")
        .join(format!("{release}-{commit}"));
    let toolchain = Toolchain::Distribution {
        bin: folder.join("bin"),
        sysroot: folder.join("sysroot"),
        version: version.clone(),
    };
    if folder.is_dir() {
        return Ok(toolchain);
    }
    let _one_at_a_time = tools::lock(&project::cache().join("wasm-toolchain/lock"))?;
    if folder.is_dir() {
        return Ok(toolchain);
    }
    progress::step(
        &format!("building the standard library for {TARGET} (once per user)"),
        || build_sysroot(&found, host, &folder),
    )?;
    Ok(toolchain)
}

/// Builds std for the target from the distribution's sources and lays out a sysroot that `rustc`
/// takes as its own.
fn build_sysroot(distribution: &Distribution, host: &str, folder: &Path) -> Result<()> {
    let parent = folder.parent().context("the cache has no parent folder")?;
    let fresh = tempfile::Builder::new()
        .prefix("new-")
        .tempdir_in(parent)
        .context("can't make a folder in the cache")?;

    let empty = fresh.path().join("build");
    fs::create_dir_all(empty.join("src"))?;
    fs::write(empty.join("src/lib.rs"), "")?;
    fs::write(
        empty.join("Cargo.toml"),
        "[package]\nname = \"ttlc_sysroot\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n",
    )?;
    let mut cargo = Command::new(&distribution.cargo);
    clean(&mut cargo);
    cargo
        .args(["build", "--release", "--target", TARGET])
        .args(["-Z", "build-std=std,panic_abort"])
        .current_dir(&empty)
        // `-Z` on a stable compiler, for the standard library alone, which is made that way too.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTC", &distribution.rustc)
        // Without bitcode in std a build with LTO fails.
        .env("RUSTFLAGS", "-Cembed-bitcode=yes");
    processes::run("std", cargo)?;

    let sysroot = fresh.path().join("sysroot");
    let rustlib = sysroot.join("lib/rustlib");
    let for_target = rustlib.join(TARGET).join("lib");
    fs::create_dir_all(&for_target)?;
    let built = empty.join("target").join(TARGET).join("release/deps");
    let mut count = 0;
    for entry in fs::read_dir(&built)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().extension() == Some(OsStr::new("rlib"))
            && !name.starts_with("libttlc_sysroot")
        {
            fs::copy(entry.path(), for_target.join(&name))?;
            count += 1;
        }
    }
    if count == 0 {
        bail!("the build of the standard library left no .rlib file");
    }

    // Build scripts and proc macros need the host's own standard library.
    let mut rustc = Command::new(&distribution.rustc);
    clean(&mut rustc);
    rustc.args(["--print", "target-libdir"]);
    let for_host = rustlib.join(host);
    fs::create_dir_all(for_host.join("bin"))?;
    symlink(processes::answer(rustc)?, for_host.join("lib"))?;
    symlink(&distribution.lld, for_host.join("bin/rust-lld"))?;

    let bin = fresh.path().join("bin");
    fs::create_dir_all(&bin)?;
    let wrapper = bin.join("rustc");
    fs::write(
        &wrapper,
        format!(
            "#!/bin/sh\nexec {} --sysroot {} \"$@\"\n",
            quoted(&distribution.rustc),
            quoted(&folder.join("sysroot"))
        ),
    )?;
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
    symlink(&distribution.cargo, bin.join("cargo"))?;
    let clippy = Path::new("/usr/bin/cargo-clippy");
    symlink(clippy, bin.join("cargo-clippy"))?;
    symlink("/usr/bin/clippy-driver", bin.join("clippy-driver"))?;

    fs::remove_dir_all(&empty)?;
    // The last step makes it visible, whole or not at all.
    fs::rename(fresh.keep(), folder).context("moving the sysroot into place")
}

/// A path as one word of a shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.to_string_lossy().replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_other_toolchains_variables_are_cleared() {
        for name in [
            "CARGO",
            "CARGO_MANIFEST_DIR",
            "CARGO_TARGET_DIR",
            "RUSTFLAGS",
            "RUSTUP_TOOLCHAIN",
            "LD_LIBRARY_PATH",
        ] {
            assert!(belongs_to_another_toolchain(name), "{name}");
        }
        for name in [
            "CARGO_HOME",
            "CARGO_NET_OFFLINE",
            "RUSTUP_AUTO_INSTALL",
            "PATH",
            "HOME",
        ] {
            assert!(!belongs_to_another_toolchain(name), "{name}");
        }
    }

    #[test]
    fn a_shell_word_survives_quotes() {
        assert_eq!(quoted(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }
}
