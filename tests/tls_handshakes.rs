//! Handshakes of TLS beside open connections: their time in a turn is bounded
//! (`Builder::handshake_time`), and open connections come first.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ikisocket::protocol::{FrameHeader, Opcode};
use ikisocket::{Event, Server};
use rustls::ClientConfig;
use rustls::version::TLS13;

#[path = "common/secure.rs"]
mod secure;

use secure::{Secure, config, request, tls};

const STORM: usize = 30;

fn server(handshake_time: Duration) -> Server<()> {
    let mut server = Server::builder().handshake_time(handshake_time).build(()).unwrap();
    server.route("/echo", |_, _| {}).unwrap().on(Event::Message, |_, ep| {
        ep.kws.emit(ep.data);
    });
    server.listen_tls("127.0.0.1:0", &tls()).unwrap();
    server
}

fn open(server: &mut Server<()>, config: &Arc<ClientConfig>) -> Secure {
    let mut client = Secure::connect(server.local_addr().unwrap(), config);
    client.send(request("/echo").as_bytes());
    let deadline = Instant::now() + Duration::from_secs(20);
    while !client.is_upgraded() {
        assert!(Instant::now() < deadline, "it is not upgraded");
        server.poll(Some(Duration::from_millis(1))).unwrap();
        client.step();
    }
    client.received.clear();
    client
}

/// The first bytes of a client that has sent nothing yet.
fn hello(client: &mut Secure) -> Vec<u8> {
    let mut hello = Vec::new();
    while client.session.wants_write() {
        client.session.write_tls(&mut hello).unwrap();
    }
    hello
}

/// How many of the clients the server has answered.
fn answered(clients: &[Secure]) -> usize {
    clients.iter().filter(|client| matches!(client.socket.peek(&mut [0]), Ok(1))).count()
}

#[test]
fn without_time_one_handshake_continues_a_turn_behind_open_connections() {
    let mut server = server(Duration::ZERO);
    let config = config(&TLS13, None);
    let mut quiet = open(&mut server, &config);
    let address = server.local_addr().unwrap();
    let mut storm: Vec<_> = (0..STORM).map(|_| Secure::connect(address, &config)).collect();
    // All are accepted before the first hello comes.
    let mut accepted = 0;
    while accepted < STORM {
        accepted += server.poll(Some(Duration::from_millis(100))).unwrap().accepted;
    }
    for client in &mut storm {
        let hello = hello(client);
        client.socket.write_all(&hello).unwrap();
    }
    let mut frame = Vec::new();
    FrameHeader { mask: Some([0; 4]), ..FrameHeader::new(Opcode::Text, 2) }.encode(&mut frame);
    frame.extend_from_slice(b"hi");
    for turn in 1..=STORM {
        quiet.received.clear();
        quiet.send(&frame);
        quiet.step();
        let report = server.poll(Some(Duration::ZERO)).unwrap();
        quiet.step();
        assert_eq!(report.messages, 1, "the open connection is served in each turn");
        assert_eq!(quiet.received, b"\x81\x02hi");
        assert_eq!(answered(&storm), turn, "one handshake continues in each turn");
    }
}

#[test]
fn with_much_time_all_handshakes_continue_in_one_turn() {
    let mut server = server(Duration::MAX);
    let config = config(&TLS13, None);
    let address = server.local_addr().unwrap();
    let mut storm: Vec<_> = (0..STORM).map(|_| Secure::connect(address, &config)).collect();
    let mut accepted = 0;
    while accepted < STORM {
        accepted += server.poll(Some(Duration::from_millis(100))).unwrap().accepted;
    }
    for client in &mut storm {
        let hello = hello(client);
        client.socket.write_all(&hello).unwrap();
    }
    server.poll(Some(Duration::from_millis(100))).unwrap();
    assert_eq!(answered(&storm), STORM);
}

#[test]
fn a_storm_of_handshakes_is_answered_whole_at_the_default_time() {
    let mut server = server(Duration::from_millis(2));
    let config = config(&TLS13, None);
    let address = server.local_addr().unwrap();
    let mut storm: Vec<_> = (0..4 * STORM)
        .map(|_| {
            let mut client = Secure::connect(address, &config);
            client.send(request("/echo").as_bytes());
            client
        })
        .collect();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !storm.iter().all(Secure::is_upgraded) {
        assert!(Instant::now() < deadline, "the storm does not end");
        storm.iter_mut().for_each(Secure::step);
        server.poll(Some(Duration::from_millis(1))).unwrap();
    }
    assert_eq!(server.stats().tls.tls13, 4 * STORM as u64);
    assert_eq!(server.sockets().len(), 4 * STORM);
}
