//! The result as a part of a page of the documentation.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context as _, Result, bail};

use crate::claim::Claim;
use crate::figures::{Row, Spread, added, cpu, ratio};
use crate::measure::Sample;
use crate::plan::{Plan, Publish};

/// Puts the result between the page's two marks.
///
/// # Errors
/// The page can't be read or written, or has no marks.
pub(crate) fn write(to: &Publish, rows: &[Row], claims: &[Claim], plan: &Plan) -> Result<()> {
    let name = to.page.display();
    let page = fs::read_to_string(&to.page).with_context(|| format!("read {name}"))?;
    let Some((before, rest)) = page.split_once(BEGIN) else {
        bail!("{name} has no line `{BEGIN}`");
    };
    let Some((_, after)) = rest.split_once(END) else {
        bail!("{name} has no line `{END}`");
    };
    let results = results(to, rows, claims, plan);
    let page = format!("{before}{BEGIN}\n\n{results}\n{END}{after}");
    fs::write(&to.page, page).with_context(|| format!("write {name}"))
}

fn results(to: &Publish, rows: &[Row], claims: &[Claim], plan: &Plan) -> String {
    let mut text = format!(
        "![Bars: what each chain adds to the CPU time of a request, and the targets]\
         (img/bench.svg)\n\n{}, Envoy {}, {} rounds of {:.1} s.\n\n\
         | chain | CPU per request | added | of what ext_authz adds | target | \
         requests/s, at most | p50 / p99 / p99.9 at {}/s | checks per 1,000 | memory added |\n\
         | --- | --: | --: | --: | --: | --: | --: | --: | --: |\n",
        to.machine,
        to.envoy,
        plan.rounds,
        plan.duration.as_secs_f64(),
        plan.rate,
    );
    for row in rows {
        text += &line(row, rows);
    }
    text += "\n| promise | measured | target |\n| --- | --- | --- |\n";
    for claim in claims {
        let Claim {
            situation,
            what,
            figure,
            target,
            ..
        } = claim;
        let word = match (target.is_empty(), claim.kept) {
            (true, _) => "",
            (false, true) => " ok",
            (false, false) => " **missed**",
        };
        let _infallible = writeln!(text, "| {situation}: {what} | {figure} | {target}{word} |");
    }
    text
}

fn line(row: &Row, rows: &[Row]) -> String {
    let median = |digits: usize, figure: &dyn Fn(&Sample) -> f64| {
        let spread = row.spread(figure);
        spread.map_or_else(String::new, |spread| format!("{:.digits$}", spread.median))
    };
    let more = |figure: &dyn Fn(&Sample) -> f64, unit: &str| {
        let spread = added(row, rows, figure).and_then(Spread::of);
        spread.map_or_else(String::new, |spread| {
            format!("{:+.1} {unit}", spread.median)
        })
    };
    let ratio = ratio(row, rows).and_then(Spread::of);
    let share = ratio.map_or_else(String::new, |Spread { median, min, max }| {
        format!("**{median:.2}** ({min:.2} to {max:.2})")
    });
    let target = match (row.chain.target, ratio) {
        (Some(target), Some(ratio)) if ratio.median <= target => format!("{target:.2} ok"),
        (Some(target), Some(_)) => format!("{target:.2} **missed**"),
        _ => String::new(),
    };
    format!(
        "| {} | {} µs | {} | {share} | {target} | {} | {} / {} / {} ms | {} | {} |\n",
        row.chain.name,
        median(1, &cpu),
        more(&cpu, "µs"),
        median(0, &|sample| sample.flat.throughput),
        median(2, &|sample| sample.paced.latency_ms[0]),
        median(2, &|sample| sample.paced.latency_ms[1]),
        median(2, &|sample| sample.paced.latency_ms[2]),
        median(1, &|sample| sample.paced.checks),
        more(&|sample| sample.memory as f64 / 1e6, "MB"),
    )
}

const BEGIN: &str = "<!-- results: cargo xtask bench --publish -->";
const END: &str = "<!-- end of the results -->";
