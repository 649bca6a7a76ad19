//! Links between the documents lead somewhere: to a file that is there, and a heading in it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::Finding;
use crate::paths;

/// Checks the links in every document at the root and in `docs/`.
///
/// # Errors
/// A document or a folder can't be read.
pub(super) fn findings() -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for folder in ["", "docs"] {
        let mut entries: Vec<PathBuf> = fs::read_dir(paths::root().join(folder))?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<_>>()?;
        entries.sort();
        for file in entries.iter().filter(|path| is_document(path)) {
            let text = fs::read_to_string(file)?;
            for (index, target) in links(&text) {
                if let Some(problem) = problem(file, &text, &target) {
                    findings.push(Finding {
                        path: file.strip_prefix(paths::root()).unwrap_or(file).to_owned(),
                        line: Some(index + 1),
                        text: problem,
                    });
                }
            }
        }
    }
    Ok(findings)
}

fn is_document(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "md")
}

/// The targets of links, with the index of their line.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (index, line) in prose(text) {
        for rest in line.split("](").skip(1) {
            let target = rest.split(')').next().unwrap_or_default();
            found.push((index, target.to_owned()));
        }
    }
    found
}

/// The lines outside fenced blocks.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter(move |(_, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    })
}

fn problem(file: &Path, text: &str, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (path, heading) = target.split_once('#').unwrap_or((target, ""));
    let other = file.parent().unwrap_or(file).join(path);
    if !path.is_empty() && !other.exists() {
        return Some(format!("a link to `{path}`, which is not there"));
    }
    if heading.is_empty() {
        return None;
    }
    let own = path.is_empty().then(|| text.to_owned());
    let text = own.or_else(|| fs::read_to_string(&other).ok())?;
    let missing = !anchors(&text).contains(heading);
    missing.then(|| format!("a link to `#{heading}`, and no such heading"))
}

/// The anchors of a document's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text).filter(|(_, line)| line.starts_with('#'));
    let anchor = |(_, line): (usize, &str)| {
        let words = line.trim_start_matches('#').trim().to_lowercase();
        let kept = words.chars().filter_map(|c| match c {
            ' ' => Some('-'),
            c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
            _ => None,
        });
        kept.collect()
    };
    headings.map(anchor).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_in_fenced_blocks_are_none() {
        let text = "see [a](b.md)\n```\n[c](d)\n```\nand [e](#f)\n";
        assert_eq!(links(text), [(0, "b.md".to_owned()), (4, "#f".to_owned())]);
    }

    #[test]
    fn headings_become_anchors() {
        let text = "## `policies.*.cache`\n### What it tells, and to whom\n";
        let expected = ["policiescache", "what-it-tells-and-to-whom"];
        assert_eq!(anchors(text), expected.map(str::to_owned).into());
    }

    #[test]
    fn a_link_to_nowhere_is_found() {
        let file = paths::root().join("README.md");
        assert_eq!(problem(&file, "", "docs/reference.md"), None);
        assert_eq!(problem(&file, "", "https://example.com/x"), None);
        assert_eq!(problem(&file, "# Here\n", "#here"), None);
        assert!(problem(&file, "# Here\n", "#there").is_some());
        assert!(problem(&file, "", "docs/none.md").is_some());
    }
}
