//! The gate: takes events, owns the tables, orders the steps of a decision, emits effects.
//!
//! # How to drive it
//! Call one `handle_*` with the host's clock; then drain [`Gate::poll_effect`] until it is empty,
//! and carry each effect out. A stream that was told to wait is released by exactly one
//! [`Effect::Release`], at the latest by the first tick after its deadline. Tell every end of a
//! call to [`Gate::handle_reply`], the host's refusal to make it included, and the end of every
//! stream to [`Gate::handle_close`]. Call [`Gate::handle_tick`] every [`TICK`].

mod answer;
pub mod bounds;
pub mod breaker;
pub mod cache;
mod check;
mod index;
pub mod lease;
pub mod local_limit;
mod pending;
mod release;
pub mod reply;
mod report;
mod settle;
pub mod slots;
mod status;
mod table;
mod watch;

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use crate::config::settle::SettleMode;
use crate::config::{
    Backend, Choice, Config, EmergencyMode, Enforcement, FailureMode, OnMissing, Policy,
};
use crate::decision::{AllowReason, CheckError, Decision, DenyReason, Outcome};
use crate::denial::{self, Denial, Facts};
use crate::descriptor::{self, Descriptor};
use crate::metrics::{Metric, Metrics};
use crate::request::Request;
use crate::route::Router;
use crate::shared::Shared;
use crate::sorted::SortedMap;
use crate::time::{Clock, Instant, Wall};
use crate::wire::{self, Wire};

use bounds::Bounds;
use breaker::Breaker;
use cache::Cache;
use check::{SHORTEST_CALL, chosen_failure_mode, own_deadline};
use lease::{Leases, Spend};
use local_limit::LocalLimits;
use pending::{Pending, Waiter};
use reply::CallEnd;
use report::Report;
use settle::Settlements;
use watch::Watched;

/// The number of a downstream request, as the host counts them.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct StreamId(pub u32);

/// The number of a call, as the gate counts them.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct CallId(pub u64);

/// Something the host has to do.
#[derive(Debug)]
pub enum Effect {
    /// Make a call, and tell its end to [`Gate::handle_reply`].
    Call(Outgoing),
    /// Write a line to the log.
    Log(Level, String),
    /// Let a waiting stream leave.
    Release(StreamId, Release),
}

/// A call to a backend.
#[derive(Debug)]
pub struct Outgoing {
    /// What to call it by.
    pub id: CallId,
    /// Which of the configuration's backends.
    pub backend: usize,
    /// Pseudo-headers, headers and body.
    pub message: wire::Message,
    /// How long it may take: whole milliseconds, never 0.
    pub timeout_ms: u32,
}

/// How much a log line matters.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Level {
    /// A state that changed.
    Info,
    /// Something an operator should look at.
    Warn,
    /// A bug of ours.
    Error,
}

/// What becomes of a request right away.
#[derive(Debug)]
pub enum Flow {
    /// The gate itself is asked: this is its answer.
    Answer(Denial),
    /// It leaves at once.
    Release(Release),
    /// It waits for an [`Effect::Release`].
    Wait,
}

/// How a stream leaves the gate: on to the upstream, or answered with a denial.
#[derive(Clone, Debug)]
pub struct Release {
    /// What was decided, and why.
    pub decision: Decision,
    /// By which policy; `None` where none applies.
    pub policy: Option<Rc<Policy>>,
    /// The access log's text.
    pub log_state: Rc<str>,
}

/// What a gate's bounded tables hold.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Holdings {
    /// Answers remembered.
    pub answers: usize,
    /// What they weigh, keys included.
    pub answer_bytes: usize,
    /// Keys that leases are known for.
    pub leases: usize,
    /// What they weigh, keys included.
    pub lease_bytes: usize,
    /// Units held for all keys together.
    pub lease_units: u64,
    /// The most units that are held for one key.
    pub lease_units_most: u64,
    /// Pieces of route metadata whose meaning is remembered.
    pub metadata: usize,
    /// The most streams that wait for one call.
    pub waiters_most: usize,
}

/// A request's check, as far as it is known before it is made.
#[derive(Debug)]
struct Ask {
    policy: Rc<Policy>,
    descriptor: Descriptor,
    cost: u64,
    failure_mode: FailureMode,
}

/// What the steps before the check come to.
enum Step {
    /// It has to be checked.
    Check(Ask),
    /// It leaves at once.
    Leave(Release),
    /// It leaves at once and unchecked, but what it uses is told.
    Unchecked(Ask, Decision),
}

/// What a check has to be made for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Need {
    /// Just this request.
    Check,
    /// Units that are being asked for already.
    Join,
    /// So many units, for this request and the next ones.
    Lease(u64),
}

/// Whether a request is looked at for the first time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Visit {
    /// It has just arrived.
    First,
    /// It has waited for a call of another that is over now.
    Again,
    /// Its own call for more than it needs was refused: it is checked for just its cost.
    Exact,
}

/// What is the same for everything that happens in one callback of the host.
struct Turn<'a> {
    now: Instant,
    wall: Wall,
    shared: &'a mut dyn Shared,
}

/// The decisions of one worker under one configuration.
pub struct Gate {
    config: Config,
    wires: Vec<Wire>,
    breakers: Vec<Option<Breaker>>,
    router: Router,
    cache: Cache,
    leases: Leases,
    local: LocalLimits,
    pending: Pending,
    settlements: Settlements,
    metrics: Metrics,
    /// The access log's texts without what is the single request's, by policy, outcome and cause.
    log_states: SortedMap<usize, Rc<str>>,
    report: Report,
    watched: Watched,
    /// Calls in flight, as the gauge has them.
    pending_told: Vec<i64>,
    clock: Clock,
    /// When the last tick was over.
    ticked: Option<Instant>,
    effects: VecDeque<Effect>,
    /// That of the last descriptor which nobody needed any more.
    memory: Vec<u8>,
    /// What the responses of requests in progress are to tell of their limit.
    notes: SortedMap<u32, Vec<(&'static str, Vec<u8>)>>,
}

impl Gate {
    /// A gate for a configuration. The seed has to differ between workers; nothing else is asked
    /// of it (it spreads retries and makes hashes hard to guess).
    #[must_use]
    pub fn new(config: Config, seed: u64) -> Self {
        Self::with_bounds(config, seed, &Bounds::WORKER)
    }

    /// The same, with tables that hold more or less than a worker's.
    #[must_use]
    #[inline(never)]
    pub fn with_bounds(config: Config, seed: u64, bounds: &Bounds) -> Self {
        Self {
            wires: config
                .backends
                .iter()
                .map(|backend| Wire::new(backend))
                .collect(),
            breakers: config
                .backends
                .iter()
                .map(|backend| breaker_of(backend, seed))
                .collect(),
            router: Router::new(bounds.metadata),
            cache: Cache::new(bounds.answers, bounds.answer_bytes, seed),
            leases: Leases::new(bounds.leases, bounds.lease_bytes, seed),
            local: LocalLimits::new(bounds.local_slots),
            pending: Pending::new(config.backends.len(), bounds.waiters),
            settlements: Settlements::new(
                config.backends.len(),
                (bounds.batches, bounds.batch_bytes),
                seed,
            ),
            metrics: Metrics::new(config.policies.len()),
            log_states: SortedMap::new(),
            report: Report::new(config.backends.len()),
            watched: Watched::default(),
            pending_told: vec![0; config.backends.len()],
            clock: Clock::default(),
            ticked: None,
            effects: VecDeque::new(),
            memory: Vec::new(),
            notes: SortedMap::new(),
            config,
        }
    }

    /// The configuration that the gate works by.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Decides about a request, or starts its check.
    ///
    /// The clock is only read where time matters: a look at it is a call to the host.
    pub fn handle_request(
        &mut self,
        clock: impl Fn() -> Wall,
        stream: StreamId,
        request: &dyn Request,
        shared: &mut dyn Shared,
    ) -> Flow {
        self.note_use();
        if self.is_status_request(request) {
            self.count(None, Outcome::Allow(AllowReason::Bypassed));
            return Flow::Answer(self.status_answer(clock()));
        }
        let (choice, problem) = self.router.choose(&self.config, request);
        let wall = match (&choice, &problem) {
            (Choice::Off, None) => return Flow::Release(self.release_unchecked()),
            (Choice::Off | Choice::Policy(_), _) => clock(),
        };
        let mut turn = Turn {
            now: self.clock.read(wall),
            wall,
            shared,
        };
        if let Some(problem) = problem {
            self.metrics.add(Metric::RouteMetadataErrors, 1);
            self.report.metadata(turn.now, &problem, &mut self.effects);
        }
        let Choice::Policy(policy) = choice else {
            return Flow::Release(self.release_unchecked());
        };
        match self.prepare(wall, policy, request) {
            Step::Leave(release) => Flow::Release(release),
            Step::Check(ask) => self.decide(&mut turn, stream, ask, request),
            Step::Unchecked(ask, decision) => {
                Flow::Release(self.release_now(stream, ask, decision))
            }
        }
    }

    /// Takes the end of a call.
    pub fn handle_reply(
        &mut self,
        wall: Wall,
        call: CallId,
        end: CallEnd<'_>,
        shared: &mut dyn Shared,
    ) {
        let mut turn = Turn {
            now: self.clock.read(wall),
            wall,
            shared,
        };
        self.finish(&mut turn, call, end);
    }

    /// Notes that a stream is over, whoever ended it.
    pub fn handle_close(&mut self, stream: StreamId) {
        // Of most streams nothing is noted any more.
        if !self.notes.is_empty() {
            self.notes.remove(&stream.0);
        }
        self.pending.leave(stream);
        self.settle_closed(stream);
    }

    /// Does what is due: releases streams whose deadline has passed, forgets lost calls, moves
    /// breakers and leases, and hands log lines over.
    #[inline(never)]
    pub fn handle_tick(&mut self, wall: Wall, shared: &mut dyn Shared) {
        let mut turn = Turn {
            now: self.clock.read(wall),
            wall,
            shared,
        };
        self.release_overdue(&mut turn);
        self.forget_lost(&mut turn);
        self.tick_backends(&mut turn);
        self.leases.handle_tick(turn.now);
        self.tick_settlements(&mut turn);
        self.tell_state(&mut turn);
        self.count_tables();
        self.report
            .handle_tick(turn.now, &self.config, &mut self.effects);
        // What this tick has sent was sent on the loop's look at the clock before it.
        self.ticked = Some(turn.now);
    }

    /// Counts what is still in flight when the gate is about to be forgotten: its clients are gone,
    /// and nobody will hear how their checks end.
    pub fn handle_end(&mut self, wall: Wall, shared: &mut dyn Shared) {
        let mut turn = Turn {
            now: self.clock.read(wall),
            wall,
            shared,
        };
        self.abandon(&mut turn);
        self.end_settlements(turn.now);
        self.leases.handle_end();
        self.count_tables();
        self.tell_end(&mut turn);
    }

    /// Goes on telling what was used after the end: the ticks of another root drive it until
    /// [`Gate::is_settled`].
    pub fn handle_tick_after_end(&mut self, wall: Wall, shared: &mut dyn Shared) {
        let mut turn = Turn {
            now: self.clock.read(wall),
            wall,
            shared,
        };
        // An open breaker is over only once somebody has looked. The gauges are another root's.
        self.handle_replaced();
        self.tick_backends(&mut turn);
        self.tick_settlements(&mut turn);
        self.ticked = Some(turn.now);
    }

    /// What the host has to do next; `None` when there is nothing left.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Hands over what has been counted since the last time: `(metric, change or value)`.
    pub fn flush_metrics(&mut self, each: impl FnMut(Metric, i64)) {
        // A report that the host refuses ends after the tick that made it, maybe as the last one.
        self.count_settlements();
        self.metrics.flush(each);
    }

    /// When something has to be done next, and what: for drivers that sleep until then.
    #[must_use]
    pub fn next_deadline(&self) -> Option<(Instant, &'static str)> {
        self.pending
            .next_deadline()
            .map(|deadline| (deadline, "pending"))
    }

    /// Whether the stream waits for its release.
    #[must_use]
    pub fn waits(&self, stream: StreamId) -> bool {
        self.pending.waits(stream)
    }

    /// Streams that wait, and calls in flight.
    #[must_use]
    pub fn pending(&self) -> (usize, usize) {
        self.pending.len()
    }

    /// Whether the end of a call is told with the reply's body: fetching it costs.
    #[must_use]
    pub fn reads_body(&self, call: CallId) -> bool {
        if let Some(reads) = self.reads_report_body(call) {
            return reads;
        }
        let backend = self.pending.backend_of(call);
        let wire = backend.and_then(|backend| self.wires.get(backend));
        wire.is_some_and(Wire::reads_body)
    }

    /// What the bounded tables hold at present.
    #[must_use]
    pub fn holdings(&self) -> Holdings {
        let (lease_units, lease_units_most) = self.leases.held_in_all();
        Holdings {
            answers: self.cache.len(),
            answer_bytes: self.cache.bytes(),
            leases: self.leases.len(),
            lease_bytes: self.leases.bytes(),
            lease_units,
            lease_units_most,
            metadata: self.router.len(),
            waiters_most: self.pending.waiters_most(),
        }
    }

    /// What the response of a stream is to tell of its limit; empty for most.
    pub fn take_response_fields(&mut self, stream: StreamId) -> Vec<(&'static str, Vec<u8>)> {
        if self.notes.is_empty() {
            Vec::new()
        } else {
            self.notes.remove(&stream.0).unwrap_or_default()
        }
    }

    /// The answer to a request that was denied; asks the request only for what the answer needs.
    #[must_use]
    #[inline(never)]
    pub fn denial(release: &Release, request: &dyn Request) -> Option<Denial> {
        let policy = release.policy.as_ref()?;
        let Outcome::Deny(reason) = release.decision.outcome else {
            return None;
        };
        let content_type = request.value("content-type").unwrap_or_default();
        let facts = Facts {
            grpc: denial::is_grpc(content_type),
            origin: request.value("origin").map(<[u8]>::to_vec),
            request_id: request.value("x-request-id").map(<[u8]>::to_vec),
        };
        Some(Denial::new(reason, &release.decision, policy, &facts))
    }

    /// The steps before the check: what needs no answer, and what has nothing to ask by.
    #[inline(never)]
    fn prepare(&mut self, wall: Wall, policy: Rc<Policy>, request: &dyn Request) -> Step {
        if policy.enforcement == Enforcement::Off || descriptor::is_preflight(request) {
            return self.leave(&policy, Decision::allow(AllowReason::Bypassed));
        }
        let bypassed = self.emergency(wall) == Some(EmergencyMode::Bypass);
        if bypassed && policy.settle.is_none() {
            return self.leave(&policy, Decision::allow(AllowReason::Emergency));
        }
        let memory = core::mem::take(&mut self.memory);
        let described = descriptor::describe_in(memory, &policy, request).ok();
        let Some((descriptor, cost)) = described.zip(self.cost(&policy, request)) else {
            if bypassed {
                return self.leave(&policy, Decision::allow(AllowReason::Emergency));
            }
            let decision = match policy.on_missing {
                OnMissing::Allow => Decision::allow(AllowReason::Bypassed),
                OnMissing::Deny => Decision::deny(DenyReason::DescriptorMissing),
            };
            return self.leave(&policy, decision);
        };
        let ask = Ask {
            failure_mode: chosen_failure_mode(&policy, request),
            policy,
            descriptor,
            cost,
        };
        if bypassed {
            return Step::Unchecked(ask, Decision::allow(AllowReason::Emergency));
        }
        Step::Check(ask)
    }

    /// What a request costs ahead. A check that must count nothing can be asked for nothing only,
    /// unless the backend can be asked otherwise.
    fn cost(&self, policy: &Policy, request: &dyn Request) -> Option<u64> {
        let peeks = is_peek(policy);
        if peeks && !self.wires.get(policy.backend).is_some_and(Wire::peeks) {
            return Some(0);
        }
        descriptor::cost(policy, request)
    }

    /// Lets a request leave that does not wait.
    fn release_now(&mut self, stream: StreamId, ask: Ask, decision: Decision) -> Release {
        let release = self.release(Some(&ask.policy), decision, None);
        if ask.policy.settle.is_some() {
            self.open_settlement(stream, ask, &release.decision, true);
        } else {
            self.memory = ask.descriptor.into_memory();
        }
        release
    }

    fn leave(&mut self, policy: &Rc<Policy>, decision: Decision) -> Step {
        Step::Leave(self.release(Some(policy), decision, None))
    }

    /// Decides by what is known here, or asks the backend.
    #[inline(never)]
    fn decide(
        &mut self,
        turn: &mut Turn<'_>,
        stream: StreamId,
        ask: Ask,
        request: &dyn Request,
    ) -> Flow {
        let (known, renewal) = self.known(turn.now, &ask, Visit::First);
        let need = match known {
            Ok(decision) => {
                if let Some(units) = renewal {
                    let labels = self.labels(ask.policy.backend, request);
                    self.renew(turn, &ask, units, &labels);
                }
                return Flow::Release(self.release_now(stream, ask, decision));
            }
            Err(need) => need,
        };
        let wait =
            own_deadline(request).map_or(ask.policy.timeout, |own| own.min(ask.policy.timeout));
        // Looked at here already, before what a call needs is fetched from the host.
        if wait >= SHORTEST_CALL && self.is_refused(&ask, need, turn.wall) {
            let decision = self.failed(turn, &ask, CheckError::BreakerOpen);
            return Flow::Release(self.release_now(stream, ask, decision));
        }
        let waiter = Waiter {
            labels: self.labels(ask.policy.backend, request),
            since: turn.now,
            deadline: turn.now.after(wait),
            gone: false,
            ask,
        };
        match self.place(turn, stream, waiter, need) {
            Ok(()) => Flow::Wait,
            Err(unplaced) => {
                let ask = unplaced.waiter.ask;
                let decision = self.failed(turn, &ask, unplaced.cause);
                Flow::Release(self.release_now(stream, ask, decision))
            }
        }
    }

    /// What a lease or a remembered decision says; else what has to be asked. The second part is
    /// the number of units by which the lease should be renewed now.
    fn known(
        &mut self,
        now: Instant,
        ask: &Ask,
        visit: Visit,
    ) -> (Result<Decision, Need>, Option<u64>) {
        let mut need = Need::Check;
        let key = ask.descriptor.as_bytes();
        if let Some(terms) = &ask.policy.lease {
            let spend = match visit {
                Visit::First => self.leases.spend(now, key, ask.cost, terms),
                Visit::Again => self.leases.serve(now, key, ask.cost, terms),
                Visit::Exact => Spend::Plain,
            };
            match spend {
                Spend::Leased { renew } => {
                    return (Ok(Decision::allow(AllowReason::Leased)), renew);
                }
                Spend::Ask { units } => need = Need::Lease(units),
                Spend::Join => need = Need::Join,
                Spend::Plain => {}
            }
        }
        let cached = self.cache.get(now, key, ask.cost, &ask.policy.cache);
        (
            cached
                .map(|cached| cached.decision(AllowReason::Cached))
                .ok_or(need),
            None,
        )
    }
}

/// Whether the check of a policy must count nothing, because the whole use is told afterwards.
fn is_peek(policy: &Policy) -> bool {
    let terms = policy.settle.as_deref();
    terms.is_some_and(|terms| terms.mode == SettleMode::Report)
}

/// The breaker of a backend, if it is to have one. Two backends that differ in name, cluster or
/// path are two endpoints, and one's overload does not block the other.
fn breaker_of(backend: &Backend, seed: u64) -> Option<Breaker> {
    let settings = backend.breaker.clone()?;
    let path = backend.path.as_deref().unwrap_or_default();
    let name = [&backend.name, &backend.cluster, &backend.authority, path].join("\0");
    Some(Breaker::new(
        descriptor::hash64(name.as_bytes(), 0),
        settings,
        seed,
    ))
}

/// How often the host is to call [`Gate::handle_tick`]. A stream whose callback is lost leaves by
/// its deadline plus one of these; an idle worker spends well below a thousandth of a core on them.
pub const TICK: Duration = Duration::from_millis(20);
