//! Promise: whoever waits is released exactly once, and nobody's leaving harms another.

use serde_json::json;

use crate::world::{Script, World};
use crate::{config, get};

#[test]
fn equal_checks_that_may_share_an_answer_wait_for_one_call() {
    let mut world = World::new(&config(&json!({"cache": {"allow_ttl": "1s"}})));
    world.backend(Script::allow().after(10));

    let streams: Vec<_> = (0..5).map(|_| world.request(&get("acme"))).collect();
    world.run(50);

    assert_eq!(world.calls.len(), 1);
    for stream in streams {
        assert_eq!(world.end_of(stream).unwrap().reason, "within_quota");
    }
}

#[test]
fn checks_that_may_not_share_an_answer_are_made_one_by_one() {
    let mut world = World::new(&config(&json!({})));
    world.backend(Script::allow().after(10));

    for _ in 0..5 {
        world.request(&get("acme"));
    }
    world.run(50);

    assert_eq!(world.calls.len(), 5);
}

#[test]
fn a_leader_that_leaves_strands_nobody() {
    let mut world = World::new(&config(&json!({"cache": {"allow_ttl": "1s"}})));
    world.backend(Script::allow().after(10));
    let leader = world.request(&get("acme"));
    let follower = world.request(&get("acme"));

    world.close(leader);
    world.run(50);

    assert_eq!(world.end_of(follower).unwrap().reason, "within_quota");
    assert!(world.end_of(leader).is_none());
    assert_eq!(world.metric("requests", "reason.within_quota"), 2);
}

#[test]
fn a_follower_with_an_earlier_deadline_leaves_alone() {
    let mut world = World::new(&config(&json!({"cache": {"allow_ttl": "1s"}})));
    world.backend(Script::allow().after(70));
    let leader = world.request(&get("acme"));
    let follower = world.request(&get("acme").with_header("grpc-timeout", "10m"));

    world.run(100);

    assert_eq!(world.end_of(follower).unwrap().cause, Some("timeout"));
    assert_eq!(world.end_of(leader).unwrap().reason, "within_quota");
}

#[test]
fn a_full_table_of_calls_refuses_the_next_check() {
    let mut config = config(&json!({}));
    config["backends"]["quota"]["max_pending"] = json!(2);
    let mut world = World::new(&config);
    world.backend(Script::hang());
    world.request(&get("a"));
    world.request(&get("b"));

    let third = world.request(&get("c"));

    assert_eq!(world.end_of(third).unwrap().cause, Some("too_many_pending"));
    world.run(200);
    world.backend(Script::allow());
    assert_eq!(world.ask(&get("d")).reason, "within_quota");
}

#[test]
fn pending_calls_are_counted_up_and_down() {
    let mut world = World::new(&config(&json!({})));
    world.backend(Script::allow().after(70));
    world.request(&get("a"));
    world.request(&get("b"));

    world.run(40);
    assert_eq!(world.metric("pending", "backend.quota"), 2);
    world.run(100);
    assert_eq!(world.metric("pending", "backend.quota"), 0);
}

#[test]
fn a_gate_that_is_forgotten_leaves_no_call_in_the_gauge() {
    let mut world = World::new(&config(&json!({})));
    world.backend(Script::hang());
    let stream = world.request(&get("a"));
    world.run(40);
    assert_eq!(world.metric("pending", "backend.quota"), 1);

    world.forget(0);

    assert_eq!(world.end_of(stream).unwrap().cause, Some("timeout"));
    assert_eq!(world.metric("pending", "backend.quota"), 0);
}
