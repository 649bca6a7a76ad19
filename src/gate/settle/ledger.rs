//! Units that were used and not told yet, summed by key, within bounds.
//!
//! When the ledger is full, what is in it goes out early; while that is not possible (the backend
//! is away), the batch with the fewest units is dropped, the new one included, and counted.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::time::Duration;

use super::signed;
use crate::config::Policy;
use crate::config::settle::Settle;
use crate::decision::AllowReason;
use crate::descriptor::Key;
use crate::sorted::SortedMap;
use crate::time::Instant;

/// What requests of one key have used.
#[derive(Debug)]
pub(super) struct Batch {
    /// By which terms it is told.
    pub(super) policy: Rc<Policy>,
    /// Whose use it is.
    pub(super) key: Key,
    /// Why the requests were let through without a check, where they were.
    pub(super) unchecked: Option<AllowReason>,
    /// Units used, or below 0 units charged and not used.
    pub(super) units: i64,
    /// How many requests it is about.
    pub(super) requests: u32,
    /// When the first of them ended.
    pub(super) since: Instant,
}

impl Batch {
    /// Its policy's settlement; there is one wherever there is a batch.
    pub(super) fn terms(&self) -> Option<&Settle> {
        self.policy.settle.as_deref()
    }

    /// When it is told, unless it has to wait.
    fn due(&self) -> Instant {
        let every = self.terms().map_or(Duration::ZERO, |terms| terms.every);
        self.since.after(every)
    }

    /// Takes off what is above so many units, if anything is.
    pub(super) fn take_above(&mut self, most: u64) -> Option<Self> {
        let most = signed(most);
        let rest = self.units.checked_sub(most).filter(|rest| *rest > 0)?;
        self.units = most;
        Some(Self {
            policy: Rc::clone(&self.policy),
            key: self.key.clone(),
            unchecked: self.unchecked,
            units: rest,
            // All of them are told with the first part.
            requests: 0,
            since: self.since,
        })
    }

    /// Whether it has been told in vain for so long that it is given up.
    pub(super) fn is_too_old(&self, now: Instant) -> bool {
        let retry_for = self.terms().map_or(Duration::ZERO, |terms| terms.retry_for);
        now.since(self.due()) > retry_for
    }
}

/// What is not told yet.
#[derive(Debug)]
pub(super) struct Ledger {
    entries_max: usize,
    bytes_max: usize,
    batches: SortedMap<Place, Box<Batch>>,
    bytes: usize,
    /// The batch that was taken out last: the next time, the others come first.
    hand: Option<Place>,
}

/// Where a batch is: those of one key that were checked and that were not are told apart.
type Place = (Key, Option<AllowReason>);

impl Ledger {
    /// A ledger of so many batches and bytes at most.
    pub(super) const fn new(entries_max: usize, bytes_max: usize) -> Self {
        Self {
            entries_max,
            bytes_max,
            batches: SortedMap::new(),
            bytes: 0,
            hand: None,
        }
    }

    /// Adds to the batch of a key. What has to be dropped for it comes back.
    pub(super) fn add(&mut self, batch: Batch) -> Option<Batch> {
        let own = self.batches.find_mut(|(key, unchecked)| {
            let order = key.cmp(&batch.key);
            order.then_with(|| unchecked.cmp(&batch.unchecked))
        });
        if let Some(own) = own {
            own.units = own.units.saturating_add(batch.units);
            own.requests = own.requests.saturating_add(batch.requests);
            return None;
        }
        let place = (batch.key.clone(), batch.unchecked);
        let weight = weight(&batch);
        let full = self.batches.len() >= self.entries_max
            || self.bytes.saturating_add(weight) > self.bytes_max;
        let dropped = if full {
            let size = batch.units.unsigned_abs();
            match self.take_smallest_below(size) {
                Some(smaller) => Some(smaller),
                None => return Some(batch),
            }
        } else {
            None
        };
        self.bytes = self.bytes.saturating_add(weight);
        self.batches.insert(place, Box::new(batch));
        dropped
    }

    /// Whether nothing waits to be told.
    pub(super) const fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Every batch that waits.
    pub(super) fn batches(&self) -> impl Iterator<Item = &Batch> {
        self.batches.values().map(|batch| &**batch)
    }

    /// Takes out the batches that are due, or all when the ledger is filling up, as far as `wants`
    /// agrees.
    pub(super) fn take_due(
        &mut self,
        now: Instant,
        mut wants: impl FnMut(&Batch) -> bool,
    ) -> Vec<Batch> {
        let early = self.batches.len() > self.entries_max / 2 || self.bytes > self.bytes_max / 2;
        self.take(&mut |batch| (early || batch.due() <= now) && wants(batch))
    }

    /// Takes out the batches that nobody could be told of for too long.
    pub(super) fn take_old(&mut self, now: Instant) -> Vec<Batch> {
        self.take(&mut |batch| batch.is_too_old(now))
    }

    /// Takes out what `wants` agrees to; those behind the one that was taken last come first.
    fn take(&mut self, wants: &mut dyn FnMut(&Batch) -> bool) -> Vec<Batch> {
        let Some(hand) = self.hand.clone().or_else(|| self.first_place()) else {
            return Vec::new();
        };
        let taken = self.batches.take_where(&hand, |batch| wants(batch));
        if let Some((place, _)) = taken.last() {
            self.hand = Some(place.clone());
        }
        let taken: Vec<Batch> = taken.into_iter().map(|(_, batch)| *batch).collect();
        let weight = taken.iter().map(weight).fold(0, usize::saturating_add);
        self.bytes = self.bytes.saturating_sub(weight);
        taken
    }

    /// Takes out everything.
    pub(super) fn take_all(&mut self) -> Vec<Batch> {
        self.take(&mut |_| true)
    }

    fn first_place(&self) -> Option<Place> {
        self.batches.first().map(|(place, _)| place.clone())
    }

    fn take_smallest_below(&mut self, size: u64) -> Option<Batch> {
        let smallest = self
            .batches()
            .min_by_key(|batch| batch.units.unsigned_abs())?;
        if smallest.units.unsigned_abs() >= size {
            return None;
        }
        let place = (smallest.key.clone(), smallest.unchecked);
        let batch = *self.batches.remove(&place)?;
        self.bytes = self.bytes.saturating_sub(weight(&batch));
        Some(batch)
    }
}

/// A batch's key is held twice.
fn weight(batch: &Batch) -> usize {
    let keys = batch.key.as_bytes().len().saturating_mul(2);
    keys.saturating_add(BATCH_BYTES)
}

/// What a batch is counted as beside its key.
const BATCH_BYTES: usize = 120;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse::parse;
    use crate::descriptor::describe;
    use crate::request::PlainRequest;

    /// A batch of a tenant's units that became due at 0.
    fn batch(tenant: &str, units: i64) -> Batch {
        let config = parse(
            br#"{
                "backends": {"b": {"cluster": "c"}},
                "policies": {"p": {
                    "backend": "b",
                    "descriptor": [{"name": "tenant", "header": "x-tenant"}],
                    "failure_mode": "fail_closed",
                    "settle": {"usage": [{"header": "x-units"}]}
                }},
                "default_policy": "p",
                "host_budget": "1s"
            }"#,
        )
        .unwrap();
        let policy = Rc::clone(&config.policies[0]);
        let request = PlainRequest::new("GET", "a", "/").with_header("x-tenant", tenant);
        Batch {
            key: describe(&policy, &request).unwrap().into_key(),
            policy,
            unchecked: None,
            units,
            requests: 1,
            since: Instant(0),
        }
    }

    fn units(ledger: &Ledger) -> Vec<i64> {
        ledger.batches().map(|batch| batch.units).collect()
    }

    #[test]
    fn sums_up_what_is_of_one_key() {
        let mut ledger = Ledger::new(10, 10_000);
        for (tenant, units) in [("a", 7), ("b", 5), ("a", -3)] {
            assert!(ledger.add(batch(tenant, units)).is_none());
        }
        let mut unchecked = batch("a", 1);
        unchecked.unchecked = Some(AllowReason::FailedOpen);
        assert!(ledger.add(unchecked).is_none());

        assert_eq!(units(&ledger), [4, 1, 5]);
        let requests: Vec<u32> = ledger.batches().map(|batch| batch.requests).collect();
        assert_eq!(requests, [2, 1, 1]);
    }

    #[test]
    fn what_is_too_much_for_one_report_is_taken_off() {
        let mut large = batch("a", 25);
        let rest = large.take_above(10).unwrap();
        assert_eq!((large.units, large.requests), (10, 1));
        assert_eq!((rest.units, rest.requests, rest.since), (15, 0, Instant(0)));
        for units in [10, 1, 0, -1, -25, i64::MIN] {
            assert!(batch("a", units).take_above(10).is_none(), "{units}");
        }
    }

    #[test]
    fn when_it_is_full_the_smallest_batch_goes() {
        let mut ledger = Ledger::new(3, 10_000);
        for (tenant, units) in [("a", 7), ("b", -2), ("c", 5)] {
            assert!(ledger.add(batch(tenant, units)).is_none());
        }

        let dropped = ledger.add(batch("d", 3)).map(|batch| batch.units);

        assert_eq!(dropped, Some(-2));
        assert_eq!(units(&ledger), [7, 5, 3]);
    }

    #[test]
    fn when_it_is_full_a_new_batch_that_is_the_smallest_is_not_taken() {
        let mut ledger = Ledger::new(2, 10_000);
        assert!(ledger.add(batch("a", 7)).is_none());
        assert!(ledger.add(batch("b", 2)).is_none());

        let dropped = ledger.add(batch("c", 2)).map(|batch| batch.units);

        assert_eq!(dropped, Some(2));
        assert_eq!(units(&ledger), [7, 2]);
        // What has a batch already is added to it, however full it is.
        assert!(ledger.add(batch("a", 1)).is_none());
        assert_eq!(units(&ledger), [8, 2]);
    }

    #[test]
    fn its_bytes_are_bounded_too_and_come_free_again() {
        let one = weight(&batch("a", 1));
        let mut ledger = Ledger::new(10, 2 * one);
        assert!(ledger.add(batch("a", 3)).is_none());
        assert!(ledger.add(batch("b", 4)).is_none());
        assert_eq!(ledger.bytes, 2 * one);

        assert_eq!(ledger.add(batch("c", 5)).map(|batch| batch.units), Some(3));
        assert_eq!(ledger.bytes, 2 * one);

        assert_eq!(ledger.take_all().len(), 2);
        assert_eq!(ledger.bytes, 0);
        assert!(ledger.is_empty());
    }

    #[test]
    fn more_than_half_full_it_gives_out_what_is_not_due_yet() {
        let mut ledger = Ledger::new(4, 10_000);
        let mut take = |tenant| {
            assert!(ledger.add(batch(tenant, 1)).is_none());
            ledger.take_due(Instant(0), |_| true).len()
        };
        assert_eq!([take("a"), take("b"), take("c")], [0, 0, 3]);
    }

    #[test]
    fn who_was_told_last_comes_last() {
        let mut ledger = Ledger::new(10, 10_000);
        for tenant in ["a", "b", "c"] {
            assert!(ledger.add(batch(tenant, 1)).is_none());
        }
        let due = Instant(0).after(Duration::from_millis(100));
        let mut take_one = || {
            let mut room = 1;
            let taken = ledger.take_due(due, |_| core::mem::take(&mut room) == 1);
            taken.into_iter().map(|batch| batch.key).collect::<Vec<_>>()
        };
        assert_eq!(take_one(), [batch("b", 1).key]);
        ledger.add(batch("b", 1));

        let next = ledger.take_due(due, |_| true).into_iter();

        let keys = ["c", "a", "b"].map(|tenant| batch(tenant, 1).key);
        assert_eq!(next.map(|batch| batch.key).collect::<Vec<_>>(), keys);
    }
}
