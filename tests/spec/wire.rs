//! Promise: every backend is asked in its own language, and what it says is read as it means it.

use serde_json::{Value, json};

use crate::world::{Script, World};
use crate::{config, get};

fn world(preset: &str, fields: &Value) -> World {
    let mut config = config(fields);
    config["backends"]["quota"]["preset"] = json!(preset);
    config["backends"]["quota"]["namespace"] = json!("api");
    config["policies"]["gold"]["quota"] = match preset {
        "gubernator" | "throttlecrab" | "unkey" => json!({"units": 10, "per": "1m"}),
        _ => return World::new(&config),
    };
    World::new(&config)
}

fn asked(preset: &str) -> (String, Value) {
    let mut world = world(preset, &json!({"cost": 3}));
    world.ask(&get("a\"b"));
    let call = &world.calls[0];
    let body = serde_json::from_str(&call.body).unwrap_or(Value::Null);
    (call.header(":path").unwrap(), body)
}

#[test]
fn headers_say_it_all_in_headers() {
    let mut world = world("headers", &json!({"cost": 3}));
    world.ask(&get("a b&c").with_header("x-request-id", "id-1"));

    let call = &world.calls[0];
    for (name, value) in [
        (":method", "POST"),
        (":path", "/check"),
        (":authority", "quota-backend"),
        ("x-quota-descriptor", "tenant=a%20b%26c"),
        ("x-quota-cost", "3"),
        ("x-quota-policy", "gold"),
        ("x-request-id", "id-1"),
    ] {
        assert_eq!(call.header(name).as_deref(), Some(value), "{name}");
    }
    assert_eq!(call.body, "");
    assert_eq!(call.header("x-quota-cost-min"), None);
}

#[test]
fn others_are_asked_as_their_documentation_says() {
    let limitador = json!({"namespace": "api", "values": {"tenant": "a\"b"}, "delta": 3,
        "response_headers": "DraftVersion03"});
    assert_eq!(
        asked("limitador"),
        ("/check_and_report".to_owned(), limitador)
    );
    let entries = json!([{"key": "tenant", "value": "a\"b"}]);
    let ratelimit =
        json!({"domain": "api", "descriptors": [{"entries": entries}], "hitsAddend": 3});
    assert_eq!(asked("envoy_ratelimit"), ("/json".to_owned(), ratelimit));
    let gubernator = json!({"requests": [{"name": "api/gold", "unique_key": "tenant=a%22b",
        "hits": "3", "limit": "10", "duration": "60000"}]});
    assert_eq!(
        asked("gubernator"),
        ("/v1/GetRateLimits".to_owned(), gubernator)
    );
    let throttlecrab = json!({"key": "api/gold?tenant=a%22b", "max_burst": 10,
        "count_per_period": 10, "period": 60, "quantity": 3});
    assert_eq!(
        asked("throttlecrab"),
        ("/throttle".to_owned(), throttlecrab)
    );
    let unkey = json!({"namespace": "api", "identifier": "gold?tenant=a%22b", "limit": 10,
        "duration": 60000, "cost": 3});
    assert_eq!(asked("unkey"), ("/v2/ratelimit.limit".to_owned(), unkey));
}

#[test]
fn what_each_backend_says_is_read_as_it_means_it() {
    for (preset, status, body, reason) in [
        ("headers", 204, "", "within_quota"),
        ("headers", 429, "", "quota_exceeded"),
        ("headers", 401, "", "key_rejected"),
        ("headers", 404, "", "quota_unavailable"),
        ("limitador", 200, "null", "within_quota"),
        ("limitador", 429, "", "quota_exceeded"),
        ("limitador", 403, "", "quota_unavailable"),
        (
            "envoy_ratelimit",
            200,
            r#"{"overallCode":"OK"}"#,
            "within_quota",
        ),
        (
            "envoy_ratelimit",
            429,
            r#"{"overallCode":"OVER_LIMIT"}"#,
            "quota_exceeded",
        ),
        ("envoy_ratelimit", 400, "", "quota_unavailable"),
        ("envoy_ratelimit", 200, "{}", "quota_unavailable"),
        ("envoy_ratelimit", 200, "{", "quota_unavailable"),
        (
            "gubernator",
            200,
            r#"{"responses":[{"status":"OVER_LIMIT"}]}"#,
            "quota_exceeded",
        ),
        ("gubernator", 429, "", "quota_unavailable"),
        (
            "throttlecrab",
            200,
            r#"{"allowed":false}"#,
            "quota_exceeded",
        ),
        ("throttlecrab", 200, r#"{"allowed":true}"#, "within_quota"),
        (
            "unkey",
            200,
            r#"{"data":{"success":false}}"#,
            "quota_exceeded",
        ),
        ("unkey", 401, "{}", "quota_unavailable"),
        ("unkey", 429, "{}", "quota_unavailable"),
    ] {
        let mut world = world(preset, &json!({}));
        world.backend(Script::status(status).body(body));

        assert_eq!(
            world.ask(&get("acme")).reason,
            reason,
            "{preset} {status} {body}"
        );
    }
}

#[test]
fn the_operator_may_say_what_a_status_means() {
    let mut config = config(&json!({}));
    config["backends"]["quota"]["statuses"] =
        json!({"allow": [200], "deny": [403], "reject": [404]});
    let mut world = World::new(&config);
    for (status, reason) in [
        (200, "within_quota"),
        (201, "quota_unavailable"),
        (403, "quota_exceeded"),
        (404, "key_rejected"),
        (500, "quota_unavailable"),
    ] {
        world.backend(Script::status(status));
        let tenant = format!("t{status}");

        assert_eq!(world.ask(&get(&tenant)).reason, reason, "{status}");
    }
}

#[test]
fn what_is_left_of_the_limit_is_told_to_the_client() {
    let mut world = world("headers", &json!({}));
    let script = Script::allow().header("ratelimit", "\"default\";r=7;t=30");
    world.backend(script.header("ratelimit-policy", "\"default\";q=10;w=60"));

    let stream = world.request(&get("acme"));
    world.run(10);

    let told = world.response_fields(stream);
    assert_eq!(
        told[0],
        ("ratelimit-policy", "\"gold\";q=10;w=60".to_owned())
    );
    assert_eq!(told[1], ("ratelimit", "\"gold\";r=7;t=30".to_owned()));
}
