//! The side-by-side measurement: this filter in each mode, no filter, and Envoy's own filters, on
//! one machine in one run, in short bursts that take turns.
//!
//! `cargo xtask bench` starts it with a plan in JSON. One file per concern:
//! - `plan`: what to measure; `chain`: the chains of filters; `bootstrap`: Envoy around them
//! - `servers`: upstream and quota backend; `load`: the load generator; `machine`: cores and clocks
//! - `measure`: one chain in one round; `hot_key`: one hot key and a backend that hangs;
//!   `workers`: memory
//! - `smoke`: what must hold whatever the machine
//! - `figures`: medians, and what is added to what; `claim`: a promise and whether it was kept
//! - `table`: the result for the terminal; `plot`: as a picture; `page`: for the documentation;
//!   `json`: all of it

mod bootstrap;
mod chain;
mod claim;
mod figures;
mod hot_key;
mod json;
mod load;
mod machine;
mod measure;
mod page;
mod plan;
mod plot;
mod servers;
mod smoke;
mod table;
mod workers;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use figures::Row;
use machine::Cores;
use measure::{BURST, Bench, CONNECTIONS, Sample, Stand, TENANTS};
use plan::Plan;
use servers::Servers;

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    let text = std::env::args().nth(1);
    let plan = Plan::read(&text.context("no plan: run `cargo xtask bench`")?)?;
    let cores = Cores::choose()?;
    if let Some(cores) = cores {
        machine::pin_this_thread(cores.load)?;
    }
    let bench = Bench {
        servers: Servers::start()?,
        cores,
        duration: plan.duration,
        rate: plan.rate,
    };
    let chains = chain::chains(&plan, &bench.servers)?;
    introduce(&plan, cores, chains.len());
    let rows = rounds(&plan, &bench, chains)?;
    let mut claims = Vec::new();
    // Whoever picks chains wants these and nothing else.
    if plan.only.is_empty() {
        progress("one hot key, a backend that hangs");
        claims.extend(hot_key::claims(&bench, &plan)?);
        if !plan.smoke {
            progress("memory");
            claims.extend(workers::claims(&bench, &plan)?);
        }
    }
    progress("");
    if plan.smoke {
        return Ok(smoke::judge(&rows, &claims));
    }
    println!(
        "\n{}{}",
        table::table(&rows, plan.rate),
        claim::lines(&claims)
    );
    println!("\n{}", table::mood(&rows));
    for row in &rows {
        for finding in smoke::findings(row) {
            println!("NOT MEANT in the chain {}: {finding}", row.chain.name);
        }
    }
    if let Some(file) = &plan.json {
        let text = format!("{:#}\n", json::json(&rows, &claims, &plan));
        std::fs::write(file, text).with_context(|| format!("write {}", file.display()))?;
    }
    if let Some(stem) = &plan.plot {
        plot::write(&rows, &plan, stem)?;
        println!("The picture: {}.svg and .png", stem.display());
    }
    if let Some(to) = &plan.publish {
        page::write(to, &rows, &claims, &plan)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// In each round a fresh Envoy for every chain, all of them at once, and the load in short bursts
/// from one to the next: what drifts in the machine meets all of them alike.
fn rounds(plan: &Plan, bench: &Bench, chains: Vec<chain::Chain>) -> Result<Vec<Row>> {
    let row = |chain| Row {
        chain,
        samples: Vec::new(),
    };
    let mut rows: Vec<Row> = chains.into_iter().map(row).collect();
    for round in 0..plan.rounds {
        let samples = round_of(plan, bench, round, &rows)?;
        for (row, sample) in rows.iter_mut().zip(samples) {
            row.samples.push(sample);
        }
    }
    Ok(rows)
}

fn round_of(plan: &Plan, bench: &Bench, round: usize, rows: &[Row]) -> Result<Vec<Sample>> {
    let say = |what: &str, row: &Row| {
        let (round, rounds, name) = (round + 1, plan.rounds, &row.chain.name);
        progress(&format!("round {round} of {rounds}: {what} {name}"));
    };
    let mut stands = Vec::with_capacity(rows.len());
    for row in rows {
        say("warm up", row);
        let stand = Stand::new(bench, &row.chain).with_context(|| row.chain.name.clone())?;
        stands.push((row, stand));
    }
    let bursts = (plan.duration.as_millis() / BURST.as_millis()).clamp(1, BURSTS_MAX);
    let bursts = u32::try_from(bursts)?;
    for turn in 0..bursts as usize {
        // Each turn begins with another chain.
        let count = stands.len();
        for place in 0..count {
            let (row, stand) = &mut stands[(place + (round + turn) * STRIDE) % count];
            say("measure", row);
            let burst = stand.burst(bursts);
            burst.with_context(|| row.chain.name.clone())?;
        }
    }
    let finished = stands.into_iter().map(|(row, stand)| {
        say("at a fixed rate:", row);
        stand.finish().with_context(|| row.chain.name.clone())
    });
    finished.collect()
}

/// One line that is written over; for whoever sits there, and for nobody's log.
fn progress(text: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r{text:<50}\r");
    }
}

fn introduce(plan: &Plan, cores: Option<Cores>, chains: usize) {
    let pinned = match cores {
        Some(Cores { envoy, load }) => {
            format!("Envoy on core {envoy}, load and servers on core {load}")
        }
        None => "one core for everything: figures will be poor".to_owned(),
    };
    println!(
        "{chains} chains, {} rounds of {:.1} s; {CONNECTIONS} connections, {TENANTS} tenants; \
         one worker; {pinned}; load average {:.2}",
        plan.rounds,
        plan.duration.as_secs_f64(),
        machine::load_average(),
    );
}

/// How many chains the next turn begins later than the last one.
const STRIDE: usize = 3;

/// Longer measurements have longer bursts, not more.
const BURSTS_MAX: u128 = 40;
