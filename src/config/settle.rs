//! How what requests really used is told after the fact, and which backends can be told.

use alloc::borrow::ToOwned;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use super::build::{Builder, texts};
use super::keys::{policy, settle, usage};
use super::node::Node;
use super::problem::ProblemKind;
use super::{Backend, Cost, Policy, Preset};
use crate::text;

/// How what requests really used is told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settle {
    /// Where the response tells it: the parts that are there are added up.
    pub usage: Vec<Usage>,
    /// What is told.
    pub mode: SettleMode,
    /// The units of a request whose response tells nothing; `None`: its cost.
    pub default: Option<u64>,
    /// More units than this count as this.
    pub max: u64,
    /// Whether a request without a good answer has used the `default`, and not nothing.
    pub keeps_on_error: bool,
    /// Whether the use of requests that were not checked is left out.
    pub skips_unchecked: bool,
    /// How long the use of a key is gathered.
    pub every: Duration,
    /// How long the backend may take to confirm.
    pub timeout: Duration,
    /// How long it is told again.
    pub retry_for: Duration,
    /// Whether what may have been counted already is dropped, and not told again.
    pub drops_unknown: bool,
}

/// What is told of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SettleMode {
    /// The difference to its cost, which the check has charged.
    Correct,
    /// All of it: the check counts nothing.
    Report,
}

/// One part of what a request used.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Usage {
    /// Where it is told.
    pub place: UsagePlace,
    /// Thousandths of a unit for each.
    pub times: i64,
}

/// Where a part is told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum UsagePlace {
    /// In the response's header of that lower-case name.
    Header(String),
    /// In Envoy's dynamic metadata, as the path of a property, with NUL between its elements.
    Metadata(String),
    /// In the response's trailer of that lower-case name.
    Trailer(String),
}

/// What a preset can be told after the fact.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Takes {
    /// Nothing.
    Nothing,
    /// Units that were used.
    Units,
    /// Units that were used, and units that were not.
    Both,
}

impl Builder {
    /// A policy's settlement, and what it asks of the rest of the policy.
    pub(super) fn settle(&mut self, node: &Node<'_>, policy: &mut Policy) {
        if !node.has(&policy::SETTLE) {
            return;
        }
        let table = node.table(&policy::SETTLE);
        let settled = self.settle_terms(&table);
        if settled.default.is_some_and(|units| units > settled.max) {
            let got = settled.default.unwrap_or_default();
            self.above(&table.at(&settle::DEFAULT), got, settled.max);
        }
        self.check_settle(node, &settled, policy);
        policy.settle = Some(Rc::new(settled));
    }

    #[inline(never)]
    fn settle_terms(&mut self, table: &Node<'_>) -> Settle {
        let at = table.at(&settle::USAGE);
        let mut parts = Vec::new();
        for (position, value) in table.items(&settle::USAGE).iter().enumerate() {
            parts.push(self.usage(&Node::new(value, at.item(position))));
        }
        Settle {
            default: table.given_count(&settle::DEFAULT),
            drops_unknown: table.text(&settle::IF_UNKNOWN) == "drop",
            every: table.duration(&settle::EVERY),
            keeps_on_error: table.text(&settle::ON_ERROR) == "keep",
            max: table.count(&settle::MAX),
            mode: match table.text(&settle::MODE) {
                "correct" => SettleMode::Correct,
                _ => SettleMode::Report,
            },
            retry_for: table.duration(&settle::RETRY_FOR),
            skips_unchecked: table.text(&settle::UNCHECKED) == "skip",
            timeout: table.duration(&settle::TIMEOUT),
            usage: parts,
        }
    }

    #[inline(never)]
    fn usage(&mut self, node: &Node<'_>) -> Usage {
        self.check_one_source(node, usage::USAGE.one_of);
        let header = |key| node.given_text(key).map(str::to_ascii_lowercase);
        let place = if let Some(name) = header(&usage::HEADER) {
            UsagePlace::Header(name)
        } else if let Some(name) = header(&usage::TRAILER) {
            UsagePlace::Trailer(name)
        } else {
            let mut path = "metadata\0filter_metadata".to_owned();
            for element in texts(node.items(&usage::METADATA)) {
                path.push('\0');
                path.push_str(&element);
            }
            UsagePlace::Metadata(path)
        };
        Usage {
            place,
            times: node.thousandths(&usage::TIMES),
        }
    }

    /// Holds a settlement against what its backend can be told, and the policy against that.
    #[inline(never)]
    fn check_settle(&mut self, node: &Node<'_>, settled: &Settle, policy: &mut Policy) {
        let Some(backend) = self.backends.get(policy.backend).cloned() else {
            return;
        };
        let table = node.table(&policy::SETTLE);
        let name = &backend.name;
        let mut conflict = |at: super::check::At<'_>, with: String| {
            self.problems.add(at.path(), ProblemKind::Conflict { with });
        };
        let takes = takes(&backend);
        if takes == Takes::Nothing {
            let can = if backend.preset == Preset::Custom {
                "describe how in its `custom.report`"
            } else {
                "the presets `headers`, `limitador`, `envoy_ratelimit` and `gubernator` can, and \
                 `custom` with a `report`"
            };
            let with = text::fill(
                "backend `{}` can't be told afterwards what was used; {}",
                &[name, can],
            );
            return conflict(node.at(&policy::SETTLE), with);
        }
        if settled.mode == SettleMode::Correct {
            if takes == Takes::Units && policy.lease.is_none() {
                let with = text::fill(
                    "backend `{}` takes no units back: choose mode `report`, or add a `lease` \
                     that they go back to",
                    &[name],
                );
                conflict(table.at(&settle::MODE), with);
            }
            return;
        }
        if policy.lease.is_some() {
            let with = "it charges ahead what is reported afterwards; choose mode `correct`";
            conflict(node.at(&policy::LEASE), with.to_owned());
        }
        if backend.preset == Preset::Limitador {
            if backend.path.is_some() {
                let with = text::fill(
                    "backend `{}` has a `path` of its own; a check that counts nothing goes to \
                     limitador's `/check`",
                    &[name],
                );
                conflict(table.at(&settle::MODE), with);
            }
        } else if !node.has(&policy::COST) {
            policy.cost = Cost::Fixed(0);
        } else if policy.cost != Cost::Fixed(0) {
            let with = text::fill(
                "in mode `report` the check counts nothing, and backend `{}` can only be asked \
                 for 0 without counting; remove it, or choose mode `correct`",
                &[name],
            );
            conflict(node.at(&policy::COST), with);
        }
    }
}

fn takes(backend: &Backend) -> Takes {
    match backend.preset {
        Preset::Gubernator | Preset::Headers => Takes::Both,
        Preset::EnvoyRatelimit | Preset::Limitador => Takes::Units,
        Preset::Throttlecrab | Preset::Unkey => Takes::Nothing,
        Preset::Custom => match backend.custom.as_ref().and_then(|own| own.report.as_ref()) {
            Some(report) if report.takes_back => Takes::Both,
            Some(_) => Takes::Units,
            None => Takes::Nothing,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse::parse;
    use serde_json::{Value, json};

    /// A policy `p` of a backend with this preset; `fields` are laid over the policy.
    fn config(backend: Value, fields: Value) -> String {
        let mut policy = json!({
            "backend": "b",
            "descriptor": [{"name": "tenant", "header": "x-tenant"}],
            "failure_mode": "fail_closed",
            "settle": {"usage": [{"header": "x-units"}]},
        });
        let into = policy.as_object_mut().unwrap();
        into.extend(fields.as_object().unwrap().clone());
        json!({
            "backends": {"b": backend},
            "policies": {"p": policy},
            "default_policy": "p",
            "host_budget": "1s",
        })
        .to_string()
    }

    fn backend(preset: &str) -> Value {
        json!({"cluster": "c", "preset": preset})
    }

    fn problems(backend: Value, fields: Value) -> Vec<String> {
        match parse(config(backend, fields).as_bytes()) {
            Ok(_) => Vec::new(),
            // The first line counts them.
            Err(problems) => problems.lines().skip(1).collect(),
        }
    }

    fn settle(fields: Value) -> Value {
        let mut settle = json!({"usage": [{"header": "x-units"}]});
        let into = settle.as_object_mut().unwrap();
        into.extend(fields.as_object().unwrap().clone());
        json!({"settle": settle})
    }

    #[test]
    fn without_a_word_the_whole_use_is_reported_and_the_check_costs_nothing() {
        let config = parse(config(backend("headers"), json!({})).as_bytes()).unwrap();
        let policy = &config.policies[0];
        assert_eq!(policy.cost, Cost::Fixed(0));
        let settle = policy.settle.as_deref().unwrap();
        assert_eq!(settle.mode, SettleMode::Report);
        assert_eq!((settle.default, settle.max), (None, 1_000_000));
        assert_eq!(settle.every, Duration::from_millis(100));
        assert_eq!(settle.retry_for, Duration::from_secs(300));
        assert!(!settle.keeps_on_error && !settle.skips_unchecked && !settle.drops_unknown);
        assert_eq!(settle.usage[0].times, 1_000);
    }

    #[test]
    fn reads_places_and_factors() {
        let usage = json!({"settle": {"usage": [
            {"trailer": "X-Units", "times": 2.5},
            {"metadata": ["llm", "usage", "cached"], "times": -0.001},
        ]}});
        let config = parse(config(backend("headers"), usage).as_bytes()).unwrap();
        let settle = config.policies[0].settle.as_deref().unwrap();
        let path = "metadata\0filter_metadata\0llm\0usage\0cached";
        assert_eq!(
            settle.usage,
            [
                Usage {
                    place: UsagePlace::Trailer("x-units".to_owned()),
                    times: 2_500
                },
                Usage {
                    place: UsagePlace::Metadata(path.to_owned()),
                    times: -1
                },
            ]
        );
    }

    #[test]
    fn refuses_what_the_backend_can_not_be_told() {
        let quota = json!({"quota": {"units": 1, "per": "1s"}});
        assert_eq!(
            problems(backend("unkey"), quota),
            [
                "policies.p.settle: conflict: backend `b` can't be told afterwards what was used; \
                 the presets `headers`, `limitador`, `envoy_ratelimit` and `gubernator` can, and \
                 `custom` with a `report`"
            ]
        );
        assert_eq!(
            problems(backend("limitador"), settle(json!({"mode": "correct"}))),
            [
                "policies.p.settle.mode: conflict: backend `b` takes no units back: choose mode \
                 `report`, or add a `lease` that they go back to"
            ]
        );
        let mut leased = settle(json!({"mode": "correct"}));
        leased["lease"] = json!({"max_units": 10});
        assert_eq!(problems(backend("limitador"), leased), [""; 0]);
    }

    #[test]
    fn a_custom_backend_can_be_told_as_far_as_its_report_says() {
        let custom = |report: Value| {
            let mut backend = json!({
                "cluster": "c", "preset": "custom", "path": "/check", "custom": {},
            });
            if !report.is_null() {
                backend["report_path"] = json!("/used");
                backend["custom"]["report"] = report;
            }
            backend
        };
        let correct = settle(json!({"mode": "correct"}));
        let body = json!({"n": "{units}"});

        assert_eq!(
            problems(custom(Value::Null), json!({})),
            [
                "policies.p.settle: conflict: backend `b` can't be told afterwards what was used; \
                 describe how in its `custom.report`"
            ]
        );
        assert_eq!(problems(custom(json!({"body": body})), json!({})), [""; 0]);
        assert_eq!(
            problems(custom(json!({"body": body})), correct.clone()),
            [
                "policies.p.settle.mode: conflict: backend `b` takes no units back: choose mode \
                 `report`, or add a `lease` that they go back to"
            ]
        );
        let takes_back = custom(json!({"body": body, "takes_back": true}));
        assert_eq!(problems(takes_back, correct), [""; 0]);
    }

    #[test]
    fn refuses_a_check_that_counts_what_is_reported() {
        assert_eq!(
            problems(backend("headers"), json!({"cost": 1})),
            [
                "policies.p.cost: conflict: in mode `report` the check counts nothing, and \
                 backend `b` can only be asked for 0 without counting; remove it, or choose mode \
                 `correct`"
            ]
        );
        assert_eq!(problems(backend("limitador"), json!({"cost": 1})), [""; 0]);
        assert_eq!(
            problems(backend("headers"), json!({"lease": {"max_units": 10}})),
            [
                "policies.p.lease: conflict: it charges ahead what is reported afterwards; choose \
                 mode `correct`"
            ]
        );
        let own_path = json!({"cluster": "c", "preset": "limitador", "path": "/x"});
        assert_eq!(
            problems(own_path, json!({})),
            [
                "policies.p.settle.mode: conflict: backend `b` has a `path` of its own; a check \
                 that counts nothing goes to limitador's `/check`"
            ]
        );
    }

    #[test]
    fn tells_each_problem_at_its_place() {
        let fields = json!({"settle": {
            "usage": [{"header": "a", "trailer": "b"}, {"times": 0}, {"metadata": ["x"]}],
            "default": 20, "max": 10, "evry": "1s",
        }});
        assert_eq!(
            problems(backend("headers"), fields),
            [
                "policies.p.settle.default: out of range: got 20, allowed 0 to 10",
                "policies.p.settle.evry: unknown key: did you mean `every`?",
                "policies.p.settle.usage[0].trailer: conflict: `header` is a source too, keep one \
                 of them",
                "policies.p.settle.usage[1]: missing: required, a source of the value: `header`, \
                 `trailer` or `metadata`",
                "policies.p.settle.usage[1].times: forbidden: `0` counts nothing, remove it",
                "policies.p.settle.usage[2].metadata: out of range: got 1 items, allowed 2 to 16",
            ]
        );
    }
}
