//! The languages that are built in, as data.
//!
//! What each backend does was read in its source or seen from its server; its contract test in
//! `wire::tests` has every answer that it gives.

use alloc::borrow::Cow;
use alloc::rc::Rc;
use core::ops::Deref;

use crate::config::{Backend, Preset, StatusPattern};
use crate::language::{
    BodyRules, HeaderShape, Language, Piece, Place, Pointer, REQUEST_ID, Reading, Report, Rules,
    STANDARD_READINGS, Shape, Slot, Target, Test, Text, Unit, WINDOW_OF_LIMIT, Want, from_header,
    header, text,
};

/// A language: the operator's own, or one that is built in.
#[derive(Clone, Debug)]
pub enum Spoken {
    /// A preset.
    BuiltIn(&'static Language),
    /// What the configuration says.
    Own(Rc<Language>),
}

impl Deref for Spoken {
    type Target = Language;

    fn deref(&self) -> &Language {
        match self {
            Self::BuiltIn(language) => language,
            Self::Own(language) => language,
        }
    }
}

/// The language of a backend.
#[must_use]
pub fn language(backend: &Backend) -> Spoken {
    Spoken::BuiltIn(match (backend.preset, &backend.custom) {
        (Preset::Custom, Some(custom)) => return Spoken::Own(Rc::clone(custom)),
        // A configuration has rules wherever it says `custom`.
        (Preset::Custom, None) | (Preset::Headers, _) => &HEADERS,
        (Preset::EnvoyRatelimit, _) => &ENVOY_RATELIMIT,
        (Preset::Gubernator, _) => &GUBERNATOR,
        (Preset::Limitador, _) => &LIMITADOR,
        (Preset::Throttlecrab, _) => &THROTTLECRAB,
        (Preset::Unkey, _) => &UNKEY,
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
/// What requests really used is told by `POST /report`, with `x-quota-cost` below 0 where units are
/// to be taken back, and `x-quota-settlement-id`, `x-quota-requests` and, where they were not
/// checked, `x-quota-unchecked`; 2xx says that it is counted.
///
/// 2xx allows, 429 denies, 401 and 403 reject. `x-quota-granted` says how many units were given
/// (absent: all); `RateLimit` and `RateLimit-Policy`, else `X-RateLimit-*`, tell of the limit.
static HEADERS: Language = Language {
    request: Shape {
        method: text("POST"),
        path: Cow::Borrowed(&[raw("/check")]),
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
        readings: Cow::Borrowed(&STANDARD_READINGS),
        more: &[],
    },
    report: Some(Report {
        request: Shape {
            method: text("POST"),
            path: Cow::Borrowed(&[raw("/report")]),
            headers: Cow::Borrowed(&[
                header("x-quota-descriptor", &[Piece::Slot(Slot::Descriptor)]),
                header("x-quota-cost", &[Piece::Slot(Slot::Units)]),
                header("x-quota-policy", &[Piece::Slot(Slot::Policy)]),
                header("x-quota-requests", &[Piece::Slot(Slot::Requests)]),
                SETTLEMENT_ID,
                UNCHECKED,
            ]),
            body: Cow::Borrowed(&[]),
        },
        counted: Cow::Borrowed(&[StatusPattern::Class(2)]),
        unsure: Cow::Borrowed(&[]),
        most: None,
        error: None,
        takes_back: true,
        peek: None,
    }),
};

/// Kuadrant Limitador's HTTP API: one call counts and decides; the body of its answer is `null`.
static LIMITADOR: Language = Language {
    request: Shape {
        method: text("POST"),
        path: Cow::Borrowed(&[raw("/check_and_report")]),
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
        more: &[],
    },
    report: Some(Report {
        request: Shape {
            method: text("POST"),
            path: Cow::Borrowed(&[raw("/report")]),
            headers: Cow::Borrowed(&[UNCHECKED]),
            body: Cow::Borrowed(&[
                raw("{\"namespace\":\""),
                Piece::Slot(Slot::Namespace),
                raw("\",\"values\":{"),
                Piece::Slot(Slot::DescriptorMembers),
                raw("},\"delta\":"),
                Piece::Slot(Slot::Units),
                raw("}"),
            ]),
        },
        counted: Cow::Borrowed(&[StatusPattern::Exact(200)]),
        unsure: Cow::Borrowed(&[]),
        most: None,
        error: None,
        takes_back: false,
        peek: Some(text("/check")),
    }),
};

/// `POST /json` of envoyproxy/ratelimit.
///
/// 400 is what it says when Redis is down, so it is a failure and no denial. Zeros are left out of
/// its JSON: a limit without `limitRemaining` is used up. With no units at the request's level it
/// counts one, so a check that costs nothing says so in its descriptor, where zero counts.
static ENVOY_RATELIMIT: Language = Language {
    request: Shape {
        method: text("POST"),
        path: Cow::Borrowed(&[raw("/json")]),
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
        more: &[],
    },
    // What is over the limit is counted, too.
    report: Some(Report {
        request: Shape {
            method: text("POST"),
            path: Cow::Borrowed(&[raw("/json")]),
            headers: Cow::Borrowed(&[UNCHECKED]),
            body: Cow::Borrowed(&[
                raw("{\"domain\":\""),
                Piece::Slot(Slot::Namespace),
                raw("\",\"descriptors\":[{\"entries\":["),
                Piece::Slot(Slot::DescriptorPairs),
                raw("]}],\"hitsAddend\":"),
                Piece::Slot(Slot::Units),
                raw("}"),
            ]),
        },
        counted: Cow::Borrowed(&[StatusPattern::Exact(200), StatusPattern::Exact(429)]),
        // Redis is down, perhaps only since it has counted.
        unsure: Cow::Borrowed(&[StatusPattern::Exact(400)]),
        // The field has 32 bits, and what does not fit is refused whole.
        most: Some(0xffff_ffff),
        error: None,
        takes_back: false,
        peek: None,
    }),
};

// The members of envoyproxy/ratelimit's replies.
const OVERALL_CODE: &[Text] = &[text("overallCode")];
const STATUSES: &[Text] = &[text("statuses")];
const REQUESTS_PER_UNIT: &[Text] = &[text("currentLimit"), text("requestsPerUnit")];
const LIMIT_REMAINING: &[Text] = &[text("limitRemaining")];
const DURATION_UNTIL_RESET: &[Text] = &[text("durationUntilReset")];
const UNIT: &[Text] = &[text("currentLimit"), text("unit")];

/// Gubernator, over its HTTP gateway.
///
/// A key of ours is a name (the name space and the policy, whose quota it is) and a unique key.
/// Over the limit is 200 like everything else; an item's `error` is a failure, and so is every
/// other status. Its 64-bit numbers come in quotes.
static GUBERNATOR: Language = Language {
    request: Shape {
        method: text("POST"),
        path: Cow::Borrowed(&[raw("/v1/GetRateLimits")]),
        headers: Cow::Borrowed(&[REQUEST_ID]),
        body: Cow::Borrowed(&[
            raw("{\"requests\":[{\"name\":\""),
            Piece::Slot(Slot::Namespace),
            raw("/"),
            Piece::Slot(Slot::Policy),
            raw("\",\"unique_key\":\""),
            Piece::Slot(Slot::Descriptor),
            raw("\",\"hits\":\""),
            Piece::Slot(Slot::Cost),
            raw("\",\"limit\":\""),
            Piece::Slot(Slot::QuotaUnits),
            raw("\",\"duration\":\""),
            Piece::Slot(Slot::QuotaMillis),
            raw("\"}]}"),
        ]),
    },
    reply: Rules {
        allow: Cow::Borrowed(&[StatusPattern::Exact(200)]),
        deny: Cow::Borrowed(&[]),
        reject: Cow::Borrowed(&[]),
        body: Some(BodyRules {
            error: Cow::Borrowed(&[Pointer::Borrowed(GUBERNATOR_ERROR)]),
            reject: Cow::Borrowed(&[]),
            deny: Cow::Borrowed(&[Test {
                pointer: Pointer::Borrowed(GUBERNATOR_STATUS),
                want: Want::OneOf(Cow::Borrowed(&[text("OVER_LIMIT"), text("1")])),
            }]),
            allow: Cow::Borrowed(&[Test {
                pointer: Pointer::Borrowed(GUBERNATOR_STATUS),
                want: Want::OneOf(Cow::Borrowed(&[text("UNDER_LIMIT"), text("0")])),
            }]),
            each: None,
        }),
        readings: Cow::Borrowed(&[
            from_body(Target::Limit, GUBERNATOR_LIMIT, Unit::Seconds),
            from_body(Target::Remaining, GUBERNATOR_REMAINING, Unit::Seconds),
            from_body(Target::Reset, GUBERNATOR_RESET_TIME, Unit::EpochMillis),
        ]),
        more: &[],
    },
    // Without the behaviour, what is more than what is left would not be counted at all, and with
    // it, what is more than the whole limit is not counted where the window has just begun.
    report: Some(Report {
        request: Shape {
            method: text("POST"),
            path: Cow::Borrowed(&[raw("/v1/GetRateLimits")]),
            headers: Cow::Borrowed(&[UNCHECKED]),
            body: Cow::Borrowed(&[
                raw("{\"requests\":[{\"name\":\""),
                Piece::Slot(Slot::Namespace),
                raw("/"),
                Piece::Slot(Slot::Policy),
                raw("\",\"unique_key\":\""),
                Piece::Slot(Slot::Descriptor),
                raw("\",\"hits\":\""),
                Piece::Slot(Slot::UnitsInQuota),
                raw("\",\"limit\":\""),
                Piece::Slot(Slot::QuotaUnits),
                raw("\",\"duration\":\""),
                Piece::Slot(Slot::QuotaMillis),
                raw("\",\"behavior\":\"DRAIN_OVER_LIMIT\"}]}"),
            ]),
        },
        counted: Cow::Borrowed(&[StatusPattern::Exact(200)]),
        unsure: Cow::Borrowed(&[]),
        most: None,
        error: Some(Pointer::Borrowed(GUBERNATOR_ERROR)),
        takes_back: true,
        peek: None,
    }),
};

/// ThrottleCrab's HTTP API: a GCRA whose rules come with every request, in whole seconds.
///
/// 200 for yes and no alike; 400 and 500 are failures.
static THROTTLECRAB: Language = Language {
    request: Shape {
        method: text("POST"),
        path: Cow::Borrowed(&[raw("/throttle")]),
        headers: Cow::Borrowed(&[REQUEST_ID]),
        body: Cow::Borrowed(&[
            raw("{\"key\":\""),
            Piece::Slot(Slot::Namespace),
            raw("/"),
            Piece::Slot(Slot::Policy),
            raw("?"),
            Piece::Slot(Slot::Descriptor),
            raw("\",\"max_burst\":"),
            Piece::Slot(Slot::QuotaBurst),
            raw(",\"count_per_period\":"),
            Piece::Slot(Slot::QuotaUnits),
            raw(",\"period\":"),
            Piece::Slot(Slot::QuotaSeconds),
            raw(",\"quantity\":"),
            Piece::Slot(Slot::Cost),
            raw("}"),
        ]),
    },
    reply: Rules {
        allow: Cow::Borrowed(&[StatusPattern::Exact(200)]),
        deny: Cow::Borrowed(&[]),
        reject: Cow::Borrowed(&[]),
        body: Some(BodyRules {
            error: Cow::Borrowed(&[]),
            reject: Cow::Borrowed(&[]),
            deny: Cow::Borrowed(&[Test {
                pointer: Pointer::Borrowed(ALLOWED),
                want: Want::Falsy,
            }]),
            allow: Cow::Borrowed(&[Test {
                pointer: Pointer::Borrowed(ALLOWED),
                want: Want::Truthy,
            }]),
            each: None,
        }),
        readings: Cow::Borrowed(&[
            from_body(Target::Limit, LIMIT, Unit::Seconds),
            from_body(Target::Remaining, REMAINING, Unit::Seconds),
            from_body(Target::Reset, RESET_AFTER, Unit::Seconds),
            from_body(Target::RetryAfter, RETRY_AFTER, Unit::Seconds),
        ]),
        more: &[],
    },
    report: None,
};

/// Unkey's rate limit API, version 2. The root key goes into the backend's `headers`.
///
/// Every decision is 200. Its 429 means that the operator's own workspace is throttled, and 401 or
/// 403 that the root key is not good: failures, none of them the client's fault.
static UNKEY: Language = Language {
    request: Shape {
        method: text("POST"),
        path: Cow::Borrowed(&[raw("/v2/ratelimit.limit")]),
        headers: Cow::Borrowed(&[REQUEST_ID]),
        body: Cow::Borrowed(&[
            raw("{\"namespace\":\""),
            Piece::Slot(Slot::Namespace),
            raw("\",\"identifier\":\""),
            Piece::Slot(Slot::Policy),
            raw("?"),
            Piece::Slot(Slot::Descriptor),
            raw("\",\"limit\":"),
            Piece::Slot(Slot::QuotaUnits),
            raw(",\"duration\":"),
            Piece::Slot(Slot::QuotaMillis),
            raw(",\"cost\":"),
            Piece::Slot(Slot::Cost),
            raw("}"),
        ]),
    },
    reply: Rules {
        allow: Cow::Borrowed(&[StatusPattern::Exact(200)]),
        deny: Cow::Borrowed(&[]),
        reject: Cow::Borrowed(&[]),
        body: Some(BodyRules {
            error: Cow::Borrowed(&[Pointer::Borrowed(ERROR)]),
            reject: Cow::Borrowed(&[]),
            deny: Cow::Borrowed(&[Test {
                pointer: Pointer::Borrowed(DATA_SUCCESS),
                want: Want::Falsy,
            }]),
            allow: Cow::Borrowed(&[Test {
                pointer: Pointer::Borrowed(DATA_SUCCESS),
                want: Want::Truthy,
            }]),
            each: None,
        }),
        readings: Cow::Borrowed(&[
            from_body(Target::Limit, DATA_LIMIT, Unit::Seconds),
            from_body(Target::Remaining, DATA_REMAINING, Unit::Seconds),
            from_body(Target::Reset, DATA_RESET, Unit::EpochMillis),
        ]),
        more: &[],
    },
    report: None,
};

// The members of Gubernator's replies: to one request, one response.
const GUBERNATOR_ERROR: &[Text] = &[text("responses"), text("0"), text("error")];
const GUBERNATOR_LIMIT: &[Text] = &[text("responses"), text("0"), text("limit")];
const GUBERNATOR_REMAINING: &[Text] = &[text("responses"), text("0"), text("remaining")];
const GUBERNATOR_RESET_TIME: &[Text] = &[text("responses"), text("0"), text("reset_time")];
const GUBERNATOR_STATUS: &[Text] = &[text("responses"), text("0"), text("status")];

// The members of ThrottleCrab's replies.
const ALLOWED: &[Text] = &[text("allowed")];
const LIMIT: &[Text] = &[text("limit")];
const REMAINING: &[Text] = &[text("remaining")];
const RESET_AFTER: &[Text] = &[text("reset_after")];
const RETRY_AFTER: &[Text] = &[text("retry_after")];

// The members of Unkey's replies.
const DATA_LIMIT: &[Text] = &[text("data"), text("limit")];
const DATA_REMAINING: &[Text] = &[text("data"), text("remaining")];
const DATA_RESET: &[Text] = &[text("data"), text("reset")];
const DATA_SUCCESS: &[Text] = &[text("data"), text("success")];
const ERROR: &[Text] = &[text("error")];

/// What a report can be known by when it comes a second time.
const SETTLEMENT_ID: HeaderShape =
    header("x-quota-settlement-id", &[Piece::Slot(Slot::SettlementId)]);

/// Why the requests of a report were let through without a check.
const UNCHECKED: HeaderShape = header("x-quota-unchecked", &[Piece::Slot(Slot::Unchecked)]);

const fn raw(constant: &'static str) -> Piece {
    Piece::Raw(text(constant))
}

const fn from_item(target: Target, pointer: &'static [Text], unit: Unit) -> Reading {
    Reading {
        target,
        place: Place::Item(Pointer::Borrowed(pointer)),
        unit,
        missing: None,
    }
}

const fn from_body(target: Target, pointer: &'static [Text], unit: Unit) -> Reading {
    Reading {
        target,
        place: Place::Pointer(Pointer::Borrowed(pointer)),
        unit,
        missing: None,
    }
}
