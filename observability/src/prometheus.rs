//! A Prometheus that scrapes an Envoy each second, with the alert rules in quick time.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use envoy_harness::eventually::within;
use envoy_harness::{Port, Program, Request};
use serde_json::Value;
use tempfile::TempDir;

use crate::folder;

/// A running Prometheus; it ends when this is dropped.
pub struct Prometheus {
    process: Program,
    port: Port,
    _folder: TempDir,
}

/// A series as a range query tells it.
#[derive(Clone, Debug)]
pub struct Series {
    /// Its labels.
    pub labels: Value,
    /// Seconds since 1970, and the value.
    pub points: Vec<(f64, f64)>,
}

impl Prometheus {
    /// Starts one that scrapes `envoy`'s admin interface, with `alerts.yaml` in [`quick`] time.
    /// `QUOTA_GATE_PROMETHEUS` says which program to run.
    ///
    /// # Errors
    /// It can't be started, or does not get ready; the error carries its log.
    pub fn start(envoy: SocketAddr) -> Result<Self> {
        let place = tempfile::tempdir()?;
        let rules = fs::read_to_string(folder().join("alerts.yaml"))?;
        fs::write(place.path().join("alerts.yaml"), quick(&rules))?;
        let config = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\n\
             rule_files: [alerts.yaml]\n\
             scrape_configs:\n\
             - job_name: envoy\n  \
               metrics_path: /stats/prometheus\n  \
               static_configs: [{{targets: ['{envoy}']}}]\n"
        );
        fs::write(place.path().join("prometheus.yaml"), config)?;
        let port = Port::free()?;
        let mut command = Command::new(program("QUOTA_GATE_PROMETHEUS")?);
        command
            .current_dir(place.path())
            .args(["--config.file=prometheus.yaml", "--storage.tsdb.path=data"])
            .arg(format!("--web.listen-address={}", port.address()));
        let prometheus = Self {
            process: Program::start(command)?,
            port,
            _folder: place,
        };
        let ready = || prometheus.get("/-/ready").ok();
        if within(START, ready).is_none() {
            let output = prometheus.process.output();
            bail!("Prometheus does not get ready:\n{output}");
        }
        Ok(prometheus)
    }

    /// The series of a query from `start` to `end`, in seconds since 1970, a point each `step`.
    ///
    /// # Errors
    /// Prometheus can't be asked, or does not take the query.
    pub fn range(&self, query: &str, start: f64, end: f64, step: f64) -> Result<Vec<Series>> {
        let question = form_urlencoded::Serializer::new(String::new())
            .append_pair("query", query)
            .append_pair("start", &start.to_string())
            .append_pair("end", &end.to_string())
            .append_pair("step", &step.to_string())
            .finish();
        let reply = self
            .get(&format!("/api/v1/query_range?{question}"))
            .with_context(|| query.to_owned())?;
        let series = reply["data"]["result"].as_array().cloned();
        Ok(series
            .unwrap_or_default()
            .into_iter()
            .map(|mut series| Series {
                labels: series["metric"].take(),
                points: points(&series["values"]),
            })
            .collect())
    }

    /// The names of all metrics that it knows.
    ///
    /// # Errors
    /// Prometheus can't be asked.
    pub fn metric_names(&self) -> Result<Vec<String>> {
        let reply = self.get("/api/v1/label/__name__/values")?;
        let names = reply["data"].as_array().context("no list of names")?;
        Ok(names
            .iter()
            .filter_map(|name| name.as_str().map(str::to_owned))
            .collect())
    }

    /// The state of every alert rule: its name, and whether Prometheus could evaluate it.
    ///
    /// # Errors
    /// Prometheus can't be asked.
    pub fn rules(&self) -> Result<Vec<(String, String)>> {
        let reply = self.get("/api/v1/rules")?;
        let rules = reply["data"]["groups"][0]["rules"]
            .as_array()
            .context("no group of rules")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(rules
            .iter()
            .map(|rule| (text(&rule["name"]), text(&rule["health"])))
            .collect())
    }

    fn get(&self, path: &str) -> Result<Value> {
        let response = Request::new(self.port.address(), "GET", path).try_send()?;
        let body = response.text();
        if response.status != 200 {
            bail!("Prometheus answers {}: {body}", response.status);
        }
        Ok(serde_json::from_str(&body).unwrap_or(Value::Null))
    }
}

/// The rules with minutes made seconds: what takes an hour to fire takes a minute.
#[must_use]
pub fn quick(rules: &str) -> String {
    let mut quick = rules.to_owned();
    for (slow, fast) in [
        ("[1m]", "[2s]"),
        ("[5m]", "[5s]"),
        ("[10m]", "[10s]"),
        ("[15m]", "[15s]"),
        ("for: 2m", "for: 2s"),
        ("for: 5m", "for: 3s"),
        ("for: 10m", "for: 4s"),
        ("for: 4h", "for: 4m"),
    ] {
        quick = quick.replace(slow, fast);
    }
    quick
}

/// The program that an environment variable names.
///
/// # Errors
/// The variable is not set.
pub fn program(variable: &str) -> Result<PathBuf> {
    std::env::var_os(variable)
        .map(PathBuf::from)
        .with_context(|| format!("{variable} is not set; `cargo xtask` sets it"))
}

fn points(values: &Value) -> Vec<(f64, f64)> {
    let point = |point: &Value| {
        let value = point[1].as_str()?.parse().ok()?;
        Some((point[0].as_f64()?, value))
    };
    values
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(point)
        .collect()
}

/// Prometheus is ready in a second; a busy machine may need more.
const START: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_minute_is_left_in_quick_rules_but_that_of_the_forgotten_emergency() {
        let rules = fs::read_to_string(folder().join("alerts.yaml")).unwrap();

        let quick = quick(&rules);

        assert!(!quick.contains("m]"), "{quick}");
        let minutes: Vec<&str> = quick
            .lines()
            .filter(|line| line.trim_start().starts_with("for:") && !line.ends_with('s'))
            .collect();
        assert_eq!(minutes, ["    for: 4m"]);
    }
}
