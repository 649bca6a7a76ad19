//! Where things are: the workspace, its target directory, the user's cache.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;

/// Returns the workspace's root directory.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or_else(|| Path::new("."))
}

/// Returns the cargo of the active toolchain, the one that runs this command.
pub(crate) fn cargo() -> PathBuf {
    env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

/// Returns cargo's target directory for this workspace, wherever it has been configured.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let mut cargo = Command::new(cargo());
    cargo.current_dir(root()).args([
        "metadata",
        "--no-deps",
        "--offline",
        "--format-version",
        "1",
    ]);
    let metadata: serde_json::Value = serde_json::from_str(&process::capture(&mut cargo)?)?;
    let dir = metadata["target_directory"]
        .as_str()
        .context("cargo names no target directory")?;
    Ok(PathBuf::from(dir))
}

/// Returns the folder for what is downloaded once and shared between clones:
/// `$QUOTA_GATE_CACHE`, else `quota-gate` in the user's cache directory.
///
/// # Errors
/// None of `QUOTA_GATE_CACHE`, `XDG_CACHE_HOME` and `HOME` is set.
pub(crate) fn cache_dir() -> Result<PathBuf> {
    let set = |name| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    set("QUOTA_GATE_CACHE")
        .map(|dir| root().join(dir))
        .or_else(|| set("XDG_CACHE_HOME").map(|dir| dir.join("quota-gate")))
        .or_else(|| set("HOME").map(|dir| dir.join(".cache/quota-gate")))
        .context("no place for the cache: set QUOTA_GATE_CACHE to a directory")
}

/// Returns the folder with what cargo has downloaded.
pub(crate) fn cargo_home() -> PathBuf {
    let home = || env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    env::var_os("CARGO_HOME").map_or_else(|| home().join(".cargo"), PathBuf::from)
}

/// Returns where the shipped module is put.
pub(crate) fn module() -> PathBuf {
    root().join("dist/quota_gate.wasm")
}

/// Returns the program's full path if it is on PATH.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}
