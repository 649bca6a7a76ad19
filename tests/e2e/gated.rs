//! A rig with the filter at work, which checks the laws that hold in every test when it ends.
//!
//! - The sum of `quota_gate_requests` is the number of requests that Envoy had on this listener.
//! - No call is left in flight, Envoy runs, and the module has not trapped.

use std::cell::Cell;
use std::ops::Deref;

use envoy_harness::eventually::{PATIENCE, eventually, within};
use envoy_harness::{LogEntry, Rig, RigBuilder};
use serde_json::{Value, json};

/// A [`Rig`] whose laws are checked when it is dropped.
pub(crate) struct Gated {
    rig: Rig,
    unseen: Cell<u32>,
}

/// One backend, one policy `gold` with the tenant as its descriptor; `fields` are laid over the
/// policy. The breaker is off and the timeout long, so that a busy machine changes nothing.
pub(crate) fn config(fields: &Value) -> Value {
    let mut policy = json!({
        "backend": "quota",
        "descriptor": [{"name": "tenant", "header": "x-tenant-id"}],
        "failure_mode": "fail_closed",
        "timeout": "5s",
    });
    merge(&mut policy, fields);
    json!({
        "backends": {"quota": {"cluster": "quota-backend", "breaker": "off"}},
        "policies": {"gold": policy},
        "routes": [],
        "default_policy": "gold",
        "host_budget": "30s",
    })
}

/// [`config`] with one policy for each path: `("/open", {…})` is the policy `open`, of requests
/// whose path begins with `/open`.
pub(crate) fn by_path(policies: &[(&str, Value)]) -> Value {
    let mut whole = config(&json!({}));
    for (path, fields) in policies {
        let name = path.trim_matches('/');
        whole["policies"][name] = config(fields)["policies"]["gold"].clone();
        let route = json!({"match": {"path_prefix": path}, "policy": name});
        if let Some(routes) = whole["routes"].as_array_mut() {
            routes.push(route);
        }
    }
    whole
}

/// A running Envoy with [`config`].
#[track_caller]
pub(crate) fn gated(fields: &Value) -> Gated {
    start(Rig::builder().plugin(config(fields)))
}

/// A running Envoy with the filter.
#[track_caller]
pub(crate) fn start(builder: RigBuilder) -> Gated {
    Gated {
        rig: builder.start(),
        unseen: Cell::new(0),
    }
}

/// Puts every field of `from` into `into`; objects are merged.
pub(crate) fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

impl Gated {
    /// Says that `count` requests never reach the filter: its route has none, or Envoy answers
    /// them before.
    pub(crate) fn unseen(&self, count: u32) {
        self.unseen.set(self.unseen.get() + count);
    }

    /// Waits until the request to `path` is in the access log.
    #[track_caller]
    pub(crate) fn logged(&self, path: &str) -> LogEntry {
        eventually(&format!("{path} in the access log"), || {
            let log = self.envoy().access_log();
            log.into_iter().find(|entry| entry.path == path)
        })
    }

    /// What the upstream was told in `x-quota-decision` since the last time, for each request.
    pub(crate) fn told_upstream(&self) -> Vec<Vec<String>> {
        let seen = self.upstream().take();
        let values = |seen: &envoy_harness::Seen| seen.header_values("x-quota-decision");
        seen.iter().map(values).collect()
    }

    /// Requests that Envoy had on the listener with the filter.
    fn requests(&self) -> f64 {
        let ours = [("envoy_http_conn_manager_prefix", "gated")];
        self.envoy().metric("envoy_http_downstream_rq_total", &ours)
    }

    #[track_caller]
    fn expect_laws(&self) {
        let sums = || {
            let expected = self.requests() - f64::from(self.unseen.get());
            let counted = self.envoy().metric("quota_gate_requests", &[]);
            ((expected - counted).abs() < 0.5).then_some(())
        };
        if within(PATIENCE, sums).is_none() {
            let counted = self.envoy().counters();
            let ours = counted.iter().filter(|s| s.name == "quota_gate_requests");
            let ours: Vec<_> = ours.collect();
            panic!(
                "the sum law is broken: {} requests, {} of them unseen, but {ours:#?}",
                self.requests(),
                self.unseen.get()
            );
        }
        self.envoy().expect_metric("quota_gate_pending", &[], 0);
        assert!(self.envoy().alive(), "Envoy has died");
        for trap in ["RuntimeError", "in-VM backtrace", "Function: proxy_on"] {
            let lines = self.envoy().log_lines(trap);
            assert!(lines.is_empty(), "the module has trapped: {lines:#?}");
        }
    }
}

impl Deref for Gated {
    type Target = Rig;

    fn deref(&self) -> &Rig {
        &self.rig
    }
}

impl Drop for Gated {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.expect_laws();
        }
    }
}

/// The text that the filter left for the access log, without how long it took.
pub(crate) fn state(entry: &LogEntry) -> &str {
    match entry.state.rsplit_once(" ms=") {
        Some((text, _)) => text,
        None => &entry.state,
    }
}
