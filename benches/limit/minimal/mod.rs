//! The bench's own client: it does only what keeps a server busy, so that the load tool's work is
//! not mistaken for the server's cost.
//!
//! It masks its frames once, with a fixed key, and sends the same bytes again and again. It counts
//! the bytes that come back, and the messages are those bytes by the length of one. It measures no
//! latency and looks at no payload: an echo of the right length counts, whatever it says.
//!
//! One thread does everything and never sleeps. A client that sleeps has to be woken, and the
//! kernel counts that work as the server's.

use std::error::Error;
use std::fs;
use std::time::{Duration, Instant};

use lexopt::prelude::*;
use serde_json::json;

use crate::ratio::Ratio;

mod broadcast;
mod echo;
mod hop;
pub mod peer;
mod upgrade;
pub mod wire;

use wire::Dialer;

/// How long what is in flight may take when a slice is over. A shared machine may stop for seconds.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// After the last message the server still has to return to its poll: only a thread that sleeps has
/// its CPU time up to date in /proc.
pub const REST: Duration = Duration::from_millis(1);

/// The traffic to one server.
trait Traffic {
    /// Keeps the server busy for a while and waits for what is in flight; how many messages there
    /// were in all.
    fn run(&mut self, length: Duration) -> Result<u64, Box<dyn Error>>;
}

/// When a slice's traffic ends.
struct Slice {
    end: Instant,
    is_over: bool,
}

impl Slice {
    fn of(length: Duration) -> Self {
        Self { end: Instant::now() + length, is_over: false }
    }

    /// Looks at the clock, once for each turn; an error if the server answers no more.
    fn turn(&mut self) -> Result<(), &'static str> {
        let now = Instant::now();
        self.is_over = now >= self.end;
        if now >= self.end + PATIENCE { Err("messages do not come back") } else { Ok(()) }
    }
}

struct Options {
    scenario: String,
    connections: Option<usize>,
    size: usize,
    text: bool,
    in_flight: usize,
    at_once: usize,
    rooms: usize,
    resume: bool,
}

impl Options {
    fn traffic(&self, dialer: Dialer, path: &str) -> Result<Box<dyn Traffic>, Box<dyn Error>> {
        let frame = peer::masked_frame(self.size, self.text);
        let connections = |default| self.connections.unwrap_or(default);
        Ok(match &*self.scenario {
            "echo" => {
                Box::new(echo::Echo::new(&dialer, path, connections(100), &frame, self.in_flight)?)
            }
            "broadcast" => {
                let connections = connections(100);
                Box::new(broadcast::Broadcast::new(
                    &dialer,
                    path,
                    connections,
                    &frame,
                    self.at_once,
                    self.rooms,
                )?)
            }
            "hop" => Box::new(hop::Hop::new(&dialer, path, connections(1), frame, self.at_once)?),
            "connect" => Box::new(upgrade::Upgrades::new(dialer, path, connections(16))?),
            other => return Err(format!("the minimal client knows no {other}").into()),
        })
    }
}

/// A server, and the traffic to it.
struct Lane {
    traffic: Box<dyn Traffic>,
    pid: u32,
}

impl Lane {
    /// The server's CPU for each message of one slice, in nanoseconds.
    fn cpu_each(&mut self, length: Duration) -> Result<f64, Box<dyn Error>> {
        let before = cpu(self.pid)?;
        let messages = self.traffic.run(length)?;
        std::thread::sleep(REST);
        Ok((cpu(self.pid)? - before) as f64 / messages as f64)
    }
}

/// Runs one scenario against two servers in turn and prints the ratio as JSON, or against one, for
/// the time of a slice, and prints how many messages there were. The arguments are named as the
/// load tool's.
pub fn run(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let mut options = Options {
        scenario: String::new(),
        connections: None,
        size: 20,
        text: false,
        in_flight: 1,
        at_once: 1,
        rooms: 1,
        resume: false,
    };
    let (mut urls, mut pids) = (Vec::new(), Vec::new());
    let (mut slices, mut slice, mut warm_up) = (40, 0.15, 0.3);
    let mut parser = lexopt::Parser::from_args(arguments);
    while let Some(argument) = parser.next()? {
        match argument {
            Value(word) if options.scenario.is_empty() => options.scenario = word.string()?,
            Value(url) => urls.push(url.string()?),
            Long("against") => urls.push(parser.value()?.string()?),
            Long("pid" | "against-pid") => pids.push(parser.value()?.parse()?),
            Long("connections") => options.connections = Some(parser.value()?.parse()?),
            Long("size") => options.size = parser.value()?.parse()?,
            Long("text") => options.text = true,
            Long("in-flight") => options.in_flight = parser.value()?.parse()?,
            Long("at-once") => options.at_once = parser.value()?.parse()?,
            Long("rooms") => options.rooms = parser.value()?.parse()?,
            Long("resume") => options.resume = true,
            Long("slices") => slices = parser.value()?.parse()?,
            Long("slice") => slice = parser.value()?.parse()?,
            Long("warm-up") => warm_up = parser.value()?.parse()?,
            other => return Err(other.unexpected().into()),
        }
    }
    let (slice, warm_up) = (Duration::from_secs_f64(slice), Duration::from_secs_f64(warm_up));
    if let [url] = &urls[..] {
        let messages = traffic(&options, url)?.run(slice)?;
        println!("{}", json!({ "messages": messages }));
        return Ok(());
    }
    let ([url, against], &[pid, against_pid]) = (&urls[..], &pids[..]) else {
        return Err("two servers are needed, and their process ids".into());
    };
    let [mut a, mut b] = [
        Lane { traffic: traffic(&options, url)?, pid },
        Lane { traffic: traffic(&options, against)?, pid: against_pid },
    ];
    for lane in [&mut a, &mut b] {
        lane.traffic.run(warm_up)?;
    }
    let mut pairs = Vec::new();
    for _ in 0..slices / 2 {
        pairs.push((a.cpu_each(slice)?, b.cpu_each(slice)?));
    }
    let over = |figure: fn(&(f64, f64)) -> f64| {
        Ratio::of(pairs.iter().map(figure).collect()).ok_or("too few slices")
    };
    let comparison = json!({
        "server_cpu_each": over(|(a, b)| a / b)?.to_json(),
        "nanoseconds_of_b": over(|&(_, b)| b)?.to_json(),
        "nanoseconds_more": over(|(a, b)| a - b)?.to_json(),
    });
    println!("{:#}", json!({ "comparison": comparison }));
    Ok(())
}

fn traffic(options: &Options, url: &str) -> Result<Box<dyn Traffic>, Box<dyn Error>> {
    let (scheme, rest) = url.split_once("://").ok_or("a URL begins with ws:// or wss://")?;
    let (address, path) = rest.split_once('/').ok_or("a URL has a path")?;
    let dialer = match scheme {
        "wss" => Dialer::secure(address.parse()?, options.resume)?,
        _ => Dialer::plain(address.split(',').map(str::parse).collect::<Result<_, _>>()?),
    };
    options.traffic(dialer, &format!("/{path}"))
}

/// The CPU time of a process's threads, in nanoseconds.
pub fn cpu(pid: u32) -> Result<u64, Box<dyn Error>> {
    let mut total = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let schedule = fs::read_to_string(thread?.path().join("schedstat"))?;
        total += schedule.split(' ').next().unwrap_or_default().parse::<u64>()?;
    }
    Ok(total)
}
