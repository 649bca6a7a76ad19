//! Envoy's configuration for a rig, put together from what its builder was told.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::cluster::Cluster;
use crate::route::Route;

/// The filter's name in the chain, and its namespace in route metadata.
pub(crate) const FILTER: &str = "quota_gate";

/// The listener with the filter.
pub(crate) const GATED: &str = "gated";

/// The listener without it.
pub(crate) const PLAIN: &str = "plain";

/// How Envoy tags quota-gate's stats; published for users.
const STATS_TAGS: &str = include_str!("../stats_tags.yaml");

/// Everything that the configuration depends on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    /// Other clusters than the upstream's.
    pub(crate) clusters: Vec<Cluster>,
    pub(crate) default_route: bool,
    pub(crate) ecds: bool,
    /// The plugin configuration as a protobuf Any; `None`: no filter in the chain.
    pub(crate) plugin: Option<Value>,
    pub(crate) filters_after: Vec<Value>,
    pub(crate) filters_before: Vec<Value>,
    pub(crate) patches: Patches,
    pub(crate) routes: Vec<Route>,
}

/// What is laid over the parts when they are done.
#[derive(Clone, Debug, Default)]
pub(crate) struct Patches {
    pub(crate) bootstrap: Value,
    pub(crate) hcm: Value,
    pub(crate) listener: Value,
    pub(crate) upstream: Value,
    pub(crate) virtual_host: Value,
    pub(crate) wasm: Value,
}

/// Where things are on this machine.
pub(crate) struct Places<'a> {
    pub(crate) access_log: &'a Path,
    pub(crate) ecds_file: &'a Path,
    pub(crate) module: Option<&'a Path>,
    pub(crate) upstream: SocketAddr,
}

/// The bootstrap as YAML: one line of JSON for each top-level key, then the published stats tags.
pub(crate) fn bootstrap(plan: &Plan, places: &Places<'_>) -> String {
    let upstream = Cluster::new("upstream")
        .endpoint(places.upstream)
        .as_downstream()
        .patch(&plan.patches.upstream);
    let mut clusters = vec![upstream.to_json()];
    clusters.extend(plan.clusters.iter().map(Cluster::to_json));
    let mut bootstrap = json!({
        "node": {"id": "rig", "cluster": "rig"},
        "admin": {"address": any_port()},
        // Counters are there at once anyway; histograms are then merged when somebody looks.
        "stats_flush_on_admin": true,
        "static_resources": {
            "listeners": [gated(plan, places), plain()],
            "clusters": clusters,
        },
    });
    merge(&mut bootstrap, &plan.patches.bootstrap);
    let lines = bootstrap.as_object().into_iter().flatten();
    let lines: String = lines
        .map(|(key, value)| format!("{key}: {value}\n"))
        .collect();
    lines + STATS_TAGS
}

/// The filter's configuration, as it stands in the chain or comes by ECDS.
pub(crate) fn wasm(plugin: &Value, module: Option<&Path>, patch: &Value) -> Value {
    let mut config = json!({
        "name": FILTER,
        "vm_config": {
            "vm_id": FILTER,
            "runtime": "envoy.wasm.runtime.v8",
            "code": {"local": {"filename": module}},
        },
        "configuration": plugin,
    });
    merge(&mut config, patch);
    json!({"@type": WASM_TYPE, "config": config})
}

/// Text as a protobuf Any: what Istio and Envoy Gateway send.
pub(crate) fn string_value(text: &str) -> Value {
    json!({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": text})
}

/// A discovery response that holds the filter's configuration.
pub(crate) fn ecds_file(wasm: &Value, version: u64) -> String {
    let resource = json!({
        "@type": "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
        "name": FILTER,
        "typed_config": wasm,
    });
    json!({"version_info": version.to_string(), "resources": [resource]}).to_string()
}

/// Lays `patch` over `base`: objects are merged, anything else is replaced.
pub(crate) fn merge(base: &mut Value, patch: &Value) {
    match (base, patch) {
        (_, Value::Null) => {}
        (Value::Object(base), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(base.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (base, patch) => *base = patch.clone(),
    }
}

fn gated(plan: &Plan, places: &Places<'_>) -> Value {
    let mut filters = plan.filters_before.clone();
    filters.extend(filter(plan, places));
    filters.extend(plan.filters_after.clone());
    filters.push(router());

    let mut routes: Vec<Value> = plan.routes.iter().map(Route::to_json).collect();
    if plan.default_route {
        routes.push(Route::connect().name("connect").to_json());
        routes.push(Route::prefix("/").name("default").to_json());
    }
    let mut virtual_host = json!({"name": "rig", "domains": ["*"], "routes": routes});
    merge(&mut virtual_host, &plan.patches.virtual_host);

    let mut hcm = hcm(GATED, &[virtual_host], filters);
    merge(
        &mut hcm,
        &json!({"access_log": [access_log(places.access_log)]}),
    );
    merge(&mut hcm, &plan.patches.hcm);
    let mut listener = listener(GATED, &hcm);
    merge(&mut listener, &plan.patches.listener);
    listener
}

fn filter(plan: &Plan, places: &Places<'_>) -> Option<Value> {
    let plugin = plan.plugin.as_ref()?;
    if plan.ecds {
        let source =
            json!({"path_config_source": {"path": places.ecds_file}, "resource_api_version": "V3"});
        let discovery = json!({"config_source": source, "type_urls": [WASM_TYPE]});
        return Some(json!({"name": FILTER, "config_discovery": discovery}));
    }
    let config = wasm(plugin, places.module, &plan.patches.wasm);
    Some(json!({"name": FILTER, "typed_config": config}))
}

fn plain() -> Value {
    let routes = [Route::prefix("/").name("plain").to_json()];
    let virtual_host = json!({"name": "plain", "domains": ["*"], "routes": routes});
    listener(PLAIN, &hcm(PLAIN, &[virtual_host], vec![router()]))
}

fn listener(name: &str, hcm: &Value) -> Value {
    let manager =
        json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": hcm});
    json!({"name": name, "address": any_port(), "filter_chains": [{"filters": [manager]}]})
}

fn hcm(name: &str, virtual_hosts: &[Value], filters: Vec<Value>) -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network\
                  .http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "codec_type": "AUTO",
        "use_remote_address": true,
        // The filter, not Envoy, is to cope with a thousand headers and with huge ones.
        "max_request_headers_kb": 1024,
        "common_http_protocol_options": {"max_headers_count": 4000},
        "http_protocol_options": {"enable_trailers": true},
        "http2_protocol_options": {"allow_connect": true},
        "upgrade_configs": [{"upgrade_type": "websocket"}, {"upgrade_type": "CONNECT"}],
        "route_config": {"name": name, "virtual_hosts": virtual_hosts},
        "http_filters": filters,
    })
}

fn router() -> Value {
    json!({
        "name": "envoy.filters.http.router",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
        },
    })
}

fn access_log(path: &Path) -> Value {
    let format: Map<String, Value> = LOG_FIELDS
        .iter()
        .map(|(name, format)| ((*name).to_owned(), json!(format)))
        .collect();
    json!({
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": path,
            "log_format": {"json_format": format},
        },
    })
}

/// Envoy takes a free port itself and tells which: no port is guessed, none can be lost.
fn any_port() -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": 0}})
}

const WASM_TYPE: &str = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm";

/// The access log's fields and what Envoy puts in them.
const LOG_FIELDS: [(&str, &str); 12] = [
    ("details", "%RESPONSE_CODE_DETAILS%"),
    ("duration_ms", "%DURATION%"),
    ("flags", "%RESPONSE_FLAGS%"),
    ("grpc_status", "%GRPC_STATUS_NUMBER%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("route", "%ROUTE_NAME%"),
    ("state", "%FILTER_STATE(wasm.quota_gate:PLAIN)%"),
    ("status", "%RESPONSE_CODE%"),
    ("used", "%RESP(X-USED)%"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_merges_objects_and_replaces_the_rest() {
        let mut base = json!({"a": {"b": 1, "c": [1]}, "d": 1});
        merge(&mut base, &json!({"a": {"c": [2], "e": 3}}));
        assert_eq!(base, json!({"a": {"b": 1, "c": [2], "e": 3}, "d": 1}));
    }
}
