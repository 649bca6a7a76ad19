//! The local limit as its users meet it, and against a token bucket written down plainly.

use super::*;
use crate::shared::{PlainShared, Version};

/// As many as a worker has.
const SLOTS: usize = 1024;

const TEN_A_SECOND: LocalLimit = LocalLimit {
    units: 10,
    per: Duration::from_secs(1),
    burst: 20,
};

#[test]
fn gives_the_burst_at_once_and_then_a_unit_at_a_time() {
    let mut world = World::new(1);

    assert_eq!(world.take_all(7, &TEN_A_SECOND), 20);
    assert_eq!(
        world.take(0, 7, &TEN_A_SECOND, 1),
        Err(OverLimit::NotNow(Duration::from_millis(100)))
    );
    world.now = world.now.after(Duration::from_millis(99));
    assert_eq!(
        world.take(0, 7, &TEN_A_SECOND, 1),
        Err(OverLimit::NotNow(Duration::from_millis(1)))
    );
    world.now = world.now.after(Duration::from_millis(1));
    assert_eq!(world.take_all(7, &TEN_A_SECOND), 1);
    world.now = world.now.after(Duration::from_secs(1));
    assert_eq!(world.take_all(7, &TEN_A_SECOND), 10);
    world.now = world.now.after(Duration::from_secs(60));
    assert_eq!(world.take_all(7, &TEN_A_SECOND), 20);
}

#[test]
fn a_cost_is_taken_whole_or_not_at_all() {
    let mut world = World::new(1);

    assert_eq!(world.take(0, 7, &TEN_A_SECOND, 15), Ok(()));
    assert_eq!(
        world.take(0, 7, &TEN_A_SECOND, 6),
        Err(OverLimit::NotNow(Duration::from_millis(100)))
    );
    assert_eq!(world.take(0, 7, &TEN_A_SECOND, 5), Ok(()));
}

#[test]
fn a_cost_above_the_burst_is_never_allowed_and_uses_nothing() {
    let mut world = World::new(1);

    assert_eq!(world.take(0, 7, &TEN_A_SECOND, 21), Err(OverLimit::Never));
    assert_eq!(OverLimit::Never.retry_after(), None);
    assert_eq!(world.take(0, 7, &TEN_A_SECOND, 20), Ok(()));
}

#[test]
fn a_cost_of_nothing_is_always_allowed() {
    let mut world = World::new(1);
    world.take_all(7, &TEN_A_SECOND);

    assert_eq!(world.take(0, 7, &TEN_A_SECOND, 0), Ok(()));
}

#[test]
fn keys_have_units_of_their_own() {
    let mut world = World::new(1);

    assert_eq!(world.take_all(7, &TEN_A_SECOND), 20);
    assert_eq!(world.take_all(8, &TEN_A_SECOND), 20);
}

#[test]
fn workers_share_the_units_of_a_key() {
    let mut world = World::new(2);

    let allowed = (0..100)
        .filter(|n| world.take(n % 2, 7, &TEN_A_SECOND, 1).is_ok())
        .count();

    assert_eq!(allowed, 20);
}

#[test]
fn a_worker_that_loses_a_race_books_on_top_of_the_winner() {
    let mut world = World::new(2);
    let mut other = world.limits[1].clone();
    let now = world.now;
    let mut raced = Meddled {
        plain: &mut world.shared,
        before_store: 1,
        meddle: |shared: &mut PlainShared| {
            assert_eq!(other.take(now, 7, &TEN_A_SECOND, 15, shared), Ok(()));
        },
    };

    let taken = world.limits[0].take(now, 7, &TEN_A_SECOND, 15, &mut raced);

    assert_eq!(
        taken,
        Err(OverLimit::NotNow(Duration::from_secs(1))),
        "30 of 20 units: ten must grow back"
    );
}

#[test]
fn units_that_cannot_be_booked_are_not_given() {
    let mut world = World::new(1);
    let mut refusing = Meddled {
        plain: &mut world.shared,
        before_store: 5,
        meddle: |shared: &mut PlainShared| {
            let key = LocalLimits::new(SLOTS).slots;
            let _ = key.update(shared, key.home(7), |_| ((), Some(vec![1])));
        },
    };

    let taken = world.limits[0].take(world.now, 7, &TEN_A_SECOND, 1, &mut refusing);

    assert_eq!(taken, Err(OverLimit::NotNow(Duration::from_millis(100))));
    assert_eq!(world.limits[0].take_contended(), 1);
    assert_eq!(world.limits[0].take_contended(), 0);
}

#[test]
fn garbage_in_a_slot_counts_as_nothing() {
    let mut world = World::new(1);
    world.take_all(7, &TEN_A_SECOND);
    let key = format!("quota_gate/1/local/{}", world.limits[0].slots.home(7));
    let (_, version) = world.shared.load(&key);
    assert_ne!(version, Version(0), "the key's slot");
    world.shared.store(&key, b"another plugin's", version);

    assert_eq!(world.take_all(7, &TEN_A_SECOND), 20);
}

#[test]
fn a_wall_that_jumps_forward_gives_one_burst_away() {
    let mut world = World::new(1);
    world.take_all(7, &TEN_A_SECOND);
    world.now = world.now.after(Duration::from_secs(86_400));

    assert_eq!(world.take_all(7, &TEN_A_SECOND), 20);
}

#[test]
fn a_wall_that_jumps_back_costs_at_most_the_burst_s_time() {
    let mut world = World::new(1);
    world.take_all(7, &TEN_A_SECOND);
    world.now = Wall(world.now.0 - 36_000_000_000_000);

    assert_eq!(
        world.take(0, 7, &TEN_A_SECOND, 1),
        Err(OverLimit::NotNow(Duration::from_millis(100)))
    );
    world.now = world.now.after(Duration::from_secs(2));
    assert_eq!(world.take_all(7, &TEN_A_SECOND), 20);
}

#[test]
fn a_jump_back_does_not_block_a_slot_for_other_keys() {
    let mut world = World::new(1);
    let keys = world.keys_of_one_slot(5);
    for key in &keys[..4] {
        world.take_all(*key, &TEN_A_SECOND);
    }
    world.now = Wall(world.now.0 - 36_000_000_000_000);
    world.take_all(keys[4], &TEN_A_SECOND);
    world.now = world.now.after(Duration::from_secs(2));

    assert_eq!(world.take_all(keys[4], &TEN_A_SECOND), 20);
}

#[test]
fn a_fifth_live_key_takes_over_the_place_that_is_full_first() {
    let mut world = World::new(1);
    let keys = world.keys_of_one_slot(5);
    for (key, cost) in keys.iter().zip([20, 20, 12, 20]) {
        assert_eq!(world.take(0, *key, &TEN_A_SECOND, cost), Ok(()));
    }
    assert_eq!(world.limits[0].take_evictions(), 0);

    assert_eq!(world.take_all(keys[4], &TEN_A_SECOND), 8);

    assert_eq!(world.limits[0].take_evictions(), 1);
    assert_eq!(
        world.take_all(keys[2], &TEN_A_SECOND),
        0,
        "the evicted key gets nothing back"
    );
    assert_eq!(
        world.limits[0].take_evictions(),
        1,
        "who is refused for the debt of others is told of as well"
    );
}

#[test]
fn large_rates_are_kept_exactly() {
    let mut world = World::new(1);
    let limit = LocalLimit {
        units: 700_000_000,
        per: Duration::from_secs(1),
        burst: 700_000_000,
    };

    assert_eq!(world.take(0, 7, &limit, 700_000_000), Ok(()));
    world.now = world.now.after(Duration::from_millis(500));
    assert!(world.take(0, 7, &limit, 350_000_100).is_err());
    assert_eq!(world.take(0, 7, &limit, 349_999_900), Ok(()));
}

#[test]
fn extreme_limits_are_survived() {
    let mut world = World::new(1);
    let times = [world.now, Wall(0), Wall(u64::MAX), world.now];
    let pers = [Duration::ZERO, Duration::from_nanos(1), Duration::MAX];
    let numbers = [0, 1, u64::MAX];
    for pick in 0..3 * 3 * 3 * 3 * 4_usize {
        let limit = LocalLimit {
            units: numbers[pick % 3],
            burst: numbers[pick / 3 % 3],
            per: pers[pick / 9 % 3],
        };
        let cost = numbers[pick / 27 % 3];
        world.now = times[pick / 81];

        let taken = world.take(0, pick as u64 % 9, &limit, cost);

        let never = cost > limit.burst || (cost > 0 && limit.units == 0);
        assert_eq!(taken == Err(OverLimit::Never), never, "{limit:?} {cost}");
    }
}

/// Random walks of four workers, keys that fit their slots and limits that divide evenly: every
/// answer is the model's.
#[test]
fn agrees_with_a_token_bucket() {
    for seed in 0..200 {
        let mut random = Random(seed);
        let mut world = World::new(4);
        let mut buckets = [const { None::<Bucket> }; 3];
        let limit = LocalLimit {
            units: [1, 5, 10, 1_000][random.below(4)],
            per: Duration::from_millis([100, 1_000, 60_000][random.below(3)]),
            burst: [1, 3, 20][random.below(3)],
        };
        for step in 0..300 {
            let beat = limit.per.as_nanos() as u64 / limit.units;
            world.now = Wall(world.now.0 + beat * random.below(3) as u64 / 2);
            let key = random.below(3);
            let cost = 1 + random.below(3) as u64;
            let bucket = buckets[key].get_or_insert_with(|| Bucket::full(world.now, &limit));
            let expected = bucket.take(world.now, &limit, cost);
            let taken = world.take(random.below(4), key as u64, &limit, cost);
            assert_eq!(
                taken.is_ok(),
                expected,
                "seed {seed}, step {step}: {taken:?}"
            );
        }
    }
}

/// The same with more keys than a slot has places: nobody gets more than the model gives.
#[test]
fn a_flood_of_keys_never_loosens_a_limit() {
    for seed in 0..100 {
        let mut random = Random(seed);
        let mut world = World::new(2);
        let keys = world.keys_of_one_slot(9);
        let mut buckets = vec![Bucket::full(world.now, &TEN_A_SECOND); keys.len()];
        let mut evicted = false;
        for step in 0..500 {
            world.now = world
                .now
                .after(Duration::from_millis(random.below(60) as u64));
            let key = random.below(keys.len());
            let cost = 1 + random.below(6) as u64;
            let worker = random.below(2);
            if world.take(worker, keys[key], &TEN_A_SECOND, cost).is_ok() {
                let within = buckets[key].take(world.now, &TEN_A_SECOND, cost);
                assert!(within, "seed {seed}, step {step}");
            }
            evicted |= world.limits[worker].take_evictions() > 0;
        }
        assert!(evicted, "seed {seed} tried nothing");
    }
}

/// A token bucket: units × nanoseconds, so that nothing is rounded.
#[derive(Clone, Debug)]
struct Bucket {
    level: u128,
    at: Wall,
}

impl Bucket {
    fn full(now: Wall, limit: &LocalLimit) -> Self {
        let level = u128::from(limit.burst) * limit.per.as_nanos();
        Self { level, at: now }
    }

    fn take(&mut self, now: Wall, limit: &LocalLimit, cost: u64) -> bool {
        let grown = now.since(self.at).as_nanos() * u128::from(limit.units);
        let full = u128::from(limit.burst) * limit.per.as_nanos();
        self.level = full.min(self.level + grown);
        self.at = now;
        match self
            .level
            .checked_sub(u128::from(cost) * limit.per.as_nanos())
        {
            Some(left) => {
                self.level = left;
                true
            }
            None => false,
        }
    }
}

/// Some workers over one shared data.
struct World {
    now: Wall,
    shared: PlainShared,
    limits: Vec<LocalLimits>,
}

impl World {
    fn new(workers: usize) -> Self {
        Self {
            now: Wall::from_secs(1_800_000_000),
            shared: PlainShared::default(),
            limits: vec![LocalLimits::new(SLOTS); workers],
        }
    }

    fn take(
        &mut self,
        worker: usize,
        key: u64,
        limit: &LocalLimit,
        cost: u64,
    ) -> Result<(), OverLimit> {
        self.limits[worker].take(self.now, key, limit, cost, &mut self.shared)
    }

    /// Takes units one by one until there are none, and says how many there were.
    fn take_all(&mut self, key: u64, limit: &LocalLimit) -> usize {
        (0..1_000)
            .take_while(|_| self.take(0, key, limit, 1).is_ok())
            .count()
    }

    fn keys_of_one_slot(&self, count: usize) -> Vec<u64> {
        let slots = &self.limits[0].slots;
        (0..)
            .filter(|key| slots.home(*key) == 3)
            .take(count)
            .collect()
    }
}

/// Lets somebody else act just before a store, so many times.
struct Meddled<'a, F> {
    plain: &'a mut PlainShared,
    before_store: u32,
    meddle: F,
}

impl<F: FnMut(&mut PlainShared)> Shared for Meddled<'_, F> {
    fn load(&mut self, key: &str) -> (Vec<u8>, Version) {
        self.plain.load(key)
    }

    fn store(&mut self, key: &str, value: &[u8], expected: Version) -> bool {
        if let Some(left) = self.before_store.checked_sub(1) {
            self.before_store = left;
            (self.meddle)(self.plain);
        }
        self.plain.store(key, value, expected)
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        (crate::gate::slots::scatter(self.0) % bound as u64) as usize
    }
}
