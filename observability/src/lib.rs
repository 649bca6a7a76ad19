//! What operators see of the filter: `dashboard.json` for Grafana and `alerts.yaml` for Prometheus,
//! and the rehearsal that proves them.
//!
//! A rehearsal is an hour of an operator's life in a minute: a real Envoy under load, a backend
//! that turns slow, then dies, an emergency, and a real Prometheus that scrapes all of it. Then
//! every query of the dashboard must have something to show, every alert that the outage deserves
//! must have fired, and no other.
//!
//! - `dashboard`: the panels of `dashboard.json`, and their queries for one time range
//! - `prometheus`: a Prometheus that scrapes an Envoy, with the rules in quick time
//! - `rehearsal`: the load, and what happens to it
//! - `picture`: the panels, drawn from what Prometheus has seen

pub mod dashboard;
pub mod picture;
pub mod prometheus;
pub mod rehearsal;

use std::path::PathBuf;

/// Where the dashboard and the rules are.
#[must_use]
pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
