//! The result as a picture: what each chain adds to the CPU time of a request.

use std::path::Path;

use anyhow::Result;
use charts::{Bar, Bars, Chart};

use crate::chain::{EXT_AUTHZ, NO_FILTER};
use crate::figures::{Row, Spread, added, cpu};
use crate::plan::Plan;

/// Writes it as SVG and PNG beside each other.
///
/// # Errors
/// There is nothing to draw, or a file can't be written.
pub(crate) fn write(rows: &[Row], plan: &Plan, stem: &Path) -> Result<()> {
    let base = rows.iter().find(|row| row.chain.name == NO_FILTER);
    let base = base.and_then(|row| row.spread(cpu));
    let base = base.map_or(f64::NAN, |spread| spread.median);
    let ext_authz = rows.iter().find(|row| row.chain.name == EXT_AUTHZ);
    let ext_authz = ext_authz.and_then(|row| added(row, rows, cpu).and_then(Spread::of));
    let title = "What a filter adds to Envoy's CPU time per request";
    let unit = format!(
        "µs above no filter ({base:.1} µs), median of {} rounds",
        plan.rounds
    );
    let mut bars = Bars::new(title, unit)
        .target_label("target, as a share of what ext_authz adds")
        .note(
            "One worker. Where a chain makes calls, it is one by HTTP or gRPC for each request, \
             all in the same books. Thin lines go from the lowest round to the highest.",
        );
    for row in rows {
        let Some(spread) = added(row, rows, cpu).and_then(Spread::of) else {
            continue;
        };
        let mut bar = Bar::new(&row.chain.name, spread.median)
            .text(format!("{:+.1}", spread.median))
            .spread(spread.min, spread.max);
        if row.chain.reason.is_some() {
            bar = bar.ours();
        }
        if let (Some(target), Some(ext_authz)) = (row.chain.target, ext_authz) {
            bar = bar.target(target * ext_authz.median);
        }
        bars = bars.bar(bar);
    }
    if let Some(ext_authz) = ext_authz {
        bars = bars.reference(ext_authz.median, "ext_authz");
    }
    Chart::from(bars).write(stem)
}
