//! A cluster of the rig's Envoy.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::bootstrap::merge;
use crate::endpoints::{Endpoints, assignment};

/// An Envoy cluster; without endpoints until it is given some.
#[derive(Clone, Debug)]
#[must_use = "a cluster does nothing until a rig has it"]
pub struct Cluster {
    name: String,
    endpoints: Vec<(String, u16)>,
    patch: Value,
}

impl Cluster {
    /// A cluster over HTTP/1.1, with a connect timeout of 1 s.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            endpoints: Vec::new(),
            patch: json!({}),
        }
    }

    /// Adds an endpoint.
    pub fn endpoint(mut self, address: SocketAddr) -> Self {
        self.endpoints
            .push((address.ip().to_string(), address.port()));
        self
    }

    /// Adds an endpoint by a name that Envoy resolves itself (`no-such.invalid` never resolves).
    pub fn dns(mut self, host: &str, port: u16) -> Self {
        self.endpoints.push((host.to_owned(), port));
        self.patch(&json!({"type": "STRICT_DNS"}))
    }

    /// Its endpoints come from a file that Envoy watches, and can change while it runs.
    pub fn endpoints_from(self, endpoints: &Endpoints) -> Self {
        let source = json!({
            "path_config_source": {"path": endpoints.file()}, "resource_api_version": "V3",
        });
        self.patch(&json!({"type": "EDS", "eds_cluster_config": {"eds_config": source}}))
    }

    /// Speaks HTTP/2 to its endpoints.
    pub fn http2(self) -> Self {
        self.protocol(&json!({"explicit_http_config": {"http2_protocol_options": {}}}))
    }

    /// Lets trailers of HTTP/1.1 answers through.
    pub fn http1_trailers(self) -> Self {
        let options = json!({"http_protocol_options": {"enable_trailers": true}});
        self.protocol(&json!({"explicit_http_config": options}))
    }

    /// Speaks to its endpoints what the client speaks to Envoy.
    pub fn as_downstream(self) -> Self {
        self.protocol(&json!({"use_downstream_protocol_config": {
            "http_protocol_options": {"enable_trailers": true},
            "http2_protocol_options": {"allow_connect": true},
        }}))
    }

    /// How long a connection may take to be made (`"0.4s"`).
    pub fn connect_timeout(self, timeout: &str) -> Self {
        self.patch(&json!({"connect_timeout": timeout}))
    }

    /// Envoy's own bounds for this cluster: requests at once and waiting ones; more are refused.
    pub fn at_most(self, requests: u32, pending: u32) -> Self {
        let bounds = json!({"max_requests": requests, "max_pending_requests": pending});
        self.patch(&json!({"circuit_breakers": {"thresholds": [bounds]}}))
    }

    /// Lays any fields of Envoy's `Cluster` over it.
    pub fn patch(mut self, patch: &Value) -> Self {
        merge(&mut self.patch, patch);
        self
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn to_json(&self) -> Value {
        let mut cluster = json!({"name": self.name, "type": "STATIC", "connect_timeout": "1s"});
        if self.patch["type"] != "EDS" {
            cluster["load_assignment"] = assignment(&self.name, &self.endpoints);
        }
        merge(&mut cluster, &self.patch);
        cluster
    }

    /// Lays fields of Envoy's `HttpProtocolOptions` over its own.
    fn protocol(self, options: &Value) -> Self {
        let mut typed = json!({
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        });
        merge(&mut typed, options);
        self.patch(&json!({
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed,
            },
        }))
    }
}
