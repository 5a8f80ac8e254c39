//! One connection: the upgrade, what is to be sent, what was received. Knows no poll and no other
//! connection.

use super::deflate::Unpacker;
use super::handshake::{Upgrade, new_key};
use super::tape::{Cursor, Tape, encode_masked};
use super::tls::Session;
use super::{Failure, Listener, Target};
use crate::clock::Nanos;
use crate::sample::Received;
use ikisocket::protocol::{
    CloseFrame, Compressed, Decoded, Decoder, Message, Opcode, Payload, Rules, Violation,
};
use mio::net::TcpStream;
use std::io::{self, Write};

/// A connection, with the `data` that a scenario keeps for it.
pub struct Connection<T> {
    pub data: T,
    /// Its place in the fleet. A later connection may get the same one.
    pub token: usize,
    pub(super) stream: TcpStream,
    tls: Option<Box<Session>>,
    phase: Phase,
    decoder: Decoder,
    /// Received since the message before, in bytes.
    wire_len: usize,
    was_compressed: bool,
    /// The server's compressed messages refer to each other; its own unpacker is made for the first
    /// one.
    refers_back: bool,
    unpacker: Option<Box<Unpacker>>,
    /// Frames that are not on the tape: they go out as soon as no other frame is begun.
    queued: Vec<u8>,
    cursor: Cursor,
    /// Already on the fleet's list of those to write to.
    pub(super) is_dirty: bool,
    /// Does not read.
    pub(super) is_stalled: bool,
}

/// What all connections of a fleet receive by.
pub(super) struct Terms<'f> {
    pub upgrade: &'f Upgrade,
    /// What was asked for.
    pub path: &'f str,
    pub rules: &'f Rules,
    /// For messages that refer to no other.
    pub unpacker: &'f mut Option<Unpacker>,
}

enum Phase {
    /// From connect(2) to the end of the server's answer.
    Opening {
        since: Nanos,
        key: String,
        answer: Vec<u8>,
    },
    Open,
    /// Our Close frame is queued; the server's is not here yet.
    Closing,
    /// To be reset without a word.
    Leaving,
}

/// Why a connection is no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// We closed it, and the server agreed.
    Closed,
    /// We left.
    Left,
    Failed(Failure),
}

impl<E: Into<Failure>> From<E> for End {
    fn from(failure: E) -> End {
        End::Failed(failure.into())
    }
}

impl<T> Connection<T> {
    pub(super) fn new(
        stream: TcpStream,
        token: usize,
        target: &Target,
        upgrade: &Upgrade,
        data: T,
        now: Nanos,
    ) -> Result<Self, Failure> {
        let key = new_key();
        let tls = target.tls.as_ref().map(Session::new).transpose()?;
        Ok(Connection {
            data,
            token,
            stream,
            tls: tls.map(Box::new),
            queued: upgrade.request(&target.url, &key),
            phase: Phase::Opening { since: now, key, answer: Vec::new() },
            decoder: Decoder::new(),
            wire_len: 0,
            was_compressed: false,
            refers_back: false,
            unpacker: None,
            cursor: Cursor::default(),
            is_dirty: false,
            is_stalled: false,
        })
    }

    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    /// When the connecting began, if it has not ended.
    pub fn opening_since(&self) -> Option<Nanos> {
        match self.phase {
            Phase::Opening { since, .. } => Some(since),
            Phase::Open | Phase::Closing | Phase::Leaving => None,
        }
    }

    /// The tape is sent from this frame on.
    pub fn start_at(&mut self, frame: usize) {
        self.cursor = Cursor::at(frame);
    }

    /// The next `frames` of the tape are to be sent.
    pub fn owe(&mut self, frames: usize) {
        self.cursor.owe(frames);
    }

    /// A message that is not on the tape is to be sent.
    pub fn send(&mut self, opcode: Opcode, payload: &[u8]) {
        encode_masked(opcode, false, payload, &mut self.queued);
    }

    /// As [`send`](Self::send), of a payload that is compressed.
    pub fn send_compressed(&mut self, opcode: Opcode, payload: &[u8]) {
        encode_masked(opcode, true, payload, &mut self.queued);
    }

    /// The size of the message that the listener is called with: of its `payload`, and on the wire
    /// with its frames and control frames between them.
    pub fn received(&self, payload: Payload<'_>) -> Received {
        Received { payload: payload.len(), wire: self.wire_len, compressed: self.was_compressed }
    }

    /// A Close frame is to be sent (an empty one: each server has an answer to it), and nothing
    /// more. The server's Close frame ends the connection.
    pub fn close(&mut self) {
        if self.is_open() {
            self.cursor.forget_unbegun();
            self.send(Opcode::Close, &[]);
            self.phase = Phase::Closing;
        }
    }

    /// The connection is to end now, without a Close frame: a TCP reset.
    pub fn leave(&mut self) {
        self.phase = Phase::Leaving;
    }

    /// Writes what there is to write, until the socket takes no more.
    pub(super) fn flush(&mut self, tape: &Tape) -> io::Result<()> {
        match self.try_flush(tape) {
            // Not connected: the first bytes wait for the connection.
            Err(e)
                if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected) =>
            {
                Ok(())
            }
            result => result,
        }
    }

    fn try_flush(&mut self, tape: &Tape) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            tls.flush(&mut self.stream)?;
        }
        loop {
            let from_queue = !self.queued.is_empty() && !self.cursor.is_inside_a_frame();
            let bytes = if from_queue {
                &self.queued[..]
            } else if self.cursor.is_done() {
                return Ok(());
            } else if self.queued.is_empty() {
                self.cursor.bytes(tape)
            } else {
                self.cursor.rest_of_frame(tape)
            };
            let result = match &mut self.tls {
                Some(tls) => tls.write(bytes),
                None => self.stream.write(bytes),
            };
            let written = match result {
                // Before the end of the handshake TLS keeps only so much.
                Ok(0) => return Ok(()),
                Ok(written) => written,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            let is_short = written < bytes.len();
            if !from_queue {
                self.cursor.advance(tape, written);
            } else if is_short {
                self.queued.drain(..written);
            } else {
                self.queued = Vec::new();
            }
            match &mut self.tls {
                // What it has taken is as good as written. It takes more once this is sent.
                Some(tls) => tls.flush(&mut self.stream)?,
                // The socket is full; its readiness will come as an event.
                None if is_short => return Ok(()),
                None => {}
            }
        }
    }

    /// Whether what was received is encrypted. Then what it says is appended to `plaintext`.
    pub(super) fn decrypt(
        &mut self,
        received: &[u8],
        plaintext: &mut Vec<u8>,
    ) -> Result<bool, Failure> {
        let Some(tls) = &mut self.tls else { return Ok(false) };
        tls.receive(received, plaintext)?;
        Ok(true)
    }

    /// Takes what was received at `now`, and passes the messages to the listener.
    pub(super) fn receive<L: Listener<Data = T>>(
        &mut self,
        mut input: &mut [u8],
        now: Nanos,
        terms: Terms<'_>,
        listener: &mut L,
    ) -> Result<(), End> {
        if let Phase::Opening { key, answer, .. } = &mut self.phase {
            let before = answer.len();
            answer.extend_from_slice(input);
            let checked = terms.upgrade.check_answer(answer, key);
            let Some(agreed) = checked.map_err(|failure| failure.of_path(terms.path))? else {
                return Ok(());
            };
            let taken = agreed.length.saturating_sub(before);
            self.refers_back = agreed.refers_back;
            self.phase = Phase::Open;
            listener.opened(self, now);
            if matches!(self.phase, Phase::Leaving) {
                return Err(End::Left);
            }
            input = &mut input[taken..];
        }
        loop {
            let before = input.len();
            let decoded = self.decoder.decode(&mut input, terms.rules);
            self.wire_len += before - input.len();
            let message = match decoded {
                Ok(None) => return Ok(()),
                Ok(Some(Decoded::Message(message))) => {
                    self.was_compressed = false;
                    message
                }
                Ok(Some(Decoded::Compressed(compressed))) => {
                    self.was_compressed = true;
                    self.unpack(compressed, terms.rules.max_message, terms.unpacker)?
                }
                Ok(Some(Decoded::Ping(payload))) => {
                    self.send(Opcode::Pong, &payload);
                    continue;
                }
                Ok(Some(Decoded::Pong(_))) => continue,
                Ok(Some(Decoded::Close(_))) if !self.is_open() => return Err(End::Closed),
                Ok(Some(Decoded::Close(close))) => {
                    return Err(Failure::Closed(describe(close)).into());
                }
                Err(violation) => return Err(violation.into()),
            };
            listener.message(self, message.payload(), now);
            self.wire_len = 0;
        }
    }

    /// What a compressed message holds; `common` is for messages that refer to no other.
    fn unpack(
        &mut self,
        compressed: Compressed<'_>,
        limit: usize,
        common: &mut Option<Unpacker>,
    ) -> Result<Message<'static>, Violation> {
        if self.refers_back {
            let own = self.unpacker.get_or_insert_with(|| Box::new(Unpacker::new()));
            return own.unpack(compressed, limit);
        }
        let common = common.get_or_insert_with(Unpacker::new);
        common.forget();
        common.unpack(compressed, limit)
    }
}

fn describe(close: Option<CloseFrame<'_>>) -> String {
    match close {
        None => "an empty close frame".to_owned(),
        Some(close) if close.reason.is_empty() => format!("code {}", close.code),
        Some(close) => format!("code {}: {:?}", close.code, close.reason),
    }
}
