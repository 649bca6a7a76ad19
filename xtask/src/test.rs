//! Every check that CI runs, as named steps: timed, summed up, the first failure stops.

use std::env;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::say::{news, seconds};
use crate::setup::{self, WasmCargo};
use crate::{bench, build, chaos, demo, deny, dist, fuzz, paths, simulate, tidy};

/// Which steps to run, and how.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The steps to run; none: all of them
    #[arg(value_enum)]
    steps: Vec<Step>,
    /// Run the steps after a failed one, too
    #[arg(long)]
    keep_going: bool,
}

/// One check; all of them run in the order in which they stand here, the quick ones first.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Step {
    /// rustfmt agrees with every file
    Fmt,
    /// The house rules that a machine can check
    Tidy,
    /// What dependencies may be: licences, sources, the filter's own
    Deny,
    /// clippy has no warning, natively and for wasm32
    Clippy,
    /// The unit tests, and the charts as files
    Unit,
    /// The promises in virtual time
    Spec,
    /// Seeded random runs against a reference model
    Sim,
    /// A fleet of gates keeps the bounds that leases promise
    Simulate,
    /// Unit tests and promises again, in wasm under Node
    Wasm,
    /// The module's size, imports and exports
    Module,
    /// What each way of a request costs the module, held to a table
    Costs,
    /// The module in a pretend host: seeded worlds, memory, and the pretence itself
    Pretend,
    /// Every input of the fuzz corpora, then a while of new ones
    Fuzz,
    /// The rig itself: every fault and every wire, as Envoy sees them; and the manifests
    Rig,
    /// Two Envoys, two backends and one Redis: the limit is one, whatever dies
    Distributed,
    /// The promises on a real Envoy
    E2e,
    /// The guided tour comes out as told
    Demo,
    /// The measurement serves what it should in every chain; no time is judged
    Bench,
    /// The core of the promises on every supported Envoy
    Matrix,
    /// The promises on the oldest and the newest Envoy, restricted to the published capabilities
    Restricted,
    /// Alert rules and dashboard, on a real Prometheus that scrapes a real Envoy
    Observability,
    /// A load on a real Envoy while everything around it goes wrong: each answer is explained
    Chaos,
    /// What users get is the same from any folder; a real registry, and Envoy's own fetch, give it
    Dist,
    /// rustdoc has no warning, and its examples run
    Doc,
}

/// Runs the steps and prints what came of each; the last line is `N passed, N failed`, summed over
/// every test of every step. A step that fails without a failed test counts as one failed.
///
/// # Errors
/// Something that a step needs can't be set up.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let all = <Step as clap::ValueEnum>::value_variants();
    let steps: Vec<Step> = all
        .iter()
        .copied()
        .filter(|s| args.steps.is_empty() || args.steps.contains(s))
        .collect();
    let tools = Tools::set_up(&steps)?;
    let mut reports = Vec::new();
    for step in steps {
        println!("\n== {} ==", step.name());
        let started = Instant::now();
        let mut tally = Tally::default();
        let result = step.run(&tools, args.keep_going, &mut tally);
        if let Err(error) = &result {
            eprintln!("error: {error:#}");
        }
        let failed = result.is_err();
        tally.failed += u64::from(failed && tally.failed == 0);
        reports.push(Report {
            step,
            tally,
            failed,
            took: started.elapsed(),
        });
        if failed && !args.keep_going {
            break;
        }
    }
    print!("{}", summary(&reports));
    let failed = reports.iter().any(|report| report.failed);
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// What the steps run with, fetched before the first of them.
#[derive(Default)]
struct Tools {
    wasm: Option<WasmCargo>,
    runner: Option<PathBuf>,
    throttlecrab: Option<PathBuf>,
    redis: Option<PathBuf>,
    envoys: Vec<(&'static str, PathBuf)>,
}

impl Tools {
    fn set_up(steps: &[Step]) -> Result<Self> {
        let any = |wanted: &[Step]| steps.iter().any(|step| wanted.contains(step));
        let mut tools = Self::default();
        if any(&[
            Step::Clippy,
            Step::Wasm,
            Step::Module,
            Step::Costs,
            Step::Pretend,
            Step::Rig,
            Step::Distributed,
            Step::E2e,
            Step::Demo,
            Step::Bench,
            Step::Matrix,
            Step::Restricted,
            Step::Observability,
            Step::Chaos,
            Step::Dist,
        ]) {
            tools.wasm = Some(setup::wasm()?);
        }
        if any(&[Step::Wasm]) {
            tools.runner = Some(setup::wasm_test_runner()?);
            news("test runner", "wasm-bindgen's, in Node");
        }
        if any(&[Step::Distributed]) {
            tools.redis = Some(setup::redis()?);
        }
        if any(&[Step::E2e, Step::Restricted]) {
            tools.throttlecrab = Some(setup::throttlecrab()?);
        }
        let versions: &[&str] = match (
            any(&[
                Step::Rig,
                Step::Distributed,
                Step::E2e,
                Step::Demo,
                Step::Bench,
                Step::Observability,
                Step::Chaos,
                Step::Dist,
            ]),
            any(&[Step::Matrix, Step::Restricted]),
        ) {
            (_, true) => setup::ENVOY_VERSIONS,
            (true, false) => &[setup::ENVOY_DEFAULT],
            (false, false) => &[],
        };
        for version in versions {
            tools.envoys.push((version, setup::envoy(version)?));
        }
        if any(&[Step::Dist]) {
            setup::registry()?;
        }
        if !versions.is_empty() {
            news("envoy", &versions.join(", "));
        }
        Ok(tools)
    }

    fn wasm(&self) -> Result<&WasmCargo> {
        self.wasm.as_ref().context("the wasm target is not set up")
    }

    fn envoy(&self, version: &str) -> Result<&Path> {
        let found = self.envoys.iter().find(|(have, _)| *have == version);
        let (_, envoy) = found.with_context(|| format!("Envoy {version} is not set up"))?;
        Ok(envoy)
    }
}

impl Step {
    fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    fn run(self, tools: &Tools, keep_going: bool, tally: &mut Tally) -> Result<()> {
        match self {
            Self::Fmt => check(cargo("fmt").args(["--all", "--check"]), "cargo fmt --all"),
            Self::Tidy => tidy::run(),
            Self::Deny => deny::run(),
            Self::Clippy => clippy(tools.wasm()?),
            Self::Unit => run_tests(
                cargo("test").args(["--workspace", "--lib", "--bins", "--test", "pictures"]),
                keep_going,
                tally,
            ),
            Self::Spec => run_tests(cargo("test").args(["--test", "spec"]), keep_going, tally),
            Self::Sim => sim(keep_going, tally),
            Self::Simulate => {
                tally.passed += simulate::check()?;
                Ok(())
            }
            Self::Wasm => in_wasm(tools, keep_going, tally),
            Self::Module => build::build(tools.wasm()?)?.check(),
            Self::Costs => in_pretend_host(tools, &["costs"], keep_going, tally),
            Self::Pretend => in_pretend_host(
                tools,
                &["host", "memory", "pushes", "sim"],
                keep_going,
                tally,
            ),
            Self::Fuzz => fuzz::check(),
            Self::Rig => rig(tools, tally),
            Self::Distributed => distributed(tools, tally),
            Self::E2e => Promises::All.on(tools, setup::ENVOY_DEFAULT, tally),
            Self::Demo => {
                build::build(tools.wasm()?)?;
                demo::check(tools.envoy(setup::ENVOY_DEFAULT)?)
            }
            Self::Bench => {
                build::build(tools.wasm()?)?;
                let envoy = tools.envoy(setup::ENVOY_DEFAULT)?;
                pass_on(&mut bench::check(tools.wasm()?, envoy)?, tally)
            }
            Self::Matrix => {
                let versions = setup::ENVOY_VERSIONS;
                Promises::Core.on_each(tools, versions, keep_going, tally)
            }
            Self::Restricted => {
                let versions = [setup::ENVOY_OLDEST, setup::ENVOY_DEFAULT];
                Promises::Restricted.on_each(tools, &versions, keep_going, tally)
            }
            Self::Observability => observability(tools, tally),
            Self::Chaos => {
                build::build(tools.wasm()?)?;
                chaos::check(tools.envoy(setup::ENVOY_DEFAULT)?)
            }
            Self::Dist => distribution(tools, tally),
            Self::Doc => doc(tally),
        }
    }
}

fn clippy(wasm: &WasmCargo) -> Result<()> {
    let native = ["--workspace", "--all-targets", "--", "-D", "warnings"];
    check(
        cargo("clippy").args(native),
        "cargo clippy --workspace --all-targets",
    )?;
    let on_redis = [
        "--package",
        "envoy-harness",
        "--features",
        "redis",
        "--all-targets",
    ];
    let mut harness = cargo("clippy");
    harness.args(on_redis).args(["--", "-D", "warnings"]);
    check(&mut harness, "the lines above")?;
    if wasm.has_clippy() {
        let mut host = wasm.command("clippy");
        return check(
            host.args(["--lib", "--", "-D", "warnings"]),
            "the lines above",
        );
    }
    println!("no clippy comes with this compiler for wasm32: the host module is only compiled");
    check(wasm.command("check").args(["--lib"]), "the lines above")
}

/// More seeds than a plain `cargo test` tries, in a profile that has the time for them.
fn sim(keep_going: bool, tally: &mut Tally) -> Result<()> {
    let mut command = cargo("test");
    command.args(["--profile", "sim", "--test", "sim"]);
    if env::var_os("SIM_SEEDS").is_none() {
        command.env("SIM_SEEDS", "2500");
    }
    if keep_going {
        command.arg("--no-fail-fast");
    }
    // What was injected is to be seen; a failing test shows the rest.
    run_tests(command.args(["--", "--show-output"]), false, tally)
}

fn in_wasm(tools: &Tools, keep_going: bool, tally: &mut Tally) -> Result<()> {
    let runner = tools
        .runner
        .as_ref()
        .context("the test runner is not set up")?;
    let mut cargo = tools.wasm()?.command("test");
    cargo
        .args(["--package", "quota-gate", "--no-default-features", "--lib"])
        .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER", runner);
    if paths::root().join("tests/spec").is_dir() {
        cargo.args(["--test", "spec"]);
    }
    run_tests(&mut cargo, keep_going, tally)
}

/// The shipped module as it is built now, in the pretend host.
fn in_pretend_host(
    tools: &Tools,
    tests: &[&str],
    keep_going: bool,
    tally: &mut Tally,
) -> Result<()> {
    build::build(tools.wasm()?)?;
    let mut command = cargo("test");
    command.args(["--package", "pretend-host"]);
    for test in tests {
        command.args(["--test", test]);
    }
    // The table of costs, the seeds and the faults are to be seen when all is well, too.
    command
        .env("QUOTA_GATE_WASM", paths::module())
        .env("RUST_TEST_NOCAPTURE", "1");
    run_tests(&mut command, keep_going, tally)
}

/// Which of the promises are tried on a real Envoy, and how.
#[derive(Clone, Copy)]
enum Promises {
    All,
    Core,
    /// All of them, with Envoy's capability restriction on.
    Restricted,
}

impl Promises {
    fn on_each(
        self,
        tools: &Tools,
        versions: &[&str],
        keep_going: bool,
        tally: &mut Tally,
    ) -> Result<()> {
        if env::var_os("ENVOY_BIN").is_some() {
            println!("ENVOY_BIN is set: that one Envoy stands for all versions");
            return self.on(tools, setup::ENVOY_DEFAULT, tally);
        }
        let mut failed = Vec::new();
        for version in versions {
            println!("-- Envoy {version}");
            match self.on(tools, version, tally) {
                Err(error) if !keep_going => return Err(error.context(format!("Envoy {version}"))),
                Err(_) => failed.push(*version),
                Ok(()) => {}
            }
        }
        if !failed.is_empty() {
            bail!("failed on Envoy {}", failed.join(", "));
        }
        Ok(())
    }

    fn on(self, tools: &Tools, version: &str, tally: &mut Tally) -> Result<()> {
        let envoy = tools.envoy(version)?;
        build::build(tools.wasm()?)?;
        let mut command = cargo("test");
        command
            .args(["--test", "e2e"])
            .env("QUOTA_GATE_ENVOY", envoy)
            .env("QUOTA_GATE_WASM", paths::module());
        if let Some(server) = &tools.throttlecrab {
            command.env("QUOTA_GATE_THROTTLECRAB", server);
        }
        let command = match self {
            Self::All => &mut command,
            Self::Core => command.arg("matrix::"),
            Self::Restricted => command.env("QUOTA_GATE_RESTRICT", "1"),
        };
        run_live_tests(command, tally)
    }
}

/// The harness proves itself before it proves anything else.
fn rig(tools: &Tools, tally: &mut Tally) -> Result<()> {
    build::build(tools.wasm()?)?;
    let mut command = cargo("test");
    command
        .args(["--package", "envoy-harness", "--test", "*"])
        .env("QUOTA_GATE_ENVOY", tools.envoy(setup::ENVOY_DEFAULT)?)
        .env("QUOTA_GATE_WASM", paths::module());
    run_live_tests(&mut command, tally)
}

fn observability(tools: &Tools, tally: &mut Tally) -> Result<()> {
    build::build(tools.wasm()?)?;
    let mut command = cargo("test");
    command
        .args(["--package", "quota-gate-observability", "--test", "*"])
        .env("QUOTA_GATE_ENVOY", tools.envoy(setup::ENVOY_DEFAULT)?)
        .env("QUOTA_GATE_WASM", paths::module());
    for (variable, path) in setup::prometheus()? {
        command.env(variable, path);
    }
    run_live_tests(&mut command, tally)
}

/// The same files from another folder, and what users do with them.
fn distribution(tools: &Tools, tally: &mut Tally) -> Result<()> {
    dist::pack(tools.wasm()?)?;
    dist::same_elsewhere(tools.wasm()?)?;
    let mut command = cargo("test");
    command
        .args(["--package", "quota-gate-distribution", "--test", "*"])
        .env("QUOTA_GATE_DIST", paths::root().join("dist"))
        .env("QUOTA_GATE_ENVOY", tools.envoy(setup::ENVOY_DEFAULT)?)
        .env("QUOTA_GATE_WASM", paths::module());
    run_live_tests(&mut command, tally)
}

/// The harness's own books on a real Redis, behind several Envoys.
fn distributed(tools: &Tools, tally: &mut Tally) -> Result<()> {
    let redis = tools.redis.as_ref().context("Redis is not set up")?;
    build::build(tools.wasm()?)?;
    let mut command = cargo("test");
    command
        .args(["--package", "envoy-harness", "--features", "redis"])
        .args(["--test", "distributed"])
        .env("QUOTA_GATE_ENVOY", tools.envoy(setup::ENVOY_DEFAULT)?)
        .env("QUOTA_GATE_WASM", paths::module())
        .env("QUOTA_GATE_REDIS", redis);
    run_live_tests(&mut command, tally)
}

fn doc(tally: &mut Tally) -> Result<()> {
    let mut rustdoc = cargo("doc");
    rustdoc
        .args(["--workspace", "--no-deps", "--document-private-items"])
        .env("RUSTDOCFLAGS", DOC_FLAGS);
    check(&mut rustdoc, "the lines above")?;
    pass_on(cargo("test").args(["--workspace", "--doc"]), tally)
}

pub(crate) fn cargo(subcommand: &str) -> Command {
    let mut cargo = Command::new(paths::cargo());
    cargo.current_dir(paths::root()).arg(subcommand);
    if subcommand != "fmt" {
        cargo.arg("--locked");
    }
    cargo
}

/// Runs a command that prints its own findings.
fn check(command: &mut Command, remedy: &str) -> Result<()> {
    if !command
        .status()
        .context("cargo can't be started")?
        .success()
    {
        bail!("see {remedy}");
    }
    Ok(())
}

/// Runs `cargo test` and counts; that no test has run is a failure, too.
fn run_tests(command: &mut Command, keep_going: bool, tally: &mut Tally) -> Result<()> {
    if keep_going {
        command.arg("--no-fail-fast");
    }
    let before = (tally.passed, tally.failed);
    pass_on(command, tally)?;
    if (tally.passed, tally.failed) == before {
        bail!("no test has run");
    }
    Ok(())
}

/// As [`run_tests`], of tests that run real processes beside each other. On a machine that is busy
/// with something else one of them may be starved: so those that fail run once more, each alone. A
/// test that fails again has failed; one that passes is told.
fn run_live_tests(command: &mut Command, tally: &mut Tally) -> Result<()> {
    let again = copy_of(command);
    // All of them run before one runs again.
    let mut first = Tally::default();
    let result = run_tests(command, true, &mut first);
    let names = std::mem::take(&mut first.names);
    if result.is_ok() || names.is_empty() || names.len() > STARVED_MAX {
        tally.add(&first);
        return result;
    }
    println!("\n-- once more, each alone: {}", names.join(", "));
    let mut second = Tally::default();
    let result = run_tests(&mut each_alone(again, &names), false, &mut second);
    first.failed = 0;
    tally.add(&first);
    tally.add(&second);
    if result.is_ok() {
        println!(
            "-- passed alone, failed beside others: {}",
            names.join(", ")
        );
    }
    result
}

fn copy_of(command: &Command) -> Command {
    let mut again = Command::new(command.get_program());
    again.args(command.get_args());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            again.env(name, value);
        }
    }
    if let Some(folder) = command.get_current_dir() {
        again.current_dir(folder);
    }
    again
}

/// The same `cargo test`, for these tests only. Of all binaries, for the tests may be in any.
fn each_alone(mut command: Command, names: &[String]) -> Command {
    command
        .args(["--no-fail-fast", "--", "--exact", "--test-threads=1"])
        .args(names);
    command
}

/// More failures than this are no bad luck.
const STARVED_MAX: usize = 4;

/// Runs a command, passes its output on line by line, and counts the tests in it.
fn pass_on(command: &mut Command, tally: &mut Tally) -> Result<()> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .context("cargo can't be started")?;
    let stdout = child.stdout.take().context("cargo has no output")?;
    for line in BufReader::new(stdout).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        tally.count(&line);
        println!("{line}");
    }
    if !child.wait()?.success() {
        bail!("see the lines above");
    }
    Ok(())
}

/// How many tests there were, from the `test result:` lines.
#[derive(Clone, Debug, Default, PartialEq)]
struct Tally {
    passed: u64,
    failed: u64,
    /// The tests that failed.
    names: Vec<String>,
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.names.extend_from_slice(&other.names);
    }

    fn count(&mut self, line: &str) {
        let failed = line
            .strip_prefix("test ")
            .and_then(|test| test.strip_suffix(" ... FAILED"));
        self.names.extend(failed.map(str::to_owned));
        let Some(result) = line.strip_prefix("test result: ") else {
            return;
        };
        let number = |word: &str| {
            let before = result
                .split(word)
                .next()
                .filter(|before| before.len() < result.len())?;
            before.split_whitespace().last()?.parse::<u64>().ok()
        };
        self.passed += number(" passed").unwrap_or_default();
        self.failed += number(" failed").unwrap_or_default();
    }
}

struct Report {
    step: Step,
    tally: Tally,
    failed: bool,
    took: Duration,
}

fn summary(reports: &[Report]) -> String {
    let mut text = String::from("\n");
    let mut total = Tally::default();
    let names = reports.iter().map(|report| report.step.name().len());
    let width = names.max().unwrap_or_default();
    for Report {
        step,
        tally,
        failed,
        took,
    } in reports
    {
        let word = if *failed { "FAILED" } else { "ok" };
        let tests = match tally {
            Tally {
                passed: 0,
                failed: 0,
                ..
            } => String::new(),
            Tally { passed, failed, .. } => format!("{passed} passed, {failed} failed"),
        };
        let line = format!(
            "{:<width$} {word:<7} {:>12}  {tests}",
            step.name(),
            seconds(*took)
        );
        let _infallible = writeln!(text, "{}", line.trim_end());
        total.passed += tally.passed;
        total.failed += tally.failed;
    }
    for report in reports.iter().filter(|report| report.failed) {
        let name = report.step.name();
        let _infallible = writeln!(
            text,
            "{name} failed; to run it alone: cargo xtask test {name}"
        );
    }
    let _infallible = writeln!(text, "{} passed, {} failed", total.passed, total.failed);
    text
}

/// The pages are for maintainers: what is public may refer to what is private.
const DOC_FLAGS: &str = "-D warnings -A rustdoc::private_intra_doc_links";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_try_tells_cargo_its_flags_and_the_tests_theirs() {
        let mut command = Command::new("cargo");
        command.args(["test", "--test", "e2e", "matrix::"]);

        let again = each_alone(copy_of(&command), &["a::b".to_owned()]);

        let args: Vec<_> = again.get_args().collect();
        assert_eq!(
            args,
            [
                "test",
                "--test",
                "e2e",
                "matrix::",
                "--no-fail-fast",
                "--",
                "--exact",
                "--test-threads=1",
                "a::b",
            ]
        );
    }

    #[test]
    fn result_lines_of_every_test_program_are_summed() {
        let mut tally = Tally::default();
        tally.count("test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out");
        tally.count("test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured");
        tally.count("test config::tests::a_test_result: 9 passed ... ok");
        tally.count("running 15 tests");
        tally.count("test e2e::a_test ... FAILED");
        assert_eq!(
            tally,
            Tally {
                passed: 15,
                failed: 2,
                names: vec!["e2e::a_test".into()],
            }
        );
    }

    #[test]
    fn the_summary_closes_with_the_sums() {
        let report = |step, passed, failed| Report {
            step,
            tally: Tally {
                passed,
                failed,
                names: Vec::new(),
            },
            failed: failed > 0,
            took: Duration::from_millis(1500),
        };
        assert_eq!(
            summary(&[report(Step::Fmt, 0, 0), report(Step::Unit, 7, 1)]),
            "\nfmt  ok             1.5 s\n\
             unit FAILED         1.5 s  7 passed, 1 failed\n\
             unit failed; to run it alone: cargo xtask test unit\n\
             7 passed, 1 failed\n"
        );
        assert_eq!(
            summary(&[report(Step::Fmt, 0, 0), report(Step::Observability, 3, 0)]),
            "\nfmt           ok             1.5 s\n\
             observability ok             1.5 s  3 passed, 0 failed\n\
             3 passed, 0 failed\n"
        );
    }
}
