//! The runs that show one thing together.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde::{Deserialize, Serialize};

use crate::books::Kind;
use crate::setting::{KeySetting, Mode, Outcome, Setting, Told};
use crate::world::run;

/// The fleet that is asked about.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Plan {
    /// Proxies.
    pub proxies: usize,
    /// Workers of each.
    pub workers: usize,
    /// Keys in use.
    pub keys: usize,
    /// Requests in a second, in the whole fleet.
    pub rate: f64,
    /// Proxies that a key's requests come through.
    pub spread: usize,
    /// The runs' randomness.
    pub seed: u64,
    /// Just enough to hold the promises against.
    pub quick: bool,
}

/// What all runs came to.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Report {
    /// The fleet.
    pub plan: Plan,
    /// Every key of the fleet under ample limits: what is asked of the backend.
    pub traffic: Vec<Outcome>,
    /// One key that wants twice its limit: who gets how much.
    pub scarce: Vec<Outcome>,
    /// Limits that are large or small beside the number of workers.
    pub sizes: Vec<Outcome>,
    /// A limit that is cut: what is spent all the same.
    pub cut: Vec<Outcome>,
}

impl Report {
    /// Every run.
    pub fn all(&self) -> impl Iterator<Item = &Outcome> {
        let parts = [&self.traffic, &self.scarce, &self.sizes, &self.cut];
        parts.into_iter().flatten()
    }
}

/// Runs everything, on every core; `each` is told how many runs are done, and of how many.
#[must_use]
pub fn study(plan: &Plan, each: impl Fn(usize, usize) + Sync) -> Report {
    let parts = [traffic(plan), scarce(plan), sizes(plan), cut(plan)];
    let ends = parts.each_ref().map(Vec::len);
    let mut outcomes = run_all(&parts.concat(), each).into_iter();
    let mut next = |part: usize| outcomes.by_ref().take(ends[part]).collect();
    Report {
        plan: *plan,
        traffic: next(0),
        scarce: next(1),
        sizes: next(2),
        cut: next(3),
    }
}

fn run_all(settings: &[Setting], each: impl Fn(usize, usize) + Sync) -> Vec<Outcome> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    let work = || {
        while let Some((index, setting)) = {
            let index = next.fetch_add(1, Ordering::Relaxed);
            settings.get(index).map(|setting| (index, setting))
        } {
            let outcome = run(setting);
            if let Ok(mut done) = done.lock() {
                done.push((index, outcome));
                each(done.len(), settings.len());
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let mut done = done.into_inner().unwrap_or_default();
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, outcome)| outcome).collect()
}

/// Each band of ranks stands for its keys: 1, 2–3, 4–7 and so on, by one key at their mean rate.
/// Under Zipf's law with exponent 1 every band but the first has about the same traffic.
#[must_use]
pub fn bands(plan: &Plan) -> Vec<KeySetting> {
    let weight = |from: usize, to: usize| (from..to).map(|rank| 1.0 / rank as f64).sum::<f64>();
    let all = weight(1, plan.keys + 1);
    let mut bands = Vec::new();
    let mut from = 1;
    while from <= plan.keys {
        let to = (2 * from).min(plan.keys + 1);
        let share = weight(from, to) / all;
        bands.push(KeySetting {
            rate: plan.rate * share / (to - from) as f64,
            share,
            limit: AMPLE,
        });
        from = to;
    }
    bands
}

fn base(plan: &Plan) -> Setting {
    Setting {
        proxies: plan.proxies,
        workers: plan.workers,
        spread: plan.spread,
        uneven: false,
        mode: Mode::Each,
        books: Kind::Windows,
        told: Told::Exactly,
        keys: Vec::new(),
        window: 10_000,
        windows: (1, 1),
        latency: 2_000,
        ebb: 1.0,
        cut: None,
        seed: plan.seed,
    }
}

/// Proxies that stand for all where no limit is near: there no worker knows of another, so a tenth
/// of them with a tenth of the traffic asks as often.
#[must_use]
pub const fn part(plan: &Plan) -> usize {
    let tenth = plan.proxies / 10;
    let enough = if plan.proxies < ENOUGH {
        plan.proxies
    } else {
        ENOUGH
    };
    if tenth > enough { tenth } else { enough }
}

/// As `max_units` and ttl vary.
fn traffic(plan: &Plan) -> Vec<Setting> {
    let ttls: &[u64] = if plan.quick { &[1_000] } else { &TTLS };
    let sizes: &[u64] = if plan.quick { &[20, 200] } else { &MAX_UNITS };
    let leased = ttls.iter().flat_map(|ttl| {
        sizes.iter().map(|max_units| Mode::Leased {
            max_units: *max_units,
            ttl: *ttl,
        })
    });
    let part = part(plan);
    let keys = bands(plan).into_iter().map(|key| KeySetting {
        rate: key.rate * part as f64 / plan.proxies as f64,
        ..key
    });
    let keys: Vec<KeySetting> = keys.collect();
    let setting = |mode| Setting {
        proxies: part,
        spread: (plan.spread * part).div_ceil(plan.proxies),
        mode,
        keys: keys.clone(),
        // No window ends in the minds of the gates, and the longest horizon is learnt.
        told: Told::Nothing,
        windows: if plan.quick { (1, 1) } else { (2, 1) },
        ..base(plan)
    };
    [Mode::Denials]
        .into_iter()
        .chain(leased)
        .map(setting)
        .collect()
}

/// One key that wants twice its limit after a calm window; a quarter of the proxies has half of
/// its traffic.
fn scarce(plan: &Plan) -> Vec<Setting> {
    let told = [
        (Kind::Windows, Told::Exactly),
        (Kind::Windows, Told::InSeconds),
        (Kind::Windows, Told::Nothing),
        (Kind::Bucket, Told::Nothing),
    ];
    let ttls: &[u64] = if plan.quick {
        &[1_000]
    } else {
        &[1_000, 10_000]
    };
    let sizes: &[u64] = if plan.quick { &[5, 50] } else { &SOME_UNITS };
    let mut modes = vec![Mode::Each, Mode::Denials];
    modes.extend((!plan.quick).then_some(Mode::Allows(1_000)));
    for ttl in ttls {
        modes.extend(sizes.iter().map(|max_units| Mode::Leased {
            max_units: *max_units,
            ttl: *ttl,
        }));
    }
    let settings = told.iter().flat_map(|(books, told)| {
        modes.iter().map(|mode| Setting {
            mode: *mode,
            books: *books,
            told: *told,
            uneven: true,
            ebb: EBB,
            ..lone(plan, 20.0, 0.5)
        })
    });
    settings.collect()
}

/// From a limit of a few units for each worker to one of hundreds.
fn sizes(plan: &Plan) -> Vec<Setting> {
    let rates: &[f64] = if plan.quick {
        &[100.0]
    } else {
        &[0.5, 2.0, 5.0, 20.0, 50.0]
    };
    let setting = |rate: &f64| Setting {
        mode: Mode::Leased {
            max_units: 100,
            ttl: 1_000,
        },
        told: Told::InSeconds,
        uneven: true,
        ebb: EBB,
        ..lone(plan, *rate, 0.5)
    };
    rates.iter().map(setting).collect()
}

fn cut(plan: &Plan) -> Vec<Setting> {
    let sizes: &[u64] = if plan.quick { &[5, 50] } else { &SOME_UNITS };
    let ttls: &[u64] = if plan.quick {
        &[1_000]
    } else {
        &[1_000, 10_000]
    };
    let keys = vec![KeySetting {
        limit: AMPLE,
        ..lone(plan, 20.0, 1.0).keys[0].clone()
    }];
    let setting = |max_units: u64, ttl: u64| Setting {
        mode: Mode::Leased { max_units, ttl },
        cut: Some(5_000),
        // Long enough for what is held to be spent or to expire.
        window: if ttl > 2_000 { 16_000 } else { 8_000 },
        windows: (0, 1),
        keys: keys.clone(),
        ..base(plan)
    };
    let mut settings = Vec::new();
    for ttl in ttls {
        settings.extend(sizes.iter().map(|size| setting(*size, *ttl)));
        // Whoever slows down with the cut spends what is held until it expires.
        settings.extend(sizes.last().map(|size| Setting {
            ebb: 0.1,
            cut: Some(10_000),
            window: 10_000,
            windows: (0, 2),
            // A window that is told to end would end the leases, too.
            told: Told::Nothing,
            ..setting(*size, *ttl)
        }));
    }
    settings
}

/// One key with so many requests in a second on each worker, and a limit of that share of them.
fn lone(plan: &Plan, rate: f64, share: f64) -> Setting {
    let rate = rate * (plan.spread * plan.workers) as f64;
    let window = 5_000;
    Setting {
        window,
        windows: (1, 2),
        keys: vec![KeySetting {
            rate,
            share: 1.0,
            limit: (rate * share * window as f64 / 1000.0) as u64,
        }],
        ..base(plan)
    }
}

/// The sizes of a lease that are tried.
pub const MAX_UNITS: [u64; 5] = [5, 20, 100, 500, 2_000];

/// Those of which the errors are shown.
pub const SOME_UNITS: [u64; 4] = [5, 20, 100, 500];

/// The lifetimes of a lease that are tried, in milliseconds.
pub const TTLS: [u64; 3] = [300, 1_000, 10_000];

/// In a calm window nine tenths of the limit are asked for; in a rush, twice the limit.
const EBB: f64 = 0.45;

/// More than anybody asks for.
const AMPLE: u64 = 1 << 40;

/// With fewer proxies chance would decide.
const ENOUGH: usize = 50;
