//! What the access log and the plan say of an account: what its requests have used, and what their
//! checks have charged.

use std::time::Duration;

use quota_gate::decision::{AllowReason, CheckError, Outcome as Decided};

use crate::judge::{Delays, TIMER};
use crate::ledger::Record;
use crate::plan::Class;
use crate::terms::{Account, Settles, Terms};
use crate::traffic::Planned;

/// The sums of an account.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Known {
    /// Requests whose response said what they have used.
    pub(crate) measured: u64,
    /// Requests with a good response that did not.
    pub(crate) default: u64,
    /// What all of these have used.
    pub(crate) units: u64,
    /// Requests without a good response, and what they have used if the policy keeps that.
    pub(crate) failed: u64,
    pub(crate) failed_units: u64,
    /// Requests that were let through without a check, as far as they are settled, and what they
    /// have used.
    pub(crate) unchecked: u64,
    pub(crate) unchecked_units: u64,
    /// Requests without a key that an emergency let through: there is nobody to charge.
    pub(crate) keyless: u64,
    /// Requests within the quota, and what their checks have charged.
    pub(crate) within: u64,
    pub(crate) within_units: u64,
    /// Requests that a lease has paid, and how much that was.
    pub(crate) leased: u64,
    pub(crate) leased_units: u64,
    /// Of requests whose check may have been answered after they had been released: how many units
    /// these checks have charged, and how many above and below the estimate.
    pub(crate) late_units: u64,
    pub(crate) late_above: u64,
    pub(crate) late_below: u64,
}

impl Known {
    /// Notes a request of the account.
    pub(crate) fn note(
        &mut self,
        account: &Account,
        terms: &Terms,
        planned: &Planned,
        record: &Record,
        delays: &Delays,
    ) {
        let cost = terms.cost(planned.cost);
        if may_be_late(planned, record, delays) {
            self.late_units += cost;
            self.late_above += cost.saturating_sub(terms.estimate);
            self.late_below += terms.estimate.saturating_sub(cost);
        }
        let Some(Decided::Allow(reason)) = record.logged.decision else {
            // Who left while its check was pending has no response, and is counted elsewhere.
            return;
        };
        let unchecked = match reason {
            AllowReason::Bypassed => return,
            AllowReason::Emergency if !planned.who.has_key() => {
                self.keyless += 1;
                return;
            }
            AllowReason::WithinQuota => {
                self.within += 1;
                self.within_units += cost;
                false
            }
            AllowReason::Leased => {
                self.leased += 1;
                self.leased_units += cost;
                false
            }
            _ => true,
        };
        if account.mode == Settles::Never || (unchecked && terms.skips) {
            return;
        }
        let default = terms.untold(cost);
        let units = match record.logged.used {
            Some(used) => {
                self.measured += 1;
                terms.units(used)
            }
            None if (1..400).contains(&record.logged.status) => {
                self.default += 1;
                default
            }
            None => {
                self.failed += 1;
                self.failed_units += default;
                0
            }
        };
        self.units += units;
        if unchecked {
            let failed = record.logged.used.is_none() && units == 0 && terms.keeps;
            self.unchecked += 1;
            self.unchecked_units += if failed { default } else { units };
        }
    }
}

/// Whether a check's yes may have come when its request was over: within the time of the call, and
/// after the request's deadline. These are the same but for the client's own deadline and for
/// what the machine takes.
fn may_be_late(planned: &Planned, record: &Record, delays: &Delays) -> bool {
    let yes = matches!(record.answered, Class::Good | Class::Late | Class::SaysYes);
    if record.checks == 0 || !yes {
        return false;
    }
    let slow = record.delay + delays.near(record.sent, record.done) + TIMER + CLOCK;
    match (record.logged.decision, record.logged.cause) {
        (_, Some(CheckError::Timeout)) if planned.own_deadline_ms.is_some() => true,
        // It came in time, but the machine was busy; or it was late, and so was the timer.
        (_, Some(CheckError::Timeout)) => {
            let call = Duration::from_millis(planned.kind.timeout_ms);
            record.delay < call || slow >= call.saturating_mul(2).saturating_sub(record.delay)
        }
        (None, _) => slow >= Duration::from_millis(planned.budget_ms()),
        _ => false,
    }
}

/// The clock of the proxy's loop is behind by up to this.
const CLOCK: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::ledger::Logged;
    use crate::terms::ACCOUNTS;

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
            delay: Duration::ZERO,
        }
    }

    fn terms() -> Terms {
        Terms {
            estimate: 5,
            default: Some(3),
            max: 100,
            times: 1000,
            keeps: false,
            skips: false,
            drops: false,
        }
    }

    fn note(terms: &Terms, reason: AllowReason, status: u64, used: Option<u64>) -> Known {
        let mut all = (0..).map(|number| Planned::new(1, number));
        let fits = |planned: &Planned| {
            planned.kind.path == ACCOUNTS[0].path && planned.who.has_key() && planned.cost.is_none()
        };
        let planned = all.find(fits).expect("one of the first thousands");
        let mut known = Known::default();
        let (record, delays) = (record(reason, status, used), Delays::new(Instant::now()));
        known.note(&ACCOUNTS[0], terms, &planned, &record, &delays);
        known
    }

    #[test]
    fn a_request_has_used_what_its_response_tells_or_the_default_if_that_is_good() {
        let note = |reason, status, used| {
            let known = note(&terms(), reason, status, used);
            (known.measured, known.default, known.units)
        };
        let checked = AllowReason::WithinQuota;
        assert_eq!(note(checked, 200, Some(7)), (1, 0, 7));
        assert_eq!(note(checked, 503, Some(7)), (1, 0, 7));
        assert_eq!(note(checked, 200, Some(700)), (1, 0, 100));
        assert_eq!(note(checked, 200, None), (0, 1, 3));
        assert_eq!(note(checked, 503, None), (0, 0, 0));
        assert_eq!(note(checked, 0, None), (0, 0, 0));
        assert_eq!(note(AllowReason::Emergency, 200, Some(7)), (1, 0, 7));
        assert_eq!(note(AllowReason::Bypassed, 200, Some(7)), (0, 0, 0));
    }

    #[test]
    fn without_a_good_response_it_has_used_the_default_or_its_cost_if_that_is_kept() {
        let checked = AllowReason::WithinQuota;
        let kept = note(&terms(), checked, 503, None);
        assert_eq!((kept.failed, kept.failed_units), (1, 3));
        let by_cost = Terms {
            default: None,
            ..terms()
        };
        assert_eq!(note(&by_cost, checked, 0, None).failed_units, 5);
    }

    #[test]
    fn what_was_not_checked_is_left_out_where_the_terms_say_so() {
        let skips = Terms {
            skips: true,
            ..terms()
        };
        let used = |terms, reason| note(terms, reason, 200, Some(7)).units;
        assert_eq!(used(&skips, AllowReason::FailedOpen), 0);
        assert_eq!(used(&skips, AllowReason::WithinQuota), 7);
        assert_eq!(used(&terms(), AllowReason::FailedOpen), 7);
    }
}
