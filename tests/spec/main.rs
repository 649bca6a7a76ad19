//! The promises, in virtual time: the same files as in `tests/e2e`, natively and in wasm.

mod allow_and_deny;
mod breaker;
mod cache;
mod config_problems;
mod denial;
mod failure_mode;
mod leases;
mod settle;
mod settle_presets;
mod timeouts;
mod waiting;
mod wire;
mod world;

// Plain `#[test]` functions run under Node, too.
#[cfg(target_arch = "wasm32")]
#[macro_use]
extern crate wasm_test;

use quota_gate::request::PlainRequest;
use serde_json::{Value, json};

/// One backend, one policy with the tenant as its descriptor; `fields` are added to the policy.
pub(crate) fn config(fields: &Value) -> Value {
    let mut policy = json!({
        "backend": "quota",
        "descriptor": [{"name": "tenant", "header": "x-tenant-id"}],
        "failure_mode": "fail_closed",
        "timeout": "80ms",
    });
    merge(&mut policy, fields);
    json!({
        "backends": {"quota": {"cluster": "quota-backend", "breaker": "off"}},
        "policies": {"gold": policy},
        "routes": [],
        "default_policy": "gold",
        "host_budget": "1s",
    })
}

/// Puts every field of `from` into `into`.
pub(crate) fn merge(into: &mut Value, from: &Value) {
    if let (Value::Object(into), Value::Object(from)) = (into, from) {
        for (key, value) in from {
            match (into.get_mut(key), value) {
                (Some(old @ Value::Object(_)), Value::Object(_)) => merge(old, value),
                _ => {
                    into.insert(key.clone(), value.clone());
                }
            }
        }
    }
}

pub(crate) fn get(tenant: &str) -> PlainRequest {
    PlainRequest::new("GET", "api.example.com", "/v1/items").with_header("x-tenant-id", tenant)
}
