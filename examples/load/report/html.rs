//! The report for a browser: one page that needs nothing else, with the curves, light or dark as
//! the reader likes.

use super::chart::{Line, Tick, chart, escape, linear_ticks, log_ticks};
use super::text::{grouped, interval, percentile, step_time, time, value};
use super::{Distribution, Fact, Measured, Report, Unit};
use crate::clock::seconds;
use crate::compare::{Comparison, Ratio};
use crate::conditions::Conditions;
use crate::latency::{MIN_FOR_P99, PERCENTILES};
use std::fmt::Write;

const STYLE: &str = include_str!("page.css");

/// The number of nines, before and behind the point, up to which the axis reaches.
const MOST_NINES: f64 = 6.0;

pub fn to_html(report: &Report) -> String {
    let title = format!("load: {}", report.scenario);
    let settings: Vec<String> = report.settings.iter().map(|(_, value)| escape(value)).collect();
    let mut body = format!(
        "<header><h1>{}</h1><p>{}</p>{}</header>\n",
        escape(report.scenario),
        settings.join(" · "),
        conditions(&report.conditions)
    );
    let notes = report.remarks.iter().map(|remark| (None, remark));
    let its_notes = report
        .measured
        .iter()
        .flat_map(|one| one.remarks.iter().map(move |remark| (Some(&one.name), remark)));
    write_notes(notes.chain(its_notes), report, &mut body);
    if let Some(comparison) = &report.comparison {
        write_comparison(comparison, &mut body);
    }
    if !report.facts.is_empty() {
        let cards: String = report.facts.iter().map(|fact| card(fact, report.unit)).collect();
        let _ = writeln!(body, "<section><div class=\"cards\">{cards}</div></section>");
    }
    for (series, measured) in report.measured.iter().enumerate() {
        write_figures(series, measured, report.unit, &mut body);
    }
    write_latency(report, &mut body);
    write_throughput(report, &mut body);
    write_steps(report, &mut body);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{}</title>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <style>\n{STYLE}</style></head>\n\
         <body><main>\n{body}</main></body></html>\n",
        escape(&title)
    )
}

/// What a reader needs to repeat the run.
fn conditions(conditions: &Conditions) -> String {
    // Each option stays in one piece where lines wrap.
    let pieces = conditions.command_line.split(" --").enumerate();
    let command: Vec<String> = pieces
        .map(|(index, piece)| match index {
            0 => escape(piece),
            _ => format!(" <span>--{}</span>", escape(piece)),
        })
        .collect();
    let rows = [
        ("Date", escape(&conditions.date)),
        ("Command", format!("<code>{}</code>", command.concat())),
        ("Machine", escape(&conditions.machine)),
    ];
    let rows = rows.map(|(name, value)| format!("<dt>{name}</dt><dd>{value}</dd>"));
    format!("<dl>{}</dl>", rows.concat())
}

fn write_notes<'r>(
    notes: impl Iterator<Item = (Option<&'r String>, &'r String)>,
    report: &Report,
    body: &mut String,
) {
    for (name, note) in notes {
        let name = name
            .filter(|_| report.measured.len() > 1)
            .map(|name| format!("<b>{}</b>: ", escape(name)));
        let _ =
            writeln!(body, "<p class=\"note\">{}{}</p>", name.unwrap_or_default(), escape(note));
    }
    for measured in &report.measured {
        for (fault, times) in &measured.faults {
            let times = grouped(*times as f64);
            let _ = writeln!(
                body,
                "<p class=\"note fault\">{}: {times} × {}</p>",
                escape(&measured.name),
                escape(fault)
            );
        }
    }
    if report.was_interrupted {
        body.push_str("<p class=\"note\">Interrupted: this is what was measured until then.</p>\n");
    }
}

/// A figure, large.
fn card(fact: &Fact, unit: &str) -> String {
    let of = if fact.unit == Unit::PerSecond { unit } else { "" };
    // The number large, its unit small.
    let text = value(fact, of);
    let split =
        text.find(|c: char| !(c.is_ascii_digit() || " .-".contains(c))).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    format!(
        "<div class=\"card\"><span>{}</span><strong>{}<small> {}</small></strong></div>",
        escape(fact.label),
        escape(number.trim_end()),
        escape(unit.trim())
    )
}

fn write_figures(series: usize, measured: &Measured, unit: &str, body: &mut String) {
    let _ = writeln!(
        body,
        "<section><h2><i class=\"key s{series}\"></i>{}</h2>",
        escape(&measured.name)
    );
    let shown = [
        "per_second",
        "bytes_per_second",
        "server_cpu_each_ns",
        "server_resident_bytes",
        "broadcasts",
        "bytes_saved",
        "tls_full_handshakes",
        "tls_resumed_handshakes",
        "tool_busy",
    ];
    let facts = measured.facts.iter().filter(|fact| shown.contains(&fact.key));
    let _ = writeln!(
        body,
        "<div class=\"cards\">{}</div>",
        facts.map(|fact| card(fact, unit)).collect::<String>()
    );
    if !measured.distributions.is_empty() {
        let heads: String = PERCENTILES.iter().map(|p| format!("<th>p{p}</th>")).collect();
        let rows: String = measured.distributions.iter().map(row).collect();
        // Turned on a phone: a column for each distribution.
        let _ = writeln!(
            body,
            "<table class=\"turns\" style=\"--rows:{}\"><tr><th></th>{heads}<th>max</th></tr>\
             {rows}</table>",
            PERCENTILES.len() + 2
        );
    }
    body.push_str("</section>\n");
}

fn row(distribution: &Distribution) -> String {
    let latency = &distribution.latency;
    let times =
        PERCENTILES.iter().map(|&p| percentile(latency, p)).chain([time(latency.max() as f64)]);
    let cells: String = times.map(|time| format!("<td>{time}</td>")).collect();
    format!("<tr><th>{}</th>{cells}</tr>", escape(distribution.label))
}

/// A distribution to draw.
struct Curve {
    /// The number of what it was measured of, which decides its colour.
    series: usize,
    is_uncorrected: bool,
    /// (percentile, time)
    points: Vec<(f64, u64)>,
}

/// The curves of all main distributions, and of what they would be uncorrected.
fn curves(report: &Report) -> Vec<Curve> {
    let mut curves = Vec::new();
    for (series, measured) in report.measured.iter().enumerate() {
        for one in &measured.distributions {
            if ["latency", "latency_uncorrected"].contains(&one.key) {
                curves.push(Curve {
                    series,
                    is_uncorrected: one.key != "latency",
                    points: one.latency.curve(),
                });
            }
        }
    }
    curves
}

/// The curve of the percentiles. 90 %, 99 %, 99.9 % and so on have equal distances, so that the
/// rare cases have room.
fn write_latency(report: &Report, body: &mut String) {
    let curves = curves(report);
    let times =
        || curves.iter().flat_map(|curve| curve.points.iter().map(|&(_, time)| time as f64));
    let (least, most) = (times().fold(f64::INFINITY, f64::min), times().fold(0.0, f64::max));
    if most == 0.0 {
        return;
    }
    let nines = |percentile: f64| -(1.0 - percentile / 100.0).max(10f64.powf(-MOST_NINES)).log10();
    let all = curves
        .iter()
        .flat_map(|curve| curve.points.iter().map(|&(percentile, _)| nines(percentile)));
    let widest = all.fold(1.0, f64::max);
    let x_ticks: Vec<Tick> = [0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999, 99.9999]
        .into_iter()
        .filter(|&percentile| nines(percentile) <= widest + 1e-9)
        .map(|percentile| Tick { at: nines(percentile) / widest, label: format!("{percentile} %") })
        .collect();
    let (y_ticks, low, high) = log_ticks(least, most, short_time);
    let place = |&(percentile, time): &(f64, u64)| {
        (nines(percentile) / widest, ((time.max(1) as f64).log10() - low) / (high - low))
    };
    let line = |curve: &Curve| Line {
        series: curve.series,
        is_dashed: curve.is_uncorrected,
        is_filled: false,
        points: curve.points.iter().map(place).collect(),
    };
    let lines: Vec<Line> = curves.iter().map(line).collect();
    let _ = writeln!(
        body,
        "<section><h2>Latency</h2><p>How many percent took no longer than each time. {}</p>\
         {}</section>",
        legend(report, curves.iter().any(|curve| curve.is_uncorrected)),
        chart("Latency by percentile", &x_ticks, &y_ticks, &lines)
    );
}

fn write_throughput(report: &Report, body: &mut String) {
    let rates =
        || report.measured.iter().flat_map(|measured| measured.over_time.rates.iter().copied());
    let most = rates().fold(0.0, f64::max);
    let has_line = report.measured.iter().any(|measured| measured.over_time.rates.len() > 1);
    if most == 0.0 || !has_line {
        return;
    }
    let length = |measured: &Measured| {
        measured.over_time.rates.len() as f64 * seconds(measured.over_time.step)
    };
    let longest = report.measured.iter().map(length).fold(0.0, f64::max);
    let (y_ticks, top) = linear_ticks(most, |rate| grouped(rate.round()));
    let (mut x_ticks, end) =
        linear_ticks(longest, |at| format!("{} s", (at * 100.0).round() / 100.0));
    x_ticks.iter_mut().for_each(|tick| tick.at *= end / longest);
    x_ticks.retain(|tick| tick.at <= 1.0 + 1e-9);
    let lines: Vec<Line> = (report.measured.iter().enumerate())
        .map(|(series, measured)| Line {
            series,
            is_dashed: false,
            is_filled: report.measured.len() == 1,
            points: (measured.over_time.rates.iter().enumerate())
                .map(|(index, rate)| {
                    ((index as f64 + 0.5) * seconds(measured.over_time.step) / longest, rate / top)
                })
                .collect(),
        })
        .collect();
    let each = if report.comparison.is_some() {
        " Each server's own slices, one behind the other."
    } else {
        ""
    };
    let _ = writeln!(
        body,
        "<section><h2>Throughput over time</h2><p>In {}/s.{each} {}</p>{}</section>",
        escape(report.unit),
        legend(report, false),
        chart("Throughput over time", &x_ticks, &y_ticks, &lines)
    );
}

/// Which colour stands for what, if there are several.
fn legend(report: &Report, has_uncorrected: bool) -> String {
    let mut out = String::new();
    if report.measured.len() > 1 {
        for (series, measured) in report.measured.iter().enumerate() {
            let _ = write!(
                out,
                "<span class=\"legend\"><i class=\"key s{series}\"></i>{}</span>",
                escape(&measured.name)
            );
        }
    }
    if has_uncorrected {
        out.push_str(
            "<span class=\"legend\"><i class=\"key dashed\"></i>\
             uncorrected: from when it was really sent</span>",
        );
    }
    out
}

/// For each figure a row: a dot for each pair, the median, and its interval, around 1.
fn write_comparison(comparison: &Comparison, body: &mut String) {
    let ratios: Vec<(&str, &Ratio)> = comparison
        .ratios()
        .into_iter()
        .filter_map(|(_, label, ratio)| Some((label, ratio?)))
        .collect();
    // Wide enough for the intervals; pairs farther out stand at the edge.
    let ends = ratios.iter().flat_map(|(_, ratio)| {
        let (low, high) = ratio.interval.unwrap_or((ratio.median, ratio.median));
        [low, high, ratio.median]
    });
    let reach = ends.map(|end| end.max(1e-3).ln().abs()).fold(0.05, f64::max) * 1.6;
    let x = |ratio: f64| ((ratio.max(1e-9).ln() / reach).clamp(-1.0, 1.0) + 1.0) * 50.0;
    body.push_str(
        "<section><h2>A / B, paired</h2>\
         <p>A dot for each pair of slices; the bar is where the median lies with 95 % \
         confidence.</p>",
    );
    body.push_str("<div class=\"ratios\">");
    for (label, ratio) in ratios {
        let (low, high) = ratio.interval.unwrap_or((ratio.median, ratio.median));
        let dots: String = ratio
            .pairs
            .iter()
            .map(|&pair| format!("<circle cx=\"{:.2}%\" cy=\"50%\" r=\"3\"/>", x(pair)))
            .collect();
        let _ = write!(
            body,
            "<b>{}</b><svg class=\"strip\" height=\"26\">\
             <line class=\"one\" x1=\"50%\" x2=\"50%\" y1=\"0\" y2=\"100%\"/>\
             <rect class=\"interval\" x=\"{:.2}%\" width=\"{:.2}%\" y=\"5\" height=\"16\" \
             rx=\"3\"/>{dots}\
             <line class=\"median\" x1=\"{:.2}%\" x2=\"{:.2}%\" y1=\"2\" y2=\"24\"/></svg>\
             <span><strong>{:.3}</strong> <small>{}</small></span>",
            escape(label),
            x(low),
            (x(high) - x(low)).max(0.3),
            x(ratio.median),
            x(ratio.median),
            ratio.median,
            interval(ratio)
        );
    }
    let _ = write!(
        body,
        "<b></b><div class=\"scale\"><span>{:.2}</span><span>1</span><span>{:.2}</span></div>\
         <span></span></div>",
        (-reach).exp(),
        reach.exp()
    );
    if let Some(limit) = comparison.at_most {
        let (what, _) = comparison.limited();
        let (class, verdict) = (
            if comparison.is_exceeded() { "note fault" } else { "note good" },
            comparison.verdict(),
        );
        let _ = write!(
            body,
            "<p class=\"{class}\">At most {limit} ({what} for each): <b>{verdict}</b></p>"
        );
    }
    body.push_str("</section>\n");
}

fn write_steps(report: &Report, body: &mut String) {
    if report.steps.is_empty() {
        return;
    }
    body.push_str(
        "<section><h2>The search</h2><table class=\"steps\"><tr><th></th><th>rate</th>\
         <th>achieved</th><th>p50</th><th>p99</th></tr>",
    );
    for step in &report.steps {
        let _ = write!(
            body,
            "<tr class=\"{}\"><th>{}</th><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            if step.verdict.passed() { "" } else { "failed" },
            step.verdict.describe(),
            grouped(step.rate.round()),
            grouped(step.achieved.round()),
            step_time(step, step.p50, 2),
            step_time(step, step.p99, MIN_FOR_P99)
        );
    }
    body.push_str("</table></section>\n");
}

/// A tick's time, without digits that are zero.
fn short_time(nanos: f64) -> String {
    match nanos {
        n if n < 1e3 => format!("{n} ns"),
        n if n < 1e6 => format!("{} µs", n / 1e3),
        n if n < 1e9 => format!("{} ms", n / 1e6),
        n => format!("{} s", n / 1e9),
    }
}
