//! Charts: an axis, ticks, lines. Knows nothing of what they show. Colours come from the page's
//! style sheet.
//!
//! The lines are an SVG that is stretched to the width of the page. The labels are text beside it,
//! which stays as large as other text. On a narrow page those that would overlap are left out.

use std::fmt::Write;

/// The SVG's own unit: this many are the width, and the height.
const UNITS: f64 = 1000.0;
/// The widths of a chart for which labels are chosen, in pixels: on a phone, and on anything wider
/// than the limit in the style sheet.
const NARROW: f64 = 240.0;
const WIDE: f64 = 470.0;
/// About how wide a letter of a label is, and the least distance between two labels, in pixels.
const LETTER: f64 = 7.0;
const GAP: f64 = 8.0;

/// A place on an axis, 0 to 1, and what is written there.
pub struct Tick {
    pub at: f64,
    pub label: String,
}

/// A line, its points between 0 and 1 in both directions, y upwards.
pub struct Line {
    /// Its number decides its colour.
    pub series: usize,
    pub is_dashed: bool,
    /// The area below is shaded.
    pub is_filled: bool,
    pub points: Vec<(f64, f64)>,
}

pub fn chart(title: &str, x_ticks: &[Tick], y_ticks: &[Tick], lines: &[Line]) -> String {
    let (x, y) = (|at: f64| at * UNITS, |at: f64| (1.0 - at) * UNITS);
    let gutter = y_ticks.iter().map(|tick| tick.label.chars().count()).max().unwrap_or_default();
    let mut out = format!(
        "<div class=\"chart\" style=\"--gutter:{gutter}ch\" role=\"img\" aria-label=\"{}\">\
         <svg viewBox=\"0 0 {UNITS} {UNITS}\" preserveAspectRatio=\"none\">",
        escape(title)
    );
    for tick in y_ticks {
        let at = y(tick.at);
        let _ = write!(
            out,
            "<line class=\"grid\" x1=\"0\" y1=\"{at:.1}\" x2=\"{UNITS}\" y2=\"{at:.1}\"/>"
        );
    }
    for tick in x_ticks {
        let at = x(tick.at);
        let _ = write!(
            out,
            "<line class=\"grid\" x1=\"{at:.1}\" y1=\"0\" x2=\"{at:.1}\" y2=\"{UNITS}\"/>"
        );
    }
    let _ =
        write!(out, "<line class=\"axis\" x1=\"0\" y1=\"{UNITS}\" x2=\"{UNITS}\" y2=\"{UNITS}\"/>");
    for line in lines {
        let mut path = String::new();
        for (index, &(px, py)) in line.points.iter().enumerate() {
            let _ =
                write!(path, "{}{:.1} {:.1}", if index == 0 { "M" } else { " L" }, x(px), y(py));
        }
        if let (true, Some(first), Some(last)) =
            (line.is_filled, line.points.first(), line.points.last())
        {
            let _ = write!(
                out,
                "<path class=\"fill s{}\" d=\"{path} L{:.1} {UNITS} L{:.1} {UNITS} Z\"/>",
                line.series,
                x(last.0),
                x(first.0)
            );
        }
        let dashed = if line.is_dashed { " dashed" } else { "" };
        let _ = write!(out, "<path class=\"line s{}{dashed}\" d=\"{path}\"/>", line.series);
    }
    out.push_str("</svg>");
    for Tick { at, label } in y_ticks {
        let top = (1.0 - at) * 100.0;
        let _ = write!(out, "<span class=\"y\" style=\"top:{top:.2}%\">{}</span>", escape(label));
    }
    let (narrow, wide) = (fitting(x_ticks, NARROW), fitting(x_ticks, WIDE));
    for (Tick { at, label }, fits) in x_ticks.iter().zip(narrow.into_iter().zip(wide)) {
        let class = match fits {
            (true, _) => "x",
            (false, true) => "x if-wide",
            (false, false) => continue,
        };
        let _ = write!(
            out,
            "<span class=\"{class}\" style=\"left:{:.2}%\">{}</span>",
            at * 100.0,
            escape(label)
        );
    }
    out + "</div>"
}

/// Which labels of an axis of this many pixels do not overlap. The last one is always there.
fn fitting(ticks: &[Tick], width: f64) -> Vec<bool> {
    let mut free = f64::INFINITY;
    let mut fits = vec![false; ticks.len()];
    for (tick, fits) in ticks.iter().zip(&mut fits).rev() {
        let label = tick.label.chars().count() as f64 * LETTER;
        let right = tick.at * width + label / 2.0;
        if right + GAP <= free {
            *fits = true;
            free = right - label;
        }
    }
    fits
}

/// Round figures from 0 to a bit above `most`, about five; and the greatest of them.
pub fn linear_ticks(most: f64, label: impl Fn(f64) -> String) -> (Vec<Tick>, f64) {
    let most = if most > 0.0 { most } else { 1.0 };
    let magnitude = 10f64.powf((most / 5.0).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .map(|factor| factor * magnitude)
        .into_iter()
        .find(|step| step * 5.5 >= most);
    let step = step.unwrap_or(magnitude);
    let steps = (most / step).ceil().max(1.0);
    let ticks =
        (0..=steps as usize).map(|n| Tick { at: n as f64 / steps, label: label(n as f64 * step) });
    (ticks.collect(), steps * step)
}

/// 1, 2, 5, 10, 20, … around the range from `least` to `most`; and the logarithms of the first and
/// the last.
pub fn log_ticks(least: f64, most: f64, label: impl Fn(f64) -> String) -> (Vec<Tick>, f64, f64) {
    let decades = -3..13;
    let all: Vec<f64> = decades
        .flat_map(|decade| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(decade)))
        .collect();
    let first = all.iter().rposition(|&tick| tick <= least).unwrap_or(0);
    let last = all.iter().position(|&tick| tick >= most).unwrap_or(all.len() - 1).max(first + 1);
    let (low, high) = (all[first].log10(), all[last].log10());
    // Over many decades only the powers of ten have room.
    let is_wanted = |tick: f64| high - low <= 3.0 || tick.log10().fract().abs() < 1e-9;
    let place = |&tick: &f64| Tick { at: (tick.log10() - low) / (high - low), label: label(tick) };
    (all[first..=last].iter().filter(|&&tick| is_wanted(tick)).map(place).collect(), low, high)
}

/// Text that is only text in HTML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_enclose_what_is_shown() {
        let (ticks, most) = linear_ticks(873.0, |value| value.to_string());
        assert_eq!(most, 1000.0);
        assert_eq!(
            ticks.iter().map(|tick| tick.label.as_str()).collect::<Vec<_>>(),
            ["0", "200", "400", "600", "800", "1000"]
        );
        let (ticks, low, high) = log_ticks(300.0, 7000.0, |value| value.to_string());
        assert_eq!(ticks.first().map(|tick| (tick.at, tick.label.as_str())), Some((0.0, "200")));
        assert_eq!(ticks.last().map(|tick| (tick.at, tick.label.as_str())), Some((1.0, "10000")));
        assert!(low < high);
        assert!(!linear_ticks(0.0, |value| value.to_string()).0.is_empty());
        assert!(!log_ticks(0.0, 0.0, |value| value.to_string()).0.is_empty());
    }

    #[test]
    fn labels_that_would_overlap_are_left_out() {
        let tick = |at: f64, label: &str| Tick { at, label: label.to_owned() };
        let ticks = [tick(0.0, "0 %"), tick(0.05, "50 %"), tick(0.5, "99 %"), tick(1.0, "99.99 %")];
        assert_eq!(fitting(&ticks, 1000.0), [true; 4]);
        assert_eq!(fitting(&ticks, 300.0), [false, true, true, true]);
        assert_eq!(fitting(&ticks, 40.0), [false, false, false, true]);
        let chart = chart("t", &ticks, &[], &[]);
        assert_eq!(chart.matches("class=\"x").count(), 3, "50 % has more room than 0 %: {chart}");
        assert!(chart.contains("class=\"x\" style=\"left:100.00%\">99.99 %<"), "{chart}");
    }

    #[test]
    fn what_a_server_says_cannot_become_markup() {
        assert_eq!(escape("<script>\"&"), "&lt;script&gt;&quot;&amp;");
    }
}
