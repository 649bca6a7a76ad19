//! The core in worlds that are functions of their seeds: whatever happens, the invariants hold.
//!
//! `SIM_SEED=n cargo test --profile sim --test sim -- --nocapture` replays one seed and tells what
//! happens in it. `SIM_SEEDS` and `SIM_STEPS` say how many seeds are tried, and how many steps each
//! of them takes at least.

mod events;
mod invariants;
mod model;
mod settled;
mod tables;
mod world;

use std::collections::BTreeMap;
use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use settled::Settled;
use world::World;

/// What the runs came to, all together.
#[derive(Default)]
struct Sums {
    steps: u64,
    races: u64,
    streams: u64,
    faults: BTreeMap<String, u64>,
    full: BTreeMap<String, u64>,
    reasons: BTreeMap<String, u64>,
    broken: Vec<u64>,
}

#[test]
fn whatever_happens_the_invariants_hold() {
    let steps = number("SIM_STEPS").unwrap_or(600);
    if let Some(seed) = number("SIM_SEED") {
        World::new(seed, true).run(steps);
        return;
    }
    let seeds = number("SIM_SEEDS").unwrap_or(200);
    let sums = run_all((1..=seeds).collect(), steps);
    tell(&sums, seeds);
    assert!(sums.broken.is_empty(), "{}", remedy(&sums.broken, steps));
}

#[test]
fn what_was_broken_once_is_not_broken_again() {
    let lines = include_str!("seeds.txt").lines();
    let seeds = lines.filter_map(|line| line.split('#').next()?.trim().split_once(' '));
    for (seed, steps) in seeds {
        let (seed, steps) = (seed.parse().unwrap(), steps.trim().parse().unwrap());
        let sums = run_all(vec![seed], steps);
        assert!(sums.broken.is_empty(), "{}", remedy(&sums.broken, steps));
    }
}

#[test]
fn what_was_used_is_charged_once_or_its_loss_is_told() {
    let seeds = number("SIM_SEEDS").unwrap_or(200).div_ceil(4);
    let (mut steps, mut full, mut exact, mut dropped) = (0, 0, 0, 0);
    let mut broken = Vec::new();
    let mut counted = BTreeMap::new();
    for seed in 1..=seeds {
        let mut world = Settled::new(seed);
        let held = catch_unwind(AssertUnwindSafe(|| world.run(2_000)));
        if held.is_err() {
            broken.push(seed);
        }
        steps += world.steps;
        full += world.full;
        dropped += world.dropped;
        exact += u64::from(world.dropped == 0);
        add(&mut counted, &world.counted);
    }
    println!(
        "{seeds} seeds, {steps} steps; {exact} worlds exact to the unit, {dropped} units told as \
         dropped in the others; full ledgers: {full}\n{}",
        list(&counted)
    );
    assert!(
        broken.is_empty(),
        "the worlds of seeds {broken:?} broke, see above"
    );
    // A rule that nothing runs into is not tried.
    assert!(full > 0 || seeds < 20, "no ledger was ever full");
}

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is no number: {text}")),
    )
}

/// Runs the seeds on every core; each thread has worlds of its own.
fn run_all(seeds: Vec<u64>, steps: u64) -> Sums {
    let next = AtomicU64::new(0);
    let sums = Mutex::new(Sums::default());
    let run_some = || {
        while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
            let mut world = World::new(*seed, false);
            let result = catch_unwind(AssertUnwindSafe(|| world.run(steps)));
            sums.lock().unwrap().add(&world, *seed, result.is_ok());
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(run_some);
        }
    });
    sums.into_inner().unwrap()
}

impl Sums {
    fn add(&mut self, world: &World, seed: u64, held: bool) {
        if !held {
            self.broken.push(seed);
        }
        self.steps += world.steps;
        self.races += world.raced;
        add(&mut self.faults, &world.faults);
        add(&mut self.full, &world.full);
        add(&mut self.reasons, &world.reasons);
        self.streams += world.reasons.values().sum::<u64>();
    }
}

/// Adds up what several worlds have counted.
fn add(into: &mut BTreeMap<String, u64>, from: &BTreeMap<String, u64>) {
    for (what, times) in from {
        *into.entry(what.clone()).or_default() += times;
    }
}

fn tell(sums: &Sums, seeds: u64) {
    println!(
        "{seeds} seeds, {} steps, {} decisions, {} lost races; broken: {}",
        sums.steps,
        sums.streams,
        sums.races,
        sums.broken.len()
    );
    println!("injected: {}", list(&sums.faults));
    println!("full: {}", list(&sums.full));
    println!("decided: {}", list(&sums.reasons));
}

fn list(counts: &BTreeMap<String, u64>) -> String {
    let parts = counts.iter().map(|(what, times)| format!("{what} {times}"));
    parts.collect::<Vec<_>>().join(", ")
}

fn remedy(broken: &[u64], steps: u64) -> String {
    let command = |seed: &u64| {
        format!(
            "SIM_SEED={seed} SIM_STEPS={steps} cargo test --locked --profile sim --test sim \
             whatever -- --nocapture"
        )
    };
    let commands: Vec<String> = broken.iter().take(10).map(command).collect();
    format!(
        "{} seeds broke; replay with\n{}",
        broken.len(),
        commands.join("\n")
    )
}
