//! Istio's and Envoy Gateway's resources around the filter.

use super::envoy::{self, Cluster, Vm};
use super::finding::{Finding, Sources};
use super::metadata;
use super::plugin::{Budget, Plugin};
use super::tree::Node;

/// The resource's kind.
pub(crate) fn kind(document: &Node) -> Option<&str> {
    document.get("apiVersion")?;
    document.text_of("kind")
}

/// The pieces of an `EnvoyFilter`: what each is applied to, and its value.
pub(crate) fn patches(document: &Node) -> impl Iterator<Item = (&str, &Node)> {
    let list = document.at(&["spec", "configPatches"]);
    let list = list.map_or(&[][..], Node::items).iter();
    list.filter_map(|own| Some((own.text_of("applyTo")?, own.at(&["patch", "value"])?)))
}

/// The clusters that a resource makes; a bootstrap in a text has been read by the caller.
pub(crate) fn clusters(document: &Node) -> Vec<Cluster> {
    let mut found = Vec::new();
    for (applied, value) in patches(document) {
        match applied {
            "BOOTSTRAP" => found.extend(envoy::clusters(value)),
            "CLUSTER" => found.extend(envoy::cluster(value)),
            _ => {}
        }
    }
    found
}

/// Judges what the resources around say of the time of a request, and of routes.
pub(crate) fn judge(vm: &mut Vm<'_>, sources: &Sources, document: &Node, around: &Around<'_>) {
    match kind(document) {
        Some("EnvoyFilter") => envoy_filter(vm, sources, document, around),
        Some("ClientTrafficPolicy") => {
            let http = document.at(&["spec", "timeout", "http"]);
            for name in ["requestReceivedTimeout", "streamIdleTimeout"] {
                limit(vm, http.and_then(|http| http.get(name)), name, around);
            }
        }
        Some("BackendTrafficPolicy") => {
            let http = document.at(&["spec", "timeout", "http"]);
            let name = "maxStreamDuration";
            limit(vm, http.and_then(|http| http.get(name)), name, around);
        }
        _ => {}
    }
}

/// What a resource is judged against.
pub(crate) struct Around<'a> {
    pub(crate) plugins: &'a [Plugin],
    pub(crate) budget: Option<Budget>,
    pub(crate) path: &'a dyn Fn(&Node) -> String,
}

fn limit(vm: &mut Vm<'_>, node: Option<&Node>, name: &str, around: &Around<'_>) {
    if let (Some(node), Some(budget)) = (node, &around.budget) {
        vm.limit(name, node, budget);
    }
}

fn envoy_filter(vm: &mut Vm<'_>, sources: &Sources, document: &Node, around: &Around<'_>) {
    for (applied, value) in patches(document) {
        match applied {
            "HTTP_ROUTE" => {
                if let Some(own) = value.get("metadata") {
                    let found = metadata::judge(sources, own, around.plugins, around.path);
                    vm.findings.extend(found);
                }
                for path in [&["idle_timeout"][..], &MAX_DURATION] {
                    let node = value.get("route").and_then(|route| route.at(path));
                    let name = path.first().copied().unwrap_or_default();
                    limit(vm, node, name, around);
                }
            }
            "NETWORK_FILTER" => {
                for manager in envoy::managers(value) {
                    for name in ["stream_idle_timeout", "request_timeout"] {
                        limit(vm, manager.get(name), name, around);
                    }
                    let node = manager.at(&["common_http_protocol_options", MAX_DURATION[0]]);
                    limit(vm, node, MAX_DURATION[0], around);
                }
            }
            "BOOTSTRAP" if value.at(&["stats_config", "stats_tags"]).is_some() => {
                vm.stats_tags(value, value);
            }
            _ => {}
        }
    }
}

/// Judges the cluster of a backend by the names that Istio gives: `outbound|PORT|SUBSET|HOST`.
pub(crate) fn mesh_cluster(
    sources: &Sources,
    wanted: &Node,
    documents: &[Node],
    path: &dyn Fn(&Node) -> String,
) -> Option<Finding> {
    let name = wanted.text()?;
    let parts: Vec<&str> = name.split('|').collect();
    let error = || Finding::error("cluster-missing", sources.place(wanted), path(wanted));
    let ["outbound", port, _, host] = parts.as_slice() else {
        return Some(
            error()
                .says(format!("Istio names no cluster `{name}`"))
                .help(
                    "write outbound|PORT||HOST, such as outbound|8080||quota.ns.svc.cluster.local",
                ),
        );
    };
    let entry = documents.iter().find(|own| {
        kind(own) == Some("ServiceEntry") && has_text(own.at(&["spec", "hosts"]), host)
    })?;
    let ports = entry.at(&["spec", "ports"]).map_or(&[][..], Node::items);
    let has_port = ports.iter().any(|own| {
        own.get("number")
            .is_some_and(|number| number.to_json() == *port)
    });
    if has_port {
        return None;
    }
    Some(
        error()
            .says(format!("the ServiceEntry of {host} has no port {port}"))
            .help("name one of its ports, or add the port there")
            .related(sources.place(entry.get("spec")?), "this ServiceEntry"),
    )
}

/// A `DestinationRule`'s connect timeout for a mesh cluster.
pub(crate) fn destination(wanted: &str, documents: &[Node]) -> Option<Cluster> {
    let host = wanted.rsplit('|').next()?;
    let rule = documents.iter().find(|own| {
        kind(own) == Some("DestinationRule")
            && own.at(&["spec", "host"]).and_then(Node::text) == Some(host)
    })?;
    let path = ["spec", "trafficPolicy", "connectionPool", "tcp"];
    let node = rule.at(&path)?.get("connectTimeout")?;
    Some(Cluster {
        name: wanted.to_owned(),
        node: node.clone(),
        connect_timeout: (node.duration()?, Some(node.clone())),
    })
}

fn has_text(list: Option<&Node>, text: &str) -> bool {
    let items = list.map_or(&[][..], Node::items);
    items.iter().any(|item| item.text() == Some(text))
}

const MAX_DURATION: [&str; 2] = ["max_stream_duration", "max_stream_duration"];
