//! Charts as SVG: an axis, ticks, lines. Knows nothing of what they show. Colours come from the
//! page's style sheet.

use std::fmt::Write;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 78.0;
const RIGHT: f64 = 34.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 34.0;

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
    let x = |at: f64| LEFT + at * (WIDTH - LEFT - RIGHT);
    let y = |at: f64| TOP + (1.0 - at) * (HEIGHT - TOP - BOTTOM);
    let (bottom, right) = (y(0.0), x(1.0));
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
        escape(title)
    );
    for Tick { at, label } in y_ticks {
        let at = y(*at);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{right}\" y2=\"{at:.1}\"/>"
        );
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 8.0,
            at + 4.0,
            escape(label)
        );
    }
    for Tick { at, label } in x_ticks {
        let at = x(*at);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{bottom}\"/>"
        );
        let _ = write!(
            svg,
            "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            bottom + 20.0,
            escape(label)
        );
    }
    let _ = write!(
        svg,
        "<line class=\"axis\" x1=\"{LEFT}\" y1=\"{bottom}\" x2=\"{right}\" y2=\"{bottom}\"/>"
    );
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
                svg,
                "<path class=\"fill s{}\" d=\"{path} L{:.1} {bottom} L{:.1} {bottom} Z\"/>",
                line.series,
                x(last.0),
                x(first.0)
            );
        }
        let dashed = if line.is_dashed { " dashed" } else { "" };
        let _ = write!(svg, "<path class=\"line s{}{dashed}\" d=\"{path}\"/>", line.series);
    }
    svg + "</svg>"
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
    fn what_a_server_says_cannot_become_markup() {
        assert_eq!(escape("<script>\"&"), "&lt;script&gt;&quot;&amp;");
    }
}
