//! Promise: a configuration with any problem is refused whole, and every problem is told at once.

use envoy_harness::Rig;
use serde_json::{Value, json};

use crate::gated::{config, gated, merge, start};

/// What Envoy and the filter log about a configuration that is refused.
#[track_caller]
fn refused(plugin: &str) -> String {
    let validation = Rig::builder().plugin_text(plugin).validate();
    assert!(!validation.accepted, "accepted: {plugin}");
    validation.log
}

#[track_caller]
fn expect_lines(log: &str, lines: &[&str]) {
    for line in lines {
        assert!(log.contains(line), "no `{line}` in:\n{log}");
    }
}

#[test]
fn every_problem_is_told_at_once_with_its_path() {
    let mut plugin = config(&json!({"timeout": "0ms", "failure_mod": "fail_open", "cost": -1}));
    merge(
        &mut plugin,
        &json!({
            "backends": {"quota": {"preset": "limitadr", "max_pending": 0}},
            "default_policy": "glod",
            "surprise": true,
        }),
    );

    let log = refused(&plugin.to_string());

    expect_lines(
        &log,
        &[
            "policies.gold.timeout: out of range: got 0ms, allowed 1ms to 60s",
            "policies.gold.failure_mod: unknown key",
            "did you mean `failure_mode`",
            "policies.gold.cost: ",
            "backends.quota.preset: not supported",
            "did you mean `limitador`",
            "backends.quota.max_pending: out of range",
            "default_policy: not found",
            "did you mean `gold`",
            "surprise: unknown key",
        ],
    );
}

#[test]
fn an_empty_configuration_is_refused() {
    expect_lines(&refused(""), &["configuration: empty"]);
    let validation = Rig::builder().plugin(Value::Null).validate();
    assert!(!validation.accepted);
}

#[test]
fn what_is_no_json_is_refused_with_its_place() {
    let log = refused("{\"backends\": {,}}");

    expect_lines(&log, &["configuration: unreadable", "line 1 column"]);
}

/// Lesson 3.3: what matters is never implied. Lesson 2.1: the mode is each policy's own choice.
#[test]
fn what_must_be_said_is_not_assumed() {
    let mut plugin = config(&json!({}));
    for (parent, key) in [
        ("/policies/gold", "failure_mode"),
        ("", "default_policy"),
        ("", "host_budget"),
    ] {
        let object = plugin.pointer_mut(parent).and_then(Value::as_object_mut);
        object.expect("an object").remove(key);
    }

    let log = refused(&plugin.to_string());

    expect_lines(
        &log,
        &[
            "policies.gold.failure_mode: missing",
            "default_policy: missing",
            "host_budget: missing",
        ],
    );
}

/// Lesson 2.2: a configuration that is wrong is no outage: it does not open anything.
#[test]
fn envoy_does_not_start_with_a_configuration_that_is_refused() {
    let plugin = config(&json!({"failure_mode": "fail_sometimes"}));

    let started = Rig::builder().plugin(plugin).try_start();

    let error = started
        .err()
        .map(|error| format!("{error:#}"))
        .expect("Envoy has not started");
    expect_lines(&error, &["policies.gold.failure_mode: not supported"]);
}

/// Lesson 3.6: what stands in a backend's headers may be a secret, and is never repeated.
#[test]
fn a_secret_is_not_in_the_problems() {
    let mut plugin = config(&json!({}));
    plugin["backends"]["quota"]["headers"] = json!({
        "authorization": "Bearer s3cr3t\r\nx: y", "x-envoy-retry-on": "5xx s3cr3t",
    });

    let log = refused(&plugin.to_string());

    expect_lines(&log, &["backends.quota.headers.authorization: malformed"]);
    expect_lines(&log, &["backends.quota.headers.x-envoy-retry-on: "]);
    assert!(!log.contains("s3cr3t"), "{log}");
}

#[test]
fn the_same_key_twice_is_refused() {
    let text = config(&json!({})).to_string();
    let twice = text.replacen('{', "{\"default_policy\": \"off\", ", 1);

    expect_lines(&refused(&twice), &["default_policy: duplicate"]);
}

/// Envoy hands a Struct over as protobuf, not as the JSON that its documentation speaks of.
#[test]
fn a_struct_works_like_a_string_of_json() {
    let fields = json!({"cost": {"header": "x-cost", "default": 2, "max": 9}});
    let rig = start(Rig::builder().plugin_struct(config(&fields)));

    rig.request("GET", "/")
        .header("x-tenant-id", "a")
        .send()
        .expect_status(200);

    assert_eq!(rig.backend().expect_checks(1)[0].cost, 2);
}

#[test]
fn a_struct_with_problems_is_refused_like_a_string() {
    let plugin = config(&json!({"timeout": "61s"}));

    let validation = Rig::builder().plugin_struct(plugin).validate();

    assert!(!validation.accepted);
    expect_lines(&validation.log, &["policies.gold.timeout: out of range"]);
}

#[test]
fn a_string_of_json_works_and_is_announced_by_nothing() {
    let rig = gated(&json!({}));

    rig.request("GET", "/")
        .header("x-tenant-id", "a")
        .send()
        .expect_status(200);

    assert!(
        rig.envoy().log_lines("[error]").is_empty(),
        "{}",
        rig.envoy().log()
    );
}
