//! `cargo xtask rehearse`: an outage in quick time, and the dashboard's picture of it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use quota_gate_observability::picture::picture;
use quota_gate_observability::rehearsal::Rehearsal;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: quota-gate-observability SECONDS FILE_WITHOUT_EXTENSION";
    let seconds = arguments.next().context(usage)?.parse().context(usage)?;
    let out = PathBuf::from(arguments.next().context(usage)?);
    let seen = Rehearsal::run(Duration::from_secs(seconds))?;
    for act in &seen.acts {
        let (from, to) = (act.start - seen.start, act.end - seen.start);
        println!("{from:6.1} s to {to:5.1} s  {}", act.what);
    }
    let firing = "ALERTS{alertstate=\"firing\"}";
    for series in seen.prometheus.range(firing, seen.start, seen.end, 1.0)? {
        let first = series
            .points
            .first()
            .map_or(0.0, |point| point.0 - seen.start);
        let label = |name: &str| series.labels[name].as_str().unwrap_or_default().to_owned();
        let about = [label("policy"), label("backend"), label("cause")].join(" ");
        println!(
            "{first:6.1} s  {} fires: {}",
            label("alertname"),
            about.trim()
        );
    }
    picture(&seen)?.write(&out)?;
    println!("{} requests; {}.svg and .png", seen.requests, out.display());
    Ok(())
}
