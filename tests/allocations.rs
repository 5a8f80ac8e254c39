//! No message allocates once the server has warmed up: echo, `emit_to`, broadcast and publish (a
//! counting allocator sees the whole process, and the clients here allocate nothing either).

use std::alloc::System;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use ikisocket::protocol::{FrameHeader, Opcode, apply_mask, encode_frame};
use ikisocket::{Event, Server, Uuid};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const ROUNDS: usize = 50;

fn server() -> Server<Vec<Uuid>> {
    let mut server = Server::bind("127.0.0.1:0", Vec::new()).unwrap();
    let routes = server.route("/echo", |all: &mut Vec<Uuid>, kws| all.push(kws.uuid())).unwrap();
    routes.on(Event::Message, |_, ep| {
        ep.kws.emit(ep.data);
    });
    let routes = server.route("/to", |all: &mut Vec<Uuid>, kws| all.push(kws.uuid())).unwrap();
    routes.on(Event::Message, |all, ep| {
        // To all connections by name and in turn, so that the frames of one connection are not side
        // by side.
        for _ in 0..2 {
            for &uuid in all.iter() {
                ep.kws.emit_to(uuid, ep.data).unwrap();
            }
        }
    });
    server.route("/all", |_, _| {}).unwrap().on(Event::Message, |_, ep| {
        ep.kws.broadcast_all(ep.data);
    });
    let routes = server.route("/topic", |_, kws| _ = kws.join("all").unwrap()).unwrap();
    routes.on(Event::Message, |_, ep| {
        ep.kws.publish_all("all", ep.data);
    });
    server
}

fn connect(server: &mut Server<Vec<Uuid>>, path: &str) -> TcpStream {
    let mut client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    client.set_nonblocking(true).unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    );
    client.write_all(request.as_bytes()).unwrap();
    let mut response = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(10);
    while !response.ends_with(b"\r\n\r\n") {
        assert!(Instant::now() < deadline, "no answer to the upgrade");
        server.poll(Some(Duration::from_millis(1))).unwrap();
        let mut bytes = [0; 1024];
        if let Ok(read) = client.read(&mut bytes) {
            response.extend_from_slice(&bytes[..read]);
        }
    }
    client
}

/// Every client sends its message; then the server is turned until each client has `expected`
/// bytes.
fn round(
    server: &mut Server<Vec<Uuid>>,
    clients: &mut [TcpStream],
    received: &mut [usize],
    message: &[u8],
    expected: usize,
) {
    received.fill(0);
    for client in clients.iter_mut() {
        client.write_all(message).unwrap();
    }
    let mut bytes = [0; 4096];
    let deadline = Instant::now() + Duration::from_secs(10);
    while received.iter().any(|&received| received < expected) {
        assert!(Instant::now() < deadline, "the answers are late");
        server.poll(Some(Duration::from_millis(1))).unwrap();
        for (client, received) in clients.iter_mut().zip(&mut *received) {
            while let Ok(read) = client.read(&mut bytes) {
                *received += read;
            }
        }
    }
    assert!(
        received.iter().all(|&received| received == expected),
        "{expected} were expected: {received:?}"
    );
}

#[test]
fn no_message_allocates_at_steady_state() {
    // With 80 clients each by name, more connections than a few need a queue of their own in one
    // turn.
    for (path, count, copies) in
        [("/echo", 20, 1), ("/to", 20, 40), ("/to", 80, 160), ("/all", 20, 20), ("/topic", 20, 20)]
    {
        for size in [20, 1024].into_iter().filter(|size| size * copies < 64 * 1024) {
            let mut server = server();
            let mut clients: Vec<_> = (0..count).map(|_| connect(&mut server, path)).collect();
            let payload = vec![b'x'; size];
            let key = [1, 2, 3, 4];
            let mut message = Vec::new();
            FrameHeader { mask: Some(key), ..FrameHeader::new(Opcode::Text, size as u64) }
                .encode(&mut message);
            let header = message.len();
            message.extend_from_slice(&payload);
            apply_mask(&mut message[header..], key, 0);
            let mut reply = Vec::new();
            encode_frame(Opcode::Text, &payload, &mut reply);
            let mut received = vec![0; count];
            for _ in 0..5 {
                round(&mut server, &mut clients, &mut received, &message, copies * reply.len());
            }
            let mut count = || {
                let region = Region::new(ALLOCATOR);
                for _ in 0..ROUNDS {
                    round(&mut server, &mut clients, &mut received, &message, copies * reply.len());
                }
                let counted = region.change();
                (counted.allocations, counted.reallocations)
            };
            // The thread that waits for the test may allocate once, when it begins to wait.
            assert_eq!(count().min(count()), (0, 0), "{path} with {size} bytes");
        }
    }
}
