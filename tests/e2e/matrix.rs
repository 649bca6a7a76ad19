//! The core of the promises, for every supported Envoy: `cargo xtask test matrix` runs these.

use std::time::Duration;

use envoy_harness::{Fault, Push, Rig, Route};
use serde_json::json;

use crate::gated::{Gated, by_path, config, gated, start, state};

fn get(rig: &Gated, path: &str) -> envoy_harness::Response {
    rig.request("GET", path)
        .header("x-tenant-id", "acme")
        .send()
}

#[test]
fn allows_and_tells_the_upstream_the_client_and_the_operator() {
    let rig = gated(&json!({}));
    rig.backend()
        .limit_each("tenant", 2, Duration::from_secs(60));

    let response = get(&rig, "/");

    response
        .expect_status(200)
        .expect_header("ratelimit-policy", "\"gold\";q=2;w=60");
    assert_eq!(rig.told_upstream(), [["allow; reason=within_quota"]]);
    let entry = rig.logged("/");
    assert_eq!(
        state(&entry),
        "allow reason=within_quota policy=gold backend=quota"
    );
    let labels = [
        ("policy", "gold"),
        ("decision", "allow"),
        ("reason", "within_quota"),
    ];
    rig.envoy().expect_metric("quota_gate_requests", &labels, 1);
    let labels = [("backend", "quota"), ("result", "allow")];
    rig.envoy().expect_metric("quota_gate_callouts", &labels, 1);
    rig.envoy()
        .expect_metric("quota_gate_callout_duration_ms_count", &labels[..1], 1);
}

#[test]
fn denies_over_the_limit_over_http1_and_http2() {
    let rig = gated(&json!({}));
    rig.backend().limit("", 0, Duration::from_secs(60));

    for request in [rig.request("GET", "/"), rig.request("GET", "/").h2()] {
        let response = request.header("x-tenant-id", "acme").send();
        response
            .expect_status(429)
            .expect_header("content-type", "application/problem+json")
            .expect_json("/code", "quota_exceeded");
        assert!(response.header("retry-after").is_some());
    }

    let entry = rig.logged("/");
    assert_eq!(entry.details, "quota_gate_quota_exceeded");
    assert!(rig.upstream().seen().is_empty());
}

#[test]
fn denies_grpc_with_a_grpc_status() {
    let rig = gated(&json!({}));
    rig.backend()
        .limit("tenant=over", 0, Duration::from_secs(60));
    let call = |tenant: &str| {
        rig.grpc("/pkg.Service/Method")
            .header("x-tenant-id", tenant)
            .send()
    };

    call("over").expect_status(200).expect_grpc_status(8);
    call("good").expect_status(200).expect_grpc_status(0);
}

/// Both modes at once: `/open` is let through, `/closed` gets 503, for this cause.
fn fails(fault: Fault, cause: &str) {
    let fields = |mode: &str| json!({"failure_mode": mode, "timeout": "400ms"});
    let policies = [
        ("/open", fields("fail_open")),
        ("/closed", fields("fail_closed")),
    ];
    let rig = start(Rig::builder().plugin(by_path(&policies)));
    rig.backend().fail(fault);

    get(&rig, "/open").expect_status(200);
    get(&rig, "/closed")
        .expect_status(503)
        .expect_json("/code", "quota_unavailable");

    assert_eq!(rig.told_upstream(), [["allow; reason=failed_open"]]);
    for path in ["/open", "/closed"] {
        assert_eq!(rig.logged(path).field("cause"), Some(cause), "{path}");
    }
    let labels = [("backend", "quota"), ("cause", cause)];
    rig.envoy().expect_metric("quota_gate_failures", &labels, 2);
}

#[test]
fn a_backend_that_hangs_is_a_timeout() {
    fails(Fault::Hang, "timeout");
}

#[test]
fn a_backend_that_is_down_is_unreachable() {
    fails(Fault::Refuse, "unreachable");
}

#[test]
fn a_backend_that_says_503_is_not_one_that_is_down() {
    fails(Fault::Status(503), "status");
}

#[test]
fn a_backend_that_breaks_off_is_unreachable() {
    fails(Fault::ResetMidBody, "unreachable");
}

#[test]
fn a_cluster_that_is_not_there_is_a_failure_at_once() {
    let mut plugin = config(&json!({}));
    plugin["backends"]["quota"]["cluster"] = json!("no-such-cluster");
    let rig = start(Rig::builder().plugin(plugin));

    get(&rig, "/").expect_status(503);

    assert_eq!(rig.logged("/").field("cause"), Some("dispatch"));
}

#[test]
fn a_byte_that_is_no_text_traps_nothing() {
    let rig = gated(&json!({}));

    let odd = rig
        .request("GET", "/")
        .header("x-tenant-id", b"\xff")
        .header("x-odd", b"\xfe");
    odd.send().expect_status(200);

    let checks = rig.backend().expect_checks(1);
    assert_eq!(
        checks[0].header_values("x-quota-descriptor"),
        ["tenant=%FF"]
    );
    get(&rig, "/next").expect_status(200);
}

#[test]
fn a_body_is_held_until_the_decision_whatever_the_option() {
    for allow in [false, true] {
        let builder = Rig::builder().plugin(config(&json!({})));
        let rig = start(builder.allow_on_headers_stop_iteration(allow));
        rig.backend().limit("", 0, Duration::from_secs(60));
        rig.backend().fail(Fault::Delay(Duration::from_millis(300)));

        let upload = rig
            .request("POST", "/")
            .header("x-tenant-id", "a")
            .body("data");

        upload.send().expect_status(429);
        assert!(rig.upstream().seen().is_empty());
    }
}

#[test]
fn a_routes_metadata_names_its_policy() {
    let policies = [("/never-matched-a", json!({"failure_mode": "fail_open"}))];
    let rig = start(
        Rig::builder()
            .plugin(by_path(&policies))
            .route(Route::path("/a").quota(json!({"policy": "never-matched-a"})))
            .route(Route::path("/b").quota(json!({"failure_mode": "fail_open"})))
            .route(Route::path("/c").quota(json!({"policy": "unknown"})))
            .route(Route::path("/off").without_gate()),
    );
    rig.backend().fail(Fault::Refuse);

    for (path, status) in [
        ("/a", 200),
        ("/b", 200),
        ("/c", 503),
        ("/d", 503),
        ("/off", 200),
    ] {
        get(&rig, path).expect_status(status);
    }

    assert_eq!(rig.logged("/a").field("policy"), Some("never-matched-a"));
    rig.envoy()
        .expect_decisions(&[("failed_open", 2), ("quota_unavailable", 2)]);
    rig.unseen(1);
}

#[test]
fn a_pushed_configuration_takes_over_and_a_bad_one_does_not() {
    let mode = |mode: &str| config(&json!({"failure_mode": mode}));
    let rig = start(Rig::builder().plugin(mode("fail_closed")).ecds());
    rig.backend().fail(Fault::Refuse);
    get(&rig, "/").expect_status(503);

    let Push::Rejected(log) = rig.push_config(&mode("fail_maybe")) else {
        panic!("a bad configuration was taken")
    };
    assert!(
        log.contains("policies.gold.failure_mode: not supported"),
        "{log}"
    );
    get(&rig, "/").expect_status(503);
    assert_eq!(rig.push_config(&mode("fail_open")), Push::Accepted);

    get(&rig, "/").expect_status(200);
    rig.envoy()
        .expect_decisions(&[("quota_unavailable", 2), ("failed_open", 1)]);
}

#[test]
fn a_refused_configuration_keeps_envoy_from_starting() {
    let validation = Rig::builder()
        .plugin(config(&json!({"timeout": "soon"})))
        .validate();

    assert!(!validation.accepted);
    assert!(
        validation.log.contains("policies.gold.timeout: malformed"),
        "{}",
        validation.log
    );
}
