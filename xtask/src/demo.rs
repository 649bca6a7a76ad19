//! The guided tour: set up, built, and started in this process' place.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::say::news;
use crate::{build, paths, setup};

/// How to show it.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave everything running after the tour, and print commands to try
    #[arg(long)]
    keep: bool,
    /// Do without colours, on a terminal too
    #[arg(long)]
    no_color: bool,
}

/// Fetches and builds what the tour needs, and runs it.
///
/// # Errors
/// Something can't be set up or built.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let wasm = setup::wasm()?;
    let envoy = setup::envoy(setup::ENVOY_DEFAULT)?;
    news("envoy", &format!("at {}", envoy.display()));
    let how_long = "minutes the first time, seconds after that";
    news("filter", &format!("building: {how_long}"));
    build::build(&wasm)?;
    news("tour", &format!("building: {how_long}"));
    let mut command = tour(&envoy)?;
    if args.keep {
        command.arg("--keep");
    }
    if args.no_color {
        command.arg("--no-color");
    }
    start(command)
}

/// Takes the tour as a check, with the module that is in `dist/`.
///
/// # Errors
/// It can't be built, or a scene did not come out as told.
pub(crate) fn check(envoy: &Path) -> Result<()> {
    let ended = tour(envoy)?.status().context("the tour can't be started")?;
    if !ended.success() {
        bail!("see the lines above");
    }
    Ok(())
}

/// Builds the tour, which is a program of its own: no other command has to compile what it needs.
fn tour(envoy: &Path) -> Result<Command> {
    let built = Command::new(paths::cargo())
        .current_dir(paths::root())
        .args(["build", "--locked", "--package", "quota-gate-demo"])
        .status()
        .context("cargo can't be started")?;
    if !built.success() {
        bail!("the tour does not compile");
    }
    let mut command = Command::new(paths::target_dir()?.join("debug/quota-gate-demo"));
    command
        .env("QUOTA_GATE_ENVOY", envoy)
        .env("QUOTA_GATE_WASM", paths::module());
    Ok(command)
}

/// Ctrl-C is for the tour alone, which has things to stop: this process becomes it.
#[cfg(unix)]
fn start(mut command: Command) -> Result<ExitCode> {
    use std::os::unix::process::CommandExt;
    Err(command.exec()).context("the tour can't be started")
}

#[cfg(not(unix))]
fn start(mut command: Command) -> Result<ExitCode> {
    let ended = command.status().context("the tour can't be started")?;
    Ok(if ended.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
