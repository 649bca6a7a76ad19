//! The breaker's record: what the workers share, and how it moves.

mod layout;

use alloc::vec::Vec;
use core::time::Duration;

use super::{CallOutcome, Permit, Refused, SKEW, State, Why};
use crate::config::BreakerSettings;
use crate::gate::slots::scatter;
use crate::time::{Wall, nanos};

/// What a record is judged by.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    pub(super) identity: u64,
    settings: BreakerSettings,
    seed: u64,
}

/// The truth about a breaker, or a worker's copy of it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Record {
    /// Counts the changes of state.
    pub(super) generation: u64,
    /// When somebody last wrote it.
    pub(super) touched: Wall,
    /// What led to the present state; `None` at first.
    pub(super) why: Option<Why>,
    /// How often it has opened since it was last closed.
    opens: u32,
    phase: Phase,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Phase {
    Closed(Counts),
    HalfOpen(Trials),
    Open { since: Wall, open_for: Duration },
}

impl Default for Phase {
    fn default() -> Self {
        Self::Closed(Counts::default())
    }
}

/// The results of calls while closed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Counts {
    /// Failures since the last success.
    run: u32,
    last_failure: Wall,
    /// The number of the newest bucket: the time divided by a bucket's width.
    head: u64,
    /// The newest first.
    buckets: [Bucket; BUCKETS],
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Bucket {
    succeeded: u32,
    failed: u32,
}

/// The trial calls while half-open.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Trials {
    passed: u32,
    /// The number that the next one gets.
    next: u32,
    held: Vec<Trial>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Trial {
    number: u32,
    since: Wall,
    lapses_after: Duration,
}

/// Results that a worker has not written yet, all of one generation.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Results {
    generation: u64,
    succeeded: u32,
    failed: u32,
    /// Failures since the last success among these.
    run: u32,
    last_success: Wall,
    last_failure: Wall,
    trials: Vec<(u32, CallOutcome)>,
}

impl Terms {
    pub(super) fn new(identity: u64, settings: BreakerSettings, seed: u64) -> Self {
        let identity = fingerprint(&settings)
            .into_iter()
            .fold(scatter(identity), |sum, part| scatter(sum ^ part));
        Self {
            identity,
            settings,
            seed,
        }
    }

    /// The shortest open time.
    pub(super) fn open_floor(&self) -> Duration {
        Duration::from_nanos(nanos(self.settings.open_for.min(self.settings.open_for_max)) >> 1)
    }

    /// The longest open time for the `opens`-th in a row, counted from 1.
    fn open_ceiling(&self, opens: u32) -> Duration {
        let doublings = opens.saturating_sub(1).min(DOUBLINGS_MAX);
        let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
        let grown = self.settings.open_for.saturating_mul(factor);
        grown.min(self.settings.open_for_max)
    }

    /// A random time between the two, the same for the same arguments.
    fn open_time(&self, now: Wall, generation: u64, opens: u32) -> Duration {
        let floor = nanos(self.open_floor());
        let span = nanos(self.open_ceiling(opens)).saturating_sub(floor);
        let random = scatter(scatter(self.seed ^ self.identity) ^ scatter(generation) ^ now.0);
        let above = random.checked_rem(span.saturating_add(1)).unwrap_or(0);
        Duration::from_nanos(floor.saturating_add(above))
    }

    fn bucket_width(&self) -> u64 {
        let width = nanos(self.settings.window).checked_div(BUCKETS_U64);
        width.unwrap_or(0).max(1)
    }

    fn trial_calls(&self) -> u32 {
        self.settings.half_open_calls.max(1)
    }
}

impl Record {
    /// Brings the record up to `now`, with a worker's results. It changes state at most once.
    #[inline(never)]
    pub(super) fn advance(&mut self, now: Wall, results: &Results, terms: &Terms) {
        if distance(now, self.touched) > REFRESHED_AFTER && self.generation > 0 {
            self.touched = now;
        }
        let ours = results.generation == self.generation && !results.is_empty();
        let change = match &mut self.phase {
            Phase::Open { since, open_for } => {
                let open_for = (*open_for).min(terms.settings.open_for_max);
                if since.since(now) > SKEW {
                    *since = now;
                }
                let over = now >= since.after(open_for);
                over.then_some((State::HalfOpen, Why::OpenTimeOver))
            }
            Phase::Closed(counts) if ours => {
                counts.add(now, results, terms);
                let why = counts.trip(&terms.settings);
                why.map(|why| (State::Open, why))
            }
            Phase::HalfOpen(trials) if ours => trials.end(now, results, terms),
            Phase::Closed(_) | Phase::HalfOpen(_) => None,
        };
        if let Some((state, why)) = change {
            self.turn(now, state, why, terms);
        }
    }

    /// What this record says to a call if it stands; `None` when that takes a change of it.
    pub(super) fn answer(&self, now: Wall, terms: &Terms) -> Option<Result<Permit, Refused>> {
        let refused = match &self.phase {
            Phase::Closed(_) => false,
            Phase::HalfOpen(_) => self.is_full(now, terms),
            Phase::Open { since, open_for } => {
                now < since.after((*open_for).min(terms.settings.open_for_max))
            }
        };
        let closed = self.state() == State::Closed;
        (closed || refused).then(|| self.plain_answer(now, terms))
    }

    /// Leave for a call, with a trial slot where it takes one.
    pub(super) fn admit(
        &mut self,
        now: Wall,
        call_timeout: Duration,
        terms: &Terms,
    ) -> Result<Permit, Refused> {
        if let Phase::HalfOpen(trials) = &mut self.phase
            && trials.has_room(now, terms)
        {
            let trial = Some(trials.begin(now, call_timeout));
            return Ok(Permit {
                generation: self.generation,
                trial,
            });
        }
        self.plain_answer(now, terms)
    }

    /// Leave for a call if the breaker is closed, and no trial call otherwise.
    pub(super) fn plain_answer(&self, now: Wall, terms: &Terms) -> Result<Permit, Refused> {
        let retry_after = match &self.phase {
            Phase::Closed(_) => {
                return Ok(Permit {
                    generation: self.generation,
                    trial: None,
                });
            }
            Phase::HalfOpen(trials) => trials.next_lapse(now),
            Phase::Open { .. } => self.open_for(now, terms),
        };
        Err(Refused {
            retry_after: retry_after.unwrap_or(Duration::ZERO),
        })
    }

    /// Whether it is half-open with no trial call to spare.
    pub(super) fn is_full(&self, now: Wall, terms: &Terms) -> bool {
        match &self.phase {
            Phase::HalfOpen(trials) => !trials.has_room(now, terms),
            Phase::Closed(_) | Phase::Open { .. } => false,
        }
    }

    pub(super) const fn state(&self) -> State {
        match self.phase {
            Phase::Closed(_) => State::Closed,
            Phase::HalfOpen(_) => State::HalfOpen,
            Phase::Open { .. } => State::Open,
        }
    }

    /// Failures in a row, while closed.
    pub(super) const fn run(&self) -> u32 {
        match &self.phase {
            Phase::Closed(counts) => counts.run,
            Phase::HalfOpen(_) | Phase::Open { .. } => 0,
        }
    }

    /// How long it stays open yet.
    pub(super) fn open_for(&self, now: Wall, terms: &Terms) -> Option<Duration> {
        let whole = self.whole_open_time(terms)?;
        match &self.phase {
            Phase::Open { since, .. } => Some(since.after(whole).since(now).min(whole)),
            Phase::Closed(_) | Phase::HalfOpen(_) => None,
        }
    }

    /// How long it stays open in all.
    pub(super) fn whole_open_time(&self, terms: &Terms) -> Option<Duration> {
        match &self.phase {
            Phase::Open { open_for, .. } => Some((*open_for).min(terms.settings.open_for_max)),
            Phase::Closed(_) | Phase::HalfOpen(_) => None,
        }
    }

    fn turn(&mut self, now: Wall, state: State, why: Why, terms: &Terms) {
        self.generation = self.generation.saturating_add(1);
        self.why = Some(why);
        self.phase = match state {
            State::Closed => {
                self.opens = 0;
                Phase::default()
            }
            State::HalfOpen => Phase::HalfOpen(Trials::default()),
            State::Open => {
                self.opens = self.opens.saturating_add(1);
                Phase::Open {
                    since: now,
                    open_for: terms.open_time(now, self.generation, self.opens),
                }
            }
        };
    }
}

impl Counts {
    fn add(&mut self, now: Wall, results: &Results, terms: &Terms) {
        self.roll(now, terms.bucket_width());
        if let Some(newest) = self.buckets.first_mut() {
            newest.succeeded = newest.succeeded.saturating_add(results.succeeded);
            newest.failed = newest.failed.saturating_add(results.failed);
        }
        // Gathered successes are older than this moment, maybe older than another's failure.
        let jumped_back = self.last_failure.since(now) > SKEW;
        let ended = results.last_success >= self.last_failure || jumped_back;
        if results.succeeded > 0 && ended {
            self.run = 0;
        }
        self.run = self.run.saturating_add(results.run);
        if results.failed > 0 {
            self.last_failure = results.last_failure;
        }
    }

    /// Moves the window on to `now`. A little back is still the newest bucket; further back than
    /// the window, it goes on from there.
    fn roll(&mut self, now: Wall, width: u64) {
        let head = now.0.checked_div(width).unwrap_or(0);
        let ahead = self.head.saturating_sub(head);
        if head > self.head {
            let steps = usize::try_from(head.saturating_sub(self.head))
                .unwrap_or(BUCKETS)
                .min(BUCKETS);
            self.buckets.rotate_right(steps);
            self.buckets.iter_mut().take(steps).for_each(|bucket| {
                *bucket = Bucket::default();
            });
            self.head = head;
        } else if ahead >= BUCKETS_U64 {
            self.head = head;
        }
    }

    fn trip(&self, settings: &BreakerSettings) -> Option<Why> {
        if self.run >= settings.consecutive_failures.max(1) {
            return Some(Why::Consecutive(self.run));
        }
        let sum = |part: fn(&Bucket) -> u32| self.buckets.iter().map(part).map(u64::from).sum();
        let failed: u64 = sum(|bucket| bucket.failed);
        let succeeded: u64 = sum(|bucket| bucket.succeeded);
        let calls = failed.saturating_add(succeeded);
        let permille = failed.saturating_mul(1_000).checked_div(calls)?;
        let trips = failed > 0
            && calls >= u64::from(settings.min_calls)
            && permille >= u64::from(settings.failure_permille);
        trips.then(|| Why::Rate {
            permille: u32::try_from(permille).unwrap_or(u32::MAX),
            calls: u32::try_from(calls).unwrap_or(u32::MAX),
        })
    }
}

impl Trials {
    fn has_room(&self, now: Wall, terms: &Terms) -> bool {
        let live = self.held.iter().filter(|trial| trial.is_live(now)).count();
        let live = u32::try_from(live).unwrap_or(u32::MAX);
        self.passed.saturating_add(live) < terms.trial_calls()
    }

    fn begin(&mut self, now: Wall, call_timeout: Duration) -> u32 {
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        self.held.retain(|trial| trial.is_live(now));
        self.held.push(Trial {
            number,
            since: now,
            lapses_after: call_timeout.saturating_add(TRIAL_SLACK),
        });
        number
    }

    /// Takes the results of trial calls. A failure counts however late; a success only while its
    /// slot is live, for afterwards another call may have it.
    fn end(&mut self, now: Wall, results: &Results, terms: &Terms) -> Option<(State, Why)> {
        for (number, outcome) in &results.trials {
            if *outcome == CallOutcome::Failure {
                return Some((State::Open, Why::TrialFailed));
            }
            let holds = |trial: &Trial| trial.number == *number && trial.is_live(now);
            if self.held.iter().any(holds) {
                self.held.retain(|trial| trial.number != *number);
                self.passed = self.passed.saturating_add(1);
            }
        }
        (self.passed >= terms.trial_calls()).then_some((State::Closed, Why::TrialsPassed))
    }

    /// Until the next trial slot lapses, as far as the clock can be believed.
    fn next_lapse(&self, now: Wall) -> Option<Duration> {
        let live = self.held.iter().filter(|trial| trial.is_live(now));
        live.map(|trial| {
            let whole = trial.lapses_after.min(HELD_MAX);
            trial.since.after(whole).since(now).min(whole)
        })
        .min()
    }
}

impl Trial {
    /// The clock may have been set back since it began, hence the distance.
    fn is_live(&self, now: Wall) -> bool {
        distance(now, self.since) < self.lapses_after.min(HELD_MAX)
    }
}

impl Results {
    pub(super) fn add(&mut self, now: Wall, permit: Permit, outcome: CallOutcome) {
        self.keep(permit.generation);
        if let Some(number) = permit.trial {
            self.trials.push((number, outcome));
            return;
        }
        match outcome {
            CallOutcome::Failure => {
                self.failed = self.failed.saturating_add(1);
                self.run = self.run.saturating_add(1);
                self.last_failure = now;
            }
            CallOutcome::Success => {
                self.succeeded = self.succeeded.saturating_add(1);
                self.run = 0;
                self.last_success = now;
            }
        }
    }

    /// Forgets what belongs to another generation.
    pub(super) fn keep(&mut self, generation: u64) {
        if self.generation != generation {
            *self = Self {
                generation,
                ..Self::default()
            };
        }
    }

    const fn is_empty(&self) -> bool {
        self.succeeded == 0 && self.failed == 0 && self.trials.is_empty()
    }
}

fn fingerprint(settings: &BreakerSettings) -> [u64; 7] {
    [
        u64::from(settings.consecutive_failures),
        u64::from(settings.failure_permille),
        u64::from(settings.min_calls),
        nanos(settings.window),
        nanos(settings.open_for),
        nanos(settings.open_for_max),
        u64::from(settings.half_open_calls),
    ]
}

fn distance(one: Wall, other: Wall) -> Duration {
    one.since(other).max(other.since(one))
}

/// Tenths of a window: fine enough that it does not empty in leaps, coarse enough for a record of
/// some hundred bytes.
const BUCKETS: usize = 10;
const BUCKETS_U64: u64 = 10;

/// 2^30 times any open time is above any maximum.
const DOUBLINGS_MAX: u32 = 30;

/// A call's result comes within its timeout, a tick and a busy worker's delay.
const TRIAL_SLACK: Duration = Duration::from_millis(250);

/// No call's timeout is above a minute; a slot that claims more was not written by us.
const HELD_MAX: Duration = Duration::from_secs(61);

/// A record in use is written at least this often.
const REFRESHED_AFTER: Duration = Duration::from_secs(60);
