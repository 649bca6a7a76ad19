//! What a trap in a VM leads to: the table in `docs/security.md`, line by line.
//!
//! The filter has no way to trap that a test could take, so a tiny one traps in its place: it
//! traps for `/trap`, holds `/wait` for good, denies `/deny` and lets everything else through.

use envoy_harness::eventually::eventually;
use envoy_harness::{Push, Rig, RigBuilder};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

const TRAPPER: &str = r#"
(module
  (import "env" "proxy_get_header_map_value"
    (func $header (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_send_local_response"
    (func $answer (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 0) ":path")
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "proxy_on_memory_allocate") (param i32) (result i32) (i32.const 65536))
  (func (export "proxy_on_context_create") (param i32 i32))
  (func (export "proxy_on_vm_start") (param i32 i32) (result i32) (i32.const 1))
  (func (export "proxy_on_configure") (param i32 i32) (result i32) (i32.const 1))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
    (local $letter i32)
    (drop (call $header (i32.const 0)
      (i32.const 0) (i32.const 5) (i32.const 100) (i32.const 104)))
    (local.set $letter (i32.load8_u (i32.add (i32.load (i32.const 100)) (i32.const 1))))
    (if (i32.eq (local.get $letter) (i32.const 0x74)) (then unreachable)) ;; t
    (if (i32.eq (local.get $letter) (i32.const 0x64)) (then ;; d
      (drop (call $answer (i32.const 403) (i32.const 0) (i32.const 0)
        (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const -1)))
      (return (i32.const 1))))
    (i32.eq (local.get $letter) (i32.const 0x77)))) ;; w
"#;

/// The stand-in as a file, which has to live as long as Envoy may load it.
fn trapper() -> NamedTempFile {
    let file = NamedTempFile::with_suffix(".wasm").expect("a file");
    let module = wat::parse_str(TRAPPER).expect("the text form of wasm");
    std::fs::write(file.path(), module).expect("the file is written");
    file
}

/// A rig whose VM failure has these terms, with the trapper in place of the filter.
struct Trap {
    rig: Rig,
    _module: NamedTempFile,
}

impl Trap {
    fn with(terms: &Value, set_up: impl Fn(RigBuilder) -> RigBuilder) -> Self {
        let module = trapper();
        let rig = Rig::builder().module(module.path()).wasm(terms);
        let trap = Self {
            rig: set_up(rig).start(),
            _module: module,
        };
        assert_eq!((trap.get("/ok"), trap.get("/deny")), (200, 403));
        trap
    }

    fn get(&self, path: &str) -> u16 {
        self.rig.get(path).status
    }
}

fn fails_closed() -> Value {
    json!({"failure_policy": "FAIL_CLOSED"})
}

#[test]
fn a_vm_that_fails_closed_answers_503_until_a_push() {
    // The default is the same as what says so.
    for terms in [json!({}), fails_closed()] {
        let trap = Trap::with(&terms, RigBuilder::ecds);

        assert_eq!(trap.get("/trap"), 503, "{terms}");
        for _ in 0..3 {
            assert_eq!((trap.get("/ok"), trap.get("/deny")), (503, 503), "{terms}");
        }
        let log = trap.rig.envoy().expect_access_log(9);
        for entry in &log[2..] {
            assert_eq!(entry.details, "wasm_fail_stream", "{}", entry.path);
        }
        trap.rig
            .envoy()
            .expect_log_line("Function: proxy_on_request_headers failed:");

        assert_eq!(trap.rig.push_config(&json!({"new": 1})), Push::Accepted);
        eventually("the new VM decides", || {
            ((trap.get("/ok"), trap.get("/deny")) == (200, 403)).then_some(())
        });
    }
}

#[test]
fn a_vm_that_reloads_answers_503_for_a_moment_and_is_there_again() {
    let trap = Trap::with(&json!({"failure_policy": "FAIL_RELOAD"}), |rig| rig);

    assert_eq!(trap.get("/trap"), 503);
    eventually("the module is loaded anew", || match trap.get("/ok") {
        200 => Some(()),
        status => {
            assert_eq!(status, 503, "nothing passes unchecked");
            None
        }
    });

    assert_eq!(trap.get("/deny"), 403);
    let reloads = "wasm.quota_gate.vm_reload_success";
    eventually("the reload is counted", || {
        (trap.rig.envoy().stat(reloads) == Some(1)).then_some(())
    });
}

#[test]
fn a_vm_that_fails_open_lets_everything_through_but_the_request_that_trapped() {
    let trap = Trap::with(&json!({"failure_policy": "FAIL_OPEN"}), |rig| rig);

    assert_eq!(trap.get("/trap"), 503);
    for _ in 0..3 {
        assert_eq!((trap.get("/ok"), trap.get("/deny")), (200, 200));
    }
}

#[test]
fn the_old_form_of_failing_open_lets_the_request_that_trapped_through_as_well() {
    let trap = Trap::with(&json!({"fail_open": true}), |rig| rig);

    assert_eq!(trap.get("/trap"), 200);
    assert_eq!((trap.get("/ok"), trap.get("/deny")), (200, 200));
}

#[test]
fn a_trap_fails_the_vm_of_one_worker_and_no_other() {
    let trap = Trap::with(&fails_closed(), |rig| rig.concurrency(2));
    assert_eq!(trap.get("/trap"), 503);

    // Each is a new connection, which the kernel gives to one worker or the other.
    let (mut well, mut failed) = (false, false);
    eventually("both workers are met", || {
        match trap.get("/deny") {
            403 => well = true,
            503 => failed = true,
            other => panic!("status {other}"),
        }
        (well && failed).then_some(())
    });
}

#[test]
fn a_request_that_waits_in_a_vm_when_it_traps_is_ended_by_the_hosts_own_timeout() {
    for timeout in ["stream_idle_timeout", "request_timeout"] {
        let patch = json!({timeout: "1s"});
        let trap = Trap::with(&fails_closed(), |rig| rig.hcm(&patch));
        let waiting = trap.rig.request("GET", "/wait").start();
        eventually("it waits", || {
            let active = trap.rig.envoy().stat("http.gated.downstream_rq_active");
            (active == Some(1)).then_some(())
        });

        assert_eq!(trap.get("/trap"), 503);
        assert!(!waiting.is_done(), "{timeout}");

        waiting.wait().expect_status(503);
        let log = trap.rig.envoy().expect_access_log(4);
        assert_eq!(
            (&*log[3].path, &*log[3].details),
            ("/wait", "wasm_fail_stream")
        );
        assert!((900..5000).contains(&log[3].duration_ms), "{:?}", log[3]);
    }
}

#[test]
fn a_refused_configuration_opens_nothing_whatever_is_said_of_a_failing_vm() {
    for terms in [
        json!({"failure_policy": "FAIL_OPEN"}),
        json!({"fail_open": true}),
    ] {
        let with_a_problem = || Rig::builder().wasm(&terms).plugin_text("{");

        let error = with_a_problem().try_start().err().expect("Envoy ends");
        let error = format!("{error:#}");
        assert!(
            error.contains("Unable to create Wasm plugin quota_gate"),
            "{error}"
        );

        let rig = with_a_problem().ecds().start();
        rig.get("/").expect_status(500);
        rig.upstream().expect_requests(0);
    }
}
