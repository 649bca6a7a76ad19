//! What the rig does with a filter, shown with a tiny one that stands in for the real.
//!
//! It counts one allowed request in the way quota-gate does, leaves its state for the access log,
//! and refuses a configuration of exactly five bytes.

use envoy_harness::{Push, Rig, RigBuilder, Route};
use serde_json::json;
use tempfile::NamedTempFile;

const STAND_IN: &str = r#"
(module
  (import "env" "proxy_define_metric"
    (func $define (param i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_record_metric" (func $record (param i32 i64) (result i32)))
  (import "env" "proxy_increment_metric" (func $increment (param i32 i64) (result i32)))
  (import "env" "proxy_set_property" (func $set (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 0) "quota_gate.requests.policy.gold-1.decision.allow.reason.within_quota")
  (data (i32.const 100) "quota_gate.callout_duration_ms.backend.quota")
  (data (i32.const 200) "quota_gate")
  (data (i32.const 300) "allow reason=within_quota policy=gold-1")
  (data (i32.const 400) "quota_gate.failures.backend.quota.cause.timeout")
  (data (i32.const 500) "quota_gate.evictions.table.cache")
  (data (i32.const 600) "quota_gate.leases.event.renewed")
  (data (i32.const 700) "quota_gate.callouts.backend.quota.result.allow")
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "proxy_on_memory_allocate") (param i32) (result i32) (i32.const 65536))
  (func (export "proxy_on_context_create") (param i32 i32))
  (func (export "proxy_on_vm_start") (param i32 i32) (result i32) (i32.const 1))
  (func (export "proxy_on_configure") (param i32 i32) (result i32)
    (i32.ne (local.get 1) (i32.const 5)))
  (func $count (param $name i32) (param $length i32)
    (drop (call $define (i32.const 0) (local.get $name) (local.get $length) (i32.const 1000)))
    (drop (call $increment (i32.load (i32.const 1000)) (i64.const 1))))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
    (call $count (i32.const 0) (i32.const 68))
    (call $count (i32.const 400) (i32.const 47))
    (call $count (i32.const 500) (i32.const 32))
    (call $count (i32.const 600) (i32.const 31))
    (call $count (i32.const 700) (i32.const 46))
    (drop (call $define (i32.const 2) (i32.const 100) (i32.const 44) (i32.const 1000)))
    (drop (call $record (i32.load (i32.const 1000)) (i64.const 40)))
    (drop (call $set (i32.const 200) (i32.const 10) (i32.const 300) (i32.const 39)))
    (i32.const 0)))
"#;

/// The stand-in as a file, which has to live as long as Envoy may load it.
fn stand_in() -> NamedTempFile {
    let file = NamedTempFile::with_suffix(".wasm").expect("a file");
    std::fs::write(
        file.path(),
        wat::parse_str(STAND_IN).expect("the text form of wasm"),
    )
    .expect("the file is written");
    file
}

fn with(module: &NamedTempFile) -> RigBuilder {
    Rig::builder().module(module.path())
}

#[test]
fn the_published_tags_turn_names_into_labels() {
    let module = stand_in();
    let rig = with(&module).start();

    rig.get("/").expect_status(200);
    rig.get("/").expect_status(200);

    let labels = [
        ("policy", "gold-1"),
        ("decision", "allow"),
        ("reason", "within_quota"),
    ];
    rig.envoy().expect_metric("quota_gate_requests", &labels, 2);
    rig.envoy().expect_decisions(&[("within_quota", 2)]);
    let failures = [("backend", "quota"), ("cause", "timeout")];
    rig.envoy()
        .expect_metric("quota_gate_failures", &failures, 2);
    let callouts = [("backend", "quota"), ("result", "allow")];
    rig.envoy()
        .expect_metric("quota_gate_callouts", &callouts, 2);
    rig.envoy()
        .expect_metric("quota_gate_evictions", &[("table", "cache")], 2);
    rig.envoy()
        .expect_metric("quota_gate_leases", &[("event", "renewed")], 2);
    let bucket = [("backend", "quota"), ("le", "50")];
    rig.envoy()
        .expect_metric("quota_gate_callout_duration_ms_bucket", &bucket, 2);
    let bucket = [("backend", "quota"), ("le", "30")];
    rig.envoy()
        .expect_metric("quota_gate_callout_duration_ms_bucket", &bucket, 0);
    let ours = rig
        .envoy()
        .counters()
        .into_iter()
        .filter(|sample| sample.name == "quota_gate_requests");
    let ours: Vec<_> = ours
        .map(|sample| sample.labels.into_keys().collect::<Vec<_>>())
        .collect();
    assert_eq!(ours, [["decision", "policy", "reason"]]);
}

#[test]
fn the_filters_state_is_in_the_access_log_and_a_route_can_do_without_the_filter() {
    let module = stand_in();
    let rig = with(&module)
        .route(Route::path("/free").name("free").without_gate())
        .route(
            Route::path("/gold")
                .name("gold")
                .quota(json!({"policy": "gold-1"})),
        )
        .start();

    rig.get("/gold").expect_status(200);
    rig.get("/free").expect_status(200);
    rig.plain("GET", "/").send().expect_status(200);

    let log = rig.envoy().expect_access_log(2);
    assert_eq!(
        (log[0].route.as_str(), log[0].decision()),
        ("gold", "allow")
    );
    assert_eq!(log[0].field("reason"), Some("within_quota"));
    assert_eq!((log[1].route.as_str(), log[1].state.as_str()), ("free", ""));
    rig.envoy().expect_metric("quota_gate_requests", &[], 1);
}

#[test]
fn a_configuration_that_the_filter_refuses_keeps_envoy_from_starting() {
    let module = stand_in();

    assert!(!with(&module).plugin_text("12345").validate().accepted);
    assert!(with(&module).plugin_text("1234").validate().accepted);
    assert!(
        with(&module)
            .plugin_struct(json!({"a": 1, "b": [null]}))
            .validate()
            .accepted
    );
    let error = with(&module)
        .plugin_text("12345")
        .try_start()
        .err()
        .expect("refused");
    assert!(format!("{error:#}").contains("quota_gate"), "{error:#}");
}

#[test]
fn a_pushed_configuration_is_accepted_or_rejected_and_traffic_goes_on() {
    let module = stand_in();
    let rig = with(&module)
        .concurrency(2)
        .ecds()
        .plugin(json!({"n": 1}))
        .start();
    rig.get("/").expect_status(200);

    assert_eq!(rig.push_config(&json!({"n": 2})), Push::Accepted);
    let Push::Rejected(log) = rig.push_text("12345") else {
        panic!("it should be refused")
    };
    assert!(log.contains("quota_gate"), "{log}");
    rig.get("/").expect_status(200);
    assert_eq!(rig.push_config(&json!({"n": 3})), Push::Accepted);
    rig.get("/").expect_status(200);

    rig.envoy().expect_metric("quota_gate_requests", &[], 3);
    rig.upstream().expect_requests(3);
}
