//! The book of one account: what has been used of it, what charged, told and lost.

use std::fmt;
use std::ops::RangeInclusive;

use super::counted::Counted;
use super::journal::{Charged, Sums};
use super::known::Known;
use super::signed;
use crate::terms::{Account, COST_MAX, Settles, Terms};

/// What is known of one account.
#[derive(Clone, Copy, Debug)]
pub(super) struct Book {
    pub(super) account: &'static Account,
    pub(super) terms: Terms,
    /// What others say.
    pub(super) known: Known,
    /// What the gate has counted.
    pub(super) gate: Counted,
    /// What the backend says.
    pub(super) backend: Charged,
}

impl Book {
    /// What has been used, to the unit.
    pub(super) fn used(&self) -> i64 {
        let Self {
            known, gate, terms, ..
        } = self;
        let gone = gate.kept.saturating_sub(known.failed);
        let default = terms.untold(terms.cost(None));
        let kept = match terms.keeps {
            true => known.failed_units + gone * default,
            false => 0,
        };
        signed(known.units + kept)
    }

    /// What has been used without a check.
    pub(super) fn unchecked(&self) -> i64 {
        let Self {
            known, gate, terms, ..
        } = self;
        let gone = match terms.keeps && !terms.skips {
            true => gate
                .unchecked
                .saturating_sub(known.keyless + known.unchecked),
            false => 0,
        };
        let default = terms.untold(terms.cost(None));
        signed(known.unchecked_units + gone * default)
    }

    /// What requests have been charged before their use was known, as far as the gate has heard.
    pub(super) fn ahead(&self) -> i64 {
        match self.account.mode {
            Settles::Report => 0,
            Settles::Correct | Settles::Never => {
                let Known {
                    within_units,
                    leased_units,
                    ..
                } = self.known;
                signed(within_units + leased_units) + self.gone()
            }
        }
    }

    /// The same of requests whose client had left; each of them costs the same.
    pub(super) fn gone(&self) -> i64 {
        let Self { known, gate, .. } = self;
        let all = signed(gate.within + gate.leased_requests);
        (all - signed(known.within + known.leased)) * signed(self.terms.cost(None))
    }

    /// What checks have charged that nobody waited for any more, which is taken back: how often is
    /// known where there is no lease, how much as far as they have cost the same.
    pub(super) fn unclaimed(&self) -> i64 {
        match (self.account.mode, self.account.leases) {
            (Settles::Correct, false) => {
                let calls = signed(self.gate.allowed) - signed(self.gate.within);
                calls * signed(self.terms.cost(None))
            }
            _ => 0,
        }
    }

    /// By how much that may be too little and too much.
    pub(super) fn unclaimed_off(&self) -> (i64, i64) {
        let known = &self.known;
        match (self.account.mode, self.account.leases) {
            (Settles::Report, _) => (0, 0),
            (_, true) => (0, signed(known.late_units)),
            (_, false) => (-signed(known.late_below), signed(known.late_above)),
        }
    }

    /// How much more has been used than is charged, or said to be lost.
    pub(super) fn off(&self) -> i64 {
        let gate = &self.gate;
        let told = signed(gate.reported) - signed(gate.taken_back) + self.dropped();
        let lease = signed(gate.leased) - signed(gate.returned);
        self.used() - self.ahead() - self.unclaimed() - lease - told
    }

    /// Whether units can be told that are below 0.
    pub(super) fn takes_back(&self) -> bool {
        self.account.mode == Settles::Correct && self.account.has_ids()
    }

    /// What is dropped, with its sign: that of what a backend has seen is known.
    pub(super) fn dropped(&self) -> i64 {
        let (gate, told) = (&self.gate, &self.backend.told);
        match (self.account.mode, self.takes_back()) {
            (Settles::Correct, true) => {
                let used = told.yes_used + told.no_used + told.nothing_used;
                let back = told.yes_back + told.no_back + told.nothing_back;
                let confirmed = signed(gate.reported) - signed(gate.taken_back);
                signed(used) - signed(back) - confirmed
            }
            (Settles::Correct, false) => {
                signed(gate.dropped.sum()) - 2 * signed(gate.dropped.not_taken_back)
            }
            _ => signed(gate.dropped.sum()),
        }
    }

    /// Units told with an id, or dropped, that no backend has seen. Nobody knows whether they were
    /// used or the opposite.
    pub(super) fn unseen(&self) -> i64 {
        let (gate, told) = (&self.gate, &self.backend.told);
        let used = told.yes_used + told.no_used + told.nothing_used;
        let back = told.yes_back + told.no_back + told.nothing_back;
        signed(gate.reported + gate.taken_back + gate.dropped.sum()) - signed(used + back)
    }

    /// How much that may be: of what no backend has seen the sign is not known, and not every check
    /// that was answered too late can be told from one that was not answered.
    pub(super) fn leeway(&self) -> RangeInclusive<i64> {
        let dropped = &self.gate.dropped;
        let unsigned = match (self.account.mode, self.takes_back()) {
            (Settles::Correct, true) => self.unseen(),
            (Settles::Correct, false) => signed(dropped.full + dropped.ended),
            _ => 0,
        };
        let (below, above) = self.unclaimed_off();
        below - unsigned..=above + unsigned
    }

    /// Units that the backend has said yes to when it was asked.
    pub(super) fn yes_units(&self) -> i64 {
        signed(self.backend.granted + self.backend.feigned)
    }

    /// The most units that the backend can have granted without being heard.
    pub(super) fn unheard_most(&self) -> i64 {
        let calls = self.backend.checks.saturating_sub(self.gate.answered);
        let most = match self.account.leases {
            true => self.terms.asks_most(self.account),
            false => COST_MAX,
        };
        signed(calls * most)
    }
}

impl fmt::Display for Book {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            account,
            terms,
            gate,
            backend,
            ..
        } = self;
        write!(f, "{} ({}", account.name(), account.preset)?;
        let words = [
            (account.leases, ", lease"),
            (account.mode == Settles::Correct, ", correct"),
            (account.mode == Settles::Report, ", report"),
            (terms.keeps, ", keep"),
            (terms.skips, ", skip"),
            (terms.drops, ", drop"),
        ];
        for (_, word) in words.iter().filter(|(is, _)| *is) {
            f.write_str(word)?;
        }
        let Sums { yes, .. } = backend.told;
        let charged = signed(backend.granted) + backend.reported;
        if account.mode == Settles::Never {
            let (granted, passed) = (backend.granted, gate.passed);
            return write!(f, "): {passed} requests passed, {granted} units charged");
        }
        let leeway = self.leeway();
        write!(f, "): {} requests used {} units", gate.passed, self.used())?;
        if account.mode == Settles::Correct {
            let (ahead, gone) = (self.ahead() + self.unclaimed(), self.unclaimed());
            write!(f, ", {ahead} charged ahead, {gone} of that for nobody")?;
        }
        if account.leases {
            write!(
                f,
                ", a lease paid {} and got {}",
                gate.leased, gate.returned
            )?;
        }
        write!(
            f,
            ", {} told, {} taken back, {}: {} off{}; the backend has charged {charged}, \
             {yes} reports had a yes, {} came again",
            gate.reported,
            gate.taken_back,
            gate.dropped,
            self.off(),
            match leeway.start() == leeway.end() {
                true => String::new(),
                false => format!(" ({} to {} are open)", leeway.start(), leeway.end()),
            },
            backend.again,
        )
    }
}
