//! What must hold of the whole run: counters that add up, memory that stays, a log without errors.

use std::collections::BTreeMap;
use std::time::Duration;

use envoy_harness::eventually::{PATIENCE, within};
use envoy_harness::{Rig, Sample};
use quota_gate::decision::Outcome as Decided;

use crate::client::End;
use crate::ledger::Ledger;
use crate::traffic::{Mode, Planned};

/// What the gate has counted, and what others have.
#[derive(Debug, Default)]
pub(crate) struct Sums {
    pub(crate) counted: u64,
    pub(crate) host: u64,
    pub(crate) logged: u64,
    /// Clients that left before Envoy had their request.
    pub(crate) never_arrived: u64,
}

/// Waits until Envoy has nothing left to do; what is still going on is a finding.
pub(crate) fn settle(rig: &Rig) -> Vec<String> {
    let gauges = [
        ("envoy_http_downstream_rq_active", PATIENCE),
        ("quota_gate_pending", PATIENCE),
        ("quota_gate_settlements_pending", REPORTS_PATIENCE),
    ];
    let mut findings = Vec::new();
    for (gauge, patience) in gauges {
        let busy = || {
            let labels = [("envoy_http_conn_manager_prefix", "gated")];
            let labels = if gauge.starts_with("envoy") {
                &labels[..]
            } else {
                &[]
            };
            (rig.envoy().metric(gauge, labels) < 0.5).then_some(())
        };
        if within(patience, busy).is_none() {
            let left = rig.envoy().metric(gauge, &[]);
            findings.push(format!("{gauge} is still {left}"));
        }
    }
    findings
}

/// The sum law, for all requests together and for each series.
pub(crate) fn sums(rig: &Rig, ledger: &Ledger, seed: u64) -> (Sums, Vec<String>) {
    let mut findings = Vec::new();
    let (mut told, mut silent) = (BTreeMap::new(), 0);
    let mut sums = Sums {
        logged: ledger.lines,
        ..Sums::default()
    };
    for (number, record) in ledger.records() {
        let kind = Planned::new(seed, number).kind;
        sums.never_arrived +=
            u64::from(record.logged.lines == 0 && matches!(record.end, Some(End::Left)));
        match record.logged.decision {
            Some(decision) => {
                *told.entry((kind.policy, decision)).or_insert(0) += u64::from(record.logged.lines);
            }
            None if kind.mode == Mode::StatusPage => {
                let own = ("", bypassed());
                *told.entry(own).or_insert(0) += u64::from(record.logged.lines);
            }
            None => silent += u64::from(record.logged.lines),
        }
    }
    // What a replaced configuration has counted may come as late as its own end.
    let counted =
        || (total(&rig.envoy().counters(), "quota_gate_requests") == sums.logged).then_some(());
    let _ = within(PATIENCE, counted);
    let samples = rig.envoy().counters();
    let ours: Vec<&Sample> = samples
        .iter()
        .filter(|sample| sample.name == "quota_gate_requests")
        .collect();
    sums.counted = total(&samples, "quota_gate_requests");
    sums.host = samples
        .iter()
        .filter(|sample| {
            let labels = [("envoy_http_conn_manager_prefix", "gated")];
            sample.is("envoy_http_downstream_rq_total", &labels)
        })
        .map(|sample| whole(sample.value))
        .sum();
    if sums.counted != sums.host || sums.host != sums.logged {
        findings.push(format!("the sum law is broken: {sums:?}"));
    }
    findings.extend(by_series(&ours, told, silent));
    (sums, findings)
}

fn total(samples: &[Sample], name: &str) -> u64 {
    let own = samples.iter().filter(|sample| sample.name == name);
    own.map(|sample| whole(sample.value)).sum()
}

/// Each series is what the access log has of it. Who left while its check was pending is counted
/// under what that came to, of which the log can't tell.
fn by_series(
    ours: &[&Sample],
    mut told: BTreeMap<(&'static str, Decided), u64>,
    silent: u64,
) -> Vec<String> {
    let (mut findings, mut left) = (Vec::new(), silent);
    for sample in ours {
        let label = |name: &str| sample.labels.get(name).map_or("", String::as_str);
        let policy = if label("policy") == "off" {
            ""
        } else {
            label("policy")
        };
        let known = told
            .iter_mut()
            .find(|((own, decision), _)| {
                *own == policy
                    && decision.word() == label("decision")
                    && decision.reason() == label("reason")
            })
            .map_or(0, |(_, count)| std::mem::take(count));
        match whole(sample.value).checked_sub(known) {
            Some(more) if more <= left => left -= more,
            _ => findings.push(format!(
                "{:?} counts {}, the access log has {known} and {left} without decision",
                sample.labels, sample.value
            )),
        }
    }
    let lost = told.into_iter().filter(|(_, count)| *count > 0);
    findings.extend(lost.map(|(series, count)| format!("{count} of {series:?} are not counted")));
    if left > 0 {
        findings.push(format!("{left} requests without decision are not counted"));
    }
    findings
}

/// Lines that no healthy Envoy writes.
pub(crate) fn log(rig: &Rig) -> Vec<String> {
    let bad = |line: &&str| {
        [
            "][error]",
            "][critical]",
            "RuntimeError",
            "in-VM backtrace",
            "Function: proxy_on",
        ]
        .iter()
        .any(|mark| line.contains(mark))
    };
    let log = rig.envoy().log();
    let mut findings: Vec<String> = log
        .lines()
        .filter(bad)
        .take(FEW)
        .map(|line| format!("in Envoy's log: {line}"))
        .collect();
    if !rig.envoy().alive() {
        findings.push("Envoy has died".into());
    }
    findings
}

/// Memory is flat: at its lowest, the last fifth of the run has no more than the second, but for a
/// little. What answers of 34 MB take for a moment is not what stays.
pub(crate) fn memory(samples: &[u64]) -> (Option<(u64, u64)>, Option<String>) {
    let fifth = samples.len() / 5;
    let lowest = |part: Option<&[u64]>| part?.iter().min().copied();
    let warm = lowest(samples.get(fifth..2 * fifth));
    let end = lowest(samples.get(samples.len() - fifth..));
    let Some((warm, end)) = warm.zip(end) else {
        return (None, None);
    };
    let bound = warm + warm / 5 + (16 << 20);
    let finding = (end > bound).then(|| {
        format!(
            "memory grows: {} MiB when warm, {} MiB at the end",
            warm >> 20,
            end >> 20
        )
    });
    (Some((warm, end)), finding)
}

fn bypassed() -> Decided {
    Decided::Allow(quota_gate::decision::AllowReason::Bypassed)
}

/// Counts are whole numbers, which f64 holds exactly up to 2^53.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub(crate) fn whole(value: f64) -> u64 {
    value.round() as u64
}

const FEW: usize = 10;

/// Reports that failed wait for up to 5 s, and what is gathered until then goes out bit by bit.
const REPORTS_PATIENCE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn memory_that_grows_all_the_time_is_found() {
        let grows: Vec<u64> = (0..50).map(|look| (100 + 2 * look) * MIB).collect();
        let (_, finding) = memory(&grows);
        let finding = finding.expect("a finding");
        assert_eq!(
            finding,
            "memory grows: 120 MiB when warm, 180 MiB at the end"
        );
    }

    #[test]
    fn a_large_answer_for_a_moment_is_no_growth() {
        let mut flat = vec![100 * MIB; 10];
        flat[9] = 300 * MIB;
        assert_eq!(memory(&flat), (Some((100 * MIB, 100 * MIB)), None));
        assert_eq!(memory(&flat[..4]), (None, None));
    }
}
