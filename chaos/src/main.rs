//! A steady load of mixed requests on a real Envoy with two workers, while its quota backends go
//! through every fault, endpoints come and go and configurations are pushed; in the end it is
//! drained. Afterwards every answer is explained and every counter added up. `cargo xtask chaos`
//! runs it.
//!
//! - `traffic`: the requests; `plan`: what goes wrong, and when; `plugin`: the configurations;
//!   `terms`: what is settled, and how; all of it follows from the seed
//! - `client`: the load generator; `director` puts the phases in place
//! - `ledger`: what everybody says of each request; `timeline`: what was in force when
//! - `judge`: explains an answer; `laws`: what must hold of the whole; `books`: that what was used
//!   is charged, or said to be lost
//! - `report`: what is told in the end, and the story of each request that can't be explained

mod books;
mod client;
mod director;
mod judge;
mod laws;
mod ledger;
mod plan;
mod plugin;
mod report;
mod terms;
mod timeline;
mod traffic;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::client::Load;
use crate::director::{Director, Stage};
use crate::judge::Delays;
use crate::ledger::Ledger;
use crate::plan::PHASE;
use crate::report::Report;

/// What the command line asks for.
#[derive(Clone, Debug)]
struct Args {
    clients: usize,
    first: u64,
    limit: Option<Duration>,
    requests: u64,
    seed: u64,
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn args() -> Result<Args> {
    let mut args = Args {
        clients: 256,
        first: 0,
        limit: None,
        requests: 1_000_000,
        seed: 1,
    };
    let mut given = std::env::args().skip(1);
    while let Some(name) = given.next() {
        let value = given
            .next()
            .with_context(|| format!("{name} needs a number"))?;
        let number: u64 = value.parse().with_context(|| format!("{name} {value}"))?;
        match name.as_str() {
            "--clients" => args.clients = usize::try_from(number)?,
            "--first" => args.first = number,
            "--minutes" => args.limit = Some(Duration::from_secs(60 * number)),
            "--requests" => args.requests = number,
            "--seed" => args.seed = number,
            _ => bail!("{name} is not known"),
        }
    }
    // A run begins with a phase, so that what is in force is known from the start.
    args.first -= args.first % PHASE;
    Ok(args)
}

/// Whether everything is as it should be.
fn run() -> Result<bool> {
    let args = args()?;
    let stage = Stage::set(args.seed, args.first)?;
    let rig = &stage.rig;
    println!(
        "chaos: seed {}, {} requests from {} on, {} clients, Envoy with 2 workers",
        args.seed, args.requests, args.first, args.clients
    );
    let plain = rig.envoy().listener("plain");
    let numbers = args.first..args.first + args.requests;
    let load = Load::new(rig.address(), plain, args.seed, numbers);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("clients")
        .enable_all()
        .build()?;
    let mut director = Director::new(&stage, args.seed, args.first)?;
    let mut ledger = Ledger::new(args.first, rig.envoy().access_log_file())?;
    let start = Instant::now();
    let mut report = Report::new(args.seed, args.first, start);
    let mut delays = Delays::new(start);

    let clients: Vec<_> = (0..args.clients)
        .map(|index| runtime.spawn(load.clone().client(index)))
        .collect();
    for _ in 0..PROBES {
        runtime.spawn(load.clone().probe());
    }
    std::thread::scope(|scope| {
        let stage = &stage;
        let (load, clients) = (&load, &clients);
        scope.spawn(move || {
            while !clients.iter().all(tokio::task::JoinHandle::is_finished) {
                director.keep_up(load.next());
                std::thread::sleep(Duration::from_millis(2));
            }
            director.end();
        });
        while !clients.iter().all(tokio::task::JoinHandle::is_finished) {
            if args.limit.is_some_and(|limit| start.elapsed() > limit) {
                load.stop();
            }
            collect(stage, load, &mut ledger, &mut delays)?;
            report.look(stage, load.next());
            std::thread::sleep(Duration::from_millis(20));
        }
        anyhow::Ok(())
    })?;
    report.took = start.elapsed();
    load.stop_probes();
    // As before a shutdown: no more connections. What is left to tell is told all the same.
    rig.envoy().admin_post("/drain_listeners");
    report.findings.extend(laws::settle(rig));
    collect_rest(&stage, &load, &mut ledger, &mut delays)?;
    // What the last streams have used may have been gathered only since.
    report.findings.extend(laws::settle(&stage.rig));
    collect(&stage, &load, &mut ledger, &mut delays)?;
    report.close(&stage, &ledger, &delays);
    Ok(report.print(&stage.rig))
}

/// Empties the journals into the ledger.
fn collect(stage: &Stage, load: &Load, ledger: &mut Ledger, delays: &mut Delays) -> Result<()> {
    for outcome in load.take_outcomes() {
        ledger.note_outcome(outcome);
    }
    for (at, took) in load.take_probes() {
        delays.note(at, took);
    }
    for seen in stage.rig.upstream().take() {
        ledger.note_seen(&seen);
    }
    for backend in &stage.backends {
        for check in backend.take() {
            ledger.note_check(&check);
        }
        for told in backend.take_told() {
            ledger.note_told(&told);
        }
    }
    ledger.read_log()
}

/// The access log is written a moment later than what it tells of.
fn collect_rest(
    stage: &Stage,
    load: &Load,
    ledger: &mut Ledger,
    delays: &mut Delays,
) -> Result<()> {
    let (mut before, mut calm) = (u64::MAX, 0);
    while calm < CALM_LOOKS {
        collect(stage, load, ledger, delays)?;
        calm = if ledger.lines == before { calm + 1 } else { 0 };
        before = ledger.lines;
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Requests without the filter at any time: enough to meet both workers.
const PROBES: usize = 6;

/// So many looks in a row find nothing new in the access log: it is complete.
const CALM_LOOKS: usize = 10;
