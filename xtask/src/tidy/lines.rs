//! Rules about one file at a time, most of them about one line at a time.

use std::ops::Range;

use super::Finding;
use super::files::Source;

/// Checks one file.
pub(super) fn findings(source: &Source) -> Vec<Finding> {
    let mut findings = whole_file(source);
    let shipped = source.shipped_lines();
    for (index, line) in source.text.lines().enumerate() {
        let scope = if index < shipped {
            Scope::Shipped
        } else {
            Scope::Any
        };
        let mut found = |text: String| findings.push(Finding::line(source, index, text));
        // A raw string that is longer can't be broken without a word of another kind in it.
        let raw = line.trim_start().starts_with("r#\"");
        if line.chars().count() > COLUMNS && !raw {
            found(format!("longer than {COLUMNS} columns"));
        }
        if line.contains('\t') || line.ends_with(' ') {
            found("a tab or a space at the end".to_owned());
        }
        // The lists of what is banned are in this file.
        if source.path.ends_with(file!()) {
            continue;
        }
        for ban in BANS
            .iter()
            .filter(|ban| scope == Scope::Shipped || ban.scope == Scope::Any)
        {
            if ban.hits(line)
                && !ban
                    .allowed_in
                    .iter()
                    .any(|file| source.path.ends_with(file))
            {
                found(format!("`{}`: {}", ban.what, ban.why));
            }
        }
    }
    findings
}

fn whole_file(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !source.text.starts_with("//! ") {
        findings.push(Finding::file(
            source,
            "the first line is not `//!` with the file's room",
        ));
    }
    if source.path.ends_with("mod.rs") {
        findings.push(Finding::file(
            source,
            "a module's file carries its name, never mod.rs",
        ));
    }
    let is_root = source.path.ends_with("src/lib.rs") && source.path.starts_with("src");
    let runs_in_wasm = is_root || source.path.ends_with("tests/spec/main.rs");
    let marks = [
        "extern crate wasm_test;",
        "use wasm_bindgen_test::wasm_bindgen_test as test;",
    ];
    if runs_in_wasm && !marks.iter().any(|mark| source.text.contains(mark)) {
        let text = "without `extern crate wasm_test` on wasm32 its tests are passed over there";
        findings.push(Finding::file(source, text));
    }
    findings
}

/// Where a ban holds.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Scope {
    /// Every line of every file.
    Any,
    /// What ships: `src/` without its tests.
    Shipped,
}

/// Something that is not written, and why.
struct Ban {
    what: &'static str,
    scope: Scope,
    why: &'static str,
    allowed_in: &'static [&'static str],
}

impl Ban {
    /// Tells whether a line has it, as a whole word where it begins or ends with a letter.
    /// Capitals count only where the ban has some.
    fn hits(&self, line: &str) -> bool {
        let exact = self.what.chars().any(char::is_uppercase);
        let line = if exact {
            line.to_owned()
        } else {
            line.to_lowercase()
        };
        line.match_indices(self.what)
            .any(|(at, found)| whole(&line, at..at + found.len()))
    }
}

fn whole(line: &str, range: Range<usize>) -> bool {
    let inside = line.get(range.clone()).unwrap_or_default();
    let before = line
        .get(..range.start)
        .and_then(|text| text.chars().next_back());
    let after = line.get(range.end..).and_then(|text| text.chars().next());
    // `debug_assert!` is another macro than `assert!`, but `no_word` has the same word as `word`.
    let joins = |c: char| c.is_alphanumeric() || (c == '_' && inside.ends_with('!'));
    let open = inside.starts_with(char::is_alphanumeric) && before.is_some_and(joins);
    let close = inside.ends_with(char::is_alphanumeric) && after.is_some_and(joins);
    !open && !close
}

const fn any(what: &'static str, why: &'static str) -> Ban {
    Ban {
        what,
        scope: Scope::Any,
        why,
        allowed_in: &[],
    }
}

const fn shipped(what: &'static str, why: &'static str) -> Ban {
    Ban {
        what,
        scope: Scope::Shipped,
        why,
        allowed_in: &[],
    }
}

const fn raw(what: &'static str) -> Ban {
    let why = "only src/host/abi.rs talks to the host in raw terms, and src/heap.rs to the memory";
    Ban {
        what,
        scope: Scope::Shipped,
        why,
        allowed_in: &["src/host/abi.rs", "src/heap.rs"],
    }
}

const COLUMNS: usize = 100;

const LATER: &str = "do it, or write an issue";
const SKIPPED: &str = "a test runs, or it is not there";
const VAGUE: &str = "one word for one thing: see the vocabulary in CONTRIBUTING.md";
const TRAPS: &str = "a panic is a trap that hangs every paused stream";
const LINTS: &str = "the panic lints have no exceptions";

const BANS: &[Ban] = &[
    any("TODO", LATER),
    any("FIXME", LATER),
    any("XXX", LATER),
    any("#[ignore", SKIPPED),
    any("should_panic", SKIPPED),
    any(
        "fn test_",
        "a test's name is a sentence; that it is a test stands above it",
    ),
    shipped("verdict", VAGUE),
    any("inflight", VAGUE),
    any("failure policy", VAGUE),
    any("fail_policy", VAGUE),
    any("retry budget", VAGUE),
    shipped("outstanding", VAGUE),
    shipped("reservation", VAGUE),
    shipped("violation", VAGUE),
    shipped("assert!", TRAPS),
    shipped("assert_eq!", TRAPS),
    shipped("assert_ne!", TRAPS),
    shipped(".borrow_mut()", TRAPS),
    shipped(".split_at(", TRAPS),
    shipped(".split_at_mut(", TRAPS),
    shipped(".copy_from_slice(", TRAPS),
    shipped(".clone_from_slice(", TRAPS),
    shipped(".swap_remove(", TRAPS),
    shipped(".split_off(", TRAPS),
    shipped("allow(clippy::unwrap_used", LINTS),
    shipped("allow(clippy::expect_used", LINTS),
    shipped("allow(clippy::panic", LINTS),
    shipped("allow(clippy::unreachable", LINTS),
    shipped("allow(clippy::indexing_slicing", LINTS),
    shipped("allow(clippy::string_slice", LINTS),
    shipped("allow(clippy::arithmetic_side_effects", LINTS),
    raw("unsafe {"),
    raw("unsafe extern"),
    raw("unsafe("),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(path: &str, text: &str) -> Vec<String> {
        let source = Source {
            path: path.into(),
            text: text.into(),
        };
        findings(&source)
            .into_iter()
            .map(|finding| finding.to_string())
            .collect()
    }

    #[test]
    fn a_clean_file_has_no_finding() {
        assert_eq!(texts("src/a.rs", "//! A room.\n\nfn f() {}\n"), [""; 0]);
    }

    #[test]
    fn a_file_without_its_room_is_found() {
        let found = texts("envoy/src/mod.rs", "fn f() {}\n");
        assert_eq!(
            found,
            [
                "envoy/src/mod.rs: the first line is not `//!` with the file's room",
                "envoy/src/mod.rs: a module's file carries its name, never mod.rs",
            ]
        );
    }

    #[test]
    fn long_lines_and_stray_blanks_are_found_by_line() {
        let text = format!("//! A room.\n{}\n\tx\ny \n", "é".repeat(101));
        assert_eq!(
            texts("xtask/src/a.rs", &text),
            [
                "xtask/src/a.rs:2: longer than 100 columns",
                "xtask/src/a.rs:3: a tab or a space at the end",
                "xtask/src/a.rs:4: a tab or a space at the end",
            ]
        );
    }

    #[test]
    fn a_banned_word_is_found_as_a_whole_word_only() {
        let found = texts("tests/e2e/a.rs", "//! A room.\n// TODO: this\n// TODOS\n");
        assert_eq!(
            found,
            ["tests/e2e/a.rs:2: `TODO`: do it, or write an issue"]
        );
    }

    #[test]
    fn a_panic_is_found_in_what_ships_and_let_be_in_tests() {
        let text = "//! A room.\nassert!(x);\ndebug_assert!(x);\n\n#[cfg(test)]\nmod tests {\n\
                    assert!(x);\n}\n";
        assert_eq!(
            texts("src/a.rs", text),
            ["src/a.rs:2: `assert!`: a panic is a trap that hangs every paused stream"]
        );
    }

    #[test]
    fn raw_hostcalls_live_in_one_file() {
        let text = "//! A room.\n#![deny(unsafe_code)]\nunsafe {}\n";
        assert_eq!(texts("src/host/abi.rs", text), [""; 0]);
        assert_eq!(texts("src/host.rs", text).len(), 1);
    }

    #[test]
    fn a_program_of_tests_for_wasm_must_take_our_attribute() {
        assert_eq!(
            texts("tests/spec/main.rs", "//! The promises.\n"),
            [
                "tests/spec/main.rs: without `extern crate wasm_test` on wasm32 its tests are \
              passed over there"
            ]
        );
    }
}
