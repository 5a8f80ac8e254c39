//! A stream over TLS: what is read from it is plaintext, and what is written to it is encrypted.
//!
//! The outbox and the hub use it like any other stream. Four things make that possible.
//!
//! - **An outbox is empty only when its ciphertext has left.** A socket that takes a part of the
//!   records leaves ciphertext behind, which cannot be made again, and is kept here. Its plaintext
//!   is reported as taken, so that the outbox neither drops nor overtakes what is on the wire in
//!   part. But if nothing else was offered, its last byte is reported as not taken: the outbox then
//!   waits with the end of a frame. A byte in the middle of what was offered may be the first of a
//!   frame, of which the outbox would believe that nothing is on the wire.
//! - **Records are encrypted when the socket is ready for them.** At most those of one send wait
//!   for a connection, 65 KiB; all other frames wait in the outbox.
//! - **An end says that it is one.** close_notify comes before FIN, also if the stream is dropped,
//!   unless that is to be a reset. After a failure the alert comes before it, and what the peer
//!   sends until its own end is discarded: unread bytes would turn the close into a reset, which
//!   can overtake the alert.
//! - **A read that leaves something says so**, because no poll sees what waits here: an incomplete
//!   record or handshake message, which waits for more, or whole records. Those are left when the
//!   records before them have taken much time.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::rc::Rc;

use super::info::{TlsInfo, TlsStats, TlsVersion};
use super::session::{LONGEST_RECORD, RECORD, Records, Session};
use super::settings::{Config, Tls};
use crate::error::TlsFailure;
use crate::transport::plain::PlainStream;

/// The least that a receive buffer has for TLS, in bytes: an incomplete record, and as much again.
pub(crate) const LEAST_BUFFER: usize = 2 * LONGEST_RECORD;
/// The most bytes of one read.
const MOST_READ: usize = 64 * 1024;
/// The same while [`MOST_LEFT`] bytes are left of earlier reads.
const SHORT_READ: usize = 2 * 1024;
/// The bytes that all connections of a loop together leave of their reads before reads get short.
const MOST_LEFT: usize = 256 * 1024;
/// A read stops behind records with this much work: 128 short ones, or 16 key updates.
const MOST_WORK: usize = 64 * 1024;
/// The session gets this number of records at once.
const RECORDS_AT_ONCE: usize = 16;
/// The bytes of a record's header (RFC 8446 §5.1).
const HEADER: usize = 5;
/// The most bytes of a handshake that may wait for the rest of a message. A message may come in any
/// number of records, and all of them are kept until it is whole.
const MOST_HANDSHAKE: usize = 64 * 1024;
/// Records are sent together until they have this many bytes: four full ones. One send for each
/// took 1.25 times the CPU for messages of 1 MB.
const AT_ONCE: usize = 4 * RECORD;
/// A last record with at most this much plaintext is sent together with those before it. So a
/// message of 16 or 64 KiB, which takes a few bytes more than its records, needs one system call.
const SHORT_TAIL: usize = 1024;
/// The cost of a record, in bytes of a turn's work, beside its plaintext. It takes 0.2 µs, half the
/// time of an empty message.
const RECORD_WORK: usize = 512;
/// The cost of a record without plaintext, which may change the keys: 1.6 µs.
const SILENT_WORK: usize = 4096;

/// What the connections of one loop share.
#[derive(Clone, Default)]
pub(crate) struct Common(Rc<RefCell<Scratch>>);

#[derive(Default)]
struct Scratch {
    /// Ciphertext that was read.
    input: Vec<u8>,
    /// The plaintext of a record that is made of several pieces.
    plaintext: Vec<u8>,
    /// Records to be written.
    records: Records,
    stats: TlsStats,
    work: usize,
    /// The memory of whole records that reads have left, in bytes.
    left: usize,
}

impl Common {
    /// A stream over TLS, on a socket that was accepted just now.
    pub(crate) fn accept(&self, socket: PlainStream, tls: &Tls) -> TlsStream {
        TlsStream {
            socket,
            session: State::New(tls.config()),
            common: self.clone(),
            kept: Kept::default(),
            unsent: Vec::new(),
            unoffered: false,
            withheld: false,
            last_read: LastRead::Nothing,
            closed: false,
            truncated: false,
            progress: false,
            end: End::Open,
        }
    }

    pub(crate) fn stats(&self) -> TlsStats {
        self.0.borrow().stats
    }

    /// The work of records that were read since the last call, in bytes, beside their plaintext.
    pub(crate) fn take_work(&self) -> usize {
        std::mem::take(&mut self.0.borrow_mut().work)
    }
}

enum State {
    /// The peer has not sent anything.
    New(Config),
    Up(Box<Session>),
    /// It has failed, and no call has returned that yet.
    Failed(TlsFailure),
    /// It has failed, and what the peer still sends is discarded.
    Over(TlsFailure),
}

/// The result of the last read from the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LastRead {
    /// Nothing has come: it would block, was interrupted, or has failed.
    Nothing,
    /// Less than was asked for.
    Short,
    /// As much as was asked for, or the session has more to report.
    Full,
}

/// The state of our end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Open,
    /// close_notify is made, and FIN follows when everything is sent.
    Waits,
    /// Nothing more is sent: FIN was, or the socket is broken, or the end is a reset.
    Over,
}

/// Input that the session has not consumed: first what it was shown, then what it was not.
#[derive(Default)]
struct Kept {
    memory: Vec<u8>,
    /// Where it begins in `memory`.
    from: usize,
    /// The bytes of the whole records that the session was shown: a part of a handshake message.
    seen: usize,
    /// Whole records follow that the session was not shown.
    is_behind: bool,
}

impl Kept {
    fn seen(&mut self) -> &mut [u8] {
        &mut self.memory[self.from..self.from + self.seen]
    }
}

/// The result of handling input.
#[derive(Default)]
struct Handled {
    /// The bytes of input that are handled.
    consumed: usize,
    /// The bytes behind them that the session was shown, in whole records.
    seen: usize,
    plaintext: usize,
    /// Whole records follow that the session was not shown.
    is_behind: bool,
}

pub(crate) struct TlsStream {
    socket: PlainStream,
    session: State,
    common: Common,
    /// Input that the session has not consumed.
    kept: Kept,
    /// Ciphertext that the socket has not taken.
    unsent: Vec<u8>,
    /// The socket was not offered `unsent` yet: the next records are sent together with it.
    unoffered: bool,
    /// The next byte that is written is the last one of the records in `unsent`.
    withheld: bool,
    last_read: LastRead,
    /// The peer has sent close_notify.
    closed: bool,
    /// The peer has sent FIN without close_notify.
    truncated: bool,
    /// The socket has taken a part of `unsent` since that was asked last.
    progress: bool,
    end: End,
}

impl TlsStream {
    pub(crate) fn socket(&self) -> &PlainStream {
        &self.socket
    }

    pub(crate) fn socket_mut(&mut self) -> &mut PlainStream {
        &mut self.socket
    }

    /// Whether reading again may find something, though the poll reports nothing new.
    pub(crate) fn has_more(&self) -> bool {
        self.last_read == LastRead::Full
    }

    /// Whether the last read has taken bytes from the socket, with plaintext in them or not.
    pub(crate) fn has_read(&self) -> bool {
        self.last_read != LastRead::Nothing
    }

    /// Whether it has something to send that its socket was not offered.
    pub(crate) fn is_unoffered(&self) -> bool {
        self.unoffered
    }

    /// Whether the handshake is not complete: its next step may be one that takes much time.
    pub(crate) fn is_handshaking(&self) -> bool {
        match &self.session {
            State::New(_) => true,
            State::Up(session) => session.is_handshaking(),
            State::Failed(_) | State::Over(_) => false,
        }
    }

    /// Whether close_notify and FIN wait for the socket.
    pub(crate) fn is_ending(&self) -> bool {
        self.end == End::Waits
    }

    /// Whether the peer's input ended without close_notify: an attacker may have cut it off.
    pub(crate) fn is_truncated(&self) -> bool {
        self.truncated
    }

    pub(crate) fn info(&self) -> Option<TlsInfo> {
        match &self.session {
            State::Up(session) => session.info(),
            _ => None,
        }
    }

    /// Whether the next byte that is written is in a record already, which has not left.
    pub(crate) fn withholds(&self) -> bool {
        self.withheld
    }

    /// The bytes of records that have not left.
    pub(crate) fn unsent(&self) -> usize {
        self.unsent.len()
    }

    /// Whether the socket has taken a part of a record since the last call. Its plaintext counts as
    /// taken later, but the peer has read something.
    pub(crate) fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.progress)
    }

    /// Writes the rest of a record or of a handshake, if the socket takes it.
    pub(crate) fn write_unsent(&mut self) -> io::Result<()> {
        if self.send_unsent()? && self.end == End::Waits {
            self.end = End::Over;
            self.socket.shutdown_write()?;
        }
        Ok(())
    }

    /// Turns the next drop into a reset: see [`PlainStream::reset_on_drop`].
    pub(crate) fn reset_on_drop(&mut self) {
        self.end = End::Over;
        self.socket.reset_on_drop();
    }

    /// Sends close_notify (RFC 8446 §6.1), and FIN behind it. From then on only the end of the
    /// peer's input is found. The session handles nothing more: it has sent its last alert, and
    /// would have to send another one if the peer broke the protocol.
    pub(crate) fn shutdown_write(&mut self) -> io::Result<()> {
        self.close();
        self.write_unsent()
    }

    /// Makes close_notify, if nothing did and the session can say it.
    fn close(&mut self) {
        if self.end != End::Open {
            return;
        }
        self.end = End::Waits;
        if let State::Up(session) = &mut self.session {
            let records = &mut self.common.0.borrow_mut().records;
            records.clear();
            // A session that cannot write ends without.
            if session.close(self.kept.seen(), records).is_ok() {
                self.unsent.extend_from_slice(records.as_slice());
            }
        }
        self.forget_kept();
    }

    fn forget_kept(&mut self) {
        let kept = std::mem::take(&mut self.kept);
        if kept.is_behind {
            self.common.0.borrow_mut().left -= kept.memory.len();
        }
    }

    /// Returns whether all is sent.
    fn send_unsent(&mut self) -> io::Result<bool> {
        self.unoffered = false;
        if self.unsent.is_empty() {
            return Ok(true);
        }
        let sent = send(&mut self.socket, &self.unsent).inspect_err(|_| self.end = End::Over)?;
        if sent == self.unsent.len() {
            self.unsent = Vec::new();
            return Ok(true);
        }
        self.unsent.drain(..sent);
        self.progress |= sent > 0;
        Ok(false)
    }

    /// Handles input, of which the session was shown the first `seen` bytes. It stops behind
    /// records that have taken much time.
    fn receive(
        &mut self,
        input: &mut [u8],
        seen: usize,
        plaintext: &mut [u8],
        Scratch { records, stats, work, .. }: &mut Scratch,
    ) -> (Handled, Result<(), TlsFailure>) {
        let mut handled = Handled { seen, ..Handled::default() };
        if let Err(failure) = self.begin(input) {
            return (handled, Err(failure));
        }
        let State::Up(session) = &mut self.session else { return (handled, Ok(())) };
        let began = session.is_handshaking();
        let mut took = 0;
        let mut result = loop {
            let shown = handled.consumed + handled.seen;
            let (len, count) = whole_records(&input[shown..]);
            // The beginning of an incomplete record is shown too: it may be wrong.
            let is_last = count < RECORDS_AT_ONCE;
            let end = if is_last { input.len() } else { shown + len };
            let (received, result) = session.receive(
                &mut input[handled.consumed..end],
                &mut plaintext[handled.plaintext..],
                records,
            );
            handled.consumed += received.consumed;
            handled.seen = (shown + len).saturating_sub(handled.consumed);
            handled.plaintext += received.plaintext;
            self.closed |= received.closed;
            let silent = count.saturating_sub(received.records);
            took += received.records * RECORD_WORK + silent * SILENT_WORK;
            if is_last || result.is_err() || received.closed {
                break result;
            }
            if took >= MOST_WORK {
                handled.is_behind = true;
                break Ok(());
            }
        };
        *work += took;
        if began {
            session.keep_name();
        }
        if began && !session.is_handshaking() {
            stats.tls12 += u64::from(session.version() == Some(TlsVersion::Tls12));
            stats.tls13 += u64::from(session.version() == Some(TlsVersion::Tls13));
            stats.resumed += u64::from(session.is_resumed());
        }
        let most = if session.is_handshaking() { MOST_HANDSHAKE } else { LONGEST_RECORD };
        let waits = if handled.is_behind { handled.seen } else { input.len() - handled.consumed };
        if result.is_ok() && !self.closed && waits > most {
            result = Err(TlsFailure::Other("a handshake message is too long".to_owned()));
        }
        self.unsent.extend_from_slice(records.as_slice());
        (handled, result)
    }

    /// Makes the next call return the failure of a session that has failed, if it has.
    #[cfg(feature = "testing")]
    pub(crate) fn fail_again(&mut self) -> bool {
        if let State::Over(failure) = &self.session {
            self.session = State::Failed(failure.clone());
        }
        matches!(self.session, State::Failed(_))
    }

    /// Begins a session with the peer's first bytes.
    fn begin(&mut self, first: &[u8]) -> Result<(), TlsFailure> {
        let State::New(config) = &self.session else { return Ok(()) };
        if first[0] != HANDSHAKE {
            if looks_like_http(first) {
                self.unsent = PLAIN_HTTP.to_vec();
                // The response to HEAD has no body (RFC 9110 §9.3.2).
                if !first.starts_with(b"HEAD ") {
                    self.unsent.extend_from_slice(PLAIN_HTTP_BODY);
                }
                return Err(TlsFailure::PlainHttp);
            }
            return Err(TlsFailure::NotTls);
        }
        self.session = State::Up(Box::new(Session::new(config.clone())?));
        Ok(())
    }
}

/// The length of the whole records at the beginning of `input`, and their number: as many as the
/// session gets at once.
fn whole_records(input: &[u8]) -> (usize, usize) {
    let (mut len, mut count) = (0, 0);
    while count < RECORDS_AT_ONCE
        && let [_, _, _, high, low, rest @ ..] = &input[len..]
    {
        // The session refuses a record that is too long.
        let payload = usize::from(u16::from_be_bytes([*high, *low]));
        if rest.len() < payload {
            break;
        }
        len += HEADER + payload;
        count += 1;
    }
    (len, count)
}

/// The content type of a handshake record (RFC 8446 §5.1).
const HANDSHAKE: u8 = 22;

const PLAIN_HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    Connection: close\r\n\
    Content-Type: text/plain; charset=utf-8\r\n\
    Content-Length: 51\r\n\
    \r\n";
const PLAIN_HTTP_BODY: &[u8; 51] = b"This port speaks TLS: use https:// or wss:// here.\n";

/// Whether bytes begin like a request: with a method in capitals.
fn looks_like_http(first: &[u8]) -> bool {
    first.iter().take(3).all(u8::is_ascii_uppercase)
}

/// The number of bytes that the socket took: 0 if it would block.
fn send(socket: &mut PlainStream, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match socket.write(bytes) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
            result => return result,
        }
    }
}

impl Read for TlsStream {
    /// Reads once from the socket. `into` has at least [`LEAST_BUFFER`] bytes. If there is no
    /// plaintext in what has come, the error is `Interrupted`.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.last_read = LastRead::Nothing;
        if let State::Failed(failure) = &self.session {
            let failure = failure.clone();
            let error = failed(&failure);
            // The read that found it may have left something in the socket.
            self.last_read = LastRead::Full;
            self.session = State::Over(failure);
            return Err(error);
        }
        if self.closed {
            return Ok(0);
        }
        let common = self.common.clone();
        let scratch = &mut *common.0.borrow_mut();
        if self.end != End::Open || matches!(self.session, State::Over(_)) {
            return self.discard(into, scratch);
        }
        let mut kept = std::mem::take(&mut self.kept);
        if kept.is_behind {
            scratch.left -= kept.memory.len();
            // There may be more in the socket.
            self.last_read = LastRead::Full;
            let input = &mut kept.memory[kept.from..];
            let (result, handled) = self.handle(input, kept.seen, into, scratch);
            if let Some(handled) = handled {
                kept.from += handled.consumed;
                self.keep(kept, &handled, scratch);
            }
            return result;
        }
        let before = kept.memory.len();
        // Of what was kept, at most a record is plaintext.
        let most = if scratch.left < MOST_LEFT { MOST_READ } else { SHORT_READ };
        let most = most.min(into.len() - before.min(LONGEST_RECORD));
        let mut memory = std::mem::take(&mut scratch.input);
        if memory.len() < before + most {
            memory.resize(before + most, 0);
        }
        memory[..before].copy_from_slice(&kept.memory);
        let result = match self.socket.read(&mut memory[before..before + most]) {
            Ok(read @ 1..) => {
                self.last_read = if read == most { LastRead::Full } else { LastRead::Short };
                // What was kept is copied, and copied again if it is kept again.
                scratch.work += before;
                let input = &mut memory[..before + read];
                let (result, handled) = self.handle(input, kept.seen, into, scratch);
                if let Some(handled) = handled
                    && let rest @ [_, ..] = &input[handled.consumed..]
                {
                    let kept = Kept { memory: rest.to_vec(), ..Kept::default() };
                    self.keep(kept, &handled, scratch);
                }
                result
            }
            Ok(_) => {
                self.kept = kept;
                self.truncated = true;
                Ok(0)
            }
            Err(error) => {
                self.kept = kept;
                if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) {
                    self.end = End::Over;
                }
                Err(error)
            }
        };
        scratch.input = memory;
        result
    }
}

impl TlsStream {
    /// Keeps what is left of input: what `kept` has from `from` on.
    #[cold]
    fn keep(&mut self, mut kept: Kept, handled: &Handled, scratch: &mut Scratch) {
        (kept.seen, kept.is_behind) = (handled.seen, handled.is_behind);
        if kept.is_behind {
            scratch.left += kept.memory.len();
            self.last_read = LastRead::Full;
        } else if kept.from > 0 {
            kept.memory = kept.memory[kept.from..].to_vec();
            kept.from = 0;
        }
        self.kept = kept;
    }

    /// Handles input. If something of it is to be kept, the second result says where that begins.
    fn handle(
        &mut self,
        input: &mut [u8],
        seen: usize,
        into: &mut [u8],
        scratch: &mut Scratch,
    ) -> (io::Result<usize>, Option<Handled>) {
        let is_blocked = !self.unsent.is_empty() && !self.unoffered;
        scratch.records.clear();
        let (handled, result) = self.receive(input, seen, into, scratch);
        let plaintext = handled.plaintext;
        // Nothing behind close_notify counts, or behind a failure.
        let handled = (!self.closed && result.is_ok()).then_some(handled);
        let mut sent = Ok(());
        if plaintext > 0 && result.is_ok() && !is_blocked {
            // The replies to the plaintext may go out with it.
            self.unoffered = !self.unsent.is_empty();
        } else if !is_blocked || result.is_err() {
            // What the socket does not take is sent later.
            sent = self.send_unsent().map(|_| ());
        }
        let mut end = Err(ErrorKind::Interrupted.into());
        if let Err(failure) = result {
            scratch.stats.failures.count(&failure);
            end = Err(failed(&failure));
            self.session = match plaintext {
                0 => State::Over(failure),
                _ => State::Failed(failure),
            };
        } else if self.closed {
            end = Ok(0);
        } else if let Err(error) = sent {
            end = Err(error);
        }
        if plaintext == 0 {
            return (end, handled);
        }
        if self.closed || matches!(self.session, State::Failed(_)) {
            // The end, or the failure, is found by the next call.
            self.last_read = LastRead::Full;
        }
        (Ok(plaintext), handled)
    }

    /// Reads what the peer sends behind our close_notify or a failure, and forgets it.
    fn discard(&mut self, into: &mut [u8], scratch: &mut Scratch) -> io::Result<usize> {
        match self.socket.read(into)? {
            0 => Ok(0),
            read => {
                self.last_read = if read == into.len() { LastRead::Full } else { LastRead::Short };
                scratch.work += read;
                Err(ErrorKind::Interrupted.into())
            }
        }
    }
}

impl Write for TlsStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.end != End::Open {
            return Err(ErrorKind::BrokenPipe.into());
        }
        if !self.unoffered && !self.send_unsent()? {
            return Err(ErrorKind::WouldBlock.into());
        }
        let session = match &mut self.session {
            State::Up(session) => session,
            State::New(_) => return Err(ErrorKind::NotConnected.into()),
            State::Failed(failure) | State::Over(failure) => return Err(failed(failure)),
        };
        let Scratch { plaintext, records, stats, .. } = &mut *self.common.0.borrow_mut();
        let mut taken = usize::from(std::mem::take(&mut self.withheld));
        let mut left = slices.iter().map(|slice| slice.len()).sum::<usize>().saturating_sub(taken);
        if left == 0 {
            return Ok(taken);
        }
        records.clear();
        if std::mem::take(&mut self.unoffered) {
            records.put(&std::mem::take(&mut self.unsent));
        }
        loop {
            let piece = piece(slices, taken, plaintext);
            if let Err(failure) = session.encrypt(self.kept.seen(), piece, records) {
                // What was encrypted before leaves all the same, and an alert behind it.
                session.encode_queued(self.kept.seen(), records);
                self.unsent.extend_from_slice(records.as_slice());
                stats.failures.count(&failure);
                let error = failed(&failure);
                self.session = State::Over(failure);
                return Err(error);
            }
            taken += piece.len();
            left -= piece.len();
            if left > 0 && (records.as_slice().len() < AT_ONCE || left <= SHORT_TAIL) {
                continue;
            }
            let sent =
                send(&mut self.socket, records.as_slice()).inspect_err(|_| self.end = End::Over)?;
            if let rest @ [_, ..] = &records.as_slice()[sent..] {
                self.unsent.extend_from_slice(rest);
                if left > 0 {
                    return Ok(taken);
                }
                self.withheld = true;
                return match taken - 1 {
                    0 => Err(ErrorKind::WouldBlock.into()),
                    taken => Ok(taken),
                };
            }
            if left == 0 {
                return Ok(taken);
            }
            records.clear();
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The plaintext of the next record: what `slices` have from byte `from` on, up to the length of a
/// record. Short pieces are put together in `scratch`.
fn piece<'p>(slices: &'p [IoSlice<'_>], mut from: usize, scratch: &'p mut Vec<u8>) -> &'p [u8] {
    let mut rest = slices.iter();
    let first = loop {
        let Some(slice) = rest.next() else { return &[] };
        if from < slice.len() {
            break &slice[from..];
        }
        from -= slice.len();
    };
    if first.len() >= RECORD || rest.len() == 0 {
        return &first[..first.len().min(RECORD)];
    }
    scratch.clear();
    scratch.extend_from_slice(first);
    for slice in rest {
        let most = RECORD - scratch.len();
        scratch.extend_from_slice(&slice[..slice.len().min(most)]);
    }
    scratch
}

fn failed(failure: &TlsFailure) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, failure.clone())
}

/// Says close_notify if nothing did: the socket sends FIN.
impl Drop for TlsStream {
    fn drop(&mut self) {
        if self.end == End::Open {
            self.close();
            // What the socket does not take now is lost, and the peer sees that.
            let _ = self.send_unsent();
        }
        self.forget_kept();
    }
}

impl fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream").field("socket", &self.socket).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
