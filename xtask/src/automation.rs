//! What runs by itself or by a short name (workflows, hooks, recipes) is held to what there is.

use std::collections::BTreeSet;
use std::fs;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use serde_yaml_ng::Value;

use crate::{Cli, paths};

fn read(path: &str) -> String {
    fs::read_to_string(paths::root().join(path)).expect("the file is there")
}

/// Each workflow, by its file's name.
fn workflows() -> Vec<(String, String)> {
    let folder = fs::read_dir(paths::root().join(".github/workflows")).expect("workflows");
    let files = folder.map(|entry| entry.expect("a file").path());
    files
        .map(|path| {
            let name = path.file_name().expect("a name").to_string_lossy();
            let text = fs::read_to_string(&path).expect("a workflow");
            (name.into_owned(), text)
        })
        .collect()
}

/// What stands behind `cargo xtask` in a text, up to what only a shell or just can fill in.
fn commands(text: &str) -> Vec<Vec<String>> {
    let calls = text.split("cargo xtask ").skip(1);
    let words = calls.map(|call| call.lines().next().unwrap_or_default());
    let ends = |word: &&str| !word.contains(['$', '{', '"', '`']);
    words
        .map(|line| {
            line.split(' ')
                .take_while(ends)
                .map(str::to_owned)
                .collect()
        })
        .collect()
}

#[test]
fn every_command_that_runs_by_itself_can_be_read() {
    let mut texts = workflows();
    for path in ["justfile", ".githooks/pre-commit"] {
        texts.push((path.to_owned(), read(path)));
    }
    let code = |text: &str| {
        let lines = text
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'));
        lines.collect::<Vec<_>>().join("\n")
    };
    let mut count = 0;
    for (name, text) in texts {
        for words in commands(&code(&text)) {
            let told = std::iter::once("xtask".to_owned()).chain(words.clone());
            let error = Cli::try_parse_from(told).err().map(|error| error.kind());
            // What a recipe asks of its user is missing here.
            let read = matches!(error, None | Some(ErrorKind::MissingRequiredArgument));
            assert!(read, "{name}: cargo xtask {}: {error:?}", words.join(" "));
            count += 1;
        }
    }
    assert!(count > 10, "only {count} calls were found");
}

#[test]
fn every_command_has_a_recipe() {
    let recipes: BTreeSet<String> = commands(&read("justfile"))
        .into_iter()
        .filter_map(|words| words.into_iter().next())
        .collect();
    for command in Cli::command().get_subcommands() {
        assert!(
            recipes.contains(command.get_name()),
            "{} has none",
            command.get_name()
        );
    }
}

/// A tag can be moved to other code; a commit can't.
#[test]
fn every_action_is_pinned_by_its_commit_and_says_its_version() {
    for (name, text) in workflows() {
        for line in text.lines().filter(|line| line.contains("uses: ")) {
            let (action, version) = line.split_once(" # ").unwrap_or((line, ""));
            let commit = action.rsplit_once('@').map_or("", |(_, commit)| commit);
            let is_commit = commit.len() == 40 && commit.chars().all(|c| c.is_ascii_hexdigit());
            assert!(
                is_commit && version.starts_with('v'),
                "{name}: {}",
                line.trim()
            );
        }
    }
}

#[test]
fn a_workflow_may_read_alone_and_its_jobs_have_an_end_and_keep_no_token() {
    for (name, text) in workflows() {
        let workflow: Value = serde_yaml_ng::from_str(&text).expect("YAML");
        let reads: Value = serde_yaml_ng::from_str("contents: read").expect("YAML");
        let nothing = Value::Mapping(serde_yaml_ng::Mapping::new());
        let permissions = &workflow["permissions"];
        assert!(
            *permissions == reads || *permissions == nothing,
            "{name}: {permissions:?}"
        );
        for (job, about) in workflow["jobs"].as_mapping().expect("jobs") {
            assert!(
                about["timeout-minutes"].is_number(),
                "{name}: {job:?} has no end"
            );
            for step in about["steps"].as_sequence().expect("steps") {
                let uses = step["uses"].as_str().unwrap_or_default();
                if uses.starts_with("actions/checkout@") {
                    assert_eq!(
                        step["with"]["persist-credentials"],
                        Value::Bool(false),
                        "{name}"
                    );
                }
            }
        }
    }
}

/// What the cache can't find it leaves out without failing, and it takes no `..`.
#[test]
fn every_path_that_is_cached_is_one_that_the_cache_takes() {
    let mut count = 0;
    for (name, text) in workflows() {
        let workflow: Value = serde_yaml_ng::from_str(&text).expect("YAML");
        let jobs = workflow["jobs"].as_mapping().expect("jobs");
        let steps = jobs
            .values()
            .flat_map(|job| job["steps"].as_sequence().expect("steps"));
        for step in steps {
            let uses = step["uses"].as_str().unwrap_or_default();
            if !uses.starts_with("actions/cache@") {
                continue;
            }
            for path in step["with"]["path"].as_str().expect("paths").lines() {
                let plain = path == "target" || path.starts_with("~/");
                assert!(plain && !path.contains(".."), "{name}: {path}");
                count += 1;
            }
        }
    }
    assert_eq!(count, 6);
}

/// Cargo.toml promises a Rust, and CI tries that one.
#[test]
fn the_oldest_rust_in_ci_is_the_promised_one() {
    let manifest: toml::Table = read("Cargo.toml").parse().expect("TOML");
    let promised = manifest["workspace"]["package"]["rust-version"].as_str();
    let promised = promised.expect("a version");
    let ci = read(".github/workflows/ci.yml");
    assert!(
        ci.contains(&format!("cargo +{promised}.0 check")),
        "{promised}"
    );
}
