//! Envoy, quota backends and an upstream as one value, which stops everything on drop.

use std::net::SocketAddr;

use serde_json::Value;

use crate::backend::Backend;
use crate::bootstrap::{GATED, PLAIN, string_value};
use crate::builder::{BACKEND, Parts, RigBuilder};
use crate::client::{Connection, Protocol, Request};
use crate::crowd::Crowd;
use crate::ecds::Push;
use crate::envoy::Envoy;
use crate::raw::Raw;
use crate::response::Response;
use crate::upstream::Upstream;

/// A running Envoy with everything around it.
pub struct Rig {
    // Dropped in this order: Envoy first, its folder with the rest.
    envoy: Envoy,
    bootstrap: String,
    parts: Parts,
}

impl Rig {
    /// A rig to be set up: one worker, the filter without configuration, one route to the upstream.
    pub fn builder() -> RigBuilder {
        RigBuilder::default()
    }

    pub(crate) fn new(envoy: Envoy, bootstrap: String, parts: Parts) -> Self {
        Self {
            envoy,
            bootstrap,
            parts,
        }
    }

    /// Sends `GET path` over HTTP/1.1 and waits for the response.
    #[track_caller]
    pub fn get(&self, path: &str) -> Response {
        self.request("GET", path).send()
    }

    /// A request to the listener with the filter.
    pub fn request(&self, method: &str, path: &str) -> Request {
        Request::new(self.address(), method, path)
    }

    /// A unary gRPC call over HTTP/2 to the listener with the filter.
    pub fn grpc(&self, path: &str) -> Request {
        Request::grpc(self.address(), path)
    }

    /// A request to the listener without the filter.
    pub fn plain(&self, method: &str, path: &str) -> Request {
        Request::new(self.envoy.listener(PLAIN), method, path)
    }

    /// A socket to the listener with the filter, for bytes by hand.
    #[must_use]
    #[track_caller]
    pub fn raw(&self) -> Raw {
        Raw::connect(self.address())
    }

    /// A connection to the listener with the filter, for many requests.
    ///
    /// # Panics
    /// If it can't be made.
    #[must_use]
    #[track_caller]
    pub fn connect(&self, protocol: Protocol) -> Connection {
        Connection::open(self.address(), protocol).expect("a connection to Envoy")
    }

    /// Clients of the listener with the filter that share so many connections.
    ///
    /// # Panics
    /// If these can't be made.
    #[must_use]
    #[track_caller]
    pub fn crowd(&self, connections: usize) -> Crowd {
        Crowd::open(self.address(), connections).expect("connections to Envoy")
    }

    /// The listener with the filter.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.envoy.listener(GATED)
    }

    /// The Envoy.
    #[must_use]
    pub fn envoy(&self) -> &Envoy {
        &self.envoy
    }

    /// The quota backend behind the cluster `quota-backend`.
    #[must_use]
    pub fn backend(&self) -> &Backend {
        self.backend_named(BACKEND)
    }

    /// The quota backend behind another cluster; see [`RigBuilder::backend`].
    ///
    /// # Panics
    /// If there is none of that name.
    #[must_use]
    #[track_caller]
    pub fn backend_named(&self, cluster: &str) -> &Backend {
        self.parts
            .backends
            .get(cluster)
            .unwrap_or_else(|| panic!("no backend {cluster}"))
    }

    /// The upstream.
    #[must_use]
    pub fn upstream(&self) -> &Upstream {
        &self.parts.upstream
    }

    /// Envoy's configuration.
    #[must_use]
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// Pushes a plugin configuration by ECDS and waits until Envoy has taken or refused it.
    ///
    /// # Panics
    /// If the rig was built without [`RigBuilder::ecds`], or nothing happens.
    #[track_caller]
    pub fn push_config(&self, plugin: &Value) -> Push {
        self.push_any(&string_value(&plugin.to_string()))
    }

    /// The same with text that need not be JSON.
    ///
    /// # Panics
    /// If the rig was built without [`RigBuilder::ecds`], or nothing happens.
    #[track_caller]
    pub fn push_text(&self, plugin: &str) -> Push {
        self.push_any(&string_value(plugin))
    }

    #[track_caller]
    fn push_any(&self, plugin: &Value) -> Push {
        let ecds = self.parts.ecds.as_ref();
        ecds.expect("a rig that takes pushes is built with `.ecds()`")
            .push(&self.envoy, plugin)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let state = if self.envoy.alive() {
                "runs"
            } else {
                "HAS DIED"
            };
            eprintln!(
                "--- Envoy {state}; its log ends in:\n{}",
                self.envoy.log_tail()
            );
            for entry in self
                .envoy
                .access_log()
                .iter()
                .rev()
                .take(ENTRIES_SHOWN)
                .rev()
            {
                eprintln!("{entry:?}");
            }
            eprintln!(
                "--- end of what the rig of {} says",
                self.parts.folder.path().display()
            );
        }
    }
}

/// As many entries of the access log as a failed test shows.
const ENTRIES_SHOWN: usize = 20;
