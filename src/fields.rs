//! The fields that tell a client of its limit: the IETF draft's, or the older `X-RateLimit-*`.
//!
//! Only what the backend told is passed on: a field whose required part is unknown is left out.

use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use crate::config::RateLimitHeaders;
use crate::decision::Limits;
use crate::text;

/// The response fields for `limits`, in the style that the policy wants.
///
/// `draft` is `RateLimit-Policy` and `RateLimit` of draft-ietf-httpapi-ratelimit-headers-10, with
/// the policy's name; `x_ratelimit` is `X-RateLimit-Limit`, `-Remaining` and `-Reset` (seconds from
/// now). Names are in lower case, as HTTP/2 and Envoy have them.
#[must_use]
pub fn fields(
    style: RateLimitHeaders,
    policy_name: &str,
    limits: &Limits,
) -> Vec<(&'static str, Vec<u8>)> {
    match style {
        RateLimitHeaders::Draft => draft(policy_name, limits),
        RateLimitHeaders::None => Vec::new(),
        RateLimitHeaders::XRatelimit => x_ratelimit(limits),
    }
}

/// The names that [`fields`] may use, for `access-control-expose-headers`.
#[must_use]
pub const fn names(style: RateLimitHeaders) -> &'static str {
    match style {
        RateLimitHeaders::Draft => "ratelimit, ratelimit-policy",
        RateLimitHeaders::None => "",
        RateLimitHeaders::XRatelimit => {
            "x-ratelimit-limit, x-ratelimit-remaining, x-ratelimit-reset"
        }
    }
}

/// Whole seconds, rounded up: a client that waits so long does not come too early.
#[must_use]
pub const fn seconds_up(duration: Duration) -> u64 {
    let more = if duration.subsec_nanos() == 0 { 0 } else { 1 };
    duration.as_secs().saturating_add(more)
}

fn draft(policy_name: &str, limits: &Limits) -> Vec<(&'static str, Vec<u8>)> {
    let mut fields = Vec::new();
    if let Some(limit) = limits.limit {
        let mut value = quoted(policy_name);
        push_parameter(&mut value, b";q=", Some(limit));
        // A window of 0 s is not allowed in the field; one below a second is rounded up.
        let window = limits.window.map(seconds_up).filter(|window| *window > 0);
        push_parameter(&mut value, b";w=", window);
        fields.push(("ratelimit-policy", value));
    }
    if let Some(remaining) = limits.remaining {
        let mut value = quoted(policy_name);
        push_parameter(&mut value, b";r=", Some(remaining));
        push_parameter(&mut value, b";t=", limits.reset.map(seconds_up));
        fields.push(("ratelimit", value));
    }
    fields
}

fn x_ratelimit(limits: &Limits) -> Vec<(&'static str, Vec<u8>)> {
    let reset = limits.reset.map(seconds_up);
    [
        ("x-ratelimit-limit", limits.limit),
        ("x-ratelimit-remaining", limits.remaining),
        ("x-ratelimit-reset", reset),
    ]
    .into_iter()
    .filter_map(|(name, number)| {
        let mut value = Vec::new();
        text::push_decimal(&mut value, number?);
        Some((name, value))
    })
    .collect()
}

/// A structured field's string.
fn quoted(name: &str) -> Vec<u8> {
    let mut value = vec![b'"'];
    text::push_json_ascii(&mut value, &text::sanitise(name.as_bytes(), usize::MAX));
    value.push(b'"');
    value
}

/// Structured fields hold integers of at most 15 digits; more is written as the most.
fn push_parameter(value: &mut Vec<u8>, prefix: &[u8], number: Option<u64>) {
    if let Some(number) = number {
        value.extend_from_slice(prefix);
        text::push_decimal(value, number.min(STRUCTURED_INTEGER_MAX));
    }
}

/// RFC 9651, section 3.3.1.
const STRUCTURED_INTEGER_MAX: u64 = 999_999_999_999_999;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drafts_fields_name_the_policy() {
        assert_eq!(
            shown(RateLimitHeaders::Draft, "gold", &ALL),
            [
                "ratelimit-policy: \"gold\";q=100;w=60",
                "ratelimit: \"gold\";r=7;t=13",
            ]
        );
    }

    #[test]
    fn the_older_fields_are_three_numbers() {
        assert_eq!(
            shown(RateLimitHeaders::XRatelimit, "gold", &ALL),
            [
                "x-ratelimit-limit: 100",
                "x-ratelimit-remaining: 7",
                "x-ratelimit-reset: 13",
            ]
        );
    }

    #[test]
    fn what_is_not_known_is_not_told() {
        let only_reset = Limits {
            reset: Some(Duration::from_secs(3)),
            ..Limits::NONE
        };
        let only_remaining = Limits {
            remaining: Some(0),
            ..Limits::NONE
        };

        assert!(shown(RateLimitHeaders::Draft, "p", &Limits::NONE).is_empty());
        assert!(shown(RateLimitHeaders::XRatelimit, "p", &Limits::NONE).is_empty());
        assert!(shown(RateLimitHeaders::None, "p", &ALL).is_empty());
        assert!(shown(RateLimitHeaders::Draft, "p", &only_reset).is_empty());
        assert_eq!(
            shown(RateLimitHeaders::XRatelimit, "p", &only_reset),
            ["x-ratelimit-reset: 3"]
        );
        assert_eq!(
            shown(RateLimitHeaders::Draft, "p", &only_remaining),
            ["ratelimit: \"p\";r=0"]
        );
    }

    #[test]
    fn a_name_can_not_break_out_of_its_quotes() {
        let limits = Limits {
            remaining: Some(u64::MAX),
            ..Limits::NONE
        };

        assert_eq!(
            shown(RateLimitHeaders::Draft, "a\"b\\c\r\nd", &limits),
            ["ratelimit: \"a\\\"b\\\\c__d\";r=999999999999999"]
        );
    }

    const ALL: Limits = Limits {
        limit: Some(100),
        remaining: Some(7),
        reset: Some(Duration::from_millis(12_001)),
        window: Some(Duration::from_secs(60)),
    };

    fn shown(style: RateLimitHeaders, name: &str, limits: &Limits) -> Vec<String> {
        fields(style, name, limits)
            .into_iter()
            .map(|(name, value)| format!("{name}: {}", String::from_utf8(value).unwrap()))
            .collect()
    }
}
