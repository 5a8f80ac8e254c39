//! The cost of single steps, to compare two states of the code on one machine:
//! `cargo bench --bench micro`, about three minutes.
//!
//! ```sh
//! cargo bench --bench micro -- --save-baseline before # then change the code, and
//! cargo bench --bench micro -- --baseline before      # each figure with its change
//! cargo bench --bench micro -- broadcast              # one group only
//! cargo bench --bench micro --features deflate -- flate   # compression, with what each level saves
//! ```
//!
//! The figures say nothing about another machine, and little about a whole server: for that there
//! is `benches/limit`.

use std::hint::black_box;
use std::io::{Read, Write};
#[cfg(unix)]
use std::net::TcpListener;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use criterion::{Bencher, BenchmarkId, Criterion, Throughput};
use ikisocket::Server;
use ikisocket::http::accept_key;
use ikisocket::protocol::{Decoder, FrameHeader, Opcode, Role, Rules, apply_mask, encode_frame};
#[cfg(unix)]
use rustix::event::{PollFd, PollFlags, Timespec, poll};

#[cfg(feature = "deflate")]
#[path = "micro/deflate.rs"]
mod deflate;
#[path = "micro/heads.rs"]
mod heads;
#[cfg(feature = "deflate")]
#[path = "micro/quotes.rs"]
mod quotes;
#[path = "micro/resp.rs"]
mod resp;

const SIZES: [usize; 3] = [20, 1024, 16 * 1024];
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

fn main() {
    let mut criterion = Criterion::default()
        .without_plots()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    decode(&mut criterion);
    mask(&mut criterion);
    utf8(&mut criterion);
    encode(&mut criterion);
    broadcast(&mut criterion);
    publish(&mut criterion);
    dispatch(&mut criterion);
    timers(&mut criterion);
    accept(&mut criterion);
    heads::all(&mut criterion);
    resp::all(&mut criterion);
    #[cfg(feature = "deflate")]
    deflate::all(&mut criterion);
    criterion.final_summary();
}

/// What a server does with each message: header, unmasking, and UTF-8 if it is text.
fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode a client's frame");
    for (kind, opcode) in [("binary", Opcode::Binary), ("text", Opcode::Text)] {
        for size in SIZES {
            let mut frame = frame(opcode, true, &vec![b'x'; size]);
            group.throughput(Throughput::Bytes(size as u64));
            group.bench_function(BenchmarkId::new(kind, size), |b| {
                decode_whole(b, &mut frame, Role::Server)
            });
        }
    }
}

/// Masking from four beginnings, counted from a multiple of `LINE`: aligned; anywhere; and behind a
/// header of 6 bytes or of 8, as a payload lies in the receive buffer.
/// `cargo bench --bench limit -- --masks` shows what each build makes of it.
fn mask(criterion: &mut Criterion) {
    /// A cache line, in bytes.
    const LINE: usize = 64;
    let mut group = criterion.benchmark_group("mask");
    for size in SIZES {
        let mut buffer = vec![b'x'; size + 2 * LINE];
        let aligned = buffer.as_ptr().align_offset(LINE);
        group.throughput(Throughput::Bytes(size as u64));
        for offset in [0, 1, 6, 8] {
            let payload = &mut buffer[aligned + offset..][..size];
            group.bench_function(format!("{size} at {offset}"), |b| {
                b.iter(|| apply_mask(black_box(payload), black_box([1, 2, 3, 4]), 0));
            });
        }
    }
}

/// Frames without a mask: all that is left to do for a text is its header and UTF-8.
fn utf8(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("UTF-8 of an unmasked text frame");
    for (kind, sample) in [("ASCII", "Hello, world! "), ("non-ASCII", "Grüße, мир, 世界 🦀 ")]
    {
        for size in [64, 1024, 16 * 1024] {
            let mut text = sample.repeat(size / sample.len());
            text.extend(std::iter::repeat_n(' ', size - text.len()));
            let mut frame = frame(Opcode::Text, false, text.as_bytes());
            group.throughput(Throughput::Bytes(size as u64));
            group.bench_function(BenchmarkId::new(kind, size), |b| {
                decode_whole(b, &mut frame, Role::Client)
            });
        }
    }
}

fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode a server's frame");
    for size in SIZES {
        let payload = vec![b'x'; size];
        let mut out = Vec::new();
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| {
                out.clear();
                encode_frame(Opcode::Binary, black_box(&payload), &mut out);
                black_box(&out);
            });
        });
    }
}

/// One message of 64 bytes to all connections, until it is on the wire: the system calls are in it,
/// reading at the other end is not.
fn broadcast(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("broadcast 64 B and flush");
    let message = "x".repeat(64);
    let mut received = frame(Opcode::Text, false, message.as_bytes());
    for connections in [10, 200] {
        let mut server = server();
        let mut clients: Vec<_> = (0..connections).map(|_| connect(&mut server)).collect();
        group.throughput(Throughput::Elements(connections as u64));
        group.bench_function(BenchmarkId::new("connections", connections), |b| {
            b.iter_custom(|rounds| {
                let mut spent = Duration::ZERO;
                for _ in 0..rounds {
                    let start = Instant::now();
                    let reached = server.sockets().broadcast(&*message);
                    server.flush();
                    spent += start.elapsed();
                    assert_eq!(reached, connections);
                    for client in &mut clients {
                        client.read_exact(&mut received).unwrap();
                    }
                }
                spent
            });
        });
    }
}

/// The same to the members of a topic: connections that are in no topic cost nothing.
fn publish(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("publish 64 B among 200 connections and flush");
    let message = "x".repeat(64);
    let mut received = frame(Opcode::Text, false, message.as_bytes());
    for members in [1, 10, 200] {
        let mut server = server();
        let mut clients: Vec<_> = (0..200).map(|_| connect(&mut server)).collect();
        let mut sockets = server.sockets();
        for &uuid in &sockets.uuids()[..members] {
            sockets.get(uuid).unwrap().join("prices").unwrap();
        }
        group.throughput(Throughput::Elements(members as u64));
        group.bench_function(BenchmarkId::new("members", members), |b| {
            b.iter_custom(|rounds| {
                let mut spent = Duration::ZERO;
                for _ in 0..rounds {
                    let start = Instant::now();
                    let reached = server.sockets().publish("prices", &*message);
                    server.flush();
                    spent += start.elapsed();
                    assert_eq!(reached, members);
                    for client in &mut clients[..members] {
                        client.read_exact(&mut received).unwrap();
                    }
                }
                spent
            });
        });
    }
}

/// A custom event on one connection. Its listeners do as little as possible.
fn dispatch(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fire a custom event");
    for listeners in [1, 8] {
        let mut server = server();
        for _ in 0..listeners {
            server.on("work", |count, ep| *count += ep.data.as_bytes().len());
        }
        let _client = connect(&mut server);
        let (count, mut sockets) = server.lend();
        let uuid = sockets.uuids()[0];
        let mut socket = sockets.get(uuid).unwrap();
        group.throughput(Throughput::Elements(listeners as u64));
        group.bench_function(BenchmarkId::new("listeners", listeners), |b| {
            b.iter(|| {
                assert_eq!(socket.fire(count, black_box("work"), black_box("hello")), listeners)
            });
        });
    }
}

/// How punctual a timer is on a loop that does nothing else, and the cost of setting one.
fn timers(criterion: &mut Criterion) {
    let mut server = server();
    criterion.bench_function("a timer of 1 ms, from its setting to its call", |b| {
        b.iter(|| {
            let before = *server.state();
            server.set_timer(Duration::from_millis(1), |count, _| *count += 1);
            while *server.state() == before {
                server.poll(None).unwrap();
            }
        });
    });
    for seconds in 0..1000 {
        server.set_timer(Duration::from_secs(3600 + seconds), |_, _| {});
    }
    criterion.bench_function("set and cancel a timer beside 1000 others", |b| {
        let mut sockets = server.sockets();
        b.iter(|| {
            let id =
                sockets.set_timer(black_box(Duration::from_secs(4000)), |count, _| *count += 1);
            assert!(sockets.cancel(id));
        });
    });
}

fn accept(criterion: &mut Criterion) {
    criterion.bench_function("accept key", |b| b.iter(|| accept_key(black_box(KEY))));
    #[cfg(unix)]
    no_connection(criterion);
}

/// Two ways to find that no connection waits to be accepted.
#[cfg(unix)]
fn no_connection(criterion: &mut Criterion) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut group = criterion.benchmark_group("no connection waits");
    group.bench_function("accept(2)", |b| b.iter(|| listener.accept().unwrap_err()));
    group.bench_function("poll(2)", |b| {
        b.iter(|| {
            let mut listeners = [PollFd::new(&listener, PollFlags::IN)];
            assert_eq!(poll(&mut listeners, Some(&Timespec::default())), Ok(0));
        });
    });
}

/// Decodes one whole frame again and again.
fn decode_whole(bencher: &mut Bencher<'_>, frame: &mut [u8], role: Role) {
    let rules = Rules::default().role(role);
    let mut decoder = Decoder::new();
    bencher.iter(|| {
        let mut input = black_box(&mut *frame);
        black_box(decoder.decode(&mut input, black_box(&rules)).unwrap().unwrap());
    });
}

/// One frame. The key of a masked one leaves the payload as it is, so that it can be decoded again
/// and again; the work is that of any key.
fn frame(opcode: Opcode, masked: bool, payload: &[u8]) -> Vec<u8> {
    let header = FrameHeader {
        mask: masked.then_some([0; 4]),
        ..FrameHeader::new(opcode, payload.len() as u64)
    };
    let mut frame = Vec::new();
    header.encode(&mut frame);
    frame.extend_from_slice(payload);
    frame
}

/// A server with one route; its state is a count.
fn server() -> Server<usize> {
    let mut server = Server::bind("127.0.0.1:0", 0).unwrap();
    server.route("/ws", |_, _| {}).unwrap();
    server
}

/// One more WebSocket connection to the server, from this thread.
fn connect(server: &mut Server<usize>) -> TcpStream {
    let mut client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let request = format!(
        "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    );
    client.write_all(request.as_bytes()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    let open = server.sockets().len();
    while server.sockets().len() == open {
        assert!(Instant::now() < deadline, "no answer to the upgrade");
        server.poll(Some(Duration::from_millis(1))).unwrap();
    }
    let mut response = Vec::new();
    while !response.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        response.extend(byte);
    }
    client
}
