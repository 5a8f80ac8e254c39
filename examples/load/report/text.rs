//! The report for a terminal.

use super::{Distribution, Fact, Measured, Report, Step, Unit};
use crate::clock::Nanos;
use crate::compare::{Comparison, Ratio};
use crate::latency::{Latency, MIN_FOR_P99, PERCENTILES};
use std::fmt::Write;

const LABEL: usize = 24;

pub fn to_text(report: &Report) -> String {
    let mut out = String::new();
    let settings: Vec<String> = report.settings.iter().map(|(_, value)| value.clone()).collect();
    line(&mut out, format!("{}: {}", report.scenario, settings.join(", ")));
    write_steps(&report.steps, report.unit, &mut out);
    for measured in &report.measured {
        write_measured(measured, report.unit, &mut out);
    }
    if let Some(comparison) = &report.comparison {
        write_comparison(comparison, &mut out);
    }
    if !report.facts.is_empty() {
        out.push('\n');
        report.facts.iter().for_each(|fact| write_fact(fact, report.unit, &mut out));
    }
    for remark in &report.remarks {
        line(&mut out, format!("  note: {remark}"));
    }
    if report.was_interrupted {
        line(&mut out, "  note: interrupted; this is what was measured until then".to_owned());
    }
    out
}

fn write_measured(measured: &Measured, unit: &str, out: &mut String) {
    line(out, format!("\n{}", measured.name));
    measured.facts.iter().for_each(|fact| write_fact(fact, unit, out));
    if !measured.distributions.is_empty() {
        let heads: String =
            PERCENTILES.iter().map(|p| format!("{:>10}", format!("p{p}"))).collect();
        line(out, format!("\n  {:LABEL$}{heads}{:>10}", "", "max"));
        measured
            .distributions
            .iter()
            .for_each(|distribution| write_distribution(distribution, out));
    }
    if !measured.faults.is_empty() || !measured.remarks.is_empty() {
        out.push('\n');
    }
    for (fault, times) in &measured.faults {
        line(out, format!("  FAULT: {} × {fault}", grouped(*times as f64)));
    }
    for remark in &measured.remarks {
        line(out, format!("  note: {remark}"));
    }
}

fn write_steps(steps: &[Step], unit: &str, out: &mut String) {
    if !steps.is_empty() {
        line(
            out,
            format!("\n  {:>14}{:>14}{:>10}{:>10}", format!("{unit}/s"), "achieved", "p50", "p99"),
        );
    }
    for step in steps {
        let (rate, achieved) = (grouped(step.rate.round()), grouped(step.achieved.round()));
        let (p50, p99) = (step_time(step, step.p50, 2), step_time(step, step.p99, MIN_FOR_P99));
        let verdict = if step.verdict.passed() { "" } else { step.verdict.describe() };
        let text = format!("  {rate:>14}{achieved:>14}{p50:>10}{p99:>10}  {verdict}");
        line(out, text.trim_end().to_owned());
    }
}

fn write_fact(fact: &Fact, unit: &str, out: &mut String) {
    let of = if matches!(fact.unit, Unit::PerSecond) || fact.key == "finished" { unit } else { "" };
    line(out, format!("  {:LABEL$}{}", fact.label, value(fact, of)));
}

fn write_distribution(distribution: &Distribution, out: &mut String) {
    let latency = &distribution.latency;
    let figures =
        PERCENTILES.iter().map(|&p| percentile(latency, p)).chain([time(latency.max() as f64)]);
    let figures: String = figures.map(|figure| format!("{figure:>10}")).collect();
    line(out, format!("  {:LABEL$}{figures}", distribution.label));
}

/// A time of a step, or a dash if it had fewer samples than `enough`.
pub fn step_time(step: &Step, nanos: Nanos, enough: u64) -> String {
    if step.samples < enough { "–".to_owned() } else { time(nanos as f64) }
}

/// A percentile, or a dash if there are too few samples for it.
pub fn percentile(latency: &Latency, percentile: f64) -> String {
    if latency.knows(percentile) {
        time(latency.percentile(percentile) as f64)
    } else {
        "–".to_owned()
    }
}

fn write_comparison(comparison: &Comparison, out: &mut String) {
    line(out, "\nA / B, paired".to_owned());
    line(out, format!("  {:LABEL$}{:>8}   95 % confidence", "", "median"));
    for (_, label, ratio) in comparison.ratios() {
        if let Some(ratio) = ratio {
            line(out, format!("  {label:LABEL$}{:>8.3}   {}", ratio.median, interval(ratio)));
        }
    }
    if let Some(limit) = comparison.at_most {
        let (what, _) = comparison.limited();
        line(out, format!("\n  --at-most {limit} ({what} for each): {}", comparison.verdict()));
    }
}

pub fn interval(ratio: &Ratio) -> String {
    match ratio.interval {
        Some((low, high)) => format!("{low:.3} to {high:.3}   ({} pairs)", ratio.pairs.len()),
        None => "unknown: too few pairs".to_owned(),
    }
}

/// A figure with its unit, as a person writes it.
pub fn value(fact: &Fact, of: &str) -> String {
    match fact.unit {
        Unit::Count => format!("{} {of}", grouped(fact.value)).trim_end().to_owned(),
        Unit::PerSecond => format!("{} {of}/s", grouped(fact.value)),
        Unit::Bytes => bytes(fact.value),
        Unit::BytesPerSecond => format!("{:.1} MB/s", fact.value / 1e6),
        Unit::Nanos => time(fact.value),
        Unit::Share => format!("{:.0} %", fact.value * 100.0),
        Unit::Times => format!("{:.2}", fact.value),
    }
}

/// Nanoseconds in the unit in which they have one to three digits before the point.
pub fn time(nanos: f64) -> String {
    match nanos {
        n if n < 1e3 => format!("{n:.0} ns"),
        n if n < 1e6 => format!("{:.1} µs", n / 1e3),
        n if n < 1e9 => format!("{:.2} ms", n / 1e6),
        n => format!("{:.2} s", n / 1e9),
    }
}

fn bytes(bytes: f64) -> String {
    match bytes.abs() {
        b if b < 10.0 * 1024.0 => format!("{bytes:.0} bytes"),
        b if b < 1024.0 * 1024.0 => format!("{:.1} KiB", bytes / 1024.0),
        _ => format!("{:.1} MiB", bytes / 1024.0 / 1024.0),
    }
}

/// 1234567 as 1 234 567; small fractions keep a digit.
pub fn grouped(number: f64) -> String {
    if number.fract() != 0.0 && number < 100.0 {
        return format!("{number:.1}");
    }
    let digits = format!("{number:.0}");
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

fn line(out: &mut String, text: String) {
    let _ = writeln!(out, "{text}"); // Writing to a string does not fail.
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_written_for_people() {
        assert_eq!(
            [time(12.0), time(1_234.0), time(2.5e6), time(3e9)],
            ["12 ns", "1.2 µs", "2.50 ms", "3.00 s"].map(str::to_owned)
        );
        assert_eq!(
            [grouped(0.5), grouped(999.0), grouped(1_234_567.0)],
            ["0.5", "999", "1 234 567"].map(str::to_owned)
        );
        assert_eq!([bytes(256.0), bytes(2e6)], ["256 bytes", "1.9 MiB"].map(str::to_owned));
    }
}
