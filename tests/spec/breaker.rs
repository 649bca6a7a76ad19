//! Promise: a backend that is unwell is left alone, and a few trial calls find out when it is well.

use serde_json::{Value, json};

use crate::world::{Script, World};
use crate::{config, get, merge};

fn with_breaker(fields: &Value, breaker: &Value) -> Value {
    let mut config = config(fields);
    config["backends"]["quota"]["breaker"] = json!({
        "consecutive_failures": 2, "failure_rate": 1.0, "min_calls": 1000,
        "open_for": "1s", "open_for_max": "8s",
    });
    merge(&mut config["backends"]["quota"]["breaker"], breaker);
    config
}

fn world(fields: &Value, breaker: &Value, workers: usize) -> World {
    World::with_workers(&with_breaker(fields, breaker), workers)
}

fn open(world: &mut World) {
    world.backend(Script::status(500));
    for _ in 0..2 {
        world.ask(&get("acme"));
    }
    // The other workers learn of it with their next tick.
    world.run(20);
}

#[test]
fn it_opens_and_decides_at_once_on_every_worker() {
    let mut world = world(&json!({}), &json!({}), 2);
    open(&mut world);

    for worker in [0, 1] {
        let end = world.ask_at(worker, &get("acme"));
        assert_eq!(
            (end.cause, end.after.as_millis()),
            (Some("breaker_open"), 0)
        );
    }

    assert_eq!(world.calls.len(), 2);
    assert!(world.log_contains("backend quota: breaker closed -> open: 2 failures in a row"));
}

#[test]
fn it_goes_all_the_way_round_with_as_many_trial_calls_as_configured() {
    let mut world = world(&json!({}), &json!({"half_open_calls": 2}), 2);
    open(&mut world);
    world.run(1020);
    world.backend(Script::hang());
    let waiting: Vec<_> = [0, 1, 0, 1, 0]
        .map(|at| world.request_at(at, &get("acme")))
        .into();
    assert_eq!(world.calls.len(), 4);
    world.run(100);
    let causes: Vec<_> = waiting
        .iter()
        .map(|stream| world.end_of(*stream).unwrap().cause)
        .collect();
    assert_eq!(causes[0], Some("timeout"));
    assert_eq!(causes[4], Some("breaker_open"));

    world.run(2020);
    world.backend(Script::allow());
    assert_eq!(world.ask_at(0, &get("acme")).reason, "within_quota");
    assert_eq!(world.ask_at(1, &get("acme")).reason, "within_quota");

    world.run(20);
    assert_eq!(world.ask_at(0, &get("acme")).reason, "within_quota");
    assert_eq!(world.metric("breaker_trips", ""), 2);
    for change in [
        "open -> half_open",
        "half_open -> open",
        "half_open -> closed",
    ] {
        assert!(world.log_contains(change), "{change}: {:?}", world.log);
    }
}

#[test]
fn a_denial_says_that_the_backend_is_well() {
    let mut world = world(&json!({"cache": {"deny_ttl": "0s"}}), &json!({}), 1);
    world.backend(Script::deny());

    for _ in 0..10 {
        assert_eq!(world.ask(&get("acme")).reason, "quota_exceeded");
    }

    assert_eq!(world.calls.len(), 10);
}

#[test]
fn a_client_in_a_hurry_does_not_trip_it() {
    let mut world = world(&json!({}), &json!({}), 1);
    world.backend(Script::allow().after(40));
    let hasty = get("acme").with_header("grpc-timeout", "2m");

    for _ in 0..10 {
        assert_eq!(world.ask(&hasty).cause, Some("timeout"));
    }

    assert_eq!(world.ask(&get("acme")).reason, "within_quota");
}

#[test]
fn who_is_refused_is_told_when_to_come_again_while_it_is_open_and_while_it_is_tried() {
    let mut world = world(&json!({}), &json!({"open_for": "4s"}), 1);
    open(&mut world);
    let retry = |world: &mut World| {
        let denial = world.ask(&get("acme")).denial.unwrap();
        let found = denial
            .headers
            .into_iter()
            .find(|(name, _)| name == "retry-after");
        String::from_utf8(found.unwrap().1).unwrap()
    };
    let wait: u32 = retry(&mut world).parse().unwrap();
    assert!((2..=4).contains(&wait), "{wait}");

    world.run(4020);
    world.backend(Script::hang());
    world.request(&get("trial"));

    assert_eq!(retry(&mut world), "1");
}

#[test]
fn while_it_is_tried_only_a_check_that_may_share_the_trial_call_waits() {
    let mut world = world(&json!({"cache": {"allow_ttl": "1s"}}), &json!({}), 1);
    open(&mut world);
    world.run(1020);
    world.backend(Script::allow().after(40));
    let trial = world.request(&get("acme"));
    let sharing = world.request(&get("acme"));

    let other = world.ask(&get("other"));
    world.run(60);

    assert_eq!(
        (other.cause, other.after.as_millis()),
        (Some("breaker_open"), 0)
    );
    for stream in [trial, sharing] {
        assert_eq!(world.end_of(stream).unwrap().reason, "within_quota");
    }
    assert_eq!(world.calls.len(), 3);
}
