//! Loops: what a message costs with two of them, beside one, and beside a server without them; and
//! what it takes to hand a message to another loop.

use std::error::Error;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;

use lexopt::prelude::*;
use serde_json::Value as Json;

use crate::instructions::total;
use crate::programs::{Programs, read};
use crate::ratio::Ratio;
use crate::server::{Running, machine, pinned};

pub mod server;

/// The core of servers that have one, the cores of two loops with one each, and that of the load
/// where there is a third.
const SERVER: &str = "0";
const BOTH: &str = "0,1";
const THIRD: &str = "2";

/// The least messages per CPU time with two loops, relative to one.
const AT_LEAST: f64 = 0.95;
/// The most nanoseconds of a hop.
const HOP_AT_MOST: f64 = 100.0;
/// Connections whose loops are counted.
const SPREAD: usize = 1001;

/// One row: its name, whether it has the goal, what the minimal client does.
struct Work(&'static str, bool, &'static [&'static str]);

const WORKS: [Work; 7] = [
    Work("echo, 100 × 20 B", true, &["echo", "/echo", "--connections=100"]),
    Work(
        "echo, 20 × 20 B, 16 in flight",
        true,
        &["echo", "/echo", "--connections=20", "--in-flight=16"],
    ),
    Work(
        "publish within a loop, 64 B to 100, twice",
        true,
        &["broadcast", "/room", "--connections=200", "--rooms=2", "--size=64"],
    ),
    Work(
        "the same, 16 at once",
        true,
        &["broadcast", "/room", "--connections=200", "--rooms=2", "--size=64", "--at-once=16"],
    ),
    Work("upgrade, then reset", true, &["connect", "/echo"]),
    Work(
        "crossing: publish, 64 B to 200",
        false,
        &["broadcast", "/all", "--connections=200", "--size=64"],
    ),
    Work(
        "crossing, 16 at once",
        false,
        &["broadcast", "/all", "--connections=200", "--size=64", "--at-once=16"],
    ),
];

/// Members on each loop and messages in a row, for the hops.
const HOPS: [(usize, usize); 5] = [(1, 1), (1, 20), (1, 200), (1, 400), (100, 20)];

const ONE: Kind = Kind::Loops(1);
const TWO: Kind = Kind::Loops(2);

/// How long two runs under callgrind take, in seconds.
const DURATIONS: [&str; 2] = ["1", "3"];

/// What a server is.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Loops(usize),
    /// A server without loops.
    Alone,
    /// Two servers that know nothing of each other.
    Apart,
}

struct Bench {
    this: PathBuf,
    load: &'static str,
}

/// Prints the tables. `--only TEXT` chooses works by name; `--only hop` has the second table alone.
pub fn table(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let mut only = String::new();
    let mut parser = lexopt::Parser::from_args(arguments);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("only") => only = parser.value()?.string()?,
            other => return Err(other.unexpected().into()),
        }
    }
    let cores = std::thread::available_parallelism()?.get();
    if cores < 2 {
        return Err("it needs two cores".into());
    }
    let load = if cores > 2 { THIRD } else { crate::CORES[1] };
    let bench = Bench { this: std::env::current_exe()?, load };
    println!("{}, {cores} cores, load on core {load}\n", machine());
    if only.is_empty() {
        bench.print_spread()?;
    }
    bench.print_works(&only)?;
    if only.is_empty() || only == "hop" {
        bench.print_hops()?;
    }
    Ok(())
}

impl Bench {
    /// Starts the server, on these cores.
    fn start(&self, kind: Kind, cores: &str) -> Result<Running, Box<dyn Error>> {
        Running::start_on(cores, &self.this, &self.words(kind, cores))
    }

    fn words(&self, kind: Kind, cores: &str) -> Vec<String> {
        let loops = match kind {
            Kind::Loops(loops) => loops.to_string(),
            Kind::Alone => "0".to_owned(),
            Kind::Apart => "apart".to_owned(),
        };
        let how = if cores == BOTH { "each" } else { "any" };
        vec!["loops-server".to_owned(), loops, how.to_owned()]
    }

    /// How the connections lie on the loops, as long as none closes.
    fn print_spread(&self) -> Result<(), Box<dyn Error>> {
        let load = Programs::build()?.load;
        for loops in [2, 4] {
            let server = self.start(Kind::Loops(loops), SERVER)?;
            let _held = Running::hold(&load, &server.url("/echo"), SPREAD)?;
            server.wait_for_connections(SPREAD)?;
            let mut open: Vec<u64> = Vec::new();
            while open.iter().sum::<u64>() < SPREAD as u64 {
                open = loops_of(&server)?.iter().map(|of| of.open).collect();
            }
            let (most, least) = (open.iter().max(), open.iter().min());
            if most.zip(least).is_none_or(|(most, least)| most - least > 1) {
                return Err(format!("the connections are not spread evenly: {open:?}").into());
            }
            println!("{SPREAD} connections on {loops} loops: {open:?}");
        }
        println!();
        Ok(())
    }

    fn print_works(&self, only: &str) -> Result<(), Box<dyn Error>> {
        if !WORKS.iter().any(|work| work.0.contains(only)) {
            return Ok(());
        }
        println!(
            "Messages for each second of server CPU: median and 95 % interval of paired slices."
        );
        println!("All servers are on core 0, or two loops or servers have cores 0 and 1.\n");
        println!(
            "| work | at least | 2 loops : 1 loop | 2 loops : 2 servers | 1 loop : a server | 2 loops : 1 loop, a core each | 2 loops : 2 servers, a core each | A/A |"
        );
        println!("|---|---|---|---|---|---|---|---|");
        for Work(name, has_goal, load) in WORKS.iter().filter(|work| work.0.contains(only)) {
            let mut line = format!("| {name} | ");
            line += &if *has_goal { format!("{AT_LEAST:.2}") } else { "–".to_owned() };
            let rate = self.rate(load, TWO, ONE, [SERVER, SERVER])?;
            let below = *has_goal && rate.median < AT_LEAST;
            line += &format!(" | {rate}{}", if below { " below" } else { "" });
            // Nothing crosses from one server to another, so these cannot do the other works.
            for (kind, against, cores) in [
                (TWO, Kind::Apart, [SERVER, SERVER]),
                (ONE, Kind::Alone, [SERVER, SERVER]),
                (TWO, ONE, [BOTH, SERVER]),
                (TWO, Kind::Apart, [BOTH, BOTH]),
            ] {
                line += &match *has_goal || against != Kind::Apart {
                    true => format!(" | {}", self.rate(load, kind, against, cores)?),
                    false => " | –".to_owned(),
                };
            }
            let noise = self.rate(load, ONE, ONE, [SERVER, SERVER])?;
            println!("{line} | {:.2}–{:.2} |", noise.low, noise.high);
        }
        println!();
        Ok(())
    }

    /// The messages for each CPU time of a server, relative to `against`. Both are started anew, so
    /// that connections come to the loops in turn.
    fn rate(
        &self,
        load: &[&str],
        kind: Kind,
        against: Kind,
        cores: [&str; 2],
    ) -> Result<Ratio, Box<dyn Error>> {
        let (a, b) = (self.start(kind, cores[0])?, self.start(against, cores[1])?);
        let [scenario, path, options @ ..] = load else {
            unreachable!("every work has a scenario and a path")
        };
        let figures = self.paired(scenario, options, (&a, path), (&b, path))?;
        let Ratio { median, low, high } = ratio(&figures, "server_cpu_each")?;
        Ok(Ratio { median: 1.0 / median, low: 1.0 / high, high: 1.0 / low })
    }

    /// Runs the minimal client against two servers in turn.
    fn paired(
        &self,
        scenario: &str,
        options: &[&str],
        (a, a_path): (&Running, &str),
        (b, b_path): (&Running, &str),
    ) -> Result<Json, Box<dyn Error>> {
        let mut client = pinned(self.load, &self.this);
        client.args(["minimal", scenario, &a.url(a_path), "--pid", &a.pid()]);
        client.args(["--against", &b.url(b_path), "--against-pid", &b.pid()]);
        client.args(["--slices=40", "--slice=0.15", "--warm-up=0.3"]).args(options);
        read(client)
    }

    fn print_hops(&self) -> Result<(), Box<dyn Error>> {
        println!(
            "A message of 64 bytes that is published to the members on the other loop: what it"
        );
        println!("takes more than one that is published to as many on the same loop.\n");
        println!(
            "| loops | members | messages in a row | ns more | on the same loop, ns | turns of the other loop for each message | instructions more |"
        );
        println!("|---|---|---|---|---|---|---|");
        let mut lines = Vec::new();
        for (cores, place) in [(SERVER, "on one core"), (BOTH, "a core each")] {
            let mut batches = Vec::new();
            for (members, times) in HOPS {
                let options = [
                    format!("--connections={members}"),
                    format!("--at-once={times}"),
                    "--size=64".to_owned(),
                ];
                let options = options.each_ref().map(String::as_str);
                let more =
                    self.print_hop(cores, &options, &format!("{place} | {members} | {times}"))?;
                if members == 1 {
                    batches.push((times as f64, more * times as f64));
                }
            }
            // A batch takes a lock, a wake and a turn of the other loop, however long it is.
            if let [.., (few, short), (many, long)] = batches[..] {
                let each = (long - short) / (many - few);
                let above = if each > HOP_AT_MOST { " above" } else { "" };
                let batch = (short - each * few) / 1000.0;
                lines.push(format!(
                    "{place}: a batch takes {batch:.1} µs, and each message in it {each:.0} ns{above}; at most {HOP_AT_MOST} ns",
                ));
            }
        }
        println!("\n{}", lines.join("\n"));
        Ok(())
    }

    /// Prints one row; returns the nanoseconds that a message takes more on another loop.
    fn print_hop(&self, cores: &str, options: &[&str], name: &str) -> Result<f64, Box<dyn Error>> {
        let (across, here) = (self.start(TWO, cores)?, self.start(TWO, cores)?);
        let figures = self.paired("hop", options, (&across, "/across"), (&here, "/here"))?;
        let more = ratio(&figures, "nanoseconds_more")?;
        let same = ratio(&figures, "nanoseconds_of_b")?;
        let loops = loops_of(&across)?;
        if loops.iter().any(|of| of.refused > 0) {
            return Err("a queue was full".into());
        }
        let receiver =
            loops.iter().max_by_key(|of| of.received).ok_or("the server has no loops")?;
        // They are the same wherever the loops run: callgrind runs one thread at a time.
        let instructions = match cores {
            SERVER => {
                let [across, here] =
                    ["/across", "/here"].map(|path| self.instructions(path, options));
                format!("{:.0}", across? - here?)
            }
            _ => "–".to_owned(),
        };
        println!(
            "| {name} | {:.0} ({:.0}–{:.0}) | {:.0} | {:.3} | {instructions} |",
            more.median,
            more.low,
            more.high,
            same.median,
            receiver.turns as f64 / receiver.received as f64,
        );
        Ok(more.median)
    }

    /// The instructions of all threads for each message.
    fn instructions(&self, path: &str, options: &[&str]) -> Result<f64, Box<dyn Error>> {
        let run = |duration: &str| -> Result<(f64, f64), Box<dyn Error>> {
            let mut words = vec![self.this.display().to_string()];
            words.extend(self.words(TWO, SERVER));
            let mut messages = 0.0;
            let instructions = total(&words, |server| {
                let mut client = pinned(self.load, &self.this);
                client.args(["minimal", "hop", &server.url(path), "--slice", duration]);
                client.args(options);
                messages =
                    read(client)?["messages"].as_f64().ok_or("the client counted nothing")?;
                Ok(())
            })?;
            Ok((instructions, messages))
        };
        let [short, long] = DURATIONS.map(run);
        let (short, long) = (short?, long?);
        Ok((long.0 - short.0) / (long.1 - short.1))
    }
}

fn ratio(figures: &Json, name: &str) -> Result<Ratio, Box<dyn Error>> {
    Ok(Ratio::read(&figures["comparison"][name]).ok_or("the client gave no figures")?)
}

/// The figures of one loop.
struct LoopFigures {
    open: u64,
    turns: u64,
    received: u64,
    refused: u64,
}

/// Asks a server for the figures of all its loops.
fn loops_of(server: &Running) -> Result<Vec<LoopFigures>, Box<dyn Error>> {
    let mut stream = TcpStream::connect(server.address())?;
    write!(stream, "GET /loops HTTP/1.1\r\nHost: {}\r\n\r\n", server.address())?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    let (_, body) = response.split_once("\r\n\r\n").ok_or("the page has no body")?;
    let loops: Vec<Json> = serde_json::from_str(body)?;
    let figures = |of: &Json| {
        let figure = |name: &str| of[name].as_u64().ok_or(format!("the page has no {name}"));
        Ok(LoopFigures {
            open: figure("open")?,
            turns: figure("turns")?,
            received: figure("received")?,
            refused: figure("refused")?,
        })
    };
    loops.iter().map(figures).collect()
}
