//! Promise: what a request really used is charged once, after the fact, and none of it is lost.

use quota_gate::response::PlainResponse;
use serde_json::{Value, json};

use crate::world::{Script, World};
use crate::{config, get, merge};

/// `report` with the headers preset; `fields` are added to the settlement.
fn settled(fields: &Value) -> Value {
    let mut settle = json!({"usage": [{"header": "x-units"}]});
    merge(&mut settle, fields);
    config(&json!({"settle": settle, "cache": {"deny_ttl": "0s"}}))
}

fn correcting(fields: &Value) -> Value {
    let mut settle = json!({"usage": [{"header": "x-units"}], "mode": "correct"});
    merge(&mut settle, fields);
    config(&json!({"settle": settle, "cost": 100, "cache": {"deny_ttl": "0s"}}))
}

fn used(units: u64) -> PlainResponse {
    PlainResponse::new(200).with_header("x-units", units.to_string())
}

fn tenant(name: &str) -> String {
    format!("tenant={name}")
}

#[test]
fn the_check_counts_nothing_and_the_use_is_told_by_key() {
    let mut world = World::new(&settled(&json!({})));

    world.serve(&get("a"), &used(7));
    world.serve(&get("b"), &used(5));
    world.serve(&get("a"), &used(10));
    world.run(200);

    let checks: Vec<_> = world
        .calls
        .iter()
        .filter(|call| call.path() == "/check")
        .collect();
    assert!(
        checks
            .iter()
            .all(|call| call.header("x-quota-cost").as_deref() == Some("0"))
    );
    assert_eq!(world.told(), [(17, tenant("a")), (5, tenant("b"))]);
    let report = &world.calls[3];
    assert_eq!(report.header("x-quota-requests").as_deref(), Some("2"));
    assert_eq!(report.header("x-quota-unchecked"), None);
    assert_eq!(world.metric("settlements", "result.measured"), 3);
    assert_eq!(world.metric("settled_units", "result.reported"), 22);
    assert_eq!(world.metric("settlements_pending", ""), 0);
}

#[test]
fn nothing_is_told_before_its_time() {
    let mut world = World::new(&settled(&json!({"every": "500ms"})));
    world.serve(&get("a"), &used(7));

    world.run(450);
    assert_eq!(world.told(), []);
    assert_eq!(world.metric("settlements_pending", ""), 1);

    world.run(70);
    assert_eq!(world.told(), [(7, tenant("a"))]);
}

#[test]
fn the_difference_to_the_cost_is_told_in_both_directions() {
    let mut world = World::new(&correcting(&json!({})));
    world.serve(&get("less"), &used(40));
    world.serve(&get("more"), &used(250));
    world.serve(&get("same"), &used(100));

    world.run(200);

    let check = world.calls[0].header("x-quota-cost");
    assert_eq!(check.as_deref(), Some("100"));
    assert_eq!(world.told(), [(-60, tenant("less")), (150, tenant("more"))]);
    assert_eq!(world.metric("settled_units", "result.taken_back"), 60);
    assert_eq!(world.metric("settled_units", "result.reported"), 150);
}

#[test]
fn a_request_that_failed_has_used_what_the_policy_says() {
    for (on_error, told) in [("release", -100), ("keep", -90)] {
        let mut world = World::new(&correcting(&json!({"on_error": on_error, "default": 10})));
        world.serve(&get("a"), &PlainResponse::new(503));
        world.run(200);
        assert_eq!(world.told(), [(told, tenant("a"))]);
    }
    let mut world = World::new(&correcting(&json!({"default": 10})));
    world.serve(&get("untold"), &PlainResponse::new(200));
    world.run(200);
    assert_eq!(world.told(), [(-90, tenant("untold"))]);
    assert_eq!(world.metric("settlements", "result.default"), 1);
}

#[test]
fn a_client_that_leaves_before_the_reply_gets_its_units_back_once() {
    let mut world = World::new(&correcting(&json!({})));
    world.backend(Script::allow().after(50));
    let stream = world.request(&get("a"));
    world.run(10);
    world.finish(stream, &PlainResponse::default());

    world.run(500);

    assert_eq!(world.told(), [(-100, tenant("a"))]);
    assert_eq!(world.metric("settlements", "result.released"), 1);
}

#[test]
fn a_stream_is_settled_once_however_often_its_end_is_told() {
    let mut world = World::new(&settled(&json!({})));
    let stream = world.request(&get("a"));
    world.run(20);

    world.finish(stream, &used(7));
    world.finish(stream, &used(7));
    world.run(500);

    assert_eq!(world.told(), [(7, tenant("a"))]);
    assert_eq!(world.metric("settlements", ""), 1);
}

#[test]
fn a_denied_request_has_used_nothing() {
    let mut world = World::new(&settled(&json!({})));
    world.backend(Script::deny());
    let stream = world.request(&get("a"));
    world.run(20);
    world.finish(stream, &PlainResponse::new(429));

    world.run(500);

    assert_eq!(world.told(), []);
    assert_eq!(world.metric("settlements", ""), 0);
}

#[test]
fn a_check_that_counts_nothing_denies_when_nothing_remains() {
    let mut world = World::new(&settled(&json!({})));
    world.backend(Script::allow().header("ratelimit", "\"q\";r=0;t=9"));

    let end = world.ask(&get("a"));

    assert_eq!(end.reason, "quota_exceeded");
}

#[test]
fn use_without_a_check_is_told_and_marked_unless_the_policy_says_otherwise() {
    for (word, told) in [("report", vec![(7, tenant("a"))]), ("skip", vec![])] {
        let mut config = settled(&json!({"unchecked": word}));
        config["policies"]["gold"]["failure_mode"] = json!("fail_open");
        let mut world = World::new(&config);
        world.next_calls([Script::hang()]);
        let stream = world.request(&get("a"));
        world.run(100);
        assert_eq!(world.end_of(stream).unwrap().reason, "failed_open");
        world.finish(stream, &used(7));

        world.run(500);

        assert_eq!(world.told(), told);
        let marked = world.calls.last().unwrap().header("x-quota-unchecked");
        let expected = (word == "report").then(|| "failed_open".to_owned());
        assert_eq!(marked, expected);
    }
}

#[test]
fn what_an_emergency_lets_through_is_told() {
    let mut config = settled(&json!({}));
    config["emergency"] =
        json!({"mode": "bypass", "until": "2100-01-01T00:00:00Z", "reason": "INC-1"});
    let mut world = World::new(&config);

    world.serve(&get("a"), &used(7));
    world.run(500);

    assert_eq!(world.told(), [(7, tenant("a"))]);
    let report = &world.calls[0];
    assert_eq!(
        report.header("x-quota-unchecked").as_deref(),
        Some("emergency")
    );
}

#[test]
fn what_the_backend_does_not_take_is_told_again_under_the_same_id() {
    let mut world = World::new(&settled(&json!({})));
    world.serve(&get("a"), &used(7));
    let other = world.request(&get("a"));
    world.run(20);
    world.backend(Script::status(503));
    world.run(2_000);
    world.finish(other, &used(5));
    world.run(2_000);
    world.backend(Script::allow());

    world.run(10_000);

    let ids: Vec<_> = world.reports_of(7);
    assert!(ids.len() > 2, "{ids:?}");
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_ne!(world.reports_of(5)[0], ids[0]);
    assert_eq!(world.metric("settled_units", "result.reported"), 12);
    assert_eq!(world.metric("settlement_dropped_units", ""), 0);
}

#[test]
fn an_outage_is_met_with_one_report_at_a_time_and_ends_slowly() {
    let mut world = World::new(&settled(&json!({"retry_for": "1h"})));
    for place in 0..200 {
        let stream = world.request(&get(&format!("t{place}")));
        world.run(2);
        world.finish(stream, &used(1));
    }
    world.calls.clear();
    world.backend(Script::status(503));
    world.run(60_000);
    // Some were under way when it began; then one every 2.5 s to 5 s.
    assert!(
        world.calls.len() < 50,
        "{} calls in a minute",
        world.calls.len()
    );

    world.backend(Script::allow());
    world.run(20_000);

    assert_eq!(world.metric("settled_units", "result.reported"), 200);
    assert_eq!(world.metric("settlements_pending", ""), 0);
}

#[test]
fn what_can_not_be_told_for_too_long_is_dropped_and_counted() {
    let mut world = World::new(&settled(&json!({"retry_for": "10s"})));
    world.serve(&get("a"), &used(7));
    world.backend(Script::hang());

    world.run(30_000);

    assert_eq!(world.metric("settlement_dropped_units", "cause.too_old"), 7);
    assert_eq!(world.metric("settlements_pending", ""), 0);
    assert!(world.log_contains("backend quota: 7 units of use are dropped: too_old"));
}

#[test]
fn a_full_ledger_drops_the_smallest_batches_and_tells_how_many_units() {
    const BATCHES: u64 = 4096;
    let mut config = settled(&json!({}));
    config["policies"]["gold"]["failure_mode"] = json!("fail_open");
    let mut world = World::new(&config);
    world.backend(Script::refuse());
    for place in 0..BATCHES {
        let units = if place < 10 { 1 } else { 5 };
        world.serve(&get(&format!("t{place}")), &used(units));
    }
    world.run(100);
    assert_eq!(world.metric("settlement_dropped_units", ""), 0);

    for place in 0..11 {
        world.serve(&get(&format!("more{place}")), &used(3));
    }
    world.run(1_100);

    // Of those that used 1 the first one was told in vain, and is no longer in the ledger. Nine are
    // left to go, then one that used 3.
    assert_eq!(world.metric("settlement_dropped_units", "cause.full"), 12);
    assert!(world.log_contains("units of use are dropped: full"));
    world.backend(Script::allow());
    world.run(60_000);
    assert_eq!(world.metric("settlements_pending", ""), 0);
    let used = 10 + (BATCHES as i64 - 10) * 5 + 33;
    let reported = world.metric("settled_units", "result.reported");
    assert_eq!(reported, used - 12);
}

#[test]
fn what_may_have_been_counted_is_told_at_most_once_where_the_policy_says_so() {
    let mut world = World::new(&settled(&json!({"if_unknown": "drop"})));
    world.serve(&get("a"), &used(7));
    world.next_calls([Script::broken()]);
    world.run(500);
    assert_eq!(world.metric("settlement_dropped_units", "cause.unknown"), 7);

    // What the host has not sent can't have been counted.
    world.serve(&get("a"), &used(5));
    world.next_calls([Script::refuse()]);
    world.run(5_000);
    assert_eq!(world.metric("settled_units", "result.reported"), 5);
}

#[test]
fn a_report_that_the_backend_refuses_for_good_holds_nobody_up() {
    let mut world = World::new(&settled(&json!({})));
    world.serve(&get("a"), &used(7));
    world.serve(&get("b"), &used(5));
    world.next_calls([Script::status(400)]);

    world.run(500);

    assert_eq!(world.metric("settlement_dropped_units", "cause.refused"), 7);
    assert_eq!(world.metric("settled_units", "result.reported"), 5);
}

#[test]
fn reports_wait_while_the_breaker_is_open() {
    let mut config = settled(&json!({}));
    config["backends"]["quota"]["breaker"] =
        json!({"consecutive_failures": 2, "open_for": "2s", "open_for_max": "2s"});
    config["policies"]["gold"]["failure_mode"] = json!("fail_open");
    let mut world = World::new(&config);
    world.backend(Script::status(500));
    for _ in 0..2 {
        world.ask(&get("a"));
    }
    let stream = world.request(&get("a"));
    world.backend(Script::allow());
    world.finish(stream, &used(7));

    world.run(1_000);
    assert_eq!(world.told(), []);

    world.run(4_000);
    assert_eq!(world.told(), [(7, tenant("a"))]);
}

#[test]
fn a_report_whose_end_is_lost_is_told_again() {
    let mut world = World::new(&settled(&json!({"timeout": "1s"})));
    world.serve(&get("a"), &used(7));
    world.next_calls([Script::lost()]);

    world.run(5_000);

    assert_eq!(world.told(), [(7, tenant("a")), (7, tenant("a"))]);
    assert_eq!(world.metric("settled_units", "result.reported"), 7);
}

#[test]
fn a_root_that_ends_has_the_rest_told_by_the_next() {
    let mut world = World::new(&settled(&json!({"every": "1s"})));
    world.serve(&get("a"), &used(7));
    world.run(100);

    world.forget(0);
    assert!(!world.gate(0).is_settled());
    world.run(2_000);

    assert_eq!(world.told(), [(7, tenant("a"))]);
    assert!(world.gate(0).is_settled());
}

#[test]
fn ids_of_workers_differ() {
    let mut world = World::with_workers(&settled(&json!({})), 2);
    for worker in 0..2 {
        let stream = world.request_at(worker, &get("a"));
        world.run(20);
        world.finish(stream, &used(7));
    }
    world.run(500);

    let ids = world.reports_of(7);
    assert!(ids.len() == 2 && ids[0] != ids[1], "{ids:?}");
}
