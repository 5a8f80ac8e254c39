//! What carries a connection's bytes, and where its peer is.

#[cfg(feature = "testing")]
pub(crate) mod faults;
mod listen;
#[cfg(feature = "testing")]
pub(crate) mod memory;
mod stream;

use std::fmt;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};

pub use listen::ListeningSocket;
pub(crate) use listen::{Accepted, Listener, Options};
pub(crate) use stream::Stream;

/// Where a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PeerAddress {
    /// The address and port of a TCP peer. A peer that comes by IPv4 has an IPv4 address, also
    /// where a socket listens for both (`[::]:80`) and the system writes it as `::ffff:192.0.2.1`:
    /// so `is_loopback` and lists of allowed IPv4 addresses mean what they say.
    Tcp(SocketAddr),
    /// A peer on the same machine, by a Unix socket. The peer's end of one has no address; whoever
    /// may open the socket's file is there.
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

/// An IPv4 address that is written as an IPv6 one (RFC 4291 §2.5.5.2) as the IPv4 address that it
/// is.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddrV4::new(ip, address.port()).into(),
        // With its scope, without which a link-local address means nothing.
        IpAddr::V6(_) => address,
    }
}
