//! Everything that was measured, for machines: each sample of each round, and the medians.

use serde_json::{Value, json};

use crate::claim::{self, Claim};
use crate::figures::{Row, Spread, added, cpu, ratio};
use crate::measure::{CONNECTIONS, Phase, Sample, TENANTS};
use crate::plan::Plan;

/// The whole run.
pub(crate) fn json(rows: &[Row], claims: &[Claim], plan: &Plan) -> Value {
    let chain = |row: &Row| {
        let samples: Vec<Value> = row.samples.iter().map(sample).collect();
        json!({
            "name": row.chain.name,
            "target": row.chain.target,
            "cpu_us": spread(row.spread(cpu)),
            "cpu_us_added": spread(added(row, rows, cpu).and_then(Spread::of)),
            "cpu_of_ext_authz": spread(ratio(row, rows).and_then(Spread::of)),
            "rounds": samples,
        })
    };
    json!({
        "rounds": plan.rounds,
        "seconds": plan.duration.as_secs_f64(),
        "rate": plan.rate,
        "connections": CONNECTIONS,
        "tenants": TENANTS,
        "claims": claim::json(claims),
        "chains": rows.iter().map(chain).collect::<Vec<_>>(),
    })
}

fn spread(spread: Option<Spread>) -> Value {
    spread.map_or(
        Value::Null,
        |Spread { median, min, max }| json!({"median": median, "min": min, "max": max}),
    )
}

fn sample(sample: &Sample) -> Value {
    json!({
        "flat": phase(&sample.flat),
        "paced": phase(&sample.paced),
        "refused": sample.refused,
        "memory_bytes": sample.memory,
    })
}

fn phase(phase: &Phase) -> Value {
    let [p50, p99, p999, max] = phase.latency_ms;
    json!({
        "requests": phase.requests,
        "requests_per_second": phase.throughput,
        "cpu_us": phase.cpu_us,
        "checks_per_1000": phase.checks,
        "latency_ms": {"p50": p50, "p99": p99, "p99.9": p999, "max": max},
        "others_cores": phase.others,
    })
}
