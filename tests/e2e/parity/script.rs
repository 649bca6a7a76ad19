//! Scripts: a configuration and what happens under it, one thing after the other. They hold no
//! times but those that both hosts can keep: ttls and open times are none or far longer.

use serde_json::{Value, json};

use crate::gated::config;

/// A run of both hosts.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    /// Laid over Envoy's cluster of the backend.
    pub(crate) cluster: Value,
    pub(crate) config: Value,
    pub(crate) steps: Vec<Step>,
}

/// One thing that happens.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// From now on the backend does this.
    Backend(Mood),
    /// So many requests at once, joined to the first one's call.
    Joined(Asked, usize),
    /// A client leaves while its check is pending.
    Leave(Asked),
    /// A configuration is pushed; whether it is good.
    Push(Value, bool),
    /// A request, and its answer.
    Request(Asked),
    /// Nothing, until the breaker of the backend `quota` is in this state.
    Until(u32),
}

/// What the backend does.
#[derive(Clone, Debug)]
pub(crate) enum Mood {
    /// The cluster bounds how long a call may take.
    Brief,
    /// The connection is closed before any header.
    Close,
    /// Bytes that are no HTTP.
    Garbage,
    /// Nothing ever comes.
    Hang,
    /// 34 MB.
    Huge,
    /// A yes after an interim `100 Continue`.
    Informational,
    /// A yes, so many milliseconds later.
    Late(u64),
    /// The port is closed.
    Refuse,
    /// The connection is reset before any header.
    Reset,
    /// The connection is reset in the middle of the body.
    ResetMidBody,
    /// This answer: status, header fields, body.
    Says(u16, Vec<(String, String)>, String),
    /// The body stops in its middle.
    Stall,
    /// Another version of HTTP.
    WrongVersion,
}

impl Mood {
    pub(crate) fn status(status: u16) -> Self {
        Self::Says(status, Vec::new(), String::new())
    }

    pub(crate) fn says(status: u16, fields: &[(&str, &str)], body: &str) -> Self {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Self::Says(status, fields.iter().map(own).collect(), body.to_owned())
    }
}

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Option<usize>,
    pub(crate) grpc: bool,
}

impl Asked {
    /// A GET by a tenant.
    pub(crate) fn get(path: &str, tenant: &str) -> Self {
        let headers = vec![("x-tenant-id", tenant.to_owned())];
        Self {
            method: "GET",
            path: path.to_owned(),
            headers,
            body: None,
            grpc: false,
        }
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    pub(crate) fn grpc(self) -> Self {
        Self {
            method: "POST",
            grpc: true,
            body: Some(5),
            ..self
        }
        .header("content-type", "application/grpc")
        .header("te", "trailers")
    }

    pub(crate) fn post(self, bytes: usize) -> Self {
        Self {
            method: "POST",
            body: Some(bytes),
            ..self
        }
    }

    pub(crate) fn without_key(mut self) -> Self {
        self.headers.retain(|(name, _)| *name != "x-tenant-id");
        self
    }
}

/// Numbers from a seed (SplitMix64), the same on both sides of the comparison.
pub(crate) struct Numbers(pub(crate) pretend_host::Random);

impl Numbers {
    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        let place = usize::try_from(self.0.below(of.len() as u64)).unwrap_or(0);
        &of[place]
    }

    fn percent(&mut self, times: u64) -> bool {
        self.0.below(100) < times
    }
}

/// The script of a seed.
pub(crate) fn generated(seed: u64) -> Script {
    let mut numbers = Numbers(pretend_host::Random::new(seed));
    let preset = *numbers.pick(&["headers", "headers", "envoy_ratelimit", "limitador"]);
    let config = any_config(&mut numbers, preset, 0);
    let mut steps = Vec::new();
    let mut slow = 0;
    for number in 0..numbers.0.between(15, 30) {
        let step = match numbers.0.below(100) {
            0..30 => Step::Backend(any_mood(&mut numbers, preset, &mut slow)),
            30..36 => Step::Push(any_config(&mut numbers, preset, number + 1), true),
            36..39 => {
                let mut bad = any_config(&mut numbers, preset, number + 1);
                bad["policies"]["open"]["failure_mode"] = json!("fail_sideways");
                Step::Push(bad, false)
            }
            _ => Step::Request(any_request(&mut numbers)),
        };
        steps.push(step);
    }
    Script::new(config, steps)
}

impl Script {
    pub(crate) fn new(mut config: Value, steps: Vec<Step>) -> Self {
        config["status_path"] = json!(STATUS_PATH);
        Self {
            cluster: Value::Null,
            config,
            steps,
        }
    }

    /// Calls to the backend may take no longer than [`BRIEF_MS`].
    pub(crate) fn brief(mut self) -> Self {
        self.cluster = json!({"typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.\
                          HttpProtocolOptions",
                "common_http_protocol_options": {
                    "max_stream_duration": format!("0.{BRIEF_MS}s"),
                },
                "explicit_http_config": {"http_protocol_options": {}},
            },
        }});
        self
    }
}

/// Where the gate tells of itself.
pub(crate) const STATUS_PATH: &str = "/-/quota-gate";

/// See [`Script::brief`].
pub(crate) const BRIEF_MS: u64 = 200;

/// A policy for each failure mode; `serial` makes each configuration another.
fn any_config(numbers: &mut Numbers, preset: &str, serial: u64) -> Value {
    let mut all = config(&json!({}));
    all["policies"] = json!({});
    for mode in ["open", "closed", "local"] {
        let ttl = |numbers: &mut Numbers| *numbers.pick(&["0s", "0s", "60s"]);
        let mut fields = json!({
            "failure_mode": format!("fail_{mode}"),
            "timeout": "150ms",
            "cache": {
                "allow_ttl": ttl(numbers), "deny_ttl": ttl(numbers),
                "rejected_ttl": ttl(numbers), "stale_if_error": ttl(numbers),
            },
            "cost": {"header": "x-cost", "default": 1, "max": 10},
            "on_missing": numbers.pick(&["deny", "deny", "allow"]),
            "rate_limit_headers": numbers.pick(&["none", "draft", "x_ratelimit"]),
            "denial": {"cors": {"allow_origins": ["https://app.example"]}},
        });
        if mode == "local" {
            fields["local_limit"] = json!({"units": 3, "per": "1h"});
        }
        if numbers.percent(15) {
            fields["enforcement"] = json!(numbers.pick(&["shadow", "off"]));
        }
        all["policies"][mode] = config(&fields)["policies"]["gold"].clone();
    }
    all["routes"] = json!([
        {"match": {"path_prefix": "/open"}, "policy": "open"},
        {"match": {"path_prefix": "/local"}, "policy": "local"},
        {"match": {"path_prefix": "/off"}, "policy": "off"},
        {"match": {"headers": {"x-beta": "1"}}, "policy": "closed",
         "override": {"failure_mode": "fail_open"}},
    ]);
    all["default_policy"] = json!("closed");
    all["backends"]["quota"]["preset"] = json!(preset);
    if numbers.percent(50) {
        all["backends"]["quota"]["breaker"] = json!({
            "consecutive_failures": 3, "open_for": "60s", "open_for_max": "60s",
        });
    }
    if numbers.percent(15) {
        let mode = numbers.pick(&["bypass", "fail_open"]);
        all["emergency"] = json!({
            "mode": mode, "until": "2100-01-01T00:00:00Z", "reason": "INC-1: parity",
        });
    }
    all["host_budget"] = json!(format!("{}ms", 10_000 + serial));
    all["status_path"] = json!(STATUS_PATH);
    all
}

/// Moods that take their time are rare: a real host waits for them in earnest.
fn any_mood(numbers: &mut Numbers, preset: &str, slow: &mut u32) -> Mood {
    let said = preset == "envoy_ratelimit";
    let body = |code: &str| match said {
        true => json!({"overallCode": code, "statuses": [{"code": code}]}).to_string(),
        false => String::new(),
    };
    let limits = [
        ("ratelimit-policy", "\"gold\";q=100;w=60"),
        ("ratelimit", "\"gold\";r=42;t=60"),
    ];
    match numbers.0.below(20) {
        0..6 => Mood::says(200, &[], &body("OK")),
        6 => Mood::says(200, &limits, &body("OK")),
        7 => Mood::says(429, &[("retry-after", "60")], &body("OVER_LIMIT")),
        8 => Mood::says(*numbers.pick(&[401, 403]), &[], ""),
        9 => Mood::status(*numbers.pick(&[302, 400, 404, 408, 418, 500, 502, 503, 504, 599])),
        10 => Mood::says(200, &[("cache-control", "no-store")], &body("OK")),
        11 => Mood::says(200, &[], "{\"overallCode\":"),
        12 => Mood::says(200, &[("retry-after", "-1"), ("ratelimit", ";;\"")], "[[["),
        13 => Mood::Close,
        14 => Mood::Garbage,
        15 => Mood::Refuse,
        16 => Mood::ResetMidBody,
        17 => Mood::Reset,
        _ if *slow < 2 => {
            *slow += 1;
            numbers
                .pick(&[Mood::Hang, Mood::Stall, Mood::Late(400)])
                .clone()
        }
        _ => Mood::WrongVersion,
    }
}

fn any_request(numbers: &mut Numbers) -> Asked {
    let path = *numbers.pick(&["/open", "/closed", "/closed", "/local", "/off", "/b"]);
    let tenant = *numbers.pick(&["acme", "acme", "globex", "a b&c=d%", "\u{e4}"]);
    let mut asked = Asked::get(path, tenant);
    match numbers.0.below(20) {
        0..3 => asked = asked.grpc(),
        3..6 => {
            let bytes = *numbers.pick(&[0, 1, 70_000]);
            asked = asked.post(bytes);
        }
        6 => asked = asked.without_key(),
        7 => asked = asked.header("x-tenant-id", "second"),
        8 => {
            asked = asked
                .header("origin", "https://app.example")
                .header("access-control-request-method", "GET");
            asked.method = "OPTIONS";
        }
        9 => asked = asked.header("origin", "https://app.example"),
        10 => asked = asked.header("x-beta", "1"),
        11 => asked = asked.header("x-quota-decision", "allow; reason=leased"),
        12 => {
            let cost = *numbers.pick(&["3", "0", "-1", "11", "x"]);
            asked = asked.header("x-cost", cost);
        }
        13 => asked = asked.grpc().header("grpc-timeout", "1u"),
        _ => {}
    }
    asked
}
