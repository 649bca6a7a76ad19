//! Promise: the dashboard shows an outage, and the alerts call for it: on a real Envoy that a real
//! Prometheus scrapes.

use std::collections::BTreeSet;
use std::time::Duration;

use quota_gate_observability::dashboard::panels;
use quota_gate_observability::folder;
use quota_gate_observability::prometheus::Series;
use quota_gate_observability::rehearsal::Rehearsal;

/// Long enough that every alert of the outage fires in quick time.
const LENGTH: Duration = Duration::from_secs(40);

/// What a slow and then dead backend and an emergency deserve, and nothing else.
const DESERVED: [&str; 6] = [
    "QuotaGateBreakerOpen",
    "QuotaGateBudgetNearlyUsed",
    "QuotaGateEmergencyActive",
    "QuotaGateFailingOpen",
    "QuotaGateFailures",
    "QuotaGateUnavailable",
];

#[test]
fn an_outage_is_seen_on_every_panel_and_called_for_by_its_alerts() {
    let seen = Rehearsal::run(LENGTH).unwrap();

    assert!(seen.requests > 1000, "only {} requests", seen.requests);
    every_panel_has_something_to_show(&seen);
    every_rule_is_evaluated(&seen);
    every_metric_is_one_that_envoy_has(&seen);
    the_alerts_that_fire_are_those_that_the_outage_deserves(&seen);
    the_other_backend_is_left_out_of_it(&seen);
}

fn range(seen: &Rehearsal, query: &str) -> Vec<Series> {
    let all = seen.prometheus.range(query, seen.start, seen.end, 1.0);
    all.unwrap()
}

fn every_panel_has_something_to_show(seen: &Rehearsal) {
    for panel in panels("5s").unwrap() {
        for query in &panel.queries {
            let series = range(seen, &query.expression);
            let moves = series.iter().flat_map(|series| &series.points);
            let moves = moves.filter(|(_, value)| *value > 0.0).count();
            assert!(moves > 0, "{}: {}", panel.title, query.expression);
        }
    }
}

fn every_rule_is_evaluated(seen: &Rehearsal) {
    let rules = seen.prometheus.rules().unwrap();
    assert!(rules.len() >= 11, "{rules:?}");
    for (name, health) in rules {
        assert_eq!(health, "ok", "{name}");
    }
}

/// Names that no Envoy has would never fire, and nobody would notice.
fn every_metric_is_one_that_envoy_has(seen: &Rehearsal) {
    let known: BTreeSet<String> = seen
        .prometheus
        .metric_names()
        .unwrap()
        .into_iter()
        .collect();
    let rules = std::fs::read_to_string(folder().join("alerts.yaml")).unwrap();
    let dashboard = std::fs::read_to_string(folder().join("dashboard.json")).unwrap();
    let named = metrics_named_in(&(rules + &dashboard));
    assert!(named.len() >= 10, "{named:?}");
    let missing: Vec<&String> = named
        .difference(&known)
        .filter(|name| !UNPROVOKED.contains(&name.as_str()))
        .collect();
    assert!(missing.is_empty(), "{missing:?} are not among {known:#?}");
}

fn metrics_named_in(text: &str) -> BTreeSet<String> {
    let part = |character: char| !(character.is_ascii_alphanumeric() || character == '_');
    text.split(part)
        .filter(|word| word.starts_with("quota_gate_") || word.starts_with("envoy_"))
        .filter(|word| !LABELS.contains(word))
        .map(str::to_owned)
        .collect()
}

fn the_alerts_that_fire_are_those_that_the_outage_deserves(seen: &Rehearsal) {
    let firing = range(seen, "ALERTS{alertstate=\"firing\"}");
    let names: BTreeSet<&str> = firing
        .iter()
        .filter_map(|series| series.labels["alertname"].as_str())
        .collect();
    assert_eq!(names, BTreeSet::from(DESERVED));
}

fn the_other_backend_is_left_out_of_it(seen: &Rehearsal) {
    let firing = range(seen, "ALERTS{backend=\"ledger\"}");
    assert!(firing.is_empty(), "{firing:?}");
}

/// Labels of Envoy's, which look like metrics.
const LABELS: [&str; 1] = ["envoy_http_conn_manager_prefix"];

/// What only a mistake of the operator makes appear.
const UNPROVOKED: [&str; 1] = ["quota_gate_route_metadata_errors"];
