//! What each way of a request costs in the shipped module, held to `costs.json`: instructions and
//! calls to the host, counted exactly, in steady state.
//!
//! It fails when a figure has grown by more than a tenth. Where that is meant, or a figure has
//! fallen, `QUOTA_GATE_BLESS=1` writes the table anew.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use pretend_host::{
    Call, Costs, End, Ending, Headers, Host, MILLISECOND, Module, Options, Request,
};
use serde_json::{Map, Value, json};

const COMMAND: &str = "cargo xtask test costs";

#[test]
fn no_way_of_a_request_has_become_dearer() {
    let module = Module::from_env(COMMAND).unwrap();
    let measured = measure(&module);

    println!("{}", table(&measured));
    if std::env::var_os("QUOTA_GATE_BLESS").is_some() {
        fs::write(file(), to_json(&measured)).unwrap();
        println!("pretend-host/costs.json is rewritten");
    }
    let committed = read();
    let findings = findings(&measured, &committed);

    assert!(
        findings.is_empty(),
        "{}\nif that is meant, run: QUOTA_GATE_BLESS=1 {COMMAND}",
        findings.join("\n")
    );
}

#[test]
fn counts_are_exact_and_repeatable() {
    let module = Module::from_env(COMMAND).unwrap();
    let way = &ways()[0];

    assert_eq!(way.measure(&module), way.measure(&module));
}

/// What one request costs: on average, because what many share (a lease) is a part of it.
#[derive(Clone, Debug, PartialEq)]
struct Cost {
    /// By callback.
    instructions: BTreeMap<String, f64>,
    /// By host function.
    hostcalls: BTreeMap<String, f64>,
}

impl Cost {
    fn instructions(&self) -> f64 {
        self.instructions.values().sum::<f64>().round()
    }

    fn hostcalls(&self) -> f64 {
        round(self.hostcalls.values().sum())
    }
}

/// A way that a request can go, with everything that makes it go there.
struct Way {
    name: &'static str,
    policy: Value,
    more: Value,
    request: fn() -> Request,
    backend: fn(&Call) -> Ending,
    /// What the access log says of each request, so that nothing else is measured.
    note: &'static str,
}

fn ways() -> Vec<Way> {
    unchecked_ways()
        .into_iter()
        .chain(checked_ways())
        .chain(cut_off_ways())
        .chain(settled_ways())
        .collect()
}

/// Nobody is asked, and nothing is looked up.
fn unchecked_ways() -> [Way; 4] {
    let bypass = json!({
        "mode": "bypass", "until": "2027-01-31T22:00:00Z", "reason": "measured"
    });
    [
        Way {
            more: json!({"default_policy": "off"}),
            ..way("off", closed(), allow, "allow reason=bypassed")
        },
        Way {
            request: preflight,
            ..way(
                "preflight",
                closed(),
                allow,
                "allow reason=bypassed policy=p backend=quota",
            )
        },
        Way {
            more: json!({"emergency": bypass}),
            ..way(
                "emergency",
                closed(),
                allow,
                "allow reason=emergency policy=p backend=quota",
            )
        },
        Way {
            request: || Request::get("/v1/items"),
            ..way(
                "descriptor_missing",
                closed(),
                allow,
                "deny reason=descriptor_missing policy=p backend=quota",
            )
        },
    ]
}

/// The backend has said so, now or earlier.
fn checked_ways() -> [Way; 5] {
    let lease = json!({"failure_mode": "fail_closed", "lease": {"max_units": 500, "ttl": "10s"}});
    let cached = json!({
        "failure_mode": "fail_closed", "cache": {"allow_ttl": "60s", "deny_ttl": "60s"}
    });
    let uncached = json!({
        "failure_mode": "fail_closed", "cache": {"allow_ttl": "0s", "deny_ttl": "0s"}
    });
    let over = "deny reason=quota_exceeded policy=p backend=quota";
    let within = "allow reason=within_quota policy=p backend=quota ms=0";
    let over_now = "deny reason=quota_exceeded policy=p backend=quota ms=0";
    [
        way(
            "leased",
            lease,
            allow,
            "allow reason=leased policy=p backend=quota",
        ),
        way(
            "cached_allow",
            cached.clone(),
            allow,
            "allow reason=cached policy=p backend=quota",
        ),
        way("cached_deny", cached, deny, over),
        way("callout_allow", closed(), allow, within),
        way("callout_deny", uncached, deny, over_now),
    ]
}

/// The breaker is open, or waits for its trial call.
fn cut_off_ways() -> [Way; 4] {
    let open = json!({"failure_mode": "fail_open"});
    let local = json!({
        "failure_mode": "fail_local",
        "local_limit": {"units": 1_000_000, "per": "1s", "burst": 1_000_000},
    });
    let shortly = json!({"backends": {"quota": {
        "cluster": "quota-backend",
        "breaker": {"open_for": "50ms", "open_for_max": "50ms"},
    }}});
    [
        Way {
            more: shortly,
            ..way(
                "breaker_trying_fail_open",
                json!({"failure_mode": "fail_open", "timeout": "900ms"}),
                unreachable_then_silent,
                "allow reason=failed_open cause=breaker_open policy=p backend=quota",
            )
        },
        way(
            "breaker_open_fail_open",
            open,
            unreachable,
            "allow reason=failed_open cause=breaker_open policy=p backend=quota",
        ),
        way(
            "breaker_open_fail_closed",
            closed(),
            unreachable,
            "deny reason=quota_unavailable cause=breaker_open policy=p backend=quota",
        ),
        way(
            "breaker_open_fail_local",
            local,
            unreachable,
            "allow reason=failed_local cause=breaker_open policy=p backend=quota",
        ),
    ]
}

/// What the response says is charged: from a lease, and in a report to the backend.
fn settled_ways() -> [Way; 2] {
    let usage = json!([{"metadata": ["llm.usage", "total"]}]);
    let leased = json!({
        "failure_mode": "fail_closed",
        "cost": 10,
        "lease": {"max_units": 5000, "ttl": "10s"},
        "settle": {"mode": "correct", "usage": usage},
    });
    let cached = json!({
        "failure_mode": "fail_closed",
        "cache": {"allow_ttl": "60s"},
        "settle": {"usage": usage},
    });
    [
        Way {
            request: used,
            ..way(
                "settled_leased",
                leased,
                allow,
                "allow reason=leased policy=p backend=quota",
            )
        },
        Way {
            request: used,
            ..way(
                "settled_cached",
                cached,
                allow,
                "allow reason=cached policy=p backend=quota",
            )
        },
    ]
}

fn way(name: &'static str, policy: Value, backend: fn(&Call) -> Ending, note: &'static str) -> Way {
    Way {
        name,
        policy,
        more: json!({}),
        request,
        backend,
        note,
    }
}

fn closed() -> Value {
    json!({"failure_mode": "fail_closed"})
}

impl Way {
    /// The mean of many requests behind a warm-up, without the ticks in between.
    fn measure(&self, module: &Module) -> Cost {
        let mut host = self.host(module);
        self.send(&mut host, WARM_UP);
        host.take_ended();
        let before = host.costs(0);
        self.send(&mut host, REQUESTS);
        let costs = host.costs(0).since(&before).without("proxy_on_tick");

        let ended = host.take_ended();
        let notes: BTreeMap<String, usize> =
            ended.iter().fold(BTreeMap::new(), |mut notes, stream| {
                *notes.entry(stream.note("quota_gate")).or_default() += 1;
                notes
            });
        assert_eq!(
            notes,
            BTreeMap::from([(self.note.to_owned(), REQUESTS)]),
            "{}",
            self.name
        );
        assert_eq!(host.traps(), [""; 0], "{}", self.name);
        assert_eq!(host.complaints(), [""; 0], "{}", self.name);
        mean(&costs, REQUESTS)
    }

    fn host<'m>(&self, module: &'m Module) -> Host<'m> {
        let config = self.config().to_string();
        Host::new(module, config.as_bytes(), Options::default(), self.backend).unwrap()
    }

    fn config(&self) -> Value {
        let mut config = json!({
            "backends": {"quota": {
                "cluster": "quota-backend",
                "breaker": {"open_for": "20s", "open_for_max": "60s"},
            }},
            "policies": {"p": {
                "backend": "quota",
                "descriptor": [{"name": "tenant", "header": "x-tenant-id"}],
            }},
            "default_policy": "p",
            "host_budget": "1s",
        });
        merge(&mut config["policies"]["p"], &self.policy);
        merge(&mut config, &self.more);
        config
    }

    fn send(&self, host: &mut Host<'_>, requests: usize) {
        for _ in 0..requests {
            host.request(0, &(self.request)());
            host.run_for(MILLISECOND / 5);
        }
    }
}

/// What one tick costs: with nothing to do, behind 100 leased requests, and behind 100 that are
/// settled by reports.
fn ticks(module: &Module) -> [(String, Cost); 3] {
    let ways = ways();
    let busy = |name: &str| {
        let way = ways.iter().find(|way| way.name == name).unwrap();
        let mut host = way.host(module);
        way.send(&mut host, WARM_UP);
        let before = host.costs(0);
        way.send(&mut host, REQUESTS);
        let costs = host.costs(0).since(&before).of("proxy_on_tick");
        (host, costs)
    };
    let (_, settling) = busy("settled_cached");
    let (mut host, busy) = busy("leased");
    host.run_for(60_000 * MILLISECOND);
    let before = host.costs(0);
    host.run_for(20_000 * MILLISECOND);
    let idle = host.costs(0).since(&before);
    let per_tick = |costs: &Costs| {
        let ticks = costs.0.get("proxy_on_tick").map_or(1, |tally| tally.count);
        mean(costs, usize::try_from(ticks).unwrap())
    };
    [
        ("tick_busy".into(), per_tick(&busy)),
        ("tick_idle".into(), per_tick(&idle)),
        ("tick_settling".into(), per_tick(&settling)),
    ]
}

fn measure(module: &Module) -> BTreeMap<String, Cost> {
    let ways = ways()
        .into_iter()
        .map(|way| (way.name.to_owned(), way.measure(module)));
    ways.chain(ticks(module)).collect()
}

fn mean(costs: &Costs, count: usize) -> Cost {
    let each = |sum: u64| round(sum as f64 / count as f64);
    let callbacks = costs.0.iter().map(|(name, tally)| (*name, tally.fuel));
    let short = |(name, sum): (&str, u64)| (name.replace("proxy_", ""), each(sum));
    Cost {
        instructions: callbacks.map(short).collect(),
        hostcalls: costs.hostcalls().into_iter().map(short).collect(),
    }
}

/// A thousandth is exact enough for what many requests share.
fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn findings(measured: &BTreeMap<String, Cost>, committed: &BTreeMap<String, Cost>) -> Vec<String> {
    let mut findings = Vec::new();
    for (name, cost) in measured {
        let Some(limit) = committed.get(name) else {
            findings.push(format!("{name}: not in pretend-host/costs.json"));
            continue;
        };
        let both = [
            ("instructions", cost.instructions(), limit.instructions()),
            ("hostcalls", cost.hostcalls(), limit.hostcalls()),
        ];
        for (what, now, before) in both {
            if now > before * GROWTH_MAX {
                findings.push(format!("{name}: {what} have grown from {before} to {now}"));
            }
        }
    }
    let gone = committed
        .keys()
        .filter(|name| !measured.contains_key(*name));
    findings.extend(gone.map(|name| format!("{name}: only in pretend-host/costs.json")));
    findings
}

fn table(costs: &BTreeMap<String, Cost>) -> String {
    let mut text = String::from("                          instructions  hostcalls\n");
    for (name, cost) in costs {
        let (instructions, hostcalls) = (cost.instructions(), cost.hostcalls());
        let _infallible = writeln!(text, "{name:<26}{instructions:>12}{hostcalls:>11}");
        for parts in [&cost.instructions, &cost.hostcalls] {
            let parts: Vec<String> = parts
                .iter()
                .map(|(name, count)| format!("{name} {count}"))
                .collect();
            let _infallible = writeln!(text, "  {}", parts.join(", "));
        }
    }
    text
}

fn to_json(costs: &BTreeMap<String, Cost>) -> String {
    let ways = costs.iter().map(|(name, cost)| {
        let way = json!({"instructions": cost.instructions, "hostcalls": cost.hostcalls});
        (name.clone(), way)
    });
    let all = Value::Object(ways.collect::<Map<_, _>>());
    format!("{all:#}\n")
}

fn read() -> BTreeMap<String, Cost> {
    let text = fs::read_to_string(file()).unwrap();
    let all: Value = serde_json::from_str(&text).unwrap();
    let parts = |value: &Value| -> BTreeMap<String, f64> {
        let parts = value.as_object().unwrap().iter();
        parts
            .map(|(name, count)| (name.clone(), count.as_f64().unwrap()))
            .collect()
    };
    let ways = all.as_object().unwrap().iter().map(|(name, way)| {
        let cost = Cost {
            instructions: parts(&way["instructions"]),
            hostcalls: parts(&way["hostcalls"]),
        };
        (name.clone(), cost)
    });
    ways.collect()
}

fn file() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("costs.json")
}

fn merge(into: &mut Value, from: &Value) {
    for (key, value) in from.as_object().unwrap() {
        into[key] = value.clone();
    }
}

/// As browsers and gateways send them: what the filter reads is among much that it does not.
fn request() -> Request {
    Request::get("/v1/items?page=2")
        .header("user-agent", "Mozilla/5.0 (X11; Linux x86_64)")
        .header("accept", "application/json")
        .header("accept-encoding", "gzip, br")
        .header("x-forwarded-for", "203.0.113.9")
        .header("x-forwarded-proto", "https")
        .header("x-request-id", "6f8ae2b6-0d5c-4d3a-9ac8-0f8a3c9b7d11")
        .header("x-tenant-id", "acme")
        .route_name("items")
}

/// Its response says that it has used 7 units.
fn used() -> Request {
    let total = ["metadata", "filter_metadata", "llm.usage", "total"];
    request().property(&total, 7.0_f64.to_le_bytes())
}

fn preflight() -> Request {
    Request::new("OPTIONS", "/v1/items")
        .header("origin", "https://app.example")
        .header("access-control-request-method", "GET")
        .header("x-tenant-id", "acme")
        .route_name("items")
}

fn allow(_: &Call) -> Ending {
    Ending::status(0, 200)
}

fn deny(_: &Call) -> Ending {
    let headers = Headers::new().with("retry-after", "60");
    Ending::new(
        0,
        End::Reply {
            status: 429,
            headers,
            body: Vec::new(),
        },
    )
}

fn unreachable(_: &Call) -> Ending {
    Ending::new(0, End::Host(503))
}

/// The trial call is out for as long as anything is measured.
fn unreachable_then_silent(call: &Call) -> Ending {
    if call.now < 20 * MILLISECOND {
        unreachable(call)
    } else {
        Ending::new(0, End::Silence)
    }
}

/// Enough for the breaker to trip, a lease to find its rate, every table to have its entry, and a
/// first report to be told.
const WARM_UP: usize = 1000;

const REQUESTS: usize = 1000;

/// Compilers differ by a few hundredths; a tenth is a change of ours.
const GROWTH_MAX: f64 = 1.1;
