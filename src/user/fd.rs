//! A descriptor as a source, so that the loop can watch more than mio's sockets.

use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, AsRawFd};

use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use socket2::SockRef;

/// A source for [`Sockets::add_source`](crate::Sockets::add_source), made of anything with a
/// descriptor that the system's poll can watch: a terminal, a pipe, a timerfd, an inotify instance.
/// A regular file cannot be watched. The `Fd` is used like the value inside it ([`Deref`]). (mio's
/// own [`SourceFd`] borrows the descriptor, so that it cannot be given away.)
///
/// ```
/// use std::io::{ErrorKind, Read};
/// use ikisocket::mio::Interest;
/// use ikisocket::{Fd, Server};
///
/// let (reader, _writer) = std::io::pipe()?;
/// let mut server = Server::bind("127.0.0.1:0", ())?;
/// server.add_source(Fd::nonblocking(reader)?, Interest::READABLE, |_, sockets, pipe, _| {
///     let mut bytes = [0; 4096];
///     loop {
///         match pipe.read(&mut bytes) {
///             Ok(0) => break,
///             Ok(len) => _ = sockets.broadcast(&bytes[..len]),
///             Err(error) if error.kind() == ErrorKind::WouldBlock => break,
///             Err(error) => return eprintln!("pipe: {error}"),
///         }
///     }
/// })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Fd<T>(T);

impl<T: AsFd> Fd<T> {
    /// Makes a source and leaves the descriptor's mode unchanged. If the descriptor is blocking, as
    /// a terminal is, read at most once in each call: the next read could stop the whole loop.
    #[must_use]
    pub fn new(inner: T) -> Self {
        Self(inner)
    }

    /// Makes a source whose descriptor is non-blocking (`O_NONBLOCK`). The flag belongs to the open
    /// file, so it affects every process that shares it: do not do this to a terminal.
    ///
    /// # Errors
    ///
    /// The operating system's error.
    pub fn nonblocking(inner: T) -> io::Result<Self> {
        // This is fcntl(2), which works on every descriptor.
        SockRef::from(&inner).set_nonblocking(true)?;
        Ok(Self(inner))
    }
}

impl<T> Fd<T> {
    /// Returns the value inside.
    #[must_use]
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Deref for Fd<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Fd<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T: AsFd> Source for Fd<T> {
    fn register(
        &mut self,
        registry: &Registry,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        SourceFd(&self.0.as_fd().as_raw_fd()).register(registry, token, interest)
    }

    fn reregister(
        &mut self,
        registry: &Registry,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        SourceFd(&self.0.as_fd().as_raw_fd()).reregister(registry, token, interest)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        SourceFd(&self.0.as_fd().as_raw_fd()).deregister(registry)
    }
}
