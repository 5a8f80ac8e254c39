//! The socket of a connection, plain or over TLS. It never blocks.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Interest, Poll, Token};
use socket2::SockRef;

#[cfg(feature = "_tls")]
use crate::tls::wire::{Config, Secure};

/// A socket that writes what it can; a flush writes what is left.
pub trait Wire: Read + Write {
    /// Closing the socket resets it, and leaves no port in TIME_WAIT.
    fn reset_on_drop(&self) -> io::Result<()>;
}

impl Wire for TcpStream {
    fn reset_on_drop(&self) -> io::Result<()> {
        SockRef::from(self).set_linger(Some(Duration::ZERO))
    }
}

/// Connects to a server; if it has several addresses, to each in turn.
pub struct Dialer {
    addresses: Vec<SocketAddr>,
    #[cfg(feature = "_tls")]
    secure: Option<Config>,
}

impl Dialer {
    pub fn plain(addresses: Vec<SocketAddr>) -> Self {
        Self {
            addresses,
            #[cfg(feature = "_tls")]
            secure: None,
        }
    }

    /// Over TLS; with `resume` a later connection resumes the session of an earlier one.
    #[cfg(feature = "_tls")]
    pub fn secure(address: SocketAddr, resume: bool) -> Result<Self, Box<dyn Error>> {
        Ok(Self { addresses: vec![address], secure: Some(Config::new(resume)?) })
    }

    #[cfg(not(feature = "_tls"))]
    pub fn secure(_: SocketAddr, _: bool) -> Result<Self, Box<dyn Error>> {
        Err("it needs TLS: cargo bench --bench limit --features tls".into())
    }

    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// Begins to connect.
    pub fn dial(&self, poll: &Poll, token: usize) -> Result<Box<dyn Wire>, Box<dyn Error>> {
        let mut stream = TcpStream::connect(self.addresses[token % self.addresses.len()])?;
        stream.set_nodelay(true)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut stream, Token(token), interest)?;
        #[cfg(feature = "_tls")]
        if let Some(config) = &self.secure {
            return Ok(Box::new(Secure::new(stream, config)?));
        }
        Ok(Box::new(stream))
    }
}
