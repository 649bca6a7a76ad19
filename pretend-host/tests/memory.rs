//! A worker's memory does not grow with the keys that it has seen: every table has its bound.
//!
//! `QUOTA_GATE_REQUESTS` sets how many requests there are, each with a key of its own;
//! `cargo xtask test pretend` sends 200,000.

use pretend_host::{Call, End, Ending, Headers, Host, MILLISECOND, Module, Options, Request};

#[test]
fn memory_is_flat_over_any_number_of_keys() {
    let module = Module::from_env("cargo xtask test pretend").unwrap();
    let requests = requests();
    let mut host = Host::new(&module, CONFIG.as_bytes(), Options::default(), backend).unwrap();

    send(&mut host, 0..WARM_UP);
    let warm = Held::of(&host);
    println!("after {WARM_UP} keys: {warm:?}");
    send(&mut host, WARM_UP..requests);
    let end = Held::of(&host);
    println!("after {requests} keys: {end:?}");

    assert_eq!(end, warm);
    assert!(host.metrics_defined(0) < 50);
    assert_eq!(host.traps(), [""; 0]);
    assert_eq!(host.complaints(), [""; 0]);
    host.run_for(1000 * MILLISECOND);
    assert_eq!(
        host.metrics().counters_sum("quota_gate.requests."),
        requests
    );
    assert!(host.metrics().counter("quota_gate.evictions.table.cache") > 0);
}

#[test]
fn memory_is_flat_over_configuration_pushes() {
    let module = Module::from_env("cargo xtask test pretend").unwrap();
    let mut host = Host::new(&module, CONFIG.as_bytes(), Options::default(), backend).unwrap();
    send(&mut host, 0..PUSH_EVERY);
    // The next tables fit into what the first few have left.
    for number in 1..5 {
        push(&mut host, number);
    }
    let warm = host.memory(0);

    for number in 5..11 {
        push(&mut host, number);
    }

    // Holes between what stays may cost a page or two yet. What each push left behind for good,
    // from 20 KB on, would be more.
    let end = host.memory(0);
    assert!(
        end <= warm + warm / 40,
        "{warm} bytes, {end} after six more pushes"
    );
    assert_eq!(host.roots(0), 1);
    assert_eq!(host.traps(), [""; 0]);
}

/// Another configuration, whose tables begin anew; the old one's go some ticks after its last stream.
fn push(host: &mut Host<'_>, number: u64) {
    let budget = format!("\"{}ms\"", 1000 + number);
    let config = CONFIG.replace("\"1s\"\n}", &format!("{budget}\n}}"));
    assert_ne!(config, CONFIG);
    host.push(config.as_bytes(), 0).unwrap();
    host.run_for(1500 * MILLISECOND);
    send(host, number * PUSH_EVERY..(number + 1) * PUSH_EVERY);
}

/// What a proxy holds for a worker, and never gives back.
#[derive(Debug, Eq, PartialEq)]
struct Held {
    memory: usize,
    shared_names: usize,
}

impl Held {
    fn of(host: &Host<'_>) -> Self {
        Self {
            memory: host.memory(0),
            shared_names: host.shared_names(),
        }
    }
}

/// Ten thousand requests a second, each with a key of its own, by every kind of policy in turn.
fn send(host: &mut Host<'_>, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let path = ["/cached", "/leased", "/plain", "/local"][(number % 4) as usize];
        // Lengths differ as well, so that freed blocks do not just fit the next key.
        let padding = "k".repeat((number * 7 % 61) as usize);
        let key = format!("{padding}{number}");
        let id = host.request(0, &Request::get(path).header("x-key", key));
        if number % 50 == 0 {
            host.disconnect(id);
        }
        host.run_for(MILLISECOND / 10);
        host.take_ended();
        host.take_log();
    }
}

/// Replies within 2 ms; every third key is over its limit; of the last policy's, none gets any.
fn backend(call: &Call) -> Ending {
    if call.cluster == "dead" {
        return Ending::new(MILLISECOND, End::Host(503));
    }
    let mut key = call
        .headers
        .first("x-quota-descriptor")
        .unwrap_or_default()
        .iter();
    let over = key.next_back().is_some_and(|digit| digit % 3 == 0);
    let status = if over { 429 } else { 200 };
    let headers = Headers::new().with("ratelimit", "\"default\";r=50;t=30");
    Ending::new(
        2 * MILLISECOND,
        End::Reply {
            status,
            headers,
            body: Vec::new(),
        },
    )
}

fn requests() -> u64 {
    let given = std::env::var("QUOTA_GATE_REQUESTS").ok();
    given.map_or(200_000, |text| text.parse().unwrap())
}

/// Every table is full and has let go of entries: 10,000 decisions and 10,000 leases.
const WARM_UP: u64 = 45_000;

/// Some thousands of entries in each table.
const PUSH_EVERY: u64 = 10_000;

const CONFIG: &str = r#"{
  "backends": {"live": {"cluster": "live"}, "dead": {"cluster": "dead"}},
  "policies": {
    "cached": {
      "backend": "live", "descriptor": [{"name": "key", "header": "x-key"}],
      "failure_mode": "fail_closed",
      "cache": {"allow_ttl": "60s", "deny_ttl": "60s", "stale_if_error": "60s"}
    },
    "leased": {
      "backend": "live", "descriptor": [{"name": "key", "header": "x-key"}],
      "failure_mode": "fail_open", "lease": {"max_units": 100, "ttl": "60s"}
    },
    "plain": {
      "backend": "live", "descriptor": [{"name": "key", "header": "x-key"}],
      "failure_mode": "fail_closed"
    },
    "local": {
      "backend": "dead", "descriptor": [{"name": "key", "header": "x-key"}],
      "failure_mode": "fail_local", "local_limit": {"units": 10, "per": "1s"}
    }
  },
  "routes": [
    {"match": {"path_prefix": "/cached"}, "policy": "cached"},
    {"match": {"path_prefix": "/leased"}, "policy": "leased"},
    {"match": {"path_prefix": "/plain"}, "policy": "plain"}
  ],
  "default_policy": "local",
  "host_budget": "1s"
}"#;
