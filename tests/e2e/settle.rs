//! Promise: what a request really used is charged once, after the fact, and none of it is lost.

use std::time::Duration;

use envoy_harness::eventually::eventually;
use envoy_harness::{Cluster, Fault, Push, Request, Rig, Route, llm, send_all};
use serde_json::{Value, json};

use crate::gated::{config, merge, start};

const HOUR: Duration = Duration::from_secs(3600);

/// A policy that settles by what the response's header `x-units` says; `fields` are laid over it.
fn by_header(fields: &Value) -> Value {
    let mut policy = json!({
        "settle": {"usage": [{"header": "x-units"}]},
        "cache": {"deny_ttl": "0s"},
    });
    merge(&mut policy, fields);
    config(&policy)
}

fn get(rig: &Rig, tenant: &str) -> Request {
    rig.request("GET", "/").header("x-tenant-id", tenant)
}

#[track_caller]
pub(crate) fn expect_charged(rig: &Rig, tenant: &str, units: i64) {
    eventually(&format!("{units} units are charged to {tenant}"), || {
        let charged = rig.backend().charged();
        (charged.get(&format!("tenant={tenant}")) == Some(&units)).then_some(())
    });
}

pub(crate) fn dropped(rig: &Rig) -> u64 {
    rig.envoy()
        .metric("quota_gate_settlement_dropped_units", &[]) as u64
}

#[test]
fn a_header_tells_what_was_used() {
    let rig = start(Rig::builder().plugin(by_header(&json!({}))));
    rig.upstream().respond_header("x-units", "7");

    get(&rig, "a").send().expect_status(200);
    get(&rig, "a").send().expect_status(200);

    expect_charged(&rig, "a", 14);
    let checks = rig.backend().expect_checks(2);
    assert!(checks.iter().all(|check| check.cost == 0));
    rig.envoy()
        .expect_metric("quota_gate_settlements", &[("result", "measured")], 2);
    rig.envoy()
        .expect_metric("quota_gate_settled_units", &[("result", "reported")], 14);
}

#[test]
fn a_trailer_tells_what_was_used() {
    let usage = json!([{"trailer": "grpc-status", "times": 5}, {"header": "x-units"}]);
    let rig = start(Rig::builder().plugin(by_header(&json!({"settle": {"usage": usage}}))));
    rig.upstream().respond_header("x-units", "2");

    // The upstream's grpc-status is 0: the trailer is there and counts nothing.
    rig.grpc("/a.B/C").header("x-tenant-id", "a").send();

    expect_charged(&rig, "a", 2);
}

#[test]
fn an_estimate_is_corrected_in_both_directions() {
    let fields = json!({"settle": {"mode": "correct"}, "cost": 100});
    let rig = start(Rig::builder().plugin(by_header(&fields)));
    rig.upstream().respond_header("x-units", "40");
    get(&rig, "less").send().expect_status(200);
    expect_charged(&rig, "less", 40);

    let rig = start(Rig::builder().plugin(by_header(&fields)));
    rig.upstream().respond_header("x-units", "250");
    get(&rig, "more").send().expect_status(200);
    expect_charged(&rig, "more", 250);
}

#[test]
fn an_estimate_is_given_back_when_nothing_came_of_the_request() {
    let fields = json!({"settle": {"mode": "correct"}, "cost": 100});
    let rig = start(Rig::builder().plugin(by_header(&fields)));
    rig.upstream().respond_status(503);
    get(&rig, "failed").send().expect_status(503);
    expect_charged(&rig, "failed", 0);

    rig.upstream().respond_after(Duration::from_secs(30));
    let pending = get(&rig, "left").start();
    rig.upstream().expect_requests(2);
    pending.abandon();
    expect_charged(&rig, "left", 0);
    rig.envoy()
        .expect_metric("quota_gate_settlements", &[("result", "released")], 2);
}

/// A stream that breaks off tells nothing.
#[test]
fn a_client_that_leaves_in_the_middle_of_a_stream_has_used_the_default() {
    let rig = start(Rig::builder().plugin(by_header(&json!({"settle": {"default": 50}}))));
    rig.upstream().hold();
    let body = llm::request(20, 200, true);
    let mut client = rig.raw();
    client.write(format!(
        "POST {} HTTP/1.1\r\nhost: a\r\nx-tenant-id: a\r\ncontent-length: {}\r\n\r\n{body}",
        llm::PATH,
        body.len(),
    ));
    assert_eq!(client.read_head().status, 200);

    drop(client);

    expect_charged(&rig, "a", 50);
    rig.envoy()
        .expect_metric("quota_gate_settlements", &[("result", "default")], 1);
}

/// Envoy's own answer, where there is no upstream.
#[test]
fn an_estimate_is_given_back_when_envoy_answers_itself() {
    let fields = json!({"settle": {"mode": "correct"}, "cost": 100});
    let builder = Rig::builder()
        .plugin(by_header(&fields))
        .cluster(Cluster::new("nobody"))
        .route(Route::prefix("/").cluster("nobody"));
    let rig = start(builder);

    get(&rig, "a").send().expect_status(503);

    expect_charged(&rig, "a", 0);
    rig.upstream().expect_requests(0);
    rig.envoy()
        .expect_metric("quota_gate_settlements", &[("result", "released")], 1);
}

#[test]
fn a_client_that_leaves_before_the_check_is_answered_pays_nothing() {
    let fields = json!({"settle": {"mode": "correct"}, "cost": 100});
    let rig = start(Rig::builder().plugin(by_header(&fields)));
    rig.backend().fail(Fault::Delay(Duration::from_millis(500)));
    let pending = get(&rig, "left").start();
    rig.backend().expect_checks(1);

    pending.abandon();

    expect_charged(&rig, "left", 0);
    rig.upstream().expect_requests(0);
}

#[test]
fn use_during_an_outage_is_told_afterwards_and_marked() {
    let fields = json!({"failure_mode": "fail_open", "timeout": "100ms"});
    let rig = start(Rig::builder().plugin(by_header(&fields)));
    rig.upstream().respond_header("x-units", "7");
    rig.backend().fail(Fault::Refuse);
    get(&rig, "a").send().expect_status(200);
    eventually("a report has failed", || {
        let reports = rig.envoy().metric("quota_gate_settlement_reports", &[]);
        (reports >= 1.0).then_some(())
    });

    rig.backend().recover();

    expect_charged(&rig, "a", 7);
    let told = rig.backend().told();
    assert_eq!(told[0].unchecked.as_deref(), Some("failed_open"));
    assert_eq!(dropped(&rig), 0);
}

#[test]
fn a_report_that_was_counted_without_an_answer_is_not_counted_again() {
    let fields = json!({"settle": {"timeout": "200ms"}});
    let rig = start(Rig::builder().plugin(by_header(&fields)));
    rig.upstream().respond_header("x-units", "7");
    get(&rig, "a").send().expect_status(200);
    rig.backend().fail(Fault::Delay(Duration::from_secs(1)));
    eventually("the report has come again", || {
        (rig.backend().told().len() > 1).then_some(())
    });

    rig.backend().recover();

    rig.envoy()
        .expect_metric("quota_gate_settled_units", &[("result", "reported")], 7);
    expect_charged(&rig, "a", 7);
    let told = rig.backend().told();
    let id = &told[0].id;
    assert!(told.iter().skip(1).all(|told| told.again && told.id == *id));
}

#[test]
fn limitador_is_asked_without_counting_and_told_afterwards() {
    let mut config = by_header(&json!({}));
    config["backends"]["quota"]["preset"] = json!("limitador");
    let rig = start(Rig::builder().plugin(config));
    rig.backend().limit("tenant=a", 10, HOUR);
    rig.upstream().respond_header("x-units", "7");

    for charged in [7, 14] {
        get(&rig, "a").send().expect_status(200);
        expect_charged(&rig, "a", charged);
    }
    get(&rig, "a").send().expect_status(429);

    let paths = rig.backend().checks().into_iter().map(|check| check.path);
    assert_eq!(paths.collect::<Vec<_>>(), ["/check"; 3]);
}

/// Its field has 32 bits, and what does not fit is answered with 400.
#[test]
fn envoy_ratelimit_is_told_in_parts_of_more_than_its_field_holds() {
    let fields = json!({"settle": {"max": 1_000_000_000, "every": "2s"}});
    let mut config = by_header(&fields);
    config["backends"]["quota"]["preset"] = json!("envoy_ratelimit");
    let rig = start(Rig::builder().plugin(config));
    rig.upstream().respond_header("x-units", "1000000000");

    for response in send_all((0..9).map(|_| get(&rig, "a"))) {
        response.expect_status(200);
    }

    expect_charged(&rig, "a", 9_000_000_000);
    let told = rig.backend().checks().into_iter().map(|check| check.cost);
    let told: Vec<u64> = told.filter(|units| *units > 0).collect();
    assert_eq!(told.iter().sum::<u64>(), 9_000_000_000);
    assert_eq!(dropped(&rig), 0);
}

/// What it says while its Redis is down.
#[test]
fn a_400_of_envoy_ratelimit_loses_no_use() {
    let mut config = by_header(&json!({"failure_mode": "fail_open"}));
    config["backends"]["quota"]["preset"] = json!("envoy_ratelimit");
    let rig = start(Rig::builder().plugin(config));
    rig.upstream().respond_header("x-units", "7");
    rig.backend().fail(Fault::Status(400));
    get(&rig, "a").send().expect_status(200);
    eventually("a report has failed", || {
        let failed = [("result", "bad_reply")];
        let reports = rig.envoy().metric("quota_gate_settlement_reports", &failed);
        (reports >= 1.0).then_some(())
    });

    rig.backend().recover();

    expect_charged(&rig, "a", 7);
    assert_eq!(dropped(&rig), 0);
}

#[test]
fn a_custom_backend_is_told_as_its_report_says() {
    let body = |delta: &str| {
        json!({
            "namespace": "{namespace}",
            "values": "{descriptor:object}",
            "delta": delta,
        })
    };
    let mut config = by_header(&json!({}));
    config["backends"]["quota"] = json!({
        "cluster": "quota-backend",
        "preset": "custom",
        "path": "/check_and_report",
        "report_path": "/report",
        "custom": {"body": body("{cost}"), "report": {"body": body("{units}"), "counted": [200]}},
    });
    let rig = start(Rig::builder().plugin(config));
    rig.upstream().respond_header("x-units", "7");

    get(&rig, "a").send().expect_status(200);

    expect_charged(&rig, "a", 7);
    let checks = rig.backend().checks().into_iter().map(|check| check.cost);
    assert_eq!(checks.collect::<Vec<_>>(), [0]);
    let told = rig.backend().told();
    assert_eq!((told.len(), told[0].units), (1, 7));
    rig.envoy()
        .expect_metric("quota_gate_settled_units", &[("result", "reported")], 7);
}

#[test]
fn a_full_ledger_drops_the_smallest_batches_and_tells_how_many_units() {
    // Keys of 10 kB: some hundreds of them fill the ledger's 4 MiB.
    const KEYS: usize = 600;
    let fields = json!({"failure_mode": "fail_open", "timeout": "100ms"});
    let rig = start(Rig::builder().plugin(by_header(&fields)));
    rig.backend().fail(Fault::Refuse);
    rig.upstream().respond_header("x-units", "7");
    // One that has used more: it is not the smallest, so it is kept.
    get(&rig, "large").send().expect_status(200);
    get(&rig, "large").send().expect_status(200);

    let long = |place: usize| get(&rig, &format!("{place:04}{}", "x".repeat(10_000)));
    let responses = send_all((0..KEYS).map(long));
    let all_passed = responses.iter().all(|response| response.status == 200);
    assert!(all_passed);
    let full = || {
        let metric = "quota_gate_settlement_dropped_units";
        rig.envoy().metric(metric, &[("cause", "full")]) as i64
    };
    eventually("units are dropped", || (full() > 0).then_some(()));
    rig.backend().recover();

    rig.envoy()
        .expect_metric("quota_gate_settlements_pending", &[], 0);
    expect_charged(&rig, "large", 14);
    let charged: i64 = rig.backend().charged().values().sum();
    assert_eq!(charged + full(), (KEYS as i64 + 2) * 7);
    assert_eq!(dropped(&rig) as i64, full());
    rig.envoy()
        .expect_log_line("units of use are dropped: full");
}

#[test]
fn a_lease_pays_the_difference_and_takes_it_back() {
    let fields = json!({
        "settle": {"mode": "correct"}, "cost": 10,
        "lease": {"max_units": 100_000, "ttl": "30s"},
    });
    let mut config = by_header(&fields);
    config["backends"]["quota"]["preset"] = json!("limitador");
    let rig = start(Rig::builder().plugin(config));
    rig.upstream().respond_header("x-units", "4");
    let leases = |event| rig.envoy().metric("quota_gate_leases", &[("event", event)]);

    eventually("units go back to the lease", || {
        get(&rig, "hot").send().expect_status(200);
        (leases("returned_units") > 0.0).then_some(())
    });
}

#[test]
fn a_push_leaves_nothing_untold() {
    let slow = by_header(&json!({"settle": {"every": "3s"}}));
    let rig = start(Rig::builder().ecds().plugin(slow));
    rig.upstream().respond_header("x-units", "7");
    get(&rig, "a").send().expect_status(200);

    assert_eq!(rig.push_config(&by_header(&json!({}))), Push::Accepted);
    get(&rig, "b").send().expect_status(200);

    expect_charged(&rig, "b", 7);
    expect_charged(&rig, "a", 7);
    assert_eq!(dropped(&rig), 0);
}
