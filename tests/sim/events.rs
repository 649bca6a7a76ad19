//! What may happen in a simulated world: seeded numbers, configurations, requests, and faults.

use std::rc::Rc;

use quota_gate::gate::bounds::Bounds;
use quota_gate::metadata;
use quota_gate::request::PlainRequest;
use serde_json::{Value, json};

use crate::tables;

pub(crate) const MS: u64 = 1_000_000;
pub(crate) const SEC: u64 = 1_000 * MS;

/// What must never be seen in a log line, a metric or an answer.
pub(crate) const TENANT_MARK: &str = "s3cr3t";
pub(crate) const TOKEN_MARK: &str = "t0k3n";

/// Numbers that are a function of their seed (SplitMix64), or are read off a tape while it lasts.
#[derive(Clone, Debug)]
pub(crate) struct Random {
    state: u64,
    /// In reverse: the next byte is the last one.
    tape: Vec<u8>,
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            state: seed.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(1),
            tape: Vec::new(),
        }
    }

    /// Every choice is read off the bytes, one or two for each, so that whoever changes a byte
    /// changes one choice.
    #[cfg(fuzzing)]
    pub(crate) fn of_tape(bytes: &[u8]) -> Self {
        Self {
            tape: bytes.iter().rev().copied().collect(),
            ..Self::new(0)
        }
    }

    /// Whether nothing is left of the tape.
    #[cfg(fuzzing)]
    pub(crate) const fn is_over(&self) -> bool {
        self.tape.is_empty()
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        if let Some(low) = self.tape.pop() {
            let high = match bound > 0x100 {
                true => self.tape.pop().unwrap_or(0),
                false => 0,
            };
            let value = u64::from(u16::from_le_bytes([low, high]));
            if bound <= 0x1_0000 {
                return value % bound.max(1);
            }
            return ((u128::from(value) * u128::from(bound)) >> 16) as u64;
        }
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.state;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^= value >> 31;
        if bound == 0 { 0 } else { value % bound }
    }

    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    pub(crate) fn percent(&mut self, times: u64) -> bool {
        self.below(100) < times
    }

    pub(crate) fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len() as u64) as usize]
    }
}

/// How the system's clock behaves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Weather {
    /// It runs as it should.
    Calm,
    /// Each callback reads it a little early or late.
    Jitter,
    /// It is set, forward and back, by milliseconds or by hours.
    Jumps,
}

/// What a seed's world is like as a whole.
#[derive(Clone, Debug)]
pub(crate) struct Nature {
    pub(crate) workers: usize,
    pub(crate) weather: Weather,
    /// No cache, no lease, no breaker: each decision is known beforehand.
    pub(crate) simple: bool,
    /// Percent of the writes to shared data that another worker comes before.
    pub(crate) races: u64,
    /// The host takes no writes at all.
    pub(crate) refuses_writes: bool,
    /// Nanoseconds between two requests, on average.
    pub(crate) gap: u64,
    /// Percent of the clients that leave while they wait.
    pub(crate) impatience: u64,
    pub(crate) pushes: bool,
    /// Nearly every request is of one key.
    hot: bool,
    /// No cached yes and no joined check in any configuration of this world.
    pub(crate) unshared: bool,
    /// The tables hold a few entries, and routes speak by their metadata.
    pub(crate) few: bool,
    pub(crate) bounds: Bounds,
}

impl Nature {
    pub(crate) fn new(random: &mut Random, few: bool) -> Self {
        let bounds = match few {
            true => tables::few(random),
            false => Bounds::WORKER,
        };
        let weathers = [
            Weather::Calm,
            Weather::Calm,
            Weather::Jitter,
            Weather::Jumps,
        ];
        Self {
            workers: random.between(1, 4) as usize,
            weather: *random.pick(&weathers),
            simple: random.percent(25),
            races: *random.pick(&[0, 0, 10, 40]),
            refuses_writes: random.percent(5),
            gap: *random.pick(&[MS / 5, MS, 4 * MS, 20 * MS]),
            impatience: *random.pick(&[0, 5, 30]),
            pushes: random.percent(50),
            hot: random.percent(30),
            unshared: random.percent(50),
            few,
            bounds,
        }
    }
}

/// What becomes of a request whose check has no answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Mode {
    Closed,
    Local,
    Open,
}

impl Mode {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Closed => "fail_closed",
            Self::Local => "fail_local",
            Self::Open => "fail_open",
        }
    }

    fn random(random: &mut Random) -> Self {
        *random.pick(&[
            Self::Closed,
            Self::Closed,
            Self::Closed,
            Self::Local,
            Self::Open,
        ])
    }
}

/// A policy, as the world itself understands it; times are in nanoseconds.
#[derive(Clone, Debug)]
pub(crate) struct PolicyFacts {
    pub(crate) name: String,
    pub(crate) backend: String,
    pub(crate) mode: Mode,
    pub(crate) timeout: u64,
    pub(crate) allow_ttl: u64,
    pub(crate) deny_ttl: u64,
    pub(crate) rejected_ttl: u64,
    pub(crate) stale: u64,
    /// Units held at most, and for how long.
    pub(crate) lease: Option<(u64, u64)>,
    pub(crate) shadow: bool,
    pub(crate) missing_allows: bool,
    /// The cost, or the default and the maximum of what a header says.
    pub(crate) cost: (Option<u64>, u64, u64),
    /// Units, their time, and the burst.
    pub(crate) local: (u64, u64, u64),
    pub(crate) mode_header: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct BackendFacts {
    pub(crate) name: String,
    pub(crate) max_pending: u64,
    /// The settings as text, and the trial calls.
    pub(crate) breaker: Option<(String, u64)>,
}

/// One way into the filter: what a path leads to.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    pub(crate) path: String,
    /// What the matched route says of itself.
    pub(crate) metadata: Option<Vec<u8>>,
    /// `None` for no check at all.
    pub(crate) policy: Option<Rc<PolicyFacts>>,
}

#[derive(Clone, Debug)]
pub(crate) struct EmergencyFacts {
    pub(crate) bypass: bool,
    pub(crate) until: u64,
}

/// A configuration and what it means.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) json: Value,
    pub(crate) backends: Vec<BackendFacts>,
    pub(crate) ways: Vec<Way>,
    pub(crate) emergency: Option<EmergencyFacts>,
    pub(crate) lease_units_max: u64,
    /// Nearly every request is of one key.
    hot: bool,
}

fn ms(nanos: u64) -> String {
    format!("{}ms", nanos / MS)
}

/// The second at which every world begins.
pub(crate) const EPOCH: u64 = 1_800_000_000;

impl Setup {
    /// A configuration for a world of this nature, `wall` being the time by its clock. The local
    /// limits are those of the world: a push must not change what the process has booked.
    pub(crate) fn new(random: &mut Random, nature: &Nature, wall: u64) -> Self {
        let backends: Vec<BackendFacts> = (0..random.between(1, 2))
            .map(|index| backend(random, nature, index))
            .collect();
        let names: Vec<String> = backends.iter().map(|own| own.name.clone()).collect();
        let policies: Vec<PolicyFacts> = (0..random.between(1, 3))
            .map(|index| policy(random, nature, index, &names))
            .collect();
        let mut ways = vec![Way::plain("/off", None)];
        let mut routes = vec![json!({"match": {"path_prefix": "/off"}, "policy": "off"})];
        for own in &policies {
            let mut other = own.clone();
            other.mode = Mode::random(random);
            other.timeout = random.between(1, 200) * MS;
            let (plain, changed) = (format!("/{}/a", own.name), format!("/{}/b", own.name));
            routes.push(
                json!({"match": {"path_prefix": changed}, "policy": own.name,
                "override": {"failure_mode": other.mode.word(), "timeout": ms(other.timeout)}}),
            );
            routes.push(json!({"match": {"path_prefix": plain}, "policy": own.name}));
            ways.push(Way::plain(&plain, Some(own)));
            ways.push(Way::plain(&changed, Some(&other)));
        }
        if nature.few {
            let mut own = policies.iter().flat_map(|own| by_metadata(random, own));
            ways.extend(own.by_ref());
            // A name that means nothing leads to the default policy, wherever the path leads.
            let nobody = tables::metadata(&[("policy", "nobody")]);
            ways.push(Way::plain("/off", Some(&policies[0])).with(nobody));
        }
        let emergency = emergency(random, wall);
        let mut json = json!({
            "backends": {}, "policies": {}, "routes": routes,
            "default_policy": policies[0].name, "host_budget": "1s",
            "status_path": "/-/quota-gate",
        });
        for own in &backends {
            json["backends"][&own.name] = own.json();
        }
        for own in &policies {
            json["policies"][&own.name] = own.json();
        }
        if let Some(own) = &emergency {
            let until = quota_gate::time::rfc3339(quota_gate::time::Wall(own.until));
            let mode = if own.bypass { "bypass" } else { "fail_open" };
            json["emergency"] = json!({"mode": mode, "until": until, "reason": "INC-1"});
        }
        let held = |own: &PolicyFacts| own.lease.map_or(0, |(units, _)| units);
        Self {
            hot: nature.hot,
            lease_units_max: policies.iter().map(held).max().unwrap_or(0),
            json,
            backends,
            ways,
            emergency,
        }
    }

    pub(crate) fn backend(&self, name: &str) -> &BackendFacts {
        let found = self.backends.iter().find(|own| own.name == name);
        found.expect("a backend that the configuration does not have")
    }

    /// The emergency in force at a reading of the clock: `Some(true)` for one that bypasses.
    pub(crate) fn emergency_at(&self, wall: u64) -> Option<bool> {
        let active = self.emergency.as_ref().filter(|own| wall < own.until);
        active.map(|own| own.bypass)
    }
}

impl Way {
    fn plain(path: &str, policy: Option<&PolicyFacts>) -> Self {
        Self {
            path: path.to_owned(),
            metadata: None,
            policy: policy.map(|own| Rc::new(own.clone())),
        }
    }

    fn with(mut self, metadata: Vec<u8>) -> Self {
        self.metadata = Some(metadata);
        self
    }
}

/// The ways to a policy of routes that name it, change it, or turn away from it.
fn by_metadata(random: &mut Random, own: &PolicyFacts) -> [Way; 4] {
    let path = format!("/{}/a", own.name);
    let mut other = own.clone();
    other.mode = Mode::random(random);
    other.timeout = random.between(1, 200) * MS;
    let terms = [
        ("failure_mode", other.mode.word()),
        ("timeout", &ms(other.timeout)),
    ];
    let mut shadow = own.clone();
    shadow.shadow = true;
    [
        Way::plain("/off", Some(own)).with(tables::metadata(&[("policy", &own.name)])),
        Way::plain(&path, Some(&other)).with(tables::metadata(&terms)),
        Way::plain(&path, Some(&shadow)).with(tables::metadata(&[("enforcement", "shadow")])),
        Way::plain(&path, None).with(tables::metadata(&[("policy", "off")])),
    ]
}

fn emergency(random: &mut Random, wall: u64) -> Option<EmergencyFacts> {
    random.percent(15).then(|| EmergencyFacts {
        bypass: random.percent(30),
        until: (wall / SEC + random.between(0, 3)) * SEC,
    })
}

fn backend(random: &mut Random, nature: &Nature, index: u64) -> BackendFacts {
    let breaker = (!nature.simple && random.percent(60)).then(|| {
        let trials = random.between(1, 3);
        let settings = json!({
            "consecutive_failures": random.pick(&[1, 2, 5, 10_000]),
            "failure_rate": random.pick(&[0.1, 0.5, 1.0]), "min_calls": random.pick(&[3, 20]),
            "window": "1s", "open_for": random.pick(&["50ms", "100ms", "400ms"]),
            "open_for_max": random.pick(&["400ms", "1s"]), "half_open_calls": trials,
        });
        (settings.to_string(), trials)
    });
    BackendFacts {
        name: format!("quota{index}"),
        max_pending: *random.pick(&[1, 2, 8, 1024]),
        breaker,
    }
}

impl BackendFacts {
    fn json(&self) -> Value {
        let breaker = match &self.breaker {
            Some((settings, _)) => serde_json::from_str(settings).unwrap(),
            None => json!("off"),
        };
        json!({
            "cluster": format!("{}-cluster", self.name), "max_pending": self.max_pending,
            "headers": {"authorization": format!("Bearer {TOKEN_MARK}")}, "breaker": breaker,
        })
    }
}

fn policy(random: &mut Random, nature: &Nature, index: u64, backends: &[String]) -> PolicyFacts {
    let ttls = [0, 0, 60 * MS, SEC];
    let ttl = |random: &mut Random| match nature.simple {
        true => 0,
        false => *random.pick(&ttls),
    };
    let allow_ttl = ttl(random);
    let max = *random.pick(&[1, 3, 20]);
    PolicyFacts {
        name: format!("policy{index}"),
        backend: random.pick(backends).clone(),
        mode: Mode::random(random),
        timeout: *random.pick(&[MS, 5 * MS, 40 * MS, 80 * MS, 300 * MS]),
        allow_ttl: if nature.unshared { 0 } else { allow_ttl },
        deny_ttl: ttl(random),
        rejected_ttl: ttl(random),
        stale: if random.percent(50) { 0 } else { ttl(random) },
        lease: (!nature.simple && random.percent(45)).then(|| {
            let units = *random.pick(&[1, 5, 50, 500]);
            (units, *random.pick(&[50 * MS, 200 * MS, SEC]))
        }),
        shadow: random.percent(8),
        missing_allows: random.percent(20),
        cost: match random.below(3) {
            0 => (None, random.between(0, max), max),
            _ => (Some(random.between(0, 2)), 0, 0),
        },
        local: (2 + index, 100 * MS, 3 + index),
        mode_header: random.percent(20),
    }
}

impl PolicyFacts {
    fn json(&self) -> Value {
        let (fixed, default, max) = self.cost;
        let cost = match fixed {
            Some(units) => json!(units),
            None => json!({"header": "x-cost", "default": default, "max": max}),
        };
        let (units, per, burst) = self.local;
        let mut json = json!({
            "backend": self.backend, "failure_mode": self.mode.word(),
            "timeout": ms(self.timeout), "cost": cost,
            "descriptor": [{"name": "tenant", "header": "x-tenant-id"}],
            "local_limit": {"units": units, "per": ms(per), "burst": burst},
            "cache": {
                "allow_ttl": ms(self.allow_ttl), "deny_ttl": ms(self.deny_ttl),
                "rejected_ttl": ms(self.rejected_ttl), "stale_if_error": ms(self.stale),
            },
            "enforcement": if self.shadow { "shadow" } else { "enforce" },
            "on_missing": if self.missing_allows { "allow" } else { "deny" },
            "denial": {"cors": {"allow_origins": ["https://app.example"]}},
        });
        if let Some((units, ttl)) = self.lease {
            json["lease"] = json!({"max_units": units, "ttl": ms(ttl)});
        }
        if self.mode_header {
            json["failure_mode_header"] = json!({"name": "x-mode", "trust": "internal"});
        }
        json
    }
}

/// A request, and what the world knows of it without asking the gate.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) plain: PlainRequest,
    /// For the trace.
    pub(crate) told: String,
    pub(crate) way: Way,
    pub(crate) status_page: bool,
    pub(crate) preflight: bool,
    pub(crate) tenant: Option<String>,
    pub(crate) cost: u64,
    pub(crate) mode: Mode,
    /// How long it may wait, in nanoseconds.
    pub(crate) wait: u64,
}

impl Asked {
    pub(crate) fn new(random: &mut Random, setup: &Setup, serial: u64) -> Self {
        let way = random.pick(&setup.ways).clone();
        let preflight = random.percent(2);
        let status_page = !preflight && random.percent(1);
        let method = if preflight { "OPTIONS" } else { "GET" };
        let path = if status_page {
            "/-/quota-gate"
        } else {
            &way.path
        };
        let plain = PlainRequest::new(method, "api.example.com", path)
            .with_header("x-request-id", format!("req-{serial}"));
        let plain = match &way.metadata {
            Some(bytes) => plain.with_property(metadata::PROPERTY, bytes),
            None => plain,
        };
        let mut asked = Self {
            told: match &way.metadata {
                Some(bytes) => format!("{method} {path} with {}", bytes.escape_ascii()),
                None => format!("{method} {path}"),
            },
            plain,
            status_page,
            preflight,
            tenant: None,
            cost: 0,
            mode: Mode::Closed,
            wait: 0,
            way,
        };
        if preflight {
            asked.add("origin", "https://app.example");
            asked.add("access-control-request-method", "PUT");
        } else if random.percent(10) {
            let known = random.percent(50);
            asked.add("origin", if known { "https://app.example" } else { "null" });
        }
        if random.percent(10) {
            asked.add("content-type", "application/grpc");
        }
        asked.choose_tenant(random, setup.hot, serial);
        if let Some(policy) = asked.way.policy.clone() {
            asked.choose_terms(random, &policy);
        }
        asked
    }

    fn add(&mut self, name: &str, value: &str) {
        let plain = std::mem::take(&mut self.plain);
        self.plain = plain.with_header(name, value);
        self.told.push_str(&format!(", {name}: {value}"));
    }

    /// A hot key, a handful of others, or one that never comes back; sometimes none that counts.
    fn choose_tenant(&mut self, random: &mut Random, hot: bool, serial: u64) {
        let kind = if hot {
            2 + random.below(9)
        } else {
            random.below(20)
        };
        let tenant = match kind {
            0 => return,
            1 => {
                self.add("x-tenant-id", &format!("{TENANT_MARK}-twice"));
                self.add("x-tenant-id", &format!("{TENANT_MARK}-twice"));
                return;
            }
            2..=10 => format!("{TENANT_MARK}-hot"),
            11..=16 => format!("{TENANT_MARK}-{}", random.below(6)),
            17 => format!("{TENANT_MARK}-bad{}", random.below(2)),
            _ => format!("{TENANT_MARK}-once-{serial}"),
        };
        self.add("x-tenant-id", &tenant);
        self.tenant = Some(tenant);
    }

    fn choose_terms(&mut self, random: &mut Random, policy: &PolicyFacts) {
        let (fixed, default, max) = policy.cost;
        self.cost = fixed.unwrap_or(default);
        if fixed.is_none() && random.percent(60) {
            let units = random.between(0, max * 2);
            self.add("x-cost", &units.to_string());
            self.cost = units.min(max);
        } else if random.percent(5) {
            self.add("x-cost", "-7x");
        }
        let internal = random.percent(15);
        if internal {
            self.add("x-envoy-internal", "true");
        }
        self.mode = policy.mode;
        if random.percent(15) {
            let mode = Mode::random(random);
            self.add("x-mode", mode.word());
            if internal && policy.mode_header {
                self.mode = mode;
            }
        }
        self.wait = policy.timeout;
        let (text, nanos) = *random.pick(&[
            ("30m", 30 * MS),
            ("5m", 5 * MS),
            ("1500u", 1_500_000),
            ("999u", 999_000),
            ("0m", 0),
            ("10S", 10 * SEC),
            ("what", u64::MAX),
        ]);
        if random.percent(10) {
            self.add("grpc-timeout", text);
            self.wait = self.wait.min(nanos);
        }
        if random.percent(10) {
            let millis = random.between(0, 60);
            self.add("x-envoy-expected-rq-timeout-ms", &millis.to_string());
            if internal {
                self.wait = self.wait.min(millis * MS);
            }
        }
    }
}

/// What goes wrong with a call.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Fault {
    Broken,
    Doubled,
    ErrorStatus,
    Garbage,
    Hang,
    HostStatus,
    Late,
    Lost,
    None,
    Refused,
    Slow,
}

impl Fault {
    const ALL: [Self; 10] = [
        Self::Broken,
        Self::Doubled,
        Self::ErrorStatus,
        Self::Garbage,
        Self::Hang,
        Self::HostStatus,
        Self::Late,
        Self::Lost,
        Self::Refused,
        Self::Slow,
    ];
}

/// How a backend is, for a while.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mood {
    fault: Fault,
    percent: u64,
    /// Any fault, not just the one.
    mixed: bool,
}

impl Mood {
    pub(crate) const WELL: Self = Self {
        fault: Fault::None,
        percent: 0,
        mixed: false,
    };

    pub(crate) fn random(random: &mut Random) -> Self {
        Self {
            fault: *random.pick(&Fault::ALL),
            percent: *random.pick(&[0, 0, 20, 60, 100]),
            mixed: random.percent(40),
        }
    }

    pub(crate) fn fault(self, random: &mut Random) -> Fault {
        match random.percent(self.percent) {
            false => Fault::None,
            true if self.mixed => *random.pick(&Fault::ALL),
            true => self.fault,
        }
    }
}
