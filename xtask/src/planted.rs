//! Plants bugs in a copy of the sources, one at a time, and has the simulation catch each.
//!
//! A simulation that can't fail proves nothing. `tests/sim/planted.txt` has a bug for each
//! invariant; a bug whose place is not found any more has to be written anew.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::paths;
use crate::process::capture;
use crate::say::seconds;

/// Which bugs, and how hard they are looked for.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only bugs whose invariant has these words
    words: Vec<String>,
    /// How many worlds may pass before a bug counts as not caught
    #[arg(long, default_value_t = 2500, value_name = "N")]
    seeds: u64,
}

/// A bug, and what it breaks.
#[derive(Debug, PartialEq)]
struct Bug {
    invariant: String,
    file: PathBuf,
    from: String,
    to: String,
}

/// Plants the bugs and prints what caught each.
///
/// # Errors
/// The copy can't be made, or the simulation fails without a bug.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let bugs = read(&fs::read_to_string(paths::root().join(LIST))?)?;
    let wanted = |bug: &&Bug| args.words.iter().all(|word| bug.invariant.contains(word));
    let bugs: Vec<&Bug> = bugs.iter().filter(wanted).collect();
    let field = Field::new(args.seeds)?;
    if let Some(told) = field.run_worlds()? {
        bail!("the simulation fails without a bug: {told}");
    }
    let mut missed = 0;
    for bug in &bugs {
        let started = Instant::now();
        let told = field.try_bug(bug);
        let word = match &told {
            Ok(Some(told)) => format!("caught: {told}"),
            Ok(None) => "NOT CAUGHT".to_owned(),
            Err(error) => format!("NOT TRIED: {error:#}"),
        };
        missed += usize::from(!matches!(told, Ok(Some(_))));
        let (what, took) = (&bug.invariant, seconds(started.elapsed()));
        println!("{what} ({}, {took})\n    {word}", bug.file.display());
    }
    println!(
        "{} of {} planted bugs caught",
        bugs.len() - missed,
        bugs.len()
    );
    Ok(if missed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The copy in which bugs are planted.
struct Field {
    dir: PathBuf,
    build: PathBuf,
    seeds: u64,
}

impl Field {
    fn new(seeds: u64) -> Result<Self> {
        // What others have compiled of the dependencies serves here, too.
        let build = paths::target_dir()?;
        let field = Self {
            dir: build.join("planted"),
            build,
            seeds,
        };
        let mut git = Command::new("git");
        git.current_dir(paths::root()).args([
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
        ]);
        for file in capture(&mut git)?.lines().map(Path::new) {
            field.copy(file)?;
        }
        Ok(field)
    }

    /// Copies a file; one that has not changed keeps its time, and is not compiled again.
    fn copy(&self, file: &Path) -> Result<()> {
        let (from, to) = (paths::root().join(file), self.dir.join(file));
        let Ok(bytes) = fs::read(&from) else {
            return Ok(());
        };
        if fs::read(&to).is_ok_and(|old| old == bytes) {
            return Ok(());
        }
        fs::create_dir_all(to.parent().context("a file in no folder")?)?;
        fs::write(&to, bytes)?;
        Ok(())
    }

    fn try_bug(&self, bug: &Bug) -> Result<Option<String>> {
        let path = self.dir.join(&bug.file);
        let text = fs::read_to_string(&path)?;
        let found = text.matches(&bug.from).count();
        if found != 1 {
            bail!("its place is found {found} times: {}", bug.from);
        }
        fs::write(&path, text.replace(&bug.from, &bug.to))?;
        let told = self.run_worlds();
        fs::write(&path, text)?;
        told
    }

    /// What the worlds break, if they do.
    fn run_worlds(&self) -> Result<Option<String>> {
        let cargo = || {
            let mut cargo = Command::new(paths::cargo());
            cargo
                .current_dir(&self.dir)
                .args([
                    "test",
                    "--locked",
                    "--quiet",
                    "--profile",
                    "sim",
                    "--test",
                    "sim",
                ])
                .env("CARGO_TARGET_DIR", &self.build)
                .env("RUST_BACKTRACE", "0")
                .env("SIM_SEEDS", self.seeds.to_string());
            cargo
        };
        capture(cargo().arg("--no-run"))?;
        let output = cargo().arg("what").output()?;
        if output.status.success() {
            return Ok(None);
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        let told = text
            .lines()
            .skip_while(|line| !line.contains("panicked at"));
        let told = told.skip(1).find(|line| !line.trim().is_empty());
        let told: String = told
            .unwrap_or("it failed")
            .chars()
            .take(TOLD_CHARS)
            .collect();
        Ok(Some(told))
    }
}

/// Reads the list: `== invariant`, a file, the lines of the place after `-`, and of the bug after
/// `+`.
fn read(text: &str) -> Result<Vec<Bug>> {
    let mut bugs: Vec<Bug> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if let Some(invariant) = line.strip_prefix("== ") {
            bugs.push(Bug {
                invariant: invariant.to_owned(),
                file: PathBuf::new(),
                from: String::new(),
                to: String::new(),
            });
            continue;
        }
        let Some(bug) = bugs.last_mut().filter(|_| !line.is_empty()) else {
            continue;
        };
        match (line.strip_prefix('-'), line.strip_prefix('+')) {
            (Some(from), _) => add_line(&mut bug.from, from),
            (_, Some(to)) => add_line(&mut bug.to, to),
            (None, None) => bug.file = line.into(),
        }
    }
    let whole = |bug: &Bug| !bug.from.is_empty() && bug.file.extension().is_some();
    match bugs.iter().find(|bug| !whole(bug)) {
        Some(bug) => bail!("{LIST}: `{}` has no file or no place", bug.invariant),
        None => Ok(bugs),
    }
}

fn add_line(text: &mut String, line: &str) {
    if !text.is_empty() {
        text.push('\n');
    }
    text.push_str(line.trim());
}

const LIST: &str = "tests/sim/planted.txt";

/// Enough of what is broken to know it by.
const TOLD_CHARS: usize = 140;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bug_is_an_invariant_a_file_a_place_and_what_comes_in_its_place() {
        let text =
            "# a list\n\n== all are counted\nsrc/a.rs\n- count(1);\n+ count(2);\n+ more();\n";
        assert_eq!(
            read(text).unwrap(),
            [Bug {
                invariant: "all are counted".to_owned(),
                file: "src/a.rs".into(),
                from: "count(1);".to_owned(),
                to: "count(2);\nmore();".to_owned(),
            }]
        );
        assert!(read("== nothing\nsrc/a.rs\n").is_err());
    }

    /// A bug whose place has changed would not be planted any more.
    #[test]
    fn each_bug_of_the_list_has_one_place() {
        let text = fs::read_to_string(paths::root().join(LIST)).unwrap();
        let bugs = read(&text).unwrap();
        assert!(bugs.len() > 30);
        for bug in bugs {
            let source = fs::read_to_string(paths::root().join(&bug.file)).unwrap();
            assert_eq!(source.matches(&bug.from).count(), 1, "{}", bug.invariant);
        }
    }
}
