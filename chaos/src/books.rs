//! What was used is charged, or said to be lost: the books of the gate against what responses have
//! told, and the backends' own against those of the gate.

use std::fmt;

use envoy_harness::eventually::{PATIENCE, within};
use envoy_harness::{Backend, Rig, Sample, Told};
use quota_gate::decision::{AllowReason, Outcome as Decided};

use crate::director::Stage;
use crate::laws::whole;
use crate::ledger::{Ledger, Record};
use crate::plugin::USED_UNTOLD;
use crate::traffic::{KINDS, Planned};

/// The two backends, as the configuration names them.
pub(crate) const NAMES: [&str; 2] = ["first", "second"];

/// The books of one backend.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Books {
    /// What others say.
    known: Known,
    /// What the gate has counted.
    gate: Counted,
    /// What the backend says.
    backend: Charged,
}

/// What responses have told, by the access log.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Known {
    /// Requests whose response said what they have used.
    measured: u64,
    /// Requests with a good response that did not.
    default: u64,
    /// What all of these have used.
    units: u64,
    /// Requests without a key that an emergency let through: there is nobody to charge.
    keyless: u64,
}

/// What the gate's counters say.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Counted {
    /// Requests let through.
    passed: u64,
    /// Requests that were settled, however.
    settled: u64,
    measured: u64,
    default: u64,
    /// Units told and confirmed.
    reported: u64,
    /// Units given up.
    dropped: u64,
}

/// What the backend's journal says.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Charged {
    /// Reports that it has counted.
    reports: u64,
    /// Reports that it had counted before.
    again: u64,
    units: u64,
    /// Units of reports that faults have said yes to.
    feigned: u64,
    /// Units of reports that faults have refused for good.
    refused: u64,
}

/// The books of both backends, once they agree, and where they do not.
pub(crate) fn close(stage: &Stage, ledger: &Ledger, seed: u64) -> ([Books; 2], Vec<String>) {
    let mut known = [Known::default(); 2];
    for (number, record) in ledger.records() {
        let planned = Planned::new(seed, number);
        if let Some(known) = known.get_mut(planned.kind.backend)
            && planned.kind.settles()
        {
            known.note(&planned, record);
        }
    }
    let look = || {
        [0, 1].map(|backend| Books {
            known: known[backend],
            gate: Counted::of(&stage.rig, backend),
            backend: Charged::of(&stage.backends[backend]),
        })
    };
    let agree = || {
        let books = look();
        let fine = books.iter().all(|books| books.findings().is_empty());
        fine.then_some(books)
    };
    // Counters come a tick after what they count.
    let books = within(PATIENCE, agree).unwrap_or_else(look);
    let named = NAMES.iter().zip(&books);
    let findings = named.flat_map(|(name, books)| {
        let findings = books.findings().into_iter();
        findings.map(move |finding| format!("books of the {name} backend: {finding}"))
    });
    (books, findings.collect())
}

impl Known {
    fn note(&mut self, planned: &Planned, record: &Record) {
        let Some(Decided::Allow(reason)) = record.logged.decision else {
            // Who left while its check was pending has no response, and has used nothing.
            return;
        };
        match reason {
            AllowReason::Bypassed => return,
            AllowReason::Emergency if !planned.who.has_key() => {
                self.keyless += 1;
                return;
            }
            _ => {}
        }
        match record.logged.used {
            Some(used) => {
                self.measured += 1;
                self.units += used;
            }
            None if (1..400).contains(&record.logged.status) => {
                self.default += 1;
                self.units += USED_UNTOLD;
            }
            None => {}
        }
    }
}

impl Counted {
    fn of(rig: &Rig, backend: usize) -> Self {
        let samples = rig.envoy().counters();
        let name = NAMES[backend];
        let sum = |metric: &str, labels: &[(&str, &str)]| -> u64 {
            let own = samples.iter().filter(|sample| sample.is(metric, labels));
            own.map(|sample| whole(sample.value)).sum()
        };
        let settled = |result| {
            let labels = [("backend", name), ("result", result)];
            sum("quota_gate_settlements", &labels)
        };
        let units = [("backend", name), ("result", "reported")];
        let is_passed = |sample: &&Sample| {
            let is = |label, value| sample.is("quota_gate_requests", &[(label, value)]);
            let mut kinds = KINDS.iter().filter(|kind| kind.settles());
            is("decision", "allow")
                && !is("reason", AllowReason::Bypassed.code())
                && kinds.any(|kind| kind.backend == backend && is("policy", kind.policy))
        };
        let passed = samples.iter().filter(is_passed);
        Self {
            passed: passed.map(|sample| whole(sample.value)).sum(),
            settled: sum("quota_gate_settlements", &[("backend", name)]),
            measured: settled("measured"),
            default: settled("default"),
            reported: sum("quota_gate_settled_units", &units),
            dropped: sum("quota_gate_settlement_dropped_units", &[("backend", name)]),
        }
    }
}

impl Charged {
    fn of(backend: &Backend) -> Self {
        let told = backend.told();
        let (again, counted): (Vec<&Told>, Vec<&Told>) = told.iter().partition(|told| told.again);
        Self {
            reports: counted.len() as u64,
            again: again.len() as u64,
            units: counted.iter().map(|told| told.units.unsigned_abs()).sum(),
            feigned: backend.feigned(),
            refused: backend.refused(),
        }
    }
}

impl Books {
    /// What does not add up.
    fn findings(&self) -> Vec<String> {
        let Self {
            known,
            gate,
            backend,
        } = self;
        let mut findings = Vec::new();
        let mut must = |holds: bool, else_: &str| {
            if !holds {
                findings.push(format!("{else_}: {self:?}"));
            }
        };
        must(
            gate.settled + known.keyless == gate.passed,
            "not each request that was let through is settled once",
        );
        must(
            (gate.measured, gate.default) == (known.measured, known.default),
            "what responses told is not what was measured",
        );
        must(
            gate.reported + gate.dropped == known.units,
            "what was used is not what is told or said to be lost",
        );
        must(
            backend.units + backend.feigned + backend.refused <= gate.reported + gate.dropped,
            "more is charged than was used",
        );
        must(
            gate.reported <= backend.units + backend.feigned,
            "what is told as charged is not charged",
        );
        findings
    }
}

impl fmt::Display for Books {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            known,
            gate,
            backend,
        } = self;
        write!(
            f,
            "{} requests settled, {} units used: {} told, {} dropped; {} charged by {} reports, \
             {} reports came again; {} units not charged in spite of a yes",
            gate.settled,
            known.units,
            gate.reported,
            gate.dropped,
            backend.units,
            backend.reports,
            backend.again,
            backend.feigned
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::ledger::Logged;
    use crate::plan::Class;

    fn record(reason: AllowReason, status: u64, used: Option<u64>) -> Record {
        let now = Instant::now();
        Record {
            sent: now,
            done: now,
            end: None,
            logged: Logged {
                decision: Some(Decided::Allow(reason)),
                status,
                used,
                ..Logged::default()
            },
            seen: 0,
            told: None,
            checks: 0,
            answered: Class::Good,
        }
    }

    #[test]
    fn a_request_has_used_what_its_response_tells_or_the_default_if_that_is_good() {
        let mut all = (0..).map(|number| Planned::new(1, number));
        let planned = all.find(|planned| planned.kind.settles() && planned.who.has_key());
        let planned = planned.expect("one of the first thousands");
        let note = |reason, status, used| {
            let mut known = Known::default();
            known.note(&planned, &record(reason, status, used));
            (known.measured, known.default, known.units)
        };
        let checked = AllowReason::WithinQuota;
        assert_eq!(note(checked, 200, Some(7)), (1, 0, 7));
        assert_eq!(note(checked, 503, Some(7)), (1, 0, 7));
        assert_eq!(note(checked, 200, None), (0, 1, 3));
        assert_eq!(note(checked, 503, None), (0, 0, 0));
        assert_eq!(note(checked, 0, None), (0, 0, 0));
        assert_eq!(note(AllowReason::Emergency, 200, Some(7)), (1, 0, 7));
        assert_eq!(note(AllowReason::Bypassed, 200, Some(7)), (0, 0, 0));
    }

    fn books() -> Books {
        Books {
            known: Known {
                measured: 5,
                default: 2,
                units: 60,
                keyless: 1,
            },
            gate: Counted {
                passed: 10,
                settled: 9,
                measured: 5,
                default: 2,
                reported: 50,
                dropped: 10,
            },
            // One report was counted and given up, another has a yes and was not counted.
            backend: Charged {
                reports: 4,
                again: 1,
                units: 51,
                feigned: 4,
                refused: 3,
            },
        }
    }

    #[track_caller]
    fn expect_finding(change: impl Fn(&mut Books), finding: &str) {
        let mut books = books();
        assert_eq!(books.findings(), Vec::<String>::new());
        change(&mut books);
        let findings = books.findings();
        assert!(findings[0].starts_with(finding), "{findings:?}");
        assert_eq!(findings.len(), 1, "{findings:?}");
    }

    #[test]
    fn whatever_does_not_add_up_is_found() {
        let settled = "not each request that was let through is settled once";
        expect_finding(|books| books.gate.settled = 10, settled);
        expect_finding(|books| books.gate.settled = 8, settled);
        let measured = "what responses told is not what was measured";
        expect_finding(|books| books.gate.measured = 4, measured);
        expect_finding(|books| books.gate.default = 3, measured);
        let lost = "what was used is not what is told or said to be lost";
        expect_finding(|books| books.gate.dropped = 9, lost);
        expect_finding(|books| books.gate.reported = 51, lost);
        let more = "more is charged than was used";
        expect_finding(|books| books.backend.units = 54, more);
        let less = "what is told as charged is not charged";
        expect_finding(|books| books.backend.units = 45, less);
    }
}
