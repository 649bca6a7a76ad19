//! What requests really used, in worlds that are functions of their seeds: charged = used + held +
//! stated loss, to the unit, whatever becomes of checks, reports, clients and roots.
//!
//! The backend counts what reaches it, whether or not the gate hears of it; a report that comes
//! twice under one id counts once.

use std::collections::BTreeMap;

use quota_gate::config::parse::parse;
use quota_gate::decision::{AllowReason, Outcome};
use quota_gate::gate::bounds::Bounds;
use quota_gate::gate::reply::CallEnd;
use quota_gate::gate::{CallId, Effect, Flow, Gate, Level, Outgoing, Release, StreamId};
use quota_gate::request::PlainRequest;
use quota_gate::response::PlainResponse;
use quota_gate::shared::PlainShared;
use quota_gate::time::Wall;
use quota_gate::wire::RawReply;
use serde_json::{Value, json};

use crate::events::{EPOCH, MS, Random, SEC};
use crate::world::TICK;

/// The policy, as the world itself understands it.
struct Terms {
    json: Value,
    default: u64,
    keeps: bool,
    skips: bool,
}

/// Units that a response may tell; more count as this.
const USE_MAX: u64 = 50;

/// A worker's root and its gate.
struct Root {
    gate: Gate,
    ended: bool,
    /// It has told everything, or has given it up.
    over: bool,
    live: u64,
    /// Calls that the host will tell the end of.
    calls: BTreeMap<u64, i64>,
    metrics: BTreeMap<String, i64>,
}

/// How a call ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Broken,
    Host,
    Refused,
    Said(u16),
}

enum Event {
    Arrive,
    Close(u32),
    End(usize, u64, End),
    Replace,
}

/// What is known when all has come to rest.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Books {
    /// By the backend: checks and reports.
    charged: i64,
    /// By the responses of the requests that are settled.
    used: i64,
    /// Charged by checks whose answer never came.
    lost: i64,
    settled: i64,
}

/// Everything there is.
pub(crate) struct Settled {
    random: Random,
    terms: Terms,
    bounds: Bounds,
    now: u64,
    shared: PlainShared,
    roots: Vec<Root>,
    /// The root at work.
    current: usize,
    events: BTreeMap<(u64, u64), Event>,
    serial: u64,
    /// In progress: the root, and once released whether it is let through, and without a check.
    streams: BTreeMap<u32, (usize, Option<(bool, bool)>)>,
    /// Reports by id: what each said.
    reports: BTreeMap<Vec<u8>, (i64, Vec<u8>)>,
    books: Books,
    faults: u64,
    quiet: bool,
    pub(crate) steps: u64,
    pub(crate) full: u64,
    pub(crate) dropped: i64,
    pub(crate) counted: BTreeMap<String, u64>,
}

impl Settled {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let terms = Terms::new(&mut random);
        let bounds = Bounds {
            batches: *random.pick(&[1, 3, 4096, 4096, 4096]),
            ..Bounds::WORKER
        };
        let mut world = Self {
            faults: *random.pick(&[0, 5, 20, 60]),
            random,
            terms,
            bounds,
            now: EPOCH * SEC,
            shared: PlainShared::default(),
            roots: Vec::new(),
            current: 0,
            events: BTreeMap::new(),
            serial: 0,
            streams: BTreeMap::new(),
            reports: BTreeMap::new(),
            books: Books::default(),
            quiet: false,
            steps: 0,
            full: 0,
            dropped: 0,
            counted: BTreeMap::new(),
        };
        world.start();
        world.plan(MS, Event::Arrive);
        world.plan(200 * MS, Event::Replace);
        world
    }

    fn start(&mut self) {
        let config = parse(self.terms.json.to_string().as_bytes());
        let config = config.unwrap_or_else(|problems| panic!("a bad configuration: {problems}"));
        self.current = self.roots.len();
        self.roots.push(Root {
            gate: Gate::with_bounds(config, self.current as u64, &self.bounds),
            ended: false,
            over: false,
            live: 0,
            calls: BTreeMap::new(),
            metrics: BTreeMap::new(),
        });
    }

    fn plan(&mut self, after: u64, event: Event) {
        self.serial += 1;
        self.events.insert((self.now + after, self.serial), event);
    }

    /// Lets `steps` things happen, then all that is left come to its end.
    pub(crate) fn run(&mut self, steps: u64) {
        while self.steps < steps {
            self.tick();
        }
        self.quiet = true;
        for _ in 0..TICKS_TO_REST {
            self.tick();
        }
        self.check();
    }

    /// What happens until the next tick, and the tick of every root.
    fn tick(&mut self) {
        let next = self.now + TICK;
        while let Some(entry) = self.events.first_entry().filter(|own| own.key().0 <= next) {
            let ((at, _), event) = entry.remove_entry();
            self.now = self.now.max(at);
            self.steps += 1;
            match event {
                Event::Arrive => self.arrive(),
                Event::Close(stream) => self.close(stream),
                Event::End(root, call, end) => self.end(root, call, end),
                Event::Replace => self.replace(),
            }
        }
        self.now = next;
        for index in 0..self.roots.len() {
            let (root, wall) = (&mut self.roots[index], Wall(next));
            match root.ended {
                false => root.gate.handle_tick(wall, &mut self.shared),
                true if root.over => continue,
                true => root.gate.handle_tick_after_end(wall, &mut self.shared),
            }
            self.steps += 1;
            self.carry_out(index);
            let root = &mut self.roots[index];
            root.flush();
            root.over = root.ended && root.gate.is_settled();
        }
    }

    fn arrive(&mut self) {
        if self.quiet {
            return;
        }
        let id = u32::try_from(self.serial).unwrap_or(0);
        let tenant = format!("t{}", self.random.below(4));
        let mut request =
            PlainRequest::new("GET", "api.example.com", "/").with_header("x-tenant-id", &tenant);
        if self.random.percent(10) {
            // Its check may be answered when it is over: nobody has waited for what that charges.
            request = request.with_header("grpc-timeout", "5m");
        }
        let index = self.current;
        let (root, wall) = (&mut self.roots[index], Wall(self.now));
        root.live += 1;
        let shared = &mut self.shared;
        let flow = root
            .gate
            .handle_request(|| wall, StreamId(id), &request, shared);
        self.streams.insert(id, (index, None));
        if let Flow::Release(release) = &flow {
            self.release(id, release);
        }
        self.carry_out(index);
        let stays = self.random.below(150 * MS);
        self.plan(stays, Event::Close(id));
        let pause = match self.random.below(50) {
            0 => self.random.below(2 * SEC),
            _ => self.random.below(8 * MS),
        };
        self.plan(pause, Event::Arrive);
    }

    fn release(&mut self, id: u32, release: &Release) {
        let outcome = release.decision.outcome;
        let unchecked = matches!(
            outcome,
            Outcome::Allow(
                AllowReason::Emergency
                    | AllowReason::FailedLocal
                    | AllowReason::FailedOpen
                    | AllowReason::Stale
            )
        );
        let (_, phase) = self
            .streams
            .get_mut(&id)
            .expect("a stream that nobody knows");
        assert!(phase.is_none(), "stream {id} is released twice");
        *phase = Some((matches!(outcome, Outcome::Allow(_)), unchecked));
    }

    /// A stream ends, with a response that tells of its use, or does not, or with none.
    fn close(&mut self, id: u32) {
        let (index, phase) = self
            .streams
            .remove(&id)
            .expect("a stream that nobody knows");
        let units = self.random.below(USE_MAX + 10);
        let default = self.terms.default;
        let on_error = if self.terms.keeps { default } else { 0 };
        let (response, used) = match self.random.below(10) {
            0 => (PlainResponse::new(503), on_error),
            1 => (PlainResponse::new(200), default),
            _ => (
                PlainResponse::new(200).with_header("x-units", units.to_string()),
                units.min(USE_MAX),
            ),
        };
        let silent = phase.is_none() || self.random.percent(5);
        let (root, wall) = (&mut self.roots[index], Wall(self.now));
        root.live -= 1;
        if !silent {
            root.gate.handle_log(wall, StreamId(id), &response);
        }
        root.gate.handle_close(StreamId(id));
        let used = if silent { on_error } else { used };
        match phase {
            Some((true, unchecked)) if !(unchecked && self.terms.skips) => {
                self.books.used += used as i64;
                self.books.settled += 1;
            }
            Some(_) => {}
            // Its client is gone: what its check comes to is settled at once, and only counted.
            None => *self.counted.entry("gone".to_owned()).or_default() += 1,
        }
        self.carry_out(index);
    }

    fn carry_out(&mut self, index: usize) {
        while let Some(effect) = self.roots[index].gate.poll_effect() {
            match effect {
                Effect::Call(call) => self.call(index, &call),
                Effect::Log(level, line) => assert!(level != Level::Error, "logged: {line}"),
                Effect::Release(stream, release) => self.release(stream.0, &release),
            }
        }
    }

    fn call(&mut self, index: usize, call: &Outgoing) {
        let text = |name: &str| {
            let value = call.message.header(name).unwrap_or_default();
            String::from_utf8(value.to_vec()).expect("a header that is text")
        };
        let units: i64 = text("x-quota-cost").parse().expect("units");
        let is_report = text(":path") == "/report";
        let faulty = !self.quiet && self.random.percent(self.faults);
        let after = self.random.below(u64::from(call.timeout_ms) * MS / 2) + 1;
        let late = u64::from(call.timeout_ms) * MS;
        let fault = match (faulty, self.random.below(40)) {
            (true, 0) => 5,
            (true, other) => [1, 2, 3, 4, 6][other as usize % 5],
            (false, _) => 0,
        };
        let what = if is_report { "report" } else { "check" };
        let what = format!("{what} {}", FAULTS[fault]);
        *self.counted.entry(what).or_default() += 1;
        // A fault, and whether the backend has counted it all the same.
        let (end, counts) = match fault {
            0 => (Some((after, End::Said(200))), true),
            1 => (Some((after, End::Said(503))), false),
            2 => (Some((after, End::Broken)), true),
            3 => (Some((late, End::Host)), true),
            4 => (Some((0, End::Refused)), false),
            5 => (
                Some((after, End::Said(if is_report { 400 } else { 429 }))),
                false,
            ),
            _ => (None, true),
        };
        if is_report {
            let (id, key) = (text("x-quota-settlement-id"), text("x-quota-descriptor"));
            let said = (units, key.into_bytes());
            let known = self.reports.get(id.as_bytes());
            assert!(
                known.is_none_or(|known| *known == said),
                "under one id two things are told: {known:?}, {said:?}"
            );
            if counts && known.is_none() {
                self.books.charged += units;
                self.reports.insert(id.into_bytes(), said);
            }
        } else if counts {
            self.books.charged += units;
            // Until its answer is heard.
            self.books.lost += units;
        }
        let id = call.id.0;
        let heard = if is_report { 0 } else { units };
        self.roots[index].calls.insert(id, heard);
        match end {
            Some((_, End::Refused)) => self.end(index, id, End::Refused),
            Some((after, end)) => self.plan(after, Event::End(index, id, end)),
            None => {}
        }
    }

    fn end(&mut self, index: usize, id: u64, end: End) {
        let (root, wall) = (&mut self.roots[index], Wall(self.now));
        let Some(units) = root.calls.remove(&id) else {
            return;
        };
        let reply = |status| RawReply {
            status,
            headers: &[],
            body: b"",
            now: wall,
        };
        if let End::Said(200) = end {
            self.books.lost -= units;
        }
        let end = match end {
            End::Broken => CallEnd::Broken,
            End::Host => CallEnd::Host(504),
            End::Refused => CallEnd::Refused,
            End::Said(status) => CallEnd::Reply(reply(status)),
        };
        root.gate
            .handle_reply(wall, CallId(id), end, &mut self.shared);
        self.carry_out(index);
    }

    /// A new root takes over. The old one is told its end when its last stream is gone.
    fn replace(&mut self) {
        self.start();
        for index in 0..self.current {
            let (root, wall) = (&mut self.roots[index], Wall(self.now));
            if root.live > 0 || root.over {
                continue;
            }
            if !root.ended {
                root.ended = true;
                // Of what is under way nobody will tell it; the next root hears of what follows.
                root.calls.clear();
                root.gate.handle_end(wall, &mut self.shared);
            } else if self.random.percent(10) {
                // The host itself comes to its end.
                root.over = true;
                root.gate.handle_give_up(wall);
            }
            self.carry_out(index);
            self.roots[index].flush();
        }
        if !self.quiet {
            let after = self.random.between(100 * MS, 3 * SEC);
            self.plan(after, Event::Replace);
        }
    }

    fn check(&mut self) {
        let sum = |what: &str| -> i64 { self.roots.iter().map(|root| root.sum(what)).sum() };
        for (index, root) in self.roots.iter().enumerate() {
            assert!(
                root.gate.is_settled(),
                "root {index} has not told everything: {:?}",
                root.metrics
            );
            assert!(
                root.sum("settlements_pending.") == 0,
                "root {index} leaves the gauge of what waits off its mark: {:?}",
                root.metrics
            );
        }
        let kept = self.roots.iter().filter(|root| root.ended);
        let kept: u64 = kept.map(|root| root.gate.holdings().lease_units).sum();
        assert_eq!(kept, 0, "units are held that nobody can spend any more");
        let results = self
            .roots
            .iter()
            .map(|root| root.sum("settlements."))
            .sum::<i64>();
        let gone = self.counted.get("gone").copied().unwrap_or(0) as i64;
        let (settled, skipped) = (self.books.settled, sum("settlements.").min(results));
        let skips = self.roots.iter().map(Root::skipped).sum::<i64>();
        let told = skipped - skips;
        assert!(
            settled <= told && told <= settled + gone,
            "{told} settlements are counted, {settled} requests were settled, {gone} clients left"
        );
        // A client that left has used what `on_error` says.
        let on_error = if self.terms.keeps {
            self.terms.default as i64
        } else {
            0
        };
        let used = self.books.used + (told - settled) * on_error;
        let held: i64 = self
            .roots
            .iter()
            .map(|root| root.gate.holdings().lease_units as i64)
            .sum();
        let expired = sum("leases.event.expired_units");
        let dropped = sum("settlement_dropped_units.");
        self.dropped = dropped;
        self.full = u64::from(sum("settlement_dropped_units.backend.quota.cause.full") > 0);
        let owed = used + held + expired + self.books.lost;
        let off = self.books.charged - owed;
        assert!(
            off.abs() <= dropped,
            "charged {}, but {owed} = {used} used + {held} held + {expired} expired + {} of lost \
             answers; {dropped} are told as dropped",
            self.books.charged,
            self.books.lost
        );
    }
}

const FAULTS: [&str; 7] = [
    "none",
    "error",
    "broken",
    "hang",
    "refused",
    "no for good",
    "lost",
];

impl Root {
    fn flush(&mut self) {
        let mut changes = Vec::new();
        self.gate
            .flush_metrics(|metric, change| changes.push((metric, change)));
        for (metric, change) in changes {
            let name = metric.name(self.gate.config());
            *self.metrics.entry(name).or_default() += change;
        }
    }

    fn sum(&self, what: &str) -> i64 {
        let prefix = format!("quota_gate.{what}");
        let found = self.metrics.iter();
        let found = found.filter(|(name, _)| name.starts_with(&prefix));
        found.map(|(_, value)| *value).sum()
    }

    fn skipped(&self) -> i64 {
        let found = self.metrics.iter();
        let found =
            found.filter(|(name, _)| name.ends_with("settlements.backend.quota.result.skipped"));
        found.map(|(_, value)| *value).sum()
    }
}

impl Terms {
    fn new(random: &mut Random) -> Self {
        let correct = random.percent(70);
        let cost = random.between(1, 20);
        let (keeps, skips) = (random.percent(40), random.percent(20));
        let default = random.between(0, 30);
        let mut policy = json!({
            "backend": "quota", "timeout": "40ms",
            "failure_mode": random.pick(&["fail_open", "fail_closed"]),
            "descriptor": [{"name": "tenant", "header": "x-tenant-id"}],
            "cache": {"allow_ttl": random.pick(&["0s", "0s", "60ms"]), "deny_ttl": "0s"},
            "settle": {
                "usage": [{"header": "x-units"}], "max": USE_MAX, "default": default,
                "mode": if correct { "correct" } else { "report" },
                "on_error": if keeps { "keep" } else { "release" },
                "unchecked": if skips { "skip" } else { "report" },
                "every": random.pick(&["20ms", "100ms", "1s"]),
                "timeout": random.pick(&["20ms", "200ms"]),
                "retry_for": random.pick(&["0s", "1s", "1h", "1h", "1h", "1h"]),
                "if_unknown": random.pick(&["retry", "retry", "retry", "drop"]),
            },
        });
        if correct {
            policy["cost"] = json!(cost);
        }
        if correct && random.percent(50) {
            policy["lease"] = json!({"max_units": 200, "ttl": random.pick(&["100ms", "1s"])});
        }
        let breaker = match random.percent(50) {
            true => json!("off"),
            false => json!({"consecutive_failures": 3, "open_for": "100ms", "open_for_max": "1s"}),
        };
        let json = json!({
            "backends": {"quota": {"cluster": "quota-backend", "breaker": breaker}},
            "policies": {"gold": policy}, "routes": [], "default_policy": "gold",
            "host_budget": "1s",
        });
        Self {
            json,
            default,
            keeps,
            skips,
        }
    }
}

/// Three minutes: reports that failed for long are told again within seconds.
const TICKS_TO_REST: u32 = 9_000;
