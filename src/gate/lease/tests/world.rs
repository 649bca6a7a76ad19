//! Workers that hold leases, a backend that counts in fixed windows, and calls that take time and
//! may fail: what a gate does with leases, in virtual time.

use std::collections::{BTreeMap, VecDeque};

use super::super::{Grant, Leases, Spend};
use crate::config::LeaseTerms;
use crate::decision::Limits;
use crate::time::Instant;
use std::time::Duration;

/// What a world is made of. Times are in microseconds.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) workers: usize,
    pub(super) terms: LeaseTerms,
    pub(super) keys_max: usize,
    pub(super) latency: u64,
    pub(super) limit: u64,
    pub(super) window: u64,
    /// The backend tells when its window ends.
    pub(super) tells_reset: bool,
    /// The backend tells what remains.
    pub(super) tells_remaining: bool,
    /// The backend gives what it has rather than refusing.
    pub(super) gives_part: bool,
}

/// How a call fares.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fate {
    Fine,
    /// Never reaches the backend.
    Unreachable,
    /// The backend has counted it, but its reply is lost.
    ReplyLost,
}

/// What became of the requests.
#[derive(Clone, Debug, Default)]
pub(super) struct Books {
    pub(super) requests: u64,
    pub(super) allowed: u64,
    pub(super) denied: u64,
    pub(super) failed: u64,
    pub(super) calls: u64,
    /// When those who had to wait for a call arrived, and for how long they waited.
    pub(super) waits: Vec<(u64, u64)>,
    /// Units let through, by key and window.
    pub(super) used: BTreeMap<(u32, u64), u64>,
}

pub(super) struct World {
    pub(super) setting: Setting,
    pub(super) now: u64,
    pub(super) books: Books,
    /// Decides about the next call.
    pub(super) fate: Fate,
    pub(super) leases: Vec<Leases>,
    joined: Vec<BTreeMap<u32, VecDeque<Waiter>>>,
    charged: BTreeMap<(u32, u64), u64>,
    events: BTreeMap<(u64, u64), Event>,
    events_made: u64,
}

#[derive(Clone, Copy, Debug)]
struct Waiter {
    cost: u64,
    since: u64,
}

#[derive(Clone, Copy, Debug)]
enum Purpose {
    Check,
    Lease,
    Renewal,
}

#[derive(Clone, Copy, Debug)]
struct Call {
    worker: usize,
    key: u32,
    purpose: Purpose,
    waiter: Waiter,
    units: u64,
    fate: Fate,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    /// The backend gets it.
    Check(Call),
    /// Its end is told, and which window it was charged to.
    End(Call, Option<(u64, Limits)>, u64),
}

impl World {
    pub(super) fn new(setting: Setting) -> Self {
        let leases = (0..setting.workers)
            .map(|worker| Leases::new(setting.keys_max, usize::MAX, worker as u64))
            .collect();
        let joined = vec![BTreeMap::new(); setting.workers];
        Self {
            now: 3_600_000_000,
            books: Books::default(),
            fate: Fate::Fine,
            leases,
            joined,
            charged: BTreeMap::new(),
            events: BTreeMap::new(),
            events_made: 0,
            setting,
        }
    }

    /// A request arrives.
    pub(super) fn request(&mut self, worker: usize, key: u32, cost: u64) {
        self.books.requests += 1;
        let now = self.instant();
        let terms = self.setting.terms;
        let spend = self.leases[worker].spend(now, &name(key), cost, &terms);
        let waiter = Waiter {
            cost,
            since: self.now,
        };
        self.place(worker, key, waiter, spend);
    }

    /// Lets time pass, and what is under way happen.
    pub(super) fn pass(&mut self, micros: u64) {
        let end = self.now + micros;
        while let Some((&(time, number), _)) = self.events.first_key_value() {
            if time > end {
                break;
            }
            let event = self.events.remove(&(time, number));
            self.now = time;
            match event {
                Some(Event::Check(call)) => self.check(call),
                Some(Event::End(call, answer, window)) => self.end(call, answer, window),
                None => {}
            }
        }
        self.now = end;
    }

    /// Lets what is under way come to its end.
    pub(super) fn settle(&mut self) {
        while let Some((&(time, _), _)) = self.events.first_key_value() {
            self.pass(time - self.now);
        }
    }

    pub(super) fn tick(&mut self) {
        let now = self.instant();
        for leases in &mut self.leases {
            leases.handle_tick(now);
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.joined
            .iter()
            .flat_map(BTreeMap::values)
            .map(VecDeque::len)
            .sum()
    }

    pub(super) fn instant(&self) -> Instant {
        Instant(self.now * 1_000)
    }

    /// What a backend that grants nothing beyond its limit has granted.
    pub(super) fn charged(&self, key: u32, window: u64) -> u64 {
        self.charged.get(&(key, window)).copied().unwrap_or(0)
    }

    fn place(&mut self, worker: usize, key: u32, waiter: Waiter, spend: Spend) {
        match spend {
            Spend::Ask { units } => self.call(worker, key, Purpose::Lease, waiter, units),
            Spend::Join => self.joined[worker]
                .entry(key)
                .or_default()
                .push_back(waiter),
            Spend::Leased { renew } => {
                let window = self.now / self.setting.window;
                self.allow(key, waiter, window);
                if let Some(units) = renew {
                    self.call(worker, key, Purpose::Renewal, waiter, units);
                }
            }
            Spend::Plain => self.call(worker, key, Purpose::Check, waiter, waiter.cost),
        }
    }

    fn call(&mut self, worker: usize, key: u32, purpose: Purpose, waiter: Waiter, units: u64) {
        self.books.calls += 1;
        if !matches!(purpose, Purpose::Check) {
            let now = self.instant();
            self.leases[worker].asked(now, &name(key), units);
        }
        let fate = self.fate;
        let call = Call {
            worker,
            key,
            purpose,
            waiter,
            units,
            fate,
        };
        self.later(self.setting.latency / 2, Event::Check(call));
    }

    fn later(&mut self, delay: u64, event: Event) {
        self.events_made += 1;
        self.events
            .insert((self.now + delay, self.events_made), event);
    }

    /// The backend's part.
    fn check(&mut self, call: Call) {
        let Setting {
            limit,
            window,
            latency,
            ..
        } = self.setting;
        let index = self.now / window;
        let charged = self.charged.entry((call.key, index)).or_default();
        let room = limit - *charged;
        let part = self.setting.gives_part && !matches!(call.purpose, Purpose::Check);
        let given = if call.units <= room {
            call.units
        } else if part && room >= call.waiter.cost {
            room
        } else {
            0
        };
        if call.fate != Fate::Unreachable {
            *charged += given;
        }
        let left = limit - *charged;
        let limits = Limits {
            reset: self
                .setting
                .tells_reset
                .then(|| Duration::from_micros((index + 1) * window - self.now)),
            remaining: self.setting.tells_remaining.then_some(left),
            ..Limits::NONE
        };
        let answer = (call.fate == Fate::Fine).then_some((given, limits));
        let delay = if answer.is_some() {
            latency - latency / 2
        } else {
            LOST_AFTER
        };
        self.later(delay, Event::End(call, answer, index));
    }

    fn end(&mut self, call: Call, answer: Option<(u64, Limits)>, window: u64) {
        let now = self.instant();
        let Call {
            worker,
            key,
            waiter,
            ..
        } = call;
        let leases = &mut self.leases[worker];
        match (call.purpose, answer) {
            (Purpose::Check, None) => self.books.failed += 1,
            (Purpose::Check, Some((given, limits))) => {
                leases.observed(now, &name(key), &limits);
                if given >= waiter.cost {
                    self.allow(key, waiter, window);
                } else {
                    self.books.denied += 1;
                }
            }
            (Purpose::Lease | Purpose::Renewal, None) => {
                leases.failed(now, &name(key));
                let joined = self.joined[worker].remove(&key).unwrap_or_default();
                let asker = u64::from(matches!(call.purpose, Purpose::Lease));
                self.books.failed += joined.len() as u64 + asker;
            }
            (Purpose::Lease, Some((given, limits))) => {
                self.end_lease(call, given, limits, window);
                self.serve(worker, key);
            }
            (Purpose::Renewal, Some((0, limits))) => {
                leases.refused(now, &name(key), &limits);
                self.serve(worker, key);
            }
            (Purpose::Renewal, Some((units, limits))) => {
                leases.granted(
                    now,
                    &name(key),
                    &Grant {
                        units,
                        cost: 0,
                        limits,
                    },
                );
                self.serve(worker, key);
            }
        }
    }

    fn end_lease(&mut self, call: Call, given: u64, limits: Limits, window: u64) {
        let now = self.instant();
        let Call {
            worker,
            key,
            waiter,
            ..
        } = call;
        let leases = &mut self.leases[worker];
        let paid = if given == 0 {
            leases.refused(now, &name(key), &limits);
            false
        } else {
            let grant = Grant {
                units: given,
                cost: waiter.cost,
                limits,
            };
            leases.granted(now, &name(key), &grant)
        };
        if paid {
            self.allow(key, waiter, window);
        } else if call.units == waiter.cost {
            self.books.denied += 1;
        } else {
            self.call(worker, key, Purpose::Check, waiter, waiter.cost);
        }
    }

    fn serve(&mut self, worker: usize, key: u32) {
        let now = self.instant();
        let terms = self.setting.terms;
        for waiter in self.joined[worker].remove(&key).unwrap_or_default() {
            let spend = self.leases[worker].serve(now, &name(key), waiter.cost, &terms);
            self.place(worker, key, waiter, spend);
        }
    }

    fn allow(&mut self, key: u32, waiter: Waiter, window: u64) {
        self.books.allowed += 1;
        *self.books.used.entry((key, window)).or_default() += waiter.cost;
        if waiter.since < self.now {
            self.books
                .waits
                .push((waiter.since, self.now - waiter.since));
        }
    }
}

pub(super) const fn name(key: u32) -> [u8; 4] {
    key.to_le_bytes()
}

/// A small generator (splitmix64), so that a seed means the same run everywhere.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    /// The time to the next of events that come independently, `mean` apart.
    pub(super) fn gap(&mut self, mean: u64) -> u64 {
        let share = (self.below(1 << 32) + 1) as f64 / (1_u64 << 32) as f64;
        (-share.ln() * mean as f64) as u64
    }
}

/// What a call is given before it counts as failed.
const LOST_AFTER: u64 = 80_000;
