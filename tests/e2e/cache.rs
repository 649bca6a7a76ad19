//! Promise: an answer is used again only as long as its own switch says; no layer stands in for
//! one that is switched off; equal checks share one call and harm nobody.

use std::time::Duration;

use envoy_harness::eventually::{eventually, now};
use envoy_harness::{Fault, QuotaHeaders, Request, Response, Rig, send_all};
use serde_json::{Value, json};

use crate::gated::{Gated, config, gated, start};

const MINUTE: Duration = Duration::from_secs(60);

/// Every kind of answer is used again for a minute, but for what `off` names.
fn all_but(off: &str) -> Value {
    let mut ttls = json!({
        "allow_ttl": "60s", "deny_ttl": "60s", "rejected_ttl": "60s", "stale_if_error": "60s",
    });
    ttls[off] = json!("0s");
    json!({"cache": ttls})
}

fn request(rig: &Rig) -> Request {
    rig.request("GET", "/").header("x-tenant-id", "acme")
}

fn ask(rig: &Rig) -> Response {
    request(rig).send()
}

/// As many requests over new connections as reach every worker for sure.
fn on_every_worker(rig: &Rig) -> Vec<u16> {
    let responses = send_all((0..24).map(|_| request(rig)));
    responses.iter().map(|response| response.status).collect()
}

fn two_workers(fields: &Value) -> Gated {
    start(Rig::builder().concurrency(2).plugin(config(fields)))
}

#[test]
fn a_yes_is_used_again_for_its_ttl() {
    let rig = gated(&json!({"cache": {"allow_ttl": "60s"}}));

    for _ in 0..5 {
        ask(&rig).expect_status(200);
    }

    rig.backend().expect_checks(1);
    rig.envoy()
        .expect_decisions(&[("within_quota", 1), ("cached", 4)]);
}

#[test]
fn a_yes_is_asked_for_each_time_when_its_switch_is_off() {
    let rig = gated(&all_but("allow_ttl"));

    for _ in 0..3 {
        ask(&rig).expect_status(200);
    }

    rig.backend().expect_checks(3);
    rig.envoy().expect_decisions(&[("within_quota", 3)]);
}

#[test]
fn a_no_is_used_again_for_its_ttl() {
    let rig = gated(&json!({"cache": {"deny_ttl": "60s"}}));
    rig.backend().limit("tenant=acme", 1, MINUTE);
    ask(&rig).expect_status(200);
    ask(&rig).expect_status(429);

    // The limit is raised, and nobody is asked.
    rig.backend().limit("tenant=acme", 9, MINUTE);
    ask(&rig)
        .expect_status(429)
        .expect_json("/code", "quota_exceeded");

    rig.backend().expect_checks(2);
}

#[test]
fn a_raised_limit_counts_at_once_when_the_switch_for_a_no_is_off() {
    let rig = gated(&all_but("deny_ttl"));
    rig.backend().limit("tenant=acme", 0, MINUTE);
    ask(&rig).expect_status(429);

    rig.backend().limit("tenant=acme", 9, MINUTE);
    ask(&rig).expect_status(200);

    rig.backend().expect_checks(2);
}

#[test]
fn a_key_that_becomes_valid_passes_at_its_very_next_request_on_every_worker() {
    let rig = two_workers(&all_but("rejected_ttl"));
    rig.backend().reject_key("tenant=acme", 401);
    assert_eq!(on_every_worker(&rig), [401; 24]);

    rig.backend().admit_key("tenant=acme");

    assert_eq!(on_every_worker(&rig), [200; 24]);
    rig.envoy()
        .expect_metric("quota_gate_requests", &[("reason", "key_rejected")], 24);
}

#[test]
fn a_key_that_becomes_valid_passes_within_its_ttl_on_every_worker() {
    let rig = two_workers(&json!({"cache": {"rejected_ttl": "2s"}}));
    rig.backend().reject_key("tenant=acme", 403);
    assert_eq!(on_every_worker(&rig), [403; 24]);
    drop(rig.backend().take());
    assert_eq!(on_every_worker(&rig), [403; 24]);
    rig.backend().expect_checks(0);

    rig.backend().admit_key("tenant=acme");
    let since = now();
    eventually("every worker lets it through", || {
        (on_every_worker(&rig) == [200; 24]).then_some(())
    });

    let took = since.elapsed();
    assert!(took < Duration::from_millis(2500), "it took {took:?}");
}

#[test]
fn a_rejected_key_is_asked_about_again_with_the_other_switches_on() {
    let rig = gated(&all_but("rejected_ttl"));
    rig.backend().reject_key("tenant=acme", 403);

    for _ in 0..3 {
        ask(&rig)
            .expect_status(403)
            .expect_json("/code", "key_rejected");
    }

    rig.backend().expect_checks(3);
}

#[test]
fn an_old_answer_is_used_when_there_is_no_new_one() {
    let rig = gated(&json!({"cache": {"stale_if_error": "60s"}}));
    ask(&rig).expect_status(200);
    rig.backend().fail(Fault::Status(500));

    ask(&rig).expect_status(200);
    let other = rig.request("GET", "/").header("x-tenant-id", "other");
    other.send().expect_status(503);

    rig.envoy()
        .expect_decisions(&[("within_quota", 1), ("stale", 1), ("quota_unavailable", 1)]);
}

#[test]
fn no_old_answer_is_used_when_its_switch_is_off() {
    let rig = gated(&json!({"cache": {"allow_ttl": "1s", "stale_if_error": "0s"}}));
    ask(&rig).expect_status(200);
    rig.backend().fail(Fault::Status(500));

    eventually("the yes is over", || {
        (ask(&rig).status == 503).then_some(())
    });

    rig.envoy()
        .expect_metric("quota_gate_requests", &[("reason", "stale")], 0);
}

#[test]
fn an_old_no_stays_a_no() {
    let cache = json!({"cache": {"deny_ttl": "0s", "stale_if_error": "60s"}});
    let rig = gated(&cache);
    rig.backend().limit("tenant=acme", 0, MINUTE);
    ask(&rig).expect_status(429);
    rig.backend().fail(Fault::Status(500));

    ask(&rig)
        .expect_status(429)
        .expect_json("/code", "quota_exceeded");

    let entry = rig.envoy().expect_access_log(2).remove(1);
    assert_eq!(entry.field("cause"), Some("status"));
}

#[test]
fn the_backend_may_forbid_that_its_answer_is_used_again() {
    let rig = gated(&json!({"cache": {"allow_ttl": "60s", "stale_if_error": "60s"}}));
    rig.backend().answer_header("cache-control", "no-store");

    ask(&rig).expect_status(200);
    ask(&rig).expect_status(200);
    rig.backend().expect_checks(2);

    rig.backend().fail(Fault::Status(500));
    ask(&rig).expect_status(503);
}

#[test]
fn the_backend_may_shorten_a_ttl() {
    let rig = gated(&json!({"cache": {"allow_ttl": "60s"}}));
    rig.backend().answer_header("cache-control", "max-age=1");
    ask(&rig).expect_status(200);
    ask(&rig).expect_status(200);
    rig.backend().expect_checks(1);

    eventually("it is asked again", || {
        ask(&rig).expect_status(200);
        (rig.backend().checks().len() == 2).then_some(())
    });
}

#[test]
fn the_backend_may_not_lengthen_a_ttl() {
    let rig = gated(&json!({"cache": {"allow_ttl": "1s"}}));
    rig.backend().answer_header("cache-control", "max-age=3600");
    ask(&rig).expect_status(200);

    eventually("it is asked again", || {
        ask(&rig).expect_status(200);
        (rig.backend().checks().len() == 2).then_some(())
    });
}

#[test]
fn a_no_ends_when_the_backend_said_that_it_would() {
    let rig = gated(&json!({"cache": {"deny_ttl": "60s"}}));
    let retry = vec![("retry-after".to_owned(), "1".to_owned())];
    rig.backend()
        .fail_next(1, Fault::Answer(429, retry, Vec::new()));
    let denied = ask(&rig);
    denied.expect_status(429).expect_header("retry-after", "1");

    ask(&rig).expect_status(429);
    eventually("it is asked again", || {
        (ask(&rig).status == 200).then_some(())
    });

    rig.backend().expect_checks(2);
}

#[test]
fn a_no_holds_only_for_requests_that_cost_as_much() {
    let rig = gated(&json!({
        "cost": {"header": "x-cost", "max": 100}, "cache": {"deny_ttl": "60s"},
    }));
    rig.backend().limit("tenant=acme", 10, MINUTE);
    let cost = |units| request(&rig).header("x-cost", units).send().status;

    assert_eq!([cost("8"), cost("5")], [200, 429]);
    rig.backend().expect_checks(2);
    assert_eq!([cost("5"), cost("7")], [429, 429]);
    rig.backend().expect_checks(2);
    assert_eq!(cost("2"), 200);

    rig.backend().expect_checks(3);
}

#[test]
fn equal_checks_share_one_call() {
    let rig = gated(&json!({"cache": {"allow_ttl": "60s"}}));
    rig.backend()
        .fail(Fault::Delay(Duration::from_millis(1200)));

    assert_eq!(on_every_worker(&rig), [200; 24]);

    rig.backend().expect_checks(1);
    rig.envoy().expect_decisions(&[("within_quota", 24)]);
}

#[test]
fn checks_that_may_not_share_an_answer_do_not_share_a_call() {
    let rig = gated(&json!({}));
    rig.backend().fail(Fault::Delay(Duration::from_millis(100)));

    assert_eq!(on_every_worker(&rig), [200; 24]);

    rig.backend().expect_checks(24);
}

/// A rig whose backend takes its time, a leader that waits, and a follower that has joined it.
fn joined(leader: impl Fn(&Rig) -> Request, follower: impl Fn(&Rig) -> Request) -> Joined {
    let rig = gated(&json!({"cache": {"allow_ttl": "60s"}}));
    rig.backend()
        .fail(Fault::Delay(Duration::from_millis(1200)));
    let leader = leader(&rig).start();
    rig.backend().expect_checks(1);
    let follower = follower(&rig).start();
    let active = [("envoy_http_conn_manager_prefix", "gated")];
    rig.envoy()
        .expect_metric("envoy_http_downstream_rq_active", &active, 2);
    Joined {
        leader,
        follower,
        rig,
    }
}

struct Joined {
    leader: envoy_harness::Pending,
    follower: envoy_harness::Pending,
    rig: Gated,
}

fn hasty(rig: &Rig) -> Request {
    let call = rig.grpc("/pkg.Service/Call");
    call.header("x-tenant-id", "acme")
        .header("grpc-timeout", "100m")
}

#[test]
fn a_leader_that_leaves_strands_nobody() {
    let joined = joined(request, request);

    joined.leader.abandon();

    joined.follower.wait().expect_status(200);
    joined.rig.backend().expect_checks(1);
}

#[test]
fn a_follower_that_leaves_harms_nobody() {
    let joined = joined(request, request);

    joined.follower.abandon();

    joined.leader.wait().expect_status(200);
    joined.rig.backend().expect_checks(1);
}

#[test]
fn a_follower_with_an_earlier_deadline_leaves_alone() {
    let rig = gated(&json!({"cache": {"allow_ttl": "60s"}}));
    rig.backend()
        .fail(Fault::Delay(Duration::from_millis(1500)));
    let leader = request(&rig).start();
    rig.backend().expect_checks(1);

    let follower = hasty(&rig).send();

    follower
        .expect_grpc_status(14)
        .expect_faster_than(Duration::from_millis(1200));
    leader.wait().expect_status(200);
    rig.backend().expect_checks(1);
}

#[test]
fn a_leader_with_an_earlier_deadline_leaves_alone() {
    let rig = gated(&json!({"cache": {"allow_ttl": "60s"}}));
    rig.backend()
        .fail(Fault::Delay(Duration::from_millis(1500)));
    let leader = hasty(&rig).start();
    rig.backend().expect_checks(1);

    let follower = request(&rig).start();

    leader.wait().expect_grpc_status(14);
    follower.wait().expect_status(200);
    rig.backend().expect_checks(1);
}

#[test]
fn a_backend_that_tells_nothing_of_its_limit_is_cached_by_the_ttl_alone() {
    let rig = gated(&json!({"cache": {"deny_ttl": "1s"}}));
    rig.backend()
        .quota_headers(QuotaHeaders::None)
        .fail_next(1, Fault::Status(429));
    ask(&rig).expect_status(429);
    ask(&rig).expect_status(429);
    rig.backend().expect_checks(1);

    eventually("it is asked again", || {
        (ask(&rig).status == 200).then_some(())
    });
}
