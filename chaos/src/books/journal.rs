//! What the journals of the backends say of an account: its checks, and what they were told.

use std::collections::HashMap;

use envoy_harness::{Check, Fault, Told};

use crate::plan::Class;

/// What has come for one account.
#[derive(Clone, Debug, Default)]
pub(crate) struct Journal {
    /// Checks that have arrived.
    pub(crate) checks: u64,
    /// Units of checks that faults have said yes to.
    feigned: u64,
    /// Reports by id.
    ids: HashMap<String, Report>,
    /// The same of reports without id, each for itself.
    told: Sums,
    charged: i64,
    again: u64,
    /// Reports of one id that say two things.
    strange: u64,
}

/// A report, with what the last of its id was told.
#[derive(Clone, Copy, Debug)]
struct Report {
    units: i64,
    answer: Answer,
    /// Its requests were let through without a check.
    is_marked: bool,
}

/// What a report was told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Answer {
    /// No, for good.
    No,
    /// Nothing that says whether it is counted.
    Nothing,
    Yes,
}

/// Sums of reports by what they were told.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Sums {
    /// Reports with a yes, of use and of its opposite.
    pub(crate) yes: u64,
    pub(crate) yes_used: u64,
    pub(crate) yes_back: u64,
    /// The same of those with a final no.
    pub(crate) no_used: u64,
    pub(crate) no_back: u64,
    /// The same of those with an answer that says nothing.
    pub(crate) nothing_used: u64,
    pub(crate) nothing_back: u64,
    /// Units of reports about requests that were not checked.
    pub(crate) marked: u64,
}

/// What is to be held against the gate's counters.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Charged {
    pub(crate) checks: u64,
    pub(crate) feigned: u64,
    /// Units granted to checks, by the backend's own books.
    pub(crate) granted: u64,
    /// Units that reports have added to that.
    pub(crate) reported: i64,
    pub(crate) again: u64,
    pub(crate) told: Sums,
    pub(crate) strange: u64,
}

impl Journal {
    /// Notes a check; where the language has no other word for it, one of units is a report.
    pub(crate) fn note_check(&mut self, check: &Check, units_are_reports: bool) {
        if units_are_reports && check.cost > 0 {
            let units = i64::try_from(check.cost).unwrap_or(i64::MAX);
            let answer = Answer::to(check.fault.as_ref(), None);
            return self.told.note(units, answer);
        }
        self.checks += 1;
        if Class::of(check.fault.as_ref()) == Class::SaysYes {
            self.feigned += check.cost;
        }
    }

    /// Notes a report.
    pub(crate) fn note_report(&mut self, told: &Told) {
        let units = told.units;
        if told.is_counted() && !told.again {
            self.charged += units;
        }
        self.again += u64::from(told.again);
        let answer = Answer::to(told.fault.as_ref(), told.id.as_deref());
        let Some(id) = &told.id else {
            return self.told.note(units, answer);
        };
        let report = Report {
            units,
            answer,
            is_marked: told.unchecked.is_some(),
        };
        let before = self.ids.insert(id.clone(), report);
        self.strange += u64::from(before.is_some_and(|before| before.units != units));
    }

    /// The sums, with what the backend's books say of checks.
    pub(crate) fn charged(&self, granted: u64) -> Charged {
        let mut told = self.told;
        for report in self.ids.values() {
            told.note(report.units, report.answer);
            if report.is_marked {
                told.marked += report.units.unsigned_abs();
            }
        }
        Charged {
            checks: self.checks,
            feigned: self.feigned,
            granted,
            reported: self.charged,
            again: self.again,
            told,
            strange: self.strange,
        }
    }
}

impl Answer {
    /// What a report with such a fault was told.
    fn to(fault: Option<&Fault>, id: Option<&str>) -> Self {
        match (Class::of(fault), fault) {
            (Class::Good | Class::Late | Class::SaysYes, _) => Self::Yes,
            // It is charged, and who has no id will not find out when it comes again.
            (_, Some(Fault::Headers(_))) if id.is_none() => Self::Yes,
            (_, Some(Fault::Status(400..=407 | 409..=424 | 426..=428 | 430..=499))) => Self::No,
            _ => Self::Nothing,
        }
    }
}

impl Sums {
    fn note(&mut self, units: i64, answer: Answer) {
        let size = units.unsigned_abs();
        match (answer, units < 0) {
            (Answer::Nothing, false) => self.nothing_used += size,
            (Answer::Nothing, true) => self.nothing_back += size,
            (Answer::No, false) => self.no_used += size,
            (Answer::No, true) => self.no_back += size,
            (Answer::Yes, false) => self.yes_used += size,
            (Answer::Yes, true) => self.yes_back += size,
        }
        self.yes += u64::from(answer == Answer::Yes);
    }
}
