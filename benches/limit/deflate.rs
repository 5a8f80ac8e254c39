//! What permessage-deflate costs and saves in each of its modes, beside the same messages without
//! it: CPU for each message, bytes on the wire, and memory of a connection. The table is ready for
//! the README.

use std::error::Error;

use serde_json::Value;

use crate::server::Running;
use crate::{Programs, Ratio};

/// The echo example's options. The first is what the others are measured against.
const MODES: [(&str, &[&str]); 6] = [
    ("off", &["--deflate=off"]),
    ("shared", &["--deflate=shared"]),
    ("dedicated", &["--deflate=dedicated"]),
    ("dedicated, level 1", &["--deflate=dedicated", "--level=1"]),
    ("dedicated, window bits 12", &["--deflate=dedicated", "--window-bits=12"]),
    ("dedicated, window bits 9", &["--deflate=dedicated", "--window-bits=9"]),
];
const ECHO: &[&str] = &["echo", "/echo", "--connections=100", "--size=1024", "--text"];
const BROADCAST: &[&str] = &["broadcast", "/bcast", "--connections=200", "--size=1024", "--text"];
/// The client's half of the comparison: the same messages go to the second server as they are.
const COMPRESSED: &[&str] = &["--deflate", "--against-plain"];
/// Connections whose memory is taken together, and those before that make what all share.
const HELD: usize = 500;
const FIRST: usize = 5;

pub fn table(programs: &Programs) -> Result<(), Box<dyn Error>> {
    if !cfg!(feature = "deflate") {
        return Err(
            "build it with compression: cargo bench --bench limit --features deflate -- --deflate"
                .into(),
        );
    }
    let start = |options: &[&str]| {
        Running::start(
            &programs.echo,
            &options.iter().map(|&option| option.to_owned()).collect::<Vec<_>>(),
        )
    };
    let plain = start(MODES[0].1)?;
    println!(
        "quotes in JSON of 1 KiB; server CPU for each message relative to `off`: median and 95 % interval of paired slices\n"
    );
    println!(
        "| mode | echo: CPU | bytes saved | broadcast to 200: CPU | bytes saved | resident per connection, after 1 message |"
    );
    println!("|---|---|---|---|---|---|");
    for (mode, mode_options) in MODES {
        let is_plain = mode == MODES[0].0;
        let mut row = format!("| {mode} |");
        let server = start(mode_options)?;
        for work in [ECHO, BROADCAST] {
            let load = if is_plain { work.to_vec() } else { [work, COMPRESSED].concat() };
            let figures = programs.figures(&load, &server, &plain)?;
            let cpu = Ratio::read(&figures["comparison"]["server_cpu_each"])
                .ok_or("no ratio of the servers' CPU")?;
            let each = number(&figures["measured"][0], "server_cpu_each_ns")? / 1000.0;
            let saved = if is_plain {
                0.0
            } else {
                number(&figures["measured"][0], "bytes_saved")? * 100.0
            };
            row += &format!(
                " {:.2} ({:.2}–{:.2}), {each:.1} µs | {saved:.0} % |",
                cpu.median, cpu.low, cpu.high
            );
        }
        let options: &[&str] =
            if is_plain { &["--size=1024"] } else { &["--size=1024", "--deflate"] };
        let server = start(mode_options)?;
        programs.held(&server, FIRST, 1, options)?;
        let figures = programs.held(&server, HELD, 1, options)?;
        row += &format!(" {:.1} KiB |", number(&figures, "server_bytes_per_connection")? / 1024.0);
        println!("{row}");
    }
    println!(
        "\nwith full windows: cargo test --features deflate --test deflate_memory -- --nocapture"
    );
    Ok(())
}

fn number(figures: &Value, name: &str) -> Result<f64, String> {
    figures[name].as_f64().ok_or_else(|| format!("the load tool gave no {name}"))
}
