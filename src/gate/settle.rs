//! What requests really used: from the end of their streams to the backend's books.
//!
//! ```text
//!  admitted ──> open ──its stream ends──> measured ──> lease, as far as it goes
//!                                            │
//!                                            └──> ledger ──every──> report ──counted──> done
//!                                                 (by key)   ▲        │
//!                                                            └─again──┘ no answer
//! ```
//!
//! A request is settled once: at the end of its stream, or right when it is released where its
//! client has left before. What is told goes out on ticks, so it belongs to no stream. A report
//! that may have been counted is never merged with others: it goes out again as it was, under the
//! same id.

mod ledger;
mod sender;
mod tally;
mod telling;
mod usage;

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;

use super::pending::Waiter;
use super::{Ask, CallId, Gate, StreamId};
use crate::config::Policy;
use crate::config::settle::SettleMode;
use crate::decision::{AllowReason, Decision, DenyReason, Outcome};
use crate::descriptor::Key;
use crate::response::{NoResponse, Response};
use crate::sorted::SortedMap;
use crate::time::{Instant, Wall};

use ledger::{Batch, Ledger};
use sender::Sender;
use tally::Tally;
use telling::{Ids, Report};
use usage::Use;

/// The settlements of one worker.
#[derive(Debug)]
pub(super) struct Settlements {
    open: SortedMap<u32, Box<Open>>,
    ledger: Ledger,
    /// Reports that go out again as they were.
    again: Vec<Report>,
    under_way: SortedMap<u64, Box<Report>>,
    senders: Vec<Sender>,
    /// What became of requests since the last tick, by backend.
    tallies: Vec<Tally>,
    ids: Ids,
    /// Batches that wait or are under way, by backend, as the gauge has them.
    told: Vec<i64>,
    /// Units dropped since the log's last line, by backend and why.
    dropped: SortedMap<(usize, &'static str), u64>,
    spoken: Option<Instant>,
}

/// A request that is in progress and will be settled.
#[derive(Debug)]
struct Open {
    policy: Rc<Policy>,
    key: Key,
    /// Its cost, as it was known ahead.
    cost: u64,
    /// What of it has been charged.
    charged: u64,
    /// Why it was let through without a check, if it was.
    unchecked: Option<AllowReason>,
}

impl Settlements {
    /// Nothing to settle yet.
    pub(super) fn new(backends: usize, (entries, bytes): (usize, usize), seed: u64) -> Self {
        Self {
            open: SortedMap::new(),
            ledger: Ledger::new(entries, bytes),
            again: Vec::new(),
            under_way: SortedMap::new(),
            senders: vec![Sender::new(seed); backends],
            tallies: vec![Tally::default(); backends],
            ids: Ids::new(seed),
            told: vec![0; backends],
            dropped: SortedMap::new(),
            spoken: None,
        }
    }

    /// Whether there is nothing to tell, and nothing under way.
    pub(super) const fn is_empty(&self) -> bool {
        self.ledger.is_empty() && self.again.is_empty() && self.under_way.is_empty()
    }

    /// The reports under way that `wants` agrees to.
    fn under_way_where(&self, wants: &dyn Fn(&Report) -> bool) -> Vec<CallId> {
        let reports = self.under_way.iter();
        let wanted = reports.filter(|(_, report)| wants(report));
        wanted.map(|(id, _)| CallId(*id)).collect()
    }

    /// Batches and reports that wait or are under way.
    fn batches(&self) -> impl Iterator<Item = &Batch> {
        let again = self.again.iter().map(|report| &report.batch);
        let under_way = self.under_way.values().map(|report| &report.batch);
        self.ledger.batches().chain(again).chain(under_way)
    }
}

impl Gate {
    /// Notes that a request goes on that will be settled, if its policy settles at all. Where
    /// several share one check, `charged` is said of the one that made it.
    pub(super) fn open_settlement(
        &mut self,
        stream: StreamId,
        ask: Ask,
        decision: &Decision,
        charged: bool,
    ) {
        if ask.policy.settle.is_some()
            && let Some(open) = opened(ask, decision, charged)
        {
            self.settlements.open.insert(stream.0, Box::new(open));
        }
    }

    /// Settles a request whose client has left before it could go on.
    pub(super) fn settle_gone(
        &mut self,
        now: Instant,
        waiter: Waiter,
        decision: &Decision,
        charged: bool,
    ) {
        if waiter.ask.policy.settle.is_some()
            && let Some(open) = opened(waiter.ask, decision, charged)
        {
            self.settle(now, open, &NoResponse);
        }
    }

    /// Takes back what a check has charged that nobody waited for any more.
    pub(super) fn settle_unclaimed(
        &mut self,
        now: Instant,
        policy: &Rc<Policy>,
        key: &Key,
        cost: u64,
    ) {
        if is_charged_ahead(policy) {
            self.enter(Batch {
                policy: Rc::clone(policy),
                key: key.clone(),
                unchecked: None,
                units: signed(cost).saturating_neg(),
                requests: 0,
                since: now,
            });
        }
    }

    /// Whether a stream's end is of interest: asked before a response is looked at.
    #[must_use]
    pub fn settles(&self, stream: StreamId) -> bool {
        !self.settlements.open.is_empty() && self.settlements.open.get(&stream.0).is_some()
    }

    /// Takes the end of a stream: what its response tells is what the request used.
    pub fn handle_log(&mut self, wall: Wall, stream: StreamId, response: &dyn Response) {
        if let Some(open) = self.settlements.open.remove(&stream.0) {
            let now = self.clock.read(wall);
            self.settle(now, *open, response);
        }
    }

    /// A stream that is over without having been told so: nobody will say what it used.
    pub(super) fn settle_closed(&mut self, stream: StreamId) {
        if self.settles(stream)
            && let Some(open) = self.settlements.open.remove(&stream.0)
        {
            self.settle(self.clock.last(), *open, &NoResponse);
        }
    }

    /// Whether everything that was used has been told.
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        self.settlements.is_empty()
    }

    fn settle(&mut self, now: Instant, open: Open, response: &dyn Response) {
        let Some(terms) = open.policy.settle.clone() else {
            return;
        };
        let Some(tally) = self.settlements.tallies.get_mut(open.policy.backend) else {
            return;
        };
        if open.unchecked.is_some() && terms.skips_unchecked {
            return count(&mut tally.skipped, 1);
        }
        let default = terms.default.unwrap_or(open.cost).min(terms.max);
        let (used, how) = match usage::measure(&terms, response) {
            Use::Told(units) => (units, &mut tally.measured),
            Use::Untold => (default, &mut tally.default),
            Use::Failed if terms.keeps_on_error => (default, &mut tally.kept),
            Use::Failed => (0, &mut tally.released),
        };
        count(how, 1);
        let mut units = signed(used).saturating_sub(signed(open.charged));
        if let (Some(lease), None) = (&open.policy.lease, open.unchecked) {
            let key = open.key.as_bytes();
            let size = units.unsigned_abs();
            if units > 0 {
                let paid = signed(self.leases.debit(now, key, size));
                count(&mut tally.leased, paid);
                units = units.saturating_sub(paid);
            } else if units < 0 {
                let returned = signed(self.leases.give_back(now, key, size, lease));
                count(&mut tally.returned, returned);
                units = units.saturating_add(returned);
            }
        }
        if units != 0 {
            self.enter(Batch {
                policy: open.policy,
                key: open.key,
                unchecked: open.unchecked,
                units,
                requests: 1,
                since: now,
            });
        }
    }

    fn enter(&mut self, batch: Batch) {
        if let Some(dropped) = self.settlements.ledger.add(batch) {
            self.drop_batch(&dropped, "full");
        }
    }
}

/// What is to be settled of a request, if it goes on at all.
fn opened(ask: Ask, decision: &Decision, charged: bool) -> Option<Open> {
    let (charges, unchecked) = match decision.outcome {
        Outcome::Deny(_) | Outcome::Allow(AllowReason::Bypassed) => return None,
        Outcome::Allow(AllowReason::Leased | AllowReason::WithinQuota) => (charged, None),
        Outcome::Allow(AllowReason::Cached) => (false, None),
        Outcome::Allow(AllowReason::Shadow) => match decision.shadowed {
            Some(DenyReason::LocalExceeded | DenyReason::QuotaUnavailable) => {
                (false, Some(AllowReason::Shadow))
            }
            Some(
                DenyReason::DescriptorMissing | DenyReason::KeyRejected | DenyReason::QuotaExceeded,
            )
            | None => (false, None),
        },
        Outcome::Allow(
            reason @ (AllowReason::Emergency
            | AllowReason::FailedLocal
            | AllowReason::FailedOpen
            | AllowReason::Stale),
        ) => (false, Some(reason)),
    };
    let charges = charges && is_charged_ahead(&ask.policy);
    Some(Open {
        charged: if charges { ask.cost } else { 0 },
        cost: ask.cost,
        unchecked,
        policy: ask.policy,
        key: ask.descriptor.into_key(),
    })
}

/// Whether a request's cost is charged before its use is known.
fn is_charged_ahead(policy: &Policy) -> bool {
    let terms = policy.settle.as_deref();
    terms.is_some_and(|terms| terms.mode == SettleMode::Correct)
}

fn count(sum: &mut i64, more: i64) {
    *sum = sum.saturating_add(more);
}

fn signed(units: u64) -> i64 {
    i64::try_from(units).unwrap_or(i64::MAX)
}
