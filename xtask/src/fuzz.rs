//! Fuzzing: the targets in `tests/fuzz`, built with the stable compiler, and run for as long as
//! one likes.
//!
//! cargo-fuzz wants a nightly compiler for its sanitizers. The filter has no unsafe code outside
//! `host/abi.rs`, so coverage and assertions are all that is needed, and the stable compiler has
//! the flags for them; `cargo fuzz run TARGET --fuzz-dir tests/fuzz` works all the same.

use std::collections::BTreeSet;
use std::env;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use quota_gate::config::keys::{self, Kind, Table};

use crate::process::capture;
use crate::say::{Step, seconds};
use crate::{paths, setup};

/// What to fuzz, and for how long.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The targets; none: all of them
    #[arg(value_enum)]
    targets: Vec<Target>,
    /// How long each target runs, in minutes; several run side by side
    #[arg(long, default_value_t = 1.0, value_name = "N")]
    minutes: f64,
    /// Run just this input, once, and show what it does
    #[arg(long, value_name = "FILE", conflicts_with_all = ["minutes", "minimise"])]
    replay: Option<PathBuf>,
    /// Put what was found into the committed corpus, as few and as small inputs as reach as much
    #[arg(long, conflicts_with = "minutes")]
    minimise: bool,
}

/// What can be fuzzed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Target {
    /// Bytes as a configuration: JSON or a `Struct`
    Config,
    /// Two requests: descriptors, keys, costs, and what goes to the backend
    Descriptor,
    /// Bytes as a route's metadata
    Metadata,
    /// Bytes as a header map from the host
    Pairs,
    /// A reply to every preset and to custom languages, and a gate that gets it
    Reply,
    /// The simulation, with every choice read off the input
    World,
}

/// Fuzzes, replays an input, or minimises a corpus.
///
/// # Errors
/// Something can't be set up or built.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let all = <Target as clap::ValueEnum>::value_variants();
    let targets = if args.targets.is_empty() {
        all
    } else {
        &args.targets[..]
    };
    let bench = Bench::set_up()?;
    if let Some(input) = &args.replay {
        let [target] = targets else {
            bail!("say which target the input is for: cargo xtask fuzz TARGET --replay FILE");
        };
        return bench.replay(*target, input);
    }
    if args.minimise {
        for target in targets {
            bench.minimise(*target)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let time = Duration::try_from_secs_f64(args.minutes * 60.0).context("--minutes")?;
    Ok(match bench.fuzz(targets, time) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    })
}

/// What CI does: every committed input once, then a while of fuzzing, on all cores.
///
/// # Errors
/// An input breaks something, or a target can't be built.
pub(crate) fn check() -> Result<()> {
    let targets = <Target as clap::ValueEnum>::value_variants();
    let bench = Bench::set_up()?;
    for target in targets {
        bench.replay_corpus(*target)?;
    }
    let rounds = targets.len().div_ceil(cores());
    let rounds = u32::try_from(rounds).unwrap_or(u32::MAX);
    bench.fuzz(targets, CI_TIME.checked_div(rounds).unwrap_or(CI_TIME))
}

/// The built targets and their folders.
struct Bench {
    programs: PathBuf,
    /// What is found here and not committed, dictionaries and logs.
    work: PathBuf,
}

/// How one target's run went.
struct Run {
    target: Target,
    held: bool,
    took: Duration,
    log: PathBuf,
}

impl Bench {
    fn set_up() -> Result<Self> {
        if env::var_os("CXX").is_none() {
            setup::debian_program("c++", "g++").context("libFuzzer is compiled from C++")?;
        }
        let dir = paths::target_dir()?.join("fuzz");
        let host = host()?;
        let step = Step::spinner("fuzz targets", "building, with coverage");
        let mut cargo = Command::new(paths::cargo());
        cargo
            .current_dir(paths::root().join(ROOM))
            .args(["build", "--locked", "--release", "--bins", "--quiet"])
            .args(["--target", &host])
            .env("CARGO_TARGET_DIR", &dir)
            .env_remove("RUSTFLAGS")
            .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"));
        if let Err(error) = capture(&mut cargo) {
            step.give_up();
            return Err(error);
        }
        step.done("built");
        let bench = Self {
            programs: dir.join(host).join("release"),
            work: dir.join("work"),
        };
        fs::create_dir_all(&bench.work)?;
        fs::write(bench.dictionary(Target::Config), dictionary())?;
        Ok(bench)
    }

    fn dictionary(&self, target: Target) -> PathBuf {
        self.work.join(format!("{}.dict", target.name()))
    }

    /// A target's program with what all its runs have in common.
    fn command(&self, target: Target) -> Command {
        let mut command = Command::new(self.programs.join(target.name()));
        let artifacts = artifacts(target);
        command
            .current_dir(paths::root())
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .args(["-timeout=10", "-rss_limit_mb=1024"])
            .arg(format!("-max_len={}", target.longest()))
            .env("RUST_BACKTRACE", "0");
        let dictionary = self.dictionary(target);
        if dictionary.is_file() {
            command.arg(format!("-dict={}", dictionary.display()));
        }
        command
    }

    /// Runs every committed input once.
    fn replay_corpus(&self, target: Target) -> Result<()> {
        let corpus = corpus(target);
        let inputs =
            fs::read_dir(&corpus).with_context(|| format!("{} is missing", corpus.display()))?;
        let count = inputs.count();
        if count == 0 {
            bail!("{} is empty", corpus.display());
        }
        let mut command = self.command(target);
        let log = self.log(target, "replay");
        command.arg("-runs=0").arg(&corpus);
        let held = run_into(&mut command, &log)?;
        if !held {
            bail!("{}", self.tell_failure(target, &log)?);
        }
        println!("{:<11} {count} inputs of the corpus hold", target.name());
        Ok(())
    }

    /// Runs the targets for that long each, as many side by side as there are cores.
    fn fuzz(&self, targets: &[Target], time: Duration) -> Result<()> {
        println!(
            "{} targets, {} each, {} at once",
            targets.len(),
            seconds(time),
            cores()
        );
        let next = Mutex::new(targets.iter());
        let runs = Mutex::new(Vec::new());
        let work = || {
            while let Some(target) = next.lock().ok().and_then(|mut next| next.next().copied()) {
                let run = self.fuzz_one(target, time);
                if let Ok(mut runs) = runs.lock() {
                    runs.push(run);
                }
            }
        };
        thread::scope(|scope| {
            for _ in 0..cores() {
                scope.spawn(work);
            }
        });
        let mut failures = Vec::new();
        for run in runs.into_inner().unwrap_or_default() {
            let run = run?;
            if run.held {
                println!("{:<11} {}", run.target.name(), self.told(&run)?);
            } else {
                failures.push(self.tell_failure(run.target, &run.log)?);
            }
        }
        if !failures.is_empty() {
            bail!("{}", failures.join("\n"));
        }
        Ok(())
    }

    fn fuzz_one(&self, target: Target, time: Duration) -> Result<Run> {
        let found = self.found(target);
        fs::create_dir_all(&found)?;
        let log = self.log(target, "fuzz");
        let mut command = self.command(target);
        command
            .arg(format!("-max_total_time={}", time.as_secs().max(1)))
            .arg("-print_final_stats=1")
            // What is found goes into the first folder.
            .arg(&found)
            .arg(corpus(target));
        let started = Instant::now();
        let held = run_into(&mut command, &log)?;
        Ok(Run {
            target,
            held,
            took: started.elapsed(),
            log,
        })
    }

    /// One line on a run that held.
    fn told(&self, run: &Run) -> Result<String> {
        let log = fs::read_to_string(&run.log).unwrap_or_default();
        let stat = |name: &str| {
            let line = log.lines().rev().find(|line| line.starts_with(name));
            line.and_then(|line| line.rsplit(' ').next()).unwrap_or("?")
        };
        let last = log.lines().rev().find(|line| line.contains(" cov: "));
        let word = |name: &str| {
            let mut words = last.unwrap_or_default().split_whitespace();
            words.find(|word| *word == name);
            words.next().unwrap_or("?").to_owned()
        };
        Ok(format!(
            "holds: {} inputs in {}, {} a second; {} edges; {} found and kept in {}",
            stat("stat::number_of_executed_units"),
            seconds(run.took),
            stat("stat::average_exec_per_sec"),
            word("cov:"),
            fs::read_dir(self.found(run.target))?.count(),
            short(&self.found(run.target)),
        ))
    }

    /// What broke, where the input is, and how to see it again.
    fn tell_failure(&self, target: Target, log: &Path) -> Result<String> {
        let bytes = fs::read(log)?;
        let text = String::from_utf8_lossy(&bytes);
        let mut told = format!("{} does not hold\n", target.name());
        let lines = text
            .lines()
            .skip_while(|line| !line.contains("panicked at"));
        for line in lines
            .take(6)
            .take_while(|line| !line.starts_with("stack backtrace"))
        {
            let _infallible = writeln!(told, "    {line}");
        }
        let input = text.lines().rev().find_map(|line| {
            line.split_once("Test unit written to ")
                .map(|(_, path)| path)
        });
        let Some(input) = input else {
            let _infallible = write!(told, "    see {}", log.display());
            return Ok(told);
        };
        let input = short(Path::new(input.trim()));
        let _infallible = write!(
            told,
            "the input is {input}; to see it again:\n    cargo xtask fuzz {name} --replay {input}\n\
             once it holds, keep it: mv {input} {room}/corpus/{name}/WHAT-IT-WAS",
            name = target.name(),
            room = ROOM,
        );
        Ok(told)
    }

    fn replay(&self, target: Target, input: &Path) -> Result<ExitCode> {
        let input = fs::canonicalize(input).with_context(|| input.display().to_string())?;
        let mut command = self.command(target);
        command.arg(&input).env("RUST_BACKTRACE", "1");
        if target == Target::World {
            command.env("SIM_TRACE", "1");
        }
        let status = command.status().context("the target can't be started")?;
        if status.success() {
            println!("it holds");
            return Ok(ExitCode::SUCCESS);
        }
        Ok(ExitCode::FAILURE)
    }

    /// Adds to the corpus what reaches more than it does, in the smallest inputs that were found.
    fn minimise(&self, target: Target) -> Result<()> {
        let corpus = corpus(target);
        let before: BTreeSet<PathBuf> = files(&corpus)?;
        let mut command = self.command(target);
        command.arg("-merge=1").arg(&corpus).arg(self.found(target));
        let log = self.log(target, "merge");
        if !run_into(&mut command, &log)? {
            bail!("{}", self.tell_failure(target, &log)?);
        }
        let after = files(&corpus)?;
        println!(
            "{:<11} {} inputs, {} of them new",
            target.name(),
            after.len(),
            after.difference(&before).count()
        );
        Ok(())
    }

    fn found(&self, target: Target) -> PathBuf {
        self.work.join(target.name())
    }

    fn log(&self, target: Target, what: &str) -> PathBuf {
        self.work.join(format!("{}.{what}.log", target.name()))
    }
}

impl Target {
    fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// The longest input that is tried: long enough for everything, short enough to be quick.
    const fn longest(self) -> usize {
        match self {
            Self::Config => 8192,
            Self::World => 2048,
            Self::Descriptor | Self::Metadata | Self::Pairs | Self::Reply => 1024,
        }
    }
}

/// Runs a command with its output in a file; whether it succeeded.
fn run_into(command: &mut Command, log: &Path) -> Result<bool> {
    let file = File::create(log)?;
    let status = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .status()
        .context("a target can't be started")?;
    Ok(status.success())
}

fn files(dir: &Path) -> Result<BTreeSet<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| dir.display().to_string())?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

fn corpus(target: Target) -> PathBuf {
    paths::root().join(ROOM).join("corpus").join(target.name())
}

fn artifacts(target: Target) -> PathBuf {
    let dir = paths::root()
        .join(ROOM)
        .join("artifacts")
        .join(target.name());
    // libFuzzer says itself where it could not write.
    let _made = fs::create_dir_all(&dir);
    dir
}

/// The path from the workspace's root.
fn short(path: &Path) -> String {
    path.strip_prefix(paths::root())
        .unwrap_or(path)
        .display()
        .to_string()
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// The triple of this machine: with `--target`, build scripts are compiled without coverage.
fn host() -> Result<String> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let says = capture(Command::new(rustc).arg("-vV"))?;
    let host = says.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc names no host")?.to_owned())
}

/// Every key and word of a configuration, which no fuzzer would guess.
fn dictionary() -> String {
    let mut words = BTreeSet::new();
    collect(&keys::config::CONFIG, &mut words, 0);
    let mut text = String::new();
    for word in words {
        let _infallible = writeln!(text, "\"\\\"{word}\\\"\"");
    }
    for word in [
        "1s",
        "5ms",
        "2027-01-31T22:00:00Z",
        "{cost}",
        "{entry.a}",
        "2xx",
    ] {
        let _infallible = writeln!(text, "\"\\\"{word}\\\"\"");
    }
    text
}

fn collect(table: &'static Table, words: &mut BTreeSet<&'static str>, depth: usize) {
    if depth > DEPTH_MAX {
        return;
    }
    for key in table.keys {
        words.insert(key.name);
        collect_kind(&key.kind, words, depth);
    }
}

fn collect_kind(kind: &'static Kind, words: &mut BTreeSet<&'static str>, depth: usize) {
    match kind {
        Kind::Either(simple, object) => {
            collect_kind(simple, words, depth);
            collect_kind(object, words, depth);
        }
        Kind::List(item, ..) | Kind::Map(_, item, _) => collect_kind(item, words, depth),
        Kind::Table(table) => collect(table, words, depth + 1),
        Kind::Words(own) => words.extend(own.iter()),
        _ => {}
    }
}

/// Where the targets and their corpora are.
const ROOM: &str = "tests/fuzz";

/// No configuration is nested as deep.
const DEPTH_MAX: usize = 16;

/// What CI spends on new inputs, by the clock.
const CI_TIME: Duration = Duration::from_secs(150);

/// Coverage as libFuzzer wants it, in flags that the stable compiler has: those of cargo-fuzz.
const FLAGS: &[&str] = &[
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_has_keys_of_every_level_and_words() {
        let text = dictionary();
        for word in [
            "host_budget",
            "failure_rate",
            "fail_local",
            "envoy_ratelimit",
            "pointer",
        ] {
            assert!(text.contains(&format!("\"\\\"{word}\\\"\"\n")), "{word}");
        }
    }

    #[test]
    fn every_target_has_a_program_and_a_corpus() {
        let manifest = fs::read_to_string(paths::root().join(ROOM).join("Cargo.toml")).unwrap();
        for target in <Target as clap::ValueEnum>::value_variants() {
            let name = target.name();
            assert!(manifest.contains(&format!("name = \"{name}\"\n")), "{name}");
            assert!(files(&corpus(*target)).unwrap().len() > 1, "{name}");
        }
    }
}
