//! Configurations at random: always valid, unless one is wanted that is not.

use pretend_host::Random;
use serde_json::{Value, json};

/// A configuration, and what the world has to know of it.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) text: String,
    /// By the number in a request's path.
    pub(crate) policies: Vec<String>,
    pub(crate) timeouts_ms: Vec<u64>,
    pub(crate) emergency: bool,
}

/// No timeout is longer.
pub(crate) const TIMEOUT_MS_MAX: u64 = 400;

pub(crate) const CLUSTERS: [&str; 2] = ["one", "two"];

impl Config {
    /// A policy's name ends with its failure mode, so that an outcome can be judged by its name.
    pub(crate) fn random(random: &mut Random) -> Self {
        let presets = [preset(random), preset(random)];
        let mut policies = serde_json::Map::new();
        let mut routes = Vec::new();
        let (mut names, mut timeouts_ms) = (Vec::new(), Vec::new());
        for index in 0..random.between(1, 4) {
            let mode = random.pick(&["closed", "open", "local"]);
            let name = format!("p{index}_{mode}");
            let timeout = random.between(1, TIMEOUT_MS_MAX);
            policies.insert(name.clone(), policy(random, mode, timeout, presets));
            let matched = json!({"path_prefix": format!("/p{index}/")});
            routes.push(json!({"match": matched, "policy": name}));
            names.push(name);
            timeouts_ms.push(timeout);
        }
        routes.push(json!({"match": {"path_prefix": "/off"}, "policy": "off"}));
        let mut all = json!({
            "backends": {
                "one": backend(random, "one", presets[0]),
                "two": backend(random, "two", presets[1]),
            },
            "policies": policies,
            "routes": routes,
            "default_policy": names[0],
            "host_budget": "1s",
            "status_path": "/-/quota-gate",
        });
        let emergency = random.per_mille(150);
        if emergency {
            let mode = random.pick(&["fail_open", "bypass"]);
            let until = random.pick(&["2026-01-01T00:00:02Z", "2027-01-01T00:00:00Z"]);
            all["emergency"] = json!({"mode": mode, "until": until, "reason": "INC-1"});
        }
        Self {
            text: all.to_string(),
            policies: names,
            timeouts_ms,
            emergency,
        }
    }

    /// One with problems.
    pub(crate) fn broken(random: &mut Random) -> String {
        let config = Self::random(random);
        match random.below(4) {
            0 => config
                .text
                .replace("\"host_budget\":\"1s\"", "\"host_budget\":\"1ms\""),
            1 => config.text.replace("\"routes\"", "\"ruotes\""),
            2 => config
                .text
                .get(..config.text.len() / 2)
                .unwrap_or_default()
                .to_owned(),
            _ => String::from("\u{0}\u{1}\u{2}"),
        }
    }
}

fn preset(random: &mut Random) -> &'static str {
    let rare = [
        "limitador",
        "envoy_ratelimit",
        "gubernator",
        "unkey",
        "throttlecrab",
    ];
    if random.per_mille(500) {
        "headers"
    } else {
        random.pick(&rare)
    }
}

fn backend(random: &mut Random, cluster: &str, preset: &str) -> Value {
    let mut backend = json!({
        "cluster": cluster,
        "preset": preset,
        "headers": {"authorization": "Bearer SECRET-token"},
        "max_pending": random.pick(&[1, 3, 20, 1024]),
        "timeout": "100ms",
    });
    backend["breaker"] = match random.below(3) {
        0 => json!("off"),
        1 => json!({"consecutive_failures": 2, "open_for": "50ms", "open_for_max": "200ms"}),
        _ => json!({"half_open_calls": random.between(1, 3), "open_for": "100ms"}),
    };
    backend
}

fn policy(random: &mut Random, mode: &str, timeout_ms: u64, presets: [&str; 2]) -> Value {
    let backend = usize::from(random.per_mille(500));
    let mut descriptor = vec![json!({"name": "key", "header": "x-key"})];
    if random.per_mille(300) {
        let path = ["metadata", "filter_metadata", "jwt", "sub"];
        descriptor.push(json!({"name": "user", "property": path, "optional": true}));
    }
    if random.per_mille(200) {
        descriptor.push(json!({
            "name": "ip", "client_ip": {"trusted_hops": random.below(3)}, "default": "none"
        }));
    }
    if random.per_mille(200) {
        descriptor.push(json!({"name": "route", "route_name": true, "default": "none"}));
    }
    let ttl = |random: &mut Random| random.pick(&["0s", "20ms", "1s", "30s"]);
    let mut policy = json!({
        "backend": CLUSTERS[backend],
        "descriptor": descriptor,
        "failure_mode": format!("fail_{mode}"),
        "timeout": format!("{timeout_ms}ms"),
        "cache": {
            "allow_ttl": ttl(random), "deny_ttl": ttl(random),
            "rejected_ttl": ttl(random), "stale_if_error": ttl(random),
        },
        "on_missing": random.pick(&["deny", "deny", "allow"]),
        "rate_limit_headers": random.pick(&["none", "draft", "x_ratelimit"]),
    });
    if ["gubernator", "throttlecrab", "unkey"].contains(&presets[backend]) {
        policy["quota"] = json!({"units": 100, "per": "1s"});
    }
    if mode == "local" {
        policy["local_limit"] = json!({"units": random.between(1, 50), "per": "1s", "burst": 60});
    }
    if random.per_mille(400) {
        let units = random.pick(&[2, 20, 500]);
        policy["lease"] = json!({"max_units": units, "ttl": random.pick(&["100ms", "1s", "10s"])});
    }
    if random.per_mille(150) {
        policy["enforcement"] = json!(random.pick(&["shadow", "off"]));
    }
    if random.per_mille(300) {
        policy["cost"] = json!({"header": "x-cost", "default": 1, "max": 100});
    }
    if random.per_mille(300) {
        policy["failure_mode_header"] = json!({"name": "x-quota-mode", "trust": "internal"});
    }
    if random.per_mille(300) {
        policy["denial"] = json!({"cors": {"allow_origins": ["https://app.example"]}});
    }
    policy
}
