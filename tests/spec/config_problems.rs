//! Promise: a configuration with any problem is refused whole, and every problem is told at once.

use quota_gate::config::parse::parse;
use serde_json::{Value, json};

use crate::config;

#[test]
fn every_problem_is_told_at_once_in_the_order_of_the_text() {
    let text = r#"{
        "backends": {"quota": {"cluster": "quota", "preset": "limitadr"}},
        "policies": {"gold": {"backend": "qouta", "timeout": "0ms", "failure_mod": "fail_open",
                              "descriptor": [{"name": "t", "header": "x-tenant-id"}]}},
        "default_policy": "glod"
    }"#;

    assert_eq!(
        refusal(text),
        "configuration refused: 7 problems\n\
         backends.quota.preset: not supported: got `limitadr`, allowed `headers`, `limitador`, \
         `envoy_ratelimit`, `gubernator`, `throttlecrab`, `unkey` or `custom`; did you mean \
         `limitador`?\n\
         policies.gold.backend: not found: no backend is named `qouta`, did you mean `quota`?\n\
         policies.gold.timeout: out of range: got 0ms, allowed 1ms to 60s\n\
         policies.gold.failure_mod: unknown key: did you mean `failure_mode`?\n\
         policies.gold.failure_mode: missing: required, `fail_open`, `fail_closed` or \
         `fail_local`\n\
         default_policy: not found: no policy is named `glod`, did you mean `gold`?\n\
         host_budget: missing: required, a duration, `6ms` to `10m`"
    );
}

#[test]
fn what_must_be_said_is_not_assumed() {
    for key in ["backend", "descriptor", "failure_mode"] {
        let mut plugin = config(&json!({}));
        if let Some(Value::Object(policy)) = plugin.pointer_mut("/policies/gold") {
            policy.remove(key);
        }

        let problem = format!("\npolicies.gold.{key}: missing: required, ");
        assert!(refusal(&plugin.to_string()).contains(&problem), "{key}");
    }
}

/// Lesson 4.1: the call's time is below the host's, for every policy and every rule.
#[test]
fn no_timeout_may_reach_the_host_budget() {
    let policy = config(&json!({"timeout": "950ms"}));
    let mut rule = config(&json!({}));
    rule["routes"] = json!([
        {"match": {}, "policy": "gold", "override": {"timeout": "950ms"}}
    ]);

    for (plugin, path) in [
        (policy, "policies.gold.timeout"),
        (rule, "routes[0].override.timeout"),
    ] {
        assert_eq!(
            refusal(&plugin.to_string()),
            format!(
                "configuration refused: 1 problem\n\
                 {path}: above budget: got 950ms, allowed at most 900ms: below the host_budget \
                 of 1s by a tenth, and 5ms at least"
            )
        );
    }
}

/// Lesson 3.6: what stands in a backend's headers may be a secret.
#[test]
fn a_secret_is_not_in_the_problems() {
    let mut plugin = config(&json!({}));
    plugin["backends"]["quota"]["headers"] = json!({"authorization": "Bearer s3cr3t\r\nx: y"});

    let text = refusal(&plugin.to_string());

    assert!(text.contains("backends.quota.headers.authorization: malformed"));
    assert!(!text.contains("s3cr3t"));
}

#[track_caller]
fn refusal(text: &str) -> String {
    match parse(text.as_bytes()) {
        Ok(_) => String::from("accepted"),
        Err(problems) => problems.to_string(),
    }
}
