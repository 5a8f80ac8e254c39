//! The stream of a connection: its socket, plain or with TLS on it.

use std::io::{self, IoSlice, Read, Write};

use super::plain::PlainStream;
#[cfg(feature = "_tls")]
use super::tls::{Tls, TlsStream};
use crate::error::Error;
#[cfg(feature = "_tls")]
use crate::error::TlsFailure;

/// What the connections of a listening socket begin with.
#[derive(Clone)]
pub(crate) enum Over {
    Plain,
    #[cfg(feature = "_tls")]
    Tls(Tls),
}

/// The stream that carries a connection's bytes.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(PlainStream),
    #[cfg(feature = "_tls")]
    Tls(Box<TlsStream>),
}

impl From<PlainStream> for Stream {
    fn from(socket: PlainStream) -> Self {
        Self::Plain(socket)
    }
}

impl Read for Stream {
    #[inline]
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(into),
            #[cfg(feature = "_tls")]
            Self::Tls(stream) => stream.read(into),
        }
    }
}

impl Write for Stream {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            #[cfg(feature = "_tls")]
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    #[inline]
    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write_vectored(slices),
            #[cfg(feature = "_tls")]
            Self::Tls(stream) => stream.write_vectored(slices),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream {
    /// Reads on the fast path; `None` if the stream is over TLS, which has none.
    #[inline(always)]
    pub(crate) fn read_usual(&mut self, into: &mut [u8]) -> Option<io::Result<usize>> {
        match self {
            Self::Plain(socket) => Some(socket.read(into)),
            #[cfg(feature = "_tls")]
            Self::Tls(_) => None,
        }
    }

    pub(crate) fn socket(&self) -> &PlainStream {
        match self {
            Self::Plain(socket) => socket,
            #[cfg(feature = "_tls")]
            Self::Tls(stream) => stream.socket(),
        }
    }

    pub(crate) fn socket_mut(&mut self) -> &mut PlainStream {
        match self {
            Self::Plain(socket) => socket,
            #[cfg(feature = "_tls")]
            Self::Tls(stream) => stream.socket_mut(),
        }
    }

    /// Sends FIN: nothing more will be written. Over TLS, close_notify comes before it, and both
    /// may wait until the socket takes them.
    pub(crate) fn shutdown_write(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.shutdown_write(),
            #[cfg(feature = "_tls")]
            Self::Tls(stream) => stream.shutdown_write(),
        }
    }

    /// Turns the next drop into a reset, if the stream has one.
    pub(crate) fn reset_on_drop(&mut self) {
        match self {
            Self::Plain(socket) => socket.reset_on_drop(),
            #[cfg(feature = "_tls")]
            Self::Tls(stream) => stream.reset_on_drop(),
        }
    }

    /// The bytes that wait for the socket, beside those in the outbox.
    pub(crate) fn unsent(&self) -> usize {
        match self {
            Self::Plain(_) => 0,
            #[cfg(feature = "_tls")]
            Self::Tls(stream) => stream.unsent(),
        }
    }

    /// Whether its TLS handshake is not complete: its next step may be one that takes much time.
    pub(crate) fn is_handshaking(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            #[cfg(feature = "_tls")]
            Self::Tls(stream) => stream.is_handshaking(),
        }
    }

    /// Whether the last read over TLS may have left something in the socket: the length of the
    /// plaintext does not tell it. `None` if the stream is plain, or if nothing has come.
    pub(crate) fn has_more_over_tls(&self) -> Option<bool> {
        match self {
            Self::Plain(_) => None,
            #[cfg(feature = "_tls")]
            Self::Tls(stream) => stream.has_read().then(|| stream.has_more()),
        }
    }

    /// Whether the FIN of [`shutdown_write`](Self::shutdown_write) waits for the socket.
    pub(crate) fn is_ending(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            #[cfg(feature = "_tls")]
            Self::Tls(stream) => stream.is_ending(),
        }
    }

    /// The error of an open connection whose peer has ended its input.
    pub(crate) fn lost(&self) -> Error {
        match self {
            #[cfg(feature = "_tls")]
            Self::Tls(stream) if stream.is_truncated() => Error::Tls(TlsFailure::Truncated),
            _ => Error::Lost,
        }
    }

    /// The stream over TLS, if it is one.
    #[cfg(feature = "_tls")]
    pub(crate) fn tls(&self) -> Option<&TlsStream> {
        if let Self::Tls(stream) = self { Some(stream) } else { None }
    }

    /// The stream over TLS, if it is one, to write to it.
    #[cfg(feature = "_tls")]
    pub(crate) fn tls_mut(&mut self) -> Option<&mut TlsStream> {
        if let Self::Tls(stream) = self { Some(stream) } else { None }
    }
}
