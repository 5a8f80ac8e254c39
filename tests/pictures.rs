//! The picture of a turn in the README: drawn here, and compared with the file.
//!
//! `DRAW=1 cargo test --test pictures` draws it anew.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

const PICTURE: &str = "docs/turn.svg";
const WIDTH: u32 = 860;
const BOX: (u32, u32) = (190, 84);
const GAP: u32 = 28;
const TOP: u32 = 24;

/// The phases of `Server::poll`, in two rows: the first from left to right, the second back.
const PHASES: [[(&str, [&str; 3]); 4]; 2] = [
    [
        ("settle", ["fire recorded events", "write what was emitted", "between turns"]),
        ("wait", ["epoll, at most as long", "as you allow", ""]),
        ("ready connections", ["read, decode,", "call listeners,", "write the replies once"]),
        ("backlog", ["connections from", "earlier turns,", "as the budget allows"]),
    ],
    [
        ("your code", ["server.lend(): the state", "and all connections", ""]),
        ("remove", ["connections that", "have ended", ""]),
        ("timeouts", ["handshakes, pings,", "stalled peers, closes;", "settle before and after"]),
        ("the others", ["accept, commands of", "other threads, sources,", "timers"]),
    ],
];

fn left(column: usize) -> u32 {
    8 + column as u32 * (BOX.0 + GAP)
}

fn top(row: usize) -> u32 {
    TOP + row as u32 * (BOX.1 + 2 * GAP)
}

/// The picture as SVG, legible on light and dark pages.
fn turn() -> String {
    let height = top(1) + BOX.1 + TOP;
    let mut svg = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' role='img' \
         aria-label='One turn of the loop'>\n\
         <style>\n\
         text {{ font: 13px system-ui, sans-serif; fill: #1f2328; }}\n\
         .title {{ font-weight: 600; }}\n\
         rect {{ fill: #f6f8fa; stroke: #8c959f; }}\n\
         .yours {{ fill: #ddf4ff; stroke: #0969da; }}\n\
         path {{ fill: none; stroke: #57606a; stroke-width: 1.5; }}\n\
         .head {{ fill: #57606a; stroke: none; }}\n\
         @media (prefers-color-scheme: dark) {{\n\
         text {{ fill: #e6edf3; }}\n\
         rect {{ fill: #161b22; stroke: #6e7681; }}\n\
         .yours {{ fill: #0c2d6b; stroke: #388bfd; }}\n\
         path {{ stroke: #9198a1; }}\n\
         .head {{ fill: #9198a1; }}\n\
         }}\n\
         </style>\n"
    );
    for (row, phases) in PHASES.iter().enumerate() {
        for (column, (title, lines)) in phases.iter().enumerate() {
            let (x, y) = (left(column), top(row));
            let class = if *title == "your code" { " class='yours'" } else { "" };
            writeln!(
                svg,
                "<rect{class} x='{x}' y='{y}' width='{}' height='{}' rx='8'/>",
                BOX.0, BOX.1
            )
            .unwrap();
            writeln!(svg, "<text class='title' x='{}' y='{}'>{title}</text>", x + 12, y + 22)
                .unwrap();
            for (i, line) in lines.iter().filter(|line| !line.is_empty()).enumerate() {
                let y = y + 41 + 16 * i as u32;
                writeln!(svg, "<text x='{}' y='{y}'>{line}</text>", x + 12).unwrap();
            }
        }
    }
    for column in 0..3 {
        let (right, next, middle) = (left(column) + BOX.0, left(column + 1), BOX.1 / 2);
        arrow(&mut svg, (right, top(0) + middle), (next, top(0) + middle));
        arrow(&mut svg, (next, top(1) + middle), (right, top(1) + middle));
    }
    let middle = |column| left(column) + BOX.0 / 2;
    arrow(&mut svg, (middle(3), top(0) + BOX.1), (middle(3), top(1)));
    arrow(&mut svg, (middle(0), top(1)), (middle(0), top(0) + BOX.1));
    svg + "</svg>\n"
}

/// A straight arrow along one axis.
fn arrow(svg: &mut String, (x1, y1): (u32, u32), (x2, y2): (u32, u32)) {
    const HEAD: i64 = 7;
    let sign = |from: u32, to: u32| (i64::from(to) - i64::from(from)).signum();
    let (dx, dy) = (sign(x1, x2), sign(y1, y2));
    let (x, y) = (i64::from(x2), i64::from(y2));
    let (bx, by) = (x - HEAD * dx, y - HEAD * dy);
    writeln!(svg, "<path d='M{x1} {y1}L{bx} {by}'/>").unwrap();
    writeln!(
        svg,
        "<path class='head' d='M{x} {y}L{} {}L{} {}Z'/>",
        bx - 4 * dy,
        by - 4 * dx,
        bx + 4 * dy,
        by + 4 * dx
    )
    .unwrap();
}

#[test]
fn the_picture_of_a_turn_is_the_one_that_is_drawn() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(PICTURE);
    let drawn = turn();
    if std::env::var_os("DRAW").is_some() {
        fs::write(&file, &drawn).unwrap();
    }
    let kept = fs::read_to_string(&file).unwrap_or_default();
    assert!(kept == drawn, "{PICTURE} is another one: DRAW=1 cargo test --test pictures");
}
