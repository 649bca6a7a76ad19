//! Promise: a backend is connected as the page says: the example server's very file is asked with
//! the page's very configuration.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use envoy_harness::eventually::eventually;
use envoy_harness::{BACKEND, Cluster, Port, Program, Protocol, Request, Rig};
use serde_json::json;

use crate::gated::{Gated, start};
use crate::page::patient;

/// The example server on a port of its own, which it gets back when it is started again.
struct Example {
    port: Port,
    limits: [(&'static str, String); 2],
}

impl Example {
    /// So many units in a window of so many seconds.
    fn of(limit: u32, window: u32) -> Self {
        Self {
            port: Port::free().expect("a port"),
            limits: [("LIMIT", limit.to_string()), ("WINDOW", window.to_string())],
        }
    }

    #[track_caller]
    fn start(&self) -> Program {
        let mut python = Command::new("python3");
        python
            .arg(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/examples/quota_server.py"
            ))
            .arg(self.port.address().port().to_string())
            .envs(self.limits.clone());
        let program = Program::start(python)
            .unwrap_or_else(|error| panic!("the example needs Python 3.9 or later: {error:#}"));
        program.expect_listening(self.port.address());
        program
    }

    /// An Envoy that asks it, with the page's configuration and these fields over its policy.
    #[track_caller]
    fn rig(&self, fields: &serde_json::Value) -> Gated {
        let mut config = patient("A whole backend in Python");
        crate::gated::merge(&mut config["policies"]["standard"], fields);
        let cluster = Cluster::new(BACKEND).endpoint(self.port.address());
        start(
            Rig::builder()
                .concurrency(2)
                .cluster(cluster)
                .plugin(config),
        )
    }
}

fn of(rig: &Rig, tenant: &str) -> Request {
    rig.request("GET", "/").header("x-tenant-id", tenant)
}

/// How many of `count` requests at a time, from each of four clients, pass; the rest is denied.
fn passed(rig: &Rig, count: usize) -> u32 {
    let passed = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut connection = rig.connect(Protocol::H1);
                for _ in 0..count {
                    let request = connection.request("GET", "/").header("x-tenant-id", "hot");
                    match connection.send(request).expect("a response").status {
                        200 => passed.fetch_add(1, Ordering::Relaxed),
                        429 => 0,
                        other => panic!("status {other}"),
                    };
                }
            });
        }
    });
    passed.into_inner()
}

#[test]
fn the_example_server_allows_denies_and_says_when_to_come_again() {
    let example = Example::of(2, 60);
    let _program = example.start();
    let rig = example.rig(&json!({}));

    let first = of(&rig, "acme").send();
    first
        .expect_status(200)
        .expect_header("ratelimit-policy", "\"standard\";q=2;w=60");
    let left = first.header("ratelimit").expect("a header");
    assert!(left.starts_with("\"standard\";r=1;t="), "{left}");
    of(&rig, "acme").send().expect_status(200);
    let denied = of(&rig, "acme").send();
    denied
        .expect_status(429)
        .expect_json("/code", "quota_exceeded");
    let wait: u32 = denied.json()["retry_after"]
        .to_string()
        .parse()
        .expect("seconds");
    assert!((1..=60).contains(&wait), "{wait}");
    denied.expect_header("retry-after", &wait.to_string());
    of(&rig, "other").send().expect_status(200);

    rig.envoy()
        .expect_decisions(&[("within_quota", 3), ("quota_exceeded", 1)]);
}

#[test]
fn the_example_server_gives_exactly_its_limit_to_clients_at_the_same_time() {
    let example = Example::of(100, 60);
    let _program = example.start();
    let rig = example.rig(&json!({}));

    assert_eq!(passed(&rig, 50), 100);
}

#[test]
fn the_example_server_starts_anew_with_each_window() {
    let example = Example::of(1, 1);
    let _program = example.start();
    let rig = example.rig(&json!({}));
    let statuses = || of(&rig, "acme").send().status;

    eventually("it is used up", || (statuses() == 429).then_some(()));
    eventually("the next window", || (statuses() == 200).then_some(()));
}

#[test]
fn the_example_server_grants_leases_and_never_more_than_its_limit() {
    let example = Example::of(1000, 60);
    let _program = example.start();
    let rig = example.rig(&json!({"lease": {"max_units": 50, "ttl": "1s"}}));

    let passed = passed(&rig, 300);

    // At most one lease a worker is left over.
    assert!((900..=1000).contains(&passed), "{passed} passed");
    let event = |event| rig.envoy().metric("quota_gate_leases", &[("event", event)]);
    assert!(event("granted_units") >= 100.0, "hardly any leases");
}

#[test]
fn a_crash_of_the_example_server_is_an_outage_and_its_return_ends_it() {
    let example = Example::of(100, 60);
    let program = example.start();
    let rig = example.rig(&json!({}));
    of(&rig, "acme").send().expect_status(200);

    program.kill();
    of(&rig, "acme")
        .send()
        .expect_status(503)
        .expect_json("/code", "quota_unavailable");
    let _again = example.start();
    of(&rig, "acme").send().expect_status(200);

    rig.envoy()
        .expect_metric("quota_gate_failures", &[("cause", "unreachable")], 1);
}

#[test]
fn the_example_server_calls_what_it_cannot_understand_a_bad_request() {
    let example = Example::of(1, 60);
    let _program = example.start();
    let ask = |fields: &[(&str, &str)]| {
        let request = Request::new(example.port.address(), "POST", "/check");
        let with = |request: Request, (name, value): &(&str, &str)| request.header(name, *value);
        fields.iter().fold(request, with).send().status
    };

    assert_eq!(ask(&[]), 400);
    assert_eq!(ask(&[("x-quota-descriptor", "a=b")]), 400);
    let negative = [("x-quota-descriptor", "a=b"), ("x-quota-cost", "-1")];
    assert_eq!(ask(&negative), 400);
    let least = [
        ("x-quota-descriptor", "a=b"),
        ("x-quota-cost", "1"),
        ("x-quota-cost-min", "some"),
    ];
    assert_eq!(ask(&least), 400);
    let report = Request::new(example.port.address(), "POST", "/report");
    let report = report.header("x-quota-descriptor", "a=b");
    assert_eq!(report.header("x-quota-cost", "1").send().status, 404);
    let good = [("x-quota-descriptor", "a=b"), ("x-quota-cost", "1")];
    assert_eq!((ask(&good), ask(&good)), (200, 429));
}
