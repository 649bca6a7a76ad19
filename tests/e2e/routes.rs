//! Promise: a request is handled by the policy that its route names, and nothing that is not valid
//! ever opens a route.

use envoy_harness::{Fault, Rig, Route};
use serde_json::{Value, json};

use crate::gated::{Gated, by_path, config, start};

/// A fail-closed default whose backend is down, an open policy, and these routes.
fn with_routes(routes: &[(&str, Value)]) -> Gated {
    let mut config = by_path(&[("/by-rule", json!({"failure_mode": "fail_open"}))]);
    config["policies"]["open"] = config["policies"]["by-rule"].clone();
    let mut builder = Rig::builder().plugin(config);
    for (path, metadata) in routes {
        builder = builder.route(Route::path(path).quota(metadata.clone()));
    }
    let rig = start(builder);
    rig.backend().fail(Fault::Status(500));
    rig
}

fn status(rig: &Rig, path: &str) -> u16 {
    let request = rig.request("GET", path).header("x-tenant-id", "acme");
    request.send().status
}

fn metadata_errors(rig: &Rig, count: u32) {
    rig.envoy()
        .expect_metric("quota_gate_route_metadata_errors", &[], count);
}

#[test]
fn a_route_names_its_policy() {
    let rig = with_routes(&[
        ("/a", json!({"policy": "open"})),
        ("/b", json!({"policy": "off"})),
    ]);

    assert_eq!(status(&rig, "/a"), 200);
    assert_eq!(status(&rig, "/b"), 200);
    assert_eq!(status(&rig, "/c"), 503);

    assert_eq!(rig.logged("/a").field("policy"), Some("open"));
    assert_eq!(rig.logged("/a").field("reason"), Some("failed_open"));
    assert_eq!(rig.logged("/b").field("reason"), Some("bypassed"));
    assert_eq!(rig.logged("/c").field("policy"), Some("gold"));
    metadata_errors(&rig, 0);
}

#[test]
fn a_route_goes_before_the_rules() {
    let rig = with_routes(&[("/by-rule/closed", json!({"policy": "gold"}))]);

    assert_eq!(status(&rig, "/by-rule/closed"), 503);
    assert_eq!(status(&rig, "/by-rule/other"), 200);
}

#[test]
fn a_route_changes_the_policy_that_it_gets() {
    let rig = with_routes(&[
        ("/mode", json!({"failure_mode": "fail_open"})),
        ("/shadow", json!({"enforcement": "shadow"})),
        ("/by-rule/closed", json!({"failure_mode": "fail_closed"})),
        ("/cost", json!({"policy": "open", "cost": "7"})),
        ("/number", json!({"policy": "open", "cost": 8})),
        ("/slow", json!({"policy": "open", "timeout": "60ms"})),
    ]);

    assert_eq!(status(&rig, "/mode"), 200);
    assert_eq!(status(&rig, "/shadow"), 200);
    assert_eq!(status(&rig, "/by-rule/closed"), 503);
    drop(rig.backend().take());
    assert_eq!(status(&rig, "/cost"), 200);
    assert_eq!(status(&rig, "/number"), 200);
    let costs: Vec<u64> = rig
        .backend()
        .take()
        .iter()
        .map(|check| check.cost)
        .collect();
    assert_eq!(costs, [7, 8]);
    rig.backend().fail(Fault::Hang);
    assert_eq!(status(&rig, "/slow"), 200);
    assert_eq!(rig.logged("/slow").field("cause"), Some("timeout"));
    metadata_errors(&rig, 0);
}

/// Everything that a route may say and that means nothing, and what the log says of it.
fn traps() -> Vec<(Value, &'static str)> {
    vec![
        (json!({"policy": ""}), "policy: no policy is named ``"),
        (json!({"policy": 1}), "policy: wrong type"),
        (json!({"policy": true}), "policy: wrong type"),
        (json!({"policy": null}), "policy: wrong type"),
        (json!({"policy": {"name": "open"}}), "policy: wrong type"),
        (json!({"policy": ["open"]}), "policy: wrong type"),
        (
            json!({"policy": "opne"}),
            "policy: no policy is named `opne`",
        ),
        (
            json!({"policy": "OPEN"}),
            "policy: no policy is named `OPEN`",
        ),
        (
            json!({"policy": "open", "polcy": "open"}),
            "`polcy`: unknown key",
        ),
        (json!({"policy.name": "open"}), "`policy.name`: unknown key"),
        (json!({"policy": "open", "x": null}), "`x`: unknown key"),
        (
            json!({"failure_mode": ""}),
            "failure_mode: not a valid value",
        ),
        (
            json!({"failure_mode": "FAIL_OPEN"}),
            "failure_mode: not a valid value",
        ),
        (
            json!({"failure_mode": "fail_local"}),
            "failure_mode: the policy has no local_limit",
        ),
        (
            json!({"policy": "open", "timeout": 40}),
            "timeout: wrong type",
        ),
        (
            json!({"policy": "open", "timeout": "0ms"}),
            "timeout: not a valid value",
        ),
        (
            json!({"policy": "open", "timeout": "29s"}),
            "timeout: above the host budget",
        ),
        (
            json!({"policy": "open", "cost": "-1"}),
            "cost: not a valid value",
        ),
        (
            json!({"policy": "open", "cost": 1.5}),
            "cost: not a valid value",
        ),
        (json!({"policy": "open", "cost": true}), "cost: wrong type"),
        (
            json!({"enforcement": "Off"}),
            "enforcement: not a valid value",
        ),
        (json!({"enforcement": false}), "enforcement: wrong type"),
        (
            json!({"policy": "off", "cost": "1"}),
            "policy: off has nothing to change",
        ),
    ]
}

#[test]
fn metadata_that_is_not_valid_never_opens_a_route() {
    let traps = traps();
    let paths: Vec<String> = (0..traps.len())
        .map(|place| format!("/trap/{place}"))
        .collect();
    let routes = paths.iter().zip(&traps);
    let routes: Vec<(&str, Value)> = routes
        .map(|(path, (metadata, _))| (path.as_str(), metadata.clone()))
        .collect();
    let rig = with_routes(&routes);

    for (path, (metadata, _)) in routes
        .iter()
        .zip(&traps)
        .map(|((path, _), trap)| (path, trap))
    {
        assert_eq!(status(&rig, path), 503, "{metadata}");
        assert_eq!(rig.logged(path).field("policy"), Some("gold"), "{metadata}");
    }

    metadata_errors(&rig, 23);
    assert_eq!(traps.len(), 23);
    rig.envoy()
        .expect_log_line("route metadata is not valid, the default policy is used: policy");
}

#[test]
fn each_mistake_in_metadata_is_logged_by_its_name() {
    // A line a second at most: each of these few is the first of an Envoy of its own.
    for (metadata, told) in traps().into_iter().step_by(8) {
        let rig = with_routes(&[("/trap", metadata)]);

        assert_eq!(status(&rig, "/trap"), 503);

        rig.envoy().expect_log_line(told);
    }
}

#[test]
fn empty_metadata_and_that_of_others_says_nothing() {
    let others = json!({"metadata": {"filter_metadata": {"istio": {"policy": null, "x": [1]}}}});
    let builder = Rig::builder().plugin(config(&json!({})));
    let builder = builder
        .route(Route::path("/empty").quota(json!({})))
        .route(Route::path("/others").patch(&others));
    let rig = start(builder);

    assert_eq!(status(&rig, "/empty"), 200);
    assert_eq!(status(&rig, "/others"), 200);

    metadata_errors(&rig, 0);
}

#[test]
fn the_first_rule_that_matches_wins() {
    let mut config = by_path(&[]);
    config["policies"]["open"] = config["policies"]["gold"].clone();
    config["policies"]["open"]["failure_mode"] = json!("fail_open");
    config["routes"] = json!([
        {"match": {"path_prefix": "/a/closed"}, "policy": "gold"},
        {"match": {"path_prefix": "/a"}, "policy": "open"},
        {"match": {"route_name": "named"}, "policy": "open"},
        {"match": {"host": "*.open.test", "methods": ["GET", "PUT"], "headers": {"x-beta": "1"}},
         "policy": "open"},
        {"match": {"path_prefix": "/free"}, "policy": "off"},
        {"match": {"path_prefix": "/over"}, "policy": "gold",
         "override": {"failure_mode": "fail_open"}},
    ]);
    let builder = Rig::builder().plugin(config);
    let rig = start(builder.route(Route::path("/by-name").name("named")));
    rig.backend().fail(Fault::Status(500));

    assert_eq!(status(&rig, "/a/closed"), 503);
    assert_eq!(status(&rig, "/a/other"), 200);
    assert_eq!(status(&rig, "/by-name"), 200);
    assert_eq!(status(&rig, "/free"), 200);
    assert_eq!(status(&rig, "/over"), 200);
    assert_eq!(status(&rig, "/"), 503);
    let beta = |method, host: &str| {
        let request = rig.request(method, "/").host(host).header("x-beta", "1");
        request.header("x-tenant-id", "acme").send().status
    };
    assert_eq!(beta("GET", "api.open.test:8080"), 200);
    assert_eq!(beta("POST", "api.open.test"), 503);
    assert_eq!(beta("GET", "open.test"), 503);
}

#[test]
fn envoys_own_switch_leaves_the_filter_out() {
    let builder = Rig::builder().plugin(config(&json!({})));
    let rig = start(builder.route(Route::path("/out").without_gate()));
    rig.backend().fail(Fault::Status(500));
    rig.unseen(1);

    assert_eq!(status(&rig, "/out"), 200);
    assert_eq!(status(&rig, "/in"), 503);

    assert_eq!(rig.logged("/out").state, "");
    rig.backend().expect_checks(1);
}

#[test]
fn what_a_client_sends_does_not_choose_another_route_after_the_decision() {
    // Setting a header makes Envoy choose the route anew; what the client sent is gone by then.
    let route = Route::path("/x").with_header("x-quota-decision", "allow; reason=bypassed");
    let rig = start(
        Rig::builder()
            .plugin(config(&json!({})))
            .route(route.direct(204, "")),
    );

    let forged = rig
        .request("GET", "/x")
        .header("x-quota-decision", "allow; reason=forged");
    forged
        .header("x-tenant-id", "acme")
        .send()
        .expect_status(200);

    rig.backend().expect_checks(1);
    assert_eq!(rig.told_upstream(), [["allow; reason=within_quota"]]);
}
