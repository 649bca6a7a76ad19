//! Promise: whoever is denied learns why and when to come again, in the shape that it expects, and
//! nothing else.

use quota_gate::denial::Denial;
use quota_gate::request::PlainRequest;
use serde_json::{Value, json};

use crate::world::{Script, World};
use crate::{config, get};

fn denied(fields: &Value, script: Script, request: &PlainRequest) -> Denial {
    let mut world = World::new(&config(fields));
    world.backend(script);
    world.ask(request).denial.unwrap()
}

fn header(denial: &Denial, name: &str) -> Option<String> {
    let found = denial.headers.iter().find(|(own, _)| own == name);
    found.map(|(_, value)| String::from_utf8(value.clone()).unwrap())
}

fn body(denial: &Denial) -> Value {
    serde_json::from_slice(&denial.body).unwrap()
}

#[test]
fn every_denial_is_a_problem_document_with_its_code_and_status() {
    let missing = PlainRequest::new("GET", "a", "/");
    for (script, request, status, grpc_status, code) in [
        (Script::deny(), get("acme"), 429, 8, "quota_exceeded"),
        (Script::status(401), get("acme"), 401, 16, "key_rejected"),
        (Script::status(403), get("acme"), 403, 7, "key_rejected"),
        (Script::allow(), missing, 401, 16, "descriptor_missing"),
        (Script::hang(), get("acme"), 503, 14, "quota_unavailable"),
    ] {
        let denial = denied(&json!({}), script, &request);

        assert_eq!((denial.status, denial.grpc_status), (status, grpc_status));
        assert_eq!(
            header(&denial, "content-type").unwrap(),
            "application/problem+json"
        );
        assert_eq!(body(&denial)["code"], code);
        assert_eq!(body(&denial)["status"], status);
        assert_eq!(denial.details, format!("quota_gate_{code}"));
        let waits = matches!(status, 429 | 503);
        assert_eq!(header(&denial, "retry-after").is_some(), waits, "{code}");
    }
}

#[test]
fn says_when_to_come_again_as_the_backend_did() {
    let script = Script::deny().header("retry-after", "17");
    let denial = denied(&json!({}), script, &get("acme"));

    assert_eq!(header(&denial, "retry-after").unwrap(), "17");
    assert_eq!(body(&denial)["retry_after"], 17);
}

#[test]
fn a_grpc_client_gets_no_document() {
    let request = get("acme").with_header("content-type", "application/grpc+proto");
    let denial = denied(&json!({}), Script::deny(), &request);

    assert_eq!((denial.status, denial.grpc_status), (429, 8));
    assert!(!denial.body.starts_with(b"{"));
    assert_eq!(header(&denial, "content-type"), None);
}

#[test]
fn a_page_of_an_allowed_origin_may_read_it() {
    let fields = json!({"denial": {"cors": {"allow_origins": ["https://app.example"]}}});
    for (origin, told) in [
        (
            "https://app.example",
            Some("https://app.example".to_owned()),
        ),
        ("https://evil.example", None),
        ("null", None),
    ] {
        let request = get("acme").with_header("origin", origin);
        let denial = denied(&fields, Script::deny(), &request);

        assert_eq!(
            header(&denial, "access-control-allow-origin"),
            told,
            "{origin}"
        );
    }
}

#[test]
fn nothing_that_the_backend_or_the_client_sent_is_repeated() {
    let script = Script::deny()
        .header("retry-after", "5\r\nset-cookie: a=b")
        .header("x-secret", "s3cret")
        .body("s3cret");
    let request = get("s3cret")
        .with_header("x-request-id", "id\r\nx: \"<script>")
        .with_header("origin", "s3cret");

    let denial = denied(&json!({}), script, &request);

    let headers = format!("{:?}", denial.headers);
    let text = String::from_utf8(denial.body.clone()).unwrap();
    assert!(
        !headers.contains("s3cret") && !headers.contains("cookie"),
        "{headers}"
    );
    assert!(!text.contains("s3cret") && !text.contains('\r'), "{text}");
    assert!(body(&denial)["request_id"].is_string());
}
