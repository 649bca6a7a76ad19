//! What is compared: everything that a client, an upstream, a backend and an operator can see and
//! that does not depend on how fast a host is.

use std::collections::BTreeMap;

/// What came of one request.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Seen {
    /// The client's status; 0 where it has left.
    pub(crate) status: u16,
    pub(crate) grpc: Option<String>,
    /// Of the gate's own answers only.
    pub(crate) details: String,
    pub(crate) body: String,
    /// The access log's text, without how long it took.
    pub(crate) state: String,
    /// What the upstream was told; empty where nothing reached it.
    pub(crate) told: Vec<String>,
    /// Header fields that the filter has a say in.
    pub(crate) headers: BTreeMap<String, Vec<String>>,
    /// What the backend was asked meanwhile.
    pub(crate) calls: Vec<Call>,
}

/// A callout as the backend got it: method, path, body, and the filter's own header fields.
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Call {
    pub(crate) line: String,
    pub(crate) headers: BTreeMap<String, Vec<String>>,
    pub(crate) body: String,
}

/// Everything at the end of a script.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Run {
    pub(crate) seen: Vec<Seen>,
    /// By name, without those that are 0.
    pub(crate) metrics: BTreeMap<String, u64>,
    /// What the filter logged of its state, in order.
    pub(crate) log: Vec<String>,
}

/// Which fields of an answer are the filter's own business.
pub(crate) fn matters(name: &str) -> bool {
    let named = [
        "access-control-allow-origin",
        "access-control-expose-headers",
        "cache-control",
        "ratelimit",
        "ratelimit-policy",
        "vary",
        "www-authenticate",
    ];
    named.contains(&name) || name.starts_with("x-ratelimit-")
}

/// Which fields of a callout are the filter's own business.
pub(crate) fn is_ours(name: &str) -> bool {
    name.starts_with("x-quota-")
        || ["x-request-id", "authorization", "content-type"].contains(&name)
}

/// A body without the seconds to wait: they depend on when it was asked.
pub(crate) fn timeless(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body).into_owned();
    match serde_json::from_str::<serde_json::Value>(&text) {
        Ok(mut json) if json["retry_after"].is_u64() => {
            json["retry_after"] = serde_json::Value::from("some");
            json.to_string()
        }
        Ok(json) => json.to_string(),
        Err(_) => text,
    }
}

/// The state without ` ms=…`.
pub(crate) fn without_ms(state: &str) -> String {
    let text = state.rsplit_once(" ms=").map_or(state, |(text, _)| text);
    text.to_owned()
}

/// A line about a state, without how long a breaker stays open: that is left to chance. Other lines
/// depend on how fast things go, or on which worker has a new configuration first.
pub(crate) fn told(line: &str) -> Option<String> {
    let tells = line.contains(": breaker ") || line.contains(" is active until ");
    let text = line.split("; open for").next().unwrap_or(line);
    tells.then(|| text.to_owned())
}
