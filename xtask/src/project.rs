//! Where things are: the checkout, its data folder, and the cache that all checkouts of one user
//! share. Only paths; nothing is created here.

use std::{
    env,
    path::{Path, PathBuf},
};

/// The checkout's root: the folder above this package.
pub fn root() -> PathBuf {
    // Set by cargo for `cargo xtask` and for test programs; the compiled-in path serves a program
    // that is started by hand.
    let package = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    package
        .ancestors()
        .find(|folder| folder.join("xtask/Cargo.toml").is_file())
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")))
        .to_path_buf()
}

/// Data of `cargo xtask dev`: private Redis, private Postgres, the Worker's storage.
pub fn data() -> PathBuf {
    root().join(".data")
}

/// Tools and toolchains, per user and not per checkout: `$XDG_CACHE_HOME/ttlc`, else
/// `~/.cache/ttlc`.
pub fn cache() -> PathBuf {
    let base = env::var_os("XDG_CACHE_HOME")
        .filter(|value| Path::new(value).is_absolute())
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cache")))
        .unwrap_or_else(env::temp_dir);
    base.join("ttlc")
}

/// Where cargo puts what it builds for this machine.
pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// A development build of one of the workspace's programs, for example `ttlc`.
pub fn program(name: &str) -> PathBuf {
    target().join("debug").join(name)
}

/// The project's own `cargo`: the one that runs us, else the one in `PATH`.
pub fn cargo() -> PathBuf {
    env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

/// The first program of this name in `PATH`.
pub fn in_path(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|folder| folder.join(name))
        .find(|file| is_program(file))
}

/// A file that may be executed.
pub fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
