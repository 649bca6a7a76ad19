//! The map in `src/lib.rs` names exactly the files under `src/`.

use std::collections::BTreeSet;
use std::path::Path;

use super::Finding;
use super::files::Source;

/// Compares the map with the files.
pub(super) fn findings(sources: &[Source]) -> Vec<Finding> {
    let lib = Path::new("src/lib.rs");
    let Some(lib) = sources.iter().find(|source| source.path == lib) else {
        return Vec::new();
    };
    let named = named(&lib.text);
    let files: BTreeSet<String> = sources
        .iter()
        .filter(|source| source.ships() && source.path != lib.path)
        .filter_map(|source| source.path.strip_prefix("src").ok())
        .map(|path| path.to_string_lossy().into_owned())
        .collect();
    let missing = files
        .difference(&named)
        .map(|file| format!("the map does not name {file}"));
    let gone = named
        .difference(&files)
        .map(|file| format!("the map names {file}, which is gone"));
    missing
        .chain(gone)
        .map(|text| Finding::file(lib, text))
        .collect()
}

/// The files that the crate's documentation names: words that end with `.rs`.
fn named(text: &str) -> BTreeSet<String> {
    text.lines()
        .map_while(|line| line.strip_prefix("//!"))
        .flat_map(|line| line.split(|c: char| c.is_whitespace() || "`[](),;:|".contains(c)))
        .filter(|word| word.ends_with(".rs"))
        .map(|word| word.strip_prefix("src/").unwrap_or(word).to_owned())
        .filter(|word| word != "lib.rs")
        .collect()
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
    fn a_file_that_the_map_leaves_out_is_found_and_one_that_is_gone() {
        let sources = [
            source(
                "src/lib.rs",
                "//! The map:\n//! - `time.rs`: time\n//! old.rs  gone\n",
            ),
            source("src/time.rs", ""),
            source("src/gate/cache.rs", ""),
            source("src/gate/cache/tests.rs", ""),
            source("xtask/src/main.rs", ""),
        ];
        let found: Vec<String> = findings(&sources).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "src/lib.rs: the map does not name gate/cache.rs",
                "src/lib.rs: the map names old.rs, which is gone",
            ]
        );
    }
}
