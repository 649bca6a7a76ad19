//! The rehearsal of an outage: set up, built, and run, for the picture of the dashboard.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::say::news;
use crate::{build, paths, setup};

/// How to rehearse.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long it takes
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u64).range(30..=3600))]
    seconds: u64,
    /// Where the dashboard's picture goes, as SVG and PNG
    #[arg(long, default_value = "target/rehearsal/dashboard")]
    out: String,
}

/// Lets a real Envoy live through an outage while a real Prometheus looks, and draws the
/// dashboard from what it saw.
///
/// # Errors
/// Something can't be set up or built, or the rehearsal fails.
pub(crate) fn run(args: &Args) -> Result<()> {
    let wasm = setup::wasm()?;
    let envoy = setup::envoy(setup::ENVOY_DEFAULT)?;
    build::build(&wasm)?;
    news("rehearsal", &format!("{} seconds", args.seconds));
    let mut command = Command::new(paths::cargo());
    command
        .current_dir(paths::root())
        .args(["run", "--locked", "--quiet", "--package"])
        .args(["quota-gate-observability", "--"])
        .args([&args.seconds.to_string(), &args.out])
        .env("QUOTA_GATE_ENVOY", envoy)
        .env("QUOTA_GATE_WASM", paths::module());
    for (variable, path) in setup::prometheus()? {
        command.env(variable, path);
    }
    let ended = command.status().context("cargo can't be started")?;
    if !ended.success() {
        bail!("see the lines above");
    }
    Ok(())
}
