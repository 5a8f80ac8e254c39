//! What comes in from one peer: from the bytes that were read to what listeners have to hear of.
//!
//! It knows no listener, and what becomes of a connection is not decided here: a close frame, a violation and too much of anything are
//! handed to `life`.

use std::borrow::Cow;
use std::io;

use super::{Hub, named};
use crate::connection::{Phase, Transport};
use crate::error::Error;
use crate::event::Event;
use crate::protocol::{Decoded, Message, Opcode};
use crate::token::Token;

/// What a peer sent, when somebody has to hear of it.
pub(crate) enum Received<'i> {
    /// It is not upgraded: what is in the input belongs to its request, or comes behind it.
    Request,
    Message(Message<'i>),
    /// A ping, which is answered, or a pong.
    Control(Event, Cow<'i, [u8]>),
}

impl<T: Transport> Hub<T> {
    /// Reads from a connection's socket, once; `None` if it is gone. What comes is a sign of life. It is to be handed to
    /// [`receive`](Self::receive), and up to [`end_input`](Self::end_input) the connection's own replies are collected.
    pub(crate) fn read(&mut self, token: Token, buffer: &mut [u8]) -> Option<io::Result<usize>> {
        let connection = named(&mut self.connections, token)?;
        let result = connection.socket.read(buffer);
        if let Ok(read @ 1..) = result {
            self.stats.bytes_in += read as u64;
            self.active = Some(token.index);
            if matches!(connection.phase, Phase::Open) {
                connection.time = self.now;
                // Its entry in the timers was for its death; the next ping may be due sooner.
                if std::mem::take(&mut connection.pinged) {
                    self.arm(token.index);
                }
            }
        }
        Some(result)
    }

    /// The same for what was not read just now.
    pub(crate) fn begin_input(&mut self, token: Token) {
        self.active = Some(token.index);
    }

    /// Decodes from the front of `input` until there is something to tell; `None` when nothing more will come of it.
    pub(crate) fn receive<'i>(&mut self, token: Token, input: &mut &'i mut [u8]) -> Option<Received<'i>> {
        while !input.is_empty() {
            let connection = named(&mut self.connections, token)?;
            let open = match &connection.phase {
                Phase::Open => true,
                Phase::Closing(farewell) if !farewell.answered && !farewell.broken => false,
                Phase::Handshaking(_) | Phase::Parked(_) => return Some(Received::Request),
                // What comes behind the peer's close frame, too (RFC 6455 §5.5.1).
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
                    return Some(Received::Message(message));
                }
                Ok(Some(Decoded::Compressed(compressed))) if open => {
                    let limit = self.limits.rules.max_message;
                    match connection.compression.as_mut()?.inflate(&mut self.common, compressed, limit) {
                        Ok(message) => {
                            self.stats.messages_in += 1;
                            return Some(Received::Message(message));
                        }
                        Err(violation) => self.fail(token, Error::Protocol(violation)),
                    }
                    return None;
                }
                Ok(Some(Decoded::Ping(data))) if open => {
                    self.push_control(token, Opcode::Pong, &data);
                    return Some(Received::Control(Event::Ping, data));
                }
                Ok(Some(Decoded::Pong(data))) if open => return Some(Received::Control(Event::Pong, data)),
                Ok(Some(Decoded::Close(frame))) => {
                    self.peer_closed(token, frame);
                    return None;
                }
                // After our own close frame only the peer's is of interest (RFC 6455 §7.1.2).
                Ok(Some(_)) => {}
                Err(violation) => {
                    self.fail(token, Error::Protocol(violation));
                    return None;
                }
            }
        }
        None
    }

    /// Writes the replies of the connection whose input was handled.
    pub(crate) fn end_input(&mut self, token: Token) {
        self.active = None;
        self.flush(token);
    }
}
