//! The ways to compile for wasm32-unknown-unknown, tried in order:
//! the target is there; rustup can add it; the standard library's source is there to build from;
//! Debian's or Ubuntu's packages bring a compiler with that source.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::debian;
use crate::paths;
use crate::process::{capture, watched};
use crate::say::{Step, news};

/// The one target the filter is compiled for.
pub(crate) const TARGET: &str = "wasm32-unknown-unknown";

/// Runs cargo for wasm32, in the way this machine offers.
#[derive(Clone, Debug)]
pub(crate) struct WasmCargo {
    way: Way,
    target_dir: PathBuf,
    /// The workspace.
    root: PathBuf,
    cargo_home: PathBuf,
}

#[derive(Clone, Debug, PartialEq)]
enum Way {
    /// The toolchain's own target library.
    Target,
    /// The toolchain's compiler and a standard library built from its `rust-src`.
    Source { linker: PathBuf },
    /// Debian's compiler and source, linked by `linker`.
    Packages { linker: PathBuf },
}

impl WasmCargo {
    /// Returns `cargo SUBCOMMAND --target wasm32-unknown-unknown`, to be run in the workspace,
    /// with what this machine's way needs.
    ///
    /// Flags for rustc from the environment are dropped, and the machine's paths are left out
    /// of what is compiled, so that the same source gives the same module anywhere.
    pub(crate) fn command(&self, subcommand: &str) -> Command {
        let mut command = match self.way {
            Way::Target | Way::Source { .. } => Command::new(paths::cargo()),
            Way::Packages { .. } => Command::new(DEBIAN_CARGO),
        };
        command
            .current_dir(&self.root)
            .args([subcommand, "--locked", "--target", TARGET])
            .env("CARGO_HOME", &self.cargo_home)
            .env("CARGO_TARGET_DIR", &self.target_dir)
            .env_remove("RUSTFLAGS")
            .env("CARGO_ENCODED_RUSTFLAGS", self.rustflags());
        if let Way::Source { linker } | Way::Packages { linker } = &self.way {
            command
                .arg("-Zbuild-std=std,panic_abort")
                .env("RUSTC_BOOTSTRAP", "1")
                .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
        }
        if let Way::Packages { .. } = self.way {
            // LD_LIBRARY_PATH is set by `cargo run`, for the other toolchain's compiler.
            command
                .env("RUSTC", DEBIAN_RUSTC)
                .env_remove("LD_LIBRARY_PATH");
        }
        command
    }

    /// Returns where a build's output for wasm32 is found, by profile (`debug`, `release`).
    pub(crate) fn output_dir(&self, profile: &str) -> PathBuf {
        self.target_dir.join(TARGET).join(profile)
    }

    /// Tells whether this way's cargo has clippy: the packages bring none.
    pub(crate) fn has_clippy(&self) -> bool {
        !matches!(self.way, Way::Packages { .. })
    }

    /// The same way, for a copy of the workspace with folders of its own.
    pub(crate) fn elsewhere(&self, root: &Path, target_dir: &Path, cargo_home: &Path) -> Self {
        Self {
            way: self.way.clone(),
            target_dir: target_dir.to_owned(),
            root: root.to_owned(),
            cargo_home: cargo_home.to_owned(),
        }
    }

    /// Returns the version of the compiler that this way uses, and of the std that it links.
    pub(crate) fn rust_version(&self) -> Result<String> {
        let rustc = match self.way {
            Way::Target | Way::Source { .. } => rustc(),
            Way::Packages { .. } => DEBIAN_RUSTC.into(),
        };
        let mut rustc = Command::new(rustc);
        let says = capture(rustc.current_dir(&self.root).arg("--version"))?;
        let version = says.split_whitespace().nth(1);
        Ok(version.context("rustc names no version")?.to_owned())
    }

    fn rustflags(&self) -> OsString {
        let home = env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
        let mut from = vec![
            (home, "/home".to_owned()),
            (self.cargo_home.clone(), "/cargo".to_owned()),
        ];
        // A std built from source is named as the toolchain's own is, less the commit.
        let source = match &self.way {
            Way::Target => None,
            Way::Source { .. } => sysroot()
                .ok()
                .map(|sysroot| sysroot.join("lib/rustlib/src/rust")),
            Way::Packages { .. } => Some(PathBuf::from(DEBIAN_SOURCE)),
        };
        from.extend(source.map(|source| (source, "/rustc".to_owned())));
        // The registry's folder is named by a hash that differs between cargo's versions.
        let registries = fs::read_dir(self.cargo_home.join("registry/src"))
            .into_iter()
            .flatten();
        from.extend(
            registries
                .flatten()
                .map(|dir| (dir.path(), "/registry".to_owned())),
        );
        from.push((self.root.clone(), "/quota-gate".to_owned()));
        // rustc takes the last prefix that fits: the longest ones come last.
        from.sort_by_key(|(path, _)| path.as_os_str().len());
        let mut flags = OsString::new();
        for (path, to) in from
            .iter()
            .filter(|(path, _)| path.components().count() > 1)
        {
            if !flags.is_empty() {
                flags.push("\x1f");
            }
            flags.push("--remap-path-prefix=");
            flags.push(path);
            flags.push("=");
            flags.push(to);
        }
        flags
    }
}

/// Finds or makes a way to compile for wasm32 and says which one it is.
///
/// `QUOTA_GATE_WASM_WAY` (`target`, `rustup`, `source` or `packages`) allows only that one.
///
/// # Errors
/// No way is open on this machine; the error lists them with the commands to run.
pub(crate) fn wasm() -> Result<WasmCargo> {
    let target_dir = paths::target_dir()?.join("wasm");
    let way = match env::var("QUOTA_GATE_WASM_WAY") {
        Ok(only) => forced(&only)?,
        Err(_) => found(&target_dir)?,
    };
    news("wasm32 target", way.describe());
    Ok(WasmCargo {
        way,
        target_dir,
        root: paths::root().to_owned(),
        cargo_home: paths::cargo_home(),
    })
}

impl Way {
    fn describe(&self) -> &'static str {
        match self {
            Self::Target => "the toolchain has it",
            Self::Source { .. } => {
                "no target: std is built from the toolchain's rust-src, once (1 minute)"
            }
            Self::Packages { .. } => {
                "no target: Debian's rustc-web is used, std built from source, once (1 minute)"
            }
        }
    }
}

fn found(target_dir: &Path) -> Result<Way> {
    let sysroot = sysroot()?;
    if has_target(&sysroot) {
        return Ok(Way::Target);
    }
    // Once the packages were needed, rustup is not asked again on each run.
    let stamp = target_dir.join("way");
    if fs::read_to_string(&stamp).is_ok_and(|way| way == "packages")
        && let Some(way) = installed_packages()
    {
        return Ok(way);
    }
    let mut tried = Vec::new();
    for (name, try_it) in WAYS {
        match try_it(&sysroot) {
            Ok(way) => {
                if matches!(way, Way::Packages { .. }) {
                    fs::create_dir_all(target_dir)?;
                    fs::write(&stamp, "packages")?;
                }
                return Ok(way);
            }
            Err(error) => tried.push(format!("  - {name}: {error:#}")),
        }
    }
    bail!(
        "there is no way yet to compile for {TARGET} on this machine.\n{}\n{REMEDY}",
        { tried.join("\n") }
    )
}

fn forced(only: &str) -> Result<Way> {
    let sysroot = sysroot()?;
    match only {
        "target" if has_target(&sysroot) => Ok(Way::Target),
        "target" => bail!("QUOTA_GATE_WASM_WAY=target, but the toolchain has no {TARGET}"),
        "rustup" => with_rustup(&sysroot),
        "source" => with_source(&sysroot),
        "packages" => with_packages(&sysroot),
        other => bail!(
            "QUOTA_GATE_WASM_WAY is `{other}`, allowed are target, rustup, source and packages"
        ),
    }
}

type TryWay = fn(&Path) -> Result<Way>;

const WAYS: [(&str, TryWay); 3] = [
    ("rustup target add", with_rustup),
    ("std from rust-src", with_source),
    ("Debian's packages", with_packages),
];

fn with_rustup(sysroot: &Path) -> Result<Way> {
    if paths::program("rustup").is_none() {
        bail!("rustup is not installed");
    }
    let step = Step::spinner(
        "wasm32 target",
        "rustup target add wasm32-unknown-unknown (25 MB, some seconds; at most 2 minutes)",
    );
    let mut rustup = Command::new("rustup");
    rustup
        .current_dir(paths::root())
        .args(["target", "add", TARGET])
        .env("RUSTUP_MAX_RETRIES", "1")
        .env("RUSTUP_DOWNLOAD_TIMEOUT", "30");
    let added = watched(&mut rustup, RUSTUP_BOUND, |line| step.detail(line));
    match added {
        Ok(()) if has_target(sysroot) => {
            step.done("added by rustup");
            Ok(Way::Target)
        }
        Ok(()) => {
            step.give_up();
            bail!(
                "rustup says it is added, but {} does not have it",
                sysroot.display()
            )
        }
        Err(error) => {
            step.give_up();
            news("wasm32 target", "rustup can't add it here");
            // One line is enough: what follows says what else there is.
            let text = error.to_string();
            bail!(
                "{}",
                text.lines().last().unwrap_or_default().trim().to_owned()
            )
        }
    }
}

fn with_source(sysroot: &Path) -> Result<Way> {
    if !sysroot
        .join("lib/rustlib/src/rust/library/std/Cargo.toml")
        .is_file()
    {
        bail!("the toolchain has no rust-src component");
    }
    let linker = linker().context("there is no linker for wasm (rust-lld or wasm-ld)")?;
    Ok(Way::Source { linker })
}

fn with_packages(_sysroot: &Path) -> Result<Way> {
    if let Some(way) = installed_packages() {
        return Ok(way);
    }
    let mut packages = vec!["rustc-web", "rust-web-src", "cargo-web"];
    if linker().is_none() {
        packages.push("lld");
    }
    debian::install("wasm32 target", &packages)?;
    installed_packages().context("the packages are installed, but the compiler is not at /usr/bin")
}

fn installed_packages() -> Option<Way> {
    let needed = [DEBIAN_RUSTC, DEBIAN_CARGO, DEBIAN_STD];
    needed
        .iter()
        .all(|file| Path::new(file).is_file())
        .then(linker)
        .flatten()
        .map(|linker| Way::Packages { linker })
}

/// Finds a linker for wasm: the active toolchain's own, else one of the system.
fn linker() -> Option<PathBuf> {
    let own = sysroot().ok().and_then(|sysroot| {
        let hosts = fs::read_dir(sysroot.join("lib/rustlib")).ok()?;
        hosts
            .flatten()
            .map(|host| host.path().join("bin/rust-lld"))
            .find(|lld| lld.is_file())
    });
    own.or_else(|| {
        ["rust-lld", "wasm-ld"]
            .iter()
            .find_map(|name| paths::program(name))
    })
    .or_else(|| {
        (14..=24)
            .rev()
            .find_map(|n| paths::program(&format!("wasm-ld-{n}")))
    })
}

fn has_target(sysroot: &Path) -> bool {
    let lib = sysroot.join("lib/rustlib").join(TARGET).join("lib");
    let files = fs::read_dir(lib).into_iter().flatten().flatten();
    files
        .map(|file| file.file_name())
        .any(|name| name.to_string_lossy().starts_with("libcore-"))
}

fn sysroot() -> Result<PathBuf> {
    let sysroot = capture(Command::new(rustc()).args(["--print", "sysroot"]))?;
    Ok(PathBuf::from(sysroot.trim()))
}

fn rustc() -> OsString {
    env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())
}

const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_SOURCE: &str = "/usr/lib/rustlib/src/rust";
const DEBIAN_STD: &str = "/usr/lib/rustlib/src/rust/library/std/Cargo.toml";

/// Long enough for 25 MB on a slow line, short enough to wait for on a machine without network.
const RUSTUP_BOUND: Duration = Duration::from_secs(120);

const REMEDY: &str = "Open one of these ways and run the command again:
  - rustup target add wasm32-unknown-unknown
  - rustup component add rust-src
  - on Debian or Ubuntu, as root: apt-get update && \
apt-get install --no-install-recommends rustc-web rust-web-src cargo-web lld";
