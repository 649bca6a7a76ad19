//! Puts the phases in place: faults, endpoints and configurations, as the requests are sent.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result};
use envoy_harness::eventually::{PATIENCE, within};
use envoy_harness::{Backend, Cluster, Endpoints, Fault, Push, Rig, Route};
use serde_json::json;

use crate::plan::{Ends, PHASE, Phase, Weather};
use crate::plugin::configuration;
use crate::timeline::{Entry, Timeline};
use crate::traffic::FEW;

/// Everything that takes part.
pub(crate) struct Stage {
    pub(crate) rig: Rig,
    pub(crate) backends: [Backend; 2],
    endpoints: [Endpoints; 2],
    /// Its port is closed, and stays taken: nobody answers there.
    nobody: Backend,
    pub(crate) timeline: Arc<Mutex<Timeline>>,
    pub(crate) troubles: Arc<Mutex<Vec<String>>>,
}

impl Stage {
    /// Starts Envoy with two workers and the configuration of the first phase.
    pub(crate) fn set(seed: u64, first: u64) -> Result<Self> {
        let backends = [Backend::start()?, Backend::start()?];
        for backend in &backends {
            for number in 0..FEW {
                let (over, bad) = (
                    format!("tenant=over-{number}"),
                    format!("tenant=bad-{number}"),
                );
                backend.limit(&over, 0, Duration::from_secs(60));
                backend.reject_key(&bad, if number % 2 == 0 { 401 } else { 403 });
            }
        }
        let endpoints = |name, backend: &Backend| Endpoints::new(name, &[backend.address()]);
        let endpoints = [
            endpoints("first", &backends[0])?,
            endpoints("second", &backends[1])?,
        ];
        let nobody = Backend::start()?;
        nobody.fail(Fault::Refuse);
        let variant = Phase::new(seed, first / PHASE).variant;
        // What is here for nobody else: the clients are on this machine, and yet from outside.
        let outside = json!({"cidr_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 8}]});
        let rig = Rig::builder()
            .concurrency(2)
            .ecds()
            .plugin(configuration(variant, seed, first, now()))
            .cluster(Cluster::new("first").endpoints_from(&endpoints[0]))
            .cluster(Cluster::new("second").endpoints_from(&endpoints[1]).http2())
            .route(Route::prefix("/meta").quota(json!({"policy": "open", "timeout": "30ms"})))
            .route(Route::prefix("/astray").quota(json!({"policy": "nobody"})))
            // A worker that is not scheduled for long must not make the kernel drop connections.
            .listener(&json!({"tcp_backlog_size": 4096}))
            .hcm(&json!({
                "internal_address_config": outside,
                "preserve_external_request_id": true,
            }))
            .try_start()?;
        let loaded = || rig.envoy().log_lines("quota_gate: configuration ").pop();
        within(PATIENCE, loaded).context("Envoy does not take the first configuration")?;
        Ok(Self {
            rig,
            backends,
            endpoints,
            nobody,
            timeline: Arc::default(),
            troubles: Arc::default(),
        })
    }
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs())
}

/// Puts one phase after the other in place.
pub(crate) struct Director<'a> {
    stage: &'a Stage,
    seed: u64,
    next: u64,
    first: u64,
    ends: [Ends; 2],
}

impl<'a> Director<'a> {
    /// The first phase is in place when this returns.
    pub(crate) fn new(stage: &'a Stage, seed: u64, first: u64) -> Result<Self> {
        let first = first / PHASE;
        let mut director = Self {
            stage,
            seed,
            next: first,
            first,
            ends: [Ends::Backend; 2],
        };
        director.apply(Phase::new(seed, first))?;
        Ok(director)
    }

    /// The request of this number is about to be sent: its phase is put in place.
    pub(crate) fn keep_up(&mut self, request: u64) {
        // A machine that is too slow for each phase gets the last one that is due.
        let due = (request / PHASE).min(self.next + 1);
        if request / PHASE < self.next || due < self.next {
            return;
        }
        while self.next <= request / PHASE {
            if let Err(error) = self.apply(Phase::new(self.seed, self.next)) {
                self.trouble(format!("phase {}: {error:#}", self.next));
            }
        }
    }

    /// Everything is well again.
    pub(crate) fn end(&mut self) {
        let well = Weather {
            fault: None,
            ends: Ends::Backend,
        };
        for index in 0..self.stage.backends.len() {
            if let Err(error) = self.set_backend(index, &well) {
                self.trouble(format!("at the end: {error:#}"));
            }
        }
    }

    fn apply(&mut self, phase: Phase) -> Result<()> {
        let from = Instant::now();
        self.next = phase.number + 1;
        for (index, weather) in phase.weather.iter().enumerate() {
            self.set_backend(index, weather)?;
        }
        if phase.push && phase.number > self.first {
            let plugin = configuration(phase.variant, self.seed, phase.number, now());
            if let Push::Rejected(log) = self.stage.rig.push_config(&plugin) {
                self.trouble(format!("a configuration was refused: {log}"));
            }
        }
        let entry = Entry {
            phase,
            from,
            done: Instant::now(),
        };
        let mut timeline = self
            .stage
            .timeline
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        timeline.0.push(entry);
        Ok(())
    }

    fn set_backend(&mut self, index: usize, weather: &Weather) -> Result<()> {
        let backend = &self.stage.backends[index];
        backend.recover();
        match &weather.fault {
            // A few of these are enough: each is 34 MB that Envoy has to take.
            Some(Fault::HugeBody) => drop(backend.fail_next(2, Fault::HugeBody)),
            Some(fault) => drop(backend.fail(fault.clone())),
            None => {}
        }
        if self.ends[index] != weather.ends {
            let (own, nobody) = (backend.address(), self.stage.nobody.address());
            let endpoints: &[SocketAddr] = match weather.ends {
                Ends::Backend => &[own],
                Ends::BackendAndNobody => &[own, nobody],
                Ends::None => &[],
                Ends::Nobody => &[nobody],
            };
            self.stage.endpoints[index].set(endpoints)?;
            self.ends[index] = weather.ends;
        }
        Ok(())
    }

    fn trouble(&self, what: String) {
        let mut troubles = self
            .stage
            .troubles
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        troubles.push(what);
    }
}
