//! Everything a machine needs, fetched once and found again at once.

mod debian;
mod envoy;
mod runner;
mod wasm;

use anyhow::Result;

pub(crate) use debian::program as debian_program;
pub(crate) use envoy::{
    DEFAULT as ENVOY_DEFAULT, OLDEST as ENVOY_OLDEST, VERSIONS as ENVOY_VERSIONS, envoy,
};
pub(crate) use runner::wasm_test_runner;
pub(crate) use wasm::{WasmCargo, wasm};

use crate::say;

/// What to set up.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Also fetch every Envoy of the version matrix
    #[arg(long)]
    matrix: bool,
    /// Also install the servers that some tests run beside Envoy
    #[arg(long)]
    servers: bool,
}

/// Sets up what build, test and demo need.
///
/// # Errors
/// A part can't be had on this machine; the error says what to do.
pub(crate) fn run(args: &Args) -> Result<()> {
    wasm()?;
    if args.servers {
        for (program, package) in SERVERS {
            let path = debian_program(program, package)?;
            say::news(program, &format!("at {}", path.display()));
        }
    }
    let versions = if args.matrix {
        ENVOY_VERSIONS
    } else {
        &[ENVOY_DEFAULT]
    };
    for version in versions {
        let path = envoy(version)?;
        say::news("envoy", &format!("{version} at {}", path.display()));
    }
    say::news(
        "test runner",
        &format!("at {}", wasm_test_runner()?.display()),
    );
    Ok(())
}

/// What tests run beside Envoy, with the package of Debian that brings it.
const SERVERS: &[(&str, &str)] = &[("prometheus", "prometheus"), ("promtool", "prometheus")];
