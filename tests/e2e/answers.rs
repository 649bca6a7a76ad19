//! Promise: what each answer of each kind of backend means is what the page says, error answers
//! included, with the page's own configuration.

use envoy_harness::{Check, Fault, Response, Rig};
use serde_json::{Value, json};

use crate::gated::{merge, start};
use crate::page::patient;

/// What becomes of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Means {
    Allow,
    Deny,
    Reject(u16),
    /// A failure with that cause.
    Fails(&'static str),
}

use Means::{Allow, Deny, Fails, Reject};

const BAD: Means = Fails("bad_reply");
const STATUS: Means = Fails("status");

/// A backend's answer: status, headers, body; and what it means.
type Answer<'a> = (u16, &'a [(&'a str, &'a str)], &'a str, Means);

/// Gives each answer to a request, with the configuration below `heading` failing closed; expects
/// what each means, and that the failures have their causes. Returns what clients got, and the
/// checks.
#[track_caller]
fn expect(heading: &str, answers: &[Answer<'_>]) -> (Vec<Response>, Vec<Check>) {
    let mut config = patient(heading);
    let policies = config["policies"].as_object_mut().expect("policies");
    for policy in policies.values_mut() {
        merge(policy, &json!({"failure_mode": "fail_closed"}));
    }
    let rig = start(Rig::builder().plugin(config));
    let mut responses = Vec::new();
    for (status, headers, body, _) in answers {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let headers = headers.iter().map(own).collect();
        let answer = Fault::Answer(*status, headers, body.as_bytes().to_vec());
        rig.backend().fail(answer);
        let request = rig.request("GET", "/").header("x-tenant-id", "acme");
        responses.push(request.header("x-api-key", "acme").send());
    }
    for (response, (status, headers, body, means)) in responses.iter().zip(answers) {
        let (wanted, code) = match means {
            Allow => (200, None),
            Deny => (429, Some("quota_exceeded")),
            Reject(status) => (*status, Some("key_rejected")),
            Fails(_) => (503, Some("quota_unavailable")),
        };
        let code_told = code.and_then(|_| response.json()["code"].as_str().map(str::to_owned));
        let told = (response.status, code_told.as_deref());
        assert_eq!(
            told,
            (wanted, code),
            "{heading}: {status} {headers:?} {body}"
        );
    }
    for cause in ["status", "bad_reply"] {
        let count = answers.iter().filter(|answer| answer.3 == Fails(cause));
        let count = count.count() as u32;
        rig.envoy()
            .expect_metric("quota_gate_failures", &[("cause", cause)], count);
    }
    (responses, rig.backend().expect_checks(answers.len()))
}

/// Expects that the client was told what is left of which limit, and for how long at most.
#[track_caller]
fn expect_limit(response: &Response, limit: u64, remaining: u64, seconds: u64) {
    let policy = response.header("ratelimit-policy").expect("a policy");
    assert!(policy.contains(&format!(";q={limit}")), "{policy}");
    let state = response.header("ratelimit").expect("a state");
    let (left, reset) = state.rsplit_once(";t=").expect("a reset");
    assert!(left.ends_with(&format!(";r={remaining}")), "{state}");
    let reset: u64 = reset.parse().expect("seconds");
    assert!((1..=seconds).contains(&reset), "{state}");
}

#[test]
fn every_answer_in_headers() {
    let draft: &[(&str, &str)] = &[
        ("ratelimit", "\"a\";r=7;t=13"),
        ("ratelimit-policy", "\"a\";q=10;w=60"),
    ];
    let older: &[(&str, &str)] = &[
        ("x-ratelimit-limit", "10"),
        ("x-ratelimit-remaining", "0"),
        ("x-ratelimit-reset", "30"),
        ("retry-after", "12"),
    ];
    let (responses, checks) = expect(
        "A whole backend in Python",
        &[
            (200, draft, "", Allow),
            (204, &[], "", Allow),
            (200, &[], "nobody reads this", Allow),
            (429, older, "", Deny),
            (429, &[("retry-after", "soon")], "{", Deny),
            (401, &[], "", Reject(401)),
            (403, &[], "", Reject(403)),
            (200, &[("x-quota-granted", "many")], "", BAD),
            (301, &[("location", "/elsewhere")], "", STATUS),
            (400, &[], "", STATUS),
            (404, &[], "", STATUS),
            (409, &[], "", STATUS),
            (500, &[], "", STATUS),
            (503, &[("retry-after", "1")], "", STATUS),
        ],
    );

    expect_limit(&responses[0], 10, 7, 13);
    expect_limit(&responses[3], 10, 0, 12);
    responses[3].expect_header("retry-after", "12");
    assert_eq!(
        (checks[0].method.as_str(), checks[0].path.as_str()),
        ("POST", "/check")
    );
    assert_eq!(checks[0].text(), "");
}

#[test]
fn every_answer_of_limitador() {
    let told: &[(&str, &str)] = &[
        ("x-ratelimit-limit", "10, 10;w=60;name=\"per tenant\""),
        ("x-ratelimit-remaining", "9"),
        ("x-ratelimit-reset", "57"),
    ];
    let over: &[(&str, &str)] = &[
        ("x-ratelimit-limit", "10, 10;w=60"),
        ("x-ratelimit-remaining", "0"),
        ("x-ratelimit-reset", "41"),
    ];
    let (responses, checks) = expect(
        "limitador",
        &[
            (200, told, "null", Allow),
            (200, &[], "null", Allow),
            (429, over, "null", Deny),
            (429, &[], "Too many requests", Deny),
            (
                400,
                &[],
                "Json deserialize error: missing field `delta`",
                STATUS,
            ),
            (401, &[], "", STATUS),
            (404, &[], "", STATUS),
            (500, &[], "Internal server error", STATUS),
        ],
    );

    expect_limit(&responses[0], 10, 9, 57);
    responses[0].expect_header("ratelimit-policy", "\"standard\";q=10;w=60");
    expect_limit(&responses[2], 10, 0, 41);
    responses[2].expect_header("retry-after", "41");
    assert_eq!(
        checks[0].text(),
        r#"{"namespace":"api","values":{"tenant":"acme"},"delta":1,"response_headers":"DraftVersion03"}"#
    );
}

#[test]
fn every_answer_of_envoy_ratelimit() {
    let yes = r#"{"overallCode":"OK","statuses":[{"code":"OK","currentLimit":{"requestsPerUnit":10,
        "unit":"MINUTE"},"limitRemaining":9,"durationUntilReset":"55s"}]}"#;
    let no = r#"{"overallCode":"OVER_LIMIT","statuses":[{"code":"OVER_LIMIT","currentLimit":
        {"requestsPerUnit":10,"unit":"MINUTE"},"durationUntilReset":"33s"}]}"#;
    let (responses, checks) = expect(
        "envoy_ratelimit",
        &[
            (200, &[], yes, Allow),
            (
                200,
                &[],
                r#"{"overallCode":"OK","statuses":[{"code":"OK"}]}"#,
                Allow,
            ),
            (429, &[], no, Deny),
            (200, &[], no, Deny),
            // Redis is gone, no configuration, an empty domain.
            (400, &[], "Bad Request\n", STATUS),
            (404, &[], "404 page not found\n", STATUS),
            (500, &[], r#"{"overallCode":"UNKNOWN"}"#, STATUS),
            (503, &[], "no healthy upstream", STATUS),
            (200, &[], "{}", BAD),
            (200, &[], "", BAD),
        ],
    );

    expect_limit(&responses[0], 10, 9, 55);
    // What is used up has no `limitRemaining`.
    expect_limit(&responses[2], 10, 0, 33);
    responses[2].expect_header("retry-after", "33");
    assert_eq!(
        checks[0].text(),
        r#"{"domain":"api","descriptors":[{"entries":[{"key":"tenant","value":"acme"}]}],"hitsAddend":1}"#
    );
}

/// Milliseconds since 1970, so many seconds from now.
fn epoch_millis_in(seconds: u64) -> u128 {
    let now = std::time::UNIX_EPOCH.elapsed().expect("a clock");
    now.as_millis() + u128::from(seconds) * 1000
}

#[test]
fn every_answer_of_gubernator() {
    let answer = |status: &str, remaining: u64, error: &str| {
        let reset = epoch_millis_in(40);
        format!(
            r#"{{"responses":[{{"status":"{status}","limit":"100","remaining":"{remaining}",
            "reset_time":"{reset}","error":"{error}","metadata":{{}}}}]}}"#
        )
    };
    let (responses, checks) = expect(
        "gubernator",
        &[
            (200, &[], &answer("UNDER_LIMIT", 99, ""), Allow),
            (200, &[], &answer("OVER_LIMIT", 0, ""), Deny),
            (
                200,
                &[],
                &answer("UNDER_LIMIT", 0, "while fetching rate limit"),
                BAD,
            ),
            (
                200,
                &[],
                &answer("OVER_LIMIT", 0, "field 'unique_key' is empty"),
                BAD,
            ),
            (200, &[], &answer("NEW_WORD", 0, ""), BAD),
            (200, &[], r#"{"responses":[]}"#, BAD),
            (
                400,
                &[],
                r#"{"code":3,"message":"proto: syntax error"}"#,
                STATUS,
            ),
            (404, &[], r#"{"code":5,"message":"Not Found"}"#, STATUS),
            (429, &[], r#"{"code":8,"message":"exhausted"}"#, STATUS),
            (500, &[], r#"{"code":13,"message":"internal"}"#, STATUS),
            (503, &[], r#"{"code":14,"message":"no peers"}"#, STATUS),
            (504, &[], r#"{"code":4,"message":"deadline"}"#, STATUS),
        ],
    );

    expect_limit(&responses[0], 100, 99, 40);
    expect_limit(&responses[1], 100, 0, 40);
    assert!(responses[1].header("retry-after").is_some());
    assert_eq!(checks[0].path, "/v1/GetRateLimits");
    assert_eq!(
        checks[0].text(),
        r#"{"requests":[{"name":"quota-gate/standard","unique_key":"tenant=acme","hits":"1","limit":"100","duration":"60000"}]}"#
    );
}

#[test]
fn every_answer_of_throttlecrab() {
    let no = r#"{"allowed":false,"limit":20,"remaining":0,"reset_after":12,"retry_after":6}"#;
    let at_once = r#"{"allowed":false,"limit":20,"remaining":0,"reset_after":12,"retry_after":0}"#;
    let (responses, checks) = expect(
        "throttlecrab",
        &[
            (
                200,
                &[],
                r#"{"allowed":true,"limit":20,"remaining":19,"reset_after":1,"retry_after":0}"#,
                Allow,
            ),
            (200, &[], no, Deny),
            (200, &[], at_once, Deny),
            (200, &[], r#"{"limit":20}"#, BAD),
            (200, &[], r#"{"allowed":null}"#, BAD),
            (200, &[], "OK", BAD),
            (400, &[], "Failed to parse the request body as JSON", STATUS),
            (404, &[], "", STATUS),
            (
                415,
                &[],
                "Expected request with `Content-Type: application/json`",
                STATUS,
            ),
            (422, &[], "Failed to deserialize the JSON body", STATUS),
            (429, &[], "", STATUS),
            (
                500,
                &[],
                r#"{"error":"Internal server error: invalid"}"#,
                STATUS,
            ),
        ],
    );

    expect_limit(&responses[0], 20, 19, 1);
    responses[1].expect_header("retry-after", "6");
    responses[2].expect_header("retry-after", "1");
    assert_eq!(checks[0].path, "/throttle");
    assert_eq!(
        checks[0].text(),
        r#"{"key":"quota-gate/standard?tenant=acme","max_burst":20,"count_per_period":100,"period":60,"quantity":1}"#
    );
}

#[test]
fn every_answer_of_unkey() {
    let answer = |success: bool, remaining: u64| {
        let reset = epoch_millis_in(40);
        format!(
            r#"{{"meta":{{"requestId":"req_1"}},"data":{{"success":{success},"limit":100,
            "remaining":{remaining},"reset":{reset},"overrideId":""}}}}"#
        )
    };
    let error = r#"{"meta":{"requestId":"req_1"},"error":{"title":"x","detail":"y","status":400,
        "type":"https://unkey.com/docs/errors"}}"#;
    let (responses, checks) = expect(
        "unkey",
        &[
            (200, &[], &answer(true, 99), Allow),
            (200, &[], &answer(false, 0), Deny),
            (200, &[], error, BAD),
            (200, &[], r#"{"data":{}}"#, BAD),
            (400, &[], error, STATUS),
            (401, &[], error, STATUS),
            (403, &[], error, STATUS),
            (404, &[], error, STATUS),
            (410, &[], error, STATUS),
            (429, &[("retry-after", "9")], error, STATUS),
            (500, &[], error, STATUS),
        ],
    );

    expect_limit(&responses[0], 100, 99, 40);
    expect_limit(&responses[1], 100, 0, 40);
    let check = &checks[0];
    assert_eq!(
        (check.path.as_str(), check.authority.as_str()),
        ("/v2/ratelimit.limit", "api.unkey.com")
    );
    assert_eq!(check.header_values("authorization"), ["Bearer unkey_0000"]);
    assert_eq!(
        check.text(),
        r#"{"namespace":"quota-gate","identifier":"standard?tenant=acme","limit":100,"duration":60000,"cost":1}"#
    );
}

#[test]
fn every_answer_of_an_api_that_says_no_with_200() {
    let answer = |valid: bool, code: &str, remaining: u64| {
        let reset = epoch_millis_in(40);
        format!(
            r#"{{"meta":{{"requestId":"req_1"}},"data":{{"valid":{valid},"code":"{code}",
            "ratelimits":[{{"name":"requests","exceeded":{},"limit":10,"duration":60000,
            "reset":{reset},"remaining":{remaining}}}]}}}}"#,
            !valid
        )
    };
    let without =
        |code: &str| format!(r#"{{"meta":{{}},"data":{{"valid":false,"code":"{code}"}}}}"#);
    let error = r#"{"meta":{},"error":{"title":"x","status":401}}"#;
    let (responses, checks) = expect(
        "An API that says no with 200",
        &[
            (200, &[], &answer(true, "VALID", 9), Allow),
            (200, &[], &answer(false, "RATE_LIMITED", 0), Deny),
            (200, &[], &without("USAGE_EXCEEDED"), Deny),
            (200, &[], &without("NOT_FOUND"), Reject(401)),
            (200, &[], &without("FORBIDDEN"), Reject(401)),
            (200, &[], &without("INSUFFICIENT_PERMISSIONS"), Reject(401)),
            (200, &[], &without("DISABLED"), Reject(401)),
            (200, &[], &without("EXPIRED"), Reject(401)),
            (200, &[], &without("NEW_WORD"), BAD),
            (200, &[], error, BAD),
            (200, &[], "", BAD),
            (204, &[], "", STATUS),
            (400, &[], error, STATUS),
            (401, &[], error, STATUS),
            (403, &[], error, STATUS),
            (429, &[], error, STATUS),
            (500, &[], error, STATUS),
        ],
    );

    expect_limit(&responses[0], 10, 9, 40);
    expect_limit(&responses[1], 10, 0, 40);
    let asked: Value = serde_json::from_slice(&checks[0].body).expect("JSON");
    let one = json!({"name": "requests", "cost": 1});
    let whole = json!({"key": "acme", "credits": {"cost": 1}, "ratelimits": [one]});
    assert_eq!(asked, whole);
}

#[test]
fn every_answer_of_an_api_that_says_no_with_a_status_of_its_own() {
    let told: &[(&str, &str)] = &[
        ("3scale-limit-max-value", "10"),
        ("3scale-limit-remaining", "9"),
        ("3scale-limit-reset", "57"),
    ];
    let over: &[(&str, &str)] = &[
        ("3scale-limit-max-value", "10"),
        ("3scale-limit-remaining", "0"),
        ("3scale-limit-reset", "57"),
        ("3scale-rejection-reason", "limits_exceeded"),
    ];
    let (responses, checks) = expect(
        "An API that says no with a status of its own",
        &[
            (200, told, "", Allow),
            (409, over, "", Deny),
            (403, &[], "", Reject(403)),
            (404, &[], "", Reject(401)),
            (422, &[], "", STATUS),
            (429, &[], "", STATUS),
            (500, &[], "", STATUS),
        ],
    );

    expect_limit(&responses[0], 10, 9, 57);
    responses[1].expect_header("retry-after", "57");
    let check = &checks[0];
    assert_eq!((check.method.as_str(), check.text().as_str()), ("GET", ""));
    assert_eq!(
        check.path,
        "/transactions/authrep.xml?service_token=0000&service_id=1&user_key=acme&usage%5Bhits%5D=1"
    );
    assert_eq!(
        check.header_values("3scale-options"),
        ["limit_headers=1&no_body=1"]
    );
}

#[test]
fn an_answer_that_is_not_well_formed_lets_nobody_in_and_denies_nobody() {
    let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
    let deep = format!(r#"{{"allowed":true,"limit":{deep}}}"#);
    let long = format!(r#"{{"allowed":true,"limit":"{}"}}"#, "9".repeat(70_000));
    expect(
        "throttlecrab",
        &[
            (200, &[], &deep, BAD),
            (200, &[], &long, BAD),
            (200, &[], r#"{"allowed":true,"limit":NaN}"#, BAD),
            (200, &[], r#"{"allowed":true} {"allowed":true}"#, BAD),
            (200, &[], "\u{feff}{\"allowed\":true}", BAD),
            (200, &[], r#"{"allowed":"TRUE"}"#, BAD),
            (200, &[], r#"[{"allowed":true}]"#, BAD),
            // What is odd beside the decision changes nothing, and the last of two names counts.
            (
                200,
                &[],
                r#"{"allowed":true,"limit":[],"remaining":-1e300}"#,
                Allow,
            ),
            (200, &[], r#"{"allowed":false,"retry_after":1e300}"#, Deny),
            (200, &[], r#"{"allowed":true,"allowed":false}"#, Deny),
            (
                200,
                &[("retry-after", "1"), ("retry-after", "2")],
                "\r\n{\"allowed\":0}\n",
                Deny,
            ),
        ],
    );
}
