//! Istio's and Envoy Gateway's manifests are held to the schemas that these publish.

use serde_json::{Value, json};

use crate::manifests::{documents, read};

/// What a control plane would refuse of a manifest, or drop without a word.
fn refused(manifest: &str) -> Vec<String> {
    let mut refused = Vec::new();
    for document in documents(manifest) {
        let kind = document["kind"].as_str().expect("a kind").to_owned();
        let schema = jsonschema::validator_for(&published(&kind)).expect("a schema");
        let errors = schema.iter_errors(&document);
        refused.extend(errors.map(|error| format!("{kind}{}: {error}", error.instance_path())));
    }
    refused
}

#[test]
fn every_field_of_the_manifests_is_one_that_the_published_schemas_have() {
    for name in ["istio.yaml", "envoy-gateway.yaml"] {
        let manifest = read(&format!("envoy/manifests/{name}"));
        assert_eq!(refused(&manifest), [""; 0], "{name}");
    }
}

#[test]
fn a_field_that_no_control_plane_knows_is_found() {
    for (name, right, wrong) in [
        ("istio.yaml", "FAIL_RELOAD", "FAIL_CLOSED"),
        ("istio.yaml", "imagePullPolicy:", "pullPolicy:"),
        ("istio.yaml", "operation: MERGE", "operation: Merge"),
        ("istio.yaml", "connectTimeout", "connect_timeout"),
        ("envoy-gateway.yaml", "failOpen: false", "failOpen: 'no'"),
        ("envoy-gateway.yaml", "type: Merge", "type: MERGE"),
        ("envoy-gateway.yaml", "wasm:", "wasms:"),
    ] {
        let manifest = read(&format!("envoy/manifests/{name}"));
        assert!(manifest.contains(right), "{name}: {right}");
        let found = refused(&manifest.replace(right, wrong));
        assert!(!found.is_empty(), "{name}: {wrong}");
    }
}

/// What the control planes take of the fields that the manifests use, in this project's own words:
/// so the schemas say that Istio 1.32 and Envoy Gateway 1.9 publish (August 2026). A field that is
/// not here is one that nobody looked up there.
fn published(kind: &str) -> Value {
    let (api, spec) = match kind {
        "WasmPlugin" => ("extensions.istio.io/v1alpha1", wasm_plugin()),
        "ServiceEntry" => ("networking.istio.io/v1", service_entry()),
        "DestinationRule" => ("networking.istio.io/v1", destination_rule()),
        "EnvoyFilter" => ("networking.istio.io/v1alpha3", envoy_filter()),
        "EnvoyExtensionPolicy" => ("gateway.envoyproxy.io/v1alpha1", extension_policy()),
        "EnvoyProxy" => ("gateway.envoyproxy.io/v1alpha1", envoy_proxy()),
        other => panic!("nobody looked up what a {other} may hold"),
    };
    json!({
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {"apiVersion": {"const": api}, "spec": spec},
    })
}

fn object(fields: &Value) -> Value {
    json!({"type": "object", "additionalProperties": false, "properties": fields})
}

fn list(items: &Value) -> Value {
    json!({"type": "array", "minItems": 1, "items": items})
}

fn a(kind: &str) -> Value {
    json!({"type": kind})
}

fn sha256() -> Value {
    json!({"type": "string", "pattern": "^[a-f0-9]{64}$"})
}

fn labels() -> Value {
    json!({"type": "object", "additionalProperties": a("string")})
}

fn wasm_plugin() -> Value {
    object(&json!({
        "selector": object(&json!({"matchLabels": labels()})),
        "url": {"type": "string", "pattern": "^(oci|https?|file)://"},
        "sha256": sha256(),
        "imagePullPolicy": {"enum": ["IfNotPresent", "Always"]},
        "phase": {"enum": ["AUTHN", "AUTHZ", "STATS"]},
        "failStrategy": {"enum": ["FAIL_CLOSE", "FAIL_OPEN", "FAIL_RELOAD"]},
        "pluginConfig": a("object"),
    }))
}

fn service_entry() -> Value {
    let port = json!({"number": a("integer"), "name": a("string"), "protocol": a("string")});
    object(&json!({
        "hosts": list(&a("string")),
        "location": {"enum": ["MESH_EXTERNAL", "MESH_INTERNAL"]},
        "resolution": {"enum": ["NONE", "STATIC", "DNS", "DNS_ROUND_ROBIN"]},
        "ports": list(&object(&port)),
    }))
}

fn destination_rule() -> Value {
    let modes = json!({"enum": ["DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"]});
    let http = json!({"http2MaxRequests": a("integer"), "http1MaxPendingRequests": a("integer")});
    let pool = json!({
        "tcp": object(&json!({"connectTimeout": a("string")})),
        "http": object(&http),
    });
    let policy = json!({
        "tls": object(&json!({"mode": modes, "sni": a("string")})),
        "connectionPool": object(&pool),
    });
    object(&json!({"host": a("string"), "trafficPolicy": object(&policy)}))
}

fn envoy_filter() -> Value {
    let route = object(&json!({"name": a("string")}));
    let host = object(&json!({"route": route}));
    let matched = json!({
        "context": {"enum": ["ANY", "SIDECAR_INBOUND", "SIDECAR_OUTBOUND", "GATEWAY"]},
        "routeConfiguration": object(&json!({"vhost": host})),
    });
    let patch = json!({
        "operation": {"enum": ["MERGE", "ADD", "REMOVE", "REPLACE"]},
        "value": a("object"),
    });
    let patches = json!({
        "applyTo": {"enum": ["HTTP_ROUTE", "HTTP_FILTER", "CLUSTER", "BOOTSTRAP"]},
        "match": object(&matched),
        "patch": object(&patch),
    });
    object(&json!({
        "workloadSelector": object(&json!({"labels": labels()})),
        "configPatches": list(&object(&patches)),
    }))
}

fn extension_policy() -> Value {
    let target = json!({
        "group": {"enum": ["gateway.networking.k8s.io"]},
        "kind": {"enum": ["Gateway", "HTTPRoute", "GRPCRoute"]},
        "name": a("string"),
    });
    let code = json!({
        "type": {"enum": ["Image"]},
        "image": object(&json!({"url": a("string"), "sha256": sha256()})),
    });
    let wasm = json!({
        "name": a("string"),
        "failOpen": a("boolean"),
        "code": object(&code),
        "config": a("object"),
    });
    object(&json!({"targetRefs": list(&object(&target)), "wasm": list(&object(&wasm))}))
}

fn envoy_proxy() -> Value {
    let types = json!({"enum": ["Merge", "Replace", "JSONPatch"]});
    object(&json!({"bootstrap": object(&json!({"type": types, "value": a("string")}))}))
}
