//! What Envoy's routes say to the filter, judged by the filter's own reader.

use quota_gate::metadata::{self, MetadataProblem, NAMESPACE};

use super::finding::{Finding, Sources};
use super::plugin::Plugin;
use super::tree::{Node, Value};

/// Judges one route's `metadata` against each of the plugins that may see it.
pub(crate) fn judge(
    sources: &Sources,
    metadata: &Node,
    plugins: &[Plugin],
    path: impl Fn(&Node) -> String,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let spaces = metadata
        .get("filter_metadata")
        .map_or(&[][..], Node::entries);
    for (name, own) in spaces {
        let text = name.text().unwrap_or_default();
        if text == NAMESPACE {
            findings.extend(judge_own(sources, own, plugins, &path));
        } else if is_alike(text) {
            let place = sources.place(name);
            let finding = Finding::warning("route-metadata", place, path(name))
                .says(format!("`{text}` says nothing to the filter"))
                .help(format!("write `{NAMESPACE}`"));
            findings.push(finding);
        }
    }
    findings
}

/// The policy that a route's metadata names.
pub(crate) fn policy(metadata: Option<&Node>) -> Option<&str> {
    metadata?
        .at(&["filter_metadata", NAMESPACE, "policy"])?
        .text()
}

fn judge_own(
    sources: &Sources,
    own: &Node,
    plugins: &[Plugin],
    path: &impl Fn(&Node) -> String,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut found = |key: &Node, at: &Node, problem: &MetadataProblem| {
        let finding = Finding::error("route-metadata", sources.place(at), path(key))
            .says(problem.to_string())
            .help(remedy(problem));
        findings.push(finding);
    };
    for (key, value) in own.entries() {
        let alone = encode(NAMESPACE, &one(key, value));
        match metadata::read(&alone) {
            Err(problem @ MetadataProblem::UnknownKey(_)) => found(key, key, &problem),
            Err(problem) => found(value, value, &problem),
            Ok(_) => {}
        }
    }
    if !findings.is_empty() {
        return findings;
    }
    let Ok(Some(said)) = metadata::read(&encode(NAMESPACE, own)) else {
        return findings;
    };
    for plugin in plugins {
        let problem = match &plugin.config {
            Some(config) => metadata::choose(config, &said, || config.default_policy.clone()).err(),
            None => unknown_policy(plugin, said.policy.as_deref()),
        };
        let Some(problem) = problem else { continue };
        let at = own.get(key_of(&problem)).unwrap_or(own);
        let finding = Finding::error("route-metadata", sources.place(at), path(at))
            .says(problem.to_string())
            .help(remedy_here(&problem, plugin));
        findings.push(finding);
    }
    findings
}

/// The same judgement of the name alone, where the configuration has problems of its own.
fn unknown_policy(plugin: &Plugin, named: Option<&str>) -> Option<MetadataProblem> {
    let named = named.filter(|named| *named != "off")?;
    let known = plugin.plan.policies.iter().any(|own| own.name == named);
    (!known).then(|| MetadataProblem::UnknownPolicy(named.to_owned()))
}

const fn key_of(problem: &MetadataProblem) -> &'static str {
    match problem {
        MetadataProblem::AboveBudget => "timeout",
        MetadataProblem::NeedsLocalLimit => "failure_mode",
        MetadataProblem::BadValue(key) | MetadataProblem::WrongType(key) => key,
        MetadataProblem::NoPolicy
        | MetadataProblem::UnknownKey(_)
        | MetadataProblem::UnknownPolicy(_)
        | MetadataProblem::Unreadable => "policy",
    }
}

fn remedy_here(problem: &MetadataProblem, plugin: &Plugin) -> String {
    match problem {
        MetadataProblem::UnknownPolicy(_) => {
            let names = plugin.plan.policies.iter().map(|own| own.name.as_str());
            let names: Vec<&str> = names.collect();
            format!("name one of: {}, off", names.join(", "))
        }
        _ => remedy(problem),
    }
}

fn remedy(problem: &MetadataProblem) -> String {
    match problem {
        MetadataProblem::AboveBudget => "lower it below the policy's host_budget",
        MetadataProblem::BadValue("cost") => "give a whole number from 0 to 1000000",
        MetadataProblem::BadValue("enforcement") => "give enforce, shadow or off",
        MetadataProblem::BadValue("failure_mode") => "give fail_open, fail_closed or fail_local",
        MetadataProblem::BadValue("timeout") => "give a duration from 1ms to 60s",
        MetadataProblem::BadValue(_) => "give a value that the reference lists",
        MetadataProblem::NeedsLocalLimit => "give the policy a local_limit, or another mode",
        MetadataProblem::NoPolicy => "remove what is changed, or name a policy",
        MetadataProblem::UnknownKey(_) => {
            "a route may say policy, failure_mode, timeout, cost and enforcement"
        }
        MetadataProblem::UnknownPolicy(_) => "name a policy that is declared",
        MetadataProblem::Unreadable => "give an object of texts",
        MetadataProblem::WrongType(_) => "put it in quotes",
    }
    .to_owned()
}

fn one(key: &Node, value: &Node) -> Node {
    Node {
        file: key.file,
        span: key.span.clone(),
        value: Value::Object(vec![(key.clone(), value.clone())]),
    }
}

fn is_alike(name: &str) -> bool {
    let letters = name.chars().filter(char::is_ascii_alphanumeric);
    letters
        .map(|c| c.to_ascii_lowercase())
        .eq("quotagate".chars())
}

/// Writes a `core.v3.Metadata` that has one name, as Envoy hands it to the filter.
pub(crate) fn encode(name: &str, own: &Node) -> Vec<u8> {
    let mut entry = field(1, name.as_bytes());
    entry.extend(field(2, &structure(own)));
    field(1, &entry)
}

fn structure(node: &Node) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (key, own) in node.entries() {
        let mut entry = field(1, key.text().unwrap_or_default().as_bytes());
        entry.extend(field(2, &value(own)));
        bytes.extend(field(1, &entry));
    }
    bytes
}

/// A `google.protobuf.Value`.
fn value(node: &Node) -> Vec<u8> {
    match &node.value {
        Value::Null => vec![1 << 3, 0],
        Value::Number(text) => {
            let double: f64 = text.parse().unwrap_or_default();
            let mut bytes = vec![(2 << 3) | 1];
            bytes.extend(double.to_le_bytes());
            bytes
        }
        Value::Text(text) => field(3, text.as_bytes()),
        Value::Bool(flag) => vec![4 << 3, u8::from(*flag)],
        Value::Object(_) => field(5, &structure(node)),
        Value::List(items) => {
            let list: Vec<u8> = items.iter().flat_map(|own| field(1, &value(own))).collect();
            field(6, &list)
        }
    }
}

/// A field of bytes: its number, its length, and them.
fn field(number: u8, own: &[u8]) -> Vec<u8> {
    let mut bytes = vec![(number << 3) | 2];
    let mut rest = own.len();
    while rest >= 0x80 {
        bytes.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
    bytes.extend_from_slice(own);
    bytes
}
