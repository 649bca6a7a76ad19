//! The result as a table that reads at a glance.

use std::fmt::Write as _;

use crate::figures::{Row, Spread, added, cpu, ratio};
use crate::measure::Sample;

/// The table; targets stand beside each ratio.
pub(crate) fn table(rows: &[Row], rate: u32) -> String {
    let latency = format!("latency at {rate}/s, ms");
    let mut text = line([
        "", "CPU per", "", "of what", "", "", "requests", "", &latency, "", "checks", "memory",
    ]);
    text += &line([
        "",
        "request",
        "added",
        "ext_authz",
        "lowest ..",
        "",
        "a second",
        "",
        "",
        "",
        "per",
        "added",
    ]);
    text += &line([
        "chain", "us", "us", "adds", "highest", "target", "at most", "p50", "p99", "p99.9",
        "1,000", "MB",
    ]);
    for row in rows {
        text += &entry(row, rows);
    }
    text
}

/// Whether the machine was calm enough for the figures to mean something.
pub(crate) fn mood(rows: &[Row]) -> String {
    let samples = rows.iter().flat_map(|row| &row.samples);
    let others = samples.flat_map(|sample| [sample.flat.others, sample.paced.others]);
    let others = Spread::of(others).map_or(0.0, |spread| spread.median);
    let wide = rows.iter().filter(|row| {
        let spread = row.spread(cpu);
        spread.is_some_and(|spread| spread.max - spread.min > WIDE * spread.median)
    });
    let wide: Vec<&str> = wide.map(|row| row.chain.name.as_str()).collect();
    let mut text = format!("Others used {others:.2} of a core meanwhile");
    if others > BUSY {
        text += ": the machine was BUSY, take no figure from this run";
    } else if wide.is_empty() {
        text += ": the machine was calm.";
        return text;
    }
    if !wide.is_empty() {
        let _infallible = write!(
            text,
            "; CPU per request is UNSTEADY for {}",
            wide.join(", ")
        );
    }
    text + "."
}

fn entry(row: &Row, rows: &[Row]) -> String {
    let median = |digits: usize, figure: &dyn Fn(&Sample) -> f64| {
        let spread = row.spread(figure);
        spread.map_or_else(String::new, |spread| format!("{:.digits$}", spread.median))
    };
    let more = |figure: &dyn Fn(&Sample) -> f64| {
        let spread = added(row, rows, figure).and_then(Spread::of);
        spread.map_or_else(String::new, |spread| format!("{:+.1}", spread.median))
    };
    let ratio = ratio(row, rows).and_then(Spread::of);
    let (share, range) = ratio.map_or_else(Default::default, |ratio| {
        let range = format!("{:.2} .. {:.2}", ratio.min, ratio.max);
        (format!("{:.2}", ratio.median), range)
    });
    let target = match (row.chain.target, ratio) {
        (Some(target), Some(ratio)) if ratio.median <= target => format!("{target:.2} ok"),
        (Some(target), Some(_)) => format!("{target:.2} MISSED"),
        _ => String::new(),
    };
    line([
        &row.chain.name,
        &median(1, &cpu),
        &more(&cpu),
        &share,
        &range,
        &target,
        &median(0, &|sample| sample.flat.throughput),
        &median(2, &|sample| sample.paced.latency_ms[0]),
        &median(2, &|sample| sample.paced.latency_ms[1]),
        &median(2, &|sample| sample.paced.latency_ms[2]),
        &median(1, &|sample| sample.paced.checks),
        &more(&|sample| sample.memory as f64 / 1e6),
    ])
}

fn line(cells: [&str; COLUMNS.len()]) -> String {
    let mut text = format!("{:<14}", cells[0]);
    for (cell, width) in cells.iter().zip(COLUMNS).skip(1) {
        let _infallible = write!(text, "{cell:>width$}");
    }
    format!("{}\n", text.trim_end())
}

/// As much of a core as others may use.
const BUSY: f64 = 0.1;

/// As far as the rounds of one chain may lie apart, in shares of their median.
const WIDE: f64 = 0.1;

/// Widths of the columns.
const COLUMNS: [usize; 12] = [14, 8, 8, 11, 15, 14, 10, 7, 7, 7, 8, 8];
