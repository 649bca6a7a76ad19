//! A plugin configuration inside a file: judged by the filter's own parser, its problems at their
//! lines, and what the lint has to know of it even where it has problems.

use std::time::Duration;

use quota_gate::config::parse::parse;
use quota_gate::config::problem::{Problem, ProblemKind, Step};
use quota_gate::config::{Config, units, value};

use super::finding::{Finding, Place, Sources};
use super::tree::{Node, Value};

/// A plugin configuration, as it was found.
pub(crate) struct Plugin {
    /// What holds it, in words.
    pub(crate) holder: String,
    /// With its places in the file.
    pub(crate) tree: Node,
    /// `None` where it has problems.
    pub(crate) config: Option<Config>,
    pub(crate) plan: Plan,
}

/// What the lint looks at.
pub(crate) struct Plan {
    pub(crate) budget: Option<Budget>,
    pub(crate) backends: Vec<BackendPlan>,
    pub(crate) policies: Vec<PolicyPlan>,
    /// The default policy and the rules: a route's name where it is asked for, and the policy.
    pub(crate) rules: Vec<(Option<String>, String)>,
    /// Where something fails closed.
    pub(crate) fail_closed: Vec<Node>,
}

#[derive(Clone)]
pub(crate) struct Budget {
    pub(crate) duration: Duration,
    pub(crate) node: Node,
}

pub(crate) struct BackendPlan {
    pub(crate) cluster: Option<Node>,
    /// The shortest time that a call to it is given, and where that is said.
    pub(crate) shortest: (Duration, Option<Node>),
}

pub(crate) struct PolicyPlan {
    pub(crate) name: String,
    pub(crate) budget: Option<Budget>,
}

impl Plugin {
    /// Judges a configuration that is a text of its own, or a text inside `holder`'s file.
    pub(crate) fn from_text(
        sources: &mut Sources,
        node: &Node,
        holder: &str,
        findings: &mut Vec<Finding>,
    ) -> Self {
        let bytes = node.text().unwrap_or_default().as_bytes().to_vec();
        let source = sources.text(node.file);
        let tree = node.inner(source);
        if let Some((at, error)) = fault(&bytes) {
            let at = node.place_in(source, at).unwrap_or(node.span.start);
            match &tree {
                Some(tree) => hide_secrets(sources, tree),
                // Nobody can say where the values are.
                None => sources.hide(node),
            }
            findings.push(not_json(sources, node.file, at, &error));
            return Self::new(holder, tree.unwrap_or_else(|| node.clone()), None);
        }
        let tree = tree.unwrap_or_else(|| node.clone());
        Self::judge(sources, tree, &bytes, holder, findings)
    }

    /// Judges a configuration that is the whole of a JSON file.
    pub(crate) fn from_file(
        sources: &mut Sources,
        tree: Node,
        holder: &str,
        findings: &mut Vec<Finding>,
    ) -> Self {
        let bytes = sources.text(tree.file).as_bytes().to_vec();
        if let Some((at, error)) = fault(&bytes) {
            hide_secrets(sources, &tree);
            findings.push(not_json(sources, tree.file, at, &error));
            return Self::new(holder, tree, None);
        }
        Self::judge(sources, tree, &bytes, holder, findings)
    }

    /// Judges a configuration that is part of a tree.
    pub(crate) fn from_tree(
        sources: &mut Sources,
        tree: Node,
        holder: &str,
        findings: &mut Vec<Finding>,
    ) -> Self {
        let json = tree.to_json();
        Self::judge(sources, tree, json.as_bytes(), holder, findings)
    }

    /// Judges a configuration by its bytes; `tree` has the places.
    pub(crate) fn judge(
        sources: &mut Sources,
        tree: Node,
        bytes: &[u8],
        holder: &str,
        findings: &mut Vec<Finding>,
    ) -> Self {
        hide_secrets(sources, &tree);
        let config = match parse(bytes) {
            Ok(config) => Some(config),
            Err(problems) => {
                let found = problems
                    .iter()
                    .map(|problem| of_problem(sources, &tree, problem));
                findings.extend(found);
                None
            }
        };
        Self::new(holder, tree, config)
    }

    fn new(holder: &str, tree: Node, config: Option<Config>) -> Self {
        Self {
            holder: holder.to_owned(),
            plan: Plan::read(&tree),
            tree,
            config,
        }
    }
}

/// Whether a tree is this filter's configuration, valid or not.
pub(crate) fn is_configuration(node: &Node) -> bool {
    let own = ["backends", "policies", "default_policy", "host_budget"];
    own.iter().any(|key| node.get(key).is_some())
}

fn not_json(sources: &Sources, file: usize, at: usize, error: &str) -> Finding {
    let end = (at + 1).min(sources.text(file).len()).max(at);
    let place = Place {
        file,
        span: at..end,
    };
    Finding::error("unreadable", place, "configuration")
        .says(format!("the configuration is not JSON: {error}"))
        .help("the filter reads JSON, without comments and trailing commas")
}

/// What of a text is not JSON, and where.
fn fault(bytes: &[u8]) -> Option<(usize, String)> {
    let error = value::Value::from_json(bytes).err()?;
    let at = offset(bytes, error.line(), error.column());
    // The place is shown in the outer file: line and column of the text within would mislead.
    let what = error.to_string();
    let what = what.split(" at line ").next().unwrap_or(&what).to_owned();
    (!bytes.trim_ascii().is_empty()).then_some((at, what))
}

/// The byte of a line and column, both from 1.
fn offset(bytes: &[u8], line: usize, column: usize) -> usize {
    let lines = bytes.split_inclusive(|byte| *byte == b'\n');
    let before: usize = lines.take(line.saturating_sub(1)).map(<[u8]>::len).sum();
    (before + column.saturating_sub(1)).min(bytes.len().saturating_sub(1))
}

fn hide_secrets(sources: &mut Sources, tree: &Node) {
    let backends = tree.get("backends").map_or(&[][..], Node::entries);
    let headers = backends.iter().filter_map(|(_, own)| own.get("headers"));
    for (_, value) in headers.flat_map(Node::entries) {
        sources.hide(value);
    }
}

fn of_problem(sources: &Sources, tree: &Node, problem: &Problem) -> Finding {
    let place = locate(sources, tree, problem.path.steps(), &problem.kind);
    let rule = problem.kind.title().replace(' ', "-");
    Finding::error(&rule, place, problem.path.to_string())
        .says(problem.kind.to_string())
        .help(remedy(&problem.kind))
}

/// Where a problem's path leads; for what is missing, where it belongs.
fn locate(sources: &Sources, tree: &Node, steps: &[Step], kind: &ProblemKind) -> Place {
    let (mut key, mut node) = (None, tree);
    for step in steps {
        match &node.value {
            Value::Object(entries) => match entries.get(step.position) {
                Some((own, value)) => (key, node) = (Some(own), value),
                None => break,
            },
            Value::List(items) => match items.get(step.position) {
                Some(item) => (key, node) = (None, item),
                None => break,
            },
            _ => break,
        }
    }
    let container = matches!(node.value, Value::List(_) | Value::Object(_));
    let of_key = matches!(
        kind,
        ProblemKind::UnknownKey { .. } | ProblemKind::Duplicate { .. }
    );
    match key {
        Some(key) if container || of_key => sources.place(key),
        _ => sources.place(node),
    }
}

fn remedy(kind: &ProblemKind) -> String {
    let replace = |word: &Option<String>, otherwise: &str| match word {
        Some(word) => format!("write `{word}`"),
        None => otherwise.to_owned(),
    };
    match kind {
        ProblemKind::AboveBudget { max, .. } => format!(
            "lower the timeout to {}, or raise host_budget if Envoy's own timeouts allow it",
            units::duration_text(*max)
        ),
        ProblemKind::Conflict { .. } => "change one of the two".to_owned(),
        ProblemKind::Duplicate { .. } => "keep one of them".to_owned(),
        ProblemKind::Empty => "give the filter its configuration".to_owned(),
        ProblemKind::Forbidden { .. } | ProblemKind::TooMany { .. } => "remove it".to_owned(),
        ProblemKind::Malformed { expected, .. } | ProblemKind::WrongType { expected, .. } => {
            format!("give {expected}")
        }
        ProblemKind::Missing { .. } => "add it".to_owned(),
        ProblemKind::NotFound {
            what, did_you_mean, ..
        } => replace(did_you_mean, &format!("declare the {what}")),
        ProblemKind::NotSupported {
            did_you_mean,
            allowed,
            ..
        } => replace(did_you_mean, &format!("give {allowed}")),
        ProblemKind::OutOfRange { min, max, .. } => format!("give a value from {min} to {max}"),
        ProblemKind::UnknownKey { did_you_mean, .. } => replace(did_you_mean, "remove it"),
        ProblemKind::Unreadable { .. } => "give JSON".to_owned(),
    }
}

impl Plan {
    /// Reads what is there and makes sense; what does not is a problem that is told elsewhere.
    fn read(tree: &Node) -> Self {
        let policies = tree.get("policies").map_or(&[][..], Node::entries);
        let routes = tree.get("routes").map_or(&[][..], Node::items);
        let top = budget(tree);
        let mut rules: Vec<(Option<String>, String)> = routes.iter().filter_map(rule).collect();
        if let Some(policy) = tree.text_of("default_policy") {
            rules.push((None, policy.to_owned()));
        }
        let modes = policies.iter().filter_map(|(_, p)| p.get("failure_mode"));
        let overrides = routes
            .iter()
            .filter_map(|route| route.at(&["override", "failure_mode"]));
        let fail_closed = modes
            .chain(overrides)
            .filter(|mode| mode.text() == Some("fail_closed"));
        Self {
            backends: backends(tree),
            policies: policies
                .iter()
                .map(|(name, policy)| PolicyPlan {
                    name: name.text().unwrap_or_default().to_owned(),
                    budget: budget(policy).or_else(|| top.clone()),
                })
                .collect(),
            rules,
            fail_closed: fail_closed.cloned().collect(),
            budget: top,
        }
    }

    /// The largest budget of the policies that a route may lead to.
    pub(crate) fn largest_budget(
        &self,
        route: Option<&str>,
        named: Option<&str>,
    ) -> Option<Budget> {
        if let Some(named) = named {
            let policy = self.policies.iter().find(|policy| policy.name == named);
            return policy.and_then(|policy| policy.budget.clone());
        }
        let may_apply = |asked: &Option<String>| match (asked, route) {
            (Some(asked), Some(route)) => asked == route,
            (Some(_), None) | (None, _) => true,
        };
        let policies = self.rules.iter().filter(|(asked, _)| may_apply(asked));
        policies
            .filter(|(_, name)| name != "off")
            .filter_map(|(_, name)| {
                let policy = self.policies.iter().find(|policy| policy.name == *name);
                // A name that is misspelt means some policy.
                policy.map_or_else(|| self.budget.clone(), |policy| policy.budget.clone())
            })
            .max_by_key(|budget| budget.duration)
    }
}

fn budget(node: &Node) -> Option<Budget> {
    let node = node.get("host_budget")?;
    Some(Budget {
        duration: units::duration(node.text()?)?,
        node: node.clone(),
    })
}

fn rule(route: &Node) -> Option<(Option<String>, String)> {
    let asked = route.at(&["match", "route_name"]).and_then(Node::text);
    Some((
        asked.map(str::to_owned),
        route.text_of("policy")?.to_owned(),
    ))
}

fn backends(tree: &Node) -> Vec<BackendPlan> {
    let backends = tree.get("backends").map_or(&[][..], Node::entries);
    backends
        .iter()
        .map(|(name, own)| {
            let default = timeout(own).unwrap_or((BACKEND_TIMEOUT, None));
            let users = users(tree, name.text().unwrap_or_default());
            let shortest = users
                .iter()
                .map(|user| timeout(user).unwrap_or_else(|| default.clone()))
                .min_by_key(|(timeout, _)| *timeout);
            BackendPlan {
                cluster: own.get("cluster").cloned(),
                shortest: shortest.unwrap_or(default),
            }
        })
        .collect()
}

/// The policies that ask a backend, and the overrides of those.
fn users<'a>(tree: &'a Node, backend: &str) -> Vec<&'a Node> {
    let policies = tree.get("policies").map_or(&[][..], Node::entries);
    let asks = |policy: &Node| policy.text_of("backend") == Some(backend);
    let mut users: Vec<&Node> = policies
        .iter()
        .map(|(_, policy)| policy)
        .filter(|policy| asks(policy))
        .collect();
    for route in tree.get("routes").map_or(&[][..], Node::items) {
        let policy = route.text_of("policy");
        let policy = policy.and_then(|name| tree.at(&["policies", name]));
        if policy.is_some_and(asks) {
            let changes = route.get("override");
            users.extend(changes.filter(|changes| changes.get("timeout").is_some()));
        }
    }
    users
}

fn timeout(node: &Node) -> Option<(Duration, Option<Node>)> {
    let node = node.get("timeout")?;
    Some((units::duration(node.text()?)?, Some(node.clone())))
}

/// What a backend's timeout is if nothing is said.
const BACKEND_TIMEOUT: Duration = Duration::from_millis(100);
