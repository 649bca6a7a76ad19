//! Promise: a backend that is unwell is left alone, its requests are decided at once, and a few
//! trial calls find out when it is well again.

use std::time::Duration;

use envoy_harness::eventually::eventually;
use envoy_harness::{Connection, Fault, Protocol, Rig, send_all};
use serde_json::{Value, json};

use crate::gated::{Gated, by_path, config, merge, start};

/// [`config`] with a breaker that opens after three failures in a row.
fn with_breaker(fields: &Value, breaker: &Value) -> Value {
    let mut settings = json!({
        "consecutive_failures": 3, "failure_rate": 1.0, "min_calls": 1000,
        "open_for": "2s", "open_for_max": "3s", "half_open_calls": 1,
    });
    merge(&mut settings, breaker);
    let mut config = config(fields);
    config["backends"]["quota"]["breaker"] = settings;
    config
}

fn gauge(rig: &Rig, backend: &str, state: u32) {
    rig.envoy()
        .expect_metric("quota_gate_breaker_state", &[("backend", backend)], state);
}

/// So many requests at once, each over its own connection; the statuses.
fn statuses(rig: &Rig, count: usize) -> Vec<u16> {
    let requests = (0..count).map(|_| rig.request("GET", "/").header("x-tenant-id", "acme"));
    let responses = send_all(requests);
    responses.iter().map(|response| response.status).collect()
}

/// As many failures as it takes, and not one less; then no worker calls the backend.
fn fail_until_open(rig: &Rig, backend: &str, threshold: usize) {
    let backend = rig.backend_named(backend);
    backend.fail(Fault::Status(500));
    drop(backend.take());
    for _ in 1..threshold {
        statuses(rig, 1);
    }
    backend.expect_checks(threshold - 1);
    gauge(rig, "quota", 0);
    statuses(rig, 1);
    gauge(rig, "quota", 2);
    // The other worker learns of it with its next tick.
    eventually("no worker calls the backend", || {
        drop(backend.take());
        statuses(rig, 8);
        backend.take().is_empty().then_some(())
    });
}

fn logged(rig: &Rig, change: &str) -> usize {
    let part = format!("backend quota: breaker {change}");
    rig.envoy().expect_log_line(&part);
    rig.envoy().log_lines(&part).len()
}

#[test]
fn it_opens_tries_opens_again_tries_again_and_closes() {
    goes_round(&json!({"half_open_calls": 2}));
}

#[test]
fn with_other_thresholds_it_goes_round_by_those() {
    goes_round(&json!({"consecutive_failures": 5, "half_open_calls": 1}));
}

/// All the way round, with two workers, by the thresholds of the configuration under test.
fn goes_round(breaker: &Value) {
    let fields = json!({"failure_mode": "fail_open", "timeout": "1500ms"});
    let config = with_breaker(&fields, breaker);
    let settings = config["backends"]["quota"]["breaker"].clone();
    let setting = |name: &str| usize::try_from(settings[name].as_u64()?).ok();
    let threshold = setting("consecutive_failures").expect("a number");
    let trials = setting("half_open_calls").expect("a number");
    let rig = start(Rig::builder().concurrency(2).plugin(config));
    assert_eq!(statuses(&rig, 2), [200, 200]);
    gauge(&rig, "quota", 0);
    rig.backend().expect_checks(2);

    fail_until_open(&rig, "quota-backend", threshold);
    let opened = format!("closed -> open: {threshold} failures in a row");
    assert_eq!(logged(&rig, &opened), 1);
    rig.envoy()
        .expect_metric("quota_gate_breaker_trips", &[], 1);

    // Nobody asks, and still it is half-open when its time is over: the trial calls find nothing.
    rig.backend().fail(Fault::Hang);
    gauge(&rig, "quota", 1);
    assert_eq!(logged(&rig, "open -> half_open: the open time is over"), 1);
    expect_trials(&rig, trials);
    gauge(&rig, "quota", 2);
    assert_eq!(logged(&rig, "half_open -> open: a trial call failed"), 1);
    rig.envoy()
        .expect_metric("quota_gate_breaker_trips", &[], 2);

    // The second time they are answered, slowly enough for all requests to come first.
    rig.backend()
        .recover()
        .fail(Fault::Delay(Duration::from_millis(1000)));
    gauge(&rig, "quota", 1);
    assert_eq!(logged(&rig, "open -> half_open: the open time is over"), 2);
    expect_trials(&rig, trials);
    gauge(&rig, "quota", 0);
    assert_eq!(
        logged(&rig, "half_open -> closed: the trial calls passed"),
        1
    );

    rig.backend().recover();
    drop(rig.backend().take());
    eventually("both workers call it again", || {
        statuses(&rig, 8);
        (rig.backend().take().len() == 8).then_some(())
    });
    rig.envoy()
        .expect_metric("quota_gate_breaker_trips", &[], 2);
}

/// Of twenty requests at once, exactly so many reach the half-open backend; the others are decided
/// without a call, and counted as what they are.
fn expect_trials(rig: &Rig, trials: usize) {
    let open = [("backend", "quota"), ("cause", "breaker_open")];
    let refused = || rig.envoy().metric("quota_gate_failures", &open);
    // What was refused before is flushed with a tick: two looks that agree.
    let before = eventually("the counter rests", || {
        let (first, again) = (refused(), {
            drop(rig.envoy().counters());
            refused()
        });
        ((first - again).abs() < 0.5).then_some(first)
    });
    drop(rig.backend().take());

    assert_eq!(statuses(rig, 20), [200; 20]);

    rig.backend().expect_checks(trials);
    let wanted = before + 20.0 - trials as f64;
    eventually("the others are counted as refused", || {
        ((refused() - wanted).abs() < 0.5).then_some(())
    });
}

#[test]
fn a_share_of_failures_within_a_window_opens_it() {
    let breaker = json!({
        "consecutive_failures": 100, "failure_rate": 0.5, "min_calls": 10, "window": "60s",
        "open_for": "60s", "open_for_max": "60s",
    });
    let rig = start(Rig::builder().plugin(with_breaker(&json!({}), &breaker)));
    rig.backend().fail_for("tenant=bad", Fault::Status(500));
    let ask = |tenant| {
        rig.request("GET", "/")
            .header("x-tenant-id", tenant)
            .send()
            .status
    };
    for _ in 0..4 {
        assert_eq!([ask("bad"), ask("good")], [503, 200]);
    }
    assert_eq!(ask("bad"), 503);
    // More than a half has failed, and yet it is too few to tell.
    gauge(&rig, "quota", 0);
    rig.backend().expect_checks(9);

    assert_eq!(ask("bad"), 503);

    gauge(&rig, "quota", 2);
    assert_eq!(logged(&rig, "closed -> open: 60.0% of 10 calls failed"), 1);
    assert_eq!(ask("good"), 503);
    rig.backend().expect_checks(10);
}

/// What an open breaker decides takes no call and no time: the access log tells of no wait.
#[test]
fn with_the_breaker_open_nobody_waits() {
    let breaker = json!({"consecutive_failures": 1, "open_for": "60s", "open_for_max": "60s"});
    let fields = json!({"failure_mode": "fail_open", "timeout": "5s"});
    let rig = start(Rig::builder().plugin(with_breaker(&fields, &breaker)));
    rig.backend().fail(Fault::Status(500));
    assert_eq!(statuses(&rig, 1), [200]);
    gauge(&rig, "quota", 2);
    rig.backend().fail(Fault::Hang);

    let ask = || {
        rig.request("GET", "/now")
            .header("x-tenant-id", "acme")
            .send()
    };
    ask().expect_status(200);

    let entry = rig.logged("/now");
    assert_eq!(
        entry.state,
        "allow reason=failed_open cause=breaker_open policy=gold backend=quota"
    );
    rig.backend().expect_checks(1);
}

#[test]
fn with_the_breaker_open_a_hanging_backend_costs_less_than_a_millisecond() {
    let fields = json!({"failure_mode": "fail_open", "timeout": "100ms"});
    let breaker = json!({"consecutive_failures": 1, "open_for": "60s", "open_for_max": "60s"});
    let rig = start(Rig::builder().plugin(with_breaker(&fields, &breaker)));
    rig.backend().fail(Fault::Hang);
    let first = rig.request("GET", "/").header("x-tenant-id", "acme").send();
    first
        .expect_status(200)
        .expect_slower_than(Duration::from_millis(90));

    // A busy machine only adds to the times: the best round is what counts.
    let added = (0..ROUNDS).map(|_| added_p99(&rig)).min();

    let added = added.expect("a round");
    assert!(added < Duration::from_millis(1), "p99 is {added:?} higher");
    rig.backend().expect_checks(1);
    let open = [("backend", "quota"), ("cause", "breaker_open")];
    rig.envoy()
        .expect_metric("quota_gate_failures", &open, (ROUNDS * PAIRS) as u32);
}

const ROUNDS: usize = 3;
const PAIRS: usize = 1000;

/// How much longer the slowest hundredth takes with the filter than without.
fn added_p99(rig: &Gated) -> Duration {
    let mut gated = rig.connect(Protocol::H1);
    let mut plain =
        Connection::open(rig.envoy().listener("plain"), Protocol::H1).expect("a connection");
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        for (connection, times) in [(&mut gated, &mut with), (&mut plain, &mut without)] {
            let request = connection.request("GET", "/").header("x-tenant-id", "acme");
            let response = connection.send(request).expect("a response");
            response.expect_status(200);
            times.push(response.elapsed);
        }
    }
    p99(with).saturating_sub(p99(without))
}

fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() * 99 / 100]
}

#[test]
fn one_backends_breaker_does_not_touch_anothers() {
    let mut config = by_path(&[("/other", json!({"backend": "other"}))]);
    config["backends"]["quota"]["breaker"] = json!({"consecutive_failures": 1});
    config["backends"]["other"] = json!({"cluster": "other-backend"});
    let rig = start(Rig::builder().backend("other-backend").plugin(config));
    rig.backend().fail(Fault::Status(503));
    let get = |path| {
        rig.request("GET", path)
            .header("x-tenant-id", "acme")
            .send()
    };

    get("/").expect_status(503);
    get("/").expect_status(503);
    get("/other").expect_status(200);

    rig.backend().expect_checks(1);
    rig.backend_named("other-backend").expect_checks(1);
    gauge(&rig, "quota", 2);
    gauge(&rig, "other", 0);
}

#[test]
fn what_counts_as_overload_is_each_backends_own_setting() {
    let fields = json!({"cache": {"deny_ttl": "0s"}});
    let mut config = with_breaker(&fields, &json!({"consecutive_failures": 2}));
    config["backends"]["quota"]["statuses"] = json!({"allow": ["2xx"], "deny": [420, 503]});
    let rig = start(Rig::builder().plugin(config));
    let get = || rig.request("GET", "/").header("x-tenant-id", "acme").send();
    rig.backend().fail(Fault::Status(503));
    for _ in 0..5 {
        get()
            .expect_status(429)
            .expect_json("/code", "quota_exceeded");
    }
    gauge(&rig, "quota", 0);

    rig.backend().fail(Fault::Status(429));
    for _ in 0..3 {
        get()
            .expect_status(503)
            .expect_json("/code", "quota_unavailable");
    }

    gauge(&rig, "quota", 2);
    let refused = [("backend", "quota"), ("cause", "breaker_open")];
    rig.envoy()
        .expect_metric("quota_gate_failures", &refused, 1);
}

#[test]
fn a_backend_without_breaker_has_no_hidden_one() {
    let mut config = config(&json!({}));
    config["status_path"] = json!("/-/quota-gate");
    let rig = start(Rig::builder().plugin(config));
    rig.backend().fail(Fault::Status(503));

    assert_eq!(statuses(&rig, 50), [503; 50]);

    rig.backend().expect_checks(50);
    rig.get("/-/quota-gate")
        .expect_status(200)
        .expect_json("/backends/quota/breaker", "off");
    rig.envoy()
        .expect_metric("quota_gate_failures", &[("cause", "breaker_open")], 0);
}

#[test]
fn the_status_page_tells_that_a_needed_backend_is_cut_off() {
    let breaker = json!({"consecutive_failures": 1, "open_for": "1s", "open_for_max": "1s"});
    let mut config = with_breaker(&json!({}), &breaker);
    config["status_path"] = json!("/-/quota-gate");
    let rig = start(Rig::builder().plugin(config));
    let page = || rig.get("/-/quota-gate");
    page()
        .expect_status(200)
        .expect_json("/backends/quota/breaker", "closed");

    rig.backend().fail(Fault::Status(500));
    assert_eq!(statuses(&rig, 1), [503]);
    page()
        .expect_status(503)
        .expect_json("/healthy", false)
        .expect_json("/backends/quota/breaker", "open");

    rig.backend().recover();
    eventually("it is well again", || {
        statuses(&rig, 1);
        (page().status == 200 && page().json()["backends"]["quota"]["breaker"] == "closed")
            .then_some(())
    });
}

#[test]
fn who_is_refused_gets_an_answer_in_the_shape_it_expects() {
    let breaker = json!({"consecutive_failures": 1, "open_for": "30s", "open_for_max": "30s"});
    let rig = start(Rig::builder().plugin(with_breaker(&json!({}), &breaker)));
    rig.backend().fail(Fault::Status(500));
    assert_eq!(statuses(&rig, 1), [503]);

    let refused = rig
        .request("GET", "/x")
        .header("x-tenant-id", "acme")
        .send();
    refused
        .expect_status(503)
        .expect_header("content-type", "application/problem+json")
        .expect_json("/code", "quota_unavailable");
    let wait: u64 = refused
        .header("retry-after")
        .expect("a header")
        .parse()
        .expect("seconds");
    assert!((14..=30).contains(&wait), "retry-after: {wait}");
    let grpc = rig
        .grpc("/pkg.Service/Call")
        .header("x-tenant-id", "acme")
        .send();
    grpc.expect_status(200).expect_grpc_status(14);

    rig.backend().expect_checks(1);
    assert_eq!(rig.logged("/x").field("cause"), Some("breaker_open"));
}

#[test]
fn who_meets_a_trial_under_way_is_told_when_to_come_again() {
    let fields = json!({"timeout": "2s"});
    let breaker = json!({"consecutive_failures": 1, "open_for": "100ms"});
    let rig = start(Rig::builder().plugin(with_breaker(&fields, &breaker)));
    rig.backend().fail(Fault::Status(500));
    assert_eq!(statuses(&rig, 1), [503]);
    gauge(&rig, "quota", 1);
    rig.backend()
        .recover()
        .fail(Fault::Delay(Duration::from_millis(700)));
    drop(rig.backend().take());

    // The main thread may have told the gauge; the worker learns of it with its next tick.
    let trial = eventually("a trial call", || {
        let trial = rig.request("GET", "/trial").header("x-tenant-id", "acme");
        let trial = trial.start();
        eventually("a call or an answer", || {
            (trial.is_done() || !rig.backend().checks().is_empty()).then_some(())
        });
        (!rig.backend().checks().is_empty()).then_some(trial)
    });
    rig.backend().expect_checks(1);
    let other = rig.request("GET", "/").header("x-tenant-id", "acme").send();

    other.expect_status(503).expect_header("retry-after", "1");
    trial.wait().expect_status(200);
    gauge(&rig, "quota", 0);
}

#[test]
fn a_client_in_a_hurry_does_not_trip_it() {
    let breaker = json!({"consecutive_failures": 2});
    let rig = start(Rig::builder().plugin(with_breaker(&json!({}), &breaker)));
    rig.backend().fail(Fault::Delay(Duration::from_millis(150)));

    for _ in 0..4 {
        let hasty = rig.grpc("/pkg.Service/Call").header("x-tenant-id", "acme");
        hasty
            .header("grpc-timeout", "5m")
            .send()
            .expect_grpc_status(14);
    }

    assert_eq!(statuses(&rig, 1), [200]);
    gauge(&rig, "quota", 0);
    rig.backend().expect_checks(5);
}
