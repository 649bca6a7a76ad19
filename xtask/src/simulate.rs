//! `cargo xtask simulate`: a fleet of gates in virtual time, as tables, JSON and plots.
//!
//! The package `fleet` runs the filter's own core, optimised, in a process of its own; here is what
//! people see of it, by way of the package `fleet-report`. A broken promise is an error.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context, Result, bail};
use clap::builder::RangedI64ValueParser;
use fleet::{Plan, Report};

use crate::process::watched;
use crate::say::Step;
use crate::{paths, test};

/// A number of the fleet within bounds that a machine can hold.
fn within(bounds: impl std::ops::RangeBounds<i64>) -> RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(bounds)
}

/// The fleet to simulate.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Proxies in the fleet
    #[arg(long, default_value_t = 1000, value_parser = within(1..=10_000))]
    proxies: u32,
    /// Workers of each proxy
    #[arg(long, default_value_t = 4, value_parser = within(1..=128))]
    workers: u32,
    /// Keys in use; their rates follow Zipf's law
    #[arg(long, default_value_t = 10_000, value_parser = within(1..=10_000_000))]
    keys: u32,
    /// Requests in a second, in the whole fleet
    #[arg(long, default_value_t = 1_000_000, value_parser = within(1..=10_000_000))]
    rate: u32,
    /// Proxies that a key's requests come through; all of them if not given
    #[arg(long, value_parser = within(1..))]
    spread: Option<u32>,
    /// The same seed gives the same figures
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print the report as JSON instead of tables
    #[arg(long)]
    json: bool,
    /// Write simulate-*.svg, simulate-*.png and simulate.json there
    #[arg(long)]
    out: Option<PathBuf>,
    /// Show a simulate.json that was written before, and run nothing
    #[arg(long, conflicts_with = "quick")]
    from: Option<PathBuf>,
    /// A small fleet, in seconds: just enough to hold the promises against it
    #[arg(long)]
    quick: bool,
}

/// Runs the simulation and shows what came of it. Ends with 1 if a promise was broken.
///
/// # Errors
/// It can't be built or run, or a file can't be written.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let report = match &args.from {
        Some(file) => read(file).with_context(|| format!("{}", file.display()))?,
        None => simulate(&args.plan()?)?,
    };
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    }
    if let Some(dir) = &args.out {
        write(&report, dir)?;
    }
    if !args.json || args.out.is_some() {
        show(&report, args.out.as_deref(), !args.json)?;
    }
    Ok(match broken(&report) {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// The step of `cargo xtask test`: returns how many runs kept every promise.
///
/// # Errors
/// A promise is broken, or the simulation can't be run.
pub(crate) fn check() -> Result<u64> {
    let report = simulate(&QUICK)?;
    show(&report, None, true)?;
    match broken(&report) {
        0 => Ok(report.all().count() as u64),
        count => bail!("{count} promises of src/gate/lease.rs are broken, see the lines above"),
    }
}

impl Args {
    fn plan(&self) -> Result<Plan> {
        let spread = self.spread.unwrap_or(self.proxies);
        if spread > self.proxies {
            bail!("--spread {spread}: there are only {} proxies", self.proxies);
        }
        if self.quick {
            return Ok(Plan {
                seed: self.seed,
                ..QUICK
            });
        }
        Ok(Plan {
            proxies: self.proxies as usize,
            workers: self.workers as usize,
            keys: self.keys as usize,
            rate: f64::from(self.rate),
            spread: spread as usize,
            seed: self.seed,
            quick: false,
        })
    }
}

fn broken(report: &Report) -> usize {
    let mut count = 0;
    for outcome in report.all() {
        for promise in &outcome.broken {
            eprintln!("broken: {promise}");
            count += 1;
        }
    }
    count
}

fn simulate(plan: &Plan) -> Result<Report> {
    let step = Step::spinner("fleet", "compiling the core and its fleet, optimised: once");
    let mut cargo = test::cargo("build");
    cargo.args(["--profile", "load", "--package", "fleet"]);
    if let Err(error) = watched(&mut cargo, BUILD_BOUND, |line| step.detail(line)) {
        step.give_up();
        return Err(error);
    }
    step.done("compiled");
    let program = program("load", "fleet")?;
    let what = format!(
        "{} proxies of {} workers, {} keys, {} requests/s, seed {}",
        plan.proxies, plan.workers, plan.keys, plan.rate, plan.seed
    );
    let step = Step::spinner("simulation", &what);
    let result = play(&program, plan, &step);
    match &result {
        Ok(report) => {
            let requests: u64 = report.all().map(|outcome| outcome.sums.0).sum();
            let runs = report.all().count();
            step.done(&format!("{runs} runs, {requests} requests"));
        }
        Err(_) => step.give_up(),
    }
    result
}

fn play(program: &Path, plan: &Plan, step: &Step) -> Result<Report> {
    let mut child = Command::new(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{} can't be started", program.display()))?;
    let told = tell(&mut child, plan, step);
    let status = child.wait()?;
    let (out, errors) = told?;
    if !status.success() {
        bail!("the simulation failed ({status}):\n{errors}");
    }
    serde_json::from_str(&out).context("the simulation's report can't be read")
}

/// Hands the plan over; returns what the simulation wrote, and what it said that is no progress.
fn tell(child: &mut Child, plan: &Plan, step: &Step) -> Result<(String, String)> {
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(mut stdin), Some(mut stdout), Some(stderr)) = pipes else {
        bail!("the simulation has no pipes");
    };
    stdin.write_all(serde_json::to_string(plan)?.as_bytes())?;
    drop(stdin);
    let reader = std::thread::spawn(move || {
        let mut out = String::new();
        stdout.read_to_string(&mut out).map(|_| out)
    });
    let mut errors = String::new();
    for line in BufReader::new(stderr).lines() {
        let line = line?;
        if line
            .split_once('/')
            .is_some_and(|(done, of)| done.parse::<u32>().is_ok() && of.parse::<u32>().is_ok())
        {
            step.detail(&format!("run {line}"));
        } else {
            errors.push_str(&line);
            errors.push('\n');
        }
    }
    let out = reader
        .join()
        .map_err(|_| anyhow::anyhow!("the reader broke"))??;
    Ok((out, errors))
}

fn read(file: &Path) -> Result<Report> {
    let text = fs::read_to_string(file)?;
    serde_json::from_str(&text).context("it is no simulate.json")
}

fn write(report: &Report, dir: &Path) -> Result<()> {
    let file = dir.join("simulate.json");
    fs::create_dir_all(dir)?;
    fs::write(&file, serde_json::to_string_pretty(report)?)
        .with_context(|| format!("{}", file.display()))
}

/// Prints the report as tables, unless they are not wanted, and draws it into a folder.
fn show(report: &Report, pictures: Option<&Path>, tables: bool) -> Result<()> {
    let step = Step::spinner("report", "compiling what shows it: once");
    let mut cargo = test::cargo("build");
    cargo.args(["--package", "fleet-report"]);
    if let Err(error) = watched(&mut cargo, BUILD_BOUND, |line| step.detail(line)) {
        step.give_up();
        return Err(error);
    }
    step.done("compiled");
    let program = program("debug", "fleet-report")?;
    let mut command = Command::new(&program);
    command.stdin(Stdio::piped()).args(pictures);
    if !tables {
        command.stdout(Stdio::null());
    }
    let started = command.spawn();
    let mut child = started.with_context(|| format!("{} can't be started", program.display()))?;
    let mut stdin = child.stdin.take().context("the report has no pipe")?;
    // What it has to say of a report that it can't take, it says itself.
    let told = stdin.write_all(serde_json::to_string(report)?.as_bytes());
    drop(stdin);
    let ended = child.wait()?;
    if !ended.success() {
        bail!("the report can't be shown: see the lines above");
    }
    told.context("the report was not taken")
}

/// A program of this workspace, built before.
fn program(profile: &str, name: &str) -> Result<PathBuf> {
    let file = paths::target_dir()?.join(profile).join(name);
    Ok(file.with_extension(env::consts::EXE_EXTENSION))
}

/// A fleet that fits into half a minute, with the same traffic for each worker.
const QUICK: Plan = Plan {
    proxies: 50,
    workers: 4,
    keys: 1000,
    rate: 50_000.0,
    spread: 50,
    seed: 1,
    quick: true,
};

/// The core and a JSON library, on two slow cores.
const BUILD_BOUND: Duration = Duration::from_secs(600);
