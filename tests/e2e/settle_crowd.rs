//! Promise: the books are right to the unit, however many answers are open at once, and whatever
//! happens to the backend meanwhile.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use envoy_harness::eventually::{now, within};
use envoy_harness::{Fault, Pending, Request, Rig, RigBuilder, Route, llm};
use serde_json::{Value, json};

use crate::gated::{Gated, config, merge, start};
use crate::settle::{dropped, expect_charged};

/// Answers that are open at once; `QUOTA_GATE_SETTLE_REQUESTS` says otherwise.
fn size() -> usize {
    let size = std::env::var("QUOTA_GATE_SETTLE_REQUESTS").ok();
    size.and_then(|size| size.parse().ok()).unwrap_or(10_000)
}

/// Whether this Envoy extracts values from streams of events.
fn reads_streams() -> bool {
    envoy_harness::version() >= "1.38"
}

fn with_llm(mut builder: RigBuilder) -> RigBuilder {
    let [whole, streamed] = llm::filters();
    builder = builder.filter_after(whole);
    if reads_streams() {
        builder = builder.filter_after(streamed);
    }
    builder
}

/// A rig with two workers and a budget of LLM tokens, and no bound that a crowd meets; `fields` are
/// laid over the policy.
fn crowded(fields: &Value) -> Gated {
    let mut policy = json!({
        "settle": {"usage": [{"metadata": [llm::NAMESPACE, "total"]}], "every": "1s"},
        "cache": {"deny_ttl": "0s"},
        "timeout": "60s",
    });
    merge(&mut policy, fields);
    let mut config = config(&policy);
    config["host_budget"] = json!("70s");
    config["backends"]["quota"]["max_pending"] = json!(65_536);
    let most = json!({
        "max_connections": MANY, "max_requests": MANY, "max_pending_requests": MANY,
    });
    // Where everything waits for two cores, connecting takes its time as well.
    let breakers = json!({
        "circuit_breakers": {"thresholds": [most]},
        "connect_timeout": "30s",
    });
    let builder = Rig::builder()
        .concurrency(WORKERS)
        .plugin(config)
        .route(Route::prefix("/").timeout("0s"))
        // The workers get as many clients each.
        .listener(&json!({"connection_balance_config": {"exact_balance": {}}}))
        .hcm(&json!({"http2_protocol_options": {"max_concurrent_streams": MANY}}))
        .upstream_cluster(&breakers)
        .backend_http2()
        .backend_cluster(&breakers);
    start(with_llm(builder))
}

fn completion(rig: &Rig, tenant: &str, stream: bool) -> Request {
    rig.request("POST", llm::PATH)
        .h2()
        .header("x-tenant-id", tenant)
        .header("content-type", "application/json")
        .body(llm::request(20, 200, stream && reads_streams()))
        .deadline(PATIENCE)
}

/// `count` requests for a few tenants: every other one for a stream.
fn completions(rig: &Rig, count: usize) -> impl Iterator<Item = Request> {
    (0..count).map(|place| {
        let tenant = format!("t{}", place % TENANTS);
        completion(rig, &tenant, place.is_multiple_of(2))
    })
}

/// As `eventually`, with the patience that a crowd needs.
#[track_caller]
fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let waited = within(PATIENCE, || holds().then_some(()));
    assert!(waited.is_some(), "waited {PATIENCE:?} in vain: {what}");
}

#[track_caller]
fn expect_open(rig: &Rig, count: usize) {
    let open = || rig.upstream().open_answers();
    wait_until(&format!("{count} answers are open"), || open() == count);
}

#[track_caller]
fn expect_all_good(pending: Vec<Pending>) {
    for pending in pending {
        pending.wait().expect_status(200);
    }
}

/// The upstream's journal, as the backend names its descriptors.
fn journal(rig: &Rig) -> BTreeMap<String, i64> {
    let tokens = rig.upstream().tokens().into_iter();
    tokens
        .map(|(tenant, units)| (format!("tenant={tenant}"), units as i64))
        .collect()
}

/// Nothing waits to be told, nothing was dropped, and what is charged is what was used.
#[track_caller]
fn expect_equal_books(rig: &Rig) {
    let metric = |name| rig.envoy().metric(name, &[]) as u64;
    wait_until("everything is told or given up", || {
        let told: i64 = rig.backend().charged().values().sum();
        let used: i64 = journal(rig).values().sum();
        told + dropped(rig) as i64 == used && metric("quota_gate_settlements_pending") == 0
    });
    assert_eq!(rig.backend().charged(), journal(rig));
    assert_eq!(journal(rig).len(), TENANTS);
    assert_eq!(dropped(rig), 0);
}

/// Every worker had its share of the clients.
#[track_caller]
fn expect_all_workers(rig: &Rig) {
    let stats = rig
        .envoy()
        .admin_get("/stats?filter=worker_.*downstream_cx_total");
    let stats = stats.text();
    let counts = stats.lines().filter_map(|line| line.rsplit_once(": "));
    let share = (CONNECTIONS / WORKERS as usize).to_string();
    let equal = counts.filter(|(_, count)| *count == share).count();
    assert_eq!(equal, WORKERS as usize, "{stats}");
}

#[test]
fn the_books_equal_the_journal_of_a_crowd_of_answers_and_streams() {
    let rig = crowded(&json!({}));
    rig.upstream().hold();
    let clients = rig.crowd(CONNECTIONS);

    let pending = clients.start(completions(&rig, size()));
    expect_open(&rig, size());
    let released = now();
    rig.upstream().release(usize::MAX);
    expect_all_good(pending);

    expect_equal_books(&rig);
    assert_eq!(rig.upstream().most_open_answers(), size());
    expect_all_workers(&rig);
    let measured = [("result", "measured")];
    rig.envoy()
        .expect_metric("quota_gate_settlements", &measured, size() as u32);
    expect_batches(&rig, released);
}

/// A worker tells a tenant's use once a second at most, however many requests it is about.
#[track_caller]
fn expect_batches(rig: &Rig, since: Instant) {
    let seconds = since.elapsed().as_secs() as usize;
    let told = rig.backend().told();
    let most = TENANTS * WORKERS as usize * (seconds + 2);
    assert!(told.len() <= most, "{} reports in {seconds} s", told.len());
}

#[test]
fn the_books_equal_the_journal_after_an_outage_in_the_middle() {
    let rig = crowded(&json!({"failure_mode": "fail_open"}));
    rig.upstream().hold();
    let clients = rig.crowd(CONNECTIONS);
    let late = size() / 10;
    let mut pending = clients.start(completions(&rig, size() - late));
    expect_open(&rig, size() - late);

    // Half of them end while nobody can be told, and new ones come that nobody checks.
    rig.backend().fail(Fault::Refuse);
    let dead = now();
    pending.extend(clients.start(completions(&rig, late)));
    expect_open(&rig, size());
    rig.upstream().release(size() / 2);
    expect_open(&rig, size() - size() / 2);
    let failed = [("result", "unreachable")];
    let reports = || rig.envoy().metric("quota_gate_settlement_reports", &failed);
    wait_until("a report fails", || reports() > 0.0);
    wait_until("5 s have passed", || dead.elapsed() >= OUTAGE);
    rig.backend().recover();
    rig.upstream().release(usize::MAX);
    expect_all_good(pending);

    expect_equal_books(&rig);
    assert_eq!(rig.upstream().most_open_answers(), size());
    expect_all_workers(&rig);
    let unchecked = [("reason", "failed_open")];
    rig.envoy()
        .expect_metric("quota_gate_requests", &unchecked, late as u32);
    let told = rig.backend().told();
    let marked = told.iter().filter(|told| told.unchecked.is_some());
    assert!(marked.count() > 0, "none of {} reports", told.len());
}

#[test]
fn a_crowd_overshoots_a_budget_by_what_its_estimates_lack_at_most() {
    // Each uses up to 220 units (20 and at most 200), and is estimated at 150.
    let fields = json!({"settle": {"mode": "correct"}, "cost": 150});
    let rig = crowded(&fields);
    rig.backend().limit("tenant=t", 15_000, HOUR);
    rig.upstream().hold();
    let clients = rig.crowd(CONNECTIONS);

    let requests = (0..200).map(|place| completion(&rig, "t", place % 2 == 0));
    let pending = clients.start(requests);
    let denied = [("decision", "deny"), ("reason", "quota_exceeded")];
    let denials = || rig.envoy().metric("quota_gate_requests", &denied) as u64;
    wait_until("100 are denied", || denials() == 100);
    expect_open(&rig, 100);
    rig.upstream().release(usize::MAX);
    let responses = pending.into_iter().map(Pending::wait);
    let passed = responses.filter(|response| response.status == 200).count();

    // As many as the estimates let in, each 70 above its own at most.
    assert_eq!(passed, 100);
    let used = rig.upstream().tokens()["t"];
    assert!(used <= 15_000 + 100 * 70, "{used} used");
    expect_charged(&rig, "t", used as i64);
}

/// What a lease holds is spent by one request each: nobody sees units that another one has.
#[test]
fn a_crowd_that_shares_leases_is_let_in_by_its_estimates_only() {
    let lease = json!({"max_units": 1_500, "ttl": "60s"});
    let fields = json!({"settle": {"mode": "correct"}, "cost": 150, "lease": lease});
    let rig = crowded(&fields);
    rig.backend().limit("tenant=t", 15_000, HOUR);
    rig.upstream().hold();
    let clients = rig.crowd(CONNECTIONS);

    let pending = clients.start((0..200).map(|place| completion(&rig, "t", place % 2 == 0)));
    let denials = || {
        let denied = [("decision", "deny")];
        rig.envoy().metric("quota_gate_requests", &denied) as usize
    };
    let open = || rig.upstream().open_answers();
    wait_until("all are decided", || open() + denials() == 200);
    let passed = open();
    rig.upstream().release(usize::MAX);
    drop(pending.into_iter().map(Pending::wait).collect::<Vec<_>>());

    // Some units may be left in the lease of a worker that has nobody to spend them.
    assert!((60..=100).contains(&passed), "{passed} passed");
    let used = rig.upstream().tokens()["t"];
    assert!(used <= 15_000 + 100 * 70, "{used} used");
}

const HOUR: Duration = Duration::from_secs(3600);

/// How long the backend is dead.
const OUTAGE: Duration = Duration::from_secs(5);

/// How long a crowd may take for a step: seconds on a machine that does nothing else.
const PATIENCE: Duration = Duration::from_secs(180);

/// More than any bound of Envoy's that a crowd would meet.
const MANY: u32 = 1_000_000;

const WORKERS: u32 = 2;

const TENANTS: usize = 7;

const CONNECTIONS: usize = 20;
