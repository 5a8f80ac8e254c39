//! What the manual promises of TLS, over sockets.

mod common;

use std::io::ErrorKind;
use std::net::TcpStream;
use std::sync::Arc;

use common::*;
use ikisocket::{Event, Server, Tls};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tungstenite::{Message, WebSocket};

fn file(name: &str) -> String {
    format!("{}/tests/tls/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn tls() -> Tls {
    Tls::pem(&file("localhost.pem"), &file("localhost.key")).unwrap()
}

/// A client that trusts the test's root.
fn client_config() -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(file("root.pem")).unwrap()).unwrap();
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

type Stream = StreamOwned<ClientConnection, TcpStream>;

fn stream<S>(server: &Server<S>, config: &Arc<ClientConfig>, name: &str) -> Stream {
    let socket = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    socket.set_nodelay(true).unwrap();
    socket.set_nonblocking(true).unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    StreamOwned::new(ClientConnection::new(Arc::clone(config), name).unwrap(), socket)
}

fn connect<S>(server: &mut Server<S>, config: &Arc<ClientConfig>, path: &str) -> WebSocket<Stream> {
    let stream = stream(server, config, "localhost");
    let mut attempt = Some(tungstenite::client(format!("ws://localhost{path}"), stream));
    turn_for(server, |_| match attempt.take()? {
        Ok((ws, _)) => Some(ws),
        Err(tungstenite::HandshakeError::Failure(error)) => panic!("{error}"),
        Err(tungstenite::HandshakeError::Interrupted(unfinished)) => {
            attempt = Some(unfinished.handshake());
            None
        }
    })
}

fn next<S>(server: &mut Server<S>, ws: &mut WebSocket<Stream>) -> Message {
    turn_for(server, |_| match ws.read() {
        Ok(message) => Some(message),
        Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => None,
        Err(error) => panic!("{error}"),
    })
}

#[test]
fn messages_of_all_lengths_come_back_over_tls() {
    let mut server = Server::builder().max_message(4 << 20).max_outbox(4 << 20).build(()).unwrap();
    server.route("/ws", |_, _| {}).unwrap();
    server.on(Event::Message, |(), ep| {
        ep.kws.emit(ep.data);
    });
    server.listen_tls("127.0.0.1:0", &tls()).unwrap();
    let config = Arc::new(client_config());
    let mut ws = connect(&mut server, &config, "/ws");
    for len in [0, 1, 20, 125, 126, 16_000, 16_384, 16_385, 65_536, 1 << 20] {
        let sent: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        ws.write(Message::from(sent.clone())).unwrap();
        turn_until(&mut server, |_| match ws.flush() {
            Ok(()) => true,
            Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => panic!("{error}"),
        });
        assert!(next(&mut server, &mut ws) == Message::from(sent), "{len}");
    }
    assert_eq!(server.stats().tls.tls13, 1);
    assert_eq!(ws.get_ref().conn.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
}
