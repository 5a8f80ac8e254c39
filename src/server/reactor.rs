//! The reactor: the poll, and what it watches.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
#[cfg(unix)]
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use mio::{Events, Interest, Poll};

use crate::token::{Ready, Token};
use crate::transport::{Accepted, Listener, Stream};

/// Events taken from the operating system at once, at most.
const EVENTS: usize = 1024;

pub(crate) struct Reactor {
    poll: Poll,
    pub(crate) events: Events,
    listeners: Vec<Listener>,
    /// There may be connections of which a short read does not say that nothing more is there.
    pub(crate) short_may_hide: bool,
}

impl Reactor {
    /// It takes no more than `events` at once; the rest stays with the operating system.
    pub(crate) fn new(events: usize) -> io::Result<Self> {
        let events = Events::with_capacity(events.min(EVENTS));
        Ok(Self { poll: Poll::new()?, events, listeners: Vec::new(), short_may_hide: false })
    }

    pub(crate) fn listen(&mut self, mut listener: Listener) -> io::Result<()> {
        let token = mio::Token(Ready::Listener(self.listeners.len()).encode());
        self.poll.registry().register(listener.source(), token, Interest::READABLE)?;
        log::info!("listening on {listener}");
        self.short_may_hide |= !listener.short_means_empty();
        self.listeners.push(listener);
        Ok(())
    }

    /// The TCP addresses that are listened on.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.listeners.iter().filter_map(Listener::address)
    }

    /// The descriptors that are listened on.
    #[cfg(unix)]
    pub(crate) fn listening_fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.listeners.iter().map(Listener::fd)
    }

    pub(crate) fn is_listening(&self) -> bool {
        !self.listeners.is_empty()
    }

    /// Stops listening; those that wait to be accepted are refused by the operating system, unless
    /// somebody else holds the socket too.
    pub(crate) fn stop_listening(&mut self) {
        for mut listener in self.listeners.drain(..) {
            // The poll watches a socket until the last duplicate is closed.
            if let Err(error) = self.poll.registry().deregister(listener.source()) {
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
        self.listeners.get(listener).map_or(Accepted::None, Listener::accept)
    }

    /// What wakes the poll from another thread. There is one for each poll.
    pub(crate) fn waker(&self) -> io::Result<mio::Waker> {
        mio::Waker::new(self.poll.registry(), mio::Token(Ready::Inbox.encode()))
    }

    /// Where else sources can be registered with this poll.
    pub(crate) fn registry(&self) -> io::Result<mio::Registry> {
        self.poll.registry().try_clone()
    }

    /// Registered once, for everything, edge-triggered: it is never changed again. Urgent data is
    /// asked for because a read ends at its mark: its event says that a short read is not the last.
    pub(crate) fn register(&self, stream: &mut Stream, token: Token) -> io::Result<()> {
        let token = mio::Token(Ready::Connection(token).encode());
        let interest = Interest::READABLE | Interest::WRITABLE;
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let interest = interest | Interest::PRIORITY;
        match stream {
            Stream::Tcp(stream) => self.poll.registry().register(stream, token, interest),
            #[cfg(unix)]
            Stream::Unix(stream) => self.poll.registry().register(stream, token, interest),
            // The harness tells what it is ready for.
            #[cfg(feature = "testing")]
            Stream::Memory(_) => Ok(()),
        }
    }
}

#[cfg(unix)]
impl AsFd for Reactor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.poll.registry().as_fd()
    }
}
