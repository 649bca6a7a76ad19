//! What the dependencies may be: their licences, where they come from, which Rust they want, and
//! which the filter has.
//!
//! The allow-list is that of `.cargo/deny.toml`, in cargo-deny's own form. Its `check` also wants
//! the advisory database from the network; what is checked here needs none.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::paths;
use crate::process::capture;

/// Checks every dependency of both workspaces and prints all findings.
///
/// # Errors
/// There is a finding, or cargo can't tell the dependencies.
pub(crate) fn run() -> Result<()> {
    let text = fs::read_to_string(paths::root().join(".cargo/deny.toml"))?;
    let allowed = allowed(&text).context(".cargo/deny.toml has no licenses.allow")?;
    let promised = promised_rust()?;
    let mut findings = Vec::new();
    let mut names = BTreeSet::new();
    for workspace in WORKSPACES {
        for package in packages(&metadata(workspace)?) {
            findings.extend(package.finding(&allowed));
            findings.extend(package.too_new(&promised));
            names.insert((package.name, package.version));
        }
    }
    // What both of them have is found once.
    findings.sort();
    findings.dedup();
    findings.extend(filter_findings(&filter_tree()?));
    for finding in &findings {
        println!("{finding}");
    }
    match findings.len() {
        0 => {
            println!(
                "deny: {} packages, {} licences allowed",
                names.len(),
                allowed.len()
            );
            Ok(())
        }
        count => bail!("{count} findings, see the lines above"),
    }
}

/// What cargo knows of the packages that the lock file beside a manifest names.
fn metadata(manifest: &str) -> Result<Value> {
    let mut cargo = Command::new(paths::cargo());
    cargo
        .current_dir(paths::root())
        .args(["metadata", "--format-version=1", "--locked"])
        .args(["--manifest-path", manifest]);
    Ok(serde_json::from_str(&capture(&mut cargo)?)?)
}

struct Package {
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
    /// The oldest Rust that compiles it, if it says so.
    rust: Option<String>,
}

fn packages(metadata: &Value) -> Vec<Package> {
    let text = |package: &Value, key: &str| package[key].as_str().map(str::to_owned);
    let packages = metadata["packages"].as_array().into_iter().flatten();
    packages
        .map(|package| Package {
            name: text(package, "name").unwrap_or_default(),
            version: text(package, "version").unwrap_or_default(),
            license: text(package, "license"),
            source: text(package, "source"),
            rust: text(package, "rust_version"),
        })
        .collect()
}

impl Package {
    fn finding(&self, allowed: &BTreeSet<String>) -> Option<String> {
        let Self { name, version, .. } = self;
        if self
            .source
            .as_deref()
            .is_some_and(|source| source != CRATES_IO)
        {
            return Some(format!("{name} {version} does not come from crates.io"));
        }
        let Some(license) = &self.license else {
            return Some(format!("{name} {version} names no licence"));
        };
        let ok = spdx::Expression::parse_mode(license, spdx::ParseMode::LAX)
            .is_ok_and(|license| license.evaluate(|wanted| allowed.contains(&wanted.to_string())));
        (!ok).then(|| format!("{name} {version} is under {license}, which is not allowed"))
    }

    /// A Rust that is too old for a dependency can't compile what was promised to it.
    fn too_new(&self, promised: &str) -> Option<String> {
        let Self { name, version, .. } = self;
        let wanted = self.rust.as_deref()?;
        (rust_version(wanted)? > rust_version(promised)?).then(|| {
            format!(
                "{name} {version} wants Rust {wanted}, but Cargo.toml promises {promised} will do"
            )
        })
    }
}

/// Returns the oldest Rust that Cargo.toml promises to be enough.
fn promised_rust() -> Result<String> {
    let manifest: toml::Table = fs::read_to_string(paths::root().join("Cargo.toml"))?.parse()?;
    let promised = manifest
        .get("workspace")
        .and_then(|workspace| workspace.get("package")?.get("rust-version")?.as_str());
    Ok(promised
        .context("Cargo.toml promises no rust-version")?
        .to_owned())
}

/// Reads `1.90` or `1.90.0`.
fn rust_version(text: &str) -> Option<Vec<u32>> {
    let mut numbers: Vec<u32> = text
        .split('.')
        .map(|number| number.parse().ok())
        .collect::<Option<_>>()?;
    numbers.resize(3, 0);
    Some(numbers)
}

/// Returns the licences that cargo-deny's configuration allows.
fn allowed(text: &str) -> Option<BTreeSet<String>> {
    let config: toml::Table = text.parse().ok()?;
    let licenses = config.get("licenses")?.get("allow")?.as_array()?;
    Some(
        licenses
            .iter()
            .filter_map(|name| name.as_str().map(str::to_owned))
            .collect(),
    )
}

/// Returns what the module is compiled from, as `name version`.
fn filter_tree() -> Result<String> {
    let mut cargo = Command::new(paths::cargo());
    cargo
        .current_dir(paths::root())
        .args([
            "tree",
            "--locked",
            "--package",
            "quota-gate",
            "--edges",
            "normal",
        ])
        .args([
            "--target",
            "wasm32-unknown-unknown",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ]);
    capture(&mut cargo)
}

fn filter_findings(tree: &str) -> Vec<String> {
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for line in tree.lines() {
        let mut words = line.split_whitespace();
        if let (Some(name), Some(version)) = (words.next(), words.next()) {
            versions.entry(name).or_default().insert(version);
        }
    }
    let unknown = versions
        .keys()
        .filter(|name| !FILTER.contains(name))
        .map(|name| {
            format!(
                "the filter now depends on {name}: that is a line for FILTER in xtask/src/deny.rs"
            )
        });
    let twice = versions.iter().filter(|(_, versions)| versions.len() > 1);
    unknown
        .chain(twice.map(|(name, _)| format!("the filter has {name} twice")))
        .collect()
}

/// The fuzz targets are a workspace of their own, with a lock file of its own.
const WORKSPACES: [&str; 2] = ["Cargo.toml", "tests/fuzz/Cargo.toml"];

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// All that the module is made of; a new name here is a decision.
const FILTER: &[&str] = &["quota-gate"];

#[cfg(test)]
mod tests {
    use super::*;

    fn package(license: &str, source: &str) -> Package {
        Package {
            name: "a".to_owned(),
            version: "1.0.0".to_owned(),
            license: Some(license.to_owned()),
            source: Some(source.to_owned()),
            rust: None,
        }
    }

    fn finding(license: &str) -> Option<String> {
        package(license, CRATES_IO).finding(&BTreeSet::from(["MIT".to_owned(), "Zlib".to_owned()]))
    }

    #[test]
    fn a_package_that_wants_a_newer_rust_than_promised_is_found() {
        let wants = |rust: &str| {
            let mut package = package("MIT", CRATES_IO);
            package.rust = Some(rust.to_owned());
            package.too_new("1.90")
        };
        assert_eq!(wants("1.90.0"), None);
        assert_eq!(wants("1.9"), None);
        assert_eq!(
            wants("1.91"),
            Some("a 1.0.0 wants Rust 1.91, but Cargo.toml promises 1.90 will do".to_owned())
        );
    }

    #[test]
    fn a_licence_is_allowed_if_one_of_its_choices_is() {
        assert_eq!(finding("MIT OR Apache-2.0"), None);
        assert_eq!(finding("Apache-2.0/MIT"), None);
        assert_eq!(finding("MIT AND Zlib"), None);
        assert_eq!(
            finding("MIT AND GPL-3.0-only"),
            Some("a 1.0.0 is under MIT AND GPL-3.0-only, which is not allowed".to_owned())
        );
    }

    #[test]
    fn another_source_than_crates_io_is_found() {
        let package = package("MIT", "git+https://example.com/a");
        assert_eq!(
            package.finding(&BTreeSet::from(["MIT".to_owned()])),
            Some("a 1.0.0 does not come from crates.io".to_owned())
        );
    }

    #[test]
    fn the_allow_list_is_read_in_cargo_denys_form() {
        assert_eq!(
            allowed("[licenses]\nallow = [\"MIT\"]\n"),
            Some(BTreeSet::from(["MIT".to_owned()]))
        );
        assert_eq!(allowed("[licenses]\n"), None);
    }

    #[test]
    fn a_new_dependency_of_the_filter_is_found_and_one_that_is_there_twice() {
        assert_eq!(
            filter_findings("quota-gate v0.1.0 (/x)\nquota-gate v2.0.0\nrand v1.0.0\n"),
            [
                "the filter now depends on rand: that is a line for FILTER in xtask/src/deny.rs",
                "the filter has quota-gate twice",
            ]
        );
    }
}
