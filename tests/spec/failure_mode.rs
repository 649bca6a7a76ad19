//! Promise: when the backend gives no answer, the policy's failure mode decides, and says why.

use quota_gate::config::parse::parse;
use quota_gate::decision::{DenyReason, Outcome};
use quota_gate::gate::reply::CallEnd;
use quota_gate::gate::{Effect, Gate, StreamId};
use quota_gate::metrics::Metric;
use quota_gate::request::PlainRequest;
use quota_gate::shared::{PlainShared, Shared, Version};
use quota_gate::time::Wall;
use serde_json::{Value, json};

use crate::world::{Script, World};
use crate::{config, get, merge};

/// Every way in which a check can have no answer, and the cause that is told.
fn failures() -> Vec<(&'static str, Script)> {
    vec![
        ("timeout", Script::hang()),
        ("timeout", Script::host(504)),
        ("unreachable", Script::host(503)),
        ("unreachable", Script::host(502)),
        ("unreachable", Script::broken()),
        ("dispatch", Script::refuse()),
        ("status", Script::status(500)),
        ("status", Script::status(503)),
        ("status", Script::status(504)),
        ("status", Script::status(302)),
        ("timeout", Script::lost()),
    ]
}

fn world(fields: &Value, script: Script) -> World {
    let mut world = World::new(&config(fields));
    world.backend(script);
    world
}

#[test]
fn fail_closed_denies_with_503_whatever_the_failure() {
    for (cause, script) in failures() {
        let mut world = world(&json!({"failure_mode": "fail_closed"}), script);

        let end = world.ask(&get("acme"));

        assert_eq!((end.reason, end.cause), ("quota_unavailable", Some(cause)));
        let denial = end.denial.unwrap();
        assert_eq!((denial.status, denial.grpc_status), (503, 14));
        assert_eq!(
            world.metric("failures", &format!("backend.quota.cause.{cause}")),
            1
        );
    }
}

#[test]
fn fail_open_lets_through_whatever_the_failure() {
    for (cause, script) in failures() {
        let mut world = world(&json!({"failure_mode": "fail_open"}), script);

        let end = world.ask(&get("acme"));

        assert_eq!((end.reason, end.cause), ("failed_open", Some(cause)));
        assert!(end.log_state.starts_with("allow reason=failed_open cause="));
    }
}

#[test]
fn fail_local_allows_up_to_the_local_limit_for_each_key() {
    let fields = json!({
        "failure_mode": "fail_local",
        "local_limit": {"units": 1, "per": "1s", "burst": 2},
    });
    let mut world = world(&fields, Script::refuse());

    let reasons: Vec<_> = (0..3).map(|_| world.ask(&get("acme")).reason).collect();

    assert_eq!(reasons, ["failed_local", "failed_local", "local_exceeded"]);
    assert_eq!(world.ask(&get("other")).reason, "failed_local");
    world.run(1000);
    assert_eq!(world.ask(&get("acme")).reason, "failed_local");
}

#[test]
fn the_local_limit_is_shared_by_the_workers() {
    let fields = json!({
        "failure_mode": "fail_local",
        "local_limit": {"units": 1, "per": "1s", "burst": 2},
    });
    let mut world = World::with_workers(&config(&fields), 2);
    world.backend(Script::refuse());

    let reasons: Vec<_> = [0, 1, 0]
        .map(|worker| world.ask_at(worker, &get("acme")).reason)
        .into();

    assert_eq!(reasons, ["failed_local", "failed_local", "local_exceeded"]);
}

#[test]
fn no_failure_is_retried() {
    for (_, script) in failures() {
        let mut world = world(&json!({}), script);

        world.ask(&get("acme"));
        world.run(2000);

        assert_eq!(world.calls.len(), 1);
    }
}

#[test]
fn the_next_request_is_checked_again() {
    let mut world = World::new(&config(&json!({})));
    world.next_calls([Script::hang()]);

    assert_eq!(world.ask(&get("acme")).reason, "quota_unavailable");
    assert_eq!(world.ask(&get("acme")).reason, "within_quota");
}

#[test]
fn the_clients_answer_does_not_tell_the_cause() {
    let mut world = world(&json!({}), Script::hang());

    let denial = world.ask(&get("acme")).denial.unwrap();

    let body = String::from_utf8(denial.body).unwrap();
    assert!(body.contains("\"code\":\"quota_unavailable\""), "{body}");
    assert!(!body.contains("timeout"), "{body}");
}

#[test]
fn a_trusted_caller_may_choose_the_failure_mode_and_nobody_else() {
    let fields = json!({
        "failure_mode_header": {"name": "x-quota-failure-mode", "trust": "internal"},
    });
    let mut world = world(&fields, Script::refuse());
    let chosen = get("acme").with_header("x-quota-failure-mode", "fail_open");

    assert_eq!(world.ask(&chosen).reason, "quota_unavailable");
    let trusted = chosen.with_header("x-envoy-internal", "true");
    assert_eq!(world.ask(&trusted).reason, "failed_open");
}

#[test]
fn an_emergency_lets_through_what_has_no_answer_and_ends_by_itself() {
    let mut config = config(&json!({}));
    merge(
        &mut config,
        &json!({"emergency": {
            "mode": "fail_open", "until": "2027-01-15T08:00:10Z", "reason": "INC-123",
        }}),
    );
    let mut world = World::new(&config);
    world.next_calls([Script::hang(), Script::deny()]);

    let end = world.ask(&get("acme"));
    assert_eq!((end.reason, end.cause), ("emergency", Some("timeout")));
    assert_eq!(world.ask(&get("other")).reason, "quota_exceeded");
    assert!(world.log_contains("INC-123"), "{:?}", world.log);
    assert_eq!(world.metric("emergency_active", ""), 1);

    world.run(11_000);
    world.backend(Script::hang());
    assert_eq!(world.ask(&get("acme")).reason, "quota_unavailable");
    assert!(world.log_contains("emergency is over"), "{:?}", world.log);
    assert_eq!(world.metric("emergency_active", ""), 0);
}

#[test]
fn an_emergency_bypass_asks_nobody() {
    let mut config = config(&json!({}));
    merge(
        &mut config,
        &json!({"emergency": {
            "mode": "bypass", "until": "2027-01-15T09:00:00Z", "reason": "INC-9",
        }}),
    );
    let mut world = World::new(&config);

    assert_eq!(
        world.ask(&PlainRequest::new("GET", "a", "/")).reason,
        "emergency"
    );
    assert!(world.calls.is_empty());
}

#[test]
fn shadow_tells_what_it_would_deny_and_lets_through() {
    let mut world = world(&json!({"enforcement": "shadow"}), Script::deny());

    let end = world.ask(&get("acme"));

    assert_eq!(end.reason, "shadow");
    assert_eq!(
        end.log_state,
        "allow reason=shadow would_deny=quota_exceeded policy=gold backend=quota ms=1"
    );
}

#[test]
fn failures_are_logged_once_a_second_with_a_count_of_the_rest() {
    let mut world = world(&json!({}), Script::refuse());

    for _ in 0..50 {
        world.ask(&get("secret-tenant"));
    }
    world.run(1500);

    let lines: Vec<_> = world
        .log
        .iter()
        .filter(|(_, line)| line.contains("failed"))
        .collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].1.contains("dispatch"), "{lines:?}");
    assert!(lines[1].1.contains("49 more"), "{lines:?}");
    assert!(!world.log_contains("secret-tenant"));
}

/// Shared data that the host lets nobody write.
struct ReadOnly;

impl Shared for ReadOnly {
    fn load(&mut self, _: &str) -> (Vec<u8>, Version) {
        (Vec::new(), Version(0))
    }

    fn store(&mut self, _: &str, _: &[u8], _: Version) -> bool {
        false
    }
}

#[test]
fn units_that_could_not_be_booked_are_denied_and_counted_apart() {
    let fields = json!({
        "failure_mode": "fail_local",
        "local_limit": {"units": 10, "per": "1s", "burst": 20},
    });
    let config = parse(config(&fields).to_string().as_bytes()).expect("a configuration");
    let (mut gate, now) = (Gate::new(config, 1), Wall::from_secs(1_800_000_000));
    gate.handle_request(|| now, StreamId(1), &get("acme"), &mut ReadOnly);
    let Some(Effect::Call(call)) = gate.poll_effect() else {
        panic!("no call")
    };

    gate.handle_reply(now, call.id, CallEnd::Refused, &mut ReadOnly);
    gate.handle_tick(now, &mut ReadOnly);

    let (mut contended, mut denied) = (0, 0);
    gate.flush_metrics(|metric, change| match metric {
        Metric::LocalLimitContended => contended += change,
        Metric::Requests(_, Outcome::Deny(DenyReason::LocalExceeded)) => denied += change,
        _ => {}
    });
    assert_eq!((contended, denied), (1, 1));
}

/// What a gate has to say to the log.
fn lines(gate: &mut Gate) -> Vec<String> {
    let lines = std::iter::from_fn(|| gate.poll_effect());
    let texts = lines.filter_map(|effect| match effect {
        Effect::Log(_, text) => Some(text),
        Effect::Call(_) | Effect::Release(..) => None,
    });
    texts.filter(|text| text.contains("emergency")).collect()
}

#[test]
fn an_emergency_that_follows_another_is_told_once_whoever_is_late() {
    let declared = |reason: &str| {
        let mut config = config(&json!({}));
        let until = "2027-01-15T09:00:00Z";
        config["emergency"] = json!({"mode": "bypass", "until": until, "reason": reason});
        let config = parse(config.to_string().as_bytes()).expect("a configuration");
        [1, 2].map(|seed| Gate::new(config.clone(), seed))
    };
    let ([mut old, mut old_too], [mut new, mut new_too]) = (declared("INC-1"), declared("INC-2"));
    let (now, mut shared) = (Wall::from_secs(1_800_000_000), PlainShared::default());
    old.handle_tick(now, &mut shared);
    old_too.handle_tick(now, &mut shared);
    assert_eq!(lines(&mut old).len() + lines(&mut old_too).len(), 1);

    // One worker has the new configuration before the other has let go of the old one.
    old.handle_end(now, &mut shared);
    new.handle_tick(now, &mut shared);
    old_too.handle_end(now, &mut shared);
    new_too.handle_tick(now, &mut shared);

    assert_eq!(
        lines(&mut old),
        ["emergency ends with its configuration: INC-1"]
    );
    assert_eq!(
        lines(&mut new),
        ["emergency bypass is active until 2027-01-15T09:00:00Z: INC-2"]
    );
    assert_eq!(lines(&mut old_too), [""; 0]);
    assert_eq!(lines(&mut new_too), [""; 0]);
}
