//! The languages that are built in, as data.
//!
//! What each backend does was read in its source or seen from its server; its contract test in
//! `wire::tests` has every answer that it gives.

use std::borrow::Cow;

use crate::config::{Preset, StatusPattern};
use crate::wire::json::{Pointer, Unit};
use crate::wire::reply::{BodyRules, Place, Reading, Rules, Target, Test, Want};
use crate::wire::template::{HeaderShape, Piece, Shape, Slot};
use crate::wire::{Language, List, Text};

/// The language of a preset.
#[must_use]
pub const fn language(preset: Preset) -> Cow<'static, Language> {
    Cow::Borrowed(match preset {
        Preset::EnvoyRatelimit => &ENVOY_RATELIMIT,
        Preset::Headers => &HEADERS,
        Preset::Limitador => &LIMITADOR,
    })
}

/// Headers only, no body: a backend for it is a dozen lines in any language.
///
/// | header | of the check |
/// | --- | --- |
/// | `x-quota-descriptor` | the entries, form-urlencoded: `tenant=acme&plan=free` |
/// | `x-quota-cost` | units asked for |
/// | `x-quota-cost-min` | with a lease only: units needed at least |
/// | `x-quota-policy`, `x-quota-route` | names, percent-encoded |
/// | `x-request-id` | the request's id |
///
/// 2xx allows, 429 denies, 401 and 403 reject. `x-quota-granted` says how many units were given
/// (absent: all); `RateLimit` and `RateLimit-Policy`, else `X-RateLimit-*`, tell of the limit.
static HEADERS: Language = Language {
    request: Shape {
        method: text("POST"),
        path: text("/check"),
        headers: Cow::Borrowed(&[
            header("x-quota-descriptor", &[Piece::Slot(Slot::Descriptor)]),
            header("x-quota-cost", &[Piece::Slot(Slot::Cost)]),
            header("x-quota-cost-min", &[Piece::Slot(Slot::CostMin)]),
            header("x-quota-policy", &[Piece::Slot(Slot::Policy)]),
            header("x-quota-route", &[Piece::Slot(Slot::Route)]),
            REQUEST_ID,
        ]),
        body: Cow::Borrowed(&[]),
    },
    reply: Rules {
        allow: Cow::Borrowed(&[StatusPattern::Class(2)]),
        deny: Cow::Borrowed(&[StatusPattern::Exact(429)]),
        reject: Cow::Borrowed(&[StatusPattern::Exact(401), StatusPattern::Exact(403)]),
        body: None,
        readings: Cow::Borrowed(&[
            from_header(Target::Granted, "x-quota-granted", Unit::Seconds),
            from_header(Target::RetryAfter, "retry-after", Unit::Seconds),
            from_header(Target::Limit, "x-ratelimit-limit", Unit::Seconds),
            from_header(Target::Remaining, "x-ratelimit-remaining", Unit::Seconds),
            from_header(Target::Reset, "x-ratelimit-reset", Unit::SecondsOrEpoch),
            WINDOW_OF_LIMIT,
        ]),
    },
};

/// Kuadrant Limitador's HTTP API: one call counts and decides; the body of its answer is `null`.
static LIMITADOR: Language = Language {
    request: Shape {
        method: text("POST"),
        path: text("/check_and_report"),
        headers: Cow::Borrowed(&[REQUEST_ID]),
        body: Cow::Borrowed(&[
            raw("{\"namespace\":\""),
            Piece::Slot(Slot::Namespace),
            raw("\",\"values\":{"),
            Piece::Slot(Slot::DescriptorMembers),
            raw("},\"delta\":"),
            Piece::Slot(Slot::Cost),
            raw(",\"response_headers\":\"DraftVersion03\"}"),
        ]),
    },
    reply: Rules {
        allow: Cow::Borrowed(&[StatusPattern::Exact(200)]),
        deny: Cow::Borrowed(&[StatusPattern::Exact(429)]),
        reject: Cow::Borrowed(&[]),
        body: None,
        readings: Cow::Borrowed(&[
            from_header(Target::RetryAfter, "retry-after", Unit::Seconds),
            from_header(Target::Limit, "x-ratelimit-limit", Unit::Seconds),
            from_header(Target::Remaining, "x-ratelimit-remaining", Unit::Seconds),
            from_header(Target::Reset, "x-ratelimit-reset", Unit::Seconds),
            WINDOW_OF_LIMIT,
        ]),
    },
};

/// `POST /json` of envoyproxy/ratelimit.
///
/// 400 is what it says when Redis is down, so it is a failure and no denial. Zeros are left out of
/// its JSON: a limit without `limitRemaining` is used up. With no units at the request's level it
/// counts one, so a check that costs nothing says so in its descriptor, where zero counts.
static ENVOY_RATELIMIT: Language = Language {
    request: Shape {
        method: text("POST"),
        path: text("/json"),
        headers: Cow::Borrowed(&[REQUEST_ID]),
        body: Cow::Borrowed(&[
            raw("{\"domain\":\""),
            Piece::Slot(Slot::Namespace),
            raw("\",\"descriptors\":[{\"entries\":["),
            Piece::Slot(Slot::DescriptorPairs),
            raw("]"),
            Piece::IfFree(text(",\"hitsAddend\":\"0\"")),
            raw("}],\"hitsAddend\":"),
            Piece::Slot(Slot::Cost),
            raw("}"),
        ]),
    },
    reply: Rules {
        allow: Cow::Borrowed(&[StatusPattern::Exact(200)]),
        deny: Cow::Borrowed(&[StatusPattern::Exact(429)]),
        reject: Cow::Borrowed(&[]),
        body: Some(BodyRules {
            error: Cow::Borrowed(&[]),
            reject: Cow::Borrowed(&[]),
            deny: Cow::Borrowed(&[Test {
                pointer: Pointer::Borrowed(OVERALL_CODE),
                want: Want::OneOf(Cow::Borrowed(&[text("OVER_LIMIT")])),
            }]),
            allow: Cow::Borrowed(&[Test {
                pointer: Pointer::Borrowed(OVERALL_CODE),
                want: Want::OneOf(Cow::Borrowed(&[text("OK")])),
            }]),
            each: Some(Pointer::Borrowed(STATUSES)),
        }),
        readings: Cow::Borrowed(&[
            from_item(Target::Limit, REQUESTS_PER_UNIT, Unit::Seconds),
            Reading {
                target: Target::Remaining,
                place: Place::Item(Pointer::Borrowed(LIMIT_REMAINING)),
                unit: Unit::Seconds,
                missing: Some(0),
            },
            from_item(Target::Reset, DURATION_UNTIL_RESET, Unit::Seconds),
            from_item(Target::Window, UNIT, Unit::Word),
            from_header(Target::RetryAfter, "retry-after", Unit::Seconds),
        ]),
    },
};

// The members of envoyproxy/ratelimit's replies.
const OVERALL_CODE: &[Text] = &[text("overallCode")];
const STATUSES: &[Text] = &[text("statuses")];
const REQUESTS_PER_UNIT: &[Text] = &[text("currentLimit"), text("requestsPerUnit")];
const LIMIT_REMAINING: &[Text] = &[text("limitRemaining")];
const DURATION_UNTIL_RESET: &[Text] = &[text("durationUntilReset")];
const UNIT: &[Text] = &[text("currentLimit"), text("unit")];

/// Calls of the host carry no request id of their own.
const REQUEST_ID: HeaderShape = header("x-request-id", &[Piece::Slot(Slot::RequestId)]);

/// `X-RateLimit-Limit: 5, 5;w=60;name="x"`, as Envoy and Limitador write it.
const WINDOW_OF_LIMIT: Reading = Reading {
    target: Target::Window,
    place: Place::Parameter(text("x-ratelimit-limit"), text("w")),
    unit: Unit::Seconds,
    missing: None,
};

const fn text(constant: &'static str) -> Text {
    Cow::Borrowed(constant)
}

const fn raw(constant: &'static str) -> Piece {
    Piece::Raw(text(constant))
}

const fn header(name: &'static str, value: &'static [Piece]) -> HeaderShape {
    HeaderShape {
        name: text(name),
        value: List::Borrowed(value),
    }
}

const fn from_header(target: Target, name: &'static str, unit: Unit) -> Reading {
    Reading {
        target,
        place: Place::Header(text(name)),
        unit,
        missing: None,
    }
}

const fn from_item(target: Target, pointer: &'static [Text], unit: Unit) -> Reading {
    Reading {
        target,
        place: Place::Item(Pointer::Borrowed(pointer)),
        unit,
        missing: None,
    }
}
