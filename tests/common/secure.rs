//! A client over TLS on a socket that does not block. It turns no server: a test calls
//! [`step`](Secure::step) and turns its server in between.
#![allow(dead_code)] // No test file needs all of it.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use ikisocket::Tls;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, SupportedProtocolVersion};

#[path = "certificates.rs"]
pub mod certificates;

/// The server's side.
pub fn tls() -> Tls {
    certificates::tls_as("localhost")
}

/// The settings of clients that trust the test's root and resume nothing. With a name they show
/// that certificate.
pub fn config(
    version: &'static SupportedProtocolVersion,
    certificate: Option<&str>,
) -> Arc<ClientConfig> {
    certificates::forgetful(&[version], certificate)
}

/// A request for an upgrade.
pub fn request(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
}

pub struct Secure {
    pub socket: TcpStream,
    pub session: ClientConnection,
    /// Plaintext that has come.
    pub received: Vec<u8>,
}

impl Secure {
    /// Connects, and sends nothing yet.
    pub fn connect(address: SocketAddr, config: &Arc<ClientConfig>) -> Self {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_nonblocking(true).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut session = ClientConnection::new(Arc::clone(config), name).unwrap();
        session.set_buffer_limit(None);
        Self { socket, session, received: Vec::new() }
    }

    /// Queues plaintext.
    pub fn send(&mut self, plaintext: &[u8]) {
        self.session.writer().write_all(plaintext).unwrap();
    }

    /// Writes and reads what can be written and read; panics if the connection has ended.
    #[track_caller]
    pub fn step(&mut self) {
        self.write();
        while self.read() {}
        self.write();
    }

    fn write(&mut self) {
        while self.session.wants_write() {
            match self.session.write_tls(&mut self.socket) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[track_caller]
    fn read(&mut self) -> bool {
        match self.session.read_tls(&mut self.socket) {
            Ok(0) => panic!("the server has closed"),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) => panic!("{error}"),
        }
        self.session.process_new_packets().unwrap();
        match self.session.reader().read_to_end(&mut self.received) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => panic!("{error}"),
            _ => true,
        }
    }

    /// The records of plaintext, which the caller sends when it likes.
    pub fn encrypt(&mut self, plaintext: &[u8]) -> Vec<u8> {
        let mut records = Vec::new();
        self.send(plaintext);
        while self.session.wants_write() {
            self.session.write_tls(&mut records).unwrap();
        }
        records
    }

    /// Whether the response to the request is there.
    pub fn is_upgraded(&self) -> bool {
        self.received.starts_with(b"HTTP/1.1 101 ") && self.received.ends_with(b"\r\n\r\n")
    }
}
