//! The plugin configurations that are pushed: the same policies, under ever other conditions.

use serde_json::{Value, json};

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

/// The configuration of a variant. Its number makes each differ from the one before; `now` is in
/// seconds since 1970.
pub(crate) fn configuration(variant: Variant, number: u64, now: u64) -> Value {
    let mut policies = serde_json::Map::new();
    let mut routes = Vec::new();
    for kind in &KINDS {
        let own = kind.path.trim_start_matches('/') == kind.policy;
        if own {
            policies.insert(kind.policy.to_owned(), policy(kind.path, variant));
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

fn policy(path: &str, variant: Variant) -> Value {
    let kind = KINDS.iter().find(|kind| kind.path == path);
    let (mode, backend, timeout) = kind.map_or((Mode::Closed, 0, 60), |kind| {
        (kind.mode, kind.backend, kind.timeout_ms)
    });
    let mut policy = json!({
        "backend": if backend == 0 { "first" } else { "second" },
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
        "/leased" => {
            let units = if tight { 5 } else { 50 };
            policy["lease"] = json!({"max_units": units, "ttl": choose("500ms", "100ms")});
        }
        "/local" => {
            let units = if tight { 5 } else { 50 };
            policy["local_limit"] = json!({"units": units, "per": "1s", "burst": 2 * units});
        }
        "/settled" | "/other-settled" => {
            // The check only asks whether anything is left: it has no cost.
            policy.as_object_mut().map(|policy| policy.remove("cost"));
            policy["settle"] = json!({
                "usage": [{"header": "x-used"}], "default": USED_UNTOLD,
                "every": choose("100ms", "20ms"), "timeout": "100ms",
            });
        }
        "/shadow" => policy["enforcement"] = json!("shadow"),
        "/json" | "/limitador" => policy["backend"] = json!(path.trim_start_matches('/')),
        "/optional" => policy["on_missing"] = json!("allow"),
        _ => {}
    }
    if tight {
        policy["rate_limit_headers"] = json!("x_ratelimit");
    }
    policy
}

/// What a request has used whose response does not say it.
pub(crate) const USED_UNTOLD: u64 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_is_a_valid_configuration() {
        for variant in Variant::CALM.into_iter().chain(Variant::EMERGENCIES) {
            let text = configuration(variant, 3, 1_800_000_000).to_string();
            let parsed = quota_gate::config::parse::parse(text.as_bytes());
            assert!(parsed.is_ok(), "{variant:?}: {}", parsed.unwrap_err());
        }
    }
}
