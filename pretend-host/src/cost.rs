//! What the module cost: instructions and calls to the host, by callback.

use std::collections::BTreeMap;

/// What one kind of callback has cost.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Tally {
    /// How often it ran.
    pub count: u64,
    /// Instructions: one for each WebAssembly operator that does something (dropping a value does
    /// not), and what bulk memory operations add.
    pub fuel: u64,
    /// Calls to the host, by the name of the host function.
    pub hostcalls: BTreeMap<&'static str, u64>,
}

/// What one worker's VM has cost since it began, by the name of the callback.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Costs(pub BTreeMap<&'static str, Tally>);

impl Costs {
    pub(crate) fn callback(&mut self, callback: &'static str, fuel: u64) {
        let tally = self.0.entry(callback).or_default();
        tally.count += 1;
        tally.fuel += fuel;
    }

    pub(crate) fn hostcall(&mut self, callback: &'static str, name: &'static str) {
        let tally = self.0.entry(callback).or_default();
        *tally.hostcalls.entry(name).or_default() += 1;
    }

    /// What was added since an earlier reading.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut costs = Self::default();
        for (name, now) in &self.0 {
            let before = earlier.0.get(name).cloned().unwrap_or_default();
            if now.count == before.count {
                continue;
            }
            let added = now.hostcalls.iter().map(|(name, count)| {
                let before = before.hostcalls.get(name).copied().unwrap_or(0);
                (*name, count - before)
            });
            let tally = Tally {
                count: now.count - before.count,
                fuel: now.fuel - before.fuel,
                hostcalls: added.filter(|(_, count)| *count > 0).collect(),
            };
            costs.0.insert(name, tally);
        }
        costs
    }

    /// One callback's part; nothing where it did not run.
    #[must_use]
    pub fn of(&self, callback: &str) -> Self {
        let part = self.0.iter().filter(|(name, _)| **name == callback);
        Self(part.map(|(name, tally)| (*name, tally.clone())).collect())
    }

    /// Everything but one callback's part.
    #[must_use]
    pub fn without(mut self, callback: &str) -> Self {
        self.0.remove(callback);
        self
    }

    /// Instructions in all callbacks.
    #[must_use]
    pub fn fuel(&self) -> u64 {
        self.0.values().map(|tally| tally.fuel).sum()
    }

    /// Calls to the host from all callbacks, by name.
    #[must_use]
    pub fn hostcalls(&self) -> BTreeMap<&'static str, u64> {
        let mut sums = BTreeMap::new();
        for (name, count) in self.0.values().flat_map(|tally| &tally.hostcalls) {
            *sums.entry(*name).or_default() += count;
        }
        sums
    }
}
