//! Units that a backend granted ahead of need, spent here without asking again.
//!
//! ```text
//!            few requests: every one is a check of its own
//!   plain ──────────────────────────────────────────────────┐
//!     ▲ ▲   enough of them: ask for more than one needs     │
//!     │ │                                                   ▼
//!     │ └── refused, near exhaustion ── leased ◄─granted── asking (the others join)
//!     │     (for a while)                 │ ▲
//!     └── idle, expired ──────────────────┘ └─ renewed at the low-water mark; nobody waits
//! ```
//!
//! This is bookkeeping only: it makes no calls and holds no requests. [`Leases::spend`] says what
//! becomes of a request; whoever makes a call for a lease tells [`Leases::asked`] and, exactly
//! once, how it ended.
//!
//! # How much is asked for
//! *Demand* is what a key of this worker uses in one *horizon*, half the ttl (5 s at most): a
//! moving average over that time, in which a key's first request counts as one and nothing is
//! guessed.
//! *Speed* is what came in the last round trip. With `latency` the backend's (a moving average that
//! follows slow replies faster than quick ones):
//!
//! ```text
//! slack = min(demand / 64, max_units / 8)
//! low   = min(2 × speed × latency + slack, max_units / 2)
//! asked = cost + what others wait for + demand + low
//! ```
//!
//! `asked` and what is left never exceed `max_units`. Where the backend says what remains, `asked`
//! never exceeds that, nor a quarter of it beyond what requests are waiting for. Where it says when
//! the window ends, demand is what will come until then. A key that uses fewer than 4 requests in a
//! horizon gets no lease at all: each of its requests is a plain check, so it holds nothing.
//! The demand of a key that has fallen silent is forgotten with it.
//!
//! # How long it may be spent
//! Until the ttl or the window's end, whichever is first, both counted from when it was *asked
//! for*: the reply's own time on the way can't carry units into the next window. An end that a
//! later reply tells holds for what is held already, if it is earlier. A renewal is a
//! second tranche with its own end; the tranche that ends first is spent first. A third one is
//! added to the later of the two and takes the earlier of their ends. A reply that comes after its
//! own tranche has ended still pays for the request that asked.
//!
//! # When the answer is no
//! A refused batch makes the key plain for 100 ms, twice as long after every further refusal up to
//! 5 s, and never beyond the window's end; the request that asked then makes a plain check for
//! exactly its cost. Afterwards batches are smaller by half for each refusal, and grow back with
//! every full grant. A partial grant counts as a refusal as well, unless the backend says that more
//! remains. After a failure nothing is asked for ahead until an answer comes: one request asks for
//! exactly its cost while the others of its key wait for it, and what is left is spent without
//! trying to renew it for 10 ms to 1 s.
//!
//! # Bounds
//! With `W` workers in all proxies, rate `R` of a key on a worker, and `H` the horizon:
//!
//! - Spent after the backend cut a limit or lost its books: at most `W × max_units`, for at most
//!   `ttl`. After a window's reset that the backend told: nothing, up to the coarseness of what it
//!   told (a reset in whole seconds that was rounded up by `g` lets `W × min(max_units, R × g)`
//!   through). After a reset that it did not tell: `W × max_units`, as after a cut.
//! - Charged and never spent, per key and worker: at most `min(max_units, R × H + low)` each time
//!   that a key falls silent or its window ends, and one batch for each call without an answer.
//! - Calls in steady state: `1000 / min(max_units − low, R × H)` for 1,000 requests of cost 1.
//!   That is 2 to 4 at 5,000 requests/s with `max_units` 500 and a ttl of 1 s.
//! - Nobody waits in steady state while `2 × R × latency` is below `max_units / 2`; a key waits
//!   once after each end of a window, one round trip, because units of the old one are void.
//!
//! # When the table is full
//! A key that is not known takes the place of one that holds nothing, waits for nothing and was
//! seen but once since the last round; if there is none among the next eight, it gets no lease: its
//! requests are plain checks. A place that holds units is never taken. Keys that were not seen for
//! four horizons are dropped by the tick, a few places at a time.

use core::time::Duration;

use super::table::{Place, Table};
use crate::config::LeaseTerms;
use crate::decision::Limits;
use crate::time::{Instant, nanos};

/// What becomes of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Spend {
    /// Ask for so many units, this request's cost included, and let it wait. When that is just its
    /// cost, a refusal is its denial.
    Ask {
        /// How many to ask for.
        units: u64,
    },
    /// Units of this key are being asked for: wait for that call.
    Join,
    /// It is paid.
    Leased {
        /// Ask for so many units now, and let nobody wait for them.
        renew: Option<u64>,
    },
    /// Check it as if there were no leases.
    Plain,
}

/// A backend's yes to units that were asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Grant {
    /// How many it gave; more than were asked for count as what was asked for.
    pub units: u64,
    /// The cost of the request that asked, which is paid at once; 0 when nobody waits for it.
    pub cost: u64,
    /// What it said of the limit.
    pub limits: Limits,
}

/// What happened to leases since it was last asked for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct LeaseCounts {
    /// Calls that asked for units, renewals included.
    pub asked: u64,
    /// Calls that were granted all they asked for.
    pub granted: u64,
    /// Calls that were granted less.
    pub partial: u64,
    /// Calls that were refused.
    pub refused: u64,
    /// Calls without an answer, and renewals that could not be asked for.
    pub failed: u64,
    /// Keys that found the table full.
    pub full: u64,
    /// Units granted.
    pub granted_units: u64,
    /// Units spent.
    pub spent_units: u64,
    /// Units that were granted and not spent in time.
    pub expired_units: u64,
    /// Units that were spent and given back, because they were not used after all.
    pub returned_units: u64,
}

impl LeaseCounts {
    /// Each count by the word for it in `quota_gate_leases{event}`.
    #[must_use]
    pub const fn events(&self) -> [(&'static str, u64); 10] {
        [
            ("asked", self.asked),
            ("expired_units", self.expired_units),
            ("failed", self.failed),
            ("full", self.full),
            ("granted", self.granted),
            ("granted_units", self.granted_units),
            ("partial", self.partial),
            ("refused", self.refused),
            ("returned_units", self.returned_units),
            ("spent_units", self.spent_units),
        ]
    }
}

/// The leases of one worker.
#[derive(Debug)]
pub struct Leases {
    entries_max: usize,
    bytes_max: usize,
    table: Table<Lease>,
    /// Where the search for a place goes on.
    hand: Place,
    /// Where the next tick goes on.
    broom: Place,
    counts: LeaseCounts,
    evictions: u64,
}

impl Leases {
    /// A table of so many keys and bytes at most; a key weighs [`LEASE_BYTES`] and its own length.
    #[must_use]
    pub const fn new(entries_max: usize, bytes_max: usize, seed: u64) -> Self {
        Self {
            entries_max,
            bytes_max,
            table: Table::new(seed, LEASE_BYTES),
            hand: Table::<Lease>::FIRST,
            broom: Table::<Lease>::FIRST,
            counts: NOTHING,
            evictions: 0,
        }
    }

    /// Pays a request that has just arrived, or says how it is to be checked.
    pub fn spend(&mut self, now: Instant, key: &[u8], cost: u64, terms: &LeaseTerms) -> Spend {
        let Some(lease) = self.table.find_mut(key) else {
            self.meet(now, key, cost, terms);
            return Spend::Plain;
        };
        lease.arrived = lease.arrived.saturating_add(cost);
        lease.seen = now;
        lease.busy = true;
        lease.pay(now, cost, terms, &mut self.counts)
    }

    /// The same for a request that was told to join, after the call that it waited for was granted
    /// or refused; in the order of their arrival. (The request that asked is not served again: a
    /// grant pays for it, and after a refusal it is checked for exactly its cost.)
    pub fn serve(&mut self, now: Instant, key: &[u8], cost: u64, terms: &LeaseTerms) -> Spend {
        let Some(lease) = self.table.find_mut(key) else {
            return Spend::Plain;
        };
        lease.recalled = lease.recalled.saturating_sub(cost);
        lease.pay(now, cost, terms, &mut self.counts)
    }

    /// Notes that a call for units is under way.
    pub fn asked(&mut self, now: Instant, key: &[u8], units: u64) {
        self.counts.asked = self.counts.asked.saturating_add(1);
        if let Some(lease) = self.table.find_mut(key) {
            lease.asking = Some(Asking { units, since: now });
        }
    }

    /// Takes what a call brought. Whether that pays for the request that asked.
    pub fn granted(&mut self, now: Instant, key: &[u8], grant: &Grant) -> bool {
        let paid = grant.units >= grant.cost;
        match self.table.find_mut(key) {
            Some(lease) => lease.take_grant(now, grant, &mut self.counts),
            None => self.counts.settle_unheld(grant),
        }
        paid
    }

    /// Takes the backend's no to a call.
    pub fn refused(&mut self, now: Instant, key: &[u8], limits: &Limits) {
        self.counts.refused = self.counts.refused.saturating_add(1);
        if let Some(lease) = self.table.find_mut(key) {
            let asking = lease.end_call(now);
            lease.failures = 0;
            lease.learn(asking.since, limits);
            lease.back_off(now);
        }
    }

    /// Notes that a call got no answer, or that a renewal could not be asked for.
    pub fn failed(&mut self, now: Instant, key: &[u8]) {
        self.counts.failed = self.counts.failed.saturating_add(1);
        if let Some(lease) = self.table.find_mut(key) {
            lease.asking = None;
            lease.waiting = 0;
            lease.recalled = 0;
            let pause = doubled(RENEWAL_PAUSE, lease.failures, RENEWAL_PAUSE_MAX);
            lease.failures = lease.failures.saturating_add(1);
            lease.quiet_until = now.after(pause);
        }
    }

    /// Pays with what is held for units that a request has used beyond its cost. How many it pays.
    pub fn debit(&mut self, now: Instant, key: &[u8], units: u64) -> u64 {
        let Some(lease) = self.table.find_mut(key) else {
            return 0;
        };
        lease.expire(now, &mut self.counts);
        let paid = units.min(lease.left());
        let rest = paid.saturating_sub(lease.first.units);
        lease.first.units = lease.first.units.saturating_sub(paid);
        lease.later.units = lease.later.units.saturating_sub(rest);
        self.counts.spent_units = self.counts.spent_units.saturating_add(paid);
        paid
    }

    /// Takes units back that a request was charged and has not used. They are good for as long as
    /// what they lie with, and never more than the lease may hold; how many are taken.
    pub fn give_back(&mut self, now: Instant, key: &[u8], units: u64, terms: &LeaseTerms) -> u64 {
        let Some(lease) = self.table.find_mut(key) else {
            return 0;
        };
        if now >= lease.first.expires {
            return 0;
        }
        let taken = units.min(terms.max_units.saturating_sub(lease.left()));
        lease.first.units = lease.first.units.saturating_add(taken);
        self.counts.returned_units = self.counts.returned_units.saturating_add(taken);
        taken
    }

    /// Notes what the answer to a plain check said of the key's limit.
    pub fn observed(&mut self, now: Instant, key: &[u8], limits: &Limits) {
        if let Some(lease) = self.table.find_mut(key) {
            lease.learn(now, limits);
        }
    }

    /// Drops a few of the keys that nobody asks for, and what has expired of the others.
    pub fn handle_tick(&mut self, now: Instant) {
        for _ in 0..self.table.len().min(SWEPT_PER_TICK) {
            if let Some(lease) = self.table.get_mut(self.broom) {
                lease.expire(now, &mut self.counts);
                if lease.is_idle(now) {
                    self.table.remove(self.broom);
                }
            }
            self.broom = self
                .table
                .after(self.broom)
                .unwrap_or(Table::<Lease>::FIRST);
        }
    }

    /// Lets go of everything: nobody is left to spend it.
    pub fn handle_end(&mut self) {
        let (held, _) = self.held_in_all();
        self.counts.expired_units = self.counts.expired_units.saturating_add(held);
        self.table.clear();
    }

    /// What happened since this was last asked.
    pub const fn take_counts(&mut self) -> LeaseCounts {
        core::mem::replace(&mut self.counts, NOTHING)
    }

    /// How many keys had to make room for others, since this was last asked.
    pub const fn take_evictions(&mut self) -> u64 {
        core::mem::replace(&mut self.evictions, 0)
    }

    /// Units held for a key.
    #[must_use]
    pub fn held(&self, key: &[u8]) -> u64 {
        self.table.find(key).map_or(0, Lease::left)
    }

    /// Units held for all keys together, and the most that are held for one.
    #[must_use]
    pub fn held_in_all(&self) -> (u64, u64) {
        let held = self.table.values().map(Lease::left);
        held.fold((0, 0), |(sum, most), units| {
            (units.saturating_add(sum), units.max(most))
        })
    }

    /// Keys known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether no key is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the keys known weigh.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.table.bytes()
    }

    /// Makes the acquaintance of a key, if there is room for it.
    fn meet(&mut self, now: Instant, key: &[u8], cost: u64, terms: &LeaseTerms) {
        if self.table.is_too_big(key, self.bytes_max) || !self.make_room(now, key) {
            self.counts.full = self.counts.full.saturating_add(1);
            return;
        }
        let lease = Lease {
            arrived: cost,
            seen: now,
            sampled: now,
            recent_since: now,
            ttl: terms.ttl,
            ..Lease::default()
        };
        self.table.insert(key, lease);
    }

    fn make_room(&mut self, now: Instant, key: &[u8]) -> bool {
        for _ in 0..PLACES_TRIED {
            if !self
                .table
                .is_full_for(key, self.entries_max, self.bytes_max)
            {
                return true;
            }
            let Some(next) = self.table.after(self.hand) else {
                return false;
            };
            let place = core::mem::replace(&mut self.hand, next);
            let Some(lease) = self.table.get_mut(place) else {
                continue;
            };
            lease.expire(now, &mut self.counts);
            if lease.busy || lease.is_engaged(now) {
                lease.busy = false;
            } else {
                self.table.remove(place);
                self.evictions = self.evictions.saturating_add(1);
            }
        }
        !self
            .table
            .is_full_for(key, self.entries_max, self.bytes_max)
    }
}

impl LeaseCounts {
    /// A grant for a key that is not known: it pays for who asked, and the rest is lost.
    const fn settle_unheld(&mut self, grant: &Grant) {
        let paid = if grant.units >= grant.cost {
            grant.cost
        } else {
            0
        };
        self.granted = self.granted.saturating_add(1);
        self.granted_units = self.granted_units.saturating_add(grant.units);
        self.spent_units = self.spent_units.saturating_add(paid);
        let lost = grant.units.saturating_sub(paid);
        self.expired_units = self.expired_units.saturating_add(lost);
    }
}

/// Units with a common end.
#[derive(Clone, Copy, Debug, Default)]
struct Tranche {
    units: u64,
    expires: Instant,
}

/// A call for units that is under way.
#[derive(Clone, Copy, Debug)]
struct Asking {
    units: u64,
    since: Instant,
}

/// What one key holds, and what is known of its need.
#[derive(Debug, Default)]
struct Lease {
    /// What ends first, and is spent first.
    first: Tranche,
    later: Tranche,
    /// With no more than this left, it is time to renew.
    low_water: u64,
    /// From then on it is time to renew, whatever is left; `None` when the window's end decides.
    renew_from: Option<Instant>,
    /// Units wanted since `sampled`.
    arrived: u64,
    seen: Instant,
    /// Seen again since the table last looked for a place.
    busy: bool,

    /// Units in a horizon, in 256ths.
    demand: u64,
    sampled: Instant,
    /// Units wanted since `recent_since`, in whole units.
    recent: u64,
    recent_since: Instant,
    /// Units in a second, in 256ths.
    speed: u64,
    /// How long a call takes, in microseconds; 0 while that is not known.
    latency: u64,
    ttl: Duration,

    asking: Option<Asking>,
    /// Units that requests wait for, beside the one that asked.
    waiting: u64,
    /// The same for the call that has just ended: requests that are yet to be served.
    recalled: u64,
    failures: u32,
    refusals: u32,
    /// No renewals before.
    quiet_until: Instant,
    /// No leases before.
    plain_until: Instant,

    /// The end of the limit's window, where it was told.
    window_end: Option<Instant>,
    /// What remains of the limit, where it was told, and until when that says anything.
    remaining: Option<(u64, Instant)>,
}

/// How much a key will need.
#[derive(Clone, Copy, Debug)]
struct Plan {
    /// In the next horizon.
    ahead: u64,
    /// To bridge the next call.
    low: u64,
}

impl Lease {
    /// Pays `cost`, or says how to come by it.
    fn pay(
        &mut self,
        now: Instant,
        cost: u64,
        terms: &LeaseTerms,
        counts: &mut LeaseCounts,
    ) -> Spend {
        if now < self.first.expires && self.first.units >= cost.max(1) {
            self.first.units = self.first.units.saturating_sub(cost);
        } else if !self.pay_across(now, cost, counts) {
            return self.want(now, cost, terms);
        }
        counts.spent_units = counts.spent_units.saturating_add(cost);
        let due = self.left() <= self.low_water || self.renew_from.is_some_and(|from| now >= from);
        let renew = if due && self.asking.is_none() && now >= self.quiet_until {
            self.renewal(now, cost, terms)
        } else {
            None
        };
        Spend::Leased { renew }
    }

    /// Pays out of both tranches, when the first one alone won't do.
    fn pay_across(&mut self, now: Instant, cost: u64, counts: &mut LeaseCounts) -> bool {
        self.expire(now, counts);
        if self.left() < cost.max(1) {
            return false;
        }
        let rest = cost.saturating_sub(self.first.units);
        self.first.units = self.first.units.saturating_sub(cost);
        self.later.units = self.later.units.saturating_sub(rest);
        true
    }

    /// How a request that can't be paid is to be checked.
    fn want(&mut self, now: Instant, cost: u64, terms: &LeaseTerms) -> Spend {
        if cost == 0 || cost > terms.max_units {
            return Spend::Plain;
        }
        if self.is_asking(now) {
            self.waiting = self.waiting.saturating_add(cost);
            return Spend::Join;
        }
        self.roll_window(now);
        let least = cost.saturating_mul(BATCH_MIN);
        let plan = self.plan(now, terms);
        let too_slow = micros(terms.ttl) <= self.latency.saturating_mul(2);
        if now < self.plain_until || plan.ahead < least || too_slow {
            return Spend::Plain;
        }
        if self.failures > 0 {
            return Spend::Ask { units: cost };
        }
        let must = cost.saturating_add(self.recalled);
        let extra = self.extra(plan.ahead.saturating_add(plan.low), least, must);
        let room = terms.max_units.saturating_sub(self.left());
        let remains = self.remaining.map_or(u64::MAX, |(units, _)| units);
        let units = must.saturating_add(extra).min(room).min(remains);
        if extra < least || units < cost {
            return Spend::Plain;
        }
        Spend::Ask { units }
    }

    /// How many units to renew the lease by.
    fn renewal(&mut self, now: Instant, cost: u64, terms: &LeaseTerms) -> Option<u64> {
        self.roll_window(now);
        let plan = self.plan(now, terms);
        let least = cost.max(1).saturating_mul(BATCH_MIN);
        if plan.ahead < least {
            return None;
        }
        // What is about to expire won't be there any more when the next call could have ended.
        let ending = self.renew_from.is_some_and(|from| now >= from);
        let lasting = if ending { 0 } else { self.left() };
        let wanted = plan
            .ahead
            .saturating_add(plan.low)
            .saturating_sub(lasting)
            .min(terms.max_units.saturating_sub(self.left()));
        let units = self.extra(wanted, least.min(wanted), 0);
        (units >= cost.max(1)).then_some(units)
    }

    /// What may be asked for beyond `must`, which requests are waiting for.
    fn extra(&self, wanted: u64, least: u64, must: u64) -> u64 {
        let halved = wanted.checked_shr(self.refusals).unwrap_or(0).max(least);
        match self.remaining {
            Some((units, _)) => halved.min(units.saturating_sub(must) / REMAINING_SHARE),
            None => halved,
        }
    }

    /// Brings demand and speed up to date, and with them the low-water mark.
    fn plan(&mut self, now: Instant, terms: &LeaseTerms) -> Plan {
        self.ttl = terms.ttl;
        let horizon = horizon(terms.ttl);
        self.sample(now, horizon);
        let demand = self.demand / FRACTION;
        let bridge = mul_div(self.speed, self.latency.saturating_mul(2), MICROS_PER_SEC) / FRACTION;
        let slack = (demand / SLACK_SHARE).min(terms.max_units / SLACK_UNITS_SHARE);
        let low = bridge.saturating_add(slack).min(terms.max_units / 2);
        self.low_water = low;
        Plan {
            ahead: self.until_window_end(now, demand, horizon),
            low,
        }
    }

    /// A fixed rate `r` leaves demand at `r × horizon`, however often it is sampled.
    fn sample(&mut self, now: Instant, horizon: u64) {
        let elapsed = micros(now.since(self.sampled));
        let sum = self
            .demand
            .saturating_add(self.arrived.saturating_mul(FRACTION));
        self.demand = mul_div(sum, horizon, horizon.saturating_add(elapsed));
        self.recent = self.recent.saturating_add(self.arrived);
        self.arrived = 0;
        self.sampled = now;
        let recent = micros(now.since(self.recent_since));
        if recent >= self.latency.max(SPEED_WINDOW_MIN) {
            self.speed = mul_div(self.recent.saturating_mul(FRACTION), MICROS_PER_SEC, recent);
            self.recent = 0;
            self.recent_since = now;
        }
    }

    /// What of the demand will come before the window ends. A call that is made within two round
    /// trips of the end is more likely meant for the next window.
    fn until_window_end(&self, now: Instant, demand: u64, horizon: u64) -> u64 {
        let left = self
            .window_end
            .map_or(u64::MAX, |end| micros(end.since(now)));
        if left >= horizon || left <= self.latency.saturating_mul(2) {
            return demand;
        }
        mul_div(demand, left, horizon)
    }

    fn take_grant(&mut self, now: Instant, grant: &Grant, counts: &mut LeaseCounts) {
        let asking = self.end_call(now);
        self.failures = 0;
        self.expire(now, counts);
        self.learn(asking.since, &grant.limits);
        let units = grant.units.min(asking.units);
        counts.granted_units = counts.granted_units.saturating_add(units);
        if units >= asking.units {
            counts.granted = counts.granted.saturating_add(1);
            self.refusals = self.refusals.saturating_sub(1);
        } else {
            counts.partial = counts.partial.saturating_add(1);
            if self.remaining.is_none_or(|(remains, _)| remains == 0) {
                self.back_off(now);
            }
        }
        let paid = if units >= grant.cost { grant.cost } else { 0 };
        counts.spent_units = counts.spent_units.saturating_add(paid);
        self.add(now, asking.since, units.saturating_sub(paid), counts);
    }

    /// Ends the call under way; its waiters are to be served next.
    fn end_call(&mut self, now: Instant) -> Asking {
        self.recalled = core::mem::take(&mut self.waiting);
        let asking = self.asking.take().unwrap_or(Asking {
            units: u64::MAX,
            since: now,
        });
        let took = micros(now.since(asking.since)).max(1);
        self.latency = if self.latency == 0 {
            took
        } else if took >= self.latency {
            self.latency.midpoint(took)
        } else {
            let less = self.latency.saturating_sub(took) / 8;
            self.latency.saturating_sub(less)
        };
        asking
    }

    /// Adds units that were asked for at `since`.
    fn add(&mut self, now: Instant, since: Instant, units: u64, counts: &mut LeaseCounts) {
        let by_ttl = since.after(self.ttl);
        let expires = self.window_end.map_or(by_ttl, |end| end.min(by_ttl));
        if units == 0 || expires <= now {
            counts.expired_units = counts.expired_units.saturating_add(units);
            return;
        }
        let new = Tranche { units, expires };
        if self.later.units > 0 {
            let end = self.later.expires.min(expires);
            self.later.units = self.later.units.saturating_add(units);
            self.later.expires = end;
        } else {
            self.later = new;
        }
        self.close_up();
        // Twice, so that a reply that takes longer than usual comes in time as well.
        let bridge = Duration::from_micros(self.latency.saturating_mul(2));
        self.renew_from = (expires == by_ttl && bridge.saturating_mul(2) < self.ttl)
            .then(|| Instant(expires.0.saturating_sub(nanos(bridge))));
    }

    /// Keeps the tranche that ends first in its place: it is always the older one, for the end of
    /// a window that is told later holds for both.
    const fn close_up(&mut self) {
        if self.first.units == 0 {
            core::mem::swap(&mut self.first, &mut self.later);
        }
    }

    /// Drops what has expired.
    fn expire(&mut self, now: Instant, counts: &mut LeaseCounts) {
        for tranche in [&mut self.first, &mut self.later] {
            if now >= tranche.expires {
                counts.expired_units = counts.expired_units.saturating_add(tranche.units);
                tranche.units = 0;
            }
        }
        self.close_up();
    }

    /// Learns of the limit from a reply to a call that was made at `since`.
    fn learn(&mut self, since: Instant, limits: &Limits) {
        if let Some(reset) = limits.reset {
            let end = since.after(reset);
            self.window_end = Some(end);
            // What was granted before this was told is of the same window.
            for tranche in [&mut self.first, &mut self.later] {
                tranche.expires = tranche.expires.min(end);
            }
        }
        let until = self.window_end.unwrap_or_else(|| since.after(self.ttl));
        if let Some(units) = limits.remaining {
            self.remaining = Some((units, until));
        }
    }

    /// Forgets what held for a window that is over.
    fn roll_window(&mut self, now: Instant) {
        if self.window_end.is_some_and(|end| now >= end) {
            self.window_end = None;
            self.refusals = 0;
            self.plain_until = now;
            self.quiet_until = now;
        }
        if self.remaining.is_some_and(|(_, until)| now >= until) {
            self.remaining = None;
        }
    }

    /// Makes the key plain for a while, or until the window is over.
    fn back_off(&mut self, now: Instant) {
        let until = now.after(doubled(BACK_OFF, self.refusals, BACK_OFF_MAX));
        self.refusals = self.refusals.saturating_add(1).min(REFUSALS_MAX);
        self.plain_until = until;
        self.quiet_until = until;
    }

    const fn left(&self) -> u64 {
        self.first.units.saturating_add(self.later.units)
    }

    /// Whether a call is under way. One whose end was never told must not hold the key for ever.
    fn is_asking(&self, now: Instant) -> bool {
        self.asking
            .is_some_and(|asking| now.since(asking.since) < LONGEST_CALL)
    }

    /// Whether it holds units, or a call for some is under way.
    fn is_engaged(&self, now: Instant) -> bool {
        self.left() > 0 || self.is_asking(now)
    }

    fn is_idle(&self, now: Instant) -> bool {
        let unseen = micros(now.since(self.seen));
        let long = horizon(self.ttl).saturating_mul(IDLE_HORIZONS);
        unseen >= long && !self.is_engaged(now)
    }
}

/// The time that demand is counted in, in microseconds.
fn horizon(ttl: Duration) -> u64 {
    (micros(ttl) / 2).clamp(HORIZON_MIN, HORIZON_MAX)
}

fn micros(duration: Duration) -> u64 {
    nanos(duration) / 1_000
}

/// `value × numerator / denominator`, saturating.
fn mul_div(value: u64, numerator: u64, denominator: u64) -> u64 {
    let product = u128::from(value).saturating_mul(u128::from(numerator));
    let quotient = product.checked_div(u128::from(denominator)).unwrap_or(0);
    u64::try_from(quotient).unwrap_or(u64::MAX)
}

/// `base`, twice as long for each of `times`, at most `most`.
fn doubled(base: Duration, times: u32, most: Duration) -> Duration {
    let factor = 1_u32.checked_shl(times).unwrap_or(u32::MAX);
    base.saturating_mul(factor).min(most)
}

const NOTHING: LeaseCounts = LeaseCounts {
    asked: 0,
    granted: 0,
    partial: 0,
    refused: 0,
    failed: 0,
    full: 0,
    granted_units: 0,
    spent_units: 0,
    expired_units: 0,
    returned_units: 0,
};

/// What a key is counted as, beside its own length: its lease, its place in the index, and what
/// the allocator adds to the key.
pub const LEASE_BYTES: usize = 400;

/// A batch worth asking for, in requests: below it, what a lease saves is not worth what a key that
/// falls silent loses.
const BATCH_MIN: u64 = 4;

/// A batch takes at most this part of what remains ahead of need, so that the last units of a
/// window are spread over those who use them.
const REMAINING_SHARE: u64 = 4;

/// The part of a horizon's demand that is kept in hand for replies that take longer than usual:
/// 8 ms of traffic at a ttl of 1 s.
const SLACK_SHARE: u64 = 64;

/// The part of a small lease that may be kept in hand for that: more would mean more calls.
const SLACK_UNITS_SHARE: u64 = 8;

/// Demand and speed are kept in 256ths: a key with one request in a minute must not round to none.
const FRACTION: u64 = 256;

/// Shorter than a tick nothing can be foreseen, in microseconds.
const HORIZON_MIN: u64 = 1_000;

/// A long ttl is no reason to hoard, in microseconds.
const HORIZON_MAX: u64 = 5_000_000;

/// A speed that was taken over less is noise, in microseconds.
const SPEED_WINDOW_MIN: u64 = 1_000;

const MICROS_PER_SEC: u64 = 1_000_000;

/// After this many horizons without a request the demand of a key has faded anyway.
const IDLE_HORIZONS: u64 = 4;

/// How long the first refusal keeps a key from batches: about what a person calls at once.
const BACK_OFF: Duration = Duration::from_millis(100);

/// How long a refusal keeps a key from batches at most.
const BACK_OFF_MAX: Duration = Duration::from_secs(5);

/// More refusals don't make a batch smaller, or a pause longer.
const REFUSALS_MAX: u32 = 16;

/// How long the first failure keeps a key from renewals.
const RENEWAL_PAUSE: Duration = Duration::from_millis(10);

/// How long a failure keeps a key from renewals at most.
const RENEWAL_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Longer than any timeout may be (60 s).
const LONGEST_CALL: Duration = Duration::from_secs(65);

/// Places that a tick looks at: 1,600 in a second at a tick of 20 ms.
const SWEPT_PER_TICK: usize = 32;

/// Places that a key which is not known looks at before it does without a lease.
const PLACES_TRIED: usize = 8;

#[cfg(test)]
mod tests;
