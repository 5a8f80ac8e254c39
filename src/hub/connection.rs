//! One peer from its accept to its removal: its phase, its decoder, its outbox and the attributes
//! of user code.
//!
//! It knows no poll, no clock and no listener. `phase` decides which phase follows which; this file
//! decides when a phase has lasted too long.

use std::io;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::num::NonZeroU16;

use uuid::Uuid;

use super::attributes::Attributes;
use super::phase::Phase;
use crate::config::{Limits, SlowReader};
use crate::http::Request;
use crate::outbox::{Agreed, Common, Encoding, Flushed, Outbox, Stage};
use crate::protocol::Decoder;
use crate::transport::{PeerAddress, Stream, canonical};

/// A peer's address as a connection stores it: half as large as [`PeerAddress`] for most.
pub(crate) enum KeptAddress {
    V4(SocketAddrV4),
    V6(Box<SocketAddrV6>),
    Unix,
}

impl From<PeerAddress> for KeptAddress {
    fn from(address: PeerAddress) -> Self {
        match address {
            PeerAddress::Tcp(address) => match canonical(address) {
                SocketAddr::V4(address) => Self::V4(address),
                SocketAddr::V6(address) => Self::V6(Box::new(address)),
            },
            PeerAddress::Unix => Self::Unix,
        }
    }
}

impl KeptAddress {
    pub(crate) fn get(&self) -> PeerAddress {
        match self {
            Self::V4(address) => PeerAddress::Tcp((*address).into()),
            Self::V6(address) => PeerAddress::Tcp((**address).into()),
            Self::Unix => PeerAddress::Unix,
        }
    }
}

/// Whether a connection waits to be read, and how far it is then read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ReadLater {
    #[default]
    No,
    /// It is read when it is ready again, not before: it took much of its last turn.
    Heavy,
    /// It is read until a short read.
    UntilShort,
    /// It is read to the end of the stream, which may be behind a short read.
    ToTheEnd,
}

/// The number of bytes that a peer may have left unread without needing more time than the close
/// timeout: a second's worth at the default closing rate.
const SOON_READ: u64 = 32 * 1024;

/// The next thing to do with a connection if nothing happens before, and its time.
#[derive(Clone, Copy)]
pub(crate) struct Deadline {
    pub(super) at: u64,
    pub(super) timeout: Timeout,
}

/// The thing to do with a connection whose time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timeout {
    /// The request head is late, or the answer to the request is.
    Handshake,
    /// A ping is due.
    Ping,
    /// The peer gave no sign of life.
    Silent,
    /// The peer takes none of the waiting bytes.
    Stalled,
    /// A close or a response took too long.
    Close,
}

pub(crate) struct Connection {
    pub(crate) stream: Stream,
    pub(crate) phase: Phase,
    pub(crate) outbox: Outbox,
    pub(crate) decoder: Decoder,
    /// The state of compression, if it was agreed on.
    pub(crate) compression: Option<Agreed>,
    pub(crate) generation: u32,
    /// The route of the server by which it came.
    pub(crate) route: u32,
    /// The subprotocol that was agreed on: its number in the route's list, counted from 1.
    pub(crate) subprotocol: Option<NonZeroU16>,
    /// It is on the list of connections with something to write.
    pub(crate) dirty: bool,
    /// Whether it is in the backlog of connections that wait to be read.
    pub(crate) read_later: ReadLater,
    /// The policy when more bytes would wait than may.
    pub(crate) slow_reader: SlowReader,
    /// At least the high-water mark waits, and it has not sunk to the low one since.
    pub(crate) over_high_water: bool,
    /// `pressure` fired last, not `relief`.
    pub(crate) pressure_fired: bool,
    /// A ping was sent, and no sign of life came since.
    pub(crate) ping_sent: bool,
    /// Its socket has been full at least once.
    pub(crate) was_blocked: bool,
    /// The peer's FIN has arrived.
    pub(crate) finished: bool,
    /// The number of bytes that its socket has taken, up to 4 GiB: the kernel holds no more than
    /// that.
    pub(crate) taken: u32,
    /// Milliseconds on the loop's clock, like all times here. Before it is open: the time of its
    /// accept. While open: its last sign of life. Afterwards: the time by which it must have ended.
    pub(crate) time: u64,
    pub(crate) uuid: Uuid,
    pub(crate) request: Option<Request>,
    pub(crate) attributes: Attributes,
    pub(crate) peer: KeptAddress,
}

impl Connection {
    pub(crate) fn new(stream: Stream, peer: PeerAddress, generation: u32, now: u64) -> Self {
        Self {
            stream,
            phase: Phase::Handshaking(None),
            outbox: Outbox::Empty,
            decoder: Decoder::new(),
            compression: None,
            generation,
            route: 0,
            subprotocol: None,
            dirty: false,
            read_later: ReadLater::No,
            slow_reader: SlowReader::Disconnect,
            over_high_water: false,
            pressure_fired: false,
            ping_sent: false,
            was_blocked: false,
            finished: false,
            taken: 0,
            time: now,
            uuid: Uuid::nil(),
            request: None,
            attributes: Attributes::default(),
            peer: peer.into(),
        }
    }

    /// The encoding of a message of `len` bytes.
    #[inline]
    pub(crate) fn encoding(&self, len: usize, compress: bool) -> Encoding {
        self.compression
            .as_ref()
            .filter(|_| compress)
            .map_or(Encoding::Plain, |compression| compression.encoding(len))
    }

    /// Whether waiting messages are compressed just before they are offered to the socket.
    #[inline]
    pub(crate) fn compresses_late(&self) -> bool {
        self.compression.as_ref().is_some_and(|compression| compression.keeps_context())
    }

    /// The cost of compressing a message of `len` bytes when it goes to the socket, in bytes of a
    /// turn's budget. It counts when the message is queued. If the message waits for a socket that
    /// takes nothing, it counts when the socket takes it: [`Common::late_work`].
    pub(crate) fn late_work(&self, len: usize) -> usize {
        self.compression.as_ref().map_or(0, |compression| compression.late_work(len))
    }

    /// Offers the outbox to the socket. Inlined by force: called, it costs 38 instructions of an
    /// echo's 751.
    #[inline(always)]
    pub(crate) fn flush(
        &mut self,
        stage: &mut Stage,
        common: &mut Common,
        now: u64,
    ) -> io::Result<Flushed> {
        let written = stage.written;
        let result = match &mut self.compression {
            Some(compression) if compression.keeps_context() => {
                let mut compress = |payload: &[u8], out: &mut Vec<u8>| {
                    compression.deflate_next(common, payload, out);
                };
                self.outbox.flush_compressing(stage, &mut self.stream, now, &mut compress)
            }
            _ => self.outbox.flush(stage, &mut self.stream, now),
        };
        self.count_taken(stage, written);
        if matches!(result, Ok(Flushed::All)) { result } else { self.note(result, now) }
    }

    /// Evaluates a flush that did not simply take everything.
    #[cold]
    fn note(&mut self, result: io::Result<Flushed>, now: u64) -> io::Result<Flushed> {
        let result = result.map(|flushed| self.with_progress(flushed, now));
        // Bytes that a socket takes at once are no sign of life: the kernel takes them even if the
        // peer's host has vanished.
        if let Ok(Flushed::Emptied | Flushed::Progress) = result
            && self.is_open()
        {
            self.time = now;
            self.ping_sent = false;
        }
        if let Ok(Flushed::Blocked | Flushed::Progress) = result {
            self.was_blocked = true;
        }
        result
    }

    /// A part of a TLS record that the socket has taken is progress too. Its plaintext counts as
    /// taken when the rest of it has left.
    fn with_progress(&mut self, flushed: Flushed, now: u64) -> Flushed {
        #[cfg(feature = "_tls")]
        if self.stream.tls_mut().is_some_and(|stream| stream.take_progress())
            && flushed == Flushed::Blocked
        {
            self.outbox.note_progress(now);
            return Flushed::Progress;
        }
        let _ = now;
        flushed
    }

    /// Whether the peer would lack the rest of a frame if the outbox were dropped. A frame whose
    /// last byte is only withheld by TLS is complete once its record has left.
    pub(crate) fn is_mid_frame(&self) -> bool {
        #[cfg(feature = "_tls")]
        if self.outbox.rest_of_frame() == 1 && self.stream.tls().is_some_and(|tls| tls.withholds())
        {
            return false;
        }
        self.outbox.is_mid_frame()
    }

    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    /// Whether a message was decompressed in part: nothing more is read before the rest of it is.
    #[inline]
    pub(crate) fn is_inflating(&self) -> bool {
        self.compression.as_ref().is_some_and(|compression| compression.is_inflating())
    }

    /// Whether it is not open any more: our close frame or our response is queued or sent.
    pub(crate) fn is_closing(&self) -> bool {
        matches!(
            self.phase,
            Phase::Closing(_) | Phase::Draining | Phase::HalfClosed { .. } | Phase::Dead
        )
    }

    /// Whether its TLS handshake is not complete, and it has not ended.
    pub(crate) fn is_shaking_hands(&self) -> bool {
        !self.is_closing() && self.stream.is_handshaking()
    }

    /// The next deadline if nothing happens before; `None` if the connection is dead.
    pub(crate) fn deadline(&self, limits: &Limits) -> Option<Deadline> {
        let deadline = match &self.phase {
            Phase::Handshaking(_) | Phase::Parked(_) => {
                let at = self.time.saturating_add(limits.handshake_timeout);
                Deadline { at, timeout: Timeout::Handshake }
            }
            Phase::Open => {
                let ping = self.time.saturating_add(limits.ping_after);
                if self.ping_sent {
                    self.or_stalled(ping.saturating_add(limits.dead_after), Timeout::Silent, limits)
                } else {
                    self.or_stalled(ping, Timeout::Ping, limits)
                }
            }
            // No progress moves this deadline: a peer that slows its reading to a crawl would hold
            // the connection open for ever.
            Phase::Closing(_) | Phase::Draining | Phase::HalfClosed { .. } => {
                self.or_stalled(self.time, Timeout::Close, limits)
            }
            Phase::Dead => return None,
        };
        Some(deadline)
    }

    /// This deadline, or that of the stall timeout if it comes first.
    fn or_stalled(&self, at: u64, timeout: Timeout, limits: &Limits) -> Deadline {
        match self.outbox.blocked_since().map(|since| since.saturating_add(limits.stall_timeout)) {
            Some(stall) if stall < at => Deadline { at: stall, timeout: Timeout::Stalled },
            _ => Deadline { at, timeout },
        }
    }

    /// Fixes the end of a connection's time when it stops being open or a response is queued. Every
    /// waiting byte gets the time of the closing rate, and then the peer gets the time to answer.
    pub(crate) fn begin_end(&mut self, limits: &Limits, now: u64) {
        let waiting = self.outbox.waiting() + self.stream.unsent();
        let unread = waiting as u64 + self.unread(limits);
        self.time =
            now.saturating_add(limits.close_timeout).saturating_add(limits.closing_time(unread));
    }

    /// Fixes how long the peer's close frame or FIN is awaited from now on, when the socket has
    /// taken everything. Nothing else that the peer sends gives it more time.
    pub(crate) fn await_peer(&mut self, limits: &Limits, now: u64) {
        let least = now.saturating_add(limits.close_timeout);
        let answer = least.saturating_add(limits.closing_time(self.unread(limits)));
        let end =
            if matches!(self.phase, Phase::Closing(_)) { self.time } else { self.time.max(least) };
        self.time = answer.min(end);
    }

    /// The most bytes that the socket has taken and the peer may not have read. Over TLS, bytes in
    /// records that have not left count as taken.
    fn unread(&self, limits: &Limits) -> u64 {
        let taken = u64::from(self.taken).saturating_sub(self.stream.unsent() as u64);
        limits.kernel_holds.min(taken.saturating_sub(SOON_READ))
    }

    /// Counts the bytes that the socket has taken since `written` bytes were written in all.
    #[inline]
    pub(crate) fn count_taken(&mut self, stage: &Stage, written: u64) {
        // One flush of 4 GiB, which no socket's memory holds, would count as less. To count that
        // too took three instructions more of an echo's 677.
        let more = (stage.written - written) as u32;
        self.taken = self.taken.saturating_add(more);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    #[cfg(all(target_os = "linux", target_pointer_width = "64", not(feature = "deflate")))]
    fn a_slot_is_as_large_as_the_table_in_architecture_md_says() {
        use super::{Connection, Stream};

        let page = include_str!("../../ARCHITECTURE.md");
        let rows = page.lines().skip_while(|line| !line.starts_with("| bytes | field |")).skip(2);
        let bytes = rows
            .take_while(|row| row.starts_with('|'))
            .map(|row| row.split('|').nth(1).unwrap().trim());
        let all: usize = bytes.map(|bytes| bytes.parse::<usize>().unwrap()).sum();
        // In a debug build mio's streams are larger, and with a stream in memory ours is.
        assert_eq!(all - size_of::<u64>(), size_of::<Connection>() - size_of::<Stream>());
    }
}
