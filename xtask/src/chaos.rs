//! Chaos on a real Envoy: set up, built, and run; see the package `quota-gate-chaos`.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::say::news;
use crate::{build, paths, setup};

/// How much of it.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many requests are sent
    #[arg(long, default_value_t = 1_000_000)]
    requests: u64,
    /// What the requests and everything that goes wrong follow from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The number of the first request, to see a part of a run again
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Stop after so many minutes, with fewer requests
    #[arg(long)]
    minutes: Option<u64>,
    /// Clients at once
    #[arg(long, default_value_t = 256)]
    clients: u64,
    /// The Envoy to use: one of the supported versions
    #[arg(long, default_value = setup::ENVOY_DEFAULT)]
    envoy: String,
}

/// Fetches and builds what the run needs, and runs it.
///
/// # Errors
/// Something can't be set up or built.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let wasm = setup::wasm()?;
    let envoy = setup::envoy(&args.envoy)?;
    news("envoy", &format!("at {}", envoy.display()));
    build::build(&wasm)?;
    news(
        "chaos",
        "building: minutes the first time, seconds after that",
    );
    let mut command = chaos(&envoy)?;
    for (name, value) in [
        ("--requests", Some(args.requests)),
        ("--seed", Some(args.seed)),
        ("--first", Some(args.first)),
        ("--minutes", args.minutes),
        ("--clients", Some(args.clients)),
    ] {
        command.args(
            value
                .map(|value| [name.to_owned(), value.to_string()])
                .into_iter()
                .flatten(),
        );
    }
    let ended = command.status().context("chaos can't be started")?;
    Ok(if ended.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// A shorter run as a check, with the module that is in `dist/`.
///
/// # Errors
/// It can't be built, or something was found.
pub(crate) fn check(envoy: &Path) -> Result<()> {
    let mut command = chaos(envoy)?;
    command.args(["--requests", CHECKED]);
    if !command
        .status()
        .context("chaos can't be started")?
        .success()
    {
        bail!("see the lines above");
    }
    Ok(())
}

/// Builds it, a program of its own: no other command has to compile what it needs.
fn chaos(envoy: &Path) -> Result<Command> {
    let built = Command::new(paths::cargo())
        .current_dir(paths::root())
        .args([
            "build",
            "--locked",
            "--profile",
            "load",
            "--package",
            "quota-gate-chaos",
        ])
        .status()
        .context("cargo can't be started")?;
    if !built.success() {
        bail!("chaos does not compile");
    }
    let mut command = Command::new(paths::target_dir()?.join("load/quota-gate-chaos"));
    command
        .env("QUOTA_GATE_ENVOY", envoy)
        .env("QUOTA_GATE_WASM", paths::module());
    Ok(command)
}

/// Once through every fault, and a bit.
const CHECKED: &str = "100000";
