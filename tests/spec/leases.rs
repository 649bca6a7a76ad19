//! Promise: a hot key hardly ever asks, nobody gets more than the backend gave, and a quiet key
//! holds nothing.

use serde_json::json;

use crate::world::{Script, World};
use crate::{config, get};

fn world(workers: usize) -> World {
    let lease = json!({"max_units": 100, "ttl": "1s"});
    let fields = json!({"lease": lease, "cache": {"deny_ttl": "0s"}});
    World::with_workers(&config(&fields), workers)
}

/// A request every millisecond; how many passed.
fn hot(world: &mut World, requests: usize) -> usize {
    let streams: Vec<_> = (0..requests)
        .map(|place| {
            world.run(1);
            world.request_at(place % 2, &get("hot"))
        })
        .collect();
    world.run(100);
    let passed = |stream: &&_| {
        world
            .end_of(**stream)
            .is_some_and(|end| end.denial.is_none())
    };
    streams.iter().filter(passed).count()
}

fn units(world: &World) -> u64 {
    let cost = |call: &crate::world::SeenCall| call.header("x-quota-cost").unwrap();
    world
        .calls
        .iter()
        .map(|call| cost(call).parse::<u64>().unwrap())
        .sum()
}

#[test]
fn a_hot_key_asks_a_few_times_for_a_thousand_requests() {
    let mut world = world(2);
    hot(&mut world, 500);
    let calls = world.calls.len();

    assert_eq!(hot(&mut world, 1000), 1000);

    let calls = world.calls.len() - calls;
    assert!(calls <= 30, "{calls} calls");
    let (given, spent) = (units(&world), 1500);
    assert!(
        given >= spent && given <= spent + 2 * 100 + 200,
        "{given} units given"
    );
}

#[test]
fn a_quiet_key_asks_each_time_for_just_what_it_needs() {
    let mut world = world(1);

    for _ in 0..10 {
        assert_eq!(world.ask(&get("quiet")).reason, "within_quota");
        world.run(400);
    }

    let plain = |call: &crate::world::SeenCall| {
        (call.header("x-quota-cost"), call.header("x-quota-cost-min")) == (Some("1".into()), None)
    };
    assert!(world.calls.len() == 10 && world.calls.iter().all(plain));
}

#[test]
fn a_refused_batch_is_followed_by_a_check_for_just_what_is_needed() {
    let mut world = world(1);
    let reason = loop {
        let calls = world.calls.len();
        world.next_calls([Script::deny()]);
        let stream = world.request(&get("hot"));
        // Only a batch that this request waits for is refused; whatever comes next is allowed.
        let batch = world
            .calls
            .get(calls)
            .and_then(|call| call.header("x-quota-cost-min"));
        if batch.is_some() && world.end_of(stream).is_none() {
            world.run(20);
            break world.end_of(stream).unwrap().reason;
        }
        world.next_calls([]);
        world.run(20);
    };

    assert_eq!(reason, "within_quota");
    let last = world.calls.last().unwrap();
    assert_eq!(last.header("x-quota-cost"), Some("1".to_owned()));
}

#[test]
fn a_partial_grant_is_all_that_is_spent() {
    let mut world = world(1);
    world.backend(
        Script::allow()
            .header("x-quota-granted", "1")
            .header("x-ratelimit-remaining", "0"),
    );

    for _ in 0..50 {
        assert_eq!(world.ask(&get("hot")).denial, None);
        world.run(1);
    }

    // Each of them was granted by itself, however many it asked for.
    assert_eq!(world.calls.len(), 50);
}

#[test]
fn a_reply_that_misstates_what_it_gave_is_a_failure() {
    let mut world = world(1);
    world.backend(Script::allow().header("x-quota-granted", "many"));

    let end = world.ask(&get("acme"));

    assert_eq!(
        (end.reason, end.cause),
        ("quota_unavailable", Some("bad_reply"))
    );
}
