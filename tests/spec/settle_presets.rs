//! Promise: what a backend can't take in one report, or not now, is not lost.

use quota_gate::response::PlainResponse;
use serde_json::{Value, json};

use crate::world::{Script, World};
use crate::{config, get};

/// A policy that settles with a backend of that preset, which says yes to every check.
fn settled_by(preset: &str, quota: &Value) -> World {
    let usage = json!([{"header": "x-units"}]);
    let settle = json!({"usage": usage, "max": 1_000_000_000, "every": "500ms"});
    let mut config = config(&json!({
        "settle": settle, "quota": quota, "failure_mode": "fail_open", "cache": {"deny_ttl": "0s"},
    }));
    config["backends"]["quota"]["preset"] = json!(preset);
    if quota.is_null() {
        let policy = config["policies"]["gold"].as_object_mut();
        policy.unwrap().remove("quota");
    }
    let mut world = World::new(&config);
    world.backend(Script::allow().body(match preset {
        "gubernator" => r#"{"responses":[{"status":"UNDER_LIMIT","limit":"10","remaining":"5"}]}"#,
        _ => r#"{"overallCode":"OK","statuses":[{"code":"OK"}]}"#,
    }));
    world
}

fn use_up(world: &mut World, units: u64) {
    let response = PlainResponse::new(200).with_header("x-units", units.to_string());
    world.serve(&get("a"), &response);
}

/// What the calls say that was used; those of checks say 0.
fn told(world: &World, pointer: &str) -> Vec<u64> {
    let units = |body: &String| -> u64 {
        let body: Value = serde_json::from_str(body).unwrap();
        let units = body.pointer(pointer).unwrap();
        let number = units.as_u64();
        number.unwrap_or_else(|| units.as_str().unwrap().parse().unwrap())
    };
    let bodies = world.calls.iter().map(|call| units(&call.body));
    bodies.filter(|units| *units > 0).collect()
}

/// Its field has 32 bits, and it answers 400 to more.
#[test]
fn more_than_envoy_ratelimit_can_take_at_once_is_told_in_parts() {
    let mut world = settled_by("envoy_ratelimit", &Value::Null);
    for _ in 0..9 {
        use_up(&mut world, 1_000_000_000);
    }

    world.run(1_000);

    let parts = [4_294_967_295, 4_294_967_295, 410_065_410];
    assert_eq!(told(&world, "/hitsAddend"), parts);
    let reported = world.metric("settled_units", "result.reported");
    assert_eq!(reported, 9_000_000_000);
    assert_eq!(world.metric("settlements_pending", ""), 0);
    assert_eq!(world.metric("settlement_dropped_units", ""), 0);
}

/// It says 400 while its Redis is down.
#[test]
fn a_400_of_envoy_ratelimit_loses_nothing() {
    let mut world = settled_by("envoy_ratelimit", &Value::Null);
    use_up(&mut world, 7);
    world.next_calls([Script::status(400), Script::status(400)]);

    world.run(10_000);

    assert_eq!(told(&world, "/hitsAddend"), [7, 7, 7]);
    assert_eq!(world.metric("settled_units", "result.reported"), 7);
    assert_eq!(world.metric("settlement_dropped_units", ""), 0);
}

/// In a window that has just begun it counts nothing of what is above the whole limit.
#[test]
fn gubernator_counts_what_is_above_the_limit_because_it_is_told_the_limit() {
    let mut world = settled_by("gubernator", &json!({"units": 10, "per": "1m"}));
    use_up(&mut world, 25);

    world.run(1_000);

    assert_eq!(told(&world, "/requests/0/hits"), [10]);
    assert_eq!(world.metric("settled_units", "result.reported"), 25);
}
