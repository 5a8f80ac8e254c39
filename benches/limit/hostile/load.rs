//! The hostile clients, and beside them one that asks for an echo again and again and notes how
//! long that takes.

use std::error::Error;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use ikisocket::protocol::{FrameHeader, Opcode};
use serde_json::{Value, json};
use socket2::SockRef;

use super::server::Delays;

/// How long loads without end last.
pub const DURATION: Duration = Duration::from_secs(4);
/// How often loads are made that are over at once.
const ROUNDS: usize = 3;
/// Between two echoes that are asked for.
pub const PAUSE: Duration = Duration::from_micros(300);
/// Nothing here takes longer.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How long the loads wait for sent bytes to arrive.
pub const A_WHILE: Duration = Duration::from_millis(300);
const HEADS: usize = 1500;
/// No head may be longer.
const HEAD: usize = 16 * 1024;
const LEAVERS: usize = 1000;
const BURST: usize = 40_000;
/// What is sent in one go, at least, in bytes.
const CHUNK: usize = 64 * 1024;

/// Makes the load of this name on the server at `address`, which is the process `server`, and
/// prints what there was to see.
pub fn make(name: &str, address: &str, server: &str) -> Result<(), Box<dyn Error>> {
    #[cfg(feature = "_tls")]
    if name.starts_with("tls-") {
        let secure = figures(address, "/figures")?["tls"].as_str().unwrap_or_default().to_owned();
        let stream = Box::new(super::secure::connect(&secure, "/echo")?);
        let quiet = Quiet::begin(stream, address, server.to_owned())?;
        super::secure::make(name, &secure, &quiet)?;
        return print(quiet, address);
    }
    let quiet = Quiet::begin(Box::new(connect(address, "/echo")?), address, server.to_owned())?;
    match name {
        "nothing" => flood(&quiet, address, 0, b"")?,
        "texts" => flood(&quiet, address, 100, &frame(Opcode::Text, false, b""))?,
        "pings" => flood(&quiet, address, 100, &frame(Opcode::Ping, false, b""))?,
        "bytes" => flood(&quiet, address, 100, &frame(Opcode::Text, false, b"x"))?,
        "bursts" => bursts(&quiet, address)?,
        "bombs" => flood(&quiet, address, 100, &frame(Opcode::Binary, true, &bomb()?))?,
        "blocks" => flood(&quiet, address, 20, &frame(Opcode::Binary, true, &empty_blocks()))?,
        "commas" => heads(
            &quiet,
            address,
            "/echo",
            &[&b"Connection: "[..], &b",".repeat(HEAD - 256)[..]].concat(),
        )?,
        "headers" => {
            heads(&quiet, address, "/echo", &[&b"a:\r\n".repeat(4000)[..], b"b:"].concat())?
        }
        "escapes" => {
            heads(&quiet, address, &format!("/{}", "%41".repeat((HEAD - 256) / 3)), b"a:")?
        }
        "leavers" => leavers(&quiet, address)?,
        "closed" => closed(&quiet, address)?,
        _ => return Err(format!("there is no load {name}").into()),
    }
    print(quiet, address)
}

/// Prints what there was to see.
fn print(quiet: Quiet, address: &str) -> Result<(), Box<dyn Error>> {
    let waits = quiet.end()?;
    let turn = figures(address, "/figures")?["longest"].as_f64();
    let ms = |nanos: u64| nanos as f64 / 1e6;
    let (p50, p99) = (waits.value_at_quantile(0.5), waits.value_at_quantile(0.99));
    let most = ms(waits.max());
    println!(
        "{}",
        json!({ "p50": ms(p50), "p99": ms(p99), "most": most, "turn": turn, "echoes": waits.len() })
    );
    Ok(())
}

/// The client that is not hostile, on a thread of its own.
pub struct Quiet {
    state: Arc<AtomicU8>,
    thread: JoinHandle<Result<Histogram<u64>, String>>,
    address: String,
}

/// A stream that blocks, plain or over TLS.
pub trait Duplex: Read + Write + Send {}

impl<T: Read + Write + Send> Duplex for T {}

const IDLE: u8 = 0;
const MEASURING: u8 = 1;
const OVER: u8 = 2;

impl Quiet {
    fn begin(
        mut stream: Box<dyn Duplex>,
        address: &str,
        server: String,
    ) -> Result<Self, Box<dyn Error>> {
        let state = Arc::new(AtomicU8::new(IDLE));
        let shared = state.clone();
        let thread = thread::spawn(move || {
            let mut waits = Histogram::new_with_bounds(1, PATIENCE.as_nanos() as u64, 3)
                .map_err(|e| e.to_string())?;
            let question = frame(Opcode::Binary, false, &[7; 20]);
            // That it waits for its own core is the load's doing, and that the server does is
            // another process's.
            let (own, servers) = (Delays::of("thread-self"), Delays::of(&server));
            let delays = || own.total() + servers.total();
            while shared.load(Ordering::Relaxed) != OVER {
                let counts = shared.load(Ordering::Relaxed) == MEASURING;
                let (before, asked) = (delays(), Instant::now());
                stream.write_all(&question).map_err(|e| format!("the quiet client: {e}"))?;
                stream
                    .read_exact(&mut [0; 2 + 20])
                    .map_err(|e| format!("the quiet client: {e}"))?;
                if counts {
                    let waited = asked.elapsed().saturating_sub(delays() - before);
                    waits.saturating_record(waited.as_nanos() as u64);
                }
                thread::sleep(PAUSE);
            }
            Ok(waits)
        });
        Ok(Self { state, thread, address: address.to_owned() })
    }

    /// What happens in `load` counts.
    pub fn measure(
        &self,
        load: impl FnOnce() -> Result<(), Box<dyn Error>>,
    ) -> Result<(), Box<dyn Error>> {
        self.state.store(MEASURING, Ordering::Relaxed);
        load()?;
        self.state.store(IDLE, Ordering::Relaxed);
        figures(&self.address, "/end")?;
        Ok(())
    }

    /// What has happened to the server until now does not count.
    pub fn ready(&self) -> Result<(), Box<dyn Error>> {
        thread::sleep(A_WHILE);
        figures(&self.address, "/begin")?;
        Ok(())
    }

    fn end(self) -> Result<Histogram<u64>, Box<dyn Error>> {
        self.state.store(OVER, Ordering::Relaxed);
        Ok(self.thread.join().map_err(|_| "the quiet client panicked")??)
    }
}

// The loads.

/// Connections that send the same message without end and drop what they get. Those that the server
/// closes for it come again.
fn flood(quiet: &Quiet, address: &str, count: usize, message: &[u8]) -> Result<(), Box<dyn Error>> {
    let mut flooders =
        (0..count).map(|_| Flooder::connect(address, "/hostile")).collect::<Result<Vec<_>, _>>()?;
    let chunk = message.repeat(CHUNK.div_ceil(message.len().max(1)));
    quiet.ready()?;
    quiet.measure(|| flood_on(&mut flooders, &chunk, || Flooder::connect(address, "/hostile")))
}

/// Connections that have nothing to send for a while, and then all a lot at once.
fn bursts(quiet: &Quiet, address: &str) -> Result<(), Box<dyn Error>> {
    let mut peers =
        (0..100).map(|_| connect(address, "/hostile")).collect::<Result<Vec<_>, _>>()?;
    let burst = frame(Opcode::Text, false, b"").repeat(BURST);
    quiet.ready()?;
    quiet.measure(|| {
        let began = Instant::now();
        while began.elapsed() < DURATION {
            peers.iter_mut().try_for_each(|peer| peer.write_all(&burst))?;
            thread::sleep(A_WHILE / 10);
        }
        Ok(())
    })
}

/// Requests that lack their last bytes, which then come at once.
fn heads(quiet: &Quiet, address: &str, path: &str, headers: &[u8]) -> Result<(), Box<dyn Error>> {
    let head = [request(path).as_bytes(), headers].concat();
    for _ in 0..ROUNDS {
        let mut peers = Vec::new();
        for _ in 0..HEADS {
            let mut peer = TcpStream::connect(address)?;
            peer.set_nodelay(true)?;
            peer.set_read_timeout(Some(PATIENCE))?;
            peer.write_all(&head)?;
            peers.push(peer);
        }
        quiet.ready()?;
        quiet.measure(|| {
            peers.iter_mut().try_for_each(|peer| peer.write_all(b"\r\n\r\n"))?;
            peers.iter_mut().try_for_each(|peer| peer.read_exact(&mut [0]))?;
            Ok(())
        })?;
    }
    Ok(())
}

/// Connections that are in many topics and end together.
fn leavers(quiet: &Quiet, address: &str) -> Result<(), Box<dyn Error>> {
    for round in 0..ROUNDS {
        let peers =
            (0..LEAVERS).map(|_| connect(address, "/topics")).collect::<Result<Vec<_>, _>>()?;
        quiet.ready()?;
        quiet.measure(|| {
            if round % 2 == 1 {
                // Reset, the others by FIN.
                peers
                    .iter()
                    .try_for_each(|peer| SockRef::from(peer).set_linger(Some(Duration::ZERO)))?;
            }
            drop(peers);
            let gone = (round + 1) * LEAVERS;
            let began = Instant::now();
            while figures(address, "/figures")?["left"].as_u64() < Some(gone as u64) {
                if began.elapsed() > PATIENCE {
                    return Err("not all that left were noticed".into());
                }
                thread::sleep(PAUSE);
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Connections that are closed with 1008 and go on sending; where one is cut off another comes.
fn closed(quiet: &Quiet, address: &str) -> Result<(), Box<dyn Error>> {
    let chunk = frame(Opcode::Text, false, b"").repeat(CHUNK / 6);
    let begin = || -> Result<Flooder, Box<dyn Error>> {
        let mut flooder = Flooder::connect(address, "/close")?;
        flooder.send(&frame(Opcode::Text, false, b"close me"))?;
        Ok(flooder)
    };
    let mut flooders = (0..5).map(|_| begin()).collect::<Result<Vec<_>, _>>()?;
    quiet.ready()?;
    quiet.measure(|| flood_on(&mut flooders, &chunk, begin))
}

/// Sends a chunk again and again from all, for a while. One that the server closes comes again.
fn flood_on(
    flooders: &mut [Flooder],
    chunk: &[u8],
    connect: impl Fn() -> Result<Flooder, Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let began = Instant::now();
    while began.elapsed() < DURATION {
        let mut sent = 0;
        for flooder in &mut *flooders {
            match flooder.send(chunk) {
                Ok(more) => sent += more,
                Err(_) => *flooder = connect()?,
            }
        }
        rest(sent);
    }
    Ok(())
}

/// Waits a little if nothing could be sent.
fn rest(sent: usize) {
    if sent == 0 {
        thread::sleep(Duration::from_micros(100));
    }
}

struct Flooder {
    stream: TcpStream,
    /// Where the chunk goes on.
    at: usize,
}

impl Flooder {
    fn connect(address: &str, path: &str) -> Result<Self, Box<dyn Error>> {
        let stream = connect(address, path)?;
        stream.set_nonblocking(true)?;
        Ok(Self { stream, at: 0 })
    }

    /// Sends what the socket takes of a chunk, which begins again where it ends; how much that was.
    fn send(&mut self, chunk: &[u8]) -> std::io::Result<usize> {
        loop {
            match self.stream.read(&mut [0; 16 * 1024]) {
                Ok(1..) => {}
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        match self.stream.write(&chunk[self.at..]) {
            Ok(sent) => {
                self.at = (self.at + sent) % chunk.len();
                Ok(sent)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(error),
        }
    }
}

// Their messages.

/// One masked frame.
pub fn frame(opcode: Opcode, compressed: bool, payload: &[u8]) -> Vec<u8> {
    // A key of zeros masks nothing.
    let mut header =
        FrameHeader { mask: Some([0; 4]), ..FrameHeader::new(opcode, payload.len() as u64) };
    header.rsv1 = compressed;
    let mut frame = Vec::new();
    header.encode(&mut frame);
    frame.extend_from_slice(payload);
    frame
}

/// A message of 1 MiB of zeros, compressed.
#[cfg(feature = "deflate")]
fn bomb() -> Result<Vec<u8>, Box<dyn Error>> {
    let mut deflated = Vec::with_capacity(CHUNK);
    let mut compress = flate2::Compress::new(flate2::Compression::best(), false);
    compress.compress_vec(&vec![0; 1024 * 1024], &mut deflated, flate2::FlushCompress::Sync)?;
    // The end of a message is taken off (RFC 7692 §7.2.1).
    deflated.truncate(deflated.len() - 4);
    Ok(deflated)
}

#[cfg(not(feature = "deflate"))]
fn bomb() -> Result<Vec<u8>, Box<dyn Error>> {
    Err("this load needs the feature deflate".into())
}

/// As many dynamic blocks as fit into a compressed message at the default `max_message`. Each says
/// at length how it is coded, and is empty (RFC 1951 §3.2.7).
fn empty_blocks() -> Vec<u8> {
    const LIMIT: usize = 1024 * 1024 / 8;
    let mut bits = Bits::default();
    while bits.bytes.len() < LIMIT {
        bits.put(0b100, 3); // Not the last; dynamic.
        bits.put(0, 5); // 257 codes of literals and lengths,
        bits.put(0, 5); // one of distances,
        // and 18 of code lengths. Two of these are used: "1", and "18", a run of zeros.
        bits.put(14, 4);
        for symbol in [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1] {
            bits.put(u32::from(symbol == 18 || symbol == 1), 3);
        }
        for run in [138, 118] {
            bits.put(1, 1); // "18"
            bits.put(run - 11, 7);
        }
        bits.put(0, 1); // The end of the block has a code of one bit,
        bits.put(0, 1); // and so has a distance.
        bits.put(0, 1); // The end of the block.
    }
    // An empty stored block, of which the end is taken off.
    bits.put(0, 3);
    bits.bytes
}

/// Bits from the lowest of each byte on.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    /// How many of the last byte are used; none means that it is full.
    used: u32,
}

impl Bits {
    fn put(&mut self, value: u32, count: u32) {
        for bit in 0..count {
            if self.used == 0 {
                self.bytes.push(0);
            }
            if let Some(last) = self.bytes.last_mut() {
                *last |= (((value >> bit) & 1) as u8) << self.used;
            }
            self.used = (self.used + 1) % 8;
        }
    }
}

// Their connections.

/// A request for an upgrade, without its end.
pub fn request(path: &str) -> String {
    let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{upgrade}\r\n")
}

/// A connection that is upgraded.
fn connect(address: &str, path: &str) -> Result<TcpStream, Box<dyn Error>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "{}Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n", request(path))?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0]; // One at a time: what follows the head is a frame.
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    if !head.starts_with(b"HTTP/1.1 101 ") {
        return Err(format!("no upgrade: {}", String::from_utf8_lossy(&head)).into());
    }
    Ok(stream)
}

/// The text of a page of the server.
fn figures(address: &str, path: &str) -> Result<Value, Box<dyn Error>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n")?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    let body = response.split("\r\n\r\n").nth(1).ok_or("no page")?;
    Ok(serde_json::from_str(body)?)
}
