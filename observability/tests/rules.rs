//! Promise: each alert fires when it should and keeps still when it should; promtool judges.

use std::process::Command;

use quota_gate_observability::folder;
use quota_gate_observability::prometheus::program;

fn promtool(arguments: &[&str]) -> String {
    let output = Command::new(program("QUOTA_GATE_PROMTOOL").unwrap())
        .current_dir(folder())
        .args(arguments)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "promtool {arguments:?}:\n{text}");
    text
}

#[test]
fn the_rules_are_well_formed() {
    let said = promtool(&["check", "rules", "alerts.yaml"]);
    assert!(said.contains("11 rules found"), "{said}");
}

#[test]
fn each_alert_fires_in_its_case_only() {
    promtool(&["test", "rules", "alerts_test.yaml"]);
}

#[test]
fn each_alert_has_a_case() {
    let read = |file: &str| std::fs::read_to_string(folder().join(file)).unwrap();
    let (rules, cases) = (read("alerts.yaml"), read("alerts_test.yaml"));
    let names: Vec<&str> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    assert_eq!(names.len(), 11);
    for name in names {
        let fires = cases.split("alertname: ").any(|case| {
            let own = case.lines().next() == Some(name);
            own && case.contains("exp_labels")
        });
        assert!(fires, "no case in alerts_test.yaml in which {name} fires");
    }
}
