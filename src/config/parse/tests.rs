//! A configuration is accepted whole or refused with all that is wrong, in exactly these words.

use std::time::Duration;

use super::*;
use crate::config::form::Form;
use crate::config::keys::{Presence, Table};
use crate::config::protobuf::encode::encode_struct;
use crate::config::value::Number;
use crate::config::{
    Choice, Cost, Emergency, EmergencyMode, Enforcement, FailureMode, LeaseTerms, LocalLimit,
    Policy, Preset, PropertyType, QuotaTerms, RateLimitHeaders, Source, StatusPattern,
};
use crate::time::Wall;

#[test]
fn the_example_of_the_documentation_is_valid() {
    let config = parse(EXAMPLE.as_bytes()).unwrap();

    let backend = &config.backends[0];
    assert_eq!(backend.name, "quota");
    assert_eq!(backend.cluster, "quota-backend");
    assert_eq!(backend.authority, "quota.internal");
    assert_eq!(backend.preset, Preset::Headers);
    assert_eq!(backend.path.as_deref(), Some("/check"));
    assert_eq!(backend.namespace, "api");
    assert_eq!(backend.timeout, Duration::from_millis(100));
    assert_eq!(
        backend.headers,
        [("authorization".to_owned(), "Bearer secret".to_owned())]
    );
    assert_eq!(backend.statuses.allow, Some(vec![StatusPattern::Class(2)]));
    assert_eq!(
        backend.statuses.reject,
        Some(vec![StatusPattern::Exact(401), StatusPattern::Exact(403)])
    );
    assert_eq!(backend.max_pending, 1_024);
    let breaker = backend.breaker.as_ref().unwrap();
    assert_eq!(breaker.failure_permille, 500);
    assert_eq!(breaker.open_for_max, Duration::from_secs(30));
    assert_eq!(config.host_budget, Duration::from_secs(1));
    assert_eq!(config.status_path.as_deref(), Some("/-/quota-gate"));
    assert_eq!(
        config.emergency,
        Some(Emergency {
            mode: EmergencyMode::FailOpen,
            reason: "INC-123".to_owned(),
            until: Wall::from_secs(1_801_432_800),
        })
    );
    assert_eq!(config.routes.len(), 3);
    assert!(matches!(config.routes[2].choice, Choice::Off));
}

#[test]
fn the_example_s_policy_is_read_whole() {
    let config = parse(EXAMPLE.as_bytes()).unwrap();

    let policy = policy(&config.default_policy);
    assert_eq!(policy.name.as_ref(), "standard");
    assert_eq!(policy.descriptor.len(), 6);
    assert_eq!(
        policy.descriptor[1].source,
        Source::Property {
            path: [
                "metadata",
                "filter_metadata",
                "envoy.filters.http.jwt_authn",
                "jwt_payload",
                "sub"
            ]
            .map(str::to_owned)
            .to_vec(),
            value_type: PropertyType::String,
        }
    );
    assert!(policy.descriptor[1].optional);
    assert_eq!(policy.descriptor[2].default.as_deref(), Some("free"));
    assert_eq!(
        policy.descriptor[3].source,
        Source::ClientIp { trusted_hops: 1 }
    );
    assert_eq!(policy.descriptor[4].source, Source::RouteName);
    assert_eq!(policy.descriptor[5].source, Source::Value("v1".to_owned()));
    assert_eq!(policy.cost, Cost::Fixed(1));
    assert_eq!(policy.failure_mode, FailureMode::FailClosed);
    assert_eq!(
        policy.local_limit,
        Some(LocalLimit {
            burst: 20,
            per: Duration::from_secs(1),
            units: 10,
        })
    );
    assert_eq!(policy.timeout, Duration::from_millis(80));
    assert_eq!(policy.cache.deny, Duration::from_secs(1));
    assert_eq!(
        policy.lease,
        Some(LeaseTerms {
            max_units: 100,
            ttl: Duration::from_secs(1),
        })
    );
    assert_eq!(
        policy.failure_mode_header.as_deref(),
        Some("x-quota-failure-mode")
    );
    assert_eq!(policy.rate_limit_headers, RateLimitHeaders::Draft);
    assert_eq!(policy.denial.allow_origins, ["https://app.example"]);
}

#[test]
fn what_is_left_out_has_its_default() {
    let config = parse(MINIMAL.as_bytes()).unwrap();

    let backend = &config.backends[0];
    assert_eq!(backend.authority, "c");
    assert_eq!(backend.preset, Preset::Headers);
    assert_eq!(backend.path, None);
    assert_eq!(backend.namespace, "quota-gate");
    assert_eq!(backend.timeout, Duration::from_millis(100));
    assert_eq!(backend.max_pending, 1_024);
    assert_eq!(backend.statuses.deny, None);
    let breaker = backend.breaker.as_ref().unwrap();
    assert_eq!(breaker.consecutive_failures, 5);
    assert_eq!(breaker.failure_permille, 500);
    assert_eq!(breaker.min_calls, 20);
    assert_eq!(breaker.window, Duration::from_secs(10));
    assert_eq!(breaker.open_for, Duration::from_secs(1));
    assert_eq!(breaker.open_for_max, Duration::from_secs(30));
    assert_eq!(breaker.half_open_calls, 1);
    let policy = policy(&config.default_policy);
    assert_eq!(policy.cost, Cost::Fixed(1));
    assert_eq!(policy.local_limit, None);
    assert_eq!(policy.timeout, Duration::from_millis(100));
    assert_eq!(policy.host_budget, Duration::from_secs(1));
    assert_eq!(policy.cache.allow, Duration::ZERO);
    assert_eq!(policy.cache.deny, Duration::from_secs(1));
    assert_eq!(policy.cache.rejected, Duration::ZERO);
    assert_eq!(policy.cache.stale_if_error, Duration::ZERO);
    assert_eq!(policy.lease, None);
    assert_eq!(policy.enforcement, Enforcement::Enforce);
    assert_eq!(policy.denial.status, 429);
    assert_eq!(policy.denial.unavailable_status, 503);
    assert_eq!(config.emergency, None);
    assert_eq!(config.status_path, None);
}

#[test]
fn a_breaker_can_be_switched_off_and_partly_set() {
    let config = parse(
        br#"{"backends": {"a": {"cluster": "c", "breaker": "off"},
                          "b": {"cluster": "c", "breaker": {"failure_rate": 1, "min_calls": 3}}},
             "default_policy": "off", "host_budget": "1s"}"#,
    )
    .unwrap();

    assert_eq!(config.backends[0].breaker, None);
    let breaker = config.backends[1].breaker.as_ref().unwrap();
    assert_eq!(breaker.failure_permille, 1_000);
    assert_eq!(breaker.min_calls, 3);
    assert_eq!(breaker.consecutive_failures, 5);
}

#[test]
fn a_cost_header_has_a_default_that_is_not_above_its_maximum() {
    let config = with_policy(r#""cost": {"header": "X-Cost", "max": 100}"#);

    assert_eq!(
        policy(&parse(config.as_bytes()).unwrap().default_policy).cost,
        Cost::Header {
            default: Some(1),
            max: 100,
            name: "x-cost".to_owned(),
        }
    );
}

#[test]
fn backends_and_policies_are_sorted_and_found_by_name() {
    let config = parse(
        br#"{"backends": {"z": {"cluster": "c1"}, "a": {"cluster": "c2"}},
             "policies": {
               "y": {"backend": "z", "descriptor": [{"name": "v", "value": "1"}],
                     "failure_mode": "fail_open"},
               "b": {"backend": "a", "descriptor": [{"name": "v", "value": "1"}],
                     "failure_mode": "fail_open"}},
             "routes": [{"match": {}, "policy": "y"}],
             "default_policy": "b", "host_budget": "1s"}"#,
    )
    .unwrap();

    assert_eq!(config.backends[1].cluster, "c1");
    assert_eq!(config.backends[1].index, 1);
    assert_eq!(policy(&config.default_policy).index, 0);
    assert_eq!(policy(&config.default_policy).backend, 0);
    assert_eq!(policy(&config.routes[0].choice).name.as_ref(), "y");
    assert_eq!(policy(&config.routes[0].choice).backend, 1);
}

#[test]
fn an_override_changes_a_copy_that_keeps_index_and_name() {
    let config = parse(EXAMPLE.as_bytes()).unwrap();

    let overridden = policy(&config.routes[1].choice);
    assert_eq!(overridden.failure_mode, FailureMode::FailOpen);
    assert_eq!(overridden.timeout, Duration::from_millis(40));
    assert_eq!(overridden.index, 0);
    assert_eq!(overridden.name.as_ref(), "standard");
    assert_eq!(
        policy(&config.routes[0].choice).failure_mode,
        FailureMode::FailClosed
    );
    assert_eq!(config.routes[1].matches.methods, ["GET"]);
    assert_eq!(
        config.routes[1].matches.headers,
        [("x-beta".to_owned(), "1".to_owned())]
    );
}

#[test]
fn a_struct_says_the_same_as_json() {
    let value = Value::from_json(EXAMPLE.as_bytes()).unwrap();

    let from_struct = parse(&encode_struct(&value)).unwrap();

    let from_json = parse(EXAMPLE.as_bytes()).unwrap();
    let without_hash = |config: &Config| {
        let mut config = config.clone();
        config.fingerprint = 0;
        format!("{config:?}")
    };
    assert_eq!(without_hash(&from_struct), without_hash(&from_json));
    assert_ne!(from_struct.fingerprint, from_json.fingerprint);
}

#[test]
fn a_struct_s_problems_read_like_json_s() {
    let json = br#"{"default_policy": "off", "host_budget": "1s", "status_pth": "/x"}"#;
    let value = Value::from_json(json).unwrap();

    assert_eq!(
        refusal(&encode_struct(&value)),
        ["status_pth: unknown key: did you mean `status_path`?"]
    );
}

#[test]
fn json_may_begin_with_a_line_break() {
    assert!(parse(format!("\n{MINIMAL}").as_bytes()).is_ok());
}

#[test]
fn no_configuration_is_a_problem_that_says_what_to_give() {
    for empty in [&b""[..], b" \n\t"] {
        assert_eq!(
            parse(empty).unwrap_err().to_string(),
            "configuration refused: 1 problem\n\
             configuration: empty: give a JSON object, with at least `default_policy` and \
             `host_budget`"
        );
    }
}

#[test]
fn what_is_no_json_is_told_with_line_and_column() {
    assert_eq!(
        refusal(b"{\n  \"backends\": {,}\n}"),
        ["configuration: unreadable: key must be a string at line 2 column 16"]
    );
    assert_eq!(
        refusal(b"\n\xff\xff"),
        ["configuration: unreadable: expected value at line 2 column 1"]
    );
    assert_eq!(
        refusal(b"[]"),
        ["configuration: wrong type: got a list, expected an object"]
    );
}

#[test]
fn tells_a_timeout_above_its_host_budget() {
    expect_problem(
        r#""timeout": "950ms""#,
        "policies.p.timeout: above budget: got 950ms, allowed at most 900ms: below the \
         host_budget of 1s by a tenth, and 5ms at least",
    );
}

#[test]
fn tells_an_inherited_timeout_above_its_host_budget() {
    expect_problem(
        r#""host_budget": "20ms""#,
        "policies.p.host_budget: above budget: got 100ms, allowed at most 15ms: below \
         the host_budget of 20ms by a tenth, and 5ms at least",
    );
    let config = MINIMAL.replace("\"1s\"", "\"105ms\"");
    assert_eq!(
        refusal(config.as_bytes()),
        [
            "policies.p.timeout: above budget: got 100ms, allowed at most 94ms: below the \
          host_budget of 105ms by a tenth, and 5ms at least"
        ]
    );
}

#[test]
fn the_largest_timeout_that_is_told_is_accepted() {
    for (budget, timeout, fits) in [
        ("1s", "900ms", true),
        ("1s", "901ms", false),
        ("20ms", "15ms", true),
        ("20ms", "16ms", false),
        ("6ms", "1ms", true),
        ("105ms", "94ms", true),
        ("105ms", "95ms", false),
    ] {
        let config = with_policy(&format!(
            r#""host_budget": "{budget}", "timeout": "{timeout}""#
        ));
        assert_eq!(parse(config.as_bytes()).is_ok(), fits, "{budget} {timeout}");
    }
}

#[test]
fn tells_conflicts() {
    expect_problem(
        r#""descriptor": [{"name": "a", "query": "q", "header": "x"}]"#,
        "policies.p.descriptor[0].header: conflict: `query` is a source too, keep one of them",
    );
    expect_problem(
        r#""descriptor": [{"name": "a", "query": "q", "as": "string"}]"#,
        "policies.p.descriptor[0].as: conflict: goes with `property` only",
    );
    expect_problem(
        r#""descriptor": [{"name": "a", "query": "q", "default": "d", "optional": true}]"#,
        "policies.p.descriptor[0].optional: conflict: with a default nothing is missing, remove \
         `optional`",
    );
    expect_backend_problem(
        r#""statuses": {"allow": ["2xx", 404], "deny": [429, 204]}"#,
        "backends.b.statuses.deny[1]: conflict: `allow` holds it too, keep one of them",
    );
    expect_backend_problem(
        r#""breaker": {"open_for": "1m"}"#,
        "backends.b.breaker.open_for: conflict: above `open_for_max`, which is 30s",
    );
    expect_route_problem(
        r#"{"match": {}, "policy": "off", "override": {"cost": 2}}"#,
        "routes[0].override: conflict: the policy is `off`, remove one of them",
    );
    expect_route_problem(
        r#"{"match": {}, "policy": "p", "override": {"failure_mode": "fail_local"}}"#,
        "routes[0].override.failure_mode: conflict: `fail_local` needs a `local_limit` in the \
         policy `p`",
    );
}

#[test]
fn tells_duplicates() {
    expect_problem(
        r#""cost": 1, "cost": 2"#,
        "policies.p.cost: duplicate: given before, keep one of them",
    );
    expect_problem(
        r#""descriptor": [{"name": "a", "query": "q"}, {"name": "a", "query": "r"}]"#,
        "policies.p.descriptor[1].name: duplicate: an earlier entry has this name, choose another",
    );
    expect_backend_problem(
        r#""headers": {"X-A": "1", "x-a": "2"}"#,
        "backends.b.headers.x-a: duplicate: given before, keep one of them",
    );
}

#[test]
fn tells_duplicates_within_a_template() {
    expect_backend_problem(
        r#""preset": "custom", "path": "/", "custom": {"body": {"a": [{"b": 1, "b": 2}]}}"#,
        "backends.b.custom.body.a[0].b: duplicate: given before, keep one of them",
    );
}

#[test]
fn tells_what_is_forbidden() {
    expect_backend_problem(
        r#""headers": {"x-envoy-retry-on": "5xx"}"#,
        "backends.b.headers.x-envoy-retry-on: forbidden: `x-envoy-retry-on` steers Envoy itself",
    );
    expect_problem(
        r#""denial": {"headers": {"content-length": "0"}}"#,
        "policies.p.denial.headers.content-length: forbidden: `content-length` belongs to the \
         connection, set by Envoy",
    );
    assert_eq!(
        refusal(MINIMAL.replace("\"p\"", "\"off\"").as_bytes()),
        ["policies.off: forbidden: `off` means no policy, choose another name"]
    );
}

#[test]
fn tells_malformed_texts() {
    expect_problem(
        r#""timeout": "80""#,
        "policies.p.timeout: malformed: got `80`, expected a duration in whole milliseconds, \
         like `80ms`, `1.5s` or `2m`",
    );
    expect_problem(
        r#""denial": {"cors": {"allow_origins": ["app.example"]}}"#,
        "policies.p.denial.cors.allow_origins[0]: malformed: got `app.example`, expected `*` or \
         an origin, like `https://app.example`",
    );
    expect_backend_problem(
        r#""statuses": {"allow": ["20x"]}"#,
        "backends.b.statuses.allow[0]: malformed: got `20x`, expected a status, like `429`, or \
         `\"2xx\"`",
    );
}

#[test]
fn tells_what_is_missing() {
    assert_eq!(
        refusal(br#"{"policies": {"p": {"descriptor": [{"name": "a"}]}}}"#),
        [
            "policies.p.descriptor[0]: missing: required, a source of the value: `header`, \
             `property`, `client_ip`, `route_name`, `query` or `value`",
            "policies.p.backend: missing: required, a backend's name",
            "policies.p.failure_mode: missing: required, `fail_open`, `fail_closed` or \
             `fail_local`",
            "default_policy: missing: required, a policy's name, or `off`",
            "host_budget: missing: required, a duration, `6ms` to `10m`",
        ]
    );
    expect_problem(
        r#""failure_mode": "fail_local""#,
        "policies.p.local_limit: missing: required, an object with `units` and `per`, for \
         `fail_local`",
    );
}

#[test]
fn tells_names_that_are_not_declared() {
    expect_problem(
        r#""backend": "bb""#,
        "policies.p.backend: not found: no backend is named `bb`, did you mean `b`?",
    );
    expect_route_problem(
        r#"{"match": {}, "policy": "something-else"}"#,
        "routes[0].policy: not found: no policy is named `something-else`, declared: `p`",
    );
    assert_eq!(
        refusal(br#"{"default_policy": "gold", "host_budget": "1s"}"#),
        ["default_policy: not found: no policy is named `gold`, and none is declared"]
    );
}

#[test]
fn tells_words_that_mean_nothing() {
    expect_problem(
        r#""failure_mode": "fail_opne""#,
        "policies.p.failure_mode: not supported: got `fail_opne`, allowed `fail_open`, \
         `fail_closed` or `fail_local`; did you mean `fail_open`?",
    );
    expect_problem(
        r#""descriptor": [{"name": "a", "route_name": false}]"#,
        "policies.p.descriptor[0].route_name: not supported: got `false`, allowed `true`",
    );
    expect_backend_problem(
        r#""preset": "redis""#,
        "backends.b.preset: not supported: got `redis`, allowed `headers`, `limitador`, \
         `envoy_ratelimit`, `gubernator`, `throttlecrab`, `unkey` or `custom`",
    );
}

#[test]
fn a_quota_goes_with_backends_that_are_told_it() {
    let told = |preset: &str, quota: &str| {
        let policy = with_policy(quota).replace(
            r#""cluster": "c""#,
            &format!(r#""cluster": "c", "preset": "{preset}""#),
        );
        parse(policy.as_bytes()).map(|config| config.policies[0].quota)
    };

    let quota = told("gubernator", r#""quota": {"units": 10, "per": "1m"}"#).unwrap();
    let terms = QuotaTerms {
        units: 10,
        per: Duration::from_secs(60),
        burst: 10,
    };
    assert_eq!(quota, Some(terms));
    for preset in ["gubernator", "throttlecrab", "unkey"] {
        let problems = told(preset, r#""cost": 1"#).unwrap_err().to_string();
        let text = "policies.p.quota: missing: required, an object with `units` and `per`: \
                    backend `b` is told it";
        assert!(problems.contains(text), "{problems}");
    }
    for burst in ["", r#", "burst": 1"#] {
        let quota = format!(r#""quota": {{"units": 1, "per": "1m"{burst}}}"#);
        let problems = told("throttlecrab", &quota).unwrap_err().to_string();
        let text = "policies.p.quota: conflict: ThrottleCrab has no limit where the burst is 1, \
                    give a `burst` of 2 or more";
        assert!(problems.contains(text), "{problems}");
    }
    expect_problem(
        r#""quota": {"units": 10, "per": "1m"}"#,
        "policies.p.quota: conflict: backend `b` has quotas of its own and is not told this one",
    );
}

#[test]
fn tells_what_is_wrong_with_a_language_of_ones_own() {
    for (backend, problem) in [
        (
            r#""custom": {}"#.to_owned(),
            "backends.b.custom: conflict: goes with `preset: custom` only",
        ),
        (
            r#""preset": "custom", "path": "/""#.to_owned(),
            "backends.b.custom: missing: required, an object, for `preset: custom`",
        ),
        (
            r#""preset": "custom", "custom": {}"#.to_owned(),
            "backends.b.path: missing: required, a path that begins with `/`, without spaces, \
             for `preset: custom`",
        ),
        (
            custom("/{descriptr}", ""),
            "backends.b.path: not supported: got `descriptr`, allowed `cost`, `cost:text`, \
             `cost_min`, `descriptor`, `descriptor:object`, `descriptor:list`, `namespace`, \
             `policy`, `quota.burst`, `quota.per_ms`, `quota.per_ms:text`, `quota.per_s`, \
             `quota.units`, `quota.units:text`, `request_id`, `route` or `entry.NAME`; \
             did you mean `descriptor`?",
        ),
        (
            custom("/", r#""headers": {"x-a": "{cost"}"#),
            "backends.b.custom.headers.x-a: malformed: expected slots in braces, \
             like `{cost}`; a brace that is meant twice",
        ),
        (
            custom("/", r#""body": {"a": [1, "x}"]}"#),
            "backends.b.custom.body.a[1]: malformed: expected slots in braces, \
             like `{cost}`; a brace that is meant twice",
        ),
        (
            custom("/", r#""body": {"a": "x {descriptor:list}"}"#),
            "backends.b.custom.body.a: forbidden: `descriptor:list` is an object or a list, which \
             goes into a body and is all of its text there",
        ),
        (
            custom("/{descriptor:object}", ""),
            "backends.b.path: forbidden: `descriptor:object` is an object or a list, which \
             goes into a body and is all of its text there",
        ),
        (
            custom("/", r#""method": "GET", "body": {}"#),
            "backends.b.custom.body: conflict: a `GET` has no body, choose another `method`",
        ),
    ] {
        expect_custom_problem(&backend, problem);
    }
}

#[test]
fn tells_what_is_wrong_with_rules_of_ones_own() {
    for (backend, problem) in [
        (
            custom("/", r#""allow": {"pointer": "/ok"}"#),
            "backends.b.custom.deny: missing: required, both `allow` and `deny` where the body \
             decides",
        ),
        (
            custom(
                "/",
                r#""allow": {"pointer": "/ok", "is": true, "in": ["x"]},
                   "deny": {"pointer": "/no"}"#,
            ),
            "backends.b.custom.allow.is: conflict: `in` is there too, keep one of them",
        ),
        (
            custom("/", r#""error": "error""#),
            "backends.b.custom.error: malformed: got `error`, expected a JSON pointer, like \
             `/data/remaining`",
        ),
        (
            custom("/", r#""limit": {"missing": 0}"#),
            "backends.b.custom.limit: missing: required, a `header` or a `pointer`",
        ),
        (
            custom("/", r#""reset": {"header": "a", "pointer": "/b"}"#),
            "backends.b.custom.reset: conflict: has a `header` and a `pointer`, keep one of them",
        ),
        (
            custom("/", r#""report": {"body": {"n": "{units}"}}"#),
            "backends.b.report_path: missing: required, a path that begins with `/`, without \
             spaces, for `custom.report`",
        ),
        (
            format!(r#"{}, "report_path": "/used""#, custom("/", "")),
            "backends.b.report_path: conflict: there is no `custom.report` that it would be the \
             path of",
        ),
        (
            reported(r#""body": {"n": 1}"#),
            "backends.b.custom.report: missing: required, the slot `{units}` in `body`, `headers` \
             or `report_path`",
        ),
        (
            reported(r#""body": {"n": "{cost}"}"#),
            "backends.b.custom.report.body.n: not supported: got `cost`, allowed `units`, \
             `units:text`, `requests`, `settlement_id`, `unchecked`, `descriptor`,",
        ),
        (
            custom("/{units}", ""),
            "backends.b.path: not supported: got `units`, allowed `cost`,",
        ),
        (
            reported(r#""counted": [99]"#),
            "backends.b.custom.report.counted[0]: out of range: got 99, allowed 200 to 599",
        ),
        (
            custom("/", r#""reset": {"header": "a", "unit": "hours"}"#),
            "backends.b.custom.reset.unit: not supported: got `hours`, allowed `s`, `ms`, \
             `epoch_s` or `epoch_ms`",
        ),
    ] {
        expect_custom_problem(&backend, problem);
    }
}

#[test]
fn tells_values_out_of_range() {
    expect_problem(
        r#""timeout": "0ms""#,
        "policies.p.timeout: out of range: got 0ms, allowed 1ms to 60s",
    );
    expect_problem(
        r#""cost": -1"#,
        "policies.p.cost: out of range: got -1, allowed 0 to 1000000",
    );
    expect_problem(
        r#""cost": 1.5"#,
        "policies.p.cost: out of range: got 1.5, allowed 0 to 1000000",
    );
    expect_problem(
        r#""cost": {"header": "x", "default": 9, "max": 5}"#,
        "policies.p.cost.default: out of range: got 9, allowed 0 to 5",
    );
    expect_problem(
        r#""denial": {"status": 200}"#,
        "policies.p.denial.status: out of range: got 200, allowed 400 to 599",
    );
    expect_problem(
        r#""lease": {"max_units": 0}"#,
        "policies.p.lease.max_units: out of range: got 0, allowed 1 to 1000000",
    );
    for (rate, got) in [("0", "0"), ("1.0001", "1.0001"), ("-0.5", "-0.5")] {
        expect_backend_problem(
            &format!(r#""breaker": {{"failure_rate": {rate}}}"#),
            &format!(
                "backends.b.breaker.failure_rate: out of range: got {got}, allowed 0.001 to 1"
            ),
        );
    }
    expect_backend_problem(
        &format!(r#""namespace": "{}""#, "n".repeat(257)),
        "backends.b.namespace: out of range: got 257 bytes, allowed 1 to 256",
    );
    expect_problem(
        r#""descriptor": []"#,
        "policies.p.descriptor: out of range: got 0 items, allowed 1 to 16",
    );
}

#[test]
fn tells_when_there_are_too_many() {
    let entries: Vec<String> = (0..17)
        .map(|number| format!(r#"{{"name": "e{number}", "value": "v"}}"#))
        .collect();
    expect_problem(
        &format!(r#""descriptor": [{}]"#, entries.join(",")),
        "policies.p.descriptor: too many: got 17, allowed at most 16",
    );
}

#[test]
fn a_flood_of_keys_is_refused_without_looking_at_each() {
    let fields: Vec<String> = (0..100_000).map(|key| format!("\"k{key}\": 1")).collect();
    let fields = fields.join(",");

    assert_eq!(
        refusal(format!("{{{fields}}}").as_bytes())[0],
        "configuration: too many: got 100000, allowed at most 256"
    );
    let policies =
        format!(r#"{{"policies": {{{fields}}}, "default_policy": "off", "host_budget": "1s"}}"#);
    let problems = parse(policies.as_bytes()).unwrap_err();
    assert_eq!(
        problems.iter().next().unwrap().to_string(),
        "policies: too many: got 100000, allowed at most 256"
    );
}

#[test]
fn tells_unknown_keys() {
    expect_problem(
        r#""timout": "1s""#,
        "policies.p.timout: unknown key: did you mean `timeout`?",
    );
    expect_problem(
        r#""cache": {"zzzzzzz": "1s"}"#,
        "policies.p.cache.zzzzzzz: unknown key: known here: `allow_ttl`, `deny_ttl`, \
         `rejected_ttl` and `stale_if_error`",
    );
    expect_route_problem(
        r#"{"match": {}, "policy": "p", "override": {"lease": {"max_units": 1}}}"#,
        "routes[0].override.lease: unknown key: known here: `cost`, `failure_mode`, `timeout`, \
         `host_budget`, `enforcement`, `on_missing`, `failure_mode_header`, \
         `rate_limit_headers` and `denial`",
    );
}

#[test]
fn tells_wrong_types() {
    expect_problem(
        r#""timeout": 80"#,
        "policies.p.timeout: wrong type: got a number, expected a duration, `1ms` to `60s`",
    );
    expect_problem(
        r#""cost": null"#,
        "policies.p.cost: wrong type: got null, expected a whole number, 0 to 1000000, or an \
         object",
    );
    expect_backend_problem(
        r#""breaker": true"#,
        "backends.b.breaker: wrong type: got a boolean, expected `off`, or an object",
    );
}

#[test]
fn tells_ten_problems_at_once_in_the_order_of_the_text() {
    let text = r#"{
      "backends": {
        "quota": {"cluster": "", "timeout": "0ms", "retries": 3},
        "a b": {"cluster": "c"}
      },
      "policies": {
        "gold": {
          "backend": "qouta",
          "descriptor": [{"name": "t", "header": "x y"}, {"name": "t", "value": "1"}],
          "failure_mode": "open"
        }
      },
      "routes": [{"match": {"path_prefix": "v1"}, "policy": "silver"}],
      "host_budget": "1s"
    }"#;

    assert_eq!(
        parse(text.as_bytes()).unwrap_err().to_string(),
        "configuration refused: 11 problems\n\
         backends.quota.cluster: malformed: got ``, expected the name of an Envoy cluster, \
         without spaces\n\
         backends.quota.timeout: out of range: got 0ms, allowed 1ms to 60s\n\
         backends.quota.retries: unknown key: known here: `cluster`, `authority`, `preset`, \
         `custom`, `path`, `report_path`, \
         `namespace`, `timeout`, `headers`, `statuses`, `max_pending` and \
         `breaker`\n\
         backends[\"a b\"]: malformed: got `a b`, expected a name of letters, digits, `_` and `-`\n\
         policies.gold.backend: not found: no backend is named `qouta`, did you mean `quota`?\n\
         policies.gold.descriptor[0].header: malformed: got `x y`, expected a header's name, \
         like `x-name`, `:authority`, `:method`, `:path` or `:scheme`\n\
         policies.gold.descriptor[1].name: duplicate: an earlier entry has this name, choose \
         another\n\
         policies.gold.failure_mode: not supported: got `open`, allowed `fail_open`, \
         `fail_closed` or `fail_local`\n\
         routes[0].match.path_prefix: malformed: got `v1`, expected a path that begins with `/`, \
         without query and spaces\n\
         routes[0].policy: not found: no policy is named `silver`, declared: `gold`\n\
         default_policy: missing: required, a policy's name, or `off`"
    );
}

#[test]
fn never_repeats_what_backends_are_sent() {
    for value in [
        r#""Bearer s3cr3t\n""#,
        r#""Bearer {s3cr3t\n""#,
        r#"["s3cr3t"]"#,
        r#"{"s3": "s3cr3t"}"#,
    ] {
        let headers = format!(r#""headers": {{"authorization": {value}}}"#);
        let custom = format!(r#""preset": "custom", "path": "/", "custom": {{{headers}}}"#);
        for (backend, place) in [(headers, ""), (custom, "custom.")] {
            let text = parse(with_backend(&backend).as_bytes())
                .unwrap_err()
                .to_string();

            let place = format!("backends.b.{place}headers.authorization: ");
            assert!(text.contains(&place), "{text}");
            assert!(!text.contains("s3cr3t"), "{text}");
        }
    }
}

#[test]
fn every_key_is_refused_with_a_value_of_the_wrong_type() {
    let mut found = Vec::new();
    every_key(&CONFIG, &mut found);
    assert!(found.len() > 80);

    for (path, table) in found {
        for key in table.keys {
            let value = Value::Object(vec![(key.name.to_owned(), Value::Null)]);
            let mut problems = Problems::default();
            check(&value, &Kind::Table(table), &At::TOP, &mut problems);

            let first = problems.iter().next().map(ToString::to_string);
            let expected = format!("{}: wrong type: got null, expected ", key.name);
            assert!(
                first.is_some_and(|first| first.starts_with(&expected)),
                "{path}{}",
                key.name
            );
        }
    }
}

#[test]
fn every_default_is_valid_by_its_own_kind() {
    let mut found = Vec::new();
    every_key(&CONFIG, &mut found);

    for (_, table) in found {
        for key in table.keys {
            if let Presence::Default(text) = key.presence {
                let value = Value::from_json(text.as_bytes())
                    .unwrap_or_else(|_| Value::Text(text.to_owned()));
                let mut problems = Problems::default();
                check(&value, &key.kind, &At::TOP, &mut problems);
                assert!(problems.is_empty(), "{}: {problems}", key.name);
            }
        }
    }
}

#[test]
fn no_bytes_make_it_panic_and_what_it_accepts_is_in_range() {
    let value = Value::from_json(EXAMPLE.as_bytes()).unwrap();
    let texts = [EXAMPLE.as_bytes().to_vec(), encode_struct(&value)];
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut accepted = 0;
    for round in 0..10_000 {
        let mut bytes = texts[round % 2].clone();
        for _ in 0..=random.below(3) {
            if bytes.is_empty() {
                break;
            }
            let place = random.below(bytes.len());
            match random.below(4) {
                0 => bytes[place] = random.below(256) as u8,
                1 => bytes.truncate(place.max(1)),
                2 => drop(bytes.remove(place)),
                _ => bytes.insert(place, b"0\"{}[],:.9-e\n\0"[random.below(14)]),
            }
        }
        if let Ok(config) = parse(&bytes) {
            accepted += 1;
            expect_in_range(&config);
        }
    }
    assert!(accepted > 100, "{accepted}");
}

#[test]
fn no_exchange_of_values_makes_it_panic_and_what_it_accepts_is_in_range() {
    let example = Value::from_json(EXAMPLE.as_bytes()).unwrap();
    let mut random = Random(42);
    let mut accepted = 0;
    for _ in 0..5_000 {
        let mut value = example.clone();
        let node = any_node(&mut value, &mut random);
        *node = match random.below(7) {
            0 => Value::Null,
            1 => Value::Bool(random.below(2) == 0),
            2 => Value::Number(Number::from_count(random.below(100_000) as u64)),
            3 => Value::Number(Number::from_f64(random.below(2_000) as f64 / 1_000.0).unwrap()),
            4 => Value::List(vec![]),
            5 => Value::Object(vec![]),
            _ => Value::Text(
                ["off", "0s", "7ms", "2h", "", "quota", "fail_local"][random.below(7)].to_owned(),
            ),
        };
        if let Ok(config) = parse(&encode_struct(&value)) {
            accepted += 1;
            expect_in_range(&config);
        }
    }
    assert!(accepted > 100, "{accepted}");
}

#[track_caller]
fn expect_in_range(config: &Config) {
    let choices = config.routes.iter().map(|route| &route.choice);
    for choice in choices.chain([&config.default_policy]) {
        let Choice::Policy(policy) = choice else {
            continue;
        };
        assert!(policy.timeout >= Duration::from_millis(1));
        assert!(policy.timeout <= policy.host_budget.mul_f64(0.9));
        assert!(policy.timeout + Duration::from_millis(5) <= policy.host_budget);
        assert!((400..=599).contains(&policy.denial.status));
        assert!(!policy.descriptor.is_empty());
        assert!(policy.failure_mode != FailureMode::FailLocal || policy.local_limit.is_some());
        assert!(policy.backend < config.backends.len());
    }
    for (index, backend) in config.backends.iter().enumerate() {
        assert_eq!(backend.index, index);
        assert_eq!(Form::Name.check(&backend.name), Ok(()));
        assert!(!backend.cluster.is_empty());
        assert!(backend.max_pending >= 1);
        if let Some(breaker) = &backend.breaker {
            assert!((1..=1_000).contains(&breaker.failure_permille));
            assert!(breaker.open_for <= breaker.open_for_max);
            assert!(breaker.window >= Duration::from_secs(1));
        }
    }
}

/// The tables below a table, with the paths to them.
fn every_key(table: &'static Table, found: &mut Vec<(String, &'static Table)>) {
    fn below(path: &str, kind: &'static Kind, found: &mut Vec<(String, &'static Table)>) {
        match kind {
            Kind::Either(simple, object) => {
                below(path, simple, found);
                below(path, object, found);
            }
            Kind::List(item, ..) | Kind::Map(_, item, _) => below(path, item, found),
            Kind::Table(table) => walk(path, table, found),
            _ => {}
        }
    }
    fn walk(path: &str, table: &'static Table, found: &mut Vec<(String, &'static Table)>) {
        for key in table.keys {
            found.push((path.to_owned(), table));
            below(&format!("{path}{}.", key.name), &key.kind, found);
        }
    }
    walk("", table, found);
}

#[track_caller]
fn policy(choice: &Choice) -> &Policy {
    match choice {
        Choice::Policy(policy) => policy,
        Choice::Off => panic!("no policy"),
    }
}

#[track_caller]
fn refusal(bytes: &[u8]) -> Vec<String> {
    let problems = parse(bytes).unwrap_err();
    problems.iter().map(ToString::to_string).collect()
}

/// The minimal configuration with more keys in its policy; what they repeat is left out.
fn with_policy(keys: &str) -> String {
    let mut policy = String::new();
    for (name, text) in [
        ("backend", r#""backend": "b","#),
        ("failure_mode\"", r#""failure_mode": "fail_closed","#),
        (
            "descriptor",
            r#""descriptor": [{"name": "v", "value": "1"}],"#,
        ),
    ] {
        if !keys.contains(&format!("\"{name}")) {
            policy.push_str(text);
        }
    }
    format!(
        r#"{{"backends": {{"b": {{"cluster": "c"}}}},
             "policies": {{"p": {{{policy}{keys}}}}},
             "default_policy": "p", "host_budget": "1s"}}"#
    )
}

fn with_backend(keys: &str) -> String {
    MINIMAL.replace(r#""cluster": "c""#, &format!(r#""cluster": "c", {keys}"#))
}

#[track_caller]
fn expect_problem(policy_keys: &str, problem: &str) {
    assert_eq!(refusal(with_policy(policy_keys).as_bytes()), [problem]);
}

fn custom(path: &str, keys: &str) -> String {
    format!(r#""preset": "custom", "path": "{path}", "custom": {{{keys}}}"#)
}

fn reported(keys: &str) -> String {
    let report = format!(r#""report": {{{keys}}}"#);
    format!(r#"{}, "report_path": "/used""#, custom("/", &report))
}

/// There may be other problems.
#[track_caller]
fn expect_custom_problem(backend: &str, problem: &str) {
    let refused = parse(with_backend(backend).as_bytes()).unwrap_err();
    let text = refused.to_string();
    assert!(text.contains(problem), "{problem}\nin\n{text}");
}

#[track_caller]
fn expect_backend_problem(keys: &str, problem: &str) {
    assert_eq!(refusal(with_backend(keys).as_bytes()), [problem]);
}

#[track_caller]
fn expect_route_problem(route: &str, problem: &str) {
    let keys = format!(r#""routes": [{route}], "default_policy""#);
    let config = MINIMAL.replace("\"default_policy\"", &keys);
    assert_eq!(refusal(config.as_bytes()), [problem]);
}

/// Some value of a tree.
fn any_node<'a>(value: &'a mut Value, random: &mut Random) -> &'a mut Value {
    let children = value.items().len().max(value.fields().len());
    if children == 0 || random.below(6) == 0 {
        return value;
    }
    let index = random.below(children);
    match value {
        Value::List(items) => any_node(&mut items[index], random),
        Value::Object(fields) => any_node(&mut fields[index].1, random),
        leaf => leaf,
    }
}

/// The same numbers in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

const MINIMAL: &str = r#"{
  "backends": {"b": {"cluster": "c"}},
  "policies": {"p": {"backend": "b", "failure_mode": "fail_closed",
                     "descriptor": [{"name": "v", "value": "1"}]}},
  "default_policy": "p", "host_budget": "1s"
}"#;

/// The public contract's example: every key but those of other presets.
const EXAMPLE: &str = include_str!("example.json");
