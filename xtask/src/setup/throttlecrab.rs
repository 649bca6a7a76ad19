//! ThrottleCrab's server from crates.io: pinned, compiled into the cache, with a protoc from there.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::paths;
use crate::process::{capture, watched};
use crate::say::Step;

/// Returns the path of `throttlecrab-server`, compiled the first time.
///
/// `QUOTA_GATE_THROTTLECRAB` overrides it.
///
/// # Errors
/// It can't be fetched or compiled; the error says how to do it by hand.
pub(crate) fn throttlecrab() -> Result<PathBuf> {
    if let Some(given) = env::var_os(OVERRIDE).filter(|given| !given.is_empty()) {
        let given = PathBuf::from(given);
        if !given.is_file() {
            bail!(
                "{OVERRIDE} is `{}`, and there is no such file",
                given.display()
            );
        }
        return Ok(fs::canonicalize(given)?);
    }
    let dir = paths::cache_dir()?.join("throttlecrab").join(VERSION);
    let server = dir.join("bin/throttlecrab-server");
    if !server.is_file() {
        fs::create_dir_all(&dir)?;
        install(&dir).with_context(|| {
            format!(
                "ThrottleCrab's server can't be compiled; by hand: cargo install \
                 throttlecrab-server --version {VERSION}, with protoc (Debian, Ubuntu: apt-get \
                 install protobuf-compiler), then set {OVERRIDE} to it"
            )
        })?;
    }
    Ok(server)
}

fn install(dir: &Path) -> Result<()> {
    let step = Step::spinner(
        "throttlecrab",
        &format!("compiling throttlecrab-server {VERSION}, once (1 to 2 minutes)"),
    );
    let mut cargo = Command::new(paths::cargo());
    cargo
        // Outside of the workspace, whose cargo settings are not for this.
        .current_dir(dir)
        .args(["install", "throttlecrab-server", "--locked"])
        .arg(format!("--version={VERSION}"))
        .arg("--root")
        .arg(dir)
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("RUSTFLAGS")
        // Half the time to compile, and quick enough for tests.
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0");
    if env::var_os("PROTOC").is_none() && paths::program("protoc").is_none() {
        cargo.env("PROTOC", protoc(dir)?);
    }
    let compiled = watched(&mut cargo, INSTALL_BOUND, |line| step.detail(line));
    match compiled {
        Ok(()) => step.done("compiled"),
        Err(_) => step.give_up(),
    }
    compiled
}

/// The server describes its gRPC side in a `.proto` file. The compiler for that comes as a crate,
/// too, which cargo unpacks as it does any dependency.
fn protoc(dir: &Path) -> Result<PathBuf> {
    let package = match env::consts::ARCH {
        "x86_64" => "protoc-bin-vendored-linux-x86_64",
        "aarch64" => "protoc-bin-vendored-linux-aarch_64",
        other => bail!("crates.io has no protoc for {other}"),
    };
    let crate_dir = dir.join("protoc");
    fs::create_dir_all(&crate_dir)?;
    fs::write(crate_dir.join("lib.rs"), "")?;
    fs::write(
        crate_dir.join("Cargo.toml"),
        format!(
            "[package]\nname = \"protoc\"\nversion = \"0.0.0\"\nedition = \"2021\"\n\
             [lib]\npath = \"lib.rs\"\n[dependencies]\n{package} = \"={PROTOC_VERSION}\"\n\
             [workspace]\n"
        ),
    )?;
    let mut cargo = Command::new(paths::cargo());
    cargo
        .current_dir(&crate_dir)
        .args(["metadata", "--format-version", "1"]);
    let metadata: serde_json::Value = serde_json::from_str(&capture(&mut cargo)?)?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let manifest = packages
        .filter(|found| found["name"] == package)
        .find_map(|found| found["manifest_path"].as_str());
    let folder = manifest.and_then(|manifest| Path::new(manifest).parent());
    let protoc = folder.map(|folder| folder.join("bin/protoc"));
    protoc
        .filter(|protoc| protoc.is_file())
        .with_context(|| format!("{package} {PROTOC_VERSION} holds no protoc"))
}

const OVERRIDE: &str = "QUOTA_GATE_THROTTLECRAB";

/// The newest one when the preset's answers were recorded.
const VERSION: &str = "0.4.40";

/// The newest one then; any understands the server's file.
const PROTOC_VERSION: &str = "3.3.0";

/// The slowest of machines compiles it in this time.
const INSTALL_BOUND: Duration = Duration::from_secs(1800);
