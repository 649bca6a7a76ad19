//! The chains of filters that are measured beside each other.

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::plan::Plan;
use crate::servers::{EXT_AUTHZ_PATH, NAMESPACE, Servers, TENANT};

/// A chain, and what is expected of it.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    pub(crate) name: String,
    /// The filter before the router; `None`: only the router.
    pub(crate) filter: Option<Value>,
    /// The reason that this filter gives nearly every request; `None` for other filters.
    pub(crate) reason: Option<&'static str>,
    /// Checks per 1,000 requests, from and to.
    pub(crate) checks: (f64, f64),
    /// What it may add to the CPU time of a request at most, in shares of what ext_authz adds.
    pub(crate) target: Option<f64>,
    /// Whether it settles what each request has used.
    pub(crate) settles: bool,
    /// Whether it is only measured when it is asked for by name.
    pub(crate) on_request: bool,
}

/// The chains of a plan; the one without a filter is always the first.
///
/// # Errors
/// The plan names a chain that there is not.
pub(crate) fn chains(plan: &Plan, servers: &Servers) -> Result<Vec<Chain>> {
    let mut all = vec![no_filter()];
    let nothing = wasm(&plan.nothing, "");
    all.push(chain("does nothing", Some(nothing)));
    let every_one = (1000.0, 1000.0);
    all.push(Chain {
        checks: every_one,
        ..chain(EXT_AUTHZ, Some(ext_authz(servers)))
    });
    all.push(Chain {
        checks: every_one,
        ..chain("ratelimit", Some(ratelimit()))
    });
    all.extend(modes().into_iter().map(|mode| mode.chain(plan)));
    all.extend(floors(plan));
    let mut chains = select(all, &plan.only)?;
    chains.extend(plan.also.iter().map(|also| Chain {
        checks: (0.0, f64::INFINITY),
        ..chain(&also.name, Some(wasm(&also.module, &also.configuration)))
    }));
    Ok(chains)
}

/// What the host takes for the calls of a mode, without a filter's own work: no filter that tells
/// upstream and access log its decision can add less.
fn floors(plan: &Plan) -> Vec<Chain> {
    let floor = |mode: &str, words: &str, checks| Chain {
        checks: (checks, checks),
        ..chain(mode, Some(wasm(&plan.floor, words)))
    };
    let mut floors = vec![
        floor("host calls: off", "route log replace", 0.0),
        floor("host calls: leased", "route headers time log add", 0.0),
        floor(
            "host calls: settled",
            "route headers time log add settle",
            0.0,
        ),
        floor(
            "host calls: callout",
            "route headers time log add check",
            1000.0,
        ),
    ];
    let alone = ["", "route", "headers", "time", "log", "add", "replace"];
    floors.extend(alone.map(|word| Chain {
        on_request: true,
        ..floor(
            &format!("host call: {}", if word.is_empty() { "none" } else { word }),
            word,
            0.0,
        )
    }));
    floors
}

/// One key's lease, as the acceptance has it.
pub(crate) fn hot_key(plan: &Plan) -> Chain {
    let lease = json!({"max_units": HOT_KEY_UNITS, "ttl": "1s"});
    gate("hot key", plan, &json!({"lease": lease}), &json!({}))
}

/// A backend that hangs, with the breaker or without; everybody is let through.
pub(crate) fn hanging(plan: &Plan, breaker: bool) -> Chain {
    let mut backend = json!({"cluster": "quota-backend-hangs", "timeout": "100ms"});
    if !breaker {
        backend["breaker"] = json!("off");
    }
    let policy = json!({"failure_mode": "fail_open", "timeout": "100ms"});
    gate(
        "hanging",
        plan,
        &policy,
        &json!({"backends": {"quota": backend}}),
    )
}

fn gate(name: &str, plan: &Plan, policy: &Value, more: &Value) -> Chain {
    let config = configuration(policy, more).to_string();
    chain(name, Some(wasm(&plan.module, &config)))
}

/// Only the router.
pub(crate) fn no_filter() -> Chain {
    chain(NO_FILTER, None)
}

fn select(all: Vec<Chain>, only: &[String]) -> Result<Vec<Chain>> {
    let names: Vec<&str> = all.iter().map(|chain| chain.name.as_str()).collect();
    if let Some(other) = only.iter().find(|name| !names.contains(&name.as_str())) {
        bail!(
            "there is no chain `{other}`; there are: {}",
            names.join(", ")
        );
    }
    let wanted = |chain: &Chain| {
        let compared = [NO_FILTER, EXT_AUTHZ].contains(&chain.name.as_str());
        only.is_empty() && !chain.on_request || compared || only.contains(&chain.name)
    };
    Ok(all.into_iter().filter(wanted).collect())
}

fn chain(name: &str, filter: Option<Value>) -> Chain {
    Chain {
        name: name.to_owned(),
        filter,
        reason: None,
        checks: (0.0, 0.0),
        target: None,
        settles: false,
        on_request: false,
    }
}

/// A way in which this filter handles requests.
struct Mode {
    name: &'static str,
    policy: Value,
    more: Value,
    reason: &'static str,
    checks: (f64, f64),
    target: f64,
}

impl Mode {
    fn chain(self, plan: &Plan) -> Chain {
        Chain {
            reason: Some(self.reason),
            checks: self.checks,
            target: Some(self.target),
            settles: self.policy.get("settle").is_some(),
            ..gate(self.name, plan, &self.policy, &self.more)
        }
    }
}

fn modes() -> Vec<Mode> {
    let cache = json!({"cache": {"allow_ttl": "60s"}});
    let lease = json!({"lease": {"max_units": 500, "ttl": "1s"}});
    let hangs = json!({"backends": {"quota": {"cluster": "quota-backend-hangs"}}});
    let mut modes = vec![
        Mode {
            more: json!({"default_policy": "off"}),
            ..mode("off", json!({}), "bypassed", (0.0, 0.0), 0.08)
        },
        mode("leased", lease, "leased", (0.0, 50.0), 0.20),
        mode("cached", cache, "cached", (0.0, 1.0), 0.20),
        mode(
            "callout",
            json!({}),
            "within_quota",
            (1000.0, 1000.0),
            CALLOUT,
        ),
        Mode {
            more: hangs,
            ..mode(
                "breaker open",
                json!({"failure_mode": "fail_open"}),
                "failed_open",
                (0.0, 10.0),
                0.20,
            )
        },
    ];
    modes.extend(settled_modes());
    modes
}

/// Charged by what the upstream's answers say: 27 bytes, a unit for each ten of them. Where there
/// is a lease, it is for as many requests as in the mode `leased`.
fn settled_modes() -> [Mode; 2] {
    let usage = json!([{"header": "content-length", "times": 0.1}]);
    let leased = json!({
        "cost": 4,
        "lease": {"max_units": 2000, "ttl": "1s"},
        "settle": {"mode": "correct", "usage": usage},
    });
    let asked = json!({"settle": {"usage": usage}});
    [
        mode("settled", leased, "leased", (0.0, 100.0), SETTLED),
        // Each request has its check; reports are a few a second and tenant, however slow the rest.
        mode(
            "callout settled",
            asked,
            "within_quota",
            (1000.0, 1500.0),
            CALLOUT + SETTLED,
        ),
    ]
}

fn mode(
    name: &'static str,
    policy: Value,
    reason: &'static str,
    checks: (f64, f64),
    target: f64,
) -> Mode {
    Mode {
        name,
        policy,
        more: json!({}),
        reason,
        checks,
        target,
    }
}

/// A configuration with what every mode has in common; everything that is not there is a default.
fn configuration(policy: &Value, more: &Value) -> Value {
    let mut config = json!({
        "backends": {"quota": {"cluster": "quota-backend"}},
        "policies": {"measured": {
            "backend": "quota",
            "descriptor": [{"name": TENANT, "header": "x-tenant-id"}],
            "failure_mode": "fail_closed",
            "timeout": TIMEOUT,
        }},
        "default_policy": "measured",
        "host_budget": "1s",
    });
    lay(&mut config["policies"]["measured"], policy);
    lay(&mut config, more);
    config
}

fn lay(into: &mut Value, from: &Value) {
    for (key, value) in from.as_object().into_iter().flatten() {
        into[key] = value.clone();
    }
}

fn wasm(module: &std::path::Path, configuration: &str) -> Value {
    json!({
        "name": "quota_gate",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
            "config": {
                "name": "quota_gate",
                "vm_config": {
                    "vm_id": "quota_gate",
                    "runtime": "envoy.wasm.runtime.v8",
                    "code": {"local": {"filename": module}},
                },
                "configuration": {
                    "@type": "type.googleapis.com/google.protobuf.StringValue",
                    "value": configuration,
                },
            },
        },
    })
}

fn ext_authz(servers: &Servers) -> Value {
    let uri = format!("http://{}", servers.backend.address);
    json!({
        "name": "envoy.filters.http.ext_authz",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
            "transport_api_version": "V3",
            "allowed_headers": {"patterns": [{"exact": "x-tenant-id"}]},
            "http_service": {
                "server_uri": {"uri": uri, "cluster": "quota-backend", "timeout": SECONDS},
                "path_prefix": EXT_AUTHZ_PATH,
            },
        },
    })
}

fn ratelimit() -> Value {
    json!({
        "name": "envoy.filters.http.ratelimit",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit",
            "domain": NAMESPACE,
            "timeout": SECONDS,
            "failure_mode_deny": true,
            "rate_limit_service": {
                "transport_api_version": "V3",
                "grpc_service": {"envoy_grpc": {"cluster_name": "quota-backend-grpc"}},
            },
        },
    })
}

/// The chain that all others are compared with.
pub(crate) const NO_FILTER: &str = "no filter";

/// The chain whose cost the targets are shares of.
pub(crate) const EXT_AUTHZ: &str = "ext_authz";

/// What a request may add that has a check of its own, in shares of what ext_authz adds.
const CALLOUT: f64 = 1.10;

/// What settling may add, in the same shares; with a lease, all of it together.
const SETTLED: f64 = 0.25;

/// The largest lease of the hot key.
pub(crate) const HOT_KEY_UNITS: u64 = 500;

/// The timeout of a check in every chain: far above any answer, so that a pause of the machine
/// fails no request.
const TIMEOUT: &str = "500ms";
const SECONDS: &str = "0.5s";
