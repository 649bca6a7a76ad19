//! The side-by-side measurement: set up, built, and started in this process' place.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::say::news;
use crate::setup::{self, WasmCargo};
use crate::{build, paths};

/// What to measure, and how.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How often each chain is measured, in turn with all others
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// How long each chain is under load in a round, in seconds
    #[arg(long, default_value_t = 1.2, value_name = "SECONDS")]
    duration: f64,
    /// Requests a second for the latencies; below what the dearest chain can serve
    #[arg(long, default_value_t = 5000, value_name = "REQUESTS")]
    rate: u32,
    /// Write everything that was measured, each round of it, to a file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where to put the picture, STEM.svg and STEM.png; if absent, bench.* in the target directory
    #[arg(long, value_name = "STEM")]
    plot: Option<PathBuf>,
    /// Put the result into docs/benchmark.md and docs/img, with these words for the machine
    #[arg(long, value_name = "MACHINE", conflicts_with_all = ["plot", "quick"])]
    publish: Option<String>,
    /// Measure only these chains, and those that all are compared with: no filter, ext_authz
    #[arg(long, num_args = 1.., value_name = "CHAIN")]
    only: Vec<String>,
    /// Measure another module, too, with the plugin configuration in CONFIG; its clusters are
    /// quota-backend, quota-backend-grpc and quota-backend-hangs
    #[arg(long, value_name = "NAME=FILE,CONFIG")]
    also: Vec<Also>,
    /// Look only whether every chain serves what it should: one short round, no time is judged
    #[arg(long)]
    quick: bool,
}

/// Another module, with the file of its configuration.
#[derive(Clone, Debug, PartialEq)]
struct Also {
    name: String,
    module: PathBuf,
    configuration: PathBuf,
}

impl FromStr for Also {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('=').and_then(|(name, files)| {
            let (module, configuration) = files.split_once(',')?;
            Some((name, module, configuration))
        });
        match parts {
            Some((name, module, configuration)) if !name.is_empty() => Ok(Self {
                name: name.to_owned(),
                module: module.into(),
                configuration: configuration.into(),
            }),
            _ => Err("expected NAME=FILE,CONFIG, like old=dist/old.wasm,old.json".to_owned()),
        }
    }
}

/// Fetches and builds what the measurement needs, and runs it.
///
/// # Errors
/// Something can't be set up or built, or a file can't be read.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if args.rounds == 0 || !(0.1..=60.0).contains(&args.duration) {
        bail!("--rounds is at least 1, --duration 0.1 to 60 seconds");
    }
    let mut also = Vec::new();
    for other in &args.also {
        also.push(other.read()?);
    }
    let wasm = setup::wasm()?;
    let envoy = setup::envoy(setup::ENVOY_DEFAULT)?;
    news(
        "filter",
        "building: minutes the first time, seconds after that",
    );
    build::build(&wasm)?;
    let [nothing, floor] = build_others(&wasm)?;
    let mut command = program("load", &envoy)?;
    let docs = paths::root().join("docs");
    let publish = args.publish.as_ref().map(|machine| {
        let page = docs.join("benchmark.md");
        json!({"page": page, "machine": machine, "envoy": setup::ENVOY_DEFAULT})
    });
    let plot = match (&args.plot, &publish) {
        (Some(plot), _) => plot.clone(),
        (None, Some(_)) => docs.join("img/bench"),
        (None, None) => paths::target_dir()?.join("bench"),
    };
    let (rounds, seconds, rate) = if args.quick {
        QUICK
    } else {
        (args.rounds, args.duration, args.rate)
    };
    let plan = json!({
        "module": paths::module(),
        "nothing": nothing,
        "floor": floor,
        "rounds": rounds,
        "seconds": seconds,
        "rate": rate,
        "json": args.json,
        "plot": plot,
        "publish": publish,
        "only": args.only,
        "also": also,
        "smoke": args.quick,
    });
    let ended = command.arg(plan.to_string()).status();
    let ended = ended.context("the measurement can't be started")?;
    Ok(if ended.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The quick look as a check, with the module that is in `dist/`; what it prints ends like the
/// output of a test program.
///
/// # Errors
/// Something can't be built.
pub(crate) fn check(wasm: &WasmCargo, envoy: &Path) -> Result<Command> {
    let [nothing, floor] = build_others(wasm)?;
    let mut command = program("dev", envoy)?;
    let (rounds, seconds, rate) = QUICK;
    let plan = json!({
        "module": paths::module(),
        "nothing": nothing,
        "floor": floor,
        "rounds": rounds,
        "seconds": seconds,
        "rate": rate,
        "smoke": true,
    });
    command.arg(plan.to_string());
    Ok(command)
}

impl Also {
    fn read(&self) -> Result<serde_json::Value> {
        let module = fs::canonicalize(&self.module);
        let module = module.with_context(|| format!("no module {}", self.module.display()))?;
        let configuration = fs::read_to_string(&self.configuration);
        let configuration = configuration
            .with_context(|| format!("no configuration {}", self.configuration.display()))?;
        let name = &self.name;
        Ok(json!({"name": name, "module": module, "configuration": configuration}))
    }
}

/// Builds the filters that this one is measured beside: one that does nothing, and one that makes
/// the host calls of a decision and computes nothing.
fn build_others(wasm: &WasmCargo) -> Result<[PathBuf; 2]> {
    let mut command = wasm.command("build");
    command.args(["--release", "--package", "nothing", "--package", "floor"]);
    let built = command.status().context("cargo can't be started")?;
    if !built.success() {
        bail!("the filters to compare with do not compile for wasm32");
    }
    let dir = wasm.output_dir("release");
    Ok(["nothing.wasm", "floor.wasm"].map(|name| dir.join(name)))
}

/// Builds the measurement, which is a program of its own: no other command has to compile what it
/// needs.
fn program(profile: &str, envoy: &Path) -> Result<Command> {
    news(
        "measurement",
        "building: minutes the first time, seconds after that",
    );
    let built = Command::new(paths::cargo())
        .current_dir(paths::root())
        .args(["build", "--locked", "--package", "quota-gate-bench"])
        .args(["--profile", profile])
        .status()
        .context("cargo can't be started")?;
    if !built.success() {
        bail!("the measurement does not compile");
    }
    let folder = if profile == "dev" { "debug" } else { profile };
    let file = paths::target_dir()?.join(folder).join("quota-gate-bench");
    let mut command = Command::new(file);
    command.env("QUOTA_GATE_ENVOY", envoy);
    Ok(command)
}

/// Rounds, seconds of load for each chain and requests a second, when no time is judged.
const QUICK: (u32, f64, u32) = (1, 0.5, 1000);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_module_has_a_name_a_file_and_a_configuration() {
        let expected = Also {
            name: "old".to_owned(),
            module: "a=b.wasm".into(),
            configuration: "c,d.json".into(),
        };
        assert_eq!("old=a=b.wasm,c,d.json".parse(), Ok(expected));
        assert!("old".parse::<Also>().is_err());
        assert!("old=a.wasm".parse::<Also>().is_err());
        assert!("=a.wasm,b.json".parse::<Also>().is_err());
    }
}
