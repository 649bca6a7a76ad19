//! Promise: when the backend gives no answer, the policy's failure mode decides, and says why.

use std::time::Duration;

use envoy_harness::capabilities::{capabilities, minor_version, placed, restriction};
use envoy_harness::{Cluster, Fault, Response, Rig, RigBuilder, send_all};
use serde_json::{Value, json};

use crate::gated::{Gated, by_path, config, gated, merge, start, state};

/// The timeout of the checks here: long enough for a good answer on a busy machine.
const TIMEOUT: Duration = Duration::from_millis(800);

/// A tick of the filter's timer, and what a busy machine may add.
const TICK_AND_SLACK: Duration = Duration::from_millis(20 + 1500);

/// A policy that fails open and one that fails closed, each also with a backend that speaks JSON.
fn open_and_closed() -> Value {
    let fields = |mode: &str, backend: &str| {
        let timeout = "800ms";
        json!({"failure_mode": mode, "backend": backend, "timeout": timeout})
    };
    let mut config = by_path(&[
        ("/open", fields("fail_open", "quota")),
        ("/closed", fields("fail_closed", "quota")),
        ("/json-open", fields("fail_open", "json")),
        ("/json-closed", fields("fail_closed", "json")),
    ]);
    let json = json!({
        "cluster": "quota-backend", "preset": "envoy_ratelimit", "breaker": "off",
    });
    config["backends"]["json"] = json;
    config
}

fn builder() -> RigBuilder {
    Rig::builder().plugin(open_and_closed())
}

/// Asks under both failure modes at once: open, closed.
fn ask(rig: &Gated, prefix: &str, query: &str) -> (Response, Response) {
    let path = |mode: &str| format!("/{prefix}{mode}?{query}");
    let request = |mode| rig.request("GET", &path(mode)).header("x-tenant-id", query);
    let mut responses = send_all([request("open"), request("closed")]);
    let closed = responses.remove(1);
    (responses.remove(0), closed)
}

/// What both modes made of a check without answer, for this cause.
#[track_caller]
fn expect_failed(rig: &Gated, prefix: &str, query: &str, cause: &str) {
    let causes = |policy: &str, backend: &str, word: &str| {
        format!("{word} cause={cause} policy={policy} backend={backend}")
    };
    let failures = |backend: &str| {
        let code = cause.split(' ').next().unwrap_or_default();
        let labels = [("backend", backend), ("cause", code)];
        rig.envoy().metric("quota_gate_failures", &labels)
    };
    let backend = if prefix.is_empty() { "quota" } else { "json" };
    let before = failures(backend);

    let (open, closed) = ask(rig, prefix, query);

    open.expect_status(200)
        .expect_faster_than(TIMEOUT + TICK_AND_SLACK);
    closed
        .expect_status(503)
        .expect_json("/code", "quota_unavailable")
        .expect_header("retry-after", "1")
        .expect_faster_than(TIMEOUT + TICK_AND_SLACK);
    assert!(!closed.text().contains(cause), "{}", closed.text());
    let [open, closed] = ["open", "closed"].map(|mode| format!("{prefix}{mode}"));
    let logged = |policy: &str| rig.logged(&format!("/{policy}?{query}"));
    let expected = causes(&open, backend, "allow reason=failed_open");
    assert_eq!(state(&logged(&open)), expected, "{query}");
    let entry = logged(&closed);
    let expected = causes(&closed, backend, "deny reason=quota_unavailable");
    assert_eq!(state(&entry), expected, "{query}");
    assert_eq!(entry.details, "quota_gate_quota_unavailable");
    envoy_harness::eventually::eventually(&format!("{query}: both are counted"), || {
        ((failures(backend) - before - 2.0).abs() < 0.5).then_some(())
    });
}

/// A fault's name, for paths and messages.
fn name(fault: &Fault) -> String {
    let debug: String = format!("{fault:?}").chars().take(40).collect();
    debug.chars().filter(char::is_ascii_alphanumeric).collect()
}

/// Each fault ends in its cause under both modes, and the next good request is checked normally.
fn each(rig: &Gated, prefix: &str, table: &[(Fault, &str)]) {
    for (fault, cause) in table {
        rig.backend().fail(fault.clone());
        expect_failed(rig, prefix, &name(fault), cause);
        rig.backend().recover();
        let again = format!("{}-recovered", name(fault));
        let (open, closed) = ask(rig, prefix, &again);
        open.expect_status(200);
        closed.expect_status(200);
        let entry = rig.logged(&format!("/{prefix}open?{again}"));
        assert_eq!(entry.field("reason"), Some("within_quota"), "{fault:?}");
        assert!(rig.envoy().alive());
    }
}

/// Faults of the connection, whatever the protocol to the backend.
fn of_the_connection() -> Vec<(Fault, &'static str)> {
    vec![
        (Fault::Refuse, "unreachable"),
        (Fault::Hang, "timeout"),
        (Fault::CloseBeforeHeaders, "unreachable"),
        (Fault::ResetBeforeHeaders, "unreachable"),
        (Fault::ResetMidBody, "unreachable"),
        (Fault::StallMidBody, "timeout"),
        (Fault::Garbage, "unreachable"),
        (Fault::WrongHttpVersion, "unreachable"),
    ]
}

/// Lesson 4.7: one table of the kinds of failure; the host lives, and recovery follows each.
/// Lesson 2.1: two modes, chosen per policy. Lesson 4.4: nothing is retried.
#[test]
fn every_fault_of_the_connection_has_its_cause_over_http1() {
    let rig = start(builder());
    each(&rig, "", &of_the_connection());
    each(
        &rig,
        "",
        &[(Fault::Raw(b"HTTP/1.1 20".to_vec()), "unreachable")],
    );
}

#[test]
fn every_fault_of_the_connection_has_its_cause_over_http2() {
    let rig = start(builder().backend_http2());
    each(&rig, "", &of_the_connection());
    assert!(rig.backend().checks().iter().all(|check| check.h2));
}

/// Only what Envoy itself made carries no `x-envoy-upstream-service-time`: a backend that says 503
/// is told from one that is dead.
#[test]
fn a_status_that_says_neither_yes_nor_no_is_a_failure() {
    let rig = start(builder());
    for status in [302, 400, 404, 408, 418, 500, 502, 503, 504, 599] {
        let cause = format!("status status={status}");
        each(&rig, "", &[(Fault::Status(status), &cause)]);
    }
}

#[test]
fn an_answer_that_cant_be_read_is_a_failure() {
    let rig = start(builder());
    each(
        &rig,
        "json-",
        &[
            (Fault::TruncatedJson, "bad_reply"),
            (Fault::WrongJson, "bad_reply"),
            (Fault::Status(400), "status status=400"),
            (Fault::StallMidBody, "timeout"),
            (Fault::ResetMidBody, "unreachable"),
        ],
    );
}

#[test]
fn an_answer_too_large_for_envoy_is_a_failure() {
    let rig = start(builder());
    each(&rig, "", &[(Fault::Headers(200), "unreachable")]);

    for (mode, status) in [("fail_closed", 503), ("fail_open", 200)] {
        let rig = gated(&json!({"timeout": "20s", "failure_mode": mode}));
        let ask = || rig.request("GET", "/").header("x-tenant-id", "a").send();
        rig.backend().fail(Fault::HugeBody);
        ask().expect_status(status);
        assert_eq!(rig.logged("/").field("cause"), Some("unreachable"));

        rig.backend().recover();
        ask().expect_status(200);
        rig.envoy()
            .expect_metric("quota_gate_requests", &[("reason", "within_quota")], 1);
    }
}

#[test]
fn an_odd_answer_that_still_says_yes_is_a_yes() {
    let rig = start(builder().backend_trailers());
    for fault in [
        Fault::DoubledHeaders,
        Fault::HeaderBytes(50_000),
        Fault::HeaderBytes(70_000),
        Fault::Headers(50),
        Fault::Informational,
        Fault::Trailers,
    ] {
        rig.backend().fail(fault.clone());
        let (open, closed) = ask(&rig, "", &name(&fault));
        open.expect_status(200);
        closed.expect_status(200);
        let entry = rig.logged(&format!("/closed?{}", name(&fault)));
        assert_eq!(entry.field("reason"), Some("within_quota"), "{fault:?}");
        rig.backend().recover();
    }
}

/// Envoy refuses these calls on the spot: there is no callback to wait for.
#[test]
fn a_call_that_the_host_refuses_is_a_failure_at_once() {
    let clusters = ["no-such-cluster", "nobody", "nowhere", "full"];
    let mut config = open_and_closed();
    for cluster in clusters {
        config["backends"][cluster] = json!({"cluster": cluster, "breaker": "off"});
        let policy = json!({"backend": cluster, "failure_mode": "fail_closed", "timeout": "20s"});
        let add = by_path(&[(&format!("/{cluster}"), policy)]);
        config["policies"][cluster] = add["policies"][cluster].clone();
        let routes = config["routes"].as_array_mut().expect("routes");
        routes.push(add["routes"][0].clone());
    }
    let rig = start(
        Rig::builder()
            .plugin(config)
            .cluster(Cluster::new("nobody"))
            .cluster(Cluster::new("nowhere").dns("no-such.invalid", 80))
            .cluster(Cluster::new("full").at_most(0, 0).dns("localhost", 80)),
    );

    for cluster in clusters {
        let path = format!("/{cluster}");
        let response = rig.request("GET", &path).header("x-tenant-id", "a").send();
        response
            .expect_status(503)
            .expect_faster_than(TICK_AND_SLACK);
        assert_eq!(
            rig.logged(&path).field("cause"),
            Some("dispatch"),
            "{cluster}"
        );
    }
}

/// Lesson 2.2: only a missing answer triggers the mode; over the limit and a bad key never do.
/// Lesson 1.2: a limit stays 429, unavailability is 503, and the two are never mixed up.
#[test]
fn a_denial_is_never_a_failure() {
    let rig = start(builder());
    for (status, reason) in [
        (429, "quota_exceeded"),
        (401, "key_rejected"),
        (403, "key_rejected"),
    ] {
        rig.backend().fail(Fault::Status(status));
        let (open, closed) = ask(&rig, "", &format!("denied-{status}"));
        for response in [open, closed] {
            response.expect_status(status).expect_json("/code", reason);
        }
    }

    rig.backend().fail(Fault::Status(503));
    let (_, closed) = ask(&rig, "", "unavailable");
    closed
        .expect_status(503)
        .expect_json("/code", "quota_unavailable");
    rig.envoy().expect_metric("quota_gate_failures", &[], 2);
}

/// Lesson 1.1: a failing check never lets a protected route through silently: 503 and a code.
/// Lesson 4.2: the client gets JSON with a stable code whatever the kind of failure.
/// Lesson 2.5: the answer's cause is told, to operators only.
#[test]
fn a_closed_route_answers_every_failure_with_the_same_parseable_503() {
    let rig = gated(&json!({"timeout": "300ms"}));
    for fault in [
        Fault::Hang,
        Fault::Refuse,
        Fault::Garbage,
        Fault::Status(500),
    ] {
        rig.backend().fail(fault.clone());
        let path = format!("/{}", name(&fault));

        let response = rig.request("GET", &path).header("x-tenant-id", "a").send();

        response
            .expect_status(503)
            .expect_header("content-type", "application/problem+json")
            .expect_json("/code", "quota_unavailable")
            .expect_json("/status", 503)
            .expect_json("/title", "Quota can't be checked for the moment");
        assert!(rig.logged(&path).field("cause").is_some());
        rig.backend().recover();
    }
    assert!(rig.upstream().seen().is_empty());
}

/// Lesson 1.4: every failure is an event of its kind, with a counter and a line in the log.
#[test]
fn every_failure_is_counted_and_told_in_the_log_by_its_kind() {
    let rig = gated(&json!({}));
    rig.backend().fail(Fault::Status(500));

    rig.request("GET", "/")
        .header("x-tenant-id", "a")
        .send()
        .expect_status(503);

    let labels = [("backend", "quota"), ("cause", "status")];
    rig.envoy().expect_metric("quota_gate_failures", &labels, 1);
    let labels = [("backend", "quota"), ("result", "status")];
    rig.envoy().expect_metric("quota_gate_callouts", &labels, 1);
    let line = rig.envoy().expect_log_line("check failed");
    let told = "backend quota: check failed: status (policy gold, status 500)";
    assert!(line.contains(told), "{line}");
}

/// Lesson 2.3: the mode can be overridden for one request, by those who may.
#[test]
fn only_a_trusted_caller_may_choose_the_failure_mode() {
    let fields = json!({
        "failure_mode_header": {"name": "x-quota-failure-mode", "trust": "internal"},
    });
    for (inside, status) in [("127.0.0.0", 200), ("10.0.0.0", 503)] {
        let ranges = json!({"cidr_ranges": [{"address_prefix": inside, "prefix_len": 8}]});
        let hcm = json!({"internal_address_config": ranges});
        let rig = start(Rig::builder().plugin(config(&fields)).hcm(&hcm));
        rig.backend().fail(Fault::Refuse);

        let request = rig.request("GET", "/").header("x-tenant-id", "a");
        let response = request
            .header("x-quota-failure-mode", "fail_open")
            .header("x-envoy-internal", "true")
            .send();

        response.expect_status(status);
    }
}

/// Lesson 4.4: no retry, on purpose.
#[test]
fn a_failed_check_is_not_asked_again() {
    let rig = gated(&json!({}));
    rig.backend().fail(Fault::ResetBeforeHeaders);

    let response = rig.request("GET", "/").header("x-tenant-id", "a").send();

    response.expect_status(503);
    rig.backend().recover();
    rig.request("GET", "/")
        .header("x-tenant-id", "b")
        .send()
        .expect_status(200);
    let checks = rig.backend().expect_checks(2);
    assert_eq!(
        (checks[0].entry("tenant"), checks[1].entry("tenant")),
        (Some("a"), Some("b"))
    );
}

/// Lesson 4.5: where there is no answer, the last good one is used again for a bounded time, which
/// is steadier than an empty one.
#[test]
fn the_last_good_answer_bridges_an_outage() {
    let mut fields = json!({"cache": {"stale_if_error": "60s"}});
    merge(&mut fields, &json!({"cache": {"deny_ttl": "0s"}}));
    let rig = gated(&fields);
    rig.backend()
        .limit("tenant=over", 0, Duration::from_secs(60));
    let ask = |tenant: &str| rig.request("GET", "/").header("x-tenant-id", tenant).send();
    ask("good").expect_status(200);
    ask("over").expect_status(429);

    rig.backend().fail(Fault::Refuse);

    ask("good").expect_status(200);
    ask("over").expect_status(429);
    ask("never-seen").expect_status(503);
    let labels = [("reason", "stale"), ("decision", "allow")];
    rig.envoy().expect_metric("quota_gate_requests", &labels, 1);
}

/// The bound on calls in flight: what is above it fails at once, and says why.
#[test]
fn more_calls_than_may_be_pending_fail_at_once() {
    let mut plugin = config(&json!({"timeout": "2s"}));
    plugin["backends"]["quota"]["max_pending"] = json!(2);
    let rig = start(Rig::builder().plugin(plugin));
    rig.backend().fail(Fault::Delay(Duration::from_millis(700)));
    let ask = |tenant: &str| rig.request("GET", "/").header("x-tenant-id", tenant);
    let pending = [ask("a").start(), ask("b").start()];
    rig.backend().expect_checks(2);

    let third = rig.request("GET", "/third").header("x-tenant-id", "c");
    third.send().expect_status(503);

    assert_eq!(
        rig.logged("/third").field("cause"),
        Some("too_many_pending")
    );
    for pending in pending {
        pending.wait().expect_status(200);
    }
    rig.backend().expect_checks(2);
}

/// Lesson 4.3: what is wrong in our own house is no outage of the backend: here the host forbids
/// calling out. It is counted and told as what it is, and the request leaves all the same.
#[test]
fn a_host_that_forbids_the_call_is_told_from_a_backend_that_is_down() {
    let mut allowed = capabilities();
    allowed.retain(|name| *name != "proxy_http_call");
    let envoy = envoy_harness::binary().expect("an Envoy");
    let minor = minor_version(&envoy).expect("its version");
    let only = placed(&restriction(&allowed), minor);
    let rig = start(Rig::builder().plugin(config(&json!({}))).wasm(&only));

    let response = rig.request("GET", "/").header("x-tenant-id", "a").send();

    response
        .expect_status(503)
        .expect_json("/code", "quota_unavailable");
    assert_eq!(rig.logged("/").field("cause"), Some("dispatch"));
    let labels = [("backend", "quota"), ("cause", "dispatch")];
    rig.envoy().expect_metric("quota_gate_failures", &labels, 1);
    rig.envoy().expect_log_line("check failed: dispatch");
    assert!(rig.backend().checks().is_empty());
}

/// Envoy's timers count from when its event loop last looked at the clock: in a crowd that is long
/// before the call is made, and the timer fires early by as much.
#[test]
fn answers_that_stall_in_a_crowd_are_timeouts_however_busy_the_worker_is() {
    let fields = json!({"timeout": "600ms"});
    let mut config = config(&fields);
    config["backends"]["quota"]["max_pending"] = json!(CROWD);
    let limits = json!({"max_connections": CROWD, "max_pending_requests": CROWD,
        "max_requests": CROWD});
    let cluster = json!({"circuit_breakers": {"thresholds": [limits]}});
    let rig = start(Rig::builder().plugin(config).backend_cluster(&cluster));
    rig.backend().fail(Fault::StallMidBody);

    let ask = |_| rig.request("GET", "/").header("x-tenant-id", "a");
    let responses = send_all((0..CROWD).map(ask));

    assert!(responses.iter().all(|response| response.status == 503));
    let failed = |cause: &str| {
        let labels = [("backend", "quota"), ("cause", cause)];
        rig.envoy().metric("quota_gate_failures", &labels)
    };
    rig.envoy()
        .expect_metric("quota_gate_failures", &[], CROWD as u32);
    assert_eq!(
        (failed("timeout"), failed("unreachable")),
        (CROWD as f64, 0.0)
    );
}

/// Enough to keep a worker's event loop busy for tens of milliseconds at a time.
const CROWD: usize = 400;
