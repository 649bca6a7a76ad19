//! What users get: the module, OCI images of it, a bill of materials and checksums in `dist/`, the
//! same bytes wherever it is built; and from there to a registry.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::capture;
use crate::setup::{self, WasmCargo};
use crate::{build, paths};

/// What to do besides packing.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Push the images: REGISTRY/REPOSITORY:TAG, and the other form under TAG-artifact
    #[arg(long, value_name = "REFERENCE")]
    push: Option<String>,
    /// Push by HTTP without TLS; to this machine that is done anyway
    #[arg(long, requires = "push")]
    plain_http: bool,
    /// Build everything a second time, from a copy in another folder, and compare every byte
    #[arg(long)]
    twice: bool,
}

/// Builds and packs, and pushes if that is asked for.
///
/// # Errors
/// Something can't be built or packed, the second build differs, or the registry refuses.
pub(crate) fn run(args: &Args) -> Result<()> {
    let cargo = setup::wasm()?;
    pack(&cargo)?;
    if args.twice {
        same_elsewhere(&cargo)?;
    }
    let Some(to) = &args.push else {
        return Ok(());
    };
    let mut push = Command::new(program()?);
    push.arg("push").arg("--layout").arg(folder().join("oci"));
    if args.plain_http {
        push.arg("--plain-http");
    }
    check(push.arg(to))?;
    // The digest of the module itself is what Envoy's own remote fetch wants.
    println!(
        "Envoy itself (vm_config.code.remote, docs/install.md): the sha256 of quota_gate.wasm"
    );
    Ok(())
}

/// Builds the module, checks it, and packs it into `dist/`.
///
/// # Errors
/// It can't be built or packed, or is not what ships.
pub(crate) fn pack(cargo: &WasmCargo) -> Result<()> {
    let module = build::build(cargo)?;
    module.is_final()?;
    module.check()?;
    let packing = Packing {
        program: program()?,
        rust: cargo.rust_version()?,
        epoch: epoch()?,
    };
    println!("dist/, with SOURCE_DATE_EPOCH={} in it:", packing.epoch);
    packing.run(&paths::module(), paths::root(), &folder())
}

/// Copies the workspace into another folder, builds and packs there with another target folder and
/// another cargo home, and compares every file with those in `dist/`.
///
/// # Errors
/// A file differs, or the second build fails.
pub(crate) fn same_elsewhere(cargo: &WasmCargo) -> Result<()> {
    let place = paths::target_dir()?.join("dist-elsewhere");
    let root = place.join("a copy/with a longer path");
    let home = place.join("home");
    copy_workspace(&root)?;
    link_cargo_home(&home)?;
    let elsewhere = cargo.elsewhere(&root, &place.join("target"), &home);
    let module = root.join("quota_gate.wasm");
    fs::write(&module, build::compile(&elsewhere)?.0)?;
    let packing = Packing {
        program: program()?,
        rust: elsewhere.rust_version()?,
        epoch: epoch()?,
    };
    let there = place.join("dist");
    if there.is_dir() {
        fs::remove_dir_all(&there)?;
    }
    fs::create_dir_all(&there)?;
    packing.run(&module, &root, &there)?;
    let files = differences(&there, &folder())?;
    println!("the same {files} files, byte by byte, from a copy in another folder");
    Ok(())
}

/// How a module is packed.
struct Packing {
    program: PathBuf,
    rust: String,
    epoch: u32,
}

impl Packing {
    fn run(&self, module: &Path, root: &Path, to: &Path) -> Result<()> {
        let mut pack = Command::new(&self.program);
        pack.arg("pack")
            .arg("--module")
            .arg(module)
            .arg("--root")
            .arg(root)
            .arg("--cargo")
            .arg(paths::cargo())
            .args(["--rust", &self.rust])
            .args(["--epoch", &self.epoch.to_string()])
            .arg("--to")
            .arg(to);
        check(&mut pack)
    }
}

/// Builds the program that packs and pushes: no other command has to compile what it needs.
fn program() -> Result<PathBuf> {
    let mut cargo = Command::new(paths::cargo());
    cargo.current_dir(paths::root()).args([
        "build",
        "--locked",
        "--package",
        "quota-gate-distribution",
    ]);
    check(&mut cargo)?;
    Ok(paths::target_dir()?.join("debug/quota-gate-distribution"))
}

fn check(command: &mut Command) -> Result<()> {
    let ended = command.status();
    let ended = ended.with_context(|| format!("{:?} can't be started", command.get_program()))?;
    if !ended.success() {
        bail!("see the lines above");
    }
    Ok(())
}

fn folder() -> PathBuf {
    paths::root().join("dist")
}

/// The time that is written into files: `SOURCE_DATE_EPOCH`, else the last commit's, else 0.
fn epoch() -> Result<u32> {
    if let Some(given) = env::var_os("SOURCE_DATE_EPOCH").filter(|given| !given.is_empty()) {
        let given = given.to_string_lossy().into_owned();
        return given.parse().with_context(|| {
            format!("SOURCE_DATE_EPOCH is `{given}`; it is seconds since 1970, like 1800000000")
        });
    }
    let mut git = Command::new("git");
    git.current_dir(paths::root())
        .args(["log", "-1", "--format=%ct"]);
    let committed = capture(&mut git).ok();
    Ok(committed
        .and_then(|time| time.trim().parse().ok())
        .unwrap_or_default())
}

/// Copies what the module is built from. Files that have not changed are left alone, so that cargo
/// compiles again only what has.
fn copy_workspace(to: &Path) -> Result<()> {
    for entry in fs::read_dir(paths::root())? {
        let entry = entry?;
        let name = entry.file_name();
        if NOT_COPIED.iter().any(|other| name == *other)
            || name.to_string_lossy().starts_with("target")
        {
            continue;
        }
        copy(&entry.path(), &to.join(name))?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if from.is_dir() {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    let bytes = fs::read(from)?;
    if fs::read(to).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    Ok(fs::write(to, bytes)?)
}

/// A cargo home at another path, with the same downloads.
#[cfg(unix)]
fn link_cargo_home(home: &Path) -> Result<()> {
    fs::create_dir_all(home)?;
    for entry in fs::read_dir(paths::cargo_home())? {
        let entry = entry?;
        let link = home.join(entry.file_name());
        if fs::symlink_metadata(&link).is_err() {
            std::os::unix::fs::symlink(entry.path(), link)?;
        }
    }
    Ok(())
}

#[cfg(not(unix))]
fn link_cargo_home(_home: &Path) -> Result<()> {
    bail!("a second build needs a Unix")
}

/// Compares every file below `expected` with the one of that name below `found`, and counts them.
fn differences(expected: &Path, found: &Path) -> Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(expected)? {
        let entry = entry?;
        let other = found.join(entry.file_name());
        if entry.path().is_dir() {
            count += differences(&entry.path(), &other)?;
            continue;
        }
        let other_bytes =
            fs::read(&other).with_context(|| format!("{} is missing", other.display()))?;
        if fs::read(entry.path())? != other_bytes {
            bail!(
                "a second build elsewhere is not the same: {} and {} differ",
                entry.path().display(),
                other.display()
            );
        }
        count += 1;
    }
    Ok(count)
}

/// What is no source.
const NOT_COPIED: &[&str] = &[".git", "dist"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_differs_or_is_missing_is_named() {
        let place = env::temp_dir().join(format!("quota-gate-dist-{}", std::process::id()));
        let (here, there) = (place.join("here"), place.join("there"));
        fs::create_dir_all(here.join("oci")).unwrap();
        fs::create_dir_all(there.join("oci")).unwrap();
        fs::write(here.join("oci/index.json"), "1").unwrap();
        let judged = |text: Option<&str>| {
            if let Some(text) = text {
                fs::write(there.join("oci/index.json"), text).unwrap();
            }
            differences(&here, &there).map_err(|error| format!("{error:#}"))
        };

        let missing = judged(None);
        let differs = judged(Some("2"));
        let same = judged(Some("1"));

        fs::remove_dir_all(&place).unwrap();
        assert!(missing.unwrap_err().contains("index.json is missing"));
        assert!(differs.unwrap_err().contains("differ"));
        assert_eq!(same, Ok(1));
    }
}
