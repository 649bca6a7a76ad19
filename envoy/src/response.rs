//! What a client got: status, headers, body, trailers and time, and what a test expects of them.

use std::fmt;
use std::time::Duration;

use hyper::header::HeaderMap;
use serde_json::Value;

/// A response, read to its end.
#[derive(Clone, Default)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// Header fields in their order; names in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body, without its framing.
    pub body: Vec<u8>,
    /// Trailer fields in their order; names in lower case.
    pub trailers: Vec<(String, Vec<u8>)>,
    /// From the start of sending to the end of the body; connecting is not in it.
    pub elapsed: Duration,
    /// The request's method and path, for messages.
    pub what: String,
}

impl Response {
    /// The only value of the header `name` (lower case), or `None` if there is none.
    ///
    /// # Panics
    /// If there is more than one; see [`Response::header_values`].
    #[must_use]
    #[track_caller]
    pub fn header(&self, name: &str) -> Option<String> {
        let mut values = self.header_values(name);
        assert!(
            values.len() < 2,
            "{}: header {name} occurs twice: {values:?}",
            self.what
        );
        values.pop()
    }

    /// All values of the header `name` (lower case), in their order.
    #[must_use]
    pub fn header_values(&self, name: &str) -> Vec<String> {
        values(&self.headers, name)
    }

    /// The body as text; bytes that are not UTF-8 are replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// If it is none.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{}: {error} in {}", self.what, self.text()))
    }

    /// The gRPC status, from the trailers or, if there are none, the headers (trailers-only).
    #[must_use]
    pub fn grpc_status(&self) -> Option<u32> {
        let fields = if self.trailers.is_empty() {
            &self.headers
        } else {
            &self.trailers
        };
        values(fields, "grpc-status").first()?.parse().ok()
    }

    /// Expects this HTTP status.
    #[track_caller]
    pub fn expect_status(&self, status: u16) -> &Self {
        let Self { what, headers, .. } = self;
        assert_eq!(
            self.status,
            status,
            "status of {what} after {:?}; headers {:?}; body {}",
            self.elapsed,
            readable(headers),
            excerpt(&self.text())
        );
        self
    }

    /// Expects the header `name` (lower case) exactly once, with this value.
    #[track_caller]
    pub fn expect_header(&self, name: &str, value: &str) -> &Self {
        assert_eq!(
            self.header_values(name),
            [value],
            "header {name} of {}",
            self.what
        );
        self
    }

    /// Expects no header `name` (lower case).
    #[track_caller]
    pub fn expect_no_header(&self, name: &str) -> &Self {
        assert!(
            self.header_values(name).is_empty(),
            "{} has the header {name}: {:?}",
            self.what,
            self.header_values(name)
        );
        self
    }

    /// Expects a JSON body that has `value` at the JSON pointer `pointer`.
    #[track_caller]
    pub fn expect_json(&self, pointer: &str, value: impl Into<Value>) -> &Self {
        let (json, value) = (self.json(), value.into());
        assert_eq!(
            json.pointer(pointer),
            Some(&value),
            "{pointer} of {}: {json}",
            self.what
        );
        self
    }

    /// Expects `part` somewhere in the body.
    #[track_caller]
    pub fn expect_body_contains(&self, part: &str) -> &Self {
        let text = self.text();
        assert!(
            text.contains(part),
            "no `{part}` in {}: {}",
            self.what,
            excerpt(&text)
        );
        self
    }

    /// Expects this gRPC status.
    #[track_caller]
    pub fn expect_grpc_status(&self, status: u32) -> &Self {
        assert_eq!(
            self.grpc_status(),
            Some(status),
            "gRPC status of {}: HTTP {}, headers {:?}, trailers {:?}",
            self.what,
            self.status,
            readable(&self.headers),
            readable(&self.trailers)
        );
        self
    }

    /// Expects that it took less than `limit`.
    #[track_caller]
    pub fn expect_faster_than(&self, limit: Duration) -> &Self {
        assert!(
            self.elapsed < limit,
            "{} took {:?}, not < {limit:?}",
            self.what,
            self.elapsed
        );
        self
    }

    /// Expects that it took at least `limit`.
    #[track_caller]
    pub fn expect_slower_than(&self, limit: Duration) -> &Self {
        assert!(
            self.elapsed >= limit,
            "{} took {:?}, not >= {limit:?}",
            self.what,
            self.elapsed
        );
        self
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("what", &self.what)
            .field("status", &self.status)
            .field("headers", &readable(&self.headers))
            .field("body", &excerpt(&self.text()))
            .field("trailers", &readable(&self.trailers))
            .field("elapsed", &self.elapsed)
            .finish()
    }
}

/// The fields of `map` as names and bytes.
pub(crate) fn fields(map: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    map.iter()
        .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
        .collect()
}

/// All values of `name` as text.
pub(crate) fn values(fields: &[(String, Vec<u8>)], name: &str) -> Vec<String> {
    let found = fields.iter().filter(|(other, _)| other == name);
    found
        .map(|(_, value)| String::from_utf8_lossy(value).into_owned())
        .collect()
}

/// Fields as text, for messages.
pub(crate) fn readable(fields: &[(String, Vec<u8>)]) -> Vec<String> {
    let line = |(name, value): &(String, Vec<u8>)| {
        excerpt(&format!("{name}: {}", String::from_utf8_lossy(value)))
    };
    fields.iter().map(line).collect()
}

fn excerpt(text: &str) -> String {
    let mut short: String = text.chars().take(EXCERPT_CHARS).collect();
    if short.len() < text.len() {
        short.push_str("...");
    }
    short
}

/// As much of a value as helps in a failed test's message.
const EXCERPT_CHARS: usize = 500;
