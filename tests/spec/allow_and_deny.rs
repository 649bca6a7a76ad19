//! Promise: what the backend says is what happens.

use quota_gate::request::PlainRequest;
use serde_json::json;

use crate::world::{Script, World};
use crate::{config, get, merge};

#[test]
fn lets_through_what_the_backend_allows() {
    let mut world = World::new(&config(&json!({})));

    let end = world.ask(&get("acme"));

    assert_eq!(end.reason, "within_quota");
    assert_eq!(
        end.log_state,
        "allow reason=within_quota policy=gold backend=quota ms=1"
    );
    assert_eq!(
        world.metric("requests", "policy.gold.decision.allow.reason.within_quota"),
        1
    );
    assert_eq!(world.metric("callouts", "backend.quota.result.allow"), 1);
}

#[test]
fn denies_what_is_over_the_limit_with_429() {
    let mut world = World::new(&config(&json!({})));
    world.backend(Script::deny().header("retry-after", "7"));

    let end = world.ask(&get("acme"));

    assert_eq!(end.reason, "quota_exceeded");
    let denial = end.denial.unwrap();
    assert_eq!(denial.status, 429);
    assert_eq!(denial.grpc_status, 8);
    assert_eq!(denial.details, "quota_gate_quota_exceeded");
}

#[test]
fn a_key_that_the_backend_rejects_is_denied_with_the_backends_status() {
    for (status, grpc) in [(401, 16), (403, 7)] {
        let mut world = World::new(&config(&json!({})));
        world.backend(Script::status(status));

        let end = world.ask(&get("acme"));

        assert_eq!(end.reason, "key_rejected");
        let denial = end.denial.unwrap();
        assert_eq!((denial.status, denial.grpc_status), (status, grpc));
    }
}

#[test]
fn a_denial_is_never_a_failure() {
    let mut world = World::new(&config(&json!({"failure_mode": "fail_open"})));
    world.backend(Script::deny());

    let end = world.ask(&get("acme"));

    assert_eq!((end.reason, end.cause), ("quota_exceeded", None));
    assert_eq!(world.metric("failures", ""), 0);
}

#[test]
fn asks_with_the_descriptor_the_cost_and_the_policys_name() {
    let fields = json!({"cost": {"header": "x-cost", "default": 1, "max": 100}});
    let mut world = World::new(&config(&fields));

    world.ask(&get("a&b=c").with_header("x-cost", "3"));

    let call = &world.calls[0];
    assert_eq!(call.header(":method").unwrap(), "POST");
    assert_eq!(call.header(":path").unwrap(), "/check");
    assert_eq!(call.header(":authority").unwrap(), "quota-backend");
    assert_eq!(
        call.header("x-quota-descriptor").unwrap(),
        "tenant=a%26b%3Dc"
    );
    assert_eq!(call.header("x-quota-cost").unwrap(), "3");
    assert_eq!(call.header("x-quota-policy").unwrap(), "gold");
}

#[test]
fn a_request_without_its_descriptor_is_denied_with_401() {
    let mut world = World::new(&config(&json!({})));

    let end = world.ask(&PlainRequest::new("GET", "a", "/"));

    assert_eq!(end.reason, "descriptor_missing");
    assert_eq!(end.denial.unwrap().status, 401);
    assert!(world.calls.is_empty());
}

#[test]
fn a_repeated_header_counts_as_missing() {
    let mut world = World::new(&config(&json!({})));

    let end = world.ask(&get("acme").with_header("x-tenant-id", "other"));

    assert_eq!(end.reason, "descriptor_missing");
}

#[test]
fn on_missing_allow_lets_through_unchecked() {
    let mut world = World::new(&config(&json!({"on_missing": "allow"})));

    let end = world.ask(&PlainRequest::new("GET", "a", "/"));

    assert_eq!(end.reason, "bypassed");
    assert!(world.calls.is_empty());
}

#[test]
fn a_preflight_is_bypassed_and_costs_nothing() {
    let mut world = World::new(&config(&json!({})));
    let preflight = PlainRequest::new("OPTIONS", "a", "/")
        .with_header("origin", "https://app.example")
        .with_header("access-control-request-method", "POST");

    assert_eq!(world.ask(&preflight).reason, "bypassed");
    assert!(world.calls.is_empty());
}

#[test]
fn the_first_matching_route_wins_and_its_overrides_count() {
    let mut config = config(&json!({}));
    let routes = json!({"routes": [
        {"match": {"path_prefix": "/healthz"}, "policy": "off"},
        {
            "match": {"path_prefix": "/v1/"},
            "policy": "gold",
            "override": {"failure_mode": "fail_open"}
        },
        {"match": {"path_prefix": "/v1/items"}, "policy": "off"},
    ]});
    merge(&mut config, &routes);
    let mut world = World::new(&config);
    world.backend(Script::host(503));

    let health = world.ask(&PlainRequest::new("GET", "a", "/healthz"));
    assert_eq!(health.reason, "bypassed");
    assert_eq!(health.log_state, "allow reason=bypassed");
    assert_eq!(world.ask(&get("acme")).reason, "failed_open");
    assert_eq!(
        world.metric("requests", "policy.off.decision.allow.reason.bypassed"),
        1
    );
}

#[test]
fn tells_the_client_of_its_limit_after_a_fresh_check() {
    let mut world = World::new(&config(&json!({})));
    world.backend(
        Script::allow()
            .header("ratelimit-policy", "\"day\";q=100;w=86400")
            .header("ratelimit", "\"day\";r=42;t=60"),
    );
    let stream = world.request(&get("acme"));
    world.run(10);

    let fields = world.response_fields(stream);

    assert_eq!(
        fields,
        [
            ("ratelimit-policy", "\"gold\";q=100;w=86400".to_owned()),
            ("ratelimit", "\"gold\";r=42;t=60".to_owned()),
        ]
    );
}
