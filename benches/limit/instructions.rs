//! How many instructions of its own a server spends on an echo and on an upgrade, counted by
//! callgrind: nearly the same each time, whatever else the machine does. What the kernel does for
//! it is not counted. The bench fails if ours are more than they may be.

use std::error::Error;
use std::path::Path;

use crate::Programs;
use crate::server::Running;

/// How long two runs take, in seconds: what the second has more is due to its work alone.
const DURATIONS: [&str; 2] = ["1", "4"];

/// The columns, the most instructions of each, and what the load tool does for it: its scenario,
/// the server's path, options. The limits are 4 % above what was counted on 2026-11-29: how many
/// events one turn finds differs by run, and a little by machine.
const WORKS: [(&str, f64, &[&str]); 3] = [
    ("echo", 705.0, &["echo", "/echo", "--connections=20", "--size=20", "--in-flight=1"]),
    ("16 in flight", 300.0, &["echo", "/echo", "--connections=20", "--size=20", "--in-flight=16"]),
    ("upgrade", 12_500.0, &["connect", "/echo"]),
];

pub fn table(programs: &Programs) -> Result<(), Box<dyn Error>> {
    println!("instructions in user space: for each echo of 20 bytes with 20 connections, and for");
    println!("each upgrade, from its accept to its end by a reset\n");
    let columns = WORKS.map(|(name, ..)| format!(" {name:>12}"));
    println!("{:12}{}", "", columns.concat());
    let raw = [programs.this.display().to_string(), "raw".to_owned()];
    let ours = counts(programs, "ikisocket", &[programs.echo.display().to_string()])?;
    counts(programs, "raw", &raw)?;
    println!("{}", row("at most", WORKS.map(|(_, most, _)| most)));
    let works = WORKS.iter().zip(ours).filter(|((_, most, _), ours)| ours > most);
    match works.map(|((name, ..), _)| *name).collect::<Vec<_>>()[..] {
        [] => Ok(()),
        ref above => Err(format!("above the limit: {}", above.join(", ")).into()),
    }
}

/// Counts each work of one server, and prints the row.
fn counts(
    programs: &Programs,
    name: &str,
    server: &[String],
) -> Result<[f64; WORKS.len()], Box<dyn Error>> {
    let mut counts = [0.0; WORKS.len()];
    for (counted, (_, _, load)) in counts.iter_mut().zip(WORKS) {
        let [short, long] = DURATIONS.map(|duration| count(programs, server, load, duration));
        let (short, long) = (short?, long?);
        *counted = (long.0 - short.0) / (long.1 - short.1);
    }
    println!("{}", row(name, counts));
    Ok(counts)
}

fn row(name: &str, counts: [f64; WORKS.len()]) -> String {
    format!("{name:12}{}", counts.map(|count| format!(" {count:12.0}")).concat())
}

/// The instructions of a whole run, and how often the work was done in it.
fn count(
    programs: &Programs,
    server: &[String],
    load: &[&str],
    duration: &str,
) -> Result<(f64, f64), Box<dyn Error>> {
    let [scenario, path, options @ ..] = load else {
        unreachable!("every work has a scenario and a path")
    };
    let mut done = None;
    let total = total(server, |running| {
        let fixed =
            [*scenario, &running.url(path), "--json=-", "--warm-up=0", "--duration", duration];
        done = programs.load(&fixed, options)?["measured"][0]["latency"]["count"].as_f64();
        Ok(())
    })?;
    Ok((total, done.ok_or("the load tool counted nothing")?))
}

/// The instructions of a server's whole run, in all its threads; `work` is what it does in it.
pub fn total(
    server: &[String],
    work: impl FnOnce(&Running) -> Result<(), Box<dyn Error>>,
) -> Result<f64, Box<dyn Error>> {
    let counts =
        std::env::temp_dir().join(format!("ikisocket-instructions-{}", std::process::id()));
    let mut command = vec!["--quiet".to_owned(), "--tool=callgrind".to_owned()];
    command.push(format!("--callgrind-out-file={}", counts.display()));
    command.extend_from_slice(server);
    let running = Running::start(Path::new("valgrind"), &command)?;
    work(&running)?;
    running.interrupt()?;
    let text = std::fs::read_to_string(&counts)?;
    std::fs::remove_file(counts)?;
    let total = text
        .lines()
        .find_map(|line| line.strip_prefix("totals: "))
        .ok_or("callgrind gave no total")?;
    Ok(total.trim().parse()?)
}
