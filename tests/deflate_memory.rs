//! What permessage-deflate costs a connection in each mode: live heap, counted by the allocator.
#![cfg(feature = "deflate")]

use std::alloc::System;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use ikisocket::protocol::{Deflater, FrameHeader, Opcode, apply_mask};
use ikisocket::{Deflate, Event, RouteOptions, Server};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const CONNECTIONS: usize = 50;
const KIB: usize = 1024;
/// Messages of 1 KiB each way: more than the largest window holds.
const MESSAGES: usize = 40;
const PATIENCE: Duration = Duration::from_secs(10);

const REQUEST: &[u8] =
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
    Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";

/// An echo server with clients that agreed on compression.
struct Echo {
    server: Server<()>,
    clients: Vec<TcpStream>,
}

impl Echo {
    fn start(mode: Deflate) -> Self {
        let mut server = Server::builder().deflate(mode).build(()).unwrap();
        server.listen("127.0.0.1:0").unwrap();
        let route =
            server.route_with("/ws", RouteOptions::default().forget_request(), |(), _| {}).unwrap();
        route.on(Event::Message, |(), ep| {
            ep.kws.emit(ep.data);
        });
        Self { server, clients: Vec::with_capacity(CONNECTIONS + 1) }
    }

    fn connect(&mut self) {
        let mut client = TcpStream::connect(self.server.local_addr().unwrap()).unwrap();
        client.set_nonblocking(true).unwrap();
        client.write_all(REQUEST).unwrap();
        self.clients.push(client);
        self.wait(self.clients.len() - 1, |bytes| bytes.ends_with(b"\r\n\r\n"));
    }

    /// Reads what comes on this connection until it is whole.
    fn wait(&mut self, client: usize, is_all: impl Fn(&[u8]) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        let (mut bytes, mut length) = ([0; 4096], 0);
        while !is_all(&bytes[..length]) {
            assert!(Instant::now() < deadline, "no answer");
            self.server.poll(Some(Duration::from_millis(1))).unwrap();
            match self.clients[client].read(&mut bytes[length..]) {
                Ok(read) => length += read,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
    }

    /// One message and its echo on each connection from `first` on.
    fn talk(&mut self, first: usize, frame: &[u8]) {
        for client in first..self.clients.len() {
            self.clients[client].write_all(frame).unwrap();
            self.wait(client, is_frame);
        }
    }
}

/// Whether a server's frame is there as a whole.
fn is_frame(bytes: &[u8]) -> bool {
    match *bytes {
        [_, 126, high, low, ..] => bytes.len() == 4 + usize::from(high) * 256 + usize::from(low),
        [_, len, ..] => len < 126 && bytes.len() == 2 + usize::from(len),
        _ => false,
    }
}

/// Messages of 1 KiB each, as frames of one client.
fn frames(mode: &Mode) -> Vec<Vec<u8>> {
    let mut deflater = Deflater::new(6, mode.client_bits);
    let mut seed = 7_u32;
    let mut frame = |_: usize| {
        let mut message = String::new();
        while message.len() < KIB {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            message += &format!("price {}.{:02}, ", seed >> 20, (seed >> 8) % 100);
        }
        let mut payload = Vec::new();
        deflater.deflate(&message.as_bytes()[..KIB], mode.keeps_context, &mut payload);
        let key = [1, 2, 3, 4];
        let header = FrameHeader {
            rsv1: true,
            mask: Some(key),
            ..FrameHeader::new(Opcode::Text, payload.len() as u64)
        };
        let mut frame = Vec::new();
        header.encode(&mut frame);
        apply_mask(&mut payload, key, 0);
        frame.extend(payload);
        frame
    };
    (0..MESSAGES).map(&mut frame).collect()
}

/// Bytes that are allocated since `region` began and not freed, for each connection.
fn each(region: &Region<'_, System>) -> usize {
    let counted = region.change();
    counted.bytes_allocated.saturating_sub(counted.bytes_deallocated) / CONNECTIONS
}

/// What a connection costs, in bytes: before its first message, after one each way, and after
/// all.
fn cost(mode: &Mode) -> [usize; 3] {
    let frames = frames(mode);
    let mut echo = Echo::start(mode.deflate);
    // The first connection pays for what all share.
    echo.connect();
    frames.iter().for_each(|frame| echo.talk(0, frame));
    let region = Region::new(ALLOCATOR);
    (0..CONNECTIONS).for_each(|_| echo.connect());
    let before = each(&region);
    echo.talk(1, &frames[0]);
    let one = each(&region);
    frames[1..].iter().for_each(|frame| echo.talk(1, frame));
    [before, one, each(&region)]
}

struct Mode {
    name: &'static str,
    deflate: Deflate,
    /// What the client does.
    keeps_context: bool,
    client_bits: u8,
    /// What a connection may cost after one message each way, and after all, in bytes.
    after_one: usize,
    after_all: usize,
}

/// One test: the allocator counts for the whole process.
#[test]
fn a_connection_costs_what_its_mode_promises() {
    let dedicated = |name, deflate: Deflate, client_bits, after_all: usize| Mode {
        name,
        deflate,
        keeps_context: true,
        client_bits,
        after_one: after_all.min(4 * KIB),
        after_all,
    };
    for mode in [
        Mode {
            name: "shared",
            deflate: Deflate::shared(),
            keeps_context: false,
            client_bits: 15,
            after_one: 160,
            after_all: 160,
        },
        dedicated("dedicated", Deflate::dedicated(), 15, 49 * KIB),
        dedicated(
            "dedicated, the largest windows",
            Deflate::dedicated().server_window_bits(15),
            15,
            65 * KIB,
        ),
        dedicated(
            "dedicated, window bits 12",
            Deflate::dedicated().server_window_bits(12).client_window_bits(12),
            12,
            9 * KIB,
        ),
        dedicated(
            "dedicated, window bits 9",
            Deflate::dedicated().server_window_bits(9).client_window_bits(9),
            9,
            2 * KIB,
        ),
    ] {
        let (name, [before, one, all]) = (mode.name, cost(&mode));
        println!(
            "live heap per connection, {name}: {before} bytes before a message, {one} after one \
             of 1 KiB each way, {all} after {MESSAGES}"
        );
        assert!(before <= 160, "{name}: {before}");
        assert!(one <= mode.after_one, "{name}: {one}");
        assert!(all <= mode.after_all, "{name}: {all}");
    }
}
