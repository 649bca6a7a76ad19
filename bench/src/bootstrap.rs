//! Envoy's configuration for one chain: the same for all of them, but for the filter.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::chain::Chain;
use crate::servers::{Servers, TENANT};

/// The bootstrap as YAML: one line of JSON for each top-level key, then the published stats tags.
pub(crate) fn bootstrap(chain: &Chain, servers: &Servers) -> String {
    let bootstrap = json!({
        "node": {"id": "bench", "cluster": "bench"},
        "admin": {"address": any_port()},
        "stats_flush_on_admin": true,
        "static_resources": {
            "listeners": [listener(chain)],
            "clusters": [
                cluster("upstream", servers.upstream.address, false),
                cluster("quota-backend", servers.backend.address, false),
                cluster("quota-backend-grpc", servers.backend.address, true),
                cluster("quota-backend-hangs", servers.hangs.address, false),
            ],
        },
    });
    let lines = bootstrap.as_object().into_iter().flatten();
    let lines: String = lines
        .map(|(key, value)| format!("{key}: {value}\n"))
        .collect();
    lines + STATS_TAGS
}

fn listener(chain: &Chain) -> Value {
    // Only the ratelimit filter reads them; they are there in every chain all the same.
    let tenant = json!({"header_name": "x-tenant-id", "descriptor_key": TENANT});
    let route = json!({
        "name": "items",
        "match": {"prefix": "/"},
        "route": {
            "cluster": "upstream",
            "rate_limits": [{"actions": [{"request_headers": tenant}]}],
        },
    });
    let router = json!({
        "name": "envoy.filters.http.router",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
        },
    });
    let mut filters: Vec<Value> = chain.filter.iter().cloned().collect();
    filters.push(router);
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network\
                  .http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": LISTENER,
        "use_remote_address": true,
        "route_config": {
            "name": "bench",
            "virtual_hosts": [{"name": "bench", "domains": ["*"], "routes": [route]}],
        },
        "http_filters": filters,
    });
    let manager = json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": manager,
    });
    json!({
        "name": LISTENER,
        "address": any_port(),
        "filter_chains": [{"filters": [manager]}],
    })
}

fn cluster(name: &str, address: SocketAddr, http2: bool) -> Value {
    let address = json!({"socket_address": {
        "address": address.ip().to_string(),
        "port_value": address.port(),
    }});
    let endpoints = json!([{"lb_endpoints": [{"endpoint": {"address": address}}]}]);
    let protocol = if http2 {
        json!({"http2_protocol_options": {}})
    } else {
        json!({"http_protocol_options": {}})
    };
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": endpoints},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type":
                    "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": protocol,
            },
        },
    })
}

/// Envoy takes a free port itself and tells which.
fn any_port() -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": 0}})
}

/// The listener's name, and its prefix in Envoy's stats.
pub(crate) const LISTENER: &str = "bench";

/// How Envoy tags quota-gate's stats; published for users.
const STATS_TAGS: &str = include_str!("../../envoy/stats_tags.yaml");
