//! What the module is made of, as a CycloneDX bill of materials.
//!
//! Listed is what is compiled into the module: the filter, its dependencies for wasm, and Rust's
//! standard library; not what builds or tests it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};
use cyclonedx_bom::models::component::Classification;
use cyclonedx_bom::models::dependency::{Dependencies, Dependency};
use cyclonedx_bom::models::hash::{Hash, HashAlgorithm, HashValue, Hashes};
use cyclonedx_bom::models::license::{LicenseChoice, Licenses};
use cyclonedx_bom::models::tool::Tools;
use cyclonedx_bom::prelude::{
    Bom, Component, Components, DateTime, Metadata, NormalizedString, Purl, SpdxExpression,
    SpecVersion, UrnUuid, Validate,
};
use serde_json::Value;

use crate::blob::sha256;
use crate::moment::Moment;

/// What the workspace says of the module.
#[derive(Debug)]
pub(crate) struct Made {
    /// All packages that are compiled in, the filter among them.
    packages: Vec<Package>,
    /// The compiler's version, which is its standard library's: `1.90.0`.
    rust: String,
}

#[derive(Debug)]
struct Package {
    name: String,
    version: String,
    description: String,
    license: String,
    /// Of the archive that came from the registry; the filter itself has none.
    sha256: Option<String>,
    /// `name version` of those that it calls.
    uses: BTreeSet<String>,
}

impl Made {
    /// Asks cargo what the filter in `root` is made of.
    ///
    /// # Errors
    /// Cargo can't tell, or leaves something out.
    pub(crate) fn read(cargo: &Path, root: &Path, rust: &str) -> Result<Self> {
        let tree = run(cargo, root, &TREE)?;
        let compiled: BTreeSet<String> = tree.lines().filter_map(named).collect();
        let metadata: Value = serde_json::from_str(&run(cargo, root, &METADATA)?)?;
        let lock: toml::Table = fs::read_to_string(root.join("Cargo.lock"))?.parse()?;
        Ok(Self {
            packages: packages(&metadata, &compiled, &checksums(&lock))?,
            rust: rust.to_owned(),
        })
    }

    /// Writes the bill of materials of a module.
    ///
    /// # Errors
    /// What cargo said can't be said in CycloneDX.
    pub(crate) fn bill(&self, module: &[u8], created: Moment) -> Result<Vec<u8>> {
        let digest = sha256(module);
        let (filter, parts): (Vec<_>, Vec<_>) = self
            .packages
            .iter()
            .partition(|package| package.name == FILTER);
        let [filter] = filter.as_slice() else {
            bail!("the filter is not among its own packages");
        };
        let mut subject = component(filter, Classification::Application)?;
        subject.hashes = Some(hash(&digest));
        let mut components = vec![self.standard_library()?];
        for part in &parts {
            components.push(component(part, Classification::Library)?);
        }
        let bom = Bom {
            serial_number: Some(UrnUuid(serial_number(&digest)?)),
            metadata: Some(Metadata {
                timestamp: Some(moment(created)?),
                tools: Some(self.tools()),
                component: Some(subject),
                ..Metadata::default()
            }),
            components: Some(Components(components)),
            dependencies: Some(self.dependencies()),
            spec_version: SpecVersion::V1_5,
            ..Bom::default()
        };
        let judged = bom.validate_version(SpecVersion::V1_5);
        if !judged.passed() {
            bail!("the bill of materials is not valid: {judged:?}");
        }
        let mut text = Vec::new();
        bom.output_as_json_v1_5(&mut text)?;
        text.push(b'\n');
        Ok(text)
    }

    /// It is compiled in like any other library, but no package of the lock file.
    fn standard_library(&self) -> Result<Component> {
        let reference = self.standard_library_reference();
        let mut component =
            Component::new(Classification::Library, STD, &self.rust, Some(reference));
        let about = "Rust's standard library for wasm32-unknown-unknown, with what it contains";
        component.description = Some(NormalizedString::new(about));
        component.licenses = Some(licenses("MIT OR Apache-2.0")?);
        component.purl = Some(purl("generic", STD, &self.rust)?);
        Ok(component)
    }

    fn standard_library_reference(&self) -> String {
        format!("{STD} {}", self.rust)
    }

    fn tools(&self) -> Tools {
        let compiler = Component::new(Classification::Application, "rustc", &self.rust, None);
        let writer = "quota-gate-distribution";
        let writer = Component::new(Classification::Application, writer, crate::VERSION, None);
        Tools::Object {
            services: None,
            components: Some(Components(vec![compiler, writer])),
        }
    }

    fn dependencies(&self) -> Dependencies {
        let standard = self.standard_library_reference();
        let mut all = vec![Dependency {
            dependency_ref: standard.clone(),
            dependencies: Vec::new(),
        }];
        all.extend(self.packages.iter().map(|package| {
            Dependency {
                dependency_ref: package.reference(),
                dependencies: package
                    .uses
                    .iter()
                    .cloned()
                    .chain([standard.clone()])
                    .collect(),
            }
        }));
        Dependencies(all)
    }
}

impl Package {
    fn reference(&self) -> String {
        format!("{} {}", self.name, self.version)
    }
}

fn component(package: &Package, kind: Classification) -> Result<Component> {
    let Package { name, version, .. } = package;
    let mut component = Component::new(kind, name, version, Some(package.reference()));
    component.description = Some(NormalizedString::new(&package.description));
    component.licenses = Some(licenses(&package.license)?);
    // The filter itself is in no registry that a reader could ask.
    let kind = if package.sha256.is_some() {
        "cargo"
    } else {
        "generic"
    };
    component.purl = Some(purl(kind, name, version)?);
    component.hashes = package.sha256.as_deref().map(hash);
    Ok(component)
}

fn licenses(expression: &str) -> Result<Licenses> {
    // Some packages still write `MIT/Apache-2.0`.
    let expression = SpdxExpression::parse_lax(expression.to_owned())
        .map_err(|error| anyhow!("{expression} is no licence: {error}"))?;
    Ok(Licenses(vec![LicenseChoice::Expression(expression)]))
}

fn purl(kind: &str, name: &str, version: &str) -> Result<Purl> {
    Purl::new(kind, name, version).map_err(|error| anyhow!("{name} {version}: {error}"))
}

fn hash(sha256: &str) -> Hashes {
    Hashes(vec![Hash {
        alg: HashAlgorithm::SHA_256,
        content: HashValue(sha256.to_owned()),
    }])
}

fn moment(created: Moment) -> Result<DateTime> {
    DateTime::try_from(created.rfc3339()?).map_err(|error| anyhow!("{error}"))
}

/// A number for the bill that is made of the module's digest: the same module, the same number.
fn serial_number(digest: &str) -> Result<String> {
    let half = digest.get(..32).context("a digest that is too short")?;
    let bytes = u128::from_str_radix(half, 16)?.to_be_bytes();
    Ok(uuid::Uuid::new_v8(bytes).urn().to_string())
}

/// Cargo's packages that are compiled in, by what `cargo tree` told.
fn packages(
    metadata: &Value,
    compiled: &BTreeSet<String>,
    checksums: &BTreeMap<String, String>,
) -> Result<Vec<Package>> {
    let ids = ids(metadata);
    let nodes = metadata["resolve"]["nodes"].as_array();
    let mut packages = Vec::new();
    for node in nodes.into_iter().flatten() {
        let Some((name, about)) = node["id"].as_str().and_then(|id| ids.get(id)) else {
            continue;
        };
        if !compiled.contains(name) {
            continue;
        }
        let uses = node["dependencies"].as_array().into_iter().flatten();
        let uses = uses.filter_map(|id| Some(&ids.get(id.as_str()?)?.0));
        let text = |key: &str| {
            about[key]
                .as_str()
                .map(|text| text.trim().replace('\n', " "))
        };
        packages.push(Package {
            name: text("name").context("a package without a name")?,
            version: text("version").context("a package without a version")?,
            description: text("description").unwrap_or_default(),
            license: text("license").with_context(|| format!("{name} names no licence"))?,
            sha256: checksums.get(name).cloned(),
            uses: uses
                .filter(|used| compiled.contains(*used))
                .cloned()
                .collect(),
        });
    }
    if packages.len() != compiled.len() {
        bail!("cargo tree has {compiled:?}, cargo metadata only {packages:?}");
    }
    packages.sort_by_key(Package::reference);
    Ok(packages)
}

/// `name version` and what is known of it, by the id that cargo gives.
fn ids(metadata: &Value) -> BTreeMap<&str, (String, &Value)> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let entry = |package: &'_ Value| {
        let name = format!(
            "{} {}",
            package["name"].as_str()?,
            package["version"].as_str()?
        );
        Some(name)
    };
    packages
        .filter_map(|package| Some((package["id"].as_str()?, (entry(package)?, package))))
        .collect()
}

/// The digests of the lock file by `name version`.
fn checksums(lock: &toml::Table) -> BTreeMap<String, String> {
    let packages = lock.get("package").and_then(toml::Value::as_array);
    let entry = |package: &toml::Value| {
        let text = |key| package.get(key).and_then(toml::Value::as_str);
        let name = format!("{} {}", text("name")?, text("version")?);
        Some((name, text("checksum")?.to_owned()))
    };
    packages.into_iter().flatten().filter_map(entry).collect()
}

/// Reads a line of `cargo tree`: `serde v1.0.1` or `quota-gate v0.1.0 (/path)`.
fn named(line: &str) -> Option<String> {
    let mut words = line.split_whitespace();
    let name = words.next()?;
    let version = words.next()?.strip_prefix('v')?;
    Some(format!("{name} {version}"))
}

fn run(cargo: &Path, root: &Path, args: &[&str]) -> Result<String> {
    let output = Command::new(cargo).current_dir(root).args(args).output();
    let output = output.context("cargo can't be started")?;
    if !output.status.success() {
        bail!(
            "cargo {}: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8(output.stdout)?)
}

const FILTER: &str = "quota-gate";
const STD: &str = "rust-std";

const TREE: [&str; 11] = [
    "tree",
    "--locked",
    "--package",
    FILTER,
    "--edges",
    "normal,no-proc-macro",
    "--target",
    "wasm32-unknown-unknown",
    "--prefix",
    "none",
    "--format={p}",
];

const METADATA: [&str; 5] = [
    "metadata",
    "--locked",
    "--format-version=1",
    "--filter-platform",
    "wasm32-unknown-unknown",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn read() -> Made {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        Made::read(Path::new(env!("CARGO")), root, "1.90.0").unwrap()
    }

    fn bill(module: &[u8]) -> Value {
        let text = read().bill(module, Moment::new(0)).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    #[test]
    fn the_bill_names_what_is_compiled_in_and_nothing_that_only_builds_or_tests() {
        let bill = bill(b"module");
        let components = bill["components"].as_array().unwrap();
        let names: Vec<&str> = components
            .iter()
            .filter_map(|c| c["name"].as_str())
            .collect();
        assert!(names.contains(&"rust-std"), "{names:?}");
        for other in ["serde_derive", "syn", "wasm-bindgen", "tokio", "quota-gate"] {
            assert!(!names.contains(&other), "{names:?}");
        }
    }

    #[test]
    fn every_part_has_a_version_a_licence_a_purl_and_what_came_from_the_registry_its_digest() {
        let bill = bill(b"module");
        for component in bill["components"].as_array().unwrap() {
            assert!(component["version"].is_string(), "{component}");
            assert!(
                component["licenses"][0]["expression"].is_string(),
                "{component}"
            );
            let purl = component["purl"].as_str().unwrap();
            if purl.starts_with("pkg:cargo/") {
                let hash = &component["hashes"][0];
                assert_eq!(hash["alg"], "SHA-256");
                assert_eq!(hash["content"].as_str().unwrap().len(), 64, "{component}");
            } else {
                assert!(purl.starts_with("pkg:generic/rust-std@"), "{component}");
            }
        }
    }

    /// The filter may have no dependency at all; this one has one, and a tool that is left out.
    #[test]
    fn a_dependency_is_a_part_with_its_licence_and_the_digest_of_the_lock_file() {
        let metadata = serde_json::json!({
            "packages": [
                {"id": "q", "name": "quota-gate", "version": "0.1.0", "license": "Apache-2.0"},
                {"id": "d", "name": "dep", "version": "1.2.3", "license": "MIT/Apache-2.0"},
                {"id": "t", "name": "tool", "version": "1.0.0", "license": "MIT"},
            ],
            "resolve": {"nodes": [
                {"id": "q", "dependencies": ["d", "t"]},
                {"id": "d", "dependencies": []},
                {"id": "t", "dependencies": []},
            ]},
        });
        let compiled = ["quota-gate 0.1.0", "dep 1.2.3"].map(str::to_owned).into();
        let digest = "0123456789abcdef".repeat(4);
        let checksums = [("dep 1.2.3".to_owned(), digest.clone())].into();
        let made = Made {
            packages: packages(&metadata, &compiled, &checksums).unwrap(),
            rust: "1.90.0".to_owned(),
        };

        let bill = made.bill(b"module", Moment::new(0)).unwrap();

        let bill: Value = serde_json::from_slice(&bill).unwrap();
        let part = &bill["components"][1];
        assert_eq!(part["purl"], "pkg:cargo/dep@1.2.3");
        assert_eq!(part["hashes"][0]["content"], digest);
        assert_eq!(part["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(bill["components"].as_array().map(Vec::len), Some(2));
    }

    #[test]
    fn the_subject_is_the_module_with_its_digest() {
        let subject = &bill(b"")["metadata"]["component"];
        assert_eq!(subject["name"], "quota-gate");
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(subject["hashes"][0]["content"], empty);
    }

    #[test]
    fn every_reference_of_the_graph_is_a_part_or_the_subject() {
        let bill = bill(b"module");
        let components = bill["components"].as_array().unwrap();
        let mut known: Vec<&Value> = components.iter().map(|c| &c["bom-ref"]).collect();
        known.push(&bill["metadata"]["component"]["bom-ref"]);
        for dependency in bill["dependencies"].as_array().unwrap() {
            assert!(known.contains(&&dependency["ref"]), "{dependency}");
            for used in dependency["dependsOn"].as_array().into_iter().flatten() {
                assert!(known.contains(&used), "{dependency}");
            }
        }
    }

    #[test]
    fn the_same_module_has_the_same_bill_and_another_one_another_number() {
        let made = read();
        let once = made.bill(b"module", Moment::new(5)).unwrap();
        assert_eq!(once, made.bill(b"module", Moment::new(5)).unwrap());
        let number = |module| bill(module)["serialNumber"].clone();
        assert_ne!(number(b"module"), number(b"other"));
    }
}
