//! What the server keeps of input that was read and that a turn's work has left: one receive buffer
//! for all connections together, and little more for each (a counting allocator sees the whole
//! process, so this is the only test here).

mod common;

use std::alloc::System;
use std::io::{ErrorKind, Write};
use std::time::Duration;

use common::{Stream, listen, over_tls, turn_until, upgrade_request};
use ikisocket::{Event, Server};
use socket2::SockRef;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const CONNECTIONS: usize = 100;
const BUFFER: usize = 256 * 1024;

/// The bytes that each may have beside that. Over TLS that is the least that a read takes, 36 KiB,
/// and an incomplete record.
fn of_each() -> usize {
    if over_tls() { (36 + 18) * 1024 } else { 16 * 1024 }
}

/// What all else of the server may grow by, in bytes: its lists.
const ALL_ELSE: usize = 128 * 1024;

/// Bytes that are allocated since `region` began and not freed.
fn live(region: &Region<'_, System>) -> isize {
    let counted = region.change();
    // Growing by `realloc` counts in both of the first two.
    counted.bytes_allocated as isize - counted.bytes_deallocated as isize
}

#[test]
fn floods_of_all_connections_leave_one_receive_buffer_unhandled() {
    let mut server = Server::builder().receive_buffer(BUFFER).build(0_usize).unwrap();
    server.route("/ws", |_, _| {}).unwrap();
    server.on(Event::Message, |messages, _| *messages += 1);
    listen(&mut server);
    let mut clients = Vec::with_capacity(CONNECTIONS);
    for number in 1..=CONNECTIONS {
        let mut client = Stream::connect(&mut server);
        SockRef::from(client.socket()).set_send_buffer_size(1 << 20).unwrap();
        client.write_all(upgrade_request("/ws").as_bytes()).unwrap();
        turn_until(&mut server, |server| server.sockets().len() == number);
        clients.push(client);
    }
    // The shortest messages, as many as the sockets take.
    let flood = [0x82, 0x80, 0, 0, 0, 0].repeat(2048);
    for client in &mut clients {
        loop {
            match client.write(&flood) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
    let region = Region::new(ALLOCATOR);
    let allowed = BUFFER + CONNECTIONS * of_each() + ALL_ELSE;
    let mut most = 0;
    for _ in 0..50 {
        assert!(server.poll(Some(Duration::ZERO)).unwrap().messages > 0, "it is behind");
        most = most.max(live(&region));
    }
    println!("{most} bytes, {allowed} are allowed");
    assert!(most <= allowed as isize, "{most} bytes are kept, {allowed} are allowed");
}
