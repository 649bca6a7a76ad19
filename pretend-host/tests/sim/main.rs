//! Seeded worlds around the shipped module: whatever the backend, the clients, the clock and the
//! operator do, every request leaves in time, once, for one reason, and is counted.
//!
//! `SIM_SEED=n` runs one seed again and tells what happened; `SIM_SEEDS=n` sets how many there are.

mod config;
mod traffic;
mod weather;
mod world;

use std::collections::BTreeMap;

use pretend_host::Module;

use world::{Report, World};

#[test]
fn no_seed_breaks_an_invariant() {
    let module = Module::from_env(COMMAND).unwrap();
    let seeds = match number("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..number("SIM_SEEDS").unwrap_or(SEEDS) + 1,
    };
    let tell = number("SIM_SEED").is_some();
    let mut sum = Report::default();
    let mut failed = Vec::new();

    for seed in seeds.clone() {
        let report = World::run(&module, seed, tell);
        for broken in &report.broken {
            println!("seed {seed}: {broken}");
        }
        if !report.broken.is_empty() {
            failed.push(seed);
        }
        sum.add(&report);
    }

    println!(
        "{} seeds, {} steps\nrequests by outcome:",
        seeds.count(),
        sum.steps
    );
    print!("{}", table(&sum.outcomes));
    print!("callouts by what became of them:\n{}", table(&sum.faults));
    print!("events:\n{}", table(&sum.events));
    assert!(
        failed.is_empty(),
        "failed; to see one again: SIM_SEED={} {COMMAND}",
        failed[0]
    );
}

#[test]
fn a_seed_is_the_same_run_each_time() {
    let module = Module::from_env(COMMAND).unwrap();

    let (first, second) = (
        World::run(&module, 11, false),
        World::run(&module, 11, false),
    );

    assert_eq!(first.digest, second.digest);
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

fn table(counts: &BTreeMap<String, u64>) -> String {
    counts
        .iter()
        .map(|(what, count)| format!("  {count:>8} {what}\n"))
        .collect()
}

const COMMAND: &str = "cargo xtask test pretend";

/// As many as fit into a quick check.
const SEEDS: u64 = 60;
