//! The page `docs/backends.md`, whose configurations the tests run as they stand.

use serde_json::{Value, json};

use crate::gated::merge;

const PAGE: &str = include_str!("../../docs/backends.md");

/// The first configuration below the heading of that name.
#[track_caller]
pub(crate) fn configuration(heading: &str) -> Value {
    let section = PAGE
        .split("\n## ")
        .flat_map(|section| section.split("\n### "))
        .find(|section| section.lines().next() == Some(heading))
        .unwrap_or_else(|| panic!("no `{heading}` in docs/backends.md"));
    let block = section
        .split("```json\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next());
    let block = block.unwrap_or_else(|| panic!("no configuration below `{heading}`"));
    serde_json::from_str(block).expect("JSON")
}

/// The same for a busy machine and one answer after another: it waits long, no breaker opens, and
/// no denial is remembered. The backend's cluster is the rig's.
#[track_caller]
pub(crate) fn patient(heading: &str) -> Value {
    let mut config = configuration(heading);
    for (section, fields) in [
        (
            "backends",
            json!({"cluster": "quota-backend", "breaker": "off", "timeout": "5s"}),
        ),
        (
            "policies",
            json!({"timeout": "5s", "cache": {"deny_ttl": "0s"}}),
        ),
    ] {
        let items = config[section].as_object_mut().expect("an object");
        items.values_mut().for_each(|item| merge(item, &fields));
    }
    config["host_budget"] = json!("30s");
    config
}
