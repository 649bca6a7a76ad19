//! House rules that a machine can check: small rules over the repository's own files.

mod files;
mod lessons;
mod lines;
mod links;
mod map;

use std::fmt;
use std::path::PathBuf;

use anyhow::{Result, bail};

use files::Source;

/// Checks every rule on every file and prints all findings.
///
/// # Errors
/// There is a finding, or a file can't be read.
pub(crate) fn run() -> Result<()> {
    let sources = files::read()?;
    let mut findings: Vec<Finding> = sources.iter().flat_map(lines::findings).collect();
    findings.extend(map::findings(&sources));
    findings.extend(links::findings()?);
    findings.extend(lessons::findings(&sources)?);
    for finding in &findings {
        println!("{finding}");
    }
    match findings.len() {
        0 => {
            println!("tidy: {} files", sources.len());
            Ok(())
        }
        count => bail!("{count} findings, see the lines above"),
    }
}

/// A place that breaks a rule, and the rule.
#[derive(Debug, PartialEq)]
struct Finding {
    path: PathBuf,
    /// The line, counted from 1; none if it is about the whole file.
    line: Option<usize>,
    text: String,
}

impl Finding {
    fn file(source: &Source, text: impl Into<String>) -> Self {
        Self {
            path: source.path.clone(),
            line: None,
            text: text.into(),
        }
    }

    fn line(source: &Source, index: usize, text: impl Into<String>) -> Self {
        Self {
            path: source.path.clone(),
            line: Some(index + 1),
            text: text.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.path.display(), self.text),
            None => write!(f, "{}: {}", self.path.display(), self.text),
        }
    }
}
