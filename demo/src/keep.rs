//! After the tour: everything stays up for curl, and the backend's health is at the keyboard.

use std::io::{BufRead, stdin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use anyhow::{Result, bail};
use envoy_harness::{Fault, Rig};

use crate::page::{Ink, Page};

/// Ctrl-C: at once during the tour, an orderly end afterwards.
pub(crate) struct Interrupt {
    sender: Sender<Event>,
    events: Receiver<Event>,
}

enum Event {
    Interrupted,
    Typed(String),
}

/// Whether somebody waits for [`Event::Interrupted`].
static KEEPING: AtomicBool = AtomicBool::new(false);

impl Interrupt {
    /// Begins to watch for SIGINT and SIGTERM; before any other thread is started, for those
    /// inherit that the signals are held back for the watcher.
    pub(crate) fn watch() -> Result<Self> {
        let signals = held_back()?;
        let (sender, events) = channel();
        let interrupted = sender.clone();
        std::thread::spawn(move || {
            let mut signal = 0;
            // SAFETY: both pointers are to values that outlive the call.
            unsafe { libc::sigwait(&raw const signals, &raw mut signal) };
            let waits = KEEPING.load(Ordering::Relaxed);
            if !waits || interrupted.send(Event::Interrupted).is_err() {
                // The kernel takes Envoy with us.
                std::process::exit(128 + signal);
            }
        });
        Ok(Self { sender, events })
    }
}

fn held_back() -> Result<libc::sigset_t> {
    // SAFETY: a zeroed `sigset_t` is one that `sigemptyset` may fill, and every pointer is to it.
    let (signals, result) = unsafe {
        let mut signals: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut signals);
        libc::sigaddset(&raw mut signals, libc::SIGINT);
        libc::sigaddset(&raw mut signals, libc::SIGTERM);
        let none = std::ptr::null_mut();
        let result = libc::pthread_sigmask(libc::SIG_BLOCK, &raw const signals, none);
        (signals, result)
    };
    if result != 0 {
        bail!("signals can't be held back");
    }
    Ok(signals)
}

/// Says what can be tried, and does what is typed until Ctrl-C.
pub(crate) fn keep(page: &Page, rig: &Rig, interrupt: &Interrupt) {
    KEEPING.store(true, Ordering::Relaxed);
    print_commands(page, rig);
    let sender = interrupt.sender.clone();
    std::thread::spawn(move || {
        for line in stdin().lock().lines().map_while(Result::ok) {
            if sender.send(Event::Typed(line.trim().to_owned())).is_err() {
                return;
            }
        }
    });
    while let Ok(event) = interrupt.events.recv() {
        match event {
            Event::Interrupted => break,
            Event::Typed(word) => obey(page, rig, &word),
        }
    }
    println!();
    page.text(0, None, "Envoy, the backend and the upstream are stopped.");
}

fn print_commands(page: &Page, rig: &Rig) {
    let (gate, admin) = (rig.address(), rig.envoy().admin());
    println!();
    let head = "Everything stays up until Ctrl-C. From another terminal:";
    page.text(0, Some(Ink::Bold), head);
    println!();
    let ask = |key: &str, path: &str| format!("curl -i -H 'x-api-key: {key}' http://{gate}{path}");
    let commands = [
        ("allowed", ask("gold", "/catalog")),
        ("429 on the third", ask("silver", "/catalog")),
        ("401", ask("revoked", "/catalog")),
        ("fails open", ask("gold", "/catalog")),
        ("fails closed", ask("gold", "/payments")),
        ("falls back", ask("gold", "/search")),
        ("has a breaker", ask("gold", "/reports")),
        (
            "a model's answer",
            format!(
                "curl -s -H 'x-tenant-id: globex' -H 'content-type: application/json' -d \
                 '{{\"max_tokens\":200}}' http://{gate}/v1/chat/completions"
            ),
        ),
        ("status page", format!("curl -s http://{gate}/-/quota-gate")),
        (
            "metrics",
            format!("curl -s http://{admin}/stats/prometheus | grep ^quota_gate"),
        ),
        ("admin", format!("http://{admin}/")),
    ];
    for (what, command) in &commands {
        println!("  {what:<17} {command}");
    }
    println!();
    page.text(
        0,
        None,
        "In this one: `dead`, `slow` or `well` and Enter set the quota backend's health, `log` \
         shows the end of Envoy's log.",
    );
}

fn obey(page: &Page, rig: &Rig, word: &str) {
    let backend = rig.backend();
    let done = match word {
        "dead" => {
            backend.recover().fail(Fault::Refuse);
            "the backend's port is closed: connections are refused"
        }
        "slow" => {
            backend.recover().fail(Fault::Delay(SLOW));
            "the backend takes a second for each answer, the policies wait 80 ms"
        }
        "well" => {
            backend.recover();
            "the backend answers at once"
        }
        "log" => {
            page.log_tail(&rig.envoy().log());
            return;
        }
        "" => return,
        _ => "known are: dead, slow, well, log",
    };
    page.fact("", done);
}

/// Slower than any policy of the tour waits.
pub(crate) const SLOW: Duration = Duration::from_secs(1);
