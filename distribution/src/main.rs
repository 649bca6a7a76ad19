//! `cargo xtask dist` calls this program, which alone compiles what images and registries need.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use quota_gate_distribution::{pack, push};

/// Packs the module for distribution, and pushes it to a registry.
#[derive(Parser)]
enum Cli {
    /// Write images, bill of materials and checksums into a folder
    Pack(pack::Args),
    /// Push the images of a folder to a registry
    Push(push::Args),
}

fn main() -> ExitCode {
    let result: Result<()> = match Cli::parse() {
        Cli::Pack(args) => pack::run(&args),
        Cli::Push(args) => push::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
