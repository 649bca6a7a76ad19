//! The configuration of the tour: a small shop's, with one policy for each thing to show.

use serde_json::{Value, json};

/// The plugin configuration that Envoy starts with.
pub(crate) fn configuration() -> Value {
    let key = json!([{"name": "key", "header": "x-api-key"}]);
    json!({
        "backends": {
            // The scenes about failures show one thing at a time: no breaker in between.
            "quota": {"cluster": "quota-backend", "breaker": "off"},
            "guarded": {
                "cluster": "quota-backend",
                "breaker": {"consecutive_failures": 3, "open_for": "1s"},
            },
        },
        "policies": {
            "catalog": {
                "backend": "quota", "descriptor": key, "timeout": "80ms",
                "failure_mode": "fail_open",
                "denial": {"cors": {"allow_origins": ["https://shop.example"]}},
            },
            "payments": {
                "backend": "quota", "descriptor": key, "timeout": "80ms",
                "failure_mode": "fail_closed",
            },
            "search": {
                "backend": "quota", "descriptor": key, "timeout": "80ms",
                "failure_mode": "fail_local", "local_limit": {"units": 2, "per": "1m"},
            },
            "partners": {
                "backend": "quota", "descriptor": key, "timeout": "80ms",
                "failure_mode": "fail_open", "enforcement": "shadow",
            },
            "reports": {
                "backend": "guarded", "descriptor": key, "timeout": "80ms",
                "failure_mode": "fail_closed",
            },
            "events": {
                "backend": "quota", "descriptor": key, "timeout": "80ms",
                "failure_mode": "fail_closed", "lease": {"max_units": 20, "ttl": "2s"},
            },
            "chat": {
                "backend": "quota", "descriptor": [{"name": "tenant", "header": "x-tenant-id"}],
                "timeout": "80ms", "failure_mode": "fail_closed",
                "cost": 220,
                "settle": {
                    "mode": "correct",
                    "usage": [{"metadata": ["llm.usage", "total"]}],
                },
            },
        },
        "routes": [
            {"match": {"path_prefix": "/v1/chat"}, "policy": "chat"},
            {"match": {"path_prefix": "/catalog"}, "policy": "catalog"},
            {"match": {"path_prefix": "/search"}, "policy": "search"},
            {"match": {"path_prefix": "/partners"}, "policy": "partners"},
            {"match": {"path_prefix": "/reports"}, "policy": "reports"},
            {"match": {"path_prefix": "/events"}, "policy": "events"},
        ],
        "default_policy": "payments",
        "host_budget": "1s",
        "status_path": "/-/quota-gate",
    })
}

/// The value at `path` (`policies.catalog.timeout`); null if there is none.
pub(crate) fn at<'a>(configuration: &'a Value, path: &str) -> &'a Value {
    path.split('.')
        .fold(configuration, |value, key| &value[key])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_by_its_path() {
        let configuration = configuration();
        assert_eq!(at(&configuration, "policies.catalog.timeout"), "80ms");
        assert_eq!(at(&configuration, "policies.nobody.timeout"), &Value::Null);
    }
}
