//! Window × level × memory level of connections that keep their context: what a message costs,
//! what is saved, and what a connection holds, with a compressor for each connection and with one
//! for all. The tables of `benches/limit/COMPRESSION.md`, in three minutes:
//!
//! ```sh
//! cargo bench --bench compression --features deflate
//! ```
//!
//! It uses zlib-rs itself, because `ikisocket` does not have all of these settings. What it calls
//! the library's way is done as in `src/protocol/deflate.rs` and `src/outbox/compression.rs`.

use std::alloc::System;
use std::hint::black_box;
use std::time::Instant;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use zlib_rs::{Deflate, DeflateConfig, DeflateFlush, Inflate, InflateFlush};

#[path = "micro/quotes.rs"]
mod quotes;
// The library's own, which is not public. Not all of it is used here, and its tests do not run.
#[allow(dead_code, unused_imports)]
#[path = "../src/protocol/window.rs"]
mod window;

use window::Window;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const KIB: usize = 1024;
/// Connections that send in turn, so that each finds its compressor as cold as in a server.
const MANY: usize = 100;
/// Each way is measured this often, in turn with the others; the best counts.
const PASSES: usize = 45;
/// Messages of all connections in a pass, at least: few, so that it may get its core for itself.
const IN_PASS: usize = 100;
/// Different messages, so that none comes again while a window holds it.
const DIFFERENT: usize = 20 * KIB * KIB;
const LEVELS: [i32; 4] = [1, 2, 3, 6];
const WINDOWS: std::ops::RangeInclusive<u8> = 9..=15;
/// Connections whose windows fit into no cache.
const CROWD: usize = 5000;
/// Different streams of messages that a crowd gets.
const STREAMS: usize = 100;
/// zlib's default.
const MEM_LEVEL: i32 = 8;
/// The defaults of `Deflate::dedicated()`.
const LEVEL: i32 = 2;
const BITS: u8 = 14;

fn main() {
    // `cargo test` and `cargo bench -- --test` only want to know that it runs.
    let quick = std::env::args().any(|argument| argument == "--test");
    let quotes = Quotes::new(KIB);
    println!("Quotes in JSON of 1 KiB; microseconds for a message, best of {PASSES}.\n");
    println!(
        "| level | window | own compressor, 1 connection | {MANY} | saved | held | shared, whole \
         window, {MANY} | saved | shared, newest 2 KiB, {MANY} | saved | held |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for level in LEVELS {
        for bits in WINDOWS {
            let settings = Settings { level, bits, mem_level: MEM_LEVEL };
            let [alone] = measure(&quotes, 1, [Box::new(Own::new(settings, 1))]);
            let [own, whole, newest] = three_ways(&quotes, settings);
            println!(
                "| {level} | {bits} | {:.1} | {:.1} | {:.1} % | {} | {:.1} | {:.1} % | {:.1} | \
                 {:.1} % | {} |",
                alone.micros,
                own.micros,
                own.saved,
                kib(own.held),
                whole.micros,
                whole.saved,
                newest.micros,
                newest.saved,
                kib(newest.held)
            );
            if quick {
                return;
            }
        }
    }

    println!("\nThe same at level {LEVEL} with other memory levels (`memLevel`).\n");
    println!(
        "| window | memLevel | own compressor, {MANY} | saved | held | shared, {MANY} | saved | the loop's compressor |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for bits in [9, 12, BITS, 15] {
        for mem_level in [1, 5, MEM_LEVEL, 9] {
            let settings = Settings { level: LEVEL, bits, mem_level };
            let [own, _, newest] = three_ways(&quotes, settings);
            println!(
                "| {bits} | {mem_level} | {:.1} | {:.1} % | {} | {:.1} | {:.1} % | {} |",
                own.micros,
                own.saved,
                kib(own.held),
                newest.micros,
                newest.saved,
                kib(own.held)
            );
        }
    }

    println!("\nOther lengths, with the defaults: level {LEVEL}, window {BITS}.\n");
    println!(
        "| length | own compressor, {MANY} | saved | shared, whole window, {MANY} | saved | shared, newest 2 KiB or twice the length, {MANY} | saved |"
    );
    println!("|---|---|---|---|---|---|---|");
    for len in [200, KIB, 4 * KIB, 16 * KIB] {
        let settings = Settings { level: LEVEL, bits: BITS, mem_level: MEM_LEVEL };
        let [own, whole, newest] = three_ways(&Quotes::new(len), settings);
        println!(
            "| {len} | {:.1} | {:.1} % | {:.1} | {:.1} % | {:.1} | {:.1} % |",
            own.micros, own.saved, whole.micros, whole.saved, newest.micros, newest.saved
        );
    }

    println!("\nDecompression of 1 KiB, compressed at level 6.\n");
    println!(
        "| window | own decompressor, 1 connection | {MANY} | held | shared, 1 | {MANY} | held |"
    );
    println!("|---|---|---|---|---|---|---|");
    for bits in WINDOWS {
        let [own_alone, shared_alone] = inflate_both_ways(&quotes, bits, 1);
        let [own, shared] = inflate_both_ways(&quotes, bits, MANY);
        println!(
            "| {bits} | {:.1} | {:.1} | {} | {:.1} | {:.1} | {} |",
            own_alone.micros,
            own.micros,
            kib(own.held),
            shared_alone.micros,
            shared.micros,
            kib(shared.held)
        );
    }

    println!("\nDecompression for {CROWD} connections.\n");
    println!("| window | length | own decompressor | shared |");
    println!("|---|---|---|---|");
    for bits in [12, BITS, 15] {
        for len in [200, KIB] {
            let [own, shared] = inflate_both_ways(&Quotes::new(len), bits, CROWD);
            println!("| {bits} | {len} | {:.1} | {:.1} |", own.micros, shared.micros);
        }
    }
}

struct Quotes {
    messages: Vec<Vec<u8>>,
    len: usize,
}

impl Quotes {
    fn new(len: usize) -> Self {
        Self { messages: quotes::quotes(len, DIFFERENT / len), len }
    }

    fn message(&self, number: usize) -> &[u8] {
        &self.messages[number % self.messages.len()]
    }
}

#[derive(Clone, Copy)]
struct Settings {
    level: i32,
    bits: u8,
    mem_level: i32,
}

impl Settings {
    fn compressor(self) -> Deflate {
        Deflate::new_with_config(DeflateConfig {
            level: self.level,
            window_bits: -i32::from(self.bits),
            mem_level: self.mem_level,
            ..DeflateConfig::default()
        })
    }
}

/// A way to serve some connections.
trait Way {
    /// Takes the next message of a connection; how long what came out is.
    fn take(&mut self, connection: usize, message: &[u8]) -> usize;
}

/// A compressor for each connection.
struct Own {
    compressors: Vec<Deflate>,
    out: Vec<u8>,
}

impl Own {
    fn new(settings: Settings, connections: usize) -> Self {
        let compressors = (0..connections).map(|_| settings.compressor()).collect();
        Self { compressors, out: Vec::new() }
    }
}

impl Way for Own {
    fn take(&mut self, connection: usize, message: &[u8]) -> usize {
        compress(&mut self.compressors[connection], message, &mut self.out)
    }
}

/// One compressor, which begins behind the connection's window.
struct Shared {
    compressor: Deflate,
    windows: Vec<Window>,
    /// To how many of the newest bytes a message of a length refers.
    reach: fn(usize) -> usize,
    out: Vec<u8>,
}

impl Shared {
    fn new(settings: Settings, connections: usize, reach: fn(usize) -> usize) -> Self {
        let windows = (0..connections).map(|_| Window::new(settings.bits)).collect();
        Self { compressor: settings.compressor(), windows, reach, out: Vec::new() }
    }
}

impl Way for Shared {
    fn take(&mut self, connection: usize, message: &[u8]) -> usize {
        let window = &mut self.windows[connection];
        self.compressor.reset();
        for known in window.newest((self.reach)(message.len())) {
            self.compressor.set_dictionary(known).expect("a stream without a header");
        }
        let len = compress(&mut self.compressor, message, &mut self.out);
        window.remember(message);
        len
    }
}

/// The length of what the library would send.
fn compress(compressor: &mut Deflate, message: &[u8], out: &mut Vec<u8>) -> usize {
    out.resize(message.len() + 1000, 0);
    let before = compressor.total_out();
    compressor.compress(message, out, DeflateFlush::SyncFlush).expect("compressing cannot fail");
    (compressor.total_out() - before) as usize - 4
}

#[derive(Clone, Copy, Default)]
struct Figures {
    micros: f64,
    /// Per cent.
    saved: f64,
    /// Bytes for each connection.
    held: usize,
}

fn three_ways(quotes: &Quotes, settings: Settings) -> [Figures; 3] {
    let (own, own_held) = counted(|| Own::new(settings, MANY));
    let whole = Shared::new(settings, MANY, |_| usize::MAX);
    let newest = Shared::new(settings, MANY, |len| (2 * len).max(2 * KIB));
    let mut figures = measure(quotes, MANY, [Box::new(own), Box::new(whole), Box::new(newest)]);
    figures[0].held = own_held / MANY;
    figures[2].held = 1 << settings.bits;
    figures
}

/// Has every connection take messages in turn, by each way: until the windows are full, and then
/// so often that it can be measured.
fn measure<const WAYS: usize>(
    quotes: &Quotes,
    connections: usize,
    mut ways: [Box<dyn Way>; WAYS],
) -> [Figures; WAYS] {
    let mut next = 0;
    let round = |way: &mut dyn Way, rounds: usize, from: &mut usize| -> usize {
        let mut given = 0;
        for _ in 0..rounds {
            for connection in 0..connections {
                given += way.take(connection, quotes.message(*from));
                *from += 1;
            }
        }
        given
    };
    for way in &mut ways {
        let mut from = 0;
        round(&mut **way, to_fill(quotes), &mut from);
        next = from;
    }
    let rounds = IN_PASS.div_ceil(connections);
    let (mut nanos, mut given) = ([const { Vec::new() }; WAYS], [0; WAYS]);
    for _ in 0..PASSES {
        let mut after = next;
        for (at, way) in ways.iter_mut().enumerate() {
            after = next;
            let start = Instant::now();
            given[at] += round(&mut **way, rounds, &mut after);
            nanos[at].push(start.elapsed().as_nanos() as f64 / (rounds * connections) as f64);
        }
        next = after;
    }
    std::array::from_fn(|at| {
        let sent = (PASSES * rounds * connections * quotes.len) as f64;
        Figures {
            micros: best(&nanos[at]) / 1000.0,
            saved: 100.0 - 100.0 * given[at] as f64 / sent,
            held: 0,
        }
    })
}

/// A decompressor for each connection, beside one that begins behind the connection's window. Both
/// keep that window: it outlives the end of a stream (BFINAL).
fn inflate_both_ways(quotes: &Quotes, bits: u8, connections: usize) -> [Figures; 2] {
    let streams = connections.min(STREAMS);
    let per_pass = IN_PASS.div_ceil(connections);
    let to_fill = to_fill(quotes);
    let mut compressors = Own::new(Settings { level: 6, bits, mem_level: MEM_LEVEL }, streams);
    // What connections take in each round; in a crowd some have equal messages.
    let rounds: Vec<Vec<Vec<u8>>> = (0..to_fill + PASSES * per_pass)
        .map(|round| {
            let wire = |stream| {
                let len = compressors.take(stream, quotes.message(round * streams + stream));
                compressors.out[..len].to_vec()
            };
            (0..streams).map(wire).collect()
        })
        .collect();
    let windows = || -> Vec<_> { (0..connections).map(|_| Window::new(bits)).collect() };
    let (mut own, held) =
        counted(|| -> Vec<_> { (0..connections).map(|_| Inflate::new(false, bits)).collect() });
    let (mut own_windows, mut shared_windows) = (windows(), windows());
    let mut shared = Inflate::new(false, bits);
    let mut out = vec![0; quotes.len + 100];
    let mut nanos = [const { Vec::new() }; 2];
    let (filling, measured) = rounds.split_at(to_fill);
    for (at, pass) in [filling].into_iter().chain(measured.chunks(per_pass)).enumerate() {
        let messages = || {
            pass.iter().flat_map(|wires| {
                (0..connections).map(|connection| (connection, &wires[connection % streams]))
            })
        };
        let start = Instant::now();
        for (connection, wire) in messages() {
            let len = inflate(&mut own[connection], wire, &mut out);
            own_windows[connection].remember(&out[..len]);
        }
        let between = Instant::now();
        for (connection, wire) in messages() {
            let window = &mut shared_windows[connection];
            shared.reset(false);
            for known in window.newest(usize::MAX) {
                shared.set_dictionary(known).expect("a stream without a header");
            }
            let len = inflate(&mut shared, wire, &mut out);
            assert_eq!(len, quotes.len);
            window.remember(&out[..len]);
        }
        if at > 0 {
            let each = |nanos: u128| nanos as f64 / (pass.len() * connections) as f64;
            nanos[0].push(each((between - start).as_nanos()));
            nanos[1].push(each(between.elapsed().as_nanos()));
        }
    }
    let [own, shared] = nanos.each_ref().map(|nanos| best(nanos) / 1000.0);
    let window = 1 << bits;
    [
        Figures { micros: own, held: held / connections + window, saved: 0.0 },
        Figures { micros: shared, held: window, saved: 0.0 },
    ]
}

/// Messages after which every window is full.
fn to_fill(quotes: &Quotes) -> usize {
    40 * KIB / quotes.len + 1
}

/// The length of what comes out.
fn inflate(decompressor: &mut Inflate, wire: &[u8], out: &mut [u8]) -> usize {
    let before = decompressor.total_out();
    for input in [wire, &[0x00, 0x00, 0xff, 0xff]] {
        let given = (decompressor.total_out() - before) as usize;
        let status = decompressor.decompress(input, &mut out[given..], InflateFlush::SyncFlush);
        black_box(status.expect("a good stream"));
    }
    (decompressor.total_out() - before) as usize
}

/// What is made, and the bytes of it that are allocated.
fn counted<T>(make: impl FnOnce() -> T) -> (T, usize) {
    let region = Region::new(ALLOCATOR);
    let made = make();
    let counted = region.change();
    (made, counted.bytes_allocated - counted.bytes_deallocated)
}

fn best(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

fn kib(bytes: usize) -> String {
    match bytes {
        ..KIB => format!("{:.1} KiB", bytes as f64 / KIB as f64),
        _ => format!("{:.0} KiB", bytes as f64 / KIB as f64),
    }
}
