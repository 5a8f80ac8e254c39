//! The reactor: the poll, the listening sockets and the streams. The only room that knows what a socket is.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
#[cfg(unix)]
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll};
use socket2::SockRef;

use crate::connection::Transport;
use crate::token::{Ready, Token};

/// What carries a connection's bytes.
pub(crate) type Stream = TcpStream;

/// Events taken from the operating system at once, at most.
const EVENTS: usize = 1024;

/// Peers in a row that fail while they are accepted, before the listener itself is suspected.
const FAILURES: u32 = 64;

impl Transport for Stream {
    fn shutdown_write(&self) -> io::Result<()> {
        self.shutdown(std::net::Shutdown::Write)
    }

    fn reset_on_drop(&self) {
        // A zero linger time turns the close into a reset; if it cannot be set, the peer sees FIN, which is no worse than before.
        let _ = SockRef::from(self).set_linger(Some(Duration::ZERO));
    }
}

pub(crate) struct Reactor {
    poll: Poll,
    pub(crate) events: Events,
    listeners: Vec<Listener>,
    nodelay: bool,
}

struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

/// What came of one attempt to accept.
pub(crate) enum Accepted {
    Stream(Stream, SocketAddr),
    /// Nobody is waiting.
    None,
    /// The process or the system has no descriptor or memory left for another connection.
    /// Or the listener itself is broken.
    Exhausted(io::Error),
}

impl Reactor {
    /// It takes no more than `events` at once; the rest stays with the operating system.
    pub(crate) fn new(nodelay: bool, events: usize) -> io::Result<Self> {
        let events = Events::with_capacity(events.min(EVENTS));
        Ok(Self { poll: Poll::new()?, events, listeners: Vec::new(), nodelay })
    }

    pub(crate) fn listen(&mut self, address: SocketAddr) -> io::Result<SocketAddr> {
        let mut socket = TcpListener::bind(address)?;
        let address = socket.local_addr()?;
        // On Linux an accepted socket inherits this, which saves a system call for each.
        #[cfg(target_os = "linux")]
        SockRef::from(&socket).set_tcp_nodelay(self.nodelay)?;
        let token = mio::Token(Ready::Listener(self.listeners.len()).encode());
        self.poll.registry().register(&mut socket, token, Interest::READABLE)?;
        self.listeners.push(Listener { socket, address });
        Ok(address)
    }

    pub(crate) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.listeners.iter().map(|listener| listener.address)
    }

    pub(crate) fn is_listening(&self) -> bool {
        !self.listeners.is_empty()
    }

    /// Stops listening; those that wait to be accepted are refused by the operating system.
    pub(crate) fn stop_listening(&mut self) {
        self.listeners.clear();
    }

    /// Waits for events; an interrupted wait has none.
    pub(crate) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {
                self.events.clear();
                Ok(())
            }
            result => result,
        }
    }

    pub(crate) fn accept(&self, listener: usize) -> Accepted {
        let Some(listener) = self.listeners.get(listener) else { return Accepted::None };
        let mut failures = 0;
        loop {
            match listener.socket.accept() {
                Ok((stream, peer)) => {
                    #[cfg(not(target_os = "linux"))]
                    let _ = stream.set_nodelay(self.nodelay);
                    return Accepted::Stream(stream, peer);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Accepted::None,
                Err(error) if is_exhaustion(&error) || failures == FAILURES => return Accepted::Exhausted(error),
                // An error of the peer that was to be accepted, not of the listener: it has gone again (accept(2)).
                Err(_) => failures += 1,
            }
        }
    }

    /// What wakes the poll from another thread. There is one for each poll.
    pub(crate) fn waker(&self) -> io::Result<mio::Waker> {
        mio::Waker::new(self.poll.registry(), mio::Token(Ready::Mailbox.encode()))
    }

    /// Where else sources can be registered with this poll.
    pub(crate) fn registry(&self) -> io::Result<mio::Registry> {
        self.poll.registry().try_clone()
    }

    /// Registered once, for everything, edge-triggered: it is never changed again.
    pub(crate) fn register(&self, stream: &mut Stream, token: Token) -> io::Result<()> {
        let token = mio::Token(Ready::Connection(token).encode());
        self.poll.registry().register(stream, token, Interest::READABLE | Interest::WRITABLE)
    }
}

#[cfg(unix)]
impl AsFd for Reactor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.poll.registry().as_fd()
    }
}

/// Whether accepting has to wait until something is freed: EMFILE, ENFILE, ENOBUFS, ENOMEM.
fn is_exhaustion(error: &io::Error) -> bool {
    const ENOMEM: i32 = 12;
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    const ENOBUFS: i32 = 105;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    const ENOBUFS: i32 = 55;
    matches!(error.raw_os_error(), Some(ENOMEM | ENFILE | EMFILE | ENOBUFS))
}
