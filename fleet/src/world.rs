//! Workers, their requests, calls and ticks: one run, a function of its setting.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use fastrand::Rng;
use quota_gate::config::Config;
use quota_gate::config::parse::parse;
use quota_gate::decision::{AllowReason, Outcome as Decided};
use quota_gate::gate::reply::CallEnd;
use quota_gate::gate::{CallId, Effect, Flow, Gate, Level, Outgoing, Release, StreamId, TICK};
use quota_gate::request::{Header, Request};
use quota_gate::shared::PlainShared;
use quota_gate::time::Wall;
use quota_gate::wire::RawReply;
use serde_json::{Value, json};

use crate::books::{Answer, Kind};
use crate::bounds;
use crate::measure::Meter;
use crate::setting::{Mode, Outcome, Setting, Told};

/// Runs a setting.
///
/// # Panics
/// The core has refused the configuration, or has let a request wait for ever.
#[must_use]
pub fn run(setting: &Setting) -> Outcome {
    let mut world = World::new(setting);
    world.play();
    world.close()
}

struct World<'a> {
    setting: &'a Setting,
    gates: Vec<Gate>,
    shared: Vec<PlainShared>,
    random: Rng,
    now: u64,
    start: u64,
    end: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    made: u64,
    ticks: u64,
    meters: Vec<Meter>,
    calls: BTreeMap<u64, Call>,
    waiting: BTreeMap<u32, Waiting>,
    streams: u32,
    sums: (u64, u64),
    broken: Vec<String>,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Event {
    /// A key's next request.
    Request(usize),
    /// A call reaches the backend.
    Arrive(u64),
    /// Its reply, or the end of its time, reaches the gate.
    Reply(u64),
    Cut,
}

struct Call {
    gate: usize,
    id: CallId,
    key: usize,
    asked: u64,
    least: u64,
    /// When its time is up.
    until: u64,
    /// When the books had it, and what they said.
    answer: Option<(u64, Answer)>,
}

struct Waiting {
    gate: usize,
    key: usize,
}

/// A request of a key, as far as the configuration looks at it.
struct Asking(String);

impl Request for Asking {
    fn header(&self, name: &str) -> Header<'_> {
        match name {
            ":method" => Header::One(b"GET"),
            ":path" => Header::One(b"/"),
            "x-key" => Header::One(self.0.as_bytes()),
            _ => Header::Missing,
        }
    }

    fn property(&self, _path: &[&str]) -> Option<Vec<u8>> {
        None
    }
}

impl<'a> World<'a> {
    fn new(setting: &'a Setting) -> Self {
        let config = config(setting.mode);
        // A multiple of every window.
        let start = Wall::from_secs(1_800_000_000).0;
        let (warm, measured) = setting.windows;
        let length = (warm + measured) * setting.window * 1_000_000;
        let meter = |key| Meter::new(setting, key, start);
        let mut world = World {
            gates: (0..setting.gates())
                .map(|gate| Gate::new(config.clone(), gate as u64 ^ setting.seed))
                .collect(),
            shared: vec![PlainShared::default(); setting.proxies],
            random: Rng::with_seed(setting.seed),
            now: start,
            start,
            end: start + length,
            events: BinaryHeap::new(),
            made: 0,
            ticks: 0,
            meters: setting.keys.iter().map(meter).collect(),
            calls: BTreeMap::new(),
            waiting: BTreeMap::new(),
            streams: 0,
            sums: (0, 0),
            broken: Vec::new(),
            setting,
        };
        for key in 0..setting.keys.len() {
            world.plan_request(key);
        }
        if let Some(cut) = setting.cut {
            world.plan(start + cut * 1_000_000, Event::Cut);
        }
        world
    }

    fn play(&mut self) {
        let every = u64::try_from(TICK.as_nanos()).unwrap_or(1) * SELDOM;
        loop {
            let next = self.events.peek().map(|Reverse((at, ..))| *at);
            // The workers' ticks are spread evenly over time.
            let tick = self.start + self.ticks * every / self.gates.len() as u64;
            let at = next.map_or(tick, |at| at.min(tick));
            let over = at >= self.end;
            if over && self.waiting.is_empty() && self.calls.is_empty() {
                break;
            }
            assert!(at < self.end + LONGEST, "somebody waits for ever");
            self.now = at;
            if tick == at {
                let gate = (self.ticks % self.gates.len() as u64) as usize;
                self.ticks += 1;
                let shared = &mut self.shared[gate / self.setting.workers];
                self.gates[gate].handle_tick(Wall(at), shared);
                self.drain(gate, None);
            } else if let Some(Reverse((_, _, event))) = self.events.pop() {
                self.step(event, over);
            }
        }
    }

    fn step(&mut self, event: Event, over: bool) {
        match event {
            // Nobody new arrives after the end.
            Event::Request(_) if over => {}
            Event::Request(key) => {
                self.request(key);
                self.plan_request(key);
            }
            Event::Arrive(number) => self.arrive(number),
            Event::Reply(number) => self.reply(number),
            Event::Cut => {
                for meter in &mut self.meters {
                    meter.cut(self.now);
                }
            }
        }
    }

    fn request(&mut self, key: usize) {
        let gate = self.pick(key);
        self.sums.0 += 1;
        self.streams = self.streams.wrapping_add(1);
        let stream = StreamId(self.streams);
        self.meters[key].arrive(self.now, gate);
        let (wall, shared) = (
            Wall(self.now),
            &mut self.shared[gate / self.setting.workers],
        );
        match self.gates[gate].handle_request(|| wall, stream, &Asking(format!("k{key}")), shared) {
            Flow::Release(release) => self.release(gate, key, stream, &release, None),
            Flow::Wait => {
                if self.meters[key].is_measured(self.now) {
                    self.meters[key].outcome.waited += 1;
                }
                self.waiting.insert(stream.0, Waiting { gate, key });
            }
            Flow::Answer(_) => self.broken.push("a request got the status page".to_owned()),
        }
        self.drain(gate, None);
    }

    /// The worker that a key's next request comes to.
    fn pick(&mut self, key: usize) -> usize {
        let Setting {
            spread,
            uneven,
            workers,
            proxies,
            ..
        } = *self.setting;
        let proxy = if uneven && spread >= 4 {
            let busy = spread / 4;
            if self.random.bool() {
                self.random.usize(..busy)
            } else {
                self.random.usize(busy..spread)
            }
        } else {
            self.random.usize(..spread)
        };
        // Keys that don't go everywhere go to neighbours, each to its own.
        (key * spread + proxy) % proxies * workers + self.random.usize(..workers)
    }

    fn drain(&mut self, gate: usize, charged: Option<u64>) {
        while let Some(effect) = self.gates[gate].poll_effect() {
            match effect {
                Effect::Call(outgoing) => self.call(gate, &outgoing),
                Effect::Log(Level::Error, line) => self.broken.push(line),
                Effect::Log(..) => {}
                Effect::Release(stream, release) => {
                    let Some(Waiting { gate: own, key }) = self.waiting.remove(&stream.0) else {
                        self.broken.push("a stream was released twice".to_owned());
                        continue;
                    };
                    debug_assert_eq!(own, gate);
                    self.release(gate, key, stream, &release, charged);
                }
            }
        }
    }

    /// A request's end. The call that answered it was charged at a time of its own; what is paid
    /// from a lease counts when it is spent.
    fn release(
        &mut self,
        gate: usize,
        key: usize,
        stream: StreamId,
        release: &Release,
        charged: Option<u64>,
    ) {
        self.gates[gate].handle_close(stream);
        match release.decision.outcome {
            Decided::Allow(AllowReason::WithinQuota) => {
                self.meters[key].admit(charged.unwrap_or(self.now), gate);
            }
            Decided::Allow(_) => self.meters[key].admit(self.now, gate),
            Decided::Deny(_) => {}
        }
        if let Some(cause) = release.decision.cause {
            self.broken
                .push(format!("a check failed: {}", cause.code()));
        }
    }

    fn call(&mut self, gate: usize, outgoing: &Outgoing) {
        let text = |name: &str| {
            let value = outgoing.message.header(name);
            value.and_then(|value| std::str::from_utf8(value).ok())
        };
        let number = |name: &str| text(name).and_then(|text| text.parse().ok());
        let key = text("x-quota-descriptor").and_then(|text| text.strip_prefix("key=k"));
        let key: usize = key.and_then(|key| key.parse().ok()).unwrap_or(usize::MAX);
        self.sums.1 += 1;
        if self.meters[key].is_measured(self.now) {
            self.meters[key].outcome.calls += 1;
        }
        let timeout = u64::from(outgoing.timeout_ms) * 1_000_000;
        let call = Call {
            gate,
            id: outgoing.id,
            key,
            asked: number("x-quota-cost").unwrap_or(1),
            least: number("x-quota-cost-min").unwrap_or(0),
            until: self.now + timeout,
            answer: None,
        };
        let number = self.sums.1;
        self.calls.insert(number, call);
        let there = self.way();
        self.plan(self.now + there, Event::Arrive(number));
    }

    fn arrive(&mut self, number: u64) {
        let (now, back) = (self.now, self.way());
        let Some(call) = self.calls.get_mut(&number) else {
            return;
        };
        let answer = self.meters[call.key]
            .books
            .take(now, call.asked, call.least);
        call.answer = Some((now, answer));
        let until = call.until;
        self.plan((now + back).min(until), Event::Reply(number));
    }

    fn reply(&mut self, number: u64) {
        let Some(call) = self.calls.remove(&number) else {
            return;
        };
        let (wall, shared) = (
            Wall(self.now),
            &mut self.shared[call.gate / self.setting.workers],
        );
        let gate = &mut self.gates[call.gate];
        let Some((charged, answer)) = call.answer.filter(|_| self.now < call.until) else {
            gate.handle_reply(wall, call.id, CallEnd::Host(504), shared);
            return self.drain(call.gate, None);
        };
        let remaining = answer.remaining.to_string();
        let granted = answer.granted.to_string();
        let mut headers: Vec<(&[u8], &[u8])> =
            vec![(b"x-ratelimit-remaining", remaining.as_bytes())];
        let reset = told(self.setting, answer.reset);
        if let Some(reset) = &reset {
            headers.push((b"x-ratelimit-reset", reset.as_bytes()));
        }
        if call.least > 0 && answer.granted > 0 {
            headers.push((b"x-quota-granted", granted.as_bytes()));
        }
        let reply = RawReply {
            status: if answer.granted > 0 { 200 } else { 429 },
            headers: &headers,
            body: &[],
            now: wall,
        };
        gate.handle_reply(wall, call.id, CallEnd::Reply(reply), shared);
        self.drain(call.gate, Some(charged));
    }

    fn plan_request(&mut self, key: usize) {
        let window = (self.now - self.start) / (self.setting.window * 1_000_000);
        let part = if window % 2 == 1 {
            self.setting.ebb
        } else {
            1.0
        };
        let gap = self.gap(1e9 / (self.setting.keys[key].rate * part));
        self.plan(self.now + gap, Event::Request(key));
    }

    fn plan(&mut self, at: u64, event: Event) {
        self.made += 1;
        self.events.push(Reverse((at, self.made, event)));
    }

    /// The time to the next of events that come independently, `mean` apart.
    fn gap(&mut self, mean: f64) -> u64 {
        let share = 1.0 - self.random.f64();
        (-share.ln() * mean) as u64
    }

    /// One way between a gate and the backend: most of it is always the same.
    fn way(&mut self) -> u64 {
        let half = self.setting.latency * 500;
        half * 3 / 4 + self.gap(half as f64 / 4.0)
    }

    fn close(mut self) -> Outcome {
        let keys: Vec<_> = self.meters.iter_mut().map(Meter::close).collect();
        let mut leases: BTreeMap<String, i64> = BTreeMap::new();
        for gate in &mut self.gates {
            let mut changes = Vec::new();
            gate.flush_metrics(|metric, change| changes.push((metric, change)));
            for (metric, change) in changes {
                let name = metric.name(gate.config());
                if name.starts_with("quota_gate.leases") || name.starts_with("quota_gate.requests")
                {
                    *leases.entry(name).or_default() += change;
                }
            }
        }
        let sum = |part: &str| {
            let found = leases.iter().filter(|(name, _)| name.contains(part));
            found.map(|(_, count)| *count).sum::<i64>()
        };
        let counted = sum("quota_gate.requests");
        if counted != self.sums.0 as i64 {
            let told = format!("{} requests, {counted} counted", self.sums.0);
            self.broken.push(told);
        }
        let share: f64 = self.setting.keys.iter().map(|key| key.share).sum();
        let calls = keys.iter().zip(&self.setting.keys).map(|(key, setting)| {
            key.calls as f64 * 1000.0 / key.requests.max(1) as f64 * setting.share / share
        });
        let mut outcome = Outcome {
            setting: self.setting.clone(),
            calls: calls.sum(),
            expired: sum("expired_units") as f64 / sum("granted_units").max(1) as f64,
            keys,
            sums: self.sums,
            broken: self.broken,
        };
        let broken = bounds::broken(&outcome);
        outcome.broken.extend(broken);
        outcome.broken.sort();
        outcome.broken.dedup();
        outcome
    }
}

/// What the reply says of the window's end, in seconds.
fn told(setting: &Setting, reset: u64) -> Option<String> {
    if setting.books == Kind::Bucket {
        return None;
    }
    match setting.told {
        Told::Exactly => {
            let reset = Duration::from_nanos(reset);
            Some(format!("{}.{:09}", reset.as_secs(), reset.subsec_nanos()))
        }
        Told::InSeconds => Some(reset.div_ceil(1_000_000_000).to_string()),
        Told::Nothing => None,
    }
}

fn config(mode: Mode) -> Config {
    let millis = |ms: u64| format!("{ms}ms");
    let mut policy = json!({
        "backend": "quota",
        "descriptor": [{"name": "key", "header": "x-key"}],
        "failure_mode": "fail_closed",
    });
    match mode {
        Mode::Each => policy["cache"] = json!({"deny_ttl": "0s"}),
        Mode::Denials => {}
        Mode::Allows(ttl) => policy["cache"] = json!({"allow_ttl": millis(ttl)}),
        Mode::Leased { max_units, ttl } => {
            policy["lease"] = json!({"max_units": max_units, "ttl": millis(ttl)});
        }
    }
    let config: Value = json!({
        "backends": {"quota": {"cluster": "quota"}},
        "policies": {"fleet": policy},
        "default_policy": "fleet",
        "host_budget": "1s",
    });
    match parse(config.to_string().as_bytes()) {
        Ok(config) => config,
        Err(problems) => panic!("{problems}"),
    }
}

/// A gate's tick comes so much less often than in a proxy: in a world without failures it only
/// sweeps tables, and four thousand gates that sweep would take most of the time.
const SELDOM: u64 = 5;

/// After the end everybody is out within a timeout and a tick.
const LONGEST: u64 = 5_000_000_000;
