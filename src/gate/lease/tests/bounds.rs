//! The bounds that the module's documentation states, measured against a backend that counts.

use super::world::{Fate, Random, Setting, World, name};
use super::*;

/// How a key with requests that come independently fares.
#[derive(Debug)]
struct Run {
    requests: u64,
    calls: u64,
    /// Of those that arrived after the first lease, and how long they waited at most.
    waited: usize,
    wait_max: u64,
    held_max: u64,
    expired: u64,
}

#[test]
fn a_hot_key_makes_few_calls_and_nobody_waits_after_its_first_lease() {
    for (latency, settled) in [
        (200, 20_000),
        (1_000, 20_000),
        (5_000, 40_000),
        (20_000, 100_000),
    ] {
        let setting = Setting {
            latency,
            ..endless()
        };
        let run = run(&setting, 200, 5, settled);
        println!("latency {latency} us: {run:?}");

        assert!(
            run.calls * 1_000 <= run.requests * 5,
            "{latency} us: {run:?}"
        );
        assert_eq!(run.waited, 0, "{latency} us: {run:?}");
        assert!(run.held_max <= 500);
    }
}

#[test]
fn calls_follow_the_formula_as_rate_max_units_and_ttl_vary() {
    for (per_second, max_units, ttl, at_most) in [
        (5_000, 500, 1_000, 3),
        (5_000, 100, 1_000, 14),
        (1_000, 500, 1_000, 3),
        (200, 500, 1_000, 13),
        (50, 500, 1_000, 55),
        (200, 500, 10_000, 6),
        (200, 20, 10_000, 60),
    ] {
        let terms = LeaseTerms {
            max_units,
            ttl: ms(ttl),
        };
        let setting = Setting { terms, ..endless() };
        let run = run(&setting, 1_000_000 / per_second, 20, 1_000_000);
        println!("{per_second}/s, {max_units} units, {ttl} ms: {run:?}");

        assert!(
            run.calls * 1_000 <= run.requests * at_most,
            "{per_second}/s: {run:?}"
        );
        assert!(run.held_max <= max_units);
        assert!(run.wait_max <= 1_000 && run.waited * 100 <= run.calls as usize * 10);
        assert!(run.expired * 100 <= run.requests);
    }
}

#[test]
fn a_key_of_low_rate_holds_no_more_than_it_needs() {
    // Mean need in a horizon of 0.5 s, and the most that is ever held: a burst by chance counts.
    for (per_second, held_max) in [(1, 0), (2, 12), (20, 30), (100, 100)] {
        let run = run(&endless(), 1_000_000 / per_second, 120, 0);
        println!("{per_second}/s: {run:?}");
        assert!(run.held_max <= held_max, "{per_second}/s: {run:?}");
    }
}

#[test]
fn a_key_that_falls_silent_loses_no_more_than_its_demand() {
    for per_second in [20_u64, 100, 500] {
        let mut world = World::new(endless());
        for _ in 0..per_second * 5 {
            world.request(0, 1, 1);
            world.pass(1_000_000 / per_second);
        }
        world.settle();
        let held = world.leases[0].held(&name(1));
        // A horizon of 0.5 s, two round trips of 1 ms and a 64th in hand.
        let bound = per_second / 2 + per_second / 500 + per_second / 128 + 1;
        assert!(held <= bound, "{held} at {per_second}/s");
    }
}

#[test]
fn nothing_is_let_through_beyond_the_limit_of_a_window_that_is_told() {
    // 3 workers share 1,000 units in each 500 ms, and want three times as much.
    let setting = Setting {
        workers: 3,
        limit: 1_000,
        window: 500_000,
        tells_reset: true,
        tells_remaining: true,
        ..endless()
    };
    let mut world = World::new(setting);
    let mut random = Random(1);
    for _ in 0..30_000 {
        let worker = random.below(3) as usize;
        world.request(worker, 1, 1);
        let gap = random.gap(167);
        world.pass(gap);
    }
    world.settle();

    let windows = world.books.used.len() as u64;
    assert!(windows >= 9);
    for ((_, window), used) in &world.books.used {
        assert!(*used <= 1_000, "{used} in window {window}");
    }
    // Nearly all of it is used, though each worker holds some.
    let allowed = world.books.allowed;
    assert!(
        allowed * 100 >= (windows - 1) * 1_000 * 97,
        "{allowed} in {windows} windows"
    );
}

#[test]
fn a_limit_that_is_cut_is_exceeded_by_no_more_than_what_the_workers_hold() {
    let setting = Setting {
        workers: 4,
        window: u64::MAX / 2,
        limit: 1 << 40,
        ..endless()
    };
    let mut world = World::new(setting);
    let mut random = Random(2);
    let mut drive = |world: &mut World| {
        for _ in 0..20_000 {
            let worker = random.below(4) as usize;
            world.request(worker, 1, 1);
            world.pass(50);
        }
    };
    drive(&mut world);
    world.settle();
    let before = world.books.allowed;
    world.setting.limit = world.charged(1, 0);
    drive(&mut world);
    world.settle();

    let after = world.books.allowed - before;
    assert!(after <= 4 * 500, "{after} after the cut");
}

#[test]
fn random_worlds_keep_their_books_and_their_bounds() {
    let mut totals = [0_u64; 5];
    for seed in 1..=150 {
        let mut random = Random(seed);
        let setting = random_setting(&mut random);
        let told = setting.tells_reset;
        let mut world = World::new(setting);
        wander(&mut world, &mut random);

        let books = &world.books;
        let ended = books.allowed + books.denied + books.failed;
        assert_eq!(
            ended, books.requests,
            "seed {seed}: every request ends once"
        );
        let held_by_all = world.setting.terms.max_units * world.setting.workers as u64;
        let beyond = if told { 0 } else { held_by_all };
        for (&(key, window), &used) in &books.used {
            let bound = world.setting.limit + beyond;
            assert!(
                used <= bound,
                "seed {seed}: key {key}: {used} in window {window} of {bound}"
            );
        }
        let counted = [
            books.requests,
            books.allowed,
            books.denied,
            books.failed,
            books.calls,
        ];
        for (total, count) in totals.iter_mut().zip(counted) {
            *total += count;
        }
    }
    println!("requests, allowed, denied, failed, calls: {totals:?}");
    assert!(totals.iter().all(|total| *total > 10_000), "{totals:?}");
}

/// A walk of 2,000 steps, with the books checked after each.
fn wander(world: &mut World, random: &mut Random) {
    let mut counts = vec![LeaseCounts::default(); world.setting.workers];
    let pace = 1 + random.below(20_000);
    for step in 0..2_000 {
        world.fate = match random.below(20) {
            0 => Fate::Unreachable,
            1 => Fate::ReplyLost,
            _ => Fate::Fine,
        };
        let worker = random.below(world.setting.workers as u64) as usize;
        let key = random.below(1 + random_key_bound(step)) as u32;
        let cost = random.below(4);
        world.request(worker, key, cost);
        let gap = random.gap(pace);
        world.pass(gap);
        if random.below(4) == 0 {
            world.tick();
        }
        check_books(world, &mut counts);
    }
    world.fate = Fate::Fine;
    world.settle();
    check_books(world, &mut counts);
    assert_eq!(world.waiting(), 0, "somebody waits for nothing");
}

/// What was granted is spent, held or expired; no key holds more than it may.
fn check_books(world: &mut World, counts: &mut [LeaseCounts]) {
    let Setting {
        terms, keys_max, ..
    } = world.setting;
    for (leases, sum) in world.leases.iter_mut().zip(counts) {
        let new = leases.take_counts();
        sum.granted_units += new.granted_units;
        sum.spent_units += new.spent_units;
        sum.expired_units += new.expired_units;
        let held: Vec<u64> = (0..KEYS).map(|key| leases.held(&name(key))).collect();
        assert!(held.iter().all(|held| *held <= terms.max_units), "{held:?}");
        assert_eq!(
            sum.granted_units,
            sum.spent_units + held.iter().sum::<u64>() + sum.expired_units
        );
        assert!(leases.len() <= keys_max);
    }
}

/// One key, so many microseconds between its requests on average, for so many seconds. Waits count
/// from `settled` on, in microseconds.
fn run(setting: &Setting, gap: u64, seconds: u64, settled: u64) -> Run {
    let mut world = World::new(setting.clone());
    let mut random = Random(7);
    let start = world.now;
    let mut next_tick = start;
    let mut held_max = 0;
    while world.now < start + seconds * 1_000_000 {
        world.request(0, 1, 1);
        held_max = held_max.max(world.leases[0].held(&name(1)));
        let wait = random.gap(gap);
        world.pass(wait);
        if world.now >= next_tick {
            world.tick();
            next_tick = world.now + 20_000;
        }
    }
    world.settle();
    let late = world
        .books
        .waits
        .iter()
        .filter(|(since, _)| *since >= start + settled);
    Run {
        requests: world.books.requests,
        calls: world.books.calls,
        waited: late.clone().count(),
        wait_max: late.map(|(_, wait)| *wait).max().unwrap_or(0),
        held_max,
        expired: world.leases[0].take_counts().expired_units,
    }
}

fn random_setting(random: &mut Random) -> Setting {
    Setting {
        workers: 1 + random.below(3) as usize,
        terms: LeaseTerms {
            max_units: 1 + random.below(200),
            ttl: ms(5 + random.below(2_000)),
        },
        keys_max: 3 + random.below(10) as usize,
        latency: 200 + random.below(50_000),
        limit: 1 + random.below(300),
        window: 50_000 + random.below(2_000_000),
        tells_reset: random.below(3) > 0,
        tells_remaining: random.below(2) == 0,
        gives_part: random.below(2) == 0,
    }
}

/// Mostly a few keys; now and then all of them.
const fn random_key_bound(step: u64) -> u64 {
    if step.is_multiple_of(10) {
        KEYS as u64 - 1
    } else {
        2
    }
}

/// One worker beside a backend without a limit to speak of, 1 ms away.
const fn endless() -> Setting {
    Setting {
        workers: 1,
        terms: TERMS,
        keys_max: 100,
        latency: 1_000,
        limit: 1 << 40,
        window: 3_600_000_000,
        tells_reset: false,
        tells_remaining: false,
        gives_part: false,
    }
}

const KEYS: u32 = 24;
