//! Input of one peer: turns the bytes that were read into the units for which listeners are called.
//!
//! It knows no listener, and does not decide a connection's fate: a close frame, a violation and an
//! exceeded limit are handed to `transitions`.

use std::borrow::Cow;
use std::io::{self, Read as _};

use uuid::Uuid;

use super::connection::ReadLater;
use super::phase::{PeerClose, Phase};
use super::sending::open;
use super::{Hub, named};
use crate::error::Error;
use crate::event::Event;
use crate::protocol::{Decoded, Message, Opcode, Payload, Violation};
use crate::token::Token;

/// The cost of a message, a ping or a pong, in bytes of a turn's work: the same as a KiB that is
/// read.
pub(crate) const MESSAGE: usize = 1024;
/// The cost of a frame that is decoded and dropped.
const SKIPPED: usize = 128;

/// A unit of the peer's input that the server has to handle.
pub(crate) enum Received<'i> {
    /// The connection is not upgraded: the input belongs to its request, or comes behind it.
    Request,
    Message(Message<'i>),
    /// A ping, which is answered, or a pong.
    Control(Event, Cow<'i, [u8]>),
    /// A message was decompressed in part: [`inflate_on`](Hub::inflate_on) continues it before
    /// anything behind it is handled.
    Unfinished,
}

impl Hub {
    /// Reads from a connection's socket, once; `None` if the connection has ended. Input is a sign
    /// of life. The caller hands it to [`receive`](Self::receive); until
    /// [`end_input`](Self::end_input) the connection's own replies are collected.
    #[inline]
    pub(crate) fn read(&mut self, token: Token, buffer: &mut [u8]) -> Option<io::Result<usize>> {
        self.read_if::<false>(token, buffer)
    }

    /// The same for the fast path: the connection is open, does not wait to be read, and its socket
    /// is not full. `None` for all others.
    #[inline]
    pub(crate) fn read_usual(
        &mut self,
        token: Token,
        buffer: &mut [u8],
    ) -> Option<io::Result<usize>> {
        self.read_if::<true>(token, buffer)
    }

    #[inline(always)]
    fn read_if<const USUAL: bool>(
        &mut self,
        token: Token,
        buffer: &mut [u8],
    ) -> Option<io::Result<usize>> {
        let connection = named(&mut self.connections, token)?;
        if USUAL
            && (!connection.is_open()
                || connection.read_later != ReadLater::No
                || connection.outbox.is_blocked())
        {
            return None;
        }
        let result = match USUAL {
            true => connection.stream.read_usual(buffer)?,
            false => connection.stream.read(buffer),
        };
        #[cfg(feature = "_tls")]
        if !USUAL {
            self.work += self.tls.take_work();
        }
        // Over TLS, bytes without plaintext are a sign of life too: a part of a record, for
        // instance.
        let some = matches!(result, Ok(1..))
            || (!USUAL && connection.stream.has_more_over_tls().is_some());
        if some && matches!(connection.phase, Phase::Open) {
            connection.time = self.now;
            // Its entry in the timers was for its time-out; the next ping may be due sooner.
            if std::mem::take(&mut connection.ping_sent) {
                self.arm(token.index);
            }
        }
        if let Ok(read @ 1..) = result {
            self.stats.bytes_in += read as u64;
            self.active = Some(token.index);
        }
        Some(result)
    }

    /// See [`Stream::has_more_over_tls`](crate::transport::Stream::has_more_over_tls).
    pub(crate) fn has_more_over_tls(&self, token: Token) -> Option<bool> {
        self.get(token)?.stream.has_more_over_tls()
    }

    /// The same as [`read`](Self::read) for input that was read earlier. It is a sign of life only
    /// now: the peer's next one waits behind it.
    pub(crate) fn begin_input(&mut self, token: Token) {
        self.active = Some(token.index);
        if let Some(connection) = open(&mut self.connections, token) {
            connection.time = self.now;
            if std::mem::take(&mut connection.ping_sent) {
                self.arm(token.index);
            }
        }
    }

    /// The route of a connection, if it is open.
    #[inline]
    pub(crate) fn route_of_open(&mut self, token: Token) -> Option<u32> {
        open(&mut self.connections, token).map(|connection| connection.route)
    }

    /// The message at the front of `input` and the connection's uuid, if the message is there
    /// whole, as most are, and is not compressed. Otherwise [`receive`](Self::receive) finds out
    /// what is there.
    #[inline]
    pub(crate) fn next_message<'i>(
        &mut self,
        token: Token,
        input: &mut &'i mut [u8],
    ) -> Option<(Payload<'i>, Uuid)> {
        let connection = open(&mut self.connections, token)?;
        match connection.decoder.whole_message(input, &self.limits.rules)? {
            Ok(message) => {
                self.stats.messages_in += 1;
                self.work += MESSAGE;
                Some((message, connection.uuid))
            }
            Err(violation) => {
                self.fail(token, Error::Protocol(violation));
                None
            }
        }
    }

    /// Decodes from the front of `input` until there is something to handle; `None` when the input
    /// holds nothing more.
    #[inline(never)]
    pub(crate) fn receive<'i>(
        &mut self,
        token: Token,
        input: &mut &'i mut [u8],
    ) -> Option<Received<'i>> {
        while !input.is_empty() {
            let connection = named(&mut self.connections, token)?;
            let open = match &connection.phase {
                Phase::Open => true,
                Phase::Closing(close) if close.peer == PeerClose::Awaited => false,
                Phase::Handshaking(_) | Phase::Parked(_) => return Some(Received::Request),
                // This includes bytes behind the peer's close frame (RFC 6455 §5.5.1).
                _ => return None,
            };
            let rules = match connection.compression {
                None => &self.limits.rules,
                Some(_) => &self.limits.compressed_rules,
            };
            match connection.decoder.decode(input, rules) {
                Ok(None) => return None,
                Ok(Some(Decoded::Message(message))) if open => {
                    self.stats.messages_in += 1;
                    self.work += MESSAGE;
                    return Some(Received::Message(message));
                }
                Ok(Some(Decoded::Compressed(compressed))) if open => {
                    let limit = self.limits.rules.max_message;
                    let compression = connection.compression.as_mut()?;
                    let result =
                        compression.inflate(&mut self.common, compressed, limit, &mut self.work);
                    return self.inflated(token, result);
                }
                Ok(Some(Decoded::Ping(data))) if open => {
                    self.push_control(token, Opcode::Pong, &data);
                    self.work += MESSAGE;
                    return Some(Received::Control(Event::Ping, data));
                }
                Ok(Some(Decoded::Pong(data))) if open => {
                    self.work += MESSAGE;
                    return Some(Received::Control(Event::Pong, data));
                }
                Ok(Some(Decoded::Close(frame))) => {
                    self.peer_closed(token, frame);
                    return None;
                }
                // After our own close frame only the peer's matters (RFC 6455 §7.1.2).
                Ok(Some(_)) => self.work += SKIPPED,
                Err(violation) => {
                    self.fail(token, Error::Protocol(violation));
                    return None;
                }
            }
        }
        None
    }

    /// Continues with a message that was decompressed in part.
    pub(crate) fn inflate_on(&mut self, token: Token) -> Option<Received<'static>> {
        let compression = open(&mut self.connections, token)?.compression.as_mut()?;
        let result = compression.inflate_on(self.limits.rules.max_message, &mut self.work);
        self.inflated(token, result)
    }

    /// Forgets a message that was decompressed in part.
    pub(crate) fn forget_unfinished(&mut self, token: Token) {
        if let Some(compression) =
            self.get_mut(token).and_then(|connection| connection.compression.as_mut())
        {
            compression.forget_unfinished();
        }
    }

    pub(crate) fn is_inflating(&self, token: Token) -> bool {
        self.get(token).is_some_and(|connection| connection.is_inflating())
    }

    fn inflated(
        &mut self,
        token: Token,
        result: Result<Option<Message<'static>>, Violation>,
    ) -> Option<Received<'static>> {
        match result {
            Ok(Some(message)) => {
                self.stats.messages_in += 1;
                self.work += MESSAGE;
                Some(Received::Message(message))
            }
            Ok(None) => Some(Received::Unfinished),
            Err(violation) => {
                self.fail(token, Error::Protocol(violation));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::test_kit::{hub, open};
    use crate::outbox::SendOptions;

    #[test]
    fn bytes_behind_the_close_frame_of_a_stuck_peer_take_no_memory() {
        let mut hub = hub();
        let (token, _far) = open(&mut hub, 0);
        hub.emit(token, Opcode::Binary, &[0; 100], &SendOptions::USUAL);
        hub.flush_dirty();
        hub.peer_closed(token, None);
        // Half a message; the masking key is zero.
        let mut half = *b"\x01\x85\0\0\0\0abcde";
        let mut input = &mut half[..];
        assert!(hub.receive(token, &mut input).is_none());
        assert!(hub.get(token).unwrap().decoder.is_idle());
    }
}
