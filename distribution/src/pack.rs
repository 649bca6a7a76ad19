//! Everything that is distributed, into one folder.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::image::{Form, Image};
use crate::moment::Moment;
use crate::sbom::Made;
use crate::{ARTIFACT_SUFFIX, VERSION, blob, layout, sums};

/// What to pack, and how.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The module
    #[arg(long)]
    pub module: PathBuf,
    /// The workspace that it is built from
    #[arg(long)]
    pub root: PathBuf,
    /// The cargo to ask for what it is made of
    #[arg(long)]
    pub cargo: PathBuf,
    /// The version of the compiler that has built it
    #[arg(long)]
    pub rust: String,
    /// The point in time that is written into files, in seconds since 1970
    #[arg(long)]
    pub epoch: u32,
    /// The folder to write to
    #[arg(long)]
    pub to: PathBuf,
}

/// Packs a module and says what came out.
///
/// # Errors
/// It is no module for proxy-wasm, cargo can't tell what it is made of, or a file can't be written.
pub fn run(args: &Args) -> Result<()> {
    let module = fs::read(&args.module)
        .with_context(|| format!("{} can't be read", args.module.display()))?;
    let created = Moment::new(args.epoch);
    let images = [
        (
            VERSION.to_owned(),
            Image::new(Form::Compat, &module, created)?,
        ),
        (
            format!("{VERSION}{ARTIFACT_SUFFIX}"),
            Image::new(Form::Artifact, &module, created)?,
        ),
    ];
    let layout = layout::files(&images)?;
    let bill = Made::read(&args.cargo, &args.root, &args.rust)?.bill(&module, created)?;
    let archive = layout::one_file(&layout, created)?;
    let archive_name = format!("quota-gate-{VERSION}.oci.tar");
    let files: [(&str, &[u8]); 3] = [(MODULE, &module), (BILL, &bill), (&archive_name, &archive)];

    replace_layout(&layout, &args.to)?;
    for (name, bytes) in files {
        write(&args.to, name, bytes)?;
    }
    write(&args.to, "SHA256SUMS", sums::sums(&files).as_bytes())?;
    print!("{}", summary(&files, &images));
    Ok(())
}

/// Blobs of an earlier module would stay in the folder for ever.
fn replace_layout(files: &layout::Files, to: &Path) -> Result<()> {
    let folder = to.join("oci");
    if folder.is_dir() {
        fs::remove_dir_all(&folder)?;
    }
    layout::write(files, &folder)
}

/// Replaced in one go: an Envoy may be reading the old file.
fn write(folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let path = folder.join(name);
    let part = folder.join(format!("{name}.part-{}", std::process::id()));
    fs::write(&part, bytes)
        .and_then(|()| fs::rename(&part, &path))
        .with_context(|| format!("{} can't be written", path.display()))
}

fn summary(files: &[(&str, &[u8])], images: &[(String, Image)]) -> String {
    let mut text = String::new();
    for (name, bytes) in files {
        text += &format!("  {name:<WIDTH$} sha256 {}\n", blob::sha256(bytes));
    }
    for (tag, image) in images {
        let name = format!("oci:{tag}");
        text += &format!("  {name:<WIDTH$} sha256 {}\n", image.manifest.sha256());
    }
    text
}

const MODULE: &str = "quota_gate.wasm";
const BILL: &str = "quota_gate.cdx.json";

/// Wide enough for the longest name, with a version like 10.10.10-rc.1.
const WIDTH: usize = 32;
