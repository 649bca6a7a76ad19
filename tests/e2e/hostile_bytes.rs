//! Promise: no byte from a client or a backend traps the filter, opens a route or splits an answer.

use std::time::Duration;

use envoy_harness::eventually::eventually;
use envoy_harness::{Fault, Rig, digest};
use serde_json::{Value, json};

use crate::gated::{Gated, config, gated, start};

const MINUTE: Duration = Duration::from_secs(60);

/// A good request is still checked: nothing has been left behind.
#[track_caller]
fn expect_good(rig: &Gated) {
    rig.request("GET", "/good")
        .header("x-tenant-id", "good")
        .send()
        .expect_status(200);
    assert_eq!(rig.logged("/good").field("reason"), Some("within_quota"));
}

#[test]
fn a_value_that_is_no_text_is_checked_as_it_is() {
    let rig = gated(&json!({}));
    let ask = |value: &[u8]| rig.request("GET", "/").header("x-tenant-id", value).send();

    ask(b"\xff").expect_status(200);
    ask(b"a&b=c%\xc3\x28\xfe").expect_status(200);

    let checks = rig.backend().expect_checks(2);
    assert_eq!(
        checks[0].header_values("x-quota-descriptor"),
        ["tenant=%FF"]
    );
    let second = checks[1].header_values("x-quota-descriptor");
    assert_eq!(second, ["tenant=a%26b%3Dc%25%C3%28%FE"]);
    expect_good(&rig);
}

/// In JSON the bytes that are no UTF-8 are escaped: two values never look like one.
#[test]
fn a_value_that_is_no_text_is_told_apart_in_json() {
    let mut plugin = config(&json!({}));
    plugin["backends"]["quota"]["preset"] = json!("limitador");
    let rig = start(Rig::builder().plugin(plugin));
    for value in [&b"\xff"[..], b"\xfe", b"%FF", b"\"}, {\""] {
        rig.request("GET", "/")
            .header("x-tenant-id", value)
            .send()
            .expect_status(200);
    }

    let checks = rig.backend().expect_checks(4);
    let told: Vec<_> = checks
        .iter()
        .filter_map(|check| check.entry("tenant"))
        .collect();
    assert_eq!(told, ["%FF", "%FE", "%25FF", "\"}, {\""]);
}

#[test]
fn bytes_that_are_no_text_anywhere_else_change_nothing() {
    let cost = json!({"cost": {"header": "x-cost", "default": 1, "max": 9}});
    let rig = gated(&cost);
    let odd = b"\xff\xfe\x80";
    for name in [
        "origin",
        "x-cost",
        "grpc-timeout",
        "x-request-id",
        "content-type",
        "x-quota-decision",
    ] {
        let request = rig
            .request("GET", "/")
            .header("x-tenant-id", "a")
            .header(name, odd);
        request.send().expect_status(200);
    }
    rig.backend().fail(Fault::Status(429));
    let request = rig
        .request("GET", "/")
        .header("x-tenant-id", "b")
        .header("origin", odd);
    request
        .send()
        .expect_status(429)
        .expect_json("/code", "quota_exceeded");
    assert_eq!(rig.backend().expect_checks(7)[1].cost, 1);
}

#[test]
fn a_thousand_headers_are_no_way_around() {
    let rig = gated(&json!({}));
    rig.backend().limit("tenant=over", 0, MINUTE);
    for (tenant, status) in [("over", 429), ("good", 200)] {
        let many = (0..1000).fold(rig.request("GET", "/"), |request, number| {
            request.header(&format!("x-{number}"), "1")
        });
        many.header("x-tenant-id", tenant)
            .send()
            .expect_status(status);
    }
    expect_good(&rig);
}

/// A request too large to be looked through would hide its second value.
#[test]
fn a_second_value_behind_three_thousand_headers_is_seen() {
    let rig = gated(&json!({}));
    let one = (0..3000).fold(
        rig.request("GET", "/").header("x-tenant-id", "good"),
        |request, number| request.header(&format!("x-{number}"), "1"),
    );
    let twice = one.clone().header("x-tenant-id", "other");

    one.clone().send().expect_status(200);
    one.h2().send().expect_status(200);
    twice.clone().send().expect_status(401);
    twice.h2().send().expect_status(401);

    let huge = (0..15).fold(rig.request("GET", "/"), |request, number| {
        request.header(&format!("x-{number}"), "v".repeat(60_000))
    });
    huge.header("x-tenant-id", "huge").send().expect_status(200);
    assert_eq!(
        rig.backend().expect_checks(3)[2].entry("tenant"),
        Some("huge")
    );
}

#[test]
fn a_descriptor_of_60_kb_is_checked_or_denied_but_not_let_through() {
    let rig = gated(&json!({}));
    let long = "v".repeat(60_000);
    rig.backend().fail_next(1, Fault::Status(429));

    let response = rig.request("GET", "/").header("x-tenant-id", &long).send();

    response.expect_status(429);
    assert_eq!(
        rig.backend().expect_checks(1)[0].entry("tenant"),
        Some(long.as_str())
    );
    expect_good(&rig);
}

#[test]
fn a_descriptor_that_is_there_twice_or_empty_counts_as_missing() {
    let rig = gated(&json!({}));
    let twice = |first: &str, second: &str| {
        let request = rig.request("GET", "/").header("x-tenant-id", first);
        request.header("x-tenant-id", second)
    };
    for request in [
        twice("a", "b"),
        twice("a", "a"),
        twice("", "a"),
        twice("a", ""),
        twice("", ""),
    ] {
        request.clone().send().expect_status(401);
        request.h2().send().expect_status(401);
    }
    for value in ["", " "] {
        let request = rig.request("GET", "/").header("x-tenant-id", value);
        request
            .send()
            .expect_status(401)
            .expect_json("/code", "descriptor_missing");
    }
    rig.request("GET", "/").send().expect_status(401);
    assert!(rig.backend().checks().is_empty());
    assert!(rig.upstream().seen().is_empty());

    // One value with a comma in it is one value.
    rig.request("GET", "/")
        .header("x-tenant-id", "a,b")
        .send()
        .expect_status(200);
    assert_eq!(
        rig.backend().expect_checks(1)[0].entry("tenant"),
        Some("a,b")
    );
}

/// Every field that is echoed, with a line break in its value: bare CR and bare LF are all that
/// gets through Envoy's own reader, if anything does.
#[test]
fn a_backend_cant_split_the_answer() {
    let broken = [
        "retry-after: 7\rx-injected: 1",
        "ratelimit: \"a\";r=0;t=5\rx-injected: 1",
        "ratelimit-policy: \"a\rx-injected: 1\";q=1;w=5",
        "x-ratelimit-limit: 1\nx-injected: 1",
        "x-ratelimit-remaining: 0\rx-injected: 1",
        "retry-after: 7\r\n x-injected: 1",
        "ratelimit: \"a%0d%0ax-injected: 1\";r=0;t=5",
    ];
    for style in ["draft", "x_ratelimit"] {
        let rig = gated(&json!({"rate_limit_headers": style, "cache": {"deny_ttl": "0s"}}));
        for (status, line) in broken
            .iter()
            .flat_map(|line| [("429", line), ("200", line)])
        {
            // The connection ends with it: Envoy is told, so that the next check gets a new one.
            let head = format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: 0");
            let raw = format!("{head}\r\n{line}\r\n\r\n");
            rig.backend().fail_next(1, Fault::Raw(raw.into_bytes()));
            let mut client = rig.raw();
            client
                .write("GET / HTTP/1.1\r\nhost: a\r\nx-tenant-id: a\r\nconnection: close\r\n\r\n");
            let answer = String::from_utf8_lossy(&client.read_to_end()).into_owned();
            let names = answer
                .split(['\r', '\n'])
                .filter_map(|line| line.split_once(':'));
            let injected = names
                .filter(|(name, _)| name.trim() == "x-injected")
                .count();
            assert_eq!(injected, 0, "{line:?}: {answer:?}");
            let checks = rig.backend().take();
            let sent = checks.iter().filter(|check| check.fault.is_some());
            assert_eq!(sent.count(), 1, "{line:?} is what was answered");
        }
        expect_good(&rig);
    }
}

/// HTTP/2 and JSON carry any byte as far as the filter.
#[test]
fn a_clients_request_id_cant_break_out_of_the_document() {
    let hcm = json!({"preserve_external_request_id": true});
    let rig = start(Rig::builder().plugin(config(&json!({}))).hcm(&hcm));
    rig.backend().fail(Fault::Status(429));
    let request = rig.request("GET", "/").header("x-tenant-id", "a");

    let response = request
        .header("x-request-id", b"\"}, \\\xff{\"code\": \"x")
        .send();

    response
        .expect_status(429)
        .expect_json("/code", "quota_exceeded");
    response.expect_json("/request_id", "\"}, \\_{\"code\": \"x");
}

/// CONNECT has no `:path`.
#[test]
fn connect_is_checked_before_the_tunnel_opens() {
    let rig = gated(&json!({}));
    rig.backend().limit("tenant=over", 0, MINUTE);
    let connect = |tenant: &str| {
        let mut tunnel = rig.raw();
        let head = format!("CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\nx-tenant-id: {tenant}\r\n\r\n");
        tunnel.write(head);
        tunnel
    };

    let mut denied = connect("over");
    assert_eq!(denied.read_head().status, 429);
    assert!(rig.upstream().seen().is_empty());
    let mut tunnel = connect("good");
    assert_eq!(tunnel.read_head().status, 200);
    tunnel.write("ping");

    assert_eq!(tunnel.read(4), b"ping");
    rig.envoy()
        .expect_decisions(&[("quota_exceeded", 1), ("within_quota", 1)]);
}

#[test]
fn a_websocket_is_checked_before_it_is_upgraded() {
    let rig = gated(&json!({}));
    rig.backend().limit("tenant=over", 0, MINUTE);
    let upgrade = |tenant: &str| {
        let mut socket = rig.raw();
        socket.write(format!(
            "GET /ws HTTP/1.1\r\nhost: a\r\nx-tenant-id: {tenant}\r\n\
             connection: upgrade\r\nupgrade: websocket\r\n\r\n"
        ));
        socket
    };

    assert_eq!(upgrade("over").read_head().status, 429);
    assert!(rig.upstream().seen().is_empty());
    let mut socket = upgrade("good");
    assert_eq!(socket.read_head().status, 101);
    socket.write("ping");
    assert_eq!(socket.read(4), b"ping");
}

#[test]
fn a_client_that_expects_100_continue_is_denied_all_the_same() {
    let rig = gated(&json!({}));
    rig.backend().limit("tenant=over", 0, MINUTE);
    for (tenant, status) in [("over", 429), ("good", 200)] {
        let mut client = rig.raw();
        client.write(format!(
            "POST /{tenant} HTTP/1.1\r\nhost: a\r\nx-tenant-id: {tenant}\r\n\
             expect: 100-continue\r\ncontent-length: 2\r\n\r\n"
        ));
        assert_eq!(client.read_response().status, 100);
        client.write("ok");
        assert_eq!(client.read_response().status, status);
    }
    assert_eq!(rig.upstream().expect_requests(1)[0].path, "/good");
}

#[test]
fn an_upload_in_progress_is_cut_off_by_a_denial() {
    let rig = gated(&json!({}));
    rig.backend().fail(Fault::Status(429));
    let half = vec![b'x'; 300_000];
    for h2 in [false, true] {
        let upload = rig.request("POST", "/").header("x-tenant-id", "a");
        let upload = upload.unfinished_body(&half);
        let upload = if h2 { upload.h2() } else { upload };
        upload
            .send()
            .expect_status(429)
            .expect_json("/code", "quota_exceeded");
    }
    assert!(rig.upstream().seen().is_empty());
}

/// Not a byte of a request reaches the upstream before its decision; after it, every byte does.
fn body_is_held(rig: &Gated, body: &[u8]) {
    let pending = rig
        .request("POST", "/")
        .header("x-tenant-id", "a")
        .body(body)
        .start();
    rig.backend().expect_checks(1);
    // The check is out and unanswered; the same worker has answered another request meanwhile.
    rig.request("OPTIONS", "/preflight")
        .header("origin", "https://a.example")
        .header("access-control-request-method", "GET")
        .send()
        .expect_status(200);
    assert!(
        rig.upstream()
            .take()
            .iter()
            .all(|seen| seen.method == "OPTIONS")
    );
    assert!(!pending.is_done());

    pending.wait().expect_status(200);
    let seen = rig.upstream().expect_requests(1).remove(0);
    assert_eq!(
        (seen.body_len, seen.body_digest),
        (body.len(), digest(body))
    );
}

#[test]
fn a_body_waits_for_the_decision() {
    let rig = gated(&json!({}));
    rig.backend()
        .fail_next(1, Fault::Delay(Duration::from_millis(600)));

    body_is_held(&rig, &vec![b'x'; 500_000]);
}

/// The option that would let a paused request's body through is no way around the check.
#[test]
fn a_body_waits_even_where_the_host_would_let_it_through() {
    let builder = Rig::builder().plugin(config(&json!({})));
    let rig = start(builder.allow_on_headers_stop_iteration(true));
    rig.backend()
        .fail_next(1, Fault::Delay(Duration::from_millis(600)));

    body_is_held(&rig, &vec![b'x'; 10_000]);

    rig.backend().fail(Fault::Status(429));
    for request in [
        rig.request("POST", "/d").body("data"),
        rig.request("POST", "/d").body("d").h2(),
    ] {
        request
            .header("x-tenant-id", "over")
            .send()
            .expect_status(429);
    }
    assert_eq!(rig.upstream().seen().len(), 1);
}

#[test]
fn trailers_go_with_their_request() {
    for allow in [false, true] {
        let builder = Rig::builder().plugin(config(&json!({})));
        let rig = start(builder.allow_on_headers_stop_iteration(allow));
        rig.backend().fail(Fault::Delay(Duration::from_millis(200)));
        for h2 in [false, true] {
            let request = rig.request("POST", "/").header("x-tenant-id", "a");
            let request = request.body("ok").trailer("x-sum", "1");
            let request = if h2 { request.h2() } else { request };
            request.send().expect_status(200);
        }
        for seen in rig.upstream().expect_requests(2) {
            assert_eq!(seen.trailers, [("x-sum".to_owned(), b"1".to_vec())]);
            assert_eq!((seen.body_len, seen.complete), (2, true));
        }
    }
}

/// The check of a client that leaves has used quota: it is counted, and nothing stays in flight.
#[test]
fn a_client_that_leaves_while_it_waits_is_counted_once() {
    let rig = gated(&json!({}));
    rig.backend()
        .fail_next(2, Fault::Delay(Duration::from_millis(300)));
    let h1 = rig.request("GET", "/").header("x-tenant-id", "a").start();
    let h2 = rig
        .request("GET", "/")
        .header("x-tenant-id", "b")
        .h2()
        .start();
    rig.backend().expect_checks(2);
    rig.envoy().expect_metric("quota_gate_pending", &[], 2);

    h1.abandon();
    h2.abandon();

    for entry in rig.envoy().expect_access_log(2) {
        assert_eq!((entry.status, entry.state.as_str()), (0, ""));
    }
    rig.envoy().expect_decisions(&[("within_quota", 2)]);
    rig.envoy().expect_metric("quota_gate_pending", &[], 0);
    assert!(rig.upstream().seen().is_empty());
    expect_good(&rig);
}

#[test]
fn a_half_closed_or_reset_client_holds_nothing() {
    let rig = gated(&json!({}));
    rig.backend()
        .fail_next(2, Fault::Delay(Duration::from_millis(300)));
    let ask = || {
        let mut client = rig.raw();
        client.write("GET / HTTP/1.1\r\nhost: a\r\nx-tenant-id: a\r\n\r\n");
        client
    };
    let (mut half_closed, reset) = (ask(), ask());
    rig.backend().expect_checks(2);

    half_closed.half_close();
    reset.reset();

    assert_eq!(half_closed.read_to_end(), b"");
    rig.envoy().expect_decisions(&[("within_quota", 2)]);
    expect_good(&rig);
}

/// Clients that come and go by the dozen leave nothing in flight and nothing uncounted.
#[test]
fn many_clients_that_leave_leave_nothing_behind() {
    let rig = gated(&json!({"timeout": "400ms"}));
    rig.backend().fail(Fault::Hang);
    let ask = |number: usize| {
        let request = rig
            .request("GET", "/")
            .header("x-tenant-id", number.to_string());
        if number.is_multiple_of(2) {
            request
        } else {
            request.h2()
        }
    };
    let pending: Vec<_> = (0..40).map(|number| ask(number).start()).collect();
    eventually("some have asked", || {
        (rig.backend().checks().len() > 10).then_some(())
    });

    drop(pending);

    rig.envoy().expect_metric("quota_gate_pending", &[], 0);
    rig.backend().recover();
    expect_good(&rig);
}

/// What the client sends is not what the backend is asked with.
#[test]
fn a_clients_headers_are_not_passed_on_to_the_backend() {
    let rig = gated(&json!({}));
    let request = rig.request("GET", "/").header("x-tenant-id", "a");
    let request = [
        ("x-quota-cost", "0"),
        ("x-quota-descriptor", "tenant=other"),
        ("x-envoy-retry-on", "5xx"),
        ("x-envoy-max-retries", "3"),
        ("x-envoy-upstream-rq-timeout-ms", "1"),
        ("authorization", "Bearer mine"),
        ("cookie", "a=b"),
    ]
    .into_iter()
    .fold(request, |request, (name, value)| {
        request.header(name, value)
    });

    request.send().expect_status(200);

    let check = rig.backend().expect_checks(1).remove(0);
    assert_eq!(check.header_values("x-quota-descriptor"), ["tenant=a"]);
    assert_eq!(
        (check.cost, check.header_values("x-quota-cost")),
        (1, vec!["1".to_owned()])
    );
    let passed: Vec<&str> = check
        .headers
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    for name in [
        "x-envoy-retry-on",
        "x-envoy-max-retries",
        "authorization",
        "cookie",
    ] {
        assert!(!passed.contains(&name), "{name}: {passed:?}");
    }
    assert_eq!(
        check.header_values("x-envoy-expected-rq-timeout-ms"),
        ["5000"]
    );
}

/// A property that is not text (a JWT's claim of another type, a null) is missing, not a trap.
#[test]
fn claims_of_every_type_are_survived() {
    let claim = |name: &str| {
        let path = [
            "metadata",
            "filter_metadata",
            "envoy.filters.http.jwt_authn",
            "jwt_payload",
            name,
        ];
        json!({"name": name, "property": path, "optional": true})
    };
    let names = ["sub", "flag", "number", "nothing", "list", "map"];
    let entries: Vec<Value> = names.map(claim).into();
    let plugin = config(&json!({"descriptor": entries}));
    let rig = start(
        Rig::builder()
            .plugin(plugin)
            .filter_before(envoy_harness::jwt::filter()),
    );
    let claims = json!({
        "sub": "alice", "flag": true, "number": 7, "nothing": null,
        "list": [1, null], "map": {"a": null},
    });
    let bearer = format!("Bearer {}", envoy_harness::jwt::token(&claims));

    rig.request("GET", "/")
        .header("authorization", bearer)
        .send()
        .expect_status(200);

    assert_eq!(
        rig.backend().expect_checks(1)[0].entry("sub"),
        Some("alice")
    );
}

/// Envoy can be told to take more headers than its modules were made for.
#[test]
fn an_answer_of_two_thousand_headers_says_what_it_says() {
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let more = json!({"typed_extension_protocol_options": {options: {
        "@type": format!("type.googleapis.com/{options}"),
        "explicit_http_config": {"http_protocol_options": {}},
        "common_http_protocol_options": {"max_headers_count": 4000},
    }}});
    let builder = Rig::builder().plugin(config(&json!({})));
    let rig = start(builder.backend_cluster(&more));
    rig.backend().limit("tenant=over", 0, MINUTE);
    let ask = |tenant: &str| rig.request("GET", "/").header("x-tenant-id", tenant).send();

    rig.backend().fail(Fault::Headers(2000));

    ask("good").expect_status(200);
    ask("over").expect_status(429);
    rig.envoy()
        .expect_decisions(&[("within_quota", 1), ("quota_exceeded", 1)]);
}

/// What is left of a denied request is never read as the next one.
#[test]
fn a_denied_body_is_not_the_next_request() {
    let rig = gated(&json!({}));
    rig.backend().limit("tenant=over", 0, MINUTE);
    let smuggled = "GET /smuggled HTTP/1.1\r\nhost: a\r\nx-tenant-id: good\r\n\r\n";
    let length = smuggled.len();
    let mut client = rig.raw();

    client.write(format!(
        "POST / HTTP/1.1\r\nhost: a\r\nx-tenant-id: over\r\ncontent-length: {length}\r\n\r\n"
    ));
    client.write(smuggled);
    client.read_response().expect_status(429);

    expect_good(&rig);
    assert_eq!(rig.upstream().expect_requests(1)[0].path, "/good");
    rig.envoy()
        .expect_decisions(&[("quota_exceeded", 1), ("within_quota", 1)]);
}

/// Workers count for themselves and share nothing but the sums.
#[test]
fn a_storm_over_two_workers_is_counted_to_the_last_request() {
    let builder = Rig::builder().plugin(config(&json!({"cache": {"deny_ttl": "0s"}})));
    let rig = start(builder.concurrency(2));
    rig.backend().limit("tenant=over", 0, MINUTE);
    let ask = |number: usize| {
        let tenant = if number.is_multiple_of(3) {
            "over"
        } else {
            "good"
        };
        let request = rig.request("GET", "/").header("x-tenant-id", tenant);
        if number.is_multiple_of(2) {
            request
        } else {
            request.h2()
        }
    };

    let responses = envoy_harness::send_all((0..60).map(ask));

    let denied = responses
        .iter()
        .filter(|response| response.status == 429)
        .count();
    assert_eq!((denied, responses.len()), (20, 60));
    rig.envoy()
        .expect_decisions(&[("quota_exceeded", 20), ("within_quota", 40)]);
}
