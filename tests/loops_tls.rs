//! TLS with several loops: each handshake is made by the loop that gets the connection, with
//! certificates and tickets that all share.

mod common;
#[path = "common/loops.rs"]
mod kit;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use common::tls::certificates::{certificate, client, file, tls_as};
use ikisocket::{Loops, LoopsHandle, Running, Server, Tls};
use kit::{Member, Notes, end, loads, on, room, socket, until};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, StreamOwned};

const LOOPS: usize = 3;

type Secure = Member<StreamOwned<ClientConnection, TcpStream>>;

fn start(tls: &Tls) -> (Running<Notes>, SocketAddr) {
    let loops = Loops::new(LOOPS).listen_tls("127.0.0.1:0", tls).unwrap();
    let running = loops.start(room).unwrap();
    let address = running.local_addr().unwrap();
    (running, address)
}

/// The settings of a client, with a memory for tickets of its own.
fn settings() -> Arc<ClientConfig> {
    Arc::new(client(rustls::ALL_VERSIONS, "root", None))
}

#[track_caller]
fn connect(address: SocketAddr, settings: &Arc<ClientConfig>) -> Secure {
    let name = ServerName::try_from("localhost").unwrap();
    let session = ClientConnection::new(settings.clone(), name).unwrap();
    Member::over(StreamOwned::new(session, socket(address)))
}

fn kind(client: &Secure) -> HandshakeKind {
    client.ws.get_ref().conn.handshake_kind().unwrap()
}

fn is_renewed(client: &Secure) -> bool {
    client.ws.get_ref().conn.peer_certificates().unwrap()[0] == certificate("renewed")
}

/// What `look` finds in the figures of each loop.
fn figures(handle: &LoopsHandle<Notes>, look: fn(ikisocket::TlsStats) -> u64) -> [u64; LOOPS] {
    std::array::from_fn(|index| on(handle, index, move |_, sockets| look(sockets.stats().tls)))
}

#[test]
fn the_handshake_is_made_by_the_loop_that_gets_the_connection() {
    let (running, address) = start(&tls_as("localhost"));
    let handle = running.handle();
    let settings = settings();
    let mut clients: Vec<_> = (0..7).map(|_| connect(address, &settings)).collect();
    assert_eq!(figures(&handle, |tls| tls.tls13), [3, 2, 2]);
    for client in &mut clients {
        client.expect_echo(&"secret ".repeat(5000));
    }
    // What is published on one loop is encrypted for each connection by its own.
    on(&handle, 1, |_, sockets| {
        assert!(sockets.everywhere().publish("room", "to all").is_complete())
    });
    clients.iter_mut().for_each(|client| assert_eq!(client.text(), "to all"));
    drop(clients);
    until(|| loads(&handle) == [0; LOOPS]);
    end(running);
}

#[test]
fn a_ticket_of_one_loop_resumes_a_session_on_another() {
    let (running, address) = start(&tls_as("localhost"));
    let handle = running.handle();
    let settings = settings();
    let clients: Vec<_> = (0..6).map(|_| connect(address, &settings)).collect();
    assert_eq!(clients.iter().map(|each| each.on).collect::<Vec<_>>(), [0, 1, 2, 0, 1, 2]);
    assert_eq!(kind(&clients[0]), HandshakeKind::Full);
    for client in &clients[1..] {
        assert_eq!(kind(client), HandshakeKind::Resumed, "on loop {}", client.on);
    }
    assert_eq!(figures(&handle, |tls| tls.resumed), [1, 2, 2]);
    drop(clients);
    end(running);
}

#[test]
fn a_replaced_certificate_is_shown_by_all_loops() {
    let tls = tls_as("localhost");
    let (running, address) = start(&tls);
    let fresh = |_| connect(address, &settings());
    let mut old = [(); LOOPS].map(fresh);
    assert!(!old.iter().any(is_renewed));
    tls.replace(&file("renewed.pem"), &file("renewed.key")).unwrap();
    let new = [(); LOOPS].map(fresh);
    assert_eq!(new.each_ref().map(|client| client.on), [0, 1, 2]);
    assert!(new.iter().all(is_renewed));
    old.iter_mut().for_each(|client| client.expect_echo("still there"));
    drop((old, new));
    end(running);
}

#[test]
fn failed_handshakes_count_where_they_were_made_and_take_no_place() {
    let (running, address) = start(&tls_as("localhost"));
    let handle = running.handle();
    let sockets = [(); 2 * LOOPS].map(|()| socket(address));
    until(|| loads(&handle) == [2; LOOPS]);
    for mut socket in sockets {
        socket.write_all(b"no record of TLS at all").unwrap();
        // The end may be a reset.
        let _ = socket.read_to_end(&mut Vec::new());
    }
    until(|| loads(&handle) == [0; LOOPS]);
    assert_eq!(figures(&handle, |tls| tls.failures.total()), [2; LOOPS]);
    let client = connect(address, &settings());
    assert_eq!(client.on, 0);
    drop(client);
    end(running);
}

/// Two loops with the least receive buffer: less than a record of TLS needs.
fn with_small_buffers() -> Loops {
    Loops::with_settings(2, Server::builder().receive_buffer(1024))
}

/// A message of 100 KB, another one for each number.
fn long(number: usize) -> String {
    format!("{number:010}").repeat(10_000)
}

#[test]
fn each_loop_reads_tls_even_if_the_receive_buffer_is_set_to_less() {
    let loops = with_small_buffers().listen_tls("127.0.0.1:0", &tls_as("localhost")).unwrap();
    let running = loops.start(room).unwrap();
    let address = running.local_addr().unwrap();
    let mut clients = [(); 4].map(|()| connect(address, &settings()));
    assert_eq!(clients.each_ref().map(|client| client.on), [0, 1, 0, 1]);
    for round in 0..3 {
        for (number, client) in clients.iter_mut().enumerate() {
            client.expect_echo(&long(10 * round + number));
        }
    }
    clients.into_iter().for_each(Member::close);
    end(running);
}

#[test]
fn the_receive_buffer_grows_for_tls_after_a_plain_client_has_used_it() {
    let loops = with_small_buffers().listen("127.0.0.1:0").unwrap();
    let loops = loops.listen_tls("127.0.0.1:0", &tls_as("localhost")).unwrap();
    let running = loops.start(room).unwrap();
    let [plain, secure] = running.local_addrs()[..] else { panic!("two addresses") };
    let mut first = [(); 2].map(|()| Member::connect(plain));
    assert_eq!(first.each_ref().map(|client| client.on), [0, 1]);
    for (number, client) in first.iter_mut().enumerate() {
        client.expect_echo(&long(number));
    }
    let mut then = [(); 2].map(|()| connect(secure, &settings()));
    assert_eq!(then.each_ref().map(|client| client.on), [0, 1]);
    for round in 0..3 {
        for number in 0..2 {
            then[number].expect_echo(&long(10 * round + number));
            first[number].expect_echo(&long(10 * round + number + 5));
        }
    }
    first.into_iter().for_each(Member::close);
    then.into_iter().for_each(Member::close);
    end(running);
}
