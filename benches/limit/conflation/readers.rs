//! The readers of a feed, on one thread: many that read everything as it comes, and one that stalls
//! and then reads on.
//!
//! A few of the many are decoded; of the others bytes are counted, which says as much, because all
//! updates are of one length. What the one that stalls gets is decoded to the last byte. Whole
//! updates only, of each key none after a newer one, and in the end the newest of all keys: what
//! breaks that is an error.

use std::error::Error;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use ikisocket::protocol::{Decoded, Decoder, Role, Rules};
use mio::{Events, Interest, Poll, Token};
use serde_json::Value;

use super::feed::{KEYS, PACE, STEP, Update, now};

/// Updates before the stall, during it, and after it. The one that stalls does so again until the
/// feed is over, so that the newest must have waited for it.
pub const WARM_UP: u64 = PACE;
pub const STALL: u64 = 5 * PACE;
pub const RECOVERY: u64 = PACE;
pub const TOTAL: u64 = WARM_UP + STALL + RECOVERY + 2 * PACE;
/// An update that is no older, in nanoseconds, is current.
pub const CURRENT: u64 = 50_000_000;
/// Healthy readers that are decoded, and timed.
const DECODED: usize = 10;
/// The size that the stalling reader asks for; the kernel doubles it.
const RECEIVE_BUFFER: usize = 64 * 1024;
const BUFFER: usize = 256 * 1024;
/// Nothing here takes longer.
const PATIENCE: Duration = Duration::from_secs(20);
/// A smaller share of the pace is reported as too little.
const HELD: f64 = 0.99;
const MIB: f64 = 1024.0 * 1024.0;
/// In nanoseconds.
const SECOND: f64 = 1e9;
const MILLI: f64 = 1e6;

struct Reader {
    stream: mio::net::TcpStream,
    decoder: Decoder,
    bytes: u64,
    /// The number of each key's newest update, if they are decoded.
    newest: Vec<Option<u64>>,
}

impl Reader {
    fn connect(
        address: SocketAddr,
        path: &str,
        receive_buffer: Option<usize>,
    ) -> Result<Self, Box<dyn Error>> {
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(address),
            socket2::Type::STREAM,
            None,
        )?;
        if let Some(bytes) = receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        socket.connect(&address.into())?;
        let mut stream = TcpStream::from(socket);
        let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n{upgrade}\r\n\r\n")?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0]; // One at a time: what follows the head belongs to the feed.
            stream.read_exact(&mut byte)?;
            head.extend(byte);
        }
        if !head.starts_with(b"HTTP/1.1 101 ") {
            return Err(format!("no upgrade: {}", String::from_utf8_lossy(&head)).into());
        }
        stream.set_nonblocking(true)?;
        let stream = mio::net::TcpStream::from_std(stream);
        Ok(Self { stream, decoder: Decoder::new(), bytes: 0, newest: Vec::new() })
    }

    fn decoded(mut self) -> Self {
        self.newest = vec![None; KEYS as usize];
        self
    }

    /// Reads all there is, and gives each update to `each` with the time; `false` if the connection
    /// is over.
    fn read(
        &mut self,
        buffer: &mut [u8],
        mut each: impl FnMut(Update, u64),
    ) -> Result<bool, Box<dyn Error>> {
        loop {
            let read = match self.stream.read(buffer) {
                Ok(0) => return Ok(false),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(false),
                Err(error) => return Err(error.into()),
            };
            self.bytes += read as u64;
            if !self.newest.is_empty() {
                self.decode(&mut buffer[..read], &mut each)?;
            }
        }
    }

    fn decode(
        &mut self,
        mut input: &mut [u8],
        mut each: impl FnMut(Update, u64),
    ) -> Result<(), Box<dyn Error>> {
        let (now, rules) = (now(), Rules::default().role(Role::Client));
        while let Some(decoded) = self.decoder.decode(&mut input, &rules)? {
            let update = match &decoded {
                Decoded::Message(message) => Update::read(message.as_bytes()),
                Decoded::Close(_) => return Ok(()),
                _ => None,
            };
            let update = update.ok_or_else(|| format!("no whole update: {decoded:?}"))?;
            let newest = &mut self.newest[update.key() as usize];
            if *newest >= Some(update.number) {
                return Err("an update came after a newer one".into());
            }
            *newest = Some(update.number);
            each(update, now);
        }
        Ok(())
    }

    fn updates(&self) -> u64 {
        self.bytes / Update::FRAME
    }

    /// Whether it has the newest update of each key, unless it is not decoded.
    fn has_newest(&self) -> bool {
        let has = |number| self.newest[(number % KEYS) as usize] == Some(number);
        self.newest.is_empty() || (TOTAL - KEYS..TOTAL).all(has)
    }
}

/// The figures of a run.
struct Seen {
    /// When the stall began, and when it ended.
    from: Option<Mark>,
    to: Option<Mark>,
    /// The most memory of the server in between, in bytes, and what the healthy readers got.
    most: u64,
    ages: Histogram<u64>,
    /// The stalling reader was disconnected.
    lost: bool,
    /// When it read on, how many updates came before the first that was current, and the age of the
    /// oldest.
    resumed: u64,
    old: u64,
    oldest: u64,
    /// How long until there was a current one, and the ages from there on.
    current: Option<u64>,
    then: Histogram<u64>,
}

impl Seen {
    fn new() -> Result<Self, hdrhistogram::CreationError> {
        let histogram = Histogram::new_with_bounds(1, PATIENCE.as_nanos() as u64, 3)?;
        let (ages, then) = (histogram.clone(), histogram);
        Ok(Self {
            from: None,
            to: None,
            most: 0,
            ages,
            lost: false,
            resumed: 0,
            old: 0,
            oldest: 0,
            current: None,
            then,
        })
    }

    fn is_stalling(&self) -> bool {
        self.from.is_some() && self.to.is_none()
    }

    /// Takes an update that the stalling reader reads after its stall.
    fn take(&mut self, update: Update, now: u64) {
        let age = now.saturating_sub(update.due);
        self.oldest = self.oldest.max(age);
        if age <= CURRENT {
            self.current.get_or_insert(now - self.resumed);
        }
        match self.current {
            Some(_) => self.then.saturating_record(age),
            None => self.old += 1,
        }
    }

    /// Prints the cells of a row.
    fn print(
        &self,
        server: &str,
        healthy: &[Reader],
        slow: Option<&Reader>,
    ) -> Result<(), Box<dyn Error>> {
        let (Some(from), Some(to)) = (&self.from, &self.to) else {
            return Err("there was no stall".into());
        };
        let lost = to.page["lost"].as_u64().map(|at| at.saturating_sub(from.at) as f64 / SECOND);
        print!(
            "| {} |",
            match (slow, lost) {
                (None, _) => "–".to_owned(),
                (_, Some(after)) => format!("lost after {after:.1} s"),
                (Some(slow), None) => format!("{} of {TOTAL}", slow.updates()),
            }
        );
        let [before, most, end] =
            [from.resident, self.most, resident(server)?].map(|bytes| bytes as f64 / MIB);
        print!(" {before:.1}, {most:.1}, {end:.1} MiB |");
        if slow.is_none() || self.lost {
            print!(" – | – | – | – |");
        } else {
            let waiting = to.page["waiting"].as_f64().unwrap_or_default() / MIB;
            let old = (self.old * Update::FRAME) as f64 / MIB;
            print!(" {waiting:.2} MiB | {old:.2} MiB, to {:.1} s |", self.oldest as f64 / SECOND);
            match self.current {
                None => print!(" never | – |"),
                Some(current) => {
                    print!(" {:.0} ms | {} |", current as f64 / MILLI, quantiles(&self.then, 1.0))
                }
            }
        }
        let (deliveries, seconds) =
            ((to.deliveries - from.deliveries) as f64, (to.at - from.at) as f64 / SECOND);
        let reached = deliveries / healthy.len() as f64 / seconds;
        print!(" {reached:.0}");
        if reached < HELD * PACE as f64 {
            print!(", too few: was the machine busy?");
        }
        let missed: u64 = healthy.iter().map(|reader| TOTAL - reader.updates()).sum();
        if missed > 0 {
            print!(", and {missed} were replaced");
        }
        println!(
            " | {} | {:.1} ns |",
            quantiles(&self.ages, 0.99),
            (to.cpu - from.cpu) as f64 / deliveries
        );
        Ok(())
    }
}

/// The median of ages and another of their quantiles.
fn quantiles(ages: &Histogram<u64>, other: f64) -> String {
    let [median, other] =
        [0.5, other].map(|quantile| ages.value_at_quantile(quantile) as f64 / MILLI);
    format!("{median:.0}, {other:.0} ms")
}

/// What is known at one time.
struct Mark {
    at: u64,
    /// Of the server: bytes resident, and CPU time in nanoseconds.
    resident: u64,
    cpu: u64,
    deliveries: u64,
    page: Value,
}

impl Mark {
    fn now(address: SocketAddr, server: &str, healthy: &[Reader]) -> Result<Self, Box<dyn Error>> {
        let deliveries = healthy.iter().map(Reader::updates).sum();
        let (at, resident, schedule) =
            (now(), resident(server)?, fs::read_to_string(format!("/proc/{server}/schedstat"))?);
        let cpu = schedule.split(' ').next().unwrap_or_default().parse()?;
        Ok(Self { at, resident, cpu, deliveries, page: page(address)? })
    }
}

fn resident(pid: &str) -> Result<u64, Box<dyn Error>> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix("kB"));
    Ok(line.ok_or("the server has ended")?.trim().parse::<u64>()? * 1024)
}

/// The server's own figures.
fn page(address: SocketAddr) -> Result<Value, Box<dyn Error>> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET /figures HTTP/1.1\r\nHost: {address}\r\n\r\n")?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    Ok(serde_json::from_str(response.split("\r\n\r\n").nth(1).unwrap_or_default())?)
}

/// Reads the feed at `address` until every update has come or was replaced, and prints the cells of
/// a row. `server` is the process's id.
pub fn read(
    address: &str,
    server: &str,
    healthy: usize,
    stalls: bool,
) -> Result<(), Box<dyn Error>> {
    let address = address.parse()?;
    let mut poll = Poll::new()?;
    let mut slow = None;
    if stalls {
        let mut reader = Reader::connect(address, "/slow", Some(RECEIVE_BUFFER))?.decoded();
        poll.registry().register(&mut reader.stream, Token(healthy), Interest::READABLE)?;
        slow = Some(reader);
    }
    let mut readers = Vec::with_capacity(healthy);
    for at in 0..healthy {
        let reader = Reader::connect(address, "/feed", None)?;
        let mut reader = if at < DECODED { reader.decoded() } else { reader };
        poll.registry().register(&mut reader.stream, Token(at), Interest::READABLE)?;
        readers.push(reader);
    }

    let (mut buffer, mut events) = (vec![0; BUFFER], Events::with_capacity(1024));
    let (mut seen, mut began, mut is_fed, mut is_over) = (Seen::new()?, None, false, false);
    let deadline = Instant::now() + PATIENCE;
    while !is_over {
        if Instant::now() > deadline {
            return Err("the feed does not end".into());
        }
        poll.poll(&mut events, Some(Duration::from_millis(10)))?;
        let due = began.map_or(0, |began| (now() - began) / STEP);
        let recovering = (WARM_UP + STALL..WARM_UP + STALL + RECOVERY).contains(&due);
        let reads = due < WARM_UP || recovering || is_fed;
        let mut read_on = is_fed;
        if seen.from.is_none() && due >= WARM_UP {
            seen.from = Some(Mark::now(address, server, &readers)?);
        }
        if seen.to.is_none() && due >= WARM_UP + STALL {
            seen.to = Some(Mark::now(address, server, &readers)?);
            seen.resumed = now();
            read_on = true;
        }
        let stalling = seen.is_stalling();
        if stalling {
            seen.most = seen.most.max(resident(server)?);
        }
        for event in &events {
            let Some(reader) = readers.get_mut(event.token().0) else {
                read_on |= reads;
                continue;
            };
            let open = reader.read(&mut buffer, |update, now| {
                began.get_or_insert(update.due);
                if stalling {
                    seen.ages.saturating_record(now.saturating_sub(update.due));
                }
            })?;
            if !open {
                return Err("a healthy reader was disconnected: it was too slow".into());
            }
        }
        if let Some(slow) = slow.as_mut().filter(|_| read_on && !seen.lost) {
            seen.lost = !slow.read(&mut buffer, |update, now| {
                if recovering {
                    seen.take(update, now);
                }
            })?;
        }
        if due > TOTAL && events.is_empty() {
            let kept = readers.iter().chain(slow.as_ref().filter(|_| !seen.lost));
            let missing: u64 = kept.map(|reader| TOTAL - reader.updates()).sum();
            let page = page(address)?;
            is_over = is_fed && page["replaced"] == missing;
            is_fed = page["broadcast"] == TOTAL;
        }
    }
    if !readers.iter().chain(slow.as_ref().filter(|_| !seen.lost)).all(Reader::has_newest) {
        return Err("a newest update is missing".into());
    }
    seen.print(server, &readers, slow.as_ref())
}
