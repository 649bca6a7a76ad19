//! The panels of the dashboard, drawn from what Prometheus has seen of a rehearsal.

use anyhow::Result;
use charts::{Axis, Chart, Lines, Panels, Series};

use crate::dashboard::{Panel, panels};
use crate::rehearsal::Rehearsal;

/// Draws the dashboard of a rehearsal.
///
/// # Errors
/// Prometheus can't be asked, or a panel can't be drawn.
pub fn picture(seen: &Rehearsal) -> Result<Chart> {
    let mut grid = Panels::new(
        "A slow backend, then a dead one, with an emergency",
        COLUMNS,
    )
    .subtitle("The dashboard's panels, as Prometheus saw a rehearsed outage of the backend `quota`")
    .note(format!(
        "cargo xtask rehearse: {} requests through a real Envoy in {:.0} s; rates over 5 s",
        seen.requests,
        seen.end - seen.start
    ))
    .height(HEIGHT)
    .each_named();
    for panel in panels(WINDOW)? {
        grid = grid.panel(draw(seen, &panel)?);
    }
    Ok(Chart::from(grid))
}

fn draw(seen: &Rehearsal, panel: &Panel) -> Result<Lines> {
    let mut y = Axis::new(unit(&panel.unit)).from(0.0);
    if let Some(max) = panel.max {
        y = y.to(max);
    }
    let x = Axis::new("").from(0.0).suffix(" s");
    let mut lines = Lines::new(&panel.title, x, y);
    for act in &seen.acts {
        // The emergency lies within the last outage, and has a panel of its own.
        if act.what != "emergency" {
            lines = lines.stretch(act.start - seen.start, act.end - seen.start, act.what);
        }
    }
    let mut moving = Vec::new();
    for query in &panel.queries {
        let all = seen
            .prometheus
            .range(&query.expression, seen.start, seen.end, 1.0)?;
        for series in all {
            let most = series
                .points
                .iter()
                .map(|point| point.1)
                .fold(0.0, f64::max);
            let points = series.points.iter().map(|(x, y)| (x - seen.start, *y));
            moving.push((most, Series::new(query.name(&series.labels), points)));
        }
    }
    moving.sort_by(|one, other| other.0.total_cmp(&one.0));
    let fixed = panel.max.is_some();
    let shown = moving.into_iter().filter(|(most, _)| fixed || *most > 0.0);
    Ok(shown
        .take(SERIES_MAX)
        .fold(lines, |lines, (_, series)| lines.series(series)))
}

fn unit(grafana: &str) -> &'static str {
    match grafana {
        "reqps" => "a second",
        "ms" => "ms",
        _ => "",
    }
}

/// What rates are taken over: some scrapes.
const WINDOW: &str = "5s";

/// Labels need room.
const COLUMNS: usize = 2;

/// Low enough that all panels are seen at once.
const HEIGHT: f64 = 165.0;

/// More lines than this can't be told apart; the smallest are left out.
const SERIES_MAX: usize = 6;
