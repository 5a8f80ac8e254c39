//! What another client has to wait beside hostile ones, and how long the server's turns take: for
//! each hostile load one server (`server`), one process that makes the load and asks for an echo
//! meanwhile (`load`), and one line of a table. A goal that is missed is an error.

use std::error::Error;
use std::process::Stdio;

use serde_json::Value;

use crate::CORES;
use crate::server::{Running, pinned};

pub mod load;
pub mod server;

/// Another client's 99th percentile, and the longest turn's CPU time, in milliseconds.
const GOAL: f64 = 20.0;

/// The names of the loads, as `load` knows them, with what the table says of each, and whether
/// compression is needed.
const ROWS: [(&str, &str, bool); 12] = [
    ("nothing", "nothing", false),
    ("texts", "100 × empty texts without end", false),
    ("pings", "100 × empty pings without end", false),
    ("bytes", "100 × texts of 1 byte without end", false),
    ("bursts", "100 × bursts of 40 000 empty texts", false),
    ("bombs", "100 × 1 KB that inflate to 1 MiB, without end", true),
    ("blocks", "20 × messages of empty DEFLATE blocks, without end", true),
    ("commas", "1 500 heads of `Connection: ,,,` at once", false),
    ("headers", "1 500 heads of 4 000 headers at once", false),
    ("escapes", "1 500 heads of `/%41%41…` at once", false),
    ("leavers", "1 000 disconnects with 1 024 topics each at once", false),
    ("closed", "5 × a flood behind our close frame 1008", false),
];

pub fn table() -> Result<(), Box<dyn Error>> {
    println!(
        "another client's round trip beside a hostile load, and the longest turn of the server, in ms\n"
    );
    println!(
        "{:52} {:>7} {:>7} {:>7} {:>7} {:>9}",
        "load", "p50", "p99", "most", "turn", "at most"
    );
    let this = std::env::current_exe()?;
    let mut missed = 0;
    for (name, text, compressed) in ROWS {
        if compressed && !cfg!(feature = "deflate") {
            println!(
                "{text:52} needs compression: cargo bench --bench limit --features deflate -- --hostile"
            );
            continue;
        }
        let server = Running::start(&this, &["hostile-server".to_owned()])?;
        let mut load = pinned(CORES[1], &this);
        load.args(["hostile-load", name, server.address(), &server.pid()]);
        let output = load.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
        if !output.status.success() {
            return Err(format!("{text}: see above").into());
        }
        let figures: Value = serde_json::from_slice(&output.stdout)?;
        let [p50, p99, most, turn] =
            ["p50", "p99", "most", "turn"].map(|name| figures[name].as_f64().unwrap_or(f64::NAN));
        let is_met = p99 < GOAL && turn < GOAL;
        missed += usize::from(!is_met);
        let verdict = if is_met { "" } else { "  above" };
        println!("{text:52} {p50:7.2} {p99:7.2} {most:7.2} {turn:7.2} {GOAL:9.0}{verdict}");
    }
    match missed {
        0 => Ok(()),
        missed => Err(format!("{missed} of {} loads miss the goal", ROWS.len()).into()),
    }
}
