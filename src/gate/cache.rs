//! Decisions remembered for a while, per worker: who was allowed, denied or rejected a moment ago.
//!
//! # What holds for whom, and how long
//! | kind | holds for | fresh for at most |
//! | --- | --- | --- |
//! | allowed | requests that cost at most as much | `allow_ttl` |
//! | denied | requests that cost at least as much | `deny_ttl`, and until the limit's reset |
//! | rejected | every request of the key | `rejected_ttl` |
//!
//! The backend's `max-age` bounds every one of them, and `no-store` keeps it from being remembered
//! at all, for stale use too. A denial is over when the backend said that it would be
//! (`Retry-After` or the window's reset, whichever comes first), stale or not: after that it says
//! nothing.
//!
//! # The switches
//! They depend on nothing but themselves. Each ttl is asked for when an answer is stored *and* when
//! it is looked up, so an answer that was stored under other terms never outlives the reader's:
//! with `rejected_ttl` 0 a rejected key is asked about at its very next request, whatever the
//! others say. `stale_if_error` alone governs what may be used when there is no new answer: any
//! kind, for that long after it stopped being fresh (at once, where its ttl is 0). So with
//! `stale_if_error` above 0 a key whose last answer was a rejection stays rejected while the
//! backend is away; with `stale_if_error` 0 nothing is ever used after its ttl.
//!
//! A newer answer replaces the older one of its key, whatever their kinds; one that must not be
//! remembered removes it.
//!
//! # When it is full
//! Entries are held in two queues, as in S3-FIFO. New ones are on probation; the ones that were
//! used there move on to the main queue when their turn to leave comes. The one that leaves is
//! the oldest on probation while probation holds more than a tenth of the entries, else the oldest
//! of the main queue, which gets a second chance if it was used since its last. What is over goes
//! first and is not counted. So a flood of keys that never come back passes through probation and
//! leaves alone whatever is in use. When a long row of entries is in use, the newcomer is not held
//! (and counted as the one that left). An entry that would take more than a sixteenth of the bytes
//! is not held at all.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use core::time::Duration;

use super::table::{Place, Table};
use crate::config::CacheTtls;
use crate::decision::{AllowReason, Decision, DenyReason, Limits, Told};
use crate::time::{Instant, nanos};
use crate::wire::{Caching, Reply, ReplyOutcome};

/// What the backend said of one check, as far as it may be said again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Answer {
    /// What it was.
    pub kind: Kind,
    /// The units that it was about.
    pub cost: u64,
    /// What was told of the limit.
    pub limits: Limits,
    /// When to ask again, counted from the answer.
    pub retry_after: Option<Duration>,
    /// What its `Cache-Control` said.
    pub caching: Caching,
}

impl Answer {
    /// What a reply to a check of this cost says.
    #[must_use]
    pub const fn of(reply: &Reply, cost: u64) -> Self {
        Self {
            kind: match reply.outcome {
                ReplyOutcome::Denied => Kind::Denied,
                ReplyOutcome::Granted { .. } => Kind::Allowed,
                ReplyOutcome::Rejected { status } => Kind::Rejected { status },
            },
            cost,
            limits: reply.limits,
            retry_after: reply.retry_after,
            caching: reply.caching,
        }
    }
}

/// The kinds of answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Within quota.
    Allowed,
    /// Over the limit.
    Denied,
    /// The key is not valid.
    Rejected {
        /// The backend's own status: 401 or 403.
        status: u16,
    },
}

/// An answer that is used again, where it lies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Cached<'a> {
    /// What it was.
    pub kind: Kind,
    /// What was told with it, if anything was.
    told: Option<&'a Told>,
    age: Duration,
}

impl Cached<'_> {
    /// The decision it leads to; `reason` is that of an allow.
    #[must_use]
    pub fn decision(&self, reason: AllowReason) -> Decision {
        let decision = match self.kind {
            Kind::Allowed => Decision::allow(reason),
            Kind::Denied => Decision::deny(DenyReason::QuotaExceeded),
            Kind::Rejected { .. } => Decision::deny(DenyReason::KeyRejected),
        };
        match self.told {
            None => decision,
            Some(told) => decision.telling(self.remaining(told)),
        }
    }

    /// What is still to be told: the times are what remains of them.
    #[inline(never)]
    fn remaining(&self, told: &Told) -> Told {
        let remains = |time: Option<Duration>| time.map(|time| time.saturating_sub(self.age));
        let reset = remains(told.limits.reset);
        Told {
            retry_after: remains(told.retry_after).or(reset),
            limits: Limits {
                reset,
                ..told.limits
            },
            ..*told
        }
    }
}

/// The remembered answers.
#[derive(Debug)]
pub struct Cache {
    entries_max: usize,
    bytes_max: usize,
    table: Table<Entry>,
    probation: VecDeque<Place>,
    main: VecDeque<Place>,
    evictions: u64,
}

impl Cache {
    /// A cache of so many entries and bytes at most; an entry weighs [`ENTRY_BYTES`] and its key.
    #[must_use]
    pub const fn new(entries_max: usize, bytes_max: usize, seed: u64) -> Self {
        Self {
            entries_max,
            bytes_max,
            table: Table::new(seed, ENTRY_BYTES),
            probation: VecDeque::new(),
            main: VecDeque::new(),
            evictions: 0,
        }
    }

    /// The answer that counts as new for a request of this key and cost.
    pub fn get(
        &mut self,
        now: Instant,
        key: &[u8],
        cost: u64,
        ttls: &CacheTtls,
    ) -> Option<Cached<'_>> {
        self.answer(now, key, cost, |entry| entry.fresh_for(ttls))
    }

    /// The answer that may be used for want of a new one.
    pub fn stale(
        &mut self,
        now: Instant,
        key: &[u8],
        cost: u64,
        ttls: &CacheTtls,
    ) -> Option<Cached<'_>> {
        let more = nanos(ttls.stale_if_error);
        self.answer(now, key, cost, |entry| {
            entry.fresh_for(ttls).saturating_add(more)
        })
    }

    /// Remembers an answer in place of the key's older one.
    pub fn put(&mut self, now: Instant, key: &[u8], answer: &Answer, ttls: &CacheTtls) {
        let entry = Entry::of(now, answer, ttls);
        match (self.table.find_mut(key), entry) {
            (Some(older), Some(entry)) => {
                let used = older.used;
                *older = Entry { used, ..entry };
            }
            // It keeps its place in its queue, and leaves it as something that is over.
            (Some(older), None) => older.over = Instant::default(),
            (None, Some(entry)) => self.add(now, key, entry),
            (None, None) => {}
        }
    }

    /// Answers held, the ones included that are over but still have their place.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the answers held weigh.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.table.bytes()
    }

    /// How many answers had to leave before they were over, since this was last asked.
    pub const fn take_evictions(&mut self) -> u64 {
        core::mem::replace(&mut self.evictions, 0)
    }

    fn answer(
        &mut self,
        now: Instant,
        key: &[u8],
        cost: u64,
        lasts: impl FnOnce(&Entry) -> u64,
    ) -> Option<Cached<'_>> {
        let entry = self.table.find_mut(key)?;
        let age = now.since(entry.stored);
        if now >= entry.over || nanos(age) >= lasts(entry) || !entry.holds_for(cost) {
            return None;
        }
        entry.used = true;
        Some(Cached {
            kind: entry.kind,
            told: entry.told.as_deref(),
            age,
        })
    }

    fn add(&mut self, now: Instant, key: &[u8], entry: Entry) {
        if self.table.is_too_big(key, self.bytes_max) {
            return;
        }
        while self
            .table
            .is_full_for(key, self.entries_max, self.bytes_max)
        {
            if !self.evict(now) {
                self.evictions = self.evictions.saturating_add(1);
                return;
            }
        }
        if let Some(place) = self.table.insert(key, entry) {
            self.probation.push_back(place);
        }
    }

    /// Makes one entry leave; `false` when there is none, or none was found in reasonable time.
    fn evict(&mut self, now: Instant) -> bool {
        if self.drop_over(now) {
            return true;
        }
        for _ in 0..SECOND_CHANCES_MAX {
            let on_probation = self.main.is_empty()
                || self.probation.len().saturating_mul(PROBATION_SHARE) > self.table.len();
            let queue = if on_probation {
                &mut self.probation
            } else {
                &mut self.main
            };
            let Some(place) = queue.pop_front() else {
                return false;
            };
            match self.table.get_mut(place) {
                Some(entry) if entry.used && now < entry.over => {
                    entry.used = false;
                    self.main.push_back(place);
                }
                Some(entry) => {
                    let lost = u64::from(now < entry.over);
                    self.evictions = self.evictions.saturating_add(lost);
                    self.table.remove(place);
                    return true;
                }
                None => return true,
            }
        }
        false
    }

    /// Drops the head of a queue that is over.
    fn drop_over(&mut self, now: Instant) -> bool {
        for queue in [&mut self.main, &mut self.probation] {
            let over = queue
                .front()
                .and_then(|place| self.table.get(*place))
                .is_some_and(|entry| now >= entry.over);
            if over {
                if let Some(place) = queue.pop_front() {
                    self.table.remove(place);
                }
                return true;
            }
        }
        false
    }
}

#[derive(Debug)]
struct Entry {
    kind: Kind,
    cost: u64,
    /// What was told with it, with the times as they were then.
    told: Option<Box<Told>>,
    stored: Instant,
    /// How long it counts as new, in nanoseconds, by the terms it was stored under.
    fresh_ns: u64,
    /// From when on it says nothing to anybody.
    over: Instant,
    used: bool,
}

impl Entry {
    /// The answer as an entry, if there is any use for it.
    fn of(now: Instant, answer: &Answer, ttls: &CacheTtls) -> Option<Self> {
        if answer.caching.no_store {
            return None;
        }
        let max_age = answer.caching.max_age.unwrap_or(Duration::MAX);
        let fresh = ttl_of(answer.kind, ttls).min(max_age);
        let ends = match answer.kind {
            Kind::Denied => answer.retry_after.into_iter().chain(answer.limits.reset),
            Kind::Allowed | Kind::Rejected { .. } => None.into_iter().chain(None),
        };
        let end = ends.min().unwrap_or(Duration::MAX);
        let lasts = fresh.saturating_add(ttls.stale_if_error).min(end);
        (!lasts.is_zero()).then(|| Self {
            kind: answer.kind,
            cost: answer.cost,
            told: told_of(answer),
            stored: now,
            fresh_ns: nanos(fresh),
            over: now.after(lasts),
            used: false,
        })
    }

    /// How long it counts as new for a reader with these terms, in nanoseconds.
    fn fresh_for(&self, ttls: &CacheTtls) -> u64 {
        self.fresh_ns.min(nanos(ttl_of(self.kind, ttls)))
    }

    const fn holds_for(&self, cost: u64) -> bool {
        match self.kind {
            Kind::Allowed => cost <= self.cost,
            Kind::Denied => cost >= self.cost,
            Kind::Rejected { .. } => true,
        }
    }
}

/// What is to be told again with an answer, if there is anything.
fn told_of(answer: &Answer) -> Option<Box<Told>> {
    let told = Told {
        retry_after: answer.retry_after,
        rejected_status: match answer.kind {
            Kind::Rejected { status } => Some(status),
            Kind::Allowed | Kind::Denied => None,
        },
        limits: answer.limits,
    };
    (told != Told::default()).then(|| Box::new(told))
}

const fn ttl_of(kind: Kind, ttls: &CacheTtls) -> Duration {
    match kind {
        Kind::Allowed => ttls.allow,
        Kind::Denied => ttls.deny,
        Kind::Rejected { .. } => ttls.rejected,
    }
}

/// What an entry is counted as, beside its key: the entry itself and what was told with it, its
/// place in the index and in a queue, and what the allocator adds to its key.
pub const ENTRY_BYTES: usize = 256;

/// Probation holds a tenth: enough to notice a key that comes back, too little for a flood to
/// matter (the share that S3-FIFO's authors found best over most traces).
const PROBATION_SHARE: usize = 10;

/// What one eviction may look at, so that no request pays for a walk through the whole table. When
/// all of them are in use it is the newcomer that is not held.
const SECOND_CHANCES_MAX: usize = 32;

#[cfg(test)]
mod tests;
