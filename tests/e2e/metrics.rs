//! Promise: what happens is counted once, under the published names and labels, and no secret is
//! in any of it.

use std::time::Duration;

use envoy_harness::{Fault, Rig, jwt, send_all};
use serde_json::{Value, json};

use crate::gated::{Gated, config, gated, start};

fn ask(rig: &Rig, tenant: &str) -> u16 {
    rig.request("GET", "/")
        .header("x-tenant-id", tenant)
        .send()
        .status
}

/// Waits until the series of `name` are these, each as `a=1,b=2`, and their values.
#[track_caller]
fn expect_series(rig: &Rig, name: &str, expected: &[(&str, u32)]) {
    for (labels, value) in expected {
        let labels: Vec<(&str, &str)> = labels
            .split(',')
            .filter_map(|label| label.split_once('='))
            .collect();
        rig.envoy().expect_metric(name, &labels, *value);
    }
    let mut found: Vec<String> = rig
        .envoy()
        .counters()
        .into_iter()
        .filter(|sample| sample.name == name)
        .map(|sample| {
            let labels = sample
                .labels
                .iter()
                .map(|(name, value)| format!("{name}={value}"));
            labels.collect::<Vec<_>>().join(",")
        })
        .collect();
    let mut labels: Vec<&str> = expected.iter().map(|(labels, _)| *labels).collect();
    found.sort();
    labels.sort_unstable();
    assert_eq!(found, labels, "the series of {name}");
}

#[test]
fn requests_are_counted_by_policy_decision_and_reason() {
    let mut config = config(&json!({"cache": {"allow_ttl": "60s"}}));
    config["routes"] = json!([{"match": {"path_prefix": "/free"}, "policy": "off"}]);
    let rig = start(Rig::builder().plugin(config));

    assert_eq!(
        [ask(&rig, "a"), ask(&rig, "a"), ask(&rig, "")],
        [200, 200, 401]
    );
    rig.backend().fail(Fault::Status(429));
    assert_eq!(ask(&rig, "b"), 429);
    rig.backend().fail(Fault::Status(500));
    assert_eq!(ask(&rig, "c"), 503);
    rig.get("/free").expect_status(200);

    let expected = [
        ("decision=allow,policy=gold,reason=cached", 1),
        ("decision=allow,policy=gold,reason=within_quota", 1),
        ("decision=allow,policy=off,reason=bypassed", 1),
        ("decision=deny,policy=gold,reason=descriptor_missing", 1),
        ("decision=deny,policy=gold,reason=quota_exceeded", 1),
        ("decision=deny,policy=gold,reason=quota_unavailable", 1),
    ];
    expect_series(&rig, "quota_gate_requests", &expected);
}

#[test]
fn callouts_and_failures_are_counted_by_backend_and_what_came_of_them() {
    let fields = json!({"timeout": "150ms", "cache": {"deny_ttl": "0s"}});
    let rig = gated(&fields);

    assert_eq!(ask(&rig, "a"), 200);
    for (fault, status) in [
        (Fault::Status(429), 429),
        (Fault::Status(403), 403),
        (Fault::Status(500), 503),
        (Fault::Status(503), 503),
        (Fault::Hang, 503),
        (Fault::Refuse, 503),
    ] {
        rig.backend().fail(fault);
        assert_eq!(ask(&rig, "a"), status);
    }

    let callouts = [
        ("backend=quota,result=allow", 1),
        ("backend=quota,result=deny", 1),
        ("backend=quota,result=reject", 1),
        ("backend=quota,result=status", 2),
        ("backend=quota,result=timeout", 1),
        ("backend=quota,result=unreachable", 1),
    ];
    expect_series(&rig, "quota_gate_callouts", &callouts);
    let failures = [
        ("backend=quota,cause=status", 2),
        ("backend=quota,cause=timeout", 1),
        ("backend=quota,cause=unreachable", 1),
    ];
    expect_series(&rig, "quota_gate_failures", &failures);
}

#[test]
fn calls_that_are_not_made_are_failures_with_their_cause() {
    let mut config = config(&json!({}));
    config["backends"]["quota"]["max_pending"] = json!(1);
    config["policies"]["lost"] = config["policies"]["gold"].clone();
    config["policies"]["lost"]["backend"] = json!("lost");
    config["backends"]["lost"] = json!({"cluster": "no-such-cluster", "breaker": "off"});
    config["routes"] = json!([{"match": {"path_prefix": "/lost"}, "policy": "lost"}]);
    let rig = start(Rig::builder().plugin(config));
    rig.backend()
        .fail(Fault::Delay(Duration::from_millis(1500)));

    let first = rig.request("GET", "/").header("x-tenant-id", "a").start();
    rig.backend().expect_checks(1);
    assert_eq!(ask(&rig, "b"), 503);
    let hasty = rig.grpc("/pkg.Service/Call").header("x-tenant-id", "c");
    hasty
        .header("grpc-timeout", "10u")
        .send()
        .expect_grpc_status(14);
    let lost = rig.request("GET", "/lost").header("x-tenant-id", "d");
    lost.send().expect_status(503);
    first.wait().expect_status(200);

    let failures = [
        ("backend=lost,cause=dispatch", 1),
        ("backend=quota,cause=deadline_too_short", 1),
        ("backend=quota,cause=too_many_pending", 1),
    ];
    expect_series(&rig, "quota_gate_failures", &failures);
}

#[test]
fn the_time_of_calls_is_a_histogram_and_calls_in_flight_are_a_gauge() {
    let rig = gated(&json!({}));
    rig.backend()
        .fail(Fault::Delay(Duration::from_millis(1100)));
    let requests = (0..5).map(|_| rig.request("GET", "/").header("x-tenant-id", "a").start());
    let waiting: Vec<_> = requests.collect();
    rig.envoy()
        .expect_metric("quota_gate_pending", &[("backend", "quota")], 5);

    for request in waiting {
        request.wait().expect_status(200);
    }

    rig.envoy()
        .expect_metric("quota_gate_pending", &[("backend", "quota")], 0);
    let backend = [("backend", "quota")];
    rig.envoy()
        .expect_metric("quota_gate_callout_duration_ms_count", &backend, 5);
    let up_to = |le: &str, count| {
        let bucket = [("backend", "quota"), ("le", le)];
        rig.envoy()
            .expect_metric("quota_gate_callout_duration_ms_bucket", &bucket, count);
    };
    up_to("1000", 0);
    up_to("5000", 5);
}

#[test]
fn gauges_are_there_before_any_traffic() {
    let mut config = config(&json!({}));
    config["backends"]["quota"]["breaker"] = json!({});
    let rig = start(Rig::builder().plugin(config));
    let there = |name: &str, labels: &str| expect_series(&rig, name, &[(labels, 0)]);

    envoy_harness::eventually::eventually("a gauge of the breaker", || {
        let counters = rig.envoy().counters();
        let found = counters
            .iter()
            .any(|s| s.name == "quota_gate_breaker_state");
        found.then_some(())
    });

    there("quota_gate_breaker_state", "backend=quota");
    there("quota_gate_emergency_active", "");
    rig.envoy()
        .expect_metric("quota_gate_timeout_ms", &[("backend", "quota")], 5000);
}

#[test]
fn what_a_full_table_lets_go_is_counted() {
    let rig = gated(&json!({"cache": {"allow_ttl": "1h"}, "descriptor":
        [{"name": "key", "header": "x-key"}]}));
    let long = "k".repeat(200_000);

    // Twenty keys of a fifth of a megabyte, where four are all that a worker keeps.
    for place in 0..30 {
        let request = rig
            .request("GET", "/")
            .header("x-key", format!("{place}{long}"));
        request.send().expect_status(200);
    }

    let evictions = rig
        .envoy()
        .metric("quota_gate_evictions", &[("table", "cache")]);
    assert!(evictions >= 1.0, "{evictions} evictions");
    rig.backend().expect_checks(30);
}

/// Everything that anybody may read of a rig: Envoy's log, the access log, the metrics.
fn everything(rig: &Gated) -> String {
    let metrics = rig.envoy().admin_get("/stats/prometheus").text();
    let access = format!("{:?}", rig.envoy().access_log());
    let stats = rig.envoy().admin_get("/stats").text();
    [rig.envoy().log(), access, metrics, stats].join("\n")
}

#[test]
fn no_key_no_token_and_no_header_is_in_any_log_or_metric() {
    let mut config = config(&json!({
        "descriptor": [
            {"name": "tenant", "header": "x-tenant-id"},
            {"name": "user", "optional": true, "property": ["metadata", "filter_metadata",
                "envoy.filters.http.jwt_authn", "jwt_payload", "sub"]},
        ],
        "cache": {"allow_ttl": "10s"}, "lease": {"max_units": 10, "ttl": "1s"},
        "denial": {"headers": {"x-help": "s3cret-help"}},
    }));
    config["backends"]["quota"]["headers"] = json!({"authorization": "Bearer s3cret-backend"});
    config["backends"]["quota"]["breaker"] = json!({"consecutive_failures": 2});
    config["status_path"] = json!("/-/quota-gate");
    let rig = start(Rig::builder().filter_before(jwt::filter()).plugin(config));
    let token = jwt::token(&json!({"sub": "s3cret-subject"}));
    let statuses = |fault: Option<Fault>| {
        fault.map(|fault| rig.backend().fail(fault));
        let request = rig
            .request("GET", "/")
            .header("x-tenant-id", "s3cret-tenant")
            .header("x-quota-decision", "s3cret-decision")
            .header("authorization", format!("Bearer {token}"));
        let responses = send_all((0..6).map(|_| request.clone()));
        responses
            .iter()
            .map(|response| response.status)
            .collect::<Vec<_>>()
    };

    assert_eq!(statuses(None), [200; 6]);
    let sent = rig.backend().checks().remove(0);
    assert_eq!(
        sent.header_values("authorization"),
        ["Bearer s3cret-backend"]
    );
    assert_eq!(sent.entry("user"), Some("s3cret-subject"));
    let body = b"s3cret-body".to_vec();
    let garbled = vec![("x-s".to_owned(), "s3cret-reply".to_owned())];
    statuses(Some(Fault::Answer(403, garbled.clone(), body.clone())));
    statuses(Some(Fault::Answer(500, garbled, body)));
    statuses(Some(Fault::Garbage));
    let page = rig.get("/-/quota-gate").text();

    rig.envoy().expect_log_line("check failed");
    for secret in ["s3cret", token.as_str()] {
        assert!(!everything(&rig).contains(secret), "a secret got out");
        assert!(!page.contains(secret), "{page}");
    }
}

#[test]
fn a_configuration_is_named_in_the_log_once_and_its_values_are_not() {
    let mut config = config(&json!({}));
    config["backends"]["quota"]["headers"] = json!({"x-root-key": "s3cret"});
    let rig = start(Rig::builder().concurrency(2).plugin(config));

    rig.envoy()
        .expect_log_line("1 backends, 1 policies, 0 routes");

    assert_eq!(rig.envoy().log_lines("1 backends").len(), 1);
    assert!(!rig.envoy().log().contains("s3cret"));
    let refused: Value = json!({"backends": {"quota": {"headers": {"x-key": "s3cret\n"}}}});
    let validation = Rig::builder().plugin(refused).validate();
    assert!(
        !validation.accepted && !validation.log.contains("s3cret"),
        "{}",
        validation.log
    );
}
