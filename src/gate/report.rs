//! The log: one line per change of state, failures at most one line a second with a count of the
//! rest, and which backend answered when.
//!
//! Lines hold names from the configuration and codes, never a key, a header or a token.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use super::{Effect, Level};
use crate::config::{Config, Policy};
use crate::decision::CheckError;
use crate::metadata::MetadataProblem;
use crate::text::{self, decimal};
use crate::time::{Instant, Wall};

/// What has been told, and what is held back.
#[derive(Clone, Debug, Default)]
pub(super) struct Report {
    backends: Vec<Told>,
    metadata: Told,
}

#[derive(Clone, Debug, Default)]
struct Told {
    last: Option<Instant>,
    held_back: u64,
    answered: Option<Wall>,
}

impl Told {
    /// Whether a line may be written now, and how many were held back before it.
    fn may_speak(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now.since(last) < LINE_EVERY) {
            self.held_back = self.held_back.saturating_add(1);
            return None;
        }
        self.last = Some(now);
        Some(core::mem::take(&mut self.held_back))
    }
}

impl Report {
    /// A report about so many backends.
    pub(super) fn new(backends: usize) -> Self {
        Self {
            backends: vec![Told::default(); backends],
            metadata: Told::default(),
        }
    }

    /// Notes that a backend has answered.
    pub(super) fn answered(&mut self, backend: usize, wall: Wall) {
        if let Some(told) = self.backends.get_mut(backend) {
            told.answered = Some(wall);
        }
    }

    /// When a backend last answered this worker.
    pub(super) fn last_answer(&self, backend: usize) -> Option<Wall> {
        self.backends.get(backend)?.answered
    }

    /// Tells of a check without answer.
    pub(super) fn failure(
        &mut self,
        now: Instant,
        cause: CheckError,
        policy: &Policy,
        config: &Config,
        effects: &mut VecDeque<Effect>,
    ) {
        let Some(told) = self.backends.get_mut(policy.backend) else {
            return;
        };
        let Some(held_back) = told.may_speak(now) else {
            return;
        };
        let name = config
            .backends
            .get(policy.backend)
            .map_or("", |backend| &backend.name);
        let (code, policy) = (cause.code(), &policy.name);
        let mut line = text::fill(
            "backend {}: check failed: {} (policy {}",
            &[name, code, policy],
        );
        if let CheckError::Status(status) = cause {
            line.push_str(&text::fill(", status {}", &[&decimal(status.into())]));
        }
        line.push(')');
        push_held_back(&mut line, held_back);
        effects.push_back(Effect::Log(Level::Warn, line));
    }

    /// Tells of route metadata that is not valid.
    pub(super) fn metadata(
        &mut self,
        now: Instant,
        problem: &MetadataProblem,
        effects: &mut VecDeque<Effect>,
    ) {
        let Some(held_back) = self.metadata.may_speak(now) else {
            return;
        };
        let what = "route metadata is not valid, the default policy is used: ";
        let mut line = [what, &problem.text()].concat();
        push_held_back(&mut line, held_back);
        effects.push_back(Effect::Log(Level::Warn, line));
    }

    /// Tells how many lines were held back, when nothing else came to say so.
    pub(super) fn handle_tick(
        &mut self,
        now: Instant,
        config: &Config,
        effects: &mut VecDeque<Effect>,
    ) {
        for (told, backend) in self.backends.iter_mut().zip(&config.backends) {
            let due = told.last.is_some_and(|last| now.since(last) >= LINE_EVERY);
            if told.held_back > 0 && due {
                let more = core::mem::take(&mut told.held_back);
                told.last = Some(now);
                let line = text::fill(
                    "backend {}: {} more checks failed",
                    &[&backend.name, &decimal(more)],
                );
                effects.push_back(Effect::Log(Level::Warn, line));
            }
        }
    }
}

fn push_held_back(line: &mut String, held_back: u64) {
    if held_back > 0 {
        line.push_str(&text::fill(
            "; {} more since the last line",
            &[&decimal(held_back)],
        ));
    }
}

/// Enough to see what is going on, too little to fill a disk: with 64 workers that all fail it is
/// 64 lines a second.
const LINE_EVERY: Duration = Duration::from_secs(1);
