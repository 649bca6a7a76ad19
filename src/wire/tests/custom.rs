//! A language of the operator's own, from the configuration's text to the calls and replies.

use super::*;
use crate::config::parse::parse;

#[test]
fn a_template_is_filled_in_by_type() {
    let message = ask(
        r#""path": "/v1/{entry.tenant}/check?n={cost}&d={descriptor}",
           "custom": {
             "headers": {"x-tenant": "t {entry.tenant}", "x-min": "{cost_min}", "x-a": "{{}}"},
             "body": {
               "n": "{cost}", "text": "{cost:text}", "in": "cost is {cost}",
               "all": "{descriptor:object}", "list": "{descriptor:list}",
               "who": "{entry.tenant}", "nobody": "{entry.absent}", "braces": "{{cost}}",
               "ns": "{namespace}", "p": "{policy}", "r": "{route}", "id": "{request_id}",
               "q": ["{quota.units}", "{quota.burst}", "{quota.per_s}", "{quota.per_ms:text}"],
               "const": [true, null, 1.5, -2, "a\"b\\c\u0001%", {"\"": {}}]
             }}"#,
        &[("tenant", b"a/b \"\xff"), ("plan", b"free")],
        &Ask {
            route: Some(b"chat"),
            request_id: Some(b"r\"1"),
            ..PLAIN
        },
    );

    assert_eq!(
        lines(&message),
        [
            ":method: POST",
            ":authority: c",
            "content-type: application/json",
            ":path: /v1/a%2Fb%20%22%FF/check?n=3&d=tenant=a%2Fb%20%22%FF&plan=free",
            "x-tenant: t a%2Fb%20%22%FF",
            "x-a: {}",
            "x-request-id: r\"1",
        ]
    );
    assert_eq!(
        String::from_utf8(message.body).unwrap(),
        "{\"n\":3,\"text\":\"3\",\"in\":\"cost is 3\",\
         \"all\":{\"tenant\":\"a/b \\\"%FF\",\"plan\":\"free\"},\
         \"list\":[{\"key\":\"tenant\",\"value\":\"a/b \\\"%FF\"},\
         {\"key\":\"plan\",\"value\":\"free\"}],\
         \"who\":\"a/b \\\"%FF\",\"nobody\":\"\",\"braces\":\"{cost}\",\
         \"ns\":\"quota-gate\",\"p\":\"standard\",\"r\":\"chat\",\"id\":\"r\\\"1\",\
         \"q\":[10,20,61,\"60500\"],\
         \"const\":[true,null,1.5,-2,\"a\\\"b\\\\c\\u0001%\",{\"\\\"\":{}}]}"
    );
}

#[test]
fn without_rules_the_status_and_the_standard_headers_decide() {
    let wire = custom(r#""path": "/check", "custom": {"method": "GET"}"#);

    assert_eq!(outcome(&wire, 204), Ok(GRANTED));
    assert_eq!(outcome(&wire, 429), Ok(ReplyOutcome::Denied));
    assert_eq!(
        outcome(&wire, 403),
        Ok(ReplyOutcome::Rejected { status: 403 })
    );
    assert_eq!(outcome(&wire, 409), Err(CheckError::Status(409)));
    let told = read(&wire, 200, &[("x-ratelimit-remaining", "4")], "").unwrap();
    assert_eq!(told.limits.remaining, Some(4));
    let granted = read(&wire, 200, &[("x-quota-granted", "4")], "").unwrap();
    assert_eq!(granted.outcome, ReplyOutcome::Granted { units: Some(4) });
}

#[test]
fn rules_for_the_body_decide_where_the_status_allows() {
    // The shape of verifyKey at Unkey: always 200, with a code.
    let wire = custom(
        r#""path": "/v2/keys.verifyKey",
           "custom": {
             "allow": {"pointer": "/data/code", "in": ["VALID"]},
             "deny": {"pointer": "/data/code", "in": ["RATE_LIMITED", "USAGE_EXCEEDED"]},
             "reject": {"pointer": "/data/code", "in": ["NOT_FOUND", "DISABLED", "EXPIRED"]},
             "error": "/error",
             "remaining": {"pointer": "/data/ratelimits/0/remaining"},
             "reset": {"pointer": "/data/ratelimits/0/reset", "unit": "epoch_ms"}
           }"#,
    );
    let code = |code: &str| format!(r#"{{"data": {{"code": "{code}"}}}}"#);
    let seen = |body: &str| read(&wire, 200, &[], body).map(|reply| reply.outcome);

    assert_eq!(seen(&code("VALID")), Ok(GRANTED));
    assert_eq!(seen(&code("RATE_LIMITED")), Ok(ReplyOutcome::Denied));
    assert_eq!(
        seen(&code("EXPIRED")),
        Ok(ReplyOutcome::Rejected { status: 401 })
    );
    assert_eq!(seen(&code("FORBIDDEN")), Err(CheckError::BadReply));
    assert_eq!(
        seen(r#"{"data": {"code": "VALID"}, "error": {"a": 1}}"#),
        Err(CheckError::BadReply)
    );
    assert_eq!(seen(""), Err(CheckError::BadReply));
    let told = read(
        &wire,
        200,
        &[],
        r#"{"data": {"code": "VALID", "ratelimits": [{"remaining": 7, "reset": 1700000009500}]}}"#,
    );
    let limits = told.unwrap().limits;
    assert_eq!(limits.remaining, Some(7));
    assert_eq!(limits.reset, Some(Duration::from_millis(9_500)));
}

#[test]
fn yes_and_no_come_in_any_form_and_numbers_have_a_default() {
    // The shape of Apigee's quotas: a no is a number above zero.
    let wire = custom(
        r#""path": "/quotas",
           "custom": {
             "allow": {"pointer": "/exceeded", "is": false},
             "deny": {"pointer": "/exceeded"},
             "limit": {"pointer": "/a~1b/~0"},
             "remaining": {"pointer": "/left", "missing": 0},
             "granted": {"pointer": "/given"},
             "retry_after": {"header": "X-Wait", "unit": "ms"},
             "window": {"pointer": "/window", "unit": "s"}
           }"#,
    );

    let yes = read(
        &wire,
        200,
        &[],
        r#"{"exceeded": 0, "a/b": {"~": "10"}, "given": 2}"#,
    )
    .unwrap();
    assert_eq!(yes.outcome, ReplyOutcome::Granted { units: Some(2) });
    assert_eq!(yes.limits.limit, Some(10));
    assert_eq!(yes.limits.remaining, Some(0));
    let wait = [("x-wait", "1500")];
    let unclear = read(&wire, 200, &wait, r#"{"exceeded": "some"}"#);
    assert_eq!(unclear, Err(CheckError::BadReply));
    let no = read(&wire, 200, &wait, r#"{"exceeded": 3, "window": 60}"#).unwrap();
    assert_eq!(no.outcome, ReplyOutcome::Denied);
    assert_eq!(no.retry_after, Some(Duration::from_millis(1_500)));
    assert_eq!(no.limits.window, Some(Duration::from_secs(60)));
    let bad = read(&wire, 200, &[], r#"{"exceeded": false, "given": "x"}"#);
    assert_eq!(bad, Err(CheckError::BadReply));
}

#[test]
fn statuses_go_with_custom_rules() {
    // The shape of 3scale: 409 is over the limit.
    let wire = custom(
        r#""path": "/transactions/authrep.xml?usage%5Bhits%5D={cost}&user_key={entry.key}",
           "statuses": {"deny": [409]}, "custom": {"method": "GET",
           "remaining": {"header": "3scale-limit-remaining"},
           "reset": {"header": "3scale-limit-reset"}}"#,
    );

    let headers = [
        ("3scale-limit-remaining", "-1"),
        ("3scale-limit-reset", "57"),
    ];
    let no = read(&wire, 409, &headers, "<usage/>").unwrap();
    assert_eq!(no.outcome, ReplyOutcome::Denied);
    assert_eq!(no.limits.remaining, Some(0));
    assert_eq!(no.limits.reset, Some(Duration::from_secs(57)));
    assert_eq!(outcome(&wire, 429), Err(CheckError::Status(429)));
}

#[test]
fn random_templates_are_refused_or_make_whole_json() {
    let mut random = Random(29);
    let mut accepted = 0;
    for _ in 0..3_000 {
        let bytes = random.bytes(12);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let text =
            ["{cost}", "{entry.a}", "}}", "{", ""][random.next() as usize % 5].to_owned() + &text;
        let body = serde_json::to_string(&text).unwrap();
        let backend = format!(r#""path": "/", "custom": {{"body": [{body}, {{{body}: 1}}]}}"#);
        let Ok(config) = parse(configuration(&backend).as_bytes()) else {
            continue;
        };
        accepted += 1;
        let policy = policy_of(specs(&[("a", b"")]));
        let value = random.bytes(20);
        let descriptor = descriptor(&policy, &[("a", &value)]);
        let message = Wire::new(&config.backends[0]).encode(&check(&policy, &descriptor));
        let body = serde_json::from_slice::<serde_json::Value>(&message.body);
        assert!(body.is_ok(), "{text:?}");
    }
    assert!(accepted > 1_000, "{accepted}");
}

fn configuration(backend: &str) -> String {
    format!(
        r#"{{"backends": {{"b": {{"cluster": "c", "preset": "custom", {backend}}}}},
            "default_policy": "off", "host_budget": "1s"}}"#
    )
}

pub(super) fn custom(backend: &str) -> Wire {
    let config = parse(configuration(backend).as_bytes()).unwrap();
    Wire::new(&config.backends[0])
}

fn ask(backend: &str, entries: &[(&str, &[u8])], ask: &Ask<'_>) -> Message {
    encode_with(&custom(backend), entries, ask)
}

pub(super) fn read(
    wire: &Wire,
    status: u16,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Reply, CheckError> {
    decode_with(wire, status, headers, body)
}

#[test]
fn a_report_is_filled_in_by_type_and_counted_where_its_status_says_so() {
    let wire = custom(
        r#""path": "/check", "report_path": "/v1/{entry.tenant}/used",
           "custom": {"report": {
             "method": "PUT",
             "headers": {"idempotency-key": "{settlement_id}", "x-why": "{unchecked}"},
             "body": {"n": "{units}", "text": "{units:text}", "of": "{requests}",
                      "who": "{descriptor:object}"},
             "counted": [202], "error": "/error", "takes_back": true
           }}"#,
    );
    let entries: &[(&str, &[u8])] = &[("tenant", b"a/b")];
    let policy = policy_of(specs(entries));
    let descriptor = descriptor(&policy, entries);
    let told = Told {
        id: "ab-1-7",
        requests: 3,
        unchecked: None,
        units: -60,
    };
    let message = wire
        .encode_report(&Check {
            told: Some(told),
            ..check(&policy, &descriptor)
        })
        .unwrap();

    assert!(wire.takes_back() && wire.reads_report_body());
    assert_eq!(
        lines(&message),
        [
            ":method: PUT",
            ":authority: c",
            "content-type: application/json",
            ":path: /v1/a%2Fb/used",
            "idempotency-key: ab-1-7",
        ]
    );
    assert_eq!(
        String::from_utf8(message.body).unwrap(),
        r#"{"n":-60,"text":"-60","of":3,"who":{"tenant":"a/b"}}"#
    );
    let read = |status, body: &str| {
        wire.decode_report(&RawReply {
            status,
            headers: &[],
            body: body.as_bytes(),
            now: NOW,
        })
    };
    assert_eq!(read(202, "{}"), Ok(()));
    assert_eq!(read(202, r#"{"error": "busy"}"#), Err(CheckError::BadReply));
    assert_eq!(read(200, "{}"), Err(CheckError::Status(200)));
}
