//! Every metric: its name, its kind, and what has changed since the last flush.
//!
//! Counting happens in the VM's own memory and costs no call to the host; a tick hands the sums
//! over. Names carry their labels as `.label.value` pairs, which the published `stats_tags` take
//! apart (`wasmcustom.quota_gate.requests.policy.gold.decision.allow.reason.leased`).

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use crate::config::Config;
use crate::decision::{CheckError, Outcome};
use crate::sorted::SortedMap;

/// One series of one metric.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Metric {
    /// Changes of a breaker to open.
    BreakerTrips(usize),
    /// 0 closed, 1 half open, 2 open.
    BreakerState(usize),
    /// Milliseconds from the call to its reply.
    CalloutDuration(usize),
    /// Calls that ended, by what came of them.
    Callouts(usize, CalloutResult),
    /// 1 while an emergency is active.
    EmergencyActive,
    /// Entries that a full table let go.
    Evictions(Table),
    /// Requests whose check had no answer, by cause.
    Failures(usize, CheckError),
    /// What happened to leases.
    Leases(&'static str),
    /// Requests over the local limit only because their units could not be booked.
    LocalLimitContended,
    /// Calls in flight.
    Pending(usize),
    /// Requests by decision and reason; the policy is `None` for `off`.
    Requests(Option<usize>, Outcome),
    /// Requests whose route metadata was not valid.
    RouteMetadataErrors,
    /// Units that requests turned out to have used, by what became of them.
    SettledUnits(usize, &'static str),
    /// Units that were used and could not be told, by why.
    SettlementDroppedUnits(usize, &'static str),
    /// Reports of use, by what came of them.
    SettlementReports(usize, &'static str),
    /// Requests that were settled, by how their use was known.
    Settlements(usize, &'static str),
    /// Batches of use that are not told yet.
    SettlementsPending(usize),
    /// Milliseconds that the most impatient policy waits for a backend.
    Timeout(usize),
}

/// What came of a call.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum CalloutResult {
    /// The backend said yes.
    Allow,
    /// The backend said no.
    Deny,
    /// There was no answer.
    Failed(CheckError),
    /// The key is not valid.
    Reject,
}

/// A bounded table.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Table {
    /// Remembered decisions.
    Cache,
    /// Leases.
    Lease,
    /// Slots of the local limit.
    LocalLimit,
}

/// The kinds of metric that hosts know.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// It only grows: the change is added.
    Counter,
    /// It goes up and down: the change is added.
    Delta,
    /// It is set to the value.
    Gauge,
    /// The value is one of many.
    Histogram,
}

impl Metric {
    /// What kind of metric it is.
    #[must_use]
    pub const fn kind(self) -> Kind {
        match self {
            Self::BreakerState(_) | Self::EmergencyActive | Self::Timeout(_) => Kind::Gauge,
            Self::CalloutDuration(_) => Kind::Histogram,
            Self::Pending(_) | Self::SettlementsPending(_) => Kind::Delta,
            Self::BreakerTrips(_)
            | Self::Callouts(..)
            | Self::Evictions(_)
            | Self::Failures(..)
            | Self::Leases(_)
            | Self::LocalLimitContended
            | Self::Requests(..)
            | Self::RouteMetadataErrors
            | Self::SettledUnits(..)
            | Self::SettlementDroppedUnits(..)
            | Self::SettlementReports(..)
            | Self::Settlements(..) => Kind::Counter,
        }
    }

    /// The name under which the host knows it.
    #[must_use]
    #[inline(never)]
    pub fn name(self, config: &Config) -> String {
        let (base, backend, label, value) = self.parts();
        let mut name = String::from("quota_gate.");
        name.push_str(base);
        let mut add = |label: &str, value: &str| {
            for part in [".", label, ".", value] {
                name.push_str(part);
            }
        };
        if let Self::Requests(policy, outcome) = self {
            let policy = policy.map_or(Some("off"), |index| {
                config.policies.get(index).map(|policy| &*policy.name)
            });
            add("policy", policy.unwrap_or("unknown"));
            add("decision", outcome.word());
        }
        if let Some(index) = backend {
            let backend = config.backends.get(index);
            add(
                "backend",
                backend.map_or("unknown", |backend| &backend.name),
            );
        }
        if !label.is_empty() {
            add(label, value);
        }
        name
    }

    /// Its name's first word, the backend that it is of, and the last label with its value.
    fn parts(self) -> (&'static str, Option<usize>, &'static str, &'static str) {
        match self {
            Self::BreakerState(index) => ("breaker_state", Some(index), "", ""),
            Self::BreakerTrips(index) => ("breaker_trips", Some(index), "", ""),
            Self::CalloutDuration(index) => ("callout_duration_ms", Some(index), "", ""),
            Self::Callouts(index, result) => ("callouts", Some(index), "result", result.code()),
            Self::EmergencyActive => ("emergency_active", None, "", ""),
            Self::Evictions(table) => ("evictions", None, "table", table.code()),
            Self::Failures(index, cause) => ("failures", Some(index), "cause", cause.code()),
            Self::Leases(event) => ("leases", None, "event", event),
            Self::LocalLimitContended => ("local_limit_contended", None, "", ""),
            Self::Pending(index) => ("pending", Some(index), "", ""),
            Self::Requests(_, outcome) => ("requests", None, "reason", outcome.reason()),
            Self::RouteMetadataErrors => ("route_metadata_errors", None, "", ""),
            Self::SettledUnits(index, result) => ("settled_units", Some(index), "result", result),
            Self::SettlementDroppedUnits(index, cause) => {
                ("settlement_dropped_units", Some(index), "cause", cause)
            }
            Self::SettlementReports(index, result) => {
                ("settlement_reports", Some(index), "result", result)
            }
            Self::Settlements(index, result) => ("settlements", Some(index), "result", result),
            Self::SettlementsPending(index) => ("settlements_pending", Some(index), "", ""),
            Self::Timeout(index) => ("timeout_ms", Some(index), "", ""),
        }
    }
}

impl CalloutResult {
    const fn code(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Failed(cause) => cause.code(),
            Self::Reject => "reject",
        }
    }
}

impl Table {
    const fn code(self) -> &'static str {
        match self {
            Self::Cache => "cache",
            Self::Lease => "lease",
            Self::LocalLimit => "local_limit",
        }
    }
}

/// What has changed since the last flush.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Requests by [`place`]: one of these moves with each of them.
    requests: Vec<i64>,
    sums: SortedMap<Metric, i64>,
    values: Vec<(Metric, u64)>,
}

/// Where policy and outcome are in a plain list; the first places are those of `off`.
#[must_use]
pub const fn place(policy: Option<usize>, outcome: Outcome) -> usize {
    let row = match policy {
        Some(index) => index.saturating_add(1),
        None => 0,
    };
    row.saturating_mul(Outcome::ALL.len())
        .saturating_add(outcome.place())
}

impl Metrics {
    /// Nothing has changed yet. So many policies have places of their own.
    #[must_use]
    pub fn new(policies: usize) -> Self {
        let places = policies
            .saturating_add(1)
            .saturating_mul(Outcome::ALL.len());
        Self {
            requests: vec![0; places],
            ..Self::default()
        }
    }

    /// Adds to a counter, or moves a gauge.
    pub fn add(&mut self, metric: Metric, change: i64) {
        if let Metric::Requests(policy, outcome) = metric
            && let Some(sum) = self.requests.get_mut(place(policy, outcome))
        {
            *sum = sum.saturating_add(change);
            return;
        }
        let metric = plain(metric);
        match self.sums.get_mut(&metric) {
            Some(sum) => *sum = sum.saturating_add(change),
            None => self.sums.insert(metric, change),
        }
    }

    /// Sets a gauge, or adds a value to a histogram.
    ///
    /// Between two flushes at most [`VALUES_MAX`] values are kept: what is above is dropped, so
    /// that a host that never ticks can't fill the memory.
    pub fn record(&mut self, metric: Metric, value: u64) {
        if self.values.len() < VALUES_MAX {
            self.values.push((metric, value));
        }
    }

    /// Hands over everything that has changed: `(metric, change or value)`.
    pub fn flush(&mut self, mut each: impl FnMut(Metric, i64)) {
        let mut outcomes = Outcome::ALL.iter().cycle();
        for (place, sum) in self.requests.iter_mut().enumerate() {
            let Some(outcome) = outcomes.next() else {
                break;
            };
            if *sum != 0 {
                let row = place.checked_div(Outcome::ALL.len()).unwrap_or(0);
                let metric = Metric::Requests(row.checked_sub(1), *outcome);
                each(metric, core::mem::take(sum));
            }
        }
        for (metric, change) in self.sums.drain() {
            if change != 0 {
                each(metric, change);
            }
        }
        for (metric, value) in self.values.drain(..) {
            each(metric, i64::try_from(value).unwrap_or(i64::MAX));
        }
    }
}

/// A status is for the log; in metrics all of them are one cause.
const fn plain(metric: Metric) -> Metric {
    match metric {
        Metric::Callouts(backend, CalloutResult::Failed(CheckError::Status(_))) => {
            Metric::Callouts(backend, CalloutResult::Failed(CheckError::Status(0)))
        }
        Metric::Failures(backend, CheckError::Status(_)) => {
            Metric::Failures(backend, CheckError::Status(0))
        }
        Metric::BreakerState(_)
        | Metric::BreakerTrips(_)
        | Metric::CalloutDuration(_)
        | Metric::Callouts(..)
        | Metric::EmergencyActive
        | Metric::Evictions(_)
        | Metric::Failures(..)
        | Metric::Leases(_)
        | Metric::LocalLimitContended
        | Metric::Pending(_)
        | Metric::Requests(..)
        | Metric::RouteMetadataErrors
        | Metric::SettledUnits(..)
        | Metric::SettlementDroppedUnits(..)
        | Metric::SettlementReports(..)
        | Metric::Settlements(..)
        | Metric::SettlementsPending(_) => metric,
        Metric::Timeout(_) => metric,
    }
}

/// A worker that answers 100,000 calls a second has 2,000 of them between two ticks of 20 ms.
const VALUES_MAX: usize = 4096;
