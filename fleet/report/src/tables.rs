//! The simulation's figures as text.

use std::fmt::Write as _;

use charts::number;
use fleet::books::Kind;
use fleet::{Mode, Outcome, Report, Told};

/// Everything, as tables.
pub(super) fn text(report: &Report) -> String {
    let mut out = String::new();
    let _infallible = write_all(report, &mut out);
    out
}

fn write_all(report: &Report, out: &mut String) -> std::fmt::Result {
    write_traffic(report, out)?;
    write_rates(report, out)?;
    let plan = &report.plan;
    writeln!(
        out,
        "\nOne key, 20 requests/s on each of {} workers at most, a limit for half of that: first a \
         rush\n(not counted), a calm window at 0.9 of the limit, a rush at twice the limit. A \
         quarter of the\nproxies has half of the traffic.\n",
        number((plan.spread * plan.workers) as f64)
    )?;
    write_errors(&report.scarce, out)?;
    writeln!(
        out,
        "\nThe same with max_units 100 and a ttl of 1 s, as the limit grows beside the fleet:\n"
    )?;
    write_sizes(&report.sizes, out)?;
    writeln!(
        out,
        "\nA limit that is cut to nothing while 20 requests/s come to each worker:\n"
    )?;
    write_cuts(&report.cut, out)
}

fn write_traffic(report: &Report, out: &mut String) -> std::fmt::Result {
    let plan = &report.plan;
    writeln!(
        out,
        "Backend calls for 1,000 requests. {} proxies of {} workers, {} keys (Zipf), {} \
         requests/s, ample\nlimits; {} proxies with their part of the traffic were run, one key \
         for each band of ranks.\n",
        number(plan.proxies as f64),
        plan.workers,
        number(plan.keys as f64),
        number(plan.rate),
        number(fleet::study::part(plan) as f64)
    )?;
    let (ttls, sizes) = axes(&report.traffic);
    write!(out, "{:>12}", "max_units")?;
    for ttl in &ttls {
        write!(out, "{:>14}", format!("ttl {}", span(*ttl)))?;
    }
    writeln!(out)?;
    for size in &sizes {
        write!(out, "{:>12}", number(*size as f64))?;
        for ttl in &ttls {
            let calls = find(&report.traffic, *size, *ttl).map(|outcome| outcome.calls);
            write!(out, "{:>14}", calls.map(number).unwrap_or_default())?;
        }
        writeln!(out)?;
    }
    let each = report.traffic.first().map_or(0.0, |outcome| outcome.calls);
    writeln!(out, "{:>12}{:>14}", "no lease", number(each))
}

fn write_rates(report: &Report, out: &mut String) -> std::fmt::Result {
    let (ttls, sizes) = axes(&report.traffic);
    let Some(size) = widest(&sizes) else {
        return Ok(());
    };
    writeln!(
        out,
        "\nThe same for single keys with max_units {size}, by their rate on one worker; in \
         brackets what the\nformula says for a steady state.\n"
    )?;
    write!(out, "{:>12}", "requests/s")?;
    for ttl in &ttls {
        write!(out, "{:>18}", format!("ttl {}", span(*ttl)))?;
    }
    writeln!(out)?;
    let bands = report.traffic.first().map_or(0, |one| one.keys.len());
    for band in 0..bands {
        let mut rate = 0.0;
        let mut cells = String::new();
        for ttl in &ttls {
            let Some(outcome) = find(&report.traffic, size, *ttl) else {
                continue;
            };
            let (key, seen) = (&outcome.setting.keys[band], &outcome.keys[band]);
            rate = key.rate / outcome.setting.gates_of_key() as f64;
            let calls = seen.calls as f64 * 1000.0 / seen.requests.max(1) as f64;
            let formula = fleet::bounds::calls(&outcome.setting, key)
                .map_or_else(String::new, |calls| format!(" ({})", number(calls)));
            write!(cells, "{:>18}", format!("{}{formula}", number(calls)))?;
        }
        writeln!(out, "{:>12}{cells}", number(rate))?;
    }
    Ok(())
}

fn write_errors(outcomes: &[Outcome], out: &mut String) -> std::fmt::Result {
    writeln!(
        out,
        "{:<14}{:<26}{:>8}{:>9}{:>10}{:>8}{:>9}{:>9}",
        "backend", "mode", "calls", "over, %", "bound, %", "under,%", "fair", "expired"
    )?;
    let mut before = "";
    for outcome in outcomes {
        let (key, seen) = (&outcome.setting.keys[0], &outcome.keys[0]);
        let books = books(outcome);
        let bound = fleet::bounds::over(&outcome.setting, key).map_or_else(
            || "none".to_owned(),
            |units| percent(units / key.limit as f64),
        );
        writeln!(
            out,
            "{:<14}{:<26}{:>8}{:>9}{:>10}{:>8}{:>9}{:>9}",
            if books == before { "" } else { books },
            mode(outcome.setting.mode),
            number(outcome.calls),
            percent(seen.over_most),
            bound,
            percent(seen.under),
            format!("{:.3}", seen.fair_workers),
            percent(outcome.expired),
        )?;
        before = books;
    }
    Ok(())
}

fn write_sizes(outcomes: &[Outcome], out: &mut String) -> std::fmt::Result {
    writeln!(
        out,
        "{:>22}{:>8}{:>9}{:>8}",
        "units/s for a worker", "calls", "over, %", "under,%"
    )?;
    for outcome in outcomes {
        let (key, seen) = (&outcome.setting.keys[0], &outcome.keys[0]);
        let seconds = outcome.setting.window as f64 / 1000.0;
        let share = key.limit as f64 / seconds / outcome.setting.gates_of_key() as f64;
        writeln!(
            out,
            "{:>22}{:>8}{:>9}{:>8}",
            number(share),
            number(outcome.calls),
            percent(seen.over_most),
            percent(seen.under),
        )?;
    }
    Ok(())
}

fn write_cuts(outcomes: &[Outcome], out: &mut String) -> std::fmt::Result {
    writeln!(
        out,
        "{:<26}{:>14}{:>18}{:>16}",
        "mode", "spent after", "W × max_units", "for so long"
    )?;
    for outcome in outcomes {
        let seen = &outcome.keys[0];
        let Mode::Leased { max_units, .. } = outcome.setting.mode else {
            continue;
        };
        let held = outcome.setting.gates_of_key() as u64 * max_units;
        let slower = if outcome.setting.ebb < 1.0 {
            ", then 2/s"
        } else {
            ""
        };
        writeln!(
            out,
            "{:<26}{:>14}{:>18}{:>16}",
            mode(outcome.setting.mode) + slower,
            number(seen.after_cut as f64),
            number(held as f64),
            span(seen.after_cut_ms),
        )?;
    }
    Ok(())
}

/// The ttls and the sizes that were tried.
pub(super) fn axes(outcomes: &[Outcome]) -> (Vec<u64>, Vec<u64>) {
    let (mut ttls, mut sizes) = (Vec::new(), Vec::new());
    for outcome in outcomes {
        if let Mode::Leased { max_units, ttl } = outcome.setting.mode {
            ttls.push(ttl);
            sizes.push(max_units);
        }
    }
    for axis in [&mut ttls, &mut sizes] {
        axis.sort_unstable();
        axis.dedup();
    }
    (ttls, sizes)
}

/// A size that hardly binds.
pub(super) fn widest(sizes: &[u64]) -> Option<u64> {
    let fits = sizes.iter().rfind(|size| **size <= 500);
    fits.or_else(|| sizes.last()).copied()
}

pub(super) fn find(outcomes: &[Outcome], size: u64, wanted: u64) -> Option<&Outcome> {
    outcomes.iter().find(|outcome| {
        matches!(outcome.setting.mode, Mode::Leased { max_units, ttl }
            if max_units == size && ttl == wanted)
    })
}

pub(super) fn books(outcome: &Outcome) -> &'static str {
    match (outcome.setting.books, outcome.setting.told) {
        (Kind::Bucket, _) => "token bucket",
        (Kind::Windows, Told::Exactly) => "reset told",
        (Kind::Windows, Told::InSeconds) => "in seconds",
        (Kind::Windows, Told::Nothing) => "not told",
    }
}

fn mode(mode: Mode) -> String {
    match mode {
        Mode::Each => "check each".to_owned(),
        Mode::Denials => "denials remembered".to_owned(),
        Mode::Allows(ttl) => format!("a yes lasts {}", span(ttl)),
        Mode::Leased { max_units, ttl } => format!("leased {max_units}, {}", span(ttl)),
    }
}

pub(super) fn span(millis: u64) -> String {
    if millis < 1000 {
        format!("{millis} ms")
    } else {
        format!("{} s", number(millis as f64 / 1000.0))
    }
}

fn percent(share: f64) -> String {
    number((share * 10_000.0).round() / 100.0)
}
