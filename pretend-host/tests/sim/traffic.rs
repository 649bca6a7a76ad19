//! Requests at random: most are sound, some are what no client should send.

use pretend_host::{Random, Request, Status};

use crate::config::Config;

/// A request, and what the world has to know of it.
pub(crate) struct Sent {
    pub(crate) request: Request,
    /// The number of its policy; `None` where no policy's timeout holds.
    pub(crate) policy: Option<usize>,
    /// The request says itself how it is to be handled, or may do so.
    pub(crate) steered: bool,
    pub(crate) key: Option<String>,
    pub(crate) status_page: bool,
}

pub(crate) fn random(random: &mut Random, config: &Config) -> Sent {
    if random.per_mille(10) {
        let request = Request::get("/-/quota-gate");
        return Sent {
            request,
            policy: None,
            steered: true,
            key: None,
            status_page: true,
        };
    }
    let off = random.per_mille(20);
    let index = usize::try_from(random.below(config.policies.len() as u64)).unwrap();
    let path = if off {
        "/off".to_owned()
    } else {
        format!("/p{index}/x?page=1")
    };
    let method = random.pick(&["GET", "POST", "OPTIONS", "DELETE"]);
    let mut request = Request::new(method, &path);
    let key = key(random, &mut request);
    let mut steered = headers(random, &mut request);
    steered |= properties(random, &mut request, config);
    if random.per_mille(10) {
        // CONNECT has no path.
        request = request.without(":path");
        return Sent {
            request,
            policy: Some(0),
            steered,
            key,
            status_page: false,
        };
    }
    let policy = (!off).then_some(index);
    Sent {
        request,
        policy,
        steered,
        key,
        status_page: false,
    }
}

/// Who is asking; the key is told only where it is certain.
fn key(random: &mut Random, request: &mut Request) -> Option<String> {
    let key = format!("SECRET-{}z", random.below(6));
    let one = |request: &mut Request, value: &[u8]| {
        *request = request.clone().header("x-key", value);
    };
    match random.below(40) {
        0 => {}
        1 => one(request, b""),
        2 => one(request, b"\xff\xfe SECRET-bytes"),
        3 => one(request, "SECRET-".repeat(1200).as_bytes()),
        4 => one(request, b"SECRET-a,SECRET-b"),
        5 => {
            one(request, key.as_bytes());
            one(request, b"SECRET-other");
        }
        _ => {
            one(request, key.as_bytes());
            return Some(key);
        }
    }
    None
}

/// Headers that mean something to the filter; `true` where one chooses the failure mode.
fn headers(random: &mut Random, request: &mut Request) -> bool {
    let mut steered = false;
    let mut add = |name: &str, value: &str| *request = request.clone().header(name, value);
    if random.per_mille(50) {
        add("x-quota-decision", "allow; reason=leased");
    }
    if random.per_mille(100) {
        steered = true;
        add(
            "x-quota-mode",
            random.pick(&["fail_open", "fail_closed", "fail_local", "SECRET-m"]),
        );
        if random.per_mille(500) {
            add("x-envoy-internal", "true");
        }
    }
    if random.per_mille(100) {
        add("content-type", "application/grpc+proto");
        add(
            "grpc-timeout",
            random.pick(&["30m", "5S", "1u", "0n", "99999999H", "x"]),
        );
    }
    if random.per_mille(100) {
        add(
            "origin",
            random.pick(&["https://app.example", "https://SECRET-origin", "null"]),
        );
        if random.per_mille(300) {
            add("access-control-request-method", "GET");
        }
    }
    if random.per_mille(200) {
        add(
            "x-cost",
            random.pick(&["3", "0", "-1", "99999999999999999999", "2, 3", ""]),
        );
    }
    if random.per_mille(300) {
        add(
            "x-request-id",
            random.pick(&["6f8ae2b6", "\"quoted\\", "\r\nx: y"]),
        );
    }
    if random.per_mille(300) {
        add(
            "x-forwarded-for",
            random.pick(&["203.0.113.9", "1.2.3.4, 5.6.7.8", ",,", "SECRET-x"]),
        );
    }
    if random.per_mille(200) {
        *request = request.clone().body(100);
        if random.per_mille(300) {
            *request = request.clone().trailers();
        }
    }
    steered
}

/// What the proxy tells of route and client; `true` where route metadata may choose the policy.
fn properties(random: &mut Random, request: &mut Request, config: &Config) -> bool {
    let own = request.clone();
    *request = match random.below(20) {
        0 => own.property_failing(&["xds", "route_metadata"], Status::SerializationFailure),
        1 => own.property(&["xds", "route_metadata"], b"\x0a\xff\xff\xff\x0f\x01"),
        2 => {
            let policy = config.policies[0].as_str();
            let mode = random.pick(&["fail_open", "fail_closed", "fail_sideways"]);
            let timeout = random.pick(&["40ms", "400ms", "9h", "soon"]);
            let values = [
                ("policy", policy),
                ("failure_mode", mode),
                ("timeout", timeout),
            ];
            own.route_metadata("quota_gate", &values)
        }
        3 => own.route_metadata("quota_gate", &[("policy", "nobody")]),
        4..8 => {
            let path = ["metadata", "filter_metadata", "jwt", "sub"];
            *request = own.property(&path, "SECRET-user");
            return false;
        }
        8 => {
            let path = ["metadata", "filter_metadata", "jwt", "sub"];
            *request = own.property_failing(&path, Status::SerializationFailure);
            return false;
        }
        9..12 => {
            *request = own
                .route_name("items")
                .property(&["source", "address"], "10.0.0.1:4711");
            return false;
        }
        _ => return false,
    };
    true
}
