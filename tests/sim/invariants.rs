//! What has to hold after each step, whatever has happened.

use std::collections::{BTreeMap, BTreeSet};

use quota_gate::decision::{Decision, Outcome};
use quota_gate::denial::Denial;
use quota_gate::gate::{Gate, Level, Outgoing, Release, StreamId};

use crate::events::{Asked, MS, Mode, PolicyFacts, SEC, TENANT_MARK, TOKEN_MARK, Weather};
use crate::model::{Check, Key, Ruling, without_answer};
use crate::world::{Call, Cause, End, Instance, Phase, Stream, World, clock_slack};

/// What a gate's requests came to, as seen from outside.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) seen: i64,
    /// Clients that left while they waited: what their checks came to is only counted.
    pub(crate) gone: u64,
    reasons: BTreeMap<&'static str, i64>,
    failures: i64,
    /// Units of leases, spent on requests that are known of.
    spent: i64,
}

/// A breaker as its log lines tell it.
#[derive(Debug)]
pub(crate) struct Chain {
    state: String,
    since: u64,
    /// Trial calls in flight, by gate and number.
    trials: BTreeSet<(usize, u64)>,
}

/// A change of a breaker.
#[derive(Clone, Debug)]
pub(crate) struct Transition {
    breaker: (String, String),
    from: String,
    to: String,
}

/// Says what is broken; the run adds the seed.
macro_rules! hold {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            panic!($($text)+);
        }
    };
}

impl World {
    /// Calls in flight from a gate to a backend.
    pub(crate) fn in_flight(&self, index: usize, backend: &str) -> u64 {
        let calls = self.instance(index).calls.values();
        calls.filter(|call| call.backend == backend).count() as u64
    }

    /// What has to be decided before anything is asked; `None` where nothing has.
    pub(crate) fn at_once(&self, own: &Instance, asked: &Asked) -> Option<&'static str> {
        let Some(policy) = &asked.way.policy else {
            return Some("bypassed");
        };
        if asked.preflight {
            return Some("bypassed");
        }
        if own.setup.emergency_at(own.clock.wall) == Some(true) {
            return Some("emergency");
        }
        match (&asked.tenant, policy.missing_allows) {
            (Some(_), _) => None,
            (None, true) => Some("bypassed"),
            (None, false) if policy.shadow => Some("shadow"),
            (None, false) => Some("descriptor_missing"),
        }
    }

    /// The failure that a simple world finds before it asks.
    fn not_asked(&self, own: &Instance, asked: &Asked, in_flight: u64) -> Option<&'static str> {
        let policy = asked.way.policy.as_ref()?;
        if asked.wait < MS {
            return Some("deadline_too_short");
        }
        let bound = own.setup.backend(&policy.backend).max_pending;
        (in_flight >= bound).then_some("too_many_pending")
    }

    pub(crate) fn check_wait(&self, index: usize, id: u32, in_flight: u64) {
        let (own, stream) = (self.instance(index), &self.streams[&id]);
        let at_once = self.at_once(own, &stream.asked);
        hold!(
            at_once.is_none() && !stream.asked.status_page,
            "stream {id} waits, but is to leave at once: {at_once:?}"
        );
        if self.nature.simple {
            let cause = self.not_asked(own, &stream.asked, in_flight);
            hold!(cause.is_none(), "stream {id} waits in spite of {cause:?}");
        }
    }

    /// The gate's own page.
    pub(crate) fn answered(&mut self, index: usize, id: u32, answer: &Denial) {
        let stream = self
            .streams
            .get_mut(&id)
            .expect("a stream that nobody knows");
        hold!(
            stream.asked.status_page,
            "stream {id} is answered by the gate"
        );
        stream.phase = Phase::Released;
        self.check_answer(answer);
        *self
            .instance_mut(index)
            .tally
            .reasons
            .entry("bypassed")
            .or_default() += 1;
    }

    /// A stream leaves: for the first time, before its end, for a reason that holds.
    pub(crate) fn check_release(
        &mut self,
        index: usize,
        id: u32,
        release: &Release,
        cause: &Cause,
    ) {
        let Some(mut stream) = self.streams.remove(&id) else {
            panic!("stream {id}, which is over, is released");
        };
        hold!(
            stream.gate == index,
            "stream {id} is released by another gate"
        );
        hold!(
            stream.phase == Phase::Waiting && !stream.closed,
            "stream {id} is released in phase {:?}",
            stream.phase
        );
        stream.phase = Phase::Released;
        let decision = &release.decision;
        let (reason, why) = (
            decision.outcome.reason(),
            decision.cause.map(|own| own.code()),
        );
        *self.reasons.entry(reason.to_owned()).or_default() += 1;
        let wanted = format!("{} reason={reason}", decision.outcome.word());
        let told = &release.log_state;
        hold!(
            told.split(" policy=")
                .next()
                .is_some_and(|told| told.starts_with(&wanted)),
            "stream {id}: the access log says `{told}`, the decision is `{wanted}`"
        );
        self.check_bytes(told.as_bytes(), "the access log");
        let shown = decision.shadowed.map_or(reason, |shadowed| shadowed.code());
        self.check_denial(id, release, &stream.asked);
        self.check_reason(index, id, &stream, decision, shown, cause);
        if self.nature.simple {
            self.check_simple(index, id, &stream, decision, cause);
        }
        if why == Some("too_many_pending") {
            *self.full.entry("pending".to_owned()).or_default() += 1;
        }
        let tally = &mut self.instance_mut(index).tally;
        *tally.reasons.entry(reason).or_default() += 1;
        tally.failures += i64::from(why.is_some());
        self.streams.insert(id, stream);
    }

    fn check_denial(&self, id: u32, release: &Release, asked: &Asked) {
        let Outcome::Deny(reason) = release.decision.outcome else {
            return;
        };
        let Some(denial) = Gate::denial(release, &asked.plain) else {
            panic!("stream {id} is denied without an answer");
        };
        self.check_answer(&denial);
        let code = reason.code();
        hold!(
            denial.details == format!("quota_gate_{code}"),
            "stream {id}: details {} for {code}",
            denial.details
        );
        let body = String::from_utf8_lossy(&denial.body);
        hold!(
            !body.starts_with('{') || body.contains(&format!("\"code\":\"{code}\"")),
            "stream {id}: another code in {body}"
        );
        hold!(
            denial.status >= 400,
            "stream {id} is denied with {}",
            denial.status
        );
    }

    fn check_answer(&self, answer: &Denial) {
        self.check_bytes(&answer.body, "an answer's body");
        for (name, value) in &answer.headers {
            self.check_bytes(name.as_bytes(), "an answer's header");
            self.check_bytes(value, "an answer's header");
        }
    }

    /// No secret may be in what others can read.
    pub(crate) fn check_bytes(&self, bytes: &[u8], place: &str) {
        let text = String::from_utf8_lossy(bytes);
        hold!(
            !text.contains(TENANT_MARK) && !text.contains(TOKEN_MARK),
            "a secret is in {place}: {text}"
        );
    }

    /// Whether something entitles the gate to this decision.
    fn check_reason(
        &mut self,
        index: usize,
        id: u32,
        stream: &Stream,
        decision: &Decision,
        shown: &str,
        cause: &Cause,
    ) {
        let own = self.instance(index);
        let arrives = matches!(cause, Cause::Arrival(..));
        let at_once = self.at_once(own, &stream.asked).filter(|_| arrives);
        if let Some(expected) = at_once {
            let reason = decision.outcome.reason();
            hold!(
                reason == expected && decision.cause.is_none(),
                "stream {id} is to be {expected}, but is {reason}"
            );
            return;
        }
        let policy = stream
            .asked
            .way
            .policy
            .clone()
            .expect("a check has a policy");
        let shadowed = decision.shadowed.is_some();
        hold!(
            !shadowed || policy.shadow,
            "stream {id} is shadowed without leave"
        );
        hold!(
            !policy.shadow || matches!(decision.outcome, Outcome::Allow(_)),
            "stream {id} is denied in shadow"
        );
        let failed = decision.cause.is_some();
        let fails = matches!(
            shown,
            "emergency" | "failed_local" | "failed_open" | "local_exceeded" | "quota_unavailable"
        );
        let known = matches!(
            shown,
            "cached" | "key_rejected" | "quota_exceeded" | "stale"
        );
        hold!(
            failed == fails || (failed && known),
            "stream {id}: {shown} with cause {:?}",
            decision.cause
        );
        let holds = self.is_entitled(index, stream, &policy, shown, failed, cause);
        hold!(
            holds,
            "stream {id} is {shown} (cause {:?}), and nothing entitles it: \
             cost {}, {policy:?}, {cause:?}, {:?}",
            decision.cause,
            stream.asked.cost,
            stream
                .key
                .as_ref()
                .and_then(|key| self.instance(index).known.get(key))
        );
        self.check_admission(&policy, stream, shown);
    }

    fn is_entitled(
        &mut self,
        index: usize,
        stream: &Stream,
        policy: &PolicyFacts,
        shown: &str,
        failed: bool,
        cause: &Cause,
    ) -> bool {
        let (calm, refuses) = (
            self.nature.weather == Weather::Calm,
            self.nature.refuses_writes,
        );
        let asked = &stream.asked;
        let (key, cost) = (stream.key.clone().expect("a check has a key"), asked.cost);
        let own = self.gates[index].as_mut().expect("a gate that is driven");
        let (now, wall) = (own.clock.now, own.clock.wall);
        let emergency = own.setup.emergency_at(wall);
        let fresh = fresh(cause, &key);
        let more = if failed { policy.stale } else { 0 };
        let known = own.known.entry(key.clone()).or_default();
        let remembers = |wanted| known.remembers(now, cost, policy, more, wanted);
        match shown {
            "emergency" => emergency.is_some(),
            "failed_open" => emergency.is_none() && asked.mode == Mode::Open,
            "quota_unavailable" => emergency.is_none() && asked.mode == Mode::Closed,
            "local_exceeded" => {
                // Of a client that left nobody hears whether it took units.
                let alone = self.nature.races == 0 && self.nature.impatience == 0;
                let certain = calm && alone && !refuses;
                let unjust = certain && self.local.has_room(wall, &key, cost, policy);
                own.watch.unjust += u64::from(unjust);
                emergency.is_none() && asked.mode == Mode::Local
            }
            "failed_local" => {
                let has_room = !calm || refuses || self.local.take(wall, &key, cost, policy);
                emergency.is_none() && asked.mode == Mode::Local && has_room
            }
            "cached" | "stale" => remembers(|own| matches!(own, Ruling::Allow(_))),
            "leased" => {
                own.tally.spent += cost as i64;
                policy.lease.is_some() && known.spend(now, cost)
            }
            "within_quota" => match fresh {
                Some((check, Ruling::Allow(units))) => {
                    if check.least.is_some() {
                        own.tally.spent += cost as i64;
                        known.spend(now, cost);
                    }
                    cost <= units.min(check.cost)
                }
                Some((_, Ruling::Deny | Ruling::Reject(_))) | None => false,
            },
            "quota_exceeded" => {
                let denied = fresh.is_some_and(|(check, said)| {
                    said == Ruling::Deny && check.cost <= cost && !failed
                });
                denied || remembers(|own| own == Ruling::Deny)
            }
            "key_rejected" => {
                let rejected = |own| matches!(own, Ruling::Reject(_));
                fresh.is_some_and(|(_, said)| rejected(said)) && !failed || remembers(rejected)
            }
            _ => false,
        }
    }

    fn check_admission(&mut self, policy: &PolicyFacts, stream: &Stream, shown: &str) {
        if !matches!(shown, "leased" | "within_quota") {
            return;
        }
        let key = stream.key.clone().expect("a check has a key");
        let name = policy.backend.clone();
        let admitted = self
            .admitted
            .entry((name.clone(), key.clone()))
            .or_default();
        *admitted += stream.asked.cost;
        let given = self.books[&name].given.get(&key).copied().unwrap_or(0);
        hold!(
            !self.nature.unshared || *admitted <= given,
            "{admitted} units are admitted, the backend gave {given}"
        );
    }

    /// In a simple world each decision is known beforehand.
    fn check_simple(
        &self,
        index: usize,
        id: u32,
        stream: &Stream,
        decision: &Decision,
        cause: &Cause,
    ) {
        let own = self.instance(index);
        let asked = &stream.asked;
        let arrives = matches!(cause, Cause::Arrival(..));
        if arrives && self.at_once(own, asked).is_some() {
            return;
        }
        let now = own.clock.now;
        let told = decision.cause.map(|own| own.code());
        let expected = match cause {
            Cause::Arrival(_, in_flight) => Err(self.not_asked(own, asked, *in_flight)),
            Cause::Forgotten => Err(Some("timeout")),
            Cause::Tick => Err((stream.deadline <= now).then_some("timeout")),
            Cause::End(None, _) => Err(None),
            Cause::End(Some(call), end) => {
                hold!(
                    call.waiter == Some(id),
                    "stream {id} leaves with another's call"
                );
                meaning(call, end, now, self.truth)
            }
        };
        let wanted = match expected {
            Ok(reason) => Some(reason),
            Err(None) => panic!("stream {id} leaves, and nothing has happened: {cause:?}"),
            Err(Some(_)) => without_answer(asked.mode, own.setup.emergency_at(own.clock.wall)),
        };
        hold!(
            told == expected.err().flatten(),
            "stream {id} is to fail by {expected:?}, but does by {told:?}"
        );
        let reason = decision
            .shadowed
            .map_or_else(|| decision.outcome.reason(), |own| own.code());
        hold!(
            wanted.is_none_or(|wanted| wanted == reason),
            "stream {id} is to be {wanted:?}, but is {reason}"
        );
    }

    /// A call is made: with a timeout, in time, within the bound, with the breaker's leave.
    pub(crate) fn check_call(&mut self, index: usize, cause: &Cause, outgoing: &Outgoing) -> Call {
        let own = self.instance(index);
        let backend = own.gate.config().backends[outgoing.backend].name.clone();
        let header = |name: &str| {
            let value = outgoing.message.header(name)?;
            Some(String::from_utf8(value.to_vec()).expect("a header that is no text"))
        };
        let number = |name: &str| header(name).map(|text| text.parse::<u64>().unwrap());
        let tenant = header("x-quota-descriptor").expect("a call without descriptor");
        let tenant = tenant
            .strip_prefix("tenant=")
            .expect("another descriptor")
            .to_owned();
        let key: Key = (
            header("x-quota-policy").expect("a call without policy"),
            tenant,
        );
        let check = Check {
            key,
            cost: number("x-quota-cost").expect("a call without cost"),
            least: number("x-quota-cost-min"),
        };
        let told = u64::from(outgoing.timeout_ms) * MS;
        self.check_time(index, &check, told);
        let in_flight = self.in_flight(index, &backend);
        let bound = own.setup.backend(&backend).max_pending;
        hold!(
            in_flight < bound,
            "{in_flight} calls are in flight, {bound} are allowed"
        );
        self.check_leave(index, &backend, outgoing.id.0);
        let waiter = match cause {
            Cause::Arrival(id, _) => Some(*id),
            Cause::End(..) | Cause::Forgotten | Cause::Tick => None,
        };
        let own = self.instance(index);
        let now = own.clock.now;
        let busy = own.ticked_by_clock.map_or(told, |ticked| now - ticked);
        Call {
            since: now,
            made: self.truth,
            timeout: told,
            head_start: busy.min(told / 4),
            backend,
            check,
            waiter,
        }
    }

    /// It has its policy's time, and somebody waits for it, or it is a renewal.
    fn check_time(&self, index: usize, check: &Check, told: u64) {
        let own = self.instance(index);
        hold!(told >= MS, "a call without a timeout");
        let mut ways = own.setup.ways.iter().filter_map(|way| way.policy.as_ref());
        let allowed = ways.any(|own| own.name == check.key.0 && own.timeout == told);
        hold!(allowed, "a call of {told} ns, which no policy says");
        let waits = |stream: &Stream| {
            let lives = stream.gate == index && stream.phase != Phase::Released;
            lives && stream.key.as_ref() == Some(&check.key) && stream.deadline > own.clock.now
        };
        hold!(
            check.least == Some(1) || self.streams.values().rev().any(waits),
            "a call that nobody waits for"
        );
    }

    fn breaker_of(&self, index: usize, backend: &str) -> Option<(String, String, u64)> {
        let (settings, trials) = self
            .instance(index)
            .setup
            .backend(backend)
            .breaker
            .clone()?;
        Some((backend.to_owned(), settings, trials))
    }

    /// The breaker lets it through, as one of its few trial calls if it is half open.
    fn check_leave(&mut self, index: usize, backend: &str, call: u64) {
        let Some((name, settings, trials_max)) = self.breaker_of(index, backend) else {
            return;
        };
        if self.nature.refuses_writes || self.nature.weather == Weather::Jumps {
            return;
        }
        let ticked = self.instance(index).ticked;
        let Some(chain) = self.chains.get_mut(&(name, settings)) else {
            return;
        };
        hold!(
            chain.state != "open" || ticked.is_none_or(|ticked| ticked <= chain.since),
            "a call to {backend}, whose breaker is open since {} ns; the worker knows",
            self.truth - chain.since
        );
        if chain.state != "half_open" {
            return;
        }
        chain.trials.insert((index, call));
        let trials = chain.trials.clone();
        let live = trials.iter().filter(|(gate, own)| {
            let gate = self.gates.get(*gate).and_then(Option::as_ref);
            *own == call || gate.is_some_and(|gate| gate.calls.contains_key(own) && !gate.over)
        });
        let live = live.count() as u64;
        hold!(
            live <= trials_max,
            "{live} trial calls, {trials_max} are allowed"
        );
    }

    pub(crate) fn check_line(&mut self, index: usize, level: Level, line: &str) {
        self.trace(|_| format!("gate {index}: {level:?}: {line}"));
        hold!(level != Level::Error, "an error is logged: {line}");
        self.check_bytes(line.as_bytes(), "the log");
        let Some((backend, rest)) = line.split_once(": breaker ") else {
            return;
        };
        let backend = backend.trim_start_matches("backend ");
        let mut words = rest.split([' ', ':']).filter(|word| *word != "->");
        let (from, to) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        hold!(
            matches!(
                (from, to),
                ("closed", "open") | ("open", "half_open") | ("half_open", "open" | "closed")
            ),
            "a breaker turns from {from} to {to}"
        );
        self.count(&format!("breaker to {to}"));
        let Some((name, settings, _)) = self.breaker_of(index, backend) else {
            panic!("a breaker that is not configured: {line}");
        };
        self.deferred.push(Transition {
            breaker: (name, settings),
            from: from.to_owned(),
            to: to.to_owned(),
        });
        self.retry_transitions();
    }

    /// Applies the changes that follow from where their breaker stands.
    pub(crate) fn retry_transitions(&mut self) {
        if self.nature.refuses_writes {
            return self.deferred.clear();
        }
        let mut index = 0;
        while let Some(next) = self.deferred.get(index).cloned() {
            let chain = self.chains.entry(next.breaker).or_insert_with(|| Chain {
                state: "closed".to_owned(),
                since: 0,
                trials: BTreeSet::new(),
            });
            if chain.state == next.from {
                chain.state = next.to;
                chain.since = self.truth;
                chain.trials.clear();
                self.deferred.remove(index);
                index = 0;
            } else {
                index += 1;
            }
        }
    }

    /// In a simple world whoever waited for the call is out.
    pub(crate) fn check_end_of_call(&self, call: &Call) {
        let waits = |id: u32| {
            let stream = self.streams.get(&id);
            stream.is_some_and(|stream| stream.phase == Phase::Waiting)
        };
        let held = call.waiter.filter(|id| self.nature.simple && waits(*id));
        hold!(
            held.is_none(),
            "the call ended, and stream {held:?} still waits"
        );
    }

    /// After a gate's tick nobody is late, and all that is counted adds up.
    pub(crate) fn check_tick(&self, index: usize) {
        let own = self.instance(index);
        let now = own.clock.now;
        let mut waiting = 0;
        for (id, stream) in self
            .streams
            .iter()
            .filter(|(_, stream)| stream.gate == index)
        {
            if stream.phase == Phase::Waiting {
                waiting += 1;
                hold!(
                    stream.deadline > now,
                    "stream {id} still waits {} ns after its deadline",
                    now - stream.deadline
                );
                hold!(own.gate.waits(StreamId(*id)), "stream {id} is forgotten");
            }
        }
        let (held, calls) = own.gate.pending();
        hold!(
            held >= waiting && held <= waiting + own.tally.gone as usize,
            "{held} streams are pending, {waiting} wait"
        );
        hold!(
            calls == own.calls.len(),
            "{calls} calls are pending, {} are in flight",
            own.calls.len()
        );
        self.check_sums(own, held, calls);
    }

    /// The sum law, the gauge of calls, and what leases cost.
    fn check_sums(&self, own: &Instance, held: usize, calls: usize) {
        let sum = |prefix: &str| -> i64 {
            let found = own
                .metrics
                .iter()
                .filter(|(name, _)| name.starts_with(prefix));
            found.map(|(_, value)| *value).sum()
        };
        let requests = sum("quota_gate.requests.");
        let over = own.tally.seen - held as i64;
        hold!(
            requests == over,
            "{requests} requests are counted, {over} are over"
        );
        let gone = own.tally.gone as i64;
        let failures = sum("quota_gate.failures.");
        let seen = own.tally.failures;
        hold!(
            seen <= failures && failures <= seen + gone,
            "{failures} failures are counted, {seen} were seen, {gone} left"
        );
        let pending = sum("quota_gate.pending.");
        hold!(
            pending == calls as i64,
            "the gauge says {pending}, {calls} calls are in flight"
        );
        let reasons = own.metrics.iter().filter_map(|(name, value)| {
            let (base, reason) = name.split_once(".reason.")?;
            base.starts_with("quota_gate.requests.")
                .then_some((reason, *value))
        });
        let mut counted: BTreeMap<&str, i64> = BTreeMap::new();
        for (reason, value) in reasons {
            *counted.entry(reason).or_default() += value;
        }
        for (reason, seen) in &own.tally.reasons {
            let counted = counted.get(reason).copied().unwrap_or(0);
            hold!(
                *seen <= counted && counted <= seen + gone,
                "{reason}: {counted} are counted, {seen} were seen, {gone} left"
            );
        }
        self.check_holdings(own, sum);
        for name in own.metrics.keys() {
            self.check_bytes(name.as_bytes(), "a metric");
        }
    }

    /// Each unit of a lease is spent, held or expired.
    fn check_holdings(&self, own: &Instance, sum: impl Fn(&str) -> i64) {
        let holds = own.gate.holdings();
        let most = own.setup.lease_units_max;
        hold!(
            holds.lease_units_most <= most,
            "a key may hold {most} units: {holds:?}"
        );
        let units = |event: &str| sum(&format!("quota_gate.leases.event.{event}_units"));
        let (granted, spent, expired) = (units("granted"), units("spent"), units("expired"));
        let held = holds.lease_units as i64;
        hold!(
            granted == spent + expired + held,
            "{granted} units are granted, {spent} spent, {expired} expired, {held} held"
        );
        let seen = own.tally.spent;
        hold!(
            seen <= spent && (own.tally.gone > 0 || spent == seen),
            "{spent} units of leases are counted as spent, {seen} were seen to be"
        );
    }

    /// A gate that is forgotten leaves nobody behind, and no gauge off its mark.
    pub(crate) fn check_over(&self, index: usize) {
        let own = self.instance(index);
        let mut streams = self.streams.iter();
        let left = streams.find(|(_, own)| own.gate == index && own.phase == Phase::Waiting);
        hold!(
            left.is_none(),
            "stream {:?} still waits",
            left.map(|(id, _)| id)
        );
        let (held, _) = own.gate.pending();
        hold!(
            held == 0,
            "{held} streams are pending in a gate that is forgotten"
        );
        self.check_sums(own, 0, 0);
    }

    pub(crate) fn check_step(&self) {
        let left = self.deferred.first();
        hold!(
            left.is_none(),
            "a change that nothing led to: {left:?}; {:?}",
            self.chains
        );
    }

    /// When all has come to rest, nothing is held any more.
    pub(crate) fn check_end(&mut self) {
        for index in 0..self.gates.len() {
            let own = self.instance(index);
            if own.over {
                continue;
            }
            let pending = own.gate.pending();
            hold!(
                pending == (0, 0),
                "gate {index} holds {pending:?} at the end"
            );
        }
        self.forget_all();
        self.check_local_limits();
        hold!(self.truth >= 2 * SEC, "the world did not come to rest");
    }
}

/// The answer of a live call for this key, if that is what has just come.
fn fresh<'a>(cause: &'a Cause, key: &Key) -> Option<(&'a Check, Ruling)> {
    match cause {
        Cause::End(Some(call), End::Said(said)) if call.check.key == *key => {
            Some((&call.check, said.ruling))
        }
        Cause::Arrival(..) | Cause::End(..) | Cause::Forgotten | Cause::Tick => None,
    }
}

/// What the end of a call means for the one who waits for it: a reason, or the cause of a failure.
fn meaning(
    call: &Call,
    end: &End,
    now: u64,
    truth: u64,
) -> Result<&'static str, Option<&'static str>> {
    let elapsed = now - call.since;
    let late = elapsed + call.head_start + clock_slack(call.timeout) >= call.timeout;
    // By a clock that was set back meanwhile, a call has not had its time.
    let has_clock = elapsed >= truth - call.made;
    Err(Some(match end {
        End::Said(said) => {
            return Ok(match said.ruling {
                Ruling::Allow(_) => "within_quota",
                Ruling::Deny => "quota_exceeded",
                Ruling::Reject(_) => "key_rejected",
            });
        }
        End::Stalled if has_clock => "timeout",
        End::Broken | End::Stalled if late => "timeout",
        End::Broken | End::Stalled => "unreachable",
        End::Foul(200, _) => "bad_reply",
        End::Foul(..) => "status",
        End::Host(504 | 408) => "timeout",
        End::Host(_) => "unreachable",
        End::Refused => "dispatch",
    }))
}
