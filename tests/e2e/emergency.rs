//! Promise: degraded on purpose is told, bounded and reversible: emergencies, shadow, a failure
//! mode for one request, a local limit, and a page that says how the gate is.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::SystemTime;

use envoy_harness::eventually::eventually;
use envoy_harness::{Connection, Fault, Protocol, Push, Request, Rig, send_all};
use quota_gate::time::{Wall, rfc3339};
use serde_json::{Value, json};

use crate::gated::{Gated, by_path, config, gated, start};

/// The time in so many seconds, as an operator writes it. The clock is that of the file system.
fn in_seconds(seconds: u64) -> String {
    let file = file_time();
    let since = file
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("a time after 1970");
    rfc3339(Wall::from_secs(since.as_secs() + seconds))
}

fn emergency(mode: &str, until: &str) -> Value {
    let mut config = config(&json!({"timeout": "500ms"}));
    config["emergency"] = json!({"mode": mode, "until": until, "reason": "INC-7: disk full"});
    config
}

fn ask(rig: &Rig, tenant: &str) -> Request {
    rig.request("GET", "/").header("x-tenant-id", tenant)
}

/// Clients that send request after request until told to stop; how many got 200 and 503.
struct Load {
    stop: AtomicBool,
    passed: AtomicU32,
    refused: AtomicU32,
}

impl Load {
    fn new() -> Self {
        Self {
            stop: AtomicBool::new(false),
            passed: AtomicU32::new(0),
            refused: AtomicU32::new(0),
        }
    }

    /// Every request gets an answer; anything but 200 and 503 is a failure of the test.
    fn run(&self, rig: &Rig) {
        let mut connection = rig.connect(Protocol::H1);
        while !self.stop.load(Ordering::Relaxed) {
            let request = connection
                .request("GET", "/load")
                .header("x-tenant-id", "load");
            let status = connection.send(request).expect("no request is lost").status;
            match status {
                200 => self.passed.fetch_add(1, Ordering::Relaxed),
                503 => self.refused.fetch_add(1, Ordering::Relaxed),
                other => panic!("status {other}"),
            };
        }
    }

    fn passed(&self) -> u32 {
        self.passed.load(Ordering::Relaxed)
    }

    fn refused(&self) -> u32 {
        self.refused.load(Ordering::Relaxed)
    }
}

#[test]
fn a_push_alone_bypasses_a_dead_backend_under_load_and_loses_no_request() {
    let calm = config(&json!({"timeout": "500ms"}));
    let rig = start(Rig::builder().concurrency(2).ecds().plugin(calm.clone()));
    rig.backend().fail(Fault::Refuse);
    let (load, envoy): (_, &Rig) = (Load::new(), &rig);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| load.run(envoy));
        }
        eventually("the load is refused", || {
            (load.refused() > 50).then_some(())
        });
        assert_eq!(load.passed(), 0);

        let bypass = emergency("bypass", &in_seconds(3600));
        assert_eq!(rig.push_config(&bypass), Push::Accepted);
        let refused = eventually("nobody is refused any more", || {
            let (before, passed) = (load.refused(), load.passed());
            eventually("more pass", || (load.passed() > passed + 200).then_some(()));
            (load.refused() == before).then_some(before)
        });
        rig.envoy()
            .expect_metric("quota_gate_emergency_active", &[], 1);
        rig.envoy()
            .expect_log_line("emergency bypass is active until");
        assert_eq!(load.refused(), refused);

        assert_eq!(rig.push_config(&calm), Push::Accepted);
        eventually("the load is refused again", || {
            (load.refused() > refused + 50).then_some(())
        });
        rig.envoy()
            .expect_metric("quota_gate_emergency_active", &[], 0);
        rig.envoy()
            .expect_log_line("emergency ends with its configuration: INC-7: disk full");
        load.stop.store(true, Ordering::Relaxed);
    });
    rig.envoy().expect_decisions(&[
        ("emergency", load.passed()),
        ("quota_unavailable", load.refused()),
    ]);
    assert_eq!(rig.upstream().seen().len(), load.passed() as usize);
}

#[test]
fn a_push_alone_lets_failures_through_and_denials_still_deny() {
    let rig = start(Rig::builder().ecds().plugin(config(&json!({}))));
    rig.backend().fail(Fault::Refuse);
    ask(&rig, "acme").send().expect_status(503);

    let push = rig.push_config(&emergency("fail_open", &in_seconds(3600)));
    assert_eq!(push, Push::Accepted);
    eventually("the failure is let through", || {
        (ask(&rig, "acme").send().status == 200).then_some(())
    });
    rig.backend().recover().fail(Fault::Status(429));
    ask(&rig, "over").send().expect_status(429);
    rig.backend().fail(Fault::Status(403));
    ask(&rig, "unknown").send().expect_status(403);
    rig.get("/").expect_status(401);

    let told = rig.upstream().seen()[0].header_values("x-quota-decision");
    assert_eq!(told, ["allow; reason=emergency"]);
}

#[test]
fn an_emergency_ends_by_itself_and_says_so() {
    let calm = config(&json!({"timeout": "500ms"}));
    let rig = start(Rig::builder().concurrency(2).ecds().plugin(calm));
    rig.backend().fail(Fault::Status(500));
    let push = rig.push_config(&emergency("fail_open", &in_seconds(5)));
    assert_eq!(push, Push::Accepted);
    eventually("the failure is let through", || {
        (ask(&rig, "acme").send().status == 200).then_some(())
    });
    rig.envoy()
        .expect_metric("quota_gate_emergency_active", &[], 1);
    let line = rig.envoy().expect_log_line("emergency fail_open is active");
    assert!(line.ends_with("INC-7: disk full"), "{line}");

    eventually("it is over", || {
        (ask(&rig, "acme").send().status == 503).then_some(())
    });

    let line = rig.envoy().expect_log_line("emergency is over");
    assert!(line.ends_with("INC-7: disk full"), "{line}");
    assert_eq!(rig.envoy().log_lines("emergency is over").len(), 1);
    assert_eq!(
        rig.envoy().log_lines("emergency fail_open is active").len(),
        1
    );
    rig.envoy()
        .expect_metric("quota_gate_emergency_active", &[], 0);
}

#[test]
fn an_emergency_that_is_over_opens_nothing() {
    let rig = start(Rig::builder().plugin(emergency("bypass", "2020-01-01T00:00:00Z")));
    rig.backend().fail(Fault::Status(500));

    ask(&rig, "acme").send().expect_status(503);

    rig.envoy()
        .expect_metric("quota_gate_emergency_active", &[], 0);
}

#[test]
fn the_status_page_tells_version_configuration_emergency_and_backends() {
    let mut config = emergency("fail_open", "2100-01-01T00:00:00Z");
    config["status_path"] = json!("/-/quota-gate");
    let rig = start(Rig::builder().plugin(config));
    let page = rig.get("/-/quota-gate?from=probe");
    page.expect_status(200)
        .expect_header("content-type", "application/json")
        .expect_header("cache-control", "no-store")
        .expect_json("/healthy", true)
        .expect_json("/version", "0.1.0")
        .expect_json("/emergency/mode", "fail_open")
        .expect_json("/emergency/until", "2100-01-01T00:00:00Z")
        .expect_json("/emergency/reason", "INC-7: disk full")
        .expect_json("/backends/quota/breaker", "off")
        .expect_json("/backends/quota/last_answer", Value::Null);

    ask(&rig, "acme").send().expect_status(200);

    let page = rig.get("/-/quota-gate").json();
    let hash = page["configuration"].as_str().expect("a hash");
    assert_eq!(hash.len(), 16);
    let answered = page["backends"]["quota"]["last_answer"]
        .as_str()
        .expect("a time");
    assert!(
        answered.ends_with('Z') && answered.starts_with("20"),
        "{answered}"
    );
    // Any other method, and any other path, is an ordinary request.
    let post = rig.request("POST", "/-/quota-gate").send();
    post.expect_status(401);
    rig.get("/-/quota-gates").expect_status(401);
}

/// Both sides of `failure_mode_header`: whether Envoy takes the client for one of its own.
fn with_header(inside: bool) -> Gated {
    let fields = json!({"failure_mode_header":
        {"name": "x-quota-failure-mode", "trust": "internal"}});
    let range = if inside { "127.0.0.0" } else { "10.0.0.0" };
    let internal = json!({"internal_address_config":
        {"cidr_ranges": [{"address_prefix": range, "prefix_len": 8}]}});
    let rig = start(Rig::builder().hcm(&internal).plugin(config(&fields)));
    rig.backend().fail(Fault::Status(500));
    rig
}

#[test]
fn a_caller_from_outside_can_not_choose_the_failure_mode() {
    let rig = with_header(false);
    let chosen = || ask(&rig, "acme").header("x-quota-failure-mode", "fail_open");

    chosen().send().expect_status(503);
    chosen()
        .header("x-envoy-internal", "true")
        .send()
        .expect_status(503);
    chosen()
        .header("x-envoy-internal", "true")
        .header("x-forwarded-for", "10.0.0.1")
        .send()
        .expect_status(503);

    rig.upstream().expect_requests(0);
}

#[test]
fn a_caller_from_inside_can_choose_the_failure_mode_of_one_request() {
    let rig = with_header(true);
    let chosen = |mode| {
        let request = ask(&rig, "acme").header("x-quota-failure-mode", mode);
        request.send().status
    };

    assert_eq!(chosen("fail_open"), 200);
    assert_eq!(chosen("fail_closed"), 503);
    // There is no local limit, and no such mode.
    assert_eq!(chosen("fail_local"), 503);
    assert_eq!(chosen("open"), 503);
    ask(&rig, "acme").send().expect_status(503);

    let seen = rig.upstream().expect_requests(1).remove(0);
    assert_eq!(
        seen.header_values("x-quota-decision"),
        ["allow; reason=failed_open"]
    );
    // Proxies behind this one may go by the same word.
    assert_eq!(seen.header_values("x-quota-failure-mode"), ["fail_open"]);
}

#[test]
fn shadow_asks_and_tells_but_denies_nobody() {
    let rig = gated(&json!({"enforcement": "shadow", "cache": {"deny_ttl": "0s"}}));

    ask(&rig, "acme").send().expect_status(200);
    rig.backend().fail(Fault::Status(429));
    ask(&rig, "acme").send().expect_status(200);
    rig.backend().fail(Fault::Status(500));
    ask(&rig, "acme").send().expect_status(200);

    rig.backend().expect_checks(3);
    let log = rig.envoy().expect_access_log(3);
    assert_eq!(log[1].field("would_deny"), Some("quota_exceeded"));
    assert_eq!(log[2].field("would_deny"), Some("quota_unavailable"));
    rig.envoy()
        .expect_decisions(&[("within_quota", 1), ("shadow", 2)]);
}

#[test]
fn off_asks_nobody() {
    let rig = start(Rig::builder().plugin(by_path(&[("/idle", json!({"enforcement": "off"}))])));

    rig.get("/idle").expect_status(200);

    rig.backend().expect_checks(0);
    rig.envoy().expect_decisions(&[("bypassed", 1)]);
}

#[test]
fn the_local_limit_is_one_for_all_workers() {
    let fields = json!({
        "failure_mode": "fail_local",
        "local_limit": {"units": 6, "per": "1h"},
    });
    let rig = start(Rig::builder().concurrency(2).plugin(config(&fields)));
    rig.backend().fail(Fault::Status(500));

    let responses = send_all((0..30).map(|_| ask(&rig, "acme")));

    let passed = responses.iter().filter(|response| response.status == 200);
    assert_eq!(passed.count(), 6);
    let denied = responses.iter().find(|response| response.status == 429);
    let denied = denied.expect("a denial");
    denied.expect_json("/code", "local_exceeded");
    let wait: u64 = denied
        .header("retry-after")
        .expect("a header")
        .parse()
        .expect("seconds");
    assert!((1..=600).contains(&wait), "retry-after: {wait}");
    ask(&rig, "other").send().expect_status(200);
    rig.envoy()
        .expect_decisions(&[("failed_local", 7), ("local_exceeded", 24)]);
}

#[test]
fn the_local_limit_grows_back() {
    let fields = json!({
        "failure_mode": "fail_local",
        "local_limit": {"units": 1, "per": "1s"},
    });
    let rig = gated(&fields);
    rig.backend().fail(Fault::Status(500));
    let mut client = Connection::open(rig.address(), Protocol::H1).expect("a connection");
    let mut status = || {
        let request = client.request("GET", "/").header("x-tenant-id", "acme");
        client.send(request).expect("a response").status
    };

    assert_eq!([status(), status()], [200, 429]);

    eventually("one unit has grown back", || {
        (status() == 200).then_some(())
    });
    assert_eq!(status(), 429);
}

/// The time as the file system has it: of a file that has just been made.
fn file_time() -> SystemTime {
    let (process, thread) = (std::process::id(), std::thread::current().id());
    let path = std::env::temp_dir().join(format!("quota-gate-now-{process}-{thread:?}"));
    std::fs::write(&path, b"now").expect("a file");
    let modified = std::fs::metadata(&path).and_then(|meta| meta.modified());
    drop(std::fs::remove_file(&path));
    modified.expect("the time of a file")
}
