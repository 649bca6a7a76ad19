//! Promise: a hot key hardly ever asks, nobody gets more than the backend gave, and a quiet key
//! holds nothing.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use envoy_harness::eventually::{eventually, now};
use envoy_harness::{BACKEND, Cluster, Fault, Protocol, Rig, RigBuilder};
use serde_json::{Value, json};

use crate::gated::{Gated, config, start};

const MINUTE: Duration = Duration::from_secs(60);

fn leased(max_units: u64) -> Value {
    let lease = json!({"max_units": max_units, "ttl": "1s"});
    config(&json!({"lease": lease, "cache": {"deny_ttl": "0s"}}))
}

fn rig(workers: u32, max_units: u64) -> Gated {
    start(builder(workers, max_units))
}

fn builder(workers: u32, max_units: u64) -> RigBuilder {
    Rig::builder()
        .concurrency(workers)
        .plugin(leased(max_units))
}

/// What came of a load.
#[derive(Debug, Default)]
pub(crate) struct Told {
    passed: AtomicU32,
    pub(crate) denied: AtomicU32,
}

impl Told {
    fn passed(&self) -> u32 {
        self.passed.load(Ordering::Relaxed)
    }
}

/// Sends `count` requests of one key as fast as `clients` can over connections that they keep.
pub(crate) fn load(rigs: &[&Rig], clients: usize, count: usize) -> Told {
    let told = Told::default();
    std::thread::scope(|scope| {
        for client in 0..clients {
            let (rig, told) = (rigs[client % rigs.len()], &told);
            scope.spawn(move || {
                let mut connection = rig.connect(Protocol::H1);
                for _ in 0..count / clients {
                    let request = connection.request("GET", "/").header("x-tenant-id", "hot");
                    let response = connection.send(request).expect("a response");
                    match response.status {
                        200 => told.passed.fetch_add(1, Ordering::Relaxed),
                        429 => told.denied.fetch_add(1, Ordering::Relaxed),
                        other => panic!("status {other}"),
                    };
                }
            });
        }
    });
    told
}

/// Units that the backend has given, every check having been allowed in full.
fn units(rig: &Rig) -> u64 {
    rig.backend().checks().iter().map(|check| check.cost).sum()
}

pub(crate) fn leases(rig: &Rig, event: &str) -> u64 {
    rig.envoy().metric("quota_gate_leases", &[("event", event)]) as u64
}

#[test]
fn a_hot_key_asks_at_most_ten_times_in_a_thousand_requests() {
    let rig = rig(1, 500);
    load(&[&rig], 4, 2000); // The first ones find out how much is needed.
    let (asked, before) = (rig.backend().checks().len(), now());

    let told = load(&[&rig], 4, 10_000);

    let rate = 10_000.0 / before.elapsed().as_secs_f64();
    let asked = rig.backend().checks().len() - asked;
    assert_eq!(told.passed(), 10_000);
    // The bound is for 5,000 requests a second; a slower machine leases less at once.
    let bound = 100.0 * (5000.0 / rate).max(1.0);
    assert!(
        (asked as f64) <= bound,
        "{asked} checks at {rate:.0} requests/s"
    );
    let spent = rig.upstream().seen().len() as u64;
    assert_eq!(spent, 12_000);
    let given = units(&rig);
    assert!(given >= spent, "{given} units given, {spent} spent");
    // What a key holds at most, and what expired on the way to its speed.
    eventually("the books of the filter add up", || {
        let held = leases(&rig, "granted_units") - leases(&rig, "spent_units");
        (given - spent == held).then_some(())
    });
    rig.envoy()
        .expect_metric("quota_gate_requests", &[("policy", "gold")], 12_000);
}

#[test]
fn two_workers_never_pass_more_than_the_limit_in_its_window() {
    let rig = rig(2, 100);
    rig.backend().limit("tenant=hot", 1000, MINUTE);

    let told = load(&[&rig], 6, 3000);

    let passed = told.passed();
    assert_eq!(rig.upstream().seen().len(), passed as usize);
    assert!(passed <= 1000, "{passed} passed");
    // At most one lease a worker stays unspent.
    assert!(passed >= 800, "only {passed} passed");
}

#[test]
fn two_envoys_never_pass_more_than_the_limit_that_they_share() {
    let first = rig(2, 100);
    let shared = Cluster::new(BACKEND).endpoint(first.backend().address());
    let second = start(builder(2, 100).cluster(shared));
    first.backend().limit("tenant=hot", 1000, MINUTE);

    let told = load(&[&first, &second], 8, 3200);

    let passed = told.passed();
    let seen = first.upstream().seen().len() + second.upstream().seen().len();
    assert_eq!(seen, passed as usize);
    assert!(passed <= 1000, "{passed} passed");
    assert!(passed >= 600, "only {passed} passed");
    second.backend().expect_checks(0);
}

#[test]
fn a_limit_that_is_cut_lets_through_no_more_than_the_workers_hold() {
    let lasting = |workers| {
        let mut config = leased(100);
        config["policies"]["gold"]["lease"]["ttl"] = json!("30s");
        Rig::builder().concurrency(workers).plugin(config)
    };
    let first = start(lasting(2));
    let shared = Cluster::new(BACKEND).endpoint(first.backend().address());
    let second = start(lasting(2).cluster(shared));
    load(&[&first, &second], 8, 3200);
    let before = first.upstream().seen().len() + second.upstream().seen().len();

    first.backend().limit("tenant=hot", 0, MINUTE);
    let told = load(&[&first, &second], 8, 3200);

    let passed = told.passed();
    let seen = first.upstream().seen().len() + second.upstream().seen().len();
    assert_eq!(seen - before, passed as usize);
    // Two Envoys of two workers, 100 units each.
    assert!(passed <= 400, "{passed} passed after the cut");
    assert!(passed > 0, "nobody held anything");
}

#[test]
fn what_a_key_holds_that_falls_silent_is_lost_and_no_more() {
    let rig = rig(2, 100);
    let before = now();
    load(&[&rig], 4, 2000);
    let lifetimes = before.elapsed().as_secs();

    let lost = eventually("what was held has expired", || {
        let lost = leases(&rig, "expired_units");
        // The metrics are read one after the other, while the last of them come in.
        let held = leases(&rig, "granted_units").checked_sub(leases(&rig, "spent_units"));
        (lost > 0 && held == Some(lost)).then_some(lost)
    });

    // Two workers, each time that a lease of 1 s could have ended, and at last.
    let bound = 2 * 100 * (lifetimes + 1);
    assert!(lost <= bound, "{lost} lost, {bound} at most");
    assert_eq!(units(&rig), 2000 + lost);
}

#[test]
fn a_limit_smaller_than_one_lease_is_given_out_to_the_last_unit() {
    let rig = rig(1, 500);
    rig.backend().limit("tenant=hot", 50, MINUTE);

    let told = load(&[&rig], 4, 400);

    assert_eq!(told.passed(), 50);
    assert_eq!(rig.upstream().seen().len(), 50);
}

#[test]
fn a_quiet_key_asks_each_time_for_just_what_it_needs() {
    let rig = rig(1, 500);
    let get = |tenant: &str| rig.request("GET", "/").header("x-tenant-id", tenant).send();

    for tenant in ["a", "b", "c", "d", "e", "f"] {
        get(tenant).expect_status(200);
        get(tenant).expect_status(200);
    }

    let checks = rig.backend().expect_checks(12);
    assert!(
        checks
            .iter()
            .all(|check| (check.cost, check.cost_min) == (1, None))
    );
    rig.envoy().expect_decisions(&[("within_quota", 12)]);
    assert_eq!(leases(&rig, "asked"), 0);
}

#[test]
fn a_refused_batch_is_followed_by_a_check_for_just_what_is_needed() {
    let mut config = leased(500);
    config["backends"]["quota"]["preset"] = json!("limitador");
    config["policies"]["gold"]["lease"]["ttl"] = json!("10s");
    let rig = start(Rig::builder().plugin(config));
    let get = |tenant: &str| rig.request("GET", "/").header("x-tenant-id", tenant).send();
    // Both use one limit. The first one learns what remains, and the other one takes it.
    rig.backend().limit("", 100, MINUTE);
    while !rig.backend().checks().iter().any(|check| check.cost > 1) {
        get("first").expect_status(200);
    }
    let left = 100 - units(&rig);
    assert!(left > 60, "{left} left");
    for place in 0..left - 1 {
        get(&format!("other-{place}")).expect_status(200);
    }
    drop(rig.backend().take());

    // Its lease is spent first; then one more passes, and nobody after it.
    while get("first").status == 200 {}

    let checks = rig.backend().checks();
    let costs: Vec<u64> = checks.iter().map(|check| check.cost).collect();
    assert!(costs.iter().any(|cost| *cost > 1), "no batch in {costs:?}");
    assert_eq!(costs.last(), Some(&1), "{costs:?}");
    let passed = rig.upstream().seen().len();
    assert_eq!(passed, 100);
}

#[test]
fn what_is_held_is_spent_while_the_backend_is_away() {
    let rig = rig(1, 500);
    load(&[&rig], 2, 500);
    rig.backend().fail(Fault::Refuse);
    let spent = leases(&rig, "spent_units");

    let request = rig.request("GET", "/").header("x-tenant-id", "hot");
    request.send().expect_status(200);

    eventually("it was paid for before", || {
        (leases(&rig, "spent_units") > spent).then_some(())
    });
    let status = || {
        let request = rig.request("GET", "/").header("x-tenant-id", "hot");
        request.send().status
    };
    eventually("it is over with its ttl", || {
        (status() == 503).then_some(())
    });
}
