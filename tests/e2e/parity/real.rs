//! A script on a real Envoy with one worker.

use std::collections::BTreeMap;
use std::time::Duration;

use envoy_harness::eventually::eventually;
use envoy_harness::{Check, Cluster, Fault, Pending, Push, Request, Response, Rig};
use serde_json::{Value, json};

use super::script::{Asked, Mood, STATUS_PATH, Script, Step};
use super::seen::{Call, Run, Seen, is_ours, matters, timeless, told, without_ms};
use crate::gated::{Gated, start};

/// Runs a script; `settled` says when the end of the run is as it should be, or nobody cares.
pub(crate) fn run(script: &Script, settled: impl Fn(&Run) -> bool) -> Run {
    let outside = json!({"cidr_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 8}]});
    let rig = start(
        Rig::builder()
            .backend_cluster(&script.cluster)
            .plugin(script.config.clone())
            .cluster(Cluster::new("nobody"))
            .cluster(Cluster::new("full").at_most(0, 0).dns("localhost", 80))
            .hcm(&json!({
                "internal_address_config": outside,
                "preserve_external_request_id": true,
            }))
            .ecds(),
    );
    rig.envoy().expect_log_line("quota_gate: configuration ");
    let mut world = World {
        rig,
        run: Run::default(),
        looks: 0,
    };
    world.set(&Mood::status(200));
    for (number, step) in script.steps.iter().enumerate() {
        world.step(number, step);
    }
    world.finish(settled)
}

struct World {
    rig: Gated,
    run: Run,
    /// At the status page; they are counted like requests, and are none of the script's.
    looks: u64,
}

impl World {
    fn step(&mut self, number: usize, step: &Step) {
        match step {
            Step::Backend(mood) => self.set(mood),
            Step::Push(config, good) => self.push(number, config, *good),
            Step::Request(asked) => {
                let response = self.request(number, 0, asked).send();
                self.note(number, &[Some(response)]);
            }
            Step::Joined(asked, count) => {
                let mut pending = vec![self.request(number, 0, asked).start()];
                let asked_once = || (!self.rig.backend().checks().is_empty()).then_some(());
                eventually("the first of them is checked", asked_once);
                pending.extend((1..*count).map(|place| self.request(number, place, asked).start()));
                let responses: Vec<_> = pending.into_iter().map(Pending::wait).map(Some).collect();
                self.note(number, &responses);
            }
            Step::Leave(asked) => {
                let pending = self.request(number, 0, asked).start();
                self.rig.backend().expect_checks(1);
                pending.abandon();
                self.note(number, &[None]);
                self.rig.envoy().expect_metric("quota_gate_pending", &[], 0);
            }
            Step::Until(state) => {
                let backend = [("backend", "quota")];
                self.rig
                    .envoy()
                    .expect_metric("quota_gate_breaker_state", &backend, *state);
            }
        }
    }

    /// What the worker goes by, as its status page tells.
    fn fingerprint(&mut self) -> String {
        self.looks += 1;
        let page = self.rig.get(STATUS_PATH).json();
        page["configuration"].to_string()
    }

    /// The main thread takes a configuration first, the worker a moment later.
    fn push(&mut self, number: usize, config: &Value, good: bool) {
        let before = self.fingerprint();
        let accepted = self.rig.push_config(config) == Push::Accepted;
        assert_eq!(accepted, good, "the push of step {number}");
        if good {
            let now = eventually("the worker has it", || {
                Some(self.fingerprint()).filter(|now| *now != before)
            });
            // The first tick tells of it, and of its emergency.
            let line = format!("quota_gate: configuration {}", now.trim_matches('"'));
            self.rig.envoy().expect_log_line(&line);
        }
    }

    fn set(&self, mood: &Mood) {
        let backend = self.rig.backend();
        backend.recover();
        let fault = match mood {
            // The cluster's own bound ends the call.
            Mood::Brief | Mood::Hang => Fault::Hang,
            Mood::Close => Fault::CloseBeforeHeaders,
            Mood::Garbage => Fault::Garbage,
            Mood::Huge => Fault::HugeBody,
            Mood::Informational => Fault::Informational,
            Mood::Late(millis) => Fault::Delay(Duration::from_millis(*millis)),
            Mood::Refuse => Fault::Refuse,
            Mood::Reset => Fault::ResetBeforeHeaders,
            Mood::ResetMidBody => Fault::ResetMidBody,
            Mood::Says(status, fields, body) => {
                Fault::Answer(*status, fields.clone(), body.clone().into_bytes())
            }
            Mood::Stall => Fault::StallMidBody,
            Mood::WrongVersion => Fault::WrongHttpVersion,
        };
        backend.fail(fault);
    }

    fn request(&self, number: usize, place: usize, asked: &Asked) -> Request {
        let mut request = self
            .rig
            .request(asked.method, &asked.path)
            .host("api.example.com")
            .header("x-request-id", format!("parity-{number}-{place}"));
        for (name, value) in &asked.headers {
            request = request.header(name, value);
        }
        if asked.grpc {
            request = request.h2();
        }
        match asked.body {
            Some(bytes) => request.body(vec![0; bytes]),
            None => request,
        }
    }

    /// Notes what came of the requests of a step.
    fn note(&mut self, number: usize, responses: &[Option<Response>]) {
        let upstream = self.rig.upstream().take();
        let mut calls: Vec<Call> = self.rig.backend().take().iter().map(call).collect();
        for (place, response) in responses.iter().enumerate() {
            let id = format!("parity-{number}-{place}");
            let entry = eventually("it is in the access log", || {
                let log = self.rig.envoy().access_log();
                log.into_iter().find(|entry| entry.request_id == id)
            });
            let passed = upstream
                .iter()
                .find(|seen| seen.header_values("x-request-id") == [id.as_str()]);
            let mut seen = Seen {
                state: without_ms(&entry.state),
                told: passed
                    .map(|seen| seen.header_values("x-quota-decision"))
                    .unwrap_or_default(),
                calls: std::mem::take(&mut calls),
                ..Seen::default()
            };
            if let Some(response) = response {
                answered(
                    &mut seen,
                    response,
                    entry.details.starts_with("quota_gate_"),
                );
                if passed.is_none() {
                    seen.details = entry.details.clone();
                }
            }
            self.run.seen.push(seen);
        }
    }

    fn finish(mut self, settled: impl Fn(&Run) -> bool) -> Run {
        let last = envoy_harness::eventually::within(SETTLES, || {
            let stats = self
                .rig
                .envoy()
                .admin_get("/stats?filter=quota_gate")
                .text();
            self.run.metrics = stats.lines().filter_map(metric).collect();
            if let Some(unchecked) = self.run.metrics.get_mut(UNCHECKED) {
                *unchecked = unchecked.saturating_sub(self.looks);
            }
            self.run.metrics.retain(|_, value| *value > 0);
            let lines = self.rig.envoy().log_lines("wasm log");
            let texts = lines.iter().filter_map(|line| line.split_once(": "));
            self.run.log = texts.filter_map(|(_, text)| told(text)).collect();
            settled(&self.run).then_some(())
        });
        // Whether it has settled is for the comparison to say.
        let _ = last;
        self.run
    }
}

fn answered(seen: &mut Seen, response: &Response, own: bool) {
    seen.status = response.status;
    for (name, _) in response.headers.iter().filter(|(name, _)| matters(name)) {
        seen.headers
            .insert(name.clone(), response.header_values(name));
    }
    if own {
        seen.grpc = response.grpc_status().map(|status| status.to_string());
        if seen.grpc.is_none() {
            seen.body = timeless(&response.body);
        }
    }
}

fn call(check: &Check) -> Call {
    let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, _) in check.headers.iter().filter(|(name, _)| is_ours(name)) {
        headers.insert(name.clone(), check.header_values(name));
    }
    Call {
        line: format!("{} {}", check.method, check.path),
        headers,
        body: check.text(),
    }
}

/// A counter or a gauge that is not 0, by the name that the module gave it.
fn metric(line: &str) -> Option<(String, u64)> {
    let (name, value) = line.strip_prefix("wasmcustom.")?.split_once(": ")?;
    let value: u64 = value.parse().ok()?;
    (value > 0).then(|| (name.to_owned(), value))
}

/// How looks at the status page are counted.
const UNCHECKED: &str = "quota_gate.requests.policy.off.decision.allow.reason.bypassed";

/// Metrics and log are complete a few ticks after the last request; after a push, when the module
/// takes the replaced root for one that is over.
const SETTLES: Duration = Duration::from_secs(10);
