//! Promise: every backend is spoken to in its own language, whatever the descriptor holds.

use std::time::Duration;

use envoy_harness::{Fault, Response, Rig, Wire};
use serde_json::{Value, json};

use crate::gated::{Gated, config, start};

const MINUTE: Duration = Duration::from_secs(60);

fn speaking(preset: &str, fields: &Value) -> Gated {
    let mut config = config(fields);
    config["backends"]["quota"]["preset"] = json!(preset);
    config["backends"]["quota"]["namespace"] = json!("api");
    config["policies"]["gold"]["cost"] = json!({"header": "x-cost", "max": 100});
    config["policies"]["gold"]["cache"] = json!({"deny_ttl": "0s"});
    start(Rig::builder().plugin(config))
}

fn cost(rig: &Rig, tenant: &str, units: &str) -> Response {
    let request = rig.request("GET", "/").header("x-tenant-id", tenant);
    request.header("x-cost", units).send()
}

#[test]
fn limitador_counts_and_decides() {
    let rig = speaking("limitador", &json!({}));
    rig.backend().limit_in("api", "tenant=acme", &[], 5, MINUTE);

    let allowed = cost(&rig, "acme", "3");
    allowed
        .expect_status(200)
        .expect_header("ratelimit-policy", "\"gold\";q=5;w=60");
    cost(&rig, "acme", "3")
        .expect_status(429)
        .expect_json("/code", "quota_exceeded");
    cost(&rig, "other", "3").expect_status(200);

    let check = rig.backend().expect_checks(3).remove(0);
    assert_eq!(
        (check.wire, check.path.as_str()),
        (Wire::Limitador, "/check_and_report")
    );
    assert_eq!((check.namespace.as_str(), check.cost), ("api", 3));
    assert_eq!(
        check.text(),
        r#"{"namespace":"api","values":{"tenant":"acme"},"delta":3,"response_headers":"DraftVersion03"}"#
    );
}

#[test]
fn envoy_ratelimit_counts_and_decides() {
    let rig = speaking("envoy_ratelimit", &json!({}));
    rig.backend().limit_in("api", "tenant=acme", &[], 5, MINUTE);

    let allowed = cost(&rig, "acme", "5");
    // What is zero is left out of its JSON: the limit is used up, not unknown.
    let limit = allowed
        .expect_status(200)
        .header("ratelimit")
        .expect("a header");
    assert!(limit.starts_with("\"gold\";r=0;t="), "{limit}");
    let denied = cost(&rig, "acme", "1");
    denied
        .expect_status(429)
        .expect_json("/code", "quota_exceeded");
    let wait: u32 = denied
        .header("retry-after")
        .expect("a header")
        .parse()
        .expect("seconds");
    assert!((1..=60).contains(&wait), "{wait}");

    let check = rig.backend().expect_checks(2).remove(0);
    assert_eq!(
        (check.wire, check.path.as_str()),
        (Wire::EnvoyRatelimit, "/json")
    );
    assert_eq!((check.namespace.as_str(), check.cost), ("api", 5));
}

#[test]
fn a_check_of_no_cost_counts_nothing_in_any_language() {
    for preset in ["headers", "limitador", "envoy_ratelimit"] {
        let rig = speaking(preset, &json!({}));
        let namespace = if preset == "headers" {
            "quota-gate"
        } else {
            "api"
        };
        rig.backend()
            .limit_in(namespace, "tenant=acme", &[], 1, MINUTE);

        for _ in 0..3 {
            cost(&rig, "acme", "0").expect_status(200);
        }
        cost(&rig, "acme", "1").expect_status(200);
        cost(&rig, "acme", "1").expect_status(429);

        rig.backend().expect_checks(5);
    }
}

#[test]
fn a_ratelimit_service_that_lost_its_redis_is_unavailable_and_denies_nobody() {
    let rig = speaking("envoy_ratelimit", &json!({"failure_mode": "fail_open"}));
    for fault in [
        Fault::Status(400),
        Fault::Status(500),
        Fault::TruncatedJson,
        Fault::WrongJson,
        Fault::Answer(200, Vec::new(), br#"{"overallCode":"UNKNOWN"}"#.to_vec()),
    ] {
        rig.backend().fail(fault);
        cost(&rig, "acme", "1").expect_status(200);
    }

    rig.envoy().expect_decisions(&[("failed_open", 5)]);
    let causes = [("status", 2), ("bad_reply", 3)];
    for (cause, count) in causes {
        rig.envoy()
            .expect_metric("quota_gate_failures", &[("cause", cause)], count);
    }
}

/// Values that would break out of a text if they were not escaped, and what a backend gets that
/// speaks JSON: there `%` and what can't be shown are percent-encoded, so that no two look alike.
const HOSTILE: [(&str, &str); 7] = [
    (r#"","delta":0,"x":""#, r#"","delta":0,"x":""#),
    (r#""}],"hitsAddend":0}//"#, r#""}],"hitsAddend":0}//"#),
    (r"\", r"\"),
    (r"\u0022", r"\u0022"),
    ("a\tb", "a%09b"),
    ("a&tenant=other&b=%00", "a&tenant=other&b=%2500"),
    ("ü€😀", "ü€😀"),
];

#[test]
fn no_value_breaks_out_of_its_place_in_any_language() {
    for preset in ["headers", "limitador", "envoy_ratelimit"] {
        let rig = speaking(preset, &json!({}));
        for (value, _) in HOSTILE {
            cost(&rig, value, "2").expect_status(200);
        }

        let checks = rig.backend().expect_checks(HOSTILE.len());
        for (check, (value, in_json)) in checks.iter().zip(HOSTILE) {
            let told = if preset == "headers" { value } else { in_json };
            assert_eq!(check.entry("tenant"), Some(told), "{preset}");
            assert_eq!((check.descriptor.len(), check.cost), (1, 2), "{preset}");
        }
    }
}

#[test]
fn bytes_that_are_no_text_stay_different_from_each_other() {
    for preset in ["headers", "limitador", "envoy_ratelimit"] {
        let rig = speaking(preset, &json!({}));
        for bytes in [&b"k\xff"[..], b"k\xfe", b"k\xc3"] {
            let request = rig.request("GET", "/").header("x-tenant-id", bytes);
            request.send().expect_status(200);
        }

        let checks = rig.backend().expect_checks(3);
        let body = |place: usize| (checks[place].body.clone(), checks[place].headers.clone());
        assert_ne!(body(0), body(1), "{preset}");
        assert_ne!(body(1), body(2), "{preset}");
    }
}
