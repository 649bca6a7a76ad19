//! The backend answers on each of its wires as the server that it stands in for.

use std::time::Duration;

use envoy_harness::{Backend, Fault, QuotaHeaders, Raw, Request, Response, Wire};
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_secs(60);

fn backend() -> Backend {
    Backend::start().expect("a backend")
}

fn post(backend: &Backend, path: &str) -> Request {
    Request::new(backend.address(), "POST", path)
}

fn post_json(backend: &Backend, path: &str, body: &Value) -> Response {
    let request = post(backend, path).header("content-type", "application/json");
    request.body(body.to_string()).send()
}

fn check(backend: &Backend, descriptor: &str, cost: u32) -> Request {
    post(backend, "/check")
        .header("x-quota-descriptor", descriptor)
        .header("x-quota-cost", cost.to_string())
}

#[test]
fn headers_counts_denies_and_tells_the_quota() {
    let backend = backend();
    backend.limit("tenant=acme", 3, MINUTE);

    let allowed = check(&backend, "tenant=acme&plan=free", 2).send();
    let denied = check(&backend, "tenant=acme&plan=free", 2).send();
    let other = check(&backend, "tenant=b%2526%20c+d", 2).h2().send();

    allowed
        .expect_status(200)
        .expect_header("ratelimit-policy", "\"tenant=acme\";q=3;w=60");
    assert!(
        allowed
            .header("ratelimit")
            .expect("a state")
            .starts_with("\"tenant=acme\";r=1;t=")
    );
    denied
        .expect_status(429)
        .expect_no_header("x-quota-granted");
    assert!(
        (58..=60).contains(
            &denied
                .header("retry-after")
                .unwrap()
                .parse::<u32>()
                .unwrap()
        )
    );
    other.expect_status(200).expect_no_header("ratelimit");
    let checks = backend.expect_checks(3);
    assert_eq!(
        (checks[0].wire, checks[0].cost, checks[0].cost_min),
        (Wire::Headers, 2, None)
    );
    assert_eq!(checks[0].entry("plan"), Some("free"));
    assert_eq!(checks[2].entry("tenant"), Some("b%26 c d"));
    assert!(checks[2].h2);
}

#[test]
fn headers_grants_a_lease_of_what_remains() {
    let backend = backend();
    backend
        .limit("", 150, MINUTE)
        .quota_headers(QuotaHeaders::XRateLimit);
    let lease =
        |least: u32| check(&backend, "t=1", 100).header("x-quota-cost-min", least.to_string());

    lease(1)
        .send()
        .expect_status(200)
        .expect_header("x-quota-granted", "100");
    lease(51)
        .send()
        .expect_status(429)
        .expect_header("x-ratelimit-remaining", "50");
    lease(50)
        .send()
        .expect_status(200)
        .expect_header("x-quota-granted", "50");
    lease(1)
        .send()
        .expect_status(429)
        .expect_header("x-ratelimit-limit", "150");
    assert_eq!(backend.take()[0].cost_min, Some(1));
    assert!(backend.checks().is_empty());
}

#[test]
fn headers_rejects_a_key_until_it_is_admitted() {
    let backend = backend();
    backend.reject_key("key=k1", 401).reject_key("key=k2", 403);

    check(&backend, "key=k1", 1).send().expect_status(401);
    check(&backend, "key=k2", 1).send().expect_status(403);
    check(&backend, "key=k3", 1).send().expect_status(200);
    backend.admit_key("key=k1");
    check(&backend, "key=k1", 1).send().expect_status(200);
}

#[test]
fn headers_answers_with_what_else_it_is_told() {
    let backend = backend();
    backend
        .answer_header("cache-control", "no-store")
        .quota_headers(QuotaHeaders::None);
    backend.limit("", 1, MINUTE);

    let told = check(&backend, "t=1", 1).send();
    told.expect_header("cache-control", "no-store")
        .expect_no_header("ratelimit");
    backend.no_answer_headers().unlimited();
    check(&backend, "t=1", 5)
        .send()
        .expect_status(200)
        .expect_no_header("cache-control");
}

#[test]
fn limitador_counts_in_check_and_report_and_shows_draft_version_03() {
    let backend = backend();
    backend.limit_in("api", "tenant=acme", &[], 5, MINUTE);
    let body = |delta: u32| {
        json!({"namespace": "api", "values": {"tenant": "acme"}, "delta": delta,
            "response_headers": "DraftVersion03"})
    };

    let allowed = post_json(&backend, "/check_and_report", &body(2));
    let denied = post_json(&backend, "/check_and_report", &body(4));

    allowed.expect_status(200).expect_json("", Value::Null);
    allowed.expect_header("x-ratelimit-limit", "5, 5;w=60;name=\"tenant=acme\"");
    allowed.expect_header("x-ratelimit-remaining", "3");
    // 0 although 3 are left: that is how the server puts it.
    denied.expect_status(429).expect_json("", Value::Null);
    denied.expect_header("x-ratelimit-remaining", "0");
    let check = backend.expect_checks(2).remove(0);
    assert_eq!(
        (check.wire, check.namespace.as_str()),
        (Wire::Limitador, "api")
    );
    assert_eq!((check.entry("tenant"), check.cost), (Some("acme"), 2));
}

#[test]
fn limitador_check_does_not_count_and_report_never_refuses() {
    let backend = backend();
    backend.limit_in("api", "", &[], 2, MINUTE);
    let body = json!({"namespace": "api", "values": {}, "delta": 2});

    for _ in 0..2 {
        post_json(&backend, "/check", &body)
            .expect_status(200)
            .expect_json("", Value::Null);
    }
    for _ in 0..2 {
        post_json(&backend, "/report", &body)
            .expect_status(200)
            .expect_json("", Value::Null);
    }
    let denied = post_json(&backend, "/check", &body);
    denied
        .expect_status(429)
        .expect_body_contains("Too many requests");
    let unknown = json!({"namespace": "typo", "values": {}, "delta": 9, "response_headers":
        "DraftVersion03"});
    let unknown = post_json(&backend, "/check_and_report", &unknown);
    unknown
        .expect_status(200)
        .expect_no_header("x-ratelimit-limit");
}

#[test]
fn limitador_refuses_what_it_cannot_read() {
    let backend = backend();
    let whole = json!({"namespace": "api", "values": {}, "delta": 1}).to_string();

    post(&backend, "/check_and_report")
        .body(&whole)
        .send()
        .expect_status(400);
    post_json(
        &backend,
        "/check_and_report",
        &json!({"namespace": "api", "values": {}}),
    )
    .expect_status(400);
    Request::new(backend.address(), "GET", "/check_and_report")
        .send()
        .expect_status(404);
}

#[test]
fn envoy_ratelimit_says_ok_and_over_limit_and_leaves_out_zeros() {
    let backend = backend();
    backend.limit_in("api", "tenant=acme", &[], 2, MINUTE);
    let body = json!({"domain": "api",
        "descriptors": [{"entries": [{"key": "tenant", "value": "acme"}], "hitsAddend": "1"}]});

    let first = post_json(&backend, "/json", &body);
    let second = post_json(&backend, "/json", &body);
    let third = post_json(&backend, "/json", &body);

    first.expect_status(200).expect_json("/overallCode", "OK");
    first.expect_json("/statuses/0/limitRemaining", 1);
    first.expect_json(
        "/statuses/0/currentLimit",
        json!({"requestsPerUnit": 2, "unit": "MINUTE"}),
    );
    second.expect_status(200);
    assert_eq!(second.json().pointer("/statuses/0/limitRemaining"), None);
    third
        .expect_status(429)
        .expect_json("/overallCode", "OVER_LIMIT");
    assert_eq!(third.json().pointer("/statuses/0/limitRemaining"), None);
    let reset = third.json()["statuses"][0]["durationUntilReset"].clone();
    assert!(
        reset.as_str().expect("a duration").ends_with('s'),
        "{reset}"
    );
}

#[test]
fn envoy_ratelimit_answers_400_to_failures_and_reads_both_addends() {
    let backend = backend();
    let entries = json!([{"entries": [{"key": "tenant", "value": "acme"}]}]);

    post_json(
        &backend,
        "/json",
        &json!({"domain": "", "descriptors": entries}),
    )
    .expect_status(400);
    post_json(&backend, "/json", &json!({"domain": "api"})).expect_status(400);
    post(&backend, "/json").body("{").send().expect_status(400);
    let body = json!({"domain": "api", "descriptors": entries, "hitsAddend": 7});
    post_json(&backend, "/json", &body)
        .expect_status(200)
        .expect_json("/overallCode", "OK");

    let free = json!({"domain": "api", "hitsAddend": 7,
        "descriptors": [{"entries": entries[0]["entries"], "hitsAddend": "0"}]});
    post_json(&backend, "/json", &free).expect_status(200);
    let unset = json!({"domain": "api", "descriptors": entries, "hitsAddend": 0});
    post_json(&backend, "/json", &unset).expect_status(200);

    let checks = backend.expect_checks(6);
    assert_eq!((checks[3].wire, checks[3].cost), (Wire::EnvoyRatelimit, 7));
    assert_eq!((checks[4].cost, checks[5].cost), (0, 1));
    assert_eq!(checks[3].namespace, "api");
}

#[test]
fn a_reset_is_a_reset_and_not_an_orderly_end() {
    let backend = backend();
    for fault in [Fault::ResetBeforeHeaders, Fault::ResetMidBody] {
        backend.fail(fault.clone());
        let mut client = Raw::connect(backend.address());
        client.write("POST /check HTTP/1.1\r\nhost: a\r\n\r\n");
        assert!(client.is_reset(), "{fault:?}");
    }
    backend.fail(Fault::CloseBeforeHeaders);
    let mut client = Raw::connect(backend.address());
    client.write("POST /check HTTP/1.1\r\nhost: a\r\n\r\n");
    assert!(!client.is_reset());
}
