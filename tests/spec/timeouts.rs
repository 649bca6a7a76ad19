//! Promise: a request never waits longer than its policy, its host and its client can afford.

use std::time::Duration;

use serde_json::json;

use crate::world::{Script, World};
use crate::{config, get};

/// A tick of the filter's timer.
const TICK: Duration = Duration::from_millis(20);

#[test]
fn a_hanging_backend_is_waited_for_as_long_as_the_policy_says() {
    let mut world = World::new(&config(&json!({"timeout": "40ms"})));
    world.backend(Script::hang());

    let end = world.ask(&get("acme"));

    assert_eq!(
        (end.after, end.cause),
        (Duration::from_millis(40), Some("timeout"))
    );
    assert_eq!(world.calls[0].timeout_ms, 40);
}

#[test]
fn a_lost_callback_releases_the_stream_by_its_deadline_plus_one_tick() {
    let mut world = World::new(&config(&json!({"timeout": "50ms"})));
    world.backend(Script::lost());

    let end = world.ask(&get("acme"));

    assert_eq!(
        (end.reason, end.cause),
        ("quota_unavailable", Some("timeout"))
    );
    assert!(
        end.after <= Duration::from_millis(50) + TICK,
        "{:?}",
        end.after
    );
    world.run(200);
    assert_eq!(world.gate(0).pending(), (0, 0));
}

#[test]
fn the_clients_own_deadline_shortens_the_wait() {
    let mut world = World::new(&config(&json!({})));
    world.backend(Script::hang());

    let end = world.ask(&get("acme").with_header("grpc-timeout", "30m"));

    let least = Duration::from_millis(30);
    assert!(
        end.after >= least && end.after <= least + TICK,
        "{:?}",
        end.after
    );
    assert_eq!(end.cause, Some("timeout"));
}

#[test]
fn the_clients_own_deadline_never_lengthens_the_wait() {
    let mut world = World::new(&config(&json!({})));
    world.backend(Script::hang());

    let end = world.ask(&get("acme").with_header("grpc-timeout", "10S"));

    assert_eq!(end.after, Duration::from_millis(80));
}

#[test]
fn a_deadline_below_a_millisecond_makes_no_call() {
    let mut world = World::new(&config(&json!({})));

    for timeout in ["0m", "999u", "1n"] {
        let end = world.ask(&get("acme").with_header("grpc-timeout", timeout));
        assert_eq!(end.cause, Some("deadline_too_short"));
    }
    assert!(world.calls.is_empty());
}

#[test]
fn a_late_reply_changes_nothing() {
    let mut world = World::new(&config(&json!({"timeout": "40ms"})));
    world.backend(Script::lost());
    world.ask(&get("acme"));
    world.run(500);

    let end = world.ask(&get("acme"));

    assert_eq!(end.reason, "quota_unavailable");
}

#[test]
fn a_clock_that_jumps_back_holds_nobody() {
    let mut world = World::new(&config(&json!({"timeout": "50ms"})));
    world.backend(Script::lost());
    let stream = world.request(&get("acme"));
    world.run(10);

    world.jump_back(3600);
    world.run(100);

    assert_eq!(world.end_of(stream).unwrap().cause, Some("timeout"));
}

/// The host's timer may count from when its loop last looked at the clock: that was not before the
/// last tick.
#[test]
fn an_answer_that_stalls_on_a_busy_worker_is_a_timeout_and_one_that_breaks_off_is_none() {
    let mut world = World::new(&config(&json!({"timeout": "200ms"})));
    world.backend(Script::broken().after(176));

    world.run(35);
    let late = world.ask(&get("late"));
    let until_the_next_tick = 220 - 35 - 176;
    world.run(until_the_next_tick);
    let early = world.ask(&get("early"));

    assert_eq!(late.cause, Some("timeout"));
    assert_eq!(early.cause, Some("unreachable"));
}
