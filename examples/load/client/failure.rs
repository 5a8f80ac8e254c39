//! What can go wrong with a connection, in words for the reader of the report.

use ikisocket::protocol::Violation;
use std::io;
use std::net::SocketAddr;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("{0} refused the connection: nothing listens there")]
    Refused(SocketAddr),
    #[error("cannot connect to {0}: {1}")]
    Connect(SocketAddr, String),
    #[error("too many open files: raise the limit (`ulimit -n`) or use fewer --connections")]
    TooManyFiles,
    #[error(
        "no free local port for another connection to {0}: use fewer --connections, or wait a \
         minute"
    )]
    NoLocalPort(SocketAddr),
    #[error("the server did not upgrade the connection; it answered: {line}")]
    Status { code: u16, line: String },
    #[error("the server's answer to the upgrade is wrong: {0}")]
    BadUpgrade(&'static str),
    #[error(
        "the server declined permessage-deflate: turn its compression on, or leave out --deflate"
    )]
    NoDeflate,
    #[cfg(feature = "tls")]
    #[error("TLS failed: {0}")]
    Tls(String),
    #[error("no answer to the upgrade within {0} s")]
    HandshakeTimeout(u64),
    #[error("protocol error of the server: {0}")]
    Protocol(#[from] Violation),
    #[error("the server closed the connection with {0}")]
    Closed(String),
    #[error("the server closed the connection without a close frame")]
    Eof,
    #[error("the connection broke: {0}")]
    Io(String),
}

impl Failure {
    /// The same failure with the path that was asked for, where that is what to look at.
    pub fn of_path(self, path: &str) -> Failure {
        match self {
            Failure::Status { code: 404, line } => {
                Failure::Status { code: 404, line: format!("{line}, for {path}") }
            }
            other => other,
        }
    }

    /// What an error of connect(2) to `address` means.
    pub fn of_connect(error: &io::Error, address: SocketAddr) -> Failure {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Failure::Refused(address),
            io::ErrorKind::AddrNotAvailable => Failure::NoLocalPort(address),
            // EMFILE and ENFILE have no kind of their own in std.
            _ if matches!(error.raw_os_error(), Some(23 | 24)) => Failure::TooManyFiles,
            _ => Failure::Connect(address, error.to_string()),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::ConnectionReset => Failure::Io("reset by the server".to_owned()),
            io::ErrorKind::BrokenPipe => Failure::Eof,
            _ => Failure::Io(error.to_string()),
        }
    }
}
