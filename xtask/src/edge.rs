//! Builds the Worker: `edge/` compiled to wasm32 and bundled into `edge/build/`.
//!
//! In: `edge/`, `shared/`, the manifests, `Cargo.lock`, the toolchain. Out: `edge/build/index.js`
//! and its wasm file, which `wrangler dev` serves as they are. Nothing is built when no input
//! changed. A crash in the middle leaves the former product and an old stamp.

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use flate2::{Compression, write::GzEncoder};

use crate::{node, processes, progress, project, stamp::Stamp, tools, wasm::Toolchain};

/// How the Worker is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Quick to rebuild: cargo profile `edge-dev`, no wasm-opt.
    Dev,
    /// Small and fast: link-time optimisation and wasm-opt.
    Release,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Release => "release",
        }
    }
}

/// The Worker's main module, as `wrangler.toml` names it.
pub fn main_module() -> PathBuf {
    project::root().join("edge/build/index.js")
}

/// Builds the Worker unless it is there already. The npm packages of the root must be installed.
pub fn build(profile: Profile) -> Result<()> {
    let root = project::root();
    build_crate(&root.join("edge"), &root.join("shared"), profile)
}

/// Builds a Worker crate that lies in `folder` and uses the crate in `shared`.
fn build_crate(folder: &Path, shared: &Path, profile: Profile) -> Result<()> {
    let root = project::root();
    let _one_at_a_time = tools::lock(&root.join("target-wasm/edge.lock"))?;
    let toolchain = Toolchain::prepare()?;
    let build = folder.join("build");
    let stamp = Stamp::of(
        root.join("target-wasm/edge.stamp"),
        &[
            folder.to_path_buf(),
            shared.to_path_buf(),
            root.join("Cargo.toml"),
            root.join("Cargo.lock"),
        ],
        &[
            profile.name(),
            &toolchain.version(),
            tools::WASM_BINDGEN,
            tools::WORKER_BUILD,
        ],
    )?;
    if stamp.is_fresh(&[build.join("index.js"), build.join("index_bg.wasm")]) {
        return Ok(());
    }
    let worker_build = tools::worker_build()?;
    let wasm_bindgen = tools::wasm_bindgen()?;
    progress::step(&format!("building the Worker ({})", profile.name()), || {
        let mut command = Command::new(worker_build);
        match profile {
            Profile::Dev => command.args(["--no-opt", "--profile", "edge-dev"]),
            Profile::Release => command.arg("--release"),
        };
        command
            .current_dir(folder)
            // worker-build downloads what these do not name.
            .env("WASM_BINDGEN_BIN", wasm_bindgen)
            .env("ESBUILD_BIN", node::script("esbuild/bin/esbuild"))
            .env("WASM_OPT_BIN", wasm_opt()?);
        toolchain.apply(&mut command);
        processes::run("edge", command)
    })?;
    stamp.write()
}

/// The size of the built wasm file in bytes: as it is, and gzipped as Cloudflare counts it.
pub fn sizes() -> Result<(u64, u64)> {
    let file = main_module().with_file_name("index_bg.wasm");
    let bytes = fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(&bytes)?;
    Ok((bytes.len() as u64, gzip.finish()?.len() as u64))
}

/// npm's wasm-opt is a script for Node, whose own first line would take the system's Node.
fn wasm_opt() -> Result<PathBuf> {
    let file = project::root().join("target-wasm/wasm-opt");
    fs::write(
        &file,
        format!(
            "#!/bin/sh\nexec \"{}\" \"{}\" \"$@\"\n",
            node::node().display(),
            node::script("binaryen/bin/wasm-opt").display()
        ),
    )?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
    Ok(file)
}
