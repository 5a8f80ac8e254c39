//! Over TLS a message allocates what rustls allocates, and nothing else: a buffer for each record
//! that it decrypts, and one for each that it encrypts. The clients make their records beforehand,
//! so that they allocate nothing meanwhile.

use std::alloc::System;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use ikisocket::protocol::{FrameHeader, Opcode};
use ikisocket::{Event, Server};
use rustls::version::{TLS12, TLS13};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[path = "common/secure.rs"]
mod secure;

use secure::{Secure, config, request, tls};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const CLIENTS: usize = 20;
const ROUNDS: usize = 50;
const WARM_UP: usize = 5;
/// What rustls allocates for a record that comes, and for one that is sent.
const READ: usize = 1;
const WRITTEN: usize = 1;

fn server() -> Server<()> {
    let mut server = Server::builder().build(()).unwrap();
    server.route("/echo", |_, _| {}).unwrap().on(Event::Message, |_, ep| {
        ep.kws.emit(ep.data);
    });
    server.route("/all", |_, _| {}).unwrap().on(Event::Message, |_, ep| {
        ep.kws.broadcast_all(ep.data);
    });
    server.listen_tls("127.0.0.1:0", &tls()).unwrap();
    server
}

/// A client that is upgraded, and the records of its messages.
struct Client {
    secure: Secure,
    records: Vec<Vec<u8>>,
    received: usize,
}

fn connect(server: &mut Server<()>, path: &str, message: &[u8], version: Version) -> Client {
    let mut secure = Secure::connect(server.local_addr().unwrap(), &config(version, None));
    secure.send(request(path).as_bytes());
    until(server, || {
        secure.step();
        secure.is_upgraded()
    });
    let records = (0..WARM_UP + ROUNDS).map(|_| secure.encrypt(message)).collect();
    Client { secure, records, received: 0 }
}

type Version = &'static rustls::SupportedProtocolVersion;

fn until(server: &mut Server<()>, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "it never happens");
        server.poll(Some(Duration::from_millis(1))).unwrap();
    }
}

/// Every client sends its message; then the server is turned until each has `plaintext` bytes, in
/// any number of records.
fn round(
    server: &mut Server<()>,
    clients: &mut [Client],
    number: usize,
    plaintext: usize,
    overhead: usize,
) {
    for client in &mut *clients {
        client.received = 0;
        client.secure.socket.write_all(&client.records[number]).unwrap();
    }
    let mut bytes = [0; 4096];
    until(server, || {
        for client in &mut *clients {
            while let Ok(read) = client.secure.socket.read(&mut bytes) {
                client.received += read;
            }
        }
        clients.iter().all(|client| {
            client.received > plaintext && (client.received - plaintext).is_multiple_of(overhead)
        })
    });
}

#[test]
fn over_tls_a_message_allocates_what_rustls_does_and_nothing_else() {
    for (version, overhead) in [(&TLS13, 5 + 1 + 16), (&TLS12, 5 + 8 + 16)] {
        for (path, copies) in [("/echo", 1), ("/all", CLIENTS)] {
            for size in [21, 1024] {
                let mut server = server();
                let header =
                    FrameHeader { mask: Some([0; 4]), ..FrameHeader::new(Opcode::Text, size) };
                let mut message = Vec::new();
                header.encode(&mut message);
                message.resize(message.len() + size as usize, b'x');
                let mut clients: Vec<_> =
                    (0..CLIENTS).map(|_| connect(&mut server, path, &message, version)).collect();
                let plaintext = copies * (message.len() - 4);
                for number in 0..WARM_UP {
                    round(&mut server, &mut clients, number, plaintext, overhead);
                }
                let region = Region::new(ALLOCATOR);
                let mut written = 0;
                for number in WARM_UP..WARM_UP + ROUNDS {
                    round(&mut server, &mut clients, number, plaintext, overhead);
                    let records = |client: &Client| (client.received - plaintext) / overhead;
                    written += clients.iter().map(records).sum::<usize>();
                }
                let counted = region.change();
                let read = CLIENTS * ROUNDS;
                println!(
                    "{version:?} {path} {size}: {} allocations for {read} records in and {written} out",
                    counted.allocations
                );
                let expected = read * READ + written * WRITTEN;
                // The thread that waits for the test may allocate once, when it begins to wait.
                assert!(
                    counted.allocations.abs_diff(expected) <= 1 && counted.reallocations == 0,
                    "{path} with {size} bytes over {version:?}: {expected} were expected"
                );
            }
        }
    }
}
