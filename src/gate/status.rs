//! The status page: the gate's own health, as part of the operator's health checks.

use alloc::borrow::Cow;
use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec;

use super::breaker::State;
use super::{Breaker, Gate};
use crate::config::{Enforcement, FailureMode, Policy};
use crate::denial::Denial;
use crate::request::Request;
use crate::text::{self, hex_of};
use crate::time::{Wall, rfc3339};

impl Gate {
    /// Whether the gate itself is asked: by a GET of the status path.
    pub(super) fn is_status_request(&self, request: &dyn Request) -> bool {
        let Some(wanted) = &self.config.status_path else {
            return false;
        };
        let path = request.value(":path").unwrap_or_default();
        let bare = path.split(|byte| *byte == b'?').next();
        bare == Some(wanted.as_bytes()) && request.says(":method", "GET")
    }

    /// The gate's answer: how it is.
    #[inline(never)]
    pub(super) fn status_answer(&self, wall: Wall) -> Denial {
        let healthy = !self
            .config
            .policies
            .iter()
            .any(|policy| self.is_stuck(policy));
        Denial {
            status: if healthy { 200 } else { 503 },
            grpc_status: if healthy { 0 } else { 14 },
            headers: vec![
                (Cow::Borrowed("content-type"), b"application/json".to_vec()),
                (Cow::Borrowed("cache-control"), b"no-store".to_vec()),
            ],
            body: self.status_page(wall, healthy).into_bytes(),
            details: "quota_gate_status",
        }
    }

    /// Whether a policy that fails closed needs a backend that is cut off.
    fn is_stuck(&self, policy: &Policy) -> bool {
        policy.enforcement == Enforcement::Enforce
            && policy.failure_mode == FailureMode::FailClosed
            && self.breaker_state(policy.backend) == Some(State::Open)
    }

    fn breaker_state(&self, backend: usize) -> Option<State> {
        self.breakers
            .get(backend)
            .and_then(Option::as_ref)
            .map(Breaker::state)
    }

    fn status_page(&self, wall: Wall, healthy: bool) -> String {
        let emergency = match self.declared(wall) {
            None => "null".to_owned(),
            Some(emergency) => text::fill(
                "{\"mode\":\"{}\",\"until\":\"{}\",\"reason\":\"{}\"}",
                &[
                    emergency.mode.code(),
                    &rfc3339(emergency.until),
                    &json_text(&emergency.reason),
                ],
            ),
        };
        let mut page = text::fill(
            "{\"healthy\":{},\"version\":\"{}\",\"configuration\":\"{}\",\"emergency\":{},\
             \"backends\":{",
            &[
                if healthy { "true" } else { "false" },
                env!("CARGO_PKG_VERSION"),
                &hex_of(self.config.fingerprint, 16),
                &emergency,
            ],
        );
        for (index, backend) in self.config.backends.iter().enumerate() {
            if index > 0 {
                page.push(',');
            }
            let breaker = self.breaker_state(index).map_or("off", State::code);
            let last = self.report.last_answer(index);
            let last = last.map_or_else(
                || "null".to_owned(),
                |wall| text::fill("\"{}\"", &[&rfc3339(wall)]),
            );
            page.push_str(&text::fill(
                "\"{}\":{\"breaker\":\"{}\",\"last_answer\":{}}",
                &[&backend.name, breaker, &last],
            ));
        }
        page.push_str("}}\n");
        page
    }
}

/// The inside of a JSON string.
fn json_text(text: &str) -> String {
    let mut inside = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' | '\\' => inside.extend(['\\', character]),
            control if control.is_control() => {
                inside.push_str("\\u");
                inside.push_str(&hex_of(u32::from(control).into(), 4));
            }
            plain => inside.push(plain),
        }
    }
    inside
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_is_the_same_again_after_json() {
        for text in [
            "INC-123",
            "50% \"open\" \\ closed",
            "a\nb\t\u{7f}\u{85}",
            "é\u{1f600}",
            "",
        ] {
            let json = format!("\"{}\"", json_text(text));
            assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }
    }
}
