//! The simulation's figures as charts.

use charts::{Axis, Chart, Lines, Panels, Series, number};
use fleet::{Mode, Outcome, Report};

use crate::tables::{axes, books, find, span, widest};

/// Each chart by the name of its file.
pub(super) fn charts(report: &Report) -> Vec<(&'static str, Chart)> {
    vec![
        ("simulate-calls", calls(report)),
        ("simulate-errors", errors(report)),
    ]
}

/// What leases save, and for whom.
fn calls(report: &Report) -> Chart {
    let plan = &report.plan;
    let (ttls, sizes) = axes(&report.traffic);
    let wide = widest(&sizes).unwrap_or(0);
    let per_thousand = || Axis::new("calls per 1,000 requests").from(0.0).to(1000.0);
    let mut one = Lines::new(
        format!("One key, max_units {wide}"),
        Axis::new("the key's requests/s on one worker").logarithmic(),
        per_thousand(),
    );
    let mut all = Lines::new(
        "The whole fleet",
        Axis::new("max_units")
            .logarithmic()
            .at(sizes.iter().map(|size| *size as f64)),
        per_thousand(),
    );
    for ttl in &ttls {
        let name = format!("ttl {}", span(*ttl));
        if let Some(outcome) = find(&report.traffic, wide, *ttl) {
            one = one.series(Series::new(name.clone(), by_rate(outcome)).dots());
        }
        let fleet = sizes.iter().filter_map(|size| {
            let outcome = find(&report.traffic, *size, *ttl)?;
            Some((*size as f64, outcome.calls))
        });
        all = all.series(Series::new(name, fleet).dots());
    }
    Panels::new(
        "A lease saves calls for keys that are hot on each worker",
        2,
    )
    .subtitle(
        "A key with fewer than 4 requests in half of the ttl is checked each time; how long a \
             lease lasts matters more than how large it may be.",
    )
    .height(290.0)
    .panel(one)
    .panel(all)
    .note(format!(
        "cargo xtask simulate: {} proxies of {} workers, {} keys by Zipf's law, {} requests/s, \
             ample limits, seed {}",
        number(plan.proxies as f64),
        plan.workers,
        number(plan.keys as f64),
        number(plan.rate),
        plan.seed
    ))
    .into()
}

fn by_rate(outcome: &Outcome) -> Vec<(f64, f64)> {
    let gates = outcome.setting.gates_of_key() as f64;
    let keys = outcome.setting.keys.iter().zip(&outcome.keys);
    let point = keys.map(|(key, seen)| {
        let calls = seen.calls as f64 * 1000.0 / seen.requests.max(1) as f64;
        (key.rate / gates, calls)
    });
    // Slower keys are all checked each time.
    point.filter(|(rate, _)| *rate >= 0.1).collect()
}

/// What a lease costs in exactness.
fn errors(report: &Report) -> Chart {
    let (ttls, sizes) = axes(&report.scarce);
    let tried: Vec<f64> = sizes.iter().map(|size| *size as f64).collect();
    let axis = || Axis::new("max_units").logarithmic().at(tried.clone());
    let percent = |label: &str| Axis::new(label).from(0.0).suffix("%");
    let mut kinds: Vec<&'static str> = Vec::new();
    for outcome in &report.scarce {
        if !kinds.contains(&books(outcome)) {
            kinds.push(books(outcome));
        }
    }
    let mut panels = Panels::new(
        "What leases cost in exactness",
        2,
    )
    .subtitle(
        "One key that wants twice its limit after a calm window. What the backend tells of its \
         window's end makes the difference; large leases of a long ttl leave units unspent.",
    )
    .height(230.0)
    .note(format!(
        "cargo xtask simulate: {} workers, 10 units/s of limit for each, windows of 5 s, a quarter \
         of the proxies with half of the traffic, seed {}; fairness is Jain's index over workers",
        number((report.plan.spread * report.plan.workers) as f64),
        report.plan.seed
    ));
    type Pick = fn(&Outcome) -> f64;
    let over: Pick = |outcome| outcome.keys[0].over_most * 100.0;
    let under: Pick = |outcome| outcome.keys[0].under * 100.0;
    for ttl in &ttls {
        for (what, unit, pick) in [
            ("over", "units beyond the limit, % of it", over),
            ("under", "units short of exact books, % of theirs", under),
        ] {
            let title = format!("{what}-admission, ttl {}", span(*ttl));
            let lines = Lines::new(title, axis(), percent(unit).to(10.0));
            panels = panels.panel(with_kinds(lines, report, &kinds, &sizes, *ttl, pick));
        }
    }
    let fair: Pick = |outcome| outcome.keys[0].fair_workers;
    let called: Pick = |outcome| outcome.calls;
    if let Some(ttl) = ttls.last() {
        let title = format!("fairness between workers, ttl {}", span(*ttl));
        let lines = Lines::new(
            title,
            axis(),
            Axis::new("Jain's index; 1 is even").from(0.9).to(1.0),
        );
        panels = panels.panel(with_kinds(lines, report, &kinds, &sizes, *ttl, fair));
        let title = format!("backend calls, ttl {}", span(*ttl));
        let lines = Lines::new(
            title,
            axis(),
            Axis::new("calls per 1,000 requests").from(0.0),
        );
        panels = panels.panel(with_kinds(lines, report, &kinds, &sizes, *ttl, called));
    }
    panels.into()
}

fn with_kinds(
    mut lines: Lines,
    report: &Report,
    kinds: &[&'static str],
    sizes: &[u64],
    wanted: u64,
    pick: fn(&Outcome) -> f64,
) -> Lines {
    for kind in kinds {
        let points = report.scarce.iter().filter_map(|outcome| {
            let Mode::Leased { max_units, ttl } = outcome.setting.mode else {
                return None;
            };
            let drawn = books(outcome) == *kind && ttl == wanted && sizes.contains(&max_units);
            drawn.then(|| (max_units as f64, pick(outcome)))
        });
        lines = lines.series(Series::new(*kind, points).dots());
    }
    lines
}
