//! The plugin configurations that are pushed: the same policies, under ever other conditions.

use serde_json::{Value, json};

use crate::terms::{ACCOUNTS, Account, COST_MAX, Settles, Terms};
use crate::traffic::{KINDS, Mode};

/// What sets one configuration apart from the next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Variant {
    /// A breaker that opens after five failures.
    Breaker,
    /// No checks at all.
    Bypass,
    /// A bound of few calls, and no breaker.
    FewCalls,
    /// A breaker that opens after two failures, with three trial calls.
    HastyBreaker,
    /// An emergency that ends by itself.
    ShortEmergency,
    /// Failures pass.
    Emergency,
    /// Shorter ttls, smaller leases, another limit.
    Tight,
    /// No breaker.
    WithoutBreaker,
}

impl Variant {
    /// Those without an emergency.
    pub(crate) const CALM: [Self; 5] = [
        Self::Breaker,
        Self::FewCalls,
        Self::HastyBreaker,
        Self::Tight,
        Self::WithoutBreaker,
    ];

    /// Those with one.
    pub(crate) const EMERGENCIES: [Self; 3] = [Self::Bypass, Self::Emergency, Self::ShortEmergency];

    pub(crate) fn has_breaker(self) -> bool {
        !matches!(self, Self::FewCalls | Self::WithoutBreaker)
    }

    pub(crate) fn is_emergency(self) -> bool {
        Self::EMERGENCIES.contains(&self)
    }
}

/// The configuration of a variant, with the terms that follow from the seed. Its number makes each
/// differ from the one before; `now` is in seconds since 1970.
pub(crate) fn configuration(variant: Variant, seed: u64, number: u64, now: u64) -> Value {
    let terms = Terms::draw(seed);
    let mut policies = serde_json::Map::new();
    let mut routes = Vec::new();
    for kind in &KINDS {
        let own = kind.path.trim_start_matches('/') == kind.policy;
        if own {
            policies.insert(kind.policy.to_owned(), policy(kind.path, variant, &terms));
        }
        let policy = if kind.mode == Mode::Off {
            "off"
        } else {
            kind.policy
        };
        if own || kind.mode == Mode::Off {
            routes.push(json!({"match": {"path_prefix": kind.path}, "policy": policy}));
        }
    }
    let mut all = json!({
        "backends": {
            "first": backend("first", variant),
            "second": backend("second", variant),
            "json": backend("first", variant),
            "limitador": backend("first", variant),
        },
        "policies": policies,
        "routes": routes,
        "default_policy": "closed",
        "host_budget": format!("{}ms", 1000 + number % 9000),
        "status_path": "/-/quota-gate",
    });
    for account in &ACCOUNTS {
        let kind = KINDS.iter().find(|kind| kind.path == account.path);
        let cluster = kind.map_or("first", |kind| CLUSTERS[kind.backend]);
        let mut backend = backend(cluster, variant);
        backend["preset"] = json!(account.preset);
        if account.preset == "custom" {
            describe(&mut backend);
        }
        all["backends"][account.name()] = backend;
    }
    all["backends"]["json"]["preset"] = json!("envoy_ratelimit");
    all["backends"]["limitador"]["preset"] = json!("limitador");
    let emergency = |mode: &str, seconds: u64| {
        let until = quota_gate::time::Wall::from_secs(now + seconds);
        let until = quota_gate::time::rfc3339(until);
        json!({"mode": mode, "until": until, "reason": "INC-1: chaos"})
    };
    match variant {
        Variant::Bypass => all["emergency"] = emergency("bypass", 3600),
        Variant::Emergency => all["emergency"] = emergency("fail_open", 3600),
        Variant::ShortEmergency => all["emergency"] = emergency("fail_open", 2),
        _ => {}
    }
    all
}

fn backend(cluster: &str, variant: Variant) -> Value {
    let breaker = match variant {
        Variant::FewCalls | Variant::WithoutBreaker => json!("off"),
        Variant::HastyBreaker => json!({
            "consecutive_failures": 2, "min_calls": 10, "window": "1s", "half_open_calls": 3,
            "open_for": "50ms", "open_for_max": "100ms",
        }),
        _ => json!({"open_for": "50ms", "open_for_max": "200ms"}),
    };
    let most = if variant == Variant::FewCalls {
        8
    } else {
        1024
    };
    json!({"cluster": cluster, "breaker": breaker, "max_pending": most})
}

fn policy(path: &str, variant: Variant, terms: &[Terms]) -> Value {
    let kind = KINDS.iter().find(|kind| kind.path == path);
    let (mode, backend, timeout) = kind.map_or((Mode::Closed, 0, 60), |kind| {
        (kind.mode, kind.backend, kind.timeout_ms)
    });
    let mut policy = json!({
        "backend": CLUSTERS[backend],
        "descriptor": [{"name": "tenant", "header": "x-tenant-id"}],
        "failure_mode": match mode {
            Mode::Open => "fail_open",
            Mode::Local => "fail_local",
            _ => "fail_closed",
        },
        "timeout": format!("{timeout}ms"),
        "cost": {"header": "x-cost", "default": 1, "max": 5},
        "failure_mode_header": {"name": "x-quota-failure-mode", "trust": "internal"},
        "cache": {"deny_ttl": "0s"},
    });
    let tight = variant == Variant::Tight;
    let choose = |loose: &str, strict: &str| json!(if tight { strict } else { loose });
    match path {
        "/cached" => {
            policy["cache"] = json!({
                "allow_ttl": choose("300ms", "50ms"), "deny_ttl": choose("500ms", "100ms"),
                "rejected_ttl": "200ms",
            });
        }
        "/stale" => policy["cache"] = json!({"deny_ttl": "0s", "stale_if_error": "2s"}),
        "/local" => {
            let units = if tight { 5 } else { 50 };
            policy["local_limit"] = json!({"units": units, "per": "1s", "burst": 2 * units});
        }
        "/shadow" => policy["enforcement"] = json!("shadow"),
        "/json" | "/limitador" => policy["backend"] = json!(path.trim_start_matches('/')),
        "/optional" => policy["on_missing"] = json!("allow"),
        _ => {}
    }
    for (account, terms) in ACCOUNTS.iter().zip(terms) {
        if account.path == path {
            book(&mut policy, account, terms, variant);
        }
    }
    if tight {
        policy["rate_limit_headers"] = json!("x_ratelimit");
    }
    policy
}

/// What is special of a policy whose units are booked.
fn book(policy: &mut Value, account: &Account, terms: &Terms, variant: Variant) {
    policy["backend"] = json!(account.name());
    policy["descriptor"] = json!([
        {"name": "account", "value": account.name()},
        {"name": "tenant", "header": "x-tenant-id"},
    ]);
    policy["cost"] = json!({"header": "x-cost", "default": terms.estimate, "max": COST_MAX});
    if account.mode == Settles::Report && account.preset != "limitador" {
        // The check only asks whether anything is left: it has no cost.
        policy.as_object_mut().map(|policy| policy.remove("cost"));
    }
    if account.mode != Settles::Never {
        policy["settle"] = terms.settle(account, variant);
    }
    if account.leases {
        policy["lease"] = terms.lease(variant);
    }
}

/// The language of limitador, in the operator's own words.
fn describe(backend: &mut Value) {
    let values = "{descriptor:object}";
    let body = |delta: &str| json!({"namespace": "{namespace}", "values": values, "delta": delta});
    backend["path"] = json!("/check_and_report");
    backend["report_path"] = json!("/report");
    backend["custom"] = json!({
        "body": body("{cost}"),
        "report": {"body": body("{units}"), "counted": [200]},
    });
}

/// The clusters of the two backends.
const CLUSTERS: [&str; 2] = ["first", "second"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_is_a_valid_configuration() {
        for variant in Variant::CALM.into_iter().chain(Variant::EMERGENCIES) {
            for seed in 0..20 {
                let text = configuration(variant, seed, 3, 1_800_000_000).to_string();
                let parsed = quota_gate::config::parse::parse(text.as_bytes());
                assert!(parsed.is_ok(), "{variant:?}: {}", parsed.unwrap_err());
            }
        }
    }
}
