//! What must hold on any machine, however busy: every chain served what it should, the way it
//! should. No time is judged.

use std::process::ExitCode;

use crate::claim::Claim;
use crate::figures::Row;
use crate::measure::Sample;

/// Prints one line for each chain and claim, and the sum in the form of a test program's.
pub(crate) fn judge(rows: &[Row], claims: &[Claim]) -> ExitCode {
    let chains = rows
        .iter()
        .map(|row| (format!("chain {}", row.chain.name), findings(row)));
    let claims = claims.iter().filter(|claim| !claim.timed).map(|claim| {
        let finding = format!("{}, not {}", claim.figure, claim.target);
        let findings = if claim.kept {
            Vec::new()
        } else {
            vec![finding]
        };
        (format!("{}: {}", claim.situation, claim.what), findings)
    });
    let (mut passed, mut failed) = (0, 0);
    for (what, findings) in chains.chain(claims) {
        let good = findings.is_empty();
        println!("{what} ... {}", if good { "ok" } else { "FAILED" });
        for finding in &findings {
            println!("    {finding}");
        }
        passed += u32::from(good);
        failed += u32::from(!good);
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {word}. {passed} passed; {failed} failed");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// What a chain did otherwise than it should.
pub(crate) fn findings(row: &Row) -> Vec<String> {
    let mut findings = Vec::new();
    for sample in &row.samples {
        sample_findings(row, sample, &mut findings);
    }
    findings
}

fn sample_findings(row: &Row, sample: &Sample, findings: &mut Vec<String>) {
    let mut expect = |holds: bool, text: String| {
        if !holds {
            findings.push(text);
        }
    };
    let phases = [&sample.flat, &sample.paced];
    let some = phases.iter().all(|phase| phase.requests > 0);
    expect(some, "no request was answered".to_owned());
    let refused = sample.refused;
    expect(
        refused == 0,
        format!("{refused} requests were not let through"),
    );
    let (seen, answered) = sample.upstream;
    expect(
        seen == answered,
        format!("the upstream saw {seen} of {answered} requests"),
    );
    let (from, to) = row.chain.checks;
    for checks in phases.map(|phase| phase.checks) {
        expect(
            (from..=to).contains(&checks),
            format!("{checks:.1} checks per 1,000 requests, not {from} to {to}"),
        );
    }
    if let Some(settled) = sample.settled {
        expect(
            settled == answered,
            format!("the filter settled {settled} of {answered} requests"),
        );
    }
    if let (Some(reason), Some((these, all))) = (row.chain.reason, sample.reasons) {
        expect(
            all == answered,
            format!("the filter counted {all} of {answered} requests"),
        );
        let share = these as f64 / all.max(1) as f64;
        expect(
            share >= SHARE_MIN,
            format!("only {these} of {all} requests were {reason}"),
        );
    }
}

/// The first requests of a chain go another way: they fill the cache, or trip the breaker.
const SHARE_MIN: f64 = 0.9;
