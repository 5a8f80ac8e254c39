//! The client's side of a connection in memory: frames out, with masks, and from the server's bytes to what a test compares.
//!
//! It knows the protocol in the client's role. It knows no server and no clock.

use super::wire::{End, FarEnd};
use crate::protocol::{
    CloseCode, Compressed, Decoded, Decoder, FrameHeader, Message, Opcode, Role, Rules, Violation, apply_mask,
    encode_close,
};

/// Something that a client got. It equals a `&str` if it is that text.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Received {
    /// A text message.
    Text(String),
    /// A binary message.
    Binary(Vec<u8>),
    /// A message that is still compressed: only for a client whose request offered permessage-deflate. See `protocol::Inflater`.
    Compressed {
        /// What comes out of it is text.
        is_text: bool,
        /// The DEFLATE stream.
        payload: Vec<u8>,
    },
    /// A ping. A client that was not made [unresponsive](super::Upgrade::unresponsive) has answered it.
    Ping(Vec<u8>),
    /// A pong.
    Pong(Vec<u8>),
    /// The server's close frame.
    Close {
        /// Its code, if it has one.
        code: Option<CloseCode>,
        /// Its reason; may be empty.
        reason: String,
    },
    /// The server has ended the connection.
    Fin,
    /// The server has ended the connection with a reset.
    Reset,
    /// What no client can understand. Nothing after it is looked at.
    Violation(Violation),
}

impl Received {
    /// A text message.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// A binary message.
    #[must_use]
    pub fn binary(data: impl Into<Vec<u8>>) -> Self {
        Self::Binary(data.into())
    }

    /// A close frame with a code.
    #[must_use]
    pub fn close(code: impl Into<CloseCode>, reason: impl Into<String>) -> Self {
        Self::Close { code: Some(code.into()), reason: reason.into() }
    }
}

impl PartialEq<&str> for Received {
    fn eq(&self, text: &&str) -> bool {
        matches!(self, Self::Text(own) if own == text)
    }
}

impl From<Decoded<'_>> for Received {
    fn from(decoded: Decoded<'_>) -> Self {
        match decoded {
            Decoded::Message(Message::Text(text)) => Self::Text(text.into_owned()),
            Decoded::Message(Message::Binary(data)) => Self::Binary(data.into_owned()),
            Decoded::Compressed(Compressed { is_text, payload }) => {
                Self::Compressed { is_text, payload: payload.into_owned() }
            }
            Decoded::Ping(data) => Self::Ping(data.into_owned()),
            Decoded::Pong(data) => Self::Pong(data.into_owned()),
            Decoded::Close(None) => Self::Close { code: None, reason: String::new() },
            Decoded::Close(Some(frame)) => Self::Close { code: Some(frame.code), reason: frame.reason.into_owned() },
        }
    }
}

/// One client.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) far: FarEnd,
    pub(super) received: Vec<Received>,
    /// What a client without a protocol got.
    pub(super) bytes: Vec<u8>,
    /// How many bytes it reads; the most means all.
    pub(super) allowance: usize,
    /// Its protocol; `None`: bytes.
    speaks: Option<WebSocket>,
    ended: bool,
}

#[derive(Debug)]
struct WebSocket {
    decoder: Decoder,
    rules: Rules,
    /// It answers pings and goodbyes by itself.
    answers: bool,
    closed: bool,
    /// The server has broken the protocol.
    broken: bool,
    /// What its next masking key is made of.
    keys: u32,
}

impl Peer {
    pub(super) fn new(far: FarEnd) -> Self {
        Self { far, received: Vec::new(), bytes: Vec::new(), allowance: usize::MAX, speaks: None, ended: false }
    }

    /// From here on it speaks WebSocket; `rest` came behind the response's head.
    pub(super) fn upgrade(&mut self, rest: Vec<u8>, answers: bool) {
        let rules = Rules::default().role(Role::Client).max_message(usize::MAX).compression(true);
        self.speaks =
            Some(WebSocket { decoder: Decoder::new(), rules, answers, closed: false, broken: false, keys: 0 });
        self.bytes.clear();
        // The server may have ended the connection behind it.
        let end = std::mem::take(&mut self.received);
        self.understand(rest);
        self.received.extend(end);
        self.answer_end();
    }

    /// Sends one frame, masked (RFC 6455 §5.3) with a key that is the same in every run; a client that speaks nothing yet does too.
    pub(super) fn send_frame(&mut self, opcode: Opcode, payload: &[u8]) {
        let mut key = [0x1F, 0x2E, 0x3D, 0x4C];
        if let Some(speaks) = &mut self.speaks {
            speaks.keys = speaks.keys.wrapping_add(0x9E37_79B9);
            key = speaks.keys.to_be_bytes();
            speaks.closed |= opcode == Opcode::Close;
        }
        let header = FrameHeader { mask: Some(key), ..FrameHeader::new(opcode, payload.len() as u64) };
        let mut frame = Vec::with_capacity(header.encoded_len() + payload.len());
        header.encode(&mut frame);
        frame.extend_from_slice(payload);
        apply_mask(&mut frame[header.encoded_len()..], key, 0);
        self.far.send(&frame);
    }

    pub(super) fn send_close(&mut self, close: Option<(CloseCode, &str)>) {
        let mut payload = Vec::new();
        encode_close(close, &mut payload);
        self.send_frame(Opcode::Close, &payload);
    }

    /// Reads what is there for it, as far as it wants to, and answers; whether anything may come later.
    pub(super) fn receive(&mut self) -> bool {
        let (bytes, end) = self.far.receive(self.allowance);
        if self.allowance != usize::MAX {
            self.allowance -= bytes.len();
        }
        if !bytes.is_empty() {
            self.understand(bytes);
        }
        if let Some(end) = end
            && !self.ended
        {
            self.ended = true;
            self.received.push(if end == End::Fin { Received::Fin } else { Received::Reset });
            self.answer_end();
        }
        !(self.far.is_server_gone() && (self.ended || self.far.is_reset()))
    }

    fn understand(&mut self, mut bytes: Vec<u8>) {
        let Some(speaks) = &mut self.speaks else { return self.bytes.extend(bytes) };
        let mut input = &mut bytes[..];
        let first = self.received.len();
        while !speaks.broken {
            match speaks.decoder.decode(&mut input, &speaks.rules) {
                Ok(Some(decoded)) => self.received.push(decoded.into()),
                Ok(None) => break,
                Err(violation) => {
                    self.received.push(Received::Violation(violation));
                    speaks.broken = true;
                }
            }
        }
        if speaks.answers {
            self.answer(first);
        }
    }

    /// Answers the server's end with its own.
    fn answer_end(&self) {
        if self.ended && self.speaks.as_ref().is_some_and(|speaks| speaks.answers) {
            self.far.end(End::Fin);
        }
    }

    /// Answers what was received from `first` on: pings with pongs, and a close frame in kind (RFC 6455 §5.5).
    fn answer(&mut self, first: usize) {
        for at in first..self.received.len() {
            match &self.received[at] {
                Received::Ping(data) => {
                    let data = data.clone();
                    self.send_frame(Opcode::Pong, &data);
                }
                Received::Close { code, .. } => {
                    let code = *code;
                    if self.speaks.as_ref().is_some_and(|speaks| !speaks.closed) {
                        self.send_close(code.map(|code| (code, "")));
                    }
                }
                _ => {}
            }
        }
    }
}
