//! What is settled, and by which terms: an account for each path whose units are added up. The
//! terms follow from the seed and hold for the whole run, so that the books need not ask what was
//! in force when.

use serde_json::{Value, json};

use crate::plugin::Variant;
use crate::traffic::random;

/// Where the units of a path's requests are booked. Backend and policy have the path's name, which
/// is also the descriptor's entry `account`.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) path: &'static str,
    pub(crate) preset: &'static str,
    pub(crate) mode: Settles,
    pub(crate) leases: bool,
}

/// What is told afterwards.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Settles {
    /// The difference to what the check has charged.
    Correct,
    /// Nothing: what is checked is what is used.
    Never,
    /// The whole use.
    Report,
}

/// Every account.
pub(crate) const ACCOUNTS: [Account; 10] = [
    account("/settled", "headers", Settles::Report),
    account("/other-settled", "headers", Settles::Report),
    account("/units-settled", "limitador", Settles::Report),
    account("/hits-settled", "envoy_ratelimit", Settles::Report),
    account("/corrected", "headers", Settles::Correct),
    account("/other-corrected", "headers", Settles::Correct),
    account("/lent", "headers", Settles::Correct).leased(),
    account("/units-lent", "limitador", Settles::Correct).leased(),
    account("/custom-lent", "custom", Settles::Correct).leased(),
    account("/leased", "headers", Settles::Never).leased(),
];

const fn account(path: &'static str, preset: &'static str, mode: Settles) -> Account {
    Account {
        path,
        preset,
        mode,
        leases: false,
    }
}

impl Account {
    const fn leased(self) -> Self {
        Self {
            leases: true,
            ..self
        }
    }

    /// The account of a path.
    pub(crate) fn of(path: &str) -> Option<&'static Self> {
        ACCOUNTS.iter().find(|account| account.path == path)
    }

    /// The account of this name, by its place in the list.
    pub(crate) fn place(name: &str) -> Option<usize> {
        ACCOUNTS.iter().position(|account| account.name() == name)
    }

    /// Its place in the list.
    pub(crate) fn index(&self) -> Option<usize> {
        Self::place(self.name())
    }

    pub(crate) fn name(&self) -> &'static str {
        self.path.trim_start_matches('/')
    }

    /// Whether what it tells has an id by which a second one is known.
    pub(crate) fn has_ids(&self) -> bool {
        self.preset == "headers"
    }

    /// Whether a check charges a cost that the request tells.
    pub(crate) fn charges_ahead(&self) -> bool {
        self.mode != Settles::Report
    }
}

/// The terms of an account.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// What a check charges where the request does not say it.
    pub(crate) estimate: u64,
    /// `None`: the request's cost.
    pub(crate) default: Option<u64>,
    pub(crate) max: u64,
    /// Thousandths of a unit for each that is told.
    pub(crate) times: u64,
    /// Who has no good answer has used the default.
    pub(crate) keeps: bool,
    /// What is let through without a check is left out.
    pub(crate) skips: bool,
    /// What may have been counted is not told again.
    pub(crate) drops: bool,
}

impl Terms {
    /// The terms of all accounts. Half of them have each of the options; but of [`EXACT`] nothing
    /// is left open.
    pub(crate) fn draw(seed: u64) -> [Self; ACCOUNTS.len()] {
        let [keeps, skips, drops] = [1, 2, 3].map(|option| halves(seed, option));
        let mut place = 0;
        ACCOUNTS.each_ref().map(|account| {
            let mut random = random(seed, (place << 8) + 0x20);
            let own = place as usize;
            place += 1;
            let corrects = account.mode == Settles::Correct;
            let default = random.u64(1..=9);
            let settles = account.mode != Settles::Never;
            Self {
                estimate: match (settles, account.charges_ahead(), account.leases) {
                    (false, ..) | (_, false, _) => 1,
                    (.., true) => random.choice([4, 8]).unwrap_or(4),
                    (.., false) => random.choice([5, 15, 30]).unwrap_or(5),
                },
                default: (!corrects || random.bool()).then_some(default),
                max: random.choice([60, 90, 1_000_000]).unwrap_or(60),
                times: random.choice([500, 1000, 1250]).unwrap_or(1000),
                keeps: keeps[own],
                skips: skips[own],
                drops: drops[own] && account.path != EXACT,
            }
        })
    }

    /// The cost of a request that says this.
    pub(crate) fn cost(&self, told: Option<u64>) -> u64 {
        told.unwrap_or(self.estimate).min(COST_MAX)
    }

    /// Units of a response that tells nothing, by its request's cost.
    pub(crate) fn untold(&self, cost: u64) -> u64 {
        self.default.unwrap_or(cost).min(self.max)
    }

    /// Units of a response that tells this.
    pub(crate) fn units(&self, told: u64) -> u64 {
        (told * self.times).div_ceil(1000).min(self.max)
    }

    /// The policy's `settle`.
    pub(crate) fn settle(&self, account: &Account, variant: Variant) -> Value {
        let word = |is: bool, yes: &str, no: &str| json!(if is { yes } else { no });
        let tight = variant == Variant::Tight;
        let correct = account.mode == Settles::Correct;
        let mut settle = json!({
            "usage": [{"header": "x-used", "times": self.times as f64 / 1000.0}],
            "max": self.max,
            "mode": word(correct, "correct", "report"),
            "on_error": word(self.keeps, "keep", "release"),
            "unchecked": word(self.skips, "skip", "report"),
            "if_unknown": word(self.drops, "drop", "retry"),
            "every": word(tight, "20ms", "100ms"),
            "timeout": "100ms",
        });
        if let Some(default) = self.default {
            settle["default"] = json!(default);
        }
        // What can't be taken back is given up after a while, or the run would never end.
        if correct && !account.has_ids() {
            settle["retry_for"] = json!("5s");
        }
        settle
    }

    /// The policy's `lease`.
    pub(crate) fn lease(&self, variant: Variant) -> Value {
        let (units, ttl) = match variant {
            Variant::Tight => (5, "100ms"),
            _ => (50, "500ms"),
        };
        // A batch has to be worth some requests of a key, of which a path has only a few a second.
        let ttl = if self.estimate > 1 && variant != Variant::Tight {
            "2s"
        } else {
            ttl
        };
        json!({"max_units": self.lease_most(units), "ttl": ttl})
    }

    /// The most units that one check asks for.
    pub(crate) fn asks_most(&self, account: &Account) -> u64 {
        if account.leases {
            self.lease_most(50)
        } else {
            COST_MAX
        }
    }

    const fn lease_most(&self, requests: u64) -> u64 {
        self.estimate * requests
    }
}

/// Half of the accounts, drawn anew for each option.
fn halves(seed: u64, option: u64) -> [bool; ACCOUNTS.len()] {
    let mut own = [false; ACCOUNTS.len()];
    for (place, own) in own.iter_mut().enumerate() {
        *own = place % 2 == 0;
    }
    random(seed, (option << 8) + 0x10).shuffle(&mut own);
    own
}

/// Where estimates are corrected and all is known to the unit: each check costs the same, and what
/// is told has an id and is told until it is counted or refused.
pub(crate) const EXACT: &str = "/corrected";

/// No check costs more.
pub(crate) const COST_MAX: u64 = 40;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_is_met_in_every_run() {
        for seed in 0..100 {
            let all = Terms::draw(seed);
            let settling = || {
                let settling = ACCOUNTS.iter().zip(&all);
                settling.filter(|(account, _)| account.mode != Settles::Never)
            };
            let options: [fn(&Terms) -> bool; 3] = [
                |terms| terms.keeps,
                |terms| terms.skips,
                |terms| terms.drops,
            ];
            for option in options {
                assert!(settling().any(|(_, terms)| option(terms)));
                assert!(settling().any(|(_, terms)| !option(terms)));
            }
            let exact = Account::of(EXACT).and_then(Account::index);
            assert!(exact.is_some_and(|place| !all[place].drops));
        }
    }

    #[test]
    fn units_are_told_times_the_factor_rounded_up_and_bounded() {
        let terms = Terms {
            times: 1250,
            max: 60,
            ..Terms::draw(1)[0]
        };
        assert_eq!([0, 1, 4, 100].map(|told| terms.units(told)), [0, 2, 5, 60]);
    }
}
