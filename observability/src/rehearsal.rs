//! The load, and what happens to it: an outage as operators know it, in quick time.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use envoy_harness::eventually::{PATIENCE, within};
use envoy_harness::{Fault, Protocol, Push, Rig};
use quota_gate::time::{Wall, rfc3339};
use serde_json::{Value, json};

use crate::prometheus::Prometheus;

/// What has happened, and the Prometheus that saw it.
pub struct Rehearsal {
    /// When it began, in seconds since 1970.
    pub start: f64,
    /// When it ended.
    pub end: f64,
    /// What happened in between, in order.
    pub acts: Vec<Act>,
    /// Requests that were answered.
    pub requests: u64,
    /// To be asked what it has seen.
    pub prometheus: Prometheus,
}

/// A stretch of time in which something is wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Act {
    /// What is wrong.
    pub what: &'static str,
    /// When it began, in seconds since 1970.
    pub start: f64,
    /// When it was over.
    pub end: f64,
}

impl Rehearsal {
    /// Runs one in about this time.
    ///
    /// # Errors
    /// Envoy or Prometheus can't be started, or a push is refused.
    pub fn run(length: Duration) -> Result<Self> {
        let rig = Rig::builder()
            .ecds()
            .backend(LEDGER)
            .plugin(configuration(None))
            .try_start()?;
        if within(PATIENCE, || {
            rig.envoy().log_lines("quota_gate: configuration ").pop()
        })
        .is_none()
        {
            bail!("Envoy does not take the filter:\n{}", rig.envoy().log());
        }
        rig.backend().limit("key=busy", 20, Duration::from_secs(10));
        rig.backend().reject_key("key=revoked", 401);
        let prometheus = Prometheus::start(rig.envoy().admin())?;
        let (stop, answered) = (AtomicBool::new(false), AtomicU64::new(0));
        let start = now();
        let acts = thread::scope(|scope| {
            for client in 0..CLIENTS {
                let (rig, stop, answered) = (&rig, &stop, &answered);
                scope.spawn(move || load(rig, client, stop, answered));
            }
            let acts = play(&rig, length);
            stop.store(true, Ordering::Relaxed);
            acts
        })?;
        // What came last is scraped, too.
        pause(Duration::from_secs(2));
        Ok(Self {
            start,
            end: now(),
            acts,
            requests: answered.into_inner(),
            prometheus,
        })
    }
}

/// A quarter of it is well, a fifth slow, then well again, a quarter dead, and well to the end.
fn play(rig: &Rig, length: Duration) -> Result<Vec<Act>> {
    let backend = rig.backend();
    let mut acts = Vec::new();
    pause(length.mul_f64(0.2));

    let slow = now();
    backend.fail(Fault::Delay(Duration::from_secs(1)));
    pause(length.mul_f64(0.2));
    backend.recover();
    acts.push(Act {
        what: "slow",
        start: slow,
        end: now(),
    });
    pause(length.mul_f64(0.2));

    let dead = now();
    backend.fail(Fault::Refuse);
    pause(length.mul_f64(0.1));
    let (emergency, lasts) = (now(), length.mul_f64(0.12));
    let until = (emergency + lasts.as_secs_f64()).ceil();
    push(rig, &configuration(Some(until)))?;
    pause(Duration::from_secs_f64((until - now()).max(0.0)));
    acts.push(Act {
        what: "emergency",
        start: emergency,
        end: now(),
    });
    pause(length.mul_f64(0.03));
    backend.recover();
    acts.push(Act {
        what: "dead",
        start: dead,
        end: now(),
    });
    pause(length.mul_f64(0.15));
    Ok(acts)
}

fn push(rig: &Rig, configuration: &Value) -> Result<()> {
    match rig.push_config(configuration) {
        Push::Accepted => Ok(()),
        refused => bail!("the push came to {refused:?}"),
    }
}

/// One client: it goes round the routes on a connection that it keeps.
fn load(rig: &Rig, client: usize, stop: &AtomicBool, answered: &AtomicU64) {
    let mut connection = rig.connect(Protocol::H1);
    for turn in (client..).step_by(3) {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let (path, key) = ROUND[turn % ROUND.len()];
        let request = connection.request("GET", path).header("x-api-key", key);
        match connection.send(request) {
            Ok(_response) => {
                answered.fetch_add(1, Ordering::Relaxed);
            }
            Err(_closed) => connection = rig.connect(Protocol::H1),
        }
        pause(BREATH);
    }
}

/// What is asked for in turn, and by whom.
const ROUND: &[(&str, &str)] = &[
    ("/catalog", "gold"),
    ("/events", "gold"),
    ("/payments", "gold"),
    ("/events", "gold"),
    ("/browse", "gold"),
    ("/search", "gold"),
    ("/events", "gold"),
    ("/partners", "busy"),
    ("/catalog", "busy"),
    ("/events", "gold"),
    ("/payments", "silver"),
    ("/browse", "silver"),
    ("/catalog", "revoked"),
    ("/healthz", "gold"),
];

fn configuration(emergency_until: Option<f64>) -> Value {
    let policy = |fields: Value| {
        let mut policy = json!({
            "backend": "quota",
            "descriptor": [{"name": "key", "header": "x-api-key"}],
            "timeout": "80ms",
        });
        for (key, value) in fields.as_object().into_iter().flatten() {
            policy[key] = value.clone();
        }
        policy
    };
    let route = |name: &str| json!({"match": {"path_prefix": format!("/{name}")}, "policy": name});
    let mut whole = json!({
        "backends": {
            "quota": {
                "cluster": "quota-backend",
                "breaker": {"open_for": "1s", "open_for_max": "4s"},
            },
            "ledger": {"cluster": LEDGER},
        },
        "policies": {
            "catalog": policy(json!({"failure_mode": "fail_open"})),
            "payments": policy(json!({"failure_mode": "fail_closed"})),
            "search": policy(json!({
                "failure_mode": "fail_local", "local_limit": {"units": 10, "per": "1s"},
            })),
            "browse": policy(json!({
                "failure_mode": "fail_closed",
                "cache": {"allow_ttl": "500ms", "stale_if_error": "3s"},
            })),
            "partners": policy(json!({"failure_mode": "fail_open", "enforcement": "shadow"})),
            "events": policy(json!({
                "backend": "ledger", "failure_mode": "fail_closed",
                "lease": {"max_units": 100, "ttl": "2s"},
            })),
        },
        "routes": [
            route("browse"), route("catalog"), route("events"), route("partners"), route("search"),
            {"match": {"path_prefix": "/healthz"}, "policy": "off"},
        ],
        "default_policy": "payments",
        "host_budget": "1s",
    });
    if let Some(until) = emergency_until {
        let until = rfc3339(Wall((until as u64).saturating_mul(1_000_000_000)));
        whole["emergency"] = json!({"mode": "fail_open", "until": until, "reason": "rehearsal"});
    }
    whole
}

/// Seconds since 1970.
fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}

/// The rehearsal takes its time: it is played before somebody who looks once a second.
fn pause(time: Duration) {
    let _nothing: Option<()> = within(time, || None);
}

/// A second backend, which stays well: one's outage is not the other's.
const LEDGER: &str = "ledger-backend";

/// Six of them ask a few hundred times a second.
const CLIENTS: usize = 6;

/// Between two requests of a client.
const BREATH: Duration = Duration::from_millis(12);
