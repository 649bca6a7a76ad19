//! What runs the tests in wasm: Node, and wasm-bindgen's test runner of the locked version.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::paths;
use crate::process::{capture, watched};
use crate::say::Step;

/// Returns the path of `wasm-bindgen-test-runner`, installed into the cache the first time.
///
/// # Errors
/// Node is missing, Cargo.lock has no wasm-bindgen, or the runner can't be compiled.
pub(crate) fn wasm_test_runner() -> Result<PathBuf> {
    node("the tests in wasm run")?;
    let lock = fs::read_to_string(paths::root().join("Cargo.lock"))?;
    let version = locked(&lock, "wasm-bindgen").context("Cargo.lock has no wasm-bindgen")?;
    let on_path = paths::program(RUNNER).filter(|runner| {
        let says = capture(Command::new(runner).arg("--version"));
        says.is_ok_and(|says| says.split_whitespace().any(|word| word == version))
    });
    if let Some(runner) = on_path {
        return Ok(runner);
    }
    let dir = paths::cache_dir()?.join("wasm-bindgen").join(version);
    let runner = dir.join("bin").join(RUNNER);
    if !runner.is_file() {
        install(version, &dir)?;
    }
    Ok(runner)
}

/// Returns Node's path; `what` runs in it.
///
/// # Errors
/// It is missing, or too old.
pub(super) fn node(what: &str) -> Result<PathBuf> {
    let Some(node) = paths::program("node") else {
        bail!("{what} in Node, and there is no `node` on PATH. {NODE_REMEDY}");
    };
    let says = capture(Command::new(&node).arg("--version"))?;
    let major = says
        .trim()
        .trim_start_matches('v')
        .split('.')
        .next()
        .unwrap_or_default();
    if !major.parse().is_ok_and(|major: u32| major >= NODE_MIN) {
        bail!(
            "{what} in Node, and this one is {}. {NODE_REMEDY}",
            says.trim()
        );
    }
    Ok(node)
}

fn install(version: &str, dir: &PathBuf) -> Result<()> {
    fs::create_dir_all(dir)?;
    let step = Step::spinner(
        "test runner",
        &format!("compiling wasm-bindgen-cli {version}, once (1 to 2 minutes)"),
    );
    let mut last = Ok(());
    // The registry's index may lag behind a fresh release's own lock file.
    for locked in [&["--locked"][..], &[]] {
        let mut cargo = Command::new(paths::cargo());
        cargo
            // Outside of the workspace, whose cargo settings are not for this.
            .current_dir(dir)
            .args(["install", "wasm-bindgen-cli", "--bin", RUNNER])
            .arg(format!("--version={version}"))
            .arg("--root")
            .arg(dir)
            .args(locked)
            .env_remove("CARGO_TARGET_DIR")
            .env_remove("RUSTFLAGS")
            // Twice as quick to compile, and no slower on test programs of this size.
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0");
        last = watched(&mut cargo, INSTALL_BOUND, |line| step.detail(line));
        if last.is_ok() {
            step.done("compiled");
            return Ok(());
        }
    }
    step.give_up();
    last.with_context(|| {
        format!(
            "the runner for the tests in wasm can't be compiled; by hand: \
             cargo install wasm-bindgen-cli --version {version}"
        )
    })
}

/// Returns the version that a lock file has of a package.
fn locked<'a>(lock: &'a str, package: &str) -> Option<&'a str> {
    let name = format!("name = \"{package}\"");
    let (_, rest) = lock.split_once(&format!("{name}\nversion = \""))?;
    rest.split_once('"').map(|(version, _)| version)
}

const RUNNER: &str = "wasm-bindgen-test-runner";

/// The runner's glue is written for Node 18 and later.
const NODE_MIN: u32 = 18;

const NODE_REMEDY: &str = "Install Node 18 or later (Debian, Ubuntu: apt-get install nodejs).";

/// The slowest of machines compiles it in this time.
const INSTALL_BOUND: Duration = Duration::from_secs(1800);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_locked_version_of_a_package_is_found_by_its_whole_name() {
        let lock = "[[package]]\nname = \"wasm-bindgen-test\"\nversion = \"0.3.80\"\n\n\
                    [[package]]\nname = \"wasm-bindgen\"\nversion = \"0.2.130\"\n";
        assert_eq!(locked(lock, "wasm-bindgen"), Some("0.2.130"));
        assert_eq!(locked(lock, "wasm"), None);
    }
}
