//! The quick checks before each commit: git is told to use the hooks in `.githooks`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::paths;
use crate::process::capture;

/// Whether to.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Switch them off again
    #[arg(long)]
    off: bool,
}

/// Switches the hooks of this clone on or off.
///
/// # Errors
/// This is no git repository, or git is not there.
pub(crate) fn run(args: &Args) -> Result<()> {
    switch(paths::root(), !args.off)?;
    if args.off {
        println!("commits are no longer checked here");
    } else {
        println!(
            "before each commit here: cargo xtask test fmt tidy deny clippy unit spec\n\
             to skip it once: git commit --no-verify; to switch it off: cargo xtask hooks --off"
        );
    }
    Ok(())
}

fn switch(root: &Path, on: bool) -> Result<()> {
    let name = "core.hooksPath";
    let mut told = git(root);
    if on {
        told.args(["config", "--local", name, HOOKS]);
    } else if capture(git(root).args(["config", "--local", "--get", name])).is_ok() {
        told.args(["config", "--local", "--unset-all", name]);
    } else {
        return Ok(());
    }
    capture(&mut told).context("git can't be told: this has to be a clone of the repository")?;
    Ok(())
}

/// Git in this folder, whatever repository a hook that calls us may be in.
fn git(root: &Path) -> Command {
    let mut git = Command::new("git");
    git.current_dir(root);
    for name in ["GIT_DIR", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_WORK_TREE"] {
        git.env_remove(name);
    }
    git
}

const HOOKS: &str = ".githooks";

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// In a repository of its own: nobody's hooks are touched.
    #[test]
    fn a_commit_runs_the_hook_once_it_is_on_and_no_longer_once_it_is_off() {
        let place = std::env::temp_dir().join(format!("quota-gate-hooks-{}", std::process::id()));
        let hooks = place.join(HOOKS);
        fs::create_dir_all(&hooks).unwrap();
        capture(git(&place).args(["init", "--quiet"])).unwrap();
        fs::copy(
            paths::root().join(HOOKS).join("pre-commit"),
            hooks.join("pre-commit"),
        )
        .unwrap();
        // The hook calls cargo: here one that refuses.
        fs::write(
            place.join("cargo"),
            "#!/bin/sh\necho \"$@\" > asked\nexit 1\n",
        )
        .unwrap();
        capture(Command::new("chmod").arg("+x").arg(place.join("cargo"))).unwrap();
        let commit = || {
            let path = std::env::var("PATH").unwrap();
            let mut git = git(&place);
            git.env("PATH", format!("{}:{path}", place.display()))
                .args(["-c", "user.name=t", "-c", "user.email=t@example.com"])
                .args(["commit", "--quiet", "--allow-empty", "--message", "x"]);
            capture(&mut git)
        };

        let before = commit();
        switch(&place, true).unwrap();
        let refused = commit();
        let asked = fs::read_to_string(place.join("asked"));
        switch(&place, false).unwrap();
        switch(&place, false).unwrap();
        let after = commit();

        fs::remove_dir_all(&place).unwrap();
        assert!(before.is_ok() && after.is_ok());
        assert!(refused.is_err());
        assert_eq!(
            asked.unwrap(),
            "xtask test fmt tidy deny clippy unit spec\n"
        );
    }
}
