//! How close the server comes to the limit: the CPU that the `echo` example spends on a message,
//! relative to `raw` (see `raw.rs`), which spends only what no server can avoid.
//!
//! ```sh
//! cargo bench --bench limit               # about four minutes; a table, and figures.json
//! cargo bench --bench limit -- --masks    # or another option
//! ```
//!
//! The table's options, which go together:
//!
//! | option | what it does |
//! |---|---|
//! | `--client minimal` | the traffic is made by a client that does as little as possible |
//! | `--build generic,v3,native` | a column for each build of ours |
//! | `--reference PROGRAM` | any other server beside it, or `ws://HOST:PORT --pid PID` |
//! | `--peers` | the other libraries beside it: build benches/peers first |
//! | `--only TEXT` | the works whose names contain the text |
//!
//! Other tables, each alone:
//!
//! | option | what it shows |
//! |---|---|
//! | `--raw-reference PROGRAM` | that our raw is no slower than another program of its kind |
//! | `--masks` | what masking takes in each build, counted by callgrind and timed |
//! | `--instructions` | what an echo takes beside its system calls, counted by callgrind |
//! | `--idle` | whether a message costs more when 15 000 others are idle |
//! | `--deflate` | what compression costs and saves; needs `--features deflate` |
//! | `--hostile` | what a client waits beside hostile ones; needs `--features deflate` |
//! | `--tls` | the table over TLS, with `--reference PROGRAM` or `--only TEXT`; needs `--features tls` |
//! | `--loops` | what two loops cost beside one, and a hop, with `--only TEXT`; needs valgrind |
//! | `--bus` | what a message over Redis costs, beside Socket.IO; needs redis-server |
//! | `--conflation` | what one stalled reader among 500 costs, by what is done about it |
//! | `--draw` | the picture of the README, from figures.json |
//!
//! BENCHMARKS.md has the tables, and what they say.
//!
//! Two servers share one core and the client has the other; slices of 0.15 s alternate between
//! the servers, so that a change of the machine's speed hits both alike, and the ratio is taken
//! pair by pair. The column `A/A` is raw against a second raw: what is smaller than its interval is
//! noise.

use std::error::Error;
use std::fs;
use std::path::Path;

mod bus;
mod conflation;
mod deflate;
mod hostile;
mod instructions;
mod loops;
mod masks;
mod minimal;
mod options;
mod picture;
mod programs;
mod ratio;
mod raw;
mod server;
mod table;
mod tls;
mod works;

use options::Options;
use programs::{Client, Programs};
use ratio::Ratio;
use server::Running;
use works::WORKS;

/// The core of the servers, and that of the load.
const CORES: [&str; 2] = ["0", "1"];
/// Connections that do nothing while others are measured. Both ends need a descriptor: see
/// `ulimit -n`.
const IDLE: usize = 15_000;
const FIGURES: &str = "benches/limit/figures.json";
const PICTURE: &str = "benches/limit/figures.svg";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["raw", address] => Ok(raw::serve(address.parse()?)?),
        #[cfg(feature = "_tls")]
        ["raw-tls", chain, key, address] => tls::raw::serve(chain, key, address.parse()?),
        ["loops-server", count, cores, address] => loops::server::serve(count, cores, address),
        ["bus-server", redis, prefix, address] => bus::server::serve(redis, prefix, address),
        ["minimal", ..] => minimal::run(&arguments[1..]),
        ["mask", how, offset, rounds] => masks::work(how, offset.parse()?, rounds.parse()?),
        ["feed", keeping, readers, address] => {
            conflation::feed::serve(keeping, readers.parse()?, address)
        }
        ["readers", address, pid, healthy, stalls] => {
            conflation::readers::read(address, pid, healthy.parse()?, stalls.parse()?)
        }
        ["hostile-server", address] => hostile::server::serve(address),
        ["hostile-load", name, address, server] => hostile::load::make(name, address, server),
        ["--draw"] => draw(),
        ["--idle"] => idle(),
        ["--masks"] => masks::table(),
        ["--deflate"] => deflate::table(&Programs::build()?),
        ["--hostile"] => hostile::table(),
        ["--tls", ..] => tls::table(&arguments[1..]),
        ["--loops", ..] => loops::table(&arguments[1..]),
        ["--bus", ..] => bus::table(&arguments[1..]),
        ["--conflation"] => conflation::table(),
        ["--instructions"] => instructions::table(&Programs::build()?),
        ["--raw-reference", program] => table::raw_reference(Path::new(program)),
        _ => table::print(&Options::parse(&arguments)?),
    }
}

/// Draws the load tool's figures.
fn draw() -> Result<(), Box<dyn Error>> {
    let figures = serde_json::from_str(&fs::read_to_string(FIGURES)?)?;
    Ok(fs::write(PICTURE, picture::draw(&figures))?)
}

/// Measures our echo with many idle connections against our echo with few.
fn idle() -> Result<(), Box<dyn Error>> {
    let programs = Programs::build()?;
    let few = Running::start(&programs.echo, &[])?;
    let many = Running::start(&programs.echo, &[])?;
    let noise = programs.compare(Client::Load, &WORKS[0], &many, &few)?.0;
    println!("server CPU for each message, {}: {noise} with none idle at either", WORKS[0].name);
    let mut holders = Vec::new();
    for (server, count) in [(&few, 10), (&many, IDLE)] {
        holders.push(Running::hold(&programs.load, &server.url("/echo"), count)?);
        server.wait_for_connections(count)?;
    }
    let ratio = programs.compare(Client::Load, &WORKS[0], &many, &few)?.0;
    println!("{ratio} with {IDLE} idle at one and 10 at the other");
    Ok(())
}
