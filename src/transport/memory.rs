//! A connection in memory: the server's end is a transport, the harness moves the peer's end.
//!
//! It behaves like a TCP socket under an edge-triggered poll. An event is due once when there is
//! something new, and not again until the server has met "would block" or a short read or write. It
//! knows bytes, ends and faults, and not the meaning of the bytes.

use std::cell::{Ref, RefCell, RefMut};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::rc::Rc;

use super::faults::{End, Faults};

/// The readiness that a poll would report for the server's end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Readiness {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    pub(crate) read_closed: bool,
}

/// The state between the two ends.
#[derive(Debug)]
pub(crate) struct Pipe {
    faults: Faults,
    /// Bytes that the peer has sent and the server has not read, and the end behind them.
    to_server: VecDeque<u8>,
    peer_end: Option<End>,
    /// Bytes that the server has written and the peer has not read, and the end behind them.
    to_peer: Vec<u8>,
    server_end: Option<End>,
    /// The server's end will end with a reset.
    reset_on_drop: bool,
    /// Events that are due.
    readable: bool,
    writable: bool,
    /// The server would have written more.
    full: bool,
    sent: usize,
    received: usize,
    reading: Mood,
    writing: Mood,
}

/// The next fault of a kind of call.
#[derive(Debug, Default)]
enum Mood {
    #[default]
    Interrupted,
    WouldBlock,
    Good,
}

impl Mood {
    /// The fault that precedes a call that would move bytes, if there is one: first the one kind,
    /// then the other, then none.
    fn fault(&mut self, faults: &Faults) -> Option<ErrorKind> {
        if matches!(self, Self::Interrupted) {
            *self = Self::WouldBlock;
            if faults.interrupted {
                return Some(ErrorKind::Interrupted);
            }
        }
        if matches!(self, Self::WouldBlock) {
            *self = Self::Good;
            if faults.would_block {
                return Some(ErrorKind::WouldBlock);
            }
        }
        *self = Self::Interrupted;
        None
    }
}

/// The peer's end.
#[derive(Debug)]
pub(crate) struct FarEnd(Rc<RefCell<Pipe>>);

/// The server's end. Dropped, it is closed.
#[derive(Debug)]
pub(crate) struct Wire(Rc<RefCell<Pipe>>);

/// The two ends of a new connection: the server's and the peer's.
pub(crate) fn pair(faults: Faults) -> (Wire, FarEnd) {
    let pipe = Pipe {
        faults,
        to_server: VecDeque::new(),
        peer_end: None,
        to_peer: Vec::new(),
        server_end: None,
        reset_on_drop: false,
        readable: false,
        writable: true,
        full: false,
        sent: 0,
        received: 0,
        reading: Mood::default(),
        writing: Mood::default(),
    };
    let pipe = Rc::new(RefCell::new(pipe));
    let far = FarEnd(Rc::clone(&pipe));
    far.pipe_mut().end_if_due();
    (Wire(pipe), far)
}

impl FarEnd {
    fn pipe(&self) -> Ref<'_, Pipe> {
        self.0.borrow()
    }

    fn pipe_mut(&self) -> RefMut<'_, Pipe> {
        self.0.borrow_mut()
    }

    /// Takes the events that are due.
    pub(crate) fn take_readiness(&self) -> Option<Readiness> {
        let mut pipe = self.pipe_mut();
        let readiness = Readiness {
            readable: std::mem::take(&mut pipe.readable),
            writable: std::mem::take(&mut pipe.writable),
            read_closed: pipe.peer_end.is_some(),
        };
        (readiness.readable || readiness.writable).then_some(readiness)
    }

    pub(crate) fn has_readiness(&self) -> bool {
        let pipe = self.pipe();
        pipe.readable || pipe.writable
    }

    /// From now on it has these faults, and their bytes are counted from here: all that was sent
    /// before was no part of the test. The events are those of a new connection, which is readable
    /// too if the server has something to find.
    #[cfg(feature = "_tls")]
    pub(crate) fn begin(&self, faults: Faults, readable: bool) {
        let mut pipe = self.pipe_mut();
        (pipe.faults, pipe.sent, pipe.received) = (faults, 0, 0);
        (pipe.readable, pipe.writable) = (readable, true);
        pipe.end_if_due();
    }

    /// Makes all events due, whether or not anything has happened.
    pub(crate) fn wake(&self) {
        let mut pipe = self.pipe_mut();
        (pipe.readable, pipe.writable) = (true, true);
    }

    /// Sends bytes of the peer. They are lost behind its end, or when the server's end is closed.
    pub(crate) fn send(&self, bytes: &[u8]) {
        let mut pipe = self.pipe_mut();
        if pipe.peer_end.is_some() || pipe.is_server_gone(&self.0) {
            return;
        }
        let most = pipe.faults.end_after_sending.map_or(usize::MAX, |(at, _)| at - pipe.sent);
        let bytes = &bytes[..bytes.len().min(most)];
        pipe.to_server.extend(bytes);
        pipe.sent += bytes.len();
        pipe.readable |= !bytes.is_empty();
        pipe.end_if_due();
    }

    /// Ends the peer's side.
    pub(crate) fn end(&self, end: End) {
        self.pipe_mut().end(end);
    }

    /// Reads up to `most` bytes of what the server has written, and its end if that is next.
    pub(crate) fn receive(&self, most: usize) -> (Vec<u8>, Option<End>) {
        let mut pipe = self.pipe_mut();
        let len = most.min(pipe.to_peer.len());
        let rest = pipe.to_peer.split_off(len);
        let bytes = std::mem::replace(&mut pipe.to_peer, rest);
        let unread = match pipe.faults.reads_per_second {
            Some(_) => 2 * pipe.to_peer.len(),
            None => pipe.to_peer.len(),
        };
        if pipe.full && unread < pipe.faults.window {
            pipe.full = false;
            pipe.writable = true;
        }
        let end = pipe
            .server_end
            .filter(|_| pipe.to_peer.is_empty() && len < most && pipe.peer_end != Some(End::Reset));
        (bytes, end)
    }

    /// Ends the server's side, as its process has ended: what it has written is sent, and it writes
    /// nothing more.
    #[cfg(feature = "redis")]
    pub(crate) fn end_server(&self) {
        self.pipe_mut().server_end = Some(End::Fin);
    }

    /// The number of bytes that the server has not read.
    #[cfg(feature = "redis")]
    pub(crate) fn unread_by_server(&self) -> usize {
        self.pipe().to_server.len()
    }

    /// The number of bytes that the peer has not read.
    #[cfg(feature = "redis")]
    pub(crate) fn unread_by_peer(&self) -> usize {
        self.pipe().to_peer.len()
    }

    /// Whether the peer has reset the connection.
    pub(crate) fn is_reset(&self) -> bool {
        self.pipe().peer_end == Some(End::Reset)
    }

    /// Whether the server has dropped its end.
    pub(crate) fn is_server_gone(&self) -> bool {
        self.pipe().is_server_gone(&self.0)
    }
}

impl Pipe {
    /// Whether only the far end holds it.
    fn is_server_gone(&self, holder: &Rc<RefCell<Self>>) -> bool {
        Rc::strong_count(holder) == 1
    }

    fn end(&mut self, end: End) {
        if self.peer_end != Some(End::Reset) {
            self.peer_end = Some(end);
            self.readable = true;
            self.writable |= end == End::Reset;
        }
    }

    /// Ends the peer's side if its faults say so.
    fn end_if_due(&mut self) {
        if let Some((at, end)) = self.faults.end_after_sending
            && self.sent >= at
        {
            self.end(end);
        }
        if self.faults.reset_after_receiving.is_some_and(|at| self.received >= at) {
            self.end(End::Reset);
        }
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.to_server.is_empty() && self.peer_end.is_none() {
            return Err(ErrorKind::WouldBlock.into());
        }
        if let Some(fault) = self.reading.fault(&self.faults) {
            self.readable |= fault == ErrorKind::WouldBlock;
            return Err(fault.into());
        }
        if self.to_server.is_empty() {
            return if self.peer_end == Some(End::Fin) {
                Ok(0)
            } else {
                Err(ErrorKind::ConnectionReset.into())
            };
        }
        let len = into.len().min(self.to_server.len()).min(self.faults.read_at_most);
        for (byte, sent) in into.iter_mut().zip(self.to_server.drain(..len)) {
            *byte = sent;
        }
        self.readable |= len < into.len() && !self.to_server.is_empty();
        Ok(len)
    }

    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.server_end.is_some() || self.peer_end == Some(End::Reset) {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let room = self.faults.window.saturating_sub(self.to_peer.len());
        if room == 0 {
            self.full = true;
            return Err(ErrorKind::WouldBlock.into());
        }
        if let Some(fault) = self.writing.fault(&self.faults) {
            self.writable |= fault == ErrorKind::WouldBlock;
            return Err(fault.into());
        }
        let offered: usize = slices.iter().map(|slice| slice.len()).sum();
        let until_reset =
            self.faults.reset_after_receiving.map_or(usize::MAX, |at| at - self.received);
        let len = offered.min(room).min(self.faults.write_at_most).min(until_reset);
        let end = self.to_peer.len() + len;
        for slice in slices {
            let rest = end - self.to_peer.len();
            self.to_peer.extend_from_slice(&slice[..slice.len().min(rest)]);
        }
        self.received += len;
        if len < offered {
            self.full = len == room;
            self.writable |= !self.full;
        }
        self.end_if_due();
        Ok(len)
    }
}

impl Read for Wire {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.borrow_mut().read(into)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.borrow_mut().write(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Wire {
    pub(crate) fn shutdown_write(&self) -> io::Result<()> {
        let mut pipe = self.0.borrow_mut();
        if pipe.peer_end == Some(End::Reset) {
            return Err(ErrorKind::NotConnected.into());
        }
        pipe.server_end = Some(End::Fin);
        Ok(())
    }

    pub(crate) fn reset_on_drop(&self) {
        self.0.borrow_mut().reset_on_drop = true;
    }
}

impl Drop for Wire {
    /// If the server has left bytes unread, its end becomes a reset, as with TCP (RFC 2525 §2.17).
    fn drop(&mut self) {
        let mut pipe = self.0.borrow_mut();
        let reset = pipe.reset_on_drop || !pipe.to_server.is_empty();
        pipe.server_end = Some(if reset { End::Reset } else { End::Fin });
    }
}

/// Methods with which the tests of the hub look at and change the state.
#[cfg(test)]
impl FarEnd {
    /// Lets the server write this number of bytes more.
    pub(crate) fn make_room(&self, bytes: usize) {
        let mut pipe = self.pipe_mut();
        pipe.faults.window = pipe.to_peer.len().saturating_add(bytes);
    }

    /// The way in which the server has ended its side, or will when it drops it.
    pub(crate) fn server_end(&self) -> Option<End> {
        let pipe = self.pipe();
        if pipe.reset_on_drop { Some(End::Reset) } else { pipe.server_end }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(result: io::Result<usize>) -> Result<usize, ErrorKind> {
        result.map_err(|error| error.kind())
    }

    #[test]
    fn an_event_is_due_once_and_again_after_a_call_has_met_the_end() {
        let (mut wire, far) = pair(Faults::none().segments(2).window(3));
        let mut buffer = [0; 8];
        assert!(far.take_readiness().unwrap().writable, "as a new socket is");
        assert!(far.take_readiness().is_none());

        far.send(b"abc");
        assert!(far.take_readiness().unwrap().readable);
        assert_eq!(kind(wire.read(&mut buffer)), Ok(2));
        assert!(far.take_readiness().unwrap().readable, "the next segment");
        assert_eq!(kind(wire.read(&mut buffer)), Ok(1));
        assert_eq!(kind(wire.read(&mut buffer)), Err(ErrorKind::WouldBlock));
        assert!(far.take_readiness().is_none());

        assert_eq!(kind(wire.write(b"abcd")), Ok(2));
        assert!(far.take_readiness().unwrap().writable);
        assert_eq!(kind(wire.write(b"cd")), Ok(1));
        assert!(far.take_readiness().is_none(), "it is full");
        assert_eq!(far.receive(1), (b"a".to_vec(), None));
        assert!(far.take_readiness().unwrap().writable);
    }

    #[test]
    fn each_call_that_moves_bytes_first_meets_the_faults() {
        let (mut wire, far) = pair(Faults::none().interrupted().would_block());
        let mut buffer = [0; 8];
        assert_eq!(kind(wire.read(&mut buffer)), Err(ErrorKind::WouldBlock));
        for _ in 0..2 {
            far.send(b"a");
            assert_eq!(kind(wire.read(&mut buffer)), Err(ErrorKind::Interrupted));
            assert_eq!(kind(wire.read(&mut buffer)), Err(ErrorKind::WouldBlock));
            assert!(far.take_readiness().unwrap().readable);
            assert_eq!(kind(wire.read(&mut buffer)), Ok(1));
            assert_eq!(kind(wire.write(b"a")), Err(ErrorKind::Interrupted));
            assert_eq!(kind(wire.write(b"a")), Err(ErrorKind::WouldBlock));
            assert!(far.take_readiness().unwrap().writable);
            assert_eq!(kind(wire.write(b"a")), Ok(1));
        }
    }

    #[test]
    fn the_ends_stand_behind_the_bytes() {
        let (mut wire, far) = pair(Faults::none().fin_after_sending(2));
        let mut buffer = [0; 8];
        far.send(b"abc");
        assert!(far.take_readiness().unwrap().read_closed);
        assert_eq!(kind(wire.read(&mut buffer)), Ok(2));
        assert_eq!(kind(wire.read(&mut buffer)), Ok(0));
        assert_eq!(kind(wire.write(b"still")), Ok(5));
        drop(wire);
        assert_eq!(far.receive(usize::MAX), (b"still".to_vec(), Some(End::Fin)));

        let (mut wire, far) = pair(Faults::none().reset_after_receiving(2));
        far.send(b"abc");
        assert_eq!(kind(wire.write(b"abc")), Ok(2));
        assert_eq!(kind(wire.write(b"c")), Err(ErrorKind::BrokenPipe));
        assert_eq!(kind(wire.read(&mut buffer)), Ok(3));
        assert_eq!(kind(wire.read(&mut buffer)), Err(ErrorKind::ConnectionReset));

        let (wire, far) = pair(Faults::none());
        far.send(b"unread");
        drop(wire);
        assert_eq!(far.receive(usize::MAX), (vec![], Some(End::Reset)));
        assert!(far.is_server_gone());
    }
}
