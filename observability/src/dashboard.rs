//! The panels of `dashboard.json`, and their queries for one time range.

use std::fs;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::folder;

/// One chart of the dashboard.
#[derive(Clone, Debug)]
pub struct Panel {
    /// What stands above it.
    pub title: String,
    /// Grafana's name of its unit.
    pub unit: String,
    /// The end of its scale, where it has a fixed one.
    pub max: Option<f64>,
    /// What it shows.
    pub queries: Vec<Query>,
}

/// What a panel asks Prometheus.
#[derive(Clone, Debug)]
pub struct Query {
    /// PromQL, without Grafana's variables.
    pub expression: String,
    /// What each series is called: `{{label}}` stands for a label's value.
    pub legend: String,
}

/// Reads the panels, in their order. `window` stands for Grafana's rate interval (`10s`); all
/// policies and backends are chosen.
///
/// # Errors
/// The file is no dashboard.
pub fn panels(window: &str) -> Result<Vec<Panel>> {
    let path = folder().join("dashboard.json");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let dashboard: Value = serde_json::from_str(&text).context("dashboard.json")?;
    let panels = dashboard["panels"]
        .as_array()
        .context("dashboard.json has no panels")?;
    panels.iter().map(|panel| read(panel, window)).collect()
}

fn read(panel: &Value, window: &str) -> Result<Panel> {
    let title = panel["title"].as_str().context("a panel without a title")?;
    let targets = panel["targets"]
        .as_array()
        .with_context(|| format!("panel {title:?} has no targets"))?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let query = |target: &Value| Query {
        expression: text(&target["expr"])
            .replace("$__rate_interval", window)
            .replace("$policy", ".*")
            .replace("$backend", ".*"),
        legend: text(&target["legendFormat"]),
    };
    let defaults = &panel["fieldConfig"]["defaults"];
    Ok(Panel {
        title: title.to_owned(),
        unit: text(&defaults["unit"]),
        max: defaults["max"].as_f64(),
        queries: targets.iter().map(query).collect(),
    })
}

impl Query {
    /// What a series with these labels is called.
    #[must_use]
    pub fn name(&self, labels: &Value) -> String {
        let mut name = self.legend.clone();
        for (label, value) in labels.as_object().into_iter().flatten() {
            let value = value.as_str().unwrap_or_default();
            name = name.replace(&format!("{{{{{label}}}}}"), value);
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn no_variable_of_grafana_is_left_in_a_query() {
        for panel in panels("10s").unwrap() {
            assert!(!panel.queries.is_empty(), "{}", panel.title);
            for query in panel.queries {
                assert!(!query.expression.contains('$'), "{}", query.expression);
            }
        }
    }

    #[test]
    fn a_series_is_named_by_its_labels() {
        let query = Query {
            expression: String::new(),
            legend: "{{backend}} p99".into(),
        };

        assert_eq!(query.name(&json!({"backend": "quota"})), "quota p99");
    }
}
