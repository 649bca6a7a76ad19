//! Envoy, quota backends and an upstream as one value, which stops everything on drop.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::backend::Backend;
use crate::bootstrap::{FILTER, GATED, PLAIN, Places, Plan, bootstrap, ecds_file, merge, wasm};
use crate::client::{Connection, Protocol, Request};
use crate::cluster::Cluster;
use crate::envoy::{ACCESS_LOG, Envoy, Launch, Validation, binary, module};
use crate::eventually::{PATIENCE, within};
use crate::raw::Raw;
use crate::response::Response;
use crate::route::Route;
use crate::upstream::Upstream;

/// The cluster of the first quota backend.
pub const BACKEND: &str = "quota-backend";

/// A running Envoy with everything around it.
pub struct Rig {
    // Dropped in this order: Envoy first, its folder last.
    envoy: Envoy,
    backends: BTreeMap<String, Backend>,
    upstream: Upstream,
    launch: Launch,
    plan: Plan,
    module: Option<PathBuf>,
    version: AtomicU64,
    folder: TempDir,
}

/// What Envoy made of a pushed configuration.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Push {
    /// It is in use.
    Accepted,
    /// The old one goes on; with what was logged since the push.
    Rejected(String),
}

impl Rig {
    /// A rig to be set up: one worker, the filter without configuration, one route to the upstream.
    pub fn builder() -> RigBuilder {
        RigBuilder::default()
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
        self.backends
            .get(cluster)
            .unwrap_or_else(|| panic!("no backend {cluster}"))
    }

    /// The upstream.
    #[must_use]
    pub fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// Envoy's configuration.
    #[must_use]
    pub fn bootstrap(&self) -> &str {
        &self.launch.bootstrap
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
        assert!(
            self.plan.ecds,
            "a rig that takes pushes is built with `.ecds()`"
        );
        let stat = |name: &str| {
            let name = format!("extension_config_discovery.http_filter.{FILTER}.{name}");
            self.envoy.stat(&name).unwrap_or(0)
        };
        let outcome = || {
            (
                stat("config_reload"),
                stat("config_fail") + stat("update_rejected"),
            )
        };
        let (reloads, failures) = outcome();
        let logged = self.envoy.log().len();
        let version = self.version.fetch_add(1, Ordering::Relaxed);
        let config = wasm(plugin, self.module.as_deref(), &self.plan.patches.wasm);
        write_ecds(&self.launch, &ecds_file(&config, version)).expect("the ECDS file is written");
        let push = within(PATIENCE, || {
            let (reloads_now, failures_now) = outcome();
            if failures_now > failures {
                let log = self.envoy.log();
                return Some(Push::Rejected(
                    log.get(logged..).unwrap_or_default().to_owned(),
                ));
            }
            (reloads_now > reloads).then_some(Push::Accepted)
        });
        push.unwrap_or_else(|| {
            let stats = self
                .envoy
                .admin_get("/stats?filter=extension_config")
                .text();
            panic!(
                "Envoy did not notice the push:\n{stats}{}",
                self.envoy.log_tail()
            )
        })
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
                self.folder.path().display()
            );
        }
    }
}

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

    /// Lays fields over the `HttpConnectionManager` of the listener with the filter:
    /// `use_remote_address` (true if not set), `xff_num_trusted_hops`, `stream_idle_timeout`, …
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
        let Parts {
            backends,
            upstream,
            plan,
            module,
            folder,
        } = parts;
        let envoy = launch.start()?;
        let version = AtomicU64::new(2);
        Ok(Rig {
            envoy,
            backends,
            upstream,
            launch,
            plan,
            module,
            version,
            folder,
        })
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
            None if wants_module => Some(module()?),
            None => None,
        };
        let folder = TempDir::with_prefix("quota-gate-rig-").context("make a folder")?;
        let upstream = Upstream::start().context("start the upstream")?;
        let backends = self.start_backends()?;
        let access_log = folder.path().join(ACCESS_LOG);
        let ecds = folder.path().join(ECDS_FILE);
        let places = Places {
            access_log: &access_log,
            ecds_file: &ecds,
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
        if let (true, Some(plugin)) = (self.plan.ecds, &self.plan.plugin) {
            let config = wasm(plugin, module.as_deref(), &self.plan.patches.wasm);
            write_ecds(&launch, &ecds_file(&config, 1))?;
        }
        Ok((
            launch,
            Parts {
                backends,
                upstream,
                plan: self.plan,
                module,
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
struct Parts {
    backends: BTreeMap<String, Backend>,
    upstream: Upstream,
    plan: Plan,
    module: Option<PathBuf>,
    folder: TempDir,
}

fn string_value(text: &str) -> Value {
    json!({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": text})
}

fn lay(base: &mut Value, patch: &Value) {
    if base.is_null() {
        *base = json!({});
    }
    merge(base, patch);
}

/// Envoy watches for the rename.
fn write_ecds(launch: &Launch, content: &str) -> anyhow::Result<()> {
    let next = launch.folder.join("ecds.next");
    fs::write(&next, content).context("write the ECDS file")?;
    fs::rename(&next, launch.folder.join(ECDS_FILE)).context("put the ECDS file in place")
}

const ECDS_FILE: &str = "ecds.json";

/// As many entries of the access log as a failed test shows.
const ENTRIES_SHOWN: usize = 20;
