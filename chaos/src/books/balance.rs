//! What must hold of the book of one account, to the unit.

use super::book::Book;
use super::signed;
use crate::terms::Settles;

impl Book {
    /// What does not add up.
    pub(super) fn findings(&self) -> Vec<String> {
        let mut findings = Vec::new();
        let mut must = |holds: bool, else_: &str| {
            if !holds {
                let name = self.account.name();
                findings.push(format!("books of {name}: {else_}: {self:?}"));
            }
        };
        if self.account.mode == Settles::Never {
            return findings;
        }
        self.settled_once(&mut must);
        let off = self.off();
        must(
            self.leeway().contains(&off),
            &format!("what was used is {off} units off what is charged or said to be lost"),
        );
        if self.account.has_ids() {
            self.told_by_id(&mut must);
        } else {
            self.told_without_id(&mut must);
        }
        must(
            self.backend.strange == 0,
            "two things are told under one id",
        );
        if self.account.mode == Settles::Correct && !self.account.leases {
            let unheard = self.yes_units() - self.ahead() - self.unclaimed();
            let (below, above) = self.unclaimed_off();
            must(self.gate.within <= self.gate.allowed, "a yes counts twice");
            must(
                unheard >= below,
                "more is taken for charged than was granted",
            );
            must(
                unheard <= self.unheard_most() + above,
                "what was charged is not taken for charged",
            );
        }
        findings
    }

    /// Each request that was let through is settled once, in the way that its response tells.
    fn settled_once(&self, must: &mut dyn FnMut(bool, &str)) {
        let Self { known, gate, .. } = self;
        let settled = gate.measured + gate.default + gate.kept + gate.released + gate.skipped;
        must(
            settled + known.keyless == gate.passed,
            "not each request that was let through is settled once",
        );
        must(
            (gate.measured, gate.default) == (known.measured, known.default),
            "what responses told is not what was measured",
        );
        let (failed, other) = match self.terms.keeps {
            true => (gate.kept, gate.released),
            false => (gate.released, gate.kept),
        };
        must(
            failed >= known.failed && other == 0,
            "who had no good answer is not settled as the policy says",
        );
        let skipped = match self.terms.skips {
            true => gate.skipped + known.keyless == gate.unchecked,
            false => gate.skipped == 0,
        };
        must(
            skipped,
            "what was not checked is not left out as the policy says",
        );
    }

    /// What is told and confirmed is what the backend has said yes to. A report that is given up
    /// may have been counted.
    fn told_by_id(&self, must: &mut dyn FnMut(bool, &str)) {
        let (gate, told) = (&self.gate, &self.backend.told);
        let lost = gate.dropped.lost();
        must(
            (0..=signed(lost)).contains(&self.unseen()),
            "not each report that has come is told or dropped",
        );
        must(
            !self.terms.drops || self.backend.again == 0,
            "something is told twice, in spite of `if_unknown: drop`",
        );
        let marked = signed(told.marked) - self.unchecked();
        must(
            (-signed(lost)..=0).contains(&marked),
            "what was not checked is not told as such",
        );
        let mut within = |gate: u64, backend: u64, what: &str| {
            must((gate..=gate + lost).contains(&backend), what);
        };
        within(
            gate.reported,
            told.yes_used,
            "what is told as used is not what the backend has taken",
        );
        within(
            gate.taken_back,
            told.yes_back,
            "what is told as taken back is not what the backend has taken",
        );
        within(
            gate.dropped.refused,
            told.no_used + told.no_back,
            "what is told as refused is not what the backend has refused",
        );
    }

    /// Without an id nobody knows a second report; each that has a yes is charged.
    fn told_without_id(&self, must: &mut dyn FnMut(bool, &str)) {
        let (gate, told) = (&self.gate, &self.backend.told);
        must(
            told.yes_back == 0 && gate.taken_back == 0,
            "something is taken back of a backend that can't",
        );
        must(
            gate.reported <= told.yes_used,
            "what is told as charged is not charged",
        );
        must(
            gate.dropped.refused <= told.no_used,
            "what is told as refused is not refused",
        );
        let twice = told.yes_used.saturating_sub(gate.reported);
        must(
            !self.terms.drops || twice <= gate.dropped.lost(),
            "something is charged twice, in spite of `if_unknown: drop`",
        );
        must(
            (gate.told..=gate.told + gate.unknown).contains(&told.yes),
            "more reports are charged than can have been told again",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::counted::{Counted, Dropped};
    use super::super::journal::{Charged, Sums};
    use super::super::known::Known;
    use super::*;
    use crate::terms::{Account, EXACT, Terms};

    fn book(path: &str, drops: bool) -> Book {
        Book {
            account: Account::of(path).expect("an account"),
            terms: Terms {
                estimate: 5,
                default: Some(3),
                max: 100,
                times: 1000,
                keeps: false,
                skips: false,
                drops,
            },
            known: Known {
                measured: 5,
                default: 2,
                units: 60,
                failed: 1,
                failed_units: 3,
                unchecked: 2,
                unchecked_units: 9,
                keyless: 1,
                within: 6,
                within_units: 30,
                ..Known::default()
            },
            // One client was gone before its check had an answer, and for one check nobody waited.
            gate: Counted {
                passed: 10,
                unchecked: 3,
                within: 7,
                allowed: 8,
                answered: 11,
                measured: 5,
                default: 2,
                released: 2,
                ..Counted::default()
            },
            backend: Charged {
                checks: 12,
                ..Charged::default()
            },
        }
    }

    /// 60 units used, 40 charged ahead: 32 more are told, 10 taken back, and 2 should have been.
    fn corrected() -> Book {
        let mut book = book(EXACT, false);
        book.gate.reported = 32;
        book.gate.taken_back = 10;
        book.gate.dropped.refused = 2;
        book.backend.told = Sums {
            yes_used: 32,
            yes_back: 10,
            no_back: 2,
            marked: 9,
            ..Sums::default()
        };
        // One yes was not heard, another was one by mistake.
        book.backend.granted = 38;
        book.backend.feigned = 7;
        book
    }

    /// 60 units used: 50 are told, of 10 more nobody knows.
    fn reported() -> Book {
        let mut book = book("/units-settled", true);
        book.gate.reported = 50;
        book.gate.told = 3;
        book.gate.unknown = 1;
        book.gate.dropped = Dropped {
            unknown: 10,
            ..Dropped::default()
        };
        book.backend.told = Sums {
            yes: 4,
            yes_used: 57,
            ..Sums::default()
        };
        book
    }

    #[track_caller]
    fn expect(book: fn() -> Book, change: fn(&mut Book), finding: &str) {
        let mut book = book();
        assert_eq!(book.findings(), Vec::<String>::new());
        change(&mut book);
        let findings = book.findings();
        let found = |own: &String| own.contains(finding);
        assert!(findings.iter().any(found), "{findings:?}");
    }

    #[test]
    fn whoever_is_not_settled_as_the_terms_say_is_found() {
        let once = "not each request that was let through is settled once";
        expect(corrected, |book| book.gate.released = 1, once);
        expect(corrected, |book| book.gate.released = 3, once);
        let measured = "what responses told is not what was measured";
        expect(corrected, |book| book.gate.measured = 4, measured);
        expect(corrected, |book| book.gate.default = 3, measured);
        let failed = "who had no good answer is not settled as the policy says";
        expect(corrected, |book| book.gate.kept = 1, failed);
        let skipped = "what was not checked is not left out as the policy says";
        expect(corrected, |book| book.gate.skipped = 1, skipped);
        expect(corrected, |book| book.terms.skips = true, skipped);
    }

    #[test]
    fn a_unit_that_is_neither_charged_nor_said_to_be_lost_is_found() {
        expect(corrected, |book| book.known.units += 1, "is 1 units off");
        expect(corrected, |book| book.known.units -= 1, "is -1 units off");
        expect(corrected, |book| book.gate.allowed += 1, "is -5 units off");
        expect(corrected, |book| book.gate.leased = 2, "is -2 units off");
        expect(corrected, |book| book.gate.returned = 2, "is 2 units off");
        expect(reported, |book| book.gate.reported -= 1, "is 1 units off");
    }

    #[test]
    fn what_is_told_is_held_against_the_backends_journal() {
        let used = "what is told as used is not what the backend has taken";
        expect(corrected, |book| book.gate.reported = 33, used);
        expect(corrected, |book| book.backend.told.yes_used = 33, used);
        let back = "what is told as taken back is not what the backend has taken";
        expect(corrected, |book| book.gate.taken_back = 9, back);
        let refused = "what is told as refused is not what the backend has refused";
        expect(corrected, |book| book.backend.told.no_used = 1, refused);
        let arrived = "not each report that has come is told or dropped";
        expect(
            corrected,
            |book| book.backend.told.nothing_used = 1,
            arrived,
        );
        let marked = "what was not checked is not told as such";
        expect(corrected, |book| book.backend.told.marked = 8, marked);
        expect(corrected, |book| book.backend.told.marked = 10, marked);
        let strange = "two things are told under one id";
        expect(corrected, |book| book.backend.strange = 1, strange);
    }

    #[test]
    fn without_ids_what_is_charged_twice_is_found() {
        let twice = "something is charged twice";
        expect(reported, |book| book.backend.told.yes_used = 61, twice);
        let again = "more reports are charged than can have been told again";
        expect(reported, |book| book.backend.told.yes = 5, again);
        let less = "what is told as charged is not charged";
        expect(reported, |book| book.backend.told.yes_used = 49, less);
        let back = "something is taken back of a backend that can't";
        expect(reported, |book| book.gate.taken_back = 1, back);
    }

    #[test]
    fn what_checks_have_charged_is_what_the_gate_takes_for_charged() {
        let more = "more is taken for charged than was granted";
        expect(corrected, |book| book.backend.granted = 32, more);
        let less = "what was charged is not taken for charged";
        expect(corrected, |book| book.backend.granted = 74, less);
        expect(
            corrected,
            |book| book.gate.allowed = 6,
            "a yes counts twice",
        );
    }
}
