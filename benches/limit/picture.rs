//! The figures as a picture: for each work a bar for each server, from the limit to the right.

use serde_json::Value;

const WIDTH: f64 = 860.0;
/// Where the bars begin: the limit, ratio 1.
const LEFT: f64 = 330.0;
const BAR: f64 = 13.0;
const GAP: f64 = 12.0;
/// The ratio at the right edge; longer bars are cut there, and say so by their number.
const RIGHT_RATIO: f64 = 2.0;
/// The least ratio that is drawn: what is less than the limit goes to the left.
const LEAST_RATIO: f64 = 0.75;

/// Draws figures.json as SVG, legible on light and dark pages.
pub fn draw(figures: &Value) -> String {
    let mut body = String::new();
    let mut y = 58.0;
    for row in figures["rows"].as_array().into_iter().flatten() {
        let servers: Vec<(&String, &Value)> =
            row["servers"].as_object().into_iter().flatten().collect();
        let name = row["work"].as_str().unwrap_or_default();
        body += &text(12.0, y + BAR - 2.0, "work", name);
        let mut servers = servers;
        servers.sort_by(|a, b| median(a.1).total_cmp(&median(b.1)));
        for (server, ratio) in servers {
            let (median, low, high) = (
                median(ratio),
                ratio["low"].as_f64().unwrap_or(1.0),
                ratio["high"].as_f64().unwrap_or(1.0),
            );
            // Each build of ours has a name of its own, which begins with ours.
            let class = if server.starts_with("ikisocket") { "ours" } else { "other" };
            let (from, to) = (x(1.0).min(x(median)), x(1.0).max(x(median)));
            body += &format!(
                "<rect class='{class}' x='{from:.1}' y='{y:.1}' width='{:.1}' height='{:.1}'/>\n",
                to - from,
                BAR - 3.0
            );
            let middle = y + (BAR - 3.0) / 2.0;
            body += &format!(
                "<path class='interval' d='M{:.1} {middle:.1}H{:.1}'/>\n",
                x(low),
                x(high)
            );
            body += &text(
                x(high.max(1.0)) + 6.0,
                y + BAR - 4.0,
                class,
                &format!("{median:.2} {server}"),
            );
            y += BAR;
        }
        y += GAP;
    }
    let height = y + 30.0;
    let mut grid = String::new();
    for ratio in [1.0, 1.25, 1.5, 1.75, 2.0] {
        let class = if ratio == 1.0 { "limit" } else { "grid" };
        grid += &format!("<path class='{class}' d='M{0:.1} 46V{1:.1}'/>\n", x(ratio), y);
        grid += &text(x(ratio) - 8.0, 40.0, "axis", &format!("{ratio}"));
    }
    let title = text(
        12.0,
        20.0,
        "title",
        "Server CPU for each message, relative to the limit (1): shorter is better",
    );
    let foot = text(12.0, height - 8.0, "axis", figures["machine"].as_str().unwrap_or_default());
    format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height:.0}' font-family='system-ui, sans-serif' font-size='11'>\n\
         <style>text{{fill:#444}}.title{{font-size:14px;font-weight:600}}.work{{font-weight:600}}rect.ours{{fill:#0a7d5a}}rect.other{{fill:#9aa7b4}}\
         text.ours{{fill:#0a7d5a;font-weight:600}}.grid{{stroke:#8884}}.limit{{stroke:#888}}.interval{{stroke:#c60}}\
         @media(prefers-color-scheme:dark){{text{{fill:#ccc}}rect.ours{{fill:#2fbf8f}}text.ours{{fill:#2fbf8f}}rect.other{{fill:#667}}}}</style>\n\
         {grid}{body}{title}{foot}</svg>\n"
    )
}

fn median(ratio: &Value) -> f64 {
    ratio["median"].as_f64().unwrap_or(1.0)
}

/// Where a ratio lies from left to right.
fn x(ratio: f64) -> f64 {
    let right = WIDTH - 140.0;
    LEFT + (ratio.clamp(LEAST_RATIO, RIGHT_RATIO) - 1.0) / (RIGHT_RATIO - 1.0) * (right - LEFT)
}

fn text(x: f64, y: f64, class: &str, content: &str) -> String {
    let content = content.replace('&', "&amp;").replace('<', "&lt;");
    format!("<text class='{class}' x='{x:.1}' y='{y:.1}'>{content}</text>\n")
}
