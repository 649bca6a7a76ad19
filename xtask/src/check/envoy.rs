//! Envoy's own configuration around the filter: which filters are ours, how their VM is set, and
//! whether every route can afford the wait.

use std::time::Duration;

use super::finding::{Finding, Place, Sources};
use super::metadata;
use super::plugin::{Budget, Plugin};
use super::tree::Node;

/// A cluster that a file makes.
pub(crate) struct Cluster {
    pub(crate) name: String,
    pub(crate) node: Node,
    /// The text or number of its connect timeout, and what it is.
    pub(crate) connect_timeout: (Duration, Option<Node>),
}

/// The objects of a tree that `wanted` likes, from the top down.
pub(crate) fn find<'a>(node: &'a Node, wanted: &impl Fn(&Node) -> bool, found: &mut Vec<&'a Node>) {
    if wanted(node) {
        found.push(node);
    }
    for (_, value) in node.entries() {
        find(value, wanted, found);
    }
    for item in node.items() {
        find(item, wanted, found);
    }
}

/// The connection managers of a tree.
pub(crate) fn managers(node: &Node) -> Vec<&Node> {
    let mut found = Vec::new();
    find(
        node,
        &|node| node.is_type(".HttpConnectionManager"),
        &mut found,
    );
    found
}

/// The clusters that a bootstrap makes by itself.
pub(crate) fn clusters(bootstrap: &Node) -> Vec<Cluster> {
    let list = bootstrap.at(&["static_resources", "clusters"]);
    let list = list.map_or(&[][..], Node::items);
    list.iter().filter_map(cluster).collect()
}

pub(crate) fn cluster(node: &Node) -> Option<Cluster> {
    let timeout = node.get("connect_timeout");
    let duration = timeout.and_then(Node::duration);
    Some(Cluster {
        name: node.text_of("name")?.to_owned(),
        node: node.clone(),
        connect_timeout: (duration.unwrap_or(CONNECT_TIMEOUT), timeout.cloned()),
    })
}

/// Whether clusters may come from elsewhere.
pub(crate) fn has_dynamic_clusters(bootstrap: &Node) -> bool {
    bootstrap.at(&["dynamic_resources", "cds_config"]).is_some()
}

/// What is said of how the host runs the filter.
pub(crate) struct Vm<'a> {
    sources: &'a Sources,
    path: &'a dyn Fn(&Node) -> String,
    pub(crate) findings: Vec<Finding>,
}

impl<'a> Vm<'a> {
    pub(crate) const fn new(sources: &'a Sources, path: &'a dyn Fn(&Node) -> String) -> Self {
        Self {
            sources,
            path,
            findings: Vec::new(),
        }
    }

    fn error(&self, rule: &str, node: &Node) -> Finding {
        Finding::error(rule, self.sources.place(node), (self.path)(node))
    }

    /// Judges a `PluginConfig`.
    pub(crate) fn judge(&mut self, config: &Node, plugin: &Plugin) {
        let option = config.get("allow_on_headers_stop_iteration");
        let is_set = |node: &&Node| node.is_true() || node.get("value").is_some_and(Node::is_true);
        if let Some(node) = option.filter(is_set) {
            let finding = self
                .error("stop-iteration", node)
                .says("allow_on_headers_stop_iteration lets a body pass while its check waits")
                .help("remove it: a request with a body would reach the upstream unchecked");
            self.findings.push(finding);
        }
        let fail_open = config.get("fail_open").filter(|node| node.is_true());
        let policy = config.get("failure_policy");
        if let (Some(node), Some(_)) = (config.get("fail_open"), policy) {
            let finding = self
                .error("failure-policy", node)
                .says("Envoy refuses fail_open together with failure_policy")
                .help("remove fail_open");
            self.findings.push(finding);
        }
        let policy = policy.filter(|node| node.text() == Some("FAIL_OPEN"));
        if let Some(node) = fail_open.or(policy) {
            self.fail_open(node, plugin);
        }
        self.capabilities(config);
    }

    /// Judges a VM that lets requests through when it fails.
    pub(crate) fn fail_open(&mut self, node: &Node, plugin: &Plugin) {
        let Some(closed) = plugin.plan.fail_closed.first() else {
            return;
        };
        let finding = self
            .error("fail-open-vm", node)
            .says("the VM fails open, but a policy fails closed")
            .help("let the VM fail closed or reload: FAIL_CLOSED, FAIL_RELOAD")
            .related(self.sources.place(closed), "this could not be kept");
        self.findings.push(finding);
    }

    fn capabilities(&mut self, config: &Node) {
        let inner = config.at(&["vm_config", "capability_restriction_config"]);
        let outer = config.get("capability_restriction_config");
        for restriction in inner.into_iter().chain(outer) {
            let Some((key, allowed)) = restriction.entry("allowed_capabilities") else {
                continue;
            };
            // An empty list restricts nothing.
            if allowed.entries().is_empty() {
                continue;
            }
            let needed = needed_capabilities();
            let missing: Vec<&str> = needed.filter(|name| allowed.get(name).is_none()).collect();
            if missing.is_empty() {
                continue;
            }
            let finding = self
                .error("capabilities", key)
                .says(format!("the module also needs {}", missing.join(", ")))
                .help("allow them, each as `name: {}`");
            self.findings.push(finding);
        }
    }

    /// Judges what routes say to a filter by their own configuration of it.
    fn per_route(&mut self, holder: &Node, filter: &str) {
        let own = holder.at(&["typed_per_filter_config", filter]);
        if let Some(node) = own.filter(|own| !own.is_type(".route.v3.FilterConfig")) {
            let node = node.get("@type").unwrap_or(node);
            let finding = self
                .error("per-route-config", node)
                .says("Envoy takes no configuration of a wasm filter from a route")
                .help(
                    "name a policy in the route's metadata, filter_metadata.quota_gate; \
                     FilterConfig with `disabled: true` switches the filter off",
                );
            self.findings.push(finding);
        }
    }

    /// Judges a connection manager that has the filter: its routes, and the time they have.
    pub(crate) fn manager(&mut self, manager: &Node, filter: &Node, plugins: &[Plugin]) {
        let name = filter.text_of("name").unwrap_or_default();
        let off = filter.get("disabled").is_some_and(Node::is_true);
        let table = manager.get("route_config");
        let Some(table) = table.filter(|table| table.get("virtual_hosts").is_some()) else {
            let budget = plugins
                .iter()
                .filter_map(|p| p.plan.largest_budget(None, None));
            if let Some(budget) = budget.max_by_key(|budget| budget.duration) {
                self.time(manager, None, &budget);
            }
            return;
        };
        self.per_route(table, name);
        for host in table.get("virtual_hosts").map_or(&[][..], Node::items) {
            self.per_route(host, name);
            for route in host.get("routes").map_or(&[][..], Node::items) {
                self.per_route(route, name);
                let own = [route, host, table].into_iter();
                let mut own =
                    own.filter_map(|holder| holder.at(&["typed_per_filter_config", name]));
                let off = own
                    .next()
                    .map_or(off, |own| own.get("disabled").is_some_and(Node::is_true));
                if !off {
                    self.route(manager, route, plugins);
                }
            }
        }
    }

    fn route(&mut self, manager: &Node, route: &Node, plugins: &[Plugin]) {
        let metadata = route.get("metadata");
        if let Some(metadata) = metadata {
            let found = metadata::judge(self.sources, metadata, plugins, self.path);
            self.findings.extend(found);
        }
        let named = metadata::policy(metadata);
        if named == Some("off") {
            return;
        }
        let name = route.text_of("name");
        let budgets = plugins.iter().filter_map(|plugin| {
            let plan = &plugin.plan;
            plan.largest_budget(name, named)
                .or_else(|| plan.largest_budget(name, None))
        });
        if let Some(budget) = budgets.max_by_key(|budget| budget.duration) {
            self.time(manager, Some(route), &budget);
        }
    }

    /// Holds a budget against what the host really grants to a route.
    fn time(&mut self, manager: &Node, route: Option<&Node>, budget: &Budget) {
        let idle = route.and_then(|route| route.at(&["route", "idle_timeout"]));
        match idle {
            Some(node) => self.limit("route.idle_timeout", node, budget),
            None => match manager.get("stream_idle_timeout") {
                Some(node) => self.limit("stream_idle_timeout", node, budget),
                None => self.default_idle(manager, budget),
            },
        }
        if let Some(node) = manager.get("request_timeout") {
            self.limit("request_timeout", node, budget);
        }
        let path = ["route", "max_stream_duration", "max_stream_duration"];
        let own = route.and_then(|route| route.at(&path));
        let common = manager.at(&["common_http_protocol_options", "max_stream_duration"]);
        if let Some(node) = own.or(common) {
            self.limit("max_stream_duration", node, budget);
        }
    }

    /// Without a word, a stream may be idle for five minutes.
    fn default_idle(&mut self, manager: &Node, budget: &Budget) {
        if budget.duration < STREAM_IDLE_TIMEOUT {
            return;
        }
        let place = self.sources.place(&budget.node);
        let finding = Finding::error("host-budget", place, (self.path)(&budget.node))
            .says(format!(
                "host_budget of {} is not below stream_idle_timeout, by default 5min",
                shown(budget.duration)
            ))
            .help("lower host_budget, or raise the connection manager's stream_idle_timeout")
            .related(self.sources.place(manager), "nothing is said here");
        self.push_once(finding);
    }

    /// Holds a budget against one of the host's timeouts; zero switches those off.
    pub(crate) fn limit(&mut self, name: &str, node: &Node, budget: &Budget) {
        let Some(limit) = node.duration() else { return };
        if limit.is_zero() || budget.duration < limit {
            return;
        }
        let finding = self
            .error("host-budget", node)
            .says(format!(
                "host_budget of {} is not below {name} of {}",
                shown(budget.duration),
                shown(limit)
            ))
            .help(format!(
                "raise {name}, or lower host_budget: else the host answers 504 while a request \
                 waits"
            ))
            .related(self.sources.place(&budget.node), "the budget");
        self.push_once(finding);
    }

    /// One timeout of a connection manager is that of many routes.
    fn push_once(&mut self, finding: Finding) {
        let known = |own: &Finding| {
            own.rule == finding.rule && own.place == finding.place && own.message == finding.message
        };
        if !self.findings.iter().any(known) {
            self.findings.push(finding);
        }
    }

    /// Holds the backends of a configuration against the clusters that are known.
    pub(crate) fn clusters(&mut self, plugin: &Plugin, clusters: &[Cluster], is_all: bool) {
        for backend in &plugin.plan.backends {
            let Some(wanted) = &backend.cluster else {
                continue;
            };
            let Some(text) = wanted.text() else { continue };
            let Some(cluster) = clusters.iter().find(|own| own.name == text) else {
                if is_all {
                    let names = clusters.iter().map(|own| format!("`{}`", own.name));
                    let names: Vec<String> = names.collect();
                    let finding = self
                        .error("cluster-missing", wanted)
                        .says(format!("there is no cluster `{text}`"))
                        .help(format!("make it, or name one of {}", names.join(", ")));
                    self.findings.push(finding);
                }
                continue;
            };
            self.connect(cluster, &backend.shortest);
        }
    }

    /// Holds a cluster's connect timeout against the shortest time of a call to it.
    pub(crate) fn connect(&mut self, cluster: &Cluster, call: &(Duration, Option<Node>)) {
        let (connect, node) = &cluster.connect_timeout;
        let (timeout, said) = call;
        if connect <= timeout {
            return;
        }
        let default = if node.is_some() { "" } else { ", the default," };
        let at = node.as_ref().unwrap_or(&cluster.node);
        let mut finding = self
            .error("connect-timeout", at)
            .says(format!(
                "connect_timeout of {}{default} is above the callout's timeout of {}",
                shown(*connect),
                shown(*timeout)
            ))
            .help(format!("set connect_timeout below {}", shown(*timeout)));
        if let Some(said) = said {
            finding = finding.related(self.sources.place(said), "the callout's timeout");
        }
        self.push_once(finding);
    }

    /// Looks for the rules that make labels of the metrics' names.
    pub(crate) fn stats_tags(&mut self, bootstrap: &Node, fallback: &Node) {
        let list = bootstrap.at(&["stats_config", "stats_tags"]);
        let rules = list.map_or(&[][..], Node::items);
        let is_ours = |rule: &Node, tag: &str| {
            rule.text_of("tag_name") == Some(tag)
                && rule
                    .text_of("regex")
                    .is_some_and(|r| r.contains("quota_gate"))
        };
        let missing: Vec<&str> = TAGS
            .into_iter()
            .filter(|tag| !rules.iter().any(|rule| is_ours(rule, tag)))
            .collect();
        if missing.is_empty() {
            return;
        }
        let at = bootstrap
            .at(&["stats_config"])
            .and_then(|config| config.entry("stats_tags"))
            .map_or(fallback, |(key, _)| key);
        let place: Place = self.sources.place(at);
        let finding = Finding::warning("stats-tags", place, (self.path)(at))
            .says(format!(
                "stats_tags make no label of {}: it stays part of the metrics' names",
                missing.join(", ")
            ))
            .help("add the rules of envoy/stats_tags.yaml to stats_config");
        self.findings.push(finding);
    }
}

/// What the module takes from its host, and what it offers to it, by the names of capabilities.
fn needed_capabilities() -> impl Iterator<Item = &'static str> {
    INTERFACE.lines().filter_map(|line| {
        let offered = |line: &'static str| line.strip_prefix("export ");
        let name = line.strip_prefix("import env.").or_else(|| offered(line))?;
        // Memory is not a capability.
        let counts = name.starts_with("proxy_")
            && !name.starts_with("proxy_abi_version")
            && name != "proxy_on_memory_allocate";
        counts.then_some(name)
    })
}

/// A duration as people write it.
pub(crate) fn shown(duration: Duration) -> String {
    quota_gate::config::units::duration_text(duration)
}

const INTERFACE: &str = include_str!("../../module-interface.txt");
/// As the cluster's documentation has it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// As the connection manager's documentation has it.
const STREAM_IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// The labels of the metrics.
pub(crate) const TAGS: [&str; 8] = [
    "policy", "decision", "reason", "backend", "cause", "result", "table", "event",
];
