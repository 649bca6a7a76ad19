//! A configuration that is already valid: backends, policies, routes, and what they default to.
//!
//! Whoever holds one of these checks nothing again: names resolve, durations are in range, every
//! policy's timeout is below its host budget. `parse` is the only door in.

mod build;
pub(crate) mod check;
mod custom;
pub mod form;
pub mod json;
pub mod keys;
mod node;
pub mod parse;
pub mod problem;
pub mod protobuf;
pub mod settle;
pub mod timestamp;
pub mod units;
pub mod value;

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use crate::language::Language;
use crate::time::Wall;

use settle::Settle;

/// The whole configuration of one plugin.
#[derive(Clone, Debug)]
pub struct Config {
    /// The quota backends, sorted by name.
    pub backends: Vec<Rc<Backend>>,
    /// The declared policies, sorted by name; overridden copies live in `routes`.
    pub policies: Vec<Rc<Policy>>,
    /// In order; the first match wins.
    pub routes: Vec<Route>,
    /// For what no route matches, and for route metadata that is not valid.
    pub default_policy: Choice,
    /// The time that the host can afford for a request's stay in this filter.
    pub host_budget: Duration,
    /// The emergency, if one is declared (it may be over already).
    pub emergency: Option<Emergency>,
    /// Answers GET with the gate's own health.
    pub status_path: Option<String>,
    /// A hash of the configuration's text, for the status page and the log.
    pub fingerprint: u64,
}

/// A policy, or none.
#[derive(Clone, Debug)]
pub enum Choice {
    /// Let through unchecked.
    Off,
    /// Handle by this policy.
    Policy(Rc<Policy>),
}

/// Where to ask.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Backend {
    /// Its place in `Config::backends`.
    pub index: usize,
    /// Its name in the configuration, in metrics and logs.
    pub name: String,
    /// The Envoy cluster to call.
    pub cluster: String,
    /// The `:authority` of the call.
    pub authority: String,
    /// The language it speaks.
    pub preset: Preset,
    /// The language of [`Preset::Custom`].
    pub custom: Option<Rc<Language>>,
    /// The path to call; `None` for the preset's.
    pub path: Option<String>,
    /// Where to tell what requests really used; `None` for the preset's.
    pub report_path: Option<String>,
    /// Limitador's namespace, envoyproxy/ratelimit's domain, and so on.
    pub namespace: String,
    /// How long a call may take, unless the policy says otherwise.
    pub timeout: Duration,
    /// Sent with every call; never logged.
    pub headers: Vec<(String, String)>,
    /// Which statuses mean what; `None` for the preset's.
    pub statuses: Statuses,
    /// Calls in flight, per worker.
    pub max_pending: u32,
    /// `None` when it is switched off.
    pub breaker: Option<BreakerSettings>,
}

/// The languages that backends speak. The rules of each are data, in `wire::preset`.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Preset {
    /// What the backend's own `custom` rules say.
    Custom,
    /// envoyproxy/ratelimit's `POST /json`.
    EnvoyRatelimit,
    /// Gubernator's `POST /v1/GetRateLimits`.
    Gubernator,
    /// Our own: headers only, no body.
    Headers,
    /// Kuadrant Limitador's `POST /check_and_report`.
    Limitador,
    /// ThrottleCrab's `POST /throttle`.
    Throttlecrab,
    /// Unkey's `POST /v2/ratelimit.limit`.
    Unkey,
}

impl Preset {
    /// Whether it tells the backend the quota with every check, so that the policy must have one.
    #[must_use]
    pub const fn needs_quota(self) -> bool {
        match self {
            Self::Gubernator | Self::Throttlecrab | Self::Unkey => true,
            Self::Custom | Self::EnvoyRatelimit | Self::Headers | Self::Limitador => false,
        }
    }
}

/// A backend's statuses by meaning; what is in none of them is a failure.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Statuses {
    /// Yes.
    pub allow: Option<Vec<StatusPattern>>,
    /// Over the limit.
    pub deny: Option<Vec<StatusPattern>>,
    /// The key is not valid here.
    pub reject: Option<Vec<StatusPattern>>,
}

/// One status, or a hundred of them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StatusPattern {
    /// `"2xx"` is `Class(2)`.
    Class(u16),
    /// Just this one.
    Exact(u16),
}

impl StatusPattern {
    /// Whether `status` is meant.
    #[must_use]
    pub const fn matches(self, status: u16) -> bool {
        match self {
            Self::Class(class) => status / 100 == class,
            Self::Exact(exact) => status == exact,
        }
    }
}

/// When to stop calling a sick backend.
#[derive(Clone, Debug, PartialEq)]
pub struct BreakerSettings {
    /// Failures in a row that trip it.
    pub consecutive_failures: u32,
    /// The share of failures in the window that trips it, in thousandths (1 to 1000).
    pub failure_permille: u32,
    /// Calls in the window below which the share does not count.
    pub min_calls: u32,
    /// What the share is taken over.
    pub window: Duration,
    /// How long it stays open the first time.
    pub open_for: Duration,
    /// How long it stays open at most.
    pub open_for_max: Duration,
    /// Trial calls, across the workers, before it closes.
    pub half_open_calls: u32,
}

impl Eq for BreakerSettings {}

/// How a request is handled.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Policy {
    /// Its place in `Config::policies`; an overridden copy keeps it, and with it the key.
    pub index: usize,
    /// Its name in the configuration, in metrics and logs.
    pub name: Rc<str>,
    /// Which of `Config::backends` to ask.
    pub backend: usize,
    /// Who is asking, and for what: the entries in order.
    pub descriptor: Rc<[EntrySpec]>,
    /// What a request uses.
    pub cost: Cost,
    /// What happens when a check has no answer.
    pub failure_mode: FailureMode,
    /// The limit for `fail_local`.
    pub local_limit: Option<LocalLimit>,
    /// How long a request may wait for its check.
    pub timeout: Duration,
    /// The time that the host can afford; the timeout is below it.
    pub host_budget: Duration,
    /// How long answers may be used again.
    pub cache: CacheTtls,
    /// The quota, for backends that are told it with every check.
    pub quota: Option<QuotaTerms>,
    /// Units asked for ahead of need.
    pub lease: Option<LeaseTerms>,
    /// Where the response tells what a request really used, and what becomes of it.
    pub settle: Option<Rc<Settle>>,
    /// Whether a denial is carried out.
    pub enforcement: Enforcement,
    /// What happens when the descriptor is not complete.
    pub on_missing: OnMissing,
    /// The header by which a trusted caller may choose the failure mode.
    pub failure_mode_header: Option<String>,
    /// Which fields tell the client of its limit.
    pub rate_limit_headers: RateLimitHeaders,
    /// How a denial looks.
    pub denial: Rc<DenialStyle>,
}

/// One entry of a descriptor: its name and where its value comes from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EntrySpec {
    /// The entry's name on the wire.
    pub name: String,
    /// Where the value comes from.
    pub source: Source,
    /// Whether the descriptor is complete without it.
    pub optional: bool,
    /// The value when there is none.
    pub default: Option<String>,
}

/// Where an entry's value comes from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Source {
    /// The client's address: the peer's with 0 hops, else the N-th from the right of
    /// `x-forwarded-for`.
    ClientIp {
        /// How many entries of the header were written by proxies that are trusted.
        trusted_hops: u32,
    },
    /// A header, by its lower-case name.
    Header(String),
    /// A host property, and the type it is known to have.
    Property {
        /// Its path, element by element.
        path: Vec<String>,
        /// How its bytes are to be read.
        value_type: PropertyType,
    },
    /// A parameter of the query string.
    Query(String),
    /// The name of the matched Envoy route.
    RouteName,
    /// A constant.
    Value(String),
}

/// How a property's bytes are to be read: they don't say it themselves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PropertyType {
    /// One byte, 0 or 1.
    Bool,
    /// Eight bytes, a little-endian double.
    Number,
    /// The bytes as they are.
    String,
}

/// What a request uses, in units.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Cost {
    /// Always this.
    Fixed(u64),
    /// What a header says, up to `max`; `default` where it says nothing.
    Header {
        /// Its lower-case name.
        name: String,
        /// For a header that is missing, repeated or no number; without it the descriptor counts
        /// as incomplete.
        default: Option<u64>,
        /// More than this is counted as this.
        max: u64,
    },
}

/// What happens when a check has no answer.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum FailureMode {
    /// The request is denied.
    FailClosed,
    /// The local limit decides.
    FailLocal,
    /// The request is let through.
    FailOpen,
}

impl FailureMode {
    /// The word for it in the configuration.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::FailClosed => "fail_closed",
            Self::FailLocal => "fail_local",
            Self::FailOpen => "fail_open",
        }
    }

    /// The mode by its word.
    #[must_use]
    pub fn from_code(code: &[u8]) -> Option<Self> {
        [Self::FailClosed, Self::FailLocal, Self::FailOpen]
            .into_iter()
            .find(|mode| mode.code().as_bytes() == code)
    }
}

/// A limit that this process keeps by itself, per key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LocalLimit {
    /// Units in each `per`.
    pub units: u64,
    /// The time in which they grow back.
    pub per: Duration,
    /// Units that may be used at once.
    pub burst: u64,
}

/// The terms of a quota, for backends that keep the books but not the rules.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct QuotaTerms {
    /// Units in each `per`.
    pub units: u64,
    /// The time in which they grow back.
    pub per: Duration,
    /// Units that may be used at once.
    pub burst: u64,
}

/// How long answers may be used again; zero switches one off.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct CacheTtls {
    /// A yes.
    pub allow: Duration,
    /// Over the limit.
    pub deny: Duration,
    /// A key that is not valid.
    pub rejected: Duration,
    /// Any answer, when there is no new one.
    pub stale_if_error: Duration,
}

/// The terms of a lease.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LeaseTerms {
    /// Units held at most, per key and worker.
    pub max_units: u64,
    /// How long they may be spent.
    pub ttl: Duration,
}

/// Whether a denial is carried out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Enforcement {
    /// It is.
    Enforce,
    /// No check is made.
    Off,
    /// The check is made, and its denial is only told.
    Shadow,
}

impl Enforcement {
    /// The enforcement by its word in the configuration.
    #[must_use]
    pub fn from_code(code: &str) -> Option<Self> {
        match code {
            "enforce" => Some(Self::Enforce),
            "off" => Some(Self::Off),
            "shadow" => Some(Self::Shadow),
            _ => None,
        }
    }
}

/// What happens when the descriptor is not complete.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OnMissing {
    /// The request is let through unchecked.
    Allow,
    /// The request is denied.
    Deny,
}

/// Which fields tell the client of its limit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RateLimitHeaders {
    /// `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-10).
    Draft,
    /// None.
    None,
    /// `X-RateLimit-Limit`, `-Remaining`, `-Reset`.
    XRatelimit,
}

/// How a denial looks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DenialStyle {
    /// The status of a request over its limit.
    pub status: u16,
    /// The status when there is no answer.
    pub unavailable_status: u16,
    /// Added to every denial.
    pub headers: Vec<(String, String)>,
    /// Origins whose pages may read the denial; `*` is every origin.
    pub allow_origins: Vec<String>,
}

/// The largest timeout that a host budget allows: below it by a tenth, and by 5 ms at least.
#[must_use]
pub fn largest_timeout(host_budget: Duration) -> Duration {
    let tenth = host_budget.checked_div(10).unwrap_or_default();
    let largest = host_budget.saturating_sub(tenth.max(LEAST_DISTANCE));
    // In whole milliseconds, as timeouts are.
    Duration::from_millis(crate::time::millis(largest))
}

/// A tick and what the host needs besides.
const LEAST_DISTANCE: Duration = Duration::from_millis(5);

/// A rule that leads requests to a policy.
#[derive(Clone, Debug)]
pub struct Route {
    /// What it matches: all that is given.
    pub matches: RouteMatch,
    /// The policy, with the rule's overrides applied.
    pub choice: Choice,
}

/// What a rule matches; what is not given matches everything.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RouteMatch {
    /// The name of the matched Envoy route.
    pub route_name: Option<String>,
    /// The host, in lower case and without port; `*.example.com` is every name below.
    pub host: Option<String>,
    /// What the path starts with.
    pub path_prefix: Option<String>,
    /// Any of these methods; empty means all.
    pub methods: Vec<String>,
    /// Headers that have exactly these values; names in lower case.
    pub headers: Vec<(String, String)>,
}

/// A declared emergency: it ends by itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Emergency {
    /// How much is let through.
    pub mode: EmergencyMode,
    /// When it ends.
    pub until: Wall,
    /// Why it was declared, for the log.
    pub reason: String,
}

/// How much an emergency lets through.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EmergencyMode {
    /// Everything, unchecked.
    Bypass,
    /// What has no answer; denials still deny.
    FailOpen,
}

impl EmergencyMode {
    /// The word for it in the configuration.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::FailOpen => "fail_open",
        }
    }
}

/// What route metadata may change of a policy.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Override {
    /// Instead of the policy's own.
    pub failure_mode: Option<FailureMode>,
    /// Instead of the policy's own.
    pub timeout: Option<Duration>,
    /// Instead of the policy's own.
    pub cost: Option<u64>,
    /// Instead of the policy's own.
    pub enforcement: Option<Enforcement>,
}
