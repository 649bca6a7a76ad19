//! Promise: an answer is used again only as long as its own switch says, and equal checks share a
//! call without harm to anybody.

use std::time::Duration;

use serde_json::{Value, json};

use crate::world::{Script, World};
use crate::{config, get};

/// Every kind of answer is used again for a minute, but for what `off` names.
fn all_but(off: &str) -> World {
    let mut ttls = json!({
        "allow_ttl": "60s", "deny_ttl": "60s", "rejected_ttl": "60s", "stale_if_error": "60s",
    });
    ttls[off] = json!("0s");
    with_cache(&ttls)
}

fn with_cache(ttls: &Value) -> World {
    World::new(&config(&json!({"cache": ttls})))
}

#[test]
fn each_kind_of_answer_is_used_again_for_its_own_ttl() {
    for (ttl, script, fresh, again) in [
        ("allow_ttl", Script::allow(), "within_quota", "cached"),
        (
            "deny_ttl",
            Script::deny(),
            "quota_exceeded",
            "quota_exceeded",
        ),
        (
            "rejected_ttl",
            Script::status(403),
            "key_rejected",
            "key_rejected",
        ),
    ] {
        let mut world = with_cache(&json!({"deny_ttl": "0s", ttl: "2s"}));
        world.backend(script);

        assert_eq!(world.ask(&get("acme")).reason, fresh);
        assert_eq!(world.ask(&get("acme")).reason, again);
        assert_eq!(world.calls.len(), 1, "{ttl}");
        world.run(2000);
        assert_eq!(world.ask(&get("acme")).reason, fresh);
        assert_eq!(world.calls.len(), 2, "{ttl}");
    }
}

#[test]
fn with_one_switch_off_no_other_layer_answers() {
    for (ttl, script) in [
        ("allow_ttl", Script::allow()),
        ("deny_ttl", Script::deny()),
        ("rejected_ttl", Script::status(401)),
    ] {
        let mut world = all_but(ttl);
        world.backend(script);

        for _ in 0..3 {
            world.ask(&get("acme"));
        }

        assert_eq!(world.calls.len(), 3, "{ttl}");
    }
}

#[test]
fn an_old_answer_is_used_only_for_want_of_a_new_one_and_only_with_its_switch_on() {
    for (ttl, reason) in [("10s", "stale"), ("0s", "quota_unavailable")] {
        let mut world = with_cache(&json!({"allow_ttl": "1s", "stale_if_error": ttl}));
        world.ask(&get("acme"));
        world.run(2000);
        world.backend(Script::refuse());

        assert_eq!(world.ask(&get("acme")).reason, reason);

        world.run(10_000);
        assert_eq!(world.ask(&get("acme")).reason, "quota_unavailable");
    }
}

/// The switch for old answers is off, and no reason says that one was used.
#[test]
fn an_answer_that_came_while_a_check_failed_is_a_fresh_one() {
    let mut world = World::new(&config(&json!({
        "cache": {"allow_ttl": "1s", "stale_if_error": "0s"},
        "cost": {"header": "x-cost", "max": 9},
    })));
    world.next_calls([Script::hang(), Script::allow()]);
    let costing = |units: &str| get("acme").with_header("x-cost", units);
    let waiting = world.request(&costing("1"));

    assert_eq!(world.ask(&costing("2")).reason, "within_quota");
    world.run(200);

    let end = world.end_of(waiting).expect("it is over");
    assert_eq!((end.reason, end.cause), ("cached", Some("timeout")));
}

#[test]
fn the_backend_may_shorten_a_ttl_but_not_lengthen_it() {
    for (steering, calls) in [("no-store", 3), ("max-age=1", 2), ("max-age=3600", 1)] {
        let mut world = with_cache(&json!({"allow_ttl": "5s"}));
        world.backend(Script::allow().header("cache-control", steering));

        world.ask(&get("acme"));
        world.ask(&get("acme"));
        world.run(1500);
        world.ask(&get("acme"));

        assert_eq!(world.calls.len(), calls, "{steering}");
        world.run(4000);
        world.ask(&get("acme"));
        assert_eq!(world.calls.len(), calls + 1, "{steering}");
    }
}

#[test]
fn a_no_holds_only_for_requests_that_cost_as_much() {
    let fields = json!({"cost": {"header": "x-cost", "max": 100}, "cache": {"deny_ttl": "60s"}});
    let mut world = World::new(&config(&fields));
    world.next_calls([Script::deny()]);
    let cost = |units| get("acme").with_header("x-cost", units);

    assert_eq!(world.ask(&cost("5")).reason, "quota_exceeded");
    assert_eq!(world.ask(&cost("5")).reason, "quota_exceeded");
    assert_eq!(world.ask(&cost("7")).reason, "quota_exceeded");
    assert_eq!(world.calls.len(), 1);
    assert_eq!(world.ask(&cost("4")).reason, "within_quota");
}

#[test]
fn who_leaves_first_harms_nobody_else_who_waits_for_the_same_call() {
    for leaver in [0, 1] {
        let mut world = with_cache(&json!({"allow_ttl": "60s"}));
        world.backend(Script::allow().after(50));
        let waiting = [world.request(&get("acme")), world.request(&get("acme"))];

        world.close(waiting[leaver]);
        world.run(60);

        let other = world.end_of(waiting[1 - leaver]).unwrap();
        assert_eq!(other.reason, "within_quota");
        assert_eq!(world.calls.len(), 1);
    }
}

#[test]
fn who_has_less_time_leaves_alone() {
    for hasty in [0, 1] {
        let mut world = with_cache(&json!({"allow_ttl": "60s"}));
        world.backend(Script::allow().after(70));
        let waiting = [0, 1].map(|place| match place == hasty {
            true => world.request(&get("acme").with_header("grpc-timeout", "10m")),
            false => world.request(&get("acme")),
        });

        world.run(80);

        let own = world.end_of(waiting[hasty]).unwrap();
        assert_eq!(own.cause, Some("timeout"));
        assert!(own.after <= Duration::from_millis(30), "{:?}", own.after);
        let other = world.end_of(waiting[1 - hasty]).unwrap();
        assert_eq!(other.reason, "within_quota");
        assert_eq!(world.calls.len(), 1);
    }
}

#[test]
fn checks_of_different_cost_do_not_share_a_call() {
    let fields = json!({"cost": {"header": "x-cost", "max": 100}, "cache": {"allow_ttl": "60s"}});
    let mut world = World::new(&config(&fields));
    world.backend(Script::allow().after(50));

    for units in ["1", "2", "2"] {
        world.request(&get("acme").with_header("x-cost", units));
    }

    let costs: Vec<_> = world
        .calls
        .iter()
        .map(|call| call.header("x-quota-cost"))
        .collect();
    assert_eq!(costs, [Some("1".to_owned()), Some("2".to_owned())]);
    world.run(60);
}

#[test]
fn a_lease_that_was_granted_in_part_is_a_yes_to_no_more_than_that() {
    let lease = json!({"cache": {"allow_ttl": "1s"}, "lease": {"max_units": 50, "ttl": "1s"}});
    let mut world = World::new(&config(&lease));
    let unkept = Script::allow().header("cache-control", "no-store");
    world.next_calls([unkept.clone(), unkept.clone(), unkept.clone(), unkept]);
    for _ in 0..4 {
        assert_eq!(world.ask(&get("acme")).reason, "within_quota");
    }

    world.next_calls([
        Script::allow().header("x-quota-granted", "0"),
        Script::deny(),
    ]);
    let end = world.ask(&get("acme"));

    assert_eq!(
        world.calls[4].header("x-quota-cost-min").as_deref(),
        Some("1")
    );
    assert_eq!(end.reason, "quota_exceeded");
    assert_eq!(world.calls.len(), 6);
}
