//! The report for programs. Keys stay; times are in nanoseconds, sizes in bytes, shares between 0
//! and 1.

use super::{Distribution, Fact, Measured, Report, Step, Unit};
use crate::compare::{Comparison, Ratio};
use crate::latency::PERCENTILES;
use serde_json::{Map, Value, json};

pub fn to_json(report: &Report) -> Value {
    let settings: Map<String, Value> =
        report.settings.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
    let mut out = json!({
        "scenario": report.scenario,
        "unit": report.unit,
        "settings": settings,
        "measured": report.measured.iter().map(measured).collect::<Vec<_>>(),
        "comparison": report.comparison.as_ref().map(comparison),
        "steps": report.steps.iter().map(step).collect::<Vec<_>>(),
        "remarks": report.remarks,
        "interrupted": report.was_interrupted,
        "tool_was_the_limit": report.tool_was_the_limit,
        "holds": report.holds(),
    });
    add_facts(&mut out, &report.facts);
    out
}

fn step(step: &Step) -> Value {
    json!({
        "rate": step.rate,
        "achieved": step.achieved,
        "p50": step.p50,
        "p99": step.p99,
        "samples": step.samples,
        "passed": step.verdict.passed(),
        "verdict": step.verdict.describe(),
    })
}

fn measured(measured: &Measured) -> Value {
    let faults = measured.faults.iter().cloned().map(|(fault, times)| (fault, json!(times)));
    let faults: Map<_, _> = faults.collect();
    let mut out = json!({
        "name": measured.name,
        "over_time": { "step_ns": measured.over_time.step, "per_second": measured.over_time.rates },
        "faults": faults,
        "remarks": measured.remarks,
    });
    add_facts(&mut out, &measured.facts);
    for distribution in &measured.distributions {
        out[distribution.key] = percentiles(distribution);
    }
    out
}

fn percentiles(distribution: &Distribution) -> Value {
    let latency = &distribution.latency;
    let mut out = json!({ "count": latency.count(), "mean": latency.mean(), "max": latency.max() });
    for percentile in PERCENTILES {
        out[format!("p{percentile}")] = json!(latency.percentile(percentile));
    }
    let unknown = PERCENTILES.into_iter().filter(|&percentile| !latency.knows(percentile));
    out["too_few_samples_for"] = unknown.map(|percentile| format!("p{percentile}")).collect();
    out
}

fn comparison(comparison: &Comparison) -> Value {
    let ratio = |ratio: &Ratio| {
        let (low, high) = ratio.interval.unzip();
        json!({ "median": ratio.median, "low": low, "high": high, "pairs": ratio.pairs })
    };
    let mut out = json!({ "at_most": comparison.at_most, "exceeded": comparison.is_exceeded() });
    for (key, _, of) in comparison.ratios() {
        out[key] = json!(of.map(ratio));
    }
    out
}

fn add_facts(out: &mut Value, facts: &[Fact]) {
    for fact in facts {
        let is_whole = matches!(fact.unit, Unit::Count | Unit::Bytes) && fact.value.fract() == 0.0;
        out[fact.key] = if is_whole { json!(fact.value as i64) } else { json!(fact.value) };
    }
}
