//! A client's socket over TLS, with rustls's buffered API. What it costs is not measured.

use std::error::Error;
use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;

use mio::net::TcpStream;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use super::keys;
use crate::minimal::wire::Wire;

/// What all connections to one server share, the tickets among it.
pub struct Config(Arc<ClientConfig>);

impl Config {
    pub fn new(resume: bool) -> Result<Self, Box<dyn Error>> {
        Ok(Self(keys::client(resume)?))
    }
}

pub struct Secure {
    socket: TcpStream,
    session: ClientConnection,
}

impl Secure {
    pub fn new(socket: TcpStream, config: &Config) -> Result<Self, Box<dyn Error>> {
        let name = ServerName::try_from("localhost")?;
        let mut session = ClientConnection::new(Arc::clone(&config.0), name)?;
        session.set_buffer_limit(None);
        Ok(Self { socket, session })
    }

    /// Writes what the session has to send, as far as the socket takes it.
    fn write_records(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut self.socket) {
                Ok(_) => {}
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) =>
                {
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Read for Secure {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut received = 0;
        loop {
            // A session that has plaintext wants no more records.
            match self.session.reader().read(&mut into[received..]) {
                Ok(0) => return Ok(received),
                Ok(read) => received += read,
                Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
                Err(_) => {}
            }
            match self.session.read_tls(&mut self.socket) {
                Ok(0) => return Ok(received),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock && received > 0 => {
                    return Ok(received);
                }
                Err(error) => return Err(error),
            }
            self.session.process_new_packets().map_err(io::Error::other)?;
            self.write_records()?;
        }
    }
}

impl Write for Secure {
    /// Takes everything, unless something waits that the socket did not take.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_records()?;
        if self.session.wants_write() {
            return Err(ErrorKind::WouldBlock.into());
        }
        let taken = self.session.writer().write(bytes)?;
        self.write_records()?;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write_records()
    }
}

impl Wire for Secure {
    fn reset_on_drop(&self) -> io::Result<()> {
        self.socket.reset_on_drop()
    }
}
