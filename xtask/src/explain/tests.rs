//! What is told of three requests.

use super::*;

/// 2026-09-21, whatever the machine's clock says.
const NOW: Wall = Wall::from_secs(1_790_000_000);

fn args(request: &str) -> Args {
    Args {
        file: PathBuf::new(),
        request: request.to_owned(),
        headers: Vec::new(),
        route_name: None,
        metadata: None,
        peer: None,
        properties: Vec::new(),
    }
}

fn told(config: &Config, args: &Args) -> String {
    explain(config, &Seen::read(args, config).unwrap(), NOW)
}

fn manifest(name: &str) -> Config {
    let file = crate::paths::root().join("envoy/manifests").join(name);
    let survey = check::survey(&file).unwrap();
    survey.plugins[0].config.clone().unwrap()
}

#[test]
fn a_request_in_a_hurry_on_a_route_that_names_its_policy() {
    let mut args = args("POST /payments");
    args.route_name = Some("payments".to_owned());
    args.metadata = Some(r#"{"policy": "payments", "timeout": "60ms"}"#.to_owned());
    args.headers = vec![
        "grpc-timeout: 20m".to_owned(),
        "content-type: application/grpc".to_owned(),
    ];
    args.properties =
        vec!["metadata/filter_metadata/envoy.filters.http.jwt_authn/jwt_payload/sub=u1".to_owned()];

    assert_eq!(
        told(&manifest("full.yaml"), &args),
        "\
policy      payments, as the route's metadata says
descriptor  user=u1
key         cd31bd7f
cost        1 unit
timeout     20ms: the request's own deadline, shorter than the policy's 60ms
host budget 1s
backend     quota, cluster quota-backend, at most 60ms
            :method: POST
            :authority: quota.internal
            :path: /check
            x-quota-descriptor: user=u1
            x-quota-cost: 1
            x-quota-policy: payments
            x-quota-route: payments
breaker     opens after 5 failures in a row, or 50.0% of at least 20 calls in 10s; for 1s to 30s
cache       allow off, deny 1s, rejected off, stale_if_error 10s
lease       none: one call a request
on failure  fail_closed

if                   decision  reason              HTTP  gRPC
allowed              allow     within_quota        -     -     such as 200
denied               deny      quota_exceeded      429   8     such as 429
rejected             deny      key_rejected        403   7     such as 403
status               deny      quota_unavailable   503   14    such as 500
bad_reply            deny      quota_unavailable   503   14    \
such as 200 with x-quota-granted: some
timeout              deny      quota_unavailable   503   14
unreachable          deny      quota_unavailable   503   14
dispatch             deny      quota_unavailable   503   14
breaker_open         deny      quota_unavailable   503   14
too_many_pending     deny      quota_unavailable   503   14
deadline_too_short   deny      quota_unavailable   503   14
"
    );
}

#[test]
fn a_request_with_nothing_to_check_by() {
    assert_eq!(
        told(&manifest("minimal.yaml"), &args("GET /")),
        "\
policy      standard, the default_policy: no route matches
descriptor  `key` has no value (the header `x-api-key`, -H); on_missing: deny
cost        1 unit
backend     not asked

if                   decision  reason              HTTP  gRPC
right away           deny      descriptor_missing  401   16
"
    );
}

#[test]
fn the_page_shows_what_is_told_of_a_request() {
    let page = std::fs::read_to_string(crate::paths::root().join("docs/check.md")).unwrap();
    let mut args = args("GET /");
    args.headers = vec!["x-api-key: k1".to_owned()];

    let told = told(&manifest("minimal.yaml"), &args);

    assert!(page.contains(&format!("```text\n{told}```\n")), "{told}");
}

#[test]
fn a_request_that_costs_more_than_the_local_limit_has_under_a_policy_that_only_watches() {
    let config = quota_gate::config::parse::parse(
        br#"{
          "backends": {"b": {
            "cluster": "c", "preset": "envoy_ratelimit", "breaker": "off",
            "headers": {"authorization": "Bearer s3cret"}
          }},
          "policies": {"p": {
            "backend": "b", "failure_mode": "fail_local", "enforcement": "shadow",
            "local_limit": {"units": 1, "per": "1m"},
            "cost": {"header": "x-cost", "default": 1, "max": 100},
            "descriptor": [{"name": "ip", "client_ip": {"trusted_hops": 0}}]
          }},
          "routes": [
            {"match": {"path_prefix": "/free"}, "policy": "off"},
            {"match": {"path_prefix": "/v1"}, "policy": "p"}
          ],
          "default_policy": "off", "host_budget": "1s"
        }"#,
    )
    .unwrap();
    let mut args = args("GET /v1/x");
    args.headers = vec!["X-Cost: 3".to_owned()];
    args.peer = Some("192.0.2.7".to_owned());

    let told = told(&config, &args);

    for line in [
        "policy      p, by routes[1]",
        "enforcement shadow: a denial is only told",
        "descriptor  ip=192.0.2.7",
        "cost        3 units",
        "            authorization: *** (from the configuration)",
        "breaker     no breaker: a sick backend is called for each request",
        "denied               allow     shadow              -     -     would be quota_exceeded",
        "timeout              allow     shadow              -     -     would be local_exceeded",
        "breaker_open         never: there is no breaker",
    ] {
        assert!(told.lines().any(|own| own == line), "{line}\n\n{told}");
    }
    assert!(!told.contains("s3cret"));
}

#[test]
fn what_can_not_be_a_request_is_refused() {
    let config = manifest("minimal.yaml");
    let refused = |args: &Args| {
        Seen::read(args, &config)
            .err()
            .map(|error| error.to_string())
    };
    for request in ["/v1/x", "GET v1"] {
        let expected = format!("`{request}` is no `METHOD /path`");
        assert_eq!(refused(&args(request)), Some(expected));
    }
    let mut from = args("GET /");
    from.peer = Some("somewhere".to_owned());
    let expected = "`somewhere` is no address of IPv4 or IPv6".to_owned();
    assert_eq!(refused(&from), Some(expected));
    from.peer = Some("::1".to_owned());
    assert_eq!(refused(&from), None);
}
