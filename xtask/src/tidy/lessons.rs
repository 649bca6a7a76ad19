//! docs/lessons.md has every line of the lessons, and each test that it names is there.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Finding;
use super::files::Source;
use crate::paths;

/// Holds the table against the tests.
///
/// # Errors
/// The document can't be read.
pub(super) fn findings(sources: &[Source]) -> Result<Vec<Finding>> {
    let file = paths::root().join(DOCUMENT);
    let text = fs::read_to_string(&file).with_context(|| format!("read {DOCUMENT}"))?;
    let of = |module: &str| {
        let path = PathBuf::from(format!("tests/e2e/{module}.rs"));
        let source = sources.iter().find(|source| source.path == path);
        source.map(|source| source.text.as_str())
    };
    Ok(judge(&text, of)
        .into_iter()
        .map(|(line, text)| Finding {
            path: Path::new(DOCUMENT).to_owned(),
            line,
            text,
        })
        .collect())
}

/// What is wrong with the table, and in which line; `module` gives the text of a file of tests.
fn judge<'a>(
    document: &str,
    module: impl Fn(&str) -> Option<&'a str>,
) -> Vec<(Option<usize>, String)> {
    let mut findings = Vec::new();
    let mut known: Vec<&str> = Vec::new();
    for (index, line) in document.lines().enumerate() {
        let mut cells = line.split('|').map(str::trim);
        let (Some(""), Some(number)) = (cells.next(), cells.next()) else {
            continue;
        };
        if !number.starts_with(|c: char| c.is_ascii_digit()) {
            continue;
        }
        known.push(number);
        let tests = line.split('`').skip(1).step_by(2);
        let mut named = 0;
        for (file, name) in tests.filter_map(|test| test.split_once("::")) {
            named += 1;
            let is_there =
                module(file).is_some_and(|text| text.contains(&format!("#[test]\nfn {name}()")));
            if !is_there {
                let text = format!("there is no test `{file}::{name}` in tests/e2e");
                findings.push((Some(index + 1), text));
            }
        }
        if named == 0 {
            findings.push((Some(index + 1), format!("{number} names no test")));
        }
    }
    for (chapter, lines) in CHAPTERS {
        let all = (1..=lines).map(|line| format!("{chapter}.{line}"));
        let missing = all.filter(|number| !known.contains(&number.as_str()));
        findings.extend(missing.map(|number| (None, format!("{number} is not there"))));
    }
    findings
}

const DOCUMENT: &str = "docs/lessons.md";

/// The chapters of the lessons, and how many lines each has.
const CHAPTERS: [(u32, u32); 5] = [(1, 4), (2, 8), (3, 6), (4, 7), (5, 7)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_is_gone_and_a_line_without_one_are_found() {
        let document = "| 1.1 | closed | `a::holds`, `a::gone` |\n| 1.2 | 429 | none |\n";
        let module = |name: &str| (name == "a").then_some("#[test]\nfn holds() {}\n");

        let found = judge(document, module);

        assert_eq!(
            found[0],
            (
                Some(1),
                "there is no test `a::gone` in tests/e2e".to_owned()
            )
        );
        assert_eq!(found[1], (Some(2), "1.2 names no test".to_owned()));
        assert_eq!(found[2], (None, "1.3 is not there".to_owned()));
    }
}
