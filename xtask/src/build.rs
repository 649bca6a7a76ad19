//! The shipped module: built, looked into, held to its interface and its size.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::setup::{self, WasmCargo, WasmOpt};
use crate::{interface, paths, say};

/// How to build.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Take the module's imports and exports as the new expectation
    #[arg(long)]
    bless: bool,
}

/// Builds `dist/quota_gate.wasm` and prints what it is.
///
/// # Errors
/// It does not compile, imports something besides `env.proxy_*`, is too large, or its imports and
/// exports are not those of `xtask/module-interface.txt`.
pub(crate) fn run(args: &Args) -> Result<()> {
    let module = build(&setup::wasm()?)?;
    print!("{}", module.summary()?);
    module.interface.allowed()?;
    if args.bless {
        fs::write(interface_file(), module.interface.to_text())?;
        println!("xtask/module-interface.txt is rewritten");
    }
    module.check()
}

/// A module that has been built and put into `dist/`.
pub(crate) struct Module {
    bytes: Vec<u8>,
    is_optimised: bool,
    interface: interface::Interface,
}

/// Compiles the module and puts it into `dist/`, unjudged.
///
/// # Errors
/// It does not compile, or what came out is not a wasm module.
pub(crate) fn build(cargo: &WasmCargo) -> Result<Module> {
    let (bytes, is_optimised) = compile(cargo)?;
    let interface = interface::Interface::read(&bytes)?;
    let dist = paths::module();
    fs::create_dir_all(dist.parent().context("the module has no folder")?)?;
    // Envoys of running tests may have the old file open: it is replaced, not rewritten.
    let part = dist.with_extension(format!("part-{}", std::process::id()));
    fs::write(&part, &bytes)?;
    fs::rename(&part, &dist)?;
    Ok(Module {
        bytes,
        is_optimised,
        interface,
    })
}

/// Compiles the module, as it ships, and returns it, and whether wasm-opt was there for it.
///
/// # Errors
/// It does not compile, or wasm-opt is missing where everybody's builds are judged.
pub(crate) fn compile(cargo: &WasmCargo) -> Result<(Vec<u8>, bool)> {
    // As a cdylib alone: beside an rlib cargo leaves link-time optimisation out, a seventh of
    // it all.
    let mut command = cargo.command("rustc");
    command.args(["--release", "--package", "quota-gate", "--lib"]);
    command.args(["--crate-type", "cdylib"]);
    if !command
        .status()
        .context("cargo can't be started")?
        .success()
    {
        bail!("the filter does not compile for wasm32");
    }
    let linked = cargo.output_dir("release").join("quota_gate.wasm");
    match setup::wasm_opt() {
        Ok(wasm_opt) => Ok((optimise(&wasm_opt, &linked)?, true)),
        Err(error) if setup::may_be_missing() => {
            let how = format!("left out; the module is a tenth larger: {error:#}");
            say::news("wasm-opt", &how);
            Ok((fs::read(&linked)?, false))
        }
        Err(error) => Err(error),
    }
}

/// The optimised form of a module, kept beside it by what it was made from: it takes 15 seconds.
fn optimise(wasm_opt: &WasmOpt, linked: &Path) -> Result<Vec<u8>> {
    let mut hash = Sha256::new();
    hash.update(WasmOpt::recipe());
    hash.update(fs::read(linked)?);
    let name: String = hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let dir = linked.with_extension("optimised");
    let kept = dir.join(&name);
    if let Ok(bytes) = fs::read(&kept) {
        return Ok(bytes);
    }
    if dir.is_dir() {
        fs::remove_dir_all(&dir)?;
    }
    fs::create_dir_all(&dir)?;
    let part = dir.join(format!("part-{}", std::process::id()));
    wasm_opt.optimise(linked, &part)?;
    fs::rename(&part, &kept)?;
    Ok(fs::read(&kept)?)
}

impl Module {
    /// Checks the module against its size limit and its committed interface.
    ///
    /// # Errors
    /// It is too large, it imports what Envoy does not offer, or its interface has changed.
    pub(crate) fn check(&self) -> Result<()> {
        self.interface.allowed()?;
        if self.is_optimised && self.bytes.len() > SIZE_MAX {
            bail!(
                "the module has {} bytes, more than the {SIZE_MAX} allowed",
                self.bytes.len()
            );
        }
        let expected = fs::read_to_string(interface_file())?;
        let difference = interface::difference(&expected, &self.interface.to_text());
        if !difference.is_empty() {
            bail!(
                "the module's interface is not that of xtask/module-interface.txt:\n{difference}\
                 if that is meant, run: cargo xtask build --bless"
            );
        }
        Ok(())
    }

    /// Checks that it is the module that everybody's build comes to.
    ///
    /// # Errors
    /// It was built without wasm-opt.
    pub(crate) fn is_final(&self) -> Result<()> {
        if !self.is_optimised {
            bail!("a release is made with wasm-opt, which is not there");
        }
        Ok(())
    }

    fn summary(&self) -> Result<String> {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(&self.bytes)?;
        let packed = gzip.finish()?.len();
        let hash: String = Sha256::digest(&self.bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Ok(format!(
            "dist/quota_gate.wasm\n  size    {:.1} KB ({:.1} KB with gzip, limit {} KB)\n  \
             sha256  {hash}\n{}",
            kilobytes(self.bytes.len()),
            kilobytes(packed),
            SIZE_MAX / 1000,
            self.interface.summary(),
        ))
    }
}

fn interface_file() -> PathBuf {
    paths::root().join("xtask/module-interface.txt")
}

fn kilobytes(bytes: usize) -> f64 {
    bytes as f64 / 1000.0
}

/// Every Envoy worker compiles the module at start; below this it does so in well under a second.
const SIZE_MAX: usize = 220_000;
