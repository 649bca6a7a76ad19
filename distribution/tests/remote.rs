//! Envoy fetches the module itself from a web server: by what docs/install.md says, and with what
//! it says of a fetch that fails.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use envoy_harness::{Backend, Envoy, Port, Program, Request, Response, Upstream, validate};

/// What `cargo xtask dist` has made.
fn dist() -> PathBuf {
    let set = std::env::var_os("QUOTA_GATE_DIST");
    set.expect("QUOTA_GATE_DIST is not set: run `cargo xtask test dist`")
        .into()
}

/// The module's line of the published checksums.
fn published_sha256() -> String {
    let sums = fs::read_to_string(dist().join("SHA256SUMS")).expect("checksums");
    let line = sums
        .lines()
        .find_map(|line| line.strip_suffix("  quota_gate.wasm"));
    line.expect("the module's line").to_owned()
}

fn repository(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    fs::read_to_string(path).expect("the file is there")
}

/// A block of docs/install.md, indented.
fn documented(name: &str, indent: usize) -> String {
    let page = repository("docs/install.md");
    let mark = format!("<!-- tested: {name} -->\n```yaml\n");
    let (_, block) = page.split_once(&mark).expect("the block");
    let (block, _) = block.split_once("```").expect("its end");
    let indent = " ".repeat(indent);
    let lines = block.lines().map(|line| format!("{indent}{line}\n"));
    lines.collect()
}

/// Puts `new` in place of `old`, which has to be there.
fn put(text: &str, old: &str, new: &str) -> String {
    assert!(text.contains(old), "`{old}` is in `{text}`");
    text.replace(old, new)
}

/// minimal.yaml with the module from a web server, all as it is documented.
fn bootstrap() -> String {
    let manifest = repository("envoy/manifests/minimal.yaml");
    let local = "                  code: {local: {filename: /etc/envoy/quota_gate.wasm}}\n";
    let manifest = put(&manifest, local, &documented("remote", 18));
    put(
        &manifest,
        "  clusters:\n",
        &format!("  clusters:\n{}", documented("cluster", 2)),
    )
}

/// A web server for the packed files, an application and a quota backend.
struct World {
    web: Program,
    port: Port,
    backend: Backend,
    upstream: Upstream,
}

impl World {
    fn start() -> Self {
        let port = Port::free().expect("a port");
        let mut python = Command::new("python3");
        python
            .args(["-m", "http.server", "--bind", "127.0.0.1", "--directory"])
            .arg(dist())
            .arg(port.address().port().to_string());
        let web = Program::start(python).expect("Python's web server");
        web.expect_listening(port.address());
        Self {
            web,
            port,
            backend: Backend::start().expect("a backend"),
            upstream: Upstream::start().expect("an upstream"),
        }
    }

    fn envoy(&self, sha256: &str, more: &str) -> Envoy {
        self.envoy_of(&bootstrap(), sha256, more)
    }

    fn envoy_of(&self, text: &str, sha256: &str, more: &str) -> Envoy {
        let (before, tls) = text.split_once("    transport_socket:\n").expect("TLS");
        let (_, after) = tls.split_once("  - name: app\n").expect("the next cluster");
        let text = format!("{before}  - name: app\n{after}");
        let place = |text: &str, host: &str, port: u16, real: SocketAddr| {
            let old = format!("address: {host}, port_value: {port}");
            let new = format!("address: {}, port_value: {}", real.ip(), real.port());
            put(text, &old, &new)
        };
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        let text = place(&text, "127.0.0.1", 8080, free);
        let text = place(&text, "127.0.0.1", 9901, free);
        let text = place(&text, "127.0.0.1", 3000, self.upstream.address());
        let text = place(&text, "127.0.0.1", 9000, self.backend.address());
        let text = place(&text, "modules.example.com", 443, self.port.address());
        let text = put(
            &text,
            "/quota-gate/0.1.0/quota_gate.wasm",
            "/quota_gate.wasm",
        );
        let text = put(&text, &"0".repeat(64), sha256);
        // Nobody waits for as long as one would in production.
        let text = put(&text, "num_retries: 5", "num_retries: 1");
        let text = put(&text, "base_interval: 1s", "base_interval: 0.1s");
        let text = put(
            &text,
            "                name: quota_gate\n",
            &format!("                name: quota_gate\n{more}"),
        );
        Envoy::start(&text, 1).expect("Envoy starts")
    }
}

fn ask(envoy: &Envoy) -> Response {
    Request::new(envoy.listener("http"), "GET", "/")
        .header("x-api-key", "k1")
        .send()
}

#[test]
fn envoy_takes_what_is_documented() {
    let judged = validate(&bootstrap()).expect("an Envoy");
    assert!(judged.accepted, "{}", judged.log);
}

#[test]
fn the_module_with_the_published_digest_is_fetched_and_works() {
    let world = World::start();
    let envoy = world.envoy(&published_sha256(), "");

    ask(&envoy).expect_status(200);

    assert_eq!(world.backend.expect_checks(1)[0].entry("key"), Some("k1"));
    let fetched = "\"GET /quota_gate.wasm HTTP/1.1\" 200";
    assert!(
        world.web.output().contains(fetched),
        "{}",
        world.web.output()
    );
    assert_eq!(envoy.stat("wasm.remote_load_fetch_successes"), Some(1));
}

/// Ready, and refusing everything: what an operator has to know about.
#[track_caller]
fn expect_refuses_everything(envoy: &Envoy) {
    ask(envoy).expect_status(503);
    assert_eq!(envoy.admin_get("/ready").status, 200);
    assert_eq!(envoy.stat("wasm.remote_load_fetch_failures"), Some(1));
    envoy.expect_metric("envoy_wasm_remote_load_fetch_failures", &[], 1);
    envoy.expect_log_line("Plugin quota_gate failed to load");
}

#[test]
fn another_digest_is_never_loaded_and_everything_is_refused() {
    let world = World::start();
    let envoy = world.envoy(&"0".repeat(64), "");

    expect_refuses_everything(&envoy);

    assert!(world.backend.checks().is_empty());
    assert!(world.upstream.seen().is_empty());
}

#[test]
fn a_web_server_that_is_not_there_is_as_a_digest_that_does_not_fit() {
    let world = World::start();
    world.web.kill();

    let envoy = world.envoy(&published_sha256(), "");

    expect_refuses_everything(&envoy);
    assert!(world.upstream.seen().is_empty());
}

/// The page says so, since it is what one must not be surprised by.
#[test]
fn with_failure_policy_fail_open_a_failed_fetch_lets_everything_through() {
    let world = World::start();
    let open = "                failure_policy: FAIL_OPEN\n";

    let envoy = world.envoy(&"0".repeat(64), open);

    ask(&envoy).expect_status(200);
    assert!(world.backend.checks().is_empty());
    assert_eq!(world.upstream.seen().len(), 1);
}

/// The page on security says so: a module from a file is another matter (`envoy/tests/traps.rs`).
#[test]
fn a_fetched_module_that_refuses_its_configuration_fails_as_its_vm_is_told_to() {
    let refused = put(
        &bootstrap(),
        "\"host_budget\": \"1s\"",
        "\"host_budget\": \"1ms\"",
    );
    let told = |more: &str| {
        let world = World::start();
        let envoy = world.envoy_of(&refused, &published_sha256(), more);
        envoy.expect_log_line("configuration refused: ");
        let status = ask(&envoy).status;
        (status, world.upstream.seen().len())
    };

    assert_eq!(told(""), (503, 0));
    assert_eq!(
        told("                failure_policy: FAIL_OPEN\n"),
        (200, 1)
    );
    assert_eq!(told("                fail_open: true\n"), (200, 1));
}
