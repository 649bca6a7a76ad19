//! Reads a plan as JSON, runs it, writes the report as JSON; progress goes to stderr.

use std::io::{self, Read, Write};

use anyhow::{Context, Result};
use fleet::{Plan, study};

fn main() -> Result<()> {
    let mut text = String::new();
    io::stdin().read_to_string(&mut text)?;
    let plan: Plan = serde_json::from_str(&text)
        .context("stdin has no plan; `cargo xtask simulate` writes one")?;
    let report = study(&plan, |done, of| eprintln!("{done}/{of}"));
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, &report)?;
    writeln!(out)?;
    Ok(())
}
