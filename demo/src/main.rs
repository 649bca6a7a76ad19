//! The guided tour: the filter in a real Envoy, scene by scene.
//!
//! Nothing here is played: every line is what the real processes did a moment ago, and a scene
//! whose requests come out otherwise than it tells fails the tour. `cargo xtask demo` sets up what
//! it needs and runs it.
//!
//! - `plugin`: the configuration of the tour, and excerpts of it
//! - `scenes`: what is shown, in order, and what must come out
//! - `tokens`: the scene in which what was really used is charged
//! - `stage`: sends a scene's requests, shows what came of them and holds it to the tale
//! - `page`: lines for a terminal; `keep`: after the tour, for `--keep`

mod keep;
mod page;
mod plugin;
mod scenes;
mod stage;
mod tokens;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use envoy_harness::eventually::{PATIENCE, within};
use envoy_harness::{Rig, RigBuilder};

use crate::page::Page;
use crate::scenes::SCENES;
use crate::stage::Stage;

/// What the command line asks for.
#[derive(Default)]
struct Args {
    keep: bool,
    no_color: bool,
}

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    let args = args()?;
    let interrupt = keep::Interrupt::watch()?;
    let page = Page::for_terminal(args.no_color);
    page.opening();
    let rig = start()?;
    page.started(&rig);
    let missed = tour(&page, &rig);
    if args.keep {
        keep::keep(&page, &rig, &interrupt);
    } else if !missed {
        page.farewell();
    }
    Ok(if missed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn args() -> Result<Args> {
    let mut args = Args::default();
    for arg in std::env::args().skip(1) {
        match arg.as_str() {
            "--keep" => args.keep = true,
            "--no-color" => args.no_color = true,
            other => bail!("`{other}` is not known; there are --keep and --no-color"),
        }
    }
    Ok(args)
}

/// Envoy with the filter, the quota backend and an upstream.
fn start() -> Result<Rig> {
    let rig = tokens::filters()
        .into_iter()
        .fold(Rig::builder(), RigBuilder::filter_after)
        .ecds()
        .plugin(plugin::configuration())
        .try_start()?;
    // Envoy starts all the same when it can't use what comes by ECDS; the filter says when it runs.
    let in_use = || rig.envoy().log_lines("quota_gate: configuration ").pop();
    if within(PATIENCE, in_use).is_none() {
        bail!(
            "Envoy does not take the filter; its log:\n{}",
            rig.envoy().log()
        );
    }
    scenes::stock(rig.backend());
    Ok(rig)
}

/// Plays all scenes, also those behind one that failed; whether any has.
fn tour(page: &Page, rig: &Rig) -> bool {
    let started = Instant::now();
    let mut stage = Stage::new(page, rig);
    let mut failed = Vec::new();
    for (index, scene) in SCENES.iter().enumerate() {
        page.scene(index + 1, SCENES.len(), scene.title, scene.tale);
        let played = catch_unwind(AssertUnwindSafe(|| (scene.play)(&mut stage)));
        if let Err(panic) = played {
            stage.mistake(&format!("the scene broke off: {}", words_of(&*panic)));
        }
        let mistakes = stage.take_mistakes();
        page.verdict(&mistakes);
        if !mistakes.is_empty() {
            page.log_tail(&rig.envoy().log());
            failed.push(scene.title);
        }
        rig.backend().recover();
    }
    page.closing(SCENES.len(), &failed, started.elapsed());
    !failed.is_empty()
}

/// What a panic has said.
fn words_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
        .unwrap_or_else(|| "no words".to_owned())
}
