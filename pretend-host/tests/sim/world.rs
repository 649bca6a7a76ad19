//! One seed: a proxy, its backends, clients and an operator; and what must hold after each step.

use std::collections::BTreeMap;

use pretend_host::{
    Fate, Host, Level, LocalReply, MILLISECOND, Module, Options, Random, Stream, StreamId,
};

use crate::config::{CLUSTERS, Config, TIMEOUT_MS_MAX};
use crate::traffic;
use crate::weather::{Mood, Sky};

/// What a run was like, and what it broke.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub(crate) steps: u64,
    pub(crate) outcomes: BTreeMap<String, u64>,
    pub(crate) faults: BTreeMap<String, u64>,
    pub(crate) events: BTreeMap<String, u64>,
    pub(crate) broken: Vec<String>,
    /// Differs wherever two runs differ.
    pub(crate) digest: String,
}

impl Report {
    pub(crate) fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        for (own, others) in [
            (&mut self.outcomes, &other.outcomes),
            (&mut self.faults, &other.faults),
            (&mut self.events, &other.events),
        ] {
            for (what, count) in others {
                *own.entry(what.clone()).or_default() += count;
            }
        }
    }
}

/// What is known of a stream on its way.
struct Expected {
    /// When it must have left, on the clock that does not jump.
    by: u64,
    steered: bool,
    key: Option<String>,
    status_page: bool,
}

pub(crate) struct World<'m> {
    host: Host<'m>,
    sky: Sky,
    random: Random,
    config: Config,
    emergencies: bool,
    expected: BTreeMap<StreamId, Expected>,
    workers: usize,
    tick_late_max: u64,
    sent: u64,
    report: Report,
    tell: bool,
}

impl<'m> World<'m> {
    pub(crate) fn run(module: &'m Module, seed: u64, tell: bool) -> Report {
        let mut random = Random::new(seed.wrapping_mul(0x1_0000_0001));
        let config = Config::random(&mut random);
        let sky = Sky::new(seed);
        let workers = 1 + usize::try_from(random.below(3)).unwrap();
        let tick_late_max = random.below(3) * 3 * MILLISECOND;
        let options = Options {
            workers,
            main_thread: random.per_mille(500),
            seed,
            tick_late_max,
            upstream_after: random.below(20) * MILLISECOND,
            races_per_mille: random.pick(&[0, 0, 20, 300]),
            stop_iteration_only: random.per_mille(200),
            ..Options::default()
        };
        if tell {
            println!("{options:?}\n{}", config.text);
        }
        let host = Host::new(module, config.text.as_bytes(), options, sky.clone());
        let mut world = World {
            host: host.unwrap(),
            sky,
            random,
            emergencies: config.emergency,
            config,
            expected: BTreeMap::new(),
            workers,
            tick_late_max,
            sent: 0,
            report: Report::default(),
            tell,
        };
        for _ in 0..STEPS {
            world.step();
            world.check();
            if !world.report.broken.is_empty() {
                break;
            }
        }
        world.finish()
    }

    fn step(&mut self) {
        self.report.steps += 1;
        match self.random.below(100) {
            0..45 => self.request(1),
            45..48 => self.request(30),
            48..56 => self.disconnect(),
            56..58 => self.host_timeout(),
            58..84 => {
                let span = self.random.below(30 * MILLISECOND);
                self.host.run_for(span);
            }
            84..86 => self.host.run_for(500 * MILLISECOND),
            86..88 => self.jump(),
            88..90 => self.push(),
            _ => {
                let cluster = self.random.pick(&CLUSTERS);
                let mood = Sky::any_mood(&mut self.random);
                self.told("mood", &format!("{cluster} {mood:?}"));
                self.sky.set(cluster, mood);
            }
        }
    }

    fn request(&mut self, count: u64) {
        let sent = traffic::random(&mut self.random, &self.config);
        for _ in 0..count {
            self.sent += 1;
            let worker = usize::try_from(self.random.below(self.workers as u64)).unwrap();
            let id = self.host.request(worker, &sent.request);
            let timeout = match sent.policy {
                Some(index) if !sent.steered => self.config.timeouts_ms[index],
                _ => TIMEOUT_MS_MAX,
            };
            let by = self.host.now() + timeout * MILLISECOND + self.tick();
            let expected = Expected {
                by,
                steered: sent.steered,
                key: sent.key.clone(),
                status_page: sent.status_page,
            };
            self.expected.insert(id, expected);
        }
    }

    fn disconnect(&mut self) {
        let held: Vec<StreamId> = self.host.streams().map(|stream| stream.id).collect();
        if !held.is_empty() {
            let id = self.random.pick(&held);
            self.told("disconnect", "");
            self.host.disconnect(id);
        }
    }

    fn host_timeout(&mut self) {
        let held: Vec<StreamId> = self.host.held().map(|stream| stream.id).collect();
        if !held.is_empty() {
            let id = self.random.pick(&held);
            self.told("host timeout", "");
            self.host.time_out(id);
        }
    }

    /// A clock set back hides the time since the last look at it: at most one tick, which the
    /// streams on their way may then be late.
    fn jump(&mut self) {
        let most = self.random.pick(&[5, 1000, 3_600_000]);
        let ahead = i64::try_from(self.random.below(most * MILLISECOND)).unwrap();
        let back = self.random.per_mille(500);
        self.told(
            if back {
                "clock set back"
            } else {
                "clock set ahead"
            },
            &ahead.to_string(),
        );
        self.host.jump(if back { -ahead } else { ahead });
        if back {
            let tick = self.tick();
            for expected in self.expected.values_mut() {
                expected.by += tick;
            }
        }
    }

    fn push(&mut self) {
        if self.random.per_mille(250) {
            let text = Config::broken(&mut self.random);
            let refused = self.host.push(text.as_bytes(), 0);
            self.told("configuration refused", "");
            let lines = refused.err().map(|refused| refused.0);
            if lines.as_ref().is_none_or(Vec::is_empty) {
                self.broken(format!("a broken configuration was not refused: {text}"));
            }
            // Its error lines are in order; that they hold no secret is checked here.
            for line in lines.unwrap_or_default() {
                self.no_secret("a refused configuration's line", line.as_bytes());
            }
            self.host.take_log();
        } else {
            let config = Config::random(&mut self.random);
            self.told("configuration pushed", &config.text);
            self.emergencies |= config.emergency;
            if let Err(refused) = self.host.push(config.text.as_bytes(), 0) {
                self.broken(format!("a configuration was refused: {:?}", refused.0));
            }
            self.config = config;
        }
    }

    /// What must hold after each step.
    fn check(&mut self) {
        let now = self.host.now();
        let late: Vec<StreamId> = self
            .host
            .held()
            .filter(|stream| {
                self.expected
                    .get(&stream.id)
                    .is_none_or(|known| known.by < now)
            })
            .map(|stream| stream.id)
            .collect();
        for id in late {
            self.broken(format!("{id:?} is held beyond its deadline and a tick"));
        }
        for stream in self.host.take_ended() {
            match self.expected.remove(&stream.id) {
                Some(expected) => self.judge(&stream, &expected),
                None => self.broken(format!("{:?} has ended twice", stream.id)),
            }
        }
        for line in self.host.take_log() {
            if self.tell {
                println!(
                    "{:>12} worker {} {:?}: {}",
                    line.at, line.worker, line.level, line.text
                );
            }
            if line.level >= Level::Error {
                self.broken(format!("an error in the log: {}", line.text));
            }
            self.no_secret("a log line", line.text.as_bytes());
            self.report.digest.push_str(&line.text);
        }
        for broken in self.host.traps().into_iter().chain(self.host.complaints()) {
            self.broken(broken);
        }
    }

    /// One decision, one reason, one word for it everywhere; and nobody passes who must not.
    fn judge(&mut self, stream: &Stream, expected: &Expected) {
        let note = stream.note("quota_gate");
        if self.tell {
            println!(
                "{:>12} {:?} {note} {:?}",
                self.host.now(),
                stream.id,
                stream.held()
            );
        }
        let word = |label: &str| {
            let mut words = note.split(' ');
            words
                .find_map(|word| word.strip_prefix(label)?.strip_prefix('='))
                .unwrap_or_default()
        };
        let (reason, policy) = (word("reason").to_owned(), word("policy").to_owned());
        if stream
            .released
            .is_some_and(|released| released > expected.by)
        {
            self.broken(format!("{:?} was released late: {note}", stream.id));
        }
        self.no_secret("the access log", note.as_bytes());
        match &stream.fate {
            Some(Fate::Upstream) => {
                self.count(format!("allow {reason}"));
                let told: Vec<&[u8]> = stream.request.values("x-quota-decision").collect();
                if told != [format!("allow; reason={reason}").as_bytes()] {
                    self.broken(format!("the upstream is told {told:?}, the log {note}"));
                }
                self.judge_passage(stream, expected, &reason, &policy);
            }
            Some(Fate::Answered(reply)) => {
                self.judge_answer(reply, expected, &note, &reason, &policy);
            }
            fate => self.count(format!("{fate:?}").to_lowercase()),
        }
    }

    fn judge_answer(
        &mut self,
        reply: &LocalReply,
        expected: &Expected,
        note: &str,
        reason: &str,
        policy: &str,
    ) {
        self.no_secret("a reply's body", &reply.body);
        for (_, value) in reply.headers.iter() {
            let value = value.to_vec();
            let own = expected.key.is_some() || !value.starts_with(b"https://");
            if own {
                self.no_secret("a reply's header", &value);
            }
        }
        if expected.status_page {
            self.count("status page".into());
            return;
        }
        self.count(format!("deny {reason}"));
        if reply.details != format!("quota_gate_{reason}") || !note.starts_with("deny ") {
            self.broken(format!(
                "answered with {}, the log says {note}",
                reply.details
            ));
        }
        let mode = policy.rsplit('_').next().unwrap_or_default();
        let allowed = match reason {
            "quota_exceeded" | "key_rejected" | "descriptor_missing" => true,
            "local_exceeded" => mode == "local" || expected.steered,
            "quota_unavailable" => mode == "closed" || expected.steered,
            _ => false,
        };
        if !allowed {
            self.broken(format!("denied by {note}"));
        }
    }

    /// A fail-closed policy lets nobody pass without a yes of the backend for that key.
    fn judge_passage(&mut self, stream: &Stream, expected: &Expected, reason: &str, policy: &str) {
        let mode = policy.rsplit('_').next().unwrap_or_default();
        let allowed = match reason {
            "within_quota" | "leased" | "cached" | "stale" => {
                let weather = self.sky.0.borrow();
                expected
                    .key
                    .as_ref()
                    .is_none_or(|key| weather.allowed.contains(key))
            }
            "bypassed" | "shadow" => true,
            "emergency" => self.emergencies,
            "failed_local" => mode == "local" || expected.steered,
            "failed_open" => mode == "open" || expected.steered,
            _ => false,
        };
        if !allowed {
            self.broken(format!("{:?} passed: {reason} of {policy}", stream.id));
        }
    }

    /// Silence for a while: everybody leaves, and what was counted is what was sent.
    fn finish(mut self) -> Report {
        for cluster in CLUSTERS {
            self.sky.set(cluster, Mood::Silent);
        }
        // Long enough that every root which a push has replaced is found silent, and flushed: a second
        // for each of them, of ticks that may be late.
        for _ in 0..FAREWELL_TICKS {
            self.host.run_for(20 * MILLISECOND);
            self.check();
        }
        let held = self.host.held().count();
        if held > 0 || !self.expected.is_empty() {
            self.broken(format!("{held} streams are still held at the end"));
        }
        let names: Vec<String> = self.host.metrics().names().map(str::to_owned).collect();
        for name in names {
            self.no_secret("a metric's name", name.as_bytes());
        }
        let (counted, pending, states) = {
            let metrics = self.host.metrics();
            let gauges = |prefix| {
                let all = metrics.gauges.iter();
                all.filter(move |(name, _)| name.starts_with(prefix))
                    .map(|(_, value)| *value)
            };
            let states = gauges("quota_gate.breaker_state.").max().unwrap_or(0);
            let pending: u64 = gauges("quota_gate.pending.").fold(0, u64::wrapping_add);
            (
                metrics.counters_sum("quota_gate.requests."),
                pending,
                states,
            )
        };
        if counted != self.sent {
            self.broken(format!(
                "{counted} requests are counted, {} were sent",
                self.sent
            ));
        }
        let reasons: Vec<String> = self.report.outcomes.keys().cloned().collect();
        for outcome in reasons {
            self.counted_under_its_reason(&outcome);
        }
        if pending != 0 {
            self.broken(format!("{pending} callouts count as pending at the end"));
        }
        if states > 2 {
            self.broken(format!("a breaker's state is {states}"));
        }
        if self.host.shared_names() > SHARED_NAMES_MAX {
            self.broken(format!(
                "{} names in the shared data",
                self.host.shared_names()
            ));
        }
        for worker in 0..self.workers {
            if self.host.roots(worker) != 1 {
                self.broken(format!("worker {worker} keeps replaced roots"));
            }
            let fuel = self.host.costs(worker).fuel();
            self.report.digest.push_str(&format!(" {fuel}"));
        }
        self.report
            .digest
            .push_str(&format!("{:?}", self.host.metrics()));
        self.report.faults = self.sky.0.borrow().faults.clone();
        self.report
    }

    /// Clients that left may have had it, too; nobody else.
    fn counted_under_its_reason(&mut self, outcome: &str) {
        let Some((decision, reason)) = outcome.split_once(' ') else {
            return;
        };
        let end = format!(".decision.{decision}.reason.{reason}");
        let seen = self.report.outcomes[outcome];
        let counted: u64 = {
            let metrics = self.host.metrics();
            let own = metrics
                .counters
                .iter()
                .filter(|(name, _)| name.ends_with(&end));
            own.map(|(_, count)| *count).sum()
        };
        if ["allow", "deny"].contains(&decision) && counted < seen {
            self.broken(format!(
                "{seen} were seen to {outcome}, {counted} are counted"
            ));
        }
    }

    /// The longest time from one tick to the next.
    const fn tick(&self) -> u64 {
        20 * MILLISECOND + self.tick_late_max
    }

    fn no_secret(&mut self, what: &str, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        if text.contains("SECRET") {
            self.broken(format!("{what} holds a secret: {text}"));
        }
    }

    fn broken(&mut self, what: String) {
        self.report.broken.push(what);
    }

    fn count(&mut self, outcome: String) {
        *self.report.outcomes.entry(outcome).or_default() += 1;
    }

    fn told(&mut self, event: &str, more: &str) {
        *self.report.events.entry(event.to_owned()).or_default() += 1;
        if self.tell {
            println!("{:>12} {event} {more}", self.host.now());
        }
    }
}

/// Long enough for every kind of event to meet every other.
const STEPS: u64 = 400;

/// Two breakers under every settings that were pushed, and 1,024 slots of local limits.
const SHARED_NAMES_MAX: usize = 1500;

/// Far more than the pushes of a world, of 50 ticks each.
const FAREWELL_TICKS: u32 = 1_000;
