//! A denial as the client sees it: statuses, headers and body, for HTTP and for gRPC.
//!
//! Everything a client may learn is in [`answer`]'s table and the facts that go in; the cause of a
//! failure is not among them. The HTTP and the gRPC status travel together, because the host picks
//! one of them by the request's content type.

use alloc::borrow::Cow;
use alloc::vec::Vec;
use core::time::Duration;

use crate::config::{DenialStyle, Policy};
use crate::decision::{Decision, DenyReason, Limits};
use crate::fields;
use crate::text;

/// The answer that the filter sends instead of the upstream's.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Denial {
    /// The HTTP status.
    pub status: u16,
    /// The gRPC status that a gRPC client gets.
    pub grpc_status: i32,
    /// Names in lower case; no pseudo-header and no `content-length`.
    pub headers: Vec<(Cow<'static, str>, Vec<u8>)>,
    /// A problem document, or for gRPC the short text that becomes `grpc-message`.
    pub body: Vec<u8>,
    /// The response code details for the access log: `quota_gate_<reason>`.
    pub details: &'static str,
}

/// What a denial needs to know of the request.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Facts {
    /// The request is gRPC, as [`is_grpc`] says of its content type.
    pub grpc: bool,
    /// The `origin` header of a browser's cross-origin request.
    pub origin: Option<Vec<u8>>,
    /// The `x-request-id` header, as it came.
    pub request_id: Option<Vec<u8>>,
}

impl Denial {
    /// The denial of a request for `reason`; `decision` tells when to come again and of the limit.
    ///
    /// A denial for want of quota or of an answer always says when to come again: what the backend
    /// said, else its limit's reset, else [`RETRY_AFTER_UNKNOWN`]. A rejected or missing key never
    /// does: time does not cure it.
    #[must_use]
    pub fn new(reason: DenyReason, decision: &Decision, policy: &Policy, facts: &Facts) -> Self {
        let told = decision.told();
        let answer = answer(reason, told.rejected_status, &policy.denial);
        let retry_after = answer.cured_by_time.then(|| {
            let wait = told.retry_after.or(told.limits.reset);
            fields::seconds_up(wait.unwrap_or(RETRY_AFTER_UNKNOWN)).max(1)
        });
        let body = if facts.grpc {
            answer.title.as_bytes().to_vec()
        } else {
            problem(&answer, reason, facts, retry_after)
        };
        Self {
            status: answer.status,
            grpc_status: answer.grpc_status,
            headers: headers(told.limits, policy, facts, retry_after),
            body,
            details: answer.details,
        }
    }
}

/// Whether a request of this content type is gRPC, by the host's own rule: the host answers gRPC by
/// it, and what is not gRPC to the host (gRPC-Web, for one) gets the status and body as they are.
#[must_use]
pub fn is_grpc(content_type: &[u8]) -> bool {
    content_type
        .strip_prefix(b"application/grpc")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"+"))
}

/// How one reason looks from outside.
struct Answer {
    status: u16,
    grpc_status: i32,
    kind: &'static str,
    title: &'static str,
    details: &'static str,
    cured_by_time: bool,
}

/// The one table from reasons to answers.
///
/// `about:blank` problems carry their status' phrase as a title (RFC 9457, section 4.2.1); the
/// `code` says the rest.
fn answer(reason: DenyReason, rejected_status: Option<u16>, style: &DenialStyle) -> Answer {
    match reason {
        DenyReason::DescriptorMissing => Answer {
            status: 401,
            grpc_status: GRPC_UNAUTHENTICATED,
            kind: "about:blank",
            title: "Unauthorized",
            details: "quota_gate_descriptor_missing",
            cured_by_time: false,
        },
        DenyReason::KeyRejected if rejected_status == Some(403) => Answer {
            status: 403,
            grpc_status: GRPC_PERMISSION_DENIED,
            kind: "about:blank",
            title: "Forbidden",
            details: "quota_gate_key_rejected",
            cured_by_time: false,
        },
        DenyReason::KeyRejected => Answer {
            status: 401,
            grpc_status: GRPC_UNAUTHENTICATED,
            kind: "about:blank",
            title: "Unauthorized",
            details: "quota_gate_key_rejected",
            cured_by_time: false,
        },
        DenyReason::LocalExceeded => Answer {
            status: style.status,
            grpc_status: GRPC_RESOURCE_EXHAUSTED,
            kind: QUOTA_EXCEEDED,
            title: "Too many requests for the moment",
            details: "quota_gate_local_exceeded",
            cured_by_time: true,
        },
        DenyReason::QuotaExceeded => Answer {
            status: style.status,
            grpc_status: GRPC_RESOURCE_EXHAUSTED,
            kind: QUOTA_EXCEEDED,
            title: "Quota exceeded",
            details: "quota_gate_quota_exceeded",
            cured_by_time: true,
        },
        DenyReason::QuotaUnavailable => Answer {
            status: style.unavailable_status,
            grpc_status: GRPC_UNAVAILABLE,
            kind: TEMPORARY_REDUCED_CAPACITY,
            title: "Quota can't be checked for the moment",
            details: "quota_gate_quota_unavailable",
            cured_by_time: true,
        },
    }
}

fn problem(
    answer: &Answer,
    reason: DenyReason,
    facts: &Facts,
    retry_after: Option<u64>,
) -> Vec<u8> {
    let mut body = Vec::with_capacity(TYPICAL_BODY_BYTES);
    body.extend_from_slice(b"{\"type\":\"");
    body.extend_from_slice(answer.kind.as_bytes());
    body.extend_from_slice(b"\",\"title\":\"");
    body.extend_from_slice(answer.title.as_bytes());
    body.extend_from_slice(b"\",\"status\":");
    text::push_decimal(&mut body, u64::from(answer.status));
    body.extend_from_slice(b",\"code\":\"");
    body.extend_from_slice(reason.code().as_bytes());
    body.push(b'"');
    let request_id = facts.request_id.as_deref().unwrap_or_default();
    let request_id = text::sanitise(request_id, REQUEST_ID_BYTES_MAX);
    if !request_id.is_empty() {
        body.extend_from_slice(b",\"request_id\":\"");
        text::push_json_ascii(&mut body, &request_id);
        body.push(b'"');
    }
    if let Some(seconds) = retry_after {
        body.extend_from_slice(b",\"retry_after\":");
        text::push_decimal(&mut body, seconds);
    }
    body.push(b'}');
    body
}

fn headers(
    limits: Limits,
    policy: &Policy,
    facts: &Facts,
    retry_after: Option<u64>,
) -> Vec<(Cow<'static, str>, Vec<u8>)> {
    let mut headers: Vec<(Cow<'static, str>, Vec<u8>)> = Vec::new();
    if !facts.grpc {
        // A gRPC answer's content type is the host's to set.
        headers.push(("content-type".into(), b"application/problem+json".to_vec()));
    }
    headers.push(("cache-control".into(), b"no-store".to_vec()));
    if let Some(seconds) = retry_after {
        let mut value = Vec::new();
        text::push_decimal(&mut value, seconds);
        headers.push(("retry-after".into(), value));
    }
    let limits = told_limits(limits, retry_after);
    let fields = fields::fields(policy.rate_limit_headers, &policy.name, &limits);
    headers.extend(fields.into_iter().map(|(name, value)| (name.into(), value)));
    push_cors(&mut headers, policy, facts);
    push_configured(&mut headers, &policy.denial);
    headers
}

/// The draft wants `Retry-After` not to point earlier than the `RateLimit` field's `t`; where the
/// backend says that a request may succeed before the window is over, the earlier one counts.
fn told_limits(limits: Limits, retry_after: Option<u64>) -> Limits {
    let retry_after = retry_after.map(Duration::from_secs);
    let reset = match (limits.reset, retry_after) {
        (Some(reset), Some(retry_after)) => Some(reset.min(retry_after)),
        (reset, _) => reset,
    };
    Limits { reset, ..limits }
}

/// Lets the pages of an allowed origin read the denial; without this a browser reports a network
/// error. Only words of the configuration are sent, never the client's own.
fn push_cors(headers: &mut Vec<(Cow<'static, str>, Vec<u8>)>, policy: &Policy, facts: &Facts) {
    let allowed = &policy.denial.allow_origins;
    if allowed.is_empty() {
        return;
    }
    headers.push(("vary".into(), b"origin".to_vec()));
    let Some(origin) = &facts.origin else {
        return;
    };
    let exact = allowed.iter().find(|own| own.as_bytes() == origin);
    let Some(answer) = exact.or_else(|| allowed.iter().find(|own| *own == "*")) else {
        return;
    };
    let value = text::sanitise(answer.as_bytes(), usize::MAX);
    headers.push(("access-control-allow-origin".into(), value));
    let mut exposed = b"retry-after, x-request-id".to_vec();
    let names = fields::names(policy.rate_limit_headers);
    if !names.is_empty() {
        exposed.extend_from_slice(b", ");
        exposed.extend_from_slice(names.as_bytes());
    }
    headers.push(("access-control-expose-headers".into(), exposed));
}

/// The operator's headers come last and stand in for ours of the same name.
fn push_configured(headers: &mut Vec<(Cow<'static, str>, Vec<u8>)>, style: &DenialStyle) {
    let usable = |name: &str| !name.starts_with(':') && !HOSTS_OWN.contains(&name);
    for (name, value) in &style.headers {
        let name = name.to_ascii_lowercase();
        if usable(&name) {
            headers.retain(|(own, _)| *own != name || own == "vary");
            headers.push((name.into(), text::sanitise(value.as_bytes(), usize::MAX)));
        }
    }
}

/// What a client is told to wait when nobody said how long.
///
/// One second is the least that `Retry-After` can say; a remembered denial and an open breaker
/// last that long by default, so an earlier attempt would be in vain.
pub const RETRY_AFTER_UNKNOWN: Duration = Duration::from_secs(1);

/// An id longer than this is not somebody's id.
pub const REQUEST_ID_BYTES_MAX: usize = 128;

/// Ours without a request id is about this long.
const TYPICAL_BODY_BYTES: usize = 224;

/// Headers that belong to the connection or the message, which the host makes.
const HOSTS_OWN: [&str; 7] = [
    "connection",
    "content-length",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

// The problem types of draft-ietf-httpapi-ratelimit-headers-10, section 6.
const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";
const TEMPORARY_REDUCED_CAPACITY: &str =
    "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity";

const GRPC_PERMISSION_DENIED: i32 = 7;
const GRPC_RESOURCE_EXHAUSTED: i32 = 8;
const GRPC_UNAVAILABLE: i32 = 14;
const GRPC_UNAUTHENTICATED: i32 = 16;

#[cfg(test)]
mod tests;
