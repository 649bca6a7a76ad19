//! Everything a machine needs, fetched once and found again at once.

mod debian;
mod envoy;
mod runner;
mod throttlecrab;
mod wasm;
mod wasm_opt;

use std::path::PathBuf;

use anyhow::Result;

pub(crate) use debian::program as debian_program;
pub(crate) use envoy::{
    DEFAULT as ENVOY_DEFAULT, OLDEST as ENVOY_OLDEST, VERSIONS as ENVOY_VERSIONS, envoy,
};
pub(crate) use runner::wasm_test_runner;
pub(crate) use throttlecrab::throttlecrab;
pub(crate) use wasm::{WasmCargo, wasm};
pub(crate) use wasm_opt::{WasmOpt, may_be_missing, wasm_opt};

use crate::say;

/// What to set up.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Also fetch every Envoy of the version matrix
    #[arg(long)]
    matrix: bool,
    /// Also install or compile the servers that some tests run beside Envoy
    #[arg(long)]
    servers: bool,
}

/// Sets up what build, test and demo need.
///
/// # Errors
/// A part can't be had on this machine; the error says what to do.
pub(crate) fn run(args: &Args) -> Result<()> {
    wasm()?;
    if let Err(error) = wasm_opt() {
        say::news("wasm-opt", &format!("not there: {error:#}"));
    }
    if args.servers {
        for (_, path) in prometheus()? {
            say::news("prometheus", &format!("at {}", path.display()));
        }
        registry()?;
        say::news("registry", "docker-registry and skopeo");
        say::news("redis", &format!("at {}", redis()?.display()));
        say::news("throttlecrab", &format!("at {}", throttlecrab()?.display()));
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

/// Installs a registry, and a client for it that is not ours.
///
/// # Errors
/// They can't be had; the error says what to do.
pub(crate) fn registry() -> Result<()> {
    debian_program("docker-registry", "docker-registry")?;
    debian_program("skopeo", "skopeo")?;
    Ok(())
}

/// Prometheus and its rule checker, each by the variable that tells tests where it is.
///
/// # Errors
/// They can't be had on this machine; the error says what to do.
pub(crate) fn prometheus() -> Result<[(&'static str, PathBuf); 2]> {
    Ok([
        (
            "QUOTA_GATE_PROMETHEUS",
            debian_program("prometheus", "prometheus")?,
        ),
        (
            "QUOTA_GATE_PROMTOOL",
            debian_program("promtool", "prometheus")?,
        ),
    ])
}

/// The server that several backends share their books on.
///
/// # Errors
/// It can't be had on this machine; the error says what to do.
pub(crate) fn redis() -> Result<PathBuf> {
    debian_program("redis-server", "redis-server")
}
