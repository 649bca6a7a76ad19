//! Promise: ThrottleCrab's own server, as it is published, is understood in all that it says.

use std::path::PathBuf;
use std::process::Command;

use envoy_harness::eventually::eventually;
use envoy_harness::{BACKEND, Cluster, Port, Program, Request, Response, Rig};
use serde_json::{Value, json};

use crate::gated::{Gated, merge, start};
use crate::page::patient;

/// The server, on a port that it gets again when it is started again.
struct ThrottleCrab(Port);

impl ThrottleCrab {
    fn new() -> Self {
        Self(Port::free().expect("a port"))
    }

    #[track_caller]
    fn start(&self) -> Program {
        let Some(binary) = std::env::var_os("QUOTA_GATE_THROTTLECRAB").map(PathBuf::from) else {
            panic!(
                "QUOTA_GATE_THROTTLECRAB says where throttlecrab-server is; \
                 `cargo xtask test e2e` fetches it and sets it"
            );
        };
        let port = self.0.address().port().to_string();
        let mut command = Command::new(binary);
        command.args(["--http", "--http-host", "127.0.0.1", "--http-port", &port]);
        let program = Program::start(command).expect("the server starts");
        program.expect_listening(self.0.address());
        program
    }

    /// An Envoy that asks it, with the page's configuration and these fields over it.
    #[track_caller]
    fn rig(&self, fields: &Value) -> Gated {
        let mut config = patient("throttlecrab");
        merge(&mut config, fields);
        self.rig_of(config)
    }

    #[track_caller]
    fn rig_of(&self, config: Value) -> Gated {
        let cluster = Cluster::new(BACKEND).endpoint(self.0.address());
        start(Rig::builder().cluster(cluster).plugin(config))
    }
}

impl ThrottleCrab {
    /// Asks it without Envoy.
    fn ask(&self, body: &Value) -> Response {
        let request = Request::new(self.0.address(), "POST", "/throttle");
        let request = request.header("content-type", "application/json");
        request.body(body.to_string()).send()
    }
}

fn quota(units: u32, per: &str, burst: u32) -> Value {
    let quota = json!({"units": units, "per": per, "burst": burst});
    let cost = json!({"header": "x-cost", "default": 1, "max": 100});
    json!({"policies": {"standard": {"quota": quota, "cost": cost}}})
}

#[track_caller]
fn cost(rig: &Rig, tenant: &str, units: u32) -> Response {
    let request = rig.request("GET", "/").header("x-tenant-id", tenant);
    request.header("x-cost", units.to_string()).send()
}

/// The `remaining` that a response tells.
#[track_caller]
fn remaining(response: &Response) -> u64 {
    let state = response.header("ratelimit").expect("a state");
    let (_, rest) = state.split_once(";r=").expect("what remains");
    let digits = rest.split(';').next().expect("a number");
    digits.parse().expect("a number")
}

#[test]
fn the_real_throttlecrab_allows_counts_and_denies() {
    let server = ThrottleCrab::new();
    let _program = server.start();
    // One unit grows back each minute: none does while the test lasts.
    let rig = server.rig(&quota(60, "1h", 5));

    let first = cost(&rig, "acme", 3);
    first.expect_status(200);
    let policy = first.header("ratelimit-policy").expect("a policy");
    assert!(policy.starts_with("\"standard\";q=5"), "{policy}");
    assert_eq!(remaining(&first), 2);
    let free = cost(&rig, "acme", 0);
    free.expect_status(200);
    assert_eq!(remaining(&free), 2);

    let denied = cost(&rig, "acme", 3);
    denied
        .expect_status(429)
        .expect_json("/code", "quota_exceeded");
    // It knows for how long: until one more unit has grown back, a minute less what has passed.
    let wait = denied.header("retry-after").expect("a wait");
    let wait: u32 = wait.parse().expect("seconds");
    assert!((1..=60).contains(&wait), "{wait}");
    assert_eq!(cost(&rig, "acme", 2).status, 200);
    assert_eq!(remaining(&cost(&rig, "other", 1)), 4);

    rig.envoy()
        .expect_decisions(&[("within_quota", 4), ("quota_exceeded", 1)]);
}

#[test]
fn whoever_comes_again_when_the_real_throttlecrab_says_gets_in() {
    let server = ThrottleCrab::new();
    let _program = server.start();
    let rig = server.rig(&quota(2, "1s", 2));
    cost(&rig, "acme", 2).expect_status(200);

    let denied = cost(&rig, "acme", 2);

    // It rounds down, to 0 here; the client is told the least that there is.
    denied.expect_status(429).expect_header("retry-after", "1");
    eventually("a unit has grown back", || {
        (cost(&rig, "acme", 2).status == 200).then_some(())
    });
}

/// Why the configuration refuses this quota: when this fails, the server has learnt it.
#[test]
fn the_real_throttlecrab_limits_nothing_with_a_burst_of_one() {
    let server = ThrottleCrab::new();
    let _program = server.start();
    let quota = json!({"key": "k", "max_burst": 1, "count_per_period": 1, "period": 3600});

    for _ in 0..5 {
        let answer = server.ask(&quota);
        answer.expect_status(200).expect_json("/allowed", true);
    }
}

#[test]
fn the_real_throttlecrabs_errors_are_failures_and_deny_nobody() {
    let server = ThrottleCrab::new();
    let _program = server.start();
    let nonsense = json!({"key": "k", "max_burst": 0, "count_per_period": 1, "period": 1});
    server.ask(&nonsense).expect_status(500);
    server.ask(&json!({"key": "k"})).expect_status(422);
    let says =
        |body: &Value| json!({"preset": "custom", "path": "/throttle", "custom": {"body": body}});

    for backend in [
        says(&nonsense),
        says(&json!({"key": "k"})),
        // No JSON, which it calls an unsupported media type.
        json!({"preset": "headers", "path": "/throttle"}),
        json!({"preset": "headers", "path": "/nowhere"}),
    ] {
        let mut config = patient("throttlecrab");
        merge(&mut config["backends"]["throttlecrab"], &backend);
        let policy = config["policies"]["standard"].as_object_mut();
        policy.expect("a policy").remove("quota");
        let rig = server.rig_of(config);

        let request = rig.request("GET", "/").header("x-tenant-id", "acme");
        request
            .send()
            .expect_status(503)
            .expect_json("/code", "quota_unavailable");
        let cause = [("backend", "throttlecrab"), ("cause", "status")];
        rig.envoy().expect_metric("quota_gate_failures", &cause, 1);
    }
}

#[test]
fn when_the_real_throttlecrab_is_killed_the_failure_mode_decides_until_it_is_back() {
    let server = ThrottleCrab::new();
    let program = server.start();
    let mut fields = quota(60, "1h", 5);
    fields["policies"]["open"] = patient("throttlecrab")["policies"]["standard"].clone();
    merge(
        &mut fields["policies"]["open"],
        &json!({"failure_mode": "fail_open"}),
    );
    fields["routes"] = json!([{"match": {"path_prefix": "/open"}, "policy": "open"}]);
    let rig = server.rig(&fields);
    let open = || {
        rig.request("GET", "/open")
            .header("x-tenant-id", "acme")
            .send()
    };
    cost(&rig, "acme", 1).expect_status(200);

    program.kill();
    cost(&rig, "acme", 1)
        .expect_status(503)
        .expect_json("/code", "quota_unavailable");
    open().expect_status(200);
    let cause = [("backend", "throttlecrab"), ("cause", "unreachable")];
    rig.envoy().expect_metric("quota_gate_failures", &cause, 2);

    let again = server.start();
    cost(&rig, "acme", 1).expect_status(200);
    // Nothing answers, and the connection stays open.
    again.freeze();
    let mut short = rig.request("GET", "/").header("x-tenant-id", "acme");
    short = short.header("grpc-timeout", "200m");
    short.send().expect_status(503);
    again.thaw();
    cost(&rig, "acme", 1).expect_status(200);
    rig.envoy().expect_decisions(&[
        ("within_quota", 3),
        ("failed_open", 1),
        ("quota_unavailable", 2),
    ]);
}
