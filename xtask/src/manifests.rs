//! What users copy is held to the code: every plugin configuration in a manifest or in the README
//! is one that the filter takes.

use std::fs;

use quota_gate::decision::{AllowReason, CheckError, DenyReason};
use serde::Deserialize;
use serde_json::Value;

use crate::paths;

pub(crate) fn read(file: &str) -> String {
    fs::read_to_string(paths::root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The documents of a YAML text.
pub(crate) fn documents(text: &str) -> Vec<Value> {
    serde_yaml_ng::Deserializer::from_str(text)
        .map(|document| Value::deserialize(document).expect("YAML"))
        .collect()
}

/// The plugin configurations in a manifest: what stands in a StringValue, a WasmPlugin's
/// `pluginConfig`, an EnvoyExtensionPolicy's `config`.
fn configurations(value: &Value, found: &mut Vec<String>) {
    let string_value = "type.googleapis.com/google.protobuf.StringValue";
    match value {
        Value::Object(fields) => {
            if fields.get("@type").and_then(Value::as_str) == Some(string_value) {
                found.extend(fields["value"].as_str().map(str::to_owned));
            }
            for (key, inner) in fields {
                let ours = inner.get("host_budget").is_some();
                if ours && (key == "pluginConfig" || key == "config") {
                    found.push(inner.to_string());
                }
                configurations(inner, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| configurations(item, found)),
        _ => {}
    }
}

/// The blocks of a Markdown text that are fenced as `language`.
pub(crate) fn fenced(text: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    let blocks = text.split(&fence).skip(1);
    blocks
        .map(|block| block.split("```").next().unwrap_or_default().to_owned())
        .collect()
}

fn assert_taken(whose: &str, configuration: &str) {
    if let Err(problems) = quota_gate::config::parse::parse(configuration.as_bytes()) {
        let problems: Vec<String> = problems.lines().collect();
        panic!("{whose}: {problems:#?}\n{configuration}");
    }
}

#[test]
fn every_plugin_configuration_in_a_manifest_is_one_that_the_filter_takes() {
    let manifests = [
        "minimal.yaml",
        "full-ecds.yaml",
        "llm.yaml",
        "istio.yaml",
        "envoy-gateway.yaml",
    ];
    for name in manifests {
        let text = read(&format!("envoy/manifests/{name}"));
        let mut found = Vec::new();
        for document in documents(&text) {
            configurations(&document, &mut found);
        }
        assert_eq!(found.len(), 1, "configurations in {name}");
        for configuration in found {
            assert_taken(name, &configuration);
        }
    }
}

#[test]
fn the_readme_shows_the_minimal_bootstrap_as_it_is_tested() {
    let minimal = read("envoy/manifests/minimal.yaml");
    let (shown, labels) = minimal
        .split_once(
            "# Labels for the metrics, as dashboard and alerts expect them (stats_tags.yaml).\n",
        )
        .expect("the labels");
    assert!(fenced(&read("README.md"), "yaml").contains(&shown.to_owned()));
    assert!(read("envoy/stats_tags.yaml").ends_with(&format!("\n{labels}")));
}

#[test]
fn every_promise_of_the_readme_has_its_tests() {
    let readme = read("README.md");
    let (_, table) = readme.split_once("| promise | |\n").expect("the promises");
    let rows = table
        .lines()
        .skip(1)
        .map_while(|line| line.strip_prefix("| `"));
    let promises: Vec<&str> = rows.filter_map(|row| row.split('`').next()).collect();
    assert!((5..=10).contains(&promises.len()), "{promises:?}");
    for promise in promises {
        read(&format!("tests/e2e/{promise}.rs"));
    }
}

#[test]
fn the_readme_names_every_reason_and_every_cause() {
    let readme = read("README.md");
    let reasons = AllowReason::ALL.map(AllowReason::code).into_iter();
    let reasons = reasons.chain(DenyReason::ALL.map(DenyReason::code));
    for code in reasons.chain(CheckError::ALL.map(CheckError::code)) {
        assert!(
            readme.contains(&format!("`{code}`")),
            "README.md names {code}"
        );
    }
}

#[test]
fn the_list_for_capability_restriction_is_the_modules_interface() {
    let security = read("docs/security.md");
    for line in read("xtask/module-interface.txt").lines() {
        let (_, name) = line.split_once(' ').expect("a kind and a name");
        let name = name.trim_start_matches("env.");
        // Memory and start-up are no capabilities.
        if !name.starts_with("proxy_") || name.starts_with("proxy_abi_version") {
            continue;
        }
        if name == "proxy_on_memory_allocate" {
            continue;
        }
        assert!(
            security.contains(&format!(" {name}: {{}}\n")),
            "docs/security.md lists {name}"
        );
    }
}

#[test]
fn the_page_shows_the_example_server_as_it_is_tested() {
    let example = read("examples/quota_server.py");
    assert_eq!(fenced(&read("docs/backends.md"), "python"), [example]);
}

#[test]
fn the_page_has_a_configuration_for_every_preset() {
    let page = read("docs/backends.md");
    let configurations = fenced(&page, "json").join("");
    // `headers` is what a backend speaks that names no preset.
    for preset in [
        "custom",
        "envoy_ratelimit",
        "gubernator",
        "limitador",
        "throttlecrab",
        "unkey",
    ] {
        let said = format!("\"preset\": \"{preset}\"");
        assert!(configurations.contains(&said), "{preset}");
        assert!(page.contains(&format!("\n## {preset}\n")), "{preset}");
    }
}
