//! How many instructions of its own a server spends on an echo, counted by callgrind: nearly the
//! same each time, whatever else the machine does. What the kernel does for it is not counted.

use std::error::Error;
use std::path::Path;

use crate::Programs;
use crate::server::Running;

/// How long two runs take, in seconds: what the second has more is due to its echoes alone.
const DURATIONS: [&str; 2] = ["1", "4"];
const IN_FLIGHT: [&str; 2] = ["1", "16"];

pub fn table(programs: &Programs) -> Result<(), Box<dyn Error>> {
    println!("instructions in user space for each echo of 20 bytes, 20 connections\n");
    println!("{:12} {:>6} {:>12}", "", "", "16 in flight");
    let raw = [programs.this.display().to_string(), "raw".to_owned()];
    let ours = [programs.echo.display().to_string()];
    for (name, server) in [("ikisocket", &ours[..]), ("raw", &raw[..])] {
        let mut row = format!("{name:12}");
        for (in_flight, width) in IN_FLIGHT.into_iter().zip([6, 12]) {
            let [short, long] =
                DURATIONS.map(|duration| count(programs, server, in_flight, duration));
            let (short, long) = (short?, long?);
            row += &format!(" {:width$.0}", (long.0 - short.0) / (long.1 - short.1));
        }
        println!("{row}");
    }
    Ok(())
}

/// The instructions of a whole run, and the echoes in it.
fn count(
    programs: &Programs,
    server: &[String],
    in_flight: &str,
    duration: &str,
) -> Result<(f64, f64), Box<dyn Error>> {
    let counts =
        std::env::temp_dir().join(format!("ikisocket-instructions-{}", std::process::id()));
    let mut command = vec!["--quiet".to_owned(), "--tool=callgrind".to_owned()];
    command.push(format!("--callgrind-out-file={}", counts.display()));
    command.extend_from_slice(server);
    let running = Running::start(Path::new("valgrind"), &command)?;
    let options = [
        "--connections=20",
        "--size=20",
        "--warm-up=0",
        "--in-flight",
        in_flight,
        "--duration",
        duration,
    ];
    let figures = programs.load(&["echo", &running.url("/echo"), "--json=-"], &options)?;
    running.interrupt()?;
    let text = std::fs::read_to_string(&counts)?;
    std::fs::remove_file(counts)?;
    let total = text
        .lines()
        .find_map(|line| line.strip_prefix("totals: "))
        .ok_or("callgrind gave no total")?;
    let echoes = figures["measured"][0]["latency"]["count"]
        .as_f64()
        .ok_or("the load tool counted no echoes")?;
    Ok((total.trim().parse()?, echoes))
}
