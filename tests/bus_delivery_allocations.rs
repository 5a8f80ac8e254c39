//! A message that comes over the bus and goes to members allocates nothing once the servers have
//! warmed up. Neither does publishing a short one; a long one is encoded once, as for loops. A
//! counting allocator sees both servers, on one thread, and clients that allocate nothing. Redis is
//! another process. Without a redis-server the test says so and passes.
#![cfg(unix)]

use std::alloc::System;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use ikisocket::protocol::{Opcode, encode_frame};
use ikisocket::{Bus, BusSent, Server};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[path = "common/redis_process.rs"]
mod redis_process;

use redis_process::Redis;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const PATIENCE: Duration = Duration::from_secs(60);
const MEMBERS: usize = 50;
const TOPIC: &str = "prices";
/// Messages of one round, which are counted together, and rounds, of which the least counts: there
/// are signs of life between the servers now and then.
const MESSAGES: u64 = 40;
const ROUNDS: usize = 5;
/// Messages from this length on are encoded where they are published.
const LONG: usize = 1024;

type Node = Server<()>;

fn node(redis: &Redis) -> Node {
    let mut server = Server::bind("127.0.0.1:0", ()).unwrap();
    let address = format!("redis+unix://{}", redis.socket().display());
    server.bus(Bus::redis(&address).unwrap().prefix("test")).unwrap();
    server.route("/member", |(), kws| assert_eq!(kws.join(TOPIC), Ok(true))).unwrap();
    server
}

/// Turns both servers until `done` says so.
#[track_caller]
fn turn_until(nodes: &mut [Node; 2], mut done: impl FnMut(&mut [Node; 2]) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done(nodes) {
        assert!(Instant::now() < deadline, "it has not happened");
        for node in &mut *nodes {
            node.poll(Some(Duration::from_millis(1))).unwrap();
        }
    }
}

/// A member at the second server.
fn connect(nodes: &mut [Node; 2]) -> TcpStream {
    let mut client = TcpStream::connect(nodes[1].local_addr().unwrap()).unwrap();
    client.set_nonblocking(true).unwrap();
    let request = "GET /member HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    client.write_all(request.as_bytes()).unwrap();
    let mut response = Vec::new();
    turn_until(nodes, |_| {
        let mut bytes = [0; 1024];
        if let Ok(read) = client.read(&mut bytes) {
            response.extend_from_slice(&bytes[..read]);
        }
        response.ends_with(b"\r\n\r\n")
    });
    client
}

/// Reads until all members have `expected` bytes, which are `reply` again and again.
#[track_caller]
fn read_all(
    nodes: &mut [Node; 2],
    clients: &mut [TcpStream],
    (reply, count): (&[u8], u64),
    received: &mut [usize],
) {
    received.fill(0);
    let expected = reply.len() * count as usize;
    let mut bytes = [0; 4096];
    turn_until(nodes, |_| {
        for (client, received) in clients.iter_mut().zip(&mut *received) {
            loop {
                match client.read(&mut bytes) {
                    Ok(0) => panic!("a connection has ended"),
                    Ok(read) => {
                        for byte in &bytes[..read] {
                            assert_eq!(*byte, reply[*received % reply.len()]);
                            *received += 1;
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        received.iter().all(|&received| received >= expected)
    });
    assert!(received.iter().all(|&received| received == expected), "more came than was published");
}

/// The least number of allocations of several rounds: while they are published, and while they are
/// received.
fn allocations(
    nodes: &mut [Node; 2],
    clients: &mut [TcpStream],
    received: &mut [usize],
    (size, together): (usize, u64),
) -> (usize, usize) {
    let payload = vec![b'x'; size];
    let mut reply = Vec::new();
    encode_frame(Opcode::Binary, &payload, &mut reply);
    let mut least = (usize::MAX, usize::MAX);
    for round in 0..2 * ROUNDS {
        let (mut publishing, mut receiving) = (0, 0);
        for _ in 0..MESSAGES / together {
            let published = nodes[0].stats().bus.map(|bus| bus.published);
            let region = Region::new(ALLOCATOR);
            for _ in 0..together {
                let sent = nodes[0].sockets().everywhere().publish(TOPIC, &payload[..]);
                assert_eq!(sent.bus, BusSent::Queued);
            }
            // The turn in which they go to Redis.
            nodes[0].poll(Some(Duration::ZERO)).unwrap();
            publishing += count(&region);
            let so_far = nodes[0].stats().bus.map(|bus| bus.published);
            assert_eq!(so_far, published.map(|count| count + together));
            let region = Region::new(ALLOCATOR);
            read_all(nodes, clients, (&reply, together), received);
            receiving += count(&region);
        }
        // The first half warms up.
        if round >= ROUNDS {
            least = (least.0.min(publishing), least.1.min(receiving));
        }
    }
    least
}

fn count(region: &Region<'_, System>) -> usize {
    let counted = region.change();
    counted.allocations + counted.reallocations
}

#[test]
fn a_message_over_the_bus_allocates_nothing() {
    let Some(redis) = Redis::start(&[]) else { return };
    let mut nodes = [node(&redis), node(&redis)];
    let mut clients: Vec<_> = (0..MEMBERS).map(|_| connect(&mut nodes)).collect();
    let mut received = vec![0; MEMBERS];
    // Its own channel, that of all servers, and the topic.
    turn_until(&mut nodes, |[a, b]| {
        let up = a.stats().bus.is_some_and(|bus| bus.is_up && bus.nodes == 1);
        up && b.stats().bus.is_some_and(|bus| bus.subscriptions == 3)
    });
    for size in [0, 20, 100, LONG - 1, LONG, 5000] {
        for together in [1, MESSAGES] {
            let least = allocations(&mut nodes, &mut clients, &mut received, (size, together));
            // The frame of a long message, and the count of what shares it.
            let publishing = if size < LONG { 0 } else { 2 * MESSAGES as usize };
            assert_eq!(least, (publishing, 0), "{size} bytes, {together} together");
        }
    }
    let bus = nodes[1].stats().bus.expect("a bus");
    assert_eq!((bus.lost, bus.gaps, bus.duplicates, bus.downs), (0, 0, 0, 0));
}
