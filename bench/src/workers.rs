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
    let mut of_program = None;
    for workers in WORKERS {
        let with = memory(bench, &chain::hot_key(plan), workers).context("memory")?;
        let without = memory(bench, &chain::no_filter(), workers).context("memory")?;
        added.push((with.all - without.all) / 1e6);
        of_program.get_or_insert((with.of_files - without.of_files) / 1e6);
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
    let of_program = of_program.unwrap_or_default();
    let what = "workers: 1, of that pages of Envoy's own program".to_owned();
    claims.insert(1, claim(what, of_program));
    claims.push(Claim {
        target: "at most 15 MB".to_owned(),
        kept: each <= MEGABYTES_MAX,
        ..claim("each further worker".to_owned(), each)
    });
    Ok(claims)
}

/// Bytes in RAM.
struct Held {
    all: f64,
    of_files: f64,
}

/// What Envoy has behind a load that has reached every worker.
fn memory(bench: &Bench, chain: &Chain, workers: u32) -> Result<Held> {
    let envoy = bench.start(chain, workers)?;
    let mut load = load(&envoy, tenants())?;
    load.run(Pace::Flat, LOADED)?;
    Ok(Held {
        all: envoy.memory_bytes() as f64,
        of_files: envoy.memory_of_files() as f64,
    })
}

/// So many that the few hundred kilobytes of one stand out from what moves between two starts.
const WORKERS: [u32; 4] = [1, 2, 4, 8];

const LOADED: Duration = Duration::from_millis(500);

const MEGABYTES_MAX: f64 = 15.0;
