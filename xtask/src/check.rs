//! `cargo xtask check FILE`: judges a plugin configuration, or whatever holds one.
//!
//! - `check/tree`: YAML and JSON with the places of everything
//! - `check/plugin`: a plugin configuration, judged by the filter's own parser
//! - `check/envoy`, `check/kubernetes`, `check/metadata`: what is around it
//! - `check/survey`: which kind of file it is, and what is judged against what
//! - `check/finding`: what was found, for people and for machines

mod envoy;
mod finding;
mod kubernetes;
mod metadata;
mod plugin;
mod survey;
#[cfg(test)]
mod tests;
mod tree;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;

use finding::Severity;
pub(crate) use metadata::encode as encode_metadata;
pub(crate) use survey::{Survey, survey};
pub(crate) use tree::read as read_tree;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A plugin configuration (JSON), an Envoy bootstrap, an Istio `WasmPlugin` or an Envoy
    /// Gateway `EnvoyExtensionPolicy` (YAML or JSON)
    file: PathBuf,
    /// How to tell what was found
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Take warnings for problems
    #[arg(long)]
    strict: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Json,
    Text,
}

/// Prints every finding. Ends with 0 if nothing is wrong, 1 if something is, and 2 if the file
/// can't be judged.
pub(crate) fn run(args: &Args) -> ExitCode {
    match judge(args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn judge(args: &Args) -> Result<ExitCode> {
    let survey = survey(&args.file)?;
    match args.format {
        Format::Json => {
            let json = survey.sources.to_json(&survey.findings);
            println!("{}", serde_json::to_string_pretty(&json)?);
        }
        Format::Text => {
            print!("{}", survey.sources.to_text(&survey.findings));
            println!("{}", summary(&survey));
        }
    }
    let counts = |severity| severity == Severity::Error || args.strict;
    let refused = survey.findings.iter().any(|found| counts(found.severity));
    Ok(ExitCode::from(u8::from(refused)))
}

/// What is found in a text, as it is printed.
#[cfg(test)]
pub(crate) fn found_in(file: &std::path::Path, text: &str) -> String {
    let survey = survey::of_text(file, text.to_owned()).expect("a configuration");
    survey.sources.to_text(&survey.findings)
}

/// `envoy.yaml: 1 configuration, 2 problems, 1 warning`
fn summary(survey: &Survey) -> String {
    let count = |severity| {
        let found = survey.findings.iter();
        found.filter(|found| found.severity == severity).count()
    };
    let several = |count: usize, noun: &str| match count {
        1 => format!("1 {noun}"),
        _ => format!("{count} {noun}s"),
    };
    let holders: Vec<&str> = survey
        .plugins
        .iter()
        .map(|plugin| plugin.holder.as_str())
        .collect();
    format!(
        "{}: {}, {}",
        holders.join(", "),
        several(count(Severity::Error), "problem"),
        several(count(Severity::Warning), "warning")
    )
}
