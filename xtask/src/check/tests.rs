//! Planted mistakes, each found in one run at its line; nothing found in what is shipped.

use std::path::{Path, PathBuf};

use super::finding::{Finding, Severity};
use super::survey::of_text;
use super::{Survey, survey};
use crate::paths;

fn mistakes(name: &str) -> Survey {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/check/mistakes");
    survey(&folder.join(name)).unwrap()
}

fn manifest(name: &str) -> PathBuf {
    paths::root().join("envoy/manifests").join(name)
}

fn lines(survey: &Survey) -> Vec<(usize, &str)> {
    let line = |found: &Finding| survey.sources.line(&found.place).0;
    let found = survey.findings.iter();
    found
        .map(|found| (line(found), found.rule.as_str()))
        .collect()
}

fn of(text: &str) -> Survey {
    of_text(Path::new("file"), text.to_owned()).unwrap()
}

/// The findings as they are printed, without the trailing empty line.
fn printed(survey: &Survey) -> String {
    survey
        .sources
        .to_text(&survey.findings)
        .trim_end()
        .to_owned()
}

#[test]
fn sixteen_mistakes_in_a_plugin_configuration_are_found_at_their_lines() {
    assert_eq!(
        lines(&mistakes("plugin.json")),
        [
            (5, "unknown-key"),
            (6, "not-supported"),
            (7, "wrong-type"),
            (8, "forbidden"),
            (9, "conflict"),
            (14, "not-found"),
            (16, "not-supported"),
            (18, "missing"),
            (21, "above-budget"),
            (23, "missing"),
            (25, "out-of-range"),
            (27, "out-of-range"),
            (31, "not-found"),
            (32, "duplicate"),
            (36, "missing"),
            (36, "malformed"),
        ]
    );
}

#[test]
fn eighteen_mistakes_in_a_bootstrap_are_found_at_their_lines() {
    assert_eq!(
        lines(&mistakes("bootstrap.yaml")),
        [
            (9, "host-budget"),
            (10, "host-budget"),
            (11, "host-budget"),
            (24, "host-budget"),
            (29, "host-budget"),
            (31, "route-metadata"),
            (37, "route-metadata"),
            (38, "route-metadata"),
            (39, "route-metadata"),
            (42, "route-metadata"),
            (48, "per-route-config"),
            (55, "fail-open-vm"),
            (56, "stop-iteration"),
            (58, "capabilities"),
            (68, "cluster-missing"),
            (75, "unknown-key"),
            (84, "connect-timeout"),
            (86, "stats-tags"),
        ]
    );
}

#[test]
fn twelve_mistakes_in_istios_resources_are_found_at_their_lines() {
    assert_eq!(
        lines(&mistakes("istio.yaml")),
        [
            (6, "fail-open-vm"),
            (10, "cluster-missing"),
            (11, "unknown-key"),
            (13, "cluster-missing"),
            (18, "missing"),
            (19, "unknown-key"),
            (21, "wrong-type"),
            (22, "not-found"),
            (40, "connect-timeout"),
            (53, "route-metadata"),
            (60, "route-metadata"),
            (68, "host-budget"),
        ]
    );
}

#[test]
fn six_mistakes_in_envoy_gateways_resources_are_found_at_their_lines() {
    assert_eq!(
        lines(&mistakes("gateway.yaml")),
        [
            (7, "fail-open-vm"),
            (11, "cluster-missing"),
            (18, "not-supported"),
            (29, "stats-tags"),
            (32, "connect-timeout"),
            (39, "host-budget"),
        ]
    );
}

#[test]
fn nothing_is_found_in_the_shipped_manifests() {
    let folder = std::fs::read_dir(paths::root().join("envoy/manifests")).unwrap();
    let mut names: Vec<_> = folder.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();

    let shipped = [
        "envoy-gateway.yaml",
        "full-ecds.yaml",
        "full.yaml",
        "istio.yaml",
        "llm.yaml",
        "minimal.yaml",
    ];
    assert_eq!(names, shipped);
    for name in shipped {
        let survey = survey(&manifest(name)).unwrap();
        assert_eq!(printed(&survey), "", "{name}");
    }
}

#[test]
fn a_bootstrap_that_says_nothing_of_stats_is_told_of_the_labels() {
    let text = std::fs::read_to_string(manifest("minimal.yaml")).unwrap();
    let (unlabelled, _) = text.split_once("stats_config:\n").unwrap();
    let survey = of(unlabelled);

    assert_eq!(lines(&survey), [(21, "stats-tags")]);
    assert_eq!(survey.findings[0].severity, Severity::Warning);
}

#[test]
fn a_misspelt_key_reads_like_a_compilers_error() {
    let survey = of(concat!(
        "{\"backends\": {\"b\": {\"cluster\": \"c\"}},\n",
        " \"policies\": {},\n",
        " \"default_polcy\": \"off\", \"default_policy\": \"off\",\n",
        " \"host_budget\": \"1s\"}\n"
    ));

    assert_eq!(
        printed(&survey),
        "\
error[unknown-key]: unknown key: did you mean `default_policy`?
  ┌─ file:3:2
  │
3 │  \"default_polcy\": \"off\", \"default_policy\": \"off\",
  │  ^^^^^^^^^^^^^^^ default_polcy
  │
  = help: write `default_policy`"
    );
}

#[test]
fn a_budget_that_the_host_cuts_off_shows_both_places() {
    let text = std::fs::read_to_string(manifest("minimal.yaml")).unwrap();
    let text = text.replace(
        "stat_prefix: http\n",
        "stat_prefix: http\n          stream_idle_timeout: 0.5s\n",
    );
    let mut survey = of(&text);
    survey.findings.retain(|found| found.rule == "host-budget");

    assert_eq!(
        printed(&survey),
        "\
error[host-budget]: host_budget of 1s is not below stream_idle_timeout of 500ms
   ┌─ file:14:32
   │
14 │           stream_idle_timeout: 0.5s
   │                                ^^^^ static_resources.listeners[0].filter_chains[0]\
.filters[0].typed_config.stream_idle_timeout
   ·
44 │                       \"host_budget\": \"1s\"
   │                                      ---- the budget
   │
   = help: raise stream_idle_timeout, or lower host_budget: else the host answers 504 while a \
request waits"
    );
}

#[test]
fn the_default_of_five_minutes_binds_where_nothing_is_said() {
    let text = std::fs::read_to_string(manifest("minimal.yaml")).unwrap();
    let text = text.replace("\"host_budget\": \"1s\"", "\"host_budget\": \"5m\"");
    let survey = of(&text);

    assert!(
        lines(&survey).contains(&(43, "host-budget")),
        "{survey:?}",
        survey = lines(&survey)
    );
}

#[test]
fn a_backends_headers_are_starred_out() {
    let text = printed(&mistakes("plugin.json"));

    assert!(!text.contains("s3cret"), "{text}");
    assert!(
        text.contains("\"headers\": {\"authorization\": ****"),
        "{text}"
    );
}

#[test]
fn a_configuration_that_is_not_json_is_told_with_its_line_in_the_outer_file() {
    let text = std::fs::read_to_string(manifest("minimal.yaml")).unwrap();
    let survey = of(&text.replace(
        "\"failure_mode\": \"fail_closed\"",
        "\"failure_mode\": oops",
    ));

    assert!(lines(&survey).contains(&(39, "unreadable")));
    // Its place is in the file, and the words name no other.
    assert!(!printed(&survey).contains("at line"));
}

#[test]
fn what_yaml_takes_but_json_does_not_is_told_where_it_stands() {
    let survey = of("{\"host_budget\": \"1s\",\n \"default_policy\": \"off\",}\n");

    assert_eq!(lines(&survey), [(2, "unreadable")]);
}

#[test]
fn a_text_that_nobody_can_read_is_not_shown() {
    let text = std::fs::read_to_string(manifest("minimal.yaml")).unwrap();
    let mut survey = of(&text.replace("{\"cluster\": \"quota-backend\"}", "{\"s3cret\": ]}"));
    survey.findings.retain(|found| found.rule == "unreadable");

    assert_eq!(survey.findings.len(), 1);
    assert!(!printed(&survey).contains("s3cret"));
}

#[test]
fn two_plugins_may_name_their_backends_alike() {
    let text = std::fs::read_to_string(manifest("minimal.yaml")).unwrap();
    let (before, rest) = text.split_once("  - name: http\n").unwrap();
    let (listener, after) = rest.split_once("  clusters:\n").unwrap();
    let text = format!(
        "{before}  - name: http\n{listener}  - name: other\n{listener}  clusters:\n{after}"
    );
    let survey = of(&text);

    assert_eq!(survey.plugins.len(), 2);
    assert_eq!(printed(&survey), "");
}

#[test]
fn a_file_without_a_configuration_can_not_be_judged() {
    let refused = |text: &str| {
        let refused = of_text(Path::new("file"), text.to_owned());
        refused
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    };

    assert!(refused("a: 1\n").starts_with("file: no configuration of quota-gate in it"));
    assert!(refused("a: [\n").starts_with("file:2:1: neither YAML nor JSON"));
}

#[test]
fn the_labels_are_those_of_the_published_rules() {
    let published = std::fs::read_to_string(paths::root().join("envoy/stats_tags.yaml")).unwrap();
    let tags = published
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- tag_name: "));

    assert!(tags.eq(super::envoy::TAGS));
}

#[test]
fn machines_get_the_same_findings() {
    let survey = mistakes("gateway.yaml");
    let json = survey.sources.to_json(&survey.findings);

    assert_eq!((&json["errors"], &json["warnings"]), (&5.into(), &1.into()));
    let first = &json["findings"][0];
    assert_eq!(first["line"], 7);
    assert_eq!(first["column"], 15);
    assert_eq!(first["end_column"], 19);
    assert_eq!(first["severity"], "error");
    assert_eq!(first["path"], "spec.wasm[0].failOpen");
}
