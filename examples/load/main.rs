//! Load for any WebSocket server, and honest figures about it.
//!
//! `cargo run --release --example load -- --help`, or `cargo install ikisocket --example load`
//!
//! Latencies are measured from when a message *should* have been sent (coordinated omission), the
//! tool says when itself was the bottleneck, and two servers are compared in alternating slices of
//! one run, because on a machine that is shared only ratios mean anything: its speed changes by
//! more than the servers differ.
//!
//! Exit status: 0 if everything was measured and nothing was wrong; 1 if it was measured, but
//! something was lost, wrong or broken (in the warm-up and while connections were closed too), a
//! measurement had no sample, `--at-most` was exceeded or no rate of a search passed; 2 if nothing
//! was measured; 3 if a search ended at the limit of this tool; 130 after a second interrupt.
//!
//! | module | what it is for |
//! |---|---|
//! | `args` | the command line |
//! | `client` | connections: the handshake, frames, one mio poll |
//! | `scenario` | what the connections do |
//! | `crew` | the threads that do it |
//! | `measure`, `search` | the phases of a run |
//! | `sample`, `latency`, `process`, `clock` | what is measured |
//! | `compare` | ratios of two servers |
//! | `conditions` | when, how and on which machine a run was made |
//! | `report`, `progress` | what is shown |

mod args;
mod client;
mod clock;
mod compare;
mod conditions;
mod crew;
mod latency;
mod measure;
mod process;
mod progress;
mod report;
mod sample;
mod scenario;
mod search;

use args::{Command, Options};
use report::{Outcome, Report};
use scenario::Shared;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

/// Measured, but something that was promised or asked for does not hold.
const DOES_NOT_HOLD: u8 = 1;
/// Nothing was measured.
const NOT_MEASURED: u8 = 2;
/// A search ended at this tool: the server can do more.
const TOOL_WAS_THE_LIMIT: u8 = 3;
/// Interrupted for the second time.
const INTERRUPTED: i32 = 130;

fn main() -> ExitCode {
    let outcome = match args::parse(std::env::args_os().skip(1)) {
        Ok(Command::Help(scenario)) => {
            let help = args::help(scenario);
            return print(&help).map_or(ExitCode::from(NOT_MEASURED), |()| ExitCode::SUCCESS);
        }
        Ok(Command::Run(options)) => run(&options),
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(report) => match report.outcome() {
            Outcome::Holds => ExitCode::SUCCESS,
            Outcome::DoesNotHold => ExitCode::from(DOES_NOT_HOLD),
            Outcome::ToolWasTheLimit => ExitCode::from(TOOL_WAS_THE_LIMIT),
        },
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::from(NOT_MEASURED)
        }
    }
}

fn run(options: &Options) -> Result<Report, Box<dyn std::error::Error>> {
    let shared = Arc::new(Shared::default());
    for signal in [SIGINT, SIGTERM] {
        // The second one ends the process at once.
        signal_hook::flag::register_conditional_shutdown(
            signal,
            INTERRUPTED,
            shared.interrupted.clone(),
        )?;
        signal_hook::flag::register(signal, shared.interrupted.clone())?;
    }
    let report = measure::measure(options, shared)?;
    write_report(options, &report)?;
    Ok(report)
}

/// To wherever it was asked for; JSON on stdout stands there alone.
fn write_report(options: &Options, report: &Report) -> Result<(), Box<dyn std::error::Error>> {
    let mut text_wanted = true;
    if let Some(path) = &options.json {
        let json = format!("{:#}\n", report::to_json(report));
        if path == Path::new("-") {
            text_wanted = false;
            print(&json)?;
        } else {
            write_file(path, &json)?;
        }
    }
    if let Some(path) = &options.html {
        write_file(path, &report::to_html(report))?;
    }
    if text_wanted {
        print(&report::to_text(report))?;
    }
    Ok(())
}

fn write_file(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// To stdout. A pipe that is closed at its other end is no error.
fn print(text: &str) -> io::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}
