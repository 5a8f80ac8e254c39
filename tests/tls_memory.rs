//! What a connection over TLS costs beside a plain one: live heap, counted by the allocator. The
//! provider aws-lc-rs allocates in C too, which this allocator does not see: `tls_process` measures
//! the whole process.

use std::alloc::System;
use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ikisocket::protocol::{FrameHeader, Opcode};
use ikisocket::{ClientCertificates, Event, RouteOptions, Server, Tls};
use rustls::ClientConfig;
use rustls::version::{TLS12, TLS13};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[path = "common/secure.rs"]
mod secure;

use secure::certificates::file;
use secure::{Secure, config, request, tls};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const CONNECTIONS: usize = 200;
/// As many where each takes much of the test's time.
const SEVERAL: usize = 20;
/// The most that a plain connection costs: see `memory`.
const PLAIN: usize = 256;
const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
/// The most that TLS adds to an idle connection.
const IDLE: usize = 3 * KIB + KIB / 2;
/// The most that it adds during the handshake, beside the bytes that wait.
const HALF_OPEN: usize = 6 * KIB;
/// The most bytes of a handshake that wait.
const WAITING: usize = 64 * KIB;
/// The most that it adds to a connection that has sent nothing.
const SILENT: usize = 256;

/// Only one test counts at a time: the allocator is that of the process.
static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

fn live(region: &Region<'_, System>) -> usize {
    let counted = region.change();
    // Growing by `realloc` counts in both of the first two.
    counted.bytes_allocated.saturating_sub(counted.bytes_deallocated)
}

fn server(tls: &Tls) -> Server<()> {
    let settings = Server::builder().max_message(2 * MIB).max_outbox(4 * MIB);
    let mut server = settings.build(()).unwrap();
    let options = RouteOptions::default().forget_request();
    server.route_with("/ws", options, |(), _| {}).unwrap().on(Event::Message, |(), ep| {
        ep.kws.emit(ep.data);
    });
    server.listen_tls("127.0.0.1:0", tls).unwrap();
    server
}

fn until(server: &mut Server<()>, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "it never happens");
        server.poll(Some(Duration::from_millis(1))).unwrap();
    }
}

fn open(server: &mut Server<()>, config: &Arc<ClientConfig>) -> Secure {
    let mut client = Secure::connect(server.local_addr().unwrap(), config);
    client.send(request("/ws").as_bytes());
    until(server, || {
        client.step();
        client.is_upgraded()
    });
    client
}

/// Sends a message of a MiB and waits for its echo.
fn exchange(server: &mut Server<()>, client: &mut Secure) {
    let mut message = Vec::new();
    FrameHeader { mask: Some([0; 4]), ..FrameHeader::new(Opcode::Binary, MIB as u64) }
        .encode(&mut message);
    message.resize(message.len() + MIB, b'x');
    client.received.clear();
    client.send(&message);
    until(server, || {
        client.step();
        client.received.len() == message.len() - 4
    });
}

/// The cost of an idle connection, of which the client's side is dropped but for its socket.
fn idle(server: &mut Server<()>, config: &Arc<ClientConfig>, messages: bool) -> usize {
    // The first connection makes what all share.
    let mut first = open(server, config);
    exchange(server, &mut first);
    let mut sockets = Vec::with_capacity(CONNECTIONS);
    let region = Region::new(ALLOCATOR);
    for _ in 0..CONNECTIONS {
        let mut client = open(server, config);
        if messages {
            exchange(server, &mut client);
        }
        sockets.push(client.socket);
    }
    live(&region) / CONNECTIONS
}

#[test]
fn an_idle_connection_over_tls_costs_at_most_3584_bytes_more() {
    let _alone = ALONE.lock();
    for (name, version) in [("1.3", &TLS13), ("1.2", &TLS12)] {
        for messages in [false, true] {
            let cost = idle(&mut server(&tls()), &config(version, None), messages);
            println!("TLS {name}, idle, after a message of 1 MiB: {messages}: {cost} bytes");
            assert!(cost <= PLAIN + IDLE);
        }
    }
}

#[test]
fn a_client_certificate_costs_its_length_beside_that() {
    let _alone = ALONE.lock();
    let tls = tls();
    tls.client_certificates(&file("root.pem"), ClientCertificates::Required).unwrap();
    let cost = idle(&mut server(&tls), &config(&TLS13, Some("ann")), false);
    let mut server = server(&tls);
    let _client = open(&mut server, &config(&TLS13, Some("ann")));
    let chain = certificate_len(&mut server);
    println!("TLS 1.3, idle, with a client certificate of {chain} bytes: {cost} bytes");
    assert!(cost <= PLAIN + IDLE + chain);
}

/// The length of the certificates of the only connection.
fn certificate_len(server: &mut Server<()>) -> usize {
    let mut len = 0;
    server.sockets().for_each(|kws| {
        len += kws.tls().unwrap().certificates.iter().map(Vec::len).sum::<usize>();
    });
    len
}

/// The cost of one of several connections that have sent `bytes` and send no more.
fn stopped(server: &mut Server<()>, connections: usize, bytes: &[u8]) -> usize {
    let address = server.local_addr().unwrap();
    let connect = |server: &mut Server<()>, bytes: &[u8]| {
        let mut socket = TcpStream::connect(address).unwrap();
        socket.write_all(bytes).unwrap();
        // Nothing shows when the server has read, but then it has nothing to do.
        let mut idle = 0;
        while idle < 2 {
            let turn = server.poll(Some(Duration::from_millis(2))).unwrap();
            let is_idle = turn.accepted == 0 && server.next_timeout() != Some(Duration::ZERO);
            idle = if is_idle { idle + 1 } else { 0 };
        }
        socket
    };
    let mut sockets = vec![connect(server, bytes)];
    sockets.reserve(connections);
    let region = Region::new(ALLOCATOR);
    for _ in 0..connections {
        sockets.push(connect(server, bytes));
    }
    live(&region) / connections
}

fn hello(config: &Arc<ClientConfig>, server: &Server<()>) -> Vec<u8> {
    let mut client = Secure::connect(server.local_addr().unwrap(), config);
    let mut hello = Vec::new();
    client.session.write_tls(&mut hello).unwrap();
    hello
}

#[test]
fn a_connection_that_has_sent_nothing_costs_at_most_256_bytes_more() {
    let _alone = ALONE.lock();
    let cost = stopped(&mut server(&tls()), CONNECTIONS, b"");
    println!("nothing sent: {cost} bytes");
    assert!(cost <= PLAIN + SILENT);
}

#[test]
fn a_half_open_connection_costs_at_most_6_kib_and_what_has_arrived() {
    let _alone = ALONE.lock();
    for (name, version) in [("1.3", &TLS13), ("1.2", &TLS12)] {
        let mut server = server(&tls());
        let whole = hello(&config(version, None), &server);
        let cost = stopped(&mut server, CONNECTIONS, &whole);
        println!("TLS {name}, a whole hello of {} bytes: {cost} bytes", whole.len());
        assert!(cost <= PLAIN + HALF_OPEN);
        let half = &whole[..whole.len() / 2];
        let cost = stopped(&mut server, CONNECTIONS, half);
        println!("TLS {name}, {} bytes of a hello: {cost} bytes", half.len());
        assert!(cost <= PLAIN + HALF_OPEN + half.len());
    }
}

/// A handshake message of 64 KiB in records of one byte each, as far as it goes.
fn fragments(count: usize) -> Vec<u8> {
    let hello = [&[1, 0, 0xff, 0xff][..], &vec![0; count - 4]].concat();
    hello.iter().flat_map(|&byte| [22, 3, 1, 0, 1, byte]).collect()
}

#[test]
fn at_most_64_kib_of_a_handshake_message_wait_for_its_end() {
    let _alone = ALONE.lock();
    let mut server = server(&tls());
    let below = WAITING / 6;
    let cost = stopped(&mut server, SEVERAL, &fragments(below));
    println!("{} bytes of records of one byte: {cost} bytes", 6 * below);
    assert!(cost <= PLAIN + HALF_OPEN + WAITING);
    assert_eq!(server.stats().tls.failures.other, 0);
    let cost = stopped(&mut server, SEVERAL, &fragments(below + 1));
    println!("a record more: {cost} bytes");
    assert_eq!(server.stats().tls.failures.other, SEVERAL as u64 + 1);
}

#[test]
fn what_reads_leave_of_short_records_is_bounded_for_all_connections() {
    const FLOODS: usize = 40;
    let _alone = ALONE.lock();
    // With this budget a turn handles one read of some of them.
    let mut server = Server::builder().work_per_turn(512).build(()).unwrap();
    server.route("/ws", |(), _| {}).unwrap();
    server.listen_tls("127.0.0.1:0", &tls()).unwrap();
    let config = config(&TLS13, None);
    let text = [0x81, 0x80, 0, 0, 0, 0];
    let mut floods: Vec<_> = (0..FLOODS)
        .map(|_| {
            let mut client = open(&mut server, &config);
            let records: Vec<u8> =
                text.repeat(400).iter().flat_map(|&byte| client.encrypt(&[byte])).collect();
            (client, records)
        })
        .collect();
    let all: usize = floods.iter().map(|(_, records)| records.len()).sum();
    let region = Region::new(ALLOCATOR);
    floods.iter_mut().for_each(|(client, records)| client.socket.write_all(records).unwrap());
    let (mut most, mut messages) = (0, 0);
    while messages < FLOODS * 400 {
        messages += server.poll(Some(Duration::from_millis(100))).unwrap().messages;
        most = live(&region).max(most);
    }
    println!("of {all} bytes in short records at most {most} are held");
    assert!(most <= 256 * KIB + 64 * KIB + FLOODS * 3 * KIB && all > 4 * most);
}
