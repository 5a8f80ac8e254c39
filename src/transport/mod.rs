//! The streams that carry a connection's bytes, and the addresses of peers.

#[cfg(feature = "testing")]
pub(crate) mod faults;
mod listen;
#[cfg(feature = "testing")]
pub(crate) mod memory;
#[cfg(feature = "redis")]
mod outgoing;
mod plain;
mod stream;
#[cfg(feature = "_tls")]
pub(crate) mod tls;

use std::fmt;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};

pub use listen::ListeningSocket;
pub(crate) use listen::{Accepted, Listener, Options};
#[cfg(feature = "redis")]
pub(crate) use outgoing::{Connecting, Progress, Remote};
pub(crate) use plain::{PlainStream, Socket};
pub(crate) use stream::{Over, Stream};

/// The address of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PeerAddress {
    /// The address and port of a TCP peer. A peer that connects by IPv4 has an IPv4 address, also
    /// if a socket listens for both (`[::]:80`) and the system writes the address as
    /// `::ffff:192.0.2.1`. So `is_loopback` and lists of allowed IPv4 addresses work as expected.
    Tcp(SocketAddr),
    /// A peer on the same machine, by a Unix socket. Its end has no address. Any process that may
    /// open the socket's file can be the peer.
    Unix,
}

impl PeerAddress {
    /// The peer's IP address, if it has one.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(address) => Some(address.ip()),
            Self::Unix => None,
        }
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix => f.write_str("a Unix socket"),
        }
    }
}

/// The address, with an IPv4 address in IPv6 form (RFC 4291 §2.5.5.2) turned into an IPv4 address.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddrV4::new(ip, address.port()).into(),
        // This keeps the scope, without which a link-local address means nothing.
        IpAddr::V6(_) => address,
    }
}
