//! Plain streams: a connection's socket, or its end of a pair in memory.
//!
//! A write that takes less than it is offered means that the socket takes nothing more at the
//! moment, and that an event follows when it does. An outbox does not offer the rest before that. A
//! read that fills less than the whole buffer means the same for input if `short_means_empty` is
//! true.
//!
//! It knows system calls and their oddities. It knows no poll and nothing of what the bytes mean.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
#[cfg(unix)]
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use mio::net::TcpStream;
#[cfg(unix)]
use mio::net::UnixStream;
use socket2::SockRef;

#[cfg(feature = "testing")]
use super::memory::Wire;

/// Whether a short write to a TCP socket by itself means that the socket is full and that an event
/// follows (epoll(7), question 9). On other systems the event may come only after a write that
/// would block.
///
/// With `TCP_NOTSENT_LOWAT` (see `listen`) a socket is full when that number of bytes is unsent,
/// and the event comes when less than half of it is. A test over TCP checks that an event still
/// follows a short write.
const SHORT_MEANS_FULL: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// Whether a short read from a TCP socket by itself means that the socket is empty. The poll
/// reports the two exceptions with the event: the end of the stream, and urgent data (`MSG_OOB`). A
/// read ends at the mark of urgent data, whatever lies behind it. On other systems the poll does
/// not report urgent data.
///
/// The urgent byte itself is never read. `SO_OOBINLINE` (RFC 6093 §6) would put it into the stream,
/// where it could only be mistaken for a part of a frame: WebSocket has no urgent data. Without
/// that option it is not part of the stream, as its sender intended. Of several urgent bytes that
/// the loop has not passed yet, systems keep only the last one apart; the others become part of the
/// stream.
pub(crate) const SHORT_MEANS_EMPTY: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// A socket, of one of the kinds.
#[derive(Debug)]
pub(crate) enum PlainStream {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
    /// In memory, with a test at the other end.
    #[cfg(feature = "testing")]
    Memory(Wire),
}

/// A socket that was accepted just now. It can be sent to another thread.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

impl From<Socket> for PlainStream {
    fn from(socket: Socket) -> Self {
        match socket {
            Socket::Tcp(socket) => Self::Tcp(socket),
            #[cfg(unix)]
            Socket::Unix(socket) => Self::Unix(socket),
        }
    }
}

impl Read for PlainStream {
    #[inline]
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(into),
            #[cfg(any(unix, feature = "testing"))]
            _ => self.read_other(into),
        }
    }
}

impl Write for PlainStream {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) if SHORT_MEANS_FULL => stream.write(bytes),
            _ => self.write_until_full(&[IoSlice::new(bytes)]),
        }
    }

    #[inline]
    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) if SHORT_MEANS_FULL => unsignalled(stream).write_vectored(slices),
            _ => self.write_until_full(slices),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl PlainStream {
    /// Whether a short read means that the socket is empty, unless the event named a reason to read
    /// on. For a Unix socket it never does: a read also ends at passed descriptors (`SCM_RIGHTS`),
    /// which no event reports.
    pub(crate) fn short_means_empty(&self) -> bool {
        match self {
            Self::Tcp(_) => SHORT_MEANS_EMPTY,
            #[cfg(unix)]
            Self::Unix(_) => false,
            #[cfg(feature = "testing")]
            Self::Memory(_) => true,
        }
    }

    /// The TCP stream, if it is one.
    pub(crate) fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            #[cfg(unix)]
            Self::Unix(_) => None,
            #[cfg(feature = "testing")]
            Self::Memory(_) => None,
        }
    }

    /// Its descriptor, if it has one.
    #[cfg(unix)]
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Tcp(stream) => Some(stream.as_fd()),
            Self::Unix(stream) => Some(stream.as_fd()),
            #[cfg(feature = "testing")]
            Self::Memory(_) => None,
        }
    }

    /// Sends FIN: nothing more will be written.
    pub(crate) fn shutdown_write(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(std::net::Shutdown::Write),
            #[cfg(unix)]
            Self::Unix(stream) => stream.shutdown(std::net::Shutdown::Write),
            #[cfg(feature = "testing")]
            Self::Memory(wire) => wire.shutdown_write(),
        }
    }

    /// Turns the next drop into a reset, if the stream has one, so that the peer cannot mistake
    /// half a message for a whole one.
    pub(crate) fn reset_on_drop(&self) {
        match self {
            // A zero linger time turns the close into a reset. If it cannot be set, the peer sees
            // FIN, which is no worse than without this call.
            Self::Tcp(stream) => {
                let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
            }
            // A Unix socket has no reset: the peer sees the end in the middle of a frame.
            #[cfg(unix)]
            Self::Unix(_) => {}
            #[cfg(feature = "testing")]
            Self::Memory(wire) => wire.reset_on_drop(),
        }
    }

    /// Reads from streams other than TCP, out of the way of the fast path.
    #[cfg(any(unix, feature = "testing"))]
    #[inline(never)]
    fn read_other(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(into),
            #[cfg(unix)]
            Self::Unix(stream) => stream.read(into),
            #[cfg(feature = "testing")]
            Self::Memory(wire) => wire.read(into),
        }
    }

    /// Writes until everything is taken or the socket would block.
    #[inline(never)]
    fn write_until_full(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => write_until_full(&mut unsignalled(stream), slices),
            #[cfg(unix)]
            Self::Unix(stream) => write_until_full(&mut unsignalled(stream), slices),
            // A stream in memory takes everything that it can at once.
            #[cfg(feature = "testing")]
            Self::Memory(wire) => wire.write_vectored(slices),
        }
    }
}

/// `MSG_NOSIGNAL` (send(2)), which has the same value on every processor.
#[cfg(any(target_os = "linux", target_os = "android"))]
const NO_SIGNAL: std::ffi::c_int = 0x4000;

/// The same socket, whose writes raise no SIGPIPE. Otherwise a write to a peer that is gone raises
/// it, unless the write is one slice over TCP, and ends a process that does not ignore it. Programs
/// in Rust do; a program in another language that calls Rust may not.
///
/// `sendmsg` also takes 0.05 to 0.1 µs less than `writev`.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn unsignalled(socket: &impl AsFd) -> Unsignalled<'_> {
    Unsignalled(SockRef::from(socket))
}

/// Elsewhere the standard library's own write serves.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn unsignalled<W: Write>(socket: &mut W) -> &mut W {
    socket
}

#[cfg(any(target_os = "linux", target_os = "android"))]
struct Unsignalled<'s>(SockRef<'s>);

#[cfg(any(target_os = "linux", target_os = "android"))]
impl Write for Unsignalled<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send_with_flags(bytes, NO_SIGNAL)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.send_vectored_with_flags(slices, NO_SIGNAL)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Offers `slices`, then the part that was not taken, until the socket would block.
fn write_until_full(out: &mut impl Write, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    let mut taken = out.write_vectored(slices)?;
    while let Some(rest) = rest_of_slice(slices, taken) {
        match out.write(rest) {
            Ok(0) => break,
            Ok(more) => taken += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // The socket is full, or broken, which the poll reports too.
            Err(_) => break,
        }
    }
    Ok(taken)
}

/// The rest of the first slice that was not taken whole, after `taken` bytes of all slices were
/// taken.
fn rest_of_slice<'s>(slices: &'s [IoSlice<'_>], mut taken: usize) -> Option<&'s [u8]> {
    for slice in slices {
        if taken < slice.len() {
            return Some(&slice[taken..]);
        }
        taken -= slice.len();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes at most this number of bytes from each write, and `room` in all.
    struct Narrow {
        most: usize,
        room: usize,
        interrupt: bool,
        taken: Vec<u8>,
    }

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.interrupt = !self.interrupt;
            if self.interrupt && !self.taken.is_empty() {
                return Err(ErrorKind::Interrupted.into());
            }
            let len = bytes.len().min(self.most).min(self.room);
            if len == 0 {
                return Err(ErrorKind::WouldBlock.into());
            }
            self.room -= len;
            self.taken.extend_from_slice(&bytes[..len]);
            Ok(len)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn if_short_writes_mean_nothing_the_rest_is_offered_until_it_blocks() {
        let slices = [&b"one"[..], b"", b"two", b"three"];
        let whole = slices.concat();
        for most in [1, 2, 3, 4, 100] {
            for room in 1..=whole.len() + 1 {
                let mut out = Narrow { most, room, interrupt: false, taken: Vec::new() };
                let taken = write_until_full(&mut out, &slices.map(IoSlice::new)).unwrap();
                assert_eq!(taken, room.min(whole.len()), "{most} at a time into {room}");
                assert_eq!(out.taken, whole[..taken]);
            }
        }
        let mut full = Narrow { most: 1, room: 0, interrupt: false, taken: Vec::new() };
        let error = write_until_full(&mut full, &slices.map(IoSlice::new)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }
}
