//! Reads a simulation's report as JSON, prints it as tables; with a folder as argument draws it there.
//!
//! A program of its own: no other command has to compile what draws charts.

mod pictures;
mod tables;

use std::env;
use std::io::{self, Read};
use std::path::Path;

use anyhow::{Context, Result};
use fleet::Report;

fn main() -> Result<()> {
    let mut text = String::new();
    io::stdin().read_to_string(&mut text)?;
    let report: Report = serde_json::from_str(&text)
        .context("stdin has no report; `cargo xtask simulate` writes one")?;
    print!("{}", tables::text(&report));
    let Some(folder) = env::args_os().nth(1) else {
        return Ok(());
    };
    for (name, chart) in pictures::charts(&report) {
        let stem = Path::new(&folder).join(name);
        chart.write(&stem)?;
        eprintln!("wrote {}", stem.with_extension("svg").display());
    }
    Ok(())
}
