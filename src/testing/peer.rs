//! The client's side of a connection in memory: it sends masked frames, and turns the server's
//! bytes into values that a test compares.
//!
//! It knows the protocol in the client's role. It knows no server and no clock.

use std::fmt;
use std::time::Duration;

use super::connect::Answer;
use super::line::{Arrived, Line};
#[cfg(feature = "_tls")]
use crate::error::TlsFailure;
use crate::protocol::{
    CloseCode, Compressed, Decoded, Decoder, FrameHeader, Message, Opcode, Role, Rules, Violation,
    apply_mask, encode_close,
};
use crate::transport::faults::End;

/// Something that a client received. It equals a `&str` if it is that text. Its `Debug` output
/// shows only the beginning of long payloads.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Received {
    /// A text message.
    Text(String),
    /// A binary message.
    Binary(Vec<u8>),
    /// A message that is still compressed. Only a client whose request offered permessage-deflate
    /// gets it. See `protocol::Inflater`.
    Compressed {
        /// Whether the decompressed message is text.
        is_text: bool,
        /// The DEFLATE stream.
        payload: Vec<u8>,
    },
    /// A ping. A client that was not made [unresponsive](super::Upgrade::unresponsive) has answered
    /// it.
    Ping(Vec<u8>),
    /// A pong.
    Pong(Vec<u8>),
    /// The server's close frame.
    Close {
        /// The frame's code, if it has one.
        code: Option<CloseCode>,
        /// The frame's reason; may be empty.
        reason: String,
    },
    /// The server has ended the connection. Over TLS, it has sent close_notify before.
    Fin,
    /// The server has ended the connection without close_notify, over TLS: the client cannot know
    /// whether it has received everything.
    #[cfg(feature = "_tls")]
    Truncated,
    /// The TLS session has failed: [`TlsFailure::Alert`] with the server's alert, or another
    /// failure that the client has found itself.
    #[cfg(feature = "_tls")]
    Tls(TlsFailure),
    /// The server has ended the connection with a reset.
    Reset,
    /// Bytes that no client can understand. The bytes after them are not looked at.
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

    /// The position of the first difference between two payloads of one kind.
    pub(super) fn differs_at(&self, other: &Self) -> Option<usize> {
        let (one, other) = match (self, other) {
            (Self::Text(one), Self::Text(other)) => (one.as_bytes(), other.as_bytes()),
            (Self::Binary(one), Self::Binary(other)) => (&one[..], &other[..]),
            _ => return None,
        };
        Some(one.iter().zip(other).take_while(|(one, other)| one == other).count())
    }

    /// A close frame with a code and a reason.
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

impl From<&str> for Received {
    fn from(text: &str) -> Self {
        Self::text(text)
    }
}

impl From<String> for Received {
    fn from(text: String) -> Self {
        Self::text(text)
    }
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "Text({})", brief_text(text)),
            Self::Binary(data) => write!(f, "Binary({})", brief_bytes(data)),
            Self::Compressed { is_text, payload } => {
                write!(f, "Compressed {{ is_text: {is_text}, payload: {} }}", brief_bytes(payload))
            }
            Self::Ping(data) => write!(f, "Ping({})", brief_bytes(data)),
            Self::Pong(data) => write!(f, "Pong({})", brief_bytes(data)),
            Self::Close { code: Some(code), reason } => write!(f, "Close({code}, {reason:?})"),
            Self::Close { code: None, .. } => f.write_str("Close(no code)"),
            Self::Fin => f.write_str("Fin"),
            #[cfg(feature = "_tls")]
            Self::Truncated => f.write_str("Truncated"),
            #[cfg(feature = "_tls")]
            Self::Tls(failure) => f.debug_tuple("Tls").field(failure).finish(),
            Self::Reset => f.write_str("Reset"),
            Self::Violation(violation) => f.debug_tuple("Violation").field(violation).finish(),
        }
    }
}

/// The most characters or bytes of a payload that a failed test shows.
const SHOWN: usize = 80;

fn brief_text(text: &str) -> String {
    let begin: String = text.chars().take(SHOWN).collect();
    format!("{begin:?}{}", length_beyond(begin.len(), text.len()))
}

fn brief_bytes(data: &[u8]) -> String {
    let begin = &data[..data.len().min(SHOWN)];
    format!("b\"{}\"{}", begin.escape_ascii(), length_beyond(begin.len(), data.len()))
}

/// The length of a payload, if it is longer than the part that is shown.
fn length_beyond(shown: usize, len: usize) -> String {
    if shown < len { format!("... {len} bytes") } else { String::new() }
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
            Decoded::Close(Some(frame)) => {
                Self::Close { code: Some(frame.code), reason: frame.reason.into_owned() }
            }
        }
    }
}

/// One client.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) line: Line,
    pub(super) received: Vec<Received>,
    /// Bytes of a client that speaks no WebSocket, or not yet.
    pub(super) bytes: Vec<u8>,
    /// The number of bytes that it still reads; the maximum means all.
    pub(super) allowance: usize,
    /// The bytes that it reads in each second from its upgrade on, if it has a rate.
    rate: Option<u32>,
    /// Millionths of a byte that it may read already.
    carry: u128,
    /// The client's name in failed tests.
    pub(super) name: String,
    speaks: Speaks,
    ended: bool,
}

#[derive(Debug)]
enum Speaks {
    Bytes,
    /// It has asked for a WebSocket; the field says whether it will answer by itself.
    Http {
        answers: bool,
    },
    WebSocket(WebSocket),
}

#[derive(Debug)]
struct WebSocket {
    /// The server's answer to the upgrade request.
    answer: Answer,
    decoder: Decoder,
    rules: Rules,
    /// Whether it answers pings and close frames by itself.
    answers: bool,
    closed: bool,
    /// The server has broken the protocol.
    broken: bool,
    /// The seed of its next masking key.
    keys: u32,
}

impl Peer {
    /// Makes a client that sends and receives bytes.
    pub(super) fn new(line: Line, name: String, rate: Option<u32>) -> Self {
        Self {
            line,
            received: Vec::new(),
            bytes: Vec::new(),
            allowance: if rate.is_some() { 0 } else { usize::MAX },
            rate,
            carry: 0,
            name,
            speaks: Speaks::Bytes,
            ended: false,
        }
    }

    /// Whether it reads more as time passes.
    pub(super) fn reads_at_a_rate(&self) -> bool {
        self.rate.is_some() && self.allowance != usize::MAX && !self.ended
    }

    /// Lets time pass, so that it may read more.
    pub(super) fn wait(&mut self, time: Duration) {
        if let Some(rate) = self.rate.filter(|_| self.reads_at_a_rate()) {
            self.carry += u128::from(rate) * time.as_micros();
            self.allowance = self.allowance.saturating_add((self.carry / 1_000_000) as usize);
            self.carry %= 1_000_000;
        }
    }

    /// From now on it waits for the response to an upgrade request, and speaks WebSocket if that is
    /// a 101.
    pub(super) fn ask(&mut self, answers: bool) {
        self.speaks = Speaks::Http { answers };
        self.allowance = usize::MAX;
    }

    /// The response that it received.
    pub(super) fn answer(&self) -> Option<Answer> {
        match &self.speaks {
            Speaks::WebSocket(speaks) => Some(speaks.answer.clone()),
            _ => Answer::parse(&self.bytes),
        }
    }

    /// The bytes that a client received which speaks no protocol, if there are any.
    pub(super) fn unread(&self) -> Option<String> {
        (matches!(self.speaks, Speaks::Bytes) && !self.bytes.is_empty())
            .then(|| brief_bytes(&self.bytes))
    }

    /// Takes the bytes of the response; returns whether it is whole and a 101. The bytes behind it
    /// are put back into `bytes`.
    fn is_upgraded(&mut self, bytes: &mut Vec<u8>) -> bool {
        let Speaks::Http { answers } = self.speaks else { return false };
        self.bytes.append(bytes);
        let Some(mut answer) = Answer::parse(&self.bytes).filter(|answer| answer.status == 101)
        else {
            return false;
        };
        self.bytes.clear();
        *bytes = std::mem::take(&mut answer.body);
        if self.rate.is_some() {
            self.allowance = 0;
        }
        let rules = Rules::default().role(Role::Client).max_message(usize::MAX).compression(true);
        let decoder = Decoder::new();
        self.speaks = Speaks::WebSocket(WebSocket {
            answer,
            decoder,
            rules,
            answers,
            closed: false,
            broken: false,
            keys: 0,
        });
        true
    }

    /// Sends one frame, masked (RFC 6455 §5.3) with a key that is the same in every run. A client
    /// without a WebSocket can send one too.
    pub(super) fn send_frame(&mut self, opcode: Opcode, payload: &[u8]) {
        let mut key = [0x1F, 0x2E, 0x3D, 0x4C];
        if let Speaks::WebSocket(speaks) = &mut self.speaks {
            speaks.keys = speaks.keys.wrapping_add(0x9E37_79B9);
            key = speaks.keys.to_be_bytes();
            speaks.closed |= opcode == Opcode::Close;
        }
        let header =
            FrameHeader { mask: Some(key), ..FrameHeader::new(opcode, payload.len() as u64) };
        let mut frame = Vec::with_capacity(header.encoded_len() + payload.len());
        header.encode(&mut frame);
        frame.extend_from_slice(payload);
        apply_mask(&mut frame[header.encoded_len()..], key, 0);
        self.line.send(&frame);
    }

    pub(super) fn send_close(&mut self, close: Option<(CloseCode, &str)>) {
        let mut payload = Vec::new();
        encode_close(close, &mut payload);
        self.send_frame(Opcode::Close, &payload);
    }

    /// Reads the available bytes, as far as it wants to, and answers; returns whether more may come
    /// later.
    pub(super) fn receive(&mut self) -> bool {
        let arrived = self.line.receive(self.allowance);
        #[cfg(feature = "_tls")]
        let failure = arrived.failure;
        let Arrived { bytes, read, end, .. } = arrived;
        if self.allowance != usize::MAX {
            self.allowance -= read;
        }
        if !bytes.is_empty() {
            self.understand(bytes);
        }
        #[cfg(feature = "_tls")]
        if let Some(failure) = failure {
            self.received.push(Received::Tls(failure));
        }
        if let Some(end) = end
            && !self.ended
        {
            self.ended = true;
            self.received.push(match end {
                End::Reset => Received::Reset,
                #[cfg(feature = "_tls")]
                End::Fin if self.line.is_truncated() => Received::Truncated,
                End::Fin => Received::Fin,
            });
            self.answer_end();
        }
        !(self.line.far.is_server_gone() && (self.ended || self.line.far.is_reset()))
    }

    fn understand(&mut self, mut bytes: Vec<u8>) {
        if let Speaks::Http { .. } = self.speaks
            && !self.is_upgraded(&mut bytes)
        {
            return;
        }
        let Speaks::WebSocket(speaks) = &mut self.speaks else { return self.bytes.extend(bytes) };
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
            self.reply(first);
        }
    }

    /// Answers the server's FIN with its own.
    fn answer_end(&mut self) {
        if let Speaks::Http { answers: true } | Speaks::WebSocket(WebSocket { answers: true, .. }) =
            self.speaks
        {
            self.line.end(End::Fin);
        }
    }

    /// Answers what was received from index `first` on: pings with pongs, and a close frame with a
    /// close frame (RFC 6455 §5.5).
    fn reply(&mut self, first: usize) {
        for at in first..self.received.len() {
            match &self.received[at] {
                Received::Ping(data) => {
                    let data = data.clone();
                    self.send_frame(Opcode::Pong, &data);
                }
                Received::Close { code, .. } => {
                    let code = *code;
                    if let Speaks::WebSocket(WebSocket { closed: false, .. }) = self.speaks {
                        self.send_close(code.map(|code| (code, "")));
                    }
                }
                _ => {}
            }
        }
    }
}
