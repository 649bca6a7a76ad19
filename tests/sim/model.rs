//! What the world knows by itself: the backend's books, what a gate may know, and what a check
//! without cache, lease and breaker has to come to.

use std::collections::BTreeMap;

use crate::events::{MS, Mode, PolicyFacts, Random, SEC};

/// A policy's name and a tenant: what is counted together.
pub(crate) type Key = (String, String);

/// What the backend says about a check.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Ruling {
    /// So many units.
    Allow(u64),
    Deny,
    Reject(u16),
}

/// A check as it reaches the backend.
#[derive(Clone, Debug)]
pub(crate) struct Check {
    pub(crate) key: Key,
    pub(crate) cost: u64,
    /// There for a lease.
    pub(crate) least: Option<u64>,
}

/// An answer of the backend, as it goes out.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub(crate) ruling: Ruling,
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    /// In nanoseconds; each where it was told.
    pub(crate) reset: Option<u64>,
    pub(crate) retry: Option<u64>,
    pub(crate) max_age: Option<u64>,
    pub(crate) no_store: bool,
}

/// A backend that counts in fixed windows.
#[derive(Debug)]
pub(crate) struct Books {
    limit: u64,
    window: u64,
    tells_reset: bool,
    used: BTreeMap<(Key, u64), u64>,
    /// All units that were ever given, by key.
    pub(crate) given: BTreeMap<Key, u64>,
    /// Keys that are not valid at present end like this.
    pub(crate) bad: Option<&'static str>,
}

impl Books {
    pub(crate) fn new(random: &mut Random) -> Self {
        Self {
            limit: *random.pick(&[0, 3, 30, 1000, 100_000]),
            window: *random.pick(&[300 * MS, SEC, 5 * SEC]),
            tells_reset: random.percent(60),
            used: BTreeMap::new(),
            given: BTreeMap::new(),
            bad: Some("bad0"),
        }
    }

    /// The books are lost, and nobody is told.
    pub(crate) fn lose(&mut self) {
        self.used.clear();
    }

    /// The limit becomes another one, and nobody is told.
    pub(crate) fn change(&mut self, random: &mut Random) {
        self.limit = *random.pick(&[0, 3, 30, 1000]);
        self.bad = *random.pick(&[None, Some("bad0"), Some("bad1")]);
    }

    /// Counts a check and words the answer.
    pub(crate) fn answer(&mut self, random: &mut Random, truth: u64, check: &Check) -> Said {
        let window = truth / self.window;
        let used = self.used.entry((check.key.clone(), window)).or_default();
        let left = self.limit.saturating_sub(*used);
        let bad = self.bad.is_some_and(|bad| check.key.1.ends_with(bad));
        let least = check.least.unwrap_or(check.cost);
        let mut granted = None;
        let ruling = if bad {
            Ruling::Reject(*random.pick(&[401, 403]))
        } else if left < least {
            Ruling::Deny
        } else if check.least.is_some() {
            let (units, told) = grant(random, left, check.cost);
            granted = told;
            Ruling::Allow(units)
        } else {
            Ruling::Allow(check.cost)
        };
        if let Ruling::Allow(units) = ruling {
            *used += units;
            *self.given.entry(check.key.clone()).or_default() += units;
        }
        let left = self.limit.saturating_sub(*used);
        let reset = (window + 1) * self.window - truth;
        let mut said = Said::new(ruling);
        if let Some(units) = granted {
            said.header("x-quota-granted", &units.to_string());
        }
        if random.percent(70) {
            said.header("x-ratelimit-limit", &self.limit.to_string());
            said.header("x-ratelimit-remaining", &left.to_string());
            if self.tells_reset {
                let seconds = reset.div_ceil(SEC);
                said.header("x-ratelimit-reset", &seconds.to_string());
                said.reset = Some(seconds * SEC);
            }
        }
        said.dress(random);
        said
    }
}

/// How many units of a lease are given, and how many are told, if it is told.
fn grant(random: &mut Random, left: u64, cost: u64) -> (u64, Option<u64>) {
    let units = left.min(cost);
    match random.below(20) {
        0 => (0, Some(0)),
        1 => {
            let some = random.between(0, units);
            (some, Some(some))
        }
        2 if units == cost => (units, Some(units * 2)),
        3..=9 if units == cost => (units, None),
        _ => (units, Some(units)),
    }
}

impl Said {
    pub(crate) fn new(ruling: Ruling) -> Self {
        let status = match ruling {
            Ruling::Allow(_) => 200,
            Ruling::Deny => 429,
            Ruling::Reject(status) => status,
        };
        Self {
            ruling,
            status,
            headers: Vec::new(),
            reset: None,
            retry: None,
            max_age: None,
            no_store: false,
        }
    }

    pub(crate) fn header(&mut self, name: &str, value: &str) {
        self.headers
            .push((name.to_owned(), value.as_bytes().to_vec()));
    }

    fn dress(&mut self, random: &mut Random) {
        if self.status == 429 && random.percent(30) {
            let seconds = random.between(0, 2);
            self.header("retry-after", &seconds.to_string());
            self.retry = Some(seconds * SEC);
        }
        match random.below(12) {
            0 => {
                self.header("cache-control", "no-store");
                self.no_store = true;
            }
            1 => {
                self.header("cache-control", "max-age=1");
                self.max_age = Some(SEC);
            }
            2 => {
                self.header("cache-control", "private, max-age=0");
                self.max_age = Some(0);
            }
            _ => {}
        }
    }
}

/// A clock that never runs backwards, made of readings that may: it stands still for a reading
/// that went back, and goes on from there.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Steady {
    pub(crate) wall: u64,
    pub(crate) now: u64,
}

impl Steady {
    pub(crate) fn read(&mut self, wall: u64) {
        if self.wall == 0 {
            self.now = wall;
        } else {
            self.now += wall.saturating_sub(self.wall);
        }
        self.wall = wall;
    }
}

/// An answer that a gate has had, as far as it may be used again.
#[derive(Clone, Debug)]
struct Answer {
    ruling: Ruling,
    /// What it was asked about.
    cost: u64,
    at: u64,
    max_age: u64,
    /// When it is over in any case.
    over: u64,
}

/// Units that a gate was granted.
#[derive(Clone, Debug)]
struct Tranche {
    units: u64,
    expires: u64,
}

/// What one gate may know of a key.
#[derive(Debug, Default)]
pub(crate) struct Known {
    answers: Vec<Answer>,
    tranches: Vec<Tranche>,
}

impl Known {
    /// Takes a readable answer to a call that was made at `since`.
    pub(crate) fn learn(
        &mut self,
        now: u64,
        since: u64,
        check: &Check,
        said: &Said,
        policy: &PolicyFacts,
    ) {
        let units = match said.ruling {
            Ruling::Allow(units) => units.min(check.cost),
            Ruling::Deny | Ruling::Reject(_) => check.cost,
        };
        if let (Some(_), Ruling::Allow(_), Some((_, ttl))) =
            (check.least, said.ruling, policy.lease)
        {
            let lasts = said.reset.map_or(ttl, |reset| reset.min(ttl));
            self.tranches.push(Tranche {
                units,
                expires: since.saturating_add(lasts),
            });
        }
        // A no to a batch says nothing about less: whether it is remembered is the gate's affair.
        let replaces = check.least.is_none() || said.ruling != Ruling::Deny;
        if replaces {
            self.answers.clear();
        }
        let ends = said.retry.into_iter().chain(said.reset).min();
        let end = ends.filter(|_| said.ruling == Ruling::Deny);
        if !said.no_store {
            self.answers.push(Answer {
                ruling: said.ruling,
                cost: units,
                at: now,
                max_age: said.max_age.unwrap_or(u64::MAX),
                over: now.saturating_add(end.unwrap_or(u64::MAX)),
            });
        }
    }

    /// Whether an answer of that kind may stand for a request of this cost; `more` is how long
    /// after its freshness.
    pub(crate) fn remembers(
        &self,
        now: u64,
        cost: u64,
        policy: &PolicyFacts,
        more: u64,
        wanted: fn(Ruling) -> bool,
    ) -> bool {
        self.answers.iter().any(|answer| {
            let (ttl, holds) = match answer.ruling {
                Ruling::Allow(_) => (policy.allow_ttl, cost <= answer.cost),
                Ruling::Deny => (policy.deny_ttl, cost >= answer.cost),
                Ruling::Reject(_) => (policy.rejected_ttl, true),
            };
            let lasts = ttl.min(answer.max_age).saturating_add(more);
            wanted(answer.ruling) && holds && now - answer.at < lasts && now < answer.over
        })
    }

    /// When an answer came that counts as new for a request of this cost, whatever it says.
    pub(crate) fn fresh_since(&self, now: u64, cost: u64, policy: &PolicyFacts) -> Option<u64> {
        let own = self.answers.last()?;
        self.remembers(now, cost, policy, 0, |_| true)
            .then_some(own.at)
    }

    /// Spends units, those first that end first; `false` when there are not enough.
    pub(crate) fn spend(&mut self, now: u64, cost: u64) -> bool {
        self.tranches
            .retain(|own| own.units > 0 && own.expires > now);
        self.tranches.sort_by_key(|own| own.expires);
        let held: u64 = self.tranches.iter().map(|own| own.units).sum();
        let mut rest = cost;
        for own in &mut self.tranches {
            let part = own.units.min(rest);
            own.units -= part;
            rest -= part;
        }
        held >= cost
    }
}

/// The local limits, by the algorithm's definition: when all of a key's units are back.
#[derive(Debug, Default)]
pub(crate) struct LocalModel {
    full_at: BTreeMap<Key, u64>,
}

impl LocalModel {
    /// Whether there is room beyond doubt, with ten microseconds for the rounding of times.
    pub(crate) fn has_room(&self, wall: u64, key: &Key, cost: u64, policy: &PolicyFacts) -> bool {
        let (units, per, burst) = policy.local;
        let interval = per.div_ceil(units);
        let full_at = self.full_at.get(key).copied().unwrap_or(0);
        full_at.max(wall) + cost * interval + 10_000 <= wall + burst * interval
    }

    /// Whether there was room, with a microsecond for the rounding of times.
    pub(crate) fn take(&mut self, wall: u64, key: &Key, cost: u64, policy: &PolicyFacts) -> bool {
        let (units, per, burst) = policy.local;
        let interval = per / units;
        let full_at = self.full_at.entry(key.clone()).or_default();
        let then = (*full_at).max(wall) + cost * interval;
        if cost > 0 && then > wall + burst * interval + 1_000 {
            return false;
        }
        *full_at = then;
        true
    }
}

/// What a simple check without answer has to come to; `None` where the local limit decides.
pub(crate) fn without_answer(mode: Mode, emergency: Option<bool>) -> Option<&'static str> {
    match (emergency, mode) {
        (Some(_), _) => Some("emergency"),
        (None, Mode::Open) => Some("failed_open"),
        (None, Mode::Closed) => Some("quota_unavailable"),
        (None, Mode::Local) => None,
    }
}
