//! Every key of the configuration, declared once: its kind, its bounds, its default, its meaning.
//!
//! The parser, the JSON Schema and the reference in the documentation are all made from these
//! tables. Meanings are left out of the wasm module, which has no use for them.

use alloc::borrow::ToOwned;
use alloc::string::String;

use super::form::Form;
use super::problem::one_of;
use crate::text::{self, decimal};

/// An object of the configuration: the keys that it may have.
#[derive(Debug)]
pub struct Table {
    /// Whether it changes values given elsewhere: no key is required then, and none has a default.
    pub changes: bool,
    /// What the object is for, in one sentence.
    #[cfg(not(target_arch = "wasm32"))]
    pub doc: &'static str,
    /// Its keys, in the order in which they are documented.
    pub keys: &'static [&'static Key],
    /// Its name in the reference.
    #[cfg(not(target_arch = "wasm32"))]
    pub name: &'static str,
    /// Keys of which exactly one has to be there; none for no such rule.
    pub one_of: &'static [&'static Key],
}

impl Table {
    /// The key of that name.
    #[must_use]
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().copied().find(|key| key.name == name)
    }
}

/// A key of an object.
#[derive(Debug)]
pub struct Key {
    /// What it means, in one sentence.
    #[cfg(not(target_arch = "wasm32"))]
    pub doc: &'static str,
    /// What its value is.
    pub kind: Kind,
    /// Its name.
    pub name: &'static str,
    /// What holds when it is not there.
    pub presence: Presence,
}

/// What holds when a key is not there.
#[derive(Clone, Copy, Debug)]
pub enum Presence {
    /// This value, as text.
    Default(&'static str),
    /// What the sentence says.
    Otherwise(&'static str),
    /// It has to be there.
    Required,
}

/// What a value is.
#[derive(Debug)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number within bounds.
    Count(u64, u64),
    /// A duration within bounds.
    Duration(&'static str, &'static str),
    /// A number from -1000 to 1000 that is not 0, to the thousandth.
    Factor,
    /// An object, or something simpler.
    Either(&'static Self, &'static Self),
    /// A list of at least and at most so many items.
    List(&'static Self, usize, usize),
    /// An object whose keys are names of the operator's choice, at most so many.
    Map(Form, &'static Self, usize),
    /// A share, above 0 and at most 1, to the thousandth.
    Share,
    /// A status from 200 to 599, or a hundred of them, like `"2xx"`.
    Status,
    /// A JSON object or list of the operator's choice, whose texts may have slots.
    Template,
    /// An object with these keys.
    Table(&'static Table),
    /// A text.
    Text(Form),
    /// Nothing but `true`.
    True,
    /// One of these words.
    Words(&'static [&'static str]),
}

impl Kind {
    /// The kind, in words that fit behind "expected".
    #[must_use]
    pub fn expected(&self) -> String {
        match self {
            Self::Bool => one_of(["true", "false"]),
            Self::Count(min, max) => {
                let [min, max] = [*min, *max].map(decimal);
                text::fill("a whole number, {} to {}", &[&min, &max])
            }
            Self::Duration(min, max) => text::fill("a duration, `{}` to `{}`", &[min, max]),
            Self::Factor => "a number, -1000 to 1000 but not 0, to the thousandth".to_owned(),
            Self::Either(simple, object) => {
                text::fill("{}, or {}", &[&*simple.expected(), &object.expected()])
            }
            Self::List(..) => "a list".to_owned(),
            Self::Map(..) | Self::Table(_) => "an object".to_owned(),
            Self::Share => "a number above 0, at most 1".to_owned(),
            Self::Status => "a status, like `429`, or `\"2xx\"`".to_owned(),
            Self::Template => "a JSON object or list".to_owned(),
            Self::Text(form) => form.expected().to_owned(),
            Self::True => one_of(["true"]),
            Self::Words(words) => one_of(words.iter().copied()),
        }
    }
}

/// Words for people, not for the module.
macro_rules! doc {
    ($text:literal) => {
        if cfg!(target_arch = "wasm32") {
            ""
        } else {
            $text
        }
    };
}

/// The keys of one object: each a constant of its own, and all of them a table.
macro_rules! table {
    (
        $module:ident $table:ident $table_name:literal $table_doc:literal {
            $($key:ident $name:literal $kind:expr, $presence:expr, $doc:literal;)*
        }
        $(one_of [$($one_of:ident),*])?
    ) => {
        #[doc = $table_doc]
        pub mod $module {
            use super::*;

            $(
                #[doc = $doc]
                pub static $key: Key = Key {
                    #[cfg(not(target_arch = "wasm32"))]
                    doc: $doc,
                    kind: $kind,
                    name: $name,
                    presence: $presence,
                };
            )*

            #[doc = $table_doc]
            pub static $table: Table = Table {
                changes: false,
                #[cfg(not(target_arch = "wasm32"))]
                doc: $table_doc,
                keys: &[$(&$key),*],
                #[cfg(not(target_arch = "wasm32"))]
                name: $table_name,
                one_of: &[$($(&$one_of),*)?],
            };
        }
    };
}

/// With a sentence that only people read.
macro_rules! otherwise {
    ($text:literal) => {
        Presence::Otherwise(doc!($text))
    };
}

table! { config CONFIG "configuration" "The whole configuration of the filter." {
    BACKENDS "backends" Kind::Map(Form::Name, &Kind::Table(&backend::BACKEND), 64),
        otherwise!("none"),
        "The quota backends by name; the name is a tag of metrics.";
    POLICIES "policies" Kind::Map(Form::PolicyName, &Kind::Table(&policy::POLICY), 256),
        otherwise!("none"),
        "How requests are handled, by name; the name is a tag of metrics, and part of each key.";
    ROUTES "routes" Kind::List(&Kind::Table(&route::ROUTE), 0, 1_024), otherwise!("none"),
        "Which requests a policy handles; the first match wins.";
    DEFAULT_POLICY "default_policy" Kind::Text(Form::ToPolicy), Presence::Required,
        "The policy of requests that nothing else matches.";
    HOST_BUDGET "host_budget" HOST_BUDGET_KIND, Presence::Required,
        "What the host can afford for a request's whole stay in this filter; every timeout is \
         below it by at least a tenth, and 5 ms.";
    EMERGENCY "emergency" Kind::Table(&emergency::EMERGENCY), otherwise!("no emergency"),
        "Lets requests through for a while; ends by itself.";
    STATUS_PATH "status_path" Kind::Text(Form::Path), otherwise!("no status page"),
        "The path that answers GET with the filter's own health.";
}}

table! { backend BACKEND "backend" "A quota backend: where it is, and what it speaks." {
    CLUSTER "cluster" Kind::Text(Form::Cluster), Presence::Required,
        "The Envoy cluster to call.";
    AUTHORITY "authority" Kind::Text(Form::Authority), otherwise!("the cluster's name"),
        "The `:authority` of the calls.";
    PRESET "preset" Kind::Words(PRESETS), Presence::Default("headers"),
        "The language that the backend speaks.";
    CUSTOM "custom" Kind::Table(&custom::CUSTOM),
        otherwise!("none; the preset `custom` requires it"),
        "The language of a backend that no preset fits.";
    PATH "path" Kind::Text(Form::PathAndQuery),
        otherwise!("the preset's; `custom` requires one, and it may have slots"),
        "The path to call.";
    REPORT_PATH "report_path" Kind::Text(Form::PathAndQuery), otherwise!("the preset's"),
        "The path to tell what requests really used, see `settle`; `custom.report` requires one, \
         and it may have slots.";
    NAMESPACE "namespace" Kind::Text(Form::Line), Presence::Default("quota-gate"),
        "Limitador's namespace, envoyproxy/ratelimit's domain, and so on.";
    TIMEOUT "timeout" TIMEOUT_KIND, Presence::Default("100ms"),
        "How long a request waits for its check, unless the policy says otherwise.";
    HEADERS "headers" Kind::Map(Form::SentHeader, &Kind::Text(Form::Secret), 32),
        otherwise!("none"),
        "Headers sent with every call; their values are never logged.";
    STATUSES "statuses" Kind::Table(&statuses::STATUSES), otherwise!("the preset's"),
        "What the backend's statuses mean; every other status is a failure.";
    MAX_PENDING "max_pending" Kind::Count(1, 65_536), Presence::Default("1024"),
        "Calls in flight at the same time, per worker.";
    BREAKER "breaker"
        Kind::Either(&Kind::Words(&["off"]), &Kind::Table(&breaker::BREAKER)),
        otherwise!("on, with the defaults below"),
        "When to stop calling a sick backend.";
}}

table! { custom CUSTOM "custom"
    "How a backend is asked, in templates with slots like `{cost}`, and how its reply is read." {
    METHOD "method" Kind::Words(&["POST", "GET", "PUT"]), Presence::Default("POST"),
        "The method of the calls.";
    HEADERS "headers" Kind::Map(Form::SentHeader, &Kind::Text(Form::Secret), 16),
        otherwise!("none"),
        "Headers with slots, never logged; one is left out where a slot has nothing to say.";
    BODY "body" Kind::Template, otherwise!("no body"),
        "The JSON body; a text that is one slot and no more has the slot's own type.";
    ALLOW "allow" Kind::Table(&test::TEST), otherwise!("the status alone says yes"),
        "What the body of a yes has, where the status allows.";
    DENY "deny" Kind::Table(&test::TEST), otherwise!("the status alone says no"),
        "What the body of a no has, where the status allows.";
    REJECT "reject" Kind::Table(&test::TEST), otherwise!("the status alone rejects"),
        "What the body has when the key is not valid, where the status allows.";
    ERROR "error" Kind::Text(Form::Pointer), otherwise!("none"),
        "The member that, where it is there and not empty, makes the reply a failure.";
    GRANTED "granted" Kind::Table(&count_place::COUNT_PLACE), otherwise!("`x-quota-granted`"),
        "Where a lease's units are told; not told, all were granted.";
    LIMIT "limit" Kind::Table(&count_place::COUNT_PLACE), otherwise!("the standard headers"),
        "Where the units of a window are told.";
    REMAINING "remaining" Kind::Table(&count_place::COUNT_PLACE),
        otherwise!("the standard headers"),
        "Where the units left are told.";
    RESET "reset" Kind::Table(&time_place::TIME_PLACE), otherwise!("the standard headers"),
        "Where the end of the window is told.";
    RETRY_AFTER "retry_after" Kind::Table(&time_place::TIME_PLACE), otherwise!("`retry-after`"),
        "Where it is told when a client may come again.";
    WINDOW "window" Kind::Table(&time_place::TIME_PLACE), otherwise!("the standard headers"),
        "Where the window's length is told.";
    REPORT "report" Kind::Table(&custom_report::CUSTOM_REPORT),
        otherwise!("it can't be told, and no policy of it has a `settle`"),
        "How the backend is told afterwards what requests really used, at its `report_path`.";
}}

table! { custom_report CUSTOM_REPORT "report"
    "How a backend is told what requests really used, in templates with slots like `{units}`." {
    METHOD "method" Kind::Words(&["POST", "PUT"]), Presence::Default("POST"),
        "The method of the reports.";
    HEADERS "headers" Kind::Map(Form::SentHeader, &Kind::Text(Form::Secret), 16),
        otherwise!("none"),
        "Headers with slots, never logged; one is left out where a slot has nothing to say.";
    BODY "body" Kind::Template, otherwise!("no body"),
        "The JSON body; a text that is one slot and no more has the slot's own type.";
    COUNTED "counted" Kind::List(&Kind::Status, 1, 32), otherwise!("`2xx`"),
        "Statuses that say that it is counted; other 4xx but 408, 425 and 429 that it never will.";
    ERROR "error" Kind::Text(Form::Pointer), otherwise!("the status alone decides"),
        "The member that, where it is there and not empty, says that it may not be counted.";
    TAKES_BACK "takes_back" Kind::Bool, Presence::Default("false"),
        "Whether `{units}` may be below 0, for units that were charged and not used.";
}}

table! { test TEST "test" "What a member of a reply's body must be." {
    POINTER "pointer" Kind::Text(Form::Pointer), Presence::Required,
        "Where the member is (RFC 6901).";
    IS "is" Kind::Bool, Presence::Default("true"),
        "Yes or no, in whatever form: `true`, `1`, `\"true\"`, or the opposite.";
    IN "in" Kind::List(&Kind::Text(Form::Line), 1, 16), otherwise!("`is` decides"),
        "One of these texts.";
}}

table! { count_place COUNT_PLACE "count" "Where a number of units is: a header or a member." {
    HEADER "header" Kind::Text(Form::ReadHeader), otherwise!("a `pointer`"),
        "The header that has it.";
    POINTER "pointer" Kind::Text(Form::Pointer), otherwise!("a `header`"),
        "Where it is in the body (RFC 6901).";
    MISSING "missing" Kind::Count(0, 1_000_000_000), otherwise!("not known"),
        "What it is where it is not there.";
} one_of [HEADER, POINTER] }

table! { time_place TIME_PLACE "time" "Where a time is: a header or a member." {
    HEADER "header" Kind::Text(Form::ReadHeader), otherwise!("a `pointer`"),
        "The header that has it.";
    POINTER "pointer" Kind::Text(Form::Pointer), otherwise!("a `header`"),
        "Where it is in the body (RFC 6901).";
    UNIT "unit" Kind::Words(&["s", "ms", "epoch_s", "epoch_ms"]), Presence::Default("s"),
        "What a bare number counts: a length of time, or time since 1970.";
} one_of [HEADER, POINTER] }

table! { statuses STATUSES "statuses" "What a backend's statuses mean." {
    ALLOW "allow" STATUS_LIST, otherwise!("the preset's"),
        "Within the limit. A list that is given comes before the preset's others.";
    DENY "deny" STATUS_LIST, otherwise!("the preset's"), "Over the limit.";
    REJECT "reject" STATUS_LIST, otherwise!("the preset's"),
        "The backend does not know or admit the key.";
}}

table! { breaker BREAKER "breaker" "When to stop calling a sick backend, and when to try again." {
    CONSECUTIVE_FAILURES "consecutive_failures" Kind::Count(1, 10_000), Presence::Default("5"),
        "Failures in a row that open it.";
    FAILURE_RATE "failure_rate" Kind::Share, Presence::Default("0.5"),
        "The share of failures within the window that opens it.";
    MIN_CALLS "min_calls" Kind::Count(1, 1_000_000), Presence::Default("20"),
        "Calls within the window below which the share does not count.";
    WINDOW "window" Kind::Duration("1s", "10m"), Presence::Default("10s"),
        "The time over which the share is taken.";
    OPEN_FOR "open_for" Kind::Duration("50ms", "10m"), Presence::Default("1s"),
        "How long it stays open the first time.";
    OPEN_FOR_MAX "open_for_max" Kind::Duration("50ms", "1h"), Presence::Default("30s"),
        "How long it stays open at most, after failed trials.";
    HALF_OPEN_CALLS "half_open_calls" Kind::Count(1, 100), Presence::Default("1"),
        "Trial calls, across the workers of the process, that must succeed before it closes.";
}}

table! { policy POLICY "policy" "How a request is handled." {
    BACKEND "backend" Kind::Text(Form::ToBackend), Presence::Required,
        "The backend to ask.";
    DESCRIPTOR "descriptor" Kind::List(&Kind::Table(&entry::ENTRY), 1, 16), Presence::Required,
        "Who is asking, and for what: entries in order.";
    COST "cost" Kind::Either(&COST_KIND, &Kind::Table(&cost::COST)), Presence::Default("1"),
        "The units that a request uses, as far as that is known ahead.";
    FAILURE_MODE "failure_mode" Kind::Words(FAILURE_MODES), Presence::Required,
        "What happens when the backend gives no answer.";
    LOCAL_LIMIT "local_limit" Kind::Table(&local_limit::LOCAL_LIMIT),
        otherwise!("none; `fail_local` requires one"),
        "The limit that this process keeps by itself, per key, for `fail_local`.";
    QUOTA "quota" Kind::Table(&quota::QUOTA),
        otherwise!("none; the presets `gubernator`, `throttlecrab` and `unkey` require one"),
        "The quota itself, for backends that are told it with every check.";
    TIMEOUT "timeout" TIMEOUT_KIND, otherwise!("the backend's"),
        "How long a request waits for its check.";
    HOST_BUDGET "host_budget" HOST_BUDGET_KIND, otherwise!("the top-level one"),
        "What the host can afford for a request's whole stay in this filter.";
    CACHE "cache" Kind::Table(&cache::CACHE), otherwise!("the defaults below"),
        "How long answers may be used again.";
    LEASE "lease" Kind::Table(&lease::LEASE), otherwise!("no lease: one call a request"),
        "Units asked for ahead of need, and spent without asking.";
    SETTLE "settle" Kind::Table(&settle::SETTLE),
        otherwise!("nothing is settled: what was checked is what was used"),
        "Where the response tells what the request really used, and what becomes of it.";
    ENFORCEMENT "enforcement" Kind::Words(ENFORCEMENTS), Presence::Default("enforce"),
        "Whether a denial is carried out, only told, or no check is made.";
    ON_MISSING "on_missing" Kind::Words(ON_MISSING_WORDS), Presence::Default("deny"),
        "What happens when a descriptor's entry has no value.";
    FAILURE_MODE_HEADER "failure_mode_header"
        Kind::Either(&Kind::Words(&["off"]), &Kind::Table(&mode_header::MODE_HEADER)),
        Presence::Default("off"),
        "The header by which a trusted caller chooses the failure mode of its request.";
    RATE_LIMIT_HEADERS "rate_limit_headers" Kind::Words(RATE_LIMIT_HEADERS_WORDS),
        Presence::Default("draft"),
        "Which headers tell the client of its limit: `RateLimit` and `RateLimit-Policy`, \
         `X-RateLimit-*`, or none.";
    DENIAL "denial" Kind::Table(&denial::DENIAL), otherwise!("the defaults below"),
        "How a denial looks.";
}}

table! { entry ENTRY "descriptor entry"
    "One part of a descriptor: a name, and exactly one source of its value." {
    NAME "name" Kind::Text(Form::EntryName), Presence::Required,
        "The entry's name, as the backend sees it.";
    HEADER "header" Kind::Text(Form::ReadHeader), otherwise!("another source"),
        "The value is this header's; there twice, it counts as missing.";
    PROPERTY "property" Kind::List(&Kind::Text(Form::Line), 1, 16), otherwise!("another source"),
        "The value is this property of Envoy, by its path.";
    AS "as" Kind::Words(PROPERTY_TYPES), Presence::Default("string"),
        "The type of the property's value; Envoy does not tell.";
    CLIENT_IP "client_ip" Kind::Table(&client_ip::CLIENT_IP), otherwise!("another source"),
        "The value is the client's address.";
    ROUTE_NAME "route_name" Kind::True, otherwise!("another source"),
        "The value is the name of the matched Envoy route.";
    QUERY "query" Kind::Text(Form::Line), otherwise!("another source"),
        "The value is this parameter of the query string.";
    VALUE "value" Kind::Text(Form::Line), otherwise!("another source"),
        "The value is this text.";
    OPTIONAL "optional" Kind::Bool, Presence::Default("false"),
        "Whether the descriptor is complete without this entry.";
    DEFAULT "default" Kind::Text(Form::Line), otherwise!("none"),
        "The value when there is none.";
} one_of [HEADER, PROPERTY, CLIENT_IP, ROUTE_NAME, QUERY, VALUE] }

table! { client_ip CLIENT_IP "client_ip" "Which address is the client's." {
    TRUSTED_HOPS "trusted_hops" Kind::Count(0, 32), Presence::Required,
        "With 0, the peer's address; with N, the N-th from the right of `x-forwarded-for`.";
}}

table! { cost COST "cost" "A cost that the request tells." {
    HEADER "header" Kind::Text(Form::ReadHeader), Presence::Required,
        "The header that holds the units, a whole number.";
    DEFAULT "default" COST_KIND, Presence::Default("1"),
        "The units when the header is missing, repeated or no number.";
    MAX "max" COST_KIND, Presence::Required,
        "More than this counts as this.";
}}

table! { local_limit LOCAL_LIMIT "local_limit"
    "A limit that the process keeps by itself, per key, shared by its workers." {
    UNITS "units" Kind::Count(1, 1_000_000_000), Presence::Required,
        "Units in each `per`.";
    PER "per" Kind::Duration("1ms", "24h"), Presence::Required,
        "The time in which the units grow back.";
    BURST "burst" Kind::Count(1, 1_000_000_000), otherwise!("the same as `units`"),
        "Units that may be used at once.";
}}

table! { quota QUOTA "quota" "The quota that a backend is told with every check." {
    UNITS "units" Kind::Count(1, 1_000_000_000), Presence::Required,
        "Units in each `per`.";
    PER "per" Kind::Duration("1s", "720h"), Presence::Required,
        "The time in which the units grow back; `throttlecrab` takes whole seconds, rounded up.";
    BURST "burst" Kind::Count(1, 1_000_000_000), otherwise!("the same as `units`"),
        "Units that may be used at once, 2 at least for `throttlecrab`; others do not know it.";
}}

table! { cache CACHE "cache" "How long answers may be used again; `0s` switches each one off." {
    ALLOW_TTL "allow_ttl" Kind::Duration("0s", "1h"), Presence::Default("0s"),
        "How long a yes holds; equal checks then share one call.";
    DENY_TTL "deny_ttl" Kind::Duration("0s", "60s"), Presence::Default("1s"),
        "How long over the limit holds, for requests that cost at least as much.";
    REJECTED_TTL "rejected_ttl" Kind::Duration("0s", "60s"), Presence::Default("0s"),
        "How long a key that the backend does not admit stays rejected.";
    STALE_IF_ERROR "stale_if_error" Kind::Duration("0s", "1h"), Presence::Default("0s"),
        "How old an answer may be that is used again when there is no new one.";
}}

table! { lease LEASE "lease" "Units asked for ahead of need, per key and worker." {
    MAX_UNITS "max_units" Kind::Count(1, 1_000_000), Presence::Required,
        "Units held at most.";
    TTL "ttl" Kind::Duration("50ms", "60s"), Presence::Default("1s"),
        "How long they may be spent.";
}}

table! { settle SETTLE "settle"
    "What requests really used, told to the backend after the fact, in batches." {
    USAGE "usage" Kind::List(&Kind::Table(&usage::USAGE), 1, 8), Presence::Required,
        "Where the response tells it; the parts that are there are added up, rounded up to units.";
    MODE "mode" Kind::Words(SETTLE_MODES), Presence::Default("report"),
        "`report`: the check counts nothing, the whole use is told. `correct`: the check charges \
         the cost, the difference is told.";
    DEFAULT "default" SETTLED_KIND, otherwise!("the request's cost"),
        "The units of a request whose response tells nothing.";
    MAX "max" SETTLED_KIND, Presence::Default("1000000"),
        "More units than this count as this.";
    ON_ERROR "on_error" Kind::Words(&["release", "keep"]), Presence::Default("release"),
        "What a request without an answer below 400, which tells nothing, has used: no units, or \
         the `default`.";
    UNCHECKED "unchecked" Kind::Words(&["report", "skip"]), Presence::Default("report"),
        "Whether the use of requests that were let through without a check is told.";
    EVERY "every" Kind::Duration("20ms", "60s"), Presence::Default("100ms"),
        "How long the use of a key is gathered before it is told.";
    TIMEOUT "timeout" TIMEOUT_KIND, Presence::Default("2s"),
        "How long the backend may take to confirm it; no request waits for that.";
    RETRY_FOR "retry_for" Kind::Duration("0s", "24h"), Presence::Default("5m"),
        "How long it is told again while the backend does not take it; then it is dropped.";
    IF_UNKNOWN "if_unknown" Kind::Words(&["retry", "drop"]), Presence::Default("retry"),
        "What happens when nobody knows whether the backend has counted it: told again, or \
         dropped. The preset `headers` sends an id by which a second one can be known.";
}}

table! { usage USAGE "usage" "One part of what a request used, and where it is told." {
    HEADER "header" Kind::Text(Form::ReadHeader), otherwise!("another source"),
        "A header of the response; there twice, it counts as missing.";
    TRAILER "trailer" Kind::Text(Form::ReadHeader), otherwise!("another source"),
        "A trailer of the response; there twice, it counts as missing.";
    METADATA "metadata" Kind::List(&Kind::Text(Form::Line), 2, 16), otherwise!("another source"),
        "A value of Envoy's dynamic metadata: the namespace, then the keys down to it.";
    TIMES "times" Kind::Factor, Presence::Default("1"),
        "Units for each; below 0 for what another part has counted too much.";
} one_of [HEADER, TRAILER, METADATA] }

table! { mode_header MODE_HEADER "failure_mode_header" "Who may choose a failure mode, and how." {
    NAME "name" Kind::Text(Form::TrustedHeader), Presence::Required,
        "The header that holds a failure mode's word; the upstream gets it, too.";
    TRUST "trust" Kind::Words(&["internal"]), Presence::Required,
        "Whom it is honoured from: `internal` is where Envoy says `x-envoy-internal: true`.";
}}

table! { denial DENIAL "denial" "How a denial looks." {
    STATUS "status" DENIAL_STATUS_KIND, Presence::Default("429"),
        "The status of a request over its limit.";
    UNAVAILABLE_STATUS "unavailable_status" DENIAL_STATUS_KIND, Presence::Default("503"),
        "The status when there is no answer.";
    HEADERS "headers" Kind::Map(Form::DenialHeader, &Kind::Text(Form::HeaderValue), 32),
        otherwise!("none"),
        "Headers added to every denial.";
    CORS "cors" Kind::Table(&cors::CORS), otherwise!("none"),
        "Which pages may read a denial.";
}}

table! { cors CORS "cors" "Which pages may read a denial." {
    ALLOW_ORIGINS "allow_origins" Kind::List(&Kind::Text(Form::Origin), 1, 64),
        Presence::Required,
        "Origins, or `*` for every one.";
}}

table! { route ROUTE "route" "A rule that leads requests to a policy." {
    MATCH "match" Kind::Table(&route_match::ROUTE_MATCH), Presence::Required,
        "What it matches: all that is given; nothing given matches everything.";
    POLICY "policy" Kind::Text(Form::ToPolicy), Presence::Required,
        "The policy of what it matches; `off` is no check.";
    OVERRIDE "override" Kind::Table(&route_override::OVERRIDE), otherwise!("nothing"),
        "What this rule changes of the policy.";
}}

table! { route_match ROUTE_MATCH "match" "What a rule matches." {
    ROUTE_NAME "route_name" Kind::Text(Form::Line), otherwise!("any"),
        "The name of the matched Envoy route.";
    HOST "host" Kind::Text(Form::Host), otherwise!("any"),
        "The request's host without its port, or `*.` and a domain for every name below it.";
    PATH_PREFIX "path_prefix" Kind::Text(Form::Path), otherwise!("any"),
        "What the path begins with.";
    METHODS "methods" Kind::List(&Kind::Text(Form::Method), 1, 16), otherwise!("any"),
        "The request's method, one of these.";
    HEADERS "headers" Kind::Map(Form::ReadHeader, &Kind::Text(Form::HeaderValue), 16),
        otherwise!("any"),
        "Headers that are there once, with exactly these values.";
}}

/// What a rule changes of its policy: everything but what is kept per key.
pub mod route_override {
    use super::*;

    /// What a rule changes of its policy. What names the key, and what is kept per key (`backend`,
    /// `descriptor`, `local_limit`, `cache`, `lease`, `settle`), belongs to the policy.
    pub static OVERRIDE: Table = Table {
        changes: true,
        #[cfg(not(target_arch = "wasm32"))]
        doc: "What a rule changes of its policy: any of these keys, as in the policy. What names \
             the key, and what is kept per key (`backend`, `descriptor`, `local_limit`, `cache`, \
             `lease`, `settle`), belongs to the policy.",
        keys: &[
            &policy::COST,
            &policy::FAILURE_MODE,
            &policy::TIMEOUT,
            &policy::HOST_BUDGET,
            &policy::ENFORCEMENT,
            &policy::ON_MISSING,
            &policy::FAILURE_MODE_HEADER,
            &policy::RATE_LIMIT_HEADERS,
            &policy::DENIAL,
        ],
        #[cfg(not(target_arch = "wasm32"))]
        name: "override",
        one_of: &[],
    };
}

table! { emergency EMERGENCY "emergency" "Lets requests through for a while; ends by itself." {
    MODE "mode" Kind::Words(EMERGENCY_MODES), Presence::Required,
        "`fail_open` lets through what has no answer; `bypass` lets everything through unchecked.";
    UNTIL "until" Kind::Text(Form::Time), Presence::Required,
        "When it ends.";
    REASON "reason" Kind::Text(Form::Line), Presence::Required,
        "Why, for the log.";
}}

/// The words of `preset`.
pub const PRESETS: &[&str] = &[
    "headers",
    "limitador",
    "envoy_ratelimit",
    "gubernator",
    "throttlecrab",
    "unkey",
    "custom",
];
/// The words of `failure_mode`.
pub const FAILURE_MODES: &[&str] = &["fail_open", "fail_closed", "fail_local"];
/// The words of `enforcement`.
pub const ENFORCEMENTS: &[&str] = &["enforce", "shadow", "off"];
/// The words of a settlement's `mode`.
pub const SETTLE_MODES: &[&str] = &["report", "correct"];
/// The words of `on_missing`.
pub const ON_MISSING_WORDS: &[&str] = &["deny", "allow"];
/// The words of `rate_limit_headers`.
pub const RATE_LIMIT_HEADERS_WORDS: &[&str] = &["none", "draft", "x_ratelimit"];
/// The words of a property's `as`.
pub const PROPERTY_TYPES: &[&str] = &["string", "number", "bool"];
/// The words of an emergency's `mode`.
pub const EMERGENCY_MODES: &[&str] = &["fail_open", "bypass"];

/// Below the first, the host would wait without end; above the second, nobody waits.
const TIMEOUT_KIND: Kind = Kind::Duration("1ms", "60s");
/// The smallest leaves a timeout of 1 ms.
const HOST_BUDGET_KIND: Kind = Kind::Duration("6ms", "10m");
/// What one request may use; sums of it stay far from the end of 64 bits.
const COST_KIND: Kind = Kind::Count(0, 1_000_000);
/// Envoy sends other statuses as they are, and closes the connection on some.
const DENIAL_STATUS_KIND: Kind = Kind::Count(400, 599);
/// What one request may have used; sums of it stay far from the end of 63 bits.
const SETTLED_KIND: Kind = Kind::Count(0, 1_000_000_000);
const STATUS_LIST: Kind = Kind::List(&Kind::Status, 0, 32);
