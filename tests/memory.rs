//! What an idle connection costs: live heap, counted by the allocator, with 5 000 of them.

use std::alloc::System;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use ikisocket::{RouteOptions, Server, Turn};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[path = "common/descriptors.rs"]
mod descriptors;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const CONNECTIONS: usize = 5000;
/// Both ends are in this process.
const DESCRIPTORS: usize = 2 * CONNECTIONS + 100;
/// The most that one may cost, in bytes.
const PER_CONNECTION: usize = 256;

const REQUEST: &[u8] =
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";

/// Turns the server until `done` has seen what it waits for.
fn turn_until(server: &mut Server<()>, mut done: impl FnMut(Turn) -> bool) {
    for _ in 0..10_000 {
        if done(server.poll(Some(Duration::from_millis(10))).unwrap()) {
            return;
        }
    }
    panic!("it never happens");
}

/// Bytes that are allocated since `region` began and not freed.
fn live(region: &Region<'_, System>) -> isize {
    let counted = region.change();
    // Growing by `realloc` counts in both of the first two.
    counted.bytes_allocated as isize - counted.bytes_deallocated as isize
}

/// The cost of an idle connection in bytes. Panics if connections that were busy, or have ended,
/// leave memory behind.
fn cost(forget_request: bool) -> usize {
    let mut server = Server::bind("127.0.0.1:0", ()).unwrap();
    let mut options = RouteOptions::default();
    if forget_request {
        options = options.forget_request();
    }
    server.route_with("/ws", options, |(), _| {}).unwrap();
    let address = server.local_addr().unwrap();
    let mut clients = Vec::with_capacity(CONNECTIONS);
    let region = Region::new(ALLOCATOR);
    for _ in 0..CONNECTIONS {
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(REQUEST).unwrap();
        turn_until(&mut server, |turn| turn.opened == 1);
        let mut response = [0; 512];
        assert!(client.read(&mut response).unwrap() > 0);
        clients.push(client);
    }
    assert_eq!(server.sockets().len(), CONNECTIONS);
    let idle = live(&region);

    let mut message = vec![0x82, 0xfe, 0x40, 0x00, 0, 0, 0, 0];
    message.resize(8 + 0x4000, b'x');
    let (first, second) = message.split_at(5000);
    for client in &mut clients[..10] {
        client.write_all(first).unwrap();
        turn_until(&mut server, |_| true);
        client.write_all(second).unwrap();
        turn_until(&mut server, |turn| turn.messages == 1);
    }
    assert!(
        live(&region) <= idle + message.len() as isize,
        "after messages in pieces a connection is as small as before"
    );

    clients.clear();
    let mut closed = 0;
    turn_until(&mut server, |turn| {
        closed += turn.closed;
        closed == CONNECTIONS
    });
    let rest = live(&region);
    assert!(rest < 256 * 1024, "when all connections have ended, {rest} bytes are left");
    usize::try_from(idle).unwrap() / CONNECTIONS
}

#[test]
fn an_idle_connection_costs_at_most_256_bytes_and_its_kept_request() {
    if !descriptors::with_descriptors(DESCRIPTORS) {
        return;
    }
    let without_request = cost(true);
    let with_request = cost(false);
    println!(
        "live heap per idle connection: {without_request} bytes, {with_request} with its request"
    );
    assert!(without_request <= PER_CONNECTION);
    assert!(with_request <= PER_CONNECTION + REQUEST.len());
}
