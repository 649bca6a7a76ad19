//! Promise: a request never waits longer than its policy, its host and its client can afford.

use std::time::Duration;

use envoy_harness::eventually::eventually;
use envoy_harness::{Fault, Rig};
use serde_json::{Value, json};

use crate::gated::{Gated, by_path, config, gated, start};

/// A tick of the filter's timer, and what a busy machine may add.
const TICK_AND_SLACK: Duration = Duration::from_millis(20 + 1500);

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// The timeout that Envoy was given for the only call so far, as it tells the backend.
fn told_timeout(rig: &Gated) -> Vec<String> {
    rig.backend().expect_checks(1)[0].header_values("x-envoy-expected-rq-timeout-ms")
}

/// Lesson 4.1: the call's timeout is a named setting below the host's budget.
#[test]
fn a_hanging_backend_is_waited_for_as_long_as_the_policy_says() {
    let rig = gated(&json!({"timeout": "250ms"}));
    rig.backend().fail(Fault::Hang);

    let response = rig.request("GET", "/").header("x-tenant-id", "a").send();

    response.expect_status(503).expect_slower_than(ms(240));
    response.expect_faster_than(ms(250) + TICK_AND_SLACK);
    assert_eq!(told_timeout(&rig), ["250"]);
    let entry = rig.logged("/");
    let waited: u64 = entry
        .field("ms")
        .and_then(|ms| ms.parse().ok())
        .expect("a time");
    // As above: Envoy's timers may fire some milliseconds early.
    assert!((240..1770).contains(&waited), "{waited}");
    assert_eq!(entry.field("cause"), Some("timeout"));
}

/// Lesson 4.1: no host timeout that a request could meet wins over the filter's own.
#[test]
fn the_filter_answers_before_any_timeout_of_the_host() {
    let host = json!({
        "stream_idle_timeout": "4s",
        "request_timeout": "4s",
        "common_http_protocol_options": {"max_stream_duration": "4s"},
    });
    let fields = json!({"timeout": "300ms", "host_budget": "1s"});
    let rig = start(Rig::builder().plugin(config(&fields)).hcm(&host));
    rig.backend().fail(Fault::Hang);

    let response = rig.request("GET", "/").header("x-tenant-id", "a").send();

    response
        .expect_status(503)
        .expect_json("/code", "quota_unavailable");
    let entry = rig.logged("/");
    assert_eq!(entry.details, "quota_gate_quota_unavailable");
    assert_eq!(entry.flags, "-");
}

/// Lesson 4.1, by construction: a timeout that the host can't afford is no configuration.
#[test]
fn a_timeout_above_the_host_budget_is_refused() {
    let fields = json!({"timeout": "950ms", "host_budget": "1s"});

    let validation = Rig::builder().plugin(config(&fields)).validate();

    assert!(!validation.accepted);
    assert!(
        validation
            .log
            .contains("policies.gold.timeout: above budget"),
        "{}",
        validation.log
    );
}

/// The client's deadline is its own: the call goes on, so that it says nothing of the backend.
#[test]
fn a_grpc_clients_deadline_shortens_the_wait() {
    let rig = gated(&json!({"timeout": "4s"}));
    rig.backend().fail(Fault::Hang);

    let call = rig.grpc("/pkg.Service/Method").header("x-tenant-id", "a");
    let response = call.header("grpc-timeout", "300m").send();

    response.expect_status(200).expect_grpc_status(14);
    response
        .expect_slower_than(ms(290))
        .expect_faster_than(ms(300) + TICK_AND_SLACK);
    assert_eq!(told_timeout(&rig), ["4000"]);
    let entry = rig.logged("/pkg.Service/Method");
    assert_eq!(entry.field("cause"), Some("timeout"));
}

#[test]
fn a_grpc_clients_deadline_never_lengthens_the_wait() {
    let rig = gated(&json!({"timeout": "300ms"}));
    rig.backend().fail(Fault::Hang);

    let call = rig.grpc("/pkg.Service/Method").header("x-tenant-id", "a");
    let response = call.header("grpc-timeout", "60S").send();

    response.expect_status(200).expect_grpc_status(14);
    response.expect_faster_than(ms(300) + TICK_AND_SLACK);
}

#[test]
fn a_deadline_below_a_millisecond_asks_nobody() {
    let rig = gated(&json!({}));
    for timeout in ["0m", "999u", "1n"] {
        let call = rig.grpc(&format!("/{timeout}")).header("x-tenant-id", "a");

        call.header("grpc-timeout", timeout)
            .send()
            .expect_grpc_status(14);

        let entry = rig.logged(&format!("/{timeout}"));
        assert_eq!(entry.field("cause"), Some("deadline_too_short"));
    }
    assert!(rig.backend().checks().is_empty());
}

/// A client outside can't shorten its own checks into failures.
#[test]
fn an_expected_timeout_counts_only_from_a_trusted_hop() {
    for (inside, at_least, below) in [("127.0.0.0", 290, 2400), ("10.0.0.0", 2450, 4020)] {
        let ranges = json!({"cidr_ranges": [{"address_prefix": inside, "prefix_len": 8}]});
        let hcm = json!({"internal_address_config": ranges});
        let plugin = config(&json!({"timeout": "2500ms"}));
        let rig = start(Rig::builder().plugin(plugin).hcm(&hcm));
        rig.backend().fail(Fault::Hang);

        let request = rig.request("GET", "/").header("x-tenant-id", "a");
        let request = request.header("x-envoy-internal", "true");
        let response = request
            .header("x-envoy-expected-rq-timeout-ms", "300")
            .send();

        response
            .expect_status(503)
            .expect_slower_than(ms(at_least))
            .expect_faster_than(ms(below));
    }
}

/// A client behind other proxies is no trusted hop either.
#[test]
fn an_expected_timeout_from_behind_a_proxy_does_not_count() {
    let plugin = config(&json!({"timeout": "2500ms"}));
    let rig = start(
        Rig::builder()
            .plugin(plugin)
            .hcm(&json!({"use_remote_address": false})),
    );
    rig.backend().fail(Fault::Hang);

    let request = rig.request("GET", "/").header("x-tenant-id", "a");
    let request = request.header("x-forwarded-for", "203.0.113.7");
    let response = request
        .header("x-envoy-expected-rq-timeout-ms", "300")
        .send();

    response.expect_status(503).expect_slower_than(ms(2450));
}

/// One call for a key at a time, where answers may be used again.
fn joined(timeout: &str) -> Value {
    json!({"cache": {"allow_ttl": "60s"}, "timeout": timeout})
}

#[test]
fn equal_checks_share_one_call_and_its_answer() {
    let rig = gated(&joined("10s"));
    rig.backend().fail(Fault::Delay(ms(300)));

    let request = || rig.request("GET", "/").header("x-tenant-id", "a");
    let pending: Vec<_> = (0..8).map(|_| request().start()).collect();
    for pending in pending {
        pending.wait().expect_status(200);
    }

    rig.backend().expect_checks(1);
}

#[test]
fn a_shared_call_without_answer_releases_everybody_in_time() {
    let rig = gated(&joined("400ms"));
    rig.backend().fail(Fault::Hang);

    let request = || rig.request("GET", "/").header("x-tenant-id", "a");
    let pending: Vec<_> = (0..8).map(|_| request().start()).collect();

    for pending in pending {
        let response = pending.wait();
        response
            .expect_status(503)
            .expect_faster_than(ms(400) + TICK_AND_SLACK);
    }
    rig.envoy().expect_decisions(&[("quota_unavailable", 8)]);
}

/// The watchdog's work: the call that it waits for goes on, the stream does not.
#[test]
fn a_request_that_joined_a_call_leaves_at_its_own_deadline() {
    let rig = gated(&joined("10s"));
    rig.backend().fail(Fault::Delay(ms(2000)));
    let first = rig
        .request("GET", "/first")
        .header("x-tenant-id", "a")
        .start();
    rig.backend().expect_checks(1);

    let hurried = rig.grpc("/hurried").header("x-tenant-id", "a");
    let hurried = hurried.header("grpc-timeout", "200m").send();

    hurried.expect_grpc_status(14).expect_slower_than(ms(190));
    hurried.expect_faster_than(ms(200) + TICK_AND_SLACK);
    assert!(!first.is_done());
    first.wait().expect_status(200);
    assert_eq!(rig.logged("/hurried").field("cause"), Some("timeout"));
    rig.backend().expect_checks(1);
}

/// The leader's client leaves; those who joined its call still get the answer.
#[test]
fn whoever_joined_is_answered_when_the_first_has_left() {
    let rig = gated(&joined("10s"));
    rig.backend().fail(Fault::Delay(ms(400)));
    let first = rig
        .request("GET", "/first")
        .header("x-tenant-id", "a")
        .start();
    rig.backend().expect_checks(1);
    let second = rig
        .request("GET", "/second")
        .header("x-tenant-id", "a")
        .start();
    eventually("the second waits", || {
        (rig.envoy().metric("envoy_http_downstream_rq_total", &GATED) > 1.5).then_some(())
    });

    first.abandon();

    second.wait().expect_status(200);
    rig.backend().expect_checks(1);
    rig.envoy().expect_decisions(&[("within_quota", 2)]);
}

#[test]
fn an_answer_that_comes_too_late_changes_nothing() {
    let short = json!({"timeout": "150ms", "failure_mode": "fail_open"});
    let rig = start(Rig::builder().plugin(by_path(&[("/short", short), ("/long", json!({}))])));
    rig.backend()
        .limit("tenant=late", 0, Duration::from_secs(60));
    rig.backend().fail_next(1, Fault::Delay(ms(400)));
    let late = rig.request("GET", "/short").header("x-tenant-id", "late");
    late.clone().send().expect_status(200);

    // By the time that this one is answered, the late no has come, and is not remembered.
    rig.backend().fail_next(1, Fault::Delay(ms(500)));
    rig.request("GET", "/long")
        .header("x-tenant-id", "b")
        .send()
        .expect_status(200);

    rig.backend().fail_next(1, Fault::Hang);
    late.send().expect_status(200);
    rig.backend().expect_checks(3);
    rig.envoy()
        .expect_decisions(&[("failed_open", 2), ("within_quota", 1)]);
}

/// Lesson 4.1: every call is bounded, also the one that nobody waits for any more.
#[test]
fn a_call_ends_by_its_timeout_when_its_client_has_left() {
    let rig = gated(&json!({"timeout": "300ms"}));
    rig.backend().fail(Fault::Hang);
    let pending = rig.request("GET", "/").header("x-tenant-id", "a").start();
    rig.backend().expect_checks(1);
    rig.envoy()
        .expect_metric("quota_gate_pending", &[("backend", "quota")], 1);

    pending.abandon();

    rig.envoy()
        .expect_metric("quota_gate_pending", &[("backend", "quota")], 0);
    rig.envoy().expect_decisions(&[("quota_unavailable", 1)]);
}

const GATED: [(&str, &str); 1] = [("envoy_http_conn_manager_prefix", "gated")];
