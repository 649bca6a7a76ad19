//! What docs/lessons.md promises and no other file here shows.

use std::time::Duration;

use envoy_harness::eventually::eventually;
use envoy_harness::{Cluster, Fault, Rig, send_all};
use serde_json::json;

use crate::gated::{Gated, config, gated, start};

const MINUTE: Duration = Duration::from_secs(60);

fn ask(rig: &Rig) -> envoy_harness::Response {
    let request = rig.request("GET", "/").header("x-tenant-id", "acme");
    request.send()
}

fn leases(rig: &Gated, event: &str) -> f64 {
    rig.envoy().metric("quota_gate_leases", &[("event", event)])
}

/// Lesson 2.4: while a leased route is open for want of an answer, no lease is granted, spent or
/// given back; the reason tells it from a real one to the upstream, the log and the metrics.
#[test]
fn open_for_want_of_an_answer_is_no_lease_and_is_told_from_one() {
    let rig = gated(&json!({
        "failure_mode": "fail_open",
        "lease": {"max_units": 10, "ttl": "1s"},
    }));
    rig.backend().fail(Fault::Refuse);

    for _ in 0..5 {
        ask(&rig).expect_status(200);
    }

    assert_eq!(rig.told_upstream(), [["allow; reason=failed_open"]; 5]);
    rig.envoy().expect_decisions(&[("failed_open", 5)]);
    let log = rig.envoy().expect_access_log(5);
    assert!(
        log.iter()
            .all(|entry| entry.field("reason") == Some("failed_open"))
    );
    for event in ["granted", "granted_units", "spent_units", "expired_units"] {
        assert!(leases(&rig, event) < 0.5, "{event}");
    }

    // And it harms nothing: with the backend back, the next request is checked as ever.
    rig.backend().recover();
    ask(&rig).expect_status(200);
    rig.envoy()
        .expect_metric("quota_gate_requests", &[("reason", "within_quota")], 1);
}

/// Lesson 3.1: several replicas behind a proxy: a key that becomes valid passes on each at once.
#[test]
fn a_key_that_becomes_valid_passes_at_once_on_every_replica() {
    let first = start(Rig::builder().concurrency(2).plugin(config(&json!({}))));
    let shared = Cluster::new("quota-backend").endpoint(first.backend().address());
    let second = start(
        Rig::builder()
            .concurrency(2)
            .cluster(shared)
            .plugin(config(&json!({}))),
    );
    let on_all = || {
        let both = [&first, &second].into_iter().cycle().take(32);
        let requests = both.map(|rig| rig.request("GET", "/").header("x-tenant-id", "acme"));
        let responses = send_all(requests.collect::<Vec<_>>());
        responses
            .iter()
            .map(|response| response.status)
            .collect::<Vec<_>>()
    };
    first.backend().reject_key("tenant=acme", 401);
    assert_eq!(on_all(), [401; 32]);

    first.backend().admit_key("tenant=acme");

    assert_eq!(on_all(), [200; 32]);
}

/// Lesson 3.3: what is used again is said in the configuration. Where it says nothing, an allow, a
/// rejected key and an old answer are never used again, and a denial for a second.
#[test]
fn without_a_word_about_caches_only_a_denial_is_used_again_and_for_a_second() {
    let rig = gated(&json!({}));
    ask(&rig).expect_status(200);
    ask(&rig).expect_status(200);
    rig.backend().expect_checks(2);

    rig.backend().reject_key("tenant=acme", 403);
    ask(&rig).expect_status(403);
    ask(&rig).expect_status(403);
    rig.backend().expect_checks(4);

    rig.backend()
        .admit_key("tenant=acme")
        .fail(Fault::Status(500));
    ask(&rig).expect_status(503);
    rig.backend().expect_checks(5);

    rig.backend().recover().limit("tenant=acme", 0, MINUTE);
    ask(&rig).expect_status(429);
    ask(&rig).expect_status(429);
    rig.backend().expect_checks(6);
    rig.backend().unlimited();
    eventually("it is asked again", || {
        (ask(&rig).status == 200).then_some(())
    });
}
