//! When not to call the backend: a breaker that all workers of the process share.
//!
//! ```text
//!            a run of failures, or too
//!            large a share of them
//!   closed ───────────────────────────▶ open ◀──────────┐
//!      ▲                                 │              │ a trial call fails: open again,
//!      │ all trial calls pass            │ time is over │ and for longer
//!      └────────────────────────────  half-open ────────┘
//! ```
//!
//! **Closed**, every call is made. Trips after `consecutive_failures` in a row, or when at least
//! `failure_rate` of at least `min_calls` calls in the last `window` failed. The window moves in
//! tenths, so it covers between nine and ten tenths of its length.
//!
//! **Open**, no call is made, and requests are told so at once. It stays so for a random time
//! between half of `open_for` and the smaller of `open_for · 2ⁿ` and `open_for_max`, n counting
//! from 0 the times it has opened since it was last closed: full jitter, so that the gateways of a
//! fleet don't come back together, above a floor, so that trial calls keep their distance.
//!
//! **Half-open**, at most `half_open_calls` trial calls are made across the workers, each with a
//! slot that lapses by itself some time after the call's timeout, so that a worker that died holds
//! none. All pass: closed, with counts that start anew. One fails: open again. Without traffic it
//! stays half-open: the breaker makes no calls of its own.
//!
//! A denial is a success here, for a backend that denies is well.
//!
//! # Sharing
//! One record in shared data is the truth; each worker has a copy, which is all that a request
//! looks at while the breaker is closed, or open and not over. A failure is written at once, and
//! so is a success that ends a run of failures; other successes are gathered and written with the
//! next tick. A worker learns of another's change with its next tick, so for that long it may make
//! calls that a tripped breaker would not have made. It can't mistake one for a trial call: every
//! change starts a new generation, results of an older one count for nothing, and a copy that is
//! older than the shortest open time is refreshed before it is used, however late a tick comes.
//!
//! The table holds 64 breakers. A record that no worker has refreshed for ten minutes may be taken
//! over; when 64 are in use, a further one works all the same, each worker for itself. So it does
//! when the host refuses writes.
//!
//! The record's times are the wall's, which all workers share and which may jump. Forward: an open
//! time ends early, the window empties, slots lapse. Backward: an open time that began in the
//! future begins anew, a slot is held for at most twice its time, the window goes on from now.

mod record;

use alloc::borrow::ToOwned;
use alloc::collections::VecDeque;
use alloc::string::String;
use core::time::Duration;

use crate::config::BreakerSettings;
use crate::gate::slots::{Slot, Slots, TRIES};
use crate::shared::Shared;
use crate::text::{self, decimal};
use crate::time::Wall;

use record::{Record, Results, Terms};

/// A backend's breaker, as one worker sees it.
///
/// The driver asks [`Self::permit`] before each call and hands what came of a permitted call to
/// [`Self::record`], once, by a deadline of its own: a call whose answer is lost is a failure, not
/// nothing. It calls [`Self::handle_tick`] every tick, on every worker, with traffic or without.
/// After each of the three it drains [`Self::poll_transition`]. A backend whose settings have no
/// breaker has no value of this type either.
#[derive(Clone, Debug)]
pub struct Breaker {
    terms: Terms,
    slots: Slots,
    known: Record,
    /// When `known` was the truth; `None` before the first look.
    known_at: Option<Wall>,
    /// What this worker has not written yet.
    results: Results,
    transitions: VecDeque<Transition>,
}

/// Leave to make one call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Permit {
    generation: u64,
    trial: Option<u32>,
}

impl Permit {
    /// Whether the call is one of the few by which a half-open breaker tries the backend.
    #[must_use]
    pub const fn is_trial(self) -> bool {
        self.trial.is_some()
    }
}

/// No call may be made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Refused {
    /// When it is worth asking again, at the earliest.
    pub retry_after: Duration,
}

/// What came of a permitted call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CallOutcome {
    /// It says that the backend is unwell (`CheckError::blames_backend`), or nothing came at all.
    Failure,
    /// The backend answered, whatever it said.
    Success,
}

/// Where the breaker stands; in the order of the gauge.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum State {
    /// Every call is made.
    Closed,
    /// A few calls are made, on trial.
    HalfOpen,
    /// No call is made.
    Open,
}

impl State {
    /// The stable word for it.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
        }
    }

    /// Its number in the gauge.
    #[must_use]
    pub const fn gauge(self) -> u64 {
        match self {
            Self::Closed => 0,
            Self::HalfOpen => 1,
            Self::Open => 2,
        }
    }
}

/// A change of state, as one worker came to know it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Transition {
    /// The state that this worker knew before.
    pub from: State,
    /// The state now.
    pub to: State,
    /// What led to it.
    pub why: Why,
    /// How long it stays open, when that is what it is.
    pub open_for: Option<Duration>,
    /// Whether this worker made the change. Exactly one of the process did: what is to be told
    /// once (a log line, a count of trips) is told where this is true.
    pub mine: bool,
}

/// What led to a change of state.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Why {
    /// So many failures in a row.
    Consecutive(u32),
    /// The open time is over.
    OpenTimeOver,
    /// Too large a share of failures.
    Rate {
        /// The share, in thousandths.
        permille: u32,
        /// The calls it was taken over.
        calls: u32,
    },
    /// A trial call failed.
    TrialFailed,
    /// Every trial call passed.
    TrialsPassed,
}

impl Why {
    /// In words for the log.
    #[must_use]
    pub fn text(&self) -> String {
        match *self {
            Self::Consecutive(failures) => {
                [&decimal(failures.into()), " failures in a row"].concat()
            }
            Self::OpenTimeOver => "the open time is over".to_owned(),
            Self::Rate { permille, calls } => {
                let parts = [permille / 10, permille % 10, calls];
                let [percent, tenth, calls] = parts.map(|part| decimal(part.into()));
                text::fill("{}.{}% of {} calls failed", &[&percent, &tenth, &calls])
            }
            Self::TrialFailed => "a trial call failed".to_owned(),
            Self::TrialsPassed => "the trial calls passed".to_owned(),
        }
    }
}

impl Breaker {
    /// A breaker that has not looked at the shared record yet; touches nothing.
    ///
    /// Breakers with the same `identity` and settings share a record: the identity is a hash of
    /// the backend's name and where it is called. New settings start a new record, so that old
    /// and new workers don't judge one by two standards. `seed` is anything that differs from
    /// process to process; it only spreads open times.
    #[must_use]
    pub fn new(identity: u64, settings: BreakerSettings, seed: u64) -> Self {
        Self {
            terms: Terms::new(identity, settings, seed),
            slots: Slots::new("breaker", KIND, SLOTS),
            known: Record::default(),
            known_at: None,
            results: Results::default(),
            transitions: VecDeque::new(),
        }
    }

    /// Whether a call may be made now. It has `call_timeout` to come to an end: a trial call
    /// holds its slot for that long and a little more.
    ///
    /// # Errors
    /// [`Refused`] while the breaker is open, or half-open with no trial call to spare.
    pub fn permit(
        &mut self,
        now: Wall,
        call_timeout: Duration,
        shared: &mut dyn Shared,
    ) -> Result<Permit, Refused> {
        if self.is_stale(now) {
            self.update(now, shared, None);
        }
        if let Some(settled) = self.known.answer(now, &self.terms) {
            return settled;
        }
        self.update(now, shared, Some(call_timeout))
            .unwrap_or_else(|| self.known.plain_answer(now, &self.terms))
    }

    /// Takes note of what came of a permitted call.
    pub fn record(
        &mut self,
        now: Wall,
        permit: Permit,
        outcome: CallOutcome,
        shared: &mut dyn Shared,
    ) {
        if permit.generation != self.known.generation {
            return;
        }
        self.results.add(now, permit, outcome);
        let in_a_run = self.known.run() > 0;
        if permit.is_trial() || in_a_run || outcome == CallOutcome::Failure {
            self.update(now, shared, None);
        }
    }

    /// Writes what was gathered, learns what others wrote, and moves on with time.
    pub fn handle_tick(&mut self, now: Wall, shared: &mut dyn Shared) {
        self.update(now, shared, None);
    }

    /// The next change of state that has not been told.
    pub fn poll_transition(&mut self) -> Option<Transition> {
        self.transitions.pop_front()
    }

    /// Where it stands, as far as this worker knows.
    #[must_use]
    pub const fn state(&self) -> State {
        self.known.state()
    }

    /// What led there; `None` for one that has always been closed.
    #[must_use]
    pub const fn why(&self) -> Option<Why> {
        self.known.why
    }

    /// Whether all its trial calls are out, as far as is known without a look at the shared record.
    #[must_use]
    pub fn is_trying(&self, now: Wall) -> bool {
        self.state() == State::HalfOpen
            && !self.is_stale(now)
            && self.known.is_full(now, &self.terms)
    }

    /// How long it stays open yet; `None` when it is not open.
    #[must_use]
    pub fn open_for(&self, now: Wall) -> Option<Duration> {
        self.known.open_for(now, &self.terms)
    }

    /// Brings the shared record up to date and asks it for leave to make a call of so long a
    /// timeout, if one is to be made, anew each time somebody else was faster. `None` when they
    /// always were: then nothing was written, what is known is at least fresh, and the results wait
    /// for the next time. So it is where no call is to be made.
    fn update(
        &mut self,
        now: Wall,
        shared: &mut dyn Shared,
        call: Option<Duration>,
    ) -> Option<Result<Permit, Refused>> {
        let mut lost: Option<Slot> = None;
        for _ in 0..TRIES {
            let slot = self.slots.probe(shared, self.terms.identity, |body| {
                Record::claim(body, now, &self.terms)
            });
            let found = slot.as_ref().and_then(|slot| slot.body.as_deref());
            let found = found.and_then(Record::decode);
            self.learn(now, found.as_ref());
            let mut after = self.known.clone();
            after.advance(now, &self.results, &self.terms);
            let leave = call.map(|timeout| after.admit(now, timeout, &self.terms));

            // A slot that has not changed though a write to it failed: the host refuses writes.
            let refused = lost.is_some() && lost == slot;
            let unchanged = after == found.unwrap_or_default();
            let target = slot.filter(|_| !refused && !unchanged);
            let Some(target) = target else {
                self.settle(after);
                return leave;
            };
            after.touched = now;
            let body = after.encode(&self.terms);
            if self.slots.write(shared, &target, &body) {
                self.settle(after);
                return leave;
            }
            lost = Some(target);
        }
        None
    }

    /// Makes what was found what is known, unless this worker knows of a later generation: then
    /// somebody has written over the record, and it is to be restored.
    fn learn(&mut self, now: Wall, found: Option<&Record>) {
        let fresh = found.filter(|found| found.generation >= self.known.generation);
        if let Some(found) = fresh {
            self.notice(found, false);
            self.known = found.clone();
        }
        self.known_at = Some(now);
        self.results.keep(self.known.generation);
    }

    /// Makes `after` what is known, the results being in it.
    fn settle(&mut self, after: Record) {
        self.notice(&after, true);
        self.known = after;
        self.results = Results::default();
    }

    fn notice(&mut self, record: &Record, mine: bool) {
        let from = self.known.state();
        let (Some(why), true) = (record.why, from != record.state()) else {
            return;
        };
        if self.transitions.len() == TRANSITIONS_MAX {
            self.transitions.pop_front();
        }
        self.transitions.push_back(Transition {
            from,
            to: record.state(),
            why,
            open_for: record.whole_open_time(&self.terms),
            mine,
        });
    }

    /// Whether the copy is so old that the breaker may have opened and become half-open since.
    fn is_stale(&self, now: Wall) -> bool {
        self.known_at.is_none_or(|known_at| {
            now.since(known_at) >= self.terms.open_floor() || known_at.since(now) > SKEW
        })
    }
}

/// How far the workers' readings of one clock may lie apart: they take them at the start of a
/// callback. More than this is a jump.
const SKEW: Duration = Duration::from_millis(100);

/// A driver that never drains must not make the list grow.
const TRANSITIONS_MAX: usize = 16;

/// Backends of all configurations that are alive in the process, with room for collisions.
const SLOTS: usize = 64;

const KIND: u8 = b'b';

#[cfg(test)]
mod tests;
