//! The promises of `quota_gate::gate::lease` as formulas, and which of them a run broke.
//!
//! `W` is the number of workers that a key's requests come to, `R` its rate on one of them, `H`
//! the horizon: half of the ttl, 5 s at most.

use crate::books::Kind;
use crate::setting::{KeySetting, Mode, Outcome, Setting, Told};

/// The promises that a run broke.
#[must_use]
pub fn broken(outcome: &Outcome) -> Vec<String> {
    let setting = &outcome.setting;
    let mut broken = Vec::new();
    for (index, (key, seen)) in setting.keys.iter().zip(&outcome.keys).enumerate() {
        let mut hold = |what: &str, seen: f64, most: f64| {
            if seen > most {
                let mode = setting.mode;
                broken.push(format!(
                    "key {index}, {mode:?}: {what}: {seen:.1}, {most:.1} at most"
                ));
            }
        };
        if let Some(most) = over(setting, key) {
            hold("units beyond the limit", seen.over_units as f64, most);
        }
        if let Mode::Leased { max_units, ttl } = setting.mode {
            let held = (setting.gates_of_key() as u64 * max_units) as f64;
            hold("units spent after the cut", seen.after_cut as f64, held);
            let last = seen.after_cut_ms as f64;
            hold("ms in which they were spent", last, ttl as f64);
        }
        if seen.requests >= ENOUGH && outcome.setting.cut.is_none() {
            let per_thousand = seen.calls as f64 * 1000.0 / seen.requests as f64;
            let needed = seen.admitted as f64 / seen.requests as f64;
            if let Some(most) = calls(setting, key).filter(|_| needed > 0.99) {
                hold("calls per 1,000 requests", per_thousand, most * MARGIN);
            }
        }
    }
    broken
}

/// The most units that may pass beyond a key's limit in a window, or that its bucket may be
/// overdrawn by; `None` where nothing is promised.
#[must_use]
pub fn over(setting: &Setting, key: &KeySetting) -> Option<f64> {
    let held = match setting.mode {
        Mode::Allows(_) => return None,
        Mode::Each | Mode::Denials => 0.0,
        Mode::Leased { max_units, .. } => (setting.gates_of_key() as u64 * max_units) as f64,
    };
    Some(match (setting.books, setting.told) {
        (Kind::Bucket, _) => held + reordered(setting, key),
        (Kind::Windows, Told::Nothing) => held,
        (Kind::Windows, Told::Exactly) => 0.0,
        (Kind::Windows, Told::InSeconds) => {
            // R × g on every worker, with what chance adds to it.
            let in_second = key.rate * COARSENESS;
            held.min(in_second + 6.0 * in_second.sqrt())
        }
    })
}

/// Requests leave in the order of their replies, not in that of the books: for a bucket, that may
/// look as if what comes in one round trip had been used too early.
fn reordered(setting: &Setting, key: &KeySetting) -> f64 {
    let per_micro = key.limit as f64 / (setting.window as f64 * 1000.0);
    per_micro * setting.latency as f64
}

/// Calls for 1,000 requests in steady state; `None` where the formula says nothing: a key that is
/// now and then too slow for a lease.
#[must_use]
pub fn calls(setting: &Setting, key: &KeySetting) -> Option<f64> {
    let Mode::Leased { max_units, ttl } = setting.mode else {
        return None;
    };
    let rate = key.rate / setting.gates_of_key() as f64;
    let latency = setting.latency as f64 / 1e6;
    let demand = rate * horizon(ttl);
    (demand >= SURE).then(|| {
        let held = max_units as f64;
        let slack = (demand / 64.0).min(held / 8.0);
        let low = (2.0 * rate).mul_add(latency, slack).min(held / 2.0);
        1000.0 / (held - low).min(demand)
    })
}

/// The horizon of a ttl in milliseconds, in seconds.
#[must_use]
pub fn horizon(ttl: u64) -> f64 {
    (ttl as f64 / 2000.0).clamp(0.001, 5.0)
}

/// Whole seconds, rounded up, are wrong by so many at most.
const COARSENESS: f64 = 1.0;

/// A key with fewer requests in a horizon is sometimes below the 4 that a lease needs.
const SURE: f64 = 12.0;

/// What chance and the first lease add to the calls of a steady state.
const MARGIN: f64 = 1.25;

/// With fewer requests chance decides.
const ENOUGH: u64 = 2_000;
