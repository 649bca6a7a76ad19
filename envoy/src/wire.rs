//! The three languages that the backend speaks: what a check says, and how it is answered.
//!
//! All are spoken on one port; the path and, where two share one, the headers tell them apart.

use std::time::Duration;

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Response, StatusCode};
use serde_json::{Map, Value, json};

use crate::body::full;
use crate::books::{Books, Charge, Count, Descriptor};
use crate::server::Answer;

/// The language of a check.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wire {
    /// `POST /json` of envoyproxy/ratelimit.
    EnvoyRatelimit,
    /// Everything in headers; any path.
    Headers,
    /// `POST /check_and_report`, `/check` and `/report` of limitador.
    Limitador,
}

/// Which header fields about the quota the `headers` wire sends.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum QuotaHeaders {
    /// `RateLimit` and `RateLimit-Policy`.
    #[default]
    Draft,
    /// None.
    None,
    /// `X-RateLimit-Limit`, `-Remaining` and `-Reset`.
    XRateLimit,
    /// The same with a reset to the millisecond: `2.345`.
    Millis,
}

/// What a check asks.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) namespace: String,
    pub(crate) descriptor: Descriptor,
    pub(crate) cost: u64,
    pub(crate) cost_min: Option<u64>,
    /// What is told of use, below 0 for units to be taken back.
    pub(crate) units: i64,
    /// What a report can be known by when it comes again.
    pub(crate) id: Option<String>,
    /// Why the requests of a report were not checked.
    pub(crate) unchecked: Option<String>,
    call: Call,
}

impl Asked {
    /// Whether it tells of use and asks nothing.
    pub(crate) fn is_report(&self) -> bool {
        self.call == Call::Report
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Call {
    Charge { draft03: bool },
    Peek,
    Report,
}

/// Answers a check from `books` as a [`Backend`](crate::Backend) would that has no faults, keeps no
/// journal and sends no fields about the quota: for servers that have to be quick.
#[must_use]
pub fn answer(books: &Books, head: &Parts, body: &Bytes) -> Answer {
    let wire = wire_of(head);
    match read(wire, head, body) {
        Ok(asked) if asked.is_report() => {
            books.report(&asked.namespace, &asked.descriptor, asked.units);
            reported()
        }
        Ok(asked) => settle(wire, &asked, books, QuotaHeaders::None).0,
        Err(answer) => *answer,
    }
}

/// The wire that a request speaks.
pub(crate) fn wire_of(head: &Parts) -> Wire {
    let ours = head
        .headers
        .keys()
        .any(|name| name.as_str().starts_with("x-quota-"));
    match head.uri.path() {
        // All wires mark reports about requests that were not checked.
        "/report" if !head.headers.contains_key("x-quota-descriptor") => Wire::Limitador,
        "/json" => Wire::EnvoyRatelimit,
        _ if ours => Wire::Headers,
        "/check" | "/check_and_report" | "/report" => Wire::Limitador,
        _ => Wire::Headers,
    }
}

/// Reads a check; what its wire answers if it can't be read is the error.
pub(crate) fn read(wire: Wire, head: &Parts, body: &Bytes) -> Result<Asked, Box<Answer>> {
    match wire {
        Wire::EnvoyRatelimit => read_ratelimit(body),
        Wire::Headers => Ok(read_headers(head)),
        Wire::Limitador => read_limitador(head, body),
    }
}

/// The answer to a report that is counted.
pub(crate) fn reported() -> Answer {
    json_answer(StatusCode::OK, &Value::Null)
}

/// Charges the books as asked, answers in the language of the check, and says how much is charged.
pub(crate) fn settle(
    wire: Wire,
    asked: &Asked,
    books: &Books,
    fields: QuotaHeaders,
) -> (Answer, u64) {
    let Asked {
        namespace,
        descriptor,
        cost,
        ..
    } = asked;
    match asked.call {
        Call::Charge { .. } => {
            let least = asked.cost_min.unwrap_or(0);
            let charge = books.charge(namespace, descriptor, *cost, least);
            (answer_charge(wire, asked, &charge, fields), charge.granted)
        }
        // limitador answers /check in text and /check_and_report in JSON.
        Call::Peek if books.would_deny(namespace, descriptor, *cost) => {
            (text(StatusCode::TOO_MANY_REQUESTS, "Too many requests"), 0)
        }
        Call::Peek | Call::Report => (json_answer(StatusCode::OK, &Value::Null), 0),
    }
}

/// The same with books on Redis, which can be gone.
#[cfg(feature = "redis")]
pub(crate) async fn settle_shared(
    wire: Wire,
    asked: &Asked,
    books: &crate::redis::Shared,
    fields: QuotaHeaders,
) -> Answer {
    let Asked {
        namespace,
        descriptor,
        cost,
        ..
    } = asked;
    let settled = match asked.call {
        Call::Charge { .. } => {
            let least = asked.cost_min.unwrap_or(0);
            let charge = books.charge(namespace, descriptor, *cost, least).await;
            charge.map(|charge| answer_charge(wire, asked, &charge, fields))
        }
        Call::Peek => {
            let denied = books.would_deny(namespace, descriptor, *cost).await;
            denied.map(|denied| match denied {
                true => text(StatusCode::TOO_MANY_REQUESTS, "Too many requests"),
                false => json_answer(StatusCode::OK, &Value::Null),
            })
        }
        Call::Report => {
            let reported = books.report(namespace, descriptor, *cost).await;
            reported.map(|()| json_answer(StatusCode::OK, &Value::Null))
        }
    };
    settled.unwrap_or_else(|_lost| match wire {
        // That is what the service says when it has lost its Redis.
        Wire::EnvoyRatelimit => text(StatusCode::BAD_REQUEST, "Bad Request"),
        Wire::Headers | Wire::Limitador => {
            text(StatusCode::INTERNAL_SERVER_ERROR, "Internal server error")
        }
    })
}

fn answer_charge(wire: Wire, asked: &Asked, charge: &Charge, fields: QuotaHeaders) -> Answer {
    let draft03 = matches!(asked.call, Call::Charge { draft03: true });
    match wire {
        Wire::EnvoyRatelimit => answer_ratelimit(charge),
        Wire::Headers => answer_headers(asked, charge, fields),
        Wire::Limitador => answer_limitador(charge, draft03),
    }
}

/// An answer in plain text.
pub(crate) fn text(status: StatusCode, text: &str) -> Answer {
    let mut answer = Response::new(full(text.to_owned()));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    answer
}

/// An answer in JSON.
pub(crate) fn json_answer(status: StatusCode, value: &Value) -> Answer {
    let mut answer = Response::new(full(value.to_string()));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

// --- headers -------------------------------------------------------------------------------------

fn read_headers(head: &Parts) -> Asked {
    let headers = &head.headers;
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let number = |name| text(name).and_then(|text| text.parse().ok());
    let id = text("x-quota-settlement-id").map(str::to_owned);
    Asked {
        namespace: text("x-quota-namespace").unwrap_or(NAMESPACE).to_owned(),
        descriptor: text("x-quota-descriptor")
            .map(form_urldecode)
            .unwrap_or_default(),
        cost: number("x-quota-cost").unwrap_or(1),
        cost_min: number("x-quota-cost-min"),
        units: text("x-quota-cost")
            .and_then(|text| text.parse().ok())
            .unwrap_or(0),
        unchecked: unchecked(head),
        call: match id {
            Some(_) => Call::Report,
            None => Call::Charge { draft03: false },
        },
        id,
    }
}

fn answer_headers(asked: &Asked, charge: &Charge, fields: QuotaHeaders) -> Answer {
    let status = if charge.denied {
        StatusCode::TOO_MANY_REQUESTS
    } else {
        StatusCode::OK
    };
    let mut answer = Response::new(full(Bytes::new()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    if asked.cost_min.is_some() && !charge.denied {
        headers.insert("x-quota-granted", charge.granted.into());
    }
    let Some(tightest) = charge.counts.first() else {
        return answer;
    };
    let reset = seconds_up(tightest.resets_in);
    if charge.denied {
        headers.insert(RETRY_AFTER, reset.into());
    }
    match fields {
        QuotaHeaders::Draft => {
            let item = |count: &Count, rest: String| format!("\"{}\";{rest}", count.name);
            let policies = charge.counts.iter().map(|count| {
                item(
                    count,
                    format!("q={};w={}", count.max, count.window.as_secs()),
                )
            });
            let policies = policies.collect::<Vec<_>>().join(", ");
            put(headers, "ratelimit-policy", &policies);
            let state = item(tightest, format!("r={};t={reset}", tightest.remaining));
            put(headers, "ratelimit", &state);
        }
        QuotaHeaders::None => {}
        QuotaHeaders::XRateLimit => {
            headers.insert("x-ratelimit-limit", tightest.max.into());
            headers.insert("x-ratelimit-remaining", tightest.remaining.into());
            headers.insert("x-ratelimit-reset", reset.into());
        }
        QuotaHeaders::Millis => {
            headers.insert("x-ratelimit-limit", tightest.max.into());
            headers.insert("x-ratelimit-remaining", tightest.remaining.into());
            let (whole, millis) = (
                tightest.resets_in.as_secs(),
                tightest.resets_in.subsec_millis(),
            );
            put(
                headers,
                "x-ratelimit-reset",
                &format!("{whole}.{millis:03}"),
            );
        }
    }
    answer
}

/// Why the requests of a report were not checked.
fn unchecked(head: &Parts) -> Option<String> {
    let value = head.headers.get("x-quota-unchecked")?;
    value.to_str().ok().map(str::to_owned)
}

/// `a=b&c=d` with percent-encoding and `+`, as forms send it; bytes that are no UTF-8 are replaced.
fn form_urldecode(form: &str) -> Descriptor {
    let pairs = form.split('&').filter(|pair| !pair.is_empty());
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (percent_decode(name), percent_decode(value))
    };
    pairs.map(pair).collect()
}

fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let byte = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        rest = match (first, byte) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                &tail[2..]
            }
            (b'+', _) => {
                bytes.push(b' ');
                tail
            }
            (byte, _) => {
                bytes.push(*byte);
                tail
            }
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

// --- limitador -----------------------------------------------------------------------------------

fn read_limitador(head: &Parts, body: &Bytes) -> Result<Asked, Box<Answer>> {
    let bad = |why: &str| Box::new(text(StatusCode::BAD_REQUEST, why));
    if head.method != Method::POST {
        return Err(Box::new(text(StatusCode::NOT_FOUND, "")));
    }
    let content_type = head.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    if !content_type.is_some_and(|value| value.starts_with(b"application/json")) {
        return Err(bad("Content type error"));
    }
    let json: Value = serde_json::from_slice(body).map_err(|_| bad("Json deserialize error"))?;
    let namespace = json["namespace"]
        .as_str()
        .ok_or_else(|| bad("missing field `namespace`"))?;
    let cost = json["delta"]
        .as_u64()
        .ok_or_else(|| bad("missing field `delta`"))?;
    let values = json["values"]
        .as_object()
        .ok_or_else(|| bad("missing field `values`"))?;
    let value = |(name, value): (&String, &Value)| Some((name.clone(), value.as_str()?.to_owned()));
    let descriptor: Option<Descriptor> = values.iter().map(value).collect();
    let draft03 = json["response_headers"].as_str() == Some("DraftVersion03");
    Ok(Asked {
        namespace: namespace.to_owned(),
        descriptor: descriptor.ok_or_else(|| bad("`values` holds something that is no string"))?,
        cost,
        cost_min: None,
        units: i64::try_from(cost).unwrap_or(i64::MAX),
        id: None,
        unchecked: unchecked(head),
        call: match head.uri.path() {
            "/check" => Call::Peek,
            "/report" => Call::Report,
            _ => Call::Charge { draft03 },
        },
    })
}

fn answer_limitador(charge: &Charge, draft03: bool) -> Answer {
    let status = if charge.denied {
        StatusCode::TOO_MANY_REQUESTS
    } else {
        StatusCode::OK
    };
    let mut answer = json_answer(status, &Value::Null);
    let Some(tightest) = charge.counts.first().filter(|_| draft03) else {
        return answer;
    };
    let windows = charge.counts.iter().map(|count| {
        format!(
            ", {};w={};name=\"{}\"",
            count.max,
            count.window.as_secs(),
            count.name
        )
    });
    let limits = format!("{}{}", tightest.max, windows.collect::<String>());
    put(answer.headers_mut(), "x-ratelimit-limit", &limits);
    // The server reports nothing left for whatever it denied, even if a smaller delta would fit.
    let remaining = if charge.denied { 0 } else { tightest.remaining };
    answer
        .headers_mut()
        .insert("x-ratelimit-remaining", remaining.into());
    answer
        .headers_mut()
        .insert("x-ratelimit-reset", tightest.resets_in.as_secs().into());
    answer
}

// --- envoyproxy/ratelimit ------------------------------------------------------------------------

fn read_ratelimit(body: &Bytes) -> Result<Asked, Box<Answer>> {
    // The service answers 400 to what it can't read and to every failure of its own.
    let bad = |why: &str| Box::new(text(StatusCode::BAD_REQUEST, why));
    let json: Value = serde_json::from_slice(body).map_err(|_| bad("proto: syntax error"))?;
    let domain = json["domain"].as_str().filter(|domain| !domain.is_empty());
    let domain = domain.ok_or_else(|| bad("rate limit domain must not be empty"))?;
    let descriptors = json["descriptors"]
        .as_array()
        .filter(|list| !list.is_empty());
    let descriptors = descriptors.ok_or_else(|| bad("rate limit descriptor list is empty"))?;
    let entries = descriptors[0]["entries"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let entry = |entry: &Value| {
        let field = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        (field("key"), field("value"))
    };
    // protojson takes 64-bit numbers as strings and as numbers.
    let number = |value: &Value| value.as_u64().or_else(|| value.as_str()?.parse().ok());
    let of_request = match &json["hitsAddend"] {
        Value::Null => 0,
        value => number(value)
            .and_then(|units| u32::try_from(units).ok())
            .ok_or_else(|| bad("proto: invalid value for uint32 field hitsAddend"))?,
    };
    // At the descriptor's level an addend of 0 counts nothing; at the request's it is not set.
    let of_descriptor = number(&descriptors[0]["hitsAddend"]);
    let cost = of_descriptor.unwrap_or_else(|| of_request.max(1).into());
    Ok(Asked {
        namespace: domain.to_owned(),
        descriptor: entries.iter().map(entry).collect(),
        cost,
        cost_min: None,
        units: 0,
        id: None,
        unchecked: None,
        call: Call::Charge { draft03: false },
    })
}

fn answer_ratelimit(charge: &Charge) -> Answer {
    let code = if charge.denied { "OVER_LIMIT" } else { "OK" };
    let mut status = Map::from_iter([("code".to_owned(), json!(code))]);
    if let Some(count) = charge.counts.first() {
        let (per, unit) = unit_of(count);
        status.insert(
            "currentLimit".to_owned(),
            json!({"requestsPerUnit": per, "unit": unit}),
        );
        // protojson leaves out what is zero.
        let remaining = if charge.denied { 0 } else { count.remaining };
        if remaining > 0 {
            status.insert("limitRemaining".to_owned(), json!(remaining));
        }
        let reset = format!("{}s", seconds_up(count.resets_in));
        status.insert("durationUntilReset".to_owned(), json!(reset));
    }
    let http = if charge.denied {
        StatusCode::TOO_MANY_REQUESTS
    } else {
        StatusCode::OK
    };
    json_answer(http, &json!({"overallCode": code, "statuses": [status]}))
}

/// The service knows four units; a window of another length is shown in the next smaller one.
fn unit_of(count: &Count) -> (u64, &'static str) {
    match count.window.as_secs() {
        86_400.. => (count.max, "DAY"),
        3_600.. => (count.max, "HOUR"),
        60.. => (count.max, "MINUTE"),
        _ => (count.max, "SECOND"),
    }
}

/// Whole seconds, at least one: a wait that is rounded down ends too early.
fn seconds_up(duration: Duration) -> u64 {
    duration
        .as_millis()
        .div_ceil(1000)
        .max(1)
        .try_into()
        .unwrap_or(u64::MAX)
}

fn put(headers: &mut HeaderMap, name: &'static str, value: &str) {
    // Names of limits come from tests; a value that no header can hold is left out.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(HeaderName::from_static(name), value);
    }
}

/// The namespace of checks that name none, and of limits set without one.
pub(crate) const NAMESPACE: &str = "quota-gate";
