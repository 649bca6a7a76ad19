//! One hot key with a lease, and an open breaker, beside no filter: what a request waits for them,
//! and whether the books agree.
//!
//! The three run right after each other in every round, because the slowest thousandth of requests
//! tells more of the machine's mood than of any filter.

use anyhow::{Context as _, Result};

use crate::chain::{self, HOT_KEY_UNITS};
use crate::claim::Claim;
use crate::figures::Spread;
use crate::load::Pace;
use crate::measure::{Bench, Phase, WARM_UP, load, tenants};
use crate::plan::Plan;

/// What one round has shown.
struct Round {
    plain: Phase,
    hot: Phase,
    open: Phase,
    /// Units that the backend charged and no request has used.
    unspent: i128,
    refused: u64,
}

/// Measures and judges.
///
/// # Errors
/// Envoy does not start, or does not answer.
pub(crate) fn claims(bench: &Bench, plan: &Plan) -> Result<Vec<Claim>> {
    let mut rounds = Vec::new();
    for number in 0..plan.rounds {
        rounds.push(round(bench, plan, number).context("one hot key")?);
    }
    let mut claims = hot(bench, &rounds);
    claims.extend(open(&rounds));
    claims.extend(without_breaker(bench, plan)?);
    Ok(claims)
}

fn round(bench: &Bench, plan: &Plan, number: usize) -> Result<Round> {
    let pace = Pace::Rate(bench.rate);
    let measure = |chain, names: Vec<String>| {
        let envoy = bench.start(&chain, 1)?;
        let mut load = load(&envoy, names)?;
        let before = load.run(pace, WARM_UP)?;
        let (phase, outcome) = bench.phase(&envoy, &mut load, pace)?;
        anyhow::Ok((
            phase,
            before.answered + outcome.answered,
            before.refused + outcome.refused,
        ))
    };
    // A name of its own in each round, so that its books begin with nothing.
    let key = format!("hot-{number}");
    let (plain, ..) = measure(chain::no_filter(), tenants().collect())?;
    let (hot, passed, refused) = measure(chain::hot_key(plan), vec![key.clone()])?;
    let (open, _, refused_open) = measure(chain::hanging(plan, true), tenants().collect())?;
    let charged = bench.servers.backend.charged(&key);
    Ok(Round {
        plain,
        hot,
        open,
        unspent: i128::from(charged) - i128::from(passed),
        refused: refused + refused_open,
    })
}

fn hot(bench: &Bench, rounds: &[Round]) -> Vec<Claim> {
    let situation = format!(
        "One hot key at {} requests/s, max_units {HOT_KEY_UNITS}, ttl 1s",
        bench.rate
    );
    let checks = spread(rounds, |round| round.hot.checks);
    let later = spread(rounds, |round| {
        round.hot.latency_ms[2] - round.plain.latency_ms[2]
    });
    let least = rounds.iter().map(|round| round.unspent).min().unwrap_or(0);
    let most = rounds.iter().map(|round| round.unspent).max().unwrap_or(0);
    let refused: u64 = rounds.iter().map(|round| round.refused).sum();
    let claim = |what: &str, figure, target: &str, kept, timed| Claim {
        situation: situation.clone(),
        what: what.to_owned(),
        figure,
        target: target.to_owned(),
        kept,
        timed,
    };
    vec![
        claim(
            "checks per 1,000 requests",
            words(checks, 1, ""),
            "at most 10",
            checks.max <= 10.0,
            false,
        ),
        claim(
            "p99.9 above no filter",
            words(later, 2, " ms"),
            "at most 1 ms",
            later.median <= 1.0,
            true,
        ),
        claim(
            "units charged and not spent at the end",
            format!("{least} to {most}"),
            "0 to 500",
            least >= 0 && most <= i128::from(HOT_KEY_UNITS),
            false,
        ),
        claim(
            "requests not let through",
            refused.to_string(),
            "0",
            refused == 0,
            false,
        ),
    ]
}

fn open(rounds: &[Round]) -> Vec<Claim> {
    let later = spread(rounds, |round| {
        round.open.latency_ms[1] - round.plain.latency_ms[1]
    });
    let checks = spread(rounds, |round| round.open.checks);
    let claim = |what: &str, figure, target: &str, kept, timed| Claim {
        situation: HANGS.to_owned(),
        what: what.to_owned(),
        figure,
        target: target.to_owned(),
        kept,
        timed,
    };
    vec![
        claim(
            "breaker open: p99 above no filter",
            words(later, 2, " ms"),
            "below 1 ms",
            later.median < 1.0,
            true,
        ),
        claim(
            "breaker open: checks per 1,000 requests",
            words(checks, 1, ""),
            "at most 10",
            checks.max <= 10.0,
            false,
        ),
    ]
}

/// Without a breaker each request waits for the timeout, once.
fn without_breaker(bench: &Bench, plan: &Plan) -> Result<[Claim; 2]> {
    let envoy = bench.start(&chain::hanging(plan, false), 1)?;
    let mut load = load(&envoy, tenants())?;
    let (phase, outcome) = bench.phase(&envoy, &mut load, Pace::Rate(SLOW))?;
    let [p50, _, _, max] = phase.latency_ms;
    let waited = Claim {
        situation: HANGS.to_owned(),
        what: "no breaker: how long a request takes".to_owned(),
        figure: format!("p50 {p50:.1} ms, most {max:.1} ms"),
        target: "the timeout, 100 ms".to_owned(),
        kept: outcome.refused == 0 && (99.0..LATE_MS).contains(&p50),
        timed: true,
    };
    let checks = Claim {
        what: "no breaker: checks per 1,000 requests".to_owned(),
        figure: format!("{:.1}", phase.checks),
        target: "1,000".to_owned(),
        kept: outcome.refused == 0 && (phase.checks - 1000.0).abs() < 0.5,
        timed: false,
        ..waited.clone()
    };
    Ok([waited, checks])
}

fn spread(rounds: &[Round], figure: impl Fn(&Round) -> f64) -> Spread {
    let nothing = Spread {
        median: f64::NAN,
        min: f64::NAN,
        max: f64::NAN,
    };
    Spread::of(rounds.iter().map(figure)).unwrap_or(nothing)
}

/// A median with its spread.
fn words(Spread { median, min, max }: Spread, digits: usize, unit: &str) -> String {
    format!("{median:.digits$}{unit} ({min:.digits$} to {max:.digits$})")
}

const HANGS: &str = "The backend hangs, fail_open";

/// Above a timeout of 100 ms and what a call and a tick take.
const LATE_MS: f64 = 120.0;

/// Requests a second where each waits for the timeout of 100 ms: 10 of 16 connections are busy.
const SLOW: u32 = 100;
