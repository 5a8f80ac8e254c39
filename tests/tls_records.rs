//! Records of TLS as no usual client makes them: short ones, key updates, and many of both at once.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use ikisocket::protocol::{FrameHeader, Opcode};
use ikisocket::{Builder, Event, Server};
use rustls::version::{TLS12, TLS13};

#[path = "common/secure.rs"]
mod secure;

use secure::{Secure, config, request, tls};

fn server(settings: Builder) -> Server<()> {
    let mut server = settings.build(()).unwrap();
    server.route("/echo", |_, _| {}).unwrap().on(Event::Message, |_, ep| {
        ep.kws.emit(ep.data);
    });
    server.route("/mute", |_, _| {}).unwrap();
    server.listen_tls("127.0.0.1:0", &tls()).unwrap();
    server
}

fn until(server: &mut Server<()>, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "it never happens");
        server.poll(Some(Duration::from_millis(1))).unwrap();
    }
}

fn open(
    server: &mut Server<()>,
    path: &str,
    version: &'static rustls::SupportedProtocolVersion,
) -> Secure {
    let mut client = Secure::connect(server.local_addr().unwrap(), &config(version, None));
    client.send(request(path).as_bytes());
    until(server, || {
        client.step();
        client.is_upgraded()
    });
    client.received.clear();
    client
}

/// A message of a client, and the frame in which it comes back.
fn message(payload: &[u8]) -> [Vec<u8>; 2] {
    [Some([0; 4]), None].map(|mask| {
        let mut frame = Vec::new();
        let header = FrameHeader { mask, ..FrameHeader::new(Opcode::Binary, payload.len() as u64) };
        header.encode(&mut frame);
        frame.extend_from_slice(payload);
        frame
    })
}

/// Writes what the socket takes of `bytes`; returns how much is left.
fn write(mut socket: &TcpStream, bytes: &mut &[u8]) -> usize {
    match socket.write(bytes) {
        Ok(written) => *bytes = &bytes[written..],
        Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
    }
    bytes.len()
}

#[test]
fn messages_in_records_of_one_byte_come_back_whole_and_in_order() {
    for version in [&TLS13, &TLS12] {
        let mut server = server(Server::builder());
        let mut client = open(&mut server, "/echo", version);
        let (mut records, mut expected) = (Vec::new(), Vec::new());
        for number in 0..2000u32 {
            let [frame, echo] = message(&number.to_be_bytes());
            frame.iter().for_each(|byte| records.extend(client.encrypt(&[*byte])));
            expected.extend(echo);
        }
        let mut rest = &records[..];
        until(&mut server, || {
            let left = write(&client.socket, &mut rest);
            client.step();
            left == 0 && client.received.len() >= expected.len()
        });
        assert!(client.received == expected, "{version:?}");
    }
}

#[test]
fn key_updates_between_records_change_nothing_of_the_messages() {
    let mut server = server(Server::builder());
    let mut client = open(&mut server, "/echo", &TLS13);
    let (mut records, mut expected) = (Vec::new(), Vec::new());
    for number in 0..500u32 {
        let [frame, echo] = message(&number.to_be_bytes());
        for part in frame.chunks(3) {
            for _ in 0..number % 30 {
                client.session.refresh_traffic_keys().unwrap();
            }
            records.extend(client.encrypt(part));
        }
        expected.extend(echo);
    }
    let mut rest = &records[..];
    until(&mut server, || {
        let left = write(&client.socket, &mut rest);
        client.step();
        left == 0 && client.received.len() >= expected.len()
    });
    assert!(client.received == expected);
}

#[test]
fn beside_many_short_records_another_connection_is_served_in_each_turn() {
    const TURNS: usize = 10;
    for updates in [0, 30] {
        // Half of it is for connections that have become ready.
        let mut server = server(Server::builder().work_per_turn(512));
        let mut quiet = open(&mut server, "/echo", &TLS13);
        let mut flood = open(&mut server, "/mute", &TLS13);
        let [frame, _] = message(b"");
        let mut records = Vec::new();
        while records.len() < 128 * 1024 {
            for byte in &frame {
                (0..updates).for_each(|_| flood.session.refresh_traffic_keys().unwrap());
                records.extend(flood.encrypt(&[*byte]));
            }
        }
        let all = records.len() / (frame.len() * (23 + updates * 27));
        assert!(write(&flood.socket, &mut &records[..]) < 32 * 1024, "most of it is sent");
        server.poll(Some(Duration::from_millis(100))).unwrap();
        let [frame, echo] = message(b"quiet");
        let mut flooded = 0;
        for _ in 0..TURNS {
            quiet.received.clear();
            quiet.send(&frame);
            quiet.step();
            flooded += server.poll(Some(Duration::ZERO)).unwrap().messages - 1;
            quiet.step();
            assert_eq!(quiet.received, echo);
        }
        assert!(flooded < all, "the flood takes more turns than that: {flooded} of {all}");
        assert!(flooded > 0 || updates > 0, "the flood is served too");
    }
}
