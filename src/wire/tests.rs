//! What goes to each backend and what each of its answers means, answer by answer.

mod custom;
mod hostile;

use super::*;
use crate::config::{EntrySpec, Policy, Preset, Source, StatusPattern};
use crate::descriptor::tests::{Random, entry, policy_of};
use crate::descriptor::{Descriptor, describe};
use crate::request::PlainRequest;

// --- headers -----------------------------------------------------------------------------------

#[test]
fn headers_asks_with_headers_alone() {
    let message = encode(
        Preset::Headers,
        &[("tenant", b"acme"), ("plan", b"free")],
        &PLAIN,
    );

    assert_eq!(
        lines(&message),
        [
            ":method: POST",
            ":authority: quota.internal",
            ":path: /check",
            "x-quota-descriptor: tenant=acme&plan=free",
            "x-quota-cost: 3",
            "x-quota-policy: standard",
        ]
    );
    assert_eq!(message.body, b"");
}

#[test]
fn headers_asks_for_a_lease_with_a_least_and_a_most() {
    let message = encode(
        Preset::Headers,
        &[("t", b"a")],
        &Ask {
            cost: 100,
            cost_min: Some(3),
            ..PLAIN
        },
    );

    assert_eq!(message.header("x-quota-cost"), Some(&b"100"[..]));
    assert_eq!(message.header("x-quota-cost-min"), Some(&b"3"[..]));
}

#[test]
fn headers_carries_hostile_bytes_encoded() {
    let message = encode(
        Preset::Headers,
        &[
            ("a b", b"x&y=z+%\r\nx-envoy-retry-on: 5xx"),
            ("c", b"\xff\0"),
        ],
        &Ask {
            policy: "gold plan",
            route: Some(b"chat/v1\n"),
            request_id: Some(b" id\r\nx: y\xff"),
            ..PLAIN
        },
    );

    assert_eq!(
        lines(&message)[3..],
        [
            "x-quota-descriptor: a%20b=x%26y%3Dz%2B%25%0D%0Ax-envoy-retry-on%3A%205xx&c=%FF%00",
            "x-quota-cost: 3",
            "x-quota-policy: gold%20plan",
            "x-quota-route: chat%2Fv1%0A",
            "x-request-id: id__x: y_",
        ]
    );
}

#[test]
fn headers_statuses_allow_deny_reject_or_fail() {
    let wire = wire(Preset::Headers);
    for status in [200, 204, 299] {
        assert_eq!(outcome(&wire, status), Ok(GRANTED), "{status}");
    }
    assert_eq!(outcome(&wire, 429), Ok(ReplyOutcome::Denied));
    for status in [401, 403] {
        assert_eq!(
            outcome(&wire, status),
            Ok(ReplyOutcome::Rejected { status })
        );
    }
    for status in [
        0, 100, 301, 400, 402, 404, 408, 409, 500, 502, 503, 504, 999, 65_535,
    ] {
        assert_eq!(outcome(&wire, status), Err(CheckError::Status(status)));
    }
}

#[test]
fn headers_replies_tell_of_the_limit_in_the_drafts_fields() {
    let reply = decode(
        Preset::Headers,
        200,
        &[
            ("RateLimit", "\"a\";r=7;t=13"),
            ("RateLimit-Policy", "\"a\";q=100;w=60"),
            ("X-RateLimit-Remaining", "99"),
        ],
        "not looked at",
    );

    assert_eq!(reply.unwrap().limits, limits(100, 7, 13, 60));
}

#[test]
fn headers_replies_tell_of_the_limit_in_the_older_fields() {
    let seen = |reset| {
        let headers = [
            ("x-ratelimit-limit", "10, 5;w=1, 10;w=60;name=\"x\""),
            ("x-ratelimit-remaining", "0"),
            ("x-ratelimit-reset", reset),
        ];
        decode(Preset::Headers, 429, &headers, "").unwrap().limits
    };

    assert_eq!(seen("42"), limits(10, 0, 42, 60));
    assert_eq!(seen("1700000042"), limits(10, 0, 42, 60));
}

#[test]
fn headers_limits_that_can_not_be_read_are_ignored() {
    for (name, value) in [
        ("ratelimit", "\"a\";r=soon"),
        ("x-ratelimit-limit", "many"),
        ("x-ratelimit-remaining", ""),
        ("x-ratelimit-reset", "tomorrow"),
        ("retry-after", "later"),
    ] {
        let reply = decode(Preset::Headers, 429, &[(name, value)], "").unwrap();
        assert_eq!(
            (reply.limits, reply.retry_after),
            (Limits::NONE, None),
            "{name}"
        );
    }
    let twice = [("x-ratelimit-limit", "1"), ("x-ratelimit-limit", "2")];
    let reply = decode(Preset::Headers, 200, &twice, "").unwrap();
    assert_eq!(reply.limits, Limits::NONE);
}

#[test]
fn retry_after_is_seconds_or_a_date_and_only_counts_without_a_grant() {
    let seen = |status, value| {
        decode(Preset::Headers, status, &[("Retry-After", value)], "")
            .unwrap()
            .retry_after
            .map(|after| after.as_secs())
    };

    assert_eq!(seen(429, "7"), Some(7));
    assert_eq!(seen(429, "Tue, 14 Nov 2023 22:13:30 GMT"), Some(10));
    assert_eq!(seen(403, "7"), Some(7));
    assert_eq!(seen(200, "7"), None);
}

#[test]
fn a_grant_may_be_of_fewer_units() {
    let seen = |value| {
        decode(Preset::Headers, 200, &[("x-quota-granted", value)], "").map(|reply| reply.outcome)
    };

    assert_eq!(seen("40"), Ok(ReplyOutcome::Granted { units: Some(40) }));
    assert_eq!(seen("0"), Ok(ReplyOutcome::Granted { units: Some(0) }));
    assert_eq!(seen("some"), Err(CheckError::BadReply));
    assert_eq!(seen(""), Err(CheckError::BadReply));
    let twice = [("x-quota-granted", "1"), ("x-quota-granted", "100")];
    assert_eq!(
        decode(Preset::Headers, 200, &twice, ""),
        Err(CheckError::BadReply)
    );
}

#[test]
fn a_no_stays_a_no_whatever_it_says_of_a_grant() {
    for (status, outcome) in [
        (429, ReplyOutcome::Denied),
        (403, ReplyOutcome::Rejected { status: 403 }),
    ] {
        let reply = decode(Preset::Headers, status, &[("x-quota-granted", "some")], "");
        assert_eq!(reply.map(|reply| reply.outcome), Ok(outcome));
    }
}

#[test]
fn cache_control_forbids_or_bounds_reuse() {
    let seen = |fields: &[&str]| {
        let headers: Vec<_> = fields
            .iter()
            .map(|field| ("Cache-Control", *field))
            .collect();
        let caching = decode(Preset::Headers, 200, &headers, "").unwrap().caching;
        (caching.no_store, caching.max_age.map(|age| age.as_secs()))
    };

    assert_eq!(seen(&[]), (false, None));
    assert_eq!(seen(&["no-store"]), (true, None));
    assert_eq!(seen(&["private, No-Cache"]), (true, None));
    assert_eq!(seen(&["max-age=5"]), (false, Some(5)));
    assert_eq!(seen(&["max-age=5", "Max-Age=3"]), (false, Some(3)));
    assert_eq!(seen(&["max-age=soon"]), (false, Some(0)));
    assert_eq!(seen(&["public,max-age = 9 ,x"]), (false, Some(9)));
}

// --- limitador ---------------------------------------------------------------------------------

#[test]
fn limitador_asks_to_check_and_report() {
    let message = encode(
        Preset::Limitador,
        &[("tenant", "Grüße \"x\"".as_bytes()), ("k", b"100%\n\xff")],
        &Ask {
            request_id: Some(b"r-1"),
            ..PLAIN
        },
    );

    assert_eq!(
        lines(&message),
        [
            ":method: POST",
            ":authority: quota.internal",
            ":path: /check_and_report",
            "content-type: application/json",
            "x-request-id: r-1",
        ]
    );
    assert_eq!(
        String::from_utf8(message.body).unwrap(),
        "{\"namespace\":\"api\",\
         \"values\":{\"tenant\":\"Grüße \\\"x\\\"\",\"k\":\"100%25%0A%FF\"},\
         \"delta\":3,\"response_headers\":\"DraftVersion03\"}"
    );
}

#[test]
fn limitadors_answers() {
    let headers = [
        ("x-ratelimit-limit", "5, 5;w=60;name=\"x\""),
        ("x-ratelimit-remaining", "4"),
        ("x-ratelimit-reset", "57"),
    ];
    let reply = decode(Preset::Limitador, 200, &headers, "null").unwrap();
    assert_eq!(reply.outcome, GRANTED);
    assert_eq!(reply.limits, limits(5, 4, 57, 60));
    let reply = decode(Preset::Limitador, 429, &headers, "null").unwrap();
    assert_eq!(reply.outcome, ReplyOutcome::Denied);

    // No limit matches: 200 and nothing told.
    let reply = decode(Preset::Limitador, 200, &[], "null").unwrap();
    assert_eq!((reply.outcome, reply.limits), (GRANTED, Limits::NONE));
    // Malformed JSON, an unknown path, a wrong content type, storage trouble.
    for status in [400, 401, 403, 404, 415, 422, 500, 503] {
        let reply = decode(Preset::Limitador, status, &[], "null");
        assert_eq!(reply, Err(CheckError::Status(status)));
    }
}

// --- envoy_ratelimit ---------------------------------------------------------------------------

#[test]
fn envoy_ratelimit_asks_in_protobufs_json() {
    let message = encode(
        Preset::EnvoyRatelimit,
        &[("a", b"1"), ("b", b"\"\\")],
        &PLAIN,
    );

    assert_eq!(message.header(":path"), Some(&b"/json"[..]));
    assert_eq!(
        String::from_utf8(message.body).unwrap(),
        "{\"domain\":\"api\",\"descriptors\":[{\"entries\":[\
         {\"key\":\"a\",\"value\":\"1\"},{\"key\":\"b\",\"value\":\"\\\"\\\\\"}\
         ]}],\"hitsAddend\":3}"
    );
}

#[test]
fn envoy_ratelimit_is_told_of_a_check_that_costs_nothing() {
    let message = encode(
        Preset::EnvoyRatelimit,
        &[("a", b"1")],
        &Ask { cost: 0, ..PLAIN },
    );

    assert_eq!(
        String::from_utf8(message.body).unwrap(),
        "{\"domain\":\"api\",\"descriptors\":[{\"entries\":[\
         {\"key\":\"a\",\"value\":\"1\"}],\"hitsAddend\":\"0\"}],\"hitsAddend\":0}"
    );
}

#[test]
fn envoy_ratelimits_yes_and_no() {
    let yes = r#"{"overallCode":"OK","statuses":[{"code":"OK","currentLimit":
        {"requestsPerUnit":100,"unit":"MINUTE"},"limitRemaining":93,"durationUntilReset":"55s"}]}"#;
    let reply = decode(Preset::EnvoyRatelimit, 200, &[], yes).unwrap();
    assert_eq!(reply.outcome, GRANTED);
    assert_eq!(reply.limits, limits(100, 93, 55, 60));

    // Used up: `limitRemaining` is left out because it is 0.
    let no = r#"{"overallCode":"OVER_LIMIT","statuses":[{"code":"OVER_LIMIT","currentLimit":
        {"requestsPerUnit":100,"unit":"HOUR"},"durationUntilReset":"1800s"}]}"#;
    for status in [200, 429] {
        let reply = decode(Preset::EnvoyRatelimit, status, &[], no).unwrap();
        assert_eq!(reply.outcome, ReplyOutcome::Denied);
        assert_eq!(reply.limits, limits(100, 0, 1_800, 3_600));
    }
}

#[test]
fn envoy_ratelimits_tightest_limit_is_told_and_no_limit_is_not() {
    let body = r#"{"overallCode":"OK","statuses":[
        {"code":"OK"},
        {"code":"OK","currentLimit":{"requestsPerUnit":9,"unit":"DAY"},"limitRemaining":5,
         "durationUntilReset":"80000s"},
        {"code":"OK","currentLimit":{"requestsPerUnit":3,"unit":"SECOND"},"limitRemaining":2,
         "durationUntilReset":"1s"}]}"#;
    let reply = decode(Preset::EnvoyRatelimit, 200, &[], body).unwrap();
    assert_eq!(reply.limits, limits(3, 2, 1, 1));

    // Of two that are used up, the one that takes longer to come back.
    let body = r#"{"overallCode":"OVER_LIMIT","statuses":[
        {"code":"OVER_LIMIT","currentLimit":{"requestsPerUnit":3,"unit":"SECOND"},
         "durationUntilReset":"1s"},
        {"code":"OVER_LIMIT","currentLimit":{"requestsPerUnit":9,"unit":"DAY"},
         "durationUntilReset":"80000s"}]}"#;
    let reply = decode(Preset::EnvoyRatelimit, 429, &[], body).unwrap();
    assert_eq!(reply.limits, limits(9, 0, 80_000, 86_400));

    for body in [
        r#"{"overallCode":"OK","statuses":[{"code":"OK"}]}"#,
        r#"{"overallCode":"OK"}"#,
    ] {
        let reply = decode(Preset::EnvoyRatelimit, 200, &[], body).unwrap();
        assert_eq!((reply.outcome, reply.limits), (GRANTED, Limits::NONE));
    }
}

#[test]
fn envoy_ratelimits_errors_are_failures() {
    // Redis down, no configuration, an empty domain: 400 with a text.
    for status in [400, 401, 403, 404, 500, 503] {
        let reply = decode(
            Preset::EnvoyRatelimit,
            status,
            &[],
            "no rate limit configuration",
        );
        assert_eq!(reply, Err(CheckError::Status(status)));
    }
    for body in [
        "",
        "null",
        "[]",
        "{}",
        "OK",
        r#"{"overallCode":"UNKNOWN"}"#,
        r#"{"overallCode":true}"#,
        r#"{"overallCode":"OK""#,
        r#"{"overallCode":"OK"} x"#,
    ] {
        let reply = decode(Preset::EnvoyRatelimit, 200, &[], body);
        assert_eq!(reply, Err(CheckError::BadReply), "{body}");
    }
}

#[test]
fn a_denial_by_status_needs_no_body() {
    for body in ["", "<html>", "{"] {
        let reply = decode(Preset::EnvoyRatelimit, 429, &[("retry-after", "3")], body).unwrap();
        assert_eq!(reply.outcome, ReplyOutcome::Denied);
        assert_eq!(reply.retry_after, Some(Duration::from_secs(3)));
    }
}

#[test]
fn a_body_is_fetched_only_where_a_decision_stands_in_it() {
    let reads = ALL.map(|preset| wire(preset).reads_body());

    assert_eq!(reads, [true, true, false, false, true, true]);
}

#[test]
fn a_body_beyond_bounds_is_no_decision() {
    let padding = " ".repeat(BODY_BYTES_MAX);
    let body = format!("{{\"overallCode\":\"OK\"}}{padding}");

    let reply = decode(Preset::EnvoyRatelimit, 200, &[], &body);
    assert_eq!(reply, Err(CheckError::BadReply));
    let reply = decode(Preset::Headers, 200, &[], &body);
    assert_eq!(reply.unwrap().outcome, GRANTED);
    let nested = "[".repeat(60_000);
    let reply = decode(Preset::EnvoyRatelimit, 200, &[], &nested);
    assert_eq!(reply, Err(CheckError::BadReply));
}

// --- gubernator, throttlecrab, unkey: backends that are told the quota -------------------------

#[test]
fn gubernator_is_told_the_quota_in_milliseconds() {
    let message = encode(Preset::Gubernator, &[("a", b"1"), ("b", b"\"\xff")], &PLAIN);

    assert_eq!(message.header(":path"), Some(&b"/v1/GetRateLimits"[..]));
    assert_eq!(
        String::from_utf8(message.body).unwrap(),
        "{\"requests\":[{\"name\":\"api/standard\",\"unique_key\":\"a=1&b=%22%FF\",\
         \"hits\":\"3\",\"limit\":\"10\",\"duration\":\"60500\"}]}"
    );
}

#[test]
fn gubernators_answers() {
    let answer = |status: &str, error: &str| {
        format!(
            r#"{{"responses":[{{"status":{status},"limit":"10","remaining":"7",
               "reset_time":"1700000042000","error":"{error}","metadata":{{"owner":"x:81"}}}}]}}"#
        )
    };
    let seen = |body: &str| decode(Preset::Gubernator, 200, &[], body);

    let yes = seen(&answer("\"UNDER_LIMIT\"", "")).unwrap();
    assert_eq!(yes.outcome, GRANTED);
    assert_eq!(yes.limits.limit, Some(10));
    assert_eq!(yes.limits.remaining, Some(7));
    assert_eq!(yes.limits.reset, Some(Duration::from_secs(42)));
    let no = seen(&answer("\"OVER_LIMIT\"", "")).unwrap();
    assert_eq!(no.outcome, ReplyOutcome::Denied);
    assert_eq!(
        seen(&answer("1", "")).unwrap().outcome,
        ReplyOutcome::Denied
    );
    assert_eq!(seen(&answer("0", "")).unwrap().outcome, GRANTED);

    for body in [
        answer("\"UNDER_LIMIT\"", "field 'unique_key' cannot be empty"),
        answer("\"OVER_LIMIT\"", "while fetching rate limit from peer"),
        answer("\"NEW\"", ""),
        r#"{"responses":[]}"#.to_owned(),
        r#"{"code":3,"message":"proto: syntax error"}"#.to_owned(),
    ] {
        assert_eq!(seen(&body), Err(CheckError::BadReply), "{body}");
    }
    for status in [400, 404, 429, 500, 503, 504] {
        let reply = decode(Preset::Gubernator, status, &[], "{}");
        assert_eq!(reply, Err(CheckError::Status(status)));
    }
}

#[test]
fn throttlecrab_is_told_the_quota_in_whole_seconds() {
    let message = encode(Preset::Throttlecrab, &[("a", b"1")], &PLAIN);

    assert_eq!(message.header(":path"), Some(&b"/throttle"[..]));
    assert_eq!(
        String::from_utf8(message.body).unwrap(),
        "{\"key\":\"api/standard?a=1\",\"max_burst\":20,\"count_per_period\":10,\"period\":61,\
         \"quantity\":3}"
    );
}

/// As its server 0.4.40 answered to bodies of ours.
#[test]
fn throttlecrabs_answers() {
    let yes = r#"{"allowed":true,"limit":4,"remaining":1,"reset_after":30,"retry_after":0}"#;
    let reply = decode(Preset::Throttlecrab, 200, &[], yes).unwrap();
    assert_eq!((reply.outcome, reply.retry_after), (GRANTED, None));
    assert_eq!(reply.limits.limit, Some(4));
    assert_eq!(reply.limits.remaining, Some(1));
    assert_eq!(reply.limits.reset, Some(Duration::from_secs(30)));

    let no = r#"{"allowed":false,"limit":4,"remaining":1,"reset_after":30,"retry_after":12}"#;
    let reply = decode(Preset::Throttlecrab, 200, &[], no).unwrap();
    assert_eq!(reply.outcome, ReplyOutcome::Denied);
    assert_eq!(reply.limits.remaining, Some(1));
    assert_eq!(reply.retry_after, Some(Duration::from_secs(12)));

    for (status, body) in [
        (
            400,
            "Failed to parse the request body as JSON: EOF while parsing an object",
        ),
        (405, ""),
        (
            415,
            "Expected request with `Content-Type: application/json`",
        ),
        (
            422,
            "Failed to deserialize the JSON body into the target type: missing field",
        ),
        (429, ""),
        (
            500,
            r#"{"error":"Internal server error: invalid rate limit parameters"}"#,
        ),
    ] {
        let reply = decode(Preset::Throttlecrab, status, &[], body);
        assert_eq!(reply, Err(CheckError::Status(status)));
    }
    for body in [
        "",
        "null",
        "{}",
        r#"{"allowed":null}"#,
        r#"{"allowed":"perhaps"}"#,
    ] {
        let reply = decode(Preset::Throttlecrab, 200, &[], body);
        assert_eq!(reply, Err(CheckError::BadReply), "{body}");
    }
}

#[test]
fn unkey_is_told_the_quota_and_the_identifier() {
    let message = encode(Preset::Unkey, &[("user", b"u 1")], &PLAIN);

    assert_eq!(message.header(":path"), Some(&b"/v2/ratelimit.limit"[..]));
    assert_eq!(
        String::from_utf8(message.body).unwrap(),
        "{\"namespace\":\"api\",\"identifier\":\"standard?user=u%201\",\"limit\":10,\
         \"duration\":60500,\"cost\":3}"
    );
}

#[test]
fn unkeys_answers() {
    let answer = |success: bool| {
        format!(
            r#"{{"meta":{{"requestId":"req_1"}},"data":{{"success":{success},"limit":10,
               "remaining":4,"reset":1700000042500,"overrideId":""}}}}"#
        )
    };

    let yes = decode(Preset::Unkey, 200, &[], &answer(true)).unwrap();
    assert_eq!(yes.outcome, GRANTED);
    assert_eq!(yes.limits.limit, Some(10));
    assert_eq!(yes.limits.remaining, Some(4));
    assert_eq!(yes.limits.reset, Some(Duration::from_millis(42_500)));
    let no = decode(Preset::Unkey, 200, &[], &answer(false)).unwrap();
    assert_eq!(no.outcome, ReplyOutcome::Denied);

    // 401, 403: the root key; 404, 410: the namespace; 429: the workspace. None is the client's.
    let error = r#"{"meta":{"requestId":"req_1"},"error":{"status":429,"title":"x"}}"#;
    for status in [400, 401, 403, 404, 410, 429, 500] {
        let reply = decode(Preset::Unkey, status, &[], error);
        assert_eq!(reply, Err(CheckError::Status(status)));
    }
    assert_eq!(
        decode(Preset::Unkey, 200, &[], error),
        Err(CheckError::BadReply)
    );
}

// --- what a backend's configuration changes ----------------------------------------------------

#[test]
fn a_backends_statuses_go_before_the_presets() {
    let mut backend = backend(Preset::Headers);
    backend.statuses = Statuses {
        allow: Some(vec![StatusPattern::Exact(204)]),
        deny: Some(vec![StatusPattern::Exact(403), StatusPattern::Class(5)]),
        reject: None,
    };
    let wire = Wire::new(&backend);

    assert_eq!(outcome(&wire, 204), Ok(GRANTED));
    assert_eq!(outcome(&wire, 200), Err(CheckError::Status(200)));
    assert_eq!(outcome(&wire, 403), Ok(ReplyOutcome::Denied));
    assert_eq!(outcome(&wire, 503), Ok(ReplyOutcome::Denied));
    assert_eq!(outcome(&wire, 429), Err(CheckError::Status(429)));
    assert_eq!(
        outcome(&wire, 401),
        Ok(ReplyOutcome::Rejected { status: 401 })
    );
}

#[test]
fn one_status_goes_before_a_hundred() {
    let mut backend = backend(Preset::Headers);
    backend.statuses = Statuses {
        allow: Some(vec![StatusPattern::Exact(404)]),
        deny: Some(vec![StatusPattern::Class(4)]),
        reject: Some(vec![StatusPattern::Exact(410)]),
    };
    let wire = Wire::new(&backend);

    assert_eq!(outcome(&wire, 404), Ok(GRANTED));
    assert_eq!(
        outcome(&wire, 410),
        Ok(ReplyOutcome::Rejected { status: 401 })
    );
    assert_eq!(outcome(&wire, 400), Ok(ReplyOutcome::Denied));
}

#[test]
fn a_backends_statuses_work_for_a_preset_that_decides_by_body() {
    let mut backend = backend(Preset::EnvoyRatelimit);
    backend.statuses.deny = Some(vec![StatusPattern::Exact(200)]);
    backend.statuses.allow = Some(vec![StatusPattern::Exact(202)]);
    let wire = Wire::new(&backend);

    assert_eq!(outcome(&wire, 200), Ok(ReplyOutcome::Denied));
    assert_eq!(outcome(&wire, 202), Err(CheckError::BadReply));
}

#[test]
fn the_operators_path_and_headers_go_along() {
    let mut backend = backend(Preset::Limitador);
    backend.path = Some("/quota/check".into());
    backend.headers = [
        ("Authorization", "Bearer t"),
        (":path", "/evil"),
        ("Host", "evil"),
        ("content-length", "0"),
        ("content-type", "text/plain"),
        ("transfer-encoding", "chunked"),
        ("X-Envoy-Retry-On", "5xx"),
        ("x-request-id", "mine"),
        ("x-tag", "a\r\nb"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec();
    let policy = policy_of(vec![]);
    let descriptor = descriptor(&policy, &[]);

    let message = Wire::new(&backend).encode(&check(&policy, &descriptor));

    assert_eq!(
        lines(&message),
        [
            ":method: POST",
            ":authority: quota.internal",
            ":path: /quota/check",
            "content-type: application/json",
            "authorization: Bearer t",
            "x-tag: a__b",
        ]
    );
}

// --- for every preset --------------------------------------------------------------------------

#[test]
fn different_descriptors_are_different_messages() {
    let values: [&[u8]; 12] = [
        b"a",
        b"a&b=c",
        b"%",
        b"%25",
        b"%2525",
        b"\xff",
        b"%FF",
        b"\"",
        b"\\\"",
        b"\0",
        b"%00",
        "ÿ".as_bytes(),
    ];
    for preset in ALL {
        let mut seen = Vec::new();
        for first in values {
            for second in values {
                let message = encode(preset, &[("a", first), ("b", second)], &PLAIN);
                let shown = lines(&message).join("\n").into_bytes();
                seen.push([&shown[..], &message.body].concat());
            }
        }
        let all = seen.len();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), all, "{preset:?}");
    }
}

#[test]
fn random_values_make_clean_headers_and_whole_json() {
    let mut random = Random(5);
    for _ in 0..5_000 {
        let (a, b, route, id) = (
            random.bytes(40),
            random.bytes(40),
            random.bytes(40),
            random.bytes(200),
        );
        for preset in ALL {
            let message = encode(
                preset,
                &[("a", &a), ("b", &b)],
                &Ask {
                    cost: 1,
                    route: Some(&route),
                    request_id: Some(&id),
                    ..PLAIN
                },
            );
            for (name, value) in message.headers() {
                assert!(
                    value.iter().all(|byte| matches!(byte, 0x20..=0x7e)),
                    "{name}"
                );
            }
            let body = serde_json::from_slice::<serde_json::Value>(&message.body);
            assert!(message.body.is_empty() || body.is_ok());
        }
    }
}

#[test]
fn random_replies_break_nothing() {
    let mut random = Random(17);
    let names = [
        "ratelimit",
        "ratelimit-policy",
        "x-ratelimit-limit",
        "x-ratelimit-reset",
        "retry-after",
        "cache-control",
        "x-quota-granted",
    ];
    let wires = ALL.map(wire);
    for _ in 0..20_000 {
        let status = [200, 429, 403, 500][usize::try_from(random.next() % 4).unwrap()];
        let values: Vec<_> = names.map(|_| random.bytes(30)).to_vec();
        let headers: Vec<_> = names
            .iter()
            .zip(&values)
            .map(|(name, value)| (name.as_bytes(), value.as_slice()))
            .collect();
        let body = random.bytes(60);
        for wire in &wires {
            let reply = wire.decode(&RawReply {
                status,
                headers: &headers,
                body: &body,
                now: NOW,
            });
            assert_ne!(reply.map(|reply| reply.outcome), Err(CheckError::Internal));
        }
    }
}

const ALL: [Preset; 6] = [
    Preset::EnvoyRatelimit,
    Preset::Gubernator,
    Preset::Headers,
    Preset::Limitador,
    Preset::Throttlecrab,
    Preset::Unkey,
];
const QUOTA: QuotaTerms = QuotaTerms {
    units: 10,
    per: Duration::from_millis(60_500),
    burst: 20,
};
const GRANTED: ReplyOutcome = ReplyOutcome::Granted { units: None };
/// 2023-11-14 22:13:20 UTC.
const NOW: Wall = Wall::from_secs(1_700_000_000);

fn report(preset: Preset, units: i64, unchecked: Option<&'static str>) -> Message {
    let entries: &[(&str, &[u8])] = &[("tenant", b"a&b")];
    let policy = policy_of(specs(entries));
    let descriptor = descriptor(&policy, entries);
    let told = Told {
        id: "ab-1-7",
        requests: 3,
        unchecked,
        units,
    };
    let check = Check {
        told: Some(told),
        quota: Some(QUOTA),
        ..check(&policy, &descriptor)
    };
    wire(preset).encode_report(&check).unwrap()
}

#[test]
fn headers_are_told_units_with_their_sign_and_an_id() {
    let message = report(Preset::Headers, -60, Some("failed_open"));
    for (name, value) in [
        (":method", "POST"),
        (":path", "/report"),
        ("x-quota-descriptor", "tenant=a%26b"),
        ("x-quota-cost", "-60"),
        ("x-quota-policy", "standard"),
        ("x-quota-requests", "3"),
        ("x-quota-settlement-id", "ab-1-7"),
        ("x-quota-unchecked", "failed_open"),
    ] {
        assert_eq!(message.header(name), Some(value.as_bytes()), "{name}");
    }
    let checked = report(Preset::Headers, 60, None);
    assert_eq!(checked.header("x-quota-unchecked"), None);
}

#[test]
fn bodies_tell_units_in_each_language() {
    for (preset, path, body) in [
        (
            Preset::Limitador,
            "/report",
            r#"{"namespace":"api","values":{"tenant":"a&b"},"delta":60}"#,
        ),
        (
            Preset::EnvoyRatelimit,
            "/json",
            r#"{"domain":"api","descriptors":[{"entries":[{"key":"tenant","value":"a&b"}]}],"hitsAddend":60}"#,
        ),
        (
            Preset::Gubernator,
            "/v1/GetRateLimits",
            r#"{"requests":[{"name":"api/standard","unique_key":"tenant=a%26b","hits":"10","limit":"10","duration":"60500","behavior":"DRAIN_OVER_LIMIT"}]}"#,
        ),
    ] {
        let message = report(preset, 60, None);
        assert_eq!(message.header(":path"), Some(path.as_bytes()));
        assert_eq!(String::from_utf8(message.body).unwrap(), body);
    }
}

/// It refuses what is more than the whole limit where nothing has been counted yet, and empties the
/// window with as much as the limit.
#[test]
fn gubernator_is_told_of_no_more_than_the_quota() {
    let hits = |units| {
        let body = report(Preset::Gubernator, units, None).body;
        let body = String::from_utf8(body).unwrap();
        let (_, hits) = body.split_once(r#""hits":""#).unwrap();
        hits.split_once('"').unwrap().0.to_owned()
    };
    assert_eq!(
        [9, 10, 11, i64::MAX, -11].map(hits),
        ["9", "10", "10", "10", "-11"]
    );
}

#[test]
fn a_report_to_envoy_ratelimit_fits_its_field() {
    let most = |preset| wire(preset).report_most();
    assert_eq!(most(Preset::EnvoyRatelimit), Some(4_294_967_295));
    assert_eq!(most(Preset::Headers), None);
}

#[test]
fn a_report_is_counted_where_its_language_says_so() {
    let read = |preset, status, body: &str| {
        let reply = RawReply {
            status,
            headers: &[],
            body: body.as_bytes(),
            now: NOW,
        };
        wire(preset).decode_report(&reply)
    };
    assert_eq!(read(Preset::Headers, 204, ""), Ok(()));
    assert_eq!(read(Preset::Headers, 429, ""), Err(CheckError::Status(429)));
    assert_eq!(read(Preset::Limitador, 200, "null"), Ok(()));
    assert_eq!(read(Preset::EnvoyRatelimit, 429, ""), Ok(()));
    assert_eq!(
        read(Preset::EnvoyRatelimit, 400, ""),
        Err(CheckError::BadReply)
    );
    let good = r#"{"responses":[{"status":"OVER_LIMIT","error":""}]}"#;
    assert_eq!(read(Preset::Gubernator, 200, good), Ok(()));
    let bad = r#"{"responses":[{"error":"no owner"}]}"#;
    assert_eq!(
        read(Preset::Gubernator, 200, bad),
        Err(CheckError::BadReply)
    );
    assert_eq!(
        read(Preset::Gubernator, 200, "x"),
        Err(CheckError::BadReply)
    );
}

#[test]
fn a_peek_at_limitador_has_a_path_of_its_own() {
    let entries: &[(&str, &[u8])] = &[("tenant", b"a")];
    let policy = policy_of(specs(entries));
    let descriptor = descriptor(&policy, entries);
    let peek = Check {
        peek: true,
        ..check(&policy, &descriptor)
    };
    let path = |preset| {
        wire(preset)
            .encode(&peek)
            .header(":path")
            .map(<[u8]>::to_vec)
    };
    assert_eq!(path(Preset::Limitador), Some(b"/check".to_vec()));
    assert_eq!(path(Preset::Headers), Some(b"/check".to_vec()));
    assert_eq!(
        path(Preset::Gubernator),
        Some(b"/v1/GetRateLimits".to_vec())
    );
}

#[test]
fn units_are_taken_back_where_the_backend_has_a_way_and_nowhere_else() {
    let takes_back = |preset| wire(preset).takes_back();
    let presets = [Preset::Headers, Preset::Gubernator];
    assert_eq!(presets.map(takes_back), [true; 2]);
    let presets = [
        Preset::Limitador,
        Preset::EnvoyRatelimit,
        Preset::Throttlecrab,
        Preset::Unkey,
    ];
    assert_eq!(presets.map(takes_back), [false; 4]);
}

fn backend(preset: Preset) -> Backend {
    Backend {
        index: 0,
        name: "quota".into(),
        cluster: "quota-backend".into(),
        authority: "quota.internal".into(),
        preset,
        custom: None,
        path: None,
        report_path: None,
        namespace: "api".into(),
        timeout: Duration::from_millis(100),
        headers: Vec::new(),
        statuses: Statuses::default(),
        max_pending: 1,
        breaker: None,
    }
}

fn wire(preset: Preset) -> Wire {
    Wire::new(&backend(preset))
}

fn specs(entries: &[(&str, &[u8])]) -> Vec<EntrySpec> {
    entries
        .iter()
        .map(|(name, _)| EntrySpec {
            optional: true,
            ..entry(name, Source::Header((*name).into()))
        })
        .collect()
}

fn descriptor(policy: &Policy, entries: &[(&str, &[u8])]) -> Descriptor {
    let request = entries
        .iter()
        .fold(PlainRequest::default(), |request, (name, value)| {
            request.with_header(name, value)
        });
    describe(policy, &request).unwrap()
}

fn check<'a>(policy: &'a Policy, descriptor: &'a Descriptor) -> Check<'a> {
    Check {
        entries: descriptor.entries(policy),
        cost: 3,
        cost_min: None,
        policy: &policy.name,
        quota: None,
        route: None,
        request_id: None,
        peek: false,
        told: None,
    }
}

/// What a test may say of a check beside its descriptor.
struct Ask<'a> {
    cost: u64,
    cost_min: Option<u64>,
    policy: &'a str,
    route: Option<&'a [u8]>,
    request_id: Option<&'a [u8]>,
}

const PLAIN: Ask<'static> = Ask {
    cost: 3,
    cost_min: None,
    policy: "standard",
    route: None,
    request_id: None,
};

fn encode(preset: Preset, entries: &[(&str, &[u8])], ask: &Ask<'_>) -> Message {
    encode_with(&wire(preset), entries, ask)
}

fn encode_with(wire: &Wire, entries: &[(&str, &[u8])], ask: &Ask<'_>) -> Message {
    let policy = policy_of(specs(entries));
    let descriptor = descriptor(&policy, entries);
    wire.encode(&Check {
        entries: descriptor.entries(&policy),
        cost: ask.cost,
        cost_min: ask.cost_min,
        policy: ask.policy,
        quota: Some(QUOTA),
        route: ask.route,
        request_id: ask.request_id,
        peek: false,
        told: None,
    })
}

fn decode(
    preset: Preset,
    status: u16,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Reply, CheckError> {
    decode_with(&wire(preset), status, headers, body)
}

fn decode_with(
    wire: &Wire,
    status: u16,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Reply, CheckError> {
    let headers: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
        .collect();
    wire.decode(&RawReply {
        status,
        headers: &headers,
        body: body.as_bytes(),
        now: NOW,
    })
}

fn outcome(wire: &Wire, status: u16) -> Result<ReplyOutcome, CheckError> {
    let reply = RawReply {
        status,
        headers: &[],
        body: b"",
        now: NOW,
    };
    wire.decode(&reply).map(|reply| reply.outcome)
}

fn limits(limit: u64, remaining: u64, reset: u64, window: u64) -> Limits {
    Limits {
        limit: Some(limit),
        remaining: Some(remaining),
        reset: Some(Duration::from_secs(reset)),
        window: Some(Duration::from_secs(window)),
    }
}

fn lines(message: &Message) -> Vec<String> {
    message
        .headers()
        .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value)))
        .collect()
}
