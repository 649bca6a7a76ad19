//! A route of the rig's Envoy.

use serde_json::{Value, json};

use crate::bootstrap::{FILTER, merge};

/// An Envoy route; to the upstream unless it says otherwise. The first that matches wins.
#[derive(Clone, Debug)]
#[must_use = "a route does nothing until a rig has it"]
pub struct Route(Value);

impl Route {
    /// Matches paths that begin with `prefix`.
    pub fn prefix(prefix: &str) -> Self {
        Self::matching(json!({"prefix": prefix}))
    }

    /// Matches this path only.
    pub fn path(path: &str) -> Self {
        Self::matching(json!({"path": path}))
    }

    /// Matches CONNECT requests; they are forwarded as such.
    pub fn connect() -> Self {
        Self::matching(json!({"connect_matcher": {}}))
    }

    /// Matches as Envoy's `RouteMatch` says.
    pub fn matching(matcher: Value) -> Self {
        Self(json!({"match": matcher, "route": {"cluster": "upstream"}}))
    }

    /// Matches only requests whose header `name` is `value`.
    pub fn with_header(self, name: &str, value: &str) -> Self {
        let mut headers = self.0["match"]["headers"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        headers.push(json!({"name": name, "string_match": {"exact": value}}));
        self.patch(&json!({"match": {"headers": headers}}))
    }

    /// The route's name.
    pub fn name(self, name: &str) -> Self {
        self.patch(&json!({"name": name}))
    }

    /// Metadata for the filter: `filter_metadata.quota_gate`.
    pub fn quota(self, metadata: Value) -> Self {
        self.patch(&json!({"metadata": {"filter_metadata": {FILTER: metadata}}}))
    }

    /// Switches the filter off, in Envoy's own way.
    pub fn without_gate(self) -> Self {
        let off = json!({
            "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig",
            "disabled": true,
        });
        self.patch(&json!({"typed_per_filter_config": {FILTER: off}}))
    }

    /// Goes to another cluster.
    pub fn cluster(self, name: &str) -> Self {
        self.patch(&json!({"route": {"cluster": name}}))
    }

    /// Envoy answers by itself.
    pub fn direct(mut self, status: u16, body: &str) -> Self {
        if let Some(route) = self.0.as_object_mut() {
            route.remove("route");
        }
        let body = json!({"inline_string": body});
        self.patch(&json!({"direct_response": {"status": status, "body": body}}))
    }

    /// The route's timeout (`"0.7s"`); it does not cover the time in the filter.
    pub fn timeout(self, timeout: &str) -> Self {
        self.patch(&json!({"route": {"timeout": timeout}}))
    }

    /// The route's idle timeout (`"0.7s"`).
    pub fn idle_timeout(self, timeout: &str) -> Self {
        self.patch(&json!({"route": {"idle_timeout": timeout}}))
    }

    /// The route's longest stream (`"0.7s"`); `grpc_timeout_header_max` goes by [`Route::patch`].
    pub fn max_stream_duration(self, duration: &str) -> Self {
        let longest = json!({"max_stream_duration": duration});
        self.patch(&json!({"route": {"max_stream_duration": longest}}))
    }

    /// Lays any fields of Envoy's `Route` over it.
    pub fn patch(mut self, patch: &Value) -> Self {
        merge(&mut self.0, patch);
        self
    }

    pub(crate) fn to_json(&self) -> Value {
        self.0.clone()
    }
}
