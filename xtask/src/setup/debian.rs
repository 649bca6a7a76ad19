//! Servers and tools that the tests run beside Envoy, from Debian's or Ubuntu's packages.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::paths;
use crate::process::{capture, watched};
use crate::say::{Step, news};

/// Returns where a program is; where it is missing, its package is installed first. Services that
/// a package brings are not started.
///
/// # Errors
/// It is not there and can't be installed; the error says what to do.
pub(crate) fn program(name: &str, package: &str) -> Result<PathBuf> {
    if let Some(path) = find(name) {
        return Ok(path);
    }
    install(name, &[package]).with_context(|| {
        format!(
            "`{name}` is missing. Install it, or on Debian or Ubuntu, as root: \
             apt-get update && apt-get install --no-install-recommends {package}"
        )
    })?;
    find(name).with_context(|| format!("{package} is installed, but brought no `{name}`"))
}

/// Installs packages without asking; `what` is what they are for.
///
/// # Errors
/// There is no apt-get, no right to use it, or it fails.
pub(super) fn install(what: &str, packages: &[&str]) -> Result<()> {
    if paths::program("apt-get").is_none() {
        bail!("this is neither Debian nor Ubuntu (no apt-get)");
    }
    let as_root = as_root()?;
    let how = format!("apt-get install {} (a minute at most)", packages.join(" "));
    let step = Step::spinner(what, &how);
    let _no_services = NoServices::declare();
    let mut update = as_root.command("apt-get");
    update.args(["update", "-q"]);
    let mut install = as_root.command("apt-get");
    install
        .args(["install", "-q", "-y", "--no-install-recommends"])
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive");
    let installed = watched(&mut update, APT_BOUND, |line| step.detail(line))
        .and_then(|()| watched(&mut install, APT_BOUND, |line| step.detail(line)));
    match installed {
        Ok(()) => {
            step.done("installed");
            Ok(())
        }
        Err(error) => {
            step.give_up();
            news(what, "apt-get can't install it here");
            Err(error)
        }
    }
}

/// How to do what only root may.
enum AsRoot {
    Already,
    Sudo,
}

/// A developer is told what to run; a machine of a CI that has sudo without a password uses it.
fn as_root() -> Result<AsRoot> {
    if capture(Command::new("id").arg("-u"))?.trim() == "0" {
        return Ok(AsRoot::Already);
    }
    let in_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
    if in_ci && capture(Command::new("sudo").args(["-n", "true"])).is_ok() {
        return Ok(AsRoot::Sudo);
    }
    bail!("apt-get needs root");
}

impl AsRoot {
    fn command(&self, program: &str) -> Command {
        match self {
            Self::Already => Command::new(program),
            Self::Sudo => {
                let mut sudo = Command::new("sudo");
                sudo.args(["-n", "--preserve-env=DEBIAN_FRONTEND", program]);
                sudo
            }
        }
    }
}

fn find(name: &str) -> Option<PathBuf> {
    let in_sbin = || Some(Path::new("/usr/sbin").join(name)).filter(|path| path.is_file());
    paths::program(name).or_else(in_sbin)
}

/// Tells Debian's packages not to start their services, as long as it lives: a machine that runs
/// the tests does not want a server on a well-known port for it.
struct NoServices {
    ours: bool,
}

impl NoServices {
    fn declare() -> Self {
        let ours = !Path::new(POLICY).exists() && Self::write().is_ok();
        Self { ours }
    }

    fn write() -> std::io::Result<()> {
        fs::write(POLICY, "#!/bin/sh\nexit 101\n")?;
        fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755))
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours {
            let _gone = fs::remove_file(POLICY);
        }
    }
}

/// What Debian's packages ask before they start a service; 101 forbids it.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// apt-get reads the whole package index first.
const APT_BOUND: Duration = Duration::from_secs(600);
