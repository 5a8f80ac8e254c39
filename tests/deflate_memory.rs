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

    /// What comes on this connection, once it is as it should be.
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
            self.wait(client, |bytes| bytes.len() > 2 && bytes.len() == 2 + usize::from(bytes[1]));
        }
    }
}

/// A message that is compressed to fewer than 126 bytes, so that its echo has a header of two.
fn frame() -> Vec<u8> {
    let mut payload = Vec::new();
    Deflater::new(1, 9).deflate("price 12.5, ".repeat(50).as_bytes(), false, &mut payload);
    assert!(payload.len() < 126);
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
}

/// Bytes that are allocated since `region` began and not freed, for each connection.
fn each(region: &Region<'_, System>) -> usize {
    let counted = region.change();
    counted.bytes_allocated.saturating_sub(counted.bytes_deallocated) / CONNECTIONS
}

/// What a connection costs before its first message and after it, in bytes.
fn cost(mode: Deflate) -> (usize, usize) {
    let frame = frame();
    let mut echo = Echo::start(mode);
    // The first connection pays for what all share.
    echo.connect();
    echo.talk(0, &frame);
    let region = Region::new(ALLOCATOR);
    (0..CONNECTIONS).for_each(|_| echo.connect());
    let before = each(&region);
    echo.talk(1, &frame);
    let after = each(&region);
    (before, after)
}

/// One test: the allocator counts for the whole process.
#[test]
fn a_connection_costs_what_its_mode_promises() {
    for (name, mode, at_most) in [
        ("shared", Deflate::shared(), 320),
        ("dedicated", Deflate::dedicated(), 420 * KIB),
        (
            "dedicated, window bits 12",
            Deflate::dedicated().server_window_bits(12).client_window_bits(12),
            310 * KIB,
        ),
        (
            "dedicated, window bits 9",
            Deflate::dedicated().server_window_bits(9).client_window_bits(9),
            310 * KIB,
        ),
    ] {
        let (before, after) = cost(mode);
        println!(
            "live heap per connection, {name}: {before} bytes before a message, {after} after one each way"
        );
        assert!(before <= 320, "{name}: {before}");
        assert!(after <= at_most, "{name}: {after}");
    }
}
