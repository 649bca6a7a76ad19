//! The pretend host can be trusted: the same scripts, run against the same module in it and in a
//! real Envoy, come out the same for the client, the upstream, the backend and the operator.
//!
//! Not compared is what depends on how fast a host is: times, and how many units a lease asks for.

mod pretend;
mod real;
mod script;
mod seen;

use pretend_host::Module;
use serde_json::{Value, json};

use crate::gated::{by_path, config};
use script::{Asked, Mood, Script, Step, generated};
use seen::Run;

/// Runs a script on both hosts, and compares.
#[track_caller]
fn agrees(what: &str, script: &Script) {
    let module = Module::from_env("cargo xtask test e2e").expect("the module");
    let pretend = pretend::run(&module, script);
    let settled = |real: &Run| real.metrics == pretend.metrics && real.log == pretend.log;
    let real = real::run(script, settled);
    let mut requests = real.seen.iter().zip(&pretend.seen).enumerate();
    if let Some((place, (real, pretend))) = requests.find(|(_, (real, own))| real != own) {
        panic!(
            "{what}: answer {place} differs\nreal: {real:#?}\npretend: {pretend:#?}\n{:#?}",
            script.steps
        );
    }
    assert_eq!(real.seen.len(), pretend.seen.len(), "{what}");
    assert_eq!(real.metrics, pretend.metrics, "{what}: the metrics");
    assert_eq!(real.log, pretend.log, "{what}: the log");
}

/// The scripts of some seeds.
fn seeds_agree(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        agrees(&format!("seed {seed}"), &generated(seed));
    }
}

#[test]
fn the_first_seeds_come_out_the_same_on_both_hosts() {
    seeds_agree(1..9);
}

#[test]
fn the_next_seeds_come_out_the_same_on_both_hosts() {
    seeds_agree(9..17);
}

#[test]
fn the_last_seeds_come_out_the_same_on_both_hosts() {
    seeds_agree(17..25);
}

/// A policy that fails open and one that fails closed.
fn open_and_closed(fields: &Value) -> Value {
    let mode = |mode: &str| {
        let mut all = fields.clone();
        all["failure_mode"] = json!(mode);
        all
    };
    by_path(&[
        ("/open", mode("fail_open")),
        ("/closed", mode("fail_closed")),
    ])
}

/// Each mood, met by both failure modes, and a good answer after it.
fn met_by_both(moods: Vec<Mood>) -> Vec<Step> {
    let mut steps = Vec::new();
    for mood in moods {
        for mood in [mood, Mood::status(200)] {
            steps.push(Step::Backend(mood));
            steps.push(Step::Request(Asked::get("/open", "acme")));
            steps.push(Step::Request(Asked::get("/closed", "acme").grpc()));
        }
    }
    steps
}

#[test]
fn every_answer_of_a_backend_is_taken_alike_on_both_hosts() {
    let twice = [
        ("retry-after", "1"),
        ("retry-after", "3600"),
        ("cache-control", "no-store"),
        ("cache-control", "max-age=60"),
    ];
    let huge = "h".repeat(70_000);
    let moods = vec![
        Mood::status(503),
        Mood::status(504),
        Mood::status(429),
        Mood::status(401),
        Mood::status(403),
        Mood::says(200, &[("x-envoy-upstream-service-time", "999")], ""),
        Mood::says(200, &twice, "body"),
        Mood::says(429, &twice, "body"),
        Mood::says(200, &[("x-huge", &huge)], ""),
        Mood::Informational,
    ];
    let fields = json!({"timeout": "5s", "cache": {"deny_ttl": "0s"}});
    let script = Script::new(open_and_closed(&fields), met_by_both(moods));
    agrees("answers", &script);
}

#[test]
fn every_fault_of_the_connection_is_taken_alike_on_both_hosts() {
    let moods = vec![
        Mood::Close,
        Mood::Reset,
        Mood::Garbage,
        Mood::WrongVersion,
        Mood::Refuse,
        Mood::ResetMidBody,
        Mood::Hang,
        Mood::Late(400),
        Mood::Stall,
    ];
    let config = open_and_closed(&json!({"timeout": "200ms"}));
    agrees("faults", &Script::new(config, met_by_both(moods)));
}

#[test]
fn an_answer_that_is_too_large_is_taken_alike_on_both_hosts() {
    let config = open_and_closed(&json!({"timeout": "20s"}));
    agrees("huge", &Script::new(config, met_by_both(vec![Mood::Huge])));
}

#[test]
fn the_clusters_own_bound_is_taken_alike_on_both_hosts() {
    let config = open_and_closed(&json!({"timeout": "5s"}));
    let script = Script::new(config, met_by_both(vec![Mood::Brief]));
    agrees("max_stream_duration", &script.brief());
}

#[test]
fn what_the_host_refuses_is_taken_alike_on_both_hosts() {
    for cluster in ["no-such-cluster", "nobody", "full"] {
        let mut config = open_and_closed(&json!({"timeout": "5s"}));
        config["backends"]["quota"]["cluster"] = json!(cluster);
        let steps = met_by_both(vec![Mood::status(200)]);
        agrees(cluster, &Script::new(config, steps));
    }
}

#[test]
fn a_client_that_leaves_is_taken_alike_on_both_hosts() {
    let mut steps = Vec::new();
    for mood in [Mood::Late(300), Mood::Hang] {
        steps.extend([
            Step::Backend(mood),
            Step::Leave(Asked::get("/open", "acme")),
            Step::Leave(Asked::get("/closed", "acme").post(100)),
            Step::Backend(Mood::status(200)),
            Step::Request(Asked::get("/closed", "acme")),
        ]);
    }
    let config = open_and_closed(&json!({"timeout": "600ms"}));
    agrees("leaving", &Script::new(config, steps));
}

#[test]
fn joined_checks_are_made_alike_on_both_hosts() {
    let fields = json!({"timeout": "5s", "cache": {"allow_ttl": "60s"}});
    let steps = vec![
        Step::Backend(Mood::Late(400)),
        Step::Joined(Asked::get("/open", "acme"), 5),
        Step::Request(Asked::get("/open", "acme")),
        Step::Joined(Asked::get("/closed", "globex"), 3),
    ];
    agrees("joined", &Script::new(open_and_closed(&fields), steps));
}

#[test]
fn a_breaker_goes_round_alike_on_both_hosts() {
    let mut config = open_and_closed(&json!({"timeout": "5s"}));
    config["backends"]["quota"]["breaker"] = json!({
        "consecutive_failures": 3, "open_for": "500ms", "open_for_max": "500ms",
    });
    let ask = || Step::Request(Asked::get("/open", "acme"));
    let steps = vec![
        ask(),
        Step::Backend(Mood::status(500)),
        ask(),
        ask(),
        ask(),
        Step::Until(2),
        Step::Until(1),
        // The trial call fails: it is open again.
        ask(),
        Step::Until(2),
        Step::Until(1),
        Step::Backend(Mood::status(200)),
        ask(),
        Step::Until(0),
        ask(),
    ];
    agrees("breaker", &Script::new(config, steps));
}

#[test]
fn pushed_configurations_are_taken_alike_on_both_hosts() {
    let mode = |mode: &str, more: Value| {
        let mut all = config(&json!({"failure_mode": mode, "timeout": "5s"}));
        crate::gated::merge(&mut all, &more);
        all["status_path"] = json!(script::STATUS_PATH);
        all
    };
    let emergency = |mode: &str, until: &str| {
        let reason = "INC-1: parity";
        json!({"emergency": {"mode": mode, "until": until, "reason": reason}})
    };
    let (later, over) = ("2100-01-01T00:00:00Z", "2020-01-01T00:00:00Z");
    let closed = |more: Value| Step::Push(mode("fail_closed", more), true);
    let ask = || Step::Request(Asked::get("/x", "acme"));
    let steps = vec![
        Step::Backend(Mood::Refuse),
        ask(),
        Step::Push(mode("fail_open", json!({})), true),
        ask(),
        Step::Push(mode("fail_sideways", json!({})), false),
        ask(),
        closed(emergency("bypass", later)),
        ask(),
        closed(emergency("fail_open", later)),
        ask(),
        Step::Backend(Mood::status(429)),
        ask(),
        closed(emergency("bypass", over)),
        Step::Backend(Mood::Refuse),
        ask(),
    ];
    let first = mode("fail_closed", json!({}));
    agrees("pushes", &Script::new(first, steps));
}
