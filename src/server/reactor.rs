//! The reactor: the poll, and the sockets that it watches.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
#[cfg(unix)]
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use mio::{Events, Interest, Poll};

use crate::token::{Ready, Token};
#[cfg(feature = "_tls")]
use crate::transport::tls;
use crate::transport::{Accepted, Listener, Over, PlainStream, Stream};

/// The most events taken from the operating system at once.
const EVENTS: usize = 1024;

/// A socket on which the server listens.
struct Listening {
    socket: Listener,
    over: Over,
}

pub(crate) struct Reactor {
    poll: Poll,
    pub(crate) events: Events,
    listeners: Vec<Listening>,
    /// Wakes the loop, from other threads. There is one for each poll.
    pub(crate) waker: Arc<mio::Waker>,
    /// Whether there may be connections for which a short read does not mean that the socket is
    /// empty.
    pub(crate) short_may_hide: bool,
    /// What connections over TLS share.
    #[cfg(feature = "_tls")]
    pub(crate) tls: tls::Common,
}

impl Reactor {
    /// Takes at most `events` at once; the others stay with the operating system.
    pub(crate) fn new(events: usize) -> io::Result<Self> {
        let events = Events::with_capacity(events.min(EVENTS));
        let poll = Poll::new()?;
        let waker = mio::Waker::new(poll.registry(), mio::Token(Ready::Inbox.encode()))?;
        Ok(Self {
            poll,
            events,
            listeners: Vec::new(),
            waker: Arc::new(waker),
            short_may_hide: false,
            #[cfg(feature = "_tls")]
            tls: tls::Common::default(),
        })
    }

    pub(crate) fn listen(&mut self, mut socket: Listener, over: Over) -> io::Result<()> {
        let token = mio::Token(Ready::Listener(self.listeners.len()).encode());
        self.poll.registry().register(socket.source(), token, Interest::READABLE)?;
        match over {
            Over::Plain => log::info!("listening on {socket}"),
            #[cfg(feature = "_tls")]
            Over::Tls(_) => log::info!("listening on {socket} over TLS"),
        }
        self.short_may_hide |= !socket.short_means_empty();
        self.listeners.push(Listening { socket, over });
        Ok(())
    }

    /// The TCP addresses on which it listens.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.listeners.iter().filter_map(|listening| listening.socket.address())
    }

    /// The descriptors on which it listens.
    #[cfg(unix)]
    pub(crate) fn listening_fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.listeners.iter().map(|listening| listening.socket.fd())
    }

    pub(crate) fn is_listening(&self) -> bool {
        !self.listeners.is_empty()
    }

    /// Stops listening. The operating system refuses connections that wait to be accepted, unless
    /// another process holds the socket too.
    pub(crate) fn stop_listening(&mut self) {
        for mut listening in self.listeners.drain(..) {
            // The poll watches a socket until the last duplicate is closed.
            if let Err(error) = self.poll.registry().deregister(listening.socket.source()) {
                log::warn!("cannot stop watching a listening socket: {error}");
            }
        }
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
        let Some(listening) = self.listeners.get(listener) else { return Accepted::None };
        listening.socket.accept()
    }

    /// Whether another connection may be waiting at this listener.
    pub(crate) fn may_accept_more(&self, listener: usize) -> bool {
        self.listeners.get(listener).is_some_and(|listening| listening.socket.may_accept_more())
    }

    /// What the connections of this listener begin with.
    pub(crate) fn over(&self, listener: usize) -> &Over {
        &self.listeners[listener].over
    }

    /// The stream of a connection that was accepted.
    pub(crate) fn stream(&self, socket: PlainStream, over: &Over) -> Stream {
        match over {
            Over::Plain => Stream::Plain(socket),
            #[cfg(feature = "_tls")]
            Over::Tls(tls) => Stream::Tls(Box::new(self.tls.accept(socket, tls))),
        }
    }

    /// Returns a registry by which other code registers sources with this poll.
    pub(crate) fn registry(&self) -> io::Result<mio::Registry> {
        self.poll.registry().try_clone()
    }

    /// Registers the connection of the bus.
    #[cfg(feature = "redis")]
    pub(crate) fn register_bus(&self, stream: &mut PlainStream) -> io::Result<()> {
        self.register_for(stream, Ready::Bus, Interest::READABLE | Interest::WRITABLE)
    }

    /// Registers a socket once, for everything, edge-triggered; that is never changed again. Urgent
    /// data is included because a read ends at its mark: its event means that a short read is not
    /// the last.
    pub(crate) fn register(&self, stream: &mut PlainStream, token: Token) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let interest = interest | Interest::PRIORITY;
        self.register_for(stream, Ready::Connection(token), interest)
    }

    fn register_for(
        &self,
        stream: &mut PlainStream,
        ready: Ready,
        interest: Interest,
    ) -> io::Result<()> {
        let token = mio::Token(ready.encode());
        match stream {
            PlainStream::Tcp(socket) => self.poll.registry().register(socket, token, interest),
            #[cfg(unix)]
            PlainStream::Unix(socket) => self.poll.registry().register(socket, token, interest),
            // The harness reports the readiness of these.
            #[cfg(feature = "testing")]
            PlainStream::Memory(_) => Ok(()),
        }
    }
}

#[cfg(unix)]
impl AsFd for Reactor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.poll.registry().as_fd()
    }
}
