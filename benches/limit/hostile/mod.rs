//! What another client has to wait beside hostile ones, and how long the server's turns take: for
//! each hostile load one server (`server`), one process that makes the load and asks for an echo
//! meanwhile (`load`), and one line of a table. A goal that is missed is an error.

use std::error::Error;
use std::process::Stdio;

use serde_json::Value;

use crate::CORES;
use crate::server::{Running, pinned};

pub mod load;
#[cfg(feature = "_tls")]
mod secure;
pub mod server;

/// Another client's 99th percentile, and the longest turn's CPU time, in milliseconds.
const GOAL: f64 = 20.0;

/// What a load needs.
#[derive(Clone, Copy, PartialEq)]
enum Needs {
    Nothing,
    Compression,
    Tls,
}

use Needs::{Compression, Nothing, Tls};

/// The names of the loads, as `load` knows them, with what the table says of each. Beside loads
/// over TLS the other client speaks TLS too.
const ROWS: [(&str, &str, Needs); 19] = [
    ("nothing", "nothing", Nothing),
    ("texts", "100 × empty texts without end", Nothing),
    ("pings", "100 × empty pings without end", Nothing),
    ("bytes", "100 × texts of 1 byte without end", Nothing),
    ("bursts", "100 × bursts of 40 000 empty texts", Nothing),
    ("bombs", "100 × 1 KB that inflate to 1 MiB, without end", Compression),
    ("blocks", "20 × messages of empty DEFLATE blocks, without end", Compression),
    ("commas", "1 500 heads of `Connection: ,,,` at once", Nothing),
    ("headers", "1 500 heads of 4 000 headers at once", Nothing),
    ("escapes", "1 500 heads of `/%41%41…` at once", Nothing),
    ("leavers", "1 000 disconnects with 1 024 topics each at once", Nothing),
    ("closed", "5 × a flood behind our close frame 1008", Nothing),
    ("tls-nothing", "nothing, over TLS", Tls),
    ("tls-halves", "TLS: 1 000 × half a hello, the oldest replaced", Tls),
    ("tls-drips", "TLS: 100 × hellos byte by byte", Tls),
    ("tls-pieces", "TLS: 100 × 64 KB of a handshake message in pieces", Tls),
    ("tls-hellos", "TLS: storms of 500 full handshakes", Tls),
    ("tls-records", "TLS: 50 × bursts of 10 000 records of 1 byte", Tls),
    ("tls-updates", "TLS: 50 × bursts of 5 000 KeyUpdates", Tls),
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
    for (name, text, needs) in ROWS {
        let missing = match needs {
            Compression if !cfg!(feature = "deflate") => Some("deflate"),
            Tls if !cfg!(feature = "_tls") => Some("tls"),
            _ => None,
        };
        if let Some(feature) = missing {
            println!(
                "{text:52} needs the feature: cargo bench --bench limit --features {feature} -- --hostile"
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
