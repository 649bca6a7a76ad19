//! Sets up a rig: what Envoy is configured with, and what stands around it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::backend::Backend;
use crate::bootstrap::{Places, Plan, bootstrap, merge, string_value};
use crate::capabilities;
use crate::cluster::Cluster;
use crate::ecds::Ecds;
use crate::envoy::{ACCESS_LOG, Launch, Validation, binary, module};
use crate::rig::Rig;
use crate::route::Route;
use crate::upstream::Upstream;

/// The cluster of the first quota backend.
pub const BACKEND: &str = "quota-backend";

/// Sets up a [`Rig`].
#[derive(Clone, Debug)]
#[must_use = "a rig does nothing until it is started"]
pub struct RigBuilder {
    backend_patch: Value,
    backend_http2: bool,
    backend_trailers: bool,
    backends: Vec<String>,
    concurrency: u32,
    module: Option<PathBuf>,
    plan: Plan,
    wasm_log: String,
}

impl Default for RigBuilder {
    fn default() -> Self {
        let plan = Plan {
            default_route: true,
            plugin: Some(Value::Null),
            ..Plan::default()
        };
        Self {
            backend_patch: Value::Null,
            backend_http2: false,
            backend_trailers: false,
            backends: vec![BACKEND.to_owned()],
            concurrency: 1,
            module: None,
            plan,
            wasm_log: "info".to_owned(),
        }
    }
}

impl RigBuilder {
    /// The plugin configuration, as JSON in a StringValue: what Istio and Envoy Gateway send.
    pub fn plugin(self, plugin: Value) -> Self {
        self.plugin_text(&plugin.to_string())
    }

    /// The plugin configuration as text that need not be JSON, in a StringValue.
    pub fn plugin_text(self, plugin: &str) -> Self {
        self.plugin_any(string_value(plugin))
    }

    /// The plugin configuration as a protobuf Struct.
    pub fn plugin_struct(self, plugin: Value) -> Self {
        let any = json!({"@type": "type.googleapis.com/google.protobuf.Struct", "value": plugin});
        self.plugin_any(any)
    }

    /// The plugin configuration as any message: `{"@type": …, "value": …}`.
    pub fn plugin_any(mut self, any: Value) -> Self {
        self.plan.plugin = Some(any);
        self
    }

    /// Leaves the filter out: a plain Envoy, for baselines and for the harness itself.
    pub fn without_filter(mut self) -> Self {
        self.plan.plugin = None;
        self
    }

    /// Loads another module than `QUOTA_GATE_WASM` says.
    pub fn module(mut self, path: impl Into<PathBuf>) -> Self {
        self.module = Some(path.into());
        self
    }

    /// Delivers the plugin configuration by ECDS, so that [`Rig::push_config`] can change it.
    pub fn ecds(mut self) -> Self {
        self.plan.ecds = true;
        self
    }

    /// What Envoy does when the VM fails: `FAIL_CLOSED`, `FAIL_OPEN` or `FAIL_RELOAD`.
    pub fn failure_policy(self, policy: &str) -> Self {
        self.wasm(&json!({"failure_policy": policy}))
    }

    /// Sets the option that lets a paused request's body through.
    pub fn allow_on_headers_stop_iteration(self, allow: bool) -> Self {
        self.wasm(&json!({"allow_on_headers_stop_iteration": allow}))
    }

    /// Adds a route after those added before. Behind them all are one for CONNECT and one for
    /// everything else, both to the upstream.
    pub fn route(mut self, route: Route) -> Self {
        self.plan.routes.push(route);
        self
    }

    /// Leaves out the two routes that catch everything: what no route matches gets Envoy's 404.
    pub fn no_default_route(mut self) -> Self {
        self.plan.default_route = false;
        self
    }

    /// Workers; 1 if not set.
    pub fn concurrency(mut self, workers: u32) -> Self {
        self.concurrency = workers;
        self
    }

    /// Adds an HTTP filter (`{"name": …, "typed_config": …}`) before ours: jwt_authn, cors, …
    pub fn filter_before(mut self, filter: Value) -> Self {
        self.plan.filters_before.push(filter);
        self
    }

    /// Adds an HTTP filter between ours and the router.
    pub fn filter_after(mut self, filter: Value) -> Self {
        self.plan.filters_after.push(filter);
        self
    }

    /// Adds a cluster.
    pub fn cluster(mut self, cluster: Cluster) -> Self {
        self.plan.clusters.push(cluster);
        self
    }

    /// Adds a second quota backend behind a cluster of this name; see [`Rig::backend_named`].
    pub fn backend(mut self, cluster: &str) -> Self {
        self.backends.push(cluster.to_owned());
        self
    }

    /// Envoy speaks HTTP/2 to the quota backends.
    pub fn backend_http2(mut self) -> Self {
        self.backend_http2 = true;
        self
    }

    /// Trailers of the quota backends' HTTP/1.1 answers are let through.
    pub fn backend_trailers(mut self) -> Self {
        self.backend_trailers = true;
        self
    }

    /// Lays fields of Envoy's `Cluster` over those of the quota backends.
    pub fn backend_cluster(mut self, patch: &Value) -> Self {
        lay(&mut self.backend_patch, patch);
        self
    }

    /// Lays fields of Envoy's `Cluster` over those of the upstream.
    pub fn upstream_cluster(mut self, patch: &Value) -> Self {
        lay(&mut self.plan.patches.upstream, patch);
        self
    }

    /// Lays fields over the `HttpConnectionManager` of the listener with the filter:
    /// `use_remote_address` (true if not set), `xff_num_trusted_hops`, `stream_idle_timeout`, …
    ///
    /// With `use_remote_address` Envoy appends to `x-forwarded-for` the machine's own address in
    /// place of a loopback peer's; a test of client addresses switches it off and sends its own.
    pub fn hcm(mut self, patch: &Value) -> Self {
        lay(&mut self.plan.patches.hcm, patch);
        self
    }

    /// Lays fields over the `VirtualHost` of the listener with the filter.
    pub fn virtual_host(mut self, patch: &Value) -> Self {
        lay(&mut self.plan.patches.virtual_host, patch);
        self
    }

    /// Lays fields over the listener with the filter: `per_connection_buffer_limit_bytes`, …
    pub fn listener(mut self, patch: &Value) -> Self {
        lay(&mut self.plan.patches.listener, patch);
        self
    }

    /// Lays fields over the wasm `PluginConfig`: `vm_config`, `reload_config`, …
    pub fn wasm(mut self, patch: &Value) -> Self {
        lay(&mut self.plan.patches.wasm, patch);
        self
    }

    /// Lays fields over the whole bootstrap.
    pub fn bootstrap(mut self, patch: &Value) -> Self {
        lay(&mut self.plan.patches.bootstrap, patch);
        self
    }

    /// The log level of the wasm component; `info` if not set.
    pub fn wasm_log(mut self, level: &str) -> Self {
        level.clone_into(&mut self.wasm_log);
        self
    }

    /// Starts everything and waits until Envoy is ready.
    ///
    /// # Panics
    /// If Envoy does not start, with the end of its log.
    #[must_use]
    #[track_caller]
    pub fn start(self) -> Rig {
        self.try_start().unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Starts everything and waits until Envoy is ready.
    ///
    /// # Errors
    /// If Envoy or the module is not there, or Envoy does not start (with the end of its log).
    pub fn try_start(self) -> anyhow::Result<Rig> {
        let (launch, parts) = self.prepare()?;
        let envoy = launch.start()?;
        Ok(Rig::new(envoy, launch.bootstrap, parts))
    }

    /// Lets Envoy judge the configuration (`--mode validate`) and starts nothing.
    ///
    /// # Panics
    /// If Envoy or the module is not there.
    #[must_use]
    #[track_caller]
    pub fn validate(self) -> Validation {
        let validated = self
            .prepare()
            .and_then(|(launch, _parts)| launch.validate());
        validated.unwrap_or_else(|error| panic!("{error:#}"))
    }

    fn prepare(mut self) -> anyhow::Result<(Launch, Parts)> {
        let binary = binary()?;
        let wants_module = self.plan.plugin.is_some();
        let module = match self.module.take() {
            Some(module) => Some(module),
            None if wants_module => {
                let wasm = &mut self.plan.patches.wasm;
                let restriction = capabilities::from_environment(&binary, wasm)?;
                lay(wasm, &restriction);
                Some(module()?)
            }
            None => None,
        };
        let folder = TempDir::with_prefix("quota-gate-rig-").context("make a folder")?;
        let upstream = Upstream::start().context("start the upstream")?;
        let backends = self.start_backends()?;
        let ecds = Ecds::new(folder.path(), module.as_deref(), &self.plan.patches.wasm);
        let places = Places {
            access_log: &folder.path().join(ACCESS_LOG),
            ecds_file: ecds.file(),
            module: module.as_deref(),
            upstream: upstream.address(),
        };
        let launch = Launch {
            binary,
            bootstrap: bootstrap(&self.plan, &places),
            concurrency: self.concurrency,
            folder: folder.path().to_owned(),
            wasm_log: self.wasm_log,
        };
        let ecds = match &self.plan.plugin {
            Some(plugin) if self.plan.ecds => {
                ecds.write(plugin)?;
                Some(ecds)
            }
            _ => None,
        };
        Ok((
            launch,
            Parts {
                backends,
                upstream,
                ecds,
                folder,
            },
        ))
    }

    fn start_backends(&mut self) -> anyhow::Result<BTreeMap<String, Backend>> {
        let mut backends = BTreeMap::new();
        for name in std::mem::take(&mut self.backends) {
            let backend = Backend::start().context("start a quota backend")?;
            // A cluster that the test has defined itself goes before.
            if self
                .plan
                .clusters
                .iter()
                .all(|cluster| cluster.name() != name)
            {
                let cluster = Cluster::new(&name).endpoint(backend.address());
                let cluster = match (self.backend_http2, self.backend_trailers) {
                    (true, _) => cluster.http2(),
                    (false, true) => cluster.http1_trailers(),
                    (false, false) => cluster,
                };
                self.plan.clusters.push(cluster.patch(&self.backend_patch));
            }
            backends.insert(name, backend);
        }
        Ok(backends)
    }
}

/// What a rig is made of, besides Envoy.
pub(crate) struct Parts {
    pub(crate) backends: BTreeMap<String, Backend>,
    pub(crate) upstream: Upstream,
    /// Set if the plugin configuration comes by ECDS.
    pub(crate) ecds: Option<Ecds>,
    pub(crate) folder: TempDir,
}

fn lay(base: &mut Value, patch: &Value) {
    if base.is_null() {
        *base = json!({});
    }
    merge(base, patch);
}
