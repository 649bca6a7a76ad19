//! The manifests that users copy: Envoy takes them, and the filter in them works.
//!
//! Only what differs from place to place is put in: addresses, ports and the module's path.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use envoy_harness::capabilities::{capabilities, minor_version, placed, restriction};
use envoy_harness::eventually::eventually;
use envoy_harness::{Backend, Envoy, Fault, Request, Rig, Upstream, llm, module, version};
use serde_json::{Value, json};

/// A manifest as it is in the repository.
fn manifest(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests");
    fs::read_to_string(folder.join(name)).expect("the manifest is there")
}

/// Puts `new` in place of `old`, which has to be there.
fn put(text: &str, old: &str, new: &str) -> String {
    assert!(text.contains(old), "`{old}` is in the manifest");
    text.replace(old, new)
}

fn with_module(text: &str) -> String {
    let module = module().expect("a module");
    put(
        text,
        "/etc/envoy/quota_gate.wasm",
        &module.display().to_string(),
    )
}

/// Free ports for what listens, and the real addresses of what is called.
fn with_addresses(text: &str, places: &[(&str, u16, SocketAddr)]) -> String {
    let text = put(
        text,
        "address: 127.0.0.1, port_value: 8080",
        "address: 127.0.0.1, port_value: 0",
    );
    let text = put(
        &text,
        "address: 127.0.0.1, port_value: 9901",
        "address: 127.0.0.1, port_value: 0",
    );
    places.iter().fold(text, |text, (host, port, real)| {
        let old = format!("address: {host}, port_value: {port}");
        let new = format!("address: {}, port_value: {}", real.ip(), real.port());
        put(&text, &old, &new)
    })
}

#[test]
fn the_minimal_bootstrap_checks_each_request_and_fails_closed() {
    let (backend, upstream) = (
        Backend::start().expect("a backend"),
        Upstream::start().expect("an upstream"),
    );
    backend.limit("key=k1", 1, Duration::from_secs(60));
    let places = [
        ("127.0.0.1", 3000, upstream.address()),
        ("127.0.0.1", 9000, backend.address()),
    ];
    let text = with_addresses(&with_module(&manifest("minimal.yaml")), &places);
    let envoy = Envoy::start(&text, 1).expect("Envoy takes the manifest");
    let ask = || {
        Request::new(envoy.listener("http"), "GET", "/")
            .header("x-api-key", "k1")
            .send()
    };

    ask().expect_status(200);
    ask()
        .expect_status(429)
        .expect_json("/code", "quota_exceeded");
    backend.fail(Fault::Refuse);
    Request::new(envoy.listener("http"), "GET", "/")
        .header("x-api-key", "k2")
        .send()
        .expect_status(503)
        .expect_json("/code", "quota_unavailable");
    Request::new(envoy.listener("http"), "GET", "/")
        .send()
        .expect_status(401)
        .expect_json("/code", "descriptor_missing");
    assert_eq!(upstream.take().len(), 1);
}

#[test]
fn the_llm_bootstrap_charges_the_tokens_that_answers_and_streams_tell() {
    let (backend, upstream) = (
        Backend::start().expect("a backend"),
        Upstream::start().expect("an upstream"),
    );
    let places = [
        ("127.0.0.1", 3000, upstream.address()),
        ("127.0.0.1", 9000, backend.address()),
    ];
    let mut text = with_addresses(&with_module(&manifest("llm.yaml")), &places);
    let streams = version() >= "1.38";
    if !streams {
        let (before, rest) = text
            .split_once("          - name: envoy.filters.http.sse_to_metadata\n")
            .expect("the filter");
        let (_, after) = rest
            .split_once("          - name: envoy.filters.http.router\n")
            .expect("the router");
        text = format!("{before}          - name: envoy.filters.http.router\n{after}");
    }
    let envoy = Envoy::start(&text, 1).expect("Envoy takes the manifest");
    let ask = |stream: bool| {
        Request::new(envoy.listener("http"), "POST", llm::PATH)
            .header("x-tenant-id", "acme")
            .header("content-type", "application/json")
            .body(llm::request(20, 200, stream))
            .send()
    };

    ask(false).expect_status(200);
    if streams {
        ask(true).expect_status(200);
    }

    let used = i64::try_from(upstream.tokens()["acme"]).expect("a few tokens");
    eventually("the tokens are charged", || {
        (backend.charged().get("tenant=acme") == Some(&used)).then_some(())
    });
}

#[test]
fn the_full_bootstrap_takes_its_configuration_by_ecds_and_its_policies_from_the_routes() {
    let (backend, upstream) = (
        Backend::start().expect("a backend"),
        Upstream::start().expect("an upstream"),
    );
    let folder = tempfile::tempdir().expect("a folder");
    let ecds: PathBuf = folder.path().join("full-ecds.yaml");
    fs::write(&ecds, with_module(&manifest("full-ecds.yaml"))).expect("the ECDS file is written");
    let places = [
        ("app.internal", 3000, upstream.address()),
        ("quota.internal", 9000, backend.address()),
    ];
    let text = with_addresses(&manifest("full.yaml"), &places);
    let text = put(
        &text,
        "/etc/envoy/full-ecds.yaml",
        &ecds.display().to_string(),
    );
    let envoy = Envoy::start(&text, 1).expect("Envoy takes the manifest");
    let ask = |path: &str| Request::new(envoy.listener("http"), "GET", path);

    ask("/healthz").send().expect_status(200);
    ask("/").send().expect_status(200);
    ask("/reports").send().expect_status(200);
    let checks = backend.expect_checks(2);
    assert_eq!(checks[0].entry("user"), Some("anonymous"));
    assert_eq!((checks[0].cost, checks[1].cost), (1, 10));
    // Without a token there is no claim to check by, and payments don't go without.
    ask("/payments")
        .send()
        .expect_status(401)
        .expect_json("/code", "descriptor_missing");
    let labels = [("policy", "payments"), ("reason", "descriptor_missing")];
    envoy.expect_metric("quota_gate_requests", &labels, 1);
    backend.limit("user=anonymous", 0, Duration::from_secs(60));
    ask("/")
        .header("origin", "https://app.example")
        .send()
        .expect_status(429)
        .expect_header("access-control-allow-origin", "https://app.example");
    ask("/-/quota-gate")
        .send()
        .expect_status(200)
        .expect_json("/healthy", true);
}

#[test]
fn the_filter_works_with_its_capabilities_alone_in_the_old_place_and_the_new() {
    let envoy = envoy_harness::binary().expect("an Envoy");
    let minor = minor_version(&envoy).expect("its version");
    let restriction = restriction(&capabilities());
    let old_place = placed(&restriction, 39);

    allowed_and_denied(&old_place);
    let place = placed(&restriction, minor);
    if place != old_place {
        allowed_and_denied(&place);
    }
}

#[test]
fn the_published_capabilities_are_those_that_the_module_needs() {
    let notes = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/security.md");
    let notes = fs::read_to_string(notes).expect("the notes are there");
    let (_, list) = notes
        .split_once("allowed_capabilities:\n")
        .expect("the list");
    let names = list.lines().map_while(|line| line.strip_suffix(": {}"));
    let published: Vec<&str> = names.map(str::trim).collect();
    assert_eq!(published, capabilities());
}

fn allowed_and_denied(wasm: &Value) {
    let policy = json!({
        "backend": "quota", "descriptor": [{"name": "key", "header": "x-api-key"}],
        "failure_mode": "fail_closed",
    });
    let rig = Rig::builder()
        .plugin(json!({
            "backends": {"quota": {"cluster": "quota-backend"}}, "policies": {"p": policy},
            "default_policy": "p", "host_budget": "1s",
        }))
        .wasm(wasm)
        .start();
    rig.backend().limit("key=k1", 1, Duration::from_secs(60));
    let ask = || {
        rig.request("POST", "/")
            .header("x-api-key", "k1")
            .body("hello")
    };
    ask().trailer("x-end", "1").send().expect_status(200);
    ask().send().expect_status(429);
    rig.envoy()
        .expect_decisions(&[("within_quota", 1), ("quota_exceeded", 1)]);
    assert_eq!(
        rig.envoy().expect_access_log(2)[1].field("policy"),
        Some("p")
    );
}

#[test]
fn the_manifests_carry_the_published_stats_tags() {
    let published = include_str!("../stats_tags.yaml");
    let rules = published
        .lines()
        .filter(|line| line.trim_start().starts_with("regex: "));
    let bootstraps = ["minimal.yaml", "llm.yaml", "full.yaml"];
    for rule in rules {
        for name in bootstraps
            .into_iter()
            .chain(["istio.yaml", "envoy-gateway.yaml"])
        {
            assert!(manifest(name).contains(rule.trim()), "{name} has {rule}");
        }
    }
}
