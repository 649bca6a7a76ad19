//! Promise: a denial is an answer that its client can read, and tells nothing that is not its own.

use std::time::Duration;

use envoy_harness::{Fault, QuotaHeaders, Rig};
use serde_json::{Value, json};

use crate::gated::{Gated, by_path, config, gated, start};

const MINUTE: Duration = Duration::from_secs(60);

/// A rig whose backend lets each tenant ask twice a minute.
fn limited(fields: &Value) -> Gated {
    let rig = gated(fields);
    rig.backend().limit_each("tenant", 2, MINUTE);
    rig
}

fn get(rig: &Gated, tenant: &str) -> envoy_harness::Request {
    rig.request("GET", "/v1/items")
        .header("x-tenant-id", tenant)
}

/// A value like `"gold";r=1;t=59` with the number behind `t=` taken out, and that number.
fn timed(value: &str) -> (String, u64) {
    let (before, time) = value.rsplit_once(";t=").expect("a field with a time");
    (before.to_owned(), time.parse().expect("seconds"))
}

#[test]
fn over_the_limit_is_a_problem_document_that_says_when_to_come_again() {
    let rig = limited(&json!({}));
    get(&rig, "acme").send().expect_status(200);
    get(&rig, "acme").send().expect_status(200);

    let response = get(&rig, "acme").send();

    let kind = "https://iana.org/assignments/http-problem-types#quota-exceeded";
    response
        .expect_status(429)
        .expect_header("content-type", "application/problem+json")
        .expect_header("cache-control", "no-store")
        .expect_json("/type", kind)
        .expect_json("/title", "Quota exceeded")
        .expect_json("/status", 429)
        .expect_json("/code", "quota_exceeded");
    let id = rig.envoy().expect_access_log(3)[2].request_id.clone();
    assert_eq!(id.len(), 36, "{id}");
    response.expect_json("/request_id", id);
    let body = response.json();
    let wait = body["retry_after"].as_u64().expect("a number of seconds");
    assert!((1..=60).contains(&wait), "{wait}");
    response.expect_header("retry-after", &wait.to_string());
    let keys: Vec<_> = body
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, _)| key)
        .collect();
    assert_eq!(
        keys,
        [
            "code",
            "request_id",
            "retry_after",
            "status",
            "title",
            "type"
        ]
    );
    response.expect_header("ratelimit-policy", "\"gold\";q=2;w=60");
    let (field, reset) = timed(&response.header("ratelimit").expect("a field"));
    assert_eq!(field, "\"gold\";r=0");
    assert!(reset <= wait, "{reset} {wait}");
}

#[test]
fn an_answer_that_was_checked_tells_what_is_left() {
    let rig = limited(&json!({}));

    for left in [1, 0] {
        let response = get(&rig, "acme").send();
        response
            .expect_status(200)
            .expect_header("ratelimit-policy", "\"gold\";q=2;w=60");
        let (field, reset) = timed(&response.header("ratelimit").expect("a field"));
        assert_eq!(field, format!("\"gold\";r={left}"));
        assert!((1..=60).contains(&reset), "{reset}");
    }
}

#[test]
fn the_older_fields_or_none_can_be_chosen() {
    for told in [QuotaHeaders::Draft, QuotaHeaders::XRateLimit] {
        let rig = limited(&json!({"rate_limit_headers": "x_ratelimit"}));
        rig.backend().quota_headers(told);

        let first = get(&rig, "acme").send();
        get(&rig, "acme").send().expect_status(200);
        let denied = get(&rig, "acme").send();

        first.expect_header("x-ratelimit-limit", "2");
        first.expect_header("x-ratelimit-remaining", "1");
        denied
            .expect_status(429)
            .expect_header("x-ratelimit-remaining", "0");
        assert!(denied.header("x-ratelimit-reset").is_some());
        denied
            .expect_no_header("ratelimit")
            .expect_no_header("ratelimit-policy");
    }

    let rig = limited(&json!({"rate_limit_headers": "none"}));
    for status in [200, 200, 429] {
        let response = get(&rig, "acme").send();
        response.expect_status(status);
        for name in ["ratelimit", "ratelimit-policy", "x-ratelimit-remaining"] {
            response.expect_no_header(name);
        }
    }
}

#[test]
fn what_the_upstream_says_of_its_own_limits_is_left_alone() {
    let rig = limited(&json!({}));
    rig.upstream()
        .respond_header("ratelimit", "\"upstream\";r=9;t=9");

    let response = get(&rig, "acme").send();

    response.expect_header("ratelimit", "\"upstream\";r=9;t=9");
}

/// A gRPC client gets a status of its own, in the headers, over HTTP 200.
#[test]
fn a_grpc_denial_is_trailers_only() {
    let rig = limited(&json!({}));
    let call = || {
        rig.grpc("/pkg.Service/Method")
            .header("x-tenant-id", "acme")
            .send()
    };
    call().expect_status(200).expect_grpc_status(0);
    call().expect_status(200).expect_grpc_status(0);

    let denied = call();

    denied
        .expect_status(200)
        .expect_grpc_status(8)
        .expect_header("content-type", "application/grpc")
        .expect_header("grpc-message", "Quota exceeded");
    assert!(denied.body.is_empty() && denied.trailers.is_empty());
    assert!(denied.header("retry-after").is_some());
    assert_eq!(
        denied
            .header("ratelimit")
            .map(|value| timed(&value).0)
            .as_deref(),
        Some("\"gold\";r=0")
    );
    assert_eq!(rig.envoy().expect_access_log(3)[2].grpc_status, Some(8));
}

/// Envoy takes only `application/grpc` and `application/grpc+…` for gRPC.
#[test]
fn what_envoy_does_not_take_for_grpc_gets_a_document() {
    let rig = gated(&json!({}));
    rig.backend().fail(Fault::Status(429));
    let post = |kind: &str| {
        let request = rig.request("POST", "/").h2().header("x-tenant-id", "a");
        request.header("content-type", kind).body("x").send()
    };

    for kind in [
        "application/grpc-web",
        "application/grpc-web+proto",
        "application/grpcx",
    ] {
        let response = post(kind);
        response
            .expect_status(429)
            .expect_header("content-type", "application/problem+json")
            .expect_json("/code", "quota_exceeded");
    }
    let grpc = post("application/grpc+json");
    grpc.expect_status(200).expect_grpc_status(8);
}

/// Lesson 3.5: a denial carries CORS headers, so that a browser shows it as what it is.
#[test]
fn a_page_of_an_allowed_origin_may_read_the_denial() {
    let cors = json!({"denial": {"cors": {"allow_origins": ["https://app.example"]}}});
    let rig = gated(&cors);
    rig.backend().fail(Fault::Status(429));
    let ask = |origin: &str| get(&rig, "acme").header("origin", origin).send();

    let allowed = ask("https://app.example");
    allowed
        .expect_status(429)
        .expect_header("access-control-allow-origin", "https://app.example")
        .expect_header("vary", "origin")
        .expect_header(
            "access-control-expose-headers",
            "retry-after, x-request-id, ratelimit, ratelimit-policy",
        );
    for foreign in [
        "https://evil.example",
        "https://app.example.evil.example",
        "null",
    ] {
        ask(foreign)
            .expect_status(429)
            .expect_header("vary", "origin")
            .expect_no_header("access-control-allow-origin");
    }
    let none = get(&rig, "acme").send();
    none.expect_status(429)
        .expect_no_header("access-control-allow-origin");
}

#[test]
fn without_cors_no_origin_is_told_anything() {
    let rig = gated(&json!({}));
    rig.backend().fail(Fault::Status(429));

    let response = get(&rig, "acme")
        .header("origin", "https://app.example")
        .send();

    response
        .expect_status(429)
        .expect_no_header("vary")
        .expect_no_header("access-control-allow-origin");
}

/// Lesson 3.5: a preflight carries no key by definition, and is not denied for that.
#[test]
fn a_preflight_is_let_through_unchecked() {
    let rig = gated(&json!({}));

    let preflight = rig
        .request("OPTIONS", "/")
        .header("origin", "https://app.example");
    let preflight = preflight
        .header("access-control-request-method", "POST")
        .send();

    preflight.expect_status(200);
    rig.request("OPTIONS", "/plain").send().expect_status(401);
    assert!(rig.backend().checks().is_empty());
    rig.envoy()
        .expect_decisions(&[("bypassed", 1), ("descriptor_missing", 1)]);
}

#[test]
fn statuses_and_headers_are_the_operators_to_choose() {
    let denial = json!({"denial": {
        "status": 420, "unavailable_status": 500,
        "headers": {"x-contact": "ops@example.com", "cache-control": "private"},
    }});
    let rig = gated(&denial);

    rig.backend().fail(Fault::Status(429));
    let over = get(&rig, "a").send();
    over.expect_status(420)
        .expect_json("/status", 420)
        .expect_json("/code", "quota_exceeded")
        .expect_header("x-contact", "ops@example.com")
        .expect_header("cache-control", "private");
    rig.backend().fail(Fault::Status(500));
    let unavailable = get(&rig, "b").send();
    unavailable
        .expect_status(500)
        .expect_json("/code", "quota_unavailable");
}

/// Time does not cure a bad key: nobody is told to come again.
#[test]
fn a_rejected_or_missing_key_gets_no_retry_after() {
    let rig = gated(&json!({}));
    rig.backend()
        .reject_key("tenant=nobody", 401)
        .reject_key("tenant=barred", 403);

    for (tenant, status, title) in [
        ("nobody", 401, "Unauthorized"),
        ("barred", 403, "Forbidden"),
        ("", 401, "Unauthorized"),
    ] {
        let response = get(&rig, tenant).send();
        response
            .expect_status(status)
            .expect_json("/type", "about:blank")
            .expect_json("/title", title)
            .expect_no_header("retry-after");
    }
    let denied = [("key_rejected", 2), ("descriptor_missing", 1)];
    rig.envoy().expect_decisions(&denied);
}

/// Lesson 3.4: behind a proxy the address comes from trusted hops only, so that one client's
/// denials don't count against another.
#[test]
fn one_clients_denials_behind_a_proxy_are_not_anothers() {
    let ip = json!({"name": "ip", "client_ip": {"trusted_hops": 2}});
    let rig = gated(&json!({"descriptor": [ip]}));
    rig.backend().limit_each("ip", 1, MINUTE);
    // Envoy appends the peer, a proxy that is trusted: the client is the second from the right.
    let from = |hops: &str| {
        rig.request("GET", "/")
            .header("x-forwarded-for", hops)
            .send()
    };

    from("203.0.113.7").expect_status(200);
    from("203.0.113.7").expect_status(429);
    from("198.51.100.9").expect_status(200);
    from("198.51.100.10, 203.0.113.7").expect_status(429);

    let ips: Vec<_> = rig
        .backend()
        .take()
        .iter()
        .filter_map(|c| c.entry("ip").map(str::to_owned))
        .collect();
    assert_eq!(ips, ["203.0.113.7", "203.0.113.7", "198.51.100.9"]);
}

/// Lessons 3.6 and 4.6: keys and tokens are in no log line, at no level.
#[test]
fn no_key_and_no_token_is_ever_logged() {
    let mut plugin = config(&json!({"timeout": "300ms"}));
    plugin["backends"]["quota"]["headers"] = json!({"authorization": "Bearer s3cr3t-t0k3n"});
    let rig = start(Rig::builder().plugin(plugin).wasm_log("trace"));
    let ask = || {
        get(&rig, "pr1v4t3-k3y")
            .header("authorization", "Bearer cl13nt-t0k3n")
            .send()
    };

    ask().expect_status(200);
    for fault in [
        Fault::Status(500),
        Fault::Hang,
        Fault::Refuse,
        Fault::Status(401),
    ] {
        rig.backend().fail(fault);
        let _ = ask();
        rig.backend().recover();
    }

    let check = rig.backend().checks().remove(0);
    assert_eq!(
        check.header_values("authorization"),
        ["Bearer s3cr3t-t0k3n"]
    );
    rig.envoy().expect_log_line("check failed");
    let access = format!("{:?}", rig.envoy().expect_access_log(5));
    for secret in ["s3cr3t-t0k3n", "pr1v4t3-k3y", "cl13nt-t0k3n"] {
        assert!(
            rig.envoy().log_lines(secret).is_empty(),
            "{secret} is in the log"
        );
        assert!(!access.contains(secret), "{secret} is in the access log");
    }
}

/// Which policy denied is told by the fields' own name, and each has its own.
#[test]
fn each_policys_denials_are_its_own() {
    let style = |status: u16| json!({"denial": {"status": status}});
    let rig = start(Rig::builder().plugin(by_path(&[("/a", style(429)), ("/b", style(420))])));
    rig.backend().limit("", 0, MINUTE);

    for (path, status, policy) in [("/a", 429, "\"a\";q=0;w=60"), ("/b", 420, "\"b\";q=0;w=60")] {
        let response = rig.request("GET", path).header("x-tenant-id", "t").send();
        response
            .expect_status(status)
            .expect_header("ratelimit-policy", policy);
    }
}
