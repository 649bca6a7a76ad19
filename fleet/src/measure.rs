//! What was let through, held against exact books.

use std::collections::BTreeMap;

use crate::books::{Books, Kind};
use crate::setting::{KeyOutcome, KeySetting, Setting};

/// One key's requests, counted. Times are in nanoseconds.
pub(crate) struct Meter {
    pub(crate) books: Books,
    strict: Books,
    kind: Kind,
    limit: u64,
    window: u64,
    /// Windows that are measured: from, and up to but without.
    measured: (u64, u64),
    used: BTreeMap<u64, u64>,
    strict_used: BTreeMap<u64, u64>,
    bucket: Debt,
    wanted: Vec<u32>,
    got: Vec<u32>,
    workers: usize,
    cut: Option<u64>,
    pub(crate) outcome: KeyOutcome,
}

/// A bucket that may be overdrawn: by how much says what was let through too early.
struct Debt {
    unit: f64,
    burst: f64,
    level: f64,
    at: u64,
    most: f64,
}

impl Meter {
    pub(crate) fn new(setting: &Setting, key: &KeySetting, start: u64) -> Self {
        let window = setting.window * 1_000_000;
        let first = start / window + setting.windows.0;
        let books = Books::new(setting.books, key.limit, window);
        Self {
            strict: books.clone(),
            books,
            kind: setting.books,
            limit: key.limit,
            window,
            measured: (first, first + setting.windows.1),
            used: BTreeMap::new(),
            strict_used: BTreeMap::new(),
            bucket: Debt {
                unit: window as f64 / key.limit as f64,
                burst: Books::burst(key.limit) as f64,
                level: Books::burst(key.limit) as f64,
                at: start,
                most: 0.0,
            },
            wanted: vec![0; setting.gates()],
            got: vec![0; setting.gates()],
            workers: setting.workers,
            cut: None,
            outcome: KeyOutcome::default(),
        }
    }

    pub(crate) fn is_measured(&self, at: u64) -> bool {
        let index = at / self.window;
        self.measured.0 <= index && index < self.measured.1
    }

    /// A request has arrived.
    pub(crate) fn arrive(&mut self, at: u64, gate: usize) {
        let granted = self.strict.take(at, 1, 0).granted;
        *self.strict_used.entry(at / self.window).or_default() += granted;
        if self.is_measured(at) {
            self.outcome.requests += 1;
            self.wanted[gate] += 1;
        }
    }

    /// A request was let through, with a unit of the books at that time.
    pub(crate) fn admit(&mut self, at: u64, gate: usize) {
        *self.used.entry(at / self.window).or_default() += 1;
        self.bucket.take(at);
        if self.is_measured(at) {
            self.got[gate] += 1;
        }
        if let Some(cut) = self.cut.filter(|cut| at > *cut) {
            self.outcome.after_cut += 1;
            self.outcome.after_cut_ms = (at - cut).div_ceil(1_000_000);
        }
    }

    pub(crate) const fn cut(&mut self, at: u64) {
        self.cut = Some(at);
        self.books.cut();
        self.strict.cut();
    }

    /// What it came to.
    pub(crate) fn close(&mut self) -> KeyOutcome {
        let limit = self.limit as f64;
        let (mut over, mut short, mut windows) = (0, 0, 0_u32);
        for index in self.measured.0..self.measured.1 {
            let used = self.used.get(&index).copied().unwrap_or(0);
            let strict = self.strict_used.get(&index).copied().unwrap_or(0);
            self.outcome.admitted += used;
            self.outcome.strict += strict;
            over += used.saturating_sub(self.limit);
            short += strict.saturating_sub(used);
            windows += 1;
        }
        // The bound holds in every window, the first ones included.
        let beyond = self
            .used
            .values()
            .map(|used| used.saturating_sub(self.limit));
        let outcome = &mut self.outcome;
        outcome.over_units = match self.kind {
            Kind::Windows => beyond.max().unwrap_or(0),
            Kind::Bucket => self.bucket.most.floor() as u64,
        };
        outcome.over_most = outcome.over_units as f64 / limit;
        outcome.over = match self.kind {
            Kind::Windows => over as f64 / f64::from(windows.max(1)) / limit,
            Kind::Bucket => outcome.over_most,
        };
        outcome.under = short as f64 / outcome.strict.max(1) as f64;
        outcome.fair_workers = jain(&self.wanted, &self.got, 1);
        outcome.fair_proxies = jain(&self.wanted, &self.got, self.workers);
        outcome.clone()
    }
}

impl Debt {
    fn take(&mut self, at: u64) {
        let passed = at.saturating_sub(self.at) as f64;
        self.at = self.at.max(at);
        self.level = (self.level + passed / self.unit).min(self.burst) - 1.0;
        self.most = self.most.max(-self.level);
    }
}

/// Jain's index of the shares that groups of `size` neighbours got of what they wanted.
fn jain(wanted: &[u32], got: &[u32], size: usize) -> f64 {
    let sum = |part: &[u32]| part.iter().copied().map(f64::from).sum::<f64>();
    let groups = wanted.chunks(size).zip(got.chunks(size));
    let shares: Vec<f64> = groups
        .map(|(wanted, got)| (sum(wanted), sum(got)))
        .filter(|(wanted, _)| *wanted > 0.0)
        .map(|(wanted, got)| got / wanted)
        .collect();
    let (total, squares) = shares
        .iter()
        .fold((0.0, 0.0), |(total, squares), share: &f64| {
            (total + share, share.mul_add(*share, squares))
        });
    if squares == 0.0 {
        return 1.0;
    }
    total * total / (shares.len() as f64 * squares)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fairness_is_one_where_all_get_the_same_share() {
        assert!((jain(&[10, 20, 40], &[5, 10, 20], 1) - 1.0).abs() < 1e-9);
        assert!((jain(&[10, 10, 10, 10], &[10, 0, 0, 0], 1) - 0.25).abs() < 1e-9);
        assert!((jain(&[10, 10, 10, 10], &[10, 0, 0, 10], 2) - 1.0).abs() < 1e-9);
        assert!((jain(&[0, 10], &[0, 5], 1) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_bucket_is_overdrawn_by_what_came_too_early() {
        let mut debt = Debt {
            unit: 10.0,
            burst: 3.0,
            level: 3.0,
            at: 0,
            most: 0.0,
        };
        for _ in 0..3 {
            debt.take(0);
        }
        assert!(debt.most.abs() < 1e-9);
        debt.take(5);
        assert!((debt.most - 0.5).abs() < 1e-9);
        debt.take(10);
        assert!((debt.most - 1.0).abs() < 1e-9);
    }
}
