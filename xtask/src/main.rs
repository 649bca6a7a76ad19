//! The project's commands: set-up, build, test, demo.
//!
//! One file per concern:
//! - `setup`: everything a machine needs, fetched once (wasm target, Envoy, test runner)
//! - `build`: the shipped module `dist/quota_gate.wasm`, held to its interface and size
//! - `check`: judges a configuration, or whatever holds one
//! - `explain`: what would happen to a request, and why
//! - `demo`: the guided tour; `bench`: the side-by-side measurement
//! - `chaos`: a load while everything goes wrong
//! - `fuzz`: inputs without end for the targets in `tests/fuzz`
//! - `planted`: bugs that the simulation has to catch
//! - `dist`: images, bill of materials and checksums, and the way to a registry
//! - `simulate`: a fleet of gates in virtual time, as tables and plots
//! - `test`: every check that CI runs
//! - `hooks`: the quick checks before each commit
//! - `automation`: workflows, hooks and recipes are held to what there is
//! - `tidy`: house rules over the repository's files; `deny`: what dependencies may be
//! - `reference`: the configuration's JSON Schema and reference, made from its keys
//! - `rehearse`: an outage in quick time, for the dashboard's picture
//! - `manifests`: what users copy is held to the code; `published`: to the control planes' schemas
//! - `pages`: commands, files and configurations in the documents are held to what there is
//! - `paths`: where things are; `process`: running commands; `say`: telling what goes on

#[cfg(test)]
mod automation;
mod bench;
mod build;
mod chaos;
mod check;
mod demo;
mod deny;
mod dist;
mod explain;
mod fuzz;
mod hooks;
mod interface;
#[cfg(test)]
mod manifests;
#[cfg(test)]
mod pages;
mod paths;
mod planted;
mod process;
#[cfg(test)]
mod published;
mod reference;
mod rehearse;
mod say;
mod setup;
mod simulate;
mod test;
mod tidy;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The commands of quota-gate.
#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    disable_help_subcommand = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure the filter beside no filter and Envoy's own: CPU per request, in interleaved rounds
    Bench(bench::Args),
    /// Build dist/quota_gate.wasm; print its size, imports and exports
    Build(build::Args),
    /// Load a real Envoy while everything around it goes wrong, and explain every answer
    Chaos(chaos::Args),
    /// Judge a configuration, or the bootstrap or manifest that holds one
    Check(check::Args),
    /// Tell what would happen to a request, and why
    Explain(explain::Args),
    /// Take the guided tour: Envoy, a quota backend and the filter at work
    Demo(demo::Args),
    /// Try inputs without end, on all cores; or one again
    Fuzz(fuzz::Args),
    /// Plant bugs, one at a time, and have the simulation catch each (minutes)
    Planted(planted::Args),
    /// Pack the module for users: OCI images, bill of materials, checksums; push it to a registry
    Dist(dist::Args),
    /// Run the quick checks before each commit of this clone
    Hooks(hooks::Args),
    /// Write envoy/quota-gate.schema.json and docs/reference.md
    Reference(reference::Args),
    /// Live through an outage, and draw the dashboard from what Prometheus saw
    Rehearse(rehearse::Args),
    /// Fetch what build, test and demo need, and say where it is
    Setup(setup::Args),
    /// Run a fleet of gates in virtual time: calls, errors and fairness as leases vary
    Simulate(simulate::Args),
    /// Run every check that CI runs, or the named ones
    Test(test::Args),
    /// Check the house rules
    Tidy,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Bench(args) => return bench::run(&args),
        Command::Build(args) => build::run(&args)?,
        Command::Chaos(args) => return chaos::run(&args),
        Command::Check(args) => return Ok(check::run(&args)),
        Command::Explain(args) => return Ok(explain::run(&args)),
        Command::Demo(args) => return demo::run(&args),
        Command::Fuzz(args) => return fuzz::run(&args),
        Command::Planted(args) => return planted::run(&args),
        Command::Dist(args) => dist::run(&args)?,
        Command::Hooks(args) => hooks::run(&args)?,
        Command::Reference(args) => reference::run(&args)?,
        Command::Rehearse(args) => rehearse::run(&args)?,
        Command::Setup(args) => setup::run(&args)?,
        Command::Simulate(args) => return simulate::run(&args),
        Command::Test(args) => return test::run(&args),
        Command::Tidy => tidy::run()?,
    }
    Ok(ExitCode::SUCCESS)
}
