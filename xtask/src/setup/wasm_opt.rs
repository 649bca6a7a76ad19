//! Binaryen's wasm-opt from npm: pinned by version and hash, run by Node, kept in the cache.

use std::env;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::runner::node;
use crate::paths;
use crate::process::watched;
use crate::say::Step;

/// wasm-opt, ready to be run.
#[derive(Clone, Debug)]
pub(crate) struct WasmOpt {
    node: PathBuf,
    program: PathBuf,
}

impl WasmOpt {
    /// The version and the options: with the module's own bytes they say what comes out.
    pub(crate) fn recipe() -> String {
        format!("{VERSION} {}", OPTIONS.join(" "))
    }

    /// Writes the optimised form of a module.
    ///
    /// # Errors
    /// It can't be read or written.
    pub(crate) fn optimise(&self, from: &Path, to: &Path) -> Result<()> {
        let mut command = Command::new(&self.node);
        command
            .arg(&self.program)
            .args(OPTIONS)
            .arg(from)
            .arg("-o")
            .arg(to);
        watched(&mut command, RUN_BOUND, |_| {})
    }
}

/// Returns wasm-opt, fetched the first time.
///
/// # Errors
/// Node or npm is missing, or npm can't fetch the package or brings other bytes.
pub(crate) fn wasm_opt() -> Result<WasmOpt> {
    let node = node("wasm-opt runs")?;
    let dir = paths::cache_dir()?.join("binaryen").join(VERSION);
    let program = dir.join("bin/wasm-opt");
    if !program.is_file() {
        // As with Envoy: half a file must never lie under the final name.
        let work = dir.with_extension(format!("part-{}", std::process::id()));
        fs::create_dir_all(&work)?;
        let fetched = fetch(&work).and_then(|package| unpack(&package, &work, &dir));
        fs::remove_dir_all(&work)?;
        fetched.context("wasm-opt can't be fetched")?;
    }
    Ok(WasmOpt { node, program })
}

fn fetch(work: &Path) -> Result<PathBuf> {
    let Some(npm) = paths::program("npm") else {
        bail!(
            "npm fetches it, and there is no `npm` on PATH (Debian, Ubuntu: apt-get install npm)"
        );
    };
    let step = Step::spinner("wasm-opt", "fetching 23 MB from npm, once");
    let mut command = Command::new(npm);
    command
        .current_dir(work)
        .args(["pack", "--silent", "--ignore-scripts"])
        .arg(format!("binaryen@{VERSION}"));
    if let Err(error) = watched(&mut command, DOWNLOAD_BOUND, |line| step.detail(line)) {
        step.give_up();
        return Err(error);
    }
    let package = work.join(format!("binaryen-{VERSION}.tgz"));
    let hash: String = Sha256::digest(fs::read(&package)?)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    if hash != SHA256 {
        step.give_up();
        bail!("npm has brought other bytes than are pinned: sha256 {hash}, not {SHA256}");
    }
    step.done("fetched, hash verified");
    Ok(package)
}

/// Two files of the package are needed; the second says what kind of script the first is.
fn unpack(package: &Path, work: &Path, dir: &Path) -> Result<()> {
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(fs::File::open(package)?).read_to_end(&mut bytes)?;
    let mut archive = tar::Archive::new(bytes.as_slice());
    let unpacked = work.join("unpacked");
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        for wanted in ["bin/wasm-opt", "bin/package.json"] {
            if path == Path::new("package").join(wanted) {
                let to = unpacked.join(wanted);
                fs::create_dir_all(to.parent().context("a file has a folder")?)?;
                entry.unpack(&to)?;
            }
        }
    }
    if !unpacked.join("bin/wasm-opt").is_file() {
        bail!("the package holds no wasm-opt");
    }
    fs::create_dir_all(dir.parent().context("the cache has a folder")?)?;
    fs::rename(&unpacked, dir).or_else(|error| {
        // Another run was faster.
        if dir.join("bin/wasm-opt").is_file() {
            Ok(())
        } else {
            Err(error.into())
        }
    })
}

/// Whether a part that only makes things better may be missing: not where everybody's builds are
/// judged.
pub(crate) fn may_be_missing() -> bool {
    env::var_os("CI").is_none_or(|ci| ci.is_empty() || ci == "false")
}

const VERSION: &str = "132.0.0";

const SHA256: &str = "6543555fb29bb92548f325c7dc18e9ab7dbb1215edda25993d1e3f71d85b8618";

/// What rustc may use of wasm, and for small code. It saves a third of the instructions too, most
/// of them calls between small functions; Envoy's own CPU shows no difference beyond its noise.
///
/// A large function that is called once stays one of its own: V8's optimising compiler runs when
/// the module is loaded and keeps memory by the largest functions: 1 to 4 MB of an Envoy.
///
/// The low kilobyte of memory is the far end of the stack, which lies below everything else: no
/// address that the program computes is there.
///
/// The second round starts from a flat form with its blocks found anew, which is a hundredth
/// smaller; and functions that are called most get the numbers of one byte.
const OPTIONS: [&str; 13] = [
    "-Oz",
    "--converge",
    "--low-memory-unused",
    "--one-caller-inline-max-function-size",
    "1",
    "--flatten",
    "--rereloop",
    "-Oz",
    "--reorder-functions",
    "--enable-bulk-memory",
    "--enable-nontrapping-float-to-int",
    "--enable-sign-ext",
    "--enable-mutable-globals",
];

/// 23 MB at the speed of a bad hotel's network.
const DOWNLOAD_BOUND: Duration = Duration::from_secs(900);

/// It takes 15 seconds.
const RUN_BOUND: Duration = Duration::from_secs(300);
