//! The files that the rules look at: Rust sources, read once.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::paths;

/// A source file and what of it ships.
pub(super) struct Source {
    /// The path from the workspace's root, with `/`.
    pub(super) path: PathBuf,
    pub(super) text: String,
}

/// Reads every Rust source of the workspace.
///
/// # Errors
/// A file or folder can't be read.
pub(super) fn read() -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    for dir in [
        "src",
        "bench",
        "chaos",
        "demo",
        "distribution",
        "envoy",
        "tests",
        "xtask",
    ] {
        let dir = paths::root().join(dir);
        if dir.is_dir() {
            collect(&dir, &mut sources)?;
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(sources)
}

fn collect(dir: &Path, sources: &mut Vec<Source>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let hidden_or_built = path
            .file_name()
            .is_some_and(|name| name == "target" || name.to_string_lossy().starts_with('.'));
        if hidden_or_built {
            continue;
        }
        if path.is_dir() {
            collect(&path, sources)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path)?;
            let path = path.strip_prefix(paths::root()).unwrap_or(&path).to_owned();
            sources.push(Source { path, text });
        }
    }
    Ok(())
}

impl Source {
    /// Tells whether this file is part of the filter's package, tests aside.
    pub(super) fn ships(&self) -> bool {
        let mut folders = self.path.iter();
        self.path.starts_with("src")
            && !self.path.ends_with("tests.rs")
            && !folders.any(|folder| folder == "tests")
    }

    /// Counts the lines before the file's unit tests, which stand at its end.
    pub(super) fn shipped_lines(&self) -> usize {
        if !self.ships() {
            return 0;
        }
        let lines: Vec<&str> = self.text.lines().collect();
        let tests = lines.windows(2).position(|pair| match pair {
            [attribute, item] => {
                attribute.starts_with("#[cfg(test)]") && item.contains("mod tests")
            }
            _ => false,
        });
        tests.unwrap_or(lines.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source {
            path: path.into(),
            text: text.into(),
        }
    }

    #[test]
    fn what_ships_ends_where_the_unit_tests_begin() {
        let text = "//! a\nfn f() {}\n#[cfg(test)]\nmod tests {\n}\n";
        assert_eq!(source("src/a.rs", text).shipped_lines(), 2);
        assert_eq!(source("src/a/tests.rs", text).shipped_lines(), 0);
        assert_eq!(source("xtask/src/a.rs", text).shipped_lines(), 0);
        assert_eq!(source("src/a.rs", "//! a\nfn f() {}\n").shipped_lines(), 2);
    }
}
