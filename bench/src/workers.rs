//! Memory: what the filter adds to Envoy's, with one worker and with each further one.

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::chain::{self, Chain};
use crate::claim::Claim;
use crate::load::Pace;
use crate::measure::{Bench, load, tenants};
use crate::plan::Plan;

/// Measures and judges.
///
/// # Errors
/// Envoy does not start, or does not answer.
pub(crate) fn claims(bench: &Bench, plan: &Plan) -> Result<Vec<Claim>> {
    let mut added = Vec::new();
    for workers in WORKERS {
        let with = memory(bench, &chain::hot_key(plan), workers).context("memory")?;
        let without = memory(bench, &chain::no_filter(), workers).context("memory")?;
        added.push((with - without) / 1e6);
    }
    let [first, .., last] = added.as_slice() else {
        return Ok(Vec::new());
    };
    let [fewest, .., most] = WORKERS;
    let each = (last - first) / f64::from(most - fewest);
    let claim = |what: String, figure: f64| Claim {
        situation: "Memory of Envoy above no filter, after a load".to_owned(),
        what,
        figure: format!("{figure:.1} MB"),
        target: String::new(),
        kept: true,
        timed: true,
    };
    let totals = WORKERS.iter().zip(&added);
    let mut claims: Vec<Claim> = totals
        .map(|(workers, added)| claim(format!("workers: {workers}"), *added))
        .collect();
    claims.push(Claim {
        target: "at most 15 MB".to_owned(),
        kept: each <= MEGABYTES_MAX,
        ..claim("each further worker".to_owned(), each)
    });
    Ok(claims)
}

/// Bytes in RAM behind a load that has reached every worker.
fn memory(bench: &Bench, chain: &Chain, workers: u32) -> Result<f64> {
    let envoy = bench.start(chain, workers)?;
    let mut load = load(&envoy, tenants())?;
    load.run(Pace::Flat, LOADED)?;
    Ok(envoy.memory_bytes() as f64)
}

/// So many that the few hundred kilobytes of one stand out from what moves between two starts.
const WORKERS: [u32; 4] = [1, 2, 4, 8];

const LOADED: Duration = Duration::from_millis(500);

const MEGABYTES_MAX: f64 = 15.0;
