//! What the gate's counters say of an account, and of all leases together.

use std::collections::BTreeMap;
use std::fmt;

use envoy_harness::Sample;
use quota_gate::decision::AllowReason;

use crate::laws::whole;
use crate::terms::Account;

/// The counters of an account.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Counted {
    /// Requests let through, those that no policy was asked about left out.
    pub(crate) passed: u64,
    /// Those of them that were not checked.
    pub(crate) unchecked: u64,
    /// Those within the quota, and those that a lease has paid.
    pub(crate) within: u64,
    pub(crate) leased_requests: u64,
    /// Calls that the backend has said yes to, and calls that it has answered at all.
    pub(crate) allowed: u64,
    pub(crate) answered: u64,
    /// Requests that were settled, by how their use was known.
    pub(crate) measured: u64,
    pub(crate) default: u64,
    pub(crate) kept: u64,
    pub(crate) released: u64,
    pub(crate) skipped: u64,
    /// Units told and confirmed, used and not used.
    pub(crate) reported: u64,
    pub(crate) taken_back: u64,
    /// Units that a lease has paid, and that went back to one.
    pub(crate) leased: u64,
    pub(crate) returned: u64,
    /// Units given up, by why.
    pub(crate) dropped: Dropped,
    /// Reports by how they ended: counted, or in a way that says nothing.
    pub(crate) told: u64,
    pub(crate) unknown: u64,
}

/// Units given up.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Dropped {
    pub(crate) ended: u64,
    pub(crate) full: u64,
    pub(crate) not_taken_back: u64,
    pub(crate) refused: u64,
    pub(crate) too_old: u64,
    pub(crate) unknown: u64,
}

/// What has happened to leases.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Leased {
    pub(crate) granted: u64,
    pub(crate) returned: u64,
    pub(crate) spent: u64,
    pub(crate) expired: u64,
}

/// Everything that is counted with two labels that matter.
pub(crate) struct Counters(BTreeMap<(String, String, String), u64>);

impl Counters {
    pub(crate) fn new(samples: &[Sample]) -> Self {
        let mut all = BTreeMap::new();
        for sample in samples {
            let label = |names: &[&str]| -> String {
                let found = names.iter().find_map(|name| sample.labels.get(*name));
                found.cloned().unwrap_or_default()
            };
            let place = (
                sample.name.clone(),
                label(&["backend", "policy"]),
                label(&["result", "cause", "reason", "event"]),
            );
            *all.entry(place).or_default() += whole(sample.value);
        }
        Self(all)
    }

    fn get(&self, name: &str, of: &str, what: &str) -> u64 {
        let place = (name.to_owned(), of.to_owned(), what.to_owned());
        self.0.get(&place).copied().unwrap_or(0)
    }

    pub(crate) fn leases(&self) -> Leased {
        let event = |event| self.get("quota_gate_leases", "", event);
        Leased {
            granted: event("granted_units"),
            returned: event("returned_units"),
            spent: event("spent_units"),
            expired: event("expired_units"),
        }
    }

    pub(crate) fn of(&self, account: &Account) -> Counted {
        let name = account.name();
        let sum = |metric: &str, what: &[&str]| -> u64 {
            what.iter().map(|what| self.get(metric, name, what)).sum()
        };
        let requests = |reason: AllowReason| sum("quota_gate_requests", &[reason.code()]);
        let calls = |results: &[&str]| sum("quota_gate_callouts", results);
        let settled = |how| sum("quota_gate_settlements", &[how]);
        let units = |what| sum("quota_gate_settled_units", &[what]);
        let dropped = |why| sum("quota_gate_settlement_dropped_units", &[why]);
        let reports = |results: &[&str]| sum("quota_gate_settlement_reports", results);
        let unchecked = UNCHECKED.into_iter().map(requests).sum();
        let (within, leased_requests) = (
            requests(AllowReason::WithinQuota),
            requests(AllowReason::Leased),
        );
        Counted {
            passed: within + leased_requests + unchecked,
            unchecked,
            within,
            leased_requests,
            allowed: calls(&["allow"]),
            answered: calls(&["allow", "deny", "reject"]),
            measured: settled("measured"),
            default: settled("default"),
            kept: settled("kept"),
            released: settled("released"),
            skipped: settled("skipped"),
            reported: units("reported"),
            taken_back: units("taken_back"),
            leased: units("leased"),
            returned: units("returned"),
            dropped: Dropped {
                ended: dropped("ended"),
                full: dropped("full"),
                not_taken_back: dropped("not_taken_back"),
                refused: dropped("refused"),
                too_old: dropped("too_old"),
                unknown: dropped("unknown"),
            },
            told: reports(&["counted"]),
            unknown: reports(&["bad_reply", "ended", "timeout", "unreachable"]),
        }
    }
}

impl Dropped {
    /// All of them.
    pub(crate) const fn sum(&self) -> u64 {
        self.refused + self.not_taken_back + self.lost()
    }

    /// Those of which nobody knows what the backend has made of them.
    pub(crate) const fn lost(&self) -> u64 {
        self.ended + self.full + self.too_old + self.unknown
    }
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} dropped", self.sum())?;
        let causes = [
            (self.ended, "ended"),
            (self.full, "full"),
            (self.not_taken_back, "not_taken_back"),
            (self.refused, "refused"),
            (self.too_old, "too_old"),
            (self.unknown, "unknown"),
        ];
        let causes = causes.iter().filter(|(units, _)| *units > 0);
        let causes: Vec<String> = causes
            .map(|(units, why)| format!("{units} {why}"))
            .collect();
        match causes.as_slice() {
            [] => Ok(()),
            causes => write!(f, " ({})", causes.join(", ")),
        }
    }
}

/// Why requests are let through without a check.
const UNCHECKED: [AllowReason; 4] = [
    AllowReason::Emergency,
    AllowReason::FailedLocal,
    AllowReason::FailedOpen,
    AllowReason::Stale,
];
