//! Promise: a pushed configuration takes over whole or not at all, and what is under way ends by
//! the terms that it began with.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use envoy_harness::eventually::{eventually, within};
use envoy_harness::{Fault, Protocol, Push, Request, Rig};
use serde_json::{Value, json};

use crate::gated::{Gated, config, start};

fn with_ecds(config: &Value, workers: u32) -> Gated {
    start(
        Rig::builder()
            .concurrency(workers)
            .ecds()
            .plugin(config.clone()),
    )
}

fn ask(rig: &Rig, path: &str) -> Request {
    rig.request("GET", path).header("x-tenant-id", "acme")
}

/// Pushes, and waits until the workers go by it: the new terms are those of requests to `/new`.
fn push(rig: &Gated, config: &Value) {
    assert_eq!(rig.push_config(config), Push::Accepted);
}

#[test]
fn a_configuration_with_a_problem_is_refused_and_the_old_one_goes_on() {
    let rig = with_ecds(&config(&json!({})), 1);
    ask(&rig, "/").send().expect_status(200);
    let mut bad = config(&json!({"timeout": "0ms", "failure_mod": "fail_open"}));
    bad["default_policy"] = json!("silver");

    let Push::Rejected(log) = rig.push_config(&bad) else {
        panic!("a push with problems was accepted")
    };

    for problem in ["policies.gold.timeout", "failure_mod", "default_policy"] {
        assert!(log.contains(problem), "no {problem} in {log}");
    }
    ask(&rig, "/").send().expect_status(200);
    rig.backend().fail(Fault::Status(500));
    ask(&rig, "/").send().expect_status(503);
    assert!(matches!(rig.push_text("{"), Push::Rejected(_)));
    ask(&rig, "/").send().expect_status(503);
}

#[test]
fn an_accepted_configuration_takes_over_on_every_worker() {
    let rig = with_ecds(&config(&json!({})), 2);
    rig.backend().fail(Fault::Status(500));
    ask(&rig, "/").send().expect_status(503);
    // It is told with its first tick; one that is replaced before that stays untold.
    rig.envoy().expect_log_line("configuration ");

    push(&rig, &config(&json!({"failure_mode": "fail_open"})));

    eventually("every worker goes by it", || {
        let statuses = (0..12).map(|_| ask(&rig, "/").send().status);
        statuses
            .into_iter()
            .all(|status| status == 200)
            .then_some(())
    });
    eventually("each configuration is told once", || {
        let lines = rig.envoy().log_lines("configuration ");
        let told = lines.iter().filter(|line| line.contains("1 backends"));
        (told.count() == 2).then_some(())
    });
}

#[test]
fn a_request_under_way_ends_by_the_configuration_it_began_with() {
    let rig = with_ecds(&config(&json!({"timeout": "2500ms"})), 1);
    rig.backend().fail(Fault::Hang);
    let under_way = ask(&rig, "/old").start();
    rig.backend().expect_checks(1);

    push(
        &rig,
        &config(&json!({"failure_mode": "fail_open", "timeout": "10ms"})),
    );
    eventually("the new one is in force", || {
        (ask(&rig, "/new").send().status == 200).then_some(())
    });
    assert!(!under_way.is_done());

    under_way.wait().expect_status(503);
    assert_eq!(rig.logged("/old").field("cause"), Some("timeout"));
}

#[test]
fn a_request_under_way_gets_its_answer_after_a_push() {
    let rig = with_ecds(&config(&json!({})), 1);
    rig.backend()
        .fail(Fault::Delay(Duration::from_millis(2500)));
    let under_way = ask(&rig, "/old").start();
    rig.backend().expect_checks(1);

    push(&rig, &config(&json!({"enforcement": "off"})));
    eventually("the new one is in force", || {
        (rig.get("/new").status == 200).then_some(())
    });
    assert!(!under_way.is_done());

    under_way.wait().expect_status(200);
    assert_eq!(rig.logged("/old").field("reason"), Some("within_quota"));
}

#[test]
fn a_client_that_leaves_after_a_push_is_counted_all_the_same() {
    let rig = with_ecds(&config(&json!({"timeout": "300ms"})), 1);
    rig.backend().fail(Fault::Hang);
    let under_way = ask(&rig, "/old").start();
    rig.backend().expect_checks(1);

    push(&rig, &config(&json!({"enforcement": "off"})));
    under_way.abandon();

    rig.envoy().expect_decisions(&[("quota_unavailable", 1)]);
}

/// [`config`] with a breaker that stays open for the whole test.
fn with_breaker(fields: &Value, failures: u32) -> Value {
    let mut config = config(fields);
    config["backends"]["quota"]["breaker"] = json!({
        "consecutive_failures": failures, "open_for": "60s", "open_for_max": "60s",
    });
    config
}

#[test]
fn an_open_breaker_stays_open_over_a_push_that_does_not_change_it() {
    let rig = with_ecds(&with_breaker(&json!({}), 1), 2);
    rig.backend().fail(Fault::Status(500));
    ask(&rig, "/").send().expect_status(503);
    rig.backend().recover();
    drop(rig.backend().take());

    push(
        &rig,
        &with_breaker(&json!({"failure_mode": "fail_open"}), 1),
    );
    eventually("the new one is in force", || {
        (ask(&rig, "/").send().status == 200).then_some(())
    });

    for _ in 0..10 {
        ask(&rig, "/").send();
    }
    rig.backend().expect_checks(0);
    rig.envoy()
        .expect_metric("quota_gate_breaker_state", &[], 2);
    rig.envoy()
        .expect_metric("quota_gate_breaker_trips", &[], 1);
}

#[test]
fn a_push_with_other_breaker_settings_starts_anew() {
    let rig = with_ecds(&with_breaker(&json!({}), 1), 1);
    rig.backend().fail(Fault::Status(500));
    ask(&rig, "/").send().expect_status(503);
    rig.backend().recover();

    push(&rig, &with_breaker(&json!({}), 7));

    eventually("it is closed", || {
        (ask(&rig, "/").send().status == 200).then_some(())
    });
    rig.envoy()
        .expect_metric("quota_gate_breaker_state", &[], 0);
}

#[test]
fn a_push_that_takes_the_breaker_away_takes_its_gauge_back() {
    let rig = with_ecds(&with_breaker(&json!({}), 1), 1);
    rig.backend().fail(Fault::Status(500));
    ask(&rig, "/").send().expect_status(503);
    rig.envoy()
        .expect_metric("quota_gate_breaker_state", &[], 2);

    push(&rig, &config(&json!({})));

    rig.envoy()
        .expect_metric("quota_gate_breaker_state", &[], 0);
}

#[test]
fn a_tunnel_that_outlives_its_configuration_does_not_speak_for_the_new_one() {
    let open = json!({"failure_mode": "fail_open"});
    let rig = with_ecds(&with_breaker(&open, 1), 1);
    rig.backend().fail(Fault::Status(500));
    let mut tunnel = rig.raw();
    tunnel.write(
        "GET /ws HTTP/1.1\r\nhost: a\r\nx-tenant-id: acme\r\n\
         connection: upgrade\r\nupgrade: websocket\r\n\r\n",
    );
    assert_eq!(tunnel.read_head().status, 101);
    let gauge = || rig.envoy().metric("quota_gate_breaker_state", &[]);
    rig.envoy()
        .expect_metric("quota_gate_breaker_state", &[], 2);

    push(&rig, &with_breaker(&open, 7));
    rig.envoy()
        .expect_metric("quota_gate_breaker_state", &[], 0);

    // Each configuration sends its gauges once a second.
    let changed = within(Duration::from_millis(1500), || {
        (gauge() > 0.0).then_some(())
    });
    assert_eq!(changed, None);
    tunnel.write("ping");
    assert_eq!(tunnel.read(4), b"ping");
}

#[test]
fn a_push_gives_nobody_a_fresh_local_limit() {
    let fields = json!({"failure_mode": "fail_local", "local_limit": {"units": 2, "per": "1h"}});
    let rig = with_ecds(&config(&fields), 1);
    rig.backend().fail(Fault::Status(500));
    let statuses = [(); 3].map(|()| ask(&rig, "/").send().status);
    assert_eq!(statuses, [200, 200, 429]);

    // A policy that sorts before the other one, and another timeout.
    let mut next = config(&fields);
    next["policies"]["bronze"] = next["policies"]["gold"].clone();
    next["policies"]["gold"]["denial"] = json!({"status": 420});
    push(&rig, &next);

    let status = eventually("the new one is in force", || {
        let status = ask(&rig, "/").send().status;
        (status != 429).then_some(status)
    });
    assert_eq!(status, 420);
}

#[test]
fn pushes_under_load_lose_and_miscount_no_request() {
    let rig = with_ecds(&config(&json!({})), 2);
    let (stop, sent) = (AtomicBool::new(false), AtomicU32::new(0));
    let envoy: &Rig = &rig;
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut client = envoy.connect(Protocol::H1);
                while !stop.load(Ordering::Relaxed) {
                    let request = client.request("GET", "/").header("x-tenant-id", "acme");
                    client.send(request).expect("a response").expect_status(200);
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for timeout in ["4s", "3s", "2s", "1s", "5s"] {
            let before = sent.load(Ordering::Relaxed);
            push(&rig, &config(&json!({"timeout": timeout})));
            eventually("the load goes on", || {
                (sent.load(Ordering::Relaxed) > before + 100).then_some(())
            });
        }
        stop.store(true, Ordering::Relaxed);
    });

    let sent = sent.load(Ordering::Relaxed);
    rig.envoy().expect_decisions(&[("within_quota", sent)]);
    assert_eq!(rig.backend().checks().len(), sent as usize);
    assert_eq!(rig.upstream().seen().len(), sent as usize);
}

#[test]
fn what_twenty_quick_pushes_left_behind_is_told_within_a_few_seconds() {
    let rig = with_ecds(&config(&json!({})), 2);
    let (stop, sent) = (AtomicBool::new(false), AtomicU32::new(0));
    let envoy: &Rig = &rig;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = envoy.connect(Protocol::H1);
            while !stop.load(Ordering::Relaxed) {
                let request = client.request("GET", "/").header("x-tenant-id", "acme");
                client.send(request).expect("a response").expect_status(200);
                sent.fetch_add(1, Ordering::Relaxed);
            }
        });
        for number in 0..20 {
            push(
                &rig,
                &config(&json!({"timeout": format!("{}ms", 4000 + number)})),
            );
        }
        stop.store(true, Ordering::Relaxed);
    });

    let sent = sent.load(Ordering::Relaxed);
    let told = || rig.envoy().metric("quota_gate_requests", &[]);
    // A second after the last of them; were they told one after the other, it would be twenty.
    let all = within(Duration::from_secs(5), || {
        (told() == f64::from(sent)).then_some(())
    });
    assert_eq!(all, Some(()), "{} of {sent} are told", told());
}

/// The first hundred find their places: the engine's, the allocator's, the tables' in each VM.
#[test]
fn two_hundred_more_pushes_leave_envoy_no_larger() {
    let other = |number: u32| with_breaker(&json!({"timeout": format!("{}ms", 1000 + number)}), 5);
    let rig = with_ecds(&other(0), 2);
    rig.envoy().expect_log_line("quota_gate: configuration ");
    let push_on = |numbers: std::ops::Range<u32>| {
        for number in numbers {
            ask(&rig, "/").send().expect_status(200);
            push(&rig, &other(number));
            // It is told with its first tick: a few ticks later the one before it is forgotten.
            let told = || rig.envoy().log_lines("quota_gate: configuration ").len();
            eventually("it is in force", || {
                (told() > number as usize).then_some(())
            });
        }
        rig.envoy().memory_bytes()
    };

    let early = push_on(1..120);
    let late = push_on(120..320);

    // A configuration that stayed would be 50 KB in each of three VMs: 30 MB in all. Envoy itself
    // keeps some hundred KB, whatever the module.
    let grown = late.saturating_sub(early);
    assert!(grown < 4 << 20, "{grown} bytes more, {late} in all");
}
