//! What was used is charged, or said to be lost: the books of the gate against what responses have
//! told, and the backends' own against those of the gate.
//!
//! Of each account, to the unit:
//!
//! ```text
//! used             = charged ahead − returned to a lease + paid by one
//!                    + told and confirmed, with its sign + dropped, with its sign
//! told             = what the backend has said yes to, by each report's last answer
//! charged by checks = charged ahead, as the gate has heard + granted unheard − feigned
//! ```
//!
//! and of all leases together: granted + returned = spent + expired.

mod balance;
mod book;
mod counted;
mod journal;
mod known;

use std::fmt;
use std::time::Duration;

use envoy_harness::Backend;
use envoy_harness::eventually::within;

use crate::director::Stage;
use crate::judge::Delays;
use crate::ledger::Ledger;
use crate::terms::{ACCOUNTS, Account, Terms};
use crate::traffic::Planned;

use book::Book;
use counted::{Counters, Leased};
pub(crate) use journal::Journal;
use known::Known;

/// The books of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Books {
    accounts: Vec<Book>,
    leases: Leased,
}

/// The books, once they agree, and where they do not.
pub(crate) fn close(
    stage: &Stage,
    ledger: &Ledger,
    delays: &Delays,
    seed: u64,
) -> (Books, Vec<String>) {
    let terms = Terms::draw(seed);
    let mut known = [Known::default(); ACCOUNTS.len()];
    for (number, record) in ledger.records() {
        let planned = Planned::new(seed, number);
        if let Some(place) = planned.kind.account().and_then(Account::index) {
            known[place].note(&ACCOUNTS[place], &terms[place], &planned, record, delays);
        }
    }
    let granted = granted(&stage.backends);
    let look = || {
        let counters = Counters::new(&stage.rig.envoy().counters());
        let book = |(place, account): (usize, &'static Account)| Book {
            account,
            terms: terms[place],
            known: known[place],
            gate: counters.of(account),
            backend: ledger.journals[place].charged(granted[place]),
        };
        Books {
            accounts: ACCOUNTS.iter().enumerate().map(book).collect(),
            leases: counters.leases(),
        }
    };
    let agree = || {
        let books = look();
        books.findings().is_empty().then_some(books)
    };
    // Counters come a tick after what they count, and leases expire.
    let books = within(PATIENCE, agree).unwrap_or_else(look);
    let findings = books.findings();
    (books, findings)
}

/// Units granted to checks, by account.
fn granted(backends: &[Backend]) -> [u64; ACCOUNTS.len()] {
    let mut granted = [0; ACCOUNTS.len()];
    for (descriptor, units) in backends.iter().flat_map(Backend::granted) {
        let name = descriptor
            .split('&')
            .find_map(|entry| entry.strip_prefix("account="));
        if let Some(place) = name.and_then(Account::place) {
            granted[place] += units;
        }
    }
    granted
}

impl Books {
    fn findings(&self) -> Vec<String> {
        let all = self.accounts.iter().flat_map(Book::findings);
        all.chain(self.lease_findings()).collect()
    }

    /// Of all leases together: the gate counts their units without a backend.
    fn lease_findings(&self) -> Vec<String> {
        let own = || self.accounts.iter().filter(|book| book.account.leases);
        let sum = |of: fn(&Book) -> i64| own().map(of).sum::<i64>();
        let leases = self.leases;
        let (granted, returned) = (signed(leases.granted), signed(leases.returned));
        let (spent, expired) = (signed(leases.spent), signed(leases.expired));
        let charged = sum(Book::ahead);
        let paid = sum(|book| signed(book.gate.leased));
        let sure = sum(|book| signed(book.known.leased_units));
        let maybe = sum(|book| signed(book.known.within_units) + book.gone());
        let late = sum(|book| signed(book.known.late_units));
        let heard = charged + paid - returned + expired;
        let unheard = sum(Book::yes_units) - heard;
        let mut findings = Vec::new();
        let mut must = |holds: bool, else_: &str| {
            if !holds {
                findings.push(format!(
                    "leases: {else_}: {leases:?}, {heard} heard, {unheard} not"
                ));
            }
        };
        must(
            granted + returned == spent + expired,
            "what was granted is not spent, expired or held",
        );
        must(
            returned == sum(|book| signed(book.gate.returned)),
            "what went back to them is not what came back",
        );
        must(
            (sure + paid..=sure + paid + maybe).contains(&spent),
            "what they have spent is not what they have paid",
        );
        must(unheard >= 0, "more is held and spent than was granted");
        must(
            unheard <= sum(Book::unheard_most) + late,
            "what was granted is neither spent nor expired",
        );
        findings
    }
}

impl fmt::Display for Books {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for book in &self.accounts {
            writeln!(f, "  {book}")?;
        }
        let Leased {
            granted,
            returned,
            spent,
            expired,
        } = self.leases;
        write!(
            f,
            "  leases: {granted} units granted, {spent} spent, {returned} came back, \
             {expired} expired"
        )
    }
}

fn signed(units: u64) -> i64 {
    i64::try_from(units).unwrap_or(i64::MAX)
}

/// The longest lease, the time that its place takes to be swept, and time to spare.
const PATIENCE: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    /// 100 units granted to checks, 20 of which went unheard: 50 paid for requests at once, 10 lie
    /// in no lease any more, the rest was leased and spent, and 5 of that came back.
    fn books() -> Books {
        let account = Account::of("/lent").expect("an account");
        let mut book = Book {
            account,
            terms: Terms::draw(1)[account.index().expect("its place")],
            known: Known::default(),
            gate: counted::Counted::default(),
            backend: journal::Charged::default(),
        };
        book.known.within = 5;
        book.known.within_units = 50;
        book.known.leased = 2;
        book.known.leased_units = 20;
        book.gate.within = 5;
        book.gate.leased_requests = 2;
        book.gate.leased = 5;
        book.gate.returned = 5;
        book.backend.checks = 8;
        book.gate.answered = 7;
        book.backend.granted = 100;
        Books {
            accounts: vec![book],
            leases: Leased {
                granted: 60,
                returned: 5,
                spent: 55,
                expired: 10,
            },
        }
    }

    #[track_caller]
    fn expect(change: fn(&mut Books), finding: &str) {
        let mut books = books();
        assert_eq!(books.lease_findings(), Vec::<String>::new());
        change(&mut books);
        let findings = books.lease_findings();
        let found = |own: &String| own.contains(finding);
        assert!(findings.iter().any(found), "{findings:?}");
    }

    #[test]
    fn a_unit_of_a_lease_that_is_neither_spent_nor_expired_is_found() {
        let held = "what was granted is not spent, expired or held";
        expect(|books| books.leases.expired = 9, held);
        expect(|books| books.leases.granted = 61, held);
        let returned = "what went back to them is not what came back";
        expect(|books| books.accounts[0].gate.returned = 4, returned);
        let spent = "what they have spent is not what they have paid";
        expect(|books| books.leases.spent = 24, spent);
        expect(|books| books.leases.spent = 76, spent);
    }

    #[test]
    fn what_leases_hold_is_what_backends_have_granted() {
        let more = "more is held and spent than was granted";
        expect(|books| books.accounts[0].backend.granted = 79, more);
        let less = "what was granted is neither spent nor expired";
        expect(|books| books.accounts[0].backend.checks = 7, less);
    }
}
