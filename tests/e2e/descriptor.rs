//! Promise: who is asking is read from what can be trusted, and what it costs from what was said.

use envoy_harness::{Request, Rig, RigBuilder, Route, jwt};
use serde_json::{Value, json};

use crate::gated::{Gated, config, merge, start};

fn rig_of(builder: RigBuilder, entries: &Value, more: &Value) -> Gated {
    let mut fields = json!({"descriptor": entries});
    merge(&mut fields, more);
    start(builder.plugin(config(&fields)))
}

fn rig(entries: &Value) -> Gated {
    rig_of(Rig::builder(), entries, &json!({}))
}

/// The descriptor that the backend was told for `request`, which it allowed.
#[track_caller]
fn told(rig: &Rig, request: Request) -> Vec<(String, String)> {
    drop(rig.backend().take());
    request.send().expect_status(200);
    rig.backend().expect_checks(1).remove(0).descriptor
}

#[track_caller]
fn missing(rig: &Rig, request: Request) {
    drop(rig.backend().take());
    let response = request.send();
    response
        .expect_status(401)
        .expect_json("/code", "descriptor_missing");
    rig.backend().expect_checks(0);
}

fn entry(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

fn claim(name: &str) -> Value {
    let path = [
        "metadata",
        "filter_metadata",
        "envoy.filters.http.jwt_authn",
        "jwt_payload",
        name,
    ];
    json!(path)
}

fn with_claims(rig: &Rig, claims: &Value) -> Request {
    let token = format!("Bearer {}", jwt::token(claims));
    rig.request("GET", "/").header("authorization", token)
}

#[test]
fn a_claim_of_a_token_names_who_is_asking() {
    let entries = json!([{"name": "user", "property": claim("sub")}]);
    let rig = rig_of(
        Rig::builder().filter_before(jwt::filter()),
        &entries,
        &json!({}),
    );

    let user = told(&rig, with_claims(&rig, &json!({"sub": "ann & bob=1"})));
    assert_eq!(user, [entry("user", "ann & bob=1")]);
    missing(&rig, with_claims(&rig, &json!({"name": "no sub"})));
    missing(&rig, with_claims(&rig, &json!({"sub": ""})));
    missing(&rig, rig.get_request());
    rig.unseen(1);
    let forged = rig
        .request("GET", "/")
        .header("authorization", "Bearer e30.e30.e30");
    forged
        .send()
        .expect_status(401)
        .expect_no_header("retry-after");
}

#[test]
fn a_claim_may_be_a_number_or_a_bool_and_may_be_absent() {
    let entries = json!([
        {"name": "org", "property": claim("org"), "as": "number"},
        {"name": "paid", "property": claim("paid"), "as": "bool", "optional": true},
        {"name": "plan", "property": claim("plan"), "default": "free"},
    ]);
    let rig = rig_of(
        Rig::builder().filter_before(jwt::filter()),
        &entries,
        &json!({}),
    );

    assert_eq!(
        told(
            &rig,
            with_claims(&rig, &json!({"org": 4711, "paid": true, "plan": "gold"}))
        ),
        [
            entry("org", "4711"),
            entry("paid", "true"),
            entry("plan", "gold")
        ]
    );
    assert_eq!(
        told(&rig, with_claims(&rig, &json!({"org": 0.25}))),
        [entry("org", "0.25"), entry("plan", "free")]
    );
    missing(&rig, with_claims(&rig, &json!({"org": "4711"})));
}

fn by_address(trusted_hops: u32, hcm: &Value) -> Gated {
    let entries = json!([{"name": "ip", "client_ip": {"trusted_hops": trusted_hops}}]);
    rig_of(Rig::builder().hcm(hcm), &entries, &json!({}))
}

fn forwarded(rig: &Rig, for_whom: &[&str]) -> Request {
    for_whom
        .iter()
        .fold(rig.get_request(), |request, addresses| {
            request.header("x-forwarded-for", addresses)
        })
}

/// Short for a plain GET.
trait GetRequest {
    fn get_request(&self) -> Request;
}

impl GetRequest for Rig {
    fn get_request(&self) -> Request {
        self.request("GET", "/")
    }
}

#[test]
fn without_trusted_hops_the_peer_is_the_client_whatever_it_says() {
    let rig = by_address(0, &json!({}));

    for addresses in [&[][..], &["1.2.3.4"], &["1.2.3.4, 5.6.7.8", "9.9.9.9"]] {
        assert_eq!(
            told(&rig, forwarded(&rig, addresses)),
            [entry("ip", "127.0.0.1")]
        );
    }
}

#[test]
fn with_one_trusted_hop_it_is_the_address_that_envoy_itself_saw() {
    let rig = by_address(1, &json!({}));
    // In place of a loopback peer Envoy notes an address of its own, which no test can know.
    let own = told(&rig, forwarded(&rig, &[]));

    for addresses in [
        &["1.2.3.4"][..],
        &["1.2.3.4,5.6.7.8"],
        &["x", "<script>"],
        &[" , "],
    ] {
        assert_eq!(told(&rig, forwarded(&rig, addresses)), own);
    }
    assert!(!own[0].1.starts_with("1.2.3"), "{own:?}");
}

#[test]
fn with_two_trusted_hops_it_is_the_one_that_the_proxy_in_front_saw() {
    let rig = by_address(2, &json!({}));

    assert_eq!(
        told(&rig, forwarded(&rig, &["9.9.9.9, 1.2.3.4"])),
        [entry("ip", "1.2.3.4")]
    );
    assert_eq!(
        told(&rig, forwarded(&rig, &["2001:DB8::1"])),
        [entry("ip", "2001:db8::1")]
    );
    assert_eq!(
        told(&rig, forwarded(&rig, &["1.2.3.4:5678"])),
        [entry("ip", "1.2.3.4")]
    );
    missing(&rig, forwarded(&rig, &[]));
    missing(&rig, forwarded(&rig, &["9.9.9.9, unknown"]));
    missing(&rig, forwarded(&rig, &["1.2.3.4,"]));
}

#[test]
fn without_an_address_of_its_own_envoy_leaves_the_field_as_the_client_sent_it() {
    // With use_remote_address off the rightmost is the proxy's in front; the peer is still real.
    let rig = by_address(1, &json!({"use_remote_address": false}));

    assert_eq!(
        told(&rig, forwarded(&rig, &["9.9.9.9, 1.2.3.4"])),
        [entry("ip", "1.2.3.4")]
    );
    missing(&rig, forwarded(&rig, &[]));
}

#[test]
fn a_query_parameter_is_decoded_and_counts_only_once() {
    let rig = rig(&json!([{"name": "key", "query": "api_key"}]));
    let get = |path: &str| rig.request("GET", path);

    assert_eq!(
        told(&rig, get("/x?a=1&api_key=k1&b=2")),
        [entry("key", "k1")]
    );
    assert_eq!(
        told(&rig, get("/?api_key=a%26b%3Dc%20d+e")),
        [entry("key", "a&b=c d e")]
    );
    assert_eq!(told(&rig, get("/?api%5Fkey=k2")), [entry("key", "k2")]);
    assert_eq!(told(&rig, get("/?api_key=100%")), [entry("key", "100%")]);
    missing(&rig, get("/?api_key=k1&api_key=k2"));
    missing(&rig, get("/?api_key="));
    missing(&rig, get("/?api_key"));
    missing(&rig, get("/?xapi_key=k1"));
    missing(&rig, get("/api_key=k1"));
}

#[test]
fn the_route_and_constants_go_into_the_descriptor_in_its_order() {
    let entries = json!([
        {"name": "api", "value": "v1"},
        {"name": "route", "route_name": true, "optional": true},
        {"name": "tenant", "header": "x-tenant-id"},
        {"name": "method", "header": ":method"},
    ]);
    let builder = Rig::builder().route(Route::path("/chat").name("chat, ü"));
    let builder = builder.route(Route::path("/unnamed"));
    let rig = rig_of(builder, &entries, &json!({}));
    let get = |path| rig.request("GET", path).header("x-tenant-id", "acme");

    let (api, tenant, method) = (
        entry("api", "v1"),
        entry("tenant", "acme"),
        entry("method", "GET"),
    );
    assert_eq!(
        told(&rig, get("/chat")),
        [
            api.clone(),
            entry("route", "chat, ü"),
            tenant.clone(),
            method.clone()
        ]
    );
    assert_eq!(told(&rig, get("/unnamed")), [api, tenant, method]);
}

#[test]
fn a_header_that_occurs_twice_or_is_empty_counts_as_missing() {
    let rig = rig(&json!([{"name": "tenant", "header": "x-tenant-id"}]));
    let tenant = |value| rig.get_request().header("x-tenant-id", value);

    missing(&rig, rig.get_request());
    missing(&rig, tenant(""));
    missing(&rig, tenant("acme").header("x-tenant-id", "acme"));
    assert_eq!(
        told(&rig, tenant("acme, other")),
        [entry("tenant", "acme, other")]
    );
}

#[test]
fn who_has_nothing_to_be_checked_by_may_pass_where_the_policy_says_so() {
    let entries = json!([{"name": "tenant", "header": "x-tenant-id"}]);
    let rig = rig_of(Rig::builder(), &entries, &json!({"on_missing": "allow"}));

    rig.get("/").expect_status(200);

    rig.backend().expect_checks(0);
    assert_eq!(rig.told_upstream(), [["allow; reason=bypassed"]]);
}

#[test]
fn a_header_tells_the_cost_within_its_bounds() {
    let entries = json!([{"name": "tenant", "header": "x-tenant-id"}]);
    let cost = json!({"cost": {"header": "x-cost", "default": 3, "max": 10}});
    let rig = rig_of(Rig::builder(), &entries, &cost);
    let cost = |values: &[&str]| {
        drop(rig.backend().take());
        let request = rig.get_request().header("x-tenant-id", "acme");
        let request = values
            .iter()
            .fold(request, |r, value| r.header("x-cost", value));
        request.send().expect_status(200);
        rig.backend().expect_checks(1)[0].cost
    };

    assert_eq!(cost(&["7"]), 7);
    assert_eq!(cost(&["0"]), 0);
    assert_eq!(cost(&["11"]), 10);
    assert_eq!(cost(&["99999999999999999999"]), 10);
    for bad in [
        &[][..],
        &["-1"],
        &["1e3"],
        &["many"],
        &["1.5"],
        &[""],
        &["2", "2"],
    ] {
        assert_eq!(cost(bad), 3, "{bad:?}");
    }
}

#[test]
fn a_preflight_costs_nothing_and_anything_less_does() {
    let rig = rig(&json!([{"name": "tenant", "header": "x-tenant-id"}]));
    let options = || {
        rig.request("OPTIONS", "/")
            .header("origin", "https://app.example")
    };

    let preflight = options().header("access-control-request-method", "POST");
    preflight.send().expect_status(200);
    rig.backend().expect_checks(0);
    missing(&rig, options());
    let no_origin = rig.request("OPTIONS", "/");
    missing(
        &rig,
        no_origin.header("access-control-request-method", "POST"),
    );

    rig.envoy()
        .expect_decisions(&[("bypassed", 1), ("descriptor_missing", 2)]);
}
