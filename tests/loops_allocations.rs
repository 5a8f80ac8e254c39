//! A short message to connections of other loops allocates nothing once the loops have warmed up,
//! and a long one is encoded once for all loops (a counting allocator sees the whole process, and
//! the clients here allocate nothing).

use std::alloc::System;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use ikisocket::protocol::{FrameHeader, Opcode, apply_mask, encode_frame};
use ikisocket::{BuildError, Builder, Event, Loops, Server, Shutdown};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const LOOPS: usize = 3;
const ROUNDS: usize = 50;

fn build(_: usize, builder: Builder) -> Result<Server<()>, BuildError> {
    let mut server = builder.build(())?;
    let route = server.route("/topic", |(), kws| assert_eq!(kws.join("all"), Ok(true)));
    route.expect("the pattern is valid").on(Event::Message, |(), ep| {
        ep.kws.sockets().everywhere().publish("all", ep.data);
    });
    let route = server.route("/all", |(), _| {}).expect("the pattern is valid");
    route.on(Event::Message, |(), ep| {
        ep.kws.sockets().everywhere().broadcast(ep.data);
    });
    Ok(server)
}

fn connect(address: SocketAddr, path: &str) -> TcpStream {
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    );
    client.write_all(request.as_bytes()).unwrap();
    let (mut response, mut byte) = (Vec::new(), [0]);
    while !response.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte).unwrap();
        response.push(byte[0]);
    }
    assert!(response.starts_with(b"HTTP/1.1 101 "));
    client
}

/// The least number of allocations that some of several times 50 messages caused.
fn allocations(path: &str, size: usize) -> usize {
    let loops = Loops::new(LOOPS).listen("127.0.0.1:0").unwrap();
    let running = loops.start(build).unwrap();
    let address = running.local_addr().unwrap();
    let mut clients: Vec<_> = (0..2 * LOOPS).map(|_| connect(address, path)).collect();
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
    let mut received = vec![0; reply.len()];
    let mut rounds = |count: usize| {
        let region = Region::new(ALLOCATOR);
        for round in 0..count {
            clients[round % (2 * LOOPS)].write_all(&message).unwrap();
            for client in &mut clients {
                client.read_exact(&mut received).unwrap();
                assert!(received == reply);
            }
        }
        let counted = region.change();
        counted.allocations + counted.reallocations
    };
    rounds(4 * ROUNDS);
    // Other threads of the process may allocate now and then: the supervisor, the test's own.
    let least = (0..5).map(|_| rounds(ROUNDS)).min().unwrap();
    drop(clients);
    running.handle().shutdown(Shutdown::default()).unwrap();
    running.join().unwrap();
    least
}

#[test]
fn a_short_message_allocates_nothing_and_a_long_one_one_shared_frame() {
    for path in ["/topic", "/all"] {
        for size in [0, 20, 1023] {
            assert_eq!(allocations(path, size), 0, "{path} with {size} bytes");
        }
        for size in [1024, 5000, 70_000] {
            // The frame, and the count of the loops that have it.
            assert_eq!(allocations(path, size), 2 * ROUNDS, "{path} with {size} bytes");
        }
    }
}
