//! The bus: what a message over Redis costs the server that receives it, beside a publish within
//! one server and beside Socket.IO; what a subscription takes, and how long a message is under way.

use std::error::Error;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lexopt::prelude::*;
use serde_json::Value as Json;

use crate::CORES;
use crate::instructions;
use crate::minimal::{REST, cpu};
use crate::ratio::Ratio;
use crate::server::{Running, machine};

mod load;
mod redis;
pub mod server;

use load::{Clients, Pace, Protocol};
use redis::Redis;

/// Members of the room at the server that receives.
const MEMBERS: usize = 50;
const PAIRS: usize = 20;
const SLICE: Duration = Duration::from_millis(400);
const WARM_UP: Duration = Duration::from_millis(500);

/// 200 in a second is what every server keeps up with. At 1 000 Socket.IO is at saturation.
const WORKS: [(&str, Pace); 3] = [
    ("200 a second", Pace::PerSecond(200)),
    ("64 at once, and the next when all have them", Pace::AtOnce(64)),
    ("saturation: 256 in flight", Pace::InFlight(256)),
];

/// The most CPU for each message, relative to a publish within one server and to Socket.IO.
const OF_LOCAL_AT_MOST: f64 = 1.2;
const OF_SOCKET_IO_AT_MOST: f64 = 0.3;

/// Messages in a second to a room without members, how long they come and how long they do not.
const QUIET_RATE: u32 = 2000;
const QUIET_SLICE: Duration = Duration::from_millis(500);
/// When they come to a server, it has worked on them by then.
const QUIET_REST: Duration = Duration::from_millis(50);

/// Messages together whose instructions are counted, and how long two runs under callgrind take.
const COUNTED_AT_ONCE: [usize; 2] = [1, 64];
const COUNTED: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(4)];

/// Messages in a second that are timed, in slices in turn.
const TIMED_RATE: u32 = 50;
const TIMED_SLICE: Duration = Duration::from_secs(1);
const TIMED_SLICES: usize = 20;

/// Rooms of one member each, whose memory is measured, and servers that it is measured of.
const ROOMS: usize = 10_000;
const MEMORY_RUNS: usize = 5;
/// How long a server may take to subscribe to all rooms.
const PATIENCE: Duration = Duration::from_secs(60);

const SOCKET_IO: &str = "benches/peers/node/socket.io.js";

/// What a pair of servers is.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// One server of ours, alone: it publishes and receives.
    Local,
    /// Two of ours, with the bus.
    Bus,
    /// Two of Socket.IO's, with this adapter.
    SocketIo(&'static str),
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Local => "ikisocket, one server",
            Self::Bus => "ikisocket, bus",
            Self::SocketIo("redis") => "Socket.IO, redis-adapter",
            Self::SocketIo("sharded") => "Socket.IO, redis-adapter, sharded",
            Self::SocketIo(_) => "Socket.IO, redis-adapter with node-redis",
        }
    }

    fn protocol(self) -> Protocol {
        match self {
            Self::Local | Self::Bus => Protocol::WebSocket,
            Self::SocketIo(_) => Protocol::SocketIo,
        }
    }

    /// Starts one server. Those of one bus have the same prefix.
    fn start(self, core: &str, redis: &Path, prefix: &str) -> Result<Running, Box<dyn Error>> {
        let (program, words) = self.command(redis, prefix)?;
        Running::start_on(core, &program, &words)
    }

    /// The program, and what stands before the address.
    fn command(self, redis: &Path, prefix: &str) -> Result<(PathBuf, Vec<String>), Box<dyn Error>> {
        let url = format!("redis+unix://{}", redis.display());
        let (program, words) = match self {
            Self::Local => (std::env::current_exe()?, ["bus-server", "-", "-", ""]),
            Self::Bus => (std::env::current_exe()?, ["bus-server", &url, prefix, ""]),
            Self::SocketIo(adapter) => {
                let socket = redis.to_str().ok_or("the folder's name is not UTF-8")?;
                ("/usr/bin/env".into(), ["node", SOCKET_IO, adapter, socket])
            }
        };
        let words = words.into_iter().filter(|word| !word.is_empty());
        Ok((program, words.map(str::to_owned).collect()))
    }
}

/// Two servers, and the clients of both.
struct Lane {
    receiver: Running,
    /// `None`: the other one publishes.
    _publisher: Option<Running>,
    protocol: Protocol,
    clients: Clients,
}

struct Slice {
    cpu: f64,
    rate: f64,
    messages: f64,
}

impl Lane {
    /// Starts the servers. The one that receives reaches Redis by the socket `redis`. Messages go
    /// to the room of its members, or to another one if `room` says so.
    fn start(
        kind: Kind,
        members: usize,
        (redis, of_publisher): (&Path, &Path),
        room: Option<&str>,
    ) -> Result<Self, Box<dyn Error>> {
        // All servers have one Redis, and nothing of one lane may come to another.
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let prefix = format!("lane-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let receiver = kind.start(CORES[0], redis, &prefix)?;
        let publisher = match kind {
            Kind::Local => None,
            _ => Some(kind.start(CORES[1], of_publisher, &prefix)?),
        };
        let of = publisher.as_ref().unwrap_or(&receiver).address().parse()?;
        let members = (receiver.address().parse()?, members);
        let clients = Clients::connect(kind.protocol(), members, of, room)?;
        Ok(Self { receiver, _publisher: publisher, protocol: kind.protocol(), clients })
    }

    fn cpu(&self) -> Result<u64, Box<dyn Error>> {
        cpu(self.receiver.pid().parse()?)
    }

    /// The receiver's CPU for each message of one slice, in microseconds, the messages in a
    /// second, and the messages.
    fn slice(&mut self, pace: Pace) -> Result<Slice, Box<dyn Error>> {
        let (before, began) = (self.cpu()?, Instant::now());
        let messages = self.clients.run(pace, SLICE)? as f64;
        let rate = messages / began.elapsed().as_secs_f64();
        std::thread::sleep(REST);
        Ok(Slice { cpu: (self.cpu()? - before) as f64 / 1000.0 / messages, rate, messages })
    }

    /// The turns that the loop of the receiver has made, if it is ours.
    fn turns(&self) -> Result<Option<f64>, Box<dyn Error>> {
        if self.protocol == Protocol::SocketIo {
            return Ok(None);
        }
        let mut stream = TcpStream::connect(self.receiver.address())?;
        write!(stream, "GET /turns HTTP/1.1\r\nHost: {}\r\n\r\n", self.receiver.address())?;
        let mut response = String::new();
        stream.read_to_string(&mut response)?;
        let (_, turns) = response.split_once("\r\n\r\n").ok_or("the page has no body")?;
        Ok(Some(turns.parse()?))
    }
}

/// What two lanes took in turn.
struct Compared {
    ratio: Ratio,
    /// Microseconds of the second one for each message, and its messages in a second.
    cpu: f64,
    rate: f64,
    /// Messages for each turn of the receiving loops.
    in_a_turn: [Option<f64>; 2],
}

fn compare(a: &mut Lane, b: &mut Lane, pace: Pace) -> Result<Compared, Box<dyn Error>> {
    for lane in [&mut *a, &mut *b] {
        lane.clients.run(pace, WARM_UP)?;
    }
    let before = [a.turns()?, b.turns()?];
    let mut pairs = Vec::new();
    for _ in 0..PAIRS {
        pairs.push((a.slice(pace)?, b.slice(pace)?));
    }
    let after = [a.turns()?, b.turns()?];
    let messages =
        pairs.iter().fold([0.0; 2], |sum, (a, b)| [sum[0] + a.messages, sum[1] + b.messages]);
    let in_a_turn = [0, 1].map(|lane| Some(messages[lane] / (after[lane]? - before[lane]?)));
    let over = |figure: fn(&(Slice, Slice)) -> f64| {
        Ratio::of(pairs.iter().map(figure).collect()).ok_or("too few pairs")
    };
    Ok(Compared {
        ratio: over(|(a, b)| a.cpu / b.cpu)?,
        cpu: over(|(_, b)| b.cpu)?.median,
        rate: over(|(_, b)| b.rate)?.median,
        in_a_turn,
    })
}

/// Prints the tables. `--only TEXT` chooses them by name: quiet, members,
/// instructions, memory, time.
pub fn table(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let mut only = String::new();
    let mut parser = lexopt::Parser::from_args(arguments);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("only") => only = parser.value()?.string()?,
            other => return Err(other.unexpected().into()),
        }
    }
    if std::thread::available_parallelism()?.get() < 2 {
        return Err("it needs two cores".into());
    }
    let Some(redis) = Redis::start(CORES[1])? else {
        println!("there is no redis-server here: nothing is measured");
        return Ok(());
    };
    move_to_core(CORES[1])?;
    let peers = socket_io();
    println!("{}, Redis {}{}\n", machine(), redis.version()?, peers.1);
    let bench = Bench { redis, peers: peers.0 };
    for (name, print) in [
        ("quiet", Bench::print_quiet as fn(&Bench) -> Result<(), Box<dyn Error>>),
        ("members", Bench::print_members),
        ("instructions", Bench::print_instructions),
        ("memory", Bench::print_memory),
        ("time", Bench::print_times),
    ] {
        if name.contains(&only) {
            print(&bench)?;
            println!();
        }
    }
    Ok(())
}

struct Bench {
    redis: Redis,
    /// Socket.IO's, if it is there.
    peers: &'static [Kind],
}

impl Bench {
    fn lane(&self, kind: Kind, members: usize) -> Result<Lane, Box<dyn Error>> {
        let socket = self.redis.socket();
        Lane::start(kind, members, (&socket, &socket), None)
    }

    /// What a server has of messages to a room without members there.
    fn print_quiet(&self) -> Result<(), Box<dyn Error>> {
        println!(
            "A server with {MEMBERS} members of one room, while {QUIET_RATE} messages a second go to another:"
        );
        println!("what Redis sends it, and its CPU, relative to the same time without them.\n");
        println!(
            "| server | messages that came | bytes more for each message | CPU more for each message | CPU in a second, with and without |"
        );
        println!("|---|---|---|---|---|");
        for (number, kind) in [&[Kind::Bus][..], self.peers].concat().into_iter().enumerate() {
            let relay = self.redis.relay(&format!("relay-{number}"))?;
            let socket = self.redis.socket();
            let mut lane = Lane::start(kind, MEMBERS, (relay.socket(), &socket), Some("other"))?;
            lane.clients.run_blindly(QUIET_RATE, WARM_UP)?;
            std::thread::sleep(QUIET_REST);
            let (published, (_, came)) = (self.redis.published()?, relay.received());
            let (mut sent, mut bytes, mut pairs) = (0, 0, Vec::new());
            for _ in 0..PAIRS {
                let slice = |lane: &mut Lane, is_quiet: bool| -> Result<_, Box<dyn Error>> {
                    let (cpu, received) = (lane.cpu()?, relay.received().0);
                    let sent = match is_quiet {
                        true => {
                            std::thread::sleep(QUIET_SLICE);
                            0
                        }
                        false => lane.clients.run_blindly(QUIET_RATE, QUIET_SLICE)?,
                    };
                    std::thread::sleep(QUIET_REST);
                    let took = (lane.cpu()? - cpu) as f64 / 1000.0;
                    Ok((took, (relay.received().0 - received) as i64, sent))
                };
                let (with, without) = (slice(&mut lane, false)?, slice(&mut lane, true)?);
                sent += with.2;
                bytes += with.1 - without.1;
                pairs.push((with.0, without.0, with.2 as f64));
            }
            // What bytes are counted of has come to Redis.
            if self.redis.published()? - published < sent {
                return Err("messages did not come to Redis".into());
            }
            let over = |figure: fn(&(f64, f64, f64)) -> f64| {
                Ratio::of(pairs.iter().map(figure).collect()).ok_or("too few pairs")
            };
            let seconds = (QUIET_SLICE + QUIET_REST).as_secs_f64();
            println!(
                "| {} | {} of {sent} | {:.2} | {} µs | {:.0} µs, {:.0} µs |",
                kind.name(),
                relay.received().1 - came,
                bytes as f64 / sent as f64,
                over(|(with, without, sent)| (with - without) / sent)?,
                over(|&(with, ..)| with)?.median / seconds,
                over(|&(_, without, _)| without)?.median / seconds,
            );
        }
        Ok(())
    }

    /// What a server has of messages to its members.
    fn print_members(&self) -> Result<(), Box<dyn Error>> {
        println!("CPU of the receiving server for each message to {MEMBERS} members, in µs, and");
        println!("messages in a second; and that of ikisocket with the bus relative to each.\n");
        println!(
            "| work | server | CPU, µs | messages/s | bus : server | at most | in a turn: bus, server |"
        );
        println!("|---|---|---|---|---|---|---|");
        let mut bus = self.lane(Kind::Bus, MEMBERS)?;
        for (name, pace) in WORKS {
            for kind in [&[Kind::Bus, Kind::Local][..], self.peers].concat() {
                let mut other = self.lane(kind, MEMBERS)?;
                let compared = compare(&mut bus, &mut other, pace)?;
                let goal = match kind {
                    Kind::Bus => None,
                    Kind::Local => Some(OF_LOCAL_AT_MOST),
                    Kind::SocketIo(_) => Some(OF_SOCKET_IO_AT_MOST),
                };
                let in_a_turn = compared.in_a_turn.map(|messages| {
                    messages.map_or("–".to_owned(), |messages| format!("{messages:.1}"))
                });
                let above = goal.is_some_and(|goal| compared.ratio.median > goal);
                println!(
                    "| {name} | {}{} | {:.1} | {:.0} | {}{} | {} | {} |",
                    kind.name(),
                    if kind == Kind::Bus { " (A/A)" } else { "" },
                    compared.cpu,
                    compared.rate,
                    compared.ratio,
                    if above { " above" } else { "" },
                    goal.map_or("–".to_owned(), |goal| format!("{goal:.1}")),
                    in_a_turn.join(", "),
                );
            }
        }
        Ok(())
    }

    /// What a server does in user space for a message, whatever else the machine does.
    fn print_instructions(&self) -> Result<(), Box<dyn Error>> {
        println!("Instructions of the receiving server in user space, for each message.\n");
        println!("| messages at once | members | bus | one server | bus : one server |");
        println!("|---|---|---|---|---|");
        for at_once in COUNTED_AT_ONCE {
            for members in [1, MEMBERS] {
                let bus = self.instructions(Kind::Bus, at_once, members)?;
                let local = self.instructions(Kind::Local, at_once, members)?;
                let ratio = bus / local;
                println!("| {at_once} | {members} | {bus:.0} | {local:.0} | {ratio:.2} |");
            }
        }
        Ok(())
    }

    fn instructions(
        &self,
        kind: Kind,
        at_once: usize,
        members: usize,
    ) -> Result<f64, Box<dyn Error>> {
        let socket = self.redis.socket();
        let prefix = format!("counted-{at_once}-{members}");
        let publisher = kind.start(CORES[1], &socket, &prefix)?;
        let (program, mut words) = kind.command(&socket, &prefix)?;
        words.insert(0, program.display().to_string());
        let mut run = |length: Duration| -> Result<(f64, f64), Box<dyn Error>> {
            let mut messages = 0;
            let instructions = instructions::total(&words, |receiver| {
                let to = receiver.address().parse()?;
                let from = match kind {
                    Kind::Local => to,
                    _ => publisher.address().parse()?,
                };
                let mut clients = Clients::connect(kind.protocol(), (to, members), from, None)?;
                messages = clients.run(Pace::AtOnce(at_once), length)?;
                Ok(())
            })?;
            Ok((instructions, messages as f64))
        };
        let [short, long] = COUNTED.map(&mut run);
        let (short, long) = (short?, long?);
        Ok((long.0 - short.0) / (long.1 - short.1))
    }

    /// What a room of one member takes.
    fn print_memory(&self) -> Result<(), Box<dyn Error>> {
        println!("Bytes for each of {ROOMS} rooms of one member each: resident memory of the");
        println!("server, and memory that Redis has allocated.\n");
        println!("| server | of the server | of Redis |");
        println!("|---|---|---|");
        let mut of_ours = Vec::new();
        for kind in [&[Kind::Local, Kind::Bus][..], self.peers].concat() {
            let (mut of_server, mut of_redis) = (Vec::new(), Vec::new());
            for _ in 0..MEMORY_RUNS {
                let (server, redis) = self.memory(kind)?;
                of_server.push(server);
                of_redis.push(redis);
            }
            let [server, redis] = [of_server, of_redis].map(median);
            println!("| {} | {server:.0} | {redis:.0} |", kind.name());
            if let Kind::Local | Kind::Bus = kind {
                of_ours.push(server);
            }
        }
        if let [local, bus] = of_ours[..] {
            println!("\nThe bus takes {:.0} bytes of the server for each.", bus - local);
        }
        Ok(())
    }

    /// Bytes for each room, of a new server and of Redis.
    fn memory(&self, kind: Kind) -> Result<(f64, f64), Box<dyn Error>> {
        let server = kind.start(CORES[0], &self.redis.socket(), "memory")?;
        // A first member and a first room, so that what all rooms share is there.
        let address = server.address().parse()?;
        let _first = load::join_many(kind.protocol(), address, "first", 1)?;
        std::thread::sleep(WARM_UP);
        let has_channels = !matches!(kind, Kind::Local | Kind::SocketIo("redis"));
        let before = (resident(&server)?, self.redis.figure("memory", "used_memory")?);
        let channels = self.channels()?;
        let _members = load::join_many(kind.protocol(), address, "room", ROOMS)?;
        let end = Instant::now() + PATIENCE;
        while has_channels && self.channels()? < channels + ROOMS as u64 {
            if Instant::now() > end {
                return Err("a server does not subscribe to its rooms".into());
            }
            std::thread::sleep(QUIET_REST);
        }
        std::thread::sleep(WARM_UP);
        let after = (resident(&server)?, self.redis.figure("memory", "used_memory")?);
        let each = |before: u64, after: u64| (after as f64 - before as f64) / ROOMS as f64;
        Ok((each(before.0, after.0), each(before.1, after.1)))
    }

    /// Channels that Redis has subscriptions of.
    fn channels(&self) -> Result<u64, Box<dyn Error>> {
        let figure = |name| self.redis.figure("stats", name);
        Ok(figure("pubsub_channels")? + figure("pubsubshard_channels")?)
    }

    /// How long a message is under way.
    fn print_times(&self) -> Result<(), Box<dyn Error>> {
        println!(
            "From the write of the client that publishes until a member of the other server has"
        );
        println!("read it, at {TIMED_RATE} messages a second.\n");
        println!("| servers | messages | median | p99 |");
        println!("|---|---|---|---|");
        let kinds = [&[Kind::Local, Kind::Bus][..], self.peers].concat();
        let mut lanes = Vec::new();
        for kind in kinds {
            lanes.push((kind, self.lane(kind, 1)?, Vec::new()));
        }
        for _ in 0..TIMED_SLICES {
            for (_, lane, times) in &mut lanes {
                times.extend(lane.clients.round_trips(TIMED_RATE, TIMED_SLICE)?);
            }
        }
        for (kind, _, mut times) in lanes {
            times.sort_unstable();
            let at = |part: usize| times[(times.len() - 1) * part / 100] as f64 / 1000.0;
            println!("| {} | {} | {:.0} µs | {:.0} µs |", kind.name(), times.len(), at(50), at(99));
        }
        Ok(())
    }
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Resident memory of a server, in bytes.
fn resident(server: &Running) -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.trim().split(' ').next()).ok_or("no VmRSS")?;
    Ok(kibibytes.parse::<u64>()? * 1024)
}

/// Socket.IO's servers, if they are there, and their versions.
fn socket_io() -> (&'static [Kind], String) {
    const KINDS: [Kind; 2] = [Kind::SocketIo("redis"), Kind::SocketIo("sharded")];
    let folder = Path::new(SOCKET_IO).parent().unwrap_or(Path::new("."));
    let version = |name: &str| -> Option<String> {
        let manifest = folder.join("node_modules").join(name).join("package.json");
        let manifest: Json = serde_json::from_slice(&std::fs::read(manifest).ok()?).ok()?;
        Some(format!("{name} {}", manifest["version"].as_str()?))
    };
    let names = ["socket.io", "@socket.io/redis-adapter", "ioredis", "redis"].map(version);
    let node = Command::new("node").arg("--version").output().ok();
    let (Some(node), [Some(a), Some(b), Some(c), Some(d)]) = (node, names) else {
        println!("Socket.IO is left out: npm install --prefix {}", folder.display());
        return (&[], String::new());
    };
    let node = String::from_utf8_lossy(&node.stdout).trim().to_owned();
    (&KINDS, format!(", Node {node}, {a}, {b}, {c}, {d}"))
}

/// Lets this process, which is the load, run on one core only.
fn move_to_core(core: &str) -> Result<(), Box<dyn Error>> {
    let this = std::process::id().to_string();
    // Without taskset, servers run on any core as well.
    if Path::new("/usr/bin/taskset").exists() {
        let mut taskset = Command::new("/usr/bin/taskset");
        let output = taskset.args(["-a", "-c", "-p", core, &this]).output()?;
        if !output.status.success() {
            return Err(format!("taskset: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
    }
    Ok(())
}
