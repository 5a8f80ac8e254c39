//! Writing bytes to a socket, and how many are offered at a time.

use std::io::{self, ErrorKind, IoSlice, Write};

use crate::protocol::frame_len;

/// A payload from this size on is written from its own memory instead of being copied: below this
/// size, a copy is cheaper than the system call that it may save.
pub(crate) const WRITE_THROUGH: usize = 16 * 1024;

/// The number of staged bytes of one connection from which on they are offered to its socket
/// without waiting for the end of the callback.
pub(crate) const STAGE_SHARE: usize = 64 * 1024;

/// Appends the compressed form of a payload, to which that of the next one refers.
pub(super) type Compress<'c> = dyn FnMut(&[u8], &mut Vec<u8>) + 'c;

/// The result of a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flushed {
    /// All waiting bytes were taken.
    All,
    /// The socket is full, and bytes wait.
    Blocked,
    /// The same as `All`, for a socket that had been full: its peer has read, which is a sign of
    /// life.
    Emptied,
    /// The same as `Blocked`, but bytes were taken since the socket was found full, which is a sign
    /// of life too.
    Progress,
}

/// The beginning of the frame that holds byte `at` of `frames`, or `at` itself if a frame ends just
/// before it.
pub(super) fn frame_start(frames: &[u8], at: usize) -> usize {
    let mut start = 0;
    while let Some(len) = frame_len(&frames[start..]) {
        if start + len > at {
            break;
        }
        start += len;
    }
    start
}

pub(super) fn offer_one(out: &mut impl Write, bytes: &[u8]) -> io::Result<usize> {
    taken(|| out.write(bytes))
}

pub(super) fn offer(out: &mut impl Write, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    taken(|| out.write_vectored(slices))
}

/// The number of bytes that the socket took: 0 if it would block; an interrupted write is tried
/// again.
#[inline]
fn taken(mut write: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match write() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
            result => return result,
        }
    }
}
