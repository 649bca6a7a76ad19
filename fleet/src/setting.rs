//! What a run is made of, and what came of it.

use serde::{Deserialize, Serialize};

use crate::books::Kind;

/// How the policy lets requests be decided.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub enum Mode {
    /// Each request is a check: no lease, nothing remembered.
    Each,
    /// A denial is remembered for a second, as it is by default.
    Denials,
    /// A yes is remembered for so many milliseconds.
    Allows(u64),
    /// Units are leased.
    Leased {
        /// At most so many, per key and worker.
        max_units: u64,
        /// For so many milliseconds.
        ttl: u64,
    },
}

/// What the backend says of a window's end.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Told {
    /// To the microsecond.
    Exactly,
    /// In whole seconds, rounded up, as most backends do.
    InSeconds,
    /// Nothing.
    Nothing,
}

/// A key and its limit. Times are in milliseconds.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct KeySetting {
    /// Requests in a second, in the whole fleet, at most.
    pub rate: f64,
    /// The share of the fleet's traffic that this key stands for.
    pub share: f64,
    /// Units in a window.
    pub limit: u64,
}

/// What a run is made of.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Setting {
    /// Proxies in the fleet.
    pub proxies: usize,
    /// Workers of each.
    pub workers: usize,
    /// Proxies that a key's requests come through.
    pub spread: usize,
    /// Whether a quarter of the proxies has half of the traffic.
    pub uneven: bool,
    /// How requests are decided.
    pub mode: Mode,
    /// How the backend counts.
    pub books: Kind,
    /// What it says of a window's end.
    pub told: Told,
    /// The keys.
    pub keys: Vec<KeySetting>,
    /// A window's length, in milliseconds.
    pub window: u64,
    /// Windows before anything is measured, and windows that are.
    pub windows: (u64, u64),
    /// A call's round trip to the backend, in microseconds, on average.
    pub latency: u64,
    /// What part of its rate a key has in every second window, beginning with the second one: what
    /// is left of that window's leases meets the next one's rush.
    pub ebb: f64,
    /// When every limit is cut to what is used, in milliseconds.
    pub cut: Option<u64>,
    /// The run's randomness.
    pub seed: u64,
}

impl Setting {
    /// Workers in all proxies.
    #[must_use]
    pub const fn gates(&self) -> usize {
        self.proxies * self.workers
    }

    /// Workers that a key's requests come to.
    #[must_use]
    pub const fn gates_of_key(&self) -> usize {
        self.spread * self.workers
    }
}

/// What became of one key's requests.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct KeyOutcome {
    /// Requests that arrived while it was measured.
    pub requests: u64,
    /// Calls that were made for them.
    pub calls: u64,
    /// Requests that waited for a call.
    pub waited: u64,
    /// Units let through.
    pub admitted: u64,
    /// Units that exact books would have let through.
    pub strict: u64,
    /// Units beyond the limit in the worst window, as a share of the limit.
    pub over_most: f64,
    /// The same, in units.
    pub over_units: u64,
    /// Units beyond the limit in a window, as a share of the limit, on average.
    pub over: f64,
    /// Units short of what exact books would have let through, as a share of those.
    pub under: f64,
    /// Jain's index of what workers got of what they asked for; 1 is even.
    pub fair_workers: f64,
    /// The same, between proxies.
    pub fair_proxies: f64,
    /// Units let through after the cut.
    pub after_cut: u64,
    /// How long after the cut the last of them was, in milliseconds.
    pub after_cut_ms: u64,
}

/// What came of a run.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Outcome {
    /// What it was made of.
    pub setting: Setting,
    /// What became of each key's requests.
    pub keys: Vec<KeyOutcome>,
    /// Calls for 1,000 requests, the keys weighed by what they stand for.
    pub calls: f64,
    /// Units that were granted and not spent in time, as a share of those granted.
    pub expired: f64,
    /// Requests in the whole run, and calls.
    pub sums: (u64, u64),
    /// The promises that it broke.
    pub broken: Vec<String>,
}
