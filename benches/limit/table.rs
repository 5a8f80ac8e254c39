//! The table: for each work the builds of ours, and what is measured beside them.

use std::error::Error;
use std::fs;
use std::path::Path;

use serde_json::json;

use crate::FIGURES;
use crate::options::Options;
use crate::programs::{Build, Client, Programs};
use crate::ratio::Ratio;
use crate::server::{self, Running};
use crate::works::{WORKS, Work};

/// A column of the table.
struct Contender {
    name: String,
    server: Running,
    /// Whether the goals are its goals.
    is_ours: bool,
}

/// Measures every work, prints the table and keeps the figures.
pub fn print(options: &Options) -> Result<(), Box<dyn Error>> {
    let programs = Programs::build()?;
    // One raw for all builds of ours. It is this program, so it is built generically; its work is
    // the kernel's and that of the C library's memcpy, which looks at the processor by itself. And
    // a build that makes ours slower than another shows.
    let raw = Running::start(&programs.this, &["raw".to_owned()])?;
    let second_raw = Running::start(&programs.this, &["raw".to_owned()])?;
    let contenders = contenders(options, &programs)?;

    println!("{}, client: {}\n", server::machine(), options.client.name());
    println!(
        "Server CPU for each message relative to raw: median and 95 % interval of paired slices.\n"
    );
    let names: Vec<&str> = contenders.iter().map(|contender| &*contender.name).collect();
    println!("| work | at most | {} | A/A |", names.join(" | "));
    println!("|---|---|{}---|", "---|".repeat(names.len()));
    let (mut rows, mut notes) = (Vec::new(), Vec::new());
    let (mut held, mut goals) = (0, 0);
    for work in WORKS.iter().filter(|work| work.name.contains(&options.only)) {
        if options.client == Client::Minimal && !work.is_minimal() {
            continue;
        }
        let mut line = format!("| {} | {:.2} |", work.name, work.ceiling);
        let (mut servers, mut tails) = (json!({}), json!({}));
        for Contender { name, server, is_ours } in &contenders {
            match compare(&programs, options, work, server, &raw) {
                Ok((cpu, p99)) => {
                    let is_above = *is_ours && cpu.median > work.ceiling;
                    goals += usize::from(*is_ours);
                    held += usize::from(*is_ours && !is_above);
                    line += &format!(" {cpu}{} |", if is_above { " above" } else { "" });
                    servers[name] = cpu.to_json();
                    if let Some(p99) = p99 {
                        tails[name] = p99.to_json();
                    }
                }
                Err(error) => {
                    goals += usize::from(*is_ours);
                    line += " – |";
                    notes.push(format!("{}, {name}: {error}", work.name));
                }
            }
        }
        let (noise, _) = programs.compare(options.client, work, &second_raw, &raw)?;
        println!("{line} {:.2}–{:.2} |", noise.low, noise.high);
        rows.push(json!({
            "work": work.name,
            "at_most": work.ceiling,
            "servers": servers,
            "noise": noise.to_json(),
            "p99": tails,
        }));
    }
    for note in notes {
        println!("\n– {note}");
    }
    println!("\n{held} of {goals} goals reached");
    // The picture is of the load tool's figures, and of all works.
    if options.client == Client::Load && options.only.is_empty() {
        let figures = json!({ "machine": server::machine(), "rows": rows });
        fs::write(FIGURES, format!("{figures:#}\n"))?;
        println!("figures in {FIGURES}");
    }
    Ok(())
}

fn contenders(options: &Options, programs: &Programs) -> Result<Vec<Contender>, Box<dyn Error>> {
    let mut contenders = Vec::new();
    for &build in &options.builds {
        let (name, program) = match build {
            Build::Generic => ("ikisocket".to_owned(), programs.echo.clone()),
            _ => (format!("ikisocket, {}", build.name()), build.echo()?),
        };
        contenders.push(Contender { name, server: Running::start(&program, &[])?, is_ours: true });
    }
    if let Some(reference) = &options.reference {
        let server = reference.start()?;
        contenders.push(Contender { name: reference.name(), server, is_ours: false });
    }
    if options.peers {
        for peer in server::peers()? {
            let server = Running::start(&peer.program, &peer.arguments)?;
            contenders.push(Contender { name: peer.name, server, is_ours: false });
        }
    }
    Ok(contenders)
}

fn compare(
    programs: &Programs,
    options: &Options,
    work: &Work,
    server: &Running,
    raw: &Running,
) -> Result<(Ratio, Option<Ratio>), Box<dyn Error>> {
    if !server.has(work.path()) {
        return Err(format!("it has no {}", work.path()).into());
    }
    programs.compare(options.client, work, server, raw)
}

/// Measures our raw against another: it must not be slower, or our ratios would flatter us.
pub fn raw_reference(program: &Path) -> Result<(), Box<dyn Error>> {
    let programs = Programs::build()?;
    let raw = Running::start(&programs.this, &["raw".to_owned()])?;
    let reference = Running::start(program, &[])?;
    println!("server CPU for each message: our raw relative to {}\n", program.display());
    for work in &WORKS {
        let (cpu, _) = programs.compare(Client::Load, work, &raw, &reference)?;
        println!("{:36} {cpu}", work.name);
    }
    Ok(())
}
