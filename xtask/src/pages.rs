//! The pages that users follow are held to what there is: commands, options, files, configurations.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use crate::check::found_in;
use crate::manifests::{documents, fenced, read};
use crate::setup::ENVOY_DEFAULT;
use crate::{Cli, paths};

/// The README, what contributors read, and every page in `docs/`.
fn pages() -> Vec<String> {
    let folder = fs::read_dir(paths::root().join("docs")).expect("docs");
    let names = folder.map(|entry| entry.expect("a file").file_name());
    let names = names.map(|name| name.into_string().expect("a name"));
    let mut pages: Vec<String> = names
        .filter(|name| name.ends_with(".md"))
        .map(|name| format!("docs/{name}"))
        .collect();
    pages.sort();
    pages.extend(["README.md", "CONTRIBUTING.md"].map(str::to_owned));
    pages
}

/// The commands in a page's fenced blocks, a line each, as a shell would split them.
fn block_commands(page: &str) -> Vec<Vec<String>> {
    let text = fenced(page, "sh").concat().replace("\\\n", " ");
    let split = |line| shlex::split(line).unwrap_or_else(|| panic!("{line}"));
    let commands = text.lines().map(split);
    commands.filter(|words| !words.is_empty()).collect()
}

/// What stands between backticks in a page's prose.
fn spans(page: &str) -> Vec<String> {
    let mut fence = false;
    let prose = page.lines().filter(|line| {
        let marks = line.trim_start().starts_with("```");
        fence ^= marks;
        !fence && !marks
    });
    let prose: Vec<&str> = prose.collect();
    let prose = prose.join(" ");
    let spans = prose.split('`').skip(1).step_by(2);
    spans.map(str::to_owned).collect()
}

/// A page's commands, wherever they stand.
fn commands(page: &str) -> Vec<Vec<String>> {
    let spans = spans(page).into_iter().filter_map(|span| {
        let is_ours = span.starts_with("cargo xtask ");
        is_ours.then(|| shlex::split(&span).unwrap_or_else(|| panic!("{span}")))
    });
    block_commands(page).into_iter().chain(spans).collect()
}

/// Whether a word is the path of something that the repository should hold.
fn is_ours(word: &str) -> bool {
    let Some((first, _)) = word.split_once('/') else {
        return false;
    };
    let is_path = word
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c));
    let made = ["dist", "target"].contains(&first);
    is_path && !first.is_empty() && !made && paths::root().join(first).is_dir()
}

#[test]
fn every_command_on_a_page_can_be_read() {
    let mut count = 0;
    for page in pages() {
        for words in commands(&read(&page)) {
            let [program, task, arguments @ ..] = &words[..] else {
                continue;
            };
            if (program.as_str(), task.as_str()) != ("cargo", "xtask") {
                continue;
            }
            let told = std::iter::once("xtask").chain(arguments.iter().map(String::as_str));
            let error = Cli::try_parse_from(told).err().map(|error| error.kind());
            // Prose names a command without what it works on.
            let read = matches!(error, None | Some(ErrorKind::MissingRequiredArgument));
            assert!(read, "{page}: {}: {error:?}", words.join(" "));
            count += 1;
        }
    }
    assert!(count > 30, "only {count} commands were found");
}

#[test]
fn every_option_that_prose_names_is_one_of_a_command() {
    let mut options = BTreeSet::from(OTHERS_OPTIONS.map(str::to_owned));
    for command in Cli::command().get_subcommands() {
        let long = command.get_arguments().filter_map(clap::Arg::get_long);
        options.extend(long.map(|name| format!("--{name}")));
    }
    for page in pages() {
        for span in spans(&read(&page)) {
            let option = span.split(' ').next().unwrap_or_default();
            let is_option = option.len() > 2 && option.starts_with("--");
            assert!(!is_option || options.contains(option), "{page}: `{span}`");
        }
    }
}

#[test]
fn every_file_that_a_page_names_is_there() {
    let mut count = 0;
    for page in pages() {
        let text = read(&page);
        let words = block_commands(&text).concat().into_iter();
        let named: Vec<String> = words
            .chain(spans(&text))
            .filter(|word| is_ours(word))
            .collect();
        for name in &named {
            assert!(paths::root().join(name).exists(), "{page} names {name}");
        }
        count += named.len();
    }
    assert!(count > 10, "only {count} files were found");
}

#[test]
fn check_finds_nothing_in_any_configuration_on_a_page() {
    let mut count = 0;
    for page in pages() {
        for block in fenced(&read(&page), "json") {
            assert_eq!(found_in(Path::new(&page), &block), "", "{block}");
            count += 1;
        }
    }
    assert!(count > 13, "only {count} configurations were found");
}

#[test]
fn every_yaml_block_on_a_page_is_yaml() {
    for page in pages() {
        for block in fenced(&read(&page), "yaml") {
            assert!(!documents(&block).is_empty(), "{page}: {block}");
        }
    }
}

#[test]
fn the_quick_start_runs_the_envoy_that_set_up_has_fetched() {
    let place = format!("~/.cache/quota-gate/envoy/{ENVOY_DEFAULT}/envoy");
    let commands = block_commands(&read("README.md"));
    assert!(commands.iter().any(|words| words[0] == place), "{place}");
}

/// Of every program, and of those that are not ours.
const OTHERS_OPTIONS: [&str; 2] = ["--help", "--http"];
