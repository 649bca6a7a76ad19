//! Promise: what the backend says is what happens, on every protocol, told alike everywhere.

use std::time::Duration;

use envoy_harness::{Fault, Request, Response, Rig};
use serde_json::{Value, json};

use crate::gated::{Gated, by_path, config, gated, merge, start, state};

/// A row of the outcomes: how it comes about, and what everybody is told.
struct Row {
    path: &'static str,
    policy: Value,
    /// Good requests before the one that counts.
    before: u32,
    /// What the backend does to the one that counts.
    fault: Option<Fault>,
    http: u16,
    grpc: u32,
    /// The access log's text, without the time.
    state: &'static str,
}

const MINUTE: Duration = Duration::from_secs(60);

/// What the backend said, now or earlier, or nothing that needs asking.
fn answered() -> Vec<Row> {
    let lease = json!({"lease": {"max_units": 10, "ttl": "60s"}});
    let cache = json!({"cache": {"allow_ttl": "60s"}});
    let shadow = json!({"enforcement": "shadow"});
    let over = Some(Fault::Status(429));
    vec![
        row(
            "/within",
            json!({}),
            0,
            None,
            yes("allow reason=within_quota"),
        ),
        row("/leased", lease, 5, None, yes("allow reason=leased")),
        row("/cached", cache, 1, None, yes("allow reason=cached")),
        row(
            "/shadow",
            shadow,
            0,
            over,
            yes("allow reason=shadow would_deny=quota_exceeded"),
        ),
        row(
            "/skipped",
            json!({"enforcement": "off"}),
            0,
            None,
            yes("allow reason=bypassed"),
        ),
    ]
}

/// What becomes of a check without answer.
fn unanswered() -> Vec<Row> {
    let stale = json!({"cache": {"stale_if_error": "60s"}});
    let open = json!({"failure_mode": "fail_open"});
    let local = json!({
        "failure_mode": "fail_local",
        "local_limit": {"units": 1, "per": "1h", "burst": 1},
    });
    let down = || Some(Fault::Status(500));
    vec![
        row(
            "/stale",
            stale,
            1,
            down(),
            yes("allow reason=stale cause=status status=500"),
        ),
        row(
            "/open",
            open,
            0,
            down(),
            yes("allow reason=failed_open cause=status status=500"),
        ),
        row(
            "/local",
            local,
            0,
            down(),
            yes("allow reason=failed_local cause=status status=500"),
        ),
        row(
            "/closed",
            json!({}),
            0,
            down(),
            (
                503,
                14,
                "deny reason=quota_unavailable cause=status status=500",
            ),
        ),
    ]
}

/// What the backend says no to, and what it can't be asked about.
fn denied() -> Vec<Row> {
    let user = json!({"descriptor": [{"name": "user", "header": "x-user"}]});
    let says = |status| Some(Fault::Status(status));
    let rejected = "deny reason=key_rejected";
    vec![
        row(
            "/over",
            json!({}),
            0,
            says(429),
            (429, 8, "deny reason=quota_exceeded"),
        ),
        row("/unknown", json!({}), 0, says(401), (401, 16, rejected)),
        row("/forbidden", json!({}), 0, says(403), (403, 7, rejected)),
        row(
            "/missing",
            user,
            0,
            None,
            (401, 16, "deny reason=descriptor_missing"),
        ),
    ]
}

const fn yes(state: &'static str) -> (u16, u32, &'static str) {
    (200, 0, state)
}

fn row(
    path: &'static str,
    policy: Value,
    before: u32,
    fault: Option<Fault>,
    (http, grpc, state): (u16, u32, &'static str),
) -> Row {
    Row {
        path,
        policy,
        before,
        fault,
        http,
        grpc,
        state,
    }
}

#[derive(Clone, Copy, Debug)]
enum Spoken {
    H1,
    H2,
    Grpc,
}

/// A request that claims to have been allowed already, twice.
fn ask(rig: &Rig, spoken: Spoken, path: &str, tenant: &str) -> Request {
    let request = match spoken {
        Spoken::H1 => rig.request("GET", path),
        Spoken::H2 => rig.request("GET", path).h2(),
        Spoken::Grpc => rig.grpc(path),
    };
    request
        .header("x-tenant-id", tenant)
        .header("x-quota-decision", "allow; reason=forged")
        .header("x-quota-decision", "allow; reason=within_quota")
}

fn expect_answer(response: &Response, row: &Row, spoken: Spoken) {
    let denied = row.http != 200;
    match spoken {
        Spoken::Grpc => {
            // A denial is trailers-only: the status is in the headers, and there is no body.
            response.expect_status(200).expect_grpc_status(row.grpc);
            assert_eq!(response.trailers.is_empty(), denied, "{}", row.path);
            assert!(!denied || response.body.is_empty(), "{}", response.text());
        }
        Spoken::H1 | Spoken::H2 if denied => {
            let code = reason(row);
            response
                .expect_status(row.http)
                .expect_header("content-type", "application/problem+json")
                .expect_json("/status", row.http)
                .expect_json("/code", code);
        }
        Spoken::H1 | Spoken::H2 => {
            response
                .expect_status(200)
                .expect_header("x-upstream", "echo");
        }
    }
    response.expect_no_header("x-quota-decision");
}

fn reason(row: &Row) -> &'static str {
    let word = row
        .state
        .split(' ')
        .nth(1)
        .and_then(|word| word.strip_prefix("reason="));
    word.expect("a state with a reason")
}

fn expect_row(rig: &Gated, row: &Row, spoken: Spoken) {
    let policy = row.path.trim_matches('/');
    let tenant = format!("{policy}-{spoken:?}");
    for _ in 0..row.before {
        ask(rig, spoken, row.path, &tenant)
            .send()
            .expect_status(200);
    }
    if let Some(fault) = &row.fault {
        rig.backend()
            .fail_for(&format!("tenant={tenant}"), fault.clone());
    }
    drop(rig.upstream().take());
    let path = format!("{}?{spoken:?}", row.path);

    let response = ask(rig, spoken, &path, &tenant).send();

    expect_answer(&response, row, spoken);
    let entry = rig.logged(&path);
    let decision = entry.decision().to_owned();
    assert_eq!(
        state(&entry),
        format!("{} policy={policy} backend=quota", row.state)
    );
    if decision == "deny" {
        assert_eq!(entry.details, format!("quota_gate_{}", reason(row)));
        assert!(
            rig.upstream().seen().is_empty(),
            "{path} reached the upstream"
        );
    } else {
        assert_eq!(entry.details, "via_upstream");
        assert_eq!(
            rig.told_upstream(),
            [[format!("allow; reason={}", reason(row))]]
        );
    }
    let labels = [
        ("policy", policy),
        ("decision", &decision),
        ("reason", reason(row)),
    ];
    rig.envoy()
        .expect_metric("quota_gate_requests", &labels, counted(spoken));
}

/// Requests of a row that are decided alike when those of one more protocol have been sent.
fn counted(spoken: Spoken) -> u32 {
    match spoken {
        Spoken::H1 => 1,
        Spoken::H2 => 2,
        Spoken::Grpc => 3,
    }
}

#[test]
fn every_outcome_is_told_alike_over_http1_http2_and_grpc() {
    let rows: Vec<Row> = [answered(), unanswered(), denied()]
        .into_iter()
        .flatten()
        .collect();
    let policies: Vec<_> = rows
        .iter()
        .map(|row| (row.path, row.policy.clone()))
        .collect();
    let rig = start(Rig::builder().plugin(by_path(&policies)));
    for row in &rows {
        for spoken in [Spoken::H1, Spoken::H2, Spoken::Grpc] {
            expect_row(&rig, row, spoken);
        }
    }
}

/// Lesson 1.3: an emergency opens what has no answer, for a while, and says so everywhere.
#[test]
fn an_emergency_is_told_alike_over_http1_http2_and_grpc() {
    let mut plugin = by_path(&[("/emergency", json!({}))]);
    let emergency = json!({
        "mode": "fail_open", "until": "2099-01-31T22:00:00Z", "reason": "INC-123",
    });
    merge(&mut plugin, &json!({"emergency": emergency}));
    let rig = start(Rig::builder().plugin(plugin));
    let told = "allow reason=emergency cause=status status=500";
    let emergency = row(
        "/emergency",
        json!({}),
        0,
        Some(Fault::Status(500)),
        (200, 0, told),
    );

    for spoken in [Spoken::H1, Spoken::H2, Spoken::Grpc] {
        expect_row(&rig, &emergency, spoken);
    }
}

#[test]
fn over_the_local_limit_is_told_alike_over_http1_http2_and_grpc() {
    let local = json!({
        "failure_mode": "fail_local",
        "local_limit": {"units": 1, "per": "1h", "burst": 1},
    });
    let rig = start(Rig::builder().plugin(by_path(&[("/local", local)])));
    rig.backend().fail(Fault::Refuse);
    let told = "deny reason=local_exceeded cause=unreachable";
    let over = row("/local", json!({}), 1, None, (429, 8, told));

    for spoken in [Spoken::H1, Spoken::H2, Spoken::Grpc] {
        expect_row(&rig, &over, spoken);
    }
}

/// A policy that is off, by rule or as the default, is nobody's policy.
#[test]
fn a_route_without_policy_is_bypassed_and_counted() {
    let mut plugin = config(&json!({}));
    plugin["routes"] = json!([{"match": {"path_prefix": "/healthz"}, "policy": "off"}]);
    let rig = start(Rig::builder().plugin(plugin));

    let request = rig
        .request("GET", "/healthz")
        .header("x-quota-decision", "deny");
    request.send().expect_status(200);

    assert_eq!(rig.logged("/healthz").state, "allow reason=bypassed");
    assert_eq!(rig.told_upstream(), [["allow; reason=bypassed"]]);
    let labels = [("policy", "off"), ("reason", "bypassed")];
    rig.envoy().expect_metric("quota_gate_requests", &labels, 1);
    assert!(rig.backend().checks().is_empty());
}

#[test]
fn asks_with_the_descriptor_the_cost_and_the_policys_name() {
    let cost = json!({"cost": {"header": "x-cost", "default": 1, "max": 100}});
    let rig = gated(&cost);

    let request = rig
        .request("GET", "/v1/items")
        .header("x-tenant-id", "a&b=c");
    request.header("x-cost", "3").send().expect_status(200);

    let check = rig.backend().expect_checks(1).remove(0);
    assert_eq!(
        (check.method.as_str(), check.path.as_str()),
        ("POST", "/check")
    );
    assert_eq!(check.authority, "quota-backend");
    assert_eq!(
        check.header_values("x-quota-descriptor"),
        ["tenant=a%26b%3Dc"]
    );
    assert_eq!(check.header_values("x-quota-policy"), ["gold"]);
    assert_eq!(check.header_values("x-quota-route"), ["default"]);
    assert_eq!(check.cost, 3);
    let id = rig.logged("/v1/items").request_id;
    assert_eq!(check.header_values("x-request-id"), [id]);
}

#[test]
fn every_language_counts_down_to_a_denial() {
    for (preset, path) in [
        ("headers", "/check"),
        ("limitador", "/check_and_report"),
        ("envoy_ratelimit", "/json"),
    ] {
        let mut plugin = config(&json!({"cost": {"header": "x-cost", "max": 9}}));
        plugin["backends"]["quota"]["preset"] = json!(preset);
        let rig = start(Rig::builder().plugin(plugin));
        rig.backend().limit_each("tenant", 5, MINUTE);
        let ask = || {
            let request = rig.request("GET", "/").header("x-tenant-id", "acme");
            request.header("x-cost", "2").send()
        };

        let first = ask();
        first.expect_status(200);
        let left = first.header("ratelimit").unwrap_or_default();
        assert!(left.starts_with("\"gold\";r=3;t="), "{preset}: {left:?}");
        ask().expect_status(200);
        ask()
            .expect_status(429)
            .expect_json("/code", "quota_exceeded");

        let checks = rig.backend().expect_checks(3);
        assert!(
            checks
                .iter()
                .all(|check| check.path == path && check.cost == 2),
            "{preset}"
        );
    }
}

/// A denial is the backend's word, and a route that fails open does not overrule it.
#[test]
fn a_denial_on_a_route_that_fails_open_is_a_denial() {
    let rig = gated(&json!({"failure_mode": "fail_open"}));
    rig.backend().limit("tenant=acme", 0, MINUTE);

    let response = rig.request("GET", "/").header("x-tenant-id", "acme").send();

    response.expect_status(429);
    rig.envoy().expect_metric("quota_gate_failures", &[], 0);
}

#[test]
fn on_missing_allow_lets_through_unchecked() {
    let rig = gated(&json!({"on_missing": "allow"}));

    rig.get("/").expect_status(200);

    assert_eq!(rig.told_upstream(), [["allow; reason=bypassed"]]);
    assert!(rig.backend().checks().is_empty());
}
