//! Envoy's access log, read back.

use serde_json::Value;

/// One request, as Envoy logged it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LogEntry {
    /// The method; empty if the request had none that could be read.
    pub method: String,
    /// The path as the client sent it; empty for CONNECT.
    pub path: String,
    /// `HTTP/1.1` or `HTTP/2`.
    pub protocol: String,
    /// The status sent to the client; 0 if none was.
    pub status: u64,
    /// `%RESPONSE_CODE_DETAILS%`.
    pub details: String,
    /// `%RESPONSE_FLAGS%`; `-` is none.
    pub flags: String,
    /// `%FILTER_STATE(wasm.quota_gate:PLAIN)%`: `deny reason=… cause=…`.
    pub state: String,
    /// From the first byte of the request to the last of the response.
    pub duration_ms: u64,
    /// `x-request-id`.
    pub request_id: String,
    /// The name of the matched route.
    pub route: String,
    /// The gRPC status, if it was a gRPC request.
    pub grpc_status: Option<u64>,
    /// The response's `x-used`: what the upstream says that the request has used.
    pub used: Option<u64>,
}

impl LogEntry {
    /// One line of the access log; `None` where it is none.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let json: Value = serde_json::from_str(line).ok()?;
        let text = |name: &str| match &json[name] {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let number = |name: &str| text(name).parse().ok();
        Some(Self {
            method: text("method"),
            path: text("path"),
            protocol: text("protocol"),
            status: number("status").unwrap_or(0),
            details: text("details"),
            flags: text("flags"),
            state: text("state"),
            duration_ms: number("duration_ms").unwrap_or(0),
            request_id: text("request_id"),
            route: text("route"),
            grpc_status: number("grpc_status"),
            used: number("used"),
        })
    }

    /// The decision in its state: `allow` or `deny`; empty if the filter left none.
    #[must_use]
    pub fn decision(&self) -> &str {
        self.state.split(' ').next().unwrap_or_default()
    }

    /// The value of `name=…` in its state (`reason`, `cause`, `policy`, `backend`, `ms`).
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self
            .state
            .split(' ')
            .filter_map(|field| field.split_once('='));
        fields
            .find(|(other, _)| *other == name)
            .map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_state_apart() {
        let line = r#"{"status":503,"state":"deny reason=quota_unavailable cause=timeout ms=80",
            "grpc_status":null,"duration_ms":81,"path":"/x"}"#;
        let entry = LogEntry::parse(line).expect("a log line");
        assert_eq!(
            (entry.decision(), entry.field("cause")),
            ("deny", Some("timeout"))
        );
        assert_eq!(
            (entry.status, entry.grpc_status, entry.field("policy")),
            (503, None, None)
        );
    }
}
